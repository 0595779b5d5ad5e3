"""Runs of several seeds -> the results table of a recipe's README, and the records that it was made from.

    python scripts/results_table.py recipes/tiny-r1 runs/tiny-r1/study/seed*
    python scripts/results_table.py recipes/tiny-r1 runs/tiny-r1/code_study/seed* --results code_results.json

Writes RECIPE_FOLDER/results.json (what each run.json says of its scores, weights, commit and machine, and the curves of
its RL runs) and puts the table between the markers of that name in RECIPE_FOLDER/README.md. A model's first benchmark
gives its pass@1, its answers and their length; others have a column each. A README that has markers
`results_differences` asks its own questions there, a row each: what is asked, and "`one model` - `another`"; the other
columns are filled in. `--check` only says whether the README shows what results.json has.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from open_r1.rewards import format_reward
from open_r1.run_record import METRICS_FILE, read_record

BEGIN, END = "<!-- {name}: scripts/results_table.py -->", "<!-- end of {name} -->"
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
                "cpu": record["hardware"]["cpu"],
                "cores": record["hardware"]["cores"],
                "versions": record["versions"],
                "models": models,
                "curves": {name: _curves(run_dir / name) for name, stage in stages.items() if stage["step"] == "grpo"},
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
    logs = {log["step"]: log for log in map(json.loads, lines)}
    rows = [logs[step] for step in sorted(logs) if CURVES["tokens"] in logs[step]]
    logged = {name: [round(row[key], 4) for row in rows] for name, key in CURVES.items() if key in rows[0]}
    return {"steps": [row["step"] for row in rows], **logged}


def table(runs: list[dict]) -> str:
    """The Markdown table: a row a model, its pass@1 for each seed in order, mean and spread over the seeds."""
    first = next(iter(runs[0]["models"].values()))
    others = list(dict.fromkeys(name for entry in runs[0]["models"].values() for name in entry.get("others", {})))
    has_format = "format_share" in first
    header = ["model", "parameters", "pass@1 by seed, %", "mean ± standard deviation"]
    header += [f"{name}, %" for name in others] + (["in the format, %"] if has_format else [])
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
                    *(
                        _spread([entry.get("others", {}).get(name, {}).get("pass@1") for entry in entries])
                        for name in others
                    ),
                    *([_percent(statistics.mean(entry["format_share"] for entry in entries))] if has_format else []),
                    f"{statistics.mean(entry['tokens_per_answer'] for entry in entries):.1f}",
                    f"{statistics.mean(minutes):.1f}" if minutes else "–",
                ]
            )
        )
    rows.append("")
    rows.append(
        f"Seeds {', '.join(str(run['seed']) for run in runs)}; {first['num_problems']:,} held-out problems, "
        f"{first['samples']} sample each at T=1 (benchmark `{first['benchmark']}`); one run's 95 % interval is about "
        f"± {_half_width(runs):.1f} points. {runs[0]['cores']} cores ({runs[0]['cpu']}), "
        f"{statistics.mean(run['minutes'] for run in runs):.0f} minutes a seed."
    )
    return "\n".join(rows)


def differences(asked: str, runs: list[dict]) -> str:
    """The rows of a README's table of differences with their figures: points by seed, mean and 95 % interval of it.

    Each seed is compared with itself, since its two models share data and what they were trained from; the interval is
    Student's t over these differences. Exits at a row that names no two models.
    """
    header, _, *rows = asked.splitlines()
    filled = [_row([*_cells(header)[:2], "by seed, points", "mean, 95 % interval"]), _row(["---"] * 4).replace(" ", "")]
    for row in rows:
        question, pair = _cells(row)[:2]
        names = re.fullmatch(r"`(\w+)` - `(\w+)`", pair)
        if names is None or not set(names.groups()) <= set(runs[0]["models"]):
            raise SystemExit(
                f"`{question}`: {pair} is no difference of two models of these runs; write `one` - `another`"
            )
        scores = [[run["models"][name]["pass@1"] for name in names.groups()] for run in runs]
        points = [100 * (one - another) for one, another in scores if None not in (one, another)]
        complete = len(points) == len(runs)
        by_seed = ", ".join(f"{point:+.1f}" for point in points) if complete else "–"
        filled.append(_row([question, pair, by_seed, _mean_interval(points) if complete else "–"]))
    return "\n".join(filled)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _mean_interval(points: list[float]) -> str:
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


def with_figures(readme: str, name: str, runs: list[dict]) -> str:
    """The README with the table of these runs and, where it has the markers for it, with its differences."""
    before, _, after = around_markers(readme, name)
    readme = f"{before}\n{table(runs)}\n{after}"
    if BEGIN.format(name=f"{name}_differences") in readme:
        before, asked, after = around_markers(readme, f"{name}_differences")
        readme = f"{before}\n{differences(asked, runs)}\n{after}"
    return readme


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
    text = readme.read_text(encoding="utf-8")
    if arguments.check:
        shown = text == with_figures(text, results.stem, json.loads(results.read_text(encoding="utf-8")))
        print(f"{readme}: {'shows' if shown else 'does not show'} {results.name}")
        return 0 if shown else 1
    runs = collect(arguments.run_dirs)
    text = with_figures(text, results.stem, runs)
    results.write_text(as_json(runs), encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
