"""Run a ceremony on copies of a home, and kill each at another line: `python killed.py HOME OUT CEREMONY FILE.pub`.

Each copy `OUT/n` is what a SIGKILL before the n-th line has left; `OUT/done` was not killed. A process
of its own, as it forks: nothing of a test runs in the children.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import audit
from audit.actor import Actor
from audit.custodian import Custodian
from audit.keys import Cost, Recipient
from audit.restart import restart
from audit.vault import Vault

WATCHED = (
    "erasing",
    "objects",
    "catalogue",
    "bag",
    "ceremonies",
    "files",
    "settle",
    "restart",
    "highwater",
    "log",
    "store",
)
"""Modules of audit/ in which a line may be the last ..."""
WRITERS = {
    *("replace_file", "write", "change_passphrase", "settle", "publish"),
    *("restart", "_make", "_move", "_put_away", "_settle_or_take_back"),
    *("erase", "rewrap", "_closed", "_mark", "_list", "_unlink", "remove", "mark_deleted", "wipe_and_close"),
    *("_change", "change_recipients", "rotate", "create", "raise_to", "_append", "_commit", "_insert"),
}
"""... and the functions in them that change what is on the disk: what others do in between leaves no trace there."""
FILES = {str(Path(audit.__file__).with_name(f"{name}.py")) for name in WATCHED}
ACTOR = Actor("child", "officer")
PASSPHRASE, NEW_PASSPHRASE = b"correct horse", b"battery staple"
COST = Cost(memory_kib=64, iterations=1, lanes=1)


def ceremony(name: str, home: Path, newcomer: Path) -> Callable[[], object]:
    """What is to be killed, once all is prepared that is not part of it."""
    if name in ("stolen", "restored"):
        return lambda: restart(home, PASSPHRASE, name, ACTOR)
    if name == "open":
        return lambda: Custodian.open(home, PASSPHRASE).close()
    if name == "forget":
        vault = Vault.open(home, PASSPHRASE, alone=True)
        patient = next(one.patient for one in vault.catalogue.objects() if one.patient)
        return lambda: vault.forget(patient, Actor.current("steward"))
    ceremonies = Custodian.open(home, PASSPHRASE, alone=True).ceremonies
    return {
        "add": lambda: ceremonies.add_recipient(Recipient.load(newcomer).to_dict(), ACTOR),
        "retire": lambda: ceremonies.retire_recipient("stranger", ACTOR),
        "rotate": lambda: ceremonies.rotate_key(ACTOR),
        "passphrase": lambda: ceremonies.change_passphrase(NEW_PASSPHRASE, ACTOR, COST),
    }[name]


def run(body: Callable[[], object], last: int) -> None:
    """Run `body`; die before its `last`-th line."""
    count = 0

    def on_line(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    sys.settrace(lambda frame, _, __: on_line if _watched(frame) else None)
    body()
    sys.settrace(None)


def _watched(frame: FrameType) -> bool:
    return frame.f_code.co_name in WRITERS and frame.f_code.co_filename in FILES


def main(home: Path, out: Path, name: str, newcomer: Path) -> None:
    shutil.copytree(home, out / "done")
    ceremony(name, out / "done", newcomer)()  # it also brings in what is imported late, once for all children
    for line in range(1, 5000):
        copy = out / str(line)
        shutil.copytree(home, copy)
        child = os.fork()
        if child == 0:
            run(ceremony(name, copy, newcomer), line)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            shutil.rmtree(copy)
            raise SystemExit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
