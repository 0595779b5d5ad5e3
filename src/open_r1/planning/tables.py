"""The tables for READMEs, and the text that `make plan` prints."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from open_r1.planning.gpus import USABLE_SHARE
from open_r1.planning.memory import COUNTS, FORMULAS, TOTALS, Memory
from open_r1.planning.mends import compared, mends_of
from open_r1.planning.plan import Plan, plans_of
from open_r1.planning.work import endpoint_of, trains
from open_r1.recipe import Recipe

NONE = "–"


@dataclass(frozen=True)
class Summary:
    """A line of an index. Of a pipeline: the largest peak, the sums."""

    hardware: str
    peak_gib: float
    hours: float | None
    usd: float | None
    fits: bool


def summary(recipe: Recipe) -> Summary:
    """What a recipe needs, in five values. Raises RecipeError if something is not known."""
    plans = plans_of(recipe)
    return Summary(
        hardware=", ".join(dict.fromkeys(hardware_text(plan) for plan in plans)),
        peak_gib=max(plan.memory.peak_gib for plan in plans),
        hours=_sum(plan.hours for plan in plans),
        usd=_sum(plan.usd for plan in plans),
        fits=all(plan.fits for plan in plans),
    )


def markdown(recipes: Sequence[Recipe]) -> str:
    """A table in Markdown, a column a recipe (a pipeline: a column a stage). Raises RecipeError."""
    plans = [plan for recipe in recipes for plan in plans_of(recipe)]
    rows = [("", [plan.name or plan.recipe.source.stem for plan in plans])]
    rows += [(name, [cell(plan) for plan in plans]) for name, cell in _SUMMARY_ROWS.items()]
    kept = [row for row in FORMULAS if any(row in plan.memory.rows for plan in plans)]
    for row in kept:
        cells = [_gib(plan.memory, row) for plan in plans]
        title = row if row in COUNTS else f"{row}, GiB"
        if row in TOTALS:
            title, cells = f"**{title}**", [cell if cell == NONE else f"**{cell}**" for cell in cells]
        rows.append((title, cells))
    rows += [(name, [cell(plan) for plan in plans]) for name, cell in _WORK_ROWS.items()]
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    lines.insert(1, f"|{'---|' * (len(plans) + 1)}")
    return "\n".join(lines)


def text(plans: Sequence[Plan]) -> str:
    """All of it, as `make plan` prints it."""
    blocks = [_block(plan) for plan in plans]
    if len(plans) > 1:
        total = f"in all: {_hours(_sum(plan.hours for plan in plans))}, {_usd(_sum(plan.usd for plan in plans))}"
        blocks.append(total)
    lines = ["Taken for granted (each can be set: --compute-share 0.4):"]
    lines += [f"  {line}" for line in plans[0].assumptions.stated()]
    gpus = dict.fromkeys(plan.gpu for plan in plans)
    for gpu in gpus:
        numbers = f"{gpu.tflops:g} TFLOP/s, {gpu.gb_per_second:,} GB/s ({gpu.source})"
        lines.append(f"  {gpu.name}: {numbers}; {_price(gpu)}")
    return "\n\n".join([*blocks, "\n".join(lines)])


def hardware_text(plan: Plan) -> str:
    """E.g. `2 x 8 h100_80gb, ZeRO-3` or `CPU, 2 processes of 1 thread`."""
    hardware, nodes = plan.recipe.hardware, plan.nodes
    if not nodes.gpus_per_node:
        threads = hardware.threads_per_process or 1
        return f"CPU, {_number_of(nodes.processes, 'process', 'es')} of {_number_of(threads, 'thread')}"
    number = nodes.training + nodes.serving
    each = f"{number} x {nodes.gpus_per_node}" if number > 1 else f"{nodes.gpus_per_node}"
    guessed = "" if hardware.gpu else " (guessed)"
    title = f", {plan.layout.title}" if trains(plan.recipe) else ", vLLM" if hardware.vllm is not None else ""
    judge = f", {hardware.judge.num_gpus} of them for the judge" if hardware.judge is not None else ""
    return f"{each} {plan.gpu.name}{guessed}{title}{judge}"


def _block(plan: Plan) -> str:
    recipe, architecture = plan.recipe, plan.architecture
    name = f"{plan.name}: " if plan.name else ""
    lines = [
        f"{name}{os.path.relpath(recipe.source)}: {recipe.step}"
        + (f", {recipe.description}" if recipe.description else "")
    ]
    parameters = f"{architecture.num_parameters:,} parameters" if architecture else f"that of {_endpoint(recipe)}"
    if architecture is not None and architecture.experts is not None:
        parameters += f", {architecture.num_active_parameters:,} of them active"
    if recipe.model.lora is not None:
        parameters += f", {plan.trained_parameters:,} trained (LoRA, r {recipe.model.lora.r})"
    lines += ["", f"model      {parameters}"]
    lines += [
        f"rewards.{index}  {model.num_parameters:,} parameters" for index, model in plan.raters.reward_models.items()
    ]
    if plan.raters.judge is not None:
        lines.append(f"judge      {plan.raters.judge.num_parameters:,} parameters")
    lines += [f"hardware   {hardware_text(plan)}", f"nodes      {_nodes(plan)}"]
    if plan.memory.rows:
        lines += ["", "Memory, GiB on each GPU" if plan.nodes.gpus_per_node else "Memory, GiB of each process"]
    lines += [f"  {row:21}{_gib(plan.memory, row):>8}   {FORMULAS[row]}" for row in FORMULAS if row in plan.memory.rows]
    lines += [f"  {'the GPU':21}{plan.gpu.gib:8.1f}   {USABLE_SHARE:.0%} of it is counted on"] if plan.gpu.gib else []
    others = compared(plan)
    if others:
        lines += ["", "The same GPUs under other layouts"]
        for title, memory in others.items():
            verdict = "fits" if memory.fits(plan.gpu) else "does not fit"
            totals = ", ".join(f"{memory.rows[t]:.1f} {t.partition(',')[0]}" for t in TOTALS if t in memory.rows)
            lines.append(f"  {title:21}{memory.peak_gib:8.1f}   {verdict} ({totals})")
    if not plan.fits:
        lines += ["", *_misfit(plan)]
    lines += ["", *_work(plan)]
    return "\n".join(lines)


def _endpoint(recipe: Recipe) -> str:
    endpoint = endpoint_of(recipe)
    return f"{endpoint.model} at {endpoint.base_url}"


def _misfit(plan: Plan) -> list[str]:
    usable = USABLE_SHARE * plan.gpu.gib
    needed = {total: plan.memory.rows[total] for total in TOTALS if plan.memory.rows.get(total, 0) > usable}
    over = [f"{total.partition(',')[0]} takes {gib:.1f}" for total, gib in needed.items()]
    if plan.memory.rows.get("completions at once", 1) < 1:
        over.append("the KV cache does not hold one completion of full length")
    if plan.memory.rows.get("verdicts at once", 1) < 1:
        over.append("the judge's KV cache does not hold one request of full length")
    lines = [f"It does not fit: of {usable:.1f} GiB {' and '.join(over)}. What would:"]
    mends = mends_of(plan)
    lines += [f'  ARGS="{mend}"   ({mend.memory.peak_gib:.1f} GiB)' for mend in mends]
    return lines if mends else [*lines, "  nothing that is known here; take larger GPUs, or a smaller model"]


def _work(plan: Plan) -> list[str]:
    work = plan.work
    lines = ["Work"]
    if work.rows_per_step:
        rows = f"{work.rows_per_step:,} rows"
        if work.prompts_per_step is not None:
            rows = f"{work.prompts_per_step:,.0f} prompts, {work.rows_per_step:,} completions"
        if work.pairs_per_step is not None:
            rows = f"{work.pairs_per_step:,} pairs, {work.rows_per_step:,} sequences"
        lines.append(f"  a step     {rows}, {work.tokens_per_step:,.0f} tokens")
        steps = "not known" if work.steps is None else f"{work.steps:,}, {work.tokens:,.0f} tokens in all"
        lines.append(f"  steps      {steps}")
    for sampling in work.sampling:
        lines.append(f"  {sampling.what}: {sampling.tokens:,.0f} tokens sampled, {sampling.completions:,.0f} at a time")
    for index, tokens in work.tokens_of_reward_models.items():
        lines.append(f"  rewards.{index} reads {tokens:,.0f} tokens")
    if work.judging is not None:
        read, usd = work.judging.number * work.judging.prompt_tokens, plan.judge_usd
        cost = "" if usd is None else f", {_usd(usd)} by judge.usd_per_million_…"
        lines.append(
            f"  verdicts: {work.judging.number:,.0f} requests, {read:,.0f} tokens read, "
            f"{work.judging.tokens:,.0f} sampled{cost}"
        )
    lines += [f"  note: {note}" for note in work.notes]
    lines.append(f"Time: {_hours(plan.hours)}, {_usd(plan.usd)}")
    if plan.time is not None:
        lines += [f"  {what:21}{seconds / 3600:10.2f} h" for what, seconds in plan.time.seconds.items()]
    return lines


def _nodes(plan: Plan) -> str:
    nodes, hardware = plan.nodes, plan.recipe.hardware
    parts = [_number_of(nodes.training, "node") + (" to train" if trains(plan.recipe) else "")]
    for what, server in (("vLLM", hardware.vllm), ("the judge", hardware.judge)):
        if server is None:
            continue
        where = (
            f"{_number_of(server.nodes, 'node')} to serve" if server.nodes else f"{server.num_gpus} of its GPUs serve"
        )
        parts.append(f"{where} {what}")
        parts.append(f"{server.data_parallel_size} copies over {_number_of(server.tensor_parallel_size, 'GPU')} each")
    parts += [_number_of(nodes.processes, "process", "es"), f"{_number_of(nodes.gpus_per_node, 'GPU')} a node"]
    return ", ".join(parts)


def _number_of(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _gib(memory: Memory, row: str) -> str:
    if row not in memory.rows:
        return NONE
    return f"{int(memory.rows[row]):,}" if row in COUNTS else f"{memory.rows[row]:.1f}"


def _sum(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else sum(values)


def _hours(hours: float | None) -> str:
    return "hours not known" if hours is None else f"{hours:,.{1 if hours >= 10 else 2}f} hours"


def _usd(usd: float | None) -> str:
    return "cost not known" if usd is None else f"${usd:,.0f}"


def _price(gpu) -> str:
    return f"${gpu.usd_per_hour:g} an hour: {gpu.price_source}" if gpu.usd_per_hour else gpu.price_source


def _parameters(plan: Plan) -> str:
    if plan.architecture is None:
        return NONE
    total = plan.architecture.num_parameters
    trained = f", {plan.trained_parameters:,} trained" if plan.recipe.model.lora else ""
    return (f"{total / 1e9:.2f} B" if total >= 1e8 else f"{total:,}") + trained


def _tokens_a_step(plan: Plan) -> str:
    return f"{plan.work.tokens_per_step:,.0f}" if plan.work.rows_per_step else NONE


def _steps(plan: Plan) -> str:
    return NONE if not plan.work.steps else f"{plan.work.steps:,}"


_SUMMARY_ROWS = {"parameters": _parameters, "hardware": hardware_text}
_WORK_ROWS = {
    "the GPU, GiB": lambda plan: f"{plan.gpu.gib:g}" if plan.gpu.gib else NONE,
    "fits": lambda plan: "yes" if plan.fits else "no",
    "tokens a step": _tokens_a_step,
    "steps": _steps,
    "hours": lambda plan: NONE if plan.hours is None else _hours(plan.hours).removesuffix(" hours"),
    "cost": lambda plan: NONE if plan.usd is None else _usd(plan.usd),
}
