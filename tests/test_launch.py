"""From a recipe to processes: what is launched, skipped, taken up again; and the models that are shipped."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import CPU_TRAINER, REPOSITORY, SMALLEST_MODEL, TINY, sums
from safetensors import safe_open
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from open_r1 import accelerate_launch, endings, launch, running
from open_r1.nodes import NUM_BLOCKS, Nodes, first_port, nodes_of
from open_r1.recipe import RecipeError, load_recipe
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS
from open_r1.run_record import read_record, update_record
from open_r1.running import MODULES
from open_r1.slurm.site import Container

SHORT = {**CPU_TRAINER, "max_steps": 2, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8}


def run_launcher(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "open_r1.launch", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}"},
    )


@pytest.fixture
def sft_recipe(write_recipe, smallest_model):
    return write_recipe("sft.yaml", step="sft", model={"name": str(smallest_model)}, data=[sums(16)], trainer=SHORT)


@pytest.fixture
def write_grpo_recipe(write_recipe, smallest_model):
    """Writes a GRPO recipe for so many processes, with trainer keys over the short ones and other sections added."""

    def write(num_processes: int, rewards: list[str], trainer: dict, **sections) -> Path:
        return write_recipe(
            "grpo.yaml",
            step="grpo",
            model={"name": str(smallest_model)},
            data=[sums(16)],
            rewards=rewards,
            trainer={**SHORT, "num_generations": 4, "max_completion_length": 8, **trainer},
            hardware={"processes_per_node": num_processes, "threads_per_process": 1},
            **sections,
        )

    return write


def test_command_goes_through_accelerate(sft_recipe, tmp_path):
    argv = running.command(load_recipe(sft_recipe, ["hardware.processes_per_node=2"]), tmp_path)
    text = " ".join(argv)
    assert "open_r1.accelerate_launch --config_file" in text
    assert "--num_processes 2" in text
    assert argv[-3:] == ["-m", "open_r1.sft", str(tmp_path)]


def test_same_recipe_and_seed_are_the_same_run(sft_recipe, tmp_path):
    def directory(*overrides):
        return running.run_directory(load_recipe(sft_recipe, overrides), tmp_path)

    assert directory() == directory()
    assert len({directory(), directory("seed=1"), directory("trainer.max_steps=3")}) == 3


@pytest.mark.parametrize("step", [*MODULES, "pipeline"])
def test_recipe_of_another_step_is_told_the_command(step, write_recipe, smallest_model, capsys):
    """A target of the Makefile, which make finds."""
    model, asked = {"name": str(smallest_model)}, {"max_completion_length": 9}
    needs = {
        "pretrain": {"model": {"architecture": SMALLEST_MODEL}},
        "grpo": {"rewards": ["format"]},
        "reward_model": {"eval_data": [{"name": "a/held-out"}]},
        "distill": {"distill": {"teacher": "./teacher", **asked}, "rewards": ["format"]},
        "generate": {"generate": asked},
        "preferences": {"preferences": {"rubric": "r.yaml", **asked}, "judge": {"name": "./judge"}},
        "evaluate": {"evaluate": {"benchmarks": ["tiny_sums"]}, "data": None},
        "pipeline": {"stages": [{"name": "cold", "recipe": "sft.yaml"}], "data": None, "model": None},
    }
    values = {"step": step, "model": model, "data": [sums(4)], **needs.get(step, {})}
    if step in TRAINER_CONFIGS:
        values["trainer"] = CPU_TRAINER
    file = write_recipe(**{key: value for key, value in values.items() if value is not None})
    assert launch.main(["sft" if step == "grpo" else "grpo", str(file)]) == 2
    told = capsys.readouterr().err.strip()
    target = re.fullmatch(rf"{file}: step: it is {step}, not \w+; run `make (\w+) RECIPE={file}`", told)[1]
    dry_run = subprocess.run(["make", "-n", target, f"RECIPE={file}"], cwd=REPOSITORY, capture_output=True, text=True)
    assert f"open_r1.launch {step} {file}" in dry_run.stdout


def test_dry_run_starts_nothing(sft_recipe, tmp_path, capsys):
    assert launch.main(["sft", str(sft_recipe), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "open_r1.accelerate_launch" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_dry_run_prints_commands_that_can_be_pasted(sft_recipe, tmp_path, capsys):
    runs = tmp_path / "runs of $me"
    assert launch.main(["sft", str(sft_recipe), "--runs", str(runs), "--dry-run", "hardware.nodes=2"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    argv = shlex.split(last)
    assert argv[0] == "srun"
    assert Path(argv[-1]).parent == runs / "sft"


def test_wrong_recipe_has_no_traceback_and_leaves_no_run(sft_recipe, tmp_path):
    finished = run_launcher("sft", sft_recipe, "trainer.learning_rat=1e-5", "--runs", tmp_path / "runs")
    assert finished.returncode == 2
    expected = f"{sft_recipe}: trainer.learning_rat: unknown key of trl.SFTConfig; did you mean learning_rate?"
    assert finished.stderr.strip() == expected
    assert not (tmp_path / "runs").exists()


def test_run_that_began_from_other_weights_is_moved_away_and_not_taken_up(sft_recipe, tmp_path, monkeypatch):
    recipe, run_dir = load_recipe(sft_recipe), tmp_path / "run"
    monkeypatch.setattr(running, "_run", lambda argv, environment: 0)
    before, after = ([{"name": "base", "run": "x", "weights_sha256": sha256}] for sha256 in ("a", "b"))
    assert running.launch(recipe, run_dir, before) == 0
    (run_dir / "checkpoints").mkdir()
    assert running.is_done(run_dir, recipe, before)
    assert not running.is_done(run_dir, recipe, after)
    assert running.launch(recipe, run_dir, after) == 0
    assert not (run_dir / "checkpoints").exists()
    assert (tmp_path / "run.stale1" / "checkpoints").is_dir()


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_run_that_a_guard_stops_says_why_and_nothing_else(num_processes, write_grpo_recipe, tmp_path):
    guards = {"max_dead_steps": 1, "max_truncated_share": None}
    recipe = write_grpo_recipe(num_processes, rewards=["format"], trainer={}, guards=guards)
    finished = run_launcher("grpo", recipe, "--runs", tmp_path / "runs")
    assert finished.returncode == 3
    assert "Traceback" not in finished.stderr
    assert finished.stderr.count("every group had equal rewards") == 1
    (run_dir,) = (tmp_path / "runs" / "grpo").glob("seed*")
    record = read_record(run_dir)
    assert record["status"] == "failed"
    assert record["error"].startswith("stopped at step 1: in 1 logs in a row every group had equal rewards")


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        pytest.param("breaks_in_the_second_process", "LookupError: what really happened", marks=pytest.mark.slow),
        ("kills_the_second_process", "ended by SIGKILL; for SIGKILL look at the machine's memory"),
    ],
)
def test_run_that_one_process_ends_tells_its_reason_and_not_that_the_other_lost_it(
    reward, error, write_grpo_recipe, tmp_path
):
    recipe = write_grpo_recipe(2, rewards=[f"rewards_of_tests:{reward}"], trainer={})
    assert run_launcher("grpo", recipe, "--runs", tmp_path / "runs").returncode not in (0, 2, 3, 75)
    (run_dir,) = (tmp_path / "runs" / "grpo").glob("seed*")
    assert read_record(run_dir)["error"].strip().splitlines()[-1] == error


@pytest.mark.parametrize(
    ("exit_codes", "exit_code"),
    [
        ([1], 1),
        ([-signal.SIGKILL], 137),
        ([1, -signal.SIGKILL], 137),
        ([-signal.SIGTERM, -signal.SIGSEGV], 139),
        ([1, 3], 3),
        ([1, 75], 75),
        ([-signal.SIGTERM, 1], 1),
        ([-signal.SIGTERM, -signal.SIGTERM], 143),
    ],
)
def test_launcher_ends_with_the_code_of_the_process_that_ended_the_others(exit_codes, exit_code):
    failures = {rank: ProcessFailure(rank, 1000 + rank, code, "none") for rank, code in enumerate(exit_codes)}
    assert accelerate_launch.exit_code_of(failures) == exit_code


# --- Several nodes

HOSTS = ("h1", "h2", "h3")


@pytest.fixture
def slurm_job(tmp_path, monkeypatch):
    """The environment of a job of three nodes, with Slurm's own answer to what they are called."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/bash\n[ "$*" = "show hostnames h[1-3]" ] && printf "h1\\nh2\\nh3\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    for name, value in {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "h[1-3]"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def nowhere(monkeypatch):
    """No Slurm, no hosts."""
    for name in ("SLURM_JOB_ID", "OPEN_R1_HOSTS", "OPEN_R1_SITE"):
        monkeypatch.delenv(name, raising=False)


