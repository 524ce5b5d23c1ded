"""The starter's shape: a Qwen2-VL of about 8 million parameters, small enough to train on two cores."""

from transformers import Qwen2VLConfig

VOCABULARY = 1024
"""Tokens in all, the special ones included: few, so that each is seen often and unseen words split regularly."""
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Special tokens; the ids are their places in this tuple."""


def config() -> Qwen2VLConfig:
    """The architecture: vision 4 x 192 with patches of 8 pixels, language 6 x 256."""
    token = {name: index for index, name in enumerate(SPECIAL)}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 4,
            "embed_dim": 192,
            "hidden_size": 256,
            "num_heads": 6,
            "mlp_ratio": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
        bos_token_id=token["<|endoftext|>"],
        eos_token_id=token["<|im_end|>"],
        pad_token_id=token["<|endoftext|>"],
    )
