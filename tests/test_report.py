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
from open_r1.report.commands import run_command, stage_command
from open_r1.report.gates import gates_of
from open_r1.report.graph import Source, graph_of
from open_r1.report.layout import wrapped
from open_r1.report.samples import samples_of
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
                    "dead_group_share": min(1, max(0, 0.2 + 0.4 * share + 2 * noise)),
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
        "model of cold_start → reasoning_rl",
        'href="#stage-reasoning_rl"',
        'id="stage-reasoning_rl"',
        "✓ done",
        "kept 6,100",
        "mv ",
        "--stage reasoning_rl",
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


def write_stages(root: Path, stages: list[dict], **records: dict) -> Path:
    """A pipeline with these entries of `stages`, and a record for each of `records`: step and what differs."""
    run = root / "pipeline"
    write_record(run, "pipeline", recipe={"step": "pipeline", "stages": stages})
    for name, record in records.items():
        write_record(run / name, **record)
    return run


def edges_of(run: Path, notes: list[str] | None = None) -> set[tuple[str, str, str, bool]]:
    """(what feeds, stage, model or data, recorded) of each edge; a source by its label."""
    graph = graph_of(*reading.read_all(run, []), notes if notes is not None else [])
    label = {True: lambda node: f"[{node.label}]", False: str}
    return {
        (label[isinstance(edge.parent, Source)](edge.parent), edge.stage, edge.what, edge.recorded)
        for edge in graph.edges
    }


@pytest.mark.parametrize(
    ("record", "edges"),
    [
        pytest.param(
            {"parents": [{"name": "first", "run": "{run}/first", "weights_sha256": "w"}]},
            {("first", "second", "model", True)},
            id="model of a stage",
        ),
        pytest.param(
            {"parents": [{"name": "first", "run": "{run}/first", "data_sha256": "d"}]},
            {("first", "second", "data", True)},
            id="data of a stage",
        ),
        pytest.param(
            {
                "parents": [{"name": "first", "run": "{run}/first", "weights_sha256": "w"}],
                "recipe": {"model": {"name": "{run}/first/model"}, "data": [{"path": "./sums.jsonl"}]},
            },
            {("first", "second", "model", True), ("[sums.jsonl]", "second", "data", True)},
            id="a model once, and a file",
        ),
        pytest.param(
            {
                "parents": [{"name": "first", "run": "/before/first", "weights_sha256": "w"}],
                "recipe": {"model": {"name": "/before/first/model"}},
            },
            {("first", "second", "model", True)},
            id="a pipeline that was moved",
        ),
        pytest.param(
            {"recipe": {"model": {"name": "{run}/first/model"}}},
            {("first", "second", "model", True)},
            id="a recipe without parents",
        ),
        pytest.param(
            {"recipe": {"data": [{"path": "{run}/first/kept"}]}},
            {("first", "second", "data", True)},
            id="data in a recipe without parents",
        ),
        pytest.param(
            {
                "parents": [{"name": "first", "run": "/other/models", "weights_sha256": "w"}],
                "recipe": {"model": {"name": "/other/models/teacher"}},
            },
            {("[models/teacher]", "second", "model", True)},
            id="a run from outside that is called like a stage",
        ),
        pytest.param(
            {
                "parents": [{"name": "models", "run": "/other/models", "weights_sha256": letter} for letter in "st"],
                "recipe": {"model": {"name": "/other/models/s"}, "distill": {"teacher": "/other/models/t"}},
            },
            {("[models/s]", "second", "model", True), ("[models/t]", "second", "model", True)},
            id="two models from one folder outside",
        ),
        pytest.param(
            {"recipe": {"distill": {"teacher": "org/teacher"}, "data": [{"procedural": {"family": "sums"}}]}},
            {("[org/teacher]", "second", "model", True), ("[sums]", "second", "data", True)},
            id="a teacher from the Hub and problems that are made",
        ),
        pytest.param(
            {
                "recipe": {
                    "model": {"name": "org/template"},
                    "evaluate": {"models": {"a": "org/a", "b": "{run}/first/model"}},
                }
            },
            {("[org/a]", "second", "model", True), ("first", "second", "model", True)},
            id="the models that are scored",
        ),
        pytest.param(
            {"parents": [{"name": "gone", "run": "/elsewhere/gone", "weights_sha256": "w"}], "recipe": {}},
            {("[elsewhere/gone]", "second", "model", True)},
            id="a record that lost its recipe",
        ),
    ],
)
def test_what_feeds_a_stage(tmp_path, record, edges):
    here = json.loads(json.dumps(record).replace("{run}", str(tmp_path / "pipeline")))
    stages = [{"name": "first"}, {"name": "second"}]
    run = write_stages(tmp_path, stages, first={"step": "sft", "recipe": {}}, second={"step": "sft", **here})
    assert edges_of(run) == edges


