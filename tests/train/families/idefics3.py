"""A tiny random Idefics3, its tokenizer and template as in Idefics3-8B-Llama3: tiles are named in plain text."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.train.conftest import QWEN2_PRE
from tests.train.families.case import Case, randomised

TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""What stands behind the opening token in the chat_template.json of the real releases."""
MARKS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", *MARKS)
"""Special tokens; the ids are their places in this tuple."""


def write_tokenizer(directory: Path, special: Sequence[str], bos: str, eos: str, pad: str, opens: bool) -> None:
    """A byte-level BPE trained on a few made sentences; the chat template lies beside it, as the releases have it.

    Args:
        opens: the tokenizer itself puts ``bos`` before every text, as Llama-3's does.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PRE), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    words = re.findall(
        r"\S+", "User: Assistant: Is the left right red lesion visible in this slice? Yes. No. What plane and where? 12"
    )
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 8)) + "\n\n" for _ in range(400)]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(lines, trainer)
    if opens:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, special.index(bos))]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad,
        extra_special_tokens=[s for s in special if s not in (bos, eos, pad)],
    ).save_pretrained(directory)  # fmt: skip
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": bos + TEMPLATE}))


def write_model(directory: Path, kind: str, special: Sequence[str], vision: dict[str, Any], scale: int) -> None:
    """Seeded weights and a config: language 2 x 128, vision 2 x 48."""
    import torch
    import transformers

    torch.manual_seed(0)
    token = {name: index for index, name in enumerate(special)}
    end = token["<end_of_utterance>"]
    config = transformers.AutoConfig.for_model(
        kind,
        text_config={
            "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": end,
            "pad_token_id": 2, "architectures": ["VLlama3ForCausalLM"],
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, **vision,
        },
        image_token_id=token["<image>"], scale_factor=scale, tie_word_embeddings=False, pad_token_id=2,
    )  # fmt: skip
    model = randomised(transformers.AutoModelForImageTextToText.from_config(config), (end,))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [1, end], 2
    model.save_pretrained(directory)


def write_processor(directory: Path, kind: str, tile: int, longest: int, run: int) -> None:
    """preprocessor_config.json and processor_config.json with every key that the real releases have."""
    image = {
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
        "do_resize": True, "image_mean": [0.5] * 3, "image_processor_type": f"{kind}ImageProcessor",
        "image_std": [0.5] * 3, "max_image_size": {"longest_edge": tile}, "processor_class": f"{kind}Processor",
        "resample": 1, "rescale_factor": 0.00392156862745098, "size": {"longest_edge": longest},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": tile}},
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(image, indent=2))
    both = {"image_seq_len": run, "processor_class": f"{kind}Processor"}
    (directory / "processor_config.json").write_text(json.dumps(both))


def write(directory: Path) -> Path:
    """Tiles of 32 pixels, patches of 8, 2 x 2 patches a token: 4 visual tokens a tile, 3 x 3 tiles at most."""
    write_model(directory, "idefics3", SPECIAL, {"image_size": 32, "patch_size": 8}, 2)
    write_tokenizer(directory, SPECIAL, *SPECIAL[:3], opens=True)
    write_processor(directory, "Idefics3", 32, 96, 4)
    return directory


def called(both: Any) -> Callable[[str, Sequence[Image.Image]], Any]:
    """A processor as its own apply_chat_template calls it: a text that holds its opening token gets no second one."""
    return lambda text, images: both(
        text=[text], images=list(images) or None, return_tensors="pt",
        add_special_tokens=not text.startswith(both.tokenizer.bos_token),
    )  # fmt: skip


def processor(directory: Path) -> Callable[[str, Sequence[Image.Image]], Any]:
    """transformers' own processor with its PIL image processor."""
    from transformers import AutoTokenizer
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    run = json.loads((directory / "processor_config.json").read_text())["image_seq_len"]
    parts = Idefics3ImageProcessorPil.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    return called(Idefics3Processor(*parts, image_seq_len=run))


CASE = Case("idefics3", write, processor, ((48, 32), (128, 128), (20, 90)), golden=6.387749, lora_linears=14)
