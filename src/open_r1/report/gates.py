"""What a pipeline demands of a stage before the next one begins -> whether the stage has reached it."""

from dataclasses import dataclass
from typing import Any

from open_r1 import gates
from open_r1.recipe import Gate
from open_r1.report.reading import Run, stage_settings, tolerant

MARKS = {True: "passed", False: "not passed", None: "not known"}


@dataclass(frozen=True)
class GateState:
    """One demand on a stage; `value` and `passed` are None as long as the stage has left nothing to judge it by."""

    demand: str
    value: float | None
    passed: bool | None

    @property
    def verdict(self) -> str:
        """`passed (0.8075)`."""
        return MARKS[self.passed] if self.value is None else f"{MARKS[self.passed]} ({self.value:,.4g})"


def gates_of(run: Run, stage: Run, notes: list[str]) -> list[GateState]:
    """The gates that the pipeline sets behind a stage, in its recipe's order."""
    states = [_state(values, stage, notes) for values in stage_settings(run, stage.name).get("gate") or []]
    return [state for state in states if state is not None]


def _state(values: dict[str, Any], stage: Run, notes: list[str]) -> GateState | None:
    """None, with a note, for a gate that another version wrote."""
    try:
        gate = Gate.model_validate(values)
    except ValueError as error:
        notes.append(f"{stage.name}: a gate cannot be read ({str(error).splitlines()[0]})")
        return None
    limits = [f"{sign} {limit:g}" for sign, limit in (("≥", gate.at_least), ("≤", gate.at_most)) if limit is not None]
    demand = f"{gate.metric} {' and '.join(limits)}"
    is_done = stage.status == "done"
    value = tolerant(lambda folder: gates.value_of(gate, folder), stage.folder, notes) if is_done else None
    if not isinstance(value, float):  # a word on why there is none
        return GateState(demand, None, None)
    return GateState(demand, value, gates.demand_missed(gate, value) is None)
