"""The vault: records and all that is made of them, encrypted; opened only by a logged use.

    with Vault.open(home, passphrase) as vault:
        with vault.use([record.image], "HRESCH", actor, "train") as opened:
            picture = opened.read(record.image)

There is no other way to plaintext: the custodian gives a key only for an event that is durable.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from audit import accounts, consent, forgetting, manifest, scrub
from audit.actor import Actor
from audit.catalogue import Catalogue, now
from audit.ceremonies import Ceremonies
from audit.checkpoint import VerifierKey
from audit.custodian import Custodian
from audit.errors import BadInput, Refused
from audit.events import Event
from audit.forgetting import Forgotten, Plan
from audit.guard import Guard
from audit.home import CATALOGUE, check, make
from audit.keys import COST, Cost, Recipient
from audit.objects import ObjectStore, check_id, size_of
from audit.opened import Opened
from audit.rows import NewObject, Note, StoredObject
from audit.sealing import common_suite

if TYPE_CHECKING:
    from audit.witnessed import Imported

__all__ = ["NewObject", "Opened", "Vault"]
Report = Callable[[int, int, str], None]
"""Told how far long work is: how much is done, of how much, of what."""
_BATCH_OBJECTS, _BATCH_BYTES = 512, 256 << 20
"""How much `put_many` writes before it commits."""


class Vault:
    """The data of one appliance, and the log of its use."""

    def __init__(self, home: Path, custodian: Custodian) -> None:
        """See `create` and `open`."""
        self.home = home
        """The appliance's directory."""
        self._custodian = custodian
        self.catalogue = Catalogue(home / CATALOGUE)
        """What the vault holds, in plain."""
        self.guard = Guard(home, self.catalogue, custodian)
        """Holds what is asked for against the policy."""
        self._store = ObjectStore(home / "vault")
        self._store.sweep(self._has_row)

    @classmethod
    def create(
        cls,
        home: Path,
        passphrase: bytes,
        recipients: Sequence[Recipient],
        *,
        cost: Cost = COST,
        actor: Actor | None = None,
    ) -> Self:
        """Make an appliance's home: keys, log, vault. It appears whole or not at all.

        Args:
            home: a directory that does not exist yet, or is empty.
            passphrase: opens the vault and the log's key.
            recipients: who can read the log; two at least.
            cost: what a guess of the passphrase costs.
            actor: who makes it; by default the user of this process, as operator.

        Raises:
            Refused: the home exists, there are fewer than two recipients, or the passphrase is empty.
            EnvironmentProblem: the disk refuses.
        """
        common_suite(recipients)
        home = Path(os.path.abspath(home))

        def fill(made: Path) -> None:
            custodian = Custodian.create(made, passphrase, recipients, cost)
            detail = {"recipients": [recipient.name for recipient in recipients]}
            who = actor or Actor.current("operator")
            custodian.commit([Event("appliance.created", who, activity="init", detail=detail)])
            custodian.close()
            ObjectStore.create(made / "vault")
            Catalogue(made / CATALOGUE).close()

        make(home, fill, now())
        return cls.open(home, passphrase)

    @classmethod
    def open(cls, home: Path, passphrase: bytes, *, alone: bool = False) -> Self:
        """Open an appliance; `alone` keeps other processes out, so that its keys can be changed.

        Raises:
            Refused: there is none, a newer version made it, the passphrase is wrong, or another process has it open
                and this one wants it alone.
            IntegrityFailure: its key file or its log is damaged.
        """
        home = Path(os.path.abspath(home))
        check(home)
        custodian = Custodian.open(home, passphrase, alone)
        try:
            return cls(home, custodian)
        except BaseException:
            custodian.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Forget the keys and release the files."""
        self._custodian.close()
        self.catalogue.close()
        self._store.close()

    # -- in

    def put(
        self,
        kind: str,
        data: bytes | Path,
        *,
        actor: Actor,
        patient: str | None = None,
        parents: Sequence[str] = (),
        note: Note | None = None,
        activity: str = "",
    ) -> str:
        """Encrypt and store one object; return its id once file, event and row are durable. Raises as `put_many`."""
        return self.put_many([NewObject(kind, data, patient, parents, note or {})], actor=actor, activity=activity)[0]

    def put_many(self, items: Iterable[NewObject], *, actor: Actor, activity: str = "") -> list[str]:
        """Encrypt and store objects; return their ids in order.

        They are committed in batches of up to 512 objects or 256 MiB, each batch whole or not at all, its events
        before its rows.

        Raises:
            BadInput: a parent is unknown.
            EnvironmentProblem: the disk refuses; the batch at hand leaves nothing behind.
        """
        ids: list[str] = []
        batch: list[NewObject] = []
        held = 0
        for item in items:
            batch.append(item)
            held += size_of(item.data)
            if len(batch) >= _BATCH_OBJECTS or held >= _BATCH_BYTES:
                ids += self._put_batch(batch, actor, activity)
                batch, held = [], 0
        return ids + (self._put_batch(batch, actor, activity) if batch else [])

    def _put_batch(self, items: Sequence[NewObject], actor: Actor, activity: str) -> list[str]:
        for parent in {parent for item in items for parent in item.parents}:
            self.catalogue.object(parent)
        written: list[StoredObject] = []
        try:
            for item in items:
                written.append(self.seal(item))
            self.keep(written, items, actor, activity)
        except BaseException:
            self.discard([stored.id for stored in written])
            raise
        return [stored.id for stored in written]

    def seal(self, item: NewObject) -> StoredObject:
        """Encrypt one object into a file that no row names yet; `keep` or `discard` it. Raises as `put_many`."""
        blob = self._custodian.new_blob(item.patient or "")
        size, digest = self._store.write(blob.id, blob.key, item.data)
        row = (blob.id, item.kind, item.patient or "", size, digest, blob.salt, blob.version, now(), item.note)
        return StoredObject(*row)

    def keep(self, rows: Sequence[StoredObject], items: Sequence[NewObject], actor: Actor, activity: str) -> None:
        """Make sealed objects durable: their files, then their events, then their rows. Raises as `put_many`."""
        self.guard.permit(actor, activity)
        self._store.flush(stored.id for stored in rows)
        event = Event("object.stored", actor, activity=activity)
        self._custodian.commit(accounts.of_storing(event, rows, items))
        with self.catalogue.transaction():
            for stored, item in zip(rows, items, strict=True):
                self.catalogue.add_object(stored, item.parents)
        for stored in rows:
            self._store.publish(stored.id)

    def discard(self, object_ids: Iterable[str]) -> None:
        """Delete the files of sealed objects that have no row; those that have one are kept."""
        for object_id in object_ids:
            check_id(object_id)
            if not self._has_row(object_id):  # Ctrl-C may come right after the rows were committed
                self._store.remove(object_id)

    # -- out

    @contextmanager
    def use(
        self,
        object_ids: Iterable[str],
        purpose: str,
        actor: Actor,
        activity: str,
        detail: Mapping[str, Any] | None = None,
    ) -> Iterator[Opened]:
        """Open objects for a purpose; their use is durable in the log before the block begins.

        Args:
            object_ids: what to open.
            purpose: ``TREAT``, ``HRESCH`` or ``HOPERAT``.
            actor: who uses them.
            activity: what for, in a few words: ``synth``, ``train``, ``ask`` ...
            detail: further facts for the event, such as the run's id.

        Raises:
            Refused: the purpose is unknown, or the policy does not allow the use; that is an event, too.
            BadInput: the vault holds no such object.
            EnvironmentProblem: the event cannot be committed; nothing is opened.
        """
        # Made before anything else, so that an unknown purpose is refused even where nothing is asked for.
        try:
            event = Event("object.used", actor, purpose, activity=activity, detail=dict(detail or {}))
        except Refused:
            self.guard.refuse_purpose(actor, activity)
            raise
        objects = self._present(object_ids)
        self.guard.permit_use(event, objects)
        keys = self._custodian.release(accounts.of_objects(event, objects), objects)
        opened = Opened(objects, lambda object_id: self._store.chunks(object_id, keys[object_id]))
        try:
            yield opened
        finally:
            opened.close()
            keys.clear()

    def delete(self, object_ids: Iterable[str], *, actor: Actor, activity: str) -> None:
        """Delete objects' files (old training checkpoints, caches); rows and lineage stay. Raises as `use`."""
        self.guard.permit(actor, activity)
        objects = self._present(object_ids)
        event = Event("object.deleted", actor, activity=activity)
        self._custodian.commit(accounts.of_objects(event, objects))
        self.catalogue.mark_deleted(stored.id for stored in objects)
        for stored in objects:
            self._store.remove(stored.id)

    # -- policy, consent, identities

    def policy(self) -> dict[str, Any]:
        """The policy in force, as `Policy.to_dict`. Raises BadInput, Refused: it cannot be read."""
        return self.guard.policy().to_dict()

    def set_policy(self, data: bytes, actor: Actor) -> dict[str, Any]:
        """Put another policy in force, and return it. Raises as `Guard.replace`."""
        return self.guard.replace(data, actor).to_dict()

    def permitted(self, record_ids: Iterable[str], purpose: str) -> tuple[list[str], dict[str, int]]:
        """Which of these records may be used for a purpose, and how many each rule forbids. Raises as `policy`."""
        return self.guard.permitted(list(record_ids), purpose)

    def set_consent(self, record_ids: Iterable[str], actor: Actor, **said: Any) -> int:
        """Enter, change or withdraw consent for records. See `consent.set_consent`."""
        return consent.set_consent(self, list(record_ids), actor, **said)

    def link(self, one: str, other: str, actor: Actor, *, undo: bool = False) -> tuple[str, ...]:
        """Make two identities one person's, or undo that. See `consent.link`."""
        return consent.link(self, one, other, actor, undo=undo)

    def plan_forgetting(self, patient: str, actor: Actor) -> Plan:
        """What forgetting a patient would take away; nothing is changed. Raises as `forgetting.plan`."""
        return forgetting.plan(self, patient, actor)

    def forget(self, patient: str, actor: Actor, *, keep_models: str = "") -> Forgotten:
        """Forget a patient; the vault must be open `alone`. Raises as `forgetting.forget`."""
        return forgetting.forget(self, patient, actor, keep_models=keep_models)

    def backup(self, actor: Actor, to: str) -> Iterator[bytes]:
        """The appliance as a sealed backup, in pieces; `to` names its file in the log. Raises as `backup.make`."""
        from audit.backup import make as make_backup

        return make_backup(self, actor, to)

    def sealed_file(self, object_id: str) -> BinaryIO:
        """An object's file, sealed as it is: for backups. Raises IntegrityFailure where it is gone."""
        return self._store.open(object_id)

    def check(self, actor: Actor, fast: bool = False, report: Report = lambda *_: None) -> scrub.Checked:
        """Check every object against the catalogue: see `scrub.scrub`; one event tells what was found."""
        return scrub.run(self, self.checking(actor, fast), report)

    def checking(self, actor: Actor, fast: bool) -> Iterator[scrub.Step | scrub.Checked]:
        """The steps of `check`; the last one's event is durable before it comes."""
        for step in scrub.scrub(self.catalogue, self._store, self._custodian.key_to_check, fast):
            if isinstance(step, scrub.Checked):
                self.record(scrub.event_of(step, actor))
            yield step

    # -- log and names

    def record(self, event: Event) -> int:
        """Commit any other event; return its sequence. Raises as `Log.append_many`."""
        return self.record_many([event])[0]

    def record_many(self, events: Sequence[Event]) -> list[int]:
        """Commit events together; return their sequences. Raises as `Log.append_many`."""
        return self._custodian.commit(events)

    def import_visit(self, data: bytes, actor: Actor, *, new_witness: bool = False) -> "Imported":
        """Take in a witness's visit; its readings become events of who read. See `witnessed.import_visit`."""
        from audit.witnessed import import_visit

        self.guard.permit(actor, "import")
        return import_visit(self, data, actor, new_witness=new_witness)

    def checkpoint(self) -> bytes:
        """The log's newest checkpoint, a signed note: to be embedded in what leaves the appliance."""
        return self._custodian.checkpoint()

    def attest(self, text: bytes) -> bytes:
        """A statement of ours, signed by the log's key; for what has made sure that it holds."""
        return self._custodian.attest(text)

    def prove_absence(self, patients: Sequence[str], model: str, actor: Actor) -> bytes:
        """The proof that a patient's data is in no manifest behind a model. See `absence.prove`."""
        from audit.absence import prove

        return prove(self, patients, model, actor)

    @property
    def log_key(self) -> VerifierKey:
        """The log's public key."""
        return self._custodian.log_key

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Who can read the log."""
        return self._custodian.recipients

    @property
    def custodian(self) -> Custodian:
        """What holds the keys; for modules that work on a vault in the process that has them."""
        return self._custodian

    @property
    def ceremonies(self) -> Ceremonies:
        """What changes keys; to change them, open the vault `alone`."""
        return cast(Ceremonies, self.guard.ceremonies(self._custodian.ceremonies))

    def pseudonym(self, hospital_number: str) -> str:
        """The appliance's stable name for a patient, ``P-XXXXXXXXXX``. Raises BadInput for an empty number."""
        return self._custodian.pseudonym(hospital_number)

    def fingerprint(self, data: bytes) -> str:
        """Keyed digest of data, hex: finds the same record again without telling anybody what it is."""
        return self.mark("fingerprint", data).hex()

    def patient_mark(self, patient: str) -> bytes:
        """A patient's mark in manifests, 32 bytes; zeros where there is no single patient."""
        return self.mark("manifest", patient.encode()) if patient else b"\x00" * manifest.MARK_BYTES

    def mark(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA256 of data under the appliance's naming key and a label, 32 bytes."""
        return self._custodian.mark(label, data)

    def manifest_leaves(self, object_ids: Iterable[str]) -> list[bytes]:
        """The manifest of a data set of objects, sorted leaves with sentinels; `manifest.root_of` gives its root."""
        objects = [self.catalogue.object(object_id) for object_id in dict.fromkeys(object_ids)]
        return manifest.leaves(manifest.items(objects, self.patient_mark))

    def _present(self, object_ids: Iterable[str]) -> list[StoredObject]:
        found = self.catalogue.objects_named(object_ids)
        for stored in found:
            check_id(stored.id)
            if stored.deleted:
                raise BadInput(f"this object was deleted at {stored.deleted}", where=stored.id)
        return found

    def _has_row(self, object_id: str) -> bool:
        try:
            return not self.catalogue.object(object_id).deleted
        except BadInput:
            return False
