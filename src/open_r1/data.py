"""A recipe's data -> one datasets.Dataset of what its step trains on, or asks.

pretrain   text
sft        prompt, completion            both conversations; `messages` are split before the last one
grpo       prompt, and the columns that rewards ask for (`solution`, …)
distill    as grpo
generate   as grpo, and whatever else the data has

Of each source the rows within `where` are taken, of these the `fraction`, in the order of `sort_by`; then a `mixture`
draws its share. All of it is done on row numbers, over files that are mapped and not read: memory holds some numbers a
row, and no texts but those that the computer makes.
"""

import csv
import glob
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from open_r1 import procedural
from open_r1.recipe import STAGE_REFERENCE, DataSource, Recipe, RecipeError
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS, trainer_value
from open_r1.rewards import reward_columns, rewards_for

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
STEP_COLUMNS = {
    "pretrain": ("text",),
    "sft": ("prompt", "completion"),
    "grpo": ("prompt",),
    "distill": ("prompt",),
    "generate": ("prompt",),
}
TEXTS_OF_TRAINING = ("text", "messages", "completion")  # not kept beside a completion that is sampled anew
ROLES = {"prompt": "user", "completion": "assistant"}
NO_ROWS = "corresponds to no data"  # how datasets says so
ROWS_AT_A_TIME = 1000  # of a parquet file; a row can be a trace of 100 kB
BYTES_AT_A_TIME = 1 << 20  # of each of its columns
FIRST_CHARACTERS = 65_536  # of a .json file, in which its first row is looked for


def columns_of(recipe: Recipe, source: DataSource) -> set[str] | None:
    """The columns, under our names, that a source gives; None if only the Hub, or a stage that has not run, knows.

    None also if there is no such procedural family. Reads at most the first row of a file, and of a folder only its
    first file. Raises RecipeError (key, what is wrong, mend) if the file is missing or unreadable.
    """
    if source.procedural:
        family = procedural.FAMILIES.get(source.procedural.family)
        return set(family.COLUMNS) if family else None
    if not source.path or source.path.startswith(STAGE_REFERENCE):
        return None
    theirs = _columns_of_file(_files_of(recipe.path(source.path))[0])
    missing = [column for column in source.columns.values() if column not in theirs]
    if missing:
        raise RecipeError(f"columns: {source.path} has no column {missing[0]}; it has {', '.join(sorted(theirs))}")
    ours = set(source.columns) | {column for column in theirs if column not in source.columns.values()}
    return ours | {"prompt", "completion"} if "messages" in ours else ours


def _files_of(path: Path) -> list[Path]:
    """The file itself, or a folder's parquet files, sorted by name. Raises RecipeError (key, what is wrong, mend)."""
    if path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        if files:
            return files
        deeper = sorted({file.parent for file in path.glob("*/*.parquet")})
        mend = f"is {deeper[0]} meant?" if deeper else "name the folder that holds them, or a file"
        raise RecipeError(f"path: {path} has no .parquet files; {mend}")
    if not path.exists() and path.suffix not in FILE_FORMATS:
        raise RecipeError(f"path: no such file or folder: {path}; is the run that writes it finished?")
    if path.suffix not in FILE_FORMATS:
        raise RecipeError(f"path: {path.name} is of no known format; known: {', '.join(FILE_FORMATS)}")
    if not path.is_file():
        raise RecipeError(f"path: no such file: {path}")
    return [path]


def _columns_of_file(file: Path) -> set[str]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return set(pyarrow.parquet.read_schema(file).names)
        with file.open(encoding="utf-8", newline="" if file.suffix == ".csv" else None) as lines:
            if file.suffix == ".csv":
                return set(next(csv.reader(lines)))
            return set((json.loads(lines.readline()) if file.suffix == ".jsonl" else _first_object(lines)).keys())
    except (OSError, ValueError, AttributeError, StopIteration) as error:
        raise RecipeError(f"path: {file} cannot be read ({error or 'it is empty'})") from None


