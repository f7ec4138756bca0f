"""
What requester and hops say to each other, and its bytes.

Theory of operation
-------------------
A requester holds one stream "hop/1" to every hop of its route; each hop holds one
stream "push/1" to the next.  Data makes one lap: requester, first hop, ..., last hop,
requester.  Everything else goes over the requester's own stream to each hop, so no hop
can hold back or strip what is meant for another.

    requester --Open--> hop            hop --Accept | Refuse--> requester
    requester --Data--> hop 0 --Data--> hop 1 --Data--> ... --Data--> requester
    requester --Pay--> every hop       every hop --Note(receipt)--> requester
    requester --Finish--> hop 0 --Finish--> ... --Finish--> requester
    either --Abort--> other            requester --Probe--> hop --Progress--> requester

When a hop is lost the others stay.  The requester opens a replacement, reads what the
hop before the gap has sent (Fetch), has the replacement compute it, and tells every hop
its neighbours anew; that begins another attempt of the session.

    hop --Unlinked | Leaving--> requester
    requester --Fetch--> hop --Kept--> requester
    requester --Relink--> every hop    every hop --Linked--> requester

A frame is a 4-byte big-endian length, that many bytes of a canonical message, and a
body, which only Data and Kept have: hidden states `(tokens, hidden)` as they are.

Spec: docs/protocol/07-inference.md
"""

from typing import Annotated

from msgspec import Meta

from chain.records.channel import Payment
from chain.records.proof import Receipt
from inference.protocol.errors import BadMessage
from inference.protocol.prefix_keys import MAX_PREFIX_KEYS
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from primitives.keys import verify_signature
from primitives.types import (
    EMPTY_HASH,
    U8,
    U16,
    U32,
    U63,
    Address,
    Amount,
    Hash32,
    PublicKey,
    Signature,
)

VERSION = 4

HOP_PROTOCOL = "hop/1"
PUSH_PROTOCOL = "push/1"

MAX_HOPS = 64
"""More stages than layers of today's large models make no sense."""
MAX_TEXT = 200
"""Characters of an explanation for people."""
MAX_HEADER_BYTES = 12 * 1024
"""Open with all names of beginnings is the longest, about 9 KiB."""
MAX_BODY_BYTES = 16 * 1024 * 1024
"""128 tokens of 32,768 numbers in float32."""
MAX_FRAME_BYTES = 4 + MAX_HEADER_BYTES + MAX_BODY_BYTES

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Names = Annotated[tuple[Hash32, ...], Meta(max_length=MAX_PREFIX_KEYS)]
"""Of beginnings of a sequence (prefix_keys.py), in the order of their lengths."""


class SessionTerms(Record):
    """What the requester asks one hop for; signed with the channel's signer key."""

    version: U8
    chain_id: Hash32
    session: Hash32
    """Random; the same at all hops of the route."""
    attempt: U16
    """Grows with every change of the route; data of older attempts is ignored."""
    provider: PublicKey
    """Node key of the hop, so that no hop can open a session in another's name."""
    profile: Hash32
    start: U16
    end: U16
    client: Address
    """Account that opened the channel."""
    signer: PublicKey
    """The channel's signer; signs these terms and the inputs of every range."""
    channel_id: Hash32
    unit_price: Amount
    input_price: Amount
    """Atoms per layer and prompt token."""
    output_price: Amount
    """Atoms per layer and decoded token."""
    prompt_tokens: U32
    """Positions at the input price: the prompt, and what is computed anew of the
    answer after a change of the route."""
    max_positions: U32
    """Prompt and answer together, in tokens; a bound, not a promise."""
    hidden_size: U32
    dtype: U8
    """A value of `inference.protocol.activations.Dtype`."""
    previous: PublicKey | None
    """Node key of the hop before; None when data comes from the requester."""
    next: PublicKey | None
    """Node key of the hop after; None when data goes back to the requester."""
    codec: U8 = 0
    """A value of `inference.protocol.codec.Codec`: how hidden states are written on the
    way; 0 for lossless."""


