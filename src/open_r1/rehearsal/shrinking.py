"""A recipe -> the recipe of its rehearsal: the same one, so small that a CPU is done with it in seconds.

Nothing is changed but the keys of CHANGES; that is looked at each time. All else is used as it is written: rewards with
their parameters and weights, template, loss, schedule, adapters, packing, reference model, guards, stages.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from open_r1.benchmarks.table import BENCHMARKS
from open_r1.places import RUNS
from open_r1.recipe import STAGE_REFERENCE, Recipe, dump_recipe, parse_recipe
from open_r1.recipe.loop import references_in
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS, steps_per_rollout, trainer_value
from open_r1.rehearsal.judge import MODEL, url_of_judge, url_of_reward_model
from open_r1.rehearsal.rows import FixtureRows, KeptRows
from open_r1.rehearsal.stand_ins import StandIn, stand_in_of
from open_r1.rewards import models_of_rewards, settable_parameters
from open_r1.stages import stage_recipe

STEPS = 2
MAX_PROCESSES = 2
MAX_GROUP = 4
MAX_MICRO_STEPS = 2
MAX_TOKENS = 2048  # of a training row; all fixture rows are shorter, so that their EOS is trained
MAX_COMPLETION_TOKENS = 64
MAX_PROBLEMS = 4  # of a benchmark
ROWS_PER_PROMPT = 4  # dynamic sampling and evaluation take more prompts than a step has
ROWS_PACKED_IN_ONE = 8
PROMPTS_TO_ANSWER = 8
PROMPTS_TO_COMPARE = 64  # of which some have two answers that end, and so a pair
SAMPLES_OF_TEACHER = 4  # an untrained one seldom ends its answer
KEEPS_ALL = {"min_reward": -1000.0, "min_tokens": None, "max_tokens": None, "language": None}
KEEPS_ALL |= {"max_paragraph_words": None, "code_in_thinking": True, "max_similarity": None}
KEEPS_PAIRS = {"min_margin": 0.0, "max_length_ratio": None, "balance_lengths": False, "max_pairs": None}
STEPS_OF_PAIRS = ("dpo", "reward_model")
BENCHMARK = "tiny_sums"
LIVELY_REWARD = {"name": "open_r1.rehearsal.liveliness:number_of_characters", "weight": 1.0, "shuffled": False}
# What stands in for the accelerate configs where there is no GPU. DeepSpeed and FSDP run with DDP's processes: that
# they end with the same weights is tests/test_sharding.py's to show.
ACCELERATE_ON_CPU = {"cpu": "cpu", "one_gpu": "cpu", "ddp": "cpu", "zero2": "cpu", "zero3": "cpu", "fsdp2": "cpu"}

WEIGHTS = "the model's weights and size"
# Key -> (what is not rehearsed, for the result's line; why it is changed). `*` stands for a part between dots, or for
# some of its letters; the first pattern that fits counts.
CHANGES: dict[str, tuple[str | None, str]] = {
    "model.name": (WEIGHTS, "the same architecture, shrunk, with random weights"),
    "model.revision": (None, "the stand-in lies on this disk"),
    "model.dtype": ("half precision weights", "a CPU trains in float32"),
    "model.attn_implementation": ("its attention kernels", "they are the GPU's"),
    "*data.*.name": ("the data itself", "rows of the same schema, written for rehearsals"),
    "*data.*.path": (None, "where rows are that were written for rehearsals"),
    "*data.*.config": (None, "of the Hub's data set"),
    "*data.*.revision": (None, "of the Hub's data set"),
    "*data.*.split": (None, "of the Hub's data set; a file has one"),
    "*data.*.procedural.num_problems": (None, "as many as two steps need"),
    "rewards.*.sandbox": ("the sandbox {before}", "the local one needs no account"),
    "rewards.*.cache_tokens": (None, "has to fit in max_completion_length"),
    "rewards.*.model": (WEIGHTS, "as the model"),
    "rewards.*.endpoint": ("the reward model", "a server on this machine gives rewards that say nothing"),
    "rewards.*.revision": (None, "the stand-in lies on this disk"),
    "rewards.*.dtype": ("half precision weights", "a CPU computes in float32"),
    "rewards.*.first_step": (None, "it counts in the second rollout, or in the first if that is all"),
    "rewards.*.last_step": (None, "it counts in one rollout"),
    "rewards.*": (None, "added: an untrained model's groups would all be dead"),
    "trainer.max_steps": (None, "two optimizer steps"),
    "trainer.max_length": (None, "short rows"),
    "trainer.max_completion_length": (None, "short completions"),
    "trainer.per_device_*_batch_size": (None, "a small batch"),
    "trainer.gradient_accumulation_steps": (None, "a small batch"),
    "trainer.generation_batch_size": (None, "a small batch"),
    "trainer.steps_per_generation": (None, "a small batch; still more than one step's if it was"),
    "trainer.num_generations*": (None, "small groups"),
    "trainer.logging_st*": (None, "each step is logged"),
    "trainer.save_steps": (None, "each step is saved"),
    "trainer.eval_steps": (None, "each step is evaluated"),
    "trainer.ref_model_sync_steps": (None, "the reference is replaced after each step"),
    "trainer.dataset_num_proc": (None, "a few rows"),
    "trainer.use_cpu": (None, "no GPU"),
    "trainer.bf16": ("bf16", "a CPU trains in float32"),
    "trainer.fp16": ("fp16", "a CPU trains in float32"),
    "trainer.tf32": ("tf32", "a CPU trains in float32"),
    "trainer.use_vllm": ("vLLM", "transformers' generate samples"),
    "trainer.vllm_*": (None, "of vLLM"),
    "trainer.use_liger_kernel": ("Liger's kernels", "they are the GPU's"),
    "trainer.liger_kernel_config": (None, "of Liger"),
    "trainer.torch_compile*": ("torch.compile", "compiling takes longer than the rehearsal"),
    "trainer.optim": ("the optimizer {before}", "it needs a GPU"),
    "trainer.report_to": ("reports to {before}", "a rehearsal is no run to report"),
    "trainer.push_to_hub": ("the push to the Hub", "there is nothing to publish"),
    "distill.teacher": (WEIGHTS, "as the model"),
    "distill.teacher_revision": (None, "the stand-in lies on this disk"),
    "preferences.min_margin": ("the choice of pairs", "every prompt with two answers is to give one"),
    "preferences.max_length_ratio": ("the choice of pairs", "an untrained model's answers are of any length"),
    "preferences.balance_lengths": ("the choice of pairs", "an untrained model's answers are of any length"),
    "preferences.max_pairs": (None, "there are few"),
    "judge.name": ("the judge", "a server on this machine gives verdicts that can be read, and say nothing"),
    "judge.endpoint": ("the judge", "a server on this machine gives verdicts that can be read, and say nothing"),
    "judge.revision": (None, "of the judge"),
    "judge.cache": (None, "its verdicts are for no other run"),
    "judge.candidates": (None, "no more than there are answers"),
    "*.samples": (None, "few completions of an untrained model end by themselves"),
    "*.max_completion_length": (None, "short completions"),
    "*.batch_size": (None, "a small batch"),
    "*.endpoint": ("the endpoint", "transformers' generate samples"),
    "keep.*": ("the choice of traces", "an untrained model's are all wrong: those that end are kept"),
    "mixture.*": (None, "a few rows, again and again"),
    "*data.*.where": (None, "the rows written for rehearsals have no such column"),
    "*data.*.sort_by": (None, "the rows written for rehearsals have no such column"),
    "evaluate.models.*": (WEIGHTS, "as the model"),
    "evaluate.benchmarks*": ("the benchmarks' problems", f"theirs are on the Hub; {BENCHMARK} are made here"),
    "evaluate.copies*": (None, "of benchmarks that are not asked here"),
    "evaluate.max_truncated_share": (None, "an untrained model does not end"),
    "evaluate.num_problems": (None, "few problems"),
    "evaluate.max_new_tokens": (None, "short completions"),
    "hardware.nodes": ("several nodes", "this machine alone"),
    "hardware.gpus_per_node": ("GPUs", "this machine's CPU"),
    "hardware.gpu": (None, "this machine's CPU"),
    "hardware.processes_per_node": (None, f"at most {MAX_PROCESSES} processes"),
    "hardware.threads_per_process": (None, "one thread each"),
    "hardware.accelerate": (None, "its stand-in on a CPU"),
    "hardware.vllm*": ("the vLLM server", "transformers' generate samples"),
    "hardware.judge": ("the judge's server", "as the judge"),
    "hardware.usd_per_hour": (None, "it costs nothing"),
    "stages.*.recipe": (None, "the stage's own rehearsal"),
    "stages.*.gate": ("the gates", "an untrained model passes none"),
    "stages.*.set": (None, "all but the models of other stages stands in that"),
}
LEFT_OUT = ("vllm_", "use_vllm", "use_liger_kernel", "liger_kernel_config", "fp16", "tf32", "torch_compile")
LEFT_OUT += ("push_to_hub", "report_to", "dataset_num_proc")
GPU_OPTIMIZERS = ("bnb", "8bit", "4bit", "paged", "apex", "npu", "torch_xla")


@dataclass(frozen=True)
class Change:
    """A key that a rehearsal changes; None stands for a key that is not there."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.after)} ({_reason(self.key)[1]})"


