"""
`p2pchain demo`: the main job, from an empty folder to a settled answer.

    a network -> READY -> a question -> the answer, token by token
    -> who computed, who was paid, in which blocks and shards
    -> the books balance, or exit 1

With `--kill` a provider dies in the middle of the answer, and another one goes on.

Everything it shows is asked from the running nodes over their public interfaces.
"""

import os
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from p2pchain.cli.demo_shards import describe_shard_work, load_shard_work
from p2pchain.cli.devnet import add_network_options, open_network, run_until_signal
from p2pchain.cli.options import add_command
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.client import RpcClient, RpcError
from p2pchain.devnet import Devnet
from p2pchain.errors import NodeFailed

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

QUESTION = "What is p2pchain?"
MAX_TOKENS = 128
KILL_AT = 12
"""Pieces of text before a provider dies."""
SETTLE_TIMEOUT_S = 60.0
"""Settlements follow the answer by a block or two."""

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came through /v1."""

    text: str
    route: str
    """Names of the nodes in order."""
    account: Json
    """Session, price and hops, as the gateway reports them."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Wealth:
    """What an account owns at one height: in shards, and unspent in channels.

    A stake is not counted; what it earns is, because it is paid into the account.
    """

    atoms: int
    fees: int
    """Atoms that its transactions have burned so far."""
    rewards: int
    """Atoms that its votes have earned so far; an epoch may end at any moment."""


def add_parser(commands: "Commands") -> None:
    """Add `demo`."""
    parser = add_command(
        commands, "demo", run, "ask a network of four validators, and see who is paid"
    )
    add_network_options(parser)
    parser.add_argument(
        "--once", action="store_true", help="end after the table; exit 1 if it is wrong"
    )
    parser.add_argument("--question", default=QUESTION, help=f"instead of {QUESTION!r}")
    parser.add_argument(
        "--kill",
        action="store_true",
        help="kill the first provider's worker in the middle of the answer; "
        "with --replicas 2 the answer does not change",
    )


def run(args: Namespace, output: Output) -> None:
    """Run the demo."""
    run_until_signal(_run, args, output)


async def _run(args: Namespace, output: Output) -> None:
    async with open_network(args, output.say) as devnet:
        await _show(args, output, devnet)
        output.say(
            f"explorer: {devnet.gateway.rpc}/  ({devnet.gateway.rpc}/api/v1/blocks)"
        )
        if not args.once:
            output.say("the network stays up; Ctrl-C stops it")
            await trio.sleep_forever()


async def _show(args: Namespace, output: Output, devnet: Devnet) -> None:
    gateway = devnet.gateway
    client = RpcClient(gateway.rpc, gateway.home.load_api_token())
    route = (await _ask(client, "route"))["hops"]
    payer = (await _ask(client, "wallet_address"))["address"]
    payees = await _load_payees(client, route, is_complete=args.kill)
    accounts = {payer: gateway.name, **payees}
    before = {each: await _load_wealth(client, each) for each in accounts}
    height = int((await _ask(client, "status"))["height"])
    output.say(f"\nasking: {args.question}\n")
    kill = _build_kill(devnet, output) if args.kill else None
    answer = await trio.to_thread.run_sync(_chat, client, args.question, output, kill)
    settlements = await _wait_settled(client, answer)
    after = {each: await _load_wealth(client, each) for each in accounts}
    changes = {each: compute_change(before[each], after[each]) for each in accounts}
    work = await _in_thread(lambda: load_shard_work(client, height + 1))
    if output.as_json:
        summary = _summarise(answer, settlements, accounts, before, after)
        output.show(summary | work, "")
    else:
        print(_describe(answer, settlements, accounts, before, after), flush=True)
        print(describe_shard_work(work) + "\n", flush=True)
    validate_books(payer, changes, int(answer.account["price"]))


