"""Settings that are right by themselves and wrong together: found before a model is loaded.

What trl's configs refuse themselves is left to them, where that comes early; here is what would fail only after data or
weights are loaded, or what nothing would ever tell.
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

from open_r1.recipe import Recipe, VllmServer, is_path
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS, trainer_value
from open_r1.rewards import asks_judge, best_checkpoint_metric, models_of_rewards, truths_of
from open_r1.wording import closest

VLLM_MODES = ("colocate", "server")
KEYS_OF_MODE = {  # what the other mode never reads
    "colocate": (
        "vllm_gpu_memory_utilization",
        "vllm_tensor_parallel_size",
        "vllm_max_model_length",
        "vllm_enable_sleep_mode",
        "vllm_model_impl",
    ),
    "server": (
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
        "vllm_group_port",
    ),
}
LOSSES_WITHOUT_BETA = ("sft",)  # of DPO
SMOOTHED_LOSSES = ("robust", "exo_pair", "aot", "aot_unpaired")  # of DPO: those that read label_smoothing
STEPS_WITH_SERVER = ("grpo", "generate", "preferences", "evaluate")
EXTRA_OF_PACKAGE = {"vllm": "vllm", "deepspeed": "deepspeed", "openai": "endpoint"}


def incompatible_settings(recipe: Recipe, accelerate_config: Mapping[str, Any]) -> Iterator[str]:
    """A line `key: what is wrong; mend` for each pair of settings that cannot go together.

    `accelerate_config` is what the file says that `hardware.accelerate` names.
    """
    yield from _of_server(recipe)
    yield from _of_judge(recipe)
    if recipe.step not in TRAINER_CONFIGS:
        return
    yield from _of_processes(recipe, accelerate_config)
    yield from _of_models_beside(recipe, accelerate_config)
    yield from _of_numbers(recipe, accelerate_config)
    yield from _of_kernels(recipe)
    yield from _of_best_checkpoint(recipe)
    if recipe.step in ("dpo", "reward_model"):
        yield from _of_dpo_and_rewards(recipe)
    if recipe.step == "dpo":
        yield from _of_reference_of_dpo(recipe, accelerate_config)
        return
    if recipe.step != "grpo":
        yield from _of_packing(recipe)
        return
    yield from _of_reference(recipe)
    yield from _of_vllm(recipe)


def missing_packages(recipe: Recipe, accelerate_config: Mapping[str, Any]) -> Iterator[str]:
    """A line for each package that the recipe needs on this machine and that is not installed."""
    needed = {}
    if recipe.step == "grpo" and recipe.trainer.get("use_vllm"):
        needed["vllm"] = "trainer.use_vllm"
    if recipe.hardware.vllm is not None:
        needed["vllm"] = "hardware.vllm"
    if recipe.hardware.judge is not None:
        needed.setdefault("vllm", "hardware.judge")
    asking = (recipe.generate, recipe.distill, recipe.preferences, recipe.evaluate)
    if any(section and section.endpoint for section in asking):
        needed["openai"] = f"{recipe.step}.endpoint"
    elif recipe.judge is not None and recipe.judge.endpoint is not None:
        needed["openai"] = "judge.endpoint"
    for index, reward in enumerate(recipe.rewards):
        if reward.name == "reward_model" and reward.parameters.get("endpoint") is not None:
            needed.setdefault("openai", f"rewards.{index}.endpoint")
    if accelerate_config.get("distributed_type") == "DEEPSPEED":
        needed["deepspeed"] = f"hardware.accelerate: {recipe.hardware.accelerate}"
    if recipe.model.attn_implementation == "flash_attention_2":
        needed["flash_attn"] = "model.attn_implementation"
    for package, key in needed.items():
        if importlib.util.find_spec(package) is None:
            extra = EXTRA_OF_PACKAGE.get(package)
            mend = f"pip install 'open-r1[{extra}]'" if extra else f"pip install {package.replace('_', '-')}"
            yield f"{key}: needs {package}, which is not installed; {mend}"


def _of_processes(recipe: Recipe, accelerate_config: Mapping[str, Any]) -> Iterator[str]:
    hardware = recipe.hardware
    if accelerate_config.get("distributed_type") == "NO" and hardware.num_processes > 1:
        yield (
            f"hardware.accelerate: {hardware.accelerate} starts one process, but {hardware.num_processes} are asked "
            f"for; use ddp or zero2"
        )
    if hardware.gpus_per_node and recipe.trainer.get("use_cpu"):
        yield (
            f"trainer.use_cpu: true leaves the GPUs idle, but hardware.gpus_per_node is {hardware.gpus_per_node}; "
            f"remove it"
        )
    if shares_out_weights(accelerate_config) and recipe.model.lora:
        yield (
            f"model.lora: {hardware.accelerate} shares the weights out, and adapters cannot be merged into shares; use "
            f"hardware.accelerate: zero2 or ddp, where frozen weights cost little"
        )
    if accelerate_config.get("distributed_type") == "FSDP" and _fsdp_version(accelerate_config) != 2:
        yield f"hardware.accelerate: {hardware.accelerate} is FSDP in its first version; use fsdp2"


def _of_models_beside(recipe: Recipe, accelerate_config: Mapping[str, Any]) -> Iterator[str]:
    """Models that rate completions in each process, where whatever is loaded is loaded in shares."""
    if not shares_out_weights(accelerate_config):
        return
    accelerate = recipe.hardware.accelerate
    for index, _ in models_of_rewards(recipe):
        yield (
            f"rewards.{index}.model: under {accelerate} a process gets no more than a share of what it loads, and only "
            f"the trainer's models are put together; use hardware.accelerate: zero2 or ddp"
        )
    if asks_judge(recipe.rewards) and judges_here(recipe):
        yield (
            f"judge.name: under {accelerate} a process gets no more than a share of what it loads, and only the "
            f"trainer's models are put together; let hardware.judge serve it, or use hardware.accelerate: zero2 or ddp"
        )


def judges_here(recipe: Recipe) -> bool:
    """True if each process loads the judge."""
    section = recipe.judge
    return section is not None and section.name is not None and recipe.hardware.judge is None


def shares_out_weights(accelerate_config: Mapping[str, Any]) -> bool:
    """True if no process has all weights: ZeRO stage 3 and FSDP."""
    zero_stage = (accelerate_config.get("deepspeed_config") or {}).get("zero_stage")
    return zero_stage == 3 or accelerate_config.get("distributed_type") == "FSDP"


def _fsdp_version(accelerate_config: Mapping[str, Any]) -> int:
    return (accelerate_config.get("fsdp_config") or {}).get("fsdp_version", 1)


def _of_numbers(recipe: Recipe, accelerate_config: Mapping[str, Any]) -> Iterator[str]:
    """Pairs that lose digits."""
    if recipe.trainer.get("use_cpu") and _bf16(recipe):
        written = "bf16: true" if recipe.trainer.get("bf16") else "it is on unless it is written down"
        yield f"trainer.bf16: slower than fp32 on a CPU (use_cpu), and coarser ({written}); set trainer.bf16: false"
    if recipe.trainer.get("use_transformers_continuous_batching") and _bf16(recipe):
        yield (
            "trainer.bf16: together with use_transformers_continuous_batching it casts the policy's weights to bf16, "
            "too coarse for the optimizer's steps; set trainer.bf16: false"
        )
    dtype = recipe.model.dtype
    if dtype == "float32":
        return
    if recipe.model.lora is None:
        if accelerate_config.get("distributed_type") != "DEEPSPEED":  # which steps on fp32 weights of its own
            yield (
                f"model.dtype: {dtype} weights are too coarse for the optimizer's steps; leave it float32 (mixed "
                f"precision is trainer.bf16), or use zero2 or zero3, which keep fp32 weights beside them"
            )
    elif recipe.trainer.get("use_vllm"):
        yield (
            f"model.dtype: at every sync with vLLM the adapters are merged into the weights and taken out again, "
            f"which wears {dtype} weights down; leave it float32"
        )


def _bf16(recipe: Recipe) -> bool:
    """Whether training is in bf16: TRL's default is on unless fp16 is."""
    bf16 = recipe.trainer.get("bf16")
    return not recipe.trainer.get("fp16") if bf16 is None else bf16


