"""
Random manifests: the same seed gives the same manifest, and another one another.

Steps follow one another by a few blocks, so that faults of some seconds overlap now and
then, but never more than what the rules promise to bear: between two steps that take a
third of the stake or more (all nodes, halves of the network) there is room to recover.
"""

from random import Random

from consensus.evidence import Equivocation
from p2pchain.testnet.manifest import (
    MAX_VALIDATORS,
    MIN_VALIDATORS,
    Load,
    Manifest,
    Node,
    validate_manifest,
)
from p2pchain.testnet.steps import (
    ALL,
    Disconnect,
    Equivocate,
    Join,
    Kill,
    Leave,
    Pause,
    Restart,
    Step,
    Wipe,
)

EPOCH_BLOCKS = (8, 16)
"""Shortest and longest: several epochs in a run of a minute."""
SPREAD = (70, 100)
"""Coins of a stake: less than 3:2 between two, so that none of four is a third."""
FAULTS = (4, 7)
"""Faults in a manifest."""
STEP_BLOCKS = (5, 9)
"""From one fault to the next; a few seconds."""
SETTLE_EPOCHS = 4
"""After the last step: a change of stake takes two epochs to reach the set, and a
validator that lost its log waits for one."""


def generate_manifest(seed: int) -> Manifest:
    """Return the manifest of a seed."""
    luck = Random(seed)
    validators = luck.randint(MIN_VALIDATORS, MAX_VALIDATORS)
    nodes = [
        Node(name=f"node{index}", stake=luck.randint(*SPREAD))
        for index in range(validators)
    ]
    epoch_blocks = luck.randint(*EPOCH_BLOCKS)
    has_late = luck.random() < 0.7
    if has_late:
        nodes.append(Node(name="late", start_at=luck.randint(3, 20)))
    steps = _choose_steps(luck, nodes)
    last = max(step.at for step in steps)
    manifest = Manifest(
        name=f"seed-{seed}",
        nodes=tuple(nodes),
        blocks=last + SETTLE_EPOCHS * epoch_blocks,
        seed=seed,
        delay_ms=luck.choice((0, 0, 5, 30)),
        params={"epoch_blocks": epoch_blocks, **SHORT_EPOCHS},
        load=Load(
            rate=luck.choice((1.0, 5.0, 10.0)),
            wallets=luck.randint(3, 8),
            cross_shard=luck.choice((0.0, 0.5, 1.0)),
        ),
        steps=steps,
    )
    validate_manifest(manifest)
    return manifest


SHORT_EPOCHS = {"unbonding_epochs": 7, "evidence_epochs": 2}
"""Small enough that a run sees their ends; the first is above the second plus 4."""


def _choose_steps(luck: Random, nodes: list[Node]) -> tuple[Step, ...]:
    steps: list[Step] = []
    height = 3
    for _ in range(luck.randint(*FAULTS)):
        height += luck.randint(*STEP_BLOCKS)
        # Two without their logs may not vote both, and then no block ever comes that
        # would let them: one is what the rules bear.
        has_lost = any(isinstance(step, Wipe) and step.lose_votes for step in steps)
        steps.append(_choose_fault(luck, height, nodes, may_lose=not has_lost))
    steps += _choose_changes(luck, height, nodes)
    return tuple(sorted(steps, key=lambda step: step.at))


def _choose_fault(luck: Random, at: int, nodes: list[Node], *, may_lose: bool) -> Step:
    validators = [node.name for node in nodes if node.stake]
    name = luck.choice([node.name for node in nodes if node.start_at < at])
    kind = luck.choices(
        ("kill", "restart", "pause", "disconnect", "one-way", "part", "wipe", "all"),
        weights=(4, 2, 3, 3, 2, 1, 2, 1),
    )[0]
    match kind:
        case "kill":
            return Kill(at=at, node=name, for_s=luck.choice((0.5, 2.0, 5.0)))
        case "restart":
            return Restart(at=at, node=name, for_s=luck.choice((0.0, 2.0)))
        case "pause":
            return Pause(at=at, node=name, for_s=luck.choice((1.0, 3.0, 8.0)))
        case "disconnect":
            return Disconnect(at=at, nodes=(name,), for_s=luck.choice((2.0, 6.0, 18.0)))
        case "one-way":
            is_deaf = luck.random() < 0.5
            return Disconnect(
                at=at, nodes=(name,), for_s=6.0, is_deaf=is_deaf, is_dumb=not is_deaf
            )
        case "part":
            half = tuple(sorted(luck.sample(validators, len(validators) // 2)))
            return Disconnect(at=at, nodes=half, for_s=luck.choice((3.0, 8.0)))
        case "wipe":
            is_lost = luck.random() < 0.4
            return Wipe(at=at, node=name, lose_votes=is_lost and may_lose)
        case _:
            return Kill(at=at, node=ALL, for_s=luck.choice((0.0, 2.0)))


def _choose_changes(luck: Random, last: int, nodes: list[Node]) -> list[Step]:
    """Return changes of the validator set, each at a node that no other one changes."""
    validators = [node.name for node in nodes if node.stake]
    late = [node for node in nodes if node.start_at]
    changes: list[Step] = []
    if late and luck.random() < 0.7:
        at = luck.randint(late[0].start_at + 2, last + 5)
        changes.append(Join(at=at, node=late[0].name, stake=luck.randint(*SPREAD)))
    luck.shuffle(validators)
    # At least four stay, whatever becomes of the one that joins.
    spare = validators[MIN_VALIDATORS:]
    if spare and luck.random() < 0.5:
        at = luck.randint(5, last)
        changes.append(Leave(at=at, node=spare.pop()))
    if spare and luck.random() < 0.5:
        via_rpc = luck.random() < 0.5
        at = luck.randint(5, last)
        crime = luck.choice(list(Equivocation))
        changes.append(
            Equivocate(at=at, node=spare.pop(), via_rpc=via_rpc, crime=crime)
        )
    return changes
