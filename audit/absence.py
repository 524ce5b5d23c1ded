"""Proof that a model was never served a patient's data: every manifest in its ancestry, whole, without the patient.

The appliance makes it, as the patient's mark needs its naming key; anyone checks it with the log's public key alone.
docs/audit-format.md gives the file to the byte. It speaks of what Cloche served under one identifier, and of nothing
that the base weights may have seen elsewhere.
"""

import base64
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from audit import manifest, store
from audit.actor import Actor
from audit.ancestry import Ancestry, ancestry
from audit.checkpoint import Checkpoint, VerifierKey, open_text
from audit.datasets import LEAVES
from audit.entry import EVENT, Header
from audit.errors import BadInput, IntegrityFailure, Refused, storage
from audit.home import LOG
from audit.merkle import leaf_hash, verify_inclusion
from audit.proofs import Tree
from audit.rotation import KeyChain

if TYPE_CHECKING:
    from audit.vault import Vault

FORMAT = "cloche/absence/v1"
"""First line of a statement, and the file's own name for itself."""
MOST_BYTES = 1 << 30
"""Bytes of a proof file at most."""
_HEX = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True)
class Gap:
    """Where a patient's mark would stand in a manifest, and does not."""

    root: str
    """The manifest, hex."""
    entry: int
    """Entry of the log that froze it."""
    leaves: int
    """Its leaves, sentinels included."""
    patient: str
    """Pseudonym whose mark is not there."""
    mark: str
    """The mark, hex."""
    place: int
    """Place of the neighbour before."""
    before: str
    """Mark of that neighbour, hex; zeros for the first sentinel, or a member that belongs to no single patient."""
    after: str
    """Mark of the neighbour after, hex."""


@dataclass(frozen=True)
class Absence:
    """What a proof says, once it is verified."""

    origin: str
    """The log."""
    size: int
    """Entries of the log when it was made."""
    model: str
    """The model's id."""
    digest: str
    """SHA-256 of its main file (the GGUF), hex; empty where the catalogue does not know it."""
    gaps: tuple[Gap, ...]
    """One for each manifest and identity."""

    @property
    def patients(self) -> tuple[str, ...]:
        """Pseudonyms: one, or all of a linked identity."""
        return tuple(dict.fromkeys(gap.patient for gap in self.gaps))

    @property
    def roots(self) -> tuple[str, ...]:
        """The manifests."""
        return tuple(dict.fromkeys(gap.root for gap in self.gaps))


# -- on the box


def prove(vault: "Vault", patients: Sequence[str], model: str, actor: Actor) -> bytes:
    """The proof file that none of a patient's identities is in any manifest behind a model.

    It runs where the keys are: it alone has the log's key sign such a statement, once it holds.

    Args:
        vault: the engine.
        patients: pseudonyms of one patient; those that are linked with them are added.
        model: as `ancestry` takes it.
        actor: who asks; that the leaf lists were opened is an event.

    Raises:
        BadInput: there is no such model, or it learned from nothing here.
        Refused: the patient is in its ancestry, or a manifest's leaf list is not kept.
        IntegrityFailure: a leaf list does not give its root, or the catalogue contradicts the manifests.
    """
    found = ancestry(vault.catalogue, model)
    names = sorted({name for patient in patients for name in (patient, *vault.catalogue.identities(patient))})
    marks = {patient: vault.patient_mark(patient) for patient in names}
    if not marks or not all(map(_NAME.fullmatch, marks)):
        raise BadInput("a patient is named by the pseudonym", hint="cloche records lists them; - asks for the number")
    lists = _leaf_lists(vault, found, actor, sorted(marks))
    held = {root for root, (_, whole) in lists.items() for mark in marks.values() if manifest.present(whole, mark)}
    if held:
        names = sorted({name for root in held for name in found.roots[root]})
        raise Refused(
            f"there is no proof of absence: the patient's data is in {len(held)} of {len(lists)} manifests behind it",
            where=", ".join(names),
            hint=f"cloche audit trace {found.model.id}",
        )
    own = {one.id for patient in marks for one in vault.catalogue.objects(patient=patient)}
    if own & found.objects:
        raise IntegrityFailure(
            "the catalogue says that the model was made from the patient's data, and the manifests do not",
            where=found.model.id,
            hint="cloche audit verify",
        )
    return _write(vault, found, marks, lists)


