"""Keystores of these tests guard nothing."""

import pytest
from Crypto.Protocol.KDF import scrypt

from wallet import keystore


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at the least cost, whatever a keystore says, here and back."""

    def derive(passphrase: bytes, salt: bytes, size: int, n: int, r: int, p: int):
        return scrypt(passphrase, salt, size, 2, r, p)

    monkeypatch.setattr(keystore, "scrypt", derive)
