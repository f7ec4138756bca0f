import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.address import (
    decode_address,
    decode_bech32m,
    encode_address,
    encode_bech32m,
)
from primitives.errors import DecodeError
from primitives.hashing import compute_blob_hash, compute_hash
from primitives.keys import SecretKey, verify_signature
from primitives.seeded import compute_draw


def test_rfc_8032_test_1() -> None:
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    key = SecretKey(bytes.fromhex(seed))
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.public_key.hex() == public
    assert key.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")


def test_a_signature_is_for_one_key_and_one_message() -> None:
    key, other = SecretKey(bytes(32)), SecretKey(bytes([1]) * 32)
    signature = key.sign(b"message")
    assert verify_signature(key.public_key, b"message", signature)
    assert not verify_signature(other.public_key, b"message", signature)
    assert not verify_signature(key.public_key, b"massage", signature)
    assert not verify_signature(key.public_key, b"message", signature[:-1])
    assert not verify_signature(key.public_key[:-1], b"message", signature)


def test_small_order_keys_sign_nothing() -> None:
    identity = bytes([1]) + bytes(31)
    assert not verify_signature(identity, b"anything", identity + bytes(32))


def test_a_secret_key_is_not_shown() -> None:
    assert "07" * 4 not in repr(SecretKey(bytes([7]) * 32))


def test_derived_keys_differ_by_purpose() -> None:
    key = SecretKey(bytes(32))
    assert key.derive("a") == key.derive("a")
    assert key.derive("a") != key.derive("b")


@given(st.binary(min_size=32, max_size=32))
def test_addresses_name_keys(key: bytes) -> None:
    text = encode_address(key)
    assert text.startswith("p2p1")
    assert decode_address(text) == key
    assert decode_address(text.upper()) == key


@given(st.binary(min_size=32, max_size=32), st.data())
def test_one_wrong_character_is_found(key: bytes, data: st.DataObject) -> None:
    text = encode_address(key)
    index = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
    changed = text[:index] + letter + text[index + 1 :]
    if changed != text:
        with pytest.raises(DecodeError):
            decode_address(changed)


# BIP-350's own lists of valid and invalid strings.
@pytest.mark.parametrize(
    "text",
    [
        "A1LQFN3A",
        "a1lqfn3a",
        "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
        "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
        "?1v759aa",
    ],
)
def test_bip_350_valid(text: str) -> None:
    prefix, words = decode_bech32m(text)
    assert encode_bech32m(prefix, words) == text.lower()


@pytest.mark.parametrize(
    "text",
    ["\x201xj0phk", "qyrz8wqd2c9m", "1qyrz8wqd2c9m", "y1b0jsk6g", "lt1igcx5c0",
     "in1muywd", "mm1crxm3i", "au1s5cgom", "M1VUXWEZ", "16plkw9", "1p2gdwpf",
     "p2p1" + "q" * 90, "A1lqfn3a", "", "1"],
)  # fmt: skip
def test_bip_350_invalid(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_bech32m(text)


@pytest.mark.parametrize(
    ("prefix", "words", "reason"),
    [
        ("btc", [0] * 53, "starts with"),
        ("p2p", [1] + [0] * 52, "version"),
        ("p2p", [], "version"),
        ("p2p", [0] * 33, "32 bytes"),
        ("p2p", [0] * 52 + [1], "padding"),
    ],
)
def test_other_bech32m_strings_are_no_addresses(prefix, words, reason) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_address(encode_bech32m(prefix, words))


def test_tags_separate_hashes() -> None:
    assert compute_hash("a", b"x") != compute_hash("b", b"x")
    assert compute_hash("a", b"x", b"y") == compute_hash("a", b"xy")
    assert compute_blob_hash(b"x") != compute_hash("a", b"x")
    golden = "d52f5687b89811d349039b78511790530570c289611446e8c6c3252c4eecedbb"
    assert compute_hash("golden", b"p2pchain").hex() == golden


@given(st.binary(min_size=32, max_size=32), st.integers(1, 1000), st.integers(0, 99))
def test_draws_stay_below_their_bound(seed: bytes, bound: int, label: int) -> None:
    assert 0 <= compute_draw(seed, bound, label) < bound
    assert compute_draw(seed, bound, label) == compute_draw(seed, bound, label)
