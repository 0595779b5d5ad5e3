"""What stops a run or warns of it, from the logs that it made; and the watch over what does not answer."""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from open_r1.recipe import Guards
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
NUM_EVAL_PROBLEMS = 200
ACCURACY = "eval_rewards/accuracy/mean"


def trained(rewards: Sequence[float], entropies: Sequence[float] = GOOD_ENTROPIES) -> list[dict]:
    return [{"reward": reward, "entropy": entropy} for reward, entropy in zip(rewards, entropies, strict=False)]


def evaluated(*rounds: tuple[float | None, float | None], key: str = ACCURACY) -> list[dict]:
    """Logs of so many rounds of training, each (reward in training, accuracy on eval_data at its end)."""
    logs = [[{"reward": reward}] * 2 * (reward is not None) + [{key: accuracy}] for reward, accuracy in rounds]
    return [log for group in logs for log in group]


def replay(guard: GuardCallback, logs: Sequence[dict], state: TrainerState | None = None) -> TrainerState:
    """Lets the guard see each log as the trainer shows it: at the end of all logs so far."""
    state = state or TrainerState(is_world_process_zero=True)
    for log in logs:
        state.global_step += 1
        state.log_history.append(log)
        guard.on_log(SimpleNamespace(max_completion_length=80), state, None, logs=log)
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
        ({"max_dead_steps": 3}, [{"frac_reward_zero_std": 1.0}] * 3, True),
        ({"max_dead_steps": 3}, [{"frac_reward_zero_std": r} for r in (1.0, 1.0, 0.9, 1.0, 1.0)], False),
        ({"max_dead_steps": None}, [{"frac_reward_zero_std": 1.0}] * 99, False),
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
    guard = GuardCallback(Guards(**guards), tmp_path)
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
        ({}, evaluated((0.4, 0.6), (0.6, 0.4), key="eval_rewards/format/mean"), None),
        ({"max_eval_drop": 9.0}, evaluated((0.4, 0.6), (0.6, 0.4)), None),
        ({"max_eval_drop": None}, evaluated((0.4, 0.6), (0.6, 0.0)), None),
    ],
)
def test_what_warns_of_a_run(guards, logs, key, tmp_path, capsys):
    replay(GuardCallback(Guards(**guards), tmp_path, NUM_EVAL_PROBLEMS), logs)
    warnings = warnings_of(tmp_path)
    assert [warning["key"] for warning in warnings] == ([key] if key else [])
    assert capsys.readouterr().err.count("warning at step") == len(warnings)
    if key:
        with pytest.raises(RunStopped, match=f"^stopped at step {warnings[0]['step']}: .*{key}: null goes on"):
            replay(GuardCallback(Guards(**guards, stop_on_signs=True), tmp_path, NUM_EVAL_PROBLEMS), logs)


def test_few_problems_make_no_sign(tmp_path):
    replay(GuardCallback(Guards(), tmp_path, 10), evaluated((0.4, 0.6), (0.6, 0.4)))
    replay(GuardCallback(Guards(), tmp_path), evaluated((0.4, 0.6), (0.6, 0.4)))
    assert warnings_of(tmp_path) == []


@pytest.mark.parametrize("taken_up_at", [1, 4])
def test_a_run_that_is_taken_up_again_goes_on_counting(taken_up_at, tmp_path):
    logs = [{RATIO: 1.6}] * 5
    state = replay(GuardCallback(Guards(), tmp_path), logs[:taken_up_at])
    state.save_to_json(str(tmp_path / "state.json"))
    restored = TrainerState.load_from_json(str(tmp_path / "state.json"))
    guard = GuardCallback(Guards(), tmp_path)
    guard.on_train_begin(None, restored, None)
    with pytest.raises(RunStopped, match="^stopped at step 5: "):
        replay(guard, logs[taken_up_at:], restored)


@pytest.mark.parametrize(("taken_up_at", "kept"), [(2, 0), (20, 1)])
def test_warnings_of_a_run_that_is_taken_up_again_are_there_once(taken_up_at, kept, tmp_path):
    logs = trained([1.0] * 25, [0.1] * 10 + [0.001] * 15)
    replay(GuardCallback(Guards(), tmp_path), logs)
    with (tmp_path / WARNINGS_FILE).open("a") as lines:
        lines.write('{"step": 2')  # killed while writing
    state = TrainerState(is_world_process_zero=True, global_step=taken_up_at, log_history=logs[:taken_up_at])
    guard = GuardCallback(Guards(), tmp_path)
    guard.on_train_begin(None, state, None)
    assert len(warnings_of(tmp_path)) == kept
    replay(guard, logs[taken_up_at:], state)
    assert [warning["step"] for warning in warnings_of(tmp_path)] == [20]


def test_other_processes_write_no_warnings(tmp_path, capsys):
    state = TrainerState(is_world_process_zero=False)
    replay(GuardCallback(Guards(), tmp_path), trained(FLAT_REWARDS), state)
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
