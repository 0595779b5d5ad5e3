"""The reward of an AI judge: its values, what GRPO makes of them, and open prompts beside those that rules judge."""

import json
import math
import re
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from conftest import CPU_TRAINER, sums
from openai_server import OpenAIServer
from stand_in_judges import is_nonsense, likes_the_first, shown_in, verdict_by

from open_r1 import launch, running, step_process
from open_r1.check import check_recipe
from open_r1.feedback import judge_of
from open_r1.grpo import grpo
from open_r1.recipe import Endpoint, Judge, Preferences, Recipe, RecipeError, Thinking, load_recipe
from open_r1.rewards.judge import judge_reward
from open_r1.run_record import METRICS_FILE, read_record
from open_r1.step_process import EXIT_STOPPED

pytest.importorskip("openai")

LOWEST, HIGHEST = 1, 10
SUM, CHAT = "1+1=?", [{"role": "user", "content": "How are you?"}]


def by_characters(_: int, text: str) -> int:
    """From 1 to 10, by the characters of a text."""
    return LOWEST + sum(map(ord, text)) % HIGHEST


def share_by_characters(text: str) -> float:
    return (by_characters(0, text) - LOWEST) / (HIGHEST - LOWEST)


def nonsense_one_time_in_five(body: dict[str, Any]) -> str:
    return "Splendid!" if is_nonsense(body) else verdict_by(by_characters)(body)


def rubric_in(folder: Path, **keys) -> str:
    file = folder / "rubric.yaml"
    file.write_text(json.dumps({"description": "D.", "principles": [{"name": "order", "text": "In order?"}], **keys}))
    return str(file)


# --- the function


@pytest.fixture
def judged(tmp_path):
    """What the reward gives completions with their prompts, by a judge's answers; and what it logs."""

    def run(answer, completions, prompts, keys=None, thinking=Thinking(), **section):
        logged: dict[str, float] = {}
        rubric = rubric_in(tmp_path, **(keys or {}))
        with OpenAIServer(answer=answer) as server:
            given = {"judgements": 1, "max_completion_length": 100, **section}
            judge = judge_of(
                Recipe(step="grpo", judge=Judge(endpoint=Endpoint(base_url=server.url, model="teacher"), **given)),
                tmp_path,
            )
            values = judge_reward(
                completions,
                prompts,
                rubric=rubric,
                judge=judge,
                thinking=thinking,
                log_metric=logged.__setitem__,
            )
        return SimpleNamespace(values=values, logged=logged, requests=server.requests)

    return run


@pytest.mark.parametrize(
    ("scale", "score", "value"),
    [([1, 10], 1, 0.0), ([1, 10], 10, 1.0), ([1, 10], 4, 1 / 3), ([0, 4], 3, 0.75), ([-5, 5], 0, 0.5)],
)
def test_values_are_shares_of_the_scale(scale, score, value, judged):
    found = judged(lambda body: json.dumps({"A": {"order": score}}), ["x"], [SUM], {"scale": scale})
    assert found.values == [pytest.approx(value)]


def test_each_row_has_the_value_of_its_own_completion_after_its_own_prompt(judged):
    def answer(body):
        shown = shown_in(body["messages"])
        ((_, question),) = shown.asked
        return verdict_by(lambda place, text: by_characters(place, f"{question}/{text}"))(body)

    completions = ["a", [{"role": "assistant", "content": "b"}], "c", "a", "b", "a"]
    prompts = [SUM, CHAT, SUM, CHAT, SUM, SUM]
    found = judged(answer, completions, prompts)
    texts = ["a", "b", "c", "a", "b", "a"]
    questions = [SUM, CHAT[0]["content"], SUM, CHAT[0]["content"], SUM, SUM]
    expected = [share_by_characters(f"{question}/{text}") for question, text in zip(questions, texts, strict=True)]
    assert found.values == pytest.approx(expected)
    assert len(found.requests) == 5  # of two equal rows one


