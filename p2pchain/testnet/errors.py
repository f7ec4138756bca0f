"""
Errors of test networks.

    LocalError
    |- ManifestError     the manifest asks for something impossible; names it
    |- TestnetFailed     the network did not do what it must
       |- NodeDied          a process ended that nobody had told to
       |- Stalled           heights stand still, or a node does not catch up
       |- StepFailed        a perturbation or an injection had not its effect
"""

from primitives.errors import LocalError


class ManifestError(LocalError):
    """The manifest cannot be run; the message names the entry and the reason."""


class TestnetFailed(LocalError):
    """The network did something wrong, or failed to do something right."""

    __test__ = False  # its name is no test's


class NodeDied(TestnetFailed):
    """A process ended by itself; quotes the end of its log."""


class Stalled(TestnetFailed):
    """Something that had to happen did not happen in time."""


class StepFailed(TestnetFailed):
    """A perturbation or an injection had not the effect that it must have."""
