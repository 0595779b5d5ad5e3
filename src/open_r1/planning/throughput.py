"""Work and hardware -> seconds. Every constant is one of the Assumptions or a number of the GPU's data sheet.

Training: FLOP / (GPUs x FLOP/s x compute_share), with N parameters multiplied for each token and F the FLOP of
attention in a forward pass:

    forward 2 N + F, backward twice that (LoRA: once, frozen weights have no gradient), and the forward again where
    activations are checkpointed; for each pass over log-probabilities (reference, old policy) 2 N + F, as for each
    token that a reward model reads, with its own N and F

Decoding, of one engine's share of a rollout, n completions of m tokens in the mean, c of them at once:

    steps = longest + (n / c - 1) m                     longest: as the mean and n make it likely, at most what may be
    bytes = steps x weights read + tokens x (prompt + m) x KV bytes a token
    seconds = max(bytes / (bandwidth x bandwidth_share), FLOP / (FLOP/s x compute_share)) + steps x overhead

Lengths are taken to fall off exponentially: so a token that is decoded has prompt + m behind it in the mean, and the
longest of n has m (ln n + 0.58). c is what the KV cache holds of such. Weights read: all of a dense model, of a MoE the
experts that c tokens hit. Prefill is a forward pass over the prompts. A judge's verdicts are completions like others,
whose prompts hold what is judged.
"""

from dataclasses import dataclass, field

from open_r1.planning.architecture import Architecture
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.gpus import Gpu
from open_r1.planning.layouts import Layout
from open_r1.planning.memory import Memory, Raters, checkpoints_activations, uses_flash_attention
from open_r1.planning.work import EVALUATIONS, Sampling, Work, endpoint_of, is_packed, trains
from open_r1.recipe import Endpoint, Recipe
from open_r1.recipe.trainer_fields import trainer_value

TERA, GIGA, HOUR = 1e12, 1e9, 3600.0
REQUESTS_PER_COPY = Endpoint.model_fields["max_concurrent_requests"].default  # that a step has under way at its server


@dataclass(frozen=True)
class Engines:
    """What samples: `number` copies of the model, each over `gpus_each` GPUs."""

    number: int
    gpus_each: int
    seconds_per_step: float
    """Beside memory and arithmetic."""
    cache_tokens: float | None
    weight_bytes: int
    most_at_once: int | None = None
    """Completions that each is asked for at a time; None: all that it is to sample."""


@dataclass(frozen=True)
class Time:
    """Seconds of a whole run by what takes them, one after the other: nobody samples while the policy is trained."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / HOUR


def time_of(
    recipe: Recipe,
    architecture: Architecture | None,
    layout: Layout,
    gpu: Gpu,
    work: Work,
    memory: Memory,
    assumptions: Assumptions,
    sampled: dict[str, Architecture],
    raters: Raters | None = None,
) -> Time | None:
    """Seconds of a step; None if its steps are not known, or an endpoint answers all. `sampled`: Sampling.model's."""
    asks_endpoint, raters = endpoint_of(recipe) is not None, raters or Raters()
    if work.steps is None or (asks_endpoint and not trains(recipe)):
        return None
    seconds: dict[str, float] = {}
    if work.steps:
        passes = 3.0 if recipe.model.lora is None else 2.0
        passes += 1.0 if checkpoints_activations(recipe) else 0.0
        forward = forward_seconds(recipe, architecture, gpu, work, assumptions)
        seconds["training"] = passes * forward
        logprobs = passes_over_logprobs(recipe)
        if logprobs:
            seconds["log-probabilities"] = logprobs * forward
    engines = engines_of(recipe, architecture, gpu, memory, assumptions)
    for sampling in work.sampling if not asks_endpoint else ():
        of_model = sampled[sampling.model] if sampling.model else architecture
        name = "sampling" if recipe.step != "evaluate" else f"sampling {sampling.what}"
        if sampling.what == EVALUATIONS:
            name = EVALUATIONS
        seconds[name] = sampling.num_rollouts * rollout_seconds(of_model, engines, gpu, sampling, assumptions)
        if name == "sampling" and recipe.step == "grpo" and recipe.trainer.get("use_vllm"):
            sync = 2 * of_model.num_parameters / (assumptions.weight_sync_gb_per_second * GIGA)
            seconds["weight sync"] = sampling.num_rollouts * sync
    for index, model in raters.reward_models.items():
        tokens = work.tokens_of_reward_models.get(index, 0.0)
        context = work.sampling[0].prompt_tokens + work.sampling[0].completion_tokens
        flop = tokens * (2 * model.num_multiplied + model.attention_flop(context))
        passed = flop / (units_of(recipe) * gpu.tflops * TERA * assumptions.compute_share)
        seconds["reward models"] = seconds.get("reward models", 0.0) + passed
    if raters.judge is not None and work.judging is not None and work.judging.completions:
        judges = judging_engines(recipe, raters.judge, memory, assumptions)
        rounds = work.judging.num_rollouts
        seconds["judging"] = rounds * rollout_seconds(raters.judge, judges, gpu, work.judging, assumptions)
    if recipe.hardware.gpus_per_node or recipe.hardware.vllm is not None or recipe.hardware.judge is not None:
        seconds["start"] = assumptions.start_seconds
    return Time(seconds)


