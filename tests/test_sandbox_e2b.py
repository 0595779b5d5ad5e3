"""The E2B sandbox: the real client against a server of ours that fails on order."""

import asyncio
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from e2b_server import KEY, E2BServer

import open_r1.sandbox.e2b as e2b_module
from open_r1.sandbox import Execution, Limits, Program, SandboxUnavailable, build_sandbox, remote
from open_r1.sandbox.e2b import E2BSandbox

WRONG_KEY = "e2b_key_that_nobody_knows"
LIMITS = Limits(wall_seconds=8, cpu_seconds=4, memory_bytes=256 << 20, output_bytes=100_000, file_bytes=1 << 20)
SHORT = replace(LIMITS, wall_seconds=0.4)
OWNERS = [None, pytest.param(12345, marks=pytest.mark.skipif(os.getuid() != 0, reason="needs root"))]


@pytest.fixture
def server(request, monkeypatch, tmp_path, caplog, capfd):
    """An E2B with the environment that leads there. Afterwards no machine is left and the key is in no output."""
    monkeypatch.chdir(tmp_path)  # no .env
    for name in ("E2B_DOMAIN", "E2B_DEBUG", "OPEN_R1_E2B_SANDBOXES"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)
    with E2BServer(user=getattr(request, "param", None)) as server:
        monkeypatch.setenv("E2B_API_KEY", KEY)
        monkeypatch.setenv("E2B_API_URL", server.url)
        monkeypatch.setenv("E2B_SANDBOX_URL", server.url)
        yield server
        assert not server.machines
        assert sorted(server.kills) == sorted(machine.id for machine in server.created)
    assert not [key for key in (KEY, WRONG_KEY) if key in caplog.text + "".join(capfd.readouterr())]


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.naps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def read(self) -> float:
        return self.now


def new_sandbox(limits=LIMITS, max_sandboxes=4, clock=None) -> E2BSandbox:
    clock = clock or Clock()
    return E2BSandbox(limits, max_sandboxes, sleep=clock.sleep, clock=clock.read)


def run(programs, **options) -> list[Execution]:
    with new_sandbox(**options) as sandbox:
        executions = sandbox.run(programs)
        assert not [key for key in (KEY, WRONG_KEY) if key in repr((executions, sandbox, vars(sandbox)["limits"]))]
        return executions


def statuses(executions) -> list[str]:
    return [execution.status for execution in executions]


ECHO = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
TWICE = "print(2 * int(input()))"
DOUBLE_IN_CPP = '#include "twice.h"\n#include <iostream>\nint main() { int x; std::cin >> x; std::cout << twice(x); }'
FILES = {"a/b.py": b"", "c": "é"}
CPP_FILES = {"twice.h": "int twice(int);", "twice.cpp": "int twice(int x) { return 2 * x; }"}
RANDOM = random.Random(0).randbytes(10_000_000)
needs_gpp = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

