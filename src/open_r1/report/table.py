"""Stages and scores -> rows of text, for the page and for the terminal."""

from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from open_r1.report.phases import MEANINGS, PhaseTime, StepTimes
from open_r1.report.reading import Run, failures, read_all
from open_r1.report.scores import Block, Score, score_blocks

NONE = "–"


class StageRow(NamedTuple):
    """The columns of the table of stages, as text."""

    stage: str
    step: str
    status: str
    minutes: str
    cost: str
    attempts: str


SCORE_COLUMNS = ("model", "parameters", "pass@1\n[95 % interval]", "tokens\nan answer", "minutes")
PHASE_COLUMNS = ("phase", "seconds\na step", "share", "tokens\na second", "what it is")
NUMBER_COLUMNS = {*SCORE_COLUMNS[1:], *PHASE_COLUMNS[1:4], "cost", "attempts"}


def print_table(run_dir: str | Path, console: Console | None = None) -> None:
    """Prints the scores of a run, or the state of its stages where nothing was scored, and what ended it early."""
    console = console or Console()
    run, stages = read_all(Path(run_dir), [])
    blocks = score_blocks(stages)
    for block in blocks:
        caption = "\n".join(filter(None, [block.caption, *refusals(block)]))
        _print(console, block.title, SCORE_COLUMNS, [score_row(score) for score in block.scores], caption)
    unfinished = any(stage.record.get("status") != "done" for stage in stages)
    if not blocks or unfinished:
        _print(console, run.title, StageRow._fields, [stage_row(stage) for stage in stages])
    for stage in stages:
        for warning in stage.warnings:
            if warning.get("stopped"):
                console.print(
                    Text(f"{stage.name} stopped at step {warning['step']}: {warning['reason']}", style="bold")
                )
    for failed in failures(run, stages):
        console.print(Text(f"{failed.name} failed: {failed.error}", style="bold red"))


def print_phases(run: Run, times: StepTimes, console: Console | None = None) -> None:
    """Prints where the seconds of the run's optimizer steps went."""
    console = console or Console()
    _print(console, run.title, PHASE_COLUMNS, phase_rows(times), phases_caption(times))
    for fact in times.facts:
        console.print(Text(f"  {fact}"))


def phase_rows(times: StepTimes) -> list[tuple[str, ...]]:
    """The cells of PHASE_COLUMNS, of each phase and of the whole step."""
    return [_phase_row(phase, MEANINGS[phase.name]) for phase in times.phases] + [
        _phase_row(times.whole, "from gradients to gradients")
    ]


def _phase_row(phase: PhaseTime, meaning: str) -> tuple[str, ...]:
    rate = phase.tokens_per_second
    return (
        phase.name,
        f"{phase.seconds:.3f}" if phase.seconds < 10 else f"{phase.seconds:,.1f}",
        f"{100 * phase.share:.1f} %",
        NONE if rate is None else f"{rate:,.0f}",
        meaning,
    )


def phases_caption(times: StepTimes) -> str:
    """Which steps the means are of."""
    if times.first_step == 1:
        return f"mean of steps 1 to {times.last_step}, the slower first ones among them"
    return f"mean of steps {times.first_step} to {times.last_step}; what is before is warm-up"


def score_row(score: Score) -> tuple[str, ...]:
    """The cells of SCORE_COLUMNS."""
    return (
        score.label,
        count_text(score.parameters),
        "refused" if score.refused else pass_text(score.pass_at_1, score.interval),
        _number_text(score.tokens_per_answer, whole_from=100),
        minutes_text(score.minutes),
    )


def refusals(block: Block) -> list[str]:
    """Why scores of a block are refused, a line each."""
    return [f"{score.label} is refused: {score.refused}" for score in block.scores if score.refused]


def stage_row(stage: Run) -> StageRow:
    return StageRow(
        stage=stage.name,
        step=stage.step if stage.record else NONE,
        status=stage.status,
        minutes=minutes_text(stage.minutes),
        cost=cost_text(stage.record.get("cost_usd")),
        attempts=str(stage.record.get("attempts") or NONE),
    )


def count_text(count: int | None) -> str:
    """Three digits and a unit: 868k, 1.54B; a dash for None."""
    if count is None:
        return NONE
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:  # what would round to four digits belongs to the next unit
            return f"{count / size:#.3g}".rstrip(".") + unit
    return str(count)


def pass_text(pass_at_1: float | None, interval: tuple[float, float] | None) -> str:
    """`88.1 % [86.0, 90.1]`; a dash for None."""
    if pass_at_1 is None:
        return NONE
    text = f"{100 * pass_at_1:.1f} %"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def minutes_text(minutes: float | None) -> str:
    """One decimal below ten minutes, none above; a dash for None."""
    return _number_text(minutes, whole_from=10)


def duration_text(minutes: float | None) -> str:
    """Minutes with their unit, hours from two hours on; a dash for None."""
    if minutes is None:
        return NONE
    return f"{minutes_text(minutes)} min" if minutes < 120 else f"{_number_text(minutes / 60, whole_from=100)} h"


def cost_text(cost_usd: float | None) -> str:
    """Dollars and cents, four decimals below a cent; a dash for None."""
    if cost_usd is None:
        return NONE
    return f"${cost_usd:,.2f}" if cost_usd >= 0.01 or cost_usd == 0 else f"${cost_usd:.4f}"


def _number_text(number: float | None, whole_from: float) -> str:
    if number is None:
        return NONE
    return f"{number:,.0f}" if number >= whole_from else f"{number:.1f}"


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
        collapse_padding=True,
    )
    for column in columns:
        # Text, not str: rich would take the brackets of an interval or a label for its own markup.
        table.add_column(Text(column), justify="right" if column in NUMBER_COLUMNS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
