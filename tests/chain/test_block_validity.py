"""One wrong thing at a time: every way in which a block can be invalid."""

from dataclasses import dataclass, fields

import msgspec
import pytest
from chain_world import (
    ALICE,
    BLS_KEYS,
    BOB,
    COIN,
    DAVE,
    SPEC,
    VALIDATORS,
    World,
    build_genesis,
)

from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    InvalidBody,
    MissingBodies,
    ShardNotFollowed,
)
from chain.execution.bodies import MAX_BODY_BYTES
from chain.execution.chunk import ChunkBody
from chain.execution.held import HeldBlock
from chain.records.block import (
    NO_ATTENDANCE,
    Attendance,
    Block,
    Body,
    compute_attendance_root,
    compute_certificates_root,
    compute_chunks_root,
    compute_heads_root,
    compute_roots_root,
    decode_block,
)
from chain.records.header import build_proposal, compute_block_hash
from chain.records.spec import ChainSpec
from chain.records.transfer import Transfer
from chain.tree.following import Follow
from chain.tree.opening import open_tree
from consensus.messages import compute_notarize_bytes
from consensus.randao import compute_mix
from consensus.validators import encode_bitmap
from genesis.state import build_chain_spec
from p2pchain.sim.chains.committee import endorse, hand_bodies
from primitives import bls
from primitives.codec import encode
from primitives.kv import MemoryStore
from primitives.merkle import compute_list_root
from shards.certificate import CertifiedChunk
from shards.chunk import compute_chunk_hash

replace = msgspec.structs.replace


@dataclass
class Scene:
    """A good block at height 2 that a second node has not seen yet."""

    world: World
    other: World
    parent: HeldBlock
    held: HeldBlock

    @property
    def block(self) -> Block:
        return self.held.block

    def judge(self, block: Block, now_ms: int | None = None, proposal=None) -> None:
        now_ms = self.held.header.time_ms if now_ms is None else now_ms
        self.other.tree.add(encode(block), now_ms, proposal)

    def refuse(self, block: Block, match: str, **arguments) -> None:
        with pytest.raises(InvalidBlock, match=match):
            self.judge(block, **arguments)
        assert not self.other.tree.has(compute_block_hash(block.header))

    def stray(self, block: Block, match: str) -> None:
        """A block is valid whose certified chunk of shard 2 is not what it says.

        From it on the judge does not follow the shard.
        """
        heads = dict(self.held.heads) | {h.shard: h for h in block.body.headers}
        roots = self.held.view.get_roots() | {2: heads[2].post_root}
        header = replace(
            block.header,
            heads_root=compute_heads_root(heads),
            roots_root=compute_roots_root(roots),
        )
        block = Block(header, block.body)
        self.judge(block)
        held = self.other.tree.get(compute_block_hash(header))
        assert match in held.strayed[2]
        assert held.followed == {0, 1}
        assert held.view.get_root(2) == heads[2].post_root
        assert 2 not in held.results
        self.other.tree.finalize(self.world.certify(held))
        assert self.other.tree.followed == {0, 1}
        with pytest.raises(ShardNotFollowed):
            self.other.tree.final.view.get(2, b"x")
        self.other.reopen()
        assert self.other.tree.followed == {0, 1}
        assert self.other.tree.final.view.get_root(2) == heads[2].post_root
        assert not list(self.other.store.iterate(b"S\x00\x02"))

    def with_header(self, **changes) -> Block:
        return Block(replace(self.block.header, **changes), self.block.body)

    def with_chunks(self, *chunks) -> Block:
        """Return the block with other chunks, endorsed whatever they are.

        The header commits to them, and the judge gets the bodies of the layer shards'.
        """
        root = chunks[0] if chunks and chunks[0].header.shard == 0 else None
        layers = chunks if root is None else chunks[1:]
        certified = tuple(
            CertifiedChunk(
                chunk.header,
                endorse(
                    self.world.spec.chain_id,
                    self.parent.child_epoch,
                    chunk.header,
                    self.world.keys(),
                    bls,
                )
                if chunk.header.shard in (1, 2)
                else self.block.body.chunks[0].certificate,
            )
            for chunk in layers
        )
        body = replace(self.block.body, root=root, chunks=certified)
        header = replace(
            self.block.header,
            chunks_root=compute_chunks_root(body.headers),
            certificates_root=compute_certificates_root(body.certificates),
        )
        for chunk in layers:
            inner = ChunkBody(chunk.packets, chunk.transactions)
            self.other.tree.keep_body(chunk.header, inner)
        return Block(header, body)

    def with_chunk_header(self, index=0, **changes) -> Block:
        chunks = list(self.held.chunks)
        header = replace(chunks[index].header, **changes)
        chunks[index] = replace(chunks[index], header=header)
        return self.with_chunks(*chunks)

    def with_transactions(self, *transactions, index=0) -> Block:
        chunks = list(self.held.chunks)
        data = tuple(transactions)
        header = replace(
            chunks[index].header, tx_root=compute_list_root(data), tx_count=len(data)
        )
        chunks[index] = replace(chunks[index], header=header, transactions=data)
        return self.with_chunks(*chunks)

    def with_packets(self, *packets, index) -> Block:
        chunks = list(self.held.chunks)
        root = compute_list_root([encode(packet) for packet in packets])
        header = replace(chunks[index].header, in_root=root)
        chunks[index] = replace(chunks[index], header=header, packets=packets)
        return self.with_chunks(*chunks)

    def with_attendance(self, attendance) -> Block:
        root = compute_attendance_root(attendance)
        body = replace(self.block.body, attendance=attendance)
        return Block(replace(self.block.header, attendance_root=root), body)


