"""Sessions that begin alike: what was computed is neither sent nor paid again."""

from dataclasses import replace
from random import Random

import msgspec
import pytest
from session_world import (
    DECODE_UNITS,
    UNIT_PRICE,
    HopNode,
    build_key,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.device.memory import PAGE_TOKENS
from inference.hop.kept_outputs import KeptOutputs, OutputBudget
from inference.hop.prefix import HopPrefix
from inference.protocol.codec import Codec
from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopRefused
from inference.protocol.messages import Accept, Data, Finish
from inference.protocol.prefix_keys import (
    MAX_PREFIX_KEYS,
    derive_secret,
    name_beginnings,
    name_scope,
)
from inference.sampling.speculation import Speculation
from inference.session.route import Route
from inference.session.shared_payer import SharedPayer
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.kv import MemoryStore
from wallet.book import PayerBook

SECRET = b"s" * 32
PROMPT = [(7 * i + 3) % 97 for i in range(100)]
CACHED = 96
"""All full pages of it."""


def compute_units(prompt_tokens: int, cached: int, max_tokens: int) -> int:
    """Return what a session that begins at `cached` costs at one hop."""
    units = (max_tokens - 1) * DECODE_UNITS
    for start in range(cached, prompt_tokens, 128):
        units += compute_prefill_units(min(128, prompt_tokens - start))
    return units


async def ask(world, prompt, max_tokens=8):
    """Run a session that must be right; return positions that it did not compute."""
    session = world.session(prompt, max_tokens)
    events = await collect(session)
    assert [e.token_id for e in events] == world.expect(prompt, max_tokens)
    await world.rest()
    for hop in (*world.hops, *world.spares):
        assert not hop.faults
        for account in hop.payee.closed:
            attested = sum(r.price_units for r in account.receipts)
            assert attested == account.billed_units
    assert not world.faults
    return session.summary.cached_tokens


# Names


def test_a_name_stands_for_all_tokens_up_to_its_end() -> None:
    names = name_beginnings(SECRET, PROMPT)
    assert len(names) == len(PROMPT) // PAGE_TOKENS
    assert len(set(names)) == len(names)
    assert name_beginnings(SECRET, PROMPT[:40]) == names[:2]
    for changed in (0, 20, 47):
        tokens = [*PROMPT]
        tokens[changed] += 1
        others = name_beginnings(SECRET, tokens)
        same = [a == b for a, b in zip(names, others, strict=True)]
        assert same == [page < changed // PAGE_TOKENS for page in range(len(names))]


def test_names_and_scopes_are_the_secrets_own() -> None:
    other = derive_secret(SECRET, "salt")
    assert derive_secret(SECRET, "") == SECRET
    assert not set(name_beginnings(SECRET, PROMPT)) & set(
        name_beginnings(other, PROMPT)
    )
    hop = (b"k" * 32, b"p" * 32, 0, 4)
    scopes = {
        name_scope(secret, before)
        for secret in (SECRET, other)
        for before in ([], [hop], [hop, hop], [(b"k" * 32, b"p" * 32, 0, 5)])
    }
    assert len(scopes) == 8
    assert name_beginnings(b"", PROMPT) == ()


def test_names_are_bounded() -> None:
    tokens = [1] * (MAX_PREFIX_KEYS + 3) * PAGE_TOKENS
    names = name_beginnings(SECRET, tokens)
    assert len(names) == MAX_PREFIX_KEYS
    finish = Finish(bytes(32), 0, 0, None, None, names)
    assert decode(Finish, encode(finish)) == finish
    for wrong in ((*names, bytes(32)), (bytes(31),), (bytes(33),)):
        with pytest.raises(DecodeError):
            decode(Finish, encode(msgspec.structs.replace(finish, prefix=wrong)))


def test_a_hops_keys_are_of_one_client_one_signer_one_place_and_one_scope() -> None:
    seen: list[tuple[bytes, ...]] = []

    async def main():
        async with open_world(2) as world:
            plan = world.plan(PROMPT, 4)
            terms = Route(plan, world.signer.public_key).hops[0].terms
            other = build_key("other").public_key
            changes = [
                {},
                {"client": other},
                {"signer": other},
                {"profile": other},
                {"end": terms.end + 1},
            ]
            for change in changes:
                changed = msgspec.structs.replace(terms, **change)
                seen.append(HopPrefix(changed, SECRET).derive_keys([bytes(32)]))
            seen.append(HopPrefix(terms, bytes(32)).derive_keys([bytes(32)]))
            again = msgspec.structs.replace(terms, session=other, attempt=3)
            assert HopPrefix(again, SECRET).derive_keys([bytes(32)]) == seen[0]

    run(main)
    assert len(set(seen)) == 6


# Sessions


def test_an_equal_prompt_is_computed_from_its_last_page_on() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            world.prefix_secret = SECRET
            assert await ask(world, PROMPT) == 0
            paid = world.get_sent()
            first = compute_units(len(PROMPT), 0, 8) * UNIT_PRICE
            assert paid == [first] * 3
            forwards = [hop.stage.forwards for hop in world.hops]
            assert await ask(world, PROMPT) == CACHED
            second = compute_units(len(PROMPT), CACHED, 8) * UNIT_PRICE
            assert world.get_sent() == [first + second] * 3
            assert [hop.stage.forwards for hop in world.hops] == [
                2 * each for each in forwards
            ]
            # Another end, and a prompt of whole pages, of which the last is computed.
            assert await ask(world, [*PROMPT[:50], *range(60)]) == 48
            assert await ask(world, PROMPT[:64]) == 48
            assert await ask(world, [5, *PROMPT]) == 0

    run(main)


@pytest.mark.parametrize("prompt_tokens", [3, 100, 260])
def test_the_next_turn_of_a_conversation_begins_behind_the_last_answer(
    prompt_tokens: int,
) -> None:
    async def main():
        async with open_world(2, spares=range(2)) as world:
            world.prefix_secret = SECRET
            history = [(5 * i + 1) % 97 for i in range(prompt_tokens)]
            expected = 0
            for _ in range(3):
                assert await ask(world, history, 30) == expected
                history = [*history, *world.expect(history, 30), 4, 5, 6]
                # The last token of an answer was chosen and never computed.
                expected = (len(history) - 4) // PAGE_TOKENS * PAGE_TOKENS

    run(main)


@pytest.mark.parametrize("seed", range(4))
def test_a_turn_with_wrong_guesses_leaves_nothing_wrong_behind(seed: int) -> None:
    async def main():
        luck = Random(seed)
        async with open_world(2, spares=range(2)) as world:
            world.prefix_secret = SECRET
            history, cached = [(5 * i + seed) % 97 for i in range(40)], 0
            for _ in range(4):
                tokens = luck.randrange(14, 40)
                expected = world.expect(history, tokens)

                def guess(said, wanted, right=expected):
                    # Right up to some place, as a repeated passage is, then not.
                    found = right[said : said + wanted]
                    keep = luck.randrange(len(found) + 1)
                    wrong = [(each + 1) % 97 for each in found[keep:]]
                    return [*found[:keep], *wrong]

                world.worker.guess = guess
                session = world.session(history, tokens, speculation=Speculation.NGRAM)
                events = await collect(session)
                assert [e.token_id for e in events] == expected
                assert session.summary.cached_tokens == cached
                assert session.summary.guesses > session.summary.right_guesses
                await world.rest()
                history = [*history, *expected, luck.randrange(97)]
                cached = (len(history) - 2) // PAGE_TOKENS * PAGE_TOKENS

    run(main)


def test_without_a_secret_nothing_is_shared() -> None:
    async def main():
        async with open_world(2, spares=range(2)) as world:
            assert await ask(world, PROMPT) == 0
            assert await ask(world, PROMPT) == 0
            assert not any(hop.stage.pages for hop in world.hops)
            world.prefix_secret = SECRET
            assert await ask(world, PROMPT) == 0
            world.prefix_secret = derive_secret(SECRET, "somebody else")
            assert await ask(world, PROMPT) == 0

    run(main)


def test_a_session_begins_where_the_hop_that_has_least_can() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            world.prefix_secret = SECRET
            assert await ask(world, PROMPT) == 0
            # One forgets its last pages, of which the other two have more.
            pages = world.hops[1].stage.pages
            for key in list(pages)[2:]:
                del pages[key]
            assert await ask(world, PROMPT) == 32
            assert await ask(world, PROMPT) == CACHED
            pages.clear()
            assert await ask(world, PROMPT) == 0
            # Outputs that are not there any more count like pages.
            kept = world.hops[2].service._budget.pages
            while kept.evict():
                continue
            assert await ask(world, PROMPT) == 0

    run(main)


def test_what_came_behind_another_hop_is_not_used() -> None:
    async def main():
        async with open_world(3, spares=range(3)) as world:
            world.prefix_secret = SECRET
            assert await ask(world, PROMPT) == 0
            # Another first hop: the second one's pages came through the old one.
            world.hops[0], world.spares[0] = world.spares[0], world.hops[0]
            assert await ask(world, PROMPT) == 0
            assert await ask(world, PROMPT) == CACHED
            world.hops[0], world.spares[0] = world.spares[0], world.hops[0]
            assert await ask(world, PROMPT) == CACHED

    run(main)


def test_another_clients_session_with_the_same_names_finds_nothing() -> None:
    async def main():
        async with open_world(2, spares=range(2)) as world:
            world.prefix_secret = SECRET
            assert await ask(world, PROMPT) == 0
            # Whoever has overheard names and scope still signs as somebody else.
            world.signer = build_key("thief")
            world.purse = PayerBook(MemoryStore(), world.signer)
            world.payer = SharedPayer(world.purse)
            for hop in world.hops:
                world.open_channel(hop)
            assert await ask(world, PROMPT) == 0

    run(main)


class Liar(HopNode):
    """Says that it has kept what it cannot have."""

    cached = 0

    def tamper(self, message, body):
        if isinstance(message, Accept):
            message = msgspec.structs.replace(message, cached=self.cached)
        return message, body


@pytest.mark.parametrize("cached", [1, 17, 100, 112, 2**32 - 16])
@pytest.mark.parametrize("secret", [b"", SECRET])
def test_a_hop_that_has_kept_what_nobody_named_is_refused(
    cached: int, secret: bytes
) -> None:
    async def main():
        kind = type("Liar", (Liar,), {"cached": cached})
        async with open_world(2, villains={1: kind}) as world:
            world.prefix_secret = secret
            with pytest.raises(HopRefused) as caught:
                await collect(world.session(PROMPT, 4))
            assert caught.value.code == RefuseCode.INVALID

    run(main)


# Losses


class Mortal(HopNode):
    """Dies when it would answer the step at one position, once it may."""

    dies_at = -1

    def tamper(self, message, body):
        if isinstance(message, Data) and message.position == self.dies_at:
            self.dies_at = -1
            self.kill()
            return None
        return message, body


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("dies_at", [96, 100, 104])
@pytest.mark.parametrize("knows", [False, True])
def test_a_hop_lost_behind_a_kept_beginning_is_replaced_alone(
    index: int, dies_at: int, knows: bool
) -> None:
    async def main():
        async with open_world(3, {index: Mortal}, spares=range(3)) as world:
            world.prefix_secret = SECRET
            if knows:
                # The replacement has the beginning from a session of its own.
                world.hops[index], world.spares[index] = (
                    world.spares[index],
                    world.hops[index],
                )
                await ask(world, PROMPT)
                world.hops[index], world.spares[index] = (
                    world.spares[index],
                    world.hops[index],
                )
            await ask(world, PROMPT)
            world.hops[index].dies_at = dies_at
            session = world.session(PROMPT, 8)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 8)
            assert session.summary.recoveries == 1
            assert session.summary.cached_tokens == CACHED
            replaced = session.summary.hops[index]
            # Only the lost hop: those before it had kept what they did not compute.
            peers = [hop.plan.peer_id for hop in session.summary.hops]
            nodes = [*world.hops]
            nodes[index] = world.spares[index]
            assert peers[:3] == [node.key.public_key for node in nodes]
            assert len(peers) == 4
            start = CACHED if knows else 0
            base = max(len(PROMPT), dies_at)
            expected = sum(
                compute_prefill_units(min(128, dies_at - first))
                for first in range(start, dies_at, 128)
            )
            if dies_at < base:
                expected += compute_prefill_units(base - dies_at)
            expected += (len(PROMPT) + 7 - base) * DECODE_UNITS
            assert replaced.units == expected
            await world.rest()

    run(main)


def test_a_mended_session_keeps_nothing_under_names_of_another_route() -> None:
    async def main():
        async with open_world(2, {0: Mortal}, spares=range(2)) as world:
            world.prefix_secret = SECRET
            world.hops[0].dies_at = 128
            prompt = [(3 * i + 2) % 97 for i in range(200)]
            session = world.session(prompt, 40)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(prompt, 40)
            assert session.summary.recoveries == 1
            await world.rest()
            # The first step's pages came before the loss, and no others are kept.
            assert len(world.hops[1].stage.pages) == 128 // PAGE_TOKENS
            assert len(world.hops[1].service._budget.pages) == 128 // PAGE_TOKENS

    run(main)


def test_nothing_is_kept_behind_a_hop_that_came_later() -> None:
    async def main():
        async with open_world(3) as world:
            world.prefix_secret = SECRET
            plan = world.plan(PROMPT, 4)
            route = Route(plan, world.signer.public_key)
            assert all(effect.keeps for effect in route.open(route.hops))
            route.replace(1, 1, plan.hops[1:2])
            assert [effect.keeps for effect in route.open(route.hops)] == [True]
            # What the last one gets may still have come through the lost one.
            route.replace(2, 2, plan.hops[2:])
            assert [effect.keeps for effect in route.open(route.hops)] == [False]

    run(main)


def test_a_scope_is_of_one_codec() -> None:
    async def main():
        async with open_world(2) as world:
            world.prefix_secret = SECRET
            exact = world.plan(PROMPT, 4)
            scopes = set()
            for plan in (exact, replace(exact, codec=Codec.INT8)):
                route = Route(plan, world.signer.public_key)
                scopes |= {effect.scope for effect in route.open(route.hops)}
            assert len(scopes) == 4

    run(main)


@pytest.mark.parametrize("seed", range(6))
def test_conversations_with_losses_stay_what_they_are(seed: int) -> None:
    async def main():
        luck = Random(seed)
        async with open_world(3, {1: Mortal}, spares=range(3)) as world:
            world.prefix_secret, world.jitter = SECRET, Random(seed)
            history = [luck.randrange(97) for _ in range(luck.choice([5, 120, 250]))]
            for turn in range(3):
                if turn == 1:
                    first = len(history) - len(history) % PAGE_TOKENS
                    world.hops[1].dies_at = luck.randrange(first, len(history) + 6)
                expected = world.expect(history, 20)
                for _ in range(2):
                    events = await collect(world.session(history, 20))
                    assert [e.token_id for e in events] == expected
                    if not world.hops[1].is_alive:
                        world.hops[1] = world.spares[1]
                history = [*history, *expected, luck.randrange(97)]

    run(main)


# Outputs


def test_kept_pages_give_way_to_sessions_and_are_found_from_the_beginning() -> None:
    budget = OutputBudget(12 * PAGE_TOKENS)
    outputs = KeptOutputs(budget, token_bytes=1)
    outputs.put(0, bytes(range(5 * PAGE_TOKENS)))
    keys = [bytes([n]) * 32 for n in range(5)]
    outputs.keep_pages(0, keys)
    # A quarter is for pages; the last ones came first.
    assert len(budget.pages) == 3
    outputs.drop()
    assert [page[0] for page in budget.pages.find(keys)] == [0, 16, 32]
    other = KeptOutputs(budget, token_bytes=1)
    other.put(0, bytes(11 * PAGE_TOKENS))
    assert [page[0] for page in budget.pages.find(keys)] == [0]
    other.put(11 * PAGE_TOKENS, bytes(PAGE_TOKENS))
    assert budget.pages.find(keys) == []
    assert budget.free == 0
    other.put(12 * PAGE_TOKENS, b"x")
    assert other.get(0, 1) is None
    assert budget.free == 12 * PAGE_TOKENS


def test_pages_that_were_asked_for_outlive_those_that_were_not() -> None:
    budget = OutputBudget(16)
    for name in (b"a", b"b", b"c", b"d"):
        budget.pages.put(name, name)
    budget.pages.find([b"a", b"x"])
    budget.pages.put(b"b", b"b")
    assert budget.take(14)
    assert [len(budget.pages.find([name])) for name in (b"a", b"b", b"c", b"d")] == [
        1, 1, 0, 0,
    ]  # fmt: skip
    assert not budget.take(3)
    assert len(budget.pages) == 0
