"""The completions of a run: prompts answered and judged shard by shard, each a file that is whole or not there.

Shards are divided among the processes of a run, and blocks of them among its shares, by their numbers alone. A shard's
file says in its metadata how long sampling it took and what had to be done again, so that the run's counts are the
shards' sums, whoever made them.
"""

import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from open_r1 import modeling
from open_r1.curation.rows import NO_VERDICT, NOT_ASKED, REFUSED, TRUNCATED, write_rows
from open_r1.feedback import ModelJudge, judge_of
from open_r1.generation import Completion, Sampling
from open_r1.generation.backends import backend_of
from open_r1.generation.progress import Watch
from open_r1.generation.shards import FOLDER, Shard, num_journaled, sample_shard, shards_of
from open_r1.recipe import Generate, Recipe
from open_r1.shares import share_of, taken_up
from open_r1.step_process import RunStopped
from open_r1.whole_files import whole

SAMPLED = b"open_r1.sampled"  # key of a shard's metadata
MIN_UNJUDGED = 16  # the first completions are too few for a share
JUDGED, UNJUDGED = "judged", "unjudged"
Row = Mapping[str, Any]
Judge = Callable[[Sequence[Row], Sequence[Sequence[Completion]]], tuple[list[dict[str, Any]], dict[str, float]]]
"""Rows and their completions -> a row for each completion, in order, under the schema of completions/, and what the
judge counted, which is summed over the shards."""
JudgeMaker = Callable[[PreTrainedTokenizerBase | None, Counter[str], bool], Judge]
"""The tokenizer of who answers, the verdicts so far (as `verdicts_of` counts them), and whether a model is asked again
for verdicts that could not be read -> who judges."""


def leave_completions(
    recipe: Recipe,
    run_dir: Path,
    processes: PartialState,
    prompts: Dataset,
    schema: pyarrow.Schema,
    judge_after: JudgeMaker,
) -> list[Path] | None:
    """Leaves completions/ in `run_dir`, and gives its files, in order; None in the directory of a share.

    `judge_after` makes who judges; it is asked where something is left to do. What an earlier attempt, or a share that
    was taken up, has finished is not done again; but if too much of a whole run got no verdict, shards with such
    completions are judged anew, and not sampled. Returns in every process when all are done. Raises RunStopped if a
    server fails.
    """
    shards = shards_of(len(prompts), section_of(recipe).prompts_per_shard)
    if share := share_of(run_dir):
        shards = list(share.of(shards))
    elif processes.is_main_process:
        _copy_shards(run_dir)
    processes.wait_for_everyone()
    mine = shards[processes.process_index :: processes.num_processes]
    unjudged = _unjudged_too_often(recipe, shards, run_dir) if share is None else []
    processes.wait_for_everyone()
    _judge_again(recipe, prompts, [shard for shard in mine if shard in unjudged], unjudged, run_dir, judge_after)
    _sample_missing(recipe, prompts, mine, run_dir, schema, judge_after)
    processes.wait_for_everyone()
    return [shard.file(run_dir) for shard in shards] if share is None else None


def section_of(recipe: Recipe) -> Generate:
    """How the recipe's prompts are answered."""
    return recipe.distill or recipe.generate or recipe.preferences


def ai_judge_of(recipe: Recipe, run_dir: Path, asks_again: bool) -> ModelJudge:
    """The judge of the recipe's section `judge`, for this process of the run, or of a share of it."""
    processes = PartialState()
    device = "cpu" if recipe.hardware.gpus_per_node == 0 else processes.device
    return judge_of(recipe, run_dir, processes.process_index, processes.num_processes, device, asks_again)


def model_of(recipe: Recipe) -> tuple[str | None, str | None]:
    """Name and revision of the model that answers."""
    if recipe.distill:
        return recipe.distill.teacher, recipe.distill.teacher_revision
    return recipe.model.name, recipe.model.revision


def _unjudged_too_often(recipe: Recipe, shards: Sequence[Shard], run_dir: Path) -> list[Shard]:
    """The shards with completions that got no verdict, if that is why the run was not done when all were there."""
    if not all(shard.file(run_dir).exists() for shard in shards):
        return []
    verdicts = {shard: _verdicts_in_file(shard.file(run_dir)) for shard in shards}
    if not _are_too_few(recipe, sum(verdicts.values(), Counter())):
        return []
    return [shard for shard in shards if verdicts[shard][UNJUDGED]]


def _judge_again(recipe, prompts, shards: list[Shard], unjudged: list[Shard], run_dir, judge_after) -> None:
    """Writes these shards anew, with other verdicts on the same completions; `unjudged` are those of all processes."""
    if not shards:
        return
    name, revision = model_of(recipe)
    tokenizer = modeling.load_tokenizer(recipe, name, revision) if name else None
    others = verdicts_of(run_dir, but_for={shard.file(run_dir) for shard in unjudged})
    judge = judge_after(tokenizer, others, True)
    num_samples = section_of(recipe).samples
    for shard in shards:
        table = pyarrow.parquet.read_table(shard.file(run_dir))
        completions = [
            Completion(row["completion"], row["num_tokens"], row["truncated"], refused=row["refused"])
            for row in table.select(["completion", "num_tokens", "truncated", "refused"]).to_pylist()
        ]
        completions_PG = [completions[start:][:num_samples] for start in range(0, len(completions), num_samples)]
        judged, counted = judge(_rows_of(prompts, shard), completions_PG)
        sampled = json.loads(table.schema.metadata[SAMPLED])
        metadata = {SAMPLED: json.dumps({**sampled, "judge": counted})}
        write_rows(judged, table.schema.with_metadata(metadata), shard.file(run_dir))


