"""A recipe's data -> one datasets.Dataset of what its step trains on.

pretrain   text
sft        prompt, completion            both conversations; `messages` are split before the last one
grpo       prompt, and the columns that rewards ask for (`solution`, …)
distill    as grpo
"""

import json
from collections.abc import Iterable
from pathlib import Path

from open_r1 import procedural
from open_r1.recipe import DataSource, Recipe, RecipeError

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
STEP_COLUMNS = {"pretrain": ("text",), "sft": ("prompt", "completion"), "grpo": ("prompt",), "distill": ("prompt",)}


def columns_of(recipe: Recipe, source: DataSource) -> set[str] | None:
    """The columns, under our names, that a source gives; None if only the Hub knows, or if there is no such family.

    Reads at most the first row of a file. Raises RecipeError (file, key, mend) if the file is missing or unreadable.
    """
    if source.procedural:
        family = procedural.FAMILIES.get(source.procedural.family)
        return set(family.COLUMNS) if family else None
    if source.name:
        return None
    theirs = _columns_of_file(recipe.path(source.path))
    missing = [column for column in source.columns.values() if column not in theirs]
    if missing:
        raise RecipeError(f"columns: {source.path} has no column {missing[0]}; it has {', '.join(sorted(theirs))}")
    ours = set(source.columns) | {column for column in theirs if column not in source.columns.values()}
    return ours | {"prompt", "completion"} if "messages" in ours else ours


def _columns_of_file(file: Path) -> set[str]:
    if file.suffix not in FILE_FORMATS:
        raise RecipeError(f"path: {file.name} is of no known format; known: {', '.join(FILE_FORMATS)}")
    if not file.is_file():
        raise RecipeError(f"path: no such file: {file}")
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return set(pyarrow.parquet.read_schema(file).names)
        with file.open(encoding="utf-8") as lines:
            if file.suffix == ".csv":
                return set(lines.readline().strip().split(","))
            first = json.loads(lines.readline()) if file.suffix == ".jsonl" else json.load(lines)
            return set((first[0] if isinstance(first, list) else first).keys())
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise RecipeError(f"path: {file} cannot be read ({error})") from None


def load_data(recipe: Recipe, reward_columns: Iterable[str] = (), section: str = "data"):
    """All sources of `data`, or of `eval_data`, as one datasets.Dataset with the step's columns and `reward_columns`.

    Raises RecipeError if a source lacks a column.
    """
    from datasets import concatenate_datasets

    wanted = list(dict.fromkeys((*STEP_COLUMNS[recipe.step], *reward_columns)))
    sources = enumerate(getattr(recipe, section))
    parts = [_load_source(recipe, f"{section}.{index}", source, wanted) for index, source in sources]
    return concatenate_datasets(parts)


def _load_source(recipe: Recipe, source_key: str, source: DataSource, wanted: list[str]):
    from datasets import Dataset, load_dataset

    if source.procedural:
        try:
            dataset = Dataset.from_list(list(procedural.rows(source.procedural, recipe.seed)))
        except ValueError as error:  # e.g. so many different ones there are not
            raise RecipeError(f"{recipe.source}: {source_key}.procedural: {error}") from None
    else:
        try:
            if source.path:
                file = recipe.path(source.path)
                dataset = load_dataset(FILE_FORMATS[file.suffix], data_files=str(file), split="train")
            else:
                dataset = load_dataset(source.name, source.config, split=source.split, revision=source.revision)
        except Exception as error:  # the library raises whatever its readers and the Hub's client do
            key, value = ("path", source.path) if source.path else ("name", source.name)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RecipeError(f"{recipe.source}: {source_key}.{key}: {value} cannot be loaded ({reason})") from error
    meant = {theirs: ours for ours, theirs in source.columns.items() if ours != theirs}
    hidden = [ours for ours in meant.values() if ours in dataset.column_names and ours not in meant]
    dataset = dataset.remove_columns(hidden).rename_columns(meant)  # their `solution` is not the one that is meant
    if source.fraction < 1:
        dataset = dataset.shuffle(seed=recipe.seed).select(range(max(1, round(source.fraction * len(dataset)))))
    if "messages" in dataset.column_names and "completion" in wanted:
        dataset = dataset.map(_split_messages, remove_columns=["messages"])
    missing = [column for column in wanted if column not in dataset.column_names]
    if missing:
        raise RecipeError(
            f"{recipe.source}: {source_key}.columns: nothing gives {missing[0]}; "
            f"add `{missing[0]}: <one of {', '.join(dataset.column_names)}>`"
        )
    dataset = dataset.select_columns(wanted)
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        if column in wanted and isinstance(dataset[0][column], str):
            dataset = dataset.map(lambda row, c=column, r=role: {c: [{"role": r, "content": row[c]}]})
    return dataset


def _split_messages(row: dict) -> dict:
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
