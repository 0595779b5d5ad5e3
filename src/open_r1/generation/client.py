"""Asking a server over HTTP: many requests at once, each sent again until it has its answer or that is of no use.

A failing server is no wrong answer: what may be better the next time is asked again, what will not is told at once, and
what the server does not want to answer has an answer that says so. What is asked for is the caller's (`Api`).
"""

import asyncio
import contextlib
import functools
import importlib.util
import ipaddress
import json
import logging
import math
import queue
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from open_r1.recipe import Endpoint, RecipeError
from open_r1.sandbox.remote import backoff_seconds, read_settings
from open_r1.step_process import RunStopped

if TYPE_CHECKING:
    from httpx2 import Response
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0  # a host that does not exist is told in minutes, however long an answer may take
# uvicorn, in which vLLM's server runs, closes what was idle for 5 s: an older connection may be gone while we use it.
IDLE_CONNECTION_SECONDS = 3.0
MAX_RETRY_AFTER_SECONDS = 3600.0  # a server that is away for longer is asked again each hour
MAX_REASON_CHARACTERS = 300
# The first prompts are too few for a share, and all samples of one long prompt are refused together.
MIN_REFUSED = 16

REFUSING_STATUSES = (400, 413, 422)
RETRIED_STATUSES = {408: "timeouts", 409: "server_errors", 429: "rate_limited"}  # and all from 500 on
MENDS = {
    "timeouts": "raise {key}.timeout_seconds or lower {key}.max_concurrent_requests",
    "rate_limited": "lower {key}.max_requests_per_minute or {key}.max_concurrent_requests",
    "connection_errors": "see that the server runs and that {key}.base_url is its address",
    "server_errors": "see what ails the server, or raise {key}.max_attempts",
    "invalid_answers": "see that {key}.base_url is {api.described}",
}

Body = dict[str, Any]
Key = TypeVar("Key")


class Answer(Protocol):
    """What a request gives. `refused` is the server's reason if it did not want to answer."""

    @property
    def refused(self) -> str | None: ...


AnswerT = TypeVar("AnswerT", bound=Answer)
Around = Callable[[Body, Callable[[], Awaitable[AnswerT]]], Awaitable[AnswerT]]


@dataclass(frozen=True)
class Api(Generic[AnswerT]):
    """What a server is asked for."""

    path: str
    """After the base URL, e.g. /chat/completions."""
    described: str
    """What the base URL is to be, for errors; `hint` is what is often wrong with it."""
    read: Callable[[bytes], AnswerT]
    """The answer in a body. Raises ValueError, with one line, if there is none in it (Useless if it took tokens)."""
    refused: Callable[[str], AnswerT]
    """The answer to what the server refuses, for this reason."""
    hint: str = ""


TokensSaid = tuple[int | None, int]  # of the prompt, None if the server does not say it, and of what was sampled


class Useless(ValueError):
    """There is no answer in a body, and one line why; the server bills for `tokens` all the same."""

    def __init__(self, reason: str, tokens: TokensSaid):
        super().__init__(reason)
        self.tokens = tokens


