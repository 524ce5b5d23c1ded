"""Assembly: the caption always, how two answers become one, and what is learned."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.assembly import CAPTION_TURNS, INDICATORS, RATIONALES, assemble, joined
from synth.synthesizer import Pair
from synth.triplet import PRECISE, Triplet
from train.evaluation.scorers import final_answer, strict_closed

PAIRS = [Pair(f"r{k}", f"i{k}", f"Caption {k}.") for k in range(4)]


def made(informative: str, precise: str = "Yes", record: str = "r0", **more: str) -> Triplet:
    return Triplet(record, "i" + record[1:], "Is it?", precise, informative, **more)


@pytest.mark.parametrize("word", INDICATORS)
def test_an_answer_that_concludes_stands_alone(word: str) -> None:
    concluded = made(f"The slice is bright. It is {word.capitalize()}here.")
    assert joined(concluded, Random(0)) == concluded.informative
    early = made(f"It is {word}here. The slice is bright.")  # only the last sentence counts
    assert joined(early, Random(0)) != early.informative


@pytest.mark.parametrize("word", INDICATORS)
def test_a_short_answer_that_concludes_follows(word: str) -> None:
    triplet = made("The slice is bright.", f"{word}yes")
    assert joined(triplet, Random(0)) == f"The slice is bright. {word}yes"


def test_else_a_rationale_ends_on_the_short_answer() -> None:
    endings = {joined(made("The slice is bright. ", "Yes."), Random(seed)) for seed in range(60)}
    assert endings == {r.format(why="The slice is bright.", answer="Yes") for r in RATIONALES}
    assert all(final_answer(e) == "Yes." and e.startswith("The slice is bright. ") for e in endings)
    assert all(strict_closed(e, "yes", ("yes", "no")) for e in endings)
    assert joined(made("A {brace} and {why}.", "{answer}"), Random(0)).startswith("A {brace} and {why}. ")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "long", "judge-no"]), st.booleans()), max_size=12),
    st.booleans(),
)
def test_every_image_keeps_its_caption_and_a_task_for_each_kept_triplet(
    drawn: list[tuple[int, str, bool]], short: bool
) -> None:
    triplets = [
        Triplet(f"r{k}", f"i{k}", f"Q{n}?", f"A{n}", f"Full {n}.", borrowed=borrowed, reason=reason)
        for n, (k, reason, borrowed) in enumerate(drawn)
    ]
    talks = assemble(PAIRS, triplets, short=short)
    assert len({t.id for t in talks}) == len(talks)
    for pair in PAIRS:
        mine = [t for t in talks if t.record == pair.record]
        kept = [t for t in triplets if t.record == pair.record and t.kept]
        assert all(t.images == (pair.image,) for t in mine)
        assert [t.kind for t in mine] == [
            "caption",
            *(
                kind
                for t in kept
                for kind in (["precise"] if t.borrowed else ["rationale", "precise"] if short else ["rationale"])
            ),
        ]
        assert mine[0].turns[0].text in CAPTION_TURNS and mine[0].turns[1].text == pair.caption
        full = [t for t in mine if t.kind == "rationale"]
        own = [t for t in kept if not t.borrowed]
        assert [t.turns[0].text for t in full] == [t.instruction for t in own]
        assert all(t.turns[1].text.startswith(k.informative) for t, k in zip(full, own, strict=True))
        brief = [t for t in mine if t.kind == "precise"]
        assert [(t.turns[0].text, t.turns[1].text) for t in brief] == [
            (f"{PRECISE}\n{k.instruction}", k.precise) for k in kept if short or k.borrowed
        ]
    for talk in talks:
        assert [(t.role, t.learned) for t in talk.turns] == [("user", False), ("assistant", True)]


def test_the_same_seed_assembles_the_same_and_no_image_depends_on_another() -> None:
    pairs = [Pair(f"r{k}", f"i{k}", "C.") for k in range(30)]
    triplets = [made("Bright.", record=f"r{k}") for k in range(30)]
    talks = assemble(pairs, triplets, seed=1)
    assert assemble(pairs, triplets, seed=1) == talks
    texts = [[t.text for t in talk.turns] for talk in talks]
    assert [[t.text for t in talk.turns] for talk in assemble(pairs, triplets, seed=2)] != texts
    assert [[t.text for t in talk.turns] for talk in assemble(pairs[10:], triplets, seed=1)] == texts[30:]
    assert {t.turns[0].text for t in talks if t.kind == "caption"} == set(CAPTION_TURNS)
