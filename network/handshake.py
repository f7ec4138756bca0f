"""
How two nodes learn who they are: a preamble, then Noise XX, without any I/O.

Theory of operation
-------------------
Each side first sends a preamble in clear, 18 bytes: what it speaks, in which version,
for which chain.  Nodes that do not belong together so part with a reason; everything
in it is also in the prologue, so a changed preamble makes the handshake fail.  Then
the three messages of Noise XX, each behind a two-byte length of at most 512.

    initiator                               responder
    preamble, message 1  ------------------>
                         <------------------  preamble, message 2 (identity)
    message 3 (identity) ------------------>

The X25519 key of a connection is made at start and lives in memory only.  The node's
Ed25519 key signs it, together with the chain and a random name of this run of the
process (`boot_id`).  The run's name tells a restarted peer, whose old connections are
dead, from a second connection to the same process.

After message 3 the responder says Accept or Goodbye with its first record (see
`network.connect`): only then is the connection made.

Spec: docs/protocol/09-network.md, "Handshake"
"""

import os
from dataclasses import dataclass, field
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from network.endpoint import PeerId
from network.errors import (
    BadHandshake,
    SelfConnection,
    WrongChain,
    WrongPeer,
    WrongVersion,
)
from network.noise import NoiseXX
from network.records import RecordLayer, RekeyingCipher
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from primitives.keys import SecretKey, verify_signature
from primitives.types import U16, PublicKey, Signature

MAGIC = b"p2pchain"
VERSION = 2
"""Raised whenever the bytes on the wire change; 2: every message costs credit."""
PREAMBLE_BYTES = len(MAGIC) + 2 + 8
MAX_MESSAGE = 512
"""Message 3 has about 230 bytes; nothing longer is ever read before authentication."""
BOOT_ID_BYTES = 8


class IdentityProof(Record):
    """The payload of messages 2 and 3: who owns the static key that came with it."""

    public_key: PublicKey
    signature: Signature
    """Of `compute_hash("net-identity", chain tag, static key, boot_id)`."""
    boot_id: Annotated[bytes, Meta(min_length=BOOT_ID_BYTES, max_length=BOOT_ID_BYTES)]
    """Random name of this run of the process."""
    listen_port: U16
    """Port at which the node can be dialled back; 0 when it does not listen."""


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """What a node says about itself in every handshake of one run."""

    node_key: SecretKey
    chain_id: bytes
    listen_port: int
    static: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    boot_id: bytes = field(default_factory=lambda: os.urandom(BOOT_ID_BYTES))

    @property
    def peer_id(self) -> PeerId:
        """Our own name."""
        return self.node_key.public_key

    @property
    def preamble(self) -> bytes:
        """Eighteen bytes in clear."""
        return MAGIC + VERSION.to_bytes(2, "big") + self.chain_tag[:8]

    @property
    def chain_tag(self) -> bytes:
        """Thirty-two bytes that stand for the chain id, whatever its length."""
        return compute_hash("net-chain", self.chain_id)

    def build_proof(self) -> bytes:
        """Return the encoded proof that our static key is ours."""
        static = self.static.public_key().public_bytes_raw()
        digest = _compute_digest(self.chain_tag, static, self.boot_id)
        return encode(
            IdentityProof(
                public_key=self.node_key.public_key,
                signature=self.node_key.sign(digest),
                boot_id=self.boot_id,
                listen_port=self.listen_port,
            )
        )


@dataclass(frozen=True, slots=True)
class RemoteIdentity:
    """What the other side has proved (key) and said (port)."""

    peer_id: PeerId
    boot_id: bytes
    listen_port: int


