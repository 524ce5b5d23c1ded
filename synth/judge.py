"""The judge: does the precise answer follow from the informative one? Yes, No or Open (METHODS 1.4).

The label is read from log-probabilities, not from a sampled word, and its margin is stored. The judge sees no image.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from audit.conversation import Turn
from synth.triplet import Triplet
from train.data.encode import continued
from train.data.rows import Row, collate, shared_row
from train.models.forward import learned_logits
from train.models.loading import Loaded

LABELS = ("Yes", "No", "Open")
FORM = "## Question: {}\n## Informative Answer: {}\n## Precise Answer: {}\n## Consistent:"
"""The judge's turn (METHODS 1.4)."""
TASK = (
    "Decide whether the precise answer can be inferred from the informative answer. Answer Yes if it can, No if it "
    "cannot, and Open if the question admits several answers or asks for a description."
)
EXAMPLES = (
    ("What animal is on the mat?", "A grey cat sleeps on the mat in front of the door.", "A cat", "Yes"),
    ("How many wheels does the cart have?", "The cart rests on two large wooden wheels.", "Four", "No"),
    ("What could the sign mean?", "The sign may warn of ice, of a bend or of deer.", "Danger", "Open"),
    ("Is the window open?", "Cold air comes in through the open window.", "Yes", "Yes"),
    ("Which side of the road is the tree on?", "The tree stands on the left of the road.", "Right", "No"),
    ("Describe the room.", "The room is small and bright, with a bed and a desk.", "A bedroom", "Open"),
)
"""Six examples of our own writing: two of each label."""


class Judge(Protocol):
    """Anything that labels triplets."""

    def margins(self, triplets: Sequence[Triplet], progress: Callable[[int, int], None]) -> list[dict[str, float]]:
        """Log-probability of each label, for each triplet."""


def turns_of(triplet: Triplet, shots: int) -> list[Turn]:
    """The judge's conversation about one triplet, with ``shots`` examples before it."""
    turns: list[Turn] = []
    for question, informative, precise, label in EXAMPLES[:shots]:
        turns += [Turn("user", FORM.format(question, informative, precise)), Turn("assistant", label)]
    turns.append(Turn("user", FORM.format(triplet.instruction, triplet.informative, triplet.precise)))
    return [replace(turns[0], text=f"{TASK}\n\n{turns[0].text}"), *turns[1:]] if shots else turns


class ModelJudge:
    """A transformers model as judge.

    Args:
        shots: examples before the question; 0 for a model that was trained on the form, such as the starter.
    """

    def __init__(self, loaded: Loaded, shots: int = len(EXAMPLES), batch: int = 32) -> None:
        self.loaded, self.shots, self.batch = loaded, shots, batch

    @torch.inference_mode()
    def margins(self, triplets: Sequence[Triplet], progress: Callable[[int, int], None]) -> list[dict[str, float]]:
        """Log-probability of each label; the labels are branches of one row, the question once."""
        rows = [self._row(t) for t in triplets]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found: list[dict[str, float]] = [{} for _ in rows]
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            batch = collate([rows[i] for i in chosen], self.loaded.tokenizer.pad_token_id, self.loaded.device)
            logits = learned_logits(self.loaded.family, self.loaded.model, batch, None)
            each = torch.log_softmax(logits, -1).gather(1, batch.targets[:, None])[:, 0]
            sums = torch.zeros(len(chosen) * len(LABELS), device=each.device).index_add_(0, batch.owners, each)
            for i, values in zip(chosen, sums.view(-1, len(LABELS)).tolist(), strict=True):
                found[i] = dict(zip(LABELS, values, strict=True))
            progress(min(len(order), start + self.batch), len(order))
        return found

    def _row(self, triplet: Triplet) -> Row:
        asked = self.loaded.encoder.prompt(turns_of(triplet, self.shots), (), [])
        branches = []
        for label in LABELS:
            ids = [
                *self.loaded.tokenizer(label, add_special_tokens=False)["input_ids"],
                self.loaded.tokenizer.eos_token_id,
            ]
            branches.append(continued(asked, ids))
        return shared_row(branches)


def judge_all(
    judge: Judge,
    triplets: Sequence[Triplet],
    threshold: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Triplet]:
    """Label the triplets that were not dropped before; drop those whose Yes does not win by ``threshold`` nats."""
    open_ones = [t for t in triplets if t.kept]
    labelled = []
    for triplet, scores in zip(open_ones, judge.margins(open_ones, progress), strict=True):
        verdict = max(scores, key=scores.__getitem__)
        margin = scores["Yes"] - max(scores["No"], scores["Open"])
        reason = "" if margin > threshold else f"judge-{verdict.lower()}" if verdict != "Yes" else "judge-unsure"
        labelled.append(replace(triplet, verdict=verdict, margin=margin, reason=reason))
    by_place = iter(labelled)
    return [next(by_place) if t.kept else t for t in triplets]


class GgufJudge:
    """A GGUF file as judge, through llama.cpp."""

    def __init__(self, file: Path, shots: int = len(EXAMPLES)) -> None:
        self.file, self.shots = file, shots

    def margins(self, triplets: Sequence[Triplet], progress: Callable[[int, int], None]) -> list[dict[str, float]]:
        """Log-probability of each label; the examples stay in the cache from one triplet to the next."""
        from train.gguf.engine import Engine

        found = []
        with Engine(self.file) as engine:
            for number, triplet in enumerate(triplets, 1):
                found.append(engine.score(None, turns_of(triplet, self.shots), LABELS))
                progress(number, len(triplets))
        return found
