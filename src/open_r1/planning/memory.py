"""What a recipe needs of a GPU's memory, row by row, under its own layout or another one.

Nothing is loaded: the numbers follow from the architecture and the recipe. Upper bounds where a term depends on the
machine; a layer is counted without what liger's kernels save. tests/test_planning.py holds the formulas against what
autograd and AdamW keep.

H, Q, K, I, L, V: as in architecture.py; T tokens of one forward pass, P parameters, t of them trained, N processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from open_r1.benchmarks.table import BENCHMARKS
from open_r1.planning.architecture import Architecture
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.gpus import USABLE_SHARE, Gpu
from open_r1.planning.layouts import Layout
from open_r1.planning.work import (
    STEPS_OF_PAIRS,
    asking_section,
    endpoint_of,
    is_packed,
    longest_request,
    row_tokens,
    trains,
)
from open_r1.recipe import Recipe
from open_r1.recipe.trainer_fields import trainer_value

GIB = 2**30
HEAD_TILE_VALUES = 4096 * 32768  # TRL's chunked log-prob head computes so many logits at a time
ZERO_BUCKET_VALUES = 500_000_000  # DeepSpeed's reduce_bucket_size
ZERO_LIVE_VALUES = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
# Assumed, not computed: CUDA's context, libraries' workspaces, fragmentation; vLLM's workspace and CUDA graphs.
RESERVE_GIB, VLLM_WORKSPACE_GIB = 1.5, 2.0

TRAINING, SAMPLING, SERVING, JUDGING = (f"{what}, in all" for what in ("training", "sampling", "serving", "judging"))
TOTALS = (TRAINING, SAMPLING, SERVING, JUDGING)
COUNTS = ("completions at once", "verdicts at once")  # rows that are no GiB
FORMULAS = {
    "weights": "P x 4 bytes; x 2 in bf16 and under ZeRO; shared out (/ N) under ZeRO-3 and FSDP2; adapters 4",
    "gathered weights": "ZeRO-3: up to 1e9 live values x 2 bytes; FSDP2: two layers and the embeddings x 2 bytes",
    "bf16 copies": "t x 2 bytes, kept by autocast; LoRA: and the frozen ones of one layer",
    "gradients": "t x 4 bytes, twice under DDP; ZeRO: x (2 + 4) / N, and a bucket of 5e8 x 2 bytes; FSDP2: x 4 / N, "
    "and 2 bytes of the layer at work",
    "optimizer": "t x 8 bytes (AdamW), FSDP2: / N; ZeRO: x (8 + 4) / N, with the fp32 weights",
    "reference model": "as the weights, without LoRA; GRPO: with beta > 0; DPO: unless precompute_ref_log_probs",
    "reward model": "P x 4 bytes of each (rewards.N.dtype bfloat16: x 2), whole on every process",
    "judge": "as the weights of a model that only samples, whole on every process",
    "layer inputs": "T x H x L x bytes of the residual stream: what activation checkpointing keeps",
    "one layer": "T x (22 H + 4 Q + 8 K + 8 I) bytes, recomputed, + 6 I for gradients; bf16: 16 H + 6 K; fp32: 20 H + "
    "8 Q + 12 K + 16 I",
    "all layers": "without checkpointing L times what one layer keeps, and its input",
    "attention mask": "T x length x 3 bytes (bool, and bf16 for the kernel); none with flash attention",
    "LM head": "4096 x 32768 x 2 bytes of logits, + V x H x 4 if it is trained, + 14 T x H",
    "reward head": "14 T x H: one output for a text in the place of the LM head",
    "reserve": "assumed: CUDA context, libraries, fragmentation",
    TRAINING: "the above",
    "vLLM's share": "gpu_memory_utilization x the GPU (colocated: while sampling, if it sleeps while training)",
    "KV cache": "of that: less P x 2 bytes / tensor parallel size, less 2 GiB assumed for vLLM's workspace",
    "completions at once": "per engine: KV cache / (4 L x K bytes a token) / longest row: so many of full length",
    SAMPLING: "weights, optimizer, reference model, what samples, reserve",
    SERVING: "vLLM's share of a GPU that only serves",
    "rewarding": "a forward pass without gradients: batch_size x longest row x the larger of (4 H + 3 I) x bytes and "
    "(2 H + 4 Q + 2 K + longest row) x bytes, + 1 byte x longest row; of single rows no mask",
    "judge's share": "gpu_memory_utilization x a GPU of hardware.judge",
    "judge's KV cache": "batch_size requests of full length; of hardware.judge: as vLLM's",
    "verdicts at once": "of full length, as completions",
    JUDGING: "what is held while sampling, reward models and judge, what they keep, reserve; of hardware.judge: its "
    "share",
}


@dataclass(frozen=True)
class Raters:
    """The models that rate completions: those of rewards, by their position, and the judge where it is planned."""

    reward_models: Mapping[int, Architecture] = field(default_factory=dict)
    judge: Architecture | None = None


@dataclass(frozen=True)
class Memory:
    """GiB on each GPU by row (COUNTS are none); `cache_tokens` is what an engine's KV cache holds."""

    rows: dict[str, float] = field(default_factory=dict)
    cache_tokens: float | None = None
    """None: nothing is sampled, or memory does not limit it."""
    judge_cache_tokens: float | None = None
    """The same of the judge's."""

    @property
    def peak_gib(self) -> float:
        return max((self.rows[total] for total in TOTALS if total in self.rows), default=0.0)

    def fits(self, gpu: Gpu) -> bool:
        """True if every total fits on the GPU, and at least one completion of full length into each KV cache."""
        if gpu.gib is None:
            return True
        return self.peak_gib <= USABLE_SHARE * gpu.gib and all(self.rows.get(count, 1) >= 1 for count in COUNTS)


