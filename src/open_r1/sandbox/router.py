"""Programs run by a router (`scripts/sandbox_router.py`), which many jobs share: `RouterSandbox(Limits()).run([...])`.

A batch goes out in small requests, several at a time, to one router or to several in turn. What a router has answered
stays, whatever becomes of it afterwards; a request without an answer is sent again, to the next router.

What client and router say to each other is written and read here, for both of them, as JSON with all bytes in base64:
a request is {limits: {...}, programs: [{source, stdin, language, files}]}, an answer {executions: [...]}. An answer
begins with newlines, one every few seconds while the programs wait or run, so that a silent router is a dead one.
"""

import asyncio
import base64
import binascii
import importlib.util
import json
import math
import os
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from open_r1.sandbox.local.languages import LANGUAGES
from open_r1.sandbox.protocol import (
    MIB,
    STATUSES,
    Execution,
    Limits,
    Program,
    SandboxUnavailable,
    as_bytes,
    infrastructure_error,
)
from open_r1.sandbox.remote import backoff_seconds, read_settings
from open_r1.wording import closest

if TYPE_CHECKING:
    import httpx

ADDRESSES = "OPEN_R1_ROUTER_URL"
TOKEN = "OPEN_R1_ROUTER_TOKEN"
JOB_HEADER = "Open-R1-Job"
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # after which a router counts as dead; its answer, whole or a newline, is due every 10 s
CONNECT_SECONDS = 10.0
MAX_PROGRAMS_PER_REQUEST = 16  # lost, and run again, with a router that dies
MAX_REQUEST_BYTES = 8 * MIB  # of programs, before base64; one that is larger goes alone
MAX_REQUESTS = 16  # at a time
MAX_TRIES = 8  # of one request, each of them with every router
RETRY_SECONDS = 120.0  # without an answer to anybody in the batch; after that nothing is tried twice
MAX_REASON_CHARACTERS = 500
# The training processes of one Slurm job, or of one `accelerate launch`, are one job: they take one turn.
JOB = os.environ.get("SLURM_JOB_ID") or uuid.uuid4().hex


