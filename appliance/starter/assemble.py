"""Put tower, language model and tokenizer together as a transformers directory, with its model card."""

import json
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

from appliance.starter.architecture import config
from appliance.starter.resuming import weights


def assemble(work: Path, words: Path, out: Path) -> None:
    """Write the model directory: float16 weights, config, tokenizer, template, processor.

    Args:
        work: holds tower.safetensors and speech.safetensors.
        words: holds the tokenizer's files.
    """
    model = Qwen2VLForConditionalGeneration._from_config(config())
    model.model.visual.load_state_dict(weights(work / "tower.safetensors", "tower"))
    model.model.language_model.load_state_dict(weights(work / "speech.safetensors", "model"))
    model.tie_weights()
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, do_sample=False)
    model.to(torch.float16).save_pretrained(out)
    (out / "cloche.json").write_text(json.dumps({"judge_shots": 0, "known_words": 0.02}) + "\n")
    for file in words.iterdir():
        shutil.copyfile(file, out / file.name)


def write_card(out: Path, scores: dict[str, float], floors: dict[str, float], trained: dict[str, object]) -> None:
    """MODEL_CARD.md and scores.json beside the weights."""
    (out / "scores.json").write_text(
        json.dumps({"scores": scores, "floors": floors, "trained": trained}, indent=2) + "\n"
    )
    rows = "\n".join(f"| {k} | {v:.1%} | {floors[k]:.0%} |" for k, v in scores.items())
    (out / "MODEL_CARD.md").write_text(CARD.format(rows=rows, **trained))


CARD = """# The Cloche starter

A demonstration and a test bed, **not a medical product**. A Qwen2-VL-architecture model of {parameters:.1f} million
parameters (vision 4 x 192, language 6 x 256, 1,024 tokens of its own BPE), trained from scratch by
`appliance/starter` on drawn general pictures and on invented reports whose names are random syllables and letters.
No medical image, word or report was in its training; brain MRI is unseen by it.

Trained for {steps:,} language steps ({tokens:.1f} million tokens) after {tower:,} tower steps, on two CPU cores.

| exam (held-out, greedy, exact match) | score | floor |
|---|---|---|
{rows}

It describes drawn pictures, answers short questions about them (precise, informative, with a rationale), continues a
caption into instruction / precise / informative turns while copying names it never saw, and judges whether a precise
answer follows from an informative one (Yes, No, Open). It knows nothing else.

Licence: Apache-2.0. Made with `make starter`; the recipe resumes where it was cut off.
"""
