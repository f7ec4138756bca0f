"""The lead of chunks follows what certifying takes."""

from p2pchain.node.chunks.lead import (
    FIRST_LEAD_S,
    LEAST_LEAD_S,
    MARGIN,
    MARGIN_S,
    MOST_LEAD_S,
    ChunkLead,
)


def certify(lead: ChunkLead, samples: list[float], first_view: int = 1) -> float:
    for view, sample_s in enumerate(samples, first_view):
        lead.begin(view, 10.0 * view)
        lead.on_certified(view, 10.0 * view + sample_s)
    return lead.lead_s


def test_it_begins_with_a_guess() -> None:
    assert abs(ChunkLead().lead_s - FIRST_LEAD_S) < 1e-9


def test_it_comes_near_to_what_is_measured_and_stays_within_bounds() -> None:
    assert abs(certify(ChunkLead(), [0.1] * 80) - MARGIN * 0.1 - MARGIN_S) < 0.01
    assert certify(ChunkLead(), [0.001] * 80) == LEAST_LEAD_S
    assert certify(ChunkLead(), [30.0] * 80) == MOST_LEAD_S


def test_being_late_counts_more_than_being_early() -> None:
    lead = ChunkLead()
    certify(lead, [0.1] * 80)
    before = lead.lead_s
    after_one = certify(lead, [0.35], 100)
    assert after_one > before + 0.1
    assert certify(lead, [0.1], 200) > before + 0.1
    # Whatever happened, it is forgotten.
    assert abs(certify(lead, [0.1] * 80, 300) - before) < 0.01


def test_only_the_present_view_is_measured_and_from_its_first_beginning() -> None:
    lead = ChunkLead()
    lead.begin(7, 100.0)
    lead.begin(7, 100.5)
    lead.on_certified(6, 101.0)
    assert abs(lead.lead_s - FIRST_LEAD_S) < 1e-9
    lead.on_certified(7, 100.6)
    assert lead.lead_s > FIRST_LEAD_S + 0.1
