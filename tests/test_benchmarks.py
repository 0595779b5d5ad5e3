"""The table of benchmarks, local copies of their data, and what LightEval makes of both; answers and their votes."""

import dataclasses
import json
import math
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
from conftest import TINY
from openai_server import OpenAIServer, Reply

from open_r1 import evaluate
from open_r1.benchmarks.answers import boxed_answer, normal_form
from open_r1.benchmarks.copies import copy_problems, read_copy, write_copy
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.generation import Completion
from open_r1.recipe import Model, RecipeError, Thinking, load_recipe

STANDARD = [name for name, benchmark in BENCHMARKS.items() if benchmark.procedural is None]
MATH = [
    {"problem": "What is 3 times 5?", "solution": r"Count: $5+5+5=\boxed{15}$.", "answer": "15", "level": 1},
    {"problem": "Half of 1?", "solution": r"Halve: $\boxed{\frac{1}{2}}$", "answer": r"\frac{1}{2}", "level": 1},
    {"problem": "Solve $2x=8$.", "solution": r"Thus $x=\boxed{4}$.", "answer": "4", "level": 2},
    {"problem": "Factor $x^2-1$.", "solution": r"It is $\boxed{(x-1)(x+1)}$.", "answer": "(x-1)(x+1)", "level": 3},
]
AIME = [{"id": n, "problem": f"What is {n} times {n}?", "answer": f"{n * n:03d}", "year": "0"} for n in range(2, 6)]


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task", "samples"),
    [
        ("math_500", "math_500", 4),
        ("aime24", "aime24", 64),
        ("aime25", "aime25", 64),
        ("gpqa_diamond", "gpqa:diamond", 8),
        ("gsm8k", "gsm8k", 1),
        ("livecodebench", "lcb:codegeneration", 16),
        ("livecodebench_v5", "lcb:codegeneration_v5", 16),
        ("livecodebench_v6", "lcb:codegeneration_v6", 16),
    ],
)
def test_standard_benchmarks_are_sampled_as_r1_was(name, task, samples):
    benchmark = BENCHMARKS[name]
    assert (benchmark.task, benchmark.samples) == (task, samples)
    assert (benchmark.temperature, benchmark.top_p, benchmark.max_new_tokens) == (0.6, 0.95, 32768)


def test_names_in_the_table_are_frozen():
    contests = ["livecodebench", "livecodebench_v5", "livecodebench_v6"]
    assert ["math_500", "aime24", "aime25", "gpqa_diamond", "gsm8k", *contests] == STANDARD


class Asked(dict):
    """A row that has every column, and keeps which were asked for."""

    def __init__(self):
        self.columns = set()

    def __missing__(self, column):
        self.columns.add(column)
        return {"metadata": "{}"}.get(column, '[{"input": "1", "output": "1"}]')

    def get(self, column, default=None):
        return default


@pytest.mark.parametrize("name", STANDARD)
def test_columns_in_the_table_are_those_that_the_task_reads(name, tmp_path):
    pytest.importorskip("lighteval")
    from open_r1.benchmarks.lighteval_adapter import task_config

    asked = Asked()
    task_config(name, BENCHMARKS[name], tmp_path).prompt_function(asked, name)
    assert asked.columns == set(BENCHMARKS[name].columns)


# --- copies ----------------------------------------------------------------------------------------------------------


