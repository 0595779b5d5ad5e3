"""A run directory -> Run. What is missing or broken becomes a note for the reader, never an error."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow.parquet
import yaml

from open_r1.resuming import RECIPE_FILE
from open_r1.run_record import METRICS_FILE, REWARD_MODEL_REPORT, read_record
from open_r1.shares import COUNTS_OF_TRACES
from open_r1.stages import FROZEN_STAGES
from open_r1.step_process import WARNINGS_FILE, warnings_of

Content = TypeVar("Content")

STEPS_WITH_METRICS = ("pretrain", "sft", "reward_model", "dpo", "grpo", "distill")
COMPLETION_COLUMNS = ["prompt", "gold", "completions", "num_tokens", "truncated", "scores"]


@dataclass(frozen=True)
class Run:
    """What one run directory holds. `metrics` has one row per logged step; everything may be empty."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    metrics: pd.DataFrame
    scores: Mapping[str, Any]
    sampling: Mapping[str, Any]
    """prompts, sampled, kept and dropped of a step that samples."""
    frozen: Mapping[str, Any]
    """The recipe in the run's directory, or for a stage in its pipeline's, where there is no record yet."""
    warnings: Sequence[Mapping[str, Any]] = ()
    """What the guards have told of it: step, key, reason, and `stopped` if they ended it."""
    held_out_pairs: Mapping[str, Any] = field(default_factory=dict)
    """What a reward model is worth, by pairs that it was not trained on."""

    @property
    def title(self) -> str:
        recipe_file = self.record.get("recipe_file")
        return f"{recipe_file} · {self.name}" if recipe_file else self.name

    @property
    def step(self) -> str:
        return self.recipe.get("step") or self.record.get("step") or "unknown step"

    @property
    def status(self) -> str:
        return self.record.get("status") or "not run"

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.record.get("recipe") or self.frozen

    @property
    def minutes(self) -> float | None:
        """Minutes of all attempts, None as long as the run is not over."""
        is_over = self.record.get("status") in ("done", "failed")
        seconds = self.record.get("seconds") if is_over else None
        return None if seconds is None else seconds / 60

    @property
    def stopped_at(self) -> int | None:
        """The step at which a guard ended the run, which counts as done; None if none did."""
        return next((warning.get("step") for warning in self.warnings if warning.get("stopped")), None)

    @property
    def error(self) -> str | None:
        """Why the run failed, None if it did not."""
        if self.record.get("status") != "failed":
            return None
        return str(self.record.get("error") or "no error was recorded")


def read_all(run_dir: Path, notes: list[str]) -> tuple[Run, list[Run]]:
    """The run and its stages in order; a run that is no pipeline is its own only stage."""
    # A pipeline whose stages are run one by one, as jobs of their own, has no record before all are done.
    begun = tolerant(_yaml_mapping, run_dir / RECIPE_FILE, notes) or {}
    run = _read_run(run_dir, run_dir.resolve().name, begun, notes)
    frozen = {
        name: tolerant(_yaml_mapping, run_dir / FROZEN_STAGES / f"{name}.yaml", notes) or {}
        for name in _stage_names(run, run_dir)
    }
    return run, [_read_run(run_dir / name, name, recipe, notes) for name, recipe in frozen.items()] or [run]


def stage_settings(run: Run, name: str) -> Mapping[str, Any]:
    """What a pipeline's recipe says of a stage; nothing if it does not know it."""
    return next((entry for entry in run.recipe.get("stages") or [] if entry.get("name") == name), {})


def _stage_names(run: Run, run_dir: Path) -> list[str]:
    """In the recipe's order, rounds of a loop among them; then stages that only their directories tell of."""
    names = [stage["name"] for stage in run.recipe.get("stages") or []]
    if run.recipe and run.step != "pipeline":
        return names
    files = sorted(run_dir.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    found = [file.parent.name for file in files if "." not in file.parent.name]  # a dot: put aside as stale
    return list(dict.fromkeys([*names, *found]))


def read_completions(run: Run, label: str, benchmark: str, notes: list[str]) -> list[dict[str, Any]] | None:
    """One row per problem with COMPLETION_COLUMNS, the last four being lists; None, with a note, if there are none."""
    file = run.folder / "completions" / f"{label}-{benchmark}.parquet"
    if not file.exists():
        notes.append(f"{run.name}/completions/{file.name} is missing, so no answers side by side")
    return tolerant(lambda path: pyarrow.parquet.read_table(path, columns=COMPLETION_COLUMNS).to_pylist(), file, notes)


def tolerant(read: Callable[[Path], Content], file: Path, notes: list[str]) -> Content | None:
    """What `read` makes of `file`; None if there is no such file, and None with a note if it cannot be read."""
    try:
        return read(file) if file.exists() else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # another version's, or torn
        notes.append(f"{file.parent.name}/{file.name}: cannot be read ({error})")
        return None


def failures(run: Run, stages: list[Run]) -> list[Run]:
    """The stages that failed, and the run itself if it did."""
    runs = stages if stages[0] is run else [*stages, run]
    return [each for each in runs if each.error]


def _read_run(folder: Path, name: str, frozen: Mapping[str, Any], notes: list[str]) -> Run:
    record = tolerant(read_record, folder, notes)
    if record is None:
        notes.append(f"{name}: no run.json; it has not been started, or its directory was moved")
        record = {}
    scores = tolerant(json_object, folder / "scores.json", notes) or record.get("scores") or {}
    metrics = _read_metrics(folder / METRICS_FILE, notes)
    if metrics.empty and record.get("step") in STEPS_WITH_METRICS:
        notes.append(f"{name}: no metrics.jsonl, so no curves")
    if record.get("step") == "evaluate" and not scores:
        notes.append(f"{name}: no scores.json, so nothing of it is in the tables")
    counts = (tolerant(json_object, folder / file, notes) for file in COUNTS_OF_TRACES.values())
    warnings = tolerant(lambda file: warnings_of(file.parent), folder / WARNINGS_FILE, notes)
    return Run(
        name=name,
        folder=folder,
        record=record,
        metrics=metrics,
        scores=scores,
        sampling=next(filter(None, counts), {}),
        frozen=frozen,
        warnings=[each for each in warnings or record.get("warnings") or [] if isinstance(each, Mapping)],
        held_out_pairs=tolerant(json_object, folder / REWARD_MODEL_REPORT, notes) or {},
    )


def _read_metrics(file: Path, notes: list[str]) -> pd.DataFrame:
    """One row per step. A step that a resumed run logged again counts as it was logged last."""
    rows: dict[int, dict[str, Any]] = {}
    num_broken = 0
    for line in (tolerant(_text, file, notes) or "").splitlines():
        try:
            row = json.loads(line)
            rows.setdefault(int(row["step"]), {}).update(row)
        except (ValueError, KeyError, TypeError):  # a process that was killed leaves half a line
            num_broken += 1
    if num_broken:
        notes.append(f"{file.parent.name}/{file.name}: {num_broken} unreadable lines left out")
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if it holds none."""
    value = json.loads(_text(file))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _yaml_mapping(file: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(_text(file))
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a mapping")
    return value
