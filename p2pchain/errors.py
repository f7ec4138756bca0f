"""
Errors of the program around the rules.

    P2PChainError
    |- LocalError
       |- HomeError            the home folder is missing, damaged or of another network
       |- ConfigError          config.toml says something impossible
       |- PortInUse            another program listens there
       |- NodeFailed           a child process or service ended against our will
       |- TrustError           no trust to begin with, or its file is damaged
    |- RemoteError
    |  |- TransactionFailed    it is in a block, and the chain's rules refused it
    |  |- BadAnswer            a node answered what no honest node answers
    |  |- StakeRefused         this node cannot stake, or has nothing to take out
    |- MissingError
       |- NotReady             the node cannot do this yet; try again
       |- UnknownFunds         too little, but for shards of which nobody tells
"""

from collections.abc import Sequence
from dataclasses import dataclass

from primitives.errors import LocalError, MissingError, P2PChainError, RemoteError


class HomeError(LocalError):
    """The home folder cannot be used; the message says what to do."""


class ConfigError(LocalError):
    """A setting is missing or impossible; the message names it."""


@dataclass
class PortInUse(LocalError):
    """Another program listens on the address that we were told to use."""

    address: str
    """host:port"""
    setting: str
    """The setting that chooses another one."""

    def __str__(self) -> str:
        return (
            f"{self.address} is in use by another program; choose another port with "
            f"{self.setting} (0 takes any free one)"
        )


class NodeFailed(LocalError):
    """A process or service that we depend on ended against our will."""


class TrustError(LocalError):
    """A light client has nothing to begin with; the message says what to give it."""


class BadAnswer(RemoteError):
    """A node answered a light client what no honest node answers."""


class NotReady(MissingError):
    """The node cannot do this yet; try again in a moment."""


class UnknownFunds(MissingError):
    """The known shards hold too little; of others nothing could be found out.

    Args:
        reason: How much is needed, and how much there is.
        shards: Those that this node does not follow and nobody showed.
    """

    def __init__(self, reason: str, shards: Sequence[int]) -> None:
        listed = ", ".join(map(str, shards))
        super().__init__(
            f"{reason}; not counting shards {listed}, which this node does not follow "
            "and no peer shows just now"
        )
        self.shards = tuple(shards)


class TransactionFailed(RemoteError):
    """A transaction of ours is final and had no effect but its fee."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        """The rule's stable code."""


class StakeRefused(RemoteError):
    """This node cannot stake, or has nothing to take out; nothing was sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        """Stable, for programs: "not_a_validator" or "unknown_stake"."""


def find_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of ours in a group, else its first one."""
    ours = group.subgroup(P2PChainError)
    error: BaseException = ours or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
