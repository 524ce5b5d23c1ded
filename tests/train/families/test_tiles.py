"""Idefics3 and SmolVLM: tiles, budgets, templates and what is learned, against transformers' own processors."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from tests.train.conftest import picture
from train.data.encode import Encoder
from train.models.directory import FAMILIES, family_of
from train.models.idefics3 import Idefics3
from train.models.loading import Loaded, load

RELEASES = {
    "Idefics3-8B-Llama3": ("idefics3", 364, 364, 1456, 14, 2, 169),
    "SmolVLM-Instruct": ("idefics3", 384, 384, 1536, 14, 3, 81),
    "SmolVLM2-2.2B-Instruct": ("smolvlm", 384, 384, 1536, 14, 3, 81),
    "SmolVLM2-500M-Video-Instruct": ("smolvlm", 512, 512, 2048, 16, 4, 64),
}
"""model_type, the tower's image_size, max_image_size, size, patch_size, scale_factor and image_seq_len of each."""


def of_release(name: str, budget: int | None = None, **changed: Any) -> Idefics3:
    """A release's family from the numbers in its files."""
    kind, side, tile, longest, patch, scale, _ = RELEASES[name]
    config = transformers.AutoConfig.for_model(
        kind, vision_config={"image_size": side, "patch_size": patch}, scale_factor=scale
    )
    files = {"max_image_size": {"longest_edge": tile}, "size": {"longest_edge": longest}, "do_image_splitting": True}
    found = FAMILIES[kind].of(config, files | changed, budget)
    assert isinstance(found, Idefics3)
    return found


def theirs(family: Idefics3, **changed: Any) -> Any:
    """transformers' image processor with a family's numbers."""
    module = importlib.import_module(
        f"transformers.models.{family.model_type}.image_processing_pil_{family.model_type}"
    )
    named = {"idefics3": "Idefics3ImageProcessorPil", "smolvlm": "SmolVLMImageProcessorPil"}[family.model_type]
    sizes = {"max_image_size": {"longest_edge": family.tile}, "size": {"longest_edge": family.longest}}
    norm = {"image_mean": family.mean, "image_std": family.std, "do_image_splitting": family.split}
    return getattr(module, named)(return_row_col_info=True, **(sizes | norm | changed))


def agrees(family: Idefics3, image: Image.Image) -> None:
    wanted = theirs(family)(image, return_tensors="np")
    fitted = family.fitted(image)
    assert family.grid(fitted) == (wanted["rows"][0][0], wanted["cols"][0][0])
    np.testing.assert_allclose(family.tiles(fitted), wanted["pixel_values"][0], atol=1e-6)
    assert wanted["pixel_attention_mask"].all()
    assert family.visual_tokens(family.grid(fitted)) == family.run * wanted["pixel_values"].shape[1]


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    case = importlib.import_module(f"tests.train.families.{request.param}").CASE
    return load(case.write(tmp_path_factory.mktemp(request.param) / "model"), "fp32", "cpu")


SMALL = Idefics3(1, tile=32, run=4, longest=96)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 260), st.integers(1, 260), st.sampled_from([32, 33, 64, 90, 96, 100, 161]), st.booleans(),
    st.sampled_from(["RGB", "L", "RGBA", "P"]),
)  # fmt: skip
def test_every_image_is_cut_as_transformers_cuts_it(
    width: int, height: int, longest: int, split: bool, mode: str
) -> None:
    agrees(replace(SMALL, longest=longest, split=split), picture(1, width, height).convert(mode))


@pytest.mark.parametrize("name", RELEASES)
def test_the_files_of_the_real_releases_load(name: str) -> None:
    family = of_release(name, image_mean=[0.4] * 3, image_std=[0.6] * 3, resample=1, video_sampling={"fps": 1})
    assert (family.run, family.tile, family.longest) == (RELEASES[name][-1], *RELEASES[name][2:4])
    assert (family.mean, family.std) == ((0.4,) * 3, (0.6,) * 3)
    agrees(family, picture(2, 224, 170))
    agrees(of_release(name, do_image_splitting=False), picture(2, 224, 170))


