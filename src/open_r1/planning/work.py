"""How much a recipe does: tokens of an optimizer step, steps, tokens in all, and what is sampled."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.hub import hub_dataset
from open_r1.planning.assumptions import Assumptions
from open_r1.recipe import DataSource, Recipe, RecipeError
from open_r1.recipe.trainer_fields import trainer_value

# Problems of LightEval's tasks, as their data sets' cards give them.
NUM_PROBLEMS = {"math_500": 500, "aime24": 30, "aime25": 30, "gpqa_diamond": 198, "gsm8k": 1319}
GUESSED_PROBLEMS = 500


@dataclass(frozen=True)
class Sampling:
    """Completions that are sampled: `num_rollouts` times `completions`, all of which are waited for each time."""

    what: str
    model: str | None
    """As model.name; None: the policy itself."""
    completions: float
    num_rollouts: float
    prompt_tokens: float
    completion_tokens: float
    """Mean."""
    max_completion_tokens: int

    @property
    def tokens(self) -> float:
        return self.num_rollouts * self.completions * self.completion_tokens

    @property
    def longest_tokens(self) -> float:
        """What the longest of them is likely to have: lengths fall off exponentially, and are cut off at the most."""
        spread = math.log(max(1.0, self.completions)) + 0.58
        return min(self.max_completion_tokens, max(1.0, spread) * self.completion_tokens)


@dataclass(frozen=True)
class Work:
    """What is trained and sampled. `tokens_per_row` is a mean; `row_tokens` the most that a row can have."""

    rows_per_step: int = 0
    """Sequences of one optimizer step, over all processes."""
    tokens_per_row: float = 0.0
    row_tokens: int = 0
    steps: int | None = 0
    """None: how much data there is, nobody knows."""
    prompts_per_step: float | None = None
    sampling: tuple[Sampling, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tokens_per_step(self) -> float:
        return self.rows_per_step * self.tokens_per_row

    @property
    def tokens(self) -> float | None:
        return None if self.steps is None else self.steps * self.tokens_per_step


def work_of(recipe: Recipe, assumptions: Assumptions, max_positions: int | None = None) -> Work:
    """The work of one step (not of a pipeline). `max_positions` limits rows where the recipe does not.

    Raises RecipeError if a data set is unknown.
    """
    if recipe.step == "evaluate":
        return _of_evaluation(recipe, assumptions)
    if recipe.step == "grpo":
        return _of_grpo(recipe, assumptions, max_positions)
    rows, tokens_per_row, notes = _data_of(recipe, assumptions)
    most = row_tokens(recipe, assumptions, max_positions)
    if recipe.step == "distill":
        return _of_distillation(recipe, assumptions, rows, most, notes)
    if tokens_per_row is None:
        tokens_per_row = most
        notes = [*notes, f"tokens per row are not known: an upper bound, as if each had max_length ({most:,})"]
    return _of_supervised(recipe, rows, min(most, tokens_per_row), most, notes)


def row_tokens(recipe: Recipe, assumptions: Assumptions, max_positions: int | None = None) -> int:
    """The most tokens that a row of training can have. In GRPO a row is a prompt and its completion."""
    if recipe.step == "grpo":
        server = recipe.hardware.vllm
        limit = recipe.trainer.get("vllm_max_model_length") or (server.max_model_length if server else None)
        both = assumptions.longest_prompt_tokens + trainer_value("grpo", recipe.trainer, "max_completion_length")
        return limit or min(both, max_positions or both)
    most = trainer_value(recipe.step, recipe.trainer, "max_length") or max_positions
    if most is None:
        raise RecipeError(
            f"{recipe.source}: trainer.max_length: null, and the model's config has no longest row; set it"
        )
    return most


def mean_prompt(longest_row: int, longest_completion: int, assumptions: Assumptions) -> float:
    """Mean tokens of a prompt; where there is little room for one, half of the room."""
    return min(assumptions.mean_prompt_tokens, max(1.0, (longest_row - longest_completion) / 2))


def is_packed(recipe: Recipe) -> bool:
    """True if rows of supervised data are laid end to end until a row is full."""
    return recipe.step != "grpo" and bool(trainer_value(recipe.step, recipe.trainer, "packing"))


def num_rows_of(recipe: Recipe, source: DataSource) -> int | None:
    """Rows of a source, `fraction` taken; None if nobody knows. Raises RecipeError for an unknown data set or split."""
    if source.procedural:
        rows = source.procedural.num_problems
    elif source.path:
        rows = _rows_of_file(recipe.path(source.path))
    else:
        known = hub_dataset(source.name).rows
        keys = [f"{source.config}/{source.split}" if source.config else source.split, f"default/{source.split}"]
        rows = next((known[key] for key in keys if key in known), None)
        if rows is None:
            raise RecipeError(
                f"{recipe.source}: data: {source.name} has no {keys[0]!r} that is known (known: {', '.join(known)}); "
                f"add it to recipes/hub/datasets.yaml"
            )
    return None if rows is None else max(1, round(rows * source.fraction))


def _rows_of_file(file: Path) -> int | None:
    if not file.is_file():
        return None
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(file).num_rows
    with file.open(encoding="utf-8", newline="") as lines:
        if file.suffix == ".jsonl":
            return sum(1 for line in lines if line.strip())
        return sum(1 for _ in csv.reader(lines)) - 1 if file.suffix == ".csv" else None


def _data_of(recipe: Recipe, assumptions: Assumptions) -> tuple[int | None, float | None, list[str]]:
    """Rows, their mean tokens (None: unknown), notes."""
    if assumptions.rows is not None:
        return assumptions.rows, assumptions.tokens_per_row, []
    counts = [num_rows_of(recipe, source) for source in recipe.data]
    rows = None if None in counts else sum(counts)
    if assumptions.tokens_per_row is not None or rows is None:
        return rows, assumptions.tokens_per_row, []
    means = [hub_dataset(source.name).tokens_per_row if source.name else None for source in recipe.data]
    if None in means:
        return rows, None, []
    return rows, sum(count * mean for count, mean in zip(counts, means, strict=True)) / rows, []


def _of_supervised(recipe: Recipe, rows: float | None, mean: float, most: int, notes: Iterable[str]) -> Work:
    trainer, notes = recipe.trainer, list(notes)
    per_process = _value(recipe, "per_device_train_batch_size") * _value(recipe, "gradient_accumulation_steps")
    per_step = per_process * recipe.hardware.num_processes
    if is_packed(recipe):
        rows = None if rows is None else rows * mean / most
        mean = most
    steps = trainer.get("max_steps", -1)
    if steps <= 0:
        epochs = trainer.get("num_train_epochs", 3)  # transformers' default
        steps = None if rows is None else math.ceil(epochs * math.ceil(rows / per_step))
        if rows is None:
            notes.append("rows of the data are not known: give --rows, or trainer.max_steps")
    return Work(per_step, mean, most, steps, notes=tuple(notes))


def _of_grpo(recipe: Recipe, assumptions: Assumptions, max_positions: int | None) -> Work:
    trainer = recipe.trainer
    per_device, micro_steps = (
        _value(recipe, "per_device_train_batch_size"),
        _value(recipe, "gradient_accumulation_steps"),
    )
    processes, group = recipe.hardware.num_processes, _value(recipe, "num_generations")
    iterations = _value(recipe, "num_iterations") or 1
    per_step = per_device * micro_steps * processes
    rollout = _value(recipe, "generation_batch_size") or (
        per_device * processes * (_value(recipe, "steps_per_generation") or micro_steps)
    )
    notes = []
    steps = trainer.get("max_steps", -1)
    if steps <= 0:
        rows, _, _ = _data_of(recipe, assumptions)
        epochs = trainer.get("num_train_epochs", 3)
        steps = None if rows is None else math.ceil(epochs * rows * group * iterations / per_step)
        if rows is None:
            notes.append("rows of the data are not known: give --rows, or trainer.max_steps")
    longest = _value(recipe, "max_completion_length")
    mean = mean_completion(longest, assumptions)
    if assumptions.mean_completion_tokens is None:
        notes.append(f"completion length is assumed: {mean:,.0f} tokens in the mean (--mean-completion-tokens)")
    rollouts = (steps or 0) * per_step / iterations / rollout
    row = row_tokens(recipe, assumptions, max_positions)
    prompt = mean_prompt(row, longest, assumptions)
    sampled = Sampling("rollouts", None, rollout, rollouts, prompt, mean, longest)
    return Work(
        rows_per_step=per_step,
        tokens_per_row=prompt + mean,
        row_tokens=row,
        steps=steps,
        prompts_per_step=per_step / group / iterations,
        sampling=(sampled,),
        notes=tuple(notes),
    )


def _of_distillation(
    recipe: Recipe, assumptions: Assumptions, rows: int | None, most: int, notes: Iterable[str]
) -> Work:
    section, processes = recipe.distill, recipe.hardware.num_processes
    mean = mean_completion(section.max_completion_length, assumptions)
    if rows is None:
        return Work(row_tokens=most, steps=None, notes=(*notes, "rows of the data are not known: give --rows"))
    traces = rows * section.samples
    prompt = mean_prompt(most, section.max_completion_length, assumptions)
    kept = min(traces * assumptions.kept_share, rows * (section.max_kept_per_prompt or math.inf))
    kept = min(kept, section.max_traces or math.inf)
    at_once = min(traces, section.batch_size * processes)
    sampled = Sampling(
        "the teacher's traces",
        section.teacher,
        at_once,
        traces / at_once,
        prompt,
        mean,
        section.max_completion_length,
    )
    tokens = min(most, prompt + mean)
    note = f"{kept:,.0f} of {traces:,} traces are taken to be kept, their completions to have {mean:,.0f} tokens"
    work = _of_supervised(recipe, kept, tokens, most, (*notes, note))
    return Work(work.rows_per_step, work.tokens_per_row, most, work.steps, None, (sampled,), work.notes)


def _of_evaluation(recipe: Recipe, assumptions: Assumptions) -> Work:
    section, notes, sampled = recipe.evaluate, [], []
    for name in section.benchmarks:
        if name not in BENCHMARKS:
            continue  # told by `make check`
        benchmark = BENCHMARKS[name]
        problems, known = _num_problems(name, benchmark)
        if section.num_problems is not None:
            problems = min(problems, section.num_problems) if known else section.num_problems
        elif not known:
            notes.append(f"{name}: how many problems it has is not known here; {problems} are assumed")
        most = section.max_new_tokens or benchmark.max_new_tokens
        completions = problems * (section.samples or benchmark.samples)
        at_once = min(completions, section.batch_size)
        for label, model in (section.models or {"model": recipe.model.name}).items():
            sampled.append(
                Sampling(
                    f"{name}, {label}",
                    model,
                    at_once,
                    completions / at_once,
                    assumptions.mean_prompt_tokens,
                    mean_completion(most, assumptions),
                    most,
                )
            )
    return Work(sampling=tuple(sampled), notes=tuple(notes))


def _num_problems(name: str, benchmark: Benchmark) -> tuple[int, bool]:
    if benchmark.procedural is not None:
        return benchmark.procedural.num_problems, True
    return NUM_PROBLEMS.get(name, GUESSED_PROBLEMS), name in NUM_PROBLEMS


def mean_completion(most: int, assumptions: Assumptions) -> float:
    """Mean tokens of a completion that may have at most so many."""
    return min(most, assumptions.mean_completion_tokens or assumptions.mean_completion_share * most)


def _value(recipe: Recipe, key: str):
    return trainer_value(recipe.step, recipe.trainer, key)
