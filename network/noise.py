"""
Noise_XX_25519_ChaChaPoly_SHA256, without any I/O.

Theory of operation
-------------------
Two sides who know nothing of each other agree on keys and learn each other's static
key, which travels encrypted.  Three messages:

    -> e
    <- e, ee, s, es
    -> s, se

`SymmetricState` mixes every byte and every shared secret into a hash and a chaining
key; whoever changes a byte makes the next decryption fail.  At the end the chaining
key splits into one cipher per direction.

The primitives are those of `cryptography`; this file is the pattern only, and the
tests hold it against an independent implementation.

Spec: noiseprotocol.org/noise.html, revision 34, sections 5 and 7.5
"""

import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from network.errors import BadHandshake, TamperedRecord

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
TAG_BYTES = 16
KEY_BYTES = 32
MAX_NONCE = 2**64 - 1

_PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


class CipherState:
    """One direction's key and counter (Noise 5.1)."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._nonce = 0

    def encrypt(self, plaintext: bytes, associated: bytes = b"") -> bytes:
        """Return ciphertext and tag under the next nonce."""
        sealed = self._aead.encrypt(_pack(self._nonce), plaintext, associated)
        self._nonce += 1
        return sealed

    def decrypt(self, ciphertext: bytes, associated: bytes = b"") -> bytes:
        """Return the plaintext under the next nonce.

        Raises:
            TamperedRecord: It does not authenticate.
        """
        try:
            plain = self._aead.decrypt(_pack(self._nonce), ciphertext, associated)
        except InvalidTag:
            raise TamperedRecord("a record does not authenticate") from None
        self._nonce += 1
        return plain

    def rekey(self) -> None:
        """Replace the key by one that does not tell the old one (Noise 4.2)."""
        block = self._aead.encrypt(_pack(MAX_NONCE), bytes(KEY_BYTES), b"")
        self._aead = ChaCha20Poly1305(block[:KEY_BYTES])


class SymmetricState:
    """Chaining key and transcript hash (Noise 5.2)."""

    def __init__(self, prologue: bytes) -> None:
        self.hash = PROTOCOL_NAME  # exactly 32 bytes, so no padding
        self._chaining_key = self.hash
        self._cipher: CipherState | None = None
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        """Bind `data` into the transcript."""
        self.hash = sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        """Bind a shared secret into all later keys."""
        self._chaining_key, key = _expand(self._chaining_key, secret)
        self._cipher = CipherState(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Return what goes on the wire for `plaintext`; in clear before any key."""
        sealed = (
            self._cipher.encrypt(plaintext, self.hash) if self._cipher else plaintext
        )
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """Return what `encrypt_and_hash` was given; raises TamperedRecord."""
        plain = self._cipher.decrypt(sealed, self.hash) if self._cipher else sealed
        self.mix_hash(sealed)
        return plain

    @property
    def overhead(self) -> int:
        """Bytes that encryption adds now."""
        return TAG_BYTES if self._cipher else 0

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the ciphers of the initiator's and the responder's direction."""
        first, second = _expand(self._chaining_key, b"")
        return CipherState(first), CipherState(second)


class NoiseXX:
    """One side of an XX handshake; messages alternate, the initiator's first.

    Args:
        initiator: Whether this side writes the first message.
        static: This side's long-lived key of the connection.
        prologue: What both sides must agree on beforehand, byte for byte.
        ephemeral: The one-time key; only tests pass one.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        prologue: bytes,
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral or X25519PrivateKey.generate()
        self._symmetric = SymmetricState(prologue)
        self._step = 0
        self._remote_ephemeral: X25519PublicKey | None = None
        self._remote_static: X25519PublicKey | None = None

    @property
    def is_finished(self) -> bool:
        """Whether all three messages have passed."""
        return self._step == len(_PATTERN)

    @property
    def is_writing(self) -> bool:
        """Whether the next message is ours."""
        return not self.is_finished and (self._step % 2 == 0) == self._initiator

    @property
    def remote_static(self) -> bytes:
        """The other side's static key, once its message was read."""
        assert self._remote_static is not None
        return self._remote_static.public_bytes_raw()

    def write_message(self, payload: bytes) -> bytes:
        """Return the next handshake message, carrying `payload`."""
        assert self.is_writing
        parts = []
        for token in _PATTERN[self._step]:
            if token == "e":
                parts.append(self._ephemeral.public_key().public_bytes_raw())
                self._symmetric.mix_hash(parts[-1])
            elif token == "s":
                static = self._static.public_key().public_bytes_raw()
                parts.append(self._symmetric.encrypt_and_hash(static))
            else:
                self._symmetric.mix_key(self._compute_secret(token))
        parts.append(self._symmetric.encrypt_and_hash(payload))
        self._step += 1
        return b"".join(parts)

    def read_message(self, message: bytes) -> bytes:
        """Return the payload of the other side's next message.

        Raises:
            BadHandshake: Too short, changed, under another prologue, or a weak key.
        """
        assert not self.is_writing
        assert not self.is_finished
        try:
            return self._read(message)
        except TamperedRecord:
            raise BadHandshake("a handshake message does not authenticate") from None

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the ciphers for sending and for receiving."""
        assert self.is_finished
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def _read(self, message: bytes) -> bytes:
        for token in _PATTERN[self._step]:
            if token == "e":
                key, message = _cut(message, KEY_BYTES)
                self._remote_ephemeral = X25519PublicKey.from_public_bytes(key)
                self._symmetric.mix_hash(key)
            elif token == "s":
                sealed, message = _cut(message, KEY_BYTES + self._symmetric.overhead)
                key = self._symmetric.decrypt_and_hash(sealed)
                self._remote_static = X25519PublicKey.from_public_bytes(key)
            else:
                self._symmetric.mix_key(self._compute_secret(token))
        payload = self._symmetric.decrypt_and_hash(message)
        self._step += 1
        return payload

    def _compute_secret(self, token: str) -> bytes:
        # "es" is the initiator's ephemeral and the responder's static key, from
        # either side; "se" the other way round (Noise 5.3).
        ours_is_ephemeral = token[0 if self._initiator else 1] == "e"
        theirs_is_ephemeral = token[1 if self._initiator else 0] == "e"
        ours = self._ephemeral if ours_is_ephemeral else self._static
        theirs = self._remote_ephemeral if theirs_is_ephemeral else self._remote_static
        assert theirs is not None
        try:
            return ours.exchange(theirs)
        except ValueError:
            raise BadHandshake("a key of small order") from None


def _expand(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    # HKDF with two outputs (Noise 4.3).
    temporary = hmac.digest(chaining_key, secret, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")


def _cut(message: bytes, count: int) -> tuple[bytes, bytes]:
    if len(message) < count:
        raise BadHandshake("a handshake message that is too short")
    return message[:count], message[count:]


def _pack(nonce: int) -> bytes:
    return b"\0\0\0\0" + nonce.to_bytes(8, "little")
