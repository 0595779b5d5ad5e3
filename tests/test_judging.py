"""Verdicts: the policy as it is written down, and a table of cases that was made without sight of the code."""

import re
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
import sympy
from accuracy_cases import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from latex_of_tests import ANSWERS

from open_r1.judging import JudgePool, mathematics, shared_pool
from open_r1.judging.mathematics import algebra
from open_r1.judging.mathematics.judge import judge
from open_r1.judging.mathematics.literals import number
from open_r1.judging.mathematics.notation import spelled_plainly
from open_r1.judging.mathematics.shortcut import content_of, without_algebra
from open_r1.judging.mathematics.values import certainly_differ
from open_r1.rewards import accuracy_reward

POLICY = Path(mathematics.__file__).with_name("README.md")
ROW = re.compile(r"^\| `(?P<gold>.*?)` \| `(?P<answer>.*?)` \| (?P<verdict>right|wrong|none) \|$", re.MULTILINE)
SCORES = {"right": 1.0, "wrong": 0.0, "none": None}
POLICY_ROWS = [(row["gold"], row["answer"], SCORES[row["verdict"]]) for row in ROW.finditer(POLICY.read_text("utf-8"))]
TABLE = [(kind, *case) for kind, cases in CASES.items() for case in cases]
BOMBS = [
    r"9^{9^{9^{9}}}",
    r"2^{3^{4^{5^{6}}}}",
    r"((100!)!)!",
    r"\binom{10^{9}}{5\cdot 10^{8}}",
    r"(x+1)^{10^{7}}-x",
    r"\sum_{k=1}^{10^{12}} k^{k}",
    r"\frac{1}{" * 1000 + "2" + "}" * 1000,
    r"\sqrt{" * 60 + "2" + "}" * 60,
    "{" * 100_000 + "}" * 100_000,
    r"\frac{1}{2}" * 90_000,
]
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def test_every_row_of_the_policy_is_read():
    rows = [line for line in POLICY.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert len(POLICY_ROWS) == len(rows) > 50


@pytest.mark.parametrize(("gold", "answer", "score"), POLICY_ROWS)
def test_policy(gold, answer, score):
    assert judge(gold, answer).score == score


@pytest.fixture(scope="module")
def verdicts():
    """All cases in one batch: what else is in it must not matter."""
    scores = accuracy_reward([completion for _, _, completion, _ in TABLE], [gold for _, gold, _, _ in TABLE])
    return dict(enumerate(scores))


@pytest.mark.parametrize("index", range(len(TABLE)), ids=lambda index: f"{TABLE[index][0]}-{index}")
def test_case(index, verdicts):
    kind, gold, completion, verdict = TABLE[index]
    assert verdicts[index] == verdict, (kind, gold[:200], completion[:200])


def test_ten_bombs_harm_no_other_answer():
    others = [(gold, completion) for _, gold, completion, _ in TABLE if len(completion) < 1000][: 256 - len(BOMBS)]
    alone = accuracy_reward([completion for _, completion in others], [gold for gold, _ in others])
    batch = list(others)
    for index, bomb in enumerate(BOMBS):
        batch.insert(index * 25, (r"\frac{x}{2}", rf"\boxed{{{bomb}}}"))
    scores = accuracy_reward([completion for _, completion in batch], [gold for gold, _ in batch], cpu_seconds=0.5)
    assert [scores.pop(index * 24) for index in range(len(BOMBS))] == [0.0] * len(BOMBS)
    assert scores == alone


def test_threads_judge_as_the_main_thread_does():
    rows = [(gold, completion) for kind, gold, completion, _ in TABLE if kind in ("intervals", "expressions", "units")]
    golds, completions = [gold for gold, _ in rows], [completion for _, completion in rows]
    with ThreadPoolExecutor(3) as threads:
        scores = list(threads.map(lambda _: accuracy_reward(completions, golds, cpu_seconds=3.0), range(3)))
    assert scores == [accuracy_reward(completions, golds)] * 3


def test_what_is_over_its_budget_is_counted():
    with JudgePool(num_workers=1, cpu_seconds=0.3) as pool:
        (verdict,) = pool.judge([("x", r"\sum_{k=1}^{10^{12}} k^{k}")])
        assert (verdict.score, pool.take_counts().budget_kills) == (0.0, 1)


@QUICK
@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=8, max_size=16))
def test_any_text_gets_a_verdict(pairs):
    for (gold, answer), verdict in zip(pairs, shared_pool().judge(pairs), strict=True):
        assert verdict.score in (0.0, 1.0) or verdict.is_about_gold, (gold, answer, verdict)


