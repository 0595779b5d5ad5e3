"""Small programs: their solutions, tests that tell them from their neighbours, splits, and the benchmark over them."""

import io
import json
from itertools import permutations

import pytest
from conftest import TINY

from open_r1 import check, evaluate, procedural
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.data import load_data
from open_r1.generation import Completion, transformers_backend
from open_r1.procedural import programs, split_of
from open_r1.procedural.programs import STYLES, Problem, Step, neighbours, program, result, row
from open_r1.recipe import RecipeError, load_recipe
from open_r1.rewards import code_format_reward, code_reward
from open_r1.sandbox import SandboxUnavailable, shared_sandbox

FAMILY = "tiny_programs"
STEPS = (Step("take", 3), Step("times", 5), Step("over", 2), Step("add", 9))
PROBLEM = Problem(STEPS, (0, 10, 501))


def drawn(num_problems: int = 40, split: str = "train", seed: int = 0) -> list[Problem]:
    return list(procedural.problems(FAMILY, num_problems, split, seed))


def printed(source: str, stdin: str) -> str:
    """What one of our own programs prints."""
    out, lines = io.StringIO(), io.StringIO(stdin)
    names = {"input": lambda: lines.readline().rstrip("\n"), "print": lambda value: print(value, file=out)}
    exec(source, names)  # noqa: S102, it is our own text
    return out.getvalue()


@pytest.fixture(scope="module")
def sandbox():
    try:
        return shared_sandbox("local")
    except SandboxUnavailable as error:
        pytest.skip(str(error))


# --- problems and their solutions ------------------------------------------------------------------------------------


def test_question_and_tests_of_a_problem():
    assert PROBLEM.question == "n: take 3, times 5, over 2, add 9"
    assert [(test["type"], test["input"], test["output"]) for test in PROBLEM.test_cases] == [
        ("stdin_stdout", "0\n", "1\n"),  # -3*5 = -15, halved downwards -8, +9
        ("stdin_stdout", "10\n", "26\n"),
        ("stdin_stdout", "501\n", "1254\n"),
    ]


@pytest.mark.parametrize(
    ("steps", "style", "expected"),
    [
        (STEPS, "steps", "n=int(input())\nn=n-3\nn=n*5\nn=n//2\nn=n+9\nprint(n)"),
        (STEPS, "direct", "print((int(input())-3)*5//2+9)"),
        ((Step("times", 2), Step("add", 3), Step("take", 4)), "direct", "print(int(input())*2+3-4)"),
        ((Step("add", 2), Step("over", 3), Step("take", 4), Step("times", 5)), "direct",
         "print(((int(input())+2)//3-4)*5)"),
    ],
)  # fmt: skip
def test_program(steps, style, expected):
    assert program(Problem(steps, (1,)), style) == expected


def test_row_is_in_the_recipes_format():
    made = row(PROBLEM, "direct")
    assert set(made) == set(programs.COLUMNS)
    assert made["prompt"] == [{"role": "user", "content": PROBLEM.question}]
    assert made["completion"][0]["content"] == f"<think></think><answer>```py\n{made['solution']}\n```</answer>"
    assert made["text"] == f"{PROBLEM.question}\n{made['solution']}"
    assert made["verification_info"] == {"language": "python", "test_cases": PROBLEM.test_cases}
    assert code_format_reward([made["completion"]]) == [1.0]


@pytest.mark.parametrize("style", STYLES)
def test_every_solution_prints_what_its_tests_expect(style):
    for problem in drawn():
        for test in problem.test_cases:
            assert printed(program(problem, style), test["input"]) == test["output"], problem


def test_solutions_earn_the_reward_and_those_of_other_problems_do_not(sandbox):
    rows = [row(problem, style) for style in STYLES for problem in drawn(4)]
    infos = [made["verification_info"] for made in rows]
    completions = [made["completion"] for made in rows]
    assert code_reward(completions, infos) == [1.0] * len(rows)
    assert max(code_reward(completions[1:] + completions[:1], infos)) < 1.0


# --- tests that a wrong program fails --------------------------------------------------------------------------------


def test_neighbours_are_one_step_away():
    around = list(neighbours(PROBLEM.steps[:2]))
    assert len(around) == len(set(around)) == 2 * (1 + 4 * 8 - 1)
    assert (Step("times", 5),) in around and (Step("take", 3), Step("times", 6)) in around
    assert PROBLEM.steps[:2] not in around


