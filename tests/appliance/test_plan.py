"""The estimate: real models' shapes against their known sizes, and a measured peak."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from appliance.jobs.plan import _lengths
from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from tests.appliance.measured import ROWS, write_model
from tests.train.conftest import picture
from tests.train.families.test_contract import NAMES
from train.calibrate import Speed, measured, seconds
from train.data.rows import collate
from train.estimate import Flops, How, Shape, Work, flops, layer_bytes, memory
from train.lora import LoraConfig, attach, detach
from train.models.about import known
from train.models.family import Family
from train.models.features import Features
from train.models.forward import hidden_states
from train.models.loading import load
from train.models.parts import Parts, parts_of, shapes_in, without_tied_head
from train.models.qwen2_vl import Qwen2VL
from train.sft import rows_of

GB = 1e9
TARGETS = r"model\.language_model\.layers\.\d+\.((self|cross)_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def qwen2_vl_2b() -> Any:
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config={
            "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
        tie_word_embeddings=True,
    )  # fmt: skip


def llava_next_8b() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

    text = LlamaConfig(
        vocab_size=128320, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    return LlavaNextConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)


def mllama_11b() -> Any:
    from transformers import MllamaConfig

    return MllamaConfig(
        text_config={
            "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 40,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38], "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_global_layers": 8,
            "attention_heads": 16, "image_size": 560, "patch_size": 14, "max_num_tiles": 4,
            "vision_output_dim": 7680, "intermediate_layers_indices": [3, 7, 15, 23, 30],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
    )  # fmt: skip


def counted(config: Any, targets: str = TARGETS, vision_targets: str = "") -> tuple[Parts, Any]:
    """Parts of a model that is only shapes."""
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return parts_of(shapes, targets, vision_targets), model


@pytest.mark.parametrize(
    ("config", "total", "linears"),
    [(qwen2_vl_2b, 2.209, 28 * 7), (llava_next_8b, 8.355, 32 * 7), (mllama_11b, 10.67, 40 * 7)],
    ids=["Qwen2-VL-2B", "LLaVA-NeXT-8B", "Llama-3.2-11B-Vision"],
)
def test_real_models_have_their_known_sizes(config: Any, total: float, linears: int) -> None:
    parts, model = counted(config())
    assert parts.total == sum(p.numel() for p in model.parameters())
    assert parts.total / GB == pytest.approx(total, rel=0.005)
    assert len(parts.adapted) == len(parts.linears) == linears
    assert parts.vision > 3e8 and parts.projector > 1e6


@pytest.mark.parametrize("config", [llava_next_8b, mllama_11b])
def test_large_models_fit_a_workstation_card(config: Any) -> None:
    """8B and 11B in NF4 with recomputing, one row of an image of 2,880 visual tokens: under 24 GiB."""
    parts, _ = counted(config())
    how = How("nf4", "cuda", 16, "adamw", True)
    found = memory(parts, Shape.of(config()), Work(1, 3200, 320, 2880), how)
    assert found.weights < found.peak < 24 << 30
    assert found.weights > 4 << 30
    assert memory(parts, Shape.of(config()), Work(1, 3200, 320, 2880), How("bf16", "cuda")).peak > 24 << 30


def test_names_on_disk_and_in_memory_give_the_same_parts(tmp_path: Path) -> None:
    import transformers

    directory = write_model(tmp_path / "model", 2, 256, 512)
    config = transformers.AutoConfig.from_pretrained(directory)
    on_disk = parts_of(without_tied_head(shapes_in(directory), True), Family.lora_targets)
    in_memory, _ = counted(config, Family.lora_targets)
    assert (on_disk.total, on_disk.vision, on_disk.projector) == (
        in_memory.total, in_memory.vision, in_memory.projector)  # fmt: skip
    assert sorted(on_disk.adapted) == sorted(in_memory.adapted) and len(on_disk.adapted) == 14
    assert on_disk.adapter(4) == 4 * sum(a + b for a, b in in_memory.adapted)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.parametrize(("shape", "checkpointing"), [((8, 768, 2048), False), ((6, 1024, 4096), True)])
def test_the_estimate_is_within_a_quarter_of_a_measured_peak(
    tmp_path: Path, shape: tuple[int, int, int], checkpointing: bool
) -> None:
    """A model of 53 and one of 93 million parameters; the peak is what training adds to the loaded model."""
    import transformers

    more = ["--checkpointing"] if checkpointing else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.appliance.measured", str(tmp_path), *map(str, shape), *more],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    real = json.loads(done.stdout.splitlines()[-1])
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    parts = parts_of(without_tied_head(shapes_in(tmp_path), True), Family.lora_targets)
    work = Work(ROWS, real["tokens"], real["learned"], 256)
    found = memory(parts, Shape.of(config), work, How("nf4", "cpu", 8, "adamw", checkpointing))
    assert found.trained == pytest.approx(real["above"], rel=0.25)


def test_recomputing_keeps_one_layer_and_the_inputs_of_the_others() -> None:
    shape, work = Shape(1536, 28, 8960, 12, 2, 128, 151936, 32768, 1280, 5120), Work(4, 1024, 128)
    parts, _ = counted(qwen2_vl_2b())
    off, on = (memory(parts, shape, work, How("nf4", "cuda", checkpointing=c)) for c in (False, True))
    layer = layer_bytes(shape, work, How("nf4", "cuda"))
    assert off.activations - on.activations == 27 * layer - 28 * 4 * 1024 * 1536 * 2
    assert off.weights == on.weights and off.head == on.head


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_counts_the_rows_that_the_run_lays(name: str, tmp_path: Path) -> None:
    """Every family: its template wherever the release has it, and its images cut as the tower sees them."""
    case = importlib.import_module(f"tests.train.families.{name}").CASE
    loaded = load(case.write(tmp_path / "model"), "fp32", "cpu")
    features = Features(loaded, lambda size: picture(1, *map(int, size.split("x"))))
    images, of = [f"{w}x{h}" for w, h in case.sizes], known(loaded.directory)
    grids = {image: features.grid(image) for image in images}
    asked = (Turn("user", "What plane?"), Turn("assistant", "It is the left slice.", True))
    talks = [Conversation(f"{i}{k}", (i,), asked * (k + 1), "r", "caption") for i in images for k in (0, 1)]
    talks += [Conversation("both", tuple(images[:2]), asked, "r", "k"), Conversation("none", (), asked, "", "k")]
    long = replace(talks[-1], record="r7", turns=(asked[0], Turn("assistant", "No. " * of.shape.context, True)))
    with pytest.raises(BadInput, match="longer than the model's context") as caught:
        _lengths(of, [*talks, long], grids)
    assert caught.value.where.startswith("r7: ")
    talks.append(Conversation("unlearned", tuple(images[:1]), asked[:1], "r", "k"))
    rows = [row for row, _ in rows_of(loaded, talks, features)]
    wanted = [(len(r.ids), int(r.learned.sum()), int(r.visual.sum())) for r in rows]
    assert _lengths(of, talks, grids) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_patches_and_linears_of_the_tower_are_those_that_are_computed(name: str, tmp_path: Path) -> None:
    """Counted where they pass through; the adapter's weights as PEFT makes them."""
    case = importlib.import_module(f"tests.train.families.{name}").CASE
    loaded = load(case.write(tmp_path / "model"), "fp32", "cpu")
    family, of = loaded.family, known(loaded.directory)
    tower = loaded.model.get_submodule(family.vision[0])
    first = next(m for n, m in tower.named_modules() if n.endswith(("qkv", "q_proj")))
    seen: list[int] = []
    hook = first.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[:-1].numel()))
    for width, height in case.sizes:
        fitted = family.fitted(picture(1, width, height))
        family.features(loaded.model, fitted)
        assert seen.pop() == family.tower_patches(family.grid(fitted)), (width, height)
    hook.remove()
    for vision in (False, True):
        model = attach(loaded, LoraConfig(3, 6, vision=vision))
        assert of.parts.adapter(3, vision) == sum(p.numel() for p in model.parameters() if p.requires_grad)
        detach(model)


