"""The local sandbox against programs that attack it: each holds, does no damage, and leaves a clean sandbox behind.

The attacks are rows of `hostile_programs.py`. What they could harm or steal is planted here: files, listeners, memory,
descriptors, queues, a neighbouring process. Some attacks are also run without a sandbox, where they have to succeed.
"""

import ctypes
import fcntl
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from hostile_programs import HOSTILE, SECRET_FORMAT, TRIED, Hostile, source_of

from open_r1.sandbox import Execution, Limits, Program, SandboxUnavailable
from open_r1.sandbox.local import LocalSandbox

REPOSITORY = Path(__file__).parents[1]
OTHER_UID = 12345
TIERS = "R1_HOSTILE_TIERS"  # which tiers to test; set in the run of this file by another user
SMALL = {
    "memory_bytes": 256 << 20,
    "processes": 16,
    "file_bytes": 4 << 20,
    "scratch_bytes": 8 << 20,
    "scratch_inodes": 128,
    "output_bytes": 256 << 10,
}
LIMITS = Limits(wall_seconds=3, cpu_seconds=2, **SMALL)
SHORT_LIMITS = Limits(wall_seconds=1.5, cpu_seconds=1, **SMALL)
COMPILER_LIMITS = Limits(wall_seconds=5, cpu_seconds=4, **(SMALL | {"memory_bytes": 1 << 30, "file_bytes": 16 << 20}))
NUM_AT_ONCE = 14
ADDRESS_SLACK_BYTES = 1 << 20
SECRET_VARIABLE = "R1_HOSTILE_SECRET"

# What a program finds. Two programs in one sandbox find the same, whatever ran between them.
FINGERPRINT = """
import builtins, gc, json, math, os, random, resource, signal, sys, threading, time
number = int(input())
descriptors = []
for fd in range(256):
    try:
        descriptors.append((fd, oct(os.fstat(fd).st_mode)))
    except OSError:
        pass
with open("own file", "w") as file:
    file.write("x" * 100_000)
mode = oct(os.stat("own file").st_mode)
os.unlink("own file")
print(json.dumps({
    "answer": [2 * number, 256 - 1, 3 + 4, len("abc"), sorted([2, 1]), math.pi, json.loads("[1]")],
    "files": os.listdir("."),
    "mode": [mode, oct(os.stat(".").st_mode)],
    "descriptors": descriptors,
    "environment": sorted((name, value.replace(os.getcwd(), "here")) for name, value in os.environ.items()),
    "mask": os.umask(0o22),
    "limits": [resource.getrlimit(number) for number in range(16) if number != resource.RLIMIT_AS],
    "address space": resource.getrlimit(resource.RLIMIT_AS),
    "signals": [sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), signal.getsignal(signal.SIGCHLD) is None,
                signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getitimer(signal.ITIMER_PROF)],
    "priority": os.getpriority(os.PRIO_PROCESS, 0),
    "cores": len(os.sched_getaffinity(0)),
    "modules": sorted(sys.modules),
    "path": [entry for entry in sys.path if "poison" in entry],
    "meta_path": len(sys.meta_path),
    "recursion": sys.getrecursionlimit(),
    "switch": sys.getswitchinterval(),
    "builtins": sorted(name for name in dir(builtins) if callable(getattr(builtins, name))),
    "threads": threading.active_count(),
}))
"""


