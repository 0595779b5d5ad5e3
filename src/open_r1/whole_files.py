"""Files that are there as a whole or not at all, whatever ends the process that writes them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """The path to write a file under; it gets its own name when the block has ended well. Makes its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.part")
    yield unfinished
    unfinished.replace(file)
