"""
What a light client trusts, and how old that is.

Theory of operation
-------------------
Trust begins with a genesis, or with an epoch and the root of its validator set that
somebody told us who can be believed.  From then on it moves forward by proofs alone.

It also ages.  Signatures of an epoch are worth something because their makers lose
their stake when they sign twice; that ends with the evidence window, and when the
unbonding period is over they may not even have a stake.  Whoever buys their keys then
can show a chain of his own to somebody who comes back after so long.  Nothing inside of
the chain can tell the two apart, so a client that was away for longer should compare a
newer EPOCH:ROOT with somebody it knows.  `age` and `bridged_ms` say whether it was.
"""

from enum import StrEnum
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from chain.light.client import MAX_PROVEN, LightBlock, LightChain, LightState
from chain.records.header import Header
from chain.records.model import Name
from chain.records.params import ChainParams
from consensus.params import Milliseconds
from consensus.validators import ValidatorSet
from genesis.genesis import Genesis, compute_chain_id
from genesis.state import build_validator_set
from primitives.codec import Record
from primitives.types import BlsPublicKey, Epoch, Hash32, TimeMs
from shards.layout import Layout


class Age(StrEnum):
    """How much the stake behind a trust is still worth."""

    FRESH = "fresh"
    """Who signs a second time loses stake."""
    FADING = "fading"
    """Beyond the evidence window: a second signature is not punished any more."""
    STALE = "stale"
    """Beyond the unbonding period: who signed then may have nothing left to lose."""


class Trust(Record):
    """Everything that a light client keeps."""

    network: Name
    chain_id: Hash32
    params: ChainParams
    interval_ms: Milliseconds
    """Shortest time from block to block."""
    layout: Layout
    """The shards of the newest state that was shown."""
    epoch: Epoch
    validators: ValidatorSet
    """Of the epoch."""
    shown: LightBlock | None
    """The newest block that was shown to be final, with what showed it."""
    proven: Annotated[tuple[BlsPublicKey, ...], Meta(max_length=MAX_PROVEN + 128)]
    """Ascending; see chain/light/client.py."""
    since_ms: TimeMs
    """Up to when the trust reaches: the newest block's time, or when we were told."""
    bridged_ms: TimeMs
    """Longest time that any catching up bridged."""

    @classmethod
    def from_genesis(cls, genesis: Genesis) -> Self:
        """Return the trust of somebody who has the network's genesis, validated."""
        validators = build_validator_set(genesis)
        return cls(
            network=genesis.network,
            chain_id=compute_chain_id(genesis),
            params=genesis.params.chain,
            interval_ms=genesis.params.consensus.interval_ms,
            layout=genesis.layout,
            epoch=0,
            validators=validators,
            shown=None,
            proven=tuple(sorted(v.public_key for v in validators.validators)),
            since_ms=genesis.time_ms,
            bridged_ms=0,
        )

    @property
    def newest(self) -> Header | None:
        """Of the newest block that was shown to be final."""
        return None if self.shown is None else self.shown.header

    @property
    def state(self) -> LightState:
        """What the rules of chain/light/client.py work on."""
        return LightState(
            chain=LightChain(
                chain_id=self.chain_id,
                epoch_blocks=self.params.epoch_blocks,
                bucket_levels=self.params.bucket_levels,
            ),
            epoch=self.epoch,
            validators=self.validators,
            shown=self.shown,
            proven=frozenset(self.proven),
        )

    @property
    def evidence_ms(self) -> int:
        """How long at least a second signature is punished."""
        return self.params.evidence_epochs * self._epoch_ms

    @property
    def unbonding_ms(self) -> int:
        """How long at least stake stays locked."""
        return self.params.unbonding_epochs * self._epoch_ms

    @property
    def _epoch_ms(self) -> int:
        return self.params.epoch_blocks * self.interval_ms

    def with_state(self, state: LightState) -> Self:
        """Return the trust after proofs moved it on."""
        since_ms = self.since_ms
        if state.newest is not None:
            since_ms = max(since_ms, state.newest.time_ms)
        return msgspec.structs.replace(
            self,
            epoch=state.epoch,
            validators=state.validators,
            shown=state.shown,
            proven=tuple(sorted(state.proven)),
            since_ms=since_ms,
            bridged_ms=max(self.bridged_ms, since_ms - self.since_ms),
        )

    def with_layout(self, layout: Layout) -> Self:
        """Return the trust after the chain's shards were shown."""
        return msgspec.structs.replace(self, layout=layout)

    def with_checkpoint(self, state: LightState, now_ms: TimeMs) -> Self:
        """Return the trust of somebody who was just told an epoch's set."""
        moved = self.with_state(state)
        return msgspec.structs.replace(moved, since_ms=now_ms, bridged_ms=0)

    def judge(self, span_ms: int) -> Age:
        """Return what a trust is worth after that long."""
        if span_ms <= self.evidence_ms:
            return Age.FRESH
        return Age.FADING if span_ms <= self.unbonding_ms else Age.STALE

    def compute_age_ms(self, now_ms: TimeMs) -> int:
        """Return how far behind the clock the trust is."""
        return max(0, now_ms - self.since_ms)