@pytest.mark.parametrize(("name", "vision"), [("mllama", False), ("qwen2_vl", False), ("qwen2_vl", True)])
def test_what_a_pass_keeps_is_what_autograd_keeps(name: str, vision: bool, tmp_path: Path) -> None:
    """Bytes that autograd holds between forward and backward, the model's own and features left out."""
    case = importlib.import_module(f"tests.train.families.{name}").CASE
    loaded = load(case.write(tmp_path / "model"), "fp32", "cpu")
    family, of = loaded.family, known(loaded.directory)
    features = Features(loaded, lambda size: picture(1, *map(int, size.split("x"))))
    features = features.live() if vision else features
    words = "It is the left red slice and where in this right plane. " * 6
    turns = (Turn("user", "What plane?"), Turn("assistant", words, True))
    talk = Conversation("c", (f"{case.sizes[-1][0]}x{case.sizes[-1][1]}",), turns, "r", "caption")
    ((row, _),) = rows_of(loaded, [talk], features)
    grid = features.grid(talk.images[0])
    model, batch, held = attach(loaded, LoraConfig(4, 8, vision=vision)), collate([row], 0), {}
    base = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = hidden_states(family, model, batch, features.stack(batch.images))
    kept = sum(t.untyped_storage().nbytes() for place, t in held.items() if place not in base)
    work = Work(1, len(row.ids), 1, family.tower_patches(grid), 0, 1, family.feature_bytes(grid, 1, 1))
    found = memory(of.parts, of.shape, work, How("fp32", "cpu", 4, vision=vision)).activations
    moment = 2 * len(row.ids) * of.shape.ffn * 4  # of the backward
    detach(model)
    assert states.shape[0] == len(row.ids) and found - moment == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("precision", ["nf4", "int8", "bf16", "fp32"])
