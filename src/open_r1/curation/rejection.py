"""Rejection sampling: completions -> what the rewards verify and somebody can read, every drop counted by its reason.

DeepSeek-R1, section 2.3.3 of arXiv 2501.12948: sample from the policy after RL, keep what is right, drop what is hard
to read. A shard of completions is judged by whoever sampled it. Which of the kept ones stay is decided when all shards
are there, in one pass in order, which holds one shard at a time in memory:

    completions/   every completion: its rewards, and why it was dropped
    kept/          what is kept, as conversations, with what they come from; a data set for `data: - path:`
    prompts/       every prompt with its pass_rate, the share of its judged completions that every reward verified
"""

import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from open_r1.curation.duplicates import Seen
from open_r1.curation.readability import unreadable
from open_r1.curation.rows import (
    MESSAGES,
    NO_VERDICT,
    PROVENANCE,
    REFUSED,
    TRUNCATED,
    groups,
    key_of,
    number_of,
    write_rows,
)
from open_r1.generation import Completion
from open_r1.recipe import Keep, Reward, Thinking
from open_r1.rewards import RewardFunction
from open_r1.stages import KEPT, PROMPTS

NEAR_DUPLICATE, BEYOND_PROMPT, BEYOND_TRACES = "near_duplicate", "beyond max_per_prompt", "beyond max_traces"
OURS = {  # column of completions/ -> its type
    "completion": pyarrow.string(),
    "num_tokens": pyarrow.int32(),
    "truncated": pyarrow.bool_(),
    "refused": pyarrow.string(),
    "dropped_for": pyarrow.string(),
}
RATES = {"pass_rate": pyarrow.float64(), "num_judged": pyarrow.int32(), "mean_tokens": pyarrow.float64()}


def judge(
    rows: Sequence[Mapping[str, Any]],
    completions_PG: Sequence[Sequence[Completion]],
    rewards: Sequence[RewardFunction],
    keep: Keep,
    thinking: Thinking,
    by_model: Collection[str] = (),
) -> list[dict[str, Any]]:
    """A row for every completion, in order, with the values of the rewards and the reason for which it is dropped.

    P prompts, G completions each. The reason is the first of: refused, truncated, a reward without a verdict or below
    the bar, unreadable; None if it is none of them. Rewards whose name is in `by_model` ask a model, which is not
    asked about what is dropped whatever it says: their value of a refused or truncated completion is None.
    """
    flat = [(row, completion) for row, group in zip(rows, completions_PG, strict=True) for completion in group]
    if not flat:
        return []
    ended = [index for index, (_, each) in enumerate(flat) if each.refused is None and not each.truncated]
    values = {}
    for reward in rewards:
        asked = ended if reward.__name__ in by_model else range(len(flat))
        given = _values_of(reward, [flat[index] for index in asked]) if asked else []
        values[reward.__name__] = [None] * len(flat)
        for index, value in zip(asked, given, strict=True):
            values[reward.__name__][index] = value
    judged = []
    for index, (row, completion) in enumerate(flat):
        given = {name: each[index] if completion.refused is None else None for name, each in values.items()}
        of_row = {reward.__name__: given[reward.__name__] for reward in rewards if reward.is_for(row.get("task"))}
        judged.append(
            {
                **row,
                "id": f"{row['id']}-{index % len(completions_PG[0])}",
                **{f"reward_{name}": value for name, value in given.items()},
                "completion": completion.text,
                "num_tokens": completion.num_tokens,
                "truncated": completion.truncated,
                "refused": completion.refused,
                "dropped_for": reason(completion, of_row, keep, thinking),
            }
        )
    return judged


def _values_of(reward: RewardFunction, asked: Sequence[tuple[Mapping[str, Any], Completion]]) -> list[float | None]:
    return reward(
        [[{"role": "assistant", "content": completion.text}] for _, completion in asked],
        prompts=[row["prompt"] for row, _ in asked],
        completion_ids=[completion.token_ids or range(completion.num_tokens) for _, completion in asked],
        **{key: [row[key] for row, _ in asked] for key in asked[0][0] if key not in ("id", "prompt")},
    )


def reason(completion: Completion, values: Mapping[str, float | None], keep: Keep, thinking: Thinking) -> str | None:
    """Why a completion with these rewards is dropped, looked at by itself; None if it is not."""
    if completion.refused is not None:
        return REFUSED
    if completion.truncated:
        return TRUNCATED
    for name, value in values.items():
        if value is None:
            return f"{name}{NO_VERDICT}"
        if value < keep.min_reward:
            return f"{name} below {keep.min_reward:g}"
    return unreadable(completion.text, completion.num_tokens, completion.truncated, keep, thinking)


def schema_of(columns: pyarrow.Schema, reward_names: Iterable[str]) -> pyarrow.Schema:
    """The schema of completions/: the data's columns, a column for each reward, and ours.

    Columns that an earlier sampling has left in the data under our names are not kept.
    """
    rewards = [(f"reward_{name}", pyarrow.float64()) for name in reward_names]
    ours = {"id", "prompt", *OURS, *RATES, *PROVENANCE, *(name for name, _ in rewards)}
    theirs = [(field.name, field.type) for field in columns if field.name not in ours]
    return pyarrow.schema([("id", pyarrow.string()), ("prompt", MESSAGES), *theirs, *rewards, *OURS.items()])


