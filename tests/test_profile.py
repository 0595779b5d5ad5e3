"""`make profile`: which steps its means are of, what it runs, and what it says where there is nothing to profile."""

import io
import json
from pathlib import Path

import pytest
from conftest import CPU_TRAINER, sums
from rich.console import Console

from open_r1 import profiling
from open_r1.places import RUNS
from open_r1.recipe import RecipeError, load_recipe
from open_r1.report.phases import StepTimes, step_times
from open_r1.report.pictures import MAX_BARS, _stacked_bars
from open_r1.report.reading import read_all
from open_r1.report.table import print_phases
from open_r1.running import run_directory

EVALUATION = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "load_best_model_at_end": True}
PNG = b"\x89PNG\r\n"


def log(step: int, generation: float, backward: float = 0.0, other: float = 0.0, **more) -> dict:
    """One line of metrics.jsonl."""
    seconds = {"generation": generation, "backward": backward, "other": other, "step": generation + backward + other}
    return {"step": step, **{f"seconds/{name}": value for name, value in seconds.items()}, **more}


def write_run(folder: Path, logs: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logs))
    return folder


@pytest.fixture
def times_of(tmp_path):
    def read(logs: list[dict]) -> StepTimes | None:
        run, _ = read_all(write_run(tmp_path, logs), [])
        return step_times(run)

    return read


@pytest.mark.parametrize(
    ("logs", "steps", "generation_seconds"),
    [
        ([log(1, 9.0), log(2, 7.0), log(3, 1.0), log(4, 2.0)], (3, 4), 1.5),
        ([log(1, 9.0), log(2, 7.0)], (1, 2), 8.0),
        ([log(10, 5.0), log(20, 1.0), log(30, 2.0)], (11, 30), 1.5),
        ([log(2, 9.0), log(4, 1.0), log(10, 5.0)], (3, 10), 4.0),
        ([log(1, 9.0), log(2, 9.0), log(3, 1.0), {"step": 4, "loss": 0.5}], (3, 3), 1.0),
        ([log(10, 5.0)], (1, 10), 5.0),
    ],
    ids=[
        "without warm-up",
        "only warm-up",
        "a log of ten steps has warm-up in it",
        "a log counts for its steps",
        "a log without seconds",
        "a single log",
    ],
)
def test_means_are_of_the_steps_after_warm_up(times_of, logs, steps, generation_seconds):
    times = times_of(logs)
    assert (times.first_step, times.last_step) == steps
    assert times.phases[0].name == "generation"
    assert times.phases[0].seconds == pytest.approx(generation_seconds)


def test_shares_are_of_the_whole_step(times_of):
    times = times_of([log(1, 0), log(2, 0), log(3, 3.0, 4.0, 1.0), log(4, 5.0, 2.0, 1.0)])
    assert {phase.name: phase.share for phase in times.phases} == {"generation": 0.5, "backward": 0.375, "other": 0.125}
    assert (times.whole.seconds, times.whole.share) == (8.0, 1.0)


def test_a_share_is_of_steps_and_not_of_logs(times_of):
    times = times_of([log(2, 0), log(3, 1.0, 1.0), log(6, 6.0, 0.0)])
    assert times.phases[0].share == pytest.approx(19 / 20)


def test_tokens_per_second_are_all_tokens_over_all_seconds(times_of):
    warm_up = [log(1, 1.0), log(2, 1.0)]
    rate = "tokens_per_second/generation"
    times = times_of([*warm_up, log(3, 9.0, 1.0, **{rate: 100.0}), log(4, 1.0, 1.0, **{rate: 200.0})])
    assert times.phases[0].tokens_per_second == 110.0  # 1,100 tokens in 10 s
    assert times.phases[1].tokens_per_second is None