def test_nodes_are_those_of_the_slurm_job(sft_recipe, slurm_job):
    nodes = nodes_of(load_recipe(sft_recipe, ["hardware.nodes=2"]))
    assert (nodes.hosts, nodes.serving, nodes.runner) == (("h1", "h2"), (), "srun")


def test_nodes_are_those_that_the_environment_names(sft_recipe, nowhere, monkeypatch):
    monkeypatch.setenv("OPEN_R1_HOSTS", " a, b")
    nodes = nodes_of(load_recipe(sft_recipe, ["hardware.nodes=2"]))
    assert (nodes.hosts, nodes.runner) == (("a", "b"), "ssh")


def test_one_node_needs_no_runner(sft_recipe, nowhere):
    assert nodes_of(load_recipe(sft_recipe)) == Nodes()


def test_nodes_that_serve_come_after_those_that_train(write_grpo_recipe, slurm_job):
    recipe = load_recipe(write_grpo_recipe(1, ["format"], {}), ["hardware.vllm.nodes=1", "hardware.nodes=2"])
    nodes = nodes_of(recipe)
    assert (nodes.hosts, nodes.serving) == (("h1", "h2"), ("h3",))


def test_judges_nodes_come_last(write_grpo_recipe, slurm_job):
    recipe = load_recipe(write_grpo_recipe(1, ["format"], {}), ["hardware.vllm.nodes=1", "hardware.judge.nodes=1"])
    nodes = nodes_of(recipe)
    assert (nodes.hosts, nodes.serving) == (("h1",), ("h2", "h3"))
    assert [nodes.serving_for(recipe.hardware, key) for key in ("vllm", "judge")] == [("h2",), ("h3",)]


