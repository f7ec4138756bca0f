"""The light client against forgers: every lie that a node could tell is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from light_world import (
    ABSENT,
    CHAIN_ID,
    KEY,
    SHARDS,
    LightWorld,
    build_set,
    change,
    list_mutations,
    make_key,
    sign_certificate,
    verify_header,
    verify_state,
)

from chain.errors import (
    InvalidProof,
    LightError,
    OtherEpoch,
    ProvenFork,
    StaleAnswer,
    UnknownSigners,
)
from chain.light.client import (
    MAX_LINKS,
    MAX_PROVEN,
    EpochProof,
    LightBlock,
    LightState,
    adopt,
    advance,
    skip,
    validate_block,
    validate_state,
)
from chain.light.fork import find_evidence
from chain.records.account import Account
from chain.records.block import compute_roots_root
from chain.records.header import build_proposal, compute_block_hash
from consensus.evidence import validate_evidence
from consensus.messages import Kind, compute_finalize_bytes
from consensus.validators import ValidatorSet, encode_bitmap
from p2pchain.sim.signatures import StandinScheme
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.bls_reference import points
from primitives.codec import decode, encode
from primitives.errors import DecodeError, MissingError

REFUSALS = (LightError, MissingError)

FOUR = [make_key(i) for i in range(4)]
SEVEN = [make_key(i) for i in range(7)]
STRANGERS = [make_key(i) for i in range(50, 54)]
# One validator comes or goes per epoch; in epoch 6 none of the first four is left.
DRIFT = [FOUR, FOUR, *([make_key(i + j) for j in range(4)] for i in range(1, 6))]

# Made once: headers are frozen, and who adds one works on a copy of the list.
WORLD = LightWorld(DRIFT)
STILL = LightWorld([FOUR, FOUR], epochs=12)


def copy(world: LightWorld) -> LightWorld:
    twin = object.__new__(LightWorld)
    twin.__dict__.update(world.__dict__, headers=list(world.headers))
    return twin


# ------------------------------------------------------------------- following


def test_epoch_by_epoch_to_the_end():
    state = WORLD.first
    for epoch in range(len(DRIFT)):
        state = advance(state, WORLD.epoch_proof(epoch), bls)
        assert state.epoch == epoch + 1
        assert state.validators == WORLD.get_set(epoch + 1)
        assert state.newest == WORLD.get_last(epoch)
    state = adopt(state, WORLD.light_block(), bls)
    assert state.newest == WORLD.tip


def test_a_skip_where_the_validators_stayed():
    state = skip(STILL.first, STILL.light_block(), bls)
    assert (state.epoch, state.newest) == (12, STILL.tip)
    assert state.validators == STILL.get_set(12)


def test_blocks_certified_by_a_descendant():
    state = STILL.trust(2)
    block = STILL.light_block(9, links=3)
    assert verify_header(state, block, bls)
    assert adopt(state, block, bls).newest == STILL.headers[9]


def test_records_go_over_the_wire():
    for record in (WORLD.light_block(9), WORLD.epoch_proof(1), WORLD.prove(1, KEY)):
        assert decode(type(record), encode(record)) == record


def test_there_is_a_bound_to_links():
    headers = (WORLD.tip,) * (MAX_LINKS + 1)
    block = LightBlock(headers, WORLD.certify(WORLD.tip), WORLD.get_set(1))
    with pytest.raises(DecodeError):
        decode(LightBlock, encode(block))
    with pytest.raises(DecodeError):
        decode(LightBlock, encode(change(block, headers=())))


def test_the_last_block_of_an_epoch_in_any_view():
    """It is proposed again until it is final; the hash is what counts."""
    header = STILL.get_last(3)
    views = (header.view + 5, header.view)
    state = STILL.trust(3)
    proof = STILL.epoch_proof(3, again=views)
    assert advance(state, proof, bls).epoch == 4
    twice = STILL.epoch_proof(3, again=(header.view + 9, header.view + 5))
    assert advance(state, twice, bls).epoch == 4


@pytest.mark.parametrize(
    ("height", "again"),
    [
        (13, (90, 80)),  # only a boundary is proposed again
        (16, (3, 3)),  # not after itself
        (16, (1, 0)),  # not before it was there
        (16, (2, 9)),  # resting on a later view
    ],
)
def test_proposals_again_that_nobody_makes(height, again):
    block = STILL.light_block(height, again=again)
    with pytest.raises(InvalidProof, match="another block"):
        validate_block(STILL.trust(3), block, bls)


# ------------------------------------------------------------------ the referee


@pytest.mark.parametrize("height", [1, 5, 8])
def test_no_field_of_a_header_can_be_changed(height):
    block = WORLD.light_block(height)
    state = WORLD.trust(block.header.epoch)
    validate_block(state, block, bls)
    for header in list_mutations(block.header):
        # Whether the certificate stays or is put together for the forged header from
        # everybody else's keys, it is refused.
        for certificate in (
            block.certificate,
            WORLD.certify(header, keys=STRANGERS),
        ):
            with pytest.raises(REFUSALS):
                validate_block(
                    state, LightBlock((header,), certificate, block.validators), bls
                )


@pytest.mark.parametrize("name", ["view", "parent_view", "epoch", "height"])
@pytest.mark.parametrize("field", [-1, 1, 100])
def test_no_number_of_a_certificate_can_be_changed(name, field):
    block = STILL.light_block(10)
    certificate = block.certificate
    state = STILL.trust(2)
    value = getattr(certificate.proposal, name) + field
    if value < 0:
        return
    proposal = change(certificate.proposal, **{name: value})
    forged = [change(certificate, proposal=proposal)]
    if name in ("view", "epoch"):
        forged += [
            change(certificate, **{name: value}),
            change(certificate, proposal=proposal, **{name: value}),
        ]
    # Also if a quorum were so mad as to sign it.
    forged.append(sign_certificate(proposal, FOUR))
    for each in forged:
        assert not verify_header(state, change(block, certificate=each), bls)


def test_a_certificate_of_another_block():
    other = STILL.certify(STILL.headers[11])
    block = change(STILL.light_block(10), certificate=other)
    with pytest.raises(InvalidProof, match="another block"):
        validate_block(STILL.trust(2), block, bls)


def test_a_certificate_of_another_epoch():
    """Views restart, so the same numbers come again; the epoch is signed."""
    early, late = STILL.headers[5], STILL.headers[9]
    assert early.view == late.view
    block = change(STILL.light_block(9), certificate=STILL.certify(early))
    assert not verify_header(STILL.trust(2), block, bls)
    relabelled = change(
        STILL.certify(early), epoch=2, proposal=STILL.certify(late).proposal
    )
    block = change(block, certificate=relabelled)
    with pytest.raises(InvalidProof, match="signature"):
        validate_block(STILL.trust(2), block, bls)


@pytest.mark.parametrize("kind", [Kind.NOTARIZATION, Kind.NULLIFICATION])
def test_certificates_that_make_nothing_final(kind):
    block = STILL.light_block(10, kind=kind)
    with pytest.raises(InvalidProof, match="nothing final"):
        validate_block(STILL.trust(2), block, bls)
    # The same votes under the name of a finalization.
    relabelled = change(
        block.certificate,
        kind=Kind.FINALIZATION,
        proposal=STILL.certify(block.header).proposal,
    )
    with pytest.raises(InvalidProof, match="signature"):
        validate_block(STILL.trust(2), change(block, certificate=relabelled), bls)


@pytest.mark.parametrize(
    ("signers", "powers", "is_quorum"),
    [
        ((0, 1), (1, 1, 1), False),  # exactly two thirds are too few
        ((0, 1, 2), (1, 1, 1), True),
        ((0, 1), (1, 1, 2), False),
        ((1, 2), (1, 1, 2), True),
        ((2,), (1, 1, 5), True),
        ((0, 1), (1, 1, 5), False),
        ((0, 1, 2), (2**56 - 1, 2**56 - 1, 2**56 - 1), True),
        ((0, 1), (2**56 - 1, 2**56 - 1, 2**56 - 1), False),
    ],
)
def test_a_quorum_is_counted_in_power(signers, powers, is_quorum):
    keys = FOUR[:3]
    validators = build_set(keys, powers)
    root = validators.compute_root()
    header = change(STILL.headers[1], valset_root=root, next_valset_root=root)
    certificate = STILL.certify(header, keys=keys, signers=signers)
    state = LightState.from_set(STILL.chain, 0, validators)
    block = LightBlock((header,), certificate, validators)
    assert verify_header(state, block, bls) is is_quorum


@pytest.mark.parametrize(
    "bitmap",
    [b"", b"\x0f\x00", b"\x1f", b"\xff", b"\x0e", b"\x00", b"\x0f" * 16],
)
def test_bitmaps(bitmap):
    """Too short, too long, beyond the set, or not those who signed."""
    block = STILL.light_block(10)
    certificate = change(block.certificate, bitmap=bitmap)
    with pytest.raises(InvalidProof):
        validate_block(STILL.trust(2), change(block, certificate=certificate), bls)


@pytest.mark.parametrize(
    "signature",
    [bytes(96), b"\xc0" + bytes(95), b"\xff" * 96, FOUR[0].sign(b"else")],
)
def test_signatures(signature):
    block = STILL.light_block(10)
    certificate = change(block.certificate, signature=signature)
    with pytest.raises(InvalidProof, match="signature"):
        validate_block(STILL.trust(2), change(block, certificate=certificate), bls)


def test_three_sign_and_four_are_named():
    certificate = STILL.certify(STILL.headers[10], signers=(0, 1, 2))
    assert verify_header(
        STILL.trust(2), change(STILL.light_block(10), certificate=certificate), bls
    )
    four = change(certificate, bitmap=encode_bitmap(range(4), 4))
    assert not verify_header(
        STILL.trust(2), change(STILL.light_block(10), certificate=four), bls
    )


def test_another_set_of_the_right_size():
    """The client counts by the set that it trusts, whatever the block brings."""
    header = STILL.headers[10]
    forged = LightBlock(
        (change(header, valset_root=build_set(STRANGERS).compute_root()),),
        STILL.certify(header, keys=STRANGERS),
        build_set(STRANGERS),
    )
    with pytest.raises(InvalidProof, match="other validators"):
        validate_block(STILL.trust(2), forged, bls)
    honest_header = change(forged, headers=(header,))
    with pytest.raises(InvalidProof, match="other validators"):
        validate_block(STILL.trust(2), honest_header, bls)
    honest_set = change(honest_header, validators=STILL.get_set(2))
    with pytest.raises(InvalidProof, match="signature"):
        validate_block(STILL.trust(2), honest_set, bls)


@pytest.mark.parametrize("reorder", [slice(None, None, -1), slice(0, 3)])
def test_a_set_in_another_order_or_shorter(reorder):
    validators = ValidatorSet(STILL.get_set(2).validators[reorder])
    state = LightState.from_set(STILL.chain, 2, validators)
    with pytest.raises(InvalidProof, match="other validators"):
        validate_block(state, STILL.light_block(10), bls)


def test_a_block_of_an_epoch_that_is_not_trusted():
    with pytest.raises(OtherEpoch) as caught:
        validate_block(STILL.trust(2), STILL.light_block(20), bls)
    assert (caught.value.epoch, caught.value.trusted) == (4, 2)
    with pytest.raises(OtherEpoch):
        validate_block(STILL.trust(2), STILL.light_block(8), bls)


def test_genesis_has_no_certificate():
    header = STILL.headers[0]
    block = LightBlock((header,), STILL.certify(header), STILL.get_set(0))
    with pytest.raises(InvalidProof, match="not one of epoch"):
        validate_block(STILL.first, block, bls)


# --------------------------------------------------------------------- links


def test_links_that_are_none():
    state, headers = STILL.trust(2), STILL.headers
    good = STILL.light_block(9, links=2)
    validate_block(state, good, bls)
    first, second, third = good.headers
    for broken in [
        (first, third),
        (second, first, third),
        (first, first, second, third),
        (first, change(second, mix=bytes(31) + b"\x01"), third),
        (change(first, roots_root=bytes(32)), second, third),
        (first, second, third, headers[12]),
        (headers[8], first, second, third),  # of the epoch before
    ]:
        assert not verify_header(state, change(good, headers=broken), bls)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 12},
        {"view": 1},
        {"time_ms": STILL.headers[9].time_ms},
        {"parent_view": 0},
        {"next_valset_root": bytes(32)},
    ],
)
def test_links_that_a_mad_quorum_signed(changes):
    """A referee does not believe certificates against the rules."""
    header = change(STILL.headers[10], **changes)
    block = LightBlock(
        (STILL.headers[9], header), STILL.certify(header), STILL.get_set(2)
    )
    with pytest.raises(InvalidProof):
        validate_block(STILL.trust(2), block, bls)


# --------------------------------------------------------------- epoch proofs


def test_a_next_set_that_the_header_does_not_name():
    proof = WORLD.epoch_proof(2)
    wrong = change(proof, validators=build_set(STRANGERS))
    with pytest.raises(InvalidProof, match="next epoch's validators"):
        advance(WORLD.trust(2), wrong, bls)
    heavier = build_set(WORLD.get_keys(3), [100, 100, 100, 101])
    with pytest.raises(InvalidProof, match="next epoch's validators"):
        advance(WORLD.trust(2), change(proof, validators=heavier), bls)


def test_a_next_set_with_a_header_made_to_fit():
    proof = WORLD.epoch_proof(2)
    root = build_set(STRANGERS).compute_root()
    header = change(proof.header, next_valset_root=root)
    forged = EpochProof(header, proof.certificate, build_set(STRANGERS))
    with pytest.raises(InvalidProof, match="another block"):
        advance(WORLD.trust(2), forged, bls)
    self_signed = change(forged, certificate=WORLD.certify(header, keys=STRANGERS))
    with pytest.raises(InvalidProof, match="signature"):
        advance(WORLD.trust(2), self_signed, bls)


@pytest.mark.parametrize("height", [9, 10, 11])
def test_an_epoch_does_not_end_before_its_last_block(height):
    header = WORLD.headers[height]
    proof = EpochProof(header, WORLD.certify(header), WORLD.get_set(3))
    with pytest.raises(InvalidProof, match="not the last"):
        advance(WORLD.trust(2), proof, bls)


@pytest.mark.parametrize("epoch", [0, 1, 3, 4])
def test_an_epoch_proof_of_another_epoch(epoch):
    with pytest.raises(OtherEpoch):
        advance(WORLD.trust(2), WORLD.epoch_proof(epoch), bls)


@pytest.mark.parametrize("signers", [(0, 1), (1, 2, 3), (0, 1, 2, 3)])
def test_an_epoch_proof_needs_a_quorum(signers):
    proof = WORLD.epoch_proof(2, signers=signers)
    if len(signers) > 2:
        assert advance(WORLD.trust(2), proof, bls).epoch == 3
    else:
        with pytest.raises(InvalidProof, match="no quorum"):
            advance(WORLD.trust(2), proof, bls)


# ----------------------------------------------------------------------- skips


def test_a_skip_needs_more_than_a_third_of_what_is_trusted():
    """Epoch 2 trusts keys 1-4; of those who sign in epoch 4 (3-6) it knows 3 and 4."""
    state = WORLD.trust(2)
    with pytest.raises(UnknownSigners, match="never trusted"):
        skip(state, WORLD.light_block(17), bls)
    # With all keys known from before, what counts is the power that they still have.
    wide = LightState(
        chain=state.chain,
        epoch=2,
        validators=state.validators,
        proven=state.proven | {make_key(i).public_key for i in range(10)},
    )
    assert skip(wide, WORLD.light_block(17), bls).epoch == 4
    with pytest.raises(UnknownSigners, match="100 of 400"):
        skip(wide, WORLD.light_block(17, signers=(1, 2, 3)), bls)
    with pytest.raises(UnknownSigners, match="100 of 400"):
        skip(wide, WORLD.light_block(22), bls)


def test_exactly_a_third_is_too_little():
    old, new = FOUR[:3], [FOUR[2], *STRANGERS[:3]]
    world = LightWorld([old, old, new, new])
    state = LightState(
        chain=world.chain,
        epoch=0,
        validators=world.get_set(0),
        proven=frozenset(k.public_key for k in [*old, *new]),
    )
    with pytest.raises(UnknownSigners, match="100 of 300"):
        skip(state, world.light_block(10), bls)


def test_a_skip_needs_two_thirds_of_the_new_set():
    old, new = FOUR, [*FOUR, *STRANGERS]
    world = LightWorld([old, old, new, new])
    block = world.light_block(10, signers=range(4))
    with pytest.raises(InvalidProof, match="no quorum"):
        skip(world.first, block, bls)
    # Five of eight are still none; and the strangers' keys nobody has vouched for.
    with pytest.raises(UnknownSigners):
        skip(world.first, world.light_block(10, signers=range(6)), bls)


def test_a_skip_over_known_signers_of_a_set_with_newcomers():
    old = SEVEN
    new = [*SEVEN, STRANGERS[0]]
    world = LightWorld([old, old, new, new])
    state = skip(world.first, world.light_block(10, signers=range(7)), bls)
    assert state.validators == world.get_set(2)
    assert STRANGERS[0].public_key in state.proven


def test_a_skip_to_a_set_that_the_header_does_not_name():
    block = STILL.light_block(30)
    mine = [FOUR[0], FOUR[1], FOUR[2]]
    forged = LightBlock(
        block.headers, STILL.certify(block.header, keys=mine), build_set(mine)
    )
    with pytest.raises(InvalidProof, match="other validators"):
        skip(STILL.first, forged, bls)


def test_a_skip_by_strangers_alone():
    header = change(STILL.headers[30], valset_root=build_set(STRANGERS).compute_root())
    forged = LightBlock(
        (header,), STILL.certify(header, keys=STRANGERS), build_set(STRANGERS)
    )
    with pytest.raises(UnknownSigners):
        skip(STILL.first, forged, bls)


def test_a_skip_to_the_past_or_to_here():
    for height in (3, 12):
        with pytest.raises(InvalidProof, match="later"):
            skip(STILL.trust(2), STILL.light_block(height), bls)


def test_a_set_with_one_key_twice_counts_nobody_twice():
    twice = [FOUR[0], FOUR[0], FOUR[0], FOUR[1]]
    validators = build_set(twice)
    header = change(STILL.headers[30], valset_root=validators.compute_root())
    forged = LightBlock((header,), STILL.certify(header, keys=twice), validators)
    with pytest.raises(InvalidProof, match="twice"):
        skip(STILL.first, forged, bls)
    with pytest.raises(InvalidProof):
        LightState.from_set(STILL.chain, 0, ValidatorSet(()))


def test_a_rogue_key_does_not_sign_for_others():
    """own - k0 - k1 - k2: the sum of all four keys is `own`, whose owner signs alone.

    The forged set names three trusted validators, they "sign", and the pairing is
    right; only that nobody proved to possess the fourth key gives it away.
    """
    own = BlsSecretKey((999).to_bytes(32, "big"))
    # After the reference, which undoes what py_ecc does to the recursion limit.
    from py_ecc.optimized_bls12_381 import add, neg

    to_point = points.pubkey_to_G1
    point = to_point(own.public_key)
    for key in FOUR[:3]:
        point = add(point, neg(to_point(key.public_key)))
    keys = [*(key.public_key for key in FOUR[:3]), bytes(points.G1_to_pubkey(point))]
    trusted = build_set(FOUR).validators
    validators = ValidatorSet(
        tuple(change(v, public_key=k) for v, k in zip(trusted, keys, strict=True))
    )
    root = validators.compute_root()
    header = change(STILL.headers[30], valset_root=root, next_valset_root=root)
    proposal = build_proposal(header, compute_block_hash(header))
    message = compute_finalize_bytes(CHAIN_ID, proposal)
    certificate = change(sign_certificate(proposal, FOUR), signature=own.sign(message))
    assert bls.fast_aggregate_verify(keys, message, certificate.signature)
    with pytest.raises(UnknownSigners, match="never trusted"):
        skip(STILL.first, LightBlock((header,), certificate, validators), bls)


def test_keys_remembered_are_bounded():
    many = frozenset(n.to_bytes(48, "big") for n in range(MAX_PROVEN))
    state = STILL.first
    full = LightState(
        chain=state.chain, epoch=0, validators=state.validators, proven=many
    )
    after = advance(full, STILL.epoch_proof(0), bls)
    assert after.proven == {key.public_key for key in FOUR}


# -------------------------------------------------------- time, order and forks


def test_an_old_block_as_the_newest():
    state = adopt(STILL.trust(2), STILL.light_block(11), bls)
    # It is final, and says so; but it is not the newest.
    validate_block(state, STILL.light_block(10), bls)
    with pytest.raises(StaleAnswer):
        adopt(state, STILL.light_block(10), bls)
    assert adopt(state, STILL.light_block(11), bls) == state


def test_an_old_block_within_what_is_known_cannot_be_told():
    """Who saw nothing newer cannot know that there is: hence the age that we show."""
    state = adopt(STILL.trust(2), STILL.light_block(9), bls)
    assert adopt(state, STILL.light_block(10), bls).newest == STILL.headers[10]


@pytest.mark.parametrize("height", [10, 12])
def test_two_final_blocks_of_one_height(height):
    state = adopt(STILL.trust(2), STILL.light_block(height), bls)
    other = change(STILL.headers[height], mix=bytes([9]) * 32)
    forked = LightBlock((other,), STILL.certify(other), STILL.get_set(2))
    with pytest.raises(ProvenFork, match="two final blocks") as caught:
        adopt(state, forked, bls)
    # Both certificates are kept, so that somebody can be convicted.
    fork = caught.value
    assert (fork.first, fork.second) == (STILL.light_block(height), forked)
    evidence = find_evidence(fork)
    assert evidence is not None
    guilty = validate_evidence(evidence, STILL.get_set(2), CHAIN_ID, bls)
    assert guilty == tuple(range(len(FOUR)))


def test_a_fork_across_views_is_no_evidence_by_itself():
    state = adopt(STILL.trust(2), STILL.light_block(10), bls)
    other = change(STILL.headers[10], mix=bytes([9]) * 32, view=99)
    forked = LightBlock((other,), STILL.certify(other), STILL.get_set(2))
    with pytest.raises(ProvenFork) as caught:
        adopt(state, forked, bls)
    assert find_evidence(caught.value) is None


def test_a_fork_with_another_set_is_no_evidence_by_itself():
    """Its bits name other keys than the chain's set of that epoch does."""
    block = STILL.light_block(10)
    other = change(STILL.headers[10], mix=bytes([9]) * 32)
    forked = LightBlock((other,), STILL.certify(other), build_set(FOUR[::-1]))
    assert find_evidence(ProvenFork("two", block, forked)) is None