PROGRAMS = [  # what is shown, program, status, exit code, stdout, a part of stderr
    ("text on stdin", Program(TWICE, "21\n"), "ok", 0, b"42\n", b""),
    ("bytes on stdin", Program(ECHO, b"\xff\x00\r\n"), "ok", 0, b"\xff\x00\r\n", b""),
    ("no stdin", Program(ECHO), "ok", 0, b"", b""),
    ("emoji", Program("print('🙂', input())", "héé 🙂"), "ok", 0, "🙂 héé 🙂\n".encode(), b""),
    ("lone surrogate", Program("print(len('\ud800'))", "\ud800"), "ok", 0, b"1\n", b""),
    ("long source", Program("x = '" + "y" * 300_000 + "'; print(len(x))"), "ok", 0, b"300000\n", b""),
    ("magics", Program("x = 5\nprint(x\n%2)\n"), "ok", 0, b"1\n", b""),
    ("exit code", Program("import sys; print(1); sys.exit(3)"), "runtime_error", 3, b"1\n", b""),
    ("exception", Program("1 / 0"), "runtime_error", 1, b"", b"ZeroDivisionError"),
    ("syntax error", Program("print("), "runtime_error", 1, b"", b"SyntaxError"),
    ("signal", Program("import os; os.abort()"), "runtime_error", -signal.SIGABRT, b"", b""),
    ("wall time", Program("print(1, flush=True)\nimport time; time.sleep(60)"), "timeout", None, b"1\n", b""),
    ("memory", Program("x = bytearray(1 << 30)"), "memory", 1, b"", b"MemoryError"),
    ("stdout", Program("print('x' * 200_000)"), "output_limit", None, b"x" * 100_000, b""),
    ("stderr", Program("import os\nwhile True: os.write(2, b'x')"), "output_limit", None, b"", b"x" * 100_000),
    ("all of stdout", Program("print('x' * 100_000, end='')"), "ok", 0, b"x" * 100_000, b""),
    ("file", Program("open('f', 'wb').write(bytes(2 << 20))"), "output_limit", 1, b"", b"Errno 27"),
    ("files", Program("import a.b; print(open('c').read(), end='')", files=FILES), "ok", 0, "é".encode(), b""),
    ("threads", Program("import threading as t; x=t.Thread(target=print, args=[1]); x.start()"), "ok", 0, b"1\n", b""),
    ("environment", Program("import os; print([k for k in os.environ if 'E2B' in k])"), "ok", 0, b"[]\n", b""),
    ("stopped", Program("import os; os.kill(os.getpid(), 19)"), "timeout", None, b"", b""),
    pytest.param("C++", Program(DOUBLE_IN_CPP, "21", "cpp", CPP_FILES), "ok", 0, b"42", b"", marks=needs_gpp),
    pytest.param("no C++", Program("int main() {", "", "cpp"), "runtime_error", 1, b"", b"main.cpp:1", marks=needs_gpp),
]  # fmt: skip


@pytest.mark.parametrize("server", OWNERS, indirect=True, ids=["own", "other"])
def test_programs(server):
    cases = [case.values if hasattr(case, "values") else case for case in PROGRAMS]
    if shutil.which("g++") is None:
        cases = [case for case in cases if case[1].language != "cpp"]
    limits = replace(LIMITS, wall_seconds=2)
    wrong = []
    for case, execution in zip(cases, run([case[1] for case in cases], limits=limits), strict=True):
        name, _, status, exit_code, stdout, stderr = case
        got = (execution.status, execution.exit_code, execution.stdout)
        if got != (status, exit_code, stdout) or stderr not in execution.stderr:
            wrong.append((name, execution))
    assert not wrong


def test_ten_megabytes_of_stdin(server):
    source = "import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read()))"
    (execution,) = run([Program(source, RANDOM)])
    assert execution.stdout == b"%d\n" % zlib.crc32(RANDOM), execution
    assert len(server.uploads) == 1 and server.uploads[0] > len(RANDOM)


THREE = [Program(f"print({number})") for number in range(3)]  # three authors
OUTPUTS = [b"0\n", b"1\n", b"2\n"]

CREATION_FAULTS = [  # of the first author: what E2B does, in order; how the program fares; machines asked for
    (["429"], "ok", 3),
    (["429"] * 7, "ok", 9),
    (["429"] * 8, "no sandbox after 8 tries: RateLimitException", 9),
    (["500"], "ok", 3),
    (["500"] * 8, "SandboxException: 500: on order", 9),
    (["503", "502"], "ok", 4),
    (["drop"], "ok", 3),
    (["drop"] * 8, "no sandbox after 8 tries", 9),
    (["lose"], "ok", 3),
    (["lose", "500"], "ok", 4),
    (["garbage"], "ok", 3),
    (["401"], "no sandbox after 1 tries: AuthenticationException", 2),
    (["403"], "SandboxException: 403: on order", 2),
    (["echo"] * 8, "SandboxException: 500: <key> made me stumble", 9),
]


