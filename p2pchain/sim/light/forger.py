"""
Answers to a light client that are not so: everything that a liar can make.

A liar has true answers to change, whatever honest nodes ever said (also of blocks that
are not final), the keys of the world's villains, and as many keys of its own as it
likes.  It has no signature that an honest validator did not make.
"""

import random
from typing import TYPE_CHECKING, TypeVar

import msgspec

from chain.light.client import EpochProof, LightBlock
from chain.records.header import Header, build_proposal, compute_block_hash
from chain.tree.blocktree import BlockTree
from consensus.messages import Certificate, Kind, Proposal, compute_finalize_bytes
from consensus.scheme import Signer
from consensus.validators import (
    Validator,
    ValidatorSet,
    decode_bitmap,
    encode_bitmap,
)
from p2pchain.sim.chains.plans import POWER
from p2pchain.sim.chains.tree_chain import TreeChain, TreeChains

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

T = TypeVar("T", bound=msgspec.Struct)

STRANGERS = 4
"""Keys of a set that a liar makes up."""
MAX_EPOCHS_AHEAD = 3
"""Of an invented block."""


class LightForger:
    """Makes forged answers with the luck of its reader."""

    def __init__(self, world: "World", chains: TreeChains, luck: random.Random) -> None:
        self._world = world
        self._chains = chains
        self._scheme = world.keys.scheme
        self._luck = luck
        names = [f"stranger {number}" for number in range(STRANGERS)]
        self._strangers = [world.keys.make_key(name) for name in names]
        self._bad = [
            *self._strangers,
            *(world.signers[name] for name in sorted(world.setup.villains)),
        ]
        self._own_set = ValidatorSet(
            tuple(Validator(key.public_key, POWER) for key in self._bad)
        )

    def forge_block(self, block: LightBlock, node: "Node") -> LightBlock:
        """Return something in the place of a true answer."""
        forgeries = (
            self._change_header,
            self._change_links,
            self._change_signers,
            self._change_set,
            self._sign_alone,
            self._invent_chain,
            self._raise_certificate,
        )
        return self._luck.choice(forgeries)(block, node)

    def forge_proofs(
        self, proofs: tuple[EpochProof, ...], tree: BlockTree
    ) -> tuple[EpochProof, ...]:
        """Return something in the place of a page of epoch proofs."""
        if not proofs:
            return proofs
        index = self._luck.randrange(len(proofs))
        proof = proofs[index]
        match self._luck.randrange(5):
            case 0:
                forged = EpochProof(proof.header, proof.certificate, self._own_set)
            case 1:
                root = self._own_set.compute_root()
                header = _change(proof.header, next_valset_root=root)
                forged = EpochProof(header, proof.certificate, self._own_set)
            case 2:
                root = self._own_set.compute_root()
                header = _change(proof.header, next_valset_root=root)
                validators = tree.store.get_validators(header.epoch)
                if validators is None:
                    validators = self._chains.spec.first_validators
                certificate = self._certify(header, validators)
                forged = EpochProof(header, certificate, self._own_set)
            case 3:
                return proofs[::-1] if len(proofs) > 1 else proofs + proofs
            case _:
                signature = bytes(reversed(proof.certificate.signature))
                certificate = _change(proof.certificate, signature=signature)
                forged = EpochProof(proof.header, certificate, proof.validators)
        return (*proofs[:index], forged, *proofs[index + 1 :])

    # One forgery each

    def _change_header(self, block: LightBlock, node: "Node") -> LightBlock:
        """A true certificate over a header in which one thing is different."""
        header = block.header
        junk = self._luck.randbytes(32)
        changes: dict[str, object] = {
            "time_ms": header.time_ms + 1,
            "height": header.height + 1,
            "view": header.view + 1,
            "epoch": header.epoch + 1,
            "roots_root": junk,
            "mix": junk,
            "parent_hash": junk,
            "valset_root": self._own_set.compute_root(),
            "next_valset_root": self._own_set.compute_root(),
        }
        name = self._luck.choice(sorted(changes))
        headers = (_change(header, **{name: changes[name]}), *block.headers[1:])
        return LightBlock(headers, block.certificate, block.validators)

    def _change_links(self, block: LightBlock, node: "Node") -> LightBlock:
        """Another block in front of those that the certificate reaches."""
        header = block.header
        older = _change(
            header,
            height=header.height - 1,
            view=header.view - 1 if header.view else 0,
            time_ms=header.time_ms - 1,
            roots_root=self._luck.randbytes(32),
        )
        other = (older, *block.headers)
        headers = self._luck.choice((other, block.headers * 2, other[::-1]))
        return LightBlock(headers, block.certificate, block.validators)

    def _change_signers(self, block: LightBlock, node: "Node") -> LightBlock:
        """More or fewer signers than signed."""
        size = len(block.validators)
        true = set(decode_bitmap(block.certificate.bitmap, size) or ())
        others = set(range(size)) - true
        signers = self._luck.choice((set(range(size)), true - {min(true)}, others))
        bitmap = encode_bitmap(signers, size)
        if signers == true:
            bitmap += b"\0"
        certificate = _change(block.certificate, bitmap=bitmap)
        return LightBlock(block.headers, certificate, block.validators)

    def _change_set(self, block: LightBlock, node: "Node") -> LightBlock:
        """The true signers as if each had more power, or were more than they are."""
        validators = list(block.validators.validators)
        signers = decode_bitmap(block.certificate.bitmap, len(validators)) or ()
        index = self._luck.choice(signers)
        last = validators[index]
        validators[index] = Validator(last.public_key, 100 * last.power)
        changed = ValidatorSet(tuple(validators))
        return LightBlock(block.headers, block.certificate, changed)

    def _sign_alone(self, block: LightBlock, node: "Node") -> LightBlock:
        """A block that nobody proposed, signed by villains, in everybody's name."""
        header = self._invent(block.headers[-1])
        certificate = self._certify(header, block.validators)
        return LightBlock((header,), certificate, block.validators)

    def _invent_chain(self, block: LightBlock, node: "Node") -> LightBlock:
        """A later epoch with a set of the liar's own, which all sign."""
        last = block.headers[-1]
        epoch = last.epoch + self._luck.randint(0, MAX_EPOCHS_AHEAD)
        height = self._chains.light_chain.get_last_height(epoch)
        root = self._own_set.compute_root()
        header = _change(
            self._invent(last),
            epoch=epoch,
            height=height,
            valset_root=root,
            next_valset_root=root,
        )
        certificate = self._certify(header, self._own_set)
        return LightBlock((header,), certificate, self._own_set)

    def _raise_certificate(self, block: LightBlock, node: "Node") -> LightBlock:
        """A block that is certified, as if it were final."""
        chain = node.chain
        assert isinstance(chain, TreeChain)
        headers = {held.block_hash: held.header for held in chain.tree.pending}
        for _, certificate in sorted(node.book.notarizations.items(), reverse=True):
            assert certificate.proposal is not None
            header = headers.get(certificate.proposal.block_hash)
            if header is not None:
                forged = _change(certificate, kind=Kind.FINALIZATION)
                return LightBlock((header,), forged, node.epoch.validators)
        return self._sign_alone(block, node)

    # Parts

    def _invent(self, parent: Header) -> Header:
        """Return a header that could follow."""
        return _change(
            parent,
            view=parent.view + 1,
            height=parent.height + 1,
            parent_hash=compute_block_hash(parent),
            parent_view=parent.view,
            time_ms=parent.time_ms + 1000,
            roots_root=self._luck.randbytes(32),
        )

    def _certify(self, header: Header, validators: ValidatorSet) -> Certificate:
        """Return a finalization by those whose keys the liar has, or by all it says."""
        proposal: Proposal = build_proposal(header, compute_block_hash(header))
        message = compute_finalize_bytes(header.chain_id, proposal)
        signers: dict[int, Signer] = {}
        for key in self._bad:
            index = validators.find_index(key.public_key)
            if index is not None:
                signers[index] = key
        signing = list(signers.values()) or self._strangers
        signature = self._scheme.aggregate([key.sign(message) for key in signing])
        size = len(validators)
        is_modest = bool(signers) and self._luck.random() < 0.5
        bitmap = encode_bitmap(signers if is_modest else range(size), size)
        return Certificate(
            kind=Kind.FINALIZATION,
            proposal=proposal,
            epoch=header.epoch,
            view=header.view,
            bitmap=bitmap,
            signature=signature,
        )


def _change(value: T, **fields: object) -> T:
    return msgspec.structs.replace(value, **fields)