def memory_of(
    recipe: Recipe,
    architecture: Architecture | None,
    layout: Layout,
    gpu: Gpu,
    assumptions: Assumptions | None = None,
    teacher: Architecture | None = None,
    raters: Raters | None = None,
) -> Memory:
    """Memory of one step on each GPU. `teacher` is what `distill` samples from, `raters` rate its completions.

    Of a step that only asks endpoints, no rows; `architecture` can then be None.
    """
    assumptions, raters = assumptions or Assumptions(), raters or Raters()
    beside = _weights_beside(recipe, raters)
    memory = _of_step(recipe, architecture, layout, gpu, assumptions, teacher, sum(beside.values()))
    return _with_raters(recipe, raters, gpu, assumptions, memory, beside)


def _of_step(
    recipe: Recipe,
    architecture: Architecture | None,
    layout: Layout,
    gpu: Gpu,
    assumptions: Assumptions,
    teacher: Architecture | None,
    beside: float,
) -> Memory:
    """What the step itself needs, with `beside` GiB of other models on each process."""
    if not trains(recipe):
        return _of_asking(recipe, architecture, gpu, assumptions, beside)
    gib = {row: value / GIB for row, value in _training(recipe, architecture, layout, assumptions).items()}
    held = sum(gib.get(row, 0.0) for row in ("weights", "optimizer", "reference model"))
    gib[TRAINING] = sum(gib.values()) + beside
    if recipe.step == "distill" and teacher is not None:  # no endpoint
        tokens = limited(assumptions.longest_prompt_tokens + recipe.distill.max_completion_length, teacher)
        sampling = _of_generate(recipe, teacher, gpu, 0.0, recipe.distill.batch_size, tokens)
        added = {row: sampling.rows[row] for row in ("KV cache", "completions at once", SAMPLING)}
        return Memory(gib | added, sampling.cache_tokens)
    if recipe.step != "grpo":
        return Memory(gib)
    length = row_tokens(recipe, assumptions, architecture.max_positions)
    if not recipe.trainer.get("use_vllm"):
        sampling = _of_generate(recipe, architecture, gpu, held, _completions_at_once(recipe), length, beside)
        added = {row: sampling.rows[row] for row in ("KV cache", "completions at once", SAMPLING)}
        return Memory(gib | added, sampling.cache_tokens)
    return _with_vllm(recipe, architecture, gpu, gib, held + beside, length)


def _of_asking(
    recipe: Recipe, architecture: Architecture | None, gpu: Gpu, assumptions: Assumptions, beside: float
) -> Memory:
    """What answers the prompts of a step that only asks: transformers in each process, vLLM, or an endpoint."""
    if endpoint_of(recipe) is not None:
        return Memory()
    if (section := asking_section(recipe)) is not None:
        new_tokens, batch_size = section.max_completion_length, section.batch_size
    else:
        new_tokens, batch_size = recipe.evaluate.max_new_tokens or _most_new_tokens(recipe), recipe.evaluate.batch_size
    tokens = limited(assumptions.longest_prompt_tokens + new_tokens, architecture)
    server = recipe.hardware.vllm
    if server is None:
        return _of_generate(recipe, architecture, gpu, 0.0, batch_size, tokens, beside)
    tokens = min(tokens, server.max_model_length or tokens)
    utilization, parallel = server.gpu_memory_utilization, server.tensor_parallel_size
    rows, cache_tokens = _of_engine(architecture, gpu, utilization, parallel, tokens)
    return Memory(rows | {SERVING: rows["vLLM's share"]}, cache_tokens)