class World:
    """What stands around the sandbox: things to steal, things to damage, and the means to see that it happened."""

    def __init__(self):
        self.token = secrets.token_hex(4)
        self.marker = f"r1h{self.token}"
        self.secret = SECRET_FORMAT.format(secrets.token_hex(16))
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.home = Path.home()
        self.directory = Path(tempfile.mkdtemp(prefix="open-r1-world-"))
        self.temporary = self.directory / "temporary"
        self.temporary.mkdir()
        self.directory.chmod(0o777)  # the modes of what lies here allow everything: only the sandbox is in the way
        self.canary_file = self.directory / "canary"
        self.canary_directory = self.directory / "canary directory"
        self.secret_files = [
            self.directory / "secret",
            self.home / f".{self.token}-secret",
            Path(f"/dev/shm/s{self.token}"),
        ]
        self.sysv_key = 0x52310000 + int(self.token[:4], 16) % 0xFFF0
        self.canary = None
        self._plant_files()
        self._plant_listeners()
        self._plant_memory()
        self._plant_descriptors()
        self._plant_canary()

    def _plant_files(self) -> None:
        for file in list(self.secret_files):
            try:
                file.write_text(self.secret)
                file.chmod(0o644)
            except OSError:  # a home that is read-only, a machine without /dev/shm
                self.secret_files.remove(file)
        self.canary_directory.mkdir(exist_ok=True)
        self.canary_directory.chmod(0o777)
        self.canary_file.write_text("untouched")
        self.canary_file.chmod(0o666)
        self.canary_state = self._state_of_canary_file()

    def _plant_listeners(self) -> None:
        def listener(family, kind, address):
            one = socket.socket(family, kind)
            one.bind(address)
            if isinstance(address, str) and address.startswith("/"):
                os.chmod(address, 0o777)
            one.setblocking(False)
            if kind == socket.SOCK_STREAM:
                one.listen(128)
            return one

        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        self.listeners = {
            "tcp": listener(socket.AF_INET, stream, ("127.0.0.1", 0)),
            "udp": listener(socket.AF_INET, datagram, ("0.0.0.0", 0)),
            "abstract": listener(socket.AF_UNIX, stream, f"\0{self.marker}"),
            "abstract datagram": listener(socket.AF_UNIX, datagram, f"\0{self.marker}d"),
            "unix": listener(socket.AF_UNIX, stream, str(self.directory / "stream")),
            "unix datagram": listener(socket.AF_UNIX, datagram, str(self.directory / "datagram")),
        }

    def _plant_memory(self) -> None:
        self.buffer = ctypes.create_string_buffer(self.secret.encode(), 64)
        os.environ[SECRET_VARIABLE] = self.secret
        libc = self.libc
        libc.shmat.restype = ctypes.c_void_p
        self.segment = libc.shmget(self.sysv_key + 1, 4096, 0o1600)
        address = libc.shmat(self.segment, None, 0)
        ctypes.memmove(address, self.secret.encode(), len(self.secret))
        self.queue = ctypes.CDLL("librt.so.1").mq_open(f"/{self.marker}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)

    def _plant_descriptors(self) -> None:
        """Left open over exec, as a careless trainer does."""
        pair = socket.socketpair()
        files = [os.open(self.secret_files[0], os.O_RDONLY), pair[0].fileno(), self.listeners["tcp"].fileno()]
        self.descriptors = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in files]  # free ones, which exec leaves open
        os.close(files[0])
        pair[0].close()
        self.other_end = pair[1]
        self.other_end.setblocking(False)

    def _plant_canary(self) -> None:
        self.canary = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self.canary_process = psutil.Process(self.canary.pid)
        self.canary_process_state = self._state_of_canary()

    def facts(self, limits: Limits, extra_pids=()) -> dict:
        """What a program is told. Not the secret, nor any copy of it."""
        return SMALL | {
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
            "marker": self.marker,
            "uid": os.getuid(),
            "home": str(self.home),
            "repository": str(REPOSITORY),
            "repository_files": [
                str(REPOSITORY / name) for name in ("pyproject.toml", "tests/conftest.py", "README.md")
            ],
            "secret_file": str(self.secret_files[0]),
            "secret_files": [str(file) for file in self.secret_files],
            "secret_variable": SECRET_VARIABLE,
            "secret_address": ctypes.addressof(self.buffer),
            "tcp_port": self.listeners["tcp"].getsockname()[1],
            "udp_port": self.listeners["udp"].getsockname()[1],
            "abstract_name": self.marker,
            "abstract_datagram_name": f"{self.marker}d",
            "unix_path": str(self.directory / "stream"),
            "unix_datagram_path": str(self.directory / "datagram"),
            "pids": [os.getpid(), *extra_pids],
            "canary_pid": self.canary.pid,
            "canary_group": self.canary.pid,
            "canary_file": str(self.canary_file),
            "canary_directory": str(self.canary_directory),
            "sysv_key": self.sysv_key,
            "sysv_secret_key": self.sysv_key + 1,
            "sysv_secret_number": self.segment,
            "queue_name": self.marker,
            "daemon_seconds": 600,
        }

    def damage(self) -> list[str]:
        """What an attack has done to the world, and mends it, so that the next one is judged for itself."""
        found = [f"{name} was reached" for name, listener in self.listeners.items() if self._was_reached(listener)]
        if self._was_reached(self.other_end):
            found.append("an inherited socket was written to")
        if self._state_of_canary_file() != self.canary_state or not self.canary_directory.is_dir():
            found.append("the canary file was changed")
            self._plant_files()
        if self._state_of_canary() != self.canary_process_state:
            found.append(f"the canary process is {self._state_of_canary()}")
            self._end_canary()
            self._plant_canary()
        for process in self._marked_processes():
            found.append(f"process {process.pid} lives")
            process.kill()
        for file in self._marked_files():
            found.append(f"{file} was left")
            file.unlink() if not file.is_dir() else file.rmdir()
        found += self._left_ipc()
        if self.buffer.value != self.secret.encode():
            found.append("memory was written")
            self.buffer.value = self.secret.encode()
        return found

    def close(self) -> None:
        self._end_canary()
        os.environ.pop(SECRET_VARIABLE, None)
        self.libc.shmctl(self.segment, 0, None)
        librt = ctypes.CDLL("librt.so.1")
        librt.mq_close(self.queue)
        librt.mq_unlink(f"/{self.marker}".encode())
        for listener in (*self.listeners.values(), self.other_end):
            listener.close()
        for fd in self.descriptors:
            os.close(fd)
        for file in self.secret_files:
            file.unlink(missing_ok=True)
        shutil.rmtree(self.directory)

    def _was_reached(self, listener: socket.socket) -> bool:
        reached = False
        while True:
            try:
                accepts = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                listener.accept()[0].close() if accepts else listener.recv(65536)
                reached = True
            except BlockingIOError:
                return reached

    def _state_of_canary_file(self) -> tuple:
        try:
            stat = self.canary_file.stat()
            return (
                self.canary_file.read_text(),
                stat.st_mode,
                stat.st_uid,
                stat.st_nlink,
                stat.st_mtime_ns,
                tuple(os.listxattr(self.canary_file)),
            )
        except OSError as error:
            return (str(error),)

    def _state_of_canary(self) -> tuple | str:
        try:
            state = "stopped" if self.canary_process.status() in ("stopped", "tracing-stop", "zombie") else "well"
            pid = self.canary.pid
            return (
                state,
                os.getpriority(os.PRIO_PROCESS, pid),
                sorted(os.sched_getaffinity(pid)),
                os.sched_getscheduler(pid),
                resource.prlimit(pid, resource.RLIMIT_NOFILE),
                self.canary_process.ionice().ioclass,
            )
        except (psutil.NoSuchProcess, ProcessLookupError):
            return "dead"

    def _end_canary(self) -> None:
        self.canary.kill()
        self.canary.stdin.close()
        self.canary.wait()

    def _marked_processes(self) -> list[psutil.Process]:
        marked = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    comm = Path(f"/proc/{name}/comm").read_text()
                    state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if self.marker in comm and state not in "ZX":
                    marked.append(psutil.Process(int(name)))
        return marked

    def _marked_files(self) -> list[Path]:
        directories = ["/tmp", "/var/tmp", "/dev/shm", "/", "/dev", "/run", "/dev/mqueue", self.home, REPOSITORY]
        directories += [self.directory, sys.prefix, os.path.dirname(os.__file__)]
        found = []
        for directory in map(Path, directories):
            if os.access(directory, os.R_OK):
                found += [
                    entry for entry in directory.iterdir() if self.marker in entry.name and entry.name != self.marker
                ]
        for folder, _, files in os.walk(self.temporary):
            found += [Path(folder, name) for name in files if self.marker in name]
        return found

    def _left_ipc(self) -> list[str]:
        found = []
        for kind, remove in (("shm", self.libc.shmctl), ("sem", self.libc.semctl), ("msg", self.libc.msgctl)):
            for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
                key, number = map(int, line.split()[:2])
                if key == self.sysv_key:
                    found.append(f"System V {kind} was left")
                    remove(number, 0, None) if kind != "sem" else remove(number, 0, 0)
        librt = ctypes.CDLL("librt.so.1", use_errno=True)
        if librt.mq_unlink(f"/{self.marker}-left".encode()) == 0:
            found.append("a message queue was left")
        for line in Path("/proc/keys").read_text().splitlines() if Path("/proc/keys").exists() else []:
            if self.marker in line:
                found.append("a key was left")
                keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
                self.libc.syscall(keyctl, 21, int(line.split()[0], 16))  # KEYCTL_INVALIDATE
        return found


