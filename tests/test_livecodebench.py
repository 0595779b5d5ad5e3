"""LiveCodeBench: rows in the data set's columns, read without unpickling, and programs run against their tests."""

import base64
import json
import os
import pickle
import zlib

import pyarrow.parquet as parquet
import pytest

from open_r1 import evaluate
from open_r1.benchmarks import livecodebench
from open_r1.benchmarks.livecodebench import PrintTest, ReturnTest, judge_answers, pickled_text, read_tests, same_output
from open_r1.generation import Completion
from open_r1.generation.transformers_backend import TransformersBackend
from open_r1.recipe import RecipeError, Thinking, load_recipe
from open_r1.rewards.code import open_sandbox
from open_r1.sandbox import Execution

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def packed(pickled: bytes) -> str:
    return base64.b64encode(zlib.compress(pickled)).decode()


def private(cases: list[dict], protocol: int = 4) -> str:
    """As the data set has its private tests."""
    return packed(pickle.dumps(json.dumps(cases), protocol))


def row(question: str, public: list[dict], hidden: list[dict], starter: str = "", function: str | None = None) -> dict:
    return {
        "question_id": question.partition(":")[0],
        "question_content": question,
        "starter_code": starter,
        "public_test_cases": json.dumps(public),
        "private_test_cases": private(hidden),
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


def printing(stdin: str, output: str) -> dict:
    return {"input": stdin, "output": output, "testtype": "stdin"}


def returning(arguments: str, output: str) -> dict:
    return {"input": arguments, "output": output, "testtype": "functional"}


SUM = row("sum: add the numbers of the line", [printing("1 2\n", "3\n")], [printing("2 2 3\n", "7\n")])
TOTAL = row(
    "total: the sum of a list times k",
    [returning("[1, 2]\n3", "9")],
    [returning("[]\n5", "0")],
    starter="class Solution:\n    def total(self, numbers: List[int], k: int) -> int:\n        ",
    function="total",
)
RIGHT_TOTAL = """class Solution:
    def total(self, numbers: List[int], k: int) -> int:
        return reduce(operator.add, numbers, 0) * k"""


# --- reading ---------------------------------------------------------------------------------------------------------


def test_public_tests_come_before_private_ones():
    assert read_tests(SUM) == (PrintTest("1 2\n", "3\n"), PrintTest("2 2 3\n", "7\n"))
    assert read_tests(TOTAL) == (ReturnTest("total", "[[1, 2], 3]", 9), ReturnTest("total", "[[], 5]", 0))


def test_private_tests_may_be_plain_json():
    assert read_tests({**SUM, "private_test_cases": json.dumps([printing("5", "5")])})[1] == PrintTest("5", "5")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("text", ["[]", "ü" * 200, "x" * 100_000], ids=["short", "unicode", "long"])
def test_a_pickled_text_is_read_in_every_protocol(protocol, text):
    assert pickled_text(pickle.dumps(text, protocol)) == text


class Harmful:
    """What calls mkdir when it is unpickled."""

    def __init__(self, directory):
        self.directory = directory

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_calls_a_function_is_refused_and_calls_nothing(protocol, tmp_path):
    harmful = pickle.dumps(Harmful(tmp_path / "harm"), protocol)
    with pytest.raises(RecipeError, match="problem sum.*the pickle holds no text.*leave the row out"):
        read_tests({**SUM, "private_test_cases": packed(harmful)})
    assert not (tmp_path / "harm").exists()
    pickle.loads(harmful)  # noqa: S301 - it would have
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("private_test_cases", "no base64!", "private_test_cases"),
        ("private_test_cases", base64.b64encode(b"no zlib").decode(), "private_test_cases"),
        ("private_test_cases", private([printing("1", "1")])[:-8], "private_test_cases: "),
        ("private_test_cases", packed(b""), "private_test_cases: "),
        ("private_test_cases", packed(pickle.dumps(["[]"])), "the pickle holds no text, but EMPTY_LIST"),
        ("private_test_cases", packed(pickle.dumps(7)), "the pickle holds no text, but BININT1"),
        ("private_test_cases", packed(pickle.dumps("{")), "private_test_cases: "),
        ("private_test_cases", packed(pickle.dumps("[]"))[:-4] + "====", "private_test_cases: "),
        ("public_test_cases", "[", "its tests cannot be read"),
        ("public_test_cases", json.dumps([{"input": "1"}]), "KeyError: 'output'"),
        ("public_test_cases", json.dumps([{"input": 1, "output": "1"}]), "input and output of a test are text"),
    ],
)
def test_a_row_that_cannot_be_read_is_one_line(column, value, message):
    with pytest.raises(RecipeError, match=message) as error:
        read_tests({**SUM, column: value})
    assert str(error.value).startswith("livecodebench: problem sum: ") and "\n" not in str(error.value)