@pytest.fixture
def scene():
    world, other = World(), World()
    parent = world.build(
        world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)),
        world.sign(ALICE, Transfer(DAVE.public_key, 2, 2 * COIN)),
    )
    hand_bodies(parent, other.tree)
    other.tree.add(parent.block_bytes, parent.header.time_ms)
    held = world.build(
        world.sign(ALICE, Transfer(BOB.public_key, 0, COIN)),
        world.sign(BOB, Transfer(ALICE.public_key, 0, COIN)),
    )
    hand_bodies(held, other.tree)
    return Scene(world, other, parent, held)


def test_the_good_block_is_good(scene):
    scene.judge(scene.block, proposal=scene.held.proposal)
    assert scene.other.tree.has(scene.held.block_hash)


# ----------------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    "mangle",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\xc0",
        lambda data: b"\xdc\x00\x02" + data[1:],
        lambda data: bytes(2 * 1024 * 1024),
    ],
)
def test_bytes_that_are_no_block(scene, mangle):
    with pytest.raises(InvalidBlock, match="not a block"):
        scene.other.tree.add(mangle(scene.held.block_bytes), scene.held.header.time_ms)


@pytest.mark.parametrize("evidence", [(b"",), (b"x" * 1025,), (b"x",) * 9])
def test_evidence_out_of_bounds(evidence):
    block = World().build().block
    data = encode(Block(block.header, replace(block.body, evidence=evidence)))
    with pytest.raises(InvalidBlock, match="not a block"):
        decode_block(data)


def test_evidence_that_the_header_does_not_bind():
    world = World()
    block = world.build().block
    data = encode(Block(block.header, replace(block.body, evidence=(b"x",))))
    with pytest.raises(BodyMismatch, match="evidence_root"):
        World().tree.add(data, world.now_ms)


def test_another_block_than_the_one_voted_on(scene):
    other = scene.world.build(parent=scene.parent, view=9)
    with pytest.raises(BodyMismatch):
        scene.judge(scene.block, proposal=other.proposal)


@pytest.mark.parametrize(
    "field", ["epoch", "view", "parent_view", "parent_hash", "height"]
)
def test_a_proposal_that_says_something_else(scene, field):
    proposal = build_proposal(scene.block.header, scene.held.block_hash)
    wrong = bytes(32) if field == "parent_hash" else 77
    with pytest.raises(InvalidBlock, match=field):
        scene.judge(scene.block, proposal=replace(proposal, **{field: wrong}))


def test_a_body_that_the_header_does_not_bind(scene):
    body = scene.block.body
    root = body.root
    bodies = [
        replace(body, chunks=()),
        replace(body, chunks=(*body.chunks, *body.chunks)),
        replace(body, root=None),
        replace(body, attendance=NO_ATTENDANCE),
        replace(body, root=replace(root, transactions=())),
    ]
    for wrong in bodies:
        with pytest.raises(BodyMismatch):
            scene.judge(Block(scene.block.header, wrong))


