"""The custodian: it alone holds unwrapped keys and writes the log, and it gives no key before the event is durable.

Here it lives in the vault's own process. Its methods take and return plain values, so that a process of its own, under
its own user, can stand behind the same five calls: `commit`, `new_blob`, `release`, `pseudonym`, `mark`.
"""

import base64
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Self

from audit import database, keys
from audit.checkpoint import Signer, VerifierKey
from audit.errors import BadInput, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.keys import COST, Cost, Recipient
from audit.log import Log
from audit.rows import StoredObject

if TYPE_CHECKING:
    from sqlite_utils import Database

BLOB_VERSION = 1
"""Version of an object's format and key derivation."""
KEY_FILE, PIN_FILE, PATIENTS_FILE, RECIPIENTS = "vault.key", "log.pub", "patients.sqlite", "recipients"
"""Names inside home/keys."""
LOG_FILE, MARK_FILE = "log.sqlite", "high-water"
"""Names inside home/audit."""
_KIND = "cloche vault key"
_CONTEXT = b"cloche/vault/v1/keys\x00"
_PATIENT = b"cloche/vault/v1/patient\x00"
_BLOB = b"cloche/vault/v1/blob\x00"


def _first(tables: "Database") -> None:
    """Wrapped keys by patient."""
    tables.table("patients").create({"patient": str, "wrapped": bytes}, pk="patient", not_null=["patient", "wrapped"])


_MIGRATIONS = (_first,)


@dataclass(frozen=True)
class Blob:
    """What it takes to write one new object."""

    id: str
    """The object's id; the custodian chooses it, so that no key of an older object can be asked for this way."""
    salt: bytes
    """32 random bytes."""
    version: int
    """`BLOB_VERSION`."""
    key: bytes
    """32 bytes, for this object alone."""


