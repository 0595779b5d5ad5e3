"""A Slurm cluster of several nodes on this one host, for tests: real daemons, of Debian's packages.

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge

It lives in namespaces of its own: a node has its own name, all nodes know each other's, and when the first process of
the cluster ends, or pytest does, however that may be, the kernel ends the daemons and all jobs. Root is not needed
where users may have namespaces. There are no cgroups and no accounting, and the nodes have more CPUs and GPUs than the
host only by their own account.
"""

import contextlib
import functools
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from open_r1 import signals

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare")
PACKAGES = "slurmctld slurmd slurm-client munge"
MUST_RUN = "CI_NEEDS_SLURM"  # 1: a host without Slurm fails the tests, instead of skipping them
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where Debian puts daemons
CPUS = 64  # of a node, whatever this host has
SECONDS_TO_START = 60.0
SECONDS_BETWEEN_LOOKS = 0.1
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}

# Credentials that expire after 6 seconds, because Slurm waits for that long, and one more, before a job that was queued
# again may begin. A job that is to make way has GraceTime seconds from its signal until it is killed.
SLURM_CONF = """
ClusterName=tests
SlurmctldHost=controller(127.0.0.10)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={scratch}/munge.socket,cred_expire=6
CredType=cred/munge
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool-%n
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/slurmd-%n.pid
SlurmctldLogFile={scratch}/slurmctld.log
SlurmdLogFile={scratch}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
DependencyParameters=kill_invalid_depend
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
KillWait=10
MinJobAge=86400
MessageTimeout=60
SlurmdTimeout=120
TreeWidth=65533
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus}
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=60
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60
"""
GRES_CONF = "Name=gpu File={scratch}/gpu[0-{last_gpu}]\n"

# The first process of the cluster: $1 is the scratch directory, $2 what gives a user his own id back, then the nodes.
START = """
scratch=$1 as_user=$2
shift 2
mount --bind "$scratch/hosts" /etc/hosts
hostname controller
export SLURM_CONF=$scratch/slurm.conf
$as_user munged --foreground --force --key-file "$scratch/munge.key" --socket "$scratch/munge.socket" \\
    --pid-file "$scratch/munged.pid" --log-file "$scratch/munged.log" --seed-file "$scratch/munged.seed" &
until [ -S "$scratch/munge.socket" ]; do sleep 0.05; done
$as_user slurmctld -D -c &
for node; do
    # shellcheck disable=SC2016
    unshare --uts sh -c 'hostname "$1"; exec $2 slurmd -D -N "$1"' - "$node" "$as_user" &
done
wait -n
echo "a daemon ended with exit code $?" >&2
exit 1
"""


