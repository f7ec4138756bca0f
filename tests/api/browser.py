"""Headless Chromium: the text of a page, and what its script complained of."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory

BUDGET_MS = 2500
"""Of the page's own time, which stands still while it waits for answers: two polls."""
RUN_S = 60
"""What a start gets on a busy machine; a bound, not a measurement."""

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "Chromium is not installed (apt install chromium)"


@dataclass(frozen=True)
class Page:
    """What a browser made of an address."""

    html: str
    complaints: tuple[str, ...]
    """Of the console: errors of scripts, refused or failed requests."""

    @property
    def main(self) -> str:
        """The markup below the header, without raw JSON."""
        found = re.search(r'<main id="main">(.*)</main>', self.html, re.DOTALL)
        assert found, self.html[:2000]
        return re.sub(r"<pre>.*?</pre>", "", found[1], flags=re.DOTALL)

    @property
    def text(self) -> str:
        """What a reader sees of it, in one line."""
        plain = unescape(re.sub(r"<[^>]*>", " ", self.main))
        return re.sub(r"\s+", " ", plain).strip()


def open_page(url: str) -> Page:
    """Return a page after its script has had time to fill it."""
    assert COMMAND is not None, MISSING
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [COMMAND, "--headless", "--no-sandbox", "--disable-gpu",
             "--disable-background-networking", f"--user-data-dir={profile}",
             "--enable-logging=stderr", f"--virtual-time-budget={BUDGET_MS}",
             "--dump-dom", url],
            capture_output=True, text=True, timeout=RUN_S, check=False,
            env={"HOME": profile, "PATH": str(Path(COMMAND).parent) + ":/usr/bin:/bin"},
        )  # fmt: skip
    lines = done.stderr.splitlines()
    return Page(done.stdout, tuple(line for line in lines if ":CONSOLE" in line))
