"""The desk, rule by rule: kept and broken."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_world import (
    BOUNDS,
    CHAIN,
    SEED,
    Chain,
    Town,
    make_next,
    name,
    replace,
)

from consensus.errors import CorruptWal, WrongWal
from consensus.records import Floor
from consensus.wal import encode_header, encode_records, scan_wal
from shards import effects as fx
from shards import events as ev
from shards.absentees import Absentees
from shards.certificate import CertifiedChunk, compute_producer_bytes
from shards.chunk import compute_chunk_hash
from shards.desk import Desk
from shards.desk_state import MAX_BODY_MEMORY_BYTES, DeskConfig, DeskRecord
from shards.effects import Reason
from shards.evidence import DoubleEndorsement, DoubleProduction
from shards.inclusion import INCLUSION_VIEWS
from shards.messages import (
    MAX_WITNESS_BYTES,
    Certified,
    Endorsement,
    ProducedChunk,
    ProducerSignature,
)
from shards.producers import ProducerTable, ShardProducers
from shards.roles import Roles
from shards.slots import MAX_PRODUCERS, Slot, compute_brief_turn_ms, get_slot

TOWN = Town([10] * 7)
TABLE = ProducerTable((ShardProducers(1, (0, 1, 2), (4, 5, 6)),))
ROLES = Roles(0, SEED, TOWN.validators, TABLE)


def config(index):
    return DeskConfig(
        chain_id=CHAIN,
        delta_ms=500,
        brief_turn_ms=150,
        scheme=TOWN.scheme,
        signer=None if index is None else TOWN.keys[index],
    )


class Bench:
    """One desk on a chain of one shard."""

    def __init__(self, index, records=(), saved=None, view=1, **more):
        self.chain = Chain(shards=(0, 1))
        self.desk = Desk(config(index), ROLES, records, saved, **more)
        self.enter(view)

    def enter(self, view, producible=(1,)):
        self.view = view
        return self.give(
            ev.ViewEntered(
                base=self.chain.get_base(view),
                parent=self.chain.parent,
                leaders=(view % 7, (view + 1) % 7),
                producible=frozenset(producible),
            )
        )

    def give(self, event):
        self.effects = self.desk.handle(event)
        return self.effects

    def receive(self, message, sender=b"peer"):
        return self.give(ev.Received(message, sender))

    def tick(self, view=None, timer=ev.Timer.TURN):
        slot = Slot(0, 1, self.view if view is None else view)
        return self.give(ev.TimerFired(timer, slot))

    def get(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def get_sent(self, kind):
        return [e.message for e in self.get(fx.Send) if isinstance(e.message, kind)]

    @property
    def reasons(self):
        return [effect.reason for effect in self.get(fx.Refuse)]

    def execute(self, judgement=ev.Judgement.GOOD):
        """Answer the last request to execute."""
        (request,) = self.get(fx.Execute)
        return self.give(ev.Executed(request.produced.header, judgement))

    def make(self, producer, view=None, salt=b"tx", key=None, witness=b"w", **more):
        """Return a signed chunk on the tip."""
        fields = {
            "epoch": 0,
            "view": self.view if view is None else view,
            "anchor": self.chain.parent,
            "producer": producer,
            "transactions": (salt,),
        }
        header = make_next(self.chain.tips[1], **(fields | more))
        message = compute_producer_bytes(
            CHAIN, get_slot(header), compute_chunk_hash(header)
        )
        signature = TOWN.keys[producer if key is None else key].sign(message)
        return ProducedChunk(header, signature, (salt,), (), witness)


def find_role(wanted, view=1):
    """Return an index: "first" in rank, "second", or a mere "member" or "outsider"."""
    slot = Slot(0, 1, view)
    ranked, committee = ROLES.get_producers(slot), ROLES.get_committee(slot)
    others = [i for i in range(7) if i not in ranked]
    match wanted:
        case "first":
            return ranked[0]
        case "second":
            return ranked[1]
        case "member":
            return next(i for i in committee.members if i not in ranked[:2])
        case "outsider":
            return next(i for i in range(7) if i not in committee.members)
        case "stranger":
            return others[0]
    raise AssertionError(wanted)


FIRST, SECOND = find_role("first"), find_role("second")
MEMBER, OUTSIDER = find_role("member"), find_role("outsider")
STRANGER = find_role("stranger")


def build(bench, salt=b"tx"):
    """Answer the request to build."""
    (request,) = bench.get(fx.Build)
    unsigned = replace(bench.make(request.producer, salt=salt), signature=bytes(96))
    return bench.give(ev.ChunkBuilt(unsigned))


# Producing


def test_the_first_in_rank_builds_at_once_and_saves_before_it_sends():
    bench = Bench(FIRST)
    (request,) = bench.get(fx.Build)
    tip = bench.chain.tips[1]
    slot = Slot(0, 1, 1)
    assert request == fx.Build(slot, compute_chunk_hash(tip), bench.chain.parent, FIRST)
    kinds = [type(effect) for effect in build(bench)]
    assert kinds.index(fx.SaveChunk) < kinds.index(fx.Persist) < kinds.index(fx.Send)
    (send,) = [e for e in bench.get(fx.Send) if isinstance(e.message, ProducedChunk)]
    expected = {*ROLES.get_committee(slot).members, *ROLES.get_producers(slot)}
    assert set(send.recipients) == expected - {FIRST}
    assert send.message.signature != bytes(96)


@pytest.mark.parametrize("producible", [(), (2,)])
def test_nobody_builds_without_the_state(producible):
    bench = Bench(FIRST, view=0)
    bench.enter(1, producible)
    assert not bench.get(fx.Build)


def test_no_chunk_of_a_halted_shard():
    bench = Bench(FIRST, view=0)
    bench.chain.halted = frozenset({1})
    bench.enter(1)
    assert not bench.get(fx.Build)


def test_nothing_to_do():
    bench = Bench(FIRST)
    slot = Slot(0, 1, 1)
    assert bench.give(ev.NothingBuilt(slot)) == []
    bench.tick()
    assert not bench.get(fx.Build)
    # A better parent in the same view may bring work.
    bench.enter(1)
    assert bench.get(fx.Build)


def test_the_second_in_rank_waits_for_its_turn():
    bench = Bench(SECOND)
    assert not bench.get(fx.Build)
    (timer,) = bench.get(fx.SetTimer)
    assert timer == fx.SetTimer(ev.Timer.TURN, Slot(0, 1, 1), 500)
    bench.tick()
    assert bench.get(fx.Build)
    for _ in range(10):
        bench.tick()
        assert not bench.get(fx.Build)
    assert not bench.get(fx.SetTimer)


def test_the_second_in_rank_does_not_follow_the_first():
    bench = Bench(SECOND)
    bench.receive(bench.make(FIRST))
    bench.tick()
    assert not bench.get(fx.Build)


def get_turn_ms(bench):
    """Return how long the first in rank is awaited in this view."""
    (timer,) = bench.get(fx.SetTimer)
    assert timer.timer is ev.Timer.TURN
    return timer.delay_ms


def test_who_let_a_turn_pass_is_awaited_briefly_until_it_certifies_a_chunk():
    views = [v for v in range(1, 60) if ROLES.get_producers(Slot(0, 1, v))[0] == FIRST]
    bench = Bench(STRANGER, view=views[0])
    assert get_turn_ms(bench) == 500
    bench.tick()
    assert get_turn_ms(bench) == 500, "of the second, who was never silent"
    bench.enter(views[1])
    assert get_turn_ms(bench) == 150
    # A chunk that is not certified is a promise and no more.
    produced = bench.make(FIRST)
    bench.receive(produced)
    bench.tick()
    bench.enter(views[2])
    assert get_turn_ms(bench) == 150
    header = bench.make(FIRST).header
    certificate = TOWN.certify(header, ROLES.get_committee(get_slot(header)).members)
    bench.receive(Certified(CertifiedChunk(header, certificate)))
    bench.enter(views[3])
    assert get_turn_ms(bench) == 500


def test_who_has_a_reason_to_be_silent_is_not_marked():
    """A certified chunk waits for a block, so nobody should make another one."""
    bench = Bench(STRANGER)
    header = bench.make(SECOND).header
    certificate = TOWN.certify(header, ROLES.get_committee(get_slot(header)).members)
    bench.receive(Certified(CertifiedChunk(header, certificate)))
    for view in range(2, 5):
        bench.enter(view)
        assert get_turn_ms(bench) == 500
        for _ in range(5):
            bench.tick()


def test_marks_end_with_the_set():
    keys = {each.public_key for each in ROLES.validators.validators}
    absentees = Absentees(500, 150)
    for key in keys:
        absentees.add(1, key)
        absentees.add(2, key)
    kept = min(keys)
    absentees.retain([1], [kept])
    times = {(s, k): absentees.compute_turn_ms(s, k) for s in (1, 2) for k in keys}
    assert times == {place: 150 if place == (1, kept) else 500 for place in times}


@pytest.mark.parametrize("interval_ms", [1000, 250, 60_000])
def test_within_an_interval_every_rank_has_its_turn_after_silent_ones(interval_ms):
    brief_ms = compute_brief_turn_ms(interval_ms, 500)
    assert (MAX_PRODUCERS - 1) * brief_ms < interval_ms
    assert brief_ms <= 500


@pytest.mark.parametrize("fault", ["spoilt", "stray"])
def test_a_chunk_of_no_use_makes_room_for_the_second(fault):
    slots = [Slot(0, 1, view) for view in range(1, 50)]
    slot = next(s for s in slots if ROLES.get_producers(s)[1] in ROLES.get_committee(s))
    first, second = ROLES.get_producers(slot)[:2]
    bench = Bench(second, view=slot.created_view)
    if fault == "stray":
        bench.receive(bench.make(first, anchor=bytes([9]) * 32))
        assert not bench.get(fx.Execute)
    else:
        bench.receive(bench.make(first))
        bench.execute(ev.Judgement.SPOILT)
    assert not bench.get(fx.Build)
    bench.tick()
    assert bench.get(fx.Build)


def test_a_bad_chunk_of_the_first_makes_room_for_the_second():
    slots = [Slot(0, 1, view) for view in range(1, 50)]
    slot = next(s for s in slots if ROLES.get_producers(s)[1] in ROLES.get_committee(s))
    first, second = ROLES.get_producers(slot)[:2]
    bench = Bench(second, view=slot.created_view)
    bench.receive(bench.make(first))
    executing = bench.effects
    bench.tick()
    assert not bench.get(fx.Build)
    bench.effects = executing
    bench.execute(ev.Judgement.BAD)
    assert Reason.BAD_CHUNK in bench.reasons
    assert bench.get(fx.Build)


def test_a_chunk_that_was_built_too_late_is_not_signed():
    bench = Bench(FIRST)
    (request,) = bench.get(fx.Build)
    unsigned = bench.make(request.producer)
    bench.chain.add(1, bench.make(SECOND).header)
    bench.enter(2)
    bench.give(ev.ChunkBuilt(unsigned))
    assert not bench.get(fx.Persist)
    assert not bench.get(fx.Send)


def test_a_chunk_is_sent_again_until_it_is_certified():
    bench = Bench(FIRST)
    build(bench)
    (produced,) = bench.get_sent(ProducedChunk)
    members = ROLES.get_committee(Slot(0, 1, 1)).members
    heard = next(i for i in members if i != FIRST)
    bench.receive(TOWN.endorse(produced.header, heard))
    bench.tick(timer=ev.Timer.REPEAT)
    (send,) = bench.get(fx.Send)
    assert send.message == produced
    assert heard not in send.recipients
    for signer in members:
        bench.receive(TOWN.endorse(produced.header, signer))
    bench.tick(timer=ev.Timer.REPEAT)
    assert bench.effects == []


def test_no_second_chunk_on_a_tip_that_waits_for_a_certified_one():
    """In every later view in which we are first, while the certificate is of use."""
    bench = Bench(STRANGER)
    header = bench.make(FIRST).header
    certificate = TOWN.certify(header, ROLES.get_committee(get_slot(header)).members)
    for index in range(3):
        for is_certified in (False, True):
            bench = Bench(index)
            if is_certified:
                bench.receive(Certified(CertifiedChunk(header, certificate)))
            built = []
            for view in range(2, 14):
                bench.enter(view)
                if bench.get(fx.Build):
                    built.append(view)
                    bench.give(ev.NothingBuilt(Slot(0, 1, view)))
            ranked = [
                view
                for view in range(2, 14)
                if ROLES.get_producers(Slot(0, 1, view))[0] == index
            ]
            last = 1 + INCLUSION_VIEWS if is_certified else 0
            assert built == [view for view in ranked if view > last]


def test_a_key_that_produced_elsewhere_produces_nothing_here():
    """Two machines with one key, or a log from before: our signature is out there."""
    bench = Bench(FIRST)
    bench.receive(bench.make(FIRST, salt=b"elsewhere"))
    bench.give(ev.ChunkBuilt(replace(bench.make(FIRST), signature=bytes(96))))
    assert not bench.get(fx.Persist)
    bench.tick(timer=ev.Timer.REPEAT)
    assert bench.effects == []


# Endorsing


def test_a_member_executes_saves_and_endorses():
    bench = Bench(MEMBER)
    produced = bench.make(FIRST)
    bench.receive(produced)
    assert bench.get(fx.Execute) == [fx.Execute(produced)]
    kinds = [type(effect) for effect in bench.execute()]
    assert kinds[:3] == [fx.SaveChunk, fx.Persist, fx.Send]
    (send,) = bench.get(fx.Send)
    assert set(send.recipients) == {FIRST, 1, 2} - {MEMBER}
    assert send.message == TOWN.endorse(produced.header, MEMBER)
    assert bench.desk.body_bytes == 0


@pytest.mark.parametrize("judgement", [ev.Judgement.BAD, ev.Judgement.UNKNOWN])
def test_nothing_else_is_endorsed(judgement):
    bench = Bench(MEMBER)
    bench.receive(bench.make(FIRST))
    bench.execute(judgement)
    assert not bench.get(fx.Persist)
    assert not bench.get(fx.Send)
    bench.enter(2)
    assert bool(bench.get(fx.Execute)) == (judgement is ev.Judgement.UNKNOWN)


def test_a_spoilt_copy_makes_room_for_a_good_one():
    """A header does not bind the witness, so whoever passes a chunk on may spoil it."""
    bench = Bench(MEMBER)
    produced = bench.make(FIRST)
    spoilt = replace(produced, witness=b"spoilt")
    bench.receive(spoilt, b"somebody")
    bench.execute(ev.Judgement.SPOILT)
    # Who is in no committee passes chunks on and cannot see what they are worth.
    assert bench.get(fx.Refuse) == [fx.Refuse(b"somebody", Reason.BAD_WITNESS)]
    assert not Reason.BAD_WITNESS.is_fault
    assert bench.desk.body_bytes == 0
    bench.receive(replace(produced, witness=b"spoilt again"), b"somebody")
    assert bench.get(fx.Refuse) == [fx.Refuse(b"somebody", Reason.DUPLICATE)]
    assert not bench.get(fx.Execute)
    check_refused(bench, replace(produced, transactions=()), Reason.BAD_BODY)
    forged = replace(produced, signature=bytes(96))
    check_refused(bench, forged, Reason.BAD_SIGNATURE)
    bench.receive(produced)
    assert bench.get(fx.Execute) == [fx.Execute(produced)]
    bench.execute()
    assert bench.get_sent(Endorsement)


def test_one_endorsement_per_slot():
    bench = Bench(MEMBER)
    bench.receive(bench.make(FIRST))
    bench.execute()
    bench.tick()
    bench.receive(bench.make(SECOND, salt=b"other"))
    assert not bench.get(fx.Execute)
    bench.enter(2)
    assert not bench.get(fx.Execute)


def test_a_later_rank_waits_and_the_first_goes_first():
    bench = Bench(MEMBER)
    second = bench.make(SECOND, salt=b"second")
    bench.receive(second)
    assert bench.effects == []
    first = bench.make(FIRST)
    bench.receive(first)
    assert bench.get(fx.Execute) == [fx.Execute(first)]
    bench.execute(ev.Judgement.BAD)
    assert not bench.get(fx.Execute)
    bench.tick()
    assert bench.get(fx.Execute) == [fx.Execute(second)]


def test_a_chunk_of_the_next_view_waits_for_it():
    bench = Bench(MEMBER)
    view = next(v for v in range(2, 50) if MEMBER in ROLES.get_committee(Slot(0, 1, v)))
    bench.enter(view - 1)
    producer = ROLES.get_producers(Slot(0, 1, view))[0]
    if producer == MEMBER:
        pytest.skip("the member is the producer")
    early = bench.make(producer, view=view)
    bench.receive(early)
    assert bench.effects == []
    bench.enter(view)
    assert bench.get(fx.Execute) == [fx.Execute(early)]


def test_a_chunk_on_a_block_that_is_not_here_waits_for_it():
    bench = Bench(MEMBER)
    ahead = name((bench.chain.parent, 0))
    produced = bench.make(FIRST, anchor=ahead)
    bench.receive(produced)
    assert bench.effects == []
    bench.chain.add(0)
    assert bench.chain.parent == ahead
    bench.enter(1)
    assert bench.get(fx.Execute) == [fx.Execute(produced)]


def test_who_is_no_member_executes_nothing():
    bench = Bench(OUTSIDER)
    bench.receive(bench.make(next(i for i in (FIRST, SECOND) if i != OUTSIDER)))
    assert not bench.get(fx.Execute)
    assert bench.desk.body_bytes == 0


def test_the_endorsement_is_repeated_when_the_chunk_comes_again():
    bench = Bench(MEMBER)
    produced = bench.make(FIRST)
    bench.receive(produced)
    bench.execute()
    (endorsement,) = bench.get_sent(Endorsement)
    bench.receive(produced)
    assert bench.reasons == [Reason.DUPLICATE]
    assert bench.get(fx.Send) == [fx.Send((FIRST,), endorsement)]


def test_leaders_of_later_views_hear_of_it_too():
    bench = Bench(MEMBER)
    bench.receive(bench.make(FIRST))
    bench.execute()
    (endorsement,) = bench.get_sent(Endorsement)
    bench.enter(4)
    recipients = {4, 5, FIRST} - {MEMBER}
    assert fx.Send(tuple(sorted(recipients)), endorsement) in bench.effects


def check_refused(bench, message, reason):
    bench.receive(message)
    assert bench.reasons == [reason]
    assert len(bench.effects) == 1


def test_chunks_that_are_refused():
    bench = Bench(MEMBER)
    good = bench.make(FIRST)
    stranger = bench.make(STRANGER)
    check_refused(bench, stranger, Reason.NOT_PRODUCER)
    check_refused(bench, bench.make(FIRST, key=STRANGER), Reason.BAD_SIGNATURE)
    check_refused(bench, replace(good, transactions=()), Reason.BAD_BODY)
    check_refused(bench, replace(good, transactions=(b"x",)), Reason.BAD_BODY)
    other = replace(good.header, shard=2)
    check_refused(bench, replace(good, header=other), Reason.UNKNOWN_SHARD)
    root = replace(good.header, shard=0)
    check_refused(bench, replace(good, header=root), Reason.UNKNOWN_SHARD)
    later = replace(good.header, epoch=1)
    check_refused(bench, replace(good, header=later), Reason.OTHER_EPOCH)
    early = replace(good.header, created_view=3)
    check_refused(bench, replace(good, header=early), Reason.EARLY)
    bench.enter(2 + INCLUSION_VIEWS)
    check_refused(bench, good, Reason.STALE)


def test_before_the_first_view_nothing_is_taken():
    desk = Desk(config(MEMBER), ROLES)
    bench = Bench(MEMBER)
    (refusal,) = desk.handle(ev.Received(bench.make(FIRST), b"peer"))
    assert refusal.reason is Reason.EARLY
    assert not refusal.reason.is_fault


# Collecting


def test_enough_endorsements_are_a_certificate():
    bench = Bench(FIRST)
    build(bench)
    (produced,) = bench.get_sent(ProducedChunk)
    members = ROLES.get_committee(Slot(0, 1, 1)).members
    pairings = TOWN.scheme.pairings
    certified = []
    for signer in (i for i in members if i != FIRST):
        bench.receive(TOWN.endorse(produced.header, signer))
        certified += bench.get(fx.CertificateReady)
        if certified:
            break
    assert TOWN.scheme.pairings == pairings + 1
    (broadcast,) = bench.get(fx.Broadcast)
    assert broadcast.message == Certified(certified[0].certified)
    assert bench.desk.pick(bench.chain.get_base(1)) == (certified[0].certified,)
    assert bench.desk.pick(bench.chain.get_base(1 + INCLUSION_VIEWS))
    assert not bench.desk.pick(bench.chain.get_base(2 + INCLUSION_VIEWS))


def collector():
    """Return a bench with a chunk of its own, and the members who have not endorsed."""
    bench = Bench(FIRST)
    build(bench)
    (produced,) = bench.get_sent(ProducedChunk)
    members = ROLES.get_committee(Slot(0, 1, 1)).members
    return bench, produced, [i for i in members if i != FIRST]


def test_forged_endorsements_are_found_by_halves():
    bench, produced, members = collector()
    forgers = members[:1]
    for signer in forgers:
        fake = TOWN.endorse(produced.header, signer, key=OUTSIDER)
        bench.receive(fake, b"forger")
    refused = []
    for signer in members[1:]:
        bench.receive(TOWN.endorse(produced.header, signer), b"honest")
        refused += [(e.sender, e.reason) for e in bench.get(fx.Refuse)]
        if bench.get(fx.CertificateReady):
            break
    assert refused == [(b"forger", Reason.BAD_SIGNATURE)]
    assert bench.get(fx.CertificateReady)


def test_a_forged_endorsement_does_not_keep_the_genuine_one_out():
    bench, produced, members = collector()
    bench.receive(TOWN.endorse(produced.header, members[0], key=OUTSIDER), b"forger")
    bench.receive(TOWN.endorse(produced.header, members[0]), b"honest")
    assert [(e.sender, e.reason) for e in bench.get(fx.Refuse)] == [
        (b"forger", Reason.BAD_SIGNATURE)
    ]
    bench.receive(TOWN.endorse(produced.header, members[0], key=OUTSIDER), b"forger")
    assert [e.sender for e in bench.get(fx.Refuse)] == [b"forger"]


def test_two_liars_who_swap_their_signatures():
    """Their sum is good, each alone is not: the certificate is, and accuses nobody."""
    bench, produced, members = collector()
    one, two = (TOWN.endorse(produced.header, signer) for signer in members[:2])
    bench.receive(replace(one, signature=two.signature), b"liar")
    bench.receive(replace(two, signature=one.signature), b"liar")
    for signer in members[2:]:
        if bench.get(fx.CertificateReady):
            break
        bench.receive(TOWN.endorse(produced.header, signer))
    assert bench.get(fx.CertificateReady)
    assert not bench.get(fx.Conflict)


def test_endorsements_that_are_refused():
    bench, produced, members = collector()
    header = produced.header
    check_refused(bench, TOWN.endorse(header, OUTSIDER), Reason.NOT_MEMBER)
    other = replace(header, work=1)
    check_refused(bench, TOWN.endorse(other, members[0]), Reason.UNKNOWN_CHUNK)
    bench.receive(TOWN.endorse(header, members[0]))
    assert bench.effects == []
    check_refused(bench, TOWN.endorse(header, members[0]), Reason.DUPLICATE)


def test_certificates_that_are_refused():
    bench = Bench(STRANGER)
    header = bench.make(FIRST).header
    members = ROLES.get_committee(get_slot(header)).members

    def certify(header, signers):
        return Certified(CertifiedChunk(header, TOWN.certify(header, signers)))

    few = certify(header, members[:1])
    check_refused(bench, few, Reason.BAD_CERTIFICATE)
    check_refused(bench, certify(header, range(7)), Reason.BAD_CERTIFICATE)
    moved = Certified(replace(few.chunk, header=replace(header, work=1)))
    check_refused(bench, moved, Reason.BAD_CERTIFICATE)
    foreign = certify(replace(header, producer=STRANGER), members)
    check_refused(bench, foreign, Reason.NOT_PRODUCER)
    good = certify(header, members)
    bench.receive(good)
    assert bench.effects == [fx.CertificateReady(good.chunk)]
    check_refused(bench, good, Reason.DUPLICATE)


def test_certificates_of_one_slot_are_bounded():
    bench = Bench(STRANGER)
    members = ROLES.get_committee(Slot(0, 1, 1)).members
    for number in range(MAX_PRODUCERS + 1):
        header = bench.make(FIRST, salt=number.to_bytes(2, "big")).header
        certificate = TOWN.certify(header, members)
        bench.receive(Certified(CertifiedChunk(header, certificate)))
    assert bench.reasons == [Reason.SURPLUS]


def test_the_producer_tells_the_next_leaders():
    bench, produced, members = collector()
    for signer in members:
        bench.receive(TOWN.endorse(produced.header, signer))
    bench.enter(3)
    (message,) = bench.get_sent(Certified)
    assert message.chunk.header == produced.header
    bench.chain.add(3, produced.header)
    bench.enter(4)
    assert not bench.get_sent(Certified)


# Evidence


def test_two_chunks_of_one_producer_are_evidence():
    bench = Bench(MEMBER)
    bench.receive(bench.make(FIRST))
    bench.receive(bench.make(FIRST, salt=b"other"))
    (conflict,) = bench.get(fx.Conflict)
    assert isinstance(conflict.evidence, DoubleProduction)
    assert conflict.evidence.producer == FIRST
    bench.receive(bench.make(FIRST, salt=b"third"))
    assert bench.reasons == [Reason.SURPLUS]
    assert not bench.get(fx.Conflict)


def two_chunks():
    """Return a bench that knows two chunks of one slot, and their headers."""
    bench = Bench(STRANGER)
    headers = []
    for producer, salt in ((FIRST, b"a"), (SECOND, b"b")):
        produced = bench.make(producer, salt=salt)
        bench.receive(produced)
        headers.append(produced.header)
    return bench, headers


def test_two_endorsements_of_one_signer_are_evidence():
    bench, (first, second) = two_chunks()
    bench.receive(TOWN.endorse(first, MEMBER))
    bench.receive(TOWN.endorse(second, MEMBER, key=OUTSIDER), b"forger")
    assert bench.reasons == [Reason.BAD_SIGNATURE]
    bench.receive(TOWN.endorse(second, MEMBER))
    (conflict,) = bench.get(fx.Conflict)
    assert isinstance(conflict.evidence, DoubleEndorsement)
    bench.receive(TOWN.endorse(second, MEMBER))
    assert not bench.get(fx.Conflict)


def test_a_forged_endorsement_makes_nobody_guilty():
    bench, (first, second) = two_chunks()
    bench.receive(TOWN.endorse(first, MEMBER, key=OUTSIDER), b"forger")
    bench.receive(TOWN.endorse(second, MEMBER), b"honest")
    assert not bench.get(fx.Conflict)
    assert [e.sender for e in bench.get(fx.Refuse)] == [b"forger"]


def test_certificates_with_common_signers_are_evidence():
    bench, (first, second) = two_chunks()
    members = ROLES.get_committee(get_slot(first)).members
    half = members[:3], members[2:]
    for header, signers in zip((first, second), half, strict=True):
        certificate = TOWN.certify(header, signers)
        bench.receive(Certified(CertifiedChunk(header, certificate)))
    (conflict,) = bench.get(fx.Conflict)
    assert isinstance(conflict.evidence, DoubleEndorsement)


def test_a_certificate_and_an_endorsement_are_evidence():
    bench, (first, second) = two_chunks()
    members = ROLES.get_committee(get_slot(first)).members
    bench.receive(TOWN.endorse(second, members[0]))
    bench.receive(TOWN.endorse(second, members[1], key=OUTSIDER), b"forger")
    certificate = TOWN.certify(first, members[:3])
    bench.receive(Certified(CertifiedChunk(first, certificate)))
    (conflict,) = bench.get(fx.Conflict)
    assert conflict.evidence.slot == get_slot(first)
    assert [e.sender for e in bench.get(fx.Refuse)] == [b"forger"]
    bench.receive(TOWN.endorse(second, members[2]))
    assert bench.get(fx.Conflict)


# Restart


def collect_records(bench):
    return [effect.record for effect in bench.get(fx.Persist)]


def test_a_producer_goes_on_with_what_it_signed():
    bench = Bench(FIRST)
    build(bench)
    records = collect_records(bench)
    (produced,) = bench.get_sent(ProducedChunk)
    saved = {compute_chunk_hash(produced.header): produced}
    again = Bench(FIRST, records, saved)
    assert not again.get(fx.Build)
    assert not again.get(fx.Persist)
    assert again.get_sent(ProducedChunk) == [produced]
    members = ROLES.get_committee(Slot(0, 1, 1)).members
    ready = []
    for signer in members:
        again.receive(TOWN.endorse(produced.header, signer))
        ready += again.get(fx.CertificateReady)
    assert ready


def test_a_producer_that_lost_the_body_signs_no_other():
    bench = Bench(FIRST)
    build(bench)
    again = Bench(FIRST, collect_records(bench))
    for _ in range(6):
        assert not again.get(fx.Build)
        again.tick()


def test_an_endorser_repeats_its_word_and_gives_no_other():
    bench = Bench(MEMBER)
    produced = bench.make(FIRST)
    bench.receive(produced)
    bench.execute()
    records, (endorsement,) = collect_records(bench), bench.get_sent(Endorsement)
    again = Bench(MEMBER, records)
    again.receive(again.make(SECOND, salt=b"other"))
    again.tick()
    assert not again.get(fx.Execute)
    again.receive(produced)
    assert not again.get(fx.Execute)
    assert again.get_sent(Endorsement) == [endorsement]
    assert not again.get(fx.Persist)


def test_the_log_in_bytes():
    bench = Bench(FIRST)
    build(bench)
    records = tuple(collect_records(bench))
    key = TOWN.keys[FIRST].public_key
    log = encode_header(key, CHAIN) + encode_records(records)
    assert scan_wal(log, key, CHAIN, DeskRecord) == (records, len(log))
    for cut in range(len(log)):
        if cut < len(encode_header(key, CHAIN)):
            with pytest.raises(CorruptWal):
                scan_wal(log[:cut], key, CHAIN, DeskRecord)
        else:
            assert scan_wal(log[:cut], key, CHAIN, DeskRecord)[0] == ()
    with pytest.raises(WrongWal):
        scan_wal(log, TOWN.keys[SECOND].public_key, CHAIN, DeskRecord)
    with pytest.raises(WrongWal):
        scan_wal(log, key, name("other chain"), DeskRecord)


def test_a_shorter_log_binds_as_the_long_one_does():
    bench = Bench(FIRST)
    build(bench)
    records = collect_records(bench)
    assert bench.desk.get_retained_records() == [Floor(0, 0), *records]
    bench.enter(2 + INCLUSION_VIEWS)
    assert bench.desk.get_retained_records() == [Floor(0, 1)]
    # With a floor above the slot nothing is signed in it, whatever is forgotten.
    again = Bench(FIRST, [Floor(0, 1)])
    assert not again.get(fx.Build)
    later = Bench(MEMBER, [Floor(0, 1)])
    later.receive(later.make(FIRST))
    assert not later.get(fx.Execute)


def test_who_lost_its_log_signs_nothing_until_it_may():
    bench = Bench(FIRST, is_muted=True)
    assert not bench.get(fx.Build)
    assert bench.desk.begin_signing() == Floor(0, 1)
    bench.enter(1)
    assert not bench.get(fx.Build)
    view = next(
        v for v in range(2, 50) if ROLES.get_producers(Slot(0, 1, v))[0] == FIRST
    )
    bench.enter(view)
    assert bench.get(fx.Build)


def test_records_of_a_later_epoch_bind_there():
    """The chain's database was lost: the log reaches further than the chain."""
    slot = Slot(1, 1, 1)
    later = ProducerSignature(slot, name("signed"), FIRST, bytes(96))
    bench = Bench(FIRST, [later])
    assert bench.get(fx.Build)
    roles = Roles(1, SEED, TOWN.validators, TABLE)
    bench.give(ev.EpochBegun(roles))
    bench.chain = Chain(shards=(0, 1), epoch=1, root_height=5)
    bench.enter(1)
    assert not bench.get(fx.Build)


