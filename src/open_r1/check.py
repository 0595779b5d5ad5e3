"""`make check`: everything that can be known of a recipe without a GPU, without the network and without torch.

`recipe.py` knows the shape of a recipe; here its names are looked up: rewards, columns, benchmarks, files, stages.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from open_r1.benchmarks.copies import copy_problems
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.curation.columns import columns_left
from open_r1.curation.readability import keep_problems
from open_r1.data import columns_of, mixture_problems
from open_r1.data.choice import column_problems
from open_r1.data.columns import STEP_COLUMNS
from open_r1.feedback import judge_problems, load_rubric
from open_r1.feedback.asking import check_template
from open_r1.gates import gate_problems
from open_r1.incompatible import incompatible_settings, missing_packages
from open_r1.places import ACCELERATE_CONFIGS, HUB, RECIPES, RUNS
from open_r1.procedural import FAMILIES, explanations
from open_r1.recipe import (
    STAGE_REFERENCE,
    DataSource,
    Recipe,
    RecipeError,
    Reward,
    is_path,
    load_recipe,
    value_problem,
)
from open_r1.recipe.trainer_fields import steps_per_rollout, trainer_value
from open_r1.rewards import (
    NOT_FROM_0_TO_1,
    REWARDS,
    asks_judge,
    build_rewards,
    columns_of_reward,
    missing_parameters,
    models_of_rewards,
    settable_parameters,
    truths_of,
    types_of_parameters,
)
from open_r1.rewards.completion import prefill_problems
from open_r1.stages import KEPT, PROMPTS, stage_recipe
from open_r1.wording import closest

NO_RECIPES = (ACCELERATE_CONFIGS, HUB)
RUBRICS = "rubrics"  # folder beside recipes
LABEL = re.compile(r"[\w.-]+")  # of a model that is scored; becomes part of a file's name
STEPS_WITHOUT_MODEL = ("generate", "preferences", "evaluate", "pipeline")
STEPS_THAT_SAMPLE = ("generate", "preferences", "distill")
FOLDERS_OF_TRACES = (KEPT, PROMPTS)


def check_recipe(recipe: Recipe, earlier_stages: Mapping[str, Recipe] | None = None, before_run: bool = False) -> None:
    """Returns if nothing is wrong. Raises RecipeError with a line for each mistake.

    `earlier_stages` maps the names that `stage:` references may mean to their recipes; outside of a pipeline there are
    none. What another run is to make (a path under runs/) need be there only `before_run`.
    """
    accelerate_config = _accelerate_config(recipe)
    problems = [
        *_model_problems(recipe, earlier_stages or {}, before_run),
        *_data_problems(recipe, earlier_stages or {}, before_run),
        *_reward_problems(recipe),
        *_judge_problems(recipe),
        *_truth_problems(recipe),
        *_benchmark_problems(recipe),
        *_batch_problems(recipe),
        *_hardware_problems(recipe),
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


def all_recipes(folder: Path = RECIPES) -> list[Path]:
    """Every recipe of the repository: each .yaml under recipes/ that is no rubric and not in one of NO_RECIPES."""
    files = [file for file in sorted(folder.rglob("*.yaml")) if not set(NO_RECIPES) & set(file.parents)]
    files = [file for file in files if file.parent.name != RUBRICS]
    return [Path(os.path.relpath(file)) for file in files]  # as one would type it


def _model_problems(recipe: Recipe, earlier_stages: Mapping[str, Recipe], before_run: bool) -> Iterator[str]:
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


def _data_problems(recipe: Recipe, earlier_stages: Mapping[str, Recipe], before_run: bool) -> Iterator[str]:
    for key, source in recipe.data_sources():
        if source.path and source.path.startswith(STAGE_REFERENCE):
            problems = list(_reference_problems(source.path, earlier_stages))
            yield from (f"{key}.path: {problem}" for problem in problems)
            if not problems:
                yield from (f"{key}.{problem}" for problem in _missing_columns(recipe, source, earlier_stages))
            continue
        if source.path and not before_run and _is_to_be_made(recipe, source.path):
            continue
        try:
            columns_of(recipe, source)
        except RecipeError as error:
            yield f"{key}.{error}"
        if source.procedural:
            yield from (f"{key}.procedural.{problem}" for problem in _procedural_problems(source))
    yield from _shared_rows(recipe)
    yield from mixture_problems(recipe)
    yield from keep_problems(recipe.keep)


def _reference_problems(reference: str, earlier_stages: Mapping[str, Recipe]) -> Iterator[str]:
    """What is wrong with a reference to the rows of a stage."""
    stage, _, folder = reference.removeprefix(STAGE_REFERENCE).partition("/")
    samplers = sorted(name for name, stage in earlier_stages.items() if stage.step in STEPS_THAT_SAMPLE)
    if stage not in samplers:
        known = f"earlier stages: {', '.join(samplers)}" if samplers else "no such stage runs before"
        yield f"{reference!r} names no earlier stage that samples ({known}){closest(stage, samplers)}"
        return
    folders = (KEPT,) if earlier_stages[stage].step == "preferences" else FOLDERS_OF_TRACES
    if folder not in ("", *folders):
        yield f"a stage of its kind has no {folder!r} (known: {', '.join(folders)}){closest(folder, folders)}"


def _missing_columns(recipe: Recipe, source: DataSource, earlier_stages: Mapping[str, Recipe]) -> Iterator[str]:
    """Columns that a stage's rows would have to have, and will not."""
    stage, _, folder = source.path.removeprefix(STAGE_REFERENCE).partition("/")
    theirs = columns_left(earlier_stages[stage], folder or KEPT)
    if theirs is None:
        return
    absent = [column for column in source.columns.values() if column not in theirs]
    if absent:
        yield f"columns: {source.path} has no column {absent[0]}; it has {', '.join(sorted(theirs))}"
        return
    ours = set(source.columns) | theirs.difference(source.columns.values())
    yield from column_problems(source, ours)
    if missing := [column for column in STEP_COLUMNS[recipe.step] if column not in ours]:
        yield f"path: {source.path} has no column {missing[0]}, which step {recipe.step} needs"


