"""The hop's state machine alone: every event in every phase, and its invariants."""

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.records.proof import verify_receipt
from inference.hop.channel_account import EMPTY_STANDING, ChannelAccount, Standing
from inference.hop.events import (
    AbortArrived,
    Blame,
    Compute,
    Computed,
    ComputeFailed,
    DataArrived,
    End,
    Expired,
    FetchArrived,
    FinishArrived,
    GivingUp,
    KeepReceipt,
    LeavingSoon,
    Lost,
    PayArrived,
    PoolChanged,
    ProbeArrived,
    Reach,
    Reached,
    Release,
    RelinkArrived,
    SaveStanding,
    Send,
    Side,
    Violated,
)
from inference.hop.hop import HopSession
from inference.hop.kept_outputs import OutputBudget
from inference.hop.life import Phase
from inference.hop.ports import HopLimits
from inference.hop.route import HopRoute
from inference.protocol.activations import Dtype, compute_digest
from inference.protocol.codes import AbortCode, Activity
from inference.protocol.messages import (
    VERSION,
    Abort,
    Data,
    Fetch,
    Finish,
    Leaving,
    Linked,
    Note,
    Probe,
    Relink,
    SessionTerms,
    Unlinked,
    compute_relink_message,
)
from inference.protocol.receipts import Range, sign_input
from inference.protocol.terms import get_schedule
from primitives.keys import SecretKey

HIDDEN = 4
PROMPT = 5
KEY = SecretKey(b"\1" * 32)
SIGNER = SecretKey(b"\2" * 32)
REQUESTER = b"\3" * 32
NEXT = b"\4" * 32
SESSION = b"\5" * 32
CHAIN = b"\6" * 32
PREFILL_PRICE = 5 * 2 * 3 // 5
DECODE_PRICE = 2 * 10 // 5

TERMS = SessionTerms(
    version=VERSION,
    chain_id=CHAIN,
    session=SESSION,
    attempt=1,
    provider=KEY.public_key,
    profile=b"\7" * 32,
    start=0,
    end=2,
    client=b"\x08" * 32,
    signer=SIGNER.public_key,
    channel_id=b"\x09" * 32,
    unit_price=5,
    input_price=3,
    output_price=10,
    prompt_tokens=PROMPT,
    max_positions=40,
    hidden_size=HIDDEN,
    dtype=Dtype.FLOAT32,
    previous=None,
    next=NEXT,
)


@dataclass
class Bench:
    """One session under test, with a client that knows the rules."""

    prepaid_steps: int = 0
    terms: SessionTerms = TERMS
    now_us: int = 0
    work: Range = field(default_factory=Range)
    attempt: int = 1
    cached: int = 0
    rolls_back: bool = True

    def __post_init__(self):
        self.account = ChannelAccount.load(self.terms.channel_id, EMPTY_STANDING, 0)
        self.account.sessions = 1
        self.schedule = get_schedule(
            self.terms, cached=self.cached, rolls_back=self.rolls_back
        )
        self.session = HopSession(
            route=HopRoute(self.terms, self.schedule, REQUESTER),
            account=self.account,
            prepaid_steps=self.prepaid_steps,
            sign=KEY.sign,
            get_expiry=lambda: 99,
            limits=HopLimits(),
            now_us=0,
        )

    def handle(self, event, wait_us=10):
        self.now_us += wait_us
        return self.session.handle(event, self.now_us)

    def build_data(self, **changes):
        """Return the next step as an honest requester sends it, or not quite."""
        step = self.schedule.propose(changes.pop("at", None), changes.pop("count", 1))
        value = changes.pop("value", step.number)
        self.next_step = step
        body = np.full((step.tokens, HIDDEN), value, np.float32).tobytes()
        self.next_work = self.work.add(step, 0, compute_digest(body), b"")
        said = None
        if step.closes_range:
            said = self.sign(self.next_work)
        data = Data(
            session=SESSION,
            attempt=self.attempt,
            step=step.number,
            position=step.position,
            tokens=step.tokens,
            hidden_size=HIDDEN,
            dtype=1,
            timings=(),
            signed_input=said,
            receipt=None,
        )
        side = changes.pop("side", Side.REQUESTER)
        body = changes.pop("body", body)
        return DataArrived(msgspec.structs.replace(data, **changes), body, side)

    def sign(self, work):
        return sign_input(CHAIN, SESSION, work, SIGNER.public_key, SIGNER.sign)

    def pay(self, units):
        self.account.credit(units)
        return self.handle(PayArrived(units))

    def answer(self):
        """Deliver the step that is being computed."""
        step = self.next_step
        body = np.full((step.tokens, HIDDEN), 0.5, np.float32).tobytes()
        effects = self.handle(Computed(body, 1000))
        self.work = Range() if step.closes_range else self.next_work
        self.schedule = self.schedule.advance(step)
        return effects

    def finish(self):
        said = self.sign(self.work) if self.work.tokens else None
        finish = Finish(SESSION, self.attempt, self.schedule.number, said, None)
        return FinishArrived(finish, Side.REQUESTER)

    def relink(self, position, **changes):
        """Change the route as an honest requester does, or not quite."""
        signature = changes.pop("signature", None)
        again = changes.pop("comes_again", True)
        terms = {
            "attempt": self.attempt + 1,
            "prompt_tokens": max(PROMPT, position),
        } | changes
        terms = msgspec.structs.replace(self.session.terms, **terms)
        if signature is None:
            signed = compute_relink_message(terms, position, comes_again=again)
            signature = SIGNER.sign(signed)
        if terms.attempt > self.attempt and signature != bytes(64):
            self.attempt, self.work = terms.attempt, Range()
            self.schedule = self.schedule.resume(terms.prompt_tokens, position)
        return self.handle(RelinkArrived(Relink(terms, position, again, signature)))

    def run_steps(self, count):
        """Make steps, each paid when the next one begins."""
        for _ in range(count):
            assert kinds(self.handle(self.build_data())) == [Compute]
            self.answer()
            self.pay(PREFILL_PRICE if self.next_step.is_prefill else DECODE_PRICE)
        return self


