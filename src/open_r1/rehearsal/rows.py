"""Fixture rows in the place of a Hub data set: as many as the batches of a rehearsal need, in a file of their own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.hub import fixture_of, hub_dataset
from open_r1.recipe import RecipeError

MAX_ROWS = 1000  # of a source of which only a small fraction is used


@dataclass(frozen=True)
class FixtureRows:
    """A file that is to be written for one data source: at least `num_rows` rows of the data set's schema."""

    dataset: str
    """Hub id."""
    file: Path
    num_rows: int

    def write(self) -> None:
        """Writes the rows of the data set's fixture again and again. Raises RecipeError if it has none."""
        lines = lines_of_fixture(self.dataset)
        copies = -(-min(self.num_rows, MAX_ROWS) // len(lines))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("".join(f"{line}\n" for line in lines * copies), encoding="utf-8")


@dataclass(frozen=True)
class KeptRows:
    """A file that is to be written for what another run is to keep: `num_rows` rows as in its kept/, MAX_ROWS at most.

    Traces, or with `are_pairs` a better and a worse answer to each prompt.
    """

    file: Path
    num_rows: int
    are_pairs: bool = False

    def write(self) -> None:
        """Writes worked sums, each another one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        row_of = _pair if self.are_pairs else _trace
        rows = (row_of(number, number + 2) for number in range(min(self.num_rows, MAX_ROWS)))
        self.file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _trace(first: int, second: int) -> dict[str, Any]:
    right = first + second
    return {"prompt": _asked(first, second), "completion": _answered(first, second, right), "solution": str(right)}


def _pair(first: int, second: int) -> dict[str, Any]:
    right = first + second
    return {
        "prompt": _asked(first, second),
        "chosen": _answered(first, second, right),
        "rejected": _answered(first, second, right + 1),
    }


def _asked(first: int, second: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {first} + {second}?"}]


def _answered(first: int, second: int, answer: int) -> list[dict[str, str]]:
    text = f"<think>\n{first} and {second} are {answer}.\n</think>\n\n\\boxed{{{answer}}}"
    return [{"role": "assistant", "content": text}]


def lines_of_fixture(dataset: str) -> list[str]:
    """The rows of a Hub data set's fixture, a JSON object each. Raises RecipeError if there are none."""
    file = fixture_of(hub_dataset(dataset))
    if not file.is_file():
        raise RecipeError(f"{file}: no such fixture of {dataset}; write a few rows of its schema")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise RecipeError(f"{file}: it has no rows; write a few of the schema of {dataset}")
    return lines