class PageSource(Record):
    """Another hop that has kept the beginning of the prompt, and may hand it out."""

    giver: PublicKey
    """Its node key."""
    signature: Signature
    """Of the grant (page_messages.py), by the terms' signer."""


class Open(Record, tag=1):
    """Begin a session at one hop."""

    terms: SessionTerms
    arrears: Payment | None
    """Pays what an earlier session left unpaid on this channel."""
    signature: Signature
    prefix: Names = ()
    """Of beginnings of the prompt, a page longer each; the hop may have kept them, and
    may keep them.  Empty where none is asked for."""
    scope: Hash32 = EMPTY_HASH
    """Names are valid together with it; it stands for the hops before this one."""
    source: PageSource | None = None
    """Where pages can be had that this hop lacks."""
    keeps: bool = True
    """Whether what is computed may be kept; not behind pages of another hop."""


class Accept(Record, tag=2):
    """The hop has room and is ready for step 0."""

    session: Hash32
    prepaid_steps: U32
    """Steps at the beginning that are paid before they are computed."""
    cached: U32 = 0
    """Positions at the beginning that it has kept and need not compute: whole pages,
    fewer than the prompt has.  Step 0 may begin at any page of them."""
    rolls_back: bool = True
    """Whether it can forget its last positions: without, no step guesses."""


class Refuse(Record, tag=3):
    """The hop does not open the session; the stream ends."""

    session: Hash32
    code: U16
    text: Text
    owed_units: U63
    """Units to pay first when the code is UNPAID, else 0."""


class SignedInput(Record):
    """The requester's word about what it fed to the first hop in one range."""

    chain_id: Hash32
    session: Hash32
    first_position: U32
    tokens: U32
    in_hash: Hash32
    signer: PublicKey
    signature: Signature


class HopTiming(Record):
    """Where one hop's time went in one step."""

    queue_us: U32
    """From the data's arrival to the start of the computation."""
    compute_us: U32


class Data(Record, tag=4):
    """Hidden states of one step on their way; the body follows."""

    session: Hash32
    attempt: U16
    step: U32
    position: U32
    tokens: U16
    hidden_size: U32
    dtype: U8
    timings: Annotated[tuple[HopTiming, ...], Meta(max_length=MAX_HOPS)]
    """Of the hops passed so far, in order."""
    signed_input: SignedInput | None
    """To the first hop, in the step that closes a range."""
    receipt: Receipt | None
    """From the hop before, in the step that closes a range."""
    codec: U8 = 0
    """That of the terms."""


class Pay(Record, tag=5):
    """Pays one step."""

    session: Hash32
    step: U32
    units: U32
    """The step's price.  Payments are cumulative in a channel that several sessions may
    use, so what they bring is told apart by this."""
    payment: Payment


class Note(Record, tag=6):
    """A hop's receipt, to the requester."""

    receipt: Receipt


class Finish(Record, tag=7):
    """The requester wants no more steps; makes the lap to collect last receipts."""

    session: Hash32
    attempt: U16
    steps: U32
    """Steps that were made in this attempt."""
    signed_input: SignedInput | None
    """As in Data, when a range is open."""
    receipt: Receipt | None
    prefix: Names = ()
    """Of beginnings of prompt and answer, which a later prompt may begin with."""


class Abort(Record, tag=8):
    """The session ends here and now; every stage frees its memory."""

    session: Hash32
    code: U16
    text: Text
    culprit: PublicKey | None
    """Node key of whoever is to blame in the sender's view."""


class Probe(Record, tag=9):
    """How far are you with this step?"""

    session: Hash32
    step: U32


class Progress(Record, tag=10):
    """Answer to Probe."""

    session: Hash32
    step: U32
    activity: U8
    """A value of `Activity`."""
    left_us: U32
    """How long the step will still take here, by what steps took so far; 0 when the hop
    cannot tell."""


