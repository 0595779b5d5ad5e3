"""The planner: its counts against transformers, its memory against autograd and AdamW, its mends against itself."""

import json
import re
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from conftest import CPU_TRAINER, REPOSITORY, SMALLEST_MODEL, TINY, sums
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from open_r1 import modeling, planning
from open_r1.check import all_recipes
from open_r1.hub import hub_model
from open_r1.places import RUNS
from open_r1.planning.__main__ import main
from open_r1.planning.architecture import Architecture, architecture_of_config
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.gpus import GPUS
from open_r1.planning.layouts import Layout
from open_r1.planning.memory import GIB, JUDGING, SAMPLING, SERVING, TRAINING, memory_of
from open_r1.planning.mends import compared, mends_of, with_overrides
from open_r1.planning.plan import plan_of, plans_of
from open_r1.planning.start import CHARACTER_VOCABULARY, recipe_that_makes
from open_r1.planning.tables import hardware_text
from open_r1.planning.throughput import Engines, passes_over_logprobs, rollout_seconds
from open_r1.planning.work import Rows, Sampling, work_of
from open_r1.recipe import Model, Recipe, RecipeError, load_recipe

H100 = GPUS["h100_80gb"]
SMALL = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 500,
}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10}
MOE = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 24}
CONFIGS = {
    "qwen2": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2, untied": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 3, "tie_word_embeddings": False},
    "llama": {"model_type": "llama", **SMALL, "num_key_value_heads": 6, "tie_word_embeddings": False},
    "llama, wide heads": {"model_type": "llama", **SMALL, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **SMALL, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True},
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        **SMALL,
        **LATENT,
        **MOE,
        "num_key_value_heads": 6,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "tie_word_embeddings": False,
    },
}
DEEPSEEK_V3 = {  # config.json of deepseek-ai/DeepSeek-V3
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
}


def model_of(config: dict, dtype: torch.dtype = torch.float32):
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **fields), dtype=dtype)


def reward_model_of(config: dict, dtype: torch.dtype = torch.float32):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    fields = {key: value for key, value in config.items() if key != "model_type"}
    fields |= {"num_labels": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(config["model_type"], **fields)
    return AutoModelForSequenceClassification.from_config(config, dtype=dtype)


# --- Parameters


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_as_transformers_does(name):
    with torch.device("meta"):
        model = model_of(CONFIGS[name])
    counted = sum(parameter.numel() for parameter in model.parameters())
    biases_of_experts = sum(buffer.numel() for key, buffer in model.named_buffers() if "correction_bias" in key)
    assert architecture_of_config(CONFIGS[name]).num_parameters == counted + biases_of_experts


@pytest.mark.parametrize(
    ("name", "published"),
    [("Qwen/Qwen2.5-1.5B", "1.54"), ("Qwen/Qwen2.5-1.5B-Instruct", "1.54"), ("Qwen/Qwen2.5-7B", "7.61")],
)
def test_parameters_are_those_of_the_model_card(name, published):
    number = architecture_of_config(hub_model(name).config).num_parameters
    assert f"{number / 1e9:.3f}".startswith(published)  # billions


def test_deepseek_v3_has_671_billion_parameters_of_which_37_are_active():
    architecture = architecture_of_config(DEEPSEEK_V3)
    assert round(architecture.num_parameters / 1e9) == 671  # arXiv 2412.19437, abstract
    assert round(architecture.num_multiplied / 1e9) == 37
    assert architecture.num_parameters_read(1) < 40e9
    assert architecture.num_parameters_read(1000) == pytest.approx(architecture.num_parameters, rel=1e-3)


def test_adapters_are_counted_as_peft_does():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model_of(CONFIGS["qwen2"]), LoraConfig(r=4, target_modules="all-linear"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert architecture_of_config(CONFIGS["qwen2"]).num_lora_parameters(4) == trained


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "deepseek_v3"])
def test_parameters_of_a_reward_model_are_counted_as_transformers_does(name):
    with torch.device("meta"):
        model = reward_model_of(CONFIGS[name])
    counted = sum(parameter.numel() for parameter in model.parameters())
    architecture = replace(architecture_of_config(CONFIGS[name]), rewards=True)
    assert architecture.num_parameters == counted
    looked_up = model.model.embed_tokens.weight.numel()
    assert architecture.num_multiplied == counted - looked_up


def test_adapters_of_a_reward_model_are_counted_as_peft_does_with_its_new_head():
    from peft import get_peft_model

    whole = reward_model_of(CONFIGS["qwen2"])
    recipe = Recipe(step="reward_model", model=Model(lora={"r": 4}))
    model = get_peft_model(whole, modeling.lora_config(recipe, whole, "SEQ_CLS"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert replace(architecture_of_config(CONFIGS["qwen2"]), rewards=True).num_lora_parameters(4) == trained


def test_vocabulary_of_a_model_from_scratch_is_the_character_tokenizer_s():
    from open_r1.modeling import character_tokenizer

    assert len(character_tokenizer()) == CHARACTER_VOCABULARY


# --- Memory, measured


A_QUARTER = Architecture(384, 2240, 1, 3, 1, 64, tied=True, attention_bias=True)  # of the 1.5B model's width


@pytest.mark.parametrize(
    ("residual", "autocast", "lora"),
    [
        (torch.float32, True, False),
        (torch.float32, True, True),
        (torch.bfloat16, False, False),
        (torch.float32, False, False),
    ],
)
def test_one_layer_keeps_what_the_formula_says(residual, autocast, lora):
    """Measured by what autograd saves."""
    measured = bytes_saved_per_token(config_of("qwen2", A_QUARTER), residual, autocast, lora)
    assert measured * 0.98 <= A_QUARTER.layer_bytes_per_token(residual.itemsize, autocast) <= measured * 1.1


@pytest.mark.parametrize(("residual", "autocast"), [(torch.float32, True), (torch.bfloat16, False)])
def test_layer_with_wide_heads_and_query_norms_keeps_what_the_formula_says(residual, autocast):
    architecture = Architecture(320, 1600, 1, 8, 2, 64, tied=True, head_size=64, query_norms=True)
    measured = bytes_saved_per_token(config_of("qwen3", architecture), residual, autocast, lora=False)
    assert measured * 0.98 <= architecture.layer_bytes_per_token(residual.itemsize, autocast) <= measured * 1.1


def config_of(model_type: str, architecture: Architecture) -> dict:
    return {
        "model_type": model_type,
        "hidden_size": architecture.hidden,
        "intermediate_size": architecture.intermediate,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.key_value_heads,
        "vocab_size": architecture.vocabulary,
        "tie_word_embeddings": architecture.tied,
        **({"head_dim": architecture.head_size} if architecture.head_size else {}),
    }


def bytes_saved_per_token(config: dict, residual: torch.dtype, autocast: bool, lora: bool) -> float:
    """Of tensors that are neither weights nor the layer's input, from two lengths, so that only tokens count."""
    from peft import LoraConfig, get_peft_model

    model = model_of(config, residual)
    if lora:
        model = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear")).get_base_model()

    def saved(num_tokens: int) -> int:
        hidden = torch.randn(1, num_tokens, config["hidden_size"], dtype=residual, requires_grad=True)
        known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), hidden)}
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in known:
                kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
            return tensor

        position_embeddings = model.model.rotary_emb(hidden, torch.arange(num_tokens)[None])
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model.model.layers[0](hidden, position_embeddings=position_embeddings, attention_mask=None)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return (saved(192) - saved(64)) / 128


