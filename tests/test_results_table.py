"""The tables of a study: what its runs leave in the records, and what a README asks, filled in from these."""

import importlib.util
import json
from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_report import write_completions, write_record
from test_report_feedback import BY_MODEL, BY_RULE, HELD_OUT, PAIRS, STOPPED, write_rl

from open_r1.recipe import load_recipe

spec = importlib.util.spec_from_file_location("results_table", REPOSITORY / "scripts" / "results_table.py")
results_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results_table)

ASKED = """| what is asked | difference |
|---|---|
| RL after the cold start | `rl` - `cold_start` |"""


FEEDBACK_STAGES = {"pairs": "preferences", "rewards": "reward_model", "rl": "grpo", "scores": "evaluate"}
RISING, FALLING = [-1.0, 1.5, 3.25], [0.125, 0.5, 0.25]


def write_feedback_run(folder: Path, seed: int, guards: dict) -> Path:
    """A finished run with pairs, a reward model, RL against it that a guard stopped, and scores on both qualities."""
    stages = [{"name": name} for name in FEEDBACK_STAGES]
    write_record(folder, "pipeline", recipe={"step": "pipeline", "stages": stages}, seed=seed, seconds=600.0)
    for name, step in FEEDBACK_STAGES.items():
        write_record(folder / name, step, recipe={"step": step}, seconds=90.0)
    (folder / "pairs" / "preferences.json").write_text(json.dumps(PAIRS))
    (folder / "rewards" / "reward_model.json").write_text(json.dumps(HELD_OUT))
    write_rl(folder / "rl", [BY_MODEL, BY_RULE], {"reward_model": RISING, "explained": FALLING}, guards=guards)
    metrics = folder / "rl" / "metrics.jsonl"
    trained = [json.dumps({"step": step, "completions/mean_length": 30.0, "reward": -0.5}) for step in (1, 5)]
    metrics.write_text("\n".join([*trained, metrics.read_text()]))  # step 5 was evaluated too, after it
    (folder / "rl" / "warnings.jsonl").write_text(json.dumps(STOPPED) + "\n")
    entry = {"pass@1": 0.5, "pass@1_interval": [0.4, 0.6], "num_problems": 9, "samples": 1, "tokens_per_answer": 40.0}
    score = {"parameters": 866_560, "benchmarks": {"tiny_explanations": entry, "tiny_sums": {**entry, "pass@1": 0.25}}}
    record = json.loads((folder / "scores" / "run.json").read_text()) | {"scores": {"elsewhere": score}}
    (folder / "scores" / "run.json").write_text(json.dumps(record))
    write_completions(folder / "scores" / "completions" / "elsewhere-tiny_explanations.parquet", [("12", 1.0)])
    return folder


@pytest.fixture(scope="module")
def feedback_runs(tmp_path_factory) -> list[dict]:
    folders = [
        write_feedback_run(tmp_path_factory.mktemp("runs") / "seed", seed, {"truth": "explained"}) for seed in (1, 0)
    ]
    return results_table.collect(folders)


def runs_of(*scores: tuple[float | None, float]) -> list[dict]:
    """Runs with what `rl` and `cold_start` scored in each."""
    return [{"models": {"rl": {"pass@1": rl}, "cold_start": {"pass@1": cold_start}}} for rl, cold_start in scores]


@pytest.mark.parametrize(
    ("runs", "figures"),
    [
        # Student's t of 2 degrees of freedom: 4.3027 x 10 / sqrt(3) = 24.84.
        (runs_of((0.7, 0.2), (0.8, 0.2), (0.9, 0.2)), "+50.0, +60.0, +70.0 | +60.0 ± 24.8"),
        (runs_of((0.7, 0.2), (0.5, 0.5), (0.2, 0.7)), "+50.0, +0.0, -50.0 | +0.0 ± 124.2"),
        # Seeds are compared with themselves: what they share is no spread.
        (runs_of((0.1, 0.0), (0.5, 0.4), (0.9, 0.8)), "+10.0, +10.0, +10.0 | +10.0 ± 0.0"),
        (runs_of((0.7, 0.2)), "+50.0 | +50.0 (one seed)"),
        (runs_of((0.7, 0.2), (None, 0.2)), "– | –"),
    ],
)
def test_difference_is_of_each_seed_with_itself(runs, figures):
    *_, row = results_table.differences(ASKED, runs).splitlines()
    assert row == f"| RL after the cold start | `rl` - `cold_start` | {figures} |"


