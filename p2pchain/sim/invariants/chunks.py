"""
What must hold of chunks in every run: each class is one theorem.

The judge hears of what honest nodes say and hold for certified, of what their leaders
pick, and of every block that becomes final, with the block before it.
"""

from typing import TYPE_CHECKING

from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from consensus.validators import ValidatorSet, decode_bitmap
from p2pchain.sim.invariants.halts import LiesHalt
from p2pchain.sim.invariants.invariant import Invariant
from p2pchain.sim.invariants.reexecution import build_branch, reexecute
from primitives.codec import encode
from shards import effects as fx
from shards.certificate import CertifiedChunk
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk
from shards.evidence import ShardEvidence, validate_shard_evidence
from shards.inclusion import InclusionBase
from shards.messages import Endorsement, Message, ProducedChunk, ProducerSignature
from shards.slots import Slot, get_slot

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

WINDOW = 8
"""Views after its own in which a chunk may be included, counted here once more."""


class OneWordPerSlot(Invariant):
    """E4 and E6, judged on what is sent, across all lives of a key."""

    name = "one word per slot"
    theorem = (
        "No honest key signs two chunks or two endorsements of one slot, also after a "
        "crash at every write."
    )

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._words: dict[tuple[str, type, Slot], bytes] = {}

    def on_chunk_message(self, node: "Node", message: Message) -> None:
        match message:
            case ProducedChunk():
                slot, word = (
                    get_slot(message.header),
                    compute_chunk_hash(message.header),
                )
            case Endorsement():
                slot, word = message.slot, message.chunk_hash
            case _:
                return
        known = self._words.setdefault((node.name, type(message), slot), word)
        if known != word:
            kind = type(message).__name__
            self.fail(f"node {node.name}: two of {kind} in {slot}")


class PromisesKept(Invariant):
    """A crash at the moment of sending would forget nothing that others hear."""

    name = "promises kept"
    theorem = (
        "Who sends a chunk or an endorsement has the signature in its log, and body "
        "and witness on disk."
    )

    def on_chunk_message(self, node: "Node", message: Message) -> None:
        match message:
            case ProducedChunk(header=header):
                chunk_hash, slot = compute_chunk_hash(header), get_slot(header)
                record: Endorsement | ProducerSignature = ProducerSignature(
                    slot, chunk_hash, header.producer, message.signature
                )
            case Endorsement():
                chunk_hash, record = message.chunk_hash, message
            case _:
                return
        if encode(record) not in (node.disk.chunks.data or b""):
            self.fail(f"node {node.name} says what its log does not hold")
        assert node.desk is not None
        place = record.slot.epoch, record.slot.created_view + WINDOW
        if place < (node.desk.roles.epoch, node.view):
            # Said when nobody can use it any more: its disk was that slow.
            return
        if node.name in self.world.setup.frail:
            # It may have lost its database, and all bodies with it.
            return
        if node.desk.get_saved(chunk_hash) is None:
            self.fail(f"node {node.name} vouches for a body that it does not hold")


