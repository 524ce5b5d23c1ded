"""SmolVLM2: Idefics3's tiles with a smaller language model (arXiv 2504.05299); its videos are not read."""

from dataclasses import dataclass
from typing import ClassVar

from train.models.idefics3 import Idefics3


@dataclass(frozen=True)
class SmolVLM(Idefics3):
    """What is particular to SmolVLM2: nothing but its name. The releases before it say ``idefics3``."""

    model_type: ClassVar = "smolvlm"
