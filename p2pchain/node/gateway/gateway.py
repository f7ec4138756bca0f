"""
A gateway: prompts in, routes chosen, channels filled, sessions run, text out.

    tokens -> route -> channels -> session -> Started, Delta ..., Finished
                ^                   |   ^
                +-- refused: again -+   +-- a hop is lost: another one (rerouting.py)

The session runs as a task of the gateway's own nursery; the reader's generator only
listens.  A reader that leaves cancels the session, which still pays what it got and
frees every stage before the generator's close returns.  Until the first token a refusal
may be mended and the reader notices nothing, so `Started` comes with the first token.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Container, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from statistics import median_low

import trio
from msgspec.structs import replace as replace_fields

from chain.records.channel import Channel
from inference.device.precision import Precision
from inference.errors import BadPrompt, Busy, WorkerError
from inference.protocol.activations import DTYPE_OF_NAME
from inference.protocol.codec import Codec
from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopRefused, SessionError
from inference.protocol.prefix_keys import derive_secret, name_beginnings
from inference.sampling.params import ChatMessage, SamplingParams
from inference.sampling.speculation import Speculation
from inference.session.driver import RequesterSession
from inference.session.plan import HopPlan, SessionPlan, SessionSummary, TokenEvent
from inference.session.ports import Payer, RequesterPorts
from inference.worker.requester_worker import RequesterWorker
from network.faults import Fault
from network.network import Network
from p2pchain.api.completion import (
    CompletionEvent,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Embeddings,
    Finished,
    HopReport,
    RouteHop,
    Started,
)
from p2pchain.api.errors import (
    InsufficientFunds,
    InvalidParams,
    NoRoute,
    NotReady,
    Overloaded,
    PromptTooLong,
    ShuttingDown,
    StageLost,
    TransactionRejected,
    UnknownModel,
    Unsupported,
)
from p2pchain.errors import TransactionFailed
from p2pchain.node.chain.service import ChainService
from p2pchain.node.gateway.kept_routes import KeptRoutes
from p2pchain.node.gateway.rerouting import Rerouting
from p2pchain.node.gateway.retries import Retries
from p2pchain.node.gateway.route_finder import EXPECTED_TOKENS, FoundHop, RouteFinder
from p2pchain.node.money.channel_pool import ChannelPool, Need
from p2pchain.node.money.treasury import Treasury
from primitives.errors import P2PChainError
from primitives.keys import SecretKey
from wallet import errors as wallet_errors

log = logging.getLogger(__name__)

WAITING_TOKENS = 64
"""Tokens that a slow reader may be behind before the session waits."""
TEXTS_AT_ONCE = 4
"""Of one request to encode: half of what a provider takes from one channel."""
CROWD = 4
"""Open sessions on hops that have kept a beginning, before others may go elsewhere: so
many share a pass at little cost, and more would wait for each other."""
DRAIN_S = 3.0
"""What open answers get to end by themselves when the node stops."""
CLOSE_S = 5.0
"""For those that did not, to pay their last step and tell their readers."""


@dataclass(slots=True)
class _Running:
    """One session between its task and its reader."""

    session: RequesterSession
    sender: trio.MemorySendChannel[TokenEvent]
    ended: trio.Event = field(default_factory=trio.Event)
    summary: SessionSummary | None = None
    error: Exception | None = None


class Gateway:
    """This node's side of sessions as a client."""

    def __init__(
        self,
        *,
        worker: RequesterWorker,
        session_key: SecretKey,
        chain: ChainService,
        treasury: Treasury,
        network: Network,
        pool: ChannelPool,
        payer: Payer,
        names: Mapping[bytes, str],
        precision: Precision = Precision.NATIVE,
        codec: Codec = Codec.RAW,
    ) -> None:
        """
        Args:
            worker: Embedding, head and sampler.
            session_key: Signs vouchers and inputs.
            chain: Where providers are registered.
            treasury: Opens channels.
            network: Reaches providers.
            pool: The channels.
            payer: Pays over them.
            names: What people call accounts.
            precision: Of the layers that we buy.
            codec: How hidden states travel.
        """
        self.worker = worker
        self.model_id = worker.info.model_id
        self._codec = codec
        if codec is not Codec.RAW:
            log.warning("hidden states travel in %s: answers differ", codec.name)
        self._chain = chain
        self._treasury = treasury
        self._pool = pool
        self._routes = RouteFinder(
            worker.info, treasury.address, chain, network, names, precision
        )
        self._ports = RequesterPorts(
            worker=worker,
            dialer=network,
            payer=payer,
            signer=session_key,
            on_fault=lambda peer, text: network.penalize(peer, Fault.BAD_MESSAGE),
        )
        # Names of beginnings say nothing to others, and nothing after a restart.
        self._prefix_secret = secrets.token_bytes(32)
        self._kept = KeptRoutes()
        self._nursery: trio.Nursery | None = None
        self._open: set[RequesterSession] = set()
        self._is_stopping = False

    async def run(self) -> None:
        """Run the worker and all sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.worker.run)
            await trio.sleep_forever()

    async def drain(self) -> None:
        """Take no more requests; let open answers end, or end them in order."""
        self._is_stopping = True
        with trio.move_on_after(DRAIN_S):
            await self._wait_idle()
        for session in self._open:
            session.cancel()
        with trio.move_on_after(CLOSE_S):
            await self._wait_idle()

    async def _wait_idle(self) -> None:
        while self._open:
            await trio.sleep(0.05)

    def get_route(
        self, model: str, input_tokens: int = 1, max_tokens: int = EXPECTED_TOKENS
    ) -> tuple[RouteHop, ...]:
        """Return the providers that a request would go through now.

        Raises:
            UnknownModel: Not the model of our worker.
            NoRoute: Some layers have no active provider.
        """
        self._validate_model(model)
        return tuple(each.hop for each in self._routes.find(input_tokens, max_tokens))

    def _validate_model(self, model: str) -> None:
        name, model_id = self.worker.info.name, self.model_id.hex()
        if model not in (name, model_id, "0x" + model_id):
            raise UnknownModel(
                f"the model {model[:80]!r} does not exist here; this gateway serves "
                f"{name!r}",
                param="model",
            )

    # Answers

    async def complete(
        self, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Answer a request; see `p2pchain.api.backend.Backend.complete`."""
        self._validate_model(request.model)
        if self.worker.info.is_encoder:
            text = "this model turns texts into vectors; see /v1/embeddings"
            raise Unsupported(text, param="model")
        is_draft = request.sampling.speculation is Speculation.DRAFT
        if is_draft and not self.worker.has_draft_model:
            text = "this gateway has no model that guesses"
            raise Unsupported(text, param="speculation")
        prompt = await self._encode(request)
        max_tokens = self._compute_max_tokens(request, len(prompt))
        secret = b""
        if request.shares_prefix:
            secret = derive_secret(self._prefix_secret, request.cache_salt)
        sampling = replace_fields(request.sampling, max_tokens=max_tokens)
        report = _Report()
        answers = self._run(prompt, max_tokens, sampling, report, secret)
        async with aclosing(answers) as answer:
            async for plan, route, token in answer:
                if len(report.laps) == 1:
                    yield _build_started(plan, route)
                yield Delta(text=token.text, logprobs=token.logprobs)
        yield report.build_finished()

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Encode texts; see `p2pchain.api.backend.Backend.embed`."""
        self._validate_model(request.model)
        if not self.worker.info.is_encoder:
            text = "this model answers; it does not turn texts into vectors"
            raise Unsupported(text, param="model")
        prompts = [await self._encode_input(text) for text in request.inputs]
        reports = [_Report() for _ in prompts]
        limiter = trio.CapacityLimiter(TEXTS_AT_ONCE)
        failures: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def encode(prompt: tuple[int, ...], report: _Report) -> None:
                try:
                    async with limiter:
                        await self._encode_prompt(prompt, report)
                except Exception as error:
                    # The first one is the answer; the others are not paid for.
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for prompt, report in zip(prompts, reports, strict=True):
                nursery.start_soon(encode, prompt, report)
        if failures:
            raise failures[0]
        return Embeddings(
            vectors=tuple(report.laps[-1].vector for report in reports),
            prompt_tokens=sum(map(len, prompts)),
            sessions=tuple(report.session for report in reports),
            price=sum(
                hop.price for report in reports for hop in report.build_finished().hops
            ),
        )

    async def _encode_prompt(self, prompt: tuple[int, ...], report: "_Report") -> None:
        """Run the one step of a text."""
        async with aclosing(self._run(prompt, 0, SamplingParams(), report)) as steps:
            async for _ in steps:
                continue

    async def _encode_input(self, text: str | tuple[int, ...]) -> tuple[int, ...]:
        """Return a text's token ids, if the model takes as many."""
        wanted = CompletionRequest(model="", prompt=text, sampling=SamplingParams())
        prompt = await self._encode(wanted)
        most = self.worker.info.max_positions
        if not 0 < len(prompt) <= most:
            raise PromptTooLong(
                f"a text of {len(prompt)} tokens; this model takes {most}",
                param="input",
            )
        return prompt

    async def _run(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        sampling: SamplingParams,
        report: "_Report",
        prefix_secret: bytes = b"",
    ) -> AsyncGenerator[tuple[SessionPlan, tuple[FoundHop, ...], TokenEvent], None]:
        """Run sessions until one has begun, and that one to its end.

        Args:
            prompt: Token ids.
            max_tokens: Of the answer; 0 encodes the prompt.
            sampling: How tokens are chosen.
            report: Takes what it was.
            prefix_secret: What sessions that share beginnings have in common.

        Yields:
            Tokens with the session and the route that they come from.
        """
        retries = Retries(self._routes, self._chain)
        while True:
            if self._is_stopping:
                raise ShuttingDown("the node stops")
            names = name_beginnings(prefix_secret, prompt)
            route = self._choose_route(names, len(prompt), max_tokens)
            self._routes.begin(route)
            needs = [Need(h.registration, len(prompt), max_tokens) for h in route]
            await self._fill(needs)
            with self._pool.reserve(needs) as channels:
                plan = self._build_plan(route, channels, prompt, max_tokens, retries)
                hops = plan.hops
                if self._codec is Codec.RAW:
                    # Pages of coarse sessions are not given.
                    hops = self._kept.add_sources(names, hops)
                plan = replace(plan, hops=hops, prefix_secret=prefix_secret)
                rerouting = Rerouting(
                    self._routes,
                    self._pool,
                    retries,
                    layers=self.worker.info.layers,
                    answer_tokens=max_tokens,
                    route=route,
                    plans=plan.hops,
                    build_plan=_plan_hop,
                )
                with closing(rerouting):
                    running, receiver = self._start(plan, sampling, rerouting)
                    if not plan.is_text:
                        self._prepare(route, needs[0])
                    try:
                        async with receiver:
                            async for token in receiver:
                                report.add(token)
                                yield plan, route, token
                    finally:
                        running.session.cancel()
                        with trio.CancelScope(shield=True):
                            await running.ended.wait()
            error, summary = running.error, running.summary
            if error is None:
                self._praise(summary, rerouting)
                self._note_kept(plan, summary, report)
                break
            if report.laps or not await retries.allow(
                error, running.session.summary, route, is_text=plan.is_text
            ):
                raise _translate(error) from error
            log.info("trying again: %s", error)
        if summary is None or summary.finish_reason == "cancelled":
            # Not by the reader, or nobody would be here to be told.
            raise ShuttingDown("the node stops")
        report.summary = summary

    async def _encode(self, request: CompletionRequest) -> tuple[int, ...]:
        try:
            if request.messages:
                messages = [ChatMessage(m.role, m.content) for m in request.messages]
                return tuple(await self.worker.encode_chat(messages))
            if isinstance(request.prompt, str):
                return tuple(await self.worker.encode_text(request.prompt))
        except BadPrompt as error:
            param = "messages" if request.messages else "prompt"
            raise InvalidParams(str(error), param=param) from error
        except Busy as error:
            raise Overloaded(str(error)) from error
        except WorkerError as error:
            raise NotReady(f"the gateway's worker is not ready: {error}") from error
        if any(token >= self.worker.info.vocab_size for token in request.prompt):
            raise InvalidParams("a token id is not in the vocabulary", param="prompt")
        return request.prompt

    def _compute_max_tokens(self, request: CompletionRequest, prompt: int) -> int:
        context = self.worker.info.max_positions
        if prompt == 0:
            raise InvalidParams("the prompt has no tokens", param="prompt")
        wanted = request.max_tokens
        if prompt + (wanted or 1) > context:
            raise PromptTooLong(
                f"this model's context is {context} tokens; the prompt has {prompt} "
                f"and {wanted or 1} are wanted as an answer",
                param="messages" if request.messages else "prompt",
            )
        return context - prompt if wanted is None else wanted

    async def _fill(self, needs: list[Need]) -> None:
        try:
            await self._pool.fill(needs)
        except wallet_errors.InsufficientFunds as error:
            raise InsufficientFunds(str(error)) from error
        except TransactionFailed as error:
            text = f"the chain refused to open or fill a channel: {error}"
            raise TransactionRejected(text, reason=error.code) from error

    def _prepare(self, route: tuple[FoundHop, ...], need: Need) -> None:
        """Open channels to those who could take over, while nobody waits for it."""
        if self._nursery is not None:
            self._nursery.start_soon(self._fill_ahead, route, need)

    async def _fill_ahead(self, route: tuple[FoundHop, ...], need: Need) -> None:
        # The session begins first.
        await trio.lowlevel.checkpoint()
        backups = self._routes.find_backups(route)
        needs = [replace(need, registration=each.registration) for each in backups]
        try:
            await self._pool.fill(needs)
        except P2PChainError as error:
            log.info("no channels to replacements yet: %s", error)

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

    def _choose_route(
        self, names: tuple[bytes, ...], input_tokens: int, max_tokens: int
    ) -> tuple[FoundHop, ...]:
        """Return the route that has kept the prompt's beginning, or the best one."""
        kept = {hop.peer_id: hop for hop in self._kept.find(names)}
        if kept and self._count_sessions(kept.keys()) < CROWD:
            route = self._routes.find(input_tokens, max_tokens, preferred=kept)
            # Whoever has become dearer is not held to be the best for that.
            if all(_is_as_cheap(found, kept) for found in route):
                return route
        return self._routes.find(input_tokens, max_tokens)

    def _count_sessions(self, peers: Container[bytes]) -> int:
        """Return how many open sessions go through some of these hops."""
        plans = (session.plan for session in self._open)
        return sum(any(hop.peer_id in peers for hop in plan.hops) for plan in plans)

    def _note_kept(
        self, plan: SessionPlan, summary: SessionSummary | None, report: "_Report"
    ) -> None:
        """Remember who has computed what, unless the route has changed meanwhile."""
        if summary is None or summary.recoveries:
            return
        if any(hop.source is not None for hop in plan.hops):
            return
        # The last token was chosen and not computed.
        ids = [*plan.prompt, *(token.token_id for token in report.laps[:-1])]
        self._kept.note(name_beginnings(plan.prefix_secret, ids), plan.hops)

    def _build_plan(
        self,
        route: tuple[FoundHop, ...],
        channels: tuple[Channel, ...],
        prompt: tuple[int, ...],
        max_tokens: int,
        retries: Retries,
    ) -> SessionPlan:
        info = self.worker.info
        return SessionPlan(
            chain_id=self._chain.chain_id,
            session_id=secrets.token_bytes(32),
            client=self._treasury.address,
            hops=tuple(
                _plan_hop(found, channel, retries.get_arrears(found))
                for found, channel in zip(route, channels, strict=True)
            ),
            prompt=prompt,
            max_tokens=max_tokens,
            hidden_size=info.hidden_size,
            dtype=DTYPE_OF_NAME[self.worker.dtype],
            codec=self._codec if max_tokens else Codec.RAW,
        )

    def _start(
        self, plan: SessionPlan, sampling: SamplingParams, rerouting: Rerouting
    ) -> tuple[_Running, trio.MemoryReceiveChannel[TokenEvent]]:
        if self._nursery is None:
            raise NotReady("the gateway is starting; try again in a moment")
        sender, receiver = trio.open_memory_channel[TokenEvent](WAITING_TOKENS)
        ports = replace(self._ports, finder=rerouting)
        running = _Running(RequesterSession(ports, plan, sampling), sender)
        self._open.add(running.session)
        self._nursery.start_soon(self._run_session, running)
        return running, receiver

    async def _run_session(self, running: _Running) -> None:
        try:
            async with running.sender:
                running.summary = await running.session.run(running.sender.send)
        except trio.BrokenResourceError:
            log.debug("the reader has left")
        except Exception as error:
            session_id = running.session.plan.session_id
            log.warning("session %s: %s", session_id.hex()[:8], error)
            running.error = error
        finally:
            self._open.discard(running.session)
            running.ended.set()


