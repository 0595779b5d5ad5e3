"""How much a recipe does: tokens of an optimizer step, steps, tokens in all, and what is sampled."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.data import mixture_counts
from open_r1.hub import hub_dataset
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.start import recipe_at
from open_r1.recipe import STAGE_REFERENCE, DataSource, Endpoint, Generate, Recipe, RecipeError
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
class Rows:
    """Rows of data and their mean tokens, prompt and answer together; None where nobody knows."""

    number: float | None
    tokens: float | None


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
    kept: Rows | None = None
    """Of a step that samples: the rows of its kept/; those of prompts/ are `prompts`."""
    prompts: Rows | None = None

    @property
    def tokens_per_step(self) -> float:
        return self.rows_per_step * self.tokens_per_row

    @property
    def tokens(self) -> float | None:
        return None if self.steps is None else self.steps * self.tokens_per_step


def work_of(
    recipe: Recipe,
    assumptions: Assumptions,
    max_positions: int | None = None,
    stages: Mapping[str, Work] | None = None,
) -> Work:
    """The work of one step (not of a pipeline). `max_positions` limits rows where the recipe does not.

    `stages` is the work of a pipeline's earlier ones, whose traces `stage:x` means. Raises RecipeError if a data set is
    unknown.
    """
    if recipe.step == "evaluate":
        return _of_evaluation(recipe, assumptions)
    if recipe.step == "grpo":
        return _of_grpo(recipe, assumptions, max_positions, stages)
    most = row_tokens(recipe, assumptions, max_positions)
    data, notes = _data_of(recipe, assumptions, stages)
    if recipe.step == "generate":
        return _of_generation(recipe, assumptions, recipe.generate, recipe.model.name, data, most, notes)
    if recipe.step == "distill":
        return _of_distillation(recipe, assumptions, data, most, notes)
    if data.tokens is None:
        notes = [*notes, f"tokens per row are not known: an upper bound, as if each had max_length ({most:,})"]
    return _of_supervised(recipe, data.number, min(most, data.tokens or most), most, notes)


def row_tokens(recipe: Recipe, assumptions: Assumptions, max_positions: int | None = None) -> int:
    """The most tokens that a row can have. Where completions are sampled a row is a prompt and its completion."""
    if recipe.step == "grpo":
        server = recipe.hardware.vllm
        limit = recipe.trainer.get("vllm_max_model_length") or (server.max_model_length if server else None)
        both = assumptions.longest_prompt_tokens + trainer_value("grpo", recipe.trainer, "max_completion_length")
        return limit or min(both, max_positions or both)
    if recipe.step == "generate":
        both = assumptions.longest_prompt_tokens + recipe.generate.max_completion_length
        server = recipe.hardware.vllm
        return (server.max_model_length if server else None) or min(both, max_positions or both)
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


def rows_of(
    recipe: Recipe, source: DataSource, assumptions: Assumptions, stages: Mapping[str, Work] | None = None
) -> Rows:
    """Rows of a source, `fraction` taken, and their mean tokens. Raises RecipeError for an unknown data set."""
    if source.procedural:
        rows = Rows(source.procedural.num_problems, None)
    elif source.path:
        rows = _rows_at(recipe, source.path, assumptions, stages or {})
    else:
        known = hub_dataset(source.name)
        keys = [f"{source.config}/{source.split}" if source.config else source.split, f"default/{source.split}"]
        number = next((known.rows[key] for key in keys if key in known.rows), None)
        if number is None:
            raise RecipeError(
                f"{recipe.source}: data: {source.name} has no {keys[0]!r} that is known (known: "
                f"{', '.join(known.rows)}); add it to recipes/hub/datasets.yaml"
            )
        rows = Rows(number, known.tokens_per_row)
    return rows if rows.number is None else replace(rows, number=max(1, round(rows.number * source.fraction)))


def _rows_at(recipe: Recipe, value: str, assumptions: Assumptions, stages: Mapping[str, Work]) -> Rows:
    """What is in a file or folder; if no run has made it yet, what a stage or recipe is planned to leave there."""
    unknown = Rows(None, None)
    if value.startswith(STAGE_REFERENCE):
        stage, _, folder = value.removeprefix(STAGE_REFERENCE).partition("/")
        return _left_by(stages.get(stage), folder) or unknown
    path = recipe.path(value)
    if path.is_file():
        return Rows(_rows_of_file(path), None)
    maker = recipe_at(path)
    samples = maker is not None and maker.step in ("generate", "distill")
    planned = _left_by(work_of(maker, assumptions) if samples else None, path.name) or unknown
    number = sum(
        _rows_of_file(file) for file in path.glob("*.parquet")
    )  # of a run that has been; its lengths as planned
    return replace(planned, number=number) if number else planned


def _left_by(work: Work | None, folder: str) -> Rows | None:
    """The rows that a step which samples leaves in kept/ or prompts/; None if it samples nothing, or nobody knows."""
    if work is None:
        return None
    return work.prompts if folder == "prompts" else work.kept


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


def _data_of(
    recipe: Recipe, assumptions: Assumptions, stages: Mapping[str, Work] | None = None
) -> tuple[Rows, list[str]]:
    """Rows of the data with their mean tokens, and notes. A mixture has as many rows as it says."""
    if assumptions.rows is not None and recipe.mixture is None:
        return Rows(assumptions.rows, assumptions.tokens_per_row), []
    sources = [rows_of(recipe, source, assumptions, stages) for source in recipe.data]
    notes = [
        f"data.{index}.where: how many rows are within it nobody knows; all are counted"
        for index, source in enumerate(recipe.data)
        if source.where and recipe.mixture is None
    ]
    if recipe.mixture is None:
        counts = [source.number for source in sources]
        if None in counts:
            return Rows(None, assumptions.tokens_per_row), notes
    else:
        counts = mixture_counts([source.weight for source in recipe.data], recipe.mixture.num_rows)
        notes += _shortages(recipe, counts, sources)
    mean = assumptions.tokens_per_row
    if mean is None and None not in [source.tokens for source in sources]:
        mean = sum(count * source.tokens for count, source in zip(counts, sources, strict=True)) / sum(counts)
    return Rows(sum(counts), mean), notes


def _shortages(recipe: Recipe, counts: Iterable[int], sources: Iterable[Rows]) -> Iterable[str]:
    """A note for each source of a mixture that is planned to have fewer rows than its share, or of which none knows."""
    for index, (count, source) in enumerate(zip(counts, sources, strict=True)):
        if source.number is None:
            yield f"data.{index}: how many rows it has nobody knows; its share of the mixture is {count:,}"
        elif source.number < count and not recipe.mixture.repeat:
            yield f"data.{index}: {source.number:,.0f} rows are planned, but its share of the mixture is {count:,}"


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


def _of_grpo(
    recipe: Recipe, assumptions: Assumptions, max_positions: int | None, stages: Mapping[str, Work] | None
) -> Work:
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
        data, notes = _data_of(recipe, assumptions, stages)
        rows = data.number
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


def _of_distillation(recipe: Recipe, assumptions: Assumptions, data: Rows, most: int, notes: Iterable[str]) -> Work:
    sampled = _of_generation(recipe, assumptions, recipe.distill, recipe.distill.teacher, data, most, notes)
    if sampled.kept is None:
        return sampled
    kept = sampled.kept
    work = _of_supervised(recipe, kept.number, min(most, kept.tokens), most, sampled.notes)
    return replace(work, sampling=sampled.sampling, kept=kept, prompts=sampled.prompts)


def _of_generation(
    recipe: Recipe,
    assumptions: Assumptions,
    section: Generate,
    model: str | None,
    data: Rows,
    most: int,
    notes: Iterable[str],
) -> Work:
    """The traces of a model, and which of them are kept; no training."""
    if data.number is None:
        return Work(row_tokens=most, steps=None, notes=(*notes, "rows of the data are not known: give --rows"))
    keep, prompts = recipe.keep, data.number
    traces = prompts * section.samples
    mean = mean_completion(section.max_completion_length, assumptions)
    prompt = mean_prompt(most, section.max_completion_length, assumptions)
    verified = assumptions.kept_share if recipe.rewards else 1.0
    kept = prompts * kept_of_a_prompt(section.samples, verified, keep.max_per_prompt)
    kept = min(kept, keep.max_traces or math.inf)
    at_once = min(traces, completions_awaited(recipe, section))
    what = "the teacher's traces" if recipe.step == "distill" else "traces"
    sampled = Sampling(what, model, at_once, traces / at_once, prompt, mean, section.max_completion_length)
    notes = [
        *notes,
        f"{kept:,.0f} of {traces:,.0f} traces are taken to be kept, their completions to have {mean:,.0f} tokens",
    ]
    if section.endpoint is not None:
        notes.append(f"{recipe.step}.endpoint samples: what it needs and how long it takes is not planned")
    return Work(
        row_tokens=most,
        sampling=(sampled,),
        notes=tuple(notes),
        kept=Rows(kept, prompt + mean),
        prompts=Rows(prompts, None),
    )


def kept_of_a_prompt(samples: int, verified_share: float, most: int | None) -> float:
    """Mean number of a prompt's completions that are kept, if each is verified with the same chance, at most `most`."""
    chances = (
        math.comb(samples, number) * verified_share**number * (1 - verified_share) ** (samples - number)
        for number in range(samples + 1)
    )
    return sum(chance * min(number, most or number) for number, chance in enumerate(chances))


def completions_awaited(recipe: Recipe, section: Generate) -> int:
    """Completions of which the last is waited for before more are sampled.

    By transformers a batch of each process; by a server, which makes its own batches, a file of each process.
    """
    processes = recipe.hardware.num_processes
    if recipe.hardware.vllm is None and section.endpoint is None:
        return section.batch_size * processes
    return section.prompts_per_shard * section.samples * processes


def endpoint_of(recipe: Recipe) -> Endpoint | None:
    """The server, not started by the recipe, that samples for it; None if there is none."""
    section = {"evaluate": recipe.evaluate, "distill": recipe.distill, "generate": recipe.generate}.get(recipe.step)
    return section.endpoint if section else None


def trains(recipe: Recipe) -> bool:
    """False for the steps that only ask a model."""
    return recipe.step not in ("generate", "evaluate")


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
        served = recipe.hardware.vllm is not None or section.endpoint is not None
        at_once = completions if served else min(completions, section.batch_size)
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
    if section.endpoint is not None:
        notes.append("evaluate.endpoint samples: what it needs and how long it takes is not planned")
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