def _leaf_lists(
    vault: "Vault", found: Ancestry, actor: Actor, patients: Sequence[str]
) -> dict[str, tuple[int, list[bytes]]]:
    """Entry and leaf list of each manifest behind a model, checked."""
    if not found.roots:
        raise BadInput("this model learned from no data set of this appliance", where=found.model.id)
    kept = {str(one.note.get("root")): one for one in vault.catalogue.objects(LEAVES)}
    missing = [root for root in found.roots if root not in kept or "entry" not in kept[root].note]
    if missing:
        raise Refused(
            f"{len(missing)} of {len(found.roots)} manifests behind the model are not kept: nothing can be proved",
            where=missing[0][:16],
            hint="train it again",
        )
    wanted = {root: kept[root] for root in found.roots}
    detail = {"model": found.model.id, "about": list(patients)}
    lists = {}
    with vault.use([one.id for one in wanted.values()], "HOPERAT", actor, "absent", detail) as opened:
        for root, one in wanted.items():
            whole = manifest.from_bytes(opened.read(one.id))
            if manifest.root_of(whole).hex() != root:
                raise IntegrityFailure(
                    "a leaf list does not give its root", where=root[:16], hint="cloche audit verify"
                )
            lists[root] = int(one.note["entry"]), whole
    return lists


def _write(
    vault: "Vault", found: Ancestry, marks: Mapping[str, bytes], lists: Mapping[str, tuple[int, list[bytes]]]
) -> bytes:
    note = vault.checkpoint()
    at = Checkpoint.from_body(note.partition(b"\n\n")[0])
    lines = [
        FORMAT,
        *at.body().decode().splitlines(),
        f"model {found.model.id}",
        f"digest {found.model.note.get('sha256') or '-'}",
        *(f"patient {patient} {mark.hex()}" for patient, mark in marks.items()),
        *(f"manifest {root} {entry} {len(whole)}" for root, (entry, whole) in lists.items()),
    ]
    held = []
    with storage(vault.home / LOG):
        connection = store.reader(vault.home / LOG)
        try:
            tree = Tree(connection)
            for root, (entry, whole) in lists.items():
                query = "SELECT header, body FROM entries WHERE sequence = ?"
                header, body = connection.execute(query, (entry,)).fetchone()
                held.append(
                    {
                        "root": root,
                        "header": header.hex(),
                        "body": sha256(body).hexdigest(),
                        "path": [one.hex() for one in tree.inclusion(entry, at.size)],
                        "leaves": base64.b64encode(manifest.to_bytes(whole)).decode(),
                    }
                )
            rotations = [row[0].decode() for row in connection.execute("SELECT note FROM rotations ORDER BY size")]
        finally:
            connection.close()
    file = {
        "format": FORMAT,
        "statement": vault.attest("".join(f"{line}\n" for line in lines).encode()).decode(),
        "checkpoint": note.decode(),
        "rotations": rotations,
        "manifests": held,
    }
    return json.dumps(file, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


# -- anywhere


def verify(data: bytes, pin: VerifierKey) -> Absence:
    """Check a proof file with the log's public key.

    Raises:
        BadInput: this is no such file.
        IntegrityFailure: it is not signed by the log, or does not show what it says.
    """
    try:
        file: Mapping[str, Any] = json.loads(data)
        if file["format"] != FORMAT:
            raise ValueError("format")
        statement, note = file["statement"].encode(), file["checkpoint"].encode()
        rotations, held = [one.encode() for one in file["rotations"]], list(file["manifests"])
        by_root = {str(one["root"]): one for one in held}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            "this is no proof of absence", hint="cloche audit absent PATIENT --model M --out PROOF"
        ) from error
    chain = KeyChain.of(pin, rotations)
    at = chain.open(note)
    text = open_text(statement, chain.at(at.size), most_bytes=len(statement))
    model, digest, marks, manifests = _parse(text, at)
    if len(by_root) != len(held) or by_root.keys() != manifests.keys():
        raise IntegrityFailure("the manifests in the file are not those of the statement")
    gaps: list[Gap] = []
    for root, (entry, count) in manifests.items():
        whole = _checked(by_root[root], root, entry, count, at)
        gaps += (_gap(root, entry, whole, patient, mark) for patient, mark in marks.items())
    return Absence(at.origin, at.size, model, digest, tuple(gaps))


