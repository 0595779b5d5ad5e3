"""The GRPO recipes after open-r1's: their sources' numbers, what their templates render, what their fixtures hold."""

import json

import pytest
from conftest import REPOSITORY, recipe_named

from open_r1 import modeling
from open_r1.contributing.evidence import published_of
from open_r1.hub import fixture_of, hub_dataset, hub_model
from open_r1.judging.programs import read_row
from open_r1.rewards import build_rewards, cf_code_reward, code_reward
from open_r1.rewards.completion import resolved_thinking, with_program

RECIPES = REPOSITORY / "recipes"
TEMPLATES = RECIPES / "chat_templates"

# recipe -> learning rate, completions of a prompt, completions a step, tokens of one, temperature, (name, weight) of
# each reward: those of huggingface/open-r1's recipes (each README names its own), as copied in public forks.
MATHEMATICS = [("accuracy", 1.0), ("format", 1.0), ("tag_count", 1.0)]
NUMBERS = {
    "deepseek-r1-distill-qwen-1.5b-grpo/grpo": (1e-6, 16, 16 * 4 * 8, 2048, 0.7, MATHEMATICS),
    "qwen2.5-1.5b-instruct-grpo/math": (2e-5, 16, 16 * 4 * 8, 1024, 1.0, MATHEMATICS),
    "qwen2.5-1.5b-instruct-grpo/code": (5e-6, 14, 16 * 4 * 7, 2048, 1.0, [("code", 1.0), ("format", 0.1)]),
    # Its code_format is `format` here: see the README.
    "qwen2.5-coder-7b-codeforces/grpo": (1e-6, 16, 4 * 32 * 8, 8192, 0.7, [("cf_code", 1.0), ("format", 0.1)]),
}
# recipe -> (schedule, share of the steps to warm up, lowest share of the rate), KL term, loss (None: not the source's)
OBJECTIVES = {
    "deepseek-r1-distill-qwen-1.5b-grpo/grpo": (("cosine_with_min_lr", 0.1, 0.1), None, None),
    "qwen2.5-1.5b-instruct-grpo/math": (("cosine", 0.1, None), None, None),
    "qwen2.5-1.5b-instruct-grpo/code": (("cosine_with_min_lr", 0.03, 0.1), 0.01, None),
    "qwen2.5-coder-7b-codeforces/grpo": (("constant_with_warmup", 0.1, None), 0.0, "dr_grpo"),
}
LENGTH_OF_THE_RUN = {
    "deepseek-r1-distill-qwen-1.5b-grpo/grpo": {"num_train_epochs": 1},
    "qwen2.5-1.5b-instruct-grpo/math": {"num_train_epochs": 1},
    "qwen2.5-1.5b-instruct-grpo/code": {"max_steps": 500},
    "qwen2.5-coder-7b-codeforces/grpo": {"num_train_epochs": 4},
}
FOLDERS = sorted({name.partition("/")[0] for name in NUMBERS})
TEMPLATE_OF = {
    "deepseek-r1-distill-qwen-1.5b-grpo/grpo": "deepseek_r1_think_answer",
    "qwen2.5-1.5b-instruct-grpo/math": "chatml_think_answer",
    "qwen2.5-1.5b-instruct-grpo/code": "chatml_think_answer",
    "qwen2.5-coder-7b-codeforces/grpo": "chatml_think_answer",
}


# --- The sources' numbers


@pytest.mark.parametrize("name", NUMBERS)
def test_learning_rate_group_lengths_and_temperature_are_the_source_s(name):
    trainer = recipe_named(name).trainer
    keys = ("learning_rate", "num_generations", "max_completion_length", "temperature")
    learning_rate, group, _, length, temperature, _ = NUMBERS[name]
    assert [trainer[key] for key in keys] == [learning_rate, group, length, temperature]


@pytest.mark.parametrize("name", NUMBERS)
def test_batch_is_the_source_s_and_whole_groups(name):
    recipe = recipe_named(name)
    rows = recipe.trainer["per_device_train_batch_size"] * recipe.trainer["gradient_accumulation_steps"]
    assert rows * recipe.hardware.num_processes == NUMBERS[name][2]
    assert NUMBERS[name][2] % recipe.trainer["num_generations"] == 0