def test_the_plan_counts_the_bytes_in_which_the_model_is_held(half: bool, precision: Any, tmp_path: Path) -> None:
    """A release in bf16 stays so on a CPU that computes bf16; a wider one keeps its bits."""
    directory = write_model(tmp_path / "model", 2, 256, 512)
    if half:
        weights = {k: v.bfloat16() for k, v in load_file(directory / "model.safetensors").items()}
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    of, loaded = known(directory), load(directory, precision, "cpu")
    how = How(precision, "cpu", stored_in_bf16=of.stored_in_bf16)
    assert of.stored_in_bf16 is half and how.compute == loaded.model.lm_head.weight.element_size()
    held = sum(p.nbytes for p in loaded.model.parameters())
    assert memory(of.parts, of.shape, Work(), how).weights == pytest.approx(held, rel=0.02)


def test_a_gpu_holds_neither_features_nor_dense_masks() -> None:
    shape, short, long = Shape.of(qwen2_vl_2b()), Work(4, 1024, feature_bytes=1 << 30), Work(4, 2048)
    parts, _ = counted(qwen2_vl_2b())
    cpu, cuda = (memory(parts, shape, short, How("nf4", device)) for device in ("cpu", "cuda"))
    assert (cpu.features, cuda.features) == (1 << 30, 0)
    assert layer_bytes(shape, long, How("nf4", "cuda")) == 2 * layer_bytes(shape, short, How("nf4", "cuda"))
    assert layer_bytes(shape, long, How("nf4", "cpu")) > 2 * layer_bytes(shape, short, How("nf4", "cpu"))


def test_a_tower_that_learns_costs_memory_and_time() -> None:
    parts, _ = counted(qwen2_vl_2b(), vision_targets=Qwen2VL.vision_lora_targets)
    shape, work = Shape.of(qwen2_vl_2b()), Work(4, 512, patches=1024, images=4)
    frozen, learns = (memory(parts, shape, work, How("nf4", "cuda", vision=v)) for v in (False, True))
    assert learns.adapter > frozen.adapter and learns.optimizer > frozen.optimizer
    assert learns.activations > frozen.activations + (1 << 30)
    once, each = (flops(parts, shape, [(512, 9)], 4096, 3, False, v).vision for v in (False, True))
    assert each == 6 * once  # forth and back in three epochs


def test_flops_are_those_of_a_frozen_base() -> None:
    """Forward, and a backward to the inputs alone; recomputing is one more forward; the tower once an image."""
    parts, shape = Parts(10, 0, 0, 100, ((10, 10),), ()), Shape(10, 1, 20, 2, 1, 5, 7, 64, 8, 16)
    plain = flops(parts, shape, [(4, 2), (6, 1)], 3, 2, False)
    again = flops(parts, shape, [(4, 2), (6, 1)], 3, 2, True)
    assert plain == Flops(4 * 100 * 20, 4 * (16 + 36) * 2 * 10 * 3, 4 * 10 * 7 * 3 * 2, 2 * 10 * 3)
    assert again.linears == plain.linears * 3 // 2 and again.vision == plain.vision
    assert seconds(plain, Speed(1e3, 1e-3, 1e3), 100, 2) == pytest.approx(
        plain.linears / 1e3 + (plain.total - plain.linears) / 1e3 + 0.2
    )


@pytest.mark.parametrize("precision", ["nf4", "fp32"])
def test_a_calibration_gives_rates(precision: Any) -> None:
    shape = Shape(256, 2, 512, 4, 2, 64, 512, 2048, 96, 384)
    found = measured(shape, precision, torch.device("cpu"), torch.float32)
    assert found.product > 1e6 and found.linear > 1e5 and found.fixed_s >= 0
