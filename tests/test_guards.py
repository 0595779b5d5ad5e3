"""What stops a run or warns of it, from the logs that it made; and the watch over what does not answer."""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CPU_TRAINER, sums
from transformers import TrainerState
from transformers.trainer_callback import TrainerControl

from open_r1 import launch, running, step_process
from open_r1.check import check_recipe
from open_r1.grpo import grpo
from open_r1.recipe import Guards, RecipeError, Reward, load_recipe
from open_r1.resuming import last_checkpoint
from open_r1.run_record import METRICS_FILE, read_record, update_record, weights_sha256
from open_r1.step_process import ERROR_FILE, EXIT_STOPPED, RunStopped
from open_r1.training import watchdog
from open_r1.training.guards import WARNINGS_FILE, GuardCallback

# A good run of the tiny recipe, 100 steps: entropy in nats / 1000, reward in hundredths.
ENTROPIES = """
158 174 153 127 144 125 124 76 80 78 71 56 57 50 53 49 63 54 48 63 50 51 51 42 46 54 42 47 36 42 43 35 36 38 40 33 34
38 32 36 35 34 31 32 35 33 35 29 30 30 29 25 36 26 33 27 35 27 37 26 26 26 26 27 23 24 31 24 26 27 22 23 27 24 24 26
31 19 24 23 23 23 22 20 21 22 19 20 19 21 23 20 16 16 18 20 14 23 22 25
"""
REWARDS = """
39 38 38 51 42 49 48 61 62 66 63 75 69 67 79 79 63 74 78 72 78 75 73 85 78 69 83 73 86 83 81 89 88 88 80 97 89 94 91 93
87 93 92 94 90 93 83 97 95 98 91 100 89 102 86 94 84 94 84 99 97 99 96 105 102 99 84 100 102 99 99 100 95 102 98 98 82
103 102 99 99 100 95 104 104 99 107 103 105 96 106 107 107 109 106 97 111 90 100 93
"""
GOOD_ENTROPIES = [int(value) / 1000 for value in ENTROPIES.split()]
GOOD_REWARDS = [int(value) / 100 for value in REWARDS.split()]
FLAT_REWARDS = [reward + step / 20_000 for step, reward in enumerate([0.4, 0.41, 0.42, 0.4, 0.38] * 20)]
FALLING_REWARDS = GOOD_REWARDS[:50] + [0.65, 0.6, 0.7, 0.62, 0.68] * 10  # of what was gained less than half is left
EVAL_TASKS = [None] * 200
REWARDS_OF_TESTS = [Reward(name=name) for name in ("accuracy", "code", "instructions", "format", "wanted", "unwanted")]
ACCURACY = "eval_rewards/accuracy/mean"
WANTED = "eval_rewards/wanted/mean"
LENGTH = "completions/mean_length"


def trained(rewards: Sequence[float], entropies: Sequence[float] = GOOD_ENTROPIES) -> list[dict]:
    return [{"reward": reward, "entropy": entropy} for reward, entropy in zip(rewards, entropies, strict=False)]


def evaluated(*rounds: tuple[float | None, float | None], key: str = ACCURACY) -> list[dict]:
    """Logs of so many rounds of training, each (reward in training, accuracy on eval_data at its end)."""
    logs = [[{"reward": reward}] * 2 * (reward is not None) + [{key: accuracy}] for reward, accuracy in rounds]
    return [log for group in logs for log in group]


def lengths(*tokens: float, key: str = LENGTH) -> list[dict]:
    """Logs in which completions have so many tokens."""
    return [{key: each} for each in tokens]


def guard_of(run_dir: Path, rewards=REWARDS_OF_TESTS, eval_tasks=EVAL_TASKS, **guards) -> GuardCallback:
    return GuardCallback(Guards(**guards), run_dir, rewards, eval_tasks)


def replay(
    guard: GuardCallback,
    logs: Sequence[dict],
    state: TrainerState | None = None,
    control: TrainerControl | None = None,
    keeps_best: bool = False,
) -> TrainerState:
    """Lets the guard see each log as the trainer shows it: after all logs so far, and until it ends the training."""
    state = state or TrainerState(is_world_process_zero=True)
    control = control or TrainerControl()
    args = SimpleNamespace(max_completion_length=80, load_best_model_at_end=keeps_best)
    for log in logs:
        state.global_step += 1
        state.log_history.append({"step": state.global_step, **log})
        guard.on_log(args, state, control, logs=log)
        if control.should_training_stop:
            break
    return state


