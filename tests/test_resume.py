"""A GRPO run that was taken up again ends with the weights of one that was not, bit for bit."""

import contextlib
import copy
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
from conftest import CPU_TRAINER, sums
from trl import GRPOConfig

from open_r1 import data, training
from open_r1.procedural import rows as problem_rows
from open_r1.recipe import Procedural, RecipeError, load_recipe
from open_r1.resuming import last_checkpoint
from open_r1.run_record import weights_sha256
from open_r1.step_process import ERROR_FILE, EXIT_STOPPED
from open_r1.training.evaluation import whole_batches

TRAINER = {
    **CPU_TRAINER,
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_steps": 1,
    "log_completions": True,
    "num_completions_to_print": 0,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "loss_type": "dapo",
    "beta": 0.0,
}
LETTERS = {"name": "rewards_of_tests:number_of_characters"}
DRAWN = {"name": "rewards_of_tests:drawn_anew", "weight": 0.1}
SOLUTION = {"name": "rewards_of_tests:solution_itself"}
DIGITS = {"name": "rewards_of_tests:begins_with_a_digit"}
CASES = {
    "one rollout a step": {},
    "rewards that begin early": {"rewards": ["accuracy", LETTERS], "trainer": {"steps_per_generation": 2}},
    "two steps a rollout": {"trainer": {"steps_per_generation": 4, "gradient_accumulation_steps": 2}},
    "two iterations": {"trainer": {"num_iterations": 2, "steps_per_generation": 2}},
    "several rollouts a step": {
        "trainer": {"steps_per_generation": 1, "gradient_accumulation_steps": 2},
        "grpo": {"merge_rollouts": False},
    },
    "reference that is replaced": {
        "trainer": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0}
    },
    "dynamic sampling": {"rewards": [DIGITS], "grpo": {"dynamic_sampling": {"max_factor": 4.0}}},
    "adapters": {"model": {"lora": {"r": 4, "dropout": 0.1}}, "trainer": {"steps_per_generation": 2}},
    "second epoch": {"data": [sums(4)], "trainer": {"steps_per_generation": 2}},
    "logs of several steps": {"trainer": {"logging_steps": 4, "save_steps": 3}},
    "evaluation in between": {
        "eval_data": [sums(5, split="validation")],
        "trainer": {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "steps_per_generation": 2},
    },
    "an engine that samples": {
        "rewards": [DIGITS],
        "trainer": {"use_vllm": True, "steps_per_generation": 4, "gradient_accumulation_steps": 2},
        "grpo": {"dynamic_sampling": {"max_factor": 4.0}},
    },
    "adaptive entropy": {"trainer": {"use_adaptive_entropy": True, "entropy_target": 4.0, "steps_per_generation": 2}},
}
NOT_REPRODUCED = ("step_time", "seconds/", "_per_second", "/seconds", "seconds_waited", "eval_runtime")


def recipe_of(folder: Path, model: Path, case: dict) -> Path:
    sections = {
        "step": "grpo",
        "seed": 3,
        "model": {"name": str(model), **case.get("model", {})},
        "data": case.get("data", [sums(64)]),
        "eval_data": case.get("eval_data", []),
        "rewards": case.get("rewards", [LETTERS]),
        "trainer": TRAINER | case.get("trainer", {}),
        "grpo": case.get("grpo", {}),
        "guards": {"max_truncated_share": None, "max_dead_steps": None},
        "hardware": {"processes_per_node": case.get("processes", 1)},
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(sections))  # JSON is YAML
    return file


