"""How much memory a devnet takes, by role, and how soon it is READY."""

from dataclasses import astuple
from statistics import median

from p2pchain.bench.answers.decode import STRANGE_QUESTIONS, ask
from p2pchain.bench.lab.lab import Lab, RunningNetwork
from p2pchain.bench.lab.procfs import Memory, list_children, read_memory
from p2pchain.bench.report import Figure, format_number

BOUND_BYTES = 6 * 1024**3
"""A devnet of four validators and a gateway fits in this."""
MIB = 1024**2


def run_memory(lab: Lab) -> list[Figure]:
    """Read the memory of every process of the shared network after an answer."""
    network = lab.get_network()
    ask(network, STRANGE_QUESTIONS[0], 32)
    roles = read_roles(network)
    every = [memory for memories in roles.values() for memory in memories]
    total = sum(memory.pss for memory in every)
    figures = [_describe(role, memories) for role, memories in roles.items()]
    return [
        *figures,
        Figure("all processes", total / MIB, "MiB PSS", f"{len(every)} processes"),
        Figure("fits in 6 GiB", total < BOUND_BYTES, "",
               f"{100 * total / BOUND_BYTES:.0f} % of it"),
    ]  # fmt: skip


def run_start(lab: Lab) -> list[Figure]:
    """Time a network's first start and its next one, from homes that exist."""
    first = lab.get_network().ready_s
    create_s = lab.create_s
    stop_s, network = lab.restart_network()
    return [
        Figure("make keys, genesis and homes", create_s, "s", "cheap scrypt"),
        Figure("first start to READY", first, "s", "five nodes and five workers; "
               "registers the providers"),
        Figure("stop", stop_s, "s", "drained and closed"),
        Figure("next start to READY", network.ready_s, "s"),
    ]  # fmt: skip


def read_roles(network: RunningNetwork) -> dict[str, list[Memory]]:
    """Return the memory of the network's processes by what they do."""
    roles: dict[str, list[Memory]] = {
        "validator": [],
        "stage worker": [],
        "gateway": [],
        "requester worker": [],
    }
    for node in network.nodes:
        is_validator = node["layers"] is not None
        own, worker = (
            ("validator", "stage worker")
            if is_validator
            else ("gateway", "requester worker")
        )
        roles[own].append(read_memory(node["pid"]))
        roles[worker] += [read_memory(pid) for pid in list_children(node["pid"])]
    return roles


def _describe(role: str, memories: list[Memory]) -> Figure:
    rss, pss, uss = (
        format_number(median(column) / MIB)
        for column in zip(*map(astuple, memories), strict=True)
    )
    note = f"RSS {rss}, PSS {pss}, USS {uss} MiB; n {len(memories)}"
    return Figure(role, median(m.uss for m in memories) / MIB, "MiB USS", note)