@dataclass(frozen=True)
class Rehearsal:
    """The recipe of a rehearsal, and what has to be written before it can be launched."""

    recipe: Recipe
    changes: tuple[Change, ...]
    models: tuple[tuple[StandIn, Path], ...] = ()
    """Each with the folder of all models."""
    rows: tuple[FixtureRows | KeptRows, ...] = ()
    stages: tuple["Rehearsal", ...] = ()

    @property
    def not_rehearsed(self) -> list[str]:
        """What the CPU or the missing network leaves out, in words."""
        words = []
        for change in self.changes:
            what, _ = _reason(change.key)
            was_there = change.before is not None or change.key == "trainer.bf16"  # which is on by default
            if what is not None and was_there and change.before is not False:
                words.append(what.format(before=_shown(change.before)))
            if change.key == "hardware.accelerate" and change.before not in ("one_gpu", "ddp", "cpu"):
                words.append(change.before)
        for stage in self.stages:
            words += stage.not_rehearsed
        return list(dict.fromkeys(words))

    def write(self) -> None:
        """Writes the models that are not there yet, rows and recipes."""
        for rows in self.rows:
            rows.write()
        for stand_in, models in self.models:  # last: torch is imported
            stand_in.write(models)
        for stage in self.stages:
            stage.write()
        self.recipe.source.parent.mkdir(parents=True, exist_ok=True)
        self.recipe.source.write_text(dump_recipe(self.recipe), encoding="utf-8")


