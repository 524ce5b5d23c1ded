"""Who acts: the person of an event."""

import os
import pwd
from dataclasses import dataclass

from audit.bounds import line
from audit.errors import BadInput


@dataclass(frozen=True)
class Actor:
    """A person, or a service, in the role in which it acts."""

    user: str
    """Name of the account, as the operating system knows it."""
    role: str
    """``steward``, ``clinician``, ``officer``, ``operator`` or ``service``."""
    uid: int | None = None
    """Number of the account, where the operating system gave one: names are given to others in time."""
    hospital_id: str = ""
    """The person's number in the hospital's own directory, where it is known."""

    def __post_init__(self) -> None:
        line("user", self.user, 128, empty=False)
        line("role", self.role, 64, empty=False)
        line("hospital_id", self.hospital_id, 128)
        if self.uid is not None and (type(self.uid) is not int or not 0 <= self.uid < 1 << 32):
            raise BadInput("an actor's uid is no number of an account", where="uid")

    @classmethod
    def current(cls, role: str, hospital_id: str = "") -> "Actor":
        """The person who runs this process: the real user of the operating system, not an environment variable."""
        uid = os.getuid()
        return cls(name_of(uid), role, uid, hospital_id)


def name_of(uid: int) -> str:
    """Name of an account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # an account without a name, as in some containers
        return f"uid {uid}"
