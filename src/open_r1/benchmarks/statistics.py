"""pass@1, pass@k and their uncertainty, from verdicts alone.

Shapes: P problems, N samples a problem, R resamples. A verdict is 1.0, 0.0, or nan where there was none; a problem
without any verdict counts for nothing.
"""

import numpy as np

NUM_RESAMPLES = 2000


def problem_means(verdicts_PN: np.ndarray) -> np.ndarray:
    """For each problem that has a verdict, the mean of its verdicts; shape (P,) or shorter."""
    judged_P = (~np.isnan(verdicts_PN)).sum(axis=1)
    return np.nansum(verdicts_PN, axis=1)[judged_P > 0] / judged_P[judged_P > 0]


def pass_at_1(verdicts_PN: np.ndarray) -> float:
    """Mean over problems of the mean over samples."""
    return float(problem_means(verdicts_PN).mean())


def pass_at_k(verdicts_PN: np.ndarray, k: int) -> float:
    """Unbiased probability that one of k samples is right; nan if no problem has k verdicts.

    Chen et al. 2021 (arXiv 2107.03374), equation 1: the mean over problems of 1 - C(n-c, k) / C(n, k), here as a
    product of k factors, since the binomials overflow. Problems with fewer than k verdicts are left out.
    """
    judged_P = (~np.isnan(verdicts_PN)).sum(axis=1)
    enough_P = judged_P >= k
    if not enough_P.any():
        return float("nan")
    judged_P1 = judged_P[enough_P, None]
    wrong_P1 = judged_P1 - (verdicts_PN[enough_P] == 1.0).sum(axis=1, keepdims=True)
    drawn_K = np.arange(k)
    all_wrong_P = np.prod(np.clip(wrong_P1 - drawn_K, 0, None) / (judged_P1 - drawn_K), axis=1)
    return float((1.0 - all_wrong_P).mean())


def ks(num_samples: int) -> list[int]:
    """The k for which pass@k is reported: powers of two below the number of samples, and that number."""
    return [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples] + [num_samples]


def bootstrap_interval(values_P: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `values_P`, by drawing problems with replacement; the seed fixes it.

    Problems are drawn, not samples: the question is how the score would move on other problems of the same kind.
    """
    values_P = np.asarray(values_P, dtype=float)
    draws_RP = np.random.default_rng(seed).integers(len(values_P), size=(NUM_RESAMPLES, len(values_P)))
    means_R = values_P[draws_RP].mean(axis=1)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
