"""Bringing validators back after downtime, on a chain that is a few numbers."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pchain.testnet import stakes
from p2pchain.testnet.errors import StepFailed
from primitives.bls import BlsSecretKey
from primitives.keys import SecretKey

EPOCH_BLOCKS = 10
KEYS = SimpleNamespace(
    account=SecretKey(bytes([1]) * 32), validator=BlsSecretKey(bytes(31) + b"\1")
)


class Downtime:
    """One validator under the rules for downtime; each question takes a block.

    Args:
        silent_until: First epoch in which it may sign.
        is_mute_for_good: Whether it never does.
    """

    def __init__(self, silent_until: int, *, is_mute_for_good: bool = False) -> None:
        self.height = 50
        self.silent_until = silent_until
        self.is_mute_for_good = is_mute_for_good
        self.status = "ACTIVE"
        self.is_member = {5: True, 6: True}
        self.seen = 0
        self.bonded_at: list[int] = []
        self.notes: list[str] = []
        self.timeline = SimpleNamespace(note=lambda name, text: self.notes.append(text))
        self.nodes = {"node": SimpleNamespace(rpc=self)}
        chain = SimpleNamespace(epoch_blocks=EPOCH_BLOCKS)
        self.homes = SimpleNamespace(
            keys={"node": KEYS},
            genesis=SimpleNamespace(params=SimpleNamespace(chain=chain)),
        )

    @property
    def epoch(self) -> int:
        return self.height // EPOCH_BLOCKS

    @property
    def is_mute(self) -> bool:
        return self.is_mute_for_good or self.epoch < self.silent_until

    async def ask(self, method: str, **_: Any) -> Any:
        return await self.call(method)

    async def call(self, method: str) -> Any:
        if method == "consensus_state":
            return {"mute_reason": "its log is missing" if self.is_mute else ""}
        if method == "stake":
            return {"status": self.status, "bonded": "100"}
        assert method == "validators"
        self._grow()
        key = "0x" + KEYS.validator.public_key.hex()
        member = {"public_key": key, "seen": self.seen}
        is_member = self.is_member[self.epoch]
        return {"epoch": self.epoch, "validators": [member] if is_member else []}

    async def bond(self, _: object, __: object, bond: Any) -> None:
        assert bond.amount == 0
        assert self.status == "DOWN"
        self.status = "ACTIVE"
        self.bonded_at.append(self.height)

    def _grow(self) -> None:
        epoch = self.epoch
        self.height += 1
        self.seen += self.is_member[epoch] and not self.is_mute
        if self.epoch > epoch:
            if self.is_member[epoch] and 2 * self.seen < EPOCH_BLOCKS:
                self.status = "DOWN"
            self.is_member[epoch + 2] = self.status == "ACTIVE"
            self.seen = 0


def bring_back(chain: Downtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stakes, "commit", chain.bond)
    monkeypatch.setattr(stakes, "POLL_S", 0)
    trio.run(stakes.bring_back, chain, "node")


def test_who_votes_needs_nothing(monkeypatch) -> None:
    chain = Downtime(silent_until=0)
    bring_back(chain, monkeypatch)
    assert chain.notes == []


@pytest.mark.parametrize("silent_until", [6, 7, 8])
def test_a_bond_waits_until_the_node_may_sign(silent_until, monkeypatch) -> None:
    """Silent in epochs 5 and 6, it would be put down once more at the end of 6."""
    chain = Downtime(silent_until)
    bring_back(chain, monkeypatch)
    assert chain.status == "ACTIVE"
    assert all(height // EPOCH_BLOCKS >= silent_until for height in chain.bonded_at)


def test_who_never_signs_is_named(monkeypatch) -> None:
    chain = Downtime(silent_until=0, is_mute_for_good=True)
    with pytest.raises(StepFailed, match=r"stake is DOWN.*its log is missing"):
        bring_back(chain, monkeypatch)
    assert chain.bonded_at == []


def test_who_is_put_down_again_bonds_again(monkeypatch) -> None:
    """A bond in epoch 6 is undone at its end where most of 6 was missed already."""
    chain = Downtime(silent_until=6)
    chain.height, chain.status = 68, "DOWN"
    chain.is_member |= {7: False}
    bring_back(chain, monkeypatch)
    assert len(chain.bonded_at) == 2
