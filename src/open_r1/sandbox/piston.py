"""Programs run by Piston servers, for those who have some: `PistonSandbox(Limits()).run([Program("print(1)")])`.

Piston (https://github.com/engineer-man/piston) runs one program for each request to `/execute`, in an isolation of its
own. The servers share the load, each with as many requests at a time as it is allowed; a program that one of them
fails to run is sent to another.

Held: wall_seconds, cpu_seconds and memory_bytes of the program, if they are not over what the servers are configured
to allow (then they refuse, an infrastructure error that says so), and output_bytes. The other limits, what a compiler
may use and whether there is a network are the servers' configuration; by default that allows 3 seconds and 1,024
characters of output, so set PISTON_RUN_TIMEOUT, PISTON_RUN_CPU_TIME and PISTON_OUTPUT_MAX_SIZE there.

Piston's API is text. Stdin that is not UTF-8 is an infrastructure error, without a request; output that is not UTF-8
comes with U+FFFD in the place of what is not. Recent servers end a stdin that has no newline at its end with one.
"""

import asyncio
import base64
import importlib.util
import json
import math
import signal
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from open_r1.sandbox.protocol import Execution, Limits, Program, SandboxUnavailable, as_bytes, infrastructure_error
from open_r1.sandbox.remote import LoopThread, backoff_seconds, read_settings

if TYPE_CHECKING:
    import httpx

ENDPOINTS = "PISTON_ENDPOINTS"
MAX_REQUESTS = "PISTON_MAX_REQUESTS_PER_ENDPOINT"
API_PATH = "/api/v2"
LANGUAGES = {"python": "python", "cpp": "c++", "c": "c"}  # our name: Piston's
SOURCE_NAMES = {"python": "main.py", "cpp": "main.cpp", "c": "main.c"}
CONNECT_SECONDS = 10.0
GRACE_SECONDS = 90.0  # over a program's wall_seconds: to compile it, and for a server that has others to run
MAX_TRIES = 4  # of one program
MAX_FAILURES = 5  # of an endpoint, one after the other; then it is left alone for the rest of the batch
MAX_REASON_CHARACTERS = 500
NO_PROCESS = "Resource temporarily unavailable"  # what a shell says that cannot fork: the server is too busy
OUT_OF_MEMORY = ("MemoryError", "  what():  std::bad_alloc")  # what Python and C++ say last
KILLED = 128 + signal.SIGKILL  # the exit code of a shell whose program was killed
NEARLY_ALL_MEMORY = 0.95


