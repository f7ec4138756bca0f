"""
Ranges and receipts: each hop's signed account, linked into a chain of contribution.

Theory of operation
-------------------
Both ends of every link collect one digest per step.  When a range closes, the sender
says what it sent, signed, and the receiver compares that with what came:

    requester           hop 0                    hop 1                  requester
    SignedInput ------> in_hash == own digests?
                        Receipt 0 -------------> out_hash == own digests?
                                                 Receipt 1 -----------> == own digests?
      previous_hop:     hash(SignedInput)        hash(Receipt 0)

So in_hash of a receipt always repeats the out_hash of the one before, and whoever sees
other bytes than were signed for stops there, before it computes the closing step and
before it signs.  The requester also holds every receipt and checks the whole chain.

A range that is cut off by an abort has no signed predecessor, or one that is wrong.
The hop still accounts for the steps that it delivered, in a receipt with previous_hop
= `EMPTY_HASH`: it links to nobody, says only what the hop itself did, and lets it
settle what it was paid for (the chain pays nothing beyond attested work).

Spec: docs/protocol/07-inference.md, "Receipts"
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from chain.records.proof import (
    Receipt,
    compute_receipt_hash,
    compute_receipt_message,
    verify_receipt,
)
from inference.protocol.activations import compute_range_hash
from inference.protocol.errors import ReceiptMismatch
from inference.protocol.messages import SignedInput
from inference.protocol.steps import Step
from primitives.codec import encode
from primitives.hashing import compute_hash
from primitives.keys import verify_signature
from primitives.types import EMPTY_HASH

Sign = Callable[[bytes], bytes]
"""Signs a message with a key that the caller holds."""

EMPTY_SIGNATURE = bytes(64)


@dataclass(frozen=True, slots=True)
class Range:
    """Steps since the last receipt, as one participant saw them."""

    first_position: int = 0
    """Of its first step; a later one may begin earlier than the one before it ended."""
    tokens: int = 0
    """Of all its steps: what was computed, not how far it came."""
    units: int = 0
    """What the steps cost at this hop."""
    in_digests: tuple[bytes, ...] = ()
    out_digests: tuple[bytes, ...] = ()

    def add(
        self, step: Step, units: int, in_digest: bytes, out_digest: bytes
    ) -> "Range":
        """Return the range with one more step at its end."""
        place = _encode_place(step.position, step.tokens)
        return Range(
            first_position=self.first_position if self.tokens else step.position,
            tokens=self.tokens + step.tokens,
            units=self.units + units,
            in_digests=(*self.in_digests, place + in_digest),
            out_digests=(*self.out_digests, place + out_digest),
        )

    @property
    def in_hash(self) -> bytes:
        """Hash of everything that came in."""
        return compute_range_hash(self.in_digests)

    @property
    def out_hash(self) -> bytes:
        """Hash of everything that went out."""
        return compute_range_hash(self.out_digests)


def compute_history_root(
    before: bytes, first_position: int, tokens: int, in_hash: bytes
) -> bytes:
    """Return the hash chain of a session's inputs, one range further."""
    place = _encode_place(first_position, tokens)
    return compute_hash("history", before, place, in_hash)


def _encode_place(position: int, tokens: int) -> bytes:
    return position.to_bytes(4, "big") + tokens.to_bytes(4, "big")


# The requester's word


