"""The passphrase comes from a private file or a terminal, never from anywhere else."""

from pathlib import Path

import pytest

from appliance.settings import LONGEST_PASSPHRASE, PASSPHRASE_FILE, Settings, open_vault, read_passphrase
from audit.errors import Refused


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse\n")
    path.chmod(0o600)
    monkeypatch.setenv(PASSPHRASE_FILE, str(path))
    return path


def test_the_first_line_is_the_passphrase(secret: Path) -> None:
    assert read_passphrase() == b"correct horse"
    secret.write_bytes(b"correct horse\r\nand a note\n")
    assert read_passphrase() == b"correct horse"
    secret.write_bytes(b"x" * LONGEST_PASSPHRASE)
    assert read_passphrase() == b"x" * LONGEST_PASSPHRASE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(Refused, match="others") as refused:
        read_passphrase()
    assert f"chmod 600 {secret}" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * (LONGEST_PASSPHRASE + 1)], ids=["empty", "blank", "long"])
def test_a_file_without_a_passphrase_is_refused(secret: Path, content: bytes) -> None:
    secret.write_bytes(content)
    with pytest.raises(Refused):
        read_passphrase()


def test_a_folder_or_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        monkeypatch.setenv(PASSPHRASE_FILE, str(path))
        with pytest.raises(Refused, match=path.name):
            read_passphrase()


def test_no_file_and_no_terminal_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open("/dev/null") as nowhere:
        monkeypatch.setattr("sys.stdin", nowhere)
        with pytest.raises(Refused) as refused:
            read_passphrase()
    assert PASSPHRASE_FILE in refused.value.hint


def test_the_terminal_is_asked_twice_for_a_new_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["one", "one", "one", "two", ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    assert read_passphrase(confirm=True) == b"one"
    with pytest.raises(Refused, match="differ"):
        read_passphrase(confirm=True)
    with pytest.raises(Refused, match="empty"):
        read_passphrase()


def test_no_appliance_is_refused_before_the_passphrase_is_asked(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no appliance"), open_vault(Settings(home=tmp_path / "none"), "steward"):
        pass
