"""Data that a recipe asks for: files, columns, what earlier stages leave, rows that are trained and held out."""

from collections.abc import Iterator, Mapping

from open_r1.curation.columns import columns_left
from open_r1.curation.readability import keep_problems
from open_r1.data import columns_of, mixture_problems
from open_r1.data.choice import column_problems
from open_r1.data.columns import missing_columns
from open_r1.places import RUNS
from open_r1.procedural import FAMILIES, explanations
from open_r1.recipe import STAGE_REFERENCE, DataSource, Recipe, RecipeError
from open_r1.stages import KEPT, PROMPTS
from open_r1.wording import closest

STEPS_THAT_SAMPLE = ("generate", "preferences", "distill")
FOLDERS_OF_TRACES = (KEPT, PROMPTS)


def data_problems(recipe: Recipe, earlier_stages: Mapping[str, Recipe], before_run: bool) -> Iterator[str]:
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
            columns = columns_of(recipe, source)
        except RecipeError as error:
            columns = None
            yield f"{key}.{error}"
        if columns is not None:
            columns |= set(source.columns)
            for column in missing_columns(recipe.step, source, columns)[:1]:
                has = ", ".join(sorted(columns))
                yield f"{key}: step {recipe.step} needs the column {column}; add {key}.columns.{column} (it has {has})"
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
    if missing := missing_columns(recipe.step, source, ours):
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
