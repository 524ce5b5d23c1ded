"""RCPA's schedules: bounds, directions and switches as properties; the band against simulation; state round trips."""

import json
import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.conversation import Turn
from audit.errors import BadInput
from train.rl.curriculum import Curriculum, CurriculumConfig, Lesson, key_of, zero_signal
from train.rl.rollout import Prompt


def prompt(number: int = 0) -> Prompt:
    return Prompt(
        f"image-{number}",
        (Turn("user", "Where is it?"),),
        "left",
        f"r{number}",
        "Is the lesion visible in this slice? What is red is the lesion, which is left",
    )


unit = st.floats(0, 1)
PART = st.floats(0, 0.99)


@st.composite
def configs(draw: st.DrawFn) -> CurriculumConfig:
    low, high = sorted((draw(unit), draw(unit)))
    easy, hard = sorted((draw(unit), draw(unit)))
    return CurriculumConfig(
        curriculum_steps=draw(st.integers(1, 50)),
        pace=draw(st.sampled_from(("steps", "competence"))),
        competence=draw(st.floats(0.1, 1)),
        competence_memory=draw(PART),
        prefix=draw(st.booleans()),
        prefix_max=draw(PART),
        prefix_jitter=draw(unit),
        offset=draw(unit),
        threshold=draw(st.sampled_from(("rising", "fixed", "off"))),
        delta_min=low,
        delta_max=high,
        gamma=draw(st.floats(0, 2)),
        difficulty=draw(st.booleans()),
        difficulty_start=easy,
        difficulty_end=hard,
        difficulty_memory=draw(PART),
    )


GROUPS = st.lists(st.tuples(st.integers(0, 4), st.lists(unit, min_size=1, max_size=4)), max_size=60)


@settings(deadline=None)
@given(config=configs(), groups=GROUPS)
def test_schedules_go_one_way_and_stay_in_bounds(config: CurriculumConfig, groups: list[Any]) -> None:
    curriculum = Curriculum(config)
    before = curriculum.lesson(0)
    for step in range(70):
        if step < len(groups):
            curriculum.saw(prompt(groups[step][0]), groups[step][1])
        now = curriculum.lesson(step)
        assert 0 <= before.progress <= now.progress <= 1
        assert config.prefix_max * config.prefix >= before.prefix_share >= now.prefix_share >= 0
        assert before.prefix_nll >= now.prefix_nll
        assert config.difficulty_start <= before.difficulty_target <= now.difficulty_target <= config.difficulty_end
        if config.threshold == "off":
            assert now.threshold == -1
        else:
            assert config.delta_min <= before.threshold <= now.threshold <= config.delta_max
        assert 0 <= curriculum.weight(prompt(), now) <= 1
        before = now
    if config.pace == "steps":  # phase 2: plain GRPO with weights
        assert (now.progress, now.prefix_share, now.prefix_nll) == (1, 0, 0)
        assert now.threshold in (config.delta_max, -1)
        assert now.difficulty_target == config.difficulty_end


def test_the_schedules_in_numbers() -> None:
    config = CurriculumConfig(curriculum_steps=40, prefix_max=0.8, delta_min=0.2, delta_max=0.8)
    lessons = [Curriculum(config).lesson(step) for step in (0, 10, 20, 39, 40, 400)]
    assert [x.prefix_share for x in lessons[:3]] == pytest.approx([0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4])
    assert [x.threshold for x in lessons] == pytest.approx([0.2, 0.35, 0.5, 0.785, 0.8, 0.8])
    assert [x.prefix_nll for x in lessons] == [1e-3, 1e-3, 1e-3, 1e-3, 0, 0]
    assert [x.difficulty_target for x in lessons[:3]] == pytest.approx([0.4, 0.5, 0.6])
    assert Curriculum(config).rewards([0.0, 0.3, 0.5, 1.0], lessons[2]) == pytest.approx([0.0, 0.06, 1.1, 1.2])
    assert Curriculum(replace(config, gamma=0)).rewards([0.49, 0.5], lessons[2]) == [0, 1]
    fixed = Curriculum(replace(config, threshold="fixed"))
    assert fixed.rewards([0.7, 0.8], fixed.lesson(0)) == pytest.approx([0.14, 1.16])


