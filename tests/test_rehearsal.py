"""Rehearsals: what they change and leave, the stand-ins, the fixture rows, and what counts as rehearsed."""

import fcntl
import functools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY

from open_r1 import modeling, rehearsal
from open_r1.check import all_recipes, check_recipe
from open_r1.data import load_data
from open_r1.feedback import ModelJudge, Principle, Rubric
from open_r1.feedback.cache import VerdictCache
from open_r1.feedback.reward_models import ServedRewardModel, reward_model_here
from open_r1.feedback.spending import Spending
from open_r1.generation.endpoint import EndpointBackend
from open_r1.gold_check import check_golds, check_programs, gold_program_column, judges_programs, judging_reward
from open_r1.hub import entries_of, hub_model
from open_r1.places import HUB, RUNS
from open_r1.recipe import Endpoint, Judge, dump_recipe, load_recipe
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS
from open_r1.rehearsal import __main__ as command
from open_r1.rehearsal import rehearsing, rows, shrinking
from open_r1.rehearsal.judge import MODEL, url_of_judge
from open_r1.rehearsal.rehearsing import MODELS as MODELS_FOLDER
from open_r1.rehearsal.rehearsing import needs_rehearsal, num_parameters, prepare, problems_of
from open_r1.rehearsal.stand_ins import AT_MOST, StandIn, shrunk_config
from open_r1.rewards import reward_columns
from open_r1.stages import stage_recipe

RECIPES = REPOSITORY / "recipes"
FILES = [file for file in map(Path.resolve, all_recipes()) if needs_rehearsal(load_recipe(file))]
MAX_PARAMETERS = 1_000_000
SFT, GRPO = (RECIPES / "qwen2.5-1.5b-24gb" / f"{step}.yaml" for step in ("sft", "grpo"))
TINY_SFT = RECIPES / "tiny-r1" / "sft.yaml"  # runs on a CPU as it is
PIPELINE = RECIPES / "r1-qwen2.5-7b" / "pipeline.yaml"


def name_of(file: Path) -> str:
    return str(file.relative_to(RECIPES).with_suffix(""))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where rehearsals are written; no recipe is started there."""
    return tmp_path_factory.mktemp("rehearsals")


@pytest.fixture(scope="session")
def prepared(folder):
    """The rehearsal of a recipe's file, with models and rows written once."""
    return functools.cache(lambda file: prepare(file, [], folder))


def with_stages(file: Path, prepared) -> list:
    """(recipe, its rehearsal) of a file, and of each stage if it is a pipeline."""
    recipe, rehearsed = load_recipe(file), prepared(file)
    stages = [stage_recipe(recipe, stage) for stage in recipe.stages]
    return [(recipe, rehearsed), *zip(stages, rehearsed.stages, strict=True)]


def resolved(recipe) -> dict:
    return yaml.safe_load(dump_recipe(recipe))


# --- What is changed, and what is not


def test_recipes_of_every_step_are_rehearsed():
    steps = {"sft", "preferences", "reward_model", "dpo", "grpo", "generate", "evaluate", "pipeline"}
    assert {load_recipe(file).step for file in FILES} == steps


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_rehearsal_loads_and_passes_every_check_before_a_run(file, prepared):
    written = load_recipe(prepared(file).recipe.source)
    assert written == prepared(file).recipe
    check_recipe(written, before_run=True)


# Written out, not told from CHANGES: what a rehearsal is worth hangs on these.
VERBATIM_SECTIONS = ("step", "seed", "thinking", "guards")
VERBATIM_IN_TRAINER = [
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_grad_norm",
    "eos_token",
    "packing",
    "gradient_checkpointing",
    "ddp_timeout",
    "save_strategy",
    "temperature",
    "loss_type",
    "scale_rewards",
    "beta",
    "epsilon",
    "epsilon_high",
    "num_iterations",
    "mask_truncated_completions",
    "use_bias_correction_kl",
    "sync_ref_model",
    "ref_model_mixup_alpha",
]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_objective_schedule_template_and_adapters_are_verbatim(file, prepared):
    for recipe, rehearsed in with_stages(file, prepared):
        before, after = resolved(recipe), resolved(rehearsed.recipe)
        assert [after[key] for key in VERBATIM_SECTIONS] == [before[key] for key in VERBATIM_SECTIONS]
        for section, keys in (("model", ("chat_template", "lora")), ("trainer", VERBATIM_IN_TRAINER)):
            told = {key: before[section][key] for key in keys if key in before[section]}
            assert {key: after[section].get(key) for key in told} == told


