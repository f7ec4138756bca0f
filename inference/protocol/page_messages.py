"""
How a hop asks another one of the same layers for pages, and its bytes.

    taker --AskPages(grant)--> giver        stream "pages/1", opened by the taker
    giver --GivePages + body--> taker       as often as there are more
    giver --GivePages(0) | RefusePages--> taker

A frame is that of page 07: a 4-byte length, a canonical message, and a body, which only
GivePages has: the pages of the store one after another, then what the layers gave for
their positions, (16 x pages, hidden).

Spec: docs/protocol/07-inference.md, docs/adr/0037-pages-from-another-node.md
"""

from enum import IntEnum

from msgspec.structs import replace

from inference.protocol.errors import BadMessage
from inference.protocol.messages import MAX_HEADER_BYTES, Names, SessionTerms, Text
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_blob_hash, compute_hash
from primitives.keys import verify_signature
from primitives.types import U16, Address, Hash32, PublicKey, Signature

PAGES_PROTOCOL = "pages/1"

BATCH_BYTES = 4 * 1024 * 1024
"""Of pages in one frame, if one page is no larger: 30 ms of a fast link, so a taker
soon knows how fast it is."""
MAX_PAGE_BYTES = 15 * 1024 * 1024
"""Of one page with its outputs; longer ones fit no frame and are not given."""


class RefusePagesCode(IntEnum):
    """Why a hop gives no pages."""

    INVALID = 1
    """The grant is for somebody else, or not signed by its signer."""
    NOT_SERVED = 2
    """Other layers or another profile are served here, or nothing is shared."""
    BUSY = 3
    """Others are being given pages."""
    TOO_OFTEN = 4
    """The taker asks more often than it opens sessions."""
    TOO_MUCH = 5
    """So much of the account's pages was given lately."""


class PageGrant(Record):
    """The requester's permission to hand what was kept for it to another hop."""

    chain_id: Hash32
    session: Hash32
    """For which it is needed."""
    giver: PublicKey
    taker: PublicKey
    client: Address
    signer: PublicKey
    """Of the sessions that the pages were kept of, and of this grant."""
    profile: Hash32
    start: U16
    end: U16
    scope: Hash32
    names: Names
    signature: Signature


class AskPages(Record, tag=1):
    """Give me what the grant names, from a page on."""

    grant: PageGrant
    first: U16


class GivePages(Record, tag=2):
    """Some pages; the body follows."""

    first: U16
    pages: U16
    """0 when there are no more."""
    digest: Hash32
    """Of the body."""
    signature: Signature
    """The giver's, with its node key."""


class RefusePages(Record, tag=3):
    """There will be none."""

    code: U16
    """A value of `RefusePagesCode`."""
    text: Text


PageMessage = AskPages | GivePages | RefusePages


def build_grant(
    terms: SessionTerms,
    scope: bytes,
    names: tuple[bytes, ...],
    giver: bytes,
    signature: bytes = bytes(64),
) -> PageGrant:
    """Return what a session's requester grants to the hop of `terms`."""
    return PageGrant(
        chain_id=terms.chain_id,
        session=terms.session,
        giver=giver,
        taker=terms.provider,
        client=terms.client,
        signer=terms.signer,
        profile=terms.profile,
        start=terms.start,
        end=terms.end,
        scope=scope,
        names=names,
        signature=signature,
    )


def compute_grant_message(grant: PageGrant) -> bytes:
    """Return the bytes that the channel's signer signs."""
    unsigned = replace(grant, signature=bytes(64))
    return compute_hash("page-grant", encode(unsigned))


def verify_grant(grant: PageGrant) -> bool:
    """Tell whether a grant is signed by the signer that it names."""
    return verify_signature(grant.signer, compute_grant_message(grant), grant.signature)


def compute_pages_message(
    session: bytes, first: int, pages: int, digest: bytes
) -> bytes:
    """Return the bytes that a giver signs."""
    place = first.to_bytes(2, "big") + pages.to_bytes(2, "big")
    return compute_hash("given-pages", session, place, digest)


def check_pages(
    message: GivePages, body: bytes, grant: PageGrant, first: int, size: int
) -> None:
    """Check pages against what was asked for.

    Args:
        message: What came.
        body: With it.
        grant: What was asked for.
        first: The page that is due.
        size: Bytes of a page and its outputs.

    Raises:
        BadMessage: Other pages, another length or digest, or not signed by the giver.
    """
    if message.first != first or first + message.pages > len(grant.names):
        raise BadMessage(f"{message.pages} pages from {message.first} on")
    if len(body) != message.pages * size:
        raise BadMessage(f"{len(body)} bytes of {message.pages} pages")
    if compute_blob_hash(body) != message.digest:
        raise BadMessage("pages with another digest")
    signed = compute_pages_message(
        grant.session, message.first, message.pages, message.digest
    )
    if not verify_signature(grant.giver, signed, message.signature):
        raise BadMessage("pages that their giver has not signed")


def encode_page_frame(message: PageMessage, body: bytes = b"") -> bytes:
    """Return the frame of `message`; only GivePages has a body."""
    header = encode(message)
    return b"".join((len(header).to_bytes(4, "big"), header, body))


def decode_page_frame(frame: bytes, max_body: int) -> tuple[PageMessage, bytes]:
    """Return message and body of an untrusted frame.

    Raises:
        BadMessage: Too long, too short, not canonical, or a body where none belongs.
    """
    size = int.from_bytes(frame[:4], "big")
    if not 0 < size <= MAX_HEADER_BYTES or 4 + size > len(frame):
        raise BadMessage(f"a header of {size} bytes in a frame of {len(frame)}")
    body = frame[4 + size :]
    if len(body) > max_body:
        raise BadMessage(f"a body of {len(body)} bytes")
    try:
        message: PageMessage = decode(PageMessage, frame[4 : 4 + size])  # type: ignore[arg-type]
    except DecodeError as error:
        raise BadMessage(str(error)) from error
    if body and not isinstance(message, GivePages):
        raise BadMessage(f"{type(message).__name__} with a body")
    return message, body
