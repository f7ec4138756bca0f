"""
How often channels have had steps undone, and which have had too many.

A change of the route takes the last step back: it is not paid, for it may not have
arrived (docs/adr/0032-taken-back.md).  Only the requester knows whether it did.  One
loses a hop now and then; one that has its steps undone again and again buys answers for
nothing.  So what a channel may have undone grows with the steps that it has paid, and
beyond that it gets no further session.

Pure: no streams, no clock.
"""

from collections import OrderedDict

FREE_STEPS = 16
"""That a channel may have undone before it has paid any: it took a deposit to open it,
and a first session can have a bad day."""
MAX_CHANNELS = 4096
"""That are remembered; to be forgotten somebody has to open as many."""


class UndoneSteps:
    """The undone steps of all channels, since the node began."""

    def __init__(self) -> None:
        self._steps: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._steps)

    def note(self, channel_id: bytes, steps: int) -> None:
        """Count what a session of the channel has had undone."""
        if not steps:
            return
        self._steps[channel_id] = self._steps.pop(channel_id, 0) + steps
        if len(self._steps) > MAX_CHANNELS:
            self._steps.popitem(last=False)

    def are_too_many(self, channel_id: bytes, paid_steps: int) -> bool:
        """Tell whether a channel has had more undone than bad luck explains.

        Args:
            channel_id: Of the channel.
            paid_steps: That were delivered to it and paid, ever.
        """
        return self._steps.get(channel_id, 0) > FREE_STEPS + paid_steps
