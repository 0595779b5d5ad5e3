"""The table of a study's differences: what a README asks, filled in from the records of the seeds."""

import importlib.util
import json

import pytest
from conftest import REPOSITORY, TINY

spec = importlib.util.spec_from_file_location("results_table", REPOSITORY / "scripts" / "results_table.py")
results_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results_table)

ASKED = """| what is asked | difference |
|---|---|
| RL after the cold start | `rl` - `cold_start` |"""


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


@pytest.mark.parametrize("records", sorted(file.name for file in TINY.glob("*results.json")))
def test_readme_shows_the_figures_that_are_recorded(records, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["results_table.py", "--check", str(TINY), "--results", records])
    assert results_table.main() == 0, capsys.readouterr().out
