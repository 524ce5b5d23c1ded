"""Synthetic triplets against the atlas: are the kept ones right more often than all?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from appliance.demo.hospital.truth import SliceTruth
from synth.triplet import Triplet


def judged_by_atlas(
    triplets: Sequence[Triplet],
    truths: Mapping[str, SliceTruth],
    score: Callable[[str, str, SliceTruth], bool | None],
    seed: int = 0,
) -> dict[str, Any]:
    """Rates of right answers of all scorable triplets and of the kept ones, and their difference by resampled patients.

    Args:
        truths: ground truth by record.
        score: of (question, answer, truth): right, wrong, or None where it cannot be scored.

    Triplets dropped only to balance yes and no count as neither kept nor wrong: the judge had let them through.
    """
    written = [t for t in triplets if t.instruction and t.precise and t.reason != "repeated"]
    rows = [(t, r) for t in written if (r := score(t.instruction, t.precise, truths[t.record])) is not None]
    right = np.array([r for _, r in rows], float)
    passed = np.array([t.kept or t.reason == "balance" for t, _ in rows], bool)
    patients, index = np.unique([truths[t.record].patient for t, _ in rows], return_inverse=True)

    def per_patient(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values, len(patients))

    drawn = np.random.default_rng(seed).integers(0, len(patients), (2000, len(patients)))
    all_right, all_n = per_patient(right)[drawn].sum(1), per_patient(np.ones(len(rows)))[drawn].sum(1)
    kept_right, kept_n = per_patient(right * passed)[drawn].sum(1), per_patient(passed * 1.0)[drawn].sum(1)
    gains = kept_right / np.maximum(kept_n, 1) - all_right / np.maximum(all_n, 1)
    low, high = np.percentile(gains, [2.5, 97.5])
    judged = [t for t in triplets if t.verdict]
    return {
        "right_all": float(right.mean()),
        "n_all": len(rows),
        "right_kept": float(right[passed].mean()),
        "n_kept": int(passed.sum()),
        "keep_rate": sum(t.kept or t.reason == "balance" for t in judged) / max(1, len(judged)),
        "gain": {"mean": float(right[passed].mean() - right.mean()), "low": float(low), "high": float(high)},
    }
