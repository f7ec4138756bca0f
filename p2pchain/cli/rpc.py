"""`p2pchain rpc`: any method of a node, for people and scripts."""

import json
from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from p2pchain.cli.options import add_command
from p2pchain.cli.output import Output
from p2pchain.cli.session import open_client
from p2pchain.client import RpcError

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `rpc`."""
    parser = add_command(
        commands, "rpc", run, "call a JSON-RPC method; `rpc rpc.discover` lists them"
    )
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument(
        "params",
        metavar="JSON",
        nargs="?",
        type=_params,
        default={},
        help="parameters, such as '{\"height\": 5}' or '[5]'",
    )


def run(args: Namespace, output: Output) -> int | None:
    """Print the result, always as JSON."""
    answer = open_client(args, 120.0).call_raw(args.method, args.params)
    if "error" in answer:
        if args.json:
            print(json.dumps({"error": answer["error"]}, indent=2))
            return 1
        error = answer["error"]
        raise RpcError(f"{error['message']} (code {error['code']})", error["code"])
    print(json.dumps(answer["result"], indent=2))
    return None


def _params(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"parameters must be JSON: {error}") from error
    if not isinstance(value, dict | list):
        raise ArgumentTypeError("parameters must be a JSON object or list")
    return value
