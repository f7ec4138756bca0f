"""
The explorer's page over a chain on which everything has happened.

Without a browser: the page asks only for paths that there are, and every name that it
reads is a field of some answer.  With one: each of its pages is filled, and its script
complains of nothing.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import pytest
from browser import COMMAND, MISSING, open_page
from chain_backend import ChainNode
from chain_evidence import make_votes
from chain_world import (
    ALICE,
    BOB,
    CAROL,
    COIN,
    DAVE,
    SIGNER,
    STAKERS,
    START_MS,
    build_genesis,
)
from channel_helpers import build_claim, build_work
from serving import serve

from chain.records.channel import Settle
from chain.records.proof import Receipt
from chain.records.proposal import SplitShard
from chain.records.resharding import Reshard
from chain.records.staking import Unbond
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from p2pchain.api.completion import SeenReceipt
from p2pchain.api.explorer.routes import PATHS
from primitives.address import encode_address
from primitives.codec import encode
from shards.chunk import compute_chunk_hash

L = 6
WEB = files("p2pchain.api.explorer") / "web"
SCRIPT = "\n".join(
    file.read_text("utf-8") for file in WEB.iterdir() if file.name.endswith(".js")
)

CONVICT, LEAVER, ABSENT = 2, 1, 3
CONVICT_, LEAVER_, CAROL_ = (
    encode_address(key.public_key) for key in (STAKERS[CONVICT], STAKERS[LEAVER], CAROL)
)


class BusyNode(ChainNode):
    """It has just heard of somebody's work."""

    def list_receipts(self, limit):
        receipt = Receipt(
            chain_id=self.world.spec.chain_id,
            session=bytes([3]) * 32,
            channel_id=self.channel_id,
            client=BOB.public_key,
            node=CAROL.public_key,
            profile=bytes([7]) * 32,
            start=2,
            end=6,
            first_position=0,
            tokens=5,
            in_hash=bytes([1]) * 32,
            out_hash=bytes([2]) * 32,
            history_root=bytes(32),
            price_units=20,
            nonce=0,
            previous_hop=bytes(32),
            previous_own=bytes(32),
            expires_height=1000,
            signature=bytes(64),
        )
        return (SeenReceipt(receipt=receipt, seen_ms=START_MS),)


@pytest.fixture(scope="module")
def node():
    """Three epochs: a provider, a channel, packets, an unbonding, a conviction."""
    node = BusyNode(build_genesis(epoch_blocks=L, epoch_reward=4 * COIN))
    world = node.world
    node.add_provider(CAROL)
    opened = node.add_channel(BOB, CAROL, SIGNER)
    claim = build_claim(node.channel_id, chain_id=world.spec.chain_id)
    world.advance(world.sign(CAROL, Settle(node.channel_id, claim, build_work()), 1))
    node.many = world.advance(
        *(world.sign(ALICE, Transfer(DAVE.public_key, 0, 1)) for _ in range(30))
    )
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)))
    world.advance(world.sign(STAKERS[LEAVER], Unbond(1000 * COIN)))
    node.submit_evidence(make_votes(world.spec, CONVICT))
    node.make_block()
    for _ in range(2 * L):
        world.finalize(world.build(signers=[0, 1, 2]))
    world.advance(world.sign(STAKERS[0], Reshard(SplitShard(2, 6))))
    node.submit_evidence(make_votes(world.spec, 0))
    node.waiting = node.submit_transaction(
        encode(world.sign(ALICE, Transfer(DAVE.public_key, 0, 7)))
    )
    node.opened = compute_tx_id(encode(opened))
    return node


@pytest.fixture(scope="module")
def server(node):
    with serve(node) as running:
        yield running


def get_chunk_hash(node, shard: int, seq: int) -> str:
    found = node.queries.shards.get_header(shard, seq)
    return "0x" + compute_chunk_hash(found.header).hex()


def list_reads(node) -> list[str]:
    """Return what the page asks for on its way through the whole chain."""
    return [
        "/blocks",
        f"/block/{node.many.height}",
        *(f"/block/{height}" for height in range(1, node.tree.final_height + 1)),
        f"/block/{node.many.height}/txs",
        f"/tx/0x{node.opened.hex()}",
        f"/address/{CAROL_}",
        f"/address/{CONVICT_}",
        f"/address/{LEAVER_}",
        f"/address/{CAROL_}/txs",
        f"/channels?address={CAROL_}",
        f"/channels/0x{node.channel_id.hex()}",
        "/providers",
        "/models",
        "/work",
        "/receipts",
        "/shards",
        "/layout",
        "/shard/1",
        "/shard/1/chunks",
        "/shard/1/chunk/1",
        "/packets/0/2",
        "/packets/0/2/0",
        f"/address/{CONVICT_}/events",
        "/validators",
        "/validators?epoch=0",
        "/epochs/running",
        "/epochs/0",
        "/stakes",
        "/evidence?limit=100",
        "/search?q=1",
    ]


def find_names(value, found: set[str]) -> set[str]:
    """Collect the names of all fields in an answer."""
    if isinstance(value, dict):
        found.update(value)
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            find_names(each, found)
    return found


