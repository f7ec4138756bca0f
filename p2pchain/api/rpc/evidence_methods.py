"""Methods about evidence: what was proven against whom, and how to bring some."""

from typing import Any

from chain.errors import MissingFraudProof, UnjudgedFraud, UselessEvidence
from p2pchain.api.backend import Backend
from p2pchain.api.errors import EvidenceRefused
from p2pchain.api.params import BYTES, LIMIT, TEXT, Param
from p2pchain.api.rpc.method import Access, Method
from p2pchain.api.views.evidence import build_evidence_list, render_verdict

Json = dict[str, Any]


async def broadcast_evidence(backend: Backend, evidence: bytes) -> Json:
    """Verify, keep and gossip; return what it proves."""
    try:
        verdict = backend.submit_evidence(evidence)
    except (UselessEvidence, MissingFraudProof, UnjudgedFraud) as error:
        raise EvidenceRefused(str(error)) from error
    return render_verdict(backend, verdict)


async def list_evidence(backend: Backend, limit: int, after: str | None) -> Json:
    """Return waiting evidence, and applied evidence, newest first."""
    return build_evidence_list(backend, limit, after)


METHODS = (
    Method(
        "broadcast_evidence",
        "Bring two votes or certificates that exclude each other",
        broadcast_evidence,
        (Param("evidence", BYTES, "canonical bytes of a piece of evidence"),),
        Access.WRITE,
    ),
    Method(
        "evidence_list",
        "Evidence that waits, and what final blocks applied, newest first",
        list_evidence,
        (
            Param("limit", LIMIT, "at most 100", 25),
            Param("after", TEXT, "`next` of the page before", None),
        ),
    ),
)
