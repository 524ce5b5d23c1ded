"""Conversion, quantisation, the head of a GGUF file, and the signed account of a model."""

import importlib
import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import BadInput, ClocheError, EnvironmentProblem, IntegrityFailure, Refused
from train.gguf.convert import convert, summary
from train.gguf.driver import has_qwen2_rules
from train.gguf.header import read_header, stamp
from train.gguf.manifest import (
    Manifest,
    check_signature,
    entries,
    public_key_text,
    sign,
    signature_of,
    verify_file,
)  # fmt: skip
from train.gguf.quantise import KINDS, preset, quantise

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def spoiled(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to spoil; weights are linked."""
    copy = tmp_path / "spoiled"
    copy.mkdir()
    for path in tiny_model.iterdir():
        if path.suffix == ".safetensors":
            (copy / path.name).symlink_to(path)
        else:
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_the_gguf_says_what_the_model_directory_says(built, tiny_model: Path) -> None:
    text, eye = read_header(built.text), read_header(built.mmproj)
    assert text.metadata["general.architecture"] == "qwen2vl"
    assert text.metadata["tokenizer.ggml.pre"] == "qwen2"
    assert text.metadata["tokenizer.chat_template"] == (tiny_model / "chat_template.jinja").read_text()
    assert text.metadata["qwen2vl.rope.dimension_sections"] == [8, 12, 12, 0]
    assert eye.metadata["clip.projector_type"] == "qwen2vl_merger"
    assert eye.metadata["clip.vision.patch_size"] == 8


def test_the_same_model_gives_the_same_bytes(built, tiny_model: Path, tmp_path: Path) -> None:
    again = convert(tiny_model, tmp_path, outtype="f32")
    assert again.text.read_bytes() == built.text.read_bytes()
    assert again.mmproj is not None
    assert again.mmproj.read_bytes() == built.mmproj.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-f32.gguf", "model-mmproj-f32.gguf"]


def test_only_qwen2s_own_rules_are_called_qwen2(tiny_model: Path) -> None:
    rules = json.loads((tiny_model / "tokenizer.json").read_text())
    assert has_qwen2_rules(rules)
    assert not has_qwen2_rules(rules | {"normalizer": None})
    assert not has_qwen2_rules(rules | {"pre_tokenizer": {"type": "ByteLevel"}})
    assert not has_qwen2_rules({})
    changed = json.loads((tiny_model / "tokenizer.json").read_text().replace("N}]?\\\\p{L}+", "N}]?\\\\p{Lu}+"))
    assert changed != rules
    assert not has_qwen2_rules(changed)


def test_an_unknown_tokenizer_is_left_to_the_converter(built, spoiled: Path, tmp_path: Path) -> None:
    rules = json.loads((spoiled / "tokenizer.json").read_text())
    rules["normalizer"] = None
    (spoiled / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(BadInput, match="BPE pre-tokenizer was not recognized"):
        convert(spoiled, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_runs_code_or_is_no_model_is_refused(built, spoiled: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a model directory"):
        convert(tmp_path, tmp_path / "out")
    (spoiled / "model.pt").write_bytes(b"")
    with pytest.raises(Refused, match="pickle"):
        convert(spoiled, tmp_path / "out")
    (spoiled / "model.pt").unlink()
    (spoiled / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(Refused, match="code of the model's own"):
        convert(spoiled, tmp_path / "out")
    (spoiled / "tokenizer_config.json").write_text("[")
    with pytest.raises(BadInput, match="not JSON"):
        convert(spoiled, tmp_path / "out")
    with pytest.raises(BadInput, match="name"):
        convert(spoiled, tmp_path / "out", name="../up")
    assert not (tmp_path / "out").exists()


def test_a_missing_converter_is_named_with_its_remedy(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOCHE_CONVERTER", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="make setup") as caught:
        convert(tiny_model, tmp_path / "out")
    assert caught.value.exit_code == 6


def test_the_converters_log_is_told_in_a_line() -> None:
    log = "INFO:x:Loading\nTraceback (most recent call last):\n  File \"a\", line 1\nKeyError: 'image_mean'\n"
    assert summary(log) == "KeyError: 'image_mean'"
    assert summary("INFO:a\nERROR:hf-to-gguf:Model Foo is not supported\n") == "hf-to-gguf:Model Foo is not supported"
    assert summary("") == ""


def test_llama_cpps_own_reader_agrees_with_ours(built, monkeypatch: pytest.MonkeyPatch) -> None:
    from train.gguf.convert import converter_home

    monkeypatch.syspath_prepend(str(converter_home() / "gguf-py"))
    reader = importlib.import_module("gguf").GGUFReader(built.text)
    ours = read_header(built.text)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for name, field in fields.items():
        assert ours.metadata[name] == field.contents(), name
    assert {t.name: tuple(t.shape.tolist()) for t in reader.tensors} == dict(ours.tensors)
    assert ours.data == reader.data_offset


def test_stamped_facts_stand_in_the_file_and_no_weight_changes(built, tmp_path: Path) -> None:
    facts = {"cloche.base": "ab" * 32, "cloche.gates": json.dumps({"accuracy": {"passed": True}}), "cloche.n": 7}
    stamp(built.text, tmp_path / "a.gguf", facts | {"cloche.share": 0.5, "cloche.released": False, "general.name": "é"})
    stamp(tmp_path / "a.gguf", tmp_path / "a.gguf", {"cloche.n": 8})
    before, after = read_header(built.text), read_header(tmp_path / "a.gguf")
    old = {key: value for key, value in before.metadata.items() if key != "general.name"}
    new = {"cloche.n": 8, "cloche.share": 0.5, "cloche.released": False, "general.name": "é"}
    assert after.metadata == old | facts | new
    assert after.tensors == before.tensors
    assert (tmp_path / "a.gguf").read_bytes()[after.data :] == built.text.read_bytes()[before.data :]
    with pytest.raises(BadInput, match="not ours to write"):
        stamp(built.text, tmp_path / "b.gguf", {"qwen2vl.block_count": 1})


def test_every_cut_of_the_head_is_found(built) -> None:
    data = built.text.read_bytes()
    end = read_header(built.text).data
    for size in (*range(0, end, 97), end, len(data) - 1):
        with pytest.raises(BadInput):
            read_header(data[:size])
    assert read_header(data).metadata == read_header(built.text).metadata


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_spoiled_heads_are_read_or_refused_but_never_crash(built, data: st.DataObject) -> None:
    whole = bytearray(built.mmproj.read_bytes())
    end = read_header(built.mmproj).data
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end - 8))
        whole[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    try:
        read_header(bytes(whole))
    except BadInput as error:
        assert error.what  # noqa: PT017


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_quantisation_is_sound_and_no_larger(built, tmp_path: Path, kind: str) -> None:
    quantise(built.text, tmp_path / "q.gguf", kind, threads=1)
    small = read_header(tmp_path / "q.gguf")
    assert small.tensors == read_header(built.text).tensors
    assert (tmp_path / "q.gguf").stat().st_size < 0.51 * built.text.stat().st_size
    assert small.metadata["tokenizer.ggml.pre"] == "qwen2"


def test_quantising_what_cannot_be_is_an_error(built, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no kind"):
        quantise(built.text, tmp_path / "q.gguf", "Q1_X")
    (tmp_path / "cut.gguf").write_bytes(built.text.read_bytes()[:-1000])
    with pytest.raises(BadInput, match="broken"):
        quantise(tmp_path / "cut.gguf", tmp_path / "q.gguf")
    with pytest.raises(BadInput, match="no readable GGUF"):
        quantise(tmp_path / "missing.gguf", tmp_path / "q.gguf")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(EnvironmentProblem, match="could not be written"):
            quantise(built.text, tmp_path / "q.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]
    assert (preset(2_000_000_000), preset(7_000_000_000), preset(2_000_000_000, small=True)) == (
        "Q8_0",
        "Q5_K_M",
        "Q4_K_M",
    )


def account(files: list[Path]) -> Manifest:
    """An account with every field filled."""
    return Manifest(
        name="demo", files=entries(files), base_digest="a" * 64, adapter_digest=None, data_root="b" * 64,
        quantisation="Q8_0", parity={"cosine_min": 0.9991, "n": 3}, gates={"accuracy": {"passed": True, "value": 0.8}},
        checkpoint="cloche/log\n3\nAAAA\n", licence="Apache-2.0", made_by="0.1.0", created="2026-01-02T03:04:05Z",
    )  # fmt: skip


def test_a_signed_account_verifies_with_minisigns_own_rules(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    made = account([tmp_path / "model.gguf"])
    sign(made, tmp_path / "model.json", KEY)
    assert verify_file(tmp_path / "model.json", KEY.public_key()) == made
    minisign = pytest.importorskip("minisign")
    stranger = minisign.PublicKey.from_base64(public_key_text(KEY.public_key()))
    stranger.verify_file(tmp_path / "model.json")
    signature = minisign.Signature.from_file(tmp_path / "model.json.minisig")
    assert signature.trusted_comment == "timestamp:2026-01-02T03:04:05Z\tfile:model.json\thashed"


def test_what_changed_after_signing_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    sign(account([tmp_path / "model.gguf"]), tmp_path / "model.json", KEY)
    other = Ed25519PrivateKey.generate()
    with pytest.raises(IntegrityFailure, match="another key"):
        verify_file(tmp_path / "model.json", other.public_key())
    (tmp_path / "model.gguf").write_bytes(b"weightz")
    with pytest.raises(IntegrityFailure, match=r"model\.gguf is not the file"):
        verify_file(tmp_path / "model.json", KEY.public_key())
    (tmp_path / "model.gguf").unlink()
    with pytest.raises(IntegrityFailure, match="missing"):
        verify_file(tmp_path / "model.json", KEY.public_key())
    (tmp_path / "model.json.minisig").unlink()
    with pytest.raises(BadInput, match="signature"):
        verify_file(tmp_path / "model.json", KEY.public_key())


def test_an_account_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    made = account([tmp_path / "model.gguf"])
    sign(replace(made, files=(replace(made.files[0], name="../model.gguf"),)), tmp_path / "model.json", KEY)
    with pytest.raises(IntegrityFailure, match="elsewhere"):
        verify_file(tmp_path / "model.json", KEY.public_key())


@given(
    at=st.integers(0, 10_000), flip=st.integers(1, 255), comment=st.text(st.characters(codec="ascii", min_codepoint=32))
)
@settings(deadline=None)
def test_a_changed_byte_of_a_signature_never_verifies_otherwise(at: int, flip: int, comment: str) -> None:
    data = b"the account"
    good = signature_of(data, KEY, comment)
    assert check_signature(data, good, KEY.public_key()) == comment
    spoiled = bytearray(good)
    spoiled[at % len(good)] ^= flip
    first_line = good.index(b"\n")
    try:
        assert check_signature(data, bytes(spoiled), KEY.public_key()) == comment
        assert at % len(good) < first_line or spoiled.rstrip(b"\n") == good.rstrip(b"\n")  # a comment nobody signs
    except ClocheError:
        pass


def test_accounts_of_newer_versions_and_nonsense_are_refused() -> None:
    newer = json.loads(account([]).to_json()) | {"format": 2}
    with pytest.raises(Refused, match="newer"):
        Manifest.from_json(json.dumps(newer))
    for text in ("", "[]", "{}", '{"format": 1}', json.dumps(json.loads(account([]).to_json()) | {"extra": 1})):
        with pytest.raises(BadInput, match="no account"):
            Manifest.from_json(text)
