"""A tiny random Llama-3.2-Vision."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.train.conftest import tokenizer_of
from tests.train.families.case import Case, randomised

LLAMA = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|python_tag|>", "<|finetune_right_pad_id|>", "<|image|>",
)  # fmt: skip
"""Llama 3.2's special tokens; the image token comes last, one past what the head can say."""
TEMPLATE = (
    "{{ bos_token }}{% set seen = namespace(images=false) %}"
    "{% for message in messages %}{% if message['content'] is not string %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set seen.images = true %}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if not seen.images %}<|start_header_id|>system<|end_header_id|>\n\nThe slice.<|eot_id|>{% endif %}"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""As Meta's: the image token stands bare in the text, and a dialogue without images opens with the system."""
SIDE, PATCH = 32, 8


def tokenizer() -> Any:
    """The other tests' BPE with Llama's special tokens behind it and its beginning of text put first."""
    from tokenizers.processors import TemplateProcessing

    found = tokenizer_of()
    found.add_special_tokens({
        "bos_token": LLAMA[0], "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>",
        "extra_special_tokens": [*LLAMA],
    })  # fmt: skip
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{LLAMA[0]} $A", special_tokens=[(LLAMA[0], found.convert_tokens_to_ids(LLAMA[0]))]
    )
    found.chat_template = TEMPLATE
    return found


def config(ids: dict[str, int]) -> Any:
    """Vision 4 layers and 2 global ones, four tiles; language 5 x 256 of which the second and fourth cross over."""
    from transformers import MllamaConfig

    return MllamaConfig(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 4, "num_global_layers": 2, "attention_heads": 4,
            "intermediate_size": 128, "vision_output_dim": 64 * 3, "image_size": SIDE, "patch_size": PATCH,
            "max_num_tiles": 4, "intermediate_layers_indices": [1, 2],
        },
        text_config={
            "vocab_size": ids["<|image|>"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 5,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "cross_attention_layers": [1, 3], "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": ids["<|begin_of_text|>"], "eos_token_id": ids["<|eot_id|>"],
            "pad_token_id": ids["<|finetune_right_pad_id|>"],
        },
        image_token_index=ids["<|image|>"],
    )  # fmt: skip


def write(directory: Path) -> Path:
    """The gates are moved too: at 0, where they begin, nothing of an image would reach the text."""
    import torch
    from transformers import MllamaForConditionalGeneration

    words = tokenizer()
    ids = {name: words.convert_tokens_to_ids(name) for name in LLAMA}
    torch.manual_seed(0)
    model = randomised(MllamaForConditionalGeneration(config(ids)), [ids["<|eot_id|>"]])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name and weight.numel() == 1:
                weight.copy_(torch.rand(1) + 0.4)
    model.generation_config.eos_token_id = [ids["<|end_of_text|>"], ids["<|eot_id|>"]]
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    processor = {
        "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_processor_type": "MllamaImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711], "max_image_tiles": 4, "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": SIDE, "width": SIDE},
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    return directory


def processor(directory: Path) -> Callable[[str, Sequence[Image.Image]], Any]:
    """transformers' own processor over its PIL image processor."""
    from transformers import AutoTokenizer
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
    from transformers.models.mllama.processing_mllama import MllamaProcessor

    both = MllamaProcessor(MllamaImageProcessorPil.from_pretrained(directory), AutoTokenizer.from_pretrained(directory))

    def inputs(text: str, images: Sequence[Image.Image]) -> Any:
        return both(
            text=[text], images=[list(images)] if images else None, add_special_tokens=False, return_tensors="pt"
        )

    return inputs


CASE = Case(
    "mllama", write, processor, ((20, 24), (64, 32), (90, 31), (57, 61), (33, 200)), golden=6.583296, lora_linears=35
)
