"""`p2pchain chat`: ask the network's model, once or in a conversation."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from p2pchain.cli.options import add_command, positive
from p2pchain.cli.output import Output, format_amount
from p2pchain.cli.session import open_client
from p2pchain.client import NodeUnreachable, RpcClient, RpcError

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

ANSWER_TIMEOUT_S = 300.0
"""Longest silence in an answer: a long prompt on slow machines takes minutes."""


def add_parser(commands: "Commands") -> None:
    """Add `chat`."""
    parser = add_command(commands, "chat", run, "ask the model; alone: a conversation")
    parser.add_argument("prompt", nargs="?", help="one question; `-` reads stdin")
    parser.add_argument("--model", help="default: the first one that is served")
    parser.add_argument("--system", metavar="TEXT", help="instruction before the chat")
    parser.add_argument("--max-tokens", type=positive)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--quiet", action="store_true", help="the answer only, no costs"
    )


def run(args: Namespace, output: Output) -> None:
    """Ask once, or read questions until the end of input."""
    client = open_client(args, ANSWER_TIMEOUT_S)
    settings = _build_settings(args, args.model or _choose_model(client))
    messages = []
    if args.system:
        messages.append({"role": "system", "content": args.system})
    if args.prompt is None and not args.json:
        _converse(client, settings, messages, args.quiet)
        return
    prompt = sys.stdin.read() if args.prompt in (None, "-") else args.prompt
    messages.append({"role": "user", "content": prompt})
    answer = _ask(client, settings | {"messages": messages}, show=not args.json)
    if args.json:
        output.show(answer, "")
    elif not args.quiet:
        output.say(_describe(answer))


def _build_settings(args: Namespace, model: str) -> dict[str, Any]:
    settings = {
        "model": model,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "seed": args.seed,
        "stream_options": {"include_usage": True},
    }
    return {name: value for name, value in settings.items() if value is not None}


def _choose_model(client: RpcClient) -> str:
    models = client.call("model_list")["models"]
    for model in models:
        if model["servable"]:
            return str(model["name"])
    reasons = "; ".join(f"{m['name']}: {m['reason']}" for m in models)
    raise RpcError(
        f"no model can be asked through this node ({reasons or 'the chain has none'})",
        "no_route",
    )


def _converse(
    client: RpcClient, settings: dict[str, Any], messages: list[Any], quiet: bool
) -> None:
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(f"{settings['model']}; end with Ctrl-D", file=sys.stderr)
    while True:
        if is_terminal:
            print("> ", end="", flush=True, file=sys.stderr)
        question = sys.stdin.readline()
        if not question:
            return
        if not question.strip():
            continue
        messages.append({"role": "user", "content": question.strip()})
        try:
            answer = _ask(client, settings | {"messages": messages}, show=True)
        except NodeUnreachable:
            raise
        except RpcError as error:
            # One question went wrong; the conversation can go on without it.
            print(f"\np2pchain: {error}", file=sys.stderr)
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer["content"]})
        if not quiet:
            print(_describe(answer), file=sys.stderr)


def _ask(client: RpcClient, body: dict[str, Any], *, show: bool) -> dict[str, Any]:
    """Return the answer with its account; `show` prints the text as it comes."""
    answer: dict[str, Any] = {"content": "", "finish_reason": None}
    for chunk in client.stream_chat(body):
        if headers := chunk.get("headers"):
            answer["route"] = headers.get("x-p2pchain-route", "").split(",")
            answer["session"] = headers.get("x-p2pchain-session")
            continue
        for choice in chunk["choices"]:
            text = choice["delta"].get("content") or ""
            answer["content"] += text
            answer["finish_reason"] = choice["finish_reason"] or answer["finish_reason"]
            if show and text:
                print(text, end="", flush=True)
        for name in ("usage", "p2pchain"):
            if name in chunk:
                answer[name] = chunk[name]
    if show:
        print(flush=True)
    return answer


def _describe(answer: dict[str, Any]) -> str:
    usage = answer.get("usage", {})
    account = answer.get("p2pchain", {})
    price = account.get("price")
    return (
        f"[{' -> '.join(answer['route'])}; {usage.get('prompt_tokens', '?')} + "
        f"{usage.get('completion_tokens', '?')} tokens"
        + (f"; {format_amount(price)}]" if price is not None else "]")
    )
