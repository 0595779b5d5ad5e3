"""A step in a process of its own that is killed at a checkpoint of one's choice, and what a run leaves behind.

kill_at(dpo, recipe, run_dir, checkpoint=3)    while checkpoint-3 gets its name: the one before is the last whole one
run_to_end(dpo, recipe, run_dir)
what_it_left(run_dir)
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from open_r1.recipe import load_recipe
from open_r1.run_record import METRICS_FILE, weights_sha256

Step = Callable[..., None]

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["open_r1.dpo", "open_r1.reward_model", "open_r1.grpo", "trl", "peft", "pandas"])
NOT_REPRODUCED = ("runtime", "_per_second")


def run_to_end(step: Step, recipe: Path, run_dir: Path) -> None:
    """Runs the step, from the last checkpoint if there is one."""
    assert _exit_code_of(_train, step, recipe, run_dir) == 0


def kill_at(step: Step, recipe: Path, run_dir: Path, checkpoint: int) -> None:
    """Runs the step until it gives the checkpoint of this number its name, and kills it there."""
    assert _exit_code_of(_die_at, step, recipe, run_dir, checkpoint) == -signal.SIGKILL
    assert not (run_dir / "checkpoints" / f"checkpoint-{checkpoint}").exists()


def what_it_left(run_dir: Path) -> tuple[list[dict], str]:
    """The lines of metrics.jsonl but for the times, and the hash of the weights."""
    lines = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not any(part in k for part in NOT_REPRODUCED)} for line in lines]
    return metrics, weights_sha256(run_dir / "model")


def _exit_code_of(target: Callable[..., None], step: Step, recipe: Path, run_dir: Path, *more: int) -> int:
    run_dir.mkdir(exist_ok=True)
    child = FORKSERVER.Process(target=target, args=(step, str(recipe), str(run_dir), *more))
    child.start()
    child.join()
    return child.exitcode


def _train(step: Step, recipe: str, run_dir: str) -> None:
    torch.set_num_threads(1)
    step(load_recipe(recipe), Path(run_dir))


def _die_at(step: Step, recipe: str, run_dir: str, checkpoint: int) -> None:
    def die(event: str, arguments: tuple) -> None:
        if event == "os.rename" and Path(os.fsdecode(arguments[1])).name == f"checkpoint-{checkpoint}":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    _train(step, recipe, run_dir)
