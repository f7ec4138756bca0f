"""
A gateway: prompts in, routes chosen, channels filled, sessions run, text out.

    tokens -> route -> channels -> session -> Started, Delta ..., Finished

The session runs as a task of the gateway's own nursery; the reader's generator only
listens.  A reader that leaves cancels the session, which still pays what it got and
frees every stage before the generator's close returns.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from statistics import median_low

import trio
from msgspec.structs import replace as replace_fields

from chain.contracts.model import compute_model_id
from chain.contracts.registration import Registration, RegistrationStatus
from inference.activations import DTYPE_OF_NAME
from inference.errors import BadPrompt, Busy
from inference.messages import RefuseCode
from inference.sampling import ChatMessage, SamplingParams
from inference.session_driver import RequesterSession
from inference.session_errors import HopRefused, SessionError
from inference.session_plan import HopPlan, SessionPlan, SessionSummary, TokenEvent
from inference.session_ports import Payer, RequesterPorts
from inference.steps import PREFILL_TOKENS
from inference.supervisor import RequesterWorker
from market import errors as market_errors
from market.offer import Link, Offer, Request
from market.route import Route, find_routes
from network.endpoint import Endpoint
from network.faults import Fault
from network.network import Network
from p2pchain.api.backend import (
    CompletionEvent,
    CompletionRequest,
    Delta,
    Finished,
    HopReport,
    RouteHop,
    Started,
)
from p2pchain.api.errors import (
    InsufficientFunds,
    InvalidParams,
    NoRoute,
    Overloaded,
    PromptTooLong,
    ShuttingDown,
    StageLost,
    UnknownModel,
)
from p2pchain.node.chain_service import ChainService
from p2pchain.node.channel_pool import ChannelPool, compute_unit_price
from p2pchain.node.profile import get_profile_hash
from p2pchain.node.treasury import Treasury
from primitives.errors import P2PChainError
from primitives.keys import SecretKey
from wallet import errors as wallet_errors

log = logging.getLogger(__name__)

ATOMS_PER_MS = 10
"""The value of time in a route's choice: a millisecond less per token is worth it."""
EXPECTED_TOKENS = 64
"""Of an answer, for the choice of a route; what is paid is what comes."""
WAITING_TOKENS = 64
"""Tokens that a slow reader may be behind before the session waits."""


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
        """
        self.worker = worker
        self._chain = chain
        self._treasury = treasury
        self._network = network
        self._pool = pool
        self._names = names
        info = worker.info
        self.model_id = compute_model_id(info.weights_root, info.tokenizer_hash)
        self._profile = get_profile_hash(info)
        self._ports = RequesterPorts(
            worker=worker,
            dialer=network,
            payer=payer,
            signer=session_key,
            on_fault=lambda peer, text: network.penalize(peer, Fault.BAD_MESSAGE),
        )
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Run the worker and all sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.worker.run)
            await trio.sleep_forever()

    # Routes

    def get_route(
        self, model: str, input_tokens: int = 1, max_tokens: int = EXPECTED_TOKENS
    ) -> tuple[RouteHop, ...]:
        """Return the providers that a request would go through now.

        Raises:
            UnknownModel: Not the model of our worker.
            NoRoute: Some layers have no active provider.
        """
        self._validate_model(model)
        registrations = self._list_registrations()
        links = self._measure_links()
        request = Request(
            layers=self.worker.info.layers,
            input_tokens=input_tokens,
            output_tokens=min(max_tokens, EXPECTED_TOKENS),
            step_bytes=self.worker.info.token_bytes,
            atoms_per_ms=ATOMS_PER_MS,
            client=self._network.peer_id,
            links=links,
        )
        offers = [_build_offer(registration) for registration in registrations.values()]
        try:
            route = find_routes(offers, request)[0]
        except market_errors.NoRoute as error:
            raise NoRoute(str(error)) from error
        return self._describe(route, registrations, links)

    def _validate_model(self, model: str) -> None:
        if model not in (self.worker.info.name, "0x" + self.model_id.hex()):
            raise UnknownModel(
                f"the model {model[:80]!r} does not exist here; this gateway serves "
                f"{self.worker.info.name!r}",
                param="model",
            )

    def _list_registrations(self) -> dict[bytes, Registration]:
        """Return the active registrations of our profile by node key."""
        return {
            registration.node_key: registration
            for registration in self._chain.queries.list_registrations(self.model_id)
            if registration.status is RegistrationStatus.ACTIVE
            and registration.profile == self._profile
            and registration.account != self._treasury.address
        }

    def _measure_links(self) -> dict[tuple[bytes, bytes], Link]:
        links = {}
        for peer in self._network.peers():
            if peer.rtt_ms is not None:
                link = Link(latency_us=int(peer.rtt_ms * 500))
                links[self._network.peer_id, peer.peer_id] = link
                links[peer.peer_id, self._network.peer_id] = link
        return links

    def _describe(
        self,
        route: Route,
        registrations: Mapping[bytes, Registration],
        links: Mapping[tuple[bytes, bytes], Link],
    ) -> tuple[RouteHop, ...]:
        hops = []
        for hop in route.hops:
            registration = registrations[hop.offer.node]
            link = links.get((self._network.peer_id, hop.offer.node))
            name = self._names.get(registration.account)
            hops.append(
                RouteHop(
                    name=name or registration.node_key.hex()[:16],
                    node_key=registration.node_key,
                    provider=registration.account,
                    shard=registration.home,
                    start=hop.start,
                    end=hop.end,
                    input_price=registration.input_price,
                    output_price=registration.output_price,
                    latency_us=None if link is None else 2 * link.latency_us,
                    measured_us=registration.measured_us,
                )
            )
        return tuple(hops)

    # Answers

    async def complete(
        self, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Answer a request; see `p2pchain.api.backend.Backend.complete`."""
        self._validate_model(request.model)
        prompt = await self._encode(request)
        max_tokens = self._compute_max_tokens(request, len(prompt))
        route = self.get_route(request.model, len(prompt), max_tokens)
        plan = await self._plan(route, prompt, max_tokens)
        sampling = _build_sampling(request, max_tokens)
        reports = [_Report(hop) for hop in route]
        laps_us: list[int] = []
        yield Started(session=plan.session_id, route=route, prompt_tokens=len(prompt))
        running, receiver = self._start(plan, sampling)
        try:
            async with receiver:
                async for token in receiver:
                    if token.step:
                        laps_us.append(token.elapsed_us)
                    for report, timing in zip(reports, token.hops, strict=False):
                        report.add(timing.compute_us, is_first=token.step == 0)
                    yield Delta(text=token.text)
        finally:
            running.session.cancel()
            with trio.CancelScope(shield=True):
                await running.ended.wait()
        if running.error is not None:
            raise _translate(running.error)
        if running.summary is None:
            raise ShuttingDown("the node stops")
        yield _build_finished(running.summary, reports, laps_us)

    async def _encode(self, request: CompletionRequest) -> tuple[int, ...]:
        try:
            if request.messages:
                messages = [ChatMessage(m.role, m.content) for m in request.messages]
                return tuple(await self.worker.encode_chat(messages))
            if isinstance(request.prompt, str):
                return tuple(await self.worker.encode_text(request.prompt))
        except BadPrompt as error:
            raise InvalidParams(str(error), param="messages") from error
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

    async def _plan(
        self, route: tuple[RouteHop, ...], prompt: tuple[int, ...], max_tokens: int
    ) -> SessionPlan:
        """Fill the channels of a route and return the plan of a session over it."""
        registrations = self._list_registrations()
        needs = {}
        for hop in route:
            registration = registrations[hop.node_key]
            cost = _compute_longest_cost(registration, len(prompt), max_tokens)
            needs[hop.provider] = (registration, cost)
            self._add_endpoints(registration)
        try:
            await self._pool.prepare(needs)
        except wallet_errors.InsufficientFunds as error:
            raise InsufficientFunds(str(error)) from error
        info = self.worker.info
        return SessionPlan(
            chain_id=self._chain.chain_id,
            session_id=secrets.token_bytes(32),
            client=self._treasury.address,
            hops=tuple(self._plan_hop(hop, registrations) for hop in route),
            prompt=prompt,
            max_tokens=max_tokens,
            hidden_size=info.hidden_size,
            dtype=DTYPE_OF_NAME[info.dtype],
        )

    def _plan_hop(
        self, hop: RouteHop, registrations: Mapping[bytes, Registration]
    ) -> HopPlan:
        registration = registrations[hop.node_key]
        channel = self._pool.find(registration)
        assert channel is not None  # `prepare` has just found it
        return HopPlan(
            peer_id=hop.node_key,
            node_name=hop.name,
            account=hop.provider,
            profile=registration.profile,
            start=hop.start,
            end=hop.end,
            input_price=hop.input_price,
            output_price=hop.output_price,
            channel_id=channel.channel_id,
            unit_price=channel.unit_price,
        )

    def _add_endpoints(self, registration: Registration) -> None:
        for address in registration.addresses:
            try:
                endpoint = Endpoint.parse(address)
            except P2PChainError as error:
                log.info("address %r of a provider: %s", address, error)
                continue
            if endpoint.peer_id == registration.node_key:
                self._network.add_endpoint(endpoint)

    def _start(
        self, plan: SessionPlan, sampling: SamplingParams
    ) -> tuple[_Running, trio.MemoryReceiveChannel[TokenEvent]]:
        assert self._nursery is not None
        sender, receiver = trio.open_memory_channel[TokenEvent](WAITING_TOKENS)
        running = _Running(RequesterSession(self._ports, plan, sampling), sender)
        self._nursery.start_soon(self._run_session, running, sampling)
        return running, receiver

    async def _run_session(self, running: _Running, sampling: SamplingParams) -> None:
        """Run a session; one that is refused for arrears pays them and tries again."""
        try:
            async with running.sender:
                try:
                    running.summary = await running.session.run(running.sender.send)
                except HopRefused as error:
                    plan = _acknowledge(running.session.plan, error)
                    if plan is None:
                        raise
                    log.info("paying arrears: %s", error)
                    running.session = RequesterSession(self._ports, plan, sampling)
                    running.summary = await running.session.run(running.sender.send)
        except trio.BrokenResourceError:
            log.debug("the reader has left")
        except Exception as error:
            session_id = running.session.plan.session_id
            log.warning("session %s: %s", session_id.hex()[:8], error)
            running.error = error
        finally:
            running.ended.set()