def _is_to_be_made(recipe: Recipe, path: str) -> bool:
    """True for the folder of a run that has not been yet."""
    return recipe.path(path).is_relative_to(RUNS) and not recipe.path(path).exists()


def _shared_rows(recipe: Recipe) -> Iterator[str]:
    """What is trained on says nothing of what was learned: evaluation is on rows of its own."""
    for index, held_out in enumerate(recipe.eval_data):
        key = f"eval_data.{index}"
        if held_out.procedural and held_out.procedural.split == "train":
            yield f"{key}.procedural.split: its problems can be in training data; write split: validation"
            continue
        for number, source in enumerate(recipe.data):
            if _split_of(recipe, held_out) == _split_of(recipe, source) and not _are_apart(held_out, source):
                yield (
                    f"{key}: data.{number} trains on the same rows; give another split or file, or parts of them, e.g. "
                    f"part: [0, 0.9] to train on and [0.9, 1] here"
                )


def _split_of(recipe: Recipe, source: DataSource) -> tuple:
    """Equal for two sources that can have the same rows."""
    if source.procedural:
        return source.procedural.family, source.procedural.split
    return (recipe.path(source.path),) if source.path else (source.name, source.config, source.split)


def _are_apart(source: DataSource, other: DataSource) -> bool:
    """True if the two are parts of the same rows that have none in common."""
    if source.part is None or other.part is None or source.where != other.where:
        return False
    return source.part[0] >= other.part[1] or other.part[0] >= source.part[1]


def _procedural_problems(source: DataSource) -> Iterator[str]:
    section = source.procedural
    if section.family not in FAMILIES:
        yield f"family: unknown data source {section.family!r}{closest(section.family, FAMILIES)}"
        return
    family = FAMILIES[section.family]
    for style in section.styles or ():
        if style not in family.STYLES:
            yield f"styles.{style}: unknown style (known: {', '.join(family.STYLES)}){closest(style, family.STYLES)}"
    if not section.parameters:
        return
    known = family.parameter_names()
    for key in section.parameters:
        if key not in known:
            yield f"parameters.{key}: unknown parameter of {family.ORIGIN}{closest(key, known)}"
    if family is explanations and (problem := explanations.parameter_problem(section.parameters)):
        yield f"parameters.{problem}"


