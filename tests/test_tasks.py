"""Rewards for one kind of rows: who is judged by what, which columns are asked for, and what counts as a failure."""

import json
from types import SimpleNamespace

import pytest
from conftest import sums

from open_r1.check import check_recipe
from open_r1.data import load_data
from open_r1.gold_check import check_golds
from open_r1.recipe import RecipeError, Reward, Thinking, load_recipe
from open_r1.rewards import BoundReward, build_rewards, reward_columns, rewards_for

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


@pytest.mark.parametrize("early", [[], [0], [1, 2], [0, 3], [2, 3]])
def test_metrics_are_of_the_rows_of_the_task_however_they_are_judged(early):
    judging, logged = reward(), {}
    rows = {"solution": ["4", r"\frac{1}{", "4", "4"], "task": ["math", "math", "general", "general"]}
    if early:
        some = {name: [column[position] for position in early] for name, column in rows.items()}
        judging.start([ANSWERS[position] for position in early], positions=early, **some)
    judging(ANSWERS, log_metric=logged.__setitem__, **rows)
    assert logged["accuracy/unparsed_gold_share"] == 0.5


def test_rows_that_are_judged_early_keep_their_places():
    judging = reward()
    judging.start(ANSWERS[1:3], positions=[1, 2], **{name: column[1:3] for name, column in COLUMNS.items()})
    assert judging(ANSWERS, **COLUMNS) == [1.0, 0.0, None, None]


# --- Several tasks, and rows that name their own


def test_a_reward_may_be_for_several_tasks():
    several = reward(task=["general", "math"])
    assert several(ANSWERS, solution=["4", "4", "4", "4"], task=COLUMNS["task"]) == [1.0, 0.0, 1.0, None]


@pytest.fixture
def tulu(recipe_of, tmp_path):
    """A recipe over rows as Tulu's mix has them, with the rewards."""

    def tulu(*rewards, **columns):
        rows = [
            {"messages": [{"role": "user", "content": "2+2=?"}], "ground_truth": "4", "dataset": "gsm8k"},
            {"messages": [{"role": "user", "content": "0.5=?"}], "ground_truth": r"\frac12", "dataset": "MATH"},
            {"messages": [{"role": "user", "content": "Shout."}], "ground_truth": "{}", "dataset": "ifeval"},
            {"messages": [{"role": "user", "content": "Hm?"}], "ground_truth": None, "dataset": None},
        ]
        file = tmp_path / "mix.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = recipe_of(rewards=rewards)
        columns = {"prompt": "messages", "solution": "ground_truth", "task": "dataset"} | columns
        source = recipe.data[0].model_copy(
            update={"path": str(file), "procedural": None, "task": None, "columns": columns}
        )
        return recipe.model_copy(update={"data": [source]})

    return tulu


OF_TULU = (
    {"name": "last_number", "task": "gsm8k"},
    {"name": "final_answer", "task": ["MATH", "gsm8k"]},
    {"name": "instructions", "task": "ifeval"},
    "format",
)


def test_rows_name_their_own_tasks(tulu):
    recipe = tulu(*OF_TULU)
    check_recipe(recipe)
    data = load_data(recipe, reward_columns(recipe.rewards))
    assert data["task"][:] == ["gsm8k", "MATH", "ifeval", None]
    assert data["solution"][:] == ["4", r"\frac12", "{}", None]


def test_task_of_a_source_goes_before_that_of_its_rows(tulu):
    recipe = tulu({"name": "last_number", "task": "sums"})
    source = recipe.data[0].model_copy(update={"task": "sums"})
    data = load_data(recipe.model_copy(update={"data": [source]}), ["solution", "task"])
    assert data["task"][:] == ["sums"] * 4


def test_column_that_only_a_reward_for_some_rows_reads_is_asked_of_the_source(tulu):
    recipe = tulu(*OF_TULU)
    source = recipe.data[0].model_copy(update={"columns": {"prompt": "messages", "task": "dataset"}})
    with pytest.raises(RecipeError, match="rewards.0: last_number needs the column solution, which data.0 does not"):
        check_recipe(recipe.model_copy(update={"data": [source]}))


# --- Steps in which a reward counts


def at_step(step: int) -> dict:
    """What the trainer gives beside the columns in the step of this number, which is done when it is."""
    return {"trainer_state": SimpleNamespace(global_step=step - 1)}


