"""What a node tells of itself, and what it does for its owner."""

from types import SimpleNamespace

import pytest
import trio
from chain_world import BLS_KEYS, GENESIS
from node_world import COIN, INFO, build_key, build_request, open_network, run

from chain.records.channel import ChannelStatus, Withdraw
from inference.worker.supervisor import WorkerState
from p2pchain.api.errors import (
    InsufficientFunds,
    NotFound,
    TransactionRejected,
    UnknownModel,
)
from p2pchain.api.rpc.node_methods import render_status
from p2pchain.api.status import StageState
from p2pchain.cli.status import describe_shard_sync, describe_weights
from p2pchain.errors import TransactionFailed
from p2pchain.node.backend import NodeBackend
from p2pchain.node.chain.foreign_state import StateExchange
from p2pchain.node.consensus.status import ConsensusStatus
from p2pchain.node.home.config import Config
from p2pchain.node.money.staking import Staking
from p2pchain.node.state_sync import work_board
from p2pchain.node.state_sync.board import Progress
from p2pchain.node.state_sync.shard_sync import ShardProgress
from primitives.bls import BlsSecretKey

FRIEND = build_key("friend").public_key


class Driver:
    """Consensus as a status page sees it."""

    def __init__(self) -> None:
        self.set()

    def set(self, **changes) -> None:
        fields = {
            "epoch": 0,
            "view": 1,
            "leader": 0,
            "index": None,
            "is_voting": False,
            "mute_reason": "",
            "is_catching_up": False,
            "best_height": 0,
        } | changes
        self.status = ConsensusStatus(**fields)

    def get_peer_height(self, peer_id: bytes) -> int | None:
        return None


def build_backend(net, node, *, provider=None, gateway=None, key=None) -> NodeBackend:
    return NodeBackend(
        config=Config(name="node0"),
        genesis=GENESIS,
        endpoints=(),
        network=node.net,
        chain=net.chain,
        driver=Driver(),
        treasury=node.treasury,
        pool=net.gateway.pool,
        book=net.providers[0].book,
        feed=net.providers[0].feed,
        provider=provider,
        gateway=gateway,
        staking=Staking("node0", key, node.treasury, net.chain),
        state_sync=SimpleNamespace(progress=None),
        shard_sync=SimpleNamespace(progress=None),
        foreign_state=StateExchange(node.net, net.chain.tree),
        weights=SimpleNamespace(progress=None, wanted="", problem=""),
        model_host=None,
    )


def of_gateway(net) -> NodeBackend:
    return build_backend(net, net.gateway, gateway=net.gateway.gateway)


def of_provider(net) -> NodeBackend:
    node = net.providers[0]
    return build_backend(net, node, provider=node.provider, key=BLS_KEYS[0])


def test_a_node_says_what_it_waits_for() -> None:
    async def test() -> None:
        async with open_network(is_started=False) as net:
            net.is_stalled = True
            for node in (*net.providers, net.gateway):
                node.build()
                worker = node.worker if node is net.gateway else node.stage
                worker.starts_ready = False
                await net.nursery.start(node.run)
            node, gateway = of_provider(net), of_gateway(net)
            assert node.get_status().waiting_for == "its stage worker: LOADING"
            assert gateway.get_status().waiting_for == "its requester worker: LOADING"
            net.providers[0].stage.set_state(WorkerState.STARTING, "the worker died")
            assert "LOADING (the worker died)" in node.get_status().waiting_for
            for provider in net.providers:
                provider.stage.set_state(WorkerState.READY)
            net.gateway.worker.set_state(WorkerState.READY)
            assert node.get_status().waiting_for == "the first final block"
            net.is_stalled = False
            await net.chain.wait_height(1)
            assert node.get_status().waiting_for == "its registration"
            assert gateway.get_status().waiting_for.startswith("a route: no provider")
            assert not node.get_status().ready
            await net.wait_until(lambda: gateway.get_status().ready)
            assert node.get_status().ready
            assert all(model.servable for model in gateway.list_models())

    run(test)


def test_a_state_on_its_way_is_told() -> None:
    async def test() -> None:
        async with open_network() as net:
            gateway = of_gateway(net)
            assert gateway.get_status().state_sync is None
            gateway.state_sync.progress = Progress(
                height=120,
                parts=10,
                parts_done=4,
                bytes=1000,
                bytes_done=400,
                bytes_per_s=150.0,
                peers=3,
            )
            status = gateway.get_status()
            assert status.waiting_for == "the state at block 120"
            assert status.state_sync.eta_s == 4
            assert status.state_sync.parts_done == 4
            assert render_status(status)["state_sync"]["height"] == "120"
            assert render_status(status)["first_height"] == "0"

    run(test)


