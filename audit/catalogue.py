"""The catalogue: what the vault holds and what was made from what.

It is the working copy of the lineage, for commands on the box, which cannot read their own log; the log is the
evidence. It is plain SQLite, so nothing in it may say anything about a patient: ids, pseudonyms, kinds, counts,
digests. No caption, no question, no name of a structure.
"""

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import database
from audit.errors import BadInput, storage
from audit.rows import Model, Record, Run, StoredObject

if TYPE_CHECKING:
    from sqlite_utils import Database


def _first(tables: "Database") -> None:
    """Objects with what they were made from, records, runs, models."""

    def table(name: str, text: str, pk: str | tuple[str, ...] = "id", **others: type) -> None:
        columns: dict[str, type] = {column: others.get(column, str) for column in text.split()}
        tables.table(name).create(columns, pk=pk, not_null=columns)

    table("objects", "id kind patient size digest salt version created note deleted", size=int, salt=bytes, version=int)
    table("parents", "child parent", ("child", "parent"))
    table("records", "id patient image report source_digest split created")
    table("runs", "id kind state config seed manifest_root created finished result", seed=int)
    table("models", "id kind objects parent_model manifest_root run created note")
    tables.table("objects").create_index(["kind", "created"], "objects_kind")
    tables.table("objects").create_index(["patient"], "objects_patient")
    tables.table("parents").create_index(["parent"], "parents_parent")
    tables.table("records").create_index(["source_digest"], "records_source", unique=True)


def _second(tables: "Database") -> None:
    """Consent, its end and the source of each record; two identities of one patient; a record by its parts."""
    for column in ("consent", "expires", "source"):
        tables.table("records").add_column(column, str, not_null_default="")
    tables.table("records").create_index(["image"], "records_image")
    tables.table("records").create_index(["report"], "records_report")
    tables.table("records").create_index(["patient"], "records_patient")
    tables.table("links").create({"one": str, "other": str, "created": str}, pk=("one", "other"), not_null=["created"])
    tables.table("links").create_index(["other"], "links_other")


_MIGRATIONS = (_first, _second)
"""Numbered from 1. Add to the end; never change one that was released."""


