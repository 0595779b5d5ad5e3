"""A pool of worker processes that judge pairs of gold and answer, each within a budget of CPU time.

An answer is a model's output: it may be a power that one C call computes for years, brackets nested until the stack
ends, or a request for all memory. Only a process can be ended in the middle of that, and only CPU time is the same on
a busy machine and on an idle one. So each worker (see `worker.py`) judges in its main thread, the kernel ends it at
the budget, and the pool gives the verdict that its way of ending stands for.

The pool starts its workers with exec: a fork would copy a trainer with CUDA and threads in it, and multiprocessing's
spawn would import the trainer's `__main__` again.
"""

import atexit
import contextlib
import hashlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from open_r1.judging.verdict import Verdict

Pair = tuple[str, str]

DEFAULT_CPU_SECONDS = 2.0
DEFAULT_MEMORY_BYTES = 2 << 30
DEFAULT_JUDGE = "open_r1.judging.mathematics.judge"
MAX_SHARED_WORKERS = 8
NUM_CACHED_PAIRS = 65536  # 16-byte digests and verdicts: about 20 MB when full
# A fork of the judge costs some 10 ms, most of it pages that the child then writes to, and a pair costs 2 ms: shared by
# many it hardly counts. More would share a batch less evenly between the workers, and lose more with a child.
MAX_PAIRS_PER_REQUEST = 32
MAX_CRASHES = 2  # of one pair; the first may have been an accident
MAX_LOSSES = 3  # of one pair; whoever kills the workers is not the answer
SECONDS_TO_END = 5.0  # wall clock; a worker ends in milliseconds when its pipes are closed
EXIT_OUT_OF_MEMORY = 81  # how a child tells what it has no memory, or no stack, left to say
EXIT_TOO_DEEP = 82
ANSWER_FAULTS = {
    -signal.SIGPROF: "over the CPU budget of {cpu_seconds:g} s",
    EXIT_OUT_OF_MEMORY: "out of memory on this answer",
    EXIT_TOO_DEEP: "nested too deeply",
}
GOLD_FAULTS = {
    -signal.SIGPROF: "the gold is over the CPU budget of {cpu_seconds:g} s",
    EXIT_OUT_OF_MEMORY: "out of memory on the gold",
    EXIT_TOO_DEEP: "the gold is nested too deeply",
}
CRASHES = {-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)}


@dataclass
class JudgeCounts:
    """What a pool has done since its counts were last taken."""

    pairs: int = 0
    distinct: int = 0
    """Distinct pairs, counted in each batch."""
    judged: int = 0
    """Distinct pairs that were in no earlier batch (or got no lasting verdict there)."""
    undecided: int = 0
    """Pairs, repeated ones included, whose verdict is None."""
    budget_kills: int = 0
    """Children that the kernel ended because the CPU budget was used up."""
    crashes: int = 0
    """Children that died of a SIGSEGV or its like; a pair that crashes the judge counts twice."""
    losses: int = 0
    """Children and workers that were killed from outside, or stood still."""
    worker_restarts: int = 0
    """Worker processes that were lost after a good start: the judge had to be imported again."""
    cpu_seconds: float = 0.0
    """CPU time of the children, those that were killed included."""


@dataclass(eq=False)
class _Request:
    """Pairs in the hands of one worker, those with the same gold side by side."""

    pairs: list[Pair]
    num_judged: int = 0
    gold_is_read: bool = False

    @property
    def in_hand(self) -> list[Pair]:
        """The pairs that a death now is about: one, or all with its gold while that is being read; [] when done."""
        if self.gold_is_read:
            return self.pairs[self.num_judged : self.num_judged + 1]
        left = self.pairs[self.num_judged :]
        return [pair for pair in left if pair[0] == left[0][0]]

    def has_verdict(self) -> None:
        """The first pair in hand is judged; with the next one may begin another gold."""
        judged = self.pairs[self.num_judged]
        self.num_judged += 1
        left = self.pairs[self.num_judged :]
        self.gold_is_read = bool(left) and left[0][0] == judged[0]


@dataclass
class _Batch:
    """What is still to judge in one call, and what is known."""

    queue: deque[_Request]
    starts_left: int
    verdicts: dict[Pair, Verdict] = field(default_factory=dict)
    num_crashes: Counter[Pair] = field(default_factory=Counter)
    num_losses: Counter[Pair] = field(default_factory=Counter)
    last_failure: str = ""


