"""Run records -> one self-contained HTML page and a table for the terminal.

    python -m open_r1.report RUN_DIR

Reads what a run left behind (run.json, metrics.jsonl, scores.json, completions/*.parquet, distill.json), for a single
run and for a pipeline with one run directory per stage. What is missing is left out and said so; nothing is recomputed.
"""

import base64
import io
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import pandas as pd
import pyarrow.parquet
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from open_r1.run_record import read_record

Result = TypeVar("Result")

MODEL_STEPS = ("pretrain", "sft", "grpo", "distill")  # the steps that log metrics
COLUMNS = ("model", "parameters", "pass@1\n[95 % interval]", "tokens\nan answer", "minutes")
STAGE_COLUMNS = ("stage", "step", "status", "minutes", "cost", "attempts")
NUMBER_COLUMNS = {*COLUMNS[1:], *STAGE_COLUMNS[3:]}
NUM_PROBLEMS_SHOWN = 4
MAX_CHARACTERS_SHOWN = 12_000  # of one completion; the middle of a longer one is left out
SMOOTHING_SHARE = 1 / 15  # of the logged steps, averaged around each one
MIN_POINTS_TO_SMOOTH = 50  # with fewer, a running mean bends the curve's ends more than noise does
NONE = "–"

# Blue of Okabe and Ito's palette. One colour is enough: no picture tells two things apart by colour alone.
BLUE, GREY, INK = "#0072B2", "#6B717B", "#2B2F36"
LABEL_POINTS, TITLE_POINTS = 8.5, 10


@dataclass(frozen=True)
class Panel:
    """One curve: the key of metrics.jsonl (a pattern), how it is drawn, and what it tells a newcomer."""

    key: str
    title: str
    unit: str
    meaning: str
    is_share: bool = False


GRPO_PANELS = (
    Panel(
        "reward",
        "Reward",
        "mean reward",
        "what training pushes up: the weighted sum of all rewards. It should rise and level off.",
    ),
    Panel(
        "rewards/accuracy*/mean",
        "pass@1 on training prompts",
        "right answers (%)",
        "the share of sampled answers that are right. If the reward rises and this does not, another reward is gamed.",
        is_share=True,
    ),
    Panel(
        "completions/mean_length",
        "Answer length",
        "tokens",
        "the mean length of a sampled answer. It grows when thinking longer pays.",
    ),
    Panel(
        "frac_reward_zero_std",
        "Dead groups",
        "groups (%)",
        "groups in which every answer got the same reward: nothing can be learned from them. Near 100 % the problems "
        "are all too hard or all too easy.",
        is_share=True,
    ),
    Panel(
        "entropy",
        "Entropy",
        "nats per token",
        "how undecided the model is at each token. A fall to zero means that it has stopped trying anything new.",
    ),
    Panel(
        "completions/clipped_ratio",
        "Cut-off answers",
        "answers (%)",
        "answers that hit the limit of length before they ended, and so can hardly be right.",
        is_share=True,
    ),
)
SFT_PANELS = (
    Panel(
        "loss", "Loss", "nats per token", "how surprised the model is by the next token of the texts. It should fall."
    ),
    Panel(
        "mean_token_accuracy",
        "Tokens predicted",
        "tokens (%)",
        "how often the model's first guess is the next token of the texts. Not how many problems it solves.",
        is_share=True,
    ),
)


@dataclass(frozen=True)
class Run:
    """What one run directory holds. `metrics` has one row per logged step; everything may be empty."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    metrics: pd.DataFrame
    scores: Mapping[str, Any]
    distill: Mapping[str, Any]

    @property
    def step(self) -> str:
        return self.record.get("step") or "unknown step"

    @property
    def seconds(self) -> float | None:
        return self.record.get("seconds") if self.record.get("status") in ("done", "failed") else None


@dataclass(frozen=True)
class Score:
    """One model on one benchmark. Shares are in 0..1; None is what the scores do not say."""

    label: str
    parameters: int | None
    pass_at_1: float | None
    interval: tuple[float, float] | None
    tokens_per_answer: float | None
    minutes: float | None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of COLUMNS, as text."""
        tokens = self.tokens_per_answer
        return (
            self.label,
            count_text(self.parameters),
            pass_text(self.pass_at_1, self.interval),
            NONE if tokens is None else f"{tokens:,.0f}" if tokens >= 100 else f"{tokens:.1f}",
            minutes_text(self.minutes),
        )