def test_what_the_files_leave_out_is_the_towers_own() -> None:
    config = transformers.AutoConfig.for_model(
        "smolvlm", vision_config={"image_size": 384, "patch_size": 14}, scale_factor=3
    )
    family = Idefics3.of(config, {})
    assert (family.tile, family.longest, family.run) == (384, 1536, 81)


@pytest.mark.parametrize(
    ("budget", "longest", "square"),
    [(None, 1536, 17), (1377, 1536, 17), (1376, 1152, 10), (810, 1152, 10), (809, 768, 5), (404, 384, 1), (81, 384, 1)],
)
def test_a_budget_takes_tiles_away(budget: int | None, longest: int, square: int) -> None:
    family = of_release("SmolVLM2-2.2B-Instruct", budget)
    assert family.longest == longest
    for width, height in ((500, 500), (500, 499), (300, 500), (2000, 90)):
        grid = family.grid(family.fitted(picture(1, width, height)))
        assert family.visual_tokens(grid) <= (budget or 1377)
        assert width != height or family.visual_tokens(grid) == 81 * square


def test_a_budget_holds_for_tiles_of_an_odd_size() -> None:
    for budget in (4, 8, 19, 20, 40, 68, 1000):
        config = transformers.AutoConfig.for_model(
            "smolvlm", vision_config={"image_size": 45, "patch_size": 11}, scale_factor=2
        )
        family = Idefics3.of(config, {"size": {"longest_edge": 900}}, budget)
        for width, height in ((50, 50), (51, 50), (33, 49), (10, 200)):
            assert family.visual_tokens(family.grid(family.fitted(picture(1, width, height)))) <= budget


@pytest.mark.parametrize("name", ["SmolVLM2-2.2B-Instruct", "Idefics3-8B-Llama3"])
def test_a_budget_below_one_tile_says_what_the_least_is(name: str) -> None:
    least = RELEASES[name][-1]
    with pytest.raises(BadInput, match=f"at least {least} visual tokens") as caught:
        of_release(name, least - 1)
    assert f"--max-visual-tokens {least}" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"size": 364}, "size names no longest_edge"),
        ({"max_image_size": {"height": 364}}, "max_image_size names no longest_edge"),
        ({"max_image_size": {"longest_edge": 370}}, None),
        ({"max_image_size": {"longest_edge": 378}}, "cannot be cut"),
        ({"max_image_size": {"longest_edge": 7}}, "cannot be cut"),
        ({"size": {"longest_edge": 0}}, "cannot be cut"),
    ],
)
def test_files_that_do_not_fit_each_other_are_named(changed: dict[str, Any], why: str | None) -> None:
    if why is None:
        assert of_release("Idefics3-8B-Llama3", **changed).run == 169
        return
    with pytest.raises(BadInput, match=why):
        of_release("Idefics3-8B-Llama3", **changed)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(48, 32), (130, 128), (20, 90), (9, 200)])
def test_features_are_those_of_transformers(tiny: Loaded, size: tuple[int, int]) -> None:
    for budget in (None, 4):
        family = family_of(tiny.directory, budget)
        assert isinstance(family, Idefics3)
        image = picture(3, *size)
        given = theirs(family)(image, return_tensors="pt")
        wanted = tiny.model.get_image_features(given["pixel_values"], given["pixel_attention_mask"]).pooler_output
        found = family.features(tiny.model, family.fitted(image)).tokens
        torch.testing.assert_close(found, torch.cat(tuple(wanted)), rtol=1e-5, atol=1e-5)


