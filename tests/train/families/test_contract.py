"""What every family keeps, each on a tiny random model: the same test for all."""

import copy
import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from audit.conversation import Conversation, Turn
from tests.train.conftest import picture
from tests.train.families.case import Case
from train.checkpoints import MemoryStore
from train.data.encode import Encoded
from train.data.rows import Row, collate, packed_row, shared_row
from train.gguf.merge import merge
from train.lora import LoraConfig, attach, detach
from train.models.directory import FAMILIES, family_noted
from train.models.features import Features, packed, unpacked
from train.models.forward import learned_logits
from train.models.generation import Sampling, generate
from train.models.loading import Loaded, check_precision, load
from train.sft import SftConfig, run_sft

NAMES = (
    "qwen2_vl",
    "mllama",
    "idefics3",
    "smolvlm",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_next_llama3",
    "llava_next_vicuna",
)
"""Modules beside this one: one a family, or more where it has language models of several kinds."""
TALKS = (
    (Turn("user", "Is the lesion visible?"), Turn("assistant", "Yes", True)),
    (
        Turn("user", "What plane?"),
        Turn("assistant", "It is the left slice.", True),
        Turn("user", "No?"),
        Turn("assistant", "No.", True),
    ),
    (Turn("user", "Where?"), Turn("assistant", "Is it right and where in this red slice?", True)),
)


@dataclass(frozen=True)
class Opened:
    """A family's tiny model and what belongs to it."""

    case: Case
    """Its row."""
    loaded: Loaded
    """Opened in fp32."""
    features: Features
    """Of pictures named ``seed:width:height``."""
    theirs: Callable[[str, Sequence[Image.Image]], Any]
    """transformers' processor."""

    @property
    def names(self) -> list[str]:
        """A picture of each size."""
        return [f"{k}:{w}:{h}" for k, (w, h) in enumerate(self.case.sizes, 1)]


def opened(name: str) -> Image.Image:
    return picture(*map(int, name.split(":")))


def talk(turns: tuple[Turn, ...], *images: str) -> Conversation:
    return Conversation("c", images, turns, "r", "k")


def encoded(one: Opened, *images: str) -> list[Encoded]:
    grids = [one.features.grid(i) for i in images]
    return [one.loaded.encoder.encode(talk(turns, *images), grids) for turns in TALKS]


def stopped(one: Opened, text: str, turns: tuple[Turn, ...]) -> str:
    """The text with a stop behind each learned answer, where the chat template writes none."""
    at = 0
    for turn in turns:
        at = text.index(turn.text, at) + len(turn.text)
        if turn.learned:
            text = text[:at] + one.loaded.encoder.added_stop + text[at:]
    return text


def logits_of(one: Opened, model: Any, rows: Sequence[Row]) -> tuple[torch.Tensor, Any]:
    batch = collate(rows, one.loaded.tokenizer.pad_token_id)
    return learned_logits(one.loaded.family, model, batch, one.features.stack(batch.images)), batch


@pytest.fixture(scope="module", params=NAMES)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    case: Case = importlib.import_module(f"tests.train.families.{request.param}").CASE
    directory = case.write(tmp_path_factory.mktemp(case.name) / "model")
    loaded = load(directory, "fp32", "cpu")
    return Opened(case, loaded, Features(loaded, opened), case.processor(directory))


@pytest.fixture(scope="module")
def four_bits(one: Opened) -> Loaded:
    return load(one.loaded.directory, "nf4", "cpu")


def test_every_family_has_its_row(one: Opened) -> None:
    assert {importlib.import_module(f"tests.train.families.{n}").CASE.name for n in NAMES} == set(FAMILIES)
    assert one.loaded.family.model_type == one.case.name
    assert family_noted(one.loaded.family.noted()) == one.loaded.family


def test_the_language_model_alone_is_held_in_four_bits(one: Opened, four_bits: Loaded) -> None:
    from bitsandbytes.nn import Linear4bit

    check_precision(four_bits.model, four_bits.family, "nf4")
    held = {n for n, m in four_bits.model.named_modules() if isinstance(m, Linear4bit)}
    assert held and all(n.startswith(one.loaded.family.language + ".") for n in held)
    for name, weight in four_bits.model.named_parameters():
        if name.startswith((*one.loaded.family.vision, "lm_head")):
            assert weight.dtype in (torch.float32, torch.bfloat16), name