def test_no_verdict_is_none_and_counted(judged):
    texts = [f"answer {number}" for number in range(30)]
    found = judged(nonsense_one_time_in_five, texts, [SUM] * 30)
    unreadable = {
        text for body in found.requests if is_nonsense(body) for text in shown_in(body["messages"]).answers.values()
    }
    expected = [None if text in unreadable else pytest.approx(share_by_characters(text)) for text in texts]
    assert found.values == expected and None in expected
    assert found.logged["rewards/judge/failed_share"] == expected.count(None) / 30


def test_completions_of_a_prompt_are_compared_and_the_taste_for_a_place_is_logged(judged):
    prompts = [SUM, CHAT] * 3
    found = judged(verdict_by(likes_the_first), list("abcdef"), prompts, candidates=2, judgements=2)
    assert found.values == [pytest.approx(6 / 9)] * 6
    assert found.logged["rewards/judge/position_bias"] == 4.0
    assert {len(shown_in(body["messages"]).answers) for body in found.requests} == {2}
    assert found.logged["rewards/judge/spread"] > 0


def test_answers_alone_are_shown_where_the_rubric_says_so(judged):
    completions = ["hm</think>4", "hm", "<think>hm</think>5"]
    found = judged(
        lambda body: '{"A": {"order": 10}}', completions, [SUM] * 3, {"sees": "answer"}, Thinking(prefilled=True)
    )
    assert found.values == [1.0, 0.0, 1.0]
    shown = sorted(text for body in found.requests for text in shown_in(body["messages"]).answers.values())
    assert shown == ["4", "5"]


def test_no_completions_ask_nothing(judged):
    found = judged(lambda body: "", [], [])
    assert (found.values, found.requests, found.logged) == ([], [], {})


# --- in GRPO

MAX_TOKENS = 8


@pytest.fixture
def recipe_for(write_recipe, smallest_model, tmp_path):
    """Writes a short recipe of GRPO for a judge's server, with keys of its sections."""

    def write(server: OpenAIServer | None, judge: dict | None = None, trainer: dict | None = None, **sections) -> Path:
        rubric_in(tmp_path)
        keys = {
            **CPU_TRAINER,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": MAX_TOKENS,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "log_completions": True,
            "num_completions_to_print": 0,
            "save_strategy": "no",
        }
        values = {
            "step": "grpo",
            "model": {"name": str(smallest_model)},
            "data": [sums(16)],
            "rewards": [{"name": "judge", "rubric": "rubric.yaml"}],
            "trainer": keys | (trainer or {}),
            **sections,
        }
        values["guards"] = {"max_truncated_share": None, **sections.get("guards", {})}
        if server is not None:
            given = {"judgements": 1, "max_completion_length": 100, **(judge or {})}
            endpoint = {"base_url": server.url, "model": "teacher", **given.pop("endpoint", {})}
            values["judge"] = {**given, "endpoint": endpoint}
        return write_recipe("grpo.yaml", **values)

    return write


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Launches a recipe, its step in this process, on one thread; gives the exit code and the run directory."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small a model more would wait for each other

    def run_here(argv: list[str], environment: dict[str, str]) -> int:
        return step_process._exit_code_of(grpo, Path(argv[-1]))

    def launch_it(recipe: Path) -> tuple[int, Path]:
        exit_code = launch.main(["grpo", str(recipe), "--runs", str(tmp_path / "runs")])
        return exit_code, running.run_directory(load_recipe(recipe), tmp_path / "runs")

    monkeypatch.setattr(running, "_run", run_here)
    yield launch_it
    torch.set_num_threads(num_threads)


def completions_of(run_dir: Path) -> list[dict[str, Any]]:
    files = sorted((run_dir / "completions").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def text_of(row: dict[str, Any]) -> str:
    completion = row["completion"]
    return completion if isinstance(completion, str) else completion[-1]["content"]


def logs_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]


def known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


