"""Intervals and paired tests for shares of right answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    """Mean of the values."""
    low: float
    """2.5th percentile of resampled means."""
    high: float
    """97.5th percentile of resampled means."""
    n: int
    """Values."""


def bootstrap(
    values: Sequence[float], groups: Sequence[str] | None = None, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean with a 95 % percentile interval.

    Args:
        values: one a question.
        groups: the patient of each: whole patients are drawn again, because questions about one are alike.
    """
    v = np.asarray(values, float)
    if not len(v):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    names, index = np.unique(groups if groups is not None else np.arange(len(v)), return_inverse=True)
    sums, counts = np.bincount(index, v), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return Interval(float(v.mean()), float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5)), len(v))


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of paired right/wrong answers: the probability under "no change"."""
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    n, k = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