class Arena:
    """One sandbox in the world, and what a program finds in it when nothing has happened yet."""

    def __init__(self, world: World, sandbox: LocalSandbox):
        self.world, self.sandbox = world, sandbox
        self.number = 1000
        first, self.untouched = self._fingerprint(sandbox.run([self.next_program()])[0]), None
        assert "answer" in first, first
        self.untouched = first
        self.pids = [child.pid for child in psutil.Process().children(recursive=True) if child.pid != world.canary.pid]

    def next_program(self) -> Program:
        self.number += 1
        return Program(FINGERPRINT, stdin=f"{self.number}\n")

    def program(self, row: Hostile) -> Program:
        facts = self.world.facts(self.sandbox.limits, self.pids)
        return Program(source_of(row, facts), stdin=row.stdin, language=row.language)

    def differences(self, executions: list[Execution]) -> list[str]:
        """What programs found that was not so in an untouched sandbox."""
        found = []
        for execution in executions:
            seen = self._fingerprint(execution)
            found += [
                f"the next program finds {name} {value!r}, not {self.untouched.get(name)!r}"
                for name, value in seen.items()
                if not _alike(name, value, self.untouched.get(name))
            ]
        return found

    def _fingerprint(self, execution: Execution) -> dict:
        if not execution.ok:
            return {"no answer": f"{execution.status} {execution.exit_code} {execution.stderr[-500:]!r}"}
        seen = json.loads(execution.stdout)
        seen["answer"][0] -= 2 * self.number
        return seen


