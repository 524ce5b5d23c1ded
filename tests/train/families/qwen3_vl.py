"""A tiny random Qwen3-VL, dense, with two deepstack layers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.train.conftest import SPECIAL, tokenizer_of
from tests.train.families import qwen2_vl
from tests.train.families.case import Case, randomised

PREPROCESSOR = {
    "size": {"longest_edge": 256 * 256, "shortest_edge": 64 * 64}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast",
}  # fmt: skip
"""What Qwen/Qwen3-VL-4B-Instruct writes, with smaller pictures."""


def write(directory: Path) -> Path:
    """A whole model directory; embedding and head are tied, as in the 2B and the 4B."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    token = {name: index for index, name in enumerate(SPECIAL)}
    ends = {"bos_token_id": 0, "eos_token_id": token["<|im_end|>"], "pad_token_id": 0}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": True, **ends,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 4, "hidden_size": 256, "intermediate_size": 256, "num_heads": 4, "patch_size": 16,
            "out_hidden_size": 256, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2],
            "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True, **ends,
    )  # fmt: skip
    randomised(Qwen3VLForConditionalGeneration(config)).save_pretrained(directory)
    tokenizer_of().save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
    return directory


def processor(directory: Path) -> Callable[[str, Sequence[Image.Image]], Any]:
    """transformers' own processor of Qwen3-VL."""
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    return qwen2_vl.processor(directory, Qwen3VLProcessor)


CASE = Case("qwen3_vl", write, processor, ((96, 64), (192, 192), (140, 50)), golden=6.489314, lora_linears=21)
"""The learned grid of 6 x 6 positions is stretched to 6 x 4 patches, to 12 x 12 and to what 140 x 50 is brought to."""
