"""What the accuracy reward makes of a completion, and how a recipe's rewards are bound to their functions."""

import subprocess
import sys
import threading

import pytest
import torch

from open_r1.grpo_trainer import leave_out_unjudged
from open_r1.judging import JudgeCounts, Verdict
from open_r1.recipe import Reward, Thinking
from open_r1.rewards import (
    BoundReward,
    accuracy_reward,
    build_rewards,
    columns_of_reward,
    sandboxes_of,
    settable_parameters,
)


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def test_accuracy_reads_a_prefilled_thinking():
    completions = [f"7+5=12</think>{boxed('12')}", boxed("12")]
    assert accuracy_reward(completions, ["12", "12"], thinking=Thinking(prefilled=True)) == [1.0, 0.0]


def test_one_reward_for_each_completion_in_order():
    completions = [[{"role": "assistant", "content": boxed(str(number))}] for number in (1, 2, 3, 2)]
    assert accuracy_reward(completions, ["2"] * 4, prompts=[], trainer_state=None) == [0.0, 1.0, 0.0, 1.0]


MARKED = Thinking(open="[THINK]", close="[/THINK]")
WHERE = [  # completion, thinking, answer_in, verdict for the gold 5
    (f"<answer>5</answer> {boxed('6')}", Thinking(), "both", 0.0),
    (f"<answer>5</answer> {boxed('6')}", Thinking(), "answer", 1.0),
    (f"<answer>6</answer> {boxed('5')}", Thinking(), "boxed", 1.0),
    ("<answer>5</answer>", Thinking(), "boxed", 0.0),
    (boxed("5"), Thinking(), "answer", 0.0),
    (f"<answer>so {boxed('5')}</answer>", Thinking(), "answer", 1.0),
    (f"[THINK]{boxed('6')}[/THINK]{boxed('5')}", MARKED, "both", 1.0),
    (f"[THINK]{boxed('5')}", MARKED, "both", 0.0),
    (f"<think>{boxed('5')}", MARKED, "both", 1.0),  # no marker of this recipe's
    (boxed("5"), Thinking(prefilled=True), "both", 0.0),
]


@pytest.mark.parametrize(("completion", "thinking", "answer_in", "verdict"), WHERE)
def test_the_recipe_says_where_an_answer_stands(completion, thinking, answer_in, verdict):
    assert accuracy_reward([completion], ["5"], thinking=thinking, answer_in=answer_in) == [verdict]


def test_golds_of_another_type_than_text_are_golds_too():
    assert accuracy_reward([boxed("5"), boxed("0.5"), boxed("5")], [5, 0.5, None]) == [1.0, 1.0, None]


def test_accuracy_tells_trl_what_it_saw():
    columns, metrics = {}, {}
    completions = [boxed("5"), f"<think>{boxed('5')}", boxed("5"), f"{boxed('6')} or {boxed('7')}"]
    accuracy_reward(completions, ["5", "5", "$$", "5"], log_extra=columns.__setitem__, log_metric=metrics.__setitem__)
    assert columns["accuracy_answer"] == ["5", "", "5", "6 | 7"]
    assert columns["accuracy_reason"] == [
        r"\boxed{}: the same as written",
        "the thinking never ends",
        r"\boxed{}: the gold cannot be parsed: it says nothing",
        r"\boxed{}: 2 different answers, and not all of them right",
    ]
    assert metrics["accuracy/unparsed_gold_share"] == 0.25
    assert metrics["accuracy/no_answer_share"] == 0.25
    assert metrics["accuracy/judge_failed_share"] == 0.0


def test_a_judge_that_breaks_gives_no_verdict_and_is_counted(monkeypatch):
    class BrokenPool:
        def judge(self, pairs):
            return [Verdict(None, "judge was killed (SIGKILL)")] * len(pairs)

        def take_counts(self):
            return JudgeCounts()

    monkeypatch.setattr("open_r1.rewards.math.shared_pool", lambda cpu_seconds: BrokenPool())
    metrics = {}
    values = accuracy_reward([boxed("x"), boxed("5")], ["y", "5"], log_metric=metrics.__setitem__)
    assert values == [None, 1.0]
    assert metrics["accuracy/judge_failed_share"] == 0.5


def bound(*rewards, max_completion_tokens=64):
    return build_rewards([Reward(**reward) for reward in rewards], Thinking(), 0, max_completion_tokens)


