"""SIGTERM and SIGUSR1: somebody, mostly a scheduler whose time is up, asks a run to stop and be taken up later.

A step that trains ends after the optimizer step that it is in, everything else at once; either way with
EXIT_INTERRUPTED and a marker in the run directory. Launchers send the signals on and let their processes end. One
that is killed takes its processes with it.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_INTERRUPTED = os.EX_TEMPFAIL  # 75: nothing is wrong, the same command may be given again
MARKER_FILE = "interrupted"
PARENT_VARIABLE = "OPEN_R1_PARENT"
PR_SET_PDEATHSIG = 1

_received: list[signal.Signals] = []


class Interrupted(BaseException):
    """Ends a process that was asked to stop: no Exception, so that no library takes it for a fault and goes on.

    `step` is the optimizer step after which training ended with a checkpoint, None if none was being trained.
    """

    def __init__(self, signum: int, step: int | None = None):
        self.signal, self.step = signal.Signals(signum), step
        super().__init__(f"interrupted by {self.signal.name}" + ("" if step is None else f" after step {step}"))


def received() -> signal.Signals | None:
    """The first of the signals that this process got, None if it got none."""
    return _received[0] if _received else None


def remember(signum: int) -> None:
    """An answer that does nothing: `received` tells it to whoever asks at a better moment."""


def raise_interrupted(signum: int) -> None:
    """An answer for work that is not worth saving: raises Interrupted, and does not disturb its way with a second."""
    if len(_received) == 1:
        raise Interrupted(signum)


def answer_with(answer: Callable[[int], None]) -> Callable[[], None]:
    """What puts everything back; until then every signal to this process is remembered and given to `answer`.

    A process that is forked off it dies of SIGTERM, as those who start helpers expect, and lets SIGUSR1 pass.
    """
    owner = os.getpid()
    previous = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def handle(signum: int, frame) -> None:
        if os.getpid() == owner:
            _received.append(signal.Signals(signum))
            answer(signum)
        elif signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def put_back() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    for signum in SIGNALS:
        signal.signal(signum, handle)
    return put_back


@contextmanager
def answered_with(answer: Callable[[int], None]) -> Iterator[None]:
    """As `answer_with`, for a block."""
    put_back = answer_with(answer)
    try:
        yield
    finally:
        put_back()


def leave_marker(run_dir: Path, interrupted: Interrupted) -> None:
    """Writes the marker of an interrupted run: one JSON line with signal, step and time."""
    marker = {"signal": interrupted.signal.name, "step": interrupted.step, "time": datetime.now(UTC).isoformat()}
    unfinished = run_dir / f".{MARKER_FILE}.{os.getpid()}"  # several processes of a run may write it
    unfinished.write_text(json.dumps(marker) + "\n", encoding="utf-8")
    os.replace(unfinished, run_dir / MARKER_FILE)


def interruption_of(run_dir: Path) -> Interrupted | None:
    """What the marker of a run says, None if it was not interrupted or has been taken up since."""
    file = run_dir / MARKER_FILE
    if not file.exists():
        return None
    marker = json.loads(file.read_text(encoding="utf-8"))
    return Interrupted(signal.Signals[marker["signal"]], marker["step"])


def die_with(parent: int, signum: int = signal.SIGKILL) -> None:
    """The kernel kills this process when `parent`, which started it, dies. (Linux only; elsewhere nothing is done.)

    What does more than to die of it, srun or ssh with processes on another machine, is given SIGTERM.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
        if os.getppid() != parent:  # it was dead before we asked
            os._exit(1)


def die_with_launcher() -> None:
    """As `die_with`, for a process that was started with `as_launcher`; one that was started by hand lives on.

    A launcher that is killed cannot tell its processes: they would train on beside those of the next start.
    """
    if parent := os.environ.get(PARENT_VARIABLE):
        die_with(int(parent))


def as_launcher() -> dict[str, str]:
    """What the environment of processes says that are to die with this one."""
    return {PARENT_VARIABLE: str(os.getpid())}
