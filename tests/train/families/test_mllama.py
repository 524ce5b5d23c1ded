"""Llama-3.2-Vision alone: who reads which tiles, in rows that are shared, packed and mixed, and while generating."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from audit.conversation import Turn
from audit.errors import BadInput
from tests.train.conftest import picture
from tests.train.families.mllama import CASE
from train.data.encode import Encoded
from train.data.rows import Row, collate, packed_row, shared_row
from train.gguf.merge import names_on_disk
from train.lora import LoraConfig, attach, detach
from train.models.features import Features
from train.models.forward import learned_logits
from train.models.generation import Sampling, generate
from train.models.loading import Loaded, load
from train.models.mllama import Mllama

SMALL, FULL, TALL = "1:20:24", "2:57:61", "3:33:200"
"""Pictures of 1, 4 and 4 tiles."""
REAL = {
    "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_processor_type": "MllamaImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711], "max_image_tiles": 4, "resample": 2,
    "rescale_factor": 0.00392156862745098, "size": {"height": 560, "width": 560},
}  # fmt: skip
"""preprocessor_config.json of Llama-3.2-11B-Vision-Instruct."""


def opened(name: str) -> Image.Image:
    return picture(*map(int, name.split(":")))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(CASE.write(tmp_path_factory.mktemp("mllama") / "model"), "fp32", "cpu")


@pytest.fixture(scope="module")
def features(loaded: Loaded) -> Features:
    return Features(loaded, opened)


@pytest.fixture(scope="module")
def theirs(loaded: Loaded) -> Callable[[str, Sequence[Image.Image]], Any]:
    return CASE.processor(loaded.directory)


def as_text(loaded: Loaded, features: Features, text: str, *images: str) -> Encoded:
    """Rendered text as tokens, every word of it learned."""
    found = loaded.encoder._tokens(text, [], images, [features.grid(i) for i in images])
    return replace(found, learned=~found.visual)


def asked(loaded: Loaded, features: Features, text: str, *images: str) -> Encoded:
    return loaded.encoder.prompt([Turn("user", text)], images, [features.grid(i) for i in images])


def logits_of(loaded: Loaded, features: Features, rows: Sequence[Row], model: Any = None) -> tuple[torch.Tensor, Any]:
    batch = collate(rows, loaded.tokenizer.pad_token_id)
    return learned_logits(loaded.family, model or loaded.model, batch, features.stack(batch.images)), batch


WORDS = "<|begin_of_text|>"
MIXED = (
    (f"{WORDS}Where?<|image|><|image|>Is it<|image|>red in this slice?", (FULL, SMALL, TALL)),
    (f"{WORDS}<|image|>Is the left slice<|image|><|image|>right?", (SMALL, FULL, SMALL)),
    (f"{WORDS}What plane? No.", ()),
    (f"{WORDS}Is the lesion<|image|>", (SMALL,)),
    (f"{WORDS}Yes.<|image|>visible?<|image|>", (SMALL, TALL)),
)
"""Images behind one another, apart, at the very end, and none."""


@torch.inference_mode()
@pytest.mark.parametrize("way", ["alone", "packed", "padded"])
def test_images_anywhere_in_a_text_are_read_as_transformers_reads_them(
    loaded: Loaded, features: Features, theirs: Any, way: str
) -> None:
    talks = [as_text(loaded, features, text, *images) for text, images in MIXED]
    wanted = []
    for (text, images), talk in zip(MIXED, talks, strict=True):
        inputs = theirs(text, [opened(i) for i in images])
        assert talk.ids.tolist() == inputs["input_ids"][0].tolist()
        wanted.append(loaded.model(**inputs).logits[0, np.flatnonzero(talk.learned[1:])])
    batches = {
        "alone": [[packed_row([t])] for t in talks],
        "packed": [[packed_row(talks[::-1]), packed_row(talks[2:])]],
        "padded": [[packed_row([t]) for t in talks]],
    }[way]
    found = torch.cat([logits_of(loaded, features, rows)[0] for rows in batches])
    if way == "packed":
        wanted = [*wanted[::-1], *wanted[2:]]
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_tokens_before_an_image_read_its_padding_tiles(loaded: Loaded, features: Features) -> None:
    """The first tokens of every prompt do, and what they read goes on to all behind them."""
    row = shared_row([as_text(loaded, features, *MIXED[3][:1], *MIXED[3][1])])
    batch = collate([row], loaded.tokenizer.pad_token_id)
    whole = features.of(SMALL)
    own, padding = whole.cross
    assert (len(own), len(padding)) == (17, 3 * 17)
    full = learned_logits(loaded.family, loaded.model, batch, whole)
    less = learned_logits(loaded.family, loaded.model, batch, replace(whole, cross=(own, padding[:0])))
    assert float((full - less).abs().max()) > 1e-2


def test_conversations_without_images_learn_beside_others_as_they_do_alone(loaded: Loaded, features: Features) -> None:
    talks = [as_text(loaded, features, text, *images) for text, images in MIXED]
    model = copy.deepcopy(loaded.model)
    model.model.language_model.requires_grad_(True)

    def gradients(batches: Sequence[Sequence[Row]]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for rows in batches:
            logits, batch = logits_of(loaded, features, rows, model)
            loss = F.cross_entropy(logits, batch.targets, reduction="sum")
            loss.backward()
            total += float(loss.detach())
        return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    wanted, plain = gradients([[packed_row([t])] for t in talks])
    for batches in ([[packed_row(talks)]], [[packed_row([t]) for t in talks]]):
        loss, found = gradients(batches)
        assert loss == pytest.approx(wanted, rel=1e-5)
        for name, gradient in plain.items():
            if gradient.numel() > 1:
                assert float((found[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name
    _, alone = gradients([[packed_row([talks[2]])]])
    assert not any("cross" in name for name in alone)  # transformers skips these layers


def test_greedy_answers_of_a_mixed_batch_are_those_of_transformers(
    loaded: Loaded, features: Features, theirs: Any
) -> None:
    """Other numbers of tiles and images, none at all, two questions about one image, rows that end early."""
    questions = (
        ("Where?", (SMALL,)), ("Is the lesion visible in this slice?", (SMALL,)), ("No?", (FULL, SMALL)),
        ("What plane and where?", ()), ("Is it red?", (TALL,)), ("Is it right?", (TALL,)), ("Yes.", ()),
    )  # fmt: skip
    prompts = [asked(loaded, features, text, *images) for text, images in questions]
    free = []
    for text, images in questions:
        inputs = theirs(
            loaded.encoder.render([Turn("user", text)], len(images), "assistant"), [opened(i) for i in images]
        )
        with torch.inference_mode():
            answer = loaded.model.generate(
                **inputs, max_new_tokens=24, do_sample=False, eos_token_id=[-1],
                pad_token_id=loaded.tokenizer.pad_token_id,
            )  # fmt: skip
        free.append(answer[0, inputs["input_ids"].shape[1] :].tolist())
    stops = frozenset((free[0][3], free[2][9], free[3][6]))  # so that rows leave the batch one after another
    ends = [next((k + 1 for k, token in enumerate(one) if token in stops), len(one)) for one in free]
    wanted = [one[:end] for one, end in zip(free, ends, strict=True)]
    assert len(set(ends)) > 2
    for batch, samples in ((64, 1), (64, 3), (3, 1)):
        found = generate(loaded, prompts, features, Sampling(24, batch=batch, samples=samples, stops=stops))
        for answers, one in zip(found, wanted, strict=True):
            assert [list(a.ids) for a in answers] == [one] * samples


@torch.inference_mode()
def test_only_what_is_still_read_stays_in_the_cache(loaded: Loaded, features: Features) -> None:
    from transformers import DynamicCache

    from train.models.family import Sight
    from train.models.forward import embedded

    prompt = asked(loaded, features, "Where?", SMALL)
    batch = collate([shared_row([replace(prompt, learned=np.ones(len(prompt.ids), bool))])], 0)
    cache = DynamicCache(config=loaded.model.config.get_text_config())
    sight = Sight(features.of(SMALL), batch.image_places, batch.placed)
    loaded.family.read(
        loaded.model,
        embedded(loaded.model, batch.ids, sight),
        torch.ones_like(batch.ids),
        batch.positions,
        sight,
        cache,
    )
    assert cache.layers[1].keys.shape[2] == 24  # 17 states of one tile, to the next multiple of 8; four tiles are 68
    assert cache.get_seq_length() == len(prompt.ids)


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_cross_attention_learns_through_a_checkpointed_adapter(precision: Any, loaded: Loaded) -> None:
    mine = load(loaded.directory, precision, "cpu")
    features = Features(mine, opened)
    model = attach(mine, LoraConfig(4, 8))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    rows = [shared_row([as_text(mine, features, text, *images)]) for text, images in MIXED]
    found = []
    for checkpointed in (False, True):
        model.train()
        if checkpointed:
            mine.model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        logits, batch = logits_of(mine, features, rows, model)
        F.cross_entropy(logits, batch.targets).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    detach(model)
    assert len(found[0]) == 2 * CASE.lora_linears
    for name, gradient in found[0].items():
        assert float(gradient.norm()) > 0, name
        torch.testing.assert_close(found[1][name], gradient)


def family(**other: Any) -> Mllama:
    from transformers import MllamaConfig

    return Mllama.of(MllamaConfig(vision_config={"image_size": 560}), REAL | other.pop("processor", {}), **other)


def test_the_true_models_numbers_are_read() -> None:
    found = family()
    assert (found.image_token, found.side, found.patches, found.tower_tiles, found.tiles) == (128256, 560, 1601, 4, 4)
    assert found.mean == tuple(REAL["image_mean"]) and found.std == tuple(REAL["image_std"])
    assert found.visual_tokens((2, 2)) == 4 * 1601
    assert json.loads(json.dumps(found.noted()))["tiles"] == 4


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 2600), st.integers(1, 2600))
def test_an_image_is_cut_as_transformers_cuts_it(width: int, height: int) -> None:
    from transformers.models.mllama.image_processing_pil_mllama import (
        get_image_size_fit_to_canvas,
        get_optimal_tiled_canvas,
    )

    ours = family()
    canvas = get_optimal_tiled_canvas(height, width, 4, 560)
    high, wide = get_image_size_fit_to_canvas(height, width, *canvas, 560)
    whole = ours.fitted(Image.new("L", (width, height), 255))
    assert whole.size == (canvas[1], canvas[0])
    assert ours.grid(whole) == (canvas[0] // 560, canvas[1] // 560)
    assert whole.getbbox() == (0, 0, wide, high)
    assert ours.grid(ours.fitted(whole)) == ours.grid(whole)


@pytest.mark.parametrize("size", [(300, 200), (700, 1200), (1121, 561), (90, 31), (560, 560)])
def test_the_pixels_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    given_ = MllamaImageProcessorPil(**REAL)([[picture(5, *size)]], return_tensors="np")
    seen: dict[str, Any] = {}

    class Tower:
        """Keeps what it is shown."""

        device = torch.device("cpu")
        model = property(lambda self: self)

        def vision_model(self, pixels: torch.Tensor, **told: torch.Tensor) -> Any:
            seen.update(told, pixel_values=pixels)
            return type("Seen", (), {"last_hidden_state": torch.zeros(1, 1, 4, 1, 2)})

        def multi_modal_projector(self, states: torch.Tensor) -> torch.Tensor:
            return states

    ours = family()
    ours.features(Tower(), ours.fitted(picture(5, *size)))
    for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"):
        np.testing.assert_allclose(seen[name].numpy(), given_[name], atol=1e-5)


def test_a_budget_limits_the_tiles(loaded: Loaded) -> None:
    assert [family(max_visual_tokens=n).tiles for n in (1, 1601, 3201, 3202, 99999)] == [1, 1, 1, 2, 4]
    assert family(processor={"max_image_tiles": 2}).tiles == 2
    small = load(loaded.directory, "fp32", "cpu", max_visual_tokens=2 * 17)
    features = Features(small, opened)
    for name in (SMALL, FULL, TALL):
        rows, columns = features.grid(name)
        assert rows * columns <= 2
        assert sum(map(len, features.of(name).cross)) == 2 * 17
    found, _ = logits_of(small, features, [shared_row([asked_all(small, features, FULL)])])
    assert torch.isfinite(found).all()


def asked_all(loaded: Loaded, features: Features, *images: str) -> Encoded:
    found = asked(loaded, features, "Where?", *images)
    return replace(found, learned=~found.visual)


@pytest.mark.parametrize(
    "processor", [{"size": {"height": 336, "width": 336}}, {"max_image_tiles": 5}, {"max_image_tiles": 0}]
)
def test_tiles_that_do_not_fit_the_tower_are_refused(processor: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="not those of the vision tower") as raised:
        family(processor=processor)
    assert raised.value.hint


def test_names_on_disk_are_those_of_the_release(loaded: Loaded) -> None:
    from safetensors import safe_open

    with safe_open(Path(loaded.directory) / "model.safetensors", "pt") as file:
        held = set(file.keys())
    assert "language_model.model.layers.1.cross_attn.q_proj.weight" in held  # as Meta's release names it
    linears = [n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert "lm_head" in linears and "model.multi_modal_projector" in linears
    for module in linears:
        assert len([n for n in names_on_disk(module) if f"{n}.weight" in held]) == 1, module


def test_a_dialogue_ends_with_the_end_of_the_text(loaded: Loaded) -> None:
    assert loaded.tokenizer.eos_token == "<|eot_id|>"
    assert loaded.family.end_of_text(loaded.tokenizer) == "<|end_of_text|>"
