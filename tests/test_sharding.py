"""Weights in shares: runs under ZeRO and FSDP2 end with the weights of DDP, and go on where they were stopped.

Two CPU processes over gloo, with the accelerate configs that GPUs have; the trainers are ours and TRL's.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CPU_TRAINER, REPOSITORY, SMALLEST_MODEL, sums
from safetensors.torch import load_file

from open_r1 import modeling
from open_r1.places import ACCELERATE_CONFIGS
from open_r1.recipe import Model

pytestmark = pytest.mark.slow

# step, accelerate config, and the checkpoints that are lost before the run goes on: after the first step, in the middle
# of a rollout, or after the last one, when all is trained and nothing saved
CASES = [
    ("grpo", "zero2", (2, 3)),
    ("grpo", "zero3", (2, 3)),
    ("grpo", "fsdp2", (2, 3)),
    ("sft", "zero3", ()),
    ("sft", "fsdp2", ()),
]
STEPS = {
    "sft": {"trainer": {"learning_rate": 1e-2}},
    # A rollout for two optimizer steps, completions that end at different tokens in each process, and a reference that
    # is replaced: all that processes with shares have to do in step.
    "grpo": {
        "trainer": {
            "num_generations": 4,
            "max_completion_length": 40,
            "steps_per_generation": 4,
            "learning_rate": 1e-2,
            "loss_type": "grpo",
            "beta": 0.1,
            "sync_ref_model": True,
            "ref_model_sync_steps": 1,
        },
        "rewards": ["rewards_of_tests:number_of_characters"],
        "guards": {"max_truncated_share": None},
        "grpo": {"shrink_generation": False},  # which draws other random numbers, and cannot be with shares
    },
}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model of two layers, so that there is more than one unit to share out."""
    directory = tmp_path_factory.mktemp("models") / "two-layers"
    torch.manual_seed(0)
    tokenizer = modeling.character_tokenizer()
    section = Model(architecture={**SMALLEST_MODEL, "num_hidden_layers": 2})
    modeling.save_model(modeling.build_model(section, tokenizer), tokenizer, directory)
    return directory


@pytest.fixture(scope="module")
def weights_after(model, tmp_path_factory):
    """Trains a step in a directory, or goes on there, under an accelerate config; gives the weights that it saved.

    What DDP ends with is computed once a step.
    """

    @functools.cache
    def with_ddp(step: str) -> dict[str, torch.Tensor]:
        return train(step, "cpu", tmp_path_factory.mktemp("ddp"))

    def train(step: str, config: str, run_dir: Path | None = None) -> dict[str, torch.Tensor]:
        if run_dir is None:
            return with_ddp(step)
        trainer = {
            **CPU_TRAINER,
            **STEPS[step]["trainer"],
            "use_cpu": config == "cpu",
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
        }
        sections = {"step": step, "model": {"name": str(model)}, "data": [sums(64)], **STEPS[step], "trainer": trainer}
        hardware = {"processes_per_node": 2, "threads_per_process": 1}
        (run_dir / "recipe.yaml").write_text(yaml.safe_dump({**sections, "hardware": hardware}), encoding="utf-8")
        launcher = ["-m", "open_r1.accelerate_launch", "--config_file", str(ACCELERATE_CONFIGS / f"{config}.yaml")]
        launcher += ["--num_processes", "2", "--num_machines", "1", "--num_cpu_threads_per_process", "1"]
        script = ["-m", f"open_r1.{step}"] if config == "cpu" else [str(REPOSITORY / "tests" / "sharded_on_cpu.py")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (REPOSITORY / "src", REPOSITORY / "tests", *sys.path)))
        finished = subprocess.run(
            [sys.executable, *launcher, *script, str(run_dir)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return load_file(run_dir / "model" / "model.safetensors")

    return train


@pytest.mark.parametrize(("step", "config", "lost"), CASES)
def test_weights_in_shares_end_as_those_of_ddp_and_go_on_after_a_stop(
    step, config, lost, weights_after, model, tmp_path
):
    if config.startswith("zero"):
        pytest.importorskip("deepspeed")
    before, with_ddp = load_file(model / "model.safetensors"), weights_after(step, "cpu")
    assert max((with_ddp[name] - before[name]).abs().max() for name in before) > 1e-3
    whole = weights_after(step, config, tmp_path)
    assert whole.keys() == with_ddp.keys()
    assert max((with_ddp[name] - whole[name]).abs().max() for name in whole) < 1e-5
    for number in lost:
        shutil.rmtree(tmp_path / "checkpoints" / f"checkpoint-{number}")
    shutil.rmtree(tmp_path / "model")
    again = weights_after(step, config, tmp_path)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