@pytest.mark.parametrize(
    ("height", "changes"),
    [
        (11, {"parent_hash": bytes(32)}),
        (11, {"time_ms": STILL.headers[10].time_ms}),
        (12, {"time_ms": STILL.headers[10].time_ms - 5}),
        (12, {"next_valset_root": bytes([5]) * 32}),
        (9, {"time_ms": STILL.headers[12].time_ms}),
        (9, {"next_valset_root": bytes([5]) * 32}),
    ],
)
def test_final_blocks_that_exclude_each_other(height, changes):
    state = adopt(STILL.trust(2), STILL.light_block(10), bls)
    other = change(STILL.headers[height], **changes)
    forked = LightBlock((other,), STILL.certify(other), STILL.get_set(2))
    with pytest.raises(ProvenFork):
        validate_block(state, forked, bls)


def test_a_fork_inside_of_the_links():
    state = adopt(STILL.trust(2), STILL.light_block(10), bls)
    fork = copy(STILL)
    del fork.headers[10:]
    fork.headers.append(fork.build_header(mix=bytes([1]) * 32))
    fork.headers.append(fork.build_header())
    with pytest.raises(ProvenFork):
        validate_block(state, fork.light_block(9, links=2), bls)


def test_an_epoch_with_other_validators_than_were_announced():
    state = adopt(STILL.trust(2), STILL.light_block(10), bls)
    with_fifth = build_set([*FOUR, FOUR[3]][:3])
    header = change(STILL.headers[13], valset_root=with_fifth.compute_root())
    forged = LightBlock((header,), STILL.certify(header, keys=FOUR[:3]), with_fifth)
    with pytest.raises(ProvenFork, match="announced"):
        skip(state, forged, bls)


