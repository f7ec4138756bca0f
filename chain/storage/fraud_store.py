"""
Fraud proofs that a node holds: judged ones on disk, the newest others in memory.

A proof that was judged true is kept until its notice can be in no block any more, so
that peers can fetch it, and a restart forgets nothing.  One that was fetched and is not
judged yet costs memory only, and little of it.
"""

from collections import OrderedDict

from chain.storage.store import build_key
from primitives.codec import encode
from primitives.kv import KeyValueStore
from primitives.types import Epoch
from shards.fraud import FraudProof, compute_proof_hash, decode_fraud

MAX_UNJUDGED = 4
"""Proofs in memory: one per leader of the last few views, 16 MiB."""
MAX_KEPT = 64
"""Proofs on disk: each one convicts somebody or halts a shard; 256 MiB at the worst."""


class FraudStore:
    """Proofs by the hash of their bytes.

    Args:
        kv: The chain's database.
    """

    def __init__(self, kv: KeyValueStore) -> None:
        self._kv = kv
        self._unjudged: OrderedDict[bytes, bytes] = OrderedDict()
        self._epochs = {
            key[1:]: decode_fraud(data).header.epoch for key, data in kv.iterate(b"j")
        }

    def __contains__(self, proof_hash: bytes) -> bool:
        return proof_hash in self._epochs or proof_hash in self._unjudged

    def offer(self, data: bytes) -> bytes:
        """Hold a proof that is not judged yet; return its name.

        Raises:
            InvalidShardEvidence: The bytes encode none.
        """
        decode_fraud(data)
        proof_hash = compute_proof_hash(data)
        if proof_hash not in self:
            self._unjudged[proof_hash] = data
            if len(self._unjudged) > MAX_UNJUDGED:
                self._unjudged.popitem(last=False)
        return proof_hash

    def get_bytes(self, proof_hash: bytes) -> bytes | None:
        """Return the bytes of a proof, or None."""
        data = self._unjudged.get(proof_hash)
        return self._kv.get(build_key(b"j", proof_hash)) if data is None else data

    def get(self, proof_hash: bytes) -> FraudProof | None:
        """Return a proof, or None."""
        data = self.get_bytes(proof_hash)
        return None if data is None else decode_fraud(data)

    def keep(self, proof: FraudProof) -> None:
        """Put a proof that was judged true on disk, if there is room."""
        data = encode(proof)
        proof_hash = compute_proof_hash(data)
        if proof_hash in self._epochs or len(self._epochs) >= MAX_KEPT:
            return
        self._kv.write({build_key(b"j", proof_hash): data}, sync=True)
        self._epochs[proof_hash] = proof.header.epoch
        self._unjudged.pop(proof_hash, None)

    def forget_before(self, epoch: Epoch) -> None:
        """Delete proofs of chunks of older epochs."""
        old = [name for name, made in self._epochs.items() if made < epoch]
        if old:
            keys = [build_key(b"j", name) for name in old]
            self._kv.write(dict.fromkeys(keys), sync=False)
            for name in old:
                del self._epochs[name]