def test_fewer_nodes_than_all_need_are_refused(write_grpo_recipe, slurm_job):
    overrides = ["hardware.nodes=2", "hardware.vllm.nodes=1", "hardware.judge.nodes=1"]
    with pytest.raises(RecipeError, match=r"4 nodes are asked for \(vllm.nodes, judge.nodes included\), but the Slurm"):
        nodes_of(load_recipe(write_grpo_recipe(1, ["format"], {}), overrides))


def test_more_nodes_than_the_job_has_are_refused(sft_recipe, slurm_job):
    with pytest.raises(RecipeError, match="4 nodes are asked for, but the Slurm job has 3: h1 h2 h3"):
        nodes_of(load_recipe(sft_recipe, ["hardware.nodes=4"]))


def test_several_nodes_and_no_way_to_start_them_leaves_no_run(sft_recipe, nowhere, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert launch.main(["sft", str(sft_recipe), "--runs", str(runs), "hardware.nodes=2"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"{sft_recipe}: hardware.nodes: 2 nodes are asked for; submit it with `make slurm RECIPE=")
    assert error.endswith('OPEN_R1_HOSTS="host1 host2"')
    assert not list(runs.glob("sft/seed*"))


PYXIS, APPTAINER = Container(srun=["--container-image=x"]), Container(exec=["apptainer", "exec", "x.sif"])


@pytest.mark.parametrize(
    ("nodes", "hosts", "prefix"),
    [
        (Nodes(), (), []),
        (Nodes(runner="srun"), (), []),
        (Nodes(container=APPTAINER), (), ["apptainer", "exec", "x.sif"]),
        (Nodes(HOSTS[:1], HOSTS[1:], "srun"), HOSTS[:1], []),
        (Nodes(HOSTS[:1], runner="ssh"), HOSTS[:1], [str(REPOSITORY / "scripts/on_hosts.sh"), "h1"]),
        (Nodes(HOSTS, runner="ssh"), HOSTS, [str(REPOSITORY / "scripts/on_hosts.sh"), "h1 h2 h3"]),
    ],
)
def test_command_is_put_behind_what_starts_it(nodes, hosts, prefix):
    assert nodes.on(hosts, ["a b", "c"]) == [*prefix, "a b", "c"]


@pytest.mark.parametrize(
    ("nodes", "hosts", "words"),
    [
        (Nodes(HOSTS, (), "srun"), HOSTS, ["--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--nodelist=h1,h2,h3"]),
        (Nodes(HOSTS[:2], HOSTS[2:], "srun"), HOSTS[2:], ["--nodes=1", "--ntasks=1", "--nodelist=h3"]),
        (Nodes((), (), "srun", PYXIS), (), ["--nodes=1", "--container-image=x"]),
        (Nodes(HOSTS, (), "srun", APPTAINER), HOSTS, ["--kill-on-bad-exit=1", "--export=ALL"]),
    ],
)
def test_srun_starts_it_once_on_each_node(nodes, hosts, words):
    argv = nodes.on(hosts, ["a b", "c"])
    assert argv[0] == "srun"
    assert set(words) <= set(argv)
    assert argv[-2:] == ["a b", "c"]


def test_command_of_several_nodes_leads_to_the_first(sft_recipe, tmp_path):
    recipe = load_recipe(sft_recipe, ["hardware.nodes=3", "hardware.processes_per_node=2"])
    text = shlex.join(running.command(recipe, tmp_path, Nodes(HOSTS, (), "srun", first_port=10_010)))
    assert "--num_processes 6 --num_machines 3 " in text
    assert "--main_process_port 10010 --main_process_ip h1 " in text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_PROCID": "2"}, ["--machine_rank", "2"]),
        ({"OPEN_R1_MACHINE_RANK": "1"}, ["--machine_rank", "1"]),
        ({"OPEN_R1_MACHINE_RANK": "0", "SLURM_PROCID": "3"}, ["--machine_rank", "0"]),
    ],
)
def test_rank_of_a_node_is_seen_there(environment, expected, nowhere, monkeypatch):
    for name in ("SLURM_PROCID", "OPEN_R1_MACHINE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    argv = ["--num_machines", "4", "-m", "x"]
    assert accelerate_launch.with_machine_rank(argv) == [*expected, *argv]


def test_rank_of_the_only_node_is_not_asked_for():
    argv = ["--num_machines", "1", "-m", "x"]
    assert accelerate_launch.with_machine_rank(argv) == argv


def test_ports_of_neighbouring_jobs_and_of_restarts_differ(monkeypatch):
    def port(job, restarts):
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        return first_port()

    ports = {port(job, restarts) for job in range(7, 17) for restarts in range(20)}
    assert len(ports) == 10 * 20
    assert all(10_000 <= number < 32_768 - 9 for number in {*ports, port(NUM_BLOCKS - 1, 0), port(10**7, 99)})


@pytest.mark.parametrize(
    ("of_runner", "of_nodes", "asked_to_stop", "expected"),
    [
        (0, [], False, 0),
        (75, [75, 75], True, 75),
        (75, [75, 75], False, 75),  # by Slurm, which asks the nodes directly
        (75, [3, 75], False, 3),  # a guard stopped the run, and the other node was asked to end
        (75, [1, 75], False, 1),
        (75, [1, 75], True, 75),  # one node went at once, before the other could save
        (75, [75, 1], False, 75),
        (139, [1, 139], False, 139),
        (75, [1, 2, 75], False, 2),
        (137, [1, 75], False, 137),  # out of memory: that node left nothing
        (143, [2], False, 2),  # the other node ended before it could answer
        (75, [], False, 75),
    ],
)
def test_run_on_several_nodes_ends_with_the_code_of_the_cause(of_runner, of_nodes, asked_to_stop, expected, tmp_path):
    for number, code in enumerate(of_nodes):
        (tmp_path / str(number)).write_text(str(code))
    assert endings.exit_code_of_nodes(of_runner, tmp_path, asked_to_stop) == expected


def test_nodes_leave_their_endings_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv(endings.VARIABLE, str(tmp_path))
    for code in (0, 3, 75):
        endings.leave_ending(code)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"0": "3", "1": "75"}


