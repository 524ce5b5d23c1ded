"""LLaVA-NeXT alone: pixels and packing against transformers, budgets, templates, older checkpoints, bad input."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from tests.train.conftest import picture
from tests.train.families import llava_next_llama3 as llama3
from tests.train.families import llava_next_vicuna as vicuna
from train.data.encode import Encoder
from train.gguf.merge import merge, names_on_disk
from train.lora import LoraConfig, attach, detach, pack
from train.models.directory import family_noted, family_of
from train.models.llava_next import LlavaNext
from train.models.loading import load

MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ ' ' + part['text'] }}{% endfor %}"
    "{{ STOP }}{% endif %}{% endfor %}"
)
"""v1.6-Mistral's: no word for the assistant; some releases write a stop behind an answer, some do not."""
SAID = st.sampled_from(("Yes", "It is left.", "no", "12 red", "Where? Here", "Ünï"))


@pytest.fixture(scope="module")
def v16(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(vicuna.write(tmp_path_factory.mktemp("vicuna") / "model"), "fp32", "cpu")


@pytest.fixture(scope="module")
def v16_llama3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(llama3.write(tmp_path_factory.mktemp("llama3") / "model"), "fp32", "cpu")


def image_processor(loaded: Any) -> Any:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    return LlavaNextImageProcessorPil.from_pretrained(loaded.directory)


def real(**more: Any) -> LlavaNext:
    """The family of v1.6 at its true size."""
    return LlavaNext(32000, **more)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 90), st.integers(3, 90), st.sampled_from(("RGB", "L", "RGBA")))
def test_pixels_are_those_of_transformers(v16: Any, width: int, height: int, mode: str) -> None:
    image = picture(width * height, width, height).convert(mode)
    fitted = v16.family.fitted(image)
    wanted = image_processor(v16)(image, return_tensors="np")
    assert wanted["image_sizes"].tolist() == [[fitted.height, fitted.width]]
    np.testing.assert_array_equal(v16.family.tiles(fitted), wanted["pixel_values"][0])


@settings(max_examples=300, deadline=None)
@given(st.integers(20, 4000), st.integers(20, 4000))
def test_the_grid_tells_how_many_tokens_transformers_makes(width: int, height: int) -> None:
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    both = LlavaNextProcessor.__new__(LlavaNextProcessor)
    both.patch_size, both.num_additional_image_tokens = 14, 0
    both.image_processor = type("", (), {"image_grid_pinpoints": [list(p) for p in real().pinpoints]})
    family, image = real(), Image.new("1", (width, height))
    wanted = both._get_number_of_features(height, width, 336, 336)
    assert family.visual_tokens(family.grid(image)) == wanted


def test_the_number_of_tokens_at_the_true_size() -> None:
    family = real()
    sizes = ((336, 336), (672, 672), (1000, 200), (200, 1000), (640, 480))
    found = [family.visual_tokens(family.grid(Image.new("1", s))) for s in sizes]
    assert found == [1176, 2928, 1598, 1656, 2340]


@torch.inference_mode()
@pytest.mark.parametrize("layer", [-2, [-2, 1]])
@pytest.mark.parametrize("budget", [None, 76])
def test_features_are_packed_as_transformers_packs_them(tmp_path: Path, layer: Any, budget: int | None) -> None:
    words = llama3.tokenizer()
    directory = llama3.write_with(tmp_path / "model", words, vision_feature_layer=layer)
    loaded = load(directory, "fp32", "cpu", budget)
    family, processor = loaded.family, image_processor(loaded)
    left = [list(p) for p in family.pinpoints]
    assert len(left) == (5 if budget is None else 4)
    processor.image_grid_pinpoints = loaded.model.config.image_grid_pinpoints = left
    for k, size in enumerate((*llama3.SIZES, (1, 5), (64, 64), (50, 3))):
        fitted = family.fitted(picture(k, *size))
        theirs = processor(fitted, return_tensors="pt")
        (wanted,) = loaded.model.model.get_image_features(theirs["pixel_values"], theirs["image_sizes"]).pooler_output
        found = family.features(loaded.model, fitted).tokens
        assert len(found) == family.visual_tokens(family.grid(fitted))
        assert budget is None or len(found) <= budget
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_budget_leaves_the_resolutions_that_fit() -> None:
    family = real()
    assert family.within(2928) == family
    assert family.within(2927).pinpoints == ((336, 672), (672, 336), (1008, 336), (336, 1008))
    assert family.within(1752).pinpoints == ((336, 672),)
    with pytest.raises(BadInput, match="1752") as caught:
        family.within(1751)
    assert "1752" in caught.value.hint


def test_a_budget_that_nothing_fits_is_said_before_the_weights_are_opened(v16: Any) -> None:
    with pytest.raises(BadInput, match="smallest resolution takes 52"):
        family_of(v16.directory, 51)
    assert family_of(v16.directory, 52).pinpoints == ((16, 32),)  # type: ignore[attr-defined]


