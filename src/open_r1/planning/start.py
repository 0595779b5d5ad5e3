"""The model that a recipe starts from, wherever its weights are: on the Hub, here, or made by another recipe."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from open_r1.hub import hub_model
from open_r1.places import RECIPES, RUNS
from open_r1.planning.architecture import Architecture, architecture_of_config
from open_r1.recipe import STAGE_REFERENCE, Recipe, RecipeError, is_path, load_recipe
from open_r1.rewards import models_of_rewards
from open_r1.stages import stage_recipe

CHARACTER_VOCABULARY = 105  # tokens of modeling.character_tokenizer, with which `pretrain` starts


def architecture_of(recipe: Recipe, stages: Mapping[str, Architecture] | None = None) -> Architecture:
    """The architecture of what the recipe trains. `stages` are those of the pipeline's earlier stages.

    Raises RecipeError if nothing says it.
    """
    if recipe.step == "reward_model":
        return replace(architecture_of_name(recipe, "model.name", recipe.model.name, stages), rewards=True)
    if recipe.model.architecture is not None:
        return _of_config(
            recipe, "model.architecture", {"vocab_size": CHARACTER_VOCABULARY, **recipe.model.architecture}
        )
    return architecture_of_name(recipe, "model.name", recipe.model.name, stages)


def architecture_of_name(
    recipe: Recipe, key: str, name: str, stages: Mapping[str, Architecture] | None = None
) -> Architecture:
    """The architecture of a model as `model.name` names it. Raises RecipeError if nothing says it."""
    if name.startswith(STAGE_REFERENCE):
        stage = name.removeprefix(STAGE_REFERENCE)
        if stage not in (stages or {}):
            raise RecipeError(f"{recipe.source}: {key}: no stage {stage!r} before this one trains a model")
        return stages[stage]
    if not is_path(name):
        return _of_config(recipe, key, hub_model(name).config)
    path = recipe.path(name)
    file = path / "config.json"
    if file.is_file():
        return _of_config(recipe, key, json.loads(file.read_text(encoding="utf-8")))
    maker = recipe_that_makes(path)
    if maker is None:
        raise RecipeError(f"{recipe.source}: {key}: no model at {path} (it has no config.json), and no recipe makes it")
    return architecture_of(maker)


def reward_models_of(recipe: Recipe, stages: Mapping[str, Architecture] | None = None) -> dict[int, Architecture]:
    """The reward models that the recipe's rewards ask, by their position. Raises RecipeError if nothing says one."""
    return {
        index: replace(architecture_of_name(recipe, f"rewards.{index}.model", name, stages), rewards=True)
        for index, name in models_of_rewards(recipe)
    }


def recipe_that_makes(model: Path) -> Recipe | None:
    """The recipe whose run leaves a model at this path under runs/, or None if no recipe's name leads there.

    Of a stage that trains an earlier stage's model, that one's: it says what the model is.
    """
    found = _recipe_and_stage_at(model)
    return found and (_stage_that_makes(*found) if found[1] else found[0])


def recipe_at(path: Path) -> Recipe | None:
    """The recipe, or the stage's, whose run leaves something at this path under runs/, or None if there is none."""
    found = _recipe_and_stage_at(path)
    if found is None or found[1] is None:
        return found and found[0]
    pipeline, name = found
    return next((stage_recipe(pipeline, stage) for stage in pipeline.stages if stage.name == name), None)


def _recipe_and_stage_at(path: Path) -> tuple[Recipe, str | None] | None:
    """The recipe in whose run a path is, and of a pipeline the name of the stage."""
    if not path.is_relative_to(RUNS):
        return None
    parts = path.relative_to(RUNS).parts
    for depth in range(len(parts) - 1, 0, -1):
        file = RECIPES.joinpath(*parts[:depth]).with_suffix(".yaml")
        if not file.is_file():
            continue
        recipe = load_recipe(file)
        return recipe, parts[depth + 1] if recipe.step == "pipeline" else None  # runs/<recipe>/<run>/<stage>/model
    return None


def _stage_that_makes(pipeline: Recipe, name: str) -> Recipe | None:
    """The recipe of a stage, or of the earlier one that made what it starts from."""
    recipes = {stage.name: stage_recipe(pipeline, stage) for stage in pipeline.stages}
    while name in recipes:
        recipe = recipes[name]
        start = recipe.model.name or ""
        if not start.startswith(STAGE_REFERENCE):
            return recipe
        name = start.removeprefix(STAGE_REFERENCE)
    return None


def _of_config(recipe: Recipe, key: str, config: Mapping[str, Any]) -> Architecture:
    try:
        return architecture_of_config(config)
    except ValueError as error:
        raise RecipeError(f"{recipe.source}: {key}: {error}") from None
