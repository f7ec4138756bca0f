"""A small real channel for the tests of both of its sides."""

from chain.records.channel import Channel, ChannelStatus, compute_channel_id
from primitives.keys import SecretKey
from wallet.payee import PayeeChannel
from wallet.payer import PayerChannel, derive_session_key

CHAIN_ID = b"\x01" * 32
PAYER = SecretKey(b"\x02" * 32)
PAYEE = SecretKey(b"\x03" * 32)
SESSION = derive_session_key(PAYER)


def build_channel(*, deposit=100_000, unit_price=7, nonce=0, settled=0):
    """Return a channel as the chain's state shows it after its opening."""
    channel_id = compute_channel_id(
        CHAIN_ID, 1, PAYER.public_key, PAYEE.public_key, SESSION.public_key, nonce, 0
    )
    return Channel(
        channel_id=channel_id,
        shard=1,
        payer=PAYER.public_key,
        payee=PAYEE.public_key,
        signer=SESSION.public_key,
        deposit=deposit,
        unit_price=unit_price,
        settled=settled,
        status=ChannelStatus.OPEN,
        close_height=0,
        opened_height=1,
        settlements=0,
        worked=0,
    )


def open_both(**changes):
    """Return the payer's and the payee's side of one fresh channel."""
    channel = build_channel(**changes)
    payer = PayerChannel.from_channel(CHAIN_ID, channel, SESSION)
    return payer, PayeeChannel.from_channel(CHAIN_ID, channel)
