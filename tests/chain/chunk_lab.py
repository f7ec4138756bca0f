"""Chunks without blocks, over a real state: what producers and endorsers do."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from chain_world import ALICE, BOB, CAROL, COIN, SPEC, World
from channel_helpers import build_opening

from chain.contracts.credit import Credit
from chain.errors import InvalidTransaction
from chain.execution.chunk import (
    ChunkBody,
    ExecutedChunk,
    fill_header,
    finish_chunk,
)
from chain.execution.chunk_run import ChunkFull, ChunkLimits, ChunkRun, Meter
from chain.execution.context import build_context
from chain.execution.verified import VerifiedCache
from chain.execution.witness import build_witness, encode_witness
from chain.ledger.context import Context
from chain.records.channel import OpenChannels
from chain.records.spec import ChainSpec, build_genesis_chunk
from chain.records.transaction import Payload, Transaction, sign_transaction
from chain.records.transfer import Transfer
from chain.state.chunk_state import ShardState
from primitives.codec import encode
from primitives.keys import SecretKey
from shards.chunk import ChunkHeader
from shards.packet import Packet, PacketKind, PacketProof, build_packet_proofs

NO_LIMITS = ChunkLimits(2**31, 10**9, 10**6, 10**6)
PEOPLE = (ALICE, BOB, CAROL)


@dataclass
class Produced:
    """A chunk as its producer hands it on."""

    header: ChunkHeader
    body: ChunkBody
    executed: ExecutedChunk
    witness: bytes


@dataclass
class ChunkLab:
    """One shard of a genesis state, and people who send there."""

    spec: ChainSpec = SPEC
    shard: int = 1
    nonces: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self):
        self.final = World(self.spec).tree.final
        self.state = ShardState(self.final.view, self.shard)
        self.context: Context = build_context(self.spec, self.final, self.shard)
        self.levels = self.state.levels
        self.pre_root = self.final.view.get_root(self.shard)

    def sign(self, sender: SecretKey, payload: Payload, **changes) -> bytes:
        """Return the sender's next transaction; counts its nonce."""
        nonce = self.nonces.get(sender.public_key, 0)
        if "nonce" not in changes:
            self.nonces[sender.public_key] = nonce + 1
        fields = {
            "version": 1,
            "chain_id": self.spec.chain_id,
            "shard": self.shard,
            "sender": sender.public_key,
            "nonce": nonce,
            "fee_limit": COIN,
            "valid_until_height": 100,
            "payload": payload,
        } | changes
        return encode(sign_transaction(Transaction(**fields), sender))

    def transfer(self, sender=ALICE, recipient=BOB, amount=1, shard=None) -> bytes:
        to = self.shard if shard is None else shard
        return self.sign(sender, Transfer(recipient.public_key, to, amount))

    def open_channel(self, sender=ALICE, payee=BOB) -> bytes:
        return self.sign(sender, OpenChannels((build_opening(payee),)))

    def credit(self, *amounts: int, recipient=BOB, src: int = 0) -> list[PacketProof]:
        """Return packets from another shard, the first ones of their source."""
        payload = encode(Credit(recipient.public_key, ALICE.public_key))
        packets = [
            Packet(src, self.shard, seq, PacketKind.CREDIT, amount, payload)
            for seq, amount in enumerate(amounts)
        ]
        return list(build_packet_proofs(packets, 1))

    def build_mixed(self) -> tuple[list[PacketProof], list[bytes]]:
        """Return packets and transactions of many kinds, failing ones among them."""
        poor = SecretKey(bytes([77]) * 32)
        transactions = [
            self.transfer(ALICE, BOB, 5),
            self.transfer(BOB, poor, COIN),
            self.transfer(CAROL, ALICE, 10**6 * COIN),
            self.transfer(ALICE, CAROL, 7, shard=2),
            self.open_channel(ALICE, CAROL),
            self.transfer(poor, CAROL, 3),
            self.open_channel(CAROL, BOB),
            self.transfer(ALICE, BOB, 0),
        ]
        return self.credit(10, 20), transactions

    def produce(
        self,
        transactions: Sequence[bytes],
        packets: Sequence[PacketProof] = (),
        meter: Meter | None = None,
        limits: ChunkLimits = NO_LIMITS,
    ) -> Produced:
        """Return the chunk of whatever of this fits."""
        run = ChunkRun(self.context, self.state.get, limits, VerifiedCache(), meter)
        for proof in packets:
            try:
                run.consume(proof)
            except ChunkFull:
                break
        for signed_bytes in transactions:
            try:
                run.execute(signed_bytes)
            except (InvalidTransaction, ChunkFull):
                continue
        executed = finish_chunk(run, self.state)
        result = executed.result
        view = self.final.view.compute_child_with({self.shard: executed.buckets})
        place = build_genesis_chunk(self.shard, self.pre_root)
        header = fill_header(place, result, self.pre_root, view.get_root(self.shard))
        witness = build_witness(self.state, executed.touched)
        body = ChunkBody(result.consumed, result.transactions)
        return Produced(header, body, executed, encode_witness(witness))