def _rows_of(prompts: Dataset, shard: Shard) -> list[dict[str, Any]]:
    return [{**prompts[index], "id": str(index)} for index in range(shard.start, shard.stop)]


def _sample_missing(recipe, prompts, shards: list[Shard], run_dir, schema, judge_after) -> None:
    """Writes each shard that is not there yet, judged."""
    missing = [shard for shard in shards if not shard.file(run_dir).exists()]
    if not missing:
        return
    section, (name, revision) = section_of(recipe), model_of(recipe)
    tokenizer = modeling.load_tokenizer(recipe, name, revision) if name else None
    device = "cpu" if recipe.hardware.gpus_per_node == 0 else PartialState().device
    backend = backend_of(recipe, name, revision, tokenizer, device)
    judge = judge_after(tokenizer, verdicts_of(run_dir), False)
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
        rows = _rows_of(prompts, shard)
        before, tokens_before, started = Counter(backend.counts()), watch.num_tokens, time.monotonic()
        completions_PG = sample_shard(shard, [row["prompt"] for row in rows], backend, sampling, run_dir, watch)
        seconds, num_tokens = time.monotonic() - started, watch.num_tokens - tokens_before
        judged, counted = judge(rows, completions_PG)
        again = Counter(backend.counts()) - before
        sampled = {"seconds": seconds, "tokens": num_tokens, "counts": again, "judge": counted}
        write_rows(judged, schema.with_metadata({SAMPLED: json.dumps(sampled)}), shard.file(run_dir))
        shard.journal(run_dir).unlink(missing_ok=True)
    watch.close()


def check_refused(recipe: Recipe, num_refused: int, num_sampled: int) -> None:
    """Raises RunStopped if a server refused more than the recipe allows, in a run too short to be stopped before."""
    endpoint = section_of(recipe).endpoint
    if endpoint is not None and num_refused > endpoint.max_refused_share * num_sampled:
        raise RunStopped(
            f"{num_refused} of {num_sampled} completions were refused by {endpoint.base_url} "
            f"({recipe.step}.endpoint.max_refused_share: {endpoint.max_refused_share:g}); the column `refused` of "
            f"completions/ says why; delete its files when that is mended, and start again"
        )


def verdicts_in(reasons: Iterable[str | None]) -> Counter[str]:
    """How many completions were JUDGED, and of them UNJUDGED, by the reasons for which they were dropped."""
    asked = [why for why in reasons if why not in (REFUSED, TRUNCATED, NOT_ASKED)]
    return Counter({JUDGED: len(asked), UNJUDGED: sum((why or "").endswith(NO_VERDICT) for why in asked)})


def verdicts_of(run_dir: Path, but_for: Collection[Path] = ()) -> Counter[str]:
    """The same of all shards that are there, but for some files."""
    files = [file for file in sorted((run_dir / FOLDER).glob("part-*.parquet")) if file not in but_for]
    return sum(map(_verdicts_in_file, files), verdicts_in([]))


def _verdicts_in_file(file: Path) -> Counter[str]:
    return verdicts_in(pyarrow.parquet.read_table(file, columns=["dropped_for"])[0].to_pylist())


def _are_too_few(recipe: Recipe, verdicts: Mapping[str, int]) -> bool:
    """True if so many of a whole run's completions got no verdict that it is not done."""
    limit = recipe.guards.max_judge_failed_share
    return limit is not None and verdicts[UNJUDGED] > limit * verdicts[JUDGED]


def check_judged(
    recipe: Recipe,
    verdicts: Mapping[str, int],
    num_completions: int,
    is_whole: bool = False,
    judge: ModelJudge | None = None,
) -> None:
    """Raises RunStopped if the judge gave no verdict on too many completions: they are not those that were wrong.

    `verdicts` are those given so far of a run of `num_completions`, or, if it `is_whole`, all that there are: before
    that a few may be missing that are no large share of the run, though they are one of what has been judged.
    What `judge` could not read is forgotten then, to be asked for again.
    """
    limit, num_judged, num_unjudged = recipe.guards.max_judge_failed_share, verdicts[JUDGED], verdicts[UNJUDGED]
    if limit is None:
        return
    allowed_from_the_start = 0 if is_whole else min(MIN_UNJUDGED, limit * num_completions)
    if num_unjudged > max(allowed_from_the_start, limit * num_judged):
        if judge is not None:
            judge.forget_unreadable()
        raise RunStopped(
            f"{num_unjudged} of {num_judged} completions got no verdict (guards.max_judge_failed_share: {limit:g}); "
            f"see that the judge works, e.g. its sandbox or its server, and start again; nothing is sampled twice, and "
            f"what got no verdict is judged again"
        )


def _copy_shards(run_dir: Path) -> None:
    """Brings the shards over that shares have finished. Copies, no links: each directory may be deleted by itself."""
    for directory in taken_up(run_dir).values():
        for file in sorted((directory / FOLDER).glob("part-*.parquet")):
            here = run_dir / FOLDER / file.name
            if not here.exists():
                with whole(here) as unfinished:
                    shutil.copyfile(file, unfinished)


def counted_by_judge(files: Sequence[Path]) -> dict[str, float]:
    """What the judge counted, summed over the shards."""
    total: dict[str, float] = defaultdict(float)
    for file in files:
        for name, number in json.loads(pyarrow.parquet.read_schema(file).metadata[SAMPLED]).get("judge", {}).items():
            total[name] += number
    return dict(total)


def sampling_counts(files: Sequence[Path]) -> dict[str, Any]:
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
