"""Distillation: a small model learns from the verified traces of a large one.

DeepSeek-R1, section 2.4: the teacher answers each prompt, rejection sampling keeps what the rewards verify, and the
student is fine-tuned on what is kept, without any RL of its own.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from open_r1 import modeling, training
from open_r1.generation import Completion, Sampling
from open_r1.generation.transformers_backend import generate
from open_r1.recipe import Distill, Recipe, RecipeError
from open_r1.rewards import RewardFunction, build_rewards
from open_r1.rewards.completion import resolved_thinking
from open_r1.step_process import run_step

COUNTS_FILE = "distill.json"
TRACES_FILE = "completions/traces.parquet"


@dataclass(frozen=True)
class Trace:
    """One of a teacher's answers, and why it was dropped (None if it is kept)."""

    prompt: list[dict[str, str]]
    completion: str
    num_tokens: int
    dropped_for: str | None


def distill(recipe: Recipe, run_dir: Path) -> None:
    """Fine-tunes the recipe's model on the teacher's verified traces and leaves it in `run_dir/model`.

    The traces and the count of drops by reason are written first, and are used again if the run is taken up.
    """
    processes = training.begin(recipe)
    traces_file = run_dir / TRACES_FILE
    if not traces_file.exists():
        traces = sample_traces(recipe, run_dir, processes)
        if processes.is_main_process:
            write_traces(run_dir, traces)
    processes.wait_for_everyone()
    kept = pd.read_parquet(traces_file).query("dropped_for.isna()")
    if kept.empty:
        counts = json.loads((run_dir / COUNTS_FILE).read_text())["dropped"]
        raise RecipeError(f"{recipe.source}: distill.teacher: none of its traces was verified (dropped: {counts})")
    conversations = Dataset.from_list(
        [
            {"prompt": list(row.prompt), "completion": [{"role": "assistant", "content": row.completion}]}
            for row in kept.itertuples()
        ]
    )
    student, tokenizer = modeling.load_model(recipe), modeling.load_tokenizer(recipe)
    training.fine_tune(recipe, run_dir, student, tokenizer, conversations)


def sample_traces(recipe: Recipe, run_dir: Path, processes: PartialState) -> list[Trace]:
    """The teacher's answers to all prompts of the recipe's data, judged; every process samples its share."""
    section = recipe.distill
    tokenizer = modeling.load_tokenizer(recipe, section.teacher, section.teacher_revision)
    teacher = modeling.load_model(recipe, section.teacher, section.teacher_revision).to(processes.device)
    rows = training.verified_data(recipe, run_dir, processes).to_list()
    share = rows[processes.process_index :: processes.num_processes]
    prompts = [row["prompt"] for row in share]
    completions_PG = generate(
        teacher,
        tokenizer,
        prompts,
        Sampling(
            temperature=section.temperature,
            top_p=section.top_p,
            max_new_tokens=section.max_completion_length,
            num_samples=section.samples,
            batch_size=section.batch_size,
            seed=recipe.seed + processes.process_index,
        ),
        description="teacher",
    )
    rendered = tokenizer.apply_chat_template(prompts[0], tokenize=False, add_generation_prompt=True)
    thinking = resolved_thinking(rendered, recipe.thinking)
    rewards = build_rewards(recipe.rewards, thinking, recipe.seed, section.max_completion_length)
    return keep_within_limits(gather_object(judge(share, completions_PG, rewards, section)), section)


def judge(
    rows: list[dict], completions_PG: list[list[Completion]], rewards: list[RewardFunction], section: Distill
) -> list[Trace]:
    """A Trace for every completion, dropped for the first of: truncated, a reward below the bar, no verdict."""
    flat = [(row, completion) for row, group in zip(rows, completions_PG, strict=True) for completion in group]
    columns = {key: [row[key] for row, _ in flat] for key in rows[0] if key != "prompt"}
    conversations = [[{"role": "assistant", "content": completion.text}] for _, completion in flat]
    given = {
        "prompts": [row["prompt"] for row, _ in flat],
        "completion_ids": [completion.token_ids for _, completion in flat],
    }
    values = {reward.__name__: reward(conversations, **given, **columns) for reward in rewards}
    return [
        Trace(row["prompt"], completion.text, completion.num_tokens, _reason(completion, values, index, section))
        for index, (row, completion) in enumerate(flat)
    ]


def _reason(completion: Completion, values: dict[str, list], index: int, section: Distill) -> str | None:
    if completion.truncated:
        return "truncated"
    for name, rewards in values.items():
        if rewards[index] is None:
            return f"{name}: no verdict"
        if rewards[index] < section.min_reward:
            return f"{name} below {section.min_reward:g}"
    return None


def keep_within_limits(traces: list[Trace], section: Distill) -> list[Trace]:
    """The same traces, those beyond max_kept_per_prompt and max_traces marked as dropped for it."""
    kept_per_prompt: Counter[str] = Counter()
    limited = []
    for trace in traces:
        reason = trace.dropped_for
        prompt = json.dumps(trace.prompt)
        if reason is None and section.max_kept_per_prompt and kept_per_prompt[prompt] >= section.max_kept_per_prompt:
            reason = "beyond max_kept_per_prompt"
        if reason is None and section.max_traces and kept_per_prompt.total() >= section.max_traces:
            reason = "beyond max_traces"
        kept_per_prompt[prompt] += reason is None
        limited.append(Trace(trace.prompt, trace.completion, trace.num_tokens, reason))
    return limited


def write_traces(run_dir: Path, traces: list[Trace]) -> None:
    """Writes every trace with its reason, and the counts that the report shows."""
    (run_dir / "completions").mkdir(exist_ok=True)
    dropped = Counter(trace.dropped_for for trace in traces if trace.dropped_for)
    counts = {
        "prompts": len({json.dumps(trace.prompt) for trace in traces}),
        "sampled": len(traces),
        "kept": len(traces) - dropped.total(),
        "dropped": dict(dropped),
    }
    (run_dir / COUNTS_FILE).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    table = pd.DataFrame([vars(trace) for trace in traces]).astype({"dropped_for": "object"})
    unfinished = run_dir / f"{TRACES_FILE}.part"  # the final name stands only for a whole table
    table.to_parquet(unfinished)
    unfinished.rename(run_dir / TRACES_FILE)
    print(f"kept {counts['kept']} of {counts['sampled']} traces; dropped: {counts['dropped'] or 'none'}")


if __name__ == "__main__":
    run_step(distill)