# Epochs, listeners, memory


def test_an_epoch_ends():
    bench = Bench(MEMBER)
    old = bench.make(FIRST)
    bench.receive(old)
    roles = Roles(1, SEED, TOWN.validators, TABLE)
    assert bench.give(ev.EpochBegun(roles)) == []
    assert bench.desk.open_slots == ()
    check_refused(bench, old, Reason.OTHER_EPOCH)
    assert bench.enter(2) == []  # a view of the epoch before
    bench.give(ev.EpochBegun(ROLES))
    check_refused(bench, old, Reason.OTHER_EPOCH)
    bench.chain = Chain(shards=(0, 1), epoch=1, root_height=5)
    bench.enter(1)
    assert bench.desk.open_slots == (Slot(1, 1, 1),)


def test_a_listener_signs_nothing_and_knows_what_is_certified():
    bench = Bench(None)
    assert bench.desk.index is None
    produced = bench.make(FIRST)
    bench.receive(produced)
    assert not bench.get(fx.Execute)
    members = ROLES.get_committee(Slot(0, 1, 1)).members
    certified = Certified(
        CertifiedChunk(produced.header, TOWN.certify(produced.header, members))
    )
    bench.receive(certified)
    assert bench.desk.pick(bench.chain.get_base(1)) == (certified.chunk,)


