"""
A small node for the api's tests: real chain, a "model" that says the prompt again.

The model's tokens are words.  It answers with the words of the last message, greedily
in order, else in the order that the seed gives, and ends after them unless it ignores
the end of text.  Some words in the prompt make things go wrong, each once and as the
real node would show it.
"""

import random
import struct
import time
from dataclasses import dataclass, field

import trio

from inference.sampling.params import SamplingParams, TokenLogprob
from p2pchain.api.completion import (
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Embeddings,
    Finished,
    HopReport,
    RouteHop,
    ServedModel,
    Started,
)
from p2pchain.api.errors import (
    InsufficientFunds,
    NoRoute,
    Overloaded,
    PromptTooLong,
    StageLost,
    UnknownModel,
)
from p2pchain.api.status import (
    ConsensusInfo,
    EpochStatus,
    MempoolInfo,
    NetInfo,
    NodeStatus,
    PeerInfo,
    StageState,
    StageStatus,
)

MODEL = "toy"
CONTEXT = 64
SESSION = bytes(range(32))
MODEL_ID = b"\x0a" * 32

HOPS = tuple(
    RouteHop(
        name=f"node{i}",
        node_key=bytes([i + 1]) * 32,
        provider=bytes([i + 17]) * 32,
        shard=1 + i // 2,
        start=2 * i,
        end=2 * i + 2,
        input_price=40,
        output_price=160,
        latency_us=None if i == 0 else 100 * i,
        measured_us=1500,
    )
    for i in range(4)
)


