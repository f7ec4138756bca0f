"""
Where a node can be reached: p2p://<64 hex of its public key>@host:port
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from network.errors import InvalidEndpoint

PeerId = bytes
"""The 32-byte Ed25519 public key of a node."""

MAX_TEXT = 340
"""Scheme, key, the longest host name (253) and port, with room to spare."""

_FORM = re.compile(r"p2p://([0-9a-f]{64})@(\[[0-9a-f:.]+\]|[^\[\]:@/]+):([0-9]{1,5})")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node's identity and one address at which it listens."""

    peer_id: PeerId
    host: str
    """Numeric IPv4 or IPv6 address without brackets, or a lower-case host name."""
    port: int
    """1 to 65535."""

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Return the endpoint that `text` spells; `str` gives the same text back.

        Raises:
            InvalidEndpoint: Not the one spelling of an endpoint; says why.
        """
        if len(text) > MAX_TEXT:
            raise InvalidEndpoint(f"longer than {MAX_TEXT} characters")
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidEndpoint("not of the form p2p://<64 hex>@host:port")
        key, host, port_text = match.groups()
        port = int(port_text)
        if not 1 <= port <= 65535 or str(port) != port_text:
            raise InvalidEndpoint(f"{port_text} is not a port from 1 to 65535")
        _validate_host(host)
        return cls(bytes.fromhex(key), host.strip("[]"), port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"p2p://{self.peer_id.hex()}@{host}:{self.port}"


def _validate_host(host: str) -> None:
    try:
        if host.startswith("["):
            if str(IPv6Address(host[1:-1])) != host[1:-1]:
                raise InvalidEndpoint("an IPv6 address that is not in its short form")
        elif re.fullmatch(r"[0-9.]+", host):
            IPv4Address(host)
        elif len(host) > 253 or _NAME.fullmatch(host) is None:
            raise InvalidEndpoint("not a host name in lower case")
    except AddressValueError as error:
        raise InvalidEndpoint(f"not an address: {error}") from error