# ----------------------------------------------------------------------- state


@pytest.mark.parametrize("shard", SHARDS)
def test_a_value_and_an_absence(shard):
    state = WORLD.trust(WORLD.tip.epoch)
    proof = WORLD.prove(shard, KEY)
    validate_state(state, shard, KEY, proof, bls)
    assert decode(Account, proof.value).nonce == WORLD.tip.height
    absent = WORLD.prove(shard, ABSENT)
    assert absent.value is None
    validate_state(state, shard, ABSENT, absent, bls)


def test_proofs_of_something_else():
    state = WORLD.trust(WORLD.tip.epoch)
    proof = WORLD.prove(1, KEY)
    assert not verify_state(state, 0, KEY, proof, bls)
    assert not verify_state(state, 1, ABSENT, proof, bls)
    # A proof of absence of another key says nothing of ours.
    assert not verify_state(state, 1, KEY, WORLD.prove(1, ABSENT), bls)
    other_shard = WORLD.prove(5, KEY)
    for forged in [
        change(proof, shard=0),
        change(proof, key=ABSENT),
        change(proof, value=None),
        change(proof, value=encode(Account(10**18, 0, ()))),
        change(proof, value=proof.value + b"\x00"),
        change(proof, levels=1),
        change(proof, levels=9),
        change(proof, shard_root=other_shard.shard_root),
        change(proof, path=other_shard.path),
        change(proof, path=()),
        change(proof, path=(bytes(32),) * 32),
        change(proof, index=0),
        change(proof, index=65535),
        change(proof, count=1),
        change(proof, bucket=other_shard.bucket),
        change(proof, bucket=WORLD.prove(1, ABSENT).bucket),
        change(proof, bucket=change(proof.bucket, pairs=())),
        change(proof, bucket=change(proof.bucket, siblings=())),
        change(
            proof, bucket=change(proof.bucket, siblings=proof.bucket.siblings[::-1])
        ),
        change(proof, header=WORLD.headers[-2]),
        change(proof, header=change(proof.header, roots_root=proof.shard_root)),
        change(proof, certificate=None),
        change(proof, certificate=WORLD.certify(WORLD.headers[-2])),
        change(proof, certificate=WORLD.certify(proof.header, keys=STRANGERS)),
        change(proof, certificate=WORLD.certify(proof.header, signers=(0, 1))),
        # One shard's value under another one's name.
        change(other_shard, shard=1),
    ]:
        assert not verify_state(state, 1, KEY, forged, bls)
    assert verify_state(state, 1, KEY, proof, bls)