def test_a_step_that_reuses_its_rollout_has_no_rate_and_no_seconds_of_sampling(times_of):
    rate = "tokens_per_second/generation"
    logs = [log(1, 1.0), log(2, 1.0), log(3, 4.0, **{rate: 100.0}), log(4, 0.0, 2.0)]
    times = times_of(logs)
    assert (times.phases[0].seconds, times.phases[0].tokens_per_second) == (2.0, 100.0)


@pytest.mark.parametrize("logs", [[], [{"step": 1, "loss": 2.0}]], ids=["no log", "supervised training"])
def test_a_run_without_phases_has_none(times_of, logs):
    assert times_of(logs) is None


@pytest.mark.parametrize(
    ("metric", "values", "told"),
    [
        ("completions/mean_length", [9.0, 9.0, 20.0, 30.0], "25.0 tokens a completion"),
        ("padded_share", [0.9, 0.9, 0.1, 0.2], "15.0% of the positions that the loss computes are padding"),
        ("dead_group_share", [0.9, None, 0.25, None], "25.0% of the groups are dead: all their rewards are equal"),
        ("dynamic_sampling/factor", [1, 1, 1.5, 2.5], "2.00 times the batch is sampled, to replace dead groups"),
        (
            "sampling/sampling_logp_difference/mean",
            [0.1, 0.1, 0.002, 0.004],
            "0.003 nats a token is what policy and vLLM differ by",
        ),
        (
            "sampling/sampling_logp_difference/max",
            [0.1, 0.7, 0.2, 0.4],
            "0.7 nats is the most that they differ by at one token",
        ),
        ("memory/peak_gb", [70.25, 80.5, 60.0, 60.0], "80.5 GB is the most memory that torch had on one GPU"),
    ],
)
def test_what_else_was_logged_is_told(times_of, metric, values, told):
    assert times_of([log(step, 1.0, **{metric: value}) for step, value in enumerate(values, start=1)]).facts == [told]


def test_a_metric_without_a_value_is_not_told(times_of):
    assert times_of([log(step, 1.0, padded_share=None) for step in range(1, 5)]).facts == []


def test_the_table_fits_a_terminal_of_80_columns(tmp_path):
    logs = [log(step, 1234.5, 0.25, 0.0, **{"tokens_per_second/generation": 12345.6}) for step in range(1, 5)]
    run, _ = read_all(write_run(tmp_path / "run", logs), [])
    console = Console(file=io.StringIO(), width=80)
    print_phases(run, step_times(run), console)
    lines = [line.split() for line in console.file.getvalue().splitlines() if line]
    assert ["generation", "1,234.5", "100.0", "%", "12,346", "sampling"] in lines
    assert ["backward", "0.250", "0.0", "%", "–", "the", "loss,", "forward", "and", "backward"] in lines
    assert "…" not in console.file.getvalue()


