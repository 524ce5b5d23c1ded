"""`cloche models show`: what a directory is, and one sentence where it is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.starter.where import STARTER
from train.gguf.files import digest_of, digest_of_file

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STARTER, tmp_path / "model"))


def test_a_directory(run: Run, model: Path) -> None:
    (model / "LICENSE").write_text("\n  Apache License  \nVersion 2.0\n")
    code, out, err = run("models", "show", str(model), "--json")
    assert code == 0, err
    found = json.loads(out)
    parts = found["parameters"]
    assert found["family"] == "qwen2_vl" and parts["total"] == sum(v for k, v in parts.items() if k != "total")
    assert found["licence"] == {"file": "LICENSE", "first_line": "Apache License"}
    assert set(found["visual_tokens"]) == {"448x448", "4096x4096"} and found["context"] == 2048
    assert found["files"]["config.json"]["sha256"] == digest_of_file(model / "config.json")
    assert found["serve_bytes"]["Q8_0"] > found["serve_bytes"]["Q5_K_M"] > found["serve_bytes"]["Q4_K_M"] > 0
    code, out, _ = run("models", "show", str(model))
    assert code == 0 and "LICENSE: Apache License" in out and "to train" in out


def test_every_file_is_read_for_its_digest_once(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return digest_of_file(path)

    monkeypatch.setattr("train.gguf.files.digest_of_file", counted)
    found = json.loads(run("models", "show", str(model), "--json")[1])
    assert sorted(p.name for p in read) == sorted(found["files"]) and found["digest"] == digest_of(model)


def test_it_needs_no_vault_and_loads_no_weight(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("safetensors.torch.load_file", never)
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", never)
    assert run("--home", str(model / "none"), "models", "show", str(model))[0] == 0


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def cut_off(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def huge_header(model: Path) -> None:
    (model / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def broken_config(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": ')


def another_family(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "abacus"}')


def empty_config(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "qwen2_vl", "vision_config": 3}')


def no_processor(model: Path) -> None:
    (model / "preprocessor_config.json").unlink()


def a_pickle(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_weights, "no weights"),
        (cut_off, "no whole safetensors file"),
        (huge_header, "no whole safetensors file"),
        (broken_config, "config.json is broken"),
        (another_family, "abacus"),
        (empty_config, "cannot be read"),
        (no_processor, "preprocessor_config.json"),
        (a_pickle, "pickle"),
    ],
)
def test_a_directory_that_is_no_model(run: Run, model: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(model)
    code, out, err = run("models", "show", str(model))
    assert code == 3 and out == "" and said in err and "Next:" in err
    assert "bug" not in err
