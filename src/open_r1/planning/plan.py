"""All that is planned of a recipe: one Plan a step, one for each stage of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass

from open_r1.nodes import num_nodes_of
from open_r1.planning.architecture import Architecture
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.gpus import Gpu, gpu_of
from open_r1.planning.layouts import Layout, layout_of
from open_r1.planning.memory import Memory, Raters, memory_of, trained_parameters
from open_r1.planning.start import architecture_of, architecture_of_name, reward_models_of
from open_r1.planning.throughput import Time, time_of
from open_r1.planning.work import Work, asking_section, endpoint_of, trains, work_of
from open_r1.recipe import Recipe, RecipeError
from open_r1.stages import stage_recipe

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True)
class Plan:
    """One step. `name` is the stage's, or empty; `time` is None if the number of steps is not known."""

    name: str
    recipe: Recipe
    architecture: Architecture | None
    """None: an endpoint alone is asked."""
    teacher: Architecture | None
    raters: Raters
    layout: Layout
    gpu: Gpu
    work: Work
    memory: Memory
    time: Time | None
    assumptions: Assumptions

    @property
    def trained_parameters(self) -> int:
        return trained_parameters(self.recipe, self.architecture) if self.architecture else 0

    @property
    def fits(self) -> bool:
        return self.memory.fits(self.gpu)

    @property
    def hours(self) -> float | None:
        return None if self.time is None else self.time.hours

    @property
    def judge_usd(self) -> float | None:
        """What the tokens of a judge cost by the prices of the section `judge`; None if it has none."""
        section, judging = self.recipe.judge, self.work.judging
        prices = section and (section.usd_per_million_prompt_tokens, section.usd_per_million_completion_tokens)
        if judging is None or prices == (None, None):
            return None
        tokens = (judging.number * judging.prompt_tokens, judging.tokens)
        return sum((price or 0.0) * number / TOKENS_PER_PRICE for price, number in zip(prices, tokens, strict=True))

    @property
    def usd(self) -> float | None:
        """Of the machines, and of a judge that has a price; None if hours or the machines' price are not known."""
        hourly = self.recipe.hardware.usd_per_hour
        if hourly is None and self.gpu.usd_per_hour is not None:
            hourly = self.gpu.usd_per_hour * self.nodes.gpus
        return None if hourly is None or self.hours is None else hourly * self.hours + (self.judge_usd or 0.0)

    @property
    def nodes(self) -> "Nodes":
        return nodes_of(self.recipe)


@dataclass(frozen=True)
class Nodes:
    """What a job asks for: `training` and `serving` nodes (vLLM's, the judge's), each with `gpus_per_node`."""

    training: int
    serving: int
    gpus_per_node: int
    processes: int

    @property
    def gpus(self) -> int:
        return (self.training + self.serving) * self.gpus_per_node


def nodes_of(recipe: Recipe) -> Nodes:
    """The machines of a step: those that train, those that serve, GPUs of each."""
    hardware = recipe.hardware
    training, gpus, serving = num_nodes_of(recipe), hardware.gpus_per_node, 0
    processes = hardware.num_processes
    if recipe.step == "evaluate":
        gpus, processes = min(1, gpus), 1
    servers = hardware.servers.values()
    gpus += sum(server.num_gpus for server in servers if server.nodes == 0)
    for server in servers:
        if server.nodes:
            serving, gpus = serving + server.nodes, max(gpus, -(-server.num_gpus // server.nodes))
    return Nodes(training, serving, gpus, processes)


def plans_of(recipe: Recipe, assumptions: Assumptions | None = None) -> list[Plan]:
    """The plan of a recipe, or of each stage of a pipeline. Raises RecipeError if something is not known."""
    assumptions = assumptions or Assumptions()
    if recipe.step != "pipeline":
        return [plan_of(recipe, assumptions)]
    plans: list[Plan] = []
    for stage in recipe.stages:
        earlier = {plan.name: plan for plan in plans}
        plans.append(plan_of(stage_recipe(recipe, stage), assumptions, stage.name, earlier))
    return plans


def plan_of(
    recipe: Recipe,
    assumptions: Assumptions,
    name: str = "",
    earlier: Mapping[str, Plan] | None = None,
) -> Plan:
    """The plan of one step. `earlier` are the plans of a pipeline's earlier stages, whose models and traces it uses."""
    earlier = earlier or {}
    stages = {stage: plan.architecture for stage, plan in earlier.items() if trains(plan.recipe)}
    asks_endpoint = endpoint_of(recipe) is not None
    sampled: dict[str, Architecture] = {}
    teacher = None
    if asks_endpoint and not trains(recipe):
        architecture = None
    elif recipe.step == "evaluate":
        models = recipe.evaluate.models or {"model": recipe.model.name}
        keys = {model: f"evaluate.models.{label}" for label, model in models.items()}
        sampled = {model: architecture_of_name(recipe, key, model, stages) for model, key in keys.items()}
        architecture = max(sampled.values(), key=lambda each: each.num_parameters)
    else:
        architecture = architecture_of(recipe, stages)
    if recipe.step == "distill" and not asks_endpoint:
        teacher = architecture_of_name(recipe, "distill.teacher", recipe.distill.teacher, stages)
        sampled = {recipe.distill.teacher: teacher}
    if asking_section(recipe) is not None and architecture is not None:
        sampled = {recipe.model.name: architecture}
    if architecture is not None and architecture.experts is not None and recipe.model.lora is not None:
        raise RecipeError(f"{recipe.source}: model.lora: adapters on experts cannot be planned; remove it to plan")
    judge = None
    if recipe.judge is not None and recipe.judge.name is not None:
        judge = architecture_of_name(recipe, "judge.name", recipe.judge.name, stages)
    raters = Raters(reward_models_of(recipe, stages) if recipe.step == "grpo" else {}, judge)
    layout, gpu = layout_of(recipe), gpu_of(recipe)
    made = {stage: plan.work for stage, plan in earlier.items()}
    work = work_of(recipe, assumptions, architecture.max_positions if architecture else None, made)
    memory = memory_of(recipe, architecture, layout, gpu, assumptions, teacher, raters)
    time = time_of(recipe, architecture, layout, gpu, work, memory, assumptions, sampled, raters)
    return Plan(name, recipe, architecture, teacher, raters, layout, gpu, work, memory, time, assumptions)
