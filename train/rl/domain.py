"""Domain knowledge in the objective: a transformed image must give the transformed answer (METHODS 3, DESIGN §5).

For brain images the transform is the mirror: it keeps the plane, the structures and the lesion, and swaps left and
right. Swapping is a permutation of the vocabulary, so that the mirrored question, completion and distribution are all
one lookup away. Words whose two sides are not one token each cannot be swapped: conversations with them are gated out.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

MIRRORED = "#mirrored"
"""Ends the id of an image that is to be shown mirrored."""


@dataclass(frozen=True)
class Mirror:
    """Left and right exchanged."""

    name = "mirrored"
    suffix = MIRRORED
    permutation: np.ndarray
    """(V,) int64: each token's counterpart; most are their own."""
    unswappable: re.Pattern[str] | None
    """Words of sides that are not single tokens; a text with one is gated out. None where all can be swapped."""

    @classmethod
    def of(
        cls, tokenizer: Any, pairs: tuple[tuple[str, str], ...] = (("left", "right"), ("Left", "Right"))
    ) -> "Mirror":
        """Find the token pairs of the words, with and without a leading space."""
        permutation = np.arange(len(tokenizer))
        stuck: list[str] = []
        for pair in pairs:
            for lead in ("", " "):
                one, other = (tokenizer(lead + w, add_special_tokens=False)["input_ids"] for w in pair)
                if len(one) == len(other) == 1:
                    permutation[[one[0], other[0]]] = other[0], one[0]
                else:
                    stuck += pair
        pattern = re.compile(rf"\b({'|'.join(sorted(set(stuck)))})\b") if stuck else None
        return cls(permutation, pattern)

    def swap(self, ids: np.ndarray) -> np.ndarray:
        """Each token's counterpart; ids past the tokenizer's last, which models pad their vocabulary with, stay."""
        known = ids < len(self.permutation)
        return np.where(known, self.permutation[np.where(known, ids, 0)], ids)

    def back(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) read at each token's counterpart; V may go past the tokenizer's last id."""
        order = torch.from_numpy(self.swap(np.arange(logits.shape[-1])))
        return logits[:, order.to(logits.device)]

    def applies(self, question: str, completion: str = "") -> bool:
        """Whether the constraint may be put on a conversation with these words."""
        return self.unswappable is None or not self.unswappable.search(f"{question} {completion}")


def mirrored(image: Image.Image) -> Image.Image:
    """The image with left and right exchanged."""
    return ImageOps.mirror(image)


def divergences(logits: torch.Tensor, transformed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(π^D‖π) and JS(π^D‖π) of each token (arXiv 2601.16419, equations 3 and 4).

    Args:
        logits: (N, V) of the policy; gradients flow.
        transformed: (N, V) of π^D, detached.
    Returns: KL (N,) in nats; JS (N,) in bits, detached, in [0, 1].
    """
    log_p, log_d = F.log_softmax(logits, -1), F.log_softmax(transformed.detach(), -1)
    kl = (log_d.exp() * (log_d - log_p)).sum(-1)
    with torch.no_grad():
        log_m = torch.logaddexp(log_p, log_d) - np.log(2.0)
        js = 0.5 * ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_d.exp() * (log_d - log_m)).sum(-1)) / np.log(2.0)
    return kl, js.clamp(0, 1)
