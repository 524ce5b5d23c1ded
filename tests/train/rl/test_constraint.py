"""The domain constraint in the update: nothing where nothing changes, and by hand where something does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from audit.conversation import Turn
from tests.train.conftest import picture
from tests.train.rl.parts import CONFIG, PROMPTS, apart, by_hand, grouped, mirror, sampled, steps_of, transforms
from train.lora import LoraConfig, attach, detach
from train.models.family import Visual
from train.models.features import Features
from train.models.generation import Continuation
from train.models.loading import load
from train.rl.domain import Transform
from train.rl.grpo import Group, Prompt
from train.rl.rollout import asked_of
from train.rl.update import Updates, group_row
from train.rl.views import MIRRORED, original, shown


@pytest.mark.parametrize("shaping", [True, False])
@pytest.mark.parametrize("domain", [0.0, 1.0])
@pytest.mark.parametrize(("loss", "kl"), [("dapo", 0.0), ("gspo", 0.04)])
def test_the_identity_transform_is_plain_grpo(
    loaded: Any, policy: Any, features: Any, groups: list[Group], shaping: bool, domain: float, loss: Any, kl: float
) -> None:
    groups = [*groups[:2], replace(groups[2], advantages=0 * groups[2].advantages)]  # read for the constraint alone
    config = replace(CONFIG, shaping=shaping, domain_weight=domain, loss=loss, kl=kl)
    plain, wanted, once = steps_of(loaded, policy, features, groups, config)
    found, gradient, forwards = steps_of(loaded, policy, features, groups, config, transforms(loaded, "identity"))
    assert (once, forwards) == (1 + bool(kl), 1 + bool(kl) + bool(shaping or domain))
    assert found["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert apart(gradient, wanted) <= 1e-6
    if shaping or domain:
        assert abs(found["domain_kl"]) <= 1e-6 and abs(found["domain_js"]) <= 1e-6
        assert "1:48:32#unchanged" in features.kept  # really read


def test_the_mirror_asks_the_mirrored_question(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    """KL and JS against a second policy worked out by hand: mirrored picture, swapped words, swapped vocabulary."""
    ids = {
        w: loaded.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("left", "right", " left", " right")
    }
    order = list(range(512))
    for lead in ("", " "):
        order[ids[f"{lead}left"]], order[ids[f"{lead}right"]] = ids[f"{lead}right"], ids[f"{lead}left"]
    begun = list(order)  # behind a letter, "left" goes on with a word and is not swapped
    begun[ids["left"]], begun[ids["right"]] = ids["left"], ids["right"]
    wanted = by_hand(loaded, policy, features, groups, mirror(loaded), order, begun)
    assert 0 < wanted.gated < 1
    found, _, forwards = steps_of(
        loaded, policy, features, groups, replace(CONFIG, domain_weight=0.7), [mirror(loaded)]
    )
    assert forwards == 2
    assert found["domain_kl"] == pytest.approx(wanted.kl, rel=1e-3)
    assert found["domain_js"] == pytest.approx(wanted.js, rel=1e-3)
    assert found["loss"] == pytest.approx(0.7 * wanted.kl + wanted.policy, abs=1e-4)


@pytest.mark.parametrize("kind", ["rotate-90", "rotate-270"])
def test_a_turned_picture_has_a_grid_and_positions_of_its_own(
    loaded: Any, policy: Any, features: Any, kind: str
) -> None:
    """Pictures that are not square: width and height change places, and so do rows and columns of visual tokens."""
    plain = [replace(p, turns=(Turn("user", "Is it red?"),)) for p in PROMPTS]
    groups = sampled(loaded, policy, features, prompts=plain)
    (turn,) = transforms(loaded, kind)
    assert turn.rule.kind.turned
    updates = Updates(loaded, policy, features, CONFIG, [turn])
    material = updates._material(groups, 0, 0.0)
    for row, other, square in zip(material.rows, material.turned, (False, False, True), strict=True):
        assert np.array_equal(row.ids, other.ids) == (len(row.ids) == len(other.ids))
        assert np.array_equal(row.positions, other.positions) == square
        (name, _, count), (turned, _, many) = row.images[0], other.images[0]
        assert turned == name + turn.suffix and many == features.grid(turned)[0] * features.grid(turned)[1]
        assert features.grid(turned) == features.grid(name)[::-1] and count == many
    wanted = by_hand(loaded, policy, features, groups, turn)
    assert wanted.gated < 0.5  # some say left or right, which no swap makes right
    found, _, _ = steps_of(loaded, policy, features, groups, replace(CONFIG, domain_weight=0.7), [turn])
    assert found["domain_kl"] == pytest.approx(wanted.kl, rel=1e-3)
    assert found["domain_js"] == pytest.approx(wanted.js, rel=1e-3)
    assert found["loss"] == pytest.approx(0.7 * wanted.kl + wanted.policy, abs=1e-4)


class Symmetric(Features):
    """Features that are the same for a picture and its mirror image, each column as the one across from it."""

    def of(self, image_id: str) -> Visual:
        rows, columns = self.grid(image_id)
        plain, turned = super().of(original(image_id)), super().of(original(image_id) + MIRRORED)
        both = (plain.tokens + turned.tokens).reshape(rows, columns, -1)
        return replace(plain, tokens=((both + both.flip(1)) / 4).reshape(rows * columns, -1))


def test_a_policy_without_sides_agrees_with_its_mirror_image(tiny_model: Any, loaded: Any) -> None:
    """Made so: pictures and their mirror images look alike to it, and left and right are one word to it."""
    blind = load(tiny_model, "fp32", "cpu")
    blind = replace(blind, family=loaded.family, encoder=loaded.encoder)
    turn, inner = mirror(blind), blind.model
    moved = torch.from_numpy(np.flatnonzero(turn.permutation != np.arange(len(turn.permutation))))
    seeing = Features(blind, lambda name: shown(picture(*map(int, original(name).split(":"))), name))
    policy = attach(blind, LoraConfig(4, 8))
    try:
        groups = sampled(blind, policy, seeing)
        before, _, _ = steps_of(blind, policy, seeing, groups, CONFIG, [turn])
        with torch.no_grad():
            for weight in (inner.get_input_embeddings().weight, inner.get_output_embeddings().weight):
                weight[moved] = (weight[moved] + weight[torch.from_numpy(turn.permutation)[moved]]) / 2
        features = Symmetric(blind, seeing.image)
        after, gradient, forwards = steps_of(blind, policy, features, groups, CONFIG, [turn])
        _, wanted, _ = steps_of(blind, policy, features, groups, CONFIG)
    finally:
        detach(policy)
    assert before["domain_js"] > 1e-3 and forwards == 2
    assert abs(after["domain_kl"]) < 1e-6 and abs(after["domain_js"]) < 1e-6
    assert apart(gradient, wanted) < 1e-4


def test_the_mirror_swaps_left_and_right(loaded: Any, policy: Any, features: Any) -> None:
    turn = mirror(loaded)
    assert np.array_equal(turn.permutation[turn.permutation], np.arange(len(loaded.tokenizer)))
    said = loaded.tokenizer("left right, not red or Left", add_special_tokens=False)["input_ids"]
    group = grouped(PROMPTS[0], [Continuation((*said, 2), (), True), Continuation((2,), (), True)], ("", ""), (0, 1))
    row = group_row(asked_of(loaded, features, PROMPTS[0], ()), group.completions)
    turned = Updates(loaded, policy, features, CONFIG, [turn])._turned(group, turn, np.ones(2, bool), 0.0)
    text = loaded.tokenizer.decode(turned.ids, skip_special_tokens=True)
    assert "Is the right lesion visible?" in text and "right left, not red or Left" in text
    assert turned.images == tuple((name + MIRRORED, at, n) for name, at, n in row.images)
    assert np.array_equal(turn.swap(turned.ids), row.ids)
    image = picture(1, 48, 32)
    assert np.array_equal(np.asarray(turn.rule.kind.apply(image)), np.asarray(image)[:, ::-1])


def test_words_that_cannot_be_swapped_are_gated_out(loaded: Any) -> None:
    turn = mirror(loaded)  # "Left" and "Right" are several tokens here
    assert turn.applies("Is it?", "the left one is red")
    assert not turn.applies("Is it?", "it is bright")  # here b and right: its tokens would say bleft
    assert not turn.applies("Is it?", "Left of it") and not turn.applies("Is it?", "It is: Right.")


def test_logits_past_the_tokenizers_last_id_stay_in_place(loaded: Any) -> None:
    turn = mirror(loaded)
    logits = torch.arange(512.0)[None]
    back = turn.back(logits)
    assert back[0, 327:].tolist() == logits[0, 327:].tolist()
    assert torch.equal(turn.back(back), logits) and not torch.equal(back, logits)


def test_what_was_said_is_gated_by_its_own_tokens(loaded: Any, policy: Any, features: Any) -> None:
    """The policy may spell a word as the tokenizer never would: its tokens cannot be swapped, whatever they say."""
    turn, tokenizer = mirror(loaded), loaded.tokenizer
    whole = tokenizer("left", add_special_tokens=False)["input_ids"]
    pieces = [i for letter in "left" for i in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert len(whole) == 1 and tokenizer.decode(pieces) == tokenizer.decode(whole) == "left"
    assert turn.applies("Where?", "left")  # as the tokenizer spells it
    said = [Continuation((*ids, 2), (), True) for ids in (whole, pieces)]
    group = grouped(PROMPTS[1], said, ("left", "left"), (0, 1))
    material = Updates(loaded, policy, features, CONFIG, [turn])._material([group], 0, 0.0)
    assert [each.tolist() for each in material.applies] == [[True, False]]
    prefix = tuple(pieces)  # and so is what it was given
    given = grouped(PROMPTS[1], [Continuation((2,), (), True)] * 2, ("", ""), (0, 1), prefix)
    assert Updates(loaded, policy, features, CONFIG, [turn])._material([given], 0, 0.0).transform is None


def test_a_word_may_begin_in_the_prefix(loaded: Any, policy: Any, features: Any) -> None:
    """What is read is what was given and said as one text: neither a word across the border nor its space is lost."""

    def applies(turn: Transform, given: str, said: str) -> bool:
        prefix, ids = (tuple(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (given, said))
        group = grouped(PROMPTS[1], [Continuation((*ids, 2), (), True)] * 2, (said.strip(),) * 2, (0, 1), prefix)
        return Updates(loaded, policy, features, CONFIG, [turn])._material([group], 0, 0.0).transform is not None

    (half,) = transforms(loaded, "rotate-180")
    assert applies(half, "It is", " red") and not applies(half, "It is", " lower")
    assert applies(mirror(loaded), "It is", " left")
    assert not applies(mirror(loaded), "It is b", "right") and not applies(mirror(loaded), "It is le", "ft")


def test_transforms_take_turns_and_give_them_away(loaded: Any, policy: Any, features: Any) -> None:
    """A step's transform is the one whose turn it is, or the next that may be put on some completion."""
    three = transforms(loaded, "mirror", "rotate-180", "flip-vertical")
    updates = Updates(loaded, policy, features, CONFIG, three)

    def drawn(step: int, *questions: str) -> str:
        asked = [Prompt("1:32:32", (Turn("user", question),), "", "") for question in questions]
        told = [grouped(p, [Continuation((2,), (), True)] * 2, ("", ""), (0, 1)) for p in asked]
        found = updates._material(told, step, 0.0)
        assert len(found.applies) == len(told) and len(found.turned) == (len(told) if found.transform else 0)
        return found.transform.name if found.transform else ""

    left, top, both = "Is it left?", "Is it on top?", "Is it in the upper left?"
    assert [drawn(step, "Is it red?") for step in range(4)] == ["mirror", "rotate-180", "flip-vertical", "mirror"]
    assert {drawn(step, left) for step in range(4)} == {"flip-vertical"}
    assert {drawn(step, top) for step in range(4)} == {"mirror"}
    assert [drawn(step, left, top) for step in range(3)] == ["mirror", "flip-vertical", "flip-vertical"]
    assert drawn(0, both) == drawn(1) == ""