def warnings_of(run_dir: Path) -> list[dict]:
    file = run_dir / WARNINGS_FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


RATIO, ENGINE_RATIO = "ratio/mean", "sampling/importance_sampling_ratio/mean"


@pytest.mark.parametrize(
    ("guards", "logs", "stops"),
    [
        ({}, [{"loss": 1.0, "grad_norm": 2.0}], False),
        ({}, [{"grad_norm": float("inf")}], True),
        ({}, [{"grad_norm": float("nan")}], True),
        ({"stop_on_non_finite": False}, [{"loss": float("nan")}], False),
        ({"truncated_steps": 2}, [{"completions/clipped_ratio": 0.96}] * 2, True),
        ({"truncated_steps": 2}, [{"completions/clipped_ratio": r} for r in (0.96, 0.5, 0.96)], False),
        ({"truncated_steps": 2}, [{"completions/clipped_ratio": 0.96}, {"eval_runtime": 1.0}] * 2, True),
        ({"truncated_steps": 2, "max_truncated_share": None}, [{"completions/clipped_ratio": 1.0}] * 9, False),
        ({"max_dead_steps": 3}, [{"dead_group_share": 1.0}] * 3, True),
        ({"max_dead_steps": 3}, [{"dead_group_share": r} for r in (1.0, 1.0, 0.9, 1.0, 1.0)], False),
        ({"max_dead_steps": None}, [{"dead_group_share": 1.0}] * 99, False),
        ({}, [{"accuracy/judge_failed_share": 0.2}] * 3, True),
        ({}, [{"accuracy/judge_failed_share": share} for share in (0.2, 0.2, 0.0, 0.2)], False),
        ({}, [{"eval_accuracy/judge_failed_share": 0.2}] * 3, False),
        ({}, [{"accuracy/unparsed_gold_share": 1.0}] * 9, False),
        ({"max_judge_failed_share": None}, [{"accuracy/judge_failed_share": 1.0}] * 9, False),
        ({}, [{RATIO: 1.6}] * 5, True),
        ({}, [{RATIO: 0.4}] * 5, True),
        ({}, [{RATIO: 1.4}] * 9, False),
        ({}, [{RATIO: ratio} for ratio in (1.6, 1.6, 1.6, 1.6, 1.0, 1.6)], False),
        ({}, [{RATIO: 1.0, ENGINE_RATIO: 0.2}] * 5, True),
        ({"ratio_steps": 2}, [{RATIO: 1.6}] * 2, True),
        ({"max_ratio_drift": 0.1}, [{RATIO: 1.2}] * 5, True),
        ({"max_ratio_drift": None}, [{RATIO: 9.0}] * 9, False),
        ({}, [{RATIO: None}, {RATIO: float("nan")}] * 9, False),
    ],
)
def test_what_stops_a_run(guards, logs, stops, tmp_path):
    guard = guard_of(tmp_path, **guards)
    if stops:
        with pytest.raises(RunStopped, match=f"^stopped at step {len(logs) - ('eval_runtime' in logs[-1])}: .*same"):
            replay(guard, logs)
    else:
        replay(guard, logs)