def _weights_beside(recipe: Recipe, raters: Raters) -> dict[str, float]:
    """GiB, by row, of the models that rate completions in each process: loaded once, they stay."""
    rows: dict[str, float] = {}
    if raters.reward_models:
        rows["reward model"] = sum(
            model.num_parameters * _bytes_of_reward_model(recipe, index) / GIB
            for index, model in raters.reward_models.items()
        )
    if raters.judge is not None and recipe.hardware.judge is None:
        rows["judge"] = raters.judge.num_parameters * (4 if recipe.model.dtype == "float32" else 2) / GIB
    return rows


def _bytes_of_reward_model(recipe: Recipe, index: int) -> int:
    return 4 if recipe.rewards[index].parameters.get("dtype", "float32") == "float32" else 2


def _with_raters(
    recipe: Recipe, raters: Raters, gpu: Gpu, assumptions: Assumptions, memory: Memory, beside: dict[str, float]
) -> Memory:
    """The memory of a step with that of what rates its completions."""
    if raters.judge is not None and (server := recipe.hardware.judge) is not None:
        length = limited(longest_request(recipe, assumptions), raters.judge)
        length = min(length, server.max_model_length or length)
        utilization, parallel = server.gpu_memory_utilization, server.tensor_parallel_size
        rows, cache_tokens = _of_engine(raters.judge, gpu, utilization, parallel, length)
        share = rows.pop("vLLM's share")
        named = {"judge's share": share, "judge's KV cache": rows["KV cache"]}
        named |= {"verdicts at once": rows["completions at once"], JUDGING: share}
        memory = replace(memory, rows=memory.rows | named, judge_cache_tokens=cache_tokens)
    if not beside:
        return memory
    held = _held(recipe, memory, beside)
    kept = {"rewarding": _rewarding(recipe, raters, assumptions)} if raters.reward_models else {}
    cache_tokens = memory.judge_cache_tokens
    if "judge" in beside:
        length = limited(longest_request(recipe, assumptions), raters.judge)
        own = _of_generate(recipe, raters.judge, gpu, held, recipe.judge.batch_size, length)
        kept |= {"judge's KV cache": own.rows["KV cache"], "verdicts at once": own.rows["completions at once"]}
        cache_tokens = own.cache_tokens
    in_all = held + max(kept.get("rewarding", 0.0), kept.get("judge's KV cache", 0.0)) + _reserve(recipe)
    in_all = max(in_all, memory.rows.get(JUDGING, 0.0))
    return Memory(memory.rows | beside | kept | {JUDGING: in_all}, memory.cache_tokens, cache_tokens)


def _held(recipe: Recipe, memory: Memory, beside: dict[str, float]) -> float:
    """GiB that stay on a process' GPU while completions are rated."""
    held = sum(memory.rows.get(row, 0.0) for row in ("weights", "optimizer", "reference model")) + sum(beside.values())
    colocated = recipe.trainer.get("use_vllm") and trainer_value("grpo", recipe.trainer, "vllm_mode") == "colocate"
    awake = colocated and not trainer_value("grpo", recipe.trainer, "vllm_enable_sleep_mode")
    return held + (memory.rows["vLLM's share"] if awake else 0.0)


def _rewarding(recipe: Recipe, raters: Raters, assumptions: Assumptions) -> float:
    """GiB of one layer of the largest forward pass of a reward model, its rows padded if there are several."""
    needed = [0.0]
    for index, model in raters.reward_models.items():
        given = recipe.rewards[index].parameters
        row = row_tokens(recipe, assumptions, model.max_positions)
        rows, length = given.get("batch_size", 16), min(row, given.get("max_length") or row)
        padded_length = length if rows > 1 else 0
        per_token = model.rating_bytes_per_token(_bytes_of_reward_model(recipe, index), padded_length)
        needed.append(rows * length * per_token / GIB)
    return max(needed)


def _reserve(recipe: Recipe) -> float:
    return RESERVE_GIB if recipe.hardware.gpus_per_node else 0.0


def limited(tokens: int, architecture: Architecture) -> int:
    """So many tokens, or as many as the model was made for."""
    return min(tokens, architecture.max_positions or tokens)


