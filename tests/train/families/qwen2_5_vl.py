"""A tiny random Qwen2.5-VL: windows of 4 x 4 visual tokens, as in the releases, and every second layer whole."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.train.conftest import SPECIAL, tokenizer_of
from tests.train.families import qwen2_vl
from tests.train.families.case import Case, randomised

PREPROCESSOR = {
    "min_pixels": 56 * 56, "max_pixels": 280 * 280, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
}  # fmt: skip
"""What Qwen/Qwen2.5-VL-3B-Instruct writes, with smaller pictures."""


def write(directory: Path) -> Path:
    """A whole model directory; the head is not tied, as in the 7B."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    token = {name: index for index, name in enumerate(SPECIAL)}
    ends = {"bos_token_id": 0, "eos_token_id": token["<|im_end|>"], "pad_token_id": 0}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False, "use_sliding_window": False, **ends,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 4, "hidden_size": 256, "intermediate_size": 256, "num_heads": 4, "patch_size": 14,
            "window_size": 112, "fullatt_block_indexes": [1, 3], "out_hidden_size": 256, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "in_channels": 3, "tokens_per_second": 2,
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=False, **ends,
    )  # fmt: skip
    model = randomised(Qwen2_5_VLForConditionalGeneration(config))
    with torch.no_grad():
        model.lm_head.weight[token["<|im_end|>"]].mul_(4)  # so that some answers end
    model.save_pretrained(directory)
    tokenizer_of().save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
    return directory


def processor(directory: Path) -> Callable[[str, Sequence[Image.Image]], Any]:
    """transformers' own processor of Qwen2.5-VL."""
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

    return qwen2_vl.processor(directory, Qwen2_5_VLProcessor)


CASE = Case("qwen2_5_vl", write, processor, ((84, 56), (224, 224), (260, 131)), golden=6.821278, lora_linears=14)
"""3 x 2 visual tokens within one window, 8 x 8 in four whole ones, 9 x 5 in six of which most are cut."""
