"""
What can be wrong with a block, a transaction or the store.

    InvalidBlock        a correct leader never sends this (RemoteError)
    |- BodyMismatch     the bytes are not the block that the hash names
    MissingParent       the parent is not held; fetch it first (MissingError)
    |- UnfinalParent    it is held, but ends an epoch and is not final yet
    MissingBodies       bodies of chunks are not held; fetch them first (MissingError)
    InvalidBody         not the body that a chunk's header binds (RemoteError)
    ShardNotFollowed    a state that this node does not have (MissingError)
    PastChunk           a final chunk that can no longer be executed (MissingError)
    UnknownBlock        a block that is not held (MissingError)
    UnknownModel        a model that no shard serves (MissingError)
    UselessEvidence     evidence too late, too early or told before (MissingError)
    MissingFraudProof   a fraud proof that has to be fetched first (MissingError)
    UnjudgedFraud       a fraud from before our history (MissingError)
    InvalidWitness      not the part of a state that a chunk needs (RemoteError)
    InvalidTransaction  cannot stand in a block at all (RemoteError)
    RuleError           stands in a block, pays its fee, has no other effect
    StoreError          the database is not what we wrote (LocalError)
    |- ConflictingFinal a second, different block is called final
    |- DamagedBucket    a bucket of the state that is not what we wrote
    |- FailedWrite      the disk is full or broken; nothing more is written
    |- OtherFormat      another version of the program wrote it
    |- UnfinishedInstall a snapshot was being written when the process ended
    PrunedState         the state after a block that is too old (MissingError)
    UnknownShard        there was no such shard after a block (MissingError)
    InvalidSnapshot     a manifest or part that no correct node serves (RemoteError)
    SnapshotUnavailable this node has no such snapshot (MissingError)
    HistoryAbsent       of before the snapshot that a node began with (MissingError)
    LightError          an answer that a light client refuses (RemoteError)
    |- InvalidProof     it does not prove what it claims
    |- ProvenFork       two different final blocks: more than a third of stake cheats
    OtherEpoch          a block of an epoch that is not trusted yet (MissingError)
    UnknownSigners      too little trust for a skip; ask for less far (MissingError)
    StaleAnswer         about an older block than one shown before (MissingError)

`InvalidTransaction` and `RuleError` carry a stable `code` for programs; the message
is for people and may change.
"""

from typing import TYPE_CHECKING

from primitives.errors import LocalError, MissingError, P2PChainError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chain.light.client import LightBlock
    from shards.chunk import ChunkHeader


class InvalidBlock(RemoteError):
    """The block breaks a rule of block validity."""


class BodyMismatch(InvalidBlock):
    """The bytes are not the block that its hash names; another copy may be good."""


class MissingParent(MissingError):
    """The parent of a block is not held."""

    reason = "is not held"

    def __init__(self, parent_hash: bytes) -> None:
        super().__init__(f"parent {parent_hash.hex()} {self.reason}")
        self.parent_hash = parent_hash


class UnfinalParent(MissingParent):
    """The parent is held and ends an epoch; nothing follows it before it is final."""

    reason = "ends an epoch and is not final"


class MissingBodies(MissingError):
    """Bodies of chunks that a block names are not held; nothing else is wrong with it.

    Args:
        headers: Of those chunks.
    """

    def __init__(self, headers: "Sequence[ChunkHeader]") -> None:
        shards = ", ".join(str(header.shard) for header in headers)
        super().__init__(f"no bodies of the chunks of shards {shards}")
        self.headers = tuple(headers)


class InvalidBody(RemoteError):
    """Not the transactions and packets that a chunk's header binds."""


class ShardNotFollowed(MissingError):
    """This node knows the shard's root and not its state.

    Args:
        shard: Which.
        is_coming: Whether its state is on its way here.
    """

    def __init__(self, shard: int, *, is_coming: bool = False) -> None:
        rest = "takes the rest from peers now" if is_coming else "not what is in it"
        super().__init__(
            f"this node does not follow shard {shard}; it has the root of its state "
            f"and {rest}"
        )
        self.shard = shard


