"""What the way costs: to a worker, per hop of a network, and over slow links."""

import time
from statistics import median

import trio

from p2pchain.bench.answers.decode import STRANGE_QUESTIONS, TimedAnswer, ask
from p2pchain.bench.lab.lab import BenchError, Lab, RunningNetwork
from p2pchain.bench.lab.links import open_linked_network
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.procfs import list_children, read_cpu_s
from p2pchain.bench.lab.random_models import SMALL
from p2pchain.bench.lab.worker_swarm import open_swarm
from p2pchain.bench.report import Figure, Goal, compute_quantile, summarise

SOCKET_STEPS = 400
HOP_TOKENS = 128
HOP_ROUNDS = 6
HOP_GOAL_MS = 1.0
LINK_S = 0.010
LINKS_IN_A_LAP = 5
"""From the requester through four stages and back."""
LINK_TOKENS = 64
LINK_ROUNDS = 5


def run_socket(lab: Lab) -> list[Figure]:
    """What the way to a stage process and back costs, without computing."""
    directory = get_model(lab, SMALL, "float32")

    async def measure() -> list[float]:
        async with open_swarm(directory, stages=1, null=True) as swarm:
            stage = swarm.stages[0]
            hidden = bytes(stage.info.token_bytes)
            times = []
            for position in range(SOCKET_STEPS):
                started = time.perf_counter()
                await stage.forward(b"null", position, hidden, 1)
                times.append((time.perf_counter() - started) * 1000)
            return times

    times = trio.run(measure)
    p95 = compute_quantile(times, 0.95)
    note = f"p95 {p95:.2f}, n {SOCKET_STEPS}; one machine, no network"
    return [Figure("to a stage process and back", median(times), "ms", note)]


def run_hop(lab: Lab) -> list[Figure]:
    """What a hop costs beyond its computing: laps of a devnet with null stages.

    Everything but the layers is real: processes, encryption, payments, blocks.  Steps
    carry no guesses, here and over slow links, so that a lap is one token.
    """
    lab.create("null-devnet", null_layers=True)
    with lab.open_network("null-devnet") as network:
        _ask(network, 8)
        lab.report("laps through null stages")
        answers, cpu_s = [], []
        for _ in range(HOP_ROUNDS):
            before = _read_hosts_cpu_s(network)
            answers.append(_ask(network, HOP_TOKENS))
            cpu_s.append(_read_hosts_cpu_s(network) - before)
    hops = len(answers[0].account["hops"])
    steps = f"of the medians of {HOP_TOKENS - 1} steps each"
    return [
        summarise("per hop", [a.lap_us / 1000 / hops for a in answers], "ms", steps,
                  Goal(HOP_GOAL_MS, is_floor=False)),
        summarise("CPU of a hop's node and worker, per token",
                  [each / HOP_TOKENS / hops * 1000 for each in cpu_s], "ms",
                  "blocks among it"),
        summarise(f"lap through {hops} hops", [a.lap_us / 1000 for a in answers], "ms"),
        summarise("of that, sockets to the workers",
                  [a.hops_us / 1000 for a in answers], "ms"),
        summarise("whole token, with embedding, head and sampler",
                  [_get_token_s(a) * 1000 for a in answers], "ms"),
    ]  # fmt: skip


def run_links(lab: Lab) -> list[Figure]:
    """Four stages of the bundled model with links of 10 ms, in turns with none."""
    with open_linked_network(lab, "linked-devnet") as (network, links):
        plain, slow = [], []
        for number in range(1 + LINK_ROUNDS):
            lab.report(f"links, round {number} of {LINK_ROUNDS}")
            for delay_s, answers in ((0.0, plain), (LINK_S, slow)):
                links.set_delay(delay_s)
                answer = _ask(network, LINK_TOKENS)
                # The first round opens channels, and pings learn what they take.
                if number:
                    answers.append(answer)
    if len({answer.text for answer in plain + slow}) != 1:
        raise BenchError("answers differ")
    lap_s = LINKS_IN_A_LAP * LINK_S
    pairs = list(zip(plain, slow, strict=True))
    if any(b.lap_us < lap_s * 1e6 for _, b in pairs):
        raise BenchError("a lap was shorter than its links")
    ratios = [_get_token_s(b) / (_get_token_s(a) + lap_s) for a, b in pairs]
    note = f"{LINK_TOKENS} tokens each"
    return [
        summarise("a token, to one without delay and one lap", ratios, "x", note,
                  Goal(1.1, is_floor=False)),
        summarise("a token, links without delay",
                  [_get_token_s(a) * 1000 for a in plain], "ms", "through relays"),
        summarise("a token, links of 10 ms", [_get_token_s(a) * 1000 for a in slow],
                  "ms", f"one lap is {lap_s * 1000:.0f} ms"),
        summarise("first text, links without delay",
                  [a.first_s * 1000 for a in plain], "ms"),
        summarise("first text, links of 10 ms", [a.first_s * 1000 for a in slow], "ms"),
    ]  # fmt: skip


def _read_hosts_cpu_s(network: RunningNetwork) -> float:
    """Return the CPU seconds of all nodes that host layers, with their workers."""
    hosts = [node["pid"] for node in network.nodes if node["layers"]]
    pids = [each for pid in hosts for each in (pid, *list_children(pid))]
    return sum(read_cpu_s(pid) for pid in pids)


def _ask(network: RunningNetwork, tokens: int) -> TimedAnswer:
    return ask(network, STRANGE_QUESTIONS[0], tokens, guesses=False)


def _get_token_s(answer: TimedAnswer) -> float:
    """Return the seconds of a token after the first."""
    return (answer.seconds - answer.first_s) / (answer.tokens - 1)
