"""Pairs of image and text, as hospitals hand them over: JSONL, JSON (a list, LLaVA's too), CSV and TSV.

Every value is checked for its type here; the images themselves are opened by ``appliance.intake.ingest``. An error
names the file, the line and the field, and never a patient's number.

    {"image": "images/0001.png", "caption": "Axial slice ...", "patient": "HN811721"}      one line of JSONL
    image,caption,patient                                                                  first line of a CSV
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from audit.errors import BadInput

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv")
"""Endings of the files that pairs are read from."""
MEND: Final = "mend the line and run the same command again"
CSV_FIELD_CHARS: Final = 1_000_000
"""Longest field of a table; a report is shorter."""


@dataclass(frozen=True)
class Columns:
    """Where in a row its parts stand."""

    image: str = "image"
    """Column or key of the image's path."""
    text: str = "caption"
    """Column or key of the caption or report."""
    patient: str = "patient"
    """Column or key of the hospital's patient number."""
    pattern: str = "{}"
    """How the image column becomes a path beside the file: ``images/{}.png``."""

    def __post_init__(self) -> None:
        if self.pattern.count("{}") != 1:
            raise BadInput(
                "The pattern for image paths needs {} once", where=self.pattern, hint="--pattern 'images/{}.png'"
            )

    @classmethod
    def parse(cls, text: str, pattern: str = "{}") -> Self:
        """Columns from ``image=file,text=report,patient=mrn``; what is not named keeps its default.

        Raises:
            BadInput: a part that is none of the three.
        """
        named = {part.partition("=")[0].strip(): part.partition("=")[2].strip() for part in text.split(",") if part}
        unknown = [part for part, column in named.items() if part not in ("image", "text", "patient") or not column]
        if unknown:
            hint = "--columns image=file,text=report,patient=mrn"
            raise BadInput("Columns are named as part=column", where=unknown[0], hint=hint)
        return cls(**named, pattern=pattern)


@dataclass(frozen=True)
class Pair:
    """One image with its text, as it stands in a file."""

    image: Path
    """Absolute path of the image, inside the folder of the file."""
    text: str
    """Caption or report, as written."""
    patient: str = field(repr=False)
    """The hospital's number of the patient; empty where only the DICOM header has it."""
    file: Path
    """The file that the pair stands in."""
    line: int
    """Its line there."""

    @property
    def where(self) -> str:
        """The place, for an error."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class _Row:
    line: int
    values: Mapping[str, Any]


def find(source: Path) -> Path:
    """The file of pairs: the source itself, or the only one in a folder (``pairs.jsonl`` where there are several).

    Raises:
        BadInput: there is none, or it is not clear which.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise BadInput("There is no such file or folder", where=str(source), hint="cloche ingest FOLDER")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    usual = [path for path in found if path.stem == "pairs"] or found
    if len(usual) != 1:
        names = ", ".join(path.name for path in usual)
        what = f"In this folder several files may hold the pairs: {names}" if usual else "No file here holds pairs"
        raise BadInput(what, where=str(source), hint=f"cloche ingest '{source}/NAME.jsonl'")
    return usual[0]


def read_pairs(source: Path, columns: Columns | None = None) -> list[Pair]:
    """All pairs of a file or folder; one broken line refuses them all.

    Args:
        source: a file of pairs, or a folder that holds one.
        columns: where in a row its parts stand.

    Raises:
        BadInput: a line cannot be read, misses a field, or its image lies outside the folder of the file.
    """
    file = find(source)
    names = columns or Columns()
    rows = {".jsonl": _jsonl, ".json": _json_list, ".csv": _csv, ".tsv": _tsv}.get(file.suffix.lower())
    if rows is None:
        raise BadInput("Pairs are read from JSONL, JSON, CSV or TSV", where=str(file), hint="name such a file")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = failure.object[: failure.start].count(b"\n") + 1
        raise BadInput(
            "The file is not UTF-8 text", where=f"{file}:{line}", hint=f"iconv -t UTF-8 '{file}'"
        ) from failure
    pairs = [_pair(row, file, names) for row in rows(text, file, names)]
    if not pairs:
        raise BadInput("The file holds no pairs", where=str(file), hint="write one pair a line")
    return pairs


