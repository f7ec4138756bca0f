"""Keystores: the official vectors, round trips, and files that lie."""

import json
import os
import stat

import msgspec
import pytest

from primitives.keys import SecretKey
from wallet.errors import (
    CorruptKeystore,
    KeystoreError,
    KeystoreExists,
    WrongPassphrase,
)
from wallet.files import MAX_FILE_BYTES
from wallet.keystore import (
    LIGHT_COST,
    ScryptCost,
    decode_keystore,
    decrypt_account_key,
    decrypt_secret,
    encode_keystore,
    encrypt_account_key,
    encrypt_secret,
    load_keystore,
    normalise_passphrase,
    save_keystore,
)

# The vectors of EIP-2335.
PASSPHRASE = "𝔱𝔢𝔰𝔱𝔭𝔞𝔰𝔰𝔴𝔬𝔯𝔡🔑"
SECRET = bytes.fromhex(
    "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
)
SALT = "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
SCRYPT = {
    "crypto": {
        "kdf": {
            "function": "scrypt",
            "params": {"dklen": 32, "n": 262144, "p": 1, "r": 8, "salt": SALT},
            "message": "",
        },
        "checksum": {
            "function": "sha256",
            "params": {},
            "message": "d2217fe5f3e9a1e34581ef8a78f7c992"
            "8e436d36dacc5e846690a5581e8ea484",
        },
        "cipher": {
            "function": "aes-128-ctr",
            "params": {"iv": "264daa3f303d7259501c93d997d84fe6"},
            "message": "06ae90d55fe0a6e9c5c3bc5b170827b2"
            "e5cce3929ed3f116c2811e6366dfe20f",
        },
    },
    "description": "This is a test keystore that uses scrypt to secure the secret.",
    "pubkey": "9612d7a727c9d0a22e185a1c768478dfe919cada9266988cb32359c11f2b7b27"
    "f4ae4040902382ae2910c15e2b420d07",
    "path": "m/12381/60/3141592653/589793238",
    "uuid": "1d85ae20-35c5-4611-98e8-aa14a633906f",
    "version": 4,
}
PBKDF2 = json.loads(json.dumps(SCRYPT))
PBKDF2["crypto"]["kdf"] = {
    "function": "pbkdf2",
    "params": {"dklen": 32, "c": 262144, "prf": "hmac-sha256", "salt": SALT},
    "message": "",
}
PBKDF2["crypto"]["checksum"]["message"] = (
    "8a9f5d9912ed7e75ea794bc5a89bca5f193721d30868ade6f73043c6ea6febf1"
)
PBKDF2["crypto"]["cipher"]["message"] = (
    "cee03fde2af33149775b7223e7845e4fb2c8ae1792e5f99fe9ecf474cc8c16ad"
)

ACCOUNT = SecretKey(bytes(range(32)))


def build_text(**changes):
    """Return the scrypt vector's JSON with values replaced at dotted paths."""
    data = json.loads(json.dumps(SCRYPT))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return json.dumps(data).encode()


@pytest.mark.parametrize("vector", [SCRYPT, PBKDF2], ids=["scrypt", "pbkdf2"])
def test_official_vector(vector):
    keystore = decode_keystore(json.dumps(vector).encode())
    assert decrypt_secret(keystore, PASSPHRASE) == SECRET
    assert keystore.public_key.hex() == vector["pubkey"]


def test_passphrase_is_normalised_as_eip_2335_says():
    assert normalise_passphrase(PASSPHRASE).hex() == "7465737470617373776f7264f09f9491"
    assert normalise_passphrase("te\x00st\x7f\x80pass\nword\r\n") == b"testpassword"
    assert normalise_passphrase("\u212b") == normalise_passphrase("A\u030a")
    assert normalise_passphrase("with space") == b"with space"


def test_round_trip_of_an_account_key():
    keystore = encrypt_account_key(ACCOUNT, "word", path="m/44'/1'/0'", cost=LIGHT_COST)
    again = decode_keystore(encode_keystore(keystore))
    assert again == keystore
    assert decrypt_account_key(again, "word\n") == ACCOUNT
    assert again.path == "m/44'/1'/0'"
    assert ACCOUNT.seed.hex() not in encode_keystore(keystore).decode()


def test_two_keystores_of_one_key_share_nothing():
    first, second = (
        encrypt_account_key(ACCOUNT, "word", cost=LIGHT_COST) for _ in range(2)
    )
    assert first.uuid != second.uuid
    assert first.crypto.cipher.message != second.crypto.cipher.message
    assert first.crypto.cipher.params.iv != second.crypto.cipher.params.iv


def test_wrong_passphrase_is_said():
    keystore = encrypt_account_key(ACCOUNT, "word", cost=LIGHT_COST)
    with pytest.raises(WrongPassphrase, match="24 words"):
        decrypt_secret(keystore, "Word")


