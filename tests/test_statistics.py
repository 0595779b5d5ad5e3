"""maj@k against votes counted by hand."""

import numpy as np
import pytest

from open_r1.benchmarks.statistics import majority_at_k, pass_at_1

UNJUDGED = float("nan")

VOTES = {  # answers and verdicts of each problem, k, maj@k
    "the most frequent answer is right": (["aab"], [[1, 1, 0]], 3, 1.0),
    "the most frequent answer is wrong, though the first is right": (["abb"], [[1, 0, 0]], 3, 0.0),
    "of two answers with equal votes the first wins": (["abba"], [[1, 0, 0, 1]], 4, 1.0),
    "the first of them also if the other had its last vote before": (["baab"], [[0, 1, 1, 0]], 4, 0.0),
    "no answer does not vote": ([[None, None, "a"]], [[0, 0, 1]], 3, 1.0),
    "where nobody votes the answer is wrong": ([[None, None]], [[0, UNJUDGED]], 2, 0.0),
    "where nobody votes and nothing was judged there is no vote": (
        [[None, None], "aa"],
        [[UNJUDGED] * 2, [1, 1]],
        2,
        1.0,
    ),
    "a majority has the verdict of its first judged sample": (["aab"], [[UNJUDGED, 1, 0]], 3, 1.0),
    "and not that of its last": (["aaa"], [[0, 1, 1]], 3, 0.0),
    "a problem whose majority was not judged is left out": (["aab", "ccc"], [[UNJUDGED, UNJUDGED, 0], [1] * 3], 3, 1.0),
    "problems count alike": (["aa", "bb", "cc", "dd"], [[1, 1], [0, 0], [0, 0], [0, 0]], 2, 1 / 4),
    "fewer than all vote block by block, in order": (["aabb"], [[1, 1, 0, 0]], 2, 1 / 2),
    "a rest of fewer than k has no vote": (["aabbc"], [[1, 1, 0, 0, 1]], 2, 1 / 2),
    "a block without verdict leaves the problem its others": (
        ["aabb", "cccc"],
        [[1, 1, *[UNJUDGED] * 2], [0] * 4],
        2,
        1 / 2,
    ),
    "answers may be any hashable": ([[(1, 2), 3, (1, 2)]], [[1, 0, 1]], 3, 1.0),
}


@pytest.mark.parametrize(("answers", "verdicts", "k", "expected"), VOTES.values(), ids=VOTES)
def test_majority_at_k(answers, verdicts, k, expected):
    assert majority_at_k(answers, np.array(verdicts, dtype=float), k) == pytest.approx(expected)


def test_majority_at_1_is_pass_at_1_of_problems_with_an_answer_each():
    verdicts = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert majority_at_k(["aba", "abc"], verdicts, 1) == pytest.approx(pass_at_1(verdicts))


@pytest.mark.parametrize(("answers", "verdicts", "k"), [(["aa"], [[1, 1]], 3), (["aa"], [[UNJUDGED] * 2], 2)])
def test_majority_is_nan_without_a_judged_vote(answers, verdicts, k):
    assert np.isnan(majority_at_k(answers, np.array(verdicts), k))
