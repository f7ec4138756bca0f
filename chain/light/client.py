"""
The light client: final blocks and their state, verified from a validator set alone.

Theory of operation
-------------------
Trust is an epoch and its validator set.  Every header names its epoch's set and the
next one's, and a finalization certificate is signed by more than two thirds of a set:

    (e, V_e) --EpochProof: boundary block of e, certified by V_e, names V_(e+1)--> e+1
    (e, V_e) --LightBlock of e' > e: certified by > 2/3 of V_e', which it names,
               and those who signed it hold > 1/3 of V_e ------------------------> e'
    (e, V_e) --LightBlock of e: header and certificate------> a final block
    (e, V_e) --StateProof: bucket, shard root, header ------> a key's value in it

The last two steps of a skip do not suffice with signatures that add up.  Whoever shows
us V_e' chooses its keys, and a key chosen as `own - k1 - k2` makes `own` alone sign for
k1 and k2 as well.  The chain asks for proofs of possession against that; we never see
them.  So in a skip everybody who signed must be known from a set that was trusted
before: `proven` collects those keys, and a skip over a newcomer is refused with
`UnknownSigners`, as one with too little overlap is; chain/light/sync.py then
halves it, down to single epochs, which need nobody's word but V_e's.

This file is a referee: it shares records and hashes with the rest, but counts quorums
and follows links by itself, and accepts exactly the final chain.  It holds no clock, no
connection and no key.

Spec: docs/protocol/12-light-client.md
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from chain.errors import (
    InvalidProof,
    OtherEpoch,
    ProvenFork,
    StaleAnswer,
    UnknownSigners,
)
from chain.records.header import (
    HEADER_VERSION,
    Header,
    build_proposal,
    compute_block_hash,
)
from chain.state.proofs import StateProof, verify_membership
from consensus.errors import InvalidValidators
from consensus.messages import Certificate, Kind, Proposal, compute_finalize_bytes
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet, decode_bitmap
from primitives.codec import Record
from primitives.types import U8, Epoch, Hash32, Height, ShardId

MAX_LINKS = 64
"""Headers from a block to the certified one; a node reads so many blocks to answer."""
MAX_PROVEN = 4096
"""Keys remembered: 32 sets of strangers; beyond, only the trusted set's are kept."""


class LightBlock(Record):
    """A final block, and what shows that it is."""

    headers: Annotated[tuple[Header, ...], Meta(min_length=1, max_length=MAX_LINKS)]
    """Its header, then its descendants' up to the certified one, of the same epoch."""
    certificate: Certificate
    """Makes the last of them final, and so all."""
    validators: ValidatorSet
    """Of their epoch."""

    @property
    def header(self) -> Header:
        """The block's own."""
        return self.headers[0]


class EpochProof(Record):
    """The end of an epoch, and who votes in the next one."""

    header: Header
    """Of the epoch's last block."""
    certificate: Certificate
    validators: ValidatorSet
    """Of the next epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LightChain:
    """Constants of a chain, all fixed by its genesis."""

    chain_id: Hash32
    epoch_blocks: Height
    bucket_levels: U8

    def get_last_height(self, epoch: Epoch) -> Height:
        """Return the height of an epoch's boundary block."""
        return (epoch + 1) * self.epoch_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class LightState:
    """What a light client believes."""

    chain: LightChain
    epoch: Epoch
    validators: ValidatorSet
    """V of the epoch."""
    shown: LightBlock | None = None
    """The highest block that was shown to be final, with what showed it, in case that
    another one is shown beside it; None before the first."""
    proven: frozenset[bytes] = frozenset()
    """BLS keys of every set that was trusted: their possession was proven."""

    @property
    def newest(self) -> Header | None:
        """Of the highest block that was shown to be final; None before the first."""
        return None if self.shown is None else self.shown.header

    @classmethod
    def from_set(
        cls, chain: LightChain, epoch: Epoch, validators: ValidatorSet
    ) -> "LightState":
        """Return the state of somebody who trusts one set, as that of genesis is.

        Raises:
            LightError: It is no validator set.
        """
        _validate_set(validators)
        proven = frozenset(v.public_key for v in validators.validators)
        return cls(chain=chain, epoch=epoch, validators=validators, proven=proven)


