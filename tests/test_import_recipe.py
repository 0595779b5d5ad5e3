"""Flat recipes of open-r1 and TRL, made ours: public ones all load, and each key of theirs ends where it says."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from open_r1.contributing.importing import accelerate_of, checked, import_recipe, main
from open_r1.recipe import load_recipe

PUBLIC = sorted((REPOSITORY / "tests" / "flat_recipes").glob("*.yaml"))
SFT = {"model_name_or_path": "org/model", "dataset_name": "org/data"}
GRPO = {**SFT, "reward_funcs": ["accuracy"], "num_generations": 4}


@pytest.fixture
def imported(tmp_path):
    """Imports keys, and accelerate's, as a file of theirs would give them."""

    def of(theirs: dict, accelerate: dict | None = None, step: str | None = None):
        files = {"theirs.yaml": theirs, "accelerate.yaml": accelerate}
        for name, values in files.items():
            (tmp_path / name).write_text(yaml.safe_dump(values), encoding="utf-8")
        config = tmp_path / "accelerate.yaml" if accelerate else None
        return import_recipe(tmp_path / "theirs.yaml", config, step)

    return of


def at(values: dict, dotted_key: str):
    """The value at a dotted key, None if nothing is there."""
    here = values
    for part in dotted_key.split("."):
        try:
            here = here[int(part)] if isinstance(here, list) else here[part]
        except (KeyError, IndexError):
            return None
    return here


# --- Public recipes


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.stem)
def test_public_recipe_loads(file, tmp_path):
    checked(import_recipe(file, accelerate_of(file)), Path("recipe.yaml"), tmp_path)  # raises if it does not load


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.stem)
def test_every_key_of_a_public_recipe_is_told_once(file):
    theirs = yaml.safe_load(file.read_text(encoding="utf-8"))
    fates = import_recipe(file, accelerate_of(file)).fates
    told = [fate.key for fate in fates if fate.kind not in ("added", "default")]
    assert sorted(key for key in told if not key.startswith("accelerate.")) == sorted(theirs)


def test_there_are_public_recipes():
    assert len(PUBLIC) >= 10


# --- Single keys


@pytest.mark.parametrize(
    ("theirs", "key", "value"),
    [
        ({"torch_dtype": "bfloat16"}, "model.dtype", "bfloat16"),
        ({"dtype": "bfloat16"}, "model.dtype", "bfloat16"),
        ({"torch_dtype": "auto"}, "model.dtype", None),
        ({"model_revision": "main"}, "model.revision", None),
        ({"model_revision": "v1"}, "model.revision", "v1"),
        ({"attn_implementation": "sdpa"}, "model.attn_implementation", "sdpa"),
        ({"use_peft": True, "lora_r": 8}, "model.lora", {"r": 8}),
        ({"use_peft": True, "lora_target_modules": ["all-linear"]}, "model.lora.target_modules", "all-linear"),
        ({"lora_r": 8}, "model.lora", None),
        ({"chat_template": "{{ messages }}"}, "model.chat_template", "./recipe.jinja"),
        ({"dataset_config": "all"}, "data.0.config", "all"),
        ({"dataset_train_split": "part"}, "data.0.split", "part"),
        ({"dataset_prompt_column": "problem"}, "data.0.columns.prompt", "problem"),
        ({"dataset_prompt_column": "problem"}, "data.0.columns.solution", "solution"),
        ({"reward_weights": [0.5]}, "rewards.0", {"name": "accuracy", "weight": 0.5}),
        ({"reward_weights": [1.0]}, "rewards.0", "accuracy"),
        ({"learning_rate": "1e-5"}, "trainer.learning_rate", 1e-5),
        ({"warmup_ratio": 0.1}, "trainer.warmup_steps", 0.1),
        ({"scale_rewards": False}, "trainer.scale_rewards", "none"),
        ({"use_liger": True}, "trainer.use_liger_kernel", True),
        ({"save_strategy": False}, "trainer.save_strategy", "no"),
        ({"max_prompt_length": 512}, "trainer.max_prompt_length", None),
        ({"output_dir": "data/x"}, "trainer.output_dir", None),
        ({"wandb_project": "x"}, "trainer.wandb_project", None),
        ({"report_to": ["wandb"]}, "trainer.report_to", None),
        ({"push_to_hub": True, "hub_model_id": "x/y"}, "trainer.hub_model_id", "x/y"),
        ({"seed": 7}, "seed", 7),
        ({"eval_strategy": "steps"}, "eval_data.0.split", "test"),
        ({"eval_strategy": "steps", "dataset_test_split": "held"}, "eval_data.0.split", "held"),
        ({"eval_strategy": "no", "eval_steps": 5}, "trainer.eval_steps", None),
        ({"vllm_gpu_memory_utilization": 0.5}, "trainer.vllm_gpu_memory_utilization", None),
        ({"num_processes": 7}, "hardware.gpus_per_node", 7),
    ],
)
def test_key_ends_where_it_belongs(theirs, key, value, imported):
    assert at(imported({**GRPO, **theirs}).values, key) == value


