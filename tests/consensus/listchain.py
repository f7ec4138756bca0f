"""
A tiny application: blocks with nothing inside but their place, kept in a dict.

It survives restarts by being handed to the next driver; what was not saved is dropped
by `crash`, as a disk would.
"""

from hashlib import blake2b

from chain.errors import BodyMismatch, InvalidBlock, MissingParent
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.leader import compute_first_seed
from consensus.messages import Proposal
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import U16, Epoch, Hash32, Height, TimeMs, View

GENESIS = blake2b(b"list chain", digest_size=32).digest()
GENESIS_TIME_MS = 1_000


class ListBlock(Record):
    """A block that says where it stands."""

    epoch: Epoch
    view: View
    parent_view: View
    parent_hash: Hash32
    height: Height
    time_ms: TimeMs
    proposer: U16
    payload: bytes


def hash_block(data):
    return blake2b(data, digest_size=32).digest()


class ListChain:
    """Implements p2pchain.node.consensus.application.Application."""

    def __init__(self, chain_id, validators, epoch_blocks=2**40, get_set=None):
        """Args: `get_set(epoch)` returns the voters where they are not always all."""
        self.chain_id, self.epoch_blocks = chain_id, epoch_blocks
        self.get_set = get_set or (lambda epoch: validators)
        self.blocks = {}
        self.saved = set()
        self.final = [GENESIS]
        self.certificates = {}
        self.reports = []
        self.on_final = lambda: None

    @property
    def final_height(self):
        return len(self.final) - 1

    @property
    def final_hash(self):
        return self.final[-1]

    @property
    def tip(self):
        height = self.final_height
        if height % self.epoch_blocks == 0:
            return Tip(height, 0, self.final_hash, None)
        certificate = self.certificates[height]
        return Tip(height, certificate.view, self.final_hash, certificate)

    @property
    def epoch(self):
        epoch = self.final_height // self.epoch_blocks
        seed = compute_first_seed(self.chain_id + bytes([epoch % 256]))
        return EpochConfig(
            epoch=epoch,
            seed=seed,
            validators=self.get_set(epoch),
            last_height=(epoch + 1) * self.epoch_blocks,
        )

    @property
    def epoch_first_time_ms(self):
        first = self.epoch.epoch * self.epoch_blocks + 1
        if first > self.final_height:
            return None
        return self.get_time_ms(self.final[first])

    def get_epoch_end(self, epoch):
        return self.certificates.get((epoch + 1) * self.epoch_blocks)

    def report(self, first, second):
        self.reports.append((first, second))

    def crash(self):
        """Lose what was not saved."""
        self.blocks = {h: b for h, b in self.blocks.items() if h in self.saved}

    def build_block(
        self,
        *,
        epoch,
        view,
        parent_hash,
        parent_view,
        proposer,
        reveal,
        attendance,
        time_ms,
    ):
        assert len(reveal) == 96
        height = self.get_height(parent_hash) + 1
        is_first = (height - 1) % self.epoch_blocks == 0
        assert (parent_view == 0) == is_first
        assert bool(attendance.bitmap) != is_first
        assert (height - 1) // self.epoch_blocks == epoch
        payload = attendance.bitmap
        block = ListBlock(
            epoch, view, parent_view, parent_hash, height, time_ms, proposer, payload
        )
        data = encode(block)
        self.blocks[hash_block(data)] = data
        return hash_block(data), data, height

    def add_block(self, proposal, block_bytes, *, is_decided=False):
        read = self.read_proposal(block_bytes)
        if read.block_hash != proposal.block_hash:
            raise BodyMismatch("other bytes")
        if read != proposal:
            raise InvalidBlock("another place")
        if not self.has_block(read.parent_hash):
            raise MissingParent(read.parent_hash)
        if read.height != self.get_height(read.parent_hash) + 1:
            raise InvalidBlock("height")
        if read.epoch != (read.height - 1) // self.epoch_blocks:
            raise InvalidBlock("epoch")
        self.blocks[read.block_hash] = block_bytes

    def read_proposal(self, block_bytes):
        try:
            block = decode(ListBlock, block_bytes)
        except DecodeError as error:
            raise InvalidBlock(str(error)) from error
        return Proposal(
            epoch=block.epoch,
            view=block.view,
            parent_view=block.parent_view,
            parent_hash=block.parent_hash,
            block_hash=hash_block(block_bytes),
            height=block.height,
        )

    def get_height(self, block_hash):
        if block_hash == GENESIS:
            return 0
        return decode(ListBlock, self.blocks[block_hash]).height

    def has_block(self, block_hash):
        return block_hash == GENESIS or block_hash in self.blocks

    def take_evicted(self):
        return ()

    def get_block_bytes(self, block_hash):
        return self.blocks.get(block_hash)

    def save_pending(self, block_hash):
        while block_hash != GENESIS and block_hash not in self.saved:
            self.saved.add(block_hash)
            block_hash = decode(ListBlock, self.blocks[block_hash]).parent_hash

    def get_time_ms(self, block_hash):
        if block_hash == GENESIS:
            return GENESIS_TIME_MS
        return decode(ListBlock, self.blocks[block_hash]).time_ms

    def finalize(self, certificate):
        path, block_hash = [], certificate.proposal.block_hash
        if block_hash in self.final:
            return  # A decision that waited for the disk, and a range that did not.
        while block_hash not in self.final:
            path.append(block_hash)
            block_hash = decode(ListBlock, self.blocks[block_hash]).parent_hash
        assert block_hash == self.final[-1], "a final block was left"
        for final_hash in reversed(path):
            self.final.append(final_hash)
            self.certificates[self.final_height] = certificate
        self.saved.update(path)
        self.on_final()

    def get_final(self, height):
        if not 0 < height <= self.final_height:
            return None
        return self.blocks[self.final[height]], self.certificates[height]
