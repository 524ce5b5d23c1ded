"""The judge: its log-probabilities are those of the labels, however it batches, and verdicts follow from them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from synth.judge import EXAMPLES, FORM, LABELS, TASK, ModelJudge, judge_all, turns_of
from synth.triplet import Triplet

TRIPLETS = [
    Triplet("r1", "i1", "Is the lesion visible?", "Yes", "Yes, the red lesion is visible in this slice."),
    Triplet("r2", "i2", "Where?", "left", "It is on the right."),
    Triplet("r3", "i3", "What plane and where is it in this slice?", "No", "No plane. " * 8),
    Triplet("r4", "i4", "?", "12", "No."),
]
SILENT = lambda done, total: None  # noqa: E731


def direct(loaded: Any, triplet: Triplet, shots: int) -> dict[str, float]:
    """Log-probability of each label and its end token, one plain sequence at a time."""
    asked = ""
    for number, (q, informative, precise, label) in enumerate(EXAMPLES[:shots]):
        lead = f"{TASK}\n\n" if number == 0 else ""
        form = FORM.format(q, informative, precise)
        asked += f"<|im_start|>user\n{lead}{form}<|im_end|>\n<|im_start|>assistant\n{label}<|im_end|>\n"
    form = FORM.format(triplet.instruction, triplet.informative, triplet.precise)
    asked += f"<|im_start|>user\n{form}<|im_end|>\n<|im_start|>assistant\n"
    before = loaded.tokenizer(asked, add_special_tokens=False)["input_ids"]
    found = {}
    for label in ("Yes", "No", "Open"):
        ids = loaded.tokenizer(f"{asked}{label}<|im_end|>", add_special_tokens=False)["input_ids"]
        assert ids[: len(before)] == before
        with torch.inference_mode():
            scores = torch.log_softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
        found[label] = sum(float(scores[k - 1, ids[k]]) for k in range(len(before), len(ids)))
    return found


@pytest.mark.parametrize("shots", [0, 1, 6])
def test_margins_are_the_labels_log_probabilities(loaded: Any, shots: int) -> None:
    progress: list[tuple[int, int]] = []
    found = ModelJudge(loaded, shots, batch=3).margins(TRIPLETS, lambda d, n: progress.append((d, n)))
    for triplet, scores in zip(TRIPLETS, found, strict=True):
        assert scores == pytest.approx(direct(loaded, triplet, shots), abs=1e-3)
    assert len({round(s["Yes"], 3) for s in found}) == len(TRIPLETS)
    assert progress == [(3, 4), (4, 4)]


def test_batched_equals_one_by_one(loaded: Any) -> None:
    together = ModelJudge(loaded, 2, batch=8).margins(TRIPLETS, SILENT)
    for batch in (1, 2):
        for one, other in zip(ModelJudge(loaded, 2, batch).margins(TRIPLETS, SILENT), together, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    reverse = ModelJudge(loaded, 2).margins(TRIPLETS[::-1], SILENT)
    assert [s["No"] for s in reverse[::-1]] == pytest.approx([s["No"] for s in together], abs=1e-4)
    assert ModelJudge(loaded).margins([], SILENT) == []


def test_the_examples_hold_two_of_each_label_and_lead_the_question() -> None:
    assert sorted(label for *_, label in EXAMPLES) == sorted(2 * LABELS)
    turns = turns_of(TRIPLETS[0], 6)
    assert [t.role for t in turns] == ["user", "assistant"] * 6 + ["user"]
    assert turns[0].text.startswith(TASK) and sum(TASK in t.text for t in turns) == 1
    assert "Is the lesion visible?" in turns[-1].text and turns[-1].text.endswith("## Consistent:")


class Table:
    """A judge whose scores are given."""

    def __init__(self, *scores: tuple[float, float, float]) -> None:
        self.scores, self.asked = scores, list[Triplet]()

    def margins(self, triplets: Sequence[Triplet], progress: Callable[[int, int], None]) -> list[dict[str, float]]:
        self.asked = list(triplets)
        return [dict(zip(LABELS, s, strict=True)) for s in self.scores]


def test_verdicts_follow_the_margins() -> None:
    judge = Table((-1.0, -3.0, -4.0), (-3.0, -1.0, -4.0), (-3.0, -2.0, -1.0), (-1.0, -1.2, -9.0))
    found = judge_all(judge, TRIPLETS, 0.5)
    assert [t.verdict for t in found] == ["Yes", "No", "Open", "Yes"]
    assert [t.margin for t in found] == pytest.approx([2.0, -2.0, -2.0, 0.2])
    assert [t.reason for t in found] == ["", "judge-no", "judge-open", "judge-unsure"]
    assert judge_all(judge, TRIPLETS)[3].kept
    tie = judge_all(Table((-1.0, -1.0, -2.0)), TRIPLETS[:1])[0]
    assert not tie.kept and tie.margin == 0


def test_what_was_dropped_before_is_not_judged_and_keeps_its_place() -> None:
    dropped = Triplet("r9", "i9", "Q", "A", "B", reason="long")
    judge = Table((-1.0, -3.0, -4.0), (-3.0, -1.0, -4.0))
    found = judge_all(judge, [dropped, TRIPLETS[0], dropped, TRIPLETS[1]])
    assert judge.asked == TRIPLETS[:2]
    assert found[0] == found[2] == dropped
    assert [t.record for t in found] == ["r9", "r1", "r9", "r2"]
    assert [t.reason for t in found] == ["long", "", "long", "judge-no"]


def test_the_model_decides_through_its_margins(loaded: Any) -> None:
    scores = [direct(loaded, t, 0) for t in TRIPLETS]
    for triplet, wanted in zip(judge_all(ModelJudge(loaded, 0), TRIPLETS), scores, strict=True):
        assert triplet.verdict == max(wanted, key=wanted.__getitem__)
        assert triplet.margin == pytest.approx(wanted["Yes"] - max(wanted["No"], wanted["Open"]), abs=1e-3)
        assert triplet.kept == (triplet.margin > 0)
