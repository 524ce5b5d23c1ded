"""A tiny random LLaVA-NeXT with a language model of Llama 3's shape; its tower and processor serve other rows too."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.train.families.case import Case, randomised

TILE = 16
"""Pixels on a side of a tile: 4 x 4 tokens of 4 x 4 pixels."""
PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
"""(height, width) of the five resolutions of v1.6, at 16 pixels a tile in place of 336."""
SIZES = ((48, 32), (128, 128), (21, 60), (31, 29), (9, 40))
"""Wide, square, tall, odd by odd (where unpadding rounds), and smaller than a tile."""
SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>",
)  # fmt: skip
"""Special tokens; the ids are their places in this tuple."""
PRE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenizer."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LINES = "Is the left right red lesion visible in this slice? Yes. No. What plane and where? USER: ASSISTANT: Ünï 12"


def sentences() -> list[str]:
    """Made sentences that a tokenizer is trained on."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(re.findall(r"\S+", LINES), 8)) for _ in range(400)]


def tokenizer() -> Any:
    """Byte-level BPE that begins a text with its bos by itself, as Llama 3's does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    core.train_from_iterator(sentences(), trainer)
    core.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)]),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=SPECIAL[0], eos_token="<|eot_id|>", pad_token=SPECIAL[1],
        chat_template=TEMPLATE, extra_special_tokens=list(SPECIAL[2:4]) + ["<image>"],
    )  # fmt: skip


def write_with(directory: Path, words: Any, seed: int = 0, **more: Any) -> Path:
    """Tower, projector and language model of one small size, and the files of the image processor.

    Args:
        words: the tokenizer.
        more: fields of LlavaNextConfig in place of ours.
    """
    import torch
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = LlavaNextConfig(
        text_config={
            "model_type": "llama", "vocab_size": len(words), "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, **ends,
        },
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": TILE, "patch_size": 4, "projection_dim": 64,
        },
        image_grid_pinpoints=PINPOINTS, image_token_index=words.convert_tokens_to_ids("<image>"),
        **{"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "image_seq_length": 16} | more,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = randomised(LlavaNextForConditionalGeneration(config))
    with torch.no_grad():
        model.lm_head.weight[words.eos_token_id].mul_(4)  # so that some answers end
    model.generation_config.update(**ends)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    made = {
        "image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": TILE},
        "crop_size": {"height": TILE, "width": TILE}, "image_grid_pinpoints": PINPOINTS, "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(made, indent=2))
    return directory


def write(directory: Path) -> Path:
    """A whole model directory."""
    return write_with(directory, tokenizer())


def processor(directory: Path) -> Callable[[str, Sequence[Image.Image]], Any]:
    """transformers' own processor, which adds a bos where the rendered text has none (``apply_chat_template``)."""
    from transformers import AutoTokenizer
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    class WithoutTorchvision(LlavaNextProcessor):
        """The same on PIL's image processor."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            """The parts of the processor."""
            return ["image_processor", "tokenizer"]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            """Let PIL's image processor in."""
            return type(argument)

    both = WithoutTorchvision(
        LlavaNextImageProcessorPil.from_pretrained(directory), AutoTokenizer.from_pretrained(directory),
        patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip

    def run(text: str, images: Sequence[Image.Image]) -> Any:
        bos = both.tokenizer.bos_token
        return both(
            text=[text], images=list(images) or None, return_tensors="pt", add_special_tokens=not text.startswith(bos)
        )

    return run


CASE = Case("llava_next", write, processor, SIZES, golden=5.729908, lora_linears=14)
