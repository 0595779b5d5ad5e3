"""The traces of a run: its completions verified by the rewards, and the kept ones in kept/."""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from open_r1 import training
from open_r1.curation.rejection import judge, keep_within_limits, schema_of
from open_r1.curation.rows import REFUSED
from open_r1.curation.sampling import (
    Judge,
    ai_judge_of,
    check_judged,
    check_refused,
    leave_completions,
    model_of,
    sampling_counts,
    section_of,
    verdicts_in,
    verdicts_of,
)
from open_r1.feedback import load_rubric
from open_r1.feedback.judge import who_judges
from open_r1.feedback.reward_models import load_reward_models
from open_r1.generation.backends import thinking_after
from open_r1.recipe import Recipe, Reward, is_path
from open_r1.rewards import asks_judge, build_rewards
from open_r1.run_record import read_record
from open_r1.shares import COUNTS_OF_TRACES
from open_r1.stages import KEPT
from open_r1.whole_files import whole


def leave_traces(recipe: Recipe, run_dir: Path, processes: PartialState) -> None:
    """Leaves completions/, kept/ and prompts/ in `run_dir`, and their counts in generate.json or distill.json.

    In the directory of a share, its completions alone. What an earlier attempt, or a share that was taken up, has
    finished is not done again. Raises RunStopped if the judge breaks or a server fails.
    """
    counts_file = run_dir / COUNTS_OF_TRACES[recipe.step]
    if counts_file.exists():
        return
    prompts = training.verified_data(recipe, run_dir, processes)
    schema = schema_of(prompts.features.arrow_schema, [reward.called for reward in recipe.rewards])
    num_completions = len(prompts) * section_of(recipe).samples
    judge_after = functools.partial(_judge, recipe, run_dir, num_completions)
    files = leave_completions(recipe, run_dir, processes, prompts, schema, judge_after)
    if processes.is_main_process and files is not None:
        by_model = [reward for reward in recipe.rewards if _asks_a_model(reward)]
        counts = keep_within_limits(run_dir, files, recipe.keep, provenance_of(recipe, run_dir), by_model)
        check_refused(recipe, counts["dropped"].get(REFUSED, 0), counts["sampled"])
        check_judged(recipe, verdicts_of(run_dir), num_completions, is_whole=True)
        counts |= sampling_counts(files)
        with whole(counts_file) as unfinished:
            unfinished.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
        print(f"kept {counts['kept']} of {counts['sampled']} completions; dropped: {counts['dropped'] or 'none'}")
    processes.wait_for_everyone()


def _judge(
    recipe: Recipe, run_dir: Path, num_completions: int, tokenizer, verdicts: Counter[str], asks_again: bool
) -> Judge:
    """The recipe's rewards, after prompts as this tokenizer renders them. Raises RecipeError if one cannot be had."""
    load_reward_models(recipe)
    thinking = thinking_after(tokenizer, recipe.thinking)
    by_model = {reward.called for reward in recipe.rewards if _asks_a_model(reward)}
    ai_judge = ai_judge_of(recipe, run_dir, asks_again) if asks_judge(recipe.rewards) else None
    max_tokens = section_of(recipe).max_completion_length
    rewards = build_rewards(recipe.rewards, thinking, recipe.seed, max_tokens, ai_judge)

    def judged_rows(rows, completions_PG) -> tuple[list[dict[str, Any]], dict[str, float]]:
        judged = judge(rows, completions_PG, rewards, recipe.keep, thinking, by_model)
        verdicts.update(verdicts_in(row["dropped_for"] for row in judged))
        check_judged(recipe, verdicts, num_completions, judge=ai_judge)
        return judged, {}

    return judged_rows


def _asks_a_model(reward: Reward) -> bool:
    """True if each value of a reward is paid for by a model's forward pass."""
    return reward.name in ("judge", "reward_model")


def provenance_of(recipe: Recipe, run_dir: Path) -> dict[str, str | None]:
    """What the columns PROVENANCE of kept/ say: who answered, how that was sampled, by what it was verified."""
    record = read_record(run_dir) or {}
    name, revision = model_of(recipe)
    section = section_of(recipe)
    made_by = [
        parent
        for parent in record.get("parents", [])
        if name and parent.get("weights_sha256") and parent["run"] == str(Path(recipe.model_path(name)).parent)
    ][-1:]  # a student stands before its teacher, and both may lie in one folder
    sampled_with = {key: getattr(section, key) for key in ("temperature", "top_p", "max_completion_length", "samples")}
    verified_by = {
        **(_paired_by(recipe) if recipe.preferences else _verified_by(recipe)),
        "commit": record.get("commit"),
        "dirty": record.get("dirty"),
        "versions": {name: record.get("versions", {}).get(name) for name in ("open-r1", "math-verify")},
    }
    teacher = made_by[0]["name"] if made_by else section.endpoint.model if section.endpoint else name
    teacher = Path(teacher).name if is_path(teacher) else teacher  # what is published is of no use with a path
    return {
        "teacher": f"{teacher}@{revision}" if revision else teacher,
        "teacher_sha256": made_by[0].get("weights_sha256") if made_by else None,
        "sampled_with": json.dumps({**sampled_with, "seed": recipe.seed}),
        "verified_by": json.dumps(verified_by),
    }


def _verified_by(recipe: Recipe) -> dict[str, Any]:
    return {
        "rewards": [reward.model_dump() for reward in recipe.rewards],
        "keep": recipe.keep.model_dump(exclude_defaults=True),
        **(_judged_by(recipe) if recipe.judge else {}),
    }


def _paired_by(recipe: Recipe) -> dict[str, Any]:
    """Who judged, how often and by which rubric, and which differences in its scores make a pair."""
    rubric = load_rubric(recipe.path(recipe.preferences.rubric))
    pairs = ("min_margin", "rejected", "max_length_ratio", "balance_lengths")
    return {
        "rubric": {"file": rubric.source.name, "sha256": rubric.sha256},
        **_judged_by(recipe),
        **{key: getattr(recipe.preferences, key) for key in pairs},
    }


def _judged_by(recipe: Recipe) -> dict[str, Any]:
    """Who judged, and how often."""
    who = who_judges(recipe)
    if (name := who.get("name")) and is_path(name):
        who["name"] = Path(name).name
    return {
        "judge": {key: value for key, value in who.items() if key != "extra_body"},
        **{key: getattr(recipe.judge, key) for key in ("judgements", "candidates", "temperature", "top_p")},
    }


def load_kept(run_dir: Path) -> Dataset:
    """The kept traces, prompt and completion; empty if there are none."""
    files = [str(file) for file in sorted((run_dir / KEPT).glob("*.parquet"))]
    if not files:
        return Dataset.from_dict({"prompt": [], "completion": []})
    return Dataset.from_parquet(files, columns=["prompt", "completion"])