def test_a_parent_that_stands_behind_its_child_is_a_note(tmp_path):
    parents = [{"name": "second", "run": "/x/second", "weights_sha256": "w"}]
    record = {"step": "sft", "recipe": {}}
    run = write_stages(
        tmp_path, [{"name": "first"}, {"name": "second"}], first={**record, "parents": parents}, second=record
    )
    notes: list[str] = []
    assert edges_of(run, notes) == set() and len(notes) == 1


def test_what_has_not_begun_is_fed_as_its_recipe_means_it(tmp_path):
    stages = [
        {"name": "first"},
        {"name": "second", "set": {"model": {"name": "stage:first"}, "data.0.path": "stage:first/prompts"}},
    ]
    assert edges_of(write_stages(tmp_path, stages, first={"step": "sft", "recipe": {}})) == {
        ("first", "second", "model", False),
        ("first", "second", "data", False),
    }


def test_a_pipeline_whose_stages_are_jobs_has_a_page_before_it_has_a_record(tmp_path, no_pictures):
    run = write_pipeline(tmp_path)
    (run / "run.json").unlink()
    stages = [{"name": name, "recipe": f"stages/{name}.yaml"} for name in ("base", "cold_start", "to_come")]
    (run / "recipe.yaml").write_text(json.dumps({"step": "pipeline", "stages": stages}))
    (run / "stages").mkdir()
    (run / "stages" / "to_come.yaml").write_text("step: grpo\nmodel: {name: 'stage:cold_start'}\n")
    page = write_report(run).read_text(encoding="utf-8")
    assert 'href="#stage-to_come"' in page and "model of cold_start → to_come" in page
    assert "to_come (grpo, not run) takes the model of cold_start" in page


GATES = {  # id -> (gate, what the stage left, what the page says)
    "passed": ({"metric": "kept", "at_least": 100}, {"generate.json": {"kept": 100}}, "passed (100)"),
    "missed": ({"metric": "kept", "at_least": 101}, {"generate.json": {"kept": 100}}, "not passed (100)"),
    "too much": ({"metric": "kept", "at_most": 99.0}, {"generate.json": {"kept": 100}}, "not passed (100)"),
    "no value": ({"metric": "kept", "at_least": 1.0}, {}, "not known"),
    "score": (
        {"metric": "x/sums/pass@1", "at_least": 0.25},
        {"scores.json": {"x": {"benchmarks": {"sums": {"pass@1": 0.5}}}}},
        "passed (0.5)",
    ),
    "refused": (
        {"metric": "x/sums/pass@1", "at_least": 0.25},
        {"scores.json": {"x": {"benchmarks": {"sums": {"pass@1": None, "refused": "cut off"}}}}},
        "not known",
    ),
}


@pytest.mark.parametrize(("gate", "files", "verdict"), GATES.values(), ids=GATES)
def test_a_gate_says_how_it_stands(tmp_path, gate, files, verdict):
    run = write_stages(tmp_path, [{"name": "x", "gate": [gate]}], x={"step": "generate"})
    for name, content in files.items():
        (run / "x" / name).write_text(json.dumps(content))
    pipeline, (stage,) = reading.read_all(run, [])
    assert [state.verdict for state in gates_of(pipeline, stage, [])] == [verdict]


