"""How far `make plan` is off: beside published runs, and beside a run of the tiny pipeline on this machine.

    python scripts/check_plan.py [RUN] [--cpu]

RUN is the directory of a finished `make r1` (runs/tiny-r1/pipeline/latest); without it only the published runs are
compared, for which nothing is run. --cpu measures what one thread of this machine does with large fp32 matrices: the
planner's `cpu`. Prints tables in Markdown; the last line is one JSON object, in it planned / actual of each.

A published run is planned from one of our recipes with that run's model, GPUs, batch, lengths and data, as far as its
authors tell them. No assumption of the planner was fitted to any of them.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from open_r1.planning import Assumptions, Plan, plans_of
from open_r1.planning.gpus import USABLE_SHARE
from open_r1.planning.memory import GIB, HEAD_TILE_VALUES
from open_r1.planning.throughput import HOUR
from open_r1.recipe import load_recipe
from open_r1.report.reading import Run, read_all

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "recipes"


@dataclass(frozen=True)
class Part:
    """What is planned: a recipe, the values that differ, and lengths that the published run had."""

    recipe: str
    overrides: tuple[str, ...]
    assumptions: dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A run whose GPU hours its authors give. `told`: how its lengths are known."""

    name: str
    gpu_hours: float
    source: str
    told: str
    parts: tuple[Part, ...]


S1 = (
    "model.name=Qwen/Qwen2.5-32B-Instruct",
    "model.revision=null",
    "model.dtype=float32",
    "hardware.nodes=2",
    "hardware.accelerate=fsdp2",
    "trainer.per_device_train_batch_size=1",
    "trainer.gradient_accumulation_steps=1",
    "trainer.num_train_epochs=5",
    "trainer.use_liger_kernel=false",
)
DEEPSCALER = (
    "hardware.gpu=a100_80gb",
    "hardware.accelerate=fsdp2",
    "model.dtype=float32",
    "trainer.per_device_train_batch_size=2",
    "trainer.beta=0.001",
)


def deepscaler(nodes: int, steps: int, group: int, longest: int, mean: int) -> Part:
    """128 prompts a step, each sampled `group` times, on nodes of eight GPUs."""
    rows = (
        f"hardware.nodes={nodes}",
        f"trainer.gradient_accumulation_steps={128 * group // (8 * nodes) // 2}",
        f"trainer.num_generations={group}",
        f"trainer.max_steps={steps}",
        f"trainer.max_completion_length={longest}",
        f"trainer.vllm_max_model_length={longest + 1024}",
    )
    lengths = {"mean_completion_tokens": mean}
    return Part("deepseek-r1-distill-qwen-1.5b-grpo/grpo.yaml", (*DEEPSCALER, *rows), lengths)


def r1_zero(mean: int) -> Part:
    """512 H800 that sample and train by turns."""
    return Part(
        "r1-zero-qwen2.5-32b/grpo.yaml",
        (
            "model.name=deepseek-ai/DeepSeek-R1",  # the architecture of DeepSeek-V3-Base
            "model.revision=null",
            "hardware.gpu=h800_80gb",
            "hardware.nodes=64",
            "hardware.vllm=null",
            "trainer.vllm_mode=colocate",
            "trainer.vllm_tensor_parallel_size=32",
            "trainer.vllm_enable_sleep_mode=true",
            "trainer.vllm_gpu_memory_utilization=0.85",
            "trainer.vllm_max_model_length=33792",
            "trainer.gradient_accumulation_steps=1",
            "trainer.steps_per_generation=16",
            "trainer.max_steps=10400",
        ),
        {"mean_completion_tokens": mean},
    )


PUBLISHED = (
    Published(
        "R1-Zero, 671 B, 10,400 steps, 512 H800",
        101_000,
        "arXiv 2501.12948v2, appendix B.4.4 and table 7: 64 x 8 H800, about 198 hours",
        "mean answer 6,000 tokens: our guess from the paper's curve, which climbs from hundreds to some 10,000",
        (r1_zero(6000),),
    ),
    Published(
        "s1-32B, 1,000 traces, 5 epochs, 16 H100",
        7,
        "arXiv 2501.19393, section 4.1 and table 6: 26 minutes, 4.7 M tokens of traces",
        "4,700 tokens a row, and the questions beside them left out",
        (Part("r1-distill/32b.yaml", S1, {"rows": 1000, "tokens_per_row": 4700}),),
    ),
    Published(
        "s1's 59K ablation, 16 H100",
        394,
        "arXiv 2501.19393, section 5.1",
        "3,600 tokens of thinking in the mean, and 5 epochs as for the 1,000: neither is told of this run by itself",
        (Part("r1-distill/32b.yaml", S1, {"rows": 59_000, "tokens_per_row": 3600}),),
    ),
    Published(
        "DeepScaleR-1.5B, 1,750 steps at 8K, 16K, 24K, 8 and 32 A100",
        3_800,
        "its authors' report: 8 A100 at 8K, then 32; about 1,750 steps",
        "128 prompts x 8, from 16K on x 16; 1,040 + 480 + 230 steps; answers of 3,500, 4,500 and 5,500 tokens in the "
        "mean: the first as told, the others our guess",
        (
            deepscaler(1, 1040, 8, 8192, 3500),
            deepscaler(4, 480, 16, 16384, 4500),
            deepscaler(4, 230, 16, 24576, 5500),
        ),
    ),
)


