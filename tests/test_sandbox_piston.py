"""The piston provider against a stand-in server: what its answers mean, and what becomes of its faults."""

import asyncio
import shutil
import threading
import time

import pytest
from piston_server import HTTP_FAULTS, PistonServer

from open_r1.sandbox import SANDBOXES, Limits, Program, SandboxUnavailable, build_sandbox
from open_r1.sandbox import piston as piston_module
from open_r1.sandbox.piston import PistonSandbox

MIB = 1 << 20
LIMITS = Limits(wall_seconds=5.0, memory_bytes=512 * MIB, output_bytes=1000)
SECONDS_TO_HAPPEN = 30
ECHO = "print(input())"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no .env of whoever runs the tests
    for name in (piston_module.ENDPOINTS, piston_module.MAX_REQUESTS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with PistonServer() as server:
        yield server


@pytest.fixture
def connect(monkeypatch):
    """Makes a PistonSandbox for these endpoints, which notes how long it would have slept in `sandbox.slept`."""
    made = []

    def connect(*endpoints, max_requests=1, limits=LIMITS):
        monkeypatch.setenv(piston_module.ENDPOINTS, ",".join(endpoints))
        monkeypatch.setenv(piston_module.MAX_REQUESTS, str(max_requests))
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        sandbox = PistonSandbox(limits, sleep=sleep)
        sandbox.slept = slept
        made.append(sandbox)
        return sandbox

    yield connect
    for sandbox in made:
        sandbox.close()


def echoes(count):
    return [Program(ECHO, str(number)) for number in range(count)]


def outputs(executions) -> list[str | None]:
    """What was echoed; None where there was an infrastructure error."""
    return [None if e.status == "infrastructure_error" else e.stdout.decode().strip() for e in executions]


def wait_until(condition):
    deadline = time.monotonic() + SECONDS_TO_HAPPEN
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


PROGRAMS = [  # source, stdin, status, exit code, stdout
    ("print(int(input()) + 1)", "41", "ok", 0, b"42\n"),
    ("print(input()[::-1])", "\N{WINKING FACE}a", "ok", 0, "a\N{WINKING FACE}\n".encode()),
    ("print(repr(input()))", b"\x00a", "ok", 0, b"'\\x00a'\n"),
    ("", "", "ok", 0, b""),
    ("import sys; print('out'); sys.exit(3)", "", "runtime_error", 3, b"out\n"),
    ("1/0", "", "runtime_error", 1, b""),
    ("import os; os.kill(os.getpid(), 11)", "", "runtime_error", -11, b""),
    ("import os; os.kill(os.getpid(), 9)", "", "runtime_error", -9, b""),
    ("x = bytearray(10**10)", "", "memory", 1, b""),
    ("print('x' * 2000)", "", "output_limit", None, b"x" * 1000),
    ("import sys; print('y' * 2000, file=sys.stderr)", "", "output_limit", None, b""),
    ("import sys; sys.stdout.buffer.write(b'\\xff')", "", "ok", 0, "\N{REPLACEMENT CHARACTER}".encode()),
]


@pytest.mark.parametrize(("source", "stdin", "status", "exit_code", "stdout"), PROGRAMS)
def test_executions(connect, server, source, stdin, status, exit_code, stdout):
    (execution,) = connect(server.url).run([Program(source, stdin)])
    assert (execution.status, execution.exit_code, execution.stdout) == (status, exit_code, stdout), execution
    assert execution.cpu_seconds == 0.007 and execution.wall_seconds > 0


def test_a_timeout_is_the_servers(connect, server):
    sandbox = connect(server.url, limits=Limits(wall_seconds=0.3))
    (execution,) = sandbox.run([Program("print('begun', flush=True)\nwhile True: pass")])
    assert (execution.status, execution.exit_code) == ("timeout", None)


def test_stdin_that_is_no_text_is_never_sent(connect, server):
    executions = connect(server.url).run([Program(ECHO, b"\xff"), *echoes(1)])
    assert outputs(executions) == [None, "0"]
    assert executions[0].stderr.startswith(b"piston: stdin is not UTF-8") and len(server.orders) == 1


def test_limits_and_files_as_piston_wants_them(connect, server):
    limits = Limits(wall_seconds=2.5, cpu_seconds=0.0015, memory_bytes=300 * MIB)
    files = {"deep/data.bin": b"\x00\xff", "helper.py": "def f(): return open('deep/data.bin', 'rb').read()"}
    (execution,) = connect(server.url, limits=limits).run(
        [Program("import helper; print(helper.f())", "1", files=files)]
    )
    assert execution.stdout == b"b'\\x00\\xff'\n"
    (order,) = server.orders
    assert {key: value for key, value in order.items() if key != "files"} == {
        "language": "python",
        "version": "*",
        "stdin": "1",
        "args": [],
        "run_timeout": 2500,
        "run_cpu_time": 2,
        "run_memory_limit": 300 * MIB,
    }
    assert [file["encoding"] for file in order["files"]] == ["utf8", "base64", "base64"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_sources_of_a_program_in_cpp_are_compiled_together(connect, server):
    main = '#include <iostream>\n#include "grader.h"\nint main() { int n; std::cin >> n; std::cout << twice(n); }'
    files = {"grader.h": "int twice(int);", "grader.cpp": '#include "grader.h"\nint twice(int n) { return 2 * n; }'}
    good, bad = connect(server.url).run([Program(main, "21", "cpp", files), Program(main, "21", "cpp")])
    assert (good.status, good.stdout) == ("ok", b"42")
    assert (bad.status, bad.stdout, bad.exit_code) == ("runtime_error", b"", 1) and b"grader.h" in bad.stderr


def stage(**changes) -> dict:
    usual = {"stdout": "", "stderr": "", "code": 0, "signal": None, "status": None, "memory": 0}
    return {**usual, "cpu_time": 1000, "wall_time": 2000, **changes}


OLD = {"stdout": "", "stderr": ""}  # servers before the isolation of today tell neither status nor memory
ANSWERS = [  # run, compile, status, exit code, stderr
    (stage(code=None, signal="SIGKILL", status="TO"), None, "timeout", None, b""),
    (stage(code=None, signal="SIGKILL", status="OL"), None, "output_limit", None, b""),
    (stage(code=None, signal="SIGKILL", status="EL"), None, "output_limit", None, b""),
    (stage(code=None, signal="SIGKILL", status="SG", memory=511 * MIB), None, "memory", -9, b""),
    (stage(code=137, status="RE", memory=512 * MIB), None, "memory", 137, b""),
    (stage(code=None, signal="SIGKILL", status="SG", memory=MIB), None, "runtime_error", -9, b""),
    (stage(code=134, status="RE", stderr="terminate\n  what():  std::bad_alloc\n"), None, "memory", 134, None),
    (stage(code=1, status="RE", stderr="MemoryError: no\nValueError\n"), None, "runtime_error", 1, None),
    (stage(), stage(code=1, stderr="main.cpp: no"), "runtime_error", 1, b"main.cpp: no"),
    (stage(), stage(code=1, stdout="said to stdout"), "runtime_error", 1, b"said to stdout"),
    (stage(), stage(code=None, signal="SIGKILL", status="TO"), "runtime_error", None, b"compiling: TO"),
    (stage(stderr="a warning"), stage(stderr="another"), "ok", 0, b"a warning"),
    ({**OLD, "code": 0, "signal": None}, None, "ok", 0, b""),
    ({**OLD, "code": None, "signal": "SIGKILL"}, None, "timeout", None, b""),
    ({**OLD, "code": None, "signal": "SIGSEGV"}, {**OLD, "code": 0}, "runtime_error", -11, b""),
    (stage(stderr="Resource temporarily unavailable"), None, "ok", 0, None),  # it went well all the same
]


@pytest.mark.parametrize(("running", "compiling", "status", "exit_code", "stderr"), ANSWERS)
def test_what_an_answer_means(connect, server, running, compiling, status, exit_code, stderr):
    server.fault = {"language": "c++", "version": "10.2.0", "run": running}
    if compiling is not None:
        server.fault["compile"] = compiling
    (execution,) = connect(server.url).run([Program("", language="cpp")])
    assert (execution.status, execution.exit_code) == (status, exit_code), execution
    assert stderr is None or execution.stderr == stderr


FAULTS = {  # fault: what is said of it if it stays
    400: "answered 400: run_timeout cannot exceed the configured limit of 3000",
    429: "answered 429: too many requests",
    500: "answered 500:",
    "message": "answered 200: python-* runtime is unknown",
    "html": "answered 200: <html>",
    "list": "answered 200: [1]",
    "nothing": "no answer of Piston's",
    "no signal": "no answer of Piston's",
    "internal": "internal error",
    "busy": "bash: fork: Resource temporarily unavailable",
    "drop": "RemoteProtocolError",
}
assert FAULTS.keys() == HTTP_FAULTS.keys() | {"drop"}


@pytest.mark.parametrize(("fault", "said"), FAULTS.items())
def test_faults_that_pass_and_faults_that_stay(connect, server, fault, said):
    sandbox = connect(server.url)
    server.faults = [None, fault, fault, None]
    assert outputs(sandbox.run(echoes(3))) == ["0", "1", "2"]
    assert len(sandbox.slept) == 2 and sandbox.slept[0] <= 1 <= sandbox.slept[1] <= 2
    server.fault, server.orders = fault, []
    (execution,) = sandbox.run(echoes(1))
    assert execution.status == "infrastructure_error" and said in execution.stderr.decode()
    assert len(server.orders) == piston_module.MAX_TRIES


def test_a_program_goes_to_another_endpoint_without_waiting(connect, server):
    with PistonServer() as broken:
        broken.fault = 500
        sandbox = connect(broken.url, server.url)
        assert outputs(sandbox.run(echoes(20))) == [*map(str, range(20))]
        assert sandbox.slept == []
        assert len(broken.orders) == piston_module.MAX_FAILURES  # then it is left alone,
        sandbox.run(echoes(1))
        assert len(broken.orders) == piston_module.MAX_FAILURES + 1  # but not in the next batch


def test_an_endpoint_that_is_not_there(connect, server):
    assert outputs(connect("http://127.0.0.1:1", server.url).run(echoes(12))) == [*map(str, range(12))]


def test_failures_with_successes_between_do_not_end_an_endpoint(connect, server):
    server.faults = [500, 500, None] * 10
    assert outputs(connect(server.url).run(echoes(10))) == [*map(str, range(10))]


def test_a_program_that_looks_like_a_busy_server_does_not_end_an_endpoint(connect, server):
    forks = Program("import sys; sys.exit('Resource temporarily unavailable')")
    executions = connect(server.url).run([forks, forks, forks, *echoes(2)])
    assert outputs(executions) == [None, None, None, "0", "1"]


def test_an_outage_is_told_soon(connect, server):
    server.fault = 500
    executions = connect(server.url).run(echoes(50))
    assert outputs(executions) == [None] * 50
    assert len(server.orders) == piston_module.MAX_FAILURES
    assert b"no endpoint is left; http://127.0.0.1" in executions[49].stderr


def test_each_endpoint_gets_its_share_and_no_more_at_a_time(connect, server):
    with PistonServer() as other:
        servers = (server, other)
        for each in servers:
            each.gate.clear()
        sandbox = connect(*(each.url for each in servers), max_requests=2)
        results = {}

        def run(number):
            results[number] = outputs(sandbox.run(echoes(8)))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: [each.num_running for each in servers] == [2, 2])
        for each in servers:
            each.gate.set()
        for thread in threads:
            thread.join()
        assert [each.max_running for each in servers] == [2, 2]
        assert list(results.values()) == [[*map(str, range(8))]] * 3


def test_in_a_running_event_loop(connect, server):
    sandbox = connect(server.url)

    async def run():
        return sandbox.run(echoes(2))

    assert outputs(asyncio.run(run())) == ["0", "1"]
    assert sandbox.run([]) == []


def test_close_ends_the_wait(connect, server):
    server.gate.clear()
    sandbox = connect(server.url)
    results = []
    thread = threading.Thread(target=lambda: results.append(sandbox.run(echoes(3))))
    thread.start()
    wait_until(lambda: server.num_running == 1)
    sandbox.close()
    thread.join(SECONDS_TO_HAPPEN)
    assert [execution.stderr for execution in results[0]] == [b"piston: the sandbox was closed"] * 3
    sandbox.close()
    assert outputs(sandbox.run(echoes(1))) == [None]


PROBLEMS = [  # endpoints, requests at a time, the line
    ("", "", "no PISTON_ENDPOINTS in the environment or in .env; give your servers' addresses, or use sandbox: local"),
    ("host:2000", "", "PISTON_ENDPOINTS: 'host:2000' is no address; give http://host:port"),
    ("http://host:port", "", "PISTON_ENDPOINTS: 'http://host:port' is no address; give http://host:port"),
    ("http://host", "0", "PISTON_MAX_REQUESTS_PER_ENDPOINT is '0'; give the number of programs at a time, 1 or more"),
    ("http://host:2000/, https://other/api/v2/piston", "3", None),
]


@pytest.mark.parametrize(("endpoints", "number", "line"), PROBLEMS)
def test_problems_are_one_line(endpoints, number, line, tmp_path):
    env = f"PISTON_ENDPOINTS={endpoints}\nPISTON_MAX_REQUESTS_PER_ENDPOINT={number}\n"
    (tmp_path / ".env").write_text(env)
    assert PistonSandbox.problem() == line
    if line is None:
        with build_sandbox("piston") as sandbox:
            assert sandbox.endpoints == ["http://host:2000/api/v2", "https://other/api/v2/piston"]
            assert sandbox.max_requests == 3
    else:
        with pytest.raises(SandboxUnavailable):
            SANDBOXES["piston"](LIMITS)


def test_languages():
    assert PistonSandbox.language_problem("cpp") is None
    assert PistonSandbox.language_problem("pyhton") == "no programs in 'pyhton' in piston (known: python, cpp, c)"
