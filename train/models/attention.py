"""Who looks at whom in a batch of rows, in the form that the device computes fastest: one seam for all families.

A mask is dense (B, 1, T, T) on a CPU. On a GPU it is a BlockMask of FlexAttention where branches share a prefix, and
the ends of the pieces for a variable-length kernel where they do not: neither grows with the square of the length.
transformers hands all three through its own mask code unchanged (``masking_utils``: whatever has four axes), and the
attention that we register tells them apart. Cross-attention and generation give it dense masks.
"""

import os
import shutil
from functools import cache
from typing import Any, Literal

import torch

from train.data.rows import PREFIX, Batch

NAME = "cloche"
"""Under which transformers knows our attention; the language model is opened with it, the tower keeps ``sdpa``."""
Kind = Literal["dense", "blocks", "pieces"]
BLOCK = 128
"""Tokens on a side of a block of a BlockMask; what FlexAttention's kernels are made for."""


def register() -> None:
    """Make our attention known to transformers; again does no harm."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # of masks with two axes, which generation gives


def kind_for(embeds: torch.Tensor, shared: bool) -> Kind:
    """What suits a device.

    Args:
        embeds: (B, T, D) what the language model reads: tells device and type.
        shared: branches of a row share a prefix.
    Returns: ``dense`` on a CPU, and where a GPU has no C compiler, without which Triton makes no kernel.
    """
    if embeds.device.type != "cuda":
        return "dense"
    half = embeds.dtype in (torch.bfloat16, torch.float16)
    if not shared and half and torch.cuda.get_device_capability(embeds.device) >= (8, 0):
        return "pieces"
    return "blocks" if _compiler() else "dense"


@cache
def _compiler() -> bool:
    return any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang"))))


def mask_for(batch: Batch, kind: Kind) -> Any:
    """The mask of a batch.

    Returns: (B, 1, T, T) bool, a BlockMask, or (1, 1, N + 1, L) int32: where N pieces begin and the last one ends,
        the rows end to end; the last axis is a view as long as the longest piece.
    """
    if kind == "blocks":
        return blocks(batch.segments)
    if kind == "pieces":
        if batch.shared:
            raise ValueError("pieces know causal attention only: rows with a shared prefix need blocks")
        return pieces(batch.segments)
    return dense(batch.segments)


def dense(segments: torch.Tensor) -> torch.Tensor:
    """(B, 1, T, T) bool of segments (B, T): True where a token may look; the past of its branch, and the prefix."""
    same = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == PREFIX)
    return torch.tril(same)[:, None]


def blocks(segments: torch.Tensor) -> Any:
    """The same as a BlockMask, without building (T, T).

    Segments of a row never fall but for the padding at its end, so that the first and last segment of a block of
    tokens say whether two blocks may meet (then the kernel asks each pair) and whether all of one sees all of the
    other (then it does not ask). Source: FlexAttention, arXiv 2412.05496, section 3.2.
    """
    from torch.nn.attention.flex_attention import BlockMask

    rows, length = segments.shape
    count = -(-length // BLOCK)
    order = torch.where(segments < PREFIX, length + 1, segments)  # padding behind all branches
    whole = torch.nn.functional.pad(order, (0, count * BLOCK - length), value=length + 1).view(rows, count, BLOCK)
    first, last = whole[..., 0], whole[..., -1]
    place = torch.arange(count, device=segments.device)
    past, before = place[:, None] >= place[None, :], place[:, None] > place[None, :]  # (Q, K) blocks
    meet = past & ((first[:, :, None] <= last[:, None, :]) | (first[:, None, :] == PREFIX))
    one = (first[:, :, None] == last[:, :, None]) & (first[:, None, :] == first[:, :, None])
    full = before & ((last[:, None, :] == PREFIX) | (one & (last[:, None, :] == last[:, :, None])))
    part = meet & ~full

    def looks(row: Any, head: Any, query: Any, key: Any) -> Any:
        seen = segments[row, key]
        return (query >= key) & ((segments[row, query] == seen) | (seen == PREFIX))

    return BlockMask.from_kv_blocks(
        *_listed(part), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=looks, seq_lengths=(length, length)
    )


def _listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks of each query block are chosen (B, 1, Q), and which, these first (B, 1, Q, K)."""
    order = torch.argsort(chosen.int(), dim=-1, descending=True, stable=True)
    return chosen.sum(-1)[:, None].int(), order[:, None].int().contiguous()


def pieces(segments: torch.Tensor) -> torch.Tensor:
    """Segments (B, T) without sharing as ends of causal pieces (see mask_for); a prefix and its only branch are one.

    Padding is a piece of its own: what it sees differs from the dense mask, and is read by nobody.
    """
    joined = torch.where(segments == PREFIX, PREFIX + 1, segments)
    begins = torch.ones_like(joined, dtype=torch.bool)
    begins[:, 1:] = joined[:, 1:] != joined[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    ends = torch.cat((starts, starts.new_tensor([joined.numel()])))
    return ends.int()[None, None, :, None].expand(1, 1, -1, int(ends.diff().max()))


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by whatever the mask is; the signature is transformers'.

    Args:
        query: (B, H, T, D).
        key: (B, G, S, D), G a divisor of H; ``value`` alike.
    Returns: (B, T, H, D), and None in place of weights.
    """
    from torch.nn.attention.flex_attention import BlockMask
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if isinstance(attention_mask, BlockMask):
        flex = _fused() if query.is_cuda else _plain()
        out = flex(
            query, key, value, block_mask=attention_mask, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1], kernel_options={"BACKEND": "TRITON"} if query.is_cuda else None,
        )  # fmt: skip
        return out.transpose(1, 2).contiguous(), None
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        return _by_pieces(query, key, value, attention_mask, scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)


def _plain() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def _fused() -> Any:
    """FlexAttention as a kernel; uncompiled it would write out all scores."""
    return torch.compile(_plain())


def _by_pieces(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    flat = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]  # (B * T, H, D)
    places, longest = ends[0, 0, :, 0].contiguous(), ends.shape[-1]
    out: torch.Tensor = varlen_attn(
        *flat, places, places, longest, longest,
        scale=scaling, window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.unflatten(0, (query.shape[0], query.shape[2]))