def _alike(name: str, value, untouched) -> bool:
    """Equal; but what a server's own address space adds to that limit differs by some pages from another server's."""
    if name != "address space":
        return value == untouched
    return all(abs(bound - before) < ADDRESS_SLACK_BYTES for bound, before in zip(value, untouched, strict=True))


def open_arena(world: World, tier: str, limits: Limits, concurrency: int) -> LocalSandbox:
    try:
        return LocalSandbox(limits, concurrency=concurrency, tier=tier)
    except SandboxUnavailable as error:
        pytest.skip(f"tier {tier}: {error}")


def faults(row: Hostile, execution: Execution, world: World, limits: Limits) -> list[str]:
    """What an execution shows that must not be. A program killed for a forbidden system call has held."""
    output = execution.stdout + execution.stderr
    found = [line.decode("utf-8", "replace")[:300] for line in output.splitlines() if b"ESCAPED" in line]
    if world.secret.encode() in output:
        found.append("the secret was printed")
    if max(len(execution.stdout), len(execution.stderr)) > limits.output_bytes:
        found.append(f"{len(execution.stdout)} and {len(execution.stderr)} bytes of output")
    by_filter = execution.status == "runtime_error" and execution.exit_code == -signal.SIGSYS
    if execution.status not in row.statuses and not (by_filter and "ok" in row.statuses):
        found.append(f"{execution.status} {execution.exit_code}: {execution.stderr[-500:].decode('utf-8', 'replace')}")
    leaves_by_itself = row.source.rstrip().endswith("os._exit(0)")
    if execution.ok and not leaves_by_itself and TRIED.encode() not in execution.stdout:
        found.append("it never came to its last line")
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    tmp_path_factory.getbasetemp()  # pytest's own files go where they always go
    patch = pytest.MonkeyPatch()
    world = World()
    patch.setenv("TMPDIR", str(world.temporary))
    patch.setattr(tempfile, "tempdir", None)
    yield world
    patch.undo()
    left = list(world.temporary.iterdir())
    world.close()
    assert left == []