def test_figures_are_filled_in_anew_and_the_questions_stay():
    once = results_table.differences(ASKED, runs_of((0.7, 0.2), (0.7, 0.2)))
    assert results_table.differences(once, runs_of((0.7, 0.2), (0.7, 0.2))) == once
    again = results_table.differences(once, runs_of((0.3, 0.2), (0.3, 0.2)))
    assert again == once.replace("+50.0", "+10.0")


@pytest.mark.parametrize("pair", ["`rl` - `r1`", "rl - cold_start", "`rl`", "`rl` - `cold_start` - `rl`"])
def test_row_without_two_models_is_refused(pair):
    with pytest.raises(SystemExit, match="write `one` - `another`"):
        results_table.differences(ASKED.replace("`rl` - `cold_start`", pair), runs_of((0.7, 0.2)))


def test_records_are_written_with_a_list_of_numbers_a_line():
    runs = [{"seed": 0, "curves": {"rl": {"steps": [1, 2], "tokens": [9.5, 10.0]}}, "models": {}, "empty": []}]
    written = results_table.as_json(runs)
    assert json.loads(written) == runs
    assert '"steps": [1, 2],\n' in written


RECORDS = sorted((REPOSITORY / "recipes").glob("tiny-*/*results.json"))


@pytest.mark.parametrize("records", RECORDS, ids=[f"{file.parent.name}/{file.name}" for file in RECORDS])
def test_readme_shows_the_figures_that_are_recorded(records, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["results_table.py", "--check", str(records.parent), "--results", records.name])
    assert results_table.main() == 0, capsys.readouterr().out


def test_records_hold_what_feedback_came_to(feedback_runs):
    assert [run["seed"] for run in feedback_runs] == [0, 1]
    run = feedback_runs[0]
    assert run["curves"] == {"rl": {"steps": [1, 5], "tokens": [30.0, 30.0]}}
    assert run["minutes_of_stages"] == {**dict.fromkeys(FEEDBACK_STAGES, 1.5), "rl": 7.2}
    pairs = run["preferences"]["pairs"]
    assert (pairs["prompts"], pairs["kept"], pairs["dropped"]) == (1000, 700, PAIRS["dropped"])
    model = run["reward_models"]["rewards"]
    assert (model["accuracy"], model["calibration_error"], model["length_correlation"]) == (0.9864, 0.0156, 0.673)
    assert run["evaluations"]["rl"] == {
        "truth": "explained",
        "stopped_at": 20,
        "best_step": None,
        "steps": [0, 5, 10],
        "means": {"explained": FALLING, "reward_model": RISING},
    }


def test_runs_whose_stages_have_no_feedback_have_no_records_of_it(tmp_path):
    (run,) = results_table.collect([write_feedback_run(tmp_path, 0, {})])
    assert "evaluations" not in run  # of rewards of which none is said to be the truth
    write_record(tmp_path, "pipeline", recipe={"step": "pipeline", "stages": [{"name": "rl"}, {"name": "scores"}]})
    (run,) = results_table.collect([tmp_path])
    assert not {"preferences", "reward_models", "evaluations"} & run.keys()


def test_qualities_of_one_answer_have_their_names_in_the_table(feedback_runs):
    header, _, row, *_, caption = results_table.table(feedback_runs).splitlines()
    assert [cell.strip() for cell in header.split("|")[3:6]] == [
        "explained by seed, %",
        "mean ± standard deviation",
        "right, %",
    ]
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["50.0, 50.0", "50.0 ± 0.0", "25.0 ± 0.0"]
    assert "(benchmarks `tiny_explanations`: explained, `tiny_sums`: right)" in caption


def test_differences_are_of_every_quality():
    def entry(explained, right):
        return {"benchmark": "tiny_explanations", "pass@1": explained, "others": {"tiny_sums": {"pass@1": right}}}

    runs = [{"models": {"rl": entry(0.5, right), "cold_start": entry(0.25, 0.5)}} for right in (0.5, 0.7)]
    header, _, row = results_table.differences(ASKED, runs).splitlines()
    titles = "explained by seed, points | explained mean, 95 % interval | right mean, 95 % interval"
    assert header == f"| what is asked | difference | {titles} |"
    # Student's t of 1 degree of freedom: 12.706 x 14.14 / sqrt(2) = 127.1.
    assert row.endswith("| +25.0, +25.0 | +25.0 ± 0.0 | +10.0 ± 127.1 |")
    del runs[0]["models"]["rl"]["others"]
    assert results_table.differences(ASKED, runs).endswith("| +25.0 ± 0.0 | – |")


