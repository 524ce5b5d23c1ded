"""Scoring: the strict rule without the published rule's flaws, intervals over patients, paired tests, order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from audit.conversation import Turn
from tests.train.conftest import picture
from train.evaluation.answerers import TransformersAnswerer, logits_of
from train.evaluation.run import Item, evaluate, majority
from train.evaluation.scorers import final_answer, parsed, published_closed, strict_closed
from train.evaluation.statistics import bootstrap, mcnemar
from train.gguf.verify import Prompt
from train.models.generation import Sampling, generate, text_of

YES_NO = ("yes", "no")


@pytest.mark.parametrize(
    ("said", "answer", "choices", "strict", "published"),
    [
        ("Yes", "yes", YES_NO, True, True),
        ("No.", "no", YES_NO, True, True),
        ("No.", "yes", YES_NO, False, False),
        ("The brain looks normal.", "no", YES_NO, False, True),  # "no" stands in "normal"
        ("I do not know", "no", YES_NO, False, True),
        ("yes, no, yes", "yes", YES_NO, False, True),  # both words are always right by the published rule
        ("yes, no, yes", "no", YES_NO, False, True),
        ("There is no doubt: yes", "no", YES_NO, False, True),
        ("There is no lesion at first sight, but the answer is yes.", "yes", YES_NO, True, True),
        ("There is no lesion at first sight, but the answer is yes.", "no", YES_NO, False, True),
        ("eyes", "yes", YES_NO, False, True),
        ("", "no", YES_NO, False, False),
        ("It is in the left lobe", "left", ("left", "right"), True, True),
        ("cleft", "left", ("left", "right"), False, True),
        ("left and right", "left", ("left", "right"), False, True),
        ("T1 with contrast", "T1", ("T1", "T2"), True, True),
        ("T10", "T1", ("T1", "T2"), False, True),
        ("The Frontal   Lobe!", "frontal lobe", ("frontal lobe", "occipital lobe"), True, False),
        ("lobe frontal", "frontal lobe", ("frontal lobe", "occipital lobe"), False, False),
    ],
)
def test_the_strict_rule_has_none_of_the_published_flaws(
    said: str, answer: str, choices: tuple[str, ...], strict: bool, published: bool
) -> None:
    assert strict_closed(said, answer, choices) is strict
    assert published_closed(said, answer) is published


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("The answer is yes.", "yes."),
        ("No. The answer is: no\n", "no"),
        ("The answer is left. But the final ANSWER IS right", "right"),
        ("One reason.\nHence the answer is\nno", "no"),
        ("yes", "yes"),
        ("the answer is", "the answer is"),
        ("the answer isotope", "the answer isotope"),
    ],
)
def test_the_final_answer_is_what_follows_the_last_words(said: str, wanted: str) -> None:
    assert final_answer(said) == wanted


@given(st.text(max_size=40), st.sampled_from(YES_NO))
def test_right_by_the_strict_rule_is_parsed_and_only_one_answer_is_right(said: str, answer: str) -> None:
    right = [choice for choice in YES_NO if strict_closed(said, choice, YES_NO)]
    assert len(right) == int(parsed(said, YES_NO))
    assert strict_closed(f"{said}. The answer is {answer}", answer, YES_NO)


def test_whole_patients_are_drawn_again() -> None:
    """Ten patients with ten like answers each: the interval is that of ten values, not of a hundred."""
    of_patient = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    values = [float(v) for v in of_patient for _ in range(10)]
    groups = [f"p{k}" for k in range(10) for _ in range(10)]
    found, plain = bootstrap(values, groups), bootstrap(values)
    assert (found.mean, found.n) == (0.6, 100)
    few = bootstrap([float(v) for v in of_patient])
    assert (found.low, found.high) == pytest.approx((few.low, few.high), abs=0.11)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.24 / 10) ** 0.5, rel=0.15)
    assert plain.high - plain.low == pytest.approx(2 * 1.96 * (0.24 / 100) ** 0.5, rel=0.15)
    assert bootstrap(values, groups) == found
    shuffled = np.random.default_rng(0).permutation(100)
    again = bootstrap([values[k] for k in shuffled], [groups[k] for k in shuffled])
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


def test_patients_count_by_their_questions() -> None:
    """A patient with many questions weighs more: resampled means are of questions, not of patients."""
    values = [1.0] * 90 + [0.0]
    found = bootstrap(values, ["many"] * 90 + ["one"])
    assert found.mean == pytest.approx(90 / 91)
    assert (found.low, found.high) == (0.0, 1.0)
    assert bootstrap([1.0, 1.0]).low == 1.0
    assert bootstrap([]).n == 0 and np.isnan(bootstrap([]).mean)


def test_mcnemar_has_known_values() -> None:
    def pairs(gained: int, lost: int, same: int = 7) -> tuple[list[bool], list[bool]]:
        return [False] * gained + [True] * (lost + same), [True] * gained + [False] * lost + [True] * same

    assert mcnemar(*pairs(0, 0)) == 1.0
    assert mcnemar(*pairs(5, 0)) == pytest.approx(0.0625)
    assert mcnemar(*pairs(3, 3)) == 1.0
    assert mcnemar(*pairs(1, 9)) == pytest.approx(22 / 1024)
    with pytest.raises(ValueError, match="shorter|longer"):
        mcnemar([True], [True, False])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_is_the_exact_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    gained, lost = sum(a and not b for b, a in pairs), sum(b and not a for b, a in pairs)
    wanted = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(before, after) == pytest.approx(wanted, rel=1e-9)


def item(number: int, image: str, answer: str, kind: str, group: str = "") -> Item:
    return Item(f"q{number}", image, f"question {number}", YES_NO, answer, kind, group)


ITEMS = [
    item(1, "a", "yes", "lesion", "p1"), item(2, "b", "no", "side", "p2"), item(3, "a", "no", "lesion", "p1"),
    item(4, "c", "yes", "side", "p1"), item(5, "b", "no", "lesion", "p2"),
]  # fmt: skip


class Recorder:
    """Answers a question by its number: yes to odd ones, "normal" to even ones."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def answers(self, image: Image.Image | None, questions: Sequence[str]) -> list[str]:
        self.asked.append(("blank" if image is None else str(image.getpixel((0, 0))), list(questions)))
        return ["Yes." if int(q.split()[1]) % 2 else "normal" for q in questions]


