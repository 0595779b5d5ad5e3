"""The endpoint backend against a server that fails on order: what arrives, what is asked again, what stops the run."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
from datetime import UTC, datetime

import pytest
from openai_server import PATIENCE_SECONDS, OpenAIServer, Reply, completion

from open_r1 import signals
from open_r1.generation import Completion, Sampling
from open_r1.generation.client import (
    MAX_REASON_CHARACTERS,
    MAX_RETRY_AFTER_SECONDS,
    MIN_REFUSED,
    Pace,
    Useless,
    is_nearby,
    retry_after_seconds,
)
from open_r1.generation.endpoint import EndpointBackend, read_answer, row_seed
from open_r1.recipe import RecipeError, Thinking
from open_r1.recipe.sections import Endpoint
from open_r1.step_process import RunStopped

pytest.importorskip("openai")

KEY, VARIABLE = "sk-of-these-tests-alone", "KEY_OF_THESE_TESTS"
GARBAGE = Reply(content=b"<html>\nnot what you wanted</html>")
NO_CHOICES = Reply(content={"error": {"message": "no upstream", "code": 502}})
NO_CONTENT = Reply(content=completion({"content": None}))
NO_USAGE = Reply(content={**completion("4"), "usage": None})
FAULTS = {
    "server_errors": [500, 503, 409],
    "rate_limited": [429, Reply(429, headers={"Retry-After": "3"})],
    "timeouts": ["hang", 408],
    "connection_errors": ["drop", "break"],
    "invalid_answers": [GARBAGE, NO_CHOICES, NO_CONTENT, NO_USAGE],
}
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class MadeUpTime:
    """A clock that only sleeping moves, and never for real."""

    def __init__(self):
        self.now, self.sleeps = 0.0, []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert own_threads() == []


def own_threads() -> list[str]:
    """The backend's threads, and those of its loop that resolve names."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("endpoint", "asyncio"))]


def backend(server: OpenAIServer, thinking: Thinking = Thinking(), time: MadeUpTime | None = None, **more):
    time = time or MadeUpTime()
    endpoint = Endpoint(**{"base_url": server.url, "model": "teacher", "max_concurrent_requests": 4, **more})
    return EndpointBackend(endpoint, "r.yaml", thinking=thinking, sleep=time.sleep, clock=time.clock)


def conversations(number: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"question {index}"}] for index in range(number)]


def sampling(num_samples: int = 1, seed: int = 7, max_new_tokens: int = 100) -> Sampling:
    return Sampling(0.6, 0.95, max_new_tokens, num_samples, batch_size=64, seed=seed)


def test_every_row_arrives_once_though_one_request_in_three_fails():
    failures = [fault for faults in FAULTS.values() for fault in faults]
    with OpenAIServer(faults=[fault for failure in failures for fault in (None, None, failure)]) as server:
        asked = backend(server, max_concurrent_requests=8, timeout_seconds=3.0, max_attempts=100)
        rows = list(asked.sample(conversations(15), sampling(num_samples=2)))
    assert sorted(row for row, _ in rows) == [(c, s) for c in range(15) for s in range(2)]
    assert all(done.text == f"question {row[0]} with seed {row_seed(7, row)}" for row, done in rows)
    by_kind = {kind: len(faults) for kind, faults in FAULTS.items()}
    assert asked.counts() == {"requests": 30 + len(failures), "retries": len(failures), **by_kind}


def test_a_server_that_never_fails_leaves_only_requests_to_count():
    with OpenAIServer() as server:
        asked = backend(server)
        assert asked.counts() == {}
        assert len(list(asked.sample(conversations(3), sampling()))) == 3
    assert asked.counts() == {"requests": 3}


def test_a_request_says_what_the_recipe_says():
    with OpenAIServer() as server:
        list(backend(server, extra_body={"top_k": 20}).sample(conversations(1), sampling()))
    assert server.requests == [
        {
            "model": "teacher",
            "messages": [{"role": "user", "content": "question 0"}],
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 100,
            "seed": row_seed(7, (0, 0)),
            "top_k": 20,
        }
    ]


def test_null_in_extra_body_leaves_a_key_out():
    with OpenAIServer() as server:
        extra_body = {"max_tokens": None, "max_completion_tokens": 9, "seed": None}
        list(backend(server, extra_body=extra_body).sample(conversations(1), sampling()))
    assert set(server.requests[0]) == {"model", "messages", "temperature", "top_p", "max_completion_tokens"}