def rehearsal_of(recipe: Recipe, file: Path, models: Path) -> Rehearsal:
    """The rehearsal of a checked recipe: to be written to `file`, its rows beside it, its models below `models`.

    Writes nothing. Raises RecipeError if something is not known of its models or data sets.
    """
    before, values = (yaml.safe_load(dump_recipe(recipe)) for _ in range(2))
    stages = list(_with_rehearsed_stages(recipe, values, file, models))
    stand_ins = dict(_with_stand_ins(recipe, values, models))
    processes = _on_cpu(recipe, values)
    rows = []
    if recipe.step in TRAINER_CONFIGS:
        values["trainer"] = _small_trainer(recipe, processes)
    if recipe.data:
        rows = list(_with_rows(recipe, values, file, processes))
    _with_rewards_here(recipe, values, processes)
    for section, choice in (("generate", "keep"), ("distill", "keep"), ("preferences", "preferences")):
        if values[section]:
            _small_sampling(values[section])
            values[choice] |= KEEPS_ALL if choice == "keep" else KEEPS_PAIRS
    if values["judge"]:
        _with_judge_here(values)
    if values["evaluate"]:
        _small_evaluation(values["evaluate"])
    changes = tuple(changes_between(before, values))
    unknown = [change.key for change in changes if _reason(change.key) is None]
    assert not unknown, unknown
    return Rehearsal(
        parse_recipe(values, file),
        changes,
        tuple((stand_in, models) for stand_in in stand_ins.values()),
        tuple(rows),
        tuple(stages),
    )


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Yields the keys, dotted, at which two resolved recipes differ."""
    flat = [_flat(values) for values in (before, after)]
    for key in dict.fromkeys((*flat[0], *flat[1])):
        old, new = (values.get(key) for values in flat)
        if old != new:
            yield Change(key, old, new)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted key -> value; what a recipe can have or not have as a whole stays whole."""
    whole = key.endswith((".vllm", ".set", ".endpoint")) or key == "hardware.judge"
    if isinstance(value, Mapping) and value and not whole and value != LIVELY_REWARD:
        items = value.items()
    elif isinstance(value, list) and key in ("data", "eval_data", "rewards", "stages"):
        items = enumerate(value)
    else:
        return {key: value}
    return {name: each for part, child in items for name, each in _flat(child, f"{key}.{part}".lstrip(".")).items()}


