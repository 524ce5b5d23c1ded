"""Who reads which image in the cross-attention layers of Llama-3.2-Vision, however conversations share a row.

The rule is transformers' (``processing_mllama.py``, ``_prepare_cross_attention_mask``):
a token behind an image reads the image's own tiles, up to the next image that does not follow directly; a token before
the first image reads everything, padding tiles too, and only its MLP is switched off; a conversation without images
skips these layers. Here each token follows that rule within its own conversation, however conversations share a row.
"""

from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicLayer

from train.models.family import Sight

ALIGNED = 8
"""The rows' image states are padded to a multiple of this, with at least one of padding."""


class Looked(DynamicLayer):
    """A cross-attention layer's keys and values, and which of them the tokens to come read.

    Args:
        allowed: (B, 1, K) bool.
        reads: (B, 1) bool: whether the row's conversation has images at all.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, allowed: torch.Tensor, reads: torch.Tensor) -> None:
        super().__init__()
        self.allowed, self.reads = allowed, reads

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Fan the rows out."""
        super().batch_repeat_interleave(repeats)
        self.allowed, self.reads = (x.repeat_interleave(repeats, 0) for x in (self.allowed, self.reads))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self.allowed, self.reads = self.allowed[indices], self.reads[indices]

    def narrow(self) -> None:
        """Drop what no token to come reads: padding tiles and earlier images are most of what would be fanned out."""
        most = -(-int(self.allowed.sum(-1).max()) // ALIGNED) * ALIGNED
        places = self.allowed[:, 0].int().argsort(dim=-1, descending=True, stable=True)[:, :most]  # (B, K')
        self.allowed = self.allowed.gather(2, places[:, None])
        wide = places[:, None, :, None].expand(-1, self.keys.shape[1], -1, self.keys.shape[3])
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide)


def looked_at(
    sight: Sight, cross: Sequence[torch.Tensor], embeds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the tokens of a batch read of its images.

    A padding state is zero, and so are its key and its value (the projections have no bias): a token whose conversation
    has no image is pointed at padding alone, and the layer adds exactly nothing to it.

    Args:
        sight: where images stand; one at least.
        cross: (K, D) each; two an image, the states of its tiles and of padding tiles.
        embeds: (B, T, D) of the same batch.
    Returns: states (B, K, D); which of them a token reads (B, T, K) bool; whether its MLP runs (B, T) bool.
    """
    (rows, width, _), device = embeds.shape, embeds.device
    own, padding = cross[::2], cross[1::2]
    pieces: list[list[torch.Tensor]] = [[embeds.new_zeros(0, embeds.shape[-1])] for _ in range(rows)]
    labels: list[list[torch.Tensor]] = [[torch.zeros(0, dtype=torch.long)] for _ in range(rows)]
    for number, (image, states, rest) in enumerate(zip(sight.images, own, padding, strict=True), 1):
        pieces[image.row] += [states.to(embeds), rest.to(embeds)]
        labels[image.row] += [torch.full((len(states),), number), torch.full((len(rest),), -number)]
    states = _stacked(pieces)  # (B, K, D)
    label = _stacked(labels).to(device)  # (B, K): number of the image that a state is of, negative in padding tiles

    row, start, segment, group = torch.tensor(
        [(i.row, i.start, i.segment, g) for i, g in zip(sight.images, _groups(sight), strict=True)], device=device
    ).T
    segments = sight.segments if sight.segments is not None else torch.zeros(rows, width, device=device)
    theirs = segments[row]  # (N, T)
    owned = (theirs == segment[:, None]) | ((segment[:, None] == 0) & (theirs >= 0))
    reached = owned & (torch.arange(width, device=device) >= start[:, None])
    latest = torch.zeros(rows, width, dtype=torch.long, device=device).scatter_reduce_(
        0, row[:, None].expand(-1, width), reached * group[:, None], "amax"
    )  # (B, T): the group of images that a token reads; 0 before the first
    seen = reached & (latest[row] == group[:, None])
    ahead = owned & (latest[row] == 0)
    pictured = torch.zeros(rows, width, dtype=torch.int32, device=device).index_add_(0, row, owned.int()) > 0
    nothing = torch.zeros(1, width, dtype=torch.bool, device=device)
    allowed = torch.cat((nothing, ahead))[label.abs()] | torch.cat((nothing, seen))[label.clamp(min=0)]
    allowed[:, -1] = ~pictured
    return states, allowed.transpose(1, 2).contiguous(), latest > 0


def _stacked(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Each row's pieces end to end, zeros behind them: one at least."""
    whole = [torch.cat(pieces) for pieces in rows]
    longest = (max(map(len, whole)) // ALIGNED + 1) * ALIGNED
    spare = [x.new_zeros(longest - len(x), *x.shape[1:]) for x in whole]
    return torch.stack([torch.cat(pair) for pair in zip(whole, spare, strict=True)])


def _groups(sight: Sight) -> list[int]:
    """Number of each image's group, rising along a row: images whose tokens follow one another are read together."""
    groups: list[int] = []
    for k, image in enumerate(sight.images):
        last = sight.images[k - 1] if k else None
        follows = last and (last.row, last.segment, last.start + 1) == (image.row, image.segment, image.start)
        groups.append((groups[-1] if groups else 0) + (not follows))
    return groups
