"""recipes/tiny-rlaif: what it trains on and is measured by, and all of its stages, each a few steps long."""

import importlib
import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from conftest import REPOSITORY
from openai_server import OpenAIServer

from open_r1 import launch, running, step_process
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.check import check_recipe
from open_r1.feedback import load_rubric
from open_r1.procedural import explanations
from open_r1.recipe import load_recipe
from open_r1.run_record import read_record

pytest.importorskip("openai")

RLAIF = REPOSITORY / "recipes" / "tiny-rlaif"
PIPELINE = RLAIF / "pipeline.yaml"
FILES = sorted(RLAIF.glob("*.yaml"))
SEVEN_TERMS = {"min_terms": 7, "max_terms": 7, "min_digits": 1, "max_digits": 1}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_passes_every_check(file):
    check_recipe(load_recipe(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nobody_trains_on_what_is_measured(file):
    recipe = load_recipe(file)
    for key, source in recipe.data_sources():
        if source.procedural is not None:
            assert source.procedural.split == ("train" if key.startswith("data.") else "validation")
            assert source.procedural.parameters == SEVEN_TERMS
    assert BENCHMARKS["tiny_explanations"].procedural.split == "test"


def test_rubric_asks_for_what_the_labels_are():
    rubric = load_rubric(RLAIF / "rubrics" / "order.yaml")
    assert rubric.names == [explanations.PRINCIPLE]
    assert rubric.scale == [explanations.LOWEST, explanations.HIGHEST]


def test_no_policy_is_rewarded_by_the_truth():
    recipe = load_recipe(RLAIF / "grpo.yaml")
    assert [reward.weight for reward in recipe.rewards if reward.called == recipe.guards.truth] == [0.0]


# --- all of it, short

PROMPTS = 8
ON_ONE_THREAD = {"hardware.processes_per_node": 1, "hardware.threads_per_process": 1}
TRAINED = {"trainer.max_steps": 2, "trainer.logging_steps": 1}
SHORT = {  # step -> what is set over its recipe
    "sft": {"data.0.procedural.num_problems": 32, "trainer.max_steps": 2, "trainer.logging_steps": 1},
    "preferences": {
        "data.0.procedural.num_problems": PROMPTS,
        "preferences.max_completion_length": 24,
        "preferences.min_margin": 0.0,
        "judge": {"name": None, "judgements": 2, "endpoint": {"model": "teacher"}},
    },
    "reward_model": {**TRAINED, "trainer.per_device_train_batch_size": 2},
    "grpo": {
        **TRAINED,
        "data.0.procedural.num_problems": 8,
        "eval_data.0.procedural.num_problems": 4,
        "trainer.num_generations": 4,
        "trainer.per_device_train_batch_size": 8,
        "trainer.per_device_eval_batch_size": 8,
        "trainer.max_completion_length": 16,
        "trainer.eval_steps": 1,
        "trainer.save_steps": 1,
        "trainer.warmup_steps": 0,
    },
    "dpo": {**TRAINED, "trainer.per_device_train_batch_size": 2},
    "evaluate": {"evaluate.num_problems": 4, "evaluate.max_new_tokens": 16},
}


def by_length(body) -> str:
    """A judge by the template of the recipe's rubric, which shows the question and the answer alone."""
    return json.dumps({"A": {explanations.PRINCIPLE: 1 + len(body["messages"][-1]["content"]) % 10}})


@pytest.fixture
def short_pipeline(write_recipe):
    """The pipeline as it is, with SHORT set over each of its stages; a server judges in place of the small judge."""

    def write(server: OpenAIServer) -> Path:
        pipeline = yaml.safe_load(PIPELINE.read_text())
        for stage in pipeline["stages"]:
            file = RLAIF / stage["recipe"]
            step = load_recipe(file).step
            changes = dict(SHORT[step])
            if step == "preferences":
                endpoint = changes["judge"]["endpoint"]
                changes["judge"] = {**changes["judge"], "endpoint": {**endpoint, "base_url": server.url}}
                del stage["set"]["judge.name"]
            stage["recipe"] = str(file)
            stage["set"] = {**stage.get("set", {}), **ON_ONE_THREAD, **changes}
        return write_recipe("short.yaml", **pipeline)

    return write


@pytest.fixture
def steps_here(monkeypatch):
    """Lets the steps that the launcher starts run in this process, on one thread: each takes ten seconds to start."""

    def run_here(argv: list[str], *_) -> int:
        module, run_dir = argv[-2:]
        name = read_record(Path(run_dir))["step"]
        function = "sft" if name == "pretrain" else name
        return step_process._exit_code_of(getattr(importlib.import_module(module), function), Path(run_dir))

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(running, "_run", run_here)
    yield
    torch.set_num_threads(num_threads)


def test_every_stage_hands_its_work_to_the_next(short_pipeline, steps_here, tmp_path):
    with OpenAIServer(answer=by_length) as server:
        file = short_pipeline(server)
        assert launch.main(["pipeline", str(file), "--runs", str(tmp_path / "runs")]) == 0
    run_dir = running.run_directory(load_recipe(file), tmp_path / "runs")
    stages = {stage.name: load_recipe(RLAIF / stage.recipe).step for stage in load_recipe(PIPELINE).stages}
    records = {name: read_record(run_dir / name) for name in stages}
    assert {record["status"] for record in records.values()} == {"done"}
    made = {name: record["weights_sha256"] for name, record in records.items() if record.get("weights_sha256")}
    assert set(made) == {name for name, step in stages.items() if step not in ("preferences", "evaluate")}
    assert len({made[name] for name in ("cold_start", "judge", "reward_model", "unguarded_rl", "dpo")}) == 5
    parents = {name: {parent["name"] for parent in record["parents"]} for name, record in records.items()}
    assert parents["reward_model"] == parents["dpo"] == {"cold_start", "preferences"}
    assert parents["guarded_rl"] == parents["unguarded_rl"] == {"cold_start", "reward_model"}
    assert parents["evaluation"] == set(made) - {"judge", "reward_model"}

    rows = parquet.read_table(run_dir / "preferences" / "kept").to_pylist()
    assert 2 <= len(rows) <= PROMPTS
    scores = json.loads((run_dir / "scores.json").read_text())
    assert {"cold_start", "guarded_rl", "unguarded_rl", "dpo"} <= set(scores)
    for of_model in scores.values():
        assert set(of_model["benchmarks"]) == {"tiny_explanations", "tiny_sums"}
    lines = [json.loads(line) for line in (run_dir / "guarded_rl" / "metrics.jsonl").read_text().splitlines()]
    truths = [line["eval_rewards/explained/mean"] for line in lines if "eval_rewards/explained/mean" in line]
    assert len(truths) == 3 and all(0.0 <= truth <= 1.0 for truth in truths)
