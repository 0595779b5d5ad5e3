"""Batches that groups fit into, and the processes that there are for them."""

from collections.abc import Iterator

import yaml

from open_r1.places import ACCELERATE_CONFIGS
from open_r1.recipe import Recipe
from open_r1.recipe.trainer_fields import trainer_value
from open_r1.wording import closest


def batch_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.step != "grpo":
        return
    values = {
        key: trainer_value("grpo", recipe.trainer, key)
        for key in (
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "steps_per_generation",
            "generation_batch_size",
            "num_generations",
        )
    }
    if not all(value is None or isinstance(value, int) for value in values.values()):
        return  # a wrong type; told already
    processes = recipe.hardware.num_processes
    rollouts = values["generation_batch_size"] or (
        values["per_device_train_batch_size"]
        * processes
        * (values["steps_per_generation"] or values["gradient_accumulation_steps"])
    )
    if (values["num_generations"] or 0) < 2:
        yield f"trainer.num_generations: a group of {values['num_generations']} has no advantage; at least 2"
    elif rollouts % values["num_generations"]:
        yield (
            f"trainer.num_generations: {rollouts} completions a rollout (per_device_train_batch_size "
            f"{values['per_device_train_batch_size']} x processes {processes} x steps_per_generation) cannot be "
            f"divided into groups of {values['num_generations']}"
        )
    elif processes > 1:
        given = values["generation_batch_size"]
        rows = "generation_batch_size / processes" if given else "per_device_train_batch_size x steps_per_generation"
        mend = f"trainer.{rows} as a multiple of num_generations"
        yield from _torn_groups(recipe, rollouts // processes, values["num_generations"], mend)
    if recipe.eval_data:
        yield from _eval_batch_problems(recipe, processes)


def _eval_batch_problems(recipe: Recipe, processes: int) -> Iterator[str]:
    keys = ("per_device_eval_batch_size", "num_generations_eval", "num_generations")
    batch, *group_sizes = (trainer_value("grpo", recipe.trainer, key) for key in keys)
    group = next(filter(None, group_sizes), None)
    if isinstance(batch, int) and isinstance(group, int) and (batch * processes) % group:
        yield (
            f"trainer.per_device_eval_batch_size: {batch} x processes {processes} cannot be divided into groups of "
            f"{group}; raise it, or set trainer.num_generations_eval"
        )
    elif isinstance(batch, int) and isinstance(group, int) and processes > 1:
        mend = "trainer.per_device_eval_batch_size as a multiple of num_generations_eval"
        yield from _torn_groups(recipe, batch, group, mend)


def _torn_groups(recipe: Recipe, num_rows: int, group: int, mend: str) -> Iterator[str]:
    """Rewards that compare the completions of a group, where a process, which has so many rows, gets parts of some."""
    compares = ("length", "judge") if recipe.judge is not None and recipe.judge.candidates > 1 else ("length",)
    for index, reward in enumerate(recipe.rewards if num_rows % group else ()):
        if reward.name in compares:
            yield (
                f"rewards.{index}: {reward.name} compares the completions of one prompt, but {num_rows} completions a "
                f"process cut groups of {group} in pieces; choose {mend}"
            )


def hardware_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.step == "pipeline":
        return
    config = recipe.hardware.accelerate
    known = [file.stem for file in sorted(ACCELERATE_CONFIGS.glob("*.yaml"))]
    if config not in known:
        mend = f"(known: {', '.join(known)}){closest(config, known)}"
        yield f"hardware.accelerate: no recipes/accelerate_configs/{config}.yaml {mend}"
    elif (config == "cpu") != (recipe.hardware.gpus_per_node == 0):
        uses = "uses no GPU" if config == "cpu" else "uses GPUs"
        yield (
            f"hardware.accelerate: {config} {uses}, but gpus_per_node is {recipe.hardware.gpus_per_node}; "
            f"for GPUs give both, e.g. {{gpus_per_node: 1, accelerate: ddp}}"
        )


def accelerate_config_of(recipe: Recipe) -> dict:
    """What the accelerate config of the recipe says; nothing if there is none, which is told with the hardware."""
    file = ACCELERATE_CONFIGS / f"{recipe.hardware.accelerate}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