def planned_gpu_hours(parts: Iterable[Part]) -> float:
    """GPU hours of all parts, one after the other."""
    hours = 0.0
    for part in parts:
        recipe = load_recipe(RECIPES / part.recipe, part.overrides)
        hours += sum(plan.hours * plan.nodes.gpus for plan in plans_of(recipe, Assumptions(**part.assumptions)))
    return hours


def published_rows() -> list[tuple[Published, float]]:
    """Each published run and its planned GPU hours."""
    return [(run, planned_gpu_hours(run.parts)) for run in PUBLISHED]


def published_table(rows: Sequence[tuple[Published, float]]) -> str:
    """Planned and published GPU hours, in Markdown."""
    lines = [
        "| run | planned, GPU hours | published | planned / published | source | lengths |",
        "|---|---|---|---|---|---|",
    ]
    for run, planned in rows:
        ratio = planned / run.gpu_hours
        lines.append(
            f"| {run.name} | {planned:,.0f} | {run.gpu_hours:,.0f} | {ratio:.2f} | {run.source} | {run.told} |"
        )
    return "\n".join(lines)


# --- Memory: whether it fitted

FLASH = "model.attn_implementation=flash_attention_2"
TWO_ROWS = (FLASH, "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=8")
WHOLE_LOGITS_BYTES = 2 + 4 + 4  # of a logit in bf16, its copy in fp32, and the gradient of that
UPDATE_3 = "Open R1: Update #3, and its config"


@dataclass(frozen=True)
class Fitted:
    """A run of which it is known whether it fitted. `whole_logits`: its loss made all logits of a row at once."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    whole_logits: bool
    fitted: bool
    source: str

    def planned_gib(self) -> tuple[float, bool]:
        """The plan's peak on a GPU, and whether that is as much as is counted on."""
        (plan,) = plans_of(load_recipe(RECIPES / self.recipe, self.overrides))
        peak = plan.memory.peak_gib
        if self.whole_logits:
            logits = plan.recipe.trainer["max_length"] * plan.architecture.vocabulary
            peak += (WHOLE_LOGITS_BYTES * logits - 2 * min(HEAD_TILE_VALUES, logits)) / GIB
        return peak, peak <= USABLE_SHARE * plan.gpu.gib


FITTED = (
    Fitted(
        "OpenR1-Distill-7B, 2 rows of 32,768, 8 H100, ZeRO-3",
        "openr1-distill-7b/sft.yaml",
        TWO_ROWS,
        False,
        True,
        "open-r1's config",
    ),
    Fitted(
        "OlympicCoder-7B, 2 rows of 32,768, 8 H100, ZeRO-3", "olympiccoder/7b.yaml", TWO_ROWS, False, True, UPDATE_3
    ),
    Fitted(
        "OlympicCoder-32B, a row of 22,528, 128 H100, FSDP", "olympiccoder/32b.yaml", (FLASH,), True, True, UPDATE_3
    ),
    Fitted(
        "OlympicCoder-32B, a row of 32,768, 128 H100, FSDP",
        "olympiccoder/32b.yaml",
        (FLASH, "trainer.max_length=32768"),
        True,
        False,
        UPDATE_3,
    ),
)


def fitted_rows() -> list[tuple[Fitted, float, bool]]:
    """Each run with its planned GiB on a GPU, and whether they fit."""
    return [(run, *run.planned_gib()) for run in FITTED]


def fitted_table(rows: Sequence[tuple[Fitted, float, bool]]) -> str:
    """In Markdown."""
    lines = ["| run | planned, GiB of 80 | planned to fit | did fit | source |", "|---|---|---|---|---|"]
    for run, gib, fits in rows:
        words = " | ".join("yes" if each else "no" for each in (fits, run.fitted))
        lines.append(f"| {run.name} | {gib:.0f} | {words} | {run.source} |")
    return "\n".join(lines)


# --- A run of the tiny pipeline


@dataclass(frozen=True)
class Measured:
    """Seconds of a part of a stage: planned as `make plan` does, with the run's own lengths, and as they were."""

    name: str
    planned: float
    with_lengths: float
    seconds: float


