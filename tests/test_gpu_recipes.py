"""The recipes for GPUs, as far as a machine without one can tell, and the pairs of settings that are refused."""

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CPU_TRAINER, REPOSITORY, SMALLEST_MODEL, TINY, sums

from open_r1 import modeling
from open_r1.check import check_recipe, hardware
from open_r1.places import ACCELERATE_CONFIGS
from open_r1.planning import plans_of
from open_r1.planning.architecture import Architecture
from open_r1.recipe import Recipe, RecipeError, load_recipe

FOLDERS = sorted(REPOSITORY.glob("recipes/*gb"))
RECIPES = [folder / f"{step}.yaml" for folder in FOLDERS for step in ("sft", "grpo")]


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


# --- The recipes


def test_there_is_a_recipe_for_each_size_of_gpu():
    assert [folder.name.rpartition("-")[2] for folder in FOLDERS] == ["24gb", "80gb", "8x80gb"]


@pytest.mark.parametrize("file", RECIPES, ids=name_of)
def test_trl_takes_every_key_of_the_recipe(file, monkeypatch, tmp_path):
    from trl import GRPOConfig, SFTConfig

    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # no GPU here
    monkeypatch.setenv("WORLD_SIZE", "1")
    recipe = load_recipe(file)
    config = (SFTConfig if recipe.step == "sft" else GRPOConfig)(output_dir=str(tmp_path), **recipe.trainer)
    assert {key: getattr(config, key) for key in recipe.trainer} == recipe.trainer
    assert config.bf16
    assert config.gradient_checkpointing


@pytest.mark.parametrize(
    ("folder", "completions_per_step", "completions_per_rollout"),
    [("qwen2.5-1.5b-24gb", 64, 64), ("qwen2.5-1.5b-80gb", 512, 512), ("qwen2.5-7b-8x80gb", 512, 8192)],
)
def test_batch_is_the_one_that_the_comments_give(folder, completions_per_step, completions_per_rollout):
    recipe = load_recipe(REPOSITORY / "recipes" / folder / "grpo.yaml")
    trainer, processes = recipe.trainer, recipe.hardware.num_processes
    rows, micro_steps = trainer["per_device_train_batch_size"], trainer["gradient_accumulation_steps"]
    assert rows * processes * micro_steps == completions_per_step
    assert rows * processes * trainer.get("steps_per_generation", micro_steps) == completions_per_rollout


def test_variant_with_a_vllm_server_is_right_and_fits(write_recipe):
    """As the README of the 8 x 80 GB recipe describes it."""
    folder = REPOSITORY / "recipes/qwen2.5-7b-8x80gb"
    sections = yaml.safe_load((folder / "grpo.yaml").read_text(encoding="utf-8"))
    section = (folder / "README.md").read_text(encoding="utf-8").partition("### vLLM as a server of its own\n")[2]
    block = section.partition("    trainer:")[2].partition("\n\n")[0]
    described = yaml.safe_load(textwrap.dedent(f"    trainer:{block}"))
    for key in ("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_max_model_length"):
        del sections["trainer"][key]
    sections["trainer"] |= described["trainer"]
    sections["hardware"] = described["hardware"]
    sections["model"]["name"] = "Qwen/Qwen2.5-7B"  # its path is relative to the recipe
    variant = write_recipe(**sections)
    assert problems_of(variant) == []
    recipe, original = load_recipe(variant), load_recipe(folder / "grpo.yaml")
    (plan,) = plans_of(recipe)
    assert plan.fits
    assert completions_of_a_step(recipe) == completions_of_a_step(original)


def completions_of_a_step(recipe: Recipe) -> int:
    trainer, processes = recipe.trainer, recipe.hardware.num_processes
    return trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] * processes


