"""What a requester demands of an answer before it pays for it."""

from inference.protocol.errors import WrongAnswer
from inference.protocol.messages import Data
from inference.protocol.steps import Step
from inference.session.plan import SessionPlan


def check_answer(
    plan: SessionPlan,
    attempt: int,
    step: Step,
    peers: tuple[bytes, ...],
    data: Data,
    body: bytes,
) -> None:
    """Check the last hop's answer to `step`; the sampler judges the numbers later.

    Args:
        plan: The session's plan.
        attempt: Number of the route.
        step: What was sent.
        peers: Node keys of the hops that it went through.
        data: What came.
        body: Hidden states that came with it.

    Raises:
        WrongAnswer: To another step, of another shape or length, or not finite.
    """
    peer_id = peers[-1]
    said = (data.attempt, data.step, data.position, data.tokens)
    if said != (attempt, step.number, step.position, step.tokens):
        text = f"an answer to step {data.step} where {step.number} is due"
        raise WrongAnswer(text, peer_id=peer_id)
    form = plan.wire
    if not form.is_of(data):
        raise WrongAnswer("an answer of another shape or form", peer_id=peer_id)
    size = form.compute_size(step.tokens)
    if len(body) != size:
        text = f"an answer of {len(body)} bytes where {size} are due"
        raise WrongAnswer(text, peer_id=peer_id)
    if not form.is_finite(body):
        raise WrongAnswer("an answer that is not finite numbers", peer_id=peer_id)
    if len(data.timings) != len(peers):
        text = f"an answer that went through {len(data.timings)} hops"
        raise WrongAnswer(text, peer_id=peer_id)
