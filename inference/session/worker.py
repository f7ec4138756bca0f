"""Our own worker's part in a session: what is asked of it, and what it says."""

from collections.abc import Callable

from inference.errors import BadAnswer
from inference.sampling.params import Choice
from inference.session.events import (
    AnswerRejected,
    Embed,
    Embedded,
    LocalFailed,
    Sample,
    Sampled,
)
from inference.session.ports import RequesterWorker
from primitives.errors import P2PChainError


async def embed(
    worker: RequesterWorker, session_id: bytes, effect: Embed
) -> Embedded | LocalFailed:
    """Look tokens up."""
    try:
        body = await worker.embed(session_id, effect.position, effect.token_ids)
    except P2PChainError as error:
        return LocalFailed(error)
    return Embedded(effect.step, body)


def begin_sample(
    worker: RequesterWorker,
    session_id: bytes,
    effect: Sample,
    post: Callable[[Sampled | AnswerRejected | LocalFailed], None],
) -> LocalFailed | None:
    """Let tokens be chosen from the answer to a step.

    Args:
        worker: Ours.
        session_id: Of the session.
        effect: The answer.
        post: Gets what comes of it; later.

    Returns:
        Why it cannot begin, if so.
    """

    def on_done(choice: Choice | P2PChainError) -> None:
        if isinstance(choice, BadAnswer):
            post(AnswerRejected(str(choice)))
        elif isinstance(choice, P2PChainError):
            post(LocalFailed(choice))
        else:
            post(Sampled(choice))

    try:
        worker.begin_choose(
            session_id,
            effect.body,
            effect.tokens,
            effect.drafts,
            effect.wanted,
            on_done,
        )
    except P2PChainError as error:
        return LocalFailed(error)
    return None
