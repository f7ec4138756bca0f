"""
What must hold in every run, however bad the weather: each class is one theorem.

`Judge` (judge.py) tells them what happens; they raise `InvariantBroken`.
Less than a third of the power is in villains' hands in every world but those with
`is_bound_broken`, where they vouch for wrong chunks and vote as they should.
"""

from typing import TYPE_CHECKING

from consensus import effects as fx
from consensus.leader import compute_leader
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Message,
    Nullify,
    Proposal,
    Propose,
    Vote,
    get_view,
)
from consensus.validators import decode_bitmap
from p2pchain.sim.invariants.chunks import SHARD_INVARIANTS
from p2pchain.sim.invariants.invariant import Invariant
from p2pchain.sim.machine.requests import MAX_WAITING

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

VIEWS_POOLED = 10
"""The current view, the next one and eight behind."""
VOTES_PER_SIGNER = 3 * 2
"""Three kinds, and two that contradict each other."""


class Agreement(Invariant):
    """Also the prefix property: chains are compared height by height as they grow."""

    name = "agreement"
    theorem = "No two honest nodes hold different final blocks at one height, ever."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.hashes = [world.chains.genesis_hash]
        """Of the longest final chain that any honest node has seen."""

    def on_final(self, node: "Node", height: int) -> None:
        block_hash = node.chain.get_hash(height)
        if height == len(self.hashes):
            self.hashes.append(block_hash)
        elif height > len(self.hashes) or self.hashes[height] != block_hash:
            self.fail(f"node {node.name} has another block at height {height}")


class Prefix(Invariant):
    """A crash takes nothing back."""

    name = "prefix"
    theorem = "A node's final chain only grows, also across restarts."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._heights: dict[str, int] = {}

    def on_final(self, node: "Node", height: int) -> None:
        expected = self._heights.get(node.name, 0) + 1
        if height != expected:
            self.fail(f"node {node.name} finalizes {height}, {expected} is next")
        self._heights[node.name] = height

    def on_wipe(self, node: "Node") -> None:
        self._heights[node.name] = 0

    def on_start(self, node: "Node") -> None:
        known, now = self._heights.get(node.name, 0), node.chain.final_height
        if now != known:
            self.fail(f"node {node.name} restarts at height {now}, it was at {known}")


class NoHonestEvidence(Invariant):
    """E1 to E3, judged on what was sent and on what others say they can prove."""

    name = "no honest evidence"
    theorem = (
        "Honest stake never yields evidence: one Notarize and one Finalize per view, "
        "never Finalize and Nullify; also after a crash at every byte of the log."
    )

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._votes: dict[tuple[str, type[Vote], int, int], Vote] = {}

    def on_message(self, node: "Node", message: Message) -> None:
        vote = message.notarize if isinstance(message, Propose) else message
        if isinstance(vote, Certificate):
            return
        epoch, view = get_view(vote)
        known = self._votes.setdefault((node.name, type(vote), epoch, view), vote)
        if known != vote:
            self.fail(f"node {node.name} votes twice in view {epoch}/{view}")
        if isinstance(vote, Finalize | Nullify):
            other = Nullify if isinstance(vote, Finalize) else Finalize
            if (node.name, other, epoch, view) in self._votes:
                self.fail(f"node {node.name} finalizes and nullifies {epoch}/{view}")

    def on_conflict(self, node: "Node", conflict: fx.Conflict) -> None:
        statements = conflict.first, conflict.second
        if all(isinstance(each, Certificate) for each in statements):
            self.fail(f"node {node.name} holds certificates that conflict")
        for statement in statements:
            if isinstance(statement, Certificate):
                continue  # beside a vote: it says what the vote's signer said too
            validators = node.epoch.validators.validators
            key = validators[statement.signer].public_key
            if key in self.world.judge.honest_keys:
                self.fail(f"node {node.name} has evidence against an honest signer")

    def on_evidence(self, node: "Node", guilty: frozenset[bytes]) -> None:
        if guilty & self.world.judge.honest_keys:
            self.fail(f"node {node.name} believes evidence against an honest signer")


class Quorums(Invariant):
    """Counted here and not by the code that is judged."""

    name = "quorums"
    theorem = "More than two thirds of the power stand behind every certificate."

    def on_message(self, node: "Node", message: Message) -> None:
        if isinstance(message, Certificate) and message.epoch == node.epoch.epoch:
            voters = node.epoch.validators.validators
            signers = decode_bitmap(message.bitmap, len(voters)) or ()
            power = sum(voters[signer].power for signer in signers)
            total = sum(voter.power for voter in voters)
            if 3 * power <= 2 * total:
                self.fail(f"node {node.name} certifies with {power} of {total} power")


