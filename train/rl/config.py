"""How to align: the numbers of a run of GRPO, checked."""

from dataclasses import dataclass
from typing import Literal

from audit.errors import BadInput
from train.rl.objective import Objective


@dataclass(frozen=True)
class GrpoConfig:
    """How to align."""

    steps: int = 100
    """Rollouts, each with its updates."""
    prompts: int = 16
    """Groups a step."""
    group: int = 8
    """Completions a group, G."""
    max_new_tokens: int = 16
    """Tokens of a completion at most."""
    temperature: float = 1.0
    """Of the rollouts and of the log-probabilities."""
    learning_rate: float = 2e-4
    """Of AdamW, the same at every step."""
    kl: float = 0.0
    """Weight of the k3 estimate of KL to the policy without its adapter; 0 leaves the second forward out."""
    domain_weight: float = 1.0
    """Weight of the domain constraint, L_dom; 0 with ``shaping`` off leaves the transformed forward out."""
    shaping: bool = True
    """Multiply advantages with 1 - JS."""
    resample: int = 2
    """Times that zero-variance groups are replaced before the step goes on without."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the prompts and the rollouts."""
    loss: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "dapo"
    """How the tokens' terms are clipped and averaged."""
    epsilon_low: float | None = None
    """How far a ratio may fall below one; None takes the loss's own."""
    epsilon_high: float | None = None
    """How far it may rise above one (CISPO: the ratio's ceiling); None takes the loss's own."""
    reward_weights: tuple[float, ...] = ()
    """Weight of each reward, in order; empty: all weigh one."""
    scale_rewards: Literal["auto", "group", "none"] = "auto"
    """Divide advantages by the group's standard deviation; ``auto`` does but for dr_grpo."""
    updates: int = 1
    """Optimizer steps a rollout; from the second on, ratios leave one and clipping matters."""
    micro_groups: int = 0
    """Groups in memory at once; 0 takes them all. Fewer give the same gradients."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute layers again in the backward pass: less memory, a third more time."""

    def __post_init__(self) -> None:
        """Raises: BadInput naming the setting that is out of bounds."""
        at_least = {"steps": 0, "prompts": 1, "group": 2, "max_new_tokens": 1, "resample": 0, "checkpoint_every": 1}
        for name, least in {**at_least, "updates": 1, "micro_groups": 0, "kl": 0, "domain_weight": 0}.items():
            if not least <= getattr(self, name) < float("inf"):
                raise _refusal(name, f"must be {least} or more")
        for name in ("temperature", "learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise _refusal(name, "must be above 0")
        for name in ("epsilon_low", "epsilon_high"):
            if (value := getattr(self, name)) is not None and not 0 <= value < float("inf"):
                raise _refusal(name, "must be 0 or more")
        if self.scale_rewards not in ("auto", "group", "none"):
            raise _refusal("scale_rewards", "must be one of auto, group, none")
        _ = self.objective  # which refuses an unknown loss
        if any(not 0 <= weight < float("inf") for weight in self.reward_weights):
            raise _refusal("reward_weight", "must be 0 or more")

    @property
    def objective(self) -> Objective:
        """What the update minimises."""
        return Objective(self.loss, self.epsilon_low, self.epsilon_high, self.kl)

    @property
    def scaled(self) -> bool:
        """Whether advantages are divided by the group's standard deviation."""
        return self.scale_rewards == "group" or (self.scale_rewards == "auto" and self.loss != "dr_grpo")


def _refusal(name: str, rule: str) -> BadInput:
    return BadInput(f"--{name.replace('_', '-')} {rule}", where="alignment settings", hint="cloche align --help")
