"""From a recipe to processes: what is launched, skipped, taken up again; and the models that are shipped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import CPU_TRAINER, REPOSITORY, TINY, sums
from safetensors import safe_open
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from open_r1 import accelerate_launch, launch
from open_r1.recipe import load_recipe
from open_r1.run_record import read_record, update_record

SHORT = {**CPU_TRAINER, "max_steps": 2, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8}


def run_launcher(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "open_r1.launch", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}"},
    )


@pytest.fixture
def sft_recipe(write_recipe, smallest_model):
    return write_recipe("sft.yaml", step="sft", model={"name": str(smallest_model)}, data=[sums(16)], trainer=SHORT)


@pytest.fixture
def write_grpo_recipe(write_recipe, smallest_model):
    """Writes a GRPO recipe for so many processes, with trainer keys over the short ones and other sections added."""

    def write(num_processes: int, rewards: list[str], trainer: dict, **sections) -> Path:
        return write_recipe(
            "grpo.yaml",
            step="grpo",
            model={"name": str(smallest_model)},
            data=[sums(16)],
            rewards=rewards,
            trainer={**SHORT, "num_generations": 4, "max_completion_length": 8, **trainer},
            hardware={"processes_per_node": num_processes, "threads_per_process": 1},
            **sections,
        )

    return write


def test_command_goes_through_accelerate(sft_recipe, tmp_path):
    argv = launch.command(load_recipe(sft_recipe, ["hardware.processes_per_node=2"]), tmp_path)
    text = " ".join(argv)
    assert "open_r1.accelerate_launch --config_file" in text
    assert "--num_processes 2" in text
    assert argv[-3:] == ["-m", "open_r1.sft", str(tmp_path)]


def test_same_recipe_and_seed_are_the_same_run(sft_recipe, tmp_path):
    def directory(*overrides):
        return launch.run_directory(load_recipe(sft_recipe, overrides), tmp_path)

    assert directory() == directory()
    assert len({directory(), directory("seed=1"), directory("trainer.max_steps=3")}) == 3


def test_recipe_of_another_step_is_refused(sft_recipe, capsys):
    assert launch.main(["grpo", str(sft_recipe)]) == 2
    assert capsys.readouterr().err.strip() == f"{sft_recipe}: step: it is sft, not grpo; run `make sft`"


def test_dry_run_starts_nothing(sft_recipe, tmp_path, capsys):
    assert launch.main(["sft", str(sft_recipe), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "open_r1.accelerate_launch" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_wrong_recipe_has_no_traceback_and_leaves_no_run(sft_recipe, tmp_path):
    finished = run_launcher("sft", sft_recipe, "trainer.learning_rat=1e-5", "--runs", tmp_path / "runs")
    assert finished.returncode == 2
    expected = f"{sft_recipe}: trainer.learning_rat: unknown key of trl.SFTConfig; did you mean learning_rate?"
    assert finished.stderr.strip() == expected
    assert not (tmp_path / "runs").exists()


def test_run_that_began_from_other_weights_is_moved_away_and_not_taken_up(sft_recipe, tmp_path, monkeypatch):
    recipe, run_dir = load_recipe(sft_recipe), tmp_path / "run"
    monkeypatch.setattr(launch, "_run", lambda argv: 0)
    before, after = ([{"name": "base", "run": "x", "weights_sha256": sha256}] for sha256 in ("a", "b"))
    assert launch.launch(recipe, run_dir, before) == 0
    (run_dir / "checkpoints").mkdir()
    assert launch.is_done(run_dir, recipe, before)
    assert not launch.is_done(run_dir, recipe, after)
    assert launch.launch(recipe, run_dir, after) == 0
    assert not (run_dir / "checkpoints").exists()
    assert (tmp_path / "run.stale1" / "checkpoints").is_dir()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_run_that_a_guard_stops_says_why_and_nothing_else(num_processes, write_grpo_recipe, tmp_path):
    guards = {"max_dead_steps": 1, "max_truncated_share": None}
    recipe = write_grpo_recipe(num_processes, rewards=["format"], trainer={}, guards=guards)
    finished = run_launcher("grpo", recipe, "--runs", tmp_path / "runs")
    assert finished.returncode == 3
    assert "Traceback" not in finished.stderr
    assert finished.stderr.count("every group had equal rewards") == 1
    (run_dir,) = (tmp_path / "runs" / "grpo").glob("seed*")
    record = read_record(run_dir)
    assert record["status"] == "failed"
    assert record["error"].startswith("stopped at step 1: in 1 logs in a row every group had equal rewards")


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        ("breaks_in_the_second_process", "LookupError: what really happened"),
        ("kills_the_second_process", "ended by SIGKILL; for SIGKILL look at the machine's memory"),
    ],
)
def test_run_that_one_process_ends_tells_its_reason_and_not_that_the_other_lost_it(
    reward, error, write_grpo_recipe, tmp_path
):
    recipe = write_grpo_recipe(2, rewards=[f"rewards_of_tests:{reward}"], trainer={})
    assert run_launcher("grpo", recipe, "--runs", tmp_path / "runs").returncode not in (0, 2, 3, 75)
    (run_dir,) = (tmp_path / "runs" / "grpo").glob("seed*")
    assert read_record(run_dir)["error"].strip().splitlines()[-1] == error


@pytest.mark.parametrize(
    ("exit_codes", "exit_code"),
    [
        ([1], 1),
        ([-signal.SIGKILL], 137),
        ([1, -signal.SIGKILL], 137),
        ([-signal.SIGTERM, -signal.SIGSEGV], 139),
        ([1, 3], 3),
        ([1, 75], 75),
        ([-signal.SIGTERM, 1], 1),
        ([-signal.SIGTERM, -signal.SIGTERM], 143),
    ],
)
def test_launcher_ends_with_the_code_of_the_process_that_ended_the_others(exit_codes, exit_code):
    failures = {rank: ProcessFailure(rank, 1000 + rank, code, "none") for rank, code in enumerate(exit_codes)}
    assert accelerate_launch.exit_code_of(failures) == exit_code


def test_two_processes_work_on_one_batch(write_grpo_recipe, tmp_path):
    recipe = write_grpo_recipe(2, rewards=["format"], trainer={"log_completions": True, "max_steps": 1})
    finished = run_launcher("grpo", recipe, "--runs", tmp_path / "runs")
    assert finished.returncode == 0, finished.stderr
    (table,) = (tmp_path / "runs").glob("grpo/seed*/completions/*.parquet")
    assert len(pd.read_parquet(table)) == 2 * 8


@pytest.mark.parametrize("num_processes", [1, 2])
def test_run_taken_up_from_a_checkpoint_ends_with_the_same_weights(num_processes, write_grpo_recipe, tmp_path):
    recipe = write_grpo_recipe(
        num_processes,
        rewards=["rewards_of_tests:number_of_characters"],
        trainer={"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2},
        guards={"max_truncated_share": None},
    )
    runs = tmp_path / "runs"
    assert run_launcher("grpo", recipe, "--runs", runs).returncode == 0
    run_dir = launch.run_directory(load_recipe(recipe), runs)
    whole = read_record(run_dir)["weights_sha256"]
    # As if it had been killed after step 3: the last checkpoint is that of step 2.
    shutil.rmtree(run_dir / "checkpoints" / "checkpoint-4")
    shutil.rmtree(run_dir / "model")
    update_record(run_dir, status="running")
    again = run_launcher("grpo", recipe, "--runs", runs)
    assert again.returncode == 0, again.stderr
    assert read_record(run_dir)["attempts"] == 2
    assert read_record(run_dir)["weights_sha256"] == whole
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_pipeline_skips_what_is_done_and_takes_up_what_failed(sft_recipe, write_recipe, smallest_model, tmp_path):
    write_recipe(
        "distill.yaml",
        step="distill",
        model={"name": str(smallest_model)},
        data=[sums(16)],
        rewards=["format"],
        distill={"teacher": str(smallest_model), "max_completion_length": 64, "batch_size": 16, "min_reward": 0.0},
        trainer=SHORT,
    )
    evaluation = {"benchmarks": ["tiny_sums"], "num_problems": 8, "batch_size": 8, "max_new_tokens": 16}
    evaluation["models"] = {"cold_start": str(smallest_model)}
    write_recipe("evaluate.yaml", step="evaluate", evaluate=evaluation)
    models = {"cold_start": "stage:cold_start", "student": "stage:student"}
    pipeline = write_recipe(
        "pipeline.yaml",
        step="pipeline",
        stages=[
            {"name": "cold_start", "recipe": "sft.yaml"},
            {"name": "student", "recipe": "distill.yaml", "set": {"distill": {"teacher": "stage:cold_start"}}},
            {"name": "evaluation", "recipe": "evaluate.yaml", "set": {"evaluate": {"models": models}}},
        ],
    )
    runs = tmp_path / "runs"
    run_dir = launch.run_directory(load_recipe(pipeline), runs)
    (run_dir / "evaluation").mkdir(parents=True)
    (run_dir / "evaluation" / "completions").write_text("a file where a folder must be")  # makes the third stage fail
    first = run_launcher("pipeline", pipeline, "--runs", runs)
    assert first.returncode != 0
    assert [read_record(run_dir / stage)["status"] for stage in ("cold_start", "student", "evaluation")] == [
        "done",
        "done",
        "failed",
    ]
    assert read_record(run_dir)["status"] == "failed"
    made_at = (run_dir / "cold_start" / "model" / "model.safetensors").stat().st_mtime_ns

    (run_dir / "evaluation" / "completions").unlink()
    second = run_launcher("pipeline", pipeline, "--runs", runs)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done already") == 2
    assert (run_dir / "cold_start" / "model" / "model.safetensors").stat().st_mtime_ns == made_at
    record = read_record(run_dir / "student")
    assert record["parents"][-1]["name"] == "cold_start"
    assert record["parents"][-1]["weights_sha256"] == read_record(run_dir / "cold_start")["weights_sha256"]
    assert read_record(run_dir / "evaluation")["attempts"] == 2
    assert set(json.loads((run_dir / "evaluation" / "scores.json").read_text())) == {"cold_start", "student"}
    assert read_record(run_dir)["scores"].keys() == {"cold_start", "student"}
    assert (run_dir / "report.html").stat().st_size > 10_000
    assert "pass@1" in second.stdout

    third = run_launcher("pipeline", pipeline, "--runs", runs)
    assert third.returncode == 0
    assert "is done already" in third.stdout


@pytest.mark.parametrize(("name", "recipe"), [("teacher", "base.yaml"), ("student", "base-student.yaml")])
def test_shipped_model_is_what_its_papers_say(name, recipe):
    directory = TINY / "models" / name
    sha256, file = (directory / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((directory / file).read_bytes()).hexdigest() == sha256
    made_by = dict(line.split(": ", 1) for line in (directory / "MADE_BY").read_text().splitlines())
    assert made_by["recipe"] == f"recipes/tiny-r1/{recipe}"
    assert made_by["recipe_sha256"] == load_recipe(TINY / recipe).sha256


def test_shipped_models_are_small_and_the_student_is_at_most_a_quarter():
    def num_parameters(name):
        with safe_open(TINY / "models" / name / "model.safetensors", "np") as weights:
            return sum(weights.get_tensor(key).size for key in weights.keys())  # noqa: SIM118 (no mapping)

    assert num_parameters("student") * 4 <= num_parameters("teacher") < 1_100_000
    assert sum(file.stat().st_size for file in (TINY / "models").rglob("*") if file.is_file()) <= 8e6


def test_readme_shows_the_results_that_are_recorded():
    finished = subprocess.run(
        [sys.executable, "scripts/results_table.py", "--check", "recipes/tiny-r1"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
