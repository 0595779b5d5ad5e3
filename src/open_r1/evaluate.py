"""The evaluate step: `python -m open_r1.evaluate RUN_DIR` scores the models of RUN_DIR/recipe.yaml.

Writes RUN_DIR/scores.json, and RUN_DIR/completions/<label>-<benchmark>.parquet with every answer and its verdict, so
that any score can be counted again. Each pair of model and benchmark is seeded by itself, every completion is kept as
soon as it ends, and a score is written beside its answers as soon as it is known: a run that is taken up again, or
joined from shares, is the same.

A score that would say nothing of the model is refused: before anything is sampled where the chat template shows it,
else by an entry in scores.json that has the reason in place of numbers.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_r1.benchmarks.statistics import (
    bootstrap_interval,
    ks,
    majority_at_k,
    pass_at_1,
    pass_at_k,
    problem_means,
)
from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.generation.backends import endpoint_backend, endpoint_of
from open_r1.generation.shards import Journal
from open_r1.recipe import Recipe, RecipeError
from open_r1.shares import Share, share_of, taken_up
from open_r1.step_process import RunStopped, run_step
from open_r1.whole_files import whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from open_r1.benchmarks.lighteval_adapter import BenchmarkResult
    from open_r1.generation import Backend

MAX_UNJUDGED_SHARE = 0.01  # past this the judge is broken, and a score would say more of it than of the model
MIN_VOTERS = 3  # of two answers the first wins, so maj@2 is pass@1


@dataclasses.dataclass(frozen=True)
class Model:
    """What answers: a backend, and what is known of the model behind it (None where a server does not tell)."""

    backend: "Backend"
    parameters: int | None
    max_positions: int | None


def evaluate(recipe: Recipe, run_dir: Path) -> None:
    """Leaves the scores of every model on every benchmark in `run_dir/scores.json`, all answers in `completions/`.

    In the directory of a share, those of its pairs of model and benchmark; where there are more shares than pairs, a
    part of one pair's answers, to be scored by the run that joins them. Raises RecipeError for a mistake in the recipe
    or a chat template that no score can be taken with, RunStopped for a judge that fails.
    """
    benchmarks = resolve_benchmarks(recipe)
    pairs = [(label, benchmark_name) for label in models_of(recipe) for benchmark_name in benchmarks]
    share = share_of(run_dir)
    parts = share.parts_of(pairs) if share else [(pair, None) for pair in pairs]
    taken = list(taken_up(run_dir).values())
    for directory in taken:
        copy_scored_pairs(directory, run_dir)
    missing: dict[str, dict[str, Share | None]] = {}
    for (label, name), part in parts:
        if not score_file(run_dir, label, name).exists():
            missing.setdefault(label, {})[name] = part
            copy_answers(taken, run_dir, label, name)
    tokenizers = {label: checked_tokenizer(recipe, label) for label in missing}
    for label, part_of in missing.items():
        evaluate_model(recipe, label, tokenizers[label], benchmarks, run_dir, part_of, taken)
    whole_pairs = [pair for pair, part in parts if part is None]
    _write_json(run_dir / "scores.json", scores_of_pairs(run_dir, whole_pairs))


def evaluate_model(
    recipe: Recipe,
    label: str,
    tokenizer: "PreTrainedTokenizerBase | None",
    benchmarks: dict[str, Benchmark],
    run_dir: Path,
    part_of: Mapping[str, Share | None],
    taken: Sequence[Path],
) -> None:
    """Scores one model, or has a part of its answers sampled. A function, so that it is gone before the next is loaded.

    `part_of` has for each benchmark to be asked the part that is sampled here, None for all of it with a score; `taken`
    are the directories of shares that were taken up.
    """
    from open_r1.benchmarks.copies import read_copy, sha256_of
    from open_r1.benchmarks.lighteval_adapter import run_benchmark  # seconds of imports: mistakes are told before

    section = recipe.evaluate
    copies = {name: recipe.path(section.copies[name]) for name in part_of if name in section.copies}
    rows = {name: read_copy(name, benchmarks[name], file) for name, file in copies.items()}
    model = load(recipe, label, tokenizer)
    for benchmark_name, part in part_of.items():
        benchmark = benchmarks[benchmark_name]
        started, counts = time.monotonic(), Counter(model.backend.counts())
        answers = completions_file(run_dir, label, benchmark_name)
        journal = answers.with_suffix(".jsonl")
        result = run_benchmark(
            model.backend,
            benchmark_name,
            benchmark,
            problems_dir=run_dir / "problems",
            journal_file=journal,
            batch_size=section.batch_size,
            seed=recipe.seed,
            tokenizer=tokenizer,
            max_positions=model.max_positions,
            rows=rows.get(benchmark_name),
            thinking=recipe.thinking,
            num_problems=section.num_problems,
            description=f"{label} on {benchmark_name}",
            part=part,
        )
        seconds = time.monotonic() - started
        counts = Counter(model.backend.counts()) - counts
        if result is None:
            _write_json(part_file(run_dir, label, benchmark_name), {"seconds": seconds, "counts": counts})
            continue
        for directory in taken:
            if (file := part_file(directory, label, benchmark_name)).exists():
                of_part = json.loads(file.read_text(encoding="utf-8"))
                seconds, counts = seconds + of_part["seconds"], counts + Counter(of_part["counts"])
        write_completions(result, answers)
        check_judged(result, answers)
        entry = summarize(result, benchmark, seconds, model.max_positions, section.max_truncated_share)
        if benchmark_name in copies:
            entry["copy"] = {"path": str(copies[benchmark_name]), "sha256": sha256_of(copies[benchmark_name])}
        if endpoint_of(recipe) is not None:
            entry["counts"] = dict(counts)
        score = {**_facts(recipe, label), "parameters": model.parameters, "benchmarks": {benchmark_name: entry}}
        _write_json(score_file(run_dir, label, benchmark_name), score)
        journal.unlink()


def models_of(recipe: Recipe) -> dict[str, str | None]:
    """Label -> name of every model that the recipe scores; None if an endpoint alone is named.

    Raises RecipeError for several models at one endpoint, which serves one.
    """
    models = recipe.evaluate.models or {"model": recipe.model.name}
    if recipe.evaluate.endpoint and len(models) > 1:
        raise RecipeError(
            f"{recipe.source}: evaluate.models: {len(models)} models, but evaluate.endpoint serves one; "
            "make a recipe for each"
        )
    return models


def checked_tokenizer(recipe: Recipe, label: str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a model whose chat template can be sampled with; None if an endpoint alone is named.

    Raises RecipeError if the template cannot: what is sampled with it would be a score of the template.
    """
    from open_r1.benchmarks.refusals import check_template
    from open_r1.modeling import load_tokenizer

    name = models_of(recipe)[label]
    if name is None:
        return None
    tokenizer = load_tokenizer(recipe, _other(recipe, name))
    check_template(tokenizer, stop_token_ids(recipe, name, tokenizer), name, recipe.source)
    return tokenizer


