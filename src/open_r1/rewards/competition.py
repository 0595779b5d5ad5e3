"""The rewards of programming contests, over the columns of open-r1's Codeforces and IOI data.

All programs of a batch are judged together, in rounds: some tests of each, then twice as many of those that failed
none, until all are run. What a row asks, and what judges the outputs, stands in judging/programs/contests.py.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from open_r1.judging.programs import KILLS, BadRow, RunCounts
from open_r1.judging.programs.contests import FILE_LIMITS, MIB, RAN, Task, codeforces_task, ioi_task
from open_r1.judging.programs.judge import last_line, run_programs
from open_r1.judging.programs.output import lines, same_lines
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.code import open_sandbox, program_of
from open_r1.rewards.completion import Completion, completion_text
from open_r1.sandbox import Execution, Program, Sandbox

ScoringMode = Literal["pass_fail", "partial", "weighted_sum"]

SHARE_WEIGHT = 0.1  # of the share of tests passed, in weighted_sum; as in open-r1

CHECKER_LIMITS = {"wall_seconds": 30.0, "cpu_seconds": 10.0, "memory_bytes": 1024 * MIB, "output_bytes": MIB}

CHECKER_LIMITS |= FILE_LIMITS

MAX_CALL_BYTES = 1024 * MIB  # of what one call to a sandbox sends, and may bring: this process holds it in memory


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
        return judged.ending == "tested" and len(judged.scores) < judged.num_tests and 0.0 not in judged.scores

    def _round(self, pending: Sequence[tuple[str, Task, Judged]], size: int) -> None:
        """Adds the scores of the next `size` tests of each."""
        runs = [
            _Run(source, task, judged, *test)
            for source, task, judged in pending
            for test in task.tests[len(judged.scores) : len(judged.scores) + size]
        ]
        part, part_bytes = [], 0
        for run in runs:
            part.append(run)
            part_bytes += len(run.stdin) + run.task.output_bytes
            if part_bytes >= MAX_CALL_BYTES:
                self._run_and_score(part)
                part, part_bytes = [], 0
        self._run_and_score(part)

    def _run_and_score(self, runs: Sequence["_Run"]) -> None:
        runs = [run for run in runs if run.judged.ending == "tested"]
        scores: list[tuple[float | None, str] | None] = []
        unsettled = []
        for index, (run, execution) in enumerate(zip(runs, self._executions(runs), strict=True)):
            if _is_no_program(run.task, execution):
                run.judged.ending = "no_compile"
                run.judged.reason = f"it does not compile: {_error_line(execution.stderr)}"
            scores.append(_score(run, execution))
            if scores[-1] is None:
                unsettled.append((index, execution.stdout))
        checked = self._checked([(runs[index], output) for index, output in unsettled])
        for (index, _), score in zip(unsettled, checked, strict=True):
            scores[index] = score
        for run, (score, reason) in zip(runs, scores, strict=True):
            run.judged.scores.append(score)
            if score != 1.0 and not run.judged.reason:
                run.judged.reason = f"first failure: test {len(run.judged.scores)}: {reason}"

    def _executions(self, runs: Sequence["_Run"]) -> list[Execution]:
        """An execution for each; those with the same limits in one call."""
        of_limits: dict[tuple, list[int]] = {}
        for index, run in enumerate(runs):
            of_limits.setdefault(tuple(run.task.limits(self.time_limit_factor).items()), []).append(index)
        executions: dict[int, Execution] = {}
        for limits, indices in of_limits.items():
            programs = [runs[index].task.program(runs[index].source, runs[index].stdin) for index in indices]
            done = run_programs(programs, self.sandbox_for(**dict(limits)), self.counts)
            executions |= zip(indices, done, strict=True)
        self.counts.tests += len(runs)
        self.counts.endings.update(execution.status for execution in executions.values())
        return [executions[index] for index in range(len(runs))]

    def _checked(self, outputs: Sequence[tuple["_Run", bytes]]) -> list[tuple[float | None, str]]:
        """What the tasks' checkers say of these outputs: a score, or None if the checker is broken, and why.

        A checker that says nothing of an output is tried on the correct one. If it is fine there, it is the output that
        is wrong.
        """
        sandbox = self.sandbox_for(**CHECKER_LIMITS)
        executions = run_programs([run.checker_on(output) for run, output in outputs], sandbox, self.counts)
        said = [run.task.score_of(execution) for (run, _), execution in zip(outputs, executions, strict=True)]
        unsaid = [
            run
            for (run, _), score, execution in zip(outputs, said, executions, strict=True)
            if score is None and execution.status != "infrastructure_error"
        ]
        controls = iter(run_programs([run.checker_on(run.expected) for run in unsaid], sandbox, self.counts))
        verdicts: list[tuple[float | None, str]] = []
        for (run, _), score, execution in zip(outputs, said, executions, strict=True):
            if score is not None:
                verdicts.append((score, f"the checker says {score:g}"))
            elif execution.status != "infrastructure_error" and run.task.score_of(next(controls)):
                verdicts.append((0.0, "an output that the checker cannot read"))
            else:
                words = last_line(execution.stderr)
                verdicts.append((None, f"the checker failed: {execution.status} {words}"))
        return verdicts


@dataclass(frozen=True)
class _Run:
    """A program on one of its tests."""

    source: str
    task: Task
    judged: Judged
    stdin: str
    expected: bytes

    def checker_on(self, output: bytes) -> Program:
        return self.task.checker.program(self.stdin, self.expected, output)


def _score(run: _Run, execution: Execution) -> tuple[float | None, str] | None:
    """The score of a test, and why; None if it is the checker's to say."""
    if execution.status == "infrastructure_error":
        return None, f"infrastructure_error: {last_line(execution.stderr)}"
    if not execution.ok:
        words = last_line(execution.stderr.removeprefix(RAN.encode()))
        return 0.0, ": ".join(filter(None, (execution.status, words)))
    if run.task.checker is None:
        return (1.0, "") if same_lines(execution.stdout, run.expected) else (0.0, "wrong output")
    # An output that is the correct one needs no checker, unless that is empty, or there may be more points to have.
    if not run.task.is_scored and lines(run.expected) and same_lines(execution.stdout, run.expected):
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
    errors = [line for line in stderr.splitlines() if b"error:" in line or b"undefined reference" in line]
    return last_line(errors[0] if errors else stderr)


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
    gives `no_submission_reward`, a C++ program that does not compile `no_compile_reward`; these defaults, and that of
    the mode, are open-r1's. With pass_fail a program's tests end with the first that it fails, in rounds of
    `test_batch_size` tests, then of twice as many, …; the other modes run all at once.

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
        "judge_failed_share": sum(one.ending == "tested" and None in one.scores for one in judged) / num_completions,
        "programs_per_second": counts.runs / counts.seconds if counts.seconds else 0.0,
        "seconds_waited": counts.seconds,
    }
    metrics |= {status: counts.endings[status] / max(1, counts.tests) for status in KILLS}
    for name, value in metrics.items():
        log_metric(f"{reward}/{name}", value)
