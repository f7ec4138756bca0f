"""Pages from another hop: as good as computed ones, and nobody is fooled by them."""

from contextlib import suppress
from random import Random

import msgspec
import pytest
import trio
from session_world import (
    HIDDEN,
    HopNode,
    StreamOver,
    build_key,
    collect,
    open_pair,
    open_world,
    run,
)

from inference.device.memory import PAGE_TOKENS
from inference.hop.allowances import Allowances
from inference.hop.page_giver import ASKS_BURST, ASKS_PER_S, MAX_TAKERS
from inference.hop.page_taker import PrefillPace
from inference.protocol.errors import BadMessage
from inference.protocol.messages import Data, Open
from inference.protocol.page_messages import (
    AskPages,
    GivePages,
    PageGrant,
    RefusePages,
    RefusePagesCode,
    build_grant,
    compute_grant_message,
    compute_pages_message,
    decode_page_frame,
    encode_page_frame,
)
from inference.protocol.prefix_keys import name_beginnings, name_scope
from inference.session.route import Route
from primitives.hashing import compute_blob_hash

SECRET = b"s" * 32
PROMPT = [(7 * i + 3) % 97 for i in range(100)]
PAGES = 6
"""All full pages of it."""


async def ask(world, prompt=PROMPT, max_tokens=8):
    """Run a session that must be right; return positions that it did not compute."""
    session = world.session(prompt, max_tokens)
    events = await collect(session)
    assert [e.token_id for e in events] == world.expect(prompt, max_tokens)
    await world.rest()
    return session.summary


def swap_last(world):
    """Let the spare serve the last layers, and say who has served them before."""
    world.hops[-1], world.spares[-1] = world.spares[-1], world.hops[-1]
    taker, giver = world.hops[-1], world.spares[-1]
    world.sources[taker.key.public_key] = giver.key.public_key
    return taker, giver


async def prepare(world):
    """Have the first route keep the prompt, and another last hop measured."""
    world.prefix_secret = SECRET
    assert (await ask(world)).cached_tokens == 0
    taker, giver = swap_last(world)
    # Computing takes a second per position here; the link takes next to nothing.
    taker.service.pace.note(32, 32_000_000)
    return taker, giver


def test_the_pages_of_another_hop_are_used_where_they_come_sooner() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            before = taker.stage.forwards
            assert (await ask(world)).cached_tokens == PAGES * PAGE_TOKENS
            # The prompt's end, and seven of the answer's tokens.
            assert taker.stage.forwards == before + 1 + 7
            assert taker.service._taker.taken == giver.service._giver.given == PAGES
            # Nothing is kept behind pages of a hop that is not in the route.
            assert not taker.stage.pages
            assert not world.faults
            assert not taker.faults

    run(main)


class Mortal(HopNode):
    """Dies when it would answer a step."""

    dies_at = -1

    def tamper(self, message, body):
        if isinstance(message, Data) and message.position == self.dies_at:
            self.kill()
            return None
        return message, body


@pytest.mark.parametrize("dies_at", [96, 103])
def test_a_replacement_fetches_what_a_third_hop_has(dies_at: int) -> None:
    async def main():
        async with open_world(3, {1: Mortal}, spares=range(3)) as world:
            world.prefix_secret = SECRET
            third = world.add_spare(1)
            await world.nursery.start(third.run)
            mortal, replacement = world.hops[1], world.spares[1]
            # The third one serves a turn, and the mortal one the next.
            world.hops[1] = third
            await ask(world)
            world.hops[1] = mortal
            await ask(world)
            mortal.dies_at = dies_at
            world.sources[replacement.key.public_key] = third.key.public_key
            replacement.service.pace.note(32, 32_000_000)
            summary = await ask(world)
            assert (summary.recoveries, summary.cached_tokens) == (1, 96)
            assert replacement.service._taker.taken == PAGES
            # What it computed: what the session had computed behind the pages.
            assert replacement.stage.forwards == 1 + 107 - max(dies_at, len(PROMPT))

    run(main)