def measured_rows(run: Path) -> list[Measured]:
    """Stages of a pipeline that train or evaluate; of `grpo` the parts of a step. Of stages that are done."""
    rows: list[Measured] = []
    recipe = load_recipe(run / "recipe.yaml")
    stages = {stage.name: stage for stage in read_all(run, [])[1]}
    for plan in plans_of(recipe):
        stage = stages.get(plan.name)
        if stage is None or stage.record.get("status") != "done":
            continue
        if plan.recipe.step not in ("sft", "grpo", "evaluate"):
            continue
        assumptions = replace(plan.assumptions, **own_lengths(stage, plan))
        again = next(each for each in plans_of(recipe, assumptions) if each.name == plan.name)
        if plan.recipe.step == "grpo":
            sampling = stage.metrics["seconds/generation"].sum()
            measured = {"sampling": sampling, "training": stage.metrics["step_time"].sum() - sampling}
            for part in ("training", "sampling"):
                planned, with_lengths = plan.time.seconds[part], again.time.seconds[part]
                rows.append(Measured(f"{plan.name}: {part}", planned, with_lengths, measured[part]))
            continue
        name, seconds = f"{plan.name}, its start too", stage.record["seconds"]
        if plan.recipe.step == "evaluate":
            name, seconds = plan.name, sum(benchmark["seconds"] for benchmark in benchmarks_of(stage))
        rows.append(Measured(name, plan.hours * HOUR, again.hours * HOUR, seconds))
    return rows


def benchmarks_of(stage: Run) -> list[dict[str, Any]]:
    """What an evaluation wrote down of each model on each benchmark."""
    return [benchmark for model in stage.scores.values() for benchmark in model["benchmarks"].values()]


def own_lengths(stage: Run, plan: Plan) -> dict[str, float]:
    """The assumptions that a run's own records replace: mean tokens of its prompts, completions or rows."""
    if plan.recipe.step == "evaluate":
        lengths = [benchmark["tokens_per_answer"] for benchmark in benchmarks_of(stage)]
        return {"mean_completion_tokens": statistics.fmean(lengths)}
    num_tokens = stage.metrics["num_tokens"].dropna()
    tokens_per_row = num_tokens.iloc[-1] / (num_tokens.index[-1] * plan.work.rows_per_step)
    if plan.recipe.step == "sft":
        return {"tokens_per_row": tokens_per_row}
    completion = stage.metrics["completions/mean_length"].mean()
    return {"mean_completion_tokens": completion, "mean_prompt_tokens": max(1.0, tokens_per_row - completion)}


def measured_table(rows: Sequence[Measured]) -> str:
    """In Markdown."""
    lines = [
        "| part | planned, s | with own lengths, s | measured, s | planned / measured | own lengths / measured |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = f"{row.planned / row.seconds:.2f} | {row.with_lengths / row.seconds:.2f}"
        lines.append(f"| {row.name} | {row.planned:.0f} | {row.with_lengths:.0f} | {row.seconds:.0f} | {ratios} |")
    return "\n".join(lines)


# --- One thread of a CPU


def cpu_numbers(rounds: int = 5) -> dict[str, float]:
    """TFLOP/s of a matrix product and GB/s of a sum, both fp32 and far larger than the caches: the median of rounds."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import time

    import torch

    torch.set_num_threads(1)
    matrix, long = torch.rand(2048, 2048), torch.rand(2**26)

    def median_seconds(function) -> float:
        function()
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    product = median_seconds(lambda: matrix @ matrix)
    return {"tflops": 2 * 2048**3 / product / 1e12, "gb_per_second": long.nbytes / median_seconds(long.sum) / 1e9}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, however far a plan is off: it is told, not judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="of `make r1`, e.g. runs/tiny-r1/pipeline/latest")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.run is not None and not (arguments.run / "recipe.yaml").is_file():
        parser.error(f"{arguments.run}: there is no run; `make r1` makes one")
    published, fitted = published_rows(), fitted_rows()
    print(f"{published_table(published)}\n\n{fitted_table(fitted)}")
    result: dict[str, Any] = {
        "published": {run.name: hours / run.gpu_hours for run, hours in published},
        "fitted": {run.name: [gib, fits, run.fitted] for run, gib, fits in fitted},
    }
    if arguments.run is not None:
        rows = measured_rows(arguments.run)
        print(f"\n{measured_table(rows)}")
        result["measured"] = {row.name: [row.planned / row.seconds, row.with_lengths / row.seconds] for row in rows}
    if arguments.cpu:
        result["cpu"] = cpu_numbers()
        print(f"\none thread: {result['cpu']['tflops']:.3f} TFLOP/s, {result['cpu']['gb_per_second']:.1f} GB/s")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