@dataclass(frozen=True)
class Block:
    """All scores on one benchmark, and a line that says how they were taken."""

    title: str
    caption: str
    scores: list[Score]


@dataclass(frozen=True)
class Completion:
    """One sampled answer; `right` is None if it could not be graded."""

    text: str
    right: bool | None
    num_tokens: int | None
    truncated: bool

    @property
    def mark(self) -> str:
        return {True: "✓ right", False: "✗ wrong", None: "? not graded"}[self.right]

    @property
    def css_class(self) -> str:
        return {True: "right", False: "wrong", None: "ungraded"}[self.right]


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


def write_report(run_dir: str | Path) -> Path:
    """The path of RUN_DIR/report.html, just written. Missing files become notes in it, never an error."""
    run_dir = Path(run_dir)
    notes: list[str] = []
    run, stages = _read_all(run_dir, notes)
    blocks = score_blocks(stages)
    page = _template().render(
        title=_title(run),
        run=run,
        description=(run.record.get("recipe") or {}).get("description"),
        is_pipeline=_is_pipeline(run, stages),
        stages=[_stage_row(stage) for stage in stages],
        errors=_errors(run, stages),
        columns=COLUMNS,
        stage_columns=STAGE_COLUMNS,
        blocks=[(block, _png(_bar_chart(block)) if _drawable(block) else None) for block in blocks],
        curves=[curves for stage in stages if (curves := _curves(stage, notes))],
        comparison=_comparison(stages, notes),
        distills=[(stage.name, *_drop_rows(stage.distill)) for stage in stages if stage.distill],
        facts=_facts(run, stages),
        recipe=yaml.safe_dump(run.record.get("recipe") or {}, sort_keys=False, allow_unicode=True),
        notes=notes,
    )
    file = run_dir / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def print_table(run_dir: str | Path, console: Console | None = None) -> None:
    """Prints the scores of a run, or the state of its stages where nothing was scored."""
    console = console or Console()
    run, stages = _read_all(Path(run_dir), [])
    blocks = score_blocks(stages)
    for block in blocks:
        _print(console, block.title, COLUMNS, [score.cells for score in block.scores], block.caption)
    unfinished = any(stage.record.get("status") != "done" for stage in stages)
    if not blocks or unfinished:
        rows = [tuple(_stage_row(stage).values()) for stage in stages]
        _print(console, _title(run), STAGE_COLUMNS, rows)
    for name, error in _errors(run, stages):
        console.print(Text(f"{name} failed: {error}", style="bold red"))


def score_blocks(stages: list[Run]) -> list[Block]:
    """One block per benchmark (and per stage that scored it), models in the order in which they were scored."""
    seconds_of = {stage.name: stage.seconds for stage in stages}
    num_scorers = sum(bool(stage.scores) for stage in stages)
    blocks = []
    for stage in stages:
        benchmarks: dict[str, list[Score]] = {}
        for label, model in stage.scores.items():
            for name, entry in (model.get("benchmarks") or {}).items():
                seconds = seconds_of.get(label)
                interval = [_finite(bound) for bound in entry.get("pass@1_interval") or ()]
                score = Score(
                    label=label,
                    parameters=model.get("parameters"),
                    pass_at_1=_finite(entry.get("pass@1")),
                    interval=tuple(interval) if interval and None not in interval else None,
                    tokens_per_answer=_finite(entry.get("tokens_per_answer")),
                    minutes=None if seconds is None else seconds / 60,
                    details=entry,
                )
                benchmarks.setdefault(name, []).append(score)
        for name, scores in benchmarks.items():
            blocks.append(Block(f"{name} ({stage.name})" if num_scorers > 1 else name, _caption(scores), scores))
    return blocks


def count_text(count: int | None) -> str:
    """Three digits and a unit: 868k, 1.54B; a dash for None."""
    if count is None:
        return NONE
    for size, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        if count / size < 999.5:  # what would round to four digits belongs to the next unit
            return f"{count / size:#.3g}".rstrip(".") + unit if size > 1 else str(count)
    return f"{count:.3g}"


