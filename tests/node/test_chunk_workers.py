"""Chunks in worker processes: the same results, and what happens when they fail."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading

import msgspec
import pytest
from chain_world import (
    ALICE,
    BOB,
    CAROL,
    COIN,
    SIGNER,
    SPEC,
    ListPicker,
    World,
    copy_bodies,
)
from channel_helpers import build_claim, build_work
from chunk_lab import NO_LIMITS, ChunkLab
from reshard_world import MODEL, ReshardWorld

from chain.errors import DamagedBucket, InvalidBlock, InvalidWitness
from chain.execution.executor import ChunkTask, InProcess, JudgeTask
from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from chain.records.block import Block, compute_chunks_root, decode_block
from chain.records.channel import Channel, Close, compute_channel_id
from chain.records.proof import WorkEntry
from chain.records.proposal import RetireModel, SplitShard
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from chain.state.chunk_state import ShardState
from chain.tree.opening import open_tree
from consensus.messages import Certificate
from p2pchain.node.chunks import process as chunk_process
from p2pchain.node.chunks.wire import (
    MAX_FRAME_BYTES,
    Execute,
    Judge,
    LinkFailed,
    Need,
    Ready,
    Refused,
    Supply,
    build_done,
    build_executed,
    decode_answer,
    decode_request,
    pack_bits,
    receive_frame,
    send_message,
    unpack_bits,
)
from p2pchain.node.chunks.worker import SuppliedState
from p2pchain.node.chunks.workers import ChunkWorkers, compute_default_workers
from p2pchain.sim.chains.committee import hand_bodies
from primitives import bls
from primitives.codec import encode
from primitives.errors import DecodeError
from primitives.kv import MemoryStore
from shards.errors import InvalidChunk

START_S = 60.0


@pytest.fixture(scope="module")
def workers():
    with ChunkWorkers(2, least_transactions=1) as pool:
        assert pool.wait_ready(START_S)
        yield pool


@pytest.fixture
def labs():
    return [ChunkLab(shard=shard) for shard in (0, 1, 2)]


def build_task(lab: ChunkLab, produced) -> ChunkTask:
    state = ShardState(lab.final.view, lab.shard)
    return ChunkTask(lab.context, state, produced.body, NO_LIMITS)


def build_tasks(labs, seed: int = 0) -> list[ChunkTask]:
    """Return a chunk of many kinds for each shard."""
    luck = random.Random(seed)
    tasks = []
    for lab in labs:
        src = 1 if lab.shard == 0 else 0
        _, transactions = lab.build_mixed()
        packets = lab.credit(*range(luck.randrange(5)), src=src)
        for _ in range(luck.randrange(30)):
            sender, other = luck.sample([ALICE, BOB, CAROL], 2)
            transactions.append(lab.transfer(sender, other, luck.randrange(COIN)))
        tasks.append(build_task(lab, lab.produce(transactions, packets)))
    return tasks


def execute_here(tasks):
    return InProcess().execute(tasks, VerifiedCache())


# ------------------------------------------------------------------ the same results


@pytest.mark.parametrize("seed", range(5))
def test_workers_give_what_one_process_gives(workers, labs, seed):
    tasks = build_tasks(labs, seed)
    verified = VerifiedCache()
    executed = workers.execute(tasks, verified)
    assert executed == execute_here(tasks)
    # Bit for bit, in the order of the writes too.
    assert [encode(build_done(each)) for each in executed] == [
        encode(build_done(each)) for each in execute_here(tasks)
    ]
    assert len(workers.pids) == 2


def test_what_workers_verified_is_known_afterwards(workers, labs):
    tasks = build_tasks(labs)
    verified = VerifiedCache()
    workers.execute(tasks, verified)
    for task in tasks:
        assert all(compute_tx_id(data) in verified for data in task.body.transactions)


def test_what_was_verified_is_not_verified_again(workers, labs):
    """The node's word stands for a signature that is none."""
    tasks = build_tasks(labs)
    last = tasks[-1].body.transactions
    forged = last[0][:-64] + bytes(64)
    body = msgspec.structs.replace(tasks[-1].body, transactions=(forged, *last[1:]))
    tasks[-1] = ChunkTask(tasks[-1].context, tasks[-1].state, body, NO_LIMITS)
    with pytest.raises(InvalidChunk, match="transaction 0 of shard 2: bad_signature"):
        workers.execute(tasks, VerifiedCache())
    verified = VerifiedCache()
    verified.add(compute_tx_id(forged))
    executed = workers.execute(tasks, verified)
    assert executed[-1].result.transactions[0] == forged


def test_more_chunks_than_workers(workers):
    """Each shard's own lab three times over: nobody needs them to be of one block."""
    labs = [ChunkLab(shard=shard) for shard in (0, 1, 2) * 3]
    tasks = build_tasks(labs)
    assert workers.execute(tasks, VerifiedCache()) == execute_here(tasks)


