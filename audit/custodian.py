"""The custodian: it alone holds unwrapped keys and writes the log, and it gives no key before the event is durable.

Here it lives in the vault's own process. Its methods take and return plain values, so that a process of its own, under
its own user, can stand behind the same calls: `commit`, `new_blob`, `release`, `pseudonym`, `mark`, and those of
`ceremonies`, which change keys and need them to themselves (`open(..., alone=True)`).
"""

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from audit import database
from audit.bag import Bag, BagFile
from audit.ceremonies import Ceremonies
from audit.checkpoint import Signer, VerifierKey
from audit.erasures import FILE as ERASURES
from audit.erasures import MARK, Erasure, Erasures, Forgetting
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.files import replace_file
from audit.hold import Hold
from audit.home import HIGH_WATER, LOG
from audit.keys import COST, Cost, Recipient
from audit.log import Log
from audit.patientkeys import MIGRATIONS, PATIENTS_FILE, key_name, open_key, seal_key
from audit.rotation import new_origin
from audit.rows import StoredObject
from audit.sealing import check_recipients
from audit.settle import RECIPIENT_FILES, publish, settle, sweep
from audit.store import BUSY_S

BLOB_VERSION = 2
"""Version of an object's format and key derivation: with 2, a shared object has a key of its own."""
_BLOB = b"cloche/vault/v1/blob\x00"


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

    def __init__(self, home: Path, file: BagFile, hold: Hold) -> None:
        """Take the unwrapped keys into memory and open the log; see `create` and `open`."""
        self._file, self._hold = file, hold
        self._home, self._patients_path = home, home / "keys" / PATIENTS_FILE
        self._patients = database.connect(self._patients_path, MIGRATIONS)
        self._unwrapped: dict[str, bytes] = {}
        try:
            self._log = Log(home / LOG, file.bag.signer(), file.bag.recipients, home / HIGH_WATER)
        except BaseException:
            self._patients.close()
            raise
        self.ceremonies = Ceremonies(home, file, hold, self._log, self.close)
        """What changes keys, and proves that people have theirs."""

    @classmethod
    def create(cls, home: Path, passphrase: bytes, recipients: Sequence[Recipient], cost: Cost = COST) -> Self:
        """Make keys and an empty log in an empty home, and open them. Raises Refused, BadInput, EnvironmentProblem."""
        check_recipients(recipients)
        origin = new_origin()
        signer = Signer.generate(origin)
        fresh = secrets.token_bytes(32), secrets.token_bytes(32)
        with storage(home):
            for path in (home / "keys", home / RECIPIENT_FILES, home / "audit"):
                path.mkdir(mode=0o700)
        Log.create(home / LOG, signer, recipients, home / HIGH_WATER).close()
        file = BagFile.create(home, Bag(*fresh, signer.to_bytes(), origin, tuple(recipients)), passphrase, cost)
        publish(home, file.bag)
        return cls._with(home, file, Hold(home))

    @classmethod
    def open(cls, home: Path, passphrase: bytes, alone: bool = False) -> Self:
        """Open the keys with the passphrase, and the log; finish what a killed process has begun about the keys.

        Args:
            home: the appliance.
            passphrase: its passphrase.
            alone: keep others out; needed to change keys.

        Raises:
            Refused: the passphrase is wrong, or it is to be alone and another process has the appliance open.
            IntegrityFailure: the key file or the log is damaged, or the log was cut short.
        """
        hold, until = Hold(home), time.monotonic() + BUSY_S
        try:
            while True:
                if hold.take(alone):
                    file = BagFile.open(home, passphrase)
                    if alone:
                        sweep(home)
                    if file.bag.intent is None:
                        return cls._with(home, file, hold)
                    if hold.take(alone=True):
                        settle(home, file)
                        continue  # held together again, and read again: another may have been quicker
                elif alone:
                    raise Hold.refusal()
                if time.monotonic() > until:
                    raise EnvironmentProblem(
                        "another process keeps the appliance's keys to itself",
                        where=str(home),
                        hint="wait until it ends, then type the same command",
                    )
                time.sleep(0.05)
        except BaseException:
            hold.close()
            raise

    @classmethod
    def _with(cls, home: Path, file: BagFile, hold: Hold) -> Self:
        try:
            return cls(home, file, hold)
        except BaseException:
            hold.close()
            raise

    def close(self) -> None:
        """Forget the keys, as far as Python can, and release log and database."""
        self._unwrapped.clear()
        self._file.forget()
        self._patients.close()
        self._log.close()
        self._hold.close()

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Who can read the log."""
        return self._file.bag.recipients

    @property
    def log_key(self) -> VerifierKey:
        """The log's public key."""
        return self._log.key

    def checkpoint(self) -> bytes:
        """The newest checkpoint of the log, a signed note."""
        return self._log.checkpoint()

    def attest(self, text: bytes) -> bytes:
        """The signed note of a statement of ours, by the log's key. Raises Refused for any other text."""
        if not text.startswith(b"cloche/absence/v1\n"):  # never a checkpoint's, a rotation's or a visit's
            raise Refused("the log's key signs no such statement")
        return self._file.bag.signer().sign_text(text)

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

    def key_to_check(self, stored: StoredObject) -> bytes:
        """Key of one object for a scrub in this process, which drops the plaintext and is an event of its own.

        Raises:
            IntegrityFailure: its patient has no key, or it was changed.
        """
        return self._blob_key(stored, make=False)

    def pseudonym(self, hospital_number: str) -> str:
        """The appliance's name for a patient: ``P-`` and 10 letters and digits. Raises BadInput for an empty one."""
        number = hospital_number.strip()
        if not number:
            raise BadInput("the patient's number is empty")
        try:
            known = number.encode()
        except UnicodeEncodeError as error:
            raise BadInput("the patient's number is no text") from error
        return "P-" + base64.b32encode(self.mark("pseudonym", known))[:10].decode()

    def mark(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA256 of data under the appliance's naming key and a label, 32 bytes."""
        return self._file.bag.mark(label, data)

    def _blob_key(self, stored: StoredObject, make: bool) -> bytes:
        """HKDF(patient key, salt, format | id | version), 32 bytes. Source: RFC 5869."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = _BLOB + stored.id.encode() + stored.version.to_bytes(4, "big")
        name = key_name(stored.patient, stored.id, stored.version)
        return HKDF(SHA256(), 32, salt=stored.salt, info=info).derive(self._patient_key(name, make))

    def _patient_key(self, name: str, make: bool) -> bytes:
        """A key of `patientkeys`, 32 bytes; made and stored, durably, before anything is sealed under it."""
        if name in self._unwrapped:
            return self._unwrapped[name]
        row = self._wrapped(name)
        if row is None and make:
            self._refuse_forgotten(name)
            fresh = seal_key(self._file.bag.vault_key, name, secrets.token_bytes(32))
            with storage(self._patients_path):
                # Another process may have been first: whichever row stands is the key.
                self._patients.execute("INSERT OR IGNORE INTO patients VALUES (?, ?)", (name, fresh))
            row = self._wrapped(name)
        key = None if row is None else open_key(self._file.bag.vault_key, name, row)
        if key is None:
            raise IntegrityFailure(
                "a patient's key is gone or was changed",
                where=str(self._patients_path),
                hint="restore the last backup beside it",
            )
        self._unwrapped[name] = key
        return key

    def _wrapped(self, name: str) -> bytes | None:
        with storage(self._patients_path):
            row = self._patients.execute("SELECT wrapped FROM patients WHERE patient = ?", (name,)).fetchone()
        return None if row is None else bytes(row["wrapped"])

    def _refuse_forgotten(self, name: str) -> None:
        """A forgotten patient gets no new key: what came in would be gone with the next restore."""
        erased = Erasures.load(self._home).of(self.mark(MARK, name.encode()))
        if erased is not None:
            raise Refused(
                f"this patient was forgotten at {erased.at}: nothing of theirs is taken in again",
                where=name,
                hint="leave the patient's lines out of the source",
            )

    def keep_erasures(self, erasures: tuple[Erasure, ...]) -> None:
        """Put a list that a restore has joined in the place of the one there is, signed. Raises EnvironmentProblem."""
        made = Erasures(erasures, self._log.checkpoint(), self._log.key)
        replace_file(self._home / ERASURES, made.sign(self._file.bag.signer()), mode=0o640)

    @staticmethod
    def new_vault_key() -> bytes:
        """A fresh key to wrap the others by, 32 bytes."""
        return secrets.token_bytes(32)

    def forget(self, wanted: Forgetting, events: Sequence[Event]) -> int:
        """Commit the events of a forgetting, destroy its keys and objects; the first event's sequence.

        Raises:
            Refused: the keys are not held alone.
            EnvironmentProblem: the disk refuses; who opens the appliance next finishes it, or takes it back.
        """
        self.ceremonies.require_alone()
        self._unwrapped.clear()
        self._patients.close()  # its file is replaced; a failure closes everything
        sequence = self.ceremonies.forget(wanted, events)
        self._patients = database.connect(self._patients_path, MIGRATIONS)
        return sequence