def test_a_row_without_tests_is_refused():
    with pytest.raises(RecipeError, match="it has no tests, so any program would pass"):
        read_tests({**SUM, "public_test_cases": "[]", "private_test_cases": "[]"})


def test_tests_that_unpack_into_all_memory_are_refused(monkeypatch):
    monkeypatch.setattr(livecodebench, "MAX_PRIVATE_BYTES", 1000)
    with pytest.raises(RecipeError, match="cut off, or more than"):
        read_tests({**SUM, "private_test_cases": private([printing("1" * 2000, "1")])})


# --- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("3\n", "3", True),
        ("  3  \n\n", "3", True),
        ("1 2\n3", "1 2\n3\n", True),
        ("1\n2\n", "1 2\n", False),  # a line is a line
        ("1.0 2", "1 2.00", True),
        ("1e2", "100", True),
        ("10000000000000000001", "10000000000000000000", False),  # as floats they are the same
        ("0.1", "0.10000001", False),
        ("Yes", "YES", False),
        ("1  2", "1 2", True),  # numbers: the words count
        ("a  b", "a b", False),
        ("", "3", False),
    ],
)
def test_same_output(printed, expected, same):
    assert same_output(printed, expected) is same


@pytest.mark.parametrize(
    ("source", "first_line"),
    [
        ("print(1)", "from string import *"),
        ("from __future__ import annotations\nprint(1)", "from __future__ import annotations"),
    ],
)
def test_the_prelude_stands_in_front_and_future_before_it(source, first_line):
    whole = livecodebench.with_prelude(source)
    compile(whole, "program.py", "exec")
    assert whole.splitlines()[0] == first_line


# --- judging ---------------------------------------------------------------------------------------------------------


def fenced(program: str) -> str:
    return f"<think>\n```python\nprint('a draft')\n```\n</think>\nHere it is:\n```python\n{program}\n```\n"


@pytest.fixture(scope="module")
def sandbox():
    """As the benchmark's, but that an endless program is ended sooner."""
    return open_sandbox("livecodebench", "local", cpu_seconds=0.5, memory_bytes=livecodebench.MEMORY_BYTES)


def test_limits_of_the_sandbox():
    limits = livecodebench.sandbox_of_benchmark().limits
    assert (limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes) == (6.0, 30.0, 1 << 30)


