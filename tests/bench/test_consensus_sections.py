"""Sections about consensus, made small; and how they read a trace."""

import pytest

from p2pchain.bench.chain import catch_up as catchup
from p2pchain.bench.chain import finality, silence, views, voters
from p2pchain.bench.chain.finality import STAGES, split_views
from p2pchain.bench.chain.silence import find_turns
from p2pchain.bench.chain.voter import Note
from p2pchain.bench.lab.lab import Lab


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path, lambda line: None)


def read(figures):
    return {figure.name: figure for figure in figures}


def test_a_seat_votes_and_leads(tmp_path) -> None:
    results = views.measure_views(tmp_path, count=4, views=9)
    assert len(results) == 8
    assert {each.is_leader for each in results} == {True, False}
    for each in results:
        assert each.costs.total_s > each.costs.block_s > 0
        assert each.costs.final_s > 0
        assert 300 < each.log_bytes < 1500
        assert 1 <= len(each.costs.turns) <= 4


def test_views_have_figures_for_every_size(lab, monkeypatch) -> None:
    monkeypatch.setattr(views, "SIZES", {4: 9, 7: 20})
    figures = views.run_views(lab)
    assert len(figures) == 8
    assert all(figure.value > 0 for figure in figures)


def test_a_fresh_node_takes_the_chain_across_epochs(lab, monkeypatch) -> None:
    monkeypatch.setattr(catchup, "EMPTY_BLOCKS", 70)
    monkeypatch.setattr(catchup, "FULL_BLOCKS", 2)
    monkeypatch.setattr(catchup, "SENDERS", 3)
    monkeypatch.setattr(catchup, "PER_SENDER", 2)
    figures = catchup.run_catch_up(lab)
    assert len(figures) == 4
    assert all(figure.value > 0 for figure in figures)


def test_four_voters_make_transfers_final(lab, monkeypatch) -> None:
    monkeypatch.setattr(finality, "TRANSFERS", 2)
    monkeypatch.setattr(voters, "WARM_HEIGHT", 1)
    figures = read(finality.run_protocol(lab))
    assert figures["submission to finality"].value > 0
    for stage in STAGES:
        assert figures[f"  {stage.name}"].value >= 0


def test_the_next_leader_is_silenced_again_and_again(lab, monkeypatch) -> None:
    monkeypatch.setattr(voters, "WARM_HEIGHT", 1)
    monkeypatch.setattr(silence, "TURNS", 2)
    monkeypatch.setattr(silence, "SILENT_S", 0.0)
    monkeypatch.setattr(silence, "VIRTUAL_MS", 5000)
    figures = read(silence.run_silent_leader(lab))
    waited = figures["block to block, a silent leader's turn is waited out"]
    assert waited.value > 2.5


def test_virtual_time_shows_the_protocol_alone(monkeypatch) -> None:
    monkeypatch.setattr(silence, "VIRTUAL_MS", 120_000)
    plain, waited, skipped = silence.measure_virtually()
    assert min(map(len, (plain, waited, skipped))) >= 10
    assert plain == pytest.approx([1.0] * len(plain), abs=0.001)
    # The timer runs from the certificate, one trip before the block is final; then
    # come the votes to leave, the next proposal, and two rounds of votes.
    cost = 2.5 + 3 * silence.LINK_MS / 1000
    assert waited == pytest.approx([cost] * len(waited), abs=0.001)
    assert skipped == pytest.approx([1.0] * len(skipped), abs=0.001)


# Reading a trace


def build_view(view: int, start: float) -> list[list[Note]]:
    """Return the notes of four nodes about a view that node 0 leads."""

    def note(what: str, begin: float, end: float | None = None) -> Note:
        end = begin if end is None else end
        return Note(what, 0, view, view, start + begin, start + end)

    nodes = []
    for node in range(4):
        late = 0.001 * node
        own = [
            note("saved", 0.07 + late, 0.08 + late),
            note("sent finalize", 0.09 + late),
            note("finalized", 0.10 + late, 0.11 + late),
        ]
        if node == 0:
            own += [note("built", 0.0, 0.01), note("sent propose", 0.02)]
        else:
            own += [
                note("heard propose", 0.03 + late),
                note("judged", 0.04 + late, 0.05 + late),
                note("sent notarize", 0.06 + late),
            ]
        nodes.append(own)
    return nodes


def test_stages_end_with_a_quorum_and_add_up() -> None:
    views = split_views(build_view(7, 100.0))
    ((height, start, steps),) = views.values()
    assert (height, start) == (7, 100.0)
    assert sum(steps) == pytest.approx(0.112)  # the third of four is final
    named = dict(zip([stage.name for stage in STAGES], steps, strict=True))
    assert named["build"] == pytest.approx(0.01)
    assert named["proposal spreads"] == pytest.approx(0.012)  # the second of three
    assert named["log before Notarize"] == pytest.approx(0.010)
    assert named["make it final"] == pytest.approx(0.01)


def test_a_view_that_is_not_complete_is_left_out() -> None:
    nodes = build_view(7, 100.0)
    without_quorum = [nodes[0], nodes[1], [], []]
    assert split_views(without_quorum) == {}
    without_leader = [[], *nodes[1:]]
    assert split_views(without_leader) == {}


def test_turns_are_told_apart_by_when_they_were_given_up() -> None:
    def final(view: int, at: float, epoch: int = 0) -> Note:
        return Note("finalized", epoch, view, view, at - 0.01, at)

    def nullify(view: int, at: float) -> Note:
        return Note("sent nullify", 0, view, 0, at, at)

    notes = [
        final(1, 1.0),
        final(2, 2.0),
        nullify(3, 4.5),
        final(4, 5.0),
        nullify(5, 5.1),
        final(6, 6.1),
        nullify(7, 8.6),
        nullify(8, 12.0),
        final(9, 13.0),
        final(1, 14.5, epoch=1),
    ]
    plain, waited, skipped = find_turns(notes)
    assert plain == [pytest.approx(1.0)]
    assert waited == [pytest.approx(3.0)]
    assert skipped == [pytest.approx(1.1)]
