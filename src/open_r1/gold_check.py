"""Every gold answer, passed back through the reward that is to judge by it: `python -m open_r1.gold_check RECIPE`.

A data set whose golds the reward does not accept teaches nothing, or something wrong. Each gold is put where the recipe
wants answers to stand, and must score 1.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.judging.pool import DEFAULT_CPU_SECONDS
from open_r1.recipe import Recipe, RecipeError, Reward, load_recipe
from open_r1.rewards import columns_of_reward
from open_r1.rewards.completion import with_answer
from open_r1.rewards.math import judge_completions
from open_r1.stages import stage_recipe

REPORT_FILE = "gold_check.json"
JUDGES_OF_MATHEMATICS = ("accuracy", "cosine", "length")
MAX_SHOWN = 20
MAX_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Failure:
    """A row of the data whose own gold the reward does not accept."""

    row: int
    gold: str
    reason: str


@dataclass(frozen=True)
class GoldCheck:
    """How many of the golds the reward accepts, and which not."""

    num_rows: int
    seconds: float
    failures: tuple[Failure, ...]

    @property
    def verified_share(self) -> float:
        return 1 - len(self.failures) / self.num_rows

    def summary(self) -> str:
        """One line: rows, share, seconds, and how often each reason occurs."""
        num_verified = self.num_rows - len(self.failures)
        line = f"{num_verified} of {self.num_rows} golds verified ({self.verified_share:.2%}) in {self.seconds:.1f} s"
        reasons = Counter(failure.reason.partition(":")[0] for failure in self.failures)
        return line + "".join(f"; {count} {reason}" for reason, count in reasons.most_common(3))

    def lines(self, limit: int = MAX_SHOWN) -> Iterator[str]:
        """A line for each of the first failures."""
        for failure in self.failures[:limit]:
            gold = (
                failure.gold if len(failure.gold) <= MAX_SHOWN_CHARACTERS else failure.gold[:MAX_SHOWN_CHARACTERS] + "…"
            )
            yield f"row {failure.row}: {gold!r}: {failure.reason}"
        if len(self.failures) > limit:
            yield f"… and {len(self.failures) - limit} more"


def judging_reward(recipe: Recipe) -> Reward | None:
    """The reward of the recipe that judges by `solution`; None if none does."""
    judging = [reward for reward in recipe.rewards if reward.name in JUDGES_OF_MATHEMATICS]
    return judging[0] if judging else None


def check_golds(recipe: Recipe, golds: Sequence[str]) -> GoldCheck | None:
    """Every gold as the answer to its own problem; None if no reward of the recipe judges by a gold."""
    reward = judging_reward(recipe)
    if reward is None or not len(golds):
        return None
    answer_in = reward.parameters.get("answer_in", "both")
    cpu_seconds = reward.parameters.get("cpu_seconds", DEFAULT_CPU_SECONDS)
    started = time.monotonic()
    answered = ["" if gold is None else str(gold) for gold in golds]
    completions = [with_answer(gold, recipe.thinking, answer_in) for gold in answered]
    judged, _ = judge_completions(completions, answered, recipe.thinking, answer_in, cpu_seconds)
    failures = tuple(
        Failure(row, gold, one.verdict.reason)
        for row, (gold, one) in enumerate(zip(answered, judged, strict=True))
        if one.verdict.score != 1.0
    )
    return GoldCheck(len(golds), time.monotonic() - started, failures)


def require_verified_golds(recipe: Recipe, golds: Sequence[str], run_dir: Path) -> GoldCheck | None:
    """The check of a run's golds, written to `run_dir/gold_check.json`.

    Raises RecipeError if fewer than `guards.min_verified_gold_share` are accepted.
    """
    if recipe.guards.min_verified_gold_share is None:
        return None
    checked = check_golds(recipe, golds)
    if checked is None:
        return None
    report = {
        "num_rows": checked.num_rows,
        "verified_share": checked.verified_share,
        "seconds": round(checked.seconds, 3),
        "failures": [vars(failure) for failure in checked.failures],
    }
    (run_dir / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    problem = problem_with(recipe, checked)
    if problem:
        raise RecipeError(problem)
    return checked


def problem_with(recipe: Recipe, checked: GoldCheck) -> str | None:
    """The line that stops a run; None if enough golds are accepted."""
    limit = recipe.guards.min_verified_gold_share
    if limit is None or checked.verified_share >= limit:
        return None
    first = next(checked.lines(1))
    return (
        f"{recipe.source}: data: {checked.verified_share:.2%} of the golds are accepted by the reward, "
        f"guards.min_verified_gold_share is {limit:.0%}; {first}; `make check-data RECIPE={recipe.source}` lists them"
    )


def _recipes_with_golds(recipe: Recipe) -> Iterator[Recipe]:
    stages = [stage_recipe(recipe, stage) for stage in recipe.stages] if recipe.step == "pipeline" else [recipe]
    for each in stages:
        reward = judging_reward(each)
        if reward is not None and "solution" in columns_of_reward(reward):
            yield each


def main(arguments: list[str]) -> int:
    """Prints the share and the failing golds of the recipe named first, with the overrides after it.

    Exit code 0 if enough golds are accepted, 2 if not or if the recipe is at fault.
    """
    from open_r1.check import check_recipe
    from open_r1.data import load_data

    try:
        if not arguments:
            raise RecipeError("make check-data needs a recipe: make check-data RECIPE=recipes/…")
        recipe = load_recipe(Path(arguments[0]), arguments[1:])
        check_recipe(recipe)
        problems, num_checked = [], 0
        for each in _recipes_with_golds(recipe):
            checked = check_golds(each, load_data(each, ["solution"])["solution"])
            num_checked += 1
            print(f"{each.source}: {checked.summary()}")
            for line in checked.lines():
                print(f"  {line}")
            problem = problem_with(each, checked)
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