@pytest.mark.parametrize(
    ("problem", "completion", "verdict"),
    [
        (SUM, fenced("print(sum(map(int, input().split())))"), 1.0),
        (SUM, fenced("if __name__ == '__main__':\n    print(float(sum(map(int, input().split()))))"), 1.0),
        (SUM, fenced("print(3)"), 0.0),  # passes the public test alone
        (SUM, fenced("while True: pass"), 0.0),
        (SUM, fenced("raise SystemExit(1)"), 0.0),
        (SUM, "<think>print(sum(map(int, input().split())))", 0.0),
        (SUM, "<think></think>I do not know.\n```cpp\nint main() {}\n```", 0.0),
        (TOTAL, fenced(RIGHT_TOTAL), 1.0),
        (TOTAL, fenced("def total(numbers, k):\n    return float(sum(numbers) * k)"), 1.0),  # 9.0 == 9
        (TOTAL, fenced(RIGHT_TOTAL.replace("* k", "* 3")), 1.0),
        (TOTAL, fenced(RIGHT_TOTAL.replace("* k", "+ k")), 0.0),
        (TOTAL, fenced(RIGHT_TOTAL.replace("return ", "return str")), 0.0),
        (TOTAL, fenced("print(9)"), 0.0),
    ],
)
def test_verdicts(problem, completion, verdict, sandbox):
    assert judge_answers([completion], read_tests(problem), Thinking(), sandbox) == [verdict]


class SandboxOf:
    """A sandbox in which every run ends with the same status."""

    def __init__(self, status: str, stdout: bytes = b""):
        self.status, self.stdout = status, stdout

    def run(self, programs):
        return [Execution(self.status, None, self.stdout, b"the machine is gone", 0.0, 0.0) for _ in programs]


@pytest.mark.parametrize(("status", "verdict"), [("infrastructure_error", None), ("timeout", 0.0), ("memory", 0.0)])
def test_only_a_sandbox_that_fails_leaves_no_verdict(status, verdict):
    assert judge_answers([fenced("print(3)")], read_tests(SUM), Thinking(), SandboxOf(status)) == [verdict]


def test_a_completion_without_a_program_is_wrong_whatever_the_sandbox_does():
    texts = ["", fenced("print(3)"), "<think>"]
    judged = judge_answers(texts, read_tests(SUM), Thinking(), SandboxOf("infrastructure_error"))
    assert judged == [0.0, None, 0.0]


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_benchmark_from_a_local_copy(sandbox, smallest_model, write_recipe, tmp_path, monkeypatch):
    copy = tmp_path / "lcb.jsonl"
    copy.write_text("".join(json.dumps(one) + "\n" for one in (SUM, TOTAL)))
    prompts = {}

    def sample(backend, conversations, sampling, wanted=None):
        for index, ((message,),) in enumerate(zip(conversations, strict=True)):
            name = "total" if "total: " in message["content"] else "sum"
            prompts[name] = message["content"]
            right = RIGHT_TOTAL if name == "total" else "print(sum(map(int, input().split())))"
            for number in range(sampling.num_samples):
                program = right if number < (4 if name == "sum" else 12) else "print(0)"
                yield (index, number), Completion(fenced(program), num_tokens=20, truncated=False)

    monkeypatch.setattr(TransformersBackend, "sample", sample)
    section = {"benchmarks": ["livecodebench"], "copies": {"livecodebench": str(copy)}, "max_new_tokens": 8}
    model = {"name": str(smallest_model)}
    monkeypatch.setattr("open_r1.evaluate.load", lambda *_: evaluate.Model(TransformersBackend(None, None), 1, None))
    recipe = write_recipe(step="evaluate", model=model, evaluate=section)
    evaluate.evaluate(load_recipe(recipe), tmp_path)
    entry = json.loads((tmp_path / "scores.json").read_text())["model"]["benchmarks"]["livecodebench"]
    assert (entry["pass@1"], entry["samples"], entry["num_problems"], entry["unjudged"]) == (0.5, 16, 2, 0)
    assert "maj@k" not in entry  # programs do not vote
    assert "Question: sum: add the numbers" in prompts["sum"] and "stdin" in prompts["sum"]
    assert "starter code" in prompts["total"] and "numbers: List[int]" in prompts["total"]
    table = parquet.read_table(tmp_path / "completions/model-livecodebench.parquet")
    rows = {one["gold"]: one for one in table.to_pylist()}
    assert rows["sum"]["scores"] == [1.0] * 4 + [0.0] * 12 and rows["total"]["scores"] == [1.0] * 12 + [0.0] * 4
    assert rows["sum"]["answers"] == [None] * 16
