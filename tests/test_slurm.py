"""Jobs on a real Slurm: what a recipe's job does when it must make way, when a server dies, when a user ends it.

Slurm, srun, accelerate, gloo and the trainers are the real ones; models are tiny and the nodes are all on this host.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from conftest import CPU_TRAINER, REPOSITORY, sums

from open_r1 import signals
from open_r1.run_record import read_record
from open_r1.step_process import EXIT_STOPPED

pytestmark = pytest.mark.slurm

TRAINER = {
    **CPU_TRAINER,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
}
GRPO_TRAINER = {**TRAINER, "num_generations": 4, "max_completion_length": 6}
GRPO = {
    "step": "grpo",
    "data": [sums(32)],
    "rewards": ["slurm_of_tests.training:number_of_characters"],
    "trainer": GRPO_TRAINER,
    "guards": {"max_truncated_share": None, "max_dead_steps": None},
    "hardware": {"threads_per_process": 1},
}
TWO_NODES = {
    **GRPO,
    "trainer": {**GRPO_TRAINER, "per_device_train_batch_size": 2},
    "hardware": {"nodes": 2, "threads_per_process": 1, "accelerate": "cpu"},
}
SFT = {"step": "sft", "data": [sums(32)], "trainer": TRAINER, "hardware": {"threads_per_process": 1}}
TESTS = Path(__file__).parent
EARLY = str(TESTS / "slurm_of_tests" / "early")  # for PYTHONPATH
SITE = {
    "gpus_per_node": 8,
    "environment": {"GLOO_SOCKET_IFNAME": "lo"},
    "vllm": [sys.executable, str(TESTS / "slurm_of_tests" / "vllm_server.py")],
    "signal_seconds": 30,
    "max_restarts": 3,
}
# What a shell, sbatch or srun could change on its way.
ODD_TEXT = """two  words, it's "quoted" $HOME ${HOME} `id` $(id) \\n \\" * ~ é %j"""
ODD_JSON = {"note": "a  \"b\" 'c' $HOME", "list": [1, {"d": "~ \\ $(id)"}]}
ODD_ARGUMENTS = [f"description={ODD_TEXT}", f"trainer.chat_template_kwargs={json.dumps(ODD_JSON)}"]


@pytest.fixture(scope="session")
def cluster_of_session():
    with slurm_cluster.slurm_cluster(num_nodes=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_of_session):
    """The idle cluster; a test that fails shows what the controller wrote meanwhile."""
    yield cluster_of_session
    cluster_of_session.clear()
    print("--- slurmctld", cluster_of_session.log(), sep="\n")


@dataclass(frozen=True)
class Submission:
    """The jobs that `python -m open_r1.slurm` made of a recipe. `witnesses` is where they leave what they saw."""

    cluster: slurm_cluster.Cluster
    ids: dict[str, str]
    folder: Path
    run_dir: Path
    witnesses: Path

    @property
    def id(self) -> str:
        """That of the only job."""
        (job_id,) = self.ids.values()
        return job_id

    def log(self) -> str:
        """What Slurm and all attempts wrote, each file under its name."""
        logs = sorted(self.folder.rglob("*.log"))
        return "\n".join(f"--- {file}\n{file.read_text(errors='replace')}" for file in logs)

    def wait_for_end(self, seconds: float = 180.0) -> str:
        """The state in which the only job ended. Shown if the test fails: all that it wrote."""
        try:
            return self.cluster.wait_for_end(self.id, seconds)
        finally:
            print(self.log())

    def wait_until_held(self, num_processes: int = 1) -> None:
        """Returns when so many processes wait, as HOLD_AT says; fails if the job ends before."""

        def held() -> bool:
            state = self.cluster.job(self.id)["JobState"]
            assert state not in slurm_cluster.ENDED, f"{state}\n{self.log()}"
            return len(list(self.witnesses.glob("held-*"))) == num_processes

        self.cluster.wait_until(held, f"{num_processes} processes are in the step where they are to wait")

    def trained(self) -> list[dict]:
        """What each process that trained saw: rank, world_size, node, the weights' sha256 before and after."""
        return [json.loads(file.read_text()) for file in sorted(self.witnesses.glob("trained-*.json"))]


