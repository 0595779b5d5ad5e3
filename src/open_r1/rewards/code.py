"""The code rewards: the program that follows the thinking, run in a sandbox against the tests of its row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_r1.judging.programs import KILLS, BadRow, Outcome, RunCounts, judge_programs, read_row
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.completion import (
    Completion,
    after_thinking,
    answer_blocks,
    completion_text,
    fence_names,
    fenced_blocks,
    has_fence,
)
from open_r1.sandbox import Limits, Sandbox, SandboxUnavailable, shared_sandbox

VerificationInfo = Mapping[str, Any] | str | None


@dataclass(frozen=True)
class Judged:
    """One completion's tests; `problem` says why none was run, and `is_about_row` whether its row is at fault."""

    outcomes: tuple[Outcome, ...] = ()
    problem: str = ""
    is_about_row: bool = False

    @property
    def share(self) -> float | None:
        """Share of the tests passed; None if nobody can say of one of them, or if the row is at fault."""
        if self.problem:
            return None if self.is_about_row else 0.0
        passed = [outcome.passed for outcome in self.outcomes]
        return None if None in passed else passed.count(True) / len(passed)

    @property
    def binary(self) -> float | None:
        """1.0 if all tests are passed, 0.0 if one is surely not; None if nobody can say, or if the row is at fault."""
        if any(outcome.passed is False for outcome in self.outcomes):
            return 0.0
        return None if self.share is None else float(self.share == 1.0)

    @property
    def reason(self) -> str:
        """How it went in a line, with the first test that was not passed."""
        if self.problem:
            return self.problem
        num_passed = sum(outcome.passed is True for outcome in self.outcomes)
        line = f"{num_passed} of {len(self.outcomes)} tests"
        for number, outcome in enumerate(self.outcomes, start=1):
            if outcome.passed is not True:
                return f"{line}; first failure: test {number}: {outcome.reason}"
        return line


