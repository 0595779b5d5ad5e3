"""`make decontaminate`: the rows of training data that share runs of words with a benchmark's problems.

    python -m open_r1.curation.decontaminate RECIPE [key=value …] [--benchmarks math_500,aime24] [--out FOLDER]
    python -m open_r1.curation.decontaminate FILE --column problem [--copy math_500=FILE …] [--out FOLDER]

Of a recipe's `data` what the user says in the prompt is looked at (of `pretrain`, the text), as it is after columns,
where, fraction and mixture; of a data file, or of a folder of parquet files, the column that is named. A few thousand
rows at a time are in memory, and of all the others no more than the matches. With --out the rows without a match are
written as parquet files, with decontamination.json beside them; the folder is there only when it is complete.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from open_r1.benchmarks.table import BENCHMARKS
from open_r1.benchmarks.texts import BenchmarkTexts, benchmark_texts
from open_r1.curation.ngrams import DEFAULT_NGRAM, DEFAULT_SHORTEST, Match, Ngrams
from open_r1.recipe import Recipe, RecipeError, load_recipe

REPORT_FILE = "decontamination.json"
DATA_FORMATS = (".jsonl", ".json", ".parquet", ".csv")
DEFAULT_COLUMN = "problem"
ROWS_AT_A_TIME = 1000  # a row can be a trace of 100 kB
BLOCK_BYTES = 16 << 20  # of a text file at a time; no row may be longer, and the first block decides the columns' types
BUFFER_BYTES = 1 << 20  # of each column of a parquet file
ROWS_PER_FILE = 100_000
MAX_EXAMPLES_PER_BENCHMARK = 3
MAX_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Source:
    """Rows to look at: a few thousand at a time, and the column of which the text is compared."""

    name: str
    column: str
    batches: Iterator[pa.Table]


@dataclass
class Found:
    """What was found, benchmark by benchmark. A row that matches several counts once in each, and once in all."""

    num_rows: int = 0
    num_matching_rows: int = 0
    matching_rows: Counter[str] = field(default_factory=Counter)
    """Benchmark -> rows that match at least one of its problems."""
    problems: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Benchmark -> its problems that at least one row matches."""
    examples: defaultdict[str, list[Match]] = field(default_factory=lambda: defaultdict(list))

    def add(self, num_rows: int, matches: Iterable[Match]) -> None:
        """Counts a batch in, all of whose matches are given."""
        self.num_rows += num_rows
        rows = {(match.benchmark, match.row) for match in matches}
        self.matching_rows.update(benchmark for benchmark, _ in rows)
        self.num_matching_rows += len({row for _, row in rows})
        for match in matches:
            self.problems[match.benchmark].add(match.problem)
            if len(self.examples[match.benchmark]) < MAX_EXAMPLES_PER_BENCHMARK:
                self.examples[match.benchmark].append(match)


def decontaminate(
    source: Source, ngrams: Ngrams, benchmarks: dict[str, BenchmarkTexts], out: Path | None = None
) -> Found:
    """What of the source matches; with `out`, the rows that do not are written there, and the report.

    Raises RecipeError if the source cannot be read to its end or has no rows, or if `out` is there already.
    """
    found = Found()
    if out is None:
        for batch in source.batches:
            found.add(batch.num_rows, list(ngrams.matches(texts_of(batch, source.column), found.num_rows)))
        _require_rows(source, found)
        return found
    with _folder_when_complete(out) as folder:
        all_matches: list[Match] = []
        with _ParquetFiles(folder) as clean_rows:
            for batch in source.batches:
                matches = list(ngrams.matches(texts_of(batch, source.column), found.num_rows))
                clean = np.ones(batch.num_rows, dtype=bool)
                clean[[match.row - found.num_rows for match in matches]] = False
                clean_rows.write(batch.filter(pa.array(clean)))
                found.add(batch.num_rows, matches)
                all_matches += matches
        _require_rows(source, found)
        report = _report(source, ngrams, benchmarks, found, all_matches)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def texts_of(batch: pa.Table, column: str) -> pa.Array:
    """The column's texts, one a row; of conversations what the user says, its messages on lines of their own."""
    values = batch[column].combine_chunks()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type):
        return values.cast(pa.large_string())
    if not _are_conversations(values.type):
        raise RecipeError(f"column {column}: neither texts nor conversations but {values.type}; name another one")
    messages = pc.list_flatten(values)
    is_user = pc.fill_null(pc.equal(pc.struct_field(messages, "role"), "user"), False)
    said = pc.fill_null(pc.struct_field(messages, "content").filter(is_user), "")
    rows = pc.list_parent_indices(values).filter(is_user).to_numpy()
    edges = np.searchsorted(rows, np.arange(len(values) + 1)).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(edges, said.cast(pa.string())), "\n")