def test_tokens_and_positions_are_those_of_transformers(one: Opened) -> None:
    for names in (*([n] for n in one.names), one.names[:2], []):
        grids = [one.features.grid(n) for n in names]
        ours = one.loaded.encoder.prompt(TALKS[1][:3], names, grids)
        text = one.loaded.encoder.render(TALKS[1][:3], len(names), "assistant")
        theirs = one.theirs(text, [one.loaded.family.fitted(opened(n)) for n in names])
        assert ours.ids.tolist() == theirs["input_ids"][0].tolist()
        if hasattr(one.loaded.model.model, "get_rope_index"):
            kinds = {k: theirs[k] for k in ("mm_token_type_ids", "image_grid_thw") if k in theirs}
            kinds.setdefault("mm_token_type_ids", torch.zeros_like(theirs["input_ids"]))
            places, _ = one.loaded.model.model.get_rope_index(theirs["input_ids"], **kinds)
            assert ours.positions.tolist() == places[:, 0].tolist()


@torch.inference_mode()
def test_a_forward_pass_is_that_of_transformers(one: Opened) -> None:
    """Everything theirs: their processor's pixels and tokens, their tower, their mask and positions."""
    for names in (*([n] for n in one.names), one.names[:2]):
        grids = [one.features.grid(n) for n in names]
        for turns in TALKS:
            mine = one.loaded.encoder.encode(talk(turns, *names), grids)
            text = stopped(one, one.loaded.encoder.render(turns, len(names)), turns)
            theirs = one.theirs(text, [opened(n) for n in names])
            assert mine.ids.tolist() == theirs["input_ids"][0].tolist()
            wanted = one.loaded.model(**theirs).logits[0, np.flatnonzero(mine.learned) - 1]
            found, _ = logits_of(one, one.loaded.model, [shared_row([mine])])
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_features_are_the_same_however_often_they_are_asked_for(one: Opened) -> None:
    again = Features(one.loaded, opened)
    for name in one.names:
        kept = one.features.of(name)
        assert all(torch.equal(a, b) for a, b in zip(kept.tensors, again.of(name).tensors, strict=True))
        assert kept is one.features.of(name)
        grid = one.features.grid(name)
        read = len(kept.tokens) or len(kept.cross[0])
        assert one.loaded.family.visual_tokens(grid) == read
        width = one.loaded.model.config.get_text_config().hidden_size
        assert one.loaded.family.feature_bytes(grid, width, kept.tokens.element_size()) == kept.nbytes
        back, same_grid = unpacked(packed(kept, grid, name), name)
        assert same_grid == grid and len(back.deep) == len(kept.deep) and len(back.cross) == len(kept.cross)
        assert all(torch.equal(a, b) for a, b in zip(back.tensors, kept.tensors, strict=True))