def test_every_reward_logs_its_seconds_and_its_share_of_none():
    metrics = {}
    (reward,) = bound({"name": "accuracy"})
    reward([boxed("5"), boxed("5")], solution=["5", ""], log_metric=metrics.__setitem__, log_extra=lambda *_: None)
    assert metrics["rewards/accuracy/none_share"] == 0.5
    assert metrics["rewards/accuracy/seconds"] >= 0.0


def test_a_reward_that_is_judged_elsewhere_begins_when_it_is_told_to():
    begun, may_end = threading.Event(), threading.Event()
    calls = []

    def judged_elsewhere(completions, log_metric=None, log_extra=None, **columns):
        calls.append(list(completions))
        begun.set()
        assert may_end.wait(20)
        log_metric("metric", 2.0)
        log_extra("extra", ["x"])
        return [columns["solution"][0]]

    reward = BoundReward("name", judged_elsewhere, {}, starts_early=True)
    logged = {}
    reward.start(["one"], solution=[0.5])
    assert begun.wait(20)  # nobody has called it yet
    may_end.set()
    logs = {"log_metric": logged.__setitem__, "log_extra": logged.__setitem__}
    assert reward(["one"], solution=[0.5], more=["than was known at the start"], **logs) == [0.5]
    assert calls == [["one"]]
    assert logged["metric"] == 2.0
    assert logged["extra"] == ["x"]
    assert logged["rewards/name/seconds_waited"] <= logged["rewards/name/seconds"] + 1.0


def number_and_length(completions, solution, log_extra=None, log_metric=None, **columns):
    log_extra("seen", [f"{one}!" for one in completions])
    log_metric("answers/long_share", sum(len(one) > 1 for one in completions) / len(completions))
    log_metric("answers/pairs", len(completions))
    return [number + len(one) for one, number in zip(completions, solution, strict=True)]


@pytest.mark.parametrize(
    "starts",
    [[], [[0, 1, 2, 3]], [[3, 2, 1, 0]], [[2, 0]], [[1], [3], [0, 2]]],
    ids=lambda starts: f"started {starts}",
)
def test_rows_that_were_begun_apart_make_the_batch(starts):
    reward = BoundReward("name", number_and_length, {}, starts_early=True)
    completions, solution, logged = ["a", "bc", "d", "e"], [10, 20, 30, 40], {}
    for positions in starts:
        some = {"completions": [completions[p] for p in positions], "solution": [solution[p] for p in positions]}
        reward.start(**some, positions=positions)
    logs = {"log_metric": logged.__setitem__, "log_extra": logged.__setitem__}
    assert reward(completions, solution=solution, **logs) == [11, 22, 31, 41]
    assert logged["seen"] == ["a!", "bc!", "d!", "e!"]
    assert logged["answers/long_share"] == 0.25
    assert logged["answers/pairs"] == 4


@pytest.mark.parametrize(
    "begun",
    [
        {"completions": ["a", "b"], "solution": [1, 2]},
        {"completions": ["b"], "solution": [1]},
        {"completions": ["a"], "solution": [2]},
        {"completions": ["a"], "solution": [1], "positions": [1]},
    ],
    ids=["more of them", "another answer", "another row", "another place"],
)
def test_a_start_counts_for_its_own_rows_alone(begun):
    calls = []
    reward = BoundReward("name", lambda completions, **columns: calls.append(completions) or [0.5], {}, True)
    reward.start(**begun)
    assert reward(["a"], solution=[1]) == [0.5]
    assert calls[-1] == ["a"]
    assert len(calls) == 2


def test_an_exception_of_a_started_reward_comes_out_of_the_call():
    reward = BoundReward("name", lambda completions, **columns: 1 / 0, {}, starts_early=True)
    completions = ["a"]
    reward.start(completions)
    with pytest.raises(ZeroDivisionError):
        reward(completions)


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise RuntimeError"])
def test_a_process_does_not_wait_for_what_it_has_begun(end):
    """As of a server that does not answer."""
    begin = f"""
import sys, threading
from open_r1.rewards.bound import BoundReward
BoundReward("name", lambda completions, **columns: threading.Event().wait(), {{}}, starts_early=True).start(["a"])
{end}
"""
    ended = subprocess.run([sys.executable, "-c", begin], capture_output=True, timeout=60)
    assert ended.returncode == (3 if "3" in end else 1)


def test_a_reward_of_this_process_is_not_started():
    calls = []
    reward = BoundReward("name", lambda completions, **columns: calls.append(1) or [0.0], {})
    reward.start(["a"])
    assert calls == []


