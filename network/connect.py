"""
Making a connection: the handshake on a transport, then Accept or Goodbye.
"""

from collections.abc import Callable
from contextlib import suppress

import trio

from network.errors import (
    BadHandshake,
    GoodbyeCode,
    HandshakeFailed,
    HandshakeTimeout,
    ProtocolViolation,
    Refused,
    TamperedRecord,
)
from network.frames import Accept, Goodbye, decode_frames, encode_frame
from network.handshake import Handshake, RemoteIdentity
from network.records import RecordLayer

Judge = Callable[[RemoteIdentity], GoodbyeCode | None]
"""Says whether a responder takes a peer: None, or why not."""

_CHUNK = 1024
"""More than both sides send in a whole handshake."""


async def shake_hands(
    transport: trio.abc.Stream,
    handshake: Handshake,
    judge: Judge | None,
    timeout_s: float,
) -> tuple[RemoteIdentity, RecordLayer]:
    """Run `handshake` on `transport` until the connection is made.

    Args:
        transport: A fresh connection; stays the caller's to close.
        handshake: Our side of it.
        judge: A responder's; None for the initiator, who hears the other's judgement.
        timeout_s: For everything together.

    Raises:
        HandshakeFailed: One of its subclasses says why.
    """
    try:
        with trio.fail_after(timeout_s):
            remote, records = await _exchange(transport, handshake)
            if judge is None:
                await _hear_judgement(transport, records)
            else:
                await _judge(transport, records, judge(remote))
            return remote, records
    except trio.TooSlowError:
        raise HandshakeTimeout(f"no handshake within {timeout_s} s") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise BadHandshake("the connection broke in the handshake") from None


async def _exchange(
    transport: trio.abc.Stream, handshake: Handshake
) -> tuple[RemoteIdentity, RecordLayer]:
    if first := handshake.start():
        await transport.send_all(first)
    while not handshake.is_finished:
        data = await _receive(transport)
        try:
            reply = handshake.receive(data)
        except HandshakeFailed:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if handshake.farewell:
                    await transport.send_all(handshake.farewell)
            raise
        if reply:
            await transport.send_all(reply)
    assert handshake.remote is not None
    return handshake.remote, handshake.build_records()


async def _judge(
    transport: trio.abc.Stream, records: RecordLayer, code: GoodbyeCode | None
) -> None:
    frame = Accept() if code is None else Goodbye(code)
    await transport.send_all(records.seal(encode_frame(frame)))
    if code is not None:
        raise Refused(code)


async def _hear_judgement(transport: trio.abc.Stream, records: RecordLayer) -> None:
    try:
        while (plaintext := records.next_plaintext()) is None:
            records.feed(await _receive(transport))
        frames = decode_frames(plaintext)
    except (TamperedRecord, ProtocolViolation) as error:
        raise BadHandshake(str(error)) from error
    match frames:
        case [Accept()]:
            return
        case [Goodbye(code)]:
            raise Refused(code)
        case _:
            raise BadHandshake("neither accepted nor refused")


async def _receive(transport: trio.abc.Stream) -> bytes:
    data = await transport.receive_some(_CHUNK)
    if not data:
        raise BadHandshake("the connection ended in the handshake")
    return bytes(data)
