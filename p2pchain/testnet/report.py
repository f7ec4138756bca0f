"""What a run came to, for people and programs."""

from dataclasses import dataclass
from typing import Any

from p2pchain.testnet.checks import Finding
from p2pchain.testnet.timeline import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of a run."""

    name: str
    seconds: float
    height: int
    failure: str
    """Why the run ended early; empty when it did not."""
    findings: tuple[Finding, ...]
    nodes: tuple[dict[str, Any], ...]
    load: dict[str, Any]
    timeline: tuple[Entry, ...]
    folder: str
    """Where the homes are."""

    @property
    def ok(self) -> bool:
        """Whether everything was done and every check holds."""
        return not self.failure and all(finding.ok for finding in self.findings)

    @property
    def reason(self) -> str:
        """The first thing that is wrong, in one line."""
        if self.failure:
            return self.failure.splitlines()[0]
        wrong = next((f for f in self.findings if not f.ok), None)
        return f"{wrong.name}: {wrong.text.splitlines()[0]}" if wrong else ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as one document."""
        return {
            "name": self.name,
            "ok": self.ok,
            "reason": self.reason,
            "failure": self.failure,
            "seconds": round(self.seconds, 1),
            "height": str(self.height),
            "checks": [
                {"name": f.name, "ok": f.ok, "text": f.text} for f in self.findings
            ],
            "nodes": list(self.nodes),
            "load": self.load,
            "timeline": [
                {
                    "seconds": round(entry.seconds, 1),
                    "height": str(entry.height),
                    "node": entry.node,
                    "text": entry.text,
                }
                for entry in self.timeline
            ],
            "folder": self.folder,
        }
