"""Commands against a real server, with keystores that guard nothing."""

import pytest
from Crypto.Protocol.KDF import scrypt
from serving import TOKEN, serve

from p2pchain.cli.main import main
from wallet import keystore


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at the least cost, whatever a keystore says, here and back."""

    def derive(passphrase: bytes, salt: bytes, size: int, n: int, r: int, p: int):
        return scrypt(passphrase, salt, size, 2, r, p)

    monkeypatch.setattr(keystore, "scrypt", derive)


@pytest.fixture
def server(node):
    with serve(node) as running:
        yield running


@pytest.fixture
def run(capsys, server, tmp_path):
    """Run a command against the server, with its token in the home."""
    (tmp_path / "api_token").write_text(TOKEN + "\n")

    def run(*words, code=0):
        given = map(str, words)
        got = main(["--home", str(tmp_path), "--rpc", server.url, *given])
        said = capsys.readouterr()
        assert got == code, said.err
        return said

    return run
