"""vLLM in servers of their own, for as long as a run needs them: started first, waited for, and watched all along.

`hardware.vllm` serves the policy, `hardware.judge` the judge; each says how large it is, and is on nodes of its own or
on GPUs beside those of the one node that trains, or that only samples. The step learns their addresses from the
environment: they are others at every start.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from open_r1 import signals
from open_r1.nodes import Nodes
from open_r1.recipe import Recipe, RecipeError
from open_r1.slurm.site import site_of_this_process

URL = "OPEN_R1_VLLM_URL"
JUDGE_URL = "OPEN_R1_JUDGE_URL"
GROUP_PORT = "OPEN_R1_VLLM_GROUP_PORT"
WEIGHTS_PORT = 2  # of the job's ports, the first of which is the trainer's; see Kind for those of the servers
DEV_MODE = "VLLM_SERVER_DEV_MODE"  # without it vLLM takes no weights from outside
NUM_LAST_LINES = 20
SECONDS_BETWEEN_LOOKS = 0.5
PROBE_SECONDS = 5.0
SECONDS_TO_END = 20.0


@dataclass(frozen=True)
class Kind:
    """What tells one of a run's servers from another. Ports are counted from the first of the job's."""

    name: str
    url: str
    """Environment variable that tells the step its address."""
    port: int
    rpc_port: int
    """By which its copies on several nodes find each other."""


KINDS = {  # key of `hardware` -> its server
    "vllm": Kind("vLLM server", URL, port=1, rpc_port=3),
    "judge": Kind("judge's server", JUDGE_URL, port=4, rpc_port=5),
}


class ServerFailed(RuntimeError):
    """A server did not come up, or ended while it was needed; with the last lines of its log."""


@dataclass(frozen=True)
class Process:
    """A process of the server `hardware.<key>`."""

    key: str
    popen: subprocess.Popen
    log: Path


@dataclass(frozen=True)
class Servers:
    """The servers of a run, which answer. `environment` is what the trainer has to know."""

    environment: dict[str, str]
    processes: tuple[Process, ...]

    def check(self) -> None:
        """Raises ServerFailed if a process of a server has ended."""
        for process in self.processes:
            exit_code = process.popen.poll()
            if exit_code is not None:
                how = f"exit code {exit_code}" if exit_code >= 0 else signal.Signals(-exit_code).name
                name = KINDS[process.key].name
                raise ServerFailed(f"stopped: the {name} ended by itself ({how}); {last_lines(process.log)}")


def trainer_keys() -> dict[str, str | int]:
    """The keys of trl.GRPOConfig that lead to the server that the launcher has started; none if it has not."""
    if URL not in os.environ:
        return {}
    return {"vllm_server_base_url": os.environ[URL], "vllm_group_port": int(os.environ[GROUP_PORT])}


@contextlib.contextmanager
def serving(recipe: Recipe, run_dir: Path, nodes: Nodes) -> Iterator[Servers]:
    """The recipe's servers, which answer; they are ended with the block.

    Raises ServerFailed if one does not answer in time, Interrupted if somebody asks this process to stop until then.
    """
    gpus = split_gpus(recipe)
    environment = {"CUDA_VISIBLE_DEVICES": gpus["trainer"]} if "trainer" in gpus else {}
    environment |= {KINDS[key].url: _address(recipe, nodes, key) for key in recipe.hardware.servers}
    if "vllm" in recipe.hardware.servers:
        environment[GROUP_PORT] = str(nodes.first_port + WEIGHTS_PORT)
    for key in KINDS:
        for log in run_dir.glob(f"{key}_server-*.log"):
            log.rename(log.with_name(f"earlier_{log.name}"))
    with contextlib.ExitStack() as until_the_end:
        processes = []
        for key, hosts, argv in server_commands(recipe, nodes):
            number = sum(process.key == key for process in processes)
            log = run_dir / f"{key}_server-{number}.log"
            print(f"{KINDS[key].name} on {hosts[0] if hosts else 'this node'}: {log}", flush=True)
            own = {"CUDA_VISIBLE_DEVICES": gpus[key]} if key in gpus else {}
            own |= {DEV_MODE: "1"} if takes_weights(recipe, key) else {}
            process = _start(nodes.on(hosts, argv), own, log, nodes.starts_itself(hosts))
            until_the_end.callback(_end, process)
            processes.append(Process(key, process, log))
        servers = Servers(environment, tuple(processes))
        _wait_until_all_answer(servers, recipe)
        yield servers


def server_commands(recipe: Recipe, nodes: Nodes) -> list[tuple[str, tuple[str, ...], list[str]]]:
    """(key, hosts, argv) of each process of the recipe's servers; no hosts: on the node that trains."""
    return [
        (key, nodes.serving_for(recipe.hardware, key)[number : number + 1], server_command(recipe, nodes, key, number))
        for key, section in recipe.hardware.servers.items()
        for number in range(max(1, section.nodes))
    ]


