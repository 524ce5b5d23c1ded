"""A tiny random SmolVLM2, its tokenizer as in SmolVLM2-2.2B-Instruct: every name of a tile is a token of its own."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.train.families.case import Case
from tests.train.families.idefics3 import MARKS, called, write_model, write_processor, write_tokenizer

TILES = tuple(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))
SPECIAL = ("<|im_start|>", "<|endoftext|>", "<|im_end|>", *MARKS, "<global-img>", *TILES)
"""Special tokens; the ids are their places in this tuple."""


def write(directory: Path) -> Path:
    """Tiles of 44 pixels that patches of 7 do not fill, 3 x 3 patches a token: 4 tokens a tile, 2 x 2 tiles at most."""
    write_model(directory, "smolvlm", SPECIAL, {"image_size": 44, "patch_size": 7}, 3)
    write_tokenizer(directory, SPECIAL, "<|im_start|>", "<end_of_utterance>", "<|im_end|>", opens=False)
    write_processor(directory, "SmolVLM", 44, 88, 4)
    return directory


def processor(directory: Path) -> Callable[[str, Sequence[Image.Image]], Any]:
    """transformers' PIL image processor and the tokenizer, as its own processor joins them (that needs torchvision)."""
    from transformers import AutoTokenizer, ProcessorMixin
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

    class WithoutVideo(SmolVLMProcessor):
        """SmolVLM's processor for images alone."""

        def __init__(self, image_processor: Any, tokenizer: Any, image_seq_len: int = 0) -> None:
            self.image_token, self.fake_image_token, self.global_image_token = MARKS[1], MARKS[0], "<global-img>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token, self.image_seq_len = "<video>", image_seq_len
            ProcessorMixin.__init__(self, image_processor, tokenizer)

        @classmethod
        def get_attributes(cls) -> list[str]:
            """The parts of the processor."""
            return ["image_processor", "tokenizer"]

    run = json.loads((directory / "processor_config.json").read_text())["image_seq_len"]
    parts = SmolVLMImageProcessorPil.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    return called(WithoutVideo(*parts, image_seq_len=run))


CASE = Case("smolvlm", write, processor, ((48, 32), (128, 128), (20, 90)), golden=6.720878, lora_linears=14)
