"""The eye of a GGUF model: its mmproj file, which turns a picture into embeddings (llama.cpp's mtmd).

A picture comes already resized as in training. llama.cpp would resize it by rules of its own (8 to 4096 tokens for
Qwen-VL, whatever the training did), so sizes at which it would are refused, and the token count is checked.
"""

import ctypes
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from audit.errors import BadInput
from train.gguf.header import read_header
from train.gguf.library import bindings, last_words, path_to, quiet

_QWEN = ("qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger")
_MARKER = b"\x01picture\x01"
"""Stands for the picture in what mtmd tokenises; control characters that no tokenizer and no question has."""
_LARGEST = 16_384
"""Most visual tokens a picture may have."""


def image_slot(projector: str) -> str:
    """What the chat templates of a projector's family write where an image belongs."""
    if projector in _QWEN:
        return "<|vision_start|><|image_pad|><|vision_end|>"
    if projector == "idefics3":
        return "<image>"
    raise BadInput(f"the projector {projector} is not known here", where="mmproj", hint="docs name the model families")


@dataclass(frozen=True)
class Seen:
    """Embeddings of a picture, or of one tile of it."""

    digest: str
    """Names picture and tile; equal digests are equal embeddings."""
    embeddings: np.ndarray
    """(N, D) float32, D the width of the language model's input."""
    positions: int
    """How many positions it takes up; with M-RoPE fewer than N."""
    chunk: int
    """mtmd's handle, which knows rows and columns."""


@dataclass(frozen=True)
class Picture:
    """A picture as the model sees it."""

    digest: str
    """SHA-256 of its size and pixels."""
    parts: tuple[tuple[int, ...] | Seen, ...]
    """What stands in the prompt for it: runs of tokens (opening, closing) and embeddings."""


