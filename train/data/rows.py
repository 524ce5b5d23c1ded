"""Rows of tokens: many conversations in one row, the image they share written once.

A row is a prefix (the image) and branches (conversations about it). Each branch sees the prefix and itself, and its
positions go on where the prefix ended, so that every branch computes exactly what it would compute alone. A row
without a prefix packs conversations that share nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.data.encode import Encoded
from train.models.family import Placed

PREFIX = 0
"""Segment number of the shared prefix; branches count from 1; padding is -1."""


@dataclass(frozen=True)
class Row:
    """Conversations laid end to end after what they share."""

    ids: np.ndarray
    """(T,) int64 token ids, image tokens expanded."""
    positions: np.ndarray
    """(3, T) int64 M-RoPE positions (three equal rows for families without it)."""
    segments: np.ndarray
    """(T,) int64: 0 in the prefix, k in branch k."""
    sources: np.ndarray
    """(T,) int64: the place whose hidden state predicts this token; -1 for none."""
    learned: np.ndarray
    """(T,) bool: whether this token is a target."""
    visual: np.ndarray
    """(T,) bool: whether an image's feature stands in this place."""
    images: tuple[tuple[str, int, int], ...]
    """(object id, first place, number of places) of each image."""


def shared_row(branches: Sequence[Encoded]) -> Row:
    """Lay conversations about the same images into one row, the part up to the last image's end once."""
    shared = branches[0].shared_until
    if any(
        b.ids[:shared].tolist() != branches[0].ids[:shared].tolist() or b.images != branches[0].images for b in branches
    ):
        raise ValueError("conversations of a shared row must begin with the same images")
    return _lay(branches, shared, branches[0].images)


def packed_row(branches: Sequence[Encoded]) -> Row:
    """Lay conversations that share nothing into one row; each keeps its own positions and images."""
    images, at = [], 0
    for branch in branches:
        images += [(image, at + start, count) for image, start, count in branch.images]
        at += len(branch.ids)
    return _lay(branches, 0, tuple(images))


def _lay(branches: Sequence[Encoded], shared: int, images: tuple[tuple[str, int, int], ...]) -> Row:
    first = branches[0]
    ids, positions = [first.ids[:shared]], [first.positions[:, :shared]]
    segments, learned, visual = [np.full(shared, PREFIX)], [first.learned[:shared]], [first.visual[:shared]]
    sources, at = [np.arange(shared) - 1], shared
    for number, branch in enumerate(branches, 1):
        length = len(branch.ids) - shared
        before = np.arange(at - 1, at + length - 1)
        before[:1] = shared - 1
        ids.append(branch.ids[shared:])
        positions.append(branch.positions[:, shared:])
        segments.append(np.full(length, number))
        learned.append(branch.learned[shared:])
        visual.append(branch.visual[shared:])
        sources.append(before)
        at += length
    return Row(
        np.concatenate(ids),
        np.concatenate(positions, 1),
        np.concatenate(segments),
        np.concatenate(sources),
        np.concatenate(learned),
        np.concatenate(visual),
        images,
    )


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length."""

    ids: torch.Tensor
    """(B, T) int64."""
    positions: torch.Tensor
    """(3, B, T) int64."""
    sources: torch.Tensor
    """(N,) int64 flat places (row * T + place) whose hidden states predict the learned tokens."""
    targets: torch.Tensor
    """(N,) int64 learned tokens."""
    owners: torch.Tensor
    """(N,) int64: which conversation of the batch each learned token belongs to, counted over rows."""
    image_places: torch.Tensor
    """(M,) int64 flat places of the visual tokens, in the order of ``images``."""
    images: tuple[str, ...]
    """Object ids, one an image occurrence."""
    placed: tuple[Placed, ...]
    """Where each of ``images`` stands."""
    segments: torch.Tensor
    """(B, T) int64: 0 in a row's shared prefix, k in branch k, -1 in padding; says who may look at whom."""
    shared: bool
    """Whether several branches of a row share its prefix; else each row is plain causal pieces, end to end."""


def collate(rows: Sequence[Row], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows to one length; `attention.mask_for` says from the segments who may look at whom."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), pad, np.int64)
    positions = np.zeros((3, len(rows), width), np.int64)
    segments = np.full((len(rows), width), -1, np.int64)
    sources, targets, owners, places, images, placed, seen = [], [], [], [], [], [], 0
    for r, row in enumerate(rows):
        length = len(row.ids)
        ids[r, :length], positions[:, r, :length], segments[r, :length] = row.ids, row.positions, row.segments
        chosen = np.flatnonzero(row.learned & (row.sources >= 0))
        sources.append(r * width + row.sources[chosen])
        targets.append(row.ids[chosen])
        owners.append(seen + row.segments[chosen] - 1)
        seen += int(row.segments.max())
        places.append(r * width + np.flatnonzero(row.visual))
        for image, start, _ in row.images:
            images.append(image)
            placed.append(Placed(r, start, int(row.segments[start])))

    def joined(parts: list[np.ndarray]) -> torch.Tensor:
        whole = torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, dtype=torch.long)
        return whole.to(device)

    return Batch(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(positions).to(device),
        joined(sources),
        joined(targets),
        joined(owners),
        joined(places),
        tuple(images),
        tuple(placed),
        torch.from_numpy(segments).to(device),
        any(bool((row.segments == PREFIX).any()) and int(row.segments.max()) > 1 for row in rows),
    )