def _reason(key: str) -> tuple[str | None, str] | None:
    """The entry of CHANGES for a key, None if it has none."""
    return next((reason for pattern, reason in CHANGES.items() if _fits(key.split("."), pattern.split("."))), None)


def _fits(key: list[str], pattern: list[str]) -> bool:
    parts = zip(key, pattern, strict=False)
    return len(key) == len(pattern) and all(fnmatch.fnmatchcase(*part) for part in parts)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    for key in ("name", "base_url"):
        if isinstance(value, Mapping) and key in value:
            return str(value[key])
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _with_rehearsed_stages(pipeline: Recipe, values: dict[str, Any], file: Path, models: Path) -> Iterator["Rehearsal"]:
    """Yields the rehearsals of a pipeline's stages, and names their files in it."""
    for section, stage in zip(values["stages"], pipeline.stages, strict=True):
        stage_file = file.with_name(f"{file.stem}.stages") / f"{stage.name}.yaml"
        yield rehearsal_of(stage_recipe(pipeline, stage), stage_file, models)
        section |= {"recipe": str(stage_file.resolve()), "set": references_in(stage.set), "gate": []}


def _with_stand_ins(recipe: Recipe, values: dict[str, Any], models: Path) -> Iterator[tuple[str, StandIn]]:
    """Puts paths in the place of models; yields each path with what is to be written there."""
    places = [(values["model"], "name"), (values["distill"], "teacher")]
    places += [(values["evaluate"]["models"], label) for label in recipe.evaluate.models] if recipe.evaluate else []
    of_rewards = [values["rewards"][index] for index, _ in models_of_rewards(recipe)]
    places += [(reward, "model") for reward in of_rewards]
    for section, key in places:
        if not section or not section[key]:
            continue
        stand_in = stand_in_of(recipe, section[key])
        if isinstance(stand_in, StandIn):
            stand_in = replace(stand_in, rewards=any(section is reward for reward in of_rewards))
            section[key] = str(stand_in.directory(models).resolve())
            yield section[key], stand_in
    values["model"] |= {"revision": None, "dtype": "float32", "attn_implementation": None}
    if values["distill"]:
        values["distill"]["teacher_revision"] = None
    for reward in of_rewards:
        reward |= {key: value for key, value in (("revision", None), ("dtype", "float32")) if key in reward}