def _parse(text: bytes, at: Checkpoint) -> tuple[str, str, dict[str, bytes], dict[str, tuple[int, int]]]:
    """Model, digest, marks by pseudonym, and (entry, leaves) by root, of a statement. Raises IntegrityFailure."""
    try:
        head, origin, size, root, *lines = text.decode().removesuffix("\n").split("\n")
        fits = head == FORMAT and f"{origin}\n{size}\n{root}\n".encode() == at.body()
        (what, model), (which, digest) = lines[0].split(" "), lines[1].split(" ")
        fits = fits and (what, which) == ("model", "digest") and bool(_NAME.fullmatch(model))
        fits = fits and (digest == "-" or bool(_HEX.fullmatch(digest)))
        marks: dict[str, bytes] = {}
        manifests: dict[str, tuple[int, int]] = {}
        for line in lines[2:]:
            kind, name, *rest = line.split(" ")
            if kind == "patient" and not manifests and name > max(marks, default="") and _HEX.fullmatch(" ".join(rest)):
                marks[name] = bytes.fromhex(rest[0])
            elif kind == "manifest" and name > max(manifests, default="") and _HEX.fullmatch(name):
                entry, count = (int(one) for one in rest if _NUMBER.fullmatch(one))
                manifests[name] = entry, count
            else:
                raise ValueError("line")
        if not (fits and marks and manifests):
            raise ValueError("statement")
    except (ValueError, IndexError, TypeError) as error:
        raise IntegrityFailure("the signed statement is not one of absence, or not of this checkpoint") from error
    return model, "" if digest == "-" else digest, marks, manifests


def _checked(held: Mapping[str, Any], root: str, entry: int, count: int, at: Checkpoint) -> list[bytes]:
    """The leaf list of one manifest: whole, in order, under its root, frozen by an entry of the log."""
    try:
        data, packed = base64.b64decode(held["leaves"], validate=True), bytes.fromhex(held["header"])
        body, path = bytes.fromhex(held["body"]), [bytes.fromhex(one) for one in held["path"]]
        whole, header = manifest.from_bytes(data), Header.from_bytes(packed)
    except (ValueError, KeyError, TypeError, BadInput, IntegrityFailure) as error:
        raise IntegrityFailure(
            "a manifest's leaves or its entry are damaged or out of order", where=root[:16]
        ) from error
    if len(whole) != count or manifest.root_of(whole).hex() != root:
        raise IntegrityFailure("a manifest's leaves do not give its root", where=root[:16])
    stands = header.class_ == EVENT and header.sequence == entry < at.size and len(body) == 32
    stands = stands and header.origin == sha256(at.origin.encode()).digest()
    if not stands or not verify_inclusion(leaf_hash(packed + body), entry, at.size, path, at.root):
        raise IntegrityFailure("the entry that froze a manifest does not stand in the log", where=f"entry {entry}")
    return whole


def _gap(root: str, entry: int, whole: Sequence[bytes], patient: str, mark: bytes) -> Gap:
    """The neighbours of a mark. Raises IntegrityFailure where it is there."""
    if manifest.present(whole, mark) or mark in (b"\x00" * manifest.MARK_BYTES, b"\xff" * manifest.MARK_BYTES):
        raise IntegrityFailure("the patient is in a manifest: this proves no absence", where=root[:16])
    after = bisect_left(whole, mark)
    marks = [whole[i][: manifest.MARK_BYTES].hex() for i in (after - 1, after)]
    return Gap(root, entry, len(whole), patient, mark.hex(), after - 1, *marks)
