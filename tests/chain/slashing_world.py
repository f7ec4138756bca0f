"""
The root shard's stakes without blocks: evidence is applied, epochs close, atoms count.

    world = SlashingWorld()              ten stakes of a hundred, all of them vote
    world.include(world.votes(3))        a block with evidence against validator 3
    world.skip(5)                        five epochs end
    world.stake(3), world.books()        what is left of it; where all atoms are
"""

from evidence_court import CHAIN, Court, make_certificate_pair, make_vote_pair

from chain.ledger.context import Context
from chain.ledger.ledger import ShardLedger, Totals
from chain.ledger.roster import find_stake, get_stake, list_stakes, put_stake
from chain.ledger.stake import EpochRecord, Stake, StakeStatus, Unbonding
from chain.records.account import Account
from chain.records.keys import (
    EPOCH_KEY,
    TOTALS_KEY,
    build_account_key,
    build_validators_key,
)
from chain.rewarding.evidence import EvidenceJudge
from chain.rewarding.payouts import pay_unbondings
from chain.rewarding.slashing import apply_evidence, settle_offences
from chain.tree.evidence_pool import EvidencePool
from consensus.validators import Validator, ValidatorSet
from genesis.presets import DEVNET_PARAMS
from primitives.codec import decode, encode
from primitives.types import EMPTY_HASH
from shards.layout import Layout

PARAMS = DEVNET_PARAMS.chain
EVIDENCE_EPOCHS = PARAMS.evidence_epochs
UNBONDING_EPOCHS = PARAMS.unbonding_epochs


def account_of(index):
    return bytes([index + 1]) * 32


class SlashingWorld:
    """Stakes, one validator set for all epochs, and the time."""

    def __init__(self, amounts=(100,) * 10, epoch=30, unbonding=None):
        powers = tuple(max(1, amount) for amount in amounts)
        self.court = Court(len(amounts), powers=powers)
        self.judge = EvidenceJudge(CHAIN, self.court.scheme)
        self.pool = EvidencePool(self.judge, EVIDENCE_EPOCHS)
        self.state = {}
        self.epoch = epoch
        self.events = []
        ledger = self.open()
        for index, amount in enumerate(amounts):
            parts = (unbonding or {}).get(index, ())
            put_stake(ledger, self._make_stake(index, amount, parts))
        self.supply = sum(stake.locked for stake in list_stakes(ledger))
        ledger.put(TOTALS_KEY, Totals(self.supply, 0, 0))
        self._close(ledger)
        self.set_epoch(epoch)

    def _make_stake(self, index, amount, parts):
        return Stake(
            name=f"validator-{index}",
            account=account_of(index),
            public_key=self.court.keys[index].public_key,
            bonded=amount,
            unbonding=tuple(Unbonding(*part) for part in parts),
            status=StakeStatus.ACTIVE,
            rewarded=0,
            slashed=0,
            offence=None,
        )

    # ------------------------------------------------------------------ doing

    def open(self):
        return ShardLedger(self.state.get)

    def _close(self, ledger):
        self.events += ledger.commit()
        for key, value in ledger.compute_writes().items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def set_epoch(self, epoch):
        """Go to an epoch; the sets that the chain would keep are those of the court."""
        self.epoch = epoch
        self.put_record(EPOCH_KEY, EpochRecord(epoch, EMPTY_HASH, EMPTY_HASH))
        for kept in range(max(0, epoch - EVIDENCE_EPOCHS - 1), epoch + 2):
            if build_validators_key(kept) not in self.state:
                self.put_record(build_validators_key(kept), self.court.set)

    def put_record(self, key, record):
        self.state[key] = encode(record)

    def put_set(self, epoch, order):
        """Let an epoch have had the validators in another order."""
        members = tuple(self.court.set.validators[index] for index in order)
        self.put_record(build_validators_key(epoch), ValidatorSet(members))

    def include(self, *items, proposer=0):
        """Apply a block with evidence; raises InvalidBlock as a judge would."""
        ledger = self.open()
        data = [item if isinstance(item, bytes) else encode(item) for item in items]
        apply_evidence(ledger, self.context, data, self.judge, proposer)
        self._close(ledger)

    def end_epoch(self):
        """Do at a boundary what concerns stakes."""
        ledger = self.open()
        settle_offences(ledger, self.context)
        pay_unbondings(ledger, self.context)
        self._close(ledger)
        self.set_epoch(self.epoch + 1)

    def skip(self, epochs):
        for _ in range(epochs):
            self.end_epoch()

    # --------------------------------------------------------------- evidence

    def votes(self, signer, epoch=None):
        epoch = self.epoch if epoch is None else epoch
        return make_vote_pair(self.court, signer, epoch)

    def certificates(self, signers, epoch=None):
        epoch = self.epoch if epoch is None else epoch
        return make_certificate_pair(self.court, signers, epoch)

    # ---------------------------------------------------------------- reading

    @property
    def context(self):
        return Context(
            chain_id=CHAIN,
            shard=0,
            epoch=self.epoch,
            height=self.epoch * PARAMS.epoch_blocks,
            time_ms=0,
            layout=Layout(()),
            models={},
            params=PARAMS,
            consumed={},
            emitted={},
        )

    def stake(self, index):
        return get_stake(self.open(), account_of(index))

    def find(self, index):
        return find_stake(self.open(), self.court.keys[index].public_key)

    def balance(self, index):
        data = self.state.get(build_account_key(account_of(index)))
        return 0 if data is None else decode(Account, data).balance

    @property
    def burned(self):
        return decode(Totals, self.state[TOTALS_KEY]).burned

    def stakes(self):
        return list_stakes(self.open())

    def count_atoms(self):
        """Return all atoms, wherever they are; always the supply."""
        balances = sum(self.balance(index) for index in range(self.court.size))
        return balances + self.burned + sum(stake.locked for stake in self.stakes())

    def add_newcomer(self, index, power):
        """Return the set with one more member, as a later epoch might have it."""
        return ValidatorSet(
            (*self.court.set.validators, Validator(bytes([index]) * 48, power))
        )