class PastChunk(MissingError):
    """A chunk of a final block whose epoch the state has forgotten."""

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__(f"shard {shard}: chunks of epoch {epoch} are too old now")


class UnknownBlock(MissingError):
    """A block that is neither final nor pending here."""

    def __init__(self, block_hash: bytes) -> None:
        super().__init__(f"block {block_hash.hex()} is not held")
        self.block_hash = block_hash


class UnknownModel(MissingError):
    """A model of which no shard of the layout holds a layer."""


class UselessEvidence(MissingError):
    """Evidence that convicts nobody at this moment; nobody's fault."""


class MissingFraudProof(MissingError):
    """A block or a piece names a fraud proof that is not here; fetch it first."""

    def __init__(self, proof_hash: bytes) -> None:
        super().__init__(f"fraud proof {proof_hash.hex()} is not held")
        self.proof_hash = proof_hash


class UnjudgedFraud(MissingError):
    """A fraud from before our history: only the word of a quorum tells."""


class StoreError(LocalError):
    """The database holds something that we never wrote."""


class ConflictingFinal(StoreError):
    """A certificate finalises a block beside the final chain: more than W/3 cheat."""


class OtherFormat(StoreError):
    """Keys or values of the database are not as this program writes them."""

    def __init__(self, found: bytes | None, wanted: bytes) -> None:
        has = (
            "no format"
            if found is None
            else f"format {found.decode('ascii', 'replace')}"
        )
        super().__init__(
            f"the database has {has} and this version of p2pchain reads format "
            f"{wanted.decode()}: settle with the version that made it, then begin "
            "with an empty data folder (docs/operating.md, Upgrade)"
        )


class UnfinishedInstall(StoreError):
    """A snapshot is half written; writing it again from its parts mends that."""


class InvalidSnapshot(RemoteError):
    """What was shown is not what the header binds; no correct node serves it."""


class SnapshotUnavailable(MissingError):
    """This node has no such snapshot, or none that others could take."""


class HistoryAbsent(MissingError):
    """The node began with a snapshot and has nothing of before.

    Args:
        height: Which was asked for.
        first_height: Of the oldest block that is here.
        what: Of that block.
    """

    def __init__(self, height: int, first_height: int, what: str = "block") -> None:
        super().__init__(
            f"{what} {height}: not here, this node's history begins at "
            f"{first_height}, with a snapshot"
        )
        self.height = height
        self.first_height = first_height


class DamagedBucket(StoreError):
    """A bucket of the state that is not what we wrote.

    Args:
        shard: Whose state it is of.
        index: Its number.
        problem: What is wrong with it.
    """

    def __init__(self, shard: int, index: int, problem: str) -> None:
        super().__init__(f"bucket {index} of shard {shard} {problem}")
        self.shard = shard
        self.index = index


class FailedWrite(StoreError):
    """A write that the disk did not take; the database refuses all later ones.

    What was acknowledged before is safe, and this batch is there whole or not at all
    when the database is opened again.
    """


class PrunedState(MissingError):
    """The state after a block of which only the header is kept.

    Args:
        height: Which was asked for.
        oldest: The oldest one that can be had.
        newest: The newest one.
    """

    def __init__(self, height: int, oldest: int, newest: int) -> None:
        super().__init__(
            f"no state after block {height}: there are those of {oldest} to {newest}"
        )
        self.height = height
        self.oldest = oldest
        self.newest = newest


class UnknownShard(MissingError):
    """There was no such shard after a block."""

    def __init__(self, shard: int, height: int) -> None:
        super().__init__(f"there was no shard {shard} after block {height}")
        self.shard = shard
        self.height = height


