"""Names that were made to harm: they lead nowhere, are told harmlessly and shortly, and lose nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.cli.main import main
from audit.actor import Actor
from audit.errors import BadInput, ClocheError
from audit.remote import RemoteVault
from audit.rows import NewObject
from audit.vault import Vault
from tests.appliance.conftest import CANARY, STEWARD, bring_in, lines_of, write

HOSTILE = {
    "up": "../../../../etc/passwd",
    "up from the vault": "../../keys/vault.key",
    "absolute": "/etc/passwd",
    "NUL": "a\0b.png",
    "emoji": "\N{BRAIN}" * 1024,
    "escape": "\x1b[2J\x1b]0;owned\x07.png",
    "lines": "a\ncloche: all is well\n.png",
    "turned": "\u202egnp.exe",
    "option": "--help",
    "half a letter": "\ud83e.png",
    "empty": "",
    "SQL": "'; DROP TABLE records; --",
}
names = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())


def harmless(error: ClocheError, *secrets: str) -> None:
    """See that an error is short, harmless to a terminal, and tells nothing of a record."""
    said = error.diagnostics()
    assert len(said) < 1500
    assert all(line.isprintable() for line in said.split("\n")) and said.count("\n") <= 1
    for secret in secrets:
        assert not secret or len(secret) < 8 or secret not in said


@names
def test_as_the_name_of_a_picture(vault: Vault, folder: Path, name: str) -> None:
    lines = lines_of(folder)
    lines[7] = {**lines[7], "image": name}
    write(folder, lines)
    with pytest.raises(BadInput) as refused:
        bring_in(vault, folder)
    harmless(refused.value, CANARY)
    assert ":8" in refused.value.where and vault.catalogue.objects() == []


@names
def test_as_a_patients_number(vault: Vault, folder: Path, name: str) -> None:
    lines = lines_of(folder)
    lines[7] = {**lines[7], "patient": name}
    write(folder, lines)
    try:
        bring_in(vault, folder)
    except ClocheError as refused:
        harmless(refused, CANARY, name)
        assert vault.catalogue.objects() == []
        return
    # It came in under a pseudonym like any other, and stands nowhere.
    assert len(vault.catalogue.records()) == 20
    known = {record.patient for record in vault.catalogue.records()}
    assert all(len(one) == 12 and one.startswith("P-") for one in known)
    for path in vault.home.rglob("*"):
        if path.is_file() and len(name) > 7:
            assert name.encode() not in path.read_bytes()


@names
def test_as_an_id_that_somebody_asks_for(vault: Vault, name: str) -> None:
    held = vault.put("report", b"x", actor=STEWARD)
    before = sorted(path for path in vault.home.rglob("*") if path.is_file())
    act: Callable[[], object]
    for act in (
        lambda: vault.use([name], "TREAT", STEWARD, "ask").__enter__(),
        lambda: vault.delete([name], actor=STEWARD, activity="x"),
        lambda: vault.put("report", b"y", actor=STEWARD, parents=[name]),
        lambda: vault.catalogue.record(name),
        lambda: vault.catalogue.find(name),
    ):
        with pytest.raises(BadInput) as refused:
            act()
        harmless(refused.value)
    with pytest.raises(ClocheError) as refused:
        vault.discard([name])
    harmless(refused.value)
    assert sorted(path for path in vault.home.rglob("*") if path.is_file()) == before
    assert [one.id for one in vault.catalogue.objects()] == [held]


@names
def test_over_the_socket(vault: Vault, name: str) -> None:
    vault.close()
    with RemoteVault.open(vault.home, b"correct horse") as remote, pytest.raises(BadInput) as refused:
        remote.use([name], "TREAT", Actor.current("steward"), "ask").__enter__()
    harmless(refused.value)


@pytest.mark.parametrize(
    "name", [*(name for name in HOSTILE.values() if name.isascii() and "\0" not in name), "\udcff"]
)
def test_on_the_command_line(
    vault: Vault, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.close()
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(secret))
    for words in (["ingest", "--", name], ["ask", "--", name, "Is it?"]):
        with pytest.raises(SystemExit) as leaving:
            main(["--home", str(vault.home), *words])
        said = capsys.readouterr()
        assert leaving.value.code in (2, 3) and said.out == ""
        assert "Traceback" not in said.err and "bug of ours" not in said.err
        assert all(line.isprintable() for line in said.err.split("\n")) and len(said.err) < 1500


def test_in_a_row_that_somebody_changed(vault: Vault) -> None:
    """A catalogue's row that names a file outside the objects: it is not opened, and not deleted."""
    image, other = vault.put_many([NewObject("image", b"1"), NewObject("image", b"2")], actor=STEWARD)
    key = vault.home / "keys" / "vault.key"
    named = image
    for name in ("../../keys/vault.key", f"../objects/{other[:2]}/{other}", str(key)):
        vault.catalogue._connection.execute("UPDATE objects SET id = ? WHERE id = ?", (name, named))
        named = name
        with pytest.raises(ClocheError) as refused, vault.use([name], "TREAT", STEWARD, "ask") as opened:
            opened.read(name)
        harmless(refused.value)
        with pytest.raises(ClocheError):
            vault.delete([name], actor=STEWARD, activity="x")
        checked = vault.check(STEWARD)
        assert {(one.kind) for one in checked.findings} >= {"stray"}
        assert key.exists() and (vault.home / "vault" / "objects" / other[:2] / other).exists()
    assert json.loads((vault.home / "cloche.json").read_text())["format"] == 1
