"""Stages in a chain, each a run of its own that starts from the model of an earlier one.

DeepSeek-R1, figure 2 of the Nature article: R1-Zero, cold start, RL, rejection sampling, SFT of the base, RL again,
distillation. A stage that is done is skipped, one that failed or was interrupted is taken up again, and one whose
parent was made anew is made anew. A stage with a gate has to have reached it before the next one begins.
"""

import json
import os
from pathlib import Path
from typing import Any

from open_r1 import run_record, signals
from open_r1.check import check_recipe
from open_r1.gates import check_gate
from open_r1.recipe import Recipe, RecipeError, Stage, dump_recipe, load_recipe
from open_r1.recipe.loop import references_in, stage_named
from open_r1.resuming import RECIPE_FILE
from open_r1.running import is_done, launch, model_parents
from open_r1.slurm.site import site_of_this_process
from open_r1.stages import freeze_stages, references_of, stage_recipe
from open_r1.step_process import RunStopped, run_step
from open_r1.wording import closest


def pipeline(recipe: Recipe, run_dir: Path) -> None:
    """Runs every stage in `run_dir/<stage>`, in order, and gathers the scores; stops at the first that fails.

    Raises Interrupted if a signal asked for it, which the stage that was running has got as well.
    """
    for number, stage in enumerate(recipe.stages, start=1):
        title = f"[{number}/{len(recipe.stages)}] {stage.name}"
        stage_dir = run_dir / stage.name
        resolved, parents = resolve(recipe, stage, run_dir)
        if is_done(stage_dir, resolved, parents):
            print(f"{title}: done already", flush=True)
            check_gate(recipe, stage, stage_dir)
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
        check_gate(recipe, stage, stage_dir)
    gather_scores(recipe, run_dir)


def resolve(recipe: Recipe, stage: Stage, run_dir: Path) -> tuple[Recipe, list[dict[str, Any]]]:
    """The recipe of a stage, checked, with the models of earlier stages in it, and its parents. Raises RecipeError."""
    resolved = stage_recipe(recipe, stage, run_dir)
    check_recipe(resolved, before_run=site_of_this_process().container is None)
    return resolved, stage_parents(recipe, stage, resolved, run_dir)


def prepare(recipe: Recipe, run_dir: Path) -> Recipe:
    """The pipeline with its stages as they were when its run was first begun, or submitted; gates as they are now."""
    if not (run_dir / RECIPE_FILE).exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        unfinished = run_dir / f".{RECIPE_FILE}.{os.getpid()}"  # jobs may begin at the same moment
        unfinished.write_text(dump_recipe(freeze_stages(recipe, run_dir)), encoding="utf-8")
        os.replace(unfinished, run_dir / RECIPE_FILE)
    frozen = load_recipe(run_dir / RECIPE_FILE)
    gates = {stage.name: stage.gate for stage in recipe.stages}
    stages = [stage.model_copy(update={"gate": gates.get(stage.name, stage.gate)}) for stage in frozen.stages]
    return frozen.model_copy(update={"stages": stages})


def stage_of_run(recipe: Recipe, run_dir: Path, name: str) -> tuple[Recipe, Path, list[dict[str, Any]]]:
    """What is needed to run one stage by itself: its recipe, its directory, its parents.

    Raises RecipeError if there is no such stage, or if a stage whose model or data it needs is not done; RunStopped if
    an earlier one that is done has not reached its gate.
    """
    frozen = prepare(recipe, run_dir)
    stages = {stage.name: stage for stage in frozen.stages}
    if name not in stages:
        raise RecipeError(
            f"{recipe.source}: --stage {name}: no such stage (known: {', '.join(stages)}){closest(name, stages)}"
        )
    for parent in references_of(stages[name].set):
        if (status := status_of(run_dir / parent)) != "done":
            raise RecipeError(
                f"{recipe.source}: --stage {name}: it needs what {parent} makes, which is {status}; run that first"
            )
    for earlier in frozen.stages[: list(stages).index(name)]:
        if status_of(run_dir / earlier.name) == "done":
            check_gate(frozen, earlier, run_dir / earlier.name)
    resolved, parents = resolve(frozen, stages[name], run_dir)
    return resolved, run_dir / name, parents


def check_gate_of(recipe: Recipe, run_dir: Path, name: str) -> None:
    """Returns if the stage of this name, which is done, has reached its gate. Raises RunStopped if it has not."""
    (stage,) = (stage for stage in prepare(recipe, run_dir).stages if stage.name == name)
    check_gate(recipe, stage, run_dir / name)


def status_of(run_dir: Path) -> str:
    """As in its record: running, done, interrupted, failed; or `not begun`."""
    record = run_record.read_record(run_dir)
    return record["status"] if record else "not begun"


def finish(recipe: Recipe, run_dir: Path) -> list[str]:
    """Writes the pipeline's own record and scores if all of its stages are done; else gives those that are not."""
    frozen = prepare(recipe, run_dir)
    missing = [stage.name for stage in frozen.stages if status_of(run_dir / stage.name) != "done"]
    if missing:
        return missing
    records = {stage.name: run_record.read_record(run_dir / stage.name) for stage in frozen.stages}
    costs = [record["cost_usd"] for record in records.values()]
    run_record.start_record(run_dir, recipe, str(recipe.source), [])
    gather_scores(frozen, run_dir)
    run_record.finish_record(run_dir, "done")
    run_record.update_record(
        run_dir,
        started_at=min(record["started_at"] for record in records.values()),
        seconds=sum(record["seconds"] for record in records.values()),
        cost_usd=None if None in costs else sum(costs),
    )
    if rubrics := {
        f"stages.{name}.{key}": sha256
        for name, record in records.items()
        for key, sha256 in record.get("rubrics", {}).items()
    }:
        run_record.update_record(run_dir, rubrics=rubrics)
    return []


def gather_scores(recipe: Recipe, run_dir: Path) -> None:
    """Writes what the evaluate stages scored to the pipeline's own scores.json; of equal labels the last counts.

    A stage that scores its `model.name` has no label for it: the model then has the name of the stage that made it.
    """
    scores: dict[str, Any] = {}
    for stage in recipe.stages:
        scored = run_record.read_record(run_dir / stage.name)["scores"] or {}
        maker = references_in(stage.set).get("model.name")
        scores |= {stage_named(maker): scored["model"]} if maker and list(scored) == ["model"] else scored
    if scores:
        (run_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def stage_parents(recipe: Recipe, stage: Stage, resolved: Recipe, run_dir: Path) -> list[dict[str, Any]]:
    """As running.model_parents, the runs of this pipeline named by their stage."""
    names = {str(run_dir / earlier.name): earlier.name for earlier in recipe.stages}
    return [{**parent, "name": names.get(parent["run"], parent["name"])} for parent in model_parents(resolved)]


if __name__ == "__main__":
    run_step(pipeline)
