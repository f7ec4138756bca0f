"""A proof of a value, checked against a validator set without a light client."""

from chain.records.header import compute_block_hash
from chain.state.proofs import StateProof, verify_membership
from consensus.certificates import verify_certificate
from consensus.messages import Kind
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet


def verify_state_proof(
    proof: StateProof,
    chain_id: bytes,
    levels: int,
    validators: ValidatorSet,
    scheme: SignatureScheme,
) -> bool:
    """Tell whether the proof holds for a final block of the chain.

    Args:
        proof: Untrusted.
        chain_id: The chain that the caller trusts.
        levels: Of its bucket trees, a parameter of its genesis.
        validators: Its validator set.
        scheme: Verifies the certificate.
    """
    if proof.header.chain_id != chain_id or not verify_membership(proof, levels):
        return False
    return _verify_final(proof, chain_id, validators, scheme)


def _verify_final(
    proof: StateProof,
    chain_id: bytes,
    validators: ValidatorSet,
    scheme: SignatureScheme,
) -> bool:
    certificate = proof.certificate
    if certificate is None or certificate.kind != Kind.FINALIZATION:
        return False
    if certificate.proposal is None:
        return False
    block_hash = compute_block_hash(proof.header)
    for header in proof.descendants:
        if header.parent_hash != block_hash:
            return False
        block_hash = compute_block_hash(header)
    if certificate.proposal.block_hash != block_hash:
        return False
    return verify_certificate(certificate, validators, chain_id, scheme)
