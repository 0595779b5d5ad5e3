"""A YAML file and overrides -> a Recipe, every mistake as one line; and back to YAML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from open_r1.recipe.loop import unrolled
from open_r1.recipe.sections import STAGE_REFERENCE, Grpo, Keep, Model, Recipe, RecipeError, Section, is_path
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS, trainer_problems
from open_r1.wording import NUMBER, closest, number_for_yaml

STEPS_WITH_EVALUATION = ("grpo", "dpo", "reward_model")
SECTIONS_OF_STEP = {  # step -> sections that it needs, and others that it can use
    "pretrain": (("model", "data", "trainer"), ()),
    "sft": (("model", "data", "trainer"), ()),
    "dpo": (("model", "data", "trainer"), ("eval_data",)),
    "reward_model": (("model", "data", "eval_data", "trainer"), ()),
    "grpo": (("model", "data", "rewards", "trainer"), ("eval_data", "judge")),
    "generate": (("data", "generate"), ("model", "rewards", "judge")),
    "preferences": (("data", "preferences", "judge"), ("model",)),
    "distill": (("model", "data", "rewards", "trainer", "distill"), ("judge",)),
    "evaluate": (("evaluate",), ("model",)),
    "pipeline": (("stages",), ()),
}
SECTIONS = tuple(dict.fromkeys(name for sections in SECTIONS_OF_STEP.values() for names in sections for name in names))


def load_recipe(file: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """The recipe in `file` with `overrides` applied: `trainer.learning_rate=1e-5` lines, or a {dotted key: value}.

    Raises RecipeError, one line for each mistake.
    """
    file = Path(file)
    values = _read_yaml(file)
    if not isinstance(overrides, Mapping):
        overrides = dict(_parse_override(file, text) for text in overrides)
    for key, value in overrides.items():
        _set(file, values, key, value)
    return parse_recipe(values, file)


def parse_recipe(values: dict[str, Any], file: Path) -> Recipe:
    """The recipe that a mapping of sections describes. Raises RecipeError in the name of `file`."""
    rewards = values.get("rewards")
    if isinstance(rewards, list):  # `- accuracy` is short for `- {name: accuracy}`
        values = {**values, "rewards": [{"name": r} if isinstance(r, str) else r for r in rewards]}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(*(_line(file, entry) for entry in error.errors())) from None
    recipe._source = file
    recipe = unrolled(recipe)
    lines = [f"{file}: {problem}" for problem in (*_section_problems(recipe), *_trainer_problems(recipe))]
    if lines:
        raise RecipeError(*lines)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default written out, every path absolute, loadable from anywhere."""
    values = recipe.model_dump(mode="json")
    models = [("name", values["model"]), ("teacher", values["distill"]), ("name", values["judge"])]
    models += [("model", reward) for reward in values["rewards"]]
    for name_of, section in models:
        if section and section.get(name_of):
            section[name_of] = recipe.model_path(section[name_of])
    files = [("cache", values["judge"]), ("rubric", values["preferences"])]
    files += [("rubric", reward) for reward in values["rewards"]]
    for key, section in files:
        if section and section.get(key):
            section[key] = str(recipe.path(section[key]))
    if values["model"]["chat_template"]:
        values["model"]["chat_template"] = str(recipe.path(values["model"]["chat_template"]))
    for source in (*values["data"], *values["eval_data"]):
        if source["rubric"]:
            source["rubric"] = str(recipe.path(source["rubric"]))
        if source["path"] and not source["path"].startswith(STAGE_REFERENCE):
            source["path"] = str(recipe.path(source["path"]))
    if values["evaluate"]:
        models = values["evaluate"]["models"]
        values["evaluate"]["models"] = {label: recipe.model_path(name) for label, name in models.items()}
        copies = values["evaluate"]["copies"]
        values["evaluate"]["copies"] = {benchmark: str(recipe.path(path)) for benchmark, path in copies.items()}
    for stage in values["stages"]:
        stage["recipe"] = str(recipe.path(stage["recipe"]))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: YAML would silently keep the second."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    if file.is_dir():
        recipes = ", ".join(sorted(each.name for each in file.glob("*.yaml"))) or "there is none"
        raise RecipeError(f"{file}: a folder; name one of its recipes ({recipes})")
    return read_mapping(
        file,
        "no such recipe; `make check` lists those that there are",
        "a recipe is a mapping of sections (step, model, data, …)",
    )