@pytest.mark.parametrize("candidates", [1, 2])
def test_values_stand_beside_their_completions(candidates, recipe_for, launched):
    with OpenAIServer(answer=verdict_by(by_characters)) as server:
        exit_code, run_dir = launched(recipe_for(server, {"candidates": candidates, "judgements": 2}))
    rows = completions_of(run_dir)
    assert exit_code == 0 and len(rows) == 16
    for row in rows:
        assert row["judge"] == pytest.approx(share_by_characters(text_of(row)))
    assert {len(shown_in(body["messages"]).answers) for body in server.requests} == {candidates}
    logs = [log for log in logs_of(run_dir) if "reward" in log]
    for step, log in enumerate(logs):
        shares = [row["judge"] for row in rows if row["step"] == step + 1]
        assert log["rewards/judge/mean"] == pytest.approx(statistics.fmean(shares))
        assert log["rewards/judge/failed_share"] == 0.0


def test_completion_without_a_verdict_is_left_out_of_its_group(recipe_for, launched):
    guards = {"max_judge_failed_share": None}
    with OpenAIServer(answer=nonsense_one_time_in_five) as server:
        exit_code, run_dir = launched(recipe_for(server, guards=guards))
    unreadable = {
        text for body in server.requests if is_nonsense(body) for text in shown_in(body["messages"]).answers.values()
    }
    rows = completions_of(run_dir)
    assert exit_code == 0
    values = [known(row["judge"]) for row in rows]
    assert values == [
        None if text_of(row) in unreadable else pytest.approx(share_by_characters(text_of(row))) for row in rows
    ]
    assert 0 < values.count(None) < len(values)
    for start in range(0, len(rows), 4):
        check_advantages(rows[start : start + 4], values[start : start + 4])