class Custodian:
    """Keys and log of one appliance."""

    def __init__(self, home: Path, secret: Mapping[str, str], recipients: Sequence[Recipient]) -> None:
        """Take the unwrapped keys into memory and open the log; see `create` and `open`."""
        self._vault_key, self._naming_key = _unb64(secret["vault"]), _unb64(secret["names"])
        signer = Signer.from_bytes(secret["origin"], _unb64(secret["log"]))
        self._patients = database.connect(home / "keys" / PATIENTS_FILE, _MIGRATIONS)
        self._patients_path = home / "keys" / PATIENTS_FILE
        self._unwrapped: dict[str, bytes] = {}
        self.recipients = tuple(recipients)
        """Who can read the log."""
        try:
            self._log = Log(home / "audit" / LOG_FILE, signer, recipients, home / "audit" / MARK_FILE)
        except BaseException:
            self._patients.close()
            raise

    @classmethod
    def create(cls, home: Path, passphrase: bytes, recipients: Sequence[Recipient], cost: Cost = COST) -> Self:
        """Make keys and an empty log in an empty home, and open them. Raises Refused, BadInput, EnvironmentProblem."""
        origin = f"cloche/log/{secrets.token_hex(8)}"
        signer = Signer.generate(origin)
        secret = {
            "vault": _b64(secrets.token_bytes(32)),
            "names": _b64(secrets.token_bytes(32)),
            "log": _b64(signer.to_bytes()),
            "origin": origin,
        }
        # The recipients are sealed in as well: who may read the log is not for a changed file to say.
        bag = json.dumps({**secret, "recipients": [recipient.to_dict() for recipient in recipients]}).encode()
        sealed = {"kind": _KIND, **keys.wrap(bag, passphrase, _CONTEXT, cost)}
        with storage(home):
            for path in (home / "keys", home / "keys" / RECIPIENTS, home / "audit"):
                path.mkdir(mode=0o700)
        Log.create(home / "audit" / LOG_FILE, signer, recipients, home / "audit" / MARK_FILE).close()
        for number, recipient in enumerate(recipients, 1):
            recipient.save(home / "keys" / RECIPIENTS / f"{number}.pub")
        keys.write_new(home / "keys" / PIN_FILE, signer.key.to_text().encode() + b"\n", mode=0o644)
        keys.write_new(home / "keys" / KEY_FILE, json.dumps(sealed, indent=2).encode() + b"\n", mode=0o600)
        return cls(home, secret, recipients)

    @classmethod
    def open(cls, home: Path, passphrase: bytes) -> Self:
        """Open the keys with the passphrase, and the log.

        Raises:
            Refused: the passphrase is wrong.
            IntegrityFailure: the key file or the log is damaged, or the log was cut short.
        """
        path = home / "keys" / KEY_FILE
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise IntegrityFailure(
                "the appliance's key file cannot be read", where=str(path), hint="restore it from a backup"
            ) from error
        bag = json.loads(keys.unwrap(found, passphrase, _CONTEXT, str(path)))
        recipients = [Recipient.from_dict(one, str(path)) for one in bag["recipients"]]
        return cls(home, bag, recipients)

    def close(self) -> None:
        """Forget the keys, as far as Python can, and release log and database."""
        self._unwrapped.clear()
        self._vault_key = self._naming_key = b""
        self._patients.close()
        self._log.close()

    @property
    def log_key(self) -> VerifierKey:
        """The log's public key."""
        return self._log.key

    def checkpoint(self) -> bytes:
        """The newest checkpoint of the log, a signed note."""
        return self._log.checkpoint()

    def commit(self, events: Sequence[Event]) -> list[int]:
        """Commit events together; their sequences, once durable. Raises as `Log.append_many`."""
        return self._log.append_many(events)

    def new_blob(self, patient: str) -> Blob:
        """Id, salt and key of a new object of a patient (empty: of no single one)."""
        made = StoredObject(
            id=base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower(),
            kind="",
            patient=patient,
            size=0,
            digest="",
            salt=secrets.token_bytes(32),
            version=BLOB_VERSION,
            created="",
        )
        return Blob(made.id, made.salt, made.version, self._blob_key(made, make=True))

    def release(self, events: Sequence[Event], objects: Sequence[StoredObject]) -> dict[str, bytes]:
        """Commit the events of a use, then give out the keys of the objects that they name.

        Raises:
            Refused: an object is not named by the events: nothing is committed, nothing given.
            IntegrityFailure: an object's patient has no key.
            EnvironmentProblem: the events cannot be committed; no key is given.
        """
        named = {object_id for event in events for object_id in event.objects}
        for stored in objects:
            if stored.id not in named:
                raise Refused("an object is not named by the event that would open it", where=stored.id)
        self.commit(events)
        return {stored.id: self._blob_key(stored, make=False) for stored in objects}

    def pseudonym(self, hospital_number: str) -> str:
        """The appliance's name for a patient: ``P-`` and 10 letters and digits. Raises BadInput for an empty one."""
        number = hospital_number.strip()
        if not number:
            raise BadInput("the patient's number is empty")
        return "P-" + base64.b32encode(self.mark("pseudonym", number.encode()))[:10].decode()

    def mark(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA256 of data under the appliance's naming key and a label, 32 bytes."""
        return hmac.new(self._naming_key, label.encode() + b"\x00" + data, sha256).digest()

    def _blob_key(self, stored: StoredObject, make: bool) -> bytes:
        """HKDF(patient key, salt, format | id | version), 32 bytes. Source: RFC 5869."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = _BLOB + stored.id.encode() + stored.version.to_bytes(4, "big")
        return HKDF(SHA256(), 32, salt=stored.salt, info=info).derive(self._patient_key(stored.patient, make))

    def _patient_key(self, patient: str, make: bool) -> bytes:
        """A patient's key, 32 bytes; made and stored, durably, before anything is sealed under it."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if patient in self._unwrapped:
            return self._unwrapped[patient]
        context, cipher = _PATIENT + patient.encode(), AESGCM(self._vault_key)
        if make:
            nonce = secrets.token_bytes(12)
            fresh = nonce + cipher.encrypt(nonce, secrets.token_bytes(32), context)
            with storage(self._patients_path):
                # Another process may have been first: whichever row stands is the key.
                self._patients.execute("INSERT OR IGNORE INTO patients VALUES (?, ?)", (patient, fresh))
        with storage(self._patients_path):
            row = self._patients.execute("SELECT wrapped FROM patients WHERE patient = ?", (patient,)).fetchone()
        try:
            wrapped = bytes(row["wrapped"])
            key = cipher.decrypt(wrapped[:12], wrapped[12:], context)
        except (TypeError, ValueError, InvalidTag) as error:
            raise IntegrityFailure(
                "a patient's key is gone or was changed",
                where=str(self._patients_path),
                hint="restore the last backup beside it",
            ) from error
        self._unwrapped[patient] = key
        return key


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
