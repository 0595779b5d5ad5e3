"""Programs run in E2B's cloud: `E2BSandbox(Limits()).run([Program("print(1)")])`, where nothing isolates them here.

What one completion wrote is one author: its programs, the same source and files with many inputs, share one of E2B's
virtual machines ("a sandbox" there), one after the other. No two authors ever share one, because a program may leave a
daemon or a changed interpreter behind. So whatever a program does to its machine, it does to its own results only, and
what it should have printed is compared here, where no program is.

A machine knows "run this code in a notebook's kernel", not stdin, files, exit codes and limits. `RUNNER` gives those: a
script that the kernel starts in a process of its own, and that runs the program, watches it and reports one line of
JSON. E2B's kernel belongs to root, so the runner gives every run a user id of its own, which can neither signal nor
read the runner, and then kills all that this user has. Where a custom template's kernel belongs to somebody else, a
program can kill its runner (an infrastructure error, no reward) or write a report of its own (all that is in it, but
for the seconds, a program decides anyway).

Held: wall_seconds; cpu_seconds, rounded up to whole ones, and memory_bytes (address space) of each process; processes;
file_bytes; output_bytes; no internet; nothing of the caller's environment. Not held: scratch_bytes and scratch_inodes
(the machine's disk and its end bound them), memory of all processes together (the machine's bounds it), and reading
what the image lets everybody read.
"""

import asyncio
import base64
import importlib.util
import json
import logging
import math
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from open_r1.sandbox.local.languages import BINARY, COMPILED, COMPILER_LIMITS
from open_r1.sandbox.protocol import (
    STATUSES,
    Execution,
    Limits,
    Program,
    SandboxUnavailable,
    as_bytes,
    infrastructure_error,
)
from open_r1.sandbox.remote import LoopThread, backoff_seconds, read_settings

if TYPE_CHECKING:
    from e2b_code_interpreter import AsyncSandbox

logger = logging.getLogger(__name__)

SOURCE_NAMES = {"python": "main.py", **{name: language.source_name for name, language in COMPILED.items()}}
DEFAULT_MAX_SANDBOXES = 8  # E2B's free plan allows 20 at a time, for all of an account's jobs together
SETTINGS = ("E2B_API_KEY", "E2B_DOMAIN", "E2B_API_URL", "E2B_SANDBOX_URL", "OPEN_R1_E2B_SANDBOXES")
GRACE_SECONDS = 20.0  # over what a program may take, for the kernel and the network; then the machine is given up
REQUEST_SECONDS = 30.0  # to create or to end a machine
UPLOAD_SECONDS = 120.0
# The kernel's web socket takes no message of over 10 MiB. What is larger goes up as a file, which costs a round trip.
MAX_INLINE_BYTES = 1 << 20
LIFETIME_MARGIN_SECONDS = 60
MAX_LIFETIME_SECONDS = 3600  # of a machine, on E2B's free plan; it ends by itself then, also if we died before
MAX_RUNS = 2  # of one program: the loss of its first machine may have been an accident
MAX_CREATIONS = 8  # tries to get one machine, the first one included
MAX_KILLS = 3
MAX_REASON_CHARACTERS = 500
RETRY_SECONDS = 120.0  # without a machine for anybody; after that nobody tries twice, so that an outage is told soon

RUNNER = Path(__file__).with_name("e2b_runner.py").read_text(encoding="utf-8")

# What the kernel is told. It has to have nothing at the start of a line that IPython takes for a command of its own.
CELL = """
import os, subprocess, sys
{job}
done = subprocess.run([sys.executable, "-I", "-S", "-c", {runner!r}], input=job, capture_output=True)
report = done.stdout if done.stdout.strip() else b"no report: " + done.stderr.strip()[-300:]
print("\\n{mark} " + report.decode("ascii", "replace").strip().replace("\\n", " "), flush=True)
"""
CELL_WITH_JOB = "import base64\njob = base64.b64decode({job!r})"
CELL_WITH_FILE = "with open({path!r}, 'rb') as file:\n    job = file.read()\nos.remove({path!r})"


