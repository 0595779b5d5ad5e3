"""`make leaderboard`: every model that was evaluated, in runs/ and in the recipes' evidence, in a table a benchmark.

    python -m open_r1.leaderboard [RUNS_DIR …] [--out FILE.md]

Only what a run has left counts: scores.json of the evaluate steps (stages of pipelines among them), and run.json of all
runs that the model came from, whose hours and dollars are added up. What is missing or broken is told below the tables,
and so is what cannot be compared: scores of one benchmark that were sampled in different ways.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from open_r1 import shares
from open_r1.contributing.evidence import FOLDER as EVIDENCE_FOLDER
from open_r1.contributing.evidence import PUBLISHED_FILE
from open_r1.places import RECIPES, RUNS
from open_r1.report.reading import json_object, tolerant
from open_r1.report.scores import Score, finite, highest_k, score_of
from open_r1.report.table import NONE, cost_text, count_text
from open_r1.run_record import FILE_NAME

SAMPLING = {  # what has to be equal for two scores to be compared -> how it is told
    "num_problems": "{} problems",
    "samples": "{} samples each",
    "temperature": "temperature {}",
    "top_p": "top-p {}",
    "max_new_tokens": "at most {} tokens",
}
COLUMNS = (
    *("model", "run", "pass@1 %", "pass@k %", "maj@k %", "samples"),
    *("cut off %", "tokens", "commit", "hours", "cost"),
)
LEFT_COLUMNS = ("model", "run", "commit")
WRAPPED_COLUMNS = ("model", "run")
# What a narrow terminal does without, the first first: a number that is cut off would be another number.
LEFT_OUT_FIRST = ("samples", "commit", "tokens", "cut off %", "pass@k %", "maj@k %")
MIN_WRAPPED_WIDTH = 14  # letters
COMMIT_LETTERS = 8
ONLY_LABEL = "model"  # of an evaluation of one model
LEGEND = (
    "pass@1 with half of its 95 % interval; k in brackets; cut off: answers that hit the limit of tokens; "
    "tokens: mean of an answer; commit: of the evaluation, * with changes; hours and cost: of all runs behind a model."
)


@dataclass(frozen=True)
class Record:
    """What is known of one run: its run.json, or what the evidence kept of it."""

    name: str
    folder: Path | None
    """None if only its evidence is left."""
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """What the runs took that a model came from, evaluations not among them; None is what is not known."""

    seconds: float | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class Row:
    """One model of one evaluation on one benchmark."""

    benchmark: str
    run: str
    score: Score
    pass_at_k: tuple[int, float] | None
    entry: Mapping[str, Any]
    commit: str
    training: Training

    @property
    def sampling(self) -> tuple[Any, ...]:
        """How its answers were sampled, as far as scores.json says."""
        return tuple(finite(self.entry.get(key)) for key in SAMPLING)


@dataclass
class Leaderboard:
    """Rows by benchmark, then by their sampling, the best first; and what a reader has to be told."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(row.benchmark for row in self.rows))

    def samplings(self, benchmark: str) -> dict[tuple[Any, ...], str]:
        """Each way in which a benchmark was sampled, and a letter for it."""
        ways = dict.fromkeys(row.sampling for row in self.rows if row.benchmark == benchmark)
        return {way: _letter(number) for number, way in enumerate(ways)}

    def cells(self, benchmark: str) -> list[tuple[str, ...]]:
        """The texts of COLUMNS, a row for each model of a benchmark."""
        letters = self.samplings(benchmark)
        return [
            _cells(row, letters[row.sampling] if len(letters) > 1 else "")
            for row in self.rows
            if row.benchmark == benchmark
        ]

    def caption(self, benchmark: str) -> list[str]:
        """How a benchmark was sampled; where that is not one way, that the ways are not to be compared."""
        letters = self.samplings(benchmark)
        if len(letters) == 1:
            return [told] if (told := _sampling_text(next(iter(letters)))) else []
        return [
            f"{benchmark} was sampled in {len(letters)} ways, and a score of one says nothing beside one of another:",
            *(f"{letter}: {_sampling_text(way) or 'not known how'}" for way, letter in letters.items()),
        ]

    def remarks(self, benchmark: str) -> list[str]:
        """Why a score is refused, and how many answers a score leaves out, a line each."""
        remarks = []
        for row in self.rows:
            name = f"{row.score.label} ({row.run})"
            if row.benchmark == benchmark and row.score.refused:
                remarks.append(f"{name} is refused: {row.score.refused}")
            elif row.benchmark == benchmark and finite(row.entry.get("unjudged")):
                remarks.append(f"{name}: {row.entry['unjudged']} answers could not be judged and are left out")
        return remarks


