"""
The kill list about chunks: each weakened rule is found, by an invariant that it serves.

For each there is a scenario that brings the trouble which the rule is for.
"""

from dataclasses import replace

import pytest
from mutant_kills import Kill

from chain.execution.chunk_run import ChunkRun
from chain.tree import processing
from chain.tree.blocktree import BlockTree
from chain.tree.branch import Branch
from p2pchain.sim.chains.tree_chain import TreeChain
from p2pchain.sim.machine.chunk_desk import ChunkDesk
from p2pchain.sim.machine.disk import Disk
from shards import inclusion, roles
from shards.absentees import Absentees
from shards.chunk import get_count
from shards.committee import Committee, draw_committee
from shards.desk import Desk
from shards.effects import Persist, SaveChunk
from shards.endorsements import EndorsementVerifier
from shards.events import Executed, Judgement


def drop(kind):
    """Return a mutation by which a desk's effects of one kind are forgotten."""

    def mutate(monkeypatch):
        handle = Desk.handle

        def forget(self, event):
            return [e for e in handle(self, event) if not isinstance(e, kind)]

        monkeypatch.setattr(Desk, "handle", forget)

    return mutate


def sign_without_a_record(monkeypatch):
    """Nothing of what is signed is in the log."""
    drop(Persist)(monkeypatch)


def endorse_without_a_body(monkeypatch):
    """Bodies that were vouched for are not on disk."""
    drop(SaveChunk)(monkeypatch)


def send_before_the_log_is_synced(monkeypatch):
    """A crash loses what was signed last, which others have."""
    honest = Disk.__init__

    def init(self, luck):
        honest(self, luck)
        self.chunks.is_syncing = False

    monkeypatch.setattr(Disk, "__init__", init)


def endorse_without_executing(monkeypatch):
    """Every chunk is good."""

    def execute(self, produced):
        self._events.append(Executed(produced.header, Judgement.GOOD, ""))

    monkeypatch.setattr(ChunkDesk, "execute", execute)


def follow_any_chunk(monkeypatch):
    """`prev_chunk` need not be the shard's tip."""
    honest = inclusion._validate_link

    def validate(header, tip):
        name = inclusion.compute_chunk_hash(tip)
        changed = inclusion.ChunkHeader(
            **{field: getattr(header, field) for field in header.__struct_fields__}
            | {"prev_chunk": name}
        )
        honest(changed, tip)

    monkeypatch.setattr(inclusion, "_validate_link", validate)


def stand_on_any_anchor(monkeypatch):
    """An anchor may be older than the tip's."""
    honest = inclusion._validate_anchor

    def validate(header, tip, base):
        def find(block_hash):
            return None if block_hash == tip.anchor else base.find_anchor(block_hash)

        if header.anchor == tip.anchor:
            return honest(header, tip, base)
        return honest(header, tip, inclusion_replace(base, find))

    monkeypatch.setattr(inclusion, "_validate_anchor", validate)


def inclusion_replace(base, find_anchor):
    """Return the same base with another way to find anchors."""
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    return type(base)(**fields | {"find_anchor": find_anchor})


def include_at_any_age(monkeypatch):
    """A chunk may be included however many views after its own."""
    monkeypatch.setattr(inclusion, "INCLUSION_VIEWS", 10_000)


def draw_from_hosts_only(monkeypatch):
    """Whoever hosts a shard judges its chunks."""

    def draw(seed, shard, created_view, powers):
        hosts = [p if index % 2 == shard % 2 else 0 for index, p in enumerate(powers)]
        return draw_committee(seed, shard, created_view, hosts)

    monkeypatch.setattr(roles, "draw_committee", draw)


def certify_with_a_quarter(monkeypatch):
    """More than a quarter of the stake is enough."""
    monkeypatch.setattr(
        Committee,
        "is_enough",
        lambda self, indices: 4 * self.compute_weight(indices) > self.total,
    )


def take_endorsements_on_trust(monkeypatch):
    """Forged ones count."""
    monkeypatch.setattr(EndorsementVerifier, "find_forged", lambda self, doubtful: [])


def accuse_on_suspicion(monkeypatch):
    """Rivals' signatures are not verified."""
    monkeypatch.setattr(EndorsementVerifier, "settle", lambda self, pooled: True)