def server_command(recipe: Recipe, nodes: Nodes, key: str = "vllm", number: int = 0) -> list[str]:
    """The argv of the process of `hardware.<key>` on the n-th of its nodes: `vllm serve`, with what is needed of it."""
    kind, section, port = KINDS[key], recipe.hardware.servers[key], nodes.first_port
    hosts, per_node = nodes.serving_for(recipe.hardware, key), section.copies_per_node
    served = recipe.judge if key == "judge" else recipe.model
    argv = [
        *(*site_of_this_process().vllm, recipe.model_path(served.name)),
        *("--host", "0.0.0.0" if hosts else "127.0.0.1", "--port", str(port + kind.port)),
        *("--tensor-parallel-size", str(section.tensor_parallel_size)),
        *("--data-parallel-size", str(section.data_parallel_size)),
        *("--gpu-memory-utilization", str(section.gpu_memory_utilization)),
        *("--seed", str(recipe.seed)),
    ]
    if takes_weights(recipe, key):  # and tells how likely it found each token
        argv += ["--weight-transfer-config", json.dumps({"backend": "nccl"})]
        argv += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    else:
        # A base's generation_config.json, which training leaves in the model, may have max_new_tokens: 2048, and vLLM
        # then lets no request have more; nor is sampling that the recipe does not say any of its business.
        argv += ["--generation-config", "vllm"]
        if key == "vllm" and recipe.model.chat_template:  # it renders the prompts; a judge's are by its own template
            argv += ["--chat-template", str(recipe.path(recipe.model.chat_template))]
    if section.max_model_length is not None:
        argv += ["--max-model-len", str(section.max_model_length)]
    if served.revision:
        argv += ["--revision", served.revision]
    if section.nodes > 1:  # copies of the model on several nodes, behind the first one's address
        argv += ["--data-parallel-size-local", str(per_node), "--data-parallel-address", hosts[0]]
        argv += ["--data-parallel-rpc-port", str(port + kind.rpc_port)]
        argv += ["--headless", "--data-parallel-start-rank", str(number * per_node)] if number else []
    return argv


def takes_weights(recipe: Recipe, key: str) -> bool:
    """True if the step sends the policy's weights to the server `hardware.<key>`."""
    return key == "vllm" and recipe.step == "grpo"


def split_gpus(recipe: Recipe) -> dict[str, str]:
    """`trainer` and the keys of servers on its node -> CUDA_VISIBLE_DEVICES; empty if nothing has to be divided."""
    hardware = recipe.hardware
    beside = {key: section.num_gpus for key, section in hardware.servers.items() if section.nodes == 0}
    if not beside:
        return {}
    numbers = {"trainer": hardware.gpus_per_node, **beside}
    wanted = sum(numbers.values())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [gpu for gpu in visible.split(",") if gpu] if visible is not None else [str(n) for n in range(wanted)]
    if len(gpus) < wanted:
        to_serve = " and ".join(f"{number} to serve ({key})" for key, number in beside.items())
        raise RecipeError(
            f"{recipe.source}: hardware.{next(iter(beside))}: {hardware.gpus_per_node} GPUs to train and {to_serve} "
            f"are asked for, but CUDA_VISIBLE_DEVICES is {visible}"
        )
    left = iter(gpus)
    return {whose: ",".join(next(left) for _ in range(number)) for whose, number in numbers.items()}


def last_lines(log: Path) -> str:
    """The end of a log, after a line that says where it is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-NUM_LAST_LINES:] if log.exists() else []
    return "\n".join([f"{log} ends with:" if lines else f"{log} is empty", *(f"    {line}" for line in lines)])


def _address(recipe: Recipe, nodes: Nodes, key: str) -> str:
    host = next(iter(nodes.serving_for(recipe.hardware, key)), "127.0.0.1")
    return f"http://{host}:{nodes.first_port + KINDS[key].port}"


def _start(argv: list[str], environment: dict[str, str], log: Path, starts_itself: bool) -> subprocess.Popen:
    # What is in between (srun, ssh) has to be asked, or it leaves behind what it has started.
    goes_with_us = functools.partial(signals.die_with, os.getpid(), signal.SIGKILL if starts_itself else signal.SIGTERM)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # it is to serve until the trainer has come to its end, whoever signals us
            preexec_fn=goes_with_us,
        )


def _wait_until_all_answer(servers: Servers, recipe: Recipe) -> None:
    started = time.monotonic()
    waiting = {key: servers.environment[KINDS[key].url] for key in recipe.hardware.servers}
    while waiting:
        for key, url in tuple(waiting.items()):
            answers, seconds = _answers(f"{url}/health"), time.monotonic() - started
            if signals.received():
                raise signals.Interrupted(signals.received())
            servers.check()  # or it is somebody else who answers
            if answers:
                print(f"{KINDS[key].name} answers after {seconds:.0f} s: {url}", flush=True)
                del waiting[key]
            elif seconds > (most := recipe.hardware.servers[key].start_timeout_seconds):
                log = next(process.log for process in servers.processes if process.key == key)
                raise ServerFailed(
                    f"stopped: the {KINDS[key].name} has not answered {url}/health within {most:g} seconds "
                    f"(hardware.{key}.start_timeout_seconds); {last_lines(log)}"
                )
        if waiting:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows the cluster's nodes
    try:
        with opener.open(url, timeout=PROBE_SECONDS) as answer:
            return answer.status == 200
    except (OSError, ValueError):  # not there yet, or not ready (HTTPError is an OSError)
        return False


def _end(process: subprocess.Popen) -> None:
    """Ends a server with all that it has started."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
