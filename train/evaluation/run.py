"""Ask a model a list of questions and score what it says; the same code for transformers and GGUF."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from PIL import Image

from train.evaluation.scorers import parsed, published_closed, strict_closed
from train.evaluation.statistics import Interval, bootstrap


@dataclass(frozen=True)
class Item:
    """One closed question."""

    id: str
    """Stable name."""
    image: str
    """Id of the image."""
    text: str
    """What is asked, prompt wording included."""
    choices: tuple[str, ...]
    """The answers that count as parsed."""
    answer: str
    """The right one."""
    kind: str
    """Kind of question, for the breakdown."""
    group: str = ""
    """The patient: what the bootstrap draws again."""


class Answerer(Protocol):
    """Anything that takes an image and questions about it and gives short answers."""

    def answers(self, image: Image.Image | None, questions: Sequence[str]) -> list[str]:
        """One greedy answer a question."""


@dataclass(frozen=True)
class Scored:
    """An answered question."""

    item: Item
    """The question."""
    said: str
    """What the model said."""
    strict: bool
    """Right by the strict rule."""
    published: bool
    """Right by the published rule."""
    parsed: bool
    """Exactly one choice was named."""


@dataclass(frozen=True)
class Result:
    """The scores of one model on one suite."""

    scored: tuple[Scored, ...]
    """Every question with its answer."""

    def accuracy(self, rule: str = "strict", kind: str | None = None) -> Interval:
        """Accuracy with its interval, of all questions or of one kind."""
        chosen = [s for s in self.scored if kind is None or s.item.kind == kind]
        return bootstrap([getattr(s, rule) for s in chosen], [s.item.group or s.item.id for s in chosen])

    def kinds(self) -> list[str]:
        """Kinds of questions, sorted."""
        return sorted({s.item.kind for s in self.scored})

    def to_dict(self) -> dict[str, Any]:
        """Accuracies by rule and kind; no question and no answer."""
        whole = {rule: asdict(self.accuracy(rule)) for rule in ("strict", "published", "parsed")}
        return {**whole, "kinds": {k: asdict(self.accuracy("strict", k)) for k in self.kinds()}}


def evaluate(
    answerer: Answerer,
    items: Sequence[Item],
    image: Callable[[str], Image.Image | None],
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Result:
    """Ask everything, image by image.

    Args:
        image: opens an image by id; None shows none.
    """
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image, []).append(item)
    scored: dict[str, Scored] = {}
    for image_id, asked in by_image.items():
        for item, said in zip(asked, answerer.answers(image(image_id), [i.text for i in asked]), strict=True):
            right = strict_closed(said, item.answer, item.choices)
            scored[item.id] = Scored(item, said, right, published_closed(said, item.answer), parsed(said, item.choices))
        progress(len(scored), len(items), "questions")
    return Result(tuple(scored[i.id] for i in items))


def majority(items: Sequence[Item]) -> float:
    """Accuracy of the answer that is most frequent in each kind: what can be had without looking."""
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        kind = counts.setdefault(item.kind, {})
        kind[item.answer] = kind.get(item.answer, 0) + 1
    return sum(max(kind.values()) for kind in counts.values()) / len(items)