CHANGED_IN_REWARDS = ("sandbox", "cache_tokens", "model", "revision", "dtype", "first_step", "last_step")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_rewards_are_verbatim_but_for_one_that_is_added_to_rl(file, prepared):
    for recipe, rehearsed in with_stages(file, prepared):
        added = 1 if recipe.step == "grpo" else 0
        rewards = [
            reward | {key: before[key] for key in CHANGED_IN_REWARDS if key in before}
            for reward, before in zip(
                resolved(rehearsed.recipe)["rewards"], [*resolved(recipe)["rewards"], *[{}] * added], strict=True
            )
        ]
        assert rewards[: len(rewards) - added] == resolved(recipe)["rewards"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_columns_and_shares_of_the_data_are_verbatim(file, prepared):
    for recipe, rehearsed in with_stages(file, prepared):
        for section in ("data", "eval_data"):
            pairs = zip(getattr(recipe, section), getattr(rehearsed.recipe, section), strict=True)
            assert all((a.columns, a.fraction, a.part) == (b.columns, b.fraction, b.part) for a, b in pairs)


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("trainer", "learning_rate"), 1.0, "trainer.learning_rate"),
        (("trainer", "loss_type"), "dr_grpo", "trainer.loss_type"),
        (("rewards", 0, "weight"), 2.0, "rewards.0.weight"),
        (("rewards", 0, "name"), "format", "rewards.0.name"),
        (("rewards", 0), dict(shrinking.LIVELY_REWARD), "rewards.0.name"),
        (("model", "chat_template"), "/else.jinja", "model.chat_template"),
        (("model", "lora"), None, "model.lora.r"),
        (("data", 0, "columns"), {"prompt": "topic"}, "data.0.columns.prompt"),
        (("guards", "max_dead_steps"), None, "guards.max_dead_steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_other_key_can_be_changed_unnoticed(path, value, key, monkeypatch, tmp_path):
    shrink = shrinking._with_rewards_here

    def shrink_and_more(recipe, values, processes):
        shrink(recipe, values, processes)
        section = functools.reduce(lambda section, part: section[part], path[:-1], values)
        section[path[-1]] = value

    monkeypatch.setattr(shrinking, "_with_rewards_here", shrink_and_more)
    with pytest.raises(AssertionError, match=f"'{key}'"):
        rehearsal.rehearsal_of(load_recipe(GRPO), tmp_path / "grpo.yaml", tmp_path)


def test_changes_are_told_with_their_reasons(prepared):
    lines = [str(change) for change in prepared(GRPO).changes]
    assert "trainer.max_steps: 200 -> 2 (two optimizer steps)" in lines
    assert {"the model's weights and size", "the data itself", "GPUs", "bf16", "vLLM"} == {
        *prepared(GRPO).not_rehearsed
    }


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_two_steps_of_few_tokens_on_a_cpu_are_left(file, prepared):
    for _, rehearsed in with_stages(file, prepared):
        recipe = rehearsed.recipe
        assert not recipe.hardware.gpus_per_node
        if recipe.step in TRAINER_CONFIGS:
            rows_a_step = recipe.trainer["per_device_train_batch_size"] * recipe.trainer["gradient_accumulation_steps"]
            assert recipe.trainer["max_steps"] == 2
            assert rows_a_step * recipe.hardware.num_processes <= 16


# --- Pairs, judges, reward models


JUDGE_OF_RUN = {"endpoint": {"base_url": "https://judge.example/v1", "model": "large"}, "cache": "verdicts"}
SERVED = {"gpus_per_node": 1, "accelerate": "one_gpu", "gpu": "h100_80gb"}
RUBRIC = str(RECIPES / "tiny-rlaif" / "rubrics" / "order.yaml")
QUESTIONS = [{"name": "zwhe99/DeepMath-103K", "columns": {"prompt": "question", "solution": "final_answer"}}]


def judged(judge: dict, preferences: dict | None = None, **sections) -> dict:
    """A recipe of preferences with a judge that nobody can ask here."""
    return {
        "step": "preferences",
        "model": {"name": "Qwen/Qwen2.5-1.5B-Instruct"},
        "data": QUESTIONS,
        "preferences": {"rubric": RUBRIC, "max_completion_length": 4096, "samples": 8, **(preferences or {})},
        "judge": judge,
        "hardware": SERVED,
        **sections,
    }


def rewarded(reward: dict, **trainer) -> dict:
    trainer = {"num_generations": 8, "per_device_train_batch_size": 8, "max_steps": 100, **trainer}
    rewards = ["accuracy", {"name": "reward_model", **reward}]
    model = {"name": "Qwen/Qwen2.5-1.5B-Instruct"}
    return {
        "step": "grpo",
        "model": model,
        "data": QUESTIONS,
        "rewards": rewards,
        "trainer": trainer,
        "hardware": SERVED,
    }


@pytest.mark.parametrize(
    ("judge", "hardware"),
    [
        (JUDGE_OF_RUN, {}),
        ({"name": "Qwen/Qwen2.5-32B-Instruct", "revision": "0" * 40}, {}),
        ({"name": "Qwen/Qwen2.5-32B-Instruct"}, {"judge": {"tensor_parallel_size": 2}}),
    ],
    ids=["endpoint", "name", "served"],
)
def test_judge_is_a_server_of_the_rehearsal_s(judge, hardware, write_recipe, folder):
    rehearsed = prepare(write_recipe(**judged(judge, hardware={**SERVED, **hardware})), [], folder)
    section = rehearsed.recipe.judge
    assert section.endpoint.base_url == url_of_judge()
    assert (section.name, section.revision, section.cache, rehearsed.recipe.hardware.judge) == (None,) * 4
    assert section.judgements == 4
    assert "the judge" in rehearsed.not_rehearsed


@pytest.mark.parametrize("candidates", [1, 2])
def test_verdicts_of_the_rehearsal_s_judge_can_be_read(candidates, tmp_path):
    rubric = Rubric(
        description="Some.",
        scale=[3, 5],
        principles=[Principle(name="one", text="1"), Principle(name="other", text="2")],
    )
    section = Judge(endpoint=Endpoint(base_url=url_of_judge(), model=MODEL), judgements=4, candidates=candidates)
    spending = Spending(section)
    backend = EndpointBackend(section.endpoint, "recipe.yaml", "judge.endpoint", meter=spending)
    judge = ModelJudge(section, backend, {}, VerdictCache(tmp_path), spending)
    prompts = [[{"role": "user", "content": f"Question {number}"}] for number in range(8)]
    scores = [score for group in judge.scores(rubric, prompts, [["a", "b"]] * 8) for score in group]
    assert all(3 <= score <= 5 for score in scores)
    assert len(set(scores)) > 2  # or there would be no pairs
    assert judge.report()["unreadable"] == 0


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("preferences", "samples", 4),
        ("preferences", "min_margin", 0.0),
        ("preferences", "max_length_ratio", None),
        ("preferences", "rejected", "random"),
        ("judge", "candidates", 4),  # no more than there are answers
        ("judge", "judgements", 6),
    ],
)
def test_choice_of_pairs_is_opened_and_the_judging_is_not_changed(section, key, value, write_recipe, folder):
    asked = {"min_margin": 2.0, "max_length_ratio": 2.0, "rejected": "random"}
    judge = {**JUDGE_OF_RUN, "candidates": 8, "judgements": 6}
    asked |= {"rubric": str(RECIPES / "r1-qwen2.5-7b/rubrics/helpful.yaml")}
    rehearsed = prepare(write_recipe(**judged(judge, asked)), [], folder)
    assert getattr(getattr(rehearsed.recipe, section), key) == value


