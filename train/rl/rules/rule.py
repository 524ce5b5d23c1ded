"""What every rule is, and how it finds words: on word boundaries, and not where they are denied."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from train.rl.guards import NEGATIONS
from train.rl.text import starts_of, words

REACH = 3
"""Words after a negation that it may deny."""
Terms = tuple[str, ...]
"""Words or phrases that mean the same."""


@dataclass(frozen=True)
class Found:
    """What a rule says of an answer."""

    score: float | None
    """In [0, 1]; None where the rule is not about this question or answer."""
    why: str
    """A sentence for a person. It may quote the answer: never log it."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """One table of a rules file."""

    name: str
    """The clinician's name for it."""
    because: str = ""
    """The clinician's reason."""
    when: Terms = ()
    """It is about questions with one of these; about all where there is none."""

    def judge(self, question: str, reference: str, completion: str) -> Found:
        """The score and a sentence why."""
        if self.when and not said(self.when, question):
            return Found(None, "the question is about something else")
        found = self.weigh(question, reference, completion)
        return Found(found.score, f"{found.why} ({self.because})") if self.because and found.score != 1 else found

    @abstractmethod
    def weigh(self, question: str, reference: str, completion: str) -> Found:
        """The same, for a question that it is about."""

    @abstractmethod
    def told(self) -> str:
        """The rule as a sentence, for who reviews it."""


def said(terms: Terms, text: str) -> str:
    """The first of the terms that stands in a text; empty where none does."""
    found = words(text)
    return next((term for term in terms if starts_of(words(term), found)), "")


def claimed(terms: Terms, text: str) -> str:
    """The first of the terms that stands in a text and is not denied there ("no oedema"); empty where none does."""
    found = words(text)
    for term in terms:
        for at in starts_of(words(term), found):
            if not any(w in NEGATIONS or w.endswith("n't") for w in found[max(0, at - REACH) : at]):
                return term
    return ""
