"""The rows of completions/, kept/ and prompts/: what they have in common, whoever judged them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from open_r1.whole_files import whole

REFUSED = "refused"  # why a completion is dropped that a server did not want to give
TRUNCATED = "truncated"  # why one is dropped that does not end
NOT_ASKED = "no other answer to compare it with"  # why one is dropped that no judge has seen
NO_VERDICT = ": no verdict"  # how a reason ends that is the judge's fault
PROVENANCE = ("teacher", "teacher_sha256", "sampled_with", "verified_by")  # columns of kept/
MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
OF_ANSWER = {  # column of completions/ -> its type, where answers are scored to be paired
    "completion": pyarrow.string(),
    "num_tokens": pyarrow.int32(),
    "truncated": pyarrow.bool_(),
    "refused": pyarrow.string(),
    "score": pyarrow.float64(),
    "dropped_for": pyarrow.string(),
}
OF_PAIR = {  # column of kept/ -> its type, where what is kept are pairs
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "chosen_score": pyarrow.float64(),
    "rejected_score": pyarrow.float64(),
    "margin": pyarrow.float64(),
    "chosen_tokens": pyarrow.int32(),
    "rejected_tokens": pyarrow.int32(),
}


def write_rows(rows: Sequence[Mapping[str, Any]], schema: pyarrow.Schema, file: Path) -> None:
    """Writes rows as a parquet file, which has its name only when it is whole."""
    with whole(file) as unfinished:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), unfinished, compression="zstd")


def groups(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of one prompt after the other, with a key that equal prompts share."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if group and number_of(row) != number_of(group[0]):
            yield key_of(group[0]["prompt"]), group
            group = []
        group.append(row)
    if group:
        yield key_of(group[0]["prompt"]), group


def number_of(row: Mapping[str, Any]) -> str:
    """The number of its prompt, which begins a completion's id."""
    return row["id"].rpartition("-")[0]


def key_of(prompt: Sequence[Mapping[str, str]]) -> str:
    """Equal for equal prompts; 64 bits in hexadecimal."""
    return hashlib.blake2b(json.dumps(prompt).encode(), digest_size=8).hexdigest()