def uses_autocast(recipe: Recipe, layout: Layout) -> bool:
    """True if fp32 weights are multiplied in bf16."""
    bf16 = recipe.trainer.get("bf16")
    bf16 = not recipe.trainer.get("fp16") if bf16 is None else bf16
    return bf16 and recipe.model.dtype == "float32" and layout.kind in ("one", "cpu", "ddp")


def trained_parameters(recipe: Recipe, architecture: Architecture) -> int:
    """All, or those of the adapters."""
    lora = recipe.model.lora
    return architecture.num_lora_parameters(lora.r) if lora else architecture.num_parameters


def checkpoints_activations(recipe: Recipe) -> bool:
    return bool(trainer_value(recipe.step, recipe.trainer, "gradient_checkpointing"))


def uses_flash_attention(recipe: Recipe) -> bool:
    return (recipe.model.attn_implementation or "").startswith(("flash", "kernels-community/"))


def _training(recipe: Recipe, architecture: Architecture, layout: Layout, assumptions: Assumptions) -> dict[str, float]:
    """Bytes by row."""
    lora, parameters = recipe.model.lora, architecture.num_parameters
    trained = trained_parameters(recipe, architecture)
    autocast = uses_autocast(recipe, layout)
    share = layout.num_processes if layout.shares_weights else 1
    fp32 = layout.kind == "fsdp2" or (not layout.is_deepspeed and recipe.model.dtype == "float32")
    weight_bytes = 4 if fp32 else 2
    of_vocabulary = architecture.num_vocabulary_matrices * architecture.vocabulary * architecture.hidden
    layer_parameters = (parameters - of_vocabulary) / architecture.layers

    rows: dict[str, float] = {"weights": (parameters * weight_bytes + (4 * trained if lora else 0)) / share}
    if layout.shares_weights:
        live = min(parameters, ZERO_LIVE_VALUES)
        if layout.kind == "fsdp2":
            live = 2 * max(layer_parameters, 0) + of_vocabulary
        rows["gathered weights"] = 2 * live
    if layout.is_deepspeed:
        rows["gradients"] = 6 * trained / layout.num_processes + 2 * min(ZERO_BUCKET_VALUES, trained)
        rows["optimizer"] = 12 * trained / layout.num_processes
    elif layout.kind == "fsdp2":
        rows["gradients"] = 4 * trained / layout.num_processes + 2 * max(layer_parameters, 0)
        rows["optimizer"] = 8 * trained / layout.num_processes
    else:
        if autocast:
            rows["bf16 copies"] = 2 * (trained + (parameters / architecture.layers if lora else 0))
        exchanged = layout.kind == "ddp" or (layout.kind == "cpu" and layout.num_processes > 1)
        rows["gradients"] = 4 * trained * (2 if exchanged else 1)
        rows["optimizer"] = 8 * trained
    if keeps_reference(recipe):
        rows["reference model"] = parameters * weight_bytes / share
    residual_bytes = 2 if layout.is_deepspeed or layout.kind == "fsdp2" else weight_bytes
    return rows | _activations(recipe, architecture, residual_bytes, autocast, assumptions)


def keeps_reference(recipe: Recipe) -> bool:
    """True if the policy of the beginning stays in memory beside the one that is trained."""
    if recipe.model.lora is not None:
        return False
    if recipe.step == "dpo":
        return not recipe.trainer.get("precompute_ref_log_probs")
    return recipe.step == "grpo" and bool(trainer_value("grpo", recipe.trainer, "beta"))


def _activations(
    recipe: Recipe, architecture: Architecture, residual_bytes: int, autocast: bool, assumptions: Assumptions
) -> dict[str, float]:
    rows = trainer_value(recipe.step, recipe.trainer, "per_device_train_batch_size")
    row = row_tokens(recipe, assumptions, architecture.max_positions)
    num_tokens = rows * row * (2 if recipe.step in STEPS_OF_PAIRS else 1)
    # trl.SFTTrainer with packing makes one row of a batch; in GRPO a row is a prompt and its completion
    length = num_tokens if is_packed(recipe) else row
    product_bytes = 4 if residual_bytes == 4 and not autocast else 2
    layer = architecture.layer_bytes_per_token(residual_bytes, autocast)
    gradients = 3 * product_bytes * architecture.intermediate_used
    kept: dict[str, float] = {}
    inputs = num_tokens * architecture.hidden * residual_bytes * architecture.layers
    if checkpoints_activations(recipe):
        kept["layer inputs"] = inputs
        kept["one layer"] = num_tokens * (layer + gradients)
    else:
        kept["all layers"] = inputs + num_tokens * (layer * architecture.layers + gradients)
    if not uses_flash_attention(recipe):
        kept["attention mask"] = 3 * length * num_tokens
    if recipe.hardware.gpus_per_node:
        kept["reserve"] = RESERVE_GIB * GIB
    if architecture.rewards:
        return kept | {"reward head": 14 * num_tokens * architecture.hidden}
    trains_head = recipe.model.lora is None
    tile = product_bytes * min(HEAD_TILE_VALUES, num_tokens * architecture.vocabulary)
    head_gradient = 4 * architecture.vocabulary * architecture.hidden if trains_head else 0
    return kept | {"LM head": tile + head_gradient + 14 * num_tokens * architecture.hidden}