def test_reward_model_of_the_hub_is_one_with_random_weights(write_recipe, folder):
    rehearsed = prepare(
        write_recipe(**rewarded({"model": "Qwen/Qwen2.5-7B", "revision": "0" * 40, "dtype": "bfloat16"})), [], folder
    )
    given = rehearsed.recipe.rewards[1].parameters
    assert (given["revision"], given["dtype"]) == (None, "float32")
    model = reward_model_here(given["model"], None, "float32")
    first, second = model.rewards([[{"role": "user", "content": text}] for text in ("Why?", "What is it?")], 2)
    assert first != second


def test_reward_model_of_a_server_is_the_rehearsal_s(write_recipe, folder):
    endpoint = {"base_url": "http://rewards.example", "model": "large"}
    rehearsed = prepare(write_recipe(**rewarded({"endpoint": endpoint})), [], folder)
    served = ServedRewardModel(Endpoint.model_validate(rehearsed.recipe.rewards[1].parameters["endpoint"]), "rewards.1")
    first, second = served.rewards([[{"role": "user", "content": text}] for text in ("Why?", "What is it?")])
    assert first != second
    assert "the reward model" in rehearsed.not_rehearsed


def test_reward_model_that_a_recipe_makes_has_its_tokenizer(write_recipe, folder):
    path = str(REPOSITORY / "runs" / "r1-qwen2.5-7b" / "reward_model" / "latest" / "model")
    rehearsed = prepare(write_recipe(**rewarded({"model": path})), [], folder)
    made = StandIn("Qwen/Qwen2.5-1.5B", "<|im_end|>", (RECIPES / "chat_templates/chatml.jinja").read_text(), True)
    assert rehearsed.recipe.rewards[1].parameters["model"] == str(made.directory(folder / MODELS_FOLDER).resolve())


