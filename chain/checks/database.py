"""
Verification of a whole database: everything is computed again and compared.

Theory of operation
-------------------
Only the certificate is believed, and what follows from it:

    certificate --> last final header --parent_hash--> all headers --> all bodies
                          '--roots_root--> roots of the shards --> all buckets
                                               '--undo--> roots of the blocks before

A bucket carries a check of itself, so a damaged one is named; of one that was lost, or
is another's, only the root tells, and the shard is named.  Conservation is counted over
the whole state and compared with the books.  Nothing is changed, and a finding does not
end the search: who has to mend something wants to know all of it.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chain.checks.blocks import BlockSearch
from chain.checks.books import BooksSearch
from chain.checks.findings import Finding, Findings, TooManyFindings
from chain.checks.state import StateSearch
from chain.errors import StoreError
from chain.records.spec import ChainSpec
from chain.storage.books import Books
from chain.storage.final_state import FinalState
from chain.storage.store import CHAIN_ID_KEY, FORMAT, FORMAT_KEY, ChainStore, Tip
from consensus.scheme import SignatureScheme
from primitives.kv import KeyValueStore
from primitives.types import Height, ShardId

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was looked at, and what is wrong with it."""

    findings: tuple[Finding, ...]
    height: Height | None = None
    """Of the last final block."""
    blocks: int = 0
    """That are sound."""
    buckets: int = 0
    keys: int = 0
    states: int = 0
    """Of past blocks, recomputed from their undo."""
    books: Mapping[ShardId, Books] = field(default_factory=dict)
    """By counting."""

    @property
    def is_sound(self) -> bool:
        """Nothing is wrong."""
        return not self.findings


def verify_database(
    spec: ChainSpec, kv: KeyValueStore, scheme: SignatureScheme, report: Report
) -> Verdict:
    """Return everything that is wrong with a chain's database.

    Args:
        spec: The chain.
        kv: Its database; nothing is written.
        scheme: Verifies the certificate.
        report: Is told what is being looked at.
    """
    findings = Findings()
    store = ChainStore(kv)
    try:
        tip = _check_meta(spec, store, findings)
        state = None if tip is None else _open_state(spec, store)
    except StoreError as error:
        findings.items.append(Finding("database", str(error)))
        tip = state = None
    if tip is None or state is None:
        return Verdict(tuple(findings.items))
    blocks = BlockSearch(spec, store, scheme, findings)
    states = StateSearch(store, state, findings)
    books = BooksSearch(store, state, findings)
    try:
        report(f"blocks down from {tip.height:,}")
        blocks.check(tip)
        for shard in state.followed:
            report(f"buckets of shard {shard}")
            states.check_buckets(shard)
        if tip.height in blocks.headers:
            states.check_roots(blocks.headers[tip.height])
        report("states of the past")
        states.check_past(tip.height, blocks.headers)
        report("conservation")
        books.check(tip.height)
    except TooManyFindings:
        pass
    except StoreError as error:
        findings.items.append(Finding("database", str(error)))
    return Verdict(
        findings=tuple(findings.items),
        height=tip.height,
        blocks=len(blocks.headers),
        buckets=states.buckets,
        keys=states.keys,
        states=states.states,
        books=books.books,
    )


def _check_meta(spec: ChainSpec, store: ChainStore, findings: Findings) -> Tip | None:
    """Return the tip of a database of this chain and format."""
    if store.kv.get(FORMAT_KEY) != FORMAT:
        findings.add("database", "it has another format, or none")
        return None
    if store.kv.get(CHAIN_ID_KEY) != spec.chain_id:
        findings.add("database", "it belongs to another chain")
        return None
    tip = store.get_tip()
    if tip is None:
        findings.add("database", "it has no last final block")
    return tip


def _open_state(spec: ChainSpec, store: ChainStore) -> FinalState:
    shards, followed = store.get_layout().shard_ids, store.get_followed()
    told = {s: store.get_last_chunk(s).post_root for s in shards if s not in followed}
    return FinalState(store.kv, shards, spec.params.bucket_levels, told)
