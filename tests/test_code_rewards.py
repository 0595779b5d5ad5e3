"""The code rewards, in the local sandbox: nothing is gained but by solving the task."""

import json

import pytest
from accelerate import PartialState
from conftest import CPU_TRAINER
from program_cases import ATTEMPTS, ENDLESS, HONEST, HONEST_STYLES, PROGRAMS, ROWS

from open_r1 import gold_check
from open_r1.check import check_recipe
from open_r1.gold_check import check_programs, gold_program_column, require_verified_programs
from open_r1.recipe import RecipeError, Thinking, load_recipe
from open_r1.rewards import binary_code_reward, code, code_reward
from open_r1.sandbox import SANDBOXES, Execution, Limits, infrastructure_error
from open_r1.training import verified_data

CPU_SECONDS = 1.0


def fenced(program: str, language: str = "python") -> str:
    return f"<think>let us see</think>\n```{language}\n{program}\n```"


def stdin_row(*tests, **more):
    cases = [{"type": "stdin_stdout", "input": stdin, "output": output} for stdin, output in tests]
    return {"language": "python", "test_cases": cases} | more


def rewards(programs, rows, **more):
    return code_reward([fenced(program) for program in programs], rows, cpu_seconds=CPU_SECONDS, **more)


@pytest.fixture(scope="module")
def attempted():
    """What each attempt is worth, and why; one batch, as in training."""
    notes = {}
    names, rows, programs = zip(*ATTEMPTS, strict=True)
    values = rewards(programs, [ROWS[row] for row in rows], log_extra=notes.__setitem__)
    assert len(set(names)) == len(names)
    return dict(zip(names, zip(values, notes["code_reason"], strict=True), strict=True))


@pytest.mark.parametrize("name", [name for name, _, _ in ATTEMPTS])
def test_nothing_is_gained_without_solving_the_task(name, attempted):
    value, reason = attempted[name]
    assert value == 0.0, reason


def test_those_who_solve_it_are_rewarded():
    columns = list(HONEST.values()), [ROWS[name] for name in HONEST]
    notes = {}
    assert rewards(*columns, log_extra=notes.__setitem__) == [1.0] * len(HONEST), notes
    assert binary_code_reward([fenced(program) for program in columns[0]], columns[1]) == [1.0] * len(HONEST)


def test_no_way_of_writing_a_program_is_held_against_it():
    notes = {}
    values = rewards(HONEST_STYLES, [ROWS["squares"]] * len(HONEST_STYLES), log_extra=notes.__setitem__)
    assert values == [1.0] * len(HONEST_STYLES), notes


def test_the_share_of_tests_that_is_passed():
    row = stdin_row(("1", "1"), ("2", "4"), ("3", "9"), ("4", "16"))
    programs = ["print(int(input()) ** 2)", "n = int(input())\nprint(n * n if n < 4 else n)", "print(1)", "print(0)"]
    assert rewards(programs, [row] * 4) == [1.0, 0.75, 0.25, 0.0]
    assert binary_code_reward([fenced(program) for program in programs], [row] * 4) == [1.0, 0.0, 0.0, 0.0]


def test_one_test_that_times_out_is_one_test_lost():
    notes, metrics = {}, {}
    program = f"n = int(input())\nif n == 2:\n    {ENDLESS}\nprint(n)"
    values = rewards(
        [program, "print(1)\nraise SystemExit(int(input()) - 1)", "print('x' * 9999999)"],
        [stdin_row(("1", "1"), ("2", "2"))] * 3,
        log_extra=notes.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert values == [0.5, 0.5, 0.0]
    assert notes["code_reason"][0] == "1 of 2 tests; first failure: test 2: timeout"
    assert notes["code_reason"][1].startswith("1 of 2 tests; first failure: test 2: runtime_error")
    shares = {kind: metrics[f"code/{kind}"] for kind in ("timeout", "runtime_error", "output_limit", "memory")}
    assert shares == pytest.approx({"timeout": 1 / 6, "runtime_error": 1 / 6, "output_limit": 2 / 6, "memory": 0.0})
    assert metrics["code/programs_per_second"] > 0
    assert metrics["code/seconds_waited"] > 0


def test_a_row_may_be_the_text_of_json():
    row = json.dumps(ROWS["squares"])
    assert rewards([HONEST["squares"], "def f(n): return n"], [row, row]) == [1.0, 0.0]


def test_rows_say_how_results_are_compared():
    case = {"type": "function_call", "fn_name": "f", "input": [3], "output": [0.5, 2]}
    rows = [
        {"language": "python", "test_cases": [case], "checker": checker} for checker in (None, "floats", "any_order")
    ]
    program = "def f(n):\n    return (0.5000001, 2.0)"
    assert rewards([program] * 3, rows) == [0.0, 1.0, 0.0]
    assert rewards(["def f(n):\n    return [2, 0.5]"] * 3, rows) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("completion", "language", "program"), PROGRAMS)
