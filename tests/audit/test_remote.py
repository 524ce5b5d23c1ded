"""The vault through a process of its own: the same vault, and nothing without that process."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import wire
from audit.actor import Actor
from audit.errors import BadInput, ClocheError, EnvironmentProblem, IntegrityFailure, Refused
from audit.events import Event
from audit.keys import Recipient
from audit.reading import read
from audit.remote import RemoteVault
from audit.rows import NewObject, StoredObject
from audit.service import listen
from audit.verify import verify
from tests.audit.conftest import PASSPHRASE

ME = Actor.current("steward")


@pytest.fixture
def remote(vault):
    with RemoteVault.open(vault.home, PASSPHRASE) as opened:
        yield opened


def last_events(vault, people, count):
    path = vault.home / "audit" / "log.sqlite"
    return [one.event for one in read(path, people[0], verify(path).size)][-count:]


@pytest.mark.parametrize("data", [b"", b"x", os.urandom((3 << 20) + 5)], ids=["empty", "small", "four chunks"])
def test_what_is_put_in_comes_out_by_a_logged_use(vault, remote, people, data):
    name = remote.put("report", data, actor=ME, patient="P-A", note={"words": 3})
    with remote.use([name], "TREAT", ME, "ask", {"run": "run-1"}) as opened:
        assert last_events(vault, people, 1)[0].objects == (name,)
        assert opened.read(name) == data and b"".join(opened.chunks(name)) == data
    with pytest.raises(Refused):
        opened.read(name)
    assert vault.catalogue.object(name).note == {"words": 3}


def test_files_and_pieces_of_any_size_go_over_the_socket(remote, tmp_path):
    (tmp_path / "file").write_bytes(b"f" * (2 << 20))
    whole = [b"a" * (1 << 20), b"", b"b" * ((1 << 20) + 1), b"c"]
    first, second = remote.put_many([NewObject("m", tmp_path / "file"), NewObject("m", iter(whole))], actor=ME)
    with remote.use([first, second], "HRESCH", ME, "export") as opened:
        reading = opened.chunks(second)
        begun = next(reading)  # two objects half read at once, and a call between
        assert opened.read(first) == b"f" * (2 << 20)
        remote.record(Event("note", ME))
        assert begun + b"".join(reading) == b"".join(whole)


def test_it_is_the_same_vault_from_inside_and_outside(vault, remote):
    assert remote.log_key == vault.log_key and remote.recipients == vault.recipients
    assert remote.pseudonym(" 12 ") == vault.pseudonym("12") and remote.fingerprint(b"x") == vault.fingerprint(b"x")
    name = remote.put("report", b"x", actor=ME, patient="P-A")
    assert remote.manifest_leaves([name]) == vault.manifest_leaves([name])
    assert remote.checkpoint() == vault.checkpoint()
    remote.delete([name], actor=ME, activity="clean")
    with pytest.raises(BadInput, match="deleted"), vault.use([name], "TREAT", ME, "ask"):
        pytest.fail("it is gone")


def test_errors_come_back_as_what_they_are(vault, remote):
    with pytest.raises(Refused, match="purpose"), remote.use([], "CURIOSITY", ME, "ask"):
        pytest.fail("no such purpose")
    with pytest.raises(BadInput, match="no such object"), remote.use(["nothing"], "TREAT", ME, "ask"):
        pytest.fail("no such object")
    with pytest.raises(BadInput, match="empty"):
        remote.pseudonym(" ")
    name = remote.put("report", b"x" * 100, actor=ME)
    (path,) = vault.home.glob(f"vault/objects/*/{name}")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with remote.use([name], "TREAT", ME, "ask") as opened, pytest.raises(IntegrityFailure, match="changed"):
        opened.read(name)
    with pytest.raises(BadInput):
        remote.record(Event("note", ME, detail={"object": object()}))
    assert remote.record(Event("note", ME)) > 0  # and the connection goes on


def test_the_vaults_own_marks_are_not_given_out(vault, remote):
    assert remote.mark("fingerprint", b"x") == vault.mark("fingerprint", b"x")
    for label in ("policy", "drills", "pseudonym", "", "fingerprint\x00", "🙂" * 1000):
        with pytest.raises(Refused, match="vault's own"):
            remote.mark(label, b"x")


def test_nobody_can_act_as_somebody_else(vault, remote):
    eve = Actor("eve", "steward")
    name = remote.put("report", b"x", actor=ME)
    before = verify(vault.home / "audit" / "log.sqlite").size
    for act in (
        lambda: remote.record(Event("note", eve)),
        lambda: remote.put("report", b"x", actor=eve),
        lambda: remote.delete([name], actor=eve, activity="x"),
        lambda: remote.use([name], "TREAT", eve, "ask").__enter__(),
    ):
        with pytest.raises(Refused, match="somebody else"):
            act()
    assert verify(vault.home / "audit" / "log.sqlite").size == before


def test_a_put_that_fails_leaves_nothing(vault, remote, tmp_path):
    def broken():
        yield b"half"
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="broke"):
        remote.put("report", broken(), actor=ME)
    with pytest.raises(EnvironmentProblem):
        remote.record(Event("note", ME))  # the connection went with it: no half is taken for a whole
    remote.close()
    assert not list((vault.home / "vault" / "incoming").iterdir())
    with RemoteVault.open(vault.home, PASSPHRASE) as again:
        with pytest.raises(BadInput):
            again.put("report", tmp_path / "missing", actor=ME)
        with pytest.raises(BadInput):
            again.put_many([NewObject("a", b"1"), NewObject("b", b"2", parents=["nothing"])], actor=ME)
    assert not list((vault.home / "vault" / "incoming").iterdir())


def test_a_full_disk_is_told_and_the_connection_goes_on(vault, remote):
    """The limit is the vault's process's own; what was under way is not taken for the next call."""
    before = resource.prlimit(remote._channel._process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(remote._channel._process.pid, resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    with pytest.raises(EnvironmentProblem, match="disk refused"):
        remote.put("report", b"x" * (5 << 20), actor=ME)
    resource.prlimit(remote._channel._process.pid, resource.RLIMIT_FSIZE, before)
    assert remote.fingerprint(b"x") == vault.fingerprint(b"x")
    name = remote.put("report", b"x" * (5 << 20), actor=ME)
    with remote.use([name], "TREAT", ME, "ask") as opened:
        assert opened.read(name) == b"x" * (5 << 20)
    assert not list((vault.home / "vault" / "incoming").iterdir())


def test_a_killed_custodian_stops_the_work_and_loses_nothing(vault, remote):
    name = remote.put("report", b"x" * (3 << 20), actor=ME)
    with (
        pytest.raises(EnvironmentProblem, match="process is gone"),
        remote.use([name], "TREAT", ME, "ask") as opened,
    ):
        reading = opened.chunks(name)
        next(reading)
        os.kill(remote._channel._process.pid, signal.SIGKILL)
        list(reading)
    with pytest.raises(EnvironmentProblem, match="type the same command again"):
        remote.put("report", b"y", actor=ME)
    with RemoteVault.open(vault.home, PASSPHRASE) as again, again.use([name], "TREAT", ME, "ask") as opened:
        assert len(opened.read(name)) == 3 << 20
    assert verify(vault.home / "audit" / "log.sqlite", vault.log_key).state == "intact"


def test_the_process_ends_with_its_client(vault):
    code = (
        "import os, sys; from pathlib import Path; from audit.remote import RemoteVault\n"
        f"vault = RemoteVault.open(Path({str(vault.home)!r}), {PASSPHRASE!r})\n"
        "print(vault._channel._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    status = Path(f"/proc/{int(done.stdout)}/status")
    for _ in range(200):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        threading.Event().wait(0.05)
    pytest.fail("the custodian outlived its client")


def test_its_memory_is_not_for_others_and_the_passphrase_not_in_its_arguments(remote):
    process = Path(f"/proc/{remote._channel._process.pid}")
    assert PASSPHRASE not in (process / "cmdline").read_bytes()
    assert "Max core file size        0                    0" in (process / "limits").read_text()
    # A process that is not dumpable belongs to root in /proc, whoever runs it.
    assert (process / "environ").stat().st_uid == 0


def test_a_fork_does_not_share_the_connection(remote):
    child = os.fork()
    if not child:
        try:
            remote.checkpoint()
        except Refused:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert remote.checkpoint()


def test_a_wrong_passphrase_or_no_home_is_told(vault, tmp_path):
    with pytest.raises(Refused, match="passphrase is wrong"):
        RemoteVault.open(vault.home, b"wrong")
    with pytest.raises(Refused, match="no appliance"):
        RemoteVault.open(tmp_path / "none", PASSPHRASE)


def test_keys_are_changed_through_it(vault, people):
    vault.close()
    with RemoteVault.open(vault.home, PASSPHRASE, alone=True) as alone:
        alone.ceremonies.add_recipient(people[2].recipient.to_dict(), ME)
        assert [one.name for one in alone.recipients] == ["auditor", "recovery", "stranger"]
        with pytest.raises(Refused, match="already"):
            alone.ceremonies.add_recipient(people[2].recipient.to_dict(), actor=ME)
        with pytest.raises(Refused, match="somebody else"):
            alone.ceremonies.rotate_key(Actor("eve", "officer"))
        old, new = alone.ceremonies.rotate_key(ME)
        assert old != new and alone.log_key.to_text() == new


def test_an_installed_custodian_serves_several(vault, people, tmp_path):
    home, where, ready = vault.home, tmp_path / "socket", threading.Event()
    vault.close()
    threading.Thread(target=listen, args=(home, PASSPHRASE, where, ready.set), daemon=True).start()
    assert ready.wait(20)
    assert where.stat().st_mode & 0o777 == 0o660
    with RemoteVault.connect(home, where) as one, RemoteVault.connect(home, where) as two:
        name = one.put("report", b"x", actor=ME)
        with two.use([name], "TREAT", ME, "ask") as opened:
            assert opened.read(name) == b"x"
        with pytest.raises(Refused):
            next(one._chunks(1, name))  # a use belongs to its connection
    with pytest.raises(EnvironmentProblem, match="cannot be reached"):
        RemoteVault.connect(home, tmp_path / "nobody")


def test_a_client_that_talks_nonsense_is_answered_or_left(vault, tmp_path):
    home, where, ready = vault.home, tmp_path / "socket", threading.Event()
    vault.close()
    threading.Thread(target=listen, args=(home, PASSPHRASE, where, ready.set), daemon=True).start()
    assert ready.wait(20)
    for call in ("close", "_open", "ceremonies._change", "ceremonies.", 5, None, "read"):
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(str(where))
        wire.send(channel, {"call": call})
        assert "error" in wire.receive(channel)[0]
        channel.close()
    for raw in (b"\xff" * 8, b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\5\0\0\0\0", b"\0\0\0\x0c\0\0\0\0" + b'{"a":["no"]}'):
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(str(where))
        channel.sendall(raw)
        channel.shutdown(socket.SHUT_WR)
        channel.settimeout(20)
        assert b"Traceback" not in channel.recv(4096)
        channel.close()
    with RemoteVault.connect(home, where) as still:
        assert still.checkpoint()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_values_arrive_as_they_were_sent(value):
    ours, theirs = socket.socketpair()
    wire.send(ours, {"value": value}, b"raw")
    assert wire.receive(theirs) == ({"value": value}, b"raw")
    ours.close()
    theirs.close()


def test_our_own_values_arrive_too_and_no_others(people):
    stored = StoredObject("id", "kind", "P-A", 3, "aa", b"salt", 1, "now", {"n": 1})
    ours, theirs = socket.socketpair()
    values = [Event("note", ME, objects=("a",), detail={"x": [1]}), stored, people[0].recipient, ME]
    wire.send(ours, {"values": values})
    assert wire.receive(theirs)[0] == {"values": values}
    assert isinstance(values[2], Recipient)
    with pytest.raises(BadInput):
        wire.send(ours, {"value": people[0]})  # a private key is none of them
    assert isinstance(wire.to_error(wire.of_error(Refused("a", where="b", hint="c"))), Refused)
    bug = wire.to_error(wire.of_error(KeyError("a patient's name")))
    assert not isinstance(bug, ClocheError) and "patient" not in str(bug)