@pytest.mark.parametrize("passphrase", ["", "\n", "\x00\x7f"])
def test_empty_passphrase_is_refused(passphrase):
    with pytest.raises(KeystoreError, match="empty"):
        encrypt_account_key(ACCOUNT, passphrase, cost=LIGHT_COST)


def test_secret_of_another_length_is_refused():
    with pytest.raises(KeystoreError, match="31"):
        encrypt_secret(bytes(31), "word", public_key=bytes(32), cost=LIGHT_COST)


def test_changed_ciphertext_does_not_open():
    keystore = encrypt_account_key(ACCOUNT, "word", cost=LIGHT_COST)
    cipher = keystore.crypto.cipher
    flipped = msgspec.structs.replace(cipher, message="00" * 32)
    crypto = msgspec.structs.replace(keystore.crypto, cipher=flipped)
    with pytest.raises(WrongPassphrase):
        decrypt_secret(msgspec.structs.replace(keystore, crypto=crypto), "word")


def test_changed_public_key_is_found():
    keystore = encrypt_account_key(ACCOUNT, "word", cost=LIGHT_COST)
    changed = msgspec.structs.replace(keystore, pubkey="11" * 32)
    with pytest.raises(CorruptKeystore, match="does not belong"):
        decrypt_account_key(changed, "word")


def test_a_validator_keystore_is_no_account():
    keystore = encrypt_secret(
        SECRET, "word", public_key=bytes(48), cost=ScryptCost(n=2)
    )
    with pytest.raises(CorruptKeystore, match="not an account"):
        decrypt_account_key(keystore, "word")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 50_000,
        build_text(version=3),
        build_text(pubkey="zz"),
        build_text(crypto=None),
        build_text(crypto__kdf__function="argon2"),
        build_text(crypto__kdf__params__n="many"),
        build_text(crypto__checksum__function="md5"),
        build_text(crypto__cipher__function="aes-256-cbc"),
        build_text(crypto__cipher__params=None),
    ],
)
def test_what_is_no_keystore_is_said(data):
    with pytest.raises(CorruptKeystore, match="restore the key"):
        decode_keystore(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"crypto__kdf__params__n": 2**21},
        {"crypto__kdf__params__n": 2**62},
        {"crypto__kdf__params__n": 1},
        {"crypto__kdf__params__n": 3},
        {"crypto__kdf__params__n": -4},
        {"crypto__kdf__params__r": 0},
        {"crypto__kdf__params__r": 2**40},
        {"crypto__kdf__params__p": 0},
        {"crypto__kdf__params__p": 2**30},
        {"crypto__kdf__params__dklen": 2**30},
        {"crypto__kdf__params__salt": "00" * 2000},
        {"crypto__kdf__params__salt": "0x00"},
        {"crypto__cipher__params__iv": "00"},
        {"crypto__cipher__message": "00"},
        {"crypto__checksum__message": "g"},
    ],
)
def test_foreign_parameters_are_bounded(changes):
    keystore = decode_keystore(build_text(**changes))
    with pytest.raises(CorruptKeystore):
        decrypt_secret(keystore, PASSPHRASE)


def test_pbkdf2_rounds_are_bounded():
    data = json.loads(json.dumps(PBKDF2))
    for rounds in (0, -1, 2**40):
        data["crypto"]["kdf"]["params"]["c"] = rounds
        with pytest.raises(CorruptKeystore):
            decrypt_secret(decode_keystore(json.dumps(data).encode()), PASSPHRASE)


def test_fields_of_other_tools_pass():
    data = json.loads(build_text())
    data["name"] = "another tool's"
    assert decode_keystore(json.dumps(data).encode()).version == 4


def test_file_is_private_and_never_replaced_unasked(tmp_path):
    path = tmp_path / "account.json"
    keystore = encrypt_account_key(ACCOUNT, "word", cost=LIGHT_COST)
    old_mask = os.umask(0)
    try:
        save_keystore(path, keystore)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_keystore(path) == keystore

    other = encrypt_account_key(SecretKey(bytes(32)), "word", cost=LIGHT_COST)
    with pytest.raises(KeystoreExists, match="never overwritten"):
        save_keystore(path, other)
    assert load_keystore(path) == keystore
    save_keystore(path, other, replace=True)
    assert load_keystore(path) == other
    assert [entry.name for entry in tmp_path.iterdir()] == ["account.json"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "account.json"
    keystore = encrypt_account_key(ACCOUNT, "word", cost=LIGHT_COST)
    save_keystore(path, keystore)

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    other = encrypt_account_key(SecretKey(bytes(32)), "word", cost=LIGHT_COST)
    with pytest.raises(OSError, match="disk full"):
        save_keystore(path, other, replace=True)
    assert load_keystore(path) == keystore
    assert [entry.name for entry in tmp_path.iterdir()] == ["account.json"]


def test_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(CorruptKeystore, match="longer"):
        load_keystore(path)
    with pytest.raises(FileNotFoundError):
        load_keystore(tmp_path / "absent.json")
