"""The evaluate step: `python -m open_r1.evaluate RUN_DIR` scores the models of RUN_DIR/recipe.yaml.

Writes RUN_DIR/scores.json, and RUN_DIR/completions/<label>-<benchmark>.parquet with every answer and its verdict, so
that any score can be counted again.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_r1.benchmarks.statistics import bootstrap_interval, ks, pass_at_1, pass_at_k, problem_means
from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.recipe import Recipe, RecipeError
from open_r1.step_process import RunStopped, run_step

if TYPE_CHECKING:
    from open_r1.benchmarks.lighteval_adapter import BenchmarkResult

MAX_UNJUDGED_SHARE = 0.01  # past this the judge is broken, and a score would say more of it than of the model


def evaluate(recipe: Recipe, run_dir: Path) -> None:
    """Leaves the scores of every model on every benchmark in `run_dir/scores.json`, all answers in `completions/`.

    Raises RecipeError for a mistake in the recipe, RunStopped for a judge that fails.
    """
    benchmarks = resolve_benchmarks(recipe)
    models = recipe.evaluate.models or {"model": recipe.model.name}
    scores = {label: evaluate_model(recipe, label, name, benchmarks, run_dir) for label, name in models.items()}
    (run_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def evaluate_model(recipe: Recipe, label: str, name: str, benchmarks: dict[str, Benchmark], run_dir: Path) -> dict:
    """One model's entry in scores.json. A function of its own, so that a model is gone before the next is loaded."""
    from open_r1.benchmarks.lighteval_adapter import run_benchmark  # seconds of imports: mistakes are told before
    from open_r1.modeling import num_parameters

    model, tokenizer = _load(recipe, name)
    entries = {}
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
        completions_file = run_dir / "completions" / f"{label}-{benchmark_name}.parquet"
        write_completions(result, completions_file)
        check_judged(result, completions_file)
        entries[benchmark_name] = summarize(result, benchmark, seconds)
    return {"model": recipe.model_path(name), "parameters": num_parameters(model), "benchmarks": entries}


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
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def _load(recipe: Recipe, name: str):
    import torch

    from open_r1.modeling import load_model, load_tokenizer

    other = name if recipe.evaluate.models else None  # model.revision belongs to model.name alone
    model, tokenizer = load_model(recipe, other), load_tokenizer(recipe, other)
    if not tokenizer.chat_template:
        raise RecipeError(f"{recipe.source}: model {name!r} has no chat template; give model.chat_template")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


if __name__ == "__main__":
    run_step(evaluate)
