"""
A light client over RPC: it asks a node that it does not trust, and verifies.

    LightClient(rpc, trust).sync();  .get(shard, key);  .get_account(shard, address)

Every answer is bounded before it is read, decoded canonically, and proven before
anything of it is used.  What goes wrong is a typed error: `BadAnswer` for what cannot
even be read, the LightErrors of chain/errors.py for what does not prove what it says.

What a node can still do is be silent, or show an old final block as the newest: that
nothing newer exists cannot be proven.  So every answer comes with its block's time.

Spec: docs/protocol/12-light-client.md
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from chain.errors import InvalidProof, OtherEpoch, StaleAnswer
from chain.ledger.epochs import compute_epoch
from chain.ledger.layouts import get_state_layout_root
from chain.light.client import EpochProof, LightBlock, LightState, adopt, adopt_state
from chain.light.sync import AskBlock, AskProofs, LightSync
from chain.records.account import NO_ACCOUNT, Account, compute_ripe
from chain.records.header import Header
from chain.records.keys import build_account_key, build_layout_key
from chain.state.proofs import StateProof
from consensus.scheme import SignatureScheme
from p2pchain.client import RpcClient, RpcError
from p2pchain.errors import BadAnswer
from p2pchain.light.trust import Trust
from primitives import bls
from primitives.codec import decode
from primitives.errors import DecodeError
from primitives.types import Epoch, Hash32, Height, ShardId, TimeMs
from shards.layout import ROOT_SHARD, Layout

MAX_BLOCK_BYTES = 64 * 1024
"""64 headers of at most 600 bytes, 128 validators of at most 62, a certificate."""
MAX_EPOCH_BYTES = 16 * 1024
"""A header, a certificate, 128 validators."""
MAX_STATE_BYTES = 1024 * 1024
"""A bucket with thousands of accounts; the largest honest one is far below."""
NOT_FOLLOWED = -32006
"""What a node refuses with that can show nothing of a shard."""
MAX_WORDS_BYTES = 4 * 1024
"""What an answer says besides its records."""
MAX_ROUNDS = 3
"""Questions about state until one is answered: only at the end of an epoch, or by a
node that is a block behind, the first one is not."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Shown:
    """A value in the state, proven."""

    value: bytes | None
    """None: there is no such key."""
    height: Height
    """Of the final block in whose state it is."""
    time_ms: TimeMs


@dataclass(frozen=True, slots=True)
class ShownAccount:
    """An account in one shard, proven."""

    shard: ShardId
    account: Account
    """With what is ripe in its balance."""
    height: Height
    time_ms: TimeMs


def get_clock_ms() -> int:
    """Return the time that headers are compared with."""
    return time.time_ns() // 1_000_000