@QUICK
@given(ANSWERS)
def test_a_gold_answers_itself(gold):
    (verdict,) = shared_pool().judge([(gold, content_of(gold))])
    assert verdict.score != 0.0, verdict


@QUICK
@given(st.lists(st.tuples(st.text(), st.text()), max_size=16))
def test_any_completion_gets_a_reward(rows):
    assert len(accuracy_reward([text for text, _ in rows], [gold for _, gold in rows])) == len(rows)


LITERALS = [
    "12",
    "-7",
    "1,234",
    "0.5",
    ".25",
    "-3.10",
    r"\frac{3}{8}",
    r"-\frac{22}{7}",
    r"2\frac{1}{3}",
    "3/4",
    "007",
    "1.50",
]


@pytest.mark.parametrize("text", LITERALS)
def test_the_short_cut_reads_numbers_as_math_verify_does(text):
    plain = spelled_plainly(text)
    assert sympy.Rational(number(plain).value) == algebra.parsed(plain)


@pytest.mark.parametrize("gold", LITERALS)
@pytest.mark.parametrize("answer", LITERALS)
def test_the_short_cut_judges_numbers_as_algebra_does(gold, answer):
    equal = algebra.parsed(spelled_plainly(gold)) == algebra.parsed(spelled_plainly(answer))
    assert without_algebra(gold, answer).score == float(equal)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"1.2\times10^{3}", 1200),
        ("10^{-2}", Fraction(1, 100)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"12.5\%", Fraction(1, 8)),
        ("3:4", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (r"2\frac{3}{2}", None),  # a product
        (r"10^{100000}", None),
        (r"\frac{1}{0}", None),
        ("2^{10}", None),
        ("1,23", None),
        ("5x", None),
    ],
)
def test_what_is_a_number(text, value):
    read = number(spelled_plainly(text))
    assert (read and read.value) == value


FORMULAS = [
    *(
        "x^2+2x+1",
        "(x+1)^{2}",
        "x^2-1",
        "(x-1)(x+1)",
        r"\frac{x}{2}",
        "x/2",
        r"2\sqrt{3}",
        r"\sqrt{12}",
        r"\frac{6}{\sqrt{3}}",
    ),
    *(
        r"\pi+1",
        r"1+\pi",
        "3-4i",
        "-4i+3",
        "3+4i",
        r"\sqrt[3]{8}x",
        "2x",
        "-x^2",
        "(-x)^2",
        "2^{x+1}",
        r"2\cdot 2^{x}",
        "a-b-c",
    ),
    *(
        "a-(b+c)",
        "a-(b-c)",
        r"\frac{1}{x+1}",
        "e^{2}",
        r"e\cdot e",
        "10^{15}+x",
        "10^{15}+x+1",
        r"6\div 2",
        "3",
        r"-\frac{-3}{4}",
    ),
]


@pytest.mark.parametrize("answer", FORMULAS)
def test_values_tell_apart_only_what_algebra_tells_apart(answer):
    for gold in FORMULAS:
        if certainly_differ(spelled_plainly(gold), spelled_plainly(answer)):
            one, other = (algebra.parsed(spelled_plainly(formula)) for formula in (gold, answer))
            assert sympy.simplify(one - other) != 0, (gold, answer)


@pytest.mark.parametrize(("gold", "answer"), [("x^2+1", "x^2-1"), (r"2\sqrt{3}", r"3\sqrt{3}"), ("3+4i", "3-4i")])
def test_values_do_tell_apart(gold, answer):
    assert certainly_differ(spelled_plainly(gold), spelled_plainly(answer))


@pytest.mark.parametrize(
    "gold", ["f(x)", r"2\frac{1}{2}", "1/2x", r"\sin x", "x_{1}", "9^{9^{9}}", "x" * 1000, "(", ""]
)
def test_values_leave_what_is_not_clear(gold):
    assert not certainly_differ(gold, "7")