@dataclass(slots=True)
class _Report:
    """What a hop said of its time, step by step."""

    hop: RouteHop
    decode_us: list[int] = field(default_factory=list)
    prefill_us: list[int] = field(default_factory=list)

    def add(self, compute_us: int, *, is_first: bool) -> None:
        (self.prefill_us if is_first else self.decode_us).append(compute_us)


def _build_finished(
    summary: SessionSummary, reports: list[_Report], laps_us: list[int]
) -> Finished:
    hops = []
    for part, report in zip(summary.hops, reports, strict=True):
        times = report.decode_us or report.prefill_us
        hops.append(
            HopReport(
                name=report.hop.name,
                node_key=report.hop.node_key,
                start=report.hop.start,
                end=report.hop.end,
                steps=part.steps,
                step_us=median_low(times) if times else 0,
                price=part.price_atoms,
                channel_id=part.plan.channel_id,
                vouchers=part.vouchers,
            )
        )
    return Finished(
        reason="length" if summary.finish_reason == "length" else "stop",
        prompt_tokens=summary.tokens_in,
        completion_tokens=summary.tokens_out,
        lap_us=median_low(laps_us) if laps_us else 0,
        hops=tuple(hops),
    )


def _build_offer(registration: Registration) -> Offer:
    return Offer.from_measurement(
        registration.node_key,
        (registration.start, registration.end),
        (registration.input_price, registration.output_price),
        registration.measured_us,
        divisible=False,
    )