def test_wanted_rows_are_what_they_are_among_all():
    wanted = [(2, 1), (0, 0)]
    with OpenAIServer() as server:
        whole = dict(backend(server).sample(conversations(3), sampling(num_samples=2)))
        part = dict(backend(server).sample(conversations(3), sampling(num_samples=2), wanted))
    assert part == {row: whole[row] for row in wanted}


def test_seeds_differ_by_row_and_by_the_seed_of_the_run_and_stay_what_they_were():
    seeds = {row_seed(seed, (c, s)) for seed in (0, 1) for c in range(100) for s in range(10)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert row_seed(7, (0, 0)) == 1687944698  # a run that is taken up by a later version asks the same


def test_what_the_server_cuts_at_max_tokens_is_truncated():
    with OpenAIServer(answer=lambda body: "one two three") as server:
        (_, done), *_ = backend(server).sample(conversations(1), sampling(max_new_tokens=2))
    assert done == Completion("one two", num_tokens=2, truncated=True)


def test_never_more_requests_are_in_flight_than_allowed_and_never_fewer_while_there_are_rows():
    together = threading.Barrier(4, timeout=30)
    with OpenAIServer(on_request=lambda body: together.wait()) as server:
        assert len(list(backend(server, max_concurrent_requests=4).sample(conversations(20), sampling()))) == 20
    assert server.max_in_flight == 4


def test_a_caller_that_is_slow_has_no_more_than_twice_the_concurrent_requests_ahead_of_it():
    with OpenAIServer() as server:
        rows = backend(server, max_concurrent_requests=2).sample(conversations(100), sampling())
        with contextlib.closing(rows):
            next(rows)
            server.wait_until_requested(5)
            with pytest.raises(TimeoutError):
                server.wait_until_requested(6, patience_seconds=0.3)
    assert len(server.requests) == 5


# Pacing and patience


def test_pace_spreads_requests_evenly_and_gives_no_credit_for_idle_time():
    pace = Pace(max_requests_per_minute=30)
    assert [pace.start_time(now) for now in (10.0, 10.0, 11.0, 50.0, 50.0)] == [10.0, 12.0, 14.0, 50.0, 52.0]


def test_pace_without_a_limit_lets_everybody_begin():
    pace = Pace(None)
    assert [pace.start_time(now) for now in (1.0, 1.0, 2.0)] == [1.0, 1.0, 2.0]


def test_requests_wait_for_their_turn_also_those_that_are_sent_again():
    time = MadeUpTime()
    with OpenAIServer(faults=[None, Reply(500)]) as server:
        asked = backend(server, time=time, max_concurrent_requests=1, max_requests_per_minute=1)
        list(asked.sample(conversations(2), sampling()))
    first_turn, backoff, second_turn = time.sleeps
    assert (first_turn, backoff + second_turn) == (60.0, pytest.approx(60.0))


def test_patience_doubles_with_every_failure_and_is_spread():
    time = MadeUpTime()
    with OpenAIServer(faults=[500] * 4) as server:
        list(backend(server, time=time).sample(conversations(1), sampling()))
    assert all(2**n / 2 <= seconds <= 2**n for n, seconds in enumerate(time.sleeps))
    assert len(set(time.sleeps)) == len(time.sleeps) == 4


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status):
    time = MadeUpTime()
    with OpenAIServer(faults=[Reply(status, headers={"Retry-After": "50"})]) as server:
        list(backend(server, time=time).sample(conversations(1), sampling()))
    assert len(time.sleeps) == 1 and 50.0 <= time.sleeps[0] <= 55.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("86400", MAX_RETRY_AFTER_SECONDS),
        ("Thu, 26 Nov 2026 12:00:30 GMT", 30.0),
        ("Thu, 26 Nov 2026 12:00:30 -0000", 30.0),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 32 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_seconds(value, datetime(2026, 11, 26, 12, tzinfo=UTC)) == seconds


# What stops a run