def kinds(effects):
    return [type(effect) for effect in effects]


def get_abort(effects):
    """Return the Abort that the requester is sent."""
    return next(
        effect.message
        for effect in effects
        if isinstance(effect, Send)
        and effect.side is Side.REQUESTER
        and isinstance(effect.message, Abort)
    )


def test_a_step_in_order():
    bench = Bench()
    (compute,) = bench.handle(bench.build_data())
    assert (compute.position, compute.tokens) == (0, PROMPT)
    effects = bench.answer()
    assert kinds(effects) == [SaveStanding, Send, Send, KeepReceipt]
    assert effects[1].side is Side.NEXT
    assert isinstance(effects[2].message, Note)
    receipt = effects[3].receipt
    assert effects[1].message.receipt == receipt
    assert verify_receipt(receipt)
    assert receipt.price_units == PREFILL_PRICE
    (timing,) = effects[1].message.timings
    assert (timing.queue_us, timing.compute_us) == (0, 1000)


def test_step_waits_for_the_payment_of_the_one_before():
    bench = Bench()
    bench.handle(bench.build_data())
    bench.answer()
    assert bench.handle(bench.build_data(), wait_us=5) == []
    assert bench.session.phase is Phase.HELD
    assert bench.pay(PREFILL_PRICE - 1) == []
    (compute,) = bench.pay(1)
    assert compute == Compute(PROMPT, 1, compute.body)
    timing = bench.answer()[1].message.timings[0]
    assert timing.queue_us == 20


def test_payment_before_the_data_is_as_good():
    bench = Bench()
    bench.handle(bench.build_data())
    bench.answer()
    assert bench.pay(PREFILL_PRICE) == []
    assert kinds(bench.handle(bench.build_data())) == [Compute]


def test_units_of_another_session_are_not_taken():
    bench = Bench()
    bench.handle(bench.build_data())
    bench.answer()
    bench.handle(bench.build_data())
    bench.account.credit(100)
    assert bench.handle(PoolChanged()) == []
    assert bench.account.free == 100
    assert kinds(bench.handle(PayArrived(PREFILL_PRICE))) == [Compute]
    assert bench.account.free == 100 - PREFILL_PRICE


def test_promise_without_money_waits_for_it():
    bench = Bench()
    bench.handle(bench.build_data())
    bench.answer()
    bench.handle(bench.build_data())
    assert bench.handle(PayArrived(PREFILL_PRICE)) == []
    bench.account.credit(PREFILL_PRICE)
    assert kinds(bench.handle(PoolChanged())) == [Compute]


def test_paying_ahead():
    bench = Bench(prepaid_steps=2)
    assert bench.handle(bench.build_data()) == []
    assert kinds(bench.pay(PREFILL_PRICE)) == [Compute]
    bench.answer()
    assert bench.handle(bench.build_data()) == []
    assert kinds(bench.pay(DECODE_PRICE)) == [Compute]
    bench.answer()
    # The third step is trusted.
    assert kinds(bench.handle(bench.build_data())) == [Compute]


