"""What a node believes of others' speed when it looks whether to move."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.records.registration import RegistrationStatus
from p2pchain.node.hosting.placement_watch import (
    MAX_BYTES_PER_S,
    MAX_TIMES_USUAL,
    Place,
    list_hosts,
)

SIZES = (10**9,) * 8
MODEL, PROFILE = bytes([1]) * 32, bytes([2]) * 32
PLACE = Place(SimpleNamespace(model_id=MODEL), PROFILE, (0, 4), SIZES, 4 * 10**9)


def register(start, end, measured_us, account=b"other", **changes):
    fields = {
        "model_id": MODEL,
        "profile": PROFILE,
        "start": start,
        "end": end,
        "measured_us": measured_us,
        "account": account,
        "status": RegistrationStatus.ACTIVE,
    }
    return SimpleNamespace(**fields | changes)


def test_what_is_usual_counts_as_it_was_said():
    own, others = list_hosts(
        PLACE,
        [register(0, 4, 50_000, b"we"), register(4, 8, 40_000), register(4, 8, 80_000)],
        b"we",
    )
    assert own.capacity == pytest.approx(20)
    assert [host.capacity for host in others] == pytest.approx([25, 12.5])
    assert [host.layers for host in others] == [range(4, 8)] * 2


def test_a_node_that_says_that_it_takes_no_time():
    honest = [register(0, 4, 50_000, b"we"), register(4, 8, 50_000)]
    _, others = list_hosts(PLACE, [*honest, register(4, 8, 0)], b"we")
    assert others[1].capacity == pytest.approx(20 * MAX_TIMES_USUAL)
    # Where all say so, it is no more than memory can bring.
    _, (other,) = list_hosts(PLACE, [register(4, 8, 1)], b"we")
    assert other.capacity == pytest.approx(MAX_BYTES_PER_S / (4 * 10**9))


def test_other_models_profiles_and_refused_ones_do_not_count():
    wrong = [
        register(0, 4, 1, model_id=bytes(32)),
        register(0, 4, 1, profile=bytes(32)),
        register(0, 4, 1, status=RegistrationStatus.REFUSED),
    ]
    assert list_hosts(PLACE, wrong, b"we") == (None, [])


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=9), st.integers(0, 3))
def test_liars_are_a_minority(times, liars):
    honest = [register(0, 4, max(1, time)) for time in times]
    liars = min(liars, (len(honest) - 1) // 2)
    _, hosts = list_hosts(PLACE, [*honest, *[register(4, 8, 0)] * liars], b"we")
    fastest = max(host.capacity for host in hosts[: len(honest)])
    for host in hosts[len(honest) :]:
        assert host.capacity <= MAX_TIMES_USUAL * max(fastest, 1e-9) * 1.0001
