"""Rewards for one kind of rows: who is judged by what, which columns are asked for, and what counts as a failure."""

import json

import pytest
from conftest import sums

from open_r1.check import check_recipe
from open_r1.data import load_data
from open_r1.gold_check import check_golds
from open_r1.recipe import RecipeError, Reward, Thinking, load_recipe
from open_r1.rewards import build_rewards, reward_columns, rewards_for

CHAT = {"procedural": {"family": "tiny_chat", "num_problems": 4}}
ACCURACY = {"name": "accuracy", "task": "math"}


def completions(*texts: str) -> list[list[dict]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.fixture
def recipe_of(write_recipe, smallest_model):
    def load(rewards=(ACCURACY, "format"), tasks=("math", "general")):
        tasks = [{"task": task} if task else {} for task in tasks]
        return load_recipe(
            write_recipe(
                step="grpo",
                model={"name": str(smallest_model)},
                data=[{**sums(4), **tasks[0]}, {**CHAT, **tasks[1]}],
                rewards=list(rewards),
                trainer={"num_generations": 2, "per_device_train_batch_size": 2},
            )
        )

    return load


def reward(name: str = "accuracy", task: str | None = "math", **more):
    return build_rewards([Reward(name=name, task=task, **more)], Thinking(prefilled=False), 0, 16)[0]


ANSWERS = completions(*[f"<think></think><answer>{number}</answer>" for number in (4, 5, 4, 4)])
COLUMNS = {"solution": ["4", "4", None, "4"], "task": ["math", "math", "general", None]}


def test_rows_of_other_tasks_get_no_value():
    assert reward()(ANSWERS, **COLUMNS) == [1.0, 0.0, None, None]
    assert reward(task=None)(ANSWERS[:2], solution=["4", "4"]) == [1.0, 0.0]


def test_the_function_is_told_only_of_its_own_rows():
    shown, logged = {}, {}
    reward()(ANSWERS, log_extra=shown.__setitem__, log_metric=logged.__setitem__, **COLUMNS)
    assert shown["accuracy_answer"] == ["4", "5", None, None]
    assert logged["accuracy/pairs"] == 2
    assert logged["rewards/accuracy/none_share"] == 0.0


def test_batch_without_a_row_of_the_task_calls_nothing():
    assert reward("test_tasks:fails")(ANSWERS[:2], task=["general", None]) == [None, None]


def fails(completions, **columns):
    """A reward that must not be called."""
    raise AssertionError(completions)


def test_rows_that_are_judged_early_keep_their_places():
    judging = reward()
    judging.start(ANSWERS[1:3], positions=[1, 2], **{name: column[1:3] for name, column in COLUMNS.items()})
    assert judging(ANSWERS, **COLUMNS) == [1.0, 0.0, None, None]


def test_columns_of_a_task_are_asked_of_its_sources_alone(recipe_of):
    recipe = recipe_of()
    check_recipe(recipe)
    data = load_data(recipe, reward_columns(recipe.rewards))
    assert data["task"] == ["math"] * 4 + ["general"] * 4
    assert [solution is None for solution in data["solution"]] == [False] * 4 + [True] * 4
    assert [each.name for each in rewards_for(recipe.rewards, "general")] == ["format"]


def test_task_column_of_the_data_itself_counts_where_the_source_names_none(recipe_of, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "2+2=?", "solution": "4", "task": "math"}, {"prompt": "hm", "solution": None, "task": "general"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    recipe = recipe_of()
    data = [recipe.data[0].model_copy(update={"path": str(file), "procedural": None, "task": None}), recipe.data[1]]
    loaded = load_data(recipe.model_copy(update={"data": data}), ["solution", "task"])
    assert loaded["task"] == ["math", "general", *["general"] * 4]


def test_golds_of_other_tasks_are_not_checked(recipe_of):
    recipe = recipe_of()
    checked = check_golds(recipe, ["4", "Hello!", "5"], ["math", "general", "math"])
    assert checked.num_rows == 2 and not checked.failures
    wrong = check_golds(recipe, [None, "Hello!", ""], ["general", "general", "math"])
    assert [failure.row for failure in wrong.failures] == [2]
    assert check_golds(recipe, [None, None], ["general", "general"]) is None


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        (
            ("maths", "general"),
            "rewards.0.task: no data is of task 'math' (known: general, maths); did you mean maths?",
        ),
        ((None, None), "rewards.0.task: no data is of task 'math' (no source has one; give data.0.task)"),
    ],
)
def test_task_that_no_data_has_is_told(tasks, line, recipe_of):
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe_of(tasks=tasks))
    assert line in str(error.value)
