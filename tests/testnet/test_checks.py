"""
The checks notice what is wrong, one by one: nodes here are answers in memory.

`ShownNode` answers the RPC methods that the checks ask, from plain data that a test
bends; that real nodes answer in these shapes is what the tests in e2e show.
"""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pchain.client import RpcError
from p2pchain.testnet.checks import (
    ARRIVE_BLOCKS,
    CHECKS,
    CheckFailed,
    Outcome,
    run_checks,
)
from p2pchain.testnet.load import Book, Settled
from p2pchain.testnet.manifest import parse_manifest
from primitives.address import decode_address, encode_address

HEIGHT = 40 + ARRIVE_BLOCKS
MANIFEST = (
    'name = "shown"\nblocks = 30\n'
    + "".join(f'[[node]]\nname = "node{i}"\nstake = 100\n' for i in range(5))
    + '[[step]]\nkind = "equivocate"\nat = 5\nnode = "node4"\n'
)
ADDRESSES = [bytes([wallet]) * 32 for wallet in range(2)]
TX = bytes([7]) * 32


def build_chain() -> list[dict[str, Any]]:
    """Return the headers of a chain, each with its parent's hash."""
    return [
        {
            "height": str(height),
            "block_hash": f"0x{height:064x}",
            "header": {
                "parent_hash": f"0x{height - 1:064x}" if height else "0x",
                "roots_root": f"0x{height * 7:064x}",
            },
        }
        for height in range(HEIGHT + 1)
    ]


