"""Make a GGUF smaller by a call into llama.cpp, without one of its programs."""

import ctypes
import os
from pathlib import Path

from audit.errors import BadInput, EnvironmentProblem
from train.gguf.files import replaced
from train.gguf.header import read_header
from train.gguf.library import bindings, last_words, path_to, quiet

KINDS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S")
"""What a language model can be quantised to, the largest first."""
_LARGE, _SMALL = 3_000_000_000, "Q4_K_M"


def preset(parameters: int, small: bool = False) -> str:
    """The kind for a language model of this size: Q8_0 up to 3B, Q5_K_M above, Q4_K_M where ``small`` is asked for."""
    return _SMALL if small else "Q8_0" if parameters <= _LARGE else "Q5_K_M"


def quantise(source: Path, out: Path, kind: str = "Q8_0", threads: int = 0) -> None:
    """Write ``source`` with its matrices in ``kind``; metadata stay.

    Args:
        source: GGUF of a language model in f16 or f32.
        out: the quantised GGUF; appears whole or not at all.
        kind: one of ``KINDS``. K-quants need rows that are multiples of 256; llama.cpp gives other rows a larger kind.
        threads: 0 for all cores.

    Raises:
        BadInput: ``source`` is no sound GGUF of a language model, or ``kind`` is unknown.
        EnvironmentProblem: llama.cpp is missing, or the disk is full.
    """
    if kind not in KINDS:
        raise BadInput(f"{kind} is no kind of quantisation", hint=f"use one of {', '.join(KINDS)}")
    header = read_header(source)
    llama, _ = bindings()
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = threads or len(os.sched_getaffinity(0))
    with replaced(out) as partial, quiet() as lines, path_to(source) as path:
        status = llama.llama_model_quantize(path, os.fsencode(partial), ctypes.byref(parameters))
        if status != 0:
            why = last_words(lines, f"llama.cpp ended with status {status}")
            if "iostream" in why:  # the source was read whole just now, so it is the writing that failed
                raise EnvironmentProblem(
                    "the quantised GGUF could not be written", where=str(out), hint="cloche doctor"
                )
            raise BadInput(f"the GGUF cannot be quantised: {why}", where=str(source))
        if read_header(partial).tensors.keys() != header.tensors.keys():
            raise BadInput("the quantised GGUF lacks tensors of its source", where=str(source))
