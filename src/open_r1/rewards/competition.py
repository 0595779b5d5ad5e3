"""The rewards of programming contests, over the columns of open-r1's Codeforces and IOI data.

A row of either becomes a Task: tests, limits, what is compiled along, what judges the outputs. All programs of a batch
are judged together, in rounds: some tests of each, then twice as many of those that failed none, until all are run.
What a test expects never goes where the program is; a checker reads it, in a run of its own, when the program is gone.
"""

import ast
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from open_r1.judging.programs import KILLS, BadRow, RunCounts
from open_r1.judging.programs.judge import CHECKER, CHECKER_FILES, _last_line, _run
from open_r1.judging.programs.output import NUMBER, lines, same_lines
from open_r1.judging.programs.rows import _short
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.code import open_sandbox, program_of
from open_r1.rewards.completion import Completion, completion_text
from open_r1.sandbox import Execution, Program, Sandbox

ScoringMode = Literal["pass_fail", "partial", "weighted_sum"]
SHARE_WEIGHT = 0.1  # of the share of tests passed, in weighted_sum; as in open-r1
CODEFORCES_LANGUAGES = {"python": "python", "python3": "python", "py": "python", "cpp": "cpp", "c++": "cpp"}

MIB = 1 << 20
# Every limit of its own is a sandbox of its own, with fork servers of its own: so few different ones are used.
SECONDS_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 256 * MIB, 16384 * MIB
MAX_TIME_LIMIT_SECONDS = 60
FILE_LIMITS = {"file_bytes": 64 * MIB, "scratch_bytes": 256 * MIB, "output_bytes": 16 * MIB}
CHECKER_LIMITS = {"wall_seconds": 30.0, "cpu_seconds": 10.0, "memory_bytes": 1024 * MIB, **FILE_LIMITS}
MAX_CALL_BYTES = 256 * MIB  # of what is sent to a sandbox in one call; inputs of contests are large

# The first bytes on stderr of a C++ program of ours that runs. A compiler's words begin otherwise: what it is given
# cannot know them.
RAN = f"{secrets.token_hex(16)}\n"
RAN_FILE = (
    "open_r1_ran.cpp",
    f"""#include <unistd.h>
__attribute__((constructor(101))) static void say_that_it_runs() {{
    if (write(2, "{RAN.strip()}\\n", {len(RAN)}) < 0) _exit(1);
}}
""",
)

# input_mode "file": the program's stdout goes nowhere, and what it has left in output.txt is its output. Without a
# second process, which not every sandbox allows: so a program that ends by _exit() has no output.
FILES_FILE = (
    "open_r1_files.cpp",
    """#include <cstdio>
#include <fcntl.h>
#include <unistd.h>
static int real_stdout = -1;
__attribute__((constructor(101))) static void keep_stdout() {
    real_stdout = dup(1);
    int nowhere = open("/dev/null", O_WRONLY);
    if (nowhere >= 0) { dup2(nowhere, 1); close(nowhere); }
}
__attribute__((destructor(101))) static void copy_output() {
    static char buffer[1 << 16];
    std::fflush(nullptr);
    int file = open("output.txt", O_RDONLY);
    if (file < 0) return;
    for (ssize_t size; (size = read(file, buffer, sizeof buffer)) > 0;)
        for (ssize_t done = 0, part; done < size; done += part)
            if ((part = write(real_stdout, buffer + done, size - done)) <= 0) return;
}
""",
)
FILES_PYTHON = """def _with_files():
    import atexit, contextlib, gc, io, os
    real_stdout = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    def copy_output():
        for one in gc.get_objects():
            with contextlib.suppress(Exception):
                if isinstance(one, io.IOBase):
                    one.flush()
        if os.path.exists("output.txt"):
            with open("output.txt", "rb") as file:
                while part := file.read(1 << 16):
                    while part:
                        part = part[os.write(real_stdout, part):]
    atexit.register(copy_output)
_with_files()
del _with_files
exec(compile({source}, "main.py", "exec", dont_inherit=True))
"""

# A sandbox gives no arguments. The constructor that is linked last runs when everything static is there.
ARGUMENTS_FILE = (
    "zz_open_r1_arguments.cpp",
    f"""#include <cstdlib>
int main(int, char **);
__attribute__((constructor)) static void check() {{
    static char names[4][32] = {{"./checker", "{CHECKER_FILES[0]}", "{CHECKER_FILES[1]}", "{CHECKER_FILES[2]}"}};
    static char *arguments[] = {{names[0], names[1], names[2], names[3], nullptr}};
    std::exit(main(4, arguments));
}}
""",
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)
HEADERS = (".h", ".hh", ".hpp", ".inc")


