"""What a node's wallet did, and the channels that are its own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chain.records.channel import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledTransaction:
    """A final transaction of the wallet, in whichever shard."""

    tx_id: bytes
    shard: int
    height: int
    ok: bool | None
    """None: it is in a shard that is not followed, and nobody showed what it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """Transactions that a wallet operation submitted, in order."""

    tx_ids: tuple[bytes, ...]
    """The last one does what was asked; earlier ones move funds between shards."""
    fee_limit: int
    """Most that all of them together can cost in fees."""
    settled: tuple[SettledTransaction, ...] = ()
    """What became of them, where it is known already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenResult:
    """A channel whose opening was submitted."""

    channel_id: bytes
    shard: int
    tx_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnChannel:
    """A channel this wallet pays from or is paid by, with what the chain cannot see."""

    channel: "Channel"
    role: str
    """"payer" or "payee"."""
    promised: int
    """Atoms promised off chain so far (best claim), at least `channel.settled`."""
    reserved: int = 0
    """Atoms that our open sessions may still take of it; 0 for a payee."""
    blocked: str = ""
    """Why no payment goes through it now; empty when it works."""