class OneNotarization(Invariant):
    """Two quorums share an honest voter, who notarizes once."""

    name = "one notarization"
    theorem = "At most one block is notarized, and at most one finalized, per view."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._subjects: dict[tuple[Kind, int, int], Proposal | None] = {}

    def on_message(self, node: "Node", message: Message) -> None:
        if isinstance(message, Certificate):
            place = message.kind, message.epoch, message.view
            known = self._subjects.setdefault(place, message.proposal)
            if known != message.proposal:
                self.fail(f"two certificates of {place}")


class FinalExcludesNullified(Invariant):
    """Who finalizes a view has not nullified it and never will."""

    name = "F excludes X"
    theorem = "No view is both finalized and nullified."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._kinds: dict[tuple[int, int], Kind] = {}

    def on_message(self, node: "Node", message: Message) -> None:
        if not isinstance(message, Certificate) or message.kind == Kind.NOTARIZATION:
            return
        place = message.epoch, message.view
        known = self._kinds.setdefault(place, message.kind)
        if known != message.kind:
            self.fail(f"view {place} is finalized and nullified")


class ViewsGrow(Invariant):
    """Within a life; a restart may fall back, but never says anything new there."""

    name = "views grow"
    theorem = "A node never goes back to an earlier view or epoch while it runs."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._places: dict[str, tuple[int, int, int]] = {}

    def on_turn(self, node: "Node") -> None:
        place = node.life, node.epoch.epoch, node.view
        last = self._places.get(node.name)
        if last is not None and place < last:
            self.fail(f"node {node.name} goes from {last[1:]} to {place[1:]}")
        self._places[node.name] = place


class SameRoots(Invariant):
    """Execution is a function of the chain."""

    name = "same roots"
    theorem = "All honest nodes have the same state roots after the same block."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._roots: dict[int, bytes] = {}

    def on_final(self, node: "Node", height: int) -> None:
        root = node.chain.get_root(height)
        if self._roots.setdefault(height, root) != root:
            self.fail(f"node {node.name} has another state at height {height}")


class SameEpochs(Invariant):
    """An epoch's set and seed follow from blocks that were final two epochs before."""

    name = "same epochs"
    theorem = "All honest nodes agree on each epoch's seed, validators and boundary."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._configs: dict[int, object] = {}

    def on_turn(self, node: "Node") -> None:
        epoch = node.epoch
        if self._configs.setdefault(epoch.epoch, epoch) != epoch:
            self.fail(f"node {node.name} has another epoch {epoch.epoch}")


class HonestUnblamed(Invariant):
    """Else correct peers would cut each other off."""

    name = "honest unblamed"
    theorem = "No honest node gives another one cause to find fault with it."

    def on_refuse(self, node: "Node", refusal: fx.Refuse) -> None:
        if refusal.reason.is_fault and refusal.sender is not None:
            self.check(node, refusal.sender.decode(), refusal.reason.value)

    def check(self, node: "Node", peer: str | None, reason: str) -> None:
        """Fail if the peer is honest."""
        if peer is not None and self.world.nodes[peer].is_honest:
            self.fail(f"node {node.name} blames honest {peer}: {reason}")


class HonestBlocksValid(Invariant):
    """Else an honest leader's view would be lost, and with it liveness."""

    name = "honest blocks valid"
    theorem = "A block that an honest leader built is valid for every honest node."

    def on_invalid(self, node: "Node", proposal: Proposal, reason: str) -> None:
        epoch = node.epoch
        if proposal.epoch != epoch.epoch or proposal.view < node.view:
            # A block that lost may well come when the final chain is past it.
            return
        leader = compute_leader(epoch.seed, proposal.view, epoch.validators)
        key = epoch.validators.validators[leader].public_key
        if key in self.world.judge.honest_keys:
            self.fail(f"node {node.name} refuses an honest leader's block: {reason}")