WRONG = {
    "gap": {"step": 1},
    "attempt": {"attempt": 2},
    "position": {"position": 1},
    "tokens": {"tokens": 4},
    "hidden size": {"hidden_size": 5},
    "dtype": {"dtype": 2},
    "short": {"body": bytes(PROMPT * HIDDEN * 4 - 1)},
    "long": {"body": bytes(PROMPT * HIDDEN * 4 + 1)},
    "infinite": {"body": b"\0\0\x80\x7f" * PROMPT * HIDDEN},
    "NaN": {"body": b"\1\0\x80\xff" * PROMPT * HIDDEN},
    "other bytes": {"body": bytes(PROMPT * HIDDEN * 4 - 4) + b"\0\0\0\1"},
    "no signed input": {"signed_input": None},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_ends_the_session(name):
    bench = Bench()
    effects = bench.handle(bench.build_data(**WRONG[name]))
    assert isinstance(effects[0], Blame)
    assert effects[0].peer_id == get_abort(effects).culprit == REQUESTER
    sends = [effect.side for effect in effects if isinstance(effect, Send)]
    assert sends == [Side.REQUESTER]
    assert kinds(effects)[-3:] == [SaveStanding, Release, End]
    assert bench.session.phase is Phase.ENDED
    assert bench.handle(bench.build_data()) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_neighbour_that_does_wrong_is_the_requesters_affair(name):
    before = b"\x0a" * 32
    bench = Bench(terms=msgspec.structs.replace(TERMS, previous=before))
    event = bench.build_data(side=Side.PREVIOUS, **WRONG[name])
    blame, sent = bench.handle(event)
    assert (type(blame), blame.peer_id) == (Blame, before)
    said = sent.message
    assert (sent.side, type(said), said.peer) == (Side.REQUESTER, Unlinked, before)
    is_receipt = name in ("other bytes", "no signed input")
    assert said.code == (AbortCode.BAD_RECEIPT if is_receipt else AbortCode.BAD_DATA)
    assert said.text == blame.text
    # It is heard no more, until the route has changed.
    assert bench.handle(event) == []
    wrong = Violated(Side.PREVIOUS, AbortCode.PROTOCOL, "nonsense")
    assert bench.handle(wrong) == []
    assert bench.session.phase is Phase.WAITING
    bench.relink(0, previous=None)
    assert kinds(bench.handle(bench.build_data())) == [Compute]


@pytest.mark.parametrize("phase", ["waiting", "computing"])
def test_an_answerer_that_sends_data_is_the_requesters_affair(phase):
    bench = Bench()
    if phase == "computing":
        bench.handle(bench.build_data())
    effects = bench.handle(bench.build_data(side=Side.NEXT))
    assert kinds(effects) == [Blame, Send]
    assert effects[1].message.peer == effects[0].peer_id == NEXT
    assert effects[1].message.code == AbortCode.PROTOCOL
    if phase == "computing":
        # What the requester has sent is as good as before.
        assert kinds(bench.answer())[:2] == [SaveStanding, Send]


@pytest.mark.parametrize("changes", [{"attempt": 0}, {"step": 0}, {"step": 1}])
def test_stale_data_is_ignored(changes):
    bench = Bench().run_steps(2)
    assert bench.handle(bench.build_data(**changes)) == []
    assert kinds(bench.handle(bench.build_data())) == [Compute]
    # The same step again, while it is computed.
    assert bench.handle(bench.build_data()) == []


def test_two_steps_at_once_are_against_the_rules():
    bench = Bench()
    bench.handle(bench.build_data())
    bench.schedule = bench.schedule.advance(bench.next_step)
    effects = bench.handle(bench.build_data())
    assert get_abort(effects).code == AbortCode.PROTOCOL


def test_positions_end_where_the_terms_say():
    bench = Bench().run_steps(36)
    effects = bench.handle(bench.build_data())
    assert "last position" in get_abort(effects).text


def test_a_text_comes_again_as_it_was_or_is_paid_twice():
    text = msgspec.structs.replace(TERMS, max_positions=PROMPT)
    bench = Bench(prepaid_steps=1, terms=text)
    bench.pay(PREFILL_PRICE)
    bench.handle(bench.build_data())
    body = bench.answer()[1].body
    # Whoever may have its embedding gets the same one again, and no other text.
    bench.relink(0, prompt_tokens=PROMPT)
    effects = bench.handle(bench.build_data())
    assert effects[1].body == body
    bench.relink(0, prompt_tokens=PROMPT)
    effects = bench.handle(bench.build_data(value=99))
    assert get_abort(effects).code == AbortCode.BAD_DATA
    account = effects[-1].account
    assert account.billed_units == account.claimed_units == PREFILL_PRICE
    assert (bench.account.free, bench.account.arrears) == (0, 0)


def test_own_nonsense_is_our_own_fault():
    for body in (b"", np.full((PROMPT, HIDDEN), np.nan, np.float32).tobytes()):
        bench = Bench()
        bench.handle(bench.build_data())
        effects = bench.handle(Computed(body, 1))
        assert get_abort(effects).culprit == KEY.public_key
        assert not any(isinstance(effect, Blame) for effect in effects)
        assert effects[-1].account.billed_units == 0


def test_finish_in_the_middle_of_a_range():
    bench = Bench().run_steps(4)
    effects = bench.handle(bench.finish())
    assert kinds(effects) == [SaveStanding, Send, Send, Release, KeepReceipt]
    receipt = effects[-1].receipt
    assert (receipt.first_position, receipt.tokens) == (PROMPT, 3)
    assert isinstance(effects[1].message, Note)
    assert effects[2].side is Side.NEXT
    assert effects[2].message.receipt == receipt
    effects = bench.handle(Lost(Side.REQUESTER))
    assert kinds(effects) == [SaveStanding, End]
    account = effects[-1].account
    assert account.code == 0
    assert (account.tokens_in, account.tokens_out) == (PROMPT, 3)
    assert account.billed_units == PREFILL_PRICE + 3 * DECODE_PRICE
    assert account.claimed_units == account.billed_units
    assert bench.account.standing.paid_steps == 4


def test_finish_where_a_range_has_just_closed():
    bench = Bench().run_steps(17)
    effects = bench.handle(bench.finish())
    assert kinds(effects) == [Send, Release]


@pytest.mark.parametrize("wrong", ["count", "receipt", "phase", "side"])
def test_wrong_finish(wrong):
    bench = Bench().run_steps(3)
    event = bench.finish()
    if wrong == "count":
        finish = msgspec.structs.replace(event.finish, steps=2)
        event = FinishArrived(finish, Side.REQUESTER)
    elif wrong == "receipt":
        finish = msgspec.structs.replace(event.finish, signed_input=None)
        event = FinishArrived(finish, Side.REQUESTER)
    elif wrong == "phase":
        bench.handle(bench.build_data())
    else:
        event = FinishArrived(event.finish, Side.NEXT)
    effects = bench.handle(event)
    assert isinstance(effects[0], Blame)
    ends = wrong != "side"
    assert (bench.session.phase is Phase.ENDED) is ends


def test_a_session_that_is_cut_off_attests_what_it_delivered():
    bench = Bench().run_steps(4)
    effects = bench.handle(Lost(Side.REQUESTER))
    account = effects[-1].account
    assert sum(r.price_units for r in account.receipts) == account.billed_units
    assert account.receipts[-1].previous_hop == bytes(32)
    assert account.receipts[-1].tokens == 3
    assert account.code == AbortCode.PEER_LOST


def test_whoever_received_other_bytes_links_to_nobody():
    bench = Bench().run_steps(16)
    bench.work = Range()
    effects = bench.handle(bench.build_data())
    assert get_abort(effects).code == AbortCode.BAD_RECEIPT
    account = effects[-1].account
    # The closing step is neither computed nor signed for; the fifteen before it were
    # delivered and paid.
    assert [receipt.tokens for receipt in account.receipts] == [PROMPT, 15]
    assert account.receipts[-1].previous_hop == bytes(32)


def test_unpaid_step_becomes_arrears():
    bench = Bench()
    bench.handle(bench.build_data())
    bench.answer()
    effects = bench.handle(Lost(Side.REQUESTER))
    assert bench.account.arrears == PREFILL_PRICE
    assert effects[-1].account.claimed_units == 0
    assert bench.account.standing == Standing(PREFILL_PRICE, 0, 1, PREFILL_PRICE)


def test_change_goes_back_to_the_pool():
    bench = Bench(prepaid_steps=5)
    bench.pay(PREFILL_PRICE)
    bench.handle(bench.build_data())
    bench.handle(ComputeFailed(AbortCode.STAGE_LOST, "gone"))
    assert (bench.account.free, bench.account.arrears) == (PREFILL_PRICE, 0)


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda b: None, AbortCode.TIMEOUT),
        (lambda b: b.handle(b.build_data()), AbortCode.TIMEOUT),
        (lambda b: (b.handle(b.build_data()), b.answer(), b.handle(b.build_data())),
         AbortCode.UNPAID),
    ],
)  # fmt: skip
def test_deadlines(prepare, code):
    bench = Bench()
    prepare(bench)
    assert bench.session.deadline_us > bench.now_us
    assert get_abort(bench.handle(Expired())).code == code