def test_launcher_believes_the_first_node_that_failed_and_not_the_runner(sft_recipe, slurm_job, tmp_path):
    """srun gives the greatest code, 75, and the run would be queued again and again."""
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/bash\necho 3 > "$OPEN_R1_ENDINGS/0"\necho 75 > "$OPEN_R1_ENDINGS/1"\nexit 75\n')
    srun.chmod(0o755)
    run_dir = tmp_path / "run"
    assert running.launch(load_recipe(sft_recipe, ["hardware.nodes=2"]), run_dir) == 3
    assert read_record(run_dir)["status"] == "failed"


def test_processes_on_other_nodes_are_not_told_to_die_with_the_launcher(sft_recipe, slurm_job, tmp_path):
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/bash\nexit "${OPEN_R1_PARENT:-0}"\n')
    srun.chmod(0o755)
    assert running.launch(load_recipe(sft_recipe, ["hardware.nodes=2"]), tmp_path / "run") == 0


# --- scripts/on_hosts.sh, with something in the place of ssh that stays on this machine


@pytest.fixture
def on_hosts(tmp_path):
    """Starts a command on hosts; what it writes is in files of `tmp_path`, which is its working directory."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/bash\nexport HOST=$1\nshift\nexec env -u OPEN_R1_PASSED -C / sh -c "$*"\n')
    ssh.chmod(0o755)

    def start(hosts: str, *argv: str, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            [str(REPOSITORY / "scripts" / "on_hosts.sh"), hosts, *argv],
            env={**os.environ, "OPEN_R1_SSH": str(ssh), **environment},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


PAUSE = "read -r -t 0.02 _ <>$HOST"  # on a pipe that nobody writes into; a trap is answered after it
SHOW = "import json, os, sys; open(os.environ['HOST'], 'w').write(json.dumps(sys.argv[1:]))"


def test_arguments_arrive_on_every_host_as_they_are(on_hosts, tmp_path):
    odd = ["two words", """it's "q" $HOME `id` \\""", '{"a": [1, "$x"]}', "two\nlines", "", "* ~ é"]
    process = on_hosts("h1 h2", sys.executable, "-c", SHOW, *odd)
    assert (process.wait(), process.stderr.read()) == (0, "")
    assert [json.loads((tmp_path / host).read_text()) for host in ("h1", "h2")] == [odd, odd]


