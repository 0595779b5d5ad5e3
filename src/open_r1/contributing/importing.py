"""A recipe of open-r1 or TRL, one flat YAML and its accelerate config, -> one of ours, with the fate of every key.

Their keys fall into ours by what they mean: model, data, rewards, hardware; what is left is TRL's, and is looked up
among the fields of the installed one. Nothing is left out silently, and nothing is mended: what `make check` refuses
of the result is told, and is for whoever runs it to decide.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from open_r1.check import check_recipe
from open_r1.data import FILE_FORMATS
from open_r1.incompatible import KEYS_OF_MODE
from open_r1.places import ACCELERATE_CONFIGS
from open_r1.recipe import RecipeError, Reward, is_path, parse_recipe
from open_r1.recipe.trainer_fields import DEPRECATED_FIELDS, OWNED_KEYS, RENAMED_KEYS, trainer_fields
from open_r1.rewards import REWARDS, columns_of_reward
from open_r1.wording import NUMBER, closest

Kind = Literal["kept", "renamed", "moved", "dropped", "added", "default"]

# Keys of open-r1's scripts, and of TRL's model and script arguments, that name something else here, or nothing.
RENAMED_BY_OPEN_R1 = {"use_liger": "use_liger_kernel", "preprocessing_num_workers": "dataset_num_proc"}
DROPPED = {
    "benchmarks": "scores come from a recipe of their own; write one with step: evaluate",
    "callbacks": "open-r1's callbacks push and score checkpoints; write a recipe with step: evaluate",
    "dataset_test_split": "nothing is evaluated while it trains",
    "do_eval": "trainer.eval_strategy says it",
    "do_predict": "scores come from a recipe of their own; write one with step: evaluate",
    "do_train": "the step trains",
    "e2b_router_url": "an address is the machine's; set OPEN_R1_ROUTER_URL, and the reward's sandbox: router",
    "hub_model_revision": "the trainer pushes to the main branch; set hub_revision for another",
    "morph_router_url": "there is no sandbox of MorphCloud; known: local, e2b, router, piston",
    "parallel_code_exec_per_proc": "the sandbox decides how many programs run at once",
    "push_to_hub_revision": "the trainer pushes to the main branch; set hub_revision for another",
    "remote_gen_model_url": "the launcher starts the server itself (hardware.vllm)",
    "remote_gen_model_port": "the launcher starts the server itself (hardware.vllm)",
    "remote_gen_model_n_gpus": "the launcher starts the server itself (hardware.vllm)",
    "report_to": "metrics.jsonl and report.html are always written; for a tracker beside them, install and name it",
    "system_prompt": "a recipe has no such key; put it into model.chat_template",
    "use_peft": "without model.lora all weights are trained",
    "vllm_dtype": "vLLM takes the type of the weights",
    "vllm_enable_prefix_caching": "it is on anyway",
}
LORA_KEYS = {"lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "lora_target_modules": "target_modules"}

# Their key -> (the rewards that take it, our parameter, open-r1's default where ours is another; its configs.py).
REWARD_KEYS: dict[str, tuple[tuple[str, ...], str, Any]] = {
    "cosine_min_value_wrong": (("cosine",), "min_value_wrong", 0.0),
    "cosine_max_value_wrong": (("cosine",), "max_value_wrong", None),
    "cosine_min_value_correct": (("cosine",), "min_value_correct", None),
    "cosine_max_value_correct": (("cosine",), "max_value_correct", None),
    "repetition_n_grams": (("repetition_penalty",), "ngram_size", None),
    "repetition_max_penalty": (("repetition_penalty",), "max_penalty", None),
    "max_completion_len": (("soft_overlong_punishment",), "max_completion_tokens", None),
    "soft_punish_cache": (("soft_overlong_punishment",), "cache_tokens", None),
    "code_language": (("code_format",), "language", None),
    "code_eval_test_batch_size": (("cf_code", "ioi_code"), "test_batch_size", None),
    "code_eval_scoring_mode": (("cf_code",), "scoring_mode", None),
    "code_provider": (("code", "binary_code"), "sandbox", None),
    "ioi_provider": (("ioi_code",), "sandbox", None),
    "cf_provider": (("cf_code",), "sandbox", None),
    "codeforces_provider": (("cf_code",), "sandbox", None),
}
UNUSABLE_REWARD_VALUES = {
    ("sandbox", "morph"): "there is no sandbox of MorphCloud; known: local, e2b, router, piston",
    ("test_batch_size", -1): "it means all tests at once; test_batch_size counts those of a first round",
}
CHARACTERS_NOT_TOKENS = "the reward takes trainer.max_completion_length, in tokens; open-r1 counts characters here"
DEFAULT_REWARDS = ["accuracy", "format", "tag_count"]  # of open-r1, where none is named (its configs.py)

# What trl.GRPOConfig took where a recipe of early 2025 (TRL 0.14 to 0.17) names nothing, as far as it is another today.
# None: there was no such key, and TRL did as if it were off.
EARLIER_DEFAULTS: dict[str, Any] = {
    "beta": 0.04,
    "temperature": 0.9,
    "max_completion_length": 256,
    "loss_type": "grpo, then bnpo",
    "use_bias_correction_kl": None,
    "vllm_importance_sampling_correction": None,
}

SERVER_KEYS = {  # theirs -> of hardware.vllm
    "vllm_gpu_memory_utilization": "gpu_memory_utilization",
    "vllm_max_model_len": "max_model_length",
    "vllm_max_model_length": "max_model_length",
    "vllm_tensor_parallel_size": "tensor_parallel_size",
}
CONFIG_OF_ZERO_STAGE = {2: "zero2", 3: "zero3"}
CONFIG_OF_TYPE = {"NO": "one_gpu", "MULTI_GPU": "ddp", "FSDP": "fsdp2"}


@dataclass(frozen=True)
class Fate:
    """What became of a key: kept, renamed or moved to `detail`, dropped or added for that reason."""

    key: str
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        between = {
            "kept": "kept; ",
            "renamed": "renamed to ",
            "moved": "moved to ",
            "default": "left to TRL's default: ",
        }
        between = between.get(self.kind, f"{self.kind}: ")
        return f"{self.key}: {between}{self.detail}".rstrip("; ")


@dataclass
class Imported:
    """A recipe of ours in the making: its sections, the text of its chat template, and what became of each key."""

    values: dict[str, Any]
    template: str | None = None
    fates: list[Fate] = field(default_factory=list)

    def tell(self, key: str, kind: Kind, detail: str = "") -> None:
        self.fates.append(Fate(key, kind, detail))

    def text(self, first_line: str) -> str:
        """The recipe as YAML, after a comment."""
        written = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, width=116)
        return f"# {first_line}\n{written}"


def import_recipe(
    file: Path, accelerate_file: Path | None = None, step: str | None = None, out: Path = Path("recipe.yaml")
) -> Imported:
    """What the flat recipe becomes if it is written to `out`. Raises RecipeError if it is no flat recipe."""
    theirs = _read(file)
    accelerate = _read(accelerate_file) if accelerate_file else {}
    if "step" in theirs:
        raise RecipeError(f"{file}: step: this is a recipe of ours already; nothing to import")
    if not isinstance(theirs.get("model_name_or_path"), str):
        raise RecipeError(f"{file}: model_name_or_path: missing; a flat recipe names its model there")
    if "dataset_name" not in theirs and "dataset_mixture" not in theirs:
        raise RecipeError(f"{file}: dataset_name: missing, and so is dataset_mixture; a recipe needs data")
    step = step or step_of(theirs)
    left = {key: _number(value) for key, value in theirs.items() if value is not None}
    result = Imported({"step": step})
    for key in theirs.keys() - left.keys():
        result.tell(key, "dropped", "nothing is the default")
    if "seed" in left:
        result.values["seed"] = left.pop("seed")
        result.tell("seed", "moved", "seed, the only one there is")
    _model(left, result, out)
    _data(left, result, file, out)
    if step == "grpo":
        _rewards(left, result, file)
    hardware = _hardware(left, accelerate, result, file)
    trainer = _vllm(left, hardware, result) if step == "grpo" else {}
    result.values["trainer"] = trainer | _trainer(left, step, result)
    if step == "grpo":
        _defaults(result)
    _evaluation(theirs, result)
    result.values["hardware"] = hardware
    order = {key: position for position, key in enumerate((*theirs, *(f"accelerate.{key}" for key in accelerate)))}
    result.fates.sort(key=lambda fate: order.get(fate.key, len(order)))
    return result


def step_of(theirs: Mapping[str, Any]) -> str:
    """grpo if rewards, or a key that only trl.GRPOConfig has, are among theirs; else sft."""
    only_grpo = trainer_fields("grpo").keys() - trainer_fields("sft").keys()
    return "grpo" if "reward_funcs" in theirs or only_grpo & theirs.keys() else "sft"


def problems_of(imported: Imported, out: Path, template: Path) -> list[str]:
    """What `make check` refuses of the recipe at `out`, with its chat template in the file `template`.

    Raises RecipeError if it does not even load.
    """
    values = yaml.safe_load(imported.text(""))
    if imported.template is not None:
        values["model"]["chat_template"] = str(template.resolve())
    recipe = parse_recipe(values, out)
    try:
        check_recipe(recipe)
    except RecipeError as error:
        return [line.removeprefix(f"{out}: ") for line in error.lines] + list(_pushes(imported))
    return list(_pushes(imported))


def _pushes(imported: Imported) -> Iterator[str]:
    if imported.values["trainer"].get("push_to_hub"):
        name = imported.values["trainer"].get("hub_model_id")
        yield f"trainer.hub_model_id: {name or 'none'} is theirs; write your own, or remove push_to_hub"


def _read(file: Path) -> dict[str, Any]:
    """What a YAML of theirs says; of a key that is given twice the last counts, as for them."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{file}: not a flat recipe; it is a mapping of keys such as model_name_or_path")
    return values