def read_mapping(file: Path, if_missing: str, if_no_mapping: str) -> dict[str, Any]:
    """The mapping in a YAML file, no key of it written twice. Raises RecipeError, one line in the name of the file."""
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise RecipeError(f"{file}: {if_missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError(f"{file}: {where}not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{file}: {if_no_mapping}")
    return values


def _parse_override(file: Path, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"{file}: {text!r} is not an override; write section.key=value")
    if NUMBER.fullmatch(value):  # on a command line 1e-5 is meant as a number, though YAML 1.1 reads it as a string
        return key, int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
    if value in ("no", "yes", "on", "off"):  # words of TRL's (`save_strategy=no`) that YAML 1.1 takes for booleans
        return key, value
    if is_path(value):  # on a command line a path is meant from where one stands
        return key, str(Path(value).resolve())
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"{file}: {key}: the override {value!r} is not a YAML value; quote it") from None


def _set(file: Path, values: dict[str, Any], dotted_key: str, value: Any) -> None:
    *parents, last = dotted_key.split(".")
    here: Any = values
    for depth, part in enumerate([*parents, last]):
        where = ".".join([*parents, last][: depth + 1])
        if isinstance(here, list):
            part = _position_of(here, part)
            if not part.isdigit() or int(part) >= len(here):
                raise RecipeError(f"{file}: {where}: no such entry; the list has {len(here)}, counted from 0")
            part = int(part)
            if isinstance(here[part], str) and depth < len(parents):  # `rewards.0.weight=…` over `- accuracy`
                here[part] = {"name": here[part]}
        elif not isinstance(here, dict):
            raise RecipeError(f"{file}: {where}: nothing can be set inside a value")
        if depth == len(parents):
            here[part] = value
        elif isinstance(here, dict):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        else:
            here = here[part]