async def _load_payees(
    client: RpcClient, route: list[Json], *, is_complete: bool
) -> dict[str, str]:
    """Return the names of those who may be paid, by address: a route's, or all."""
    payees = {hop["provider"]: hop["name"] for hop in route}
    if is_complete:
        validators = (await _ask(client, "validators"))["validators"]
        names = {each["account"]: each["name"] for each in validators}
        for each in (await _get(client, "/api/v1/providers"))["providers"]:
            payees.setdefault(each["account"], names.get(each["account"], "?"))
    return payees


def _build_kill(devnet: Devnet, output: Output) -> Callable[[str], None]:
    """Return what kills the worker of a node, by the node's name."""
    pids = {node.name: node.stage_pid for node in devnet.nodes}

    def kill(name: str) -> None:
        pid = pids[name]
        if pid is not None:
            output.say(f"\n[killing process {pid}, the layers of {name}]")
            os.kill(pid, signal.SIGKILL)

    return kill


def _chat(
    client: RpcClient,
    question: str,
    output: Output,
    kill: Callable[[str], None] | None = None,
) -> Answer:
    """Ask, and show the answer as it comes unless stdout is for programs.

    Args:
        client: Of the gateway.
        question: What is asked.
        output: Where progress goes.
        kill: Called with the route's first node in the middle of the answer.
    """
    started = time.monotonic()
    body = {
        "model": client.get("/v1/models")["data"][0]["id"],
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    text, route, pieces = "", "", 0
    account: Json = {}
    for chunk in client.stream_chat(body):
        if "headers" in chunk:
            route = chunk["headers"]["x-p2pchain-route"]
            continue
        account = chunk.get("p2pchain", account)
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content") or ""
            text += piece
            pieces += bool(piece)
            if kill is not None and pieces == KILL_AT:
                kill(route.split(",")[0])
                kill = None
            if not output.as_json:
                print(piece, end="", flush=True)
    if not output.as_json:
        print("\n", flush=True)
    if not text:
        raise NodeFailed("the answer is empty")
    return Answer(text, route, account, time.monotonic() - started)


async def _wait_settled(client: RpcClient, answer: Answer) -> list[Json]:
    """Return the newest settlement of every hop, once nothing is owed any more."""
    wanted = [hop["channel_id"] for hop in answer.account["hops"]]
    with trio.move_on_after(SETTLE_TIMEOUT_S):
        while True:
            work = await _get(client, "/api/v1/work")
            # Newest first, so the last one kept of each channel is the newest.
            found = {each["channel_id"]: each for each in reversed(work["records"])}
            is_paid = all(channel_id in found for channel_id in wanted)
            if is_paid and not await _has_open_claims(client):
                return [found[channel_id] for channel_id in wanted]
            await trio.sleep(0.2)
    raise NodeFailed(
        f"not settled within {SETTLE_TIMEOUT_S:.0f} s of the answer; a provider waits "
        "while what it is owed does not pay the fee: ask for a longer answer"
    )


async def _has_open_claims(client: RpcClient) -> bool:
    """Tell whether some channel has promised more than was settled."""
    channels = (await _ask(client, "wallet_channel_list"))["channels"]
    return any(int(each["promised"]) > int(each["settled"]) for each in channels)


async def _load_wealth(client: RpcClient, address: str) -> Wealth:
    """Add up an account's shards and deposits, and the fees that it has paid."""
    account = await _get(client, f"/api/v1/address/{address}")
    atoms = int(account["total"])
    # In the same answer as the balance, so that no epoch ends between the two.
    rewards = int(account["stake"]["rewarded"]) if account["stake"] else 0
    channels = await _get(client, f"/api/v1/channels?address={address}")
    for channel in channels["channels"]:
        if channel["payer"] == address and channel["status"] != "CLOSED":
            atoms += int(channel["deposit"]) - int(channel["settled"])
    fees, path = 0, f"/api/v1/address/{address}/txs"
    page = await _get(client, path)
    while True:
        for transaction in page["transactions"]:
            if transaction["sender"] == address:
                fees += int(transaction["outcome"]["fee"])
        if page["next"] is None:
            return Wealth(atoms, fees, rewards)
        page = await _get(client, f"{path}?after={page['next']}")


def compute_change(before: Wealth, after: Wealth) -> Wealth:
    """Return what an account gained; negative atoms are a loss."""
    return Wealth(
        after.atoms - before.atoms,
        after.fees - before.fees,
        after.rewards - before.rewards,
    )


def validate_books(payer: str, changes: dict[str, Wealth], price: int) -> None:
    """Compare what the payer paid with what the payees earned, to the atom.

    Rewards are new money and fees are burned, so both are taken out first.

    Args:
        payer: Who asked.
        changes: Of the payer and of the payees, by address.
        price: Atoms that the answer cost, as the payer's node reports.

    Raises:
        NodeFailed: They differ.
    """
    moved = {a: c.atoms + c.fees - c.rewards for a, c in changes.items()}
    paid = -moved.pop(payer)
    earned = sum(moved.values())
    if paid != earned:
        raise NodeFailed(
            f"the books do not balance: without fees and rewards the payer lost {paid} "
            f"and the payees gained {earned}"
        )
    if earned != price:
        raise NodeFailed(f"the answer cost {price}, the payees got {earned}")


def _summarise(
    answer: Answer,
    settlements: list[Json],
    accounts: dict[str, str],
    before: dict[str, Wealth],
    after: dict[str, Wealth],
) -> Json:
    return {
        "answer": answer.text,
        "route": answer.route,
        "seconds": round(answer.seconds, 3),
        "session": answer.account,
        "settlements": settlements,
        "balances": {
            name: {
                "before": str(before[a].atoms),
                "after": str(after[a].atoms),
                "fees": str(after[a].fees - before[a].fees),
                "rewards": str(after[a].rewards - before[a].rewards),
            }
            for a, name in accounts.items()
        },
    }


def _describe(
    answer: Answer,
    settlements: list[Json],
    accounts: dict[str, str],
    before: dict[str, Wealth],
    after: dict[str, Wealth],
) -> str:
    hops = format_table(
        ["hop", "layers", "steps", "ms/step", "vouchers", "price", "settled", "block"],
        (
            [
                hop["name"],
                f"{hop['start']}:{hop['end']}",
                hop["steps"],
                f"{hop['step_us'] / 1000:.2f}",
                hop["vouchers"],
                hop["price"],
                entry["paid"],
                entry["height"],
            ]
            for hop, entry in zip(answer.account["hops"], settlements, strict=True)
        ),
    )
    transactions = "\n".join(
        f"  {entry['tx_id']}  block {entry['height']}, shard {entry['shard']}, "
        f"work {entry['work']['work_root'][:18]}..."
        for entry in settlements
    )
    balances = format_table(
        ["account", "before", "after", "change", "fees", "rewards"],
        (
            [
                name,
                before[a].atoms,
                after[a].atoms,
                f"{after[a].atoms - before[a].atoms:+d}",
                after[a].fees - before[a].fees,
                after[a].rewards - before[a].rewards,
            ]
            for a, name in accounts.items()
        ),
    )
    total = format_amount(answer.account["price"])
    return (
        f"route {answer.route.replace(',', ' > ')}, {answer.seconds:.2f} s, {total}\n\n"
        f"{hops}\n\nsettlements, final:\n{transactions}\n\n"
        f"balances in atoms, deposits counted:\n{balances}\n"
    )


async def _ask(client: RpcClient, method: str, **params: Any) -> Any:
    return await _in_thread(lambda: client.call(method, **params))


async def _get(client: RpcClient, path: str) -> Any:
    return await _in_thread(lambda: client.get(path))


async def _in_thread(call: Callable[[], T]) -> T:
    try:
        return await trio.to_thread.run_sync(call)
    except RpcError as error:
        raise NodeFailed(f"a node of the demo refused: {error}") from error
