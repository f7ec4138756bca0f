"""
At most one connection per peer: dialling, accepting, keeping, replacing.

Theory of operation
-------------------
Two nodes may dial each other at the same moment and so get two connections.  Both must
keep the same one, without talking about it:

    another run of the peer's process   the old connection is dead: the new one stays
    the same run, dialled by the same   the dialler knows why: the new one stays
    the same run, dialled by each       the one that the smaller peer id dialled stays

The loser takes no new streams, finishes those it has for a while, and ends.  Whether
a peer is taken at all is the responder's word (Accept or Goodbye), so a dialler never
believes in a connection that the other side has refused.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import trio

from network.addresses import AddressBook
from network.admission import Admission, is_loopback
from network.connect import shake_hands
from network.endpoint import Endpoint, PeerId
from network.errors import (
    GoodbyeCode,
    HandshakeFailed,
    NetworkStopped,
    PeerUnreachable,
    Refused,
)
from network.handshake import Handshake, LocalIdentity, RemoteIdentity
from network.link import Link, LinkOwner
from network.mux import Mux
from network.params import NetworkParams
from network.records import RecordLayer
from network.reservations import ReservationPool
from network.scores import ScoreBook
from network.topics import ProtocolParams
from network.transport import Transport

DRAIN_S = 30.0
"""How long a replaced connection may finish its streams."""
BACK_OFF = 1.6
"""Factor between two attempts to reach a persistent peer."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Dial:
    """One attempt to reach a peer, shared by all who wait for it."""

    done: trio.Event = field(default_factory=trio.Event)
    error: str = "the network stopped"


