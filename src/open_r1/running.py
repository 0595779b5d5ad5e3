"""A checked recipe in its run directory: its processes, on as many nodes as it has, and its record.

Whatever becomes of them, run.json says so; what was stopped is taken up, and what began from something else moved away.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_r1 import endings, run_record, shares, signals, vllm_server
from open_r1.feedback import load_rubric
from open_r1.feedback.spending import spent_in
from open_r1.nodes import SINGLE_PROCESS_STEPS, Nodes, nodes_of, num_nodes_of
from open_r1.places import ACCELERATE_CONFIGS, RECIPES, REPOSITORY, RUNS
from open_r1.recipe import Recipe, RecipeError, dump_recipe
from open_r1.resuming import RECIPE_FILE
from open_r1.rewards import models_of_rewards, sandboxes_of
from open_r1.sandbox import isolation_of
from open_r1.stages import freeze_stages, stage_recipe
from open_r1.step_process import ERROR_FILE, EXIT_STOPPED, RunStopped, warnings_of

MODULES = {
    "pretrain": "open_r1.sft",
    "sft": "open_r1.sft",
    "preferences": "open_r1.preferences",
    "reward_model": "open_r1.reward_model",
    "dpo": "open_r1.dpo",
    "grpo": "open_r1.grpo",
    "generate": "open_r1.generate",
    "distill": "open_r1.distill",
    "evaluate": "open_r1.evaluate",
    "pipeline": "open_r1.pipeline",
}
ENDINGS_OF_NODES = ".endings"
ENDINGS = {0: "done", signals.EXIT_INTERRUPTED: "interrupted"}  # exit code -> status; failed for all others
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL reports every trainer that is built
    # Threads that spin while they wait stall each other when the cores are shared: with two busy programs beside it the
    # tiny cold start took 280 s, and 47 s with this; alone on two cores 28 s and 39 s. The weights are the same.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning",
}


def launch(recipe: Recipe, run_dir: Path, parents: Sequence[dict[str, Any]] = (), in_place: bool = False) -> int:
    """Runs a checked recipe in `run_dir`, or takes up the run of it that was stopped there; returns the exit code.

    A run of another recipe is moved away first, unless `in_place` says that this recipe is to go on with it.
    Everything is written to run.json, whatever the end. Raises RecipeError if somebody else is at work there, or on a
    share of the run, or if it is to go on with a rubric that it did not begin with.
    """
    nodes = nodes_of(recipe)
    with contextlib.ExitStack() as alone:
        for directory in (run_dir, *shares.directories_of_shares(run_dir).values()):
            alone.enter_context(alone_at_work(directory))
        return _launch(recipe, run_dir, parents, in_place, nodes)


@contextlib.contextmanager
def alone_at_work(run_dir: Path, waits: bool = False) -> Iterator[None]:
    """Holds a lock, beside the directory, which may be moved; the kernel lets go of it however this process ends.

    If somebody else holds it, `waits` says that it is waited for. Raises RecipeError if not.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with (run_dir.parent / f".{run_dir.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                raise RecipeError(
                    f"{run_dir}: another process is at work on this run; wait for it, or end it"
                ) from None
            print(f"{run_dir}: another process is at work there; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system that knows no locks
        yield


def _launch(recipe: Recipe, run_dir: Path, parents: Sequence[dict[str, Any]], in_place: bool, nodes: Nodes) -> int:
    rubrics = rubrics_of(recipe)
    if in_place:
        _check_rubrics(run_dir, recipe, rubrics)
    else:
        _move_stale_run_away(run_dir, recipe, parents, rubrics)
    run_dir.mkdir(parents=True, exist_ok=True)
    for file in (ERROR_FILE, signals.MARKER_FILE):
        (run_dir / file).unlink(missing_ok=True)
    resolved = freeze_stages(recipe, run_dir) if recipe.step == "pipeline" else recipe
    (run_dir / RECIPE_FILE).write_text(dump_recipe(resolved), encoding="utf-8")
    with signals.answered_with(signals.remember):  # the process is asked to stop, and the record finished in any case
        earlier_shares = shares.shares_in_record(run_dir)
        run_record.start_record(run_dir, recipe, str(recipe.source), list(parents))
        if rubrics:
            run_record.update_record(run_dir, rubrics=rubrics)
        shares.take_up(run_dir, earlier_shares)
        if sandboxes := sandboxes_of(recipe.rewards):
            run_record.update_record(run_dir, sandboxes={name: isolation_of(name) for name in sandboxes})
        exit_code = _run_processes(recipe, run_dir, nodes)
        if exit_code in (128 + signum for signum in signals.SIGNALS):  # before it could say so itself
            signals.leave_marker(run_dir, signals.Interrupted(exit_code - 128))
            exit_code = signals.EXIT_INTERRUPTED
        if exit_code == signals.EXIT_INTERRUPTED and signals.interruption_of(run_dir) is None:
            signals.leave_marker(run_dir, signals.Interrupted(signals.received() or signal.SIGTERM))
        if exit_code not in ENDINGS:
            run_record.update_record(run_dir, error=_reason(run_dir, exit_code))
        if left := _left_behind(recipe, run_dir):
            run_record.update_record(run_dir, **left)
        run_record.finish_record(run_dir, ENDINGS.get(exit_code, "failed"))
    return exit_code


def _left_behind(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """What the record has of files that the processes left: warnings, what judging cost, what a reward model is worth.

    `judging` is {requests, prompt_tokens, completion_tokens, usd}, of all attempts and all shares, joined or not.
    """
    left: dict[str, Any] = {}
    if warnings := warnings_of(run_dir):
        left["warnings"] = warnings
    if recipe.judge is not None:
        with contextlib.suppress(RunStopped):  # a file that cannot be read; the step has said so
            left["judging"] = spent_in([run_dir, *shares.directories_of_shares(run_dir).values()], recipe.judge)
    report = run_dir / run_record.REWARD_MODEL_REPORT
    if report.exists():
        left["reward_model"] = json.loads(report.read_text(encoding="utf-8"))
    return left


def _reason(run_dir: Path, exit_code: int) -> str:
    """Why a run failed. Who was ended by a signal left no word, and what others left is that they lost it."""
    error_file = run_dir / ERROR_FILE
    with contextlib.suppress(ValueError):  # no signal
        return f"ended by {signal.Signals(exit_code - 128).name}; for SIGKILL look at the machine's memory"
    return error_file.read_text(encoding="utf-8") if error_file.exists() else f"exit code {exit_code}"


def is_done(run_dir: Path, recipe: Recipe, parents: Sequence[dict[str, Any]] = ()) -> bool:
    """True if `run_dir` holds a finished run of this recipe and its rubrics that began from these parents' weights."""
    record = run_record.read_record(run_dir)
    if record is None or record["status"] != "done" or not _began_from(record, recipe, parents):
        return False
    return shares.has_rubrics(record, rubrics_of(recipe))


def _began_from(record: dict[str, Any], recipe: Recipe, parents: Sequence[dict[str, Any]]) -> bool:
    return record["recipe_sha256"] == recipe.sha256 and same_weights(record, parents)


def rubrics_of(recipe: Recipe) -> dict[str, str]:
    """Key -> hash of what a rubric says, for all that the recipe or a stage of it names. Raises RecipeError."""
    rubrics = {key: load_rubric(recipe.path(file)).sha256 for key, file in recipe.rubrics()}
    for stage in recipe.stages:
        of_stage = rubrics_of(stage_recipe(recipe, stage))
        rubrics |= {f"stages.{stage.name}.{key}": sha256 for key, sha256 in of_stage.items()}
    return rubrics


def _check_rubrics(run_dir: Path, recipe: Recipe, rubrics: Mapping[str, str]) -> None:
    """Raises RecipeError if a run that is to go on began with another rubric."""
    begun = (run_record.read_record(run_dir) or {}).get("rubrics", {})
    for key, sha256 in rubrics.items():
        if begun.get(key, sha256) != sha256:
            raise RecipeError(
                f"{recipe.source}: {key}: it is no longer the rubric that {run_dir} began with; put that back, or "
                f"leave --resume out to begin another run"
            )


def same_weights(record: dict[str, Any], parents: Sequence[dict[str, Any]]) -> bool:
    """True if a run began from the weights, and the sampled data, of these parents."""
    return shares.hashes_of(parents) == shares.hashes_of(record["parents"])


def _move_stale_run_away(
    run_dir: Path, recipe: Recipe, parents: Sequence[dict[str, Any]], rubrics: Mapping[str, str]
) -> None:
    """Moves away what began from another recipe, rubric or other weights: its checkpoints must not be taken up.

    The shares stay: each is looked at by itself, and may be newer, or at work. So does a pipeline for the rubrics of
    its stages.
    """
    record = run_record.read_record(run_dir)
    if record is None:
        return
    has_rubrics = recipe.step == "pipeline" or shares.has_rubrics(record, rubrics)
    if has_rubrics and _began_from(record, recipe, parents):
        return
    number = 1
    while (stale := run_dir.with_name(f"{run_dir.name}.stale{number}")).exists():
        number += 1
    stale.mkdir()
    for entry in sorted(run_dir.iterdir(), key=lambda entry: entry.name == run_record.FILE_NAME):  # the record last
        if entry.name != shares.DIRECTORY:
            entry.rename(stale / entry.name)
    print(f"what was in {run_dir} began from something else; it is now {stale.name}", file=sys.stderr)


def _run_processes(recipe: Recipe, run_dir: Path, nodes: Nodes) -> int:
    """The exit code of the step's processes, on as many nodes as it has, and beside the servers that it has."""
    # Else DeepSpeed, where it is installed, says on standard output that it has not found a GPU.
    environment = {} if recipe.hardware.gpus_per_node else {"DS_ACCELERATOR": "cpu"}
    if nodes.starts_itself(nodes.hosts) and not recipe.hardware.servers:
        return _run(command(recipe, run_dir), environment)
    folder = run_dir / ENDINGS_OF_NODES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    environment |= {endings.VARIABLE: str(folder)} if nodes.hosts else {}
    try:
        if not recipe.hardware.servers:
            exit_code = _run(command(recipe, run_dir, nodes), environment, nodes=nodes)
        else:
            with vllm_server.serving(recipe, run_dir, nodes) as servers:
                exit_code = _run(command(recipe, run_dir, nodes), environment | servers.environment, servers, nodes)
    except signals.Interrupted as interrupted:
        signals.leave_marker(run_dir, interrupted)
        return signals.EXIT_INTERRUPTED
    except vllm_server.ServerFailed as error:
        (run_dir / ERROR_FILE).write_text(f"{error}\n", encoding="utf-8")  # the trainer only lost its connection
        print(error, file=sys.stderr, flush=True)
        return EXIT_STOPPED
    exit_code = endings.exit_code_of_nodes(exit_code, folder, asked_to_stop=signals.received() is not None)
    shutil.rmtree(folder, ignore_errors=True)
    return exit_code


def command(recipe: Recipe, run_dir: Path, nodes: Nodes | None = None) -> list[str]:
    """The argv of the step's process: through `accelerate launch`, but for a pipeline, which only launches others."""
    module = MODULES[recipe.step]
    if recipe.step == "pipeline":
        return [sys.executable, "-m", module, str(run_dir)]
    nodes = nodes or nodes_of(recipe)
    hardware = recipe.hardware
    num_processes = 1 if recipe.step in SINGLE_PROCESS_STEPS else hardware.num_processes
    processes_here = max(1, num_processes // hardware.nodes)
    threads = hardware.threads_per_process or max(1, len(os.sched_getaffinity(0)) // processes_here)
    argv = [
        *(nodes.python, "-m", "open_r1.accelerate_launch"),
        *("--config_file", str(ACCELERATE_CONFIGS / f"{hardware.accelerate}.yaml")),
        *("--num_processes", str(num_processes)),
        *("--num_machines", str(num_nodes_of(recipe))),
        *("--num_cpu_threads_per_process", str(threads)),
        *(("--main_process_port", str(nodes.first_port)) if nodes.first_port else ()),
        *(("--main_process_ip", nodes.hosts[0]) if len(nodes.hosts) > 1 else ()),
        *("-m", module, str(run_dir)),
    ]
    return nodes.on(nodes.hosts, argv)


def run_directory(recipe: Recipe, runs: Path = RUNS) -> Path:
    """`runs/<recipe>/seed<seed>-<hash>`: the same recipe and seed always mean the same run."""
    file = recipe.source.resolve()
    name = file.relative_to(RECIPES).with_suffix("") if file.is_relative_to(RECIPES) else Path(file.stem)
    contents = [recipe.sha256]
    if recipe.step == "pipeline":  # what a stage's recipe says belongs to the pipeline
        contents += [stage_recipe(recipe, stage).sha256 for stage in recipe.stages]
    digest = hashlib.sha256("".join(contents).encode()).hexdigest()
    return runs / name / f"seed{recipe.seed}-{digest[:8]}"


def model_parents(recipe: Recipe) -> list[dict[str, Any]]:
    """The runs that made what this recipe starts from: [{name, run, weights_sha256}], and data_sha256 for data."""
    names = [recipe.model.name, *(recipe.evaluate.models.values() if recipe.evaluate else ())]
    names += [recipe.distill.teacher] if recipe.distill else []
    names += [recipe.judge.name] if recipe.judge else []
    names += [name for _, name in models_of_rewards(recipe)]
    directories = [Path(recipe.model_path(name)) for name in names if name]
    folders = [recipe.path(source.path) for _, source in recipe.data_sources() if source.path]
    models = [
        {
            "name": directory.parent.name,
            "run": str(directory.parent),
            "weights_sha256": run_record.weights_sha256(directory),
        }
        for directory in directories
        if directory.is_dir()
    ]
    data = [
        {"name": folder.parent.name, "run": str(folder.parent), "data_sha256": run_record.data_sha256(folder)}
        for folder in folders
        if folder.is_dir()
    ]
    return models + data


def _run(
    argv: list[str],
    environment: Mapping[str, str] | None = None,
    servers: vllm_server.Servers | None = None,
    nodes: Nodes | None = None,
) -> int:
    """The exit code of a process that gets our signals, as a shell tells it: 128 + n if signal n ended it.

    Raises ServerFailed, and ends the process, if a server that it needs ends before it.
    """
    process = None
    nodes = nodes or Nodes()
    whole_environment = {**ENVIRONMENT, **os.environ, **signals.as_launcher(), **(environment or {})}
    goes_with_us = None
    if not nodes.starts_itself(nodes.hosts):  # the step's process, on whatever node, dies with who starts it there
        del whole_environment[signals.PARENT_VARIABLE]
        goes_with_us = functools.partial(signals.die_with, os.getpid(), signal.SIGTERM)

    def send_on(signum: int) -> None:
        if process is not None:  # srun would send SIGTERM on as SIGKILL
            process.send_signal(signal.SIGUSR1 if argv[0] == "srun" else signum)

    with signals.answered_with(send_on):
        process = subprocess.Popen(argv, env=whole_environment, cwd=REPOSITORY, preexec_fn=goes_with_us)
        if earlier := signals.received():
            send_on(earlier)
        try:
            exit_code = process.wait() if servers is None else _wait_beside(servers, process)
        except KeyboardInterrupt:
            process.wait()
            return 130
    return exit_code if exit_code >= 0 else 128 - exit_code


def _wait_beside(servers: vllm_server.Servers, process: subprocess.Popen) -> int:
    """The exit code of a process that needs servers. Raises ServerFailed, and ends it, if one is gone before."""
    try:
        while process.poll() is None:
            servers.check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(vllm_server.SECONDS_BETWEEN_LOOKS)
        if process.returncode not in (0, signals.EXIT_INTERRUPTED):
            servers.check()  # why it failed, if that is so
    except vllm_server.ServerFailed:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(vllm_server.SECONDS_TO_END)
        process.kill()  # it waits for a server that is gone
        process.wait()
        raise
    return process.returncode