def test_no_neighbour_and_no_constant_passes():
    for problem in drawn():
        expected = [int(test["output"]) for test in problem.test_cases]
        assert len(set(expected)) == len(expected), problem
        for other in neighbours(problem.steps):
            assert [result(other, n) for n in problem.inputs] != expected, (problem, other)


def test_what_cannot_be_tested_is_not_asked(monkeypatch):
    """`over 9` four times: whether 2 is added before makes a difference for one number in thousands."""
    monkeypatch.setattr(programs, "ALL_STEPS", (Step("over", 9),))
    assert list(programs.draw(0, max_draws=20)) == []


# --- splits ----------------------------------------------------------------------------------------------------------


def test_a_reordering_stays_on_its_side():
    assert len({split_of(Problem(steps, PROBLEM.inputs)) for steps in permutations(STEPS)}) == 1


def test_other_inputs_do_not_make_another_split():
    assert split_of(PROBLEM) == split_of(Problem(STEPS, (1, 2, 3)))


def test_splits_are_disjoint_up_to_order():
    seen = {
        split: {tuple(problem.unordered) for problem in drawn(150, split, seed)}
        for seed, split in enumerate(procedural.SPLIT_BUCKETS)
    }
    assert all(seen.values())
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_same_arguments_same_problems_and_other_seeds_others():
    assert drawn() == drawn()
    assert not set(drawn()) & set(drawn(seed=1))


def test_no_task_comes_twice(monkeypatch):
    """Not with other inputs either: a family of four tasks has no fifth."""
    monkeypatch.setattr(programs, "ALL_STEPS", STEPS)
    with pytest.raises(ValueError, match="tiny_programs has only [1-4] distinct train problems"):
        list(procedural.problems(FAMILY, 5, "train", 0, {"num_steps": 1}))


# --- in recipes ------------------------------------------------------------------------------------------------------


def test_data_for_rl_has_the_tests():
    recipe = load_recipe(TINY / "grpo_code.yaml", ["data.0.procedural.num_problems=5"])
    rows = load_data(recipe, ["verification_info"]).to_list()
    problems = drawn(5, seed=2000)
    assert [made["prompt"][0]["content"] for made in rows] == [problem.question for problem in problems]
    assert [made["verification_info"]["test_cases"] for made in rows] == [problem.test_cases for problem in problems]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("styles.pairs=1.0", "styles.pairs: unknown style \\(known: direct, steps\\)"),
        ("parameters.num_step=3", "parameters.num_step: unknown parameter of tiny_programs; did you mean num_steps"),
        ("family=tiny_program", "family: unknown data source 'tiny_program'; did you mean tiny_programs"),
    ],
)
def test_mistakes_are_told(override, message):
    recipe = load_recipe(TINY / "grpo_code.yaml", [f"data.0.procedural.{override}"])
    with pytest.raises(RecipeError, match=message):
        check.check_recipe(recipe)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_benchmark_runs_each_program_against_its_tests(sandbox, smallest_model, write_recipe, tmp_path, monkeypatch):
    section = BENCHMARKS["tiny_programs"].procedural
    assert section.split == "test"
    asked = {problem.question: problem for problem in drawn(section.num_problems, "test", section.seed)}

    def answer(question: str, number: int) -> str:
        """A right program, one that passes one of the tests, and none, in turn."""
        problem = asked[question]
        constant = f"print({problem.test_cases[0]['output'].strip()})"
        code = [program(problem, "steps"), constant, ""][number % 3]
        return f"<think></think><answer>```py\n{code}\n```</answer>"

    def sample(backend, conversations, sampling, wanted=None):
        for index, conversation in enumerate(conversations):
            yield (index, 0), Completion(answer(conversation[0]["content"], index), num_tokens=10, truncated=False)

    monkeypatch.setattr(transformers_backend.TransformersBackend, "sample", sample)
    evaluation = {"benchmarks": ["tiny_programs"], "num_problems": 9}
    recipe = write_recipe(step="evaluate", model={"name": str(smallest_model)}, evaluate=evaluation)
    evaluate.evaluate(load_recipe(recipe), tmp_path)
    entry = json.loads((tmp_path / "scores.json").read_text())["model"]["benchmarks"]["tiny_programs"]
    assert (entry["pass@1"], entry["num_problems"], entry["unjudged"]) == (pytest.approx(1 / 3), 9, 0)