def test_views_never_go_back():
    bench = Bench(MEMBER)
    bench.enter(5)
    assert bench.enter(4) == []


def test_waiting_bodies_are_bounded():
    """What nobody can include goes first, and then the newest is refused."""
    bench = Bench(MEMBER)
    refused = taken = 0
    for view in range(1, 60):
        bench.enter(view, ())
        for producer in ROLES.get_producers(Slot(0, 1, view)):
            if producer == MEMBER:
                continue
            nowhere = name(("nowhere", view, producer))
            huge = bench.make(
                producer, anchor=nowhere, witness=bytes(MAX_WITNESS_BYTES)
            )
            bench.receive(huge)
            refused += Reason.SURPLUS in bench.reasons
            taken += not bench.reasons
            assert bench.desk.body_bytes <= MAX_BODY_MEMORY_BYTES
            assert len(bench.desk.open_slots) <= INCLUSION_VIEWS + 2
    assert taken > 60
    assert not refused
    assert bench.desk.body_bytes > MAX_BODY_MEMORY_BYTES // 4


def test_a_chunk_over_the_bounds_is_not_executed():
    bench = Bench(MEMBER)
    bench.receive(bench.make(FIRST, work=BOUNDS.work + 1))
    assert bench.effects == []


# Anything in any order