def test_what_is_noted_comes_back_from_json(v16: Any) -> None:
    assert family_noted(json.loads(json.dumps(v16.family.noted()))) == v16.family


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image_grid_pinpoints": [[16, 32]]}, "different image_grid_pinpoints"),
        ({"crop_size": {"height": 32, "width": 32}}, "tiles of"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    directory = vicuna.write(tmp_path / "model")
    place = directory / "preprocessor_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changed))
    with pytest.raises(BadInput, match=said):
        family_of(directory)


def test_a_strategy_that_does_not_fit_the_tower_is_refused(tmp_path: Path) -> None:
    directory = llama3.write_with(tmp_path / "model", llama3.tokenizer(), vision_feature_select_strategy="full")
    with pytest.raises(BadInput, match="vision_feature_select_strategy"):
        family_of(directory)


def test_an_image_that_is_only_a_line_is_refused() -> None:
    with pytest.raises(BadInput, match="2 x 5000 pixels is too narrow"):
        real().grid(Image.new("RGB", (2, 5000)))


def learned_runs(encoder: Encoder, encoded: Any) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], encoded.learned.astype(int), [0]))))
    return [
        encoder.tokenizer.decode(encoded.ids[a:b], clean_up_tokenization_spaces=False)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def talk(*turns: Turn, images: int = 1) -> Conversation:
    return Conversation("story-7", tuple(f"i{k}" for k in range(images)), turns, "r", "k")


@cache
def words_of(legacy: bool) -> Any:
    return vicuna.tokenizer(legacy=legacy)


def encoder_of(loaded: Any, template: str | None, legacy: bool | None) -> Encoder:
    """An encoder with another template, or with the other of the two ways in which Llama's tokenizer marks words."""
    words = copy.deepcopy(loaded.tokenizer) if legacy is None else words_of(legacy)
    words.chat_template = template or words.chat_template or vicuna.TEMPLATE
    return Encoder(words, loaded.family)


@pytest.mark.parametrize("legacy", [None, False, True])
@pytest.mark.parametrize(
    ("template", "stop"),
    [
        (None, "</s>"),
        (vicuna.TEMPLATE.replace("'ASSISTANT:'", "'ASSISTANT: '"), "</s>"),
        (MISTRAL.replace("STOP", "''"), "</s>"),
        (MISTRAL.replace("STOP", "'</s>'"), ""),
    ],
)
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(SAID, SAID, st.booleans()), min_size=1, max_size=3), st.integers(0, 2))
def test_an_answer_and_its_stop_are_learned_and_nothing_else(
    v16: Any, template: str | None, stop: str, legacy: bool | None, said: list[Any], images: int
) -> None:
    encoder = encoder_of(v16, template, legacy)
    assert encoder.in_parts and encoder.stop == "</s>" and encoder.added_stop == stop
    turns = [t for q, a, learned in said for t in (Turn("user", q), Turn("assistant", a, learned))]
    found = encoder.encode(talk(*turns, images=images), [(2, 2)] * images)
    wanted = [a + "</s>" for _, a, learned in said if learned]
    assert [run.lstrip() for run in learned_runs(encoder, found)] == wanted
    assert found.ids[0] == encoder.tokenizer.bos_token_id and (found.ids == found.ids[0]).sum() == 1
    assert not (found.learned & found.visual).any()


def test_an_answer_of_llama_3_ends_by_its_own_token(v16_llama3: Any) -> None:
    encoder = v16_llama3.encoder
    assert not encoder.in_parts and encoder.added_stop == "" and encoder.stop == "<|eot_id|>"
    turns = Turn("user", "Is it?"), Turn("assistant", "Yes", True), Turn("user", "Where?"), Turn("assistant", "Left")
    found = encoder.encode(talk(*turns), [(2, 2)])
    assert learned_runs(encoder, found) == ["Yes<|eot_id|>"]
    assert (found.ids == encoder.tokenizer.bos_token_id).sum() == 1
    assert encoder.tokenizer.convert_tokens_to_ids("<|eot_id|>") in v16_llama3.stops


def test_a_template_s_own_stop_ends_an_answer(v16_llama3: Any) -> None:
    """Many Llama 3 tokenizers name as eos what ends a text, not what ends a turn."""
    from dataclasses import replace

    words = llama3.tokenizer()
    words.eos_token = "<|end_of_text|>"
    other = replace(v16_llama3, tokenizer=words, encoder=Encoder(words, v16_llama3.family))
    assert other.encoder.stop == "<|eot_id|>" and words.convert_tokens_to_ids("<|eot_id|>") in other.stops


def test_who_writes_on_behind_an_answer_learns_no_stop_there(v16: Any, v16_llama3: Any) -> None:
    turns = Turn("user", "Is it?", True), Turn("assistant", "Yes", True), Turn("user", "12?", True)
    for loaded, end in ((v16, "</s>"), (v16_llama3, "<|end_of_text|>")):
        found = loaded.encoder.encode(talk(*turns, images=0), [], ends=True)
        ends = np.flatnonzero(found.ids == loaded.tokenizer.convert_tokens_to_ids(end))
        assert ends.tolist() == [len(found.ids) - 1] and found.learned[-1]


