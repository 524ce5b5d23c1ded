"""Ask a GGUF model, with the picture read once and every further question starting at once.

What the model has read stays in its KV cache. A prompt that begins like the one before it is read on from where the
two part: the second question about a picture costs its own words only, and so does the next judgement behind one
few-shot head. Prompts are rendered with the chat template inside the GGUF, and pictures are placed by llama.cpp's own
M-RoPE code. One caller at a time.

Load only what a verified manifest names. A file that is broken is refused here, but llama.cpp computes on names and
shapes it finds plausible, and a file made to harm can bring the process down.
"""

import ctypes
import math
import os
import unicodedata
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.random import Generator as Random
from PIL import Image

from audit.conversation import Turn
from audit.errors import BadInput
from train.gguf.context import Context
from train.gguf.header import read_header
from train.gguf.library import bindings, last_words, path_to, quiet, restore, silence
from train.gguf.template import ChatTemplate
from train.gguf.vision import Projector, Seen

_CONTROL = 3
"""Type number of control tokens in a GGUF's vocabulary."""
_MOST_LAYERS = 512
"""llama.cpp's own limit."""
_SMALL = 50_000_000
"""Parameters below which one thread computes alone, in float32."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    """The answer, control tokens left out."""
    tokens: tuple[int, ...]
    """Its tokens, without the one that ended it."""
    logprob: float
    """Sum of the log-probabilities of its tokens, the end included where the model ended it."""
    margins: tuple[float, ...]
    """For each of these tokens, log-probability of the likeliest minus that of the second."""
    stopped: bool
    """Whether the model ended the answer; False where ``max_tokens`` or the context did."""


class Engine:
    """A loaded GGUF model; a context manager.

    Args:
        text: the language model, a GGUF file or its bytes. Bytes are read through memory only.
        mmproj: its vision part likewise, or None.
        context: most tokens of prompt and answer together; never more than the model was trained for.
        threads: threads to compute with; None for as many as pay (``worthwhile_threads``).

    Raises:
        BadInput: no sound GGUF, no language model with a chat template, or an mmproj of another model.
        EnvironmentProblem: llama.cpp is missing, or memory does not suffice.
    """

    def __init__(
        self, text: Path | bytes, mmproj: Path | bytes | None = None, context: int = 2048, threads: int | None = None
    ) -> None:
        self._llama, _ = bindings()
        header = read_header(text)
        self.metadata = header.metadata
        size = sum(math.prod(shape) for shape in header.tensors.values())
        threads = threads or worthwhile_threads(size)
        where = str(text) if isinstance(text, Path) else "model in memory"
        source, control = _checked(self.metadata, where)
        silence()
        try:
            self._model = self._load(text, where)
            self._projector = None
            try:
                self._projector = Projector(mmproj, self._model, threads) if mmproj is not None else None
                self._context = Context(self._model, context, threads, exact=size < _SMALL)
            except BaseException:
                _free(None, self._projector, self._model)
                raise
        except BaseException:
            restore()
            raise
        self._vocabulary = self._llama.llama_model_get_vocab(self._model)
        self._nfc = str(self.metadata.get("tokenizer.ggml.pre")).startswith("qwen")
        slot = self._projector.slot if self._projector else ""
        self._template = ChatTemplate(source, control, slot, self._nfc)
        self.close = weakref.finalize(self, _close, self._context, self._projector, self._model)
        """Free the model; happens by itself at the end of a ``with`` block or of the process."""

    def _load(self, text: Path | bytes, where: str) -> int:
        with quiet() as lines, path_to(text) as path:
            model = self._llama.llama_model_load_from_file(path, self._llama.llama_model_default_params())
            if not model:
                raise BadInput(f"the model cannot be loaded: {last_words(lines, 'no reason given')}", where=where)
        return int(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def prompt(self, messages: Sequence[Turn], image: Image.Image | None = None) -> str:
        """The text that the model reads, an image slot where the picture belongs.

        Raises:
            BadInput: see ``ChatTemplate.render``.
        """
        slot = self._projector.slot if self._projector else ""
        return slot.join(self._template.render(messages, image is not None))

    @property
    def end(self) -> int:
        """The token that ends a turn."""
        return int(self._llama.llama_vocab_eos(self._vocabulary))

    def ends(self, token: int) -> bool:
        """Whether a token ends what is generated."""
        return bool(self._llama.llama_vocab_is_eog(self._vocabulary, token))

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, nothing put before or behind it; ``special`` reads control tokens as such."""
        try:
            data = (unicodedata.normalize("NFC", text) if self._nfc else text).encode()
        except UnicodeEncodeError as error:
            raise BadInput("this text is not valid Unicode") from error
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        count = self._llama.llama_tokenize(self._vocabulary, data, len(data), buffer, len(buffer), False, special)
        if count < 0:
            raise BadInput("this text cannot be cut into tokens")
        return list(buffer[:count])

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> str:
        """Text of token ids; ``special`` writes control tokens out."""
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        size = 64 + 16 * len(tokens)
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._llama.llama_detokenize(self._vocabulary, ids, len(tokens), buffer, size, False, special)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            size = -count

    def answers(
        self, image: Image.Image | None, questions: Sequence[Sequence[Turn]], max_tokens: int = 64,
        temperature: float = 0.0, choices: Sequence[str] | None = None, seed: int = 0,
    ) -> list[Answer]:  # fmt: skip
        """Answer several dialogues about one image; the image is encoded and read once.

        Args:
            image: already resized as in training, or None.
            questions: dialogues, each ending where the assistant is to speak.
            max_tokens: most tokens of an answer.
            temperature: 0 for the likeliest token each time, else drawn, with ``seed``.
            choices: answers to choose from. The likeliest is the answer; its one margin is that to the second.

        Raises:
            BadInput: a prompt that does not fit the context, a broken image, a control token in a turn.
        """
        if choices is not None:
            return [self._choose(image, turns, choices) for turns in questions]
        draw = np.random.default_rng(seed)
        return [self._answer(self._parts(turns, image), max_tokens, temperature, draw) for turns in questions]

    def _answer(self, parts: list[int | Seen], max_tokens: int, temperature: float, draw: Random) -> Answer:
        self._context.fits(parts, 1)
        (row,) = self._context.read(parts, 1, self._projector)
        tokens: list[int] = []
        total, margins, stopped = 0.0, [], False
        for step in range(max_tokens):
            chances = log_softmax(row)
            token = _pick(chances, temperature, draw)
            second, first = np.partition(chances, -2)[-2:]
            margins.append(float(first - second))
            total += float(chances[token])
            stopped = self.ends(token)
            if stopped:
                break
            tokens.append(token)
            if step + 1 == max_tokens or not self._context.room:
                break
            row = self._context.append(token)
        return Answer(self.detokenize(tokens), tuple(tokens), total, tuple(margins), stopped)

    def _choose(self, image: Image.Image | None, turns: Sequence[Turn], choices: Sequence[str]) -> Answer:
        chances = self.score(image, turns, choices)
        best, *others = sorted(chances, key=lambda choice: -chances[choice])
        margins = (chances[best] - chances[others[0]],) if others else ()
        return Answer(best, tuple(self.tokenize(best, special=False)), chances[best], margins, True)

    def score(
        self, image: Image.Image | None, messages: Sequence[Turn], options: Sequence[str], ended: bool = True
    ) -> dict[str, float]:
        """Log-probability of each option as the answer; with ``ended`` as the whole answer, its end included."""
        if not options:
            raise BadInput("there are no options to choose from")
        parts = self._parts(messages, image)
        end = [self.end] if ended else []
        found = {}
        for option in options:
            ids = [*self.tokenize(option, special=False), *end]
            rows = self._rows(parts, ids)
            found[option] = float(sum(log_softmax(row)[token] for row, token in zip(rows, ids, strict=True)))
        return found

    def logits(self, image: Image.Image | None, messages: Sequence[Turn], continuation: Sequence[int]) -> np.ndarray:
        """Logits over a given answer.

        Args:
            continuation: T token ids that follow the prompt.

        Returns: (T, V) float32; row t predicts ``continuation[t]``.
        """
        return self._rows(self._parts(messages, image), continuation)

    def _rows(self, parts: Sequence[int | Seen], continuation: Sequence[int]) -> np.ndarray:
        if not continuation:
            return np.zeros((0, self._context.vocabulary), np.float32)
        whole = [*parts, *continuation[:-1]]
        self._context.fits(whole, 0)
        return self._context.read(whole, len(continuation), self._projector)

    def _parts(self, messages: Sequence[Turn], image: Image.Image | None) -> list[int | Seen]:
        """The prompt as token ids and embeddings, in order."""
        head, *tail = self._template.render(messages, image is not None)
        parts: list[int | Seen] = [*self.tokenize(head)]
        if image is not None and self._projector is not None:
            for part in self._projector.see(image).parts:
                parts.extend(part if isinstance(part, tuple) else [part])
            parts.extend(self.tokenize(tail[0]))
        return parts


