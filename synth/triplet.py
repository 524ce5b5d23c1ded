"""An instruction with a precise and an informative answer, and how to read one out of what a model wrote."""

import json
from dataclasses import asdict, dataclass, field

PRECISE = "Answer with a precise response."
"""First line of a turn that wants a short answer (METHODS 1.2)."""
INFORMATIVE = "Answer with an informative response."
"""First line of a turn that wants a full sentence."""
DESCRIBE = "Describe the image."
"""The caption task's own turn."""


@dataclass(frozen=True)
class Triplet:
    """One synthetic task."""

    record: str
    """Record whose image and caption it was made from."""
    image: str
    """Object id of the image."""
    instruction: str
    """What is asked."""
    precise: str
    """The short answer."""
    informative: str
    """The full answer."""
    borrowed: bool = False
    """The instruction was written for another image, and answered from this caption."""
    verdict: str = ""
    """The judge's label: Yes, No or Open; empty where it was not asked."""
    margin: float = 0.0
    """Log-probability of Yes less that of the better of the others, in nats."""
    reason: str = ""
    """Why it was dropped; empty where it is kept."""

    @property
    def kept(self) -> bool:
        """Whether it goes into training."""
        return not self.reason

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Triplet":
        """The triplet of one line."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Markup:
    """How a model's own chat template marks turns."""

    user: str
    """Opens a user turn."""
    assistant: str
    """Opens an assistant turn."""
    end: str
    """Ends a turn, without trailing white space."""


@dataclass(frozen=True)
class Parsed:
    """What a dialogue held."""

    triplets: tuple[tuple[str, str, str], ...] = field(default=())
    """(instruction, precise, informative), in order."""
    fault: str = ""
    """Why there is none; empty where there is one."""


def parse(text: str, markup: Markup) -> Parsed:
    """Read triplets out of a continuation that began inside a user turn.

    Every instruction that stands under both hints makes one, also when an earlier or later chunk is malformed; an
    unfinished last answer is left out (METHODS 1.3).
    """
    precise: dict[str, str] = {}
    informative: dict[str, str] = {}
    chunks = text.split(markup.user)
    for chunk in chunks:
        question, found, rest = chunk.partition(markup.end)
        if not found or chunk.count(markup.assistant) != 1 or markup.assistant not in rest:
            continue
        answer, ended, _ = rest.split(markup.assistant, 1)[1].partition(markup.end)
        for hint, answers in ((PRECISE, precise), (INFORMATIVE, informative)):
            if ended and question.strip().startswith(hint):
                asked = question.strip()[len(hint) :].strip()
                if asked and answer.strip():
                    answers.setdefault(asked, answer.strip())
    both = tuple((q, precise[q], informative[q]) for q in precise if q in informative)
    if both:
        return Parsed(both)
    if not precise and not informative:
        return Parsed(fault="malformed")
    return Parsed(fault="one-hint-only")
