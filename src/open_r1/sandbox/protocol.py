"""What every sandbox takes and gives: programs and limits in, executions out. Nothing here knows what a test is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Literal, Protocol, Self

Status = Literal["ok", "runtime_error", "timeout", "memory", "output_limit", "infrastructure_error"]
STATUSES: tuple[Status, ...] = (
    "ok",  # ended by itself with exit code 0
    "runtime_error",  # ended otherwise: an exception, another exit code, a signal, a program that does not compile
    "timeout",  # over wall_seconds or cpu_seconds
    "memory",  # over memory_bytes
    "output_limit",  # wrote more than output_bytes to stdout or to stderr
    "infrastructure_error",  # the sandbox failed, not the program: nothing is known about the program
)
MIB = 1 << 20


class SandboxUnavailable(RuntimeError):
    """A sandbox cannot be had here (not installed, not configured, not safe): one line that says why, and the mend."""


@dataclass(frozen=True)
class Program:
    """A program to run once: its source, what it reads from stdin, and files that lie in its working directory.

    `files` maps relative paths to contents; text is written as UTF-8. In a language that is compiled, those that end as
    its sources do are compiled along. Raises ValueError for a path that leads out of the working directory.
    """

    source: str
    stdin: str | bytes = ""
    language: str = "python"
    files: Mapping[str, str | bytes] = field(default_factory=dict)

    def __post_init__(self):
        for path in self.files:
            if not path or path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"files: {path!r} is no path inside of the working directory")

    @property
    def stdin_bytes(self) -> bytes:
        return as_bytes(self.stdin)


@dataclass(frozen=True)
class Execution:
    """How one run of a program went.

    `exit_code` is None where there is none (an infrastructure error, a program that was killed by the sandbox), and
    minus the signal's number if a signal ended the program. `stdout` and `stderr` are what was written until the end,
    at most `output_bytes` of each. `wall_seconds` and `cpu_seconds` are the program's own, all its processes together.
    With an infrastructure error, `stderr` says what failed.
    """

    status: Status
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    wall_seconds: float
    cpu_seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use. Bytes are bytes, not KiB; the fields are `build_sandbox`'s keywords."""

    wall_seconds: float = 10.0
    cpu_seconds: float = 5.0
    """All threads of a process together; counts the same on a busy machine and on an idle one."""
    memory_bytes: int = 512 * MIB
    processes: int = 32
    """Processes and threads at a time."""
    file_bytes: int = 16 * MIB
    """Of one file."""
    scratch_bytes: int = 64 * MIB
    """Of all files in the working directory together."""
    scratch_inodes: int = 1024
    output_bytes: int = 4 * MIB
    """Of stdout, and of stderr."""

    def __post_init__(self):
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{limit.name} is {value!r}; a limit is a number over 0")
            if limit.type is int and not isinstance(value, int):
                raise ValueError(f"{limit.name} is {value!r}; give a whole number")


class Sandbox(Protocol):
    """Runs programs where they can do no harm. A context manager; the end of it leaves no process and no file.

    A class that is listed in SANDBOXES is made with `Limits` alone, reads keys and addresses from the environment (or
    `.env`).
    """

    limits: Limits

    @staticmethod
    def problem() -> str | None:
        """None if this sandbox can be had here, else one line: what is missing, and the mend. Cheap; no network."""

    @staticmethod
    def language_problem(language: str) -> str | None:
        """None if programs in this language can be run here, else one line. Cheap; no network."""

    def run(self, programs: Sequence[Program]) -> list[Execution]:
        """One execution for each program, in order. Never raises for what a program, or the infrastructure, did.

        Any thread may call it; several may at a time.
        """

    def close(self) -> None:
        """Ends what runs and frees what is held. A second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def infrastructure_error(reason: str, wall_seconds: float = 0.0) -> Execution:
    """The execution of a program about which nothing is known, and why."""
    return Execution("infrastructure_error", None, b"", reason.encode("utf-8", "replace"), wall_seconds, 0.0)


def as_bytes(text: str | bytes) -> bytes:
    """UTF-8; a lone surrogate, which no UTF-8 has, becomes a question mark."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")
