"""A hop dies in mid-answer, another has its layers: the reader notices nothing."""

import pytest
import trio
from session_world import (
    DECODE_UNITS,
    UNIT_PRICE,
    HopNode,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.messages import Data
from inference.session_plan import SessionTimeouts
from inference.steps import compute_step

PROMPT = [1, 2, 3]


class Mortal(HopNode):
    """Dies at one step, in one of several ways."""

    dies_at = -1
    way = "before"

    def tamper(self, message, body):
        if not isinstance(message, Data) or message.position != self.dies_at:
            return message, body
        self.dies_at = -1
        match self.way:
            case "before":
                # Computed and billed, and nobody gets it.
                self.kill()
                return None
            case "after":
                self.world.nursery.start_soon(self.die_soon)
            case "silent":
                # The machine has vanished: no stream ends.
                self.is_alive = False
                self.scope.cancel()
                return None
            case "stage":
                # The process that holds the layers dies; this answer still leaves.
                self.stage.is_dead = True
        return message, body

    async def die_soon(self):
        await trio.sleep(0)
        self.kill()


def compute_units(prompt_tokens, first, end):
    """Return what the steps of a session between two positions cost at one hop."""
    units = number = 0
    while (step := compute_step(prompt_tokens, number)).position < end:
        if step.position >= first:
            prefill = compute_prefill_units(step.tokens)
            units += prefill if step.is_prefill else DECODE_UNITS
        number += 1
    return units


def compute_replay_units(positions):
    """Return what a replacement is paid for positions that it computes anew."""
    full, rest = divmod(positions, 128)
    units = full * compute_prefill_units(128)
    return units + (compute_prefill_units(rest) if rest else 0)


def check_accounts(world):
    """Everybody signed for what it delivered, and no correct peer was blamed."""
    for hop in (*world.hops, *world.spares):
        assert not hop.faults
        for account in hop.payee.closed:
            attested = sum(r.price_units for r in account.receipts)
            assert attested == account.billed_units
    assert not world.faults


def check_payments(world, prompt_tokens, max_tokens, index, lost_position, early=()):
    """One hop was lost once: everybody is paid for what it did, to the atom."""
    end = prompt_tokens + max_tokens - 1
    whole = compute_units(prompt_tokens, 0, end)
    for hop in world.hops:
        sent = world.purse.get(hop.channel_id).paid_total // UNIT_PRICE
        if hop.index != index:
            assert sent == whole
            assert hop.payee.get_paid(hop.channel_id) == sent * UNIT_PRICE
            (account,) = hop.payee.closed
            assert account.billed_units == account.claimed_units == whole
        else:
            assert sent in {
                compute_units(prompt_tokens, 0, each)
                for each in (lost_position, *early)
            }
    (spare,) = (hop for hop in world.spares if hop.index == index)
    paid = spare.payee.get_paid(spare.channel_id) // UNIT_PRICE
    base = max(prompt_tokens, lost_position)
    expected = compute_replay_units(lost_position)
    expected += compute_units(base, lost_position, end)
    assert paid == expected
    assert world.purse.get(spare.channel_id).paid_total == paid * UNIT_PRICE
    for other in world.spares:
        if other is not spare:
            assert other.payee.get_paid(other.channel_id) == 0


@pytest.mark.parametrize("index", [0, 1, 3])
@pytest.mark.parametrize("way", ["before", "silent"])
@pytest.mark.parametrize(
    ("prompt_tokens", "dies_at"),
    [(3, 0), (3, 3), (3, 10), (3, 18), (3, 19), (3, 41), (300, 0), (300, 128),
     (300, 256), (300, 300), (128, 128), (200, 230)],
)  # fmt: skip
def test_a_lost_step_is_made_again_and_paid_once(index, way, prompt_tokens, dies_at):
    prompt = [(7 * i + 3) % 97 for i in range(prompt_tokens)]
    max_tokens = 40

    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": dies_at, "way": way})
        async with open_world(villains={index: kind}, spares=range(4)) as world:
            session = world.session(prompt, max_tokens)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(prompt, max_tokens)
            assert [e.position for e in events] == [
                prompt_tokens + i for i in range(max_tokens)
            ]
            await world.rest()
            check_accounts(world)
            check_payments(world, prompt_tokens, max_tokens, index, dies_at)
            summary = session.summary
            assert summary.recoveries == 1
            assert (len(summary.hops), summary.route_hops) == (5, 4)
            assert summary.hops[4].plan.node_name == f"hop{index}"
            assert all(hop.unpaid_units == 0 for hop in summary.hops[:4])
            timeouts = SessionTimeouts()
            longest_s = timeouts.probe_s + timeouts.silence_s if way == "silent" else 0
            assert summary.longest_gap_us <= (longest_s + 0.2) * 1_000_000

    run(test)