def leaderboard(roots: Sequence[Path], recipes: Path) -> Leaderboard:
    """All that was evaluated below `roots`, and in the evidence of `recipes`; a run that is in both counts once."""
    board = Leaderboard()
    records = [*_runs(roots, board.notes), *_evidence(recipes, board.notes)]
    seen = set()
    for record in records:
        if record.values.get("step") != "evaluate":
            continue
        for label, benchmark, parameters, entry, made_by in _entries(record, board.notes):
            key = (label, benchmark, *(str(record.values.get(name)) for name in ("recipe_sha256", "seed", "commit")))
            key = (*key, json.dumps(entry, sort_keys=True))
            if key in seen:
                continue
            seen.add(key)
            try:
                score, pass_at_k = score_of(label, parameters, entry), highest_k(entry.get("pass@k"))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                board.notes.append(f"{record.name}: the score of {label} on {benchmark} cannot be read ({error})")
                continue
            training = _training(label, record, made_by, records, board.notes)
            commit = _commit_text(record.values)
            board.rows.append(Row(benchmark, record.name, score, pass_at_k, entry, commit, training))
    _sort(board)
    board.notes = list(dict.fromkeys(board.notes))
    return board


def _sort(board: Leaderboard) -> None:
    """By benchmark, then by sampling (that of most rows first), then by pass@1; what has none is last."""
    num_rows: dict[tuple, int] = {}
    for row in board.rows:
        num_rows[row.benchmark, row.sampling] = num_rows.get((row.benchmark, row.sampling), 0) + 1

    def place(row: Row) -> tuple:
        pass_at_1 = row.score.pass_at_1
        way = (-num_rows[row.benchmark, row.sampling], str(row.sampling))
        return (row.benchmark, *way, pass_at_1 is None, -(pass_at_1 or 0.0), row.score.label, row.run)

    board.rows.sort(key=place)


def _runs(roots: Sequence[Path], notes: list[str]) -> Iterator[Record]:
    """Every run below the roots, but for what was put aside as stale, and the shares of a run."""
    seen = set()
    for root in roots:
        for file in sorted(root.rglob(FILE_NAME)):
            parts = file.parent.relative_to(root).parts
            if file.resolve() in seen or shares.DIRECTORY in parts or any("." in part for part in parts):
                continue
            seen.add(file.resolve())
            values = tolerant(json_object, file, notes)
            if values is not None:
                yield Record("/".join(parts) or root.resolve().name, file.parent.resolve(), values)


def _evidence(recipes: Path, notes: list[str]) -> Iterator[Record]:
    for file in sorted(recipes.glob(f"*/{EVIDENCE_FOLDER}/*.json")):
        if file.name != PUBLISHED_FILE and (values := tolerant(json_object, file, notes)) is not None:
            yield Record(f"{file.parents[1].name}/{EVIDENCE_FOLDER}/{file.stem}", None, {**values, "status": "done"})


def _entries(record: Record, notes: list[str]) -> Iterator[tuple[str, str, int | None, Mapping[str, Any], str | None]]:
    """(label, benchmark, parameters, entry of scores.json, path of the model) of a finished evaluation."""
    if (status := record.values.get("status")) != "done":
        notes.append(f"{record.name}: {status or 'no status'}, so it is left out")
        return
    scores = record.values.get("scores")
    if record.folder is not None:
        scores = tolerant(json_object, record.folder / "scores.json", notes) or scores
    if not isinstance(scores, Mapping) or not scores:
        notes.append(f"{record.name}: no scores.json, and no scores in its record")
        return
    for label, model in scores.items():
        benchmarks = model.get("benchmarks") if isinstance(model, Mapping) else None
        if not isinstance(benchmarks, Mapping):
            notes.append(f"{record.name}: the scores of {label} are not as an evaluation leaves them")
            continue
        for benchmark, entry in benchmarks.items():
            if isinstance(entry, Mapping):
                yield label, benchmark, model.get("parameters"), entry, model.get("model")
            else:
                notes.append(f"{record.name}: the score of {label} on {benchmark} is not as an evaluation leaves it")


