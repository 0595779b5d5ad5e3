"""The character tokenizer, models from scratch, and what is read back from disk."""

import pytest
import torch
from conftest import SMALLEST_MODEL
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_r1 import modeling
from open_r1.generation import Sampling
from open_r1.generation.transformers_backend import TransformersBackend
from open_r1.recipe import Model, Recipe, RecipeError, load_recipe

TRACE = "<think>7+5=12\n12+8=20</think><answer>\\boxed{20}</answer>"
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=8, num_samples=1, batch_size=4, seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    return modeling.character_tokenizer()


def test_tags_are_one_token_each_and_numbers_are_digits(tokenizer):
    assert len(tokenizer) == 105
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("<think>12</think><answer>\\boxed{7}</answer>"))
    assert tokens == ["<think>", "1", "2", "</think>", "<answer>", "\\boxed{", "7", "}", "</answer>"]


def test_text_survives_encoding_and_reading_the_tokenizer_back(tokenizer, smallest_model):
    for one in (tokenizer, AutoTokenizer.from_pretrained(smallest_model)):
        ids = one.encode(TRACE)
        assert one.decode(ids, skip_special_tokens=True) == TRACE
        assert ids == tokenizer.encode(TRACE)


def test_chat_ends_the_assistants_turn_and_opens_the_next(tokenizer):
    question = {"role": "user", "content": "7+5+8=?"}
    assert tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True) == (
        "<|user|>7+5+8=?<|assistant|>"
    )
    whole = tokenizer.apply_chat_template([question, {"role": "assistant", "content": TRACE}], tokenize=False)
    assert whole == f"<|user|>7+5+8=?<|assistant|>{TRACE}<|end|>"


def test_architecture_whose_tokenizer_would_be_read_back_as_another_is_refused(tokenizer, tmp_path):
    model = modeling.build_model(Model(architecture={**SMALLEST_MODEL, "model_type": "qwen2"}), tokenizer)
    with pytest.raises(RecipeError, match="reads the tokenizer of a qwen2 model back as Qwen2Tokenizer"):
        modeling.save_model(model, tokenizer, tmp_path)


def test_unknown_architecture_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="model.architecture.model_type: 'lama' is not known to transformers"):
        modeling.build_model(Model(architecture={"model_type": "lama"}), tokenizer)


def with_lora(lora: dict | None) -> Recipe:
    return Recipe(step="sft", model=Model(name="x", lora=lora))


def test_lora_is_merged_into_what_is_saved(tokenizer, smallest_model, tmp_path):
    from peft import get_peft_model

    model = AutoModelForCausalLM.from_pretrained(smallest_model)
    adapted = get_peft_model(model, modeling.lora_config(with_lora({"r": 2}), model))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    ids = torch.tensor([tokenizer.encode("7+5=")])
    expected = adapted(ids).logits
    modeling.save_model(adapted, tokenizer, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-4)
    assert modeling.lora_config(with_lora(None), model) is None


@pytest.mark.parametrize(
    ("target_modules", "told"),
    [
        ("all-linear", None),
        (["q_proj", "mlp.up_proj"], None),
        (r".*\.(q|v)_proj", None),
        (["q_prj"], r"no module is called 'q_prj' \(linear ones are .*q_proj.*\); did you mean q_proj\?"),
        (["q_proj", "up_prj"], r"no module is called 'up_prj' .*did you mean up_proj\?"),
        (["proj"], "no module is called 'proj'"),
        ("*proj", r"'\*proj' is no regular expression \(nothing to repeat"),
        ("q_proj", r"; write a list, \[q_proj\], for a text is an expression for the whole name"),
    ],
    ids=str,
)
def test_modules_that_adapters_are_for_are_there(target_modules, told, smallest_model):
    model = AutoModelForCausalLM.from_pretrained(smallest_model)
    recipe = with_lora({"target_modules": target_modules})
    if told is None:
        assert modeling.lora_config(recipe, model).target_modules
        return
    with pytest.raises(RecipeError, match=rf"recipe.yaml: model.lora.target_modules: .*{told}"):
        modeling.lora_config(recipe, model)


def test_recipe_may_bring_its_own_chat_template(write_recipe, smallest_model, tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ messages[0]['content'] }}<think>")
    model = {"name": str(smallest_model), "chat_template": "chat.jinja"}
    recipe = load_recipe(write_recipe(step="sft", model=model, data=[{"name": "a/b"}], trainer={"max_steps": 1}))
    question = [{"role": "user", "content": "1+1=?"}]
    assert modeling.load_tokenizer(recipe).apply_chat_template(question, tokenize=False) == "1+1=?<think>"


def generate(model, tokenizer, conversations, sampling):
    """The completions of each conversation, in order."""
    rows = dict(TransformersBackend(model, tokenizer).sample(conversations, sampling))
    return [[rows[index, n] for n in range(sampling.num_samples)] for index in range(len(conversations))]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_completions_come_in_the_order_of_the_prompts_whatever_the_batch(batch_size, tokenizer, smallest_model):
    model = AutoModelForCausalLM.from_pretrained(smallest_model)
    left = modeling.character_tokenizer()
    left.padding_side = "left"
    conversations = [[{"role": "user", "content": "1+" * n + "1=?"}] for n in (5, 1, 9, 2)]
    alone = [generate(model, left, [conversation], GREEDY)[0] for conversation in conversations]
    sampling = Sampling(**{**vars(GREEDY), "batch_size": batch_size})
    assert generate(model, left, conversations, sampling) == alone


def test_sampling_is_repeatable_and_leaves_the_random_state_alone(tokenizer, smallest_model):
    model = AutoModelForCausalLM.from_pretrained(smallest_model)
    sampling = Sampling(**{**vars(GREEDY), "temperature": 1.0, "num_samples": 3})
    before = torch.random.get_rng_state()
    first = generate(model, tokenizer, [[{"role": "user", "content": "1+1=?"}]], sampling)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generate(model, tokenizer, [[{"role": "user", "content": "1+1=?"}]], sampling) == first
    assert len(first[0]) == 3
    assert len({completion.text for completion in first[0]}) > 1
    assert all(completion.num_tokens <= 8 for completion in first[0])