def consume_packets_twice(monkeypatch):
    """The last packet of a source may come once more, before the next one."""
    get_inbox, consume = Branch.get_inbox, ChunkRun.consume

    def get_again(self, shard, limit):
        inbox = get_inbox(self, shard, limit)
        again = []
        for proof in inbox:
            src, seq = proof.packet.src, proof.packet.seq
            cursor = get_count(self.tip.heads[shard].in_cursor, src)
            if seq == cursor > 0:
                again += self._get_packets(src, shard, seq - 1, seq)
            again.append(proof)
        return again

    def consume_again(self, proof):
        if proof.packet.seq == self.get_cursor(proof.packet.src) - 1:
            self._apply_packet(proof.packet)
            self._packet_events.append(self._ledger.commit())
            self._consumed.append(proof)
        else:
            consume(self, proof)

    monkeypatch.setattr(Branch, "get_inbox", get_again)
    monkeypatch.setattr(ChunkRun, "consume", consume_again)


def take_the_word_of_liars(monkeypatch):
    """Who executes a certified chunk otherwise goes on with what its header says."""
    combine = processing.combine_chunks

    def believe(base, executed, certified, refused):
        processed = combine(base, executed, certified, refused)
        followed = processed.followed | (processed.strayed.keys() & processed.heads)
        return replace(processed, followed=followed, strayed={})

    monkeypatch.setattr(processing, "combine_chunks", believe)


def keep_frauds_to_oneself(monkeypatch):
    """Who finds a certified lie stops to follow, and tells nobody."""
    monkeypatch.setattr(TreeChain, "denounce", lambda self, produced, certificate: None)


def go_on_after_a_halt(monkeypatch):
    """Chunks of a halted shard are as good as others."""
    monkeypatch.setattr(Branch, "halted", property(lambda self: frozenset()))


def take_a_shard_on_as_it_was(monkeypatch):
    """A shard is followed from a boundary's state on, without its chunks since."""

    def find_next_chunk(self, adoption):
        adoption.skip(self.final_height)

    monkeypatch.setattr(BlockTree, "find_next_chunk", find_next_chunk)


def wait_for_silent_hosts(monkeypatch):
    """Everybody is awaited for a Delta, whatever it did before."""
    monkeypatch.setattr(Absentees, "add", lambda self, shard, public_key: None)


KILLS = [
    Kill(sign_without_a_record, "shards-calm", range(1), "promises kept"),
    Kill(endorse_without_a_body, "shards-calm", range(1), "promises kept"),
    Kill(
        send_before_the_log_is_synced,
        "shards-desk-crashes",
        range(8),
        "one word per slot",
    ),
    Kill(
        endorse_without_executing,
        "shards-lying-producer",
        range(6),
        "chunks as executed",
    ),
    Kill(follow_any_chunk, "shards-stray-producer", range(4), "shard chains"),
    Kill(stand_on_any_anchor, "shards-backdater", range(6), "shard chains"),
    Kill(include_at_any_age, "shards-stale-certificate", range(4), "shard chains"),
    Kill(draw_from_hosts_only, "shards-calm", range(1), "committees of all"),
    Kill(certify_with_a_quarter, "shards-lying-pair", range(2), "committees of all"),
    Kill(
        take_endorsements_on_trust,
        "shards-lying-endorser",
        range(4),
        "honest desks unblamed",
    ),
    Kill(
        accuse_on_suspicion, "shards-double-pair", range(9, 12), "honest desks unblamed"
    ),
    Kill(consume_packets_twice, "shards-calm", range(2), "packets once"),
    Kill(take_the_word_of_liars, "shards-conspiracy", range(2), "shards kept"),
    Kill(go_on_after_a_halt, "shards-conspiracy", range(12, 13), "lies halt"),
    Kill(keep_frauds_to_oneself, "shards-conspiracy", range(8), "lies halt"),
    Kill(take_a_shard_on_as_it_was, "shards-taking-on", range(1), "node breaks down"),
    Kill(wait_for_silent_hosts, "shards-silent-hosts", range(1, 4), "shard progress"),
]


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.mutate.__name__)
def test_mutant_is_caught(kill, monkeypatch):
    kill.check(monkeypatch, "tree")