def stop_token_ids(recipe: Recipe, name: str, tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The tokens that end a completion: the tokenizer's EOS, and the model's own."""
    from transformers import GenerationConfig

    ids = {tokenizer.eos_token_id}
    with contextlib.suppress(OSError):  # a model needs no generation_config.json
        revision = None if recipe.evaluate.models else recipe.model.revision
        config = GenerationConfig.from_pretrained(recipe.model_path(name), revision=revision)
        ids |= set(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])
    return ids - {None}


def load(recipe: Recipe, label: str, tokenizer: "PreTrainedTokenizerBase | None") -> Model:
    """The model with that label, ready to answer: the recipe's endpoint, or its weights in this process."""
    if (endpoint := endpoint_of(recipe)) is not None:
        return Model(endpoint_backend(recipe, endpoint, tokenizer), parameters=None, max_positions=None)

    import torch

    from open_r1.generation.transformers_backend import TransformersBackend
    from open_r1.modeling import check_accelerators, load_model, num_parameters

    check_accelerators(recipe)
    model = load_model(recipe, _other(recipe, models_of(recipe)[label]))
    return Model(
        TransformersBackend(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer),
        num_parameters(model),
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


def _other(recipe: Recipe, name: str) -> str | None:
    """`name` if it is not model.name, to which alone model.revision belongs."""
    return name if recipe.evaluate.models else None


def _facts(recipe: Recipe, label: str) -> dict:
    """What scores.json says of a model: its name, and the server that answered for it if one did."""
    endpoint, name = endpoint_of(recipe), models_of(recipe)[label]
    if endpoint is None:
        return {"model": recipe.model_path(name)}
    served = {"endpoint": {"base_url": endpoint.base_url, "model": endpoint.model}}
    return {"model": recipe.model_path(name) if name else endpoint.model, **served}


def completions_file(run_dir: Path, label: str, benchmark_name: str) -> Path:
    """Where the answers of a model on a benchmark are, one row a problem."""
    return run_dir / "completions" / f"{label}-{benchmark_name}.parquet"


def score_file(run_dir: Path, label: str, benchmark_name: str) -> Path:
    """Where their score is; it is written after the answers, so where it is the pair is finished."""
    return completions_file(run_dir, label, benchmark_name).with_suffix(".json")


def part_file(run_dir: Path, label: str, benchmark_name: str) -> Path:
    """Where a share that sampled a part of a pair says how long that took, and what had to be done again."""
    return completions_file(run_dir, label, benchmark_name).with_suffix(".part.json")


def scores_of_pairs(run_dir: Path, pairs: Sequence[tuple[str, str]]) -> dict:
    """Label -> entry in scores.json: what the files of its pairs say, in the order of the pairs."""
    scores: dict[str, dict] = {}
    for label, benchmark_name in pairs:
        score = json.loads(score_file(run_dir, label, benchmark_name).read_text(encoding="utf-8"))
        scores.setdefault(label, score)["benchmarks"] |= score["benchmarks"]
    return scores


def copy_scored_pairs(from_run: Path, run_dir: Path) -> None:
    """Brings the finished pairs of another run over, but for those that are here.

    Copies, no links: whoever writes to one of the two directories, or deletes it, does no harm to the other.
    """
    for score in sorted((from_run / "completions").glob("*.json")):
        if not score.with_suffix(".parquet").exists():  # a part's
            continue
        here = run_dir / "completions" / score.name
        if not here.exists():
            here.parent.mkdir(exist_ok=True)
            for suffix in (".parquet", ".json"):
                with whole(here.with_suffix(suffix)) as unfinished:
                    shutil.copyfile(score.with_suffix(suffix), unfinished)


def copy_answers(from_runs: Iterable[Path], run_dir: Path, label: str, benchmark_name: str) -> None:
    """Puts what other runs have sampled for a pair into the journal of this one, each completion once."""
    here, *others = (
        completions_file(run, label, benchmark_name).with_suffix(".jsonl") for run in (run_dir, *from_runs)
    )
    for file in filter(Path.exists, others):
        with Journal(file) as theirs, Journal(here) as ours:
            for row, completion in theirs.finished.items():
                if row not in ours.finished:
                    ours.add(row, completion)


def resolve_benchmarks(recipe: Recipe) -> dict[str, Benchmark]:
    """The recipe's benchmarks by name, with what its `evaluate` section overrides in place of the table's sampling."""
    given = {key: getattr(recipe.evaluate, key) for key in ("samples", "temperature", "top_p", "max_new_tokens")}
    overrides = {key: value for key, value in given.items() if value is not None}
    return {name: dataclasses.replace(BENCHMARKS[name], **overrides) for name in recipe.evaluate.benchmarks}


def summarize(
    result: "BenchmarkResult",
    benchmark: Benchmark,
    seconds: float,
    max_positions: int | None = None,
    max_truncated_share: float | None = None,
) -> dict:
    """One benchmark's entry in scores.json. pass@1 is LightEval's, and must be the one that we count ourselves.

    With `refused`, the reason, there is no score: its place is None, and the counts stay.
    """
    from open_r1.benchmarks.refusals import truncation_problem

    problems = result.problems
    completions = [completion for problem in problems for completion in problem.completions if not completion.refused]
    verdicts_PN = np.array([problem.scores for problem in problems], dtype=float)  # None becomes nan
    lighteval_pass_at_1 = result.metrics["pass@1"]
    assert abs(lighteval_pass_at_1 - pass_at_1(verdicts_PN)) < 1e-9, (lighteval_pass_at_1, pass_at_1(verdicts_PN))
    truncated_share = float(np.mean([completion.truncated for completion in completions]))
    refused = truncation_problem(truncated_share, result.max_new_tokens, max_positions, max_truncated_share)
    counts = {
        "num_problems": len(problems),
        "samples": benchmark.samples,
        "temperature": benchmark.temperature,
        "top_p": benchmark.top_p,
        "max_new_tokens": result.max_new_tokens,
        "tokens_per_answer": float(np.mean([completion.num_tokens for completion in completions])),
        "truncated_share": truncated_share,
        "unjudged": int(np.isnan(verdicts_PN).sum()),
        "seconds": round(seconds, 3),
    }
    if refused:
        return {"refused": refused, "pass@1": None, "pass@1_interval": None, "pass@k": {}, **counts}
    scores = {
        "pass@1": lighteval_pass_at_1,
        "pass@1_interval": list(bootstrap_interval(problem_means(verdicts_PN))),
        "pass@k": {str(k): _finite(pass_at_k(verdicts_PN, k)) for k in ks(benchmark.samples)},
    }
    answers_PN = [problem.answers for problem in problems]
    voters = [k for k in ks(benchmark.samples) if k >= MIN_VOTERS]
    if voters and any(answer is not None for answers_N in answers_PN for answer in answers_N):
        scores["maj@k"] = {str(k): _finite(majority_at_k(answers_PN, verdicts_PN, k)) for k in voters}
    return {**scores, **counts, "lighteval": result.metrics}


def _finite(value: float) -> float | None:
    """None for nan, which JSON has not."""
    return value if math.isfinite(value) else None


def check_judged(result: "BenchmarkResult", completions_file: Path) -> None:
    """Raises RunStopped if more than MAX_UNJUDGED_SHARE of the verdicts are missing."""
    verdicts = [score for problem in result.problems for score in problem.scores]
    unjudged = verdicts.count(None)
    if unjudged > MAX_UNJUDGED_SHARE * len(verdicts):
        raise RunStopped(
            f"{unjudged} of {len(verdicts)} completions got no verdict (at most {MAX_UNJUDGED_SHARE:.0%} may); "
            f"look at the rows with a null score in {completions_file}"
        )


def write_completions(result: "BenchmarkResult", file: Path) -> None:
    """Writes one row a problem: prompt, gold, and of each of its N completions all that a score is counted from.

    The lists are completions, num_tokens, truncated, refused (a server's reason not to answer), scores (null: no
    verdict) and answers (null: none was found, or answers are programs).
    """
    import pyarrow
    import pyarrow.parquet

    text, of_each = pyarrow.string(), pyarrow.list_
    schema = pyarrow.schema(
        {
            "prompt": text,
            "gold": text,
            "completions": of_each(text),
            "num_tokens": of_each(pyarrow.int64()),
            "truncated": of_each(pyarrow.bool_()),
            "refused": of_each(text),
            "scores": of_each(pyarrow.float64()),
            "answers": of_each(text),
        }
    )
    rows = [
        {
            "prompt": problem.prompt,
            "gold": problem.gold,
            "completions": [_storable(completion.text) for completion in problem.completions],
            "num_tokens": [completion.num_tokens for completion in problem.completions],
            "truncated": [completion.truncated for completion in problem.completions],
            "refused": [completion.refused for completion in problem.completions],
            "scores": problem.scores,
            "answers": [answer and _storable(answer) for answer in problem.answers],
        }
        for problem in result.problems
    ]
    file.parent.mkdir(exist_ok=True)
    with whole(file) as unfinished:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), unfinished)


def _storable(text: str) -> str:
    """The text, a question mark for half a surrogate pair, which a server may send and UTF-8 has not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _write_json(file: Path, value: dict) -> None:
    with whole(file) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_step(evaluate)
