"""The recipes of supervised distillation: their sources' numbers, what their templates train, what they begin from."""

import json
import math

import pytest
import torch
from conftest import REPOSITORY, recipe_named
from transformers import AutoConfig, AutoModelForCausalLM

from open_r1 import modeling
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.contributing.evidence import published_of
from open_r1.hub import fixture_of, hub_dataset, hub_model

RECIPES = REPOSITORY / "recipes"
TEMPLATES = RECIPES / "chat_templates"

# recipe -> learning rate, epochs, traces a step, tokens of a trace. r1-distill: arXiv 2501.12948v2, appendix B.4.3 and
# table 6; the others: the recipes of huggingface/open-r1 (OlympicCoder-7B's learning rate: Open R1's Update #3).
NUMBERS = {
    "r1-distill/1.5b": (1e-4, (2, 3), 64, 32768),
    "r1-distill/7b": (8e-5, (2, 3), 64, 32768),
    "r1-distill/8b": (5e-5, (2, 3), 64, 32768),
    "r1-distill/14b": (7e-5, (2, 3), 64, 32768),
    "r1-distill/32b": (6e-5, (2, 3), 64, 32768),
    "r1-distill/70b": (2e-5, (2, 3), 64, 32768),
    "openr1-distill-7b/sft": (4e-5, (5,), 128, 32768),
    "olympiccoder/7b": (4e-5, (10,), 128, 32768),
    "olympiccoder/32b": (4e-5, (10,), 128, 22528),
}
STUDENTS = {  # R1, table 6
    "1.5b": "Qwen/Qwen2.5-Math-1.5B",
    "7b": "Qwen/Qwen2.5-Math-7B",
    "8b": "meta-llama/Llama-3.1-8B",
    "14b": "Qwen/Qwen2.5-14B",
    "32b": "Qwen/Qwen2.5-32B",
    "70b": "meta-llama/Llama-3.3-70B-Instruct",
}


# --- The sources' numbers


@pytest.mark.parametrize("name", NUMBERS)
def test_learning_rate_epochs_and_length_are_the_source_s(name):
    trainer = recipe_named(name).trainer
    learning_rate, epochs, _, max_length = NUMBERS[name]
    assert trainer["learning_rate"] == learning_rate
    assert trainer["num_train_epochs"] in epochs
    assert trainer["max_length"] == max_length


@pytest.mark.parametrize("name", NUMBERS)
def test_batch_is_the_source_s(name):
    """Counted in traces: without packing a row is one."""
    recipe = recipe_named(name)
    rows = recipe.trainer["per_device_train_batch_size"] * recipe.trainer["gradient_accumulation_steps"]
    assert not recipe.trainer.get("packing")
    assert rows * recipe.hardware.num_processes == NUMBERS[name][2]


@pytest.mark.parametrize("name", NUMBERS)
def test_learning_rate_falls_along_a_cosine_to_a_tenth(name):
    from transformers import get_scheduler

    trainer = recipe_named(name).trainer
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=trainer["learning_rate"])
    schedule = get_scheduler(
        trainer["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=math.ceil(trainer["warmup_steps"] * 100),
        num_training_steps=100,
        scheduler_specific_kwargs=trainer["lr_scheduler_kwargs"],
    )
    rates = [schedule.get_last_lr()[0]]
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates.index(max(rates)) == 3  # warm-up: 3 % of the steps
    assert max(rates) == pytest.approx(trainer["learning_rate"])
    assert rates[-1] == pytest.approx(trainer["learning_rate"] / 10)


@pytest.mark.parametrize("size", STUDENTS)
def test_student_is_the_paper_s(size):
    assert recipe_named(f"r1-distill/{size}").model.name == STUDENTS[size]


@pytest.mark.parametrize("name", NUMBERS)
def test_commits_are_those_of_the_hub_s_entries(name):
    recipe = recipe_named(name)
    assert recipe.model.revision == hub_model(recipe.model.name).revision
    assert [source.revision for source in recipe.data] == [hub_dataset(source.name).revision for source in recipe.data]


@pytest.mark.parametrize("folder", sorted({name.partition("/")[0] for name in NUMBERS}))
def test_published_scores_name_benchmarks_that_are_there_or_nobody_scores_here(folder):
    named = {published.benchmark for published in published_of(RECIPES / folder)}
    assert named <= {*BENCHMARKS, "livecodebench", "livecodebench_v5", "codeforces"}


# --- Chat templates

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\nTwo.\n</think>\n\n2"},
]
RENDERED = {  # template -> prompt, trained part, what ends it
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        "<think>\nTwo.\n</think>\n\n2<|im_end|>",
        "<|im_end|>",
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<think>\nTwo.\n</think>\n\n2<|eot_id|>",
        "<|eot_id|>",
    ),
    "deepseek_r1": (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1?<｜Assistant｜>",
        "<think>\nTwo.\n</think>\n\n2<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "tulu": (
        "<|system|>\nBe brief.\n<|user|>\n1+1?\n<|assistant|>\n",
        "<think>\nTwo.\n</think>\n\n2<|end_of_text|>",
        "<|end_of_text|>",
    ),
}
SECOND_TURN = {
    "chatml": "\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "deepseek_r1": "<｜User｜>2+2?<｜Assistant｜>",
    "tulu": "\n<|user|>\n2+2?\n<|assistant|>\n",
}