def test_only_what_is_missing_is_fetched() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            del world.sources[taker.key.public_key]
            await ask(world, PROMPT[:40])
            assert len(taker.stage.pages) == 2
            world.sources[taker.key.public_key] = giver.key.public_key
            assert (await ask(world)).cached_tokens == PAGES * PAGE_TOKENS
            assert giver.service._giver.given == PAGES - 2

    run(main)


def test_nothing_is_fetched_behind_pages_whose_outputs_are_forgotten() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            del world.sources[taker.key.public_key]
            await ask(world, PROMPT[:40])
            # The stage has two pages that the session cannot begin with.
            while taker.service._budget.pages.evict():
                pass
            world.sources[taker.key.public_key] = giver.key.public_key
            assert (await ask(world)).cached_tokens == 0
            assert giver.service._giver.given == 0

    run(main)


def test_coarse_outputs_are_no_fault_of_their_giver() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            # As a session of another codec of the same signer has left them.
            pages = giver.service._budget.pages
            for key, outputs in list(pages._pages.items()):
                pages._pages[key] = outputs[:-3]
            assert (await ask(world)).cached_tokens == 0
            assert not taker.faults

    run(main)


@pytest.mark.parametrize("pace_us", [0, 100])
def test_nothing_is_fetched_that_is_computed_as_soon(pace_us: int) -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, _ = await prepare(world)
            # Ten milliseconds for a message: as many pages take as long to compute.
            world.jitter = Random(1)
            taker.service.pace.position_us = pace_us
            assert (await ask(world)).cached_tokens == 0
            assert taker.service._taker.taken == 0

    run(main)


def test_a_giver_that_was_slow_is_not_asked_again() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            taker.service._taker._page_s[giver.key.public_key] = 10**6
            assert (await ask(world)).cached_tokens == 0
            assert giver.service._giver.given == 0

    run(main)


@pytest.mark.parametrize("what", ["dead", "refuses", "forgot", "silent"])
def test_without_the_giver_the_session_computes(what: str) -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            match what:
                case "dead":
                    giver.kill()
                case "refuses":
                    giver.is_serving = False
                case "forgot":
                    giver.stage.pages.clear()
                case "silent":
                    giver.service.serve_pages = wait_for_ever
            assert (await ask(world)).cached_tokens == 0
            assert not taker.faults

    run(main)


async def wait_for_ever(stream):
    with suppress(StreamOver):
        while True:
            await stream.receive()


def change(**fields):
    """Return what changes a field of a frame of pages."""

    def spoil(frame: bytes) -> bytes:
        message, body = decode_page_frame(frame, 10**6)
        if not isinstance(message, GivePages) or not message.pages:
            return frame
        return encode_page_frame(msgspec.structs.replace(message, **fields), body)

    return spoil


def spoil_body(frame: bytes) -> bytes:
    return frame[:-1] + b"\xff"


def cut_body(frame: bytes) -> bytes:
    return frame[:-1]


def resign_with_nan(hop: HopNode):
    """Return what makes numbers NaN, and signs that."""

    def spoil(frame: bytes) -> bytes:
        message, body = decode_page_frame(frame, 10**6)
        assert isinstance(message, GivePages)
        body = b"\xff" * len(body)
        digest = compute_blob_hash(body)
        session = hop.world.last_session
        signed = compute_pages_message(session, message.first, message.pages, digest)
        message = GivePages(message.first, message.pages, digest, hop.key.sign(signed))
        return encode_page_frame(message, body)

    return spoil


VILLAINS = {
    "another digest": lambda hop: change(digest=bytes(32)),
    "not signed": lambda hop: change(signature=bytes(64)),
    "other pages": lambda hop: change(first=1),
    "more pages": lambda hop: change(pages=PAGES + 1),
    "too many pages": lambda hop: change(pages=2**16 - 1),
    "another body": lambda hop: spoil_body,
    "a short body": lambda hop: cut_body,
    "no numbers": resign_with_nan,
    "no frame": lambda hop: lambda frame: b"\xff" * 40,
    "a question": lambda hop: (
        lambda frame: encode_page_frame(AskPages(build_any_grant(), 0))
    ),
}


