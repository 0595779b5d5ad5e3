"""Paths of this machine -> names, so that nothing that is published says where it lay.

Records are scrubbed before anything is written of them. Tables are looked through: what is ours in them (who sampled)
is mended, and of what is the data's own the reader is told.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from open_r1.curation.rows import PROVENANCE
from open_r1.places import RECIPES, REPOSITORY
from open_r1.recipe import RecipeError

# Two parts at least: </think> and 3/4 are no paths. Nor is what follows a host's name.
ABSOLUTE = re.compile(r"(?<![\w.~/:<)\]}>])(?:/[\w.@+~-]+){2,}")
ROWS_AT_A_TIME = 1000  # a row can be a trace of 100 kB
HOME = "~"

Names = Mapping[str, str]
"""Path -> what is said in its place."""


def names_of_paths(run_dir: Path, record: Mapping[str, Any], *others: Any) -> Names:
    """A name for the run's directory, and for every absolute path that stands in its record or in `others`.

    A path in the recipes' folder stays, relative to the repository; one in a parent's run begins with that run's name;
    of all others the last part is left.
    """
    parents = {str(parent["run"]): str(parent["name"]) for parent in record.get("parents") or [] if parent.get("run")}
    here = {str(run_dir.absolute()), str(run_dir.resolve())}
    roots = {str(Path(path).parent): Path(path).parent.name for path in here}
    roots |= {str(REPOSITORY): REPOSITORY.name, str(RECIPES): RECIPES.name}
    if len(Path.home().parts) > 1:
        roots[str(Path.home())] = HOME
    found = {path: _name_of(path, parents) for path in (*_absolute_paths([record, *others]), *parents, *here)}
    return {path: name for path, name in (roots | found).items() if len(Path(path).parts) > 1}


def _name_of(path: str, parents: Mapping[str, str]) -> str:
    if Path(path).is_relative_to(RECIPES):
        return str(Path(path).relative_to(REPOSITORY))
    for run in sorted(parents, key=len, reverse=True):
        if Path(path).is_relative_to(run):
            return str(Path(parents[run]) / Path(path).relative_to(run))
    return Path(path).name


def _absolute_paths(value: Any) -> Iterator[str]:
    """Every absolute path in a JSON value, whole texts (which may have blanks) and parts of texts."""
    if isinstance(value, Mapping):
        yield from _absolute_paths(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _absolute_paths(each)
    elif isinstance(value, str):
        if is_absolute(value):
            yield value
        yield from ABSOLUTE.findall(value)


def is_absolute(text: str) -> bool:
    """True if a text is nothing but a path from the root, of two parts at least."""
    return text.startswith("/") and "\n" not in text and len(Path(text).parts) > 2


def without_paths(value: Any, names: Names) -> Any:
    """A JSON value, or a text, with a name in place of every path; the longest path that fits counts."""
    if isinstance(value, Mapping):
        return {key: without_paths(each, names) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(each, names) for each in value]
    if not isinstance(value, str):
        return value
    longest_first = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])(?:{longest_first})(?![\w-])", lambda match: names[match[0]], value)


# --- Tables


def paths_to_look_for(record: Mapping[str, Any], names: Names) -> list[str]:
    """The paths that must not stand in a table: the repository's, the runs', and those of the recipe.

    Only these, and none that another one begins: in what a model wrote there may be paths that are nobody's.
    """
    mine = {str(REPOSITORY), *(path for path in _absolute_paths([record.get("recipe"), record.get("parents")]))}
    mine |= {path for path in names if (Path(path) / "run.json").exists()}
    return [path for path in sorted(mine) if not any(path.startswith(f"{other}/") for other in mine)]


def table_to_send(file: Path, wanted: Sequence[str], names: Names) -> Path | bytes:
    """The parquet file itself; if its columns of provenance hold a path, a copy in memory with the name instead.

    Raises RecipeError if a path stands in a column that is the data's, and not ours to change.
    """
    mended = set()
    with pyarrow.parquet.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_A_TIME):
            for column, path in _columns_with_paths(batch, wanted):
                if column not in PROVENANCE:
                    raise RecipeError(
                        f"{file}: column {column} holds {path}, a path of this machine; publish a copy of the run "
                        f"without that column"
                    )
                mended.add(column)
    if not mended:
        return file
    table = pyarrow.parquet.read_table(file)
    for column in mended:
        values = [without_paths(value, names) for value in table[column].to_pylist()]
        table = table.set_column(table.column_names.index(column), column, pyarrow.array(values, pyarrow.string()))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _columns_with_paths(batch: pyarrow.RecordBatch, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    for column in batch.schema.names:
        for texts in _texts_in(batch[column]):
            for path in wanted:
                if pyarrow.compute.any(pyarrow.compute.match_substring(texts, path)).as_py():
                    yield column, path


def _texts_in(array: pyarrow.Array) -> Iterator[pyarrow.Array]:
    """The arrays of texts within an array of any type."""
    kind = array.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        yield array
    elif pyarrow.types.is_dictionary(kind):
        yield from _texts_in(array.dictionary)
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        yield from _texts_in(array.flatten())
    elif pyarrow.types.is_struct(kind):
        for field in array.flatten():
            yield from _texts_in(field)