def test_each_image_is_opened_once_and_answers_keep_their_questions() -> None:
    opened: list[str] = []

    def image(name: str) -> Image.Image:
        opened.append(name)
        return Image.new("L", (1, 1), ord(name))

    recorder, done = Recorder(), []
    result = evaluate(recorder, ITEMS, image, lambda d, n, what: done.append((d, n)))
    assert opened == ["a", "b", "c"]
    assert recorder.asked == [
        ("97", ["question 1", "question 3"]), ("98", ["question 2", "question 5"]), ("99", ["question 4"]),
    ]  # fmt: skip
    assert done == [(2, 5), (4, 5), (5, 5)]
    assert [s.item for s in result.scored] == ITEMS
    assert [s.said for s in result.scored] == ["Yes.", "normal", "Yes.", "normal", "Yes."]
    assert [s.strict for s in result.scored] == [True, False, False, False, False]
    assert [s.published for s in result.scored] == [True, True, False, False, False]
    assert [s.parsed for s in result.scored] == [True, False, True, False, True]
    assert result.kinds() == ["lesion", "side"]
    assert result.accuracy("strict").mean == 0.2 and result.accuracy("published").mean == 0.4
    assert result.accuracy("strict", "lesion").mean == pytest.approx(1 / 3)
    assert result.accuracy("parsed", "side").mean == 0.0
    said = result.to_dict()
    assert said["strict"]["mean"] == 0.2 and said["kinds"]["lesion"]["n"] == 3
    assert "question" not in str(said) and "normal" not in str(said)


def test_the_intervals_of_a_result_are_of_patients() -> None:
    result = evaluate(Recorder(), ITEMS, lambda name: None)
    values, patients = [True, False, False, False, False], ["p1", "p2", "p1", "p1", "p2"]
    assert result.accuracy() == bootstrap(values, patients) != bootstrap(values)


def test_a_blank_image_can_be_shown() -> None:
    recorder = Recorder()
    evaluate(recorder, ITEMS, lambda name: None)
    assert {image for image, _ in recorder.asked} == {"blank"}


def test_the_majority_is_of_each_kind() -> None:
    assert majority(ITEMS) == pytest.approx((2 + 1) / 5)
    assert majority([item(k, "a", "yes", "x") for k in range(3)]) == 1.0


def test_a_transformers_model_answers_as_it_generates(loaded: Any, features: Any) -> None:
    questions = ["Is the lesion visible?", "Where?", "What plane and where is the red lesion?"]
    for name in ("1:48:32", ""):
        ids, grids = ((name,), [features.grid(name)]) if name else ((), [])
        asked = [loaded.encoder.prompt([Turn("user", q)], ids, grids) for q in questions]
        wanted = [text_of(loaded, c) for (c,) in generate(loaded, asked, features, Sampling(6))]
        image = picture(1, 48, 32) if name else None
        assert TransformersAnswerer(loaded, 6).answers(image, questions) == wanted


def test_reference_logits_are_greedy_where_the_model_is(loaded: Any, features: Any) -> None:
    reference = logits_of(loaded)
    for seed in (1, 2, 1):
        asked = loaded.encoder.prompt([Turn("user", "Where?")], (f"{seed}:48:32",), [features.grid(f"{seed}:48:32")])
        said = generate(loaded, [asked], features, Sampling(6))[0][0]
        found = reference(Prompt("where", (Turn("user", "Where?"),), picture(seed, 48, 32)), said.ids)
        assert found.shape == (len(said.ids), 512)
        assert found.argmax(-1).tolist() == list(said.ids)
        at = np.arange(len(said.ids)), np.array(said.ids)
        scores = (
            found
            - np.log(np.exp(found - found.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - found.max(-1, keepdims=True)
        )
        assert scores[at] == pytest.approx(np.array(said.logprobs), abs=1e-3)
