"""
This node's seat among the validators: what its key counts for, and how that changes.

A stake counts two epochs on: the set of epoch e + 2 is chosen at the end of epoch e.
So a bond in epoch e votes from e + 2 at the earliest, and what is taken out in e votes
to the end of e + 1.
"""

from dataclasses import dataclass

from chain.ledger.stake import Stake, StakeStatus
from chain.records.outcome import Outcome
from chain.records.staking import Bond, Unbond
from consensus.validators import ValidatorSet
from p2pchain.errors import StakeRefused
from p2pchain.node.chain.service import ChainService
from p2pchain.node.money.treasury import Treasury
from primitives.bls import BlsSecretKey
from shards.layout import ROOT_SHARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What a validator key counts for now and soon."""

    index: int | None
    """Place in the running epoch's set; None when it is not in it."""
    power: int
    total_power: int
    next_power: int
    """In the epoch after the running one."""
    from_epoch: int | None
    """First epoch, the running one or later, in which it votes; None: in none.
    Beyond the next one it is a plan: the set may change by a third per epoch only."""
    until_epoch: int | None
    """Last epoch in which it votes, when it is about to leave."""
    stake: Stake | None


class Staking:
    """Stakes for one account with one key.

    Args:
        name: What people call the validator.
        key: Its BLS key; None for a node that does not vote.
        treasury: Of the account.
        chain: To stake on.
    """

    def __init__(
        self,
        name: str,
        key: BlsSecretKey | None,
        treasury: Treasury,
        chain: ChainService,
    ) -> None:
        self._name = name
        self._key = key
        self._treasury = treasury
        self._chain = chain

    @property
    def public_key(self) -> bytes | None:
        """Our BLS public key, if this node votes."""
        return None if self._key is None else self._key.public_key

    def get_seat(self) -> Seat | None:
        """Return what our key counts for, or None for a node that does not vote."""
        if self._key is None:
            return None
        stakes, key = self._chain.queries.stakes, self._key.public_key
        running = stakes.record.epoch
        now, following = stakes.get_known_validators()
        index, next_index = now.find_index(key), following.find_index(key)
        stake = stakes.find_stake(key)
        epochs = []
        if index is not None:
            epochs.append(running)
        if next_index is not None:
            epochs.append(running + 1)
        is_staying = self._can_vote(stake)
        if is_staying:
            epochs.append(running + 2)
        return Seat(
            index=index,
            power=_get_power(now, index),
            total_power=now.total_power,
            next_power=_get_power(following, next_index),
            from_epoch=min(epochs, default=None),
            until_epoch=None if is_staying else max(epochs, default=None),
            stake=stake,
        )

    async def stake(self, amount: int) -> Outcome:
        """Put atoms behind our key, or with 0 come back after downtime.

        Raises:
            StakeRefused: This node does not vote.
            InsufficientFunds: All shards together hold too little; nothing was sent.
            TransactionFailed: The rules refused it.
            InvalidTransaction: The mempool refused it.
            NotReady: It is not final in time; it may still become so.
        """
        if self._key is None:
            raise StakeRefused(
                "not_a_validator",
                "this node does not vote, and a stake behind an idle key would soon "
                "be put down: restart it with --validator, then stake",
            )
        payload = Bond(
            name=self._name,
            public_key=self._key.public_key,
            proof_of_possession=self._key.prove_possession(self._treasury.address),
            amount=amount,
        )
        return await self._treasury.execute(ROOT_SHARD, payload, amount)

    async def unstake(self, amount: int | None) -> Outcome:
        """Take atoms out of the account's stake, or with None all that is bonded.

        Raises:
            StakeRefused: Nothing is bonded.
            InsufficientFunds: There is too little for the fee.
            TransactionFailed: The rules refused it.
            InvalidTransaction: The mempool refused it.
            NotReady: It is not final in time; it may still become so.
        """
        stake = self._chain.queries.stakes.get_stake(self._treasury.address)
        if stake is None or not stake.bonded:
            raise StakeRefused(
                "unknown_stake", "this account has nothing bonded to take out"
            )
        payload = Unbond(amount=stake.bonded if amount is None else amount)
        return await self._treasury.execute(ROOT_SHARD, payload)

    def _can_vote(self, stake: Stake | None) -> bool:
        """Tell whether a stake goes into the next choice of a set."""
        return (
            stake is not None
            and stake.status == StakeStatus.ACTIVE
            and stake.bonded >= self._chain.spec.params.min_stake
        )


def _get_power(validators: ValidatorSet, index: int | None) -> int:
    return 0 if index is None else validators.validators[index].power