class JudgePool:
    """Judges pairs of gold and answer in `num_workers` processes, started when there is something to judge.

    `judge` is the name of a module with `judge(gold, answer) -> Verdict`; see `worker.py` for what else it may have.
    `cpu_seconds` and `memory_bytes` are what one pair may use. `stall_seconds` of wall clock without a sign of life
    are a fault of the machine (a file system that hangs), never a wrong answer. Any thread may call `judge`; the
    calls take turns. After a fork the child has the cache, and workers of its own.
    """

    def __init__(
        self,
        num_workers: int,
        cpu_seconds: float = DEFAULT_CPU_SECONDS,
        judge: str = DEFAULT_JUDGE,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        stall_seconds: float = 600.0,
    ):
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; a pool needs at least 1")
        if cpu_seconds <= 0:  # a timer of 0 is no timer
            raise ValueError(f"cpu_seconds is {cpu_seconds}; a pair needs more than 0")
        self.num_workers = num_workers
        self.cpu_seconds = cpu_seconds
        self.stall_seconds = stall_seconds
        self.worker_arguments = (judge, str(cpu_seconds), str(memory_bytes))
        self._counts = JudgeCounts()
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        _pools.add(self)

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each (gold, answer), in order; score None where nobody can say. Each distinct pair once.

        0.0 for an answer that is over a budget, or crashes the judge twice. None if the judge says so or breaks, if
        the gold itself is over a budget, if the judge is killed from outside again and again, or cannot start.
        """
        with self._lock:
            try:
                known = self._distinct_verdicts(dict.fromkeys((gold, answer) for gold, answer in pairs))
            except BaseException:  # KeyboardInterrupt: the workers hold half-judged requests
                self._stop_workers()
                raise
            verdicts = [known[gold, answer] for gold, answer in pairs]
            self._counts.pairs += len(verdicts)
            self._counts.undecided += sum(verdict.score is None for verdict in verdicts)
            return verdicts

    def start(self) -> None:
        """Returns when all workers are up, or have failed to start; `judge` does it by itself as it needs them."""
        with self._lock:
            batch = _Batch(deque(), starts_left=self.num_workers)
            while len(self._workers) < self.num_workers and batch.starts_left > 0:
                self._start_worker(batch)
            while any(not worker.is_ready for worker in self._workers):
                self._listen(batch)

    def take_counts(self) -> JudgeCounts:
        """The counts since the last call."""
        with self._lock:
            counts, self._counts = self._counts, JudgeCounts()
            return counts

    def close(self) -> None:
        """Ends the workers, once a batch in another thread is through. A later `judge` starts new ones."""
        with self._lock:
            self._stop_workers()

    def __enter__(self) -> "JudgePool":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _distinct_verdicts(self, pairs: Iterable[Pair]) -> dict[Pair, Verdict]:
        keys = {pair: _digest(pair) for pair in pairs}
        known = {pair: self._cache[key] for pair, key in keys.items() if key in self._cache}
        judged = self._judge_new([pair for pair in keys if pair not in known])
        self._counts.distinct += len(keys)
        self._counts.judged += len(judged)
        for pair in known:
            self._cache.move_to_end(keys[pair])
        for pair, verdict in judged.items():
            if verdict.score is not None:  # None may be a fault of the machine, and be gone next time
                self._cache[keys[pair]] = verdict
        while len(self._cache) > NUM_CACHED_PAIRS:
            self._cache.popitem(last=False)
        return known | judged

    def _judge_new(self, pairs: list[Pair]) -> dict[Pair, Verdict]:
        batch = _Batch(self._requests(pairs), starts_left=3 * self.num_workers + 3)
        while batch.queue or any(worker.request for worker in self._workers):
            self._start_workers(batch)
            if not self._workers:
                verdict = Verdict(None, f"judge cannot start: {batch.last_failure}")
                pending = [pair for request in batch.queue for pair in request.pairs]
                return batch.verdicts | dict.fromkeys(pending, verdict)
            for worker in list(self._workers):
                if worker.is_idle and batch.queue:
                    self._send(batch, worker, batch.queue.popleft())
            self._listen(batch)
        return batch.verdicts

    def _requests(self, pairs: list[Pair]) -> deque[_Request]:
        """The pairs by gold, in pieces small enough that all workers have some."""
        by_gold: dict[str, list[Pair]] = {}
        for pair in pairs:
            by_gold.setdefault(pair[0], []).append(pair)
        return deque(self._pieces([pair for same in by_gold.values() for pair in same]))

    def _pieces(self, pairs: list[Pair]) -> list[_Request]:
        size = min(MAX_PAIRS_PER_REQUEST, max(1, math.ceil(len(pairs) / self.num_workers)))
        return [_Request(pairs[start : start + size]) for start in range(0, len(pairs), size)]

    def _start_workers(self, batch: _Batch) -> None:
        """As many as there are requests for. A batch has so many starts: one that fails is not tried for ever."""
        num_busy = sum(worker.request is not None for worker in self._workers)
        num_wanted = min(self.num_workers, num_busy + len(batch.queue))
        while len(self._workers) < num_wanted and batch.starts_left > 0:
            self._start_worker(batch)

    def _start_worker(self, batch: _Batch) -> None:
        batch.starts_left -= 1
        try:
            self._workers.append(_Worker(self))
        except OSError as error:
            batch.last_failure = str(error)

    def _send(self, batch: _Batch, worker: "_Worker", request: _Request) -> None:
        try:
            worker.send(request)
        except OSError:  # it died while it was idle, which is no loss of this request's
            worker.request = None
            batch.queue.appendleft(request)
            self._lose(batch, worker)

    def _listen(self, batch: _Batch) -> None:
        """Waits until a worker says something, dies, or has stood still for too long."""
        workers = {worker.replies_fd: worker for worker in self._workers}
        if not workers:
            return
        watch = select.poll()
        for fd in workers:
            watch.register(fd, select.POLLIN)
        waiting = [worker.deadline for worker in self._workers if not worker.is_idle]
        seconds = max(0.0, min(waiting) - time.monotonic()) if waiting else 0.0
        for fd, _ in watch.poll(math.ceil(seconds * 1000)):
            messages = workers[fd].read()
            for message in messages:
                self._hear(batch, workers[fd], *message)
            if not messages:
                self._lose(batch, workers[fd])
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.is_idle and now >= worker.deadline:
                self._lose(batch, worker, f"judge stood still for {self.stall_seconds:g} s")

    def _hear(self, batch: _Batch, worker: "_Worker", kind: str, *values) -> None:
        request = worker.request
        if kind == "ready":
            worker.started()
        elif kind == "cannot start":
            batch.starts_left = 0  # the next one would fail in the same way
            batch.last_failure = worker.failure = values[0]
        elif kind == "gold":
            request.gold_is_read = True
        elif kind == "verdict":
            batch.verdicts[request.in_hand[0]] = Verdict(*values)
            request.has_verdict()
        elif kind == "ended":
            exit_code, cpu_seconds = values
            self._counts.cpu_seconds += cpu_seconds
            worker.request = None
            if request.in_hand:
                self._bury(batch, request, exit_code)

    def _lose(self, batch: _Batch, worker: "_Worker", failure: str | None = None) -> None:
        """Lets a worker go that died, or that has to: a failed start, or the loss of what it had in hand."""
        self._workers.remove(worker)
        failure = failure or worker.failure
        was_ready, request = worker.is_ready, worker.request
        exit_code = worker.end()
        if not was_ready:
            last_words = worker.last_words if exit_code > 0 else ""
            batch.last_failure = failure or last_words or _way_of_ending(exit_code)
            return
        self._counts.worker_restarts += 1
        batch.last_failure = failure or _way_of_ending(exit_code)
        if request is not None:
            self._count_loss(batch, request, batch.last_failure)

    def _bury(self, batch: _Batch, request: _Request, exit_code: int) -> None:
        """A child died before its request was done: a verdict on what it had in hand, or another try."""
        self._counts.budget_kills += exit_code == -signal.SIGPROF
        faults = ANSWER_FAULTS if request.gold_is_read else GOLD_FAULTS
        score = 0.0 if request.gold_is_read else None  # a gold that nobody can read makes no answer wrong
        if exit_code in faults:
            self._settle(batch, request, Verdict(score, faults[exit_code].format(cpu_seconds=self.cpu_seconds)))
        elif exit_code in CRASHES:
            self._counts.crashes += 1
            pair = request.in_hand[0]
            batch.num_crashes[pair] += 1
            if batch.num_crashes[pair] < MAX_CRASHES:
                self._settle(batch, request, None)
            else:
                subject = "" if request.gold_is_read else "the gold "
                reason = f"{subject}crashed the judge ({signal.Signals(-exit_code).name}), twice"
                self._settle(batch, request, Verdict(score, reason))
        else:
            self._count_loss(batch, request, _way_of_ending(exit_code))

    def _count_loss(self, batch: _Batch, request: _Request, failure: str) -> None:
        self._counts.losses += 1
        if not request.in_hand:  # killed after its last reply
            return
        pair = request.in_hand[0]
        batch.num_losses[pair] += 1
        self._settle(batch, request, None if batch.num_losses[pair] < MAX_LOSSES else Verdict(None, failure))

    def _settle(self, batch: _Batch, request: _Request, verdict: Verdict | None) -> None:
        """Gives what was in hand this verdict, or another try, alone, if it is None; what comes after it goes back.

        It goes back in pieces: where one answer was a bomb the others may be too, and then every worker takes some.
        """
        in_hand = request.in_hand
        rest = request.pairs[request.num_judged + len(in_hand) :]
        batch.queue.extendleft(reversed(self._pieces(rest)))
        if verdict is None:
            batch.queue.appendleft(_Request(in_hand))
        else:
            batch.verdicts.update(dict.fromkeys(in_hand, verdict))

    def _stop_workers(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.end()

    def _forget_workers(self) -> None:
        """After a fork, in the child: the workers are the parent's, and so is the thread that may hold the lock."""
        for worker in self._workers:
            worker.forget()
        self._workers = []
        self._lock = threading.Lock()