class Relink(Record, tag=11):
    """The route has changed: new terms for a session that is open."""

    terms: SessionTerms
    """As before but for attempt, prompt tokens and neighbours."""
    position: U32
    """Where the attempt goes on.  A step that begins here and was computed did not
    arrive, and is taken back; of one that began earlier the rest is forgotten."""
    comes_again: bool
    """No hop before this one is another one now, so the step that is taken back comes
    again as it was.  Else it may come with other numbers; then it is owed all the same,
    and what comes in its place as well."""
    signature: Signature


class Linked(Record, tag=12):
    """The hop has its new neighbours."""

    session: Hash32
    attempt: U16
    receipt: Receipt | None
    """For the range that the change cut off; names no predecessor."""


class Unlinked(Record, tag=13):
    """A neighbour is out of reach, or did what no correct hop does."""

    session: Hash32
    attempt: U16
    peer: PublicKey
    code: U16 = 0
    """An `AbortCode` where it did wrong; 0 where its stream has ended, or cannot be
    opened."""
    text: Text = ""
    """What it did."""


class Fetch(Record, tag=14):
    """What did you send on for these positions?"""

    session: Hash32
    position: U32
    tokens: U16


class Kept(Record, tag=15):
    """Answer to Fetch; the body follows."""

    session: Hash32
    position: U32
    tokens: U16
    """0 when the hop does not have them any more."""


class Leaving(Record, tag=16):
    """The hop goes on for a few seconds only; take another one."""

    session: Hash32


Message = (
    Open
    | Accept
    | Refuse
    | Data
    | Pay
    | Note
    | Finish
    | Abort
    | Probe
    | Progress
    | Relink
    | Linked
    | Unlinked
    | Fetch
    | Kept
    | Leaving
)


def encode_frame(message: Message, body: bytes | memoryview = b"") -> bytes:
    """Return the frame of `message`; only Data and Kept have a body."""
    header = encode(message)
    assert len(header) <= MAX_HEADER_BYTES
    return b"".join((len(header).to_bytes(4, "big"), header, body))


def decode_frame(frame: bytes, max_body: int = MAX_BODY_BYTES) -> tuple[Message, bytes]:
    """Return message and body of an untrusted frame.

    Args:
        frame: What a stream gave.
        max_body: Longest body that the session's steps have.

    Raises:
        BadMessage: Too long, too short, not canonical, or a body where none belongs.
    """
    if len(frame) < 4 or len(frame) > 4 + MAX_HEADER_BYTES + max_body:
        raise BadMessage(f"a frame of {len(frame)} bytes")
    size = int.from_bytes(frame[:4], "big")
    if size > MAX_HEADER_BYTES or 4 + size > len(frame):
        raise BadMessage(f"a header of {size} bytes in a frame of {len(frame)}")
    try:
        message: Message = decode(Message, frame[4 : 4 + size])  # type: ignore[arg-type]
    except DecodeError as error:
        raise BadMessage(str(error)) from error
    body = frame[4 + size :]
    if body and not isinstance(message, Data | Kept):
        raise BadMessage(f"{type(message).__name__} with a body")
    return message, body


def compute_open_message(terms: SessionTerms) -> bytes:
    """Return the bytes that the channel's signer signs to open a session."""
    return compute_hash("hop-open", encode(terms))


def verify_open(message: Open) -> bool:
    """Tell whether the terms are signed by the signer that they name."""
    signed = compute_open_message(message.terms)
    return verify_signature(message.terms.signer, signed, message.signature)


def compute_relink_message(
    terms: SessionTerms, position: int, *, comes_again: bool
) -> bytes:
    """Return the bytes that the channel's signer signs to change a route."""
    place = position.to_bytes(4, "big") + bytes([comes_again])
    return compute_hash("hop-relink", encode(terms), place)


def verify_relink(message: Relink) -> bool:
    """Tell whether the change is signed by the signer that its terms name."""
    signed = compute_relink_message(
        message.terms, message.position, comes_again=message.comes_again
    )
    return verify_signature(message.terms.signer, signed, message.signature)


def clip_text(text: str) -> str:
    """Return `text` short enough for a message."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
