"""`make evidence RUN=runs/…`: what a finished run was and gave, kept beside its recipe in evidence/*.json.

The results tables of the recipes are made of these files and of nothing else (see pages.py). They have what can be
checked again, and nothing of where the run lay.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.places import RECIPES, REPOSITORY
from open_r1.recipe import RecipeError, load_recipe
from open_r1.run_record import read_record

FOLDER = "evidence"
PUBLISHED_FILE = "published.json"  # scores of others, to compare with
KEPT = ("step", "seed", "recipe_sha256", "commit", "dirty", "versions", "hardware", "seconds", "cost_usd", "attempts")
PUBLISHED_KEYS = {"recipe", "model", "benchmark", "metric", "score", "source"}


@dataclass(frozen=True)
class Published:
    """A score that others give, in percent where the benchmark has it so."""

    recipe: str
    """The file in the same folder that is to reach it."""
    model: str
    benchmark: str
    metric: str
    score: float
    source: str


def add_evidence(run_dir: Path) -> Path:
    """Writes the evidence of a finished run beside its recipe, and gives the file.

    Raises RecipeError if the run is not finished, or its recipe none of the repository's.
    """
    record = read_record(run_dir)
    if record is None or record["status"] != "done":
        status = "there is no run.json" if record is None else f"its status is {record['status']}"
        raise RecipeError(f"{run_dir}: no finished run ({status}); only what has ended well is evidence")
    file = (REPOSITORY / record["recipe_file"]).resolve()
    if not file.is_file() or RECIPES not in file.parents:
        raise RecipeError(f"{run_dir}: its recipe {record['recipe_file']} is not in {RECIPES}; put it there first")
    kept = {key: record.get(key) for key in KEPT}
    kept |= {"recipe": file.name, "weights_sha256": record["weights_sha256"], "scores": _scores(record["scores"])}
    kept["parents"] = [{key: parent[key] for key in ("name", "weights_sha256")} for parent in record["parents"]]
    folder = file.parent / FOLDER
    folder.mkdir(exist_ok=True)
    evidence = folder / f"{file.stem}-seed{record['seed']}-{(record['commit'] or 'no-commit')[:8]}.json"
    evidence.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return evidence


def _scores(scores: dict[str, Any] | None) -> dict[str, Any] | None:
    """Scores without the paths of models."""
    if scores is None:
        return None
    return {label: {key: value for key, value in score.items() if key != "model"} for label, score in scores.items()}


def evidence_of(folder: Path) -> list[dict[str, Any]]:
    """What lies in a recipe folder's evidence, by recipe and seed."""
    files = [file for file in sorted((folder / FOLDER).glob("*.json")) if file.name != PUBLISHED_FILE]
    found = [json.loads(file.read_text(encoding="utf-8")) | {"file": f"{FOLDER}/{file.name}"} for file in files]
    return sorted(found, key=lambda entry: (entry["recipe"], entry["seed"]))


def published_of(folder: Path) -> list[Published]:
    """The scores to compare with. Raises RecipeError, naming file and entry, for one that is incomplete."""
    file = folder / FOLDER / PUBLISHED_FILE
    if not file.exists():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{file}: not valid JSON ({error}); see evidence/ of another recipe") from None
    for number, entry in enumerate(entries):
        if wrong := PUBLISHED_KEYS ^ entry.keys():
            key = min(wrong)
            verb = "missing; add it" if key in PUBLISHED_KEYS else "unknown; remove it"
            raise RecipeError(f"{file}: {number}.{key}: {verb}")
        if not (folder / entry["recipe"]).is_file():
            raise RecipeError(f"{file}: {number}.recipe: no {entry['recipe']} in {folder}; name one of its files")
    return [Published(**entry) for entry in entries]


def results_table(folder: Path) -> str:
    """The Markdown table of a folder's evidence; a line that says so if there is none."""
    evidence = evidence_of(folder)
    if not evidence:
        return "Not yet run. `make evidence RUN=runs/…` puts a finished run here."
    published = published_of(folder)
    lines = ["| recipe | seed | result | published | hours | USD | commit |", "|---|---|---|---|---|---|---|"]
    for entry in evidence:
        hours, cost = f"{entry['seconds'] / 3600:.2f}", "–" if entry["cost_usd"] is None else f"{entry['cost_usd']:.0f}"
        commit = (entry["commit"] or "none")[:8] + (" and changes" if entry["dirty"] else "")
        name = f"[{entry['recipe']}]({entry['file']})" + ("" if _is_current(folder, entry) else ", with other settings")
        for result, benchmark in _results(entry):
            other = _to_compare(published, entry["recipe"], benchmark)
            shown = f"{other.score:g} ({other.metric})" if other else "–"
            lines.append(f"| {name} | {entry['seed']} | {result} | {shown} | {hours} | {cost} | {commit} |")
    return "\n".join(lines)


def _to_compare(published: list[Published], recipe: str, benchmark: str | None) -> Published | None:
    """The score of the same recipe, or, of an evaluation, the only one that the folder has of the benchmark."""
    of_benchmark = [score for score in published if score.benchmark == benchmark]
    of_recipe = [score for score in of_benchmark if score.recipe == recipe]
    return (of_recipe or (of_benchmark if len(of_benchmark) == 1 else [None]))[0]


def _results(entry: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """(what is shown, the benchmark) of each score; of a run that only trained, its weights."""
    if not entry["scores"]:
        yield f"weights {(entry['weights_sha256'] or 'none')[:12]}", None
        return
    for label, score in entry["scores"].items():
        for benchmark, values in score["benchmarks"].items():
            if values.get("refused"):
                yield f"{label}: {benchmark} refused ({values['refused']})", benchmark
                continue
            low, high = values["pass@1_interval"]
            counts = f"{values['num_problems']} problems x {values['samples']}"
            interval = f"{100 * low:.1f} to {100 * high:.1f}"
            yield f"{label}: {benchmark} {100 * values['pass@1']:.1f} % ({interval}; {counts})", benchmark


def _is_current(folder: Path, entry: dict[str, Any]) -> bool:
    """True if the recipe still says what that run was."""
    file = folder / entry["recipe"]
    return file.is_file() and load_recipe(file, {"seed": entry["seed"]}).sha256 == entry["recipe_sha256"]


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with one line."""
    if len(arguments) != 1:
        print("make evidence needs a run: make evidence RUN=runs/…/latest", file=sys.stderr)
        return 2
    try:
        file = add_evidence(Path(arguments[0]))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{file.relative_to(REPOSITORY)}; `make pages` puts it into the README")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
