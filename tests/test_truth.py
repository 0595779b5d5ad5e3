"""What a run of GRPO is judged by while it trains: the truth on eval_data, and which checkpoint is the best by it."""

import json
from types import SimpleNamespace

import pandas
import pytest
from conftest import CPU_TRAINER, sums
from datasets import Dataset

from open_r1 import training
from open_r1.check import check_recipe
from open_r1.grpo import grpo
from open_r1.grpo_trainer import GRPOTrainer
from open_r1.recipe import RecipeError, load_recipe
from open_r1.step_process import RunStopped

KEEPS_BEST = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 10} | {
    "load_best_model_at_end": True
}
TRUTH = {"name": "rewards_of_tests:solution_itself", "label": "truth", "weight": 0.0}


@pytest.fixture
def recipe_of(write_recipe, smallest_model):
    """A recipe of GRPO that is evaluated every five steps and keeps the best, with other trainer keys and sections."""

    def load(trainer: dict | None = None, **sections):
        keys = {**CPU_TRAINER, "num_generations": 2, "per_device_train_batch_size": 2, **KEEPS_BEST, **(trainer or {})}
        given = {
            "step": "grpo",
            "model": {"name": str(smallest_model)},
            "data": [sums(16)],
            "eval_data": [sums(4, split="validation")],
            "rewards": ["accuracy"],
            **sections,
        }
        return load_recipe(write_recipe(**given, trainer={key: value for key, value in keys.items() if value != ...}))

    return load


def lines_of(recipe) -> list[str]:
    try:
        check_recipe(recipe)
    except RecipeError as mistake:
        return [line.removeprefix(f"{recipe.source}: ") for line in mistake.lines]
    return []


# --- The best checkpoint


@pytest.mark.parametrize(
    ("rewards", "guards", "trainer", "metric", "greater"),
    [
        (["accuracy", "format"], {}, {}, "eval_rewards/accuracy/mean", True),
        ([{"name": "accuracy", "label": "sums"}], {}, {}, "eval_rewards/sums/mean", True),
        (["accuracy", TRUTH], {"truth": "truth"}, {}, "eval_rewards/truth/mean", True),
        (["accuracy"], {}, {"metric_for_best_model": "eval_reward"}, "eval_reward", None),
        (["accuracy"], {}, {"metric_for_best_model": "loss", "greater_is_better": False}, "loss", False),
        (["accuracy"], {}, {"load_best_model_at_end": False}, None, None),
        (["accuracy", "last_number"], {}, {}, None, None),
        (["format"], {}, {}, None, None),
    ],
)
def test_best_checkpoint_is_the_best_by_the_truth(rewards, guards, trainer, metric, greater, recipe_of, tmp_path):
    arguments = training.trainer_arguments(recipe_of(trainer, rewards=rewards, guards=guards), tmp_path)
    assert (arguments.get("metric_for_best_model"), arguments.get("greater_is_better")) == (metric, greater)


@pytest.mark.parametrize("metrics", [{}, {"eval_rewards/truth/mean": None}], ids=["missing", "without a value"])
@pytest.mark.parametrize("name", ["eval_rewards/truth/mean", "rewards/truth/mean"])
def test_evaluation_without_the_metric_stops_the_run_with_one_line(name, metrics):
    trainer = SimpleNamespace(args=SimpleNamespace(metric_for_best_model=name), state=SimpleNamespace(global_step=5))
    line = "^stopped at step 5: trainer.metric_for_best_model: eval_rewards/truth/mean has no value in this evaluation"
    with pytest.raises(RunStopped, match=line):
        GRPOTrainer._determine_best_metric(trainer, metrics, None)


# --- What an evaluation is of


