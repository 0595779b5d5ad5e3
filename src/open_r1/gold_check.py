"""Every gold answer, passed back through the reward that is to judge by it: `python -m open_r1.gold_check RECIPE`.

A data set whose golds the reward does not accept teaches nothing, or something wrong. Each gold is put where the recipe
wants answers to stand, and must score 1 by every reward that is for its row. Of instructions the gold is no answer: it
must be one that can be read. Where programs are judged, each row must have tests that can be, and its gold program, if
the data has one, must pass them.
"""

import functools
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.judging.instructions import BadGold, read_instructions
from open_r1.judging.pool import DEFAULT_CPU_SECONDS
from open_r1.judging.programs import BadRow, read_row
from open_r1.judging.programs.contests import codeforces_task, ioi_task
from open_r1.recipe import Recipe, RecipeError, Reward, Thinking, load_recipe
from open_r1.rewards import code, columns_of_reward, reward_columns
from open_r1.rewards.completion import with_answer, with_program
from open_r1.rewards.final_answer import final_answer_reward, last_number_reward
from open_r1.rewards.math import judge_completions
from open_r1.sandbox import SANDBOXES
from open_r1.stages import stage_recipe

REPORT_FILE = "gold_check.json"
PROGRAMS_REPORT_FILE = "program_check.json"
JUDGES_OF_MATHEMATICS = ("accuracy", "cosine", "length")
JUDGE_OF_INSTRUCTIONS = "instructions"
JUDGES_BY_SOLUTION = (*JUDGES_OF_MATHEMATICS, "final_answer", "last_number", JUDGE_OF_INSTRUCTIONS)
JUDGES_OF_PROGRAMS = ("code", "binary_code")
TASKS_OF_CONTESTS = {"cf_code": codeforces_task, "ioi_code": ioi_task}
GOLD_PROGRAM_COLUMNS = ("gold_standard_solution", "solution")
MAX_GOLD_PROGRAMS_AT_START = 256  # of a run, spread over the data; a data set may take hours to run in full
GOLD_PROGRAMS_AT_A_TIME = 64
GOLDS_AT_A_TIME = 4096
MAX_SHOWN = 20
MAX_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Failure:
    """A row of the data whose own gold the reward does not accept; `gold` is None if the row is at fault by itself."""

    row: int
    gold: str | None
    reason: str


@dataclass(frozen=True)
class GoldCheck:
    """How many of the golds the reward accepts, and which not."""

    num_rows: int
    seconds: float
    failures: tuple[Failure, ...]
    subject: str = "golds"

    @property
    def verified_share(self) -> float:
        return 1 - len(self.failures) / self.num_rows

    def summary(self) -> str:
        """One line: rows, share, seconds, and how often each reason occurs."""
        num_verified = self.num_rows - len(self.failures)
        share = f"{num_verified} of {self.num_rows} {self.subject} verified ({self.verified_share:.2%})"
        line = f"{share} in {self.seconds:.1f} s"
        reasons = Counter(failure.reason.partition(":")[0] for failure in self.failures)
        return line + "".join(f"; {count} {reason}" for reason, count in reasons.most_common(3))

    def lines(self, limit: int = MAX_SHOWN) -> Iterator[str]:
        """A line for each of the first failures."""
        for failure in self.failures[:limit]:
            if failure.gold is None:
                yield f"row {failure.row}: {failure.reason}"
                continue
            gold = (
                failure.gold if len(failure.gold) <= MAX_SHOWN_CHARACTERS else failure.gold[:MAX_SHOWN_CHARACTERS] + "…"
            )
            yield f"row {failure.row}: {gold!r}: {failure.reason}"
        if len(self.failures) > limit:
            yield f"… and {len(self.failures) - limit} more"


