"""vLLM in a server of its own, for as long as a run needs it: started first, waited for, and watched all along.

`hardware.vllm` says how large it is. It serves on nodes of its own, or on GPUs beside those of the one node that
trains, or that only samples. The step learns its address from the environment: it is another one at every start.
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
SERVER_PORT, WEIGHTS_PORT, RPC_PORT = 1, 2, 3  # of the job's ports, the first of which is the trainer's
NUM_LAST_LINES = 20
SECONDS_BETWEEN_LOOKS = 0.5
PROBE_SECONDS = 5.0
SECONDS_TO_END = 20.0


class ServerFailed(RuntimeError):
    """The server did not come up, or ended while it was needed; with the last lines of its log."""


@dataclass(frozen=True)
class Server:
    """A server that answers. `environment` is what the trainer has to know, `processes` are those that serve."""

    environment: dict[str, str]
    processes: tuple[subprocess.Popen, ...]
    logs: tuple[Path, ...]

    def check(self) -> None:
        """Raises ServerFailed if a process of the server has ended."""
        for process, log in zip(self.processes, self.logs, strict=True):
            exit_code = process.poll()
            if exit_code is not None:
                how = f"exit code {exit_code}" if exit_code >= 0 else signal.Signals(-exit_code).name
                raise ServerFailed(f"stopped: the vLLM server ended by itself ({how}); {last_lines(log)}")


def trainer_keys() -> dict[str, str | int]:
    """The keys of trl.GRPOConfig that lead to the server that the launcher has started; none if it has not."""
    if URL not in os.environ:
        return {}
    return {"vllm_server_base_url": os.environ[URL], "vllm_group_port": int(os.environ[GROUP_PORT])}


@contextlib.contextmanager
def serving(recipe: Recipe, run_dir: Path, nodes: Nodes) -> Iterator[Server]:
    """The recipe's server, which answers; it is ended with the block.

    Raises ServerFailed if it does not answer in time, Interrupted if somebody asks this process to stop until then.
    """
    section = recipe.hardware.vllm
    for log in run_dir.glob("vllm_server-*.log"):
        log.rename(log.with_name(f"earlier_{log.name}"))
    trainer_gpus, server_gpus = split_gpus(recipe)
    host = nodes.serving[0] if nodes.serving else "127.0.0.1"
    url = f"http://{host}:{nodes.first_port + SERVER_PORT}"
    environment = {URL: url, GROUP_PORT: str(nodes.first_port + WEIGHTS_PORT)}
    if trainer_gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = trainer_gpus
    with contextlib.ExitStack() as until_the_end:
        processes, logs = [], []
        for number in range(max(1, section.nodes)):
            hosts = nodes.serving[number : number + 1]
            log = run_dir / f"vllm_server-{number}.log"
            argv = nodes.on(hosts, server_command(recipe, nodes, number))
            print(f"vLLM server on {hosts[0] if hosts else 'this node'}: {log}", flush=True)
            process = _start(argv, log, server_gpus, nodes.starts_itself(hosts))
            until_the_end.callback(_end, process)
            processes.append(process)
            logs.append(log)
        server = Server(environment, tuple(processes), tuple(logs))
        _wait_until_it_answers(server, url, section.start_timeout_seconds)
        yield server


def server_command(recipe: Recipe, nodes: Nodes, number: int = 0) -> list[str]:
    """The argv of the server's process on the n-th of the nodes that serve: `vllm serve`, with what TRL needs of it."""
    section, port = recipe.hardware.vllm, nodes.first_port
    per_node = section.copies_per_node
    argv = [
        *(*site_of_this_process().vllm, recipe.model_path(recipe.model.name)),
        *("--host", "0.0.0.0" if nodes.serving else "127.0.0.1", "--port", str(port + SERVER_PORT)),
        *("--tensor-parallel-size", str(section.tensor_parallel_size)),
        *("--data-parallel-size", str(section.data_parallel_size)),
        *("--gpu-memory-utilization", str(section.gpu_memory_utilization)),
        *("--seed", str(recipe.seed)),
    ]
    if recipe.step == "grpo":  # the policy's weights are sent to it, and it tells how likely it found each token
        argv += ["--weight-transfer-config", json.dumps({"backend": "nccl"})]
        argv += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    else:
        # A base's generation_config.json, which training leaves in the model, may have max_new_tokens: 2048, and vLLM
        # then lets no request have more; nor is sampling that the recipe does not say any of its business.
        argv += ["--generation-config", "vllm"]
        if recipe.model.chat_template:  # it renders the prompts
            argv += ["--chat-template", str(recipe.path(recipe.model.chat_template))]
    if section.max_model_length is not None:
        argv += ["--max-model-len", str(section.max_model_length)]
    if recipe.model.revision:
        argv += ["--revision", recipe.model.revision]
    if section.nodes > 1:  # copies of the model on several nodes, behind the first one's address
        argv += ["--data-parallel-size-local", str(per_node), "--data-parallel-address", nodes.serving[0]]
        argv += ["--data-parallel-rpc-port", str(port + RPC_PORT)]
        argv += ["--headless", "--data-parallel-start-rank", str(number * per_node)] if number else []
    return argv


def split_gpus(recipe: Recipe) -> tuple[str | None, str | None]:
    """CUDA_VISIBLE_DEVICES of the trainer and of a server on the same node; None where nothing has to be divided."""
    hardware = recipe.hardware
    if hardware.vllm.nodes:
        return None, None
    wanted = hardware.gpus_per_node + hardware.vllm.num_gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [gpu for gpu in visible.split(",") if gpu] if visible is not None else [str(n) for n in range(wanted)]
    if len(gpus) < wanted:
        raise RecipeError(
            f"{recipe.source}: hardware.vllm: {hardware.gpus_per_node} GPUs to train and {hardware.vllm.num_gpus} to "
            f"serve are asked for, but CUDA_VISIBLE_DEVICES is {visible}"
        )
    return ",".join(gpus[: hardware.gpus_per_node]), ",".join(gpus[hardware.gpus_per_node : wanted])


def last_lines(log: Path) -> str:
    """The end of a log, after a line that says where it is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-NUM_LAST_LINES:] if log.exists() else []
    return "\n".join([f"{log} ends with:" if lines else f"{log} is empty", *(f"    {line}" for line in lines)])


def _start(argv: list[str], log: Path, gpus: str | None, starts_itself: bool) -> subprocess.Popen:
    environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}  # without it vLLM takes no weights from outside
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    # What is in between (srun, ssh) has to be asked, or it leaves behind what it has started.
    goes_with_us = functools.partial(signals.die_with, os.getpid(), signal.SIGKILL if starts_itself else signal.SIGTERM)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # it is to serve until the trainer has come to its end, whoever signals us
            preexec_fn=goes_with_us,
        )


def _wait_until_it_answers(server: Server, url: str, timeout_seconds: float) -> None:
    started = time.monotonic()
    while not _answers(f"{url}/health"):
        if signals.received():
            raise signals.Interrupted(signals.received())
        server.check()
        if time.monotonic() - started > timeout_seconds:
            raise ServerFailed(
                f"stopped: the vLLM server has not answered {url}/health within {timeout_seconds:g} seconds "
                f"(hardware.vllm.start_timeout_seconds); {last_lines(server.logs[0])}"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    server.check()  # or it is somebody else who answers
    print(f"vLLM server answers after {time.monotonic() - started:.0f} s: {url}", flush=True)


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
