"""Chunks without blocks: the real execution over dictionaries, fast enough to fuzz."""

from collections import defaultdict

from chain_world import COIN, SPEC

from chain.execution.chunk_run import ChunkLimits, ChunkRun
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.ledger.ledger import Count, Totals
from chain.ledger.stake import Stake
from chain.records.account import NO_ACCOUNT, Account
from chain.records.channel import Channel
from chain.records.keys import (
    TOTALS_KEY,
    build_account_key,
    build_channel_key,
    build_consumed_key,
    build_emitted_key,
    build_model_key,
)
from chain.records.model import ModelRecord
from chain.records.outcome import Outcome
from chain.records.registration import Registration
from chain.records.spec import ChainSpec
from chain.records.transaction import Payload, Transaction, sign_transaction
from primitives.codec import decode, encode
from primitives.keys import SecretKey
from shards.packet import Packet, build_packet_proofs

NO_LIMITS = ChunkLimits(10**9, 10**9, 10**6, 10**6)


class MiniChain:
    """Three shards; every call is a chunk, and `step` moves packets and the height."""

    def __init__(self, spec: ChainSpec = SPEC, height: int = 1):
        self.spec = spec
        self.height = height
        self.state = {shard: dict(pairs) for shard, pairs in spec.state.items()}
        self.inbox: dict[int, list] = defaultdict(list)
        self.verified = VerifiedCache()
        self.models = {
            key[1:]: decode(ModelRecord, value)
            for key, value in self.state[0].items()
            if key[:1] == build_model_key(b"")
        }
        self.archived = []
        self.supply = sum(self.totals(shard).genesis for shard in self.state)

    # ------------------------------------------------------------------ doing

    def call(
        self, sender: SecretKey, payload: Payload, shard: int = 1, **changes
    ) -> Outcome:
        """Execute one transaction alone in a chunk."""
        fields = {
            "version": 1,
            "chain_id": self.spec.chain_id,
            "shard": shard,
            "sender": sender.public_key,
            "nonce": self.account(shard, sender).nonce,
            "fee_limit": COIN,
            "valid_until_height": self.height + 10,
            "payload": payload,
        } | changes
        signed = sign_transaction(Transaction(**fields), sender)
        run = self.start(shard)
        outcome = run.execute(encode(signed), signed)
        self.finish(shard, run)
        return outcome

    def start(self, shard: int, limits: ChunkLimits = NO_LIMITS) -> ChunkRun:
        state = self.state[shard]
        return ChunkRun(self.context(shard), state.get, limits, self.verified)

    def finish(self, shard: int, run: ChunkRun):
        """Keep what a run brought about."""
        result = run.finish()
        for key, value in result.writes.items():
            if value is None:
                self.state[shard].pop(key, None)
            else:
                self.state[shard][key] = value
        for proof in build_packet_proofs(result.emitted, self.height):
            self.inbox[proof.packet.dst].append(proof)
        self.archived += result.archived
        return result

    def step(self, blocks: int = 1) -> None:
        """Go on by blocks; the first one delivers all packets."""
        self.height += blocks
        boxes, self.inbox = self.inbox, defaultdict(list)
        for shard, waiting in boxes.items():
            run = self.start(shard)
            for proof in waiting:
                run.consume(proof)
            self.finish(shard, run)

    def inject(self, packet: Packet) -> None:
        """Put a hand-made packet into its destination's inbox."""
        self.inbox[packet.dst] += build_packet_proofs([packet], self.height)

    # ---------------------------------------------------------------- reading

    def context(self, shard: int) -> Context:
        return Context(
            chain_id=self.spec.chain_id,
            shard=shard,
            epoch=0,
            height=self.height,
            time_ms=self.spec.time_ms + 1000 * self.height,
            layout=self.spec.first_layout,
            models=self.models,
            params=self.spec.params,
            consumed={dst: self.consumed(shard, dst) for dst in self.state},
            emitted={src: self.emitted(src, shard) for src in self.state},
        )

    def emitted(self, src: int, dst: int) -> int:
        data = self.state[src].get(build_emitted_key(dst))
        return 0 if data is None else decode(Count, data).value

    def consumed(self, src: int, dst: int) -> int:
        data = self.state[dst].get(build_consumed_key(src))
        return 0 if data is None else decode(Count, data).value

    def account(self, shard: int, person: SecretKey) -> Account:
        data = self.state[shard].get(build_account_key(person.public_key))
        return NO_ACCOUNT if data is None else decode(Account, data)

    def balance(self, shard: int, person: SecretKey) -> int:
        return self.account(shard, person).balance

    def channel(self, channel_id: bytes, shard: int = 1) -> Channel | None:
        data = self.state[shard].get(build_channel_key(channel_id))
        return None if data is None else decode(Channel, data)

    def channels(self) -> list[Channel]:
        return self._all(b"c", Channel)

    def registration(self, person: SecretKey, shard: int = 1) -> Registration | None:
        data = self.state[shard].get(b"r" + person.public_key)
        return None if data is None else decode(Registration, data)

    def totals(self, shard: int) -> Totals:
        return decode(Totals, self.state[shard][TOTALS_KEY])

    def compute_held(self) -> int:
        """Return all atoms, wherever they are; always the supply."""
        accounts = self._all(b"a", Account)
        return (
            sum(a.balance + a.maturing_amount for a in accounts)
            + sum(c.deposit - c.settled for c in self.channels())
            + sum(r.collateral for r in self._all(b"r", Registration))
            + sum(self.totals(shard).burned for shard in self.state)
            + sum(p.packet.amount for box in self.inbox.values() for p in box)
            + sum(stake.locked for stake in self._all(b"s", Stake))
        )

    def _all(self, letter: bytes, kind):
        return [
            decode(kind, value)
            for state in self.state.values()
            for key, value in state.items()
            if key[:1] == letter
        ]
