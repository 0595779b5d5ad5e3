"""What a pipeline demands of a stage before the next one begins -> whether the stage has reached it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from open_r1.report.reading import Run, stage_settings
from open_r1.report.scores import finite

LAST_LOGS = 10  # as the recipe's own default
LIMITS = {"at_least": "≥", "at_most": "≤"}
COUNTED = ("kept", "kept_share")
MARKS = {True: "passed", False: "not passed", None: "not known"}


@dataclass(frozen=True)
class GateState:
    """One demand on a stage; `value` and `passed` are None as long as the stage has left nothing to judge it by."""

    demand: str
    value: float | None
    passed: bool | None

    @property
    def verdict(self) -> str:
        return MARKS[self.passed] if self.value is None else f"{MARKS[self.passed]} ({_short(self.value)})"


def gates_of(run: Run, stage: Run) -> list[GateState]:
    """The gates that the pipeline sets behind a stage, in its recipe's order."""
    return [_state(gate, stage) for gate in stage_settings(run, stage.name).get("gate") or []]


def _state(gate: Mapping[str, Any], stage: Run) -> GateState:
    metric = str(gate.get("metric"))
    limits = {key: limit for key in LIMITS if (limit := finite(gate.get(key))) is not None}
    demand = " and ".join(f"{LIMITS[key]} {_short(limit)}" for key, limit in limits.items())
    value = _value(metric, gate.get("last_logs") or LAST_LOGS, stage) if stage.status == "done" else None
    passed = None
    if value is not None:
        passed = limits.get("at_least", value) <= value <= limits.get("at_most", value)
    return GateState(f"{metric} {demand}", value, passed)


def _value(metric: str, last_logs: int, stage: Run) -> float | None:
    """Of a stage that samples its counts, of an evaluation its scores, of one that trains the mean of its last logs."""
    if metric in COUNTED:
        kept, sampled = finite(stage.sampling.get("kept")), finite(stage.sampling.get("sampled"))
        if metric == "kept" or kept is None:
            return kept
        return kept / sampled if sampled else None
    if metric in stage.metrics:
        values = pd.to_numeric(stage.metrics[metric], errors="coerce").dropna().tail(last_logs)
        return None if values.empty else float(values.mean())
    label, _, rest = metric.partition("/")
    benchmark, _, name = rest.partition("/")
    entry = ((stage.scores.get(label) or {}).get("benchmarks") or {}).get(benchmark) or {}
    return None if entry.get("refused") else finite(entry.get(name))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
