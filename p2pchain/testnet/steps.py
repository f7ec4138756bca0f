"""
What a manifest can do to a network: one class per kind of step.

A step begins once any node has finalized height `at`.  `for_s` is how long the fault
lasts, in seconds of the wall clock: heights may stand still meanwhile.
"""

from typing import Annotated

from msgspec import Meta, Struct

from consensus.evidence import Equivocation

ALL = "all"
"""In place of a node's name: every node that runs, at the same moment."""
MAX_FAULT_S = 120.0
"""Longer faults say nothing new, and somebody waits for the end."""

AtHeight = Annotated[int, Meta(ge=1, le=100_000)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_FAULT_S)]
NodeName = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,23}$")]
Coins = Annotated[int, Meta(ge=1, le=10**9)]


class Base(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """What all steps have."""

    at: AtHeight


class Kill(Base, frozen=True, kw_only=True, tag="kill"):
    """SIGKILL; started again `for_s` later."""

    node: NodeName
    for_s: Seconds = 1.0


class Restart(Base, frozen=True, kw_only=True, tag="restart"):
    """SIGTERM, which must end it in order; started again `for_s` later."""

    node: NodeName
    for_s: Seconds = 0.0


class Pause(Base, frozen=True, kw_only=True, tag="pause"):
    """SIGSTOP, and SIGCONT `for_s` later."""

    node: NodeName
    for_s: Seconds = 3.0


class Disconnect(Base, frozen=True, kw_only=True, tag="disconnect"):
    """No byte passes between `nodes` and all others for `for_s`.

    Among themselves `nodes` stay connected, so two of them make a partition.
    """

    nodes: tuple[NodeName, ...]
    for_s: Seconds = 5.0
    is_deaf: bool = True
    """Whether nothing reaches them."""
    is_dumb: bool = True
    """Whether nothing leaves them; only one of the two is a one-way cut."""


class Wipe(Base, frozen=True, kw_only=True, tag="wipe"):
    """Stopped, chain deleted, started again: it replays everything from its peers."""

    node: NodeName
    for_s: Seconds = 0.0
    lose_votes: bool = False
    """Whether its log of votes is lost too; it may then sign nothing for a while."""


class Join(Base, frozen=True, kw_only=True, tag="join"):
    """A node without stake bonds some and becomes a validator."""

    node: NodeName
    stake: Coins = 50_000


class Leave(Base, frozen=True, kw_only=True, tag="leave"):
    """A validator unbonds everything and leaves the set; the node goes on."""

    node: NodeName


class Equivocate(Base, frozen=True, kw_only=True, tag="equivocate"):
    """Somebody else signs with this validator's key and contradicts it.

    The evidence must be in the chain and the validator tombstoned.
    """

    node: NodeName
    crime: Equivocation = Equivocation.DOUBLE_NOTARIZE
    """Which two votes; the words are those of interfaces."""
    via_rpc: bool = False
    """Hand finished evidence to a node instead of speaking votes to all of them."""


Step = Kill | Restart | Pause | Disconnect | Wipe | Join | Leave | Equivocate


def get_kind(step: Step) -> str:
    """Return the word by which a manifest names the step."""
    return str(step.__struct_config__.tag)


def get_nodes(step: Step) -> tuple[str, ...]:
    """Return the names that a step gives; may be `ALL`."""
    return step.nodes if isinstance(step, Disconnect) else (step.node,)