def _position_of(entries: list[Any], name: str) -> str:
    """The position of the entry that is called `name` (`rewards.format`, `stages.cold_start`), else `name` itself."""
    names = [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    return str(names.index(name)) if name in names else name


def _line(file: Path, error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as `file: dotted.key: what is wrong; mend`."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    value = error["input"]
    if error["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        owner = f"section {'.'.join(location[:-1])}" if location[:-1] else "a recipe"
        return f"{file}: {key}: unknown key of {owner}{closest(location[-1], section.model_fields if section else ())}"
    if error["type"] == "literal_error":
        expected = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        mend = closest(str(value), expected.split(", "))
        return f"{file}: {key}: unknown {location[-1].rpartition('.')[2]} {value!r} (known: {expected}){mend}"
    if error["type"] == "missing":
        return f"{file}: {key}: missing; it has no default"
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"{file}: {key}: {value!r} is text to YAML, not a number; write {number_for_yaml(value)}"
    if error["type"] == "value_error":
        return f"{file}: {key}: {error['ctx']['error']}"
    return f"{file}: {key}: {value!r} is wrong: {error['msg'][0].lower()}{error['msg'][1:]}"


def value_problem(key: str, value: Any, expected: Any) -> str | None:
    """The line `key: what is wrong; mend` for a value that is not of the type `expected`; None if it is.

    Of a mapping that stands for a section it names the section's key.
    """
    section = section_in(expected)
    is_section = section is not None and isinstance(value, dict)
    try:
        TypeAdapter(section if is_section else expected).validate_python(value, strict=True)
    except ValidationError as error:
        (first, *_) = error.errors()
        if not is_section:
            return _line(Path(), {**first, "loc": (key,), "input": value}).partition(": ")[2]
        inside = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            return f"{key}.{'.'.join(inside)}: unknown key of {key}{closest(inside[-1], section.model_fields)}"
        return _line(Path(), {**first, "loc": (key, *inside)}).partition(": ")[2]
    return None


def section_in(expected: Any) -> type[Section] | None:
    """The section that a type is, or is with None; None if there is none in it."""
    return next((t for t in _types_in(expected) if issubclass(t, Section)), None)


def _types_in(annotation: Any) -> list[type]:
    return [t for t in (annotation, *getattr(annotation, "__args__", ())) if isinstance(t, type)]


def _section_at(location: Sequence[str]) -> type[Section] | None:
    section: Any = Recipe
    for part in location:
        if part.isdigit():
            continue
        field = section.model_fields.get(part)
        if field is None:
            return None
        section = next((t for t in _types_in(field.annotation) if issubclass(t, BaseModel)), None)
        if section is None:
            return None
    return section


def _section_problems(recipe: Recipe) -> Iterable[str]:
    """Sections that the step needs and has not, or has and cannot use."""
    needed, allowed = SECTIONS_OF_STEP[recipe.step]
    for section in SECTIONS:
        given = section in recipe.model_fields_set
        given = given and bool(getattr(recipe, section) not in ([], {}, None, Model()))
        if section in needed and not given:
            yield f"{section}: missing; step {recipe.step} needs it"
        elif given and section not in (*needed, *allowed):
            yield f"{section}: step {recipe.step} does not use it; remove it"
    if recipe.step != "grpo" and recipe.grpo != Grpo():
        yield f"grpo: step {recipe.step} does not use it; remove it"
    if recipe.step != "pipeline" and recipe.loop is not None:
        yield f"loop: step {recipe.step} has no stages; remove it"
    if recipe.step not in ("generate", "distill") and recipe.keep != Keep():
        yield f"keep: step {recipe.step} samples nothing to keep; remove it"
    for step, sampling in (("generate", recipe.generate), ("preferences", recipe.preferences)):
        if recipe.step == step and sampling and sampling.endpoint is None and not recipe.model.name:
            yield f"model.name: missing; a Hub id or a path that begins with ./, or give {step}.endpoint"
    yield from _evaluation_problems(recipe)
    trains = recipe.step in TRAINER_CONFIGS and recipe.step != "pretrain"
    if trains and "model" in recipe.model_fields_set and not recipe.model.name:
        yield "model.name: missing; a Hub id or a path that begins with ./"
    if recipe.model.architecture is not None:
        if recipe.step != "pretrain":
            yield f"model.architecture: only step pretrain starts from scratch; {recipe.step} needs model.name"
        elif "model_type" not in recipe.model.architecture:
            yield "model.architecture.model_type: missing; e.g. llama"
        elif recipe.model.name:
            yield "model.name: cannot go together with model.architecture; remove one"
    elif recipe.step == "pretrain" and "model" in recipe.model_fields_set:
        yield "model.architecture: missing; step pretrain starts from scratch"
    for key, source in recipe.data_sources():
        kinds = [kind for kind in ("name", "path", "procedural") if getattr(source, kind) is not None]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none"
            yield f"{key}: unknown data source; give exactly one of name, path, procedural (got {got})"
    if recipe.step == "evaluate" and recipe.evaluate and recipe.evaluate.endpoint:
        if (recipe.model.name and recipe.evaluate.models) or len(recipe.evaluate.models) > 1:
            yield "evaluate.models: an endpoint serves one model; give one name, or none"
    elif recipe.step == "evaluate" and recipe.evaluate and bool(recipe.model.name) == bool(recipe.evaluate.models):
        yield "evaluate.models: give either model.name or evaluate.models"


def _evaluation_problems(recipe: Recipe) -> Iterable[str]:
    """Evaluation while training needs data of its own, and such data a time at which it is used."""
    strategy, on_start = recipe.trainer.get("eval_strategy", "no"), recipe.trainer.get("eval_on_start", False)
    evaluates = on_start is True or (isinstance(strategy, str) and strategy != "no")
    key = "eval_on_start" if on_start is True else "eval_strategy"
    if recipe.step not in STEPS_WITH_EVALUATION:
        if evaluates:
            yield f"trainer.{key}: only steps {', '.join(STEPS_WITH_EVALUATION)} evaluate while they train; remove it"
    elif evaluates and not recipe.eval_data:
        yield f"eval_data: missing; trainer.{key} needs it; entries as those of data, of rows not trained on"
    elif recipe.eval_data and not evaluates and recipe.step != "reward_model":  # which reports on it at the end
        yield "trainer.eval_strategy: missing; eval_data needs it, e.g. eval_strategy: steps and eval_steps: 20"


def _trainer_problems(recipe: Recipe) -> Iterable[str]:
    if recipe.step in TRAINER_CONFIGS:
        yield from (f"trainer.{problem}" for problem in trainer_problems(recipe.step, recipe.trainer))
