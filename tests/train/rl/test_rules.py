"""Domain rules: what each kind keeps and breaks, why, and what a broken file is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import BadInput
from train.rl.rules.file import MOST_BYTES, parse_rules, read_rules

EXAMPLE = read_rules(Path(__file__).parents[3] / "docs" / "rules-example.toml")
RULES = {rule.name: rule for rule in EXAMPLE.rules}
PLANE, SHIFT = "Which plane is it?", "How large is the midline shift?"


@pytest.mark.parametrize(
    ("name", "question", "reference", "answer", "score", "why"),
    [
        ("planes", PLANE, "axial", "It is axial.", 1.0, "each word is allowed"),
        ("planes", PLANE, "axial", "transversal", 0.0, "axial, coronal, sagittal"),
        ("planes", PLANE, "axial", "axial oblique", 0.5, "oblique"),
        ("planes", PLANE, "axial", "", 0.0, "none of the words"),
        ("planes", "Where is it?", "left", "transversal", None, "something else"),
        ("size of the ventricles", "What?", "", "Enlarged ventricles, normal size.", 0.0, "both"),
        ("size of the ventricles", "What?", "enlarged", "They are normal in size.", 0.0, "the reference enlarged"),
        ("size of the ventricles", "What?", "enlarged", "They are not enlarged.", 0.0, "says not enlarged"),
        ("size of the ventricles", "What?", "normal size", "Not enlarged, normal size.", 1.0, "no contradiction"),
        ("hydrocephalus", "What?", "", "Hydrocephalus of the left lobe", 0.0, "without its region"),
        ("hydrocephalus", "What?", "", "Hydrocephalus with wide ventricles", 1.0, "with its region"),
        ("hydrocephalus", "What of the ventricles?", "", "Hydrocephalus", 1.0, "with its region"),
        ("hydrocephalus", "What?", "", "Hydrocephalus of ventricle and cerebellum", 0.0, "not in the cerebellum"),
        ("hydrocephalus", "What?", "", "There is no hydrocephalus", 1.0, "not claimed"),
        ("side", "Which side?", "left", "left", 1.0, "the reference's"),
        ("side", "Which side?", "left", "rt frontal", 0.0, "says right, the reference left"),
        ("side", "Which side?", "left", "left and right", 0.0, "says left and right"),
        ("side", "Which side?", "left frontal", "frontal", 0.0, "the side is missing"),
        ("side", "Is it in the left lobe?", "yes", "yes", 1.0, "no side is needed"),
        ("side", "Is it in the left lobe?", "left", "lobe", 1.0, "no side is needed"),
        ("side", "Is it in the left lobe?", "yes", "yes, on the right", 0.0, "but left is asked about"),
        ("side", "Which side?", "left", "a cleft, upright", 0.0, "missing"),
        ("midline shift", SHIFT, "4 mm", "0.4 cm", 1.0, "in range"),
        ("midline shift", SHIFT, "4 mm", "4 cm", 0.0, "40 mm is not from 0 to 30"),
        ("midline shift", SHIFT, "4 mm", "4", 0.0, "not in mm"),
        ("midline shift", SHIFT, "4 mm", "4 mg", 0.0, "not in mm"),
        ("midline shift", SHIFT, "4 mm", "small", 0.0, "the number is missing"),
        ("midline shift", SHIFT, "none", "none", 1.0, "no number is needed"),
        ("midline shift", "How large is it?", "4 mm", "4 km", None, "something else"),
    ],
)
def test_each_rule_says_what_and_why(
    name: str, question: str, reference: str, answer: str, score: float | None, why: str
) -> None:
    found = RULES[name].judge(question, reference, answer)
    assert found.score == score and why in found.why
    assert (RULES[name].because in found.why) == (score != 1 and score is not None)


def test_every_rule_can_be_read_aloud() -> None:
    assert EXAMPLE.title and not EXAMPLE.reviewed_by
    assert {type(rule).__name__ for rule in EXAMPLE.rules} == {
        *("Vocabulary", "Contradiction", "Implication", "Laterality", "Range")
    }
    assert all(rule.told() and rule.because for rule in EXAMPLE.rules)


RANGE = '[[range]]\nname = "r"\nwhen = ["shift"]\nlow = 0\nhigh = 3\n'


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("", "r.toml", "[[vocabulary]]"),
        ("title = 3\n" + RANGE, "key title", 'title = "some text"'),
        ("a = [", "r.toml", "missing quote"),
        ("[[rang]]\nname = 'r'", "key rang", "nearest is range"),
        ("[range]\nname = 'r'", "key range", "two brackets"),
        (RANGE + "hihg = 3", "[[range]] 1, key hihg", "nearest is high"),
        (RANGE.replace("low = 0\n", ""), "[[range]] 1, key low", "add the line low"),
        (RANGE.replace("low = 0", "low = 4"), "[[range]] 1, key low", "exchange"),
        (RANGE.replace("low = 0", "low = true"), "[[range]] 1, key low", "without quotes"),
        (RANGE.replace("low = 0", "low = nan"), "[[range]] 1, key low", "without quotes"),
        (RANGE.replace("low = 0", "low = '0 mm'"), "[[range]] 1, key low", "without quotes and unit"),
        (RANGE.replace('when = ["shift"]\n', ""), "[[range]] 1, key when", "which questions"),
        (RANGE.replace('["shift"]', '"shift"'), "[[range]] 1, key when", "when = ["),
        (RANGE.replace('["shift"]', "[]"), "[[range]] 1, key when", "when = ["),
        (RANGE + "unit = 'milimeter'", "[[range]] 1, key unit", "nearest is millimeter"),
        (RANGE + RANGE, "[[range]] 2, key name", "name of its own"),
        ("[[vocabulary]]\nname = 'v'\nallowed = ['the']", "[[vocabulary]] 1, key allowed", "allowed = ["),
        ("[[vocabulary]]\nname = ' '\nallowed = ['mass']", "[[vocabulary]] 1, key name", "name = "),
        ("[[contradiction]]\nname = 'c'\none = ['a b']\nother = ['B', 'A b']", "key other", "one side only"),
        ("[[laterality]]\nname = 's'\nleft = ['lt']", "[[laterality]] 1, key left", "both left and right"),
        ("[[implication]]\nname = 'i'\nfinding = ['x']", "[[implication]] 1, key region", "add the line"),
    ],
)
def test_a_broken_file_names_file_table_key_and_remedy(text: str, where: str, remedy: str) -> None:
    with pytest.raises(BadInput) as told:
        parse_rules(text.encode(), "r.toml")
    assert told.value.where.startswith("r.toml") and where in told.value.where and remedy in told.value.hint


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for data in (b"\xff", b"a" * (MOST_BYTES + 1), b"a = " + b"[" * 5000):
        with pytest.raises(BadInput):
            parse_rules(data, "r.toml")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_rules(path)


@given(st.binary(max_size=80))
def test_any_bytes_are_rules_or_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_rules(data, "r.toml")


@given(st.sampled_from(EXAMPLE.rules), st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_rules_are_bounded_and_repeatable(rule: object, question: str, reference: str, answer: str) -> None:
    found = rule.judge(question, reference, answer)  # type: ignore[attr-defined]
    assert found == rule.judge(question, reference, answer) and found.why  # type: ignore[attr-defined]
    assert found.score is None or 0 <= found.score <= 1
