"""A real chain with short epochs whose validators change its layout; books right."""

from dataclasses import dataclass, field

import msgspec
from chain_world import (
    ALICE,
    BLS_KEYS,
    BOB,
    CAROL,
    COIN,
    DAVE,
    MODEL,
    STAKERS,
    START_MS,
    VALIDATORS,
    World,
)

from chain.checks.conservation import compute_conservation, get_conservation
from chain.execution.chunk import ChunkBody, execute_chunk
from chain.execution.chunk_run import ChunkLimits
from chain.execution.context import build_context, decode_context, encode_context
from chain.execution.witness import build_witness, encode_witness, execute_witnessed
from chain.ledger.docket import get_docket
from chain.ledger.layouts import get_layout
from chain.ledger.ledger import ShardLedger
from chain.queries.queries import Queries
from chain.records.model import ModelRecord, compute_model_id
from chain.records.outcome import Event
from chain.records.proposal import Change
from chain.records.registration import Registration
from chain.records.resharding import Reshard, ReshardVote
from chain.records.spec import ChainSpec
from chain.state.chunk_state import ShardState
from genesis.genesis import Genesis, GenesisParams, GenesisValidator
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.state import build_chain_spec
from shards.layout import ROOT_SHARD

EPOCH = 4
GRACE = 6
PEOPLE = (ALICE, BOB, CAROL, DAVE)

OTHER_MODEL = ModelRecord(
    model_id=compute_model_id(bytes([3]) * 32, bytes([4]) * 32),
    name="second",
    architecture="llama",
    layers=5,
    hidden_size=128,
    vocab_size=1024,
    dtype="float32",
    weights_root=bytes([3]) * 32,
    tokenizer_hash=bytes([4]) * 32,
    min_collateral=COIN,
)


def build_reshard_genesis(**changes) -> Genesis:
    """Return a chain in which everybody has funds everywhere."""
    params = {
        "epoch_blocks": EPOCH,
        "grace_blocks": GRACE,
        "bucket_levels": 4,
        "evidence_epochs": 1,
        "unbonding_epochs": 6,
    } | changes
    chain = msgspec.structs.replace(DEVNET_PARAMS.chain, **params)
    owners = [person.public_key for person in (*PEOPLE, *STAKERS)]
    return build_devnet_genesis(
        validators=[
            GenesisValidator(
                name=f"validator-{i}",
                account=STAKERS[i].public_key,
                public_key=BLS_KEYS[i].public_key,
                proof_of_possession=BLS_KEYS[i].prove_possession(),
                power=1000 * COIN,
            )
            for i in range(VALIDATORS)
        ],
        models=[MODEL],
        balances=dict.fromkeys(owners, 100 * COIN),
        shard_balances={
            (person.public_key, shard): 100 * COIN
            for person in PEOPLE
            for shard in (1, 2)
        },
        time_ms=START_MS,
        params=GenesisParams(chain=chain, consensus=DEVNET_PARAMS.consensus),
    )


def build_spec(**changes) -> ChainSpec:
    return build_chain_spec(build_reshard_genesis(**changes))


SPEC = build_spec()


@dataclass
class ReshardWorld(World):
    """Every block is final at once, and the books are right after each."""

    spec: ChainSpec = SPEC
    seen: list[Event] = field(default_factory=list)
    """Events of all system steps."""

    @property
    def queries(self) -> Queries:
        return Queries(self.tree)

    @property
    def layout(self):
        return self.tree.layout

    @property
    def ids(self) -> tuple[int, ...]:
        return self.tree.layout.shard_ids

    @property
    def epoch(self) -> int:
        return self.tree.epoch.epoch

    def step(self, *transactions, **how):
        """Make a block final; return it as it was while it was pending."""
        parent = self.tip
        held = self.build(*transactions, **how)
        self.check_witnesses(parent, held)
        self.seen += held.events
        self.finalize(held)
        self.check_books()
        return held

    def check_witnesses(self, parent, held):
        """Execute every layer shard's chunk again by somebody who has its witness."""
        for chunk in held.chunks:
            header = chunk.header
            if header.shard == ROOT_SHARD:
                continue
            params = self.spec.params
            limits = ChunkLimits(
                bytes=header.bytes,
                work=header.work,
                transactions=params.chunk_transactions,
                packets=params.chunk_packets,
            )
            context = decode_context(
                encode_context(build_context(self.spec, parent, header.shard))
            )
            body = ChunkBody(chunk.packets, chunk.transactions)
            state = ShardState(parent.view, header.shard)
            cache = self.tree.verified
            executed = execute_chunk(context, state, body, limits, cache)
            witness = encode_witness(build_witness(state, executed.touched))
            again = execute_witnessed(context, header, body, witness, limits, cache)
            assert again.result == executed.result

    def check_books(self):
        counted = compute_conservation(self.tree)
        assert counted.is_conserved, counted
        assert get_conservation(self.tree) == counted
        assert self.tree.final.heads.keys() == set(self.ids)
        assert self.tree.final.view.get_roots().keys() == set(self.ids)

    def do(self, *transactions):
        """Execute transactions in a block; each one has to succeed."""
        held = self.step(*transactions)
        for result in held.results.values():
            for outcome in result.outcomes:
                assert outcome.ok, (outcome.code, outcome.message)
        done = sum(len(r.outcomes) for r in held.results.values())
        assert done == len(transactions)
        return held

    def refuse(self, sender, payload, code, shard=0):
        """Execute a transaction that its rule refuses."""
        held = self.step(self.sign(sender, payload, shard))
        (outcome,) = held.results[shard].outcomes
        assert (outcome.ok, outcome.code) == (False, code), outcome

    def propose(self, change: Change, voters=range(4)) -> int:
        """Propose a change and vote for it; return the proposal's number."""
        first, *others = (STAKERS[i] for i in voters)
        number = self.docket.next_number
        self.do(self.sign(first, Reshard(change)))
        if others:
            self.do(*(self.sign(other, ReshardVote(number)) for other in others))
        return number

    def go_to_epoch(self, epoch: int) -> None:
        """Go on until the next block is the first of `epoch`."""
        while self.epoch < epoch:
            self.step()

    def change_layout(self, change: Change) -> None:
        """Have a change adopted, and go on until it holds."""
        if self.tree.final_height % EPOCH > EPOCH - 3:
            self.go_to_epoch(self.epoch + 1)
        self.propose(change)
        self.go_to_epoch(self.epoch + 2)

    def settle(self, blocks: int = 3 * EPOCH) -> None:
        for _ in range(blocks):
            self.step()

    # ---------------------------------------------------------------- reading

    @property
    def ledger(self) -> ShardLedger:
        view = self.tree.final.view
        return ShardLedger(lambda key: view.get(0, key))

    @property
    def docket(self):
        return get_docket(self.ledger)

    @property
    def next_layout(self):
        return get_layout(self.ledger, self.epoch + 1)

    def balance(self, person, shard=0) -> int:
        return self.queries.get_account(shard, person.public_key).balance

    def registration(self, person, shard) -> Registration | None:
        return self.queries.market.get_registration(person.public_key, shard)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.seen]