def test_a_learned_question_counts_from_its_header(v16: Any) -> None:
    turns = Turn("user", "Is it?"), Turn("assistant", "Yes"), Turn("user", "12", True), Turn("assistant", "no", True)
    found = v16.encoder.encode(talk(*turns), [(2, 2)])
    assert learned_runs(v16.encoder, found) == ["USER: 12 ASSISTANT: no</s>"]


def test_a_prompt_stays_what_the_template_renders(v16: Any) -> None:
    turns = Turn("user", "Is it?"), Turn("assistant", "Yes", True), Turn("user", "Where?")
    wanted = v16.tokenizer("USER: Is it? ASSISTANT: Yes USER: Where? ASSISTANT:")["input_ids"]
    assert v16.encoder.prompt(turns, (), []).ids.tolist() == wanted
    opened = v16.encoder.prompt(turns[:2], (), [], "user").ids.tolist()
    assert opened == wanted[: len(opened)]


def test_the_image_token_in_a_turn_is_refused(v16: Any) -> None:
    with pytest.raises(BadInput, match="control token <image>"):
        v16.encoder.encode(talk(Turn("user", "What <image> is it?")), [(2, 2)])


def test_images_without_a_place_name_the_conversation(v16: Any, v16_llama3: Any, loaded: Any) -> None:
    for one in (v16, v16_llama3, loaded):
        with pytest.raises(BadInput, match="1 are named, the text has 0 image tokens") as caught:
            one.encoder.encode(talk(Turn("assistant", "Yes", True)), [(2, 2)])
        assert caught.value.where == "record r, conversation story-7" and "chat template" in caught.value.hint
        with pytest.raises(BadInput, match="2 are named, 1 were opened") as caught:
            one.encoder.encode(talk(Turn("user", "Is it?"), images=2), [(2, 2)])
        assert caught.value.where == "record r, conversation story-7" and caught.value.hint
        with pytest.raises(BadInput, match="begins with an answer") as caught:
            one.encoder.encode(talk(Turn("assistant", "Yes", True), images=0), [])
        assert caught.value.where == "record r, conversation story-7" and caught.value.hint
        with pytest.raises(BadInput, match="image tokens"):
            one.encoder.prompt([Turn("assistant", "Yes")], ("i",), [(2, 2)])


def test_a_template_that_leaves_images_out_names_the_conversation(v16: Any) -> None:
    encoder = encoder_of(v16, vicuna.TEMPLATE.replace("{{ '<image>\\n' }}", ""), None)
    with pytest.raises(BadInput, match="the text has 0 image tokens"):
        encoder.encode(talk(Turn("user", "Is it?"), Turn("assistant", "Yes", True)), [(2, 2)])


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    directory = vicuna.write(tmp_path / "model")
    (directory / "chat_template.json").unlink()
    with pytest.raises(BadInput, match="no chat template"):
        load(directory, "fp32", "cpu")


def renamed(names: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """The weights under the names of v1.6 as it was released, or of the releases since transformers 4.52."""
    found = {}
    for name, weight in names.items():
        bare = name.removeprefix("model.")
        text = bare.removeprefix("language_model.").removeprefix("model.")
        if bare.startswith("vision_tower."):
            old = "vision_tower.vision_model." + bare.removeprefix("vision_tower.").removeprefix("vision_model.")
        elif "lm_head" in bare:
            found["lm_head.weight" if layout == "new" else "language_model.lm_head.weight"] = weight
            continue
        elif bare.startswith("language_model."):
            found[f"model.language_model.{text}" if layout == "new" else f"language_model.model.{text}"] = weight
            continue
        else:
            old = bare
        found[f"model.{old}" if layout == "new" else old] = weight
    return found


@pytest.mark.parametrize("layout", ["old", "new"])
@torch.inference_mode()
def test_both_layouts_of_checkpoints_open_and_merge(tmp_path: Path, layout: str) -> None:
    directory = vicuna.write(tmp_path / "model")
    plain = load(directory, "fp32", "cpu").model.state_dict()
    held = load_file(directory / "model.safetensors")
    save_file(renamed(held, layout), directory / "model.safetensors", metadata={"format": "pt"})
    loaded = load(directory, "fp32", "cpu")
    assert all(torch.equal(weight, plain[name]) for name, weight in loaded.model.state_dict().items())
    shape = LoraConfig(4, 8)
    model = attach(loaded, shape)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    (tmp_path / "adapter.safetensors").write_bytes(pack(model, shape, loaded.digest))
    detach(model)
    report = merge(directory, tmp_path / "adapter.safetensors", tmp_path / "merged", "float32")
    assert len(report.merged) == 14
    merged = load(tmp_path / "merged", "fp32", "cpu").model.state_dict()
    moved = {name for name, weight in merged.items() if not torch.equal(weight, plain[name])}
    assert len(moved) == 14 and all(name.startswith("model.language_model.layers.") for name in moved)
    on_disk = set(load_file(directory / "model.safetensors"))
    for name in plain:
        module = name.removesuffix(".weight")
        if name.endswith("proj.weight") or "linear_" in name or "lm_head" in name or ".fc" in name:
            assert name.endswith(".bias") or len({f"{n}.weight" for n in names_on_disk(module)} & on_disk) == 1
