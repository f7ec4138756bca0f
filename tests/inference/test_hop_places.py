"""Floods of sessions: what is bounded, what it costs, and who is served meanwhile."""

import gc
import tracemalloc
from random import Random

import msgspec
import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from session_world import (
    CHAIN_ID,
    HIDDEN,
    Dialer,
    build_key,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.hop.events import PoolChanged
from inference.hop.places import MAX_PEERS, Holder, NoPlace, Places
from inference.hop.ports import HopLimits
from inference.protocol.activations import compute_digest
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.messages import (
    HOP_PROTOCOL,
    PUSH_PROTOCOL,
    Abort,
    Accept,
    Data,
    Linked,
    Open,
    Refuse,
    Relink,
    compute_open_message,
    compute_relink_message,
    decode_frame,
    encode_frame,
)
from inference.protocol.receipts import Range, sign_input
from inference.protocol.steps import Step
from inference.session.route import Route
from primitives.hashing import compute_hash

MILLION = 1_000_000
SESSION_BYTES = 40_000
"""Of an idle session, both ends of its stream, and its task; 19 kB were measured."""


def build_holder(peer: int = 0, account: int = 0, channel: int = 0) -> Holder:
    return Holder(b"p%d" % peer, b"a%d" % account, b"c%d" % channel)


def try_to_enter(places: Places, session: bytes, holder: Holder, *, paid: bool):
    try:
        places.enter(session, holder, lambda: paid)
    except NoPlace:
        return False
    return True


# The bounds alone


def test_a_million_sessions_find_the_door_closed():
    """Strangers with as many keys, accounts and channels as they like."""
    limits, random = HopLimits(), Random(7)
    places = Places(limits)
    refused = 0
    for index in range(MILLION):
        number = random.getrandbits(20)
        try:
            places.ask(b"p%d" % number, index)
            places.enter(b"%d" % index, build_holder(number, number), lambda: False)
        except NoPlace:
            refused += 1
    assert len(places) == MILLION - refused == limits.max_newcomers
    assert len(places._allowances) <= MAX_PEERS
    # Who has paid before finds a place all the same.
    assert try_to_enter(places, b"payer", build_holder(-1, -1), paid=True)


def test_one_peer_asks_so_often_and_no_more():
    limits = HopLimits(opens_per_s=10, open_burst=5)
    places = Places(limits)

    def count(questions: int, now_us: int) -> int:
        heard = 0
        for _ in range(questions):
            try:
                places.ask(b"peer", now_us)
                heard += 1
            except NoPlace:
                pass
        return heard

    assert count(MILLION // 100, 0) == 5
    assert count(3, 100_000) == 1
    assert count(100, 60_000_000) == 5
    # Somebody else is heard.
    places.ask(b"other", 60_000_000)


moves = st.tuples(
    st.integers(0, 11), st.integers(0, 3), st.integers(0, 3), st.booleans()
)


@given(st.lists(moves, max_size=60))
def test_bounds_hold_and_places_come_back(steps):
    limits = HopLimits(
        max_sessions=6,
        max_sessions_per_account=3,
        max_sessions_per_peer=4,
        max_newcomers=2,
    )
    places = Places(limits)
    held: dict[bytes, tuple[Holder, bool]] = {}
    for number, peer, account, paid in steps:
        name = b"%d" % number
        if name in held:
            places.leave(name)
            del held[name]
            places.leave(name)
            continue
        holder = build_holder(peer, account)
        may = (
            len(held) < 6
            and sum(h.peer == holder.peer for h, _ in held.values()) < 4
            and sum(h.account == holder.account for h, _ in held.values()) < 3
            and (paid or sum(not p for _, p in held.values()) < 2)
        )
        assert try_to_enter(places, name, holder, paid=paid) is may
        if may:
            held[name] = holder, paid
        assert len(places) == len(held)
        assert all(each in places for each in held)
    for name in held:
        places.leave(name)
    assert len(places) == 0
    assert not places._of_peer
    assert not places._of_account


# A service under a flood


class Flooder:
    """A stranger with a channel of its own to hop 0, who never pays."""

    def __init__(self, world, index: int) -> None:
        self.world = world
        self.key = build_key(f"flooder-{index}")
        self.opened = 0
        hop = world.hops[0]
        theirs = world.channels[hop.channel_id]
        self.channel = msgspec.structs.replace(
            theirs,
            channel_id=compute_hash("test", b"flooder", index.to_bytes(4, "big")),
            payer=self.key.public_key,
            signer=self.key.public_key,
        )
        world.channels[self.channel.channel_id] = self.channel

    def build_open(self) -> Open:
        plan = self.world.plan([1, 2, 3], 10)
        terms = Route(plan, self.key.public_key).hops[0].terms
        terms = msgspec.structs.replace(
            terms, client=self.key.public_key, channel_id=self.channel.channel_id
        )
        self.last = Open(terms, None, self.key.sign(compute_open_message(terms)))
        return self.last

    async def ask(self):
        """Ask for a session and return stream and answer."""
        hop = self.world.hops[0]
        dialer = Dialer(self.world, self.key.public_key, None)
        stream = await dialer.open_stream(hop.key.public_key, HOP_PROTOCOL)
        await stream.send(encode_frame(self.build_open()))
        message, _ = decode_frame(await stream.receive())
        return stream, message


def test_a_payer_is_served_in_a_flood():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.stage.max_sessions = 1000
            prompt = [5, 6, 7]
            # Its channel has paid before the flood comes.
            assert len(await collect(world.session(prompt, 4))) == 4
            flooders = [Flooder(world, index) for index in range(20)]
            accepted, refused = [], []

            async def flood(flooder: Flooder) -> None:
                for _ in range(150):
                    stream, message = await flooder.ask()
                    if isinstance(message, Accept):
                        accepted.append(stream)
                        continue
                    assert message.code == RefuseCode.BUSY
                    refused.append(message)

            async with trio.open_nursery() as nursery:
                for flooder in flooders:
                    nursery.start_soon(flood, flooder)
                for _ in range(5):
                    events = await collect(world.session(prompt, 24))
                    tokens = [event.token_id for event in events]
                    assert tokens == world.expect(prompt, 24)
            limits = HopLimits()
            assert len(accepted) == limits.max_newcomers
            assert len(accepted) + len(refused) == 20 * 150
            assert hop.service.sessions == limits.max_newcomers
            assert len(hop.stage.sessions) == limits.max_newcomers
            # A refusal holds nothing; nobody is blamed for wanting a place.
            assert not hop.faults
            # What does nothing ends by itself.
            await trio.sleep(limits.idle_s + 1)
            assert world.is_idle()
            for stream in accepted:
                message, _ = decode_frame(await stream.receive())
                assert message.code == AbortCode.TIMEOUT

    run(test)


def test_an_account_has_its_share_whatever_its_channels_are():
    async def test():
        async with open_world(hops=1) as world:
            world.hops[0].stage.max_sessions = 1000
            flooders = [Flooder(world, index) for index in range(4)]
            # One owner with four channels, from four machines.
            for flooder in flooders[1:]:
                flooder.key = flooders[0].key
                channel = msgspec.structs.replace(
                    flooder.channel,
                    payer=flooder.key.public_key,
                    signer=flooder.key.public_key,
                )
                world.channels[channel.channel_id] = channel
            answers = [await f.ask() for f in flooders for _ in range(8)]
            opened = [m for _, m in answers if isinstance(m, Accept)]
            assert len(opened) == HopLimits().max_sessions_per_account
            assert "account" in answers[-1][1].text

    run(test)


def test_the_longest_idle_gives_way_when_all_places_are_taken():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.limits = limits = HopLimits(max_sessions=3)
            hop.start_service()
            flooders = [Flooder(world, index) for index in range(5)]
            streams = []
            for flooder in flooders[:3]:
                streams.append((await flooder.ask())[0])
                await trio.sleep(1)
            # Nobody has been idle for long yet.
            _, message = await flooders[3].ask()
            assert (message.code, message.text) == (
                RefuseCode.BUSY,
                "3 sessions are open",
            )
            await trio.sleep(limits.crowded_idle_s - 2.5)
            _, message = await flooders[3].ask()
            assert isinstance(message, Accept)
            gone, _ = decode_frame(await streams[0].receive())
            assert isinstance(gone, Abort)
            assert gone.code == AbortCode.TIMEOUT
            _, message = await flooders[4].ask()
            assert isinstance(message, Refuse)
            assert hop.service.sessions == 3
            await trio.sleep(0.1)
            assert len(hop.stage.sessions) == 3

    run(test)


def test_whoever_cannot_be_told_keeps_its_place():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.limits = limits = HopLimits(max_sessions=1)
            hop.start_service()
            stream, _ = await Flooder(world, 0).ask()
            await trio.sleep(limits.crowded_idle_s + 1)
            (driver,) = hop.service._drivers.values()
            # Somebody talks, and is not heard yet.
            driver.post(PoolChanged())
            hop.service._dismiss_idle()
            assert hop.service.sessions == 1
            await trio.sleep(1)
            hop.service._dismiss_idle()
            assert hop.service.sessions == 0
            gone, _ = decode_frame(await stream.receive())
            assert isinstance(gone, Abort)

    run(test)


class Cheat(Flooder):
    """Has steps computed and finds ways not to pay for them."""

    async def cheat(self, way: str) -> bool:
        """Open a session and get as much as it gives; False where it is refused."""
        stream, message = await self.ask()
        if isinstance(message, Refuse):
            assert message.code == RefuseCode.UNPAID
            return False
        terms = self.last.terms
        for value in range(20):
            await stream.send(self.build_step(terms, value))
            if way == "leaves":
                await trio.sleep(0.0005)
                break
            while not isinstance(message, Data | Abort):
                message, _ = decode_frame(await stream.receive(), 10**6)
            if isinstance(message, Abort) or way == "takes":
                break
            terms = msgspec.structs.replace(terms, attempt=terms.attempt + 1)
            again = way == "comes again"
            signed = compute_relink_message(terms, 0, comes_again=again)
            relink = Relink(terms, 0, again, self.key.sign(signed))
            await stream.send(encode_frame(relink))
            while not isinstance(message, Linked):
                message, _ = decode_frame(await stream.receive(), 10**6)
        stream.abort()
        return True

    def build_step(self, terms, value: int) -> bytes:
        body = np.full((3, HIDDEN), value, np.float32).tobytes()
        step = Step(0, 0, 3, is_prefill=True, closes_range=True)
        work = Range().add(step, 0, compute_digest(body), b"")
        key = self.key
        said = sign_input(CHAIN_ID, terms.session, work, key.public_key, key.sign)
        data = Data(terms.session, terms.attempt, 0, 0, 3, HIDDEN, 1, (), said, None)
        return encode_frame(data, body)


@pytest.mark.parametrize("way", ["takes", "comes again", "differs", "leaves"])
def test_a_deposit_buys_one_step_for_nothing_over_any_number_of_sessions(way):
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            cheat = Cheat(world, 0)
            opened = 0
            for _ in range(8):
                opened += await cheat.cheat(way)
                await trio.sleep(30)
                # A node that starts anew has forgotten nothing.
                hop.start_service()
            assert opened == 1
            assert hop.stage.forwards <= 1
            standing = hop.payee.standings[cheat.channel.channel_id]
            assert standing.arrears_units == compute_prefill_units(3)
            # Who pays is served.
            assert len(await collect(world.session([5, 6, 7], 4))) == 4

    run(test)


def test_memory_of_idle_sessions():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.stage.max_sessions = 10_000
            many = 10_000
            hop.limits = HopLimits(
                max_sessions=many,
                max_newcomers=many,
                max_sessions_per_account=many,
                max_sessions_per_peer=many,
                max_sessions_per_channel=many,
                open_burst=many,
            )
            hop.start_service()
            flooder = Flooder(world, 0)
            streams = [await flooder.ask() for _ in range(20)]
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            streams += [await flooder.ask() for _ in range(400)]
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert hop.service.sessions == 420
            assert (after - before) / 400 < SESSION_BYTES

    run(test)


def test_neighbours_that_say_nothing_are_bounded():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.limits = limits = HopLimits(max_silent_pushes=4)
            hop.start_service()
            dialer = Dialer(world, build_key("neighbour").public_key, None)
            key = hop.key.public_key
            streams = [await dialer.open_stream(key, PUSH_PROTOCOL) for _ in range(9)]
            await trio.sleep(0.1)
            assert sum(stream.is_over for stream in streams) == 5
            # Somebody else's push is heard.
            other = Dialer(world, build_key("other").public_key, None)
            stream = await other.open_stream(key, PUSH_PROTOCOL)
            await trio.sleep(0.1)
            assert not stream.is_over
            await trio.sleep(limits.idle_s)
            assert all(stream.is_over for stream in streams)
            assert not hop.service._silent
            data = Data(CHAIN_ID, 0, 0, 0, 1, HIDDEN, 1, (), None, None)
            stream = await other.open_stream(key, PUSH_PROTOCOL)
            await stream.send(encode_frame(data, bytes(4 * HIDDEN)))
            with pytest.raises(Exception, match="ended"):
                await stream.receive()
            assert not hop.service._silent

    run(test)
