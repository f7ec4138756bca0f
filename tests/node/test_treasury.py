"""The wallet at work: funds found, plans in order, and failures by their names."""

import pytest
import trio
from node_world import COIN, build_key, open_network, run

from chain.records.channel import OpenChannels, Opening, RequestClose
from chain.records.transfer import Transfer
from p2pchain.errors import NotReady, TransactionFailed
from p2pchain.node.money.treasury import BUSY_TIMEOUT_S, FINAL_TIMEOUT_S
from wallet.errors import InsufficientFunds
from wallet.transactions import estimate_fee, estimate_transfer_fee

PAYEE = build_key("payee").public_key
FRIEND = build_key("friend").public_key


def build_opening(deposit: int, payee: bytes = PAYEE) -> OpenChannels:
    return OpenChannels((Opening(payee, bytes([1]) * 32, deposit, 10),))


def open_wallet():
    """One wallet with a thousand coins in the root shard, and nobody else."""
    return open_network((), is_started=False)


async def start(net):
    await net.gateway.start()
    return net.gateway.treasury


def test_funds_are_brought_where_they_are_needed() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            opening = build_opening(5 * COIN)
            outcome = await treasury.execute(1, opening, 5 * COIN)
            assert outcome.ok
            fees = sum(
                found.outcome.fee
                for kind in (Transfer, OpenChannels)
                for found in net.list_transactions(net.gateway.account, kind)
            )
            assert sum(treasury.get_balances().values()) == 995 * COIN - fees
            # The next one has what it needs there: no transfer.
            await treasury.execute(1, RequestClose(net.channels()[0].channel_id))
            assert len(net.list_transactions(net.gateway.account, Transfer)) <= 2

    run(test)


def test_one_sum_lies_in_many_shards() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            for shard in (1, 2):
                await treasury.send(treasury.address, 300 * COIN, shard)
            await trio.sleep(5)
            assert max(treasury.get_balances().values()) < 401 * COIN
            # More than any shard holds, out of all of them.
            tx_ids = await treasury.send(FRIEND, 900 * COIN, 0)
            assert len(tx_ids) == 3
            await trio.sleep(5)
            assert net.chain.queries.get_account(0, FRIEND).balance == 900 * COIN
            # And more than any shard holds, into one.
            await treasury.execute(2, build_opening(80 * COIN), 80 * COIN)

    run(test)


def test_concurrent_plans_run_one_after_another() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            payees = [build_key(f"payee{i}").public_key for i in range(6)]
            async with trio.open_nursery() as nursery:
                for payee in payees:
                    # Together nearly everything: plans must not spend twice.
                    nursery.start_soon(
                        treasury.execute, 1, build_opening(160 * COIN, payee),
                        160 * COIN,
                    )  # fmt: skip
            assert len(net.channels()) == 6

    run(test)


def test_many_at_once_share_their_blocks() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            requests = [
                (shard, build_opening(COIN, build_key(f"{shard}-{i}").public_key), COIN)
                for shard in (1, 2)
                for i in range(3)
            ]
            outcomes = await treasury.execute_all(requests)
            assert [outcome.ok for outcome in outcomes] == [True] * 6
            heights = {
                found.height
                for found in net.list_transactions(net.gateway.account, OpenChannels)
            }
            assert len(heights) == 1

    run(test)


def test_too_little_is_said_before_anything_is_sent() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            with pytest.raises(InsufficientFunds):
                await treasury.send(FRIEND, 1000 * COIN, 0)
            with pytest.raises(InsufficientFunds):
                await treasury.execute(1, build_opening(1000 * COIN), 1000 * COIN)
            assert treasury.get_balances()[0] == 1000 * COIN
            assert len(net.chain.mempool) == 0
            # To the last atom that a transfer and its fee leave.
            fee = estimate_transfer_fee(net.chain.spec.params)
            await treasury.send(FRIEND, 1000 * COIN - fee, 0)

    run(test)


def test_what_the_rules_refuse_is_an_error_with_its_code() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            with pytest.raises(TransactionFailed) as error:
                await treasury.execute(1, RequestClose(bytes(32)))
            assert error.value.code == "unknown_channel"
            await treasury.execute(1, build_opening(COIN), COIN)
            again = [(1, build_opening(COIN), COIN), (2, build_opening(COIN), COIN)]
            with pytest.raises(TransactionFailed) as error:
                await treasury.execute_all(again)
            assert error.value.code == "channel_exists"
            # The other one of the two went through.
            assert len(net.channels()) == 2

    run(test)


def test_a_chain_that_stands_still_is_not_waited_for_for_ever() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            net.is_stalled = True
            ends = []

            async def send(amount: int) -> None:
                with pytest.raises(NotReady):
                    await treasury.send(FRIEND, amount, 0)
                ends.append(trio.current_time())

            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                for amount in (1, 2, 3, 4):
                    nursery.start_soon(send, amount)
            assert max(ends) - started <= FINAL_TIMEOUT_S + BUSY_TIMEOUT_S + 1
            # When it goes on, what was sent arrives, and nothing twice.
            net.is_stalled = False
            await trio.sleep(5)
            assert net.chain.queries.get_account(0, FRIEND).balance in range(1, 8)
            await treasury.send(FRIEND, 10, 0)

    run(test)


def test_a_caller_that_leaves_frees_the_wallet() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            with trio.move_on_after(0.2) as leaving:
                await treasury.execute(1, build_opening(COIN), COIN)
            assert leaving.cancelled_caught
            outcome = await treasury.execute(2, build_opening(COIN), COIN)
            assert outcome.ok

    run(test)


def test_a_note_is_made_between_funding_and_signing() -> None:
    async def test() -> None:
        async with open_wallet() as net:
            treasury = await start(net)
            seen = []
            opening = build_opening(COIN)
            need = COIN + estimate_fee(net.chain.spec.params, opening)

            def note() -> None:
                seen.append(treasury.get_balances()[1] >= need)
                seen.append(len(net.chain.mempool))

            await treasury.run_all([(1, opening, COIN)], note)
            assert seen == [True, 0]

    run(test)