def worthwhile_threads(parameters: int) -> int:
    """One thread for a model so small that threads would wait for each other longer than they compute, else all cores.

    llama.cpp's threads meet after every operation and wait by spinning; on a busy machine a second thread made a model
    of 8 million parameters 50 times slower, and none faster.
    """
    return 1 if parameters < _SMALL else len(os.sched_getaffinity(0))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities (V,) float64 of logits (V,)."""
    shifted = logits.astype(np.float64) - logits.max()
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return found


def _checked(facts: Mapping[str, object], where: str) -> tuple[str, list[str]]:
    """Chat template and control tokens, after what llama.cpp would end the process for has been looked at."""
    tokens, kinds = facts.get("tokenizer.ggml.tokens"), facts.get("tokenizer.ggml.token_type")
    source, layers = facts.get("tokenizer.chat_template"), facts.get(f"{facts.get('general.architecture')}.block_count")
    if not isinstance(tokens, list) or not isinstance(kinds, list) or not isinstance(source, str):
        raise BadInput("this GGUF is no language model with a chat template", where=where, hint="cloche export")
    broken = len(set(map(str, tokens))) < len(tokens) or len(kinds) != len(tokens)
    if broken or not isinstance(layers, int) or not 0 < layers <= _MOST_LAYERS:
        raise BadInput("the model's vocabulary or shape is broken", where=where, hint="copy or export the model again")
    return source, [str(token) for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]


def _pick(chances: np.ndarray, temperature: float, draw: Random) -> int:
    if temperature <= 0:
        return int(chances.argmax())
    weights = np.exp(log_softmax(chances / temperature))
    return int(draw.choice(len(weights), p=weights / weights.sum()))


def _close(context: Context, projector: Projector | None, model: int) -> None:
    _free(context, projector, model)
    restore()


def _free(context: Context | None, projector: Projector | None, model: int) -> None:
    if context is not None:
        context.close()
    if projector is not None:
        projector.close()
    bindings()[0].llama_model_free(model)
