"""
What simulated people do: transfers, stakes, and, where asked for, new layouts.

Transactions are made up when a block or a chunk is built, as if they had just come in;
some of them fail, as some always do.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chain.ledger.docket import get_docket
from chain.ledger.ledger import ShardLedger
from chain.records.account import Account
from chain.records.keys import build_account_key
from chain.records.proposal import AddModel, Change, RetireModel, SplitShard
from chain.records.registration import Register
from chain.records.resharding import Reshard, ReshardVote
from chain.records.staking import Bond, Unbond
from chain.records.transaction import (
    Payload,
    SignedTransaction,
    Transaction,
    sign_transaction,
)
from chain.records.transfer import Transfer
from chain.tree.building import ReadState
from p2pchain.sim.chains.genesis import COIN, PEOPLE, STAKE, build_model, get_account
from p2pchain.sim.signatures import make_real_key
from primitives.codec import decode, encode
from primitives.types import ShardId
from shards.layout import ROOT_SHARD, ShardSpec

if TYPE_CHECKING:
    from chain.tree.blocktree import BlockTree
    from p2pchain.sim.chains.tree_chain import TreeChains

VALIDITY = 50
"""Blocks after the final one in which a transaction may stand."""
MODELS = 4
"""Of which some are there at a time."""


class RandomPicker:
    """Makes transactions up.

    Args:
        chains: Of the world.
        tree: Of the node that builds.
        number: Different for every picker of a world.
    """

    def __init__(self, chains: "TreeChains", tree: "BlockTree", number: int) -> None:
        self._chains = chains
        self._tree = tree
        self._luck = random.Random(f"{chains.world.seed} {number}")
        self._shards = tree.layout.shard_ids

    def get_waiting(self, shard: int) -> int:
        """Return 1: there is always something."""
        return 1

    def pick(
        self, shard: int, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield a few transactions of different senders."""
        world = self._chains.world
        names = [*world.signers, *(f"p{n}" for n in range(PEOPLE))]
        count = self._luck.randrange(3)
        if shard == ROOT_SHARD and world.setup.is_resharding:
            for name in self._luck.sample(names, len(names)):
                change = self._draw_resharding(name, read)
                if change is None:
                    continue
                names.remove(name)
                yield self._sign(name, shard, read, change)
        for name in self._luck.sample(names, count):
            yield self._sign(name, shard, read, self._draw_payload(name, shard))

    def _sign(
        self, name: str, shard: int, read: ReadState, payload: Payload
    ) -> tuple[bytes, SignedTransaction]:
        sender = get_account(name)
        data = read(build_account_key(sender.public_key))
        nonce = 0 if data is None else decode(Account, data).nonce
        transaction = Transaction(
            version=1,
            chain_id=self._chains.chain_id,
            shard=shard,
            sender=sender.public_key,
            nonce=nonce,
            fee_limit=COIN,
            valid_until_height=self._tree.final_height + VALIDITY,
            payload=payload,
        )
        signed = sign_transaction(transaction, sender)
        return encode(signed), signed

    def _draw_payload(self, name: str, shard: int) -> Payload:
        luck = self._luck
        setup = self._chains.world.setup
        # Villains keep the stake they have: more of it, and they may have a third.
        # Where they are to have one, nobody gets more.
        is_staker = len(name) == 1 and name not in setup.villains | setup.frail
        is_staker = is_staker and not setup.is_bound_broken
        if shard == ROOT_SHARD and is_staker and luck.random() < 0.5:
            if name in self._chains.newcomers or luck.random() < 0.5:
                key = make_real_key(repr(name))
                return Bond(
                    name=f"validator-{name}",
                    public_key=key.public_key,
                    proof_of_possession=key.prove_possession(
                        get_account(name).public_key
                    ),
                    amount=luck.choice((0, COIN, 20 * COIN, STAKE)),
                )
            return Unbond(luck.choice((COIN, 20 * COIN)))
        is_host = setup.is_hosting and name in (
            setup.hosts or self._chains.world.signers
        )
        if shard != ROOT_SHARD and is_host:
            spec = self._tree.layout.get_spec(shard)
            node = self._chains.world.nodes[name]
            if spec is not None and node.follow.wants(spec) and luck.random() < 0.25:
                return self._draw_offer(name, spec)
        recipient = get_account(f"p{luck.randrange(PEOPLE)}").public_key
        amount = luck.choice((0, 1, COIN, 30 * COIN, 10**12))
        return Transfer(recipient, luck.choice(self._shards), amount)

    def _draw_offer(self, name: str, spec: ShardSpec) -> Payload:
        """Return the offer to host layers, perhaps over several shards."""
        luck = self._luck
        start = luck.randrange(spec.start, spec.end)
        return Register(
            model_id=spec.model_id,
            profile=bytes(32),
            start=start,
            end=luck.randint(start + 1, spec.end + luck.choice((0, 2))),
            input_price=10,
            output_price=20,
            measured_us=1000,
            collateral=COIN,
            payout=get_account(name).public_key,
            node_key=get_account(name).public_key,
            addresses=("p2p://00@127.0.0.1:9000",),
        )

    def _draw_resharding(self, name: str, read: ReadState) -> Payload | None:
        """Return a validator's proposal or vote; None for all others."""
        luck, setup = self._luck, self._chains.world.setup
        if len(name) > 1 or name in self._chains.newcomers or name in setup.villains:
            return None
        waiting = get_docket(ShardLedger(read)).open
        if waiting and luck.random() < 0.7:
            return ReshardVote(luck.choice(waiting))
        if not waiting and luck.random() < 0.3:
            return Reshard(self._draw_change())
        return None

    def _draw_change(self) -> Change:
        luck = self._luck
        kind = luck.randrange(4)
        if kind == 0:
            return RetireModel(build_model(luck.randrange(MODELS)).model_id)
        if kind == 1:
            return AddModel(build_model(luck.randrange(MODELS)), luck.randint(1, 2))
        return SplitShard(luck.choice(self._shards), luck.randint(1, 7))


class NothingWaits:
    """A picker for blocks without transactions."""

    def get_waiting(self, shard: ShardId) -> int:
        """Return 0."""
        return 0

    def pick(
        self, shard: ShardId, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield nothing."""
        return iter(())
