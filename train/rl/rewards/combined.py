"""Several rewards for one completion, each on its own scale: whoever learns from them normalises each, then sums."""

from collections.abc import Sequence

from audit.errors import BadInput
from train.rl.rewards.case import Reward
from train.rl.rewards.named import named


def combined(specs: Sequence[str]) -> tuple[Reward, ...]:
    """The rewards that a person named, in that order.

    Raises:
        BadInput: there is none, one is unknown, or one stands there twice.
    """
    rewards = tuple(named(one) for one in specs)
    names = [one.name for one in rewards]
    if not names or len(set(names)) < len(names):
        raise BadInput(
            "a reward is named twice: it would count double" if names else "no reward is named",
            where="--reward",
            hint="cloche rewards list",
        )
    return rewards
