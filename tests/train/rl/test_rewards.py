"""Rewards: what honest answers earn, and ten ways to cheat each that do not pay."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audit.errors import BadInput
from train.rl.guards import repeats
from train.rl.rewards import KINDS, Case, Reward, combined, exact, named, token_f1
from train.rl.rewards.rouge_l import rouge_l
from train.rl.units import quantities, unit_of

RULES = f"rules:{Path(__file__).parents[3] / 'docs' / 'rules-example.toml'}"
FORM = "format:{rationale} The answer is {answer}."
ALL = (
    "exact",
    "closed",
    "token_f1",
    "rouge_l",
    "number",
    "format",
    "brevity",
    "brevity:closed",
    "brevity:number",
    RULES,
)
ASKED = {
    "Is there a mass in the left lung?": "yes",
    "Is there a mass in the scan?": "no",
    "Which side is the lesion on?": "left",
    "Is the plane axial, coronal or sagittal?": "axial",
    "Where is the lesion?": "left frontal lobe",
    "How large is the midline shift?": "12 mm",
}


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize(("question", "reference"), ASKED.items())
def test_answers_that_say_nothing_or_everything_earn_nothing(spec: str, question: str, reference: str) -> None:
    reward = named(spec)
    cheats = (
        *("", "   \n", "...", "the", "<answer></answer>", "The answer is ", "\u200b"),
        *(f"{reference} {reference} {reference}", f"{reference}, {reference}, {reference}, {reference}."),
        *("yes and no", "yes no", "Yes. No.", "no yes", "yes/no"),
        *(question, question.upper(), f"{question} {question}", f"{question} {reference}"),
        *(
            f"yes no left right {reference}",
            f"{reference} yes no left right present absent",
            f"left right yes {reference} no",
        ),
        *(
            f"The answer is {reference}. The answer is unknown.",
            f"answer: right, answer: left, answer: {reference} nothing",
        ),
    )
    for cheat in cheats:
        assert reward(Case(question, reference, cheat)) in (0.0, None), cheat
        formed = f"I looked at the picture. The answer is {cheat}."
        assert reward(Case(question, reference, formed)) in (0.0, None), formed


SIDE, WHERE = ("Which side is the lesion on?", "left"), ("Where is the lesion?", "left frontal lobe")
THERE, NONE = ("Is there a mass?", "yes"), ("Is there a mass?", "no")
PLANE = ("Is the plane axial, coronal or sagittal?", "axial")
LARGE, SHIFT = ("How large is it?", "12 mm"), ("How large is the midline shift?", "12 mm")
LONG = ("Describe the image.", "An axial slice with a large mass in the left frontal lobe and oedema around it.")
WHY = "The mass is bright and round."

CHEATS: list[tuple[str, tuple[str, str], str, list[str]]] = [
    (
        "exact",
        WHERE,
        "In the left frontal lobe.",
        [
            *("left", "frontal lobe", "left frontal lobe or right frontal lobe", "left frontal lobe maybe"),
            *("lobe frontal left", "leftfrontallobe", "left frontal lobes", "not left frontal lobe", "l"),
            *(
                "left frontal lobe left frontal lobe",
                "the left frontal lobe, the occipital lobe",
                "left frontal lobe yes",
            ),
        ],
    ),
    (
        "closed",
        THERE,
        "Yes, there is a mass.",
        [
            *(
                "yes or no",
                "yes, no",
                "maybe yes",
                "yes maybe not",
                "not yes",
                "It is not clear, yes",
                "eyes",
                "yesterday",
            ),
            *("Yes, if it is not no", "either yes or neither", "y", "I say yes to any question", "no, yes"),
            "yes " + "and there is more to be said of it " * 4,
        ],
    ),
    (
        "closed",
        NONE,
        "No, there is none.",
        [
            *(
                "normal",
                "I know",
                "no idea",
                "no comment",
                "no or yes",
                "none",
                "nothing",
                "not no",
                "no doubt yes",
                "cannot say no",
            ),
            *("there is no way to tell", "No mass or a mass", "know no", "no clue", "no answer"),
        ],
    ),
    (
        "closed",
        PLANE,
        "An axial plane.",
        [
            *(
                "axial coronal",
                "axial, coronal or sagittal",
                "axial or something",
                "not axial",
                "it isn't axial",
                "biaxial",
            ),
            *(
                "coronal, no: axial",
                "axially",
                "probably axial",
                "axial or coronal",
                "neither axial",
                "all of them",
                "sagittal",
            ),
        ],
    ),
    (
        "closed:axial,coronal,sagittal",
        ("Which plane?", "axial"),
        "Axial.",
        [
            *(
                "axial coronal sagittal",
                "coronal axial",
                "not coronal but axial",
                "axial?! or coronal",
                "any",
                "ax ial",
            ),
            *("axial either way", "never axial", "possibly axial", "both axial and sagittal"),
        ],
    ),
    (
        "closed",
        ("Which plane? (A) axial (B) coronal (C) sagittal", "B"),
        "(B) coronal",
        [
            "A B C",
            "(A) (B) (C)",
            "(A) coronal",
            "B or C",
            "(B) axial",
            "A",
            "B. C.",
            "not (B)",
            "abc",
            "(B) maybe (C)",
            "BB",
        ],
    ),
    (
        "token_f1",
        WHERE,
        "The left frontal lobe.",
        [
            *(
                "right frontal lobe",
                "left",
                "left left left left",
                "left frontal parietal temporal occipital lobe",
                "lobe",
            ),
            *(
                "not the left frontal lobe",
                "frontal lobe",
                "left right frontal lobe",
                "no left frontal lobe",
                "lobe lobe lobe",
            ),
            *("left frontal lobe or anywhere else at all", "it isn't left frontal lobe"),
        ],
    ),
    (
        "rouge_l",
        LONG,
        "Axial slice, a large mass in the left frontal lobe, oedema around it.",
        [
            *(
                "a an the in the and it",
                "a a a a a a a a",
                "mass",
                "an axial slice",
                "lobe frontal left mass large slice axial",
            ),
            *(
                "An axial slice with a large mass in the right frontal lobe and oedema around it.",
                "Describe the image.",
            ),
            *("mass mass mass left left left", "with a in the and around it", LONG[1] + " " + LONG[1]),
            LONG[1] + " It may be anything else, as there is a good deal that nobody can say of such an image at all.",
            "An axial slice with a large mass in the left and right frontal lobe and oedema around it.",
        ],
    ),
    (
        "number",
        LARGE,
        "It is about 1.2 cm.",
        [
            *(
                "12",
                "12 cm",
                "1.2 mm",
                "-12 mm",
                "10 11 12 13 mm",
                "0 to 100 mm",
                "less than 100 mm",
                ">1 mm",
                "12 mg",
                "mm",
            ),
            *(
                "not 12 mm",
                "12 mm or 13 mm",
                "12 mm, 12 cm",
                "1e1 mm",
                "T12 mm",
                "112 mm",
                "12 %",
                "at most 12 mm",
                "12 mm/s",
            ),
        ],
    ),
    (
        "number:0.1",
        ("How many lesions are there?", "3"),
        "Three lesions.",
        ["3 mm", "1 2 3", "2 or 3", "<4", "-3", "33", "0.3", "many", "up to 3", "3 3", "not 3", "13", "1-5", "3.4"],
    ),
    (
        FORM,
        WHERE,
        f"{WHY} The answer is left frontal lobe.",
        [
            *(
                "The answer is left.",
                f"{WHY} The answer is .",
                "x The answer is left.",
                "The answer is",
                f"{WHY} {{answer}}.",
            ),
            *(
                f"{WHY} The answer is left. The answer is left.",
                f"{WHY} The answer is left. And more",
                f"{WHY} THE ANSWER IS left.",
            ),
            *(f"{WHY} The answer is answer.", "mass mass mass The answer is left.", f"{WHY} The answer is yes and no."),
            *(
                f"{WHERE[0]} The answer is left.",
                f"{WHY} The answer is {'word ' * 60}.",
                f"{WHY} The answer is {{answer}}.",
            ),
            f"{WHY} The answer isn't left.",
        ],
    ),
    (
        "format:<think>{rationale}</think><answer>{answer}</answer>",
        WHERE,
        f"<think>{WHY}</think>\n<answer>left</answer>",
        [
            *(
                "<think></think><answer></answer>",
                "<answer>left</answer>",
                f"<answer>left</answer><think>{WHY}</think>",
            ),
            *(f"<think>{WHY}</think><answer>left", f"<think>{WHY}</think><answer><answer>left</answer></answer>"),
            *(f"<think>{WHY}</think><answer>left</answer> more", f"so <think>{WHY}</think><answer>left</answer>"),
            *("<think>a</think><answer>left</answer>", f"<think>{WHY}</think><answer>?</answer>"),
            *(f"<think>{WHY}</think> left <answer>left</answer>", f"<think>{WHY}</think><answer>left right</answer>"),
            f"<think>{WHY}</think><answer>left</answer>" * 2,
        ],
    ),
    (
        "brevity",
        WHERE,
        "Left frontal lobe.",
        [
            *("", "a", "left", "right", "no", ".", "lobe", "left frontal", "yes", "right frontal lobe"),
            "left frontal lobe, as anybody can see who looks at this picture with the care that pictures want today",
        ],
    ),
    (
        "brevity:closed",
        THERE,
        "Yes.",
        [
            "",
            "no",
            "ye",
            "y",
            "a",
            "0",
            "yes no",
            "ok",
            "maybe",
            "not yes",
            "yes, but it is so that one can hardly see it here today",
        ],
    ),
    (
        RULES,
        WHERE,
        "The left frontal lobe.",
        [
            *(
                "normal",
                "lobe",
                "right frontal lobe",
                "no rule",
                "left",
                "frontal lobe",
                "lt",
                "nothing",
                "left hydrocephalus lobe",
            ),
            *(
                "left frontal lobe, enlarged and normal size",
                "left frontal lobe, rt",
                "left frontal lobe with hydrocephalus",
            ),
        ],
    ),
    (
        RULES,
        SHIFT,
        "1.2 cm",
        [
            "12",
            "40 cm",
            "0",
            "12 kg",
            "12 mm right or 40 mm",
            "0-30 mm",
            "mm",
            "small",
            "-12 mm",
            "30 mm",
            "12 mm and hydrocephalus",
        ],
    ),
    (
        RULES,
        ("Which plane is it, axial or coronal?", "axial"),
        "It is axial.",
        [
            *(
                "axial or coronal",
                "coronal",
                "plane",
                "axial diagonal oblique",
                "transversal",
                "not axial",
                "horizontal",
                "axial lt",
            ),
            *("axial and coronal", "axial hydrocephalus"),
        ],
    ),
]


@pytest.mark.parametrize(
    ("spec", "asked", "honest", "cheats"), CHEATS, ids=[f"{c[0][:24]}-{c[1][1][:12]}" for c in CHEATS]
)
def test_ten_ways_to_cheat_each_reward(spec: str, asked: tuple[str, str], honest: str, cheats: list[str]) -> None:
    reward = named(spec)
    earned = reward(Case(*asked, honest))
    assert earned is not None and earned > 0.5
    assert len(set(cheats)) >= 10
    for cheat in cheats:
        found = reward(Case(*asked, cheat))
        assert found is not None and found < earned, cheat


WORDS_ALIKE = ("exact", "closed", "token_f1", "rouge_l", "brevity", "brevity:closed", RULES)
COUNT = ("How many lesions are there?", "2")
LETTERED = ("Which plane? A. axial, B. coronal", "B")
PARROT = (
    "axial coronal sagittal",
    "axial, coronal or sagittal",
    "axial coronal",
    "axial or",
    "either axial",
    "axial or not",
)
FOUND: list[tuple[tuple[str, ...], tuple[str, str], tuple[str, ...]]] = [
    (WORDS_ALIKE, PLANE, PARROT),
    (WORDS_ALIKE, ("Is the plane axial, coronal or sagittal?", "axial plane"), (
        "axial coronal sagittal plane", "axial or coronal plane", "axial coronal",
    )),
    (WORDS_ALIKE, LETTERED, (
        "A B", "A, B", "A. B.", "(A) (B)", "A and B", "B or",
    )),
    (WORDS_ALIKE, THERE, (
        "yes or", "yes or so", "either yes", "yes yep nope", "yes nah", "yes maybe",
    )),
    (WORDS_ALIKE, THERE, (
        "no Answer: yes", "No. The answer is yes.", "no it is not, answer: yes", "I say no. Answer: yes",
    )),
    (WORDS_ALIKE, THERE, (
        "nope, answer: yes", "The answer is no. <answer>yes</answer>", "no <answer>yes</answer>",
    )),
    (WORDS_ALIKE, THERE, (
        "yes the the the the", "yes the a the a", "yes a an the in on at", "the the the yes", "yes in the a",
    )),
    (WORDS_ALIKE, NONE, (
        "<answer>no</answer> but yes there is", "<answer>no</answer> There is.", "yes answer: no", "no yep",
    )),
    (WORDS_ALIKE, SIDE, (
        "<answer>left</answer> No, right.", "<answer>left</answer> right <answer>left</answer>",
    )),
    (WORDS_ALIKE, SIDE, (
        "right answer: left", "On the right. <answer>left</answer>", "rt. The answer is left.",
    )),
    (WORDS_ALIKE, SIDE, (
        "The left and the right are bright. The answer is left.", "The answer is right <answer>left</answer>",
    )),
    (WORDS_ALIKE, SIDE, (
        "left rt", "left, R", "left dexter", "left rightward", "left rightsided", "left RHS", "left od",
    )),
    (WORDS_ALIKE, SIDE, (
        "the left the in the", "the left the, the", "left. <answer>left</answer> the",
    )),
    (WORDS_ALIKE, ("Is it benign?", "benign"), (
        "malignant answer: benign", "It is malignant. <answer>benign</answer>",
    )),
    (("closed", "brevity:closed", RULES), NONE, (
        "No, there is a mass.", "No, a mass.", "No - there's a large mass", "no: mass",
    )),
    (("closed",), ("Is the heart enlarged?", "no"), (
        "No, the heart is enlarged.", "No, enlarged heart", "no, there is", "no, it is present", "no, it does",
        "No, wrong",
    )),
    (("number", "brevity:number", RULES), LARGE, (
        "12 mm, forty cm", "12 mm to twenty mm", "12 mm squared", "12 mm nope", "12 mm cubed", "12 mm^2", "12 mm+",
        "12 thousand mm", "12 dozen mm", "twelve hundred mm", "12 million mm", "12k mm", "12 mm and a half", "~12 mm",
        "12 mm minimum", "maximum 12 mm", "at the least 12 mm", "12 mm at most", "12 mm or more", "12 mm times two",
        "12 mm cm", "12 mm, in centimetres", "12 mm is wrong", "minus 12 mm", "12_000 mm", "twice 12 mm",
        "12 mm each", "<answer>12 mm</answer> Actually 40 cm.", "<answer>12 mm</answer> Actually forty cm.",
        "12 x mm", "12 mm till 2", "12 mm rather than 13", "more than 12 mm", "greater than 12 mm",
        "12 hundredths mm", "12 tenths mm", "12 mm, false",
    )),
    (("number", "brevity:number", RULES), COUNT, (
        "2 thousand", "2 dozen", "2 and twenty", "2+", "minimum 2", "min 2", "min. 2", "2k", "2 k", "2x",
        "twenty-two", "2 pairs", "2 hundred", "2^2", "2*2", "2 and a half", "2½", "at least 2", "2 or so", "2-fold",
        "2 squared",
    )),
    (("number", "brevity:number", RULES), ("How many lesions are there?", "3"), (
        "3+", "minimum 3", "3 + more", "max 3", "thirty-three",
    )),
    (("closed", "brevity:closed"), SIDE, (
        "left, bilateral", "left and opposite side", "left is wrong", "left hemisphere and the other one",
    )),
    (("closed", "brevity:closed"), THERE, (
        "yes, wrong", "yes is false", "Yes: incorrect",
    )),
    (("closed", "exact", "token_f1"), ("Which plane? A. axial, B. coronal", "A"), (
        "a", "B", "A B", "the a", "a a", "(A) coronal", "A or", "an",
    )),
    (("number",), LARGE, (
        "12 mm i guess", "perhaps 12 mm", "12 mm, several", "12 mm and many more",
    )),
    (("number",), ("How many cells?", "2 thousand"), (
        "2", "2 million", "2 hundred",
    )),
    (("number",), ("How narrow?", "<50 %"), (
        "more than 50 %", ">50%", "50-60 %", "50 % or more",
    )),
]  # fmt: skip
"""What a fresh reader found to be paid."""


@pytest.mark.parametrize(("specs", "asked", "cheats"), FOUND)
def test_what_fresh_readers_cheated_with_earns_nothing(
    specs: tuple[str, ...], asked: tuple[str, str], cheats: tuple[str, ...]
) -> None:
    for cheat in cheats:
        for spec in specs:
            assert named(spec)(Case(*asked, cheat)) in (0.0, None), (spec, cheat)


@pytest.mark.parametrize(
    ("asked", "honest"),
    [
        (SIDE, "The lesion lies on the left. The answer is left."),
        (SIDE, "<think>The left lobe is bright.</think><answer>left</answer>"),
        (SIDE, "The answer is <answer>left</answer>."),
        (THERE, "There is no midline shift, but a mass. The answer is yes."),
        (THERE, "<think>No oedema, but a mass.</think> <answer>yes</answer>"),
        (NONE, "The image is clear. The answer is no."),
        (PLANE, "Not coronal, as both eyes are seen. The answer is axial."),
        (("Which signal?", "hyperintense"), "Hypointense on T1, hyperintense on T2. The answer is hyperintense."),
        (LARGE, "It is seen on 3 slices of 4 mm or so. The answer is 12 mm."),
    ],
)
def test_a_rationale_that_says_what_the_answer_says_takes_nothing_from_it(asked: tuple[str, str], honest: str) -> None:
    for spec in ("exact", "closed", "token_f1", "rouge_l", "number"):
        assert named(spec)(Case(*asked, honest)) in (1.0, None), spec
    assert named("exact")(Case(*asked, honest)) == 1.0


class Counted(str):
    """A word that counts how often it is looked at."""

    looked = 0
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        Counted.looked += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Counted.looked += 1
        return str.__hash__(self)


def test_long_answers_are_searched_for_repetition_in_linear_time() -> None:
    cost = []
    for length in (1000, 8000):
        Counted.looked = 0
        assert not repeats([Counted(f"word{k}") for k in range(length)], ["yes"])
        cost.append(Counted.looked / length)
    assert cost[1] < 1.5 * cost[0] and cost[1] < 200
    passage = [f"word{k}" for k in range(300)]
    assert repeats([*passage, *passage], ["yes"]) and repeats([*passage, "so", *passage], ["yes"])
    assert repeats(["so", "it", "is", "so", "it", "is"], ["yes"]) and not repeats(passage, ["yes"])


@pytest.mark.parametrize(
    ("spec", "asked", "spellings"),
    [
        (
            "exact",
            WHERE,
            ["left frontal lobe", "Left Frontal Lobe.", "the LEFT frontal lobe!", "in the left frontal lobe"],
        ),
        (
            "exact",
            WHERE,
            [
                f"{WHY} The answer is left frontal lobe.",
                "Answer: left frontal lobe",
                "<answer>left frontal lobe</answer>",
            ],
        ),
        ("exact", ("Receptor?", "ER+"), ["ER positive", "er+", "The answer is ER+."]),
        (
            "closed",
            THERE,
            ["yes", "Yes.", "YES!", "Yes, there is a mass.", "The answer is yes", "Answer: Yes", "Yes - a large one"],
        ),
        (
            "closed",
            NONE,
            [
                "no",
                "No.",
                "No, there is no mass.",
                "No there is not",
                "no, it isn't",
                "The answer is no.",
            ],
        ),
        ("closed", PLANE, ["axial", "Axial plane", "It is axial.", "The image is axial", "This is an axial slice."]),
        ("closed", SIDE, ["left", "On the left.", "the left side", "It is on the left side of the brain"]),
        (
            "closed",
            ("Which? A. axial, B. coronal", "B"),
            ["B", "(B)", "B.", "B. coronal", "coronal", "The answer is B."],
        ),
        ("closed", ("Which? A. axial, B. coronal", "coronal"), ["B", "(B) coronal", "Coronal"]),
        ("closed", ("Which? A. axial, B. coronal", "A"), ["A", "A.", "(A)", "(A) axial", "axial", "The answer is A."]),
        ("exact", ("Which? A. axial, B. coronal", "A"), ["A", "A.", "(A)", "The answer is A."]),
        (
            "number",
            LARGE,
            [
                "12 mm",
                "12mm",
                "12.0 mm",
                "1.2 cm",
                "1,2 cm",
                "about 12 millimetres",
                "0.012 m",
                "11.5 mm",
                "twelve mm",
                "12-mm",
            ],
        ),
        ("number", ("Dose?", "0.5 g"), ["500 mg", "0.5 g", "500000 µg", "500,000 mcg", "0,5 grams"]),
        ("number", ("Volume?", "30 ml"), ["30 mL", "3 cl", "0.03 l", "30 cc", "30 cm³", "30 cubic cm"]),
        ("number", ("Stenosis?", "70%"), ["70 %", "70 percent", "about 70%", "71 %"]),
        (
            "number",
            ("Size?", "2 x 3 cm"),
            ["2 x 3 cm", "20 x 30 mm", "2cm x 3cm", "2x3 cm", "2 by 3 cm", "20 mm × 30 mm"],
        ),
        ("number", ("Creatinine?", "1.2 mg/dl"), ["12 mg/l", "1.2 mg / dL", "1.2 mg per dl"]),
        ("number", ("How many?", "3"), ["three", "3", "3 lesions", "There are three."]),
        (RULES, WHERE, ["left frontal lobe", "The left frontal lobe.", "In the left frontal lobe"]),
    ],
)
def test_honest_answers_score_in_every_spelling(spec: str, asked: tuple[str, str], spellings: list[str]) -> None:
    for said in spellings:
        assert named(spec)(Case(*asked, said)) == 1.0, said


@pytest.mark.parametrize(
    ("said", "wanted", "score"),
    [  # the first three are the worked example of Lin 2004, section 3.1; the last by hand: 6 in common of 8 and 7
        ("police killed the gunman", "police killed the gunman", 1.0),
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("the cat is on the mat", "the cat sat on the mat", 5 / 6),
        ("a large mass in the left frontal lobe", "large mass of the left frontal lobe", 12 / 15),
        ("", "police", 0.0),
    ],
)
def test_rouge_l_is_the_published_one(said: str, wanted: str, score: float) -> None:
    assert rouge_l(said, wanted) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("T1 and L4-L5", []),
        ("1,200 mm", [(1200.0, "length")]),
        ("1,5 cm", [(15.0, "length")]),
        ("20 % of 3 ml", [(20.0, "share"), (3.0, "volume")]),
        ("-40 HU", [(-40.0, "density")]),
        ("2-3 cm", [(20.0, "length"), (30.0, "length")]),
        ("120/80 mmHg", [(120.0, "pressure"), (80.0, "pressure")]),
        ("3 lesions, 2 cm", [(3.0, ""), (20.0, "length")]),
        ("37 °C", [(37.0, "temperature")]),
        ("2 mm²", [(2.0, "area")]),
    ],
)
def test_quantities_are_read_with_their_units(text: str, found: list[tuple[float, str]]) -> None:
    assert [(pytest.approx(q.value), q.kind) for q in quantities(text)] == found


def test_units_of_one_kind_only_are_converted() -> None:
    assert unit_of("mm") == ("length", 1) and unit_of("Parsec") is None and unit_of("mm/parsec") is None
    assert unit_of("mg/dl") is not None and unit_of("mg/dl") != unit_of("mg/l")


def test_ended_and_lettered_and_brief() -> None:
    assert named(FORM)(Case(*WHERE, f"{WHY} The answer is left.", ended=False)) == 0
    assert named("brevity")(Case(*WHERE, "left frontal lobe", ended=False)) == 0
    shares = [named("brevity:closed")(Case(*THERE, "yes" + "".join(f" word{k}" for k in range(n)))) for n in range(19)]
    assert shares[0] == shares[4] == 1.0 and shares[18] < shares[10] < 1.0  # type: ignore[operator]
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]


TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [
                "yes",
                "no",
                "left",
                "right",
                "frontal",
                "lobe",
                "not",
                "12",
                "mm",
                "1.2",
                "cm",
                "axial",
                "the",
                "a",
                "or",
                ".",
                "answer",
                "is",
            ]
        ),
        max_size=12,
    ).map(" ".join),
)


@given(st.sampled_from(ALL), TEXT, TEXT, TEXT, TEXT)
def test_rewards_are_bounded_repeatable_and_cannot_be_dodged(spec: str, q: str, r: str, one: str, other: str) -> None:
    reward = named(spec)
    first, second = reward(Case(q, r, one)), reward(Case(q, r, other))
    assert (first is None) == (second is None)
    if first is not None:
        assert 0 <= first <= 1 and first == reward(Case(q, r, one)) == named(spec)(Case(q, r, one))
        assert reward.judge(Case(q, r, one)).why and not reward(Case(q, r, " "))


@given(st.sampled_from(["exact", "closed", "number", "token_f1", "rouge_l", "brevity"]), TEXT, TEXT)
def test_the_reference_itself_earns_all(spec: str, question: str, reference: str) -> None:
    assume("answer" not in reference.casefold())
    assert named(spec)(Case(question, reference, reference)) in (1.0, None)


WORDS = st.lists(
    st.sampled_from(["mass", "frontal", "lobe", "oedema", "cyst", "ring", "bright"]),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(WORDS, WORDS, st.randoms())
def test_order_of_words(said: list[str], wanted: list[str], rng: object) -> None:
    shuffled = sorted(said)
    f1, rouge = named("token_f1"), named("rouge_l")
    a, b = " ".join(said), " ".join(shuffled)
    ref = " ".join(wanted)
    assert f1(Case("What?", ref, a)) == f1(Case("What?", ref, b))  # any order
    assert rouge(Case("What?", ref, a)) <= f1(Case("What?", ref, a)) + 1e-9  # type: ignore[operator]
    for reward in (f1, rouge, named("exact")):
        assert reward(Case("What?", ref, ref)) == 1.0
    assert token_f1(a, ref) == token_f1(ref, a) and rouge_l(a, ref) == rouge_l(ref, a)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("exakt", "nearest is 'exact'"),
        ("", "there is no reward"),
        ("exact:1", "takes no parameter"),
        ("number:x", "tolerance from 0 to 0.5"),
        ("number:nan", "tolerance"),
        ("number:9", "tolerance"),
        ("number:", "lacks"),
        ("rules", "lacks"),
        ("rules:/no/such/file", "cannot be read"),
        ("closed:one", "two or more"),
        ("closed:a b,A B", "two or more"),
        ("format:text", "each of its parts"),
        ("format:{answer}", "no word of its own"),
        ("format:Answer {answer}{number}", "nothing between"),
        ("format:Answer {answer} {sql}", "each of its parts"),
        ("brevity:brevity", "for being right"),
        ("brevity:format", "for being right"),
    ],
)
def test_a_wrong_name_says_what_to_type(spec: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as told:
        named(spec)
    assert told.value.hint


def test_combined_keeps_each_reward_apart() -> None:
    both = combined(["closed", "number:0.1", "brevity:closed"])
    case = Case(*THERE, "yes")
    assert {one.name: one(case) for one in both} == {"closed": 1.0, "number:0.1": None, "brevity:closed": 1.0}
    for wrong in ([], ["exact", "exact"]):
        with pytest.raises(BadInput):
            combined(wrong)


def test_rewards_are_frozen_and_named_as_typed() -> None:
    for spec in ALL:
        reward = named(spec)
        assert isinstance(reward, Reward) and reward.name == spec and reward == named(spec)
        with pytest.raises(FrozenInstanceError):
            reward.name = "other"
    assert {spec.partition(":")[0] for spec in ALL} == set(KINDS)
    assert exact("Yes.", "yes") == 1.0  # the plain functions of text stay for measuring