class E2BSandbox:
    """Runs programs in E2B's virtual machines, at most `max_sandboxes` at a time, those of all threads together.

    `max_sandboxes` is by default the environment's OPEN_R1_E2B_SANDBOXES, or 8. The key is E2B_API_KEY, in the
    environment or in `.env`; it is in no log, no exception and no execution. The machine is ended when its last program
    has run. E2B itself ends it when its lifetime is over: should this process die, or should no answer ever have told
    us that there is one.

    What fails is tried again: a machine that is refused (429) or does not come, at most 8 times, backing off up to
    30 s, but nothing twice while nobody has got a machine for 120 s; a program whose machine was lost, once, in a new
    one. After a timeout too the next program gets a new machine. A refused key (401) is final.

    `sleep` and `clock` are for tests.
    """

    def __init__(
        self,
        limits: Limits,
        max_sandboxes: int | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        if problem := self.problem():
            raise SandboxUnavailable(f"sandbox e2b: {problem}")
        settings = read_settings(SETTINGS)
        self.limits = limits
        self.max_sandboxes = max_sandboxes or _max_sandboxes(settings)
        self._key = settings["E2B_API_KEY"]
        addresses = {"domain": "E2B_DOMAIN", "api_url": "E2B_API_URL", "sandbox_url": "E2B_SANDBOX_URL"}
        self._options = {option: settings[name] for option, name in addresses.items() if name in settings}
        self._sleep = sleep
        self._clock = clock
        self._loop_thread = LoopThread("e2b", self._end)
        self._slots = asyncio.Semaphore(self.max_sandboxes)
        self._errands: set[asyncio.Task] = set()
        self._last_creation = -math.inf

    @staticmethod
    def problem() -> str | None:
        """None if E2B's client is installed and there is a key, else one line. No network: the key may be refused."""
        if importlib.util.find_spec("e2b_code_interpreter") is None:
            return "e2b-code-interpreter is not installed; pip install 'open-r1[code]'"
        settings = read_settings(SETTINGS)
        if "E2B_API_KEY" not in settings:
            return "no E2B_API_KEY in the environment or in .env; get one at https://e2b.dev, or use sandbox: local"
        try:
            _max_sandboxes(settings)
        except ValueError as error:
            return str(error)
        return None

    @staticmethod
    def language_problem(language: str) -> str | None:
        """None for a language that E2B's image can run, else one line."""
        if language in SOURCE_NAMES:
            return None
        return f"no programs in {language!r} in e2b (known: {', '.join(SOURCE_NAMES)})"

    def run(self, programs: Sequence[Program]) -> list[Execution]:
        """One execution for each program, in order; an infrastructure error where E2B failed, for those alone.

        Blocks; also in a thread with a running event loop, since the work is done in a thread with a loop of its own.
        After `close`, or when another thread closes, all that has not run is an infrastructure error.
        """
        executions: list[Execution | None] = [None] * len(programs)
        self._loop_thread.run(lambda: self._run_batch(list(programs), executions))
        return [execution or infrastructure_error("E2B: the sandbox was closed") for execution in executions]

    def close(self) -> None:
        """Stops what runs, and returns when all machines are ended (or have refused to, which is logged)."""
        self._loop_thread.close()

    def __enter__(self) -> "E2BSandbox":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    async def _end(self) -> None:
        while self._errands:
            await asyncio.gather(*self._errands, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    async def _run_batch(self, programs: list[Program], executions: list[Execution | None]) -> None:
        """Fills in the executions."""
        authors: dict[tuple, dict[int, Program]] = {}
        for place, program in enumerate(programs):
            if problem := self.language_problem(program.language):
                executions[place] = infrastructure_error(problem)
            else:
                authors.setdefault(_author(program), {})[place] = program
        begin = self._clock()
        pieces = [piece for author in authors.values() for piece in self._pieces(author)]
        async with asyncio.TaskGroup() as group:  # which, if cancelled, waits until all have ended their machines
            for piece in pieces:
                group.create_task(self._run_author(piece, executions, begin))

    def _pieces(self, programs: dict[int, Program]) -> list[dict[int, Program]]:
        """An author's programs, no more together than the longest lifetime of a machine is enough for."""
        seconds = self._run_seconds(next(iter(programs.values())))
        size = max(1, int((MAX_LIFETIME_SECONDS - LIFETIME_MARGIN_SECONDS) / seconds))
        items = list(programs.items())
        return [dict(items[start : start + size]) for start in range(0, len(items), size)]

    def _run_seconds(self, program: Program) -> float:
        """How long one program is waited for."""
        compile_seconds = COMPILER_LIMITS.wall_seconds if program.language in COMPILED else 0.0
        return self.limits.wall_seconds + compile_seconds + GRACE_SECONDS

    async def _run_author(self, programs: dict[int, Program], executions: list[Execution | None], begin: float) -> None:
        """Fills in the executions of programs with one source, in one machine as long as that one is good."""
        machines: list[AsyncSandbox] = []  # the one in use, if there is one
        async with self._slots:
            try:
                for num_done, (place, program) in enumerate(programs.items()):
                    lifetime = LIFETIME_MARGIN_SECONDS + (len(programs) - num_done) * self._run_seconds(program)
                    executions[place] = await self._run_program(program, machines, lifetime, begin)
            except _NoMachine as failure:  # it was tried often enough; the next program would fare no better
                for place in programs:
                    executions[place] = executions[place] or infrastructure_error(str(failure))
            finally:
                await self._end_machines(machines)

    async def _run_program(
        self, program: Program, machines: list["AsyncSandbox"], lifetime_seconds: float, begin: float
    ) -> Execution:
        """The execution of a program, in another machine if the first one is lost."""
        for num_runs in range(1, MAX_RUNS + 1):
            if not machines:
                machines.append(await self._create(lifetime_seconds, begin))
            execution = await self._execute(machines[0], program)
            if execution.status in ("timeout", "infrastructure_error"):
                await self._end_machines(machines)
            if execution.status != "infrastructure_error":
                break
            if num_runs < MAX_RUNS:
                await self._sleep(backoff_seconds(num_runs))
        return execution

    async def _create(self, lifetime_seconds: float, begin: float) -> "AsyncSandbox":
        """A new machine. Raises _NoMachine where E2B gives none, also not after some waiting."""
        idempotency_key, is_lost = str(uuid.uuid4()), False
        for num_tries in range(1, MAX_CREATIONS + 1):
            creation = self._errand(self._create_once(lifetime_seconds, idempotency_key))
            try:
                machine = await asyncio.shield(creation)
            except asyncio.CancelledError:
                creation.add_done_callback(self._end_unwanted)
                raise
            except Exception as error:  # noqa: BLE001 - the client lets through what httpx, json and it itself raise
                wait_seconds = backoff_seconds(num_tries)
                is_late = self._clock() + wait_seconds > max(begin, self._last_creation) + RETRY_SECONDS
                if num_tries == MAX_CREATIONS or is_late or _is_final(error):
                    raise _NoMachine(self._reason(f"no sandbox after {num_tries} tries", error)) from None
                is_lost = is_lost or not _was_answered(error)
                if not is_lost:  # else there may be a machine, and the same key asks for that one
                    idempotency_key = str(uuid.uuid4())
                await self._sleep(wait_seconds)
            else:
                self._last_creation = self._clock()
                return machine
        raise AssertionError("the last try returns or raises")

    async def _create_once(self, lifetime_seconds: float, idempotency_key: str) -> "AsyncSandbox":
        from e2b_code_interpreter import AsyncSandbox

        creation = AsyncSandbox.create(
            timeout=min(math.ceil(lifetime_seconds), MAX_LIFETIME_SECONDS),
            allow_internet_access=False,
            metadata={"made_by": "open_r1"},
            idempotency_key=idempotency_key,
            **self._request_options(),
        )
        return await asyncio.wait_for(creation, REQUEST_SECONDS)

    def _request_options(self) -> dict:
        return {"api_key": self._key, "request_timeout": REQUEST_SECONDS, "retries": 0, **self._options}

    async def _execute(self, machine: "AsyncSandbox", program: Program) -> Execution:
        """How the program went in this machine; an infrastructure error if there is no report."""
        begin = self._clock()
        try:
            mark = uuid.uuid4().hex
            job = await asyncio.to_thread(self._job, program)  # to pack 10 MB takes as long as some programs run
            if len(job) > MAX_INLINE_BYTES:
                path = f"/tmp/open_r1_job_{mark}"
                await asyncio.wait_for(machine.files.write(path, job), UPLOAD_SECONDS)
                cell = CELL_WITH_FILE.format(path=path)
            else:
                cell = CELL_WITH_JOB.format(job=base64.b64encode(job).decode())
            meter = _Meter(4 * self.limits.output_bytes + (1 << 20))  # base64 of both streams is below 3
            cell = CELL.format(job=cell, runner=RUNNER, mark=mark)
            seconds = self._run_seconds(program)
            # Our own clock as well: the client's timeout lets through the double, the sum of reading and writing.
            running = machine.run_code(cell, timeout=seconds, on_stdout=meter.add, on_stderr=meter.add)
            result = await asyncio.wait_for(running, seconds)
            return _parse_report(result, mark, self.limits.output_bytes)
        except Exception as error:  # noqa: BLE001 - as above; whatever it is, it is no wrong answer
            return infrastructure_error(self._reason("no result", error), self._clock() - begin)

    def _job(self, program: Program) -> bytes:
        """What the runner reads."""
        source_name = SOURCE_NAMES[program.language]
        files = {**program.files, source_name: program.source}
        job = {
            "source_name": source_name,
            "files": {name: _base64(as_bytes(content)) for name, content in files.items()},
            "stdin": _base64(program.stdin_bytes),
            "limits": asdict(self.limits),
            "compiler": _compiler_command(program.language, files),
            "compiler_limits": asdict(COMPILER_LIMITS),
            "binary": BINARY,
        }
        return zlib.compress(json.dumps(job).encode(), 1)

    async def _end_machines(self, machines: list["AsyncSandbox"]) -> None:
        """Empties the list. Returns when E2B has ended them; that goes on if the caller is cancelled."""
        while machines:
            await asyncio.shield(self._errand(self._kill(machines.pop().sandbox_id)))

    def _end_unwanted(self, creation: asyncio.Task) -> None:
        if not creation.cancelled() and creation.exception() is None:
            self._errand(self._kill(creation.result().sandbox_id))

    async def _kill(self, sandbox_id: str) -> None:
        from e2b_code_interpreter import AsyncSandbox

        for num_tries in range(1, MAX_KILLS + 1):
            try:
                # By its name: after a timeout, calls of the object itself may hang.
                await asyncio.wait_for(AsyncSandbox.kill(sandbox_id, **self._request_options()), REQUEST_SECONDS)
                return
            except Exception as error:  # noqa: BLE001 - as above
                if num_tries == MAX_KILLS:
                    reason = self._reason(
                        f"sandbox {sandbox_id} was not ended, and runs until its lifetime is over", error
                    )
                    logger.warning("%s", reason)
                else:
                    await self._sleep(backoff_seconds(num_tries))

    def _errand(self, work: Coroutine) -> asyncio.Task:
        """A task that is not cancelled with who waits for it; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    def _reason(self, what: str, error: Exception) -> str:
        """One line for people, without the key, which a server may have put into its message."""
        said = " ".join(f"E2B: {what}: {type(error).__name__}: {error}".split())
        return said.replace(self._key, "<key>")[:MAX_REASON_CHARACTERS]


class _NoMachine(Exception):
    """There is no machine to be had; the text, one line without secrets, says why."""


class _NoReport(Exception):
    """A cell ran, but what it printed is no report."""


@dataclass
class _Meter:
    """Stops a stream that is longer than any report: a machine is not to fill our memory."""

    characters_left: int

    def add(self, message) -> None:
        self.characters_left -= len(message.line)
        if self.characters_left < 0:
            raise _NoReport("too much output")


def _parse_report(result, mark: str, output_bytes: int) -> Execution:
    """The execution that a runner reports in a cell's output. Raises _NoReport if it is none."""
    lines = [line for line in "".join(result.logs.stdout).splitlines() if line.startswith(mark)]
    if not lines:
        raise _NoReport(f"{result.error.name}: {result.error.value}" if result.error else "nothing was printed")
    text = lines[-1].removeprefix(mark).strip()
    if text.startswith("no report"):
        raise _NoReport(text)
    try:
        report = json.loads(text)
        status, exit_code = report["status"], report["exit_code"]
        seconds = [float(report[name]) for name in ("wall_seconds", "cpu_seconds")]
        outputs = [_unpack(report[name], output_bytes) for name in ("stdout", "stderr")]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, zlib.error) as error:
        raise _NoReport(f"{type(error).__name__} in {text[:100]}") from None
    if (
        status not in STATUSES
        or status == "infrastructure_error"
        or not all(0 <= number < math.inf for number in seconds)
    ):
        raise _NoReport(f"it makes no sense: {text[:100]}")
    if exit_code is not None and type(exit_code) is not int:
        raise _NoReport(f"it makes no sense: {text[:100]}")
    return Execution(status, exit_code, *outputs, *seconds)


def _unpack(text: str, max_bytes: int) -> bytes:
    return zlib.decompressobj().decompress(base64.b64decode(text), max_bytes)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _author(program: Program) -> tuple:
    """The same for programs that may share a machine."""
    files = tuple(sorted((name, as_bytes(content)) for name, content in program.files.items()))
    return program.language, as_bytes(program.source), files


def _compiler_command(language: str, files: Mapping[str, object]) -> list[str] | None:
    """What makes the binary in a machine, the same as in the local sandbox; None if nothing is compiled."""
    if language not in COMPILED:
        return None
    compiled = COMPILED[language]
    sources = sorted(name for name in files if name.endswith(compiled.suffix))
    return [compiled.compiler, *compiled.flags, "-I.", "-o", BINARY, *sources, "-lm"]


def _is_final(error: Exception) -> bool:
    """True if another try would fail in the same way: the key, or what we ask for, is wrong."""
    from e2b import AuthenticationException, InvalidArgumentException

    status_code = getattr(error, "status_code", None) or 0
    is_refused = 400 <= status_code < 500 and status_code not in (408, 409, 429)
    return is_refused or isinstance(error, AuthenticationException | InvalidArgumentException | TypeError | ImportError)


def _was_answered(error: Exception) -> bool:
    return getattr(error, "status_code", None) is not None


def _max_sandboxes(settings: dict[str, str]) -> int:
    text = settings.get("OPEN_R1_E2B_SANDBOXES", str(DEFAULT_MAX_SANDBOXES))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"OPEN_R1_E2B_SANDBOXES is {text!r}; give the number of sandboxes at a time, 1 or more")
    return int(text)
