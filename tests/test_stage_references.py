"""What a pipeline says of its stages' models and rows is looked at before the first of them begins."""

import pytest
from conftest import TINY, sums

from open_r1.check import check_recipe
from open_r1.recipe import RecipeError, load_recipe

MODEL = {"name": str(TINY / "models" / "teacher")}
RLAIF = TINY.parent / "tiny-rlaif"
ANSWERED = {"samples": 2, "max_completion_length": 8}
STAGES = {
    "sampled": {"step": "generate", "model": MODEL, "data": [sums(4)], "rewards": ["accuracy"], "generate": ANSWERED},
    "taught": {
        "step": "distill",
        "model": MODEL,
        "data": [sums(4)],
        "rewards": ["accuracy"],
        "trainer": {"max_steps": 1, "bf16": False},
        "distill": {"teacher": MODEL["name"], **ANSWERED},
    },
    "paired": {
        "step": "preferences",
        "model": MODEL,
        "data": [sums(4)],
        "judge": {"name": MODEL["name"]},
        "preferences": {**ANSWERED, "rubric": str(RLAIF / "rubrics" / "order.yaml")},
    },
    "scorer": {
        "step": "reward_model",
        "model": MODEL,
        "data": [{"path": "pairs.jsonl", "part": [0, 0.5]}],
        "eval_data": [{"path": "pairs.jsonl", "part": [0.5, 1]}],
        "trainer": {"max_steps": 1, "bf16": False},
    },
    "tuned": {"step": "sft", "model": MODEL, "data": [sums(4)], "trainer": {"max_steps": 1, "bf16": False}},
}
SFT = {"step": "sft", "model": MODEL, "trainer": {"max_steps": 1, "bf16": False}}
DPO = {"step": "dpo", "model": MODEL, "trainer": {"max_steps": 1, "bf16": False}}
GRPO = {
    "step": "grpo",
    "model": MODEL,
    "data": [sums(4)],
    "rewards": ["accuracy"],
    "trainer": {"num_generations": 2, "per_device_train_batch_size": 2, "bf16": False},
}
ASKS_A_MODEL = {**GRPO, "rewards": [{"name": "reward_model", "model": "./nowhere"}]}
RIGHT = {
    "kept traces for sft": (SFT | {"data": [{"path": "x"}]}, {"data.0.path": "stage:sampled"}),
    "a teacher's kept traces for sft": (SFT | {"data": [{"path": "x"}]}, {"data.0.path": "stage:taught"}),
    "prompts by their pass rate": (
        GRPO
        | {"data": [{"path": "x", "where": {"pass_rate": [0, 0.5]}, "sort_by": "mean_tokens"}]}
        | {"trainer": {**GRPO["trainer"], "shuffle_dataset": False}},
        {"data.0.path": "stage:sampled/prompts"},
    ),
    "pairs for dpo": (DPO | {"data": [{"path": "x", "where": {"margin": [2, 9]}}]}, {"data.0.path": "stage:paired"}),
    "a reward model that rewards": (ASKS_A_MODEL, {"rewards.0.model": "stage:scorer"}),
}
WRONG = {
    "a misspelt column of prompts": (
        GRPO | {"data": [{"path": "x", "where": {"pass_rte": [0, 0.5]}}]},
        {"data.0.path": "stage:sampled/prompts"},
        "data.0.where: no column pass_rte; there are id, mean_tokens, num_judged, pass_rate, prompt, solution",
    ),
    "traces for dpo": (
        DPO | {"data": [{"path": "x"}]},
        {"data.0.path": "stage:sampled"},
        "data.0.path: stage:sampled has no column chosen, which step dpo needs",
    ),
    "pairs for sft": (
        SFT | {"data": [{"path": "x"}]},
        {"data.0.path": "stage:paired"},
        "data.0.path: stage:paired has no column completion, which step sft needs",
    ),
    "a column that is mapped and not there": (
        SFT | {"data": [{"path": "x", "columns": {"completion": "answer"}}]},
        {"data.0.path": "stage:taught"},
        "data.0.columns: stage:taught has no column answer; it has completion, id, num_tokens, prompt, "
        "reward_accuracy, sampled_with, solution, teacher, teacher_sha256, verified_by",
    ),
    "prompts of pairs": (
        GRPO | {"data": [{"path": "x"}]},
        {"data.0.path": "stage:paired/prompts"},
        "data.0.path: a stage of its kind has no 'prompts' (known: kept)",
    ),
    "a policy that is a reward model": (
        GRPO,
        {"model.name": "stage:scorer"},
        "model.name: 'stage:scorer' is a reward model, which gives numbers and no answers; name another stage",
    ),
    "a reward model that is none": (
        ASKS_A_MODEL,
        {"rewards.0.model": "stage:tuned"},
        "rewards.0.model: 'stage:tuned' is no reward model; name a stage of step reward_model",
    ),
}


@pytest.fixture
def pipeline_of(write_recipe, tmp_path):
    """A pipeline of STAGES, and behind them one stage of a recipe with values set."""
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "1+1=?", "chosen": "2", "rejected": "3"}\n' * 4)

    def make(recipe, values):
        stages = [{"name": name, "recipe": write_recipe(f"{name}.yaml", **of).name} for name, of in STAGES.items()]
        stages.append({"name": "last", "recipe": write_recipe("last.yaml", **recipe).name, "set": values})
        return load_recipe(write_recipe("pipeline.yaml", step="pipeline", stages=stages))

    return make


@pytest.mark.parametrize("name", RIGHT)
def test_what_stages_will_leave_is_taken(name, pipeline_of):
    check_recipe(pipeline_of(*RIGHT[name]))


@pytest.mark.parametrize("name", WRONG)
def test_what_stages_will_not_leave_is_told_in_one_line(name, pipeline_of):
    recipe, values, line = WRONG[name]
    with pytest.raises(RecipeError) as mistake:
        check_recipe(pipeline_of(recipe, values))
    (told,) = mistake.value.lines
    assert told.partition("last.yaml: ")[2].startswith(line)
