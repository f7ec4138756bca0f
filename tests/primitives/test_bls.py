"""BLS: what the wrapper refuses though libraries let it through."""

import pytest

from primitives import bls

INFINITY_G1 = b"\xc0" + bytes(47)
INFINITY_G2 = b"\xc0" + bytes(95)


def make_key(number):
    return bls.BlsSecretKey(number.to_bytes(32, "big"))


KEYS = [make_key(number) for number in (1, 2**200 + 7, bls.ORDER - 1)]


@pytest.mark.parametrize("number", [0, bls.ORDER, 2**256 - 1])
def test_secret_out_of_range_is_refused(number):
    with pytest.raises(bls.InvalidSecretKey):
        make_key(number)


def test_secret_of_wrong_length_is_refused():
    with pytest.raises(bls.InvalidSecretKey):
        bls.BlsSecretKey(bytes(31) + b"\x01\x01")


def test_secret_is_not_shown():
    assert "secret=" not in repr(KEYS[1])


@pytest.mark.parametrize(
    "data",
    [INFINITY_G1, b"\xff" * 48, INFINITY_G1[:-1] + b"\x01", bytes(48), b"", b"\xc0"],
)
def test_bad_public_keys_are_refused(data):
    with pytest.raises(bls.InvalidPoint):
        bls.validate_public_key(data)
    assert not bls.verify(data, b"m", KEYS[0].sign(b"m"))
    assert not bls.verify_possession(data, KEYS[0].prove_possession())


@pytest.mark.parametrize("data", [b"\xff" * 96, INFINITY_G2[:-1] + b"\x01", b""])
def test_bad_signatures_are_refused(data):
    with pytest.raises(bls.InvalidPoint):
        bls.aggregate([data])
    assert not bls.verify(KEYS[0].public_key, b"m", data)


def test_empty_lists_are_refused():
    with pytest.raises(bls.InvalidPoint):
        bls.aggregate([])
    assert not bls.fast_aggregate_verify([], b"m", INFINITY_G2)
    assert not bls.aggregate_verify([], [], INFINITY_G2)
    assert not bls.verify_batch([])


def test_keys_that_cancel_out_are_refused():
    # 1 and r - 1: the sum of the public keys is infinity.
    keys = [KEYS[0].public_key, KEYS[2].public_key]
    assert not bls.fast_aggregate_verify(keys, b"m", INFINITY_G2)


def test_possession():
    key, other = KEYS[0], KEYS[1]
    proof = key.prove_possession()
    assert bls.verify_possession(key.public_key, proof)
    assert not bls.verify_possession(other.public_key, proof)
    # An ordinary signature of the key is not a proof: another tag.
    assert not bls.verify_possession(key.public_key, key.sign(key.public_key))
    # A proof is for whom it names.
    mine = key.prove_possession(b"me")
    assert bls.verify_possession(key.public_key, mine, b"me")
    assert not bls.verify_possession(key.public_key, mine, b"you")
    assert not bls.verify_possession(key.public_key, mine)
    assert not bls.verify_possession(key.public_key, proof, b"me")
    assert not bls.verify_possession(key.public_key, key.sign(key.public_key + b"me"))


def test_batch_finds_signatures_that_cancel_out():
    one, two = KEYS[0], KEYS[1]
    items = [([k.public_key], m, k.sign(m)) for k, m in ((one, b"a"), (two, b"b"))]
    assert bls.verify_batch(items)
    swapped = [
        (items[0][0], items[0][1], items[1][2]),
        (items[1][0], items[1][1], items[0][2]),
    ]
    assert not bls.verify_batch(swapped)


def sum_up(message, keys=KEYS[:2]):
    """Return an item of a batch: what several keys signed together."""
    total = bls.aggregate([key.sign(message) for key in keys])
    return [key.public_key for key in keys], message, total


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_of_sums(count):
    items = [sum_up(bytes([i])) for i in range(count)]
    assert bls.verify_batch(items)
    for bad in range(count):
        keys, message, total = items[bad]
        other = sum_up(b"other")[2]
        for wrong in (
            (keys, message, other),
            (keys[:1], message, total),
            (keys, message + b"!", total),
            ([], message, total),
            ([INFINITY_G1], message, total),
            (keys, message, INFINITY_G2),
            (keys, message, b"\xff" * 96),
            # Two that cancel out: the sum of nobody's keys.
            ([KEYS[0].public_key, KEYS[2].public_key], message, INFINITY_G2),
        ):
            assert not bls.verify_batch([*items[:bad], wrong, *items[bad + 1 :]])


def test_errors_that_cancel_out_in_a_plain_sum():
    """Whoever moves a point from one signature to another is found."""
    items = [sum_up(bytes([i])) for i in range(4)]
    shift = KEYS[1].sign(b"any point")
    back = bls.BlsSecretKey(
        (bls.ORDER - int.from_bytes(KEYS[1].secret, "big")).to_bytes(32, "big")
    ).sign(b"any point")
    for first, second in ((0, 1), (1, 0), (2, 3)):
        moved = list(items)
        for index, change in ((first, shift), (second, back)):
            keys, message, total = items[index]
            moved[index] = keys, message, bls.aggregate([total, change])
        totals = [total for _, _, total in moved]
        assert bls.aggregate(totals) == bls.aggregate([t for _, _, t in items])
        assert not bls.verify_batch(moved)
