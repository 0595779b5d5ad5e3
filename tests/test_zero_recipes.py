"""The recipes of R1-Zero and of R1's whole pipeline: the paper's numbers, the conversation of R1-Zero, the chain."""

import pytest
from conftest import REPOSITORY, recipe_named

from open_r1 import modeling
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.contributing.evidence import published_of
from open_r1.hub import hub_dataset, hub_model
from open_r1.recipe import load_recipe
from open_r1.recipe.trainer_fields import trainer_value
from open_r1.rewards import build_rewards
from open_r1.rewards.completion import resolved_thinking
from open_r1.stages import references_of, stage_recipe

RECIPES = REPOSITORY / "recipes"
FOLDERS = ("r1-zero-qwen2.5-7b", "r1-zero-qwen2.5-32b", "r1-qwen2.5-7b")
ZERO = {"r1-zero-qwen2.5-7b/grpo": "Qwen/Qwen2.5-7B", "r1-zero-qwen2.5-32b/grpo": "Qwen/Qwen2.5-32B"}
QUESTIONS_A_STEP, ANSWERS_A_QUESTION, STEPS_A_ROLLOUT = 32, 16, 16  # R1, Methods, for all of its RL

# recipe -> learning rate, temperature, epsilon. Nature s41586-025-09422-z, Methods; the 32B's learning rate: arXiv
# 2501.12948v2, appendix B.4.1. The paper gives epsilon for the first RL stage of R1 alone; elsewhere it is TRL's.
RL = {
    "r1-zero-qwen2.5-7b/grpo": (3e-6, 1.0, 0.2),
    "r1-zero-qwen2.5-32b/grpo": (2e-6, 1.0, 0.2),
    "r1-qwen2.5-7b/reasoning_rl": (3e-6, 1.0, 10.0),
    "r1-qwen2.5-7b/final_rl": (3e-6, 0.7, 0.2),
}
# recipe -> first and last learning rate, samples a step. The same, appendices B.4.2 and B.4.3, table 6.
SFT = {
    "r1-qwen2.5-7b/cold_start": (5e-5, 5e-6, 128),
    "r1-qwen2.5-7b/second_sft": (5e-5, 5e-6, 128),
    "r1-qwen2.5-7b/distill": (1e-4, 1e-5, 64),
}


def value(name, key):
    return trainer_value("grpo", recipe_named(name).trainer, key)


def micro_batch(name):
    """Completions that all processes compute at once."""
    return value(name, "per_device_train_batch_size") * recipe_named(name).hardware.num_processes


# --- The paper's numbers


@pytest.mark.parametrize("name", RL)
def test_a_step_has_the_paper_s_completions(name):
    assert micro_batch(name) * value(name, "gradient_accumulation_steps") == QUESTIONS_A_STEP * ANSWERS_A_QUESTION


@pytest.mark.parametrize("name", RL)
def test_a_rollout_is_the_paper_s_and_is_used_once(name):
    """steps_per_generation counts micro-batches, not optimizer steps."""
    assert micro_batch(name) * value(name, "steps_per_generation") == 8192
    assert value(name, "steps_per_generation") == STEPS_A_ROLLOUT * value(name, "gradient_accumulation_steps")
    assert value(name, "num_iterations") == 1


@pytest.mark.parametrize("name", RL)
def test_groups_are_the_paper_s(name):
    assert value(name, "num_generations") == ANSWERS_A_QUESTION
    assert value(name, "scale_rewards") == "group"


@pytest.mark.parametrize("name", RL)
def test_learning_rate_temperature_and_clip_are_the_paper_s(name):
    keys = ("learning_rate", "temperature", "epsilon")
    assert tuple(value(name, key) for key in keys) == RL[name]


@pytest.mark.parametrize("name", RL)
def test_objective_is_the_paper_s(name):
    """Equation 1 with its KL estimate, which has no correction; TRL's defaults are others."""
    assert value(name, "loss_type") == "grpo"
    assert value(name, "beta") == 0.001
    assert value(name, "use_bias_correction_kl") is False


@pytest.mark.parametrize("name", RL)
def test_reference_is_replaced_as_a_whole_every_400_steps(name):
    assert value(name, "sync_ref_model") is True
    assert value(name, "ref_model_sync_steps") == 400
    assert value(name, "ref_model_mixup_alpha") == 1.0


