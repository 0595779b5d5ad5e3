"""What a recipe needs of a GPU's memory, row by row, under its own layout or another one.

Nothing is loaded: the numbers follow from the architecture and the recipe. Upper bounds where a term depends on the
machine; a layer is counted without what liger's kernels save. tests/test_planning.py holds the formulas against what
autograd and AdamW keep.

H, Q, K, I, L, V: as in architecture.py; T tokens of one forward pass, P parameters, t of them trained, N processes.
"""

from dataclasses import dataclass, field

from open_r1.benchmarks.table import BENCHMARKS
from open_r1.planning.architecture import Architecture
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.gpus import USABLE_SHARE, Gpu
from open_r1.planning.layouts import Layout
from open_r1.planning.work import endpoint_of, is_packed, row_tokens, trains
from open_r1.recipe import Recipe
from open_r1.recipe.trainer_fields import trainer_value

GIB = 2**30
HEAD_TILE_VALUES = 4096 * 32768  # TRL's chunked log-prob head computes so many logits at a time
ZERO_BUCKET_VALUES = 500_000_000  # DeepSpeed's reduce_bucket_size
ZERO_LIVE_VALUES = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
# Assumed, not computed: CUDA's context, libraries' workspaces, fragmentation; vLLM's workspace and CUDA graphs.
RESERVE_GIB, VLLM_WORKSPACE_GIB = 1.5, 2.0

TRAINING, SAMPLING, SERVING = "training, in all", "sampling, in all", "serving, in all"
TOTALS = (TRAINING, SAMPLING, SERVING)
FORMULAS = {
    "weights": "P x 4 bytes; x 2 in bf16 and under ZeRO; shared out (/ N) under ZeRO-3 and FSDP2; adapters 4",
    "gathered weights": "ZeRO-3: up to 1e9 live values x 2 bytes; FSDP2: two layers and the embeddings x 2 bytes",
    "bf16 copies": "t x 2 bytes, kept by autocast; LoRA: and the frozen ones of one layer",
    "gradients": "t x 4 bytes, twice under DDP; ZeRO: x (2 + 4) / N, and a bucket of 5e8 x 2 bytes; FSDP2: x 4 / N, "
    "and 2 bytes of the layer at work",
    "optimizer": "t x 8 bytes (AdamW), FSDP2: / N; ZeRO: x (8 + 4) / N, with the fp32 weights",
    "reference model": "as the weights; only with beta > 0 and without LoRA",
    "layer inputs": "T x H x L x bytes of the residual stream: what activation checkpointing keeps",
    "one layer": "T x (22 H + 4 Q + 8 K + 8 I) bytes, recomputed, + 6 I for gradients; bf16: 16 H + 6 K; fp32: 20 H + "
    "8 Q + 12 K + 16 I",
    "all layers": "without checkpointing L times what one layer keeps, and its input",
    "attention mask": "T x length x 3 bytes (bool, and bf16 for the kernel); none with flash attention",
    "LM head": "4096 x 32768 x 2 bytes of logits, + V x H x 4 if it is trained, + 14 T x H",
    "reserve": "assumed: CUDA context, libraries, fragmentation",
    TRAINING: "the above",
    "vLLM's share": "gpu_memory_utilization x the GPU (colocated: while sampling, if it sleeps while training)",
    "KV cache": "of that: less P x 2 bytes / tensor parallel size, less 2 GiB assumed for vLLM's workspace",
    "completions at once": "per engine: KV cache / (4 L x K bytes a token) / longest row: so many of full length",
    SAMPLING: "weights, optimizer, reference model, what samples, reserve",
    SERVING: "vLLM's share of a GPU that only serves",
}


@dataclass(frozen=True)
class Memory:
    """GiB on each GPU by row (`completions at once` is a count); `cache_tokens` is what an engine's KV cache holds."""

    rows: dict[str, float] = field(default_factory=dict)
    cache_tokens: float | None = None
    """None: nothing is sampled, or memory does not limit it."""

    @property
    def peak_gib(self) -> float:
        return max((self.rows[total] for total in TOTALS if total in self.rows), default=0.0)

    def fits(self, gpu: Gpu) -> bool:
        """True if every total fits on the GPU, and at least one completion of full length into the KV cache."""
        if gpu.gib is None:
            return True
        return self.peak_gib <= USABLE_SHARE * gpu.gib and self.rows.get("completions at once", 1) >= 1


def memory_of(
    recipe: Recipe,
    architecture: Architecture | None,
    layout: Layout,
    gpu: Gpu,
    assumptions: Assumptions | None = None,
    teacher: Architecture | None = None,
) -> Memory:
    """Memory of one step on each GPU. `teacher` is what `distill` samples from.

    Of a step that only asks an endpoint, no rows; `architecture` can then be None.
    """
    assumptions = assumptions or Assumptions()
    if not trains(recipe):
        return _of_asking(recipe, architecture, gpu, assumptions)
    gib = {row: value / GIB for row, value in _training(recipe, architecture, layout, assumptions).items()}
    held = sum(gib.get(row, 0.0) for row in ("weights", "optimizer", "reference model"))
    gib[TRAINING] = sum(gib.values())
    if recipe.step == "distill" and teacher is not None:  # no endpoint
        tokens = limited(assumptions.longest_prompt_tokens + recipe.distill.max_completion_length, teacher)
        sampling = _of_generate(recipe, teacher, gpu, 0.0, recipe.distill.batch_size, tokens)
        added = {row: sampling.rows[row] for row in ("KV cache", "completions at once", SAMPLING)}
        return Memory(gib | added, sampling.cache_tokens)
    if recipe.step != "grpo":
        return Memory(gib)
    length = row_tokens(recipe, assumptions, architecture.max_positions)
    if not recipe.trainer.get("use_vllm"):
        sampling = _of_generate(recipe, architecture, gpu, held, _completions_at_once(recipe), length)
        added = {row: sampling.rows[row] for row in ("KV cache", "completions at once", SAMPLING)}
        return Memory(gib | added, sampling.cache_tokens)
    return _with_vllm(recipe, architecture, gpu, gib, held, length)