def check_advantages(group: list[dict[str, Any]], rewards: list[float | None]) -> None:
    """DeepSeekMath (arXiv 2402.03300), section 4.1.2: reward less the group's mean, over its standard deviation."""
    judged = [reward for reward in rewards if reward is not None]
    for row, reward in zip(group, rewards, strict=True):
        if reward is None or len(judged) < 2 or len(set(judged)) == 1:
            assert row["advantage"] == pytest.approx(0.0, abs=1e-6)
        else:
            expected = (reward - statistics.fmean(judged)) / (statistics.stdev(judged) + 1e-4)
            assert row["advantage"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_judge_that_breaks_stops_the_run(recipe_for, launched):
    with OpenAIServer(answer=lambda body: "Splendid!") as server:
        exit_code, run_dir = launched(recipe_for(server, trainer={"max_steps": 3}))
        error = read_record(run_dir)["error"]
        unreadable = {body["messages"][-1]["content"] for body in server.requests}
        server.requests.clear()
        server.answer = verdict_by(by_characters)
        assert launched(recipe_for(server, trainer={"max_steps": 3}))[0] == 0
    assert len(unreadable & {body["messages"][-1]["content"] for body in server.requests}) >= len(unreadable) / 3
    assert exit_code == EXIT_STOPPED
    assert re.match(r"stopped at step 3: rewards/judge/failed_share was 100%, 3 logs in a row over 10%: ", error)
    assert "guards.max_judge_failed_share: null" in error and error.count("\n") == 1


def test_judge_that_breaks_is_told_by_the_label_of_its_reward(recipe_for, launched):
    rewards = [{"name": "judge", "rubric": "rubric.yaml", "label": "manners"}]
    with OpenAIServer(answer=lambda body: "Splendid!") as server:
        exit_code, run_dir = launched(recipe_for(server, trainer={"max_steps": 9}, rewards=rewards))
    assert exit_code == EXIT_STOPPED
    assert read_record(run_dir)["error"].startswith("stopped at step 3: rewards/manners/failed_share was 100%")


def wordy(body: dict[str, Any]) -> str:
    """A verdict after 80 words, which are its tokens."""
    return f"<think>{'hm ' * 80}</think>{verdict_by(by_characters)(body)}"


def test_cap_that_is_reached_stops_the_run_and_a_higher_one_goes_on_with_what_was_paid_for(recipe_for, launched, capfd):
    with OpenAIServer(answer=wordy) as server:
        exit_code, run_dir = launched(recipe_for(server, {"max_tokens": 1}))
        told = re.search(
            r"judge.max_tokens: 0 tokens .* one more request may take ([\d,]+) tokens", capfd.readouterr().err
        )
        assert (exit_code, server.requests) == (EXIT_STOPPED, [])
        cap = int(told[1].replace(",", "")) + 400  # room for a few

        exit_code, run_dir = launched(recipe_for(server, {"max_tokens": cap}))
        error = read_record(run_dir)["error"]
        assert re.fullmatch(r".*: judge.max_tokens: .* tokens, .*: no verdict is paid for twice\n", error)
        assert (exit_code, error in capfd.readouterr().err) == (EXIT_STOPPED, True)
        num_paid = len(server.requests)
        assert 0 < num_paid < 16

        exit_code, run_dir = launched(recipe_for(server, {"max_tokens": 1_000_000}))
    asked = [body["messages"][-1]["content"] for body in server.requests]
    assert exit_code == 0 and len(set(asked)) == len(asked) > num_paid


def test_cap_of_a_greedy_server_is_one_line(recipe_for, launched):
    """It refuses to go on, as one whose money is gone: not the cap's line, but one as well."""
    with OpenAIServer(answer=verdict_by(by_characters), faults=[402]) as server:
        exit_code, run_dir = launched(recipe_for(server))
    error = read_record(run_dir)["error"]
    assert (exit_code, error.count("\n")) == (EXIT_STOPPED, 1)
    assert "judge.endpoint: " in error and "HTTP 402" in error


# --- open prompts beside those that rules judge

ACCURACY = {"name": "accuracy", "task": "math", "weight": 2.0}
LENGTH = {"name": "rewards_of_tests:number_of_characters", "label": "long", "task": "math", "weight": 0.1}
JUDGE = {"name": "judge", "rubric": "rubric.yaml", "task": "general", "weight": 0.5, "first_step": 2}
WEIGHTS = {"accuracy": 2.0, "long": 0.1, "judge": 0.5}
OPEN = [f"What is it that {what}?" for what in ("rains", "shines", "grows", "ends", "sings", "waits", "stays", "goes")]


def test_mixed_prompts_are_each_judged_by_what_applies_to_them(recipe_for, launched, tmp_path):
    (tmp_path / "open.jsonl").write_text("".join(json.dumps({"prompt": question}) + "\n" for question in OPEN))
    data = [{**sums(8), "task": "math"}, {"path": "open.jsonl", "task": "general"}]
    trainer = {"max_steps": 2, "per_device_train_batch_size": 32}
    with OpenAIServer(answer=verdict_by(by_characters)) as server:
        recipe = recipe_for(server, data=data, rewards=[ACCURACY, LENGTH, JUDGE], trainer=trainer)
        exit_code, run_dir = launched(recipe)
    rows = completions_of(run_dir)
    assert exit_code == 0 and len(rows) == 64
    asked = {question for body in server.requests for _, question in shown_in(body["messages"]).asked}
    assert asked == {question_of(row) for row in rows if row["step"] == 2 and question_of(row) in OPEN}
    kinds = set()
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        (question,) = {question_of(row) for row in group}
        is_open, counts = question in OPEN, group[0]["step"] == 2
        kinds.add((is_open, counts))
        rewards = []
        for row in group:
            applies = {"judge"} if is_open and counts else set() if is_open else {"accuracy", "long"}
            values = {name: known(row[name]) for name in WEIGHTS}
            assert {name for name, value in values.items() if value is not None} == applies
            if is_open and counts:
                assert values["judge"] == pytest.approx(share_by_characters(text_of(row)))
            elif not is_open:
                assert values["long"] == len(text_of(row)) and values["accuracy"] == 0.0
            weighted = [WEIGHTS[name] * value for name, value in values.items() if value is not None]
            rewards.append(sum(weighted) if weighted else None)
        check_advantages(group, rewards)
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}
    first, second = (log for log in logs_of(run_dir) if "reward" in log)
    assert known(first.get("rewards/judge/mean")) is None
    judged = [row["judge"] for row in rows if row["step"] == 2 and question_of(row) in OPEN]
    assert second["rewards/judge/mean"] == pytest.approx(statistics.fmean(judged))


def question_of(row: dict[str, Any]) -> str:
    return row["prompt"][-1]["content"]


# --- mistakes


