"""Manifests: what is read, what is refused and how, and that text comes back."""

from random import Random

import pytest

from p2pchain.testnet.errors import ManifestError
from p2pchain.testnet.generate import generate_manifest
from p2pchain.testnet.manifest import (
    MAX_VALIDATORS,
    MIN_VALIDATORS,
    load_manifest,
    parse_manifest,
    split_params,
)
from p2pchain.testnet.steps import Disconnect, Equivocate, Kill, Leave, Wipe
from p2pchain.testnet.toml_form import dump_manifest

NODES = "".join(f'[[node]]\nname = "node{i}"\nstake = 100\n' for i in range(4))
HEAD = 'name = "example"\nblocks = 20\n'
KILL = '[[step]]\nkind = "kill"\nat = 5\nnode = "node1"\nfor_s = 2\n'
LATE = '[[node]]\nname = "late"\nstart_at = 8\n'


def refuse(text: str) -> str:
    """Return why a manifest is refused."""
    with pytest.raises(ManifestError) as error:
        parse_manifest(text, "x.toml")
    assert str(error.value).startswith("x.toml: ")
    return str(error.value)


def test_a_small_manifest() -> None:
    manifest = parse_manifest(HEAD + NODES + LATE + KILL)
    assert [node.name for node in manifest.validators] == [f"node{i}" for i in range(4)]
    assert manifest.get_node("late").start_at == 8
    assert manifest.steps == (Kill(at=5, node="node1", for_s=2.0),)


@pytest.mark.parametrize("line", ['name = "example"\n', "blocks = 20\n"])
def test_what_must_be_there(line: str) -> None:
    field = line.partition(" ")[0]
    assert f"missing required field `{field}`" in refuse(
        (HEAD + NODES).replace(line, "")
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("blocks = 20", "blocks = 0", "blocks"),
        ("blocks = 20", 'blocks = "20"', "blocks"),
        ("blocks = 20", "blocks = 20\nblock = 20", "unknown field `block`"),
        ("blocks = 20", "blocks = ", "Invalid value"),
        ('kind = "kill"', 'kind = "crash"', "crash"),
        ("for_s = 2", "for_s = -1", "step[0].for_s"),
        ("for_s = 2", "for_s = 1e9", "step[0].for_s"),
        ("for_s = 2", "seconds = 2", "unknown field `seconds`"),
        ("at = 5", "at = 20", "not below the end, 20"),
        ('node = "node1"', 'node = "node9"', "no node 'node9'"),
        ('node = "node1"', 'node = "late"', "starts only at 8"),
        ('name = "node3"', 'name = "node2"', "twice"),
        ('name = "node3"', 'name = "all"', "no node can be called 'all'"),
        ('name = "node3"', 'name = "../node3"', "node[3].name"),
        ('name = "node3"\nstake = 100', 'name = "node3"\nstake = 0', "3 nodes have"),
        ('name = "node3"\nstake = 100', 'name = "node3"\nstake = 150', "a third"),
        ('name = "node3"', 'name = "node3"\nstart_at = 3', "leave stake or start_at"),
        ("start_at = 8", "start_at = 20", "start_at 20 is not below the end"),
    ],
)
def test_what_is_refused(old: str, new: str, words: str) -> None:
    text = HEAD + NODES + LATE + KILL
    assert old in text
    assert words in refuse(text.replace(old, new))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('kind = "join"\nat = 9\nnode = "node1"', "is a validator already"),
        ('kind = "leave"\nat = 9\nnode = "late"', "is no validator"),
        ('kind = "equivocate"\nat = 9\nnode = "late"', "is no validator"),
        ('kind = "wipe"\nat = 9\nnode = "all"', "no node 'all'"),
        ('kind = "disconnect"\nat = 9\nnodes = []', "some of the nodes"),
        ('kind = "disconnect"\nat = 9\nnodes = ["node1", "node1"]', "each once"),
        (
            'kind = "disconnect"\nat = 9\nnodes = ["node1"]\nis_deaf = false\n'
            "is_dumb = false",
            "cuts nothing",
        ),
    ],
)
def test_steps_that_make_no_sense(step: str, words: str) -> None:
    assert words in refuse(HEAD + NODES + LATE + f"[[step]]\n{step}\n")


def test_hosts_of_layers_cannot_be_cut_off() -> None:
    cut = '[[step]]\nkind = "disconnect"\nat = 9\nnodes = ["node1"]\n'
    host = '[[node]]\nname = "host"\nlayers = "0:2"\n'
    parse_manifest(HEAD + NODES + cut)
    assert "hosts layers" in refuse(HEAD + NODES + host + cut)


def test_who_joins_can_leave() -> None:
    join = '[[step]]\nkind = "join"\nat = 9\nnode = "late"\n'
    leave = '[[step]]\nkind = "leave"\nat = 15\nnode = "late"\n'
    assert len(parse_manifest(HEAD + NODES + LATE + join + leave).steps) == 2


def test_parameters_are_changed_by_name() -> None:
    chain, consensus = split_params({"epoch_blocks": 9, "delta_ms": 77})
    assert (chain.epoch_blocks, consensus.delta_ms) == (9, 77)
    with pytest.raises(ManifestError, match="no 'epoch'; there are interval_ms"):
        split_params({"epoch": 9})
    with pytest.raises(ManifestError, match="interval_ms"):
        split_params({"interval_ms": 0})


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ManifestError, match=r"none\.toml"):
        load_manifest(tmp_path / "none.toml")


def test_generated_manifests_are_valid_and_come_back_from_text() -> None:
    for seed in range(300):
        manifest = generate_manifest(seed)
        assert parse_manifest(dump_manifest(manifest)) == manifest
        assert generate_manifest(seed) == manifest
        assert MIN_VALIDATORS <= len(manifest.validators) <= MAX_VALIDATORS


def test_generated_manifests_leave_four_validators() -> None:
    for seed in range(300):
        manifest = generate_manifest(seed)
        gone = [s for s in manifest.steps if isinstance(s, Leave | Equivocate)]
        assert len(manifest.validators) - len(gone) >= MIN_VALIDATORS


def test_generated_manifests_lose_one_log_at_most() -> None:
    for seed in range(300):
        wipes = [s for s in generate_manifest(seed).steps if isinstance(s, Wipe)]
        assert sum(wipe.lose_votes for wipe in wipes) <= 1


def test_generated_manifests_differ() -> None:
    seeds = Random(1).sample(range(10**9), 50)
    texts = {dump_manifest(generate_manifest(seed)).split("\n", 1)[1] for seed in seeds}
    assert len(texts) == len(seeds)


def test_all_kinds_are_generated() -> None:
    steps = [step for seed in range(200) for step in generate_manifest(seed).steps]
    kinds = {type(step).__name__ for step in steps}
    assert kinds == {
        "Kill", "Restart", "Pause", "Disconnect", "Wipe", "Join", "Leave", "Equivocate"
    }  # fmt: skip
    assert any(isinstance(s, Disconnect) and len(s.nodes) > 1 for s in steps)