def judging_rewards(recipe: Recipe) -> list[Reward]:
    """The rewards of the recipe that judge by `solution`; of those that judge the same rows in one way the first."""
    ways: dict[tuple, Reward] = {}
    for reward in recipe.rewards:
        if reward.name in JUDGES_BY_SOLUTION:
            judge = "mathematics" if reward.name in JUDGES_OF_MATHEMATICS else reward.name
            settings = (reward.parameters.get(name) for name in ("answer_in", "cpu_seconds"))
            ways.setdefault((judge, reward.tasks, *settings), reward)
    return list(ways.values())


def judging_reward(recipe: Recipe) -> Reward | None:
    """The first reward of the recipe that judges by `solution`; None if none does."""
    return next(iter(judging_rewards(recipe)), None)


def program_reward(recipe: Recipe) -> Reward | None:
    """The reward of the recipe that judges programs by `verification_info`; None if none does."""
    return next((reward for reward in recipe.rewards if reward.name in JUDGES_OF_PROGRAMS), None)


def judges_programs(recipe: Recipe) -> bool:
    """True if a reward of the recipe runs programs against the tests of a row."""
    return any(reward.name in (*JUDGES_OF_PROGRAMS, *TASKS_OF_CONTESTS) for reward in recipe.rewards)


def gold_program_column(recipe: Recipe, section: str = "data") -> str | None:
    """Our name of the column with gold programs, if `code` judges and all of `data` (or `eval_data`) surely has one.

    Else None.

    Of data on the Hub that is sure if the recipe maps it, e.g. `columns: {solution: gold_standard_solution}`.
    """
    from open_r1.data import columns_of

    if program_reward(recipe) is None:
        return None
    names = GOLD_PROGRAM_COLUMNS if judging_reward(recipe) is None else GOLD_PROGRAM_COLUMNS[:1]
    reward = program_reward(recipe)
    judged = [source for source in getattr(recipe, section) if reward.is_for(source.task) or "task" in source.columns]
    if not judged:
        return None
    given = [columns_of(recipe, source) or set(source.columns) for source in judged]
    return next((name for name in names if all(name in columns for columns in given)), None)


def row_problems(recipe: Recipe, dataset: Mapping[str, Sequence[Any]]) -> dict[int, str]:
    """Row -> why nothing can be judged by it, for the rows of which some reward of the recipe says so."""
    of_instructions = _problems(recipe, dataset, [JUDGE_OF_INSTRUCTIONS], lambda reward: _instructions_problem)
    return _program_problems(recipe, dataset) | of_instructions


def _program_problems(recipe: Recipe, dataset: Mapping[str, Sequence[Any]]) -> dict[int, str]:
    """Row -> why no program can be judged by it."""
    return _problems(recipe, dataset, (*JUDGES_OF_PROGRAMS, *TASKS_OF_CONTESTS), _of_programs)


def _problems(
    recipe: Recipe,
    dataset: Mapping[str, Sequence[Any]],
    names: Sequence[str],
    problem_by: Callable[[Reward], Callable[..., str | None]],
) -> dict[int, str]:
    """Row -> what the first reward of one of these names that is for it says of its columns, if it says anything."""
    problems: dict[int, str] = {}
    for reward in (reward for reward in recipe.rewards if reward.name in names):
        names_of_columns = columns_of_reward(reward)
        if not _are_in(dataset, names_of_columns):
            continue  # it is for other tasks than these rows have
        problem_of = problem_by(reward)
        tasks = None if reward.tasks is None else list(dataset["task"])
        for row, columns in enumerate(zip(*(dataset[name] for name in names_of_columns), strict=True)):
            if tasks is not None and not reward.is_for(tasks[row]):
                continue
            if (problem := problem_of(*columns)) is not None:
                problems.setdefault(row, problem)
    return problems


def _are_in(dataset: Mapping[str, Sequence[Any]], names: Sequence[str]) -> bool:
    return set(names).issubset(getattr(dataset, "column_names", None) or dataset)


