"""What a provider keeps of its customers, killed between any two writes."""

import pytest
from node_world import build_key, open_network, run
from wallet_helpers import CHAIN_ID, PAYEE, PAYER, SESSION, build_channel

from chain.records.channel import (
    Channel,
    ChannelStatus,
    Claim,
    Close,
    compute_total,
    verify_preimage,
)
from chain.records.proof import Receipt, WorkRecord
from inference.hop.channel_account import EMPTY_STANDING, Standing
from inference.protocol.account import SessionAccount
from p2pchain.node.money.cashing import cut_claim, plan_cashing, recover_session
from p2pchain.node.money.provider_book import ProviderBook, Settling
from primitives.kv import MemoryStore
from wallet.payer import PayerChannel

PROMPT = tuple(range(1, 40))


class CrashingStore(MemoryStore):
    """Dies at a write; `left` counts the writes until then."""

    left = 10**9

    def write(self, changes, *, sync=False):
        if self.left == 0:
            raise KeyboardInterrupt("killed")
        self.left -= 1
        super().write(changes, sync=sync)


def copy(store: MemoryStore) -> CrashingStore:
    again = CrashingStore()
    again.write(dict(store._values))
    return again


class Chain:
    """The channels that a book may look at."""

    def __init__(self, *channels: Channel) -> None:
        self.channels = {each.channel_id: each for each in channels}
        self.notices = 0

    def open_book(self, store: MemoryStore) -> ProviderBook:
        return ProviderBook(
            store, CHAIN_ID, PAYEE.public_key, self.channels.get, self.notice
        )

    def notice(self) -> None:
        self.notices += 1

    def close(self, channel: Channel) -> None:
        fields = {n: getattr(channel, n) for n in channel.__struct_fields__}
        self.channels[channel.channel_id] = Channel(
            **fields | {"status": ChannelStatus.CLOSED}
        )


def build_receipt(channel: Channel, nonce=0, session=b"s", **changes) -> Receipt:
    fields = {
        "chain_id": CHAIN_ID,
        "session": session.ljust(32, b"\0"),
        "channel_id": channel.channel_id,
        "client": PAYER.public_key,
        "node": bytes(32),
        "profile": bytes(32),
        "start": 0,
        "end": 4,
        "first_position": 0,
        "tokens": 16,
        "in_hash": bytes(32),
        "out_hash": bytes(32),
        "history_root": bytes(32),
        "price_units": 100,
        "nonce": nonce,
        "previous_hop": bytes(32),
        "previous_own": bytes(32),
        "expires_height": 1000,
        "signature": bytes(64),
    } | changes
    return Receipt(**fields)


def build_account(channel: Channel, *receipts: Receipt) -> SessionAccount:
    return recover_session(receipts, channel.unit_price)


def pay(channel: Channel, *units: int) -> list:
    """Return a payer's payments over a channel."""
    payer = PayerChannel.from_channel(CHAIN_ID, channel, SESSION)
    payments = []
    for each in units:
        payer, payment = payer.pay(each)
        payments.append(payment)
    return payments