def forward_seconds(
    recipe: Recipe, architecture: Architecture, gpu: Gpu, work: Work, assumptions: Assumptions
) -> float:
    """Seconds of a forward pass over every token that is trained on, by all processes."""
    context = work.tokens_per_row / 2
    if not uses_flash_attention(recipe) and recipe.hardware.gpus_per_node:
        context = work.tokens_per_row  # a mask is multiplied in, what it hides computed
    if is_packed(recipe) and not uses_flash_attention(recipe):
        context = work.row_tokens
    flop = work.tokens * (2 * architecture.num_multiplied + architecture.attention_flop(context))
    return flop / (units_of(recipe) * gpu.tflops * TERA * assumptions.compute_share)


def passes_over_logprobs(recipe: Recipe) -> float:
    """Forward passes beside the one that is trained: TRL's old log-probabilities, the reference.

    DPO's reference reads every pair in every epoch, or once before them with precompute_ref_log_probs.
    """
    if recipe.step == "dpo":
        once = recipe.trainer.get("precompute_ref_log_probs") and recipe.trainer.get("max_steps", -1) <= 0
        return 1 / recipe.trainer.get("num_train_epochs", 3) if once else 1
    if recipe.step != "grpo":
        return 0

    def value(key: str):
        return trainer_value("grpo", recipe.trainer, key)

    every = (value("steps_per_generation") or value("gradient_accumulation_steps")) * (value("num_iterations") or 1)
    corrected = recipe.trainer.get("use_vllm") and value("vllm_importance_sampling_correction")
    old = bool(corrected or value("gradient_accumulation_steps") % every)
    return int(old) + int(bool(value("beta")))


def engines_of(
    recipe: Recipe, architecture: Architecture, gpu: Gpu, memory: Memory, assumptions: Assumptions
) -> Engines:
    """What samples for a recipe: vLLM beside the trainer, a vLLM server, or transformers' generate in each process.

    A step that only asks its server has REQUESTS_PER_COPY requests under way for each copy of the model.
    """
    hardware = recipe.hardware
    if recipe.step == "grpo" and recipe.trainer.get("use_vllm"):
        if trainer_value("grpo", recipe.trainer, "vllm_mode") == "colocate":
            parallel = trainer_value("grpo", recipe.trainer, "vllm_tensor_parallel_size")
            return Engines(max(1, hardware.num_processes // parallel), parallel, 0.0, memory.cache_tokens, 2)
        server = hardware.vllm
        parallel, copies = (server.tensor_parallel_size, server.data_parallel_size) if server else (1, 1)
        return Engines(copies, parallel, 0.0, memory.cache_tokens, 2)
    if not trains(recipe) and hardware.vllm is not None:
        server = hardware.vllm
        parallel, copies = server.tensor_parallel_size, server.data_parallel_size
        return Engines(copies, parallel, 0.0, memory.cache_tokens, 2, REQUESTS_PER_COPY)
    return _in_each_process(recipe, architecture, memory.cache_tokens, assumptions)


def judging_engines(recipe: Recipe, judge: Architecture, memory: Memory, assumptions: Assumptions) -> Engines:
    """What judges for a recipe: the server of hardware.judge, or transformers' generate in each process."""
    server = recipe.hardware.judge
    if server is not None:
        parallel, copies = server.tensor_parallel_size, server.data_parallel_size
        return Engines(copies, parallel, 0.0, memory.judge_cache_tokens, 2, REQUESTS_PER_COPY)
    return _in_each_process(recipe, judge, memory.judge_cache_tokens, assumptions)


def _in_each_process(
    recipe: Recipe, model: Architecture, cache_tokens: float | None, assumptions: Assumptions
) -> Engines:
    """transformers' generate."""
    number = 1 if recipe.step == "evaluate" else recipe.hardware.num_processes
    overhead = assumptions.seconds_per_layer * model.layers
    weight_bytes = 4 if recipe.model.dtype == "float32" else 2
    threads = threads_of(recipe) if not recipe.hardware.gpus_per_node else 1
    return Engines(number, threads, overhead, cache_tokens, weight_bytes)


def rollout_seconds(
    architecture: Architecture, engines: Engines, gpu: Gpu, sampling: Sampling, assumptions: Assumptions
) -> float:
    """Seconds until the last completion of one rollout is there; the module's first lines say how."""
    completions = max(1.0, sampling.completions / engines.number)
    mean, context = sampling.completion_tokens, sampling.prompt_tokens + sampling.completion_tokens
    at_once = min(completions, engines.most_at_once or completions)
    if engines.cache_tokens is not None:
        at_once = max(1.0, min(at_once, engines.cache_tokens / context))
    steps = sampling.longest_tokens + (completions / at_once - 1) * mean
    tokens = completions * mean
    weights = architecture.num_parameters_read(tokens / steps) * engines.weight_bytes
    kv_bytes = architecture.key_value_bytes_per_token * engines.weight_bytes / 2
    bandwidth = engines.gpus_each * gpu.gb_per_second * GIGA * assumptions.bandwidth_share
    flops = engines.gpus_each * gpu.tflops * TERA * assumptions.compute_share
    flop_per_token = 2 * architecture.num_multiplied + architecture.attention_flop(context)
    decoding = max((steps * weights + tokens * context * kv_bytes) / bandwidth, tokens * flop_per_token / flops)
    prefill = completions * sampling.prompt_tokens * 2 * architecture.num_multiplied / flops
    return decoding + prefill + steps * engines.seconds_per_step


def units_of(recipe: Recipe) -> int:
    """GPUs that train, or threads where there are none: the planner's `cpu` is one thread."""
    hardware = recipe.hardware
    return hardware.num_processes * (1 if hardware.gpus_per_node else threads_of(recipe))


def threads_of(recipe: Recipe) -> int:
    """Threads of a process; one where the recipe leaves it to the machine."""
    return recipe.hardware.threads_per_process or 1
