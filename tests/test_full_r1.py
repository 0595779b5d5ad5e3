"""Every stage of R1, at its smallest: killed in each of them, and taken up again to the same weights."""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import TINY

from open_r1.check import check_recipe
from open_r1.recipe import load_recipe
from open_r1.run_record import read_record, weights_sha256

FULL = TINY / "full.yaml"
OVERRIDES = [
    *(f"stages.{name}.set.trainer.{key}={value}" for name in ("zero", "reasoning_rl", "final_rl")
      for key, value in {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 16}.items()),
    *(f"stages.{name}.set.evaluate.num_problems=20" for name in ("zero_evaluation", "evaluation")),
    *(f"stages.{name}.set.trainer.max_steps=12" for name in ("cold_start", "second_sft", "distill")),
    *(f"stages.{name}.set.data.0.procedural.num_problems=48" for name in ("zero", "reasoning_rl")),
    "stages.rejection_sampling.set.data.0.procedural.num_problems=48",
    *(f"stages.{name}.set.keep.min_reward=-1.0" for name in ("rejection_sampling", "distill")),
    "stages.rejection_sampling.set.generate.prompts_per_shard=16",
    "stages.rejection_sampling.set.generate.batch_size=16",
    "stages.distill.set.data.0.procedural.num_problems=48",
    "stages.distill.set.distill.batch_size=16",
    "stages.second_sft.set.mixture.num_rows=40",
    "stages.zero_evaluation.gate.0.at_least=0.0",
    "stages.reasoning_rl.gate.0.at_least=0.0",
    "stages.rejection_sampling.gate.0.at_least=10.0",
]  # fmt: skip
# Stage -> what it says when it is at work; a stage that trains then has its first checkpoint.
AT_WORK = {
    "zero": r" 3/4 ",
    "zero_evaluation": r"zero on tiny_sums",
    "cold_start": r" [4-9]/12 ",
    "reasoning_rl": r" 3/4 ",
    "rejection_sampling": r"sampling: +\d+%",
    "second_sft": r" [4-9]/12 ",
    "final_rl": r" 3/4 ",
    "distill": r"sampling: +\d+%",
    "evaluation": r"second_sft on tiny_sums",
}


def run(runs, kill_at: str | None = None) -> int:
    """The exit code of the pipeline; of one that is killed as soon as the stage of that name is at work, -9."""
    command = [sys.executable, "-m", "open_r1.launch", "pipeline", str(FULL), *OVERRIDES, "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    said, stage = "", None
    while chunk := os.read(process.stdout.fileno(), 4096):
        said = said[-8192:] + chunk.decode(errors="replace")
        for name, step in re.findall(r"\[\d+/\d+\] (\w+): (\w+)", said):
            if step != "done" and name != stage:
                stage, said = name, said.rpartition(f"] {name}: ")[2]
        if kill_at is not None and stage == kill_at and re.search(AT_WORK[kill_at], said):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    return process.wait()


def test_every_stage_of_the_paper_is_there_and_checked():
    recipe = load_recipe(FULL, OVERRIDES)
    check_recipe(recipe)
    assert [stage.name for stage in recipe.stages] == list(AT_WORK)


@pytest.mark.slow
def test_killed_in_each_stage_it_ends_with_the_same_weights(tmp_path):
    for stage in AT_WORK:
        assert run(tmp_path / "killed", kill_at=stage) == -signal.SIGKILL, stage
    assert run(tmp_path / "killed") == 0
    assert run(tmp_path / "whole") == 0
    killed, whole = (tmp_path / name / "tiny-r1" / "full" / "latest" for name in ("killed", "whole"))
    for stage in AT_WORK:
        assert read_record(killed / stage)["attempts"] == 2, stage
        if (whole / stage / "model").exists():
            assert weights_sha256(killed / stage / "model") == weights_sha256(whole / stage / "model"), stage
    scores = [
        {label: {name: entry["pass@1"] for name, entry in of["benchmarks"].items()} for label, of in scores.items()}
        for scores in (read_record(run_dir / "evaluation")["scores"] for run_dir in (killed, whole))
    ]
    assert scores[0] == scores[1]
    base = weights_sha256(TINY / "models" / "teacher")
    parents = read_record(whole / "second_sft")["parents"]
    assert [parent.get("weights_sha256") for parent in parents] == [base, None]
    assert parents[1]["name"] == "rejection_sampling" and parents[1]["data_sha256"]
