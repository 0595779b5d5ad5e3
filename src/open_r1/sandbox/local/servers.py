"""The fork servers of one sandbox: started when there is work, given it one job each, ended and replaced when they die.

See `inside/fork_server.py` for what a server does. Here are its life, its jobs and their descriptors.
"""

import contextlib
import json
import math
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from open_r1.sandbox.local.languages import PRELOADED, interpreter, module_paths
from open_r1.sandbox.protocol import Limits

Tier = Literal["A", "B", "C"]

SERVER_FILE = Path(__file__).parent / "inside" / "fork_server.py"
SCRATCH_IN_NAMESPACES = "/program"
MAX_TRIES = 2  # of a job whose server was killed under it
SECONDS_TO_START = 60.0
SECONDS_TO_END = 5.0
SECONDS_OF_GRACE = 30.0  # over the wall limit; a server kills in milliseconds unless the machine itself stands still


@dataclass
class Job:
    """A program for a server: `message` says what to do, `payload` is for the child alone."""

    message: dict
    payload: bytes
    stdin: bytes = b""
    binary: bytes | None = None
    """The program itself, if it is a compiled one."""
    num_tries: int = 0


@dataclass
class Outcome:
    """What a server said of a job, or why there is nothing to say."""

    failure: str | None = None
    wait_status: int = 0
    killed_for: str | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    stdout: bytes = b""
    stderr: bytes = b""
    made: bytes = b""
    """The file that a compiler made."""