class RouterSandbox:
    """Runs programs where a router runs them, with the limits that are asked for here.

    Addresses are OPEN_R1_ROUTER_URL, separated by commas, in the environment or in `.env`: `http://host:port`,
    `host:port`, or `file:PATH` for a file that holds one, read again at every try, since a router that Slurm starts
    again may be somewhere else. OPEN_R1_ROUTER_TOKEN is the routers' token; it is in no log and no execution.

    A request that finds no router, or a full one (429, 503), is sent again to the next one, and after all of them
    backing off up to 30 s, at most 8 times, but nothing twice while nobody has got an answer for 120 s.

    `sleep` and `clock` are for tests.
    """

    def __init__(
        self,
        limits: Limits,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        if problem := self.problem():
            raise SandboxUnavailable(f"sandbox router: {problem}")
        settings = read_settings((ADDRESSES, TOKEN))
        self.limits = limits
        self.addresses = _addresses(settings)
        self._token = settings.get(TOKEN)
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._batches: set[_Batch] = set()
        self._is_closed = False

    @staticmethod
    def problem() -> str | None:
        """None if a router's address is known and there is a client for it, else one line. No network."""
        if importlib.util.find_spec("httpx") is None:
            return "httpx is not installed; pip install 'open-r1[code]'"
        settings = read_settings((ADDRESSES, TOKEN))
        if not _addresses(settings):
            return f"no {ADDRESSES} in the environment or in .env; start scripts/sandbox_router.py, which prints it"
        for address in _addresses(settings):
            if not address.startswith("file:") and (problem := _address_problem(address)):
                return problem
        token = settings.get(TOKEN, "")
        if not (token.isascii() and token.isprintable()):
            return f"{TOKEN} has characters that no HTTP header can carry; use letters, digits"
        return None

    @staticmethod
    def language_problem(language: str) -> str | None:
        """None for a language that some sandbox behind a router knows, else one line."""
        if language in LANGUAGES:
            return None
        return f"no programs in {language!r} behind a router (known: {', '.join(LANGUAGES)})"

    def run(self, programs: Sequence[Program]) -> list[Execution]:
        """One execution for each program, in order; an infrastructure error for those that no router has answered.

        Blocks; the work is done in a thread of its own, since the caller's may have a running event loop. After
        `close`, or when another thread closes, all that has no answer is an infrastructure error.
        """
        batch = _Batch(list(programs), last_answer=self._clock())
        with self._lock:
            is_open = not self._is_closed
            if is_open:
                self._batches.add(batch)
        if is_open:
            thread = threading.Thread(target=asyncio.run, args=(self._run_batch(batch),), name="router", daemon=True)
            thread.start()
            try:
                thread.join()
            except BaseException:  # KeyboardInterrupt: the router is to see that nobody waits any more
                batch.cancel()
                raise
            finally:
                self._batches.discard(batch)
        closed = infrastructure_error("router: the sandbox was closed")
        return [batch.executions.get(place, closed) for place in range(len(batch.programs))]

    def close(self) -> None:
        """Stops what waits for an answer; the routers drop what they have not yet begun."""
        with self._lock:
            self._is_closed = True
            batches = list(self._batches)
        for batch in batches:
            batch.cancel()

    def __enter__(self) -> "RouterSandbox":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    async def _run_batch(self, batch: "_Batch") -> None:
        import httpx

        if not batch.begins():
            return
        client = httpx.AsyncClient(
            headers={JOB_HEADER: JOB, **({"Authorization": f"Bearer {self._token}"} if self._token else {})},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=MAX_REQUESTS),
            trust_env=False,  # a proxy for the internet does not know the cluster's hosts; .netrc has other passwords
            verify=ssl.create_default_context() if any(a.startswith("https:") for a in self.addresses) else False,
        )
        slots = asyncio.Semaphore(MAX_REQUESTS)
        try:
            async with client:
                pieces = enumerate(_pieces(batch.programs))
                await asyncio.gather(*(self._run_piece(client, slots, batch, *piece) for piece in pieces))
        except asyncio.CancelledError:  # `close`; `run` gives what there is
            pass
        finally:
            batch.is_over()

    async def _run_piece(
        self, client: "httpx.AsyncClient", slots: asyncio.Semaphore, batch: "_Batch", number: int, places: range
    ) -> None:
        """Fills in the executions of some programs of the batch, those of one request."""
        async with slots:
            body = encode_request(self.limits, [batch.programs[place] for place in places])
            for num_tries in range(1, MAX_TRIES + 1):
                # One piece begins with one router, the next with the next; those that have failed come last.
                turn = number % len(self.addresses)
                addresses = sorted(self.addresses[turn:] + self.addresses[:turn], key=batch.num_failures.__getitem__)
                failures = []
                for address in addresses:
                    try:
                        executions = await self._ask(client, address, body, len(places))
                    except _Failure as failure:
                        failures.append(failure)
                        batch.num_failures[address] += 1
                    else:
                        batch.last_answer = self._clock()
                        batch.executions.update(zip(places, executions, strict=True))
                        return
                wait_seconds = backoff_seconds(num_tries)
                is_late = self._clock() + wait_seconds > batch.last_answer + RETRY_SECONDS
                if all(failure.is_final for failure in failures) or is_late or num_tries == MAX_TRIES:
                    break
                await self._sleep(wait_seconds)
            reason = infrastructure_error(self._clean(f"router: {'; '.join(map(str, failures))}"))
            batch.executions.update(dict.fromkeys(places, reason))

    async def _ask(self, client: "httpx.AsyncClient", address: str, body: bytes, num_programs: int) -> list[Execution]:
        """A router's executions. Raises _Failure."""
        import httpx

        try:
            url = _base_url(address)
            headers = {"Content-Type": "application/json"}
            response = await client.post(f"{url}/run", content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise _Failure(f"{address}: {type(error).__name__}: {error}") from None
        if response.status_code != 200:
            is_final = 400 <= response.status_code < 500 and response.status_code not in (408, 429)
            raise _Failure(f"{url} answered {response.status_code}: {_detail(response.text)}", is_final)
        try:
            return decode_answer(response.content, num_programs)
        except ValueError as error:
            raise _Failure(f"{url}: {error}") from None

    def _clean(self, reason: str) -> str:
        """One line for people, without the token, which a server may have put into its answer."""
        said = " ".join(reason.split())
        return (said.replace(self._token, "<token>") if self._token else said)[:MAX_REASON_CHARACTERS]


@dataclass(eq=False)
class _Batch:
    """The programs of one `run`, what is known of them, and the task that asks for the rest."""

    programs: list[Program]
    last_answer: float
    executions: dict[int, Execution] = field(default_factory=dict)
    num_failures: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task | None = None
    _is_cancelled: bool = False

    def begins(self) -> bool:
        """Called by the task itself; False if it was cancelled before."""
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            return not self._is_cancelled

    def is_over(self) -> None:
        with self._lock:
            self._loop = None

    def cancel(self) -> None:
        """From any thread."""
        with self._lock:
            self._is_cancelled = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)


class _Failure(Exception):
    """No executions from this router; another try cannot help if it `is_final`."""

    def __init__(self, reason: str, is_final: bool = False):
        super().__init__(reason)
        self.is_final = is_final


def encode_request(limits: Limits, programs: Sequence[Program]) -> bytes:
    """What `decode_request` reads."""
    return json.dumps(
        {
            "limits": asdict(limits),
            "programs": [
                {
                    "source": as_bytes(program.source).decode(),
                    "stdin": _base64(program.stdin_bytes),
                    "language": program.language,
                    "files": {path: _base64(as_bytes(content)) for path, content in program.files.items()},
                }
                for program in programs
            ],
        }
    ).encode()


