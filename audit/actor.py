"""Who acts: the person of an event."""

import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """A person, or a service, in the role in which it acts."""

    user: str
    """Name of the account, as the operating system knows it."""
    role: str
    """``steward``, ``clinician``, ``officer``, ``operator`` or ``service``."""

    @classmethod
    def current(cls, role: str) -> "Actor":
        """The person who runs this process: the real user of the operating system, not an environment variable."""
        uid = os.getuid()
        try:
            return cls(pwd.getpwuid(uid).pw_name, role)
        except KeyError:  # an account without a name, as in some containers
            return cls(f"uid {uid}", role)
