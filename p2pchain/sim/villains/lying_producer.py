"""The lying producer: chunks that say what is not so, or are not what they say."""

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from p2pchain.sim.villains.desk_villain import DeskVillain, VillainDesk
from primitives.hashing import compute_hash
from primitives.merkle import compute_list_root
from shards import effects as fx
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.messages import Message, ProducedChunk

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node

LIES = (
    "post root",
    "fees",
    "another body",
    "cut body",
    "invented body",
    "spoilt witness",
    "witness with more",
    "old anchor",
    "old tip",
    "withheld",
)
"""One per chunk."""
SHARE_WITHHELD = 0.6
"""Of those who do not get a chunk of which the body is withheld."""


class LyingDesk(VillainDesk):
    """Every second chunk is a lie of some kind."""

    lies: tuple[str, ...] = LIES
    share = 0.5
    """Of its chunks."""

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self._lie = ""

    def produce(self, effect: fx.Build) -> ProducedChunk | None:
        """Build a chunk, and perhaps change it."""
        produced = super().produce(effect)
        self._lie = ""
        if produced is None or self.luck.random() < 1 - self.share:
            return produced
        self._lie = self.luck.choice(self.lies)
        header = self._change(produced.header, effect)
        if self._lie == "invented body":
            made_up = (*produced.transactions, b"money for the liar")
            return msgspec.structs.replace(
                produced,
                transactions=made_up,
                header=msgspec.structs.replace(
                    header, tx_root=compute_list_root(made_up), tx_count=len(made_up)
                ),
            )
        return msgspec.structs.replace(produced, header=header)

    def say(self, message: Message) -> None:
        """Send what is sent once more, changed or to some only."""
        is_own = isinstance(message, ProducedChunk) and self._is_ours(message)
        if not is_own or not isinstance(message, ProducedChunk):
            super().say(message)
            return
        match self._lie:
            case "another body" | "cut body" | "spoilt witness" | "witness with more":
                for node in self.others:
                    self.tell(node, self._spoil(message))
            case "old tip":
                # Signed by hand: our own desk would not.
                header = msgspec.structs.replace(
                    message.header, prev_chunk=compute_chunk_hash(message.header)
                )
                other = self.sign_chunk(msgspec.structs.replace(message, header=header))
                for node in self.others:
                    self.tell(node, other)
            case "withheld":
                for node in self.others:
                    if self.luck.random() > SHARE_WITHHELD:
                        self.tell(node, message)
            case _:
                super().say(message)

    def _is_ours(self, produced: ProducedChunk) -> bool:
        return produced.header.producer == self.index

    def _change(self, header: ChunkHeader, effect: fx.Build) -> ChunkHeader:
        replace = partial(msgspec.structs.replace, header)
        match self._lie:
            case "post root":
                return replace(post_root=compute_hash("a lie", header.post_root))
            case "fees":
                return replace(fees=header.fees + 1)
            case "old anchor":
                anchor = self._find_old_anchor(header, effect)
                return header if anchor is None else replace(anchor=anchor)
        return header

    def _find_old_anchor(self, header: ChunkHeader, effect: fx.Build) -> bytes | None:
        """Return the block before the anchor of the shard's tip."""
        parent = self.tree.get(effect.anchor)
        tip = parent.heads[header.shard]
        if not self.tree.has(tip.anchor):
            return None
        return self.tree.get_block(tip.anchor).header.parent_hash

    def _spoil(self, produced: ProducedChunk) -> ProducedChunk:
        replace = partial(msgspec.structs.replace, produced)
        witness = produced.witness
        match self._lie:
            case "another body":
                return replace(transactions=(*produced.transactions, b"more"))
            case "cut body":
                return replace(transactions=produced.transactions[:-1])
            case "witness with more":
                return replace(witness=witness + b"\x00")
        place = self.luck.randrange(len(witness))
        other = bytes([witness[place] ^ 1])
        return replace(witness=witness[:place] + other + witness[place + 1 :])


class LyingProducer(DeskVillain):
    """Lies whenever it is its turn."""

    desk_kind = LyingDesk


class StubbornDesk(LyingDesk):
    """One kind of lie, in every chunk."""

    share = 1.0

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self.lies = (self.luck.choice(LIES),)


class StubbornLiar(DeskVillain):
    """Whoever waits for a good chunk of it waits in vain."""

    desk_kind = StubbornDesk


class BackdatingDesk(LyingDesk):
    """Chunks on an anchor before that of the tip."""

    lies = ("old anchor",)


class Backdater(DeskVillain):
    """Lives in the past."""

    desk_kind = BackdatingDesk


class SpoilingDesk(LyingDesk):
    """Good chunks with witnesses that are no good."""

    lies = ("spoilt witness", "witness with more")


class Spoiler(DeskVillain):
    """Makes others judge what cannot be judged."""

    desk_kind = SpoilingDesk


class StrayDesk(LyingDesk):
    """Chunks that follow none of the shard's."""

    lies = ("old tip",)


class StrayProducer(DeskVillain):
    """Builds beside the shard's chain."""

    desk_kind = StrayDesk
