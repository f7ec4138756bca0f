"""Stakes and validator sets in the root shard's state: how rules read and keep them."""

from bisect import bisect_left

from chain.errors import StoreError
from chain.ledger.ledger import Ledger
from chain.ledger.stake import EpochRecord, Roster, Stake, StakeKey, StakeStatus
from chain.records.keys import (
    EPOCH_KEY,
    ROSTER_KEY,
    build_stake_key,
    build_validators_key,
    build_voter_key,
)
from consensus.validators import ValidatorSet

EMPTY_ROSTER = Roster(())


def get_epoch_record(ledger: Ledger) -> EpochRecord:
    """Return the epoch of the next block."""
    record = ledger.get(EPOCH_KEY, EpochRecord)
    if record is None:
        raise StoreError("the state has no epoch")
    return record


def get_validators(ledger: Ledger, epoch: int) -> ValidatorSet | None:
    """Return an epoch's set, as long as it is kept."""
    return ledger.get(build_validators_key(epoch), ValidatorSet)


def get_stake(ledger: Ledger, account: bytes) -> Stake | None:
    """Return an account's stake."""
    return ledger.get(build_stake_key(account), Stake)


def find_stake(ledger: Ledger, public_key: bytes) -> Stake | None:
    """Return the stake that votes, or voted, with a BLS public key."""
    key = ledger.get(build_voter_key(public_key), StakeKey)
    stake = None if key is None else get_stake(ledger, key.account)
    # A tombstoned key stays when its account begins anew with another one.
    return None if stake is None or stake.public_key != public_key else stake


def get_roster(ledger: Ledger) -> Roster:
    """Return the accounts with a stake."""
    return ledger.get(ROSTER_KEY, Roster) or EMPTY_ROSTER


def list_stakes(ledger: Ledger) -> list[Stake]:
    """Return all stakes, ascending by account."""
    stakes = []
    for account in get_roster(ledger).accounts:
        stake = get_stake(ledger, account)
        if stake is None:
            raise StoreError(f"no stake of {account.hex()}, which is in the roster")
        stakes.append(stake)
    return stakes


def put_stake(ledger: Ledger, stake: Stake) -> None:
    """Store a stake; a new one joins the roster, which has to have room."""
    key = build_stake_key(stake.account)
    if ledger.get(key, Stake) is None:
        accounts = get_roster(ledger).accounts
        place = bisect_left(accounts, stake.account)
        joined = (*accounts[:place], stake.account, *accounts[place:])
        ledger.put(ROSTER_KEY, Roster(joined))
        ledger.put(build_voter_key(stake.public_key), StakeKey(stake.account))
    ledger.put(key, stake)


def delete_stake(ledger: Ledger, stake: Stake) -> None:
    """Forget a stake that holds nothing; a tombstoned key stays known for ever."""
    assert stake.locked == 0
    accounts = get_roster(ledger).accounts
    rest = tuple(account for account in accounts if account != stake.account)
    ledger.put(ROSTER_KEY, Roster(rest))
    ledger.delete(build_stake_key(stake.account))
    if stake.status != StakeStatus.TOMBSTONED:
        ledger.delete(build_voter_key(stake.public_key))