@pytest.fixture(scope="module", params=list(os.environ.get(TIERS, "AB")))
def tier(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def arena(world, tier):
    with open_arena(world, tier, LIMITS, concurrency=1) as sandbox:
        yield Arena(world, sandbox)


def rows(*, slow: bool, cpp: bool = False) -> list[Hostile]:
    return [row for row in HOSTILE if row.slow == slow and (row.language == "cpp") == cpp]


@pytest.mark.parametrize("row", rows(slow=False), ids=lambda row: row.name)
def test_an_attack_is_held(arena, world, tier, row):
    if tier not in row.tiers:
        pytest.skip(row.not_in_a if tier == "A" else row.not_in_b)
    before = Program(f"kept = [{world.secret!r}] * 3; print(input()[:8])", stdin=world.secret)
    _, execution, after = arena.sandbox.run([before, arena.program(row), arena.next_program()])
    found = faults(row, execution, world, LIMITS) + world.damage() + arena.differences([after])
    assert found == [], f"{row.must_hold}\n{execution.stdout[-3000:].decode('utf-8', 'replace')}"


def test_attacks_that_take_their_time_are_held(world, tier):
    with open_arena(world, tier, SHORT_LIMITS, concurrency=NUM_AT_ONCE) as sandbox:
        arena = Arena(world, sandbox)
        slow = [row for row in rows(slow=True) if tier in row.tiers]
        executions = sandbox.run([arena.program(row) for row in slow])
        found = [(row.name, faults(row, one, world, SHORT_LIMITS)) for row, one in zip(slow, executions, strict=True)]
        damage = world.damage()
        follower = arena.next_program()
        after = arena.differences(sandbox.run([follower] * NUM_AT_ONCE))
    assert ([pair for pair in found if pair[1]], damage, after) == ([], [], [])


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_attacks_of_machine_code_and_on_the_compiler_are_held(world, tier, slow):
    if problem := LocalSandbox.language_problem("cpp"):
        pytest.skip(problem)
    with open_arena(world, tier, COMPILER_LIMITS, concurrency=4) as sandbox:
        arena = Arena(world, sandbox)
        table = rows(slow=slow, cpp=True)
        executions = sandbox.run([arena.program(row) for row in table])
        limits = COMPILER_LIMITS
        found = [(row.name, faults(row, one, world, limits)) for row, one in zip(table, executions, strict=True)]
        damage = world.damage()
        after = arena.differences(sandbox.run([arena.next_program()]))
    assert ([pair for pair in found if pair[1]], damage, after) == ([], [], [])


def run_unsandboxed(row: Hostile, world: World, directory: Path) -> str:
    """What the program says with nothing to hold it."""
    facts = world.facts(LIMITS, [os.getppid()])
    environment = os.environ | {"LC_ALL": "C"}
    if row.language == "cpp":
        (directory / "program.cpp").write_text(source_of(row, facts))
        command = ["g++", "program.cpp", "-o", "program"]
        built = subprocess.run(command, cwd=directory, env=environment, capture_output=True)
        if built.returncode:
            return built.stderr.decode("utf-8", "replace")
        command = ["./program"]
    else:
        (directory / "program.py").write_text(source_of(row, facts))
        command = [sys.executable, "-I", "program.py"]
    # Not through a pipe: a daemon would hold it open.
    with open(directory / "output", "w+b") as output:
        subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=world.descriptors,
            timeout=20,
        )
    return (directory / "output").read_bytes().decode("utf-8", "replace")