class EndpointClient:
    """Asks the server that `endpoint` names.

    `key` (generate.endpoint, judge.endpoint) is where the section stands, and `file` its recipe, for errors; None: who
    shows them knows the file. The API key is in the environment or in `.env`, and in no error, log or record. `sleep`
    and `clock` are for tests.

    Raises RecipeError for a key that is not there, or an address that is none.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        file: str | None,
        key: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._endpoint, self._key = endpoint, key
        self._prefix = "" if file is None else f"{file}: "
        self._sleep, self._clock = sleep, clock
        self._pace = Pace(endpoint.max_requests_per_minute)
        self._counts: Counter[str] = Counter()
        self._num_rows = 0  # that were asked for
        self._api_key = self._read_api_key()
        if importlib.util.find_spec("openai") is None:
            raise self.mistake("", "needs the openai package; pip install 'open-r1[endpoint]'")
        if not (host := _host(endpoint.base_url)):
            raise self.mistake("base_url", f"{endpoint.base_url!r} is no address; write e.g. http://localhost:8000/v1")
        self._host = host

    def answers(
        self, api: Api[AnswerT], asked: Iterable[tuple[Key, Body]], around: Around | None = None
    ) -> Iterator[tuple[Key, AnswerT]]:
        """Yields the answer to each body that is asked, with its key, in the order they end in.

        Requests go on while the caller works on what it got, but no more than twice max_concurrent_requests rows are
        ahead of it. Who closes the generator ends all requests: the server sees their connections go. `around` gets
        the body of each request and what asks for it, gives its answer, and lets its Failure pass.

        Raises RunStopped if one row failed max_attempts times, or if too many were refused; RecipeError if key, model
        or address are not the server's. Nothing is asked for then that is not under way, and what is under way, which
        may have to be paid for, is yielded first.
        """
        answers: queue.SimpleQueue[tuple[Key, AnswerT] | None] = queue.SimpleQueue()
        room = asyncio.Semaphore(2 * self._endpoint.max_concurrent_requests)
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._answer_all(api, iter(asked), around, answers, room))
        task.add_done_callback(lambda _: answers.put(None))
        thread = threading.Thread(target=_run_until_done, args=(loop, task), name="endpoint", daemon=True)
        try:
            thread.start()
            while (answer := answers.get()) is not None:
                loop.call_soon_threadsafe(room.release)
                yield answer
        finally:
            loop.call_soon_threadsafe(task.cancel)
            if thread.ident is not None:  # not if a signal came before it began
                thread.join()
            loop.close()
        task.result()  # raises what ended it

    def counts(self) -> dict[str, int]:
        """Requests, retries, what made them necessary by kind, and rows refused, since this was made; no zeros.

        requests less retries is the number of rows asked for. What failed is rate_limited, timeouts, server_errors,
        connection_errors or invalid_answers.
        """
        return {kind: number for kind, number in self._counts.items() if number}

    def mistake(self, name: str, what: str) -> RecipeError:
        """The error that says what is wrong with a key of the section."""
        return RecipeError(f"{self._prefix}{self._key}{'.' if name else ''}{name}: {what}")

    async def _answer_all(
        self,
        api: Api[AnswerT],
        asked: Iterator[tuple[Key, Body]],
        around: Around | None,
        answers: queue.SimpleQueue,
        room: asyncio.Semaphore,
    ) -> None:
        """Puts every row's answer into `answers`."""
        work = _Work()

        async def answer_some() -> None:
            # Room comes first: a row that was taken and not answered would be lost to the other workers.
            while await room.acquire() and (row := next(asked, None)) is not None:
                key, body = row
                self._num_rows += 1
                try:
                    answer = await self._answer(client, api, body, around, work)
                    answers.put((key, answer))
                    if answer.refused is not None:
                        self._note_refusal(answer.refused)
                except (RunStopped, RecipeError) as failure:
                    work.end(failure)
                if work.failed is not None:
                    return

        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._endpoint.max_concurrent_requests):
                        work.workers.append(group.create_task(answer_some()))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        if work.failed is not None:
            raise work.failed

    async def _answer(
        self, client: "AsyncOpenAI", api: Api[AnswerT], body: Body, around: Around | None, work: "_Work"
    ) -> AnswerT:
        """One answer, after as many requests as it takes. Raises RunStopped if it takes too many."""
        for num_attempts in range(1, self._endpoint.max_attempts + 1):
            ask = functools.partial(self._ask, client, api, body, num_attempts > 1, work)
            try:
                return await (ask() if around is None else around(body, ask))
            except Failure as failure:
                self._counts[failure.kind] += 1
                last = failure
            if work.failed is not None:
                break
            if num_attempts < self._endpoint.max_attempts:
                if self._counts[last.kind] == 1:
                    logger.warning("%s: %s; asking again, from here on without a word", self._key, last)
                await self._sleep(_seconds_before_retry(num_attempts, last.retry_after_seconds))
        times = "failed" if num_attempts == 1 else f"failed {num_attempts} times in a row"
        raise RunStopped(
            f"{self._prefix}{self._key}: a request {times}, at last with: {last}; "
            f"{MENDS[last.kind].format(key=self._key, api=api)}, and take the run up again"
        )

    async def _ask(
        self, client: "AsyncOpenAI", api: Api[AnswerT], body: Body, is_retry: bool, work: "_Work"
    ) -> AnswerT:
        """What one request gives, when it may begin. Raises Failure if another may give more."""
        import httpx2
        import openai

        now = self._clock()
        if (wait_seconds := self._pace.start_time(now) - now) > 0:
            await self._sleep(wait_seconds)
        self._counts["requests"] += 1
        self._counts["retries"] += is_retry
        seconds = self._endpoint.timeout_seconds
        # The client would send who the environment says we are: OPENAI_ORG_ID, OPENAI_PROJECT_ID.
        left_out = ["OpenAI-Organization", "OpenAI-Project", *([] if self._api_key else ["Authorization"])]
        options = {"headers": dict.fromkeys(left_out, openai.Omit())}
        try:
            # httpx's own is for each piece of an answer: some servers trickle.
            with work.under_way():
                async with asyncio.timeout(seconds):
                    response = await client.post(api.path, cast_to=httpx2.Response, body=body, options=options)
        except TimeoutError:
            raise Failure("timeouts", f"no answer within {seconds:g} s") from None
        except openai.APIStatusError as error:
            return self._refused(api, error.response)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = self._line(f"{type(cause).__name__}: {cause}")
            raise Failure("connection_errors", f"no answer from {self._endpoint.base_url}: {reason}") from None
        try:
            return api.read(response.content)
        except ValueError as error:
            tokens = error.tokens if isinstance(error, Useless) else None
            raise Failure("invalid_answers", self._line(str(error)), tokens=tokens) from None

    def _refused(self, api: Api[AnswerT], response: "Response") -> AnswerT:
        """The answer to a row that was refused; raises what any other status means."""
        status, address = response.status_code, self._endpoint.base_url
        said = self._line(f"HTTP {status}: {said_in(response.content)}")
        if status in REFUSING_STATUSES:
            return api.refused(said)
        if status in RETRIED_STATUSES or status >= 500:
            kind = RETRIED_STATUSES.get(status, "server_errors")
            retry_after = response.headers.get("Retry-After")
            raise Failure(kind, said, retry_after_seconds(retry_after, datetime.now(UTC)))
        if status in (401, 403):
            variable = self._endpoint.api_key_variable
            mend = f"put a key that it takes into {variable}" if variable else "name the variable that holds a key"
            raise self.mistake("api_key_variable", f"{address} answered {said}; {mend}")
        if status in (404, 405):
            mend = f"mend it{api.hint}, or {self._key}.model ({self._endpoint.model!r})"
            raise self.mistake("base_url", f"{address} answered {said}; {mend}")
        raise RunStopped(f"{self._prefix}{self._key}: {address} answered {said}; see to it and take the run up again")

    def _note_refusal(self, reason: str) -> None:
        """Counts it, and raises RunStopped if that was one too many."""
        self._counts["refused"] += 1
        share = self._endpoint.max_refused_share
        if self._counts["refused"] > max(MIN_REFUSED if share else 0, share * self._num_rows):
            raise RunStopped(
                f"{self._prefix}{self._key}: the server refused {self._counts['refused']} of {self._num_rows} rows, at "
                f"last with: {reason}; mend what is asked (prompts, max_completion_length, extra_body), or raise "
                f"{self._key}.max_refused_share ({share:g})"
            )

    def _client(self) -> "AsyncOpenAI":
        """OpenAI's client; by a proxy of the environment only to a server far away, for it knows no cluster's hosts."""
        import httpx2
        import openai

        num_connections = self._endpoint.max_concurrent_requests
        host = f"[{self._host}]" if ":" in self._host else self._host
        http_client = openai.DefaultAsyncHttpxClient(
            timeout=httpx2.Timeout(None, connect=min(CONNECT_SECONDS, self._endpoint.timeout_seconds)),
            limits=httpx2.Limits(
                max_connections=num_connections,
                max_keepalive_connections=num_connections,
                keepalive_expiry=IDLE_CONNECTION_SECONDS,
            ),
            mounts={f"all://{host}": None} if is_nearby(self._host) else None,
        )
        return openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=self._api_key or "none",  # that of OPENAI_API_KEY is for OpenAI, not for whom the recipe names
            max_retries=0,
            http_client=http_client,
        )

    def _read_api_key(self) -> str | None:
        if (variable := self._endpoint.api_key_variable) is None:
            return None
        api_key = read_settings([variable]).get(variable)
        if not api_key:
            mend = "export it, or write it into .env"
            raise self.mistake("api_key_variable", f"no {variable} in the environment or in .env; {mend}")
        if not (api_key.isascii() and api_key.isprintable()):
            raise self.mistake("api_key_variable", f"{variable} has characters that no key has; copy it again")
        return api_key

    def _line(self, said: str) -> str:
        """One line for people, without the API key, which a server may have put into its answer."""
        line = " ".join(said.split())
        clean = line.replace(self._api_key, "<key>") if self._api_key else line
        return clean[:MAX_REASON_CHARACTERS]  # only now: half of a key is too much