class BoundedMemory(Invariant):
    """Whatever villains send."""

    name = "bounded memory"
    theorem = "Votes, certificates and blocks in memory stay below their bounds."

    EVERY = 16
    """Turns between two looks; counting is dearer than most turns."""
    MAX_CERTIFICATES = 3 * 4200
    """Kinds, times the views of the longest gap."""
    MAX_BLOCKS = 4096 + 320
    """As in chain.tree.blocktree."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._turns = 0

    def on_turn(self, node: "Node") -> None:
        self._turns += 1
        if self._turns % self.EVERY:
            return
        limit = VIEWS_POOLED * VOTES_PER_SIGNER * len(node.epoch.validators)
        pooled = node.mind.core.pooled_votes
        if pooled > limit:
            self.fail(f"node {node.name} pools {pooled} votes")
        if node.requests.waiting_blocks > MAX_WAITING:
            self.fail(f"node {node.name} keeps too many waiting blocks")
        if node.chain.held_blocks > self.MAX_BLOCKS:
            self.fail(f"node {node.name} holds {node.chain.held_blocks} blocks")


class PacketsOnce(Invariant):
    """Money between shards is neither lost nor doubled on its way."""

    name = "packets once"
    theorem = "Packets between two shards are consumed exactly once and in order."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._heights: dict[int, int] = {}
        """Up to where each destination was looked at, with whoever follows it."""
        self._next: dict[tuple[int, int], int] = {}

    def on_final(self, node: "Node", height: int) -> None:
        for dst, packets in node.chain.list_packets(height).items():
            if self._heights.get(dst, height - 1) != height - 1:
                continue
            self._heights[dst] = height
            for src, number in packets:
                expected = self._next.get((src, dst), 0)
                if number != expected:
                    text = f"packet {number} from {src} to {dst}"
                    self.fail(f"{text}, {expected} is next")
                self._next[src, dst] = number + 1


class SupplyConserved(Invariant):
    """Genesis and minted atoms are balances, stakes, packets and burned ones."""

    name = "supply conserved"
    theorem = "No rule, crash or slashing makes or loses an atom."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._height = 0

    def on_final(self, node: "Node", height: int) -> None:
        # A node may be some blocks on: its newest one is what it can count.
        if height > self._height and height == node.chain.final_height:
            self._height = height
            self._check(node)

    def on_end(self) -> None:
        for node in self.world.honest:
            self._check(node)

    def _check(self, node: "Node") -> None:
        if imbalance := node.chain.find_imbalance():
            self.fail(f"node {node.name}: {imbalance}")


class DatabaseSound(Invariant):
    """Whatever was torn, dropped and fetched again."""

    name = "database sound"
    theorem = "At the end every honest node's database is one that `db verify` praises."

    def on_end(self) -> None:
        for node in self.world.honest:
            if damage := node.chain.find_damage():
                self.fail(f"node {node.name}: {damage}")


class ConvictedOnce(Invariant):
    """One offence or a hundred: a stake is slashed and tombstoned once."""

    name = "convicted once"
    theorem = "Final blocks convict villains only, and each at most once."

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._height = 0
        self._convicted: set[bytes] = set()

    def on_final(self, node: "Node", height: int) -> None:
        if height != self._height + 1:
            return
        self._height = height
        for key in node.chain.list_convicted(height):
            if key in self.world.judge.honest_keys:
                self.fail(f"block {height} convicts an honest validator")
            if key in self._convicted:
                self.fail(f"block {height} convicts somebody again")
            self._convicted.add(key)


class LightClientFollows(Invariant):
    """From the first validators, by the proofs that any node gives."""

    name = "light client"
    theorem = (
        "A light client believes final blocks only, whatever it is told, refuses no "
        "truth, and ends at the final chain's last block."
    )

    def check(self, height: int, block_hash: bytes) -> None:
        """Fail unless a block is final for the first honest node that is there."""
        hashes = self.world.judge.hashes
        if height >= len(hashes) or hashes[height] != block_hash:
            self.fail(f"it believes in a block at height {height} that is not final")

    def on_end(self) -> None:
        for node in self.world.honest:
            found = node.chain.follow_lightly()
            if found is not None and found != node.chain.final_hash:
                self.fail(f"led astray by node {node.name}")


INVARIANTS: tuple[type[Invariant], ...] = (
    Agreement,
    Prefix,
    NoHonestEvidence,
    Quorums,
    OneNotarization,
    FinalExcludesNullified,
    ViewsGrow,
    SameRoots,
    SameEpochs,
    HonestUnblamed,
    HonestBlocksValid,
    BoundedMemory,
    PacketsOnce,
    ConvictedOnce,
    SupplyConserved,
    DatabaseSound,
    LightClientFollows,
    *SHARD_INVARIANTS,
)
"""Watched in every run.  Progress is judged at its end: progress.py."""