def _are_conversations(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {each.name: each.type for each in kind.value_type}
    texts = (pa.string(), pa.large_string())
    return fields.get("role") in texts and fields.get("content") in texts


def source_of_recipe(recipe: Recipe, whole_rows: bool = True) -> Source:
    """The rows of a recipe's `data`, with the columns that its step and its rewards read. Raises RecipeError.

    Without `whole_rows` only the column that is looked at is read.
    """
    if recipe.step == "pipeline":
        stages = ", ".join(dict.fromkeys(stage.recipe for stage in recipe.stages))
        raise RecipeError(
            f"{recipe.source}: step: a pipeline has no data of its own; name one of its stages ({stages})"
        )
    if not recipe.data:
        raise RecipeError(f"{recipe.source}: data: step {recipe.step} has none; name a recipe that trains, or a file")
    from open_r1.data import load_data
    from open_r1.rewards import reward_columns

    rows = load_data(recipe, reward_columns(recipe.rewards))
    column = "text" if recipe.step == "pretrain" else "prompt"
    rows = rows if whole_rows else rows.select_columns([column])
    return Source(str(recipe.source), column, rows.with_format("arrow").iter(batch_size=ROWS_AT_A_TIME))


def source_of_files(path: Path, column: str, whole_rows: bool = True) -> Source:
    """The rows of a file, or of a folder's parquet files by name, with all their columns. Raises RecipeError.

    Without `whole_rows` no more of a parquet file than the column is read.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise RecipeError(f"{path}: a folder without .parquet files; name one that has some, a file, or a recipe")
    for file in files:
        if not file.is_file():
            raise RecipeError(f"{file}: no such file; name a recipe, or a file ({', '.join(DATA_FORMATS)})")
    return Source(str(path), column, _batches_of_files(files, column, whole_rows))


def _batches_of_files(files: Sequence[Path], column: str, whole_rows: bool) -> Iterator[pa.Table]:
    for file in files:
        try:
            for batch in _batches_of_file(file, None if whole_rows else column):
                if column not in batch.column_names:
                    known = ", ".join(batch.column_names)
                    raise RecipeError(f"{file}: no column {column}; name its text with --column (it has {known})")
                yield batch
        except RecipeError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RecipeError(f"{file}: cannot be read ({_first_line(error)})") from None


def _batches_of_file(file: Path, only: str | None) -> Iterator[pa.Table]:
    if file.suffix == ".parquet":
        # Otherwise all that was read of the file stays in memory until its end.
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES) as parquet:
            columns = [only] if only in parquet.schema_arrow.names else None
            for batch in parquet.iter_batches(ROWS_AT_A_TIME, columns=columns):
                yield pa.Table.from_batches([batch])
    elif file.suffix == ".json":  # one list in one text: it is read as a whole
        rows = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RecipeError(f"{file}: not a list of rows, [{{…}}, …]; write it so, or a row a line into a .jsonl")
        if rows:
            yield from _sliced(pa.Table.from_struct_array(pa.array(rows)))
    else:
        with _text_reader(file) as reader:
            for batch in reader:
                yield from _sliced(pa.Table.from_batches([batch]))


def _text_reader(file: Path):
    if file.suffix == ".jsonl":
        return pyarrow.json.open_json(file, read_options=pyarrow.json.ReadOptions(block_size=BLOCK_BYTES))
    return pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    )


def _sliced(table: pa.Table) -> Iterator[pa.Table]:
    yield from (table.slice(start, ROWS_AT_A_TIME) for start in range(0, table.num_rows, ROWS_AT_A_TIME))


class _ParquetFiles:
    """Rows written to part-00000.parquet, part-00001.parquet, … of at most about ROWS_PER_FILE rows each."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._num_files = 0
        self._num_rows = 0

    def write(self, rows: pa.Table) -> None:
        """Appends the rows; raises RecipeError if their columns have other types than the first ones had."""
        rows = rows.replace_schema_metadata()
        if self._writer is None or self._num_rows >= ROWS_PER_FILE:
            self.__exit__()
            file = self._folder / f"part-{self._num_files:05d}.parquet"
            self._writer = pyarrow.parquet.ParquetWriter(file, rows.schema)
            self._num_files, self._num_rows = self._num_files + 1, 0
        try:
            self._writer.write_table(rows.cast(self._writer.schema))
        except (ValueError, pa.ArrowException) as error:
            raise RecipeError(f"the columns change within the data ({_first_line(error)})") from None
        self._num_rows += rows.num_rows

    def __enter__(self) -> "_ParquetFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def _folder_when_complete(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which gets this name at the end: half of the rows are never taken for all of them."""
    _require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as unfinished:
        folder = Path(unfinished) / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)


def _require_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RecipeError(f"--out: {out} is there already; name another folder, or remove it")


def _require_rows(source: Source, found: Found) -> None:
    if not found.num_rows:
        raise RecipeError(f"{source.name}: no rows; there is nothing to look at")


