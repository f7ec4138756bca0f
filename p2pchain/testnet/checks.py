"""
What must hold at the end, asked of every node through its RPC.

Each check is a function that takes the network and returns a sentence of what it saw,
or raises CheckFailed with what is wrong.  CHECKS lists them in the order of the report.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise

import trio

from p2pchain.client import RpcError
from p2pchain.testnet.errors import Stalled, TestnetFailed
from p2pchain.testnet.load import Load
from p2pchain.testnet.network import Testnet
from p2pchain.testnet.rpc import Call, Json, NodeRpc
from p2pchain.testnet.steps import Equivocate
from primitives.address import encode_address

ARRIVE_BLOCKS = 20
"""For the packets of the last transfers to be credited: two blocks, and room."""
COMPARED_FIELDS = ("height", "block_hash", "index", "outcome")
"""Of transactions: where they are and what they did."""


class CheckFailed(TestnetFailed):
    """What a node shows is not what must be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    name: str
    ok: bool
    text: str


@dataclass(slots=True)
class Outcome:
    """What the checks look at."""

    testnet: Testnet
    load: Load
    rpcs: dict[str, NodeRpc]
    """Of every node."""
    height: int
    """Final at all of them."""


Check = Callable[[Outcome], Awaitable[str]]


async def run_checks(testnet: Testnet, load: Load) -> list[Finding]:
    """Return what came of every check."""
    try:
        outcome = await _gather(testnet, load)
    except (RpcError, TestnetFailed) as error:
        return [Finding("every node reaches the tip", False, str(error))]
    reached = f"height {outcome.height} on {len(outcome.rpcs)} nodes"
    findings = [Finding("every node reaches the tip", True, reached)]
    for name, check in CHECKS.items():
        try:
            findings.append(Finding(name, True, await check(outcome)))
        except (RpcError, TestnetFailed) as error:
            findings.append(Finding(name, False, str(error)))
    return findings


async def _gather(testnet: Testnet, load: Load) -> Outcome:
    rpcs = {}
    for name, node in testnet.nodes.items():
        await testnet.wait_caught_up(name)
        if node.rpc is None:
            raise Stalled(f"{name} does not run")
        rpcs[name] = node.rpc
    return Outcome(testnet, load, rpcs, min(testnet.heights.values()))


async def check_blocks(outcome: Outcome) -> str:
    """Same header, so same block and state roots, at every height on every node."""
    expected: list[Json] = []
    calls: list[Call] = [
        ("header", {"height": height}) for height in range(outcome.height + 1)
    ]
    first = ""
    for name, rpc in outcome.rpcs.items():
        headers = await rpc.get_results(calls)
        expected, first = expected or headers, first or name
        for height, (ours, theirs) in enumerate(zip(expected, headers, strict=True)):
            if ours != theirs:
                raise CheckFailed(
                    f"height {height}: {first} has {ours['block_hash']}, {name} "
                    f"{theirs['block_hash']}"
                )
    for parent, block in pairwise(expected):
        if block["header"]["parent_hash"] != parent["block_hash"]:
            raise CheckFailed(f"block {block['height']} does not follow its parent")
    return f"{outcome.height + 1} headers alike on {len(outcome.rpcs)} nodes"


async def check_prefix(outcome: Outcome) -> str:
    """Every block that any node ever called final still is, on every node."""
    seen = {h: b for h, b in outcome.testnet.blocks.items() if h <= outcome.height}
    calls: list[Call] = [("header", {"height": height}) for height in seen]
    for name, rpc in outcome.rpcs.items():
        headers = await rpc.get_results(calls)
        for (height, (told, teller)), now in zip(seen.items(), headers, strict=True):
            if now["block_hash"] != told:
                raise CheckFailed(
                    f"height {height}: {teller} told {told} during the run, {name} has "
                    f"{now['block_hash']} at the end"
                )
    return f"{len(seen)} blocks told during the run are in the chain"


async def check_balances(outcome: Outcome) -> str:
    """Every node shows the balances that the load's book comes to."""
    book = outcome.load.book
    last = max((done.height for done in book.settled), default=0)
    wallets = sorted({wallet for wallet, _ in book.balances})
    calls: list[Call] = [
        ("account", {"address": encode_address(outcome.load.get_address(wallet))})
        for wallet in wallets
    ]
    for name, rpc in outcome.rpcs.items():
        while True:
            height = int((await rpc.call("status"))["height"])
            wrong = _compare_balances(book.balances, await rpc.get_results(calls))
            if not wrong:
                break
            if height > last + ARRIVE_BLOCKS:
                raise CheckFailed(f"{name} at height {height}: {wrong}")
            await trio.sleep(1)
    return f"{len(book.balances)} balances to the atom on {len(outcome.rpcs)} nodes"


def _compare_balances(
    expected: dict[tuple[int, int], int], accounts: list[Json]
) -> str:
    """Return the first difference in words, or nothing."""
    for (wallet, shard), atoms in expected.items():
        entries = {entry["shard"]: entry for entry in accounts[wallet]["shards"]}
        shown = int(entries[shard]["balance"]) if shard in entries else 0
        if shown != atoms:
            return f"wallet {wallet} holds {shown} in shard {shard}, not {atoms}"
    return ""


