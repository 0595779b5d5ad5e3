"""Programs against the tests of their rows: what is run where, and what becomes of each way of ending.

A test passes if its run ended by itself with exit code 0 and left what the test expects, which is compared here. The
runs of a whole batch go to the sandbox in one call, each (program, input) once. Every test has a run of its own: a
program that hangs, crashes or spoils its interpreter loses that test and no other, and no state is left for the next.

Where a row brings a program that judges outputs, that is run afterwards, when all of the policy's programs are gone,
and reads their output from a file. What it says counts if it says exactly 1 or 0. If it ends in another way, it is
tried on the correct output: a checker that is fine there cannot read this output, which is then wrong; one that fails
there as well is broken, and there is no verdict.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from open_r1.judging.programs.output import same_lines
from open_r1.judging.programs.rows import Row, StdinTest
from open_r1.sandbox import Execution, Program, Sandbox

KILLS = ("timeout", "memory", "output_limit", "runtime_error")
MAX_REASON_CHARACTERS = 160
CHECKER_FILES = ("input.txt", "correct_output.txt", "solution_output.txt")
CHECKER = """import sys
sys.argv = {argv}
exec(compile({code}, "checker.py", "exec", dont_inherit=True))
"""
VERDICTS = {b"1": True, b"0": False}


@dataclass(frozen=True)
class Outcome:
    """One test of one program: passed or not, or None if nobody can say; and why, unless it passed."""

    passed: bool | None
    reason: str = ""


@dataclass
class RunCounts:
    """What a batch cost, and how its runs ended."""

    runs: int = 0
    """Different programs that were run, those of checkers included."""
    seconds: float = 0.0
    """Waited for the sandbox."""
    tests: int = 0
    """Tests of all completions that had a program."""
    endings: Counter[str] = field(default_factory=Counter)
    """Status -> how many of these tests' runs ended so."""


@dataclass(frozen=True)
class _CheckerRun:
    """A checker's run on the output of one test, or (`is_control`) on the correct output itself."""

    code: str
    test: StdinTest
    output: bytes

    @property
    def program(self) -> Program:
        contents = (self.test.stdin, self.test.expected, self.output)
        source = CHECKER.format(argv=["checker.py", *CHECKER_FILES], code=ascii(self.code))
        return Program(source, files=dict(zip(CHECKER_FILES, contents, strict=True)))

    @property
    def control(self) -> "_CheckerRun":
        return _CheckerRun(self.code, self.test, self.test.expected)


def judge_programs(
    sources: Sequence[str], rows: Sequence[Row], sandbox: Sandbox
) -> tuple[list[list[Outcome]], RunCounts]:
    """For each program an outcome for each test of its row, in order; and what the batch cost."""
    counts = RunCounts()
    tests = [(index, test) for index, row in enumerate(rows) for test in row.tests]
    executions = run_programs(
        [test.program(sources[index], rows[index].language) for index, test in tests], sandbox, counts
    )
    counts.tests = len(tests)
    counts.endings = Counter(execution.status for execution in executions)
    outcomes: list[Outcome | _CheckerRun] = []
    for (index, test), execution in zip(tests, executions, strict=True):
        if execution.ok and rows[index].checker_code is not None and not same_lines(execution.stdout, test.expected):
            outcomes.append(_CheckerRun(rows[index].checker_code, test, execution.stdout))
        else:
            outcomes.append(_outcome(test, execution))
    settled = iter(_with_checkers(outcomes, sandbox, counts))
    return [[next(settled) for _ in row.tests] for row in rows], counts


def _outcome(test, execution: Execution) -> Outcome:
    if execution.status == "infrastructure_error":
        return Outcome(None, f"infrastructure_error: {last_line(execution.stderr)}")
    if not execution.ok:
        return Outcome(False, ": ".join(filter(None, (execution.status, last_line(execution.stderr)))))
    failure = test.failure(execution)
    return Outcome(True) if failure is None else Outcome(False, failure)


def _with_checkers(outcomes: Sequence[Outcome | _CheckerRun], sandbox: Sandbox, counts: RunCounts) -> list[Outcome]:
    """The outcomes with the verdicts of checkers in their places."""
    pending = [one for one in outcomes if isinstance(one, _CheckerRun)]
    executions = run_programs([one.program for one in pending], sandbox, counts)
    verdicts = [_verdict(execution) for execution in executions]
    unsaid = [
        one
        for one, verdict, execution in zip(pending, verdicts, executions, strict=True)
        if verdict is None and execution.status != "infrastructure_error"
    ]
    controls = iter(run_programs([one.control.program for one in unsaid], sandbox, counts))
    settled = []
    for verdict, execution in zip(verdicts, executions, strict=True):
        if verdict is not None:
            settled.append(Outcome(True) if verdict else Outcome(False, "wrong output, says the checker"))
        elif execution.status != "infrastructure_error" and _verdict(next(controls)):
            settled.append(Outcome(False, "an output that the checker cannot read"))
        else:
            settled.append(Outcome(None, f"the checker failed: {execution.status} {last_line(execution.stderr)}"))
    verdict_of = iter(settled)
    return [next(verdict_of) if isinstance(one, _CheckerRun) else one for one in outcomes]


def _verdict(execution: Execution) -> bool | None:
    """What a checker said, if all that it said was 1 or 0: more may be the output that it read."""
    return VERDICTS.get(execution.stdout.strip()) if execution.ok else None


def run_programs(programs: Sequence[Program], sandbox: Sandbox, counts: RunCounts) -> list[Execution]:
    """An execution for each program; those that are the same are run once."""
    if not programs:
        return []
    keys = [_key(program) for program in programs]
    distinct = dict(zip(keys, programs, strict=True))
    started = time.monotonic()
    executions = dict(zip(distinct, sandbox.run(list(distinct.values())), strict=True))
    counts.seconds += time.monotonic() - started
    counts.runs += len(distinct)
    return [executions[key] for key in keys]


def _key(program: Program) -> tuple:
    return program.language, program.source, program.stdin, tuple(program.files.items())


def last_line(stderr: bytes) -> str:
    lines = stderr[-4 * MAX_REASON_CHARACTERS :].decode(errors="replace").strip().splitlines()
    return lines[-1][:MAX_REASON_CHARACTERS] if lines else ""