@pytest.mark.parametrize(
    ("bounds", "counts_in"),
    [
        ({}, [1, 2, 3, 4]),
        ({"first_step": 1}, [1, 2, 3, 4]),
        ({"first_step": 3}, [3, 4]),
        ({"last_step": 2}, [1, 2]),
        ({"first_step": 2, "last_step": 2}, [2]),
        ({"first_step": 2, "last_step": 3}, [2, 3]),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_reward_counts_from_its_first_step_to_its_last(bounds, counts_in, early):
    bounded = reward(task=None, **bounds)
    for step in (1, 2, 3, 4):
        logged, shown = {}, {}
        given = {"solution": ["4", "4"], **at_step(step)}
        if early:
            bounded.start(ANSWERS[1:2], positions=[1], solution=["4"], **at_step(step))
        values = bounded(ANSWERS[:2], log_metric=logged.__setitem__, log_extra=shown.__setitem__, **given)
        assert values == ([1.0, 0.0] if step in counts_in else [None, None])
        assert logged["rewards/accuracy/none_share"] == 0.0  # nobody was to judge
        assert ("accuracy/pairs" in logged) == ("accuracy_answer" in shown) == (step in counts_in)


@pytest.mark.parametrize(
    ("bounds", "counts_after"),
    [
        ({}, [0, 1, 2, 3]),
        ({"first_step": 2}, [2, 3]),
        ({"last_step": 2}, [0, 1, 2]),
        ({"first_step": 2, "last_step": 2}, [2]),
    ],
)
def test_evaluation_is_of_the_step_that_is_done(bounds, counts_after):
    bounded = reward(task=None, **bounds)
    bounded.in_evaluation = True
    for step in (0, 1, 2, 3):
        values = bounded(ANSWERS[:1], solution=["4"], trainer_state=SimpleNamespace(global_step=step))
        assert values == ([1.0] if step in counts_after else [None])


def test_none_share_is_of_the_rows_that_were_to_be_judged():
    bounded, logged = reward(first_step=2), {}
    columns = {"solution": [r"\frac{1}{", "4", "4", "4"], "task": ["math", "math", "general", "math"]}
    assert bounded(ANSWERS, log_metric=logged.__setitem__, **columns, **at_step(2)) == [None, 0.0, None, 1.0]
    assert logged["rewards/accuracy/none_share"] == pytest.approx(1 / 3)


def test_reward_of_another_step_calls_nothing():
    late = reward("test_tasks:fails", task=None, first_step=2)
    assert late(ANSWERS[:2], **at_step(1)) == [None, None]


def test_where_nothing_is_trained_every_reward_counts():
    assert reward(task=None, first_step=700)(ANSWERS[:2], solution=["4", "4"]) == [1.0, 0.0]


# --- Two rewards of one name


def test_what_a_labelled_reward_logs_has_its_label():
    logged, shown = {}, {}
    labelled = reward(label="sums")
    assert labelled.__name__ == "sums"
    labelled(ANSWERS, log_extra=shown.__setitem__, log_metric=logged.__setitem__, **COLUMNS)
    assert shown.keys() == {"sums_answer", "sums_reason"}
    assert {name.partition("/")[0] for name in logged} == {"sums", "rewards"}
    assert {name.split("/")[1] for name in logged if name.startswith("rewards/")} == {"sums"}


@pytest.mark.parametrize(
    ("name", "logged", "expected"),
    [
        ("code", "code_reason", "mine_reason"),
        ("code", "code/timeout", "mine/timeout"),
        ("code", "rewards/code/failed_share", "rewards/mine/failed_share"),
        ("code", "encode/share", "encode/share"),
        ("code", "codes/share", "codes/share"),
        ("test_tasks:fails", "anything", "anything"),
    ],
)
def test_own_names_are_replaced_and_no_others(name, logged, expected):
    def logs(completions, log_metric, **columns):
        log_metric(logged, 1.0)
        return [0.0]

    names = []
    BoundReward("mine", logs, {}, logs_as=name)(ANSWERS[:1], log_metric=lambda name, value: names.append(name))
    assert names[0] == expected


def says(completions, log_extra, **columns):
    """A reward of a user's own that puts something into the completions table."""
    log_extra("says_what", [text_of[-1]["content"] for text_of in completions])
    return [0.0] * len(completions)


def test_two_rewards_of_one_function_of_a_users_own_have_columns_of_their_own():
    shown = {}
    for label in ("one", "other"):
        reward("test_tasks:says", label=label, task=None)(ANSWERS, log_extra=shown.__setitem__)
    assert shown.keys() == {"one_what", "other_what"}


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