class Cluster:
    """A running cluster; `environment` is that of whoever talks to it."""

    def __init__(self, scratch: Path, num_nodes: int):
        self.scratch = scratch
        self.nodes = [f"n{number}" for number in range(1, num_nodes + 1)]
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        self.environment = own | {"SLURM_CONF": str(scratch / "slurm.conf"), "PATH": PATH}

    def run(self, *command: str | Path, check: bool = True, **environment: str) -> str:
        """Standard output of a command, on the host but outside of the nodes; a failure tells what was said."""
        finished = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, env=self.environment | environment
        )
        assert not check or finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"
        return finished.stdout

    def submit(self, script: str, *options: str) -> str:
        """The id of a job of this script's text."""
        file = self.scratch / f"script-{secrets.token_hex(4)}"
        file.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        return self.run("sbatch", "--parsable", *options, file).strip().partition(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """What Slurm says of a job, and of the last task of an array: JobState, ExitCode, Restarts, Reason, …"""
        return self.tasks(job_id)[-1]

    def tasks(self, job_id: str) -> list[dict[str, str]]:
        """As `job`, of each task of an array."""
        lines = self.run("scontrol", "show", "job", "--oneliner", job_id).splitlines()
        return [dict(part.partition("=")[::2] for part in line.split() if "=" in part) for line in lines]

    def wait_until(self, is_so: Callable[[], object], what: str, seconds: float = 120.0) -> None:
        """Returns when `is_so` gives something true; fails after so many seconds."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not is_so():
            assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
            pause.wait(SECONDS_BETWEEN_LOOKS)

    def wait_for_end(self, job_id: str, seconds: float = 120.0) -> str:
        """The state in which a job ended, and all tasks of an array: COMPLETED if all of them completed."""

        def ended() -> bool:
            states[:] = [task["JobState"] for task in self.tasks(job_id)]
            return set(states) <= ENDED

        states: list[str] = []
        self.wait_until(ended, f"job {job_id} is at its end", seconds)
        return next((state for state in states if state != "COMPLETED"), "COMPLETED")

    def wait_for_state(self, job_id: str, state: str, seconds: float = 120.0) -> None:
        self.wait_until(lambda: self.job(job_id)["JobState"] == state, f"job {job_id} is {state}", seconds)

    def clear(self) -> None:
        """Cancels all jobs and returns when every node is idle again."""
        self.run("scancel", "--user", str(os.getuid()))
        self.wait_until(lambda: not self.run("squeue", "--noheader"), "no job is left", 60)

    def log(self, name: str = "slurmctld", num_lines: int = 40) -> str:
        """The last lines of a daemon's log."""
        return "\n".join((self.scratch / f"{name}.log").read_text(errors="replace").splitlines()[-num_lines:])


@contextlib.contextmanager
def slurm_cluster(num_nodes: int = 3, gpus: int = 8) -> Iterator[Cluster]:
    """A cluster whose nodes are idle. Without Slurm the test is skipped, or fails where CI_NEEDS_SLURM is 1."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if missing:
        not_here(f"there is no {', '.join(missing)} here (Debian: apt-get install {PACKAGES})")
    if not have_namespaces():
        not_here("this user may not have namespaces (unshare), which give every node its name")
    scratch = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(scratch, num_nodes)
    try:
        write_files(cluster, gpus)
        with daemons(cluster):
            yield cluster
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def not_here(reason: str) -> None:
    if os.environ.get(MUST_RUN) == "1":
        pytest.fail(f"{MUST_RUN}=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def namespaces() -> list[str]:
    """The command that begins a cluster's namespaces."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def as_user() -> list[str]:
    """The command that makes root of a user's namespaces that user again."""
    return [] if os.getuid() == 0 else ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"]


def have_namespaces() -> bool:
    tried = [
        *namespaces(),
        "sh",
        "-c",
        f"mount --bind /dev/null /etc/hosts && hostname n && {shlex.join(as_user())} true",
    ]
    return subprocess.run(tried, capture_output=True, env={**os.environ, "PATH": PATH}).returncode == 0


def write_files(cluster: Cluster, gpus: int) -> None:
    """slurm.conf and gres.conf, the nodes' names, GPUs that are none, and a key."""
    scratch = cluster.scratch
    addresses = {node: f"127.0.0.{number}" for number, node in enumerate(cluster.nodes, start=11)}
    values: Mapping = {
        "scratch": scratch,
        "user": subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
        "controller_port": free_port("127.0.0.10"),
        "cpus": CPUS,
        "gpus": gpus,
        "last_gpu": gpus - 1,
        "nodes": "\n".join(
            f"NodeName={node} NodeAddr={address} Port={free_port(address)}" for node, address in addresses.items()
        ),
    }
    (scratch / "slurm.conf").write_text(SLURM_CONF.format_map(values))
    (scratch / "gres.conf").write_text(GRES_CONF.format_map(values))
    hosts = {"localhost": "127.0.0.1", "controller": "127.0.0.10", **addresses}
    (scratch / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))
    for number in range(gpus):
        (scratch / f"gpu{number}").symlink_to("/dev/null")  # Slurm takes no GPU without a device
    for folder in ("state", *(f"spool-{node}" for node in cluster.nodes)):
        (scratch / folder).mkdir()
    key = scratch / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def daemons(cluster: Cluster) -> Iterator[None]:
    with (cluster.scratch / "start.log").open("w") as log:
        first = subprocess.Popen(
            [*namespaces(), "bash", "-c", START, "-", str(cluster.scratch), shlex.join(as_user()), *cluster.nodes],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is pytest's alone
            preexec_fn=functools.partial(signals.die_with, os.getpid()),
        )

    def all_idle() -> bool:
        assert first.poll() is None, cluster.log("start")
        states = cluster.run("sinfo", "--noheader", "--Node", "--partition", "main", "--format", "%T", check=False)
        return states.split() == ["idle"] * len(cluster.nodes)

    try:
        cluster.wait_until(all_idle, f"all nodes are idle\n{cluster.log('start')}", SECONDS_TO_START)
        yield
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
