"""
Errors of the program around the rules.

    P2PChainError
    |- LocalError
       |- HomeError            the home folder is missing, damaged or of another network
       |- ConfigError          config.toml says something impossible
       |- PortInUse            another program listens there
       |- NodeFailed           a child process or service ended against our will
    |- MissingError
       |- NotReady             the node cannot do this yet; try again
"""

from dataclasses import dataclass

from primitives.errors import LocalError, MissingError


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


class NotReady(MissingError):
    """The node cannot do this yet; try again in a moment."""
