"""Stakes at random over many epochs: a model of the rules against the real chain."""

from chain_world import COIN
from epoch_world import PEOPLE, UNBONDING_EPOCHS, EpochWorld
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.checks.conservation import compute_conservation
from chain.ledger.stake import StakeStatus
from chain.records.staking import Unbond
from chain.records.transfer import Transfer
from consensus.validators import ValidatorSet

people = st.sampled_from(PEOPLE[:8])
coins = st.sampled_from([0, 1, 50, 100, 333, 1000, 5000])
absent = st.none() | st.integers(0, 4)


class StakingMachine(RuleBasedStateMachine):
    """Everybody bonds, unbonds and pays; some miss votes; epochs pass."""

    def __init__(self):
        super().__init__()
        self.world = EpochWorld(is_judged=False, epoch_blocks=2)
        self.supply = compute_conservation(self.world.tree).genesis
        self.minted = 0
        self.sets: dict[int, ValidatorSet] = {}
        self.last_epoch = 0

    # ------------------------------------------------------------------- rules

    @rule(person=people, amount=coins)
    def bond(self, person, amount):
        stake = self.world.stake(person)
        bonded = 0 if stake is None else stake.bonded
        balance = self.world.balance(person)
        outcome = self.world.bond(person, amount)
        if bonded + amount * COIN < 100 * COIN:
            assert outcome.code in ("below_minimum", "zero_amount")
        elif amount * COIN + outcome.fee > balance:
            assert outcome.code == "insufficient_funds"
        elif stake is None or stake.status == StakeStatus.DOWN or amount:
            assert outcome.ok
            assert self.world.stake(person).status == StakeStatus.ACTIVE
        else:
            assert outcome.code == "zero_amount"

    @rule(person=people, part=st.sampled_from([0, 1, 2, 3]), waits=st.integers(0, 2))
    def unbond(self, person, part, waits):
        """Take nothing, a third, two thirds, or all of it out."""
        stake = self.world.stake(person)
        amount = 5 if stake is None else stake.bonded * part // 3
        outcome = self.world.act(person, Unbond(amount))
        if outcome.ok:
            assert stake is not None
            assert amount > 0
            # The block may have ended an epoch, and paid what was due before that.
            after = self.world.stake(person)
            assert after.bonded == stake.bonded - amount
            assert after.unbonding[-1].amount >= amount
        for _ in range(waits):
            self.world.end_epoch()

    @rule(payer=people, payee=people, amount=coins, shard=st.sampled_from([0, 1]))
    def transfer(self, payer, payee, amount, shard):
        self.world.act(payer, Transfer(payee.address, shard, amount * COIN))

    @rule(missing=absent, epochs=st.integers(1, 3))
    def pass_epochs(self, missing, epochs):
        """Let one validator miss all votes, if the others still are a quorum."""
        for _ in range(epochs):
            validators = self.world.tree.epoch.validators
            signers = [index for index in range(len(validators)) if index != missing]
            if not validators.has_quorum(signers):
                signers = list(range(len(validators)))
            self.world.step(signers=signers)
            if self.world.tree.final_height % 2:
                signers = signers[: len(self.world.tree.epoch.validators)]
                self.world.step(signers=signers)

    @rule()
    def restart(self):
        before = self.world.tree
        tree = self.world.reopen()
        assert tree.epoch == before.epoch
        assert tree.final.seen == before.final.seen

    # -------------------------------------------------------------- invariants

    @invariant()
    def the_supply_is_conserved(self):
        books = compute_conservation(self.world.tree)
        assert books.is_conserved
        assert books.genesis == self.supply
        assert books.minted >= self.minted
        epochs = self.world.epoch
        assert books.minted <= epochs * self.world.spec.params.epoch_reward
        self.minted = books.minted

    @invariant()
    def sets_follow_each_other(self):
        epoch = self.world.epoch
        for number in (epoch, epoch + 1):
            found = self.world.tree.get_validators(number)
            found.validate()
            # A set never changes once it was announced.
            assert self.sets.setdefault(number, found) == found
        for number in range(self.last_epoch + 1, epoch + 2):
            old, new = self.sets.get(number - 1), self.sets.get(number)
            if old is None or new is None:
                continue
            before = {v.public_key: v.power for v in old.validators}
            after = {v.public_key: v.power for v in new.validators}
            moved = sum(
                abs(after.get(key, 0) - before.get(key, 0))
                for key in before.keys() | after.keys()
            )
            assert moved <= old.total_power // 3
        self.last_epoch = epoch

    @invariant()
    def every_vote_has_a_stake(self):
        epoch = self.world.epoch
        for number in range(max(0, epoch - 1), epoch + 2):
            validators = self.world.tree.get_validators(number)
            for validator in validators.validators:
                person = next(
                    p for p in PEOPLE if p.key.public_key == validator.public_key
                )
                assert self.world.stake(person).locked >= validator.power

    @invariant()
    def nothing_waits_for_ever(self):
        for person in PEOPLE[:8]:
            stake = self.world.stake(person)
            if stake is None:
                continue
            assert stake.locked > 0
            for entry in stake.unbonding:
                assert entry.due_epoch <= self.world.epoch + UNBONDING_EPOCHS


TestStaking = StakingMachine.TestCase
TestStaking.settings = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
