"""Run, scores, pictures and comparison -> report.html."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml

from open_r1.report.commands import run_command, stage_command
from open_r1.report.comparison import compare
from open_r1.report.feedback import Fact, percent_text, preference_facts, reward_model_facts
from open_r1.report.gates import GateState, gates_of
from open_r1.report.graph import graph_of
from open_r1.report.layout import Card, Drawing, draw_graph
from open_r1.report.phases import StepTimes, step_times
from open_r1.report.pictures import Curves, draw_bars, draw_curves, draw_phases, draw_reliability, draw_truth
from open_r1.report.reading import Run, failures, read_all
from open_r1.report.samples import Sample, samples_of
from open_r1.report.scores import Block, Score, score_blocks
from open_r1.report.table import (
    NONE,
    PHASE_COLUMNS,
    SCORE_COLUMNS,
    StageRow,
    cost_text,
    duration_text,
    minutes_text,
    pass_text,
    phase_rows,
    phases_caption,
    refusals,
    score_row,
    stage_row,
)
from open_r1.report.truth import RewardAndTruth, reward_and_truth

WIDTHS = {"phone": (346, 2), "desktop": (1012, 3)}  # pixels, and boxes side by side, of the graph's two drawings
STATUS_MARKS = {"done": "✓ done", "failed": "✗ failed", "running": "▸ running", "interrupted": "‖ interrupted"}
MAX_HEADLINES = 2  # benchmarks that a box of the graph has room for


@dataclass(frozen=True)
class Funnel:
    """What became of the completions that a stage sampled, or of the prompts that it made pairs for."""

    title: str
    unit: str
    num_prompts: int | None
    """None where the prompts are what is counted."""
    rows: list[tuple[str, int, str, float]]
    """(what, how many, share of the first row as text, the same in percent): all, kept, and each reason."""
    facts: list[str]


@dataclass(frozen=True)
class StageSection:
    """All that the page tells of one stage; whatever is empty is left out."""

    stage: Run
    facts: list[str]
    gates: list[GateState]
    scores: list[tuple[Block, Score]]
    """Of the stage's model."""
    funnel: Funnel | None
    preferences: list[Fact]
    curves: Curves | None
    on_eval_data: RewardAndTruth | None
    reward_model: list[Fact]
    times: StepTimes | None
    samples: list[Sample]
    command: str | None


def write_report(run_dir: str | Path) -> Path:
    """The path of RUN_DIR/report.html, just written. Missing files become notes in it, never an error."""
    run_dir = Path(run_dir)
    notes: list[str] = []
    run, stages = read_all(run_dir, notes)
    blocks = score_blocks(stages)
    sections = [_section(run, stage, stages, blocks, notes) for stage in stages]
    page = _template().render(
        run=run,
        failures=failures(run, stages),
        drawings=[] if stages[0] is run else _drawings(run, stages, sections, notes),
        score_columns=SCORE_COLUMNS,
        blocks=[(block, list(map(score_row, block.scores)), refusals(block), draw_bars(block)) for block in blocks],
        comparison=compare(stages, notes),
        sections=sections,
        phase_columns=PHASE_COLUMNS,
        pass_text=pass_text,
        draw_phases=draw_phases,
        draw_truth=draw_truth,
        draw_reliability=draw_reliability,
        phase_rows=phase_rows,
        phases_caption=phases_caption,
        stage_columns=StageRow._fields,
        stage_rows=[] if stages[0] is run else [stage_row(stage) for stage in stages],
        facts=_facts(run, stages),
        command=None if stages[0] is run else run_command(run),
        recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True) if run.recipe else None,
        notes=notes,
    )
    file = run_dir / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def _section(run: Run, stage: Run, stages: list[Run], blocks: list[Block], notes: list[str]) -> StageSection:
    scores = [(block, score) for block in blocks for score in block.scores if score.label == stage.name]
    step = stage.step if stage.recipe or stage.record else None
    duration = duration_text(stage.minutes) if stage.minutes is not None else None
    cost = stage.record.get("cost_usd")
    return StageSection(
        stage=stage,
        facts=[fact for fact in (step, status_text(stage), duration, cost and cost_text(cost)) if fact],
        gates=[] if stage is run else gates_of(run, stage, notes),
        scores=scores,
        funnel=_funnel(stage),
        preferences=preference_facts(stage, notes),
        curves=draw_curves(stage, notes),
        on_eval_data=reward_and_truth(stage, notes),
        reward_model=reward_model_facts(stage.held_out_pairs),
        times=step_times(stage),
        samples=samples_of(stage, stages, notes),
        command=run_command(stage) if stage is run else stage_command(run, stage),
    )


def status_text(stage: Run) -> str:
    """A stage's status with a mark, so that it is told at a glance, and not by its colour alone."""
    return STATUS_MARKS.get(stage.status, f"○ {stage.status}")