@pytest.mark.parametrize(
    ("guards", "logs", "key"),
    [
        ({}, trained(GOOD_REWARDS), None),
        ({"min_entropy_share": 0.5}, trained(GOOD_REWARDS), None),
        ({}, trained(FLAT_REWARDS), "guards.min_entropy_share"),
        ({}, trained(FLAT_REWARDS, [0.15] * 100), None),
        ({}, trained([1.0] * 20, [0.1] * 10 + [0.001] * 10), "guards.min_entropy_share"),
        ({}, trained([1.0] * 20, [0.1] * 10 + [0.001] * 5 + [0.1] + [0.001] * 4), None),
        ({}, trained([1.0] * 19, [0.1] * 10 + [0.001] * 9), None),
        ({"entropy_steps": 4}, trained([1.0] * 8, [0.1] * 4 + [0.001] * 4), "guards.min_entropy_share"),
        ({"min_entropy_share": 0.5}, trained(FALLING_REWARDS), "guards.min_entropy_share"),
        ({"min_entropy_share": None}, trained(FLAT_REWARDS), None),
        ({}, evaluated((0.4, 0.5), (0.5, 0.6), (0.6, 0.4)), "guards.max_eval_drop"),
        ({}, evaluated((0.4, 0.5), (0.5, 0.6), (0.6, 0.55)), None),  # one standard error
        ({}, evaluated((0.4, 0.5), (0.5, 0.6), (0.45, 0.4)), None),  # both fall: no hacking
        ({}, evaluated((0.4, 0.5), (0.5, 0.6), (0.6, 0.55), (0.7, 0.5), (0.8, 0.45)), "guards.max_eval_drop"),
        ({}, evaluated((None, 0.6), (0.4, 0.5), (0.6, 0.4)), "guards.max_eval_drop"),
        ({}, evaluated((None, 0.6), (None, 0.4)), None),
        ({}, evaluated((0.4, 1.0), (0.6, 1.0)), None),
        ({}, evaluated((0.4, 0.6), (0.6, None)), None),
        ({}, evaluated((0.4, 0.6), (0.6, 0.4), key="eval_rewards/code/mean"), "guards.max_eval_drop"),
        ({}, evaluated((0.4, 0.6), (0.6, 0.4), key="eval_rewards/instructions/mean"), "guards.max_eval_drop"),
        ({}, evaluated((0.4, 0.6), (0.6, 0.4), key="eval_rewards/format/mean"), None),
        ({"max_eval_drop": 9.0}, evaluated((0.4, 0.6), (0.6, 0.4)), None),
        ({"max_eval_drop": None}, evaluated((0.4, 0.6), (0.6, 0.0)), None),
        ({"truth": "wanted"}, evaluated((0.4, 0.6), (0.6, 0.4), key=WANTED), "guards.max_eval_drop"),
        ({"truth": "wanted"}, evaluated((0.4, 0.6), (0.4, 0.4), key=WANTED), None),  # the reward does not rise
        ({"truth": "wanted"}, evaluated((0.6, 0.6), (0.4, 0.4), key=WANTED), None),
        ({"truth": "wanted"}, evaluated((0.4, 0.6), (0.6, 0.55), key=WANTED), None),
        ({"truth": "wanted"}, evaluated((0.4, 0.6), (0.6, 0.4)), None),  # accuracy is not what is wanted
        ({"truth": "wanted"}, evaluated((0.4, 0.6), (0.6, 0.4), key="eval_rewards/unwanted/mean"), None),
        ({"truth": "wanted", "max_eval_drop": None}, evaluated((0.4, 0.6), (0.6, 0.4), key=WANTED), None),
        ({}, evaluated((0.4, 0.6), (0.6, 0.4), key=WANTED), None),  # nobody said that it is
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 10, 28, 11, 29), None),
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 10, 28, 11, 30), "guards.max_length_drift"),
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 10, 5, 5), None),
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 10, 5, 4), "guards.max_length_drift"),
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 10, 99), None),  # too few to compare
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 99, 99, 99), None),  # the first two are the measure
        ({"max_length_drift": 2.0, "entropy_steps": 2}, lengths(10, 10, 99, 99, key="eval_" + LENGTH), None),
        ({"entropy_steps": 2}, lengths(10, 10, 99, 99), None),
        ({"max_kl": 0.5, "entropy_steps": 2}, [{"kl": kl} for kl in (0.6, 0.5, 0.6)], None),
        ({"max_kl": 0.5, "entropy_steps": 2}, [{"kl": kl} for kl in (0.1, 0.6, 0.6)], "guards.max_kl"),
        ({"max_kl": 0.5, "entropy_steps": 2}, [{"kl": 0.6}, {"eval_runtime": 1.0}, {"kl": 0.6}], "guards.max_kl"),
        ({"max_kl": 0.5, "entropy_steps": 2}, [{"kl": float("nan")}, {"eval_kl": 9.0}] * 4, None),
        ({"entropy_steps": 2}, [{"kl": 9.0}] * 4, None),
    ],
)
def test_what_warns_of_a_run(guards, logs, key, tmp_path, capsys):
    replay(guard_of(tmp_path, **guards), logs)
    warnings = warnings_of(tmp_path)
    assert [warning["key"] for warning in warnings] == ([key] if key else [])
    assert capsys.readouterr().err.count("warning at step") == len(warnings)
    if key:
        with pytest.raises(RunStopped, match=f"^stopped at step {warnings[0]['step']}: .*{key}: null goes on"):
            replay(guard_of(tmp_path, **guards, stop_on_signs=True), logs)


