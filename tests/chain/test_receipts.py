"""Receipts: what the signature covers, and the root over them."""

import msgspec
import pytest
from chain_world import ALICE, BOB
from test_golden import build_receipt

from chain.records.model import Profile, compute_profile_hash
from chain.records.proof import (
    Receipt,
    compute_receipt_hash,
    compute_receipt_message,
    compute_work_root,
    verify_receipt,
)
from primitives.codec import decode, encode
from primitives.merkle import EMPTY_ROOT, compute_path, verify_path

replace = msgspec.structs.replace


def sign(receipt: Receipt) -> Receipt:
    return replace(receipt, signature=BOB.sign(compute_receipt_message(receipt)))


def test_a_signed_receipt_verifies():
    receipt = sign(build_receipt())
    assert verify_receipt(receipt)
    assert decode(Receipt, encode(receipt)) == receipt
    assert not verify_receipt(replace(receipt, node=ALICE.public_key))
    assert not verify_receipt(replace(receipt, signature=bytes(64)))


@pytest.mark.parametrize("field", Receipt.__struct_fields__[:-1])
def test_the_signature_covers_every_field(field):
    receipt = sign(build_receipt())
    value = getattr(receipt, field)
    other = value + 1 if isinstance(value, int) else bytes(32)
    if other == value:
        other = b"\x01" * 32
    changed = replace(receipt, **{field: other})
    assert not verify_receipt(changed)
    assert compute_receipt_hash(changed) != compute_receipt_hash(receipt)


def test_the_work_root_holds_every_receipt_at_its_nonce():
    receipts = [sign(replace(build_receipt(), nonce=nonce)) for nonce in range(5)]
    root = compute_work_root(receipts)
    leaves = [encode(receipt) for receipt in receipts]
    for nonce, leaf in enumerate(leaves):
        assert verify_path(root, 5, nonce, leaf, compute_path(leaves, nonce))
    assert compute_work_root(receipts[::-1]) != root
    assert compute_work_root([]) == EMPTY_ROOT


def test_a_profile_is_everything_it_names():
    fields = dict.fromkeys(Profile.__struct_fields__, "x")
    hashes = {"weights_root": bytes(32), "tokenizer_hash": bytes(32)}
    profile = Profile(**fields | hashes)
    names = {compute_profile_hash(profile)}
    for field in fields:
        other = b"\x01" * 32 if field in hashes else "y"
        names.add(compute_profile_hash(replace(profile, **{field: other})))
    assert len(names) == 1 + len(fields)
