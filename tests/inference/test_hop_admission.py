"""Which sessions a provider opens, and with which words it refuses the others."""

import msgspec
import pytest
import trio
from session_world import (
    UNIT_PRICE,
    Dialer,
    build_key,
    open_world,
    run,
)

from chain.records.channel import ChannelStatus
from inference.hop.ports import HopLimits
from inference.protocol.activations import Dtype
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.messages import (
    HOP_PROTOCOL,
    PUSH_PROTOCOL,
    VERSION,
    Abort,
    Accept,
    Data,
    Open,
    Probe,
    Progress,
    Refuse,
    Unlinked,
    compute_open_message,
    decode_frame,
    encode_frame,
)
from inference.session.route import Route

INVALID = RefuseCode.INVALID
TERMS = RefuseCode.TERMS
NOT_SERVED = RefuseCode.NOT_SERVED
CHANNEL = RefuseCode.CHANNEL


def dial(world, name="client-node"):
    return Dialer(world, build_key(name).public_key, None)


async def ask(world, *, signer=None, arrears=None, **changes):
    """Open a session at hop 0 of one and return stream and answer."""
    signer = signer or world.signer
    terms = Route(world.plan([1, 2, 3], 10), world.signer.public_key).hops[0].terms
    terms = msgspec.structs.replace(terms, **changes)
    signature = signer.sign(compute_open_message(terms))
    hop = world.hops[0]
    stream = await dial(world).open_stream(hop.key.public_key, HOP_PROTOCOL)
    await stream.send(encode_frame(Open(terms, arrears, signature)))
    message, _ = decode_frame(await stream.receive())
    return stream, message


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"version": VERSION + 1}, INVALID, "version"),
        ({"chain_id": bytes(32)}, INVALID, "another chain"),
        ({"provider": bytes(32)}, INVALID, "another provider"),
        ({"profile": bytes(32)}, NOT_SERVED, "profile"),
        ({"start": 1}, NOT_SERVED, "range"),
        ({"end": 3}, NOT_SERVED, "range"),
        ({"hidden_size": 17}, TERMS, "hidden states"),
        ({"dtype": Dtype.BFLOAT16}, TERMS, "float32"),
        ({"dtype": 200}, TERMS, "hidden states"),
        ({"prompt_tokens": 0}, TERMS, "positions"),
        ({"prompt_tokens": 14}, TERMS, "positions"),
        ({"max_positions": 5000}, TERMS, "4096 positions"),
        ({"input_price": 2}, TERMS, "prices"),
        ({"output_price": 19}, TERMS, "prices"),
        ({"client": bytes(32)}, CHANNEL, "another client"),
        ({"channel_id": bytes(32)}, CHANNEL, "no such"),
        ({"unit_price": 1}, CHANNEL, "unit price"),
        ({"unit_price": 0}, CHANNEL, "unit price"),
        ({"input_price": 2**62}, TERMS, "units per receipt"),
        ({"output_price": 2**62}, TERMS, "units per receipt"),
        ({"next": bytes(32)}, RefuseCode.UNREACHABLE, "out of reach"),
    ],
)
def test_refusals(changes, code, text):
    async def test():
        async with open_world(hops=1) as world:
            _, message = await ask(world, **changes)
            assert isinstance(message, Refuse)
            assert message.code == code
            assert text in message.text
            await world.rest()

    run(test)


def test_acceptance_and_higher_prices():
    async def test():
        async with open_world(hops=1) as world:
            stream, message = await ask(world, input_price=4, output_price=21)
            assert isinstance(message, Accept)
            stream.abort()
            await world.rest()

    run(test)


def test_terms_are_signed_by_the_channels_signer():
    """Or a stranger could leave arrears on somebody's channel."""

    async def test():
        async with open_world(hops=1) as world:
            thief = build_key("thief")
            _, message = await ask(world, signer=thief)
            assert (message.code, world.hops[0].stage.sessions) == (INVALID, {})

    run(test)


def test_another_signer_is_another_channel():
    async def test():
        async with open_world(hops=1) as world:
            thief = build_key("thief")
            world.signer, honest = thief, world.signer
            _, message = await ask(world)
            assert (message.code, message.text) == (
                CHANNEL,
                "the channel is another client's",
            )
            world.signer = honest

    run(test)


