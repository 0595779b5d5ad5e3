"""The report of synthetic run directories: what is shown, what is escaped, and that nothing missing breaks it."""

import io
import json
import math
import random
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from open_r1.report import comparison, pictures, print_table, reading, write_report
from open_r1.report.__main__ import main
from open_r1.report.scores import score_blocks
from open_r1.report.table import count_text, minutes_text, pass_text

STAGES = {"base": "pretrain", "cold_start": "sft", "reasoning_rl": "grpo", "student_distilled": "distill"}
SCORES = {"base": 0.31, "cold_start": 0.52, "reasoning_rl": 0.881, "student_base": 0.22, "student_distilled": 0.79}
ATTACK = "<script>alert('trace')</script>\n<think>7+5=12</think>"


def write_record(folder: Path, step: str, **fields) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "step": step,
        "status": "done",
        "recipe_file": f"recipes/tiny-r1/{folder.name}.yaml",
        "recipe": {"step": step, "description": "Sums & traces", "stages": []},
        "recipe_sha256": "f" * 64,
        "seed": 7,
        "commit": "c0ffee" * 6 + "abcd",
        "dirty": True,
        "command": ["make", "r1", "a b"],
        "versions": {"python": "3.11.7", "trl": "1.16.0"},
        "hardware": {"cpu": "A CPU", "cores": 2, "memory_gb": 8.2, "gpus": ["H100", "H100"]},
        "started_at": "2026-01-01T12:00:00+00:00",
        "seconds": 432.0,
        "cost_usd": 0.012,
        "attempts": 1,
        "parents": [],
    }
    (folder / "run.json").write_text(json.dumps({**record, **fields}))


def write_metrics(folder: Path, step: str, num_steps: int = 200) -> None:
    rng = random.Random(step)
    with (folder / "metrics.jsonl").open("w") as stream:
        for number in range(1, num_steps + 1):
            share, noise = 1 - math.exp(-3 * number / num_steps), rng.gauss(0, 0.05)
            row = {"step": number, "loss": 2.2 - 1.8 * share + noise, "grad_norm": 1.0, "learning_rate": 1e-4}
            if step == "grpo":
                row |= {
                    "reward": 0.6 + 0.5 * share + noise,
                    "rewards/accuracy_reward/mean": min(1, max(0, 0.5 + 0.38 * share + noise)),
                    "completions/mean_length": 22 + 14 * share + 20 * noise,
                    "completions/clipped_ratio": max(0, 0.1 - 0.1 * share + noise / 4),
                    "frac_reward_zero_std": min(1, max(0, 0.2 + 0.4 * share + 2 * noise)),
                    "entropy": 0.7 - 0.4 * share + noise / 2,
                }
            else:
                row["mean_token_accuracy"] = min(1, 0.3 + 0.6 * share + noise / 2)
            stream.write(json.dumps(row) + "\n")


