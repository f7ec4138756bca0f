"""A chain of headers over many epochs with coming and going validators, made by hand.

There is no execution behind the headers, so every kind of chain, also a forged one, is
one function call away.  Real BLS keys; `StandinScheme` fits as well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import msgspec

from chain.errors import LightError
from chain.light.client import (
    EpochProof,
    LightBlock,
    LightChain,
    LightState,
    validate_block,
    validate_state,
)
from chain.records.account import Account
from chain.records.block import compute_root_path, compute_roots_root
from chain.records.header import (
    HEADER_VERSION,
    Header,
    build_proposal,
    compute_block_hash,
)
from chain.records.keys import build_account_key
from chain.state.proofs import StateProof
from consensus.messages import (
    Certificate,
    Kind,
    Proposal,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from consensus.scheme import SignatureScheme
from consensus.validators import Validator, ValidatorSet, encode_bitmap
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.buckets import (
    build_proof,
    compute_bucket_count,
    compute_bucket_hash,
    compute_bucket_index,
    compute_tree,
    encode_bucket,
)
from primitives.codec import encode
from primitives.errors import MissingError
from primitives.merkle import EMPTY_ROOT
from primitives.types import ShardId

CHAIN_ID = bytes([7]) * 32
START_MS = 1_700_000_000_000
LEVELS = 2
SHARDS = (0, 1, 5)
ADDRESS = bytes([3]) * 32
KEY = build_account_key(ADDRESS)
ABSENT = build_account_key(bytes([4]) * 32)

Keys = Sequence[Any]
"""Signers of a set, in its order."""


def make_key(number: int) -> BlsSecretKey:
    """Return validator key `number`."""
    return BlsSecretKey((number + 1).to_bytes(32, "big"))


def build_set(keys: Keys, powers: Iterable[int] | None = None) -> ValidatorSet:
    weights = list(powers) if powers is not None else [100] * len(keys)
    return ValidatorSet(
        tuple(Validator(k.public_key, p) for k, p in zip(keys, weights, strict=True))
    )


def change(record: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(record, **changes)


@dataclass
class LightWorld:
    """Headers of the final chain, and everybody's keys to certify or forge with."""

    schedule: Sequence[Keys]
    """Signers by epoch; the last ones stay for ever."""
    epoch_blocks: int = 4
    epochs: int | None = None
    """How many are over; default: as many as the schedule has."""
    scheme: ModuleType | Any = bls
    headers: list[Header] = field(default_factory=list)
    """By height, genesis first."""

    def __post_init__(self) -> None:
        assert self.schedule[0] == self.schedule[1]
        epochs = len(self.schedule) if self.epochs is None else self.epochs
        for _ in range(epochs * self.epoch_blocks + 2):
            self.headers.append(self.build_header())

    @property
    def tip(self) -> Header:
        return self.headers[-1]

    @property
    def chain(self) -> LightChain:
        return LightChain(
            chain_id=CHAIN_ID, epoch_blocks=self.epoch_blocks, bucket_levels=LEVELS
        )

    @cached_property
    def first(self) -> LightState:
        return LightState.from_set(self.chain, 0, self.get_set(0))

    def trust(self, epoch: int) -> LightState:
        """Return the state of somebody who trusts just one epoch's set."""
        return LightState.from_set(self.chain, epoch, self.get_set(epoch))

    def get_keys(self, epoch: int) -> Keys:
        return self.schedule[min(epoch, len(self.schedule) - 1)]

    def get_set(self, epoch: int) -> ValidatorSet:
        return build_set(self.get_keys(epoch))

    def get_epoch(self, height: int) -> int:
        return max(0, height - 1) // self.epoch_blocks

    def get_last(self, epoch: int) -> Header:
        return self.headers[(epoch + 1) * self.epoch_blocks]

    def build_header(self, **changes: Any) -> Header:
        """Return the next header on the tip."""
        height = len(self.headers)
        epoch = self.get_epoch(height)
        parent = self.headers[-1] if self.headers else None
        is_first = parent is None or self.get_epoch(height) != parent.epoch
        # Every third view brings nothing.
        view = 0 if parent is None else 1 if is_first else parent.view + 1
        view += view % 3 == 2
        header = Header(
            version=HEADER_VERSION,
            chain_id=CHAIN_ID,
            epoch=epoch,
            view=view,
            height=height,
            parent_hash=bytes(32) if parent is None else compute_block_hash(parent),
            parent_view=0 if is_first or parent is None else parent.view,
            time_ms=START_MS + 1000 * height,
            proposer=0,
            reveal=bytes(96),
            mix=bytes(32),
            chunks_root=EMPTY_ROOT,
            certificates_root=EMPTY_ROOT,
            heads_root=EMPTY_ROOT,
            roots_root=compute_roots_root(self.get_roots(height)),
            attendance_root=EMPTY_ROOT,
            evidence_root=EMPTY_ROOT,
            valset_root=self.get_set(epoch).compute_root(),
            next_valset_root=self.get_set(epoch + 1).compute_root(),
            layout_root=EMPTY_ROOT,
            next_layout_root=EMPTY_ROOT,
        )
        return change(header, **changes)

    # ----------------------------------------------------------------- state

    def get_state(self, shard: int, height: int) -> dict[bytes, bytes]:
        """Return what a shard holds: a balance that grows with the height."""
        return {
            KEY: encode(Account(1000 * shard + height, height, ())),
            **{bytes([b"x"[0], n]): bytes([n]) for n in range(40)},
        }

    def get_tree(self, shard: int, height: int) -> tuple[list[dict], list[bytes]]:
        buckets: list[dict] = [{} for _ in range(compute_bucket_count(LEVELS))]
        for key, value in self.get_state(shard, height).items():
            buckets[compute_bucket_index(key, LEVELS)][key] = value
        leaves = [compute_bucket_hash(encode_bucket(b)) for b in buckets]
        return buckets, compute_tree(leaves, LEVELS)

    def get_roots(self, height: int) -> dict[int, bytes]:
        return {shard: self.get_tree(shard, height)[1][0] for shard in SHARDS}

    def prove(self, shard: int, key: bytes, height: int = -1) -> StateProof:
        """Return the proof of a key's value after a block."""
        header = self.headers[height]
        buckets, tree = self.get_tree(shard, header.height)
        number = compute_bucket_index(key, LEVELS)
        roots = self.get_roots(header.height)
        index, path = compute_root_path(roots, shard)
        return StateProof(
            shard=shard,
            key=key,
            value=buckets[number].get(key),
            bucket=build_proof(tree.__getitem__, number, buckets[number], LEVELS),
            levels=LEVELS,
            shard_root=roots[shard],
            index=index,
            count=len(roots),
            path=path,
            header=header,
            certificate=self.certify(header),
        )

    # ---------------------------------------------------------- certificates

    def certify(
        self,
        header: Header,
        *,
        keys: Keys | None = None,
        signers: Iterable[int] | None = None,
        kind: Kind = Kind.FINALIZATION,
        again: tuple[int, int] | None = None,
        **changes: Any,
    ) -> Certificate:
        """Return a certificate of a header.

        Args:
            header: Which.
            keys: Whose; default: of its epoch's set.
            signers: Indices; default: all.
            kind: Of vote.
            again: (view, parent view) of a re-proposal.
            changes: Of the proposal.
        """
        block_hash = compute_block_hash(header)
        proposal = build_proposal(header, block_hash)
        if again is not None:
            view, parent_view = again
            proposal = change(
                proposal, view=view, parent_view=parent_view, parent_hash=block_hash
            )
        proposal = change(proposal, **changes)
        keys = self.get_keys(header.epoch) if keys is None else keys
        return sign_certificate(proposal, keys, signers, kind, self.scheme)

    def light_block(self, height: int = -1, links: int = 0, **how: Any) -> LightBlock:
        """Return a block, certified by itself or by its descendant `links` above."""
        first = self.headers[height].height
        headers = tuple(self.headers[first : first + links + 1])
        certificate = self.certify(headers[-1], **how)
        return LightBlock(headers, certificate, self.get_set(headers[0].epoch))

    def epoch_proof(self, epoch: int, **how: Any) -> EpochProof:
        header = self.get_last(epoch)
        return EpochProof(header, self.certify(header, **how), self.get_set(epoch + 1))