def test_a_bucket_with_a_key_twice():
    proof = WORLD.prove(1, KEY)
    first = proof.bucket.pairs[0]
    twice = change(proof.bucket, pairs=(first, *proof.bucket.pairs))
    state = WORLD.trust(WORLD.tip.epoch)
    assert not verify_state(state, 1, KEY, change(proof, bucket=twice), bls)


def test_a_root_made_to_fit_a_forged_value():
    """Everything below the header is right, and the header is not the chain's."""
    twin = copy(WORLD)
    rich = {**twin.get_state(1, 0), KEY: encode(Account(10**18, 0, ()))}
    twin.get_state = lambda shard, height: rich
    roots = compute_roots_root(twin.get_roots(WORLD.tip.height))
    twin.headers[-1] = change(WORLD.tip, roots_root=roots)
    forged = change(twin.prove(1, KEY), certificate=WORLD.certify(WORLD.tip))
    state = WORLD.trust(WORLD.tip.epoch)
    with pytest.raises(InvalidProof, match="another block"):
        validate_state(state, 1, KEY, forged, bls)


def test_a_state_of_another_epoch():
    with pytest.raises(OtherEpoch):
        validate_state(STILL.trust(2), 1, KEY, STILL.prove(1, KEY), bls)


# ------------------------------------------------------- a whole chain, at random