def written(file: Path, rows: list[dict]) -> Path:
    if file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1))
    else:
        file.write_text("\n\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_copy_may_be_of_any_format(suffix, tmp_path):
    assert read_copy("math_500", BENCHMARKS["math_500"], written(tmp_path / f"math{suffix}", MATH)) == MATH


def test_a_copy_of_math_may_have_the_answer_alone(tmp_path):
    rows = [{key: row[key] for key in ("problem", "answer")} for row in MATH]
    read = read_copy("math_500", BENCHMARKS["math_500"], written(tmp_path / "math.jsonl", rows))
    assert [row["solution"] for row in read][:2] == [r"$\boxed{15}$", r"$\boxed{\frac{1}{2}}$"]


def test_a_number_is_text_to_lighteval(tmp_path):
    file = written(tmp_path / "aime.jsonl", [{"problem": "What is 3 times 5?", "answer": 15, "id": 7}])
    assert read_copy("aime24", BENCHMARKS["aime24"], file) == [
        {"problem": "What is 3 times 5?", "answer": "15", "id": 7}
    ]


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("aime24", "x.jsonl", '{"question": "1+1?", "answer": "2"}',
         "no problem in row 0; aime24 wants the columns problem, answer, and the file has question, answer"),
        ("math_500", "x.jsonl", '{"problem": "1+1?"}', "no solution in row 0; math_500 wants the columns problem, "),
        ("aime24", "x.jsonl", '{"problem": "a", "answer": "2"}\n{"problem": "b"}', "no answer in row 1"),
        ("gpqa_diamond", "x.json", '[{"Question": "?"}]', "no Correct Answer, Incorrect Answer 1, Incorrect Answer 2,"),
        ("aime24", "x.jsonl", "", "x.jsonl has no rows; give one problem a row, with columns problem, answer"),
        ("aime24", "x.jsonl", "[1]", "x.jsonl has no rows"),
        ("aime24", "x.jsonl", "{", "x.jsonl cannot be read"),
        ("aime24", "x.parquet", "no parquet", "x.parquet cannot be read"),
        ("aime24", "nowhere.jsonl", None, "nowhere.jsonl cannot be read"),
        ("aime24", "x.csv", "problem,answer", "x.csv is no .jsonl, .json, .parquet file"),
        ("tiny_sums", "x.jsonl", "{}", "evaluate.copies.tiny_sums: the problems of tiny_sums are made here; remove"),
        ("gsm8k", "x.jsonl", "{}", "evaluate.copies.gsm8k: gsm8k is not in evaluate.benchmarks"),
        ("aime42", "x.jsonl", "{}", "evaluate.copies.aime42: unknown benchmark (known: "),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_in_a_copy_is_one_line(name, file, text, message, write_recipe, tmp_path):
    if text is not None:
        (tmp_path / file).write_text(text)
    named = [known for known in BENCHMARKS if known == name and name != "gsm8k"]
    section = {"benchmarks": named or ["aime25"], "copies": {name: f"./{file}"}}
    (problem,) = copy_problems(load_recipe(write_recipe(step="evaluate", model={"name": "./m"}, evaluate=section)))
    assert problem.startswith(f"evaluate.copies.{name}: ") and message in problem and "\n" not in problem


def test_copies_without_a_mistake_have_no_problem(write_recipe, tmp_path):
    written(tmp_path / "aime.jsonl", AIME)
    section = {"benchmarks": ["aime24"], "copies": {"aime24": "./aime.jsonl"}}
    assert not [*copy_problems(load_recipe(write_recipe(step="evaluate", model={"name": "./m"}, evaluate=section)))]


@pytest.mark.parametrize(("name", "rows"), [("math_500", MATH), ("aime24", AIME)])
def test_a_model_is_scored_on_a_local_copy(name, rows, write_recipe, tmp_path):
    """The whole way: LightEval's own task over a file, a real model, a score that a plain count confirms."""
    copy = written(tmp_path / "copy.parquet", rows)
    section = {"benchmarks": [name], "copies": {name: "./copy.parquet"}, "samples": 2, "max_new_tokens": 10}
    recipe = write_recipe(
        step="evaluate",
        model={"name": str(TINY / "models" / "teacher")},
        evaluate={**section, "max_truncated_share": None, "num_problems": 3},
    )
    evaluate.evaluate(load_recipe(recipe), tmp_path)
    entry = json.loads((tmp_path / "scores.json").read_text())["model"]["benchmarks"][name]
    assert entry["copy"]["path"] == str(copy) and len(entry["copy"]["sha256"]) == 64
    assert (entry["num_problems"], entry["samples"], entry["max_new_tokens"], entry["unjudged"]) == (3, 2, 10, 0)
    found = parquet.read_table(tmp_path / f"completions/model-{name}.parquet").to_pylist()
    assert sum(any(one["problem"] in row["prompt"] for row in found) for one in rows) == 3
    assert all(len(row["completions"]) == 2 and max(row["num_tokens"]) <= 10 for row in found)
    assert entry["pass@1"] == sum(score for row in found for score in row["scores"]) / 6


# --- what the tasks' metrics say ------------------------------------------------------------------------------------


def judged(name: str, row: dict, text: str, tmp_path: Path, thinking: Thinking = Thinking()):
    """What the benchmark says of one completion to a row."""
    from open_r1.benchmarks import lighteval_adapter

    config = lighteval_adapter.task_config(name, BENCHMARKS[name], tmp_path, thinking, [row])
    (judgement,) = config.metrics[0].sample_level_fn.judge(config.prompt_function(row, name), [text])
    return judgement.verdict, judgement.answer


GPQA = {"Question": "Which?", "Correct Answer": "c", **{f"Incorrect Answer {n}": f"w{n}" for n in (1, 2, 3)}}
GSM8K = {"question": "Apples?", "answer": "2+3=<<2+3=5>>5\n#### 5"}


@pytest.mark.parametrize(
    ("name", "row", "text", "expected"),
    [
        ("math_500", MATH[0], "<think>7</think>ANSWER: $15$", (1.0, "15")),
        ("math_500", MATH[0], r"<think>7</think>So \boxed{15}.", (1.0, "15")),
        ("math_500", MATH[0], "<think>7</think>ANSWER: 16", (0.0, "16")),
        ("math_500", MATH[0], "<think>ANSWER: 15</think>I do not know.", (0.0, None)),
        ("math_500", MATH[0], "<think>so ANSWER: 15", (0.0, None)),  # cut off: it has not answered yet
        ("math_500", MATH[0], "ANSWER: 15", (1.0, "15")),
        ("math_500", MATH[1], r"ANSWER: $\dfrac12$", (1.0, "1/2")),
        ("math_500", MATH[1], "ANSWER: 0.5", (1.0, "1/2")),
        ("math_500", MATH[3], "ANSWER: $(x+1)(x-1)$", (1.0, "(x+1)(x-1)")),
        ("aime24", AIME[0], r"Therefore, the final answer is: $\boxed{4}$. I hope it is correct", (1.0, "4")),
        ("aime24", AIME[0], r"Therefore, the final answer is: $\boxed{5}$. I hope it is correct", (0.0, "5")),
        ("gsm8k", GSM8K, "<think>2</think>The answer is 5.", (1.0, "5")),
        ("gsm8k", GSM8K, "<think>2</think>The answer is 6.", (0.0, "6")),
    ],
)
def test_verdict_and_answer(name, row, text, expected, tmp_path):
    assert judged(name, row, text, tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so it is 15", (0.0, None)),
        ("hm ANSWER: 15</think>ANSWER: 16", (0.0, "16")),
        ("</think>ANSWER: 15", (1.0, "15")),
    ],
)
def test_a_thinking_that_the_prompt_opened_is_not_judged(text, expected, tmp_path):
    assert judged("math_500", MATH[0], text, tmp_path, Thinking(prefilled=True)) == expected