class LargestAtOnce(TorchDispatchMode):
    """Bytes of the tensors that are alive at the same time, at most, without those that are there before."""

    def __init__(self, before):
        super().__init__()
        self.bytes = self._alive = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in before}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage):
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self._alive += size
        self.bytes = max(self.bytes, self._alive)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address, size):
        self._known.discard(address)
        self._alive -= size


NARROW = Architecture(24, 96, 1, 3, 1, 64, tied=True, attention_bias=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("architecture", "padded"),
    [(A_QUARTER, False), (A_QUARTER, True), (NARROW, True)],
    ids=["feed-forward part", "with a mask", "attention with its mask"],
)
def test_reward_model_at_work_keeps_what_the_formula_says(architecture, padded, dtype):
    """Measured by the tensors that are alive in a forward pass of two rows."""
    model = reward_model_of(config_of("qwen2", architecture), dtype).eval()
    length = 1024
    ids = torch.ones(2, length, dtype=torch.long)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, length // 2 :] = 0
    with torch.no_grad(), LargestAtOnce([*model.parameters(), *model.buffers(), ids, mask]) as watched:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    planned = 2 * length * architecture.rating_bytes_per_token(dtype.itemsize, length if padded else 0)
    assert watched.bytes <= planned <= 1.05 * watched.bytes


