"""
A shard's list of registrations: so that they can be walked without walking the state.

Places are numbered without gaps; who leaves is replaced by the last one.
"""

from chain.errors import StoreError
from chain.ledger.ledger import Count, Ledger, get_count
from chain.records.keys import LISTED_COUNT_KEY, build_listed_key
from primitives.codec import Record
from primitives.types import Address


class ListedProvider(Record):
    """Who is at a place."""

    account: Address


def get_listed_count(ledger: Ledger) -> int:
    """Return how many registrations the shard has."""
    return get_count(ledger, LISTED_COUNT_KEY)


def get_listed(ledger: Ledger, place: int) -> bytes:
    """Return the account at a place below the count."""
    listed = ledger.get(build_listed_key(place), ListedProvider)
    if listed is None:
        raise StoreError(f"nobody is at place {place} of the list of registrations")
    return listed.account


def append_listed(ledger: Ledger, account: bytes) -> None:
    """Put an account at the end."""
    count = get_listed_count(ledger)
    ledger.put(build_listed_key(count), ListedProvider(account))
    ledger.put(LISTED_COUNT_KEY, Count(count + 1))


def remove_listed(ledger: Ledger, place: int) -> None:
    """Take the account at `place` out; the last one takes its place."""
    last = get_listed_count(ledger) - 1
    if place != last:
        account = get_listed(ledger, last)
        ledger.put(build_listed_key(place), ListedProvider(account))
    ledger.delete(build_listed_key(last))
    ledger.put(LISTED_COUNT_KEY, Count(last))
