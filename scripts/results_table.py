"""Runs of several seeds -> the results table of a recipe's README, and the records that it was made from.

    python scripts/results_table.py recipes/tiny-r1 runs/tiny-r1/study/seed*
    python scripts/results_table.py recipes/tiny-r1 runs/tiny-r1/code_study/seed* --results code_results.json
    python scripts/results_table.py recipes/tiny-rlaif runs/tiny-rlaif/pipeline/seed*

Writes RECIPE_FOLDER/results.json (what each run.json says of its scores, weights, commit and machine, the curves of its
RL runs, and what its judge and its reward model are worth) and fills in these markers of RECIPE_FOLDER/README.md, in
files of another name those of that name:

    results               a row a model; the README has to have these
    results_differences   the README's own questions, a row each: what is asked, and "`one model` - `another`"; the
                          other columns are filled in
    results_feedback      a row a seed: pairs by AI, the reward model, and RL against it
    results_minutes       a row a stage

A model's first benchmark gives its pass@1, its answers and their length; others have a column each. Without runs the
README is filled in anew from the results.json that is there; `--check` only says whether it shows what that has.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from open_r1.report.reading import Run, read_all
from open_r1.report.truth import reward_and_truth, truth_of
from open_r1.rewards import format_reward
from open_r1.run_record import METRICS_FILE, read_record

BEGIN, END = "<!-- {name}: scripts/results_table.py -->", "<!-- end of {name} -->"
# Of a study in which several benchmarks are of the same answers: what each of them says of an answer. By the first one.
QUALITIES = {"tiny_explanations": {"tiny_explanations": "explained", "tiny_sums": "right"}}
COUNTED_PAIRS = ("prompts", "kept", "dropped", "longer_is_chosen", "length_correlation", "judge")
MEASURED_REWARD_MODEL = (
    "num_pairs",
    "accuracy",
    "accuracy_stderr",
    "calibration_error",
    "length_correlation",
    "accuracy_if_longer",
    "accuracy_if_shorter",
)
CURVES = {"accuracy": "rewards/accuracy/mean", "format": "rewards/format/mean", "tokens": "completions/mean_length"}


def collect(run_dirs: list[Path]) -> list[dict]:
    """One entry a run: what can be checked again, and nothing of where it lay. Exits if one is unfinished."""
    runs = []
    for run_dir in run_dirs:
        record = read_record(run_dir)
        if record is None or record["status"] != "done":
            raise SystemExit(f"{run_dir}: not a finished run; results are only of finished runs")
        stages = {stage["name"]: read_record(run_dir / stage["name"]) for stage in record["recipe"]["stages"]}
        models = {}
        for name, stage in stages.items():
            for label, score in (stage["scores"] or {}).items() if stage["step"] == "evaluate" else ():
                models[label] = _model_entry(run_dir / label, stages.get(label), label, score, run_dir / name)
        runs.append(
            {
                "seed": record["seed"],
                "commit": record["commit"],
                "dirty": record["dirty"],
                "minutes": round(record["seconds"] / 60, 1),
                "minutes_of_stages": {name: round(stage["seconds"] / 60, 2) for name, stage in stages.items()},
                "cpu": record["hardware"]["cpu"],
                "cores": record["hardware"]["cores"],
                "versions": record["versions"],
                "models": models,
                "curves": {name: _curves(run_dir / name) for name, stage in stages.items() if stage["step"] == "grpo"},
                **_feedback(run_dir, stages),
            }
        )
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise SystemExit(f"two runs of one seed (seeds: {seeds}); move the one away that is not meant")
    return sorted(runs, key=lambda run: run["seed"])


def _model_entry(stage_dir: Path, stage: dict | None, label: str, score: dict, evaluation_dir: Path) -> dict:
    traces_file = stage_dir / "distill.json"
    traces = json.loads(traces_file.read_text(encoding="utf-8")) if traces_file.exists() else None
    (benchmark, entry), *others = score["benchmarks"].items()
    return {
        "parameters": score["parameters"],
        "benchmark": benchmark,
        "pass@1": entry["pass@1"],
        "pass@1_interval": entry["pass@1_interval"],
        "num_problems": entry["num_problems"],
        "samples": entry["samples"],
        "tokens_per_answer": entry["tokens_per_answer"],
        "format_share": _format_share(evaluation_dir / "completions" / f"{label}-{benchmark}.parquet"),
        "others": {name: {"pass@1": other["pass@1"], "num_problems": other["num_problems"]} for name, other in others},
        "minutes": round(stage["seconds"] / 60, 2) if stage else None,
        "weights_sha256": stage["weights_sha256"] if stage else None,
        "traces": traces,
    }


def _format_share(completions_file: Path) -> float:
    """The share of a model's evaluated answers that keep the format which the reward `format` asks for."""
    texts = pd.read_parquet(completions_file, columns=["completions"])["completions"].explode()
    return float(np.mean(format_reward(list(texts))))


