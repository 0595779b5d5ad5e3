"""What `make r1` is there to show. Takes up the run that `make r1` has made, or makes it."""

import pytest
from conftest import TINY

from open_r1 import launch, running
from open_r1.recipe import load_recipe
from open_r1.run_record import read_record


@pytest.fixture(scope="module")
def run_dir():
    pipeline = TINY / "pipeline.yaml"
    assert launch.main(["pipeline", str(pipeline)]) == 0
    return running.run_directory(load_recipe(pipeline))


@pytest.fixture(scope="module")
def scores(run_dir):
    evaluated = read_record(run_dir / "evaluation")["scores"] | read_record(run_dir / "code_evaluation")["scores"]
    return {label: score for label, of_label in evaluated.items() for score in of_label["benchmarks"].values()}


@pytest.mark.slow
def test_rl_makes_answers_right_and_longer(scores):
    before, after = scores["cold_start"], scores["reasoning_rl"]
    assert after["pass@1"] >= before["pass@1"] + 0.4
    assert after["tokens_per_answer"] > 1.3 * before["tokens_per_answer"]


@pytest.mark.slow
def test_the_student_learns_from_the_teacher(scores):
    assert scores["student_base"]["pass@1"] < 0.05
    assert scores["student_distilled"]["pass@1"] >= 0.6


@pytest.mark.slow
def test_tests_in_a_sandbox_teach_to_program(scores, run_dir):
    assert scores["code_rl"]["pass@1"] >= scores["code_cold_start"]["pass@1"] + 0.25
    assert read_record(run_dir / "code_rl")["sandboxes"]["local"] in ("A", "B")
