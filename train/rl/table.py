"""A domain's table: which transforms keep an answer right, for which words, and which words are swapped (TOML).

A clinician can read and review it: nothing in it needs a model or a tokenizer. Errors name the file, the table, the key
and what to write. Where a table is silent, the careful thing happens: a conversation with a position word that the
transform moves and the table does not swap is left out. ``force = true`` switches that off, for control experiments.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from audit.errors import BadInput
from train.rl.views import KINDS, SORTS, WIDER, Kind

MOST_BYTES = 64 << 10
"""Bytes of a table at most."""
PLACES = ("question", "answer", "both")
"""Where a gate looks."""
_HINT = "cloche domains show brain-mri has an example"
_WORD = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")


@dataclass(frozen=True)
class Gate:
    """Words that keep a conversation out."""

    words: tuple[str, ...]
    """Regular expressions of whole words; capitals do not matter."""
    place: str
    """Where they are looked for: question, answer or both."""
    why: str
    """For the person who reads what was left out."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """All of them as one expression."""
        return whole(self.words)

    def found(self, question: str, answer: str) -> str:
        """The first word that keeps this conversation out; empty where none does."""
        texts = {"question": (question,), "answer": (answer,), "both": (question, answer)}[self.place]
        return next((match[0] for text in texts if (match := self.pattern.search(text))), "")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a conversation under a transform."""

    outcome: Literal["swapped", "kept", "gated"]
    """Constrained with words swapped, constrained as it stands, or left out."""
    why: str
    """In words."""
    question: str
    """As it is asked of the transformed picture."""
    answer: str
    """As it is scored there."""


@dataclass(frozen=True)
class Rule:
    """One transform of a table."""

    kind: Kind
    """What is done to the picture."""
    swap: tuple[tuple[str, str], ...] = ()
    """Words that change places, as the table writes them."""
    gates: tuple[Gate, ...] = ()
    """What keeps a conversation out."""
    force: bool = False
    """Nothing but the table's own gates is asked: for control experiments with a wrong transform."""

    @cached_property
    def forms(self) -> Mapping[str, str]:
        """Every written form and what it becomes: as it stands, with a capital, in capitals."""
        found: dict[str, str] = {}
        for pair in self.swap:
            for one, other in (pair, pair[::-1]):
                found[one] = other
                if pair[0].islower() and pair[1].islower():
                    found |= {one.capitalize(): other.capitalize(), one.upper(): other.upper()}
        return found

    @cached_property
    def _swapped(self) -> re.Pattern[str]:
        return whole((re.escape(form) for form in self.forms), capitals_matter=True)

    @cached_property
    def _moved(self) -> re.Pattern[str]:
        """Whatever tells a place that the transform moves, longer words first."""
        wider = [WIDER[sort] for sort, pairs in SORTS.items() if sort in WIDER and self._touches(pairs)]
        swapped = (re.escape(word) for pair in self.swap for word in pair)
        return whole([*wider, *map(re.escape, sorted(self.kind.moved)), *swapped])

    def _touches(self, pairs: Iterable[tuple[str, str]]) -> bool:
        return any(word in self.kind.moved for pair in pairs for word in pair)

    def swap_text(self, text: str) -> str:
        """The text with its words swapped; its own inverse. Parts of words (bright, leftover) stay."""
        return self._swapped.sub(lambda match: self.forms[match[0]], text) if self.swap else text

    def refusal(self, question: str, answer: str) -> str:
        """Why a conversation is left out; empty where it is not."""
        for gate in self.gates:
            if word := gate.found(question, answer):
                return f"{word!r}: {gate.why}"
        if self.force:
            return ""
        for text in (question, answer):
            for match in self._moved.finditer(text):
                if match[0] not in self.forms:
                    return f"{match[0]!r}: {self.kind.name} moves it and the table does not swap it as it is written"
        return ""

    def judge(self, question: str, answer: str = "") -> Verdict:
        """What becomes of a conversation, and why; a tokenizer can still keep it out."""
        if why := self.refusal(question, answer):
            return Verdict("gated", why, question, answer)
        turned = self.swap_text(question), self.swap_text(answer)
        if turned == (question, answer):
            return Verdict("kept", f"no word of it changes under {self.kind.name}", *turned)
        words = dict.fromkeys(match[0] for text in (question, answer) for match in self._swapped.finditer(text))
        return Verdict("swapped", ", ".join(f"{word} becomes {self.forms[word]}" for word in words), *turned)


