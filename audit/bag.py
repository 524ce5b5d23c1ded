"""The bag: the appliance's secrets, in one file under the passphrase, and what is being changed about them.

It holds the vault key, the naming key, the log's private key, and the list of recipients that counts: who may read the
log is not for a changed file to say. It is replaced whole, so that a crash leaves the old bag or the new one. A change
that needs the log as well stands in it as an *intent* first; `settle` finishes it, or takes it back.
"""

import base64
import hmac
import json
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from audit import keys
from audit.checkpoint import Signer
from audit.erasures import Forgetting
from audit.errors import IntegrityFailure
from audit.files import replace_file
from audit.keys import COST, Cost, Recipient, Wrapping

KEY_FILE = "vault.key"
"""Name inside home/keys."""
RECIPIENTS, LOG_KEY, ORIGIN, FORGET = "recipients", "log key", "origin", "forget"
"""What an intent is about."""
_KIND = "cloche vault key"
_CONTEXT = b"cloche/vault/v1/keys\x00"


@dataclass(frozen=True)
class Intent:
    """A change of keys that was begun."""

    about: str
    """``recipients``, ``log key``, ``origin`` or ``forget``."""
    size: int = 0
    """Entries of the log before it; the event of a change of recipients, or of a forgetting, stands after them."""
    recipients: tuple[Recipient, ...] = ()
    """The new list, where it is about recipients."""
    log_key: bytes = b""
    """The new private key, where it is about the log's key."""
    kept_as: str = ""
    """Under which name the old log is kept, where it is about a new origin; that one is decided already."""
    forgetting: Forgetting | None = None
    """What is to go, where a patient is forgotten."""

    def __repr__(self) -> str:  # a private key must not reach a traceback or a log
        return f"Intent({self.about})"


@dataclass(frozen=True)
class Bag:
    """The appliance's secrets."""

    vault_key: bytes
    """Wraps the patients' keys, 32 bytes."""
    naming_key: bytes
    """Makes pseudonyms and marks, 32 bytes."""
    log_key: bytes
    """The log's Ed25519 private key, 32 bytes."""
    origin: str
    """Name of the log."""
    recipients: tuple[Recipient, ...]
    """Who can read the log."""
    intent: Intent | None = None
    """A change that was begun and not finished; None nearly always."""

    def __repr__(self) -> str:
        return f"Bag({self.origin})"

    def signer(self) -> Signer:
        """The log's key."""
        return Signer.from_bytes(self.origin, self.log_key)

    def mark(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA256 of data under the naming key and a label, 32 bytes."""
        return hmac.new(self.naming_key, label.encode() + b"\x00" + data, sha256).digest()

    def heir(self) -> Signer | None:
        """The key that the log was about to be handed over to, if it was."""
        handing = self.intent is not None and self.intent.about == LOG_KEY
        return Signer.from_bytes(self.origin, self.intent.log_key) if self.intent and handing else None

    def encode(self) -> bytes:
        """The bag as JSON, to be sealed at once."""
        found: dict[str, Any] = {
            "vault": _b64(self.vault_key),
            "names": _b64(self.naming_key),
            "log": _b64(self.log_key),
            "origin": self.origin,
            "recipients": [recipient.to_dict() for recipient in self.recipients],
        }
        if self.intent is not None:
            found["intent"] = {
                "about": self.intent.about,
                "size": self.intent.size,
                "recipients": [recipient.to_dict() for recipient in self.intent.recipients],
                "log": _b64(self.intent.log_key),
                "kept_as": self.intent.kept_as,
                "forgetting": self.intent.forgetting.to_dict() if self.intent.forgetting else None,
            }
        return json.dumps(found).encode()

    @classmethod
    def decode(cls, data: bytes, where: str) -> Self:
        """The bag of `encode`."""
        found = json.loads(data)
        begun, intent = found.get("intent"), None
        if begun is not None:
            people = tuple(Recipient.from_dict(one, where) for one in begun["recipients"])
            going = begun.get("forgetting")
            forgetting = Forgetting.from_dict(going) if going else None
            intent = Intent(begun["about"], begun["size"], people, _unb64(begun["log"]), begun["kept_as"], forgetting)
        return cls(
            _unb64(found["vault"]),
            _unb64(found["names"]),
            _unb64(found["log"]),
            found["origin"],
            tuple(Recipient.from_dict(one, where) for one in found["recipients"]),
            intent,
        )


class BagFile:
    """The bag, and the file that it lies in."""

    def __init__(self, path: Path, bag: Bag, wrapping: Wrapping) -> None:
        """See `create` and `open`."""
        self.path, self._wrapping = path, wrapping
        self.bag = bag
        """What is in the file."""

    @classmethod
    def create(cls, home: Path, bag: Bag, passphrase: bytes, cost: Cost = COST) -> Self:
        """Seal a bag into a new file. Raises Refused for an empty passphrase, EnvironmentProblem."""
        made = cls(home / "keys" / KEY_FILE, bag, Wrapping(passphrase, cost))
        keys.write_new(made.path, made._sealed(bag, made._wrapping), mode=0o600)
        return made

    @classmethod
    def open(cls, home: Path, passphrase: bytes) -> Self:
        """Open the bag. Raises Refused for a wrong passphrase, IntegrityFailure or BadInput for a damaged file."""
        path = home / "keys" / KEY_FILE
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise IntegrityFailure(
                "the appliance's key file cannot be read", where=str(path), hint="restore it from a backup"
            ) from error
        secret, wrapping = Wrapping.open(found, passphrase, _CONTEXT, str(path))
        return cls(path, Bag.decode(secret, str(path)), wrapping)

    def write(self, bag: Bag, *, wipe: bool = False) -> None:
        """Put another bag in the place of this one, whole and durable; `wipe` overwrites the old one's file, too.

        Raises:
            EnvironmentProblem: the disk refuses.
        """
        replace_file(self.path, self._sealed(bag, self._wrapping), mode=0o600, wipe=wipe)
        self.bag = bag

    def change_passphrase(self, new: bytes, cost: Cost) -> None:
        """Seal the bag under another passphrase. Raises Refused for an empty one, EnvironmentProblem."""
        wrapping = Wrapping(new, cost)
        replace_file(self.path, self._sealed(self.bag, wrapping), mode=0o600)
        self._wrapping = wrapping

    def forget(self) -> None:
        """Drop the secrets, as far as Python can."""
        self.bag = replace(self.bag, vault_key=b"", naming_key=b"", log_key=b"", intent=None)

    @staticmethod
    def _sealed(bag: Bag, wrapping: Wrapping) -> bytes:
        sealed = {"kind": _KIND, **wrapping.seal(bag.encode(), _CONTEXT)}
        return json.dumps(sealed, indent=2).encode() + b"\n"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
