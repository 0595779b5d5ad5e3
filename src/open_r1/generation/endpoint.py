"""Sampling by a server that speaks OpenAI's chat completions: vLLM's own, or any other's, rented or at home.

One request is one completion, so that a lost answer costs one completion and a run that is taken up asks for what it
has not got. What the server does not want to answer is a row that says so.
"""

import asyncio
import functools
import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any

from open_r1.generation.client import Api, Body, EndpointClient, Failure, Useless, said_in
from open_r1.generation.sampling import Completion, Conversation, Meter, Row, Sampling, Tokens, broken_up
from open_r1.recipe import Endpoint, Thinking

MODERATED = "content_filter"
ENDED, TRUNCATED = "stop", "length"
SCHEMA_NAME = "verdict"
OURS, OURS_TO_DROP = ("model", "messages", "n", "stream"), ("temperature", "top_p", "max_tokens", "seed")


class EndpointBackend:
    """Samples from the server that `endpoint` names; a `Backend`.

    `file` and `key` (generate.endpoint, evaluate.endpoint) are where the section stands, for errors. The API key is in
    the environment or in `.env`, and in no error, log or record. `thinking` is how a completion has to mark its
    thinking, where the server gives thinking and answer apart. `meter` is asked before each request, and told what it
    took, whether or not there was an answer in it.
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
        self._endpoint, self._meter = endpoint, meter
        self._client = EndpointClient(endpoint, file, key, sleep, clock)
        self._api = Api(
            "/chat/completions",
            "the chat completions API of a server that counts tokens (usage)",
            functools.partial(read_answer, thinking=thinking),
            _refused,
        )
        for name, value in endpoint.extra_body.items():
            if name in OURS or (name in OURS_TO_DROP and value is not None):
                own = "; null leaves it out" if name in OURS_TO_DROP else ""
                raise self._client.mistake(f"extra_body.{name}", f"the recipe says that elsewhere; remove it{own}")

    def sample(
        self, conversations: Sequence[Conversation], sampling: Sampling, wanted: Collection[Row] | None = None
    ) -> Iterator[tuple[Row, Completion]]:
        """Yields `num_samples` completions of each conversation, or those of `wanted` alone, in the order they end in.

        Requests go on while the caller works on what it got, but no more than twice max_concurrent_requests rows are
        ahead of it. Who closes the generator ends all requests: the server sees their connections go.

        Raises RunStopped if one row failed max_attempts times, or if too many were refused; RecipeError if key, model
        or address are not the server's. What has ended before is yielded first.
        """
        every = ((c, s) for c in range(len(conversations)) for s in range(sampling.num_samples))
        rows = iter(every if wanted is None else sorted(wanted))
        bodies = ((row, self._body(conversations[row[0]], sampling, row)) for row in rows)
        metered = functools.partial(self._metered, sampling)
        return self._client.answers(self._api, bodies, metered if self._meter is not None else None)

    def counts(self) -> dict[str, int]:
        """What `EndpointClient.counts` says of the requests of this backend."""
        return self._client.counts()

    async def _metered(self, sampling: Sampling, body: Body, ask: Callable[[], Awaitable[Completion]]) -> Completion:
        """What `ask` gives, counted by the meter; nothing where nobody says what the request took."""
        bound = most_tokens(body, sampling.max_new_tokens)
        await self._meter.reserve(bound)
        prompt_tokens, completion_tokens, num_requests = 0, 0, 0
        try:
            completion = await ask()
            prompt_tokens, num_requests = completion.num_prompt_tokens, 1
            completion_tokens = completion.num_tokens + completion.num_refused_tokens
            return completion
        except Failure as failure:
            if failure.tokens is not None:
                (prompt_tokens, completion_tokens), num_requests = failure.tokens, 1
            raise
        finally:
            self._meter.settle(bound, prompt_tokens, completion_tokens, num_requests)

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


def _refused(reason: str) -> Completion:
    return Completion("", num_tokens=0, truncated=False, refused=reason, num_prompt_tokens=0)


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

    It is Useless if the server counts tokens for it.

    An answer without usage.completion_tokens is none: a guess at its length would go into every mean and every limit.
    Nor is one that the server broke off (finish_reason abort, error, insufficient_system_resource, …). The tokens of
    the prompt are None if the server does not say them.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):  # UnicodeDecodeError is one
        raise ValueError(f"the answer is no JSON: {said_in(content)}") from None
    num_tokens, num_prompt_tokens = (_usage(answer, name) for name in ("completion_tokens", "prompt_tokens"))
    is_counted = num_tokens is not None or num_prompt_tokens is not None
    useless = functools.partial(Useless, tokens=(num_prompt_tokens, num_tokens or 0)) if is_counted else ValueError
    try:
        choice = answer["choices"][0]
        message, finish_reason = choice["message"], choice["finish_reason"]
        text, reasoning = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise useless(f"the answer has no choices[0].message and finish_reason: {said_in(content)}") from None
    refusal = message.get("refusal")
    if finish_reason == MODERATED or (refusal and not text):
        reason = " ".join(str(refusal or MODERATED).split())
        return Completion(
            "", 0, False, refused=reason, num_prompt_tokens=num_prompt_tokens, num_refused_tokens=num_tokens or 0
        )
    if finish_reason not in (ENDED, TRUNCATED):
        raise useless(f"the answer was broken off: finish_reason {finish_reason!r}")
    is_cut, has_thought = finish_reason == TRUNCATED, isinstance(reasoning, str) and bool(reasoning)
    if not isinstance(text, str) and not (text is None and (has_thought or is_cut)):
        raise useless(f"the answer's message.content is {type(text).__name__}, no string")
    if num_tokens is None:
        raise useless("the answer has no usage.completion_tokens")
    # Cut off in thinking that the server does not show, it is nothing.
    whole = _with_thinking(text or "", reasoning, thinking) if has_thought else text or ""
    # Half of a surrogate pair, which JSON can hold, could not be written to any file later.
    whole = whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Completion(whole, num_tokens=num_tokens, truncated=is_cut, num_prompt_tokens=num_prompt_tokens)


def _usage(answer: Any, name: str) -> int | None:
    """What a server says that it took; None if that is no number of tokens."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    number = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
        return None
    return int(number)


def _with_thinking(text: str, reasoning: str, thinking: Thinking) -> str:
    """What the model wrote, before its server took thinking and answer apart.

    Without an answer the thinking is left open: a completion that ended while it thought did not close it. Nor does a
    closing mark that is quoted in what the server calls thinking: it is broken up.
    """
    if not reasoning or text.lstrip().startswith(thinking.open):
        return text
    reasoning = reasoning.replace(thinking.close, broken_up(thinking.close))
    thought = ("" if thinking.prefilled else f"{thinking.open}\n") + reasoning.strip("\n")
    return f"{thought}\n{thinking.close}\n\n" + text.lstrip("\n") if text else thought