def _report(
    source: Source,
    ngrams: Ngrams,
    benchmarks: dict[str, BenchmarkTexts],
    found: Found,
    matches: Sequence[Match],
) -> dict[str, Any]:
    return {
        "source": source.name,
        "column": source.column,
        "n": ngrams.n,
        "shortest": ngrams.shortest,
        "num_rows": found.num_rows,
        "num_matching_rows": found.num_matching_rows,
        "num_clean_rows": found.num_rows - found.num_matching_rows,
        "benchmarks": {
            name: {
                "origin": problems.origin,
                "num_problems": len(problems.texts),
                "num_too_short": ngrams.num_too_short[name],
                "num_matching_rows": found.matching_rows[name],
                "num_matched_problems": len(found.problems[name]),
            }
            for name, problems in benchmarks.items()
        },
        "matches": [vars(match) for match in matches],
    }


def lines_of(source: Source, ngrams: Ngrams, benchmarks: dict[str, BenchmarkTexts], found: Found) -> Iterator[str]:
    """Yields a table of what was found, and some examples."""
    share = found.num_matching_rows / found.num_rows
    short = f", or all of a problem of {ngrams.shortest} to {ngrams.n - 1}" if ngrams.shortest < ngrams.n else ""
    matching = f"{found.num_matching_rows} of {found.num_rows} rows match ({share:.2%})"
    yield f"{source.name}: {matching}: {ngrams.n} words in a row{short}"
    table = [("benchmark", "problems", "too short to match", "problems matched", "rows that match")]
    for name, problems in benchmarks.items():
        counts = (len(problems.texts), ngrams.num_too_short[name], len(found.problems[name]), found.matching_rows[name])
        table.append((name, *map(str, counts)))
    table.append(("any of them", "", "", "", str(found.num_matching_rows)))
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join(["", first.ljust(widths[0]), *cells])
    for name in benchmarks:
        for match in found.examples[name]:
            words = match.words
            if len(words) > MAX_SHOWN_CHARACTERS:
                words = words[:MAX_SHOWN_CHARACTERS] + "…"
            yield f"  row {match.row} matches {name} {match.problem}: {words}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if no row matches, or the others were written to --out; 1 if rows match; 2 for a mistake."""
    parser = argparse.ArgumentParser(
        prog="open_r1.curation.decontaminate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help=f"a recipe, or data ({', '.join(DATA_FORMATS)}, a folder of parquet)")
    parser.add_argument("overrides", nargs="*", help="section.key=value, over the recipe")
    parser.add_argument("--benchmarks", help="comma-separated names (default: all in the table of benchmarks)")
    parser.add_argument(
        "--copy", action="append", default=[], metavar="NAME=FILE", help="read a benchmark's problems from a local file"
    )
    parser.add_argument("--ngram", type=int, default=DEFAULT_NGRAM, help="words in a row (default: %(default)s)")
    parser.add_argument(
        "--shortest",
        type=int,
        help=f"words that a shorter problem needs to be matched as a whole (default: {DEFAULT_SHORTEST}); as many as "
        "--ngram: shorter problems are never matched",
    )
    parser.add_argument("--column", help=f"the text of a data file (default: {DEFAULT_COLUMN})")
    parser.add_argument("--out", type=Path, help="folder for the rows that do not match, and the report")
    asked = parser.parse_intermixed_args(arguments)
    try:
        if asked.out:
            _require_free(asked.out)
        shortest = min(DEFAULT_SHORTEST, asked.ngram) if asked.shortest is None else asked.shortest
        if not 1 <= shortest <= asked.ngram:
            raise RecipeError(f"--shortest {shortest}, --ngram {asked.ngram}: give 1 <= shortest <= ngram")
        names = [name for name in asked.benchmarks.split(",") if name] if asked.benchmarks else list(BENCHMARKS)
        source = _source(asked.source, asked.overrides, asked.column, whole_rows=asked.out is not None)
        benchmarks = benchmark_texts(names, _copies(asked.copy))
        ngrams = Ngrams({name: problems.texts for name, problems in benchmarks.items()}, asked.ngram, shortest)
        found = decontaminate(source, ngrams, benchmarks, asked.out)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    for line in lines_of(source, ngrams, benchmarks, found):
        print(line)
    if asked.out:
        print(f"{found.num_rows - found.num_matching_rows} rows and {REPORT_FILE} are in {asked.out}")
    return int(found.num_matching_rows > 0 and asked.out is None)


def _source(path: Path, overrides: Sequence[str], column: str | None, whole_rows: bool) -> Source:
    if path.suffix in DATA_FORMATS or path.is_dir():
        if overrides:
            raise RecipeError(f"{overrides[0]}: overrides are for a recipe, and {path} is data; drop it")
        return source_of_files(path, column or DEFAULT_COLUMN, whole_rows)
    if column:
        raise RecipeError(f"--column {column}: is for a data file; in a recipe, data.0.columns names the text")
    return source_of_recipe(load_recipe(path, overrides), whole_rows)


def _copies(pairs: Sequence[str]) -> dict[str, Path]:
    copies = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file):
            raise RecipeError(f"--copy {pair}: write NAME=FILE, e.g. --copy math_500=math_500.jsonl")
        copies[name] = Path(file)
    return copies


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    sys.exit(main())