def test_table_of_feedback_has_a_row_for_each_seed(feedback_runs):
    header, _, *rows = results_table.feedback(feedback_runs).splitlines()
    assert header.count("|") == rows[0].count("|") and "`rl` stopped at step | best checkpoint" in header
    figures = "700 of 1,000 | lengths too different: 100, scores too close: 200 | 2.0 | +0.81 | 98.6 ± 0.9 | 0.016"
    assert rows == [f"| {seed} | {figures} | +0.67 | 20 | – |" for seed in (0, 1)]


def test_table_of_minutes_has_a_row_for_each_stage():
    runs = [{"minutes_of_stages": {"rl": taken, "dpo": 1.0}} for taken in (2.0, 4.0)]
    assert results_table.stage_minutes(runs).splitlines()[2:] == [
        "| `rl` | 3.0 | 2.0 to 4.0 |",
        "| `dpo` | 1.0 | 1.0 to 1.0 |",
    ]


def marked(name: str, content: str = "") -> str:
    return f"{results_table.BEGIN.format(name=name)}\n{content}\n{results_table.END.format(name=name)}\n"


def test_markers_of_a_readme_are_filled_in_where_it_has_them(feedback_runs):
    begin = marked("results") + "in between\n"
    readme = begin + marked("results_feedback") + marked("results_minutes")
    filled = results_table.with_figures(readme, "results", feedback_runs)
    for table in (results_table.table, results_table.feedback, results_table.stage_minutes):
        assert f"\n{table(feedback_runs)}\n" in filled
    assert results_table.with_figures(filled, "results", feedback_runs) == filled
    assert "pairs of prompts" not in results_table.with_figures(begin, "results", feedback_runs)
    with pytest.raises(SystemExit, match="no place for the table"):
        results_table.with_figures("no markers", "results", feedback_runs)


@pytest.mark.parametrize("readme", [None, "no markers"])
def test_records_are_written_whatever_the_readme_lacks(readme, feedback_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results_table, "collect", lambda run_dirs: feedback_runs)
    monkeypatch.setattr("sys.argv", ["results_table.py", str(tmp_path), "runs/seed"])
    if readme is None:
        assert results_table.main() == 0 and "explained by seed" in capsys.readouterr().out
    else:
        (tmp_path / "README.md").write_text(readme)
        with pytest.raises(SystemExit, match="no place for the table"):
            results_table.main()
    assert json.loads((tmp_path / "results.json").read_text()) == feedback_runs


def test_readme_is_filled_in_from_records_alone(feedback_runs, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text(results_table.as_json(feedback_runs))
    (tmp_path / "README.md").write_text(marked("results"))
    monkeypatch.setattr("sys.argv", ["results_table.py", str(tmp_path)])
    assert results_table.main() == 0
    assert results_table.table(feedback_runs) in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == feedback_runs


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_records_that_are_not_there_are_one_line(arguments, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(marked("results"))
    monkeypatch.setattr("sys.argv", ["results_table.py", str(tmp_path), *arguments])
    with pytest.raises(SystemExit, match="results.json: there is no such file; give the runs") as stopped:
        results_table.main()
    assert "\n" not in str(stopped.value)


def test_readme_of_the_study_of_feedback_has_a_place_for_each_of_its_tables(feedback_runs):
    """Its rows ask of models that its pipeline evaluates."""
    folder = REPOSITORY / "recipes" / "tiny-rlaif"
    *_, evaluation = load_recipe(folder / "pipeline.yaml").stages
    runs = [
        {**run, "models": dict.fromkeys(evaluation.set["evaluate"]["models"], run["models"]["elsewhere"])}
        for run in feedback_runs
    ]
    filled = results_table.with_figures((folder / "README.md").read_text(encoding="utf-8"), "results", runs)
    for table in (results_table.table, results_table.feedback, results_table.stage_minutes):
        assert f"\n{table(runs)}\n" in filled
    assert "| `dpo` - `guarded_rl` | +0.0, +0.0 | +0.0 ± 0.0 | +0.0 ± 0.0 |" in filled
    assert results_table.with_figures(filled, "results", runs) == filled