@dataclass(frozen=True)
class Table:
    """A domain as its file states it."""

    name: str
    """The file's name without its ending."""
    title: str
    """For a person."""
    asks: tuple[str, ...]
    """Sorts of position words that the domain's questions ask for."""
    rules: tuple[Rule, ...]
    """Its transforms."""
    text: str = ""
    """The file."""

    @property
    def forced(self) -> bool:
        """Whether a transform is put on without asking what it preserves: a control, never a release."""
        return any(rule.force for rule in self.rules)


def whole(words: Iterable[str], capitals_matter: bool = False) -> re.Pattern[str]:
    """One expression for whole words: no letter or digit beside them; an underscore ends a word."""
    either = "|".join(words) or "(?!)"
    return re.compile(rf"(?<![^\W_])(?:{either})(?![^\W_])", re.NOFLAG if capitals_matter else re.IGNORECASE)


def built_in() -> list[str]:
    """Names of the tables that come with Cloche."""
    files = resources.files("train.rl.domains").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def table_of(name: str) -> Table:
    """A table that comes with Cloche, or a file's.

    Raises:
        BadInput: there is none, or it is not as a table must be.
    """
    if name in built_in():
        return parse(resources.files("train.rl.domains").joinpath(f"{name}.toml").read_bytes(), f"{name}.toml")
    if not name.endswith(".toml") and "/" not in name:
        near = get_close_matches(name, built_in(), 1, 0.0)[0]
        raise BadInput(
            f"there is no domain {name!r}; the nearest is {near!r}", where="domain", hint="cloche domains list"
        )
    try:
        with open(name, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"the table cannot be read: {error.strerror}", where=name, hint=_HINT) from error
    return parse(data, name)


def parse(data: bytes, where: str) -> Table:
    """Read a table.

    Args:
        where: the file, for errors; its name without the ending is the domain's.
    Raises:
        BadInput: naming the file, the table in it, the key, and what to write.
    """
    if len(data) > MOST_BYTES:
        raise BadInput(f"the table is longer than {MOST_BYTES >> 10} KiB", where=where, hint=_HINT)
    try:
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        raise BadInput(
            "the table is no TOML in UTF-8", where=f"{where}:{line[1]}" if line else where, hint=_HINT
        ) from None
    return _Reader(where).table(found, data.decode())


