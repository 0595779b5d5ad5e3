"""Verdicts on disk, found by what was asked: what has been judged once is not paid for again.

A folder of files that only grow, one for each process that has written there, so that nobody needs a lock. All that
was there is read at opening; what other processes write later is seen at the next one. A line that tells where a
verdict stands, in whichever file, takes it back.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_r1.generation import Completion, Sampling

PARTS = {"key", "text", "prompt_tokens", "completion_tokens", "truncated"}  # of a verdict's line


class VerdictCache:
    """Verdicts by key. In memory is only where each of them stands: a long run has millions.

    Makes the folder if it is not there; in the folders `beside` it verdicts are found as well. Raises OSError if one
    cannot be read, or the first not written: before a verdict is paid for.
    """

    def __init__(self, folder: Path, beside: Sequence[Path] = ()):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        self._places: dict[bytes, tuple[Path, int]] = {}  # file, and the line's first byte in it
        self._times_taken_back: Counter[bytes] = Counter()
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())
        self._file = folder / f"{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        files = [file for each in (folder, *beside) for file in sorted(each.glob("*.jsonl"))]
        lines = [(file, *line) for file in files for line in _lines_of(file)]
        taken_back = {what for _, _, what in lines if isinstance(what, tuple)}
        for file, start, key in lines:
            if isinstance(key, tuple):
                continue
            if (file.name, start) in taken_back:
                self._times_taken_back[key] += 1
            else:
                self._places.setdefault(key, (file, start))

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Completion | None:
        """The verdict that was given; None if there is none."""
        if (place := self._places.get(bytes.fromhex(key))) is None:
            return None
        file, start = place
        with file.open("rb") as lines:
            lines.seek(start)
            entry = json.loads(lines.readline())
        return Completion(
            entry["text"], entry["completion_tokens"], entry["truncated"], num_prompt_tokens=entry["prompt_tokens"]
        )

    def add(self, key: str, verdict: Completion) -> None:
        """Writes a verdict down, readable or not; after this it survives the process. Refused ones are not for here."""
        entry = {
            "key": key,
            "text": verdict.text,
            "prompt_tokens": verdict.num_prompt_tokens,
            "completion_tokens": verdict.num_tokens,
            "truncated": verdict.truncated,
        }
        self._places[bytes.fromhex(key)] = (self._file, self._write(entry))

    def take_back(self, key: str) -> None:
        """Forgets the verdict of this key, here and on disk, if there is one."""
        if (place := self._places.pop(bytes.fromhex(key), None)) is not None:
            file, start = place
            self._write({"taken_back": [file.name, start]})
            self._times_taken_back[bytes.fromhex(key)] += 1

    def times_taken_back(self, key: str) -> int:
        """How many verdicts of this key have been forgotten."""
        return self._times_taken_back[bytes.fromhex(key)]

    def _write(self, entry: Mapping[str, Any]) -> int:
        """Adds a line to this process' file; gives its first byte."""
        with self._file.open("ab") as lines:
            start = lines.tell()
            lines.write(json.dumps(entry).encode() + b"\n")
        return start


def key_of(
    who: Mapping[str, Any],
    messages: Sequence[Mapping[str, str]],
    schema: Mapping[str, Any],
    sampling: Sampling,
    number: int,
) -> str:
    """The key of the n-th verdict that `who` gives when it is sent these messages: a hash in hexadecimal digits.

    At temperature 0 all verdicts are the first.
    """
    asked = {
        "who": who,
        "messages": [dict(message) for message in messages],
        "schema": schema,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "number": number if sampling.temperature else 0,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _lines_of(file: Path) -> Iterator[tuple[int, bytes | tuple[str, int]]]:
    """Yields the first byte of each line and the verdict's key, or (file, first byte) of a verdict that is taken back.

    Half a line, which a kill leaves, is none, nor is what else cannot be read.
    """
    start = 0
    with file.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                entry = json.loads(line)
                if "taken_back" in entry:
                    name, first_byte = entry["taken_back"]
                    yield start, (str(name), int(first_byte))
                elif entry.keys() >= PARTS:
                    yield start, bytes.fromhex(entry["key"])
            start += len(line)