# ---------------------------------------------------------------------- header


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 1),
        ("chain_id", bytes(32)),
        ("epoch", 1),
        ("height", 3),
        ("height", 1),
        ("parent_view", 0),
        ("evidence_root", bytes(32)),
        ("valset_root", bytes(32)),
        ("next_valset_root", bytes(32)),
        ("layout_root", bytes(32)),
        ("next_layout_root", bytes(32)),
    ],
)
def test_header_fields(scene, field, value):
    scene.refuse(scene.with_header(**{field: value}), field)


def test_the_view_grows(scene):
    scene.refuse(scene.with_header(view=scene.parent.header.view), "after view")


def test_time_grows_strictly(scene):
    time_ms = scene.parent.header.time_ms
    scene.refuse(scene.with_header(time_ms=time_ms), "the parent's is")


def test_time_is_at_most_a_second_ahead(scene):
    time_ms = scene.held.header.time_ms
    scene.refuse(scene.block, "now it is", now_ms=time_ms - 1001)
    scene.judge(scene.block, now_ms=time_ms - 1000)


def test_somebody_elses_view(scene):
    wrong = (scene.block.header.proposer + 1) % VALIDATORS
    scene.refuse(scene.with_header(proposer=wrong), "leads view")


def test_the_reveal_is_the_leaders(scene):
    message = b"anything else"
    forged = BLS_KEYS[scene.block.header.proposer].sign(message)
    for reveal in (forged, bytes(96), b"\xff" * 96):
        scene.refuse(scene.with_header(reveal=reveal), "reveal")


def test_the_mix_follows_from_the_reveal(scene):
    scene.refuse(scene.with_header(mix=bytes(32)), "mix")
    own = compute_mix(bytes(32), scene.block.header.reveal)
    scene.refuse(scene.with_header(mix=own), "mix")


def test_the_heads_root_is_that_of_the_newest_chunks(scene):
    scene.refuse(scene.with_header(heads_root=bytes(32)), "heads_root")
    stale = compute_heads_root(scene.parent.heads)
    scene.refuse(scene.with_header(heads_root=stale), "heads_root")


def test_the_roots_root_is_that_of_the_states(scene):
    scene.refuse(scene.with_header(roots_root=bytes(32)), "roots_root")
    stale = compute_roots_root(scene.parent.view.get_roots())
    scene.refuse(scene.with_header(roots_root=stale), "roots_root")


# ------------------------------------------------------------------ attendance


def test_attendance_is_a_quorum(scene):
    two = scene.world.attend(scene.parent, signers=(0, 1))
    scene.refuse(scene.with_attendance(two), "attendance")
    three = scene.world.attend(scene.parent, signers=(0, 1, 3))
    scene.judge(scene.with_attendance(three))


def test_attendance_is_for_the_parent(scene):
    message = compute_notarize_bytes(SPEC.chain_id, scene.held.proposal)
    signature = bls.aggregate([key.sign(message) for key in BLS_KEYS])
    wrong = Attendance(encode_bitmap(range(4), 4), signature)
    scene.refuse(scene.with_attendance(wrong), "attendance")


@pytest.mark.parametrize(
    "attendance",
    [
        NO_ATTENDANCE,
        Attendance(b"\x0f", b""),
        Attendance(b"\x0f", bytes(96)),
        Attendance(b"\x1f", bytes(96)),
        Attendance(b"\x0f\x00", bytes(96)),
        Attendance(b"", bytes(96)),
    ],
)
def test_attendance_that_is_none(scene, attendance):
    scene.refuse(scene.with_attendance(attendance), "attendance")


def test_attendance_bitmap_names_the_signers(scene):
    good = scene.world.attend(scene.parent, signers=(0, 1, 2))
    for bitmap in (b"\x0f", b"\x0b"):
        wrong = Attendance(bitmap, good.signature)
        scene.refuse(scene.with_attendance(wrong), "attendance")


def test_nobody_attends_genesis():
    world, other = World(), World()
    block = world.build().block
    attendance = Attendance(b"\x0f", bytes(96))
    header = replace(block.header, attendance_root=compute_attendance_root(attendance))
    wrong = Block(header, Body(None, (), attendance, ()))
    with pytest.raises(InvalidBlock, match="did not vote for"):
        other.tree.add(encode(wrong), header.time_ms)


