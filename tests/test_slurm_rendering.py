"""Recipe and site file -> sbatch scripts: every value arrives, every mistake is a line, and what a job does at its end.

No cluster: the scripts are run as they are, between stand-ins for sbatch, scontrol and squeue.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conftest import CPU_TRAINER, REPOSITORY, sums

from open_r1.places import RUNS
from open_r1.recipe import RecipeError, load_recipe
from open_r1.recipe.sections import Step
from open_r1.shares import RESULTS
from open_r1.slurm.__main__ import main
from open_r1.slurm.jobs import Job, Resources, jobs_of, resources_of
from open_r1.slurm.rendering import options_of
from open_r1.slurm.site import SHIPPED_SITE, Site, load_site

TRAINER = {**CPU_TRAINER, "max_steps": 1}
SERVED = {"use_vllm": True, "vllm_mode": "server", "num_generations": 4, "max_completion_length": 8}
HOSTILE = [
    "two words",
    """it's "quoted" \\ $HOME `id` $(id)""",
    '{"eos": ["a b", "$x"], "n": 1}',
    "two\nlines",
    "--share * ? [a] ~ #no !no; & | < >",
    " é日本 ",
]
OVERRIDES = [f"description={json.dumps(text, ensure_ascii=False)}" for text in HOSTILE]


