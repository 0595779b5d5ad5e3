"""A watch over what waits for another process and may wait for ever: a weight sync, a server that is gone."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from open_r1.step_process import EXIT_STOPPED, leave_reason


@contextlib.contextmanager
def answers_within(what: str, timeout_seconds: float | None, rank: int, run_dir: Path, key: str) -> Iterator[None]:
    """Ends this process if the block takes longer, with a line that names its rank, its machine and `what`.

    `key` is the recipe's, of the limit; without a limit (None) nothing is watched. What hangs in a library's own code,
    a collective of NCCL say, cannot be interrupted by an exception: a thread watches, and ends the process for it.
    """
    if timeout_seconds is None:
        yield
        return
    came_back = threading.Event()

    def watch() -> None:
        if not came_back.wait(timeout_seconds):
            _end(
                run_dir,
                f"stopped: {what} has not answered process {rank} on {socket.gethostname()} within "
                f"{timeout_seconds:g} seconds; look for a process that is gone, or raise {key} (null waits for ever)",
            )

    watcher = threading.Thread(target=watch, name=f"watch over {what}", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        came_back.set()
        watcher.join()


def _end(run_dir: Path, reason: str) -> None:
    """Ends the process as a guard does, but from any thread, with nothing cleared up; each process tells its reason."""
    leave_reason(run_dir, reason)
    print(reason, file=sys.stderr, flush=True)
    os._exit(EXIT_STOPPED)