SCHEME = StandinScheme()
POOL = [SCHEME.make_key(i) for i in range(12)]


@st.composite
def draw_world(draw) -> LightWorld:
    """Return a chain whose validators change by at most a third of them per epoch."""
    here = list(POOL[: draw(st.integers(4, 6))])
    schedule = [here, here]
    for _ in range(draw(st.integers(1, 5))):
        here = list(here)
        if draw(st.booleans()) and len(here) > 4:
            here.pop(draw(st.integers(0, len(here) - 1)))
        elif draw(st.booleans()):
            here.append(draw(st.sampled_from([k for k in POOL if k not in here])))
        schedule.append(here)
    return LightWorld(schedule, epoch_blocks=draw(st.integers(2, 4)), scheme=SCHEME)


@settings(deadline=None, max_examples=40)
@given(draw_world(), st.data())
def test_the_referee_accepts_exactly_the_final_chain(world, data):
    state = world.first
    for header in world.headers[1:]:
        if header.epoch == state.epoch + 1:
            state = advance(state, world.epoch_proof(state.epoch), SCHEME)
        block = world.light_block(header.height)
        mutant = data.draw(st.sampled_from(list_mutations(header)))
        forged = data.draw(
            st.sampled_from(
                [
                    change(block, headers=(mutant,)),
                    change(block, certificate=world.certify(mutant)),
                    change(
                        block,
                        headers=(mutant,),
                        certificate=world.certify(mutant, keys=POOL[-4:]),
                    ),
                    change(
                        block,
                        certificate=world.certify(
                            header, signers=range(2 * len(state.validators) // 3)
                        ),
                    ),
                ]
            )
        )
        assert not verify_header(state, forged, SCHEME)
        assert verify_header(state, block, SCHEME)
        state = adopt(state, block, SCHEME)
    assert state.newest == world.tip


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_byte_of_a_proof_can_be_changed(data):
    """What still decodes is another proof, and refused."""
    world, state = STILL, STILL.trust(STILL.tip.epoch)
    block, proof = world.light_block(), world.prove(1, KEY)
    record = data.draw(st.sampled_from([block, proof]))
    wire = bytearray(encode(record))
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(type(record), bytes(wire))
    except DecodeError:
        return
    if isinstance(read, LightBlock):
        assert not verify_header(state, read, bls)
    else:
        assert not verify_state(state, 1, KEY, read, bls)