def pass_text(pass_at_1: float | None, interval: tuple[float, float] | None) -> str:
    """`88.1 % [86.0, 90.1]`; a dash for None."""
    if pass_at_1 is None:
        return NONE
    text = f"{100 * pass_at_1:.1f} %"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def minutes_text(minutes: float | None) -> str:
    """One decimal below ten minutes, none above; a dash for None."""
    if minutes is None:
        return NONE
    return f"{minutes:.1f}" if minutes < 10 else f"{minutes:,.0f}"


# ---- reading a run directory -------------------------------------------------------------------------------------


def _read_all(run_dir: Path, notes: list[str]) -> tuple[Run, list[Run]]:
    """The run and its stages in order; a run that is no pipeline is its own only stage."""
    run = _read_run(run_dir, run_dir.resolve().name, notes)
    names = [stage["name"] for stage in (run.record.get("recipe") or {}).get("stages") or []]
    if not names and not run.record:  # a pipeline that lost its run.json still has its stages
        files = sorted(run_dir.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
        names = [file.parent.name for file in files if "." not in file.parent.name]  # a dot: put aside as stale
    if not names:
        return run, [run]
    stages = [_read_run(run_dir / name, name, notes) for name in names]
    return run, stages


def _read_run(folder: Path, name: str, notes: list[str]) -> Run:
    record = _tolerant(read_record, folder, notes)
    if record is None:
        notes.append(f"{name}: no run.json; it has not been started, or its directory was moved")
        record = {}
    scores = _read_json(folder / "scores.json", notes) or record.get("scores") or {}
    metrics = _read_metrics(folder / "metrics.jsonl", notes)
    if metrics.empty and record.get("step") in MODEL_STEPS:
        notes.append(f"{name}: no metrics.jsonl, so no curves")
    if record.get("step") == "evaluate" and not scores:
        notes.append(f"{name}: no scores.json, so nothing of it is in the tables")
    return Run(name, folder, record, metrics, scores, _read_json(folder / "distill.json", notes) or {})


def _tolerant(read: Callable[[Path], Result], file: Path, notes: list[str]) -> Result | None:
    """What `read` makes of `file`; None, with a note, if it cannot be read."""
    try:
        return read(file)
    except (OSError, ValueError) as error:
        notes.append(f"{file.parent.name}/{file.name}: cannot be read ({error})")
        return None


def _read_json(file: Path, notes: list[str]) -> dict | None:
    if not file.exists():
        return None

    def read(path: Path) -> dict:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
        return value

    return _tolerant(read, file, notes)


def _read_metrics(file: Path, notes: list[str]) -> pd.DataFrame:
    """One row per step. A step that a resumed run logged again counts as it was logged last."""
    if not file.exists():
        return pd.DataFrame()
    rows: dict[int, dict[str, Any]] = {}
    num_broken = 0
    for line in (_tolerant(lambda path: path.read_text(encoding="utf-8"), file, notes) or "").splitlines():
        try:
            row = json.loads(line)
            rows.setdefault(int(row["step"]), {}).update(row)
        except (ValueError, KeyError, TypeError):  # a process that was killed leaves half a line
            num_broken += 1
    if num_broken:
        notes.append(f"{file.parent.name}/{file.name}: {num_broken} unreadable lines left out")
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


# ---- pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """The picture of one run's curves and a line on each of them."""

    name: str
    step: str
    picture: str
    meanings: list[tuple[str, str]]


def _curves(stage: Run, notes: list[str]) -> Curves | None:
    """None if the run logged nothing that is drawn."""
    if stage.metrics.empty:
        return None
    panels = GRPO_PANELS if stage.step == "grpo" else SFT_PANELS
    drawn: list[tuple[Panel, pd.Series]] = []
    for panel in panels:
        key = next((key for key in stage.metrics.columns if fnmatchcase(str(key), panel.key)), None)
        values = pd.Series(dtype=float) if key is None else pd.to_numeric(stage.metrics[key], errors="coerce").dropna()
        if values.empty:
            notes.append(f"{stage.name}: no `{panel.key}` in metrics.jsonl, so no curve of it")
        else:
            drawn.append((panel, values * 100 if panel.is_share else values))
    if not drawn:
        return None
    meanings = [(panel.title, panel.meaning) for panel, _ in drawn]
    return Curves(stage.name, stage.step, _png(_small_multiples(drawn)), meanings)


def _small_multiples(drawn: list[tuple[Panel, pd.Series]]) -> Figure:
    num_columns = min(3, len(drawn))
    num_rows = -(-len(drawn) // num_columns)
    # The same width whatever there is to draw, so that letters come out equally large on the page.
    figure = Figure(figsize=(11, 2.7 * num_rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.subplots(num_rows, 3, squeeze=False).ravel()
    for axes, (panel, values) in zip(grid, drawn, strict=False):
        smooth = _smoothed(values)
        if smooth is None:
            axes.plot(values.index, values, color=BLUE, linewidth=1.4, marker="o", markersize=2.5)
        else:
            axes.plot(values.index, values, color=BLUE, linewidth=0.6, alpha=0.35)
            axes.plot(values.index, smooth, color=BLUE, linewidth=2)
        ends = values if smooth is None else smooth
        axes.set_title(panel.title, loc="left", fontsize=TITLE_POINTS, fontweight="bold", color=INK)
        axes.set_title(f"{_short(ends.iloc[0])} → {_short(ends.iloc[-1])}", loc="right", fontsize=8, color=GREY)
        axes.set_xlabel("training step", fontsize=LABEL_POINTS, color=INK)
        axes.set_ylabel(panel.unit, fontsize=LABEL_POINTS, color=INK)
        if panel.is_share:
            axes.set_ylim(-3, 103)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _tidy(axes)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _smoothed(values: pd.Series) -> pd.Series | None:
    """A centred running mean, None if there are too few points for one."""
    if len(values) < MIN_POINTS_TO_SMOOTH:
        return None
    return values.rolling(max(3, round(len(values) * SMOOTHING_SHARE)), center=True, min_periods=1).mean()


def _bar_chart(block: Block) -> Figure:
    scores = [score for score in block.scores if score.pass_at_1 is not None]
    figure = Figure(figsize=(8.2, 0.9 + 0.42 * len(scores)), layout="constrained")
    axes = figure.subplots()
    for position, score in enumerate(scores):
        percent = 100 * score.pass_at_1
        axes.barh(position, percent, height=0.62, color=BLUE, alpha=0.85)
        right_end = percent
        if score.interval:
            low, high = (100 * bound for bound in score.interval)
            right_end = max(percent, high)
            errors = [[max(0, percent - low)], [max(0, high - percent)]]
            axes.errorbar(percent, position, xerr=errors, color=INK, capsize=3, linewidth=1.2)
        axes.text(right_end + 1.5, position, f"{percent:.1f} %", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(scores)), [score.label for score in scores])
    axes.invert_yaxis()
    axes.set_xlim(0, 112)  # room for the number beside a full bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("pass@1 (%), with 95 % interval", fontsize=LABEL_POINTS, color=INK)
    _tidy(axes)
    axes.spines["bottom"].set_bounds(0, 100)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    return figure


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#C9CDD3")
    axes.grid(color="#E8EAED", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color="#C9CDD3", labelcolor=INK)


def _png(figure: Figure) -> str:
    """The picture as base64, ready for a data: address."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)  # a bare Figure draws with Agg and needs no display
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _drawable(block: Block) -> bool:
    return any(score.pass_at_1 is not None for score in block.scores)


# ---- before and after --------------------------------------------------------------------------------------------


def _comparison(stages: list[Run], notes: list[str]) -> Comparison | None:
    """The last GRPO stage beside the model it started from; None, with a note if it was to be expected."""
    for scorer in reversed([stage for stage in stages if stage.scores]):
        labels = list(scorer.scores)
        after = next((s for s in reversed(stages) if s.step == "grpo" and s.name in labels), None)
        if after is None:
            if len(labels) < 2 or any(stage.step == "grpo" for stage in stages):
                continue
            before_label, after_label = labels[-2:]
        else:
            before_label, after_label = _label_before(after, labels), after.name
        if before_label is None:
            continue
        for benchmark in scorer.scores[after_label].get("benchmarks") or {}:
            pairs = _pairs(scorer.folder / "completions", before_label, after_label, benchmark, notes)
            if pairs:
                return Comparison(benchmark, before_label, after_label, _kind_counts(pairs), _spread(pairs))
    return None


def _label_before(grpo: Run, labels: list[str]) -> str | None:
    """The label of the model that a GRPO stage started from; else the label before its own, None if it is the first."""
    for parent in grpo.record.get("parents") or []:
        name = parent.get("name") or parent.get("stage")
        if name in labels:
            return name
    started_from = ((grpo.record.get("recipe") or {}).get("model") or {}).get("name") or ""
    parts = started_from.split("/")
    for label in reversed(labels):
        if label in parts and label != grpo.name:
            return label
    position = labels.index(grpo.name)
    return labels[position - 1] if position else None


def _pairs(folder: Path, before_label: str, after_label: str, benchmark: str, notes: list[str]) -> list[Pair]:
    tables = []
    for label in (before_label, after_label):
        file = folder / f"{label}-{benchmark}.parquet"
        if not file.exists():
            notes.append(f"{folder.parent.name}/completions/{file.name} is missing, so no answers side by side")
            return []
        tables.append(_tolerant(lambda path: pyarrow.parquet.read_table(path).to_pylist(), file, notes) or [])
    before_rows = {_prompt_text(row.get("prompt")): row for row in reversed(tables[0])}
    pairs = []
    for row in tables[1]:
        prompt = _prompt_text(row.get("prompt"))
        if prompt in before_rows and row.get("completions") and before_rows[prompt].get("completions"):
            gold = row.get("gold")
            pairs.append(
                Pair(prompt, "" if gold is None else str(gold), _first(before_rows[prompt]), _first(row)),
            )
    if not pairs and all(tables):
        notes.append(f"{benchmark}: {before_label} and {after_label} share no prompt, so no answers side by side")
    return pairs


def _first(row: Mapping[str, Any]) -> Completion:
    def first(column: str) -> Any:
        value = row.get(column)
        return (value[0] if value else None) if isinstance(value, list) else value

    score, num_tokens = first("scores"), first("num_tokens")
    return Completion(
        text=_without_middle(str(first("completions"))),
        right=None if score is None else score > 0.5,
        num_tokens=None if num_tokens is None else int(num_tokens),
        truncated=bool(first("truncated")),
    )


def _prompt_text(prompt: Any) -> str:
    """The text of a prompt, or of a conversation's last message."""
    if isinstance(prompt, list):
        last = prompt[-1] if prompt else ""
        return str(last.get("content", "")) if isinstance(last, dict) else str(last)
    return "" if prompt is None else str(prompt)


def _without_middle(text: str) -> str:
    if len(text) <= MAX_CHARACTERS_SHOWN:
        return text
    half = MAX_CHARACTERS_SHOWN // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters left out …]\n\n{text[-half:]}"


KINDS = {
    (False, True): "wrong → right",
    (True, True): "right → right",
    (False, False): "wrong → wrong",
    (True, False): "right → wrong",
}


def _kind_counts(pairs: list[Pair]) -> list[tuple[str, int]]:
    counts = [(name, sum(pair.kind == kind for pair in pairs)) for kind, name in KINDS.items()]
    num_ungraded = len(pairs) - sum(count for _, count in counts)
    return counts + ([("not graded", num_ungraded)] if num_ungraded else [])


def _spread(pairs: list[Pair]) -> list[Pair]:
    """The first problem of each kind, then the first of what is left: a fixed rule, so that nobody picks the best."""
    chosen = [next((pair for pair in pairs if pair.kind == kind), None) for kind in KINDS]
    chosen = [pair for pair in chosen if pair is not None]
    for pair in pairs:
        if len(chosen) >= NUM_PROBLEMS_SHOWN:
            break
        if pair not in chosen:
            chosen.append(pair)
    return chosen[:NUM_PROBLEMS_SHOWN]


# ---- text --------------------------------------------------------------------------------------------------------


def _title(run: Run) -> str:
    recipe_file = run.record.get("recipe_file")
    return f"{recipe_file} · {run.name}" if recipe_file else run.name


def _is_pipeline(run: Run, stages: list[Run]) -> bool:
    return stages != [run]


def _errors(run: Run, stages: list[Run]) -> list[tuple[str, str]]:
    """(name, error) of the run and of each stage that failed."""
    runs = [*stages, run] if stages[0] is not run else [run]
    return [
        (each.name, str(each.record.get("error") or "no error was recorded"))
        for each in runs
        if each.record.get("status") == "failed"
    ]


def _stage_row(stage: Run) -> dict[str, str]:
    seconds = stage.seconds
    return {
        "name": stage.name,
        "step": stage.step if stage.record else NONE,
        "status": stage.record.get("status") or "not run",
        "minutes": minutes_text(None if seconds is None else seconds / 60),
        "cost": _cost_text(stage.record.get("cost_usd")),
        "attempts": str(stage.record.get("attempts") or NONE),
    }


def _cost_text(cost_usd: float | None) -> str:
    if cost_usd is None:
        return NONE
    return f"${cost_usd:,.2f}" if cost_usd >= 0.01 or cost_usd == 0 else f"${cost_usd:.4f}"


def _facts(run: Run, stages: list[Run]) -> list[tuple[str, str]]:
    """What somebody needs to run it again, as (name, value)."""
    record = run.record or next((stage.record for stage in stages if stage.record), {})
    commit = record.get("commit")
    if commit and record.get("dirty"):
        commit += " with changes that are not committed"
    hardware = record.get("hardware") or {}
    gpus = hardware.get("gpus") or []
    machine = [
        str(hardware.get("cpu") or "unknown CPU"),
        f"{hardware.get('cores')} cores",
        f"{hardware.get('memory_gb')} GB of memory",
        ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)) or "no GPU",
    ]
    costs = [stage.record.get("cost_usd") for stage in stages]
    cost = record.get("cost_usd")
    if cost is None and any(each is not None for each in costs):
        cost = sum(each or 0 for each in costs)
    seconds = run.seconds
    versions = (record.get("versions") or {}).items()
    facts = {
        "status": record.get("status"),
        "started": _time_text(record.get("started_at")),
        "wall time": None if seconds is None else f"{minutes_text(seconds / 60)} minutes",
        "cost": "not priced: hardware.usd_per_hour is not set" if cost is None else _cost_text(cost),
        "seed": record.get("seed"),
        "commit": commit or "not from a git checkout",
        "recipe": f"{record.get('recipe_file')} (sha256 {str(record.get('recipe_sha256'))[:12]})",
        "command": shlex.join(map(str, record.get("command") or [])),
        "hardware": ", ".join(machine) if hardware else None,
        "versions": ", ".join(f"{name} {version}" for name, version in versions),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")] if record else []


def _time_text(iso_time: str | None) -> str | None:
    try:
        return datetime.fromisoformat(iso_time).strftime("%Y-%m-%d %H:%M UTC") if iso_time else None
    except ValueError:
        return iso_time


def _caption(scores: list[Score]) -> str:
    """How a block was sampled, as far as all its scores agree on it, and how many answers nobody could judge."""
    parts = []
    for key, text in (
        ("num_problems", "{} problems"),
        ("samples", "{} samples each"),
        ("temperature", "temperature {}"),
        ("max_new_tokens", "at most {} tokens"),
    ):
        values = {score.details.get(key) for score in scores}
        if len(values) == 1 and None not in values:
            value = values.pop()
            parts.append("1 sample each" if (key, value) == ("samples", 1) else text.format(value))
    num_unjudged = sum(score.details.get("unjudged") or 0 for score in scores)
    if num_unjudged:
        parts.append(f"{num_unjudged} answers could not be judged and are left out")
    return ", ".join(parts)


def _finite(value: float | None) -> float | None:
    """None for nan as well: a mean over nothing is no score."""
    return value if value is not None and math.isfinite(value) else None


def _drop_rows(distill: Mapping[str, Any]) -> tuple[list[tuple[str, int, str]], int | None]:
    """(what, traces, share of the sampled) for kept and for each reason of a drop; the number of prompts."""
    sampled = distill.get("sampled") or 0
    rows = [("kept", distill.get("kept") or 0)]
    rows += sorted((distill.get("dropped") or {}).items(), key=lambda item: -item[1])
    return [
        ("sampled", sampled, ""),
        *((name, count, f"{100 * count / sampled:.1f} %" if sampled else NONE) for name, count in rows),
    ], distill.get("prompts")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _print(
    console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], caption: str = ""
) -> None:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text(caption) if caption else None,
        caption_justify="left",
        box=SIMPLE_HEAD,  # narrow enough for five columns in a terminal of 80
        pad_edge=False,
    )
    for column in columns:
        # Text, not str: rich would take the brackets of an interval or a label for its own markup.
        table.add_column(Text(column), justify="right" if column in NUMBER_COLUMNS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # autoescape=True and not select_autoescape: that goes by the file's name, and ours does not end in .html.
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.jinja")


def main(arguments: list[str]) -> int:
    """0, or 2 if there is no such run directory."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m open_r1.report RUN_DIR   (a directory under runs/)", file=sys.stderr)
        return 2
    print_table(arguments[0])
    print(write_report(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