def test_gpqa_is_judged_by_its_letter(tmp_path):
    import random

    verdicts = {}
    for letter in "ABCD":
        random.seed(1)  # LightEval draws where the right choice stands
        verdicts[letter] = judged("gpqa_diamond", GPQA, f"<think>A B C D</think>Answer: {letter}", tmp_path)
    assert sorted(verdict for verdict, _ in verdicts.values()) == [0.0, 0.0, 0.0, 1.0]
    assert [answer for _, answer in verdicts.values()] == list("ABCD")


def test_a_metric_that_breaks_gives_no_verdict(tmp_path, monkeypatch):
    from lighteval.metrics.metrics_sample import PassAtK

    def broken(*_, **__):
        raise ZeroDivisionError("in the middle of sympy")

    monkeypatch.setattr(PassAtK, "compute", broken)
    assert judged("math_500", MATH[0], "ANSWER: 15", tmp_path) == (None, None)


@pytest.mark.parametrize("name", [name for name in STANDARD if BENCHMARKS[name].judge == "metric"])
def test_every_metric_has_the_part_that_finds_answers(name):
    from open_r1.benchmarks import lighteval_adapter

    theirs = lighteval_adapter.Registry.load_all_task_configs()[BENCHMARKS[name].task]
    extraction = lighteval_adapter.extraction_of(theirs.metrics[0])
    assert isinstance(extraction, lighteval_adapter.MultilingualExtractiveMatchMetric)