def _first_object(file) -> dict:
    """The first JSON object of a list of them, or the only one; no more of the file is read than that takes, doubled.

    Raises ValueError if there is none.
    """
    start, length = "", FIRST_CHARACTERS
    while True:
        more = file.read(length)
        start += more
        length = len(start)  # twice as much each time, so that the whole is parsed about twice at most
        rows = start.lstrip().removeprefix("[").lstrip()
        try:
            return json.JSONDecoder().raw_decode(rows)[0]
        except ValueError:
            if not more:
                raise


def mixture_problems(recipe: Recipe) -> Iterator[str]:
    """Yields `key: what is wrong; mend` for what the recipe says of the choice, order and mixture of its rows.

    Opens files as columns_of does; those that cannot be opened are passed over, being told there.
    """
    if recipe.mixture and not recipe.data:
        yield f"mixture: step {recipe.step} has no data to mix; remove it"
    for key, source in recipe.data_sources():
        mixed = recipe.mixture is not None and key.startswith("data.")
        if mixed and source.weight is None:
            yield f"{key}.weight: missing; mixture needs one for each source, e.g. weight: 1.0"
        elif not mixed and source.weight is not None:
            mend = "remove it" if key.startswith("eval_data.") else "add mixture: {num_rows: …}, or remove it"
            yield f"{key}.weight: only a mixture of data uses it; {mend}"
        elif source.weight is not None and not math.isfinite(source.weight):
            yield f"{key}.weight: {source.weight} is not a share; write a number, e.g. weight: 1.0"
        yield from (f"{key}.{problem}" for problem in _bounds_problems(source))
        try:
            columns = columns_of(recipe, source)
        except RecipeError:
            columns = None
        if columns is not None:
            yield from (f"{key}.{problem}" for problem in _column_problems(source, columns))
        if source.sort_by and (shuffled := _shuffled_by(recipe, key)):
            yield f"{key}.sort_by: {shuffled}"
    weights = [source.weight for source in recipe.data]
    if recipe.mixture and all(weight is not None and math.isfinite(weight) for weight in weights):
        for index, count in enumerate(mixture_counts(weights, recipe.mixture.num_rows)):
            made = recipe.data[index].procedural
            if count == 0:
                yield (
                    f"data.{index}.weight: its share of mixture.num_rows {recipe.mixture.num_rows} is less than a row; "
                    f"raise one of the two, or remove the source"
                )
            elif made and not recipe.mixture.repeat and count > made.num_problems:
                yield _too_few(recipe, index, made.num_problems, count)


def _bounds_problems(source: DataSource) -> Iterator[str]:
    for column, bounds in source.where.items():
        if len(bounds) != 2 or not bounds[0] <= bounds[1]:
            yield f"where.{column}: {bounds} are no bounds; write [lowest, highest], e.g. [0.1, 0.9]"


def _column_problems(source: DataSource, columns: Iterable[str]) -> Iterator[str]:
    """Columns of where and sort_by that there are not."""
    named = [("where", column) for column in source.where]
    named += [("sort_by", _sort_column(source.sort_by))] if source.sort_by else []
    for key, column in named:
        if column not in columns:
            yield f"{key}: no column {column}; there are {', '.join(sorted(columns))}"


def _sort_column(sort_by: str) -> str:
    return sort_by.removeprefix("-")


def _shuffled_by(recipe: Recipe, source_key: str) -> str | None:
    """What puts the rows into another order than the recipe's, and how to stop it; None if nothing does."""
    if source_key.startswith("eval_data."):
        return "evaluation does not keep an order; remove it"
    if recipe.step not in TRAINER_CONFIGS:
        return None
    if trainer_value(recipe.step, recipe.trainer, "shuffle_dataset"):
        return "the trainer shuffles the rows; set trainer.shuffle_dataset: false"
    if recipe.step == "grpo":
        return None
    sampling = trainer_value(recipe.step, recipe.trainer, "train_sampling_strategy")
    if sampling != "sequential":
        return f"the trainer's order is {sampling}; set trainer.train_sampling_strategy: sequential"
    if recipe.trainer.get("packing") and trainer_value(recipe.step, recipe.trainer, "packing_strategy") != "wrapped":
        return "packing puts the rows together by length; set trainer.packing: false, or packing_strategy: wrapped"
    return None