STEPS = st.tuples(
    st.sampled_from(
        ["view", "chunk", "endorse", "certify", "judge", "built", "timer", "restart"]
    ),
    st.integers(0, 6),
    st.integers(0, 3),
    st.booleans(),
)


class Log:
    """What one key ever wrote, over all restarts, and what it may send."""

    def __init__(self):
        self.records = []
        self.saved = {}

    def judge(self, effects, index):
        """Whatever is sent was written before, and nothing is written twice."""
        for effect in effects:
            match effect:
                case fx.SaveChunk(produced):
                    self.saved[compute_chunk_hash(produced.header)] = produced
                case fx.Persist(record):
                    places = [(type(r), r.slot) for r in self.records]
                    assert (type(record), record.slot) not in places
                    assert record.chunk_hash in self.saved
                    assert record.signer == index
                    self.records.append(record)
                case fx.Send(recipients, Endorsement() as endorsement):
                    assert endorsement in self.records
                    assert index not in recipients
                case fx.Send(recipients, ProducedChunk() as produced):
                    hashes = [r.chunk_hash for r in self.records]
                    assert compute_chunk_hash(produced.header) in hashes
                    assert index not in recipients


@settings(max_examples=200)
@given(st.integers(0, 6), st.lists(STEPS, max_size=60))
def test_any_sequence_of_events(index, steps):
    """Lies, nonsense and restarts: no exception, no second word, memory bounded."""
    log = Log()
    bench = Bench(index)
    log.judge(bench.effects, index)
    chunks = [bench.make(i % 3) for i in range(2)]
    for what, number, salt, is_good in steps:
        produced = chunks[(number + salt) % len(chunks)]
        match what:
            case "view":
                if is_good and number % 3 == 0:
                    bench.chain.add(bench.view, *choose_tip(bench))
                bench.enter(max(1, bench.view + number - 1))
            case "chunk":
                key = None if is_good else (number + 1) % 7
                made = bench.make(
                    number, max(1, bench.view + salt - 2), bytes([salt]), key
                )
                chunks.append(made)
                bench.receive(made)
            case "endorse":
                key = None if is_good else (number + 1) % 7
                bench.receive(TOWN.endorse(produced.header, number, key))
            case "certify":
                members = ROLES.get_committee(get_slot(produced.header)).members
                signers = members if is_good else members[:number] or members[:1]
                certificate = TOWN.certify(produced.header, signers)
                chunk = CertifiedChunk(produced.header, certificate)
                bench.receive(Certified(chunk))
            case "judge":
                judgement = list(ev.Judgement)[salt]
                bench.give(ev.Executed(produced.header, judgement))
            case "built":
                slot = Slot(0, 1, bench.view)
                unsigned = replace(bench.make(index), signature=bytes(96))
                bench.give(
                    ev.ChunkBuilt(unsigned) if is_good else ev.NothingBuilt(slot)
                )
            case "timer":
                timer = list(ev.Timer)[salt % 2]
                bench.tick(max(1, bench.view - number), timer)
            case "restart":
                chain, view = bench.chain, bench.view
                bench.desk = Desk(config(index), ROLES, log.records, log.saved)
                bench.chain = chain
                bench.enter(view)
        log.judge(bench.effects, index)
        assert len(bench.desk.open_slots) <= INCLUSION_VIEWS + 2
        for certified in bench.desk.pick(bench.chain.get_base(bench.view)):
            assert certified.header.prev_chunk == compute_chunk_hash(
                bench.chain.tips[1]
            )


def choose_tip(bench):
    return [c.header for c in bench.desk.pick(bench.chain.get_base(bench.view))]