@dataclass(slots=True)
class _Report:
    """What the hops said of their time, and we saw of it, step by step."""

    laps: list[TokenEvent] = field(default_factory=list)
    """Tokens that the reader got."""
    summary: SessionSummary | None = None
    """When the session is over."""

    def add(self, token: TokenEvent) -> None:
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


def _is_as_cheap(found: FoundHop, kept: Mapping[bytes, HopPlan]) -> bool:
    """Tell whether a hop costs no more than when it kept something."""
    before = kept.get(found.hop.node_key)
    return before is not None and (
        found.hop.input_price <= before.input_price
        and found.hop.output_price <= before.output_price
    )


def _build_started(plan: SessionPlan, route: tuple[FoundHop, ...]) -> Started:
    return Started(
        session=plan.session_id,
        route=tuple(found.hop for found in route),
        prompt_tokens=len(plan.prompt),
    )


def _plan_hop(found: FoundHop, channel: Channel, arrears_units: int) -> HopPlan:
    hop = found.hop
    return HopPlan(
        peer_id=hop.node_key,
        node_name=hop.name,
        account=hop.provider,
        profile=found.registration.profile,
        start=hop.start,
        end=hop.end,
        input_price=hop.input_price,
        output_price=hop.output_price,
        channel_id=channel.channel_id,
        unit_price=channel.unit_price,
        arrears_units=arrears_units,
    )


def _translate(error: Exception) -> Exception:
    """Return what the reader is told."""
    if isinstance(error, HopRefused):
        if error.code == RefuseCode.BUSY:
            return Overloaded(str(error))
        return NoRoute(str(error))
    if isinstance(error, Busy):
        return Overloaded(str(error))
    if isinstance(error, BadPrompt):
        return PromptTooLong(str(error))
    if isinstance(error, SessionError):
        return StageLost(str(error))
    if isinstance(error, P2PChainError):
        return StageLost(f"the answer ended early: {error}")
    return error