def _reward_problems(recipe: Recipe) -> Iterator[str]:
    called = [reward.called for reward in recipe.rewards]
    for index, reward in enumerate(recipe.rewards):
        key = f"rewards.{index}"
        if reward.called in called[:index]:
            yield f"{key}.label: another reward is called {reward.called} already; give one of them a label"
        if reward.last_step is not None and reward.last_step < reward.first_step:
            yield f"{key}.last_step: {reward.last_step} is before first_step {reward.first_step}: it would never count"
        elif recipe.step == "grpo":
            yield from (f"{key}.{problem}" for problem in _step_range_problems(recipe, reward))
        if ":" not in reward.name and reward.name not in REWARDS:
            known = ", ".join(REWARDS)
            yield f"{key}.name: unknown reward {reward.name!r} (known: {known}){closest(reward.name, REWARDS)}"
            continue
        try:
            known = settable_parameters(reward.name)
            unknown = [name for name in reward.parameters if name not in known]
            for name in unknown:
                mend = closest(name, [*known, "weight", "shuffled"])
                yield f"{key}.{name}: unknown parameter of reward {reward.name}{mend}"
            types = types_of_parameters(reward.name)
            wrong = [
                line
                for name, value in reward.parameters.items()
                if name in types and (line := value_problem(f"{key}.{name}", value, types[name]))
            ]
            yield from wrong
            missing = missing_parameters(reward)
            for name in missing:
                yield f"{key}.{name}: missing; reward {reward.name} needs it"
            if unknown or wrong or missing:
                continue
            columns = columns_of_reward(reward)
            yield from _column_problems(recipe, key, reward, columns)
        except RecipeError as error:
            yield f"{key}.name: {error}"
            continue
        if reward.name in REWARDS:
            try:
                _try_on_nothing(recipe, reward, columns)
            except RecipeError as error:
                yield f"{key}: {error}"
    if recipe.step == "grpo":
        yield from _unjudged_sources(recipe)
    template = _chat_template(recipe)
    if template:
        yield from prefill_problems(_render(template), recipe.rewards, recipe.thinking)


def _step_range_problems(recipe: Recipe, reward: Reward) -> Iterator[str]:
    """Steps in which a reward cannot begin or end."""
    max_steps = trainer_value("grpo", recipe.trainer, "max_steps")
    if isinstance(max_steps, int) and 0 < max_steps < reward.first_step:
        yield f"first_step: {reward.first_step} is after trainer.max_steps {max_steps}: it would never count"
        return
    per_rollout = steps_per_rollout(recipe.trainer, recipe.hardware.num_processes)
    for name, step, num_before in (
        ("first_step", reward.first_step, reward.first_step - 1),
        ("last_step", reward.last_step, reward.last_step),
    ):
        if num_before is not None and num_before % per_rollout:
            below = num_before // per_rollout * per_rollout
            around = [end + step - num_before for end in (below, below + per_rollout)]
            mend = " or ".join(str(each) for each in around if each > 0)
            yield (
                f"{name}: {step} is in the middle of a rollout, which is judged once for {per_rollout} steps (trainer."
                f"steps_per_generation x num_iterations, over gradient_accumulation_steps); write {mend}"
            )


def _unjudged_sources(recipe: Recipe) -> Iterator[str]:
    """Rows that get no reward at all; what their own column `task` says is known when they are loaded."""
    for key, source in recipe.data_sources():
        if any(reward.is_for(source.task) for reward in recipe.rewards):
            continue
        if source.task is None:
            try:
                columns = columns_of(recipe, source)
            except RecipeError:
                continue  # told with the data
            if columns is None or "task" in columns or "task" in source.columns:
                continue
        rows = "rows of no task" if source.task is None else f"rows of task {source.task!r}"
        yield f"{key}.task: no reward is for {rows}; add one, or remove the source"


def _try_on_nothing(recipe: Recipe, reward: Reward, columns: Sequence[str]) -> None:
    """Raises RecipeError if one of our rewards refuses its parameters, which it does before it looks at anything."""
    anywhere = reward.model_copy(update={"task": None})
    if rubric := anywhere.parameters.get("rubric"):  # as the step will read it
        anywhere = anywhere.model_copy(update={"rubric": str(recipe.path(rubric))})
    (function,) = build_rewards([anywhere], recipe.thinking, recipe.seed, max_completion_tokens_of(recipe))
    empty: list = []
    function(empty, prompts=empty, completion_ids=empty, **dict.fromkeys(columns, empty))
    if rubric:
        check_template(load_rubric(recipe.path(rubric)), _num_candidates(recipe))


