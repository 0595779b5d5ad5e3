"""A router: one place that runs the programs of many training jobs, in any sandbox, within one quota.

python scripts/sandbox_router.py --sandbox local --port 8000 --max-programs 64
OPEN_R1_ROUTER_TOKEN=... python scripts/sandbox_router.py --sandbox e2b --host 0.0.0.0 --max-programs 20

Jobs reach it with `sandbox: router` and OPEN_R1_ROUTER_URL=http://HOST:PORT. The token, which both sides take from the
environment or from `.env`, is a password: make it with `openssl rand -hex 32`. Without one the router can only be
reached from its own machine. It speaks plain HTTP, for a network that you trust as you trust the cluster's.
"""

import argparse
import asyncio
import contextlib
import functools
import hmac
import logging
import os
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from open_r1.sandbox import SANDBOXES, Execution, Limits, Program, Sandbox, build_sandbox, infrastructure_error
from open_r1.sandbox.protocol import MIB
from open_r1.sandbox.remote import read_settings
from open_r1.sandbox.router import (
    ADDRESSES,
    HEARTBEAT_SECONDS,
    JOB_HEADER,
    TOKEN,
    decode_request,
    encode_answer,
)
from open_r1.wording import closest

logger = logging.getLogger("sandbox_router")

MAXIMA = Limits(
    wall_seconds=120.0,
    cpu_seconds=120.0,
    memory_bytes=4096 * MIB,
    processes=256,
    file_bytes=256 * MIB,
    scratch_bytes=1024 * MIB,
    scratch_inodes=65536,
    output_bytes=64 * MIB,
)
MAX_BODY_BYTES = 64 * MIB
MAX_HELD_BYTES = 1024 * MIB  # of all requests together; who comes then is told to come back
MAX_SANDBOXES = 8  # of different limits, at a time
MAX_PROGRAMS_PER_TURN = 8
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
WILDCARD_HOSTS = ("0.0.0.0", "::")
GRACEFUL_SECONDS = 5  # for answers under way when the router is stopped
KEEP_ALIVE_SECONDS = 75


class Busy(Exception):
    """Not now; the text, one line, says why."""


@dataclass(eq=False)
class _Shared:
    """A sandbox and how many requests use it. It is made by the first of them, in a thread."""

    making: "asyncio.Future[Sandbox]"
    num_requests: int = 0


@dataclass(eq=False)
class _Request:
    """Programs of one job with the same limits, those before `num_begun` in hand or done."""

    programs: Sequence[Program]
    sandbox: Sandbox
    executions: list[Execution | None] = field(init=False)
    num_begun: int = 0
    num_running: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self):
        self.executions = [None] * len(self.programs)

    @property
    def num_waiting(self) -> int:
        return len(self.programs) - self.num_begun

    def turn(self, max_programs: int) -> range:
        """The places of the programs to run next: one author's, since E2B gives each author a machine of its own."""
        start = stop = self.num_begun
        while stop < len(self.programs) and stop - start < max_programs:
            if self.programs[stop].source != self.programs[start].source:
                break
            stop += 1
        return range(start, stop)

    def drop(self) -> None:
        """Nobody waits for it any more; what runs is run to its end."""
        self.num_begun = len(self.programs)
        self.is_over.set()