def test_probe():
    bench = Bench()

    def ask(step):
        (send,) = bench.handle(ProbeArrived(Probe(SESSION, step)))
        return send.message.activity

    assert ask(0) == Activity.NO_DATA
    bench.handle(bench.build_data())
    assert ask(0) == Activity.COMPUTING
    bench.answer()
    assert (ask(0), ask(1)) == (Activity.DONE, Activity.NO_DATA)
    bench.handle(bench.build_data())
    assert ask(1) == Activity.NO_PAYMENT


def test_abort_of_the_requester_ends_the_session_and_no_other():
    bench = Bench().run_steps(2)
    abort = AbortArrived(Abort(SESSION, 3, "why", NEXT), Side.NEXT)
    (send,) = bench.handle(abort)
    assert send == Send(Side.REQUESTER, Unlinked(SESSION, 1, NEXT))
    assert kinds(bench.handle(bench.build_data())) == [Compute]
    bench.answer()
    abort = AbortArrived(Abort(SESSION, 3, "why", NEXT), Side.REQUESTER)
    effects = bench.handle(abort)
    assert not any(isinstance(effect, Send) for effect in effects)
    assert effects[-1].account.code == 3


# Another route


OTHER = b"\x0b" * 32


def test_a_new_neighbour_takes_a_lost_step_again_for_one_price():
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    body = bench.answer()[1].body
    position = PROMPT + 3
    assert bench.session.books.billed == PREFILL_PRICE + 4 * DECODE_PRICE
    effects = bench.relink(position, next=OTHER)
    assert kinds(effects) == [SaveStanding, Reach, KeepReceipt]
    receipt = effects[2].receipt
    assert (receipt.first_position, receipt.tokens) == (PROMPT, 3)
    assert receipt.previous_hop == bytes(32)
    assert effects[1] == Reach(2, OTHER)
    assert bench.account.standing.billed_units == PREFILL_PRICE + 3 * DECODE_PRICE
    (send,) = bench.handle(Reached(2, is_open=True))
    assert send.message == Linked(SESSION, 2, receipt)

    # The same input has the same answer, and nothing is computed.
    effects = bench.handle(bench.build_data(value=4))
    assert kinds(effects) == [SaveStanding, Send]
    assert effects[1].body == body
    assert (effects[1].message.attempt, effects[1].message.position) == (2, position)
    assert bench.session.books.billed == PREFILL_PRICE + 4 * DECODE_PRICE