def test_weights_gradients_and_optimizer_are_what_a_step_of_adamw_holds(write_recipe):
    model = model_of({**SMALLEST_MODEL, "vocab_size": CHARACTER_VOCABULARY})
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)).loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    (plan,) = plans_of(load_recipe(write_recipe(**pretrain())))
    bytes_of = {row: gib * GIB for row, gib in plan.memory.rows.items()}
    assert bytes_of["weights"] == sum(p.nbytes for p in model.parameters())
    assert bytes_of["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert bytes_of["optimizer"] == sum(state.nbytes for state in states)


# --- Memory, as the layouts share it out


def sft(trainer: dict | None = None, **sections) -> dict:
    keys = {"max_length": 4096, "bf16": True, "max_steps": 10, "per_device_train_batch_size": 1}
    return {
        "step": "sft",
        "model": {"name": "Qwen/Qwen2.5-7B"},
        "data": [sums(64)],
        "trainer": {**keys, **(trainer or {})},
        "hardware": {"gpus_per_node": 8, "accelerate": "zero2", "gpu": "h100_80gb"},
        **sections,
    }


def grpo(trainer: dict | None = None, **sections) -> dict:
    keys = {"num_generations": 8, "max_completion_length": 3072, "vllm_max_model_length": 4096, "use_vllm": True}
    keys |= {"vllm_enable_sleep_mode": True}
    keys = {key: value for key, value in {**keys, **(trainer or {})}.items() if value is not None}
    recipe = {**sft(keys, **sections), "step": "grpo", "rewards": ["accuracy"]} | sections
    del recipe["trainer"]["max_length"]
    return recipe


def dpo(trainer: dict | None = None, **sections) -> dict:
    """As a recipe of pairs: what its sums would give is looked at by no plan."""
    return {**sft(trainer, **sections), "step": "dpo"}


def reward_model(trainer: dict | None = None, **sections) -> dict:
    held_out = [{"path": "held_out.jsonl"}]
    return {**sft(trainer, **sections), "step": "reward_model", "eval_data": held_out}


def pretrain() -> dict:
    trainer = {**CPU_TRAINER, "max_length": 64, "per_device_train_batch_size": 2}
    return {"step": "pretrain", "model": {"architecture": SMALLEST_MODEL}, "data": [sums(64)], "trainer": trainer}


def recipe_of(write_recipe, sections: dict) -> Recipe:
    return load_recipe(write_recipe(**sections))


def rows_under(kind: str, number: int, write_recipe, dtype: str) -> dict[str, float]:
    recipe = recipe_of(write_recipe, sft(model={"name": "Qwen/Qwen2.5-7B", "dtype": dtype}))
    architecture = architecture_of_config(hub_model("Qwen/Qwen2.5-7B").config)
    return memory_of(recipe, architecture, Layout(kind, number), H100).rows


@pytest.mark.parametrize(
    ("kind", "dtype", "bytes_each"),  # of a parameter, on each of two processes: weights, gradients, optimizer
    [
        ("ddp", "float32", (4, 8, 8)),
        ("zero2", "bfloat16", (2, 3, 6)),
        ("zero3", "bfloat16", (1, 3, 6)),
        ("fsdp2", "float32", (2, 2, 4)),
    ],
)
def test_layout_shares_out(kind, dtype, bytes_each, write_recipe):
    two, four = (rows_under(kind, number, write_recipe, dtype) for number in (2, 4))
    parameters = architecture_of_config(hub_model("Qwen/Qwen2.5-7B").config).num_parameters
    for row, expected in zip(("weights", "gradients", "optimizer"), bytes_each, strict=True):
        shared = kind != "ddp" and not (kind == "zero2" and row == "weights")
        if shared:  # whatever else is in the row does not depend on their number
            assert (two[row] - four[row]) * GIB == pytest.approx(expected / 2 * parameters)
        else:
            assert two[row] == four[row]
            assert two[row] * GIB == pytest.approx(expected * parameters)


@pytest.mark.parametrize(
    ("sections", "present", "absent"),
    [
        (grpo(), [SAMPLING, "KV cache"], ["reference model", SERVING]),
        (grpo({"beta": 0.1}), ["reference model"], []),
        (
            grpo(
                {"vllm_mode": "server", "vllm_max_model_length": None, "vllm_enable_sleep_mode": None},
                hardware={
                    "gpus_per_node": 8,
                    "accelerate": "zero3",
                    "vllm": {"nodes": 1, "data_parallel_size": 8, "max_model_length": 4096},
                },
            ),
            [SERVING, "gathered weights"],
            [SAMPLING],
        ),
        (grpo({"gradient_checkpointing": False}), ["all layers"], ["layer inputs", "one layer"]),
        (grpo(model={"name": "Qwen/Qwen2.5-7B", "attn_implementation": "flash_attention_2"}), [], ["attention mask"]),
        (dpo(), ["reference model", "LM head"], ["reward head"]),
        (dpo({"precompute_ref_log_probs": True}), [], ["reference model"]),
        (dpo(model={"name": "Qwen/Qwen2.5-7B", "lora": {"r": 8}}), [], ["reference model"]),
        (reward_model(), ["reward head"], ["LM head", "reference model"]),
    ],
    ids=[
        *("colocated", "reference", "server", "no checkpointing", "flash attention"),
        *("dpo", "dpo, precomputed", "dpo with adapters", "reward model"),
    ],
)
def test_rows_are_those_that_mean_something(sections, present, absent, write_recipe):
    (plan,) = plans_of(recipe_of(write_recipe, sections))
    assert set(present) <= set(plan.memory.rows)
    assert not set(absent) & set(plan.memory.rows)


@pytest.mark.parametrize("sections", [dpo, reward_model])
def test_pair_is_two_rows_to_a_layer(sections, write_recipe):
    of_pairs, of_rows = (plans_of(recipe_of(write_recipe, each()))[0].memory.rows for each in (sections, sft))
    for row in ("layer inputs", "one layer", "attention mask"):
        assert of_pairs[row] == pytest.approx(2 * of_rows[row])


def test_engine_that_does_not_sleep_takes_its_share_while_the_policy_trains(write_recipe):
    asleep, awake = (
        plans_of(recipe_of(write_recipe, grpo({"vllm_enable_sleep_mode": sleeps})))[0].memory.rows
        for sleeps in (True, False)
    )
    assert awake[TRAINING] - asleep[TRAINING] == pytest.approx(awake["vLLM's share"])


# --- What does not fit


def test_what_fits_needs_no_mend(write_recipe):
    assert mends_of(plans_of(recipe_of(write_recipe, sft()))[0]) == []


ON_24 = {"gpus_per_node": 1, "accelerate": "one_gpu", "gpu": "l4_24gb"}
MISFITS = {
    "too many rows": sft({"max_length": 16384, "per_device_train_batch_size": 16}),
    "all weights on 24 GB": sft({"max_length": 2048}, model={"name": "Qwen/Qwen2.5-1.5B"}, hardware=ON_24),
    "no room for one completion": grpo({"vllm_gpu_memory_utilization": 0.2}),
    "copies of everything": sft(hardware={"gpus_per_node": 8, "accelerate": "ddp", "gpu": "h100_80gb"}),
    "a policy and the one that it began as": dpo(
        {"max_length": 2048}, model={"name": "Qwen/Qwen2.5-1.5B"}, hardware=ON_24
    ),
    "a reward model beside the policy": grpo(
        {"vllm_gpu_memory_utilization": 0.35},
        rewards=[{"name": "reward_model", "model": "Qwen/Qwen2.5-7B"}],
        model={"name": "Qwen/Qwen2.5-7B", "dtype": "bfloat16"},
    ),
    "a server's copy on one GPU": {
        "step": "generate",
        "model": {"name": "Qwen/Qwen2.5-32B"},
        "data": [sums(64)],
        "generate": {"max_completion_length": 30_000},
        "hardware": {"gpu": "a100_40gb", "vllm": {"data_parallel_size": 2}},
    },
}


@pytest.mark.parametrize("name", MISFITS)
def test_each_mend_makes_it_fit(name, write_recipe):
    (plan,) = plans_of(recipe_of(write_recipe, MISFITS[name]))
    assert not plan.fits
    mends = mends_of(plan)
    assert mends
    for mend in mends:
        assert plan_of(with_overrides(plan.recipe, mend.overrides), Assumptions()).fits


@pytest.mark.parametrize(
    ("sections", "mended"),
    [
        (
            grpo(rewards=[{"name": "reward_model", "model": "Qwen/Qwen2.5-1.5B", "batch_size": 1024}]),
            "rewards.0.batch_size",
        ),
        (
            {
                "step": "preferences",
                "model": {"name": "Qwen/Qwen2.5-1.5B"},
                "data": [sums(64)],
                "preferences": {"rubric": "rubric.yaml", "max_completion_length": 1000},
                "judge": {"name": "Qwen/Qwen2.5-32B"},
                "hardware": {"gpu": "a100_40gb", "vllm": {}, "judge": {}},
            },
            "hardware.judge.tensor_parallel_size",
        ),
    ],
    ids=["reward model that reads too much at once", "judge on one GPU"],
)
def test_what_rates_is_mended_by_its_own_keys(sections, mended, write_recipe):
    mends = mends_of(plans_of(recipe_of(write_recipe, sections))[0])
    assert [mend for mend in mends if mended in mend.overrides]


def test_mend_is_printed_as_one_types_it(write_recipe, capsys):
    file = write_recipe(**MISFITS["copies of everything"])
    assert main([str(file)]) == 1
    shown = capsys.readouterr().out
    (typed,) = {line.split('"')[1] for line in shown.splitlines() if "accelerate=zero2" in line}
    assert main([str(file), *typed.split()]) == 0


def test_other_layouts_are_compared_with_and_without_lora(write_recipe):
    lora = {"name": "Qwen/Qwen2.5-7B", "lora": {"r": 8}}
    (plan,) = plans_of(recipe_of(write_recipe, sft(model=lora)))
    assert list(compared(plan)) == [
        *("DDP with LoRA", "ZeRO-2 with LoRA", "DDP, all weights", "ZeRO-2, all weights"),
        *("ZeRO-3, all weights", "FSDP2, all weights"),
    ]


@pytest.mark.parametrize("judge_here", [True, False])
@pytest.mark.parametrize("reward_model_here", [True, False])
def test_layouts_that_share_weights_are_not_compared_beside_models_that_rate(
    judge_here, reward_model_here, write_recipe
):
    rewards = [{"name": "judge", "rubric": RUBRIC}, *([REWARD_MODEL] if reward_model_here else [])]
    judge = JUDGE if judge_here else {"endpoint": ENDPOINT, "max_completion_length": 100}
    (plan,) = plans_of(recipe_of(write_recipe, {**grpo(rewards=rewards), "judge": judge}))
    shares = [] if judge_here or reward_model_here else ["ZeRO-3", "FSDP2"]
    assert list(compared(plan)) == ["DDP", "ZeRO-2", *shares]


# --- Work


@pytest.mark.parametrize(
    ("trainer", "rows_per_step", "tokens_per_row", "steps"),
    [
        ({"max_steps": -1, "num_train_epochs": 2}, 8, 1000, 16),  # 64 rows over 8 processes
        ({"max_steps": -1, "num_train_epochs": 1, "packing": True}, 8, 4096, 2),  # 64,000 tokens in rows of 4,096
        ({"max_steps": 7, "gradient_accumulation_steps": 4}, 32, 1000, 7),
        ({"max_length": 512}, 8, 512, 10),  # what is longer is cut off
    ],
    ids=["epochs", "packing", "steps", "cut off"],
)
def test_steps_and_tokens_of_supervised_training(trainer, rows_per_step, tokens_per_row, steps, write_recipe):
    work = work_of(recipe_of(write_recipe, sft(trainer)), Assumptions(tokens_per_row=1000))
    assert (work.rows_per_step, work.tokens_per_row, work.steps) == (rows_per_step, tokens_per_row, steps)


@pytest.mark.parametrize("sections", [dpo, reward_model])
def test_steps_are_of_pairs_and_tokens_of_both_sequences(sections, write_recipe):
    trainer = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 2}
    work = work_of(recipe_of(write_recipe, sections(trainer)), Assumptions(tokens_per_row=1000))
    assert (work.pairs_per_step, work.rows_per_step, work.steps) == (16, 32, 2 * 64 / 16)
    assert work.tokens == 2 * 2 * 64 * 1000


