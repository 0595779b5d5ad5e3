"""completions/*.parquet, kept/*.parquet -> a few answers as they are: right and wrong, kept and dropped, a pair.

Always the first of its kind in the file, so that nobody picks the best; the file is read no further than that.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from open_r1.report.comparison import without_middle
from open_r1.report.reading import Run, tolerant

MAX_CHARACTERS_SHOWN = 2400  # of a prompt, and of a completion
MAX_BENCHMARKS_SHOWN = 3  # of a stage's model
ROWS_AT_ONCE = 64
REASON = "dropped_for"  # the column that says why a completion was not kept


@dataclass(frozen=True)
class Sample:
    """One answer; `right` says of one that was sampled for training whether it was kept."""

    where: str
    """Whose answer it is, or to what."""
    prompt: str
    gold: str | None
    text: str
    right: bool
    verdict: str
    num_tokens: int | None
    truncated: bool


def samples_of(stage: Run, stages: list[Run], notes: list[str]) -> list[Sample]:
    """What the stage sampled itself, and what its model answered in the evaluations of the run."""
    samples = _sampled(stage, notes)
    names = {each.name for each in stages}
    for scorer in stages:
        for label, model in scorer.scores.items():
            is_its_own = label == stage.name or (scorer is stage and label not in names)
            if not is_its_own or not isinstance(model, Mapping):
                continue
            for benchmark in list(model.get("benchmarks") or {})[:MAX_BENCHMARKS_SHOWN]:
                where = benchmark if label == stage.name else f"{label}, {benchmark}"
                samples += _evaluated(scorer, label, benchmark, where, notes)
    return samples


def _evaluated(scorer: Run, label: str, benchmark: str, where: str, notes: list[str]) -> list[Sample]:
    """The first problem whose first answer was right, and the first one whose was wrong."""
    file = scorer.folder / "completions" / f"{label}-{benchmark}.parquet"

    def answers(rows: Iterator[Mapping[str, Any]]) -> Iterator[Sample]:
        for row in rows:
            if (score := row["scores"][0]) is not None:
                right = score > 0.5
                yield Sample(
                    where=where,
                    prompt=_shown(row["prompt"]),
                    gold=_shown(row["gold"]),
                    text=_shown(row["completions"][0]),
                    right=right,
                    verdict="right" if right else "wrong",
                    num_tokens=row["num_tokens"][0],
                    truncated=row["truncated"][0],
                )

    return _first_of_each([file], answers, {True, False}, notes)


def _sampled(stage: Run, notes: list[str]) -> list[Sample]:
    """The first completion that a stage kept, and the first that it dropped; none if it did not sample."""
    if not stage.sampling:
        return []

    def answers(rows: Iterator[Mapping[str, Any]]) -> Iterator[Sample]:
        for row in rows:
            if not row.get("refused"):  # by the server; there is no answer to show
                reason = row.get(REASON)
                yield Sample(
                    where="sampled",
                    prompt=_shown(row["prompt"]),
                    gold=None if row.get("solution") is None else _shown(row["solution"]),
                    text=_shown(row["completion"]),
                    right=reason is None,
                    verdict="kept" if reason is None else f"dropped: {reason}",
                    num_tokens=row.get("num_tokens"),
                    truncated=bool(row.get("truncated")),
                )

    # What is kept may be looked up in kept/ alone: the other tables do not know of duplicates and limits.
    everything = [file for file in _tables(stage.folder / "completions") if _has_reasons(file, notes)]
    if stage.step == "preferences":
        return _first_pair(_tables(stage.folder / "kept"), notes) + _first_of_each(everything, answers, {False}, notes)
    kept = _first_of_each(_tables(stage.folder / "kept"), answers, {True}, notes)
    return kept + _first_of_each(everything, answers, {False} if kept else {True, False}, notes)


def _first_pair(files: list[Path], notes: list[str]) -> list[Sample]:
    """The better and the worse answer of the first pair that was kept; none if there is no pair."""
    row = next(filter(None, (tolerant(lambda path: next(_rows(path), None), file, notes) for file in files)), None)
    if row is None:
        return []
    return [
        Sample(
            where="a pair",
            prompt=_shown(row["prompt"]),
            gold=None if row.get("solution") is None else _shown(row["solution"]),
            text=_shown(row[name]),
            right=name == "chosen",
            verdict=f"{name}: score {row[f'{name}_score']:g}",
            num_tokens=row[f"{name}_tokens"],
            truncated=False,
        )
        for name in ("chosen", "rejected")
    ]


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _has_reasons(file: Path, notes: list[str]) -> bool:
    """False for the tables that a trainer logs, and for what cannot be read."""
    return REASON in (tolerant(lambda path: pyarrow.parquet.read_schema(path).names, file, notes) or [])


def _first_of_each(
    files: list[Path],
    answers: Callable[[Iterator[Mapping[str, Any]]], Iterator[Sample]],
    wanted: set[bool],
    notes: list[str],
) -> list[Sample]:
    """The first answer that is right, if that is wanted, and the first that is not."""
    found: dict[bool, Sample] = {}

    def look_into(file: Path) -> None:
        for sample in answers(_rows(file)):
            if sample.right in wanted:
                found.setdefault(sample.right, sample)
            if found.keys() == wanted:
                return

    for file in files:
        if found.keys() != wanted:
            tolerant(look_into, file, notes)
    return [found[right] for right in (True, False) if right in found]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _shown(value: Any) -> str:
    """A prompt, answer or completion as text, of messages what each says; too long a one without its middle."""
    if not isinstance(value, str | list):
        return str(value)
    text = value if isinstance(value, str) else "\n\n".join(str(message["content"]) for message in value)
    return without_middle(text, MAX_CHARACTERS_SHOWN)
