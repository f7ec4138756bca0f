"""
Golden vectors: the bytes that a second implementation has to produce.

They are the ones in docs/protocol; a change here is a change of the protocol.
"""

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, GENESIS, SPEC, World
from channel_helpers import build_claim, build_opening, build_work
from test_register import build_offer

from chain.ledger.epochs import compute_seed
from chain.ledger.stake import EpochRecord, Offence, Stake, StakeStatus, Unbonding
from chain.records.block import NO_ATTENDANCE, compute_attendance_root
from chain.records.channel import (
    Close,
    OpenChannels,
    Settle,
    compute_channel_id,
    compute_payword,
    compute_voucher_message,
)
from chain.records.keys import build_validators_key
from chain.records.model import compute_model_id
from chain.records.proof import Receipt, compute_receipt_hash, compute_receipt_message
from chain.records.staking import Bond, Unbond
from chain.records.transaction import Transaction, compute_tx_id, sign_transaction
from chain.records.transfer import Transfer
from genesis.genesis import compute_chain_id
from primitives.buckets import (
    EMPTY_BUCKET_HASH,
    EMPTY_HASHES,
    compute_bucket_index,
    compute_empty_tree,
)
from primitives.codec import encode
from primitives.hashing import compute_hash
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.packet import Packet, compute_out_root

CHAIN = bytes(32)
CHANNEL = bytes([3]) * 32


def build(payload):
    return Transaction(1, CHAIN, 1, ALICE.public_key, 7, COIN, 100, payload)


def build_receipt():
    fields = (CHAIN, b"s" * 32, CHANNEL, ALICE.public_key, BOB.public_key, b"p" * 32)
    hashes = (b"i" * 32, b"o" * 32, b"h" * 32)
    rest = (12, 0, b"q" * 32, bytes(32), 500, bytes(64))
    return Receipt(*fields, 0, 4, 0, 16, *hashes, *rest)


def digest(record) -> str:
    """Return a short name of the canonical bytes, enough to notice any change."""
    return compute_hash("test", encode(record)).hex()[:32]


CHUNK = ChunkHeader(
    1, 0, 9, 3, b"c" * 32, b"a" * 32, 2, b"r" * 32, b"s" * 32, b"t" * 32, 5,
    b"i" * 32, (), (), b"o" * 32, 100, 200, 300,
)  # fmt: skip

STAKE = Stake(
    "v", ALICE.public_key, b"k" * 48, 7, (Unbonding(5, 20),), StakeStatus.TOMBSTONED,
    3, 2, Offence(9, 10, 14, 2, is_settled=False),
)  # fmt: skip

VECTORS = {
    "transfer": lambda: encode(build(Transfer(CAROL.public_key, 2, 123456789))).hex(),
    "tx_id": lambda: compute_tx_id(
        encode(sign_transaction(build(Transfer(CAROL.public_key, 2, 1)), ALICE))
    ).hex(),
    "open": lambda: digest(build(OpenChannels((build_opening(),)))),
    "register": lambda: digest(build(build_offer())),
    "settle": lambda: digest(
        build(Settle(CHANNEL, build_claim(CHANNEL, chain_id=CHAIN), build_work()))
    ),
    "close": lambda: digest(build(Close(CHANNEL, None, None))),
    "channel_id": lambda: compute_channel_id(
        CHAIN, 1, ALICE.public_key, BOB.public_key, CAROL.public_key, 7, 0
    ).hex(),
    "voucher": lambda: compute_voucher_message(
        CHAIN, build_claim(CHANNEL, chain_id=CHAIN).voucher
    ).hex(),
    "payword": lambda: compute_payword(bytes(32), 3).hex(),
    "receipt": lambda: compute_receipt_message(build_receipt()).hex(),
    "receipt_hash": lambda: compute_receipt_hash(build_receipt()).hex(),
    "model_id": lambda: compute_model_id(bytes(32), bytes(32)).hex(),
    "chunk": lambda: compute_chunk_hash(CHUNK).hex(),
    "out_root": lambda: compute_out_root([Packet(0, 1, 0, 1, 5, b"x")]).hex(),
    "no_attendance": lambda: compute_attendance_root(NO_ATTENDANCE).hex(),
    "empty_bucket": lambda: EMPTY_BUCKET_HASH.hex(),
    "empty_tree": lambda: compute_empty_tree(5)[0].hex(),
    "empty_tree_9": lambda: EMPTY_HASHES[9].hex(),
    "bucket_index": lambda: compute_bucket_index(b"a" + bytes(32), 5),
    "bond": lambda: digest(build(Bond("v", bytes(48), bytes(96), 5))),
    "unbond": lambda: encode(Unbond(5)).hex(),
    "stake": lambda: encode(STAKE).hex(),
    "epoch": lambda: encode(EpochRecord(7, b"s" * 32, b"n" * 32)).hex(),
    "validators_key": lambda: build_validators_key(258).hex(),
    "seed": lambda: compute_seed(bytes(32)).hex(),
    "layout_root": lambda: GENESIS.layout.compute_root().hex(),
}

