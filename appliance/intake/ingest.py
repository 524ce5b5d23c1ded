"""Bringing pairs into the vault: check every one, then write; go on where an earlier run was cut off.

The file and all its images are checked before the first byte is written, so a broken line refuses the whole file. A
pair is known again by a keyed digest of its image's bytes, its text and its patient: a second mention in the file is
a duplicate, and what an earlier run brought in is skipped. The image is written anew from its pixels, the text loses
the patient's number, both become objects under the patient's key, and each record has its own event in the log.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.intake.deidentify import without_number
from appliance.intake.pictures import open_picture, to_png
from appliance.intake.readers import Columns, Pair, read_pairs
from appliance.progress import Progress, silent
from audit.actor import Actor
from audit.catalogue import new_id, now
from audit.errors import BadInput
from audit.events import Event
from audit.policy import Terms
from audit.rows import NewObject, Record
from audit.vault import Vault

SplitRule = Callable[[str], str]
"""The hospital's number of a patient -> ``train`` or ``held-out``. All records of a patient fall on one side."""

UNSAID: Final = Terms("", "", "", "")
"""Nothing is known of consent and source."""
BATCH: Final = 128
"""Records that are committed together."""
SOURCE: Final = "source"
"""Key of an image's note that holds its keyed source digest."""


@dataclass(frozen=True)
class Checked:
    """A pair that was found good."""

    pair: Pair
    """As it stands in the file."""
    patient: str
    """The appliance's pseudonym."""
    number: str
    """The hospital's number, from the file or the DICOM header."""
    source_digest: str
    """Keyed digest by which the record is known again."""

    def __repr__(self) -> str:
        return f"Checked({self.pair.where}, {self.patient})"


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did, or would do."""

    file: str
    """The file of pairs."""
    pairs: int
    """Pairs in the file."""
    added: int
    """Records that came in (would come in, on a dry run)."""
    known: int
    """Pairs that were in the vault already."""
    duplicates: int
    """Pairs that the file holds more than once."""
    redacted: int
    """Mentions of patient numbers taken out of the texts that came in."""
    patients: int
    """Patients among the records that came in."""
    splits: dict[str, int]
    """Records that came in, by split."""
    dry_run: bool
    """Nothing was written."""


def source_digest(vault: Vault, image: bytes, text: str, number: str) -> str:
    """The keyed digest that a record is known by, from the image file's bytes, the text and the number."""
    parts = [hashlib.sha256(image).hexdigest(), text, number]
    return vault.fingerprint(b"record\0" + json.dumps(parts).encode())


def ingest(
    vault: Vault,
    source: Path,
    actor: Actor,
    *,
    split: SplitRule,
    columns: Columns | None = None,
    terms: Terms = UNSAID,
    progress: Progress = silent,
    dry_run: bool = False,
) -> IngestReport:
    """Bring the pairs of a file or folder into the vault.

    Args:
        vault: where they go.
        source: a file of pairs, or a folder that holds one.
        actor: who brings them in.
        split: which part each patient plays; a patient who is in the vault already keeps theirs.
        columns: where in a row its parts stand.
        terms: consent tags, their end, and the source of what comes in.
        progress: told how many are checked and written.
        dry_run: check everything, write nothing.

    Raises:
        BadInput: a line or an image is not right; nothing is written.
        EnvironmentProblem: the disk refuses; whole batches are in, and the same command goes on.
    """
    pairs = read_pairs(source, columns)
    checked = _check(vault, pairs, progress)
    distinct = list({one.source_digest: one for one in checked}.values())
    fresh = [one for one in distinct if vault.catalogue.record_of_source(one.source_digest) is None]
    part_of = _parts(vault, fresh, split)
    if dry_run:
        redacted = sum(without_number(one.pair.text, one.number)[1] for one in fresh)
    else:
        _sweep(vault, actor)
        redacted = _write(vault, fresh, part_of, terms, actor, progress)
    return IngestReport(
        file=str(pairs[0].file),
        pairs=len(pairs),
        added=len(fresh),
        known=len(distinct) - len(fresh),
        duplicates=len(checked) - len(distinct),
        redacted=redacted,
        patients=len(part_of),
        splits=dict(Counter(part_of[one.patient] for one in fresh)),
        dry_run=dry_run,
    )


def _check(vault: Vault, pairs: Sequence[Pair], progress: Progress) -> list[Checked]:
    """Open every image and find every patient, before anything is written."""
    checked = []
    for done, pair in enumerate(pairs, start=1):
        checked.append(_check_one(vault, pair))
        progress(done, len(pairs), "pairs checked")
    return checked


