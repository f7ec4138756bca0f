"""
The load: transfers between wallets of ours, and the book of what they must come to.

A lane is a wallet in a shard.  It has one transfer under way at a time and signs the
next one when that is final or can never be, so whatever nodes lose, the book is exact
to the atom and no nonce is left out.  A transfer is told to one node, and again to
another while it is not in a block: a node that is killed forgets what waited there.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import trio

from chain.records.params import ChainParams
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from p2pchain.client import RpcError
from p2pchain.testnet.errors import Stalled, StepFailed
from p2pchain.testnet.homes import WALLET_BALANCE, Homes
from p2pchain.testnet.network import Testnet
from p2pchain.testnet.rpc import Call, Json, NodeRpc
from primitives.codec import encode
from primitives.keys import SecretKey
from wallet.transactions import ChainView, build_transaction

TICK_S = 0.5
REPEAT_S = 5.0
"""Until a transfer is told to another node: a few blocks."""
LIFETIME_BLOCKS = 40
"""Until an unheard transfer is surely dead: longer than the faults of a manifest."""
MAX_AMOUNT = 10_000
"""Atoms; a wallet has money for a million of them."""

Lane = tuple[int, int]
"""Wallet and shard."""


@dataclass(slots=True)
class Underway:
    """One transfer that is not final yet."""

    tx_id: bytes
    data: bytes
    target: Lane
    amount: int
    valid_until: int
    told_at: float = -REPEAT_S


@dataclass(slots=True)
class Settled:
    """One transfer in a block."""

    tx_id: bytes
    height: int
    ok: bool
    fee: int


@dataclass(slots=True)
class Book:
    """What every lane must hold once all is final."""

    balances: dict[Lane, int]
    nonces: dict[Lane, int]
    settled: list[Settled] = field(default_factory=list)
    expired: int = 0
    """Transfers that no block took in time."""

    def settle(self, lane: Lane, transfer: Underway, found: Json) -> None:
        """Enter what a final transfer did."""
        outcome = found["outcome"]
        fee = int(outcome["fee"])
        done = Settled(transfer.tx_id, int(found["height"]), bool(outcome["ok"]), fee)
        self.settled.append(done)
        self.nonces[lane] += 1
        self.balances[lane] -= fee
        if done.ok:
            self.balances[lane] -= transfer.amount
            self.balances[transfer.target] += transfer.amount


class Load:
    """Sends transfers until it is told to stop."""

    def __init__(self, testnet: Testnet) -> None:
        homes: Homes = testnet.homes
        self._testnet = testnet
        self._keys: Sequence[SecretKey] = homes.wallets
        self._chain_id = homes.chain_id
        self._params: ChainParams = homes.genesis.params.chain
        self._shards = homes.genesis.layout.shard_ids
        self._settings = homes.manifest.load
        self._luck = Random(homes.manifest.seed)
        lanes = [(w, s) for w in range(len(self._keys)) for s in self._shards]
        self.book = Book(dict.fromkeys(lanes, WALLET_BALANCE), dict.fromkeys(lanes, 0))
        self.underway: dict[Lane, Underway] = {}
        self._owed = 0.0
        self._is_stopping = False
        self.started = 0
        """Transfers signed so far."""

    def get_address(self, wallet: int) -> bytes:
        """Return the account of a wallet."""
        return self._keys[wallet].public_key

    def stop(self) -> None:
        """Sign no more; `run` returns when all that are under way have ended."""
        self._is_stopping = True

    async def run(self) -> None:
        """Send until `stop`, then see the last ones through.

        Raises:
            Stalled: After `stop`, a transfer neither becomes final nor expires.
        """
        deadline = None
        while not self._is_stopping or self.underway:
            if self._is_stopping and deadline is None:
                deadline = trio.current_time() + 2 * self._testnet.manifest.stall_s
            if deadline is not None and trio.current_time() > deadline:
                waiting = next(iter(self.underway.values()))
                raise Stalled(
                    f"{len(self.underway)} transfers are neither final nor expired, "
                    f"one of them 0x{waiting.tx_id.hex()}"
                )
            for rpc in self._testnet.get_rpcs()[:1]:
                with suppress(RpcError):  # it ends just now; the next one is asked
                    await self._tick(rpc)
            await trio.sleep(TICK_S)

    async def _tick(self, observer: NodeRpc) -> None:
        await self._collect(observer)
        if not self._is_stopping:
            self._sign(int((await observer.call("status"))["height"]))
        await self._tell()

    async def _collect(self, observer: NodeRpc) -> None:
        """Enter what became final, and forget what never can."""
        lanes = list(self.underway)
        # The height first: a transfer that a node of this height lacks is not below.
        height = int((await observer.call("status"))["height"])
        calls: list[Call] = [
            ("tx", {"hash": "0x" + self.underway[lane].tx_id.hex()}) for lane in lanes
        ]
        for lane, answer in zip(lanes, await observer.call_many(calls), strict=True):
            transfer = self.underway[lane]
            found = answer.get("result")
            if found and found["final"]:
                self.book.settle(lane, transfer, found)
                del self.underway[lane]
            elif height > transfer.valid_until + 1:
                self.book.expired += 1
                del self.underway[lane]

    def _sign(self, height: int) -> None:
        self._owed = min(self._owed + self._settings.rate * TICK_S, 200.0)
        free = [lane for lane in self.book.nonces if lane not in self.underway]
        self._luck.shuffle(free)
        while self._owed >= 1 and free:
            self._owed -= 1
            lane = free.pop()
            self.underway[lane] = self._build(lane, height)
            self.started += 1

    def _build(self, lane: Lane, height: int) -> Underway:
        wallet, shard = lane
        target = self._choose_target(wallet, shard)
        amount = self._luck.randint(1, MAX_AMOUNT)
        payload = Transfer(self.get_address(target[0]), target[1], amount)
        view = ChainView(
            self._chain_id, self._params, height, {shard: self.book.nonces[lane]}
        )
        signed = build_transaction(
            self._keys[wallet], view, shard, payload, lifetime_blocks=LIFETIME_BLOCKS
        )
        data = encode(signed)
        until = signed.transaction.valid_until_height
        return Underway(compute_tx_id(data), data, target, amount, until)

    def _choose_target(self, wallet: int, shard: int) -> Lane:
        others = [index for index in range(len(self._keys)) if index != wallet]
        target = self._luck.choice(others)
        elsewhere = [other for other in self._shards if other != shard]
        if elsewhere and self._luck.random() < self._settings.cross_shard:
            return target, self._luck.choice(elsewhere)
        return target, shard

    async def _tell(self) -> None:
        """Tell nodes, each of them its part, what no node has been told of lately."""
        now = trio.current_time()
        due = [t for t in self.underway.values() if now >= t.told_at + REPEAT_S]
        rpcs = self._testnet.get_rpcs()
        if not rpcs:
            return
        parts: dict[int, list[Underway]] = {}
        for transfer in due:
            transfer.told_at = now
            parts.setdefault(self._luck.randrange(len(rpcs)), []).append(transfer)
        async with trio.open_nursery() as nursery:
            for index, part in parts.items():
                nursery.start_soon(_broadcast, rpcs[index], part)


async def _broadcast(rpc: NodeRpc, transfers: Sequence[Underway]) -> None:
    calls: list[Call] = [
        ("broadcast_tx_sync", {"tx": "0x" + t.data.hex()}) for t in transfers
    ]
    try:
        answers = await rpc.call_many(calls)
    except RpcError:
        return  # told again later, to somebody else
    for answer in answers:
        error = answer.get("error")
        if error and error["code"] in _NEVER:
            raise StepFailed(f"a transfer was not judged at all: {error['message']}")


_NEVER = frozenset({-32600, -32602, -32603, -32700})
"""JSON-RPC codes of what no node can read, and of a node's own mistakes; with all
others a transfer may be taken later or elsewhere."""
