"""The router and its client: a real server on 127.0.0.1, and a provider that does what the programs' sources say."""

import asyncio
import base64
import contextlib
import dataclasses
import http.server
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from open_r1.sandbox import SANDBOXES, Execution, Limits, Program, SandboxUnavailable, build_sandbox
from open_r1.sandbox import router as client_module
from open_r1.sandbox.router import RouterSandbox, decode_answer, encode_answer, encode_request

SCRIPT = Path(__file__).parents[1] / "scripts" / "sandbox_router.py"
spec = importlib.util.spec_from_file_location("sandbox_router", SCRIPT)
server_module = sys.modules["sandbox_router"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server_module)

TOKEN = "a-token-of-tests"
SECONDS_TO_HAPPEN = 30
DEFAULT_LIMITS = Limits()
JSON = {"Content-Type": "application/json"}


class FakeSandbox:
    """Echoes stdin, but for sources that are orders: `wait` for the gate, `raise`, `few`, `kill once FILE`."""

    gate = threading.Event()
    begun: list[str]
    made: "list[FakeSandbox]"

    def __init__(self, limits):
        self.limits = limits
        self.is_closed = False
        self.made.append(self)

    @classmethod
    def reset(cls):
        cls.gate, cls.begun, cls.made = threading.Event(), [], []

    @staticmethod
    def problem():
        return None

    @staticmethod
    def language_problem(language):
        return None

    def run(self, programs):
        orders = [program.source.split() for program in programs]
        self.begun += [program.stdin_bytes.decode() for program in programs]
        if ["wait"] in orders:
            assert self.gate.wait(SECONDS_TO_HAPPEN)
        if ["raise"] in orders:
            raise OSError("the provider broke")
        for order in orders:
            if order[:2] == ["kill", "once"] and not os.path.exists(order[2]):
                Path(order[2]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        executions = [Execution("ok", 0, program.stdin_bytes, b"\xff", 0.5, 0.25) for program in programs]
        return executions[1:] if ["few"] in orders else executions

    def close(self):
        self.is_closed = True


def main_with_fake(arguments):
    """The router's main, in a process of its own, with the provider `fake`."""
    FakeSandbox.reset()
    SANDBOXES["fake"] = FakeSandbox
    sys.exit(server_module.main(["--sandbox", "fake", "--port", "0", *arguments]))


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    FakeSandbox.reset()
    monkeypatch.setitem(SANDBOXES, "fake", FakeSandbox)
    monkeypatch.chdir(tmp_path)  # no .env of whoever runs the tests
    for name in (client_module.ADDRESSES, client_module.TOKEN):
        monkeypatch.delenv(name, raising=False)
    yield FakeSandbox
    FakeSandbox.gate.set()


@contextlib.contextmanager
def serve(max_programs=4, token=None, maxima=server_module.MAXIMA, max_held_bytes=1 << 30, **options):
    """A router in a thread: its `url`, and itself as `router`."""
    router = server_module.Router("fake", max_programs, maxima, max_held_bytes)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server_module.build_app(router, token, **options), log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    router.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield router
    finally:
        FakeSandbox.gate.set()
        server.should_exit = True
        thread.join(SECONDS_TO_HAPPEN)
        assert not thread.is_alive()


WITH_FAKE = (sys.executable, "-c", "import sys, test_sandbox_router as t; t.main_with_fake(sys.argv[1:])")


@contextlib.contextmanager
def router_process(*arguments, command=WITH_FAKE):
    """A router in a process: its address, and the process."""
    path = os.pathsep.join([str(Path(__file__).parent), str(SCRIPT.parents[1] / "src")])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process.stdout.readline().strip().rpartition("=")[2], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until(condition):
    deadline = time.monotonic() + SECONDS_TO_HAPPEN
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


@contextlib.contextmanager
def in_thread(function, *arguments):
    """Calls it in a thread, and joins that; the results are put into the list."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    yield results
    thread.join(SECONDS_TO_HAPPEN)
    assert not thread.is_alive()


@pytest.fixture
def connect(monkeypatch):
    """Makes a RouterSandbox for these addresses, which notes how long it would have slept in `sandbox.slept`."""

    def connect(*addresses, token=None, limits=DEFAULT_LIMITS, **options):
        monkeypatch.setenv(client_module.ADDRESSES, ",".join(addresses))
        if token:
            monkeypatch.setenv(client_module.TOKEN, token)
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        sandbox = RouterSandbox(limits, **{"sleep": sleep, **options})
        sandbox.slept = slept
        return sandbox

    return connect


def echoes(count, source="echo"):
    return [Program(source, str(number)) for number in range(count)]


def outputs(executions) -> list[str | None]:
    """What was echoed; None where there was an infrastructure error."""
    return [None if e.status == "infrastructure_error" else e.stdout.decode() for e in executions]


def post(url, programs, limits=DEFAULT_LIMITS, job="a", **headers):
    body = encode_request(limits, programs)
    return httpx.post(f"{url}/run", content=body, headers={**JSON, "Open-R1-Job": job, **headers}, timeout=None)


def test_one_execution_for_each_program_in_order(connect):
    with serve() as router, connect(router.url) as sandbox:
        executions = sandbox.run(echoes(100))
        assert outputs(executions) == [str(number) for number in range(100)]
        assert executions[7] == Execution("ok", 0, b"7", b"\xff", 0.5, 0.25)
        assert sandbox.run([]) == []


PROGRAMS = [
    Program("print('\N{WINKING FACE}')", b"\x00\xff\r\n", "cpp", {"a/b.bin": b"\x00\xff", "text": "\N{EURO SIGN}"}),
    Program("lone \ud800", "\udfff"),
    Program(""),
]


def test_the_provider_gets_what_the_client_was_given(connect, monkeypatch):
    seen = []

    def run(self, programs):
        seen.append((self.limits, programs))
        return [Execution("ok", 0, b"", b"", 0.0, 0.0) for _ in programs]

    monkeypatch.setattr(FakeSandbox, "run", run)
    limits = Limits(wall_seconds=3.5, memory_bytes=1 << 20)
    with serve(max_programs=1) as router, connect(router.url, limits=limits) as sandbox:
        sandbox.run(PROGRAMS)
    assert [limits for limits, _ in seen] == [limits] * 3
    first, second, third = (programs[0] for _, programs in seen)
    assert first == dataclasses.replace(PROGRAMS[0], files={"a/b.bin": b"\x00\xff", "text": b"\xe2\x82\xac"})
    assert (second.source, second.stdin, third) == ("lone ?", b"?", Program("", b""))
    assert seen[0][1][0].language == "cpp"


STATUSES = [
    Execution("timeout", None, b"\xff\x00", b"", 10.0, 0.0),
    Execution("runtime_error", -11, b"", b"\n", 0.0, 1e-9),
    Execution("infrastructure_error", None, b"", b"why", 0.0, 0.0),
]


def test_an_answer_is_read_as_it_was_written():
    assert decode_answer(b"\n\n" + encode_answer(STATUSES), 3) == STATUSES


def test_from_many_threads_and_in_a_running_event_loop(connect):
    with serve() as router, connect(router.url) as sandbox:
        results = {}

        def run(number):
            results[number] = outputs(sandbox.run([Program("echo", f"{number}.{n}") for n in range(20)]))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {number: [f"{number}.{n}" for n in range(20)] for number in range(6)}

        async def run_in_loop():
            return sandbox.run(echoes(2))

        assert outputs(asyncio.run(run_in_loop())) == ["0", "1"]


def test_jobs_take_turns():
    with serve(max_programs=1) as router, contextlib.ExitStack() as stack:
        for job, count in (("a", 1000), ("b", 4)):
            programs = [Program("wait", f"{job}{number}") for number in range(count)]
            stack.enter_context(in_thread(post, router.url, programs, Limits(), job))
            wait_until(lambda due={"a": 999, "b": 1003}[job]: router.num_waiting == due and FakeSandbox.begun)
        FakeSandbox.gate.set()
    assert FakeSandbox.begun[:9] == ["a0", "a1", "b0", "a2", "b1", "a3", "b2", "a4", "b3"]


def test_requests_of_one_job_take_one_turn():
    with serve(max_programs=1) as router, contextlib.ExitStack() as stack:
        for num_waiting, (job, name) in enumerate([("a", "first"), ("a", "second"), ("b", "other")]):
            programs = [Program("wait", f"{name}{number}") for number in range(2)]
            stack.enter_context(in_thread(post, router.url, programs, Limits(), job))
            wait_until(lambda due=2 * num_waiting + 1: router.num_waiting == due and FakeSandbox.begun)
        FakeSandbox.gate.set()
    assert FakeSandbox.begun == ["first0", "first1", "other0", "second0", "other1", "second1"]


def test_no_more_programs_at_a_time_than_allowed():
    with serve(max_programs=6) as router:
        programs = [Program("wait", str(number)) for number in range(30)]
        with in_thread(post, router.url, programs), in_thread(post, router.url, programs, Limits(), "b"):
            wait_until(lambda: router.num_waiting == 54)
            assert router.num_running == 6 and len(FakeSandbox.begun) <= 6
            health = httpx.get(f"{router.url}/health").json()
            FakeSandbox.gate.set()
    expected = {"programs_running": 6, "programs_waiting": 54, "max_programs": 6}
    assert health == {"provider": "fake", "problem": None, **expected}


def test_programs_of_a_client_that_is_gone_never_begin():
    with serve(max_programs=1) as router:
        body = encode_request(Limits(), [Program("wait", str(number)) for number in range(50)])
        host, port = router.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            wait_until(lambda: router.num_waiting == 49)
        wait_until(lambda: router.num_waiting == 0)
        FakeSandbox.gate.set()
        wait_until(lambda: router.num_running == 0)
        assert outputs(decode_answer(post(router.url, echoes(2)).content, 2)) == ["0", "1"]
        wait_until(lambda: router.held_bytes == 0)  # an answer is there before its room is given back
    assert FakeSandbox.begun == ["0", "0", "1"]


def test_a_newline_now_and_then_while_programs_wait():
    with serve(heartbeat_seconds=0.01) as router:
        body = encode_request(Limits(), [Program("wait", "here")])
        with httpx.stream("POST", f"{router.url}/run", content=body, headers=JSON, timeout=SECONDS_TO_HAPPEN) as answer:
            chunks = answer.iter_bytes()
            assert next(chunks) == b"\n"
            FakeSandbox.gate.set()
            assert outputs(decode_answer(b"".join(chunks), 1)) == ["here"]


def test_what_the_provider_fails_at_is_no_wrong_answer(connect):
    sources = ["echo", "raise", "echo", "few", "echo"]
    with serve() as router, connect(router.url) as sandbox:
        executions = sandbox.run([Program(source, str(number)) for number, source in enumerate(sources)])
    assert outputs(executions) == ["0", None, "2", None, "4"]
    assert executions[1].stderr == b"fake: OSError: the provider broke"
    assert executions[3].stderr == b"fake: ValueError: 0 executions for 1 programs"


def test_a_provider_that_cannot_be_had_any_more_is_tried_again(connect, monkeypatch):
    with serve() as router, connect(router.url) as sandbox:
        monkeypatch.setattr(FakeSandbox, "problem", staticmethod(lambda: "no key"))
        (execution,) = sandbox.run(echoes(1))
        assert execution.stderr == b"fake: SandboxUnavailable: sandbox fake: no key"
        assert httpx.get(f"{router.url}/health").json()["problem"] == "no key"
        monkeypatch.setattr(FakeSandbox, "problem", staticmethod(lambda: None))
        assert outputs(sandbox.run(echoes(1))) == ["0"]


def request(**changes) -> bytes:
    return json.dumps({"limits": {}, "programs": [{"source": "echo", **changes}]}).encode()


BAD_REQUESTS = [  # body, headers, status, detail
    (b"{", {}, 400, "the body is no JSON"),
    (b"[" * 100_000, {}, 400, "the body is no JSON"),
    (b"[]", {}, 400, "the body is no JSON object"),
    (b"{}", {}, 400, "the body has no 'programs'"),
    (b'{"programs": [], "limit": {}}', {}, 400, "unknown key 'limit'"),
    (b'{"programs": [], "limits": {"wall_second": 1}}', {}, 400, "did you mean wall_seconds?"),
    (b'{"programs": [], "limits": {"wall_seconds": "1"}}', {}, 400, "wall_seconds is '1'; a limit is a number over 0"),
    (b'{"programs": [], "limits": {"wall_seconds": NaN}}', {}, 400, "a limit is a number over 0"),
    (b'{"programs": [], "limits": {"processes": 10000}}', {}, 400, "at most 256 (--max-limit processes=...)"),
    (b'{"programs": [], "limits": {"wall_seconds": Infinity}}', {}, 400, "at most 120.0"),
    (b'{"programs": [1]}', {}, 400, "programs.0 is no JSON object"),
    (b'{"programs": [{}]}', {}, 400, "programs.0 has no 'source'"),
    (request(source=1), {}, 400, "programs.0.source is of the wrong type (int)"),
    (request(stdin="?"), {}, 400, "programs.0.stdin is no base64"),
    (request(files={"a": 1}), {}, 400, "programs.0.files is no base64"),
    (request(files={"../a": ""}), {}, 400, "programs.0.files: '../a' is no path inside of the working directory"),
    (request(), {"Content-Type": "text/plain"}, 415, "send Content-Type: application/json"),
    (iter([request()]), {}, 411, "send a Content-Length"),
    (request(source="x" * 5000), {}, 413, "at most 4000, so send fewer programs"),
    (request(), {"Authorization": "Bearer other"}, 401, "set OPEN_R1_ROUTER_TOKEN"),
    (request(), {"Authorization": TOKEN}, 401, "the token is wrong"),
    (request(), {"Authorization": "Bearer \xff"}, 401, "the token is wrong"),
    (request(source="x" * 2000), {}, 503, "the router holds 0 MiB of requests; try again later"),
]


@pytest.mark.parametrize(("body", "headers", "status", "detail"), BAD_REQUESTS)
def test_a_bad_request_gets_one_line(body, headers, status, detail):
    max_held_bytes = 1000 if status == 503 else 1 << 20
    with serve(token=TOKEN, max_body_bytes=4000 if status == 413 else 200_000, max_held_bytes=max_held_bytes) as router:
        headers = {**JSON, "Authorization": f"Bearer {TOKEN}", **headers}
        headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = httpx.post(f"{router.url}/run", content=body, headers=headers)
        assert answer.status_code == status
        assert detail in answer.json()["detail"] and "\n" not in answer.json()["detail"]
        assert FakeSandbox.begun == [] and router.held_bytes == 0


def test_a_sandbox_for_each_distinct_limits_and_not_too_many(monkeypatch):
    monkeypatch.setattr(server_module, "MAX_SANDBOXES", 2)
    with serve() as router:
        for seconds in (1, 2, 1.0, 3):
            assert post(router.url, echoes(1), Limits(wall_seconds=seconds)).status_code == 200
        assert [sandbox.limits.wall_seconds for sandbox in FakeSandbox.made] == [1, 2, 3]
        wait_until(lambda: [sandbox.is_closed for sandbox in FakeSandbox.made] == [False, True, False])  # the eldest
        waiting = [Program("wait")]
        with (
            in_thread(post, router.url, waiting, Limits(wall_seconds=1)),
            in_thread(post, router.url, waiting, Limits(wall_seconds=3)),
        ):
            wait_until(lambda: router.num_running == 2)
            answer = post(router.url, echoes(1), Limits(wall_seconds=4))
            assert (answer.status_code, answer.json()["detail"][:41]) == (
                503,
                "2 different sets of limits are in use; us",
            )
            FakeSandbox.gate.set()
        assert post(router.url, echoes(1), Limits(wall_seconds=4)).status_code == 200
    assert all(sandbox.is_closed for sandbox in FakeSandbox.made)


def test_the_token_opens_and_is_never_told(connect, monkeypatch):
    with serve(token=TOKEN) as router:
        assert httpx.get(f"{router.url}/health").status_code == 401
        with connect(router.url, token=TOKEN) as sandbox:
            assert outputs(sandbox.run(echoes(1))) == ["0"]
        with connect(router.url, token="another") as sandbox:
            (execution,) = sandbox.run(echoes(1))
    assert b"answered 401: the token is wrong" in execution.stderr and b"another" not in execution.stderr
    assert sandbox.slept == []  # it would be as wrong the next time


class FaultyRouter(http.server.BaseHTTPRequestHandler):
    """Answers with the next of the server's faults, and when there are none left as a router does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        programs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["programs"]
        self.server.requests.append(self.headers)
        fault = self.server.faults.pop(0) if self.server.faults else None
        outputs = [base64.b64decode(program["stdin"]) for program in programs]
        answer = encode_answer([Execution("ok", 0, output, b"", 0.0, 0.0) for output in outputs])
        if isinstance(fault, int):
            return self.answer(fault, b'{"detail": "told to fail with a-token-of-tests"}')
        if fault == "drop":
            self.close_connection = True
        elif fault == "cut":
            self.close_connection = True
            self.answer(200, answer[:-20], len(answer))
        elif fault == "few":
            self.answer(200, b'{"executions": []}')
        elif fault == "status":
            self.answer(200, answer.replace(b'"ok"', b'"fine"'))
        elif fault == "html":
            self.answer(200, b"<html>")
        else:
            self.answer(200, b"\n\n" + answer)

    def answer(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def faulty():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FaultyRouter) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.faults, server.requests = [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


FAULTS = [  # what the router does wrong, what is said of it if it does so for ever
    (429, "answered 429: told to fail"),
    (503, "answered 503: told to fail"),
    (500, "answered 500: told to fail"),
    ("drop", "RemoteProtocolError"),
    ("cut", "RemoteProtocolError"),
    ("few", "0 executions for 1 programs"),
    ("status", "status 'fine'"),
    ("html", "the answer is no JSON"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_faults_that_pass_and_faults_that_stay(connect, faulty, fault, said):
    with connect(faulty.url, token=TOKEN) as sandbox:
        faulty.faults = [fault, fault]
        assert outputs(sandbox.run(echoes(1))) == ["0"]
        assert len(sandbox.slept) == 2 and sandbox.slept[0] <= 1 <= sandbox.slept[1] <= 2
        faulty.faults, faulty.requests, sandbox.slept[:] = [fault] * 100, [], []
        (execution,) = sandbox.run(echoes(1))
    assert execution.status == "infrastructure_error" and said in execution.stderr.decode()
    assert (len(faulty.requests), len(sandbox.slept)) == (client_module.MAX_TRIES, client_module.MAX_TRIES - 1)
    assert TOKEN not in execution.stderr.decode()


def test_a_refusal_is_not_asked_for_twice(connect, faulty):
    faulty.faults = [400]
    with connect(faulty.url) as sandbox:
        assert outputs(sandbox.run(echoes(1))) == [None]
    assert len(faulty.requests) == 1 and sandbox.slept == []


def test_an_outage_is_told_soon(connect, faulty, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_REQUESTS", 1)
    times = iter([0.0, *[client_module.RETRY_SECONDS] * 100])
    faulty.faults = [503] * 100
    with connect(faulty.url, clock=lambda: next(times)) as sandbox:
        assert outputs(sandbox.run(echoes(4 * client_module.MAX_PROGRAMS_PER_REQUEST))) == [None] * 64
    assert len(faulty.requests) == 4 and sandbox.slept == []


def test_requests_are_small(connect, faulty):
    large = Program("echo", b"x" * client_module.MAX_REQUEST_BYTES)
    with connect(faulty.url) as sandbox:
        executions = sandbox.run([*echoes(17), large, *echoes(3)])
    assert outputs(executions) == [*map(str, range(17)), large.stdin.decode(), "0", "1", "2"]
    assert len(faulty.requests) == 4  # 16, 1, the large one alone, 3


def test_requests_go_to_all_routers_and_failures_to_the_next(connect, faulty):
    with serve() as router:
        with connect(faulty.url, router.url) as sandbox:
            assert outputs(sandbox.run(echoes(64))) == [*map(str, range(64))]
            assert (len(faulty.requests), len(FakeSandbox.begun)) == (2, 32)
            faulty.faults = [400, "drop", 503, "few"]
            assert outputs(sandbox.run(echoes(128))) == [*map(str, range(128))]
        assert sandbox.slept == []


def test_a_router_killed_in_the_middle_of_a_batch(connect, tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_REQUESTS", 1)
    programs = echoes(96)
    programs[50] = Program(f"kill once {tmp_path / 'killed'}", "50")
    with router_process() as (address, process), connect(address) as sandbox:
        assert outputs(sandbox.run(programs)) == [*map(str, range(48)), *[None] * 48]
        assert process.wait() == -signal.SIGKILL


def test_another_router_takes_over(connect, tmp_path):
    programs = echoes(96)
    programs[50] = Program(f"kill once {tmp_path / 'killed'}", "50")
    with router_process() as (first, _), router_process() as (second, _), connect(first, second) as sandbox:
        assert outputs(sandbox.run(programs)) == [*map(str, range(96))]


def test_a_router_that_comes_back_elsewhere_is_found_through_its_file(connect, tmp_path):
    file = tmp_path / "address"
    with serve() as router:

        async def sleep(seconds):
            file.write_text(f"{router.url}\n")

        with connect(f"file:{file}", sleep=sleep) as sandbox:  # there is no file yet
            assert outputs(sandbox.run(echoes(40))) == [*map(str, range(40))]
            file.write_text("127.0.0.1:1")
            assert outputs(sandbox.run(echoes(40))) == [*map(str, range(40))]


def test_close_ends_the_wait(connect):
    with serve(max_programs=1) as router:
        sandbox = connect(router.url)
        with in_thread(sandbox.run, [Program("wait", str(number)) for number in range(40)]) as results:
            wait_until(lambda: router.num_waiting == 39)
            sandbox.close()
        assert outputs(results[0]) == [None] * 40
        assert results[0][0].stderr == b"router: the sandbox was closed"
        wait_until(lambda: router.num_waiting == 0)
        sandbox.close()
        assert outputs(sandbox.run(echoes(1))) == [None]


PROBLEMS = [  # addresses, token, the line
    ("", "", "no OPEN_R1_ROUTER_URL in the environment or in .env; start scripts/sandbox_router.py, which prints it"),
    ("ftp://host:1", "", "OPEN_R1_ROUTER_URL: 'ftp://host:1' is no address; give http://host:port"),
    ("host:1,host:port", "", "OPEN_R1_ROUTER_URL: 'host:port' is no address; give http://host:port"),
    (
        "host:1",
        "\N{EURO SIGN}",
        "OPEN_R1_ROUTER_TOKEN has characters that no HTTP header can carry; use letters, digits",
    ),
    ("host:1, https://host:2/path ,file:x", "t", None),
]


@pytest.mark.parametrize(("addresses", "token", "line"), PROBLEMS)
def test_problems_of_the_client_are_one_line(addresses, token, line, tmp_path):
    (tmp_path / ".env").write_text(f"OPEN_R1_ROUTER_URL={addresses}\nOPEN_R1_ROUTER_TOKEN={token}\n")
    assert RouterSandbox.problem() == line
    if line is not None:
        with pytest.raises(SandboxUnavailable):
            build_sandbox("router")


def test_languages():
    assert RouterSandbox.language_problem("cpp") is None
    assert RouterSandbox.language_problem("pyhton") is not None


@pytest.fixture
def never_serve(monkeypatch):
    def run(self, sockets):
        raise AssertionError("the router was started")

    monkeypatch.setattr(uvicorn.Server, "run", run)


REFUSALS = [  # arguments, what the line says
    (["--sandbox", "lokal"], "--sandbox lokal: no such provider"),
    (["--sandbox", "router"], "--sandbox router: no such provider"),
    (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in; set OPEN_R1_ROUTER_TOKEN, or leave --host out"),
    (["--host", "::"], "--host :: lets other machines in"),
    (["--max-programs", "0"], "--max-programs is 0; give 1 or more"),
    (["--max-limit", "processes=many"], "'many' is no number that fits processes"),
    (["--max-limit", "proceses=5"], "unknown limit 'proceses'; did you mean processes?"),
    (["--max-limit", "processes=-5"], "processes is -5; a limit is a number over 0"),
    (["--port", "99999"], "--port 99999: "),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSALS)
def test_the_router_refuses_to_start_in_one_line(arguments, line, capsys, never_serve):
    assert server_module.main(["--sandbox", "fake", "--port", "0", *arguments]) == 2
    printed = capsys.readouterr().err
    assert line in printed and printed.count("\n") == 1


def test_a_provider_with_a_problem_is_refused(capsys, monkeypatch, never_serve):
    monkeypatch.setattr(FakeSandbox, "problem", staticmethod(lambda: "no key"))
    assert server_module.main(["--sandbox", "fake", "--port", "0"]) == 2
    assert capsys.readouterr().err == "sandbox_router: sandbox fake: no key\n"


def test_a_port_in_use_is_told(capsys, never_serve):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert server_module.main(["--sandbox", "fake", "--port", port]) == 2
    assert capsys.readouterr().err == f"sandbox_router: --host 127.0.0.1 --port {port}: Address already in use\n"


def test_the_local_sandbox_through_a_router(connect, tmp_path, monkeypatch):
    if problem := SANDBOXES["local"].problem():
        pytest.skip(problem)
    monkeypatch.setenv(client_module.TOKEN, TOKEN)
    file = tmp_path / "address"
    command = (sys.executable, str(SCRIPT), "--sandbox", "local", "--port", "0")
    arguments = ("--host", "0.0.0.0", "--address-file", str(file))
    with router_process(*arguments, command=command) as (address, process):
        name, _, port = address.removeprefix("http://").partition(":")
        assert (name, file.read_text()) == (socket.gethostname(), f"{name}:{port}\n")
        with connect(f"127.0.0.1:{port}", limits=Limits(cpu_seconds=1)) as sandbox:
            programs = [Program("print(int(input()) + 1)", str(number)) for number in range(40)]
            programs[5] = Program("1/0")
            programs[20] = Program("while True: pass")
            executions = sandbox.run(programs)
        assert [executions[5].status, executions[20].status] == ["runtime_error", "timeout"]
        del executions[20], executions[5]
        assert [int(e.stdout) for e in executions] == [n + 1 for n in range(40) if n not in (5, 20)]
        process.terminate()
        process.wait()
        assert not file.exists()
