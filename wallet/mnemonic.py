"""
The phrase that restores everything: 24 words of BIP-39, English list.

Twenty-four words are 32 bytes of entropy and a checksum; the seed that keys derive from
is PBKDF2 of the words, as in every other wallet.
"""

import secrets

from mnemonic import Mnemonic

from wallet.errors import InvalidMnemonic

WORDS = 24
ENTROPY_BYTES = 32

_ENGLISH = Mnemonic("english")


def build_mnemonic(entropy: bytes | None = None) -> str:
    """Return 24 words from `entropy` (32 bytes) or from the system's randomness."""
    entropy = secrets.token_bytes(ENTROPY_BYTES) if entropy is None else entropy
    assert len(entropy) == ENTROPY_BYTES
    return str(_ENGLISH.to_mnemonic(entropy))


def parse_mnemonic(text: str) -> str:
    """Return the phrase in `text` with single spaces and in lower case.

    Raises:
        InvalidMnemonic: Another number of words, a word that is not in the list, or a
            checksum that says that a word is wrong or out of place.
    """
    words = text.lower().split()
    if len(words) != WORDS:
        raise InvalidMnemonic(f"{len(words)} words where {WORDS} are needed")
    for number, word in enumerate(words, 1):
        if word not in _ENGLISH.wordlist:
            raise InvalidMnemonic(f"word {number} is not in the BIP-39 list")
    phrase = " ".join(words)
    if not _ENGLISH.check(phrase):
        raise InvalidMnemonic(
            "the checksum does not match: a word is wrong or two are swapped"
        )
    return phrase


def compute_seed(phrase: str, passphrase: str = "") -> bytes:
    """Return the 64-byte seed of a phrase (and BIP-39's optional passphrase).

    Raises:
        InvalidMnemonic: `phrase` is not one.
    """
    return bytes(Mnemonic.to_seed(parse_mnemonic(phrase), passphrase))
