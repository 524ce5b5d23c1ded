"""Generation: against transformers' own generate, against teacher forcing, and rows that leave the batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from audit.conversation import Turn
from tests.benchmarks.peer import reference
from train.data.encode import Encoded, continued
from train.data.rows import collate, shared_row
from train.models.forward import learned_logits
from train.models.generation import Continuation, Sampling, generate, text_of

ASKED = (
    ("1:48:32", "Is the lesion visible?"), ("2:128:64", "What plane and where is the red lesion in this slice?"),
    ("", "No?"), ("3:16:80", "Where?"), ("1:48:32", "left or right"),
)  # fmt: skip


@pytest.fixture
def prompts(loaded: Any, features: Any) -> list[Encoded]:
    """Five questions, four with pictures of three sizes."""
    return [
        loaded.encoder.prompt([Turn("user", q)], (i,) if i else (), [features.grid(i)] if i else []) for i, q in ASKED
    ]


def forced(loaded: Any, features: Any, prompt: Encoded, said: Continuation, temperature: float) -> list[float]:
    """Log-probabilities of a continuation by one forward pass."""
    batch = collate([shared_row([continued(prompt, said.ids)])], 0)
    with torch.inference_mode():
        logits = learned_logits(loaded.family, loaded.model, batch, features.stack(batch.images)) / (temperature or 1.0)
    return torch.log_softmax(logits, -1).gather(1, batch.targets[:, None])[:, 0].tolist()


def test_greedy_is_what_transformers_generates(loaded: Any, features: Any, prompts: list[Encoded]) -> None:
    found = generate(loaded, prompts, features, Sampling(12))
    wanted = [reference(loaded, features, p, 12) for p in prompts]
    assert [list(c.ids) for (c,) in found] == wanted
    assert len({tuple(w) for w in wanted}) > 2
    for (c,), w in zip(found, wanted, strict=True):
        assert c.ended == (w[-1] in loaded.stops)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_logprobs_are_those_of_teacher_forcing(
    loaded: Any, features: Any, prompts: list[Encoded], temperature: float
) -> None:
    found = generate(loaded, prompts, features, Sampling(10, temperature, 3 if temperature else 1, seed=4))
    for prompt, samples in zip(prompts, found, strict=True):
        for said in samples:
            assert len(said.ids) == len(said.logprobs)
            assert list(said.logprobs) == pytest.approx(forced(loaded, features, prompt, said, temperature), abs=2e-4)


def test_samples_differ_and_follow_the_seed(loaded: Any, features: Any, prompts: list[Encoded]) -> None:
    how = Sampling(8, 1.0, samples=4, seed=1)
    first = generate(loaded, prompts, features, how)
    assert [len(samples) for samples in first] == [4] * len(prompts)
    assert all(len({c.ids for c in samples}) > 1 for samples in first)
    torch.manual_seed(99)  # the world's randomness is not ours
    assert generate(loaded, prompts, features, how) == first
    assert generate(loaded, prompts, features, replace(how, seed=2)) != first


def test_samples_are_drawn_at_the_stated_temperature(loaded: Any, features: Any, prompts: list[Encoded]) -> None:
    """First tokens of many samples against the softmax that one forward pass gives."""
    prompt, temperature, draws = prompts[0], 0.5, 2000
    samples = generate(loaded, [prompt], features, Sampling(1, temperature, draws, seed=3, batch=draws))[0]
    batch = collate([shared_row([continued(prompt, [0])])], 0)
    with torch.inference_mode():
        wanted = torch.softmax(
            learned_logits(loaded.family, loaded.model, batch, features.stack(batch.images))[0] / temperature, -1
        )
    counts = torch.bincount(torch.tensor([c.ids[0] for c in samples]), minlength=len(wanted)) / draws
    assert float((counts - wanted).abs().max()) < 5 * (0.25 / draws) ** 0.5
    top = int(wanted.argmax())
    assert abs(float(counts[top] - wanted[top])) < 4 * float(wanted[top] * (1 - wanted[top]) / draws) ** 0.5


def test_rows_that_end_leave_the_others_as_they_are(loaded: Any, features: Any, prompts: list[Encoded]) -> None:
    """Each stop set ends other rows at other steps; what every row says is what it says alone, cut at its stop."""
    whole = [list(c.ids) for (c,) in generate(loaded, prompts, features, Sampling(12, stops=frozenset()))]
    assert all(len(ids) == 12 for ids in whole)
    tried = 0
    for stop in {ids[k] for ids in whole for k in range(6)}:
        found = generate(loaded, prompts, features, Sampling(12, stops=frozenset({stop})))
        for (said,), ids in zip(found, whole, strict=True):
            cut = ids.index(stop) + 1 if stop in ids else 12
            assert list(said.ids) == ids[:cut]
            assert said.ended == (stop in ids)
        tried += any(stop in ids for ids in whole) and not all(stop in ids for ids in whole)
    assert tried >= 3


def test_the_batch_size_changes_nothing_for_greedy(loaded: Any, features: Any, prompts: list[Encoded]) -> None:
    done: list[tuple[int, int]] = []
    alone = generate(loaded, prompts, features, Sampling(8, batch=1), progress=lambda d, n: done.append((d, n)))
    assert [c[0].ids for c in alone] == [c[0].ids for c in generate(loaded, prompts, features, Sampling(8))]
    assert done == [(k + 1, 5) for k in range(5)]


def test_what_prompts_have_in_common_is_read_once(loaded: Any, features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        loaded.encoder.prompt(
            [Turn("user", "What?"), Turn("assistant", "A slice."), Turn("user", q)], (i,), [features.grid(i)]
        )
        for i in ("1:48:32", "2:128:64")
        for q in ("Where?", "Is the lesion left?", "What plane and where is the red lesion?")
    ]
    widths: list[tuple[int, ...]] = []
    language = loaded.model.model.language_model
    forward = language.forward
    monkeypatch.setattr(
        language, "forward", lambda **kw: widths.append(tuple(kw["inputs_embeds"].shape[:2])) or forward(**kw)
    )
    found = generate(loaded, asked, features, Sampling(8))
    read, widths[:] = widths[:2], []
    alone = [generate(loaded, [p], features, Sampling(8))[0] for p in asked]
    assert [c[0].ids for c in found] == [c[0].ids for c in alone]
    assert read[0][0] == 2 and read[1][0] == 6  # two beginnings, six ends
    whole = sum(width for rows, width in widths if rows == 1 and width > 1)
    assert read[0][0] * read[0][1] + read[1][0] * read[1][1] < 0.7 * whole


def test_a_prompt_with_nothing_in_common_goes_on_beside_those_that_have(loaded: Any, features: Any) -> None:
    asked = (("1:48:32", "Where?"), ("1:48:32", "No?"), ("2:128:64", "What plane and where is it?"), ("", "Is it red?"))
    prompts = [
        loaded.encoder.prompt([Turn("user", q)], (i,) if i else (), [features.grid(i)] if i else []) for i, q in asked
    ]
    found = generate(loaded, prompts, features, Sampling(8))
    assert [list(c.ids) for (c,) in found] == [reference(loaded, features, p, 8) for p in prompts]


def test_unlikely_tokens_are_not_drawn(loaded: Any, features: Any, prompts: list[Encoded]) -> None:
    greedy = generate(loaded, prompts, features, Sampling(6))
    tight = generate(loaded, prompts, features, Sampling(6, temperature=2.0, min_p=0.999999))
    assert [c[0].ids for c in tight] == [c[0].ids for c in greedy]
    assert all(score > -1e-3 for c in tight for score in c[0].logprobs)


def test_the_end_token_is_kept_and_its_text_is_not(loaded: Any) -> None:
    ids = (*loaded.tokenizer(" Yes. ", add_special_tokens=False)["input_ids"], loaded.tokenizer.eos_token_id)
    assert text_of(loaded, Continuation(tuple(ids), (0.0,) * len(ids), True)) == "Yes."
