"""A recipe -> its jobs: what each runs, what it asks for, which ones it waits for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from open_r1.nodes import SINGLE_PROCESS_STEPS, num_nodes_of, num_nodes_serving
from open_r1.recipe import Recipe, RecipeError
from open_r1.shares import RESULTS
from open_r1.slurm.site import Site
from open_r1.stages import stage_recipe

CPUS_PER_GPU = 8  # a process that trains, and the workers that load and judge for it


@dataclass(frozen=True)
class Resources:
    """What a job asks Slurm for. None: nothing is said, and the partition's default holds."""

    nodes: int
    gpus_per_node: int
    cpus_per_node: int
    mem: str | None
    time: str | None


@dataclass(frozen=True)
class Job:
    """One job. `arguments` are those of open_r1.launch after the recipe, `after` the job that must have ended well."""

    name: str
    step: str
    arguments: tuple[str, ...]
    resources: Resources
    num_shares: int = 1
    """More than one: an array, each of whose tasks is given `--share`."""
    after: str | None = None


def jobs_of(recipe: Recipe, site: Site, name: str, num_shares: int | None = None) -> list[Job]:
    """The jobs that a recipe is, in the order in which they are submitted; each waits for the one before it.

    A step that is shared out is an array, and a job that joins what its tasks have done. `num_shares` goes before the
    site file's. Raises RecipeError if the cluster cannot do what the recipe asks for.
    """
    if recipe.step == "pipeline":
        jobs: list[Job] = []
        for stage in recipe.stages:
            of_stage = stage_recipe(recipe, stage)
            jobs += _jobs_of_step(of_stage, site, f"{name}-{stage.name}", ("--stage", stage.name), num_shares)
    else:
        jobs = list(_jobs_of_step(recipe, site, name, (), num_shares))
    return [
        Job(job.name, job.step, job.arguments, job.resources, job.num_shares, before.name if before else None)
        for before, job in zip([None, *jobs], jobs, strict=False)
    ]


def _jobs_of_step(
    recipe: Recipe, site: Site, name: str, arguments: Sequence[str], num_shares: int | None
) -> Iterator[Job]:
    resources = resources_of(recipe, site)
    shares = _num_shares(recipe, site, num_shares)
    if shares > 1:
        yield Job(f"{name}-shares", recipe.step, tuple(arguments), resources, shares)
    yield Job(name, recipe.step, tuple(arguments), resources)


def _num_shares(recipe: Recipe, site: Site, asked_for: int | None) -> int:
    """Over how many jobs a step is split."""
    return (asked_for or site.shares.get(recipe.step, 1)) if recipe.step in RESULTS else 1


def resources_of(recipe: Recipe, site: Site) -> Resources:
    """What the job of one step asks for. Raises RecipeError if a node of the site does not have it."""
    hardware, where = recipe.hardware, recipe.source
    nodes = num_nodes_of(recipe) + num_nodes_serving(recipe)
    gpus = min(1, hardware.gpus_per_node) if recipe.step in SINGLE_PROCESS_STEPS else hardware.gpus_per_node
    processes = 1 if recipe.step in SINGLE_PROCESS_STEPS else hardware.num_processes // hardware.nodes
    wanted = f"hardware.gpus_per_node: {gpus} GPUs"
    beside = {key: server.num_gpus for key, server in hardware.servers.items() if server.nodes == 0}
    if beside:
        gpus += sum(beside.values())
        wanted += "".join(f" and {number} for hardware.{key}" for key, number in beside.items()) + " on the same node"
    for key, server in hardware.servers.items():
        serving = server.copies_per_node * server.tensor_parallel_size
        if server.nodes and serving > gpus:
            gpus, wanted = serving, f"hardware.{key}: {serving} GPUs on each of its nodes"
    if gpus > site.gpus_per_node:
        raise RecipeError(
            f"{where}: {wanted} are asked for, but a node of this site has {site.gpus_per_node} (gpus_per_node of the "
            f"site file); take more nodes"
        )
    threads = hardware.threads_per_process or 1
    cpus = max(CPUS_PER_GPU * gpus, processes * threads)
    return Resources(nodes, gpus, site.cpus_per_node or cpus, site.mem, site.time_of(recipe.step))