def keep_within_limits(
    run_dir: Path,
    files: Sequence[Path],
    keep: Keep,
    provenance: Mapping[str, str | None],
    by_model: Sequence[Reward] = (),
) -> dict:
    """Writes kept/ and prompts/ from the judged shards, and gives the counts: {prompts, sampled, kept, dropped, …}.

    Of what was not dropped for itself, near-duplicates of what is kept for the same prompt go, and what is beyond
    max_per_prompt and max_traces. Each folder has its name only when it is whole. `by_model` are the rewards that ask a
    model: of a truncated completion they say nothing, and it counts as wrong.
    """
    folders = {name: run_dir / f".{name}.part" for name in (KEPT, PROMPTS)}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    repeated = _repeated_prompts(files)
    limits = _Limits(keep)
    dropped: Counter[str] = Counter()
    num_prompts = num_sampled = num_tokens = 0
    for file in files:
        rows = pyarrow.parquet.read_table(file).to_pylist()
        schema = pyarrow.parquet.read_schema(file)
        kept, prompts = [], []
        for prompt, group in groups(rows):
            limits.begin(prompt, remembers=prompt in repeated)
            for row in group:
                why = row["dropped_for"] or limits.reason(row)
                num_tokens += row["num_tokens"]
                if why is None:
                    kept.append({**row, "completion": [{"role": "assistant", "content": row["completion"]}]})
                else:
                    dropped[why] += 1
            prompts.append(_prompt_row(group, keep, by_model))
            num_sampled += len(group)
        num_prompts += len(prompts)
        if kept:
            write_rows([{**row, **provenance} for row in kept], _schema_of_kept(schema), folders[KEPT] / file.name)
        write_rows(prompts, _schema_of_prompts(schema), folders[PROMPTS] / file.name)
    for name, folder in folders.items():
        shutil.rmtree(run_dir / name, ignore_errors=True)
        folder.replace(run_dir / name)
    return {
        "prompts": num_prompts,
        "sampled": num_sampled,
        "kept": num_sampled - dropped.total(),
        "kept_share": (num_sampled - dropped.total()) / max(1, num_sampled),
        "dropped": dict(dropped.most_common()),
        "tokens": num_tokens,
    }


class _Limits:
    """What has been kept of the prompt that is looked at, and of those before that come again."""

    def __init__(self, keep: Keep):
        self.keep = keep
        self.num_kept = 0
        self._of_repeated: dict[str, tuple[Seen, Counter]] = {}

    def begin(self, prompt: str, remembers: bool) -> None:
        fresh = (Seen(self.keep.max_similarity), Counter()) if self.keep.max_similarity else (None, Counter())
        self._seen, self._count = self._of_repeated.setdefault(prompt, fresh) if remembers else fresh

    def reason(self, row: Mapping[str, Any]) -> str | None:
        """Why a completion goes; None if it stays, which is remembered."""
        keep = self.keep
        if self._seen is not None and self._seen.is_duplicate(row["completion"]):
            return NEAR_DUPLICATE
        if keep.max_per_prompt is not None and self._count["kept"] >= keep.max_per_prompt:
            return BEYOND_PROMPT
        if keep.max_traces is not None and self.num_kept >= keep.max_traces:
            return BEYOND_TRACES
        if self._seen is not None:
            self._seen.add(row["completion"])
        self._count["kept"] += 1
        self.num_kept += 1
        return None


def _repeated_prompts(files: Sequence[Path]) -> set[str]:
    """The keys of prompts that stand in the data more than once; eight bytes a prompt are held for it."""
    keys = [
        int(key_of(group[0]["prompt"]), 16)
        for file in files
        for _, group in groups(pyarrow.parquet.read_table(file, columns=["id", "prompt"]).to_pylist())
    ]
    values, counts = np.unique(np.array(keys, dtype=np.uint64), return_counts=True)
    return {f"{value:016x}" for value in values[counts > 1].tolist()}


def _prompt_row(group: Sequence[Mapping[str, Any]], keep: Keep, by_model: Sequence[Reward]) -> dict[str, Any]:
    """A prompt as it was in the data, and how hard it is."""
    judged = [values for row in group if (values := _values(row, by_model))]
    verified = sum(all(value >= keep.min_reward for value in values) for values in judged)
    return {
        **group[0],
        "id": number_of(group[0]),
        "pass_rate": verified / len(judged) if judged else None,
        "num_judged": len(judged),
        "mean_tokens": float(np.mean([row["num_tokens"] for row in group])),
    }


def _values(row: Mapping[str, Any], by_model: Sequence[Reward]) -> list[float]:
    """The rewards of a completion that was judged by all that are for it; none if it was not.

    Where a model is asked only about what ends, a truncated completion is worth less than any bar.
    """
    if (row["dropped_for"] or "").endswith((REFUSED, NO_VERDICT)):
        return []
    if row["truncated"] and any(reward.is_for(row.get("task")) for reward in by_model):
        return [-math.inf]
    return [value for name, value in row.items() if name.startswith("reward_") and value is not None]


def _schema_of_prompts(schema: pyarrow.Schema) -> pyarrow.Schema:
    data = [field for field in schema if field.name not in OURS and not field.name.startswith("reward_")]
    return pyarrow.schema([*data, *(pyarrow.field(*rate) for rate in RATES.items())])


def _schema_of_kept(schema: pyarrow.Schema) -> pyarrow.Schema:
    ours = {**OURS, "completion": MESSAGES}
    left_out = ("truncated", "refused", "dropped_for")
    fields = [(field.name, ours.get(field.name, field.type)) for field in schema if field.name not in left_out]
    return pyarrow.schema([*fields, *((name, pyarrow.string()) for name in PROVENANCE)])
