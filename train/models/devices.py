"""The device a model is put on: whether it is there, what it computes in, and what is said when it is lost."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from audit.errors import BadInput, EnvironmentProblem

_LOST = re.compile(r"CUDA (driver )?error|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|NVML_|GPU is lost", re.IGNORECASE)
_NOT_LOST = re.compile(r"out of memory|ALLOC_FAILED|device-side assert|no kernel image", re.IGNORECASE)
"""Too little memory is the trainer's to answer, an assertion is a bug of ours, and another GPU needs another build."""


def placed(device: str) -> str:
    """The device that is meant: ``auto`` is a GPU where there is one.

    Raises:
        BadInput: the name is none of ``auto``, ``cpu``, ``cuda`` and ``cuda:N``.
        EnvironmentProblem: this machine has no such GPU, or this torch cannot use it.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise BadInput(f"{device!r} is no device", where="--device", hint="use auto, cpu, cuda or cuda:0")
    if device == "cpu":
        return device
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= there:
        found = f"{there} GPU{'s' * (there != 1)}" if there else "no GPU that torch can use"
        raise EnvironmentProblem(
            f"there is no {device}: this machine has {found}",
            where="--device",
            hint="nvidia-smi says which GPUs there are; --device cpu does without",
        )
    return device


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX512-BF16 or AMX); elsewhere it is several times slower than fp32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def computed_in(precision: str, place: str, stored_in_bf16: bool) -> torch.dtype:
    """What everything that is not quantised is held and computed in.

    Args:
        precision: as asked for.
        place: a device of `placed`.
        stored_in_bf16: whether the files hold bf16: on a CPU a wider release keeps its bits.
    """
    if precision == "fp32":
        return torch.float32
    if place.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if fast_bf16() and (precision == "bf16" or stored_in_bf16) else torch.float32


@contextmanager
def gpu_may_be_lost(where: str = "training") -> Iterator[None]:
    """Turn what torch raises when a GPU falls off the bus, or fails for good, into an error of ours.

    Out of memory passes as it is: who trains halves the batch. Nothing on the GPU can be used any more afterwards, so
    this goes around everything that frees it, too.

    Raises:
        EnvironmentProblem: the GPU was lost.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch.AcceleratorError is one; libraries raise plain ones
        said = str(error).strip().partition("\n")[0][:200]
        if not (isinstance(error, torch.AcceleratorError) or _LOST.search(said)) or _NOT_LOST.search(said):
            raise
        raise EnvironmentProblem(
            f"the GPU was lost: {said}",
            where=where,
            hint="see nvidia-smi, restart the machine if it does not list the GPU, then type the same command: "
            "it goes on from the last checkpoint",
        ) from error