def _curves(stage_dir: Path) -> dict[str, list[float]]:
    """What a run of RL logged of its rollouts, in order, and at which steps; a key that it did not log is left out."""
    lines = (stage_dir / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    logs = {log["step"]: log for log in map(json.loads, lines) if CURVES["tokens"] in log}  # no evaluation has it
    rows = [logs[step] for step in sorted(logs)]
    logged = {name: [round(row[key], 4) for row in rows] for name, key in CURVES.items() if key in rows[0]}
    return {"steps": [row["step"] for row in rows], **logged}


def _feedback(run_dir: Path, names: Collection[str]) -> dict[str, dict]:
    """By stage: what pairs, reward models and evaluations during RL came to; nothing of a run without any of them."""
    stages = [stage for stage in read_all(run_dir, [])[1] if stage.name in names]
    found = {
        "preferences": {
            stage.name: _chosen(COUNTED_PAIRS, stage.sampling) for stage in stages if stage.step == "preferences"
        },
        "reward_models": {
            stage.name: _chosen(MEASURED_REWARD_MODEL, stage.held_out_pairs) for stage in stages if stage.held_out_pairs
        },
        "evaluations": {stage.name: entry for stage in stages if (entry := _evaluations(stage))},
    }
    return {name: entries for name, entries in found.items() if entries}


def _chosen(names: Sequence[str], entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _rounded(entry.get(name)) for name in names}


def _rounded(value: Any) -> Any:
    """A number with four decimals, and those inside an object; others as they are."""
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _evaluations(stage: Run) -> dict[str, Any] | None:
    """What a run with `guards.truth` got on eval_data, of the truth and of rewards; None of another run."""
    found = reward_and_truth(stage, []) if truth_of(stage) is not None else None
    if found is None or not found.rewards:
        return None
    means = pd.DataFrame(found.truths | found.rewards).dropna()
    return {
        "truth": next(iter(found.truths)),
        "stopped_at": found.stopped_at,
        "best_step": found.best_step,
        "steps": [int(step) for step in means.index],
        "means": {name: [round(float(mean), 4) for mean in means[name]] for name in means},
    }


def table(runs: list[dict]) -> str:
    """The Markdown table: a row a model, its pass@1 for each seed in order, mean and spread over the seeds."""
    first = next(iter(runs[0]["models"].values()))
    others = list(dict.fromkeys(name for entry in runs[0]["models"].values() for name in entry.get("others", {})))
    has_format = "format_share" in first
    called = QUALITIES.get(first["benchmark"], {})
    by_seed = f"{called.get(first['benchmark'], 'pass@1')} by seed, %"
    header = ["model", "parameters", by_seed, "mean ± standard deviation"]
    header += [f"{called.get(name, name)}, %" for name in others] + (["in the format, %"] if has_format else [])
    rows = [_row([*header, "tokens an answer", "minutes"]), _row(["---"] * (len(header) + 2)).replace(" ", "")]
    for label in runs[0]["models"]:
        entries = [run["models"][label] for run in runs]
        minutes = [entry["minutes"] for entry in entries if entry["minutes"] is not None]
        rows.append(
            _row(
                [
                    f"`{label}`",
                    f"{entries[0]['parameters']:,}",
                    ", ".join(map(_percent, (entry["pass@1"] for entry in entries))),
                    _spread([entry["pass@1"] for entry in entries]),
                    *(_spread([_other(entry, name) for entry in entries]) for name in others),
                    *([_percent(statistics.mean(entry["format_share"] for entry in entries))] if has_format else []),
                    f"{statistics.mean(entry['tokens_per_answer'] for entry in entries):.1f}",
                    f"{statistics.mean(minutes):.1f}" if minutes else "–",
                ]
            )
        )
    rows.append("")
    rows.append(
        f"Seeds {', '.join(str(run['seed']) for run in runs)}; {first['num_problems']:,} held-out problems, "
        f"{first['samples']} sample each at T=1 ({_benchmarks(first['benchmark'])}); one run's 95 % interval is about "
        f"± {_half_width(runs):.1f} points. {runs[0]['cores']} cores ({runs[0]['cpu']}), "
        f"{statistics.mean(run['minutes'] for run in runs):.0f} minutes a seed."
    )
    return "\n".join(rows)


def _benchmarks(first: str) -> str:
    """The benchmark by its name; where QUALITIES has several beside it, each with what it says of an answer."""
    called = QUALITIES.get(first)
    if called is None:
        return f"benchmark `{first}`"
    return "benchmarks " + ", ".join(f"`{benchmark}`: {quality}" for benchmark, quality in called.items())


def differences(asked: str, runs: list[dict]) -> str:
    """The rows of a README's table of differences with their figures: points by seed, mean and 95 % interval of it.

    Where QUALITIES has more than one for the models' benchmark, the mean of each of the others has a column more.

    Each seed is compared with itself, since its two models share data and what they were trained from; the interval is
    Student's t over these differences. Exits at a row that names no two models.
    """
    header, _, *rows = asked.splitlines()
    first = next(iter(runs[0]["models"].values())).get("benchmark")
    (_, quality), *others = QUALITIES.get(first, {first: ""}).items()
    titles = ["by seed, points", "mean, 95 % interval"]
    titles = [f"{quality} {title}" for title in titles] if quality else titles
    titles += [f"{other} mean, 95 % interval" for _, other in others]
    filled = [_row([*_cells(header)[:2], *titles]), _row(["---"] * (2 + len(titles))).replace(" ", "")]
    for row in rows:
        question, pair = _cells(row)[:2]
        names = re.fullmatch(r"`(\w+)` - `(\w+)`", pair)
        if names is None or not set(names.groups()) <= set(runs[0]["models"]):
            raise SystemExit(
                f"`{question}`: {pair} is no difference of two models of these runs; write `one` - `another`"
            )
        points = _points([[run["models"][name]["pass@1"] for name in names.groups()] for run in runs])
        figures = [", ".join(f"{point:+.1f}" for point in points) or "–", _mean_interval(points)]
        for benchmark, _ in others:
            pairs = [[_other(run["models"][name], benchmark) for name in names.groups()] for run in runs]
            figures.append(_mean_interval(_points(pairs)))
        filled.append(_row([question, pair, *figures]))
    return "\n".join(filled)


def _points(pairs: list[list[float | None]]) -> list[float]:
    """By how many points the first of each pair is above the second; none if a seed lacks one."""
    if any(None in pair for pair in pairs):
        return []
    return [100 * (one - another) for one, another in pairs]


def _other(entry: dict, benchmark: str) -> float | None:
    """pass@1 of a model on a benchmark that is not its first, None if it has none."""
    return entry.get("others", {}).get(benchmark, {}).get("pass@1")


def feedback(runs: list[dict]) -> str:
    """The Markdown table of what AI feedback came to, a row a seed; of a stage that comes twice its first."""
    header = ["seed", "pairs of prompts", "dropped", "unreadable verdicts, %", "score and length, correlation"]
    header += ["reward model: held-out pairs right, %", "calibration error", "reward and length, correlation"]
    rl = next(iter(runs[0].get("evaluations", {})), None)
    header += [f"`{rl}` stopped at step", "best checkpoint"] if rl else []
    rows = [_row(header), _row(["---"] * len(header)).replace(" ", "")]
    for run in runs:
        pairs, model = (next(iter(run[name].values())) for name in ("preferences", "reward_models"))
        judge = pairs["judge"]
        cells = [
            str(run["seed"]),
            f"{pairs['kept']:,} of {pairs['prompts']:,}",
            ", ".join(f"{reason}: {count:,}" for reason, count in pairs["dropped"].items()) or "–",
            f"{100 * judge['unreadable'] / judge['verdicts']:.1f}",
            _signed(pairs["length_correlation"]),
            f"{100 * model['accuracy']:.1f} ± {100 * model['accuracy_stderr']:.1f}",
            f"{model['calibration_error']:.3f}",
            _signed(model["length_correlation"]),
        ]
        if rl:
            cells += [str(run["evaluations"][rl][key] or "–") for key in ("stopped_at", "best_step")]
        rows.append(_row(cells))
    return "\n".join(rows)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def stage_minutes(runs: list[dict]) -> str:
    """The Markdown table of minutes, a row a stage: the mean of the seeds, and the range between them."""
    rows = [_row(["stage", "minutes", "least and most"]), "|---|---|---|"]
    for name in runs[0]["minutes_of_stages"]:
        taken = [run["minutes_of_stages"][name] for run in runs]
        rows.append(_row([f"`{name}`", f"{statistics.mean(taken):.1f}", f"{min(taken):.1f} to {max(taken):.1f}"]))
    return "\n".join(rows)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _mean_interval(points: list[float]) -> str:
    """A dash without any."""
    if not points:
        return "–"
    mean = f"{statistics.mean(points):+.1f}"
    if len(points) < 2:
        return f"{mean} (one seed)"
    half = stats.t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / len(points) ** 0.5
    return f"{mean} ± {half:.1f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "refused" if share is None else f"{100 * share:.1f}"


def _spread(shares: list[float | None]) -> str:
    """Mean and standard deviation in percent; a dash if a seed has no score."""
    if None in shares:
        return "–"
    percent = [100 * share for share in shares]
    mean = f"{statistics.mean(percent):.1f}"
    return f"{mean} ± {statistics.stdev(percent):.1f}" if len(shares) > 1 else f"{mean} (one seed)"


def _half_width(runs: list[dict]) -> float:
    """The widest half interval of any score, in points."""
    intervals = [entry["pass@1_interval"] for run in runs for entry in run["models"].values()]
    return max(100 * (high - low) / 2 for low, high in filter(None, intervals))


def around_markers(readme: str, name: str) -> tuple[str, str, str]:
    """What stands before, between and after the markers of that name; exits if a README has none."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found_begin, rest = readme.partition(begin)
    between, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"the README has no place for the table; put `{begin}` and `{end}` where it is to stand")
    return before + begin, between.strip(), end + after


MORE_TABLES = {  # how the name of their markers ends -> the table, of what stood there and the runs
    "differences": differences,
    "feedback": lambda asked, runs: feedback(runs),
    "minutes": lambda asked, runs: stage_minutes(runs),
}


def with_figures(readme: str, name: str, runs: list[dict]) -> str:
    """The README with the table of these runs and, where it has the markers for them, with the other tables."""
    before, _, after = around_markers(readme, name)
    readme = f"{before}\n{table(runs)}\n{after}"
    for more, fill in MORE_TABLES.items():
        if BEGIN.format(name=f"{name}_{more}") in readme:
            before, asked, after = around_markers(readme, f"{name}_{more}")
            readme = f"{before}\n{fill(asked, runs)}\n{after}"
    return readme


def recorded(results: Path) -> list[dict]:
    """The records that were written; exits if there are none."""
    if not results.exists():
        raise SystemExit(f"{results}: there is no such file; give the runs that it is to be made from")
    return json.loads(results.read_text(encoding="utf-8"))


def as_json(runs: list[dict]) -> str:
    """The records, a line for each value and for each list of numbers."""
    lists_of_scalars = re.compile(r"\[\n\s*([^][{}]+?)\n\s*\]")
    lines = json.dumps(runs, indent=1)
    return lists_of_scalars.sub(lambda found: "[" + re.sub(r"\n\s*", " ", found[1]) + "]", lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("run_dirs", type=Path, nargs="*")
    parser.add_argument("--results", default="results.json", help="file in the folder (default: results.json)")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme, results = arguments.folder / "README.md", arguments.folder / arguments.results
    text = readme.read_text(encoding="utf-8") if readme.exists() else None
    if text is None and arguments.check:
        raise SystemExit(f"{readme}: there is no such file to check")
    if arguments.check:
        shown = text == with_figures(text, results.stem, recorded(results))
        print(f"{readme}: {'shows' if shown else 'does not show'} {results.name}")
        return 0 if shown else 1
    if arguments.run_dirs:  # written first: whatever the README lacks, the records are there
        results.write_text(as_json(collect(arguments.run_dirs)), encoding="utf-8")
    runs = recorded(results)
    if text is not None:
        readme.write_text(with_figures(text, results.stem, runs), encoding="utf-8")
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