def test_the_first_refusal_is_the_one_that_is_told(workers, labs):
    tasks = build_tasks(labs)
    for number in (1, 2):
        body = tasks[number].body
        twice = msgspec.structs.replace(
            body, transactions=(*body.transactions, body.transactions[0])
        )
        task = tasks[number]
        tasks[number] = ChunkTask(task.context, task.state, twice, NO_LIMITS)
    with pytest.raises(InvalidChunk, match="of shard 1: wrong_nonce") as there:
        workers.execute(tasks, VerifiedCache())
    with pytest.raises(InvalidChunk) as here:
        execute_here(tasks)
    assert str(there.value) == str(here.value)
    assert len(workers.pids) == 2


def test_records_for_histories_travel(workers, labs):
    """A channel that ends and the work that it was for."""
    lab = labs[1]
    payer, payee, signer = ALICE.public_key, BOB.public_key, SIGNER.public_key
    channel_id = compute_channel_id(SPEC.chain_id, 1, payer, payee, signer, 0, 0)
    close = Close(channel_id, build_claim(channel_id), build_work())
    opened, closed = lab.open_channel(ALICE, BOB), lab.sign(BOB, close)
    tasks = build_tasks(labs)
    tasks[1] = build_task(lab, lab.produce([opened, closed]))
    executed = workers.execute(tasks, VerifiedCache())
    kinds = {type(record) for record in executed[1].result.archived}
    assert kinds == {Channel, WorkEntry}
    assert executed == execute_here(tasks)


def build_blocks(count: int = 4) -> list[tuple[HeldBlock, Certificate]]:
    """Return a chain with transactions in every shard."""
    world = World()
    blocks = []
    for number in range(count):
        lot = []
        for shard in (0, 1, 2):
            for sender, other in ((ALICE, BOB), (BOB, CAROL), (CAROL, ALICE)):
                to = shard if number % 2 else (shard + 1) % 3
                payload = Transfer(other.public_key, to, 5)
                lot.append(world.sign(sender, payload, shard))
        held = world.build(picker=ListPicker(lot))
        assert len(held.chunks) == 3
        world.finalize(held)
        blocks.append((held, world.certify(held)))
    return blocks


def test_a_node_with_workers_follows_the_chain(workers):
    tree = open_tree(SPEC, MemoryStore(), bls)
    tree.executor = workers
    for held, certificate in build_blocks():
        hand_bodies(held, tree)
        tree.add(held.block_bytes, held.header.time_ms)
        assert tree.get(held.block_hash).view.get_roots() == held.view.get_roots()
        assert tree.get(held.block_hash).results == held.results
        tree.finalize(certificate)
    assert len(workers.pids) == 2


def test_a_layout_changes_under_workers():
    """A shard is split, and then the model goes: its shards empty themselves."""
    world = ReshardWorld()
    world.propose(SplitShard(1, 2))
    world.go_to_epoch(4)
    world.propose(RetireModel(MODEL.model_id))
    world.go_to_epoch(12)
    assert world.ids == (0,)
    with ChunkWorkers(1, least_transactions=0) as pool:
        assert pool.wait_ready(START_S)
        tree = open_tree(world.spec, MemoryStore(), bls)
        tree.executor = pool
        for height in range(1, world.tree.final_height + 1):
            block_bytes, certificate = world.tree.get_final(height)
            block = decode_block(block_bytes)
            copy_bodies(block, world.tree, tree)
            tree.add(block_bytes, block.header.time_ms)
            tree.finalize(certificate)
        assert tree.final_hash == world.tree.final_hash
        assert len(pool.pids) == 1


def test_a_wrong_block_is_refused_as_without_workers(workers):
    held, _ = build_blocks(1)[0]
    chunk = held.block.body.root
    lie = msgspec.structs.replace(chunk.header, post_root=bytes(32))
    wrong = msgspec.structs.replace(chunk, header=lie)
    body = msgspec.structs.replace(held.block.body, root=wrong)
    root = compute_chunks_root(body.headers)
    header = msgspec.structs.replace(held.header, chunks_root=root)
    messages = []
    for executor in (workers, InProcess()):
        tree = open_tree(SPEC, MemoryStore(), bls)
        tree.executor = executor
        hand_bodies(held, tree)
        with pytest.raises(InvalidBlock) as refusal:
            tree.add(encode(Block(header, body)), header.time_ms)
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]


# ---------------------------------------------------------------------------- judging


def build_judge_task(lab, **changes) -> JudgeTask:
    packets, transactions = lab.build_mixed()
    produced = lab.produce(transactions, packets)
    fields = {
        "context": lab.context,
        "header": produced.header,
        "body": produced.body,
        "witness": produced.witness,
        "limits": NO_LIMITS,
    } | changes
    return JudgeTask(**fields)