class Projector:
    """A loaded mmproj.

    Args:
        weights: the mmproj GGUF, or its bytes.
        model: handle of the loaded language model.
        threads: threads to encode with.

    Raises:
        BadInput: no sound mmproj GGUF, or not one of this language model.
    """

    def __init__(self, weights: Path | bytes, model: int, threads: int) -> None:
        self._llama, self._mtmd = bindings()
        facts = read_header(weights).metadata
        where = str(weights) if isinstance(weights, Path) else "mmproj in memory"
        if facts.get("general.architecture") != "clip" or not facts.get("clip.has_vision_encoder"):
            raise BadInput("this GGUF is no mmproj of a model that sees", where=where, hint="name the mmproj file")
        self.slot = image_slot(str(facts.get("clip.projector_type")))
        self._patch = facts.get("clip.vision.patch_size") if facts["clip.projector_type"] in _QWEN else None
        self._merge = facts.get("clip.vision.spatial_merge_size", 2)
        parameters = self._mtmd.mtmd_context_params_default()
        parameters.use_gpu, parameters.print_timings, parameters.n_threads = True, False, threads
        parameters.media_marker, parameters.warmup = _MARKER, False
        if self._patch:
            parameters.image_min_tokens, parameters.image_max_tokens = 1, _LARGEST
        with quiet() as lines, path_to(weights) as path:
            self._handle = self._mtmd.mtmd_init_from_file(path, model, parameters)
            if not self._handle:
                raise BadInput(f"the mmproj cannot be loaded: {last_words(lines, 'no reason given')}", where=where)
        self._width = self._llama.llama_model_n_embd_inp(model)
        self._chunks: list[int] = []
        self._last: Picture | None = None

    def see(self, image: Image.Image) -> Picture:
        """Encode a picture, unless it is the one seen last.

        Args:
            image: already resized as in training; any PIL mode, read as RGB.

        Raises:
            BadInput: a broken image, or a size at which llama.cpp would resize it.
        """
        if not isinstance(image, Image.Image):
            raise BadInput(f"an image was expected, not {type(image).__name__}")
        try:
            pixels = np.ascontiguousarray(image.convert("RGB"), np.uint8)  # (H, W, 3)
        except (OSError, SyntaxError, ValueError) as error:
            raise BadInput(f"the image cannot be read: {error}") from error
        height, width, _ = pixels.shape
        tokens = self._expected(height, width)
        digest = hashlib.sha256(b"%d %d " % (height, width) + pixels.tobytes()).hexdigest()
        if self._last is not None and self._last.digest == digest:
            return self._last
        self._forget()
        parts = self._encode(pixels, digest)
        found = sum(len(part.embeddings) for part in parts if isinstance(part, Seen))
        if tokens is not None and found != tokens:
            raise BadInput(f"llama.cpp made {found} visual tokens of an image of {tokens}: it resized the image")
        self._last = Picture(digest, parts)
        return self._last

    def _expected(self, height: int, width: int) -> int | None:
        """Visual tokens of a picture of this size; None where the family cuts tiles by rules of its own."""
        if not isinstance(self._patch, int) or not isinstance(self._merge, int):
            return None
        side = self._patch * self._merge
        if height % side or width % side or not height or not width:
            raise BadInput(
                f"the image has {width} x {height} pixels; this model wants multiples of {side}",
                hint="resize it as in training before it is asked about",
            )
        if (tokens := (height // side) * (width // side)) > _LARGEST:
            raise BadInput(f"the image would take {tokens} visual tokens and may take {_LARGEST}")
        return tokens

    def _encode(self, pixels: np.ndarray, digest: str) -> tuple[tuple[int, ...] | Seen, ...]:
        mtmd, parts = self._mtmd, []
        chunks = mtmd.mtmd_input_chunks_init()
        bitmap = mtmd.mtmd_bitmap_init(
            pixels.shape[1], pixels.shape[0], pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        )
        try:
            text = mtmd.mtmd_input_text(_MARKER, len(_MARKER), False, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1) != 0:
                raise BadInput("llama.cpp cannot read this image")
            for number in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, number)
                is_text = mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT
                parts.append(self._tokens(chunk) if is_text else self._seen(chunk, f"{digest}/{number}"))
        finally:
            mtmd.mtmd_bitmap_free(bitmap)
            mtmd.mtmd_input_chunks_free(chunks)
        return tuple(parts)

    def _tokens(self, chunk: int) -> tuple[int, ...]:
        count = ctypes.c_size_t()
        tokens = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return tuple(tokens[: count.value])

    def _seen(self, chunk: int, digest: str) -> Seen:
        if self._mtmd.mtmd_encode_chunk(self._handle, chunk) != 0:
            raise BadInput("llama.cpp cannot encode this image")
        count = self._mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        output = self._mtmd.mtmd_get_output_embd(self._handle)
        embeddings = np.ctypeslib.as_array(output, shape=(count, self._width)).copy()
        kept = self._mtmd.mtmd_input_chunk_copy(chunk)
        self._chunks.append(kept)
        return Seen(digest, embeddings, self._mtmd.mtmd_input_chunk_get_n_pos(chunk), kept)

    def read_into(self, context: int, seen: Seen, position: int, batch: int) -> None:
        """Let the language model read embeddings at ``position`` of sequence 0.

        Raises:
            BadInput: the context cannot take them.
        """
        data: Any = seen.embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        after = self._llama.llama_pos(position)
        status = self._mtmd.mtmd_helper_decode_image_chunk(
            self._handle, context, seen.chunk, data, position, 0, batch, ctypes.byref(after),
            self._mtmd.mtmd_helper_post_decode_callback(), None,
        )  # fmt: skip
        if status != 0:
            raise BadInput(f"the model cannot take the image in (llama.cpp's status {status})")

    def _forget(self) -> None:
        self._last = None
        while self._chunks:
            self._mtmd.mtmd_input_chunk_free(self._chunks.pop())

    def close(self) -> None:
        """Free everything."""
        self._forget()
        if self._handle:
            self._mtmd.mtmd_free(self._handle)
            self._handle = None