@pytest.mark.parametrize(
    ("reward", "judge", "lines"),
    [
        ({}, False, ["judge: missing; a judge reward needs it, e.g. {endpoint: {base_url: …, model: …}}"]),
        (
            {"rubric": "none.yaml"},
            True,
            ["rewards.0: FOLDER/none.yaml: no such rubric; give a .yaml file beside the recipe"],
        ),
        ({"rubric": None}, True, ["rewards.0.rubric: missing; reward judge needs it"]),
        (
            {"rubrik": "rubric.yaml"},
            True,
            ["rewards.0.rubrik: unknown parameter of reward judge; did you mean rubric?"],
        ),
        ({"judge": "x"}, True, ["rewards.0.judge: unknown parameter of reward judge"]),
        ({}, True, []),
    ],
    ids=["no judge", "no such rubric", "no rubric", "misspelt", "not a recipe's to give", "right"],
)
def test_mistakes_are_lines(reward, judge, lines, recipe_for, tmp_path):
    reward = {"name": "judge", "rubric": "rubric.yaml", **reward}
    rewards = [{key: value for key, value in reward.items() if value is not None}]
    with OpenAIServer() as server:
        recipe = load_recipe(recipe_for(server if judge else None, rewards=rewards))
    told = [line.removeprefix(f"{recipe.source}: ") for line in problems_of(recipe)]
    assert told == [line.replace("FOLDER", str(tmp_path)) for line in lines]


@pytest.mark.parametrize(
    ("template", "candidates", "problem"),
    [
        ("{{ answers[0] }}", 1, None),
        ("{% for answer in answers %}{{ answer }}{% endfor %}", 2, None),
        ("{{ answers[0] }}", 2, "does not show answer B as it is; write {{ answers[0] }}, or a loop over answers if "),
        ("{{ answers[0] }}{{ answers[1] }}", 2, "fails (list object has no element 1)"),
        ("{{ answers[0] }}{{ scale + 1 }}", 1, 'fails (can only concatenate list (not "int") to list)'),
    ],
    ids=["right", "right of two", "one of two", "two of one", "no jinja error"],
)
@pytest.mark.parametrize("key", ["rewards.0", "preferences.rubric"])
def test_template_that_would_fail_in_the_run_is_told_before(key, template, candidates, problem, recipe_for, tmp_path):
    with OpenAIServer() as server:
        file = recipe_for(server, {"candidates": candidates, "judgements": 2})
    rubric_in(tmp_path, template="ask.jinja")
    (tmp_path / "ask.jinja").write_text(template)
    recipe = load_recipe(file)
    if key == "preferences.rubric":
        pairs = Preferences(rubric="rubric.yaml", max_completion_length=8)
        recipe = recipe.model_copy(update={"step": "preferences", "preferences": pairs, "rewards": [], "trainer": {}})
    lines = problems_of(recipe)
    if problem is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"{recipe.source}: {key}: {tmp_path / 'rubric.yaml'}: template: ask.jinja {problem}")


def problems_of(recipe: Recipe) -> list[str]:
    try:
        check_recipe(recipe)
    except RecipeError as mistake:
        return mistake.lines
    return []


@pytest.mark.parametrize("candidates", [1, 2])
def test_judge_that_compares_needs_whole_groups_in_each_process(candidates, recipe_for):
    trainer = {"per_device_train_batch_size": 2, "num_generations": 4}
    with OpenAIServer() as server:
        judge = {"candidates": candidates, "judgements": 2}
        file = recipe_for(server, judge, trainer=trainer, hardware={"processes_per_node": 2})
    assert problems_of(load_recipe(file)) == [
        f"{file}: rewards.0: judge compares the completions of one prompt, but 2 completions a process cut groups of 4 "
        f"in pieces; choose trainer.per_device_train_batch_size x steps_per_generation as a multiple of num_generations"
    ] * (candidates - 1)


def test_judge_that_nobody_asks_is_told(recipe_for):
    with OpenAIServer() as server:
        recipe = load_recipe(recipe_for(server, rewards=["format"]))
    with pytest.raises(RecipeError, match="judge: nothing asks it; add a judge reward, or remove it"):
        check_recipe(recipe)