def test_a_worker_judges_from_the_witness(workers):
    task = build_judge_task(ChunkLab())
    here = InProcess().judge(task, VerifiedCache())
    assert workers.judge(task, VerifiedCache()) == here


@pytest.mark.parametrize("place", ["there", "here"])
def test_a_witness_that_is_none(workers, place):
    judge = workers.judge if place == "there" else InProcess().judge
    task = build_judge_task(ChunkLab(), witness=b"\x92\x90\x90")
    with pytest.raises(InvalidWitness, match="hashes beside"):
        judge(task, VerifiedCache())


@pytest.mark.parametrize("place", ["there", "here"])
def test_a_header_that_lies(workers, place):
    judge = workers.judge if place == "there" else InProcess().judge
    lab = ChunkLab()
    task = build_judge_task(lab)
    lie = msgspec.structs.replace(task.header, fees=task.header.fees + 1)
    task = JudgeTask(lab.context, lie, task.body, task.witness, NO_LIMITS)
    with pytest.raises(InvalidChunk, match="fees is"):
        judge(task, VerifiedCache())


def test_judges_in_threads_beside_blocks(workers, labs):
    task = build_judge_task(ChunkLab())
    here = InProcess().judge(task, VerifiedCache())
    answers = []

    def judge():
        answers.extend(workers.judge(task, VerifiedCache()) for _ in range(10))

    threads = [threading.Thread(target=judge) for _ in range(3)]
    for thread in threads:
        thread.start()
    tasks = build_tasks(labs)
    for _ in range(5):
        assert workers.execute(tasks, VerifiedCache()) == execute_here(tasks)
    for thread in threads:
        thread.join()
    assert answers == [here] * 30
    assert len(workers.pids) == 2


# --------------------------------------------------------------------------- failures


def test_a_dead_worker_is_replaced(labs):
    """Its chunk is executed here, and later there is a new process."""
    with ChunkWorkers(1, least_transactions=1) as pool:
        assert pool.wait_ready(START_S)
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        tasks = build_tasks(labs)
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pool.wait_ready(START_S)
        assert pool.pids != [pid]
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)


def test_a_worker_that_dies_in_the_middle(labs, monkeypatch):
    """It has the chunk and has asked for its state when it is killed."""
    with ChunkWorkers(1, least_transactions=1) as pool:
        assert pool.wait_ready(START_S)
        (pid,) = pool.pids
        receive = chunk_process.ChunkProcess.receive

        def kill_and_receive(self):
            answer = receive(self)
            if isinstance(answer, Need):
                os.kill(pid, signal.SIGKILL)
                self.process.wait()
            return answer

        monkeypatch.setattr(chunk_process.ChunkProcess, "receive", kill_and_receive)
        tasks = build_tasks(labs)
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pid not in pool.pids


def test_a_worker_that_hangs_is_killed(labs, monkeypatch):
    monkeypatch.setattr("p2pchain.node.chunks.batch.PATIENCE_S", 0.2)
    with ChunkWorkers(1, least_transactions=1) as pool:
        assert pool.wait_ready(START_S)
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        tasks = build_tasks(labs)
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pid not in pool.pids