def test_the_program_of_a_completion(completion, language, program):
    assert code.program_of(completion, language)[0] == program


def test_a_prefilled_thinking_ends_before_the_program():
    completion = "print(2)</think>print(1)"
    assert code.program_of(completion, "python", Thinking(prefilled=True))[0] == "print(1)"
    assert code.program_of("print(1)", "python", Thinking(prefilled=True)) == (None, "the thinking never ends")


def test_programs_of_another_language():
    row = stdin_row(("20 22", "42"), language="cpp")
    source = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }"
    completions = [fenced(source, "cpp"), fenced(source, "python"), fenced(source.replace("a + b", "a"), "")]
    assert code_reward(completions, [row] * 3) == [1.0, 0.0, 0.0]


class Recorded:
    """A sandbox that gives what it was told to, and keeps what it was asked."""

    def __init__(self, *executions):
        self.executions = list(executions)
        self.batches = []

    def run(self, programs):
        self.batches.append(list(programs))
        given, self.executions = self.executions[: len(programs)], self.executions[len(programs) :]
        return given

    @staticmethod
    def language_problem(language):
        return None


def execution(stdout=b"", status="ok", stderr=b""):
    return Execution(status, 0 if status == "ok" else None, stdout, stderr, 0.1, 0.1)


@pytest.fixture
def recorded(monkeypatch):
    """Puts a Recorded with these executions in the place of every sandbox."""

    def put(*executions):
        fake = Recorded(*executions)
        monkeypatch.setattr(code, "shared_sandbox", lambda name, **limits: fake)
        return fake

    return put


BROKEN, RIGHT, WRONG = infrastructure_error("connection lost"), execution(b"1"), execution(b"2")


@pytest.mark.parametrize(
    ("executions", "share", "binary"),
    [
        ((RIGHT, BROKEN), None, None),
        ((BROKEN, WRONG), None, 0.0),
        ((WRONG, RIGHT), 0.5, 0.0),
        ((RIGHT, RIGHT), 1.0, 1.0),
    ],
)
def test_a_sandbox_that_fails_is_no_wrong_answer(executions, share, binary, recorded):
    row, metrics, notes = stdin_row(("a", "1"), ("b", "1")), {}, {}
    recorded(*executions)
    assert code_reward([fenced("x"), ""], [row, row], log_metric=metrics.__setitem__, log_extra=notes.__setitem__) == [
        share,
        0.0,
    ]
    assert metrics["code/judge_failed_share"] == (0.5 if BROKEN in executions else 0.0)
    assert metrics["code/no_program_share"] == 0.5
    assert ("connection lost" in notes["code_reason"][0]) == (BROKEN in executions)
    recorded(*executions)
    assert binary_code_reward([fenced("x")], [row], log_metric=metrics.__setitem__) == [binary]
    assert metrics["binary_code/judge_failed_share"] == float(BROKEN in executions)