class ChunksAsExecuted(Invariant):
    """Executed by the judge, on the whole state."""

    name = "chunks as executed"
    theorem = "Every certified and every included chunk re-executes to its header."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._cache = VerifiedCache()
        self._right: set[bytes] = set()
        self._open: dict[bytes, tuple[int, int]] = {}
        """Height and shard of included ones that somebody made final who does not
        follow the shard."""

    def on_certified(self, node: "Node", certified: CertifiedChunk) -> None:
        header = certified.header
        assert node.desk is not None
        tree = node.desk.tree
        if not tree.has(node.desk.parent):
            return
        held = [tree.final, *tree.pending]
        for parent in held:
            if parent.block_hash == node.desk.parent:
                tip = parent.heads.get(header.shard)
                branch = build_branch(tree, parent)
                is_next = tip is not None and _follows(header, tip)
                is_here = header.shard in parent.followed
                if (
                    is_here
                    and is_next
                    and branch.find_anchor(header.anchor) is not None
                ):
                    self._check(node, parent, header)

    def on_block(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        for header in list_layer_headers(held):
            if header.shard in parent.followed:
                self._check(node, parent, header)
            else:
                self._open[compute_chunk_hash(header)] = held.height, header.shard

    def on_end(self) -> None:
        known = self._right | self.world.judge.wrong
        left = [
            place
            for chunk_hash, place in self._open.items()
            if chunk_hash not in known and not self._is_on_the_way(*place)
        ]
        if left:
            self.fail(f"nobody executed {len(left)} chunks: {left}")

    def _is_on_the_way(self, height: int, shard: int) -> bool:
        """Tell whether there are followers, and the block is not final at any yet.

        The run may end between the moment at which others have it and theirs.
        """
        heights = [
            node.desk.tree.final_height
            for node in self.world.honest
            if node.desk is not None and shard in node.desk.tree.followed
        ]
        return bool(heights) and max(heights) < height

    def _check(self, node: "Node", parent: HeldBlock, header: ChunkHeader) -> None:
        chunk_hash = compute_chunk_hash(header)
        if chunk_hash in self._right or chunk_hash in self.world.judge.wrong:
            return
        produced = self.world.judge.produced.get(chunk_hash)
        if produced is None:
            self.fail(f"nobody ever made the body of a chunk of shard {header.shard}")
        if fault := self._find_fault(node, parent, produced):
            if not self.world.setup.is_bound_broken:
                self.fail(fault)
            self.world.judge.wrong.add(chunk_hash)
            return
        self._right.add(chunk_hash)

    def _find_fault(
        self, node: "Node", parent: HeldBlock, produced: ProducedChunk
    ) -> str:
        """Return what is wrong with a chunk; empty if nothing is."""
        header = produced.header
        assert node.desk is not None
        try:
            found = reexecute(node.desk.tree, parent, produced, self._cache)
        except InvalidChunk as error:
            return f"a chunk that cannot be executed: {error}"
        wrong = [
            name
            for name in ChunkHeader.__struct_fields__
            if getattr(found, name) != getattr(header, name)
        ]
        if not wrong:
            return ""
        return f"a chunk of shard {header.shard} with wrong {', '.join(wrong)}"


class ShardsKept(Invariant):
    """Who follows a shard executes what committees vouch for."""

    name = "shards kept"
    theorem = (
        "Nobody honest loses the state of a shard whose chunks are right, or goes on "
        "with one of which a block holds a wrong chunk."
    )

    def on_block(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        wrong = {
            header.shard
            for header in list_layer_headers(held)
            if compute_chunk_hash(header) in self.world.judge.wrong
        }
        for shard, reason in held.strayed.items():
            if shard not in wrong:
                self.fail(f"node {node.name} strays from shard {shard}: {reason}")
        if wrong & held.followed:
            self.fail(f"node {node.name} follows liars in {wrong & held.followed}")


class CommitteesOfAll(Invariant):
    """Counted here and not by the code that is judged."""

    name = "committees of all"
    theorem = (
        "Committees hold two thirds of all stake, whoever hosts the shard, and more "
        "than a third of all stake stands behind every certificate."
    )

    def on_certified(self, node: "Node", certified: CertifiedChunk) -> None:
        assert node.desk is not None
        roles = node.desk.roles
        header, validators = certified.header, roles.validators
        if header.epoch == roles.epoch:
            members = roles.get_committee(get_slot(header)).members
            self._check(certified, members, validators)

    def on_included(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        epoch = parent.child_epoch
        for certified in list_certified(held):
            members = epoch.roles.get_committee(get_slot(certified.header)).members
            self._check(certified, members, epoch.validators)

    def _check(
        self,
        certified: CertifiedChunk,
        members: tuple[int, ...],
        validators: ValidatorSet,
    ) -> None:
        powers = [validator.power for validator in validators.validators]
        total = sum(powers)
        signers = decode_bitmap(certified.certificate.bitmap, len(powers)) or ()
        power = sum(powers[signer] for signer in signers)
        if 3 * power <= total:
            self.fail(f"a chunk certified by {power} of {total} power")
        drawn = sum(powers[member] for member in members)
        if 3 * drawn < 2 * total:
            self.fail(f"a committee of {drawn} of {total} power")


class ShardChains(Invariant):
    """The rules of inclusion that headers show, written down a second time."""

    name = "shard chains"
    theorem = (
        "Each included chunk follows its shard's last one, on an anchor not before "
        "that one's, within K views of its slot."
    )

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.tips: dict[int, ChunkHeader] = {}
        """Of final blocks, by shard."""
        self.included = 0
        """Chunks of layer shards in final blocks."""
        self._anchors: dict[bytes, int] = {}
        """Heights of final blocks by hash."""

    def on_pick(
        self, node: "Node", base: InclusionBase, picked: tuple[CertifiedChunk, ...]
    ) -> None:
        for certified in picked:
            header = certified.header
            tip = base.heads[header.shard]
            self._check(header, tip, base.view)
            anchor, last = base.find_anchor(header.anchor), base.find_anchor(tip.anchor)
            if anchor is None:
                self.fail(f"node {node.name} picks a chunk of another branch")
            if last is not None and anchor.height < last.height:
                self.fail(f"node {node.name} picks a chunk with too old an anchor")

    def on_included(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        self._anchors.setdefault(parent.block_hash, parent.height)
        for header in list_layer_headers(held):
            shard = header.shard
            tip = self.tips.get(shard, parent.heads[shard])
            self._check(header, tip, held.header.view)
            anchor = self._anchors.get(header.anchor)
            last = self._anchors.get(tip.anchor, 0)
            if anchor is None or anchor < last:
                self.fail(f"a chunk of shard {shard} on block {anchor} after {last}")
            self.tips[shard] = header
            self.included += 1

    def _check(self, header: ChunkHeader, tip: ChunkHeader, view: int) -> None:
        if not _follows(header, tip):
            self.fail(f"a chunk of shard {header.shard} that is not on its tip")
        if (header.epoch, header.created_view) <= (tip.epoch, tip.created_view):
            self.fail(f"a chunk of shard {header.shard} for a slot before its tip's")
        if not header.created_view <= view <= header.created_view + WINDOW:
            self.fail(f"a chunk of view {header.created_view} in view {view}")


class HonestEndorsersUnconvicted(Invariant):
    """E4 and E6, judged on what others say they can prove."""

    name = "no honest shard evidence"
    theorem = "Nobody honest is convicted by E4 or E6; what a desk reports is genuine."

    def on_chunk_conflict(self, node: "Node", evidence: ShardEvidence) -> None:
        assert node.desk is not None
        validators = node.desk.roles.validators
        guilty = validate_shard_evidence(
            evidence, validators, self.world.chains.chain_id, self.world.keys.scheme
        )
        keys = set(validators.get_public_keys(guilty))
        if keys & self.world.judge.honest_keys:
            self.fail(f"node {node.name} has evidence against an honest signer")
        self.world.judge.convicted |= keys


class HonestDesksUnblamed(Invariant):
    """Else correct peers would cut each other off."""

    name = "honest desks unblamed"
    theorem = "No honest node's chunks, endorsements or certificates are its fault."

    def on_chunk_refuse(self, node: "Node", refusal: fx.Refuse) -> None:
        if refusal.reason.is_fault and refusal.sender is not None:
            peer = refusal.sender.decode()
            if self.world.nodes[peer].is_honest:
                text = f"{refusal.reason.value} {refusal.detail}"
                self.fail(f"node {node.name} blames honest {peer}: {text}")


class BoundedDesks(Invariant):
    """Whatever villains send."""

    name = "bounded desks"
    theorem = "A desk remembers the slots of K views and two more, and no others."

    def on_certified(self, node: "Node", certified: CertifiedChunk) -> None:
        assert node.desk is not None
        desk = node.desk
        if len(desk.desk.open_slots) > (WINDOW + 2) * len(desk.roles.shards):
            self.fail(f"node {node.name}: {len(desk.desk.open_slots)} open slots")


def list_certified(held: HeldBlock) -> tuple[CertifiedChunk, ...]:
    """Return a block's certified chunks."""
    return held.block.body.chunks


def list_layer_headers(held: HeldBlock) -> list[ChunkHeader]:
    """Return the headers of a block's chunks of layer shards."""
    return [certified.header for certified in held.block.body.chunks]


def _follows(header: ChunkHeader, tip: ChunkHeader) -> bool:
    return (
        header.prev_chunk == compute_chunk_hash(tip)
        and header.seq == tip.seq + 1
        and header.pre_root == tip.post_root
    )


SHARD_INVARIANTS: tuple[type[Invariant], ...] = (
    OneWordPerSlot,
    PromisesKept,
    ChunksAsExecuted,
    LiesHalt,
    ShardsKept,
    CommitteesOfAll,
    ShardChains,
    HonestEndorsersUnconvicted,
    HonestDesksUnblamed,
    BoundedDesks,
)
"""Watched in every run with chunks; `LiesHalt` asks what `ChunksAsExecuted` found."""