def _drawings(
    run: Run, stages: list[Run], sections: list[StageSection], notes: list[str]
) -> list[tuple[str, Drawing, list[str]]]:
    """(where it is shown, the drawing, a sentence on each stage) for a phone and for a desktop."""
    graph = graph_of(run, stages, notes)
    cards = {
        section.stage.name: Card([*section.facts, *_headlines(section)], section.gates, section.stage.status)
        for section in sections
    }
    sentences = [
        f"{stage.name} ({stage.step}, {stage.status})"
        + ("" if not (fed := graph.told_parents(stage.name)) else f" takes {fed}")
        for stage in stages
    ]
    return [(where, draw_graph(graph, cards, *size), sentences) for where, size in WIDTHS.items()]


def _headlines(section: StageSection) -> list[str]:
    """What came out of a stage, for its box: its model's pass@1, what was kept, what a reward model is worth, where a
    guard stopped it, how many models were scored."""
    lines = [
        f"{block.benchmark if len(section.scores) > 1 else 'pass@1'} "
        f"{'refused' if score.refused else pass_text(score.pass_at_1, None)}"
        for block, score in section.scores
    ]
    if len(lines) > MAX_HEADLINES:
        lines = [*lines[:MAX_HEADLINES], f"and {len(lines) - MAX_HEADLINES} more"]
    if section.funnel:
        kept = next(count for what, count, _, _ in section.funnel.rows if what == "kept")
        lines.append(f"kept {kept:,} of {section.funnel.rows[0][1]:,}")
    if section.reward_model:
        lines.append(f"accuracy {percent_text(section.stage.held_out_pairs.get('accuracy'))}")
    if section.stage.stopped_at is not None:
        lines.append(f"stopped at step {section.stage.stopped_at}")
    if section.stage.scores and not lines:
        lines.append(f"{len(section.stage.scores)} models scored")
    return lines


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # autoescape=True and not select_autoescape: that goes by the file's name, and ours does not end in .html.
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.jinja")


def _funnel(stage: Run) -> Funnel | None:
    """None if nothing was sampled. The largest reason of a drop comes first."""
    counts = stage.sampling
    if not counts:
        return None
    makes_pairs = stage.step == "preferences"
    all_of_them = "prompts" if makes_pairs else "sampled"
    num_sampled = counts.get(all_of_them) or 0
    numbers = [("kept", counts.get("kept") or 0)]
    numbers += sorted((counts.get("dropped") or {}).items(), key=lambda item: -item[1])
    percents = [(what, count, 100 * count / num_sampled if num_sampled else 0.0) for what, count in numbers]
    rows = [(what, count, f"{percent:.1f} %" if num_sampled else NONE, percent) for what, count, percent in percents]
    facts = []
    if speed := counts.get("tokens_per_second"):
        facts.append(f"{speed:,.0f} tokens a second")
    facts += [f"{what}: {count:,}" for what, count in (counts.get("counts") or {}).items()]
    facts += [
        f"{count:,} completions dropped ({what})" for what, count in (counts.get("completions_dropped") or {}).items()
    ]
    return Funnel(
        title="Which prompts have a pair" if makes_pairs else "What was kept of its completions",
        unit="prompts" if makes_pairs else "completions",
        num_prompts=None if makes_pairs else counts.get("prompts"),
        rows=[(all_of_them, num_sampled, "", 100.0 if num_sampled else 0.0), *rows],
        facts=facts,
    )


def _facts(run: Run, stages: list[Run]) -> list[tuple[str, str]]:
    """What somebody needs to run it again, as (name, value)."""
    record = run.record or next((stage.record for stage in stages if stage.record), {})
    if not record:
        return []
    commit = record.get("commit")
    if commit and record.get("dirty"):
        commit += " with changes that are not committed"
    started_at = record.get("started_at")
    facts = {
        "status": record.get("status"),
        "started": started_at and datetime.fromisoformat(started_at).strftime("%Y-%m-%d %H:%M UTC"),
        "wall time": None if run.minutes is None else f"{minutes_text(run.minutes)} minutes",
        "cost": _cost_fact(record, stages),
        "seed": record.get("seed"),
        "commit": commit or "not from a git checkout",
        "recipe": f"{record.get('recipe_file')} (sha256 {str(record.get('recipe_sha256'))[:12]})",
        "hardware": _hardware_fact(record.get("hardware") or {}),
        "versions": ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _cost_fact(record: Mapping[str, Any], stages: list[Run]) -> str:
    """The run's own cost; if it has none, that of the stages that have one."""
    cost_usd = record.get("cost_usd")
    if cost_usd is None:
        known = [cost for stage in stages if (cost := stage.record.get("cost_usd")) is not None]
        cost_usd = sum(known) if known else None
    return "not priced: hardware.usd_per_hour is not set" if cost_usd is None else cost_text(cost_usd)


def _hardware_fact(hardware: Mapping[str, Any]) -> str | None:
    """None if nothing is known of it."""
    if not hardware:
        return None
    gpus = hardware.get("gpus") or []
    parts = [
        str(hardware.get("cpu") or "unknown CPU"),
        f"{hardware.get('cores')} cores",
        f"{hardware.get('memory_gb')} GB of memory",
        ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)) or "no GPU",
    ]
    return ", ".join(parts)
