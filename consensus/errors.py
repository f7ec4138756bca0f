"""
What consensus raises, sorted by whose fault it is.

    RemoteError
    |- InvalidCertificate   a certificate that does not hold what it claims
    |- InvalidEvidence      two statements that convict nobody
    |- InvalidValidators    a list that cannot be a validator set
    LocalError
    |- CorruptWal           the log holds something that we never wrote
    |- LostWal              the log is not there: we may have voted and forgotten
    |- WrongWal             the log of another key or another chain

Messages that are refused inside the core raise nothing: the core answers with a
`Refuse` effect that carries a `Reason` (consensus/effects.py).
"""

from primitives.errors import LocalError, RemoteError


class InvalidCertificate(RemoteError):
    """A certificate of the wrong form, without a quorum, or with a false signature."""


class InvalidEvidence(RemoteError):
    """Two statements that may stand beside each other, or that nobody signed."""


class InvalidValidators(RemoteError):
    """Not a validator set: empty, too long, a power of zero, or a key twice."""


class CorruptWal(LocalError):
    """Records in the middle of the log do not check; its promises are unknown."""


class LostWal(LocalError):
    """There is no log where `init` wrote one."""


class WrongWal(LocalError):
    """The log belongs to another key or another chain."""
