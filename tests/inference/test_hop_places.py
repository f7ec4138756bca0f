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

from inference.hop.allowances import MAX_NAMES, Allowances
from inference.hop.events import PoolChanged
from inference.hop.hop import FETCH_BYTES
from inference.hop.places import Holder, NoPlace, Places
from inference.hop.ports import HopLimits
from inference.protocol.activations import compute_digest
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.messages import (
    HOP_PROTOCOL,
    PUSH_PROTOCOL,
    Abort,
    Accept,
    Data,
    Fetch,
    Linked,
    Note,
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

MANY = 200_000
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


def test_any_number_of_sessions_find_the_door_closed():
    """Strangers with as many keys, accounts and channels as they like."""
    limits, random = HopLimits(), Random(7)
    places = Places(limits)
    refused = 0
    for index in range(MANY):
        number = random.getrandbits(20)
        try:
            places.ask(b"p%d" % number, index)
            places.enter(b"%d" % index, build_holder(number, number), lambda: False)
        except NoPlace:
            refused += 1
    assert len(places) == MANY - refused == limits.max_newcomers
    assert len(places._questions) <= MAX_NAMES
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

    assert count(MANY // 20, 0) == 5
    assert count(3, 100_000) == 1
    assert count(100, 60_000_000) == 5
    # Somebody else is heard.
    places.ask(b"other", 60_000_000)


moves = st.tuples(
    st.integers(0, 11), st.integers(0, 3), st.integers(0, 3), st.booleans()
)


@given(st.lists(moves, max_size=60))
def test_bounds_hold_and_places_come_back(steps):
    limits = HopLimits(max_sessions=6, max_newcomers=2)
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
        free = 6 - len(held)
        may = (
            sum(h.peer == holder.peer for h, _ in held.values()) < free
            and sum(h.account == holder.account for h, _ in held.values()) < free
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


def fill(places: Places, counts: tuple[int, ...]) -> None:
    for account, count in enumerate(counts):
        for index in range(count):
            name = b"%d %d" % (account, index)
            places._places[name] = None
            places._of_account[build_holder(account, account).account] += 1
            places._of_peer[build_holder(account, account).peer] += 1


def test_every_state_that_three_accounts_can_bring_about():
    """Whatever came before: a place for whoever has none, half for who is alone."""
    size, start = 9, (0, 0, 0)
    seen, todo = {start}, [start]
    while todo:
        counts = todo.pop()
        free = size - sum(counts)
        # The fourth has none yet.
        may = []
        for account in range(4):
            places = Places(HopLimits(max_sessions=size))
            fill(places, counts)
            holder = build_holder(account, account)
            may.append(try_to_enter(places, b"new", holder, paid=True))
        assert may == [count < free for count in (*counts, 0)]
        assert free > 0, "three accounts cannot take nine places"
        assert sum(count > 0 for count in counts) > 1 or max(counts) <= (size + 1) // 2
        for account in range(3):
            more = [*counts]
            more[account] += may[account]
            fewer = [*counts]
            fewer[account] -= counts[account] > 0
            for state in (tuple(more), tuple(fewer)):
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
    assert (5, 0, 0) in seen
    assert len(seen) > 50


@pytest.mark.parametrize("accounts", [1, 2, 3, 7, 15])
def test_who_wants_all_gets_an_equal_part(accounts):
    places = Places(HopLimits())
    counts = [0] * accounts
    for number in range(200 * accounts):
        account = number % accounts
        name = b"%d" % number
        counts[account] += try_to_enter(
            places, name, build_holder(account, account), paid=True
        )
    assert max(counts) - min(counts) <= 1
    assert places.free == 128 // (accounts + 1)


def test_an_allowance_fills_again_and_no_further():
    allowances = Allowances(per_s=10, burst=20)
    assert allowances.take(b"a", 20, 0)
    assert not allowances.take(b"a", 1, 50_000)
    assert allowances.take(b"a", 1, 150_000)
    assert allowances.take(b"b", 20, 150_000)
    assert not allowances.take(b"a", 21, 10**12)
    assert allowances.take(b"a", 20, 10**12)
    for number in range(2 * MAX_NAMES):
        allowances.take(b"%d" % number, 1, 10**12)
    assert len(allowances) == MAX_NAMES


@given(st.lists(st.tuples(st.integers(0, 2 * 10**6), st.integers(1, 9))))
def test_nobody_takes_more_than_has_flowed_in(takes):
    allowances, now_us, taken = Allowances(per_s=3, burst=9), 0, 0
    for after_us, amount in takes:
        now_us += after_us
        if allowances.take(b"a", amount, now_us):
            taken += amount
        assert taken <= 9 + 3 * now_us / 1e6 + 1e-6


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

    def build_step(self, terms, value: int) -> bytes:
        body = np.full((3, HIDDEN), value, np.float32).tobytes()
        step = Step(0, 0, 3, is_prefill=True, closes_range=True)
        work = Range().add(step, 0, compute_digest(body), b"")
        key = self.key
        said = sign_input(CHAIN_ID, terms.session, work, key.public_key, key.sign)
        data = Data(terms.session, terms.attempt, 0, 0, 3, HIDDEN, 1, (), said, None)
        return encode_frame(data, body)


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
            hop = world.hops[0]
            hop.limits = HopLimits(max_sessions=40, max_newcomers=40)
            hop.start_service()
            answers = [await f.ask() for f in flooders for _ in range(8)]
            opened = [m for _, m in answers if isinstance(m, Accept)]
            assert len(opened) == 20
            assert "20 sessions of this" in answers[-1][1].text

    run(test)


def test_the_longest_idle_gives_way_when_all_places_are_taken():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.limits = limits = HopLimits(max_sessions=3)
            # Whoever gives way gives the memory first.
            hop.stage.max_sessions = 3
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
            assert message.code in (RefuseCode.UNPAID, RefuseCode.BUSY)
            return False
        try:
            await self.get_steps(stream, way)
        finally:
            stream.abort()
        return True

    async def get_steps(self, stream, way: str) -> None:
        terms, message = self.last.terms, None
        for value in range(20):
            await stream.send(self.build_step(terms, value))
            if way == "leaves":
                await trio.sleep(0.0005)
                return
            while not isinstance(message, Data | Abort):
                message, _ = decode_frame(await stream.receive(), 10**6)
            if isinstance(message, Abort) or way == "takes":
                return
            terms = msgspec.structs.replace(terms, attempt=terms.attempt + 1)
            again = way == "comes again"
            signed = compute_relink_message(terms, 0, comes_again=again)
            relink = Relink(terms, 0, again, self.key.sign(signed))
            await stream.send(encode_frame(relink))
            while not isinstance(message, Linked):
                message, _ = decode_frame(await stream.receive(), 10**6)


@pytest.mark.parametrize("way", ["takes", "differs"])
def test_sessions_of_one_deposit_that_all_leave_without_paying(way):
    async def test():
        async with open_world(hops=1) as world:
            hop, cheat = world.hops[0], Cheat(world, 0)
            hop.stage.max_sessions = 1000
            hop.limits = HopLimits(open_burst=1000)
            hop.start_service()
            with trio.move_on_after(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(100):
                        nursery.start_soon(cheat.cheat, way)
                        await trio.sleep(0.0001)
            await trio.sleep(1)
            # Those that trust nobody have computed nothing.
            assert hop.stage.forwards == hop.limits.max_trusting
            assert hop.service.sessions == 0
            standing = hop.payee.standings[cheat.channel.channel_id]
            assert standing.arrears_units == 8 * compute_prefill_units(3)

    run(test)


def test_who_has_the_same_told_again_and_again_is_stopped():
    async def test():
        async with open_world(hops=1) as world:
            hop, greedy = world.hops[0], Flooder(world, 0)
            size = 3 * HIDDEN * 4
            hop.limits = HopLimits(
                tell_bytes_per_s=FETCH_BYTES, tell_burst_bytes=5 * FETCH_BYTES
            )
            hop.start_service()
            stream, _ = await greedy.ask()
            session = greedy.last.terms.session
            await stream.send(greedy.build_step(greedy.last.terms, 1))
            while not isinstance((await receive(stream))[0], Note):
                pass
            told = 0
            while True:
                await stream.send(encode_frame(Fetch(session, 0, 3)))
                message, body = await receive(stream)
                if isinstance(message, Abort):
                    break
                assert len(body) == size
                told += 1
            assert (told, message.code) == (5, AbortCode.TOO_MUCH)
            # That is no fault, and the account's other sessions go on.
            assert not hop.faults

    run(test)


async def receive(stream):
    return decode_frame(await stream.receive(), 10**6)


def test_a_gateway_alone_has_more_than_32_sessions_at_each_hop():
    async def test():
        async with open_world(hops=3) as world:
            for hop in world.hops:
                hop.stage.max_sessions = 1000
                hop.stage.step_s = 1
            most = 0
            answers: list[list[int]] = []

            async def ask(prompt: list[int]) -> None:
                events = await collect(world.session(prompt, 4))
                assert [e.token_id for e in events] == world.expect(prompt, 4)
                answers.append(prompt)

            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(ask, [number, 1, 2])
                while len(answers) < 40:
                    most = max(most, *(hop.service.sessions for hop in world.hops))
                    await trio.sleep(0.1)
            assert most == 40
            await world.rest()
            # Paid ahead or afterwards, it is the same in the end.
            assert world.get_sent() == world.get_paid()
            assert len(set(world.get_paid())) == 1
            assert not world.faults

    run(test)


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
