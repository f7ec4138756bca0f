"""
The file by which a validator's node lets an account elsewhere stake behind its key.

The node's home has the BLS key, the owner's wallet has the money; neither secret has to
travel.  The file names key and owner, and the proof in it is for this owner alone
(docs/protocol/11-staking.md), so it is no secret either.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from p2pchain.errors import HomeError
from primitives.address import decode_address, encode_address
from primitives.bls import verify_possession
from primitives.errors import DecodeError

VERSION = 1
MAX_FILE_BYTES = 4096
"""The file has about 500 bytes."""
MAX_NAME_CHARS = 32


@dataclass(frozen=True, slots=True)
class ValidatorProof:
    """Key and proof for one owner."""

    name: str
    """What people call the validator."""
    owner: bytes
    """The account that may stake."""
    public_key: bytes
    """BLS; 48 bytes."""
    proof: bytes
    """Of possession, for the owner; 96 bytes."""

    def to_dict(self) -> dict[str, object]:
        """Return the file's content."""
        return {
            "version": VERSION,
            "name": self.name,
            "owner": encode_address(self.owner),
            "public_key": "0x" + self.public_key.hex(),
            "proof_of_possession": "0x" + self.proof.hex(),
        }


def load_validator_proof(path: Path, owner: bytes) -> ValidatorProof:
    """Return the proof in a file, verified.

    Args:
        path: Made by `p2pchain validator proof`.
        owner: Who wants to stake.

    Raises:
        HomeError: It cannot be read, is for somebody else, or proves nothing.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("it is too long")
        document = json.loads(data)
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r}, not {VERSION}")
        proof = ValidatorProof(
            name=str(document["name"])[:MAX_NAME_CHARS],
            owner=decode_address(document["owner"]),
            public_key=_parse_hex(document["public_key"]),
            proof=_parse_hex(document["proof_of_possession"]),
        )
    except FileNotFoundError as error:
        raise HomeError(f"{path} is missing") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        DecodeError,
    ) as error:
        raise HomeError(
            f"{path} is no file of `p2pchain validator proof`: {error}"
        ) from error
    if proof.owner != owner:
        raise HomeError(
            f"{path} is for {encode_address(proof.owner)}, this account is "
            f"{encode_address(owner)}; the validator has to make one for it"
        )
    if not verify_possession(proof.public_key, proof.proof, owner):
        raise HomeError(f"{path}: the proof of possession does not verify")
    return proof


def _parse_hex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