TALK = (
    Turn("user", "Is the lesion visible?"),
    Turn("assistant", "Yes, in 12.", True),
    Turn("user", "Where?"),
    Turn("assistant", "Left", True),
)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_answers_and_their_end_tokens_alone_are_learned(tiny: Loaded, images: int) -> None:
    named = tuple(f"i{k}" for k in range(images))
    found = tiny.encoder.encode(Conversation("c", named, TALK, "r", "k"), [(1, 2), (0, 0)][:images])
    answers = " Yes, in 12.<end_of_utterance> Left<end_of_utterance>"
    assert tiny.tokenizer.decode(found.ids[found.learned]) == answers
    assert not (found.learned & found.visual).any()
    run = tiny.family.run  # type: ignore[attr-defined]
    assert int(found.visual.sum()) == sum((3 * run, run)[:images])


def test_the_rendered_text_is_the_releases(tiny: Loaded) -> None:
    opens = tiny.tokenizer.bos_token
    text = tiny.encoder.render(TALK[:3], 1, "assistant")
    assert text == (
        f"{opens}User:<image>Is the lesion visible?<end_of_utterance>\nAssistant: Yes, in 12.<end_of_utterance>\n"
        "User: Where?<end_of_utterance>\nAssistant:"
    )


@pytest.mark.parametrize("images", [0, 1])
def test_a_prompt_is_the_beginning_of_what_was_learned(tiny: Loaded, images: int) -> None:
    """A header that ends in a space would be other tokens than the header before a word."""
    named, grids = ("i",)[:images], [(1, 2)][:images]
    whole = tiny.encoder.encode(Conversation("c", named, TALK, "r", "k"), grids).ids.tolist()
    for turns, opened in ((1, "assistant"), (2, "user"), (3, "assistant")):
        prompt = tiny.encoder.prompt(TALK[:turns], named, grids, opened).ids.tolist()
        assert whole[: len(prompt)] == prompt


def test_answers_end_where_turns_end_and_dialogues_end_otherwise(tiny: Loaded) -> None:
    end = tiny.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    assert tiny.encoder.tokenizer.convert_tokens_to_ids(tiny.encoder.stop) == end
    assert tiny.stops >= {end, tiny.tokenizer.eos_token_id}
    over = tiny.family.end_of_text(tiny.tokenizer)
    assert over != "<end_of_utterance>"
    assert over in ("<|end_of_text|>", "<|im_end|>")
    found = tiny.encoder.encode(Conversation("c", (), TALK, "r", "k"), [], ends=True)
    assert tiny.tokenizer.decode(found.ids[found.learned]).endswith(" Left<end_of_utterance>\n" + over)


def test_a_model_whose_files_forget_the_end_of_a_turn_stops_there(
    tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first release of Idefics3-8B-Llama3 did: its generation_config named Llama's tokens alone."""
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", [1])
    assert tiny.tokenizer.convert_tokens_to_ids("<end_of_utterance>") in tiny.stops


@pytest.mark.parametrize("held", ["<image>", "<fake_token_around_image>", "<end_of_utterance>"])
def test_a_text_cannot_stand_for_an_image(tiny: Loaded, held: str) -> None:
    with pytest.raises(BadInput, match="control token"):
        tiny.encoder.encode(Conversation("c", (), (Turn("user", f"a {held}"),), "r", "k"), [])


def test_the_template_of_older_releases_is_found(tiny: Loaded, tmp_path: Path) -> None:
    """chat_template.json goes before what the tokenizer brings, as in transformers' processors."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in tiny.directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "chat_template.jinja").write_text("of the language model alone")
    again = load(copy, "fp32", "cpu")
    assert isinstance(again.encoder, Encoder)
    assert again.encoder.render(TALK, 1) == tiny.encoder.render(TALK, 1)
    for broken in ("{", "[]", json.dumps({"other": 1})):
        (copy / "chat_template.json").write_text(broken)
        with pytest.raises(BadInput, match=r"chat_template\.json is broken"):
            load(copy, "fp32", "cpu")