def test_a_gate_of_a_stage_that_is_not_done_is_open(tmp_path):
    gate = {"metric": "kept", "at_least": 1.0}
    run = write_stages(tmp_path, [{"name": "x", "gate": [gate]}], x={"step": "generate", "status": "running"})
    (run / "x" / "generate.json").write_text('{"kept": 5}')
    pipeline, (stage,) = reading.read_all(run, [])
    assert [state.passed for state in gates_of(pipeline, stage, [])] == [None]


def test_a_gate_of_another_version_is_a_note(tmp_path):
    run = write_stages(tmp_path, [{"name": "x", "gate": [{"metric": "kept"}]}], x={"step": "generate"})
    pipeline, (stage,) = reading.read_all(run, [])
    notes: list[str] = []
    assert gates_of(pipeline, stage, notes) == [] and len(notes) == 1


@pytest.mark.parametrize("file", ["generate.json", "distill.json"])
def test_the_funnel_of_a_stage_that_samples(tmp_path, file):
    write_record(tmp_path / "x", "generate")
    counts = {"prompts": 500, "sampled": 2000, "kept": 1500, "dropped": {"too_long": 100, "truncated": 400}}
    (tmp_path / "x" / file).write_text(json.dumps(counts | {"tokens_per_second": 1234.5, "counts": {"retries": 3}}))
    page = write_report(tmp_path / "x").read_text(encoding="utf-8")
    rows = [re.sub(r"<[^>]*>", "|", row) for row in re.findall(r"<tr><td>.*?</tr>", page)]
    shown = [[cell for cell in row.split("|") if cell][:3] for row in rows]
    assert shown[:4] == [
        ["sampled", "2,000"],
        ["kept", "1,500", "75.0 %"],
        ["truncated", "400", "20.0 %"],
        ["too_long", "100", "5.0 %"],
    ]
    assert "sampled for 500 prompts" in page and "1,234 tokens a second, retries: 3" in page


def test_samples_of_a_model_are_its_first_right_and_its_first_wrong_answer(tmp_path):
    run = write_pipeline(tmp_path)
    _, stages = reading.read_all(run, [])
    grpo = next(stage for stage in stages if stage.step == "grpo")
    found = [(sample.verdict, sample.prompt) for sample in samples_of(grpo, stages, [])]
    assert found == [("right", "7+5+0=?"), ("wrong", "7+5+2=?")]


def test_an_evaluation_shows_answers_of_models_that_no_stage_made(tmp_path):
    run = write_pipeline(tmp_path)
    write_completions(run / "scores" / "completions" / "student_base-sums.parquet", [("3", None), ("x", 0.0)])
    _, stages = reading.read_all(run, [])
    (sample,) = samples_of(stages[-1], stages, [])
    assert (sample.where, sample.verdict, sample.prompt) == ("student_base, sums", "wrong", "7+5+1=?")


def test_samples_of_a_stage_that_samples_are_kept_and_dropped_ones(tmp_path):
    write_record(tmp_path / "x", "generate")
    (tmp_path / "x" / "generate.json").write_text('{"sampled": 3, "kept": 1}')
    prompt = [{"role": "user", "content": "7+5=?"}]
    tables = {
        "kept/part-00000": [{"prompt": prompt, "completion": [{"role": "assistant", "content": "kept one"}]}],
        "completions/part-00000": [
            {"prompt": prompt, "completion": "", "refused": "HTTP 400", "dropped_for": "refused"},
            {"prompt": prompt, "completion": "a near-duplicate of what is kept", "refused": None, "dropped_for": None},
            {"prompt": prompt, "completion": "long " * 1000, "refused": None, "dropped_for": "too_long"},
        ],
        "completions/completions_00001": [{"prompt": "logged by a trainer", "completion": "x"}],
    }
    for name, rows in tables.items():
        file = tmp_path / "x" / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    _, (stage,) = reading.read_all(tmp_path / "x", [])
    kept, dropped = samples_of(stage, [stage], [])
    assert (kept.verdict, kept.prompt, kept.text) == ("kept", "7+5=?", "kept one")
    assert dropped.verdict == "dropped: too_long" and "2,600 characters left out" in dropped.text


