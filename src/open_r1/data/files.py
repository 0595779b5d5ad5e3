"""Where rows lie: which columns a source gives, and a source opened as a datasets.Dataset.

Files are mapped and not read: memory holds no texts but those that the computer makes.
"""

import csv
import glob
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from open_r1 import procedural
from open_r1.recipe import STAGE_REFERENCE, DataSource, Recipe, RecipeError

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
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
    theirs = _columns_of_file(files_of(recipe.path(source.path))[0])
    missing = [column for column in source.columns.values() if column not in theirs]
    if missing:
        raise RecipeError(f"columns: {source.path} has no column {missing[0]}; it has {', '.join(sorted(theirs))}")
    ours = set(source.columns) | {column for column in theirs if column not in source.columns.values()}
    return ours | {"prompt", "completion"} if "messages" in ours else ours


def files_of(path: Path) -> list[Path]:
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


def opened(recipe: Recipe, source_key: str, source: DataSource):
    """A source as a datasets.Dataset, all its rows and columns as they are. Raises RecipeError if it cannot be had."""
    from datasets import Dataset, load_dataset

    if source.procedural:
        try:
            return Dataset.from_list(list(procedural.rows(source.procedural, recipe.seed)))
        except ValueError as error:  # e.g. so many different ones there are not
            raise RecipeError(f"{recipe.source}: {source_key}.procedural: {error}") from None
    key, value = ("path", source.path) if source.path else ("name", source.name)
    try:
        if source.path:
            files = files_of(recipe.path(source.path))
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
