"""A process that judges what the pool sends: `python -m open_r1.judging.worker <judge> <CPU seconds> <memory bytes>`.

The supervisor imports the judge's module once (sympy takes a second), then forks a child for every request, which
takes milliseconds. So every request meets the judge as it was after its import, a verdict does not depend on the
batches before, and a child that an answer has ended costs no new import.

The judge's module has `judge(gold, answer) -> Verdict`. If it has `gold_problem(gold)`, that is called first, within a
budget of its own: a gold that cannot be read in time is no answer's fault. If it has `warm_up()`, that is called
once before the first fork, so that the children need not fill the same caches again and again.

A request is one line of JSON on stdin, `[[gold, answer], …]`, equal golds side by side. The replies are lines of JSON
on stdout:

    ["ready"]                        the judge is imported; or
    ["cannot start", reason]         it is not, and this process ends
    ["gold"]                         the next gold is read, its first answer is in hand
    ["verdict", score, reason]       of the answer in hand; the next one of this gold is in hand now
    ["ended", exit code, CPU s]      of the child, as subprocess tells it (negative: a signal); another request may come
"""

import contextlib
import gc
import importlib
import itertools
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from open_r1.judging.pool import EXIT_OUT_OF_MEMORY, EXIT_TOO_DEEP
from open_r1.signals import die_with

LONGEST_REASON = 300  # characters: a reply stays under PIPE_BUF (4096 bytes), so a kill never leaves half of one
MAX_FRAMES = 10_000  # Python's own 1,000 ends at some fifty nested brackets, a dozen frames of the parser each
STACK_BYTES = 64 << 20  # MAX_FRAMES of C calls fit; more than 128 MiB would need a new exec
# Slurm and terminals signal whole groups; the trainer may yet save a checkpoint, so it alone decides when we end.
LEFT_TO_THE_TRAINER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Budget:
    """What one answer, or the reading of one gold, may use."""

    cpu_seconds: float
    memory_bytes: int
    """On top of what the process has already."""


def main() -> None:
    """Returns when the pool has closed its end of the pipes."""
    module_name, cpu_seconds, memory_bytes = sys.argv[1:]
    _set_signals()
    _set_limits()
    requests_fd, replies_fd = _take_pipes()
    try:
        judge = importlib.import_module(module_name)
        _require_judge(judge)
    except BaseException as error:  # whatever a module does when it is imported, the pool must hear of it
        _reply(replies_fd, "cannot start", _wording(error))
        raise
    _silence_stderr()  # it was the pool's source for failed starts; from here on it would be noise in the trainer's log
    gc.collect()
    gc.freeze()  # the children's collector leaves the shared pages alone
    _reply(replies_fd, "ready")
    with open(requests_fd, "rb") as requests:
        for line in requests:
            if not _serve(judge, line, requests_fd, replies_fd, Budget(float(cpu_seconds), int(memory_bytes))):
                return


def _set_signals() -> None:
    """Signals as the judge needs them, whatever the trainer's thread had blocked or ignored when it started us."""
    for number in LEFT_TO_THE_TRAINER:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGPROF, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _set_limits() -> None:
    """No core files; room for deep recursion, so that it ends in a RecursionError and rarely in a SIGSEGV."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < STACK_BYTES:
        highest = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (highest, hard))
    sys.setrecursionlimit(MAX_FRAMES)


def _take_pipes() -> tuple[int, int]:
    """Descriptors of requests and replies; what the judge reads and prints goes to /dev/null."""
    requests_fd, replies_fd = os.dup(0), os.dup(1)
    null_fd = os.open(os.devnull, os.O_RDWR)
    os.dup2(null_fd, 0)
    os.dup2(null_fd, 1)
    os.close(null_fd)
    return requests_fd, replies_fd


def _silence_stderr() -> None:
    os.dup2(1, 2)


def _require_judge(judge: ModuleType) -> None:
    if not callable(getattr(judge, "judge", None)):
        raise TypeError(f"{judge.__name__} has no function `judge`")
    if hasattr(judge, "warm_up"):
        judge.warm_up()


def _serve(judge: ModuleType, line: bytes, requests_fd: int, replies_fd: int, budget: Budget) -> bool:
    """Whether the pool still listens after a child of ours has judged the request, or died of it."""
    supervisor = os.getpid()
    life_fd, held_by_child_fd = os.pipe()  # closed by the kernel when the child ends, however it ends
    child = os.fork()
    if child == 0:
        exit_code = 1
        try:
            os.close(requests_fd)
            die_with(supervisor)  # elsewhere than on Linux the CPU budget ends it
            exit_code = _judge_all(judge, json.loads(line), replies_fd, budget)
        finally:
            os._exit(exit_code)
    os.close(held_by_child_fd)
    watch = select.poll()
    watch.register(life_fd, select.POLLIN)
    watch.register(replies_fd, 0)  # POLLERR comes unasked: nobody reads the replies any more
    has_reader = all(fd == life_fd for fd, _ in watch.poll())
    os.close(life_fd)
    if not has_reader:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    if not has_reader:
        return False
    _reply(replies_fd, "ended", os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)
    return True


def _judge_all(judge: ModuleType, pairs: list[list[str]], replies_fd: int, budget: Budget) -> int:
    """0 when every pair has its reply; else why the child must end before: EXIT_OUT_OF_MEMORY or EXIT_TOO_DEEP.

    Those two are told by the exit code, since a reply would need memory, and nobody should judge on in their debris.
    """
    try:
        for gold, same in itertools.groupby(pairs, key=lambda pair: pair[0]):
            if hasattr(judge, "gold_problem"):
                _read_gold(judge, gold, budget)
            _reply(replies_fd, "gold")
            for _, answer in same:
                score, reason = _score_and_reason(judge, gold, answer, budget)
                _reply(replies_fd, "verdict", score, reason[:LONGEST_REASON])
    except MemoryError:
        return EXIT_OUT_OF_MEMORY
    except RecursionError:
        return EXIT_TOO_DEEP
    return 0


def _read_gold(judge: ModuleType, gold: str, budget: Budget) -> None:
    """Puts the gold into the judge's cache. Raises MemoryError and RecursionError."""
    try:
        with _within(budget):
            judge.gold_problem(gold)
    except (MemoryError, RecursionError):
        raise
    except BaseException:  # noqa: BLE001 - it breaks in `judge` again, and there every answer is told so
        return


def _score_and_reason(judge: ModuleType, gold: str, answer: str, budget: Budget) -> tuple[float | None, str]:
    """The judge's verdict; None with the exception if the judge broke. Raises MemoryError and RecursionError."""
    try:
        with _within(budget):
            verdict = judge.judge(gold, answer)
        return None if verdict.score is None else float(verdict.score), str(verdict.reason)
    except (MemoryError, RecursionError):
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit too: it is the judge's fault, not the answer's
        return None, f"judge broke: {_wording(error)}"


@contextlib.contextmanager
def _within(budget: Budget) -> Iterator[None]:
    """Ends the process with SIGPROF when the CPU time is used up; MemoryError when the memory is.

    SIGPROF keeps its default action: a Python handler would wait for the end of a C call that may have none.
    """
    _limit_memory(budget.memory_bytes)
    signal.setitimer(signal.ITIMER_PROF, budget.cpu_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)  # or the next answer may be blamed before it has begun


def _limit_memory(memory_bytes: int) -> None:
    """Counted from what the process has now, so that what earlier answers left behind takes nothing from this one."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", "rb") as statm:
        used_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used_bytes + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _wording(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]


def _reply(replies_fd: int, *message: str | float | None) -> None:
    os.write(replies_fd, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