@pytest.mark.parametrize("num_logs", [1, 4, MAX_BARS, MAX_BARS + 1, 5 * MAX_BARS + 3])
def test_a_picture_has_at_most_so_many_bars_and_all_the_seconds(times_of, num_logs):
    logs = [log(step, 1.0 + step % 3, 2.0) for step in range(1, num_logs + 1)]
    (axes,) = _stacked_bars(times_of(logs)).axes
    bars = [bar for container in axes.containers for bar in container if bar.get_height()]
    assert len(bars) <= 2 * MAX_BARS
    # width 0.9 of the steps that a bar stands for
    assert sum(bar.get_width() / 0.9 * bar.get_height() for bar in bars) == pytest.approx(
        sum(line["seconds/step"] for line in logs)
    )
    assert {round(bar.get_x() + bar.get_width() / 2, 6) for bar in bars} >= {
        (1 + min(num_logs, -(-num_logs // MAX_BARS))) / 2
    }


def test_bars_are_stacked_and_pale_where_the_means_do_not_count_them(times_of):
    (axes,) = _stacked_bars(times_of([log(step, 1.0, 2.0) for step in range(1, 5)])).axes
    generation, _, backward, _ = axes.containers  # after each one bar for the legend
    assert [bar.get_y() for bar in backward] == [bar.get_height() for bar in generation] == [1.0] * 4
    assert [bar.get_facecolor()[3] < 1.0 for bar in generation] == [True, True, False, False]


def test_phases_that_never_ran_are_not_in_the_picture(times_of):
    (axes,) = _stacked_bars(times_of([log(step, 1.0, 0.0, 0.5) for step in range(1, 5)])).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["other  0.50 s", "generation  1.00 s"]


# ---- the command


@pytest.fixture
def grpo_recipe(write_recipe, smallest_model):
    def write(trainer_more=None, **more) -> Path:
        trainer = {**CPU_TRAINER, "max_steps": 500, "num_generations": 2, "per_device_train_batch_size": 4}
        trainer |= {"max_completion_length": 8, "logging_steps": 50, "save_steps": 100, **(trainer_more or {})}
        sections = {"step": "grpo", "model": {"name": str(smallest_model)}, "data": [sums(40)]}
        return write_recipe(**sections | {"rewards": ["accuracy"], "trainer": trainer} | more)

    return write


@pytest.fixture
def launched(monkeypatch):
    """The recipes that would have been run; their runs log four steps and leave a model."""
    recipes = []

    def launch(recipe, run_dir, parents):
        recipes.append(recipe)
        write_run(run_dir, [log(step, 1.0) for step in range(1, 5)])
        (run_dir / "model").mkdir()
        return 0

    monkeypatch.setattr(profiling, "launch", launch)
    return recipes


def test_a_profile_runs_a_few_steps_apart_from_the_recipe_s_runs(grpo_recipe, launched, tmp_path, capsys):
    file, runs = grpo_recipe(eval_data=[sums(8, split="validation")], trainer_more=EVALUATION), tmp_path / "runs"
    assert profiling.main([str(file), "--runs", str(runs)]) == 0
    (recipe,) = launched
    expected = {"max_steps": 10, "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no", "num_generations": 2}
    assert {key: recipe.trainer[key] for key in expected} == expected
    (run_dir,) = (runs / "profiles" / "recipe").iterdir()
    assert [entry.name for entry in runs.iterdir()] == ["profiles"]  # no run of the recipe, no `latest`
    assert recipe.sha256 != load_recipe(file).sha256 and not run_directory(load_recipe(file), runs).exists()
    assert not (run_dir / "model").exists()
    assert capsys.readouterr().out.splitlines()[-1] == str(run_dir / "profile.png")
    assert (run_dir / "profile.png").read_bytes().startswith(PNG)


def test_a_profile_has_all_rewards_in_all_steps_and_watches_no_truth(grpo_recipe, launched, tmp_path):
    late = {"name": "format", "first_step": 401, "last_step": 450}
    watched = {"guards": {"truth": "accuracy", "stop_on_signs": True}, "eval_data": [sums(8, split="validation")]}
    best = {**EVALUATION, "load_best_model_at_end": True}
    file = grpo_recipe(rewards=["accuracy", late], trainer_more=best, **watched)
    assert profiling.main([str(file), "--runs", str(tmp_path)]) == 0
    assert [(reward.first_step, reward.last_step) for reward in launched[0].rewards] == [(1, None)] * 2


def test_the_user_s_overrides_win(grpo_recipe, launched, tmp_path):
    overrides = ["trainer.max_steps=30", "seed=7"]
    assert profiling.main([str(grpo_recipe()), *overrides, "--runs", str(tmp_path)]) == 0
    assert (launched[0].trainer["max_steps"], launched[0].seed) == (30, 7)


def test_a_run_that_failed_is_told_with_its_exit_code(grpo_recipe, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(profiling, "launch", lambda recipe, run_dir, parents: 3)
    assert profiling.main([str(grpo_recipe()), "--runs", str(tmp_path)]) == 3
    assert "exit code 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "overrides", "line"),
    [
        ({}, ["model.name=stage:x"], "model.name: 'stage:x' names no earlier stage"),
        ({}, ["model.name=/no/such/model"], "model.name: no model at /no/such/model"),
        ({}, [f"model.name={RUNS}/no-such-recipe/latest/model"], "run the recipe that makes it first"),
        ({}, ["trainer.max_step=3"], "did you mean max_steps?"),
        ({"step": "sft", "rewards": []}, [], "step: it is sft; only grpo steps have phases"),
    ],
    ids=["a stage", "no model", "a model that is to be made", "misspelt", "sft"],
)
def test_a_recipe_that_cannot_be_profiled_is_one_line(
    grpo_recipe, launched, tmp_path, capsys, sections, overrides, line
):
    if sections:
        sections["trainer"] = {"max_steps": 3}
    assert profiling.main([str(grpo_recipe(**sections)), *overrides, "--runs", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1
    assert not launched


def test_a_pipeline_names_the_recipes_that_can_be_profiled(grpo_recipe, write_recipe, capsys):
    grpo_recipe(name="rl.yaml")
    grpo_recipe(name="cold_start.yaml", step="sft", rewards=[], trainer={"max_steps": 3})
    recipes = {"cold_start": "./cold_start.yaml", "rl": "./rl.yaml", "again": "./rl.yaml"}
    stages = [{"name": name, "recipe": recipe} for name, recipe in recipes.items()]
    assert profiling.main([str(write_recipe("all.yaml", step="pipeline", stages=stages))]) == 2
    told = capsys.readouterr().err
    assert told.count("rl.yaml") == 1 and "cold_start" not in told


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "needs either a recipe"),
        (["recipe.yaml", "--run", "runs/x"], "needs either a recipe"),
        (["--run", "/no/such/run"], "no such run directory"),
    ],
    ids=["neither", "both", "no such run"],
)
def test_a_command_without_a_run_is_one_line(capsys, arguments, line):
    assert profiling.main(arguments) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1


def test_a_run_that_exists_is_profiled_where_it_is(tmp_path, capsys):
    run_dir = write_run(tmp_path / "run", [log(step, 1.0) for step in range(1, 5)])
    assert profiling.main(["--run", str(run_dir)]) == 0
    assert (run_dir / "profile.png").exists()
    assert "mean of steps 3 to 4" in capsys.readouterr().out


def test_of_a_pipeline_each_stage_with_phases_is_shown(tmp_path, capsys):
    run_dir = tmp_path / "run"
    for name, logs in (("sft", [{"step": 1, "loss": 2.0}]), ("rl", [log(1, 1.0)]), ("code_rl", [log(1, 1.0)])):
        write_run(run_dir / name, logs)
    stages = [{"name": name} for name in ("sft", "rl", "code_rl")]
    (run_dir / "run.json").write_text(json.dumps({"step": "pipeline", "recipe": {"stages": stages}}))
    profiling.show(run_dir)
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.endswith("profile.png")] == [
        str(run_dir / name / "profile.png") for name in ("rl", "code_rl")
    ]


def test_a_run_without_phases_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match="no seconds by phase in metrics.jsonl"):
        profiling.show(write_run(tmp_path / "run", [{"step": 1, "loss": 2.0}]))


@pytest.mark.slow
def test_a_recipe_is_profiled(grpo_recipe, tmp_path, capfd):
    overrides = ["trainer.max_steps=4", "guards.min_verified_gold_share=null"]
    assert profiling.main([str(grpo_recipe()), *overrides, "--runs", str(tmp_path / "runs")]) == 0
    (run_dir,) = (tmp_path / "runs" / "profiles" / "recipe").glob("[!.]*")  # the lock is hidden
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        phases = [value for name, value in line.items() if name.startswith("seconds/") and name != "seconds/step"]
        assert sum(phases) == pytest.approx(line["seconds/step"]) and min(phases) >= 0.0
    assert not list((run_dir / "checkpoints").glob("checkpoint-*")) and not (run_dir / "model").exists()
    assert "mean of steps 3 to 4" in capfd.readouterr().out
