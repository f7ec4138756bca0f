"""Why there is no answer, or no more of it, in the words of the API."""

from inference.errors import BadPrompt, Busy
from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopRefused, SessionError
from p2pchain.api.errors import NoRoute, Overloaded, PromptTooLong, StageLost
from primitives.errors import P2PChainError


def translate_error(error: Exception) -> Exception:
    """Return what the reader is told of a session's end."""
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
