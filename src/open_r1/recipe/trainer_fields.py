"""The keys that `trainer:` may hold, read from the source of the installed TRL and transformers.

The config dataclasses are parsed, not imported: importing them costs seconds and brings torch, and a list of our own
would be wrong after the next release. A key that is no field any more is looked up in RENAMED_KEYS.
"""

import ast
import difflib
import functools
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from open_r1.recipe.trainer_choices import choices_of, parsed
from open_r1.wording import NUMBER, closest, number_for_yaml

TRAINER_CONFIGS = {
    "pretrain": "SFTConfig",
    "sft": "SFTConfig",
    "distill": "SFTConfig",
    "dpo": "DPOConfig",
    "reward_model": "RewardConfig",
    "grpo": "GRPOConfig",
}
CONFIG_FILES = {  # class -> (package, file)
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "GRPOConfig": ("trl", "trainer/grpo_config.py"),
    "DPOConfig": ("trl", "trainer/dpo_config.py"),
    "RewardConfig": ("trl", "trainer/reward_config.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
}

# Keys of earlier releases that recipes found on the web still carry. An entry counts only while the installed config
# has no such field, so that it need not be removed in step with TRL.
RENAMED_KEYS = {
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "num_train_epoch": "num_train_epochs",
    "no_cuda": "use_cpu",
    "use_mps_device": "nothing: the device is found by itself",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "warmup_ratio": "warmup_steps (a number below 1 is a ratio)",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "overwrite_output_dir": "nothing: a run directory is never overwritten",
    "torch_dtype": "model.dtype",
    "dtype": "model.dtype",
    "attn_implementation": "model.attn_implementation",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_organization": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "tokenizer": "nothing: it comes with model.name",
    "include_tokens_per_second": "nothing: metrics.jsonl always has them",
    "activation_checkpointing": "gradient_checkpointing",
    "max_prompt_length": "nothing: TRL no longer cuts prompts; filter the data",
    "use_liger_loss": "nothing: TRL's chunked log-prob head is always on",
    "vllm_device": "vllm_mode",
    "vllm_gpu_memory": "vllm_gpu_memory_utilization",
    "vllm_max_model_len": "vllm_max_model_length",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
    "use_transformers_paged": "use_transformers_continuous_batching",
    "dataset_batch_size": "nothing: data is mapped row by row",
    "dataset_text_field": "data.N.columns.text",
    "chars_per_token": "nothing: packing counts tokens",
    "num_of_sequences": "nothing: packing counts tokens",
    "logging_dir": "nothing: metrics go to metrics.jsonl in the run directory",
    "jit_mode_eval": "torch_compile",
}
DEPRECATED_FIELDS = {"use_transformers_paged", "vllm_importance_sampling_cap"}  # still fields, but said to go

# Fields that another part of the recipe sets: two places for one value is one too many.
OWNED_KEYS = {
    "output_dir": "the run directory is made by the launcher; remove it",
    "run_name": "the run's name comes from the recipe's file; remove it",
    "seed": "the recipe has one seed; set `seed` at the top level",
    "data_seed": "the recipe has one seed; set `seed` at the top level",
    "reward_weights": "weights stand with the rewards: `rewards: [{name: accuracy, weight: 1.0}]`",
    "model_init_kwargs": "the model is described in section `model`",
    "chat_template_path": "the template stands in `model.chat_template`",
    "resume_from_checkpoint": "a run that was stopped is taken up by itself; remove it",
    "deepspeed": "the accelerate config does this; set `hardware.accelerate`",
    "fsdp": "the accelerate config does this; set `hardware.accelerate`",
    "fsdp_config": "the accelerate config does this; set `hardware.accelerate`",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 save a checkpoint anyway; remove it",
    "hub_token": "a recipe is no place for a secret; run `hf auth login`",
}
MAX_SHOWN = 20  # words that a value can be


@dataclass(frozen=True)
class TrainerField:
    """A field of a config dataclass: its annotation as it is written in the source, and its literal default."""

    annotation: str
    default: Any = None


@functools.cache
def trainer_fields(step: str) -> Mapping[str, TrainerField]:
    """Key -> field of the TRL config that `step` uses, inherited ones included."""
    return _fields_of(TRAINER_CONFIGS[step])


def trainer_value(step: str, trainer: Mapping[str, Any], key: str) -> Any:
    """The value that the trainer will see for `key`: the recipe's, or TRL's default where that is a literal."""
    return trainer[key] if key in trainer else trainer_fields(step)[key].default


def steps_per_rollout(trainer: Mapping[str, Any], num_processes: int) -> int:
    """Optimizer steps of GRPO from one at which a rollout begins to the next; 1 if a step has whole rollouts."""
    keys = ("gradient_accumulation_steps", "steps_per_generation", "num_iterations", "generation_batch_size")
    per_step, per_rollout, num_iterations, rows = (trainer_value("grpo", trainer, key) for key in keys)
    if rows:
        per_rollout = rows // max(1, trainer_value("grpo", trainer, "per_device_train_batch_size") * num_processes)
    micro_steps = (per_rollout or per_step) * num_iterations
    return max(1, math.lcm(micro_steps, per_step) // max(1, per_step))


def trainer_problems(step: str, trainer: Mapping[str, Any]) -> Iterable[str]:
    """One line `key: what is wrong; mend` for each unknown, renamed, owned or ill-typed key, and unknown word."""
    config = f"trl.{TRAINER_CONFIGS[step]}"
    fields = trainer_fields(step)
    for key, value in trainer.items():
        if key in OWNED_KEYS:
            yield f"{key}: {OWNED_KEYS[key]}"
        elif key in RENAMED_KEYS and (key not in fields or key in DEPRECATED_FIELDS):
            yield f"{key}: {config} has no such key any more; use {RENAMED_KEYS[key]}"
        elif key not in fields:
            yield f"{key}: unknown key of {config}{closest(key, fields)}"
        elif problems := list(_type_problems(key, value, fields[key].annotation, config)):
            yield from problems
        else:
            yield from _choice_problems(key, value, fields[key], TRAINER_CONFIGS[step])


def _choice_problems(key: str, value: Any, field: TrainerField, class_name: str) -> Iterable[str]:
    default = field.default if isinstance(field.default, str) else None
    choices = choices_of(class_name, key, field.annotation, default)
    for word in value if isinstance(value, list) else [value]:
        if not choices or not isinstance(word, str) or word in choices:
            continue
        if len(choices) <= MAX_SHOWN:
            mend = f" (known: {', '.join(choices)}){closest(word, choices)}"
        else:
            like_it = difflib.get_close_matches(word, choices, n=5)
            mend = f" (it knows {', '.join(like_it)})" if like_it else ""
        yield f"{key}: {word!r} is nothing that trl.{class_name} knows{mend}"


def _type_problems(key: str, value: Any, annotation: str, config: str) -> Iterable[str]:
    adapter = _adapter(annotation)
    if adapter is None:
        return
    try:
        adapter.validate_python(value)
    except ValidationError:
        if isinstance(value, str) and NUMBER.fullmatch(value):
            yield f"{key}: {value!r} is text to YAML, not a number; write {number_for_yaml(value)}"
        elif isinstance(value, bool) and "str" in annotation:
            yield f"{key}: YAML reads a bare yes, no, on or off as {value}; write it in quotes"
        else:
            yield f"{key}: {value!r} is {type(value).__name__}; {config} wants {annotation}"


@functools.cache
def _adapter(annotation: str) -> TypeAdapter | None:
    """A strict validator of an annotation; names that are not builtins (enums of transformers) admit any value."""
    known = {"Any": Any, "Literal": typing.Literal, **{t.__name__: t for t in (int, float, str, bool, dict, list)}}
    names = {node.id for node in ast.walk(ast.parse(annotation, mode="eval")) if isinstance(node, ast.Name)}
    namespace = {name: known.get(name, object) for name in names}
    # An annotation of the installed library, not of the user: evaluating it runs nothing but `|` and `[]` on types.
    annotation_type = eval(annotation, {"__builtins__": {}}, namespace)  # noqa: S307
    if object in typing.get_args(annotation_type) and str in typing.get_args(annotation_type):
        annotation_type = str  # `SchedulerType | str`: YAML can only give the string
    try:
        return TypeAdapter(annotation_type, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return None


@functools.cache
def _fields_of(class_name: str) -> dict[str, TrainerField]:
    tree = parsed(*CONFIG_FILES[class_name])
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    fields: dict[str, TrainerField] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in CONFIG_FILES:
            fields.update(_fields_of(base.id))
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = ast.unparse(statement.annotation).strip("'\"")
            if not annotation.startswith("ClassVar"):
                fields[statement.target.id] = TrainerField(annotation, _literal_default(statement.value))
    return fields


def _literal_default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):  # field(default=…)
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError:
        return None