def test_another_input_in_the_place_of_one_that_was_to_come_again():
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    bench.answer()
    bench.relink(PROMPT + 3)
    effects = bench.handle(bench.build_data(value=99))
    assert get_abort(effects).code == AbortCode.BAD_DATA
    account = effects[-1].account
    # What was computed is owed, and attested.
    assert account.billed_units == PREFILL_PRICE + 4 * DECODE_PRICE
    assert bench.account.arrears == DECODE_PRICE
    assert sum(r.price_units for r in account.receipts) == account.billed_units


def test_a_step_that_does_not_come_again_is_paid_and_attested():
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    bench.answer()
    bench.relink(PROMPT + 3, comes_again=False)
    # Another one in its place is computed when both are paid.
    effects = bench.handle(bench.build_data(value=99))
    assert kinds(effects) == [SaveStanding, Send, KeepReceipt]
    receipt = effects[1].message.receipt
    assert (receipt.first_position, receipt.tokens) == (PROMPT + 3, 1)
    assert receipt.price_units == DECODE_PRICE
    assert receipt.previous_hop == bytes(32)
    assert kinds(bench.pay(DECODE_PRICE)) == [Compute]
    bench.answer()
    assert bench.session.books.billed == PREFILL_PRICE + 5 * DECODE_PRICE


def test_a_step_that_need_not_come_again_as_it_was_is_paid_once_if_it_does():
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    body = bench.answer()[1].body
    bench.relink(PROMPT + 3)
    bench.relink(PROMPT + 3, comes_again=False)
    assert bench.session.books.billed == PREFILL_PRICE + 3 * DECODE_PRICE
    effects = bench.handle(bench.build_data(value=4))
    assert kinds(effects) == [SaveStanding, Send]
    assert effects[1].body == body
    assert bench.session.books.billed == PREFILL_PRICE + 4 * DECODE_PRICE


def test_who_leaves_while_we_compute_owes_the_step():
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    account = bench.handle(Lost(Side.REQUESTER))[-1].account
    assert account.billed_units == PREFILL_PRICE + 4 * DECODE_PRICE
    assert bench.account.arrears == DECODE_PRICE
    assert sum(r.price_units for r in account.receipts) == account.billed_units


def test_a_receipt_for_a_lost_step_is_withdrawn():
    bench = Bench().run_steps(16)
    bench.handle(bench.build_data())
    lost = bench.answer()[-1].receipt
    assert lost.tokens == 16
    effects = bench.relink(PROMPT + 15)
    (receipt,) = (e.receipt for e in effects if isinstance(e, KeepReceipt))
    assert receipt.tokens == 15
    assert receipt.previous_own == lost.previous_own
    account = bench.handle(Lost(Side.REQUESTER))[-1].account
    # It did not come again.
    assert [each.tokens for each in account.receipts] == [PROMPT, 15, 1]
    assert sum(each.price_units for each in account.receipts) == account.billed_units


