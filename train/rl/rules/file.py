"""Reads a rules file: TOML that a clinician can write; every error names file, table and key, and what to do."""

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from audit.errors import BadInput
from train.rl.rules.kinds import Contradiction, Implication, Laterality, Range, Vocabulary
from train.rl.rules.rule import Rule, Terms
from train.rl.text import words
from train.rl.units import UNITS, unit_of

MOST_BYTES = 1 << 18
"""Of a rules file."""
HINT = "docs/rewards.md explains every key; cloche rewards check FILE reads a file without using it"
_COMMON = ("name", "because", "when")
_KEYS: dict[str, tuple[str, ...]] = {
    "vocabulary": ("allowed",),
    "contradiction": ("one", "other"),
    "implication": ("finding", "region", "elsewhere"),
    "laterality": ("left", "right"),
    "range": ("unit", "low", "high"),
}
_MAY = {"elsewhere", "left", "right", "unit"}
_SAYS = ("title", "reviewed_by")


@dataclass(frozen=True)
class Rules:
    """A rules file."""

    title: str
    """What it is for."""
    reviewed_by: str
    """Who has read it; empty where nobody says so."""
    rules: tuple[Rule, ...]
    """In the file's order within each kind."""
    digest: str = ""
    """SHA-256 of the file."""


def read_rules(path: Path) -> Rules:
    """The rules of a file.

    Raises:
        BadInput: it cannot be read or is no rules file; file, table, key and remedy are named.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(
            f"the rules cannot be read: {error.strerror}", where=str(path), hint="check the file's name with ls"
        ) from None
    return parse_rules(data, str(path))


def parse_rules(data: bytes, where: str) -> Rules:
    """The rules of a file's bytes. Raises BadInput as `read_rules` does."""
    if len(data) > MOST_BYTES:
        raise BadInput(f"the rules are longer than {MOST_BYTES >> 10} KiB", where=where, hint=HINT)
    try:
        found = tomllib.loads(data.decode())
    except RecursionError:
        raise BadInput("values stand too deep in one another", where=where, hint=HINT) from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)$", str(error))
        hint = "look at that line for a missing quote, bracket or equals sign, or a table that is there twice"
        raise BadInput("this is no TOML", where=f"{where}:{place[1]}" if place else where, hint=hint) from None
    except ValueError:
        raise BadInput("this is no TOML in UTF-8", where=where, hint="save the file as UTF-8 text") from None
    return replace(_Reader(where).rules(found), digest=hashlib.sha256(data).hexdigest())


class _Reader:
    def __init__(self, file: str) -> None:
        self._file, self._table = file, ""

    def rules(self, found: Mapping[str, Any]) -> Rules:
        self._known(found, (*_SAYS, *_KEYS))
        made: list[Rule] = []
        for kind in _KEYS:
            tables = found.get(kind, [])
            if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
                raise self._bad(kind, "is no list of tables", f"write [[{kind}]], with two brackets")
            for number, table in enumerate(tables, 1):
                self._table = f"[[{kind}]] {number}"
                made.append(self._rule(kind, table))
                if made[-1].name in {one.name for one in made[:-1]}:
                    raise self._bad("name", "is another rule's too", "give each rule a name of its own")
        self._table = ""
        if not made:
            raise self._bad("", "there is no rule in this file", f"write one of {', '.join(f'[[{k}]]' for k in _KEYS)}")
        return Rules(self._text(found, "title", ""), self._text(found, "reviewed_by", ""), tuple(made))

    def _rule(self, kind: str, table: Mapping[str, Any]) -> Rule:
        self._known(table, (*_COMMON, *_KEYS[kind]))
        for key in ("name", *_KEYS[kind]):
            if key not in table and key not in _MAY:
                raise self._bad(key, "is missing", f"add the line {key} = ... below [[{kind}]]")
        common: dict[str, Any] = {
            "name": self._text(table, "name"),
            "because": self._text(table, "because", ""),
            "when": self._terms(table, "when") if "when" in table else (),
        }
        if kind == "vocabulary":
            return Vocabulary(**common, allowed=self._terms(table, "allowed"))
        if kind == "contradiction":
            return Contradiction(**common, **self._apart(table, "one", "other"))
        if kind == "implication":
            sides = self._apart(table, "finding", "region")
            return Implication(
                **common, **sides, elsewhere=self._terms(table, "elsewhere") if "elsewhere" in table else ()
            )
        if kind == "laterality":
            given = [key for key in ("left", "right") if key in table]
            if len(given) == 1:
                raise self._bad(given[0], "stands alone", "give both left and right, or neither")
            return Laterality(**common, **(self._apart(table, "left", "right") if given else {}))
        return self._range(common, table)

    def _range(self, common: dict[str, Any], table: Mapping[str, Any]) -> Range:
        if not common["when"]:
            raise self._bad("when", "is missing", 'say which questions it is about: when = ["midline shift"]')
        unit = self._text(table, "unit") if "unit" in table else ""
        if unit and unit_of(unit) is None:
            near = get_close_matches(unit.lower(), UNITS, 1, 0.0)
            raise self._bad("unit", "is none that we know", f"the nearest is {near[0]}; leave it out for a count")
        low, high = self._number(table, "low"), self._number(table, "high")
        if low > high:
            raise self._bad("low", "is above high", "exchange the two numbers")
        return Range(**common, unit=unit, low=low, high=high)

    def _apart(self, table: Mapping[str, Any], one: str, other: str) -> dict[str, Any]:
        found = {one: self._terms(table, one), other: self._terms(table, other)}
        if {tuple(words(t)) for t in found[one]} & {tuple(words(t)) for t in found[other]}:
            raise self._bad(other, f"has a term of {one}", "a term can stand on one side only")
        return found

    def _terms(self, table: Mapping[str, Any], key: str) -> Terms:
        found = table[key]
        if not isinstance(found, list) or not found or not all(isinstance(one, str) and words(one) for one in found):
            raise self._bad(key, "is no list of words", f'write {key} = ["one word", "another"]')
        return tuple(found)

    def _text(self, table: Mapping[str, Any], key: str, default: str | None = None) -> str:
        found = table.get(key, default)
        if not isinstance(found, str) or (default is None and not found.strip()):
            raise self._bad(key, "is no text", f'write {key} = "some text"')
        return found.strip()

    def _number(self, table: Mapping[str, Any], key: str) -> float:
        found = table[key]
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self._bad(key, "is no number", f"write {key} = 12, without quotes and unit")
        return float(found)

    def _known(self, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                near = get_close_matches(key, keys, 1, 0.0)
                raise self._bad(key, "is not known", f"the nearest is {near[0]}; {HINT}")

    def _bad(self, key: str, problem: str, remedy: str) -> BadInput:
        where = ", ".join(part for part in (self._file, self._table, f"key {key}" if key else "") if part)
        return BadInput(f"{key} {problem}".strip(), where=where, hint=remedy)