def test_few_problems_make_no_sign(tmp_path):
    replay(guard_of(tmp_path, eval_tasks=[None] * 10), evaluated((0.4, 0.6), (0.6, 0.4)))
    replay(guard_of(tmp_path, eval_tasks=[]), evaluated((0.4, 0.6), (0.6, 0.4)))
    assert warnings_of(tmp_path) == []


@pytest.mark.parametrize(
    ("num_math", "key"), [(0, None), (10, None), (200, "guards.max_eval_drop")], ids=["none", "few", "enough"]
)
def test_problems_of_other_tasks_say_nothing_of_a_truth(num_math, key, tmp_path):
    guard = guard_of(
        tmp_path, [Reward(name="accuracy", task="math")], ["math"] * num_math + ["chat"] * 200 + [None] * 200
    )
    replay(guard, evaluated((0.4, 0.6), (0.6, 0.4)))
    assert [warning["key"] for warning in warnings_of(tmp_path)] == ([key] if key else [])


@pytest.mark.parametrize(
    ("value", "guards", "stops"),
    [
        (0.0, {}, False),
        (1.0, {}, False),
        (-0.1, {}, True),
        (1.5, {}, True),
        (1.5, {"max_eval_drop": None}, False),
    ],
)
def test_truth_that_is_no_share_stops_the_run(value, guards, stops, tmp_path):
    guard = guard_of(tmp_path, truth="wanted", **guards)
    if stops:
        with pytest.raises(RunStopped, match=rf"^stopped at step 3: guards.truth: the mean of wanted .* is {value:g}"):
            replay(guard, evaluated((0.4, value), key=WANTED))
    else:
        replay(guard, evaluated((0.4, value), key=WANTED))


@pytest.mark.parametrize(
    ("num_before", "key"), [(0, "guards.max_eval_drop"), (40, None)], ids=["two evaluations", "the best of many"]
)
def test_the_best_of_many_evaluations_is_partly_luck(num_before, key, tmp_path):
    before = [(0.1, 0.5)] * num_before
    replay(guard_of(tmp_path), evaluated(*before, (0.4, 0.56), (0.6, 0.45)))  # 2.2 standard errors
    assert [warning["key"] for warning in warnings_of(tmp_path)] == ([key] if key else [])


@pytest.mark.parametrize(
    ("by_model", "is_sign"),
    [((0.1, 0.2, 0.8, 0.9), True), ((0.1, 0.2, 0.1, 0.2), False), ((0.1, 0.9, 0.2, 0.9), False)],
    ids=["risen", "as before", "within its scatter"],
)
def test_reward_that_rises_while_truth_and_sum_fall(by_model, is_sign, tmp_path):
    rewards = [Reward(name="accuracy", task="math"), Reward(name="reward_model", task="chat")]
    logs = [{"reward": 0.9 - 0.1 * step, "rewards/reward_model/mean": each} for step, each in enumerate(by_model)]
    logs = [*logs[:2], {ACCURACY: 0.7}, *logs[2:], {ACCURACY: 0.4}]
    replay(guard_of(tmp_path, rewards, ["math"] * 200), logs)
    reasons = [warning["reason"] for warning in warnings_of(tmp_path)]
    assert ["while rewards/reward_model/mean in training rose from 0.15 to 0.85" in each for each in reasons] == (
        [True] * is_sign
    )


# --- Rewards that begin or end in between


def in_steps(*rounds: tuple[float, float], steps_per_log: int = 1) -> list[dict]:
    """Logs of rounds of two steps each, of (reward in training, accuracy after them)."""
    logs = []
    for number, (reward, accuracy) in enumerate(rounds):
        trained = [{"step": 2 * number + step, "reward": reward} for step in range(steps_per_log, 3, steps_per_log)]
        logs += [*trained, {"step": 2 * number + 2, ACCURACY: accuracy}]
    return logs