def test_a_change_waits_for_the_computation_under_way():
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    assert bench.relink(PROMPT + 3) == []
    # Late data of the attempt that is over.
    assert bench.handle(bench.build_data(attempt=1)) == []
    effects = bench.handle(Computed(bytes(HIDDEN * 4), 1))
    assert kinds(effects) == [SaveStanding, Reach, KeepReceipt]
    # The answer was there already.
    effects = bench.handle(bench.build_data(value=4))
    assert kinds(effects) == [SaveStanding, Send]
    assert effects[1].body == bytes(HIDDEN * 4)


def test_the_receipt_comes_with_the_change_that_is_heard():
    bench = Bench().run_steps(4)
    receipt = bench.relink(PROMPT + 3)[-1].receipt
    assert kinds(bench.relink(PROMPT + 3, attempt=3)) == [SaveStanding, Reach]
    assert bench.handle(Reached(2, is_open=True)) == []
    (send,) = bench.handle(Reached(3, is_open=True))
    assert send.message == Linked(SESSION, 3, receipt)


def test_a_neighbour_out_of_reach_is_reported():
    bench = Bench().run_steps(4)
    bench.relink(PROMPT + 3, next=OTHER)
    (send,) = bench.handle(Reached(2, is_open=False))
    assert send.message == Unlinked(SESSION, 2, OTHER)


@pytest.mark.parametrize(
    ("position", "changes"),
    [
        (PROMPT - 1, {}),
        (PROMPT + 4, {}),
        (0, {}),
        (PROMPT + 3, {"next": KEY.public_key}),
        (PROMPT + 3, {"input_price": 0}),
        (PROMPT + 3, {"max_positions": 41}),
        (PROMPT + 3, {"session": bytes(32)}),
        # Decoding at the price of prompts.
        (PROMPT + 3, {"prompt_tokens": PROMPT + 9}),
        (PROMPT + 3, {"prompt_tokens": PROMPT}),
    ],
)
def test_changes_that_are_none(position, changes):
    bench = Bench().run_steps(4)
    bench.handle(bench.build_data())
    effects = bench.relink(position, **changes)
    assert get_abort(effects).code == AbortCode.PROTOCOL
    assert effects[0].peer_id == REQUESTER


def test_a_change_at_the_last_position_leaves_nothing_to_do():
    bench = Bench().run_steps(36)
    assert bench.schedule.end == TERMS.max_positions
    effects = bench.relink(TERMS.max_positions)
    assert get_abort(effects).code == AbortCode.PROTOCOL


def test_an_unsigned_or_old_change():
    bench = Bench().run_steps(4)
    assert bench.relink(PROMPT + 3, attempt=1) == []
    effects = bench.relink(PROMPT + 3, signature=bytes(64))
    assert get_abort(effects).code == AbortCode.PROTOCOL


def test_what_was_sent_on_is_kept_for_a_replacement():
    bench = Bench().run_steps(4)
    half = np.full(HIDDEN, 0.5, np.float32).tobytes()

    def fetch(position, tokens):
        (send,) = bench.handle(FetchArrived(Fetch(SESSION, position, tokens)))
        assert send.message.position == position
        return send.message.tokens, send.body

    assert fetch(0, PROMPT) == (PROMPT, half * PROMPT)
    assert fetch(PROMPT - 1, 4) == (4, half * 4)
    assert fetch(PROMPT, 4) == fetch(900, 1) == fetch(0, 65_535) == (0, b"")
    # The bound is shared: what does not fit is not kept at all.
    full = bench.session.budget.free
    bench.session.budget.free = 0
    bench.run_steps(1)
    assert fetch(0, PROMPT) == (0, b"")
    bench.handle(Lost(Side.REQUESTER))
    assert bench.session.budget.free == (PROMPT + 3) * HIDDEN * 4
    assert full + bench.session.budget.free == OutputBudget().free


def test_whoever_stops_says_so_and_goes_on():
    bench = Bench().run_steps(4)
    (send,) = bench.handle(LeavingSoon())
    assert send.message == Leaving(SESSION)
    assert kinds(bench.handle(bench.build_data())) == [Compute]


# Guesses, and beginnings that are there already


GUESS_PRICE = (2 * 10 + 4 * 2 * 3 + 4) // 5