# ---------------------------------------------------------------------- chunks


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", 1),
        ("created_view", 99),
        ("seq", 5),
        ("prev_chunk", bytes(32)),
        ("anchor", bytes(32)),
        ("producer", 99),
        ("pre_root", bytes(32)),
        ("post_root", bytes(32)),
        ("tx_count", 1),
        ("out_root", bytes(32)),
        ("fees", 0),
        ("work", 0),
        ("bytes", 0),
    ],
)
def test_chunk_header_fields(scene, field, value):
    scene.refuse(scene.with_chunk_header(**{field: value}), field)


def test_chunks_come_once_and_in_order(scene):
    root, two = scene.held.chunks
    for chunks in ((two, root), (root, root), (root, two, two)):
        scene.refuse(scene.with_chunks(*chunks), "a chunk of shard")
    other = replace(scene.block.body, root=two, chunks=())
    header = replace(
        scene.block.header,
        chunks_root=compute_chunks_root(other.headers),
        certificates_root=compute_certificates_root(()),
    )
    scene.refuse(Block(header, other), "a chunk of shard 2 as the root shard's")


def test_a_chunk_of_a_shard_that_does_not_exist(scene):
    scene.refuse(scene.with_chunk_header(1, shard=9), "a chunk of shard 9")


def test_a_chunk_is_not_empty(scene):
    scene.refuse(scene.with_transactions(), "empty chunk")


def test_transactions_have_to_be_valid(scene):
    first, second = scene.held.chunks[0].transactions
    for transactions, code in [
        ((first, first), "wrong_nonce"),
        ((first, second[:-1]), "malformed"),
        ((first, second[:-1] + bytes([second[-1] ^ 1])), "bad_signature"),
        ((first, bytes(9000)), "too_large"),
    ]:
        scene.refuse(scene.with_transactions(*transactions), code)


def test_a_transaction_of_another_shard_or_chain(scene):
    world = scene.world
    payload = Transfer(BOB.public_key, 0, 1)
    fields = {"nonce": world.tip.height}
    elsewhere = world.sign(ALICE, payload, shard=1, nonce=0)
    scene.refuse(scene.with_transactions(encode(elsewhere)), "wrong_shard")
    foreign = world.sign(ALICE, payload, chain_id=bytes(32), **fields)
    scene.refuse(scene.with_transactions(encode(foreign)), "wrong_chain")


def test_leaving_transactions_out_shows(scene):
    """Dropping one makes another block, and its header has to say so."""
    first, _ = scene.held.chunks[0].transactions
    scene.refuse(scene.with_transactions(first), "post_root")


# --------------------------------------------------------------------- packets


@pytest.mark.parametrize(
    ("mangle", "match"),
    [
        (lambda first, second: (second,), "packet 1 from shard 0, 0 is next"),
        (lambda first, second: (second, first), "is next"),
        (lambda first, second: (first, first), "packet 0 from shard 0, 1 is next"),
        (
            lambda first, second: (
                replace(first, packet=replace(first.packet, amount=10**15)),
                second,
            ),
            "no packet 0 of shard 0",
        ),
        (
            lambda first, second: (replace(first, source_height=2),),
            "no packet 0 of shard 0 at height 2",
        ),
        (lambda first, second: (replace(first, source_height=0),), "no packet"),
        (lambda first, second: (replace(first, source_height=99),), "no packet"),
        (lambda first, second: (replace(first, index=1),), "no packet"),
        (lambda first, second: (replace(first, path=()),), "no packet"),
    ],
)
def test_packets_come_in_order_and_are_proven(scene, mangle, match):
    first, second = scene.held.chunks[1].packets
    assert (first.packet.seq, second.packet.seq) == (0, 1)
    scene.stray(scene.with_packets(*mangle(first, second), index=1), match)


def test_a_certified_lie_costs_the_shard_and_not_the_block(scene):
    scene.stray(scene.with_chunk_header(1, post_root=bytes(32)), "post_root")


