"""`make check`: everything that can be known of a recipe without a GPU, without the network and without torch.

`recipe` knows the shape of a recipe; here its names are looked up: models, data, rewards, benchmarks, hardware, stages.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from open_r1.check.data import data_problems
from open_r1.check.hardware import accelerate_config_of, batch_problems, hardware_problems
from open_r1.check.models import benchmark_problems, model_problems, sampling_problems
from open_r1.check.rewards import ai_judge_problems, reward_problems, truth_problems
from open_r1.gates import gate_problems
from open_r1.incompatible import incompatible_settings, missing_packages
from open_r1.places import ACCELERATE_CONFIGS, HUB, RECIPES
from open_r1.recipe import Recipe, RecipeError, load_recipe
from open_r1.rewards import unwatched
from open_r1.stages import stage_recipe

NO_RECIPES = (ACCELERATE_CONFIGS, HUB)
RUBRICS = "rubrics"  # folder beside recipes


def check_recipe(recipe: Recipe, earlier_stages: Mapping[str, Recipe] | None = None, before_run: bool = False) -> None:
    """Returns if nothing is wrong. Raises RecipeError with a line for each mistake.

    `earlier_stages` maps the names that `stage:` references may mean to their recipes; outside of a pipeline there are
    none. What another run is to make (a path under runs/) need be there only `before_run`.
    """
    accelerate_config = accelerate_config_of(recipe)
    problems = [
        *model_problems(recipe, earlier_stages or {}, before_run),
        *data_problems(recipe, earlier_stages or {}, before_run),
        *reward_problems(recipe),
        *ai_judge_problems(recipe),
        *truth_problems(recipe),
        *sampling_problems(recipe),
        *benchmark_problems(recipe),
        *batch_problems(recipe),
        *hardware_problems(recipe),
        *incompatible_settings(recipe, accelerate_config),
        *(missing_packages(recipe, accelerate_config) if before_run else ()),
    ]
    lines = [f"{recipe.source}: {problem}" for problem in problems]
    if recipe.step == "pipeline":
        lines += _stage_problems(recipe, before_run)
    if lines:
        raise RecipeError(*dict.fromkeys(lines))


def not_ready(recipe: Recipe) -> list[str]:
    """What keeps a recipe that is right from being run here and now: packages, models that another run has to make."""
    try:
        check_recipe(recipe, before_run=True)
    except RecipeError as error:
        return [f"not ready: {line}" for line in error.lines]
    return []


def notes_on(recipe: Recipe) -> list[str]:
    """What is no mistake of a recipe that is right, and may yet be none of its author's wishes; of all its stages."""
    if recipe.step == "pipeline":
        return list(dict.fromkeys(note for stage in recipe.stages for note in notes_on(stage_recipe(recipe, stage))))
    if recipe.step != "grpo" or not (names := unwatched(recipe)):
        return []
    return [
        f"note: {recipe.source}: guards: nothing would tell if the policy deceived {', '.join(names)}; add eval_data "
        f"with a reward that verifies (of weight 0 if it is to look only) or guards.truth, or write guards."
        f"max_eval_drop: null"
    ]


def all_recipes(folder: Path = RECIPES) -> list[Path]:
    """Every recipe of the repository: each .yaml under recipes/ that is no rubric and not in one of NO_RECIPES."""
    files = [file for file in sorted(folder.rglob("*.yaml")) if not set(NO_RECIPES) & set(file.parents)]
    files = [file for file in files if file.parent.name != RUBRICS]
    return [Path(os.path.relpath(file)) for file in files]  # as one would type it


def main(arguments: list[str]) -> int:
    """Checks the recipe named first, with the overrides after it, or all recipes; prints a line for each."""
    files, overrides = ([Path(arguments[0])], arguments[1:]) if arguments else (all_recipes(), [])
    failed = 0
    for file in files:
        try:
            check_recipe(recipe := load_recipe(file, overrides))
            print(f"{file}: ok", *notes_on(recipe), sep="\n  ")
        except RecipeError as error:
            failed += 1
            print(error, file=sys.stderr)
    return 2 if failed else 0


def _stage_problems(pipeline: Recipe, before_run: bool) -> Iterator[str]:
    """Whole lines: a stage's mistakes stand in the stage's recipe, or in what the pipeline sets.

    Packages of every stage are asked for before the first begins, and not when its turn comes, days later.
    """
    earlier: dict[str, Recipe] = {}
    names = [stage.name for stage in pipeline.stages]
    for stage in pipeline.stages:
        if names.count(stage.name) > 1:
            yield f"{pipeline.source}: stages.{stage.name}: two stages have this name"
        try:
            recipe = stage_recipe(pipeline, stage)
            if recipe.step == "pipeline":
                raise RecipeError(f"{recipe.source}: step: a stage cannot be a pipeline itself")
            yield from (f"{pipeline.source}: {problem}" for problem in gate_problems(stage, recipe))
            check_recipe(recipe, earlier)
        except RecipeError as error:
            yield from (f"{line} (stage {stage.name} of {pipeline.source})" for line in error.lines)
            continue
        if before_run:
            for problem in missing_packages(recipe, accelerate_config_of(recipe)):
                yield f"{recipe.source}: {problem} (stage {stage.name} of {pipeline.source})"
        earlier[stage.name] = recipe
