"""Sampling by a server that speaks OpenAI's chat completions: vLLM's own, or any other's, rented or at home.

One request is one completion, so that a lost answer costs one completion and a run that is taken up asks for what it
has not got. A failing server is no wrong answer: what may be better the next time is asked again, what will not is
told at once, and what the server does not want to answer is a row that says so.
"""

import asyncio
import hashlib
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
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from open_r1.generation.sampling import Completion, Conversation, Meter, Row, Sampling, Tokens
from open_r1.recipe import RecipeError, Thinking
from open_r1.recipe.sections import Endpoint
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

MODERATED = "content_filter"
ENDED, TRUNCATED = "stop", "length"
REFUSING_STATUSES = (400, 413, 422)
RETRIED_STATUSES = {408: "timeouts", 409: "server_errors", 429: "rate_limited"}  # and all from 500 on
MENDS = {
    "timeouts": "raise {key}.timeout_seconds or lower {key}.max_concurrent_requests",
    "rate_limited": "lower {key}.max_requests_per_minute or {key}.max_concurrent_requests",
    "connection_errors": "see that the server runs and that {key}.base_url is its address",
    "server_errors": "see what ails the server, or raise {key}.max_attempts",
    "invalid_answers": "see that {key}.base_url is the chat completions API of a server that counts tokens (usage)",
}
SCHEMA_NAME = "verdict"
OURS, OURS_TO_DROP = ("model", "messages", "n", "stream"), ("temperature", "top_p", "max_tokens", "seed")


