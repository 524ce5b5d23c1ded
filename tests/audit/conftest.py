"""Small logs and vaults: cheap passphrases, real cryptography."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.cli.main import main
from audit.actor import Actor
from audit.checkpoint import Signer
from audit.events import Event
from audit.keys import Cost, KeyPair, generate
from audit.log import Log
from audit.vault import Vault

CHEAP = Cost(memory_kib=64, iterations=1, lanes=1)
ACTOR = Actor("ada", "steward")
PASSPHRASE = b"correct horse"


@dataclass(frozen=True)
class Kit:
    """A log, its key, and the people who can read it."""

    path: Path
    mark: Path
    signer: Signer
    auditor: KeyPair
    recovery: KeyPair

    def open(self) -> Log:
        return Log(self.path, self.signer, [self.auditor.recipient, self.recovery.recipient], self.mark)


@pytest.fixture(scope="session")
def people() -> tuple[KeyPair, KeyPair, KeyPair]:
    """Auditor, recovery holder, and a stranger."""
    return generate("auditor", "X25519"), generate("recovery", "X25519"), generate("stranger", "X25519")


@pytest.fixture
def kit(tmp_path: Path, people: tuple[KeyPair, KeyPair, KeyPair]) -> Kit:
    made = Kit(tmp_path / "log.sqlite", tmp_path / "high-water", Signer.generate("cloche/log/test"), *people[:2])
    Log.create(made.path, made.signer, [people[0].recipient, people[1].recipient], made.mark).close()
    return made


@pytest.fixture
def vault(tmp_path: Path, people: tuple[KeyPair, KeyPair, KeyPair]) -> Iterator[Vault]:
    recipients = [people[0].recipient, people[1].recipient]
    with Vault.create(tmp_path / "home", PASSPHRASE, recipients, cost=CHEAP, actor=ACTOR) as made:
        yield made


@pytest.fixture
def event() -> Callable[..., Event]:
    def make(number: int = 0, filler: str = "", **fields: object) -> Event:
        detail = {"number": number, **({"filler": filler} if filler else {})}
        return Event("note", ACTOR, detail=detail, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def type_(capsys, monkeypatch, vault, tmp_path):
    """Type a command on the box, or in another home; returns its exit code, stdout and stderr."""
    secret = tmp_path / "passphrase-of-the-box"
    secret.write_bytes(PASSPHRASE + b"\n")
    secret.chmod(0o600)
    if "CLOCHE_PASSPHRASE_FILE" not in os.environ:
        monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(secret))

    def run(*arguments, home=vault.home):
        monkeypatch.setenv("CLOCHE_HOME", str(home))
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(leaving.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def key_file(tmp_path, people, monkeypatch):
    """The auditor's private key file, its passphrase where the command looks for it."""
    people[0].save(tmp_path / "auditor.key", b"pass", CHEAP)
    people[2].save(tmp_path / "stranger.key", b"pass", CHEAP)
    secret = tmp_path / "passphrase"
    secret.write_text("pass\n")
    secret.chmod(0o600)
    monkeypatch.setenv("CLOCHE_KEY_PASSPHRASE_FILE", str(secret))
    return tmp_path / "auditor.key"