def sign_input(
    chain_id: bytes, session: bytes, work: Range, signer: bytes, sign: Sign
) -> SignedInput:
    """Return the requester's statement about the inputs of a range."""
    unsigned = SignedInput(
        chain_id=chain_id,
        session=session,
        first_position=work.first_position,
        tokens=work.tokens,
        in_hash=work.in_hash,
        signer=signer,
        signature=EMPTY_SIGNATURE,
    )
    signature = sign(_compute_input_message(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def verify_input(statement: SignedInput) -> bool:
    """Tell whether the statement is signed by the key that it names."""
    message = _compute_input_message(statement)
    return verify_signature(statement.signer, message, statement.signature)


def compute_input_hash(statement: SignedInput) -> bytes:
    """Return what the first hop's receipt names as its predecessor."""
    return compute_hash("signed-input", encode(statement))


def _compute_input_message(statement: SignedInput) -> bytes:
    return compute_hash("input", encode(msgspec.structs.astuple(statement)[:-1]))


# A hop's word


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What is the same in all receipts of one hop in one session."""

    chain_id: bytes
    session: bytes
    channel_id: bytes
    client: bytes
    node: bytes
    profile: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ReceiptTrail:
    """How far one hop's receipts of one session have come; moves with each of them."""

    previous_own: bytes = EMPTY_HASH
    history_root: bytes = EMPTY_HASH

    def extend(self, receipt: Receipt) -> "ReceiptTrail":
        """Return the trail with `receipt` as its last one."""
        return replace(
            self,
            previous_own=compute_receipt_hash(receipt),
            history_root=receipt.history_root,
        )


def sign_receipt(
    contribution: Contribution,
    trail: ReceiptTrail,
    work: Range,
    *,
    previous_hop: bytes,
    nonce: int,
    expires_height: int,
    sign: Sign,
) -> Receipt:
    """Return the hop's signed receipt for `work`."""
    in_hash = work.in_hash
    unsigned = Receipt(
        chain_id=contribution.chain_id,
        session=contribution.session,
        channel_id=contribution.channel_id,
        client=contribution.client,
        node=contribution.node,
        profile=contribution.profile,
        start=contribution.start,
        end=contribution.end,
        first_position=work.first_position,
        tokens=work.tokens,
        in_hash=in_hash,
        out_hash=work.out_hash,
        history_root=compute_history_root(
            trail.history_root, work.first_position, work.tokens, in_hash
        ),
        price_units=work.units,
        nonce=nonce,
        previous_hop=previous_hop,
        previous_own=trail.previous_own,
        expires_height=expires_height,
        signature=EMPTY_SIGNATURE,
    )
    signature = sign(compute_receipt_message(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


# Checks at the next link


def validate_input(
    statement: SignedInput, chain_id: bytes, session: bytes, signer: bytes, work: Range
) -> None:
    """Hold the requester's statement against what the first hop received.

    Raises:
        ReceiptMismatch: Of another session, unsigned, or about other bytes.
    """
    if statement.chain_id != chain_id or statement.session != session:
        raise ReceiptMismatch("the signed input is of another session")
    if statement.signer != signer or not verify_input(statement):
        raise ReceiptMismatch("the input is not signed by the channel's signer")
    _validate_place(statement.first_position, statement.tokens, work, b"")
    if statement.in_hash != work.in_hash:
        raise ReceiptMismatch("the signed input is about other bytes than came")


def validate_predecessor(
    receipt: Receipt,
    chain_id: bytes,
    session: bytes,
    node: bytes,
    end: int,
    work: Range,
) -> None:
    """Hold the previous hop's receipt against what this hop received.

    Args:
        receipt: What the previous hop signed.
        chain_id: Ours.
        session: Ours.
        node: Key of the previous hop, by the requester's terms.
        end: Where its layers must end: at our first one.
        work: The range as we received it.

    Raises:
        ReceiptMismatch: Of another session or hop, unsigned, or about other bytes.
    """
    if receipt.chain_id != chain_id or receipt.session != session:
        raise ReceiptMismatch("a receipt of another session", peer_id=node)
    if receipt.node != node or receipt.end != end:
        raise ReceiptMismatch("a receipt of another hop", peer_id=node)
    _validate_place(receipt.first_position, receipt.tokens, work, node)
    if receipt.out_hash != work.in_hash:
        raise ReceiptMismatch(
            "the previous hop signed for other bytes than it sent", peer_id=node
        )
    if not verify_receipt(receipt):
        raise ReceiptMismatch("a receipt with a wrong signature", peer_id=node)


def _validate_place(first: int, tokens: int, work: Range, node: bytes) -> None:
    if (first, tokens) != (work.first_position, work.tokens):
        raise ReceiptMismatch(
            f"positions {first}+{tokens} where {work.first_position}+{work.tokens} "
            "are due",
            peer_id=node,
        )


# Checks by the requester


def validate_own_trail(
    receipt: Receipt, contribution: Contribution, trail: ReceiptTrail
) -> None:
    """Check what needs one hop's receipts only: identity, trail, signature.

    Raises:
        ReceiptMismatch: Says what is wrong; carries the hop.
    """
    node = contribution.node
    said = Contribution(
        chain_id=receipt.chain_id,
        session=receipt.session,
        channel_id=receipt.channel_id,
        client=receipt.client,
        node=receipt.node,
        profile=receipt.profile,
        start=receipt.start,
        end=receipt.end,
    )
    if said != contribution:
        raise ReceiptMismatch("a receipt for other terms", peer_id=node)
    if receipt.previous_own != trail.previous_own:
        raise ReceiptMismatch("a receipt that skips the hop's last one", peer_id=node)
    history = compute_history_root(
        trail.history_root, receipt.first_position, receipt.tokens, receipt.in_hash
    )
    if receipt.history_root != history:
        raise ReceiptMismatch("a receipt with another history", peer_id=node)
    if not verify_receipt(receipt):
        raise ReceiptMismatch("a receipt with a wrong signature", peer_id=node)


def validate_chain(
    receipts: Sequence[Receipt], units: Sequence[int], sent: SignedInput, work: Range
) -> None:
    """Check that the receipts of one range form a chain from our input to our answer.

    Args:
        receipts: One per hop, in route order, each already valid on its own.
        units: What the range costs at each hop.
        sent: What we signed for.
        work: The range as we sent and received it.

    Raises:
        ReceiptMismatch: Says which link is broken; carries the hop that signed it.
    """
    previous_hop, in_hash = compute_input_hash(sent), sent.in_hash
    for receipt, price in zip(receipts, units, strict=True):
        node = receipt.node
        _validate_place(receipt.first_position, receipt.tokens, work, node)
        if receipt.previous_hop != previous_hop:
            raise ReceiptMismatch("a receipt names another predecessor", peer_id=node)
        if receipt.in_hash != in_hash:
            raise ReceiptMismatch("a receipt for another input", peer_id=node)
        if receipt.price_units != price:
            raise ReceiptMismatch(
                f"{receipt.price_units} units where {price} were agreed", peer_id=node
            )
        previous_hop, in_hash = compute_receipt_hash(receipt), receipt.out_hash
    if in_hash != work.out_hash:
        raise ReceiptMismatch(
            "the last hop signed for another answer than it sent",
            peer_id=receipts[-1].node,
        )