def test_closing_channels_open_nothing():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            channel = world.channels[hop.channel_id]
            closing = msgspec.structs.replace(channel, status=ChannelStatus.CLOSING)
            world.channels[hop.channel_id] = closing
            _, message = await ask(world)
            assert message.code == CHANNEL

    run(test)


def test_empty_deposit():
    async def test():
        async with open_world(hops=1) as world:
            world.open_channel(world.hops[0], deposit=UNIT_PRICE)
            _, message = await ask(world)
            assert message.code == RefuseCode.DEPOSIT

    run(test)


def test_no_layers_ready():
    async def test():
        async with open_world(hops=1) as world:
            world.hops[0].is_serving = False
            _, message = await ask(world)
            assert message.code == NOT_SERVED

    run(test)


def test_bounds_on_sessions():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            hop.limits = HopLimits(max_sessions=5)
            hop.start_service()
            streams = []
            for _ in range(3):
                stream, message = await ask(world)
                assert isinstance(message, Accept)
                streams.append(stream)
            _, message = await ask(world)
            assert (message.code, message.text) == (
                RefuseCode.BUSY,
                "3 sessions of this peer are open, and 2 places",
            )
            for stream in streams:
                stream.abort()
            await world.rest()
            stream, message = await ask(world)
            assert isinstance(message, Accept)

    run(test)


def test_a_session_is_open_once():
    async def test():
        async with open_world(hops=1) as world:
            session = b"\7" * 32
            await ask(world, session=session)
            _, message = await ask(world, session=session)
            assert (message.code, message.text) == (
                INVALID,
                "the session is open already",
            )

    run(test)


def test_invalid_arrears():
    async def test():
        async with open_world(hops=1) as world:
            payment = world.purse.pay(world.hops[0].channel_id, 3)
            broken = msgspec.structs.replace(payment, used=1)
            _, message = await ask(world, arrears=broken)
            assert message.code == INVALID
            await world.rest()
            # Arrears that are not owed stay in the pool for the first step.
            _, message = await ask(world, arrears=payment)
            assert isinstance(message, Accept)

    run(test)


# First frames


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"junk",
        bytes(5000),
        encode_frame(Probe(bytes(32), 0)),
        encode_frame(Abort(bytes(32), 1, "", None)),
    ],
)
@pytest.mark.parametrize("protocol", [HOP_PROTOCOL, PUSH_PROTOCOL])
def test_streams_that_begin_with_nonsense(frame, protocol):
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            stream = await dial(world).open_stream(hop.key.public_key, protocol)
            await stream.send(frame)
            with trio.fail_after(5), pytest.raises(Exception, match="ended"):
                await stream.receive()
            is_stale = protocol == PUSH_PROTOCOL and frame.endswith(b"\xc0")
            assert len(hop.faults) == (0 if is_stale else 1)

    run(test)


@pytest.mark.parametrize("protocol", [HOP_PROTOCOL, PUSH_PROTOCOL])
def test_streams_that_begin_with_silence(protocol):
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            stream = await dial(world).open_stream(hop.key.public_key, protocol)
            with trio.fail_after(200), pytest.raises(Exception, match="ended"):
                await stream.receive()
            assert not hop.faults

    run(test)


def test_pushes_from_a_stranger_are_not_taken():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]
            friend = build_key("friend").public_key
            session = b"\7" * 32
            stream, _ = await ask(world, session=session, previous=friend)
            data = Data(session, 0, 0, 0, 3, 16, 1, (), None, None)
            frame = encode_frame(data, bytes(3 * 64))

            stranger = await dial(world, "stranger").open_stream(
                hop.key.public_key, PUSH_PROTOCOL
            )
            await stranger.send(frame)
            with pytest.raises(Exception, match="ended"):
                await stranger.receive()
            # The session goes on; the requester's own data would be out of place too.
            await stream.send(encode_frame(Probe(session, 0)))
            message, _ = decode_frame(await stream.receive())
            assert message == Progress(session, 0, 1, 0)

            # The friend's is looked at, and has no receipt.
            pusher = await dial(world, "friend").open_stream(
                hop.key.public_key, PUSH_PROTOCOL
            )
            await pusher.send(frame)
            message, _ = decode_frame(await stream.receive())
            assert isinstance(message, Unlinked)
            assert (message.peer, message.code) == (friend, AbortCode.BAD_RECEIPT)

    run(test)
