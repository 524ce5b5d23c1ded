"""Reading triplets out of what a model wrote: whole, shuffled, cut short, and hostile."""

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from synth.triplet import INFORMATIVE, PRECISE, Markup, Parsed, Triplet, parse

MARKUP = Markup("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>")
LLAMA = Markup("<|start|>user<|mid|>\n\n", "<|start|>assistant<|mid|>\n\n", "<|eot|>")
WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=15)
WORDS = WORDS.map(lambda t: t.strip().replace("<|", "")).filter(lambda t: bool(t.strip()) and t == t.strip())
TRIPLES = st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4, unique_by=lambda t: t[0])


def turn(hint: str, asked: str, said: str, markup: Markup = MARKUP) -> str:
    return f"{hint}\n{asked}{markup.end}\n{markup.assistant}{said}{markup.end}\n"


def dialogue(triples: list[tuple[str, str, str]], seed: int, markup: Markup = MARKUP) -> str:
    """What a model writes after an open user header: both turns of each triple, in any order."""
    turns = [turn(h, q, a, markup) for q, p, i in triples for h, a in ((PRECISE, p), (INFORMATIVE, i))]
    Random(seed).shuffle(turns)
    return markup.user.join(turns) + "<|endoftext|>"


@settings(max_examples=150)
@given(TRIPLES, st.integers(), st.sampled_from([MARKUP, LLAMA]))
def test_what_was_written_is_read(triples: list[tuple[str, str, str]], seed: int, markup: Markup) -> None:
    found = parse(dialogue(triples, seed, markup), markup)
    assert not found.fault
    assert sorted(found.triplets) == sorted(triples)


@settings(max_examples=150)
@given(TRIPLES, st.integers(), st.data())
def test_what_is_cut_short_gives_only_whole_triplets(
    triples: list[tuple[str, str, str]], seed: int, data: st.DataObject
) -> None:
    text = dialogue(triples, seed)
    cut = data.draw(st.integers(0, len(text)))
    found = parse(text[:cut], MARKUP)
    assert set(found.triplets) <= set(triples)
    assert found.fault in ("", "malformed", "one-hint-only") and bool(found.fault) != bool(found.triplets)
    ended = [
        t
        for t in triples
        if all(turn(h, t[0], a).rstrip() in text[:cut] for h, a in ((PRECISE, t[1]), (INFORMATIVE, t[2])))
    ]
    assert set(ended) == set(found.triplets)


PIECES = [*vars(MARKUP).values(), PRECISE, INFORMATIVE, "\n", "Is it?", "Yes", "<|im_start|>", "<|im_end", " "]


@settings(max_examples=400)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=25).map("".join))
def test_hostile_text_never_raises_and_never_smuggles_markup(text: str) -> None:
    found = parse(text, MARKUP)
    assert bool(found.fault) != bool(found.triplets)
    for parts in found.triplets:
        assert all(part and part == part.strip() for part in parts)
        assert not any(mark in part for part in parts for mark in vars(MARKUP).values())


def read(*turns: str) -> Parsed:
    return parse(MARKUP.user.join(turns), MARKUP)


def test_one_broken_turn_does_not_cost_the_others() -> None:
    good = turn(PRECISE, "Is it?", "Yes"), turn(INFORMATIVE, "Is it?", "Yes, it is.")
    wanted = (("Is it?", "Yes", "Yes, it is."),)
    broken = [
        "", "chatter", f"{PRECISE}\nNo answer<|im_end|>\n", turn("No hint", "Q", "A"), turn(PRECISE, "", "A"),
        turn(PRECISE, "Q", " "), turn(PRECISE, "Q", f"A<|im_end|>\n{MARKUP.assistant}B"),
        turn(PRECISE, f"Q{MARKUP.assistant}A", "B"), f"{PRECISE}\nQ{MARKUP.assistant}A<|im_end|>\n",
    ]  # fmt: skip
    for bad in broken:
        for order in ((bad, *good), (good[0], bad, good[1]), (*good, bad)):
            assert read(*order).triplets == wanted
        assert read(bad).fault == "malformed"


def test_faults_say_what_is_missing() -> None:
    assert read(turn(PRECISE, "Is it?", "Yes")).fault == "one-hint-only"
    assert read(turn(PRECISE, "Is it?", "Yes"), turn(INFORMATIVE, "Is it here?", "No.")).fault == "one-hint-only"
    assert (
        read(turn(PRECISE, "Is it?", "Yes"), turn(INFORMATIVE, "Is it?", "Yes, it is")[:-12]).fault == "one-hint-only"
    )
    assert parse("", MARKUP).fault == "malformed"


def test_the_first_of_two_answers_counts() -> None:
    turns = [turn(PRECISE, "Q?", "one"), turn(PRECISE, "Q?", "two"), turn(INFORMATIVE, "Q?", "It is one.")]
    assert read(*turns).triplets == (("Q?", "one", "It is one."),)
    assert all(read(*order).triplets for order in (turns, turns[::-1]))


@given(WORDS, WORDS, WORDS, st.booleans(), st.floats(-50, 50))
def test_a_triplet_survives_a_line_of_json(asked: str, precise: str, full: str, borrowed: bool, margin: float) -> None:
    triplet = Triplet("r", "i", asked, precise, full, borrowed, "Yes", margin, "long")
    line = triplet.to_json()
    assert "\n" not in line and Triplet.from_json(line) == triplet


def test_pairs_of_turns_do_not_depend_on_their_order() -> None:
    triples = [("Is it?", "Yes", "Yes, it is."), ("Where?", "Left", "On the left.")]
    found = [sorted(parse(dialogue(triples, seed), MARKUP).triplets) for seed in range(12)]
    assert all(a == b == sorted(triples) for a, b in pairwise(found))