def test_wrong_guesses_are_dropped_and_paid():
    bench = Bench().run_steps(2)
    (compute,) = bench.handle(bench.build_data(count=5))
    assert (compute.position, compute.tokens) == (PROMPT + 1, 5)
    bench.answer()
    assert bench.pay(GUESS_PRICE) == []
    # Two of the five were right.
    (compute,) = bench.handle(bench.build_data(at=PROMPT + 3, count=2))
    assert (compute.position, compute.tokens) == (PROMPT + 3, 2)
    bench.answer()
    bench.pay(100)
    receipt = bench.handle(bench.finish())[-1].receipt
    assert (receipt.first_position, receipt.tokens) == (PROMPT, 8)
    account = bench.handle(Lost(Side.REQUESTER))[-1].account
    assert (account.tokens_in, account.tokens_out) == (PROMPT + 5, 3)
    assert account.billed_units == PREFILL_PRICE + DECODE_PRICE + GUESS_PRICE + 6


@pytest.mark.parametrize(
    ("at", "count"), [(PROMPT - 1, 1), (PROMPT + 7, 1), (PROMPT, 17), (PROMPT, 0)]
)
def test_steps_that_may_not_come(at, count):
    bench = Bench().run_steps(2)
    bench.handle(bench.build_data(count=5))
    bench.answer()
    bench.pay(GUESS_PRICE)
    effects = bench.handle(bench.build_data(at=at, count=count))
    assert get_abort(effects).code == AbortCode.BAD_DATA


def test_layers_that_cannot_forget_take_no_guesses_back():
    bench = Bench(rolls_back=False).run_steps(2)
    assert kinds(bench.handle(bench.build_data(count=2))) == [Compute]
    bench.answer()
    bench.pay(100)
    effects = bench.handle(bench.build_data(at=PROMPT + 2))
    assert get_abort(effects).code == AbortCode.BAD_DATA


@pytest.mark.parametrize("accepted", [1, 3, 5])
def test_a_change_after_guesses_keeps_what_was_right(accepted):
    bench = Bench().run_steps(2)
    bench.handle(bench.build_data(count=5))
    bench.answer()
    bench.pay(GUESS_PRICE)
    position = PROMPT + 1 + accepted
    bench.relink(position)
    # It arrived, so it stays billed.
    assert bench.session.books.billed == PREFILL_PRICE + DECODE_PRICE + GUESS_PRICE
    (compute,) = bench.handle(bench.build_data())
    assert compute.position == position
    bench.answer()
    position += 1
    (send,) = bench.handle(FetchArrived(Fetch(SESSION, 0, position)))
    assert len(send.body) == position * HIDDEN * 4


def test_a_change_takes_back_guesses_that_were_lost():
    bench = Bench().run_steps(2)
    bench.handle(bench.build_data(count=5))
    bench.answer()
    bench.relink(PROMPT + 1)
    assert bench.session.books.billed == PREFILL_PRICE + DECODE_PRICE
    # The same ones again cost nothing to compute; others do.
    effects = bench.handle(bench.build_data(value=2, count=5))
    assert kinds(effects) == [SaveStanding, Send]
    bench.relink(PROMPT + 1, attempt=3, comes_again=False)
    bench.handle(bench.build_data(value=2, count=4))
    assert kinds(bench.pay(GUESS_PRICE)) == [Compute]


def test_nothing_is_taken_back_when_another_step_has_come():
    bench = Bench().run_steps(2)
    bench.handle(bench.build_data(count=5))
    bench.answer()
    # At the same place: its answer was no use, but it was had.
    bench.pay(GUESS_PRICE)
    bench.handle(bench.build_data(at=PROMPT + 1, count=3))
    bench.relink(PROMPT + 1)
    bench.handle(Computed(bytes(3 * HIDDEN * 4), 1))
    assert bench.session.books.billed == PREFILL_PRICE + DECODE_PRICE + GUESS_PRICE


LONG = msgspec.structs.replace(TERMS, prompt_tokens=50, max_positions=90)


