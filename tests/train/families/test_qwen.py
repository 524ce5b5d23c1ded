"""What is the Qwen families' own: windows, deepstack, and the numbers that their releases write."""

import copy
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.conversation import Turn
from tests.train.families.test_contract import Opened, encoded, logits_of, opened
from train.data.rows import shared_row
from train.models.directory import FAMILIES
from train.models.family import Visual
from train.models.features import Features
from train.models.generation import Sampling, generate
from train.models.loading import load

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
}  # fmt: skip
HALF = {
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "min_pixels": None, "max_pixels": None,
}  # fmt: skip
RELEASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "Qwen2-VL-2B": ("qwen2_vl", CLIP | {"min_pixels": 3136, "max_pixels": 12845056}, 3136, 12845056),
    "Qwen2.5-VL-3B": ("qwen2_5_vl", CLIP | {"min_pixels": 3136, "max_pixels": 12845056}, 3136, 12845056),
    "saved by 4.45": ("qwen2_vl", CLIP | {"size": {"min_pixels": 3136, "max_pixels": 602112}}, 3136, 602112),
    "saved by 5": ("qwen2_5_vl", CLIP | {"size": {"shortest_edge": 3136, "longest_edge": 602112}}, 3136, 602112),
    "Qwen3-VL-4B": (
        "qwen3_vl", HALF | {"size": {"longest_edge": 16777216, "shortest_edge": 65536}}, 65536, 16777216,
    ),
    "silent": ("qwen2_5_vl", {}, 56 * 56, 1280 * 28 * 28),
}  # fmt: skip


def opening(name: str, place: Path) -> Opened:
    case = importlib.import_module(f"tests.train.families.{name}").CASE
    loaded = load(case.write(place / name), "fp32", "cpu")
    return Opened(case, loaded, Features(loaded, opened), case.processor(place / name))


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opening("qwen2_5_vl", tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opening("qwen3_vl", tmp_path_factory.mktemp("deep"))


@pytest.mark.parametrize("release", RELEASES)
def test_the_numbers_of_a_release_are_read_as_it_writes_them(release: str) -> None:
    import transformers

    name, file, smallest, largest = RELEASES[release]
    config = transformers.AutoConfig.for_model(name)
    cell = (16 if name == "qwen3_vl" else 14) * 2
    wide: Any = FAMILIES[name].of(config, file, 1 << 20)
    assert (wide.min_pixels, wide.max_pixels) == (smallest, largest)
    assert wide.patch * wide.merge == cell and wide.temporal == 2
    assert [*wide.mean] == file.get("image_mean", CLIP["image_mean"])
    assert [*wide.std] == file.get("image_std", CLIP["image_std"])
    ours: Any = FAMILIES[name].of(config, file)
    assert ours.max_pixels == 512 * cell * cell and ours.min_pixels == smallest
    tight: Any = FAMILIES[name].of(config, file, 3)
    assert tight.min_pixels == tight.max_pixels == 3 * cell * cell


@torch.inference_mode()
def test_windows_are_looked_through_where_an_image_is_larger_than_one(windows: Opened) -> None:
    whole = copy.deepcopy(windows.loaded.model)
    whole.model.visual.fullatt_block_indexes = [*range(4)]
    family = windows.loaded.family
    apart = []
    for name in windows.names:
        wanted = windows.features.of(name).tokens
        found = family.features(whole, family.fitted(opened(name))).tokens
        apart.append(float((found - wanted).abs().max()))
    assert [windows.features.grid(n) for n in windows.names] == [(2, 3), (8, 8), (5, 9)]
    assert apart[0] < 1e-5 < 1e-2 < min(apart[1:])


@torch.inference_mode()
def test_every_deepstack_layer_is_read(deep: Opened) -> None:
    name = deep.names[1]
    rows = [shared_row(encoded(deep, name))]
    wanted, _ = logits_of(deep, deep.loaded.model, rows)
    visual = deep.features.of(name)
    assert len(visual.deep) == 2 and all(layer.shape == visual.tokens.shape for layer in visual.deep)
    assert visual.nbytes == 3 * visual.tokens.nbytes
    for silent in range(2):
        layers = tuple(layer * (k != silent) for k, layer in enumerate(visual.deep))
        muted = Features(deep.loaded, opened)
        muted.kept[name] = Visual(visual.tokens, layers)
        found, _ = logits_of(replace(deep, features=muted), deep.loaded.model, rows)
        assert float((found - wanted).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["windows", "deep"])
def test_prompts_with_and_without_images_are_answered_together(name: str, request: pytest.FixtureRequest) -> None:
    one: Opened = request.getfixturevalue(name)
    asked = [
        (Turn("user", text),) for text in ("Where?", "Is the lesion visible in this slice?", "What plane and where?")
    ]
    about = [(), one.names[1:2], one.names[:2], ()]
    prompts = [
        one.loaded.encoder.prompt(turns, images, [one.features.grid(i) for i in images])
        for images in about
        for turns in asked
    ]
    found = generate(one.loaded, prompts, one.features, Sampling(6))
    for number, (images, turns) in enumerate((i, t) for i in about for t in asked):
        text = one.loaded.encoder.render(turns, len(images), "assistant")
        theirs = one.theirs(text, [opened(i) for i in images])
        one.loaded.model.model.rope_deltas = None  # transformers keeps those of the call before
        with torch.inference_mode():
            wanted = one.loaded.model.generate(
                **theirs, max_new_tokens=6, do_sample=False, eos_token_id=sorted(one.loaded.stops),
                pad_token_id=one.loaded.tokenizer.pad_token_id,
            )[0, theirs["input_ids"].shape[1] :].tolist()  # fmt: skip
        assert list(found[number][0].ids) == wanted


@torch.inference_mode()
def test_rows_with_and_without_images_share_a_batch(deep: Opened) -> None:
    rows = [shared_row(encoded(deep, deep.names[1])), shared_row(encoded(deep)), shared_row(encoded(deep, *deep.names))]
    together, batch = logits_of(deep, deep.loaded.model, rows)
    alone = torch.cat([logits_of(deep, deep.loaded.model, [row])[0] for row in rows])
    assert len(batch.images) == 4
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_file_of_a_family_names_what_it_is(windows: Opened, deep: Opened) -> None:
    for one in (windows, deep):
        written = json.loads((one.loaded.directory / "config.json").read_text())
        assert written["model_type"] == one.loaded.family.model_type == one.case.name