def test_a_batch_is_one_call_and_what_is_the_same_runs_once(recorded):
    fake = recorded(*[RIGHT] * 5)
    row = stdin_row(("a", "1"), ("b", "1"), ("a", "1"))
    call = {"language": "python", "test_cases": [{"type": "assert", "assert": "assert f(1)"}]}
    completions = [fenced("x"), fenced("x"), fenced("y"), "```cpp\n```", fenced("y")]
    assert code_reward(completions, [row, row, row, row, call])[:4] == [1.0, 1.0, 1.0, 0.0]
    (batch,) = fake.batches
    assert [(program.source, program.stdin) for program in batch[:4]] == [
        (source, stdin) for source in "xy" for stdin in "ab"
    ]
    assert len(batch) == 5


def test_without_a_program_nothing_runs(recorded):
    fake = recorded()
    assert code_reward(["", "<think>print(1)"], [stdin_row(("", "1"))] * 2) == [0.0, 0.0]
    assert fake.batches == []


def test_a_row_that_slipped_through_the_check_is_no_wrong_answer(recorded):
    recorded(RIGHT)
    metrics, notes = {}, {}
    rows = [stdin_row(), None, stdin_row(("", "1"))]
    values = code_reward([fenced("x")] * 3, rows, log_metric=metrics.__setitem__, log_extra=notes.__setitem__)
    assert values == [None, None, 1.0]
    assert metrics["code/refused_row_share"] == pytest.approx(2 / 3)
    assert metrics["code/judge_failed_share"] == 0.0
    assert notes["code_reason"][0].startswith("the row is refused: test_cases: []; without a test")


CHECKER_SAID = [  # the checker on the output, on the correct output if it is tried there; the reward
    ((execution(b"1\n"),), 1.0),
    ((execution(b"0"),), 0.0),
    ((execution(b"wrong\n1"), execution(b"1")), 0.0),
    ((execution(b"", "runtime_error"), execution(b"1")), 0.0),
    ((execution(b"", "timeout"), execution(b"1")), 0.0),
    ((execution(b"1", "runtime_error"), execution(b"1", "runtime_error")), None),
    ((execution(b""), execution(b"0")), None),
    ((execution(b"yes"), BROKEN), None),
    ((BROKEN,), None),
]


@pytest.mark.parametrize(("said", "value"), CHECKER_SAID)
def test_a_checker_that_breaks_is_no_wrong_answer(said, value, recorded):
    fake = recorded(execution(b"output of the policy\n"), *said)
    row = stdin_row(("the input", "correct"), checker_code="print(1)")
    assert code_reward([fenced("x")], [row]) == [value]
    outputs = [batch[0].files["solution_output.txt"] for batch in fake.batches[1:]]
    assert outputs == [b"output of the policy\n", b"correct"][: len(said)]
    assert fake.batches[0][0].files == {}


def test_a_checker_is_called_with_the_names_of_its_files():
    checker = """import sys
names = ["input.txt", "correct_output.txt", "solution_output.txt"]
texts = [open(name).read() for name in sys.argv[1:]]
print(int(__name__ == "__main__" and sys.argv[1:] == names and texts == ["in", "correct", "solution\\n"]))
"""
    row = stdin_row(("in", "correct"), checker_code=checker)
    assert rewards(["print('solution')", "print('else')", "print('correct')"], [row] * 3) == [1.0, 0.0, 1.0]


@pytest.fixture
def recipe_with(write_recipe):
    """A GRPO recipe over a file of rows with tests."""

    def recipe_with(rows, reward="code", **sections):
        file = write_recipe(
            step="grpo",
            model={"name": "someone/some-model"},
            data=[{"path": "rows.jsonl"}],
            trainer={**CPU_TRAINER, "num_generations": 4, "per_device_train_batch_size": 4},
            rewards=[reward],
            **sections,
        )
        (file.parent / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": "?"} | row) for row in rows) + "\n")
        return file

    return recipe_with


INFO = stdin_row(("2", "4"))
SQUARE, DOUBLE, WRONG_GOLD = "print(int(input()) ** 2)", "```py\nprint(2 * int(input()))\n```", "print(5)"


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ({"name": "code"}, None),
        ({"name": "binary_code", "wall_seconds": 5.0, "cpu_seconds": 2, "memory_bytes": 1 << 28}, None),
        ({"name": "code", "sandbox": "locla"}, "rewards.0: code: unknown sandbox 'locla'"),
        ({"name": "binary_code", "wall_seconds": -1.0}, "rewards.0: binary_code: wall_seconds is -1.0; a limit is"),
        ({"name": "code", "memory_bytes": 1.5}, "rewards.0.memory_bytes: 1.5 is wrong"),
        ({"name": "code", "wall_second": 1.0}, "rewards.0.wall_second: unknown parameter"),
    ],
)
def test_what_cannot_be_had_is_said_when_the_recipe_is_checked(reward, line, recipe_with):
    recipe = load_recipe(recipe_with([{"verification_info": INFO}], reward))
    if line is None:
        check_recipe(recipe)
    else:
        with pytest.raises(RecipeError, match=line):
            check_recipe(recipe)