def advance(
    state: LightState, proof: EpochProof, scheme: SignatureScheme
) -> LightState:
    """Return the state one epoch later.

    Raises:
        LightError, OtherEpoch, StaleAnswer: It does not show that.
    """
    header = proof.header
    if header.height != state.chain.get_last_height(header.epoch):
        raise InvalidProof(f"block {header.height} is not the last one of its epoch")
    block = LightBlock((header,), proof.certificate, state.validators)
    state = adopt(state, block, scheme)
    if proof.validators.compute_root() != header.next_valset_root:
        raise InvalidProof("the next epoch's validators are others")
    return _trust(state, state.epoch + 1, proof.validators)


def skip(state: LightState, block: LightBlock, scheme: SignatureScheme) -> LightState:
    """Return the state after a block of a later epoch, with the set that it names.

    Raises:
        UnknownSigners: Too few of those who signed are trusted; try a nearer epoch.
        LightError: It proves nothing.
    """
    header, later = block.header, block.validators
    if header.epoch <= state.epoch:
        raise InvalidProof("a skip to an epoch that is not a later one")
    _validate_set(later)
    signers = decode_bitmap(block.certificate.bitmap, len(later)) or ()
    keys = set(later.get_public_keys(signers))
    if not keys <= state.proven:
        raise UnknownSigners("somebody signed with a key that was never trusted")
    trusted = state.validators
    overlap = sum(v.power for v in trusted.validators if v.public_key in keys)
    if 3 * overlap <= trusted.total_power:
        raise UnknownSigners(f"{overlap} of {trusted.total_power} trusted power signed")
    return adopt(_trust(state, header.epoch, later), block, scheme)


def adopt(state: LightState, block: LightBlock, scheme: SignatureScheme) -> LightState:
    """Return the state with `block` as the newest one.

    Raises:
        StaleAnswer: A newer one is known; the block may be final all the same.
        LightError, OtherEpoch: It is not final.
    """
    validate_block(state, block, scheme)
    return _remember(state, block)


def validate_block(
    state: LightState, block: LightBlock, scheme: SignatureScheme
) -> None:
    """Check that a block of the trusted epoch is final.

    Raises:
        OtherEpoch: It is of another epoch.
        InvalidProof: It is not shown to be final.
        ProvenFork: It is final beside another final block.
    """
    if block.header.epoch != state.epoch:
        raise OtherEpoch(block.header.epoch, state.epoch)
    if block.validators != state.validators:
        raise InvalidProof("the block comes with other validators")
    root = state.validators.compute_root()
    for header in block.headers:
        _validate_header(state, header, root)
    _validate_links(block.headers)
    _validate_certificate(state, block.headers[-1], block.certificate, scheme)
    if state.shown is not None:
        for header in block.headers:
            fault = _find_conflict(header, state.shown.header)
            if fault:
                raise ProvenFork(fault, state.shown, block)


def validate_state(
    state: LightState,
    shard: ShardId,
    key: bytes,
    proof: StateProof,
    scheme: SignatureScheme,
) -> None:
    """Check a value, or its absence, in the state after a block of the trusted epoch.

    Args:
        state: What is trusted.
        shard: Which was asked for.
        key: Which was asked for.
        proof: Says the value.
        scheme: Verifies the certificate.

    Raises:
        LightError, OtherEpoch: The proof does not hold, or proves something else.
    """
    if (proof.shard, proof.key) != (shard, key):
        raise InvalidProof("a proof of another key than was asked for")
    if not verify_membership(proof, state.chain.bucket_levels):
        raise InvalidProof("the value does not belong to the header")
    validate_block(state, _build_block(state, proof), scheme)


def adopt_state(
    state: LightState,
    shard: ShardId,
    key: bytes,
    proof: StateProof,
    scheme: SignatureScheme,
) -> LightState:
    """Return the state with the proof's block as the newest one.

    Raises:
        StaleAnswer: A newer block is known; what the proof says is of the past.
        LightError, OtherEpoch: As `validate_state`.
    """
    validate_state(state, shard, key, proof, scheme)
    return _remember(state, _build_block(state, proof))


def _build_block(state: LightState, proof: StateProof) -> LightBlock:
    """Return the block that a proof is about."""
    if proof.certificate is None:
        raise InvalidProof("no certificate")
    return LightBlock(
        (proof.header, *proof.descendants), proof.certificate, state.validators
    )


def _remember(state: LightState, block: LightBlock) -> LightState:
    height = block.header.height
    if state.newest is not None and height < state.newest.height:
        raise StaleAnswer(
            f"block {height}, while {state.newest.height} is known to be final"
        )
    return replace(state, shown=block)