@pytest.mark.parametrize("name", NUMBERS)
def test_rewards_are_the_source_s(name):
    assert [(reward.name, reward.weight) for reward in recipe_named(name).rewards] == NUMBERS[name][-1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_schedule_and_objective_are_the_source_s(name):
    trainer = recipe_named(name).trainer
    (schedule, warm_up, lowest), beta, loss = OBJECTIVES[name]
    assert (trainer["lr_scheduler_type"], trainer["warmup_steps"]) == (schedule, warm_up)
    assert trainer.get("lr_scheduler_kwargs", {}).get("min_lr_rate") == lowest
    assert beta in (None, trainer["beta"])
    assert loss in (None, trainer["loss_type"])


@pytest.mark.parametrize("name", LENGTH_OF_THE_RUN)
def test_run_is_as_long_as_the_source_s(name):
    trainer = recipe_named(name).trainer
    assert {key: trainer[key] for key in ("num_train_epochs", "max_steps") if key in trainer} == LENGTH_OF_THE_RUN[name]


@pytest.mark.parametrize("name", NUMBERS)
def test_trl_takes_every_key(name, monkeypatch, tmp_path):
    from trl import GRPOConfig

    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # no GPU here
    recipe = recipe_named(name)
    monkeypatch.setattr(GRPOConfig, "world_size", recipe.hardware.num_processes)
    config = GRPOConfig(output_dir=str(tmp_path), **recipe.trainer)
    assert {key: getattr(config, key) for key in recipe.trainer} == recipe.trainer


@pytest.mark.parametrize("name", NUMBERS)
def test_engine_has_room_for_the_prompts_that_the_source_cuts_and_more(name):
    recipe = recipe_named(name)
    server = recipe.hardware.vllm
    longest = server.max_model_length if server else recipe.trainer["vllm_max_model_length"]
    assert longest - recipe.trainer["max_completion_length"] >= 4096  # the longest that a source keeps: 2,000


@pytest.mark.parametrize("name", NUMBERS)
def test_commits_are_those_of_the_hub_s_entries(name):
    recipe = recipe_named(name)
    assert recipe.model.revision == hub_model(recipe.model.name).revision
    assert [source.revision for source in recipe.data] == [hub_dataset(source.name).revision for source in recipe.data]


@pytest.mark.parametrize("name", NUMBERS)
def test_readme_names_what_has_no_commit(name):
    recipe = recipe_named(name)
    text = " ".join((recipe.source.parent / "README.md").read_text(encoding="utf-8").split())
    for source in recipe.data:
        said = f"No commit could be looked up for {source.name}: `make pin RECIPE=recipes/{name}.yaml` fills it in."
        assert (said in text) == (source.revision is None)


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_published_that_could_be_named(folder):
    assert published_of(RECIPES / folder) == []


# --- Chat templates

SYSTEM = (
    "First think the problem through, then answer. Write the thinking between <think> and </think>, and after it the "
    "answer between <answer> and </answer>:\n<think>\n...\n</think>\n<answer>\n...\n</answer>"
)
ANSWER = "<think>\nTwo.\n</think>\n<answer>\n2\n</answer>"
RENDERED = {  # template -> prompt, the same with a system prompt of the conversation's own, what ends an answer
    "chatml_think_answer": (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "deepseek_r1_think_answer": (
        f"<｜begin▁of▁sentence｜>{SYSTEM}<｜User｜>1+1?<｜Assistant｜>",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1?<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
    ),
}
QUESTION = {"role": "user", "content": "1+1?"}


def rendered(template, messages, add_generation_prompt=True):
    """As TRL's trainers render it."""
    text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return modeling.character_tokenizer().apply_chat_template(
        messages, chat_template=text, tokenize=False, add_generation_prompt=add_generation_prompt
    )


@pytest.mark.parametrize("template", RENDERED)
def test_prompt_is_rendered_exactly(template):
    assert rendered(template, [QUESTION]) == RENDERED[template][0]


@pytest.mark.parametrize("template", RENDERED)
def test_system_prompt_of_a_conversation_takes_the_place_of_the_template_s(template):
    assert rendered(template, [{"role": "system", "content": "Be brief."}, QUESTION]) == RENDERED[template][1]


@pytest.mark.parametrize("template", RENDERED)
def test_answer_follows_the_prompt_and_ends_with_what_the_model_stops_at(template):
    messages = [QUESTION, {"role": "assistant", "content": ANSWER}]
    prompt, _, end = RENDERED[template]
    assert rendered(template, messages, add_generation_prompt=False) == prompt + ANSWER + end


@pytest.mark.parametrize("name", TEMPLATE_OF)
def test_recipe_has_its_family_s_template_and_model_that_stops_where_it_ends(name):
    recipe = recipe_named(name)
    template = recipe.path(recipe.model.chat_template).stem
    tokens = hub_model(recipe.model.name).tokens
    assert template == TEMPLATE_OF[name]
    assert (tokens.end_of_turn or tokens.eos) == RENDERED[template][2]


@pytest.mark.parametrize("name", TEMPLATE_OF)
def test_layout_that_the_prompt_asks_for_is_the_one_that_format_rewards(name):
    """With the thinking that the rendered prompt leaves to the model."""
    recipe = recipe_named(name)
    thinking = resolved_thinking(rendered(TEMPLATE_OF[name], [QUESTION]), recipe.thinking)
    assert thinking.prefilled is False
    rewards = build_rewards([reward for reward in recipe.rewards if reward.name == "format"], thinking, 0, 100)
    assert [reward([ANSWER, ANSWER.removeprefix("<think>\n")]) for reward in rewards] == [[1.0, 0.0]]


# --- Fixtures


def rows_of(dataset):
    return [json.loads(line) for line in fixture_of(hub_dataset(dataset)).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", sorted({source.name for recipe in NUMBERS for source in recipe_named(recipe).data}))
def test_fixture_has_a_few_rows_of_one_schema_with_the_columns_that_the_recipe_maps(name):
    rows = rows_of(name)
    assert 4 <= len(rows) <= 8
    assert all(row.keys() == rows[0].keys() for row in rows)
    sources = [source for recipe in NUMBERS for source in recipe_named(recipe).data if source.name == name]
    assert {theirs for source in sources for theirs in source.columns.values()} <= rows[0].keys()


PROGRAMMING = "open-r1/verifiable-coding-problems-python"


def test_fixture_s_gold_programs_pass_their_tests_and_its_first_none_of_the_others():
    rows = rows_of(PROGRAMMING)
    infos = [row["verification_info"] for row in rows]
    golds = [with_program(row["gold_standard_solution"], "python") for row in rows]
    assert code_reward(golds, infos) == [1.0] * len(rows)
    assert all(share < 1.0 for share in code_reward([golds[0]] * len(rows), infos)[1:])
    assert {read_row(info).language for info in infos} == {"python"}


PROGRAMS = {  # problem, language -> a right program
    ("A", "python"): "a, b = map(int, input().split())\nprint(a + b)",
    ("B", "python"): "print(input())",
    ("C", "python"): "open('output.txt', 'w').write(open('input.txt').read().strip()[::-1])",
    ("A", "cpp"): "#include <iostream>\nint main() { long long a, b; std::cin >> a >> b; std::cout << a + b; }",
    ("B", "cpp"): "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n; }",
    ("C", "cpp"): '#include <fstream>\n#include <string>\nint main() { std::ifstream in("input.txt"); std::string s;'
    ' in >> s; std::ofstream("output.txt") << std::string(s.rbegin(), s.rend()); }',
}


def test_fixture_of_codeforces_accepts_right_programs_and_refuses_one_that_prints_nothing():
    """B's programs print another divisor than the tests have: its checker is what accepts them."""
    rows = rows_of("open-r1/codeforces")
    columns = {
        name: [row[name] for row in rows]
        for name in ("official_tests", "time_limit", "memory_limit", "input_mode", "generated_checker", "language")
    }
    right = [with_program(PROGRAMS[row["index"], row["language"]], row["language"]) for row in rows]
    silent = {"python": "pass", "cpp": "int main() {}"}
    wrong = [with_program(silent[row["language"]], row["language"]) for row in rows]
    assert cf_code_reward(right, **columns, scoring_mode="pass_fail") == [1.0] * len(rows)
    assert cf_code_reward(wrong, **columns, scoring_mode="pass_fail") == [0.0] * len(rows)
    assert {(row["index"], row["language"]) for row in rows} == set(PROGRAMS)
