"""Where the seconds of an optimizer step go: `make profile RECIPE=recipes/…`, or RUN=runs/… for a run that is there.

A recipe is run for ten steps through the launcher, in a directory of its own below runs/profiles/: it is no run of the
recipe, `latest` does not point at it, and its model is not kept. It neither evaluates nor writes checkpoints, and every
reward counts in every step; all else is as the recipe says. Its completions are those of a policy that has hardly been
trained: they, and with them the seconds of a step, may become longer, which RUN=… of a long run shows.
"""

import argparse
import base64
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from open_r1.check import check_recipe
from open_r1.places import RUNS
from open_r1.recipe import Recipe, RecipeError, load_recipe
from open_r1.report.phases import step_times
from open_r1.report.pictures import draw_phases
from open_r1.report.reading import read_all
from open_r1.report.table import print_phases
from open_r1.running import launch, model_parents, run_directory
from open_r1.signals import EXIT_INTERRUPTED
from open_r1.stages import stage_recipe

OVERRIDES = (
    "trainer.max_steps=10",  # WARM_UP_STEPS of them are left out
    "trainer.logging_strategy=steps",
    "trainer.logging_steps=1",
    "trainer.save_strategy=no",
    "trainer.load_best_model_at_end=false",
    "trainer.eval_strategy=no",
    "trainer.eval_on_start=false",
    "eval_data=[]",
    "guards.truth=null",
    "guards.stop_on_signs=false",
    "guards.max_truncated_share=null",  # a policy that learns nothing takes as long
    "guards.max_dead_steps=null",
)
PICTURE = "profile.png"


def profile_recipe(file: Path, overrides: Sequence[str], runs: Path = RUNS) -> tuple[Path, int]:
    """Runs a few steps of the recipe; gives the run directory and the exit code. Raises RecipeError."""
    asked = load_recipe(file, overrides)
    if asked.step != "grpo":
        raise RecipeError(f"{asked.source}: step: it is {asked.step}; only grpo steps have phases{_instead(asked)}")
    in_all_steps = [
        f"rewards.{i}.{steps}" for i in range(len(asked.rewards)) for steps in ("first_step=1", "last_step=null")
    ]
    recipe = load_recipe(file, [*OVERRIDES, *in_all_steps, *overrides])
    check_recipe(recipe, before_run=True)
    run_dir = run_directory(recipe, runs.resolve() / "profiles").with_name(f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
    print(f"{recipe.trainer['max_steps']} steps of {recipe.source} -> {run_dir}")
    exit_code = launch(recipe, run_dir, model_parents(recipe))
    shutil.rmtree(run_dir / "model", ignore_errors=True)
    return run_dir, exit_code


def _instead(recipe: Recipe) -> str:
    """What the user of a pipeline may have meant; the empty string for another step."""
    stages = [stage_recipe(recipe, stage) for stage in recipe.stages]
    files = dict.fromkeys(os.path.relpath(stage.source) for stage in stages if stage.step == "grpo")
    return f" (those of this pipeline: {', '.join(files)}; or give RUN=… of a whole run)" if files else ""


def show(run_dir: Path) -> None:
    """Prints the phases of a run (of a pipeline, those of each of its GRPO stages), draws them and tells where.

    Raises RecipeError if the run logged none.
    """
    _, stages = read_all(run_dir, [])
    timed = [(stage, times) for stage in stages if (times := step_times(stage))]
    if not timed:
        raise RecipeError(
            f"{run_dir}: no seconds by phase in metrics.jsonl; grpo steps log them since they are measured"
        )
    for stage, times in timed:
        print_phases(stage, times)
        picture = stage.folder / PICTURE
        picture.write_bytes(base64.b64decode(draw_phases(times)))
        print(picture)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 with one line if there is nothing to profile, else that of the run."""
    parser = argparse.ArgumentParser(prog="open_r1.profiling", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value, e.g. trainer.max_steps=30")
    parser.add_argument("--run", type=Path, help="a run directory, instead of a recipe")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where run directories are made (default: runs/)")
    asked = parser.parse_intermixed_args(arguments)
    run_dir = asked.run
    try:
        if (asked.recipe is None) == (run_dir is None):
            raise RecipeError("make profile needs either a recipe (RECIPE=recipes/…) or a run directory (RUN=runs/…)")
        if run_dir is None:
            run_dir, exit_code = profile_recipe(asked.recipe, asked.overrides, asked.runs)
            if exit_code:
                ending = "was interrupted" if exit_code == EXIT_INTERRUPTED else f"failed (exit code {exit_code})"
                print(f"the run {ending}, so there is nothing to show: {run_dir}/run.json", file=sys.stderr)
                return exit_code
        elif not run_dir.is_dir():
            raise RecipeError(f"{run_dir}: no such run directory")
        show(run_dir)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
