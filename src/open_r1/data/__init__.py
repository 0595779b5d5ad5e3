"""A recipe's data -> one datasets.Dataset of what its step trains on, or asks.

pretrain   text
sft        prompt, completion            both conversations; `messages` are split before the last one
grpo       prompt, and the columns that rewards ask for (`solution`, …)
distill    as grpo
generate   as grpo, and whatever else the data has
preferences   as generate
dpo           prompt, chosen, rejected   conversations; what both of whole conversations begin with is the prompt
reward_model  as dpo

Of each source the rows within `where` are taken, of these the `fraction` or the `part`, in the order of `sort_by`; then
a `mixture` draws its share. All of it is done on row numbers, over files that are mapped and not read: memory holds
some numbers a row, and no texts but those that the computer makes.

    files    where rows lie, and a source opened
    choice   which rows, in which order, how many of each source
    columns  what a step needs of them, and sources joined
"""

from collections.abc import Iterable

from open_r1.data.choice import chosen, column_problems, mixture_counts, mixture_problems, shares_of_mixture, turns
from open_r1.data.columns import STEP_COLUMNS, columns_for, joined, with_columns_of_step, with_task
from open_r1.data.files import FILE_FORMATS, FIRST_CHARACTERS, columns_of, opened
from open_r1.recipe import DataSource, Recipe, RecipeError

__all__ = [
    "FILE_FORMATS",
    "FIRST_CHARACTERS",
    "columns_of",
    "load_data",
    "mixture_counts",
    "mixture_problems",
]


def load_data(recipe: Recipe, reward_columns: Iterable[str] = (), section: str = "data"):
    """All sources of `data`, or of `eval_data`, as one datasets.Dataset with the step's columns and `reward_columns`.

    For the steps that sample also with the other columns of the sources, null where a source has not got one. Without a
    mixture the sources follow each other. In one each source gives different rows (the same ones again only with
    mixture.repeat, none more than once oftener than another), in the order of its sort_by if it has one, else in random
    order, and the sources take turns at random. A source's choice depends on the seed, on its own rows and on how many
    of them are taken, and not on the other sources.

    Raises RecipeError if a source lacks a column, has no or too few rows, or cannot be joined with the others.
    """
    problems = list(mixture_problems(recipe))
    if problems:
        raise RecipeError(*(f"{recipe.source}: {problem}" for problem in problems))
    wanted = list(dict.fromkeys((*STEP_COLUMNS[recipe.step], *reward_columns)))
    sources = {f"{section}.{index}": source for index, source in enumerate(getattr(recipe, section))}
    parts = [_chosen_rows(recipe, key, source) for key, source in sources.items()]
    mixed = recipe.mixture is not None and section == "data"
    if mixed:
        parts = shares_of_mixture(recipe, parts)
    parts = [
        with_columns_of_step(
            recipe, key, source, with_task(recipe, source, part), columns_for(recipe, source, part, wanted)
        )
        for (key, source), part in zip(sources.items(), parts, strict=True)
    ]
    together = joined(recipe, section, parts)
    return together.select(turns([len(part) for part in parts], recipe.seed)) if mixed else together


def _chosen_rows(recipe: Recipe, source_key: str, source: DataSource):
    """A source's rows within `where`, the share of them, in order, under our names of the columns."""
    dataset = opened(recipe, source_key, source)
    meant = {theirs: ours for ours, theirs in source.columns.items() if ours != theirs}
    hidden = [ours for ours in meant.values() if ours in dataset.column_names and ours not in meant]
    absent = [theirs for theirs in meant if theirs not in dataset.column_names]
    if absent:
        raise RecipeError(
            f"{recipe.source}: {source_key}.columns: no column {absent[0]}; "
            f"there are {', '.join(sorted(dataset.column_names))}"
        )
    dataset = dataset.remove_columns(hidden).rename_columns(meant)  # their `solution` is not the one that is meant
    problems = list(column_problems(source, dataset.column_names))
    if problems:
        raise RecipeError(*(f"{recipe.source}: {source_key}.{problem}" for problem in problems))
    try:
        rows = chosen(dataset, source, recipe.seed)
    except RecipeError as error:
        raise RecipeError(f"{recipe.source}: {source_key}.{error}") from None
    return dataset if rows is None else dataset.select(rows)