@pytest.mark.parametrize("name", RL)
def test_run_and_checkpoints_end_with_a_rollout(name):
    """What is left of a rollout is neither trained on nor saved."""
    assert value(name, "max_steps") % STEPS_A_ROLLOUT == 0
    assert value(name, "save_steps") % STEPS_A_ROLLOUT == 0


@pytest.mark.parametrize("name", ZERO)
def test_zero_goes_once_through_its_questions(name):
    recipe = recipe_named(name)
    rows = hub_dataset(recipe.data[0].name).rows["train"]
    assert 0 <= rows - recipe.trainer["max_steps"] * QUESTIONS_A_STEP < STEPS_A_ROLLOUT * QUESTIONS_A_STEP


@pytest.mark.parametrize("name", ZERO)
def test_zero_is_rewarded_for_accuracy_and_format_alike(name):
    assert {reward.name: reward.weight for reward in recipe_named(name).rewards} == {"accuracy": 1.0, "format": 1.0}


@pytest.mark.parametrize("name", ["r1-qwen2.5-7b/reasoning_rl", "r1-qwen2.5-7b/final_rl"])
def test_r1_adds_language_consistency_as_it_is(name):
    rewards = {reward.name: reward.weight for reward in recipe_named(name).rewards}
    assert rewards == {"accuracy": 1.0, "language_consistency": 1.0}


@pytest.mark.parametrize("name", SFT)
def test_supervised_stages_have_the_paper_s_batch_epochs_and_length(name):
    recipe = recipe_named(name)
    rows = recipe.trainer["per_device_train_batch_size"] * recipe.trainer["gradient_accumulation_steps"]
    assert not recipe.trainer.get("packing")  # or a row is not a sample
    assert rows * recipe.hardware.num_processes == SFT[name][2]
    assert recipe.trainer["num_train_epochs"] in (2, 3)
    assert recipe.trainer["max_length"] == 32768


@pytest.mark.parametrize("name", SFT)
def test_supervised_stages_have_the_paper_s_learning_rates(name):
    trainer = recipe_named(name).trainer
    assert trainer["lr_scheduler_type"] == "cosine_with_min_lr"
    first, last = trainer["learning_rate"], trainer["learning_rate"] * trainer["lr_scheduler_kwargs"]["min_lr_rate"]
    assert (first, last) == pytest.approx(SFT[name][:2])


# --- The conversation of R1-Zero

# arXiv 2501.12948, table 1, where `prompt` stands for the question
TABLE_1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: prompt. Assistant:"
)
PROMPT = [{"role": "user", "content": "prompt"}]
ANSWER = {"role": "assistant", "content": "<think> Two. </think> <answer> 2 </answer>"}


def rendered(messages, add_generation_prompt=False):
    """As TRL renders it; the tokenizer's EOS is modeling.EOS."""
    template = (RECIPES / "chat_templates" / "r1_zero.jinja").read_text(encoding="utf-8")
    return modeling.character_tokenizer().apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
    )


def test_prompt_is_the_paper_s_table():
    assert rendered(PROMPT, add_generation_prompt=True) == TABLE_1


def test_answer_follows_the_prompt_and_ends_with_the_base_s_eos():
    assert rendered([*PROMPT, ANSWER]) == f"{TABLE_1} {ANSWER['content']}{modeling.EOS}"


def test_other_roles_are_refused():
    with pytest.raises(Exception, match="knows the roles user and assistant"):
        rendered([{"role": "system", "content": "Be brief."}, *PROMPT])


@pytest.mark.parametrize("name", ZERO)
def test_the_model_opens_its_thinking_itself(name):
    """The prompt names the tag, and does not end with it."""
    assert recipe_named(name).thinking.prefilled is None
    prompt = rendered(PROMPT, add_generation_prompt=True)
    assert resolved_thinking(prompt, recipe_named(name).thinking).prefilled is False


@pytest.mark.parametrize(
    ("completion", "accuracy_and_format"),
    [
        (" <think> Two. </think> <answer> 2 </answer>", [1.0, 1.0]),
        (" <think> Two. </think> <answer> \\boxed{2} </answer>", [1.0, 1.0]),
        (" <think> Three. </think> <answer> 3 </answer>", [0.0, 1.0]),
        (" <think> Two. </think> \\boxed{2}", [1.0, 0.0]),
        (" Two. </think> <answer> 2 </answer>", [1.0, 0.0]),  # nobody opened the thinking
    ],
)
def test_completion_of_the_template_is_rewarded(completion, accuracy_and_format):
    recipe = recipe_named("r1-zero-qwen2.5-7b/grpo")
    thinking = resolved_thinking(rendered(PROMPT, add_generation_prompt=True), recipe.thinking)
    rewards = build_rewards(recipe.rewards, thinking, recipe.seed, max_completion_tokens=64)
    given = [[{"role": "assistant", "content": completion}]]
    assert [reward(given, prompts=[PROMPT], completion_ids=[[0]], solution=["2"])[0] for reward in rewards] == (
        accuracy_and_format
    )


