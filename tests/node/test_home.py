"""Homes and settings: round trips, and what is refused with the name of the setting."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pchain.errors import ConfigError, HomeError
from p2pchain.node.home.config import AUTO, Config, build_config, parse_layers
from p2pchain.node.home.home import Home, write_secret
from primitives.keys import SecretKey
from wallet.files import write_atomically

KEY = SecretKey(bytes([5]) * 32)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create(Config(name="node0"), KEY)
    return home


def get_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_keeps_its_secrets_to_itself(home: Home) -> None:
    assert home.load_config() == Config(name="node0")
    assert home.load_node_key().public_key == KEY.public_key
    assert home.load_api_token().startswith("sk-")
    assert home.load_passphrase() is None
    for name in ("node_key", "api_token"):
        assert get_mode(home.path / name) == 0o600
    for folder in (home.path, home.data, home.votes.parent):
        assert get_mode(folder) == 0o700


def test_two_homes_have_two_tokens(tmp_path: Path) -> None:
    tokens = set()
    for name in ("a", "b"):
        home = Home(tmp_path / name)
        home.create(Config(name=name), KEY)
        tokens.add(home.load_api_token())
    assert len(tokens) == 2


def test_a_home_is_made_where_nothing_is(home: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="not empty"):
        home.create(Config(name="other"), KEY)
    assert home.load_config().name == "node0"
    (tmp_path / "file").write_text("x")
    with pytest.raises(HomeError, match="no folder"):
        Home(tmp_path / "file").create(Config(name="x"), KEY)
    (tmp_path / "empty").mkdir()
    Home(tmp_path / "empty").create(Config(name="x"), KEY)


def test_what_is_no_home_says_how_to_make_one(home: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="p2pchain init"):
        Home.open(tmp_path / "nowhere")
    with pytest.raises(HomeError, match=r"genesis\.json is missing"):
        Home.open(home.path)
    home.genesis.write_text("{}")
    assert Home.open(home.path) == home


@given(
    config=st.builds(
        Config,
        name=st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}", fullmatch=True),
        p2p_port=st.integers(0, 65535),
        rpc_port=st.integers(0, 65535),
        peers=st.lists(st.text(max_size=20), max_size=3).map(tuple),
        advertise=st.lists(st.text(max_size=20), max_size=3).map(tuple),
        model=st.text(min_size=1, max_size=30),
        layers=st.sampled_from(["", "0:1", "3:80"]),
        validator=st.booleans(),
        gateway=st.booleans(),
        precision=st.sampled_from(["native", "bf16", "int4", "auto"]),
        activations=st.sampled_from(["lossless", "int8"]),
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:11"]),
        torch_threads=st.integers(1, 256),
        chunk_workers=st.integers(-1, 64),
        input_price=st.integers(1, 10**12),
    )
)
def test_settings_survive_their_file(tmp_path_factory, config: Config) -> None:
    home = Home(tmp_path_factory.mktemp("round") / "home")
    home.path.mkdir()
    home.save_config(config)
    assert home.load_config() == config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": ""}, "name"),
        ({"name": "-"}, "name"),
        ({"name": "x" * 33}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "ä"}, "name"),
        ({"name": 5}, "name must be str"),
        ({"p2p_port": -1}, "p2p_port"),
        ({"p2p_port": 65536}, "p2p_port"),
        ({"p2p_port": "26600"}, "p2p_port must be int, not str"),
        ({"rpc_port": True}, "rpc_port must be int, not bool"),
        ({"rpc_port": 1.5}, "rpc_port"),
        ({"peers": "p2p://x"}, "peers"),
        ({"peers": [1]}, "peers must be a list of strings"),
        ({"validator": "yes"}, "validator must be bool"),
        ({"gateway": 1}, "gateway must be bool"),
        ({"bls": "fast"}, "bls"),
        ({"model": ""}, "model"),
        ({"precision": "int2"}, "precision"),
        ({"device": "tpu"}, "device"),
        ({"activations": "int4"}, "activations"),
        ({"device": "cuda:"}, "device"),
        ({"torch_threads": 0}, "torch_threads"),
        ({"torch_threads": 257}, "torch_threads"),
        ({"chunk_workers": -2}, "chunk_workers"),
        ({"chunk_workers": 65}, "chunk_workers"),
        ({"input_price": 0}, "input_price"),
        ({"output_price": 10**12 + 1}, "output_price"),
        ({"layers": "0-2"}, "layers"),
        ({"layers": "2:2"}, "layers"),
        ({"layers": "3:1"}, "layers"),
        ({"layers": "0:70000"}, "layers"),
        ({"p2p_host": "somewhere"}, "p2p_host"),
        ({"rpc_host": ""}, "rpc_host"),
        ({"rpc_host": "1.2.3"}, "rpc_host"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"sub": {"x": 1}}, "unknown setting 'sub'"),
        ({"peers": {"x": 1}}, "peers"),
    ],
)
def test_settings_that_make_no_sense(changes, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        build_config({"name": "node0"} | changes, "config.toml")
    assert str(error.value).startswith("config.toml: ")


def test_a_name_is_needed() -> None:
    with pytest.raises(ConfigError, match="`name` is missing"):
        build_config({}, "config.toml")


@pytest.mark.parametrize("text", ["name = ", "\x00", "name = 'a'\nname = 'b'"])
def test_a_file_that_is_no_toml(home: Home, text: str) -> None:
    (home.path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        home.load_config()


def test_bytes_that_are_no_text(home: Home) -> None:
    (home.path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        home.load_config()


def test_hosts_that_make_sense() -> None:
    for host in ("127.0.0.1", "0.0.0.0", "::1", "::", "localhost"):
        values = {"name": "a", "p2p_host": "127.0.0.1", "rpc_host": host}
        assert build_config(values, "x").rpc_host == host


@pytest.mark.parametrize(
    ("text", "expected"), [("0:1", (0, 1)), ("12:80", (12, 80)), ("007:8", (7, 8))]
)
def test_layers(text: str, expected: tuple[int, int]) -> None:
    assert parse_layers(text) == expected
    assert replace(Config(name="x"), layers=text).layer_range == expected


@pytest.mark.parametrize(
    "text", [":", "1:", ":1", "a:b", "1:2:3", "-1:2", "1 :2", "٣:٤"]
)
def test_what_are_no_layers(text: str) -> None:
    with pytest.raises(ConfigError, match="layers"):
        parse_layers(text)


@pytest.mark.parametrize("content", ["", "zz", "12", "00" * 31, None])
def test_a_damaged_node_key(home: Home, content: str | None) -> None:
    path = home.path / "node_key"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(HomeError, match="node_key"):
        home.load_node_key()


@pytest.mark.parametrize("content", ["", "\n", None])
def test_a_missing_api_token(home: Home, content: str | None) -> None:
    path = home.path / "api_token"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(HomeError, match="api_token"):
        home.load_api_token()


def test_one_process_at_a_time(home: Home) -> None:
    with home.lock():
        with pytest.raises(HomeError, match=f"in use by process {os.getpid()}"):
            with home.lock():
                pass
    with home.lock():
        pass


def test_a_passphrase_is_kept_word_for_word(home: Home) -> None:
    write_secret(home.path / "passphrase", " with spaces ")
    assert home.load_passphrase() == " with spaces "
    assert get_mode(home.path / "passphrase") == 0o600


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old", 0o644)
    # A crash left a half-written one behind, open to everybody.
    (tmp_path / "file.new").write_text("half")
    (tmp_path / "file.new").chmod(0o666)
    write_secret(path, "new")
    assert path.read_text() == "new\n"
    assert get_mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", None), ("hosted", set()), ("1,2", {1, 2}), (" 3 ", {3})],
)
def test_followed_shards(text: str, expected: set[int] | None) -> None:
    config = Config(name="x", layers="0:1", follow_shards=text)
    assert config.followed_shards == expected


@pytest.mark.parametrize(
    ("config", "is_all"),
    [
        (Config(name="explorer"), True),
        (Config(name="gateway", gateway=True), True),
        (Config(name="both", gateway=True, layers="0:1", validator=True), True),
        (Config(name="provider", layers="0:1"), False),
        (Config(name="voter", validator=True), False),
    ],
)
def test_who_follows_all_shards_unless_told_otherwise(config, is_all: bool) -> None:
    assert config.followed_shards == (None if is_all else frozenset())


@pytest.mark.parametrize("text", ["", "none", "1,,2", "-1", "65536", "1;2", "٣"])
def test_what_are_no_shards(text: str) -> None:
    with pytest.raises(ConfigError, match="follow_shards"):
        _ = replace(Config(name="x"), follow_shards=text).followed_shards


def test_a_model_is_a_folder_or_a_name_of_the_chain(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for folder in ("bundled", "here", "./away", "~/away", "/away", "a/b"):
        assert Config(name="n", model=folder).chain_model is None
    for name in ("tiny-llama", "ab" * 32):
        assert Config(name="n", model=name).chain_model == name


def test_layers_may_be_left_to_the_node() -> None:
    config = build_config({"name": "n", "layers": "auto"}, "test")
    assert config.layers == AUTO
    assert config.layer_range is None
    with pytest.raises(ConfigError, match="weights_cache_mb"):
        build_config({"name": "n", "weights_cache_mb": 0}, "test")