@pytest.fixture
def some_model(tmp_path) -> Path:
    """What passes for a model until somebody loads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def recipe_file(write_recipe, some_model):
    """Writes a recipe of a step, with hardware and further sections."""

    def write(step: str = "sft", name: str = "", **sections) -> Path:
        of_step = {
            "sft": {"model": {"name": str(some_model)}, "data": [sums(8)], "trainer": TRAINER},
            "evaluate": {"evaluate": {"benchmarks": ["tiny_sums"], "models": {"a": str(some_model)}}},
            "distill": {
                "model": {"name": str(some_model)},
                "data": [sums(8)],
                "rewards": ["format"],
                "distill": {"teacher": str(some_model), "max_completion_length": 8},
                "trainer": TRAINER,
            },
            "grpo": {
                "model": {"name": str(some_model)},
                "data": [sums(8)],
                "rewards": ["format"],
                "trainer": {"max_steps": 1, **SERVED},
            },
        }[step]
        return write_recipe(name or f"{step}.yaml", step=step, **{**of_step, **sections})

    return write


@pytest.fixture
def pipeline_file(write_recipe, recipe_file):
    """A pipeline of sft, distill and evaluate."""
    for step in ("sft", "distill", "evaluate"):
        recipe_file(step)
    models = {"a": "stage:student", "b": "stage:cold_start"}
    return write_recipe(
        "pipeline.yaml",
        step="pipeline",
        stages=[
            {"name": "cold_start", "recipe": "sft.yaml"},
            {"name": "student", "recipe": "distill.yaml", "set": {"distill": {"teacher": "stage:cold_start"}}},
            {"name": "evaluation", "recipe": "evaluate.yaml", "set": {"evaluate": {"models": models}}},
        ],
    )


@pytest.fixture
def site_file(tmp_path):
    """Writes a site file whose run directories and logs are in tmp_path."""

    def write(**keys) -> Path:
        file = tmp_path / "site.yaml"
        own = {"runs": str(tmp_path / "runs"), "log_directory": str(tmp_path / "logs")}
        file.write_text(yaml.safe_dump(own | keys), encoding="utf-8")
        return file

    return write


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a bash script on PATH under a name; `calls` gives the argv of each of its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def put(name: str, body: str = "") -> Path:
        log = tmp_path / f"{name}.calls"
        file = folder / name
        file.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >> {log}; printf "\\n\\0" >> {log}\n{body}\n')
        file.chmod(0o755)
        return file

    def calls(name: str) -> list[list[str]]:
        log = tmp_path / f"{name}.calls"
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        return [call.split("\0")[:-1] for call in text.split("\n\0")[:-1]]

    put.calls = calls
    return put


@pytest.fixture
def submit(stand_in, site_file, tmp_path):
    """Submits to an sbatch that numbers its jobs from 101; gives the folder of the submission."""
    numbers = tmp_path / "numbers"
    stand_in("sbatch", f'echo >> {numbers}; echo "$((100 + $(wc -l < {numbers})));cluster"')

    def submit(recipe: Path, *arguments: str, **site) -> Path:
        assert main([str(recipe), *arguments, "--site", str(site_file(**site))]) == 0
        (folder,) = {path.parent for path in (tmp_path / "logs").rglob("jobs.json")}
        return folder

    return submit


@pytest.fixture
def run_job(stand_in):
    """Runs a job's script as Slurm would, on an attempt: its exit code and what it said to Slurm's own file."""

    def run(script: Path, state: str = "RUNNING", restarts: int = 0, **environment) -> tuple[int, str]:
        stand_in("squeue", f"echo {state}")
        stand_in("scontrol", "kill -s TERM $PPID")  # as Slurm ends a job that it queues again
        own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        own |= {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), **environment}
        finished = subprocess.run(["bash", str(script)], env=own, capture_output=True, text=True, cwd="/")
        assert finished.stderr == ""
        return finished.returncode, finished.stdout

    return run


# --- The site file


def test_every_step_has_its_own_time_limit_and_every_one_that_can_be_its_own_shares():
    steps = set(get_args(Step)) - {"pipeline"}  # whose stages are jobs of their own
    assert steps | {"default"} == set(get_args(get_args(Site.model_fields["time"].annotation)[0]))
    assert set(RESULTS) == set(get_args(get_args(Site.model_fields["shares"].annotation)[0]))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("partitions: gpu", "partitions: unknown key of a site file; did you mean partition?"),
        ("gpus_per_node: '8'", "gpus_per_node: '8' is wrong: input should be a valid integer"),
        ("time: {sft: 12:00:00}", "time.sft: 43200 is a number to YAML, as 12:00:00 is; put it in quotes"),
        ("time: {sft: a day}", "time: 'a day' is no time limit; write e.g. '12:00:00' or '2-00:00:00'"),
        ("time: {train: '1'}", "time.train: 'train' is wrong: input should be 'default', 'pretrain', 'sft', "),
        ("environment: {NCCL_DEBUG: 1}", "environment.NCCL_DEBUG: 1 must be text; put it in quotes"),
        ("environment: {A-B: x}", "environment: 'A-B' cannot be the name of a variable; use letters, digits and _"),
        (
            "sbatch: ['--nodes=2']",
            "sbatch: --nodes is said by the recipe or by a key of its own; remove it",
        ),
        ("sbatch: [exclusive]", "sbatch: 'exclusive' is no option; write it as one word, e.g. --constraint=infiniband"),
        ('account: "a\\nb"', "account: 'a\\nb' must be one line, and not empty"),
        ("container: {image: x}", "container.image: unknown key of a site file"),
        ("shares: {evaluate: 0}", "shares: evaluate cannot be split over 0 jobs; at least 1"),
        ("vllm: []", "vllm: [] is wrong: list should have at least 1 item after validation, not 0"),
        ("- partition", "a site file is a mapping of keys (partition, account, …)"),
        ("a: [", "line 1: not valid YAML"),
    ],
)
def test_mistake_in_the_site_file_is_one_line(text, line, tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_site(file)
    assert len(error.value.lines) == 1
    assert error.value.lines[0].startswith(f"{file}: {line}")


def test_site_file_that_is_not_there_is_one_line(recipe_file, tmp_path, capsys):
    assert main([str(recipe_file()), "--site", str(tmp_path / "none.yaml")]) == 2
    expected = f"{tmp_path}/none.yaml: the site file cannot be read (No such file or directory); name one with --site"
    assert capsys.readouterr().err.strip() == expected


def test_shipped_site_says_nothing_of_any_cluster_and_the_example_every_key():
    assert load_site(SHIPPED_SITE) == Site()
    example = SHIPPED_SITE.with_name("site.example.yaml")
    load_site(example)
    assert yaml.safe_load(example.read_text(encoding="utf-8")).keys() == Site.model_fields.keys()


# --- What a job asks for

GPUS = {"gpus_per_node": 8, "accelerate": "ddp"}


def served(nodes: int, tensor: int = 1, data: int = 1) -> dict:
    return {"nodes": nodes, "tensor_parallel_size": tensor, "data_parallel_size": data}


@pytest.mark.parametrize(
    ("step", "hardware", "expected"),
    [
        ("sft", {}, (1, 0, 1)),
        ("sft", {"processes_per_node": 2, "threads_per_process": 3}, (1, 0, 6)),
        ("sft", {**GPUS, "nodes": 4}, (4, 8, 64)),
        ("evaluate", {**GPUS, "nodes": 2}, (1, 1, 8)),
        ("grpo", {**GPUS, "nodes": 2, "vllm": served(1, 2, 4)}, (3, 8, 64)),
        ("grpo", {**GPUS, "gpus_per_node": 2, "vllm": served(2, 4, 4)}, (3, 8, 64)),
        ("grpo", {**GPUS, "gpus_per_node": 4, "vllm": served(0, 2, 2)}, (1, 8, 64)),
        ("grpo", {**GPUS, "nodes": 2, "judge": served(1, 8)}, (3, 8, 64)),
        ("grpo", {**GPUS, "gpus_per_node": 4, "judge": served(0, 2)}, (1, 6, 48)),
        ("grpo", {**GPUS, "nodes": 2, "vllm": served(2, 4, 4), "judge": served(1, 8)}, (5, 8, 64)),
        ("grpo", {**GPUS, "gpus_per_node": 4, "vllm": served(0, 2), "judge": served(0)}, (1, 7, 56)),
        ("grpo", {**GPUS, "gpus_per_node": 2, "vllm": served(0, 2), "judge": served(1, 8)}, (2, 8, 64)),
    ],
)
def test_job_asks_for_what_the_recipe_needs(step, hardware, expected, recipe_file):
    resources = resources_of(load_recipe(recipe_file(step, hardware=hardware)), Site())
    assert (resources.nodes, resources.gpus_per_node, resources.cpus_per_node) == expected


@pytest.mark.parametrize(
    ("hardware", "key"),
    [
        ({**GPUS, "gpus_per_node": 9}, "hardware.gpus_per_node: 9 GPUs are asked for"),
        ({**GPUS, "vllm": served(0)}, "hardware.gpus_per_node: 8 GPUs and 1 for hardware.vllm on the same node are"),
        ({**GPUS, "vllm": served(1, 4, 3)}, "hardware.vllm: 12 GPUs on each of its nodes are asked for"),
        ({**GPUS, "judge": served(0)}, "hardware.gpus_per_node: 8 GPUs and 1 for hardware.judge on the same node are"),
        ({**GPUS, "vllm": served(1), "judge": served(1, 9)}, "hardware.judge: 9 GPUs on each of its nodes are asked"),
        (
            {**GPUS, "gpus_per_node": 6, "vllm": served(0, 2), "judge": served(0)},
            "6 GPUs and 2 for hardware.vllm and 1 for hardware.judge on the same node are asked for",
        ),
    ],
)
def test_more_gpus_than_a_node_has_are_refused(hardware, key, recipe_file):
    with pytest.raises(RecipeError, match=key) as error:
        resources_of(load_recipe(recipe_file("grpo", hardware=hardware)), Site())
    assert "but a node of this site has 8 (gpus_per_node of the site file); take more nodes" in str(error.value)


@pytest.mark.parametrize(
    ("site", "option"),
    [
        ({}, "--gpus-per-node=2"),
        ({"gres": "gpu:h100"}, "--gres=gpu:h100:2"),
        ({"partition": "gpu"}, "--partition=gpu"),
        ({"account": "a b"}, "--account=a b"),
        ({"qos": "long"}, "--qos=long"),
        ({"time": {"default": "1:00:00", "sft": "2-0"}}, "--time=2-0"),
        ({"time": {"default": "1:00:00"}}, "--time=1:00:00"),
        ({"mem": "0"}, "--mem=0"),
        ({"cpus_per_node": 5}, "--cpus-per-task=5"),
        ({"signal_seconds": 90}, "--signal=B:USR1@90"),
        ({"sbatch": ["--exclusive"]}, "--exclusive"),
    ],
)
def test_site_is_in_the_options_of_sbatch(site, option, recipe_file):
    recipe = load_recipe(recipe_file(hardware={"gpus_per_node": 2, "accelerate": "ddp"}))
    site = Site(**site)
    (job,) = jobs_of(recipe, site, "name")
    options = options_of(job, site, Path("/logs"))
    assert option in options
    assert len({text.partition("=")[0] for text in options}) == len(options)


@pytest.mark.parametrize(
    ("folder", "num_shares", "output"),
    [
        ("/logs/1", 1, "/logs/1/name-%j.log"),
        ("/logs/1", 3, "/logs/1/name-%A_%a.log"),
        ("/100%/j", 1, "/100%%/j/name-%j.log"),
    ],
)
def test_log_of_slurm_is_beside_the_script(folder, num_shares, output):
    job = Job("name", "sft", (), Resources(1, 0, 1, None, None), num_shares)
    assert f"--output={output}" in options_of(job, Site(), Path(folder))


def test_dry_run_counts_the_judges_nodes(recipe_file, site_file, some_model, tmp_path, capsys):
    (tmp_path / "rubric.yaml").write_text("{description: Order., principles: [{name: order, text: It is in order.}]}")
    judge = {"rewards": [{"name": "judge", "rubric": "rubric.yaml"}], "judge": {"name": str(some_model)}}
    hardware = {**GPUS, "nodes": 2, "vllm": served(1, 8), "judge": served(2, 8, 2)}
    trainer = {"max_steps": 1, "bf16": True, **SERVED}
    recipe = recipe_file("grpo", hardware=hardware, trainer=trainer, **judge)
    assert main([str(recipe), "--site", str(site_file()), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "grpo: 5 nodes, 8 GPUs each, " in shown
    assert "#SBATCH --nodes=5\n" in shown


# --- Scripts


def test_values_arrive_at_the_launcher_as_they_were_given(recipe_file, submit, run_job, stand_in, tmp_path):
    python = stand_in("python")
    submit(recipe_file(), *OVERRIDES, python=str(python))
    (script,) = (tmp_path / "logs").rglob("*.slurm")
    assert run_job(script)[0] == 0
    (argv,) = stand_in.calls("python")
    recipe = str(tmp_path / "sft.yaml")
    assert argv == ["-m", "open_r1.launch", "sft", recipe, *OVERRIDES, "--submitted", str(script.parent)]


@pytest.mark.parametrize("text", HOSTILE)
def test_environment_of_the_site_arrives_as_it_was_given(text, recipe_file, submit, run_job, stand_in, tmp_path):
    python = stand_in("python", f'printf "%s" "$OF_THE_SITE" > {tmp_path}/value')
    folder = submit(recipe_file(), python=str(python), environment={"OF_THE_SITE": text})
    assert run_job(folder / "sft.slurm")[0] == 0
    assert (tmp_path / "value").read_text(encoding="utf-8") == text


def test_task_of_an_array_does_its_share(recipe_file, submit, run_job, stand_in):
    folder = submit(recipe_file("distill"), "--shares", "3", python=str(stand_in("python")))
    run_job(folder / "distill-shares.slurm", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="2")
    run_job(folder / "distill.slurm")
    shared, joined = stand_in.calls("python")
    assert shared[-2:] == ["--share", "2/3"]
    assert "--share" not in joined
    assert (folder / "distill-shares-5_2" / "attempt-0.log").is_file()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck here")
def test_shellcheck_finds_nothing(recipe_file, pipeline_file, submit, stand_in, tmp_path):
    site = {
        "modules": ["cuda/12.8"],
        "setup": ["umask 022 # why not", 'mkdir -p "/tmp/$USER"'],
        "environment": {"A": HOSTILE[1]},
        "account": "a b",
    }
    kinds = {
        "sft": [recipe_file(), *OVERRIDES],
        "array": [recipe_file("distill"), "--shares", "3"],
        "pipeline": [pipeline_file],
        "served": [recipe_file("grpo", hardware={**GPUS, "vllm": served(1)})],
    }
    site = Site(container={"exec": ["x"]}, runs=str(tmp_path / "runs"), log_directory=str(tmp_path / "logs"), **site)
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(site.model_dump()))
    for arguments in kinds.values():
        assert main([*map(str, arguments), "--site", str(file)]) == 0
    scripts = [
        *(tmp_path / "logs").rglob("*.slurm"),
        *REPOSITORY.glob("slurm/*.slurm"),
        *REPOSITORY.glob("scripts/*.sh"),
    ]
    assert len(scripts) >= 7 + 2
    finished = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True)
    assert finished.stdout == ""


def test_dry_run_shows_scripts_and_commands_and_writes_nothing(pipeline_file, site_file, stand_in, tmp_path, capsys):
    stand_in("sbatch")
    assert main([str(pipeline_file), "--dry-run", "--site", str(site_file(shares={"distill": 2}))]) == 0
    shown = capsys.readouterr().out
    assert shown.count("#!/bin/bash") == 4
    last = shown.strip().splitlines()[-1]
    assert last.startswith(
        "sbatch --parsable '--dependency=afterok:<id of pipeline-student>' --kill-on-invalid-dep=yes"
    )
    assert stand_in.calls("sbatch") == []
    assert not (tmp_path / "logs").exists() and not (tmp_path / "runs").exists()


def test_dry_run_tells_what_is_not_ready_and_shows_the_script_all_the_same(recipe_file, site_file, tmp_path, capsys):
    recipe = recipe_file(model={"name": f"{RUNS}/no-such-recipe/latest/model"})
    assert main([str(recipe), "--dry-run", "--site", str(site_file())]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("#!/bin/bash") == 1
    assert printed.err.startswith(f"not ready: {recipe}: model.name: no model at {RUNS}/no-such-recipe/latest/model")
    assert main([str(recipe), "--site", str(site_file())]) == 2


def test_without_slurm_nothing_is_written(recipe_file, site_file, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(recipe_file()), "--site", str(site_file())]) == 2
    expected = "there is no sbatch here; submit from a login node of the cluster, or look with --dry-run"
    assert capsys.readouterr().err.strip() == expected
    assert not (tmp_path / "logs").exists()


# --- Chains


def test_each_job_of_a_pipeline_waits_for_the_one_before(pipeline_file, submit, stand_in):
    folder = submit(pipeline_file, shares={"distill": 2, "evaluate": 9})
    names = ["cold_start", "student-shares", "student", "evaluation-shares", "evaluation"]
    scripts = [str(folder / f"pipeline-{name}.slurm") for name in names]
    waits = [["--parsable"]]
    waits += [["--parsable", f"--dependency=afterok:{id}", "--kill-on-invalid-dep=yes"] for id in range(101, 105)]
    assert stand_in.calls("sbatch") == [[*wait, script] for wait, script in zip(waits, scripts, strict=True)]
    assert json.loads((folder / "jobs.json").read_text())[-1] == {"job": "pipeline-evaluation", "id": "105"}
    assert "#SBATCH --array=0-8\n" in (folder / "pipeline-evaluation-shares.slurm").read_text()


def test_refused_job_takes_those_before_it_back(pipeline_file, site_file, stand_in, capsys):
    stand_in("sbatch", 'case "$*" in *student*) echo "sbatch: error: no such account" >&2; exit 1;; esac; echo 11')
    stand_in("scancel")
    assert main([str(pipeline_file), "--site", str(site_file())]) == 2
    expected = "sbatch refused the job pipeline-student: sbatch: error: no such account"
    assert capsys.readouterr().err.strip() == expected
    assert stand_in.calls("scancel") == [["11"]]


def test_log_directory_that_cannot_be_made_is_told_before_anything_is_submitted(
    recipe_file, site_file, stand_in, tmp_path, capsys
):
    stand_in("sbatch")
    (tmp_path / "logs").write_text("a file")
    assert main([str(recipe_file()), "--site", str(site_file())]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"log_directory: {tmp_path}/logs/") and "cannot be written (Not a directory)" in error
    assert stand_in.calls("sbatch") == []


def test_job_runs_the_recipe_that_was_submitted(pipeline_file, recipe_file, submit, run_launcher, tmp_path):
    """Whatever becomes of the files meanwhile, and in the run directory that it had then."""
    folder = submit(pipeline_file)
    run_dir = Path((folder / "run_directory").read_text())
    (tmp_path / "sft.yaml").write_text("step: broken")
    pipeline_file.write_text("step: broken")
    finished = run_launcher("pipeline", pipeline_file, "--submitted", folder, "--stage", "cold_start", "--dry-run")
    assert finished.returncode == 0, finished.stderr
    assert f"-m open_r1.sft {run_dir}/cold_start" in finished.stdout


@pytest.fixture
def run_launcher():
    def run(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "open_r1.launch", *map(str, arguments)], capture_output=True, text=True
        )

    return run


# --- How a job ends

INTERRUPTED = "interrupted; queueing it again, to go on from its last checkpoint"


def last_words(said: str) -> str:
    return said.splitlines()[-1].partition(" ")[2]


@pytest.mark.parametrize(
    ("python", "state", "restarts", "exit_code", "queued", "word"),
    [
        ("exit 0", "RUNNING", 0, 0, False, "done"),
        ("exit 3", "RUNNING", 0, 3, False, "failed with exit code 3; see "),
        ("exit 75", "RUNNING", 0, 75, True, INTERRUPTED),
        ("kill -s USR1 $$", "RUNNING", 0, 75, True, INTERRUPTED),
        ("kill -s KILL $$", "RUNNING", 0, 137, False, "failed with exit code 137; see "),
        ("exit 75", "COMPLETING", 0, 75, False, "interrupted; Slurm says that the job is COMPLETING, so it is not"),
        ("exit 75", "", 0, 75, False, "interrupted; Slurm says that the job is gone, so it is not"),
        ("exit 75", "RUNNING", 1, 75, True, INTERRUPTED),
        ("exit 75", "RUNNING", 2, 75, False, "submit it again to go on from its last checkpoint"),
        ("exit 0", "RUNNING", 2, 0, False, "done"),
        ("exit 0", "RUNNING", 3, 1, False, "not begun again: it was 3 times already, and max_restarts of the site"),
    ],
)
def test_job_that_was_interrupted_is_queued_again(
    python, state, restarts, exit_code, queued, word, recipe_file, submit, run_job, stand_in
):
    folder = submit(recipe_file(), python=str(stand_in("python", python)), max_restarts=2)
    assert (code := run_job(folder / "sft.slurm", state, restarts))[0] == exit_code
    assert last_words(code[1]).startswith(word)
    assert stand_in.calls("scontrol") == ([["requeue", "7"]] if queued else [])
    assert (folder / "sft-7" / f"attempt-{restarts}.log").is_file()


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_signal_to_a_job_is_sent_on_to_the_launcher(signal, recipe_file, submit, run_job, stand_in):
    python = stand_in("python", f"trap 'exit 75' {signal}\nkill -s {signal} $PPID\nsleep 60 & wait $!\nexit 1")
    folder = submit(recipe_file(), python=str(python))
    assert run_job(folder / "sft.slurm")[0] == 75
    assert stand_in.calls("scontrol") == [["requeue", "7"]]


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_signal_before_the_launcher_is_there_queues_the_job_again(signal, recipe_file, submit, run_job, stand_in):
    folder = submit(recipe_file(), python=str(stand_in("python")), setup=[f"kill -s {signal} $$"])
    assert run_job(folder / "sft.slurm")[0] == 75
    assert stand_in.calls("python") == []
    assert stand_in.calls("scontrol") == [["requeue", "7"]]


@pytest.mark.parametrize(
    ("setup", "exit_code"),
    [
        (["false"], 2),
        (["false", "true"], 2),
        (["true # a remark"], 0),
        (['test -z "$never_set"'], 0),
        (["set -eu"], 0),
    ],
)
def test_line_of_the_setup_that_fails_ends_the_job(setup, exit_code, recipe_file, submit, run_job, stand_in):
    folder = submit(recipe_file(), python=str(stand_in("python")), setup=setup)
    code, said = run_job(folder / "sft.slurm")
    assert code == exit_code
    assert len(stand_in.calls("python")) == (exit_code == 0)
    assert ("modules or setup of the site file failed" in said) == (exit_code != 0)


# --- Stages by themselves


def test_stage_is_refused_before_its_parents_are_done(pipeline_file, run_launcher, tmp_path):
    runs = tmp_path / "runs"
    finished = run_launcher("pipeline", pipeline_file, "--runs", runs, "--stage", "student")
    assert finished.returncode == 2
    expected = "--stage student: it needs what cold_start makes, which is not begun; run that first"
    assert finished.stderr.strip() == f"{pipeline_file}: {expected}"
