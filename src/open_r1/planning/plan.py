"""All that is planned of a recipe: one Plan a step, one for each stage of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass

from open_r1.nodes import num_nodes_of
from open_r1.planning.architecture import Architecture
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.gpus import Gpu, gpu_of
from open_r1.planning.layouts import Layout, layout_of
from open_r1.planning.memory import Memory, memory_of, trained_parameters
from open_r1.planning.start import architecture_of, architecture_of_name
from open_r1.planning.throughput import Time, time_of
from open_r1.planning.work import Work, work_of
from open_r1.recipe import Recipe, RecipeError
from open_r1.stages import stage_recipe


@dataclass(frozen=True)
class Plan:
    """One step. `name` is the stage's, or empty; `time` is None if the number of steps is not known."""

    name: str
    recipe: Recipe
    architecture: Architecture
    teacher: Architecture | None
    layout: Layout
    gpu: Gpu
    work: Work
    memory: Memory
    time: Time | None
    assumptions: Assumptions

    @property
    def trained_parameters(self) -> int:
        return trained_parameters(self.recipe, self.architecture)

    @property
    def fits(self) -> bool:
        return self.memory.fits(self.gpu)

    @property
    def hours(self) -> float | None:
        return None if self.time is None else self.time.hours

    @property
    def usd(self) -> float | None:
        """None if hours or the price are not known."""
        hourly = self.recipe.hardware.usd_per_hour
        if hourly is None and self.gpu.usd_per_hour is not None:
            hourly = self.gpu.usd_per_hour * self.nodes.gpus
        return None if hourly is None or self.hours is None else hourly * self.hours

    @property
    def nodes(self) -> "Nodes":
        return nodes_of(self.recipe)


@dataclass(frozen=True)
class Nodes:
    """What a job asks for: `training` and `serving` nodes, each with `gpus_per_node`."""

    training: int
    serving: int
    gpus_per_node: int
    processes: int

    @property
    def gpus(self) -> int:
        return (self.training + self.serving) * self.gpus_per_node


def nodes_of(recipe: Recipe) -> Nodes:
    """The machines of a step: those that train, those that serve vLLM, GPUs of each."""
    hardware, server = recipe.hardware, recipe.hardware.vllm
    training, gpus, serving = num_nodes_of(recipe), hardware.gpus_per_node, 0
    if recipe.step == "evaluate":
        return Nodes(1, 0, min(1, gpus), 1)
    if server is not None and server.nodes == 0:
        gpus += server.num_gpus
    elif server is not None:
        serving, gpus = server.nodes, max(gpus, -(-server.num_gpus // server.nodes))
    return Nodes(training, serving, gpus, hardware.num_processes)


def plans_of(recipe: Recipe, assumptions: Assumptions | None = None) -> list[Plan]:
    """The plan of a recipe, or of each stage of a pipeline. Raises RecipeError if something is not known."""
    assumptions = assumptions or Assumptions()
    if recipe.step != "pipeline":
        return [plan_of(recipe, assumptions)]
    plans: list[Plan] = []
    for stage in recipe.stages:
        made = {plan.name: plan.architecture for plan in plans if plan.recipe.step != "evaluate"}
        plans.append(plan_of(stage_recipe(recipe, stage), assumptions, stage.name, made))
    return plans


def plan_of(
    recipe: Recipe,
    assumptions: Assumptions,
    name: str = "",
    stages: Mapping[str, Architecture] | None = None,
) -> Plan:
    """The plan of one step. `stages` are the models of a pipeline's earlier ones."""
    sampled: dict[str, Architecture] = {}
    teacher = None
    if recipe.step == "evaluate":
        models = recipe.evaluate.models or {"model": recipe.model.name}
        keys = {model: f"evaluate.models.{label}" for label, model in models.items()}
        sampled = {model: architecture_of_name(recipe, key, model, stages) for model, key in keys.items()}
        architecture = max(sampled.values(), key=lambda each: each.num_parameters)
    else:
        architecture = architecture_of(recipe, stages)
    if recipe.step == "distill":
        teacher = architecture_of_name(recipe, "distill.teacher", recipe.distill.teacher, stages)
        sampled = {recipe.distill.teacher: teacher}
    if architecture.experts is not None and recipe.model.lora is not None:
        raise RecipeError(f"{recipe.source}: model.lora: adapters on experts cannot be planned; remove it to plan")
    layout, gpu = layout_of(recipe), gpu_of(recipe)
    work = work_of(recipe, assumptions, architecture.max_positions)
    memory = memory_of(recipe, architecture, layout, gpu, assumptions, teacher)
    time = time_of(recipe, architecture, layout, gpu, work, memory, assumptions, sampled)
    return Plan(name, recipe, architecture, teacher, layout, gpu, work, memory, time, assumptions)
