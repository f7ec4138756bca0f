"""
Verifying the final blocks of a database, down from the certificate.

See chain/checks/database.py.
"""

from chain.checks.findings import Findings
from chain.errors import InvalidBlock, InvalidBody, StoreError
from chain.execution.bodies import read_body
from chain.execution.validity import validate_body
from chain.records.block import Block, decode_block
from chain.records.header import Header, compute_block_hash
from chain.records.spec import ChainSpec
from chain.storage.store import ChainReader, Tip
from consensus.certificates import verify_certificate
from consensus.scheme import SignatureScheme
from primitives.types import Height
from shards.chunk import ChunkHeader, compute_chunk_hash


class BlockSearch:
    """Reads all blocks."""

    def __init__(
        self,
        spec: ChainSpec,
        store: ChainReader,
        scheme: SignatureScheme,
        findings: Findings,
    ) -> None:
        self._spec = spec
        self._store = store
        self._scheme = scheme
        self._findings = findings
        self.headers: dict[Height, Header] = {}
        """Of the blocks that are sound."""

    def check(self, tip: Tip) -> None:
        """Check every block against its child, and the last one's certificate."""
        expected: bytes | None = tip.block_hash
        for height in range(tip.height, self._store.get_first_height() - 1, -1):
            block = self._read_block(height)
            if block is None:
                expected = None
                continue
            block_hash = compute_block_hash(block.header)
            problem = self._find_problem(block, block_hash, height, expected)
            expected = block.header.parent_hash
            if problem:
                self._findings.add("block", f"block {height} {problem}", height=height)
                expected = None
            else:
                self.headers[height] = block.header
        last = self.headers.get(tip.height)
        if last is not None and tip.height:
            self._check_certificate(last, tip)

    def _read_block(self, height: Height) -> Block | None:
        try:
            data = self._store.get_block_bytes(height)
            if data is None:
                raise StoreError("is missing")
            return decode_block(data)
        except (StoreError, InvalidBlock) as error:
            self._findings.add("block", f"block {height}: {error}", height=height)
            return None

    def _find_problem(
        self, block: Block, block_hash: bytes, height: Height, expected: bytes | None
    ) -> str:
        if expected is not None and block_hash != expected:
            return "is not the one that its child, or the tip, names"
        if block.header.height != height:
            return f"says that its height is {block.header.height}"
        try:
            validate_body(block)
            found = self._store.get_height(block_hash)
            for certified in block.body.chunks:
                self._validate_chunk(certified.header, height)
        except (InvalidBlock, InvalidBody, StoreError) as error:
            return f"is not sound: {error}"
        return "" if found == height else f"is listed at height {found}"

    def _validate_chunk(self, header: ChunkHeader, height: Height) -> None:
        """Check the body of a layer shard's chunk, which may be nowhere near.

        Raises:
            StoreError: It was executed here, and its body is lost.
            InvalidBody: It is not the chunk's.
        """
        data = self._store.get_body_bytes(compute_chunk_hash(header))
        if data is not None:
            read_body(header, data)
        elif self._store.get_outcomes(height, header.shard):
            raise StoreError(f"the body of shard {header.shard}'s chunk is missing")

    def _check_certificate(self, header: Header, tip: Tip) -> None:
        certificate = self._store.get_certificate(tip.height)
        validators = self._spec.first_validators
        if header.epoch:
            stored = self._store.get_validators(header.epoch)
            if stored is None:
                self._findings.add("database", f"no validators of epoch {header.epoch}")
                return
            validators = stored
        is_final = (
            certificate is not None
            and certificate.proposal is not None
            and certificate.proposal.block_hash == tip.block_hash
            and validators.compute_root() == header.valset_root
            and verify_certificate(
                certificate, validators, self._spec.chain_id, self._scheme
            )
        )
        if not is_final:
            self._findings.add(
                "block",
                f"nothing makes block {tip.height} final",
                height=tip.height,
            )
