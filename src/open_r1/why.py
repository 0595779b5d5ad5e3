"""Why a completion got its rewards: `make why RECIPE=…`, or any answer: `… --gold 1/3 --answer 0.3`.

Shows completions of the recipe's latest run, from the tables that the run wrote: what was extracted, from where, and
how it was judged, with every reward. Of a pipeline, those of its last GRPO stage, or of ARGS="stage=…". Without further
words, of RL one completion for each value of the first reward, of the last step (`step=40 row=3` shows that one); of
sampling one for each reason for which completions were dropped, and one that stayed (`id=12-0` shows that one).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from open_r1.generation.shards import FOLDER
from open_r1.gold_check import JUDGES_OF_MATHEMATICS, judging_rewards
from open_r1.judging import shared_pool
from open_r1.judging.mathematics.shortcut import without_algebra
from open_r1.recipe import Recipe, RecipeError, Reward, load_recipe
from open_r1.rewards import reward_function
from open_r1.rewards.math import judge_completions, reason_of
from open_r1.running import run_directory
from open_r1.stages import KEPT, stage_recipe

MAX_SHOWN_CHARACTERS = 1500
COLUMNS_OF_TRL = ("step", "prompt", "completion", "advantage")
WORDS = {"grpo": ("step", "row"), "generate": ("id",), "distill": ("id",)}  # of a step -> what chooses a completion
BEYOND = "a near-duplicate, or beyond keep.max_per_prompt or keep.max_traces"


def explain_answer(gold: str, answer: str) -> str:
    """One line: the verdict on an answer, and why."""
    verdict = without_algebra(gold, answer) or shared_pool().judge([(gold, answer)])[0]
    return f"{_score(verdict.score)}: {answer!r} for {gold!r}: {verdict.reason}"


def explanations(recipe: Recipe, which: dict[str, str]) -> Iterator[str]:
    """The completions of the latest run that were asked for, each as the text that is printed.

    `which` has the words: stage, and those that the step has in WORDS. Raises RecipeError if there is no run or stage,
    if nothing has that step, row or id, or for a word that the step does not have.
    """
    run_dir, ran = _latest_run(recipe, which.get("stage"))
    words = WORDS.get(ran.step, ())
    if not words:
        raise RecipeError(f"{recipe.source}: a step {ran.step} has no completions with rewards")
    for word in which:
        if word not in ("stage", *words):
            chosen_by = " and ".join(words)
            raise RecipeError(f"{recipe.source}: {word}={which[word]}: completions of {ran.step} have {chosen_by}")
    if ran.step == "grpo":
        numbers = {word: _number(word, which[word]) for word in words if word in which}
        yield from _explain_rollout(recipe, run_dir, ran, **numbers)
    else:
        yield from _explain_sampled(recipe, run_dir, ran, which.get("id"))


def _explain_rollout(
    recipe: Recipe, run_dir: Path, ran: Recipe, step: int | None = None, row: int | None = None
) -> Iterator[str]:
    table, rewards = read_completions(recipe, run_dir, ran, step)
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


def _explain_sampled(recipe: Recipe, run_dir: Path, ran: Recipe, wanted: str | None) -> Iterator[str]:
    """The completion with the wanted id, or the first of each reason; a shard at a time is held in memory."""
    files = sorted((run_dir / FOLDER).glob("part-*.parquet"))
    if not files:
        raise RecipeError(f"{recipe.source}: no completions in {run_dir / FOLDER}; run it first")
    shown = set()
    for file in files:
        table = pd.read_parquet(file)
        kept_file = run_dir / KEPT / file.name
        kept = set(pd.read_parquet(kept_file, columns=["id"])["id"]) if kept_file.exists() else set()
        beyond = table["dropped_for"].isna() & ~table["id"].isin(kept)
        reasons = table["dropped_for"].fillna("kept").mask(beyond, BEYOND)
        for (_, row), reason in zip(table.iterrows(), reasons, strict=True):
            if row["id"] == wanted or (wanted is None and reason not in shown):
                shown.add(reason)
                yield explain_sampled_row(row, reason, ran)
    if not shown:
        raise RecipeError(f"{recipe.source}: id={wanted}: no completion in {run_dir / FOLDER} has it")


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


def explain_sampled_row(row: pd.Series, reason: str, ran: Recipe) -> str:
    """Prompt, completion and rewards of one sampled row, and what became of it; its answer is judged anew."""
    names = [column.removeprefix("reward_") for column in row.index if column.startswith("reward_")]
    lines = [
        f"--- id {row['id']}: {reason if reason == 'kept' else f'dropped: {reason}'}",
        f"prompt: {_text(row['prompt'])}",
        f"completion: {_text(row['completion'])}",
        *(f"{name}: {_score(row[f'reward_{name}'])}" for name in names),
    ]
    judges = judging_rewards(ran)
    if judges and pd.notna(row["refused"] or None):
        lines.append(f"refused: {row['refused']}")
    else:
        for reward in judges:
            if reward.is_for(row.get("task")):
                lines += [f"  {note}" for note in _notes(reward, row, ran)]
    lines.append(f"tokens: {row['num_tokens']}{', cut off' if row['truncated'] else ''}")
    return "\n".join(lines)


def _notes(reward: Reward, row: pd.Series, ran: Recipe) -> list[str]:
    """What a reward that judges by `solution` says of a row's answer: `name: note`."""
    if reward.name in JUDGES_OF_MATHEMATICS:
        answer_in = reward.parameters.get("answer_in", "both")
        (judged,), _ = judge_completions([row["completion"]], [row["solution"]], ran.thinking, answer_in)
        return [f"{reward.name}_reason: {reason_of(judged)}"]
    told: dict[str, list[str]] = {}
    reward_function(reward)(
        [row["completion"]], [row["solution"]], thinking=ran.thinking, log_extra=told.__setitem__, **reward.parameters
    )
    return [f"{name}: {note}" for name, (note,) in told.items()]


