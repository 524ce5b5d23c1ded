"""What a training run will need, before it: memory by part and FLOPs, out of the model's shapes and the longest rows.

Everything here is arithmetic over shapes; how fast this machine is, `train.calibrate` measures. What a layer keeps for
the backward is counted as transformers, PEFT and bitsandbytes keep it: a change there shows in the test that compares
with a measured peak.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from train.models.devices import computed_in
from train.models.parts import Parts

Precision = Literal["nf4", "int8", "bf16", "fp32"]
LINEAR_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Bytes a weight of a language Linear, where they are not those it is computed in; NF4 with its scales (one byte a
block of 64, a float for 256 of those)."""
GGUF_BYTES = {"Q8_0": 34 / 32, "Q5_K_M": 5.69 / 8, "Q4_K_M": 4.85 / 8}
"""Bytes a weight of the language model in GGUF; the mixes of Q5 and Q4 as llama.cpp's table gives them for 7B."""
STATE_BYTES = {"adamw": 8, "muon": 4}
"""Bytes of optimizer state an adapter weight, in fp32; AdamW on a GPU takes 2 (8 bits)."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a model's config that memory and FLOPs follow from."""

    hidden: int
    """Width of the hidden states."""
    layers: int
    """Language layers."""
    ffn: int
    """Width inside the MLP."""
    heads: int
    """Attention heads."""
    kv_heads: int
    """Heads of keys and values."""
    head_dim: int
    """Width of a head."""
    vocabulary: int
    """Tokens."""
    context: int
    """Positions that the model was made for."""
    vision_hidden: int
    """Width of the tower."""
    vision_ffn: int
    """Width inside the tower's MLP."""
    cross_layers: int = 0
    """Language layers that read images by cross-attention."""

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Out of a transformers config."""
        text, vision = config.get_text_config(), config.vision_config
        hidden, heads = text.hidden_size, text.num_attention_heads
        wide = getattr(vision, "embed_dim", None) or vision.hidden_size
        inside = getattr(vision, "intermediate_size", None) or int(wide * getattr(vision, "mlp_ratio", 4))
        return cls(
            hidden,
            text.num_hidden_layers,
            text.intermediate_size,
            heads,
            getattr(text, "num_key_value_heads", None) or heads,
            getattr(text, "head_dim", None) or hidden // heads,
            text.vocab_size,
            text.max_position_embeddings,
            wide,
            inside,
            len(getattr(text, "cross_attention_layers", None) or ()),
        )


@dataclass(frozen=True)
class Work:
    """The largest pass of a run."""

    rows: int = 1
    """Rows in it, padded to one length."""
    tokens: int = 512
    """Tokens of its longest row, visual ones included."""
    learned: int = 128
    """Tokens that the head runs on, in all rows; with a tiled head, a tile."""
    patches: int = 1024
    """Patches that the tower computes for the largest image."""
    feature_bytes: int = 0
    """Features that are kept in the host's memory."""
    images: int = 1
    """Images in it."""
    crossed: int = 0
    """States that cross-attention layers read, a row."""


@dataclass(frozen=True)
class How:
    """What of the settings memory depends on."""

    precision: Precision = "nf4"
    """How the language Linears are held."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it runs."""
    rank: int = 32
    """Of the adapter."""
    optimizer: str = "adamw"
    """``adamw`` or ``muon``."""
    checkpointing: bool = False
    """Whether the language model computes its activations again in the backward."""
    stored_in_bf16: bool = False
    """Whether the model's files hold bf16 (`parts.stored_in_bf16`)."""
    vision: bool = False
    """Whether the tower and the projector learn, too."""

    @property
    def compute(self) -> int:
        """Bytes of a number in the computation, as `load` will open the model here."""
        return computed_in(self.precision, self.device, self.stored_in_bf16).itemsize


@dataclass(frozen=True)
class Memory:
    """Bytes, by part."""

    weights: int
    """The model as held."""
    adapter: int
    """Adapter weights, fp32."""
    gradients: int
    """Of the adapter."""
    optimizer: int
    """Its state."""
    activations: int
    """What the backward needs of the largest pass, and the widest moment in it."""
    head: int
    """Logits, their softmax and its gradient."""
    features: int
    """Features that are kept; 0 on a GPU, as they lie in the host's memory."""
    vision: int
    """The tower's widest moment; it is over when training begins, so the peak counts it only where it is larger."""

    @property
    def trained(self) -> int:
        """Everything but the weights, at the peak."""
        step = self.gradients + self.optimizer + self.activations + self.head
        return self.adapter + self.features + max(step, self.vision)

    @property
    def peak(self) -> int:
        """The peak, in bytes; what Python and its libraries take comes on top."""
        return self.weights + self.trained

    def rows(self) -> dict[str, int]:
        """Every part and the peak, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"peak": self.peak}


def held_bytes(parts: Parts, precision: Precision, compute: int) -> int:
    """Bytes of the model as held: language Linears in ``precision``, all else in ``compute`` bytes a number."""
    each = LINEAR_BYTES.get(precision, compute)
    return int(parts.in_linears * each + (parts.total - parts.in_linears) * compute)


def memory(parts: Parts, shape: Shape, work: Work, how: How) -> Memory:
    """Estimate a run's memory."""
    adapter = parts.adapter(how.rank, how.vision)
    state = 2 if how.device == "cuda" and how.optimizer == "adamw" else STATE_BYTES[how.optimizer]
    return Memory(
        weights=held_bytes(parts, how.precision, how.compute),
        adapter=4 * adapter,
        gradients=4 * adapter,
        optimizer=state * adapter,
        activations=_activations(parts, shape, work, how),
        head=_head(shape, work, how),
        features=0 if how.device == "cuda" else work.feature_bytes,
        vision=work.patches * (3 * shape.vision_ffn + 8 * shape.vision_hidden) * how.compute,
    )