@pytest.mark.parametrize(("faults", "fate", "num_asked"), CREATION_FAULTS)
def test_machines_that_do_not_come(server, faults, fate, num_asked):
    clock = Clock()
    server.creation_faults.extend(faults)
    first, second = run(THREE[:2], max_sandboxes=1, clock=clock)
    assert second.stdout == OUTPUTS[1]
    if fate == "ok":
        assert (first.status, first.stdout) == ("ok", OUTPUTS[0])
    else:
        assert (first.status, first.exit_code, first.stdout) == ("infrastructure_error", None, b"")
        assert fate in first.stderr.decode()
    assert (len(server.creations), server.max_alive) == (num_asked, 1)
    assert len(server.created) == (2 if fate == "ok" else 1)
    assert len(clock.naps) == num_asked - 2 and all(nap <= remote.MAX_BACKOFF_SECONDS for nap in clock.naps)


EXECUTION_FAULTS = [  # what is said of the program
    ("502", "TimeoutException"),
    ("500", "SandboxException: 500"),
    ("429", "SandboxException: 429"),
    ("401", "SandboxException: 401"),
    ("drop", "E2B: no result: "),
    ("break", "E2B: no result: "),
    ("garbage", "JSONDecodeError"),
    ("silent", "nothing was printed"),
    ("flood", "too much output"),
    ("die", "KernelDied: exit code -9"),
    ("echo", "<key> made me stumble"),
]


@pytest.mark.parametrize(("fault", "reason"), EXECUTION_FAULTS)
def test_machines_that_are_lost(server, fault, reason):
    """Once is an accident; twice is an infrastructure error of that program."""
    server.execution_faults.extend([fault, fault, fault])  # twice for the first program, once for the second
    first, second, third = run(THREE, max_sandboxes=1)
    assert (first.status, first.exit_code, first.stdout) == ("infrastructure_error", None, b"")
    assert reason in first.stderr.decode()
    assert [second.stdout, third.stdout] == OUTPUTS[1:]
    assert (len(server.created), server.max_alive) == (5, 1)  # 2, 2 and 1


