"""Whom a node learns of from the chain, and whom a validator stays connected with."""

import pytest
from chain_world import (
    ALICE,
    CAROL,
    COIN,
    KEYS,
    STAKERS,
    World,
    build_genesis,
    build_offer,
)

from chain.queries.queries import Queries
from chain.records.staking import Bond
from chain.records.transfer import Transfer
from genesis.state import build_chain_spec
from p2pchain.node.chain.address_book import AddressBook
from primitives.bls import BlsSecretKey

L = 4
OWN = bytes([99]) * 32


class Contacts:
    """Takes endpoints as the network does."""

    peer_id = OWN

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        self.kept: set[bytes] = set()

    def add_endpoint(self, endpoint, *, persistent=False) -> None:
        self.known.add(endpoint.peer_id)
        if persistent:
            self.kept.add(endpoint.peer_id)


def register(world: World, key, node_key: bytes, address: str = ""):
    return world.sign(key, build_offer(key, node_key=node_key, address=address), 1)


def bond(world: World, key):
    """Return the transaction by which a newcomer asks for a seat."""
    own = BlsSecretKey(bytes([55]) * 32)
    KEYS[own.public_key] = own
    proof = own.prove_possession(key.public_key)
    return world.sign(key, Bond("newcomer", own.public_key, proof, 50 * COIN))


def open_book(world: World, *, is_validator: bool) -> tuple[AddressBook, Contacts]:
    """Return a book that has read the chain, and what the network knows by it."""
    contacts = Contacts()
    book = AddressBook(Queries(world.tree), contacts, is_validator=is_validator)
    book.refresh()
    return book, contacts


def advance(world: World, book: AddressBook, *transactions, blocks: int = 1) -> None:
    for number in range(blocks):
        book.on_final(world.finalize(world.build(*(() if number else transactions))))


@pytest.fixture
def world() -> World:
    """A chain on which two of the validators have money for a collateral."""
    world = World(build_chain_spec(build_genesis(epoch_blocks=L)))
    gifts = [Transfer(key.public_key, 1, 10 * COIN) for key in STAKERS[:2]]
    world.advance(*(world.sign(ALICE, gift, 1) for gift in gifts))
    return world


VOTER, PROVIDER = bytes([1]) * 32, bytes([2]) * 32


def test_whoever_votes_stays_connected_with_those_who_vote(world) -> None:
    """Votes are not passed on: heard by one peer only, they are missed by the rest."""
    book, contacts = open_book(world, is_validator=True)
    voter = register(world, STAKERS[1], VOTER)
    advance(world, book, voter, register(world, CAROL, PROVIDER), blocks=3)
    assert contacts.known == {VOTER, PROVIDER}
    assert contacts.kept == {VOTER}


def test_others_only_know_where_everybody_is(world) -> None:
    book, contacts = open_book(world, is_validator=False)
    advance(world, book, register(world, STAKERS[1], VOTER), blocks=3)
    assert (contacts.known, contacts.kept) == ({VOTER}, set())


def test_a_book_that_is_opened_later_knows_as_much(world) -> None:
    world.advance(register(world, STAKERS[1], VOTER), blocks=3)
    _, contacts = open_book(world, is_validator=True)
    assert contacts.kept == {VOTER}


def test_a_provider_is_kept_from_when_it_votes(world) -> None:
    book, contacts = open_book(world, is_validator=True)
    advance(world, book, register(world, CAROL, PROVIDER), blocks=3)
    assert contacts.kept == set()
    advance(world, book, bond(world, CAROL), blocks=L - 1)
    assert contacts.kept == set()
    advance(world, book)  # ends the epoch, and chooses the set after the next
    assert contacts.kept == {PROVIDER}


def test_nobody_redirects_others_and_nobody_calls_itself(world) -> None:
    book, contacts = open_book(world, is_validator=True)
    stranger = f"p2p://{VOTER.hex()}@127.0.0.1:9"
    advance(world, book, register(world, STAKERS[0], PROVIDER, stranger), blocks=3)
    advance(world, book, register(world, STAKERS[1], OWN), blocks=3)
    assert contacts.known == set()
