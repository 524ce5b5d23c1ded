"""The alignment experiment: its task gives nothing away, its arms run and go on, its page says what the files say."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from appliance.demo.hospital.export import Hospital
from appliance.demo.hospital.truth import LesionTruth, SliceTruth
from appliance.results import align
from appliance.results.arms import ARMS, FULL, QUICK, RCPA, Arm
from appliance.results.bench import Bench, based
from appliance.results.page import NOTES, write
from appliance.results.run import about, play
from appliance.results.task import QUESTION, Task
from appliance.starter.exams import general_suite
from appliance.starter.where import STARTER
from train.checkpoints import MemoryStore
from train.models.loading import Loaded, load
from train.rl.domain import Domain
from train.rl.prefix import secrets, shown
from train.rl.table import parse, table_of

SMALL = replace(
    QUICK, name="test", labels=8, warm_epochs=1, own=1, hushed=1, steps=2, pre_alignment=2, measure_every=1, watched=4,
    judged=4, general=4, grpo=replace(QUICK.grpo, prompts=1, group=2, max_new_tokens=6, resample=0, checkpoint_every=1),
    sft=replace(QUICK.sft, epochs=1), start=replace(QUICK.start, epochs=1),
)  # fmt: skip
"""So small that nothing is learned."""
ARM = {arm.name: arm for arm in ARMS}


def hospital(folder: Path) -> Hospital:
    """Made-up slices: every answer three times for training, once held out."""
    (folder / "images").mkdir(parents=True)
    rng, truths = np.random.default_rng(0), []
    for plane in ("axial", "coronal", "sagittal"):
        for side in ("left", "right"):
            for tone in ("bright", "dark"):
                for turn in range(4):
                    name, split = f"{plane}-{side}-{tone}-{turn}", "train" if turn < 3 else "held-out"
                    lesion = LesionTruth(side, "insula", tone, 90)  # type: ignore[arg-type]
                    truths.append(
                        SliceTruth(name, f"{split} {turn}", plane, 4, 0, split, (), (), (), (), lesion, False)  # type: ignore[arg-type]
                    )
                    pixels = rng.integers(0, 255, (128, 128), np.uint8)
                    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    truths.append(replace(truths[0], slice_id="no-lesion", lesion=None))
    return Hospital(folder, tuple(truths), ())


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(hospital(tmp_path_factory.mktemp("results") / "hospital"), tuple(general_suite(4)))


@pytest.fixture(scope="module")
def starter() -> Loaded:
    return load(STARTER, "fp32", "cpu")


@pytest.fixture(scope="module")
def bench(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return based(load(STARTER, "fp32", "cpu"), task, SMALL, tmp_path_factory.mktemp("bases"), rare=True)


def test_the_labels_of_a_seed_are_balanced_and_from_training_patients(task: Task) -> None:
    labels = task.labelled(0, 16)
    assert set(Counter(one.answer for one in labels).values()) == {2} and len({one.image for one in labels}) == 16
    assert labels == task.labelled(0, 16) != task.labelled(1, 16)
    held = task.held_out(100)
    assert len(held) == 8 and not {one.patient for one in held} & {one.patient for one in labels}
    assert all(one.plane != "sagittal" for one in task.examples("train") + held)


def test_a_mirrored_slice_is_the_picture_turned_round_with_its_side_exchanged(task: Task) -> None:
    one = task.labelled(0, 1)[0]
    assert {one.side, one.mirrored.side} == {"left", "right"}
    assert (one.plane, one.tone) == (one.mirrored.plane, one.mirrored.tone)
    here, there = (np.asarray(task.image(name)) for name in (one.image, one.mirrored.image))
    assert (here[:, ::-1] == there).all() and (here != there).any()


def test_no_prefix_of_any_label_says_a_word_of_its_answer(task: Task, starter: Loaded) -> None:
    for one in task.examples("train"):
        for tenth in range(11):
            said = starter.tokenizer.decode(shown(starter.encoder, one.rationale, one.answer, tenth / 10)).lower()
            assert not any(word in said for word in secrets(one.answer)), said
        assert shown(starter.encoder, one.rationale, one.answer, RCPA.prefix_max)


def test_the_mirror_applies_to_every_label_and_the_control_keeps_the_wrong_side(task: Task, starter: Loaded) -> None:
    from appliance.results.arms import WRONG

    (mirror,) = Domain.of(table_of("brain-mri"), starter.tokenizer).transforms
    (wrong,) = Domain.of(parse(WRONG.encode(), "wrong.toml"), starter.tokenizer).transforms
    for one in task.examples("train"):
        assert mirror.applies(QUESTION, one.target) and mirror.rule.swap_text(one.target) == one.mirrored.target
        assert wrong.applies(QUESTION, one.target) and wrong.rule.swap_text(one.target) == one.target
    assert mirror.suffix == wrong.suffix == task.labelled(0, 1)[0].mirrored.image[-len(mirror.suffix) :]


def test_every_arm_has_a_name_of_its_own_and_the_sizes_differ() -> None:
    assert len({arm.name for arm in ARMS}) == len(ARMS) and QUICK.digest != FULL.digest
    parts = [arm.curriculum for arm in ARMS if arm.name.startswith("rcpa-")]
    assert len(parts) == len({repr(part) for part in parts}) == 4 and RCPA not in parts


def settled(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "seconds"}


@pytest.mark.slow
def test_an_arm_that_was_cut_off_goes_on_to_the_same_figures(bench: Bench) -> None:
    store = MemoryStore()
    whole = play(bench, ARM["rcpa"], 0, lambda what: None, store)
    assert [point["step"] for point in whole["points"]] == [0, 1, 2]
    assert len(whole["rows"]) == 2 and len(whole["right"]) == 4 and json.loads(json.dumps(whole)) == whole
    assert store.load() is not None  # the checkpoint after the first step
    again = play(bench, ARM["rcpa"], 0, lambda what: None, store)
    assert settled(again) == settled(whole)
    assert settled(play(bench, ARM["rcpa"], 1, lambda what: None)) != settled(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "sft-kl", "augmented", "knowledge", "mirror", "wrong"])
def test_the_other_kinds_of_arm_run(bench: Bench, name: str) -> None:
    found = play(bench, ARM[name], 0, lambda what: None)
    assert len(found["points"]) >= 2 and bool(found["rows"]) == (ARM[name].learns == "rewards")


@pytest.mark.slow
def test_without_its_weight_the_tether_is_plain_supervised_learning(bench: Bench) -> None:
    from appliance.results.bench import SHAPE, talk
    from appliance.results.tether import run_tethered
    from train.lora import unpack
    from train.sft import run_sft

    talks = [talk(one) for one in bench.task.labelled(0, 8)]
    config = replace(bench.sizes.sft, epochs=2, lora=SHAPE)
    plain = unpack(run_sft(bench.loaded, talks, bench.features, config, MemoryStore()).adapter)[0]
    untied, tied = (
        unpack(run_tethered(bench.loaded, talks, bench.features, config, weight, lambda step, model: None))[0]
        for weight in (0.0, 5.0)
    )
    for name, tensor in plain.items():
        np.testing.assert_allclose(untied[name], tensor, rtol=2e-4, atol=1e-6)
    assert any(not np.allclose(tied[name], tensor, rtol=2e-3, atol=1e-5) for name, tensor in plain.items())


def finished(folder: Path, arm: Arm, seed: int, right: list[int], general: float) -> None:
    accuracy = sum(right) / len(right)
    points = [{"step": 0, "accuracy": 0.0, "general": 0.1}, {"step": 2, "accuracy": accuracy, "general": general}]
    rows = [{"zero_std_share": 0.5, "reward": 0.1}] * 2 if arm.learns == "rewards" else []
    said = {"arm": arm.name, "seed": seed, "right": right, "general": general, "points": points, "rows": rows}
    folder.mkdir(parents=True, exist_ok=True)
    align.outcome(folder, arm, seed).write_text(json.dumps(said | {"diagnosis": "", "seconds": 1}))


def based_on(folder: Path) -> None:
    one = {"right": [0] * 4, "sampled": 0.01, "near": 0.02, "begun": 0.1, "begun_near": 0.2, "mixed": 0.05,
           "general": 0.1, "train": 9, "held_out": 4, "patients": ["a", "a", "b", "c"]}  # fmt: skip
    base = {"rare": one, "seldom": one | {"sampled": 0.03}}
    (folder / "base.json").write_text(json.dumps(base))


def test_the_page_says_what_the_files_say_and_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    folder, docs = tmp_path / "runs", tmp_path / "docs"
    for seed, right in enumerate(([1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0])):
        finished(folder, ARM["rcpa"], seed, right, 0.12)
    finished(folder, ARM["grpo"], 0, [0, 0, 0, 0], 0.1)
    based_on(folder)
    write(folder, QUICK, docs)
    page = (docs / "results.md").read_text()
    assert "| RCPA | 3 | 50.0 ± 25.0 % | 50, 75, 25 |" in page
    assert "| GRPO | +50.0 | one seed |" in page
    assert "| SFT | 0 | not yet run |" in page and "**Not finished:**" in page  # what is missing is said
    assert "| hardly ever right | 0.0% | 1.0%, 2.0% | 10.0%, 20.0% | 5% | 0.100 |" in page
    assert (docs / "images" / "align-curriculum.svg").read_text().startswith("<svg")
    (docs / "results.md").write_text(page.replace("Nothing has been written yet.", "It was so."))
    write(folder, QUICK, docs)
    assert f"{NOTES[0]}\nIt was so.\n{NOTES[1]}" in (docs / "results.md").read_text()


def test_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    for arm in ARMS:
        finished(tmp_path, arm, 0, [1], 0.1)
    align.work(QUICK, tmp_path, tmp_path / "no model here", [0])  # would fail over the model if it ran anything


def test_two_workers_never_hold_the_same_run(tmp_path: Path) -> None:
    with align.claimed(tmp_path / "rcpa-0") as mine, align.claimed(tmp_path / "rcpa-0", wait=False) as theirs:
        assert mine and not theirs
    with align.claimed(tmp_path / "rcpa-0", wait=False) as again:
        assert again


@pytest.mark.slow
def test_the_bases_are_kept_and_described(task: Task, tmp_path: Path) -> None:
    first = based(load(STARTER, "fp32", "cpu"), task, SMALL, tmp_path, rare=True)
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert set(files) == {"base-seldom.safetensors", "base-rare.safetensors"}
    again = based(load(STARTER, "fp32", "cpu"), task, SMALL, tmp_path, rare=True)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    told: list[dict[str, Any]] = [about(one) for one in (first, again)]
    assert told[0] == told[1] and len(told[0]["right"]) == 4 and told[0]["held_out"] == 8