class SamplingEngine:
    """In vLLM's place: samples with weights that it has from the last sync, and says how likely each token was.

    It draws from torch's own generator, so that a resumed run can be the same; vLLM's cannot be put back.
    """

    def __init__(self, model, processing_class, temperature: float, max_completion_length: int, **settings):
        self.policy, self.tokenizer = model, processing_class
        self.settings = {
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "max_new_tokens": max_completion_length,
        }
        self.model: torch.nn.Module | None = None

    def sync_weights(self) -> None:
        self.model = copy.deepcopy(self.policy).eval()

    def generate(self, prompts: list[list[int]], images, num_generations: int, profiler) -> tuple:
        with torch.no_grad(), profiler:
            sampled = self.model.generate(
                **self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left"),
                **self.settings,
                output_scores=True,
                return_dict_in_generate=True,
            )
        width = len(sampled.scores)
        ids_NT = sampled.sequences[:, -width:]
        logps_NT = torch.stack(sampled.scores, dim=1).log_softmax(dim=-1).gather(2, ids_NT[..., None]).squeeze(2)
        ended_NT = ids_NT == self.tokenizer.eos_token_id
        lengths = [row.index(True) + 1 if True in row else width for row in ended_NT.tolist()]
        completions = [ids[:length] for ids, length in zip(ids_NT.tolist(), lengths, strict=True)]
        logps = [[[logp] for logp in row[:length]] for row, length in zip(logps_NT.tolist(), lengths, strict=True)]
        return prompts, completions, logps, None


def train(recipe_file: str, run_dir: str, engine: type = SamplingEngine) -> None:
    import trl.trainer.grpo_trainer

    from open_r1.grpo import grpo

    torch.set_num_threads(1)
    with mock.patch.object(trl.trainer.grpo_trainer, "VLLMGeneration", engine):
        grpo(load_recipe(recipe_file), Path(run_dir))


def what_it_left(run_dir: Path) -> tuple[str, list[dict], list[pd.DataFrame]]:
    """Weights' hash, metrics but for the seconds, and the completions tables but for the seconds."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not any(part in k for part in NOT_REPRODUCED)} for line in lines]
    tables = [pd.read_parquet(file) for file in sorted((run_dir / "completions").glob("*.parquet"))]
    return weights_sha256(run_dir / "model"), metrics, tables


def assert_same(one: Path, other: Path) -> None:
    weights, metrics, tables = what_it_left(one)
    other_weights, other_metrics, other_tables = what_it_left(other)
    assert metrics == other_metrics
    assert len(tables) == len(other_tables)
    for table, other_table in zip(tables, other_tables, strict=True):
        pd.testing.assert_frame_equal(table, other_table)
    assert weights == other_weights


@pytest.mark.parametrize("name", CASES)
def test_taken_up_at_any_checkpoint(name, tmp_path, smallest_model):
    recipe = recipe_of(tmp_path, smallest_model, CASES[name])
    whole = tmp_path / "whole"
    whole.mkdir()
    train(recipe, whole)
    for step in (1, 3, 5):
        if not (whole / "checkpoints" / f"checkpoint-{step}").exists():
            continue
        resumed = tmp_path / f"from{step}"
        shutil.copytree(whole, resumed, symlinks=True)
        shutil.rmtree(resumed / "model")
        for checkpoint in (resumed / "checkpoints").glob("checkpoint-*"):
            if int(checkpoint.name.partition("-")[2]) > step:
                shutil.rmtree(checkpoint)
        train(recipe, resumed)
        assert_same(whole, resumed)


def test_evaluation_changes_nothing_of_training(tmp_path, smallest_model):
    evaluated = {
        "eval_data": [sums(5, split="validation")],  # no whole number of batches
        "rewards": [LETTERS, DRAWN],
        "trainer": {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "logging_steps": 2},
    }
    plain = {"rewards": [LETTERS, DRAWN], "trainer": {"logging_steps": 2}}
    run_dirs = []
    for name, case in (("plain", plain), ("evaluated", evaluated)):
        run_dirs.append(tmp_path / name)
        run_dirs[-1].mkdir()
        train(recipe_of(run_dirs[-1], smallest_model, case), run_dirs[-1])
    weights, metrics, tables = what_it_left(run_dirs[0])
    evaluated_weights, both_metrics, evaluated_tables = what_it_left(run_dirs[1])
    evaluations = [line for line in both_metrics if "eval_loss" in line]
    assert evaluated_weights == weights
    assert [line["step"] for line in evaluations] == list(range(7))
    assert [line for line in both_metrics if line not in evaluations] == metrics
    for table, evaluated_table in zip(tables, evaluated_tables, strict=True):
        pd.testing.assert_frame_equal(table, evaluated_table)


def test_every_problem_of_an_evaluation_counts_alike(tmp_path, smallest_model):
    held_out = sums(5, split="validation")
    case = {
        "eval_data": [held_out],
        "rewards": [SOLUTION],
        "trainer": {"eval_on_start": True, "max_steps": 1},  # in batches of two problems, two, and one
    }
    train(recipe_of(tmp_path, smallest_model, case), tmp_path)
    first_line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    problems = problem_rows(Procedural(**held_out["procedural"]), recipe_seed=3)
    assert first_line["eval_reward"] == pytest.approx(sum(float(problem["solution"]) for problem in problems) / 5)


def start(recipe: Path, run_dir: Path, processes: int, target: Callable[..., None] | None = None) -> list:
    """The processes of a run, each of `target` (None: just training), forked from one that has imported everything."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [
        FORKSERVER.Process(target=target or one_process, args=(str(recipe), str(run_dir), rank, processes, port))
        for rank in range(processes)
    ]
    for child in children:
        child.start()
    return children