def _trust(state: LightState, epoch: Epoch, validators: ValidatorSet) -> LightState:
    keys = frozenset(v.public_key for v in validators.validators)
    proven = state.proven | keys
    if len(proven) > MAX_PROVEN:
        proven = keys
    return replace(state, epoch=epoch, validators=validators, proven=proven)


def _validate_set(validators: ValidatorSet) -> None:
    try:
        validators.validate()
    except InvalidValidators as error:
        raise InvalidProof(str(error)) from error


def _validate_header(state: LightState, header: Header, valset_root: bytes) -> None:
    """Check what a header says of its place."""
    chain = state.chain
    if (header.version, header.chain_id) != (HEADER_VERSION, chain.chain_id):
        raise InvalidProof("a header of another chain or version")
    first = chain.get_last_height(state.epoch - 1) + 1
    is_inside = first <= header.height <= chain.get_last_height(state.epoch)
    if header.epoch != state.epoch or not is_inside:
        raise InvalidProof(f"block {header.height} is not one of epoch {state.epoch}")
    if header.valset_root != valset_root:
        raise InvalidProof("the header names other validators")


def _validate_links(headers: Sequence[Header]) -> None:
    """Check that every header is the parent of the next one."""
    for parent, child in pairwise(headers):
        if child.parent_hash != compute_block_hash(parent):
            raise InvalidProof(f"block {child.height} has another parent")
        is_next = child.height == parent.height + 1
        is_later = child.view > parent.view and child.time_ms > parent.time_ms
        if not is_next or not is_later or child.parent_view != parent.view:
            raise InvalidProof(f"block {child.height} does not follow its parent")
        if child.next_valset_root != parent.next_valset_root:
            raise InvalidProof("two next sets in one epoch")


def _validate_certificate(
    state: LightState,
    header: Header,
    certificate: Certificate,
    scheme: SignatureScheme,
) -> None:
    """Check that more than two thirds of the trusted power finalized the header."""
    proposal, validators = certificate.proposal, state.validators
    if certificate.kind != Kind.FINALIZATION or proposal is None:
        raise InvalidProof("a certificate that makes nothing final")
    if (certificate.epoch, certificate.view) != (proposal.epoch, proposal.view):
        raise InvalidProof("a certificate of another view than its subject's")
    is_boundary = header.height == state.chain.get_last_height(header.epoch)
    if not _is_proposal_of(proposal, header, is_boundary=is_boundary):
        raise InvalidProof("a certificate of another block")
    signers = decode_bitmap(certificate.bitmap, len(validators))
    if signers is None:
        raise InvalidProof("a bitmap that does not fit the validators")
    power = sum(validators.validators[signer].power for signer in signers)
    if 3 * power <= 2 * sum(v.power for v in validators.validators):
        raise InvalidProof(f"{power} of {validators.total_power} power is no quorum")
    keys = validators.get_public_keys(signers)
    message = compute_finalize_bytes(header.chain_id, proposal)
    if not scheme.fast_aggregate_verify(keys, message, certificate.signature):
        raise InvalidProof("the certificate's signature does not verify")


def _is_proposal_of(proposal: Proposal, header: Header, *, is_boundary: bool) -> bool:
    """Tell whether a vote for `proposal` is one for the header's block."""
    block_hash = compute_block_hash(header)
    if proposal == build_proposal(header, block_hash):
        return True
    # An epoch's last block is proposed again, as its own parent, until it is final.
    again = Proposal(
        epoch=header.epoch,
        view=proposal.view,
        parent_view=proposal.parent_view,
        parent_hash=block_hash,
        block_hash=block_hash,
        height=header.height,
    )
    is_later = header.view <= proposal.parent_view < proposal.view
    return is_boundary and is_later and proposal == again


def _find_conflict(header: Header, newest: Header) -> str:
    """Return why a final header and the newest one are not of one chain, or ""."""
    if header == newest:
        return ""
    if header.height == newest.height:
        return f"two final blocks at height {header.height}"
    if (header.height > newest.height) != (header.time_ms > newest.time_ms):
        return "two final blocks whose times and heights run apart"
    is_child = header.height == newest.height + 1
    if is_child and header.parent_hash != compute_block_hash(newest):
        return f"final block {header.height} has another parent"
    # Every block of an epoch announces the set that the next one has.
    announced = header.next_valset_root
    if header.epoch == newest.epoch + 1:
        announced = header.valset_root
    is_near = newest.epoch <= header.epoch <= newest.epoch + 1
    if is_near and announced != newest.next_valset_root:
        return "an epoch with other validators than were announced"
    return ""