def test_everything_off_is_plain_grpo(loaded: Any) -> None:
    curriculum, rng = Curriculum(CurriculumConfig.off()), Random(3)
    lesson = curriculum.lesson(0)
    curriculum.saw(prompt(), [0.0] * 8)
    assert curriculum.prefix(loaded.encoder, prompt(), lesson, rng) == () and lesson.prefix_nll == 0
    assert curriculum.rewards([0.0, 0.4, 1.0], lesson) == [0.0, 0.4, 1.0]
    assert curriculum.weight(prompt(), lesson) == 1
    drawn = [p.record for p in curriculum.draw([prompt(n) for n in range(9)], 5, Random(1), lesson)]
    plain = Random(1)
    assert drawn == [plain.choice([prompt(n) for n in range(9)]).record for _ in range(5)]


@given(unit, unit, st.lists(unit, min_size=2, max_size=8), configs())
def test_a_better_answer_never_earns_less(low: float, high: float, others: list[float], of: CurriculumConfig) -> None:
    low, high = sorted((low, high))
    curriculum = Curriculum(of)
    rewards = curriculum.rewards([low, high, *others], curriculum.lesson(3))
    assert 0 <= rewards[0] <= rewards[1] <= 1 + of.gamma
    assert curriculum.rewards([0.0], curriculum.lesson(0)) == [0.0], "nothing right earns nothing"


def test_prefixes_follow_the_schedule_and_leave_some_out(loaded: Any) -> None:
    config = CurriculumConfig(100, offset=0.25, prefix_jitter=0.3, prefix_max=0.8)
    curriculum, rng = Curriculum(config), Random(5)
    whole = len(loaded.tokenizer(prompt().rationale)["input_ids"])
    for step, share in ((0, 0.8), (50, 0.4)):
        lengths = [len(curriculum.prefix(loaded.encoder, prompt(), curriculum.lesson(step), rng)) for _ in range(400)]
        assert np.mean([n == 0 for n in lengths]) == pytest.approx(0.25, abs=0.07)
        assert max(lengths) <= min(0.8, share * 1.3) * whole
        assert np.mean([n for n in lengths if n]) > 0.6 * share * whole
        assert len(set(lengths)) > 2, "the jitter moves them"
    assert curriculum.prefix(loaded.encoder, prompt(), curriculum.lesson(100), rng) == ()
    short = replace(prompt(), rationale="left")
    assert not any(curriculum.prefix(loaded.encoder, short, curriculum.lesson(0), rng) for _ in range(20))
    one, other = Random(8), Random(8)  # what is drawn does not depend on what comes of it
    curriculum.prefix(loaded.encoder, prompt(), curriculum.lesson(0), one)
    curriculum.prefix(loaded.encoder, short, curriculum.lesson(100), other)
    assert one.random() == other.random()


def test_weights_move_from_easy_to_hard() -> None:
    config = CurriculumConfig(difficulty_start=0.2, difficulty_end=0.9, sigma=0.3, difficulty_memory=0.5)
    curriculum, easy, hard = Curriculum(config), prompt(1), prompt(2)
    first, last = curriculum.lesson(0), curriculum.lesson(10**6)
    assert curriculum.weight(easy, first) == 1, "never seen"
    curriculum.saw(easy, [0.8, 0.8])
    curriculum.saw(hard, [0.0, 0.2])
    assert curriculum.weight(easy, first) == pytest.approx(1)
    assert curriculum.weight(hard, first) == pytest.approx(math.exp(-(0.7**2) / 0.18))
    assert curriculum.weight(hard, last) > curriculum.weight(easy, last)
    curriculum.saw(hard, [1.0, 1.0])
    assert curriculum.difficulty_of(hard) == pytest.approx(0.45)


def test_competence_moves_on_what_was_done_without_help() -> None:
    config = CurriculumConfig(pace="competence", competence=0.5, competence_memory=0.5)
    curriculum = Curriculum(config)
    curriculum.saw(prompt(), [1.0], prefixed=True)
    assert curriculum.lesson(10**6).progress == 0, "steps do not count"
    curriculum.saw(prompt(), [0.5, 0.5])
    assert curriculum.lesson(0).progress == pytest.approx(0.5)
    curriculum.saw(prompt(), [0.0])
    assert curriculum.lesson(0).progress == pytest.approx(0.5), "a bad hour brings no prefix back"
    for _ in range(60):
        curriculum.saw(prompt(), [0.6])
    assert curriculum.lesson(0).progress == 1


@pytest.mark.parametrize(("solved", "group"), [(0.02, 8), (0.1, 8), (0.5, 8), (0.5, 2), (0.9, 4), (0.0, 8), (1.0, 3)])
def test_the_chance_of_no_signal_is_that_of_a_simulation(solved: float, group: int) -> None:
    rolls = np.random.default_rng(2).random((40_000, group)) < solved
    alike = np.mean(rolls.all(1) | ~rolls.any(1))
    assert zero_signal(solved, group) == pytest.approx(alike, abs=0.01)


