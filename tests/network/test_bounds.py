"""The small parts with a bound each: caches, budgets, scores, addresses, memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.addresses import AddressBook
from network.admission import FAILURES, Admission, is_loopback
from network.budget import TokenBucket, TopicBudget
from network.endpoint import Endpoint
from network.errors import InvalidEndpoint
from network.faults import Fault
from network.inbox import FairInbox, Incoming
from network.params import NetworkParams
from network.reservations import Reservation, ReservationPool
from network.scores import BAN_S, MAX_PEERS, ScoreBook
from network.seen import SeenCache
from network.topics import TOPICS, Priority, Topic, TopicParams
from primitives.errors import DecodeError

ALICE, BOB = b"a" * 32, b"b" * 32
times = st.floats(0, 10_000, allow_nan=False)

# Endpoints

keys = st.binary(min_size=32, max_size=32)
hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9](\.[a-z]{2,5}){0,3}", fullmatch=True),
)


@given(keys, hosts, st.integers(1, 65535))
def test_endpoints_round_trip(peer_id: bytes, host: str, port: int) -> None:
    endpoint = Endpoint(peer_id, host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(st.text(max_size=150) | st.from_regex(r"p2p://[0-9a-f]{64}@.{1,30}:[0-9]{1,6}"))
def test_what_parses_has_one_spelling(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except InvalidEndpoint:
        return
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "rest",
    [
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:080",
        "127.0.0.1:+80",
        "127.0.0.256:80",
        "127.1:80",
        "::1:80",
        "[::0001]:80",
        "[127.0.0.1]:80",
        "[::1:80",
        "Host:80",
        "-host:80",
        "host-:80",
        "ho st:80",
        "host..name:80",
        "ho@st:80",
        "host/path:80",
        ":80",
        "x" * 254 + ":80",
        "h" * 400 + ":80",
        "127.0.0.1:80\n",
        "127.0.0.1:８０",
    ],
)
def test_bad_endpoints(rest: str) -> None:
    with pytest.raises(InvalidEndpoint):
        Endpoint.parse(f"p2p://{'ab' * 32}@{rest}")
    assert issubclass(InvalidEndpoint, DecodeError)


@pytest.mark.parametrize("key", ["ab" * 31, "AB" * 32, "gg" * 32, "", "ab" * 33])
def test_bad_keys_in_endpoints(key: str) -> None:
    with pytest.raises(InvalidEndpoint):
        Endpoint.parse(f"p2p://{key}@host:80")


def test_the_address_book_keeps_a_few_and_the_newest_first() -> None:
    book = AddressBook(NetworkParams(max_known_peers=2, max_endpoints_per_peer=2))
    ends = [Endpoint(ALICE, "10.0.0.1", port) for port in (1, 2, 3)]
    for endpoint in ends:
        book.add(endpoint)
    book.add(ends[1])
    book.learn(Endpoint(ALICE, "10.0.0.9", 9))
    assert [endpoint.port for endpoint in book.get(ALICE)] == [2, 3, 9]
    for name in b"xyz":
        book.add(Endpoint(bytes([name]) * 32, "10.0.0.1", 1))
        book.learn(Endpoint(bytes([name]) * 32, "10.0.0.1", 1))
    assert book.get(ALICE) == []
    assert len(book.get(b"z" * 32)) == 1


# Budgets


@given(st.lists(st.tuples(times, st.floats(0, 20))))
def test_a_bucket_never_gives_more_than_rate_and_capacity(
    takes: list[tuple[float, float]],
) -> None:
    bucket = TokenBucket(2.0, 10.0)
    takes.sort()
    given_out = sum(amount for now, amount in takes if bucket.take(amount, now))
    elapsed_s = takes[-1][0] - takes[0][0] if takes else 0.0
    assert given_out <= 10.0 + 2.0 * elapsed_s + 1e-6


def test_a_bucket_ignores_time_that_runs_backwards() -> None:
    bucket = TokenBucket(1.0, 5.0)
    assert bucket.take(5, 100.0)
    assert not bucket.take(1, 0.0)
    assert not bucket.take(1, 100.5)
    assert bucket.take(1, 101.0)


def test_a_topic_budget_counts_messages_and_bytes() -> None:
    params = TopicParams(Priority.BLOCKS, 1000, count_per_s=2, bytes_per_s=100)
    assert sum(TopicBudget(params).take(1, 0.0) for _ in range(1)) == 1
    budget = TopicBudget(params)
    assert sum(budget.take(1, 0.0) for _ in range(20)) == 8
    budget = TopicBudget(params)
    assert sum(budget.take(100, 0.0) for _ in range(20)) == 4
    assert not budget.take(401, 1000.0)


def test_the_topics_make_sense() -> None:
    assert set(TOPICS) == set(Topic)
    for params in TOPICS.values():
        assert params.max_bytes <= params.bytes_per_s
        assert params.max_bytes <= params.queue_bytes


# Seen


def test_the_cache_forgets_by_age_and_by_count() -> None:
    cache = SeenCache(max_count=3, max_age_s=10)
    for number in range(3):
        cache.add(b"%d" % number, float(number))
    assert cache.has(b"0", 10.0)
    assert not cache.has(b"0", 10.5)
    cache.add(b"3", 10.5)
    cache.add(b"4", 10.5)
    assert not cache.has(b"1", 10.5)
    assert cache.has(b"2", 10.5)
    cache.discard(b"2")
    assert not cache.has(b"2", 10.5)
    assert len(cache) == 2


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 3)), max_size=60))
def test_the_cache_never_exceeds_its_count(adds: list[tuple[int, float]]) -> None:
    cache, now = SeenCache(5, 10.0), 0.0
    for number, wait_s in adds:
        now += wait_s
        cache.add(bytes([number]), now)
        assert len(cache) <= 5
        assert cache.has(bytes([number]), now)


# Inbox


def test_one_peer_cannot_crowd_out_another() -> None:
    params = TopicParams(
        Priority.CONSENSUS, 100, 1, 1, queue_count=10, queue_bytes=1000
    )
    inbox = FairInbox(params)
    put = [inbox.put(Incoming(ALICE, b"%d" % n, None)) for n in range(20)]
    assert put == [True] * 10 + [False] * 10
    assert inbox.put(Incoming(BOB, b"bob", None))
    assert inbox.take().payload == b"0"
    assert inbox.take().payload == b"bob"
    rest = [inbox.take().payload for _ in range(9)]
    assert rest == [b"%d" % n for n in range(1, 10)]
    assert inbox.take() is None


def test_the_inbox_counts_bytes_and_always_takes_one() -> None:
    params = TopicParams(Priority.CONSENSUS, 100, 1, 1, queue_count=10, queue_bytes=10)
    inbox = FairInbox(params)
    assert inbox.put(Incoming(ALICE, bytes(50), None))
    assert not inbox.put(Incoming(ALICE, b"", None))
    assert inbox.take() is not None
    assert inbox.put(Incoming(ALICE, bytes(6), None))
    assert inbox.put(Incoming(ALICE, bytes(4), None))
    assert not inbox.put(Incoming(ALICE, b"x", None))


# Scores


def test_points_fade_and_a_ban_expires_and_doubles() -> None:
    book = ScoreBook()
    assert not book.charge(ALICE, Fault.PROTOCOL, 0.0)
    assert book.get_points(ALICE, 0.0) == 50
    assert book.get_points(ALICE, 100.0) == 30
    assert not book.charge(ALICE, Fault.PROTOCOL, 100.0)
    assert book.charge(ALICE, Fault.PROTOCOL, 100.0)
    assert book.is_banned(ALICE, 100.0)
    assert not book.charge(ALICE, Fault.FORGERY, 101.0)  # banned already
    assert book.is_banned(ALICE, 100.0 + BAN_S - 1)
    assert not book.is_banned(ALICE, 100.0 + BAN_S)
    assert not book.is_banned(BOB, 100.0)
    assert book.charge(ALICE, Fault.FORGERY, 5000.0)
    assert book.is_banned(ALICE, 5000.0 + 2 * BAN_S - 1)
    assert not book.is_banned(ALICE, 5000.0 + 2 * BAN_S)


def test_a_flood_counts_once_a_second() -> None:
    book = ScoreBook()
    for _ in range(1000):
        book.charge(ALICE, Fault.FLOOD, 5.0)
    assert book.get_points(ALICE, 5.0) == Fault.FLOOD
    assert not book.is_banned(ALICE, 5.0)


def test_rare_accidents_never_ban() -> None:
    book = ScoreBook()
    for hour in range(1000):
        assert not book.charge(ALICE, Fault.BAD_MESSAGE, hour * 3600.0)


def test_the_book_is_bounded_and_keeps_bans_longest() -> None:
    book = ScoreBook()
    book.charge(ALICE, Fault.FORGERY, 0.0)
    for number in range(MAX_PEERS + 10):
        book.charge(number.to_bytes(32, "big"), Fault.TIMEOUT, 1.0)
    assert len(book._records) == MAX_PEERS
    assert book.is_banned(ALICE, 1.0)


# Admission


def test_handshakes_are_limited_in_all_and_per_address() -> None:
    params = NetworkParams(max_handshakes=5, max_handshakes_per_ip=2)
    admission = Admission(params)
    entered = [admission.enter("10.0.0.1", 0.0) for _ in range(3)]
    assert entered == [True, True, False]
    assert all(admission.enter("127.0.0.1", 0.0) for _ in range(3))
    assert not admission.enter("10.0.0.2", 0.0)
    admission.leave("10.0.0.1", 0.0, failed=False)
    assert admission.enter("10.0.0.2", 0.0)


def test_failures_slow_an_address_down_but_never_for_good() -> None:
    admission = Admission(NetworkParams())
    for _ in range(FAILURES):
        assert admission.enter("10.0.0.1", 0.0)
        admission.leave("10.0.0.1", 0.0, failed=True)
    assert not admission.enter("10.0.0.1", 0.0)
    assert admission.enter("10.0.0.2", 0.0)
    assert admission.enter("10.0.0.1", 6.0)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


# Reserved memory


def test_claims_are_granted_in_turn_within_both_bounds() -> None:
    pool = ReservationPool(max_bytes=100, max_bytes_per_owner=60)
    granted: list[str] = []

    def claim(name: str, owner: bytes, size: int) -> Reservation:
        reservation = Reservation(owner, size, lambda: granted.append(name))
        pool.reserve(reservation)
        return reservation

    first = claim("a1", ALICE, 50)
    claim("a2", ALICE, 20)  # above Alice's own bound
    bob = claim("b1", BOB, 50)
    assert granted == ["a1", "b1"]
    waiting = claim("b2", BOB, 10)
    claim("c1", b"c" * 32, 5)
    assert granted == ["a1", "b1"]
    pool.release(waiting)
    assert granted == ["a1", "b1"]
    pool.release(bob)
    assert granted == ["a1", "b1", "c1"]
    pool.release(first)
    assert granted == ["a1", "b1", "c1", "a2"]
    assert pool.held_bytes == 25


def test_a_withdrawn_claim_lets_the_next_one_in() -> None:
    pool = ReservationPool(max_bytes=100, max_bytes_per_owner=100)
    granted: list[int] = []
    claims = [
        Reservation(bytes([n]), size, lambda n=n: granted.append(n))
        for n, size in enumerate([50, 80, 30])
    ]
    for claim in claims:
        pool.reserve(claim)
    assert granted == [0]  # the big one in the middle goes before the small one
    pool.release(claims[1])
    assert granted == [0, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100), st.booleans())))
def test_the_pool_never_exceeds_its_bounds_and_serves_everybody(
    steps: list[tuple[int, int, bool]],
) -> None:
    pool = ReservationPool(max_bytes=150, max_bytes_per_owner=100)
    live: list[Reservation] = []
    for owner, size, does_release in steps:
        claim = Reservation(bytes([owner]), size, lambda: None)
        pool.reserve(claim)
        live.append(claim)
        if does_release:
            pool.release(live.pop(0))
        held = [claim for claim in live if claim.is_held]
        assert pool.held_bytes == sum(claim.size for claim in held) <= 150
        for name in range(4):
            owned = [claim.size for claim in held if claim.owner == bytes([name])]
            assert sum(owned) <= 100
        assert held or not live
    while live:
        assert any(claim.is_held for claim in live)
        claim = next(claim for claim in live if claim.is_held)
        live.remove(claim)
        pool.release(claim)
    assert pool.held_bytes == 0
