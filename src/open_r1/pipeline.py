"""Stages in a chain, each a run of its own that starts from the model of an earlier one.

DeepSeek-R1, figure 2 of the Nature article: base, cold start, reasoning RL, distillation. A stage that is done is
skipped, one that failed or was interrupted is taken up again, and one whose parent was made anew is made anew.
"""

import json
from pathlib import Path
from typing import Any

from open_r1 import run_record, signals
from open_r1.check import check_recipe
from open_r1.launch import is_done, launch, model_parents
from open_r1.recipe import Recipe, Stage
from open_r1.stages import references_of, stage_recipe
from open_r1.step_process import RunStopped, run_step


def pipeline(recipe: Recipe, run_dir: Path) -> None:
    """Runs every stage in `run_dir/<stage>`, in order, and gathers the scores; stops at the first that fails.

    Raises Interrupted if a signal asked for it, which the stage that was running has got as well.
    """
    for number, stage in enumerate(recipe.stages, start=1):
        title = f"[{number}/{len(recipe.stages)}] {stage.name}"
        stage_dir = run_dir / stage.name
        models = {name: str(run_dir / name / "model") for name in references_of(stage.set)}
        resolved = stage_recipe(recipe, stage, models)
        check_recipe(resolved, before_run=True)
        parents = stage_parents(recipe, stage, resolved, run_dir)
        if is_done(stage_dir, resolved, parents):
            print(f"{title}: done already", flush=True)
            continue
        print(f"{title}: {resolved.step}", flush=True)
        exit_code = launch(resolved, stage_dir, parents)
        if exit_code == signals.EXIT_INTERRUPTED:
            raise signals.interruption_of(stage_dir)
        if exit_code:
            raise RunStopped(
                f"stage {stage.name} failed: {run_record.read_record(stage_dir)['error'].strip().splitlines()[-1]}"
            )
        if signals.received():  # when that stage had as good as ended
            raise signals.Interrupted(signals.received())
    gather_scores(recipe, run_dir)


def gather_scores(recipe: Recipe, run_dir: Path) -> None:
    """Writes what the evaluate stages scored to the pipeline's own scores.json; of equal labels the last counts."""
    scores: dict[str, Any] = {}
    for stage in recipe.stages:
        scores |= run_record.read_record(run_dir / stage.name)["scores"] or {}
    if scores:
        (run_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def stage_parents(recipe: Recipe, stage: Stage, resolved: Recipe, run_dir: Path) -> list[dict[str, Any]]:
    """As launch.model_parents, the runs of this pipeline named by their stage."""
    names = {str(run_dir / earlier.name): earlier.name for earlier in recipe.stages}
    return [{**parent, "name": names.get(parent["run"], parent["name"])} for parent in model_parents(resolved)]


if __name__ == "__main__":
    run_step(pipeline)
