"""The part of the data that is not learned: its loss while training, when to stop, and which adapter was best."""

from dataclasses import dataclass, field
from typing import Any

import torch

from train.checkpoints import weights_of


@dataclass
class Watch:
    """Decides when to stop, and keeps the best adapter.

    A run that was cut off must decide the same: everything it knows is in the checkpoint, exactly.
    """

    patience: int
    """Measurements without a lower loss after which to stop; 0 never stops and keeps no adapter."""
    best: float = float("inf")
    """Lowest loss."""
    best_step: int = -1
    """Step after which it was measured."""
    waited: int = 0
    """Measurements since."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """The adapter's weights then, by name."""

    @property
    def stops(self) -> bool:
        """Whether the run is to end."""
        return bool(self.patience) and self.waited >= self.patience

    def see(self, loss: float, step: int, model: Any) -> None:
        """Take in a measurement; one that is no number is never the best."""
        if loss < self.best:
            self.best, self.best_step, self.waited = loss, step, 0
            if self.patience:
                self.weights = {n: p.detach().cpu().clone() for n, p in weights_of(model).items()}
        else:
            self.waited += 1

    def state(self) -> dict[str, Any]:
        """What it knows, as JSON; the weights are kept beside it."""
        best = self.best if self.best_step >= 0 else None
        return {"best": best, "best_step": self.best_step, "waited": self.waited}

    def resume(self, state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        """Go on from such a state."""
        if state and state["best"] is not None:
            self.best = float(state["best"])
        if state:
            self.best_step, self.waited, self.weights = int(state["best_step"]), int(state["waited"]), dict(weights)

    @torch.no_grad()
    def put_best(self, model: Any) -> None:
        """Give the model its best adapter back, where one was kept."""
        for name, weight in weights_of(model).items():
            if name in self.weights:
                weight.copy_(self.weights[name])
