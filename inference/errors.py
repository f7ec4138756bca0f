"""
Errors of this package, by whose fault they are.

    LocalError
    |- ModelError            the model directory cannot be served
    |  |- BadWeights         files missing, damaged, or not what was announced
    |  |- CacheFull          the cache of weights is too small for what is in use
    |  |- DiskFull           the disk does not take weights
    |  |- UnsupportedModel   a model that cannot be split exactly; says why
    |     |- NotCertified    the split probe found that out; carries the certificate
    |- WorkerError
       |- WorkerLost         the worker died or is not running; the call may be repeated
       |- NoMemory           memory ran out in this session's step; it was closed
       |- WorkerFailed       the worker cannot start; says why
    RemoteError
    |- BadRequest            the caller asked for something that makes no sense
    |  |- UnknownSession     no session of that name is open
    |  |- WrongPosition      a gap before this step, or beyond the session's end
    |- WrongPart             a part of a model's weights that does not hash to its name
    |- BadAnswer             hidden states of a wrong length, or not finite numbers
    |- BadPrompt             text or messages that cannot be turned into tokens
    MissingError
    |- Busy                  no room now; try later or elsewhere

Errors cross the socket between a worker and the node as their `code` and text.
"""

from typing import ClassVar

from primitives.errors import LocalError, MissingError, P2PChainError, RemoteError


class ModelError(LocalError):
    """The model directory cannot be served."""

    code: ClassVar[int] = 1


class BadWeights(ModelError):
    """Files are missing, damaged, or not what the manifest says."""

    code: ClassVar[int] = 2


class CacheFull(ModelError):
    """The cache of weights is too small for what is in use."""


class DiskFull(ModelError):
    """The disk does not take weights, or would have too little left."""


class UnsupportedModel(ModelError):
    """This model cannot be split exactly; the text says why."""

    code: ClassVar[int] = 3


class NotCertified(UnsupportedModel):
    """The split probe refused this model; the text is the certificate's reason."""


class WorkerError(LocalError):
    """Something went wrong in a worker process."""

    code: ClassVar[int] = 4


class WorkerLost(WorkerError):
    """The worker died during the call or is not running now."""

    code: ClassVar[int] = 5


class WorkerFailed(WorkerError):
    """The worker cannot start, and trying again will not help."""

    code: ClassVar[int] = 6


class BadRequest(RemoteError):
    """The caller asked for something that makes no sense."""

    code: ClassVar[int] = 7


class UnknownSession(BadRequest):
    """No session of that name is open here."""

    code: ClassVar[int] = 8


class WrongPosition(BadRequest):
    """The step leaves a gap, or ends beyond the session's last position."""

    code: ClassVar[int] = 9


class WrongPart(RemoteError):
    """Bytes that are not the part of a model that was asked for."""


class BadAnswer(RemoteError):
    """Hidden states came back with a wrong length or with NaN or infinity."""

    code: ClassVar[int] = 10


class BadPrompt(RemoteError):
    """Text or messages that this model cannot turn into tokens."""

    code: ClassVar[int] = 11


class Busy(MissingError):
    """No room for another session or call now."""

    code: ClassVar[int] = 12


class NoMemory(WorkerError):
    """Memory ran out in a step of this session, which is closed by that."""

    code: ClassVar[int] = 13


type_of_code: dict[int, type[P2PChainError]] = {
    kind.code: kind
    for kind in (
        ModelError,
        BadWeights,
        UnsupportedModel,
        WorkerError,
        WorkerLost,
        WorkerFailed,
        BadRequest,
        UnknownSession,
        WrongPosition,
        BadAnswer,
        BadPrompt,
        Busy,
        NoMemory,
    )
}
"""Which error a code on the worker's socket stands for."""
