"""What one session pays, hop by hop, and what its account is in the end."""

from collections import Counter

from chain.records.channel import Payment
from inference.protocol.errors import PaymentFailed
from inference.session.events import End
from inference.session.plan import HopSummary, SessionSummary
from inference.session.ports import Payer
from inference.session.route import RouteHop
from inference.session.session import RequesterMachine
from primitives.errors import P2PChainError


class SessionPurse:
    """The payments of one session.

    Args:
        payer: Our side of the channels.
        session_id: Of the session.
    """

    def __init__(self, payer: Payer, session_id: bytes) -> None:
        self._payer = payer
        self._session_id = session_id
        self._vouchers: Counter[int] = Counter()
        self._arrears: Counter[int] = Counter()

    def pay(self, hop: RouteHop, units: int) -> Payment:
        """Release units to a hop.

        Raises:
            PaymentFailed: The deposit is exhausted, or the channel not ours.
        """
        plan = hop.plan
        try:
            payment = self._payer.pay(self._name_stream(hop), plan.channel_id, units)
        except P2PChainError as error:
            raise PaymentFailed(f"cannot pay {plan.node_name}: {error}") from error
        self._vouchers[hop.number] += payment.voucher is not None
        return payment

    def pay_arrears(self, hop: RouteHop) -> Payment | None:
        """Release what we owe from an earlier session, if we do.

        Raises:
            PaymentFailed: As `pay`.
        """
        units = hop.plan.arrears_units
        if not units:
            return None
        payment = self.pay(hop, units)
        self._arrears[hop.number] = units
        return payment

    def forget(self, hop: RouteHop) -> None:
        """Nothing more is paid to a hop."""
        self._payer.forget(self._name_stream(hop))

    def _name_stream(self, hop: RouteHop) -> bytes:
        """Return the name under which a hop is paid.

        One provider can come back as another hop, over another stream, and may have
        lost what it was sent before.
        """
        return self._session_id + hop.number.to_bytes(2, "big")

    def build_summary(
        self, machine: RequesterMachine, end: End, now_us: int
    ) -> SessionSummary:
        """Return the session's account.

        Args:
            machine: Of the session.
            end: How it ended.
            now_us: Now.
        """
        route, plan, turns = machine.route, machine.plan, machine.turns
        retired = [hop for hop in route.everyone if hop.is_retired]
        return SessionSummary(
            session_id=plan.session_id,
            hops=tuple(map(self._build_hop_summary, (*route.hops, *retired))),
            route_hops=len(route.hops),
            recoveries=machine.recoveries,
            longest_gap_us=machine.answer.longest_gap_us,
            tokens_in=min(turns.position, len(plan.prompt)),
            cached_tokens=machine.cached_tokens,
            tokens_out=machine.tokens_out,
            guesses=turns.pace.guesses,
            right_guesses=turns.pace.right,
            finish_reason=end.finish_reason,
            first_token_us=machine.answer.first_token_us,
            total_us=now_us - machine.started_us,
            fault=end.error,
        )

    def _build_hop_summary(self, hop: RouteHop) -> HopSummary:
        return HopSummary(
            plan=hop.plan,
            steps=hop.steps,
            queue_us=hop.queue_us,
            compute_us=hop.compute_us,
            units=hop.units,
            price_atoms=hop.units * hop.plan.unit_price,
            arrears_units=self._arrears[hop.number],
            vouchers=self._vouchers[hop.number],
            receipts=hop.receipts,
            unpaid_units=hop.unpaid_units,
        )
