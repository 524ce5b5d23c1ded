"""Attention: every form of the mask says the same, and the whole model computes the same with each."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from audit.conversation import Conversation, Turn
from train.data.rows import PREFIX, Batch, Row, collate, packed_row, shared_row
from train.models import attention
from train.models.family import Sight
from train.models.forward import embedded

TALKS = (
    (Turn("user", "Is the lesion visible?"), Turn("assistant", "Yes", True)),
    (Turn("user", "What plane?"), Turn("assistant", "It is the left slice.", True)),
    (Turn("user", "?"), Turn("assistant", "Is it right and where in this red slice?", True)),
)
PICTURE, OTHER = "1:48:32", "2:128:128"

NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: FlexAttention's and varlen_attn's kernels"
)


@st.composite
def segments(draw: st.DrawFn, shared: bool = True) -> torch.Tensor:
    """Segments of rows as `collate` lays them: a prefix, branches, padding; lengths around a block's."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        prefix = draw(st.integers(0, 300)) if shared or draw(st.booleans()) else 0
        branches = draw(st.lists(st.integers(1, 200), min_size=1, max_size=5 if shared or not prefix else 1))
        rows.append([PREFIX] * prefix + [k for k, n in enumerate(branches, 1) for _ in range(n)])
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


@given(segments())
@settings(max_examples=60, deadline=None)
def test_a_block_mask_is_the_dense_mask(found: torch.Tensor) -> None:
    """Pair by pair by its rule, and block by block: none that a token sees is left out, and a full one is all seen."""
    wanted = attention.dense(found)[:, 0]
    mask = attention.blocks(found)
    rows, length = found.shape
    row, query, key = (torch.arange(n) for n in (rows, length, length))
    rule = mask.mask_mod(row[:, None, None], torch.tensor(0), query[None, :, None], key[None, None, :])
    assert torch.equal(rule, wanted)
    count = -(-length // attention.BLOCK)
    room = count * attention.BLOCK - length
    cut = F.pad(wanted, (0, room, 0, room)).view(rows, count, attention.BLOCK, count, attention.BLOCK)
    some = cut.any(4).any(2)
    inner = F.pad(wanted, (0, room, 0, room), value=True)  # what lies beyond the row's end is not asked for
    every = inner.view(rows, count, attention.BLOCK, count, attention.BLOCK).all(4).all(2)
    for r in range(rows):
        for q in range(count):
            part = set(mask.kv_indices[r, 0, q, : mask.kv_num_blocks[r, 0, q]].tolist())
            full = set(mask.full_kv_indices[r, 0, q, : mask.full_kv_num_blocks[r, 0, q]].tolist())
            assert not part & full
            assert set(some[r, q].nonzero()[:, 0].tolist()) <= part | full
            assert full <= set(every[r, q].nonzero()[:, 0].tolist())
            assert all(k <= q for k in part | full)
            turned = {k for k in range(count) if q in mask.q_indices[r, 0, k, : mask.q_num_blocks[r, 0, k]].tolist()}
            assert turned == part  # the backward walks the blocks by their keys


def test_a_block_mask_leaves_out_other_branches() -> None:
    """Eight branches of a block each behind a prefix of two: 2 + 2 + 1 blocks to the eye, not 10."""
    row = torch.tensor([[PREFIX] * 256 + [k for k in range(1, 9) for _ in range(128)]])
    mask = attention.blocks(row)
    assert mask.full_kv_num_blocks[0, 0].tolist() == [0, 1, *[2] * 8]
    assert mask.kv_num_blocks[0, 0].tolist() == [1] * 10


@given(segments(shared=False))
@settings(max_examples=60, deadline=None)
def test_pieces_are_the_dense_mask(found: torch.Tensor) -> None:
    ends = attention.pieces(found)
    places = ends[0, 0, :, 0].tolist()
    own = torch.zeros(found.numel(), found.numel(), dtype=torch.bool)
    for start, stop in zip(places, places[1:], strict=False):
        own[start:stop, start:stop] = torch.tril(torch.ones(stop - start, stop - start, dtype=torch.bool))
    wanted = torch.block_diag(*attention.dense(found)[:, 0].int()).bool()
    real = (found >= PREFIX).flatten()  # what padding sees is read by nobody
    assert torch.equal(own[real], wanted[real])
    assert ends.shape[-1] == max(b - a for a, b in zip(places, places[1:], strict=False))
    assert ends.dtype == torch.int32


def encoded(loaded: Any, features: Any, image: str) -> list[Any]:
    talks = [Conversation("c", (image,), turns, "r", "k") for turns in TALKS]
    return [loaded.encoder.encode(t, [features.grid(image)]) for t in talks]


def shared_rows(loaded: Any, features: Any) -> list[Row]:
    return [shared_row(encoded(loaded, features, PICTURE)), shared_row(encoded(loaded, features, OTHER) * 3)]


def plain_rows(loaded: Any, features: Any) -> list[Row]:
    both = [*encoded(loaded, features, PICTURE), *encoded(loaded, features, OTHER)]
    return [packed_row(both), shared_row(both[-1:]), packed_row(both[:1])]


def states_of(loaded: Any, features: Any, batch: Batch, mask: Any) -> torch.Tensor:
    sight = Sight(features.stack(batch.images), batch.image_places, batch.placed, batch.segments)
    embeds = embedded(loaded.model, batch.ids, sight)
    return loaded.family.read(loaded.model, embeds, mask, batch.positions, sight)


def test_rows_say_whether_their_branches_share(loaded: Any, features: Any) -> None:
    talks = encoded(loaded, features, PICTURE)
    assert collate([shared_row(talks), packed_row(talks)], 0).shared
    assert not collate([shared_row(talks[:1]), packed_row(talks)], 0).shared
    with pytest.raises(ValueError, match="need blocks"):
        attention.mask_for(collate([shared_row(talks)], 0), "pieces")


def test_a_cpu_takes_dense_masks(loaded: Any, features: Any) -> None:
    batch = collate(shared_rows(loaded, features), 0)
    kind = attention.kind_for(torch.zeros(1), batch.shared)
    mask = attention.mask_for(batch, kind)
    assert kind == "dense"
    assert mask.shape == (2, 1, batch.ids.shape[1], batch.ids.shape[1])
    assert not hasattr(batch, "mask")


def test_only_the_language_model_has_our_attention(loaded: Any) -> None:
    config = loaded.model.config
    assert config.text_config._attn_implementation == attention.NAME
    assert config.vision_config._attn_implementation == "sdpa"
    assert loaded.model.model.visual.config._attn_implementation == "sdpa"


@torch.no_grad()
@pytest.mark.parametrize("rows", [shared_rows, plain_rows])
def test_the_model_computes_the_same_with_a_block_mask(loaded: Any, features: Any, rows: Any) -> None:
    """Through the whole language model, FlexAttention uncompiled; it has no backward on a CPU (torch 2.13)."""
    batch = collate(rows(loaded, features), loaded.tokenizer.pad_token_id)
    assert batch.ids.shape[1] > attention.BLOCK
    wanted = states_of(loaded, features, batch, attention.mask_for(batch, "dense"))
    found = states_of(loaded, features, batch, attention.mask_for(batch, "blocks"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_wrong_block_mask_is_seen(loaded: Any, features: Any) -> None:
    """The comparison above can fail: with one branch's segment changed the states are others."""
    batch = collate(shared_rows(loaded, features), loaded.tokenizer.pad_token_id)
    wanted = states_of(loaded, features, batch, attention.mask_for(batch, "dense"))
    other = replace(batch, segments=torch.where(batch.segments == 2, 1, batch.segments))
    found = states_of(loaded, features, batch, attention.mask_for(other, "blocks"))
    assert float((found - wanted).abs().max()) > 1e-3


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: torch compiles a kernel for the CPU with it")
def test_a_kernel_that_walks_the_blocks_computes_the_same() -> None:
    """The uncompiled one asks only the rule of each pair; a kernel leaves out blocks, and does not ask in full ones."""
    torch.manual_seed(0)
    row = [PREFIX] * 200 + [k for k in range(1, 6) for _ in range(90)]
    other = [PREFIX] * 10 + [k for k in range(1, 4) for _ in range(150)] + [-1] * 190
    found = torch.tensor([row, other])
    query, key, value = (torch.randn(2, heads, len(row), 16) for heads in (4, 2, 2))
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=attention.dense(found), enable_gqa=True)
    out = attention._fused()(query, key, value, block_mask=attention.blocks(found), enable_gqa=True)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def gradients(loaded: Any, features: Any, batch: Batch, kind: attention.Kind) -> tuple[float, dict[str, torch.Tensor]]:
    language = loaded.model.model.language_model
    language.requires_grad_(True)
    language.zero_grad()
    states = states_of(loaded, features, batch, attention.mask_for(batch, kind))
    logits = loaded.model.lm_head(states.flatten(0, 1)[batch.sources]).float()
    loss = F.cross_entropy(logits, batch.targets)
    loss.backward()
    found = {n: p.grad.float().clone() for n, p in language.named_parameters() if p.grad is not None}
    language.requires_grad_(False)
    return float(loss.detach()), found


def agree(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float) -> None:
    assert one.keys() == other.keys() and len(one) > 15
    for name, wanted in one.items():
        apart = torch.linalg.vector_norm(other[name] - wanted)
        assert float(apart) <= within * float(torch.linalg.vector_norm(wanted)) + 1e-9, name


@pytest.fixture(scope="module")
def on_gpu(tiny_model: Any) -> Any:
    """Opens the tiny model on the GPU in a precision."""
    from train.models.features import Features
    from train.models.loading import load

    def opened(precision: Any) -> tuple[Any, Any]:
        from tests.train.conftest import picture

        loaded = load(tiny_model, precision, "cuda")
        return loaded, Features(loaded, lambda name: picture(*map(int, name.split(":"))))

    return opened


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-4), ("bf16", 3e-2)])
def test_gradients_on_a_gpu_are_those_of_the_dense_mask(on_gpu: Any, precision: str, within: float) -> None:
    loaded, features = on_gpu(precision)
    ways: Sequence[tuple[Any, attention.Kind]] = [(shared_rows, "blocks"), (plain_rows, "blocks")]
    if precision == "bf16":
        ways = [*ways, (plain_rows, "pieces")]
    for rows, kind in ways:
        batch = collate(rows(loaded, features), loaded.tokenizer.pad_token_id, "cuda")
        wanted, one = gradients(loaded, features, batch, "dense")
        loss, other = gradients(loaded, features, batch, kind)
        assert loss == pytest.approx(wanted, rel=within)
        agree(one, other, within)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_gpu_takes_blocks_for_shared_rows_and_pieces_for_others(on_gpu: Any) -> None:
    half = torch.zeros(1, 1, 1, dtype=torch.bfloat16, device="cuda")
    assert attention.kind_for(half, True) == ("blocks" if attention._compiler() else "dense")
    assert attention.kind_for(half, False) == "pieces"
    assert attention.kind_for(half.float(), False) == attention.kind_for(half, True)


@pytest.mark.gpu
@NEEDS_GPU
def test_memory_on_a_gpu_does_not_grow_with_the_square_of_the_length() -> None:
    """A mask of a row of 32768 tokens is 1 GiB when dense."""
    row = torch.tensor([[PREFIX] * 768 + [k for k in range(1, 251) for _ in range(128)]], device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention.blocks(row)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20