@pytest.mark.parametrize(
    ("steps", "iterations", "rehearsed"),
    [
        ({}, 1, (1, None)),
        ({"first_step": 51}, 1, (2, None)),
        ({"last_step": 50}, 1, (1, 1)),
        ({"first_step": 9, "last_step": 9}, 1, (2, 2)),
        ({"first_step": 51}, 2, (1, None)),
        ({"first_step": 9, "last_step": 10}, 2, (1, 2)),
    ],
    ids=["all", "last", "first", "one", "one rollout", "one rollout of several"],
)
def test_reward_counts_in_one_of_the_two_steps(steps, iterations, rehearsed, write_recipe, folder):
    reward = {"model": "Qwen/Qwen2.5-7B", **steps}
    recipe = prepare(write_recipe(**rewarded(reward, num_iterations=iterations)), [], folder).recipe
    assert (recipe.rewards[1].first_step, recipe.rewards[1].last_step) == rehearsed


def test_pairs_that_a_run_is_to_keep_are_written(prepared):
    recipe = prepared(RECIPES / "r1-qwen2.5-7b" / "reward_model.yaml").recipe
    for section in ("data", "eval_data"):
        pairs = load_data(recipe, section=section)
        assert set(pairs.column_names) == {"prompt", "chosen", "rejected"}
        assert all(pair["chosen"] != pair["rejected"] for pair in pairs)


# --- Stand-ins

MODELS = list(entries_of(HUB / "models.yaml"))
SIZES = ("vocab_size", "max_position_embeddings")  # what a shrunk layer does not hang on


def first_of_each(key_of) -> list[str]:
    """The first model with each key."""
    first = {}
    for model in MODELS:
        first.setdefault(key_of(model), model)
    return list(first.values())