def program_columns(recipe: Recipe, dataset) -> dict[str, Sequence[Any]]:
    """What the rewards ask of the data, of it what there is; nothing if no row is for a reward that runs programs."""
    judges = [reward for reward in recipe.rewards if reward.name in (*JUDGES_OF_PROGRAMS, *TASKS_OF_CONTESTS)]
    if not any(_are_in(dataset, columns_of_reward(reward)) for reward in judges):
        return {}
    return {name: dataset[name] for name in reward_columns(recipe.rewards) if name in dataset.column_names}


def _of_programs(reward: Reward) -> Callable[..., str | None]:
    read = TASKS_OF_CONTESTS.get(reward.name, read_row)
    language_problem = functools.cache(SANDBOXES[reward.parameters.get("sandbox", "local")].language_problem)

    def problem_of(*columns: Any) -> str | None:
        try:
            return language_problem(read(*columns).language)
        except BadRow as refusal:
            return str(refusal)

    return problem_of


def _instructions_problem(gold: Any) -> str | None:
    """Why nobody can say whether an answer follows the instructions of this gold; None if that can be said."""
    try:
        read_instructions(gold if isinstance(gold, str) else json.dumps(gold, default=str))
    except BadGold as refusal:
        return str(refusal)
    return None


def check_golds(recipe: Recipe, golds: Sequence[str], tasks: Sequence[str] | None = None) -> GoldCheck | None:
    """Every gold as the answer to its own problem, by each reward for it; None if no reward judges a row by a gold.

    `tasks` are the rows'; those that no reward judges by a gold are passed over. A gold that states instructions is no
    answer, and only read. Of a row that several rewards refuse, the first one's reason is told.
    """
    started = time.monotonic()
    judged: set[int] = set()
    failures: dict[int, Failure] = {}
    for reward in judging_rewards(recipe):
        for start in range(0, len(golds), GOLDS_AT_A_TIME):
            rows = range(start, len(golds))[:GOLDS_AT_A_TIME]
            given = golds[rows.start : rows.stop]
            if reward.tasks is not None:
                judged_here = [reward.is_for(task) for task in tasks[rows.start : rows.stop]]
                rows, given = (list(itertools.compress(each, judged_here)) for each in (rows, given))
            judged.update(rows)
            for failure in _refused_golds(recipe, reward, rows, given):
                failures.setdefault(failure.row, failure)
    if not judged:
        return None
    in_order = tuple(failures[row] for row in sorted(failures))
    return GoldCheck(len(judged), time.monotonic() - started, in_order)


def _refused_golds(recipe: Recipe, reward: Reward, rows: Sequence[int], golds: Sequence[Any]) -> Iterator[Failure]:
    if reward.name == JUDGE_OF_INSTRUCTIONS:
        told = ((row, _instructions_problem(gold)) for row, gold in zip(rows, golds, strict=True))
        yield from (Failure(row, None, problem) for row, problem in told if problem is not None)
        return
    answered = ["" if gold is None else str(gold) for gold in golds]
    reasons = {"final_answer": _by_final_answer, "last_number": _by_last_number}.get(reward.name, _by_mathematics)
    for row, gold, reason in zip(rows, answered, reasons(recipe, reward, answered), strict=True):
        if reason is not None:
            yield Failure(row, gold, reason)


def _by_mathematics(recipe: Recipe, reward: Reward, golds: Sequence[str]) -> list[str | None]:
    """Why each gold is not accepted, None for those that are."""
    answer_in = reward.parameters.get("answer_in", "both")
    cpu_seconds = reward.parameters.get("cpu_seconds", DEFAULT_CPU_SECONDS)
    completions = [with_answer(gold, recipe.thinking, answer_in) for gold in golds]
    judged, _ = judge_completions(completions, golds, recipe.thinking, answer_in, cpu_seconds)
    return [None if one.verdict.score == 1.0 else one.verdict.reason for one in judged]


