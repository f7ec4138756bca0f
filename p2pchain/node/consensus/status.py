"""Where a node's consensus stands, for whoever asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsensusStatus:
    """Where this node stands, for people and programs."""

    epoch: int
    view: int
    leader: int
    """Index of the current view's leader."""
    index: int | None
    """Our own index; None while we only listen."""
    is_voting: bool
    mute_reason: str
    """Why a validator does not vote; empty when it does, or is none."""
    is_catching_up: bool
    best_height: int
    """The highest final height that a peer claims."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block could be made."""

    epoch: int
    view: int
    parent_hash: bytes