@dataclass
class ToyModel:
    """The inference half of a backend."""

    log: list[str] = field(default_factory=list)
    """What happened to sessions, for tests."""

    def list_models(self) -> tuple[ServedModel, ...]:
        return (
            ServedModel(
                model_id=MODEL_ID,
                name=MODEL,
                created_ms=1_700_000_000_000,
                layers=8,
                context_length=CONTEXT,
                servable=True,
            ),
            ServedModel(
                model_id=b"\x0b" * 32,
                name="org/other",
                created_ms=1_700_000_000_000,
                layers=4,
                context_length=CONTEXT,
                servable=False,
                reason="layers [2, 4) have no provider",
            ),
        )

    def get_route(self, model: str) -> tuple[RouteHop, ...]:
        if model == "org/other":
            raise NoRoute("layers [2, 4) have no active provider")
        if model not in (MODEL, "0x" + MODEL_ID.hex()):
            raise UnknownModel(f"no model {model!r}", param="model")
        return HOPS

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Turn each text into its length and its number of words."""
        self.get_route(request.model)
        vectors, tokens = [], 0
        for text in request.inputs:
            if text == "lost":
                raise StageLost("node2 is gone")
            words = text.split() if isinstance(text, str) else list(text)
            if len(words) > CONTEXT:
                raise PromptTooLong(f"{len(words)} tokens", param="input")
            tokens += len(words)
            vectors.append(struct.pack("<3f", len(text), len(words), 0.5))
        return Embeddings(
            vectors=tuple(vectors),
            prompt_tokens=tokens,
            sessions=(SESSION,) * len(vectors),
            price=7 * tokens,
        )

    async def complete(self, request: CompletionRequest):
        route = self.get_route(request.model)
        words = _get_words(request)
        _refuse(words)
        limit = request.max_tokens or CONTEXT - len(words)
        if len(words) + limit > CONTEXT:
            raise PromptTooLong(
                f"{len(words)} + {limit} tokens, the context has {CONTEXT}",
                param="messages",
            )
        self.log.append("opened")
        self.asked = request
        try:
            yield Started(session=SESSION, route=route, prompt_tokens=len(words))
            spoken, text, reason = 0, "", "length"
            for piece in _speak(words, request.sampling):
                if spoken == limit:
                    break
                await trio.lowlevel.checkpoint()
                if piece.strip() == "wait":
                    self.log.append("waiting")
                    await trio.sleep_forever()
                if piece.strip() == "break" and spoken:
                    raise StageLost("node2 is gone")
                if piece.strip() == "crash" and spoken:
                    raise ZeroDivisionError
                spoken += 1
                cut = _find_stop(text + piece, request.sampling.stop)
                if cut is not None:
                    yield Delta(text=(text + piece)[len(text) : cut])
                    reason = "stop"
                    break
                text += piece
                yield Delta(text=piece, logprobs=_explain(piece, request.sampling))
            else:
                reason = "stop"
            self.log.append("finished")
            yield Finished(
                reason=reason,
                prompt_tokens=len(words),
                completion_tokens=spoken,
                guesses=3,
                right_guesses=2,
                hops=tuple(_report(hop, spoken) for hop in route),
            )
        finally:
            self.log.append("closed")


def _get_words(request: CompletionRequest) -> list[str]:
    if request.messages:
        return request.messages[-1].content.split()
    if isinstance(request.prompt, tuple):
        return [f"t{token}" for token in request.prompt]
    return request.prompt.split()


def _refuse(words: list[str]) -> None:
    if "poor" in words:
        raise InsufficientFunds("the wallet holds 3 atoms")
    if "nowhere" in words:
        raise NoRoute("layers [4, 6) have no active provider")
    if "busy" in words:
        raise Overloaded("every slot is taken")


def _speak(words: list[str], sampling: SamplingParams):
    order = list(words)
    if sampling.temperature > 0:
        random.Random(sampling.seed).shuffle(order)
    first = True
    while True:
        for word in order:
            yield word if first else " " + word
            first = False
        if not sampling.ignore_eos:
            return


def _explain(piece: str, sampling: SamplingParams) -> tuple[TokenLogprob, ...]:
    if sampling.logprobs is None:
        return ()
    chosen = TokenLogprob(1, piece, -0.5)
    others = (chosen, TokenLogprob(2, "other", -1.0))
    return (chosen, *others[: sampling.logprobs])


def _find_stop(text: str, stops: tuple[str, ...]) -> int | None:
    found = [at for at in map(text.find, stops) if at >= 0]
    return min(found) if found else None


def _report(hop: RouteHop, steps: int) -> HopReport:
    return HopReport(
        name=hop.name,
        node_key=hop.node_key,
        start=hop.start,
        end=hop.end,
        steps=steps,
        step_us=700,
        price=steps * 2 * hop.output_price,
        channel_id=hop.node_key,
        vouchers=1,
    )


class ToyNode(ToyModel):
    """The node half: fixed numbers where nothing needs to move."""

    def get_status(self) -> NodeStatus:
        return NodeStatus(
            name="toy",
            version="0",
            network="test",
            chain_id=bytes(32),
            node_id=b"\x01" * 32,
            address=b"\x02" * 32,
            listen=("p2p://" + "01" * 32 + "@127.0.0.1:1",),
            height=7,
            block_hash=b"\x03" * 32,
            time_ms=1_700_000_000_123,
            epoch=EpochStatus(number=0, first_height=1, last_height=60),
            view=8,
            syncing=False,
            best_known_height=7,
            first_height=0,
            shard_sync=None,
            state_sync=None,
            peers=1,
            mempool_transactions=0,
            mempool_bytes=0,
            validator=None,
            stages=(
                StageStatus(
                    role="stage",
                    model_id=MODEL_ID,
                    start=0,
                    end=2,
                    state=StageState.READY,
                    pid=4242,
                ),
            ),
            waiting_for="",
        )

    def get_net_info(self) -> NetInfo:
        peer = PeerInfo(
            node_id=b"\x04" * 32,
            address="127.0.0.1:2",
            outbound=True,
            connected_ms=5_000,
            rtt_us=130,
            bytes_in=2**40,
            bytes_out=7,
            score=0,
            height=None,
        )
        return NetInfo(node_id=b"\x01" * 32, listen=(), peers=(peer,))

    def get_consensus_info(self) -> ConsensusInfo:
        return ConsensusInfo(
            epoch=0,
            view=8,
            leader=3,
            index=0,
            is_voting=True,
            mute_reason="",
            final_height=7,
            final_view=7,
            final_hash=b"\x03" * 32,
            total_power=400,
        )

    def get_mempool(self, limit: int) -> MempoolInfo:
        return MempoolInfo(count=0, total_bytes=0, transactions=())

    def list_receipts(self, limit: int):
        return ()

    def list_own_channels(self):
        return ()

    async def read_foreign(self, key, shards, oldest=0):
        """No peer shows anything."""
        await trio.lowlevel.checkpoint()
        return {}

    async def wait_height(self, height: int) -> None:
        await trio.sleep_forever()


def now_ms() -> int:
    return time.time_ns() // 1_000_000