def _on_cpu(recipe: Recipe, values: dict[str, Any]) -> int:
    """The number of processes: one a GPU, but at most MAX_PROCESSES. Changes `hardware`."""
    processes = min(recipe.hardware.num_processes, MAX_PROCESSES)
    values["hardware"] |= {
        "nodes": 1,
        "gpus_per_node": 0,
        "gpu": None,
        "processes_per_node": processes if processes > 1 else None,
        "threads_per_process": 1,
        "accelerate": ACCELERATE_ON_CPU.get(recipe.hardware.accelerate, "cpu"),
        "vllm": None,
        "judge": None,
        "usd_per_hour": None,
    }
    return processes


def _small_trainer(recipe: Recipe, processes: int) -> dict[str, Any]:
    """The section with what a CPU can do, for two steps of a few rows."""
    given = recipe.trainer

    def value(key: str) -> Any:
        return trainer_value(recipe.step, given, key)

    trainer = {key: each for key, each in given.items() if not key.startswith(LEFT_OUT)}
    trainer |= {"max_steps": STEPS, "logging_steps": 1, "use_cpu": True, "bf16": False}
    if "logging_strategy" in trainer:
        trainer["logging_strategy"] = "steps"
    if any(word in str(trainer.get("optim", "")) for word in GPU_OPTIMIZERS):
        del trainer["optim"]
    for key in ("save_steps", "eval_steps"):
        if key in trainer:
            trainer[key] = 1
    if trainer.get("sync_ref_model"):
        trainer["ref_model_sync_steps"] = 1
    micro_steps = min(value("gradient_accumulation_steps"), MAX_MICRO_STEPS)
    trainer["gradient_accumulation_steps"] = micro_steps
    batch = value("per_device_train_batch_size")
    if recipe.step != "grpo":
        trainer["per_device_train_batch_size"] = min(batch, 2)
        if value("max_length"):
            trainer["max_length"] = min(value("max_length"), MAX_TOKENS)
        return trainer
    trainer["max_completion_length"] = min(value("max_completion_length") or MAX_TOKENS, MAX_COMPLETION_TOKENS)
    group = trainer["num_generations"] = min(value("num_generations"), MAX_GROUP)
    batch = min(batch, group)
    micro_batches = micro_steps
    if (given.get("steps_per_generation") or 0) > value("gradient_accumulation_steps"):
        micro_batches = trainer["steps_per_generation"] = 2 * micro_steps
    elif given.get("steps_per_generation"):
        micro_batches = trainer["steps_per_generation"] = min(given["steps_per_generation"], micro_steps)
    if batch * micro_batches % group:  # every process has whole groups, as far as the recipe's had
        batch = group
    trainer["per_device_train_batch_size"] = batch
    if given.get("generation_batch_size"):
        rows = value("per_device_train_batch_size") * recipe.hardware.num_processes
        is_longer = given["generation_batch_size"] > rows * value("gradient_accumulation_steps")
        trainer["generation_batch_size"] = batch * processes * micro_batches * (2 if is_longer else 1)
    if recipe.eval_data:
        eval_group = min(value("num_generations_eval") or group, MAX_GROUP)
        if given.get("num_generations_eval"):
            trainer["num_generations_eval"] = eval_group
        trainer["per_device_eval_batch_size"] = eval_group
    return trainer


def _is_made_by_a_run(recipe: Recipe, path: str) -> bool:
    """True for what another recipe's run keeps; another stage's is there when it is needed."""
    return not path.startswith(STAGE_REFERENCE) and recipe.path(path).is_relative_to(RUNS)


