"""Qwen2.5-VL: Qwen2-VL with window attention in the tower (arXiv 2502.13923 section 2.1).

The windows are the tower's own business: what goes in (patches of merged blocks, in rows) and what comes out (merged
patches, in rows) is as in Qwen2-VL. Time is scaled for videos alone, so that a still image stands where it stood.
"""

from dataclasses import dataclass
from typing import ClassVar

from train.models.qwen2_vl import Qwen2VL


@dataclass(frozen=True)
class Qwen25VL(Qwen2VL):
    """What is particular to Qwen2.5-VL: its name, and the names inside its tower."""

    model_type: ClassVar = "qwen2_5_vl"
    vision_lora_targets: ClassVar = ""
