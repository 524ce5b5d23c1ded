"""The domain constraint in the update: nothing where nothing changes, and by hand where something does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from audit.conversation import Turn
from tests.train.conftest import picture
from tests.train.rl.parts import CONFIG, PROMPTS, alone, apart, grouped, mirror, steps_of, transforms
from train.models.generation import Continuation
from train.rl.grpo import Group, Prompt
from train.rl.rollout import asked_of
from train.rl.update import Updates, group_row
from train.rl.views import MIRRORED


@pytest.mark.parametrize("shaping", [True, False])
@pytest.mark.parametrize("domain", [0.0, 1.0])
def test_the_identity_transform_is_plain_grpo(
    loaded: Any, policy: Any, features: Any, groups: list[Group], shaping: bool, domain: float
) -> None:
    config = replace(CONFIG, shaping=shaping, domain=domain)
    plain, wanted, once = steps_of(loaded, policy, features, groups, config)
    found, gradient, forwards = steps_of(loaded, policy, features, groups, config, transforms(loaded, "identity"))
    assert (once, forwards) == (1, 2 if shaping or domain else 1)
    assert found["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert apart(gradient, wanted) <= 1e-6
    if forwards == 2:
        assert abs(found["domain_kl"]) <= 1e-6 and abs(found["domain_js"]) <= 1e-6
        assert features.computed == 6  # the pictures under their other names were really read


def test_the_mirror_asks_the_mirrored_question(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    """KL and JS against a second policy worked out by hand: mirrored picture, swapped words, swapped vocabulary."""
    swap, turn = {"left": "right", "right": "left"}, mirror(loaded)
    ids = {
        w: loaded.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("left", "right", " left", " right")
    }
    order = list(range(512))
    for lead in ("", " "):
        order[ids[f"{lead}left"]], order[ids[f"{lead}right"]] = ids[f"{lead}right"], ids[f"{lead}left"]
    begun = list(order)  # behind a letter, "left" goes on with a word and is not swapped
    begun[ids["left"]], begun[ids["right"]] = ids["left"], ids["right"]
    kls, jss, advantages = [], [], []
    with torch.no_grad():
        for g in groups:
            words = g.prompt.turns[0].text.split(" ")
            turned = Prompt(g.prompt.image + MIRRORED, (Turn("user", " ".join(swap.get(w, w) for w in words)),), "", "")
            for advantage, said, text in zip(g.advantages, g.completions, g.texts, strict=True):
                if not said.ended:
                    continue
                other = Continuation(tuple(order[i] for i in said.ids), (), True)
                log_p = torch.log_softmax(alone(loaded, policy, features, g.prompt, said).double(), -1)
                log_d = torch.log_softmax(alone(loaded, policy, features, turned, other).double(), -1)
                before = ["\n", *(loaded.tokenizer.decode([i]) for i in said.ids[:-1])]
                rows = [row[begun if b[-1:].isalnum() else order] for row, b in zip(log_d, before, strict=True)]
                log_d = torch.stack(rows)
                gate = float(turn.applies(g.prompt.turns[0].text, text, (said.ids,)) and "Left" not in words[-1])
                middle = (log_p.exp() + log_d.exp()).div(2).log()
                kl = (log_d.exp() * (log_d - log_p)).sum(-1)
                js = ((log_p.exp() * (log_p - middle)).sum(-1) + (log_d.exp() * (log_d - middle)).sum(-1)) / 2
                kls.append(kl * gate)
                jss.append(js * gate / np.log(2))
                advantages.append(torch.full((len(said.ids),), float(advantage), dtype=torch.double))
    kl, js, a = torch.cat(kls), torch.cat(jss), torch.cat(advantages)
    assert float((kl > 0).double().mean()) not in (0.0, 1.0)  # some are gated out, some are not
    found, _, forwards = steps_of(loaded, policy, features, groups, replace(CONFIG, domain=0.7), [turn])
    assert forwards == 2
    assert found["domain_kl"] == pytest.approx(float(kl.mean()), rel=1e-3)
    assert found["domain_js"] == pytest.approx(float(js.mean()), rel=1e-3)
    assert found["loss"] == pytest.approx(float(0.7 * kl.mean() - (a * (1 - js)).mean()), abs=1e-4)


def test_the_mirror_swaps_left_and_right(loaded: Any, policy: Any, features: Any) -> None:
    turn = mirror(loaded)
    assert np.array_equal(turn.permutation[turn.permutation], np.arange(len(loaded.tokenizer)))
    said = loaded.tokenizer("left right, not red or Left", add_special_tokens=False)["input_ids"]
    group = grouped(PROMPTS[0], [Continuation((*said, 2), (), True), Continuation((2,), (), True)], ("", ""), (0, 1))
    row = group_row(asked_of(loaded, features, PROMPTS[0], ()), group.completions)
    turned = Updates(loaded, policy, features, CONFIG, [turn])._turned(group, turn, 0.0)
    text = loaded.tokenizer.decode(turned.ids, skip_special_tokens=True)
    assert "Is the right lesion visible?" in text and "right left, not red or Left" in text
    assert turned.images == tuple((name + MIRRORED, at, n) for name, at, n in row.images)
    assert np.array_equal(turn.swap(turned.ids), row.ids)
    image = picture(1, 48, 32)
    assert np.array_equal(np.asarray(turn.apply(image)), np.asarray(image)[:, ::-1])


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


def test_transforms_take_turns_and_give_them_away(loaded: Any, policy: Any, features: Any) -> None:
    """A step's transform is the one whose turn it is, or the next that may be put on some completion."""
    three = transforms(loaded, "mirror", "rotate-180", "flip-vertical")
    updates = Updates(loaded, policy, features, CONFIG, three)

    def drawn(step: int, *questions: str) -> str:
        asked = [Prompt("1:32:32", (Turn("user", question),), "", "") for question in questions]
        told = [grouped(p, [Continuation((2,), (), True)] * 2, ("", ""), (0, 1)) for p in asked]
        found = updates._material(told, step, 0.0)
        assert len(found.turned) == len(found.applies) == (len(told) if found.transform else 0)
        return found.transform.name if found.transform else ""

    left, top, both = "Is it left?", "Is it on top?", "Is it in the upper left?"
    assert [drawn(step, "Is it red?") for step in range(4)] == ["mirror", "rotate-180", "flip-vertical", "mirror"]
    assert {drawn(step, left) for step in range(4)} == {"flip-vertical"}
    assert {drawn(step, top) for step in range(4)} == {"mirror"}
    assert [drawn(step, left, top) for step in range(3)] == ["mirror", "flip-vertical", "flip-vertical"]
    assert drawn(0, both) == drawn(1) == ""