class PistonSandbox:
    """Runs Python, C++ and C on Piston servers, at most so many programs at a time on each.

    Endpoints are PISTON_ENDPOINTS, separated by commas, in the environment or in `.env`: `http://host:port`, or with a
    path where that is not /api/v2. PISTON_MAX_REQUESTS_PER_ENDPOINT is how many programs each gets at a time, those of
    all threads together; default 1.

    In a program of language cpp the files that end in .cpp are compiled together with the source, which is main.cpp;
    as the usual package for gcc does it, not those in folders.

    `sleep` is for tests.
    """

    def __init__(self, limits: Limits, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep):
        if problem := self.problem():
            raise SandboxUnavailable(f"sandbox piston: {problem}")
        settings = read_settings((ENDPOINTS, MAX_REQUESTS))
        self.limits = limits
        self.endpoints = _endpoints(settings)
        self.max_requests = int(settings.get(MAX_REQUESTS, "1"))
        self._sleep = sleep
        self._loop_thread = LoopThread("piston", self._end)
        self._client: httpx.AsyncClient | None = None
        self._num_running: Counter[str] = Counter()
        self._slot_is_free = asyncio.Condition()

    @staticmethod
    def problem() -> str | None:
        """None if there are endpoints and a client for them, else one line. No network."""
        if importlib.util.find_spec("httpx") is None:
            return "httpx is not installed; pip install 'open-r1[code]'"
        settings = read_settings((ENDPOINTS, MAX_REQUESTS))
        if not _endpoints(settings):
            return f"no {ENDPOINTS} in the environment or in .env; give your servers' addresses, or use sandbox: local"
        for endpoint in _endpoints(settings):
            if not _is_endpoint(endpoint):
                return f"{ENDPOINTS}: {endpoint.removesuffix(API_PATH)!r} is no address; give http://host:port"
        number = settings.get(MAX_REQUESTS, "1")
        if not number.isdecimal() or int(number) < 1:
            return f"{MAX_REQUESTS} is {number!r}; give the number of programs at a time, 1 or more"
        return None

    @staticmethod
    def language_problem(language: str) -> str | None:
        """None for a language that Piston has under a name that is known here, else one line."""
        if language in LANGUAGES:
            return None
        return f"no programs in {language!r} in piston (known: {', '.join(LANGUAGES)})"

    def run(self, programs: Sequence[Program]) -> list[Execution]:
        """One execution for each program, in order; an infrastructure error where no endpoint could run it.

        Blocks; also in a thread with a running event loop, since the work is done in a thread with a loop of its own.
        After `close`, or when another thread closes, all that has not run is an infrastructure error.
        """
        executions: list[Execution | None] = [None] * len(programs)
        self._loop_thread.run(lambda: self._run_batch(list(programs), executions))
        return [execution or infrastructure_error("piston: the sandbox was closed") for execution in executions]

    def close(self) -> None:
        """Stops the requests under way; the servers end what they run by themselves."""
        self._loop_thread.close()

    def __enter__(self) -> "PistonSandbox":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _run_batch(self, programs: list[Program], executions: list[Execution | None]) -> None:
        """Fills in the executions."""
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(self.limits.wall_seconds + GRACE_SECONDS, connect=CONNECT_SECONDS, pool=None),
                limits=httpx.Limits(max_connections=None),
                trust_env=False,  # a proxy for the internet does not know the cluster's hosts
            )
        batch = _Batch(deque())
        for place, program in enumerate(programs):
            if problem := self.language_problem(program.language) or _text_problem(program):
                executions[place] = infrastructure_error(f"piston: {problem}")
            else:
                batch.queue.append((place, program))
        num_workers = min(len(batch.queue), len(self.endpoints) * self.max_requests)
        await asyncio.gather(*(self._work(batch, executions) for _ in range(num_workers)))

    async def _work(self, batch: "_Batch", executions: list[Execution | None]) -> None:
        while batch.queue:
            place, program = batch.queue.popleft()
            try:
                executions[place] = await self._run_program(batch, program)
            except _Failure as failure:
                executions[place] = infrastructure_error(f"piston: {failure}")

    async def _run_program(self, batch: "_Batch", program: Program) -> Execution:
        """The execution of a program, on another endpoint if the first one fails. Raises _Failure."""
        tried: set[str] = set()
        for num_tries in range(1, MAX_TRIES + 1):
            endpoint = await self._take_slot(batch, tried)
            try:
                execution = await self._ask(endpoint, program)
                batch.num_failures[endpoint] = 0
                return execution
            except _Failure as failure:
                batch.last_failure = failure
                batch.num_failures[endpoint] += failure.is_endpoints
                tried.add(endpoint)
                if num_tries == MAX_TRIES:
                    raise
            finally:
                self._num_running[endpoint] -= 1
                async with self._slot_is_free:
                    self._slot_is_free.notify_all()
            if all(endpoint in tried for endpoint in self._usable(batch)):
                tried.clear()
                if self._usable(batch):
                    await self._sleep(backoff_seconds(num_tries))
        raise AssertionError("the last try returns or raises")

    async def _take_slot(self, batch: "_Batch", tried: set[str]) -> str:
        """An endpoint that has room, the least busy one that is not among those. Raises _Failure if there is none."""
        async with self._slot_is_free:
            while True:
                usable = self._usable(batch)
                if not usable:
                    raise _Failure(f"no endpoint is left; {batch.last_failure}")
                candidates = [endpoint for endpoint in usable if endpoint not in tried] or usable
                endpoint = min(candidates, key=self._num_running.__getitem__)
                if self._num_running[endpoint] < self.max_requests:
                    self._num_running[endpoint] += 1
                    return endpoint
                await self._slot_is_free.wait()

    def _usable(self, batch: "_Batch") -> list[str]:
        return [endpoint for endpoint in self.endpoints if batch.num_failures[endpoint] < MAX_FAILURES]

    async def _ask(self, endpoint: str, program: Program) -> Execution:
        """How the program went on this endpoint. Raises _Failure."""
        import httpx

        try:
            response = await self._client.post(f"{endpoint}/execute", json=_order(program, self.limits))
        except (httpx.HTTPError, OSError) as error:
            raise _Failure(f"{endpoint}: {type(error).__name__}: {error}") from None
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError):
            answer = None
        if response.status_code != 200 or not isinstance(answer, dict) or "message" in answer:
            message = answer.get("message") if isinstance(answer, dict) else None
            raise _Failure(f"{endpoint} answered {response.status_code}: {message or response.text}")
        try:
            return _execution(answer, self.limits)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _Failure(f"{endpoint}: no answer of Piston's: {type(error).__name__}: {error}") from None
        except _Failure as failure:
            raise _Failure(f"{endpoint}: {failure}", failure.is_endpoints) from None