def _column_problems(recipe: Recipe, key: str, reward: Reward, needed: Iterable[str]) -> Iterator[str]:
    tasks = sorted({source.task for _, source in recipe.data_sources() if source.task})
    from_column = any("task" in source.columns for _, source in recipe.data_sources())  # its values are the data's
    for task in () if from_column else reward.tasks or ():
        if task not in tasks:
            known = f"known: {', '.join(tasks)}" if tasks else "no source has one; give data.0.task"
            yield f"{key}.task: no data is of task {task!r} ({known}){closest(task, tasks)}"
    for source_key, source in recipe.data_sources():
        if not reward.is_for(source.task) and "task" not in source.columns:
            continue
        try:
            given = columns_of(recipe, source)
        except RecipeError:
            continue  # told with the data
        if given is None:  # the Hub's columns are known when the data is loaded; a mapping says which are meant
            given = set(source.columns) | set(needed if not source.columns else ())
        for column in needed:
            if column not in given:
                yield (
                    f"{key}: {reward.name} needs the column {column}, which {source_key} does not give; "
                    f"add {source_key}.columns.{column}"
                )


def _judge_problems(recipe: Recipe) -> Iterator[str]:
    yield from judge_problems(recipe)
    asked = asks_judge(recipe.rewards) or recipe.preferences is not None
    if asked and recipe.judge is None and recipe.step != "preferences":  # whose sections are told otherwise
        yield "judge: missing; a judge reward needs it, e.g. {endpoint: {base_url: …, model: …}}"
    elif recipe.judge is not None and not asked:
        yield "judge: nothing asks it; add a judge reward, or remove it"
    if recipe.preferences is not None:
        yield from _rubric_problems(recipe, "preferences.rubric", recipe.preferences.rubric)
    for key, source in recipe.data_sources():
        if source.rubric is None:
            continue
        yield from _rubric_problems(recipe, f"{key}.rubric", source.rubric)
        if recipe.step != "sft":
            yield f"{key}.rubric: a judge learns its verdicts by step sft, and this is {recipe.step}; remove it"


def _num_candidates(recipe: Recipe) -> int:
    return recipe.judge.candidates if recipe.judge is not None else 1


def _rubric_problems(recipe: Recipe, key: str, path: str) -> Iterator[str]:
    try:
        check_template(load_rubric(recipe.path(path)), _num_candidates(recipe))
    except RecipeError as error:
        yield from (f"{key}: {line}" for line in error.lines)


def _truth_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.step == "grpo" and recipe.guards.max_kl is not None and not trainer_value("grpo", recipe.trainer, "beta"):
        yield "guards.max_kl: with trainer.beta 0 nobody computes it; set trainer.beta, e.g. 0.001, or remove it"
    yield from _signs_of_nothing(recipe)
    truth = recipe.guards.truth
    if truth is None:
        return
    called = [reward.called for reward in recipe.rewards]
    if truth not in called:
        known = f"known: {', '.join(called)}" if called else "there is none"
        yield f"guards.truth: no reward is called {truth!r} ({known}){closest(truth, called)}"
    elif not recipe.eval_data:
        yield "guards.truth: it is looked at on eval_data, which is missing; add it, and trainer.eval_strategy"
    else:
        reward = recipe.rewards[called.index(truth)]
        if reward.name in NOT_FROM_0_TO_1:
            yield f"guards.truth: {reward.name} is no number from 0 to 1; name another reward, e.g. one of weight 0"
        if not reward.counts_always:
            yield (
                f"guards.truth: evaluations before first_step or after last_step of {truth} would have no value of it; "
                f"remove these, or name another reward, e.g. one of weight 0"
            )


def _signs_of_nothing(recipe: Recipe) -> Iterator[str]:
    guards = recipe.guards
    if recipe.step != "grpo" or not guards.stop_on_signs:
        return
    has_truth = guards.max_eval_drop is not None and recipe.eval_data and truths_of(guards, recipe.rewards)
    if not has_truth and guards.min_entropy_share is guards.max_length_drift is guards.max_kl is None:
        yield (
            "guards.stop_on_signs: nothing looks for a sign; set guards.truth (with eval_data), min_entropy_share, "
            "max_length_drift or max_kl, or remove it"
        )