def code_reward(
    completions: Sequence[Completion],
    verification_info: Sequence[VerificationInfo],
    *,
    sandbox: str = "local",
    allow_unsafe_local: bool = False,
    wall_seconds: float = Limits.wall_seconds,
    cpu_seconds: float = Limits.cpu_seconds,
    memory_bytes: int = Limits.memory_bytes,
    thinking: Thinking = Thinking(),
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    """Share of its row's tests that the program passes, 0.0 if there is no program, None if the sandbox failed.

    One for each completion, in order; None for any test of which nobody can say, and for a row that cannot be judged
    (the check of the data refuses it before the run). The program is the last fenced block after the thinking, of the
    row's language or without a name, in the answer block if there is one; without any fence it is the whole answer. A
    test passes if the program ends by itself with exit code 0, within the limits, and does what is expected: how that
    is compared, and what a row may say, stands in judging/programs. `wall_seconds`, `cpu_seconds` and `memory_bytes`
    are what one run may use, in the `sandbox` of that name.

    Source: DeepSeek-R1 (Nature s41586-025-09422-z), rule-based rewards, code. `log_extra` and `log_metric` are TRL's:
    they put the tests passed in the completions table, and what the runs cost and how they ended among the metrics.
    Raises RecipeError if the sandbox cannot be had, or for a limit that is none.
    """
    limits = {"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds, "memory_bytes": memory_bytes}
    runs_in = open_sandbox("code", sandbox, allow_unsafe_local, **limits)
    judged, counts = judge_completions(completions, verification_info, thinking, runs_in)
    _log("code", judged, counts, log_extra, log_metric)
    return [one.share for one in judged]


def binary_code_reward(
    completions: Sequence[Completion],
    verification_info: Sequence[VerificationInfo],
    *,
    sandbox: str = "local",
    allow_unsafe_local: bool = False,
    wall_seconds: float = Limits.wall_seconds,
    cpu_seconds: float = Limits.cpu_seconds,
    memory_bytes: int = Limits.memory_bytes,
    thinking: Thinking = Thinking(),
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    """1.0 if the program passes all of its row's tests, 0.0 if it surely fails one, None if the sandbox failed.

    All else is as in `code_reward`.
    """
    limits = {"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds, "memory_bytes": memory_bytes}
    runs_in = open_sandbox("binary_code", sandbox, allow_unsafe_local, **limits)
    judged, counts = judge_completions(completions, verification_info, thinking, runs_in)
    _log("binary_code", judged, counts, log_extra, log_metric)
    return [one.binary for one in judged]


def open_sandbox(reward: str, name: str, allow_unsafe_local: bool = False, **limits: float) -> Sandbox:
    """This process's sandbox of that name and limits. Raises RecipeError, in the reward's name, if there is none."""
    try:
        return shared_sandbox(name, allow_unsafe_local=allow_unsafe_local, **limits)
    except SandboxUnavailable as error:
        raise RecipeError(f"{reward}: {error}") from None
    except ValueError as error:
        raise RecipeError(f"{reward}: {error}") from None


def judge_completions(
    completions: Sequence[Completion],
    verification_info: Sequence[VerificationInfo],
    thinking: Thinking,
    sandbox: Sandbox,
) -> tuple[list[Judged], RunCounts]:
    """Each completion's tests with their outcomes, and what the batch cost."""
    judged: list[Judged | None] = []
    programs, rows = [], []
    for completion, info in zip(completions, verification_info, strict=True):
        try:
            row = read_row(info)
        except BadRow as problem:
            judged.append(Judged(problem=f"the row is refused: {problem}", is_about_row=True))
            continue
        program, problem = program_of(completion_text(completion), row.language, thinking)
        if program is None:
            judged.append(Judged(problem=problem))
            continue
        judged.append(None)
        programs.append(program)
        rows.append(row)
    outcomes, counts = judge_programs(programs, rows, sandbox)
    of_programs = iter(outcomes)
    return [Judged(tuple(next(of_programs))) if one is None else one for one in judged], counts


def program_of(text: str, language: str, thinking: Thinking = Thinking()) -> tuple[str | None, str]:
    """The program that a completion answers with; None, and why, if it has none.

    It is the last block that is fenced as `language` (```` ```py ```` is Python as well) or without a name: in the
    last answer block, or, where that has none, anywhere after the thinking. An answer without any fence is a program
    as a whole; one whose fences never close, or name other languages, has none.
    """
    rest = after_thinking(text, thinking)
    if rest is None:
        return None, "the thinking never ends"
    answers = list(answer_blocks(rest))[-1:]
    names = fence_names(language) | {""}
    for part in (*answers, rest):
        programs = [code for name, code in fenced_blocks(part) if name in names]
        if programs:
            return (programs[-1], "") if programs[-1].strip() else (None, "the program is empty")
    if has_fence(rest):
        return None, f"there is no closed block of {language}"
    whole = answers[0] if answers else rest
    return (whole, "") if whole.strip() else (None, "the answer is empty")


def _log(
    reward: str, judged: Sequence[Judged], counts: RunCounts, log_extra: Callable | None, log_metric: Callable | None
) -> None:
    if log_extra is not None:
        # A class may have any name: what UTF-8 has not would stop the writing of the table, and with it the run.
        reasons = [one.reason.encode("utf-8", "replace").decode("utf-8") for one in judged]
        log_extra(f"{reward}_reason", reasons)
    if log_metric is None:
        return
    num_completions = max(1, len(judged))
    failed = [one for one in judged if any(outcome.passed is None for outcome in one.outcomes)]
    metrics = {
        "no_program_share": sum(bool(one.problem) and not one.is_about_row for one in judged) / num_completions,
        "refused_row_share": sum(one.is_about_row for one in judged) / num_completions,
        "judge_failed_share": len(failed) / num_completions,
        "programs_per_second": counts.runs / counts.seconds if counts.seconds else 0.0,
        "seconds_waited": counts.seconds,
    }
    metrics |= {status: counts.endings[status] / max(1, counts.tests) for status in KILLS}
    for name, value in metrics.items():
        log_metric(f"{reward}/{name}", value)
