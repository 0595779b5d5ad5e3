"""Runs of several seeds -> the results table of a recipe's README, and the records that it was made from.

    python scripts/results_table.py recipes/tiny-r1 runs/tiny-r1/study/seed*
    python scripts/results_table.py recipes/tiny-r1 runs/tiny-r1/code_study/seed* --results code_results.json

Writes RECIPE_FOLDER/results.json (what each run.json says of its scores, weights, commit and machine) and puts the
table between the markers of that name in RECIPE_FOLDER/README.md. `--check` only says whether the README shows it.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from open_r1.run_record import read_record

BEGIN, END = "<!-- {name}: scripts/results_table.py -->", "<!-- end of {name} -->"
HEADER = (
    "| model | parameters | pass@1 by seed, % | mean ± standard deviation | tokens an answer | minutes |\n"
    "|---|---|---|---|---|---|"
)


def collect(run_dirs: list[Path]) -> list[dict]:
    """One entry a run: what can be checked again, and nothing of where it lay. Exits if one is unfinished."""
    runs = []
    for run_dir in run_dirs:
        record = read_record(run_dir)
        if record is None or record["status"] != "done":
            raise SystemExit(f"{run_dir}: not a finished run; results are only of finished runs")
        stages = {stage["name"]: read_record(run_dir / stage["name"]) for stage in record["recipe"]["stages"]}
        scores = next(r["scores"] for r in stages.values() if r["step"] == "evaluate")
        runs.append(
            {
                "seed": record["seed"],
                "commit": record["commit"],
                "dirty": record["dirty"],
                "minutes": round(record["seconds"] / 60, 1),
                "cpu": record["hardware"]["cpu"],
                "cores": record["hardware"]["cores"],
                "versions": record["versions"],
                "models": {
                    label: _model_entry(run_dir / label, stages.get(label), score) for label, score in scores.items()
                },
            }
        )
    return sorted(runs, key=lambda run: run["seed"])


def _model_entry(stage_dir: Path, stage: dict | None, score: dict) -> dict:
    traces_file = stage_dir / "distill.json"
    traces = json.loads(traces_file.read_text(encoding="utf-8")) if traces_file.exists() else None
    ((benchmark, entry),) = score["benchmarks"].items()
    return {
        "parameters": score["parameters"],
        "benchmark": benchmark,
        "pass@1": entry["pass@1"],
        "pass@1_interval": entry["pass@1_interval"],
        "num_problems": entry["num_problems"],
        "samples": entry["samples"],
        "tokens_per_answer": entry["tokens_per_answer"],
        "minutes": round(stage["seconds"] / 60, 2) if stage else None,
        "weights_sha256": stage["weights_sha256"] if stage else None,
        "traces": traces,
    }


def table(runs: list[dict]) -> str:
    """The Markdown table: a row a model, its pass@1 for each seed in order, mean and spread over the seeds."""
    rows = [HEADER]
    for label in runs[0]["models"]:
        entries = [run["models"][label] for run in runs]
        percent = [100 * entry["pass@1"] for entry in entries]
        spread = f"{statistics.mean(percent):.1f} ± {statistics.stdev(percent):.1f}" if len(runs) > 1 else "one seed"
        tokens = statistics.mean(entry["tokens_per_answer"] for entry in entries)
        minutes = [entry["minutes"] for entry in entries if entry["minutes"] is not None]
        rows.append(
            f"| `{label}` | {entries[0]['parameters']:,} | {', '.join(f'{value:.1f}' for value in percent)} | {spread} "
            f"| {tokens:.1f} | {f'{statistics.mean(minutes):.1f}' if minutes else '–'} |"
        )
    first = next(iter(runs[0]["models"].values()))
    rows.append("")
    rows.append(
        f"Seeds {', '.join(str(run['seed']) for run in runs)}; {first['num_problems']:,} held-out problems, "
        f"{first['samples']} sample each at T=1 (benchmark `{first['benchmark']}`); one run's 95 % interval is about "
        f"± {_half_width(runs):.1f} points. {runs[0]['cores']} cores ({runs[0]['cpu']}), "
        f"{statistics.mean(run['minutes'] for run in runs):.0f} minutes a seed."
    )
    return "\n".join(rows)


def _half_width(runs: list[dict]) -> float:
    """The widest half interval of any score, in points."""
    intervals = [entry["pass@1_interval"] for run in runs for entry in run["models"].values()]
    return max(100 * (high - low) / 2 for low, high in intervals)


def around_markers(readme: str, name: str) -> tuple[str, str, str]:
    """What stands before, between and after the markers of that name; exits if a README has none."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found_begin, rest = readme.partition(begin)
    between, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"the README has no place for the table; put `{begin}` and `{end}` where it is to stand")
    return before + begin, between.strip(), end + after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("run_dirs", type=Path, nargs="*")
    parser.add_argument("--results", default="results.json", help="file in the folder (default: results.json)")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme, results = arguments.folder / "README.md", arguments.folder / arguments.results
    before, between, after = around_markers(readme.read_text(encoding="utf-8"), results.stem)
    if arguments.check:
        shown = between == table(json.loads(results.read_text(encoding="utf-8")))
        print(f"{readme}: {'shows' if shown else 'does not show'} {results.name}")
        return 0 if shown else 1
    runs = collect(arguments.run_dirs)
    results.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    readme.write_text(f"{before}\n{table(runs)}\n{after}", encoding="utf-8")
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
