"""What a search of a database finds."""

from dataclasses import dataclass, field

from primitives.types import Height, ShardId

MAX_FINDINGS = 1000
"""Somebody reads them; a database with more than that is mended by a sync."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not what it has to be."""

    what: str
    """database, block, bucket, root, undo, books or packet."""
    message: str
    shard: ShardId | None = None
    bucket: int | None = None
    height: Height | None = None
    """Of the block."""


class TooManyFindings(Exception):
    """The search ends here."""


@dataclass(slots=True)
class Findings:
    """All that was found, in order."""

    items: list[Finding] = field(default_factory=list)

    def add(
        self,
        what: str,
        message: str,
        *,
        shard: ShardId | None = None,
        bucket: int | None = None,
        height: Height | None = None,
    ) -> None:
        """Note a finding.

        Raises:
            TooManyFindings: It was the last one that fits.
        """
        self.items.append(Finding(what, message, shard, bucket, height))
        if len(self.items) >= MAX_FINDINGS:
            raise TooManyFindings