@dataclass(frozen=True)
class Checker:
    """A program that reads the files of CHECKER_FILES and prints a score; `files` lie beside it, to be compiled."""

    language: Literal["python", "cpp"]
    source: str
    files: Mapping[str, str] = field(default_factory=dict)

    def program(self, stdin: str, expected: bytes, output: bytes) -> Program:
        contents = dict(zip(CHECKER_FILES, (stdin, expected, output), strict=True))
        if self.language == "cpp":
            return Program(self.source, language="cpp", files={**self.files, **dict([ARGUMENTS_FILE]), **contents})
        return Program(CHECKER.format(argv=["checker.py", *CHECKER_FILES], code=ascii(self.source)), files=contents)


@dataclass(frozen=True)
class Task:
    """What a row asks of a program, and how it is judged."""

    language: str
    tests: tuple[tuple[str, bytes], ...]
    """(input, expected output) of each."""
    time_limit_seconds: float
    memory_limit_bytes: int
    reads_files: bool = False
    """It reads input.txt and writes output.txt, not stdin and stdout."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Compiled together with the program: a grader that has main, headers."""
    header: str | None = None
    """The one of them that the program has to include."""
    checker: Checker | None = None
    is_scored: bool = False
    """A checker's score counts as it is; otherwise a test is passed with 1, and failed with anything else."""

    def program(self, source: str, stdin: str) -> Program:
        """The program on one test."""
        if self.language == "python":
            if not self.reads_files:
                return Program(source, stdin=stdin)
            return Program(FILES_PYTHON.format(source=ascii(source)), files={"input.txt": stdin})
        if self.header is not None and self.header not in (name for _, name in INCLUDE.findall(source)):
            source = f'#include "{self.header}"\n{source}'
        files = {**self.files, **dict([RAN_FILE])}
        if self.reads_files:
            files |= {**dict([FILES_FILE]), "input.txt": stdin}
        return Program(source, stdin="" if self.reads_files else stdin, language="cpp", files=files)

    def limits(self, time_limit_factor: float) -> dict[str, float]:
        """The limits of the sandbox for this task's programs: its own, rounded up to one of few.

        CPU seconds to the next of SECONDS_STEPS; twice as many, and two more, by the clock, which a busy machine needs.
        Memory to a power of two, at least MIN_MEMORY_BYTES: what an interpreter or a C++ runtime maps counts here.
        """
        wanted = self.time_limit_seconds * time_limit_factor
        cpu_seconds = next((seconds for seconds in SECONDS_STEPS if seconds >= wanted), math.ceil(wanted))
        memory_bytes = max(MIN_MEMORY_BYTES, 1 << (self.memory_limit_bytes - 1).bit_length())
        wall_seconds = 2.0 * cpu_seconds + 2.0
        limits = {"wall_seconds": wall_seconds, "cpu_seconds": float(cpu_seconds), "memory_bytes": memory_bytes}
        return limits | FILE_LIMITS

    def score_of(self, execution: Execution) -> float | None:
        """What the checker said, between 0 and 1, if that is all that it said: more may be the output that it read."""
        said = execution.stdout.strip()
        if not execution.ok or len(said) > 40 or not NUMBER.fullmatch(said) or not 0 <= float(said) <= 1:
            return None
        return float(said) if self.is_scored else float(float(said) == 1.0)


@dataclass
class Judged:
    """How the program of one completion did: a score from 0 to 1, or None, for each test that was run, in order."""

    ending: Literal["tested", "no_program", "no_compile", "bad_row"] = "tested"
    scores: list[float | None] = field(default_factory=list)
    num_tests: int = 0
    reason: str = ""
    """Of the first score below 1; or why there is none."""

    @property
    def lowest(self) -> float | None:
        """The lowest score; None if nobody can say, which a test that is surely failed decides all the same."""
        if 0.0 in self.scores:
            return 0.0
        return None if None in self.scores else min(self.scores)

    @property
    def share(self) -> float | None:
        """Share of all tests that are passed, None if nobody can say of one of them."""
        return None if None in self.scores else self.scores.count(1.0) / self.num_tests

    @property
    def line(self) -> str:
        """How it went, with the first test that was not passed."""
        if self.ending != "tested":
            return self.reason
        not_run = self.num_tests - len(self.scores)
        line = f"{self.scores.count(1.0)} of {self.num_tests} tests" + (f", {not_run} not run" if not_run else "")
        return f"{line}; {self.reason}" if self.reason else line