def test_part_of_the_data_is_counted_as_such(write_recipe):
    data = [{**sums(64), "part": [0.25, 0.75]}]
    work = work_of(recipe_of(write_recipe, sft({"max_steps": -1, "num_train_epochs": 1}, data=data)), Assumptions())
    assert work.steps == 32 / 8


def test_tokens_that_nobody_knows_are_an_upper_bound_that_says_so(write_recipe):
    work = work_of(recipe_of(write_recipe, sft()), Assumptions())
    assert work.tokens_per_row == 4096
    assert "upper bound" in work.notes[0]


@pytest.mark.parametrize(
    ("trainer", "steps", "prompts_per_step", "num_rollouts"),
    [
        ({"max_steps": 20, "gradient_accumulation_steps": 4}, 20, 4, 20),  # 1 x 8 processes x 4 = 32 completions
        ({"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 4}, 16, 4, 16),  # 64 rows x 8
        ({"max_steps": 20, "gradient_accumulation_steps": 4, "steps_per_generation": 16}, 20, 4, 5),
        ({"max_steps": 20, "gradient_accumulation_steps": 4, "num_iterations": 2}, 20, 2, 10),
    ],
    ids=["steps", "epochs", "four steps from a rollout", "each completion twice"],
)
def test_steps_and_rollouts_of_grpo(trainer, steps, prompts_per_step, num_rollouts, write_recipe):
    work = work_of(recipe_of(write_recipe, grpo(trainer)), Assumptions())
    assert (work.steps, work.prompts_per_step, work.sampling[0].num_rollouts) == (steps, prompts_per_step, num_rollouts)


@pytest.mark.parametrize(
    ("trainer", "passes"),
    [({}, 1), ({"beta": 0.1}, 2), ({"vllm_importance_sampling_correction": False}, 0)],
    ids=["vllm's ratio", "and a reference", "neither"],
)
def test_passes_over_logprobs_are_those_that_trl_makes(trainer, passes, write_recipe):
    assert passes_over_logprobs(recipe_of(write_recipe, grpo(trainer))) == passes


@pytest.mark.parametrize(
    ("sections", "passes"),
    [
        (dpo(), 1),
        (dpo(model={"name": "Qwen/Qwen2.5-7B", "lora": {"r": 8}}), 1),
        (dpo({"precompute_ref_log_probs": True, "max_steps": -1, "num_train_epochs": 4}), 0.25),
        (reward_model(), 0),
    ],
    ids=["reference", "adapters off", "before the first of four epochs", "reward model"],
)
def test_reference_of_dpo_reads_the_pairs(sections, passes, write_recipe):
    assert passes_over_logprobs(recipe_of(write_recipe, sections)) == passes


def test_decoding_is_bound_by_what_is_read():
    """One completion of 1,000 tokens: 1,000 times the weights, and the cache that grows."""
    architecture = architecture_of_config(hub_model("Qwen/Qwen2.5-7B").config)
    whole = Assumptions(bandwidth_share=1.0)
    one = Sampling("", None, 1, 1, 0, 1000, 1000)
    seconds = rollout_seconds(architecture, Engines(1, 1, 0.0, None, 2), H100, one, whole)
    weights = 1000 * 2 * architecture.num_parameters / 3350e9
    assert weights < seconds < 1.01 * weights
    many = Sampling("", None, 100, 1, 0, 1000, 1000)
    halved = rollout_seconds(architecture, Engines(1, 1, 0.0, 50 * 1000, 2), H100, many, whole)
    assert halved == pytest.approx(2 * weights, rel=0.2)  # the cache holds fifty


# --- Sampling without training


def generate(generate: dict | None = None, **sections) -> dict:
    keys = {"samples": 4, "max_completion_length": 1000, **(generate or {})}
    hardware = {"gpu": "h100_80gb", "vllm": {"data_parallel_size": 2}}
    model = {"name": "Qwen/Qwen2.5-7B"}
    return {"step": "generate", "model": model, "data": [sums(64)], "generate": keys, "hardware": hardware, **sections}


def evaluation(evaluate: dict | None = None, **sections) -> dict:
    keys = {"benchmarks": ["math_500"], "max_new_tokens": 1000, **(evaluate or {})}
    recipe = generate(**sections)
    return {"step": "evaluate", "model": recipe["model"], "evaluate": keys, "hardware": recipe["hardware"]}


ENDPOINT = {"base_url": "http://localhost:8000/v1", "model": "served"}
ALL_OF_THE_LENGTH = Assumptions(mean_completion_tokens=1000)


def plan_named(write_recipe, sections: dict, assumptions: Assumptions = ALL_OF_THE_LENGTH):
    (plan,) = plans_of(recipe_of(write_recipe, sections), assumptions)
    return plan


def test_hours_of_a_server_are_its_bytes_over_its_bandwidth(write_recipe):
    """256 completions on two copies with 64 requests each: two waves of 1,000 steps; a step reads all weights."""
    plan = plan_named(write_recipe, generate())
    architecture = plan.architecture
    weights = 2 * 1000 * 2 * 7_615_616_512
    cache = 128 * 1000 * (256 + 1000) * 4 * 28 * 512  # bytes a token: keys and values of 2 bytes, 4 heads x 128
    prefill = 128 * 256 * 2 * architecture.num_multiplied / (0.33 * 989e12)
    seconds = (weights + cache) / (0.6 * 3350e9) + prefill
    assert plan.time.seconds == {"sampling": pytest.approx(seconds), "start": 300}
    assert plan.hours == pytest.approx((seconds + 300) / 3600)


@pytest.mark.parametrize(
    ("keys", "hardware", "completions", "num_rollouts"),
    [
        ({}, {"vllm": {}}, 256, 1),
        ({"prompts_per_shard": 8}, {"vllm": {}}, 32, 8),  # a file is waited for before the next is begun
        ({"prompts_per_shard": 8}, {"vllm": {}, "processes_per_node": 2}, 64, 4),
        ({"batch_size": 16}, {"gpus_per_node": 2, "accelerate": "ddp"}, 32, 8),
    ],
    ids=["server", "files", "files of two processes", "transformers"],
)
def test_completions_that_are_waited_for(keys, hardware, completions, num_rollouts, write_recipe):
    (sampling,) = plan_named(write_recipe, generate(keys, hardware=hardware)).work.sampling
    assert (sampling.completions, sampling.num_rollouts) == (completions, num_rollouts)
    assert sampling.tokens == 64 * 4 * 1000


@pytest.mark.parametrize("sections", [generate, evaluation])
def test_server_that_only_answers_has_its_share_of_each_gpu(sections, write_recipe):
    plan = plan_named(write_recipe, sections())
    rows = plan.memory.rows
    assert rows[SERVING] == rows["vLLM's share"] == pytest.approx(0.9 * 80)
    assert rows["KV cache"] == pytest.approx(0.9 * 80 - 2 * 7_615_616_512 / GIB - 2)
    assert TRAINING not in rows
    assert (plan.nodes.gpus, plan.usd) == (2, pytest.approx(2 * 2.0 * plan.hours))


@pytest.mark.parametrize(
    ("hardware", "text"),
    [
        ({"gpu": "h100_80gb", "vllm": {"data_parallel_size": 2}}, "2 h100_80gb, vLLM"),
        ({"gpu": "h100_80gb", "gpus_per_node": 2, "accelerate": "ddp"}, "2 h100_80gb"),
        ({}, "CPU, 1 process of 1 thread"),
    ],
    ids=["server", "transformers", "cpu"],
)
def test_hardware_of_a_step_that_only_samples(hardware, text, write_recipe):
    assert hardware_text(plan_named(write_recipe, generate(hardware=hardware))) == text


def test_gpus_that_sample_by_themselves_share_the_prompts(write_recipe):
    """Twice the GPUs: half of the batches, each as long as before."""
    one, two = (
        plan_named(write_recipe, generate({"batch_size": 16}, hardware={"gpus_per_node": gpus, "accelerate": "ddp"}))
        for gpus in (1, 2)
    )
    assert one.time.seconds["sampling"] == pytest.approx(2 * two.time.seconds["sampling"])
    assert SAMPLING in one.memory.rows


@pytest.mark.parametrize(
    "sections",
    [
        generate({"endpoint": ENDPOINT}, model={}, hardware={}),
        evaluation({"endpoint": ENDPOINT}, hardware={}),
    ],
    ids=["generate", "evaluate"],
)
def test_of_an_endpoint_only_tokens_are_planned(sections, write_recipe, capsys):
    file = write_recipe(**sections)
    assert main([str(file)]) == 0
    shown = capsys.readouterr().out
    assert "model      that of served at http://localhost:8000/v1" in shown
    assert "endpoint samples: what it needs and how long it takes is not planned" in shown
    assert "Time: hours not known, cost not known" in shown
    assert "Memory" not in shown
    assert plans_of(load_recipe(file))[0].work.sampling[0].tokens > 0


def test_training_is_planned_where_an_endpoint_is_the_teacher(write_recipe):
    section = {"teacher": "nobody/knows", "max_completion_length": 1000, "endpoint": ENDPOINT}
    plan = plan_named(write_recipe, {**sft(), "step": "distill", "rewards": ["accuracy"], "distill": section})
    assert set(plan.time.seconds) == {"training", "start"}
    assert SAMPLING not in plan.memory.rows


@pytest.mark.parametrize(
    ("keep", "rewards", "kept"),  # of 64 prompts with 2 completions each
    [
        ({}, ["accuracy"], 64),  # half of them
        ({}, [], 128),  # nobody judges
        ({"max_per_prompt": 1}, ["accuracy"], 48),  # both of a prompt are wrong in a quarter of the cases
        ({"max_traces": 10}, ["accuracy"], 10),
    ],
    ids=["all", "not judged", "one a prompt", "so many in all"],
)
def test_traces_that_are_kept(keep, rewards, kept, write_recipe):
    plan = plan_named(write_recipe, generate({"samples": 2}, keep=keep, rewards=rewards))
    assert plan.work.kept == Rows(kept, 256 + 1000)


def test_student_trains_on_what_is_kept_of_its_teacher_s(write_recipe):
    section = {"teacher": "Qwen/Qwen2.5-7B", "max_completion_length": 1000, "samples": 2}
    sections = sft({"max_steps": -1, "num_train_epochs": 1}, keep={"max_per_prompt": 1}, distill=section)
    plan = plan_named(write_recipe, {**sections, "step": "distill", "rewards": ["accuracy"]})
    assert plan.work.steps == 48 / 8


# --- Judges and reward models


TRACES = {"name": "open-r1/Mixture-of-Thoughts", "config": "math"}  # 93,733 rows of 6,300 tokens
TALK = {"name": "HuggingFaceTB/smol-smoltalk"}  # 460,341 rows of 980

RUBRIC = str(REPOSITORY / "recipes" / "tiny-rlaif" / "rubrics" / "order.yaml")
JUDGE = {"name": "Qwen/Qwen2.5-7B", "max_completion_length": 100}
EXACT = Assumptions(mean_completion_tokens=1000, mean_verdict_tokens=50, rubric_tokens=200, pair_share=0.25)


def preferences(keys: dict | None = None, judge: dict | None = None, **sections) -> dict:
    asked = generate(**sections)
    section = {**asked.pop("generate"), "rubric": RUBRIC, **(keys or {})}
    return {**asked, "step": "preferences", "preferences": section, "judge": judge or JUDGE}


@pytest.mark.parametrize(
    ("samples", "judgements", "candidates", "of_a_prompt"),
    [(4, 4, 1, 16), (4, 4, 2, 8), (4, 3, 2, 8), (4, 2, 4, 4), (3, 4, 2, 8), (5, 2, 3, 2 * 3)],
)
def test_verdicts_are_as_many_as_the_judge_is_asked_for(samples, judgements, candidates, of_a_prompt, write_recipe):
    judge = {**JUDGE, "judgements": judgements, "candidates": candidates}
    plan = plan_named(write_recipe, preferences({"samples": samples}, judge), EXACT)
    assert plan.work.judging.number == 64 * of_a_prompt
    assert plan.work.judging.prompt_tokens == 256 + 200 + candidates * 1000
    assert plan.work.kept == Rows(16, 1256)  # pairs; a quarter of the prompts


def test_judge_in_each_process_stays_beside_the_policy(write_recipe):
    hardware = {"gpu": "h100_80gb", "gpus_per_node": 2, "accelerate": "ddp"}
    judged, alone = (
        plan_named(write_recipe, sections, EXACT)
        for sections in (
            preferences({"batch_size": 8}, hardware=hardware),
            generate({"batch_size": 8}, hardware=hardware),
        )
    )
    weights = 4 * 7_615_616_512 / GIB
    assert judged.memory.rows["judge"] == pytest.approx(weights)
    assert judged.memory.rows[SAMPLING] == pytest.approx(alone.memory.rows[SAMPLING] + weights)
    assert judged.memory.rows[JUDGING] > 2 * weights
    assert set(judged.time.seconds) == {"sampling", "judging", "start"}


def test_judge_that_is_served_has_gpus_of_its_own(write_recipe):
    hardware = {"gpu": "h100_80gb", "vllm": {"data_parallel_size": 2}, "judge": {"data_parallel_size": 2}}
    plan, unjudged = (
        plan_named(write_recipe, sections, EXACT) for sections in (preferences(hardware=hardware), generate())
    )
    assert plan.memory.rows["judge's share"] == plan.memory.rows[JUDGING] == pytest.approx(0.9 * 80)
    assert plan.memory.rows[SERVING] == unjudged.memory.rows[SERVING]
    assert "judge" not in plan.memory.rows
    assert (plan.nodes.gpus, unjudged.nodes.gpus) == (4, 2)
    assert hardware_text(plan) == "4 h100_80gb, vLLM, 2 of them for the judge"
    assert plan.time.seconds["judging"] > 0


def test_judge_behind_an_endpoint_costs_what_its_prices_say(write_recipe, capsys):
    """1,024 requests of 1,456 tokens, answered by 50 each."""
    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 8.0}
    judge = {"endpoint": ENDPOINT, "max_completion_length": 100, **prices}
    plan, unpriced = (
        plan_named(write_recipe, preferences(judge=each), EXACT)
        for each in (judge, {"endpoint": ENDPOINT, "max_completion_length": 100})
    )
    assert plan.judge_usd == pytest.approx((1024 * 1456 * 2 + 1024 * 50 * 8) / 1e6)
    assert plan.usd == pytest.approx(unpriced.usd + plan.judge_usd)
    assert unpriced.judge_usd is None
    assert "judging" not in plan.time.seconds
    assert JUDGING not in plan.memory.rows
    assert main([str(write_recipe(**preferences(judge=judge)))]) == 0
    assert " by judge.usd_per_million_…" in capsys.readouterr().out


def rewarded(*rewards: dict, **sections) -> dict:
    """GRPO on three rows of mathematics for each general one."""
    data = [{**TRACES, "task": "math", "weight": 3}, {**TALK, "task": "general", "weight": 1}]
    trainer = {"max_steps": 100, "gradient_accumulation_steps": 4}
    return grpo(trainer, data=data, mixture={"num_rows": 4000}, rewards=["accuracy", *rewards], **sections)


REWARD_MODEL = {"name": "reward_model", "model": "Qwen/Qwen2.5-1.5B", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("reward", "share"),
    [
        ({}, 1.0),
        ({"first_step": 76}, 0.25),
        ({"last_step": 10}, 0.1),
        ({"first_step": 101}, 0.0),
        ({"task": "general"}, 0.25),
        ({"task": ["math", "general"]}, 1.0),
        ({"task": "general", "first_step": 76}, 0.0625),
    ],
    ids=["all", "last steps", "first steps", "never", "task", "tasks", "task in the last steps"],
)
def test_reward_model_reads_the_completions_that_it_is_for(reward, share, write_recipe):
    plan = plan_named(write_recipe, rewarded({**REWARD_MODEL, **reward}), EXACT)
    assert plan.work.tokens_of_reward_models == {1: pytest.approx(share * 100 * 32 * 1256)}
    whole = plan_named(write_recipe, rewarded(REWARD_MODEL), EXACT)
    assert plan.time.seconds["reward models"] == pytest.approx(share * whole.time.seconds["reward models"])


@pytest.mark.parametrize(
    ("trainer", "times", "samples"),
    [
        ({"eval_strategy": "steps", "eval_steps": 25}, 4, 8),
        ({"eval_strategy": "steps", "eval_steps": 30}, 3, 8),
        ({"eval_strategy": "steps", "eval_steps": 0.5}, 2, 8),
        ({"eval_strategy": "steps", "eval_steps": 25, "eval_on_start": True}, 5, 8),
        ({"eval_strategy": "steps", "logging_steps": 50}, 2, 8),
        ({"eval_strategy": "steps", "eval_steps": 100, "num_generations_eval": 2}, 1, 2),
        ({"eval_strategy": "epoch", "num_train_epochs": 2}, 2, 8),
    ],
)
def test_what_evaluations_ask_is_paid_for_as_well(trainer, times, samples, write_recipe):
    held_out = [{**TALK, "task": "general", "part": [0.9, 0.9001]}, {**TRACES, "task": "math", "part": [0.9, 0.9005]}]
    recipe = rewarded({**REWARD_MODEL, "task": "general"}, {"name": "judge", "rubric": RUBRIC}, judge=JUDGE)
    plan, without = (
        plan_named(write_recipe, {**recipe, "trainer": {**recipe["trainer"], **keys}, "eval_data": data}, EXACT).work
        for keys, data in ((trainer, held_out), ({}, []))
    )
    num_general, num_math = 46, 47
    answers = times * samples * (num_general + num_math)
    assert sum(each.number for each in plan.sampling[1:]) == pytest.approx(answers)
    assert plan.judging.number - without.judging.number == pytest.approx(4 * answers)  # as many verdicts
    read = plan.tokens_of_reward_models[1] - without.tokens_of_reward_models[1]
    assert read == pytest.approx(times * samples * num_general * 1256)


def test_reward_model_lies_whole_on_each_gpu(write_recipe):
    with_model, without = (
        plan_named(write_recipe, rewarded(*rewards), EXACT).memory.rows for rewards in ((REWARD_MODEL,), ())
    )
    (model,) = plan_named(write_recipe, rewarded(REWARD_MODEL), EXACT).raters.reward_models.values()
    assert with_model["reward model"] == pytest.approx(2 * model.num_parameters / GIB)
    for total in (TRAINING, SAMPLING):
        assert with_model[total] == pytest.approx(without[total] + with_model["reward model"])
    held = sum(with_model[row] for row in ("weights", "optimizer", "reward model", "rewarding", "reserve"))
    assert with_model[JUDGING] == pytest.approx(held)  # vLLM sleeps


def test_mask_is_planned_where_a_reward_model_reads_several_rows(write_recipe):
    one, two = (
        plan_named(write_recipe, rewarded({**REWARD_MODEL, "batch_size": rows}), EXACT).memory.rows["rewarding"]
        for rows in (1, 2)
    )
    assert (two - 2 * one) * GIB == pytest.approx(2 * 4096**2)  # a byte for each pair of tokens


def test_reward_model_of_an_earlier_stage_is_known(write_recipe):
    write_recipe("train.yaml", **reward_model(model={"name": "Qwen/Qwen2.5-1.5B"}))
    write_recipe("rl.yaml", **grpo(rewards=[REWARD_MODEL]))
    stages = [
        {"name": "judge", "recipe": "train.yaml"},
        {"name": "rl", "recipe": "rl.yaml", "set": {"rewards.0.model": "stage:judge"}},
    ]
    trained, rl = plans_of(load_recipe(write_recipe(step="pipeline", stages=stages)), EXACT)
    assert rl.raters.reward_models == {0: trained.architecture}


def test_reward_model_behind_an_endpoint_is_not_planned_and_that_is_said(write_recipe):
    plan = plan_named(write_recipe, rewarded({"name": "reward_model", "endpoint": ENDPOINT}), EXACT)
    assert not plan.raters.reward_models
    assert "rewards.1.endpoint rewards: what it needs and how long it takes is not planned" in plan.work.notes


def test_judge_as_a_reward_is_asked_about_every_completion(write_recipe):
    """100 steps of 32 completions, each judged four times."""
    judge = {**JUDGE, "endpoint": ENDPOINT}
    del judge["name"]
    sections = {**rewarded({"name": "judge", "rubric": RUBRIC}), "judge": judge}
    assert plan_named(write_recipe, sections, EXACT).work.judging.number == 100 * 32 * 4


def test_policy_learns_from_the_pairs_that_an_earlier_stage_is_planned_to_keep(write_recipe):
    write_recipe("pairs.yaml", **preferences())
    write_recipe("train.yaml", **dpo({"max_steps": -1, "num_train_epochs": 1}, data=[{"path": "nowhere.jsonl"}]))
    stages = [
        {"name": "pairs", "recipe": "pairs.yaml"},
        {"name": "training", "recipe": "train.yaml", "set": {"data.0.path": "stage:pairs"}},
    ]
    _, training = plans_of(load_recipe(write_recipe(step="pipeline", stages=stages)), EXACT)
    assert (training.work.pairs_per_step, training.work.steps, training.work.tokens_per_row) == (8, 16 / 8, 1256)


# --- Data that a run makes, and mixtures


def mixture(num_rows: int, *weights: float, repeat: bool = False) -> dict:
    data = [{**source, "weight": weight} for source, weight in zip((TRACES, TALK), weights, strict=True)]
    keys = {"max_length": 8192, "max_steps": -1, "num_train_epochs": 1}
    return sft(keys, mixture={"num_rows": num_rows, "repeat": repeat}, data=data)


def test_mixture_has_the_rows_that_it_says_and_lengths_by_its_weights(write_recipe):
    work = plan_named(write_recipe, mixture(80, 3, 1)).work
    assert (work.steps, work.tokens_per_row) == (80 / 8, (3 * 6300 + 980) / 4)


@pytest.mark.parametrize(
    ("sections", "notes"),
    [
        (mixture(100_000, 9, 1), ()),
        (mixture(200_000, 9, 1), ("data.0: 93,733 rows are planned, but its share of the mixture is 180,000",)),
        (mixture(200_000, 9, 1, repeat=True), ()),
    ],
    ids=["enough", "too few", "again and again"],
)
def test_source_with_too_few_rows_for_its_share_is_told(sections, notes, write_recipe):
    assert plan_named(write_recipe, sections).work.notes == notes


def pipeline_of(write_recipe, folder: str = "", **sections) -> Recipe:
    write_recipe("sample.yaml", **generate({"samples": 2}, rewards=["accuracy"]))
    keys = {"max_steps": -1, "num_train_epochs": 1}
    write_recipe("train.yaml", **sft(keys, data=[{"path": "nowhere.jsonl", **sections}]))
    stages = [
        {"name": "sampling", "recipe": "sample.yaml"},
        {"name": "training", "recipe": "train.yaml", "set": {"data.0.path": f"stage:sampling{folder}"}},
    ]
    return load_recipe(write_recipe(step="pipeline", stages=stages))


@pytest.mark.parametrize(
    ("folder", "sections", "rows", "tokens"),
    [("", {}, 64, 1256), ("/prompts", {}, 64, 4096), ("", {"fraction": 0.5}, 32, 1256)],
    ids=["kept", "prompts", "half of them"],
)
def test_stage_trains_on_what_an_earlier_one_is_planned_to_keep(folder, sections, rows, tokens, write_recipe):
    _, training = plans_of(pipeline_of(write_recipe, folder, **sections), ALL_OF_THE_LENGTH)
    assert (training.work.steps, training.work.tokens_per_row) == (rows / 8, tokens)


def test_rows_of_another_run_are_those_that_its_recipe_is_planned_to_keep(write_recipe):
    path = str(RUNS / "r1-qwen2.5-7b" / "rejection_sampling" / "no run yet" / "kept")
    work = work_of(load_recipe(REPOSITORY / "recipes/r1-qwen2.5-7b/rejection_sampling.yaml"), Assumptions())
    plan = plan_named(write_recipe, sft({"max_steps": -1, "num_train_epochs": 1}, data=[{"path": path}]), Assumptions())
    assert plan.work.steps == -(-round(work.kept.number) // 8)


def test_rows_of_a_run_that_has_been_are_counted(write_recipe, tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "kept").mkdir()
    for part in range(2):
        table = pyarrow.table({"prompt": ["a"] * 12, "completion": ["b"] * 12})
        pyarrow.parquet.write_table(table, tmp_path / "kept" / f"part-{part}.parquet")
    keys = {"max_steps": -1, "num_train_epochs": 1}
    plan = plan_named(write_recipe, sft(keys, data=[{"path": str(tmp_path / "kept")}]))
    assert plan.work.steps == 24 / 8


def test_rows_that_nobody_knows_are_asked_for(write_recipe):
    path = str(RUNS / "nowhere" / "latest" / "kept")
    plan = plan_named(write_recipe, sft({"max_steps": -1}, data=[{"path": path}]))
    assert plan.work.steps is None
    assert "rows of the data are not known: give --rows, or trainer.max_steps" in plan.work.notes


def test_rows_within_bounds_are_not_guessed_at(write_recipe):
    data = [{**TRACES, "where": {"num_tokens": [0, 1000]}}]
    work = plan_named(write_recipe, sft({"max_steps": -1, "num_train_epochs": 1}, data=data)).work
    assert (work.steps, work.notes) == (
        -(-93_733 // 8),
        ("data.0.where: how many rows are within it nobody knows; all are counted",),
    )


# --- Every recipe


@pytest.mark.parametrize("file", all_recipes(), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_recipe_is_planned_and_fits(file):
    planned = planning.summary(load_recipe(file))
    assert planned.fits
    assert planned.peak_gib > 0
    assert planned.hours is None or planned.hours > 0


def test_stages_of_tulu_3_are_planned_from_the_models_that_its_readme_offers():
    text = (REPOSITORY / "recipes" / "tulu3-8b" / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r'RECIPE=(\S+)\s+ARGS="(model\.name=[^"]+)"', text)
    assert len(commands) == 2
    for recipe, override in commands:
        (plan,) = plans_of(load_recipe(REPOSITORY / recipe, [override]))
        assert plan.architecture.num_parameters == 8_030_326_784 and plan.fits


@pytest.mark.parametrize("name", ["pipeline", "full"])
def test_pipeline_has_a_block_for_each_stage_and_a_sum(name, capsys):
    assert main([str(TINY / f"{name}.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "reasoning_rl: " in shown
    assert "\nin all: " in shown


def test_model_of_a_run_is_that_of_the_recipe_which_makes_it():
    assert recipe_that_makes(RUNS / "tiny-r1/sft/latest/model").source == REPOSITORY / "recipes/tiny-r1/sft.yaml"
    made = recipe_that_makes(RUNS / "tiny-r1/pipeline/latest/reasoning_rl/model")
    assert made.source.name == "sft.yaml"  # the cold start, which the stage starts from
    assert recipe_that_makes(RUNS / "nowhere/latest/model") is None


def test_table_has_a_column_for_each_recipe():
    recipes = [load_recipe(REPOSITORY / f"recipes/qwen2.5-7b-8x80gb/{step}.yaml") for step in ("sft", "grpo")]
    table = planning.markdown(recipes).splitlines()
    assert table[0] == "|  | sft | grpo |"
    assert {line.count("|") for line in table} == {4}
    rows = {line.split(" |")[0].lstrip("| *"): line for line in table}
    assert "| **55.9** | **59.5** |" in rows[f"{TRAINING}, GiB**"]  # as the table that it replaced
    assert "| – | **72.5** |" in rows[f"{SAMPLING}, GiB**"]


# --- What is not known


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (sft(model={"name": "Qwen/Qwen9"}), "nothing is known of 'Qwen/Qwen9'"),
        (sft(data=[{"name": "nobody/nothing"}], trainer={"per_device_train_batch_size": 1}), "nothing is known of"),
        (
            sft(hardware={"gpus_per_node": 1, "accelerate": "one_gpu", "gpu": "h100"}),
            "hardware.gpu: unknown GPU 'h100'",
        ),
        (
            {**sft(), "model": {"name": str(RUNS / "nowhere" / "latest" / "model")}},
            "no model at",
        ),
    ],
    ids=["model", "data", "gpu", "run"],
)
def test_what_is_not_known_is_one_line(sections, line, write_recipe, capsys):
    assert main([str(write_recipe(**sections))]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told


def test_architecture_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="'lama' cannot be planned .*did you mean llama"):
        architecture_of_config({"model_type": "lama"})


def test_planner_imports_no_torch():
    code = "import sys, open_r1.planning.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_assumption_is_settable_and_stated(capsys):
    assert main([str(TINY / "grpo.yaml"), "--mean-completion-tokens", "30"]) == 0
    assert "mean_completion_tokens 30: instead of that share (set by you)" in capsys.readouterr().out


def test_error_of_a_recipe_is_not_hidden(write_recipe):
    with pytest.raises(RecipeError, match="unknown key"):
        recipe_of(write_recipe, sft({"max_lenght": 5}))


def test_readme_has_the_published_runs_as_they_are_planned_today():
    script = REPOSITORY / "scripts" / "check_plan.py"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    tables, _, result = printed.rstrip().rpartition("\n")
    readme = (REPOSITORY / "src" / "open_r1" / "planning" / "README.md").read_text()
    assert [table for table in tables.split("\n\n") if table not in readme] == []
    assert set(json.loads(result)) == {"published", "fitted"}


def test_run_that_is_not_there_is_one_line(tmp_path):
    script = REPOSITORY / "scripts" / "check_plan.py"
    failed = subprocess.run([sys.executable, script, tmp_path / "gone"], capture_output=True, text=True)
    assert (failed.returncode, failed.stderr.endswith("there is no run; `make r1` makes one\n")) == (2, True)
