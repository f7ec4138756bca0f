"""
One session at one provider: a state machine without streams, clocks or processes.

Theory of operation
-------------------
    Open accepted
        |
        v        data, paid up           computed: bill, sign, push on
     WAITING ------------------> COMPUTING -------------------------> WAITING
        |  \\ data, step t-1 unpaid    ^
        |   +-----------> HELD -------+ payment
        | Finish
        v
     FINISHED (memory freed; the last payment may still come) ---> ENDED
     and from everywhere: Abort, a lost peer, a deadline -----------> ENDED

The interlock (window 1): step t is computed only when everything up to step t-1 is
paid.  While the channel is young (`prepaid_steps`), step t itself must be paid.  So
the provider never risks more than one step, and billing comes before delivery: the
standing is saved before the answer leaves, so a crash cannot forget what is owed.

There is never more than one step here: the requester cannot have step t+1 before the
answer to step t went through us.  A second one while the first is held or computed is
a duplicate or a lie, and is ignored or ends the session.

`handle` takes events and returns effects; the order of effects matters.

Spec: docs/protocol/07-inference.md
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

from chain.contracts.proof import Receipt, compute_receipt_hash
from inference.activations import compute_digest, is_finite
from inference.channel_account import ChannelAccount
from inference.hop_checks import Held, check_data, check_predecessor
from inference.hop_events import (
    AbortArrived,
    Blame,
    Compute,
    Computed,
    ComputeFailed,
    DataArrived,
    Effect,
    End,
    Event,
    Expired,
    FinishArrived,
    GivingUp,
    KeepReceipt,
    Lost,
    PayArrived,
    PoolChanged,
    ProbeArrived,
    Release,
    SaveStanding,
    Send,
    Side,
    Violated,
)
from inference.hop_ports import HopLimits
from inference.messages import (
    Abort,
    AbortCode,
    Activity,
    Data,
    Finish,
    HopTiming,
    Note,
    Progress,
    SessionTerms,
    SignedInput,
    clip_text,
)
from inference.receipts import (
    Range,
    ReceiptTrail,
    Sign,
    compute_input_hash,
    sign_receipt,
)
from inference.session_account import SessionAccount
from inference.session_errors import BadMessage, ReceiptMismatch
from inference.steps import Prices, compute_step
from inference.terms import get_contribution, get_prices
from primitives.types import EMPTY_HASH

MAX_US = 2**32 - 1
"""What a 32-bit field of microseconds can say: 71 minutes."""


class Phase(Enum):
    """Where the session stands."""

    WAITING = auto()
    HELD = auto()
    COMPUTING = auto()
    FINISHED = auto()
    ENDED = auto()


@dataclass(slots=True, kw_only=True)
class HopSession:
    """A session at this hop.

    Args:
        terms: What both sides agreed on.
        account: The channel's pool, shared with other sessions of the channel.
        prepaid_steps: Steps at the beginning that are paid before they are computed.
        requester: Peer id at the other end of the requester's stream.
        sign: Signs with the node key, `terms.provider`.
        get_expiry: Height after which a receipt signed now is void.
        limits: How long it waits for what.
        now_us: Time of the acceptance, in the caller's monotonic microseconds.
    """

    terms: SessionTerms
    account: ChannelAccount
    prepaid_steps: int
    requester: bytes
    sign: Sign
    get_expiry: Callable[[], int]
    limits: HopLimits
    now_us: int
    phase: Phase = Phase.WAITING
    steps: int = 0
    """Steps computed and delivered."""
    billed: int = 0
    """Units that they cost."""
    claimed: int = 0
    """Units that were paid for this session."""
    deadline_us: int = field(init=False)
    _promised: int = 0
    _prices: Prices = field(init=False)
    _held: Held | None = None
    _work: Range = field(default_factory=Range)
    _trail: ReceiptTrail = field(default_factory=ReceiptTrail)
    _receipts: list[Receipt] = field(default_factory=list)
    _decode_us: list[int] = field(default_factory=list)
    _started_us: int = 0

    def __post_init__(self) -> None:
        self._prices = get_prices(self.terms)
        self._set_deadline(self.limits.idle_s)

    # Events

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Return what is to be done, in order, after `event` at `now_us`."""
        if self.phase is Phase.ENDED:
            return []
        self.now_us = now_us
        match event:
            case DataArrived():
                return self._on_data(event)
            case PayArrived(units):
                # A promise beyond what can be due now is of no use to anyone.
                limit = self.billed + self._get_next_price()
                self._promised = min(self._promised + units, limit)
                return self._on_pool()
            case PoolChanged():
                return self._on_pool()
            case Computed():
                return self._on_computed(event)
            case ComputeFailed(code, text):
                if self.phase is not Phase.COMPUTING:
                    return []
                return self._abort(code, text, self.terms.provider)
            case FinishArrived():
                return self._on_finish(event)
            case AbortArrived():
                return self._on_abort(event)
            case ProbeArrived(probe):
                return [Send(Side.REQUESTER, self._get_progress(probe.step))]
            case Violated(side, code, text):
                return self._refuse_input(code, text, side)
            case Lost(side):
                return self._on_lost(side)
            case Expired():
                return self._on_expired()
            case GivingUp(code, text):
                return self._abort(code, text, self.terms.provider)
            case _:
                assert_never(event)

    # Data and payment

    def _on_data(self, event: DataArrived) -> list[Effect]:
        data = event.data
        if event.side is not self._data_side:
            text = "data from a side that sends none"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        if data.attempt < self.terms.attempt or data.step < self.steps:
            return []
        if self._held is not None and data.step == self.steps:
            return []
        if self.phase is not Phase.WAITING:
            text = f"step {data.step} while {self.phase.name.lower()}"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        try:
            held = check_data(
                self.terms, self.steps, self._work, data, event.body, self.now_us
            )
        except BadMessage as error:
            return self._refuse_input(AbortCode.BAD_DATA, str(error), event.side)
        except ReceiptMismatch as error:
            return self._refuse_input(AbortCode.BAD_RECEIPT, str(error), event.side)
        self._held = held
        self.phase = Phase.HELD
        self._set_deadline(self.limits.payment_s)
        return self._on_pool()

    def _on_pool(self) -> list[Effect]:
        """Claim what was promised; compute when that is enough."""
        self.claimed += self.account.claim(self._promised - self.claimed)
        if self.phase is not Phase.HELD or self.claimed < self._get_required():
            return []
        assert self._held is not None
        self.phase = Phase.COMPUTING
        self._started_us = self.now_us
        self._set_deadline(self.limits.compute_s)
        step = self._held.step
        return [Compute(step.position, step.tokens, self._held.body)]

    def _get_required(self) -> int:
        """Return the units that must be paid before the held step is computed."""
        if self.steps < self.prepaid_steps:
            return self.billed + self._get_next_price()
        return self.billed

    def _get_next_price(self) -> int:
        step = compute_step(self.terms.prompt_tokens, self.steps)
        return self._prices.compute_units(step)

    # The answer

    def _on_computed(self, event: Computed) -> list[Effect]:
        if self.phase is not Phase.COMPUTING:
            return []
        assert self._held is not None
        held, step = self._held, self._held.step
        terms = self.terms
        if len(event.body) != len(held.body) or not is_finite(event.body, terms.dtype):
            text = "our own layers gave an answer of a wrong shape or not of numbers"
            return self._abort(AbortCode.INTERNAL, text, terms.provider)
        units = self._prices.compute_units(step)
        self._work = self._work.add(
            step, units, held.in_digest, compute_digest(event.body)
        )
        self.steps += 1
        self.billed += units
        self.account.bill(units)
        if not step.is_prefill:
            self._decode_us.append(min(event.compute_us, MAX_US))
        receipt = None
        if step.closes_range:
            receipt = self._sign_range(held.data.signed_input, held.data.receipt)
        self._held = None
        self.phase = Phase.WAITING
        self._set_deadline(self.limits.idle_s)
        timing = HopTiming(
            queue_us=min(self._started_us - held.arrived_us, MAX_US),
            compute_us=min(event.compute_us, MAX_US),
        )
        data = Data(
            session=terms.session,
            attempt=terms.attempt,
            step=step.number,
            position=step.position,
            tokens=step.tokens,
            hidden_size=terms.hidden_size,
            dtype=terms.dtype,
            timings=(*held.data.timings, timing),
            signed_input=None,
            receipt=receipt if terms.next is not None else None,
        )
        effects: list[Effect] = [
            SaveStanding(),
            Send(self._answer_side, data, event.body),
        ]
        if receipt is not None:
            effects += [Send(Side.REQUESTER, Note(receipt)), KeepReceipt(receipt)]
        return effects

    def _sign_range(self, said: SignedInput | None, receipt: Receipt | None) -> Receipt:
        """Sign for the open range and begin a new one."""
        terms = self.terms
        if said is not None:
            previous_hop = compute_input_hash(said)
        elif receipt is not None:
            previous_hop = compute_receipt_hash(receipt)
        else:
            previous_hop = EMPTY_HASH
        signed = sign_receipt(
            get_contribution(terms),
            self._trail,
            self._work,
            previous_hop=previous_hop,
            nonce=self.account.take_nonce(),
            expires_height=self.get_expiry(),
            sign=self.sign,
        )
        self._trail = self._trail.extend(signed)
        self._receipts.append(signed)
        self._work = Range()
        return signed

    # The end

    def _on_finish(self, event: FinishArrived) -> list[Effect]:
        finish = event.finish
        if event.side is not self._data_side:
            text = "Finish from a side that sends no data"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        if finish.attempt < self.terms.attempt or self.phase is Phase.FINISHED:
            return []
        if self.phase is not Phase.WAITING or finish.steps != self.steps:
            text = f"Finish after {finish.steps} steps, {self.steps} were made"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        receipt = None
        if self._work.tokens:
            try:
                check_predecessor(
                    self.terms, self._work, finish.signed_input, finish.receipt
                )
            except ReceiptMismatch as error:
                return self._refuse_input(AbortCode.BAD_RECEIPT, str(error), event.side)
            receipt = self._sign_range(finish.signed_input, finish.receipt)
        self.phase = Phase.FINISHED
        self._set_deadline(self.limits.settle_s)
        onward = Finish(
            session=finish.session,
            attempt=finish.attempt,
            steps=finish.steps,
            signed_input=None,
            receipt=receipt if self.terms.next is not None else None,
        )
        effects: list[Effect] = []
        if receipt is not None:
            effects += [SaveStanding(), Send(Side.REQUESTER, Note(receipt))]
        effects += [Send(self._answer_side, onward), Release()]
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        return effects

    def _on_abort(self, event: AbortArrived) -> list[Effect]:
        abort = event.abort
        if self.phase is Phase.FINISHED and event.side is not Side.REQUESTER:
            return []
        effects: list[Effect] = []
        for side in (Side.REQUESTER, Side.NEXT, Side.PREVIOUS):
            if side is not event.side and self._has_side(side):
                effects.append(Send(side, abort))
        return [*effects, *self._end(abort.code)]

    def _on_lost(self, side: Side) -> list[Effect]:
        if self.phase is Phase.FINISHED:
            # The requester closes when it has paid; the others have no more to say.
            return self._end(0) if side is Side.REQUESTER else []
        culprit = self._get_peer(side)
        name = side.name.lower()
        return self._abort(AbortCode.PEER_LOST, f"the {name} is gone", culprit)

    def _on_expired(self) -> list[Effect]:
        match self.phase:
            case Phase.HELD:
                text = f"step {self.steps} waits for its payment"
                return self._abort(AbortCode.UNPAID, text, self.requester)
            case Phase.COMPUTING:
                text = "the stage does not answer"
                return self._abort(AbortCode.TIMEOUT, text, self.terms.provider)
            case Phase.FINISHED:
                return self._end(0)
            case _:
                return self._abort(AbortCode.TIMEOUT, "no step for too long", None)

    def _refuse_input(self, code: AbortCode, text: str, side: Side) -> list[Effect]:
        peer_id = self._get_peer(side)
        return [Blame(peer_id, text), *self._abort(code, text, peer_id)]

    def _abort(self, code: AbortCode, text: str, culprit: bytes | None) -> list[Effect]:
        abort = Abort(self.terms.session, code, clip_text(text), culprit or None)
        sides = (Side.REQUESTER, Side.NEXT, Side.PREVIOUS)
        sends: list[Effect] = [Send(s, abort) for s in sides if self._has_side(s)]
        return [*sends, *self._end(code)]

    def _end(self, code: int) -> list[Effect]:
        """Close the books: cut-off receipt, arrears or change, memory."""
        effects: list[Effect] = []
        if self._work.tokens:
            effects.append(KeepReceipt(self._sign_range(None, None)))
        missing = self.billed - self.claimed
        if missing > 0:
            self.account.add_arrears(missing)
            self.account.count_paid_steps(max(0, self.steps - 1))
        else:
            self.account.give_back(-missing)
            self.claimed = self.billed
            self.account.count_paid_steps(self.steps)
        if self.phase is not Phase.FINISHED:
            effects.append(Release())
        self.phase = Phase.ENDED
        return [SaveStanding(), *effects, End(self._build_account(code))]

    def _build_account(self, code: int) -> SessionAccount:
        terms = self.terms
        tokens = sum(receipt.tokens for receipt in self._receipts)
        covered = self._trail.position
        assert tokens == covered
        tokens_in = min(covered, terms.prompt_tokens)
        return SessionAccount(
            session=terms.session,
            channel_id=terms.channel_id,
            client=terms.client,
            start=terms.start,
            end=terms.end,
            unit_price=terms.unit_price,
            receipts=tuple(self._receipts),
            tokens_in=tokens_in,
            tokens_out=covered - tokens_in,
            billed_units=self.billed,
            claimed_units=self.claimed,
            decode_us=tuple(self._decode_us),
            code=code,
        )

    # Neighbours

    @property
    def _data_side(self) -> Side:
        return Side.REQUESTER if self.terms.previous is None else Side.PREVIOUS

    @property
    def _answer_side(self) -> Side:
        return Side.REQUESTER if self.terms.next is None else Side.NEXT

    def _has_side(self, side: Side) -> bool:
        return side is Side.REQUESTER or self._get_peer(side) != b""

    def _get_peer(self, side: Side) -> bytes:
        match side:
            case Side.REQUESTER:
                return self.requester
            case Side.PREVIOUS:
                return self.terms.previous or b""
            case Side.NEXT:
                return self.terms.next or b""

    def _get_progress(self, step: int) -> Progress:
        if step < self.steps:
            activity = Activity.DONE
        elif self.phase is Phase.HELD:
            activity = Activity.NO_PAYMENT
        elif self.phase is Phase.COMPUTING:
            activity = Activity.COMPUTING
        else:
            activity = Activity.NO_DATA
        return Progress(self.terms.session, step, activity)

    def _set_deadline(self, seconds: float) -> None:
        self.deadline_us = self.now_us + int(seconds * 1_000_000)