def sign_certificate(
    proposal: Proposal,
    keys: Keys,
    signers: Iterable[int] | None = None,
    kind: Kind = Kind.FINALIZATION,
    scheme: Any = bls,
) -> Certificate:
    """Return the certificate of `keys`' votes for a proposal."""
    chosen = range(len(keys)) if signers is None else tuple(signers)
    messages = {
        Kind.NOTARIZATION: compute_notarize_bytes(CHAIN_ID, proposal),
        Kind.FINALIZATION: compute_finalize_bytes(CHAIN_ID, proposal),
        Kind.NULLIFICATION: compute_nullify_bytes(
            CHAIN_ID, proposal.epoch, proposal.view
        ),
    }
    return Certificate(
        kind=kind,
        proposal=None if kind == Kind.NULLIFICATION else proposal,
        epoch=proposal.epoch,
        view=proposal.view,
        bitmap=encode_bitmap(chosen, len(keys)),
        signature=scheme.aggregate([keys[i].sign(messages[kind]) for i in chosen]),
    )


def list_mutations(header: Header) -> list[Header]:
    """Return the header with every field changed, one at a time."""
    mutated = []
    for name in header.__struct_fields__:
        value = getattr(header, name)
        if isinstance(value, int):
            others = [value + 1, value ^ 4, 0 if value else 7]
        else:
            others = [
                bytes(len(value) - 1) + b"\x01",
                bytes([value[0] ^ 128]) + value[1:],
            ]
        mutated += [change(header, **{name: other}) for other in others]
    return [other for other in mutated if other != header]


def verify_header(
    state: LightState, block: LightBlock, scheme: SignatureScheme
) -> bool:
    """Tell whether a block of the trusted epoch is final."""
    try:
        validate_block(state, block, scheme)
    except (LightError, MissingError):
        return False
    return True


def verify_state(
    state: LightState,
    shard: ShardId,
    key: bytes,
    proof: StateProof,
    scheme: SignatureScheme,
) -> bool:
    """Tell whether `validate_state` finds nothing wrong."""
    try:
        validate_state(state, shard, key, proof, scheme)
    except (LightError, MissingError):
        return False
    return True
