"""
From token ids to the steps of an answer: sessions, until one of them has begun.

    route -> channels -> session -> steps
      ^                   |   ^
      +-- refused: again -+   +-- a hop is lost: another one (rerouting.py)

The session runs as a task of its own; the reader's generator only listens.  A reader
that leaves cancels the session, which still pays what it got and frees every stage
before the generator's close returns.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from chain.records.channel import Channel
from inference.protocol.activations import DTYPE_OF_NAME
from inference.protocol.codec import Codec
from inference.protocol.prefix_keys import name_beginnings
from inference.sampling.params import SamplingParams
from inference.session.plan import SessionPlan, SessionSummary, TokenEvent
from inference.worker.requester_worker import RequesterWorker
from p2pchain.api.errors import ShuttingDown
from p2pchain.node.chain.service import ChainService
from p2pchain.node.gateway.channel_filler import ChannelFiller
from p2pchain.node.gateway.debts import Debts
from p2pchain.node.gateway.hop_plans import plan_hop
from p2pchain.node.gateway.open_sessions import OpenSessions, RunningSession
from p2pchain.node.gateway.refusals import translate_error
from p2pchain.node.gateway.report import Report
from p2pchain.node.gateway.rerouting import Rerouting
from p2pchain.node.gateway.retries import Retries
from p2pchain.node.gateway.route_choice import RouteChoice
from p2pchain.node.gateway.route_finder import FoundHop, RouteFinder
from p2pchain.node.money.channel_pool import ChannelPool, Need

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the hops."""

    prompt: tuple[int, ...]
    """Token ids."""
    max_tokens: int
    """Of the answer; 0 encodes the prompt."""
    sampling: SamplingParams
    prefix_secret: bytes = b""
    """What sessions that share beginnings have in common; empty shares nothing."""


class Answering:
    """Answers of one gateway."""

    def __init__(
        self,
        *,
        worker: RequesterWorker,
        client: bytes,
        chain: ChainService,
        routes: RouteFinder,
        pool: ChannelPool,
        sessions: OpenSessions,
        filler: ChannelFiller,
        codec: Codec,
    ) -> None:
        """
        Args:
            worker: Embedding, head and sampler.
            client: The account that pays.
            chain: Which the sessions belong to.
            routes: Finds providers.
            pool: The channels.
            sessions: Run them.
            filler: Fills the channels.
            codec: How hidden states travel.
        """
        self._worker = worker
        self._client = client
        self._chain = chain
        self._routes = routes
        self._pool = pool
        self._sessions = sessions
        self._filler = filler
        self._codec = codec
        self._choice = RouteChoice(routes, sessions)
        self._debts = Debts()

    async def answer(
        self, question: Question, report: Report
    ) -> AsyncGenerator[tuple[SessionPlan, tuple[FoundHop, ...], TokenEvent], None]:
        """Run sessions until one has begun, and that one to its end.

        Args:
            question: What is asked.
            report: Takes what it was.

        Yields:
            Tokens with the session and the route that they come from.

        Raises:
            ApiError: There is no answer, or no more of it.
        """
        prompt, max_tokens = question.prompt, question.max_tokens
        retries = Retries(self._routes, self._chain, self._debts)
        while True:
            if self._sessions.is_stopping:
                raise ShuttingDown("the node stops")
            names = name_beginnings(question.prefix_secret, prompt)
            route = self._choice.choose(names, len(prompt), max_tokens)
            self._routes.begin(route)
            needs = [Need(h.registration, len(prompt), max_tokens) for h in route]
            await self._filler.fill(needs)
            with self._pool.reserve(needs) as channels:
                plan = self._build_plan(route, channels, question, retries)
                if self._codec is Codec.RAW:
                    # Pages of coarse sessions are not given.
                    hops = self._choice.add_sources(names, plan.hops)
                    plan = replace(plan, hops=hops)
                rerouting = self._build_rerouting(route, plan, retries, names)
                with closing(rerouting):
                    running = self._sessions.start(plan, question.sampling, rerouting)
                    if not plan.is_text:
                        self._filler.prepare(route, needs[0])
                    try:
                        async with running.listening() as tokens:
                            async for token in tokens:
                                report.add(token)
                                yield plan, route, token
                    finally:
                        self._debts.note(running.session.summary)
            error, ended = running.error, running.session.summary
            if error is None:
                self._praise(running.summary, rerouting)
                self._choice.note(plan, running.summary, report)
                break
            if report.laps or not await retries.allow(
                error, ended, route, is_text=plan.is_text
            ):
                raise translate_error(error) from error
            log.info("trying again: %s", error)
        report.summary = _get_summary(running)

    def _build_plan(
        self,
        route: tuple[FoundHop, ...],
        channels: tuple[Channel, ...],
        question: Question,
        retries: Retries,
    ) -> SessionPlan:
        return SessionPlan(
            chain_id=self._chain.chain_id,
            session_id=secrets.token_bytes(32),
            client=self._client,
            hops=tuple(
                plan_hop(found, channel, retries.get_arrears(found))
                for found, channel in zip(route, channels, strict=True)
            ),
            prompt=question.prompt,
            max_tokens=question.max_tokens,
            hidden_size=self._worker.info.hidden_size,
            dtype=DTYPE_OF_NAME[self._worker.dtype],
            codec=self._codec if question.max_tokens else Codec.RAW,
            prefix_secret=question.prefix_secret,
        )

    def _build_rerouting(
        self,
        route: tuple[FoundHop, ...],
        plan: SessionPlan,
        retries: Retries,
        names: Sequence[bytes],
    ) -> Rerouting:
        # Pages of coarse sessions are not given.
        known = names if plan.codec is Codec.RAW else ()
        return Rerouting(
            self._routes,
            self._pool,
            retries,
            layers=self._worker.info.layers,
            answer_tokens=plan.max_tokens,
            route=route,
            plans=plan.hops,
            build_plan=plan_hop,
            find_source=partial(self._choice.find_source, known),
        )

    def _praise(self, summary: SessionSummary | None, rerouting: Rerouting) -> None:
        """Note who has served to the end."""
        if summary is None:
            return
        peers = [hop.plan.peer_id for hop in summary.hops[: summary.route_hops]]
        found = (rerouting.get_found(peer_id) for peer_id in peers)
        self._routes.succeed(each for each in found if each is not None)
        if summary.recoveries:
            log.info(
                "session %s: mended %d times, %d ms without a token at most",
                summary.session_id.hex()[:8],
                summary.recoveries,
                summary.longest_gap_us // 1000,
            )


def _get_summary(running: RunningSession) -> SessionSummary:
    """Return what a session that went to its end was.

    Raises:
        ShuttingDown: It was cancelled: not by the reader, or nobody would be here to be
            told.
    """
    summary = running.summary
    if summary is None or summary.finish_reason == "cancelled":
        raise ShuttingDown("the node stops")
    return summary
