"""The traces of a run: its prompts answered, judged shard by shard, and the kept ones in kept/.

Shards are divided among the processes of a run, and blocks of them among its shares, by their numbers alone. A shard's
file says in its metadata how long sampling it took and what had to be done again, so that the run's counts are the
shards' sums, whoever made them.
"""

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
from accelerate import PartialState
from datasets import Dataset

from open_r1 import modeling, training
from open_r1.curation.rejection import NO_VERDICT, REFUSED, judge, keep_within_limits, schema_of, write_rows
from open_r1.generation import Sampling
from open_r1.generation.backends import backend_of, thinking_after
from open_r1.generation.progress import Watch
from open_r1.generation.shards import FOLDER, Shard, num_journaled, sample_shard, shards_of
from open_r1.recipe import Generate, Recipe, is_path
from open_r1.rewards import build_rewards
from open_r1.run_record import read_record
from open_r1.shares import COUNTS_OF_TRACES, share_of, taken_up
from open_r1.stages import KEPT
from open_r1.step_process import RunStopped
from open_r1.whole_files import whole

SAMPLED = b"open_r1.sampled"  # key of a shard's metadata


def leave_traces(recipe: Recipe, run_dir: Path, processes: PartialState) -> None:
    """Leaves completions/, kept/ and prompts/ in `run_dir`, and their counts in generate.json or distill.json.

    In the directory of a share, its completions alone. What an earlier attempt, or a share that was taken up, has
    finished is not done again. Raises RunStopped if the judge breaks or a server fails.
    """
    counts_file = run_dir / COUNTS_OF_TRACES[recipe.step]
    if counts_file.exists():
        return
    prompts = training.verified_data(recipe, run_dir, processes)
    shards = shards_of(len(prompts), _section(recipe).prompts_per_shard)
    if share := share_of(run_dir):
        shards = list(share.of(shards))
    elif processes.is_main_process:
        _copy_shards(run_dir)
    processes.wait_for_everyone()
    _sample_missing(recipe, prompts, shards[processes.process_index :: processes.num_processes], run_dir)
    processes.wait_for_everyone()
    if processes.is_main_process and share is None:
        files = [shard.file(run_dir) for shard in shards]
        counts = keep_within_limits(run_dir, files, recipe.keep, provenance_of(recipe, run_dir))
        check_refused(recipe, counts)
        counts |= _sampling_counts(files)
        with whole(counts_file) as unfinished:
            unfinished.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
        print(f"kept {counts['kept']} of {counts['sampled']} completions; dropped: {counts['dropped'] or 'none'}")
    processes.wait_for_everyone()


def _section(recipe: Recipe) -> Generate:
    return recipe.distill or recipe.generate


def _model_of(recipe: Recipe) -> tuple[str | None, str | None]:
    """Name and revision of the model that answers."""
    if recipe.distill:
        return recipe.distill.teacher, recipe.distill.teacher_revision
    return recipe.model.name, recipe.model.revision


def _sample_missing(recipe: Recipe, prompts: Dataset, shards: list[Shard], run_dir: Path) -> None:
    """Writes each shard that is not there yet, judged."""
    missing = [shard for shard in shards if not shard.file(run_dir).exists()]
    if not missing:
        return
    section, (name, revision) = _section(recipe), _model_of(recipe)
    tokenizer = modeling.load_tokenizer(recipe, name, revision) if name else None
    device = "cpu" if recipe.hardware.gpus_per_node == 0 else PartialState().device
    backend = backend_of(recipe, name, revision, tokenizer, device)
    thinking = thinking_after(tokenizer, recipe.thinking)
    rewards = build_rewards(recipe.rewards, thinking, recipe.seed, section.max_completion_length)
    schema = schema_of(prompts.features.arrow_schema, [reward.__name__ for reward in rewards])
    sampling = Sampling(
        temperature=section.temperature,
        top_p=section.top_p,
        max_new_tokens=section.max_completion_length,
        num_samples=section.samples,
        batch_size=section.batch_size,
        seed=recipe.seed,
    )
    watch = Watch(
        section.samples * sum(shard.stop - shard.start for shard in missing),
        "sampling",
        done=sum(num_journaled(shard, run_dir) for shard in missing),
        shown=PartialState().is_local_main_process,
    )
    for shard in missing:
        rows = [{**prompts[index], "id": str(index)} for index in range(shard.start, shard.stop)]
        before, tokens_before, started = Counter(backend.counts()), watch.num_tokens, time.monotonic()
        completions_PG = sample_shard(shard, [row["prompt"] for row in rows], backend, sampling, run_dir, watch)
        seconds = time.monotonic() - started
        judged = judge(rows, completions_PG, rewards, recipe.keep, thinking)
        check_judged(recipe, judged)
        sampled = {
            "seconds": seconds,
            "tokens": watch.num_tokens - tokens_before,
            "counts": Counter(backend.counts()) - before,
        }
        write_rows(judged, schema.with_metadata({SAMPLED: json.dumps(sampled)}), shard.file(run_dir))
        shard.journal(run_dir).unlink(missing_ok=True)
    watch.close()