def mixture_counts(weights: Sequence[float], num_rows: int) -> list[int]:
    """How many of `num_rows` each source gives: its share by weight, rounded by largest remainder; the sum is exact.

    Of equal remainders the first is rounded up. Weights count as they are written: 0.1 is a tenth.
    """
    shares = [Fraction(str(weight)) for weight in weights]
    quotas = [num_rows * share / sum(shares) for share in shares]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda index: counts[index] - quotas[index])
    for index in by_remainder[: num_rows - sum(counts)]:
        counts[index] += 1
    return counts


def _too_few(recipe: Recipe, index: int, num_rows: int, count: int) -> str:
    shares = [Fraction(str(source.weight)) for source in recipe.data]
    enough_for = math.floor(num_rows * sum(shares) / shares[index])
    return (
        f"data.{index}.weight: its share of mixture.num_rows {recipe.mixture.num_rows} is {count} rows, and it has "
        f"{num_rows}; lower mixture.num_rows to {enough_for}, or set mixture.repeat: true"
    )


def load_data(recipe: Recipe, reward_columns: Iterable[str] = (), section: str = "data"):
    """All sources of `data`, or of `eval_data`, as one datasets.Dataset with the step's columns and `reward_columns`.

    For step generate also with the other columns of the sources, null where a source has not got one. Without a mixture
    the sources follow each other. In one each source gives different rows (the same ones again only with
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
        parts = _shares(recipe, parts)
    parts = [
        _with_columns_of_step(recipe, key, source, part, _columns_for(recipe, source, wanted))
        for (key, source), part in zip(sources.items(), parts, strict=True)
    ]
    together = _joined(recipe, section, parts)
    return together.select(_turns([len(part) for part in parts], recipe.seed)) if mixed else together


def _columns_for(recipe: Recipe, source: DataSource, wanted: Sequence[str]) -> list[str]:
    """Of the wanted columns those that a source has to give: not what only rewards for other tasks read."""
    judging = rewards_for(recipe.rewards, source.task)
    others = set(reward_columns([reward for reward in recipe.rewards if reward not in judging]))
    return [column for column in wanted if column not in others.difference(reward_columns(judging), ["task"])]


def _with_task(recipe: Recipe, source: DataSource, dataset):
    """The rows with the source's task as a column, if it has one or some reward asks for it."""
    asked = source.task is not None or any(reward.task for reward in recipe.rewards)
    if not asked or (source.task is None and "task" in dataset.column_names):
        return dataset
    import pyarrow

    task = pyarrow.repeat(pyarrow.scalar(source.task, pyarrow.string()), len(dataset))
    return dataset.remove_columns([name for name in ("task",) if name in dataset.column_names]).add_column("task", task)


def _chosen_rows(recipe: Recipe, source_key: str, source: DataSource):
    """A source's rows within `where`, the `fraction` of them, in order, under our names of the columns."""
    dataset = _with_task(recipe, source, _opened(recipe, source_key, source))
    meant = {theirs: ours for ours, theirs in source.columns.items() if ours != theirs}
    hidden = [ours for ours in meant.values() if ours in dataset.column_names and ours not in meant]
    absent = [theirs for theirs in meant if theirs not in dataset.column_names]
    if absent:
        raise RecipeError(
            f"{recipe.source}: {source_key}.columns: no column {absent[0]}; "
            f"there are {', '.join(sorted(dataset.column_names))}"
        )
    dataset = dataset.remove_columns(hidden).rename_columns(meant)  # their `solution` is not the one that is meant
    problems = list(_column_problems(source, dataset.column_names))
    if problems:
        raise RecipeError(*(f"{recipe.source}: {source_key}.{problem}" for problem in problems))
    try:
        rows = _chosen(dataset, source, recipe.seed)
    except RecipeError as error:
        raise RecipeError(f"{recipe.source}: {source_key}.{error}") from None
    return dataset if rows is None else dataset.select(rows)