class Router:
    """Runs programs in the sandbox of that name, at most `max_programs` at a time, and jobs in turn.

    A turn is a few programs of a job; then it is the next job's, however much the first one has waiting. All but the
    sandboxes' own work happens in one event loop.
    """

    def __init__(self, sandbox: str, max_programs: int, maxima: Limits = MAXIMA, max_held_bytes: int = MAX_HELD_BYTES):
        self.sandbox = sandbox
        self.max_programs = max_programs
        self.maxima = maxima
        self.max_held_bytes = max_held_bytes
        self.held_bytes = 0
        self.num_running = 0
        self.num_waiting = 0
        # Half of all at most: a turn begins when there is room for all of it, and the rest goes on meanwhile.
        self._max_turn = min(MAX_PROGRAMS_PER_TURN, max(1, max_programs // 2))
        self._jobs: OrderedDict[object, deque[_Request]] = OrderedDict()
        self._shared: OrderedDict[Limits, _Shared] = OrderedDict()
        self._threads = ThreadPoolExecutor(max_programs, thread_name_prefix="sandbox")
        self._tasks: set[asyncio.Task] = set()

    def check_limits(self, limits: Limits) -> None:
        """Raises ValueError with one line for a limit that is over the router's own."""
        for name, maximum in asdict(self.maxima).items():
            value = getattr(limits, name)
            if not value <= maximum:
                raise ValueError(f"{name} is {value}; this router allows at most {maximum} (--max-limit {name}=...)")

    @contextlib.contextmanager
    def held(self, num_bytes: int) -> Iterator[None]:
        """Counts a request's bytes while it is here. Raises Busy."""
        if self.held_bytes + num_bytes > self.max_held_bytes:
            raise Busy(f"the router holds {self.held_bytes >> 20} MiB of requests; try again later")
        self.held_bytes += num_bytes
        try:
            yield
        finally:
            self.held_bytes -= num_bytes

    @contextlib.contextmanager
    def lease(self, limits: Limits) -> Iterator["asyncio.Future[Sandbox]"]:
        """A sandbox with these limits for one request, as a future. Raises Busy if too many others are in use."""
        if limits not in self._shared:
            self._make_room()
            making = asyncio.ensure_future(asyncio.to_thread(build_sandbox, self.sandbox, **asdict(limits)))
            making.add_done_callback(functools.partial(self._forget_failed, limits))
            self._shared[limits] = _Shared(making)
        shared = self._shared[limits]
        self._shared.move_to_end(limits)
        shared.num_requests += 1
        try:
            yield shared.making
        finally:
            shared.num_requests -= 1

    async def run(self, job: object, making: "asyncio.Future[Sandbox]", programs: Sequence[Program]) -> list[Execution]:
        """One execution for each program. If the caller is cancelled, what has not begun never does."""
        try:
            sandbox = await asyncio.shield(making)
        except Exception as error:  # noqa: BLE001 - whatever a provider raises, it is no wrong answer
            return [infrastructure_error(f"{self.sandbox}: {type(error).__name__}: {error}")] * len(programs)
        request = _Request(programs, sandbox)
        if programs:
            self._jobs.setdefault(job, deque()).append(request)
            self.num_waiting += len(programs)
            self._give_turns()
            try:
                await request.is_over.wait()
            except asyncio.CancelledError:
                self.num_waiting -= request.num_waiting
                request.drop()
                self._give_turns()
                raise
        return request.executions

    async def close(self) -> None:
        """Ends what runs and closes the sandboxes."""
        self._jobs.clear()
        await asyncio.gather(*(self._close_sandbox(shared) for shared in self._shared.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _make_room(self) -> None:
        """Closes the sandbox that has been idle for longest if there are as many as there may be. Raises Busy."""
        if len(self._shared) < MAX_SANDBOXES:
            return
        idle = [limits for limits, shared in self._shared.items() if shared.num_requests == 0]
        if not idle:
            raise Busy(f"{MAX_SANDBOXES} different sets of limits are in use; use one of them, or try again later")
        self._spawn(self._close_sandbox(self._shared.pop(idle[0])))

    async def _close_sandbox(self, shared: _Shared) -> None:
        try:
            sandbox = await shared.making
            await asyncio.to_thread(sandbox.close)
        except Exception as error:  # noqa: BLE001 - it is given up anyway
            logger.warning("closing %s: %s: %s", self.sandbox, type(error).__name__, error)

    def _forget_failed(self, limits: Limits, making: "asyncio.Future[Sandbox]") -> None:
        if making.cancelled() or making.exception() is not None:
            shared = self._shared.get(limits)
            if shared is not None and shared.making is making:
                del self._shared[limits]  # the next request tries again

    def _give_turns(self) -> None:
        while self._jobs:
            job, requests = next(iter(self._jobs.items()))
            request = requests[0]
            places = request.turn(self._max_turn)
            if places and self.num_running + len(places) > self.max_programs:
                return
            if places:
                request.num_begun = places.stop
                request.num_running += len(places)
                self.num_running += len(places)
                self.num_waiting -= len(places)
                self._spawn(self._run_turn(request, places))
                self._jobs.move_to_end(job)
            if not request.num_waiting:
                requests.popleft()
            if not requests:
                del self._jobs[job]

    async def _run_turn(self, request: _Request, places: range) -> None:
        programs = request.programs[places.start : places.stop]
        try:
            loop = asyncio.get_running_loop()
            executions = await loop.run_in_executor(self._threads, request.sandbox.run, programs)
            if len(executions) != len(programs):
                raise ValueError(f"{len(executions)} executions for {len(programs)} programs")
            request.executions[places.start : places.stop] = executions
        except Exception as error:  # noqa: BLE001 - whatever a provider raises, it is no wrong answer
            logger.warning("%s raised %s: %s", self.sandbox, type(error).__name__, error)
            failed = infrastructure_error(f"{self.sandbox}: {type(error).__name__}: {error}")
            request.executions[places.start : places.stop] = [failed] * len(programs)
        self.num_running -= len(programs)
        request.num_running -= len(programs)
        if not request.num_waiting and not request.num_running:
            request.is_over.set()
        self._give_turns()

    def _spawn(self, work: Coroutine) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself does not keep them
        task.add_done_callback(self._tasks.discard)


class _Answer(StreamingResponse):
    """The executions of `work`, and newlines until they are there. What the request holds is freed at the end of it,
    which may be that the client is gone."""

    def __init__(self, work: asyncio.Task, holds: contextlib.ExitStack, heartbeat_seconds: float):
        super().__init__(self._chunks(work, heartbeat_seconds), media_type="application/json")
        self._holds = holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._holds:
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _chunks(work: asyncio.Task, heartbeat_seconds: float) -> AsyncIterator[bytes]:
        while not (await asyncio.wait({work}, timeout=heartbeat_seconds))[0]:
            yield b"\n"
        yield await asyncio.to_thread(encode_answer, work.result())


def build_app(
    router: Router,
    token: str | None,
    max_body_bytes: int = MAX_BODY_BYTES,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    address_file: Path | None = None,
) -> FastAPI:
    """The router's HTTP side. Errors are {detail: one line}; with a token, all but its bearers get a 401."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if address_file is not None:
            address_file.unlink(missing_ok=True)
        await router.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def refuse(request: Request, status_code: int, detail: str) -> None:
        """Raises. A client that is still sending its body would not see the answer, so it is read before."""
        num_bytes = 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > 2 * max_body_bytes:
                break
        raise HTTPException(status_code, detail)

    async def check_token(request: Request) -> None:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            await refuse(request, 401, f"the token is wrong, or there is none; set {TOKEN} to the router's")

    @app.get("/health")
    async def health(request: Request) -> dict:
        await check_token(request)
        return {
            "provider": router.sandbox,
            "problem": await asyncio.to_thread(SANDBOXES[router.sandbox].problem),
            "programs_running": router.num_running,
            "programs_waiting": router.num_waiting,
            "max_programs": router.max_programs,
        }

    @app.post("/run")
    async def run(request: Request) -> _Answer:
        await check_token(request)
        # A web page can make a browser send anything but this to 127.0.0.1.
        if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            await refuse(request, 415, "send Content-Type: application/json")
        length = request.headers.get("Content-Length", "")
        if not length.isdecimal():
            await refuse(request, 411, "send a Content-Length")
        if int(length) > max_body_bytes:
            await refuse(request, 413, f"the body has {length} bytes; at most {max_body_bytes}, so send fewer programs")
        with contextlib.ExitStack() as holds:
            try:
                holds.enter_context(router.held(int(length)))
                limits, programs = await asyncio.to_thread(decode_request, await request.body())
                router.check_limits(limits)
                making = holds.enter_context(router.lease(limits))
            except ValueError as error:
                raise HTTPException(400, " ".join(str(error).split())) from None
            except Busy as error:
                raise HTTPException(503, str(error)) from None
            job = request.headers.get(JOB_HEADER) or object()  # without a name it is a job of its own
            work = asyncio.ensure_future(router.run(job, making, programs))
            holds.callback(work.cancel)
            return _Answer(work, holds.pop_all(), heartbeat_seconds)

    return app


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in SANDBOXES if name != "router"]
    parser.add_argument("--sandbox", default="local", help=f"what runs the programs: {', '.join(known)}")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines, which takes a token")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument(
        "--max-programs",
        type=int,
        default=2 * len(os.sched_getaffinity(0)),
        help="at a time; a new job waits for that many, so set it near to what the provider runs at a time: twice the "
        "CPUs for local (the default), the quota for e2b",
    )
    parser.add_argument(
        "--max-limit", action="append", default=[], metavar="NAME=VALUE", help="the most that jobs may ask for"
    )
    parser.add_argument("--address-file", type=Path, help="gets HOST:PORT when the router listens, and goes with it")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    token = read_settings([TOKEN]).get(TOKEN)
    try:
        _check(arguments, known, token)
        maxima = _maxima(arguments.max_limit)
        listener = _listener(arguments.host, arguments.port)
    except (ValueError, OSError) as error:
        print(f"sandbox_router: {error}", file=sys.stderr)
        return 2
    host = socket.gethostname() if arguments.host in WILDCARD_HOSTS else arguments.host
    address = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    if arguments.address_file is not None:
        unfinished = arguments.address_file.with_name(f"{arguments.address_file.name}.{os.getpid()}")
        unfinished.write_text(f"{address}\n", encoding="utf-8")
        unfinished.replace(arguments.address_file)
    print(f"{arguments.sandbox} sandbox for all who set {ADDRESSES}=http://{address}", flush=True)
    router = Router(arguments.sandbox, arguments.max_programs, maxima)
    config = uvicorn.Config(
        build_app(router, token, address_file=arguments.address_file),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _check(arguments: argparse.Namespace, known: Sequence[str], token: str | None) -> None:
    """Raises ValueError with one line for arguments with which no router can, or should, be started."""
    name, host = arguments.sandbox, arguments.host
    if name not in known:
        raise ValueError(f"--sandbox {name}: no such provider (known: {', '.join(known)}){closest(name, known)}")
    if arguments.max_programs < 1:
        raise ValueError(f"--max-programs is {arguments.max_programs}; give 1 or more")
    if token is None and host not in LOCAL_HOSTS:
        raise ValueError(f"--host {host} lets other machines in; set {TOKEN}, or leave --host out")
    if problem := SANDBOXES[name].problem():
        raise ValueError(f"sandbox {name}: {problem}")


def _maxima(settings: Sequence[str]) -> Limits:
    """MAXIMA with some replaced. Raises ValueError."""
    maxima = MAXIMA
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in Limits.__dataclass_fields__:
            raise ValueError(
                f"--max-limit {setting}: unknown limit {name!r}{closest(name, Limits.__dataclass_fields__)}"
            )
        try:
            number = type(getattr(MAXIMA, name))(value)
        except ValueError:
            raise ValueError(f"--max-limit {setting}: {value!r} is no number that fits {name}") from None
        maxima = replace(maxima, **{name: number})
    return maxima


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError with a line that names the address."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        raise OSError(f"--host {host} --port {port}: {reason}") from None
    except OverflowError as error:
        raise ValueError(f"--port {port}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
