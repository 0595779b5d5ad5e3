"""How much a recipe does: tokens of an optimizer step, steps, tokens in all, and what is sampled."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from open_r1.benchmarks.table import BENCHMARKS, Benchmark
from open_r1.data import mixture_counts
from open_r1.feedback.orders import units_of
from open_r1.hub import hub_dataset
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.start import recipe_at
from open_r1.recipe import STAGE_REFERENCE, DataSource, Endpoint, Generate, Judge, Recipe, RecipeError, Reward
from open_r1.recipe.trainer_fields import trainer_value
from open_r1.rewards import models_of_rewards

# Problems of LightEval's tasks, as their data sets' cards give them.
NUM_PROBLEMS = {"math_500": 500, "aime24": 30, "aime25": 30, "gpqa_diamond": 198, "gsm8k": 1319}
GUESSED_PROBLEMS = 500
STEPS_OF_PAIRS = ("dpo", "reward_model")
EVALUATIONS = "evaluations"


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
    def number(self) -> float:
        """Completions in all."""
        return self.num_rollouts * self.completions

    @property
    def tokens(self) -> float:
        return self.number * self.completion_tokens

    @property
    def longest_tokens(self) -> float:
        """What the longest of them is likely to have: lengths fall off exponentially, and are cut off at the most."""
        spread = math.log(max(1.0, self.completions)) + 0.58
        return min(self.max_completion_tokens, max(1.0, spread) * self.completion_tokens)


@dataclass(frozen=True)
class Rows:
    """Rows of data and their mean tokens, prompt and answer together (of a pair: and one of its answers); None where
    nobody knows."""

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
    pairs_per_step: int | None = None
    """Of each both sequences are counted in `rows_per_step`."""
    sampling: tuple[Sampling, ...] = ()
    notes: tuple[str, ...] = ()
    kept: Rows | None = None
    """Of a step that samples: the rows of its kept/; those of prompts/ are `prompts`."""
    prompts: Rows | None = None
    judging: Sampling | None = None
    """Verdicts of an AI judge, each answer to a request of its own."""
    tokens_of_reward_models: Mapping[int, float] = field(default_factory=dict)
    """Position of a reward -> tokens, prompts and completions, that its model reads in all."""

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
        return _rated(recipe, assumptions, _of_grpo(recipe, assumptions, max_positions, stages), stages)
    most = row_tokens(recipe, assumptions, max_positions)
    data, notes = _data_of(recipe, assumptions, stages)
    if (section := asking_section(recipe)) is not None:
        work = _of_generation(recipe, assumptions, section, recipe.model.name, data, most, notes)
        return _rated(recipe, assumptions, work, stages)
    if recipe.step == "distill":
        return _rated(recipe, assumptions, _of_distillation(recipe, assumptions, data, most, notes), stages)
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
    if (section := asking_section(recipe)) is not None:
        both = assumptions.longest_prompt_tokens + section.max_completion_length
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
    if recipe.step in ("grpo", *STEPS_OF_PAIRS):
        return False
    return bool(trainer_value(recipe.step, recipe.trainer, "packing"))


def asking_section(recipe: Recipe) -> Generate | None:
    """How prompts are answered in a step that only samples; None for other steps."""
    return {"generate": recipe.generate, "preferences": recipe.preferences}.get(recipe.step)


def rows_of(
    recipe: Recipe, source: DataSource, assumptions: Assumptions, stages: Mapping[str, Work] | None = None
) -> Rows:
    """Rows of a source that are used, and their mean tokens. Raises RecipeError for an unknown data set."""
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
    start, end = source.part or (0.0, source.fraction)
    return rows if rows.number is None else replace(rows, number=max(1, round(rows.number * (end - start))))


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
    samples = maker is not None and maker.step in ("generate", "preferences", "distill")
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
    per_step = per_process * recipe.hardware.num_processes  # of pairs, two sequences each
    if is_packed(recipe):
        rows = None if rows is None else rows * mean / most
        mean = most
    steps = trainer.get("max_steps", -1)
    if steps <= 0:
        epochs = trainer.get("num_train_epochs", 3)  # transformers' default
        steps = None if rows is None else math.ceil(epochs * math.ceil(rows / per_step))
        if rows is None:
            notes.append("rows of the data are not known: give --rows, or trainer.max_steps")
    if recipe.step in STEPS_OF_PAIRS:
        return Work(2 * per_step, mean, most, steps, pairs_per_step=per_step, notes=tuple(notes))
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
    sampled = [Sampling("rollouts", None, rollout, rollouts, prompt, mean, longest)]
    if times := num_evaluations(recipe, steps):
        problems = [rows_of(recipe, source, assumptions, stages).number for source in recipe.eval_data]
        if None in problems:
            notes.append("how many rows eval_data has nobody knows: what evaluations sample is not planned")
        else:
            answers = sum(problems) * evaluated_samples(recipe)
            at_once = min(answers, _value(recipe, "per_device_eval_batch_size") * processes)
            sampled.append(Sampling(EVALUATIONS, None, at_once, times * answers / at_once, prompt, mean, longest))
    return Work(
        rows_per_step=per_step,
        tokens_per_row=prompt + mean,
        row_tokens=row,
        steps=steps,
        prompts_per_step=per_step / group / iterations,
        sampling=tuple(sampled),
        notes=tuple(notes),
    )


def num_evaluations(recipe: Recipe, steps: int | None) -> int:
    """How often GRPO looks at eval_data in so many steps (None: nobody knows, and it is taken to be once)."""
    strategy = _value(recipe, "eval_strategy")
    if not recipe.eval_data or strategy == "no":
        return 0
    at_start = 1 if _value(recipe, "eval_on_start") else 0
    if strategy == "epoch":
        return at_start + math.ceil(recipe.trainer.get("num_train_epochs", 3))
    every = _value(recipe, "eval_steps") or _value(recipe, "logging_steps")
    every = max(1, math.ceil(every * (steps or 0))) if every < 1 else every  # below 1 it is a share of the steps
    return at_start + (1 if steps is None else math.ceil(steps // every))


def evaluated_samples(recipe: Recipe) -> int:
    """Answers to each problem of eval_data."""
    return _value(recipe, "num_generations_eval") or _value(recipe, "num_generations")


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
    """The traces of a model, and which of them are kept, or how many pairs they make; no training."""
    if data.number is None:
        return Work(row_tokens=most, steps=None, notes=(*notes, "rows of the data are not known: give --rows"))
    prompts = data.number
    traces = prompts * section.samples
    mean = mean_completion(section.max_completion_length, assumptions)
    prompt = mean_prompt(most, section.max_completion_length, assumptions)
    kept, told = _kept(recipe, assumptions, prompts, section.samples)
    at_once = min(traces, completions_awaited(recipe, section))
    what = {"distill": "the teacher's traces", "preferences": "answers"}.get(recipe.step, "traces")
    sampled = Sampling(what, model, at_once, traces / at_once, prompt, mean, section.max_completion_length)
    notes = [
        *notes,
        f"{kept:,.0f} {told} are taken to be kept, their completions to have {mean:,.0f} tokens",
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


def _kept(recipe: Recipe, assumptions: Assumptions, prompts: float, samples: int) -> tuple[float, str]:
    """How many traces or pairs are taken to be kept, and of how many of what."""
    if recipe.step == "preferences":
        pairs = min(prompts * assumptions.pair_share, recipe.preferences.max_pairs or math.inf)
        return pairs, f"pairs of {prompts:,.0f} prompts"
    verified = assumptions.kept_share if recipe.rewards else 1.0
    kept = prompts * kept_of_a_prompt(samples, verified, recipe.keep.max_per_prompt)
    return min(kept, recipe.keep.max_traces or math.inf), f"of {prompts * samples:,.0f} traces"


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
    section = recipe.evaluate if recipe.step == "evaluate" else asking_section(recipe) or recipe.distill
    return section.endpoint if section else None


def trains(recipe: Recipe) -> bool:
    """False for the steps that only ask a model."""
    return recipe.step not in ("generate", "preferences", "evaluate")


def _rated(recipe: Recipe, assumptions: Assumptions, work: Work, stages: Mapping[str, Work] | None) -> Work:
    """The work with what an AI judge and reward models do of it."""
    if not work.sampling:
        return work
    sampled, notes = work.sampling[0], list(work.notes)
    judges = [reward for reward in recipe.rewards if reward.name == "judge"]
    if recipe.step == "preferences":
        share = 1.0
    else:
        share = sum(_asked_share(recipe, reward, work, assumptions, stages) for reward in judges)
    if recipe.judge is not None and (judges or recipe.step == "preferences"):
        evaluated = sum(_share_of_problems(recipe, reward, assumptions, stages) for reward in judges)
        work = replace(work, judging=_judging(recipe, assumptions, work, share, evaluated))
        notes.append("the judge is taken to read whole completions; with `sees: answer` in its rubric it reads less")
        if recipe.judge.endpoint is not None:
            notes.append("judge.endpoint judges: how long it takes is not planned")
    for index, reward in enumerate(recipe.rewards):
        if reward.name == "reward_model" and reward.parameters.get("endpoint"):
            notes.append(f"rewards.{index}.endpoint rewards: what it needs and how long it takes is not planned")
    read: dict[int, float] = {}
    for index, _ in models_of_rewards(recipe):
        reward = recipe.rewards[index]
        if recipe.step != "grpo":
            notes.append(f"rewards.{index}: what its model needs is planned of step grpo alone")
            continue
        share = _asked_share(recipe, reward, work, assumptions, stages)
        rated = share * sampled.number
        rated += sum(each.number for each in work.sampling[1:]) * _share_of_problems(
            recipe, reward, assumptions, stages
        )
        read[index] = rated * (sampled.prompt_tokens + sampled.completion_tokens)
        if recipe.hardware.gpus_per_node and reward.parameters.get("dtype", "float32") == "float32":
            notes.append(f"rewards.{index}: float32 takes longer on a GPU than is planned; set its dtype: bfloat16")
    return replace(work, tokens_of_reward_models=read, notes=tuple(notes))


def _asked_share(
    recipe: Recipe,
    reward: Reward,
    work: Work,
    assumptions: Assumptions,
    stages: Mapping[str, Work] | None,
) -> float:
    """Share of a run's completions that get a value from a reward: by the steps in which it counts, and by its tasks.

    Where the data says the tasks, nobody knows how many rows each has: all are counted.
    """
    share = 1.0
    if recipe.step == "grpo" and work.steps:
        last = min(reward.last_step or work.steps, work.steps)
        share = max(0, last - reward.first_step + 1) / work.steps
    if recipe.mixture is not None:
        counts = mixture_counts([source.weight for source in recipe.data], recipe.mixture.num_rows)
    else:
        counts = [rows_of(recipe, source, assumptions, stages).number for source in recipe.data]
    return share * _share_for(reward, recipe.data, counts)


def _share_of_problems(
    recipe: Recipe, reward: Reward, assumptions: Assumptions, stages: Mapping[str, Work] | None
) -> float:
    """Share of the answers to eval_data that get a value from a reward, as if it counted in all steps."""
    counts = [rows_of(recipe, source, assumptions, stages).number for source in recipe.eval_data]
    return _share_for(reward, recipe.eval_data, counts)


def _share_for(reward: Reward, sources: Sequence[DataSource], counts: Sequence[float | None]) -> float:
    """Share of the rows of these sources that a reward is for; all, where nobody knows."""
    if reward.tasks is None or any("task" in source.columns for source in sources) or None in counts or not sources:
        return 1.0
    return sum(count for count, source in zip(counts, sources, strict=True) if reward.is_for(source.task)) / sum(counts)


def _judging(recipe: Recipe, assumptions: Assumptions, work: Work, share: float, evaluated_share: float) -> Sampling:
    """The verdicts on these shares of the completions; who gives them waits for those, and is waited for."""
    section, hardware, sampled = recipe.judge, recipe.hardware, work.sampling[0]
    asking = asking_section(recipe) or recipe.distill
    group = asking.samples if asking else _value(recipe, "num_generations")
    requests_a_prompt = _num_requests(section, group)
    requests = share * sampled.number / group * requests_a_prompt
    for evaluations in work.sampling[1:]:
        samples = evaluated_samples(recipe)
        requests += evaluated_share * evaluations.number / samples * _num_requests(section, samples)
    prompts_awaited = asking.prompts_per_shard * hardware.num_processes if asking else sampled.completions / group
    at_once = min(requests, prompts_awaited * requests_a_prompt)
    if section.endpoint is None and hardware.judge is None:
        at_once = min(at_once, section.batch_size * hardware.num_processes)
    read = sampled.prompt_tokens + assumptions.rubric_tokens + section.candidates * sampled.completion_tokens
    written = assumptions.mean_verdict_tokens or assumptions.mean_completion_share * section.max_completion_length
    written = min(section.max_completion_length, written)
    rounds = requests / at_once if at_once else 0.0
    return Sampling("verdicts", section.name, at_once, rounds, read, written, section.max_completion_length)


def _num_requests(section: Judge, num_answers: int) -> int:
    """Requests to judge so many answers to a prompt, if they are all different."""
    different = [str(number) for number in range(num_answers)]
    return sum(len(unit) for unit in units_of([], different, section.judgements, section.candidates))


def longest_request(recipe: Recipe, assumptions: Assumptions) -> int:
    """Tokens of the longest request to the judge, and of its verdict."""
    asking = asking_section(recipe) or recipe.distill
    longest = asking.max_completion_length if asking else _value(recipe, "max_completion_length")
    shown = assumptions.longest_prompt_tokens + recipe.judge.candidates * longest
    return round(assumptions.rubric_tokens) + shown + recipe.judge.max_completion_length


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