@given(unit, st.integers(2, 16))
def test_the_chance_of_no_signal_in_general(solved: float, group: int) -> None:
    assert zero_signal(solved, group) == pytest.approx(zero_signal(1 - solved, group))
    assert 0.5 ** (group - 1) - 1e-12 <= zero_signal(solved, group) <= 1
    assert zero_signal(solved, group + 1) <= zero_signal(solved, group), "larger groups starve less"


def test_what_can_teach_is_drawn_first() -> None:
    curriculum, prompts = Curriculum(CurriculumConfig(), group=8), [prompt(n) for n in range(40)]
    for number, solved in enumerate((0.0, 0.02, 0.2, 0.5, 0.8, 1.0) * 5):
        curriculum.saw(prompts[number], [solved])
    teaches = {p.record for p in prompts if curriculum.can_teach(p)}
    assert teaches == {f"r{n}" for n in range(30) if n % 6 in (2, 3, 4)}
    lesson = curriculum.lesson(0)
    order = [p.record for p in curriculum.draw(prompts, 40, Random(7), lesson)]
    assert set(order[:15]) == teaches and set(order[15:25]) == {f"r{n}" for n in range(30, 40)}
    assert sorted(order) == sorted(p.record for p in prompts), "each once before any twice"
    assert order == [p.record for p in curriculum.draw(prompts, 40, Random(7), lesson)]
    assert len(curriculum.draw(prompts[:3], 8, Random(7), lesson)) == 8
    assert curriculum.draw([], 3, Random(1), lesson) == []
    firsts = [int(curriculum.draw(prompts, 1, Random(seed), lesson)[0].record[1:]) % 6 for seed in range(300)]
    assert firsts.count(3) > firsts.count(2), "among them, what is due: mu_0 is 0.4, and 0.5 lies nearer to it than 0.8"


@settings(deadline=None)
@given(config=configs(), groups=GROUPS, more=GROUPS)
def test_a_resumed_curriculum_goes_on_bit_for_bit(config: CurriculumConfig, groups: Any, more: Any) -> None:
    whole = Curriculum(config)
    for number, similarities in groups:
        whole.saw(prompt(number), similarities)
    resumed = Curriculum(config)
    resumed.resume(json.loads(json.dumps(whole.state())))

    def goes_on(one: Curriculum) -> tuple[list[Lesson], list[float], list[str], dict[str, Any]]:
        for number, similarities in more:
            one.saw(prompt(number), similarities)
        lessons = [one.lesson(step) for step in range(0, 60, 7)]
        weights = [one.weight(prompt(n), lesson) for n in range(5) for lesson in lessons]
        drawn = one.draw([prompt(n) for n in range(8)], 6, Random(3), lessons[0])
        return lessons, weights, [p.record for p in drawn], one.state()

    assert goes_on(whole) == goes_on(resumed)
    fresh = Curriculum(config)
    fresh.resume({})
    assert fresh.state() == Curriculum(config).state()


def test_a_state_tells_nothing_of_a_prompt() -> None:
    curriculum = Curriculum(CurriculumConfig())
    curriculum.saw(prompt(7), [0.5])
    told = json.dumps(curriculum.state())
    assert not any(word in told for word in ("image-7", "Where", "left", "r7"))
    others = (prompt(8), replace(prompt(7), reference="right"), replace(prompt(7), turns=(Turn("user", "Which?"),)))
    assert len({key_of(p) for p in (prompt(7), *others)}) == 4


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"curriculum_steps": 0}, "--curriculum-steps"),
        ({"prefix_max": 1.0}, "--prefix-max"),
        ({"offset": -0.1}, "--offset"),
        ({"delta_min": 0.9}, "--delta-max"),
        ({"gamma": math.nan}, "--gamma"),
        ({"sigma": 0.0}, "--sigma"),
        ({"difficulty_start": 0.9}, "--difficulty-end"),
        ({"pace": "slow"}, "--pace"),
        ({"threshold": "none"}, "--threshold"),
        ({"competence": 1.5}, "--competence"),
        ({"prefix_nll": math.inf}, "--prefix-nll"),
        ({"band": 2.0}, "--band"),
    ],
)
def test_settings_out_of_bounds_name_their_flag(wrong: dict[str, Any], flag: str) -> None:
    with pytest.raises(BadInput, match=f"^{flag} must") as found:
        CurriculumConfig(**wrong)
    assert "cloche align --help" in found.value.diagnostics()