def shape_of(model: str) -> str:
    config = shrunk_config(hub_model(model).config)
    return json.dumps({key: value for key, value in config.items() if key not in SIZES})


OF_EACH_TYPE = first_of_each(lambda model: hub_model(model).config["model_type"])


@pytest.mark.parametrize("model", first_of_each(shape_of))
def test_shrunk_architecture_is_built_and_small(model, folder):
    stand_in = StandIn(model)
    stand_in.write(folder)
    loaded = modeling.AutoModelForCausalLM.from_pretrained(stand_in.directory(folder))
    assert loaded.config.model_type == hub_model(model).config["model_type"]
    assert modeling.num_parameters(loaded) <= num_parameters(stand_in.directory(folder)) < MAX_PARAMETERS
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()


COUNTS = {*AT_MOST, "num_attention_heads", "num_key_value_heads", "head_dim", "layer_types"}


@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_size_is_kept(model):
    config = hub_model(model).config
    small = shrunk_config(config)
    assert {key: small.get(key) for key in config.keys() - COUNTS} == {
        key: config[key] for key in config.keys() - COUNTS
    }
    assert small.keys() == config.keys()


@pytest.mark.parametrize(
    ("heads", "keys", "shrunk"), [(28, 4, 1), (12, 2, 1), (64, 8, 1), (32, 32, 4), (16, 8, 2), (128, 128, 4)]
)
def test_heads_share_a_key_as_before(heads, keys, shrunk):
    small = shrunk_config({"hidden_size": 4096, "num_attention_heads": heads, "num_key_value_heads": keys})
    assert (small["num_attention_heads"], small["num_key_value_heads"]) == (4, shrunk)


@pytest.mark.parametrize("model", OF_EACH_TYPE)
def test_tokenizer_reads_back_what_it_wrote(model, folder):
    StandIn(model).write(folder)
    tokenizer = modeling.AutoTokenizer.from_pretrained(StandIn(model).directory(folder))
    special = hub_model(model).tokens.special
    text = "½ of 8\tis {4},\n\n  = \\boxed{4}" + "".join(special)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert ids[-len(special) :] == tokenizer.convert_tokens_to_ids(special)
    assert len(tokenizer) <= 256 + len(special)