JUMPS = [(0.4, 0.6), (0.4, 0.6), (0.9, 0.4)]
DROPS = [(0.9, 0.6), (0.9, 0.6), (0.4, 0.6), (0.5, 0.4)]


@pytest.mark.parametrize(
    ("steps", "logs", "is_sign"),
    [
        ({}, in_steps(*JUMPS), True),
        ({"first_step": 5}, in_steps(*JUMPS), False),  # it is another sum that is higher
        ({"first_step": 5}, in_steps(*JUMPS, (0.9, 0.4)), False),
        ({"first_step": 5}, in_steps(*JUMPS, (0.95, 0.4)), True),  # the policy that it began with was the best
        ({"first_step": 5, "weight": 0.0}, in_steps(*JUMPS), True),  # not in the sum
        ({"first_step": 7}, in_steps(*JUMPS), True),  # not yet
        ({"first_step": 3}, in_steps(*JUMPS), True),
        ({}, in_steps(*DROPS), False),
        ({"last_step": 4}, in_steps(*DROPS), True),
        ({"last_step": 8}, in_steps(*DROPS), False),
        ({}, in_steps((0.4, 0.6), (0.45, 0.6), (0.5, 0.4), steps_per_log=2), True),
        ({"first_step": 4}, in_steps((0.4, 0.6), (0.45, 0.6), (0.5, 0.4), steps_per_log=2), False),  # 0.45 is of both
    ],
)
def test_sums_of_other_rewards_are_not_compared(steps, logs, is_sign, tmp_path):
    rewards = [Reward(name="accuracy"), Reward(name="reward_model", **steps)]
    replay(guard_of(tmp_path, rewards), logs)
    assert [warning["key"] for warning in warnings_of(tmp_path)] == ["guards.max_eval_drop"] * is_sign


@pytest.mark.parametrize(
    ("steps", "rewards", "is_sign"),
    [
        ({}, [0.4] * 10 + [0.9] * 20, False),
        ({"first_step": 11}, [0.4] * 10 + [0.9] * 20, True),  # nothing has risen since
        ({}, [0.8] * 10 + [0.3] * 10 + [0.4] * 10, True),
        ({"last_step": 10}, [0.8] * 10 + [0.3] * 10 + [0.4] * 10, False),
    ],
)
def test_entropy_is_seen_beside_sums_of_the_same_rewards(steps, rewards, is_sign, tmp_path):
    guard = guard_of(tmp_path, [Reward(name="accuracy", **steps)])
    replay(guard, trained(rewards, [0.1] * 10 + [0.001] * 20))
    assert [warning["key"] for warning in warnings_of(tmp_path)] == ["guards.min_entropy_share"] * is_sign


# --- A stop that keeps the best checkpoint

HACKED = evaluated((0.4, 0.5), (0.5, 0.6), (0.6, 0.4), (0.7, 0.3))
BEST = "checkpoints/checkpoint-6"


@pytest.mark.parametrize(
    ("keeps_best", "ending"),
    [(True, "done"), (False, "stopped")],
    ids=["best", "not loaded"],
)
def test_a_sign_ends_the_training_and_fails_a_run_that_keeps_no_best(keeps_best, ending, tmp_path, capsys):
    guard = guard_of(tmp_path, stop_on_signs=True)
    state, control = TrainerState(is_world_process_zero=True, best_model_checkpoint=BEST), TrainerControl()
    if ending == "stopped":
        with pytest.raises(
            RunStopped, match="^stopped at step 9: accuracy on eval_data fell .*max_eval_drop: null goes"
        ):
            replay(guard, HACKED, state, control, keeps_best)
        assert warnings_of(tmp_path) == []
    else:
        replay(guard, HACKED, state, control, keeps_best)
        assert control.should_training_stop and state.global_step == 9
        (warning,) = warnings_of(tmp_path)
        assert (warning["step"], warning["key"], warning["stopped"]) == (9, "guards.max_eval_drop", True)
        assert capsys.readouterr().err.startswith("stopped at step 9: accuracy on eval_data fell from 0.6 to 0.4, ")


