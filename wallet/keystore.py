"""
Keystores: one 32-byte secret under a passphrase, in the format of EIP-2335.

Theory of operation
-------------------
    passphrase --normalise--> scrypt(salt, n, r, p) --> 32 bytes
                                 first 16: AES-128-CTR key (with iv) over the secret
                                 last 16:  SHA-256 with the ciphertext = checksum

The checksum tells a wrong passphrase from a right one without the secret.  The format
was made for BLS keys; we keep Ed25519 account keys in it as well, since it only carries
32 bytes, a public key and a derivation path.  A file says what its memory-hard function
costs, so a foreign file could ask for all the memory there is: we bound what we follow.

Reading accepts PBKDF2 too, which other staking tools write; writing always uses scrypt.

Spec: EIP-2335, version 4
"""

import hashlib
import hmac
import secrets
import unicodedata
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType

import msgspec
from Crypto.Cipher import AES
from Crypto.Protocol.KDF import scrypt

from primitives.keys import SecretKey
from wallet.errors import CorruptKeystore, KeystoreError, WrongPassphrase
from wallet.files import load_secret_file, save_secret_file

SECRET_BYTES = 32
SALT_BYTES = 32
IV_BYTES = 16

MAX_SCRYPT_BYTES = 512 * 1024 * 1024
"""Memory (128 n r) that a foreign file may ask for: twice our own default."""
MAX_SCRYPT_WORK = 1 << 23
"""Bound of n r p, the running time: four times our own default, some five seconds."""
MAX_PBKDF2_ROUNDS = 1 << 22
"""Sixteen times what EIP-2335 suggests; a few seconds."""
MAX_SALT_BYTES = 1024
"""Salts have 32 bytes; a longer one is a mistake, a huge one an attack."""

_CONTROL = {*range(0x20), *range(0x7F, 0xA0)}
"""C0, delete and C1 codes: EIP-2335 strips them from passphrases."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """What one guess at a passphrase costs an attacker, and us."""

    n: int
    """Iterations and blocks of memory, a power of two."""
    r: int = 8
    p: int = 1


DEFAULT_COST = ScryptCost(n=2**18)
"""EIP-2335's own: 256 MiB and about a second."""
LIGHT_COST = ScryptCost(n=2**12)
"""4 MiB and 20 ms, for devnets whose keys guard nothing."""


class _ScryptParams(msgspec.Struct, frozen=True):
    dklen: int
    n: int
    p: int
    r: int
    salt: str


class _Scrypt(msgspec.Struct, frozen=True, tag_field="function", tag="scrypt"):
    params: _ScryptParams
    message: str = ""


class _Pbkdf2Params(msgspec.Struct, frozen=True):
    dklen: int
    c: int
    prf: Literal["hmac-sha256"]
    salt: str


class _Pbkdf2(msgspec.Struct, frozen=True, tag_field="function", tag="pbkdf2"):
    params: _Pbkdf2Params
    message: str = ""


class _Empty(msgspec.Struct, frozen=True):
    pass


class _Checksum(msgspec.Struct, frozen=True):
    function: Literal["sha256"]
    params: _Empty
    message: str


class _CipherParams(msgspec.Struct, frozen=True):
    iv: str


class _Cipher(msgspec.Struct, frozen=True):
    function: Literal["aes-128-ctr"]
    params: _CipherParams
    message: str


class _Crypto(msgspec.Struct, frozen=True):
    kdf: _Scrypt | _Pbkdf2
    checksum: _Checksum
    cipher: _Cipher


class Keystore(msgspec.Struct, frozen=True):
    """A secret under a passphrase, as it stands in the file."""

    crypto: _Crypto
    pubkey: str
    """Hex of the public key without 0x: 64 characters Ed25519, 96 characters BLS."""
    path: str
    """Derivation path that leads to the secret; empty when it came from elsewhere."""
    uuid: str
    version: Literal[4]
    description: str = ""

    @property
    def public_key(self) -> bytes:
        """The public key's bytes, readable without the passphrase."""
        return _parse_hex("pubkey", self.pubkey)


Passphrase = NewType("Passphrase", bytes)
"""A passphrase as it enters the key derivation."""