def test_a_column_with_the_name_of_a_recipes_parameter_is_not_taken_for_it():
    (reward,) = bound({"name": "code_format", "language": "python"})
    completion = "<think>hm</think><answer>```python\nprint(1)\n```</answer>"
    assert reward([completion], language=["cpp"]) == [1.0]


def test_the_sandboxes_of_a_recipe_are_told_once():
    rewards = [Reward(name="code"), Reward(name="accuracy"), Reward(name="binary_code", sandbox="local")]
    assert sandboxes_of(rewards) == ["local"]
    assert sandboxes_of([Reward(name="code", sandbox="e2b")]) == ["e2b"]


COLUMNS = [
    ("accuracy", ["solution"]),
    ("format", []),
    ("length", ["solution"]),
    ("soft_overlong_punishment", []),
    ("rewards_of_tests:number_of_characters", []),
    ("rewards_of_tests:share_of_expected", ["expected"]),
    ("trl.rewards:think_format_reward", []),
    ("trl.rewards:accuracy_reward", ["solution"]),
]


@pytest.mark.parametrize(("name", "columns"), COLUMNS)
def test_the_columns_that_a_reward_reads_are_those_of_its_function(name, columns):
    assert columns_of_reward(Reward(name=name)) == columns


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("format", []),
        ("accuracy", ["answer_in", "cpu_seconds"]),
        ("rewards_of_tests:share_of_expected", ["scale"]),
        ("trl.rewards:get_soft_overlong_punishment", ["max_completion_len", "soft_punish_cache"]),
    ],
)
def test_the_parameters_that_a_recipe_can_set(name, parameters):
    assert settable_parameters(name) == parameters


def test_a_factory_of_trls_makes_a_reward():
    (reward,) = bound(
        {"name": "trl.rewards:get_soft_overlong_punishment", "max_completion_len": 10, "soft_punish_cache": 4}
    )
    assert reward(["a"] * 3, completion_ids=[[0] * 6, [0] * 8, [0] * 11]) == [0, -0.5, -1]


def test_the_longest_completion_is_the_recipes():
    (reward,) = bound({"name": "soft_overlong_punishment", "cache_tokens": 4}, max_completion_tokens=10)
    assert reward(["a"] * 3, completion_ids=[[0] * 6, [0] * 8, [0] * 11]) == [0.0, -0.5, -1.0]


def test_a_reward_of_ones_own_may_be_async():
    (reward,) = bound({"name": "rewards_of_tests:ones_later"})
    assert reward(["a", "b"]) == [1.0, 1.0]


NAN = float("nan")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([[1, 0.5], [0, 0.5]], [[1, 0.5], [0, 0.5]]),
        ([[NAN, 0.5], [0, 0.5]], [[NAN, NAN], [0, 0.5]]),  # one that could not be judged is not a wrong one
        ([[NAN, 0.5], [NAN, 0.1]], [[NAN, 0.5], [NAN, 0.1]]),  # a gold that nobody can read leaves the format
        ([[1, NAN], [0, 0.5], [NAN, 1], [NAN, 1]], [[NAN, NAN], [0, 0.5], [NAN, 1], [NAN, 1]]),
    ],
)
def test_no_verdict_is_no_reward_of_zero(before, after):
    left = leave_out_unjudged(torch.tensor(before), torch.ones(2), num_generations=2)
    assert torch.equal(left.nan_to_num(-9), torch.tensor(after).nan_to_num(-9))


class State:
    global_step = 3


def test_shuffled_rewards_are_the_same_rewards_in_another_order_for_each_step():
    completions, golds = [boxed(str(n % 2)) for n in range(64)], ["1"] * 64
    plain, control = build_rewards([Reward(name="accuracy"), Reward(name="accuracy", shuffled=True)], Thinking(), 0, 64)
    in_order = plain(completions, solution=golds, trainer_state=State)
    first = control(completions, solution=golds, trainer_state=State)
    assert sorted(first) == sorted(in_order)
    assert first != in_order
    assert control(completions, solution=golds, trainer_state=State) == first
    State.global_step += 1
    assert control(completions, solution=golds, trainer_state=State) != first


def test_reward_functions_are_named_as_in_the_recipe():
    rewards = build_rewards(
        [Reward(name="accuracy"), Reward(name="open_r1.rewards.format:format_reward")], Thinking(), 0, 64
    )
    assert [reward.__name__ for reward in rewards] == ["accuracy", "format_reward"]
