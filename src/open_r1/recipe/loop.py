"""What the stages of a pipeline refer to, and a loop of stages written out.

After this nobody has to know of loops: a pipeline of two rounds is one of as many stages, whose second ones are called
`<name>_2`.
"""

from collections.abc import Mapping
from typing import Any

from open_r1.recipe.sections import STAGE_REFERENCE, Gate, Recipe, RecipeError, Stage

SEEDS_APART = 100_000  # between two rounds, so that each has prompts of its own; above the seeds that recipes add


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} -> {"a.b": 1}: a partial recipe as overrides."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def references_in(value: Any, key: str = "") -> dict[str, str]:
    """Dotted key -> reference (`stage:x`), for all that a value of `set` refers to, inside lists as well."""
    if isinstance(value, str):
        return {key: value} if value.startswith(STAGE_REFERENCE) else {}
    if isinstance(value, Mapping):
        entries = value.items()
    else:
        entries = enumerate(value) if isinstance(value, list) else ()
    return {
        inner: reference
        for part, entry in entries
        for inner, reference in references_in(entry, f"{key}.{part}".lstrip(".")).items()
    }


def stage_named(reference: str) -> str:
    """The stage that a reference means: x of `stage:x` and of `stage:x/prompts`."""
    return reference.removeprefix(STAGE_REFERENCE).partition("/")[0]


def unrolled(pipeline: Recipe) -> Recipe:
    """The pipeline with each round of its loop as stages of their own, and no loop. Raises RecipeError."""
    loop = pipeline.loop
    if loop is None or pipeline.step != "pipeline":  # the latter is told with the other sections
        return pipeline
    names = [stage.name for stage in pipeline.stages]
    problem = _problem(pipeline, names)
    if problem:
        raise RecipeError(f"{pipeline.source}: {problem}")
    start = names.index(loop.stages[0])
    end = start + len(loop.stages)
    block = pipeline.stages[start:end]
    stages = [*pipeline.stages[:start], *block]
    for number in range(2, loop.rounds + 1):
        stages += [_of_round(pipeline, stage, number) for stage in block]
    stages += [_behind(pipeline, stage) for stage in pipeline.stages[end:]]
    recipe = pipeline.model_copy(update={"stages": stages, "loop": None})
    recipe._source = pipeline.source
    return recipe


def _problem(pipeline: Recipe, names: list[str]) -> str | None:
    loop = pipeline.loop
    unknown = next((name for name in (*loop.stages, *loop.feeds, *loop.feeds.values()) if name not in names), None)
    if unknown is not None:
        return f"loop: no stage is called {unknown!r} (stages: {', '.join(names)})"
    start = names.index(loop.stages[0])
    if names[start : start + len(loop.stages)] != loop.stages:
        return f"loop.stages: {', '.join(loop.stages)} do not follow each other in stages in this order"
    for before, inside in loop.feeds.items():
        if before not in names[:start]:
            return f"loop.feeds.{before}: it is no stage before the loop; it takes `stage before: stage inside`"
        if inside not in loop.stages:
            return f"loop.feeds.{before}: {inside} is no stage of the loop ({', '.join(loop.stages)})"
    if loop.rounds > 1 and not loop.feeds:
        return "loop.feeds: missing; without it every round begins where the first began, e.g. `reasoning_rl: final_rl`"
    taken = [f"{name}_{number}" for name in loop.stages for number in range(2, loop.rounds + 1)]
    if clash := sorted(set(taken) & set(names)):
        return f"stages.{clash[0]}: a later round of the loop has this name; choose another"
    return None


def _name_in(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _of_round(pipeline: Recipe, stage: Stage, number: int) -> Stage:
    """A stage of the loop as it is in a later round, which begins with what the round before it made."""
    loop = pipeline.loop

    def renamed(reference: str) -> str:
        name = stage_named(reference)
        if name in loop.feeds:
            return _with_name(reference, _name_in(loop.feeds[name], number - 1))
        return _with_name(reference, _name_in(name, number)) if name in loop.stages else reference

    values = flatten(stage.set)
    values |= {key: renamed(reference) for key, reference in references_in(stage.set).items()}
    values["seed"] = values.get("seed", pipeline.seed) + SEEDS_APART * (number - 1)
    labels = {label for label, reference in _scored(stage).items() if renamed(reference) != reference}
    for label in labels:
        values[f"evaluate.models.{label}_{number}"] = values.pop(f"evaluate.models.{label}")
    gate = [_gate_of(gate, labels, number) for gate in stage.gate]
    return Stage(name=_name_in(stage.name, number), recipe=stage.recipe, set=values, gate=gate)


def _behind(pipeline: Recipe, stage: Stage) -> Stage:
    """A stage behind the loop: it begins with the last round, and an evaluation scores all of them."""
    loop = pipeline.loop
    inside = {key: ref for key, ref in references_in(stage.set).items() if stage_named(ref) in loop.stages}
    if loop.rounds == 1 or not inside:
        return stage
    values = flatten(stage.set)
    scored = _scored(stage)
    for key, reference in inside.items():
        label = key.removeprefix("evaluate.models.")
        for number in range(1, loop.rounds + 1):
            of_round = _with_name(reference, _name_in(stage_named(reference), number))
            values[f"evaluate.models.{_name_in(label, number)}" if label in scored else key] = of_round
    return Stage(name=stage.name, recipe=stage.recipe, set=values, gate=stage.gate)


def _scored(stage: Stage) -> dict[str, str]:
    """Label -> reference of the models that an evaluation scores."""
    prefix = "evaluate.models."
    found = references_in(flatten(stage.set))
    return {key.removeprefix(prefix): reference for key, reference in found.items() if key.startswith(prefix)}


def _with_name(reference: str, name: str) -> str:
    _, slash, folder = reference.partition("/")
    return f"{STAGE_REFERENCE}{name}{slash}{folder}"


def _gate_of(gate: Gate, labels: set[str], number: int) -> Gate:
    label, slash, rest = gate.metric.partition("/")
    return gate.model_copy(update={"metric": f"{label}_{number}{slash}{rest}"}) if label in labels else gate
