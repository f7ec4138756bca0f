"""How a weakened rule is found: by a scenario, a few seeds and one invariant."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.scenarios.scenarios import get_scenario


@dataclass(frozen=True)
class Kill:
    """Who dies where, and of what."""

    mutate: Callable[[pytest.MonkeyPatch], None]
    scenario: str
    seeds: range
    invariant: str

    def check(self, monkeypatch: pytest.MonkeyPatch, chain: str) -> None:
        """Weaken the rule and let the invariant that it is there for find it."""
        self.mutate(monkeypatch)
        broken = self._find_killer(chain)
        assert broken is not None, f"it survives {self.scenario} {self.seeds}"
        assert broken.invariant == self.invariant

    def _find_killer(self, chain: str) -> InvariantBroken | None:
        """Return what the first seed that notices anything says."""
        for seed in self.seeds:
            try:
                get_scenario(self.scenario)(seed, chain, None)
            except InvariantBroken as broken:
                return broken
        return None
