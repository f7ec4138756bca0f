"""Bond and Unbond: every way to be refused, and what they leave behind."""

import msgspec
import pytest
from chain_world import COIN
from epoch_world import BALANCE, PEOPLE, STAKE, UNBONDING_EPOCHS, build_epoch_genesis
from mini_chain import MiniChain

from chain.contracts import bond
from chain.errors import RuleError
from chain.ledger.ledger import MAX_MINTED, ShardLedger, mint
from chain.ledger.roster import delete_stake, find_stake, get_roster, put_stake
from chain.ledger.stake import MAX_ROSTER, MAX_UNBONDINGS, Offence, Stake, StakeStatus
from chain.ledger.stake import Unbonding as Entry
from chain.records.account import Account
from chain.records.keys import TOTALS_KEY, build_account_key, build_stake_key
from chain.records.staking import Bond, Unbond
from genesis.state import build_chain_spec
from primitives.codec import decode, encode

SPEC = build_chain_spec(build_epoch_genesis())
OLD, NEW, OTHER = PEOPLE[0], PEOPLE[5], PEOPLE[6]

replace = msgspec.structs.replace


class StakingChain(MiniChain):
    """Root shard transactions, one per chunk."""

    def __init__(self):
        super().__init__(SPEC)

    def bond(self, person, amount=STAKE * COIN, shard=0, **changes):
        fields = {
            "name": person.name,
            "public_key": person.key.public_key,
            "proof_of_possession": person.key.prove_possession(person.address),
            "amount": amount,
        } | changes
        return self.check(self.call(person.account, Bond(**fields), shard))

    def unbond(self, person, amount, shard=0):
        return self.check(self.call(person.account, Unbond(amount), shard))

    def check(self, outcome):
        assert self.compute_held() == self.supply
        return outcome.code

    def stake(self, person) -> Stake | None:
        data = self.state[0].get(build_stake_key(person.address))
        return None if data is None else decode(Stake, data)

    def set_stake(self, person, **changes):
        """Change a record by hand; the supply has to be the same."""
        ledger = ShardLedger(self.state[0].get)
        put_stake(ledger, replace(self.stake(person), **changes))
        ledger.commit()
        self.state[0].update(ledger.compute_writes())


@pytest.fixture
def chain():
    return StakingChain()


# ---------------------------------------------------------------------- bonds


def test_a_newcomer(chain):
    assert chain.bond(NEW) == ""
    stake = chain.stake(NEW)
    assert stake == Stake(
        name="v5",
        account=NEW.address,
        public_key=NEW.key.public_key,
        bonded=STAKE * COIN,
        unbonding=(),
        status=StakeStatus.ACTIVE,
        rewarded=0,
        slashed=0,
        offence=None,
    )
    ledger = ShardLedger(chain.state[0].get)
    accounts = get_roster(ledger).accounts
    assert accounts == tuple(sorted(p.address for p in [*PEOPLE[:5], NEW]))
    assert find_stake(ledger, NEW.key.public_key) == stake


def test_adding_to_a_stake(chain):
    assert chain.bond(OLD, 5 * COIN, name="renamed") == ""
    stake = chain.stake(OLD)
    assert (stake.bonded, stake.name) == ((STAKE + 5) * COIN, "renamed")


def test_coming_back(chain):
    chain.set_stake(OLD, status=StakeStatus.DOWN)
    assert chain.bond(OLD, 0) == ""
    assert chain.stake(OLD).status == StakeStatus.ACTIVE
    assert chain.stake(OLD).bonded == STAKE * COIN


def test_coming_back_after_taking_all_of_it_out(chain):
    assert chain.unbond(OLD, STAKE * COIN) == ""
    assert chain.bond(OLD, 99 * COIN) == "below_minimum"
    assert chain.bond(OLD, 100 * COIN) == ""
    assert chain.stake(OLD).locked == (STAKE + 100) * COIN


CONVICTED = Offence(0, 0, STAKE * COIN, 0, is_settled=False)

