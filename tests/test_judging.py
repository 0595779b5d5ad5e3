"""Verdicts: the policy as it is written down, and a table of cases that was made without sight of the code."""

import re
from pathlib import Path

import pytest
from accuracy_cases import CASES

import open_r1.judging
from open_r1.judging import mathematics
from open_r1.rewards import accuracy_reward

POLICY = Path(open_r1.judging.__file__).with_name("README.md")
ROW = re.compile(r"^\| `(?P<gold>.*?)` \| `(?P<answer>.*?)` \| (?P<verdict>right|wrong|none) \|$", re.MULTILINE)
SCORES = {"right": 1.0, "wrong": 0.0, "none": None}
POLICY_ROWS = [(row["gold"], row["answer"], SCORES[row["verdict"]]) for row in ROW.finditer(POLICY.read_text("utf-8"))]
TABLE = [(kind, *case) for kind, cases in CASES.items() for case in cases]


def test_every_row_of_the_policy_is_read():
    rows = [line for line in POLICY.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert len(POLICY_ROWS) == len(rows) > 50


@pytest.mark.parametrize(("gold", "answer", "score"), POLICY_ROWS)
def test_policy(gold, answer, score):
    assert mathematics.judge(gold, answer).score == score


@pytest.fixture(scope="module")
def verdicts():
    """All cases in one batch: what else is in it must not matter."""
    scores = accuracy_reward([completion for _, _, completion, _ in TABLE], [gold for _, gold, _, _ in TABLE])
    return dict(zip(range(len(TABLE)), scores, strict=True))


@pytest.mark.parametrize("index", range(len(TABLE)), ids=lambda index: f"{TABLE[index][0]}-{index}")
def test_case(index, verdicts):
    kind, gold, completion, verdict = TABLE[index]
    assert verdicts[index] == verdict, (kind, gold[:200], completion[:200])