def build_any_grant(**changes) -> PageGrant:
    grant = PageGrant(
        *[bytes(32)] * 7, 0, 4, bytes(32), (bytes(32),) * PAGES, bytes(64)
    )
    return msgspec.structs.replace(grant, **changes)


@pytest.mark.parametrize("villain", VILLAINS)
def test_pages_that_are_not_what_their_giver_signed_are_not_used(villain: str) -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            giver.spoil = VILLAINS[villain](giver)
            plan = world.plan(PROMPT, 8)
            world.last_session = plan.session_id
            world.sessions -= 1
            assert (await ask(world)).cached_tokens == 0
            assert [peer for peer, _ in taker.faults] == [giver.key.public_key]
            assert not world.faults

    run(main)


GRANTS = {
    "a stranger's": (lambda g: {"signature": bytes(64)}, RefusePagesCode.INVALID),
    "another giver's": (lambda g: {"giver": bytes(32)}, RefusePagesCode.INVALID),
    "another taker's": (lambda g: {"taker": bytes(32)}, RefusePagesCode.INVALID),
    "another chain's": (lambda g: {"chain_id": bytes(32)}, RefusePagesCode.INVALID),
    "another range's": (lambda g: {"end": g.end + 1}, RefusePagesCode.NOT_SERVED),
    "another profile's": (
        lambda g: {"profile": bytes(32)},
        RefusePagesCode.NOT_SERVED,
    ),
}


async def hear(world, giver, taker_key, frame):
    """Ask a giver as somebody; return its messages."""
    ours, theirs = open_pair(taker_key, giver.key.public_key)
    ours.is_for_pages = theirs.is_for_pages = True
    await ours.send(frame)
    world.nursery.start_soon(giver.service.serve_pages, theirs)
    messages = []
    try:
        while True:
            messages.append(decode_page_frame(await ours.receive(), 10**6)[0])
    except StreamOver:
        return messages


def build_signed_grant(world, from_whom, **changes):
    plan = world.plan(PROMPT, 8)
    terms = Route(plan, world.signer.public_key).hops[-1].terms
    hops = [*plan.hops[:-1]]
    scope = name_scope(SECRET, [(h.peer_id, h.profile, h.start, h.end) for h in hops])
    names = name_beginnings(SECRET, PROMPT)
    grant = build_grant(terms, scope, names, from_whom.key.public_key)
    grant = msgspec.structs.replace(grant, **changes)
    signature = world.signer.sign(compute_grant_message(grant))
    return msgspec.structs.replace(grant, signature=signature)


@pytest.mark.parametrize("name", GRANTS)
def test_pages_are_given_by_their_owners_grant_only(name: str) -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            changes, code = GRANTS[name]
            grant = build_signed_grant(world, giver)
            changed = changes(grant)
            grant = (
                msgspec.structs.replace(grant, **changed)
                if "signature" in changed
                else build_signed_grant(world, giver, **changed)
            )
            frame = encode_page_frame(AskPages(grant, 0))
            (refusal,) = await hear(world, giver, taker.key.public_key, frame)
            assert isinstance(refusal, RefusePages)
            assert refusal.code == code

    run(main)


def test_a_grant_finds_its_signers_pages_only() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            key = taker.key.public_key
            right = build_signed_grant(world, giver)
            given = await hear(world, giver, key, encode_page_frame(AskPages(right, 2)))
            assert [(m.first, m.pages) for m in given] == [(2, PAGES - 2), (PAGES, 0)]
            # Somebody else's grant for the same names, in the same client's name.
            world.signer = build_key("thief")
            stolen = build_signed_grant(world, giver)
            given = await hear(
                world, giver, key, encode_page_frame(AskPages(stolen, 0))
            )
            assert [(m.first, m.pages) for m in given] == [(0, 0)]
            given = await hear(
                world, giver, key, encode_page_frame(AskPages(right, 2**16 - 1))
            )
            assert [m.pages for m in given] == [0]

    run(main)