@dataclass(eq=False)
class _Batch:
    """What is still to run in one call, and how often each endpoint has failed since it last did not."""

    queue: deque[tuple[int, Program]]
    num_failures: Counter[str] = field(default_factory=Counter)
    last_failure: Exception | None = None


class _Failure(Exception):
    """No execution; one line. `is_endpoints` is False for what may be the program's own fault."""

    def __init__(self, reason: str, is_endpoints: bool = True):
        super().__init__(" ".join(reason.split())[:MAX_REASON_CHARACTERS])
        self.is_endpoints = is_endpoints


def _order(program: Program, limits: Limits) -> dict[str, Any]:
    # Only what is sent as utf8 counts as code: the first such file is run, and gcc's package gives each another name.
    others = [
        {"name": name, "content": base64.b64encode(as_bytes(content)).decode(), "encoding": "base64"}
        for name, content in program.files.items()
    ]
    source = as_bytes(program.source).decode() or "\n"  # old servers refuse a file that is empty
    return {
        "language": LANGUAGES[program.language],
        "version": "*",
        "files": [{"name": SOURCE_NAMES[program.language], "content": source, "encoding": "utf8"}, *others],
        "stdin": program.stdin_bytes.decode(),
        "args": [],
        "run_timeout": math.ceil(limits.wall_seconds * 1000),
        "run_cpu_time": math.ceil(limits.cpu_seconds * 1000),
        "run_memory_limit": limits.memory_bytes,
    }


def _execution(answer: dict[str, Any], limits: Limits) -> Execution:
    """What an answer says. Raises _Failure where Piston failed; KeyError and its like for what is no answer."""
    compiling, running = answer.get("compile"), answer.get("run") or {}
    if compiling is not None and compiling["code"] != 0:
        _check(compiling)
        words = compiling["stderr"] or compiling["stdout"] or f"compiling: {_end(compiling)}"
        return Execution("runtime_error", compiling["code"], b"", as_bytes(words), *_seconds(compiling))
    _check(running)
    code, signal_name, status = running["code"], running.get("signal"), running.get("status")
    stdout, stderr = as_bytes(running["stdout"]), as_bytes(running["stderr"])
    # Old servers tell no status, and kill with SIGKILL for nothing but time, and output which they then cut.
    is_timeout = status == "TO" or ("status" not in running and signal_name == "SIGKILL")
    is_too_long = max(len(stdout), len(stderr)) > limits.output_bytes
    if is_timeout or is_too_long or status in ("OL", "EL"):
        kind, code = "timeout" if is_timeout else "output_limit", None
    elif code == 0:
        kind = "ok"
    else:
        is_killed = signal_name == "SIGKILL" or code == KILLED
        is_full = (running.get("memory") or 0) >= NEARLY_ALL_MEMORY * limits.memory_bytes
        last_line = running["stderr"].rstrip().rpartition("\n")[2]
        is_memory = (is_killed and is_full) or last_line.startswith(OUT_OF_MEMORY)
        kind = "memory" if is_memory else "runtime_error"
        code = -signal.Signals[signal_name] if code is None else code
    output = (stdout[: limits.output_bytes], stderr[: limits.output_bytes])
    return Execution(kind, code, *output, *_seconds(running))


def _check(stage: dict[str, Any]) -> None:
    """Raises _Failure if it was the server that failed in this stage."""
    if stage.get("status") == "XX":
        raise _Failure(f"internal error: {stage.get('message')}")
    if stage["code"] != 0 and NO_PROCESS in stage["stderr"]:
        raise _Failure(stage["stderr"].strip().splitlines()[-1], is_endpoints=False)


def _end(stage: dict[str, Any]) -> str:
    return stage.get("message") or stage.get("status") or stage.get("signal") or f"exit code {stage['code']}"


def _seconds(stage: dict[str, Any]) -> tuple[float, float]:
    """Of wall clock and of CPU; 0.0 where an old server does not tell."""
    return (stage.get("wall_time") or 0) / 1000, (stage.get("cpu_time") or 0) / 1000


def _text_problem(program: Program) -> str | None:
    try:
        program.stdin_bytes.decode()
    except UnicodeDecodeError:
        return "stdin is not UTF-8, and Piston takes nothing else; use another sandbox for this program"
    return None


def _endpoints(settings: dict[str, str]) -> list[str]:
    """Each endpoint once, with its path."""
    texts = [text.strip().rstrip("/") for text in settings.get(ENDPOINTS, "").split(",")]
    with_path = [text if "/" in text.partition("://")[2] else text + API_PATH for text in texts if text]
    return list(dict.fromkeys(with_path))


def _is_endpoint(endpoint: str) -> bool:
    try:
        url = urlsplit(endpoint)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
