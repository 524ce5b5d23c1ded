"""Devices: which are there, what a CPU computes in, and GPUs that are lost."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.conversation import Conversation, Turn
from audit.errors import BadInput, EnvironmentProblem
from train.checkpoints import MemoryStore
from train.lora import LoraConfig
from train.models.devices import computed_in, fast_bf16, gpu_may_be_lost, placed
from train.models.loading import load
from train.sft import SftConfig, run_sft

LOST = (
    torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA driver error: device not ready"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
)
KEPT = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ValueError("CUDA error"),
    KeyboardInterrupt(),
)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_gpu_is_told_and_says_how_to_go_on(error: Exception) -> None:
    with pytest.raises(EnvironmentProblem) as caught, gpu_may_be_lost("step 7"):
        raise error
    told = caught.value
    assert told.exit_code == 6 and told.where == "step 7" and told.__cause__ is error
    assert told.what == f"the GPU was lost: {str(error).splitlines()[0]}"
    assert "same command" in told.hint and "checkpoint" in told.hint


@pytest.mark.parametrize("error", KEPT, ids=str)
def test_what_is_no_lost_gpu_passes_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, gpu_may_be_lost():
        raise error
    assert caught.value is error
    with gpu_may_be_lost():
        pass


def test_the_same_call_goes_on_after_a_lost_gpu(loaded: Any, features: Any) -> None:
    """A run whose third step loses the GPU ends in the very adapter of a run that never did."""
    turns = (Turn("user", "Where?"), Turn("assistant", "Right.", True))
    talks = [Conversation(f"c{k}", (f"{k}:32:32",), turns, "r", "k") for k in range(4)]
    config = SftConfig(epochs=2, rows_per_step=2, checkpoint_every=1, lora=LoraConfig(2, 4))
    whole = run_sft(loaded, talks, features, config, MemoryStore())
    store = MemoryStore()

    def third(step: int, _: Any) -> None:
        if step == 2:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    with pytest.raises(EnvironmentProblem), gpu_may_be_lost():
        run_sft(loaded, talks, features, config, store, on_step=third)
    with gpu_may_be_lost():
        assert run_sft(loaded, talks, features, config, store).adapter == whole.adapter


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "mps", "cpu:0", "meta", "cuda:-1", "cuda 0"])
def test_what_names_no_device_is_said(name: str, tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(f"{name!r} is no device")) as caught:
        load(tiny_model, "fp32", name)
    assert caught.value.where == "--device" and "cuda:0" in caught.value.hint


def test_a_gpu_that_is_not_there_is_said(tiny_model: Path) -> None:
    there = torch.cuda.device_count()
    for name in [f"cuda:{there}", "cuda:99", *(() if there else ("cuda",))]:
        with pytest.raises(EnvironmentProblem, match=f"there is no {name}: this machine has ") as caught:
            load(tiny_model, "nf4", name)
        assert "--device cpu" in caught.value.hint
    assert placed("cpu") == "cpu"
    assert placed("auto") == ("cuda" if there else "cpu")


@pytest.mark.parametrize("able", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False}, {}])
def test_a_cpu_computes_bf16_where_it_can_itself(able: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth about this CPU is torch's; every kind of CPU must be answered, so its answer is put in."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    fast = any(able.values())
    assert fast_bf16() is fast
    wide, half = torch.float32, torch.bfloat16
    for stored in (False, True):
        assert computed_in("fp32", "cpu", stored) is computed_in("fp32", "cuda:1", stored) is wide
        assert computed_in("bf16", "cpu", stored) is (half if fast else wide)
        for precision in ("nf4", "int8", "bf16"):
            assert computed_in(precision, "cuda:1", stored) is half
        for precision in ("nf4", "int8"):
            assert computed_in(precision, "cpu", stored) is (half if fast and stored else wide)
