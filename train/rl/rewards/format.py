"""The declared form of an answer, whole: a form that is somewhere inside earns nothing."""

import re
from dataclasses import dataclass
from functools import cached_property

from audit.errors import BadInput
from train.rl.guards import idle
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import words
from train.rl.units import quantities

SLOTS = {"answer": 40, "number": 8, "rationale": 400}
"""What a template may leave open, and how many words it may have."""
FEWEST_REASONS = 3
"""Different words of a rationale at least: a letter is none."""
_SLOT = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Format(Reward):
    """1 where the completion is the template from its first letter to its last, each part of it once and filled.

    Pays for form alone, a wrong answer in the form as well: give it beside a reward for being right.
    """

    template: str = "{rationale} The answer is {answer}."
    """Literal text with {answer}, {number} and {rationale}; white space is free."""
    name: str = "format"

    def __post_init__(self) -> None:
        slots = _SLOT.findall(self.template)
        parts = _SLOT.split(self.template)
        if not slots or set(slots) - set(SLOTS) or len(set(slots)) < len(slots):
            problem = "needs each of its parts once, out of {answer}, {number} and {rationale}"
        elif any(not part.strip() for part in parts[2:-1:2]):
            problem = "has nothing between two of its parts"
        elif not any(re.search(r"\w", part) for part in parts[::2]):
            problem = "has no word of its own, so that any text fits it"
        else:
            return
        raise BadInput(
            f"the template of the format reward {problem}", where="format:TEMPLATE", hint="cloche rewards list"
        )

    @cached_property
    def _literals(self) -> list[re.Pattern[str] | None]:
        return [_whole(part) for part in _SLOT.split(self.template)[::2]]

    def unfit(self, question: str, reference: str) -> str:
        return ""

    def weigh(self, case: Case) -> Verdict:
        if not case.ended:
            return Verdict(0.0, "the answer did not come to an end")
        filled = self._filled(" ".join(case.completion.split()))
        if filled is None:
            return Verdict(0.0, "the answer is not in the declared form, or has a part of the form twice")
        for slot, text in filled.items():
            said = words(text)
            if why := idle(case.question, case.reference, text):
                return Verdict(0.0, f"{slot}: {why}")
            if len(said) > SLOTS[slot]:
                return Verdict(0.0, f"{slot}: more than {SLOTS[slot]} words")
            if said == [slot] or _SLOT.search(text):
                return Verdict(0.0, f"{slot}: only its name stands there")
            if slot == "rationale" and len(set(said)) < FEWEST_REASONS:
                return Verdict(0.0, f"rationale: fewer than {FEWEST_REASONS} different words")
            if slot == "number" and len(quantities(text)) != 1:
                return Verdict(0.0, "number: not one number")
        return Verdict(1.0, "the answer is in the declared form")

    def _filled(self, text: str) -> dict[str, str] | None:
        """What stands in each slot; None where the text is not the form. Cuts at literals: no pattern to backtrack."""
        at, found = 0, list[str]()
        for number, literal in enumerate(self._literals):
            last = number == len(self._literals) - 1
            if literal is None:  # the template begins or ends with a slot
                if number:
                    found.append(text[at:])
                continue
            places = [m.span() for m in literal.finditer(text, at)]
            if not places:
                return None
            start, end = places[-1] if last else places[0]
            if (number == 0 and start) or (last and end < len(text)):
                return None
            if number:
                found.append(text[at:start])
            at = end
        if any(literal and _worded(literal) and literal.search(one) for one in found for literal in self._literals):
            return None
        return dict(zip(_SLOT.findall(self.template), [one.strip() for one in found], strict=True))


def _whole(literal: str) -> re.Pattern[str] | None:
    """Finds literal text on word boundaries, with any white space where it has some and between tags."""
    parts = [re.escape(part).replace("><", r">\s*<") for part in literal.split()]
    if not parts:
        return None
    before = r"\b" if re.match(r"\s*\w", literal) else ""
    after = r"(?![\w'])" if re.search(r"\w\s*$", literal) else ""
    return re.compile(before + r"\s+".join(parts) + after)


def _worded(literal: re.Pattern[str]) -> bool:
    return bool(re.search(r"\w{2}", literal.pattern))
