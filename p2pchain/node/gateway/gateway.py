"""
A gateway: prompts in, routes chosen, channels filled, sessions run, text out.

    request -> admission -> answering: route, channels, session -> Started, Delta ...,
                                                                   Finished

Until the first token a refusal may be mended and the reader notices nothing, so
`Started` comes with the first token.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import trio
from msgspec.structs import replace as replace_fields

from inference.device.precision import Precision
from inference.protocol.codec import Codec
from inference.protocol.prefix_keys import derive_secret
from inference.sampling.params import SamplingParams
from inference.session.plan import SessionPlan
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
    RouteHop,
    Started,
)
from p2pchain.node.chain.service import ChainService
from p2pchain.node.gateway.admission import Admission
from p2pchain.node.gateway.answering import Answering, Question
from p2pchain.node.gateway.channel_filler import ChannelFiller
from p2pchain.node.gateway.open_sessions import OpenSessions
from p2pchain.node.gateway.report import Report
from p2pchain.node.gateway.route_finder import EXPECTED_TOKENS, FoundHop, RouteFinder
from p2pchain.node.money.channel_pool import ChannelPool
from p2pchain.node.money.treasury import Treasury
from primitives.keys import SecretKey

log = logging.getLogger(__name__)

TEXTS_AT_ONCE = 4
"""Of one request to encode: the other places of a provider are for other requests."""


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
        if codec is not Codec.RAW:
            log.warning("hidden states travel in %s: answers differ", codec.name)
        self.worker = worker
        self.model_id = worker.info.model_id
        self._admission = Admission(worker)
        self._routes = RouteFinder(
            worker.info, treasury.address, chain, network, names, precision
        )
        ports = RequesterPorts(
            worker=worker,
            dialer=network,
            payer=payer,
            signer=session_key,
            on_fault=lambda peer, text: network.penalize(peer, Fault.BAD_MESSAGE),
        )
        self._sessions = OpenSessions(ports)
        self._filler = ChannelFiller(pool, self._routes)
        self._answering = Answering(
            worker=worker,
            client=treasury.address,
            chain=chain,
            routes=self._routes,
            pool=pool,
            sessions=self._sessions,
            filler=self._filler,
            codec=codec,
        )
        # Names of beginnings say nothing to others, and nothing after a restart.
        self._prefix_secret = secrets.token_bytes(32)

    async def run(self) -> None:
        """Run the worker and all sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sessions.run)
            nursery.start_soon(self._filler.run)
            nursery.start_soon(self.worker.run)

    async def drain(self) -> None:
        """Take no more requests; let open answers end, or end them in order."""
        await self._sessions.drain()

    def get_route(
        self, model: str, input_tokens: int = 1, max_tokens: int = EXPECTED_TOKENS
    ) -> tuple[RouteHop, ...]:
        """Return the providers that a request would go through now.

        Raises:
            UnknownModel: Not the model of our worker.
            NoRoute: Some layers have no active provider.
        """
        self._admission.validate_model(model)
        return tuple(each.hop for each in self._routes.find(input_tokens, max_tokens))

    async def complete(
        self, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Answer a request; see `p2pchain.api.backend.Backend.complete`."""
        prompt, max_tokens = await self._admission.admit_completion(request)
        secret = b""
        if request.shares_prefix:
            secret = derive_secret(self._prefix_secret, request.cache_salt)
        question = Question(
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=replace_fields(request.sampling, max_tokens=max_tokens),
            prefix_secret=secret,
        )
        report = Report()
        async with aclosing(self._answering.answer(question, report)) as answer:
            async for plan, route, token in answer:
                if len(report.laps) == 1:
                    yield _build_started(plan, route)
                yield Delta(text=token.text, logprobs=token.logprobs)
        yield report.build_finished()

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Encode texts; see `p2pchain.api.backend.Backend.embed`."""
        texts = await self._admission.admit_texts(request)
        reports = [Report() for _ in texts]
        limiter = trio.CapacityLimiter(TEXTS_AT_ONCE)
        failures: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def encode(text: tuple[int, ...], report: Report) -> None:
                try:
                    async with limiter:
                        await self._encode(text, report)
                except Exception as error:
                    # The first one is the answer; the others are not paid for.
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for text, report in zip(texts, reports, strict=True):
                nursery.start_soon(encode, text, report)
        if failures:
            raise failures[0]
        return Embeddings(
            vectors=tuple(report.laps[-1].vector for report in reports),
            prompt_tokens=sum(map(len, texts)),
            sessions=tuple(report.session for report in reports),
            price=sum(
                hop.price for report in reports for hop in report.build_finished().hops
            ),
        )

    async def _encode(self, text: tuple[int, ...], report: Report) -> None:
        """Run the one step of a text."""
        question = Question(prompt=text, max_tokens=0, sampling=SamplingParams())
        async with aclosing(self._answering.answer(question, report)) as steps:
            async for _ in steps:
                continue


def _build_started(plan: SessionPlan, route: tuple[FoundHop, ...]) -> Started:
    return Started(
        session=plan.session_id,
        route=tuple(found.hop for found in route),
        prompt_tokens=len(plan.prompt),
    )