def _chosen(dataset, source: DataSource, seed: int):
    """Numbers of the rows that a source's where, fraction and sort_by leave, as an array; None if they leave all."""
    import numpy as np

    rows = _rows_within(dataset, source.where) if source.where else None
    if source.fraction < 1:
        num_rows = len(dataset) if rows is None else len(rows)
        some = np.random.default_rng(seed).permutation(num_rows)[: max(1, round(source.fraction * num_rows))]
        rows = some if rows is None else rows[some]
    return _in_order(dataset, rows, source.sort_by) if source.sort_by else rows


def _opened(recipe: Recipe, source_key: str, source: DataSource):
    from datasets import Dataset, load_dataset

    if source.procedural:
        try:
            return Dataset.from_list(list(procedural.rows(source.procedural, recipe.seed)))
        except ValueError as error:  # e.g. so many different ones there are not
            raise RecipeError(f"{recipe.source}: {source_key}.procedural: {error}") from None
    key, value = ("path", source.path) if source.path else ("name", source.name)
    try:
        if source.path:
            files = _files_of(recipe.path(source.path))
            if files[0].suffix == ".parquet":
                return _parquet(files)
            return load_dataset(FILE_FORMATS[files[0].suffix], data_files=_as_patterns(files), split="train")
        return load_dataset(source.name, source.config, split=source.split, revision=source.revision)
    except RecipeError as error:
        raise RecipeError(f"{recipe.source}: {source_key}.{error}") from None
    except Exception as error:  # the library raises whatever its readers and the Hub's client do
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if NO_ROWS in reason or isinstance(error, StopIteration):
            reason = "it has no rows"
        raise RecipeError(f"{recipe.source}: {source_key}.{key}: {value} cannot be loaded ({reason})") from error


def _parquet(files: Sequence[Path]):
    """The rows of the files, one after the other, in datasets' cache.

    datasets' own reader decodes row groups ahead, each as a whole, and one may be the whole file: here the rows are
    read some at a time.
    """
    import pyarrow
    import pyarrow.parquet
    from datasets.builder import Key
    from datasets.packaged_modules.parquet.parquet import Parquet

    class ParquetInPieces(Parquet):
        def _generate_tables(self, files, row_groups_list):
            for number, file in enumerate(files):
                with pyarrow.parquet.ParquetFile(file, buffer_size=BYTES_AT_A_TIME, pre_buffer=False) as rows:
                    for index, batch in enumerate(rows.iter_batches(ROWS_AT_A_TIME)):
                        yield Key(number, index), self._cast_table(pyarrow.Table.from_batches([batch]))

    builder = ParquetInPieces(
        dataset_name="parquet", hash="pieces", data_files=_as_patterns(files), features=_features_of(files)
    )
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def _as_patterns(files: Iterable[Path]) -> list[str]:
    """The names as datasets wants them: a folder may be called `runs[1]`, and that is no pattern."""
    return [glob.escape(str(file)) for file in files]


def _features_of(files: Sequence[Path]):
    """The types that fit all of the files; None if those of the first do. Raises RecipeError if there are none.

    A column in which the first file has nothing but nulls is of no type there, and of another one in the next.
    """
    import pyarrow
    import pyarrow.parquet
    from datasets import Features

    schema = first = pyarrow.parquet.read_schema(files[0])
    for file in files[1:]:
        other = pyarrow.parquet.read_schema(file)
        if other.equals(first):
            continue
        try:
            schema = pyarrow.unify_schemas([schema, other], promote_options="permissive")
        except pyarrow.ArrowException as error:
            raise RecipeError(
                f"path: {file.name} does not fit the files before it ({error}); write all with one schema"
            ) from None
    return None if schema is first else Features.from_arrow_schema(schema)


