"""Problems, their worked traces, and the splits that cannot overlap."""

from itertools import permutations

import pytest
import yaml
from conftest import TINY

from open_r1.benchmarks.table import BENCHMARKS
from open_r1.procedural import draw_styles, problems, split_of
from open_r1.procedural.sums import STYLES, Problem, conversation, document, thinking
from open_r1.rewards import accuracy_reward, format_reward

SEVEN_TERMS = {"min_terms": 7, "max_terms": 7, "min_digits": 1, "max_digits": 1}
PROBLEM = Problem((7, 5, 10, 3), "25")


@pytest.mark.parametrize(
    ("style", "expected"),
    [("direct", ""), ("pairs", "7+5+10=22\n22+3=25"), ("steps", "7+5=12\n12+10=22\n22+3=25")],
)
def test_thinking(style, expected):
    assert thinking(PROBLEM, style) == expected


def test_document_is_plain_text():
    assert document(PROBLEM, "steps") == "7+5+10+3=?\n7+5=12\n12+10=22\n22+3=25\n=25"
    assert document(PROBLEM, "direct") == "7+5+10+3=?\n=25"


@pytest.mark.parametrize("style", STYLES)
def test_every_trace_earns_both_rewards(style):
    for problem in problems("basic_arithmetic", 50, "train", 0, SEVEN_TERMS):
        completion = conversation(problem, style)["completion"]
        assert accuracy_reward([completion], [problem.answer]) == [1.0]
        assert format_reward([completion]) == [1.0]
        assert str(sum(problem.terms)) == problem.answer


def test_a_reordering_stays_on_its_side():
    assert len({split_of(Problem(terms, "25")) for terms in permutations(PROBLEM.terms)}) == 1


def test_splits_are_disjoint_up_to_order():
    drawn = {
        split: {tuple(sorted(p.terms)) for p in problems("basic_arithmetic", 2000, split, seed, SEVEN_TERMS)}
        for seed, split in enumerate(("train", "validation", "test"))
    }
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]


def test_recipes_train_on_the_train_split_and_the_benchmarks_are_the_test_split():
    for file in (*TINY.glob("*.yaml"), *TINY.with_name("tiny-rlaif").glob("*.yaml")):
        for source in yaml.safe_load(file.read_text()).get("data", []):
            assert "path" in source or source["procedural"].get("split", "train") == "train"
    assert {BENCHMARKS[name].procedural.split for name in ("tiny_sums", "tiny_explanations")} == {"test"}


def test_same_arguments_same_problems_and_neighbouring_seeds_differ():
    def draw(seed):
        return list(problems("basic_arithmetic", 200, "train", seed, SEVEN_TERMS))

    assert draw(0) == draw(0)
    assert len(set(draw(0)) & set(draw(1))) < 5
    assert len(set(draw(0))) == 200


def test_family_that_runs_out_says_so():
    with pytest.raises(ValueError, match="has only"):
        list(problems("basic_arithmetic", 50, "train", 0, {"min_terms": 1, "max_terms": 1, "max_digits": 1}))


def test_styles_are_drawn_by_weight():
    styles = draw_styles({"direct": 0.5, "steps": 0.5, "pairs": 0.0}, 1000, seed=0)
    assert "pairs" not in styles
    assert 400 < styles.count("steps") < 600
