"""The answer key: captions are true of it, questions score their own answers, wordings are understood."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.demo.hospital import captions
from appliance.demo.hospital.claims import holds
from appliance.demo.hospital.questions import Question, questions
from appliance.demo.hospital.scoring import score
from appliance.demo.hospital.structures import ALIASES, NAMES, PLANES, READABLE, SIDES
from appliance.demo.hospital.truth import LesionTruth, SliceTruth, Tone

AXIAL = SliceTruth(
    slice_id="img00001",
    patient="HN123456",
    plane="axial",
    coordinate_mm=4,
    slab=0,
    split="held-out",
    visible=("thalamus", "putamen", "precuneus", "brain stem"),
    faint=("insula",),
    left=("thalamus", "putamen", "precuneus"),
    right=("thalamus", "precuneus"),
    lesion=LesionTruth("left", "putamen", "bright", 90),
    lesion_faint=False,
)
TONES: tuple[Tone, ...] = ("bright", "dark")
CLEAR = dataclasses.replace(AXIAL, lesion=None, plane="coronal")
SAGITTAL = dataclasses.replace(AXIAL, plane="sagittal", right=())


@st.composite
def truths(draw: st.DrawFn) -> SliceTruth:
    """Any ground truth that slices.py could write."""
    names = draw(st.permutations(NAMES))
    visible = tuple(names[: draw(st.integers(0, 12))])
    faint = tuple(names[12 : 12 + draw(st.integers(0, 6))])
    on = {name: draw(st.sampled_from((SIDES, SIDES[:1], SIDES[1:]))) for name in visible}
    left, right = (tuple(name for name in visible if side in on[name]) for side in SIDES)
    lesion, ill = None, draw(st.booleans())
    if visible and ill:
        side, tone = draw(st.sampled_from(SIDES)), draw(st.sampled_from(TONES))
        lesion = LesionTruth(side, draw(st.sampled_from(visible)), tone, draw(st.integers(45, 250)))
    return SliceTruth(
        slice_id=f"img{draw(st.integers(0, 10**5)):05d}",
        patient="HN123456",
        plane=draw(st.sampled_from(PLANES)),
        coordinate_mm=draw(st.integers(-90, 66)),
        slab=0,
        split="held-out",
        visible=visible,
        faint=faint,
        left=left,
        right=right,
        lesion=lesion,
        lesion_faint=lesion is None and draw(st.booleans()),
    )


@given(truths())
def test_truth_survives_json(truth: SliceTruth) -> None:
    assert SliceTruth.from_json(truth.to_json()) == truth


@given(truths(), st.integers())
def test_every_caption_sentence_is_true(truth: SliceTruth, seed: int) -> None:
    said = captions.sentences(truth, random.Random(seed))
    assert [holds(sentence, truth) for sentence in said] == [True] * len(said)
    assert (truth.lesion is not None) == any(
        "lesion" in one and not one.startswith(("No", "There is no")) and "no lesion" not in one for one in said
    )


@given(truths(), truths(), st.integers())
def test_a_caption_of_another_slice_is_not_all_true(one: SliceTruth, two: SliceTruth, seed: int) -> None:
    if one.plane != two.plane:
        assert holds(captions.sentences(one, random.Random(seed))[0], two) is False


@settings(max_examples=25, deadline=None)
@given(st.lists(truths(), min_size=2, max_size=25, unique_by=lambda truth: truth.slice_id), st.integers(0, 99))
def test_questions_score_their_own_answers_and_are_balanced(slices: list[SliceTruth], seed: int) -> None:
    by_id = {truth.slice_id: truth for truth in slices}
    asked = questions(slices, seed)
    assert asked == questions(slices, seed)
    for question in asked:
        right = {choice: score(question.text, choice, by_id[question.slice_id]) for choice in question.choices}
        assert right == {choice: choice == question.answer for choice in question.choices}, question
        assert Question.from_json(question.to_json()) == question
    for template in {question.template for question in asked}:
        group = [question for question in asked if question.template == template]
        counts = {choice: sum(question.answer == choice for question in group) for choice in group[0].choices}
        assert len(set(counts.values())) == 1, (template, counts)
        for text in {question.text for question in group if question.kind == "structure_yesno"}:
            assert sorted(question.answer for question in group if question.text == text) == ["No", "Yes"]


RIGHT = [
    ("Is the thalamus visible?", "Yes"),
    ("Can you see the putamen?", "Yes, the putamen can be seen."),
    ("Does this image show the hippocampus?", "No"),
    ("Does this image show the hippocampus?", "The hippocampus is not visible."),
    ("Is the cuneus visible?", "No."),
    ("Are the thalamus and the putamen visible?", "yes"),
    ("Are the thalamus and the hippocampus visible?", "no"),
    ("Is the brainstem seen in this slice?", "The brain stem is seen."),
    ("In this axial slice, is the thalamus visible?", "Yes"),
    ("Is the hippocampus absent?", "Yes"),
    ("Is the hippocampus absent?", "The hippocampus is not visible."),
    ("Is the right putamen visible?", "No"),
    ("Which plane is shown?", "axial"),
    ("Which plane is shown?", "The answer is axial."),
    ("What view is this?", "An axial view of the brain."),
    ("What is the orientation of this slice: axial, coronal or sagittal?", "Axial"),
    ("In which plane is this lesion shown?", "axial"),
    ("Is this an axial slice?", "Yes"),
    ("Is this an axial slice?", "It is axial."),
    ("Is this a coronal slice?", "No, it is axial."),
    ("Is this a coronal slice?", "axial"),
    ("Is this slice axial or coronal?", "axial"),
    ("Is there a lesion?", "Yes."),
    ("Is there a lesion? Answer yes or no.", "yes"),
    ("Is a lesion seen in the left putamen?", "Yes"),
    ("Is there a dark lesion?", "No"),
    ("Is the lesion bright or dark?", "bright"),
    ("What is the signal of the lesion?", "It is bright."),
    ("On which side is the lesion?", "left"),
    ("On which side is the lesion?", "The answer is left."),
    ("On which side of the patient is the lesion: left or right?", "on the left"),
    ("On which side of the image is the lesion?", "right"),
    ("Radiological convention: the patient's left is on the image's right. Which side is the lesion on?", "left"),
    ("Where is the lesion?", "in the left putamen"),
    ("Where is the lesion?", "The putamen."),
    ("Where is the lesion?", "on the left"),
    ("Which structure contains the lesion: the putamen or the thalamus?", "the putamen"),
    ("Is the lesion on the left?", "Yes"),
    ("Is the lesion on the right?", "No, on the left."),
    ("Is the lesion in the thalamus?", "It is in the putamen."),
    ("Which structure is visible: the hippocampus or the thalamus?", "thalamus"),
    ("Which structures are visible?", "The thalamus and putamen."),
    ("Which structure is not seen?", "the hippocampus"),
]


@pytest.mark.parametrize(("question", "answer"), RIGHT)
def test_right_answers_in_many_wordings(question: str, answer: str) -> None:
    assert score(question, answer, AXIAL) is True


WRONG = [
    ("Is the thalamus visible?", "No"),
    ("Is the thalamus visible?", "The thalamus is not seen."),
    ("Is the thalamus visible?", "a nice picture"),
    ("Is the thalamus visible?", "yes and no, not sure"),
    ("Is the cuneus visible?", "Yes"),
    ("Is this an axial slice?", "Yes, it is coronal."),
    ("Which plane is shown?", "coronal"),
    ("Which plane is shown?", "axial or coronal"),
    ("Which plane is shown?", "not axial"),
    ("Is there a lesion?", "No lesion is seen."),
    ("Is there a lesion?", ""),
    ("On which side is the lesion?", "right"),
    ("On which side is the lesion?", "There is no lesion."),
    ("Where is the lesion?", "in the right putamen"),
    ("Where is the lesion?", "in the thalamus"),
    ("Is the lesion on the right?", "Yes"),
    ("Is the lesion bright or dark?", "dark"),
    ("Which structures are visible?", "The thalamus and the hippocampus."),
]


@pytest.mark.parametrize(("question", "answer"), WRONG)
def test_wrong_or_mumbled_answers(question: str, answer: str) -> None:
    assert score(question, answer, AXIAL) is False


@pytest.mark.parametrize(
    ("question", "truth"),
    [
        ("Is the insula visible?", AXIAL),  # faint
        ("Is the cerebellum visible?", AXIAL),  # not in the atlas
        ("Is the left ventricle enlarged?", AXIAL),
        ("What does the image show?", AXIAL),
        ("Describe the slice.", AXIAL),
        ("Is there no lesion?", AXIAL),
        ("Is the thalamus visible in this coronal slice?", AXIAL),
        ("On which side is the lesion?", SAGITTAL),
        ("Is the lesion on the left?", SAGITTAL),
        ("Is there a lesion?", dataclasses.replace(CLEAR, lesion_faint=True)),
        ("", AXIAL),
    ],
)
def test_what_cannot_be_scored(question: str, truth: SliceTruth) -> None:
    assert score(question, "yes", truth) is None


def test_a_lesion_that_is_not_there_may_only_be_denied() -> None:
    assert score("Is there a lesion?", "No lesion is seen.", CLEAR) is True
    assert score("Is the lesion on the left?", "yes", CLEAR) is False
    assert score("On which side is the lesion?", "There is no lesion.", CLEAR) is True
    assert score("On which side is the lesion?", "left", CLEAR) is False
    assert score("Where is the lesion?", "in the putamen", SAGITTAL) is True


@given(st.text(max_size=80), st.text(max_size=80), truths())
def test_any_text_is_scored_or_left_without_an_error(question: str, answer: str, truth: SliceTruth) -> None:
    assert score(question, answer, truth) in (True, False, None)


def test_names_are_readable_and_distinct() -> None:
    assert set(ALIASES.values()) <= set(NAMES) == set(READABLE.values())
    assert all(name == name.lower() and name.replace(" ", "").isalpha() for name in NAMES)