def test_a_rewards_mean_is_of_the_problems_that_it_judged(recipe_of, tmp_path):
    """Two batches of two problems; one of the four is not for the truth, and rewards begin and end meanwhile."""
    rows = [("1", "math"), ("0", "general"), ("0", "math"), ("0", "math")]
    lines = [json.dumps({"prompt": f"{n}?", "solution": rows[n][0], "task": rows[n][1]}) for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    keys = {"max_steps": 2, "eval_steps": 1, "eval_on_start": True, "logging_steps": 1, "max_completion_length": 4}
    keys |= {"load_best_model_at_end": False, "save_strategy": "no", "per_device_eval_batch_size": 4}
    rewards = [
        TRUTH | {"task": "math"},
        {"name": "rewards_of_tests:number_of_characters", "label": "first", "last_step": 1},
        {"name": "rewards_of_tests:number_of_characters", "label": "second", "first_step": 2},
    ]
    grpo(recipe_of(keys, rewards=rewards, eval_data=[{"path": "rows.jsonl"}]), tmp_path)
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluations = [log for log in logs if "eval_reward" in log]
    assert [log["eval_rewards/truth/mean"] for log in evaluations] == [pytest.approx(1 / 3)] * 3
    for name, has_value in (("first", [True, True, False]), ("second", [False, False, True])):
        assert [log.get(f"eval_rewards/{name}/mean") is not None for log in evaluations] == has_value


def test_what_is_looked_at_alone_is_no_reward_of_zero(recipe_of, tmp_path):
    """Half of the rows have a reward that counts and is never 0; the truth, of weight 0, looks at all of them."""
    rows = [("1", "math"), ("0", "general"), ("0", "math"), ("1", "general")]
    lines = [json.dumps({"prompt": f"{n}?", "solution": rows[n][0], "task": rows[n][1]}) for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    keys = {"max_steps": 2, "eval_strategy": "no", "logging_steps": 1, "max_completion_length": 4}
    keys |= {"load_best_model_at_end": False, "save_strategy": "no", "per_device_train_batch_size": 8}
    keys |= {"log_completions": True, "num_completions_to_print": 0}
    rewards = [TRUTH, {"name": "rewards_of_tests:ones_later", "label": "counted", "task": "math", "weight": 3.0}]
    data = [{"path": "rows.jsonl"}]
    grpo(recipe_of(keys, rewards=rewards, data=data, eval_data=[]), tmp_path)
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [log for log in logs if "reward" in log]
    assert [(log["reward"], log["rewards/counted/mean"], log["rewards/truth/mean"]) for log in trained] == [
        (3, 1, 0.5)
    ] * 2
    table = pandas.concat(pandas.read_parquet(file) for file in sorted((tmp_path / "completions").glob("*.parquet")))
    assert sorted(table["truth"]) == [0.0] * 8 + [1.0] * 8 and table["counted"].isna().sum() == 8


@pytest.mark.parametrize(
    ("dataset", "tasks"),
    [
        (None, []),
        (Dataset.from_dict({"prompt": ["a", "b"]}), [None, None]),
        (Dataset.from_dict({"prompt": ["a", "b"], "task": ["math", None]}), ["math", None]),
    ],
    ids=["none", "no tasks", "tasks"],
)
def test_tasks_of_the_problems(dataset, tasks):
    assert training._tasks(dataset) == tasks


# --- What the check says

OF_BEST = "trainer.load_best_model_at_end: "
IN_STEPS = {"name": "accuracy", "first_step": 2}
UNBOUNDED = ("cosine", "length", "repetition_penalty", "soft_overlong_punishment")


@pytest.mark.parametrize(
    ("trainer", "sections", "lines"),
    [
        ({}, {}, []),
        ({"metric_for_best_model": "rewards/accuracy/mean"}, {}, []),
        ({"metric_for_best_model": "eval_reward"}, {"rewards": ["format"]}, []),
        (
            {"metric_for_best_model": "eval_rewards/acuracy/mean"},
            {"rewards": ["accuracy", "format"]},
            [
                "trainer.metric_for_best_model: no reward is called 'acuracy' (known: accuracy, format); did you mean "
                "accuracy?"
            ],
        ),
        (
            {},
            {"rewards": ["format"]},
            [
                f"{OF_BEST}nothing says which checkpoint is the best; set guards.truth, or "
                "trainer.metric_for_best_model, e.g. eval_reward"
            ],
        ),
        (
            {"greater_is_better": False},
            {},
            ["trainer.greater_is_better: false would keep the checkpoint with the least of accuracy; remove it"],
        ),
        (
            {},
            {"rewards": [IN_STEPS]},
            [
                "trainer.metric_for_best_model: evaluations before first_step or after last_step of accuracy would "
                "have no eval_rewards/accuracy/mean; remove these, or name another metric"
            ],
        ),
        (
            {"eval_strategy": "no", "eval_on_start": True},
            {},
            [f"{OF_BEST}nothing is evaluated; set trainer.eval_strategy, or remove it"],
        ),
        (
            {"save_strategy": "epoch"},
            {},
            [
                "trainer.save_strategy: epoch, but trainer.eval_strategy is steps, and load_best_model_at_end chooses "
                "among checkpoints that were evaluated; write steps"
            ],
        ),
        ({"save_strategy": "best"}, {}, []),
        (
            {"save_steps": 12},
            {},
            [
                "trainer.save_steps: 12 is no multiple of 5, trainer.eval_steps, and load_best_model_at_end chooses "
                "among checkpoints that were evaluated; make them equal"
            ],
        ),
        ({"eval_steps": 0.1, "save_steps": 0.3}, {}, []),
        (
            {"eval_steps": 0.5, "save_steps": 1},
            {},
            [
                "trainer.save_steps: 1 is no multiple of 0.5, trainer.eval_steps, and load_best_model_at_end chooses "
                "among checkpoints that were evaluated; make them equal"
            ],
        ),
        ({"eval_steps": ..., "logging_steps": 2}, {}, []),
        ({"save_steps": 12, "load_best_model_at_end": False}, {}, []),
    ],
)
def test_best_checkpoint_that_cannot_be_known(trainer, sections, lines, recipe_of):
    assert lines_of(recipe_of(trainer, **sections)) == lines


@pytest.mark.parametrize("reward", UNBOUNDED)
def test_truth_is_a_number_from_0_to_1(reward, recipe_of):
    recipe = recipe_of(rewards=["accuracy", {"name": reward, "label": "truth"}], guards={"truth": "truth"})
    assert lines_of(recipe) == [
        f"guards.truth: {reward} is no number from 0 to 1; name another reward, e.g. one of weight 0"
    ]


@pytest.mark.parametrize("steps", [{"first_step": 2}, {"last_step": 9}])
def test_truth_is_there_in_every_evaluation(steps, recipe_of):
    recipe = recipe_of(rewards=["format", TRUTH | steps], guards={"truth": "truth"})
    assert lines_of(recipe) == [
        "guards.truth: evaluations before first_step or after last_step of truth would have no value of it; remove "
        "these, or name another reward, e.g. one of weight 0"
    ]


OFF = {"min_entropy_share": None, "stop_on_signs": True}


@pytest.mark.parametrize(
    ("guards", "rewards", "has_sign"),
    [
        (OFF, ["accuracy"], True),
        (OFF, ["format"], False),
        (OFF | {"max_eval_drop": None}, ["accuracy"], False),
        (OFF | {"max_length_drift": 2.0}, ["format"], True),
        ({"stop_on_signs": True}, ["format"], True),
        ({"min_entropy_share": None}, ["format"], True),
    ],
)
def test_stop_on_signs_that_nobody_looks_for(guards, rewards, has_sign, recipe_of):
    line = (
        "guards.stop_on_signs: nothing looks for a sign; set guards.truth (with eval_data), min_entropy_share, "
        "max_length_drift or max_kl, or remove it"
    )
    recipe = recipe_of({"load_best_model_at_end": False}, guards=guards, rewards=rewards)
    assert lines_of(recipe) == ([] if has_sign else [line])


ROLLOUT = "is in the middle of a rollout, which is judged once for"
OF_FOUR = {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "num_iterations": 2}


@pytest.mark.parametrize(
    ("trainer", "steps", "problem"),
    [
        ({"max_steps": 4}, {"first_step": 4}, None),
        ({"max_steps": 4}, {"first_step": 5}, "first_step: 5 is after trainer.max_steps 4: it would never count"),
        ({"max_steps": -1}, {"first_step": 5}, None),
        (OF_FOUR, {"first_step": 5, "last_step": 8}, None),
        (OF_FOUR, {"first_step": 4}, f"first_step: 4 {ROLLOUT} 4 steps (%s); write 1 or 5"),
        (OF_FOUR, {"last_step": 6}, f"last_step: 6 {ROLLOUT} 4 steps (%s); write 4 or 8"),
        (OF_FOUR | {"max_steps": 4}, {"last_step": 3}, f"last_step: 3 {ROLLOUT} 4 steps (%s); write 4"),
        ({"num_iterations": 2}, {"first_step": 2}, f"first_step: 2 {ROLLOUT} 2 steps (%s); write 1 or 3"),
        ({"generation_batch_size": 6}, {"first_step": 3}, f"first_step: 3 {ROLLOUT} 3 steps (%s); write 1 or 4"),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 2}, {"first_step": 2}, None),
    ],
)
def test_steps_in_which_a_reward_cannot_begin_or_end(trainer, steps, problem, recipe_of):
    keys = "trainer.steps_per_generation x num_iterations, over gradient_accumulation_steps"
    recipe = recipe_of({"load_best_model_at_end": False, **trainer}, rewards=["format", {"name": "accuracy", **steps}])
    assert lines_of(recipe) == ([f"rewards.1.{problem.replace('%s', keys)}"] if problem else [])


