"""Who has the appliance's keys open: many processes together, or one alone while it changes them.

A process that seals to a recipient who was retired meanwhile, or signs with a key that was replaced, must not be. So
keys are changed only while nobody else has them open. The lock goes with the process, however it ends.
"""

import fcntl
import os
from pathlib import Path

from audit.errors import Refused, storage

LOCK_FILE = "lock"
"""Name inside home/keys."""


class Hold:
    """This process's hold on the keys of a home."""

    def __init__(self, home: Path) -> None:
        """Not holding them yet; see `take`. Raises EnvironmentProblem."""
        self.alone = False
        """Whether no other process has the keys open."""
        path = home / "keys" / LOCK_FILE
        with storage(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, alone: bool) -> bool:
        """Hold the keys, alone or together with others; False, and no hold at all, where others prevent it."""
        self.alone = False
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            return False
        self.alone = alone
        return True

    @staticmethod
    def refusal() -> Refused:
        """What to tell who wants the keys alone and cannot have them."""
        return Refused(
            "another process of Cloche has the appliance open; keys are changed only while nobody uses them",
            hint="wait until it ends, or stop it with Ctrl-C (it goes on later); then type the same command",
        )

    def close(self) -> None:
        """Let go; once is enough."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
