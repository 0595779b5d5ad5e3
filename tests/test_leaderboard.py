"""The table of all evaluated models: which rows there are, in what order, and what is told instead of a number."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from test_report import write_record

from open_r1.leaderboard import leaderboard, main, markdown, print_leaderboard

SCORE = {
    "pass@1": 0.5,
    "pass@1_interval": [0.46, 0.54],
    "pass@k": {"1": 0.5, "4": 0.75},
    "maj@k": {"4": 0.625},
    "num_problems": 500,
    "samples": 4,
    "temperature": 0.6,
    "top_p": 0.95,
    "max_new_tokens": 32768,
    "tokens_per_answer": 2345.6,
    "truncated_share": 0.125,
}
REFUSED = "62.0 % of the completions were cut off"


def write_scores(folder: Path, scores: dict[str, dict[str, dict]], models: Path | None = None, **record) -> None:
    """An evaluation of models (label -> benchmark -> what differs from SCORE); `models` is where their runs are."""
    entries = {
        label: {
            "model": f"{models}/{label}/model" if models else "some/model",
            "parameters": 1_540_000_000,
            "benchmarks": {name: {**SCORE, **differing} for name, differing in benchmarks.items()},
        }
        for label, benchmarks in scores.items()
    }
    write_record(folder, "evaluate", **record)
    (folder / "scores.json").write_text(json.dumps(entries))


def write_pipeline(root: Path) -> Path:
    """sft -> traces -> student, and an evaluation of both models; hours 1, 2 and 3, dollars 10, 20 and 30."""
    run = root / "r1" / "seed0-abc"
    write_record(run, "pipeline")
    parents = []
    for hours, (name, step) in enumerate({"sft": "sft", "traces": "generate", "student": "sft"}.items(), start=1):
        made = "data_sha256" if step == "generate" else "weights_sha256"
        weights = None if step == "generate" else f"made {name}"  # a record has no hash of data
        write_record(
            run / name, step, parents=parents, seconds=3600.0 * hours, cost_usd=10.0 * hours, weights_sha256=weights
        )
        parents = [{"name": name, "run": str(run / name), made: f"made {name}"}]
    parents = [{"name": each, "run": str(run / each), "weights_sha256": f"made {each}"} for each in ("sft", "student")]
    write_scores(
        run / "scores", {"sft": {"math_500": {}}, "student": {"math_500": {"pass@1": 0.6}}}, run, parents=parents
    )
    shutil.copy(run / "scores" / "scores.json", run)  # as a pipeline gathers them
    return run


def board_of(tmp_path: Path):
    return leaderboard([tmp_path / "runs"], tmp_path / "recipes")


def rows_of(tmp_path: Path, *columns: int) -> list[tuple[str, ...]]:
    board = board_of(tmp_path)
    cells = [cells for benchmark in board.benchmarks for cells in board.cells(benchmark)]
    return [tuple(row[column] for column in columns) for row in cells]


def printed(board) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_leaderboard(board, console)
    return console.file.getvalue()


MODEL, RUN, PASS_AT_1, COMMIT, HOURS, COST = 0, 1, 2, 8, 9, 10


def test_a_row_has_every_number_with_its_uncertainty(tmp_path):
    write_scores(tmp_path / "runs" / "x" / "seed0", {"policy": {"math_500": {}}})
    assert rows_of(tmp_path, *range(9)) == [
        (
            *("policy (1.54B)", "x/seed0", "50.0 ± 4.0", "75.0 [4]", "62.5 [4]"),
            *("4", "12.5", "2,346", "c0ffeec0*"),
        )
    ]


def test_stages_of_pipelines_count_once(tmp_path):
    write_pipeline(tmp_path / "runs")
    assert rows_of(tmp_path, RUN) == [("r1/seed0-abc/scores",)] * 2


def test_hours_and_cost_are_those_of_all_runs_that_a_model_came_from(tmp_path):
    write_pipeline(tmp_path / "runs")
    assert rows_of(tmp_path, MODEL, HOURS, COST) == [
        ("student (1.54B)", "6.00", "$60.00"),
        ("sft (1.54B)", "1.00", "$10.00"),
    ]


def test_a_pipeline_that_was_moved_still_knows_its_hours(tmp_path):
    shutil.move(write_pipeline(tmp_path / "elsewhere"), tmp_path / "runs" / "r1")
    assert rows_of(tmp_path, HOURS) == [("6.00",), ("1.00",)]


def test_a_training_that_was_moved_is_known_by_its_weights(tmp_path):
    parents = [{"name": "seed0", "run": "/gone/seed0", "weights_sha256": "w"}]
    write_record(tmp_path / "runs" / "sft", "sft", seconds=7200.0, weights_sha256="w")
    write_scores(tmp_path / "runs" / "x", {"model": {"math_500": {}}}, Path("/gone"), parents=parents)
    assert rows_of(tmp_path, HOURS) == [("2.00",)]


@pytest.mark.parametrize(
    "change",
    [pytest.param({"weights_sha256": "other"}, id="made anew"), pytest.param({"seconds": None}, id="no seconds")],
)
def test_hours_that_are_not_known_are_a_dash(tmp_path, change):
    run = write_pipeline(tmp_path / "runs")
    record = json.loads((run / "sft" / "run.json").read_text())
    (run / "sft" / "run.json").write_text(json.dumps(record | change))
    assert rows_of(tmp_path, HOURS) == [("–",), ("–",)]


def test_a_lost_ancestor_is_told(tmp_path):
    run = write_pipeline(tmp_path / "runs")
    shutil.rmtree(run / "sft")
    assert rows_of(tmp_path, HOURS) == [("–",), ("–",)]
    assert any("made its sft is not there any more" in note for note in board_of(tmp_path).notes)


def test_a_base_model_has_no_hours_and_no_note(tmp_path):
    base = tmp_path / "models"
    (base / "base" / "model").mkdir(parents=True)
    parents = [{"name": "base", "run": str(base / "base"), "weights_sha256": "b"}]
    write_scores(tmp_path / "runs" / "x", {"base": {"math_500": {}}}, base, parents=parents)
    assert rows_of(tmp_path, HOURS, COST) == [("–", "–")]
    assert board_of(tmp_path).notes == []


def test_the_order_is_benchmark_then_score_and_refused_ones_last(tmp_path):
    scores = {"zero": {"b": {"pass@1": 0.0}, "a": {"pass@1": 0.2}}, "high": {"b": {"pass@1": 0.3}}}
    write_scores(tmp_path / "runs" / "x", {"cut_off": {"b": {"refused": REFUSED}}, **scores})
    assert [model.partition(" ")[0] for (model,) in rows_of(tmp_path, MODEL)] == ["zero", "high", "zero", "cut_off"]


def test_a_refused_score_shows_no_number_and_why(tmp_path):
    write_scores(tmp_path / "runs" / "x", {"policy": {"math_500": {"refused": REFUSED}}})
    assert rows_of(tmp_path, PASS_AT_1, 3, 4) == [("refused", "–", "–")]
    for text in (printed(board_of(tmp_path)), markdown(board_of(tmp_path))):
        assert f"policy (x) is refused: {REFUSED}" in text
        assert "50.0" not in text and "75.0" not in text and "62.5" not in text


@pytest.mark.parametrize("key", ["num_problems", "samples", "temperature", "top_p", "max_new_tokens"])
def test_scores_that_were_sampled_otherwise_are_not_silently_compared(tmp_path, key):
    other = {key: SCORE[key] / 2, "pass@1": 0.9}
    write_scores(tmp_path / "runs" / "x", {"one": {"math_500": {}}, "two": {"math_500": {}}})
    write_scores(tmp_path / "runs" / "y", {"three": {"math_500": other}})
    assert rows_of(tmp_path, PASS_AT_1) == [("50.0 ± 4.0 a",), ("50.0 ± 4.0 a",), ("90.0 ± 4.0 b",)]
    assert "was sampled in 2 ways" in printed(board_of(tmp_path))


def test_one_sampling_needs_no_letter(tmp_path):
    write_scores(tmp_path / "runs" / "x", {"one": {"math_500": {}}, "two": {"math_500": {}}})
    text = printed(board_of(tmp_path))
    assert "2 ways" not in text and "500 problems, 4 samples each, temperature 0.6" in text


def test_answers_without_a_verdict_are_told(tmp_path):
    write_scores(tmp_path / "runs" / "x", {"policy": {"math_500": {"unjudged": 3}}})
    assert "policy (x): 3 answers could not be judged and are left out" in printed(board_of(tmp_path))


def test_columns_without_anything_are_not_printed(tmp_path):
    write_scores(tmp_path / "runs" / "x", {"policy": {"math_500": {"pass@k": {}, "samples": 1}}})
    text = printed(board_of(tmp_path))
    assert "pass@k %" not in text and "maj@k %" in text and "no room" not in text
    assert "500 problems, 1 sample each" in text


def test_evidence_counts_and_a_run_that_is_kept_as_evidence_counts_once(tmp_path):
    run = tmp_path / "runs" / "x"
    write_scores(run, {"policy": {"math_500": {}}})
    record = json.loads((run / "run.json").read_text()) | {"scores": json.loads((run / "scores.json").read_text())}
    del record["scores"]["policy"]["model"]
    folder = tmp_path / "recipes" / "tiny" / "evidence"
    folder.mkdir(parents=True)
    (folder / "published.json").write_text("[]")
    (folder / "evaluate-seed7-c0ffee.json").write_text(json.dumps(record))
    (folder / "evaluate-seed8-c0ffee.json").write_text(json.dumps(record | {"seed": 8}))
    assert rows_of(tmp_path, RUN) == [("tiny/evidence/evaluate-seed8-c0ffee",), ("x",)]
    assert board_of(tmp_path).notes == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{half"),
        ("run.json", "[1]"),
        ("scores.json", "{half"),
        ("scores.json", "[1]"),
        ("scores.json", '{"policy": 1}'),
        ("scores.json", '{"policy": {"benchmarks": {"math_500": 1}}}'),
        ("scores.json", '{"policy": {"benchmarks": {"math_500": {"pass@k": [1]}}}}'),
        ("scores.json", '{"policy": {"benchmarks": {"math_500": {"pass@1_interval": 1}}}}'),
    ],
)
def test_a_broken_file_is_a_note(tmp_path, file, content):
    write_scores(tmp_path / "runs" / "broken", {"policy": {"math_500": {}}})
    write_scores(tmp_path / "runs" / "whole", {"policy": {"math_500": {}}})
    (tmp_path / "runs" / "broken" / file).write_text(content)
    assert rows_of(tmp_path, RUN) == [("whole",)]
    assert any(note.startswith("broken") for note in board_of(tmp_path).notes)


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_evaluation_that_is_not_done_is_a_note(tmp_path, status):
    write_scores(tmp_path / "runs" / "x", {"policy": {"math_500": {}}}, status=status)
    board = board_of(tmp_path)
    assert board.rows == [] and board.notes == [f"x: {status}, so it is left out"]


@pytest.mark.parametrize("folder", ["x.stale1", "x/shares/0-of-2"])
def test_what_was_put_aside_and_shares_do_not_count(tmp_path, folder):
    write_scores(tmp_path / "runs" / folder, {"policy": {"math_500": {}}})
    assert board_of(tmp_path).rows == []


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_number_is_cut_off_in_a_narrow_terminal(tmp_path, width):
    write_pipeline(tmp_path / "runs")
    console = Console(file=io.StringIO(), width=width)
    print_leaderboard(board_of(tmp_path), console)
    text = console.file.getvalue()
    assert "60.0 ± 4.0" in text and "$60.00" in text and "…" not in text
    assert ("no room for" in text) == (width <= 120)


def test_markdown_shows_labels_as_they_are(tmp_path):
    write_scores(tmp_path / "runs" / "x", {"[a](b)|*c*<i>": {"math_500": {}}})
    assert "| [a]\\(b)\\|\\*c\\*\\<i> (1.54B) |" in markdown(board_of(tmp_path))


def test_markdown_begins_with_all_benchmarks_of_a_model_in_one_row(tmp_path):
    write_scores(tmp_path / "runs" / "x", {"policy": {"math_500": {}, "aime24": {"pass@1": 0.25}}})
    assert "| policy | x | 25.0 ± 4.0 | 50.0 ± 4.0 |" in markdown(board_of(tmp_path))


def test_the_command_prints_and_writes(tmp_path, capsys):
    write_scores(tmp_path / "runs" / "x", {"policy": {"math_500": {}}})
    out = tmp_path / "out" / "leaderboard.md"
    assert main([str(tmp_path / "runs"), "--out", str(out)], recipes=tmp_path) == 0
    assert "math_500" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == markdown(leaderboard([tmp_path / "runs"], tmp_path))


def test_no_models_are_a_line(tmp_path, capsys):
    assert main([str(tmp_path)], recipes=tmp_path) == 0
    assert "no model has been evaluated yet" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--out", "/dev/null/x.md"]])
def test_a_wrong_argument_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments, recipes=tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