def one_process(recipe: str, run_dir: str, rank: int, processes: int, port: int) -> None:
    os.setpgid(0, 0)  # with all that it starts
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        os.environ.update({key: str(value) for key, value in (place | address).items()})
    train(recipe, run_dir)


def kill(children: list) -> None:
    for child in children:
        if child.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet, and has started nobody
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
        child.join()


def steps_done(run_dir: Path) -> int:
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["open_r1.grpo", "trl", "peft", "pandas"])
PROCESSES = {
    "two processes": {**CASES["two steps a rollout"], "processes": 2},
    "two processes, dynamic sampling": {**CASES["dynamic sampling"], "processes": 2},
    "two processes, an engine that samples": {**CASES["an engine that samples"], "processes": 2},
}


class KilledWhileSaving:
    """Counts what is opened, made, renamed and removed among the checkpoints, and ends the process at one of these."""

    def __init__(self, at_event: int):
        self.left = at_event

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and "checkpoint" in str(arguments[0]):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving(recipe: str, run_dir: str, at_event: int) -> None:
    sys.addaudithook(KilledWhileSaving(at_event))
    train(recipe, run_dir)


class SilentEngine:
    """In vLLM's place: one that never takes the weights over."""

    def __init__(self, **kwargs):
        pass

    def sync_weights(self) -> None:
        threading.Event().wait()


def test_weight_sync_that_does_not_answer_ends_the_run(tmp_path, smallest_model):
    recipe = recipe_of(tmp_path, smallest_model, {"trainer": {"use_vllm": True, "vllm_mode": "colocate"}})
    sections = json.loads(recipe.read_text())
    sections["guards"]["weight_sync_timeout_seconds"] = 0.2
    recipe.write_text(json.dumps(sections))
    child = FORKSERVER.Process(target=train, args=(str(recipe), str(tmp_path), SilentEngine))
    child.start()
    child.join(timeout=120)
    exit_code = child.exitcode
    child.kill()
    assert exit_code == EXIT_STOPPED
    reason = (tmp_path / ERROR_FILE).read_text()
    assert reason.startswith("stopped: the weight sync with vLLM has not answered process 0 on ")
    assert "guards.weight_sync_timeout_seconds" in reason


@pytest.mark.parametrize(("num_problems", "num_evaluated"), [(4, 4), (5, 4)])
def test_two_processes_evaluate_no_problem_twice(num_problems, num_evaluated, tmp_path, smallest_model):
    held_out = sums(num_problems, split="validation")
    case = {
        "eval_data": [held_out],
        "rewards": [SOLUTION],
        "trainer": {"eval_on_start": True, "max_steps": 1, "per_device_eval_batch_size": 4},  # two problems a batch
        "processes": 2,
    }
    children = start(recipe_of(tmp_path, smallest_model, case), tmp_path, 2)
    for child in children:
        child.join()
    first_line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    problems = list(problem_rows(Procedural(**held_out["procedural"]), recipe_seed=3))[:num_evaluated]
    expected = sum(float(problem["solution"]) for problem in problems) / num_evaluated
    assert first_line["eval_reward"] == pytest.approx(expected)


