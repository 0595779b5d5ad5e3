"""A rehearsal through the launcher, as `make sft|grpo|…` would start it, and whether it was one: did it train?

All that it writes lies below runs/rehearsals/: <recipe>.yaml as it was rehearsed, <recipe>.log with what it said, and
<recipe>/ with its run directory.
"""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors

from open_r1 import signals
from open_r1.check import check_recipe
from open_r1.places import RECIPES
from open_r1.recipe import Recipe, RecipeError, load_recipe
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS
from open_r1.rehearsal.shrinking import STEPS, Rehearsal, rehearsal_of
from open_r1.run_record import METRICS_FILE, read_record
from open_r1.stages import stage_recipe

MODELS = "models"
LAST_LINES = 15


@dataclass(frozen=True)
class Result:
    """How a rehearsal went; `problem` is empty if it went well."""

    rehearsal: Rehearsal
    log: Path
    seconds: float
    problem: str = ""
    num_parameters: int = 0

    def line(self, recipe_file: Path) -> str:
        """`recipe: rehearsed in … s (…)`, or what went wrong and the last lines of the log."""
        if self.problem:
            return f"{recipe_file}: rehearsal failed after {self.seconds:.1f} s: {self.problem}\n{last_lines(self.log)}"
        asks = self.rehearsal.recipe.step in ("generate", "preferences", "evaluate")
        steps = "" if asks else f"{STEPS} steps, "
        left_out = ", ".join(self.rehearsal.not_rehearsed) or "nothing"
        return (
            f"{recipe_file}: rehearsed in {self.seconds:.1f} s ({steps}{self.num_parameters:,} parameters; "
            f"not rehearsed: {left_out})"
        )


def prepare(file: Path, overrides: Sequence[str], folder: Path) -> Rehearsal:
    """The rehearsal of a recipe, below `folder`, with all that it needs written. Raises RecipeError."""
    recipe = load_recipe(file, overrides)
    check_recipe(recipe)
    try:
        rehearsal = rehearsal_of(recipe, folder / place_of(recipe), folder / MODELS)
        rehearsal.write()
    except RecipeError as error:  # of the Hub's models and data
        raise RecipeError(*(_of(recipe, line) for line in error.lines)) from None
    return rehearsal


def _of(recipe: Recipe, line: str) -> str:
    return line if line.startswith(str(recipe.source)) else f"{recipe.source}: {line}"


def place_of(recipe: Recipe) -> Path:
    """The rehearsed recipe's file, from the folder of all rehearsals: as the recipe's from recipes/."""
    file = recipe.source.resolve()
    return file.relative_to(RECIPES) if file.is_relative_to(RECIPES) else Path(file.name)


def rehearse(rehearsal: Rehearsal) -> Result:
    """Runs it, as a process of its own, in a new run directory."""
    file = rehearsal.recipe.source
    runs = file.parent
    shutil.rmtree(runs / file.stem, ignore_errors=True)
    log = file.with_suffix(".log")
    argv = [sys.executable, "-m", "open_r1.launch", "run", str(file), "--runs", str(runs)]
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        exit_code = subprocess.run(
            argv,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # what would be downloaded is not rehearsed
            preexec_fn=functools.partial(signals.die_with, os.getpid(), signal.SIGTERM),
        ).returncode
    seconds = time.monotonic() - started
    if exit_code:
        return Result(rehearsal, log, seconds, f"exit code {exit_code}")
    run_dir = runs / file.stem / "latest"
    problem = next(problems_of(rehearsal, run_dir), "")
    return Result(rehearsal, log, seconds, problem, max(parameters_of_models(rehearsal, run_dir), default=0))


def problems_of(rehearsal: Rehearsal, run_dir: Path) -> Iterator[str]:
    """What a run that ended well has not done: it is not `done`, or no weight can have moved."""
    status = (read_record(run_dir) or {}).get("status")
    if status != "done":
        yield f"{run_dir}/run.json: status is {status}"
    for stage, directory in _runs_of(rehearsal, run_dir):
        if stage.recipe.step not in TRAINER_CONFIGS:
            continue
        file = directory / METRICS_FILE
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        logs = [log for line in lines if "loss" in (log := json.loads(line))]
        steps = [log["step"] for log in logs]
        if steps != list(range(1, STEPS + 1)):
            yield f"{file}: the steps {steps} were trained, not the first {STEPS}"
        elif not all(math.isfinite(log["grad_norm"]) for log in logs):
            yield f"{file}: a gradient is not finite"
        elif not any(log["grad_norm"] > 0 for log in logs):
            yield f"{file}: no step had a gradient"


def parameters_of_models(rehearsal: Rehearsal, run_dir: Path) -> Iterator[int]:
    """Yields the parameters of each model that was made, or scored."""
    for stage, directory in _runs_of(rehearsal, run_dir):
        if stage.recipe.step in TRAINER_CONFIGS:
            yield num_parameters(directory / "model")
        elif stage.recipe.step == "evaluate":
            scores = json.loads((directory / "scores.json").read_text(encoding="utf-8"))
            yield from (score["parameters"] for score in scores.values())


def num_parameters(model: Path) -> int:
    """Parameters of a saved model, tied ones counted once."""
    total = 0
    for file in model.glob("*.safetensors"):
        with safetensors.safe_open(file, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def _runs_of(rehearsal: Rehearsal, run_dir: Path) -> list[tuple[Rehearsal, Path]]:
    """The run itself, or each stage of a pipeline, with its directory."""
    if rehearsal.recipe.step != "pipeline":
        return [(rehearsal, run_dir)]
    return [(stage, run_dir / stage.recipe.source.stem) for stage in rehearsal.stages]


def last_lines(log: Path) -> str:
    """The end of a log, indented, and where all of it is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return "".join(f"    {line}\n" for line in lines) + f"    all of it: {os.path.relpath(log)}"


def needs_rehearsal(recipe: Recipe) -> bool:
    """False if a recipe runs on a CPU as it is, with what lies in the repository: `make r1` does that."""
    if recipe.step == "pipeline":
        return any(needs_rehearsal(stage_recipe(recipe, stage)) for stage in recipe.stages)
    servers = (recipe.hardware.vllm, recipe.hardware.judge)
    return recipe.hardware.gpus_per_node > 0 or any(server is not None for server in servers)
