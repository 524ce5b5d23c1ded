"""Qwen2-VL's images: pixels bit for bit as transformers' own processor makes them, features computed once."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.conftest import picture
from train.models.features import Features
from train.models.qwen2_vl import Qwen2VL, patches_of

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIZES = [(128, 128), (16, 16), (17, 33), (640, 31), (100, 900), (511, 513), (28, 28), (333, 77), (1200, 1200)]


class Config:
    """What the family reads of a transformers config."""

    def __init__(self, patch: int) -> None:
        from types import SimpleNamespace

        self.image_token_id = 5
        self.vision_config = SimpleNamespace(patch_size=patch, spatial_merge_size=2, temporal_patch_size=2)


@pytest.mark.parametrize(("patch", "colours"), [(8, HALF), (14, CLIP)])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers(patch: int, colours: dict[str, Any], size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    cell = 2 * patch
    low, high = 4 * cell * cell, 100 * cell * cell
    family = Qwen2VL.of(Config(patch), {"size": {"shortest_edge": low, "longest_edge": high}} | colours, 1000)
    theirs = Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": low, "longest_edge": high},
        **colours,
    )
    for image in (picture(3, *size), picture(4, *size).convert("L")):
        wanted = theirs(image, return_tensors="np")
        fitted = family.fitted(image)
        rows, columns = family.grid(fitted)
        assert wanted["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * columns]]
        assert low <= fitted.width * fitted.height <= high
        np.testing.assert_array_equal(pixels_of(family, fitted), wanted["pixel_values"])


def pixels_of(family: Qwen2VL, fitted: Image.Image) -> np.ndarray:
    """What the family gives to the tower, caught at the tower's door."""
    from types import SimpleNamespace

    caught: list[torch.Tensor] = []

    def visual(patches: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        caught.append(patches)
        return SimpleNamespace(pooler_output=patches)

    visual.dtype = torch.float32  # type: ignore[attr-defined]
    family.features(SimpleNamespace(device=torch.device("cpu"), model=SimpleNamespace(visual=visual)), fitted)
    return caught[0].numpy()


def test_the_budget_of_visual_tokens_holds() -> None:
    limits = {"min_pixels": 256, "max_pixels": 10**7}
    for budget in (32, 64, 300):
        family = Qwen2VL.of(Config(8), limits, budget)
        for size in SIZES:
            rows, columns = family.grid(family.fitted(Image.new("RGB", size)))
            assert 1 <= rows * columns <= budget
    assert Qwen2VL.of(Config(8), {"min_pixels": 256, "max_pixels": 1024}, 300).max_pixels == 1024
    small = Qwen2VL.of(Config(8), {"min_pixels": 10**6, "max_pixels": 10**7}, 64)
    assert small.min_pixels == small.max_pixels == 64 * 256


def test_patches_stand_block_by_block() -> None:
    """Each value holds its own place in the image, so that a slip in any axis is seen."""
    height, width = 32, 48
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    found = patches_of((y * 1000 + x * 10 + c).astype(np.float32), 8, 2, 2)
    assert found.shape == (24, 3 * 2 * 64)
    row = 0
    for block_y in range(2):
        for block_x in range(3):
            for dy in range(2):
                for dx in range(2):
                    top, left = (block_y * 2 + dy) * 8, (block_x * 2 + dx) * 8
                    cut = found[row].reshape(3, 2, 8, 8)
                    assert cut[1, 0, 0, 0] == top * 1000 + left * 10 + 1
                    assert cut[2, 1, 7, 3] == (top + 7) * 1000 + (left + 3) * 10 + 2
                    row += 1


@torch.inference_mode()
def test_features_are_those_of_the_model(loaded: Any, features: Any) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 256, "longest_edge": 128 * 128},
        **HALF,
    )
    for name in ("1:48:32", "2:128:128", "3:70:25"):
        given = processor(picture(*map(int, name.split(":"))), return_tensors="pt")
        wanted = loaded.model.model.get_image_features(given["pixel_values"], given["image_grid_thw"]).pooler_output
        torch.testing.assert_close(features.of(name).tokens, torch.cat(list(wanted)), rtol=1e-5, atol=1e-5)
        rows, columns = features.grid(name)
        assert features.of(name).tokens.shape == (rows * columns, 256)


def test_each_image_is_computed_once(loaded: Any) -> None:
    opened: list[str] = []

    def image(name: str) -> Image.Image:
        opened.append(name)
        return picture(int(name), 32, 48)

    kept = Features(loaded, image)
    first = [kept.of(name).tokens.clone() for name in "123"]
    stacked = kept.stack("31221")
    assert kept.grid("2") == (3, 2)
    assert opened == list("123") and kept.computed == 3
    assert torch.equal(stacked.tokens, torch.cat([first[2], first[0], first[1], first[1], first[0]]))
    assert torch.equal(Features(loaded, image).of("2").tokens, first[1])
    assert kept.stack([]) is None


def test_beyond_the_budget_the_least_recently_used_goes(loaded: Any) -> None:
    opened: list[str] = []

    def image(name: str) -> Image.Image:
        opened.append(name)
        return picture(int(name), 128, 128)  # 64 tokens x 256 x 4 bytes: 64 KiB

    kept = Features(loaded, image, budget_mb=1)
    for name in range(16):
        kept.of(str(name))
    kept.of("0")
    assert len(opened) == 16
    kept.of("16")  # "1" goes, "0" was used since
    kept.of("0")
    assert len(opened) == 17
    kept.of("1")
    assert opened[-1] == "1" and len(opened) == 18
    assert kept.held == sum(f.nbytes for f in kept.kept.values()) <= 1 << 20