@pytest.mark.parametrize("name", ZERO)
def test_zero_begins_with_the_base(name):
    recipe = recipe_named(name)
    assert recipe.model.name == ZERO[name]
    assert recipe.path(recipe.model.chat_template) == RECIPES / "chat_templates" / "r1_zero.jinja"
    assert hub_model(recipe.model.name).tokens.end_of_turn is None  # its EOS is what ends a text


# --- The 32B's server


def test_server_s_gpus_are_those_of_its_nodes():
    hardware = recipe_named("r1-zero-qwen2.5-32b/grpo").hardware
    assert hardware.vllm.num_gpus == hardware.vllm.nodes * hardware.gpus_per_node


@pytest.mark.parametrize("name", RL)
def test_a_row_of_vllm_holds_a_prompt_and_its_completion(name):
    server = recipe_named(name).hardware.vllm
    longest = server.max_model_length if server else value(name, "vllm_max_model_length")
    assert longest == value(name, "max_completion_length") + 1024


# --- The pipeline

PIPELINE = "r1-qwen2.5-7b/pipeline"
CHAIN = {  # stage -> step, the stages whose models it is given, the model that is trained (None: the stage's)
    "cold_start": ("sft", [], "Qwen/Qwen2.5-7B"),
    "reasoning_rl": ("grpo", ["cold_start"], None),
    "second_sft": ("distill", ["reasoning_rl"], "Qwen/Qwen2.5-7B"),
    "final_rl": ("grpo", ["second_sft"], None),
    "student": ("distill", ["final_rl"], "Qwen/Qwen2.5-1.5B"),
    "evaluation": ("evaluate", ["cold_start", "reasoning_rl", "second_sft", "final_rl", "student"], None),
}


def test_stages_are_the_paper_s_in_its_order():
    assert [stage.name for stage in recipe_named(PIPELINE).stages] == list(CHAIN)


@pytest.mark.parametrize("number", range(len(CHAIN)), ids=list(CHAIN))
def test_stage_begins_with_the_model_that_it_should(number):
    pipeline = recipe_named(PIPELINE)
    stage = pipeline.stages[number]
    step, references, trained = CHAIN[stage.name]
    recipe = stage_recipe(pipeline, stage)
    assert recipe.step == step
    assert references_of(stage.set) == references
    if trained:
        assert recipe.model.name == trained


@pytest.mark.parametrize("name", ["second_sft", "distill"])
def test_student_and_teacher_speak_in_one_format(name):
    """The teacher is asked in the student's chat template, and has learned the cold start's."""
    model = recipe_named(f"r1-qwen2.5-7b/{name}").model
    assert model.chat_template == recipe_named("r1-qwen2.5-7b/cold_start").model.chat_template


# --- Sources


@pytest.mark.parametrize("name", [*ZERO, *SFT, "r1-qwen2.5-7b/reasoning_rl", "r1-qwen2.5-7b/final_rl"])
def test_commits_are_those_of_the_hub_s_entries(name):
    recipe = recipe_named(name)
    if not recipe.model.name.startswith("."):
        assert recipe.model.revision == hub_model(recipe.model.name).revision
    assert [source.revision for source in recipe.data] == [hub_dataset(source.name).revision for source in recipe.data]


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_says_which_commits_are_missing(folder):
    readme = (RECIPES / folder / "README.md").read_text(encoding="utf-8")
    recipes = [load_recipe(file) for file in sorted((RECIPES / folder).glob("*.yaml"))]
    for source in (source for recipe in recipes for source in recipe.data):
        assert source.revision or f"No commit could be looked up for {source.name}" in readme


@pytest.mark.parametrize("folder", FOLDERS)
def test_published_scores_name_benchmarks_that_are_there_or_nobody_scores_here(folder):
    assert {published.benchmark for published in published_of(RECIPES / folder)} <= {*BENCHMARKS, "livecodebench"}