def read_completions(
    recipe: Recipe, run_dir: Path, trained: Recipe, step: int | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The completions table of one step of a run of RL (the last step if none is given), and its reward columns."""
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
    names = [reward.called for reward in trained.rewards]
    return table, [name for name in dict.fromkeys(names) if name in table.columns]


def _latest_run(recipe: Recipe, stage: str | None) -> tuple[Path, Recipe]:
    """Directory and recipe of the run that was meant: the recipe's own, or a stage of a pipeline's."""
    here = run_directory(recipe)
    run_dir = here if here.is_dir() else here.parent / "latest"
    if recipe.step != "pipeline":
        if stage is not None:
            raise RecipeError(f"{recipe.source}: stage={stage}: only a pipeline has stages")
        return run_dir, recipe
    stages = {each.name: stage_recipe(recipe, each) for each in recipe.stages}
    if stage is None:
        rewarded = [name for name, of_stage in stages.items() if of_stage.step == "grpo"]
        if not rewarded:
            raise RecipeError(f"{recipe.source}: stages: none of them is a GRPO run; name one, stage=…")
        stage = rewarded[-1]
    if stage not in stages:
        raise RecipeError(f"{recipe.source}: stage={stage}: there is none (stages: {', '.join(stages)})")
    return run_dir / stage, stages[stage]


def _text(messages) -> str:
    text = messages if isinstance(messages, str) else messages[-1]["content"]
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"


def _score(value: float | None) -> str:
    return "no verdict" if value is None or pd.isna(value) else f"{value:g}"


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with one line if there is nothing to show."""
    parser = argparse.ArgumentParser(prog="open_r1.why", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path)
    parser.add_argument("which", nargs="*", help="stage=final_rl, step=40 row=3, id=12-0")
    parser.add_argument("--gold")
    parser.add_argument("--answer")
    asked = parser.parse_args(arguments)
    try:
        if asked.gold is not None and asked.answer is not None:
            print(explain_answer(asked.gold, asked.answer))
            return 0
        if asked.recipe is None:
            raise RecipeError("make why needs a recipe (RECIPE=recipes/…), or ARGS=\"--gold '1/3' --answer '0.333'\"")
        which = {}
        for word in asked.which:
            key, equals, value = word.partition("=")
            if key not in ("stage", "step", "row", "id") or not (equals and value):
                raise RecipeError(f"{word}: write stage=final_rl, step=40, row=3 or id=12-0")
            which[key] = value
        print("\n".join(explanations(load_recipe(asked.recipe), which)))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _number(word: str, value: str) -> int:
    if not value.isdecimal():
        raise RecipeError(f"{word}={value}: write step=40 or row=3")
    return int(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