def _with_rows(recipe: Recipe, values: dict[str, Any], file: Path, processes: int) -> Iterator[FixtureRows | KeptRows]:
    """Puts files in the place of Hub data sets; yields what is to be written to them."""
    trainer = values["trainer"]
    num_rows = PROMPTS_TO_COMPARE if recipe.step == "preferences" else PROMPTS_TO_ANSWER
    if recipe.step in TRAINER_CONFIGS:
        num_rows = STEPS * trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] * processes
    if values["mixture"]:
        values["mixture"] = {"num_rows": num_rows + len(recipe.data), "repeat": True}
    if recipe.step == "grpo":
        num_rows *= ROWS_PER_PROMPT
    if trainer.get("packing"):
        num_rows *= ROWS_PACKED_IN_ONE
    for key, source in recipe.data_sources():
        section, index = key.split(".")
        entry = values[section][int(index)]
        start, end = source.part or (0.0, source.fraction)
        num_rows_of_source = round(num_rows / (end - start))
        if source.name:
            rows_file = file.with_name(f"{file.stem}.rows") / f"{section}-{index}.jsonl"
            rows = FixtureRows(source.name, rows_file, num_rows_of_source)
            entry |= {"name": None, "config": None, "revision": None, "split": "train", "where": {}, "sort_by": None}
            entry["path"] = str(rows.file.resolve())
            yield rows
        elif source.path and _is_made_by_a_run(recipe, source.path):
            rows_file = file.with_name(f"{file.stem}.rows") / f"{section}-{index}.jsonl"
            rows = KeptRows(rows_file, num_rows_of_source, recipe.step in STEPS_OF_PAIRS)
            entry |= {"path": str(rows.file.resolve()), "where": {}, "sort_by": None}
            yield rows
        elif source.procedural:
            entry["procedural"]["num_problems"] = min(source.procedural.num_problems, num_rows_of_source)


def _with_rewards_here(recipe: Recipe, values: dict[str, Any], processes: int) -> None:
    most = values["trainer"].get("max_completion_length")
    for reward in values["rewards"]:
        known = settable_parameters(reward["name"])
        if "sandbox" in known and reward.get("sandbox", "local") != "local":
            reward["sandbox"] = "local"
        if reward["name"] == "soft_overlong_punishment" and reward.get("cache_tokens") and most:
            reward["cache_tokens"] = min(reward["cache_tokens"], most)
        if reward["name"] == "reward_model" and reward.get("endpoint"):
            reward["endpoint"] = {"base_url": url_of_reward_model(), "model": MODEL}
    if recipe.step == "grpo":
        per_rollout = steps_per_rollout(values["trainer"], processes)
        for reward in values["rewards"]:
            reward["first_step"] = 1 if per_rollout > 1 else min(reward["first_step"], STEPS)
            if reward["last_step"] is not None:
                reward["last_step"] = reward["first_step"] + per_rollout - 1
        values["rewards"].append(dict(LIVELY_REWARD))


def _with_judge_here(values: dict[str, Any]) -> None:
    asking = next((values[name] for name in ("generate", "distill", "preferences") if values[name]), None)
    answers = asking["samples"] if asking else values["trainer"]["num_generations"]
    values["judge"] |= {
        "name": None,
        "revision": None,
        "endpoint": {"base_url": url_of_judge(), "model": MODEL},
        "cache": None,
        "candidates": min(values["judge"]["candidates"], answers),
    }


def _small_sampling(section: dict[str, Any]) -> None:
    section |= {
        "samples": SAMPLES_OF_TEACHER,
        "max_completion_length": MAX_COMPLETION_TOKENS,
        "batch_size": min(section["batch_size"], 32),
        "endpoint": None,
    }


def _small_evaluation(evaluate: dict[str, Any]) -> None:
    made_here = [name for name in evaluate["benchmarks"] if BENCHMARKS[name].procedural]
    others = [BENCHMARK] if len(made_here) < len(evaluate["benchmarks"]) else []
    samples = max(evaluate["samples"] or BENCHMARKS[name].samples for name in evaluate["benchmarks"])
    evaluate |= {
        "benchmarks": list(dict.fromkeys([*made_here, *others])),
        "samples": min(samples, 2),
        "num_problems": MAX_PROBLEMS,
        "max_new_tokens": MAX_COMPLETION_TOKENS,
        "batch_size": min(evaluate["batch_size"], 8),
        "copies": {},
        "endpoint": None,
    }
