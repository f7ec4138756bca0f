"""The vectors in the protocol page are those of the code."""

import re
from pathlib import Path

from network.errors import GoodbyeCode, ResetCode
from network.frames import (
    Accept,
    Credit,
    Data,
    End,
    Goodbye,
    News,
    Open,
    Ping,
    Reset,
    encode_frame,
)
from network.handshake import LocalIdentity
from network.topics import TOPICS, Topic
from primitives.hashing import compute_hash
from primitives.keys import SecretKey

PAGE = Path(__file__).parents[2] / "docs" / "protocol" / "09-network.md"


def test_the_page_shows_what_the_code_does() -> None:
    identity = LocalIdentity(SecretKey(bytes(32)), bytes(32), 0)
    digest = compute_hash("net-identity", identity.chain_tag, b"\x01" * 32, b"\x02" * 8)
    frames = [
        Ping(1),
        Accept(),
        Goodbye(GoodbyeCode.BANNED),
        News(Topic.CONSENSUS, False, 4, b"vote"),
        News(Topic.CONSENSUS, True, 4, b"vote"),
        Open(1, "echo"),
        Data(1, 2, b"hi"),
        Credit(1, 65_536),
        End(1),
        Reset(1, ResetCode.BUSY),
    ]
    expected = [identity.preamble, identity.chain_tag, digest]
    expected += [encode_frame(frame) for frame in frames]
    vectors = PAGE.read_text().split("## Vectors")[1]
    assert re.findall(r"`([0-9a-f]+)`", vectors) == [data.hex() for data in expected]


def test_the_page_lists_all_codes_and_topics() -> None:
    text = PAGE.read_text()
    for code in [*GoodbyeCode, *ResetCode]:
        assert f"{code.value} {code.name}" in text
    for topic, params in TOPICS.items():
        size = params.bytes_per_s
        volume = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
        rate = f"{params.count_per_s:,} messages, {volume}"
        start = f"| {topic.value} {topic.name.lower()} |"
        row = next(line for line in text.splitlines() if line.startswith(start))
        assert row.endswith(f"{rate} |")