def test_what_a_trainer_logs_is_not_taken_for_what_was_sampled(tmp_path):
    write_record(tmp_path / "x", "distill")
    (tmp_path / "x" / "distill.json").write_text('{"sampled": 3, "kept": 1}')
    file = tmp_path / "x" / "completions" / "completions_00001.parquet"
    file.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "logged", "completion": "x"}]), file)
    _, (stage,) = reading.read_all(tmp_path / "x", [])
    assert samples_of(stage, [stage], []) == []


def test_a_broken_table_of_samples_is_a_note(tmp_path):
    run = write_pipeline(tmp_path)
    write_completions(run / "scores" / "completions" / "base-sums.parquet", [])
    file = run / "scores" / "completions" / "cold_start-sums.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["7+5=?"]}), file)
    _, stages = reading.read_all(run, [])
    notes: list[str] = []
    assert [samples_of(stage, stages, notes) for stage in stages[:2]] == [[], []]
    assert len(notes) == 1 and file.name in notes[0]


LAUNCHED = ["/src/open_r1/launch.py", "pipeline", "recipes/r1.yaml"]


@pytest.mark.parametrize(
    ("command", "whole", "stage"),
    [
        (LAUNCHED, "pipeline recipes/r1.yaml", "run recipes/r1.yaml --stage x"),
        ([*LAUNCHED, "seed=1"], "pipeline recipes/r1.yaml seed=1", "run recipes/r1.yaml seed=1 --stage x"),
        ([*LAUNCHED, "--stage", "y"], "pipeline recipes/r1.yaml", "run recipes/r1.yaml --stage x"),
        ([*LAUNCHED, "--stage=y", "--runs", "a b"], "pipeline recipes/r1.yaml --runs 'a b'", None),
        (["make", "r1"], None, "run recipes/tiny-r1/pipeline.yaml --stage x"),
    ],
)
def test_commands_to_run_it_again_keep_the_overrides(tmp_path, command, whole, stage):
    run = write_stages(tmp_path, [{"name": "x"}], x={"step": "sft", "status": "failed"})
    write_record(run, "pipeline", recipe={"step": "pipeline", "stages": [{"name": "x"}]}, command=command)
    pipeline, (failed,) = reading.read_all(run, [])
    launcher = ".venv/bin/python -m open_r1.launch "
    assert run_command(pipeline) == (launcher + whole if whole else "make r1")
    assert stage_command(pipeline, failed).startswith(launcher)
    assert stage is None or stage_command(pipeline, failed) == launcher + stage


def test_a_stage_that_is_done_is_moved_away_before_it_is_run_again(tmp_path):
    run = write_stages(tmp_path, [{"name": "x"}], x={"step": "sft"})
    pipeline, (done,) = reading.read_all(run, [])
    assert stage_command(pipeline, done).splitlines()[0] == f"mv {run / 'x'} {run / 'x'}.before"


def test_a_refused_score_is_told_with_its_reason_and_no_number(tmp_path):
    run = tmp_path / "evaluate"
    write_record(run, "evaluate")
    entry = {"pass@1": 0.5, "pass@1_interval": [0.4, 0.6], "refused": "62 % were cut off", "samples": 1}
    scores = {"model": {"model": "x", "parameters": 113_920, "benchmarks": {"sums": entry}}}
    (run / "scores.json").write_text(json.dumps(scores))
    page = write_report(run).read_text(encoding="utf-8")
    assert ">refused</td>" in page
    for shown in (page, table_text(run)):
        assert "refused" in shown and "model is refused: 62 % were cut off" in shown
        assert "50.0" not in shown and "data:image" not in shown


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("reasoning_rl_code", ["reasoning_", "rl_code"]),
        ("withoutanybreak", ["withoutany", "break"]),
        ("one two three four five six", ["one two", "three fou…"]),
    ],
)
def test_names_are_broken_where_words_end(text, lines):
    assert wrapped(text, letters=10, max_lines=2) == lines