@pytest.mark.parametrize(
    ("fault", "reason", "mend"),
    [
        (500, "HTTP 500: on order", "generate.endpoint.max_attempts"),
        (429, "HTTP 429: on order", "generate.endpoint.max_requests_per_minute"),
        (Reply(502, b"<h1>Bad {gateway}</h1>\nnginx"), "HTTP 502: <h1>Bad {gateway}</h1>;", "max_attempts"),
        (408, "HTTP 408", "generate.endpoint.timeout_seconds"),
        ("drop", "RemoteProtocolError", "generate.endpoint.base_url"),
        ("break", "RemoteProtocolError", "generate.endpoint.base_url"),
        (GARBAGE, "the answer is no JSON: <html>", "generate.endpoint.base_url"),
        (NO_CHOICES, "no upstream", "generate.endpoint.base_url"),
        (NO_USAGE, "no usage.completion_tokens", "generate.endpoint.base_url"),
    ],
)
def test_a_row_that_fails_too_often_stops_the_run_with_one_line(fault, reason, mend):
    with OpenAIServer(faults=[None, fault, fault, fault]) as server:
        asked = backend(server, max_concurrent_requests=1, max_attempts=3)
        rows = asked.sample(conversations(3), sampling())
        assert next(rows)[0] == (0, 0)
        with pytest.raises(RunStopped) as stopped:
            next(rows)
    line = str(stopped.value)
    assert line.startswith("r.yaml: generate.endpoint: a request failed 3 times in a row")
    assert reason in line and mend in line and "\n" not in line
    assert (asked.counts()["requests"], asked.counts()["retries"]) == (4, 2)


def test_no_answer_in_time_is_a_timeout():
    with OpenAIServer(faults=["hang"]) as server:
        asked = backend(server, max_attempts=1, timeout_seconds=0.1)
        with pytest.raises(RunStopped, match=r"a request failed, at last with: no answer within 0\.1 s; raise"):
            list(asked.sample(conversations(1), sampling()))
        server.wait_until_abandoned(1)
    assert asked.counts() == {"requests": 1, "timeouts": 1}


def test_an_answer_that_trickles_is_a_timeout_too():
    with OpenAIServer(faults=["trickle"]) as server:
        asked = backend(server, max_attempts=1, timeout_seconds=0.1)
        with pytest.raises(RunStopped, match="no answer within"):
            list(asked.sample(conversations(1), sampling()))
        server.wait_until_abandoned(1)


def test_a_server_that_is_not_there_stops_the_run():
    with OpenAIServer() as server:
        pass
    with pytest.raises(RunStopped, match=r"no answer from http://127.0.0.1:\d+/v1: ConnectError"):
        list(backend(server, max_attempts=2).sample(conversations(1), sampling()))


@pytest.mark.parametrize(
    ("status", "mend"),
    [
        (401, "generate.endpoint.api_key_variable"),
        (403, "generate.endpoint.api_key_variable"),
        (404, "generate.endpoint.base_url"),
        (404, "generate.endpoint.model ('teacher')"),
        (405, "generate.endpoint.base_url"),
    ],
)
def test_a_mistake_of_the_recipe_is_told_at_the_first_answer(status, mend):
    with OpenAIServer(faults=[status]) as server:
        asked = backend(server, max_concurrent_requests=1)
        with pytest.raises(RecipeError) as mistake:
            list(asked.sample(conversations(2), sampling()))
    assert mend in str(mistake.value) and f"HTTP {status}: on order" in str(mistake.value)
    assert str(mistake.value).startswith("r.yaml: generate.endpoint.") and len(mistake.value.lines) == 1
    assert len(server.requests) == 1


def test_another_status_stops_the_run_at_the_first_answer():
    with OpenAIServer(faults=[Reply(402, {"message": "no credit"})]) as server:
        asked = backend(server, max_concurrent_requests=1)
        with pytest.raises(RunStopped, match="HTTP 402: no credit"):
            list(asked.sample(conversations(2), sampling()))
    assert len(server.requests) == 1


# What is refused


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_server_refuses_is_a_row_without_text(status):
    with OpenAIServer(faults=[Reply(status, {"message": "too long\nby far"})]) as server:
        asked = backend(server)
        (_, done), *_ = asked.sample(conversations(1), sampling())
    reason = f"HTTP {status}: too long by far"
    assert done == Completion("", num_tokens=0, truncated=False, refused=reason)
    assert asked.counts() == {"requests": 1, "refused": 1}