class _Work:
    """The workers of one call. At the first failure those end that wait for something, but for an answer."""

    def __init__(self):
        self.failed: Exception | None = None
        self.workers: list[asyncio.Task] = []
        self._under_way: set[asyncio.Task | None] = set()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """While a worker waits for an answer, which the server may bill for."""
        worker = asyncio.current_task()
        self._under_way.add(worker)
        try:
            yield
        finally:
            self._under_way.discard(worker)

    def end(self, failure: Exception) -> None:
        """Remembers the first failure, and ends who waits."""
        if self.failed is not None:
            return
        self.failed = failure
        for worker in {*self.workers} - self._under_way - {asyncio.current_task()}:
            worker.cancel()


class Pace:
    """When requests may begin, in seconds of the caller's clock: evenly, since a server's minutes are its own."""

    def __init__(self, max_requests_per_minute: int | None):
        self._seconds_between = 60 / max_requests_per_minute if max_requests_per_minute else 0.0
        self._next = -math.inf

    def start_time(self, now: float) -> float:
        """When the next request may begin, `now` at the earliest; each call is another request."""
        start = max(now, self._next)
        self._next = start + self._seconds_between
        return start


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by the header Retry-After, in either of its forms (RFC 9110, 10.2.3); None if it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None


def _seconds_before_retry(num_attempts: int, retry_after: float | None) -> float:
    """What the server asked for at least, and never sooner than one that asked for nothing.

    Those who are told the same number come back one after the other.
    """
    return max(backoff_seconds(num_attempts), (retry_after or 0.0) * random.uniform(1.0, 1.1))