def _of_kernels(recipe: Recipe) -> Iterator[str]:
    trainer = recipe.trainer
    if trainer.get("use_liger_kernel") and not recipe.hardware.gpus_per_node:
        yield "trainer.use_liger_kernel: its kernels run on GPUs alone, but hardware.gpus_per_node is 0; remove it"
    liger_config = trainer.get("liger_kernel_config")
    if isinstance(liger_config, Mapping) and liger_config.get("fused_linear_cross_entropy"):
        yield (
            "trainer.liger_kernel_config.fused_linear_cross_entropy: it would replace the forward pass that TRL's "
            "chunked head is part of; remove it"
        )
    lora = recipe.model.lora
    if lora and "lm_head" in ([lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules):
        yield (
            "model.lora.target_modules: TRL multiplies by lm_head's own weights, so an adapter on it would never be "
            "trained; remove lm_head"
        )


def _of_best_checkpoint(recipe: Recipe) -> Iterator[str]:
    if not recipe.trainer.get("load_best_model_at_end"):
        return
    keys = ("eval_strategy", "save_strategy", "save_steps", "eval_steps", "logging_steps")
    evaluates, saves, save_steps, eval_steps, logging_steps = (
        trainer_value(recipe.step, recipe.trainer, key) for key in keys
    )
    if evaluates == "no":
        yield "trainer.load_best_model_at_end: nothing is evaluated; set trainer.eval_strategy, or remove it"
    elif saves not in ("best", evaluates):
        yield (
            f"trainer.save_strategy: {saves}, but trainer.eval_strategy is {evaluates}, and load_best_model_at_end "
            f"chooses among checkpoints that were evaluated; write {evaluates}"
        )
    elif saves == "steps" and not _is_multiple(save_steps, eval_steps or logging_steps):
        yield (
            f"trainer.save_steps: {save_steps} is no multiple of {eval_steps or logging_steps}, trainer.eval_steps, "
            f"and load_best_model_at_end chooses among checkpoints that were evaluated; make them equal"
        )
    elif recipe.step == "grpo":
        yield from _of_best_metric(recipe)


def _is_multiple(steps: float, of: float) -> bool:
    """Below 1 both are shares of the run's steps, which transformers compares as whole millionths."""
    if of <= 0 or (steps < 1) != (of < 1):
        return False
    return round(steps * 1_000_000) % round(of * 1_000_000) == 0


def _of_best_metric(recipe: Recipe) -> Iterator[str]:
    metric = best_checkpoint_metric(recipe)
    if metric is None:
        yield (
            "trainer.load_best_model_at_end: nothing says which checkpoint is the best; set guards.truth, or "
            "trainer.metric_for_best_model, e.g. eval_reward"
        )
        return
    mean_of = re.fullmatch("(?:eval_)?rewards/(.+)/mean", metric)
    if mean_of is None:
        return
    name = mean_of[1]
    rewards = {reward.called: reward for reward in recipe.rewards}
    if name in truths_of(recipe.guards, recipe.rewards) and recipe.trainer.get("greater_is_better") is False:
        yield f"trainer.greater_is_better: false would keep the checkpoint with the least of {name}; remove it"
    if name == recipe.guards.truth:
        return  # what is wrong with that is told with the guards
    if name not in rewards:
        known = f"known: {', '.join(rewards)}"
        yield f"trainer.metric_for_best_model: no reward is called {name!r} ({known}){closest(name, rewards)}"
    elif not rewards[name].counts_always:
        yield (
            f"trainer.metric_for_best_model: evaluations before first_step or after last_step of {name} would have no "
            f"{metric}; remove these, or name another metric"
        )


def _of_packing(recipe: Recipe) -> Iterator[str]:
    trainer = recipe.trainer
    if not trainer.get("packing"):
        return
    strategy = trainer_value(recipe.step, trainer, "packing_strategy")
    if strategy == "wrapped" and recipe.step != "pretrain":
        yield (
            "trainer.packing_strategy: wrapped cuts conversations in pieces that attend to each other; remove it "
            "(the default bfd keeps them apart)"
        )
    rows = trainer_value(recipe.step, trainer, "per_device_train_batch_size")
    flash = (recipe.model.attn_implementation or "").startswith(("flash", "kernels-community/"))
    if recipe.hardware.gpus_per_node and rows > 1 and strategy != "wrapped" and not flash:
        yield (
            f"trainer.per_device_train_batch_size: packing lays the {rows} rows end to end, and without flash "
            f"attention the mask grows with the square; write 1 and {rows} times gradient_accumulation_steps, or set "
            f"model.attn_implementation: flash_attention_2"
        )


def _of_reference(recipe: Recipe) -> Iterator[str]:
    if (beta := trainer_value("grpo", recipe.trainer, "beta")) < 0:
        yield f"trainer.beta: {beta:g} would reward the distance from the reference; give 0, or a number above it"
    if not recipe.trainer.get("sync_ref_model"):
        return
    if not trainer_value("grpo", recipe.trainer, "beta"):
        yield "trainer.sync_ref_model: with beta 0 there is no reference model; set trainer.beta, or remove it"
    if recipe.model.lora:
        yield (
            "trainer.sync_ref_model: with model.lora the reference is the model without its adapters, and nothing can "
            "replace it; remove one"
        )


def _of_reference_of_dpo(recipe: Recipe, accelerate_config: Mapping[str, Any]) -> Iterator[str]:
    if recipe.trainer.get("sync_ref_model"):
        yield (
            "trainer.sync_ref_model: no checkpoint has the reference, so a run that is taken up would not be the same; "
            "remove it"
        )
    loads_anew = recipe.trainer.get("precompute_ref_log_probs") and recipe.model.lora is None
    by_name = recipe.model.revision is not None and not is_path(recipe.model.name or ".")
    if loads_anew and by_name and accelerate_config.get("distributed_type") == "FSDP":
        yield (
            f"trainer.precompute_ref_log_probs: under {recipe.hardware.accelerate} TRL loads the reference anew, by "
            f"its name and not at model.revision; remove it, or use hardware.accelerate: zero2"
        )


def _of_dpo_and_rewards(recipe: Recipe) -> Iterator[str]:
    """What trl.DPOTrainer and trl.RewardTrainer read and then pass over."""
    trainer = recipe.trainer
    if recipe.step == "dpo":
        yield from _of_losses(recipe)
    if recipe.model.lora and recipe.model.lora.dropout and trainer_value(recipe.step, trainer, "disable_dropout"):
        yield (
            "model.lora.dropout: trainer.disable_dropout, which is on unless it is written down, switches it off; set "
            "trainer.disable_dropout: false, or remove it"
        )


def _of_losses(recipe: Recipe) -> Iterator[str]:
    """Numbers with which DPO's losses learn nothing, or the contrary of what was preferred."""
    trainer = recipe.trainer
    losses, beta, smoothing = (trainer_value("dpo", trainer, key) for key in ("loss_type", "beta", "label_smoothing"))
    losses = losses or ["sigmoid"]
    if beta <= 0 and set(losses) - set(LOSSES_WITHOUT_BETA):
        yield f"trainer.beta: {beta:g} would teach nothing, or the contrary; give a number above 0, e.g. 0.1"
    if smoothing and not set(losses) & set(SMOOTHED_LOSSES):
        yield f"trainer.label_smoothing: {', '.join(losses)} does not read it; use loss_type: [robust], or remove it"
    elif not 0 <= smoothing < 0.5:
        yield (
            f"trainer.label_smoothing: {smoothing:g} is the share of labels that are wrong; give a number from 0 to "
            f"below 0.5"
        )
    elif smoothing == 0 and "exo_pair" in losses:
        yield "trainer.label_smoothing: exo_pair takes its logarithm; give a number above 0, e.g. 0.001"
    weights = trainer.get("loss_weights")
    if weights is not None and len(weights) != len(losses):
        yield f"trainer.loss_weights: {len(weights)} for {len(losses)} in trainer.loss_type; give one for each"


def _of_vllm(recipe: Recipe) -> Iterator[str]:
    trainer, hardware = recipe.trainer, recipe.hardware
    if not trainer.get("use_vllm"):
        for key in trainer:
            if key.startswith("vllm_"):
                yield f"trainer.{key}: nothing reads it without trainer.use_vllm: true; remove it, or set that"
        return
    mode = trainer_value("grpo", trainer, "vllm_mode")
    if not hardware.gpus_per_node:
        yield "trainer.use_vllm: it needs a GPU, but hardware.gpus_per_node is 0; set that, or remove it"
    (other,) = (known for known in VLLM_MODES if known != mode)
    for key in KEYS_OF_MODE[other]:
        if key in trainer:
            mend = "give it to the server itself" if mode == "server" else "remove it"
            yield f"trainer.{key}: read with vllm_mode: {other} alone, but it is {mode}; {mend}"
    if trainer.get("use_transformers_continuous_batching"):
        yield "trainer.use_transformers_continuous_batching: vLLM samples (use_vllm); remove one of them"
    if recipe.grpo.max_generation_batch_size is not None:
        yield "grpo.max_generation_batch_size: vLLM makes its own batches (use_vllm) and never reads it; remove it"
    if mode == "server":
        return
    parallel = trainer_value("grpo", trainer, "vllm_tensor_parallel_size")
    if parallel < 1 or hardware.num_processes % parallel:
        yield (
            f"trainer.vllm_tensor_parallel_size: {hardware.num_processes} processes cannot be divided into groups of "
            f"{parallel}; give a divisor"
        )
    longest, completion = trainer.get("vllm_max_model_length"), trainer_value("grpo", trainer, "max_completion_length")
    if longest is not None and completion is not None and longest <= completion:
        yield (
            f"trainer.vllm_max_model_length: {longest} tokens are to hold a prompt and its completion, but "
            f"max_completion_length alone is {completion}; raise it, or completions are cut short"
        )


def _of_server_that_answers(recipe: Recipe) -> Iterator[str]:
    """A server for the steps that only ask: its model is the recipe's own."""
    for key in ("generate", "preferences", "evaluate"):
        section = getattr(recipe, key)
        if section is not None and section.endpoint is not None:
            yield f"hardware.vllm: {key}.endpoint is asked already; remove one"
    if recipe.step == "evaluate" and not recipe.model.name:
        yield "hardware.vllm: it serves one model; name it as model.name in place of evaluate.models"


def _of_server(recipe: Recipe) -> Iterator[str]:
    server = recipe.hardware.vllm
    if server is None:
        return
    if recipe.step not in STEPS_WITH_SERVER:
        yield f"hardware.vllm: step {recipe.step} has no server; remove it"
        return
    yield from _of_server_that_answers(recipe)
    asks = recipe.trainer.get("use_vllm") and recipe.trainer.get("vllm_mode") == "server"
    if recipe.step == "grpo" and not asks:
        yield "hardware.vllm: nothing asks the server; set trainer.use_vllm: true and trainer.vllm_mode: server"
    for key in ("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_group_port"):
        if key in recipe.trainer:
            yield f"trainer.{key}: hardware.vllm starts a server of its own; remove one"
    yield from _of_its_nodes(recipe, "hardware.vllm", server)


def _of_its_nodes(recipe: Recipe, key: str, server: VllmServer) -> Iterator[str]:
    if server.nodes == 0 and recipe.hardware.nodes > 1:
        yield f"{key}.nodes: beside several nodes that train the server needs its own; write nodes: 1"
    if server.data_parallel_size % max(1, server.nodes):
        yield (
            f"{key}.data_parallel_size: {server.data_parallel_size} copies cannot be dealt out over {server.nodes} "
            f"nodes; give a multiple"
        )


def _of_judge(recipe: Recipe) -> Iterator[str]:
    hardware = recipe.hardware
    if hardware.judge is not None:
        yield from _of_its_nodes(recipe, "hardware.judge", hardware.judge)
        asks = recipe.generate or recipe.preferences
        if recipe.judge and not hardware.gpus_per_node and not (asks and (asks.endpoint or hardware.vllm)):
            yield (
                f"hardware.gpus_per_node: 0 leaves the GPUs to hardware.judge, and all else of step {recipe.step} to "
                f"CPUs; write how many it has" + (", or add hardware.vllm" if asks else "")
            )
    elif judges_here(recipe) and hardware.vllm is not None and not hardware.gpus_per_node:
        yield (
            "judge.name: the GPUs are those of hardware.vllm, so it would judge on CPUs; add hardware.judge, or give "
            "judge.endpoint"
        )