def _by_final_answer(recipe: Recipe, reward: Reward, golds: Sequence[str]) -> list[str | None]:
    told: dict[str, list[str]] = {}
    boxed = [with_answer(gold, recipe.thinking.model_copy(update={"answer_in": "tags"}), "boxed") for gold in golds]
    scores = final_answer_reward(
        boxed, golds, thinking=recipe.thinking, log_extra=told.__setitem__, **reward.parameters
    )
    reasons: list[str | None] = []
    for gold, score, reason in zip(golds, scores, told["final_answer_reason"], strict=True):
        if score is None:  # of a gold whose braces do not close the box does not either, and that would be told
            (judged,), _ = judge_completions([gold], [gold], Thinking(answer_in="rest"), "both")
            reason = judged.verdict.reason
        reasons.append(None if score == 1.0 else reason.removeprefix(r"\boxed{}: "))
    return reasons


def _by_last_number(recipe: Recipe, reward: Reward, golds: Sequence[str]) -> list[str | None]:
    told: dict[str, list[str]] = {}
    behind = [with_answer(gold, recipe.thinking.model_copy(update={"answer_in": "rest"})) for gold in golds]
    scores = last_number_reward(behind, golds, thinking=recipe.thinking, log_extra=told.__setitem__)
    return [
        None if score == 1.0 else "it has no number" if score is None else f"its last number is another: {number}"
        for score, number in zip(scores, told["last_number_answer"], strict=True)
    ]


def check_programs(
    recipe: Recipe,
    columns: Mapping[str, Sequence[Any]],
    golds: Sequence[str | None] | None = None,
    max_golds: int | None = None,
) -> GoldCheck | None:
    """Every row's tests, and the gold programs of at most `max_golds` rows; None if no reward judges programs.

    `columns` holds what the rewards ask of the data. A row without a gold program is verified if programs can be judged
    by it, and so is a row of a contest.
    """
    if not judges_programs(recipe) or not len(next(iter(columns.values()))):
        return None
    started = time.monotonic()
    problems = _program_problems(recipe, columns)
    failures = [Failure(row, None, reason) for row, reason in problems.items()]
    if golds is not None and (reward := program_reward(recipe)) is not None:
        failures += _wrong_golds(recipe, reward, columns["verification_info"], golds, problems, max_golds)
    failures.sort(key=lambda failure: failure.row)
    num_rows = len(next(iter(columns.values())))
    return GoldCheck(num_rows, time.monotonic() - started, tuple(failures), "rows")