@dataclass(frozen=True)
class Judge:
    """Runs the programs of a batch against the tests of their tasks.

    `sandbox_for` gives the sandbox with these limits; `stops_early` ends a program's tests after a round in which it
    has failed one. The first round has `test_batch_size` tests of each program, every other twice as many as the last.
    """

    sandbox_for: Callable[..., Sandbox]
    time_limit_factor: float
    test_batch_size: int
    stops_early: bool
    counts: RunCounts = field(default_factory=RunCounts)

    def judge(
        self, completions: Sequence[Completion], tasks: Sequence[Task | BadRow], thinking: Thinking
    ) -> list[Judged]:
        """How each completion did, in order."""
        judged, pending = [], []
        for completion, task in zip(completions, tasks, strict=True):
            if isinstance(task, BadRow):
                judged.append(Judged("bad_row", reason=f"the row is refused: {task}"))
                continue
            source, problem = program_of(completion_text(completion), task.language, thinking)
            if source is None:
                judged.append(Judged("no_program", reason=problem))
                continue
            judged.append(Judged(num_tests=len(task.tests)))
            pending.append((source, task, judged[-1]))
        batch_size = self.test_batch_size
        while pending:
            size = batch_size if self.stops_early else max(one.num_tests for _, _, one in pending)
            self._round(pending, size)
            pending = [each for each in pending if self._goes_on(each[2])]
            batch_size *= 2
        return judged

    def _goes_on(self, judged: Judged) -> bool:
        has_failed = self.stops_early and 0.0 in judged.scores
        return judged.ending == "tested" and len(judged.scores) < judged.num_tests and not has_failed

    def _round(self, pending: Sequence[tuple[str, Task, Judged]], size: int) -> None:
        """Adds the scores of the next `size` tests of each."""
        runs = [
            (source, task, judged, test)
            for source, task, judged in pending
            for test in task.tests[len(judged.scores) : len(judged.scores) + size]
        ]
        executions = self._executions(runs)
        for (_, task, judged, _), execution in zip(runs, executions, strict=True):
            if _is_no_program(task, execution):
                judged.ending, judged.reason = "no_compile", f"it does not compile: {_error_line(execution.stderr)}"
        scores = [_score(task, test, one) for (_, task, _, test), one in zip(runs, executions, strict=True)]
        unsettled = [index for index, score in enumerate(scores) if score is None and runs[index][2].ending == "tested"]
        checked = self._checked([(runs[index][1], runs[index][3], executions[index].stdout) for index in unsettled])
        for index, score in zip(unsettled, checked, strict=True):
            scores[index] = score
        for (_, _, judged, _), score in zip(runs, scores, strict=True):
            if judged.ending != "tested":
                judged.scores.clear()
                continue
            judged.scores.append(score[0])
            if score[0] != 1.0 and not judged.reason:
                judged.reason = f"first failure: test {len(judged.scores)}: {score[1]}"

    def _executions(self, runs: Sequence[tuple[str, Task, Judged, tuple[str, bytes]]]) -> list[Execution]:
        """An execution for each; those of tasks with the same limits in one call."""
        of_limits: dict[tuple, list[int]] = {}
        for index, (_, task, _, _) in enumerate(runs):
            of_limits.setdefault(tuple(task.limits(self.time_limit_factor).items()), []).append(index)
        executions: dict[int, Execution] = {}
        for limits, indices in of_limits.items():
            programs = [runs[index][1].program(runs[index][0], runs[index][3][0]) for index in indices]
            executions |= zip(indices, self._run(programs, self.sandbox_for(**dict(limits))), strict=True)
        self.counts.tests += len(runs)
        self.counts.endings.update(execution.status for execution in executions.values())
        return [executions[index] for index in range(len(runs))]

    def _checked(self, outputs: Sequence[tuple[Task, tuple[str, bytes], bytes]]) -> list[tuple[float | None, str]]:
        """What the tasks' checkers say of these outputs: a score, or None if the checker is broken, and why.

        A checker that says nothing of an output is tried on the correct one. If it is fine there, it is the output that
        is wrong.
        """
        sandbox = self.sandbox_for(**CHECKER_LIMITS)
        executions = self._run([task.checker.program(*test, output) for task, test, output in outputs], sandbox)
        said = [task.score_of(execution) for (task, _, _), execution in zip(outputs, executions, strict=True)]
        unsaid = [
            index
            for index, execution in enumerate(executions)
            if said[index] is None and execution.status != "infrastructure_error"
        ]
        controls = self._run(
            [task.checker.program(*test, test[1]) for task, test, _ in (outputs[index] for index in unsaid)], sandbox
        )
        unreadable = {
            index for index, control in zip(unsaid, controls, strict=True) if outputs[index][0].score_of(control)
        }
        verdicts: list[tuple[float | None, str]] = []
        for index, execution in enumerate(executions):
            if said[index] is not None:
                verdicts.append((said[index], f"the checker says {said[index]:g}"))
            elif index in unreadable:
                verdicts.append((0.0, "an output that the checker cannot read"))
            else:
                words = _last_line(execution.stderr)
                verdicts.append((None, f"the checker failed: {execution.status} {words}"))
        return verdicts

    def _run(self, programs: Sequence[Program], sandbox: Sandbox) -> list[Execution]:
        """An execution for each, in as few calls as MAX_CALL_BYTES allow."""
        executions, part, part_bytes = [], [], 0
        for program in programs:
            part.append(program)
            part_bytes += len(program.stdin) + sum(map(len, program.files.values()))
            if part_bytes >= MAX_CALL_BYTES:
                executions += _run(part, sandbox, self.counts)
                part, part_bytes = [], 0
        return executions + _run(part, sandbox, self.counts)


