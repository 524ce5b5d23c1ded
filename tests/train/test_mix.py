"""What is learned in which stage, in which form, and what is held out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from train.data.mix import as_turns, divided, staged
from train.schedule import planned
from train.sft_config import SftConfig


def talk(number: int, images: tuple[str, ...], record: str = "", kind: str = "precise") -> Conversation:
    return Conversation(f"c{number}", images, (Turn("user", f"q{number}"), Turn("assistant", f"a{number}", True)),
                        record, kind)  # fmt: skip


TALKS = [
    talk(10 * image + k, (f"i{image}",), f"r{image}", "caption" if k == 0 else "precise")
    for image in range(40)
    for k in range(3)
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=2, max_size=30),
    st.dictionaries(st.sampled_from([f"r{k}" for k in range(10)]), st.sampled_from("ABCD")),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)  # fmt: skip
def test_no_image_record_or_patient_is_on_both_sides(
    drawn: list[tuple[int, int, bool]], groups: dict[str, str], share: float, seed: int
) -> None:
    talks = [talk(n, (f"i{i}",) if with_image else (), f"r{r}") for n, (i, r, with_image) in enumerate(drawn)]
    try:
        learned, held = divided(talks, share, seed, groups)
    except BadInput as error:
        assert "--held-out" in error.what
        return
    assert learned and held and sorted(t.id for t in (*learned, *held)) == sorted(t.id for t in talks)
    for what in (lambda t: set(t.images), lambda t: {t.record}, lambda t: {groups.get(t.record, t.record)}):
        assert not set().union(*map(what, learned)) & set().union(*map(what, held))


def test_the_held_out_share_is_one_of_images_and_seeded() -> None:
    learned, held = divided(TALKS, 0.25, 3)
    assert len({t.images for t in held}) == 10 and len({t.images for t in learned}) == 30
    assert divided(TALKS, 0.25, 3) == (learned, held) != divided(TALKS, 0.25, 4)
    assert divided(TALKS, 0.0) == (TALKS, [])
    _, of_two = divided(TALKS, 0.25, 3, {f"r{k}": f"P{k // 20}" for k in range(40)})
    assert len({t.images for t in of_two}) == 20  # a patient is held out whole


def test_captions_come_before_tasks_in_two_stages() -> None:
    captions, tasks = staged(TALKS, "two")
    assert {t.kind for t in captions} == {"caption"} and {t.kind for t in tasks} == {"precise"}
    assert len(captions) == 40 and len(tasks) == 80 and staged(TALKS, "single") == [TALKS]
    for some in (captions, tasks):
        with pytest.raises(BadInput, match="--stages two"):
            staged(some, "two")


def test_each_stage_is_a_whole_schedule_of_its_own() -> None:
    config = SftConfig(epochs=2, rows_per_step=4, warmup=0.2, learning_rate=1.0)
    plan = planned([range(10), range(10, 30)], config)
    assert [p.begins for p in plan] == [True, *[False] * 5, True, *[False] * 9]
    assert {n for p in plan[:6] for n in p.rows} == set(range(10))
    assert sorted(n for p in plan[6:11] for n in p.rows) == list(range(10, 30))
    alone = planned([range(20)], config)
    assert [p.rate for p in plan[6:]] == [p.rate for p in alone] and plan[:6] == planned([range(10)], config)
    assert max(p.rate for p in plan[:6]) == 1.0 and plan[5].rate < 0.2


def test_the_published_mix_has_its_caption_first_or_last() -> None:
    other = [talk(900, ("i0",), "r0", "synthesizer"), talk(901, ())]
    mixed = as_turns([*TALKS, *other], 1)
    assert mixed[:2] == other and len(mixed) == 42
    first = 0
    for image, one in enumerate(mixed[2:]):
        asked = [t.text for t in one.turns if t.role == "user"]
        caption, *tasks = (f"q{10 * image + k}" for k in range(3))
        assert asked in ([caption, *tasks], [*tasks, caption]) and one.images == (f"i{image}",)
        assert all(t.learned == (t.role == "assistant") for t in one.turns)
        first += asked[0] == caption
    assert 10 < first < 30
    assert as_turns(TALKS, 1) == as_turns(TALKS, 1) != as_turns(TALKS, 2)


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"epochs": 0}, "--epochs"), ({"micro_rows": 0}, "--micro-rows"), ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"), ({"warmup": 1.5}, "--warmup"),
        ({"held_out": 1.0}, "--held-out"), ({"patience": 3}, "--patience"), ({"probe_every": 3}, "--probe-every"),
        ({"stages": "three"}, "--stages"), ({"mix": "x"}, "--mix"), ({"neftune": -1.0}, "--neftune"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints"), ({"optimizer": "sgd"}, "--optimizer"),
        ({"gradient_checkpointing": True}, "--gradient-checkpointing"), ({"head_tile": -1}, "--head-tile"),
    ],
)  # fmt: skip
def test_a_wrong_setting_names_its_flag(wrong: dict[str, object], flag: str) -> None:
    with pytest.raises(BadInput, match=flag) as caught:
        SftConfig(**wrong)  # type: ignore[arg-type]
    assert caught.value.hint
