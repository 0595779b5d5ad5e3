"""The recipes of R1-Zero and of R1's whole pipeline: the paper's numbers, the conversation of R1-Zero, the chain."""

import pytest
from conftest import REPOSITORY, recipe_named

from open_r1 import modeling
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.contributing.evidence import published_of
from open_r1.data import mixture_counts
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


@pytest.mark.parametrize(
    ("name", "tasks"), [("r1-qwen2.5-7b/reasoning_rl", (None, None)), ("r1-qwen2.5-7b/final_rl", ("math", None))]
)
def test_r1_adds_language_consistency_as_it_is(name, tasks):
    rewards = recipe_named(name).rewards
    assert [(reward.name, reward.weight) for reward in rewards] == [("accuracy", 1.0), ("language_consistency", 1.0)]
    assert tuple(reward.task for reward in rewards) == tasks


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
CHAIN = {  # stage -> step, the stages whose models or traces it is given, the model that is trained (None: the stage's)
    "zero": ("grpo", [], "Qwen/Qwen2.5-7B"),
    "cold_start": ("sft", [], "Qwen/Qwen2.5-7B"),
    "reasoning_rl": ("grpo", ["cold_start"], None),
    "rejection_sampling": ("generate", ["reasoning_rl"], None),
    "second_sft": ("sft", ["rejection_sampling"], "Qwen/Qwen2.5-7B"),
    "final_rl": ("grpo", ["second_sft"], None),
    "distill": ("sft", ["rejection_sampling"], "Qwen/Qwen2.5-1.5B"),
}
MODELS = [name for name, (step, _, _) in CHAIN.items() if step != "generate"]


def stages():
    """Stage -> its recipe, in order."""
    pipeline = recipe_named(PIPELINE)
    return {stage.name: stage_recipe(pipeline, stage) for stage in pipeline.stages}


def test_stages_are_the_paper_s_in_its_order():
    assert [name for name, recipe in stages().items() if recipe.step != "evaluate"] == list(CHAIN)


@pytest.mark.parametrize("name", CHAIN)
def test_stage_begins_with_what_it_should(name):
    pipeline = recipe_named(PIPELINE)
    (stage,) = [stage for stage in pipeline.stages if stage.name == name]
    step, references, trained = CHAIN[name]
    recipe = stage_recipe(pipeline, stage)
    assert recipe.step == step
    assert references_of(stage.set) == references
    if trained:
        assert recipe.model.name == trained


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_scored_behind_its_stage(name):
    names = list(stages())
    assert names[names.index(name) + 1] == f"{name}_evaluation"
    assert stages()[f"{name}_evaluation"].model.name == f"stage:{name}"


def test_first_round_of_the_loop_is_the_paper_s_and_a_second_one_begins_with_the_last_policy():
    overrides = ["loop.rounds=2"]
    pipeline = load_recipe(RECIPES / f"{PIPELINE}.yaml", overrides)
    again = [stage for stage in pipeline.stages if stage.name.endswith("_2")]
    assert [stage.name for stage in pipeline.stages if stage not in again] == list(stages())
    first = next(stage for stage in again if stage.name == "rejection_sampling_2")
    assert references_of(first.set) == ["final_rl"]


@pytest.mark.parametrize("name", ["second_sft", "distill"])
def test_all_models_speak_in_one_format(name):
    """What is learned from was asked for in the cold start's chat template."""
    model = recipe_named(f"r1-qwen2.5-7b/{name}").model
    assert model.chat_template == recipe_named("r1-qwen2.5-7b/cold_start").model.chat_template


# --- Its data

TABLE_5 = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, "general": 177_812}  # arXiv 2501.12948v2
SECOND_SFT, REJECTION = "r1-qwen2.5-7b/second_sft", "r1-qwen2.5-7b/rejection_sampling"


def test_reasoning_and_general_samples_are_in_the_paper_s_proportion():
    reasoning, general = (source.weight for source in recipe_named(SECOND_SFT).data)
    assert (reasoning + general, general) == (sum(TABLE_5.values()), TABLE_5["general"])


def test_student_learns_from_the_rows_of_the_second_sft():
    second_sft, student = recipe_named(SECOND_SFT), recipe_named("r1-qwen2.5-7b/distill")
    assert (student.data, student.mixture) == (second_sft.data, second_sft.mixture)


def test_gate_of_rejection_sampling_demands_what_the_second_sft_takes():
    recipe = recipe_named(SECOND_SFT)
    counts = mixture_counts([source.weight for source in recipe.data], recipe.mixture.num_rows)
    assert gates("rejection_sampling") == {"kept": (counts[0], None)}


def test_traces_are_dropped_for_what_the_paper_drops_them_for():
    """Mixed languages, long paragraphs, code blocks (section 2.3.3); how long is long it does not say."""
    keep = recipe_named(REJECTION).keep
    assert (keep.language, keep.code_in_thinking) == ("en", False)
    assert keep.max_paragraph_words is not None
    assert [reward.name for reward in recipe_named(REJECTION).rewards] == ["accuracy"]


def test_final_rl_asks_no_general_prompt_that_was_trained_on():
    (_, trained), (_, asked) = (recipe_named(name).data for name in (SECOND_SFT, "r1-qwen2.5-7b/final_rl"))
    assert trained.name == asked.name
    assert trained.split != asked.split


def test_prompts_of_final_rl_come_once():
    recipe = recipe_named("r1-qwen2.5-7b/final_rl")
    assert recipe.mixture.num_rows == recipe.trainer["max_steps"] * QUESTIONS_A_STEP


# --- Its gates


def gates(name):
    """Metric -> at least, at most."""
    (stage,) = [stage for stage in recipe_named(PIPELINE).stages if stage.name == name]
    return {gate.metric: (gate.at_least, gate.at_most) for gate in stage.gate}


def test_answers_end_before_they_are_rewarded():
    assert gates("cold_start_evaluation") == {"model/math_500/truncated_share": (None, 0.3)}


def test_policy_whose_traces_are_sampled_is_better_than_its_base():
    """SimpleRL-Zoo's README gives the base 64.6 on MATH-500; the recipe of R1-Zero tells the same."""
    (at_least, _) = gates("reasoning_rl_evaluation")["model/math_500/pass@1"]
    readme = (RECIPES / "r1-zero-qwen2.5-7b" / "README.md").read_text(encoding="utf-8")
    assert f"{100 * at_least:g}" in readme


# --- Sources


@pytest.mark.parametrize("name", [*ZERO, *SFT, REJECTION, "r1-qwen2.5-7b/reasoning_rl", "r1-qwen2.5-7b/final_rl"])
def test_commits_are_those_of_the_hub_s_entries(name):
    recipe = recipe_named(name)
    if not recipe.model.name.startswith("."):
        assert recipe.model.revision == hub_model(recipe.model.name).revision
    sources = [source for source in recipe.data if source.name]
    assert [source.revision for source in sources] == [hub_dataset(source.name).revision for source in sources]


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_says_which_commits_are_missing(folder):
    readme = (RECIPES / folder / "README.md").read_text(encoding="utf-8")
    recipes = [load_recipe(file) for file in sorted((RECIPES / folder).glob("*.yaml"))]
    for source in (source for recipe in recipes for source in recipe.data if source.name):
        assert source.revision or f"No commit could be looked up for {source.name}" in readme


@pytest.mark.parametrize("folder", FOLDERS)
def test_published_scores_name_benchmarks_that_are_there_or_nobody_scores_here(folder):
    assert {published.benchmark for published in published_of(RECIPES / folder)} <= {*BENCHMARKS, "livecodebench"}