def _score(task: Task, test: tuple[str, bytes], execution: Execution) -> tuple[float | None, str] | None:
    """The score of a test, and why; None if it is the checker's to say."""
    if execution.status == "infrastructure_error":
        return None, f"infrastructure_error: {_last_line(execution.stderr)}"
    if not execution.ok:
        words = _last_line(execution.stderr.removeprefix(RAN.encode()))
        return 0.0, ": ".join(filter(None, (execution.status, words)))
    if task.checker is None:
        return (1.0, "") if same_lines(execution.stdout, test[1]) else (0.0, "wrong output")
    # An output that is the correct one needs no checker, unless that is empty, or there may be more points to have.
    if not task.is_scored and lines(test[1]) and same_lines(execution.stdout, test[1]):
        return 1.0, ""
    return None


def _is_no_program(task: Task, execution: Execution) -> bool:
    """True if a C++ source did not become a program: there is no first word of one, and no signal that stopped one."""
    return (
        task.language == "cpp"
        and execution.status == "runtime_error"
        and (execution.exit_code is None or execution.exit_code > 0)
        and not execution.stderr.startswith(RAN.encode())
    )


def _error_line(stderr: bytes) -> str:
    """The first error of a compiler's words."""
    errors = [line for line in stderr.splitlines() if b"error" in line]
    return _last_line(errors[0] if errors else stderr)


