"""
Which keys a chunk probably touches: a hint, so that a state far away comes in one go.

Nothing depends on it but time: what is missing is fetched when it is read, and what is
too much is not used.
"""

from collections.abc import Iterable, Iterator

from chain.contracts.credit import Credit
from chain.ledger.context import Context
from chain.records.channel import (
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)
from chain.records.keys import (
    TOTALS_KEY,
    build_account_key,
    build_channel_key,
    build_consumed_key,
    build_emitted_key,
    build_pair_key,
    build_registration_key,
)
from chain.records.registration import Register
from chain.records.transaction import SignedTransaction
from chain.records.transfer import Transfer
from primitives.codec import decode
from primitives.errors import DecodeError
from shards.packet import PacketKind, PacketProof


def predict_keys(
    context: Context,
    packets: Iterable[PacketProof],
    transactions: Iterable[SignedTransaction],
) -> Iterator[bytes]:
    """Yield keys that a chunk probably reads or writes, some of them twice."""
    yield TOTALS_KEY
    for shard in context.layout.shard_ids:
        yield build_consumed_key(shard)
        yield build_emitted_key(shard)
    for proof in packets:
        if proof.packet.kind == PacketKind.CREDIT:
            try:
                recipient = decode(Credit, proof.packet.payload).recipient
            except DecodeError:
                continue
            yield build_account_key(recipient)
    for signed in transactions:
        transaction = signed.transaction
        yield build_account_key(transaction.sender)
        match transaction.payload:
            case Transfer() as transfer if transfer.shard == context.shard:
                yield build_account_key(transfer.recipient)
            case OpenChannels(openings=openings):
                for opening in openings:
                    yield build_pair_key(transaction.sender, opening.payee)
                    yield build_registration_key(opening.payee)
            case (
                TopUp(channel_id=channel_id)
                | Settle(channel_id=channel_id)
                | Close(channel_id=channel_id)
                | RequestClose(channel_id=channel_id)
                | Withdraw(channel_id=channel_id)
            ):
                yield build_channel_key(channel_id)
            case Register():
                yield build_registration_key(transaction.sender)
            case _:
                pass