ANSWERED = [
    {"role": "user", "content": "What is ½ of 8?"},
    {"role": "assistant", "content": "<think>\nFour.\n</think>\n\n\\boxed{4}"},
]
TRAINED = [file for file in FILES if load_recipe(file).step in TRAINER_CONFIGS]


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_stand_in_renders_the_recipe_s_conversation_and_ends_it_with_its_eos(file, prepared):
    recipe = prepared(file).recipe
    tokenizer = modeling.load_tokenizer(recipe)
    eos = recipe.trainer.get("eos_token") or tokenizer.eos_token
    prompt = tokenizer.apply_chat_template(ANSWERED[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(ANSWERED, tokenize=False)
    assert "What is ½ of 8?" in prompt
    assert "\\boxed{4}" in whole.removeprefix(prompt)
    ids = tokenizer.encode(whole.rstrip(), add_special_tokens=False)
    assert tokenizer.decode(ids) == whole.rstrip()
    assert ids[-1] == tokenizer.convert_tokens_to_ids(eos)


# --- Fixtures

FIXTURES = sorted((HUB / "fixtures").iterdir())
DATASETS = entries_of(HUB / "datasets.yaml")


def test_every_fixture_is_a_data_set_s():
    assert sorted(entry["fixture"] for entry in DATASETS.values()) == [file.name for file in FIXTURES]


@pytest.mark.parametrize("dataset", DATASETS)
def test_rows_of_a_fixture_have_the_same_columns(dataset):
    columns = [json.loads(line).keys() for line in rows.lines_of_fixture(dataset)]
    assert all(row == columns[0] for row in columns)


WITH_DATA = [file for file in FILES if load_recipe(file).data]


@pytest.mark.parametrize("file", WITH_DATA, ids=name_of)
def test_fixture_rows_convert_to_what_the_step_trains_on(file, prepared):
    recipe = prepared(file).recipe
    for section in ("data", "eval_data"):
        if getattr(recipe, section):
            row = load_data(recipe, reward_columns(recipe.rewards), section)[0]
            assert [message["role"] for message in row["prompt"]][-1] == "user"
            texts = ("prompt", "completion", "chosen", "rejected")
            assert all(message["content"].strip() for key in texts for message in row.get(key, []))


JUDGED = [file for file in WITH_DATA if judging_reward(load_recipe(file)) or judges_programs(load_recipe(file))]


@pytest.mark.parametrize("file", JUDGED, ids=name_of)
def test_golds_of_the_fixture_are_accepted_by_the_recipe_s_rewards(file, prepared):
    recipe = prepared(file).recipe
    names = reward_columns(recipe.rewards)
    column = gold_program_column(recipe)
    data = load_data(recipe, [*names, *([column] if column else [])])
    tasks = data["task"] if "task" in data.column_names else None
    checks = [
        check_golds(recipe, data["solution"], tasks) if judging_reward(recipe) else None,
        check_programs(recipe, {name: data[name] for name in names}, data[column] if column else None),
    ]
    assert [line for check in checks if check for line in check.lines()] == []
    assert any(checks)


def test_wrong_golds_of_a_fixture_are_refused(prepared):
    """So that the test above sees what the rewards say."""
    recipe = prepared(RECIPES / "qwen2.5-1.5b-instruct-grpo" / "code.yaml").recipe
    infos = {"verification_info": load_data(recipe, ["verification_info"])["verification_info"]}
    checked = check_programs(recipe, infos, ["print()"] * len(infos["verification_info"]))
    assert checked.verified_share == 0.0
    assert check_golds(prepared(GRPO).recipe, ["1 +"]).verified_share == 0.0


@pytest.mark.parametrize("num_rows", [1, 5, 6, 13, 10**6])
def test_rows_are_as_many_as_asked_for_or_a_little_more(num_rows, tmp_path):
    wanted = rows.FixtureRows("zwhe99/DeepMath-103K", tmp_path / "rows" / "data-0.jsonl", num_rows)
    wanted.write()
    fixture = rows.lines_of_fixture(wanted.dataset)
    written = wanted.file.read_text(encoding="utf-8").splitlines()
    assert 0 <= len(written) - min(num_rows, rows.MAX_ROWS) < len(fixture)
    assert set(written) == set(fixture)


# --- Mistakes


def no_fixture(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "fixture_of", lambda dataset: tmp_path / "none.jsonl")


def empty_fixture(monkeypatch, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    monkeypatch.setattr(rows, "fixture_of", lambda dataset: tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("override", "doctor", "said"),
    [
        (None, no_fixture, "none.jsonl: no such fixture of open-r1/OpenR1-Math-220k; write a few rows of its schema"),
        (None, empty_fixture, "empty.jsonl: it has no rows; write a few of the schema of open-r1/OpenR1-Math-220k"),
        ("model.name=Qwen/Qwen2.5-1.7B", None, "models.yaml: nothing is known of 'Qwen/Qwen2.5-1.7B'"),
        ("data.0.name=open-r1/OpenR1-Math-9k", None, "datasets.yaml: nothing is known of 'open-r1/OpenR1-Math-9k'"),
        (f"model.name={RUNS / 'nobody' / 'latest' / 'model'}", None, "no recipe in recipes/ makes this model"),
        ("trainer.learning_rat=1", None, "trainer.learning_rat: unknown key"),
    ],
)
def test_what_is_not_known_is_told_in_one_line(override, doctor, said, monkeypatch, tmp_path, capsys):
    if doctor:
        doctor(monkeypatch, tmp_path)
    monkeypatch.setattr(command, "rehearse", lambda rehearsal: pytest.fail("it was started"))
    assert command.main([str(SFT), *([override] if override else []), "--runs", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{SFT}: ")
    assert said in lines[0]


def test_a_mistake_in_one_recipe_does_not_keep_the_others_from_being_rehearsed(monkeypatch, tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text("step: sft\nmodel: {name: 3}\n")
    monkeypatch.setattr(command, "all_recipes", lambda: [broken, SFT, TINY_SFT])
    started = []
    monkeypatch.setattr(
        command,
        "rehearse",
        lambda rehearsed: started.append(rehearsed) or rehearsing.Result(rehearsed, tmp_path / "log", 1.0),
    )
    assert command.main(["--runs", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert [rehearsed.recipe.source.name for rehearsed in started] == ["sft.yaml"]
    assert printed.err.startswith(f"{broken}: ")
    assert printed.out.splitlines()[-1] == "1 of 2 recipes rehearsed"


def test_pipelines_are_rehearsed_first_for_they_take_longest(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "all_recipes", lambda: [SFT, PIPELINE])
    started = []
    result = rehearsing.Result(None, tmp_path / "log", 1.0, "not run")
    monkeypatch.setattr(rehearsing.Result, "line", lambda *_: "")
    monkeypatch.setattr(command, "rehearse", lambda rehearsed: started.append(rehearsed.recipe.step) or result)
    assert command.main(["--at-once", "1", "--runs", str(tmp_path)]) == 1
    assert started == ["pipeline", "sft"]


# --- What counts as rehearsed


def log(step, **values) -> dict:
    return {"step": step, "loss": 5.5, "grad_norm": 2.5} | values


TRAINED_WELL = [log(1), {"step": 1, "eval_loss": 5.5}, log(2), {"step": 2, "train_loss": 5.5}]
RUNS = {  # status, logs -> what is said
    "well": ("done", TRAINED_WELL, []),
    "one step without a gradient": ("done", [log(1, grad_norm=0.0), log(2)], []),
    "failed": ("failed", TRAINED_WELL, ["run.json: status is failed"]),
    "no record": (None, TRAINED_WELL, ["run.json: status is None"]),
    "no logs": ("done", None, ["the steps [] were trained, not the first 2"]),
    "nothing trained": ("done", [], ["the steps [] were trained, not the first 2"]),
    "one step": ("done", [log(1)], ["the steps [1] were trained, not the first 2"]),
    "a step too many": ("done", [log(1), log(2), log(3)], ["the steps [1, 2, 3] were trained"]),
    "no gradient": ("done", [log(1, grad_norm=0.0), log(2, grad_norm=0.0)], ["no step had a gradient"]),
    "gradient not a number": ("done", [log(1), log(2, grad_norm=math.nan)], ["a gradient is not finite"]),
}


def write_run(directory: Path, status, logs) -> None:
    directory.mkdir(parents=True)
    if status:
        (directory / "run.json").write_text(json.dumps({"status": status}))
    if logs is not None:
        (directory / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in logs))


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_trained_nothing_is_told(run, prepared, tmp_path):
    status, logs, said = RUNS[run]
    write_run(tmp_path / "run", status, logs)
    problems = list(problems_of(prepared(GRPO), tmp_path / "run"))
    assert len(problems) == len(said)
    assert all(words in problem for words, problem in zip(said, problems, strict=True))


def test_a_stage_that_trained_nothing_is_told(prepared, tmp_path):
    write_run(tmp_path / "run", "done", None)
    for stage in prepared(PIPELINE).stages:
        logs = [] if stage.recipe.source.stem == "final_rl" else TRAINED_WELL
        write_run(tmp_path / "run" / stage.recipe.source.stem, "done", logs)
    (problem,) = problems_of(prepared(PIPELINE), tmp_path / "run")
    assert f"{Path('final_rl') / 'metrics.jsonl'}: the steps [] were trained" in problem


LAUNCHED = """#!/bin/sh
# In the place of `python -m open_r1.launch run FILE --runs RUNS`.
run=$6/$(basename "$4" .yaml)/latest
mkdir -p "$run"
echo '{"status": "done"}' > "$run/run.json"
echo "said by the run"
"""


@pytest.mark.parametrize(
    ("last", "said"), [("exit 3", "exit code 3"), ("exit 0", "metrics.jsonl: the steps [] were trained")]
)
def test_a_failed_rehearsal_exits_with_1_and_the_end_of_its_log(last, said, monkeypatch, tmp_path, capsys):
    launched = tmp_path / "launched"
    launched.write_text(LAUNCHED + last + "\n")
    launched.chmod(0o755)
    prepare(SFT, [], tmp_path / "rehearsals")  # before there is another python
    monkeypatch.setattr(sys, "executable", str(launched))
    monkeypatch.setattr(rehearsing, "parameters_of_models", lambda *_: [1])
    assert command.main([str(SFT), "--runs", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"{SFT}: rehearsal failed after" in printed
    assert said in printed
    assert "    said by the run\n" in printed


def test_rehearsals_in_one_folder_wait_for_each_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "all_recipes", list)
    with (tmp_path / ".rehearsals.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        held = [True]

        def flock(lock, operation):
            if operation == fcntl.LOCK_EX:  # it waits: the other one ends
                other.close()
                held.clear()
            return fcntl_flock(lock, operation)

        fcntl_flock = fcntl.flock
        monkeypatch.setattr(fcntl, "flock", flock)
        assert command.main(["--runs", str(tmp_path)]) == 0
    assert not held
    assert "waiting for it" in capsys.readouterr().out


# --- For real


@pytest.mark.slow
@pytest.mark.parametrize("file", [SFT, GRPO, RECIPES / "tulu3-8b" / "dpo.yaml"], ids=name_of)
def test_rehearsal_trains(file, tmp_path, capsys):
    """Other weights are saved than the stand-in's."""
    assert command.main([str(file), "--runs", str(tmp_path)]) == 0
    assert "rehearsed in" in capsys.readouterr().out.splitlines()[-1]
    run_dir = tmp_path / "rehearsals" / file.parent.name / file.stem / "latest"
    begun = modeling.AutoModelForCausalLM.from_pretrained(prepare(file, [], tmp_path / "rehearsals").recipe.model.name)
    ended = modeling.AutoModelForCausalLM.from_pretrained(run_dir / "model")
    moved = [not torch.equal(old, new) for old, new in zip(begun.parameters(), ended.parameters(), strict=True)]
    assert any(moved)


@pytest.mark.slow
def test_rehearsal_scores(tmp_path, capsys):
    file = RECIPES / "openr1-distill-7b" / "evaluate.yaml"
    assert command.main([str(file), "--runs", str(tmp_path)]) == 0
    run_dir = tmp_path / "rehearsals" / file.parent.name / file.stem / "latest"
    scores = json.loads((run_dir / "scores.json").read_text())
    assert [score["parameters"] < MAX_PARAMETERS for score in scores.values()] == [True]
    assert "rehearsed in" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_rehearsal_of_preferences_keeps_pairs_of_readable_verdicts(tmp_path, capsys):
    file = RECIPES / "r1-qwen2.5-7b" / "preferences.yaml"
    assert command.main([str(file), "--runs", str(tmp_path)]) == 0
    run_dir = tmp_path / "rehearsals" / file.parent.name / file.stem / "latest"
    counts = json.loads((run_dir / "preferences.json").read_text())
    assert counts["kept"] >= 20  # so many that a twentieth, held out by a later stage, is one
    assert (counts["judge"]["unreadable"], counts["judge"]["refused"]) == (0, 0)
    assert "rehearsed in" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_rehearsal_of_a_run_that_fails_is_told(tmp_path, capsys):
    assert command.main([str(SFT), "trainer.eos_token=<|nobody|>", "--runs", str(tmp_path)]) == 1
    assert "rehearsal failed after" in capsys.readouterr().out
