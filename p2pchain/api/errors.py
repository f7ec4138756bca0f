"""
Errors of the api.

    LocalError
    |- BindFailed            we cannot listen (a taken port: p2pchain.errors.PortInUse)
    |- BridgeClosed          the node is shutting down
    RemoteError
    |- RequestRefused        cannot be done; has a status and a code
       |- InvalidParams          400  malformed, missing or out of range
       |- Unauthorized           401  missing or wrong token
       |- InsufficientFunds      402  the wallet holds too little
       |- NotFound               404  no such block, transaction, channel...
       |- MethodNotFound         404  no such method
       |- BodyTooLarge           413  more bytes than we read
       |- TransactionRejected    422  the chain's rules refuse it
       |- NotFollowed            404  about a shard that this node does not follow
       |- EvidenceRefused        422  genuine or not, it would convict nobody now
       |- Timeout                504  it may still happen, after the caller's wait
       |- UnknownModel           404  no such model
       |- PromptTooLong          400  more tokens than the model's context
       |- Unsupported            400  a known parameter that we do not do
       |- Overloaded             429  every worker is busy
       |- NoRoute                503  some layers have no provider now
       |- StageLost              502  a hop was lost in mid-answer
       |- NotReady               503  not yet; try again
       |- ShuttingDown           503  the node stops
       |- InternalError          500  our own fault; the log has it

A refusal carries what every surface needs: the HTTP status, the JSON-RPC code
(EIP-1474, or EIP-1193's 4100 for a missing token), and a stable word for programs.
"""

import logging
from typing import ClassVar

import chain.errors
import wallet.errors
from primitives.errors import LocalError, MissingError, RemoteError

_log = logging.getLogger(__name__)


class BindFailed(LocalError):
    """The HTTP server cannot listen where it was told to."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {reason}")
        self.host = host
        self.port = port


class BridgeClosed(LocalError):
    """The node side no longer takes requests."""


class RequestRefused(RemoteError):
    """A request that cannot be done, with what each surface shows of it."""

    status: ClassVar[int] = 400
    """HTTP status on REST surfaces."""
    rpc_code: ClassVar[int] = -32000
    """JSON-RPC error code."""
    word: ClassVar[str] = "invalid_request"
    """Stable, for programs."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidParams(RequestRefused):
    """A parameter is missing, unknown, malformed or out of range."""

    rpc_code = -32602
    word = "invalid_params"


class Unauthorized(RequestRefused):
    """No token, or not ours."""

    status = 401
    rpc_code = 4100
    word = "unauthorized"


class InsufficientFunds(RequestRefused):
    """The wallet holds too little in all shards together."""

    status = 402
    rpc_code = -32003
    word = "insufficient_funds"


class NotFound(RequestRefused):
    """The chain has no such thing (yet)."""

    status = 404
    rpc_code = -32001
    word = "not_found"


class MethodNotFound(RequestRefused):
    """No such method."""

    status = 404
    rpc_code = -32601
    word = "method_not_found"


class BodyTooLarge(RequestRefused):
    """More bytes than a request may have."""

    status = 413
    rpc_code = -32005
    word = "body_too_large"


class TransactionRejected(RequestRefused):
    """The chain's rules refuse the transaction."""

    status = 422
    rpc_code = -32003
    word = "transaction_rejected"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Name of the rule, for programs: "nonce_too_low", ..."""


class NotFollowed(RequestRefused):
    """This node does not follow the shard; one that does can answer."""

    status = 404
    rpc_code = -32006
    word = "shard_not_followed"


class EvidenceRefused(RequestRefused):
    """Too old, too early, or against nobody who is not convicted already."""

    status = 422
    rpc_code = -32003
    word = "evidence_refused"


class Timeout(RequestRefused):
    """Not final while the caller waited; it may still become so."""

    status = 504
    rpc_code = -32002
    word = "timeout"


class UnknownModel(RequestRefused):
    """The chain has no such model, or this node cannot ask for it."""

    status = 404
    rpc_code = -32001
    word = "model_not_found"


class PromptTooLong(RequestRefused):
    """Prompt and answer do not fit the model's context."""

    word = "context_length_exceeded"


class Unsupported(RequestRefused):
    """A parameter that others offer and we do not."""

    rpc_code = -32004
    word = "unsupported_parameter"


class Overloaded(RequestRefused):
    """Every slot is taken; try again."""

    status = 429
    rpc_code = -32005
    word = "overloaded"


class NoRoute(RequestRefused):
    """Some layers have no active, reachable provider."""

    status = 503
    rpc_code = -32002
    word = "no_route"


class StageLost(RequestRefused):
    """A hop died or broke the protocol; what it did not deliver is not paid."""

    status = 502
    rpc_code = -32002
    word = "stage_lost"


class ShuttingDown(RequestRefused):
    """The node is stopping."""

    status = 503
    rpc_code = -32002
    word = "shutting_down"


class NotReady(RequestRefused):
    """The node cannot do this yet; try again in a moment."""

    status = 503
    rpc_code = -32002
    word = "not_ready"


class InternalError(RequestRefused):
    """Our own fault; the caller learns no more than that."""

    status = 500
    rpc_code = -32603
    word = "internal_error"


def explain(error: BaseException) -> RequestRefused:
    """Return what the caller is told of `error`; logs what is our own fault."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a nursery's wrapping of one task's error
    match error:
        case RequestRefused():
            return error
        case chain.errors.InvalidTransaction():
            return TransactionRejected(str(error), reason=error.code)
        case wallet.errors.InsufficientFunds():
            return InsufficientFunds(str(error))
        case wallet.errors.UnknownChannel():
            return NotFound(str(error))
        case chain.errors.ShardNotFollowed():
            return NotFollowed(
                f"{error}; ask a node that follows it, or start this one with "
                f"--follow-shards all"
            )
        case wallet.errors.WalletError() | RemoteError():
            return InvalidParams(str(error))
        case (
            chain.errors.HistoryAbsent()
            | chain.errors.PrunedState()
            | chain.errors.UnknownShard()
        ):
            return NotFound(str(error))
        case MissingError():
            return NotReady(str(error))
        case BridgeClosed():
            return ShuttingDown(str(error))
    _log.error("a request failed: %r", error, exc_info=error)
    return InternalError("the node failed on this request; its log says why")