def _build_sampling(request: CompletionRequest, max_tokens: int) -> SamplingParams:
    return replace_fields(request.sampling, max_tokens=max_tokens)


def _compute_longest_cost(
    registration: Registration, prompt: int, max_tokens: int
) -> int:
    """Return the atoms that a session may take at most, each step rounded up."""
    layers = registration.end - registration.start
    steps = -(-prompt // PREFILL_TOKENS) + max_tokens
    price = prompt * registration.input_price + max_tokens * registration.output_price
    return price * layers + steps * compute_unit_price(registration)


def _acknowledge(plan: SessionPlan, refusal: HopRefused) -> SessionPlan | None:
    """Return the plan with a hop's arrears in it, where they can be true.

    An ended session leaves at most one step unpaid, so nobody owes more than the
    dearest step: a full prefill step.
    """
    if refusal.code != RefuseCode.UNPAID:
        return None
    hops = list(plan.hops)
    for index, hop in enumerate(hops):
        if hop.peer_id == refusal.peer_id and not hop.arrears_units:
            layers = hop.end - hop.start
            price = PREFILL_TOKENS * layers * max(hop.input_price, hop.output_price)
            if 0 < refusal.owed_units <= -(-price // hop.unit_price):
                hops[index] = replace(hop, arrears_units=refusal.owed_units)
                session_id = secrets.token_bytes(32)
                return replace(plan, hops=tuple(hops), session_id=session_id)
    return None


def _translate(error: Exception) -> Exception:
    """Return what the reader is told."""
    if isinstance(error, HopRefused):
        if error.code == RefuseCode.BUSY:
            return Overloaded(str(error))
        return NoRoute(str(error))
    if isinstance(error, Busy):
        return Overloaded(str(error))
    if isinstance(error, SessionError):
        return StageLost(str(error))
    if isinstance(error, P2PChainError):
        return StageLost(f"the answer ended early: {error}")
    return error