class _Worker:
    """One worker process as the pool sees it: two pipes, and the request in its hands."""

    def __init__(self, pool: JudgePool):
        """Starts it; it is idle once it has said `ready`. Raises OSError."""
        self.stall_seconds = pool.stall_seconds
        self.request: _Request | None = None
        self.is_ready = False
        self.failure = ""
        self.last_words = ""
        self._unread = b""
        with contextlib.ExitStack() as on_failure:
            # A file and not a pipe: nobody would read it during a long import.
            self._stderr = on_failure.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "open_r1.judging.worker", *pool.worker_arguments],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=_worker_environment(),
                start_new_session=True,  # Ctrl-C goes to the trainer alone
            )
            on_failure.pop_all()
        self.replies_fd = self._process.stdout.fileno()
        self._put_off_deadline()

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.request is None

    def started(self) -> None:
        self.is_ready = True
        self._stderr.close()

    def send(self, request: _Request) -> None:
        """Blocks while the worker reads. Raises OSError if it is dead."""
        self.request = request
        self._put_off_deadline()
        unsent = memoryview(json.dumps(request.pairs).encode() + b"\n")
        while unsent:
            unsent = unsent[self._process.stdin.write(unsent) :]

    def read(self) -> list[list]:
        """The messages that have come, at least one; [] if there will be no more."""
        while True:
            chunk = os.read(self.replies_fd, 65536)
            if not chunk:
                return []
            *lines, self._unread = (self._unread + chunk).split(b"\n")
            if lines:
                self._put_off_deadline()
                return [json.loads(line) for line in lines]

    def hang_up(self) -> None:
        """Closes the pipes; a worker that reads or judges ends of it, with its child."""
        if not self.is_ready and not self._stderr.closed:
            self._process.kill()  # in the middle of an import it would not notice
            self.last_words = self._last_line_of_stderr()
        self._close_our_ends()

    def end(self) -> int:
        """Its exit code, as subprocess tells it, when it has ended and is reaped."""
        self.hang_up()
        try:
            return self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def forget(self) -> None:
        """Leaves the process to the parent that we were forked from."""
        self._close_our_ends()
        self._process.returncode = 0  # or subprocess would wait for it, and warn

    def _close_our_ends(self) -> None:
        for file in (self._process.stdin, self._process.stdout, self._stderr):
            file.close()

    def _put_off_deadline(self) -> None:
        self.deadline = time.monotonic() + self.stall_seconds

    def _last_line_of_stderr(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def shared_pool(cpu_seconds: float = DEFAULT_CPU_SECONDS) -> JudgePool:
    """This process's pool for a budget, made at the first call: its share of the cores as workers, 1 to 8."""
    with _shared_lock:
        if cpu_seconds not in _shared:
            _shared[cpu_seconds] = JudgePool(_num_shared_workers(), cpu_seconds)
        return _shared[cpu_seconds]


def close_pools() -> None:
    """Ends the workers of every pool of this process, and forgets the shared pools with what they know."""
    for pool in list(_pools):
        pool.close()
    with _shared_lock:
        _shared.clear()


def _num_shared_workers() -> int:
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_SHARED_WORKERS, num_cores // num_trainers))


def _worker_environment() -> dict[str, str]:
    """Modules are found where we find them; one thread each; sets in one order, so that sympy goes one way."""
    num_threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    ours = str(Path(__file__).parents[2])  # pytest and notebooks may have found us by a path that is gone by now
    paths = [os.path.abspath(path) for path in sys.path if isinstance(path, str)]
    return {
        **os.environ,
        **num_threads,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*paths, ours])),
        "PYTHONHASHSEED": "0",
    }


def _digest(pair: Pair) -> bytes:
    """The key of a pair in the cache, which would otherwise hold every answer's text."""
    return hashlib.blake2b(json.dumps(pair).encode(), digest_size=16).digest()


def _way_of_ending(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):  # real-time signals have no names
            return f"judge was killed ({signal.Signals(-exit_code).name})"
    return f"judge ended (exit code {exit_code})"


def _forget_in_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_pools):
        pool._forget_workers()


def _stop_at_exit() -> None:
    """Reaps the workers. One that is judging for another thread is left alone: it ends with our end of its pipes."""
    for pool in list(_pools):
        if pool._lock.acquire(blocking=False):
            try:
                pool._stop_workers()
            finally:
                pool._lock.release()


_pools: "weakref.WeakSet[JudgePool]" = weakref.WeakSet()
_shared: dict[float, JudgePool] = {}
_shared_lock = threading.Lock()
os.register_at_fork(after_in_child=_forget_in_fork)
atexit.register(_stop_at_exit)
