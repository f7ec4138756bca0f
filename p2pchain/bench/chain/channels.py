"""Steps of a payment channel: pay, accept, both books on LevelDB."""

import time

from chain.records.channel import Channel, ChannelStatus
from chain.storage.leveldb import LevelStore
from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.report import Figure, summarise
from primitives.keys import SecretKey
from wallet.book import PayeeBook, PayerBook
from wallet.payee import PayeeChannel
from wallet.payer import PayerChannel

UNITS = 8
"""Of a decode step; 128 steps to a voucher, as in sessions."""
STEPS = 2000
ROUNDS = 5
CHAIN_ID = bytes(32)


def run_channels(lab: Lab) -> list[Figure]:
    """Pay and accept step by step; both books write before anything goes on."""
    signer, payer, payee = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
    channel = _open(signer, payer.public_key, payee.public_key)
    spent: dict[str, list[float]] = {"pay": [], "accept": [], "wall": []}
    with (
        LevelStore(lab.folder / "payer") as payer_store,
        LevelStore(lab.folder / "payee") as payee_store,
    ):
        payers, payees = PayerBook(payer_store, signer), PayeeBook(payee_store)
        payers.add(PayerChannel.from_channel(CHAIN_ID, channel, signer))
        payees.add(PayeeChannel.from_channel(CHAIN_ID, channel))
        for _ in range(ROUNDS):
            wall, paying, accepting = time.perf_counter(), 0.0, 0.0
            for _ in range(STEPS):
                started = time.process_time()
                payment = payers.pay(channel.channel_id, UNITS)
                paid = time.process_time()
                units = payees.accept(channel.channel_id, payment)
                accepting += time.process_time() - paid
                paying += paid - started
                assert units == UNITS
            spent["pay"].append(paying / STEPS)
            spent["accept"].append(accepting / STEPS)
            spent["wall"].append((time.perf_counter() - wall) / STEPS)
    both = [a + b for a, b in zip(spent["pay"], spent["accept"], strict=True)]
    return [
        summarise("steps", [1 / s for s in both], "per s and core",
                  f"{UNITS} units each; payer and payee together"),
        summarise("pay", [s * 1e6 for s in spent["pay"]], "us CPU"),
        summarise("accept", [s * 1e6 for s in spent["accept"]], "us CPU"),
        summarise("step by the clock", [s * 1e6 for s in spent["wall"]], "us",
                  "with the disk's syncs, one per voucher and book"),
    ]  # fmt: skip


def _open(signer: SecretKey, payer: bytes, payee: bytes) -> Channel:
    """Return a channel as the chain would show it after its opening."""
    return Channel(
        channel_id=bytes(31) + b"\7",
        shard=0,
        payer=payer,
        payee=payee,
        signer=signer.public_key,
        deposit=2 * UNITS * STEPS * ROUNDS,
        unit_price=1,
        settled=0,
        status=ChannelStatus.OPEN,
        close_height=0,
        opened_height=1,
        settlements=0,
        worked=0,
    )
