"""What to change in a recipe that does not fit, as overrides that make it fit: computed, not guessed."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from open_r1.incompatible import incompatible_settings, judges_here
from open_r1.places import ACCELERATE_CONFIGS
from open_r1.planning.layouts import LAYOUTS, Layout, layout_of
from open_r1.planning.memory import (
    Memory,
    checkpoints_activations,
    keeps_reference,
    memory_of,
    uses_flash_attention,
)
from open_r1.planning.plan import Plan
from open_r1.planning.work import asking_section, trains
from open_r1.recipe import Recipe, RecipeError, parse_recipe
from open_r1.recipe.trainer_fields import trainer_value
from open_r1.rewards import models_of_rewards

MAX_CHANGES = 3  # more at once are another recipe
MAX_MENDS = 4
DTYPES = {"ddp": "float32", "zero2": "bfloat16", "zero3": "bfloat16", "fsdp2": "float32"}


@dataclass(frozen=True)
class Mend:
    """Overrides (dotted key -> value) that make a recipe fit, and the memory that it then needs."""

    overrides: Mapping[str, Any]
    memory: Memory

    def __str__(self) -> str:
        """As one types it after ARGS=."""
        return " ".join(f"{key}={_as_typed(value)}" for key, value in self.overrides.items())


def mends_of(plan: Plan) -> list[Mend]:
    """The smallest sets of changes that make the recipe fit, at most MAX_MENDS; none if it does, or none can."""
    if plan.fits:
        return []
    groups = [list(group) for group in _candidates(plan.recipe) if group]
    for number in range(1, MAX_CHANGES + 1):
        found = []
        for chosen in itertools.combinations(groups, number):
            mend = next((m for m in map(lambda c: _tried(plan, c), itertools.product(*chosen)) if m), None)
            if mend is not None:
                found.append(mend)
        if found:
            return sorted(found, key=lambda mend: mend.memory.peak_gib)[:MAX_MENDS]
    return []


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys set. Raises RecipeError if it is then wrong."""
    values = recipe.model_dump(mode="python", exclude_defaults=True)
    values["step"] = recipe.step
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        here = values
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
        here[last] = value
    return parse_recipe(values, recipe.source)


def compared(plan: Plan) -> dict[str, Memory]:
    """Title -> memory on the same GPUs under each layout that can be; without LoRA too, where the recipe has it.

    Weights are loaded as each layout wants them, whatever the recipe says. Empty for a step that trains nothing.
    """
    if not trains(plan.recipe) or plan.layout.kind == "cpu":
        return {}
    variants = {"": plan.recipe}
    if plan.recipe.model.lora is not None:
        whole = plan.recipe.model.model_copy(update={"lora": None})
        variants = {" with LoRA": plan.recipe, ", all weights": _copy(plan.recipe, model=whole)}
    found = {}
    for suffix, recipe in variants.items():
        for kind in LAYOUTS:
            layout = Layout(
                kind if plan.layout.num_processes > 1 or kind != "ddp" else "one", plan.layout.num_processes
            )
            if layout.shares_weights and _needs_whole_weights(recipe):
                continue
            of_dtype = _copy(recipe, model=recipe.model.model_copy(update={"dtype": DTYPES[kind]}))
            memory = _memory(plan, of_dtype, layout)
            found[f"{layout.title}{suffix}"] = memory
    return found


def _needs_whole_weights(recipe: Recipe) -> bool:
    """True if `make check` refuses shares: adapters are merged into the weights, or each process loads what rates."""
    return recipe.model.lora is not None or bool(models_of_rewards(recipe)) or judges_here(recipe)


def _memory(plan: Plan, recipe: Recipe, layout: Layout) -> Memory:
    """The memory of a variant of the plan's recipe."""
    return memory_of(recipe, plan.architecture, layout, plan.gpu, plan.assumptions, plan.teacher, plan.raters)


def _copy(recipe: Recipe, **update: Any) -> Recipe:
    copied = recipe.model_copy(update=update)
    copied._source = recipe.source
    return copied


