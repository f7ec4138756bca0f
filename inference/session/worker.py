"""Our own worker's part in a session: what is asked of it, and what it says."""

from inference.errors import BadAnswer
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


async def sample(
    worker: RequesterWorker, session_id: bytes, effect: Sample
) -> Sampled | AnswerRejected | LocalFailed:
    """Choose tokens from the answer to a step."""
    try:
        choice = await worker.choose(
            session_id, effect.body, effect.tokens, effect.drafts, effect.wanted
        )
    except BadAnswer as error:
        return AnswerRejected(str(error))
    except P2PChainError as error:
        return LocalFailed(error)
    return Sampled(choice)
