"""Peak memory of a real training run in this process: `python -m tests.appliance.measured DIR LAYERS HIDDEN FFN`.

Prints JSON: what the estimate needs of the run, and the peak of the resident memory above the loaded model.
"""

import json
import os
import sys
from pathlib import Path

ROWS, WORDS, LAYERS_OF_VISION = 4, 160, 2


def write_model(directory: Path, layers: int, hidden: int, ffn: int) -> Path:
    """A random Qwen2-VL, large enough that its activations are no noise; its tower stays small."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    from tests.train.conftest import tiny_config, write_tiny_model

    write_tiny_model(directory)
    config = tiny_config()
    text, heads = config.text_config, hidden // 64
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, ffn, layers
    text.num_attention_heads, text.num_key_value_heads, text.layer_types = (
        heads,
        heads // 2,
        ["full_attention"] * layers,
    )
    config.vision_config.hidden_size = hidden
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).to(torch.float32).save_pretrained(directory)
    return directory


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Let the kernel count the peak anew. Source: proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Most bytes of this process that were in memory since."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def main(directory: Path, layers: int, hidden: int, ffn: int, checkpointing: bool) -> None:
    """Write, load, train one step of one pass, and print."""
    import gc

    import torch

    from audit.conversation import Conversation, Turn
    from tests.train.conftest import picture
    from train.checkpoints import MemoryStore
    from train.lora import LoraConfig
    from train.models.features import Features
    from train.models.loading import load
    from train.sft import SftConfig, rows_of, run_sft

    write_model(directory, layers, hidden, ffn)
    loaded = load(directory, "nf4", "cpu")
    words = "Is the left right red lesion visible in this slice? No. What plane and where? " * 40
    talks = [
        Conversation(
            f"c{k}",
            (f"{k}",),
            (Turn("user", "Where?"), Turn("assistant", " ".join(words.split()[:WORDS]), True)),
            f"r{k}",
            "caption",
        )
        for k in range(ROWS)
    ]
    features = Features(loaded, lambda name: picture(int(name)))
    rows = [row for row, _ in rows_of(loaded, talks, features)]
    config = SftConfig(
        epochs=2,
        rows_per_step=ROWS,
        micro_rows=ROWS,
        lora=LoraConfig(8, 16),
        gradient_checkpointing="on" if checkpointing else "off",
    )
    run_sft(loaded, talks[:1], features, SftConfig(epochs=1, lora=LoraConfig(8, 16)), MemoryStore())
    gc.collect()
    torch.set_num_threads(1)
    before = resident()
    forget_peak()
    run_sft(loaded, talks, features, config, MemoryStore())
    print(
        json.dumps(
            {
                "above": peak() - before,
                "tokens": max(len(r.ids) for r in rows),
                "learned": int(sum(r.learned.sum() for r in rows)),
                "parameters": sum(p.numel() for p in loaded.model.parameters()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), "--checkpointing" in sys.argv)