@pytest.mark.parametrize(
    ("num_refused", "max_refused_share", "num_rows", "stops"),
    [
        (MIN_REFUSED, 0.01, 40, False),
        (MIN_REFUSED + 1, 0.01, 40, True),
        (MIN_REFUSED + 1, 0.5, 40, True),  # all of the first
        (1, 0.0, 5, True),
        (30, 1.0, 30, False),
    ],
)
def test_too_many_refused_rows_stop_the_run(num_refused, max_refused_share, num_rows, stops):
    with OpenAIServer(faults=[400] * num_refused) as server:
        asked = backend(server, max_concurrent_requests=1, max_refused_share=max_refused_share)
        rows, yielded = asked.sample(conversations(num_rows), sampling()), []
        match = rf"refused {num_refused} of {num_refused} rows.*HTTP 400.*endpoint\.max_refused_share"
        with pytest.raises(RunStopped, match=match) if stops else contextlib.nullcontext():
            yielded.extend(rows)
    assert len(yielded) == (num_refused if stops else num_rows)


def test_the_share_of_refused_rows_counts_the_answered_ones():
    faults = [None] * 83 + [400] * 17
    with OpenAIServer(faults=faults) as server:
        asked = backend(server, max_concurrent_requests=1, max_refused_share=0.17)
        assert len(list(asked.sample(conversations(100), sampling()))) == 100


# Keys and proxies


def test_the_key_is_sent_and_is_in_no_error_and_no_log(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, KEY)
    caplog.set_level(logging.DEBUG)
    with OpenAIServer(key=KEY, faults=[None, *[Reply(500, {"message": f"{KEY} made me stumble"})] * 2]) as server:
        asked = backend(server, api_key_variable=VARIABLE, max_concurrent_requests=1, max_attempts=2)
        rows = asked.sample(conversations(2), sampling())
        assert next(rows)[1].text
        with pytest.raises(RunStopped, match="<key> made me stumble") as stopped:
            next(rows)
    assert KEY not in f"{stopped.value}{caplog.text}{asked!r}"


def test_a_wrong_key_is_in_no_error_either(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    with OpenAIServer(key="another") as server, pytest.raises(RecipeError, match=f"a key .* {VARIABLE}") as mistake:
        list(backend(server, api_key_variable=VARIABLE).sample(conversations(1), sampling()))
    assert KEY not in str(mistake.value)


@pytest.mark.parametrize("length", range(MAX_REASON_CHARACTERS - 30, MAX_REASON_CHARACTERS, 5))
def test_no_half_of_a_key_is_left_where_a_long_reason_is_cut(monkeypatch, length):
    monkeypatch.setenv(VARIABLE, KEY)
    with OpenAIServer(key=KEY, faults=[Reply(400, b"x" * length + KEY.encode())]) as server:
        (_, done), *_ = backend(server, api_key_variable=VARIABLE).sample(conversations(1), sampling())
    assert len(done.refused) <= MAX_REASON_CHARACTERS and KEY[:3] not in done.refused


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_key_that_is_not_there_is_a_mistake_before_anything_is_sent(monkeypatch, tmp_path, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, value) if value is not None else monkeypatch.delenv(VARIABLE, raising=False)
    with OpenAIServer() as server, pytest.raises(RecipeError, match=rf"endpoint\.api_key_variable: no {VARIABLE} in"):
        backend(server, api_key_variable=VARIABLE)
    assert server.requests == []


def test_the_environments_openai_account_is_not_told_to_other_servers(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    with OpenAIServer() as server:
        list(backend(server).sample(conversations(1), sampling()))
    assert KEY not in json.dumps(server.headers) and "authorization" not in map(str.lower, server.headers[0])


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_nearby(monkeypatch):
    with OpenAIServer() as proxy, OpenAIServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        list(backend(server).sample(conversations(1), sampling()))
    assert (len(proxy.requests), len(server.requests)) == (0, 1)


def test_a_proxy_of_the_environment_is_asked_for_a_server_far_away(monkeypatch):
    with OpenAIServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        rows = list(backend(proxy, base_url="http://teacher.example/v1").sample(conversations(1), sampling()))
    assert len(rows) == len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        ("localhost", True),
        ("node17", True),
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.4", True),
        ("::1", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("2001:4860:4860::8888", False),
        ("api.deepseek.com", False),
    ],
)
def test_nearby_is_what_no_proxy_outside_knows(host, is_so):
    assert is_nearby(host) == is_so


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"base_url": "localhost:8000/v1"}, "endpoint.base_url: 'localhost:8000/v1' is no address"),
        ({"base_url": "http:///v1"}, "endpoint.base_url: 'http:///v1' is no address"),
        ({"base_url": "http://h:port/v1"}, "endpoint.base_url: 'http://h:port/v1' is no address"),
        ({"extra_body": {"max_tokens": 5}}, "extra_body.max_tokens: the recipe says that elsewhere; remove it; null"),
        ({"extra_body": {"stream": None}}, "extra_body.stream: the recipe says that elsewhere; remove it"),
    ],
)
def test_a_section_that_cannot_work_is_a_mistake_at_once(values, line):
    endpoint = Endpoint(**{"base_url": "http://localhost:1/v1", "model": "teacher", **values})
    with pytest.raises(RecipeError) as mistake:
        EndpointBackend(endpoint, "r.yaml", key="evaluate.endpoint")
    assert str(mistake.value).startswith("r.yaml: evaluate.endpoint.") and line in str(mistake.value)


