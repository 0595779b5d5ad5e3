"""Run, scores, pictures and comparison -> report.html."""

import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml

from open_r1.report.comparison import compare
from open_r1.report.phases import step_times
from open_r1.report.pictures import draw_bars, draw_curves, draw_phases
from open_r1.report.reading import Run, failures, read_all
from open_r1.report.scores import score_blocks
from open_r1.report.table import (
    NONE,
    PHASE_COLUMNS,
    SCORE_COLUMNS,
    StageRow,
    cost_text,
    minutes_text,
    phase_rows,
    phases_caption,
    score_row,
    stage_row,
)


def write_report(run_dir: str | Path) -> Path:
    """The path of RUN_DIR/report.html, just written. Missing files become notes in it, never an error."""
    run_dir = Path(run_dir)
    notes: list[str] = []
    run, stages = read_all(run_dir, notes)
    page = _template().render(
        run=run,
        failures=failures(run, stages),
        score_columns=SCORE_COLUMNS,
        blocks=[(block, list(map(score_row, block.scores)), draw_bars(block)) for block in score_blocks(stages)],
        curves=[curves for stage in stages if (curves := draw_curves(stage, notes))],
        phase_columns=PHASE_COLUMNS,
        timed=[
            (stage, draw_phases(times), phase_rows(times), phases_caption(times), times.facts)
            for stage in stages
            if (times := step_times(stage))
        ],
        comparison=compare(stages, notes),
        distilled=[(stage, _trace_rows(stage.distill)) for stage in stages if stage.distill],
        stage_columns=StageRow._fields,
        stage_rows=[] if stages[0] is run else [stage_row(stage) for stage in stages],
        facts=_facts(run, stages),
        recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True) if run.recipe else None,
        notes=notes,
    )
    file = run_dir / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # autoescape=True and not select_autoescape: that goes by the file's name, and ours does not end in .html.
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.jinja")


def _trace_rows(distill: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(what, traces, share of the sampled) for all that were sampled, for kept and for each reason of a drop."""
    num_sampled = distill.get("sampled") or 0
    counts = [("kept", distill.get("kept") or 0)]
    counts += sorted((distill.get("dropped") or {}).items(), key=lambda item: -item[1])
    shares = [(what, count, f"{100 * count / num_sampled:.1f} %" if num_sampled else NONE) for what, count in counts]
    return [("sampled", num_sampled, ""), *shares]


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
        "command": shlex.join(map(str, record.get("command") or [])),
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