def test_a_channel_that_pays_us() -> None:
    channel = build_channel(deposit=1000, unit_price=7)
    book = Chain(channel).open_book(MemoryStore())
    view = book.get_channel(channel.channel_id)
    assert view.is_open
    assert view.standing == EMPTY_STANDING
    assert (view.remaining_units, view.paid_units) == (1000 // 7, 0)
    assert book.accept_payment(channel.channel_id, pay(channel, 5)[0]) == 5
    view = book.get_channel(channel.channel_id)
    assert (view.remaining_units, view.paid_units) == (1000 // 7 - 5, 5)


def test_channels_that_are_none_of_our_business() -> None:
    channel = build_channel()
    chain = Chain(channel)
    store = MemoryStore()
    book = ProviderBook(
        store, CHAIN_ID, build_key("other").public_key, chain.channels.get, chain.notice
    )
    assert book.get_channel(channel.channel_id) is None
    assert book.get_channel(bytes(32)) is None
    # One that is over is not entered again, however often somebody names it.
    chain.close(channel)
    ours = chain.open_book(store)
    assert ours.get_channel(channel.channel_id) is None
    assert list(store.iterate(b"")) == []
    assert ours.get_total(channel.channel_id) == 0


def test_a_restart_keeps_everything() -> None:
    channel = build_channel()
    chain, store = Chain(channel), MemoryStore()
    book = chain.open_book(store)
    book.get_channel(channel.channel_id)
    for payment in pay(channel, 3, 4, 5):
        book.accept_payment(channel.channel_id, payment)
    standing = Standing(billed_units=14, paid_steps=2, receipts=3)
    book.save_standing(channel.channel_id, standing)
    account = build_account(channel, build_receipt(channel))
    book.on_session_closed(account)
    again = chain.open_book(store)
    view = again.get_channel(channel.channel_id)
    assert (view.paid_units, view.standing) == (12, standing)
    assert again.get_total(channel.channel_id) == 12 * channel.unit_price
    assert again.load_sessions(channel.channel_id) == [account]
    assert chain.notices == 1


def test_a_session_without_receipts_is_not_kept() -> None:
    channel = build_channel()
    chain, store = Chain(channel), MemoryStore()
    fields = {
        n: getattr(build_account(channel, build_receipt(channel)), n)
        for n in SessionAccount.__struct_fields__
    }
    chain.open_book(store).on_session_closed(
        SessionAccount(**fields | {"receipts": ()})
    )
    assert chain.notices == 0
    assert list(store.iterate(b"")) == []


def test_receipts_of_an_open_session_become_an_account() -> None:
    channel, other = build_channel(), build_channel(nonce=1)
    chain, store = Chain(channel, other), MemoryStore()
    book = chain.open_book(store)
    receipts = [
        build_receipt(channel, nonce, previous_own=bytes([index]) * 32, **place)
        for index, (nonce, place) in enumerate(
            [
                (2, {"tokens": 128}),
                (300, {"first_position": 128, "tokens": 40}),
                (70_000, {"first_position": 168, "tokens": 16}),
            ]
        )
    ]
    stranger = build_receipt(other, 1, b"t")
    for receipt in [*receipts, stranger]:
        book.keep_receipt(receipt)
    assert book.load_sessions(channel.channel_id) == []
    again = chain.open_book(store)
    (account,) = again.load_sessions(channel.channel_id)
    assert account.receipts == tuple(receipts)
    assert account.billed_units == 300
    assert [len(a.receipts) for a in again.load_sessions(other.channel_id)] == [1]
    assert not list(store.iterate(b"book/receipt/"))
    # And again: nothing is doubled.
    assert len(chain.open_book(store).load_sessions(channel.channel_id)) == 1


@pytest.mark.parametrize(
    ("tokens", "prompt"),
    [
        ((40,), 40),
        ((40, 16, 3), 40),
        ((128, 128, 16, 16), 256),
        ((128, 40, 16), 168),
        ((128, 17), 145),
        ((5,), 5),
    ],
)
def test_a_prompt_is_told_from_an_answer(tokens, prompt) -> None:
    channel = build_channel()
    receipts, position = [], 0
    for nonce, each in enumerate(tokens):
        receipts.append(
            build_receipt(
                channel,
                nonce,
                first_position=position,
                tokens=each,
                previous_own=bytes([nonce]) * 32,
            )
        )
        position += each
    account = recover_session(receipts, 7)
    assert (account.tokens_in, account.tokens_out) == (prompt, sum(tokens) - prompt)


def test_receipts_that_were_withdrawn_are_not_counted() -> None:
    channel = build_channel()
    receipts = [
        build_receipt(
            channel,
            nonce,
            first_position=first,
            tokens=tokens,
            previous_own=bytes([follows]) * 32,
        )
        for nonce, (first, tokens, follows) in enumerate(
            [
                (0, 128, 0),
                (0, 128, 0),
                (128, 24, 2),
                (128, 15, 2),
                # Guesses were wrong: the range goes back to an earlier position.
                (140, 16, 4),
                (159, 3, 5),
            ]
        )
    ]
    account = recover_session(receipts, 7)
    assert [receipt.nonce for receipt in account.receipts] == [1, 3, 4, 5]
    assert account.tokens_in + account.tokens_out == 162


def test_receipts_of_a_channel_that_is_over_are_dropped() -> None:
    channel = build_channel()
    chain, store = Chain(channel), MemoryStore()
    chain.open_book(store).keep_receipt(build_receipt(channel))
    chain.close(channel)
    chain.open_book(store)
    assert list(store.iterate(b"")) == []


def test_a_settlement_is_noted_finished_or_given_up() -> None:
    channel = build_channel()
    chain, store = Chain(channel), MemoryStore()
    book = chain.open_book(store)
    accounts = [
        build_account(channel, build_receipt(channel, n, name))
        for n, name in enumerate((b"a", b"b", b"c"))
    ]
    for account in accounts:
        book.on_session_closed(account)
    note = Settling(
        channel_id=channel.channel_id,
        total=100,
        sessions=tuple(account.session for account in accounts[:2]),
        last_height=50,
    )
    book.begin_settling([note])
    assert chain.open_book(store).get_settling(channel.channel_id) == note
    book.give_up_settling(note)
    assert chain.open_book(store).get_settling(channel.channel_id) is None
    assert len(book.load_sessions(channel.channel_id)) == 3
    book.begin_settling([note])
    book.finish_settling(note)
    book.flush()
    again = chain.open_book(store)
    assert again.get_settling(channel.channel_id) is None
    assert again.load_sessions(channel.channel_id) == [accounts[2]]


def test_a_channel_is_forgotten_whole() -> None:
    channel, other = build_channel(), build_channel(nonce=1)
    chain, store = Chain(channel, other), MemoryStore()
    book = chain.open_book(store)
    for each in (channel, other):
        book.get_channel(each.channel_id)
        book.accept_payment(each.channel_id, pay(each, 3)[0])
        book.save_standing(each.channel_id, EMPTY_STANDING)
        book.on_session_closed(build_account(each, build_receipt(each)))
        book.keep_receipt(build_receipt(each, 5, b"open"))
    book.forget_channel(channel.channel_id)
    book.flush()
    keys = [key for key, _ in store.iterate(b"")]
    assert not any(channel.channel_id in key for key in keys)
    assert sum(other.channel_id in key for key in keys) == 4
    assert [entry.channel_id for entry in book.list_channels()] == [other.channel_id]


def test_every_moment_of_a_life_survives_a_crash() -> None:
    """After any number of writes the books say what had been written, and go on."""
    channel = build_channel()

    def live(book: ProviderBook) -> None:
        book.get_channel(channel.channel_id)
        for step, payment in enumerate(pay(channel, 100, 20, 20, 20), start=1):
            standing = Standing(
                billed_units=100 + 20 * step, paid_steps=step, receipts=1
            )
            book.save_standing(channel.channel_id, standing)
            book.accept_payment(channel.channel_id, payment)
        first = build_receipt(channel)
        book.keep_receipt(first)
        book.on_session_closed(build_account(channel, first))
        note = Settling(
            channel_id=channel.channel_id, total=700, sessions=(first.session,),
            last_height=9,
        )  # fmt: skip
        book.begin_settling([note])
        book.finish_settling(note)
        book.forget_channel(channel.channel_id)

    whole = CrashingStore()
    live(Chain(channel).open_book(whole))
    writes = 10**9 - whole.left
    assert writes > 12
    for count in range(writes):
        store = CrashingStore()
        store.left = count
        chain = Chain(channel)
        with pytest.raises(KeyboardInterrupt):
            live(chain.open_book(store))
        again = chain.open_book(copy(store))
        view = again.get_channel(channel.channel_id)
        if count < writes - 1:
            # Billing comes before payment: what was served is never forgotten.  The
            # last write but one begins to forget a channel that is over.
            assert view.standing.billed_units >= view.paid_units
        for entry in again.list_channels():
            assert entry.claim is None or entry.total == view.paid_units * 7
        assert len(again.load_sessions(channel.channel_id)) <= 1
        close = again.build_close(channel)
        assert close.claim is None or close.work.price_sum >= 0
        again.forget_channel(channel.channel_id)
        again.flush()


def test_flushing_writes_only_what_is_new() -> None:
    class Store(MemoryStore):
        syncs = 0

        def write(self, changes, *, sync=False):
            self.syncs += sync
            super().write(changes, sync=sync)

    channel = build_channel()
    store = Store()
    book = Chain(channel).open_book(store)
    book.save_standing(channel.channel_id, EMPTY_STANDING)
    assert store.syncs == 0
    book.flush()
    book.flush()
    assert store.syncs == 1


# Cashing


def build_claim(channel: Channel, *units: int) -> Claim:
    book = Chain(channel).open_book(MemoryStore())
    book.get_channel(channel.channel_id)
    for payment in pay(channel, *units):
        book.accept_payment(channel.channel_id, payment)
    return book.get_claim(channel.channel_id)


@pytest.mark.parametrize("limit", [70, 71, 76, 77, 200, 349, 350, 10**6])
def test_a_claim_is_cut_to_whole_units(limit: int) -> None:
    claim = build_claim(build_channel(), 10, 20, 20)
    cut = cut_claim(claim, limit)
    assert compute_total(cut) == min(350, limit // 7 * 7)
    assert verify_preimage(cut)


def test_below_its_voucher_a_claim_cannot_be_cut() -> None:
    assert cut_claim(build_claim(build_channel(), 10, 20), 69) is None


def test_nothing_to_gain_is_nothing_to_cash() -> None:
    claim = build_claim(build_channel(), 10)
    assert plan_cashing(build_channel(), claim, []) is None
    settled = build_channel(settled=70)
    account = build_account(settled, build_receipt(settled, price_units=10))
    assert plan_cashing(settled, claim, [account]) is None


def test_closing_brings_the_best_claim_that_work_bears() -> None:
    channel = build_channel()
    chain = Chain(channel)
    book = chain.open_book(MemoryStore())
    assert book.build_close(channel) == Close(channel.channel_id, None, None)
    book.get_channel(channel.channel_id)
    for payment in pay(channel, 10, 20):
        book.accept_payment(channel.channel_id, payment)
    assert book.build_close(channel) == Close(channel.channel_id, None, None)
    receipt = build_receipt(channel, price_units=25)
    book.on_session_closed(build_account(channel, receipt))
    close = book.build_close(channel)
    assert close.claim.used == 15
    assert isinstance(close.work, WorkRecord)
    assert close.work.price_sum == 25 * 7


def test_a_live_book_keeps_receipts_while_a_session_is_open() -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            provider, kept = net.providers[0], []
            async for _ in net.gateway.ask(PROMPT, 60):
                kept.append(len(list(provider.store.iterate(b"book/receipt/"))))
            assert max(kept) >= 3
            await net.rest()
            assert not list(provider.store.iterate(b"book/receipt/"))

    run(test)
