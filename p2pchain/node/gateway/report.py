"""What an answer was, of what its hops said and what we saw of it."""

from dataclasses import dataclass, field
from statistics import median_low

from inference.session.plan import SessionSummary, TokenEvent
from p2pchain.api.completion import Finished, HopReport


@dataclass(slots=True)
class Report:
    """What the hops said of their time, and we saw of it, step by step."""

    laps: list[TokenEvent] = field(default_factory=list)
    """Tokens that the reader got."""
    summary: SessionSummary | None = None
    """When the session is over."""

    def add(self, token: TokenEvent) -> None:
        """Take one more token."""
        self.laps.append(token)

    @property
    def session(self) -> bytes:
        """The session that went to its end."""
        assert self.summary is not None
        return self.summary.session_id

    def build_finished(self) -> Finished:
        """Return it for the caller, when the session is over."""
        summary = self.summary
        assert summary is not None
        decodes = [token for token in self.laps if token.step > 0]
        laps_us = [token.elapsed_us for token in decodes]
        return Finished(
            reason="length" if summary.finish_reason == "length" else "stop",
            prompt_tokens=summary.tokens_in,
            completion_tokens=summary.tokens_out,
            guesses=summary.guesses,
            right_guesses=summary.right_guesses,
            cached_tokens=summary.cached_tokens,
            lap_us=median_low(laps_us) if laps_us else 0,
            hops=tuple(
                HopReport(
                    name=part.plan.node_name,
                    node_key=part.plan.peer_id,
                    start=part.plan.start,
                    end=part.plan.end,
                    steps=part.steps,
                    step_us=_compute_step_us(part.plan.peer_id, decodes or self.laps),
                    price=part.price_atoms,
                    channel_id=part.plan.channel_id,
                    vouchers=part.vouchers,
                )
                for part in summary.hops
            ),
        )


def _compute_step_us(peer_id: bytes, tokens: list[TokenEvent]) -> int:
    times = [
        timing.compute_us
        for token in tokens
        for peer, timing in zip(token.route, token.hops, strict=True)
        if peer == peer_id
    ]
    return median_low(times) if times else 0
