"""Names of models: of what is trained, of teachers, judges and reward models, and of what benchmarks score."""

import re
from collections.abc import Iterator, Mapping

from open_r1.benchmarks.copies import copy_problems
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.places import RUNS
from open_r1.recipe import STAGE_REFERENCE, Recipe, is_path
from open_r1.rewards import models_of_rewards
from open_r1.wording import closest

LABEL = re.compile(r"[\w.-]+")  # of a model that is scored; becomes part of a file's name
STEPS_WITHOUT_MODEL = ("generate", "preferences", "evaluate", "pipeline")


def model_problems(recipe: Recipe, earlier_stages: Mapping[str, Recipe], before_run: bool) -> Iterator[str]:
    names = {"model.name": recipe.model.name}
    if recipe.distill:
        names["distill.teacher"] = recipe.distill.teacher
    if recipe.judge:
        names["judge.name"] = recipe.judge.name
    names |= {f"rewards.{index}.model": name for index, name in models_of_rewards(recipe)}
    if recipe.evaluate:
        names |= {f"evaluate.models.{label}": name for label, name in recipe.evaluate.models.items()}
    makers = {name: stage.step for name, stage in earlier_stages.items() if stage.step not in STEPS_WITHOUT_MODEL}
    for key, name in names.items():
        if name is None:
            continue
        rewards = key.startswith("rewards.")  # or else it has to say something, but for a reward model's own beginning
        if makers.get(name.removeprefix(STAGE_REFERENCE), "") == "reward_model" and not rewards:
            if recipe.step != "reward_model":
                yield f"{key}: {name!r} is a reward model, which gives numbers and no answers; name another stage"
            continue
        if rewards and makers.get(name.removeprefix(STAGE_REFERENCE), "reward_model") != "reward_model":
            yield f"{key}: {name!r} is no reward model; name a stage of step reward_model"
            continue
        stage = name.removeprefix(STAGE_REFERENCE)
        if stage != name and stage not in makers:
            known = f"earlier stages: {', '.join(sorted(makers))}" if makers else "no stage runs before"
            yield f"{key}: {name!r} names no earlier stage that makes a model ({known}){closest(stage, makers)}"
        elif is_path(name) and not (recipe.path(name) / "config.json").is_file():
            if not recipe.path(name).is_relative_to(RUNS):
                yield f"{key}: no model at {recipe.path(name)} (it has no config.json)"
            elif before_run:
                yield f"{key}: no model at {recipe.path(name)}; run the recipe that makes it first"
        elif stage == name and not is_path(name) and name.count("/") > 1:
            yield f"{key}: {name!r} is no Hub id; a path begins with ./, ../ or /"
    template = recipe.model.chat_template
    if template and not recipe.path(template).is_file():
        yield f"model.chat_template: no such file: {recipe.path(template)}"


def sampling_problems(recipe: Recipe) -> Iterator[str]:
    """Answers to one prompt that would all be the same."""
    for key in ("generate", "distill", "preferences"):
        section = getattr(recipe, key)
        if section is not None and section.temperature == 0 and section.samples > 1:
            mend = f"give {key}.temperature" if key == "preferences" else "write samples: 1"
            yield f"{key}.samples: a prompt would get {section.samples} equal answers at temperature 0; {mend}"


def benchmark_problems(recipe: Recipe) -> Iterator[str]:
    section = recipe.evaluate
    if section is None:
        return
    for index, name in enumerate(section.benchmarks):
        if name not in BENCHMARKS:
            known = ", ".join(BENCHMARKS)
            yield f"evaluate.benchmarks.{index}: unknown benchmark {name!r} (known: {known}){closest(name, BENCHMARKS)}"
            continue
        samples = section.samples or BENCHMARKS[name].samples
        temperature = BENCHMARKS[name].temperature if section.temperature is None else section.temperature
        if temperature == 0 and samples > 1:
            yield f"evaluate.samples: {name} would get {samples} equal answers at temperature 0; write samples: 1"
    yield from copy_problems(recipe)
    for label in section.models:
        if not LABEL.fullmatch(label):
            yield f"evaluate.models.{label}: a label is made of letters, digits, `.`, `_` and `-`"
