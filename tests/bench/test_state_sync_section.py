"""The section on state sync, made small."""

from p2pchain.bench.chain import state_sync
from p2pchain.bench.lab.lab import Lab


def test_a_small_state_is_taken_from_another_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(state_sync, "KEYS", 500)
    monkeypatch.setattr(state_sync, "SERVERS", (1,))
    monkeypatch.setattr(state_sync, "ROUNDS", 1)
    lab = Lab(tmp_path, lambda line: None)
    figures = {f.name: f.value for f in state_sync.run_state_sync(lab)}
    assert len(figures) == 7
    assert figures["a state from 1, in all"] > 0
    assert figures["  rate from 1"] > 0