def get_public_key(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def get_account(name: str) -> str:
    return encode_address(get_public_key(name))


class ShownNode:
    """What one node shows."""

    def __init__(self) -> None:
        self.headers = build_chain()
        self.balances = {(0, 0): 60, (0, 1): 30, (1, 0): 110, (1, 1): 95}
        self.outcome = {"ok": True, "fee": "5"}
        self.supply = {
            "height": str(HEIGHT), "conserved": True, "held": "900", "created": "900"
        }  # fmt: skip
        self.stakes = {"node1": "ACTIVE", "node4": "TOMBSTONED"}
        self.evidence = [
            {"evidence_id": "0x1", "convicted": [{"account": get_account("node4")}]}
        ]
        self.providers: list[dict[str, Any]] = []

    async def call(self, method: str, **params: Any) -> Any:
        match method:
            case "status":
                return {"height": str(HEIGHT), "ready": True, "waiting_for": ""}
            case "supply":
                return self.supply
            case "evidence_list":
                return {"evidence": self.evidence}
            case "provider_list":
                return {"providers": self.providers}
            case "stake_list":
                return {
                    "stakes": [
                        {
                            "name": name,
                            "account": get_account(name),
                            "status": status,
                        }
                        for name, status in self.stakes.items()
                    ]
                }
            case "header":
                return self.headers[params["height"]]
            case "tx":
                return {"height": "9", "block_hash": "0x9", "index": 0,
                        "outcome": self.outcome}  # fmt: skip
            case "account":
                wallet = ADDRESSES.index(decode_address(params["address"]))
                return {
                    "shards": [
                        {"shard": shard, "balance": str(atoms)}
                        for (owner, shard), atoms in self.balances.items()
                        if owner == wallet
                    ]
                }
        raise RpcError(f"no method {method}")

    async def get_results(self, calls: Any) -> list[Any]:
        return [await self.call(method, **params) for method, params in calls]


class ShownProcess:
    """A process that is fine and has logged `log`."""

    def __init__(self, rpc: ShownNode) -> None:
        self.rpc = rpc
        self.log = "INFO all is well\n"

    def require_alive(self) -> None:
        pass

    def read_log(self) -> str:
        return self.log


@pytest.fixture
def shown() -> Outcome:
    """Five nodes that show the same, and a book that agrees."""
    names = [f"node{index}" for index in range(5)]
    nodes = {name: ShownNode() for name in names}
    processes = {name: ShownProcess(node) for name, node in nodes.items()}
    book = Book(dict(nodes["node0"].balances), {})
    book.settled.append(Settled(TX, 9, True, 5))
    keys = {
        name: SimpleNamespace(
            node=SimpleNamespace(public_key=name.encode()),
            account=SimpleNamespace(public_key=get_public_key(name)),
        )
        for name in names
    }
    testnet = SimpleNamespace(
        manifest=parse_manifest(MANIFEST),
        nodes=processes,
        homes=SimpleNamespace(keys=keys),
        heights=dict.fromkeys(names, HEIGHT),
        blocks={9: (f"0x{9:064x}", "node1"), HEIGHT + 5: ("0xyet", "node1")},
    )
    load = SimpleNamespace(book=book, get_address=ADDRESSES.__getitem__)
    return Outcome(testnet, load, nodes, HEIGHT)


def run_one(shown: Outcome, name: str) -> str:
    """Return what a check says, or raise CheckFailed."""
    return trio.run(CHECKS[name], shown)


def fail(shown: Outcome, name: str) -> str:
    """Return why a check fails; all others still hold."""
    with pytest.raises(CheckFailed) as error:
        run_one(shown, name)
    for other in CHECKS:
        if other != name:
            run_one(shown, other)
    return str(error.value)


@pytest.mark.parametrize("name", CHECKS)
def test_all_is_well(shown: Outcome, name: str) -> None:
    assert run_one(shown, name)


def test_another_state_root_in_the_middle(shown: Outcome) -> None:
    shown.rpcs["node3"].headers[12]["header"]["roots_root"] = "0xother"
    assert "height 12" in fail(shown, "same blocks and roots")


def test_a_block_beside_its_parent(shown: Outcome) -> None:
    for node in shown.rpcs.values():
        node.headers[12]["header"]["parent_hash"] = "0xother"
    assert "block 12 does not follow" in fail(shown, "same blocks and roots")


def test_a_block_told_during_the_run_is_gone(shown: Outcome) -> None:
    shown.testnet.blocks[10] = ("0xgone", "node2")
    assert "node2 told 0xgone" in fail(shown, "prefix property")


def test_an_atom_too_much_on_one_node(shown: Outcome) -> None:
    shown.rpcs["node2"].balances[1, 1] += 1
    text = fail(shown, "balances as booked")
    assert "node2" in text
    assert "wallet 1 holds 96 in shard 1, not 95" in text


def test_another_outcome_on_one_node(shown: Outcome) -> None:
    shown.rpcs["node2"].outcome = {"ok": False, "fee": "5"}
    assert "node2" in fail(shown, "same transactions")


def test_atoms_from_nowhere(shown: Outcome) -> None:
    shown.rpcs["node1"].supply |= {"conserved": False, "held": "901"}
    assert "901 atoms held, 900 created" in fail(shown, "supply conserved")


def test_other_sums_at_the_same_height(shown: Outcome) -> None:
    shown.rpcs["node1"].supply |= {"held": "800", "created": "800"}
    assert "other sums" in fail(shown, "supply conserved")


def test_an_honest_node_convicted(shown: Outcome) -> None:
    for node in shown.rpcs.values():
        node.evidence.append(
            {"evidence_id": "0x2", "convicted": [{"account": get_account("node1")}]}
        )
    assert "node1, node4" in fail(shown, "only culprits convicted")


def test_an_honest_node_tombstoned(shown: Outcome) -> None:
    shown.rpcs["node2"].stakes["node1"] = "TOMBSTONED"
    assert "TOMBSTONED node1" in fail(shown, "only culprits convicted")


def test_a_culprit_that_got_away(shown: Outcome) -> None:
    for node in shown.rpcs.values():
        node.evidence.clear()
    assert "against nobody" in fail(shown, "only culprits convicted")


def test_a_culprit_that_goes_on(shown: Outcome) -> None:
    shown.rpcs["node2"].stakes["node4"] = "ACTIVE"
    assert "ACTIVE node4" in fail(shown, "only culprits convicted")


def test_a_culprit_that_was_paid_out(shown: Outcome) -> None:
    for node in shown.rpcs.values():
        del node.stakes["node4"]
    assert run_one(shown, "only culprits convicted").endswith("node4")


def test_evidence_applied_twice(shown: Outcome) -> None:
    for node in shown.rpcs.values():
        node.evidence *= 2
    assert "2 pieces" in fail(shown, "only culprits convicted")


def test_evidence_on_some_nodes_only(shown: Outcome) -> None:
    other = copy.deepcopy(shown.rpcs["node3"].evidence)
    other[0]["evidence_id"] = "0x2"
    shown.rpcs["node3"].evidence = other
    assert "node3 shows" in fail(shown, "only culprits convicted")


def test_a_provider_that_nobody_asked_for(shown: Outcome) -> None:
    shown.rpcs["node3"].providers.append(
        {"node_key": "0x01", "start": 0, "end": 2, "status": "ACTIVE"}
    )
    assert "node3 lists" in fail(shown, "layers served")


def test_a_traceback_in_a_log(shown: Outcome) -> None:
    shown.testnet.nodes["node1"].log += (
        "ERROR p2pchain: the check of BLOCKS failed\n"
        "Traceback (most recent call last):\n  KeyError\n"
    )
    assert "node1 logged: ERROR p2pchain" in fail(shown, "no node failed")


def test_a_refused_question_fails_its_check_only(shown: Outcome) -> None:
    async def wait_caught_up(name: str) -> int:
        return HEIGHT

    shown.testnet.wait_caught_up = wait_caught_up

    async def refuse(method: str, **params: Any) -> Any:
        raise RpcError(f"{method}: not today")

    shown.rpcs["node2"].call = refuse
    findings = trio.run(run_checks, shown.testnet, shown.load)
    wrong = {finding.name for finding in findings if not finding.ok}
    assert "supply conserved" in wrong
    assert "no node failed" not in wrong
    assert len(findings) == len(CHECKS) + 1
