"""The local sandbox: which tier this machine allows, programs to jobs, outcomes to executions."""

import functools
import hashlib
import json
import logging
import os
import platform
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Self

from open_r1.sandbox.local import languages
from open_r1.sandbox.local.servers import Job, Outcome, ServerPool, Tier
from open_r1.sandbox.protocol import Execution, Limits, Program, SandboxUnavailable, as_bytes, infrastructure_error

logger = logging.getLogger(__name__)
MACHINES = ("x86_64", "aarch64")
MAX_CACHED_BINARIES = 512  # of some ten to a hundred kilobytes; more than the programs of a batch
OUT_OF_MEMORY = (b"MemoryError", b"  what():  std::bad_alloc")  # what Python and C++ say last
UNSAFE = "set allow_unsafe_local: true to run programs without protection"


class LocalSandbox:
    """Runs Python, C++ and C on this machine, in the best tier of isolation that it allows; see `inside/isolation.py`.

    `concurrency` programs at a time, each with a fork server of its own; default: one for each CPU that this process
    may use, shared with the other training processes of this node. `tier` asks for one; tier C, which protects from
    nothing but accidents, is never taken unasked. Raises SandboxUnavailable if the machine does not allow the tier,
    or neither A nor B.
    """

    def __init__(self, limits: Limits = Limits(), concurrency: int | None = None, tier: Tier | None = None):
        self.limits = limits
        if sys.platform != "linux":
            raise SandboxUnavailable(f"sandbox local: {sys.platform} is not Linux; use another sandbox (e2b, router)")
        self.tier = tier or _best_tier()
        if tier in ("A", "B") and (reason := refusal(tier)):
            raise SandboxUnavailable(f"sandbox local: tier {tier} is not to be had here ({reason})")
        if tier == "C":
            logger.warning("programs of the model run WITHOUT PROTECTION on this machine (allow_unsafe_local)")
        num_trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        concurrency = concurrency or max(1, len(os.sched_getaffinity(0)) // num_trainers)
        self._programs = ServerPool(self.tier, limits, languages.readable_by_programs(), concurrency)
        compiler_limits = languages.COMPILER_LIMITS
        self._compilers = ServerPool(self.tier, compiler_limits, languages.readable_by_compilers(), concurrency)
        self._binaries: OrderedDict[bytes, bytes] = OrderedDict()

    @staticmethod
    def problem() -> str | None:
        """None if programs can be run in isolation here, else one line. The first call tries it, in 0.2 s."""
        try:
            _best_tier()
        except SandboxUnavailable as error:
            return str(error).removeprefix("sandbox local: ")
        return None

    @staticmethod
    def language_problem(language: str) -> str | None:
        """None if programs in this language can be run here, else one line."""
        return languages.language_problem(language)

    def run(self, programs: Sequence[Program]) -> list[Execution]:
        """One execution for each program, in order.

        Programs that are compiled are compiled first, each distinct source once: for longer and with more memory than
        `limits` allow a run (languages.COMPILER_LIMITS), since what takes long there is the compiler. What does not
        compile is a runtime_error with the compiler's words as stderr.
        """
        unusable = {program.language: languages.language_problem(program.language) for program in programs}
        executions = [
            infrastructure_error(problem) if (problem := unusable[program.language]) else None for program in programs
        ]
        binaries = self._compile(programs, executions)
        left = [index for index, execution in enumerate(executions) if execution is None]
        outcomes = self._programs.run([_job(programs[index], binaries) for index in left])
        for index, outcome in zip(left, outcomes, strict=True):
            executions[index] = _execution(outcome, self.limits, self.tier)
        return executions

    def close(self) -> None:
        """Ends the fork servers. A later `run` starts new ones."""
        self._programs.close()
        self._compilers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _compile(self, programs: Sequence[Program], executions: list[Execution | None]) -> dict[bytes, bytes]:
        """Key of each source that compiles -> its binary; fills in the executions of those that do not."""
        wanted: dict[bytes, list[int]] = {}
        for index, program in enumerate(programs):
            if program.language in languages.COMPILED and executions[index] is None:
                wanted.setdefault(_key(program), []).append(index)
        known = {key: self._binaries[key] for key in wanted if key in self._binaries}
        new = [key for key in wanted if key not in known]
        outcomes = self._compilers.run([_compiler_job(programs[wanted[key][0]]) for key in new]) if new else []
        for key, outcome in zip(new, outcomes, strict=True):
            execution = _execution(outcome, languages.COMPILER_LIMITS, self.tier)
            if execution.ok:
                known[key] = self._binaries[key] = outcome.made
                continue
            if execution.status != "infrastructure_error":
                words = execution.stderr[: self.limits.output_bytes] or f"compiling: {execution.status}".encode()
                seconds = (execution.wall_seconds, execution.cpu_seconds)
                execution = Execution("runtime_error", execution.exit_code, b"", words, *seconds)
            for index in wanted[key]:
                executions[index] = execution
        while len(self._binaries) > MAX_CACHED_BINARIES:
            self._binaries.popitem(last=False)
        return known


def available_tier() -> Tier | None:
    """The best tier of isolation that this machine allows; None if there is none that protects."""
    try:
        return _best_tier()
    except SandboxUnavailable:
        return None


def _best_tier() -> Tier:
    reasons = {}
    for tier in ("A", "B"):
        reason = refusal(tier)
        if reason is None:
            if reasons:
                logger.warning("sandbox local: tier B (landlock), since namespaces are refused: %s", reasons["A"])
            return tier
        reasons[tier] = reason
    raise SandboxUnavailable(
        f"sandbox local: this machine allows neither namespaces ({reasons['A']}) nor landlock ({reasons['B']}); use "
        f"another sandbox (e2b, router), or {UNSAFE}"
    )


@functools.cache
def refusal(tier: Tier) -> str | None:
    """None if a program runs in this tier here, else why not. Tried once in a process."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return f"{sys.platform} on {platform.machine()} is not Linux on {' or '.join(MACHINES)}"
    pool = ServerPool(tier, Limits(), languages.readable_by_programs(), concurrency=1)
    try:
        (outcome,) = pool.run([_job(Program("print(input())", stdin="here"), {})])
    finally:
        pool.close()
    if outcome.failure is not None:
        return outcome.failure
    execution = _execution(outcome, Limits(), tier)
    return (
        None
        if execution.stdout == b"here\n"
        else f"a first program failed: {execution.stderr.decode(errors='replace')}"
    )


def _job(program: Program, binaries: dict[bytes, bytes]) -> Job:
    if program.language in languages.COMPILED:
        data = {path: content for path, content in program.files.items() if not languages.is_code(path)}
        return Job({"kind": "binary"}, _payload(None, data), program.stdin_bytes, binaries[_key(program)])
    return Job({"kind": "python"}, _payload(program.source, program.files), program.stdin_bytes)


def _compiler_job(program: Program) -> Job:
    language = languages.COMPILED[program.language]
    command = language.command(program.files)
    files = {language.source_name: program.source} | _code_files(program)
    return Job({"kind": "compile", "command": command, "makes": languages.BINARY}, _payload(None, files))


def _code_files(program: Program) -> dict[str, str | bytes]:
    return {path: content for path, content in program.files.items() if languages.is_code(path)}


def _key(program: Program) -> bytes:
    """Digest of all that the compiler sees."""
    parts = [
        program.language,
        program.source,
        *(part for item in sorted(_code_files(program).items()) for part in item),
    ]
    digest = hashlib.sha256()
    for part in map(as_bytes, parts):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _payload(source: str | None, files: Mapping[str, str | bytes]) -> bytes:
    """A line of JSON, [[path, bytes], …] with no path for the source, and then the contents."""
    contents = [(path, as_bytes(content)) for path, content in files.items()]
    if source is not None:
        contents.append((None, as_bytes(source)))
    header = json.dumps([[path, len(content)] for path, content in contents])
    return b"".join([header.encode(), b"\n", *(content for _, content in contents)])


def _execution(outcome: Outcome, limits: Limits, tier: Tier) -> Execution:
    if outcome.failure is not None:
        return infrastructure_error(outcome.failure)
    seconds = (outcome.wall_seconds, outcome.cpu_seconds)
    output = (outcome.stdout[: limits.output_bytes], outcome.stderr[: limits.output_bytes])
    if outcome.killed_for is not None:
        return Execution(outcome.killed_for, None, *output, *seconds)
    exit_code = os.waitstatus_to_exitcode(outcome.wait_status)
    if tier == "A" and exit_code == -signal.SIGKILL:  # the first process of a namespace cannot do that to itself
        return infrastructure_error("the program was killed from outside", outcome.wall_seconds)
    if len(outcome.stdout) > limits.output_bytes or len(outcome.stderr) > limits.output_bytes:
        status = "output_limit"
    elif exit_code == 0:
        status = "ok"
    elif exit_code == -signal.SIGXCPU:
        status = "timeout"
    else:
        last_line = outcome.stderr.rstrip().rpartition(b"\n")[2]
        status = "memory" if last_line.startswith(OUT_OF_MEMORY) else "runtime_error"
    return Execution(status, exit_code, *output, *seconds)