class ServerPool:
    """Up to `concurrency` servers with the same limits and the same readable files. Any thread may call `run`."""

    def __init__(self, tier: Tier, limits: Limits, readable: Sequence[str], concurrency: int):
        self.tier, self.limits, self.readable, self.concurrency = tier, limits, tuple(readable), concurrency
        self._start_over()

    def _start_over(self) -> None:
        self._process_id = os.getpid()
        self._changed = threading.Condition()
        self._idle: list[_Server] = []
        self._num_servers = 0
        self._is_closed = False

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome for each job, in order."""
        if os.getpid() != self._process_id:  # after a fork the servers are the parent's
            self._start_over()
        outcomes: list[Outcome | None] = [None] * len(jobs)
        pending = deque(range(len(jobs)))
        busy: dict[int, tuple[_Server, int]] = {}
        try:
            while pending or busy:
                while pending and (server := self._take(wait=not busy)) is not None:
                    index = pending.popleft()
                    server.send(jobs[index])
                    busy[server.socket.fileno()] = (server, index)
                for fd in _readable_or_late(busy):
                    server, index = busy[fd]
                    outcome = server.receive()
                    if outcome is None:
                        continue  # it has only just started
                    del busy[fd]
                    jobs[index].num_tries += 1
                    if server.is_fit:
                        self._give_back(server)
                    else:
                        self._lose(server)
                        if server.was_killed and jobs[index].num_tries < MAX_TRIES:
                            pending.appendleft(index)
                            continue
                    outcomes[index] = outcome
        finally:
            for server, _ in busy.values():  # KeyboardInterrupt and its like
                self._lose(server)
        return outcomes

    def close(self) -> None:
        """Ends the servers; those that are at work in another thread end with their job."""
        if os.getpid() != self._process_id:
            return
        with self._changed:
            self._is_closed = True
            servers, self._idle = self._idle, []
            self._num_servers -= len(servers)
        for server in servers:
            server.end()

    def _take(self, wait: bool) -> "_Server | None":
        with self._changed:
            while not self._idle and self._num_servers >= self.concurrency:
                if not wait:
                    return None
                self._changed.wait()
            if self._idle:
                return self._idle.pop()
            self._num_servers += 1
            self._is_closed = False
        try:
            return _Server(self.tier, self.limits, self.readable)
        except BaseException:
            with self._changed:
                self._num_servers -= 1
                self._changed.notify()
            raise

    def _give_back(self, server: "_Server") -> None:
        with self._changed:
            if not self._is_closed:
                self._idle.append(server)
                self._changed.notify()
                return
            self._num_servers -= 1
        server.end()

    def _lose(self, server: "_Server") -> None:
        server.end(at_once=True)
        with self._changed:
            self._num_servers -= 1
            self._changed.notify()


class _Server:
    """One fork server and the descriptors of the job that it is at."""

    def __init__(self, tier: Tier, limits: Limits, readable: Sequence[str]):
        self.limits = limits
        self.is_fit, self.was_killed = True, False
        self.scratch = SCRATCH_IN_NAMESPACES
        self._own_scratch = None
        if tier != "A":
            self.scratch = self._own_scratch = tempfile.mkdtemp(prefix="open_r1_scratch_")
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        settings = {
            "control_fd": theirs.fileno(),
            "tier": tier,
            "limits": asdict(limits),
            "readable": list(readable),
            "scratch": self.scratch,
            "module_paths": list(module_paths()),
            "preload": list(PRELOADED),
        }
        with theirs:
            self._process = subprocess.Popen(
                [interpreter(), "-s", "-S", "-B", "-X", "utf8", str(SERVER_FILE), json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._last_words,
                pass_fds=[theirs.fileno()],
                env=_environment(self.scratch),
                cwd="/",
                start_new_session=True,
            )
        self._is_ready = False
        self._files: list[int] = []
        self._is_compiling = False
        self.deadline = 0.0

    def send(self, job: Job) -> None:
        """Hands a job over; a server that is gone is told by `receive`."""
        self._is_compiling = "makes" in job.message
        stdout, stderr = os.memfd_create("stdout"), os.memfd_create("stderr")
        payload, stdin = _memory_file("payload", job.payload), _memory_file("stdin", job.stdin)
        self._files = [payload, stdin, stdout, stderr]
        if self._is_compiling:
            self._files.append(os.memfd_create("made"))
        elif job.binary is not None:
            self._files.append(_executable_file(job.binary))
        seconds = self.limits.wall_seconds + SECONDS_OF_GRACE + (0.0 if self._is_ready else SECONDS_TO_START)
        self.deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            socket.send_fds(self.socket, [json.dumps(job.message).encode()], self._files)

    def receive(self) -> Outcome | None:
        """The outcome of the job; None if the server has only said that it has started."""
        try:
            message = self._next_message()
        except BlockingIOError:  # nothing came until the deadline
            return self._ended(f"no word from the fork server for {self.limits.wall_seconds + SECONDS_OF_GRACE:g} s")
        except OSError:
            message = b""
        if not message:
            self.was_killed = True
            reason = "the fork server was killed" if self._is_ready else "the fork server did not start"
            return self._ended(f"{reason}{self._said()}")
        reply = json.loads(message)
        if "ready" in reply:
            self._is_ready = True
            return None
        if "cannot" in reply:
            return self._ended(reply["cannot"])
        if "failed" in reply:
            return self._ended(reply["failed"])
        outcome = Outcome(**reply)
        limit = self.limits.output_bytes + 1  # one more shows that it is over
        outcome.stdout, outcome.stderr = (os.pread(fd, limit, 0) for fd in self._files[2:4])
        if self._is_compiling:
            outcome.made = os.pread(self._files[4], os.fstat(self._files[4]).st_size, 0)
        self._close_files()
        return outcome

    def end(self, at_once: bool = False) -> None:
        """Ends the process, and with it all that it has started."""
        self.socket.close()
        self._close_files()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._last_words.close()
        if self._own_scratch is not None:
            _remove(self._own_scratch)

    def _next_message(self) -> bytes:
        try:
            return self.socket.recv(65536, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # it went without having read its job; what it said before comes next
            return self.socket.recv(65536, socket.MSG_DONTWAIT)

    def _ended(self, failure: str) -> Outcome:
        self.is_fit = False
        self._close_files()
        return Outcome(failure=failure)

    def _said(self) -> str:
        self._last_words.seek(0)
        lines = self._last_words.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:300]})" if lines else ""

    def _close_files(self) -> None:
        for fd in self._files:
            os.close(fd)
        self._files = []


def _readable_or_late(busy: dict[int, tuple[_Server, int]]) -> list[int]:
    """Waits until a server has something to say, has died, or is late; the descriptors of those."""
    watch = select.poll()
    for fd in busy:
        watch.register(fd, select.POLLIN)
    earliest = min(server.deadline for server, _ in busy.values())
    seconds = max(0.0, earliest - time.monotonic())
    ready = [fd for fd, _ in watch.poll(math.ceil(seconds * 1000))]
    now = time.monotonic()
    return ready or [fd for fd, (server, _) in busy.items() if now >= server.deadline]


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name)
    position = 0
    while position < len(content):
        position += os.pwrite(fd, content[position : position + (64 << 20)], position)
    return fd


def _executable_file(content: bytes) -> int:
    """A read-only descriptor: the kernel runs no file that is open for writing."""
    writable = _memory_file("program", content)
    try:
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def _environment(scratch: str) -> dict[str, str]:
    """All of the environment that a program sees."""
    return {
        "HOME": scratch,
        "TMPDIR": scratch,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # the same program gives the same output, sets printed in their order included
        "MALLOC_ARENA_MAX": "1",  # a heap of 64 MiB for each thread would use up the address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _remove(folder: str) -> None:
    """Removes a directory that a killed server may have left in any state."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):  # too deep for rmtree, or closed by its owner
        for command in (["chmod", "-R", "u+rwX", folder], ["rm", "-rf", folder]):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