@pytest.mark.parametrize("file", sorted(ACCELERATE_CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_its_config(file):
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"cpu": "MULTI_GPU", "ddp": "MULTI_GPU", "one_gpu": "NO", "fsdp2": "FSDP"}
    kinds |= {"zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert load_config_from_file(str(file)).distributed_type == kinds[file.stem]


# --- What the checks are for, measured


def qwen2(architecture: Architecture, dtype: torch.dtype = torch.float32):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2",
        hidden_size=architecture.hidden,
        intermediate_size=architecture.intermediate,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.key_value_heads,
        vocab_size=architecture.vocabulary,
        tie_word_embeddings=architecture.tied,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


@pytest.mark.parametrize(("dtype", "least", "most"), [(torch.bfloat16, 1e-4, 1.0), (torch.float32, 0.0, 1e-6)])
def test_merging_and_unmerging_adapters_wears_coarse_weights_down(dtype, least, most):
    """As TRL does before each rollout with vLLM; the relative error of the weights after 50 times."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = qwen2(Architecture(64, 128, 1, 2, 1, 32, tied=True), dtype)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-3)
    for _ in range(50):
        adapted.merge_adapter()
        adapted.unmerge_adapter()
    error = ((weight.float() - before.float()).norm() / before.float().norm()).item()
    assert least <= error <= most


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_packed_traces_do_not_attend_to_each_other(attn_implementation):
    """TRL's collator and transformers keep them apart without flash attention, so the sft recipes need none."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    torch.manual_seed(0)
    model = qwen2(Architecture(32, 64, 2, 4, 2, 64, tied=True)).eval()
    model.set_attn_implementation(attn_implementation)
    first, second = torch.randint(0, 64, (7,)).tolist(), torch.randint(0, 64, (9,)).tolist()
    row = {"input_ids": first + second, "labels": first + second, "seq_lengths": [7, 9]}
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([row])
    del batch["labels"]
    with torch.no_grad():
        alone = model(torch.tensor([second])).logits[0]
        packed = model(**batch, use_cache=False).logits[0, 7:]
        wrapped = model(batch["input_ids"]).logits[0, 7:]
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    assert (wrapped - alone).abs().max() > 1e-2


# --- Pairs of settings that cannot go together


def grpo(trainer: dict | None = None, **sections) -> dict:
    """A right GRPO recipe for one GPU."""
    return {
        "step": "grpo",
        "model": {"name": str(TINY / "models" / "teacher")},
        "data": [sums(16)],
        "rewards": ["accuracy"],
        "trainer": {"num_generations": 4, "per_device_train_batch_size": 8, **(trainer or {})},
        "hardware": {"gpus_per_node": 1, "accelerate": "one_gpu"},
        **sections,
    }


def sft(trainer: dict | None = None, **sections) -> dict:
    recipe = grpo(**sections) | {"step": "sft", "trainer": {"per_device_train_batch_size": 1, **(trainer or {})}}
    del recipe["rewards"]
    return recipe


def dpo(trainer: dict | None = None, **sections) -> dict:
    return sft({**(trainer or {})}, **{"data": [{"name": "nobody/pairs"}], **sections}) | {"step": "dpo"}


def preferences(**sections) -> dict:
    """A right recipe of preferences, whose answers and verdicts come from servers of its own."""
    return {
        "step": "preferences",
        "model": {"name": str(TINY / "models" / "teacher")},
        "data": [sums(16)],
        "preferences": {"rubric": RUBRIC, "max_completion_length": 8},
        "judge": {"name": str(TINY / "models" / "teacher")},
        "hardware": {"vllm": {}, "judge": {}},
        **sections,
    }


def pretrain(trainer: dict) -> dict:
    architecture = {"architecture": SMALLEST_MODEL}
    return sft({"per_device_train_batch_size": 4, **trainer}, model=architecture) | {"step": "pretrain"}


def model(**keys) -> dict:
    return {"name": str(TINY / "models" / "teacher"), **keys}


def gpus(number: int, accelerate: str) -> dict:
    return {"gpus_per_node": number, "accelerate": accelerate}


RUBRIC = str(REPOSITORY / "recipes" / "tiny-rlaif" / "rubrics" / "order.yaml")
REWARD_MODEL = {"name": "reward_model", "model": "nobody/reward-model"}
ASKED = {"rewards": [{"name": "judge", "rubric": RUBRIC}], "judge": {"name": "nobody/judge"}}
ENDPOINT = {"base_url": "http://localhost:8000/v1", "model": "served"}
VLLM = {"use_vllm": True}
SERVER = {"use_vllm": True, "vllm_mode": "server"}
LORA = {"r": 4}

WRONG = {
    "vllm without a GPU": (
        grpo({**VLLM, "bf16": False}, hardware={}),
        "trainer.use_vllm: it needs a GPU, but hardware.gpus_per_node is 0",
    ),
    "vllm server without a GPU for the weight sync": (
        grpo({**SERVER, "bf16": False}, hardware={}),
        "trainer.use_vllm: it needs a GPU, but hardware.gpus_per_node is 0",
    ),
    "tensor parallel groups that do not come out even": (
        grpo({**VLLM, "vllm_tensor_parallel_size": 3}, hardware=gpus(4, "ddp")),
        "trainer.vllm_tensor_parallel_size: 4 processes cannot be divided into groups of 3",
    ),
    "tensor parallel groups of nothing": (
        grpo({**VLLM, "vllm_tensor_parallel_size": 0}),
        "trainer.vllm_tensor_parallel_size: 1 processes cannot be divided into groups of 0",
    ),
    "unknown vllm mode": (
        grpo({**VLLM, "vllm_mode": "colocated"}),
        "trainer.vllm_mode: 'colocated' is nothing that trl.GRPOConfig knows (known: colocate, server); did you mean "
        "colocate?",
    ),
    "vllm keys without vllm": (
        grpo({"vllm_gpu_memory_utilization": 0.5}),
        "trainer.vllm_gpu_memory_utilization: nothing reads it without trainer.use_vllm: true",
    ),
    "key of colocate for a server": (
        grpo({**SERVER, "vllm_gpu_memory_utilization": 0.5}),
        "trainer.vllm_gpu_memory_utilization: read with vllm_mode: colocate alone, but it is server; give it to the",
    ),
    "key of a server in colocate": (
        grpo({**VLLM, "vllm_server_port": 8000}),
        "trainer.vllm_server_port: read with vllm_mode: server alone, but it is colocate; remove it",
    ),
    "no room for the prompt": (
        grpo({**VLLM, "vllm_max_model_length": 512, "max_completion_length": 512}),
        "trainer.vllm_max_model_length: 512 tokens are to hold a prompt and its completion, but max_completion_length "
        "alone is 512",
    ),
    "two that sample": (
        grpo({**VLLM, "use_transformers_continuous_batching": True, "bf16": False}),
        "trainer.use_transformers_continuous_batching: vLLM samples (use_vllm)",
    ),
    "batches that vllm makes itself": (
        grpo(VLLM, grpo={"max_generation_batch_size": 8}),
        "grpo.max_generation_batch_size: vLLM makes its own batches",
    ),
    "adapters merged into coarse weights": (
        grpo(VLLM, model=model(dtype="bfloat16", lora=LORA)),
        "model.dtype: at every sync with vLLM the adapters are merged into the weights",
    ),
    "optimizer steps on coarse weights": (
        sft(model=model(dtype="bfloat16")),
        "model.dtype: bfloat16 weights are too coarse for the optimizer's steps",
    ),
    "bf16 on a CPU": (
        grpo({"use_cpu": True, "bf16": True}, hardware={}),
        "trainer.bf16: slower than fp32 on a CPU (use_cpu), and coarser (bf16: true)",
    ),
    "bf16 on a CPU by default": (
        grpo({"use_cpu": True}, hardware={}),
        "trainer.bf16: slower than fp32 on a CPU (use_cpu), and coarser (it is on unless",
    ),
    "CPU beside GPUs": (
        grpo({"use_cpu": True, "bf16": False}),
        "trainer.use_cpu: true leaves the GPUs idle, but hardware.gpus_per_node is 1",
    ),
    "one process for two GPUs": (
        grpo(hardware=gpus(2, "one_gpu")),
        "hardware.accelerate: one_gpu starts one process, but 2 are asked for; use ddp or zero2",
    ),
    "adapters in shares (ZeRO-3)": (
        grpo(model=model(lora=LORA), hardware=gpus(2, "zero3")),
        "model.lora: zero3 shares the weights out, and adapters cannot be merged into shares",
    ),
    "adapters in shares (FSDP2)": (
        sft(model=model(lora=LORA), hardware=gpus(2, "fsdp2")),
        "model.lora: fsdp2 shares the weights out, and adapters cannot be merged into shares",
    ),
    "FSDP of the first version": (
        sft(hardware=gpus(2, "fsdp1")),
        "hardware.accelerate: fsdp1 is FSDP in its first version; use fsdp2",
    ),
    "coarse weights under FSDP2": (
        sft(model=model(dtype="bfloat16"), hardware=gpus(2, "fsdp2")),
        "model.dtype: bfloat16 weights are too coarse for the optimizer's steps",
    ),
    "reference replaced without a reference": (
        grpo({"sync_ref_model": True}),
        "trainer.sync_ref_model: with beta 0 there is no reference model",
    ),
    "reference replaced with adapters": (
        grpo({"sync_ref_model": True, "beta": 0.1}, model=model(lora=LORA)),
        "trainer.sync_ref_model: with model.lora the reference is the model without its adapters",
    ),
    "liger without a GPU": (
        sft({"use_liger_kernel": True, "use_cpu": True, "bf16": False}, hardware={}),
        "trainer.use_liger_kernel: its kernels run on GPUs alone, but hardware.gpus_per_node is 0",
    ),
    "liger in the place of TRL's head": (
        sft({"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": True}}),
        "trainer.liger_kernel_config.fused_linear_cross_entropy: it would replace the forward pass",
    ),
    "adapter that is never trained": (
        sft(model=model(lora={"r": 4, "target_modules": ["q_proj", "lm_head"]})),
        "model.lora.target_modules: TRL multiplies by lm_head's own weights",
    ),
    "conversations cut in pieces": (
        sft({"packing": True, "packing_strategy": "wrapped"}),
        "trainer.packing_strategy: wrapped cuts conversations in pieces that attend to each other",
    ),
    "weights for other losses": (
        dpo({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}),
        "trainer.loss_weights: 1 for 2 in trainer.loss_type; give one for each",
    ),
    "beta that teaches nothing": (
        dpo({"beta": 0.0}),
        "trainer.beta: 0 would teach nothing, or the contrary; give a number above 0, e.g. 0.1",
    ),
    "beta that teaches the contrary": (
        dpo({"beta": -1.0, "loss_type": ["sigmoid", "sft"]}),
        "trainer.beta: -1 would teach nothing, or the contrary",
    ),
    "half of the labels wrong": (
        dpo({"loss_type": ["robust"], "label_smoothing": 0.5}),
        "trainer.label_smoothing: 0.5 is the share of labels that are wrong; give a number from 0 to below 0.5",
    ),
    "fewer than none of the labels wrong": (
        dpo({"loss_type": ["aot"], "label_smoothing": -0.1}),
        "trainer.label_smoothing: -0.1 is the share of labels that are wrong",
    ),
    "logarithm of no label": (
        dpo({"loss_type": ["exo_pair"]}),
        "trainer.label_smoothing: exo_pair takes its logarithm; give a number above 0, e.g. 0.001",
    ),
    "distance that is rewarded": (
        grpo({"beta": -0.1}),
        "trainer.beta: -0.1 would reward the distance from the reference; give 0, or a number above it",
    ),
    "reference of DPO that no checkpoint has": (
        dpo({"sync_ref_model": True}),
        "trainer.sync_ref_model: no checkpoint has the reference, so a run that is taken up would not be the same",
    ),
    "reference of DPO at another revision": (
        dpo(
            {"precompute_ref_log_probs": True},
            model={"name": "nobody/policy", "revision": "0" * 40},
            hardware=gpus(2, "fsdp2"),
        ),
        "trainer.precompute_ref_log_probs: under fsdp2 TRL loads the reference anew, by its name and not at model.rev",
    ),
    "reward model in shares (ZeRO-3)": (
        grpo(rewards=["accuracy", REWARD_MODEL], hardware=gpus(2, "zero3")),
        "rewards.1.model: under zero3 a process gets no more than a share of what it loads",
    ),
    "reward model in shares (FSDP2)": (
        grpo(rewards=[REWARD_MODEL], hardware=gpus(2, "fsdp2")),
        "rewards.0.model: under fsdp2 a process gets no more than a share of what it loads",
    ),
    "judge in shares": (
        grpo(**ASKED, hardware=gpus(2, "zero3")),
        "judge.name: under zero3 a process gets no more than a share of what it loads",
    ),
    "judge on CPUs beside GPUs": (
        preferences(hardware={"vllm": {}}),
        "judge.name: the GPUs are those of hardware.vllm, so it would judge on CPUs; add hardware.judge",
    ),
    "judge beside several nodes": (
        grpo(**ASKED, hardware={**gpus(2, "ddp"), "nodes": 2, "judge": {}}),
        "hardware.judge.nodes: beside several nodes that train the server needs its own; write nodes: 1",
    ),
    "copies of a judge that do not come out even": (
        preferences(hardware={"vllm": {}, "judge": {"nodes": 2, "data_parallel_size": 3}}),
        "hardware.judge.data_parallel_size: 3 copies cannot be dealt out over 2 nodes; give a multiple",
    ),
    "two that answer": (
        preferences(preferences={"rubric": RUBRIC, "max_completion_length": 8, "endpoint": ENDPOINT}),
        "hardware.vllm: preferences.endpoint is asked already; remove one",
    ),
    "rows end to end without flash attention": (
        sft({"packing": True, "per_device_train_batch_size": 4}),
        "trainer.per_device_train_batch_size: packing lays the 4 rows end to end, and without flash attention",
    ),
}


@pytest.fixture(autouse=True)
def config_of_fsdp1(tmp_path_factory, monkeypatch):
    """The repository's accelerate configs, and one that somebody could add."""
    folder = tmp_path_factory.mktemp("accelerate_configs")
    for file in ACCELERATE_CONFIGS.glob("*.yaml"):
        shutil.copy(file, folder)
    (folder / "fsdp1.yaml").write_text("distributed_type: FSDP\nfsdp_config: {fsdp_sharding_strategy: FULL_SHARD}\n")
    monkeypatch.setattr(hardware, "ACCELERATE_CONFIGS", folder)


def problems_of(file: Path, before_run: bool = False) -> list[str]:
    try:
        check_recipe(load_recipe(file), before_run=before_run)
    except RecipeError as error:
        return [line.removeprefix(f"{file}: ") for line in error.lines]
    return []


@pytest.mark.parametrize("name", WRONG)
def test_pair_that_cannot_go_together_gets_one_line(name, write_recipe):
    recipe, start = WRONG[name]
    (line,) = problems_of(write_recipe(**recipe))
    assert line.startswith(start)
    assert "; " in line  # the mend


RIGHT = {
    "colocate": grpo({**VLLM, "vllm_tensor_parallel_size": 2, "vllm_enable_sleep_mode": True}, hardware=gpus(4, "ddp")),
    "server": grpo({**SERVER, "vllm_server_base_url": "http://localhost:8000", "vllm_group_port": 51217}),
    "adapters on fp32 weights": grpo(VLLM, model=model(lora=LORA)),
    "adapters on coarse weights without vllm": grpo(model=model(dtype="bfloat16", lora=LORA)),
    "coarse weights under ZeRO-2": sft(model=model(dtype="bfloat16"), hardware=gpus(2, "zero2")),
    "coarse weights under ZeRO-3": sft(model=model(dtype="bfloat16"), hardware=gpus(2, "zero3")),
    "weights in shares (FSDP2)": sft(hardware=gpus(2, "fsdp2")),
    "reference replaced": grpo({"sync_ref_model": True, "beta": 0.1}, hardware=gpus(2, "zero2")),
    "reference replaced in shares": grpo({"sync_ref_model": True, "beta": 0.1}, hardware=gpus(2, "fsdp2")),
    "reference of DPO from a path": dpo({"precompute_ref_log_probs": True}, hardware=gpus(2, "fsdp2")),
    "reference of DPO at its revision": dpo(
        {"precompute_ref_log_probs": True},
        model={"name": "nobody/policy", "revision": "0" * 40, "dtype": "bfloat16"},
        hardware=gpus(2, "zero2"),
    ),
    "DPO looked at by several processes": dpo(
        {"eval_strategy": "steps", "eval_steps": 2}, eval_data=[{"name": "nobody/others"}], hardware=gpus(2, "ddp")
    ),
    "reward model under ZeRO-2": grpo(rewards=[REWARD_MODEL], hardware=gpus(2, "zero2")),
    "judge that is served beside shares": grpo(**ASKED, hardware={**gpus(2, "zero3"), "judge": {}}),
    "judge and policy on servers": preferences(),
    "packing of one row": sft({"packing": True, "use_liger_kernel": True}),
    "packing of rows on a CPU": sft(
        {"packing": True, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False}, hardware={}
    ),
    "text that is cut in pieces": pretrain({"packing": True, "packing_strategy": "wrapped"}),
    "some of liger's kernels": sft({"use_liger_kernel": True, "liger_kernel_config": {"rope": False}}),
    "room for the prompt": grpo({**VLLM, "vllm_max_model_length": 768, "max_completion_length": 512}),
    "packing with flash attention": sft(
        {"packing": True, "per_device_train_batch_size": 4}, model=model(attn_implementation="flash_attention_2")
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_pair_that_goes_together_is_let_through(name, write_recipe):
    assert problems_of(write_recipe(**RIGHT[name])) == []


def test_package_that_is_not_there_is_told_before_the_run_and_not_by_make_check(write_recipe, monkeypatch):
    trainer = {"use_vllm": True}
    sections = grpo(trainer, model=model(attn_implementation="flash_attention_2"), hardware=gpus(1, "zero2"))
    recipe = write_recipe(**sections)
    find_spec = importlib.util.find_spec
    absent = ("vllm", "deepspeed", "flash_attn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else find_spec(name, *a))
    assert problems_of(recipe) == []
    assert problems_of(recipe, before_run=True) == [
        "trainer.use_vllm: needs vllm, which is not installed; pip install 'open-r1[vllm]'",
        "hardware.accelerate: zero2: needs deepspeed, which is not installed; pip install 'open-r1[deepspeed]'",
        "model.attn_implementation: needs flash_attn, which is not installed; pip install flash-attn",
    ]


@pytest.mark.parametrize(
    ("section", "keys", "absent", "told"),
    [
        (
            "hardware",
            {**gpus(1, "one_gpu"), "judge": {}},
            "vllm",
            "hardware.judge: needs vllm, which is not installed; pip install",
        ),
        (
            "judge",
            {"endpoint": ENDPOINT},
            "openai",
            "judge.endpoint: needs openai, which is not installed; pip install",
        ),
    ],
    ids=["served", "endpoint"],
)
def test_package_that_a_judge_needs_is_told(section, keys, absent, told, write_recipe, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else find_spec(name, *a))
    recipe = write_recipe(**preferences(**{"hardware": {}, section: keys}))
    (line,) = problems_of(recipe, before_run=True)
    assert line.startswith(told)


def test_packages_of_later_stages_are_told_before_the_first_begins(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else find_spec(name, *a))
    pipeline = load_recipe(REPOSITORY / "recipes" / "r1-qwen2.5-7b" / "pipeline.yaml")
    with pytest.raises(RecipeError) as raised:
        check_recipe(pipeline, before_run=True)
    needs = "trainer.use_vllm: needs vllm, which is not installed; pip install 'open-r1[vllm]'"
    told = [line.partition(": ")[2].partition(" of ")[0] for line in raised.value.lines if "vllm" in line]
    assert {f"{needs} (stage reasoning_rl", f"{needs} (stage final_rl"} <= set(told)
    check_recipe(pipeline)


@pytest.mark.parametrize(("found", "is_told"), [(0, True), (1, True), (2, False)])
def test_gpus_that_are_not_there_are_told_before_a_model_is_loaded(found, is_told, write_recipe, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: found)
    recipe = load_recipe(write_recipe(**sft(hardware=gpus(2, "ddp"))))
    with pytest.raises(RecipeError, match="hardware.gpus_per_node: 2 asked for") if is_told else nullcontext():
        modeling.check_accelerators(recipe)


# --- The recipes' settings on a CPU


@pytest.mark.slow
@pytest.mark.parametrize("file", RECIPES, ids=name_of)
def test_settings_of_the_recipe_train_a_tiny_model_on_a_cpu(file, write_recipe, smallest_model, tmp_path):
    """Everything of the recipe but its size, vLLM, liger's kernels, bf16 and ZeRO."""
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    trainer = {key: value for key, value in sections["trainer"].items() if "vllm" not in key and "liger" not in key}
    trainer |= {**CPU_TRAINER, "gradient_checkpointing": True, "max_steps": 2, "save_strategy": "no"}
    trainer["gradient_accumulation_steps"] = 2
    if sections["step"] == "sft":
        trainer |= {"max_length": 64, "eos_token": "<|end|>"}
    else:
        rows = 2 * trainer["num_generations"]
        trainer |= {"max_completion_length": 8, "per_device_train_batch_size": rows}
        trainer |= {"steps_per_generation": 4, "ref_model_sync_steps": 1} if "sync_ref_model" in trainer else {}
    lora = sections["model"].get("lora")
    sections |= {
        "model": {"name": str(smallest_model), **({"lora": lora} if lora else {})},
        "data": [sums(64)],
        "trainer": trainer,
        "hardware": {"threads_per_process": 1},
        "guards": {"max_truncated_share": None, "max_dead_steps": None},
    }
    runs = tmp_path / "runs"
    finished = subprocess.run(
        [sys.executable, "-m", "open_r1.launch", "run", str(write_recipe(**sections)), "--runs", str(runs)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}"},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert list(runs.glob("*/*/model/model.safetensors"))
