"""`p2pchain evidence`: bringing a piece in every form, and the list."""

import json

import pytest
from chain_backend import ChainNode
from chain_evidence import make_certificates, make_votes

from p2pchain.cli.evidence import MAX_FILE_BYTES, read_evidence
from p2pchain.errors import HomeError


@pytest.fixture
def node():
    return ChainNode()


def test_submit_and_list(run, node):
    assert run("evidence", "list").out == "(none)\n"
    evidence = make_votes(node.world.spec, 1)
    said = run("evidence", "submit", "0x" + evidence.hex()).out
    assert "nullify_and_finalize in epoch 0, view 7 by validator-1" in said
    [row] = run("evidence", "list").out.splitlines()[1:]
    assert row.split()[:5] == ["waits", "0", "7", "nullify_and_finalize", "validator-1"]
    node.make_block()
    [row] = run("evidence", "list").out.splitlines()[1:]
    assert row.split()[:7] == [
        *("1", "0", "7", "nullify_and_finalize", "validator-1"),
        *("50", "P2P"),
    ]
    document = json.loads(run("evidence", "list", "--json").out)
    assert document["waiting"] == []
    assert document["evidence"][0]["data"] == "0x" + evidence.hex()


def test_a_file_of_bytes_or_of_hex(run, node, tmp_path):
    raw, text = tmp_path / "raw", tmp_path / "hex"
    raw.write_bytes(make_certificates(node.world.spec))
    text.write_text(make_votes(node.world.spec, 3).hex() + "\n")
    assert (
        "validator-0, validator-1, validator-2"
        in run("evidence", "submit", str(raw)).out
    )
    assert "validator-3" in run("evidence", "submit", str(text)).out


def test_what_the_node_refuses(run, node):
    evidence = make_votes(node.world.spec, 1).hex()
    run("evidence", "submit", evidence)
    assert "already" in run("evidence", "submit", evidence, code=1).err
    assert "not evidence" in run("evidence", "submit", "00", code=1).err


def test_what_is_neither_hex_nor_a_file(tmp_path):
    with pytest.raises(HomeError, match="neither hex nor a file"):
        read_evidence("nowhere")
    big = tmp_path / "big"
    big.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(HomeError, match="too long"):
        read_evidence(str(big))
