"""`cloche custodian`: one process with the keys, commands without a passphrase."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.actor import Actor
from audit.checkpoint import VerifierKey
from audit.errors import Refused
from audit.events import Event
from audit.remote import RemoteVault
from audit.service import harden, listen
from audit.verify import verify

ROOT = Path(__file__).parents[2]


def cloche(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CLOCHE_")}
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli.main", *map(str, arguments)],
        cwd=ROOT,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def served(vault, tmp_path):
    """A running custodian; its socket."""
    vault.close()
    credentials, where = tmp_path / "credentials", tmp_path / "custodian"
    credentials.mkdir()
    (credentials / "passphrase").write_bytes(b"correct horse\n")
    environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)}
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli.main", "--home", str(vault.home), "custodian", "--socket", str(where)],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(600):
        if where.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    yield where
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def test_commands_need_no_passphrase_where_a_custodian_serves(served, vault):
    without = cloche("--home", vault.home, "records", "--json")
    assert without.returncode == 3 and "passphrase" in without.stderr
    done = cloche("--home", vault.home, "records", "--json", CLOCHE_CUSTODIAN=str(served))
    assert done.returncode == 0 and json.loads(done.stdout) == []
    beat = cloche("--home", vault.home, "audit", "heartbeat", CLOCHE_CUSTODIAN=str(served))
    assert beat.returncode == 0, beat.stderr
    assert cloche("--home", vault.home, "audit", "verify").stdout.startswith("intact")


def as_account(uid: int, work: Callable[[], object]) -> int:
    """Do something in a child that belongs to another account; its process id. What it loads is loaded before."""
    child = os.fork()
    if child:
        return child
    try:
        os.setgroups([64000] if uid != 64001 else [])
        os.setgid(64000)
        os.setuid(uid)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.fixture
def shared(vault):
    """A home that belongs to account 64001, with its custodian; home, socket, process."""
    vault.put("report", b"warm", actor=Actor("ada", "steward"))  # loads what the children may not load any more
    vault.close()
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        folder.chmod(0o755)
        home, where = folder / "home", folder / "run" / "custodian"
        shutil.copytree(vault.home, home)
        where.parent.mkdir()
        for path in [home, where.parent, *home.rglob("*")]:
            os.chown(path, 64001, 64000)
        ready = folder / "run" / "ready"

        def serve() -> None:
            harden()
            listen(home, b"correct horse", where, ready.touch)

        process = as_account(64001, serve)
        while not ready.exists() and not os.waitpid(process, os.WNOHANG)[0]:
            time.sleep(0.05)
        yield home, where, process
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to act as two accounts")
def test_with_an_account_of_its_own_keys_objects_and_memory_are_out_of_reach(shared):
    """The user of another account works with the vault, and can read neither keys nor objects nor memory."""
    home, where, process = shared

    def work() -> None:
        me = Actor.current("steward")
        assert me.user == "uid 64002"
        with RemoteVault.connect(home, where) as vault:
            name = vault.put("report", b"plain", actor=me)
            with vault.use([name], "TREAT", me, "ask") as opened:
                assert opened.read(name) == b"plain"
            with pytest.raises(Refused, match="somebody else"):
                vault.record(Event("note", Actor("root", "steward")))
        for secret in (home / "keys" / "vault.key", home / "keys" / "patients.sqlite", Path(f"/proc/{process}/mem")):
            with pytest.raises(PermissionError):
                secret.read_bytes()
        with pytest.raises(PermissionError):
            list((home / "vault" / "objects").iterdir())
        pin = VerifierKey.from_text((home / "keys" / "log.pub").read_text())
        assert verify(home / "audit" / "log.sqlite", pin, home / "audit" / "high-water").state == "intact"

    assert os.waitpid(as_account(64002, work), 0)[1] == 0


def test_a_socket_that_nobody_serves_is_told(vault, tmp_path):
    done = cloche("--home", vault.home, "records", CLOCHE_CUSTODIAN=str(tmp_path / "nobody"))
    assert done.returncode == 6 and "custodian cannot be reached" in done.stderr


def test_a_place_where_it_cannot_listen_is_told(vault, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    for where in (tmp_path / "missing" / "x", tmp_path / ("x" * 120)):
        home, names = vault.home, {"CLOCHE_PASSPHRASE_FILE": str(secret)}
        done = cloche("--home", home, "custodian", "--socket", where, **names)
        assert done.returncode == 6 and "cannot listen" in done.stderr, done.stderr
