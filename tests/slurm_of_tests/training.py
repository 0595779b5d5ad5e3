"""Rewards of recipes that a test runs in jobs: they tell the test what the processes that train saw.

What they are to do is in the environment, which sbatch hands on to the job: WITNESSES is a folder for their files,
HOLD_AT says in which optimizer step (from 0) the first attempt of a job waits until it is asked to stop.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

from open_r1 import signals


def number_of_characters(completions, trainer_state, **columns):
    """Length of each completion: nearly always different within a group, so that there is something to learn."""
    hold_if_it_is_at(trainer_state.global_step)
    return [float(len(completion[-1]["content"])) for completion in completions]


def hold_if_it_is_at(step: int) -> None:
    """Waits until one of the processes of the run got a signal; the others hear of it from that one, in training."""
    if os.environ.get("HOLD_AT") != str(step) or os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        return
    asked = witness("asked")
    witness(f"held-{os.environ.get('RANK', '0')}").touch()
    while signals.received() is None and not asked.exists():
        time.sleep(0.02)
    asked.touch()


def witness(name: str) -> Path:
    return Path(os.environ["WITNESSES"]) / name


def tell_what_was_trained() -> None:
    """Has every process that trains leave its rank, node, and the sha256 of its weights before and after."""
    from open_r1 import training

    def sha256(model) -> str:
        import hashlib

        digest = hashlib.sha256()
        for name, weight in sorted(model.state_dict().items()):
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def train_and_tell(trainer, recipe, run_dir, tokenizer):
        before = sha256(trainer.model)
        train(trainer, recipe, run_dir, tokenizer)
        seen = {
            "rank": trainer.accelerator.process_index,
            "world_size": trainer.accelerator.num_processes,
            "node": socket.gethostname(),
            "before": before,
            "after": sha256(trainer.accelerator.unwrap_model(trainer.model)),
        }
        witness(f"trained-{seen['rank']}-{seen['node']}.json").write_text(json.dumps(seen))

    train, training.train = training.train, train_and_tell


if "open_r1.training" in sys.modules and "WITNESSES" in os.environ:  # not where a recipe is only checked
    tell_what_was_trained()
