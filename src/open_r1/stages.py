"""The stages of a pipeline as recipes of their own: values set, references to earlier stages resolved, all frozen.

`stage:x` is what the stage x made: its model, or the traces that it kept if it samples; `stage:x/prompts` are then its
prompts with their pass rates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_r1.recipe import STAGE_REFERENCE, Recipe, Stage, dump_recipe, load_recipe
from open_r1.recipe.loop import flatten, references_in, stage_named

FROZEN_STAGES = "stages"
MODEL, KEPT, PROMPTS = "model", "kept", "prompts"  # folders of a run directory


def stage_recipe(pipeline: Recipe, stage: Stage, run_dir: Path | None = None) -> Recipe:
    """The recipe of a stage with the pipeline's seed and the stage's `set` applied. Raises RecipeError.

    With the pipeline's `run_dir`, `stage:x` is what lies there; without it, it is left as it stands.
    """
    overrides = {"seed": pipeline.seed, **flatten(stage.set)}
    if run_dir is not None:
        overrides |= {key: _folder(key, value, run_dir) for key, value in references_in(stage.set).items()}
    return load_recipe(pipeline.path(stage.recipe), overrides)


def references_of(values: Mapping[str, Any]) -> list[str]:
    """Names of the stages that `set` refers to, in order."""
    return [stage_named(reference) for reference in references_in(values).values()]


def freeze_stages(pipeline: Recipe, run_dir: Path) -> Recipe:
    """The pipeline with every stage's recipe copied, resolved, into `run_dir/stages/`.

    So a stage that starts an hour later runs what stood in its recipe when the pipeline was started.
    """
    folder = run_dir / FROZEN_STAGES
    folder.mkdir(parents=True, exist_ok=True)
    frozen = []
    for stage in pipeline.stages:
        file = folder / f"{stage.name}.yaml"
        file.write_text(dump_recipe(stage_recipe(pipeline, stage)), encoding="utf-8")
        frozen.append(stage.model_copy(update={"recipe": str(file), "set": references_in(stage.set)}))
    return pipeline.model_copy(update={"stages": frozen})


def _folder(key: str, reference: str, run_dir: Path) -> str:
    """What a reference means in a pipeline's run: rows for `data.0.path` and the like, for all else a model."""
    name, _, folder = reference.removeprefix(STAGE_REFERENCE).partition("/")
    return str(run_dir / name / (folder or (KEPT if key.endswith(".path") else MODEL)))