@pytest.mark.parametrize(
    ("reward", "theirs", "parameters"),
    [
        ("cosine", {"cosine_min_value_wrong": -0.3}, {"min_value_wrong": -0.3}),
        ("cosine", {}, {"min_value_wrong": 0.0}),  # open-r1's default, not ours
        ("cosine", {"cosine_max_len": 1000}, {"min_value_wrong": 0.0}),
        ("repetition_penalty", {"repetition_n_grams": 3}, {"ngram_size": 3}),
        ("repetition_penalty", {"repetition_max_penalty": -1.0}, {"max_penalty": -1.0}),
        ("soft_overlong_punishment", {"max_completion_len": 90}, {"max_completion_tokens": 90}),
        ("soft_overlong_punishment", {"soft_punish_cache": 10}, {"cache_tokens": 10}),
        ("code", {"code_provider": "e2b"}, {"sandbox": "e2b"}),
        ("code", {"code_provider": "morph"}, {}),
        ("code", {"parallel_code_exec_per_proc": 2}, {}),
        ("code_format", {"code_language": "cpp"}, {"language": "cpp"}),
        ("cf_code", {"code_eval_test_batch_size": -1}, {}),
        ("cf_code", {"code_eval_scoring_mode": "partial"}, {"scoring_mode": "partial"}),
        ("ioi_code", {"code_eval_test_batch_size": 3}, {"test_batch_size": 3}),
        ("format", {"code_provider": "e2b"}, {}),
    ],
)
def test_parameters_of_a_reward_stand_with_it(reward, theirs, parameters, imported):
    (ours,) = imported({**GRPO, "reward_funcs": [reward], **theirs}).values["rewards"]
    assert (ours if isinstance(ours, dict) else {"name": ours}) == {"name": reward, **parameters}


@pytest.mark.parametrize(
    ("accelerate", "config"),
    [
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, "ddp"),
        ({"distributed_type": False, "num_processes": 1}, "one_gpu"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, "zero2"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}}, "zero3"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, "fsdp2"),
    ],
)
def test_accelerate_config_has_one_of_ours(accelerate, config, imported):
    assert imported(SFT, accelerate).values["hardware"]["accelerate"] == config


@pytest.mark.parametrize(
    ("theirs", "processes", "hardware"),
    [
        ({}, {"num_machines": 2, "num_processes": 16}, {"nodes": 2, "gpus_per_node": 8}),
        ({"vllm_device": "auto"}, {"num_processes": 8}, {"gpus_per_node": 7, "vllm": {"nodes": 0}}),
        ({"use_vllm": True}, {"num_processes": 8}, {"gpus_per_node": 8, "vllm": {"nodes": 1}}),
        ({"use_vllm": True, "vllm_mode": "colocate"}, {"num_processes": 8}, {"gpus_per_node": 8}),
        (
            {"vllm_device": "auto", "vllm_max_model_len": 9000},
            {"num_processes": 8},
            {"gpus_per_node": 7, "vllm": {"nodes": 0, "max_model_length": 9000}},
        ),
    ],
)
def test_processes_become_nodes_and_gpus(theirs, processes, hardware, imported):
    uses_vllm = {"use_vllm": True} if theirs else {}
    values = imported({**GRPO, **uses_vllm, **theirs}, {"distributed_type": "MULTI_GPU", **processes}).values
    assert values["hardware"] == {**hardware, "accelerate": "ddp"}


def test_mixture_becomes_sources(imported):
    mixture = {"datasets": [{"id": "a/b", "config": "c", "columns": ["messages"], "weight": 0.5}, {"id": "d/e"}]}
    assert imported({"model_name_or_path": "org/model", "dataset_mixture": mixture}).values["data"] == [
        {"name": "a/b", "config": "c", "split": "train", "columns": {"messages": "messages"}, "fraction": 0.5},
        {"name": "d/e", "split": "train"},
    ]


