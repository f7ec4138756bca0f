"""
Validators with stand-in keys, and chunks that follow one another on a short branch.
"""

from hashlib import blake2b

import msgspec

from consensus.validators import Validator, ValidatorSet
from p2pchain.sim.signatures import StandinScheme
from primitives.codec import encode
from primitives.merkle import EMPTY_ROOT, compute_list_root
from shards.certificate import build_chunk_certificate, compute_endorsement_bytes
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.inclusion import Anchor, ChunkBounds, InclusionBase
from shards.messages import Endorsement
from shards.packet import Packet, build_packet_proofs
from shards.slots import get_slot

replace = msgspec.structs.replace

CHAIN = blake2b(b"shard world", digest_size=32).digest()
SEED = blake2b(b"seed of an epoch", digest_size=32).digest()
BOUNDS = ChunkBounds(
    bytes=10_000, work=100_000, transactions=50, packets=20, backlog=30, moves=0
)


def name(text):
    """Return 32 bytes that stand for something."""
    return blake2b(repr(text).encode(), digest_size=32).digest()


class Town:
    """A validator set, its keys and its scheme."""

    def __init__(self, powers, ring=None):
        ring = ring or StandinScheme()
        self.scheme = ring.scheme
        self.keys = [ring.make_key(i) for i in range(len(powers))]
        self.validators = ValidatorSet(
            tuple(
                Validator(key.public_key, power)
                for key, power in zip(self.keys, powers, strict=True)
            )
        )
        self.powers = tuple(powers)

    def endorse(self, header, signer, key=None):
        """Return an endorsement; with another signer's key it is forged."""
        slot, chunk_hash = get_slot(header), compute_chunk_hash(header)
        message = compute_endorsement_bytes(CHAIN, slot, chunk_hash)
        signature = self.keys[signer if key is None else key].sign(message)
        return Endorsement(slot, chunk_hash, signer, signature)

    def certify(self, header, signers):
        """Return the certificate of these signers, however few."""
        signatures = {s: self.endorse(header, s).signature for s in signers}
        return build_chunk_certificate(signatures, self.validators, self.scheme)


def make_genesis(shard):
    """Return the header that a shard's first chunk follows."""
    return ChunkHeader(
        shard=shard,
        epoch=0,
        created_view=0,
        seq=0,
        prev_chunk=bytes(32),
        anchor=bytes(32),
        producer=0,
        pre_root=name(("root", shard, 0)),
        post_root=name(("root", shard, 0)),
        tx_root=EMPTY_ROOT,
        tx_count=0,
        in_root=EMPTY_ROOT,
        in_cursor=(),
        out_count=(),
        out_root=EMPTY_ROOT,
        fees=0,
        work=0,
        bytes=0,
    )


def make_next(tip, *, epoch, view, anchor, producer, transactions=(b"tx",), **more):
    """Return a header of a chunk with transactions and nothing else on `tip`."""
    fields = {
        "shard": tip.shard,
        "epoch": epoch,
        "created_view": view,
        "seq": tip.seq + 1,
        "prev_chunk": compute_chunk_hash(tip),
        "anchor": anchor,
        "producer": producer,
        "pre_root": tip.post_root,
        "post_root": name((tip.post_root, transactions)),
        "tx_root": compute_list_root(transactions),
        "tx_count": len(transactions),
        "in_root": EMPTY_ROOT,
        "in_cursor": tip.in_cursor,
        "out_count": tip.out_count,
        "out_root": EMPTY_ROOT,
        "fees": 10,
        "work": 100 * len(transactions),
        "bytes": sum(map(len, transactions)),
    }
    return ChunkHeader(**(fields | more))


class Chain:
    """Blocks of one branch and what they hold, without anything else of them."""

    def __init__(self, shards=(0, 1, 2), epoch=0, root_height=0):
        self.epoch, self.root_height = epoch, root_height
        self.names = {name("genesis"): Anchor(root_height, max(epoch - 1, 0), 0)}
        self.heads = {root_height: {shard: make_genesis(shard) for shard in shards}}
        self.height = root_height
        self.parent = name("genesis")
        self.halted = frozenset()

    def add(self, view, *headers):
        """Add a block of a view with chunks; return its name."""
        heads = dict(self.heads[self.height])
        for header in headers:
            heads[header.shard] = header
        self.height += 1
        self.parent = name((self.parent, view))
        self.names[self.parent] = Anchor(self.height, self.epoch, view)
        self.heads[self.height] = heads
        return self.parent

    @property
    def tips(self):
        return self.heads[self.height]

    def find_head(self, shard, height):
        return self.heads.get(height, {}).get(shard)

    def get_base(self, view, bounds=BOUNDS, height=None):
        """Return what a block of a view is judged by; on the last one, or an older."""
        top = self.height if height is None else height

        def find_anchor(block_hash):
            anchor = self.names.get(block_hash)
            return anchor if anchor is not None and anchor.height <= top else None

        return InclusionBase(
            epoch=self.epoch,
            view=view,
            root_height=self.root_height,
            heads=self.heads[top],
            halted=self.halted,
            bounds=bounds,
            find_anchor=find_anchor,
            find_head=self.find_head,
        )

    def get_name(self, height):
        """Return the name of the block at a height."""
        return next(n for n, anchor in self.names.items() if anchor.height == height)


def make_proofs(count, src=2, dst=1, first=0):
    """Return proofs of packets that some chunk emitted."""
    packets = [Packet(src, dst, first + i, 1, 5, b"payload") for i in range(count)]
    return build_packet_proofs(packets, 1)


def compute_in_root(proofs):
    return compute_list_root([encode(proof) for proof in proofs])
