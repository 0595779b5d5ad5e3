"""Gates: what a stage of a pipeline has to have reached before the next one begins.

Nothing of a gate is part of what a stage does: who changes one goes on with what there is.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from open_r1.recipe import Gate, Recipe, Stage
from open_r1.run_record import METRICS_FILE
from open_r1.shares import COUNTS_OF_TRACES
from open_r1.step_process import RunStopped
from open_r1.wording import closest

COUNTS = ("kept", "kept_share", "sampled", "prompts")


def check_gate(pipeline: Recipe, stage: Stage, stage_dir: Path) -> None:
    """Returns if a stage that is done has reached all that its gate demands. Raises RunStopped if it has not."""
    for index, gate in enumerate(stage.gate):
        value = value_of(gate, stage_dir)
        where = f"{pipeline.source}: stages.{stage.name}.gate.{index}"
        if isinstance(value, str):
            raise RunStopped(f"{where}: {gate.metric} has no value ({value}); see {stage_dir}")
        missed = demand_missed(gate, value)
        if missed is not None:
            raise RunStopped(
                f"{where}: {gate.metric} is {value:.4g}, but {missed} is demanded before the next stage begins; see "
                f"what {stage_dir} says, and make the stage better, or change the gate and give the same command again"
            )


def demand_missed(gate: Gate, value: float) -> str | None:
    """What a value does not reach, in words; None if it reaches all."""
    if gate.at_least is not None and not value >= gate.at_least:
        return f"at least {gate.at_least:g}"
    if gate.at_most is not None and not value <= gate.at_most:
        return f"at most {gate.at_most:g}"
    return None


def value_of(gate: Gate, stage_dir: Path) -> float | str:
    """The value of a gate's metric in the directory of a stage that is done; or why there is none, as text."""
    scores = _read_json(stage_dir / "scores.json")
    if scores:
        label, benchmark, metric = [*gate.metric.split("/", 2), "", ""][:3]
        entry = scores.get(label, {}).get("benchmarks", {}).get(benchmark, {})
        value = entry.get(metric)
        if value is None:
            return entry.get("refused") or f"scores.json has none of {label} on {benchmark}"
        return float(value) if math.isfinite(value) else "it is not finite"
    counts = next(filter(None, (_read_json(stage_dir / name) for name in COUNTS_OF_TRACES.values())), {})
    if gate.metric in COUNTS and gate.metric in counts:
        return float(counts[gate.metric])
    values = list(_logged(stage_dir / METRICS_FILE, gate.metric))[-gate.last_logs :]
    return float(np.mean(values)) if values else f"{METRICS_FILE} has no {gate.metric}"


def gate_problems(stage: Stage, recipe: Recipe) -> Iterator[str]:
    """Yields a line, without its file, for each gate of a stage that can never have a value."""
    for index, gate in enumerate(stage.gate):
        key = f"stages.{stage.name}.gate.{index}.metric"
        if recipe.step == "evaluate":
            parts = gate.metric.split("/", 2)
            labels = list(recipe.evaluate.models) or ["model"]
            if len(parts) != 3:
                yield f"{key}: {gate.metric!r} is no score; write <label>/<benchmark>/<metric>, e.g. {_example(recipe)}"
            elif parts[0] not in labels:
                known = ", ".join(labels)
                yield f"{key}: {parts[0]!r} is not scored there (labels: {known}){closest(parts[0], labels)}"
            elif parts[1] not in recipe.evaluate.benchmarks:
                known = recipe.evaluate.benchmarks
                yield f"{key}: {parts[1]!r} is no benchmark there ({', '.join(known)}){closest(parts[1], known)}"
        elif recipe.step in ("generate", "preferences") and gate.metric not in COUNTS:
            known = f"known: {', '.join(COUNTS)}"
            yield f"{key}: {gate.metric!r} is not counted by step {recipe.step} ({known}){closest(gate.metric, COUNTS)}"


def _example(recipe: Recipe) -> str:
    label = next(iter(recipe.evaluate.models), "model")
    return f"{label}/{recipe.evaluate.benchmarks[0]}/pass@1"


def _logged(file: Path, key: str) -> Iterator[float]:
    lines: Sequence[str] = file.read_text(encoding="utf-8").splitlines() if file.exists() else ()
    for line in lines:
        row: dict[str, Any] = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if isinstance(row.get(key), int | float):
            yield float(row[key])


def _read_json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
