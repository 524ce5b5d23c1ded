"""Rewards of a completion: pure functions of question, reference and completion, whose known exploits are closed."""

from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.rewards.combined import combined
from train.rl.rewards.exact import exact
from train.rl.rewards.named import KINDS, named
from train.rl.rewards.token_f1 import token_f1
from train.rl.text import words

__all__ = ["KINDS", "Case", "Reward", "Verdict", "combined", "exact", "named", "token_f1", "words"]