class Connections:
    """The links of one node.

    Args:
        identity: Who we are, for handshakes.
        params: Bounds and intervals.
        scores: Whom to keep out.
        owner: Whom links tell what comes in.
        protocols: What peers may open streams for.
        on_peer: Called with a peer id and whether the peer is connected now.
        random: Spreads attempts to reconnect.
        transport: Where to dial.
    """

    def __init__(
        self,
        identity: LocalIdentity,
        params: NetworkParams,
        scores: ScoreBook,
        owner: LinkOwner,
        protocols: dict[str, ProtocolParams],
        on_peer: Callable[[PeerId, bool], None],
        random: Random,
        transport: Transport,
    ) -> None:
        self.identity = identity
        self.links: dict[PeerId, Link] = {}
        """The one link per connected peer."""
        self._params = params
        self._scores = scores
        self._owner = owner
        self._protocols = protocols
        self._on_peer = on_peer
        self._random = random
        self._transport = transport
        self._addresses = AddressBook(params)
        self._admission = Admission(params)
        self._pool = ReservationPool(
            params.reserve_bytes, params.reserve_bytes_per_peer
        )
        self._all: set[Link] = set()
        self._promised: dict[Handshake, str] = {}
        self._persistent: set[PeerId] = set()
        self._dials: dict[PeerId, _Dial] = {}
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    # Service

    def start(self, nursery: trio.Nursery, listen_port: int) -> None:
        """Begin to keep persistent peers, with tasks in `nursery`."""
        self._nursery = nursery
        self.identity = replace(self.identity, listen_port=listen_port)
        for peer_id in sorted(self._persistent):
            nursery.start_soon(self._keep, peer_id)

    def stop(self) -> None:
        """Start no more tasks; whoever waits for a dial is told so."""
        self._nursery = None

    def add_endpoint(self, endpoint: Endpoint, *, persistent: bool) -> None:
        """Remember where a peer is; persistent peers are dialled for ever."""
        if endpoint.peer_id == self.identity.peer_id:
            return
        self._addresses.add(endpoint)
        if persistent and endpoint.peer_id not in self._persistent:
            self._persistent.add(endpoint.peer_id)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, endpoint.peer_id)

    def get_link(self, peer_id: PeerId) -> Link | None:
        """Return the link to a peer if there is one and it is not ending."""
        link = self.links.get(peer_id)
        return link if link is not None and link.reason is None else None

    async def connect(self, peer_id: PeerId) -> Link:
        """Return the link to a peer, dialling when there is none.

        Raises:
            PeerUnreachable: With the reason of the last attempt.
            NetworkStopped: The network is not running.
        """
        if (link := self.get_link(peer_id)) is not None:
            return link
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._start_dial(peer_id)
        await dial.done.wait()
        if (link := self.get_link(peer_id)) is not None:
            return link
        raise PeerUnreachable(peer_id, dial.error)

    async def accept(self, transport: trio.abc.Stream, address: str) -> None:
        """Serve a connection that somebody made to us, until it ends."""
        if not self._admission.enter(address, trio.current_time()):
            await trio.aclose_forcefully(transport)
            return
        handshake = Handshake(initiator=False, identity=self.identity)
        link = None

        def judge(remote: RemoteIdentity) -> GoodbyeCode | None:
            code = self._judge(remote, address)
            if code is None:
                self._promised[handshake] = address
            return code

        try:
            remote, records = await shake_hands(
                transport, handshake, judge, self._params.handshake_timeout_s
            )
            endpoint = self._learn(remote, address)
            link = self._adopt(transport, records, remote, endpoint, address, False)
        except HandshakeFailed as error:
            log.debug("handshake with %s: %s", address, error)
        finally:
            self._promised.pop(handshake, None)
            failed = link is None
            self._admission.leave(address, trio.current_time(), failed=failed)
            if link is None:
                await trio.aclose_forcefully(transport)
        if link is not None:
            await self._run_link(link)

    def drop(self, peer_id: PeerId, reason: str, code: GoodbyeCode) -> None:
        """End every connection to a peer."""
        for link in list(self._all):
            if link.peer_id == peer_id:
                link.end(reason, code)

    # Dialling

    def _start_dial(self, peer_id: PeerId) -> _Dial:
        if self._nursery is None:
            raise NetworkStopped("the network is not running")
        if peer_id == self.identity.peer_id:
            raise PeerUnreachable(peer_id, "it is this node")
        if self._scores.is_banned(peer_id, trio.current_time()):
            raise PeerUnreachable(peer_id, "it is banned")
        if not self._addresses.get(peer_id):
            raise PeerUnreachable(peer_id, "no endpoint is known")
        dial = self._dials[peer_id] = _Dial()
        self._nursery.start_soon(self._dial, peer_id, dial)
        return dial

    async def _dial(self, peer_id: PeerId, dial: _Dial) -> None:
        try:
            for endpoint in self._addresses.get(peer_id):
                try:
                    await self._dial_endpoint(endpoint)
                except (HandshakeFailed, OSError, trio.TooSlowError) as error:
                    dial.error = str(error) or "no answer in time"
                    log.debug("dialling %s: %s", endpoint, dial.error)
                    if _is_duplicate(error):
                        await self._wait_for_twin(peer_id)
                if self.get_link(peer_id) is not None:
                    return
        finally:
            del self._dials[peer_id]
            dial.done.set()

    async def _wait_for_twin(self, peer_id: PeerId) -> None:
        # The peer already believes in the connection that it dialled; our side of it
        # may be a moment behind.
        with trio.move_on_after(self._params.duplicate_grace_s):
            while self.get_link(peer_id) is None:
                await self._changed.wait()

    async def _dial_endpoint(self, endpoint: Endpoint) -> None:
        with trio.fail_after(self._params.dial_timeout_s):
            transport = await self._transport.dial(endpoint.host, endpoint.port)
        link = None
        try:
            handshake = Handshake(
                initiator=True, identity=self.identity, expected=endpoint.peer_id
            )
            remote, records = await shake_hands(
                transport, handshake, None, self._params.handshake_timeout_s
            )
            address = endpoint.host
            link = self._adopt(transport, records, remote, endpoint, address, True)
            assert self._nursery is not None
            self._nursery.start_soon(self._run_link, link)
        finally:
            if link is None:
                await trio.aclose_forcefully(transport)

    async def _keep(self, peer_id: PeerId) -> None:
        wait_s = self._params.redial_min_s
        last_error = ""
        while True:
            while peer_id in self.links:
                wait_s, last_error = self._params.redial_min_s, ""
                await self._changed.wait()
            try:
                await self.connect(peer_id)
            except PeerUnreachable as error:
                if str(error) != last_error:
                    log.info("%s; trying again", error)
                    last_error = str(error)
                # Two nodes that restart together must not dial in step.
                with trio.move_on_after(wait_s * self._random.uniform(0.75, 1.25)):
                    while peer_id not in self.links:
                        await self._changed.wait()
                wait_s = min(wait_s * BACK_OFF, self._params.redial_max_s)

    # Links

    def _judge(self, remote: RemoteIdentity, address: str) -> GoodbyeCode | None:
        peer_id = remote.peer_id
        if self._nursery is None:
            return GoodbyeCode.SHUTDOWN
        if self._scores.is_banned(peer_id, trio.current_time()):
            return GoodbyeCode.BANNED
        existing = self.get_link(peer_id)
        if existing is not None:
            wins = self._wins(existing, remote, is_dialled=False)
            return None if wins else GoodbyeCode.DUPLICATE
        if peer_id in self._persistent:
            return None
        # Those that were accepted a moment ago count before they are links.
        taken = [*(link.address for link in self._all), *self._promised.values()]
        is_full = len(taken) >= self._params.max_connections
        if not is_loopback(address):
            limit = self._params.max_connections_per_ip
            is_full = is_full or taken.count(address) >= limit
        return GoodbyeCode.FULL if is_full else None

    def _wins(
        self, existing: Link, remote: RemoteIdentity, *, is_dialled: bool
    ) -> bool:
        """Tell whether a new connection replaces the existing one."""
        if existing.remote.boot_id != remote.boot_id:
            return True
        if existing.is_dialled == is_dialled:
            return True  # the dialler would not dial if the old one still worked
        return is_dialled == (self.identity.peer_id < remote.peer_id)

    def _adopt(
        self,
        transport: trio.abc.Stream,
        records: RecordLayer,
        remote: RemoteIdentity,
        endpoint: Endpoint | None,
        address: str,
        is_dialled: bool,
    ) -> Link:
        if self._nursery is None:
            raise Refused(GoodbyeCode.SHUTDOWN)
        mux = Mux(
            remote.peer_id,
            initiator=is_dialled,
            params=self._params,
            pool=self._pool,
            protocols=self._protocols,
        )
        link = Link(
            transport,
            records,
            remote,
            mux,
            self._owner,
            self._params,
            is_dialled=is_dialled,
            endpoint=endpoint,
            address=address,
        )
        self._all.add(link)
        existing = self.links.get(remote.peer_id)
        if existing is None:
            self.links[remote.peer_id] = link
            self._announce(remote.peer_id, True)
        elif not self._is_twin(existing, link):
            existing.end("the peer has connected anew")
            self._announce(remote.peer_id, False)
            self.links[remote.peer_id] = link
            self._announce(remote.peer_id, True)
        elif self._wins(existing, remote, is_dialled=is_dialled):
            self.links[remote.peer_id] = link
            self._nursery.start_soon(self._drain, existing)
        else:
            self._nursery.start_soon(self._drain, link)
        return link

    def _is_twin(self, existing: Link, link: Link) -> bool:
        return (
            existing.reason is None
            and existing.remote.boot_id == link.remote.boot_id
            and existing.is_dialled != link.is_dialled
        )

    async def _drain(self, link: Link) -> None:
        # The other side learns of the twin a moment later than we do.
        await trio.sleep(self._params.duplicate_grace_s)
        with trio.move_on_after(DRAIN_S):
            while link.stream_count and link.reason is None:
                await trio.sleep(self._params.duplicate_grace_s)
        link.end("another connection replaced it", GoodbyeCode.DUPLICATE)

    async def _run_link(self, link: Link) -> None:
        try:
            await link.run()
        except Exception:
            # Ours, but what a peer can trigger must never end the node.
            log.exception("the connection to %s failed", link.peer_id.hex()[:8])
        finally:
            self._all.discard(link)
            log.debug("connection to %s: %s", link.peer_id.hex()[:8], link.reason)
            if self.links.get(link.peer_id) is link:
                del self.links[link.peer_id]
                self._announce(link.peer_id, False)

    def _announce(self, peer_id: PeerId, is_connected: bool) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self._on_peer(peer_id, is_connected)

    def _learn(self, remote: RemoteIdentity, address: str) -> Endpoint | None:
        if not remote.listen_port or "%" in address:
            return None
        endpoint = Endpoint(remote.peer_id, address, remote.listen_port)
        self._addresses.learn(endpoint)
        return endpoint


def _is_duplicate(error: Exception) -> bool:
    return isinstance(error, Refused) and error.code is GoodbyeCode.DUPLICATE
