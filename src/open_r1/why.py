"""Why a completion got its rewards: `make why RECIPE=…`, or any answer: `… --gold 1/3 --answer 0.3`.

Shows completions of the recipe's latest run (of a pipeline, those of its GRPO stage), from the tables that the run
wrote: what was extracted, from where, and how it was judged, with every reward as the trainer saw it. Without further
words one completion for each value of the first reward, of the last step; `step=40 row=3` shows that one.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from open_r1.judging import shared_pool
from open_r1.judging.mathematics.shortcut import without_algebra
from open_r1.recipe import Recipe, RecipeError, load_recipe
from open_r1.running import run_directory
from open_r1.stages import stage_recipe

MAX_SHOWN_CHARACTERS = 1500
COLUMNS_OF_TRL = ("step", "prompt", "completion", "advantage")


def explain_answer(gold: str, answer: str) -> str:
    """One line: the verdict on an answer, and why."""
    verdict = without_algebra(gold, answer) or shared_pool().judge([(gold, answer)])[0]
    return f"{_score(verdict.score)}: {answer!r} for {gold!r}: {verdict.reason}"


def explanations(recipe: Recipe, step: int | None = None, row: int | None = None) -> Iterator[str]:
    """The completions of the latest run that were asked for, each as the text that is printed.

    Raises RecipeError if there is no run, step or row.
    """
    table, rewards = read_completions(recipe, step)
    if row is not None:
        if not 0 <= row < len(table):
            raise RecipeError(
                f"{recipe.source}: row={row}: step {table['step'].iloc[0]} has rows 0 to {len(table) - 1}"
            )
        rows = [row]
    else:
        rows = [int(group.index[0]) for _, group in table.groupby(rewards[0], dropna=False)]
    for index in rows:
        yield explain_row(table.loc[index], index, rewards)


def explain_row(row: pd.Series, index: int, rewards: list[str]) -> str:
    """Prompt, completion and rewards of one row of a completions table, and what the rewards say of it."""
    notes = [column for column in row.index if column not in (*COLUMNS_OF_TRL, *rewards)]
    lines = [
        f"--- step {row['step']}, row {index}",
        f"prompt: {_text(row['prompt'])}",
        f"completion: {_text(row['completion'])}",
        *(f"{name}: {_score(row[name])}" for name in rewards),
        *(f"  {name}: {row[name]}" for name in notes),
        f"advantage: {row['advantage']:.3f}",
    ]
    return "\n".join(lines)


def read_completions(recipe: Recipe, step: int | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The completions table of one step of the latest run (the last step if none is given), and its reward columns."""
    run_dir, trained = _latest_run(recipe)
    folder = run_dir / "completions"
    files = {int(file.stem.rpartition("_")[2]): file for file in folder.glob("completions_*.parquet")}
    if not files:
        raise RecipeError(
            f"{recipe.source}: no completions in {folder}; run it first, with trainer.log_completions: true"
        )
    chosen = max(files) if step is None else step
    if chosen not in files:
        raise RecipeError(f"{recipe.source}: step={step}: the run logged steps {min(files)} to {max(files)}")
    table = pd.read_parquet(files[chosen]).reset_index(drop=True)
    names = [reward.name.rpartition(":")[2] for reward in trained.rewards]
    return table, [name for name in dict.fromkeys(names) if name in table.columns]


def _latest_run(recipe: Recipe) -> tuple[Path, Recipe]:
    """Directory and recipe of the GRPO run that was meant: the recipe's own, or the last such stage of a pipeline."""
    here = run_directory(recipe)
    run_dir = here if here.is_dir() else here.parent / "latest"
    if recipe.step != "pipeline":
        return run_dir, recipe
    stages = [(stage.name, stage_recipe(recipe, stage)) for stage in recipe.stages]
    rewarded = [(name, stage) for name, stage in stages if stage.step == "grpo"]
    if not rewarded:
        raise RecipeError(f"{recipe.source}: stages: none of them is a GRPO run")
    name, trained = rewarded[-1]
    return run_dir / name, trained


def _text(messages) -> str:
    text = messages if isinstance(messages, str) else messages[-1]["content"]
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"


def _score(value: float | None) -> str:
    return "no verdict" if value is None or pd.isna(value) else f"{value:g}"


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with one line if there is nothing to show."""
    parser = argparse.ArgumentParser(prog="open_r1.why", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path)
    parser.add_argument("which", nargs="*", help="step=40 row=3")
    parser.add_argument("--gold")
    parser.add_argument("--answer")
    asked = parser.parse_args(arguments)
    try:
        if asked.gold is not None and asked.answer is not None:
            print(explain_answer(asked.gold, asked.answer))
            return 0
        if asked.recipe is None:
            raise RecipeError("make why needs a recipe (RECIPE=recipes/…), or ARGS=\"--gold '1/3' --answer '0.333'\"")
        which = _which(asked.which)
        print("\n".join(explanations(load_recipe(asked.recipe), which.get("step"), which.get("row"))))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _which(words: list[str]) -> dict[str, int]:
    which = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in ("step", "row") or not value.isdecimal():
            raise RecipeError(f"{word}: write step=40 or row=3")
        which[key] = int(value)
    return which


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
