"""Phrases and keys against the official vectors of BIP-39, SLIP-10 and EIP-2333."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.derivation import (
    derive_account_key,
    derive_bls,
    derive_ed25519,
    derive_node_key,
    derive_validator_secret,
    get_account_path,
    get_validator_path,
    parse_path,
)
from wallet.errors import InvalidMnemonic, InvalidPath
from wallet.mnemonic import build_mnemonic, compute_seed, parse_mnemonic

ABANDON = "abandon " * 23 + "art"

# path, secret, public key: SLIP-0010, ed25519, test vectors 1 and 2.
SLIP10_1 = [
    (
        "m",
        "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7",
        "a4b2856bfec510abab89753fac1ac0e1112364e7d250545963f135f2a33188ed",
    ),
    (
        "m/0'",
        "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3",
        "8c8a13df77a28f3445213a0f432fde644acaa215fc72dcdf300d5efaa85d350c",
    ),
    (
        "m/0'/1'",
        "b1d0bad404bf35da785a64ca1ac54b2617211d2777696fbffaf208f746ae84f2",
        "1932a5270f335bed617d5b935c80aedb1a35bd9fc1e31acafd5372c30f5c1187",
    ),
    (
        "m/0'/1'/2'",
        "92a5b23c0b8a99e37d07df3fb9966917f5d06e02ddbd909c7e184371463e9fc9",
        "ae98736566d30ed0e9d2f4486a64bc95740d89c7db33f52121f8ea8f76ff0fc1",
    ),
    (
        "m/0'/1'/2'/2'",
        "30d1dc7e5fc04c31219ab25a27ae00b50f6fd66622f6e9c913253d6511d1e662",
        "8abae2d66361c879b900d204ad2cc4984fa2aa344dd7ddc46007329ac76c429c",
    ),
    (
        "m/0'/1'/2'/2'/1000000000'",
        "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793",
        "3c24da049451555d51a7014a37337aa4e12d41e485abccfa46b47dfb2af54b7a",
    ),
]
SLIP10_2_SEED = (
    "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a2"
    "9f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542"
)

# seed, master, child index, child: EIP-2333, test cases 0 to 3.
EIP2333 = [
    (
        "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
        "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
        6083874454709270928345386274498605044986640685124978867557563392430687146096,
        0,
        20397789859736650942317412262472558107875392172444076792671091975210932703118,
    ),
    (
        "3141592653589793238462643383279502884197169399375105820974944592",
        29757020647961307431480504535336562678282505419141012933316116377660817309383,
        3141592653,
        25457201688850691947727629385191704516744796114925897962676248250929345014287,
    ),
    (
        "0099FF991111002299DD7744EE3355BBDD8844115566CC55663355668888CC00",
        27580842291869792442942448775674722299803720648445448686099262467207037398656,
        4294967295,
        29358610794459428860402234341874281240803786294062035874021252734817515685787,
    ),
    (
        "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3",
        19022158461524446591288038168518313374041767046816487870552872741050760015818,
        42,
        31372231650479070279774297061823572166496564838472787488249775572789064611981,
    ),
]


def test_bip39_official_vector():
    assert build_mnemonic(bytes(32)) == ABANDON
    assert compute_seed(ABANDON, "TREZOR").hex() == (
        "bda85446c68413707090a52022edd26a1c9462295029f2e60cd7c4f2bbd30971"
        "70af7a4d73245cafa9c3cca8d561a7c3de6f5d4a10be8ed2a5e608d68f92fcc8"
    )


def test_phrases_are_random_and_valid():
    first, second = build_mnemonic(), build_mnemonic()
    assert first != second
    assert len(first.split()) == 24
    assert parse_mnemonic(f"  {first.upper()}\n") == first


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ("", "0 words"),
        ("abandon " * 11 + "about", "12 words"),
        (ABANDON.replace("art", "arty"), "word 24"),
        ("abandon " * 24, "checksum"),
    ],
)
def test_wrong_phrases_are_said(phrase, message):
    with pytest.raises(InvalidMnemonic, match=message):
        compute_seed(phrase)


@pytest.mark.parametrize(("path", "secret", "public"), SLIP10_1)
def test_slip10_official_vector(path, secret, public):
    key = derive_ed25519(bytes.fromhex("000102030405060708090a0b0c0d0e0f"), path)
    assert key.seed.hex() == secret
    assert key.public_key.hex() == public


def test_slip10_second_official_vector():
    key = derive_ed25519(
        bytes.fromhex(SLIP10_2_SEED), "m/0'/2147483647'/1'/2147483646'/2'"
    )
    assert key.seed.hex() == (
        "551d333177df541ad876a60ea71f00447931c0a9da16f227c11ea080d7391b8d"
    )


@pytest.mark.parametrize(("seed", "master", "index", "child"), EIP2333)
def test_eip2333_official_vector(seed, master, index, child):
    raw = bytes.fromhex(seed)
    assert int.from_bytes(derive_bls(raw, "m"), "big") == master
    assert int.from_bytes(derive_bls(raw, f"m/{index}"), "big") == child


def test_one_phrase_restores_every_key():
    seed = compute_seed(ABANDON)
    keys = {derive_account_key(seed, i).public_key for i in range(3)}
    keys |= {derive_node_key(seed, i).public_key for i in range(3)}
    validators = {derive_validator_secret(seed, i) for i in range(2)}
    assert len(keys) == 6
    assert len(validators) == 2
    again = compute_seed(parse_mnemonic(ABANDON))
    assert derive_account_key(again, 1) == derive_ed25519(seed, get_account_path(1))
    assert derive_validator_secret(again, 1) == derive_bls(seed, get_validator_path(1))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "44'/0'",
        "m/",
        "m//1'",
        "m/-1'",
        "m/1''",
        "m/x'",
        "m/٣'",
        "m/2147483648'",
        "m/4294967296'",
        "m/99999999999'",
        "m/1h",
        "m/0",
        "m" + "/0'" * 17,
    ],
)
def test_wrong_ed25519_paths_are_refused(path):
    with pytest.raises(InvalidPath):
        derive_ed25519(bytes(32), path)


@pytest.mark.parametrize("path", ["m/0'", "m/4294967296", "n/0"])
def test_wrong_bls_paths_are_refused(path):
    with pytest.raises(InvalidPath):
        derive_bls(bytes(32), path)


def test_short_bls_seed_is_refused():
    with pytest.raises(InvalidPath, match="31 bytes"):
        derive_bls(bytes(31), "m")


@given(st.lists(st.integers(0, 2**32 - 1), max_size=16))
def test_paths_are_read_back(steps):
    text = "/".join(["m", *(f"{s % 2**31}'" if s >= 2**31 else f"{s}" for s in steps)])
    assert parse_path(text) == tuple(steps)
