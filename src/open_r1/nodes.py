"""Where the processes of a run are started: on this machine, on the nodes of a Slurm job, or over ssh.

The launcher runs once, on the first node. With several nodes its command for the processes is put behind a runner
that starts it on every node: `srun` inside a Slurm job, `scripts/on_hosts.sh` where OPEN_R1_HOSTS names the machines.
Which of the nodes it is on, `open_r1.accelerate_launch` sees there. All nodes see the same files.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from open_r1.places import REPOSITORY
from open_r1.recipe import Hardware, Recipe, RecipeError
from open_r1.slurm.site import Container, site_of_this_process

HOSTS = "OPEN_R1_HOSTS"
FIRST_PORT = "OPEN_R1_FIRST_PORT"
ON_HOSTS = REPOSITORY / "scripts" / "on_hosts.sh"
SINGLE_PROCESS_STEPS = ("evaluate",)
# Below those that the kernel hands out (32768 on Linux) and above those that services have.
LOWEST_PORT, PORTS_OF_A_JOB, NUM_BLOCKS = 10_000, 10, 2_000
RESTARTS_APART = 37  # blocks between two starts of a job, so that it is not the next job's


@dataclass(frozen=True)
class Nodes:
    """The machines of a run. `hosts` is empty if all is done on this one."""

    hosts: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()
    """Machines on which only vLLM runs: first those of `hardware.vllm`, then those of `hardware.judge`."""
    runner: str = "here"
    """What starts a command on other machines: here (nothing), srun, ssh."""
    container: Container | None = None
    first_port: int | None = None
    """None: nobody asked for ports of its own."""

    def serving_for(self, hardware: Hardware, key: str) -> tuple[str, ...]:
        """Those on which the server `hardware.<key>` runs; none if it is on the node that trains."""
        first = 0
        for other, section in hardware.servers.items():
            if other == key:
                return self.serving[first : first + section.nodes]
            first += section.nodes
        return ()

    @property
    def python(self) -> str:
        return self.container.python if self.container else sys.executable

    def on(self, hosts: Sequence[str], argv: Sequence[str]) -> list[str]:
        """The argv that runs `argv` once on each of the hosts."""
        inside = [*(self.container.exec if self.container else ()), *argv]
        options_of_srun = self.container.srun if self.container else []
        if self._are_here(hosts) and not options_of_srun:
            return inside
        if self.runner == "ssh":
            return [str(ON_HOSTS), " ".join(hosts), *inside]
        number = max(1, len(hosts))
        cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # which srun does not take from the job's environment any more
        return [
            *("srun", f"--nodes={number}", f"--ntasks={number}", "--ntasks-per-node=1", "--export=ALL", "--overlap"),
            *("--kill-on-bad-exit=1", "--quit-on-interrupt"),
            *([f"--cpus-per-task={cpus}"] if cpus else []),
            *([f"--nodelist={','.join(hosts)}"] if hosts else []),
            *options_of_srun,
            *inside,
        ]

    def starts_itself(self, hosts: Sequence[str]) -> bool:
        """True if what `on` starts is a child of this process, and not of something in between."""
        return self._are_here(hosts) and self.container is None

    def _are_here(self, hosts: Sequence[str]) -> bool:
        return not hosts or (self.runner == "srun" and tuple(hosts) == self.hosts[:1])


def num_nodes_of(recipe: Recipe) -> int:
    """Nodes that train, or do what the step does: a step of one process is on one node, whatever the recipe has."""
    return 1 if recipe.step in (*SINGLE_PROCESS_STEPS, "pipeline") else recipe.hardware.nodes


def num_nodes_serving(recipe: Recipe) -> int:
    """Nodes on which only servers of the run are."""
    return sum(section.nodes for section in recipe.hardware.servers.values())


def nodes_of(recipe: Recipe) -> Nodes:
    """The machines that a run of this recipe has. Raises RecipeError if they are fewer than it needs."""
    in_slurm = "SLURM_JOB_ID" in os.environ
    container = site_of_this_process().container if recipe.step != "pipeline" else None
    if container and container.srun and not in_slurm:
        raise RecipeError("container.srun: only inside a Slurm job is there an srun; unset OPEN_R1_SITE to run here")
    training, serving = num_nodes_of(recipe), num_nodes_serving(recipe)
    port = first_port() if in_slurm or training > 1 or recipe.hardware.servers else None
    if training + serving == 1:
        return Nodes(runner="srun" if in_slurm else "here", container=container, first_port=port)
    hosts = _hosts_of_slurm() if in_slurm else re.split(r"[\s,]+", os.environ.get(HOSTS, "").strip())
    hosts = [host for host in hosts if host]
    included = ", ".join(f"{key}.nodes" for key, section in recipe.hardware.servers.items() if section.nodes)
    wanted = f"hardware.nodes: {training + serving} nodes are asked for" + (
        f" ({included} included)" if serving else ""
    )
    if not hosts:
        raise RecipeError(
            f"{recipe.source}: {wanted}; submit it with `make slurm RECIPE={recipe.source}`, or name machines that ssh "
            f'reaches and that see these files: {HOSTS}="host1 host2"'
        )
    if len(hosts) < training + serving:
        where = "the Slurm job has" if in_slurm else f"{HOSTS} names"
        raise RecipeError(f"{recipe.source}: {wanted}, but {where} {len(hosts)}: {' '.join(hosts)}")
    return Nodes(
        hosts=tuple(hosts[:training]),
        serving=tuple(hosts[training : training + serving]),
        runner="srun" if in_slurm else "ssh",
        container=container,
        first_port=port,
    )


def some_nodes(recipe: Recipe) -> Nodes:
    """Nodes as a Slurm job of this recipe might have them, to show what would be started there."""
    training = num_nodes_of(recipe)
    names = tuple(f"node{number}" for number in range(1, training + num_nodes_serving(recipe) + 1))
    return Nodes(names[:training], names[training:], "srun", site_of_this_process().container, first_port())


def _hosts_of_slurm() -> list[str]:
    """The nodes of the Slurm job that this process is in, in Slurm's order."""
    if shutil.which("scontrol") is None:
        raise RecipeError("SLURM_JOB_ID is set, but there is no scontrol; unset it if this is no Slurm job")
    names = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], capture_output=True, text=True, check=True
    )
    return names.stdout.split()


def first_port() -> int:
    """The first of this job's ten ports: another job on the same node, or the next start of this one, has others."""
    if os.environ.get(FIRST_PORT):
        return int(os.environ[FIRST_PORT])
    number = int(os.environ.get("SLURM_JOB_ID", os.getpid()))
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    return LOWEST_PORT + PORTS_OF_A_JOB * ((number + RESTARTS_APART * restarts) % NUM_BLOCKS)
