"""Several processes that train one adapter, each on its share of a step's rows; one GPU of the same box each.

`accelerate launch` (or torchrun) starts them and says in the environment who is who. Their gradients are summed, and
the loss is already divided by what the whole step weighs, so that a step is the step of one process. The first process
alone keeps checkpoints, tells progress and names records; the others are told what it read. No pickle goes between
them, and nothing leaves the machine: the group meets and talks on the loopback device only.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

from audit.errors import BadInput, IntegrityFailure, Refused
from train.checkpoints import Store

Item = TypeVar("Item")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DEATH = 1
"""PR_SET_PDEATHSIG. Source: prctl(2)."""


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    """Number of this process; 0 is the first."""
    size: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this process keeps checkpoints and speaks for all."""
        return self.rank == 0

    def share(self, rows: Sequence[Item]) -> list[Item]:
        """This process's part of a step's rows; rows sorted by length give all about the same work."""
        return list(rows[self.rank :: self.size])

    def sum_gradients(self, weights: Iterable[Any]) -> None:
        """Make every process's gradients the sum of all; a process without rows adds nothing."""
        if self.size == 1:
            return
        learning = list(weights)
        has = torch.tensor([float(w.grad is not None) for w in learning], device=learning[0].device)
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in learning]
        whole = torch.cat([part.flatten() for part in parts] + [has])
        distributed.all_reduce(whole)
        *summed, has = whole.split([*(w.numel() for w in learning), len(learning)])
        for weight, part, some in zip(learning, summed, has.tolist(), strict=True):
            weight.grad = part.view_as(weight).clone() if some else None  # as where one process has seen no image

    def summed(self, value: float, device: Any = "cpu") -> float:
        """The sum of a number over all processes.

        Args:
            device: where the model lies: NCCL carries nothing else.
        """
        if self.size == 1:
            return value
        one = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.all_reduce(one)
        return float(one)

    def same(self, weights: Iterable[Any]) -> None:
        """Give every process the first one's weights."""
        if self.size > 1:
            for weight in weights:
                distributed.broadcast(weight.data, 0)

    def told(self, data: bytes | None = None) -> bytes | None:
        """What the first process has read, for all; what the others give is not asked for."""
        if self.size == 1:
            return data
        device = _device()
        length = torch.tensor([len(data) if self.first and data is not None else -1], device=device)
        distributed.broadcast(length, 0)
        if int(length) < 0:
            return None
        if self.first and data is not None:
            body = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8).to(device)
        else:
            body = torch.zeros(max(1, int(length)), dtype=torch.uint8, device=device)
        distributed.broadcast(body, 0)
        return body[: int(length)].cpu().numpy().tobytes()

    def say(self, word: str) -> None:
        """Tell the others a word; the first process's part of `heard`."""
        self.told(word.encode())

    def heard(self) -> str:
        """Wait for the word that the first process says."""
        return (self.told() or b"").decode()

    def store(self, store: Store) -> Store:
        """A store that the first process alone reads and writes, and tells the others of."""
        return store if self.size == 1 else _Told(self, store)

    def only_first(self, call: Callable[..., None]) -> Callable[..., None]:
        """A call that the first process alone makes."""
        return call if self.first else lambda *_: None


ALONE = Team()
"""The only process of a run."""


class _Told:
    """See Team.store."""

    def __init__(self, team: Team, store: Store) -> None:
        self.team, self.kept = team, store

    def save(self, data: bytes) -> None:
        """Keep ``data``, once."""
        if self.team.first:
            self.kept.save(data)

    def load(self, back: int = 0) -> bytes | None:
        """What the first process finds, or that it cannot be read."""
        if not self.team.first:
            data = self.team.told()
        else:
            try:
                data = self.kept.load(back)
            except IntegrityFailure:
                data = b""
            self.team.told(data)
        if data == b"":
            raise IntegrityFailure("it cannot be read", where="checkpoint")
        return data


def here() -> Team:
    """Who this process is, by its environment; nothing is opened. Raises BadInput where it contradicts itself."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        rank = size = 0
    if not 0 <= rank < size:
        raise BadInput("RANK and WORLD_SIZE name no process of a group", hint="start it with `accelerate launch`")
    return Team(rank, size)


def join() -> Team:
    """Meet the other processes of this run, if there are any; again does no harm.

    Raises:
        Refused: the others are to be met on another machine.
        BadInput: see here.
    """
    team = here()
    if team.size == 1:
        return team
    if distributed.is_initialized():
        return team
    if os.environ.get("MASTER_ADDR", _LOOPBACK[0]) not in _LOOPBACK:
        raise Refused(
            "training over several machines would send gradients over a network",
            where="MASTER_ADDR",
            hint="start all processes on this machine: `accelerate launch --multi_gpu --num_machines 1`",
        )
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    ctypes.CDLL(None).prctl(_DEATH, signal.SIGTERM)  # where the launcher is killed, its processes must not train on
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", team.rank)))
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo", rank=team.rank, world_size=team.size
    )
    return team


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> Any:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