@pytest.mark.parametrize("start", [0, 16, 32])
def test_a_session_may_begin_where_pages_end(start):
    bench = Bench(terms=LONG, cached=32)
    (compute,) = bench.handle(bench.build_data(at=start))
    assert (compute.position, compute.tokens) == (start, 50 - start)
    effects = bench.answer()
    receipt = effects[-1].receipt
    assert (receipt.first_position, receipt.tokens) == (start, 50 - start)
    assert receipt.price_units == -(-(50 - start) * 2 * 3 // 5)
    for position, tokens in ((start, 1), (49, 1), (start - 1, 1), (start, 51 - start)):
        (send,) = bench.handle(FetchArrived(Fetch(SESSION, position, tokens)))
        is_kept = position >= start and position + tokens <= 50
        assert send.message.tokens == (tokens if is_kept else 0)


@pytest.mark.parametrize("start", [8, 33, 48, 64])
def test_a_session_begins_nowhere_else(start):
    bench = Bench(terms=LONG, cached=32)
    effects = bench.handle(bench.build_data(at=start))
    assert get_abort(effects).code == AbortCode.BAD_DATA


@pytest.mark.parametrize("is_computed", [True, False])
def test_a_first_step_behind_the_beginning_is_lost(is_computed):
    bench = Bench(terms=LONG, cached=32)
    if is_computed:
        bench.handle(bench.build_data(at=16))
        bench.answer()
    bench.relink(16, prompt_tokens=50)
    effects = bench.handle(bench.build_data(value=0))
    assert kinds(effects) == ([SaveStanding, Send, Send, KeepReceipt]
                              if is_computed else [Compute])  # fmt: skip


# Whatever happens


class Chaos:
    """Draws any event at any time and checks what must always hold."""

    def __init__(self, draw, prepaid_steps):
        self.draw = draw
        self.bench = Bench(prepaid_steps=prepaid_steps)
        self.is_computing = False
        self.releases = 0
        self.ended = None

    def play(self):
        bench = self.bench
        for _ in range(self.draw(st.integers(1, 60))):
            name = self.draw(st.sampled_from(NAMES))
            before = bench.session.phase
            self.check(before, self.make(name))

    def make(self, name):
        bench = self.bench
        match name:
            case "data":
                return bench.handle(bench.build_data(**self.draw_place()))
            case "odd data":
                wrong = self.draw(st.sampled_from(list(WRONG.values())))
                return bench.handle(bench.build_data(**wrong))
            case "pay":
                return bench.pay(self.draw(st.integers(1, 12)))
            case "promise":
                return bench.handle(PayArrived(self.draw(st.integers(1, 2**32 - 1))))
            case "computed":
                if bench.session.phase is Phase.COMPUTING:
                    return bench.answer()
                return bench.handle(Computed(b"", 1))
            case "finish":
                return bench.handle(bench.finish())
            case "relink":
                return self.relink()
            case _:
                return bench.handle(self.draw(OTHERS))

    def draw_place(self):
        """Return where the next step begins, and how many tokens it has."""
        schedule = self.bench.schedule
        if schedule.end <= schedule.prompt_tokens:
            return {}
        at = self.draw(st.integers(schedule.prompt_tokens, schedule.end))
        room = min(6, schedule.max_positions - at)
        return {"at": at, "count": self.draw(st.integers(1, max(1, room)))}

    def relink(self):
        """Go on before the last step, or after it."""
        bench, session = self.bench, self.bench.session
        undone = session._get_undone()
        places = [session.schedule.end]
        if undone is not None:
            places.append(undone.step.position)
        again = self.draw(st.booleans())
        return bench.relink(self.draw(st.sampled_from(places)), comes_again=again)

    def check(self, before, effects):
        bench, session = self.bench, self.bench.session
        account = bench.account
        assert before is not Phase.ENDED or effects == []
        assert 0 <= session.books.claimed <= account.claimed <= account.paid
        assert account.arrears >= 0
        for effect in effects:
            if isinstance(effect, Compute):
                # The interlock, in one line.
                assert session.books.claimed >= session.books.billed
                assert before is not Phase.COMPUTING
            self.releases += isinstance(effect, Release)
            if isinstance(effect, End):
                assert self.ended is None
                self.ended = effect.account
        assert self.releases <= 1
        if session.phase is Phase.ENDED:
            assert self.releases == 1
            assert self.ended is not None
            total = sum(r.price_units for r in self.ended.receipts)
            assert total == self.ended.billed_units
            assert account.standing.billed_units == session.books.billed
            owed = max(0, session.books.billed - session.books.claimed)
            assert account.arrears == owed
            assert owed <= max(PREFILL_PRICE, DECODE_PRICE + 6)


NAMES = ["data"] * 6 + ["pay"] * 6 + ["computed"] * 6 + [
    "odd data", "promise", "finish", "relink", "other",
]  # fmt: skip
OTHERS = st.one_of(
    st.builds(Lost, st.sampled_from([Side.REQUESTER, Side.NEXT])),
    st.builds(ComputeFailed, st.sampled_from(list(AbortCode)), st.text(max_size=300)),
    st.builds(
        AbortArrived,
        st.builds(Abort, st.just(SESSION), st.integers(0, 65535), st.text(), st.none()),
        st.sampled_from([Side.REQUESTER, Side.NEXT]),
    ),
    st.builds(
        Violated,
        st.sampled_from([Side.REQUESTER, Side.NEXT]),
        st.sampled_from(list(AbortCode)),
        st.text(max_size=300),
    ),
    st.builds(ProbeArrived, st.builds(Probe, st.just(SESSION), st.integers(0, 99))),
    st.just(PoolChanged()),
    st.just(Expired()),
    st.just(GivingUp()),
)


@settings(max_examples=200)
@given(st.data(), st.integers(0, 5))
def test_invariants_hold_whatever_happens(data, prepaid_steps):
    Chaos(data.draw, prepaid_steps).play()