def _with_vllm(
    recipe: Recipe, architecture: Architecture, gpu: Gpu, gib: dict[str, float], held: float, length: int
) -> Memory:
    server = recipe.hardware.vllm
    colocated = trainer_value("grpo", recipe.trainer, "vllm_mode") == "colocate"
    if colocated:
        utilization = trainer_value("grpo", recipe.trainer, "vllm_gpu_memory_utilization")
        parallel = trainer_value("grpo", recipe.trainer, "vllm_tensor_parallel_size")
    elif server is not None:
        utilization, parallel = server.gpu_memory_utilization, server.tensor_parallel_size
    else:
        return Memory(gib)  # a server that somebody else has started
    rows, cache_tokens = _of_engine(architecture, gpu, utilization, parallel, length)
    gib |= rows
    share = rows["vLLM's share"]
    if colocated:
        if not trainer_value("grpo", recipe.trainer, "vllm_enable_sleep_mode"):
            gib[TRAINING] += share
        gib[SAMPLING] = held + share + RESERVE_GIB
    else:
        gib[SERVING] = share
    return Memory(gib, cache_tokens)


def _of_engine(
    architecture: Architecture, gpu: Gpu, utilization: float, parallel: int, length: int
) -> tuple[dict[str, float], float]:
    """Rows of one GPU of a vLLM engine over `parallel` of them, and the tokens that the engine's KV cache holds."""
    share = utilization * (gpu.gib or 0)
    cache = share - 2 * architecture.num_parameters / parallel / GIB - VLLM_WORKSPACE_GIB
    cache_tokens = max(0.0, cache) * GIB * _kv_shares(architecture, parallel) / architecture.key_value_bytes_per_token
    rows = {"vLLM's share": share, "KV cache": cache, "completions at once": cache_tokens / length}
    return rows, cache_tokens


def _kv_shares(architecture: Architecture, parallel: int) -> int:
    """Over how many GPUs of an engine the KV cache is shared: by heads; DeepSeek's short vector has one."""
    return 1 if architecture.latent is not None else min(parallel, architecture.key_value_heads)


def _of_generate(
    recipe: Recipe,
    architecture: Architecture,
    gpu: Gpu,
    held: float,
    completions: int,
    length: int,
    beside: float = 0.0,
) -> Memory:
    """transformers' generate, which halves the completions at once until they fit. `held`: GiB, 0: nothing else is.

    `beside`: GiB of models that do something else.
    """
    fp32 = recipe.model.dtype == "float32"
    own = held or architecture.num_parameters * (4 if fp32 else 2) / GIB
    reserve = _reserve(recipe)
    per_token = architecture.key_value_bytes_per_token * (2 if fp32 else 1) / GIB
    cache_tokens = None
    if gpu.gib is not None:
        cache_tokens = max(0.0, USABLE_SHARE * gpu.gib - own - beside - reserve) / per_token
        while completions > 1 and completions * length > cache_tokens:
            completions //= 2
    cache = completions * length * per_token
    rows = {"weights": own, "reserve": reserve, "KV cache": cache, "completions at once": float(completions)}
    return Memory(rows | {SAMPLING: own + beside + reserve + cache}, cache_tokens)


def _completions_at_once(recipe: Recipe) -> int:
    keys = ("per_device_train_batch_size", "steps_per_generation", "gradient_accumulation_steps")
    rows_at_once, every, micro_steps = (trainer_value("grpo", recipe.trainer, key) for key in keys)
    rows = rows_at_once * (every or micro_steps)
    return min(rows, recipe.grpo.max_generation_batch_size or rows)


def _most_new_tokens(recipe: Recipe) -> int:
    known = [BENCHMARKS[name].max_new_tokens for name in recipe.evaluate.benchmarks if name in BENCHMARKS]
    return max(known, default=1)