def write_completions(file: Path, answers: list[tuple[str, float | None]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "prompt": [f"7+5+{number}=?" for number in range(len(answers))],
        "gold": [str(12 + number) for number in range(len(answers))],
        "completions": [[text] for text, _ in answers],
        "num_tokens": [[len(text)] for text, _ in answers],
        "truncated": [[False] for _ in answers],
        "scores": [[score] for _, score in answers],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def write_scores(folder: Path, benchmarks: tuple[str, ...] = ("sums",)) -> None:
    scores = {
        label: {
            "model": f"/runs/{label}/model",
            "parameters": 868_352,
            "benchmarks": {
                name: {
                    "pass@1": share,
                    "pass@1_interval": [share - 0.021, share + 0.02],
                    "pass@k": {"4": min(1, share + 0.1)},
                    "num_problems": 500,
                    "samples": 4,
                    "tokens_per_answer": 31.4,
                    "truncated_share": 0.01,
                    "seconds": 60,
                }
                for name in benchmarks
            },
        }
        for label, share in SCORES.items()
    }
    (folder / "scores.json").write_text(json.dumps(scores))


def write_pipeline(root: Path) -> Path:
    """A whole pipeline's run directory, the same each time."""
    run = root / "tiny-r1"
    stages = [{"name": name, "recipe": f"{name}.yaml", "set": {}} for name in [*STAGES, "scores"]]
    recipe = {"step": "pipeline", "description": "R1 in small", "stages": stages}
    write_record(run, "pipeline", recipe=recipe, seconds=2000.0)
    for name, step in STAGES.items():
        parents = [{"name": "cold_start", "run": "../cold_start"}] if step == "grpo" else []
        write_record(run / name, step, parents=parents)
        write_metrics(run / name, step)
    drops = {"prompts": 2000, "sampled": 8000, "kept": 6100, "dropped": {"wrong answer": 1500, "cut off": 400}}
    (run / "student_distilled" / "distill.json").write_text(json.dumps(drops))
    write_record(run / "scores", "evaluate")
    write_scores(run / "scores")
    right, wrong = "<think>7+5=12\n12+2=14</think>\n<answer>\\boxed{14}</answer>", "<answer>\\boxed{99}</answer>"
    before = [(wrong, 0.0), (right, 1.0), (wrong, 0.0), (right, 1.0), (wrong, 0.0)]
    after = [(ATTACK, 1.0), (right, 1.0), (wrong, 0.0), (wrong, 0.0), (right, 1.0)]
    write_completions(run / "scores" / "completions" / "cold_start-sums.parquet", before)
    write_completions(run / "scores" / "completions" / "reasoning_rl-sums.parquet", after)
    return run


def table_text(run: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_table(run, console)
    return console.file.getvalue()


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing is nearly all the time of a report; where the pictures do not matter they are not drawn."""
    monkeypatch.setattr(pictures, "_png", lambda figure: "")


@pytest.fixture(scope="module")
def pipeline_page(tmp_path_factory) -> str:
    return write_report(write_pipeline(tmp_path_factory.mktemp("runs"))).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "shown",
    [
        "88.1 % [86.0, 90.1]",
        "868k",
        "500 problems, 4 samples each",
        "Side by side: cold_start and reasoning_rl",
        "wrong → right: 2",
        "right → wrong: 1",
        "✓ right",
        "✗ wrong",
        "7+5=12\n12+2=14",  # newlines of a trace are kept
        'wrong answer</td><td class="number">1,500',
        "18.8 %",
        "with changes that are not committed",
        "2 × H100",
        "make r1 &#39;a b&#39;",
        "trl 1.16.0",
        "33 minutes",
        "Dead groups:",
        "R1 in small",
    ],
)
def test_the_page_of_a_pipeline_shows(pipeline_page, shown):
    assert shown in pipeline_page


def test_the_page_is_self_contained_and_complete(pipeline_page):
    assert "http://" not in pipeline_page and "https://" not in pipeline_page and 'src="/' not in pipeline_page
    assert pipeline_page.count("data:image/png;base64,") == 5  # one bar chart, four stages with curves
    assert "Left out" not in pipeline_page


def test_model_output_is_escaped(pipeline_page):
    assert "<script" not in pipeline_page
    assert "&lt;script&gt;alert(&#39;trace&#39;)&lt;/script&gt;" in pipeline_page


def test_the_terminal_table(tmp_path):
    table = table_text(write_pipeline(tmp_path))
    row = next(line for line in table.splitlines() if "reasoning_rl" in line)
    assert re.split(r"\s{2,}", row.strip()) == ["reasoning_rl", "868k", "88.1 % [86.0, 90.1]", "31.4", "7.2"]
    student = next(line for line in table.splitlines() if "student_base" in line)
    assert student.rstrip().endswith("–")  # no stage of that name, so no minutes
    assert "student_distilled" in table  # fits a terminal of 80 columns


def test_one_block_per_benchmark(tmp_path):
    run = write_pipeline(tmp_path)
    write_scores(run / "scores", ("sums", "aime24"))
    _, stages = reading.read_all(run, [])
    assert [block.title for block in score_blocks(stages)] == ["sums", "aime24"]


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("run.json", "tiny-r1: no run.json"),
        ("reasoning_rl/run.json", "reasoning_rl: no run.json"),
        ("reasoning_rl/metrics.jsonl", "reasoning_rl: no metrics.jsonl"),
        ("scores/scores.json", "scores: no scores.json"),
        ("scores/completions/cold_start-sums.parquet", "cold_start-sums.parquet is missing"),
        ("student_distilled/distill.json", None),
    ],
)
def test_what_is_missing_is_left_out_with_a_note(tmp_path, no_pictures, missing, note):
    run = write_pipeline(tmp_path)
    (run / missing).unlink()
    page = write_report(run).read_text(encoding="utf-8")
    assert note is None or note in page
    assert "How it was run" in page and table_text(run)


@pytest.mark.parametrize(
    "broken",
    [
        "run.json",
        "base/run.json",
        "base/metrics.jsonl",
        "scores/scores.json",
        "student_distilled/distill.json",
        "scores/completions/reasoning_rl-sums.parquet",
    ],
)
@pytest.mark.parametrize("content", ['{"half', "", "[1]"])
def test_a_broken_file_is_a_note(tmp_path, no_pictures, broken, content):
    run = write_pipeline(tmp_path)
    (run / broken).write_text(content)
    page = write_report(run).read_text(encoding="utf-8")
    assert "Left out" in page and table_text(run)


def test_an_empty_directory_has_a_page(tmp_path):
    assert "no run.json" in write_report(tmp_path).read_text(encoding="utf-8")
    assert "not run" in table_text(tmp_path)


def test_a_failed_single_run(tmp_path):
    run = tmp_path / "20260101-120000"
    write_record(run, "grpo", status="failed", error="out of memory <at step 3>")
    write_metrics(run, "grpo", num_steps=3)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "rew')
    page = write_report(run).read_text(encoding="utf-8")
    assert "out of memory &lt;at step 3&gt;" in page
    assert page.count("data:image/png;base64,") == 1
    assert "1 unreadable line" in page
    assert "failed: out of memory <at step 3>" in table_text(run)


def test_seconds_by_phase_are_shown_where_they_were_logged(tmp_path, pipeline_page):
    run = tmp_path / "run"
    write_record(run, "grpo")
    phases = {"generation": 3.0, "backward": 0.75, "other": 0.25, "step": 4.0}
    metrics = {f"seconds/{name}": seconds for name, seconds in phases.items()} | {"padded_share": 0.125}
    metrics["tokens_per_second/generation"] = 1234.0
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": n, **metrics}) + "\n" for n in range(1, 9)))
    page = write_report(run).read_text(encoding="utf-8")
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    assert ["generation", "3.000", "75.0 %", "1,234", "sampling"] in cells
    assert "mean of steps 3 to 8" in page and "12.5% of the positions" in page
    assert page.count("data:image/png;base64,") == 1  # none of its metrics has a curve
    assert "Where the seconds went" not in pipeline_page


def test_unjudged_answers_are_told(tmp_path, no_pictures):
    run = tmp_path / "evaluate"
    write_record(run, "evaluate")
    entry = {"pass@1": float("nan"), "pass@1_interval": [float("nan")] * 2, "samples": 1, "unjudged": 12}
    scores = {"model": {"model": "x", "parameters": 113_920, "benchmarks": {"sums": entry}}}
    (run / "scores.json").write_text(json.dumps(scores))
    page = write_report(run).read_text(encoding="utf-8")
    assert "1 sample each, 12 answers could not be judged" in page
    assert "nan" not in table_text(run)


def test_a_step_logged_twice_counts_as_logged_last(tmp_path):
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "runtime": 9}]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reading._read_metrics(file, [])["loss"].tolist() == [3.0, 1.5]


@pytest.mark.parametrize(
    ("parents", "recipe", "before"),
    [
        ([{"name": "base"}], {}, "base"),
        ([{"stage": "base"}], {}, "base"),
        ([{"name": "unknown"}], {"model": {"name": "/runs/r1/base/model"}}, "base"),
        ([], {}, "cold_start"),
    ],
)
def test_what_reinforcement_learning_started_from(tmp_path, parents, recipe, before):
    run = write_pipeline(tmp_path)
    write_record(run / "reasoning_rl", "grpo", parents=parents, recipe=recipe)
    _, stages = reading.read_all(run, [])
    grpo = next(stage for stage in stages if stage.step == "grpo")
    assert comparison._label_before(grpo, list(SCORES)) == before


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (868_352, "868k"),
        (999_600, "1.00M"),
        (1_543_714_304, "1.54B"),
        (70_600_000_000, "70.6B"),
    ],
)
def test_counts_have_three_digits(count, text):
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("share", "interval", "text"),
    [
        (None, None, "–"),
        (0.5, None, "50.0 %"),
        (0.881, (0.86, 0.901), "88.1 % [86.0, 90.1]"),
        (1.0, (0.993, 1.0), "100.0 % [99.3, 100.0]"),
    ],
)
def test_pass_at_1_has_its_interval(share, interval, text):
    assert pass_text(share, interval) == text


@pytest.mark.parametrize(("minutes", "text"), [(None, "–"), (0.04, "0.0"), (7.23, "7.2"), (61.8, "62")])
def test_minutes(minutes, text):
    assert minutes_text(minutes) == text


def test_a_long_completion_loses_its_middle():
    text = comparison.without_middle("a" * 20_000 + "end")
    assert len(text) < 12_100 and text.endswith("end") and "8,003 characters left out" in text


def test_a_wrong_directory_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