# Names that are a browser's, or the page's own between its functions.
NOT_FIELDS = {
    "error", "hash", "href", "length", "location", "message", "next", "ok", "rows",
    "style", "target",
}  # fmt: skip


def test_every_path_that_the_page_reads_exists() -> None:
    asked = re.findall(r'(?:read|cursor)\([`"](/[^`"?$]*)', SCRIPT)
    assert len(asked) > 20
    patterns = [path.pattern for path in PATHS]
    for path in asked:
        stem = path.rstrip("/")
        assert any(p == stem or p.startswith(stem + "/") for p in patterns), path


def test_every_field_that_the_page_reads_exists(node, server) -> None:
    names: set[str] = set()
    for path in list_reads(node):
        answer = server.request("/api/v1" + path)
        assert answer.status == 200, (path, answer.body)
        find_names(answer.json, names)
    code = re.sub(r"^\s*//.*$|from \"./\w+.js\";$", "", SCRIPT, flags=re.MULTILINE)
    read = set(re.findall(r"[\w\])]\.([a-z_]+)\b(?!\()", code))
    assert len(read) > 80
    assert read - NOT_FIELDS - names == set()


# With a browser

PAGES = {
    "#/": ["Blocks", "validator-0"],
    "#/block/6": ["Block 6", "Chunks", "transfer", "Rewards, payouts"],
    "#/block/1": ["Block 1", "register"],
    "#/tx/{opened}": ["open_channels", "final in block", "What it did"],
    "#/tx/{waiting}": ["waits in the mempool"],
    "#/address/{carol}": ["Address", "Channels", "settle"],
    "#/address/{convict}": ["convicted", "slashed", "in epoch", "Events"],
    "#/address/{leaver}": ["Stake", "unbonding", "at the end of epoch"],
    "#/channel/{channel}": ["Payment channel", "OPEN"],
    "#/providers": ["Providers by layer", "toy", "[2, 6)"],
    "#/work": ["Posted work", "[0, 4)", "Receipts seen now", "[2, 6)"],
    "#/shards": [
        "State shards", "0 (root)", "toy [0, 4)", "everybody", "On duty now", "then",
        "impossible while less than 1/3 is faulty", "Proposed changes",
        "shard 2 is split at layer 6",
    ],
    "#/shard/0": ["Shard 0", "stake, models, parameters", "Chunks", "Packets"],
    "#/shard/1": [
        "Shard 1", "keys, ", "Hosts", "On duty in epoch", "custodians of the epoch",
        "more than 33.3 % of all stake", "Chunks", "Packets",
    ],
    "#/chunk/1/1": [
        "Chunk 1 of shard 1", "the genesis state", "number 0 to shard 2", "75.0 %",
        "Endorsed by", "1,000 P2P",
    ],
    "#/chunk/{chunk}": ["Chunk 1 of shard 1"],
    "#/chunk/0/1": ["Chunk 1 of shard 0", "Everybody executes the root shard"],
    "#/packets/0/2": ["Packets from shard 0 to shard 2", "credit", "consumed"],
    "#/packet/0/2/0": ["Packet 0 from shard 0 to shard 2", "1 P2P", "packet 1 of 1"],
    "#/search/{chunk}": ["Chunk 1 of shard 1"],
    "#/validators": [
        "Validators", "Stakes", "Slashed", "Nullify and Finalize", "leaving",
        "Evidence that waits for a block: 1", "is locked",
    ],
    "#/epoch/0": ["Epoch 0", "over", "What its end brought about", "rewarded"],
    "#/epoch/3": ["Epoch 3", "next"],
    "#/models": ["Models", "toy"],
    "#/search/validator-2": ["Address"],
    "#/search/nobody": ["Nothing is called nobody"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(COMMAND is None, reason=MISSING)
def test_every_page_is_filled_and_nothing_complains(node, server) -> None:
    places = {
        "opened": "0x" + node.opened.hex(),
        "waiting": "0x" + node.waiting.hex(),
        "carol": CAROL_,
        "convict": CONVICT_,
        "leaver": LEAVER_,
        "channel": "0x" + node.channel_id.hex(),
        "chunk": get_chunk_hash(node, 1, 1),
    }
    urls = {name: f"{server.url}/{name.format(**places)}" for name in PAGES}
    with ThreadPoolExecutor(2) as pool:
        pages = dict(zip(urls, pool.map(open_page, urls.values()), strict=True))
    for name, page in pages.items():
        assert page.complaints == (), name
        for word in PAGES[name]:
            assert word in page.text, (name, word, page.text)
        for wrong in ("undefined", "NaN", "[object", "null", "Not here"):
            assert wrong not in page.text, (name, wrong, page.text)
        assert f"block {node.tree.final_height}" in page.html


@pytest.mark.slow
@pytest.mark.skipif(COMMAND is None, reason=MISSING)
def test_what_is_not_there_is_said(server) -> None:
    page = open_page(f"{server.url}/#/block/999999")
    assert page.text.startswith("Not here")