def _candidates(recipe: Recipe) -> Iterator[list[dict[str, Any]]]:
    """Groups of changes; of each group at most one is made. Mild ones first."""
    yield from _for_raters(recipe)
    if not trains(recipe):
        if recipe.hardware.vllm is not None:
            yield _more_gpus_each(recipe, "vllm")
            return
        section = recipe.evaluate or asking_section(recipe)
        yield [{"model.dtype": "bfloat16"}]
        yield [{f"{recipe.step}.batch_size": n} for n in _halves(section.batch_size)]
        return
    if not checkpoints_activations(recipe):
        yield [{"trainer.gradient_checkpointing": True}]
    rows = trainer_value(recipe.step, recipe.trainer, "per_device_train_batch_size")
    micro_steps = trainer_value(recipe.step, recipe.trainer, "gradient_accumulation_steps")
    yield [_fewer_rows(recipe, rows, micro_steps, fewer) for fewer in _halves(rows)]
    if not uses_flash_attention(recipe):
        yield [{"model.attn_implementation": "flash_attention_2"}]
    if recipe.trainer.get("use_vllm"):
        yield _vllm_shares(recipe)
    layout = layout_of(recipe)
    if layout.num_processes > 1:
        kinds = LAYOUTS[1 + LAYOUTS.index(layout.kind) if layout.kind in LAYOUTS else 1 :]
        yield [{"hardware.accelerate": kind, "model.dtype": DTYPES[kind]} for kind in kinds]
    nodes = recipe.hardware.nodes
    if layout.kind != "one":
        yield [{"hardware.nodes": more} for more in (2 * nodes, 4 * nodes, 8 * nodes)]
    if recipe.model.lora is None:
        yield [{"model.lora": {"r": 32, "alpha": 64}}]
    if recipe.step == "dpo" and keeps_reference(recipe):
        yield [{"trainer.precompute_ref_log_probs": True}]
    if recipe.step == "grpo" and keeps_reference(recipe):
        yield [{"trainer.beta": 0.0, "trainer.sync_ref_model": False}]
    key = "max_completion_length" if recipe.step == "grpo" else "max_length"
    longest = trainer_value(recipe.step, recipe.trainer, key)
    if longest:
        yield [_shorter(recipe, key, longest, shorter) for shorter in (longest // 2, longest // 4)]


def _halves(number: int) -> list[int]:
    halves = []
    while number > 1:
        number //= 2
        halves.append(number)
    return halves


def _fewer_rows(recipe: Recipe, rows: int, micro_steps: int, fewer: int) -> dict[str, Any]:
    """Fewer rows at once, the same batch."""
    factor = rows // fewer
    change = {"trainer.per_device_train_batch_size": fewer, "trainer.gradient_accumulation_steps": micro_steps * factor}
    if recipe.trainer.get("steps_per_generation"):
        change["trainer.steps_per_generation"] = recipe.trainer["steps_per_generation"] * factor
    return change


def _vllm_shares(recipe: Recipe) -> list[dict[str, Any]]:
    if trainer_value("grpo", recipe.trainer, "vllm_mode") == "colocate":
        now = trainer_value("grpo", recipe.trainer, "vllm_gpu_memory_utilization")
        shares = sorted((n / 20 for n in range(4, 17)), key=lambda share: abs(share - now))
        asleep = {"trainer.vllm_enable_sleep_mode": True}
        return [{**asleep, "trainer.vllm_gpu_memory_utilization": share} for share in shares]
    return [] if recipe.hardware.vllm is None else _more_gpus_each(recipe, "vllm")


def _more_gpus_each(recipe: Recipe, server: str) -> list[dict[str, Any]]:
    """Copies of the model that `hardware.vllm` or `hardware.judge` serves over more GPUs each."""
    parallel = getattr(recipe.hardware, server).tensor_parallel_size
    return [{f"hardware.{server}.tensor_parallel_size": parallel * factor} for factor in (2, 4, 8)]


def _for_raters(recipe: Recipe) -> Iterator[list[dict[str, Any]]]:
    """Of reward models fewer conversations at once, coarser weights; of a judge more GPUs, fewer verdicts at once."""
    for index, _ in models_of_rewards(recipe):
        given = recipe.rewards[index].parameters
        fewer = _halves(given.get("batch_size", 16))
        yield [{f"rewards.{index}.batch_size": n} for n in fewer]
        if given.get("dtype", "float32") == "float32":
            yield [{f"rewards.{index}.dtype": "bfloat16"}]
    if recipe.hardware.judge is not None:
        yield _more_gpus_each(recipe, "judge")


def _shorter(recipe: Recipe, key: str, longest: int, shorter: int) -> dict[str, Any]:
    change = {f"trainer.{key}": shorter}
    if recipe.trainer.get("vllm_max_model_length"):
        change["trainer.vllm_max_model_length"] = recipe.trainer["vllm_max_model_length"] - longest + shorter
    return change


def _tried(plan: Plan, changes: tuple[dict[str, Any], ...]) -> Mend | None:
    overrides = {key: value for change in changes for key, value in change.items()}
    try:
        recipe = with_overrides(plan.recipe, overrides)
        layout = layout_of(recipe)
        config = yaml.safe_load((ACCELERATE_CONFIGS / f"{recipe.hardware.accelerate}.yaml").read_text(encoding="utf-8"))
        if any(True for _ in incompatible_settings(recipe, config)):
            return None
    except RecipeError:
        return None
    memory = _memory(plan, recipe, layout)
    return Mend(overrides, memory) if memory.fits(plan.gpu) else None


def _as_typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "'{" + ", ".join(f"{key}: {_as_typed(entry)}" for key, entry in value.items()) + "}'"
    return str(value)