def _check_one(vault: Vault, pair: Pair) -> Checked:
    where = _where(pair)
    _, in_header = open_picture(pair.image, where)
    number = pair.patient or in_header
    if not number:
        hint = "add it, or name its field with --columns patient=NAME"
        raise BadInput("A pair has no patient, and its image has none in a header", where=pair.where, hint=hint)
    if pair.patient and in_header and pair.patient != in_header:
        hint = "find out whose image it is; mend the line or the image"
        raise BadInput("The line and the image's header name different patients", where=where, hint=hint)
    digest = source_digest(vault, _bytes_of(pair), pair.text, number)
    return Checked(pair, vault.pseudonym(number), number, digest)


def _parts(vault: Vault, fresh: Sequence[Checked], split: SplitRule) -> dict[str, str]:
    """The split of each patient: the one they already have in the vault, else what the rule says."""
    parts: dict[str, str] = {}
    for one in fresh:
        if one.patient not in parts:
            same = vault.catalogue.identities(one.patient)
            before = [record for name in same for record in vault.catalogue.records(patient=name)]
            parts[one.patient] = before[0].split if before else split(one.number)
    return parts


def _sweep(vault: Vault, actor: Actor) -> None:
    """Delete images and reports that an ingest put in just before it was killed, without a record of theirs yet."""
    held = {part for record in vault.catalogue.records() for part in (record.image, record.report)}
    stored = vault.catalogue.objects("image") + vault.catalogue.objects("report")
    orphans = [one.id for one in stored if SOURCE in one.note and one.id not in held]
    if orphans:
        vault.delete(orphans, actor=actor, activity="ingest")


def _write(
    vault: Vault, fresh: Sequence[Checked], parts: dict[str, str], terms: Terms, actor: Actor, progress: Progress
) -> int:
    """Write the records batch by batch: objects, then events, then the catalogue's rows. Returns mentions taken out."""
    redacted = done = 0
    for start in range(0, len(fresh), BATCH):
        batch = fresh[start : start + BATCH]
        texts = [without_number(one.pair.text, one.number) for one in batch]
        objects = vault.put_many(_objects(batch, [text for text, _ in texts]), actor=actor, activity="ingest")
        said = (now(), terms.consent, terms.expires, terms.source)
        records = [
            Record(new_id("rec-"), one.patient, image, report, one.source_digest, parts[one.patient], *said)
            for one, image, report in zip(batch, objects[::2], objects[1::2], strict=True)
        ]
        vault.record_many(
            [_event(record, actor, mentions) for record, (_, mentions) in zip(records, texts, strict=True)]
        )
        with vault.catalogue.transaction():
            for record in records:
                vault.catalogue.add_record(record)
        redacted += sum(mentions for _, mentions in texts)
        done += len(batch)
        progress(done, len(fresh), "records")
    return redacted


def _objects(batch: Sequence[Checked], texts: Sequence[str]) -> Iterator[NewObject]:
    """Image and report of each record, in turns."""
    for one, text in zip(batch, texts, strict=True):
        picture, _ = open_picture(one.pair.image, _where(one.pair))
        note = {SOURCE: one.source_digest}
        yield NewObject("image", to_png(picture), one.patient, note=note)
        yield NewObject(
            "report",
            json.dumps({"caption": text, "source": without_number(one.pair.image.name, one.number)[0]}).encode(),
            one.patient,
            note=note,
        )


def _event(record: Record, actor: Actor, mentions: int) -> Event:
    return Event(
        "record.ingested",
        actor,
        patients=(record.patient,),
        objects=(record.id, record.image, record.report),
        activity="ingest",
        detail={"split": record.split, "numbers_taken_out": mentions, **_said(record)},
    )


def _said(record: Record) -> dict[str, str]:
    """What is known of a record's consent and source."""
    said = {"consent": record.consent, "expires": record.expires, "source": record.source}
    return {key: value for key, value in said.items() if value}


def _where(pair: Pair) -> str:
    """The place of a pair with its image's name, the patient's number taken out of that."""
    return f"{pair.where}, image {without_number(pair.image.name, pair.patient)[0]}"


def _bytes_of(pair: Pair) -> bytes:
    try:
        return pair.image.read_bytes()
    except OSError as failure:
        raise BadInput("The image cannot be read", where=_where(pair), hint="look at its permissions") from failure