def rendered(template, messages, add_generation_prompt=False):
    """As TRL's trainers render it."""
    text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return modeling.character_tokenizer().apply_chat_template(
        messages, chat_template=text, tokenize=False, add_generation_prompt=add_generation_prompt
    )


def test_every_template_is_in_the_table():
    assert {file.stem for file in TEMPLATES.glob("*.jinja")} >= set(RENDERED)


@pytest.mark.parametrize("template", RENDERED)
def test_prompt_is_rendered_exactly(template):
    assert rendered(template, CONVERSATION[:-1], add_generation_prompt=True) == RENDERED[template][0]


@pytest.mark.parametrize("template", RENDERED)
def test_trained_part_follows_the_prompt_and_ends_with_the_eos(template):
    prompt, trained, eos = RENDERED[template]
    assert rendered(template, CONVERSATION) == prompt + trained
    assert trained.endswith(eos)


@pytest.mark.parametrize("template", RENDERED)
def test_earlier_answers_are_kept_whole(template):
    messages = [*CONVERSATION, {"role": "user", "content": "2+2?"}]
    prompt, answer, _ = RENDERED[template]
    assert rendered(template, messages, add_generation_prompt=True) == prompt + answer + SECOND_TURN[template]


@pytest.mark.parametrize("template", RENDERED)
def test_no_system_prompt_is_made_up(template):
    assert "system" not in rendered(template, CONVERSATION[1:2], add_generation_prompt=True)


@pytest.mark.parametrize("name", NUMBERS)
def test_recipe_s_eos_ends_an_answer_and_is_the_model_s(name):
    recipe = recipe_named(name)
    template = recipe.path(recipe.model.chat_template)
    assert RENDERED[template.stem][2] == recipe.trainer["eos_token"]
    assert recipe.trainer["eos_token"] in hub_model(recipe.model.name).tokens.special


# --- What is known of the Hub

QWEN = {
    "0.5B": 494_032_768,
    "1.5B": 1_543_714_304,
    "3B": 3_085_938_688,
    "7B": 7_615_616_512,
    "14B": 14_770_033_664,
    "32B": 32_763_876_352,
}
LLAMA = {"8B": 8_030_261_248, "70B": 70_553_706_496}
# As the Hub counts them in model.safetensors. DeepSeek-R1: 671B, without the routing biases (no parameters in
# transformers) and the layer that predicts further tokens.
PARAMETERS = {
    **{f"Qwen/Qwen2.5-{size}": count for size, count in QWEN.items()},
    **{f"Qwen/Qwen2.5-{size}-Instruct": count for size, count in QWEN.items()},
    **{f"Qwen/Qwen2.5-Math-{size}": QWEN[size] for size in ("1.5B", "7B")},
    "open-r1/Qwen2.5-Math-7B-RoPE-300k": QWEN["7B"],
    "Qwen/Qwen2.5-Coder-7B": QWEN["7B"],
    **{f"Qwen/Qwen2.5-Coder-{size}-Instruct": QWEN[size] for size in ("7B", "32B")},
    "meta-llama/Llama-3.1-8B": LLAMA["8B"],
    "meta-llama/Llama-3.3-70B-Instruct": LLAMA["70B"],
    "deepseek-ai/DeepSeek-R1": 671_026_404_352,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,  # its head is not tied to its embeddings
    **{f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}": QWEN[size] for size in ("7B", "14B", "32B")},
    **{f"deepseek-ai/DeepSeek-R1-Distill-Llama-{size}": count for size, count in LLAMA.items()},
    "open-r1/OpenR1-Distill-7B": QWEN["7B"],
    **{f"open-r1/OlympicCoder-{size}": QWEN[size] for size in ("7B", "32B")},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_config_gives_the_published_number_of_parameters(name):
    config = dict(hub_model(name).config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    assert modeling.num_parameters(model) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_special_tokens_name_all_that_end_something(name):
    tokens = hub_model(name).tokens
    assert {token for token in (tokens.bos, tokens.eos, tokens.pad, tokens.end_of_turn) if token} <= {*tokens.special}


@pytest.mark.parametrize("name", sorted({source.name for name in NUMBERS for source in recipe_named(name).data}))
def test_fixture_s_answers_begin_by_thinking(name):
    lines = fixture_of(hub_dataset(name)).read_text(encoding="utf-8").splitlines()
    assert 4 <= len(lines) <= 8
    for row in map(json.loads, lines):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][-1]["content"].startswith("<think>")