class EndpointBackend:
    """Samples from the server that `endpoint` names; a `Backend`.

    `file` and `key` (generate.endpoint, evaluate.endpoint) are where the section stands, for errors. The API key is in
    the environment or in `.env`, and in no error, log or record. `thinking` is how a completion has to mark its
    thinking, where the server gives thinking and answer apart. `meter` is asked before each row, and told what it took.
    `sleep` and `clock` are for tests.

    Keys that a server does not take are left out by null, e.g. for OpenAI's own models `extra_body: {max_tokens: null,
    max_completion_tokens: 32768, temperature: null, top_p: null}`. So is `response_format`, by which the sampling's
    schemas are sent; another one in extra_body takes its place.

    Raises RecipeError for a key that is not there, an address that is none, or extra_body against the recipe.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        file: str,
        key: str = "generate.endpoint",
        thinking: Thinking = Thinking(),
        meter: Meter | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._endpoint, self._file, self._key, self._thinking = endpoint, file, key, thinking
        self._meter, self._sleep, self._clock = meter, sleep, clock
        self._pace = Pace(endpoint.max_requests_per_minute)
        self._counts: Counter[str] = Counter()
        self._num_rows = 0  # that were asked for
        self._api_key = self._read_api_key()
        if importlib.util.find_spec("openai") is None:
            raise self._mistake("", "needs the openai package; pip install 'open-r1[endpoint]'")
        if not (host := _host(endpoint.base_url)):
            raise self._mistake("base_url", f"{endpoint.base_url!r} is no address; write e.g. http://localhost:8000/v1")
        self._host = host
        for name, value in endpoint.extra_body.items():
            if name in OURS or (name in OURS_TO_DROP and value is not None):
                own = "; null leaves it out" if name in OURS_TO_DROP else ""
                raise self._mistake(f"extra_body.{name}", f"the recipe says that elsewhere; remove it{own}")

    def sample(
        self, conversations: Sequence[Conversation], sampling: Sampling, wanted: Collection[Row] | None = None
    ) -> Iterator[tuple[Row, Completion]]:
        """Yields `num_samples` completions of each conversation, or those of `wanted` alone, in the order they end in.

        Requests go on while the caller works on what it got, but no more than twice max_concurrent_requests rows are
        ahead of it. Who closes the generator ends all requests: the server sees its connections go.

        Raises RunStopped if one row failed max_attempts times, or if too many were refused; RecipeError if key, model
        or address are not the server's. What has ended before is yielded first.
        """
        every = ((c, s) for c in range(len(conversations)) for s in range(sampling.num_samples))
        rows = iter(every if wanted is None else sorted(wanted))
        bodies = ((row, self._body(conversations[row[0]], sampling, row)) for row in rows)
        answers: queue.SimpleQueue[tuple[Row, Completion] | None] = queue.SimpleQueue()
        room = asyncio.Semaphore(2 * self._endpoint.max_concurrent_requests)
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._answer_all(bodies, sampling, answers, room))
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

    async def _answer_all(
        self,
        bodies: Iterator[tuple[Row, dict]],
        sampling: Sampling,
        answers: queue.SimpleQueue,
        room: asyncio.Semaphore,
    ) -> None:
        """Puts every row's completion into `answers`."""

        async def work() -> None:
            # Room comes first: a row that was taken and not answered would be lost to the other workers.
            while await room.acquire() and (asked := next(bodies, None)) is not None:
                row, body = asked
                self._num_rows += 1
                completion = await self._answer_metered(client, body, sampling)
                answers.put((row, completion))
                if completion.refused is not None:
                    self._note_refusal(completion.refused)

        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._endpoint.max_concurrent_requests):
                        group.create_task(work())
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def _answer_metered(self, client: "AsyncOpenAI", body: dict[str, Any], sampling: Sampling) -> Completion:
        """What `_answer` gives, counted by the meter; nobody says what requests took that gave nothing."""
        if self._meter is None:
            return await self._answer(client, body)
        bound = most_tokens(body, sampling.max_new_tokens)
        await self._meter.reserve(bound)
        prompt_tokens, completion_tokens, num_requests = 0, 0, 0
        try:
            completion = await self._answer(client, body)
            prompt_tokens, completion_tokens, num_requests = completion.num_prompt_tokens, completion.num_tokens, 1
            return completion
        finally:
            self._meter.settle(bound, prompt_tokens, completion_tokens, num_requests)

    async def _answer(self, client: "AsyncOpenAI", body: dict[str, Any]) -> Completion:
        """One completion, after as many requests as it takes. Raises RunStopped if it takes too many."""
        for num_attempts in range(1, self._endpoint.max_attempts + 1):
            now = self._clock()
            if (wait_seconds := self._pace.start_time(now) - now) > 0:
                await self._sleep(wait_seconds)
            self._counts["requests"] += 1
            self._counts["retries"] += num_attempts > 1
            try:
                return await self._ask(client, body)
            except _Failure as failure:
                self._counts[failure.kind] += 1
                last = failure
            if num_attempts < self._endpoint.max_attempts:
                if self._counts[last.kind] == 1:
                    logger.warning("%s: %s; asking again, from here on without a word", self._key, last)
                await self._sleep(_seconds_before_retry(num_attempts, last.retry_after_seconds))
        times = "failed" if num_attempts == 1 else f"failed {num_attempts} times in a row"
        raise RunStopped(
            f"{self._file}: {self._key}: a request {times}, at last with: {last}; "
            f"{MENDS[last.kind].format(key=self._key)}, and take the run up again"
        )

    async def _ask(self, client: "AsyncOpenAI", body: dict[str, Any]) -> Completion:
        """What one request gives. Raises _Failure if another may give more."""
        import httpx2
        import openai

        seconds = self._endpoint.timeout_seconds
        # The client would send who the environment says we are: OPENAI_ORG_ID, OPENAI_PROJECT_ID.
        left_out = ["OpenAI-Organization", "OpenAI-Project", *([] if self._api_key else ["Authorization"])]
        options = {"headers": dict.fromkeys(left_out, openai.Omit())}
        try:
            async with asyncio.timeout(seconds):  # httpx's own is for each piece of an answer: some servers trickle
                response = await client.post("/chat/completions", cast_to=httpx2.Response, body=body, options=options)
        except TimeoutError:
            raise _Failure("timeouts", f"no answer within {seconds:g} s") from None
        except openai.APIStatusError as error:
            return self._refused(error.response)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = self._line(f"{type(cause).__name__}: {cause}")
            raise _Failure("connection_errors", f"no answer from {self._endpoint.base_url}: {reason}") from None
        try:
            return read_answer(response.content, self._thinking)
        except ValueError as error:
            raise _Failure("invalid_answers", self._line(str(error))) from None

    def _refused(self, response: "Response") -> Completion:
        """The row that was refused; raises what any other status means."""
        status, address = response.status_code, self._endpoint.base_url
        said = self._line(f"HTTP {status}: {_message(response.content)}")
        if status in REFUSING_STATUSES:
            return Completion("", num_tokens=0, truncated=False, refused=said, num_prompt_tokens=0)
        if status in RETRIED_STATUSES or status >= 500:
            kind = RETRIED_STATUSES.get(status, "server_errors")
            retry_after = response.headers.get("Retry-After")
            raise _Failure(kind, said, retry_after_seconds(retry_after, datetime.now(UTC)))
        if status in (401, 403):
            variable = self._endpoint.api_key_variable
            mend = f"put a key that it takes into {variable}" if variable else "name the variable that holds a key"
            raise self._mistake("api_key_variable", f"{address} answered {said}; {mend}")
        if status in (404, 405):
            mend = f"mend it, or {self._key}.model ({self._endpoint.model!r})"
            raise self._mistake("base_url", f"{address} answered {said}; {mend}")
        raise RunStopped(f"{self._file}: {self._key}: {address} answered {said}; see to it and take the run up again")

    def _note_refusal(self, reason: str) -> None:
        """Counts it, and raises RunStopped if that was one too many."""
        self._counts["refused"] += 1
        share = self._endpoint.max_refused_share
        if self._counts["refused"] > max(MIN_REFUSED if share else 0, share * self._num_rows):
            raise RunStopped(
                f"{self._file}: {self._key}: the server refused {self._counts['refused']} of {self._num_rows} rows, at "
                f"last with: {reason}; mend what is asked (prompts, max_completion_length, extra_body), or raise "
                f"{self._key}.max_refused_share ({share:g})"
            )

    def _body(self, conversation: Conversation, sampling: Sampling, row: Row) -> dict[str, Any]:
        """What is sent for one row."""
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,  # its successor max_completion_tokens is OpenAI's alone
            "seed": row_seed(sampling.seed, row),
        }
        if sampling.schemas:
            schema = {"name": SCHEMA_NAME, "strict": True, "schema": sampling.schemas[row[0]]}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        options = {name: value for name, value in options.items() if name not in self._endpoint.extra_body}
        extra = {
            name: value
            for name, value in self._endpoint.extra_body.items()
            if name not in OURS_TO_DROP and (name, value) != ("response_format", None)
        }
        messages = [dict(message) for message in conversation]
        return {"model": self._endpoint.model, "messages": messages, **options, **extra}

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
            raise self._mistake("api_key_variable", f"no {variable} in the environment or in .env; {mend}")
        if not (api_key.isascii() and api_key.isprintable()):
            raise self._mistake("api_key_variable", f"{variable} has characters that no key has; copy it again")
        return api_key

    def _mistake(self, name: str, what: str) -> RecipeError:
        return RecipeError(f"{self._file}: {self._key}{'.' if name else ''}{name}: {what}")

    def _line(self, said: str) -> str:
        """One line for people, without the API key, which a server may have put into its answer."""
        line = " ".join(said.split())
        clean = line.replace(self._api_key, "<key>") if self._api_key else line
        return clean[:MAX_REASON_CHARACTERS]  # only now: half of a key is too much


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


