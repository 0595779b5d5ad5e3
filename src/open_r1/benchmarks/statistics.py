"""pass@1, pass@k and their uncertainty from verdicts alone, maj@k from answers and verdicts.

Shapes: P problems, N samples a problem, K of them that vote together, V votes, R resamples. A verdict is 1.0, 0.0, or
nan where there was none; a problem without any verdict counts for nothing.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

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


def majority_at_k(answers_PN: Sequence[Sequence[Hashable | None]], verdicts_PN: np.ndarray, k: int) -> float:
    """Probability that the most frequent of k answers is right (maj@k); nan if k samples of no problem were judged.

    Wang et al. 2022, self-consistency (arXiv 2203.11171); DeepSeek-R1 calls it cons@64 (arXiv 2501.12948). Equal
    answers are equal values of `answers_PN`; None is no answer and does not vote. Of answers with as many votes the
    one that came first wins. Its verdict is that of the first sample which gave it and was judged; where there is
    none, the vote counts for nothing. Where nobody votes the answer is wrong, if any sample was judged.

    The samples of a problem are taken in their order, k at a time, and a rest of fewer than k is left out: the mean
    over these votes, and then over problems. For k = N that is the vote of all samples. Votes of different samples are
    independent, so the mean is unbiased; one over all k of N samples would vary less, but they are too many to count.
    """
    verdicts_PN = np.asarray(verdicts_PN, dtype=float)
    num_votes = verdicts_PN.shape[1] // k
    votes_PV = np.array(
        [
            [_vote(answers_N[start : start + k], verdicts_N[start : start + k]) for start in range(0, num_votes * k, k)]
            for answers_N, verdicts_N in zip(answers_PN, verdicts_PN, strict=True)
        ]
    )
    return pass_at_1(votes_PV) if not np.isnan(votes_PV).all() else float("nan")


def _vote(answers_K: Sequence[Hashable | None], verdicts_K: np.ndarray) -> float:
    """The verdict of the most frequent answer; nan if it was not judged."""
    votes = Counter(answer for answer in answers_K if answer is not None)
    if not votes:
        return float("nan") if np.isnan(verdicts_K).all() else 0.0
    majority, _ = votes.most_common(1)[0]  # of equal ones the first that was counted
    judged = (
        verdict
        for answer, verdict in zip(answers_K, verdicts_K, strict=True)
        if answer == majority and not np.isnan(verdict)
    )
    return float(next(judged, float("nan")))


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
