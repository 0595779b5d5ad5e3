"""The stages of a pipeline as recipes of their own: values set, references to earlier stages resolved, all frozen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_r1.recipe import STAGE_REFERENCE, Recipe, Stage, dump_recipe, load_recipe

FROZEN_STAGES = "stages"


def stage_recipe(pipeline: Recipe, stage: Stage, models: Mapping[str, str] | None = None) -> Recipe:
    """The recipe of a stage with the pipeline's seed and the stage's `set` applied. Raises RecipeError.

    `models` maps names of stages to the directories of their models; without it `stage:x` is left as it stands.
    """
    overrides = {"seed": pipeline.seed, **_flatten(stage.set)}
    if models is not None:
        overrides = {key: _resolve(value, models) for key, value in overrides.items()}
    return load_recipe(pipeline.path(stage.recipe), overrides)


def references_of(value: Any) -> list[str]:
    """Names of the stages that a value of `set` refers to, in order."""
    if isinstance(value, dict):
        return [name for entry in value.values() for name in references_of(entry)]
    if isinstance(value, list):
        return [name for entry in value for name in references_of(entry)]
    if isinstance(value, str) and value.startswith(STAGE_REFERENCE):
        return [value.removeprefix(STAGE_REFERENCE)]
    return []


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
        references = {key: value for key, value in _flatten(stage.set).items() if references_of(value)}
        frozen.append(stage.model_copy(update={"recipe": str(file), "set": references}))
    return pipeline.model_copy(update={"stages": frozen})


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} -> {"a.b": 1}: a partial recipe as overrides."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _resolve(value: Any, models: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_resolve(entry, models) for entry in value]
    if isinstance(value, str) and value.startswith(STAGE_REFERENCE):
        return models[value.removeprefix(STAGE_REFERENCE)]
    return value
