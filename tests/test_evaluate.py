"""Scores: the statistics against known values, a whole evaluation, and a count of its answers by other means."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml

from open_r1 import evaluate
from open_r1.benchmarks import statistics
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.generation import Completion
from open_r1.generation.transformers_backend import TransformersBackend
from open_r1.modeling import build_model, character_tokenizer, save_model
from open_r1.recipe import Model, load_recipe
from open_r1.step_process import RunStopped, run_step

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
UNJUDGED = float("nan")


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "k", "expected"),
    [
        ([[1, 0, 0, 0]], 1, 1 / 4),
        ([[1, 0, 0, 0]], 2, 1 / 2),  # 1 - C(3,2)/C(4,2)
        ([[1, 0, 0, 0]], 4, 1.0),
        ([[1, 1, 0, 0, 0]], 2, 1 - 3 / 10),  # 1 - C(3,2)/C(5,2)
        ([[0, 0, 0, 0]], 4, 0.0),
        ([[1, 1, 1, 1], [0, 0, 0, 0]], 2, 0.5),
        ([[1, 0, UNJUDGED, UNJUDGED]], 2, 1.0),  # two verdicts, one of them right
        ([[1, 0, 0, 0], [1, UNJUDGED, UNJUDGED, UNJUDGED]], 2, 1 / 2),  # the second has too few for k=2
        ([[1] * 100 + [0] * 900], 10, 1 - np.prod([(900 - i) / (1000 - i) for i in range(10)])),
    ],
)
def test_pass_at_k(verdicts, k, expected):
    assert statistics.pass_at_k(np.array(verdicts, dtype=float), k) == pytest.approx(expected)


def test_pass_at_1_is_the_mean_of_means_and_leaves_out_what_was_not_judged():
    verdicts = np.array([[1, 0, UNJUDGED], [1, 1, 1], [UNJUDGED, UNJUDGED, UNJUDGED]])
    assert statistics.pass_at_1(verdicts) == pytest.approx((1 / 2 + 1) / 2)
    assert statistics.pass_at_1(verdicts[:2, :2]) == pytest.approx(statistics.pass_at_k(verdicts[:2, :2], 1))


@pytest.mark.parametrize(("samples", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_ks(samples, expected):
    assert statistics.ks(samples) == expected


@pytest.mark.parametrize("values", [[0, 1] * 50, [0.25, 0.5, 1.0, 0.0, 0.75], [1] + [0] * 29])
def test_interval_contains_the_mean_and_is_repeatable(values):
    low, high = statistics.bootstrap_interval(values)
    assert low < np.mean(values) < high
    assert (low, high) == statistics.bootstrap_interval(values)


def test_interval_has_the_width_of_the_normal_approximation():
    low, high = statistics.bootstrap_interval(np.array([0.0, 1.0] * 500))
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1000), rel=0.1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_interval_of_equal_values_has_no_width(value):
    assert statistics.bootstrap_interval([value] * 7) == (value, value)


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tiny_model")
    tokenizer = character_tokenizer()
    save_model(build_model(Model(architecture=TINY), tokenizer), tokenizer, directory)
    return directory


def write_recipe(run_dir: Path, **sections) -> Path:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump({"step": "evaluate", "seed": 3, **sections}))
    return run_dir


def scores_of(run_dir: Path) -> dict:
    evaluate.evaluate(load_recipe(run_dir / "recipe.yaml"), run_dir)
    return json.loads((run_dir / "scores.json").read_text())


def script(monkeypatch, answers):
    """Sampling gives `answers(conversation) -> list of texts` instead of what a model would say."""

    def sample(backend, conversations, sampling, wanted=None):
        for index, texts in enumerate(map(answers, conversations)):
            for number, text in enumerate(texts):
                yield (index, number), Completion(text, 10 + number, truncated="</think>" not in text)

    monkeypatch.setattr(TransformersBackend, "sample", sample)


def answer_to(conversation) -> int:
    return sum(map(int, re.findall(r"\d+", conversation[0]["content"])))


def test_a_run_from_recipe_to_scores(tiny_model, tmp_path):
    run_dir = write_recipe(
        tmp_path / "run",
        evaluate={
            "benchmarks": ["tiny_sums"],
            "models": {"a": str(tiny_model), "b": str(tiny_model)},
            "num_problems": 6,
            "samples": 2,
            "max_new_tokens": 12,
            "max_truncated_share": None,  # random weights rarely end within 12 tokens
        },
    )
    scores = scores_of(run_dir)
    entry = scores["a"]["benchmarks"]["tiny_sums"]
    assert scores["a"]["model"] == str(tiny_model) and 1000 < scores["a"]["parameters"] < 50_000
    assert (entry["num_problems"], entry["samples"], entry["temperature"], entry["top_p"]) == (6, 2, 1.0, 1.0)
    assert entry["max_new_tokens"] == 12 and 1 <= entry["tokens_per_answer"] <= 12
    assert entry["pass@1"] == entry["lighteval"]["pass@1"] and set(entry["pass@k"]) == {"1", "2"}
    assert entry["unjudged"] == 0 and 0 <= entry["truncated_share"] <= 1

    rows = {label: parquet.read_table(run_dir / f"completions/{label}-tiny_sums.parquet").to_pylist() for label in "ab"}
    assert len(rows["a"]) == 6 and all(len(row["completions"]) == 2 for row in rows["a"])
    assert any(len(set(row["completions"])) == 2 for row in rows["a"]), "the temperature was not applied"
    assert rows["a"] == rows["b"], "the same weights and seed must give the same answers"
    tokens = [count for row in rows["a"] for count in row["num_tokens"]]
    assert np.mean(tokens) == pytest.approx(entry["tokens_per_answer"])
    for row in rows["a"]:
        assert int(row["gold"]) == answer_to([{"content": row["prompt"]}])


def test_scores_agree_with_a_count_by_other_means(tiny_model, tmp_path, monkeypatch):
    def answers(conversation):
        gold = answer_to(conversation)
        right = f"<think>1+1=2</think><answer>\\boxed{{{gold}}}</answer>"
        wrong = f"<think>\\boxed{{{gold}}}</think><answer>\\boxed{{{gold + 1}}}</answer>"  # right only while thinking
        unfinished = f"<think>so it is \\boxed{{{gold}}}"
        a_sum = f"<think></think>\\boxed{{{gold - 2}+2}}"
        no_answer = "<think></think>"
        mixes = [
            [right, right, right, right],
            [right, wrong, unfinished, a_sum],
            [wrong, unfinished, a_sum, no_answer],
            [right, right, a_sum, no_answer],
            [unfinished, unfinished, unfinished, right],
        ]
        return mixes[gold % len(mixes)]

    script(monkeypatch, answers)
    run_dir = write_recipe(
        tmp_path / "run",
        model={"name": str(tiny_model)},
        evaluate={"benchmarks": ["tiny_sums"], "num_problems": 50, "samples": 4},
    )
    entry = scores_of(run_dir)["model"]["benchmarks"]["tiny_sums"]

    counts, truncated = [], 0
    for row in parquet.read_table(run_dir / "completions/model-tiny_sums.parquet").to_pylist():
        right = 0
        for text in row["completions"]:
            _, closed, after = text.partition("</think>")
            boxed = re.findall(r"\\boxed\{(\d+)\}", after) if closed else []
            right += boxed == [row["gold"]]
            truncated += not closed
        counts.append(right)
    assert {0, 1, 2, 4} == set(counts)
    assert entry["pass@1"] == pytest.approx(sum(counts) / (4 * 50), abs=1e-12)
    assert entry["pass@k"]["4"] == pytest.approx(np.mean([count > 0 for count in counts]), abs=1e-12)
    assert entry["truncated_share"] == pytest.approx(truncated / (4 * 50))
    assert entry["pass@1_interval"][0] < entry["pass@1"] < entry["pass@1_interval"][1]


def test_explanations_are_judged_by_what_they_name_and_not_by_the_answer(tiny_model, tmp_path, monkeypatch):
    expected = {}

    def answers(conversation):
        question = conversation[0]["content"]
        total, *rest = map(int, re.findall(r"\d+", question))
        lines = [f"{total}+{term}={(total := total + term)}" for term in rest]
        wrong = total + 1
        mixes = [  # (thinking, answer, whether it explains the sum)
            (lines, total, 1.0),
            (lines, wrong, 1.0),
            (lines[:-1], total, 0.0),
            ([*lines, f"{total}+0={wrong}"], total, 0.0),
            ([], total, 0.0),
        ]
        thinking, answer, verdict = mixes[total % len(mixes)]
        expected[question] = verdict
        worked = "\n".join(thinking)
        return [f"<think>{worked}</think><answer>\\boxed{{{answer}}}</answer>", f"{worked}</think>{answer}"]

    script(monkeypatch, answers)
    section = {"benchmarks": ["tiny_explanations"], "num_problems": 40, "samples": 2}
    run_dir = write_recipe(tmp_path / "run", model={"name": str(tiny_model)}, evaluate=section)
    entry = scores_of(run_dir)["model"]["benchmarks"]["tiny_explanations"]
    rows = parquet.read_table(run_dir / "completions/model-tiny_explanations.parquet").to_pylist()
    assert len(rows) == 40 == len(expected) and set(expected.values()) == {0.0, 1.0}
    assert [row["scores"] for row in rows] == [[expected[row["prompt"]], 0.0] for row in rows]  # the second opens none
    assert entry["pass@1"] == pytest.approx(sum(expected.values()) / 80)
    assert (entry["unjudged"], entry["temperature"]) == (0, 1.0)
    assert all(answer is None for row in rows for answer in row["answers"])  # nothing that could be voted for


def test_a_completion_that_begins_inside_the_thinking_is_not_judged_before_its_end(tiny_model, tmp_path, monkeypatch):
    script(monkeypatch, lambda conversation: [f"it is \\boxed{{{answer_to(conversation)}}}"])
    template = character_tokenizer().chat_template.replace(
        "'<|assistant|>' }}{% endif %}", "'<|assistant|><think>' }}{% endif %}"
    )
    assert template.endswith("<think>' }}{% endif %}")
    (tmp_path / "thinking.jinja").write_text(template)
    section = {"benchmarks": ["tiny_sums"], "num_problems": 5, "max_truncated_share": None}
    scores = [
        scores_of(write_recipe(tmp_path / name, model=model, evaluate=section))["model"]["benchmarks"]
        for name, model in (
            ("open", {"name": str(tiny_model)}),
            ("prefilled", {"name": str(tiny_model), "chat_template": str(tmp_path / "thinking.jinja")}),
        )
    ]
    assert [score["tiny_sums"]["pass@1"] for score in scores] == [1.0, 0.0]


def test_few_missing_verdicts_are_left_out_and_many_stop_the_run(tiny_model, tmp_path, monkeypatch):
    from open_r1.benchmarks import lighteval_adapter

    num_missing = 0

    def sometimes_broken(completions, solution, **_):
        nonlocal num_missing
        num_missing -= 1
        return [None if num_missing >= 0 else 0.0] + [1.0] * (len(completions) - 1)

    script(monkeypatch, lambda conversation: ["</think>1", "</think>2"])
    monkeypatch.setattr(lighteval_adapter, "accuracy_reward", sometimes_broken)
    run_dir = write_recipe(
        tmp_path / "run",
        model={"name": str(tiny_model)},
        evaluate={"benchmarks": ["tiny_sums"], "num_problems": 50, "samples": 2},
    )
    num_missing = 1
    entry = scores_of(run_dir)["model"]["benchmarks"]["tiny_sums"]
    assert entry["unjudged"] == 1 and entry["pass@1"] == pytest.approx((49 * 0.5 + 1) / 50)
    rows = parquet.read_table(run_dir / "completions/model-tiny_sums.parquet").to_pylist()
    assert sorted(str(row["scores"]) for row in rows)[-1] == "[None, 1.0]"

    (run_dir / "completions" / "model-tiny_sums.json").unlink()  # else it is finished
    num_missing = 2
    with pytest.raises(RunStopped, match="2 of 100 completions got no verdict"):
        scores_of(run_dir)
    assert not (run_dir / "completions" / "model-tiny_sums.json").exists()


def test_a_run_that_is_taken_up_samples_what_is_missing(tiny_model, tmp_path, monkeypatch):
    section = {"benchmarks": ["tiny_sums"], "num_problems": 3, "samples": 2}
    section["models"] = {label: str(tiny_model) for label in "abc"}
    run_dir = write_recipe(tmp_path / "run", evaluate=section)
    sampled = []

    def sample(backend, conversations, sampling, wanted=None):
        for row in sorted(wanted):
            if len(sampled) == 10:
                sampled.append("the machine goes down")
                raise OSError("the machine goes down")
            sampled.append(row)
            yield row, Completion(f"</think>{row}", num_tokens=2, truncated=False)

    monkeypatch.setattr(TransformersBackend, "sample", sample)
    with pytest.raises(OSError, match="goes down"):
        scores_of(run_dir)
    assert not (run_dir / "scores.json").exists()
    assert [file.name for file in (run_dir / "completions").glob("*.jsonl")] == ["b-tiny_sums.jsonl"]
    assert list(scores_of(run_dir)) == ["a", "b", "c"]
    rows = [(problem, number) for problem in range(3) for number in range(2)]
    assert sampled == [*rows, *rows[:4], "the machine goes down", *rows[4:], *rows]
    answers = parquet.read_table(run_dir / "completions/b-tiny_sums.parquet")["completions"].to_pylist()
    assert answers == [[f"</think>{row}" for row in rows if row[0] == problem] for problem in range(3)]
    assert not list((run_dir / "completions").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluate": {"benchmarks": ["tiny_sums"]}}, "model './nowhere' cannot be loaded"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, sections, message):
    run_dir = write_recipe(tmp_path / "run", model={"name": "./nowhere"}, **sections)
    monkeypatch.setattr("sys.argv", ["evaluate", str(run_dir)])
    with pytest.raises(SystemExit, match="2"):
        run_step(evaluate.evaluate)
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and "\n" not in error


# --- LightEval -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if benchmark.procedural is None])
def test_standard_benchmarks_are_in_lightevals_registry(name, tmp_path):
    from lighteval.tasks.lighteval_task import LightevalTask

    from open_r1.benchmarks.lighteval_adapter import task_config

    task = LightevalTask(task_config(name, BENCHMARKS[name], tmp_path))
    assert max(task.num_samples) == BENCHMARKS[name].samples
    assert task.generation_size == BENCHMARKS[name].max_new_tokens
    assert "/" in task.dataset_path


def test_a_standard_benchmark_is_judged_by_its_own_metric(tiny_model, tmp_path, monkeypatch):
    """The path of math_500 with two rows of ours in place of the Hub's."""
    from open_r1.benchmarks import lighteval_adapter

    theirs = lighteval_adapter.Registry.load_all_task_configs()["math_500"]
    monkeypatch.setattr(theirs, "hf_repo", str(tmp_path / "math"))
    (tmp_path / "math").mkdir()
    rows = [{"problem": "What is 1+1?", "solution": "$2$"}, {"problem": "Half of 1?", "solution": "$\\frac{1}{2}$"}]
    (tmp_path / "math" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    script(
        monkeypatch,
        lambda conversation: [
            "<think>ANSWER: $7$</think>ANSWER: $2$",
            "<think>ANSWER: $2$</think>ANSWER: $7$",
            "<think></think>ANSWER: $0.5$",
            "<think>ANSWER: $2$</think>",
        ],
    )
    run_dir = write_recipe(
        tmp_path / "run", model={"name": str(tiny_model)}, evaluate={"benchmarks": ["math_500"], "max_new_tokens": 9}
    )
    entry = scores_of(run_dir)["model"]["benchmarks"]["math_500"]
    assert (entry["pass@1"], entry["samples"], entry["pass@k"]["4"]) == (0.25, 4, 1.0)
    rows = parquet.read_table(run_dir / "completions/model-math_500.parquet").to_pylist()
    by_prompt = {"Half" in row["prompt"]: row["scores"] for row in rows}
    assert by_prompt == {False: [1.0, 0.0, 0.0, 0.0], True: [0.0, 0.0, 1.0, 0.0]}


def test_lighteval_leaves_autograd_on():
    import torch

    import open_r1.benchmarks.lighteval_adapter  # noqa: F401

    assert torch.is_grad_enabled()