def _chat_template(recipe: Recipe) -> str | None:
    """The chat template if it lies on this disk: the recipe's file, or the one beside a local model."""
    if recipe.model.chat_template:
        file = recipe.path(recipe.model.chat_template)
    elif recipe.model.name and is_path(recipe.model.name):
        file = recipe.path(recipe.model.name) / "chat_template.jinja"
    else:
        return None
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _render(template: str) -> str:
    """The prompt that the template makes of one question; the empty string if it needs more than transformers gives."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = lambda message: ""
    messages = [{"role": "user", "content": "1+1=?"}]
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    except jinja2.TemplateError:
        return ""


def _benchmark_problems(recipe: Recipe) -> Iterator[str]:
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


def _batch_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.step != "grpo":
        return
    values = {
        key: trainer_value("grpo", recipe.trainer, key)
        for key in (
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "steps_per_generation",
            "generation_batch_size",
            "num_generations",
        )
    }
    if not all(value is None or isinstance(value, int) for value in values.values()):
        return  # a wrong type; told already
    processes = recipe.hardware.num_processes
    rollouts = values["generation_batch_size"] or (
        values["per_device_train_batch_size"]
        * processes
        * (values["steps_per_generation"] or values["gradient_accumulation_steps"])
    )
    if (values["num_generations"] or 0) < 2:
        yield f"trainer.num_generations: a group of {values['num_generations']} has no advantage; at least 2"
    elif rollouts % values["num_generations"]:
        yield (
            f"trainer.num_generations: {rollouts} completions a rollout (per_device_train_batch_size "
            f"{values['per_device_train_batch_size']} x processes {processes} x steps_per_generation) cannot be "
            f"divided into groups of {values['num_generations']}"
        )
    elif processes > 1 and (rollouts // processes) % values["num_generations"] and not values["generation_batch_size"]:
        compares = ("length", "judge") if recipe.judge is not None and recipe.judge.candidates > 1 else ("length",)
        for index, reward in enumerate(recipe.rewards):
            if reward.name in compares:
                yield (
                    f"rewards.{index}: {reward.name} compares the completions of one prompt, but "
                    f"{rollouts // processes} completions a process cut groups of {values['num_generations']} in "
                    f"pieces; choose "
                    f"trainer.per_device_train_batch_size x steps_per_generation as a multiple of num_generations"
                )
    if recipe.eval_data:
        yield from _eval_batch_problems(recipe, processes)


def _eval_batch_problems(recipe: Recipe, processes: int) -> Iterator[str]:
    keys = ("per_device_eval_batch_size", "num_generations_eval", "num_generations")
    batch, *group_sizes = (trainer_value("grpo", recipe.trainer, key) for key in keys)
    group = next(filter(None, group_sizes), None)
    if isinstance(batch, int) and isinstance(group, int) and (batch * processes) % group:
        yield (
            f"trainer.per_device_eval_batch_size: {batch} x processes {processes} cannot be divided into groups of "
            f"{group}; raise it, or set trainer.num_generations_eval"
        )


def max_completion_tokens_of(recipe: Recipe) -> int:
    """The most tokens that a completion of this recipe can have."""
    if section := recipe.distill or recipe.generate or recipe.preferences:
        return section.max_completion_length
    value = trainer_value("grpo", recipe.trainer, "max_completion_length")
    return value if isinstance(value, int) else 1  # a wrong type is told with the trainer's keys


def _hardware_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.step == "pipeline":
        return
    config = recipe.hardware.accelerate
    known = [file.stem for file in sorted(ACCELERATE_CONFIGS.glob("*.yaml"))]
    if config not in known:
        mend = f"(known: {', '.join(known)}){closest(config, known)}"
        yield f"hardware.accelerate: no recipes/accelerate_configs/{config}.yaml {mend}"
    elif (config == "cpu") != (recipe.hardware.gpus_per_node == 0):
        uses = "uses no GPU" if config == "cpu" else "uses GPUs"
        yield (
            f"hardware.accelerate: {config} {uses}, but gpus_per_node is {recipe.hardware.gpus_per_node}; "
            f"for GPUs give both, e.g. {{gpus_per_node: 1, accelerate: ddp}}"
        )


def _accelerate_config(recipe: Recipe) -> dict:
    """What the accelerate config of the recipe says; nothing if there is none, which is told with the hardware."""
    file = ACCELERATE_CONFIGS / f"{recipe.hardware.accelerate}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


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
            for problem in missing_packages(recipe, _accelerate_config(recipe)):
                yield f"{recipe.source}: {problem} (stage {stage.name} of {pipeline.source})"
        earlier[stage.name] = recipe


def main(arguments: list[str]) -> int:
    """Checks the recipe named first, with the overrides after it, or all recipes; prints a line for each."""
    files, overrides = ([Path(arguments[0])], arguments[1:]) if arguments else (all_recipes(), [])
    failed = 0
    for file in files:
        try:
            check_recipe(load_recipe(file, overrides))
            print(f"{file}: ok")
        except RecipeError as error:
            failed += 1
            print(error, file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