def _training(
    label: str, evaluation: Record, model: str | None, records: Sequence[Record], notes: list[str]
) -> Training:
    """Seconds and dollars of the run that made a model and of all that it came from; of a base model none are known."""
    parents = [parent for parent in evaluation.values.get("parents") or [] if isinstance(parent, Mapping)]
    made_by = [parent for parent in parents if model and str(Path(model).parent) == parent.get("run")]
    made_by = made_by or [parent for parent in parents if parent.get("name") == label]
    made_by = made_by or (parents if label == ONLY_LABEL and len(parents) == 1 else [])
    chain: dict[int, Record] = {}
    if not made_by or not _collect(made_by[0], evaluation, records, chain, notes) or not chain:
        return Training()
    seconds = [finite(record.values.get("seconds")) for record in chain.values()]
    costs = [finite(record.values.get("cost_usd")) for record in chain.values()]
    return Training(None if None in seconds else sum(seconds), None if None in costs else sum(costs))


def _collect(
    parent: Mapping[str, Any], child: Record, records: Sequence[Record], chain: dict[int, Record], notes: list[str]
) -> bool:
    """Puts the run of a parent, and those of its own parents, into `chain`; False, with a note, if one is lost."""
    record = _record_of(parent, child, records)
    if record is None:
        if child.folder is None:  # evidence is kept of single runs; there may be none of what they came from
            return False
        if parent.get("run") and Path(str(parent["run"])).is_dir() and not (Path(parent["run"]) / FILE_NAME).exists():
            return True  # a model from outside: what it took is not ours to tell
        notes.append(
            f"{child.name}: the run that made its {parent.get('name')} is not there any more, or was made anew since; "
            f"hours and cost are left out"
        )
        return False
    if id(record) in chain:
        return True
    chain[id(record)] = record
    parents = [each for each in record.values.get("parents") or [] if isinstance(each, Mapping)]
    return all([_collect(each, record, records, chain, notes) for each in parents])  # a note on every lost one


def _record_of(parent: Mapping[str, Any], child: Record, records: Sequence[Record]) -> Record | None:
    """The run that made exactly these weights, or data: where the parent says, else wherever it lies now."""
    hashes = {key: parent[key] for key in ("weights_sha256", "data_sha256") if parent.get(key)}
    folders = [Path(str(parent["run"])).resolve()] if parent.get("run") else []
    if child.folder is not None and parent.get("name"):
        folders.append(child.folder.parent / str(parent["name"]))  # a pipeline's runs, moved together
    for folder in folders:
        for record in records:
            if record.folder == folder and _made(record, hashes):
                return record
    made = [record for record in records if hashes and all(record.values.get(key) == hashes[key] for key in hashes)]
    return made[0] if made else None


def _made(record: Record, hashes: Mapping[str, str]) -> bool:
    """False if the run has left other weights, or data, than these; its record may not know."""
    return all(record.values.get(key) in (None, value) for key, value in hashes.items())


def _commit_text(values: Mapping[str, Any]) -> str:
    commit = values.get("commit")
    return f"{str(commit)[:COMMIT_LETTERS]}{'*' if values.get('dirty') else ''}" if commit else NONE


def _cells(row: Row, letter: str) -> tuple[str, ...]:
    score, refused = row.score, row.score.refused
    hours = None if row.training.seconds is None else row.training.seconds / 3600
    return (
        f"{score.label} ({count_text(score.parameters)})" if score.parameters else score.label,
        row.run,
        f"{_pass_text(row)}{' ' + letter if letter else ''}",
        NONE if refused else _at_k_text(row.pass_at_k),
        _at_k_text(score.majority),
        str(row.entry.get("samples") or NONE),
        NONE if score.truncated_share is None else f"{100 * score.truncated_share:.1f}",
        NONE if score.tokens_per_answer is None else f"{score.tokens_per_answer:,.0f}",
        row.commit,
        NONE if hours is None else f"{hours:,.2f}",
        cost_text(row.training.cost_usd),
    )


def _pass_text(row: Row) -> str:
    """`88.1 ± 2.0`, in percent; `refused` where no number may stand."""
    score = row.score
    if score.refused:
        return "refused"
    if score.pass_at_1 is None:
        return NONE
    text = f"{100 * score.pass_at_1:.1f}"
    return text if score.interval is None else f"{text} ± {50 * (score.interval[1] - score.interval[0]):.1f}"


def _at_k_text(at_k: tuple[int, float] | None) -> str:
    return NONE if at_k is None else f"{100 * at_k[1]:.1f} [{at_k[0]}]"


def _sampling_text(way: tuple[Any, ...]) -> str:
    told = [text.format(value) for text, value in zip(SAMPLING.values(), way, strict=True) if value is not None]
    return ", ".join(told).replace(" 1 samples each", " 1 sample each")


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"way {number + 1}"