def test_problems_that_fill_no_batch_of_two_processes_are_told(tmp_path, smallest_model):
    case = {
        "eval_data": [sums(1, split="validation")],
        "trainer": {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4},
    }
    recipe = load_recipe(recipe_of(tmp_path, smallest_model, case))
    two = types.SimpleNamespace(num_processes=2, is_main_process=True)
    arguments = GRPOConfig(**training.trainer_arguments(recipe, tmp_path))
    with pytest.raises(RecipeError, match="eval_data: 1 problems do not fill one batch of 2 "):
        whole_batches(data.load_data(recipe, [], "eval_data"), recipe, arguments, two)


def train_with_a_slow_writer(recipe: str, run_dir: str, rank: int, processes: int, port: int) -> None:
    """The first process still writes when the second has written its share, each file under another name first.

    So safetensors does: whoever looks into the folder meanwhile finds files that are gone the next moment.
    """
    import transformers

    save_model = transformers.Trainer._save

    def save_model_slowly(trainer, output_dir, *args, **kwargs):
        folder, num_left = Path(output_dir), 20_000
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{num_left}").touch()
        while num_left:
            (folder / f".{num_left - 1}").touch(exist_ok=True)  # at any moment there is one that will go
            if (folder / "extra_state_1.pt").exists():
                (folder / f".{num_left}").rename(folder / "whole")
                num_left -= 1
        save_model(trainer, output_dir, *args, **kwargs)

    transformers.Trainer._save = save_model_slowly  # only the first process comes to it
    one_process(recipe, run_dir, rank, processes, port)


def test_no_process_looks_at_a_checkpoint_that_another_still_writes(tmp_path, smallest_model):
    case = {"trainer": {"max_steps": 1}, "processes": 2}
    children = start(recipe_of(tmp_path, smallest_model, case), tmp_path, 2, train_with_a_slow_writer)
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert last_checkpoint(tmp_path / "checkpoints").name == "checkpoint-1"


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path, smallest_model):
    case = {"trainer": {**CASES["two iterations"]["trainer"], "max_steps": 8, "save_total_limit": 1}}
    recipe = recipe_of(tmp_path, smallest_model, case)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    train(recipe, whole)
    moments = random.Random(0)
    for _ in range(10):
        child = FORKSERVER.Process(target=die_while_saving, args=(str(recipe), str(killed), moments.randrange(1, 60)))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        for checkpoint in (killed / "checkpoints").glob("checkpoint-*"):
            assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "extra_state_0.pt"} <= {
                file.name for file in checkpoint.iterdir()
            }
    train(recipe, killed)
    assert_same(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES | PROCESSES)
def test_killed_at_random_moments(name, tmp_path, smallest_model):
    case = (CASES | PROCESSES)[name]
    processes = case.get("processes", 1)
    recipe = recipe_of(
        tmp_path,
        smallest_model,
        {**case, "trainer": {"max_steps": 40, "save_total_limit": 2, **case.get("trainer", {})}},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    children = start(recipe, whole, processes)
    for child in children:
        child.join()
    moments, num_kills = random.Random(name), 0
    for _ in range(3):
        step = steps_done(killed) + moments.randint(0, 11)  # the last of the three is before the end
        children = start(recipe, killed, processes)
        while steps_done(killed) < step and children[0].is_alive():
            children[0].join(0.002)
        children[0].join(moments.uniform(0, 0.03))
        num_kills += children[0].is_alive()
        kill(children)
    assert num_kills >= 1
    children = start(recipe, killed, processes)
    for child in children:
        child.join()
    assert_same(whole, killed)