class TooManyPending(LocalError):
    """More unfinalised blocks than we hold, all of them needed."""


class InvalidWitness(RemoteError):
    """Too large, not under the root that it names, or not exactly what is touched.

    Nothing is said about the chunk: another witness of it may be good.
    """


class InvalidTransaction(RemoteError):
    """A transaction that no valid block contains; `code` says why."""

    code = "invalid_transaction"


class MalformedTransaction(InvalidTransaction):
    """Bytes that are not the canonical form of a transaction."""

    code = "malformed"


class OversizedTransaction(InvalidTransaction):
    """Longer than any chunk takes."""

    code = "too_large"


class WrongVersion(InvalidTransaction):
    """A version of the envelope that this chain does not know."""

    code = "wrong_version"


class WrongChain(InvalidTransaction):
    """Signed for another chain."""

    code = "wrong_chain"


class WrongShard(InvalidTransaction):
    """Signed for another shard, or for one that does not exist."""

    code = "wrong_shard"


class ShardClosed(InvalidTransaction):
    """The shard is retiring, and moves what it holds to the root shard."""

    code = "shard_closed"


class ShardHalted(InvalidTransaction):
    """A chunk of the shard was proven wrong; nothing happens in it any more."""

    code = "shard_halted"


class BadSignature(InvalidTransaction):
    """The sender did not sign these bytes."""

    code = "bad_signature"


class WrongNonce(InvalidTransaction):
    """The nonce is not the sender's next one in this shard."""

    code = "wrong_nonce"


class NonceGap(WrongNonce):
    """The nonce is too far ahead of the sender's next one."""

    code = "nonce_gap"


class DoubleSpend(WrongNonce):
    """Another transaction with this nonce is already waiting."""

    code = "double_spend"


class AlreadyKnown(InvalidTransaction):
    """This very transaction is already waiting."""

    code = "already_known"


class Expired(InvalidTransaction):
    """The chain is past the transaction's last height."""

    code = "expired"


class FeeAboveLimit(InvalidTransaction):
    """The fee is more than the sender allows."""

    code = "fee_above_limit"


class CannotPay(InvalidTransaction):
    """The balance in this shard covers neither fee nor outflow."""

    code = "insufficient_funds"


class PoolFull(InvalidTransaction):
    """The mempool is full; nobody's fault, try again."""

    code = "pool_full"


class ValidityTooLong(InvalidTransaction):
    """Valid so far into the future that it might wait for ever."""

    code = "validity_too_long"


class CongestedShard(InvalidTransaction):
    """The destination shard is behind; the transaction would add to its backlog."""

    code = "congested"


class RuleError(P2PChainError):
    """A rule refused; the transaction pays its fee and changes nothing else.

    Args:
        code: Stable word for programs, one of those in docs/protocol/02-transactions.
        message: What is wrong, with the numbers.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LightError(RemoteError):
    """A light client refuses what it was shown."""


class InvalidProof(LightError):
    """What was shown does not prove what it claims; no honest node shows it."""


class ProvenFork(LightError):
    """Two final blocks exclude each other: more than a third of some stake cheats.

    Args:
        message: In what they do.
        first: The block that was known, with what makes it final.
        second: The one that was shown beside it, likewise.
    """

    def __init__(self, message: str, first: "LightBlock", second: "LightBlock") -> None:
        super().__init__(message)
        self.first = first
        self.second = second


class OtherEpoch(MissingError):
    """A block of another epoch than the trusted one; synchronise first."""

    def __init__(self, epoch: int, trusted: int) -> None:
        super().__init__(f"a block of epoch {epoch}, while epoch {trusted} is trusted")
        self.epoch = epoch
        self.trusted = trusted


class UnknownSigners(MissingError):
    """Those who signed are too few of those who are trusted; a nearer block may do."""


class StaleAnswer(MissingError):
    """Older than what is known to be final: the node is behind, or hides blocks."""
