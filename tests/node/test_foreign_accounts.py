"""A wallet on a node that follows one layer shard of two: validators on loopback."""

import pytest
import trio
from chain_world import ALICE, BOB, COIN
from test_chunk_service import LIMIT_S, ONE, SIZE, TWO, open_town

from chain.records.channel import RequestClose
from chain.records.keys import build_account_key
from chain.records.transaction import Transaction, compute_tx_id, sign_transaction
from chain.records.transfer import Transfer
from p2pchain.errors import NotReady
from p2pchain.node.chain import foreign_state
from p2pchain.node.chain.foreign_accounts import ForeignAccounts
from p2pchain.node.chain.foreign_state import StateExchange
from p2pchain.node.money.treasury import Treasury
from primitives.codec import encode


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Wait as long as a busy machine takes; whoever is asked here does answer."""
    monkeypatch.setattr(foreign_state, "TIMEOUT_S", LIMIT_S / 2)
    monkeypatch.setattr(foreign_state, "DEADLINE_S", LIMIT_S)
    monkeypatch.setattr("p2pchain.node.money.treasury.FINAL_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr("p2pchain.node.money.treasury.BUSY_TIMEOUT_S", LIMIT_S)


def open_wallet(member, *, is_giving=True) -> Treasury:
    """Return Alice's wallet at a member; with what every member serves."""
    state = StateExchange(member.network, member.chain.tree)
    foreign = ForeignAccounts(
        member.network,
        member.chain,
        member.bodies,
        state,
        member.chunks.find_produced if is_giving else lambda chunk_hash: None,
    )
    return Treasury(ALICE, member.chain, foreign)


def play(folder, scenario, *, is_giving=True):
    async def main():
        with trio.fail_after(LIMIT_S):
            async with open_town(folder, follows=(ONE, ONE, TWO, TWO)) as members:
                wallets = [open_wallet(m, is_giving=is_giving) for m in members]
                while any(len(m.network.peers()) < SIZE - 1 for m in members):
                    await trio.sleep(0.02)
                await members[0].chain.wait_height(1)
                await scenario(members, wallets[0])

    trio.run(main)


async def read_balance(member, shard, address):
    """Return a balance as a member that follows the shard has it."""
    await trio.lowlevel.checkpoint()
    return member.chain.queries.get_account(shard, address).balance


def test_one_balance_pays_out_of_all_shards(tmp_path):
    async def scenario(members, treasury):
        near, far = members[0], members[2]
        purse = await treasury.open_purse()
        assert purse.balances == {0: 100 * COIN, 1: 100 * COIN, 2: 100 * COIN}
        assert not purse.unknown
        # More than the followed ones hold: out of all three, and each outcome is known.
        sent = await treasury.send(BOB.public_key, 250 * COIN, 1)
        assert sorted(each.shard for each in sent) == [0, 1, 2]
        assert all(each.is_ok for each in sent)
        (away,) = [each for each in sent if each.shard == 2]
        place = far.chain.tree.store.get_place(away.tx_id)
        assert (place.height, place.shard) == (away.height, 2)
        told = far.chain.tree.store.get_outcomes(place.height, 2)[place.index]
        assert away.outcome == told
        while await read_balance(near, 1, BOB.public_key) < 350 * COIN:
            await near.chain.wait_height(near.chain.height + 1)
        # It can be looked up like any other, and is in the history.
        found = near.chain.queries.get_transaction(away.tx_id)
        assert (found.height, found.outcome) == (away.height, away.outcome)
        history = near.chain.queries.list_address_transactions(ALICE.public_key)
        assert {each.tx_id for each in sent} <= {each.tx_id for each in history.items}
        # The next plan is made from what is left there.
        left = (await treasury.open_purse()).balances
        fees = sum(each.outcome.fee for each in sent)
        assert sum(left.values()) == 50 * COIN - fees
        assert max(left, key=left.get) == 2
        # Inside of the shard that is not followed, and what the rules refuse there.
        (paid,) = await treasury.send(BOB.public_key, COIN, 2)
        assert (paid.is_ok, paid.shard) == (True, 2)
        (refused,) = await treasury.run_all([(2, RequestClose(bytes(32)), 0)])
        assert refused.code == "unknown_channel"
        # Funds come from there to where they are needed.
        left = (await treasury.open_purse()).balances
        need = left[1] + 20 * COIN
        (done,) = await treasury.run_all([(1, Transfer(BOB.public_key, 1, need), need)])
        assert done.ok

    play(tmp_path, scenario)


def test_without_a_witness_the_body_tells_that_it_is_final(tmp_path):
    async def scenario(members, treasury):
        (sent,) = await treasury.send(BOB.public_key, COIN, 2)
        assert sent.shard == 2
        assert sent.is_ok is None
        tree = members[2].chain.tree
        assert tree.store.get_place(sent.tx_id).height == sent.height

    play(tmp_path, scenario, is_giving=False)


def test_a_key_that_is_nowhere_is_shown_to_be_nowhere(tmp_path):
    async def scenario(members, treasury):
        state = treasury._foreign._state
        key = build_account_key(b"\7" * 32)
        height = members[0].chain.height
        found = await state.read(key, [2], height)
        assert found[2].value is None
        assert found[2].height >= height - 1

    play(tmp_path, scenario)


def sign(member, nonce, last):
    """Return a payment of Alice's in shard 2 that nobody hears of."""
    transaction = Transaction(
        version=1,
        chain_id=member.chain.chain_id,
        shard=2,
        sender=ALICE.public_key,
        nonce=nonce,
        fee_limit=COIN,
        valid_until_height=last,
        payload=Transfer(BOB.public_key, 2, 7),
    )
    return encode(sign_transaction(transaction, ALICE)), transaction


def test_what_will_never_be_final_is_told(tmp_path):
    async def scenario(members, treasury):
        near, foreign = members[0], treasury._foreign
        await treasury.send(BOB.public_key, COIN, 2)
        other = sign(near, nonce=0, last=1000)
        with pytest.raises(NotReady, match="another one of the account"):
            await foreign.wait_outcome(*other, 0, LIMIT_S)
        late = sign(near, nonce=5, last=near.chain.height + 2)
        with pytest.raises(NotReady, match="expired"):
            await foreign.wait_outcome(*late, near.chain.height, LIMIT_S)
        endless = sign(near, nonce=5, last=10_000)
        with pytest.raises(NotReady, match="not final after 1 s"):
            await foreign.wait_outcome(*endless, near.chain.height, 1)
        # What was not heard of in time keeps its nonce until it expires.
        heard = near.chain.submit
        with trio.CancelScope() as waiting:

            def lose(data):
                waiting.cancel()
                return compute_tx_id(data)

            near.chain.submit = lose
            await treasury.send(BOB.public_key, COIN, 2)
        near.chain.submit = heard
        purse = await treasury.open_purse()
        assert purse.accounts[2].nonce == 1
        assert treasury._get_next_nonce(2, purse) == 2

    play(tmp_path, scenario)