class LightClient:
    """Follows one chain through one node; see the top of the file."""

    def __init__(
        self,
        rpc: RpcClient,
        trust: Trust,
        *,
        clock: Callable[[], int] = get_clock_ms,
        pause: Callable[[float], None] = time.sleep,
        scheme: SignatureScheme = bls,
    ) -> None:
        self.trust = trust
        """As far as answers were proven."""
        self._rpc = rpc
        self._clock = clock
        self._pause = pause
        self._scheme = scheme

    def sync(self) -> None:
        """Follow the chain to the newest block that the node shows.

        Raises:
            BadAnswer, LightError, OtherEpoch: The node lies; what came before holds.
            StaleAnswer: The node is behind what is known already.
            RpcError: The node does not answer, or refuses.
        """
        latest_ms = self._clock() + self.trust.params.max_drift_ms
        sync = LightSync(self.trust.state, self._scheme, latest_ms)
        try:
            while (ask := sync.ask) is not None:
                match ask:
                    case AskBlock(height):
                        sync.on_block(self.fetch_block(height))
                    case AskProofs(epoch, count):
                        sync.on_proofs(self._fetch_proofs(epoch, count))
        finally:
            self.trust = self.trust.with_state(sync.state)

    def get(self, shard: ShardId, key: bytes) -> Shown:
        """Return a key's value in the newest state that the node shows.

        Raises:
            BadAnswer, LightError: The node lies.
            StaleAnswer: The node shows an older state than one that is known.
            RpcError: The node does not answer, or refuses.
        """
        header, value = self._adopt(shard, key)
        self._follow_layout(header)
        return Shown(value, header.height, header.time_ms)

    def get_account(self, shard: ShardId, address: bytes) -> ShownAccount:
        """Return an account in a shard; one that was never used is empty.

        Raises:
            The same as `get`.
        """
        shown = self.get(shard, build_account_key(address))
        account = NO_ACCOUNT
        if shown.value is not None:
            account = decode(Account, shown.value)
        account = compute_ripe(account, shown.height)
        return ShownAccount(shard, account, shown.height, shown.time_ms)

    def list_accounts(self, address: bytes) -> tuple[ShownAccount, ...]:
        """Return an account in every shard, the root shard first.

        Layer shards that the node does not follow, and nobody shows it just now, are
        left out: those of `trust.layout` that are not in the answer.

        Raises:
            The same as `get`.
        """
        for _ in range(MAX_ROUNDS):
            accounts = [self.get_account(ROOT_SHARD, address)]
            layout = self.trust.layout
            for spec in layout.shards:
                try:
                    accounts.append(self.get_account(spec.shard_id, address))
                except RpcError as error:
                    if error.code != NOT_FOLLOWED:
                        raise
                if self.trust.layout != layout:
                    break
            else:
                return tuple(accounts)
        raise BadAnswer("the node shows other shards with every answer")

    def list_missing(self, accounts: Iterable[ShownAccount]) -> tuple[ShardId, ...]:
        """Return the shards of the newest known layout that are not among accounts."""
        shown = {account.shard for account in accounts}
        return tuple(s for s in self.trust.layout.shard_ids if s not in shown)

    def _adopt(self, shard: ShardId, key: bytes) -> tuple[Header, bytes | None]:
        """Return a value and the header of the block in whose state it is."""
        proof, state = self._read_state(shard, key)
        if proof.header.time_ms > self._clock() + self.trust.params.max_drift_ms:
            raise InvalidProof(f"block {proof.header.height} is from the future")
        self.trust = self.trust.with_state(state)
        return proof.header, proof.value

    def _follow_layout(self, header: Header) -> None:
        """Learn the shards of the state after a block, if they are not known."""
        blocks = self.trust.params.epoch_blocks
        for _ in range(MAX_ROUNDS):
            root = get_state_layout_root(header, blocks)
            if self.trust.layout.compute_root() == root:
                return
            key = build_layout_key(compute_epoch(header.height + 1, blocks))
            header, value = self._adopt(ROOT_SHARD, key)
            # An epoch that has ended meanwhile has no layout in the state any more.
            if value is not None:
                self.trust = self.trust.with_layout(decode(Layout, value))
        raise BadAnswer("the node shows no shards of a state that it shows")

    def _read_state(self, shard: ShardId, key: bytes) -> tuple[StateProof, LightState]:
        """Ask until the state is not older than a known block, nor of a later epoch."""
        for is_last in (*[False] * (MAX_ROUNDS - 1), True):
            proof = self._fetch_state(shard, key)
            trusted = self.trust.state
            try:
                return proof, adopt_state(trusted, shard, key, proof, self._scheme)
            except StaleAnswer:
                if is_last:
                    raise
                # A node may be a block behind the one that was asked before.
                self._pause(self.trust.interval_ms / 1000)
            except OtherEpoch as error:
                if error.epoch < error.trusted:
                    raise
                self.sync()
        raise BadAnswer("the node's state is of another epoch than its blocks")

    # ---------------------------------------------------------------- questions

    def fetch_block(self, height: Height | None) -> LightBlock:
        """Return a block as the node shows it, unverified."""
        params = {} if height is None else {"height": str(height)}
        answer = self._call("light_block", params, MAX_BLOCK_BYTES)
        return _read(answer, "light_block", LightBlock, MAX_BLOCK_BYTES)

    def _fetch_proofs(self, epoch: Epoch, count: int) -> list[EpochProof]:
        params = {"from_epoch": epoch, "limit": count}
        answer = self._call("epoch_proofs", params, count * MAX_EPOCH_BYTES)
        texts = answer.get("epoch_proofs")
        if not isinstance(texts, list):
            raise BadAnswer("the node answers no list of epoch_proofs")
        return [_decode(text, EpochProof, MAX_EPOCH_BYTES) for text in texts[:count]]

    def _fetch_state(self, shard: ShardId, key: bytes) -> StateProof:
        params = {"shard": shard, "key": "0x" + key.hex()}
        answer = self._call("state_proof", params, MAX_STATE_BYTES)
        return _read(answer, "proof", StateProof, MAX_STATE_BYTES)

    def _call(
        self, method: str, params: Mapping[str, Any], max_bytes: int
    ) -> dict[str, Any]:
        """Return a node's answer whose records have at most `max_bytes`."""
        # Bytes come as hex.  A state proof says its value a second time.
        allowed = 4 * max_bytes + MAX_WORDS_BYTES
        answer = self._rpc.call_bounded(method, params, allowed)
        if not isinstance(answer, dict):
            raise BadAnswer(f"the node answers {method} with no object")
        return answer


def load_checkpoint(
    client: LightClient, epoch: Epoch, root: Hash32, scheme: SignatureScheme = bls
) -> Trust:
    """Return the trust of somebody who knows the root of an epoch's validator set.

    The node brings the set, and a block that it signed; the root says whether it is
    the right one.

    Raises:
        BadAnswer, LightError: The node lies, or the root is not of this chain.
        RpcError: The node does not answer, or has no block of the epoch yet.
    """
    trust = client.trust
    height = epoch * trust.params.epoch_blocks + 1
    block = client.fetch_block(height)
    if block.validators.compute_root() != root:
        raise InvalidProof(
            f"the node shows another validator set of epoch {epoch} than the one that "
            "was vouched for"
        )
    state = LightState.from_set(trust.state.chain, epoch, block.validators)
    return trust.with_checkpoint(adopt(state, block, scheme), get_clock_ms())


def _read(answer: Mapping[str, Any], field: str, kind: type[R], most: int) -> R:
    return _decode(answer.get(field), kind, most)


def _decode(text: Any, kind: type[R], max_bytes: int) -> R:
    """Return the record that a node sent as hex."""
    if not isinstance(text, str) or len(text) > 2 * max_bytes + 2:
        raise BadAnswer(f"the node answers no {kind.__name__}, or one too long")
    try:
        return decode(kind, bytes.fromhex(text.removeprefix("0x")), max_bytes)
    except (ValueError, DecodeError) as error:
        raise BadAnswer(f"the node answers no {kind.__name__}: {error}") from error