# Whoever goes early


@pytest.mark.parametrize("last", [500, 402, 401], ids=["failed", "ended", "mistake"])
def test_what_is_under_way_when_one_row_fails_is_not_lost_and_nothing_more_is_asked(last):
    """The servers that bill for it would do so in any case."""
    together = threading.Barrier(4)

    def on_request(body):
        if len(server.requests) <= 4:
            together.wait(PATIENCE_SECONDS)

    with OpenAIServer(faults=[None, None, last, None], on_request=on_request) as server:
        asked = backend(server, max_concurrent_requests=4, max_attempts=1)
        answered = []
        with pytest.raises((RunStopped, RecipeError)):
            for row, _ in asked.sample(conversations(40), sampling()):
                answered.append(row)
    assert len(server.requests) < 12 and len(answered) == len(server.requests) - 1


class NoTime(MadeUpTime):
    """Who sleeps never wakes up."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def test_who_waits_to_ask_again_is_not_waited_for():
    """When another row fails for good."""
    with OpenAIServer(faults=[429, 402]) as server:
        asked = backend(server, time=NoTime(), max_concurrent_requests=2, max_attempts=2)
        with pytest.raises(RunStopped, match="HTTP 402"):
            list(asked.sample(conversations(2), sampling()))
    assert len(server.requests) == 2


def test_closing_early_ends_what_is_in_flight():
    with OpenAIServer(faults=[None, "hang", "hang", "hang"]) as server:
        rows = backend(server, max_concurrent_requests=3).sample(conversations(9), sampling())
        next(rows)
        server.wait_until_requested(4)
        rows.close()
        assert own_threads() == []
        server.wait_until_abandoned(3)
    assert len(server.requests) == 4


def test_a_signal_ends_what_is_in_flight(monkeypatch):
    monkeypatch.setattr(signals, "_received", [])

    def interrupt(body):
        if len(server.requests) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with OpenAIServer(faults=["hang"] * 3, on_request=interrupt) as server:
        rows = backend(server, max_concurrent_requests=3).sample(conversations(9), sampling())
        with signals.answered_with(signals.raise_interrupted), pytest.raises(signals.Interrupted):
            next(rows)
        assert own_threads() == []
        server.wait_until_abandoned(3)


def test_closing_before_the_first_row_sends_nothing():
    with OpenAIServer() as server:
        backend(server).sample(conversations(3), sampling()).close()
    assert server.requests == []


# What is in an answer


def answer(message, finish_reason="stop", num_tokens=5) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": num_tokens}}).encode()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "4"}, "4"),
        ({"content": ""}, ""),
        ({"content": "<think>\nhm\n</think>\n\n4"}, "<think>\nhm\n</think>\n\n4"),
        ({"content": "4", "reasoning_content": "hm"}, "<think>\nhm\n</think>\n\n4"),
        ({"content": "4", "reasoning": "hm"}, "<think>\nhm\n</think>\n\n4"),
        ({"content": "4", "reasoning_content": None, "reasoning": "hm"}, "<think>\nhm\n</think>\n\n4"),
        ({"content": "4", "reasoning_content": None, "reasoning": None}, "4"),
        ({"content": "4", "reasoning_content": ""}, "4"),
        ({"content": "\n\n4", "reasoning_content": "\n hm\n"}, "<think>\n hm\n</think>\n\n4"),
        ({"content": None, "reasoning_content": "hm"}, "<think>\nhm"),
        ({"content": "", "reasoning_content": "hm"}, "<think>\nhm"),
        ({"content": "<think>hm</think>4", "reasoning": "hm"}, "<think>hm</think>4"),
        ({"content": None, "reasoning": "it says </think>8"}, "<think>\nit says <\u200b/think>8"),
        ({"content": "4", "reasoning": "a </think> b"}, "<think>\na <\u200b/think> b\n</think>\n\n4"),
        ({"content": "half \ud83d of a pair, \ud83d\ude00"}, "half \ufffd of a pair, \U0001f600"),
    ],
)
def test_thinking_that_the_server_split_off_is_put_back(message, text):
    assert read_answer(answer(message), Thinking()) == Completion(text, num_tokens=5, truncated=False)


@pytest.mark.parametrize(
    ("thinking", "text"),
    [
        (Thinking(open="[", close="]"), "[\nhm\n]\n\n4"),
        (Thinking(prefilled=False), "<think>\nhm\n</think>\n\n4"),
        (Thinking(prefilled=True), "hm\n</think>\n\n4"),
    ],
)
def test_thinking_is_put_back_with_the_recipes_markers(thinking, text):
    assert read_answer(answer({"content": "4", "reasoning": "hm"}), thinking).text == text


def test_thinking_that_did_not_end_is_truncated_and_open():
    done = read_answer(answer({"content": None, "reasoning_content": "hm"}, "length"), Thinking())
    assert done == Completion("<think>\nhm", num_tokens=5, truncated=True)


def test_thinking_that_is_not_shown_and_did_not_end_is_a_truncated_answer_of_nothing():
    done = read_answer(answer({"content": None}, "length"), Thinking())
    assert done == Completion("", num_tokens=5, truncated=True)


@pytest.mark.parametrize(("number", "tokens"), [(5, 5), (5.0, 5), (0, 0), (-5, None), ("5", None), (True, None)])
def test_tokens_are_whole_numbers_from_0(number, tokens):
    content = answer({"content": "4"}, num_tokens=number)
    if tokens is not None:
        assert read_answer(content, Thinking()).num_tokens == tokens
        return
    with pytest.raises(ValueError, match="no usage.completion_tokens"):
        read_answer(content, Thinking())


@pytest.mark.parametrize("choices", [[], [{"message": None, "finish_reason": "stop"}], {"0": {}}])
@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 5}, (7, 5)),
        ({"prompt_tokens": 7}, (7, 0)),
        ({"completion_tokens": 5}, (None, 5)),
    ],
)
def test_tokens_of_an_answer_without_a_choice_are_told(choices, usage, tokens):
    with pytest.raises(Useless) as useless:
        read_answer(json.dumps({"choices": choices, "usage": usage}).encode(), Thinking())
    assert useless.value.tokens == tokens


@pytest.mark.parametrize(
    ("message", "finish_reason", "refused"),
    [
        ({"content": "4 and some"}, "content_filter", "content_filter"),
        ({"content": None}, "content_filter", "content_filter"),
        ({"content": None, "refusal": "I\nwill not"}, "stop", "I will not"),
    ],
)
def test_an_answer_that_was_moderated_is_refused(message, finish_reason, refused):
    done = read_answer(answer(message, finish_reason), Thinking())
    assert done == Completion("", num_tokens=0, truncated=False, refused=refused)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no JSON: nothing"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no choices"),
        (b"{}", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [null]}', "no choices"),
        (b'{"choices": [{"message": null, "finish_reason": "stop"}]}', "no choices"),
        (b'{"choices": [{"message": {"content": "4"}}]}', "finish_reason"),
        (b'{"error": {"message": "overloaded", "code": 529}}', "overloaded"),
        (answer({"content": None}), "content is NoneType"),
        (answer({"content": None, "reasoning": ""}), "content is NoneType"),
        (answer({"content": [{"type": "text", "text": "4"}]}), "content is list"),
        (answer({"content": "4"}, "insufficient_system_resource"), "broken off"),
        (answer({"content": "4"}, "abort"), "broken off"),
        (answer({"content": "4"}, None), "broken off"),
        (answer({"content": "4"}, num_tokens=None), "no usage.completion_tokens"),
        (b'{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}', "no usage.completion_tokens"),
    ],
)
def test_what_is_no_completion_is_none(content, reason):
    with pytest.raises(ValueError, match=reason):
        read_answer(content, Thinking())