def test_a_sandbox_that_is_not_to_be_had_is_said_when_the_recipe_is_checked(recipe_with, monkeypatch):
    class Elsewhere:
        @staticmethod
        def problem():
            return "no key; set ELSEWHERE_KEY"

    monkeypatch.setitem(SANDBOXES, "elsewhere", Elsewhere)
    recipe = load_recipe(recipe_with([{"verification_info": INFO}], {"name": "code", "sandbox": "elsewhere"}))
    with pytest.raises(RecipeError, match=r"rewards.0: code: sandbox elsewhere: no key; set ELSEWHERE_KEY"):
        check_recipe(recipe)


def test_rows_and_gold_programs_are_checked_before_a_run(recipe_with):
    recipe = load_recipe(recipe_with([{"verification_info": INFO}], {"name": "code", "cpu_seconds": CPU_SECONDS}))
    infos = [INFO, stdin_row(), INFO, INFO, INFO, INFO]
    checked = check_programs(recipe, {"verification_info": infos}, [SQUARE, SQUARE, DOUBLE, WRONG_GOLD, None, ENDLESS])
    assert [(failure.row, failure.gold) for failure in checked.failures] == [(1, None), (3, WRONG_GOLD), (5, ENDLESS)]
    assert list(checked.lines()) == [
        "row 1: test_cases: []; without a test no program can be judged, leave the row out",
        "row 3: 'print(5)': 0 of 1 tests; first failure: test 1: wrong output",
        f"row 5: {ENDLESS!r}: 0 of 1 tests; first failure: test 1: timeout",
    ]
    assert checked.summary().startswith("3 of 6 rows verified (50.00%)")
    assert len(check_programs(recipe, {"verification_info": infos}, [WRONG_GOLD] * 6, max_golds=2).failures) == 3
    assert len(check_programs(recipe, {"verification_info": infos}).failures) == 1


def test_rows_of_a_language_that_the_sandbox_has_not_are_refused(recipe_with, monkeypatch):
    monkeypatch.setattr(SANDBOXES["local"], "language_problem", staticmethod(lambda language: f"no {language} here"))
    recipe = load_recipe(recipe_with([{"verification_info": INFO}]))
    assert list(check_programs(recipe, {"verification_info": [INFO]}).lines()) == ["row 0: no python here"]


def test_rows_of_contests_are_checked_as_well(recipe_with):
    row = {"official_tests": [{"input": "1", "output": "1"}], "time_limit": 1.0, "memory_limit": 256.0}
    row |= {"input_mode": "stdio", "generated_checker": None, "language": "python"}
    recipe = load_recipe(recipe_with([row], "cf_code"))
    columns = {name: [value, value] for name, value in row.items()} | {"official_tests": [row["official_tests"], []]}
    assert [line.partition(";")[0] for line in check_programs(recipe, columns).lines()] == ["row 1: official_tests: []"]