def _rows_within(dataset, where: dict[str, list[float]]):
    """Numbers of the rows of which each column is a number within its bounds. Raises RecipeError if there is none."""
    import numpy as np
    import pyarrow.types

    inside = np.ones(len(dataset), dtype=bool)
    for column, (lowest, highest) in where.items():
        kind = dataset.features.arrow_schema.field(column).type
        tests = ("is_integer", "is_floating", "is_decimal", "is_boolean", "is_null")
        if not any(getattr(pyarrow.types, test)(kind) for test in tests):
            raise RecipeError(f"where.{column}: its values are {kind}, not numbers; name a column of numbers")
        inside &= _is_within(_values(dataset, column), lowest, highest)
    rows = np.flatnonzero(inside)
    if not len(rows):
        bounds = " and ".join(f"{column} {bounds}" for column, bounds in where.items())
        raise RecipeError(f"where: none of {len(dataset)} rows has {bounds}; widen the bounds")
    return rows


def _values(dataset, column: str):
    """A column as pyarrow has it, where it lies."""
    return dataset.select_columns([column]).with_format("arrow")[:][column]


def _is_within(values, lowest: float, highest: float):
    """An array of bool, False where there is no value."""
    import pyarrow

    if not pyarrow.types.is_floating(values.type):
        values = values.cast(pyarrow.float64(), safe=False)
    numbers = values.to_numpy()  # null becomes nan, which is within nothing
    # numpy compares in the column's own precision: 0.7 includes what was stored as 0.7 in 32 bits, and is a little less
    return (numbers >= lowest) & (numbers <= highest)


def _in_order(dataset, rows, sort_by: str):
    """The same row numbers in rising or (`-column`) falling order, equals as they stood, those without a value last."""
    import numpy as np
    import pyarrow
    import pyarrow.compute

    column = _sort_column(sort_by)
    values = _values(dataset, column)
    values = values if rows is None else values.take(pyarrow.array(rows))
    direction = "ascending" if sort_by == column else "descending"
    try:
        order = pyarrow.compute.sort_indices(values, sort_keys=[(column, direction)]).to_numpy()
    except pyarrow.ArrowException:
        raise RecipeError(f"sort_by: {values.type} has no order; name a column of numbers or of text") from None
    return order.astype(np.int64) if rows is None else rows[order]


def _shares(recipe: Recipe, parts: list) -> list:
    """Of each source the rows that it gives to the mixture. Raises RecipeError if one has too few."""
    counts = mixture_counts([source.weight for source in recipe.data], recipe.mixture.num_rows)
    if not recipe.mixture.repeat:
        few = [index for index, part in enumerate(parts) if len(part) < counts[index]]
        if few:
            lines = (_too_few(recipe, index, len(parts[index]), counts[index]) for index in few)
            raise RecipeError(*(f"{recipe.source}: {line}" for line in lines))
    return [
        part.select(_drawn(len(part), count, recipe.seed, in_order=bool(source.sort_by)))
        for part, count, source in zip(parts, counts, recipe.data, strict=True)
    ]