def print_leaderboard(board: Leaderboard, console: Console) -> None:
    """Prints a table for each benchmark, and the notes."""
    unbounded = console.options.update(max_width=10_000)  # else a table measures no wider than the terminal
    for benchmark in board.benchmarks:
        cells = board.cells(benchmark)
        empty = [column for number, column in enumerate(COLUMNS) if all(row[number] == NONE for row in cells)]
        missing: list[str] = []
        table = _table(benchmark, cells, empty)
        for column in LEFT_OUT_FIRST:
            if column not in empty and console.measure(table, options=unbounded).minimum > console.width:
                missing.append(column)
                table = _table(benchmark, cells, [*empty, *missing])
        console.print(table)
        if missing:
            console.print(Text(f"  no room for {', '.join(missing)}; a wider terminal has it, and --out FILE.md"))
        for line in (*board.caption(benchmark), *board.remarks(benchmark)):
            console.print(Text(f"  {line}"))
        console.print()
    if board.rows:
        console.print(Text(LEGEND))
    for note in board.notes:
        console.print(Text(f"left out: {note}"))


def _table(title: str, rows: Sequence[Sequence[str]], missing: Sequence[str]) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown = [number for number, column in enumerate(COLUMNS) if column not in missing]
    for number in shown:
        column = COLUMNS[number]
        if column in WRAPPED_COLUMNS:
            table.add_column(column, min_width=MIN_WRAPPED_WIDTH, overflow="fold")
        else:
            width = max(len(text) for text in (column, *(row[number] for row in rows)))
            justify = "left" if column in LEFT_COLUMNS else "right"
            table.add_column(column, justify=justify, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(Text(row[number]) for number in shown))  # rich would take brackets in a label for its markup
    return table


def markdown(board: Leaderboard) -> str:
    """The same as Markdown; with several benchmarks a table of pass@1 of all of them comes first."""
    parts = ["# Leaderboard", LEGEND]
    if len(board.benchmarks) > 1:
        parts += ["pass@1 in percent, of all benchmarks:", _markdown_table(*_overview(board))]
    for benchmark in board.benchmarks:
        parts += [f"## {_escaped(benchmark)}", _markdown_table(COLUMNS, board.cells(benchmark))]
        parts += map(_escaped, (*board.caption(benchmark), *board.remarks(benchmark)))
    if board.notes:
        parts += ["## Left out", "\n".join(f"- {_escaped(note)}" for note in board.notes)]
    return "\n\n".join(parts) + "\n"


def _overview(board: Leaderboard) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row for each model and run, a column for each benchmark."""
    cell_of: dict[tuple[str, str], dict[str, str]] = {}
    for row in board.rows:
        letters = board.samplings(row.benchmark)
        letter = f" {letters[row.sampling]}" if len(letters) > 1 else ""
        cell_of.setdefault((row.score.label, row.run), {})[row.benchmark] = _pass_text(row) + letter
    benchmarks = board.benchmarks
    rows = [(*model, *(cells.get(benchmark, NONE) for benchmark in benchmarks)) for model, cells in cell_of.items()]
    return ("model", "run", *benchmarks), rows


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---" if column in LEFT_COLUMNS else "---:" for column in columns], *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    """One line that Markdown shows as it is."""
    for letter in "\\|*<`":
        text = text.replace(letter, f"\\{letter}")
    text = text.replace("](", "]\\(")  # a label is no link
    return " ".join(text.split())


def main(arguments: Sequence[str], recipes: Path = RECIPES) -> int:
    """Exit code 0, or 2 with one line if a directory that was named is not there."""
    parser = argparse.ArgumentParser(prog="open_r1.leaderboard", description=__doc__.partition("\n\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS_DIR", help="default: runs/")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="also write it as Markdown")
    options = parser.parse_args(arguments)
    for root in options.runs:
        if not root.is_dir():
            print(f"{root}: no such directory; name one with runs in it, e.g. runs/", file=sys.stderr)
            return 2
    board = leaderboard(options.runs or [RUNS], recipes)
    print_leaderboard(board, Console())
    if not board.rows:
        print("no model has been evaluated yet; `make r1` or `make evaluate RECIPE=…` does so")
    if options.out is not None:
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(markdown(board), encoding="utf-8")
        except OSError as error:
            print(f"--out {options.out}: cannot be written ({error.strerror}); name another file", file=sys.stderr)
            return 2
        print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
