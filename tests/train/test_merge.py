"""Merging: against peft's own merge, and against what must be refused."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from audit.errors import BadInput, ClocheError, EnvironmentProblem, Refused
from train.gguf.files import digest_of
from train.gguf.merge import ADAPTER_KEY, merge, names_on_disk

TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def write_adapter(path: Path, tensors: dict[str, torch.Tensor], base: Path, **changed: object) -> Path:
    """An adapter file as training writes it."""
    note = {"r": 4, "alpha": 8, "rslora": False, "base_digest": digest_of(base)} | changed
    save_file(tensors, path, metadata={ADAPTER_KEY: json.dumps(note)})
    return path


def random_pair(
    module: str = "model.language_model.layers.1.self_attn.q_proj", rank: int = 4
) -> dict[str, torch.Tensor]:
    """One LoRA pair of the tiny model's query projection."""
    draw = torch.Generator().manual_seed(0)
    name = f"base_model.model.{module}"
    return {
        f"{name}.lora_A.weight": torch.randn(rank, 256, generator=draw),
        f"{name}.lora_B.weight": torch.randn(256, rank, generator=draw),
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_a_merged_adapter_is_what_peft_merges(tiny_model: Path, tmp_path: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, use_rslora=rslora, target_modules=TARGETS))
    torch.manual_seed(1)
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tensors = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(tuned).items()}
    adapter = write_adapter(tmp_path / "adapter.safetensors", tensors, tiny_model, rslora=rslora)

    report = merge(tiny_model, adapter, tmp_path / "merged", dtype="float32")

    tuned.merge_and_unload().save_pretrained(tmp_path / "peft")
    ours, theirs = load_file(tmp_path / "merged/model.safetensors"), load_file(tmp_path / "peft/model.safetensors")
    base = load_file(tiny_model / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(tensor, base[name]) == (name not in report.merged)
    assert len(report.merged) == 14
    assert report.base_digest == digest_of(tiny_model)
    assert report.adapter_digest is not None


def test_a_merged_directory_holds_what_the_converter_reads(tiny_model: Path, tmp_path: Path) -> None:
    report = merge(tiny_model, None, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {path.name for path in tiny_model.iterdir()}
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["dtype"] == "float16"
    with safe_open(tmp_path / "merged/model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert (report.merged, report.adapter_digest) == ((), None)


def test_shards_are_merged_one_by_one(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="1MB")
    shards = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    whole = write_adapter(tmp_path / "whole.safetensors", random_pair(), tiny_model)
    parts = write_adapter(tmp_path / "parts.safetensors", random_pair(), tmp_path / "sharded")
    merge(tiny_model, whole, tmp_path / "a", dtype="float32")
    merge(tmp_path / "sharded", parts, tmp_path / "b", dtype="float32")
    expected = load_file(tmp_path / "a/model.safetensors")
    index = json.loads((tmp_path / "b/model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == expected.keys()
    for name, shard in index.items():
        assert torch.equal(load_file(tmp_path / "b" / shard)[name], expected[name])


def test_names_of_older_checkpoints_are_known() -> None:
    assert "model.layers.3.mlp.up_proj" in names_on_disk("model.language_model.layers.3.mlp.up_proj")
    assert "language_model.model.layers.3.mlp.up_proj" in names_on_disk("model.language_model.layers.3.mlp.up_proj")
    tiled = "model.text_model.layers.3.mlp.up_proj"  # Idefics3 and SmolVLM are released under the names in memory
    assert names_on_disk(tiled)[0] == tiled
    assert names_on_disk("model.connector.modality_projection.proj")[0] == "model.connector.modality_projection.proj"
    assert "visual.blocks.0.attn.qkv" in names_on_disk("model.visual.blocks.0.attn.qkv")


def test_an_adapter_of_another_base_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.safetensors", random_pair(), tiny_model, base_digest="0" * 64)
    with pytest.raises(Refused, match="trained on the base 000000000000"):
        merge(tiny_model, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("tensors", "changed", "why"),
    [
        (random_pair("model.language_model.layers.9.self_attn.q_proj"), {}, "0 tensors for"),
        (random_pair("model.language_model.layers.1.mlp.down_proj"), {}, "does not fit"),
        (random_pair(rank=2), {}, "not of rank 4"),
        (dict([next(iter(random_pair().items()))]), {}, "incomplete"),
        ({name: tensor * torch.inf for name, tensor in random_pair().items()}, {}, "finite"),
        ({"base_model.model.model.norm.lora_magnitude_vector": torch.ones(4)}, {}, "no LoRA matrix"),
        (random_pair(), {"r": 0}, "not an adapter"),
        (random_pair(), {"alpha": "much"}, "not an adapter"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(
    tiny_model: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], changed: dict[str, object], why: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter.safetensors", tensors, tiny_model, **changed)
    with pytest.raises(BadInput, match=why):
        merge(tiny_model, adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"PK\x03\x04 not weights"])
def test_a_file_that_is_no_adapter_is_refused(tiny_model: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match="not an adapter"):
        merge(tiny_model, tmp_path / "adapter.safetensors", tmp_path / "merged")


def link(model: Path, copy: Path) -> Path:
    """A directory with the same files, to be spoiled."""
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).symlink_to(path)
    return copy


def test_a_base_that_cannot_be_trusted_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    base = link(tiny_model, tmp_path / "base")
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(Refused, match="pytorch_model.bin is a pickle"):
        merge(base, None, tmp_path / "merged")
    (base / "pytorch_model.bin").unlink()
    config = json.loads((tiny_model / "config.json").read_text()) | {"quantization_config": {"load_in_4bit": True}}
    (base / "config.json").unlink()
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="quantised"):
        merge(base, None, tmp_path / "merged")
    (base / "config.json").write_text("{")
    with pytest.raises(BadInput, match="config.json"):
        merge(base, None, tmp_path / "merged")
    with pytest.raises(BadInput, match="not a model directory"):
        merge(tmp_path, None, tmp_path / "merged")


@pytest.mark.parametrize("kept", [0, 7, 5_000, -1])
def test_a_truncated_shard_is_named(tiny_model: Path, tmp_path: Path, kept: int) -> None:
    base = link(tiny_model, tmp_path / "base")
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:kept])
    with pytest.raises(BadInput, match=r"broken.*model\.safetensors"):
        merge(base, None, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_value_too_large_for_the_type_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.safetensors", random_pair(), tiny_model, alpha=1e6)
    with pytest.raises(BadInput, match="does not fit"):
        merge(tiny_model, adapter, tmp_path / "merged")
    merge(tiny_model, adapter, tmp_path / "merged", dtype="bfloat16")


def test_a_full_disk_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ClocheError) as caught:
            merge(tiny_model, None, tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value, EnvironmentProblem)
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_a_digest_names_files_and_contents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub/b").write_text("2")
    before = digest_of(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/c").write_text("3")
    assert digest_of(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "c")
    renamed = digest_of(tmp_path)
    (tmp_path / "c").write_text("2")
    assert len({before, renamed, digest_of(tmp_path)}) == 3