def cf_code_reward(
    completions: Sequence[Completion],
    official_tests: Sequence[Any],
    time_limit: Sequence[float],
    memory_limit: Sequence[float],
    input_mode: Sequence[str],
    generated_checker: Sequence[str | None],
    language: Sequence[str],
    *,
    scoring_mode: ScoringMode = "weighted_sum",
    no_submission_reward: float = -1.0,
    no_compile_reward: float = -0.1,
    test_batch_size: int = 1,
    time_limit_factor: float = 1.0,
    sandbox: str = "local",
    allow_unsafe_local: bool = False,
    thinking: Thinking = Thinking(),
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    """What a program for a Codeforces problem is worth by `scoring_mode`, None if the sandbox, or a checker, failed.

    One for each completion, in order; None for a row that cannot be judged, too. pass_fail: 1.0 if all tests are
    passed, else 0.0; partial: the share of tests passed; weighted_sum: pass_fail plus 0.1 times that share. No program
    gives `no_submission_reward`, a C++ program that does not compile `no_compile_reward`; these
    defaults, and that of the mode, are open-r1's. With pass_fail a program's tests end with the first that it fails, in
    rounds of `test_batch_size` tests, then of twice as many, …; the other modes run all at once.

    The columns are those of open-r1/codeforces: seconds, MB, `input_mode` stdio or file (input.txt and output.txt), and
    a Python program that judges outputs where several are right. A test is passed if the program ends with exit code 0,
    within its limits, and the checker prints 1, or, without one, all lines are the same. `time_limit` is multiplied by
    `time_limit_factor` (Python may need one); how limits are rounded is told in `Task.limits`.

    `log_extra` and `log_metric` are TRL's: they put how it went in the completions table, and what the runs cost and
    how they ended among the metrics. Raises RecipeError if the sandbox cannot be had, or for a parameter out of range.
    """
    judge = _judge(
        "cf_code", sandbox, allow_unsafe_local, time_limit_factor, test_batch_size, scoring_mode == "pass_fail"
    )
    rows = zip(official_tests, time_limit, memory_limit, input_mode, generated_checker, language, strict=True)
    judged = judge.judge(completions, _tasks(codeforces_task, rows), thinking)
    _log("cf_code", judged, judge.counts, log_extra, log_metric)
    unjudged = {"bad_row": None, "no_program": no_submission_reward, "no_compile": no_compile_reward}
    return [_codeforces_value(one, scoring_mode) if one.ending == "tested" else unjudged[one.ending] for one in judged]


def _codeforces_value(judged: Judged, scoring_mode: ScoringMode) -> float | None:
    if scoring_mode == "pass_fail":
        return judged.lowest
    if scoring_mode == "partial" or judged.share is None:
        return judged.share
    return float(judged.share == 1.0) + SHARE_WEIGHT * judged.share


def ioi_code_reward(
    completions: Sequence[Completion],
    id: Sequence[str],
    test_names: Sequence[Sequence[str]],
    test_cases: Sequence[Any],
    time_limit: Sequence[float],
    memory_limit: Sequence[float],
    grader_files: Sequence[Any],
    *,
    test_batch_size: int = 1,
    time_limit_factor: float = 1.0,
    sandbox: str = "local",
    allow_unsafe_local: bool = False,
    thinking: Thinking = Thinking(),
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    """The score, from 0.0 to 1.0, of a C++ program in a subtask of an IOI problem, None if the sandbox failed.

    One for each completion, in order; None also if the checker is broken, or for a row that cannot be judged. It is the
    lowest score of the subtask's tests, as at the IOI; 0.0 if there is no program, or if it does not compile. A
    program's tests end with the first that it fails, in rounds of `test_batch_size` tests, then of twice as many, ….

    The columns are those of open-r1/ioi (seconds, bytes) and `test_cases`; what is made of them, and which rows are
    refused, is told in `ioi_task`. The program is compiled together with the row's grader, and includes the problem's
    header even if it does not say so. A test scores what the checker prints, or, without one, 1 if all lines are the
    same; 0 if the program does not end with exit code 0 within its limits. `time_limit_factor` and limits are as in
    `cf_code_reward`.

    `log_extra` and `log_metric` are TRL's: they put how it went in the completions table, and what the runs cost and
    how they ended among the metrics. Raises RecipeError if the sandbox cannot be had, or has no C++, or for a parameter
    out of range.
    """
    judge = _judge("ioi_code", sandbox, allow_unsafe_local, time_limit_factor, test_batch_size, stops_early=True)
    if problem := judge.sandbox_for(**CHECKER_LIMITS).language_problem("cpp"):
        raise RecipeError(f"ioi_code: {problem}")
    rows = zip(id, test_names, test_cases, time_limit, memory_limit, grader_files, strict=True)
    judged = judge.judge(completions, _tasks(ioi_task, rows), thinking)
    _log("ioi_code", judged, judge.counts, log_extra, log_metric)
    unjudged = {"bad_row": None, "no_program": 0.0, "no_compile": 0.0}
    return [one.lowest if one.ending == "tested" else unjudged[one.ending] for one in judged]


def _judge(
    reward: str,
    sandbox: str,
    allow_unsafe_local: bool,
    time_limit_factor: float,
    test_batch_size: int,
    stops_early: bool,
) -> Judge:
    """The judge with these parameters. Raises RecipeError for those that cannot be."""
    if not time_limit_factor > 0:
        raise RecipeError(f"{reward}: time_limit_factor is {time_limit_factor}; give more than 0")
    if test_batch_size < 1:
        raise RecipeError(f"{reward}: test_batch_size is {test_batch_size}; give 1 or more")

    def sandbox_for(**limits: float) -> Sandbox:
        return open_sandbox(reward, sandbox, allow_unsafe_local, **limits)

    sandbox_for(**CHECKER_LIMITS)
    return Judge(sandbox_for, time_limit_factor, test_batch_size, stops_early)


def _tasks(read_row: Callable[..., Task], rows: Iterable[Sequence[Any]]) -> list[Task | BadRow]:
    tasks: list[Task | BadRow] = []
    for row in rows:
        try:
            tasks.append(read_row(*row))
        except BadRow as problem:
            tasks.append(problem)
    return tasks


def _log(
    reward: str, judged: Sequence[Judged], counts: RunCounts, log_extra: Callable | None, log_metric: Callable | None
) -> None:
    if log_extra is not None:
        # What UTF-8 has not would stop the writing of the table, and with it the run.
        log_extra(f"{reward}_reason", [one.line.encode("utf-8", "replace").decode("utf-8") for one in judged])
    if log_metric is None:
        return
    num_completions = max(1, len(judged))
    metrics = {
        "no_program_share": sum(one.ending == "no_program" for one in judged) / num_completions,
        "no_compile_share": sum(one.ending == "no_compile" for one in judged) / num_completions,
        "refused_row_share": sum(one.ending == "bad_row" for one in judged) / num_completions,
        "judge_failed_share": sum(None in one.scores for one in judged) / num_completions,
        "programs_per_second": counts.runs / counts.seconds if counts.seconds else 0.0,
        "seconds_waited": counts.seconds,
    }
    metrics |= {status: counts.endings[status] / max(1, counts.tests) for status in KILLS}
    for name, value in metrics.items():
        log_metric(f"{reward}/{name}", value)


def codeforces_task(
    official_tests: Any, time_limit: Any, memory_limit: Any, input_mode: Any, generated_checker: Any, language: Any
) -> Task:
    """The task of a row of open-r1/codeforces. Raises BadRow (`key: value; mend`) if programs cannot be judged by it.

    `time_limit` is in seconds, `memory_limit` in MB (2^20 bytes).
    """
    if not isinstance(language, str) or language.casefold() not in CODEFORCES_LANGUAGES:
        raise BadRow(f"language: {_short(language)} is none of {', '.join(CODEFORCES_LANGUAGES)}")
    if not isinstance(official_tests, list | tuple) or not official_tests:
        raise BadRow(f"official_tests: {_short(official_tests)}; without a test no program can be judged, leave it out")
    tests = []
    for index, test in enumerate(official_tests):
        pair = (test.get("input"), test.get("output")) if isinstance(test, Mapping) else None
        tests.append(_test(f"official_tests.{index}", pair))
    if input_mode not in ("stdio", "file"):
        raise BadRow(f"input_mode: {_short(input_mode)} is neither stdio nor file")
    checker = None
    if generated_checker:
        try:
            ast.parse(generated_checker)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
            raise BadRow(f"generated_checker: it is no Python program ({error})") from None
        checker = Checker("python", generated_checker)
    elif not any(lines(expected) for _, expected in tests):
        raise BadRow("official_tests: none expects any output, so a program that does nothing passes; leave it out")
    return Task(
        CODEFORCES_LANGUAGES[language.casefold()],
        tuple(tests),
        _seconds(time_limit),
        _bytes(memory_limit, MIB, "MB"),
        reads_files=input_mode == "file",
        checker=checker,
    )


def ioi_task(id: Any, test_names: Any, test_cases: Any, time_limit: Any, memory_limit: Any, grader_files: Any) -> Task:
    """The task of a row of open-r1/ioi, a subtask. Raises BadRow (`id: key: value; mend`) if it cannot be judged.

    `time_limit` is in seconds, `memory_limit` in bytes. `grader_files` are [name, content] pairs: C++ sources and
    headers are compiled along (folders are left out of their names), but for the checker's, and for a solution that has
    the program's name. `test_cases` are [input, output] in the order of `test_names`, or a dict by name. The checker
    judges if all that it includes is there; else outputs are compared. Tasks with a manager are refused: their programs
    talk with another one.
    """
    try:
        return _ioi_task(id, test_names, test_cases, time_limit, memory_limit, grader_files)
    except BadRow as problem:
        raise BadRow(f"{id}: {problem}") from None


def _ioi_task(
    problem_id: Any, test_names: Any, test_cases: Any, time_limit: Any, memory_limit: Any, grader_files: Any
) -> Task:
    if not isinstance(problem_id, str) or not problem_id:
        raise BadRow(f"id: {_short(problem_id)} names no problem")
    if not isinstance(test_names, list | tuple) or not test_names:
        raise BadRow(f"test_names: {_short(test_names)}; without a test no program can be judged, leave the row out")
    if isinstance(test_cases, list | tuple) and len(test_cases) == len(test_names):
        test_cases = dict(zip(test_names, test_cases, strict=True))
    if not isinstance(test_cases, Mapping) or not all(isinstance(name, str) for name in test_names):
        raise BadRow(f"test_cases: {_short(test_cases)} is not one [input, output] for each of test_names")
    tests = tuple(_test(f"test_cases.{name}", test_cases.get(name)) for name in test_names)
    files, checker_files = {}, {}
    for pair in grader_files or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise BadRow(f"grader_files: {_short(pair)} is no pair of a name and a content")
        *folders, name = pair[0].split("/")
        if name.startswith("manager."):
            raise BadRow(
                f"grader_files: {pair[0]}: its programs talk with a manager, which no sandbox has; leave it out"
            )
        if name.endswith((".cpp", *HEADERS)) and isinstance(pair[1], str):
            (checker_files if "checker" in folders or name.startswith("checker.") else files)[name] = pair[1]
    checker_source = checker_files.pop("checker.cpp", None)
    checker = None
    if checker_source is not None:
        headers = {name: text for name, text in (files | checker_files).items() if name.endswith(HEADERS)}
        if _is_complete([checker_source, *headers.values()], headers):
            checker = Checker("cpp", checker_source, headers)
    if checker is None and not any(lines(expected) for _, expected in tests):
        raise BadRow("test_cases: none expects any output, so a program that does nothing passes; leave it out")
    header = f"{problem_id}.h"
    return Task(
        "cpp",
        tests,
        _seconds(time_limit),
        _bytes(memory_limit, 1, "bytes"),
        # Sandboxes call the program's own source main.cpp.
        files={
            "grader_main.cpp" if name == "main.cpp" else name: text
            for name, text in files.items()
            if name.casefold() != f"{problem_id}.cpp".casefold()
        },
        header=header if header in files else None,
        checker=checker,
        is_scored=True,
    )


def with_test_cases(problems, tests):
    """open-r1/ioi with a column `test_cases`, out of open-r1/ioi-test-cases: both, and what is given, are Datasets.

    A test that is not among them is None, with which the row is refused.
    """
    names = zip(tests["problem_id"], tests["test_name"], strict=True)
    positions = {name: position for position, name in enumerate(names)}

    def test_case(problem_id: str, name: str) -> list[str] | None:
        position = positions.get((problem_id, name))
        return None if position is None else [tests[position]["test_input"], tests[position]["test_output"]]

    return problems.map(lambda row: {"test_cases": [test_case(row["id"], name) for name in row["test_names"]]})


def _test(key: str, pair: Any) -> tuple[str, bytes]:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise BadRow(f"{key}: {_short(pair)} is no input and output; leave the row out")
    try:
        expected = pair[1].encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"{key}: {error.reason}, so no program can print it") from None
    if len(expected) > FILE_LIMITS["output_bytes"]:
        raise BadRow(f"{key}: {len(expected)} bytes of output are more than a program may print; leave the row out")
    return pair[0], expected


def _seconds(time_limit: Any) -> float:
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float):
        raise BadRow(f"time_limit: {_short(time_limit)} is no number of seconds; leave the row out")
    if not 0 < time_limit <= MAX_TIME_LIMIT_SECONDS:
        raise BadRow(f"time_limit: {time_limit} is not in seconds, or over {MAX_TIME_LIMIT_SECONDS}; leave the row out")
    return float(time_limit)


def _bytes(memory_limit: Any, unit_bytes: int, unit: str) -> int:
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float):
        raise BadRow(f"memory_limit: {_short(memory_limit)} is no number of {unit}; leave the row out")
    if not MIB <= memory_limit * unit_bytes <= MAX_MEMORY_BYTES:
        raise BadRow(f"memory_limit: {memory_limit} is not in {unit} (1 MB to 16 GB); convert it, or leave the row out")
    return math.ceil(memory_limit * unit_bytes)


def _is_complete(sources: Sequence[str], files: Mapping[str, str]) -> bool:
    """True if all that these include is in `files`, or comes with a compiler."""
    included = [match for source in sources for match in INCLUDE.findall(source)]
    return all(name in files for quote, name in included if quote == '"' or name == "testlib.h")
