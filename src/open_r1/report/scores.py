"""The scores of all stages -> one block of models per benchmark. Numbers only; `table` makes text of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from open_r1.report.reading import Run

SAMPLING = {  # keys of a benchmark's entry in scores.json, as a caption tells them
    "num_problems": "{} problems",
    "samples": "{} samples each",
    "temperature": "temperature {}",
    "max_new_tokens": "at most {} tokens",
}


@dataclass(frozen=True)
class Score:
    """One model on one benchmark. Shares are in 0..1; None is what the scores do not say."""

    label: str
    parameters: int | None
    pass_at_1: float | None
    interval: tuple[float, float] | None
    tokens_per_answer: float | None
    minutes: float | None
    """Of the stage named like the label; None without such a stage, even if the model's own run record is known."""
    truncated_share: float | None = None
    majority: tuple[int, float] | None = None
    """The largest k of maj@k, and its value."""
    refused: str | None = None
    """Why there is no score where one was asked for; pass_at_1 is None then, whatever the file says."""


@dataclass(frozen=True)
class Block:
    """All scores on one benchmark, and a line that says how they were taken."""

    benchmark: str
    title: str
    """Of several stages that score, it names which one did."""
    caption: str
    scores: list[Score]


def score_blocks(stages: list[Run]) -> list[Block]:
    """One block per benchmark (and per stage that scored it), models in the order in which they were scored."""
    minutes_of = {stage.name: stage.minutes for stage in stages}
    scorers = [stage for stage in stages if stage.scores]
    blocks = []
    for scorer in scorers:
        entries_of: dict[str, dict[str, Mapping[str, Any]]] = {}  # benchmark -> label -> its entry
        for label, model in scorer.scores.items():
            for benchmark, entry in (model.get("benchmarks") or {}).items():
                entries_of.setdefault(benchmark, {})[label] = entry
        for benchmark, entries in entries_of.items():
            scores = [
                score_of(label, scorer.scores[label].get("parameters"), entry, minutes_of.get(label))
                for label, entry in entries.items()
            ]
            title = f"{benchmark} ({scorer.name})" if len(scorers) > 1 else benchmark
            blocks.append(Block(benchmark, title, _caption(entries.values()), scores))
    return blocks


def score_of(label: str, parameters: int | None, entry: Mapping[str, Any], minutes: float | None = None) -> Score:
    """What scores.json says of a model on a benchmark. A refused score keeps its reason and none of its numbers."""
    refused = entry.get("refused") and str(entry["refused"])
    return Score(
        label=label,
        parameters=parameters,
        pass_at_1=None if refused else finite(entry.get("pass@1")),
        interval=None if refused else _interval(entry),
        tokens_per_answer=finite(entry.get("tokens_per_answer")),
        minutes=minutes,
        truncated_share=finite(entry.get("truncated_share")),
        majority=None if refused else highest_k(entry.get("maj@k")),
        refused=refused or None,
    )


def highest_k(value_of: Mapping[str, float | None] | None) -> tuple[int, float] | None:
    """The largest k with a value, and the value, of pass@k or maj@k; None if k is never more than 1."""
    known = {int(k): number for k, value in (value_of or {}).items() if (number := finite(value)) is not None}
    largest = max(known, default=1)
    return (largest, known[largest]) if largest > 1 else None


def _caption(entries: Iterable[Mapping[str, Any]]) -> str:
    """How a block was sampled, as far as all its entries agree on it, and how many answers nobody could judge."""
    parts = []
    for key, text in SAMPLING.items():
        values = {entry.get(key) for entry in entries}
        if len(values) == 1 and None not in values:
            value = values.pop()
            parts.append("1 sample each" if (key, value) == ("samples", 1) else text.format(value))
    num_unjudged = sum(entry.get("unjudged") or 0 for entry in entries)
    if num_unjudged:
        parts.append(f"{num_unjudged} answers could not be judged and are left out")
    return ", ".join(parts)


def _interval(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    bounds = [finite(bound) for bound in entry.get("pass@1_interval") or ()]
    return tuple(bounds) if bounds and None not in bounds else None


def finite(value: float | None) -> float | None:
    """A number as it is; None for nan as well: a mean over nothing is no score."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