@pytest.mark.parametrize(("taken_up", "stops"), [(False, True), (True, True), (False, False)])
def test_a_sign_stops_nothing_before_there_is_a_checkpoint(taken_up, stops, tmp_path, capsys):
    guard = guard_of(tmp_path, stop_on_signs=stops)
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    replay(guard, HACKED[:9], state, control, keeps_best=True)
    assert not control.should_training_stop
    mend = "it stops the run as soon as there is a best checkpoint" if stops else "guards.stop_on_signs: true stops"
    told = capsys.readouterr().err
    assert told.startswith("warning at step 9: accuracy on eval_data fell ")
    assert told.endswith(f" (guards.max_eval_drop: null does not look; {mend})\n")
    if taken_up:
        guard = guard_of(tmp_path, stop_on_signs=True)
        guard.on_train_begin(None, state, control)
    state.best_model_checkpoint = BEST
    replay(guard, HACKED[9:], state, control, keeps_best=True)
    assert control.should_training_stop == stops
    told = [(warning["step"], warning.get("stopped", False)) for warning in warnings_of(tmp_path)]
    assert told == ([(9, False), (12, True)] if stops else [(9, False)])


@pytest.mark.parametrize(("step", "told"), [(0, True), (1, False)])
def test_what_was_best_before_the_first_step_is_in_no_checkpoint(step, told, tmp_path):
    replay(guard_of(tmp_path), [{"step": step, ACCURACY: 0.6}, *evaluated((0.4, 0.5), (0.6, 0.4))])
    (warning,) = warnings_of(tmp_path)
    assert ("from 0.6 (before the first step, of which there is no checkpoint) to 0.4" in warning["reason"]) == told


@pytest.mark.parametrize("stops", [False, True])
def test_a_sign_in_the_last_step_is_told(stops, tmp_path):
    """When transformers has ended the training already."""
    guard = guard_of(tmp_path, stop_on_signs=stops)
    state = replay(guard, HACKED[:8], TrainerState(is_world_process_zero=True, best_model_checkpoint=BEST))
    replay(guard, HACKED[8:9], state, TrainerControl(should_training_stop=True), keeps_best=True)
    assert [(warning["step"], warning.get("stopped", False)) for warning in warnings_of(tmp_path)] == [(9, stops)]


def test_a_warning_stops_nothing(tmp_path):
    guard, control = guard_of(tmp_path), TrainerControl()
    state = TrainerState(is_world_process_zero=True, best_model_checkpoint=BEST)
    assert replay(guard, HACKED, state, control, keeps_best=True).global_step == len(HACKED)
    assert [warning.get("stopped") for warning in warnings_of(tmp_path)] == [None]


@pytest.mark.parametrize(("taken_up_at", "goes_on"), [(9, False), (6, True)])
def test_a_run_that_was_stopped_here_is_stopped_again(taken_up_at, goes_on, tmp_path):
    """It was killed before its best checkpoint became its model, and trains from its last one."""
    state = TrainerState(is_world_process_zero=True, best_model_checkpoint=BEST)
    replay(guard_of(tmp_path, stop_on_signs=True), HACKED, state, keeps_best=True)
    guard, control = guard_of(tmp_path, stop_on_signs=True), TrainerControl()
    guard.on_train_begin(None, TrainerState(is_world_process_zero=True, global_step=taken_up_at), control)
    assert (control.should_training_stop, len(warnings_of(tmp_path))) == (not goes_on, int(not goes_on))


MAX_STEPS = 6
BEST_STEP = 2
TRUTH = {0: 0.5, 1: 0.75, BEST_STEP: 1.0}  # step -> mean on eval_data; of all later ones none


def rises(completions, trainer_state, **columns):
    """A training reward that rises with the steps, whatever is answered; of different answers the longer is better."""
    return [trainer_state.global_step + len(completion[-1]["content"]) / 100 for completion in completions]


def falls(completions, trainer_state, **columns):
    """What is really wanted: TRUTH."""
    num_true = round(TRUTH.get(trainer_state.global_step, 0.0) * len(completions))
    return [float(index < num_true) for index in range(len(completions))]