def layer_bytes(shape: Shape, work: Work, how: How) -> int:
    """What one language layer keeps for its backward over the whole pass.

    A pre-norm layer with gated MLP and LoRA on its seven Linears keeps, a token: the inputs of both norms and of the
    Linears (LoRA's A needs them), queries, keys, values (keys and values repeated to all heads), what attention gives,
    gate, its SiLU, up and their product. In bf16 the norms keep fp32, and PEFT casts each Linear's input to the
    adapter's fp32 anew. On a CPU the bool mask becomes one of floats in each layer; a GPU has none that is dense.
    """
    h, a, f = shape.hidden, shape.heads * shape.head_dim, shape.ffn
    tokens = work.rows * work.tokens
    per_token = (4 * h + 4 * a + 4 * f) * 4 if how.compute == 4 else (2 * h + 4 * a + 3 * f) * 2 + (7 * h + a + f) * 4
    lora = 7 * how.rank * 4  # what A gives, which B's gradient needs
    mask = 0 if how.device == "cuda" else work.rows * work.tokens**2 * how.compute
    return tokens * (per_token + lora) + mask


def cross_bytes(shape: Shape, work: Work, how: How) -> int:
    """What a cross-attention layer keeps of the images beyond that.

    A state: its key, normalised in fp32, and key and value repeated to all heads; what A gives to LoRA's B, twice, and
    in bf16 the state cast to fp32, twice. The mask becomes one of floats, on a GPU, too. The states are not learned.
    """
    a, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    cast = 0 if how.compute == 4 else 2 * 4 * shape.hidden
    per_state = 2 * a * how.compute + 2 * kv * 4 + 2 * how.rank * 4 + cast
    return work.rows * work.crossed * (per_state + work.tokens * how.compute)


def tower_bytes(parts: Parts, work: Work, how: How) -> int:
    """What a tower that learns keeps of a pass: what goes into its Linears and what comes out, a patch.

    About: the projector's Linears read fewer, and what norms and gates keep is not counted.
    """
    cast = 0 if how.compute == 4 else 4
    each = sum((o + i) * how.compute + i * cast + how.rank * 4 for o, i in parts.seeing)
    return work.images * work.patches * each if how.vision else 0


def _activations(parts: Parts, shape: Shape, work: Work, how: How) -> int:
    tokens = work.rows * work.tokens
    layer, crossing = layer_bytes(shape, work, how), cross_bytes(shape, work, how) if shape.cross_layers else 0
    if how.checkpointing:
        kept = tokens * shape.hidden * how.compute * shape.layers + layer + crossing
    else:
        kept = layer * shape.layers + crossing * shape.cross_layers
    # The widest moment of a backward: the gradients of up and of gate, and one Linear out of its 4 bits.
    moment = 2 * tokens * shape.ffn * how.compute
    if how.precision == "nf4":
        moment += max((o * i for o, i in parts.linears), default=0) * how.compute
    crossed = work.rows * work.crossed if shape.cross_layers else 0
    around = (2 * tokens + crossed) * shape.hidden * how.compute  # embeddings, the last norm, and the images' states
    return kept + moment + around + tower_bytes(parts, work, how)


def _head(shape: Shape, work: Work, how: How) -> int:
    """Logits in the compute type and in fp32 (the same where that is fp32), log-softmax, gradient."""
    numbers = work.learned * shape.vocabulary
    return numbers * (12 if how.compute == 4 else 14)


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions of a run, by where they are spent."""

    linears: int
    """Language Linears, forward and backward; the backward makes gradients of inputs only, as the base is frozen."""
    attention: int
    """Scores and sums."""
    head: int
    """Head at learned places, forward and backward."""
    vision: int
    """The tower: once an image, or forth and back in each epoch where it learns."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.linears + self.attention + self.head + self.vision


def flops(
    parts: Parts,
    shape: Shape,
    rows: Iterable[tuple[int, int]],
    patches: int,
    epochs: int,
    checkpointing: bool,
    vision: bool = False,
) -> Flops:
    """FLOPs of a whole run.

    Args:
        rows: (tokens, learned tokens) of each row.
        patches: of all images together.
        checkpointing: the forward runs twice.
        vision: the tower learns, too.
    """
    known = list(rows)
    tokens = sum(t for t, _ in known) * epochs
    passes = 3 if checkpointing else 2
    squares = sum(t * t for t, _ in known) * epochs
    wide = shape.heads * shape.head_dim * shape.layers
    return Flops(
        linears=2 * parts.in_linears * tokens * passes,
        attention=4 * squares * wide * (passes + 1),  # its backward costs twice its forward
        head=4 * shape.hidden * shape.vocabulary * sum(n for _, n in known) * epochs,
        vision=2 * parts.vision * patches * (2 * epochs if vision else 1),
    )