@pytest.mark.parametrize(
    ("task", "rewards", "problem"),
    [
        ("math", [{"name": "accuracy", "task": "math"}], None),
        ("general", [{"name": "accuracy", "task": ["math", "general"]}], None),
        ("general", [{"name": "accuracy", "task": "math"}], "no reward is for rows of task 'general'"),
        (None, [{"name": "accuracy", "task": "math"}], "no reward is for rows of no task"),
        (None, [{"name": "accuracy", "task": "math"}, "format"], None),
        (
            "general",
            [{"name": "accuracy", "task": "math"}, {"name": "format", "weight": 0}],
            "no reward but one of weight 0 is for rows of task 'general'",
        ),
    ],
)
def test_rows_that_no_reward_judges(task, rewards, problem, recipe_of):
    data = [{**sums(16), "task": "math"}, {**sums(16), **({"task": task} if task else {})}]
    held_out = [{**sums(4, split="validation"), "task": "math"}]
    recipe = recipe_of({"load_best_model_at_end": False}, data=data, eval_data=held_out, rewards=rewards)
    assert lines_of(recipe) == ([f"data.1.task: {problem}; add one, or remove the source"] if problem else [])


@pytest.mark.parametrize(("task", "shown"), [([], "[]"), ("", "''")])
def test_reward_for_no_task_is_one_line(task, shown, recipe_of):
    with pytest.raises(RecipeError) as mistake:
        recipe_of(rewards=[{"name": "accuracy", "task": task}])
    (line,) = mistake.value.lines
    assert line.endswith(
        f": rewards.0.task: {shown} names no task; give one, or remove the key, so that it is for all rows"
    )
