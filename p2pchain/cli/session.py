"""
What commands share: the home they work on, the node they ask, the passphrase.
"""

import getpass
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

from p2pchain.client import NodeUnreachable, RpcClient
from p2pchain.errors import HomeError
from p2pchain.node.home.home import DEFAULT_HOME, Home

HOME_VARIABLE = "P2PCHAIN_HOME"
MIN_PASSPHRASE_CHARS = 8
"""Below that scrypt protects nothing."""


def get_home_path(args: Namespace) -> Path:
    """Return the home folder of --home, $P2PCHAIN_HOME or the default."""
    chosen = args.home or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME
    return Path(chosen).expanduser().absolute()


def open_home(args: Namespace) -> Home:
    """Return the existing home.

    Raises:
        HomeError: Missing or no home; names the homes inside of a network's folder.
    """
    path = get_home_path(args)
    if not (path / "config.toml").exists():
        inside = sorted(p.parent.name for p in path.glob("*/config.toml"))
        if inside:
            raise HomeError(
                f"{path} holds a whole network: choose one home in it with --home "
                f"{path}/NAME, one of {', '.join(inside)}"
            )
    return Home.open(path)


def open_client(args: Namespace, timeout_s: float = 30.0) -> RpcClient:
    """Return a client of the node that --rpc or the home names, with its token.

    Raises:
        HomeError: No --rpc and no home.
        NodeUnreachable: The home's node does not run.
    """
    if args.rpc:
        return RpcClient(args.rpc, _find_token(args), timeout_s)
    home = open_home(args)
    return RpcClient(_find_url(home), home.load_api_token(), timeout_s)


def find_public_url(args: Namespace) -> str:
    """Return where the node of --rpc or of the home answers.

    Raises:
        HomeError: No --rpc and no home.
        NodeUnreachable: The home's node does not run.
    """
    return args.rpc or _find_url(open_home(args))


def read_passphrase(args: Namespace, home: Home | None, *, confirm: bool) -> str:
    """Return the passphrase of --passphrase-file, of the home, or as typed.

    Args:
        args: Of the command.
        home: Whose `passphrase` file is used, if any.
        confirm: It is a new one: asked twice, and not accepted when too short.

    Raises:
        HomeError: The file cannot be read, or there is nobody to ask.
    """
    if args.passphrase_file:
        path = Path(args.passphrase_file).expanduser()
        try:
            text = path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise HomeError(f"--passphrase-file {path}: {error}") from error
    else:
        stored = None if home is None else home.load_passphrase()
        text = stored if stored is not None else _ask(confirm=confirm)
    if confirm and len(text) < MIN_PASSPHRASE_CHARS:
        raise HomeError(
            f"a passphrase has at least {MIN_PASSPHRASE_CHARS} characters; "
            "whoever copies the file can try millions"
        )
    return text


def _ask(*, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise HomeError(
            "a passphrase is needed and there is no terminal to ask at: "
            "use --passphrase-file"
        )
    text = getpass.getpass("passphrase: ")
    if confirm and getpass.getpass("once more: ") != text:
        raise HomeError("the two passphrases differ; nothing was changed")
    return text


def _find_url(home: Home) -> str:
    try:
        return str(json.loads(home.runtime.read_text())["rpc"])
    except FileNotFoundError:
        raise NodeUnreachable(
            f"the node of {home.path} does not run; start it with "
            f"`p2pchain --home {home.path} start`, or name another one with --rpc URL"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HomeError(f"{home.runtime} is damaged: {error!r}") from error


def _find_token(args: Namespace) -> str | None:
    """Return the token of the home, where there is one; --rpc works without."""
    path = get_home_path(args) / "api_token"
    return path.read_text().strip() if path.is_file() else None
