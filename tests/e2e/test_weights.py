"""A node with nothing but a name of a model: takes weights from peers and serves."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from devnet_process import (
    START_S,
    RunningDevnet,
    read_rpc_url,
    run_cli,
    start_devnet,
    start_node,
    stop_node,
    wait_until,
)
from model_folders import generate, save_model, spell
from openai_client import build_client_of

from inference.weights.model_info import load_model
from inference.weights.pieces import select_parts
from p2pchain.client import RpcClient
from primitives.types import ATOMS_PER_COIN

LAYERS = 5
OWN = range(3)
PROMPT = list(range(5, 27))
TOKENS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that only the devnet's nodes have."""
    return save_model(tmp_path_factory.mktemp("m") / "tiny-llama", "llama", LAYERS)


@pytest.fixture(scope="module")
def devnet(tmp_path_factory, model: Path) -> Iterator[RunningDevnet]:
    """Two validators that host it."""
    home = tmp_path_factory.mktemp("weights") / "net"
    running = start_devnet(home, "--model", str(model), "--validators", "2")
    yield running
    assert running.stop() == 0


@dataclass
class Newcomer:
    """A node that joins, from a folder with no model in it."""

    home: Path
    passphrase: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *args: str) -> None:
        passphrase = ("--passphrase-file", str(self.passphrase))
        self.process = start_node(self.home, *passphrase, "start", *args)

    def stop(self) -> None:
        assert self.process is not None
        assert stop_node(self.process) == 0

    @property
    def url(self) -> str:
        return read_rpc_url(self.home)

    @property
    def token(self) -> str:
        return (self.home / "api_token").read_text().strip()

    @property
    def log(self) -> str:
        return (self.home / "node.log").read_text()

    @property
    def parts(self) -> list[Path]:
        return [p for p in (self.home / "weights" / "parts").rglob("*") if p.is_file()]

    def get_folder(self, model: Path) -> Path:
        name = load_model(model).info.model_id.hex()
        return self.home / "weights" / "models" / name

    def wait_ready(self) -> None:
        wait_until(
            lambda: RpcClient(self.url).call("status")["ready"],
            "the newcomer to serve",
            START_S,
        )


@pytest.fixture(scope="module")
def newcomer(devnet, model: Path, tmp_path_factory) -> Iterator[Newcomer]:
    """A home that knows the genesis, two peers and a name."""
    folder = tmp_path_factory.mktemp("five")
    passphrase = folder / "passphrase"
    passphrase.write_text("a passphrase of its own\n")
    home = folder / "five"
    peers = [
        json.loads((Path(node["home"]) / "node.json").read_text())["p2p"]
        for node in devnet.validators
    ]
    genesis = Path(devnet.gateway["home"]) / "genesis.json"
    done = run_cli(
        "--home", str(home), "--passphrase-file", str(passphrase),
        "init", "--genesis", str(genesis), "--peers", *peers, "--model", model.name,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = home / "config.toml"
    # So cheap that every route goes through it.
    cheap = re.sub(r"(input|output)_price = \d+", r"\1_price = 1", config.read_text())
    config.write_text(cheap)
    newcomer = Newcomer(home, passphrase)
    yield newcomer
    if newcomer.process is not None and newcomer.process.poll() is None:
        newcomer.process.kill()
        newcomer.process.wait()


def complete(api: str, token: str, name: str) -> tuple[str, list[str]]:
    """Return an answer, and the nodes that it came through."""
    raw = build_client_of(api, token).completions.with_raw_response.create(
        model=name,
        prompt=spell(PROMPT),
        max_tokens=TOKENS,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    route = raw.headers["x-p2pchain-route"].split(",")
    return raw.parse().choices[0].text, route


def list_names(model: Path, *, with_ends: bool) -> set[str]:
    """Return the names of the parts that the newcomer needs."""
    outline = load_model(model).outline
    parts = select_parts(outline, LAYERS, OWN, with_ends=with_ends)
    return {part.digest.hex() for part in parts}


def test_layers_come_from_peers_and_are_served(devnet, newcomer, model) -> None:
    expected = spell(generate(model, PROMPT, TOKENS))
    newcomer.start("--host-layers", f"{OWN.start}:{OWN.stop}")
    address = wait_until(
        lambda: RpcClient(newcomer.url).call("status")["address"], "its address"
    )
    devnet.rpc(token=True).call(
        "wallet_send", recipient=address, amount=str(100 * ATOMS_PER_COIN), wait=True
    )
    newcomer.wait_ready()

    assert {p.name for p in newcomer.parts} == list_names(model, with_ends=False)
    files = sorted(path.name for path in newcomer.get_folder(model).iterdir())
    assert files == ["config.json", "outline"]

    def complete_elsewhere() -> tuple[str, list[str]] | None:
        try:
            text, route = complete(devnet.api, devnet.api_key, model.name)
        except openai.APIStatusError:
            return None  # the gateway and the newcomer do not know one another yet
        return (text, route) if route[0] != "node0" else None

    text, route = wait_until(complete_elsewhere, "routes to know the newcomer")
    assert text == expected
    assert route[0] not in ("node0", "node1")
    assert route[1] == "node1"
    newcomer.stop()


@pytest.mark.slow
def test_a_flipped_bit_is_mended_and_a_gateway_takes_the_rest(
    devnet, newcomer, model
) -> None:
    damaged = newcomer.parts[0]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    newcomer.start("--host-layers", f"{OWN.start}:{OWN.stop}", "--gateway")
    newcomer.wait_ready()
    assert f"part {damaged.name} is damaged on disk" in newcomer.log
    assert {p.name for p in newcomer.parts} == list_names(model, with_ends=True)
    assert (newcomer.get_folder(model) / "tokenizer.json").is_file()
    expected = spell(generate(model, PROMPT, TOKENS))
    assert complete(newcomer.url, newcomer.token, model.name)[0] == expected
    newcomer.stop()