def check_judged(recipe: Recipe, judged: list[dict[str, Any]]) -> None:
    """Raises RunStopped if the judge gave no verdict on too many completions: they are not those that were wrong."""
    unjudged = sum((row["dropped_for"] or "").endswith(NO_VERDICT) for row in judged)
    limit = recipe.guards.max_judge_failed_share
    if limit is not None and unjudged > limit * len(judged):
        raise RunStopped(
            f"{unjudged} of {len(judged)} completions got no verdict (guards.max_judge_failed_share: {limit:g}); see "
            f"that the judge of the rewards works, e.g. its sandbox, and start again; nothing is sampled twice"
        )


def check_refused(recipe: Recipe, counts: dict[str, Any]) -> None:
    """Raises RunStopped if a server refused more than the recipe allows, in a run too short to be stopped before."""
    endpoint = _section(recipe).endpoint
    refused = counts["dropped"].get(REFUSED, 0)
    if endpoint is not None and refused > endpoint.max_refused_share * counts["sampled"]:
        raise RunStopped(
            f"{refused} of {counts['sampled']} completions were refused by {endpoint.base_url} "
            f"({recipe.step}.endpoint.max_refused_share: {endpoint.max_refused_share:g}); the column `refused` of "
            f"completions/ says why; delete its files when that is mended, and start again"
        )


def _copy_shards(run_dir: Path) -> None:
    """Brings the shards over that shares have finished. Copies, no links: each directory may be deleted by itself."""
    for directory in taken_up(run_dir).values():
        for file in sorted((directory / FOLDER).glob("part-*.parquet")):
            here = run_dir / FOLDER / file.name
            if not here.exists():
                with whole(here) as unfinished:
                    shutil.copyfile(file, unfinished)


def _sampling_counts(files: list[Path]) -> dict[str, Any]:
    """Seconds and speed of sampling, of each process, and what had to be done again, summed over the shards."""
    total: Counter[str] = Counter()
    seconds, tokens = 0.0, 0
    for file in files:
        sampled = json.loads(pyarrow.parquet.read_schema(file).metadata[SAMPLED])
        seconds, tokens = seconds + sampled["seconds"], tokens + sampled["tokens"]
        total.update(sampled["counts"])
    return {
        "sampling_seconds": round(seconds, 3),
        "tokens_per_second": tokens / seconds if seconds else None,
        "counts": dict(total),
    }


def provenance_of(recipe: Recipe, run_dir: Path) -> dict[str, str | None]:
    """What the columns PROVENANCE of kept/ say: who answered, how that was sampled, by what it was verified."""
    record = read_record(run_dir) or {}
    name, revision = _model_of(recipe)
    section = _section(recipe)
    made_by = [
        parent
        for parent in record.get("parents", [])
        if name and parent.get("weights_sha256") and parent["run"] == str(Path(recipe.model_path(name)).parent)
    ][-1:]  # a student stands before its teacher, and both may lie in one folder
    sampled_with = {key: getattr(section, key) for key in ("temperature", "top_p", "max_completion_length", "samples")}
    verified_by = {
        "rewards": [reward.model_dump() for reward in recipe.rewards],
        "keep": recipe.keep.model_dump(exclude_defaults=True),
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


def load_kept(run_dir: Path) -> Dataset:
    """The kept traces, prompt and completion; empty if there are none."""
    files = [str(file) for file in sorted((run_dir / KEPT).glob("*.parquet"))]
    if not files:
        return Dataset.from_dict({"prompt": [], "completion": []})
    return Dataset.from_parquet(files, columns=["prompt", "completion"])
