"""A tiny random Qwen2-VL."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.train.conftest import write_tiny_model
from tests.train.families.case import Case


def write(directory: Path) -> Path:
    """The tiny model of the other tests, with a range of image sizes."""
    write_tiny_model(directory)
    place = directory / "preprocessor_config.json"
    limits = {"min_pixels": 256, "max_pixels": 128 * 128, "size": {"shortest_edge": 256, "longest_edge": 128 * 128}}
    place.write_text(json.dumps(json.loads(place.read_text()) | limits))
    return directory


def joined(directory: Path, kind: Any = None) -> Any:
    """transformers' PIL image processor and the tokenizer, as its own processor joins them (that needs torchvision).

    Args:
        kind: transformers' processor class; that of Qwen2-VL by default.
    """
    from transformers import AutoTokenizer, ProcessorMixin
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

    class WithoutVideo(kind or Qwen2VLProcessor):  # type: ignore[misc]
        """The processor for images alone."""

        attributes = ["image_processor", "tokenizer"]  # noqa: RUF012

        def __init__(self, image_processor: Any, tokenizer: Any) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=tokenizer.chat_template)

        @classmethod
        def get_attributes(cls) -> list[str]:
            """The parts of the processor."""
            return ["image_processor", "tokenizer"]

    return WithoutVideo(Qwen2VLImageProcessorPil.from_pretrained(directory), AutoTokenizer.from_pretrained(directory))


def processor(directory: Path, kind: Any = None) -> Callable[[str, Sequence[Image.Image]], Any]:
    """See Case."""
    both = joined(directory, kind)
    return lambda text, images: both(text=[text], images=list(images) or None, return_tensors="pt")


CASE = Case("qwen2_vl", write, processor, ((48, 32), (128, 128), (70, 25)), golden=6.897573, lora_linears=14)