class Liar:
    """Stands where a worker should, and answers whatever it was made with."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def start(self, bls):
        ours, theirs = socket.socketpair()
        ours.settimeout(0.5)
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
        )

        def talk():
            with theirs:
                send_message(theirs, Ready())
                try:
                    for answer in self.answers:
                        receive_frame(theirs)
                        if isinstance(answer, bytes):
                            theirs.sendall(answer)
                        else:
                            send_message(theirs, answer)
                    receive_frame(theirs)
                except OSError:
                    pass

        threading.Thread(target=talk, daemon=True).start()
        return chunk_process.ChunkProcess(process, ours)


@pytest.mark.parametrize(
    "answers",
    [
        (b"\xff\xff\xff\xff",),
        (b"\0\0\0\2\xc1\xc1",),
        (b"\0\0\0\5abc",),
        (Ready(),),
        (Need((4**9,)),),
        (Refused(True, "of a witness that nobody gave"),),
        (Need((0,)), Supply((b"",))),
        (Need(()), Need(()), b"\0"),
    ],
)
def test_a_worker_that_talks_nonsense(labs, monkeypatch, answers):
    liar = Liar(*answers)
    monkeypatch.setattr(
        "p2pchain.node.chunks.workers.ChunkProcess.start",
        classmethod(lambda cls, bls: liar.start(bls)),
    )
    monkeypatch.setattr("p2pchain.node.chunks.batch.PATIENCE_S", 0.5)
    with ChunkWorkers(1, least_transactions=1) as pool:
        assert pool.wait_ready(START_S)
        tasks = build_tasks(labs)
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pool.pids == []


def test_a_state_that_cannot_be_read_stops_everything(labs, monkeypatch):
    """A damaged database is our own fault, and no worker is left half-way."""
    with ChunkWorkers(1, least_transactions=1) as pool:
        assert pool.wait_ready(START_S)
        (pid,) = pool.pids
        tasks = build_tasks(labs)

        def read(self, index):
            raise DamagedBucket(self.shard, index, "is damaged")

        with monkeypatch.context() as patch:
            patch.setattr(ShardState, "get_bucket_bytes", read)
            with pytest.raises(DamagedBucket):
                pool.execute(tasks, VerifiedCache())
        assert pid not in pool.pids
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)


def test_a_node_with_many_open_files(labs, monkeypatch):
    """File numbers beyond what select() takes."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 3000:
        pytest.skip("the machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, limits[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with ChunkWorkers(1, least_transactions=1) as pool:
            assert pool.wait_ready(START_S)
            tasks = build_tasks(labs)
            assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
            assert len(pool.pids) == 1
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_small_blocks_start_no_process(labs):
    with ChunkWorkers(2) as pool:
        tasks = build_tasks(labs)
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pool.pids == []


def test_one_large_chunk_stays_here(labs):
    with ChunkWorkers(2, least_transactions=1) as pool:
        tasks = build_tasks(labs)[:1]
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pool.pids == []


def test_no_workers_at_all(labs):
    with ChunkWorkers(0, least_transactions=1) as pool:
        tasks = build_tasks(labs)
        assert pool.execute(tasks, VerifiedCache()) == execute_here(tasks)
        assert pool.pids == []
        pool.judge(build_judge_task(ChunkLab()), VerifiedCache())
    assert 0 <= compute_default_workers() <= 8


def test_workers_end_with_the_node(tmp_path):
    """However it ends: they see the socket close."""
    code = (
        "import os, signal, sys\n"
        "from p2pchain.node.chunks.workers import ChunkWorkers\n"
        "pool = ChunkWorkers(1, least_transactions=1)\n"
        "assert pool.wait_ready(60)\n"
        "print(*pool.pids, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    node = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    (pid,) = map(int, node.stdout.split())
    for _ in range(500):
        if not is_running(pid):
            return
        threading.Event().wait(0.01)
    raise AssertionError("the worker is still there")


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_load_no_tensor_library():
    code = (
        "import sys, p2pchain.node.chunks.worker\n"
        "assert not {'torch', 'transformers', 'trio', 'aiohttp', 'plyvel'} "
        "& set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------- wire


def test_frames_are_bounded():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(LinkFailed, match="a message of"):
            send_message(ours, Supply((bytes(MAX_FRAME_BYTES),)))
        theirs.sendall((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(LinkFailed, match="begins with"):
            receive_frame(ours)


def test_a_frame_that_breaks_off():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\0\0\0\5abc")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(LinkFailed, match="3 of 5"):
            receive_frame(ours)
        assert receive_frame(ours) is None


def test_who_walks_gets_the_next_buckets_too():
    """One by one would cost a round trip per bucket."""
    ours, theirs = socket.socketpair()
    asked = []

    def supply():
        while (data := receive_frame(ours)) is not None:
            indices = decode_answer(data).indices
            asked.append(indices)
            send_message(ours, Supply(tuple(b"\x90" for _ in indices)))

    with ours:
        thread = threading.Thread(target=supply)
        thread.start()
        with theirs:
            state = SuppliedState(theirs, 5)
            state.prepare([b"key"])
            assert [state.get_bucket(index) for index in range(1024)] == [{}] * 1024
        thread.join()
    first = state.get_index(b"key")
    assert asked[0] == (first,)
    assert sorted(index for lot in asked for index in lot) == list(range(1024))
    assert len(asked) < 25


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x91\x63", encode(Ready())])
def test_what_is_no_request(data):
    with pytest.raises(DecodeError):
        decode_request(data)


def test_messages_are_their_bytes(labs):
    task = build_tasks(labs)[0]
    judge = build_judge_task(labs[1])
    for message in (
        Execute(b"", NO_LIMITS, 5, task.body, b"\1"),
        Judge(b"", NO_LIMITS, judge.header, judge.body, b"", judge.witness),
        Supply((b"a", b"")),
    ):
        assert decode_request(encode(message)) == message
    executed = execute_here([task])[0]
    done = build_done(executed)
    assert decode_answer(encode(done)) == done
    assert build_executed(task.body, done) == executed


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 4096])
def test_bits(count):
    luck = random.Random(count)
    flags = [luck.random() < 0.5 for _ in range(count)]
    assert unpack_bits(pack_bits(flags), count) == flags
