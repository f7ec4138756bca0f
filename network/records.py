"""
Records: the encrypted units on the wire after the handshake.

    length  u16, big-endian: bytes of ciphertext that follow, tag included
    ciphertext

The length is in clear, so the reader never holds more than one record of 64 KiB that
does not authenticate.  Both sides count records and bytes per direction and rekey at
the same one, so a key that leaks opens little of the past.
"""

from network.errors import TamperedRecord
from network.noise import TAG_BYTES, CipherState

MAX_CIPHERTEXT = 65_535
MAX_PLAINTEXT = MAX_CIPHERTEXT - TAG_BYTES

REKEY_RECORDS = 2**16
REKEY_BYTES = 2**30
"""ChaCha20-Poly1305 would stand far more; the bounds keep a key's life to minutes."""


class RekeyingCipher:
    """A cipher of one direction that replaces its key after a bound."""

    def __init__(
        self,
        cipher: CipherState,
        max_records: int = REKEY_RECORDS,
        max_bytes: int = REKEY_BYTES,
    ) -> None:
        self._cipher = cipher
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records = 0
        self._bytes = 0

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the ciphertext of one record."""
        sealed = self._cipher.encrypt(plaintext)
        self._count(len(sealed))
        return sealed

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext of one record; raises TamperedRecord."""
        plain = self._cipher.decrypt(ciphertext)
        self._count(len(ciphertext))
        return plain

    def _count(self, size: int) -> None:
        self._records += 1
        self._bytes += size
        if self._records >= self._max_records or self._bytes >= self._max_bytes:
            self._cipher.rekey()
            self._records = self._bytes = 0


class RecordLayer:
    """Both directions of a connection: plaintexts out of bytes and back."""

    def __init__(self, sender: RekeyingCipher, receiver: RekeyingCipher) -> None:
        self._sender = sender
        self._receiver = receiver
        self._buffer = bytearray()

    def seal(self, plaintext: bytes) -> bytes:
        """Return the wire form of one record of 1 to MAX_PLAINTEXT bytes."""
        assert 0 < len(plaintext) <= MAX_PLAINTEXT
        sealed = self._sender.encrypt(plaintext)
        return len(sealed).to_bytes(2, "big") + sealed

    def feed(self, data: bytes) -> None:
        """Add bytes as they came; call `next_plaintext` until it returns None."""
        self._buffer += data

    def next_plaintext(self) -> bytes | None:
        """Return the plaintext of the next whole record, or None to wait.

        Raises:
            TamperedRecord: It does not authenticate, or is too short to.
        """
        if len(self._buffer) < 2:
            return None
        end = 2 + int.from_bytes(self._buffer[:2], "big")
        if end <= 2 + TAG_BYTES:
            raise TamperedRecord("a record without content")
        if len(self._buffer) < end:
            return None
        ciphertext = bytes(self._buffer[2:end])
        del self._buffer[:end]
        return self._receiver.decrypt(ciphertext)