@pytest.mark.parametrize("frame", [b"", b"\0\0\0\1\xff", b"\xff" * 99, b"\0" * 5])
def test_a_taker_that_asks_nonsense_is_at_fault(frame: bytes) -> None:
    async def main():
        async with open_world(1, spares=[0]) as world:
            (giver,) = world.hops
            assert await hear(world, giver, b"t" * 32, frame) == []
            assert [peer for peer, _ in giver.faults] == [b"t" * 32]

    run(main)


def test_a_giver_has_few_takers_at_once() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            giver.service._giver._takers |= {bytes([n]) for n in range(MAX_TAKERS)}
            grant = build_signed_grant(world, giver)
            frame = encode_page_frame(AskPages(grant, 0))
            (refusal,) = await hear(world, giver, taker.key.public_key, frame)
            assert refusal.code == RefusePagesCode.BUSY

    run(main)


def test_a_taker_that_asks_again_and_again() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            taker, giver = await prepare(world)
            frame = encode_page_frame(AskPages(build_signed_grant(world, giver), 0))

            async def count(name: bytes, questions: int) -> int:
                heard = [
                    await hear(world, giver, name, frame) for _ in range(questions)
                ]
                assert all(
                    messages[0].code == RefusePagesCode.TOO_OFTEN
                    for messages in heard
                    if isinstance(messages[0], RefusePages)
                )
                return sum(isinstance(m[0], GivePages) for m in heard)

            key = taker.key.public_key
            assert await count(key, 100) == ASKS_BURST
            await trio.sleep(2)
            assert await count(key, 100) == 2 * ASKS_PER_S
            assert not giver.faults

    run(main)


def test_many_takers_of_one_accounts_pages() -> None:
    """Keys cost nothing; what is given is bounded by whose it is."""

    async def main():
        async with open_world(3, spares=range(3)) as world:
            _, giver = await prepare(world)
            page_bytes = giver.stage.page_bytes + PAGE_TOKENS * HIDDEN * 4
            giver.service._giver._bytes = Allowances(page_bytes, 10 * page_bytes)
            for number in range(20):
                key = build_key(f"taker {number}")
                grant = build_signed_grant(world, giver, taker=key.public_key)
                frame = encode_page_frame(AskPages(grant, 0))
                *_, last = await hear(world, giver, key.public_key, frame)
                if number:
                    assert last.code == RefusePagesCode.TOO_MUCH
            assert giver.service._giver.given == PAGES
            # An opening waits no longer for it than for any other refusal.
            assert (await ask(world)).cached_tokens == 0

    run(main)


def test_a_source_without_names_is_not_asked() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            seen = []

            def watch(message, body):
                if isinstance(message, Open):
                    seen.append(message)
                return message, body

            await prepare(world)
            world.prefix_secret = b""
            world.tamper = watch
            assert (await ask(world)).cached_tokens == 0
            assert all(message.source is None for message in seen)

    run(main)


def test_short_steps_say_nothing_of_a_prompts_pace() -> None:
    pace = PrefillPace()
    pace.note(16, 10**9)
    assert pace.position_us == 0
    pace.note(100, 1000)
    assert pace.position_us == 10
    pace.note(100, 2000)
    assert pace.position_us == 12.5


def test_frames_of_pages_are_bounded() -> None:
    grant = build_any_grant(names=(b"\xff" * 32,) * 256)
    frame = encode_page_frame(AskPages(grant, 2**16 - 1))
    assert decode_page_frame(frame, 0) == (AskPages(grant, 2**16 - 1), b"")
    with pytest.raises(BadMessage):
        decode_page_frame(frame + b"x", 10)
    given = encode_page_frame(GivePages(0, 1, bytes(32), bytes(64)), b"12345")
    with pytest.raises(BadMessage):
        decode_page_frame(given, 4)