class Catalogue:
    """The tables of one vault. Methods are atomic; `transaction` makes several calls one."""

    def __init__(self, path: Path) -> None:
        """Open or make the catalogue. Raises Refused, EnvironmentProblem, IntegrityFailure: `database.connect`."""
        self._path = path
        self._connection = database.connect(path, _MIGRATIONS)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Release the database."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All calls of a block together, or none."""
        with self._lock, storage(self._path), database.transaction(self._connection):
            yield

    # -- objects

    def add_object(self, stored: StoredObject, parents: Sequence[str] = ()) -> None:
        """Add an object's row and its parents. Raises BadInput where a parent is unknown."""
        columns = _fields(stored, "id kind patient size digest salt version created")
        row = (*columns, _json(stored.note), stored.deleted)
        with self.transaction():
            self._insert("objects", row)
            for parent in dict.fromkeys(parents):
                self.object(parent)
                self._insert("parents", (stored.id, parent))

    def object(self, object_id: str) -> StoredObject:
        """One object's row. Raises BadInput where there is none."""
        rows = self._rows("SELECT * FROM objects WHERE id = ?", object_id)
        if not rows:
            raise BadInput("the vault holds no such object", where=object_id, hint="cloche records lists what there is")
        return _stored(rows[0])

    def objects_named(self, object_ids: Iterable[str]) -> list[StoredObject]:
        """Rows of many objects in the order of their ids, each once. Raises BadInput where there is none."""
        ids = list(dict.fromkeys(object_ids))
        query = "SELECT o.* FROM json_each(?) JOIN objects o ON o.id = json_each.value"
        found = {row["id"]: _stored(row) for row in self.select(query, _json(ids))} if ids else {}
        return [found.get(one) or self.object(one) for one in ids]

    def mark_deleted(self, object_ids: Iterable[str]) -> None:
        """Note that the files of objects are gone."""
        with self.transaction():
            for object_id in object_ids:
                self._connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (now(), object_id))

    def touch(self, object_ids: Iterable[str]) -> None:
        """Note in plain that objects of a cache were used now, so that the others are dropped first."""
        query = "UPDATE objects SET note = json_set(note, '$.used', ?) WHERE id IN (SELECT value FROM json_each(?))"
        self.change(query, now(), _json(list(object_ids)))

    def bytes_of(self, kind: str) -> int:
        """Bytes of plaintext of all objects of a kind that are there."""
        query = "SELECT coalesce(sum(size), 0) AS held FROM objects WHERE kind = ? AND deleted = ''"
        return int(self._rows(query, kind)[0]["held"])

    def objects(self, kind: str | None = None, patient: str | None = None) -> list[StoredObject]:
        """Objects that are there, oldest first; of one kind or one patient where named."""
        query = "SELECT * FROM objects WHERE deleted = '' AND (?1 IS NULL OR kind = ?1)"
        query += " AND (?2 IS NULL OR patient = ?2)"
        return [_stored(row) for row in self._rows(query + " ORDER BY rowid", kind, patient)]

    def holds(self, object_id: str) -> bool:
        """Whether an object is there: its row, and not marked deleted."""
        return bool(self._rows("SELECT 1 FROM objects WHERE id = ? AND deleted = ''", object_id))

    def all_of(self, patient: str) -> list[str]:
        """Ids of all objects of a patient's, deleted ones too."""
        return [row["id"] for row in self._rows("SELECT id FROM objects WHERE patient = ?", patient)]

    def relatives(self, object_ids: Iterable[str], *, up: bool = False) -> set[str]:
        """Ids of all that was made from objects, or of all they were made from, they themselves included."""
        near, far = ("child", "parent") if up else ("parent", "child")
        query = "WITH RECURSIVE met(id) AS (SELECT value FROM json_each(?) UNION "
        query += f"SELECT {far} FROM parents JOIN met ON {near} = met.id) SELECT id FROM met"  # noqa: S608 ours
        return {row["id"] for row in self._rows(query, json.dumps(list(object_ids)))}

    def deleted_objects(self) -> list[StoredObject]:
        """Objects whose files are gone, oldest first."""
        return [_stored(row) for row in self._rows("SELECT * FROM objects WHERE deleted != '' ORDER BY rowid")]

    def links(self) -> list[tuple[str, str]]:
        """Every object's parents: pairs of child and parent."""
        return [(row["child"], row["parent"]) for row in self._rows("SELECT child, parent FROM parents")]

    def latest_object(self, kind: str) -> StoredObject | None:
        """The newest object of a kind that is there."""
        query = "SELECT * FROM objects WHERE kind = ? AND deleted = '' ORDER BY rowid DESC LIMIT 1"
        rows = self._rows(query, kind)
        return _stored(rows[0]) if rows else None

    def parents(self, object_id: str) -> list[str]:
        """Ids of what an object was made from."""
        return [row["parent"] for row in self._rows("SELECT parent FROM parents WHERE child = ?", object_id)]

    def children(self, object_id: str) -> list[str]:
        """Ids of what was made from an object."""
        return [row["child"] for row in self._rows("SELECT child FROM parents WHERE parent = ?", object_id)]

    # -- records

    def add_record(self, record: Record) -> Record:
        """Add a record; an empty id or time is filled in. Raises BadInput where its source came in before."""
        filled = (record.id or new_id("rec-"), record.created or now())
        row = (
            filled[0],
            *_fields(record, "patient image report source_digest split"),
            filled[1],
            *_fields(record, "consent expires source"),
        )
        with self.transaction():
            if self.record_of_source(record.source_digest) or self._rows("SELECT 1 FROM records WHERE id = ?", row[0]):
                raise BadInput("this record is in the vault already", where=record.id or "by its source")
            self._insert("records", row)
        return Record(*row)

    def record(self, record_id: str) -> Record:
        """One record. Raises BadInput where there is none."""
        rows = self._rows("SELECT * FROM records WHERE id = ?", record_id)
        if not rows:
            raise BadInput("the vault holds no such record", where=record_id, hint="cloche records lists what there is")
        return Record(**rows[0])

    def records(self, split: str | None = None, patient: str | None = None, *, gone: bool = False) -> list[Record]:
        """Records whose data is there, oldest first; of one split or one patient where named; `gone` for all rows."""
        query = "SELECT * FROM records WHERE (?1 IS NULL OR split = ?1) AND (?2 IS NULL OR patient = ?2)"
        if not gone:
            query += " AND NOT EXISTS (SELECT 1 FROM objects WHERE objects.id = records.image AND deleted != '')"
        return [Record(**row) for row in self._rows(query + " ORDER BY rowid", split, patient)]

    def record_of_source(self, source_digest: str) -> Record | None:
        """The record that came in with this digest, if any: lets an interrupted ingest go on."""
        rows = self._rows("SELECT * FROM records WHERE source_digest = ?", source_digest)
        return Record(**rows[0]) if rows else None

    def records_with(self, object_id: str) -> list[Record]:
        """The records whose image or report an object is."""
        return [Record(**row) for row in self._rows("SELECT * FROM records WHERE ? IN (image, report)", object_id)]

    def identities(self, patient: str) -> tuple[str, ...]:
        """All pseudonyms of the one person that a pseudonym is linked to, itself among them, sorted. See `consent`."""
        query = "WITH RECURSIVE same(id) AS (SELECT ? UNION SELECT iif(one = id, other, one) FROM links, same"
        query += " WHERE id IN (one, other)) SELECT id FROM same ORDER BY id"
        return tuple(row["id"] for row in self._rows(query, patient))

    # -- runs

    def start_run(
        self, kind: str, config: Mapping[str, Any], seed: int = 0, manifest_root: str = "", *, id: str = ""
    ) -> Run:
        """Add a run that is now running."""
        run = Run(id or new_id("run-"), kind, "running", dict(config), seed, manifest_root, now(), "", {})
        row = (run.id, kind, run.state, _json(config), seed, manifest_root, run.created, "", "{}")
        with self.transaction():
            self._insert("runs", row)
        return run

    def finish_run(self, run_id: str, result: Mapping[str, Any], state: str = "done") -> Run:
        """Close a run with its figures. Raises BadInput where there is none."""
        with self.transaction():
            self._connection.execute(
                "UPDATE runs SET state = ?, finished = ?, result = ? WHERE id = ?",
                (state, now(), _json(result), run_id),
            )
            return self.run(run_id)

    def set_state(self, run_id: str, state: str) -> None:
        """Change a run's state; times and figures stay. Raises BadInput where there is none."""
        with self.transaction():
            self.run(run_id)
            self._connection.execute("UPDATE runs SET state = ? WHERE id = ?", (state, run_id))

    def run(self, run_id: str) -> Run:
        """One run. Raises BadInput where there is none."""
        rows = self._rows("SELECT * FROM runs WHERE id = ?", run_id)
        if not rows:
            raise BadInput("there is no such run", where=run_id, hint="cloche runs lists them")
        return _run(rows[0])

    def runs(self, kind: str | None = None) -> list[Run]:
        """Runs, oldest first; of one kind where named."""
        query = "SELECT * FROM runs WHERE ?1 IS NULL OR kind = ?1 ORDER BY rowid"
        return [_run(row) for row in self._rows(query, kind)]

    def latest(self, kind: str, state: str | None = "done") -> Run | None:
        """The newest run of a kind, by default of those that are done; `state=None` for any."""
        query = "SELECT * FROM runs WHERE kind = ?1 AND (?2 IS NULL OR state = ?2) ORDER BY rowid DESC LIMIT 1"
        rows = self._rows(query, kind, state)
        return _run(rows[0]) if rows else None

    # -- models

    def add_model(
        self,
        kind: str,
        objects: Sequence[str],
        *,
        parent_model: str = "",
        manifest_root: str = "",
        run: str = "",
        note: Mapping[str, Any] | None = None,
        id: str = "",
    ) -> Model:
        """Add a model. Raises BadInput where an object or the parent is unknown."""
        made = Model(
            id or new_id("model-"), kind, tuple(objects), parent_model, manifest_root, run, now(), dict(note or {})
        )
        with self.transaction():
            for object_id in objects:
                self.object(object_id)
            if parent_model:
                self.model(parent_model)
            row = (made.id, kind, _json(list(objects)), parent_model, manifest_root, run, made.created)
            self._insert("models", (*row, _json(made.note)))
        return made

    def update_model(self, model_id: str, note: Mapping[str, Any]) -> Model:
        """Add to a model's note. Raises BadInput where there is no such model."""
        with self.transaction():
            joined = {**self.model(model_id).note, **note}
            self._connection.execute("UPDATE models SET note = ? WHERE id = ?", (_json(joined), model_id))
            return self.model(model_id)

    def model(self, model_id: str) -> Model:
        """One model. Raises BadInput where there is none."""
        rows = self._rows("SELECT * FROM models WHERE id = ?", model_id)
        if not rows:
            raise BadInput("there is no such model", where=model_id, hint="cloche models lists them")
        return _model(rows[0])

    def models(self, kind: str | None = None) -> list[Model]:
        """Models, oldest first; of one kind where named."""
        query = "SELECT * FROM models WHERE ?1 IS NULL OR kind = ?1 ORDER BY rowid"
        return [_model(row) for row in self._rows(query, kind)]

    def latest_model(self, kind: str) -> Model | None:
        """The newest model of a kind that was not retired."""
        return next((one for one in reversed(self.models(kind)) if one.note.get("state") != "retired"), None)

    def find(self, name: str) -> tuple[str, str]:
        """Table and id of what a full id, or a beginning of 4 signs or more, names among objects, records and models.

        Raises:
            BadInput: it names nothing, or more than one thing.
        """
        tables = ("objects", "records", "models")
        match = "id = ?1 OR (length(?1) > 3 AND substr(id, 1, length(?1)) = ?1)"
        query = " UNION ALL ".join(f"SELECT '{one}' AS place, id FROM {one} WHERE {match}" for one in tables)  # noqa: S608
        rows = self._rows(query, name)
        exact = [row for row in rows if row["id"] == name] or rows
        if len(exact) != 1:
            what = "several things" if exact else "no object, record or model"
            raise BadInput(
                f"the vault holds {what} of this name", where=name, hint="cloche records lists what there is"
            )
        return exact[0]["place"], exact[0]["id"]

    # -- SQL

    def select(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a query. Raises EnvironmentProblem, IntegrityFailure."""
        return self._rows(query, *values)

    def change(self, statement: str, *values: Any) -> None:
        """Change rows; in a `transaction`, with all else there. Raises as `select`."""
        with self.transaction():
            self._connection.execute(statement, values)

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, storage(self._path):
            try:
                return self._connection.execute(query, values).fetchall()
            except UnicodeEncodeError:  # a name that is no text: no row can hold it
                return []

    def _insert(self, table: str, row: Iterable[Any]) -> None:
        values = tuple(row)
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608 table is ours


def new_id(prefix: str) -> str:
    """A short random id: prefix and 10 letters and digits."""
    return prefix + "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(10))


def now() -> str:
    """UTC time, RFC 3339, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(value: object, names: str) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in names.split())


def _json(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the catalogue takes JSON values only: {error}") from error


def _stored(row: sqlite3.Row) -> StoredObject:
    return StoredObject(**{**dict(row), "note": json.loads(row["note"])})


def _run(row: sqlite3.Row) -> Run:
    return Run(**{**dict(row), "config": json.loads(row["config"]), "result": json.loads(row["result"])})


def _model(row: sqlite3.Row) -> Model:
    return Model(**{**dict(row), "objects": tuple(json.loads(row["objects"])), "note": json.loads(row["note"])})
