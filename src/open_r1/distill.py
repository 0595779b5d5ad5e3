"""Distillation: a small model learns from the verified traces of a large one.

DeepSeek-R1, section 2.4: the teacher answers each prompt, rejection sampling keeps what the rewards verify, and the
student is fine-tuned on what is kept, without any RL of its own.

The teacher can be sampled in shares. Every process that samples has a seed and prompts of its own, so n shares of p
processes each give the same traces as one run of n x p processes, and with another n x p they are another sample of the
same kind. Which of them are kept is decided when all are there.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
import pyarrow.parquet
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from open_r1 import modeling, training
from open_r1.generation import Completion, Sampling
from open_r1.generation.transformers_backend import generate
from open_r1.recipe import Distill, Recipe, RecipeError
from open_r1.rewards import RewardFunction, build_rewards
from open_r1.rewards.completion import resolved_thinking
from open_r1.shares import Share, all_shares, share_of, taken_up
from open_r1.step_process import RunStopped, run_step

COUNTS_FILE = "distill.json"
TRACES_FILE = "completions/traces.parquet"
NO_VERDICT = ": no verdict"  # how a reason ends that is the judge's fault


@dataclass(frozen=True)
class Trace:
    """One of a teacher's answers, and why it was dropped (None if it is kept)."""

    prompt: list[dict[str, str]]
    completion: str
    num_tokens: int
    dropped_for: str | None


def distill(recipe: Recipe, run_dir: Path) -> None:
    """Fine-tunes the recipe's model on the teacher's verified traces and leaves it in `run_dir/model`.

    The traces and the count of drops by reason are written first, and are used again if the run is taken up. In the
    directory of a share that is all: its traces, none of them dropped for a limit, and nothing is trained.
    """
    processes = training.begin(recipe)
    traces_file = run_dir / TRACES_FILE
    if not traces_file.exists():
        leave_traces(recipe, run_dir, processes)
    processes.wait_for_everyone()
    if share_of(run_dir):
        return
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
    student, tokenizer = functools.partial(modeling.load_model, recipe), modeling.load_tokenizer(recipe)
    training.fine_tune(recipe, run_dir, student, tokenizer, conversations)


def leave_traces(recipe: Recipe, run_dir: Path, processes: PartialState) -> None:
    """Writes the traces of a run: those of the shares that it took up, and of all others, which are sampled here.

    Each share that is sampled has a file as soon as it is finished, until all are joined.
    """
    own = share_of(run_dir)
    directories = {} if own else taken_up(run_dir)
    shares = [own] if own else all_shares(min(directories).count if directories else 1)
    files = {share: run_dir / "completions" / f"traces-{share.name}.parquet" for share in shares}
    files |= {share: file for share in shares if (file := directories.get(share, run_dir) / TRACES_FILE).exists()}
    missing = [share for share in shares if not files[share].exists()]
    for share, traces in sample_traces(recipe, run_dir, processes, missing):
        if processes.is_main_process:
            write_table(files[share], traces)
    if processes.is_main_process:
        traces = [trace for share in shares for trace in read_table(files[share])]
        write_traces(run_dir, traces if own else keep_within_limits(traces, recipe.distill))
        for file in (run_dir / "completions").glob("traces-*.parquet"):
            file.unlink()


def sample_traces(
    recipe: Recipe, run_dir: Path, processes: PartialState, shares: Sequence[Share]
) -> Iterator[tuple[Share, list[Trace]]]:
    """Yields each share with the teacher's answers, judged, to its prompts of the recipe's data.

    Every process samples a part of every share, and is given the whole. Raises RunStopped if the judge breaks.
    """
    if not shares:
        return
    section = recipe.distill
    tokenizer = modeling.load_tokenizer(recipe, section.teacher, section.teacher_revision)
    teacher = modeling.load_model(recipe, section.teacher, section.teacher_revision).to(processes.device)
    rows = training.verified_data(recipe, run_dir, processes).to_list()
    rendered = tokenizer.apply_chat_template(rows[0]["prompt"], tokenize=False, add_generation_prompt=True)
    thinking = resolved_thinking(rendered, recipe.thinking)
    rewards = build_rewards(recipe.rewards, thinking, recipe.seed, section.max_completion_length)
    for share in shares:
        sampler = share.index * processes.num_processes + processes.process_index
        part = rows[sampler :: share.count * processes.num_processes]
        completions_PG = generate(
            teacher,
            tokenizer,
            [row["prompt"] for row in part],
            Sampling(
                temperature=section.temperature,
                top_p=section.top_p,
                max_new_tokens=section.max_completion_length,
                num_samples=section.samples,
                batch_size=section.batch_size,
                seed=recipe.seed + sampler,
            ),
            description="teacher" if share.count == 1 else f"teacher, share {share}",
        )
        traces = gather_object(judge(part, completions_PG, rewards, section))
        check_judged(recipe, traces)
        yield share, traces


def check_judged(recipe: Recipe, traces: list[Trace]) -> None:
    """Raises RunStopped if the judge gave no verdict on too many traces: they are not those that were wrong."""
    unjudged = sum((trace.dropped_for or "").endswith(NO_VERDICT) for trace in traces)
    limit = recipe.guards.max_judge_failed_share
    if limit is not None and unjudged > limit * len(traces):
        raise RunStopped(
            f"{unjudged} of {len(traces)} traces got no verdict (guards.max_judge_failed_share: {limit:g}); see that "
            f"the judge of the rewards works, e.g. its sandbox, and start again"
        )


def judge(
    rows: list[dict], completions_PG: list[list[Completion]], rewards: list[RewardFunction], section: Distill
) -> list[Trace]:
    """A Trace for every completion, dropped for the first of: truncated, a reward below the bar, no verdict."""
    if not rows:  # more processes and shares than prompts
        return []
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
            return f"{name}{NO_VERDICT}"
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
    dropped = Counter(trace.dropped_for for trace in traces if trace.dropped_for)
    counts = {
        "prompts": len({json.dumps(trace.prompt) for trace in traces}),
        "sampled": len(traces),
        "kept": len(traces) - dropped.total(),
        "dropped": dict(dropped),
    }
    (run_dir / COUNTS_FILE).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    write_table(run_dir / TRACES_FILE, traces)
    print(f"kept {counts['kept']} of {counts['sampled']} traces; dropped: {counts['dropped'] or 'none'}")


def write_table(file: Path, traces: list[Trace]) -> None:
    """Writes traces as a table, a row each; the file has its name only when it is whole."""
    columns = [field.name for field in fields(Trace)]
    table = pd.DataFrame([vars(trace) for trace in traces], columns=columns).astype({"dropped_for": "object"})
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_name(f"{file.name}.part")
    table.to_parquet(unfinished)
    unfinished.rename(file)


def read_table(file: Path) -> list[Trace]:
    """The traces of a table that `write_table` wrote."""
    return [Trace(**row) for row in pyarrow.parquet.read_table(file).to_pylist()]


if __name__ == "__main__":
    run_step(distill)