@pytest.fixture
def hacked_recipe(write_recipe, smallest_model):
    """Writes a short recipe of GRPO in which the reward rises while the truth falls, with other trainer keys."""

    def write(guards: dict | None = None, **trainer):
        keys = {
            **CPU_TRAINER,
            "max_steps": MAX_STEPS,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "max_completion_length": 6,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "per_device_eval_batch_size": 32,
            "num_generations_eval": 2,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
        }
        return write_recipe(
            step="grpo",
            model={"name": str(smallest_model)},
            data=[sums(32)],
            eval_data=[sums(16, split="validation")],
            rewards=["test_guards:rises", {"name": "test_guards:falls", "label": "falls", "weight": 0.0}],
            guards={"truth": "falls", "stop_on_signs": True, "max_truncated_share": None, **(guards or {})},
            trainer=keys | trainer,
        )

    return write


@pytest.fixture
def _one_thread():
    """Threads that wait for each other take ten times as long where the cores are shared, and so small is the model."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def launched(tmp_path, monkeypatch, _one_thread):
    """Launches a recipe, its step in this process, and gives the exit code and the run directory."""

    def run_here(argv: list[str], environment: dict[str, str]) -> int:
        return step_process._exit_code_of(grpo, Path(argv[-1]))

    monkeypatch.setattr(running, "_run", run_here)

    def launch_it(recipe: Path) -> tuple[int, Path]:
        exit_code = launch.main(["grpo", str(recipe), "--runs", str(tmp_path / "runs")])
        return exit_code, running.run_directory(load_recipe(recipe), tmp_path / "runs")

    return launch_it


def test_run_that_is_hacked_is_done_with_its_best_checkpoint(hacked_recipe, launched, capfd):
    recipe = hacked_recipe()
    exit_code, run_dir = launched(recipe)
    record = read_record(run_dir)
    assert (exit_code, record["status"]) == (0, "done")
    (warning,) = record["warnings"]
    assert (warning["step"], warning["key"], warning["stopped"]) == (BEST_STEP + 1, "guards.max_eval_drop", True)
    assert "falls on eval_data fell from 1 to 0, " in warning["reason"]
    checkpoints = run_dir / "checkpoints"
    assert sorted(file.name for file in checkpoints.glob("checkpoint-*")) == [
        f"checkpoint-{BEST_STEP}",
        f"checkpoint-{BEST_STEP + 1}",
    ]
    best, last = (weights_sha256(checkpoints / f"checkpoint-{step}") for step in (BEST_STEP, BEST_STEP + 1))
    assert weights_sha256(run_dir / "model") == best != last
    assert record["weights_sha256"] == best

    capfd.readouterr()
    assert launched(recipe) == (0, run_dir)
    assert "is done already" in capfd.readouterr().out

    (run_dir / "model" / "model.safetensors").unlink()  # killed before its model was saved
    update_record(run_dir, status="running")
    assert launched(recipe) == (0, run_dir)
    assert weights_sha256(run_dir / "model") == best
    assert read_record(run_dir)["warnings"] == [warning]


def test_run_that_is_hacked_and_keeps_no_best_fails(hacked_recipe, launched):
    exit_code, run_dir = launched(hacked_recipe(load_best_model_at_end=False))
    record = read_record(run_dir)
    assert (exit_code, record["status"]) == (EXIT_STOPPED, "failed")
    assert record["error"].startswith(f"stopped at step {BEST_STEP + 1}: falls on eval_data fell from 1 to 0, ")
    assert record["error"].endswith("(guards.max_eval_drop: null goes on all the same)\n")
    assert "warnings" not in record and not (run_dir / "model").exists()


def test_run_that_nobody_looks_at_goes_on(hacked_recipe, launched):
    exit_code, run_dir = launched(hacked_recipe(guards={"max_eval_drop": None}))
    lines = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
    assert exit_code == 0 and "warnings" not in read_record(run_dir)
    assert [line["eval_rewards/falls/mean"] for line in lines if "eval_rewards/falls/mean" in line] == [
        TRUTH.get(step, 0.0) for step in range(1, MAX_STEPS + 1)
    ]
    assert last_checkpoint(run_dir / "checkpoints").name == f"checkpoint-{MAX_STEPS}"


@pytest.mark.parametrize(
    ("truth", "eval_data", "lines"),
    [
        ("fals", True, ["guards.truth: no reward is called 'fals' (known: rises, falls); did you mean falls?"]),
        (
            "falls",
            False,
            ["guards.truth: it is looked at on eval_data, which is missing; add it, and trainer.eval_strategy"],
        ),
        ("falls", True, []),
    ],
    ids=["unknown", "nothing to look at", "right"],
)
def test_truth_is_a_reward_that_is_looked_at(truth, eval_data, lines, hacked_recipe):
    recipe = load_recipe(hacked_recipe(guards={"truth": truth}))
    rewards = [recipe.rewards[0].model_copy(update={"label": "rises"}), recipe.rewards[1]]
    recipe = recipe.model_copy(update={"rewards": rewards, **({} if eval_data else {"eval_data": []})})
    try:
        check_recipe(recipe)
        told = []
    except RecipeError as mistake:
        told = [line.removeprefix(f"{recipe.source}: ") for line in mistake.lines]
    assert told == lines


# --- Taken up again


@pytest.mark.parametrize("taken_up_at", [1, 4])
def test_a_run_that_is_taken_up_again_goes_on_counting(taken_up_at, tmp_path):
    logs = [{RATIO: 1.6}] * 5
    state = replay(guard_of(tmp_path), logs[:taken_up_at])
    state.save_to_json(str(tmp_path / "state.json"))
    restored = TrainerState.load_from_json(str(tmp_path / "state.json"))
    guard = guard_of(tmp_path)
    guard.on_train_begin(None, restored, TrainerControl())
    with pytest.raises(RunStopped, match="^stopped at step 5: "):
        replay(guard, logs[taken_up_at:], restored)


@pytest.mark.parametrize(("taken_up_at", "kept"), [(2, 0), (20, 1)])
def test_warnings_of_a_run_that_is_taken_up_again_are_there_once(taken_up_at, kept, tmp_path):
    logs = trained([1.0] * 25, [0.1] * 10 + [0.001] * 15)
    logs = [{"step": step, **log} for step, log in enumerate(logs, start=1)]
    replay(guard_of(tmp_path), logs)
    with (tmp_path / WARNINGS_FILE).open("a") as lines:
        lines.write('{"step": 2')  # killed while writing
    state = TrainerState(is_world_process_zero=True, global_step=taken_up_at, log_history=logs[:taken_up_at])
    guard = guard_of(tmp_path)
    guard.on_train_begin(None, state, TrainerControl())
    assert len(warnings_of(tmp_path)) == kept
    replay(guard, logs[taken_up_at:], state)
    assert [warning["step"] for warning in warnings_of(tmp_path)] == [20]


def test_other_processes_write_no_warnings(tmp_path, capsys):
    state = TrainerState(is_world_process_zero=False)
    replay(guard_of(tmp_path), trained(FLAT_REWARDS), state)
    assert warnings_of(tmp_path) == []
    assert capsys.readouterr().err == ""


WAITING = """
import importlib.util, sys, threading
from pathlib import Path
spec = importlib.util.spec_from_file_location("watchdog", sys.argv[1])  # without the package, which imports torch
watchdog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(watchdog)
never = threading.Event()
with watchdog.answers_within("the engine", 0.2, rank=3, run_dir=Path(sys.argv[2]), key="guards.some_seconds"):
    never.wait()
"""


def test_what_does_not_answer_ends_the_process_with_its_reason(tmp_path):
    argv = [sys.executable, "-c", WAITING, watchdog.__file__, str(tmp_path)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    reason = (
        f"stopped: the engine has not answered process 3 on {socket.gethostname()} within 0.2 seconds; look for a "
        f"process that is gone, or raise guards.some_seconds (null waits for ever)\n"
    )
    assert (ended.returncode, ended.stderr) == (EXIT_STOPPED, reason)
    assert (tmp_path / ERROR_FILE).read_text() == reason


@pytest.mark.parametrize("timeout_seconds", [None, 3600.0])
def test_what_answers_goes_on(timeout_seconds, tmp_path):
    with watchdog.answers_within("the engine", timeout_seconds, rank=0, run_dir=tmp_path, key="k"):
        pass
    with (
        pytest.raises(ZeroDivisionError),
        watchdog.answers_within("the engine", timeout_seconds, rank=0, run_dir=tmp_path, key="k"),
    ):
        raise ZeroDivisionError
    assert not (tmp_path / ERROR_FILE).exists()
