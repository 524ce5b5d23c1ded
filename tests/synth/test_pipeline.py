"""The way from pairs to triplets: written, borrowed, filtered, balanced; nothing is lost without a reason."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.conversation import Conversation, Turn
from synth.assembly import assemble
from synth.filters import MAX_WORDS, balance, drop_misspelt, drop_repeats, drop_unquoted, known_words
from synth.judge import ModelJudge
from synth.pipeline import SynthConfig, borrowed_questions, finish, reasons, write_chunk
from synth.synthesizer import Pair, answer, markup_of, read, write
from synth.triplet import DESCRIBE, INFORMATIVE, PRECISE, Markup, Triplet
from train.checkpoints import MemoryStore
from train.lora import LoraConfig, attach, detach
from train.models.generation import Sampling
from train.sft import SftConfig, run_sft

PAIRS = [Pair("r1", "1:32:32", "A red slice."), Pair("r2", "2:48:32", "No lesion.")]
TAUGHT = {
    "r1": (("Is it red?", "Yes", "It is red."), ("Where?", "left", "On the left.")),
    "r2": (("Is the lesion visible?", "No", "No lesion in it."), ("What plane?", "12", "It is 12.")),
}


def made(record: str, asked: str, precise: str = "Yes", full: str = "Yes, it is.", **more: Any) -> Triplet:
    return Triplet(record, f"i{record}", asked, precise, full, **more)


@pytest.fixture(scope="module")
def synthesizer(loaded: Any) -> Iterator[Any]:
    """The tiny model after it has learned two dialogues by heart, whole (METHODS 1.2) and question by question."""
    from tests.train.conftest import picture
    from train.models.features import Features

    talks = []
    for pair in PAIRS:
        turns = list(pair.turns)
        for asked, precise, full in TAUGHT[pair.record]:
            for hint, said in ((PRECISE, precise), (INFORMATIVE, full)):
                turns += [Turn("user", f"{hint}\n{asked}", True), Turn("assistant", said, True)]
                alone = (*pair.turns, Turn("user", f"{hint}\n{asked}"), Turn("assistant", said, True))
                talks.append(Conversation(pair.record, (pair.image,), alone, pair.record, "precise"))
        talks.append(Conversation(pair.record, (pair.image,), tuple(turns), pair.record, "synthesizer"))
    features = Features(loaded, lambda name: picture(*map(int, name.split(":"))))
    config = SftConfig(epochs=50, rows_per_step=2, micro_rows=2, learning_rate=5e-3, lora=LoraConfig(16, 32))
    trained = run_sft(loaded, talks, features, config, MemoryStore())
    assert trained.metrics[-1]["loss"] < 0.08
    model = attach(loaded, LoraConfig(), trained.adapter)
    yield loaded
    detach(model)


def test_a_synthesizer_writes_what_it_has_learned(synthesizer: Any, features: Any) -> None:
    found = write(synthesizer, PAIRS, features, Sampling(250))
    assert [(t.record, t.image) for t in found] == [(p.record, p.image) for p in PAIRS for _ in range(2)]
    for pair in PAIRS:
        mine = [(t.instruction, t.precise, t.informative) for t in found if t.record == pair.record]
        assert mine == list(TAUGHT[pair.record])
    assert all(t.kept and not t.borrowed for t in found)


def test_samples_of_one_image_are_read_as_one(synthesizer: Any, features: Any) -> None:
    found = write(synthesizer, PAIRS, features, Sampling(250, 0.05, samples=3, seed=1))
    asked = Counter((t.record, t.instruction) for t in found if t.kept)
    assert asked and max(asked.values()) == 1


def test_a_dialogue_that_is_cut_off_gives_what_was_whole(synthesizer: Any, features: Any) -> None:
    short = write(synthesizer, PAIRS, features, Sampling(20))
    assert [(t.instruction, t.reason) for t in short] == [("", "malformed")] * 2


def test_answers_come_in_pairs_and_unfinished_ones_say_so(synthesizer: Any, features: Any) -> None:
    asked = [(PAIRS[0], "Is it red?"), (PAIRS[1], "Is the lesion visible?")]
    found = answer(synthesizer, asked, features)
    assert [t.record for t in found] == ["r1", "r2"] and all(t.borrowed for t in found)
    assert (found[0].precise, found[0].informative) == ("Yes", "It is red.")
    cut = answer(synthesizer, asked, features, max_new_tokens=1)
    assert [t.reason for t in cut] == ["unfinished"] * 2
    assert answer(synthesizer, [], features) == []


def test_the_whole_way_loses_nothing(synthesizer: Any, features: Any) -> None:
    config = SynthConfig(samples=1, temperature=0.0, max_new_tokens=250, borrow=1, threshold=-1e9)
    written = write_chunk(synthesizer, PAIRS, features, config, 0)
    talked: list[str] = []
    found = finish(
        synthesizer,
        ModelJudge(synthesizer, 0),
        PAIRS,
        written,
        features,
        config,
        lambda d, n, what: talked.append(what),
    )
    assert len(found) == len(written) + 2
    borrowed = [t for t in found if t.borrowed]
    assert [(t.record, t.instruction) for t in borrowed] == [("r1", "Is the lesion visible?"), ("r2", "Is it red?")]
    assert all(t.verdict for t in found if t.reason in ("", "balance"))
    counts = reasons(found)
    assert sum(counts.values()) == len(found) and counts["kept"] == sum(t.kept for t in found)
    assert set(talked) == {"borrowed questions", "judging"}
    talks = assemble(PAIRS, found)
    assert sum(t.kind == "caption" for t in talks) == 2
    assert sum(t.kind == "rationale" for t in talks) == sum(t.kept and not t.borrowed for t in found)
    again = write_chunk(synthesizer, PAIRS, features, config, 0)
    assert finish(synthesizer, ModelJudge(synthesizer, 0), PAIRS, again, features, config) == found


def test_the_same_chunk_is_written_the_same_and_another_otherwise(loaded: Any, features: Any) -> None:
    config = SynthConfig(samples=2, max_new_tokens=12, temperature=1.0)
    progress: list[tuple[int, int]] = []
    first = write_chunk(loaded, PAIRS, features, config, 3, lambda d, n: progress.append((d, n)))
    assert write_chunk(loaded, PAIRS, features, config, 3) == first
    assert progress == [(2, 2)]
    assert {t.reason for t in first} == {"malformed"} and len(first) == 4


def test_the_markup_is_that_of_the_chat_template(loaded: Any) -> None:
    assert markup_of(loaded) == Markup("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>")
    assert PAIRS[0].turns == [Turn("user", DESCRIBE), Turn("assistant", "A red slice.")]


@pytest.mark.parametrize("place", range(3))
def test_a_written_control_token_drops_its_triplet_only(loaded: Any, place: int) -> None:
    """A model can write any token: one that stands for an image or a role would break every later step."""
    for token in ("<|image_pad|>", "<|vision_start|>", "<|im_start|>"):
        parts = ["Is it?", "Yes", "Yes, it is."]
        parts[place] += f" {token}"
        turns = [
            f"{hint}\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n"
            for q, p, i in (parts, ["Where?", "left", "On the left."])
            for hint, a in ((PRECISE, p), (INFORMATIVE, i))
        ]
        found = read(loaded, markup_of(loaded), PAIRS[0], ["<|im_start|>user\n".join(turns) + "<|endoftext|>"])
        assert [t.reason for t in found] == ["control-token", ""]
        assert found[1].instruction == "Where?"


WRITTEN = [
    made("r1", "Is it red?"), made("r1", "Are there two?"), made("r2", "Is it red?"), made("r2", "Does it grow?"),
    made("r3", "Where is it?", "there"), made("r3", "Is it left?", reason="long"),
    made("r4", "Has it a rim?", borrowed=True),
]  # fmt: skip


@given(st.integers(0, 50), st.integers(0, 6), st.lists(st.integers(0, 6), max_size=10))
def test_no_image_is_asked_its_own_question(seed: int, borrow: int, chosen: list[int]) -> None:
    written = [WRITTEN[k] for k in chosen]
    pairs = [Pair(f"r{k}", f"i{k}", "C.") for k in range(1, 6)]
    asked = borrowed_questions(pairs, written, SynthConfig(borrow=borrow, seed=seed))
    own = {(t.record, t.instruction) for t in written}
    open_to_all = {t.instruction for t in written} & {"Is it red?", "Are there two?", "Does it grow?"}
    assert len(set(asked)) == len(asked)
    for pair in pairs:
        mine = {q for p, q in asked if p == pair}
        assert not {(pair.record, q) for q in mine} & own
        assert mine <= open_to_all and len(mine) <= borrow
        if borrow and (others := {q for q in open_to_all if (pair.record, q) not in own}) == open_to_all:
            assert bool(mine) == bool(others)
    assert borrowed_questions(pairs, written, SynthConfig(borrow=borrow, seed=seed)) == asked


def test_questions_are_borrowed_as_often_as_they_were_written() -> None:
    written = [made(f"w{k}", "Is it common?" if k % 10 else "Is it rare?") for k in range(100)]
    pairs = [Pair(f"r{k}", f"i{k}", "C.") for k in range(300)]
    counts = Counter(q for _, q in borrowed_questions(pairs, written, SynthConfig(borrow=1)))
    assert counts.total() == 300 and 10 < counts["Is it rare?"] < 60


def test_a_quarter_of_the_borrowed_questions_is_answered_word_for_word() -> None:
    caption = "Axial slice. The thalamus is seen."
    plane = dataclasses.replace(made("w1", "Which plane is shown?"), precise="axial")
    place = dataclasses.replace(made("w2", "Where is it?"), precise="the left")
    written = [plane, place, *(made("w3", f"Is it {k}?") for k in range(9))]
    pairs = [Pair(f"w{k}", f"i{k}", caption) for k in range(1, 5)]
    asked = borrowed_questions(pairs, written, SynthConfig(borrow=4))
    for pair in (pairs[1], pairs[3]):
        mine = [q for p, q in asked if p == pair]
        assert mine.count("Which plane is shown?") == 1 and "Where is it?" not in mine and len(mine) == 4
    said = [dataclasses.replace(t, record=r, borrowed=True) for t in (plane, place) for r in ("w1", "w4")]
    found = drop_unquoted(said, {p.record: p.caption for p in pairs})
    assert [t.reason for t in found] == ["", "", "not-in-caption", "not-in-caption"]


def test_words_that_nobody_uses_are_misspelt() -> None:
    right = [made(f"r{k}", "Is the thalamus visible?") for k in range(4)]
    wrong = made("r9", "Is the thalxmus visible?")
    captions = [f"The thalamus, slice {k}." for k in range(4)]
    known = known_words(captions, [*right, wrong], 0.02)
    assert "thalamus" in known and "visible" in known and "thalxmus" not in known
    found = drop_misspelt([*right, wrong], known)
    assert [t.reason for t in found] == ["", "", "", "", "unknown-word"]


def test_repeats_and_long_answers_are_dropped_with_their_code() -> None:
    given_ = [
        made("r1", "Is it red?"), made("r1", " is it  RED?"), made("r2", "Is it red?"),
        made("r1", "Where?", full="word " * MAX_WORDS), made("r1", "What?", full="word " * (MAX_WORDS + 1)),
        made("r1", "What?"), made("r1", "", reason="malformed"), made("r1", "", reason="malformed"),
    ]  # fmt: skip
    found = drop_repeats(given_)
    assert [t.reason for t in found] == ["", "repeated", "", "", "long", "", "malformed", "malformed"]
    assert [t.instruction for t in found] == [t.instruction for t in given_]


SAID = st.sampled_from(["Yes", "yes.", " No ", "no", "left", "Yes, on the left"])
WORDINGS = st.sampled_from(["Is it?", " is  IT?", "Can it?"])


@given(st.lists(st.tuples(WORDINGS, SAID, st.sampled_from(["", "", "long"])), max_size=40), st.integers(0, 9))
def test_balance_balances_each_wording_and_touches_nothing_else(drawn: list[tuple[str, str, str]], seed: int) -> None:
    triplets = [made(f"r{k}", asked, said, reason=reason) for k, (asked, said, reason) in enumerate(drawn)]
    found = balance(triplets, seed)

    def closed(t: Triplet) -> str:
        said = t.precise.strip().rstrip(".").lower()
        return said if said in ("yes", "no") else ""

    for wording in ("is", "can"):
        before, after = (
            Counter(closed(t) for t in of if t.kept and t.instruction.split()[0].lower() == wording)
            for of in (triplets, found)
        )
        assert after["yes"] == after["no"] == min(before["yes"], before["no"])
        assert after[""] == before[""]
    for one, other in zip(triplets, found, strict=True):
        if other != one:
            assert one.kept and closed(one) and other.reason == "balance"
    assert balance(triplets, seed) == found


def test_what_balance_drops_is_spread_over_the_images() -> None:
    triplets = [made(f"r{k}", "Is it?", "Yes" if k < 90 else "No") for k in range(100)]
    dropped = [k for k, t in enumerate(balance(triplets, 1)) if not t.kept]
    assert len(dropped) == 80 and dropped != [k for k, t in enumerate(balance(triplets, 2)) if not t.kept]
    kept = sorted(set(range(90)) - set(dropped))
    assert kept[0] < 45 < kept[-1]


def test_reasons_count_everything() -> None:
    triplets = [made("r", str(k), reason=Random(k).choice(["", "long", "judge-no"])) for k in range(50)]
    assert reasons(triplets) == Counter(t.reason or "kept" for t in triplets)
    assert list(reasons(triplets).values()) == sorted(reasons(triplets).values(), reverse=True)