def test_hosts_get_their_rank_and_the_variables_of_the_run(on_hosts, tmp_path):
    told = "echo $OPEN_R1_MACHINE_RANK $OPEN_R1_PASSED > $HOST"
    assert on_hosts("h1 h2", "sh", "-c", told, OPEN_R1_PASSED="a  'b'\n$c").wait() == 0
    assert [(tmp_path / host).read_text() for host in ("h1", "h2")] == ["0 a 'b' $c\n", "1 a 'b' $c\n"]


def test_host_that_fails_ends_the_others_and_gives_its_code(on_hosts, tmp_path):
    waits = f"trap 'touch ended; exit 75' TERM; : > ready; while :; do {PAUSE}; done"
    fails = f"until [ -e ready ]; do {PAUSE}; done; exit 3"
    process = on_hosts("h1 h2", "bash", "-c", f"mkfifo $HOST; if [ $HOST = h1 ]; then {waits}; else {fails}; fi")
    assert process.wait() == 3
    assert "exit code 3 on h2" in process.stderr.read()
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_signal_gets_to_every_host(name, on_hosts, tmp_path):
    waits = f"trap 'exit 75' {name}; mkfifo $HOST; : > $HOST-waits; while :; do {PAUSE}; done"
    process = on_hosts("h1 h2", "bash", "-c", waits)
    while not all((tmp_path / f"{host}-waits").exists() for host in ("h1", "h2")):
        os.sched_yield()
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.wait() == 75


def test_command_ends_on_every_host_when_the_connection_is_gone(on_hosts, tmp_path):
    for host in ("h1", "h2"):
        os.mkfifo(tmp_path / f"{host}-ends")
    waits = f"trap 'echo ended > $HOST-ends; exit' TERM; mkfifo $HOST; : > $HOST-waits; while :; do {PAUSE}; done"
    process = on_hosts("h1 h2", "bash", "-c", waits)
    while not all((tmp_path / f"{host}-waits").exists() for host in ("h1", "h2")):
        os.sched_yield()
    process.kill()
    assert [(tmp_path / f"{host}-ends").read_text() for host in ("h1", "h2")] == ["ended\n", "ended\n"]


# --- Several processes