REFUSED_BONDS = {
    "not_root_shard": lambda c: c.bond(PEOPLE[5], shard=1),
    "other_key": lambda c: c.bond(OLD, public_key=NEW.key.public_key),
    "zero_amount": lambda c: c.bond(OLD, 0),
    "insufficient_funds": lambda c: c.bond(NEW, BALANCE * COIN),
    "bad_possession": lambda c: c.bond(
        NEW, proof_of_possession=OTHER.key.prove_possession(NEW.address)
    ),
}


@pytest.mark.parametrize("code", REFUSED_BONDS)
def test_refused_bonds(chain, code):
    if code == "not_root_shard":
        fund(chain, PEOPLE[5], shard=1)
    before = dict(chain.state[0])
    assert REFUSED_BONDS[code](chain) == code
    touched = {key[:1] for key in before if before[key] != chain.state[0].get(key)}
    # The fee is paid and the nonce counted, in whichever shard it was.
    assert touched <= {b"a", b"t"}


def fund(chain, person, shard):
    """Give a coin for fees, as if genesis had."""
    state = chain.state[shard]
    state[build_account_key(person.address)] = encode(Account(COIN, 0, ()))
    genesis = chain.totals(shard).genesis + COIN
    state[TOTALS_KEY] = encode(replace(chain.totals(shard), genesis=genesis))
    chain.supply += COIN


@pytest.mark.parametrize("amount", [0, 1, 100 * COIN - 1])
def test_too_little_for_a_validator(chain, amount):
    assert chain.bond(NEW, amount) == "below_minimum"
    assert chain.stake(NEW) is None


def test_more_power_than_a_vote_can_have(chain, monkeypatch):
    monkeypatch.setattr(bond, "MAX_BONDED", STAKE * COIN + 5)
    assert chain.bond(OLD, 6) == "above_maximum"
    assert chain.bond(OLD, 5) == ""


@pytest.mark.parametrize(
    "proof", [bytes(96), b"\xff" * 96, b"\xc0" + bytes(95)], ids=["zero", "ff", "inf"]
)
def test_proofs_that_prove_nothing(chain, proof):
    assert chain.bond(NEW, proof_of_possession=proof) == "bad_possession"
    # Also of a key that is known.
    assert chain.bond(OLD, 5, proof_of_possession=proof) == "bad_possession"


@pytest.mark.parametrize("key", [bytes(48), b"\xc0" + bytes(47), b"\xff" * 48])
def test_keys_that_are_no_points(chain, key):
    assert chain.bond(NEW, public_key=key) == "bad_possession"


@pytest.mark.parametrize("owner", [b"", OTHER.address], ids=["nobody", "another"])
def test_a_copied_proof_stakes_for_nobody_else(chain, owner):
    """Else whoever sees a bond wait could take the key and its rewards first."""
    copied = {
        "public_key": OTHER.key.public_key,
        "proof_of_possession": OTHER.key.prove_possession(owner),
    }
    assert chain.bond(NEW, **copied) == "bad_possession"
    assert chain.bond(OTHER) == ""


def test_one_key_is_one_stake(chain):
    proof = OLD.key.prove_possession(NEW.address)
    stolen = {"public_key": OLD.key.public_key, "proof_of_possession": proof}
    assert chain.bond(NEW, **stolen) == "key_in_use"


def test_the_convicted_never_come_back(chain):
    chain.set_stake(OLD, status=StakeStatus.TOMBSTONED, offence=CONVICTED)
    assert chain.bond(OLD, 5) == "tombstoned"
    assert chain.bond(OLD, 0) == "tombstoned"
    assert chain.unbond(OLD, 5) == "tombstoned"


def test_a_convicted_key_is_known_for_ever(chain):
    chain.set_stake(OLD, status=StakeStatus.TOMBSTONED, offence=CONVICTED)
    paid_out = replace(chain.stake(OLD), bonded=0)
    ledger = ShardLedger(chain.state[0].get)
    delete_stake(ledger, paid_out)
    ledger.commit()
    chain.state[0].update(ledger.compute_writes())
    chain.state[0] = {k: v for k, v in chain.state[0].items() if v is not None}
    chain.supply -= STAKE * COIN
    assert chain.bond(OLD) == "key_in_use"
    # The account may begin anew with another key, and the old one stays nobody's.
    proof = NEW.key.prove_possession(OLD.address)
    fresh = {"public_key": NEW.key.public_key, "proof_of_possession": proof}
    assert chain.bond(OLD, **fresh) == ""
    ledger = ShardLedger(chain.state[0].get)
    assert find_stake(ledger, OLD.key.public_key) is None
    assert find_stake(ledger, NEW.key.public_key) == chain.stake(OLD)
    assert chain.bond(NEW) == "key_in_use"


