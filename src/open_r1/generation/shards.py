"""The completions of a run in shards: one parquet file for so many prompts, each whole or not there.

A shard is sampled by one process. What ends is written to a journal beside its file at once, so that a killed run loses
no completion that was finished and asks for none twice; when the shard is whole, it becomes the file. Its seed depends
on the run's and on its number alone: shares, and any number of processes, give the same completions.
"""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from open_r1.generation.progress import Watch
from open_r1.generation.sampling import Backend, Completion, Conversation, Row, Sampling

FOLDER = "completions"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` (not included) of a run's prompts."""

    number: int
    start: int
    stop: int

    def file(self, run_dir: Path) -> Path:
        """The file that it becomes in the directory of a run."""
        return run_dir / FOLDER / f"part-{self.number:05d}.parquet"

    def journal(self, run_dir: Path) -> Path:
        """What there is of it until then."""
        return self.file(run_dir).with_suffix(".jsonl")


def shards_of(num_prompts: int, prompts_per_shard: int) -> list[Shard]:
    """All prompts, cut into shards in order; the last one is as long as what is left."""
    starts = range(0, num_prompts, prompts_per_shard)
    return [Shard(number, start, min(start + prompts_per_shard, num_prompts)) for number, start in enumerate(starts)]


def sample_shard(
    shard: Shard,
    conversations: Sequence[Conversation],
    backend: Backend,
    sampling: Sampling,
    run_dir: Path,
    watch: Watch,
) -> list[list[Completion]]:
    """For each conversation of the shard its completions, in order; those in the journal are not sampled again.

    The journal stays: whoever has written the shard's file removes it.
    """
    sampling = dataclasses.replace(sampling, seed=seed_of_shard(sampling.seed, shard))
    with Journal(shard.journal(run_dir)) as journal:
        rows = [(index, sample) for index in range(len(conversations)) for sample in range(sampling.num_samples)]
        wanted = {row for row in rows if row not in journal.finished}
        if wanted:
            with contextlib.closing(backend.sample(conversations, sampling, wanted)) as sampled:
                for row, completion in watch.watched(sampled):
                    journal.add(row, completion)
        return [
            [journal.finished[index, sample] for sample in range(sampling.num_samples)]
            for index in range(len(conversations))
        ]


def seed_of_shard(seed: int, shard: Shard) -> int:
    """A seed of 32 bits for a shard of a run with a seed."""
    return int(np.random.SeedSequence([seed, shard.number]).generate_state(1)[0])


class Journal:
    """Completions in the order in which they ended, a line of JSON each; `finished` is what it held when it was opened.

    Half a line, which a kill leaves, is none.
    """

    def __init__(self, file: Path):
        self.file = file
        self.finished: dict[Row, Completion] = {}

    def __enter__(self) -> "Journal":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        num_bytes = 0
        if self.file.exists():
            with self.file.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    num_bytes += len(line)
                    self._remember(json.loads(line))
        self._stream = self.file.open("ab")
        self._stream.truncate(num_bytes)
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def add(self, row: Row, completion: Completion) -> None:
        """Writes a completion down; after this it survives the process."""
        entry = {"row": list(row), **dataclasses.asdict(completion)}
        del entry["token_ids"]  # their number is enough for whoever judges
        self._stream.write(json.dumps(entry).encode() + b"\n")
        self._stream.flush()
        self._remember(entry)

    def _remember(self, entry: dict) -> None:
        fields = {key: value for key, value in entry.items() if key != "row"}
        self.finished[tuple(entry["row"])] = Completion(**fields)


def num_journaled(shard: Shard, run_dir: Path) -> int:
    """Completions of a shard that an earlier attempt has left in its journal."""
    journal = shard.journal(run_dir)
    if not journal.exists():
        return 0
    with journal.open("rb") as lines:
        return sum(line.endswith(b"\n") for line in lines)