@pytest.mark.parametrize(("limit", "stops"), [(0.6, True), (0.5, False), (None, False)])
def test_too_few_good_rows_stop_the_run(limit, stops, recipe_with, tmp_path):
    recipe = load_recipe(recipe_with([{"verification_info": INFO}], guards={"min_verified_gold_share": limit}))
    infos = [INFO, stdin_row()]
    if stops:
        with pytest.raises(RecipeError, match=r"50.00% of the rows are accepted by the reward.*; row 1: test_cases"):
            require_verified_programs(recipe, {"verification_info": infos}, None, tmp_path)
    else:
        require_verified_programs(recipe, {"verification_info": infos}, None, tmp_path)
    assert (tmp_path / "program_check.json").exists() == (limit is not None)


GOLD_COLUMNS = [  # columns of the rows, of the recipe's map, rewards; the column of gold programs
    ({"solution"}, {}, ["code"], "solution"),
    ({"gold_standard_solution"}, {}, ["code"], "gold_standard_solution"),
    ({"theirs"}, {"solution": "theirs"}, ["code"], "solution"),
    ({"other"}, {}, ["code"], None),
    ({"solution"}, {}, ["accuracy", "code"], None),
]


def test_rows_of_another_task_are_not_asked_for_tests(recipe_with, tmp_path):
    """Trained on programs and sums, looked at on sums alone."""
    file = recipe_with([{"verification_info": INFO}])
    (tmp_path / "sums.jsonl").write_text(json.dumps({"prompt": "1+1=?", "solution": "2"}) + "\n")
    sums = {"path": "sums.jsonl", "task": "math"}
    sections = {"data": [{"path": "rows.jsonl", "task": "code"}, sums], "eval_data": [sums]}
    judges = [{"name": "code", "task": "code"}, {"name": "accuracy", "task": "math"}]
    recipe = load_recipe(file, {**sections, "rewards": judges, "trainer.eval_strategy": "steps"})
    assert gold_program_column(recipe, "eval_data") is None
    assert verified_data(recipe, tmp_path, PartialState(cpu=True), "eval_data")["solution"][:] == ["2"]
    assert [(section, checked.num_rows) for _, section, checked in gold_check._checks(recipe)] == [
        ("data", 1),
        ("data", 2),
        ("eval_data", 1),
    ]


@pytest.mark.parametrize(("columns", "mapped", "judges", "gold_column"), GOLD_COLUMNS)
def test_the_column_of_gold_programs(columns, mapped, judges, gold_column, recipe_with):
    file = recipe_with([{"verification_info": INFO} | dict.fromkeys(columns, SQUARE)])
    recipe = load_recipe(file, {"data.0.columns": mapped, "rewards": judges})
    assert gold_program_column(recipe) == gold_column


@pytest.mark.parametrize(("gold", "exit_code"), [(SQUARE, 0), (WRONG_GOLD, 2)])
def test_make_check_data_runs_gold_programs(gold, exit_code, recipe_with, capsys):
    file = recipe_with([{"verification_info": INFO, "gold_standard_solution": gold}])
    assert gold_check.main([str(file)]) == exit_code
    printed = capsys.readouterr()
    assert "of 1 rows verified" in printed.out
    assert ("wrong output" in printed.err) == bool(exit_code)


def test_what_a_program_says_can_be_written_down(recorded):
    recorded(execution(b'[["other", "\\ud800"]]'), execution(b"", "runtime_error", b"\xff\x00"))
    notes = {}
    code_reward([fenced("x"), fenced("y")], [ROWS["squares"]] * 2, log_extra=notes.__setitem__)
    for reason in notes["code_reason"]:
        reason.encode("utf-8")


def test_limits_are_those_of_the_sandbox(monkeypatch):
    asked = []
    monkeypatch.setattr(code, "shared_sandbox", lambda name, **limits: asked.append((name, limits)) or Recorded())
    code_reward([], [])
    binary_code_reward([], [], sandbox="router", wall_seconds=3.0, memory_bytes=1 << 20, allow_unsafe_local=True)
    defaults = {key: getattr(Limits(), key) for key in ("wall_seconds", "cpu_seconds", "memory_bytes")}
    assert asked == [
        ("local", {"allow_unsafe_local": False} | defaults),
        ("router", defaults | {"allow_unsafe_local": True, "wall_seconds": 3.0, "memory_bytes": 1 << 20}),
    ]