def loss_and_gradients(one: Opened, model: Any, batches: Sequence[Sequence[Row]]) -> tuple[float, Any]:
    model.zero_grad()
    total = 0.0
    for rows in batches:
        logits, batch = logits_of(one, model, rows)
        loss = F.cross_entropy(logits, batch.targets, reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("images", [0, 1, 2])
def test_shared_packed_and_padded_rows_teach_the_same(one: Opened, images: int) -> None:
    model = copy.deepcopy(one.loaded.model)
    model.get_submodule(one.loaded.family.language).requires_grad_(True)
    talks = encoded(one, *one.names[:images])
    other = encoded(one, *one.names[-1:] if images else ())
    wanted, gradients = loss_and_gradients(one, model, [[packed_row([t])] for t in (*talks, *other)])
    ways = {
        "packed": [[packed_row([*talks, *other])]],
        "padded": [[packed_row([t]) for t in (*talks, *other)]],
        "shared": [[shared_row(talks), shared_row(other)]],
    }
    assert len(gradients) > 15
    for name, batches in ways.items():
        loss, found = loss_and_gradients(one, model, batches)
        assert loss == pytest.approx(wanted, rel=1e-5), name
        assert found.keys() == gradients.keys()
        for weight, gradient in gradients.items():
            apart = torch.linalg.vector_norm(found[weight] - gradient)
            share = 1e-5 if gradient.numel() > 1 else 1e-4  # a gate: one number, in which all tokens' terms cancel
            assert float(apart) <= share * float(torch.linalg.vector_norm(gradient)) + 1e-9, (name, weight)


def test_a_tower_that_learns_gets_gradients(one: Opened) -> None:
    """Through whatever the tower hands to the language model; off by default, and the pattern is root-anchored."""
    model = attach(one.loaded, LoraConfig(2, 4, vision=True))
    try:
        batch = collate([shared_row(encoded(one, one.names[0]))], one.loaded.tokenizer.pad_token_id)
        visual = one.features.live().stack(batch.images)
        learned_logits(one.loaded.family, model, batch, visual).logsumexp(-1).sum().backward()
        roots = tuple(f"base_model.model.{v}." for v in one.loaded.family.vision)
        linear = [m for n, m in model.named_modules() if n.startswith(roots) and isinstance(m, torch.nn.Linear)]
        inside = [m for n, m in model.named_modules() if f"{n}.".startswith(roots) and hasattr(m, "lora_A")]
        assert len(linear) == 3 * len(inside), "each of its Linears learns: the frozen one, A and B"
        seeing = {n: p.grad for n, p in model.named_parameters() if n.startswith(roots) and ".lora_B." in n}
        reached = [n for n, gradient in seeing.items() if gradient is not None and float(gradient.abs().max()) > 0]
        assert len(reached) >= len(seeing) // 2 > 0  # a family may leave its last layers unread
    finally:
        detach(model)


@torch.inference_mode()
def test_the_loss_stays_what_it_was(one: Opened) -> None:
    logits, batch = logits_of(one, one.loaded.model, [shared_row(encoded(one, n)) for n in one.names])
    assert float(F.cross_entropy(logits, batch.targets)) == pytest.approx(one.case.golden, rel=2e-4)


def test_greedy_answers_are_those_of_transformers(one: Opened) -> None:
    prompts = [
        one.loaded.encoder.prompt([Turn("user", asked)], [n], [one.features.grid(n)])
        for n in one.names
        for asked in ("Where?", "Is the lesion visible in this slice?")
    ]
    found = generate(one.loaded, prompts, one.features, Sampling(8))
    for number, (name, asked) in enumerate(
        (n, a) for n in one.names for a in ("Where?", "Is the lesion visible in this slice?")
    ):
        text = one.loaded.encoder.render([Turn("user", asked)], 1, "assistant")
        theirs = one.theirs(text, [opened(name)])
        with torch.inference_mode():
            wanted = one.loaded.model.generate(
                **theirs, max_new_tokens=8, do_sample=False, eos_token_id=sorted(one.loaded.stops),
                pad_token_id=one.loaded.tokenizer.pad_token_id,
            )[0, theirs["input_ids"].shape[1] :].tolist()  # fmt: skip
        assert list(found[number][0].ids) == wanted


def test_ten_steps_of_qlora_lower_the_loss(one: Opened, four_bits: Loaded) -> None:
    talks = [talk(turns, n) for n in one.names for turns in TALKS]
    config = SftConfig(epochs=10, rows_per_step=8, learning_rate=5e-3, warmup=0.1, lora=LoraConfig(4, 8))
    trained = run_sft(four_bits, talks, Features(four_bits, opened), config, MemoryStore())
    assert len(trained.metrics) == 10
    assert trained.metrics[-1]["loss"] < 0.8 * trained.metrics[0]["loss"]


@torch.inference_mode()
def test_a_merged_adapter_is_the_adapter(one: Opened, tmp_path: Path) -> None:
    """Trained weights are stood in for by random ones: a fresh adapter's B is zero and would prove nothing."""
    from train.lora import pack

    shape = LoraConfig(4, 8)
    model = attach(one.loaded, shape)
    pairs = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(pairs) == 2 * one.case.lora_linears
    generator = torch.Generator().manual_seed(3)
    for weight in pairs.values():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    adapter = pack(model, shape, one.loaded.digest)
    rows = [shared_row(encoded(one, n)) for n in one.names]
    wanted, _ = logits_of(one, model, rows)
    detach(model)
    back = attach(one.loaded, LoraConfig(), adapter)
    again, _ = logits_of(one, back, rows)
    detach(back)
    assert torch.equal(again, wanted)
    plain, _ = logits_of(one, one.loaded.model, rows)
    assert not torch.allclose(plain, wanted, atol=1e-2)
    (tmp_path / "adapter.safetensors").write_bytes(adapter)
    for dtype in ("float32", "bfloat16"):
        merge(one.loaded.directory, tmp_path / "adapter.safetensors", tmp_path / dtype, dtype)
        merged = load(tmp_path / dtype, "fp32", "cpu")
        found, _ = logits_of(replace(one, loaded=merged, features=Features(merged, opened)), merged.model, rows)
        if dtype == "float32":
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert float(F.cosine_similarity(found, wanted, dim=-1).min()) >= 0.999


def test_the_row_is_seeded(one: Opened, tmp_path: Path) -> None:
    """The same tiny model each time: else the golden loss would mean nothing."""
    again = one.case.write(tmp_path / "again")
    first, second = (
        hashlib.sha256((d / "model.safetensors").read_bytes()).hexdigest() for d in (one.loaded.directory, again)
    )
    assert first == second
