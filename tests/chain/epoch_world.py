"""
A small chain with short epochs, whose validators come and go.

    world = EpochWorld(5)            five validators of a thousand coins each
    world.end_epoch()                blocks up to the boundary, all of them final
    world.bond(world.people[6])      a newcomer stakes
    world.powers(epoch)              coins by name in an epoch's set

A second node judges every block that the first one builds.
"""

from dataclasses import dataclass

import msgspec
from chain_world import COIN, KEYS, MODEL, START_MS, World

from chain.checks.conservation import compute_conservation
from chain.execution.held import HeldBlock
from chain.ledger.ledger import ShardLedger, get_account
from chain.ledger.roster import get_stake, get_validators
from chain.ledger.stake import Stake
from chain.records.staking import Bond, Unbond
from chain.storage.store import ChainStore
from genesis.genesis import Genesis, GenesisParams, GenesisValidator
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.state import build_chain_spec
from p2pchain.sim.chains.committee import hand_bodies
from primitives.bls import BlsSecretKey
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore, MemoryStore

STAKE = 1000
"""Coins of a first validator."""
BALANCE = 10_000
"""Coins of everybody in the root shard."""
EPOCH_BLOCKS = 4
EVIDENCE_EPOCHS = 1
UNBONDING_EPOCHS = 6

MAX_PEOPLE = 12


@dataclass(frozen=True)
class Person:
    """Somebody who stakes, or might."""

    name: str
    account: SecretKey
    key: BlsSecretKey

    @property
    def address(self) -> bytes:
        return self.account.public_key


def make_person(index: int) -> Person:
    key = BlsSecretKey((1000 + index).to_bytes(32, "big"))
    KEYS[key.public_key] = key
    return Person(f"v{index}", SecretKey(bytes([200 + index]) * 32), key)


PEOPLE = [make_person(index) for index in range(MAX_PEOPLE)]
NAMES = {person.key.public_key: person.name for person in PEOPLE}


def build_epoch_genesis(stakes=(STAKE,) * 5, **changes: int) -> Genesis:
    """Return a genesis with short epochs; `stakes` are coins of the first people."""
    params = {
        "epoch_blocks": EPOCH_BLOCKS,
        "evidence_epochs": EVIDENCE_EPOCHS,
        "unbonding_epochs": UNBONDING_EPOCHS,
        "min_stake": 100 * COIN,
        "epoch_reward": 60 * COIN,
    } | changes
    return build_devnet_genesis(
        validators=[
            GenesisValidator(
                name=person.name,
                account=person.address,
                public_key=person.key.public_key,
                proof_of_possession=person.key.prove_possession(),
                power=stake * COIN,
            )
            for person, stake in zip(PEOPLE, stakes, strict=False)
        ],
        models=[MODEL],
        balances={person.address: BALANCE * COIN for person in PEOPLE},
        time_ms=START_MS,
        params=GenesisParams(
            chain=msgspec.structs.replace(DEVNET_PARAMS.chain, **params),
            consensus=DEVNET_PARAMS.consensus,
        ),
    )


class EpochWorld(World):
    """See the top of the file."""

    def __init__(
        self,
        stakes=(STAKE,) * 5,
        store: KeyValueStore | None = None,
        is_judged: bool = True,
        **changes: int,
    ):
        spec = build_chain_spec(build_epoch_genesis(stakes, **changes))
        super().__init__(spec=spec, store=store or MemoryStore())
        self.people = PEOPLE
        self.judge = World(spec=spec) if is_judged else None
        self.blocks = spec.params.epoch_blocks

    # ------------------------------------------------------------------ doing

    def finalize(self, held: HeldBlock) -> HeldBlock:
        certificate = self.certify(held)
        if self.judge is not None:
            hand_bodies(held, self.judge.tree)
            self.judge.tree.add(held.block_bytes, held.header.time_ms, held.proposal)
            self.judge.tree.finalize(certificate)
            assert self.judge.tree.final.seen == held.seen
        self.tree.finalize(certificate)
        return held

    def step(self, *transactions, **arguments) -> HeldBlock:
        """Build and finalize a block; all its transactions have to be in it."""
        held = self.finalize(self.build(*transactions, **arguments))
        found = sum(len(chunk.transactions) for chunk in held.chunks)
        assert found == len(transactions)
        return held

    def end_epoch(self, epochs: int = 1, signers=None) -> HeldBlock:
        """Go on up to the boundary, then over more epochs; return the boundary."""
        for _ in range(epochs):
            held = self.step(signers=signers)
            while held.height % self.blocks:
                held = self.step(signers=signers)
        return held

    def bond(self, person, coins=STAKE, **changes):
        """Include a Bond; return what became of it."""
        return self.act(person, build_bond(person, coins * COIN, **changes))

    def unbond(self, person, coins):
        """Include an Unbond; return what became of it."""
        return self.act(person, Unbond(coins * COIN))

    def act(self, person, payload):
        signed = self.sign(
            person.account, payload, valid_until_height=self.tree.final_height + 100
        )
        held = self.step(signed)
        store: ChainStore = self.tree.store
        return store.get_outcomes(held.height, 0)[0]

    # ---------------------------------------------------------------- reading

    @property
    def epoch(self) -> int:
        """The epoch of the next block."""
        return self.tree.epoch.epoch

    def ledger(self) -> ShardLedger:
        view = self.tree.final.view
        return ShardLedger(lambda key: view.get(0, key))

    def stake(self, person) -> Stake | None:
        return get_stake(self.ledger(), person.address)

    def balance(self, person) -> int:
        """Return atoms in the root shard."""
        height = self.tree.final_height
        return get_account(self.ledger(), person.address, height).balance

    def powers(self, epoch: int | None = None) -> dict[str, float]:
        """Return coins by name, in the order of the set."""
        epoch = self.epoch if epoch is None else epoch
        validators = get_validators(self.ledger(), epoch)
        return {NAMES[v.public_key]: v.power / COIN for v in validators.validators}

    def events(self, height: int | None = None):
        """Return the events of a block's system step, kind and amount by name."""
        height = self.tree.final_height if height is None else height
        return [
            (event.kind, NAMES.get(event.object_id), event.amount)
            for event in self.tree.store.get_system_events(height)
        ]

    def is_conserved(self) -> bool:
        return compute_conservation(self.tree).is_conserved


def build_bond(person, amount: int, **changes) -> Bond:
    fields = {
        "name": person.name,
        "public_key": person.key.public_key,
        "proof_of_possession": person.key.prove_possession(person.address),
        "amount": amount,
    } | changes
    return Bond(**fields)