def _number(value: Any) -> Any:
    """The value, as a number where YAML 1.1 reads a number as text (`1e-5`), also inside of mappings and lists."""
    if isinstance(value, dict):
        return {key: _number(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_number(entry) for entry in value]
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    return value.strip() if isinstance(value, str) else value


def _from(out: Path, path: str) -> str:
    """A path of theirs, which is meant from where one stands, as the recipe at `out` writes it."""
    if path.startswith("/"):
        return path
    relative = os.path.relpath(path, out.parent)
    return relative if relative.startswith("../") else f"./{relative}"


def _model(left: dict[str, Any], result: Imported, out: Path) -> None:
    name = left.pop("model_name_or_path")
    model: dict[str, Any] = {"name": _from(out, name) if is_path(name) else name}
    result.tell("model_name_or_path", "moved", "model.name")
    revision = left.pop("model_revision", None)
    if revision == "main":
        result.tell("model_revision", "dropped", "main moves on; `make pin` writes the commit that it is now")
    elif revision is not None:
        model["revision"] = str(revision)
        result.tell("model_revision", "moved", "model.revision")
    if "chat_template" in left:
        result.template = left.pop("chat_template")
        model["chat_template"] = f"./{out.stem}.jinja"
        result.tell("chat_template", "moved", f"model.chat_template: {out.stem}.jinja")
    for key in ("torch_dtype", "dtype"):
        if key not in left:
            continue
        if (dtype := left.pop(key)) == "auto":
            result.tell(key, "dropped", "model.dtype has no auto; it is float32")
        else:
            model["dtype"] = dtype
            result.tell(key, "moved", "model.dtype")
    if "attn_implementation" in left:
        model["attn_implementation"] = left.pop("attn_implementation")
        result.tell("attn_implementation", "moved", "model.attn_implementation")
    uses_lora = left.get("use_peft") is True
    lora = {}
    for key in [key for key in left if key.startswith("lora_")]:
        value = left.pop(key)
        if not uses_lora:
            result.tell(key, "dropped", "nothing reads it without use_peft: true")
        elif key in LORA_KEYS:
            lora[LORA_KEYS[key]] = value[0] if value == ["all-linear"] else value
            result.tell(key, "moved", f"model.lora.{LORA_KEYS[key]}")
        else:
            result.tell(key, "dropped", f"model.lora has {', '.join(LORA_KEYS.values())} alone")
    if uses_lora:
        del left["use_peft"]
        model["lora"] = lora
        result.tell("use_peft", "moved", "model.lora")
    result.values["model"] = model


def _data(left: dict[str, Any], result: Imported, file: Path, out: Path) -> None:
    mixture, name = left.pop("dataset_mixture", None), left.pop("dataset_name", None)
    config, split = left.pop("dataset_config", None), left.pop("dataset_train_split", None)
    for key, value, ours in (("dataset_config", config, "config"), ("dataset_train_split", split, "split")):
        if value is not None:
            kind, detail = ("moved", f"data.0.{ours}") if mixture is None else ("dropped", "of dataset_name")
            result.tell(key, kind, detail)
    if "dataset_configs" in left:
        # open-r1 reads no key of that name, and the data sets that these recipes name have no such configs.
        said = left.pop("dataset_configs")
        result.tell("dataset_configs", "dropped", f"open-r1 reads no such key; if it is meant, write config: {said}")
    if mixture is not None:
        if name is not None:
            result.tell("dataset_name", "dropped", "dataset_mixture counts where both are given")
        data = _sources_of_mixture(mixture, file)
        result.tell("dataset_mixture", "moved", "data, a source for each data set; its seed is the recipe's")
        if mixture.get("test_split_size"):
            result.tell("dataset_mixture.test_split_size", "dropped", "eval_data takes a split or a file of its own")
    elif is_path(name) or Path(name).suffix in FILE_FORMATS:
        data = [{"path": _from(out, name)}]
        result.tell("dataset_name", "moved", "data.0.path")
    else:
        data = [{"name": name} | ({"config": config} if config else {}) | {"split": split or "train"}]
        result.tell("dataset_name", "moved", "data.0.name")
    if column := left.pop("dataset_prompt_column", None):
        for source in data:
            source["columns"] = {"prompt": column}
        result.tell("dataset_prompt_column", "moved", "data.N.columns.prompt")
    result.values["data"] = data


def _sources_of_mixture(mixture: Any, file: Path) -> list[dict[str, Any]]:
    sources = mixture.get("datasets") if isinstance(mixture, dict) else None
    if not isinstance(sources, list) or not all(isinstance(one, dict) and one.get("id") for one in sources):
        raise RecipeError(f"{file}: dataset_mixture.datasets: missing; a list of entries that each have an id")
    data = []
    for theirs in sources:
        source = {"name": theirs["id"]} | ({"config": theirs["config"]} if theirs.get("config") else {})
        source["split"] = theirs.get("split") or "train"
        if theirs.get("columns"):
            source["columns"] = {column: column for column in theirs["columns"]}
        if theirs.get("weight") not in (None, 1):
            source["fraction"] = float(theirs["weight"])
        data.append(source)
    return data


def _rewards(left: dict[str, Any], result: Imported, file: Path) -> None:
    names, weights = left.pop("reward_funcs", None), left.pop("reward_weights", None)
    if names is None:
        names = DEFAULT_REWARDS
        result.tell("rewards", "added", "none is named; these are open-r1's default")
    else:
        result.tell("reward_funcs", "moved", "rewards")
    names = [names] if isinstance(names, str) else names
    if weights is not None:
        if not isinstance(weights, list) or len(weights) != len(names):
            raise RecipeError(f"{file}: reward_weights: {weights!r} for {len(names)} rewards; give one for each")
        result.tell("reward_weights", "moved", "rewards.N.weight")
    weights = weights or [1.0] * len(names)
    rewards = [
        {"name": name} | ({"weight": weight} if weight != 1 else {})
        for name, weight in zip(names, weights, strict=True)
    ]
    for key, (takers, parameter, default) in REWARD_KEYS.items():
        found = [reward for reward in rewards if reward["name"] in takers]
        if key not in left:
            if found and default is not None:
                result.tell(f"rewards.{found[0]['name']}.{parameter}", "added", f"{default}, open-r1's default")
                found[0][parameter] = default
            continue
        value = left.pop(key)
        if not found:
            result.tell(key, "dropped", f"no reward of this recipe takes it ({', '.join(takers)} would)")
        elif (parameter, value) in UNUSABLE_REWARD_VALUES:
            result.tell(key, "dropped", UNUSABLE_REWARD_VALUES[parameter, value])
        else:
            for reward in found:
                reward[parameter] = value
            result.tell(key, "moved", ", ".join(f"rewards.{reward['name']}.{parameter}" for reward in found))
    if "cosine_max_len" in left:
        del left["cosine_max_len"]
        result.tell("cosine_max_len", "dropped", CHARACTERS_NOT_TOKENS)
    _columns_that_rewards_read(rewards, result.values["data"])
    result.values["rewards"] = [reward["name"] if list(reward) == ["name"] else reward for reward in rewards]


def _columns_that_rewards_read(rewards: list[dict[str, Any]], data: list[dict[str, Any]]) -> None:
    """A mapping of columns says which are meant, so that those that rewards read have to be in it."""
    read = [name for reward in rewards if reward["name"] in REWARDS for name in columns_of_reward(Reward(**reward))]
    for source in data:
        if "columns" in source:
            source["columns"] = {name: name for name in read} | source["columns"]


def _hardware(left: dict[str, Any], accelerate: dict[str, Any], result: Imported, file: Path) -> dict[str, Any]:
    nodes = accelerate.get("num_machines", 1)
    in_recipe = left.pop("num_processes", None)
    processes = accelerate.get("num_processes", nodes) if in_recipe is None else in_recipe
    if not all(isinstance(number, int) and number > 0 for number in (nodes, processes)) or processes % nodes:
        raise RecipeError(f"{file}: num_processes: {processes!r} cannot be shared out over {nodes!r} machines")
    if in_recipe is not None:
        result.tell("num_processes", "moved", "hardware.gpus_per_node")
    elif "num_processes" not in accelerate:
        result.tell("hardware.gpus_per_node", "added", "1; nothing says how many GPUs there are")
    elif left.get("use_vllm") and "vllm_device" in left and nodes == 1 and processes > 1:
        processes -= 1
        result.tell("hardware.gpus_per_node", "added", f"{processes}; with vllm_device one GPU samples")
    config = _accelerate_config(accelerate, file) if accelerate else "one_gpu" if processes == 1 else "ddp"
    for key in accelerate:
        if key in ("distributed_type", "deepspeed_config", "fsdp_config"):
            without = "".join(f", without its {lost}" for lost in _lost(accelerate[key]))
            result.tell(f"accelerate.{key}", "moved", f"hardware.accelerate: {config}{without}")
        elif key in ("num_machines", "num_processes"):
            ours = "nodes" if key == "num_machines" else "gpus_per_node"
            result.tell(f"accelerate.{key}", "moved", f"hardware.{ours}")
        elif key == "mixed_precision" and accelerate[key] in ("bf16", "fp16") and not {"bf16", "fp16"} & left.keys():
            left[accelerate[key]] = True
            result.tell("accelerate.mixed_precision", "moved", f"trainer.{accelerate[key]}: true")
        else:
            result.tell(f"accelerate.{key}", "dropped", f"accelerate_configs/{config}.yaml or the launcher says it")
    return ({"nodes": nodes} if nodes > 1 else {}) | {"gpus_per_node": processes // nodes, "accelerate": config}


def _accelerate_config(accelerate: dict[str, Any], file: Path) -> str:
    """The name of our config that does what theirs does."""
    kind = accelerate.get("distributed_type", "NO")
    kind = "NO" if kind is False else str(kind).upper()  # a bare `no` is false to YAML
    if kind == "DEEPSPEED":
        stage = (accelerate.get("deepspeed_config") or {}).get("zero_stage")
        if stage in CONFIG_OF_ZERO_STAGE:
            return CONFIG_OF_ZERO_STAGE[stage]
        raise RecipeError(f"{file}: accelerate.deepspeed_config.zero_stage: {stage!r} has no config; known: 2, 3")
    if kind not in CONFIG_OF_TYPE:
        known = ", ".join(config.stem for config in sorted(ACCELERATE_CONFIGS.glob("*.yaml")))
        raise RecipeError(f"{file}: accelerate.distributed_type: {kind} has no config (known: {known})")
    return CONFIG_OF_TYPE[kind]


def _lost(config: Any) -> list[str]:
    """What a DeepSpeed or FSDP config does that none of ours does."""
    if not isinstance(config, dict):
        return []
    offloads = [key for key, value in config.items() if "offload" in key and value not in ("none", False)]
    old_fsdp = any(key.startswith("fsdp_") for key in config) and config.get("fsdp_version", 1) != 2
    return offloads + (["fsdp_version: 1"] if old_fsdp else [])


def _vllm(left: dict[str, Any], hardware: dict[str, Any], result: Imported) -> dict[str, Any]:
    """trainer's keys that say who samples; `hardware` gets the server if there is one.

    Recipes without vllm_mode are of a time when vLLM was always a process of its own: on a GPU that vllm_device names,
    or, later, on a node beside those that train.
    """
    keys = [key for key in left if key.startswith("vllm_")]
    if not left.get("use_vllm"):
        for key in keys:
            del left[key]
            result.tell(key, "dropped", "nothing reads it without use_vllm: true")
        return {}
    mode = left.pop("vllm_mode", None)
    if mode is None:
        result.tell("trainer.vllm_mode", "added", "server, which TRL's default was; today's is colocate")
    else:
        result.tell("vllm_mode", "kept")
    mode = mode or "server"
    device = left.pop("vllm_device", None)
    if device is not None:
        where = "hardware.vllm: a GPU beside those that train" if mode == "server" else "trainer.vllm_mode"
        result.tell("vllm_device", "moved", where)
    if mode == "server":
        nodes = 0 if device is not None and "nodes" not in hardware else 1
        server: dict[str, Any] = {"nodes": nodes}
        for key, ours in SERVER_KEYS.items():
            if key in left:
                server[ours] = left.pop(key)
                result.tell(key, "moved", f"hardware.vllm.{ours}")
        hardware["vllm"] = server
    unread = ("colocate",) if mode == "server" else ("server",)
    for key in [key for other in unread for key in KEYS_OF_MODE[other] if key in left]:
        del left[key]
        result.tell(key, "dropped", f"nothing reads it with vllm_mode: {mode}")
    for key in ("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_group_port"):
        if key in left:
            del left[key]
            result.tell(key, "dropped", "the launcher starts the server and knows its address")
    return {"vllm_mode": mode}


def _trainer(left: dict[str, Any], step: str, result: Imported) -> dict[str, Any]:
    """trainer: every key that is left, under the name that the installed TRL has for it."""
    fields = trainer_fields(step)
    trainer: dict[str, Any] = {}
    for key, value in left.items():
        new = RENAMED_BY_OPEN_R1.get(key, key)
        if key == "warmup_ratio":
            new = "warmup_steps"  # below 1 it is a share of all steps
        elif key == "group_by_length":
            new, value = ("train_sampling_strategy", "group_by_length") if value else (key, value)
        elif new in RENAMED_KEYS and (new not in fields or new in DEPRECATED_FIELDS):
            new = RENAMED_KEYS[new]
        if reason := DROPPED.get(key) or OWNED_KEYS.get(key) or _tracker(key):
            result.tell(key, "dropped", reason)
        elif new.startswith("nothing: "):
            result.tell(key, "dropped", new.removeprefix("nothing: "))
        elif new in fields and new in left and new != key:
            result.tell(key, "dropped", f"{new} says it")
        elif new in fields:
            trainer[new] = _typed(new, value, fields[new].annotation)
            retyped = "" if trainer[new] is value else f"written {trainer[new]}"
            result.tell(key, *(("kept", retyped) if new == key else ("renamed", f"trainer.{new}")))
        elif key in REWARD_KEYS or key == "cosine_max_len":
            result.tell(key, "dropped", f"of a reward, and step {step} has none")
        else:
            result.tell(key, "dropped", f"neither TRL nor a recipe has it{closest(key, fields)}")
    return trainer


def _tracker(key: str) -> str:
    return "of a tracker that report_to names, which is dropped" if key.startswith("wandb_") else ""


def _typed(key: str, value: Any, annotation: str) -> Any:
    """The value in the type that the field has today."""
    if key == "scale_rewards" and isinstance(value, bool):
        return "group" if value else "none"
    if isinstance(value, bool) and "bool" not in annotation and "str" in annotation:
        return "yes" if value else "no"  # words of TRL's that YAML takes for booleans
    return value


def _defaults(result: Imported) -> None:
    """Tells what the recipe leaves to TRL and TRL has changed: the same file would train another objective today."""
    trainer = result.values["trainer"]
    no_kl = trainer.get("beta") == 0
    for key, earlier in EARLIER_DEFAULTS.items():
        field = trainer_fields("grpo").get(key)
        is_idle = (key.startswith("vllm_") and not trainer.get("use_vllm")) or (
            key == "use_bias_correction_kl" and no_kl
        )
        if key in trainer or field is None or field.default == earlier or is_idle:
            continue
        was = "no such key" if earlier is None else earlier
        result.tell(f"trainer.{key}", "default", f"{was} in early 2025, {field.default} today; name what is meant")


def _evaluation(theirs: Mapping[str, Any], result: Imported) -> None:
    """eval_data where GRPO evaluates while it trains; what only speaks of evaluation is dropped where it does not."""
    trainer, step = result.values["trainer"], result.values["step"]
    evaluates = trainer.get("eval_strategy", "no") != "no" or trainer.get("eval_on_start") is True
    if step == "grpo" and evaluates:
        split = theirs.get("dataset_test_split") or "test"  # TRL's default
        held_out = [
            {key: value for key, value in source.items() if key != "fraction"} for source in result.values["data"]
        ]
        result.values["eval_data"] = [source | {"split": split} for source in held_out]
        result.fates = [fate for fate in result.fates if fate.key != "dataset_test_split"]
        kind, detail = ("moved", "eval_data.N.split") if "dataset_test_split" in theirs else ("added", f"split {split}")
        result.tell("dataset_test_split" if kind == "moved" else "eval_data", kind, detail)
        return
    reason = "only step grpo evaluates while it trains" if step == "sft" else "nothing is evaluated while it trains"
    for key in [key for key in trainer if key.startswith(("eval_", "per_device_eval_"))]:
        del trainer[key]
        old = next((fate for fate in result.fates if fate.key == key or fate.detail == f"trainer.{key}"), None)
        if old:
            result.fates[result.fates.index(old)] = Fate(old.key, "dropped", reason)


# --- the command line of scripts/import_recipe.py

ACCELERATE_OF = "# accelerate: "  # a comment of a flat recipe that --table reads: the config that it is run with


def table(folder: Path) -> str:
    """A Markdown table of a folder of flat recipes: whether each loads, and the keys by what became of them."""
    kinds = ("renamed", "moved", "dropped", "added", "default")
    titles = " | ".join(kinds).replace("default", "left to a default that has changed")
    lines = [f"| recipe | loads | to mend by hand | {titles} |", "|---|---|---|" + "---|" * len(kinds)]
    for file in sorted(folder.glob("*.yaml")):
        try:
            imported = import_recipe(file, accelerate_of(file))
            with tempfile.TemporaryDirectory() as scratch:
                problems = checked(imported, Path("recipe.yaml"), Path(scratch))
            loads, mend = "yes", str(len(problems))
        except RecipeError as error:
            loads, mend, imported = f"no: {error.lines[0]}", "–", Imported({})
        fates = [fate for fate in imported.fates if not fate.key.startswith("accelerate.")]
        keys = [", ".join(fate.key for fate in fates if fate.kind == kind) or "–" for kind in kinds]
        lines.append(f"| {file.stem} | {loads} | {mend} | {' | '.join(keys)} |")
    return "\n".join(lines)


def accelerate_of(file: Path) -> Path | None:
    """The accelerate config that a flat recipe names in a comment `# accelerate: …`, beside it."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(ACCELERATE_OF):
            return file.parent / line.removeprefix(ACCELERATE_OF).strip()
    return None


def checked(imported: Imported, out: Path, scratch: Path) -> list[str]:
    """What `make check` refuses of a recipe that is not written: its chat template is laid into `scratch`."""
    template = scratch / "template.jinja"
    template.write_text(imported.template or "", encoding="utf-8")
    return problems_of(imported, out, template)


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with one line if there is nothing to import, or if what was made of it does not load."""
    parser = argparse.ArgumentParser(prog="import_recipe.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path, nargs="?", help="their flat YAML")
    parser.add_argument("--accelerate", type=Path, help="their accelerate config")
    parser.add_argument("--step", choices=("sft", "grpo"), help="default: grpo if it says anything of GRPO, else sft")
    parser.add_argument("--out", type=Path, help="where the recipe is written; a chat template goes beside it")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="a Markdown table of all recipes in a folder")
    given = parser.parse_args(arguments)
    if given.table is None and given.recipe is None:
        parser.error("name a flat recipe, or --table FOLDER")
    try:
        if given.table is not None:
            print(table(given.table))
            return 0
        return _import(given)
    except RecipeError as error:
        print(error.lines[0], file=sys.stderr)
        return 2


def _import(given: argparse.Namespace) -> int:
    out = given.out or Path("recipe.yaml")
    imported = import_recipe(given.recipe, given.accelerate, given.step, out)
    text = imported.text(f"Imported from {given.recipe.name} by scripts/import_recipe.py.")
    for fate in imported.fates:
        print(fate, file=sys.stderr)
    if given.out is None:
        print(text, end="")
        with tempfile.TemporaryDirectory() as scratch:
            problems = checked(imported, out, Path(scratch))
    else:
        template = out.with_suffix(".jinja")
        files = {out: text} | ({template: imported.template} if imported.template is not None else {})
        _write(files)
        problems = problems_of(imported, out, template)
    for problem in problems:
        print(f"to mend by hand: {problem}", file=sys.stderr)
    print(f"{out if given.out else 'the recipe'} loads", file=sys.stderr)
    return 0


def _write(files: Mapping[Path, str]) -> None:
    for file in files:
        if file.exists():
            raise RecipeError(f"{file}: it is there already; remove it, or give another --out")
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be written ({error.strerror})") from None