def normalise_passphrase(text: str) -> Passphrase:
    """Return `text` in NFKD, without control codes, as UTF-8.

    So the same passphrase typed on another keyboard, or read from a file with a line
    break at its end, opens the same keystore.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in decomposed if ord(c) not in _CONTROL)
    return Passphrase(kept.encode())


def encrypt_secret(
    secret: bytes,
    passphrase: str,
    *,
    public_key: bytes,
    path: str = "",
    description: str = "",
    cost: ScryptCost = DEFAULT_COST,
) -> Keystore:
    """Return a keystore that holds `secret` (32 bytes) under `passphrase`.

    Raises:
        KeystoreError: An empty passphrase or a secret of another length.
    """
    if len(secret) != SECRET_BYTES:
        raise KeystoreError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not normalise_passphrase(passphrase):
        raise KeystoreError("an empty passphrase protects nothing: choose one")
    params = _ScryptParams(
        dklen=32,
        n=cost.n,
        p=cost.p,
        r=cost.r,
        salt=secrets.token_bytes(SALT_BYTES).hex(),
    )
    kdf = _Scrypt(params)
    derived = _derive_key(kdf, normalise_passphrase(passphrase))
    iv = secrets.token_bytes(IV_BYTES)
    ciphertext = _apply_cipher(derived, iv, secret)
    return Keystore(
        crypto=_Crypto(
            kdf=kdf,
            checksum=_Checksum(
                "sha256", _Empty(), _compute_checksum(derived, ciphertext).hex()
            ),
            cipher=_Cipher("aes-128-ctr", _CipherParams(iv.hex()), ciphertext.hex()),
        ),
        description=description,
        pubkey=public_key.hex(),
        path=path,
        uuid=str(uuid.uuid4()),
        version=4,
    )


def decrypt_secret(keystore: Keystore, passphrase: str) -> bytes:
    """Return the 32-byte secret.

    Raises:
        WrongPassphrase: The checksum does not match.
        CorruptKeystore: Values that no keystore of ours or of EIP-2335 has.
    """
    cipher = keystore.crypto.cipher
    iv = _parse_hex("iv", cipher.params.iv)
    ciphertext = _parse_hex("cipher message", cipher.message)
    checksum = _parse_hex("checksum", keystore.crypto.checksum.message)
    if len(iv) != IV_BYTES:
        raise CorruptKeystore(f"an iv of {len(iv)} bytes, not {IV_BYTES}")
    if len(ciphertext) != SECRET_BYTES:
        raise CorruptKeystore(f"a secret of {len(ciphertext)} bytes")
    derived = _derive_key(keystore.crypto.kdf, normalise_passphrase(passphrase))
    if not hmac.compare_digest(_compute_checksum(derived, ciphertext), checksum):
        raise WrongPassphrase
    return _apply_cipher(derived, iv, ciphertext)


def encrypt_account_key(
    key: SecretKey,
    passphrase: str,
    *,
    path: str = "",
    cost: ScryptCost = DEFAULT_COST,
) -> Keystore:
    """Return a keystore of an Ed25519 key."""
    return encrypt_secret(
        key.seed,
        passphrase,
        public_key=key.public_key,
        path=path,
        description="p2pchain account (Ed25519)",
        cost=cost,
    )


def decrypt_account_key(keystore: Keystore, passphrase: str) -> SecretKey:
    """Return the Ed25519 key of `keystore`.

    Raises:
        WrongPassphrase: The passphrase does not open it.
        CorruptKeystore: It holds another kind of key, or its public key was altered.
    """
    if len(keystore.public_key) != 32:
        raise CorruptKeystore("its public key is not an account's")
    key = SecretKey(decrypt_secret(keystore, passphrase))
    if key.public_key != keystore.public_key:
        raise CorruptKeystore("its public key does not belong to the secret in it")
    return key


def encode_keystore(keystore: Keystore) -> bytes:
    """Return the JSON text of a keystore file."""
    return msgspec.json.format(msgspec.json.encode(keystore), indent=2) + b"\n"


def decode_keystore(data: bytes) -> Keystore:
    """Return the keystore that a file's bytes hold; other tools' extra fields pass.

    Raises:
        CorruptKeystore: Not JSON, a field missing, or a function we do not know.
    """
    try:
        keystore = msgspec.json.decode(data, type=Keystore)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptKeystore(str(error)) from error
    _parse_hex("pubkey", keystore.pubkey)
    return keystore


def save_keystore(path: Path, keystore: Keystore, *, replace: bool = False) -> None:
    """Write `keystore` to `path`, mode 0600, whole or not at all.

    Raises:
        KeystoreExists: `path` is there and `replace` is false.
    """
    save_secret_file(path, encode_keystore(keystore), replace=replace)


def load_keystore(path: Path) -> Keystore:
    """Return the keystore in the file at `path`.

    Raises:
        CorruptKeystore: Not a keystore.
        OSError: Not there or not readable.
    """
    return decode_keystore(load_secret_file(path))


def _derive_key(kdf: _Scrypt | _Pbkdf2, passphrase: Passphrase) -> bytes:
    salt = _parse_hex("salt", kdf.params.salt)
    if len(salt) > MAX_SALT_BYTES:
        raise CorruptKeystore(f"a salt of {len(salt)} bytes")
    if kdf.params.dklen != 32:
        raise CorruptKeystore(f"dklen {kdf.params.dklen} where 32 is needed")
    if isinstance(kdf, _Pbkdf2):
        if not 1 <= kdf.params.c <= MAX_PBKDF2_ROUNDS:
            raise CorruptKeystore(f"{kdf.params.c} rounds of PBKDF2")
        return hashlib.pbkdf2_hmac("sha256", passphrase, salt, kdf.params.c, 32)
    n, r, p = kdf.params.n, kdf.params.r, kdf.params.p
    if n < 2 or n & (n - 1) or r < 1 or p < 1:
        raise CorruptKeystore(f"scrypt parameters n={n} r={r} p={p}")
    if 128 * n * r > MAX_SCRYPT_BYTES or n * r * p > MAX_SCRYPT_WORK:
        raise CorruptKeystore(
            f"scrypt with n={n} r={r} p={p} takes more memory or time than we allow"
        )
    derived = scrypt(passphrase, salt, 32, n, r, p)
    assert isinstance(derived, bytes)
    return derived


def _compute_checksum(derived: bytes, ciphertext: bytes) -> bytes:
    return hashlib.sha256(derived[16:32] + ciphertext).digest()


def _apply_cipher(derived: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt: in counter mode the two are the same."""
    cipher = AES.new(derived[:16], AES.MODE_CTR, nonce=b"", initial_value=iv)
    return cipher.encrypt(data)


def _parse_hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CorruptKeystore(f"{name} is not hexadecimal") from None
