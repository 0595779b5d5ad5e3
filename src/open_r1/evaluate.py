"""The evaluate step: `python -m open_r1.evaluate RUN_DIR` scores the models of RUN_DIR/recipe.yaml.

Writes RUN_DIR/scores.json, and RUN_DIR/completions/<label>-<benchmark>.parquet with every answer and its verdict, so
that any score can be counted again. Each pair of model and benchmark is seeded by itself, and its score is written
beside its answers as soon as it is known: a run that is taken up again, or joined from shares, is the same.
"""

import contextlib
import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_r1.benchmarks.statistics import bootstrap_interval, ks, pass_at_1, pass_at_k, problem_means
from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.recipe import Recipe, RecipeError
from open_r1.shares import share_of, taken_up
from open_r1.step_process import RunStopped, run_step

if TYPE_CHECKING:
    from open_r1.benchmarks.lighteval_adapter import BenchmarkResult

MAX_UNJUDGED_SHARE = 0.01  # past this the judge is broken, and a score would say more of it than of the model


def evaluate(recipe: Recipe, run_dir: Path) -> None:
    """Leaves the scores of every model on every benchmark in `run_dir/scores.json`, all answers in `completions/`.

    In the directory of a share, those of its pairs of model and benchmark. Raises RecipeError for a mistake in the
    recipe, RunStopped for a judge that fails.
    """
    benchmarks = resolve_benchmarks(recipe)
    pairs = [(label, benchmark_name) for label in models_of(recipe) for benchmark_name in benchmarks]
    if share := share_of(run_dir):
        pairs = share.of(pairs)
    for directory in taken_up(run_dir).values():
        copy_scored_pairs(directory, run_dir)
    for label, pairs_of_model in itertools.groupby(pairs, key=lambda pair: pair[0]):
        missing = [name for _, name in pairs_of_model if not score_file(run_dir, label, name).exists()]
        if missing:
            evaluate_model(recipe, label, {name: benchmarks[name] for name in missing}, run_dir)
    _write_json(run_dir / "scores.json", scores_of_pairs(run_dir, pairs))


def evaluate_model(recipe: Recipe, label: str, benchmarks: dict[str, Benchmark], run_dir: Path) -> None:
    """Scores one model. A function of its own, so that a model is gone before the next is loaded."""
    from open_r1.benchmarks.lighteval_adapter import run_benchmark  # seconds of imports: mistakes are told before
    from open_r1.modeling import num_parameters

    name = models_of(recipe)[label]
    model, tokenizer = _load(recipe, name)
    for benchmark_name, benchmark in benchmarks.items():
        started = time.monotonic()
        result = run_benchmark(
            model,
            tokenizer,
            benchmark_name,
            benchmark,
            problems_dir=run_dir / "problems",
            batch_size=recipe.evaluate.batch_size,
            seed=recipe.seed,
            thinking=recipe.thinking,
            num_problems=recipe.evaluate.num_problems,
            description=f"{label} on {benchmark_name}",
        )
        seconds = time.monotonic() - started
        write_completions(result, completions_file(run_dir, label, benchmark_name))
        check_judged(result, completions_file(run_dir, label, benchmark_name))
        score = {
            "model": recipe.model_path(name),
            "parameters": num_parameters(model),
            "benchmarks": {benchmark_name: summarize(result, benchmark, seconds)},
        }
        _write_json(score_file(run_dir, label, benchmark_name), score)


def models_of(recipe: Recipe) -> dict[str, str]:
    """Label -> name of every model that the recipe scores."""
    return recipe.evaluate.models or {"model": recipe.model.name}


def completions_file(run_dir: Path, label: str, benchmark_name: str) -> Path:
    """Where the answers of a model on a benchmark are, one row a problem."""
    return run_dir / "completions" / f"{label}-{benchmark_name}.parquet"


def score_file(run_dir: Path, label: str, benchmark_name: str) -> Path:
    """Where their score is; it is written after the answers, so where it is the pair is finished."""
    return completions_file(run_dir, label, benchmark_name).with_suffix(".json")


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
        here = run_dir / "completions" / score.name
        if not here.exists():
            here.parent.mkdir(exist_ok=True)
            for suffix in (".parquet", ".json"):
                with _whole(here.with_suffix(suffix)) as unfinished:
                    shutil.copyfile(score.with_suffix(suffix), unfinished)


def resolve_benchmarks(recipe: Recipe) -> dict[str, Benchmark]:
    """The recipe's benchmarks by name, with what its `evaluate` section overrides in place of the table's sampling."""
    given = {key: getattr(recipe.evaluate, key) for key in ("samples", "temperature", "top_p", "max_new_tokens")}
    overrides = {key: value for key, value in given.items() if value is not None}
    return {name: dataclasses.replace(BENCHMARKS[name], **overrides) for name in recipe.evaluate.benchmarks}


def summarize(result: "BenchmarkResult", benchmark: Benchmark, seconds: float) -> dict:
    """One benchmark's entry in scores.json. pass@1 is LightEval's, and must be the one that we count ourselves."""
    problems = result.problems
    completions = [completion for problem in problems for completion in problem.completions]
    verdicts_PN = np.array([problem.scores for problem in problems], dtype=float)  # None becomes nan
    lighteval_pass_at_1 = result.metrics["pass@1"]
    assert abs(lighteval_pass_at_1 - pass_at_1(verdicts_PN)) < 1e-9, (lighteval_pass_at_1, pass_at_1(verdicts_PN))
    return {
        "pass@1": lighteval_pass_at_1,
        "pass@1_interval": list(bootstrap_interval(problem_means(verdicts_PN))),
        "pass@k": {str(k): pass_at_k(verdicts_PN, k) for k in ks(benchmark.samples)},
        "num_problems": len(problems),
        "samples": benchmark.samples,
        "temperature": benchmark.temperature,
        "top_p": benchmark.top_p,
        "max_new_tokens": benchmark.max_new_tokens,
        "tokens_per_answer": float(np.mean([completion.num_tokens for completion in completions])),
        "truncated_share": float(np.mean([completion.truncated for completion in completions])),
        "unjudged": int(np.isnan(verdicts_PN).sum()),
        "seconds": round(seconds, 3),
        "lighteval": result.metrics,
    }


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
    """Writes one row a problem: prompt, gold, and the lists completions, num_tokens, truncated, scores."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "prompt": problem.prompt,
            "gold": problem.gold,
            "completions": [completion.text for completion in problem.completions],
            "num_tokens": [completion.num_tokens for completion in problem.completions],
            "truncated": [completion.truncated for completion in problem.completions],
            "scores": problem.scores,
        }
        for problem in result.problems
    ]
    file.parent.mkdir(exist_ok=True)
    with _whole(file) as unfinished:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), unfinished)


def _write_json(file: Path, value: dict) -> None:
    with _whole(file) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """The path to write a file under; it gets its own name when it is whole."""
    unfinished = file.with_name(f"{file.name}.part")
    yield unfinished
    unfinished.replace(file)


def _load(recipe: Recipe, name: str):
    import torch

    from open_r1.modeling import check_accelerators, load_model, load_tokenizer

    check_accelerators(recipe)
    other = name if recipe.evaluate.models else None  # model.revision belongs to model.name alone
    model, tokenizer = load_model(recipe, other), load_tokenizer(recipe, other)
    if not tokenizer.chat_template:
        raise RecipeError(f"{recipe.source}: model {name!r} has no chat template; give model.chat_template")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


if __name__ == "__main__":
    run_step(evaluate)