# --- answers and votes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spellings", "form"),
    [
        ([r"\frac12", r"\dfrac{1}{2}", r"$\frac{1}{2}$", "0.5", "1/2", "0.50"], "1/2"),
        (["25", "025", "25.0", "$25$", r"\text{25}"[6:-1]], "25"),
        (["1,000", "1000", r"1{,}000"], "1000"),
        (["50%", r"50\%", "0.5"], "1/2"),
        ([r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", r"$(3, \dfrac\pi2)$"], r"(3,\frac{\pi}{2})"),
        (["C", " C ", "(C)"[1:2]], "C"),
        (["", "$$", " "], None),
        (["7" * 3000], None),
    ],
)
def test_spellings_of_an_answer_vote_together(spellings, form):
    assert {normal_form(spelling) for spelling in spellings} == {form}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"<think></think>\boxed{0.5}, so \boxed{\frac12}", "1/2"),
        (r"<think></think>\boxed{1} or \boxed{2}", "1 | 2"),
        (r"<think></think><answer>7</answer>", "7"),
        (r"<think>\boxed{1}", None),
        ("<think></think>1", None),
    ],
)
def test_what_a_completion_votes_for(text, answer):
    assert boxed_answer(text, Thinking()) == answer


# --- an endpoint -----------------------------------------------------------------------------------------------------


def answering(share_right: int):
    """Right for the samples of a seed below `share_right` of four, else one of two wrong answers."""

    def answer(body) -> dict:
        (problem,) = [row for row in MATH if row["problem"] in body["messages"][-1]["content"]]
        number = answer.asked.setdefault(problem["problem"], 0)
        answer.asked[problem["problem"]] += 1
        right, wrong = problem["answer"], str(100 + number)
        text = f"ANSWER: ${right if number < share_right else wrong}$"
        return {"content": text, "reasoning_content": f"is it ANSWER: ${wrong}$?"}

    answer.asked = {}
    return answer


def endpoint_recipe(write_recipe, tmp_path, url: str, **section):
    written(tmp_path / "math.jsonl", MATH)
    endpoint = {"base_url": url, "model": "teacher", "max_concurrent_requests": 1, **section.pop("endpoint", {})}
    evaluation = {"benchmarks": ["math_500"], "copies": {"math_500": "./math.jsonl"}, "endpoint": endpoint, **section}
    return load_recipe(write_recipe(step="evaluate", model={"name": str(TINY / "models/teacher")}, evaluate=evaluation))


def test_a_server_is_scored(write_recipe, tmp_path):
    with OpenAIServer(answering(2)) as server:
        evaluate.evaluate(endpoint_recipe(write_recipe, tmp_path, server.url), tmp_path)
    (score,) = json.loads((tmp_path / "scores.json").read_text()).values()
    assert (score["endpoint"], score["parameters"]) == ({"base_url": server.url, "model": "teacher"}, None)
    entry = score["benchmarks"]["math_500"]
    assert (entry["pass@1"], entry["pass@k"]["4"], entry["maj@k"], entry["counts"]) == (
        0.5,
        1.0,
        {"4": 1.0},  # two right answers outvote wrong ones that differ
        {"requests": 16},
    )
    assert {body["max_tokens"] for body in server.requests} == {32768}
    rows = parquet.read_table(tmp_path / "completions/model-math_500.parquet").to_pylist()
    assert {len(set(row["answers"])) for row in rows} == {3}