def _pair(row: _Row, file: Path, names: Columns) -> Pair:
    def value(part: str, column: str, required: bool = True) -> str:
        found = row.values.get(column)
        place = f"{file}:{row.line}, field {column!r}"
        if found is None and not required:
            return ""
        if found is None:
            hint = f"add it, or name the right field with --columns {part}=NAME"
            raise BadInput(f"A pair has no {part}", where=place, hint=hint)
        if isinstance(found, int) and part == "patient":
            found = str(found)
        if not isinstance(found, str) or (required and not found.strip()):
            raise BadInput(f"The {part} is empty or no text", where=place, hint=MEND)
        if any("\ud800" <= letter <= "\udfff" for letter in found):  # JSON can say half a letter, no file can hold it
            raise BadInput(f"The {part} holds half a letter", where=place, hint=MEND)
        return found.strip()

    image = names.pattern.replace("{}", value("image", names.image))
    root = file.resolve().parent
    try:
        path = (root / image).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a loop of links
        path = Path("/")
    if not path.is_relative_to(root):
        place = f"{file}:{row.line}, field {names.image!r}"
        raise BadInput("The image lies outside the folder of the file", where=place, hint=f"copy the image to {root}")
    return Pair(path, value("text", names.text), value("patient", names.patient, required=False), file, row.line)


def _jsonl(text: str, file: Path, names: Columns) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield _as_row(json.loads(line), number, file, names)
            except (json.JSONDecodeError, RecursionError) as failure:
                raise _broken(failure, file, number) from failure


def _json_list(text: str, file: Path, names: Columns) -> Iterator[_Row]:
    """The objects of one JSON list, each with the line it starts at."""
    decoder, at, line = json.JSONDecoder(), 0, 1

    def skip(to: str) -> str:
        """Step over white space; return the sign there, and step over it if it is in `to`."""
        nonlocal at, line
        while at < len(text) and text[at].isspace():
            line += text[at] == "\n"
            at += 1
        sign = text[at : at + 1]
        at += bool(sign) and sign in to
        return sign

    def broken(what: str) -> BadInput:
        return BadInput(what, where=f"{file}:{line}", hint="mend the file and run the same command again")

    if skip("[") != "[":
        raise broken("A JSON file of pairs is one list of objects")
    ended = skip("]") == "]"
    while not ended:
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as failure:
            raise _broken(failure, file, line) from failure
        yield _as_row(value, line, file, names)
        line += text.count("\n", at, end)
        at = end
        sign = skip(",]")
        if sign not in (",", "]"):
            raise broken("The list of pairs is not closed")
        ended = sign == "]"
        skip("")
    if skip(""):
        raise broken("Something follows the list of pairs")


def _csv(text: str, file: Path, names: Columns) -> Iterator[_Row]:
    return _table(text, file, names, ",")


def _tsv(text: str, file: Path, names: Columns) -> Iterator[_Row]:
    return _table(text, file, names, "\t")


def _table(text: str, file: Path, names: Columns, delimiter: str) -> Iterator[_Row]:
    csv.field_size_limit(CSV_FIELD_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = list(reader.fieldnames or ())
        for part, column in (("image", names.image), ("text", names.text)):
            if column not in header:
                hint = f"--columns {part}=NAME with one of: {', '.join(header)}"
                raise BadInput(f"The table has no column {column!r}", where=f"{file}:1", hint=hint)
        for row in reader:
            if None in row or None in row.values():
                what = f"The row does not have {len(header)} fields, as the first line has"
                raise BadInput(what, where=f"{file}:{reader.line_num}", hint="mend the line; put quotes around commas")
            yield _Row(reader.line_num, row)
    except csv.Error as failure:
        raise _broken(failure, file, reader.line_num) from failure


def _as_row(value: Any, line: int, file: Path, names: Columns) -> _Row:
    """A JSON object as a row. LLaVA's ``conversations`` become the text: what the model's first turn says."""
    if not isinstance(value, dict):
        raise BadInput("A pair is a JSON object", where=f"{file}:{line}", hint=MEND)
    turns = value.get("conversations")
    if names.text in value or not isinstance(turns, list):
        return _Row(line, value)
    said = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"]
    return _Row(line, {**value, names.text: said[0] if said else None})


def _broken(failure: Exception, file: Path, line: int) -> BadInput:
    why = failure.msg if isinstance(failure, json.JSONDecodeError) else str(failure)
    what = f"A line of the file cannot be read: {why}"
    return BadInput(what, where=f"{file}:{line}", hint=MEND)