def decode_request(body: bytes) -> tuple[Limits, list[Program]]:
    """The limits and the programs of a request's body. Raises ValueError with one line for what is none."""
    request = _decode(body, "the body")
    _check_keys("the body", request, {"programs": list}, {"limits": dict})
    limits = request.get("limits", {})
    known = list(Limits.__dataclass_fields__)
    for limit in limits:
        if limit not in known:
            raise ValueError(f"unknown limit {limit!r} (known: {', '.join(known)}){closest(limit, known)}")
    return Limits(**limits), [_program(f"programs.{n}", item) for n, item in enumerate(request["programs"])]


def encode_answer(executions: Sequence[Execution]) -> bytes:
    """What `decode_answer` reads."""
    rows = [
        {**vars(execution), "stdout": _base64(execution.stdout), "stderr": _base64(execution.stderr)}
        for execution in executions
    ]
    return json.dumps({"executions": rows}).encode()


def decode_answer(body: bytes, num_programs: int) -> list[Execution]:
    """The executions of an answer to that many programs. Raises ValueError with one line for what is none."""
    answer = _decode(body, "the answer")
    _check_keys("the answer", answer, {"executions": list}, {})
    if len(answer["executions"]) != num_programs:
        raise ValueError(f"{len(answer['executions'])} executions for {num_programs} programs")
    return [_execution(f"executions.{n}", item) for n, item in enumerate(answer["executions"])]


def _program(where: str, item: Any) -> Program:
    _check_keys(where, item, {"source": str}, {"stdin": str, "language": str, "files": dict})
    files = {path: _bytes(f"{where}.files", content) for path, content in item.get("files", {}).items()}
    try:
        return Program(
            item["source"], _bytes(f"{where}.stdin", item.get("stdin", "")), item.get("language", "python"), files
        )
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _execution(where: str, item: Any) -> Execution:
    needed = {"status": str, "exit_code": int | None, "stdout": str, "stderr": str}
    _check_keys(where, item, needed | {"wall_seconds": int | float, "cpu_seconds": int | float}, {})
    seconds = [float(item["wall_seconds"]), float(item["cpu_seconds"])]
    if item["status"] not in STATUSES or not all(0 <= number < math.inf for number in seconds):
        raise ValueError(f"{where} makes no sense: status {item['status']!r}, seconds {seconds}")
    outputs = [_bytes(f"{where}.{name}", item[name]) for name in ("stdout", "stderr")]
    return Execution(item["status"], item["exit_code"], *outputs, *seconds)


def _decode(body: bytes, what: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON: {error}") from None


def _check_keys(where: str, item: Any, needed: dict[str, Any], others: dict[str, Any]) -> None:
    """Raises ValueError unless `item` has the keys needed, and of others only these, with values of their types."""
    if not isinstance(item, dict):
        raise ValueError(f"{where} is no JSON object")
    for key, value in item.items():
        if key not in needed | others:
            raise ValueError(f"{where}: unknown key {key!r} (known: {', '.join(needed | others)})")
        if isinstance(value, bool) or not isinstance(value, (needed | others)[key]):
            raise ValueError(f"{where}.{key} is of the wrong type ({type(value).__name__})")
    for key in needed:
        if key not in item:
            raise ValueError(f"{where} has no {key!r}")


def _bytes(where: str, text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ValueError(f"{where} is no base64") from None


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _pieces(programs: Sequence[Program]) -> Iterator[range]:
    """The places of the programs of each request, in order."""
    start, num_bytes = 0, 0
    for place, program in enumerate(programs):
        size = len(program.source) + len(program.stdin) + sum(map(len, program.files.values()))
        is_full = place - start == MAX_PROGRAMS_PER_REQUEST or num_bytes + size > MAX_REQUEST_BYTES
        if is_full and place > start:
            yield range(start, place)
            start, num_bytes = place, 0
        num_bytes += size
    if programs:
        yield range(start, len(programs))


def _addresses(settings: dict[str, str]) -> list[str]:
    return [address.strip() for address in settings.get(ADDRESSES, "").split(",") if address.strip()]


def _base_url(address: str) -> str:
    """`http://host:port` of an address. Raises OSError or ValueError if its file holds none."""
    if address.startswith("file:"):
        address = Path(address.removeprefix("file:")).read_text(encoding="utf-8").strip()
        if problem := _address_problem(address):
            raise ValueError(problem)
    return (address if "://" in address else f"http://{address}").rstrip("/")


def _address_problem(address: str) -> str | None:
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        is_address = (
            url.scheme in ("http", "https") and url.hostname and url.port != 0 and not (url.query or url.username)
        )
    except ValueError:
        is_address = False
    return None if is_address else f"{ADDRESSES}: {address!r} is no address; give http://host:port"


def _detail(text: str) -> str:
    """What a router says in an error answer, which is {detail: ...}; the text itself if it is not."""
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return text[:MAX_REASON_CHARACTERS]
