"""Work that is done in parts, and in smaller parts where memory runs out."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from audit.errors import EnvironmentProblem

Found = TypeVar("Found")
_SAID = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "CUDA out of memory")
"""What torch says in a plain RuntimeError where a CPU's memory runs out."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


class Fitting:
    """Does work over rows, as many at a time as memory allows; what did not fit once is not tried again.

    Args:
        rows: at a time, to begin with.
        tell: told when there are fewer.
    """

    def __init__(self, rows: int, tell: Callable[[str], None]) -> None:
        self.rows, self.tell = rows, tell

    def do(self, total: int, work: Callable[[int], Found], undo: Callable[[], None] = lambda: None) -> Found:
        """Do work, anew with half the rows at a time until it fits.

        Args:
            total: rows that there are.
            work: given the rows at a time.
            undo: takes back what a failed try has left.
        Raises: EnvironmentProblem where one row does not fit.
        """
        while True:
            try:
                return work(self.rows)
            except Exception as error:  # told apart below: torch raises plain RuntimeErrors, too
                if not out_of_memory(error):
                    raise
            # Outside of the handler: the error's traceback would hold the tensors that are to go.
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            tried = min(self.rows, total)
            if tried == 1:
                raise EnvironmentProblem(
                    "memory ran out over a single row",
                    where="train",
                    hint="lower --max-visual-tokens or --rank, take --precision nf4 or --gradient-checkpointing on",
                )
            self.rows = (tried + 1) // 2
            self.tell(f"memory ran out with {tried} rows at a time; going on with {self.rows}, same global batch")


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak anew, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU's tensors since the last reset; of this process since its start on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
