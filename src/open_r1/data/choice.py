"""Which rows of a source are taken, in which order, how many of each: where, fraction, part, sort_by, mixture.

All of it is done on row numbers, eight bytes a row.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from open_r1.data.files import columns_of
from open_r1.recipe import DataSource, Recipe, RecipeError
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS, trainer_fields, trainer_value


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
            yield from (f"{key}.{problem}" for problem in column_problems(source, columns))
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
    if source.part is not None:
        if len(source.part) != 2 or not 0 <= source.part[0] < source.part[1] <= 1:
            yield f"part: {source.part} is no part; write [from, to], shares from 0 to 1, e.g. [0.9, 1]"
        if source.fraction < 1:
            yield "fraction: part says which rows already; remove one"


def column_problems(source: DataSource, columns: Iterable[str]) -> Iterator[str]:
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
    known = trainer_fields(recipe.step)
    if "shuffle_dataset" in known and trainer_value(recipe.step, recipe.trainer, "shuffle_dataset"):
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


def chosen(dataset, source: DataSource, seed: int):
    """Numbers of the rows that a source's where, fraction, part and sort_by leave, as an array; None if all."""
    import numpy as np

    rows = _rows_within(dataset, source.where) if source.where else None
    if source.fraction < 1 or source.part is not None:
        num_rows = len(dataset) if rows is None else len(rows)
        start, end = (round(share * num_rows) for share in source.part or (0.0, source.fraction))
        end = end if source.part else max(1, end)  # a part may be nothing: its neighbour has that row
        some = np.random.default_rng(seed).permutation(num_rows)[start:end]
        rows = some if rows is None else rows[some]
        if not len(rows):
            raise RecipeError(f"part: {source.part} of {num_rows} rows is none; widen it")
    return _in_order(dataset, rows, source.sort_by) if source.sort_by else rows


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


def shares_of_mixture(recipe: Recipe, parts: list) -> list:
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


def turns(counts: Sequence[int], seed: int):
    """Numbers of the rows of joined sources, so that these take turns at random and each stays in its own order."""
    import numpy as np

    source_of_turn = np.random.default_rng((seed, 1)).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = np.empty(len(source_of_turn), dtype=np.int64)
    rows[np.argsort(source_of_turn, kind="stable")] = np.arange(len(rows))
    return rows