def test_the_roster_is_bounded(chain, monkeypatch):
    monkeypatch.setattr(bond, "MAX_ROSTER", 6)
    assert chain.bond(NEW) == ""
    assert chain.bond(OTHER) == "roster_full"
    assert chain.bond(NEW, 5) == ""
    assert MAX_ROSTER == 256


# -------------------------------------------------------------------- unbonds


def test_taking_a_part_out(chain):
    assert chain.unbond(OLD, 400 * COIN) == ""
    stake = chain.stake(OLD)
    assert stake.bonded == 600 * COIN
    assert stake.unbonding == (Entry(400 * COIN, UNBONDING_EPOCHS),)
    assert stake.status == StakeStatus.ACTIVE
    # What goes in one epoch is one entry.
    assert chain.unbond(OLD, 100 * COIN) == ""
    assert chain.stake(OLD).unbonding == (Entry(500 * COIN, UNBONDING_EPOCHS),)


def test_taking_all_of_it_out(chain):
    assert chain.unbond(OLD, STAKE * COIN) == ""
    assert chain.stake(OLD).bonded == 0
    assert chain.unbond(OLD, 1) == "insufficient_stake"


def test_who_is_down_may_leave(chain):
    chain.set_stake(OLD, status=StakeStatus.DOWN)
    assert chain.unbond(OLD, STAKE * COIN) == ""


@pytest.mark.parametrize(
    ("person", "amount", "code"),
    [
        (OLD, 0, "zero_amount"),
        (OLD, STAKE * COIN + 1, "insufficient_stake"),
        (OLD, (STAKE - 100) * COIN + 1, "below_minimum"),
        (OLD, STAKE * COIN - 1, "below_minimum"),
        (OLD, (STAKE - 100) * COIN, ""),
        (NEW, 5, "unknown_stake"),
    ],
)
def test_unbonds(chain, person, amount, code):
    assert chain.unbond(person, amount) == code


def test_unbonding_elsewhere(chain):
    fund(chain, OLD, shard=1)
    assert chain.unbond(OLD, 5, shard=1) == "not_root_shard"


def test_somebody_has_to_stay(chain):
    for person in PEOPLE[:3]:
        assert chain.unbond(person, STAKE * COIN) == ""
    chain.set_stake(PEOPLE[3], status=StakeStatus.DOWN)
    assert chain.unbond(PEOPLE[4], STAKE * COIN) == "last_validator"
    # A part may go, and so may who does not count.
    assert chain.unbond(PEOPLE[4], 500 * COIN) == ""
    assert chain.unbond(PEOPLE[3], STAKE * COIN) == ""


def test_parts_that_wait_are_bounded(chain):
    waiting = tuple(Entry(1, epoch) for epoch in range(MAX_UNBONDINGS))
    chain.set_stake(OLD, unbonding=waiting, bonded=STAKE * COIN - MAX_UNBONDINGS)
    assert chain.unbond(OLD, COIN) == "too_many_unbondings"
    # One that joins the last entry needs no room.
    waiting = (*waiting[:-1], Entry(1, UNBONDING_EPOCHS))
    chain.set_stake(OLD, unbonding=waiting)
    assert chain.unbond(OLD, COIN) == ""


# ----------------------------------------------------------------- the ledger


def test_minting_has_an_end():
    chain = StakingChain()
    ledger = ShardLedger(chain.state[0].get)
    context = chain.context(0)
    mint(ledger, context, NEW.address, MAX_MINTED)
    with pytest.raises(RuleError) as caught:
        mint(ledger, context, OTHER.address, 1)
    assert caught.value.code == "mint_limit"


def test_the_roster_of_a_state_without_one():
    assert get_roster(ShardLedger({}.get)).accounts == ()
