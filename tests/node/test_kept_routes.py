"""What a gateway remembers of who has kept which beginnings."""

from dataclasses import replace

from inference.protocol.prefix_keys import name_beginnings
from inference.session.plan import HopPlan
from p2pchain.node.gateway import kept_routes
from p2pchain.node.gateway.kept_routes import KeptRoutes

NAMES = name_beginnings(b"secret", range(100))


def plan(index: int, peer: str = "") -> HopPlan:
    return HopPlan(
        peer_id=f"peer{index}{peer}".encode(),
        node_name="",
        account=b"",
        profile=b"profile",
        start=4 * index,
        end=4 * index + 4,
        input_price=1,
        output_price=1,
        channel_id=b"",
        unit_price=1,
    )


ROUTE = (plan(0), plan(1), plan(2))


def test_the_longest_known_beginning_counts() -> None:
    kept = KeptRoutes()
    assert kept.find(NAMES) == ()
    kept.note(NAMES[:4], ROUTE)
    other = (plan(0, "b"), plan(1), plan(2))
    kept.note(NAMES[:2], other)
    assert kept.find(NAMES) == ROUTE
    assert kept.find(NAMES[:3]) == ROUTE
    assert kept.find(NAMES[:2]) == other
    assert kept.find(name_beginnings(b"another", range(100))) == ()


def test_memory_is_bounded_and_short_beginnings_stay(monkeypatch) -> None:
    monkeypatch.setattr(kept_routes, "MAX_NAMES", 4)
    kept = KeptRoutes()
    kept.note(NAMES[:6], ROUTE)
    assert len(kept) == 4
    assert kept.find(NAMES[:4]) == ROUTE
    assert kept.find(NAMES[4:]) == ()


def test_the_last_hop_hears_who_has_what_it_lacks() -> None:
    kept = KeptRoutes()
    kept.note(NAMES, ROUTE)
    assert kept.add_sources(NAMES, ROUTE) == ROUTE
    new = (*ROUTE[:2], plan(2, "b"))
    expected = (*ROUTE[:2], replace(new[2], source=ROUTE[2].peer_id))
    assert kept.add_sources(NAMES, new) == expected
    assert kept.add_sources((), new) == new
    # Behind another hop, or with other layers, nothing of it can be used.
    for unfit in (
        (plan(0, "b"), *ROUTE[1:]),
        (ROUTE[0], plan(1, "b"), ROUTE[2]),
        (plan(0, "b"), ROUTE[1], plan(2, "b")),
        (*ROUTE[:2], replace(new[2], end=13)),
        (*ROUTE[:2], replace(new[2], profile=b"int8")),
    ):
        assert kept.add_sources(NAMES, unfit) == unfit


def test_a_replacement_hears_who_had_a_turn_before() -> None:
    kept = KeptRoutes()
    third = (plan(0), plan(1, "c"), plan(2))
    kept.note(NAMES[:5], third)
    kept.note(NAMES, ROUTE)
    kept.note(NAMES, ROUTE)
    lost, new = ROUTE[1].peer_id, plan(1, "new")
    assert kept.find_source(NAMES, ROUTE[:1], new, {lost}) == third[1].peer_id
    # Most of it is where the last turn was.
    assert kept.find_source(NAMES, ROUTE[:1], new, ()) == lost
    assert kept.find_source(NAMES, ROUTE[:1], third[1], {lost}) is None
    assert kept.find_source((), ROUTE[:1], new, {lost}) is None
    # Behind another hop, or of other layers, nothing of it can be used.
    assert kept.find_source(NAMES, (plan(0, "x"),), new, {lost}) is None
    wide = replace(new, end=new.end + 4)
    assert kept.find_source(NAMES, ROUTE[:1], wide, {lost}) is None
    gone = {lost, third[1].peer_id}
    assert kept.find_source(NAMES, ROUTE[:1], new, gone) is None
