"""Rewards by name, as a person types them: NAME or NAME:PARAMETER."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from audit.errors import BadInput
from train.rl.rewards.brevity import Brevity
from train.rl.rewards.case import Reward
from train.rl.rewards.closed import Closed
from train.rl.rewards.exact import Exact
from train.rl.rewards.format import Format
from train.rl.rewards.number import MOST, Number
from train.rl.rewards.rouge_l import RougeL
from train.rl.rewards.rules import DomainRules
from train.rl.rewards.token_f1 import TokenF1
from train.rl.rules.file import read_rules
from train.rl.text import words


@dataclass(frozen=True)
class Kind:
    """A reward of the list."""

    spelt: str
    """How it is typed, with its parameter."""
    pays: str
    """What for, in a line."""
    make: Callable[[str], Reward]
    """Of the parameter; empty where there is none."""
    takes: bool = True
    """Whether it takes a parameter."""
    needs: bool = False
    """Whether it needs one."""


def _closed(given: str) -> Reward:
    choices = tuple(one.strip() for one in given.split(",")) if given else ()
    if given and (
        len(choices) < 2 or not all(words(c) for c in choices) or len({*map(str.lower, choices)}) < len(choices)
    ):
        raise _bad("closed", "needs two or more different choices with commas between", "closed:axial,coronal,sagittal")
    return Closed(choices)


def _number(given: str) -> Reward:
    try:
        tolerance = float(given or "0.05")
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance <= MOST:
        raise _bad("number", f"needs a tolerance from 0 to {MOST}", "number:0.05")
    return Number(tolerance)


def _rules(given: str) -> Reward:
    found = read_rules(Path(given))
    return DomainRules(found.rules, found.digest)


def _brevity(given: str) -> Reward:
    base = named(given) if given else TokenF1()
    if isinstance(base, Brevity | Format):
        raise _bad("brevity", "needs a reward for being right", "brevity:closed")
    return Brevity(base)


KINDS: dict[str, Kind] = {
    "exact": Kind("exact", "the reference's words and no others", lambda _: Exact(), takes=False),
    "closed": Kind("closed[:A,B,C]", "yes or no, or one of the choices, and no other", _closed),
    "token_f1": Kind("token_f1", "words shared with the reference", lambda _: TokenF1(), takes=False),
    "rouge_l": Kind("rouge_l", "words shared with the reference in its order", lambda _: RougeL(), takes=False),
    "number": Kind("number[:TOLERANCE]", "a number near enough, in any unit of its kind", _number),
    "format": Kind(
        "format[:TEMPLATE]", "the declared form, whole; wrong answers too", lambda t: Format(t) if t else Format()
    ),
    "brevity": Kind("brevity[:REWARD]", "what REWARD pays (token_f1), less for needless words", _brevity),
    "rules": Kind("rules:FILE", "what a right answer earns, less for a broken rule of FILE", _rules, needs=True),
}
"""Every reward, in the order in which a person meets them."""


def named(spec: str) -> Reward:
    """The reward of a name such as ``exact``, ``number:0.05``, ``rules:FILE`` or ``brevity:number:0.05``.

    Raises:
        BadInput: there is none of that name, or its parameter will not do.
    """
    name, colon, given = spec.partition(":")
    kind = KINDS.get(name.strip())
    if kind is None:
        near = get_close_matches(name, KINDS, 1, 0.0)
        raise BadInput(
            f"there is no reward {name[:40]!r}; the nearest is {near[0]!r}",
            where="--reward",
            hint="cloche rewards list",
        )
    given = given.strip()
    if (colon and not (given and kind.takes)) or (kind.needs and not given):
        raise _bad(name, "takes no parameter" if not kind.takes else "lacks what stands after the colon", kind.spelt)
    return replace(kind.make(given), name=spec.strip())  # type: ignore[type-var]


def _bad(name: str, problem: str, example: str) -> BadInput:
    return BadInput(f"the reward {name} {problem}", where="--reward", hint=f"type it as {example}")
