"""The board of parts: nobody is asked too much, nothing is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from chain.snapshots.snapshot import PartPlace
from p2pchain.node.state_sync.board import PartBoard
from p2pchain.node.state_sync.work_board import PER_PEER, SLOW_S

PEERS = [b"a", b"b", b"c"]


def make_places(count):
    return [PartPlace(1, 5, 5, n, bytes([n]) * 32, 100) for n in range(count)]


def make_board(count, held=()):
    places = make_places(count)
    return PartBoard(9, places, [places[n] for n in held]), places


def test_a_peer_gets_two_at_a_time():
    board, places = make_board(5)
    assert [board.take(b"a", 0.0) for _ in range(3)] == [places[0], places[1], None]
    assert board.take(b"b", 0.0) == places[2]
    assert board.on_part(b"a", places[0], 100, 1.0)
    assert board.take(b"a", 1.0) == places[3]


def test_what_is_held_is_not_asked_for():
    board, places = make_board(3, held=(0, 2))
    assert board.take(b"a", 0.0) == places[1]
    assert board.take(b"b", 0.0) is None
    assert not board.is_complete
    board.on_part(b"a", places[1], 100, 1.0)
    assert board.is_complete
    assert make_board(2, held=(0, 1))[0].is_complete


def test_who_is_slow_is_asked_beside_another_one_once():
    board, places = make_board(1)
    assert board.take(b"a", 0.0) == places[0]
    assert board.take(b"b", SLOW_S - 0.1) is None
    assert board.take(b"b", SLOW_S) == places[0]
    assert board.take(b"c", 2 * SLOW_S) is None
    assert board.on_part(b"b", places[0], 100, 2 * SLOW_S)
    assert board.is_complete
    # The slow one comes in the end, and is no news.
    assert not board.on_part(b"a", places[0], 100, 3 * SLOW_S)


def test_who_fails_rests_and_what_it_had_goes_to_others():
    board, places = make_board(1)
    board.take(b"a", 0.0)
    board.on_failure(b"a", places[0], 1.0)
    assert board.take(b"a", 1.5) is None
    assert board.take(b"b", 1.5) == places[0]
    board.on_failure(b"b", places[0], 2.0)
    assert board.take(b"a", 2.0) == places[0]
    board.on_failure(b"a", places[0], 3.0)
    assert board.take(b"a", 4.5) is None  # twice as long


def test_who_lies_is_never_asked_again():
    board, places = make_board(2)
    board.take(b"a", 0.0)
    board.on_lie(b"a", places[0])
    assert board.take(b"a", 1000.0) is None
    assert {board.take(b"b", 1.0), board.take(b"b", 1.0)} == set(places)


def test_progress():
    board, places = make_board(4, held=(0,))
    assert board.get_progress(0.0).eta_s is None
    for now, place in enumerate(places[1:3]):
        assert board.take(b"a", float(now)) == place
        board.on_part(b"a", place, 100, now + 1.0)
    progress = board.get_progress(2.0)
    assert (progress.parts, progress.parts_done) == (4, 3)
    assert (progress.bytes, progress.bytes_done) == (400, 300)
    assert progress.bytes_per_s == 100
    assert progress.eta_s == 1.0
    assert board.get_progress(100.0).eta_s is None


actions = st.lists(
    st.tuples(
        st.sampled_from(["take", "part", "failure", "lie", "wait"]),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    max_size=120,
)


@given(st.integers(0, 8), actions)
def test_whatever_peers_do_an_honest_one_ends_it(count, script):
    board, places = make_board(count)
    asked = {peer: [] for peer in PEERS}
    liars: set[bytes] = set()
    now = 0.0

    def take(peer):
        place = board.take(peer, now)
        if place is not None:
            assert peer not in liars
            asked[peer].append(place)
            assert len(asked[peer]) <= PER_PEER
            assert len(set(asked[peer])) == len(asked[peer])

    for action, who, which in script:
        peer = PEERS[who]
        if action == "take":
            take(peer)
        elif action == "wait":
            now += 2.0
        elif len(asked[peer]) > which:
            place = asked[peer].pop(which)
            if action == "part":
                board.on_part(peer, place, 100, now)
            elif action == "failure":
                board.on_failure(peer, place, now)
            else:
                liars.add(peer)
                board.on_lie(peer, place)
    # Those who are left never answer; a newcomer does it alone.
    asked[b"n"] = []
    for _ in range(4 * count + 4):
        now += SLOW_S
        place = board.take(b"n", now)
        if place is not None:
            board.on_part(b"n", place, 100, now)
    done = {peer: list(places) for peer, places in asked.items() if places}
    stuck = [p for p in places if sum(p in mine for mine in done.values()) >= 2]
    assert board.is_complete or stuck