def test_weights_on_their_way_are_told() -> None:
    async def test() -> None:
        async with open_network() as net:
            node = build_backend(net, net.providers[0])
            assert node.get_status().weights is None
            node.model_host = SimpleNamespace(stage="the weights of tiny")
            node.weights.problem = "no room"
            assert node.get_status().waiting_for == "the weights of tiny: no room"
            node.weights.wanted, node.weights.problem = "tiny", ""
            node.weights.progress = work_board.Progress(
                parts=10,
                parts_done=4,
                bytes=1_000_000,
                bytes_done=400_000,
                bytes_per_s=150_000.0,
                peers=3,
            )
            status = node.get_status()
            assert status.waiting_for == "the weights of tiny"
            assert status.weights.eta_s == 4
            shown = describe_weights(render_status(status)["weights"])
            assert shown == (
                "of tiny: [########............] 4 of 10 parts, 0.4 of 1.0 MB, "
                "0.1 MB/s from 3 peers, 4 s to go"
            )

    run(test)


@pytest.mark.parametrize(
    ("parts_done", "eta_s", "shown"),
    [
        (4, 4, "1 is on its way, its state of block 120: 4 of 10 parts, "),
        (10, 8, "1 is on its way, its chunks since block 120: up to 144 of 160, 8 s"),
    ],
)
def test_a_shard_on_its_way_is_told(parts_done: int, eta_s: int, shown: str) -> None:
    async def test() -> None:
        async with open_network() as net:
            gateway = of_gateway(net)
            assert render_status(gateway.get_status())["shard_sync"] is None
            parts = Progress(
                height=120,
                parts=10,
                parts_done=parts_done,
                bytes=1000,
                bytes_done=400,
                bytes_per_s=150.0,
                peers=3,
            )
            gateway.shard_sync.progress = ShardProgress(1, parts, 144, 160, 2.0)
            status = gateway.get_status()
            assert status.shard_sync.eta_s == eta_s
            told = render_status(status)["shard_sync"]
            assert told["base_height"] == "120"
            assert describe_shard_sync(told, 160).startswith(shown)

    run(test)


def test_consensus_has_a_word_in_it() -> None:
    async def test() -> None:
        async with open_network() as net:
            backend = of_provider(net)
            backend.driver.set(is_catching_up=True, best_height=77)
            assert backend.get_status().waiting_for == "blocks up to 77"
            backend.driver.set(mute_reason="the log of votes is missing")
            assert "log of votes" in backend.get_status().waiting_for

    run(test)


def test_a_worker_that_failed_is_told_with_its_reason() -> None:
    async def test() -> None:
        async with open_network() as net:
            net.providers[0].stage.set_state(WorkerState.FAILED, "a weight is missing")
            status = of_provider(net).get_status()
            assert status.stages[0].state is StageState.FAILED
            assert status.stages[0].detail == "a weight is missing"
            assert "FAILED (a weight is missing)" in status.waiting_for
            assert not status.ready

    run(test)


def test_models_say_why_they_are_not_served() -> None:
    async def test() -> None:
        async with open_network() as net:
            (model,) = of_provider(net).list_models()
            assert (model.servable, model.reason) == (False, "this node is no gateway")
            with pytest.raises(UnknownModel):
                of_provider(net).get_route(INFO.name)
            with pytest.raises(UnknownModel):
                of_provider(net).complete(build_request())
            (model,) = of_gateway(net).list_models()
            assert model.servable
            assert model.context_length == INFO.max_positions
            net.gateway.gateway.model_id = bytes(32)
            (model,) = of_gateway(net).list_models()
            assert not model.servable

    run(test)


