"""run.json: what is written, what is kept over attempts, and what never fails."""

import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from open_r1 import run_record
from open_r1.recipe import parse_recipe
from open_r1.run_record import finish_record, git_state, read_record, start_record, update_record, weights_sha256

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: clock(seconds) moves it to that many seconds after START."""
    now = [START]
    monkeypatch.setattr(run_record, "_now", lambda: now[0])

    def move_to(seconds: float) -> None:
        now[0] = START + timedelta(seconds=seconds)

    return move_to


def evaluate_recipe(**hardware):
    values = {
        "step": "evaluate",
        "seed": 7,
        "model": {"name": "./model"},
        "evaluate": {"benchmarks": ["sums"]},
        "hardware": hardware,
    }
    return parse_recipe(values, Path("recipes/x.yaml"))


def test_start_writes_everything_a_reader_needs(tmp_path):
    recipe = evaluate_recipe()
    parents = [{"name": "cold_start", "run": "../cold_start", "weights_sha256": "ab"}]
    record = start_record(tmp_path / "run", recipe, "recipes/x.yaml", parents)
    assert record == read_record(tmp_path / "run")
    assert (record["step"], record["status"], record["seed"], record["attempts"]) == ("evaluate", "running", 7, 1)
    assert record["recipe_sha256"] == recipe.sha256
    assert record["recipe"]["evaluate"]["benchmarks"] == ["sums"]
    assert record["parents"] == parents
    assert {"python", "torch", "trl"} <= set(record["versions"])
    assert record["hardware"]["cores"] >= 1 and isinstance(record["hardware"]["gpus"], list)
    assert datetime.fromisoformat(record["started_at"]).tzinfo is not None
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.json"]


def test_seconds_of_a_failed_attempt_are_kept_and_paid(tmp_path, clock):
    recipe = evaluate_recipe(usd_per_hour=3.6)
    start_record(tmp_path, recipe, "x.yaml", [])
    clock(100)
    update_record(tmp_path, error="out of memory")
    failed = finish_record(tmp_path, "failed")
    assert (failed["status"], failed["seconds"], failed["error"]) == ("failed", 100, "out of memory")
    clock(5000)  # the time in between, in which nothing ran
    second = start_record(tmp_path, recipe, "x.yaml", [])
    assert (second["attempts"], second["seconds"], second["started_at"]) == (2, 100, START.isoformat())
    assert "error" not in second
    clock(5050)
    done = finish_record(tmp_path, "done")
    assert (done["seconds"], done["status"]) == (150, "done")
    assert done["cost_usd"] == pytest.approx(0.15)
    assert finish_record(tmp_path, "done")["seconds"] == 150


def test_a_killed_attempt_counts_to_its_last_sign_of_life(tmp_path, monkeypatch):
    started = datetime.now(UTC) - timedelta(seconds=60)
    monkeypatch.setattr(run_record, "_now", lambda: started)
    start_record(tmp_path, evaluate_recipe(), "x.yaml", [])
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert start_record(tmp_path, evaluate_recipe(), "x.yaml", [])["seconds"] == pytest.approx(60, abs=5)


def test_without_a_price_there_is_no_cost(tmp_path):
    start_record(tmp_path, evaluate_recipe(), "x.yaml", [])
    record = finish_record(tmp_path, "done")
    assert record["cost_usd"] is None and record["scores"] is None and record["weights_sha256"] is None


def test_finish_takes_up_scores_and_weights(tmp_path):
    start_record(tmp_path, evaluate_recipe(), "x.yaml", [])
    scores = {"base": {"parameters": 1}}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    record = finish_record(tmp_path, "done")
    assert record["scores"] == scores
    assert record["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_weights_are_hashed_in_order_of_names(tmp_path):
    (tmp_path / "model-00002.safetensors").write_bytes(b"second")
    (tmp_path / "model-00001.safetensors").write_bytes(b"first")
    (tmp_path / "config.json").write_text("{}")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"firstsecond").hexdigest()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        weights_sha256(tmp_path / "nowhere")


def test_update_merges_and_leaves_no_temporary_file(tmp_path):
    start_record(tmp_path, evaluate_recipe(), "x.yaml", [])
    update_record(tmp_path, note="ü")
    record = read_record(tmp_path)
    assert (record["note"], record["seed"]) == ("ü", 7)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_write_that_fails_leaves_the_old_record(tmp_path):
    start_record(tmp_path, evaluate_recipe(), "x.yaml", [])
    with pytest.raises(TypeError):
        update_record(tmp_path, bad={(1, 2): "a tuple cannot be a key"})
    assert read_record(tmp_path)["status"] == "running"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_no_record_is_none_and_a_broken_one_is_named(tmp_path):
    assert read_record(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        update_record(tmp_path, x=1)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: not valid JSON"):
        read_record(tmp_path)


def test_git_state_tells_commit_and_dirt(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert git_state(tmp_path / "nowhere") == (None, None)
    git("init", "--quiet")
    assert git_state(tmp_path) == (None, None)  # a repository without a commit
    (tmp_path / ".gitignore").write_text("runs/\n")
    (tmp_path / "a.py").write_text("1\n")
    git("add", ".")
    git("commit", "--quiet", "--no-verify", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.json").write_text("{}")
    assert git_state(tmp_path) == (commit, False)  # ignored by git
    (tmp_path / "b.py").write_text("2\n")
    assert git_state(tmp_path) == (commit, True)  # new
    (tmp_path / "b.py").unlink()
    (tmp_path / "a.py").write_text("2\n")
    assert git_state(tmp_path) == (commit, True)  # changed


def test_git_missing_is_not_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) == (None, None)
