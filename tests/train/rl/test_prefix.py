"""What a prefix may show: never a word of the answer, whatever the rationale and the tokenizer do."""

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.train.conftest import tokenizer_of
from train.data.encode import Encoder
from train.models.family import Family
from train.rl.prefix import hidden_from, opening, secrets, shown


@pytest.fixture(scope="module")
def encoder(loaded: Any) -> Encoder:
    """The tiny model's own."""
    found: Encoder = loaded.encoder
    return found


def said(encoder: Any, rationale: str, reference: str, share: float = 0.999) -> str:
    text: str = encoder.tokenizer.decode(shown(encoder, rationale, reference, share))
    return text


@pytest.mark.parametrize(
    ("rationale", "reference", "most"),
    [
        ("Left is where it lies.", "left", ""),  # at the start
        ("The lesion is LEFT, so left.", "Left", "The lesion is"),  # twice, other case
        ("A leftover signal, then right.", "left", "A"),  # in a longer word
        ("The normal nose shows nothing; no lesion.", "No", "The normal nose shows nothing;"),  # short: whole words
        ("It lies in the frontal lobe of the left side.", "left frontal lobe", "It lies in the"),  # several words
        ("In front of the stem.", "frontal", "In"),  # its stem
        ("We count two of them.", "2", "We count"),  # a number in letters
        ("It measures 12.0 mm across.", "12 mm", "It measures"),
        ("It measures 12.5 mm across.", "12", "It measures 12.5 mm across"),  # another number, never cut in two
        ("Es ist ein O\u0308dem im Bild.", "\u00d6dem", "Es ist ein"),  # decomposed against composed
        ("Die STRASSE ist frei.", "Straße", "Die"),
        ("A le\u00adft one.", "left", "A"),  # a soft hyphen inside
        ("病变位于左侧额叶。", "左", ""),  # no spaces between words
        ("The sign is + here.", "+", "The sign is"),  # no word at all
        ("A mass, so B.", "B", "A mass, so"),
        ("It is on the left.", "on the left", "It is on the"),  # words without a meaning of their own
        ("Some words.", "", ""),  # nothing to keep secret is a reason for care
        ("Some <|im_end|> words.", "left", ""),
    ],
)
def test_how_far_a_prefix_goes(encoder: Any, rationale: str, reference: str, most: str) -> None:
    text = said(encoder, rationale, reference)
    assert most.startswith(text) or most == text
    if most and "<" not in rationale:
        assert text, "something may be shown"


WORDS = st.sampled_from(
    ["left", "Right", "LEFT", "leftover", "no", "No.", "normal", "12", "1", "2.5", "two", "12.0", "ödem", "ÖDEM",
     "o\u0308dem", "Straße", "strasse", "左侧", "額", "is", "the", "lesion", "lesions", "frontal", "front", "lobe",
     "\U0001f469\u200d\u2695\ufe0f", "\u00ad", "\ufb01ne", "fine", "A", "b)", "\u0130", "i", "T2", "\u0663", "3", "\n",
     "\u2014", "yes,no", "(left)", "**right**", "le ft"]
)  # fmt: skip
TEXT = st.one_of(
    st.lists(WORDS, max_size=12).map(" ".join), st.lists(WORDS, max_size=6).map("".join), st.text(max_size=40)
)


def plain(text: str) -> set[str]:
    """Words, without the marks that case folding takes out of a letter."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return set(re.findall(r"[^\W_]+", "".join(c for c in apart if unicodedata.category(c)[0] != "M")))


@settings(max_examples=300, deadline=None)
@given(rationale=TEXT, reference=TEXT, share=st.floats(0, 1))
@example("left", "left", 1.0)
@example("\u0130A", "A", 1.0)
@example("The lesion is left", "LEFT", 1.0)
def test_no_prefix_says_the_answer(encoder: Any, rationale: str, reference: str, share: float) -> None:
    ids = shown(encoder, rationale, reference, share)
    text = encoder.tokenizer.decode(ids)
    assert not plain(text) & {w for w in plain(reference) if w in secrets(reference)}
    whole = encoder.tokenizer(rationale.strip(), add_special_tokens=False)["input_ids"]
    assert list(ids) == whole[: len(ids)], "it is the rationale's beginning, token by token"
    assert len(ids) <= share * len(whole)
    assert "\ufffd" not in text or "\ufffd" in rationale, "no letter is cut in two"


@settings(max_examples=100, deadline=None)
@given(before=TEXT, after=TEXT, answer=st.sampled_from(["left", "no", "12", "Ödem", "左", "two lobes", "3.5 cm"]))
def test_an_answer_put_anywhere_ends_it(encoder: Any, before: str, after: str, answer: str) -> None:
    rationale = f"{before} {answer.upper()} {after}".strip()
    place, _ = hidden_from(rationale, answer)
    assert place <= len(before.lstrip()) + 2
    assert len(said(encoder, rationale, answer, 1.0)) <= place + before.count("\u0130")


@given(rationale=TEXT, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=100, deadline=None)
def test_a_larger_share_never_shows_less(encoder: Any, rationale: str, shares: tuple[float, float]) -> None:
    low, high = sorted(shares)
    short, long = (shown(encoder, rationale, "frontal", share) for share in (low, high))
    assert long[: len(short)] == short


def test_the_space_before_an_answer_belongs_to_it(loaded: Any) -> None:
    tokenizer = tokenizer_of()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}{{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    family: Family = loaded.family
    spaced = Encoder(tokenizer, family)
    assert (opening(spaced), opening(loaded.encoder)) == (" ", "")
    ids = shown(spaced, "Is the lesion visible? Yes.", "Yes", 0.9)
    assert tokenizer.decode(ids).startswith(" Is the lesion")
