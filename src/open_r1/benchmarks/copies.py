"""Local copies of benchmarks: files with the columns of the Hub's data sets, read instead of them (`evaluate.copies`).

Neither torch nor LightEval: a recipe is checked with it.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.recipe import Recipe, RecipeError
from open_r1.wording import closest

FORMATS = (".jsonl", ".json", ".parquet")


def copy_problems(recipe: Recipe) -> Iterator[str]:
    """Yields a line (key: what is wrong; mend) for each mistake in `evaluate.copies`; looks at the files as well."""
    if recipe.evaluate is None:
        return
    for name, file in recipe.evaluate.copies.items():
        key = f"evaluate.copies.{name}"
        if name not in BENCHMARKS:
            yield f"{key}: unknown benchmark (known: {', '.join(BENCHMARKS)}){closest(name, BENCHMARKS)}"
        elif name not in recipe.evaluate.benchmarks:
            yield f"{key}: {name} is not in evaluate.benchmarks; add it there, or remove the copy"
        elif BENCHMARKS[name].procedural:
            yield f"{key}: the problems of {name} are made here; remove the copy"
        else:
            try:
                read_copy(name, BENCHMARKS[name], recipe.path(file))
            except RecipeError as error:
                yield from error.lines


def read_copy(name: str, benchmark: Benchmark, file: Path) -> list[dict[str, Any]]:
    """The rows of a local copy, each with all columns that the task wants.

    Raises RecipeError if the file cannot be read, has no rows, or lacks columns.
    """
    key = f"evaluate.copies.{name}"
    if file.suffix not in FORMATS:
        raise RecipeError(f"{key}: {file} is no {', '.join(FORMATS)} file; write the rows into one")
    try:
        rows = _rows(file)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise RecipeError(f"{key}: {file} cannot be read ({_first_line(error)})") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise RecipeError(f"{key}: {file} has no rows; give one problem a row, with columns {_list(benchmark.columns)}")
    for column, (other, written) in benchmark.stand_ins.items():
        for row in rows:
            if row.get(column) is None and row.get(other) is not None:
                row[column] = written.format(row[other])
    for row in rows:  # a gold that is a number in the file is text to LightEval
        row |= {column: str(row[column]) for column in benchmark.columns if isinstance(row.get(column), int | float)}
    missing = [column for column in benchmark.columns if any(row.get(column) is None for row in rows)]
    if missing:
        raise RecipeError(
            f"{key}: {file} has no {_list(missing)} in {_where_missing(rows, missing)}; {name} wants the columns "
            f"{_list(benchmark.columns)}, and the file has {_list(dict.fromkeys(key for row in rows for key in row))}"
        )
    return rows


def write_copy(rows: list[dict[str, Any]], directory: Path) -> Path:
    """The absolute directory that now holds the rows as test.jsonl, which LightEval reads like a Hub data set."""
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, default=str) + "\n" for row in rows)
    (directory / "test.jsonl").write_text(text, encoding="utf-8")
    return directory


def sha256_of(file: Path) -> str:
    """Of a file's bytes, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _rows(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        rows = json.loads(text)
        return rows if isinstance(rows, list) else [rows]
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _where_missing(rows: list[dict[str, Any]], missing: list[str]) -> str:
    index = next(index for index, row in enumerate(rows) if any(row.get(column) is None for column in missing))
    return f"row {index}"


def _list(names) -> str:
    return ", ".join(names)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
