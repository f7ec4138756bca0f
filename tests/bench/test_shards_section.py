"""The section on shards, made small, with real workers."""

from p2pchain.bench.chain import shards
from p2pchain.bench.lab.lab import Lab


def test_chunks_are_executed_in_every_way(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "TRANSFERS", 160)
    monkeypatch.setattr(shards, "SENDERS", 16)
    monkeypatch.setattr(shards, "BLOCKS", 2)
    monkeypatch.setattr(shards, "VALIDATORS", (4, 400))
    monkeypatch.setattr(shards, "compute_default_workers", lambda: 1)
    figures = shards.run_shards(Lab(tmp_path, lambda line: None))
    names = [figure.name for figure in figures]
    assert len(names) == len(set(names)) == 3 * 4 + 2 + 2
    assert "4 shards, 1 worker beside the node" in names
    assert all(figure.value > 0 for figure in figures)
    law = {figure.name: figure.note for figure in figures if "law" in figure.name}
    assert "c 3" in law["law T = r n / c, 4 validators"]