def row_seed(seed: int, row: Row) -> int:
    """The seed of one row, from 0 to 2^31 - 1, which every server takes: the same whatever else is asked for."""
    digest = hashlib.sha256(f"{seed}/{row[0]}/{row[1]}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def most_tokens(body: dict[str, Any], max_new_tokens: int) -> Tokens:
    """The most tokens that a request can take: no token of a text is less than a byte.

    The control tokens of the server's chat template are made up for by what JSON puts around each message.
    """
    sent = {name: body[name] for name in ("messages", "response_format") if name in body}
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if isinstance(body.get(name), int)]
    num_bytes = len(json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace"))
    return Tokens(num_bytes, max(limits, default=max_new_tokens))


def read_answer(content: bytes, thinking: Thinking) -> Completion:
    """The completion in the body of a chat completion. Raises ValueError, with one line, if there is none in it.

    An answer without usage.completion_tokens is none: a guess at its length would go into every mean and every limit.
    Nor is one that the server broke off (finish_reason abort, error, insufficient_system_resource, …). The tokens of
    the prompt are None if the server does not say them.
    """
    try:
        answer = json.loads(content)
    except ValueError:  # UnicodeDecodeError is one
        raise ValueError(f"the answer is no JSON: {_message(content)}") from None
    try:
        choice = answer["choices"][0]
        message, finish_reason = choice["message"], choice["finish_reason"]
        text, reasoning = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"the answer has no choices[0].message and finish_reason: {_message(content)}") from None
    num_tokens, num_prompt_tokens = (_usage(answer, name) for name in ("completion_tokens", "prompt_tokens"))
    refusal = message.get("refusal")
    if finish_reason == MODERATED or (refusal and not text):
        reason = " ".join(str(refusal or MODERATED).split())
        return Completion("", num_tokens=0, truncated=False, refused=reason, num_prompt_tokens=num_prompt_tokens)
    if finish_reason not in (ENDED, TRUNCATED):
        raise ValueError(f"the answer was broken off: finish_reason {finish_reason!r}")
    if not isinstance(text, str) and not (text is None and isinstance(reasoning, str) and reasoning):
        raise ValueError(f"the answer's message.content is {type(text).__name__}, no string")
    if num_tokens is None:
        raise ValueError("the answer has no usage.completion_tokens")
    whole = _with_thinking(text or "", reasoning, thinking) if isinstance(reasoning, str) else text
    # Half of a surrogate pair, which JSON can hold, could not be written to any file later.
    whole = whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    is_cut = finish_reason == TRUNCATED
    return Completion(whole, num_tokens=num_tokens, truncated=is_cut, num_prompt_tokens=num_prompt_tokens)


def _usage(answer: dict, name: str) -> int | None:
    usage = answer.get("usage")
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if isinstance(number, int) else None


def _with_thinking(text: str, reasoning: str, thinking: Thinking) -> str:
    """What the model wrote, before its server took thinking and answer apart.

    Without an answer the thinking is left open: a completion that ended while it thought did not close it.
    """
    if not reasoning or text.lstrip().startswith(thinking.open):
        return text
    thought = ("" if thinking.prefilled else f"{thinking.open}\n") + reasoning.strip("\n")
    return f"{thought}\n{thinking.close}\n\n" + text.lstrip("\n") if text else thought


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


def _message(content: bytes) -> str:
    """What a body says for people, if it is an error in one of the usual forms; else its first line."""
    try:
        said = json.loads(content)
    except ValueError:
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


class _Failure(Exception):
    """A request that gave no completion, and may the next time. `kind` is what it is counted as."""

    def __init__(self, kind: str, reason: str, retry_after_seconds: float | None = None):
        super().__init__(reason)
        self.kind, self.retry_after_seconds = kind, retry_after_seconds