def _of_asking(recipe: Recipe, architecture: Architecture | None, gpu: Gpu, assumptions: Assumptions) -> Memory:
    """What answers the prompts of `generate` and `evaluate`: transformers in each process, vLLM, or an endpoint."""
    if endpoint_of(recipe) is not None:
        return Memory()
    if recipe.step == "generate":
        new_tokens, batch_size = recipe.generate.max_completion_length, recipe.generate.batch_size
    else:
        new_tokens, batch_size = recipe.evaluate.max_new_tokens or _most_new_tokens(recipe), recipe.evaluate.batch_size
    tokens = limited(assumptions.longest_prompt_tokens + new_tokens, architecture)
    server = recipe.hardware.vllm
    if server is None:
        return _of_generate(recipe, architecture, gpu, 0.0, batch_size, tokens)
    tokens = min(tokens, server.max_model_length or tokens)
    utilization, parallel = server.gpu_memory_utilization, server.tensor_parallel_size
    rows, cache_tokens = _of_engine(architecture, gpu, utilization, parallel, tokens)
    return Memory(rows | {SERVING: rows["vLLM's share"]}, cache_tokens)


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
    layer_parameters = (parameters - 2 * architecture.vocabulary * architecture.hidden) / architecture.layers

    rows: dict[str, float] = {"weights": (parameters * weight_bytes + (4 * trained if lora else 0)) / share}
    if layout.shares_weights:
        live = min(parameters, ZERO_LIVE_VALUES)
        if layout.kind == "fsdp2":
            live = 2 * max(layer_parameters, 0) + 2 * architecture.vocabulary * architecture.hidden
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
    if recipe.step == "grpo" and not lora and trainer_value("grpo", recipe.trainer, "beta"):
        rows["reference model"] = parameters * weight_bytes / share
    residual_bytes = 2 if layout.is_deepspeed or layout.kind == "fsdp2" else weight_bytes
    return rows | _activations(recipe, architecture, residual_bytes, autocast, assumptions)


def _activations(
    recipe: Recipe, architecture: Architecture, residual_bytes: int, autocast: bool, assumptions: Assumptions
) -> dict[str, float]:
    rows = trainer_value(recipe.step, recipe.trainer, "per_device_train_batch_size")
    row = row_tokens(recipe, assumptions, architecture.max_positions)
    num_tokens = rows * row
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
    trains_head = recipe.model.lora is None
    tile = product_bytes * min(HEAD_TILE_VALUES, num_tokens * architecture.vocabulary)
    head_gradient = 4 * architecture.vocabulary * architecture.hidden if trains_head else 0
    kept["LM head"] = tile + head_gradient + 14 * num_tokens * architecture.hidden
    if recipe.hardware.gpus_per_node:
        kept["reserve"] = RESERVE_GIB * GIB
    return kept


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
    recipe: Recipe, architecture: Architecture, gpu: Gpu, held: float, completions: int, length: int
) -> Memory:
    """transformers' generate, which halves the completions at once until they fit. `held`: GiB, 0: nothing else is."""
    fp32 = recipe.model.dtype == "float32"
    own = held or architecture.num_parameters * (4 if fp32 else 2) / GIB
    reserve = RESERVE_GIB if recipe.hardware.gpus_per_node else 0.0
    per_token = architecture.key_value_bytes_per_token * (2 if fp32 else 1) / GIB
    cache_tokens = None
    if gpu.gib is not None:
        cache_tokens = max(0.0, USABLE_SHARE * gpu.gib - own - reserve) / per_token
        while completions > 1 and completions * length > cache_tokens:
            completions //= 2
    cache = completions * length * per_token
    rows = {"weights": own, "reserve": reserve, "KV cache": cache, "completions at once": float(completions)}
    return Memory(rows | {SAMPLING: own + reserve + cache}, cache_tokens)


def _completions_at_once(recipe: Recipe) -> int:
    keys = ("per_device_train_batch_size", "steps_per_generation", "gradient_accumulation_steps")
    rows_at_once, every, micro_steps = (trainer_value("grpo", recipe.trainer, key) for key in keys)
    rows = rows_at_once * (every or micro_steps)
    return min(rows, recipe.grpo.max_generation_batch_size or rows)


def _most_new_tokens(recipe: Recipe) -> int:
    known = [BENCHMARKS[name].max_new_tokens for name in recipe.evaluate.benchmarks if name in BENCHMARKS]
    return max(known, default=1)
