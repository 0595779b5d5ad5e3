"""The local sandbox as its callers see it: executions, limits, order, and what is left when parts of it are killed.

What hostile programs try, and what honest ones may expect: test_sandbox_hostile.py and test_sandbox_honest.py.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from open_r1.sandbox import (
    MAX_SHARED_LOCAL,
    SANDBOXES,
    Limits,
    Program,
    SandboxUnavailable,
    build_sandbox,
    shared_sandbox,
)
from open_r1.sandbox.local import LocalSandbox, languages, sandbox

TIERS = [tier for tier in ("A", "B") if sandbox.refusal(tier) is None]
MIB = 1 << 20
QUICK = Limits(wall_seconds=5.0, cpu_seconds=1.0, memory_bytes=256 * MIB)


@pytest.fixture(scope="module", params=TIERS)
def local(request):
    with LocalSandbox(QUICK, concurrency=2, tier=request.param) as made:
        yield made


def test_this_machine_has_a_tier():
    assert TIERS, "neither namespaces nor landlock: the tests of the sandbox would test nothing"


CASES = [
    # source, stdin, status, exit code, stdout
    ("print(int(input()) + 1)", "41", "ok", 0, b"42\n"),
    ("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", b"\xff\x00\r\n", "ok", 0, b"\xff\x00\r\n"),
    ("print(repr(input()))", "\U0001f600", "ok", 0, "'\U0001f600'\n".encode()),
    ("pass", "never read", "ok", 0, b""),
    ("import sys; print('out'); sys.exit(3)", "", "runtime_error", 3, b"out\n"),
    ("import sys; sys.exit('words')", "", "runtime_error", 1, b""),
    ("import sys; sys.exit()", "", "ok", 0, b""),
    ("import os; print('lost'); os._exit(0)", "", "ok", 0, b""),
    ("1/0", "", "runtime_error", 1, b""),
    ("def (", "", "runtime_error", 1, b""),
    ("input()", "", "runtime_error", 1, b""),
    ("import ctypes; ctypes.string_at(0)", "", "runtime_error", -signal.SIGSEGV, b""),
    ("while True: pass", "", "timeout", None, b""),
    ("import time; time.sleep(99)", "", "timeout", None, b""),
    ("x = bytearray(10**9)", "", "memory", 1, b""),
    ("print('x' * 10**7)", "", "output_limit", None, None),
    ("import sys\nwhile True: sys.stderr.write('x' * 10**5)", "", "output_limit", None, b""),
    ("open('a', 'wb').write(bytes(17 << 20))", "", "runtime_error", 1, b""),
    ("for n in range(2000): open(str(n), 'w').close()", "", "runtime_error", None, b""),
]


def test_executions(local):
    executions = local.run([Program(source, stdin) for source, stdin, *_ in CASES])
    for case, execution in zip(CASES, executions, strict=True):
        source, _, status, exit_code, stdout = case
        assert execution.status == status, (source, execution)
        assert exit_code is None or execution.exit_code in (exit_code, None), (source, execution)
        assert stdout is None or execution.stdout == stdout, (source, execution)


def test_order_is_kept_and_outputs_are_apart(local):
    programs = [Program(f"import sys; print({n}); print({n}, file=sys.stderr)") for n in range(40)]
    executions = local.run(programs)
    assert [(int(e.stdout), int(e.stderr)) for e in executions] == [(n, n) for n in range(40)]


def test_files_lie_in_the_working_directory(local):
    files = {"helper.py": "def f(): return open('deep/er/data.bin', 'rb').read()", "deep/er/data.bin": b"\x00\xff"}
    (execution,) = local.run([Program("import helper; print(helper.f())", files=files)])
    assert execution.stdout == b"b'\\x00\\xff'\n", execution


def test_packages_beneath_tmp_are_found(tmp_path, monkeypatch):
    package = tmp_path / "deep" / "of_tests.py"
    package.parent.mkdir()
    package.write_text("where = 'beneath /tmp'")
    readable = (*languages.readable_by_programs(), str(package))
    monkeypatch.setattr(languages, "readable_by_programs", lambda: readable)
    monkeypatch.setattr("open_r1.sandbox.local.servers.module_paths", lambda: (str(package.parent),))
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("pytest keeps its files elsewhere, so that this would show nothing")
    with LocalSandbox(QUICK, concurrency=1) as made:
        programs = [Program("import of_tests; print(of_tests.where)"), Program("open('x', 'w').write('1')")]
        executions = made.run(programs)
    assert executions[0].stdout == b"beneath /tmp\n", executions[0]
    assert executions[1].ok


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ""])
def test_a_file_outside_of_the_working_directory_is_refused(path):
    with pytest.raises(ValueError, match="working directory"):
        Program("", files={path: ""})


def test_a_traceback_shows_the_programs_own_lines_alone(local):
    (execution,) = local.run([Program("def f():\n    return 1 / 0  # here\nf()\n")])
    words = execution.stderr.decode()
    assert "return 1 / 0  # here" in words
    assert words.count("File ") == 2


def test_seconds_are_the_programs_own(local):
    (execution,) = local.run(
        [Program("import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass")]
    )
    assert execution.cpu_seconds >= 0.3
    assert execution.wall_seconds >= 0.3


def test_threads_of_the_caller_share_a_sandbox(local):
    outputs = {}

    def work(name):
        outputs[name] = [int(e.stdout) for e in local.run([Program(f"print({name * 100 + n})") for n in range(8)])]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {name: [name * 100 + n for n in range(8)] for name in range(4)}


# --- what is killed from outside -----------------------------------------------------------------------------------


def descendants(pid=None):
    """(pid, command line) of every process below this one."""
    found, waiting = [], [pid or os.getpid()]
    while waiting:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{waiting.pop()}/task").iterdir():
                for child in map(int, (thread / "children").read_text().split()):
                    found.append((child, Path(f"/proc/{child}/cmdline").read_bytes()))
                    waiting.append(child)
    return found


def servers(besides=()):
    """The processes of fork servers below this one, their programs included, each after the one that started it."""
    return [pid for pid, command in descendants() if b"fork_server.py" in command and pid not in besides]


def kill_when(num_processes, which, besides):
    """Waits until there are so many, and kills one."""
    deadline = time.monotonic() + 30
    while len(found := servers(besides)) < num_processes and time.monotonic() < deadline:
        pass
    os.kill(found[which], signal.SIGKILL)


# A tier A server is two processes, and its program the third; a tier B server is one.
@pytest.mark.parametrize(
    ("tier", "num_processes", "which", "statuses"),
    [
        pytest.param("A", 3, 0, {"timeout"}, id="A-outer"),
        pytest.param("A", 3, 1, {"timeout"}, id="A-server"),
        pytest.param("A", 3, 2, {"infrastructure_error"}, id="A-program"),
        pytest.param("B", 2, 0, {"timeout"}, id="B-server"),
    ],
)
def test_a_kill_in_the_middle_of_a_batch(tier, num_processes, which, statuses):
    if tier not in TIERS:
        pytest.skip(f"no tier {tier} here")
    others = servers()
    with LocalSandbox(QUICK, concurrency=1, tier=tier) as made:
        killer = threading.Thread(target=kill_when, args=(num_processes, which, others))
        killer.start()
        executions = made.run([Program("while True: pass"), *(Program(f"print({n})") for n in range(5))])
        killer.join()
    assert executions[0].status in statuses, executions[0]
    assert [execution.stdout for execution in executions[1:]] == [b"%d\n" % n for n in range(5)]


def test_a_server_that_dies_again_and_again_is_no_wrong_answer(monkeypatch):
    others = servers()
    with LocalSandbox(QUICK, concurrency=1) as made:
        stop = threading.Event()

        def kill_all():
            while not stop.is_set():
                for pid in servers(others):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_all)
        killer.start()
        (execution,) = made.run([Program("while True: pass")])
        stop.set()
        killer.join()
        assert execution.status == "infrastructure_error"
        assert b"fork server" in execution.stderr
        assert made.run([Program("print(1)")])[0].stdout == b"1\n"


def test_a_server_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(languages, "interpreter", lambda: "/bin/false")
    monkeypatch.setattr("open_r1.sandbox.local.servers.interpreter", lambda: "/bin/false")
    with LocalSandbox(QUICK, concurrency=1) as made:
        (execution,) = made.run([Program("print(1)")])
    assert execution.status == "infrastructure_error"
    assert b"did not start" in execution.stderr


@pytest.mark.parametrize("tier", TIERS)
def test_close_leaves_no_process_and_no_file(tier, monkeypatch, request):
    folder = Path(tempfile.mkdtemp())  # not pytest's, which is closed to the user that a sandbox of root's becomes
    folder.chmod(0o755)
    request.addfinalizer(folder.rmdir)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before, num_fds = servers(), len(os.listdir("/proc/self/fd"))
    with LocalSandbox(QUICK, concurrency=2, tier=tier) as made:
        assert all(execution.ok for execution in made.run([Program("open('left behind', 'w').write('x')")] * 4))
    assert servers() == before
    assert list(folder.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == num_fds


@pytest.mark.skipif(os.geteuid() != 0 or "B" not in TIERS, reason="of root alone, in tier B")
def test_a_scratch_directory_that_only_root_can_reach_is_told(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LocalSandbox(QUICK, concurrency=1, tier="B") as made:
        (execution,) = made.run([Program("print(1)")])
    assert execution.status == "infrastructure_error"
    assert b"set TMPDIR to a directory for everybody" in execution.stderr


@pytest.mark.parametrize("tier", TIERS)
def test_servers_die_with_the_process_that_started_them(tier):
    code = (
        "import os, signal\n"
        "from open_r1.sandbox import Program\n"
        "from open_r1.sandbox.local import LocalSandbox\n"
        f"sandbox = LocalSandbox(concurrency=2, tier={tier!r})\n"
        "sandbox.run([Program('print(1)')] * 4)\n"
        "print('up', flush=True)\n"
        "sandbox.run([Program('while True: pass')] * 2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    below = [os.pidfd_open(pid) for pid, _ in descendants(process.pid)]
    assert below
    process.kill()
    process.wait()
    for pidfd in below:
        assert select.select([pidfd], [], [], 20)[0], "a process outlived its owner"
        os.close(pidfd)


def test_after_a_fork_the_child_has_servers_of_its_own(local):
    local.run([Program("print(1)")])
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            status = int([e.stdout for e in local.run([Program("print(2)")] * 3)] != [b"2\n"] * 3)
            local.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert local.run([Program("print(3)")])[0].stdout == b"3\n"


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_ten_thousand_programs_leave_no_trace(tier):
    others = servers()

    def state():
        pids = servers(others)
        sizes = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
        fds = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
        return len(pids), fds, len(os.listdir("/proc/self/fd")), sizes, len(Path("/proc/mounts").read_text())

    with LocalSandbox(QUICK, concurrency=2, tier=tier) as made:
        made.run([Program(f"print({n})") for n in range(100)])
        *before, sizes_before, mounts = state()
        for batch in range(10):
            executions = made.run([Program(f"open('f', 'w'); print({n})") for n in range(990)] + [Program("1/0")] * 10)
            assert sum(execution.ok for execution in executions) == 990, batch
        *after, sizes_after, mounts_after = state()
    assert after == before
    assert mounts_after == mounts
    assert max(now - then for now, then in zip(sizes_after, sizes_before, strict=True)) < 256  # pages: 1 MiB


def test_shared_sandboxes_are_the_same_for_the_same_limits_and_do_not_pile_up():
    others = servers()
    first = shared_sandbox("local", wall_seconds=4.0)
    assert shared_sandbox("local", wall_seconds=4.0) is first
    for seconds in range(2 * MAX_SHARED_LOCAL):
        made = shared_sandbox("local", wall_seconds=100.0 + seconds)
        assert made.run([Program("print(1)")])[0].stdout == b"1\n"
    processes_of_one = 2 if made.tier == "A" else 1
    assert len(servers(others)) <= MAX_SHARED_LOCAL * processes_of_one
    assert first.run([Program("print(2)")])[0].stdout == b"2\n"
    first.close()


# --- building ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("locol", {}, "unknown sandbox 'locol'.*did you mean local"),
        ("local", {"wall_second": 1}, "unknown limit 'wall_second'.*did you mean wall_seconds"),
        ("local", {"wall_seconds": 0}, "wall_seconds is 0; a limit is a number over 0"),
        ("local", {"memory_bytes": "1G"}, "memory_bytes is '1G'; a limit is a number over 0"),
        ("local", {"processes": 1.5}, "processes is 1.5; give a whole number"),
    ],
)
def test_what_cannot_be_built_is_told_in_a_line(name, limits, words):
    with pytest.raises(ValueError, match=words) as error:
        build_sandbox(name, **limits)
    assert "\n" not in str(error.value)


def test_without_a_tier_the_sandbox_refuses_and_says_the_mend(monkeypatch, caplog):
    monkeypatch.setattr(sandbox, "refusal", lambda tier: f"no {tier} here")
    assert "\n" not in SANDBOXES["local"].problem()
    with pytest.raises(SandboxUnavailable, match=r"no A here.*no B here.*allow_unsafe_local: true"):
        build_sandbox("local")
    with build_sandbox("local", allow_unsafe_local=True) as unsafe:
        assert unsafe.tier == "C"
        assert "WITHOUT PROTECTION" in caplog.text
        assert unsafe.run([Program("print(1)")])[0].stdout == b"1\n"


def test_tier_b_in_place_of_a_is_told(monkeypatch, caplog):
    monkeypatch.setattr(sandbox, "refusal", lambda tier: {"A": "unshare: not permitted"}.get(tier))
    with build_sandbox("local") as made:
        assert made.tier == "B"
    assert "unshare: not permitted" in caplog.text


def test_a_language_that_is_not_there_is_told_before_and_is_no_wrong_answer(local, monkeypatch):
    monkeypatch.setattr(languages.shutil, "which", lambda name: None)
    assert "g++ is not installed" in local.language_problem("cpp")
    assert "no programs in 'cobol' here" in local.language_problem("cobol")
    executions = local.run([Program("int main(){}", language="cpp"), Program("print(1)")])
    assert [execution.status for execution in executions] == ["infrastructure_error", "ok"]