@pytest.mark.parametrize("row", [row for row in HOSTILE if row.works_unsandboxed != "no"], ids=lambda row: row.name)
def test_an_attack_succeeds_without_a_sandbox(world, row, tmp_path):
    """So that a row that holds says something about the sandbox."""
    if row.language == "cpp" and not shutil.which("g++"):
        pytest.skip("no g++")
    world.damage()
    output = run_unsandboxed(row, world, tmp_path)
    succeeded = "ESCAPED" in output or world.secret in output or world.damage()
    if not succeeded and row.works_unsandboxed == "perhaps":
        pytest.skip("this machine, or this user's lack of privilege, refuses it without a sandbox too")
    assert succeeded, output


AS_ANOTHER_USER = """
import ctypes, os, sys
uid, prefix, closed, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result != 0:
        sys.exit(f"cannot become another user: {os.strerror(ctypes.get_errno())}")
if closed:
    # The interpreter lies in a directory that is root's alone: in a mount namespace of our own it lies in an open one.
    checked(libc.unshare(0x20000))
    checked(libc.mount(b"none", b"/", None, 0x44000, None))  # MS_REC | MS_PRIVATE
    held = os.open(prefix, os.O_PATH)
    checked(libc.mount(b"tmpfs", closed.encode(), b"tmpfs", 0, b"mode=755"))
    os.umask(0o22)
    os.makedirs(prefix)
    checked(libc.mount(f"/proc/self/fd/{held}".encode(), prefix.encode(), None, 0x1000, None))  # MS_BIND
    os.close(held)
os.umask(0o22)
os.setgroups([])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))
libc.prctl(4, 1, 0, 0, 0)  # dumpable again
os.execv(command[0], command)
"""


def closed_directory(path: Path) -> Path | None:
    """The outermost directory above `path` through which others may not go."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)


@pytest.mark.parametrize("tested_tier", ["A", "B"])
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_all_of_it_holds_for_another_user(tested_tier):
    if closed := closed_directory(Path(sys.executable)) or closed_directory(REPOSITORY / "tests" / "x"):
        pytest.skip(f"user {OTHER_UID} cannot read the virtual environment and the tests: {closed} is closed")
    prefix = Path(sys.base_prefix)
    closed = closed_directory(prefix / "bin" / "x")
    home = Path(tempfile.mkdtemp(prefix="open-r1-home-"))
    (home / "tmp").mkdir()
    for directory in (home, home / "tmp"):
        os.chown(directory, OTHER_UID, OTHER_UID)
    become = [sys.executable, "-c", AS_ANOTHER_USER, str(OTHER_UID), str(prefix), str(closed or "")]
    tests = [sys.executable, "-m", "pytest", __file__, "-q", "-rs", "-p", "no:cacheprovider", "-k", "held"]
    tests.append(f"--basetemp={home}/pytest")
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(home / "tmp"), TIERS: tested_tier}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}

    def as_the_other(command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(
            become + command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    try:
        allowed = as_the_other([shutil.which("unshare") or "unshare", "--map-root-user", "--mount", "/bin/true"])
        if allowed.stderr.startswith("cannot become another user"):
            pytest.skip(allowed.stderr.strip())
        ended = as_the_other(tests)
    finally:
        shutil.rmtree(home)
    lines = ended.stdout.splitlines()
    unavailable = [line for line in lines if line.startswith("SKIPPED") and "not to be had here" in line]
    if unavailable and (tested_tier == "B" or allowed.returncode != 0):
        pytest.skip(unavailable[0])
    assert ended.returncode == 0 and not unavailable, ended.stdout[-20_000:] + ended.stderr[-5000:]