def _wrong_golds(
    recipe: Recipe,
    reward: Reward,
    verification_info: Sequence[code.VerificationInfo],
    golds: Sequence[str | None],
    problems: Mapping[int, str],
    max_golds: int | None,
) -> Iterator[Failure]:
    parameters = {"sandbox": "local"} | reward.parameters
    sandbox = code.open_sandbox(reward.name, parameters.pop("sandbox"), **parameters)
    rows = [row for row, gold in enumerate(golds) if gold and row not in problems]
    if max_golds is not None and len(rows) > max_golds:
        rows = [rows[index * len(rows) // max_golds] for index in range(max_golds)]
    for start in range(0, len(rows), GOLD_PROGRAMS_AT_A_TIME):
        some = rows[start : start + GOLD_PROGRAMS_AT_A_TIME]
        infos = [verification_info[row] for row in some]
        completions = [
            with_program(golds[row], read_row(verification_info[row]).language, recipe.thinking) for row in some
        ]
        judged, _ = code.judge_completions(completions, infos, recipe.thinking, sandbox)
        for row, one in zip(some, judged, strict=True):
            if one.share != 1.0:
                yield Failure(row, golds[row], one.reason)


def require_verified_golds(
    recipe: Recipe, golds: Sequence[str], run_dir: Path, section: str = "data", tasks: Sequence[str] | None = None
) -> GoldCheck | None:
    """The check of a run's golds, written to `run_dir/gold_check.json` (`eval_gold_check.json` for those of eval_data).

    Raises RecipeError if fewer than `guards.min_verified_gold_share` are accepted.
    """
    if recipe.guards.min_verified_gold_share is None:
        return None
    return _require(recipe, check_golds(recipe, golds, tasks), run_dir, REPORT_FILE, section)


def require_verified_programs(
    recipe: Recipe,
    columns: Mapping[str, Sequence[Any]],
    golds: Sequence[str | None] | None,
    run_dir: Path,
    section: str = "data",
) -> GoldCheck | None:
    """The check of a run's tests and of some of its gold programs, written to `run_dir/program_check.json`.

    The check of eval_data is written to `eval_program_check.json`.

    Raises RecipeError if fewer than `guards.min_verified_gold_share` of the rows can be used.
    """
    if recipe.guards.min_verified_gold_share is None:
        return None
    checked = check_programs(recipe, columns, golds, MAX_GOLD_PROGRAMS_AT_START)
    return _require(recipe, checked, run_dir, PROGRAMS_REPORT_FILE, section)


def _require(
    recipe: Recipe, checked: GoldCheck | None, run_dir: Path, report_file: str, section: str
) -> GoldCheck | None:
    if checked is None:
        return None
    report = {
        "num_rows": checked.num_rows,
        "verified_share": checked.verified_share,
        "seconds": round(checked.seconds, 3),
        "failures": [vars(failure) for failure in checked.failures],
    }
    file = run_dir / (report_file if section == "data" else f"eval_{report_file}")
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    problem = problem_with(recipe, checked, section)
    if problem:
        raise RecipeError(problem)
    return checked


def problem_with(recipe: Recipe, checked: GoldCheck, section: str = "data") -> str | None:
    """The line that stops a run; None if enough golds are accepted."""
    limit = recipe.guards.min_verified_gold_share
    if limit is None or checked.verified_share >= limit:
        return None
    first = next(checked.lines(1))
    return (
        f"{recipe.source}: {section}: {checked.verified_share:.2%} of the {checked.subject} are accepted by the "
        f"reward, guards.min_verified_gold_share is {limit:.0%}; {first}; "
        f"`make check-data RECIPE={recipe.source}` lists them"
    )


def _checks(recipe: Recipe) -> Iterator[tuple[Recipe, str, GoldCheck]]:
    """Each recipe of which a reward judges by the data, a pipeline's stages for themselves, and how its data does.

    Of a recipe with eval_data twice: the section's name stands beside it.
    """
    from open_r1.data import load_data

    stages = [stage_recipe(recipe, stage) for stage in recipe.stages] if recipe.step == "pipeline" else [recipe]
    for each, section in ((each, section) for each in stages for section in ("data", "eval_data")):
        if not getattr(each, section):
            continue
        if judges := judging_rewards(each):
            by_task = any(reward.tasks for reward in judges)
            data = load_data(each, ["solution", *(["task"] if by_task else [])], section)
            if checked := check_golds(each, data["solution"], data["task"] if by_task else None):
                yield each, section, checked
        if judges_programs(each):
            gold_column = gold_program_column(each, section)
            names = reward_columns(each.rewards)
            data = load_data(each, [*names, *([gold_column] if gold_column else [])], section)
            if columns := program_columns(each, data):
                yield each, section, check_programs(each, columns, data[gold_column] if gold_column else None)


def main(arguments: list[str]) -> int:
    """Prints the share and the failing golds of the recipe named first, with the overrides after it.

    Exit code 0 if enough golds are accepted, 2 if not or if the recipe is at fault.
    """
    from open_r1.check import check_recipe

    try:
        if not arguments:
            raise RecipeError("make check-data needs a recipe: make check-data RECIPE=recipes/…")
        recipe = load_recipe(Path(arguments[0]), arguments[1:])
        check_recipe(recipe)
        problems, num_checked = [], 0
        for each, section, checked in _checks(recipe):
            num_checked += 1
            of_section = "" if section == "data" else f"{section}: "
            print(f"{each.source}: {of_section}{checked.summary()}")
            for line in checked.lines():
                print(f"  {line}")
            problem = problem_with(each, checked, section)
            problems += [problem] if problem else []
        if not num_checked:
            raise RecipeError(f"{recipe.source}: rewards: none of them judges by a gold answer; nothing to check")
        if problems:
            raise RecipeError(*problems)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