EXPECTED = {
    "transfer": (
        "9801c42000000000000000000000000000000000000000000000000000000000"
        "0000000001c4208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3"
        "748801b40f6f5c07ce3b9aca00649401c420ed4928c628d1c2c6eae903389059"
        "95612959273a5c63f93636c14614ac8737d102ce075bcd15"
    ),
    "tx_id": "c1a9590fdc5cdaa1aeddd340ca91cd05e5eb65d06e0597d77f327388d1dd09ac",
    "open": "dce2654cb45a0fdf55d8f7b41ff83a6b",
    "register": "aec4ffa69da75b4242cb22ad1beb8d09",
    "settle": "540392ac939d6d9ba05939cb277a1d6b",
    "close": "14a2f80a2f6fb87cae7e38dbbeebfd87",
    "channel_id": "fbf8ba5dc867762f1aca8b9f17b2989777fc5ae64b6d409582d342621a4ec2af",
    "voucher": "84008db1bbf8ecee921f74aaa6f44f0564d19a82f965f894e3b8e7d2e975f8d7",
    "payword": "964ba39fb548c50bb71212d6b3884d1a065713f0de9fa5314bd5dfd51697c493",
    "receipt": "2bd927009fa824970e1b4794bc7975667594a8213766ec2aa7206a90b3dc8f1c",
    "receipt_hash": "adfb87bfd9aad0a9ed7df3c7085e35a3f17c45f35556325ffa538dfb747c7d41",
    "model_id": "71b802b2b50f321071f500ead57dc5fd164e522ff352ea85e212355fb5c36dc4",
    "chunk": "8416a60f67df92d2180493a93fa2cdb36f0b3b8633956a293e72ac7580c1a223",
    "out_root": "17116189e4c2d60c4f3efee51cb91b8f71d69e079c039847dc4e643fbd0db905",
    "no_attendance": "106ee49230063204dd56a47c8da2909cab0b13bbc8789a8b95dd7b6e676172e2",
    "empty_bucket": "8303c62b40eb94e4bd41e048b2c1e3d11b6d4815598a76fdc5b612e27dfadd83",
    "empty_tree": "fc4ecf0d8afa1d09901f363b3346d60a9e6e349b893b991590e769e97dfc9a21",
    "empty_tree_9": "50902bb537bc9c4e02538d231ba22b50083715b0574e926f863ce322746d58ff",
    "bucket_index": 384,
    "bond": "ba090bcd5d23f54a3d1f60107673a53d",
    "unbond": "920a05",
    "stake": (
        "99a176c4208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
        "c430" + "6b" * 48 + "079192051403030295090a0e02c2"
    ),
    "epoch": "9307c420" + "73" * 32 + "c420" + "6e" * 32,
    "validators_key": "560000000000000102",
    "seed": "c78b3ceeb8871c32b357ac603ac5a62d90389604bf536ee3ad22d5ea3dc1b5f6",
    "layout_root": "f7513e84f600e8d6bbadcde6cffbfc88812681725367fba1faf06acc24d4f0bd",
}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name):
    assert VECTORS[name]() == EXPECTED[name]


def test_genesis_names_the_chain():
    world = World()
    assert world.tree.final.header.chain_id == SPEC.chain_id
    assert compute_chain_id(GENESIS) == SPEC.chain_id
