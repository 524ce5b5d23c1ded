"""What a model has read: llama.cpp's KV cache with a note of what stands in it, so that prompts go on from there."""

import ctypes
from collections.abc import Sequence

import numpy as np

from audit.errors import BadInput, EnvironmentProblem
from train.gguf.library import bindings, last_words, quiet
from train.gguf.vision import Projector, Seen

BATCH = 512
"""Tokens read at a time."""

Part = int | Seen
"""A token, or the embeddings of a picture."""


class Context:
    """One sequence of tokens and pictures that the model has read.

    Args:
        model: handle of the loaded model.
        size: most tokens, visual ones included.
        threads: threads to compute with.
        exact: attention and cache in float32. Logits then differ four times less from transformers' than with flash
            attention over a half-precision cache, which larger models need for memory and speed.

    Raises:
        EnvironmentProblem: memory does not suffice.
    """

    def __init__(self, model: int, size: int, threads: int, exact: bool = False) -> None:
        self._llama, _ = bindings()
        parameters = self._llama.llama_context_default_params()
        trained = self._llama.llama_model_n_ctx_train(model)
        parameters.n_ctx = min(size, trained) if trained > 0 else size
        parameters.n_batch = parameters.n_ubatch = min(BATCH, parameters.n_ctx)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.n_seq_max, parameters.no_perf = 1, True
        if exact:
            parameters.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            parameters.type_k = parameters.type_v = self._llama.GGML_TYPE_F32
        with quiet() as lines:
            self._handle = self._llama.llama_init_from_model(model, parameters)
            if not self._handle:
                why = last_words(lines, "no reason given")
                raise EnvironmentProblem(f"no room for {size} tokens of context: {why}", hint="use a shorter context")
        self.size = parameters.n_ctx
        self.vocabulary = self._llama.llama_vocab_n_tokens(self._llama.llama_model_get_vocab(model))
        self._batch = _Batch(parameters.n_batch)
        self._parts: list[Part] = []
        self._starts: list[int] = [0]  # position of each part, and of the next one at the end
        self._used = 0

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.size - self._used

    def fits(self, parts: Sequence[Part], more: int) -> None:
        """Refuse a prompt that does not fit with ``more`` tokens after it.

        Raises:
            BadInput: with the numbers.
        """
        seen = sum(len(part.embeddings) for part in parts if isinstance(part, Seen))
        said = sum(isinstance(part, int) for part in parts)
        if said + seen + more > self.size:
            raise BadInput(
                f"the prompt has {said + seen} tokens ({seen} of the image) and the context {self.size}",
                hint="shorten the question, or load the model with a longer context",
            )

    def read(self, parts: Sequence[Part], wanted: int, projector: Projector | None) -> np.ndarray:
        """Read a prompt, from where it parts from what was read before.

        Args:
            parts: tokens and pictures; the last ``wanted`` are tokens.
            wanted: how many of the last tokens to give logits for, at least 1.

        Returns: (wanted, V) float32: row t is what follows the t-th of these tokens.
        """
        if any(isinstance(part, Seen) for part in parts[len(parts) - wanted :]):
            raise BadInput("the prompt ends with the image: the chat template puts nothing after it")
        known = min(self._shared(parts), len(parts) - wanted)
        self._back_to(known)
        rows: list[np.ndarray] = []
        try:
            at = known
            while at < len(parts):
                part = parts[at]
                if isinstance(part, Seen):
                    if projector is None:
                        raise BadInput("this model does not see: it was loaded without its mmproj")
                    projector.read_into(self._handle, part, self._starts[-1], self._batch.size)
                    self._note(part, part.positions, len(part.embeddings))
                    at += 1
                    continue
                run = _tokens_from(parts, at, self._batch.size)
                first = max(len(parts) - wanted - at, 0)
                rows.append(self._decode(run, first))
                at += len(run)
        except BaseException:
            self._back_to(0)
            raise
        return np.concatenate(rows)

    def append(self, token: int) -> np.ndarray:
        """Read one token more; gives the logits (V,) of what follows."""
        return self._decode([token], 0)[0]

    def close(self) -> None:
        """Free the cache."""
        if self._handle:
            self._llama.llama_free(self._handle)
            self._handle = None

    def _shared(self, parts: Sequence[Part]) -> int:
        """How many parts at the beginning are those that were read."""
        count = 0
        for old, new in zip(self._parts, parts, strict=False):
            same = old.digest == new.digest if isinstance(old, Seen) and isinstance(new, Seen) else old == new
            if type(old) is not type(new) or not same:
                break
            count += 1
        return count

    def _back_to(self, count: int) -> None:
        """Forget all parts but the first ``count``."""
        if count == len(self._parts):
            return
        memory = self._llama.llama_get_memory(self._handle)
        if count == 0 or not self._llama.llama_memory_seq_rm(memory, 0, self._starts[count], -1):
            count = 0
            self._llama.llama_memory_clear(memory, False)
        for part in self._parts[count:]:
            self._used -= len(part.embeddings) if isinstance(part, Seen) else 1
        del self._parts[count:], self._starts[count + 1 :]

    def _decode(self, tokens: Sequence[int], first: int) -> np.ndarray:
        """Read up to a batch of tokens; gives logits from the ``first``-th on."""
        status = self._llama.llama_decode(self._handle, self._batch.of(tokens, self._starts[-1], first))
        if status != 0:
            raise EnvironmentProblem(f"llama.cpp cannot compute (status {status})", hint="cloche doctor")
        for token in tokens:
            self._note(token, 1, 1)
        count = len(tokens) - first
        if count <= 0:
            return np.zeros((0, self.vocabulary), np.float32)
        found = np.ctypeslib.as_array(self._llama.llama_get_logits(self._handle), shape=(count, self.vocabulary))
        return found.copy()

    def _note(self, part: Part, positions: int, cells: int) -> None:
        self._parts.append(part)
        self._starts.append(self._starts[-1] + positions)
        self._used += cells


def _tokens_from(parts: Sequence[Part], at: int, most: int) -> list[int]:
    run: list[int] = []
    for part in parts[at : at + most]:
        if isinstance(part, Seen):
            break
        run.append(part)
    return run


class _Batch:
    """llama.cpp's batch over arrays that stay where they are: filling it costs a few array writes."""

    def __init__(self, size: int) -> None:
        llama, _ = bindings()
        self.size = size
        self._tokens, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._outputs, self._counts = np.zeros(size, np.int8), np.ones(size, np.int32)
        self._sequence = np.zeros(1, np.int32)
        self._sequences = np.full(size, self._sequence.ctypes.data, np.uintp)
        kinds = dict(llama.llama_batch._fields_)
        arrays: dict[str, np.ndarray] = {
            "token": self._tokens, "pos": self._positions, "n_seq_id": self._counts, "seq_id": self._sequences,
            "logits": self._outputs,
        }  # fmt: skip
        self._struct = llama.llama_batch()
        for name, array in arrays.items():
            setattr(self._struct, name, ctypes.cast(array.ctypes.data, kinds[name]))

    def of(self, tokens: Sequence[int], position: int, first: int) -> ctypes.Structure:
        """These tokens from ``position`` on, with logits from the ``first``-th on."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(position, position + count)
        self._outputs[:count] = 0
        self._outputs[first:count] = 1
        self._struct.n_tokens = count
        found: ctypes.Structure = self._struct
        return found
