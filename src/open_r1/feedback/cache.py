"""Verdicts on disk, found by what was asked: what has been judged once is not paid for again.

A folder of files that only grow, one for each process that has written there, so that nobody needs a lock. All that
was there is read at opening; what other processes write later is seen at the next one.
"""

import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_r1.generation import Completion, Sampling


class VerdictCache:
    """Verdicts by key. In memory is only where each of them stands: a long run has millions."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._places: dict[bytes, tuple[Path, int]] = {}  # file, and the line's first byte in it
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())
        self._file = folder / f"{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        for file in sorted(folder.glob("*.jsonl")):
            self._read(file)

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
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as lines:
            start = lines.tell()
            lines.write(json.dumps(entry).encode() + b"\n")
        self._places[bytes.fromhex(key)] = (self._file, start)

    def _read(self, file: Path) -> None:
        start = 0
        with file.open("rb") as lines:
            for line in lines:
                if (key := _key_in(line)) is not None:
                    self._places.setdefault(key, (file, start))
                start += len(line)


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


def _key_in(line: bytes) -> bytes | None:
    """The key of a line; None of half a line, which a kill leaves, and of what else is none."""
    try:
        return bytes.fromhex(json.loads(line)["key"])
    except (ValueError, TypeError, KeyError):
        return None