def test_channels_by_hand() -> None:
    async def test() -> None:
        async with open_network() as net:
            backend = of_gateway(net)
            payee = net.providers[0].account.public_key
            opened = await backend.open_channel(payee, COIN, None)
            (own,) = backend.list_own_channels()
            assert own.channel.channel_id == opened.channel_id
            assert (own.role, own.promised, own.blocked) == ("payer", 0, "")
            before = backend.queries.list_accounts(backend.treasury.address)
            with pytest.raises(TransactionRejected) as error:
                await backend.open_channel(payee, COIN, 5)
            assert error.value.reason == "channel_exists"
            # Found out here: no funds were moved for it, and no fee paid.
            after = backend.queries.list_accounts(backend.treasury.address)
            assert after == before
            with pytest.raises(NotFound):
                await backend.open_channel(FRIEND, COIN, None)
            with pytest.raises(InsufficientFunds):
                await backend.open_channel(
                    net.providers[1].account.public_key, 5000 * COIN, None
                )

            await backend.close_channel(opened.channel_id)
            (own,) = backend.list_own_channels()
            assert own.blocked == "it is closing"
            with pytest.raises(TransactionRejected) as error:
                await backend.close_channel(opened.channel_id)
            assert error.value.reason == "grace_window"
            await trio.sleep(net.chain.spec.params.grace_blocks + 60)
            (own,) = backend.list_own_channels()
            assert own.channel.status is ChannelStatus.CLOSED
            assert len(net.list_transactions(net.gateway.account, Withdraw)) == 1
            with pytest.raises(NotFound):
                await backend.close_channel(opened.channel_id)
            with pytest.raises(NotFound):
                await backend.close_channel(bytes(32))

    run(test)


def test_a_payee_closes_with_what_it_has_earned() -> None:
    async def test() -> None:
        async with open_network() as net:
            answered = await net.gateway.answer(tuple(range(1, 40)), 30)
            backend = of_provider(net)
            (own,) = backend.list_own_channels()
            assert own.role == "payee"
            assert own.promised == answered.finished.hops[0].price
            await backend.close_channel(own.channel.channel_id)
            (own,) = backend.list_own_channels()
            assert own.channel.settled == answered.finished.hops[0].price
            assert own.blocked == "it is closed"

    run(test)


def test_sending_tells_what_went_wrong() -> None:
    async def test() -> None:
        async with open_network() as net:
            backend = of_gateway(net)
            result = await backend.send(FRIEND, 5 * COIN, 0)
            assert len(result.tx_ids) == 1
            assert net.chain.queries.get_account(0, FRIEND).balance == 5 * COIN
            with pytest.raises(InsufficientFunds):
                await backend.send(FRIEND, 10**15, 0)

            async def fail(*args):
                raise TransactionFailed("congested", "too many packets wait")

            backend.treasury.send = fail
            with pytest.raises(TransactionRejected) as error:
                await backend.send(FRIEND, 1, 0)
            assert error.value.reason == "congested"

    run(test)


def test_a_validator_knows_its_seat_and_changes_its_stake() -> None:
    async def test() -> None:
        async with open_network() as net:
            newcomer = BlsSecretKey(bytes([91]).rjust(32, b"\0"))
            backend = build_backend(net, net.gateway, key=newcomer)
            seat = backend.get_status().validator
            assert (seat.index, seat.from_epoch, seat.stake) == (None, None, None)
            with pytest.raises(TransactionRejected) as error:
                await backend.unstake(None)
            assert error.value.reason == "unknown_stake"
            with pytest.raises(TransactionRejected) as error:
                await backend.stake(5)
            assert error.value.reason == "below_minimum"
            with pytest.raises(InsufficientFunds):
                await backend.stake(10**15)

            await backend.stake(5 * COIN)
            running = backend.get_status().epoch.number
            seat = backend.get_status().validator
            assert seat.stake.bonded == 5 * COIN
            assert (seat.index, seat.from_epoch) == (None, running + 2)
            assert (seat.power, seat.next_power, seat.until_epoch) == (0, 0, None)
            await backend.unstake(2 * COIN)
            assert backend.get_status().validator.stake.bonded == 3 * COIN
            await backend.unstake(None)
            seat = backend.get_status().validator
            assert (seat.stake.bonded, seat.from_epoch) == (0, None)
            assert sum(u.amount for u in seat.stake.unbonding) == 5 * COIN

    run(test)


def test_who_does_not_vote_does_not_stake() -> None:
    async def test() -> None:
        async with open_network() as net:
            backend = of_gateway(net)
            assert backend.get_status().validator is None
            with pytest.raises(TransactionRejected, match="--validator") as error:
                await backend.stake(5 * COIN)
            assert error.value.reason == "not_a_validator"

    run(test)


def test_silence_matters_only_to_a_member() -> None:
    async def test() -> None:
        async with open_network() as net:
            newcomer = BlsSecretKey(bytes([91]).rjust(32, b"\0"))
            backend = build_backend(net, net.gateway, key=newcomer)
            backend.driver.set(mute_reason="the log of votes is missing")
            assert backend.get_status().waiting_for == ""
            assert backend.get_status().validator.mute_reason

    run(test)