async def check_transactions(outcome: Outcome) -> str:
    """Every node shows each transfer in the same place with the same outcome."""
    settled = outcome.load.book.settled
    calls: list[Call] = [("tx", {"hash": "0x" + s.tx_id.hex()}) for s in settled]
    expected: list[Json] = []
    for name, rpc in outcome.rpcs.items():
        found = await rpc.get_results(calls)
        shown = [{key: tx[key] for key in COMPARED_FIELDS} for tx in found]
        expected = expected or shown
        for ours, theirs in zip(expected, shown, strict=True):
            if ours != theirs:
                raise CheckFailed(f"{name} shows {theirs}, others {ours}")
    failed = sum(not done.ok for done in settled)
    return (
        f"{len(settled)} transfers alike on {len(outcome.rpcs)} nodes ({failed} "
        f"refused by their rule, {outcome.load.book.expired} expired)"
    )


async def check_supply(outcome: Outcome) -> str:
    """On every node the sums of all atoms agree, and nodes agree with each other."""
    books: dict[str, Json] = {}
    for name, rpc in outcome.rpcs.items():
        supply = await rpc.call("supply")
        if not supply["conserved"]:
            raise CheckFailed(
                f"{name}: {supply['held']} atoms held, {supply['created']} created"
            )
        known = books.setdefault(supply["height"], supply)
        if known != supply:
            raise CheckFailed(
                f"at {supply['height']} {name} shows other sums: {supply}"
            )
    held = next(iter(books.values()))["held"]
    return f"{held} atoms, held and created, on {len(outcome.rpcs)} nodes"


async def check_evidence(outcome: Outcome) -> str:
    """The manifest's culprits are convicted on every node, and nobody else is."""
    steps = outcome.testnet.manifest.steps
    culprits = {step.node for step in steps if isinstance(step, Equivocate)}
    names = {
        encode_address(keys.account.public_key): name
        for name, keys in outcome.testnet.homes.keys.items()
    }
    expected: list[Json] = []
    for name, rpc in outcome.rpcs.items():
        applied = (await rpc.call("evidence_list", limit=100))["evidence"]
        # By account: a stake that was paid out after its conviction has no name.
        guilty = {names[s["account"]] for piece in applied for s in piece["convicted"]}
        if guilty != culprits or len(applied) != len(culprits):
            raise CheckFailed(
                f"{name} shows {len(applied)} pieces of evidence, against "
                f"{_list(guilty)}; who equivocated: {_list(culprits)}"
            )
        expected = expected or applied
        if applied != expected:
            raise CheckFailed(f"{name} shows {applied}, others {expected}")
        stakes = (await rpc.call("stake_list"))["stakes"]
        for stake in stakes:
            is_culprit = names[stake["account"]] in culprits
            if is_culprit is not (stake["status"] == "TOMBSTONED"):
                raise CheckFailed(f"{name} shows as {stake['status']} {stake['name']}")
    return f"convicted, each once: {_list(culprits)}"


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nobody"


async def check_layers(outcome: Outcome) -> str:
    """Whoever hosts layers is READY, and every node lists it as their provider."""
    hosts = {n.name: n.layers for n in outcome.testnet.manifest.nodes if n.layers}
    expected = {
        outcome.testnet.homes.keys[name].node.public_key.hex(): layers
        for name, layers in hosts.items()
    }
    for name in hosts:
        # A worker that was killed with its node loads the model again.
        deadline = trio.current_time() + outcome.testnet.manifest.stall_s
        while not (status := await outcome.rpcs[name].call("status"))["ready"]:
            if trio.current_time() > deadline:
                raise CheckFailed(f"{name} waits for {status['waiting_for']}")
            await trio.sleep(1)
    for name, rpc in outcome.rpcs.items():
        providers = (await rpc.call("provider_list"))["providers"]
        shown = {
            p["node_key"].removeprefix("0x"): f"{p['start']}:{p['end']}"
            for p in providers
            if p["status"] == "ACTIVE"
        }
        if shown != expected:
            raise CheckFailed(f"{name} lists {shown}, the manifest has {hosts}")
    return f"served by {', '.join(hosts)}" if hosts else "none are hosted"


async def check_logs(outcome: Outcome) -> str:
    """No node met an error that it did not expect; its log would have a traceback."""
    for name, node in outcome.testnet.nodes.items():
        node.require_alive()
        before, found, after = node.read_log().partition("Traceback (most recent")
        if found:
            line = before.rstrip().rpartition("\n")[2]
            raise CheckFailed(f"{name} logged: {line}\n{found}{after[:2000]}")
    return f"no process ended by itself, no traceback in {len(outcome.rpcs)} logs"


CHECKS: dict[str, Check] = {
    "same blocks and roots": check_blocks,
    "prefix property": check_prefix,
    "balances as booked": check_balances,
    "same transactions": check_transactions,
    "supply conserved": check_supply,
    "only culprits convicted": check_evidence,
    "layers served": check_layers,
    "no node failed": check_logs,
}