class Handshake:
    """One side of a handshake: bytes in, bytes out.

    Args:
        initiator: Whether we dialled.
        identity: Who we are.
        expected: Whom we dialled; None for whoever comes.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        identity: LocalIdentity,
        expected: PeerId | None = None,
    ) -> None:
        self._initiator = initiator
        self._identity = identity
        self._expected = expected
        self._noise = NoiseXX(
            initiator=initiator,
            static=identity.static,
            prologue=identity.preamble + identity.chain_tag,
        )
        self._buffer = bytearray()
        self._preamble_read = False
        self.remote: RemoteIdentity | None = None
        """Set when the other side has proved its key."""
        self.farewell = b"" if initiator else identity.preamble
        """What a responder sends before it hangs up, so the other learns why."""

    def start(self) -> bytes:
        """Return what to send first; nothing for a responder."""
        if not self._initiator:
            return b""
        return self._identity.preamble + _frame(self._noise.write_message(b""))

    @property
    def is_finished(self) -> bool:
        """Whether `build_records` may be called."""
        return self._noise.is_finished

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the other side and return bytes to send.

        Raises:
            HandshakeFailed: One of its subclasses says why.
        """
        self._buffer += data
        reply = b""
        if not self._preamble_read:
            if not self._read_preamble():
                return b""
            if not self._initiator:
                reply = self._identity.preamble
                self.farewell = b""
        while not self.is_finished and (message := self._next_message()) is not None:
            reply += self._step(message)
        return reply

    def build_records(self) -> RecordLayer:
        """Return the record layer, fed with what came after the handshake."""
        sender, receiver = self._noise.split()
        records = RecordLayer(RekeyingCipher(sender), RekeyingCipher(receiver))
        records.feed(bytes(self._buffer))
        return records

    def _read_preamble(self) -> bool:
        ours = self._identity.preamble
        theirs = bytes(self._buffer[:PREAMBLE_BYTES])
        if theirs[: len(MAGIC)] != MAGIC[: len(theirs)]:
            raise BadHandshake("not a p2pchain node")
        if len(theirs) < PREAMBLE_BYTES:
            return False
        if theirs[8:10] != ours[8:10]:
            version = int.from_bytes(theirs[8:10], "big")
            raise WrongVersion(f"version {version} where we speak {VERSION}")
        if theirs != ours:
            raise WrongChain("a node of another chain")
        del self._buffer[:PREAMBLE_BYTES]
        self._preamble_read = True
        return True

    def _next_message(self) -> bytes | None:
        if len(self._buffer) < 2:
            return None
        end = 2 + int.from_bytes(self._buffer[:2], "big")
        if end > 2 + MAX_MESSAGE:
            raise BadHandshake(f"a handshake message of {end - 2} bytes")
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[2:end])
        del self._buffer[:end]
        return message

    def _step(self, message: bytes) -> bytes:
        payload = self._noise.read_message(message)
        if not self._initiator and not self._noise.is_finished:
            if payload:
                raise BadHandshake("the first message carries nothing")
            return _frame(self._noise.write_message(self._identity.build_proof()))
        self.remote = self._verify(payload)
        if self._noise.is_finished:
            return b""
        return _frame(self._noise.write_message(self._identity.build_proof()))

    def _verify(self, payload: bytes) -> RemoteIdentity:
        try:
            proof = decode(IdentityProof, payload, MAX_MESSAGE)
        except DecodeError as error:
            raise BadHandshake(str(error)) from error
        digest = _compute_digest(
            self._identity.chain_tag, self._noise.remote_static, proof.boot_id
        )
        if not verify_signature(proof.public_key, digest, proof.signature):
            raise BadHandshake("the static key is not signed by the node's key")
        if proof.public_key == self._identity.peer_id:
            raise SelfConnection("both ends are this node")
        if self._expected is not None and proof.public_key != self._expected:
            raise WrongPeer(f"node {proof.public_key.hex()[:8]} answered instead")
        return RemoteIdentity(proof.public_key, proof.boot_id, proof.listen_port)


def _compute_digest(chain_tag: bytes, static: bytes, boot_id: bytes) -> bytes:
    return compute_hash("net-identity", chain_tag, static, boot_id)


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message