@pytest.mark.parametrize(("theirs", "step"), [(GRPO, "grpo"), (SFT, "sft"), ({**SFT, "beta": 0.1}, "grpo")])
def test_step_is_recognized(theirs, step, imported):
    assert imported(theirs).values["step"] == step


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "system_prompt",
            "Think.",
            "system_prompt: dropped: a recipe has no such key; put it into model.chat_template",
        ),
        ("output_dir", "x", "output_dir: dropped: the run directory is made by the launcher"),
        ("learning_rat", 1.0, "learning_rat: dropped: neither TRL nor a recipe has it; did you mean learning_rate?"),
        ("lora_r", 8, "lora_r: dropped: nothing reads it without use_peft: true"),
        ("warmup_ratio", 0.1, "warmup_ratio: renamed to trainer.warmup_steps"),
        ("vllm_device", "auto", "vllm_device: dropped: nothing reads it without use_vllm: true"),
        ("seed", None, "seed: dropped: nothing is the default"),
    ],
)
def test_report_says_why(key, value, said, imported):
    assert any(str(fate).startswith(said) for fate in imported({**GRPO, key: value}).fates)


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({}, ["beta", "temperature", "max_completion_length", "loss_type", "use_bias_correction_kl"]),
        ({"beta": 0.0}, ["temperature", "max_completion_length", "loss_type"]),
        ({"beta": 0.1, "loss_type": "grpo"}, ["temperature", "max_completion_length", "use_bias_correction_kl"]),
        (
            {"use_vllm": True, "beta": 0, "temperature": 1.0, "max_completion_length": 9},
            ["loss_type", "vllm_importance_sampling_correction"],
        ),
    ],
)
def test_what_is_left_to_a_default_that_has_changed_is_told(theirs, told, imported):
    fates = [fate for fate in imported({**GRPO, **theirs}).fates if fate.kind == "default"]
    assert [fate.key for fate in fates] == [f"trainer.{key}" for key in told]


def test_both_defaults_are_told(imported):
    said = "trainer.beta: left to TRL's default: 0.04 in early 2025, 0.0 today; name what is meant"
    assert said in map(str, imported(GRPO).fates)


# --- The command line


@pytest.fixture
def theirs(tmp_path):
    """A file of theirs with these keys."""

    def of(**values) -> str:
        file = tmp_path / "theirs.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return str(file)

    return of


def test_written_recipe_loads_with_its_template_beside_it(theirs, tmp_path):
    out = tmp_path / "mine" / "grpo.yaml"
    assert main([theirs(**GRPO, chat_template="{{ messages }}"), "--out", str(out)]) == 0
    recipe = load_recipe(out)
    assert recipe.path(recipe.model.chat_template).read_text(encoding="utf-8") == "{{ messages }}"


def test_what_the_check_refuses_is_to_mend_by_hand(theirs, capsys):
    assert main([theirs(**{**GRPO, "reward_funcs": ["soft_format"]})]) == 0
    assert "to mend by hand: rewards.0.name: unknown reward 'soft_format'" in capsys.readouterr().err


def test_recipe_is_on_stdout_and_the_report_on_stderr(theirs, capsys):
    assert main([theirs(**SFT, learning_rate=1e-5)]) == 0
    captured = capsys.readouterr()
    assert yaml.safe_load(captured.out)["step"] == "sft"
    assert "model_name_or_path: moved to model.name" in captured.err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dataset_name": "a/b"}, "model_name_or_path: missing"),
        ({"model_name_or_path": "a/b"}, "dataset_name: missing"),
        ({"step": "sft", **SFT}, "step: this is a recipe of ours already"),
        ({**GRPO, "reward_weights": [1, 2]}, "reward_weights: [1, 2] for 1 rewards; give one for each"),
        ({**SFT, "num_processes": 0}, "num_processes: 0 cannot be shared out over 1 machines"),
        ({**SFT, "model_name_or_path": "a/b", "dataset_mixture": {"datasets": [{}]}}, "dataset_mixture.datasets: "),
        ({**SFT, "learning_rate": "fast"}, "trainer.learning_rate: 'fast' is str"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_exit_code_2(values, said, theirs, capsys):
    assert main([theirs(**values)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert said in last


def test_nothing_is_overwritten(theirs, tmp_path, capsys):
    out = tmp_path / "sft.yaml"
    out.write_text("mine", encoding="utf-8")
    assert main([theirs(**SFT), "--out", str(out)]) == 2
    assert out.read_text(encoding="utf-8") == "mine"
    assert f"{out}: it is there already" in capsys.readouterr().err


def test_script_gives_a_table():
    script = REPOSITORY / "scripts" / "import_recipe.py"
    command = [sys.executable, str(script), "--table", str(PUBLIC[0].parent)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["yes"] * len(PUBLIC)
