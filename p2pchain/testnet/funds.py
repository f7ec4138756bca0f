"""
Transactions of the runner's own, one at a time, told until they are final.

They are signed here and handed to any node: nothing depends on a node's wallet.
"""

import trio

from chain.records.transaction import Payload, compute_tx_id
from p2pchain.client import RpcError
from p2pchain.testnet.errors import StepFailed
from p2pchain.testnet.network import Testnet
from p2pchain.testnet.rpc import Json
from primitives.address import encode_address
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ShardId
from shards.layout import ROOT_SHARD
from wallet.transactions import ChainView, build_transaction

TELL_S = 3.0
"""Between two tries to tell a waiting transaction to a node."""
POLL_S = 0.5


async def commit(
    testnet: Testnet, key: SecretKey, payload: Payload, shard: ShardId = ROOT_SHARD
) -> Json:
    """Return the transaction of `payload` as nodes show it once it is final.

    Raises:
        StepFailed: Refused by its rule, or not final in its lifetime.
    """
    async with testnet.wallets[key.public_key]:
        return await _commit(testnet, key, payload, shard)


async def _commit(
    testnet: Testnet, key: SecretKey, payload: Payload, shard: ShardId
) -> Json:
    homes = testnet.homes
    nonce, height = await _get_nonce(testnet, key, shard)
    params = homes.genesis.params.chain
    view = ChainView(homes.chain_id, params, height, {shard: nonce})
    signed = build_transaction(key, view, shard, payload)
    data = encode(signed)
    tx_id = "0x" + compute_tx_id(data).hex()
    kind = type(payload).__name__
    refusal, told_at = "nobody was told", -TELL_S
    while testnet.height <= signed.transaction.valid_until_height + 1:
        for rpc in testnet.get_rpcs():
            try:
                if trio.current_time() >= told_at + TELL_S:
                    told_at = trio.current_time()
                    await rpc.call("broadcast_tx_sync", tx="0x" + data.hex())
                found: Json = await rpc.call("tx", hash=tx_id)
            except RpcError as error:
                refusal = str(error)  # waits there already, or this node is behind
                continue
            if found["final"]:
                if not found["outcome"]["ok"]:
                    raise StepFailed(f"{kind}: {found['outcome']['message']}")
                return found
        await trio.sleep(POLL_S)
    raise StepFailed(f"{kind} {tx_id} is in no block in its lifetime: {refusal}")


async def _get_nonce(
    testnet: Testnet, key: SecretKey, shard: ShardId
) -> tuple[int, int]:
    """Return an account's next nonce and the height at which it is that."""
    account = await testnet.ask("account", address=encode_address(key.public_key))
    nonces = {a["shard"]: int(a["nonce"]) for a in account["shards"]}
    return nonces.get(shard, 0), int(account["height"])