def is_nearby(host: str) -> bool:
    """True for this machine and its neighbours: localhost, names without a dot, private addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host
    return address.is_private or address.is_loopback or address.is_link_local


def _host(url: str) -> str | None:
    """The host of an http address, None if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:  # a port that is no number, half a bracket
        return None


def said_in(content: bytes) -> str:
    """What a body says for people, if it is an error in one of the usual forms; else its first line."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return next(iter(content.decode("utf-8", "replace").strip().splitlines()), "nothing")
    for name in ("error", "message", "detail"):
        said = said.get(name) or said if isinstance(said, dict) else said
    return said if isinstance(said, str) else json.dumps(said)


def _run_until_done(loop: asyncio.AbstractEventLoop, task: asyncio.Task) -> None:
    """Runs the loop until the task has ended, in whatever way, and with it all threads that resolved names."""
    loop.run_until_complete(asyncio.wait([task]))
    if not task.cancelled():
        task.exception()  # asyncio warns of one that nobody looked at, as when the caller has gone
    loop.run_until_complete(loop.shutdown_default_executor())


class Failure(Exception):
    """A request that gave no answer, and may the next time. `kind` is what it is counted as.

    `tokens` is what it took by the server's own count, None if that says nothing.
    """

    def __init__(
        self, kind: str, reason: str, retry_after_seconds: float | None = None, tokens: TokensSaid | None = None
    ):
        super().__init__(reason)
        self.kind, self.retry_after_seconds, self.tokens = kind, retry_after_seconds, tokens
