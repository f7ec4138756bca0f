"""
A chain on which a committee endorses what is wrong, and somebody shows it.

    world = FraudWorld()                      people have funds in shard 1
    fraud = world.make_fraud()                a chunk with a post_root of its own
    world.step(evidence=(world.show(fraud),)) both nodes have the proof and judge it
"""

import msgspec
from chain_world import COIN, ListPicker
from epoch_world import PEOPLE, EpochWorld

from chain.ledger.halts import read_halts
from chain.records.transfer import Transfer
from p2pchain.sim.chains.committee import endorse
from primitives import bls
from primitives.codec import encode
from shards.certificate import build_chunk_certificate, compute_endorsement_bytes
from shards.chunk import compute_chunk_hash
from shards.fraud import build_fraud, build_notice
from shards.slots import Slot, get_slot

replace = msgspec.structs.replace
SHARD = 1
PAYER, PAYEE = PEOPLE[8], PEOPLE[9]


class FraudWorld(EpochWorld):
    """See the top of the file."""

    def __init__(self, stakes=(1000,) * 7, **changes):
        super().__init__(stakes, **({"epoch_reward": 0} | changes))
        self.step(self.pay(0, SHARD, 100 * COIN))
        self.step()

    def sign(self, sender, payload, shard=0, **changes):
        changes = {"valid_until_height": self.tree.final_height + 100} | changes
        return super().sign(sender, payload, shard, **changes)

    def pay(self, shard, to=SHARD, amount=COIN, **changes):
        """Return a payment of the payer; to itself where it crosses shards."""
        recipient = PAYEE if to == shard else PAYER
        transfer = Transfer(recipient.address, to, amount)
        return self.sign(PAYER.account, transfer, shard, **changes)

    def produce(self, *transactions, view=None, parent=None, shard=SHARD):
        """Return a good chunk on a block, signed by its producer."""
        parent = parent or self.tip
        view = parent.child_parent_view + 1 if view is None else view
        epoch = parent.child_epoch
        slot = Slot(epoch.epoch, shard, view)
        producer = epoch.roles.get_producers(slot)[0]
        transactions = transactions or (self.pay(shard),)
        return self.tree.chunks.produce_chunk(
            slot, parent.block_hash, producer, ListPicker(transactions)
        )

    def make_fraud(self, produced=None, signers=None, **changes):
        """Return a proof: of a chunk whose header was changed as told."""
        produced = produced or self.produce()
        changes = changes or {"post_root": b"\1" * 32}
        return self.certify_chunk(
            replace(produced, header=replace(produced.header, **changes)), signers
        )

    def certify_chunk(self, produced, signers=None):
        """Return a proof with the endorsements of a committee, or of some of it."""
        epoch, header = self.tip.child_epoch, produced.header
        if signers is None:
            certificate = endorse(self.spec.chain_id, epoch, header, self.keys(), bls)
        else:
            message = compute_endorsement_bytes(
                self.spec.chain_id, get_slot(header), compute_chunk_hash(header)
            )
            keys = self.keys()
            certificate = build_chunk_certificate(
                {i: keys[i].sign(message) for i in signers}, epoch.validators, bls
            )
        return build_fraud(produced, certificate)

    def notice(self, fraud):
        validators = self.tree.get_validators(fraud.header.epoch)
        return build_notice(fraud, validators)

    def show(self, fraud, nodes=None):
        """Give nodes a proof; return the encoded notice."""
        for node in (self, self.judge) if nodes is None else nodes:
            node.tree.frauds.offer(encode(fraud))
        return encode(self.notice(fraud))

    def halts(self):
        view = self.tree.final.view
        return read_halts(lambda key: view.get(0, key))

    def outcome(self, transaction, shard=0):
        """Include a transaction; return its code."""
        held = self.step(transaction)
        return self.tree.store.get_outcomes(held.height, shard)[0].code
