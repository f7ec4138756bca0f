"""
Steps through some hops in a row: what goes in, what comes out, what is signed and paid.

The session's own steps go through all hops; while the route is mended, each replacement
has a track of its own, from us and back to us.  A track knows the range that is open
between us and its hops, and forgets it with the attempt that it belongs to.
"""

from collections.abc import Sequence

from chain.records.proof import Receipt
from inference.protocol.activations import compute_digest
from inference.protocol.errors import BrokenChain, ReceiptMismatch
from inference.protocol.messages import Data, Finish, HopTiming, SignedInput
from inference.protocol.receipts import Range, Sign, sign_input, validate_chain
from inference.protocol.steps import Step
from inference.session.checks import check_answer
from inference.session.events import Effect, SendTo
from inference.session.plan import SessionPlan
from inference.session.route import RouteHop


class Track:
    """Hops in a row in one attempt.

    Args:
        plan: The session's plan.
        hops: In order, at least one.
        attempt: Number of the route.
        signer: Public key that signs inputs.
        sign: Signs with it.
    """

    def __init__(
        self,
        plan: SessionPlan,
        hops: Sequence[RouteHop],
        attempt: int,
        signer: bytes,
        sign: Sign,
    ) -> None:
        self.hops = tuple(hops)
        self.peers = tuple(hop.peer_id for hop in hops)
        self.timings: tuple[HopTiming, ...] = ()
        """What the hops say the last step took."""
        self.signed_input: SignedInput | None = None
        """Our word about the range that closes now; receipts are due while it is."""
        self.step: Step | None = None
        """Under way, or the last one."""
        self.is_answered = False
        self._plan = plan
        self._attempt = attempt
        self._signer = signer
        self._sign = sign
        self._in_digest = b""
        self._work = Range()
        self._work_before = Range()

    @property
    def has_earlier_steps(self) -> bool:
        """Whether the open range has steps before the one under way."""
        return self._work_before.tokens > 0

    @property
    def has_open_range(self) -> bool:
        """Whether steps came back that no receipt covers."""
        return self._work.tokens > 0

    # A step

    def send(self, step: Step, body: bytes) -> list[Effect]:
        """Return what sends a step on its way; `body` is written as it travels."""
        plan = self._plan
        self.step, self.is_answered = step, False
        self._work_before = self._work
        self._in_digest = compute_digest(body)
        if step.closes_range:
            self._sign_range(self._work.add(step, 0, self._in_digest, b""))
        data = Data(
            session=plan.session_id,
            attempt=self._attempt,
            step=step.number,
            position=step.position,
            tokens=step.tokens,
            hidden_size=plan.hidden_size,
            dtype=plan.dtype,
            codec=plan.codec,
            timings=(),
            signed_input=self.signed_input,
            receipt=None,
        )
        effects: list[Effect] = []
        for hop in self.hops:
            effects += hop.pay_before(step)
            hop.count_sent(step)
        return [*effects, SendTo(self.hops[0].number, data, body)]

    def take_answer(self, data: Data, body: bytes) -> None:
        """Note the answer to the step under way.

        Raises:
            WrongAnswer: It is none.
        """
        assert self.step is not None
        check_answer(self._plan, self._attempt, self.step, self.peers, data, body)
        self.is_answered = True
        self.timings = data.timings
        digest = compute_digest(body)
        self._work = self._work.add(self.step, 0, self._in_digest, digest)
        for hop, timing in zip(self.hops, data.timings, strict=True):
            hop.count_answer(self.step, timing)

    def drop(self) -> None:
        """Note that the step under way does not count."""
        if self.step is not None:
            for hop in self.hops:
                hop.drop_step(self.step, is_answered=self.is_answered)
            self.step = None

    # Receipts

    def take_receipt(self, hop: RouteHop, receipt: Receipt) -> None:
        """Keep a hop's receipt for the range that closes.

        Raises:
            ReceiptMismatch: None is due, or it is not valid on its own.
        """
        if self.signed_input is None:
            raise ReceiptMismatch("a receipt that is not due", peer_id=hop.peer_id)
        hop.take_receipt(receipt)

    def find_unattested(self) -> RouteHop | None:
        """Return a hop whose receipt is due and missing, lost ones first."""
        if self.signed_input is None:
            return None
        missing = [hop for hop in self.hops if hop.receipt is None]
        return min(missing, key=lambda hop: not hop.is_gone, default=None)

    def close_range(self) -> None:
        """Check the chain of receipts, if a range closes, and begin a new one.

        Raises:
            BrokenChain: A link is broken; carries the hop.
        """
        if self.signed_input is None:
            return
        receipts = [hop.receipt for hop in self.hops if hop.receipt is not None]
        units = [hop.work.units for hop in self.hops]
        try:
            validate_chain(receipts, units, self.signed_input, self._work)
        except ReceiptMismatch as error:
            raise BrokenChain(str(error), peer_id=error.peer_id) from error
        for hop in self.hops:
            hop.receipt = None
            hop.work = Range()
        self._work = Range()
        self.signed_input = None

    # Payments

    def pay(self) -> list[Effect]:
        """Pay all hops for everything that came back."""
        assert self.step is not None
        return [effect for hop in self.hops for effect in hop.pay_after(self.step)]

    def pay_attested(self, culprit: bytes) -> list[Effect]:
        """Pay those whose receipts are here, and not the culprit."""
        assert self.step is not None
        return [
            effect
            for hop in self.hops
            if hop.receipt is not None and hop.peer_id != culprit
            for effect in hop.pay_after(self.step)
        ]

    # The end

    def finish(self, steps: int, prefix: tuple[bytes, ...] = ()) -> Effect:
        """Return what begins the last lap.

        Args:
            steps: That this attempt had.
            prefix: Names of the sequence's beginnings, for sessions to come.
        """
        if self._work.tokens:
            self._sign_range(self._work)
        finish = Finish(
            session=self._plan.session_id,
            attempt=self._attempt,
            steps=steps,
            signed_input=self.signed_input,
            receipt=None,
            prefix=prefix,
        )
        return SendTo(self.hops[0].number, finish)

    def _sign_range(self, work: Range) -> None:
        plan = self._plan
        self.signed_input = sign_input(
            plan.chain_id, plan.session_id, work, self._signer, self._sign
        )
