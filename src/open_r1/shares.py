"""Shares of a run: what needs no training is split over several jobs, and joined by the run without shares.

`--share 2/5` is a run of its own in `RUN_DIR/shares/2-of-5`, with its own lock, record and marker, so no two jobs ever
write the same file. The directory's name is all that its process is told of its share. The command without --share
takes up what is finished there, and does the rest itself.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from open_r1.recipe import Recipe, RecipeError
from open_r1.run_record import read_record, update_record

Item = TypeVar("Item")

DIRECTORY = "shares"
COUNTS_OF_TRACES = {  # step -> what says that its completions are whole
    "generate": "generate.json",
    "distill": "distill.json",
    "preferences": "preferences.json",
}
RESULTS = {"evaluate": "scores.json", **COUNTS_OF_TRACES}  # step -> what its shares add up to


@dataclass(frozen=True, order=True)
class Share:
    """One of `count` parts of a run, counted from 0."""

    count: int
    index: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """As in the names of files and directories: 2-of-5."""
        return f"{self.index}-of-{self.count}"

    def directory(self, run_dir: Path) -> Path:
        """Where this share of a run is a run of its own."""
        return run_dir / DIRECTORY / self.name

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this share: a block, the first blocks being longer by one where they do not come out even."""
        length, longer = divmod(len(items), self.count)
        start = self.index * length + min(self.index, longer)
        return items[start : start + length + (self.index < longer)]

    def parts_of(self, items: Sequence[Item]) -> "list[tuple[Item, Share | None]]":
        """The items of this share where an item can be shared in its turn: (item, the part of it; None if it is whole).

        As many shares as items or fewer have whole ones; of more, each has a part of one item.
        """
        if self.count <= len(items):
            return [(item, None) for item in self.of(items)]
        if not items:
            return []
        owners = [index * len(items) // self.count for index in range(self.count)]
        mine = owners[self.index]
        part = Share(owners.count(mine), self.index - owners.index(mine))
        return [(items[mine], part if part.count > 1 else None)]


def all_shares(count: int) -> list[Share]:
    """The `count` shares of a run, in order."""
    return [Share(count, index) for index in range(count)]


def parse_share(text: str, recipe: Recipe) -> Share:
    """The share that `--share` names. Raises RecipeError if there is none of that name, or none of such a step."""
    if recipe.step not in RESULTS:
        raise RecipeError(
            f"{recipe.source}: step: {recipe.step} has no shares ({', '.join(RESULTS)} have); leave --share out"
        )
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if match is None:
        raise RecipeError(f"--share {text}: it is no share; write index/count, e.g. 0/5 for the first of five")
    index, count = map(int, match.groups())
    if index >= count:
        known = f"the last of {count} is {count - 1}/{count}" if count else "there must be at least one: 0/1"
        raise RecipeError(f"--share {text}: there is no such share; they are counted from 0, and {known}")
    return Share(count, index)


def share_of(run_dir: Path) -> Share | None:
    """The share that is run in this directory; None if it is a whole run's."""
    match = re.fullmatch(r"(\d+)-of-(\d+)", run_dir.name, re.ASCII)
    if match is None or run_dir.parent.name != DIRECTORY:
        return None
    index, count = map(int, match.groups())
    return Share(count, index)


def directories_of_shares(run_dir: Path) -> dict[Share, Path]:
    """Share -> directory, for every share of a run that was ever started, in order of their number and index."""
    found = {share_of(path): path for path in (run_dir / DIRECTORY).glob("*-of-*") if path.is_dir()}
    return {share: found[share] for share in sorted(filter(None, found))}


def directories_of_run(folder: Path) -> list[Path]:
    """The directories of a whole run, whose own this is or one of its shares': its own first."""
    run_dir = folder if share_of(folder) is None else folder.parent.parent
    return [run_dir, *directories_of_shares(run_dir).values()]


def shares_in_record(run_dir: Path) -> list[dict[str, Any]]:
    """The shares that a run has taken up, as its record has them: [{share, seconds, run}]."""
    return (read_record(run_dir) or {}).get("shares") or []


def taken_up(run_dir: Path) -> dict[Share, Path]:
    """Share -> its directory, for the shares that the run has taken up; all are of one count."""
    return {share_of(Path(entry["run"])): Path(entry["run"]) for entry in shares_in_record(run_dir)}


def take_up(run_dir: Path, earlier: list[dict[str, Any]]) -> None:
    """Puts the finished shares of a run into its record, which has just been started, and their seconds on its own.

    `earlier` are those that an earlier attempt took up: their seconds have been counted, and the number of shares is
    settled by them. A share of another recipe, rubric or other weights is left alone and told: what is missing is
    computed in its place, so that a chain of jobs in which a model was made anew goes on, and is right.
    """
    record = read_record(run_dir)
    entries = {entry["share"]: entry for entry in earlier}
    if record["step"] in RESULTS and not (run_dir / RESULTS[record["step"]]).exists():
        for share, directory in _finished(run_dir, record, _count_of(earlier)).items():
            seconds = read_record(directory)["seconds"]
            entries[str(share)] = {"share": str(share), "seconds": seconds, "run": str(directory)}
            print(f"taken up: share {share}, {seconds:.0f} s, {directory}", flush=True)
    if entries:
        counted = sum(entry["seconds"] for entry in earlier)
        seconds = record["seconds"] - counted + sum(entry["seconds"] for entry in entries.values())
        update_record(run_dir, shares=list(entries.values()), seconds=seconds)


def _count_of(entries: list[dict[str, Any]]) -> int | None:
    return share_of(Path(entries[0]["run"])).count if entries else None


def _finished(run_dir: Path, record: dict[str, Any], count: int | None) -> dict[Share, Path]:
    """The shares that fit a record, all of one count: the given one, else that of which the largest part is finished.

    Tells of every share that is not taken, and why.
    """
    fitting = {}
    for share, directory in directories_of_shares(run_dir).items():
        if (problem := _problem(read_record(directory), record)) is None:
            fitting[share] = directory
        else:
            print(f"not taken up: share {share}: {problem} ({directory})", file=sys.stderr)
    if not fitting:
        return {}
    numbers = Counter(share.count for share in fitting)
    count = count or max(numbers, key=lambda count: (numbers[count] / count, count))
    for share in fitting:
        if share.count != count:
            print(f"not taken up: share {share}: this run is joined from shares of {count}", file=sys.stderr)
    return {share: directory for share, directory in fitting.items() if share.count == count}


def _problem(share: dict[str, Any] | None, run: dict[str, Any]) -> str | None:
    """Why a share, by its record, is none of a run; None if it is one."""
    if share is None or share["status"] != "done":
        status = "never started" if share is None else share["status"]
        return f"it is not done ({status}); its part is done here"
    if share["recipe_sha256"] != run["recipe_sha256"]:
        return "it was made by another recipe"
    if not has_rubrics(share, run.get("rubrics", {})):
        return "its rubric was another one"
    return None if hashes_of(run["parents"]) == hashes_of(share["parents"]) else "it began from other weights or data"


def has_rubrics(record: dict[str, Any], rubrics: Mapping[str, str]) -> bool:
    """True if a run had these rubrics, key -> hash, or its record says nothing of them."""
    return record.get("rubrics", rubrics) == rubrics


def hashes_of(parents: Sequence[dict[str, Any]]) -> list[str]:
    """The hash of each parent's weights, or of its data."""
    return [parent.get("weights_sha256") or parent["data_sha256"] for parent in parents]
