"""What a reward model is worth, by pairs that it was not trained on.

Accuracy says how often it prefers the better answer, calibration whether it is as often right as it is sure, and the
correlation with length whether it has learned no more than to count tokens.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from open_r1.step_process import RunStopped

NUM_BINS = 5  # of confidence, from 0.5 to 1


def report_on(
    chosen: Sequence[float], rejected: Sequence[float], chosen_tokens: Sequence[float], rejected_tokens: Sequence[float]
) -> dict[str, Any]:
    """The report: accuracy, calibration, correlations with length and the scale of the rewards, of P pairs.

    accuracy            share of pairs whose chosen answer has the higher reward; equal rewards are half right
    accuracy_stderr     its standard error
    loss                mean of -log sigmoid(chosen - rejected), in nats; log 2 is what knowing nothing costs
    calibration_error   mean over the bins, by their pairs, of |share right - mean confidence| (expected calibration
                        error, Guo et al., arXiv 1706.04599, equation 3); confidence is sigmoid |chosen - rejected|
    calibration         the bins: pairs, mean confidence, share right
    length_correlation  of the reward with the tokens within a pair: of the differences, Spearman's rank correlation
    longer_is_chosen    share of pairs whose chosen answer is the longer one, of those of different length
    accuracy_if_longer, accuracy_if_shorter   among pairs whose chosen answer is the longer, the shorter one
    mean, std           of all rewards

    What there are no pairs for is None. Raises ValueError without any pair, RunStopped for rewards that are no numbers.
    """
    chosen, rejected, chosen_tokens, rejected_tokens = map(
        np.asarray, (chosen, rejected, chosen_tokens, rejected_tokens)
    )
    if not len(chosen):
        raise ValueError("no held-out pairs")
    margin = chosen - rejected
    if num_lost := int((~np.isfinite(margin)).sum()):
        raise RunStopped(f"the reward model gives no finite number in {num_lost} of {len(chosen)} held-out pairs")
    right = (margin > 0) + 0.5 * (margin == 0)
    tokens = chosen_tokens - rejected_tokens
    accuracy = float(right.mean())
    bins = _bins(1 / (1 + np.exp(-np.abs(margin))), right)
    rewards = np.concatenate([chosen, rejected])
    return {
        "num_pairs": len(chosen),
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / len(chosen)),
        "loss": float(np.logaddexp(0, -margin).mean()),
        "calibration_error": sum(b["pairs"] * abs(b["right"] - b["confidence"]) for b in bins) / len(chosen),
        "calibration": bins,
        "length_correlation": _rank_correlation(margin, tokens),
        "longer_is_chosen": _mean((tokens > 0)[tokens != 0]),
        "accuracy_if_longer": _mean(right[tokens > 0]),
        "accuracy_if_shorter": _mean(right[tokens < 0]),
        "mean": float(rewards.mean()),
        "std": float(rewards.std()),
    }


def _bins(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Bins of equal width from 0.5 to 1, those that hold pairs."""
    number = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "pairs": int((number == index).sum()),
            "confidence": float(confidence[number == index].mean()),
            "right": float(right[number == index].mean()),
        }
        for index in range(NUM_BINS)
        if (number == index).any()
    ]


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's: Pearson's correlation of the ranks, equals sharing their mean rank; None where one never varies."""
    ranks = [_ranks(values) for values in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[position]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