class Submitter:
    """Submits recipes of sections from a folder of its own."""

    def __init__(self, cluster: slurm_cluster.Cluster, folder: Path, model: Path):
        self.cluster, self.folder, self.model = cluster, folder, model

    def write(self, sections: dict, name: str = "recipe.yaml") -> Path:
        file = self.folder / name
        with_model = {"model": {"name": str(self.model)}} if sections["step"] not in ("evaluate", "pipeline") else {}
        file.write_text(yaml.safe_dump({**with_model, **sections}, sort_keys=False), encoding="utf-8")
        return file

    def submit(self, recipe: Path, *arguments: str, site: dict | None = None, **environment: str) -> Submission:
        """The jobs of a recipe; neither the folder of its runs nor that of its logs is there yet."""
        submitted, witnesses = self.try_to_submit(recipe, *arguments, site=site, **environment)
        assert submitted.returncode == 0, submitted.stderr
        folder = Path(submitted.stdout.splitlines()[-1].removeprefix("scripts and logs: "))
        ids = {job["job"]: job["id"] for job in json.loads((folder / "jobs.json").read_text())}
        return Submission(self.cluster, ids, folder, Path((folder / "run_directory").read_text()), witnesses)

    def try_to_submit(
        self, recipe: Path, *arguments: str, site: dict | None = None, **environment: str
    ) -> tuple[subprocess.CompletedProcess, Path]:
        """What `python -m open_r1.slurm` gave, and the folder for the witnesses of its jobs."""
        number = 1 + len(list(self.folder.glob("site*.yaml")))
        site_file, witnesses = self.folder / f"site{number}.yaml", self.folder / f"witnesses{number}"
        witnesses.mkdir()
        logs = self.folder / f"logs {number}" / "jobs"
        own = {"runs": str(self.folder / f"runs{number}"), "log_directory": str(logs)}
        site_file.write_text(yaml.safe_dump({**SITE, **own, **(site or {})}), encoding="utf-8")
        path = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(REPOSITORY / "src"), str(TESTS)])
        submitted = subprocess.run(
            [sys.executable, "-m", "open_r1.slurm", str(recipe), *arguments, "--site", str(site_file)],
            env={**self.cluster.environment, "WITNESSES": str(witnesses), "PYTHONPATH": path, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        return submitted, witnesses


@pytest.fixture
def submitter(cluster, tmp_path, smallest_model) -> Submitter:
    return Submitter(cluster, tmp_path, smallest_model)


# --- The cluster itself


def test_nodes_of_a_job_have_names_and_find_each_other(cluster, tmp_path):
    job = cluster.submit("srun sh -c 'hostname; getent hosts n2'", "--nodes=2", f"--output={tmp_path}/log")
    assert cluster.wait_for_end(job) == "COMPLETED"
    assert sorted((tmp_path / "log").read_text().split()) == ["127.0.0.12", "127.0.0.12", "n1", "n2", "n2", "n2"]


@pytest.mark.parametrize(("value", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_host_without_slurm_fails_where_it_must_have_it(value, outcome, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_cluster, "PATH", str(tmp_path))
    monkeypatch.setitem(os.environ, slurm_cluster.MUST_RUN, value)
    with pytest.raises(outcome, match="there is no munged, slurmctld, slurmd, sbatch, srun, scontrol"):
        slurm_cluster.slurm_cluster().__enter__()


# --- Two nodes


@pytest.fixture(scope="module")
def submitter_of_two_nodes(cluster_of_session, tmp_path_factory, smallest_model) -> Submitter:
    """One folder and one recipe file for all runs on two nodes, so that they are runs of the same recipe."""
    submitter = Submitter(cluster_of_session, tmp_path_factory.mktemp("two nodes"), smallest_model)
    submitter.write(TWO_NODES)
    return submitter


@pytest.fixture(scope="module")
def undisturbed(submitter_of_two_nodes) -> Submission:
    """A run on two nodes that nobody disturbs, at its end."""
    submission = submitter_of_two_nodes.submit(submitter_of_two_nodes.folder / "recipe.yaml", *ODD_ARGUMENTS)
    assert submission.wait_for_end() == "COMPLETED", submission.log()
    return submission


def test_processes_on_two_nodes_train_one_model(undisturbed):
    assert read_record(undisturbed.run_dir)["status"] == "done"
    first, second = undisturbed.trained()
    assert [(seen["rank"], seen["world_size"], seen["node"]) for seen in (first, second)] == [
        (0, 2, "n1"),
        (1, 2, "n2"),
    ]
    assert first["before"] == second["before"] != first["after"] == second["after"]


def test_arguments_arrive_as_they_were_written(undisturbed):
    recipe = read_record(undisturbed.run_dir)["recipe"]
    assert recipe["description"] == ODD_TEXT
    assert recipe["trainer"]["chat_template_kwargs"] == ODD_JSON


def test_job_that_makes_way_saves_comes_back_and_ends_with_the_same_weights(
    cluster, undisturbed, submitter_of_two_nodes
):
    recipe = submitter_of_two_nodes.folder / "recipe.yaml"
    submission = submitter_of_two_nodes.submit(recipe, *ODD_ARGUMENTS, HOLD_AT="2")
    submission.wait_until_held(num_processes=2)
    urgent = cluster.submit("true", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null")
    assert cluster.wait_for_end(urgent) == "COMPLETED", submission.log()
    assert submission.wait_for_end() == "COMPLETED"
    assert cluster.job(submission.id)["Restarts"] == "1"
    record, expected = read_record(submission.run_dir), read_record(undisturbed.run_dir)
    assert (record["status"], record["attempts"]) == ("done", 2)
    assert "interrupted by SIGUSR1 after step 3" in submission.log()
    steps = [json.loads(line)["step"] for line in (submission.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert record["recipe_sha256"] == expected["recipe_sha256"]
    assert record["weights_sha256"] == expected["weights_sha256"]


def test_log_directory_that_was_missing_has_the_logs(undisturbed):
    (of_slurm,) = undisturbed.folder.glob("*.log")
    assert of_slurm.read_text().splitlines()[-1].endswith(" done")
    assert [file.name for file in undisturbed.folder.glob("*/*.log")] == ["attempt-0.log"]


def test_log_directory_that_cannot_be_made_is_told_before_anything_is_submitted(submitter):
    (submitter.folder / "file").touch()
    no_directory = submitter.folder / "file" / "logs"
    submitted, _ = submitter.try_to_submit(submitter.write(SFT), site={"log_directory": str(no_directory)})
    assert submitted.returncode == 2
    assert submitted.stderr.startswith(f"log_directory: {submitter.folder / 'file'}")
    assert submitted.stderr.count("\n") == 1
    assert not submitter.cluster.run("squeue", "--noheader")


# --- A job that is asked to stop


def test_signal_before_python_can_answer_loses_nothing(submitter):
    submission = submitter.submit(submitter.write(SFT), EARLY_SIGNAL="USR1", PYTHONPATH=EARLY)
    assert submission.wait_for_end() == "COMPLETED"
    assert (submission.witnesses / "asked-early").exists()
    assert submission.cluster.job(submission.id)["Restarts"] == "1"
    assert read_record(submission.run_dir)["status"] == "done"


def test_job_is_not_queued_again_more_often_than_the_site_allows(submitter):
    asks_itself = 'scancel --batch --signal=TERM "$SLURM_JOB_ID"; until [ -n "$asked_to_stop" ]; do sleep 0.1; done'
    submission = submitter.submit(submitter.write(SFT), site={"setup": [asks_itself], "max_restarts": 1})
    assert submission.wait_for_end() == "FAILED"
    job = submission.cluster.job(submission.id)
    assert (job["Restarts"], job["ExitCode"]) == ("1", f"{signals.EXIT_INTERRUPTED}:0")
    assert "not queued again: it was 1 times, as often as max_restarts of the site file allows" in submission.log()


def test_sigterm_on_two_nodes_loses_nothing(submitter):
    """srun would send it on as SIGKILL."""
    submission = submitter.submit(submitter.write(TWO_NODES), HOLD_AT="1")
    submission.wait_until_held(num_processes=2)
    submission.cluster.run("scancel", "--batch", "--signal=TERM", submission.id)
    assert submission.wait_for_end() == "COMPLETED"
    assert submission.cluster.job(submission.id)["Restarts"] == "1"


def test_job_that_its_user_cancels_saves_and_does_not_come_back(submitter):
    submission = submitter.submit(submitter.write(GRPO), HOLD_AT="1")
    submission.wait_until_held()
    submission.cluster.run("scancel", submission.id)
    assert submission.wait_for_end() == "CANCELLED"
    assert submission.cluster.job(submission.id)["Restarts"] == "0"
    record = read_record(submission.run_dir)
    assert record["status"] == "interrupted"
    assert (submission.run_dir / "checkpoints" / "checkpoint-2").is_dir()


# --- A server of vLLM's beside the trainer


def recipe_with_server(num_nodes: int, start_timeout_seconds: float) -> dict:
    """The server on nodes of its own, or (0) beside the trainer. Nothing is done with the GPUs that are asked for."""
    return {
        **GRPO,
        "trainer": {**GRPO_TRAINER, "use_cpu": False, "use_vllm": True, "vllm_mode": "server"},
        "hardware": {
            "gpus_per_node": 1,
            "accelerate": "one_gpu",
            "vllm": {"nodes": num_nodes, "start_timeout_seconds": start_timeout_seconds},
        },
    }


def recipe_with_judge(num_nodes: int, start_timeout_seconds: float) -> dict:
    """The same of the judge's server, beside transformers' generate."""
    return {
        **GRPO,
        "rewards": [{"name": "judge", "rubric": "rubric.yaml"}],
        "judge": {"name": "someone/judge"},
        "trainer": {**GRPO_TRAINER, "use_cpu": False},
        "hardware": {
            "gpus_per_node": 1,
            "accelerate": "one_gpu",
            "judge": {"nodes": num_nodes, "start_timeout_seconds": start_timeout_seconds},
        },
    }


RUBRIC = "{description: Order., principles: [{name: order, text: It is in order.}]}"
WITHOUT_VLLM = {"container": {"python": sys.executable}}  # what a container has is not looked for on the host


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_server_that_dies_ends_the_job_with_its_last_words(num_nodes, submitter):
    recipe = submitter.write(recipe_with_server(num_nodes, start_timeout_seconds=60))
    submission = submitter.submit(recipe, site=WITHOUT_VLLM, HOLD_AT="start", PYTHONPATH=EARLY)
    submission.wait_until_held()
    (submission.witnesses / "die").touch()
    assert submission.wait_for_end() == "FAILED"
    assert submission.cluster.job(submission.id)["ExitCode"] == f"{EXIT_STOPPED}:0"
    assert "stopped: the vLLM server ended by itself (exit code 17)" in submission.log()
    assert "    EngineDeadError: the engine of the stand-in died" in submission.log()
    assert read_record(submission.run_dir)["status"] == "failed"


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_server_that_never_answers_ends_the_job_at_the_deadline(num_nodes, submitter):
    recipe = submitter.write(recipe_with_server(num_nodes, start_timeout_seconds=2))
    submission = submitter.submit(recipe, site=WITHOUT_VLLM, SERVER="silent")
    assert submission.wait_for_end() == "FAILED"
    assert submission.cluster.job(submission.id)["ExitCode"] == f"{EXIT_STOPPED}:0"
    assert "within 2 seconds (hardware.vllm.start_timeout_seconds)" in submission.log()
    assert "    still loading the weights" in submission.log()
    assert not list(submission.witnesses.glob("held-*"))


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_judges_server_that_dies_ends_the_job_with_its_last_words(num_nodes, submitter):
    (submitter.folder / "rubric.yaml").write_text(RUBRIC)
    recipe = submitter.write(recipe_with_judge(num_nodes, start_timeout_seconds=60))
    submission = submitter.submit(recipe, site=WITHOUT_VLLM, HOLD_AT="start", PYTHONPATH=EARLY)
    submission.wait_until_held()
    (submission.witnesses / "die").touch()
    assert submission.wait_for_end() == "FAILED"
    assert submission.cluster.job(submission.id)["ExitCode"] == f"{EXIT_STOPPED}:0"
    assert "stopped: the judge's server ended by itself (exit code 17)" in submission.log()
    assert "    EngineDeadError: the engine of the stand-in died" in submission.log()
    assert submission.cluster.job(submission.id)["NumNodes"] == str(1 + num_nodes)


# --- Several jobs


def test_stages_after_one_that_failed_are_not_run(submitter):
    data = submitter.folder / "rows.jsonl"
    data.write_text('{"prompt": "1+1=", "completion": "2"}\n' * 8)
    submitter.write({**SFT, "data": [{"path": str(data)}]}, "first.yaml")
    submitter.write(SFT, "later.yaml")
    stages = [
        {"name": "first", "recipe": "first.yaml"},
        *({"name": name, "recipe": "later.yaml", "set": {"model": {"name": "stage:first"}}} for name in ("b", "c")),
    ]
    pipeline = submitter.write({"step": "pipeline", "stages": stages}, "pipeline.yaml")
    submission = submitter.submit(pipeline, site={"setup": [f"rm -f {data}"]})
    first, *later = submission.ids.values()
    assert submission.cluster.wait_for_end(first) == "FAILED", submission.log()
    print(submission.log())
    assert f"data.0.path: no such file: {data}" in submission.log()
    for job in later:
        assert submission.cluster.wait_for_end(job) == "CANCELLED"
    reasons = {submission.cluster.job(job)["Reason"] for job in later}
    assert reasons == {"DependencyNeverSatisfied"}
    assert not [stage for stage in ("b", "c") if (submission.run_dir / stage).exists()]


def test_shares_of_an_array_are_joined_by_the_job_after_it(submitter):
    models = {"one": str(submitter.model), "two": str(submitter.model)}
    evaluation = {"benchmarks": ["tiny_sums"], "num_problems": 4, "batch_size": 4, "max_new_tokens": 4}
    recipe = submitter.write({"step": "evaluate", "evaluate": {**evaluation, "models": models}})
    submission = submitter.submit(recipe, "--shares", "2")
    array, joined = submission.ids.values()
    assert submission.cluster.wait_for_end(array) == "COMPLETED", submission.log()
    assert submission.cluster.wait_for_end(joined) == "COMPLETED", submission.log()
    print(submission.log())
    assert len(submission.cluster.tasks(array)) == 2
    record = read_record(submission.run_dir)
    assert record["status"] == "done"
    assert [share["share"] for share in record["shares"]] == ["0/2", "1/2"]
    assert set(json.loads((submission.run_dir / "scores.json").read_text())) == {"one", "two"}