def _drawn(num_rows: int, count: int, seed: int, in_order: bool):
    """Numbers of `count` rows: each of `num_rows` at most once, or, where these do not suffice, evenly often."""
    import numpy as np

    random = np.random.default_rng(seed)
    rounds = [random.permutation(num_rows) for _ in range(-(-count // num_rows))]
    drawn = np.concatenate(rounds)[:count]
    return np.sort(drawn) if in_order else drawn


def _turns(counts: Sequence[int], seed: int):
    """Numbers of the rows of joined sources, so that these take turns at random and each stays in its own order."""
    import numpy as np

    source_of_turn = np.random.default_rng((seed, 1)).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = np.empty(len(source_of_turn), dtype=np.int64)
    rows[np.argsort(source_of_turn, kind="stable")] = np.arange(len(rows))
    return rows


def _with_columns_of_step(recipe: Recipe, source_key: str, source: DataSource, dataset, wanted: Sequence[str]):
    """The rows with the wanted columns (and, for step generate, the others), prompt and completion as conversations."""
    halves = [column for column in ROLES if column in wanted]
    has = set(dataset.column_names)
    split = bool(halves) and "messages" in has and ("messages" in source.columns or not has.issuperset(halves))
    gives = has.union(ROLES) if split else has
    missing = [column for column in wanted if column not in gives]
    if missing:
        raise RecipeError(
            f"{recipe.source}: {source_key}.columns: nothing gives {missing[0]}; "
            f"add `{missing[0]}: <one of {', '.join(dataset.column_names)}>`"
        )
    others = has.difference(wanted, TEXTS_OF_TRAINING) if recipe.step == "generate" else ()
    kept = [column for column in dataset.column_names if column in others or column in wanted]
    if split:
        dataset = dataset.select_columns(["messages", *(column for column in kept if column not in ROLES)])
        dataset = dataset.map(
            _split_messages,
            batched=True,
            remove_columns=["messages"],
            features=_replaced(dataset.features, "messages", dict.fromkeys(ROLES, dataset.features["messages"])),
        )
    dataset = dataset.select_columns([*wanted, *(column for column in kept if column not in wanted)])
    for column in halves:
        if getattr(dataset.features[column], "dtype", None) in ("string", "large_string"):
            dataset = dataset.map(
                _as_conversations,
                batched=True,
                fn_kwargs={"column": column},
                features=_replaced(dataset.features, column, {column: _conversation()}),
            )
    return dataset


def _split_messages(rows: dict) -> dict:
    messages = rows["messages"]
    return {"prompt": [each[:-1] for each in messages], "completion": [each[-1:] for each in messages]}


def _as_conversations(rows: dict, column: str) -> dict:
    return {column: [[{"role": ROLES[column], "content": text}] for text in rows[column]]}


def _conversation():
    from datasets import List, Value

    return List({"role": Value("string"), "content": Value("string")})


def _replaced(features, column: str, by: dict):
    from datasets import Features

    return Features({name: kind for name, kind in features.items() if name != column} | by)


def _joined(recipe: Recipe, section: str, parts: list):
    """The parts one after the other, under types that fit all of them. Raises RecipeError if there are none."""
    import pyarrow
    from datasets import Features, concatenate_datasets

    common = {}
    for column in dict.fromkeys(column for part in parts for column in part.column_names):
        kinds = {index: part.features[column] for index, part in enumerate(parts) if column in part.column_names}
        first, *others = kinds
        if all(kinds[index] == kinds[first] for index in others):
            continue
        fields = {index: pyarrow.schema([_field(column, kind)]) for index, kind in kinds.items()}
        fitting = fields[first]
        for index in others:
            try:
                fitting = pyarrow.unify_schemas([fitting, fields[index]], promote_options="permissive")
            except pyarrow.ArrowException:
                raise RecipeError(
                    f"{recipe.source}: {section}.{index}.columns: {column} is {fields[index].field(column).type}, but "
                    f"{fitting.field(column).type} in {section}.{first}; write one as the other, or map another column"
                ) from None
        common |= Features.from_arrow_schema(fitting)
    return concatenate_datasets(
        [
            part.cast(
                Features(part.features | {column: common[column] for column in common if column in part.features})
            )
            if any(column in part.features and part.features[column] != common[column] for column in common)
            else part
            for part in parts
        ]
    )


def _field(column: str, kind):
    from datasets import Features

    return Features({column: kind}).arrow_schema.field(column)
