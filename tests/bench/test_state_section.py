"""The section on the state, made small."""

from p2pchain.bench.chain import state
from p2pchain.bench.lab.lab import Lab


def test_states_are_changed_proven_and_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(state, "SIZES", (50, 300))
    monkeypatch.setattr(state, "FILL", 100)
    monkeypatch.setattr(state, "UPDATES", 40)
    monkeypatch.setattr(state, "ROUNDS", 3)
    monkeypatch.setattr(state, "PROOFS", 10)
    figures = state.run_state(Lab(tmp_path, lambda line: None))
    assert len(figures) == 2 * 11
    assert all(figure.value > 0 for figure in figures)
    beside = [f.value for f in figures if f.name == "proof beside its bucket"]
    assert all(value < 1500 for value in beside)
