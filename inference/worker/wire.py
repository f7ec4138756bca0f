"""
What the node and its worker processes say to each other over a socket pair.

    4 bytes header length | 4 bytes payload length | header | payload

Lengths are big-endian.  The header is one record in canonical bytes; the payload is
hidden states as they lie in memory, (tokens, hidden) in the model's dtype.  Every
request carries a call number and gets exactly one answer with it; those of one session
in order, those of others when they are ready.  The first frame of a worker is `Ready`,
or `Refused` with call 0 when it cannot start.

No pickle, no torch; both sides bound what they accept, though both are ours, so that
a bug ends in a typed error and not in memory.
"""

from inference.sampling.params import ChatMessage, SampledToken, SamplingParams
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import U8, U32, U63, Hash32

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 16 * 1024 * 1024
"""A prompt of the longest text that the tokenizer takes, in UTF-8."""
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""Two thousand tokens of 8,192 float32 numbers; prefill comes in smaller chunks."""


class OpenSession(Record, tag=1):
    """To a stage: admit a session."""

    call: U32
    session_id: bytes
    max_positions: U32
    keys: tuple[Hash32, ...]
    """Of its first full pages, which may be there already."""


class Forward(Record, tag=2):
    """To a stage: run the payload through the layers."""

    call: U32
    session_id: bytes
    position: U32
    tokens: U32


class CloseSession(Record, tag=3):
    """To either: forget a session."""

    call: U32
    session_id: bytes


class EncodeChat(Record, tag=4):
    """To a requester: conversation to token ids."""

    call: U32
    messages: tuple[ChatMessage, ...]


class EncodeText(Record, tag=5):
    """To a requester: text to token ids."""

    call: U32
    text: str


class OpenAnswer(Record, tag=6):
    """To a requester: begin an answer."""

    call: U32
    session_id: bytes
    params: SamplingParams
    prompt: tuple[U32, ...]


class Embed(Record, tag=7):
    """To a requester: token ids to hidden states."""

    call: U32
    session_id: bytes
    position: U32
    token_ids: tuple[U32, ...]


class Sample(Record, tag=8):
    """To a requester: judge the payload and choose tokens."""

    call: U32
    session_id: bytes
    tokens: U32
    drafts: tuple[U32, ...]
    """Guesses that the step carried, in the payload's last rows."""
    wanted: U32
    """Guesses that the next step may carry."""


class KeepPages(Record, tag=9):
    """To a stage: let later sessions begin with these pages of a session."""

    call: U32
    session_id: bytes
    first: U32
    """The first key's page, counted from 0 in the session."""
    keys: tuple[Hash32, ...]


class ReadPages(Record, tag=10):
    """To a stage: what do these pages hold?"""

    call: U32
    keys: tuple[Hash32, ...]


class WritePages(Record, tag=11):
    """To a stage: the payload is the next pages of a session."""

    call: U32
    session_id: bytes
    pages: U32


class ReadCounts(Record, tag=12):
    """To either: how many passes were there?"""

    call: U32


Request = (
    OpenSession
    | Forward
    | CloseSession
    | EncodeChat
    | EncodeText
    | OpenAnswer
    | Embed
    | Sample
    | KeepPages
    | ReadPages
    | WritePages
    | ReadCounts
)


class ReadPiece(Record):
    """A tensor that a worker has read and hashed."""

    name: str
    blob_hash: Hash32


class Ready(Record, tag=32):
    """From a worker: loaded and tested with a forward pass."""

    hidden_size: U32
    vocab_size: U32
    layers: U32
    """How many the whole model has."""
    dtype: str
    bytes_read: U63
    """Bytes of weights read from the files."""
    position_bytes: U63
    """Bytes of cache per position of a session; 0 for a requester."""
    state_bytes: U63
    """Bytes of cache per session, whatever its length."""
    engine: str
    """Of a stage: which one runs its layers."""
    shares: bool
    """Whether sessions of a stage can have pages in common."""
    pieces: tuple[ReadPiece, ...]


class Done(Record, tag=33):
    """Nothing to say but that it is done."""

    call: U32


class HiddenStates(Record, tag=34):
    """The payload is the result."""

    call: U32
    tokens: U32


class TokenIds(Record, tag=35):
    """The result of encoding."""

    call: U32
    token_ids: tuple[U32, ...]


class Sampled(Record, tag=36):
    """The chosen tokens; the payload is the next step's input, if there is one."""

    call: U32
    tokens: tuple[SampledToken, ...]
    drafts: tuple[U32, ...]
    """Guesses of what follows."""


class Refused(Record, tag=37):
    """A typed error of `inference.errors`, by its code."""

    call: U32
    code: U8
    text: str


class Opened(Record, tag=38):
    """A stage has admitted a session."""

    call: U32
    cached: U32
    """Its first positions that are there already."""


class Pages(Record, tag=39):
    """The payload is the pages that are there, one after another."""

    call: U32
    pages: U32


class Counts(Record, tag=40):
    """What a worker has done since it is ready."""

    call: U32
    passes: U63
    answers: U63
    """Requests that these passes answered: as many as sessions shared them, but for
    chunks of prompts."""


Answer = (
    Ready | Done | HiddenStates | TokenIds | Sampled | Refused | Opened | Pages | Counts
)


def encode_frame(message: Request | Answer, payload_bytes: int = 0) -> bytes:
    """Return prefix and header of a frame whose payload follows."""
    header = encode(message)
    prefix = len(header).to_bytes(4, "big") + payload_bytes.to_bytes(4, "big")
    return prefix + header


def decode_prefix(prefix: bytes | bytearray) -> tuple[int, int]:
    """Return the lengths of header and payload.

    Raises:
        DecodeError: Beyond the bounds.
    """
    header_bytes = int.from_bytes(prefix[:4], "big")
    payload_bytes = int.from_bytes(prefix[4:8], "big")
    if not 0 < header_bytes <= MAX_HEADER_BYTES:
        raise DecodeError(f"a header of {header_bytes} bytes")
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise DecodeError(f"a payload of {payload_bytes} bytes")
    return header_bytes, payload_bytes


def decode_request(header: bytes | bytearray) -> Request:
    """Return the request in a header; raises DecodeError."""
    return decode(Request, bytes(header), MAX_HEADER_BYTES)  # type: ignore[arg-type]


def decode_answer(header: bytes | bytearray) -> Answer:
    """Return the answer in a header; raises DecodeError."""
    return decode(Answer, bytes(header), MAX_HEADER_BYTES)  # type: ignore[arg-type]