def test_a_server_is_scored_whose_model_is_not_named(write_recipe, tmp_path):
    with OpenAIServer(answering(4)) as server:
        recipe = endpoint_recipe(write_recipe, tmp_path, server.url).model_copy(update={"model": Model()})
        evaluate.evaluate(recipe, tmp_path)
    score = json.loads((tmp_path / "scores.json").read_text())["model"]
    assert (score["model"], score["benchmarks"]["math_500"]["pass@1"]) == ("teacher", 1.0)


def test_what_a_server_refuses_has_no_verdict(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_UNJUDGED_SHARE", 0.5)
    refusal = Reply(400, {"error": {"message": "too long for me"}})
    with OpenAIServer(answering(4), faults=[None, refusal, refusal, None]) as server:
        evaluate.evaluate(endpoint_recipe(write_recipe, tmp_path, server.url), tmp_path)
    (score,) = json.loads((tmp_path / "scores.json").read_text()).values()
    entry = score["benchmarks"]["math_500"]
    assert (entry["pass@1"], entry["unjudged"], entry["counts"]["refused"], entry["truncated_share"]) == (
        1.0,
        2,
        2,
        0.0,
    )
    first, *_ = [
        row
        for row in parquet.read_table(tmp_path / "completions/model-math_500.parquet").to_pylist()
        if None in row["scores"]
    ]
    assert sorted(map(str, first["scores"])) == ["1.0", "1.0", "None", "None"]
    assert [bool(reason) for reason in first["refused"]] == [score is None for score in first["scores"]]
    assert "too long for me" in next(filter(None, first["refused"]))


def test_a_server_that_refuses_a_whole_problem(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_UNJUDGED_SHARE", 0.5)
    refusal = Reply(400, {"error": {"message": "too long for me"}})
    with OpenAIServer(answering(4), faults=[refusal] * 4) as server:
        evaluate.evaluate(endpoint_recipe(write_recipe, tmp_path, server.url), tmp_path)
    (score,) = json.loads((tmp_path / "scores.json").read_text()).values()
    entry = score["benchmarks"]["math_500"]
    assert (entry["pass@1"], entry["unjudged"], math.isfinite(entry["tokens_per_answer"])) == (1.0, 4, True)


def test_one_endpoint_is_one_model(write_recipe, tmp_path):
    recipe = endpoint_recipe(write_recipe, tmp_path, "http://127.0.0.1:9/v1")
    section = recipe.evaluate.model_copy(update={"models": {"a": "./a", "b": "./b"}})
    with pytest.raises(RecipeError, match="evaluate.models: 2 models, but evaluate.endpoint serves one"):
        evaluate.models_of(recipe.model_copy(update={"evaluate": section}))


def test_a_benchmark_is_scored_without_a_tokenizer(tmp_path):
    """Behind a server the template may be unknown: its prompts and their lengths are not ours to see."""
    from open_r1.benchmarks.lighteval_adapter import run_benchmark

    class Server:
        def sample(self, conversations, sampling, wanted=None):
            for index in range(len(conversations)):
                yield (index, 0), Completion("<think>7</think>ANSWER: 15", 5, truncated=False)

    benchmark = dataclasses.replace(BENCHMARKS["math_500"], samples=1)
    journal = tmp_path / "journal.jsonl"
    result = run_benchmark(Server(), "math_500", benchmark, tmp_path, journal, batch_size=4, seed=0, rows=MATH)
    assert result.metrics["pass@1"] == 0.25 and result.max_new_tokens == 32768


def test_a_copy_is_written_for_lighteval_line_by_line(tmp_path):
    directory = write_copy(MATH, tmp_path / "math")
    assert directory.is_absolute()
    assert [json.loads(line) for line in (directory / "test.jsonl").read_text().splitlines()] == MATH