def test_no_answer_in_time(server, monkeypatch):
    monkeypatch.setattr(e2b_module, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(e2b_module, "GRACE_SECONDS", 1.5)
    monkeypatch.setattr(e2b_module, "MAX_RUNS", 1)
    server.creation_faults.extend([None, "hang"])
    server.execution_faults.extend([None, "hang"])
    programs = [THREE[0], Program(TWICE, "1"), Program(TWICE, "2"), THREE[2]]
    executions = run(programs, max_sandboxes=1, limits=SHORT)
    assert statuses(executions) == ["ok", "infrastructure_error", "ok", "ok"]
    assert "TimeoutE" in executions[1].stderr.decode()
    assert executions[2].stdout == b"4\n"
    assert [len(machine.cells) for machine in server.created] == [1, 0, 1, 1]
    assert (len(server.creations), server.max_alive) == (5, 1)


def test_an_outage_is_told_soon(server, monkeypatch):
    """All who wait share the time without a machine, so ten waits of a tenth of it are all that 40 programs get."""
    monkeypatch.setattr(e2b_module, "backoff_seconds", lambda num_tries: e2b_module.RETRY_SECONDS / 10)
    clock = Clock()  # the sleepers' times add up on it
    server.creation_faults.extend(["500"] * 1000)
    executions = run([Program(f"print({number})") for number in range(40)], clock=clock)
    assert set(statuses(executions)) == {"infrastructure_error"}
    assert (clock.now, len(server.creations)) == (e2b_module.RETRY_SECONDS, 40 + 10)


def test_waits_double_and_differ(server):
    waits = []
    for _ in range(2):
        clock = Clock()
        server.creation_faults.extend(["429"] * 7)
        run(THREE[:1], clock=clock)
        waits.append(clock.naps)
    assert waits[0] != waits[1]
    assert all(top / 2 <= nap <= top for nap, top in zip(waits[0], [1, 2, 4, 8, 16, 30, 30], strict=True))


def test_a_refused_key_is_told_and_not_tried_again(server, monkeypatch):
    monkeypatch.setenv("E2B_API_KEY", WRONG_KEY)
    executions = run(THREE)
    assert [b"no such key: <key>" in execution.stderr for execution in executions] == [True] * 3
    assert len(server.creations) == 3


@pytest.mark.parametrize(("faults", "is_ended"), [(["500", "429"], True), (["500"] * 3, False)])
def test_a_machine_that_does_not_end(server, caplog, faults, is_ended):
    server.kill_faults.extend(faults)
    assert run(THREE[:1])[0].stdout == OUTPUTS[0]
    assert ("machine0 was not ended" in caplog.text) is not is_ended
    if not is_ended:
        server.kills.append("machine0")
        server.end("machine0")


def test_programs_with_one_source_share_a_machine_and_no_others_do(server):
    reads = Program("import os; print(input(), os.path.exists('f'))", "1")
    programs = [
        reads,
        Program("print(1)"),
        replace(reads, stdin="2"),
        replace(reads, files={"f": "x"}),
        replace(reads, stdin="3"),
        replace(reads, stdin="4", files={"f": b"x"}),
        replace(reads, files={"f": "y"}),
        replace(reads, language="cpp"),
    ]
    executions = run(programs, max_sandboxes=1)
    assert [execution.stdout for execution in executions[:-1]] == [
        *(b"1 False\n", b"1\n", b"2 False\n", b"1 True\n", b"3 False\n", b"4 True\n", b"1 True\n")
    ]
    assert [len(machine.cells) for machine in server.created] == [3, 1, 2, 1, 1]


def test_a_new_machine_after_a_timeout(server):
    source = "import time\nif input() == 'x': time.sleep(60)\nprint('ok')"
    executions = run([Program(source, stdin) for stdin in "1x23"], limits=replace(LIMITS, wall_seconds=1.5))
    assert statuses(executions) == ["ok", "timeout", "ok", "ok"]
    assert [len(machine.cells) for machine in server.created] == [2, 2]


def test_a_machine_outlives_its_programs(server, monkeypatch):
    monkeypatch.setattr(e2b_module, "MAX_LIFETIME_SECONDS", 120)  # 60, and 2 programs of 28 s
    executions = run([Program(TWICE, str(number)) for number in range(5)])
    assert [execution.stdout for execution in executions] == [b"%d\n" % (2 * number) for number in range(5)]
    assert sorted(len(machine.cells) for machine in server.created) == [1, 2, 2]
    assert sorted(machine.lifetime_seconds for machine in server.created) == [60 + 28, 60 + 56, 60 + 56]


def test_machines_have_no_internet(server):
    run(THREE[:1])
    assert server.creations[0]["allow_internet_access"] is False


def test_many_authors_in_many_threads_share_the_slots(server):
    outputs = {}

    def run_some(sandbox, thread):
        programs = [Program(f"print({thread}, {number})") for number in range(3)]
        outputs[thread] = [execution.stdout for execution in sandbox.run(programs)]

    with new_sandbox(max_sandboxes=3) as sandbox:
        threads = [threading.Thread(target=run_some, args=(sandbox, thread)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outputs == {thread: [b"%d %d\n" % (thread, number) for number in range(3)] for thread in range(4)}
    assert server.max_alive <= 3


def test_in_a_thread_with_a_running_loop(server):
    async def main():
        with new_sandbox() as sandbox:
            return [sandbox.run(THREE[:1])[0].stdout for _ in range(2)]

    assert asyncio.run(main()) == OUTPUTS[:1] * 2


def test_an_empty_batch(server):
    assert run([]) == []
    assert not server.creations


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (Program("1", language="cobol"), "no programs in 'cobol' in e2b (known: python, cpp, c)"),
        (Program("1", files={"a": "", "a/b": ""}), "no report: "),
    ],
)
def test_programs_that_cannot_be_run(server, program, reason):
    executions = run([THREE[0], program, THREE[2]])
    assert statuses(executions) == ["ok", "infrastructure_error", "ok"]
    assert reason in executions[1].stderr.decode()


KILL_PARENT = """
import os
for signal in (19, 9):
    try: os.kill(os.getppid(), signal)
    except PermissionError: print("not allowed")
"""
FORGE = """
import os, sys
for pid in (os.getppid(), os.getpid()):
    for fd in (1, 2):
        try: os.write(os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY), b'\\n{"status": "ok", "exit_code": 0}\\n')
        except OSError: pass
sys.exit(5)
"""
DAEMON = """
import os, sys
ours, theirs = os.pipe()  # closed by exec
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", "daemon_of_these_tests"])
    os._exit(0)
os.close(theirs)
os.read(ours, 1)
"""


@pytest.mark.parametrize("server", OWNERS, indirect=True, ids=["own", "other"])
def test_hostile_programs_hurt_themselves_only(server):
    limits = replace(LIMITS, wall_seconds=2)
    killer, forger, daemon, honest = run(
        [Program(source) for source in (KILL_PARENT, FORGE, DAEMON, "print(1)")], limits=limits
    )
    if os.getuid() == 0 and server.user is None:
        assert (killer.status, killer.stdout) == ("ok", b"not allowed\n" * 2)
    else:
        assert killer.status == "infrastructure_error"
    assert (forger.status, forger.exit_code) == ("runtime_error", 5)
    assert daemon.status == "ok"
    assert (honest.status, honest.stdout) == ("ok", b"1\n")


@pytest.mark.parametrize("server", OWNERS, indirect=True, ids=["own", "other"])
def test_no_process_outlives_its_program(server):
    with new_sandbox() as sandbox:
        name = f"daemon_of_{os.getpid()}"
        daemon, bomb = sandbox.run(
            [
                Program(DAEMON.replace("daemon_of_these_tests", name)),
                Program("import os\nfor _ in range(9): os.fork()\nos.abort()"),
            ]
        )
        assert (daemon.status, bomb.status) == ("ok", "runtime_error")
        command_lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert not [line for line in command_lines if name in line]


REPORT = {"status": "ok", "exit_code": 0, "wall_seconds": 1, "cpu_seconds": 0.5}
EMPTY = {"stdout": e2b_module._base64(zlib.compress(b"out")), "stderr": e2b_module._base64(zlib.compress(b""))}
BOMB = e2b_module._base64(zlib.compress(bytes(50_000_000)))


def parse(text: str) -> Execution:
    logs = SimpleNamespace(stdout=[text[:5], text[5:]])
    return e2b_module._parse_report(SimpleNamespace(logs=logs, error=None), "mark", 1000)


def report(**changes) -> str:
    return json.dumps(REPORT | EMPTY | changes)


def test_reports():
    expected = Execution("ok", 0, b"out", b"", 1.0, 0.5)
    assert parse(f"noise\nmark {report()}\nnoise\n") == expected
    assert parse(f"mark {report(exit_code=1)}\nmark {report()}\n") == expected  # ours comes last
    assert parse(f"mark {report(stdout=BOMB)}\n").stdout == bytes(1000)


@pytest.mark.parametrize(
    "text",
    [
        *("", "nothing", "mark", "mark {", "mark []", "mark 5", "mark " + "[" * 100_000, "mark " + "9" * 10_000),
        *(f"mark {report(status=status)}" for status in ("infrastructure_error", "fine", None, ["ok"])),
        *(f"mark {report(exit_code=code)}" for code in ("0", 0.0, True, [])),
        *(f"mark {report(wall_seconds=seconds)}" for seconds in ("x", -1, math.nan, math.inf, None, 10**400)),
        *(f"mark {report(stdout=text)}" for text in ("x", "AAAA", "é", 5, None)),
    ],
    ids=lambda text: text[:80],
)
def test_reports_that_are_none(text):
    with pytest.raises(e2b_module._NoReport):
        parse(text)


def in_thread(sandbox, programs) -> tuple[threading.Thread, list[Execution]]:
    executions: list[Execution] = []
    thread = threading.Thread(target=lambda: executions.extend(sandbox.run(programs)))
    thread.start()
    return thread, executions


CLOSED = Execution("infrastructure_error", None, b"", b"E2B: the sandbox was closed", 0.0, 0.0)


@pytest.mark.parametrize("faults", ["creation_faults", "execution_faults"])
def test_close_ends_what_runs(server, monkeypatch, faults):
    hangs = threading.Event()
    server.on_hang = hangs.set
    getattr(server, faults).extend([None, "hang"])
    monkeypatch.setattr(e2b_module, "REQUEST_SECONDS", 0.5)  # a machine that may still come is waited for
    sandbox = new_sandbox(max_sandboxes=1)
    thread, executions = in_thread(sandbox, THREE)
    hangs.wait()
    sandbox.close()
    thread.join()
    assert executions[0].stdout == OUTPUTS[0]
    assert executions[1:] == [CLOSED] * 2
    assert not server.machines
    sandbox.close()
    assert sandbox.run(THREE) == [CLOSED] * 3


def test_a_machine_that_comes_after_close_is_ended(server):
    asked = threading.Event()
    server.on_hang = asked.set
    server.creation_faults.append("late")
    sandbox = new_sandbox()
    thread, executions = in_thread(sandbox, THREE[:1])
    asked.wait()
    closer = threading.Thread(target=sandbox.close)
    closer.start()
    thread.join()
    server.is_late_enough.set()
    closer.join()
    assert executions == [CLOSED]
    assert server.kills == ["machine0"]


def test_an_interrupted_batch_leaves_no_machine(server):
    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        server.on_hang = lambda: os.kill(os.getpid(), signal.SIGALRM)
        server.execution_faults.append("hang")
        with new_sandbox(max_sandboxes=1) as sandbox:
            with pytest.raises(KeyboardInterrupt):
                sandbox.run(THREE[:1])
            assert sandbox.run(THREE[1:2])[0].stdout == OUTPUTS[1]
        assert server.kills == ["machine0", "machine1"]  # and not that the first one ran on in yet another
    finally:
        signal.signal(signal.SIGALRM, old)


def test_threads_end_with_close(server):
    before = set(threading.enumerate())
    with new_sandbox() as sandbox:
        sandbox.run(THREE[:1])
        during = our_threads(before)
    assert len(during) == 2 and not our_threads(before)


def our_threads(before: set[threading.Thread]) -> list[str]:
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    return [name for name in names if name.startswith(("e2b", "asyncio"))]


PROBLEMS = [  # environment, .env, what is said
    ({}, None, "no E2B_API_KEY in the environment or in .env"),
    ({"E2B_API_KEY": " "}, "E2B_API_KEY=", "no E2B_API_KEY in the environment or in .env"),
    ({"E2B_API_KEY": KEY, "OPEN_R1_E2B_SANDBOXES": "many"}, None, "OPEN_R1_E2B_SANDBOXES is 'many'"),
    ({"E2B_API_KEY": KEY, "OPEN_R1_E2B_SANDBOXES": "0"}, None, "OPEN_R1_E2B_SANDBOXES is '0'"),
]


@pytest.mark.parametrize(("environment", "dotenv", "said"), PROBLEMS)
def test_problems(monkeypatch, tmp_path, environment, dotenv, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if dotenv is not None:
        (tmp_path / ".env").write_text(dotenv)
    assert said in E2BSandbox.problem()
    with pytest.raises(SandboxUnavailable, match=said) as caught:
        build_sandbox("e2b")
    assert KEY not in str(caught.value)


def test_without_the_package(server, monkeypatch):
    monkeypatch.setattr(e2b_module.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'open-r1[code]'" in E2BSandbox.problem()


def test_the_key_may_be_in_a_file(server, monkeypatch, tmp_path):
    names = ("E2B_API_KEY", "E2B_API_URL", "E2B_SANDBOX_URL")
    (tmp_path / ".env").write_text(
        "OPEN_R1_E2B_SANDBOXES=3\n" + "".join(f"{name}={os.environ[name]}\n" for name in names)
    )
    for name in names:
        monkeypatch.delenv(name)
    with build_sandbox("e2b", wall_seconds=5) as sandbox:
        assert sandbox.max_sandboxes == 3
        assert sandbox.run(THREE[:1])[0].stdout == OUTPUTS[0]
    assert not [name for name in names if name in os.environ]


def test_the_environment_goes_before_the_file(server, tmp_path):
    (tmp_path / ".env").write_text(f"E2B_API_KEY={WRONG_KEY}\n")
    assert run(THREE[:1])[0].stdout == OUTPUTS[0]


def test_importing_the_room_loads_no_client():
    code = "import sys, open_r1.sandbox; print(*{'e2b', 'e2b_code_interpreter', 'httpx', 'dotenv'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment).stdout == b"\n"