def test_bodies_are_the_headers_and_needed_by_who_follows(scene):
    lone, chunk = World(), scene.held.chunks[1]
    hand_bodies(scene.parent, lone.tree)
    lone.tree.add(scene.parent.block_bytes, scene.parent.header.time_ms)
    with pytest.raises(MissingBodies) as missing:
        lone.tree.add(scene.held.block_bytes, scene.held.header.time_ms)
    assert missing.value.headers == (chunk.header,)
    assert not lone.tree.has(scene.held.block_hash)
    good = ChunkBody(chunk.packets, chunk.transactions)
    for wrong in (
        b"",
        bytes(MAX_BODY_BYTES + 1),
        encode(good) + b"x",
        encode(replace(good, packets=())),
        encode(replace(good, packets=good.packets[::-1])),
        encode(replace(good, transactions=(b"x",))),
    ):
        with pytest.raises(InvalidBody):
            lone.tree.add_body(chunk.header, wrong)
    lone.tree.add_body(chunk.header, encode(good))
    lone.tree.add(scene.held.block_bytes, scene.held.header.time_ms)
    assert lone.tree.has(scene.held.block_hash)
    assert lone.tree.get_body_bytes(compute_chunk_hash(chunk.header)) == encode(good)


def test_who_does_not_follow_needs_no_bodies(scene):
    store = MemoryStore()
    tree = open_tree(scene.world.spec, store, bls, Follow(frozenset({1})))
    for held in (scene.parent, scene.held):
        tree.add(held.block_bytes, held.header.time_ms)
        assert tree.get(held.block_hash).view.get_roots() == held.view.get_roots()
        tree.finalize(scene.world.certify(held))
    assert tree.followed == {0, 1}
    again = open_tree(scene.world.spec, store, bls)
    assert again.followed == {0, 1}
    assert again.final.view.get_root(2) == scene.held.view.get_root(2)
    with pytest.raises(ShardNotFollowed):
        again.final.view.get(2, b"x")


def test_a_packet_for_another_shard(scene):
    world, other = World(), World()
    parent = world.build(world.sign(ALICE, Transfer(DAVE.public_key, 1, COIN)))
    hand_bodies(parent, other.tree)
    other.tree.add(parent.block_bytes, parent.header.time_ms)
    held = world.build()
    (chunk,) = held.chunks
    header = replace(chunk.header, shard=2)
    wrong = replace(chunk, header=header)
    moved = Scene(world, other, parent, held).with_chunks(wrong)
    with pytest.raises(InvalidBlock, match=r"does not produce|prev_chunk"):
        other.tree.add(encode(moved), held.header.time_ms)


def test_a_leader_may_leave_packets_for_later(scene):
    """Consuming fewer is valid; the next block takes them, still in order."""
    spec = build_chain_spec(build_genesis(chunk_packets=1))
    world = World(spec=spec)
    world.build(
        *[world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)) for _ in range(3)]
    )
    for count in (1, 2, 3):
        block = world.build()
        (chunk,) = block.chunks
        assert [proof.packet.seq for proof in chunk.packets] == [count - 1]
    assert world.build().chunks == ()


# ---------------------------------------------------------------------- limits


def test_blocks_beyond_the_limits():
    generous = World(spec=build_chain_spec(build_genesis()))
    payments = [generous.sign(ALICE, Transfer(BOB.public_key, 0, 1)) for _ in range(12)]
    held = generous.build(*payments)
    for limits, match in [
        ({"block_work": 1500}, "work"),
        ({"chunk_transactions": 5}, "transactions"),
    ]:
        spec = build_chain_spec(build_genesis(**limits))
        # The same chain but for the limit, so that nothing else differs.
        strict = World(spec=_with_params(generous.spec, spec.params))
        hand_bodies(held, strict.tree)
        with pytest.raises(InvalidBlock, match=match):
            strict.tree.add(held.block_bytes, held.header.time_ms)
    spec = _with_params(generous.spec, build_genesis(block_bytes=65536).params.chain)
    small = World(spec=spec)
    many = [generous.sign(ALICE, Transfer(BOB.public_key, 0, 1)) for _ in range(600)]
    long = generous.build(*many)
    hand_bodies(long, small.tree)
    with pytest.raises(InvalidBlock, match="bytes"):
        small.tree.add(long.block_bytes, long.header.time_ms)


def _with_params(spec, params):
    values = {f.name: getattr(spec, f.name) for f in fields(ChainSpec) if f.init}
    return ChainSpec(**values | {"params": params})
