"""Two models' completions -> the same problems before and after."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_r1.report.reading import Run, read_completions

NUM_PROBLEMS_SHOWN = 4
MAX_CHARACTERS_SHOWN = 12_000  # of one completion; the middle of a longer one is left out
KINDS = {  # (right before, right after)
    (False, True): "wrong → right",
    (True, True): "right → right",
    (False, False): "wrong → wrong",
    (True, False): "right → wrong",
}


@dataclass(frozen=True)
class Completion:
    """One sampled answer; `right` is None if it could not be graded."""

    text: str
    right: bool | None
    num_tokens: int | None
    truncated: bool


@dataclass(frozen=True)
class Pair:
    """The first completion of two models for the same prompt."""

    prompt: str
    gold: str
    before: Completion
    after: Completion

    @property
    def kind(self) -> tuple[bool | None, bool | None]:
        return self.before.right, self.after.right


@dataclass(frozen=True)
class Comparison:
    """Problems side by side, and how many problems of the benchmark there are of each kind."""

    benchmark: str
    before_label: str
    after_label: str
    kinds: list[tuple[str, int]]
    pairs: list[Pair]


def compare(stages: list[Run], notes: list[str]) -> Comparison | None:
    """The last GRPO stage beside the model it started from; None, with a note if it was to be expected."""
    for scorer in reversed(stages):
        labels = _labels_to_compare(scorer, stages)
        if labels is None:
            continue
        before_label, after_label = labels
        for benchmark in scorer.scores[after_label].get("benchmarks") or {}:
            pairs = _pairs(scorer, before_label, after_label, benchmark, notes)
            if pairs:
                return Comparison(benchmark, before_label, after_label, _kind_counts(pairs), _spread(pairs))
    return None


def _labels_to_compare(scorer: Run, stages: list[Run]) -> tuple[str, str] | None:
    """Labels before and after GRPO; without any GRPO the last two that were scored; None if there is no such pair."""
    labels = list(scorer.scores)
    grpo_stages = [stage for stage in stages if stage.step == "grpo"]
    if not grpo_stages:
        return (labels[-2], labels[-1]) if len(labels) >= 2 else None
    after = next((stage for stage in reversed(grpo_stages) if stage.name in labels), None)
    before_label = _label_before(after, labels) if after else None
    return (before_label, after.name) if before_label else None


def _label_before(grpo: Run, labels: list[str]) -> str | None:
    """The label of the model that a GRPO stage started from; else the label before its own, None if it is the first."""
    for parent in grpo.record.get("parents") or []:
        name = parent.get("name") or parent.get("stage")
        if name in labels:
            return name
    started_from = ((grpo.recipe.get("model") or {}).get("name") or "").split("/")
    for label in reversed(labels):
        if label in started_from and label != grpo.name:
            return label
    position = labels.index(grpo.name)
    return labels[position - 1] if position else None


def _pairs(scorer: Run, before_label: str, after_label: str, benchmark: str, notes: list[str]) -> list[Pair]:
    tables = []
    for label in (before_label, after_label):
        rows = read_completions(scorer, label, benchmark, notes)
        if rows is None:
            return []
        tables.append(rows)
    before_rows, after_rows = tables
    before_row_of = {row["prompt"]: row for row in reversed(before_rows)}  # the first row of a prompt that comes twice
    pairs = [
        Pair(row["prompt"], row["gold"], _first_completion(before_row_of[row["prompt"]]), _first_completion(row))
        for row in after_rows
        if row["prompt"] in before_row_of
    ]
    if not pairs:
        notes.append(f"{benchmark}: {before_label} and {after_label} share no prompt, so no answers side by side")
    return pairs


def _first_completion(row: Mapping[str, Any]) -> Completion:
    score = row["scores"][0]
    return Completion(
        text=without_middle(row["completions"][0]),
        right=None if score is None else score > 0.5,
        num_tokens=row["num_tokens"][0],
        truncated=row["truncated"][0],
    )


def without_middle(text: str, max_characters: int = MAX_CHARACTERS_SHOWN) -> str:
    """A text as it is, or with its middle left out and how much that is said there."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters left out …]\n\n{text[-half:]}"


def _kind_counts(pairs: list[Pair]) -> list[tuple[str, int]]:
    count_of = Counter(pair.kind for pair in pairs)
    counts = [(name, count_of[kind]) for kind, name in KINDS.items()]
    num_ungraded = len(pairs) - sum(count for _, count in counts)
    return counts + ([("not graded", num_ungraded)] if num_ungraded else [])


def _spread(pairs: list[Pair]) -> list[Pair]:
    """The first problem of each kind, then the first of what is left: a fixed rule, so that nobody picks the best."""
    first_of = {pair.kind: pair for pair in reversed(pairs)}
    of_each_kind = [first_of[kind] for kind in KINDS if kind in first_of]
    return list(dict.fromkeys([*of_each_kind, *pairs]))[:NUM_PROBLEMS_SHOWN]