@pytest.mark.slow
def test_two_processes_work_on_one_batch(write_grpo_recipe, tmp_path):
    recipe = write_grpo_recipe(2, rewards=["format"], trainer={"log_completions": True, "max_steps": 1})
    finished = run_launcher("grpo", recipe, "--runs", tmp_path / "runs")
    assert finished.returncode == 0, finished.stderr
    (table,) = (tmp_path / "runs").glob("grpo/seed*/completions/*.parquet")
    assert len(pd.read_parquet(table)) == 2 * 8


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_run_taken_up_from_a_checkpoint_ends_with_the_same_weights(num_processes, write_grpo_recipe, tmp_path):
    recipe = write_grpo_recipe(
        num_processes,
        rewards=["rewards_of_tests:number_of_characters"],
        trainer={"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2},
        guards={"max_truncated_share": None},
    )
    runs = tmp_path / "runs"
    assert run_launcher("grpo", recipe, "--runs", runs).returncode == 0
    run_dir = running.run_directory(load_recipe(recipe), runs)
    whole = read_record(run_dir)["weights_sha256"]
    # As if it had been killed after step 3: the last checkpoint is that of step 2.
    shutil.rmtree(run_dir / "checkpoints" / "checkpoint-4")
    shutil.rmtree(run_dir / "model")
    update_record(run_dir, status="running")
    again = run_launcher("grpo", recipe, "--runs", runs)
    assert again.returncode == 0, again.stderr
    assert read_record(run_dir)["attempts"] == 2
    assert read_record(run_dir)["weights_sha256"] == whole
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.slow
def test_pipeline_skips_what_is_done_and_takes_up_what_failed(sft_recipe, write_recipe, smallest_model, tmp_path):
    write_recipe(
        "distill.yaml",
        step="distill",
        model={"name": str(smallest_model)},
        data=[sums(16)],
        rewards=["format"],
        distill={"teacher": str(smallest_model), "max_completion_length": 64, "batch_size": 16},
        keep={"min_reward": 0.0},
        trainer=SHORT,
    )
    evaluation = {"benchmarks": ["tiny_sums"], "num_problems": 8, "batch_size": 8, "max_new_tokens": 16}
    evaluation["models"] = {"cold_start": str(smallest_model)}
    write_recipe("evaluate.yaml", step="evaluate", evaluate=evaluation)
    models = {"cold_start": "stage:cold_start", "student": "stage:student"}
    pipeline = write_recipe(
        "pipeline.yaml",
        step="pipeline",
        stages=[
            {"name": "cold_start", "recipe": "sft.yaml"},
            {"name": "student", "recipe": "distill.yaml", "set": {"distill": {"teacher": "stage:cold_start"}}},
            {"name": "evaluation", "recipe": "evaluate.yaml", "set": {"evaluate": {"models": models}}},
        ],
    )
    runs = tmp_path / "runs"
    run_dir = running.run_directory(load_recipe(pipeline), runs)
    (run_dir / "evaluation").mkdir(parents=True)
    (run_dir / "evaluation" / "completions").write_text("a file where a folder must be")  # makes the third stage fail
    first = run_launcher("pipeline", pipeline, "--runs", runs)
    assert first.returncode != 0
    assert [read_record(run_dir / stage)["status"] for stage in ("cold_start", "student", "evaluation")] == [
        "done",
        "done",
        "failed",
    ]
    assert read_record(run_dir)["status"] == "failed"
    made_at = (run_dir / "cold_start" / "model" / "model.safetensors").stat().st_mtime_ns

    (run_dir / "evaluation" / "completions").unlink()
    second = run_launcher("pipeline", pipeline, "--runs", runs)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done already") == 2
    assert (run_dir / "cold_start" / "model" / "model.safetensors").stat().st_mtime_ns == made_at
    record = read_record(run_dir / "student")
    assert record["parents"][-1]["name"] == "cold_start"
    assert record["parents"][-1]["weights_sha256"] == read_record(run_dir / "cold_start")["weights_sha256"]
    assert read_record(run_dir / "evaluation")["attempts"] == 2
    assert set(json.loads((run_dir / "evaluation" / "scores.json").read_text())) == {"cold_start", "student"}
    assert read_record(run_dir)["scores"].keys() == {"cold_start", "student"}
    assert (run_dir / "report.html").stat().st_size > 10_000
    assert "pass@1" in second.stdout

    third = run_launcher("pipeline", pipeline, "--runs", runs)
    assert third.returncode == 0
    assert "is done already" in third.stdout


@pytest.mark.parametrize(("name", "recipe"), [("teacher", "base.yaml"), ("student", "base-student.yaml")])
def test_shipped_model_is_what_its_papers_say(name, recipe):
    directory = TINY / "models" / name
    sha256, file = (directory / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((directory / file).read_bytes()).hexdigest() == sha256
    made_by = dict(line.split(": ", 1) for line in (directory / "MADE_BY").read_text().splitlines())
    assert made_by["recipe"] == f"recipes/tiny-r1/{recipe}"
    assert made_by["recipe_sha256"] == load_recipe(TINY / recipe).sha256


def test_shipped_models_are_small_and_the_student_is_at_most_a_quarter():
    def num_parameters(name):
        with safe_open(TINY / "models" / name / "model.safetensors", "np") as weights:
            return sum(weights.get_tensor(key).size for key in weights.keys())  # noqa: SIM118 (no mapping)

    assert num_parameters("student") * 4 <= num_parameters("teacher") < 1_100_000
    assert sum(file.stat().st_size for file in (TINY / "models").rglob("*") if file.is_file()) <= 8e6