class _Reader:
    """Checks values one by one; every refusal names its place."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, what: str, place: str, write: str) -> BadInput:
        return BadInput(what, where=f"{self.where}, {place}", hint=f"write {write}")

    def keys(self, given: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
        for key in given:
            if key not in known:
                near = get_close_matches(key, known, 1, 0.0)[0]
                raise self.fail(
                    f"there is no key {key!r}; the nearest is {near!r}", place, f"one of: {', '.join(known)}"
                )

    def words(self, given: Any, place: str, write: str) -> tuple[str, ...]:
        if not isinstance(given, list) or not all(isinstance(w, str) and w.strip() for w in given):
            raise self.fail("this is no list of words", place, write)
        return tuple(given)

    def string(self, given: Any, place: str, write: str) -> str:
        if not isinstance(given, str) or not given.strip():
            raise self.fail("this is no text", place, write)
        return given

    def tables(self, given: Any, place: str) -> list[dict[str, Any]]:
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise self.fail("this is no table", place, f"{place} above it, with two brackets")
        return given

    def table(self, found: dict[str, Any], text: str) -> Table:
        self.keys(found, ("title", "asks", "gate", "transform"), "the top")
        title = self.string(found.get("title"), "title", 'title = "Brain MRI"')
        write = f"asks = [...] with any of {', '.join(SORTS)}; [] where no question asks for a place"
        asks = self.words(found.get("asks"), "asks", write)
        for sort in asks:
            if sort not in SORTS:
                near = get_close_matches(sort, SORTS, 1, 0.0)[0]
                raise self.fail(f"nothing is called {sort!r}; the nearest is {near!r}", "asks", write)
        given = self.tables(found.get("transform", []), "[[transform]]")
        if not given:
            raise self.fail("the table declares no transform", "[[transform]]", '[[transform]] and kind = "mirror"')
        common = self.gates(found.get("gate", []), "[[gate]]")
        rules = tuple(self.rule(one, asks, common, f"[[transform]] {k}") for k, one in enumerate(given, 1))
        kinds = [rule.kind.name for rule in rules]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), ""):
            raise self.fail(f"{twice} is declared twice", "[[transform]], kind", "all of its gates under one of them")
        return Table(Path(self.where).name.removesuffix(".toml"), title, asks, rules, text)

    def rule(self, found: dict[str, Any], asks: tuple[str, ...], common: tuple[Gate, ...], place: str) -> Rule:
        self.keys(found, ("kind", "swap", "gate", "force"), place)
        kind = found.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            near = f"; the nearest is {get_close_matches(kind, KINDS, 1, 0.0)[0]!r}" if isinstance(kind, str) else ""
            raise self.fail(f"this is no kind of transform{near}", f"{place}, kind", f"one of: {', '.join(KINDS)}")
        force = found.get("force", False)
        if not isinstance(force, bool):
            raise self.fail("this is neither true nor false", f"{place}, force", "force = true, for a control only")
        gates = common + self.gates(found.get("gate", []), "[[transform.gate]]", f"{place}, ")
        rule = Rule(KINDS[kind], self.pairs(found.get("swap", []), f"{place}, swap"), gates, force)
        if not force:
            self.preserves(rule, asks, f"{place}, swap")
        return rule

    def pairs(self, given: Any, place: str) -> tuple[tuple[str, str], ...]:
        write = 'swap = [["left", "right"]], two different words each'
        if not isinstance(given, list):
            raise self.fail("this is no list of pairs", place, write)
        found: list[tuple[str, str]] = []
        for pair in given:
            words = self.words(pair, place, write)
            if len(words) != 2 or words[0].lower() == words[1].lower() or not all(map(_WORD.fullmatch, words)):
                raise self.fail("this is no pair of two words", place, write)
            found.append((words[0], words[1]))
        flat = [word.lower() for pair in found for word in pair]
        if twice := next((word for word in flat if flat.count(word) > 1), ""):
            raise self.fail(f"{twice!r} stands in two pairs, so it would have two counterparts", place, write)
        return tuple(found)

    def gates(self, given: Any, name: str, place: str = "") -> tuple[Gate, ...]:
        return tuple(self.gate(one, f"{place}{name} {k}") for k, one in enumerate(self.tables(given, name), 1))

    def gate(self, found: dict[str, Any], place: str) -> Gate:
        self.keys(found, ("words", "in", "why"), place)
        words = self.words(found.get("words"), f"{place}, words", 'words = ["heart", "aortic arch"]')
        for word in words:
            try:
                empty = re.compile(word).match("")
            except (re.error, RecursionError, OverflowError):
                raise self.fail(
                    "a word is no regular expression", f"{place}, words", "a backslash before ( ) [ ] + * ? ."
                ) from None
            if empty:
                raise self.fail("a word matches the empty text", f"{place}, words", "a word that is really there")
        if not words:
            raise self.fail("the gate names no words", f"{place}, words", 'words = ["heart", "aortic arch"]')
        looks = found.get("in", "both")
        if looks not in PLACES:
            raise self.fail("a gate does not look there", f"{place}, in", f"one of: {', '.join(PLACES)}")
        why = self.string(found.get("why"), f"{place}, why", 'why = "the heart lies on one side"')
        return Gate(words, str(looks), why)

    def preserves(self, rule: Rule, asks: tuple[str, ...], place: str) -> None:
        """Refuse a transform that makes asked-for positions wrong; the nearest right thing is named."""
        name = rule.kind.name
        for pair in rule.swap:
            for one, other in (pair, pair[::-1]):
                right = rule.kind.counterpart(one.lower())
                if one.lower() in rule.kind.moved and right != other.lower():
                    write = f'["{one}", "{right}"]' if right else f"no pair with {one!r}: gate it out"
                    raise self.fail(f"under {name}, {one!r} does not become {other!r}", place, write)
        swapped = {word for pair in rule.swap for word in pair}
        for sort in asks:
            for word in dict.fromkeys(w for pair in SORTS[sort] for w in pair):
                if word not in rule.kind.moved or word in swapped or rule.kind.counterpart(word) in swapped:
                    continue
                if any(g.place == "both" and g.pattern.fullmatch(word) for g in rule.gates) or word not in _PLAIN:
                    continue
                right = rule.kind.counterpart(word)
                either = f'swap = [["{word}", "{right}"]], or ' if right else ""
                raise self.fail(
                    f"the domain's questions ask for {sort}, {name} moves {word!r}, and the table does not say what "
                    f"becomes of it",
                    place,
                    f'{either}a gate with words = ["{word}"] in = "both", or force = true for a control experiment',
                )


_PLAIN = frozenset({
    "left", "right", "top", "bottom", "upper", "lower", "above", "below", "north", "south", "east", "west",
    "horizontal", "vertical",
})  # fmt: skip
"""Position words that a table must speak of where its questions ask for them; longer forms are gated by themselves."""
