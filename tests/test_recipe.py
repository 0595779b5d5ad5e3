"""Wrong recipes and the one line that each gets; right ones load."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from open_r1 import check
from open_r1.check import all_recipes, check_recipe
from open_r1.feedback import load_rubric
from open_r1.recipe import RecipeError, dump_recipe, load_recipe
from open_r1.rewards import REWARDS
from open_r1.rewards.language import SCRIPTS

TINY = Path(__file__).parents[1] / "recipes" / "tiny-r1"
PREFILLING = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
CLOSING = PREFILLING.replace("<think>\n", "<think>\n\n</think>\n\n")


BLOCKS_OF_README = re.findall(r"^```yaml\n(.*?)^```", (TINY.parents[1] / "README.md").read_text(), re.M | re.S)
APART = "give another split or file, or parts of them, e.g. part: [0, 0.9] to train on and [0.9, 1] here"


JUDGE = {"endpoint": {"base_url": "http://localhost:8000/v1", "model": "a-judge"}}


def grpo(**changes) -> dict:
    """A right GRPO recipe, with sections replaced."""
    recipe = {
        "step": "grpo",
        "model": {"name": str(TINY / "models" / "teacher")},
        "data": [{"procedural": {"family": "basic_arithmetic", "num_problems": 16}}],
        "rewards": ["accuracy", {"name": "format", "weight": 0.2}],
        "trainer": {"num_generations": 4, "per_device_train_batch_size": 8, "bf16": False},
    }
    return recipe | changes


def evaluated(eval_data=None, **keys) -> dict:
    """A right GRPO recipe that evaluates while it trains, with keys of the trainer set."""
    held_out = [{"procedural": {"family": "basic_arithmetic", "num_problems": 8, "split": "validation"}}]
    return trainer(eval_strategy="steps", **keys) | {"eval_data": held_out if eval_data is None else eval_data}


def trainer(**keys) -> dict:
    return grpo(trainer={**grpo()["trainer"], **keys})


def on_pairs(step: str, **changes) -> dict:
    """A right recipe that trains on pairs, nine tenths of a data set, with sections replaced."""
    recipe = {
        "step": step,
        "model": grpo()["model"],
        "data": [{"name": "a/pairs", "part": [0, 0.9]}],
        "trainer": {"max_steps": 1, "bf16": False},
    }
    return recipe | ({"eval_data": held_out([0.9, 1])} if step == "reward_model" else {}) | changes


def held_out(part, **changes) -> list[dict]:
    return [{"name": "a/pairs", "part": part} | changes]


def problems_of(file: Path, overrides=()) -> list[str]:
    """The lines that `make check` would print for the recipe, without the file's name."""
    try:
        check_recipe(load_recipe(file, overrides), before_run=True)
    except RecipeError as error:
        return [line.removeprefix(f"{file}: ") for line in error.lines]
    return []


WRONG = {
    "unknown section": (grpo(trainr={}), "trainr: unknown key of a recipe; did you mean trainer?"),
    "unknown key of a section": (
        grpo(model={"nam": "x"}),
        "model.nam: unknown key of section model; did you mean name?",
    ),
    "unknown trainer key": (
        trainer(learning_rat=1.0),
        "trainer.learning_rat: unknown key of trl.GRPOConfig; did you mean learning_rate?",
    ),
    "key renamed by transformers": (
        trainer(evaluation_strategy="no"),
        "trainer.evaluation_strategy: trl.GRPOConfig has no such key any more; use eval_strategy",
    ),
    "key renamed by TRL": (
        trainer(vllm_guided_decoding_regex="x"),
        "trainer.vllm_guided_decoding_regex: trl.GRPOConfig has no such key any more; "
        "use vllm_structured_outputs_regex",
    ),
    "number read as text": (
        trainer(learning_rate="1e-6"),
        "trainer.learning_rate: '1e-6' is text to YAML, not a number; write 1.0e-06",
    ),
    "number of a section read as text": (
        grpo(rewards=[{"name": "accuracy", "weight": "1e-1"}]),
        "rewards.0.weight: '1e-1' is text to YAML, not a number; write 0.1",
    ),
    "bare no read as a boolean": (
        trainer(save_strategy=False),
        "trainer.save_strategy: YAML reads a bare yes, no, on or off as False; write it in quotes",
    ),
    "wrong type": (trainer(max_steps=1.5), "trainer.max_steps: 1.5 is float; trl.GRPOConfig wants int"),
    "word that TRL's trainer does not know": (
        trainer(loss_type="drgrpo"),
        "trainer.loss_type: 'drgrpo' is nothing that trl.GRPOConfig knows (known: bnpo, cispo, dapo, dr_grpo, grpo, "
        "luspo, sapo, vespo); did you mean dr_grpo?",
    ),
    "word that transformers does not know": (
        trainer(save_strategy="step"),
        "trainer.save_strategy: 'step' is nothing that trl.GRPOConfig knows (known: best, epoch, no, steps); "
        "did you mean steps?",
    ),
    "word of many": (
        trainer(optim="adafactr"),
        "trainer.optim: 'adafactr' is nothing that trl.GRPOConfig knows (it knows adafactor, galore_adafactor)",
    ),
    "adapters of no rank": (
        grpo(model={**grpo()["model"], "lora": {"r": 0}}),
        "model.lora.r: 0 is wrong: input should be greater than or equal to 1",
    ),
    "weight that is no number": (
        grpo(rewards=[{"name": "accuracy", "weight": float("nan")}]),
        "rewards.0.weight: nan is wrong: input should be a finite number",
    ),
    "nothing to learn from": (
        grpo(rewards=[{"name": "accuracy", "weight": 0}]),
        "rewards: all weights are 0, so nothing would be learned; leave weight out where it is to count",
    ),
    "key that the launcher owns": (
        trainer(output_dir="x"),
        "trainer.output_dir: the run directory is made by the launcher; remove it",
    ),
    "missing model": (
        grpo(model={"name": "./nowhere"}),
        "model.name: no model at {folder}/nowhere (it has no config.json)",
    ),
    "missing chat template": (
        grpo(model={**grpo()["model"], "chat_template": "chat.jinja"}),
        "model.chat_template: no such file: {folder}/chat.jinja",
    ),
    "missing data file": (grpo(data=[{"path": "rows.jsonl"}]), "data.0.path: no such file: {folder}/rows.jsonl"),
    "two sources in one": (
        grpo(data=[{"path": "rows.jsonl", "name": "a/b"}]),
        "data.0: unknown data source; give exactly one of name, path, procedural (got name and path)",
    ),
    "unknown data source": (
        grpo(data=[{"procedural": {"family": "basic_arithmetics", "num_problems": 1}}]),
        "data.0.procedural.family: unknown data source 'basic_arithmetics'; did you mean basic_arithmetic?",
    ),
    "unknown parameter of the family": (
        grpo(data=[{"procedural": {"family": "basic_arithmetic", "num_problems": 1, "parameters": {"min_term": 1}}}]),
        "data.0.procedural.parameters.min_term: unknown parameter of reasoning-gym's basic_arithmetic; "
        "did you mean min_terms?",
    ),
    "unknown step": (
        grpo(step="gpro"),
        "step: unknown step 'gpro' (known: pretrain, sft, preferences, reward_model, dpo, grpo, generate, distill, "
        "evaluate, pipeline); did you mean grpo?",
    ),
    "unknown reward": (
        grpo(rewards=["acuracy"]),
        f"rewards.0.name: unknown reward 'acuracy' (known: {', '.join(REWARDS)}); did you mean accuracy?",
    ),
    "unknown parameter of a reward": (
        grpo(rewards=[{"name": "format", "wieght": 0.2}]),
        "rewards.0.wieght: unknown parameter of reward format; did you mean weight?",
    ),
    "reward of a module that is not there": (
        grpo(rewards=["nowhere.rewards:mine"]),
        "rewards.0.name: reward 'nowhere.rewards:mine' cannot be imported (No module named 'nowhere')",
    ),
    "value of another type than the reward's parameter": (
        grpo(rewards=[{"name": "repetition_penalty", "ngram_size": "3"}]),
        "rewards.0.ngram_size: '3' is text to YAML, not a number; write 3",
    ),
    "value that the reward's parameter cannot have": (
        grpo(rewards=[{"name": "accuracy", "answer_in": "boxd"}]),
        "rewards.0.answer_in: unknown answer_in 'boxd' (known: both, boxed, answer); did you mean boxed?",
    ),
    "value that the reward refuses": (
        grpo(rewards=[{"name": "language_consistency", "target_language": "xx"}]),
        "rewards.0: language_consistency: target_language is 'xx'; give one of " + ", ".join(SCRIPTS),
    ),
    "factory without what it needs": (
        grpo(rewards=[{"name": "trl.rewards:get_soft_overlong_punishment", "max_completion_len": 8}]),
        "rewards.0.name: trl.rewards:get_soft_overlong_punishment cannot be made with these parameters "
        "(get_soft_overlong_punishment() missing 1 required positional argument: 'soft_punish_cache')",
    ),
    "two rewards of one name": (
        grpo(rewards=["accuracy", "format", {"name": "accuracy", "weight": 0.5}]),
        "rewards.2.label: another reward is called accuracy already; give one of them a label",
    ),
    "label that is another reward's name": (
        grpo(rewards=["accuracy", {"name": "format", "label": "accuracy"}]),
        "rewards.1.label: another reward is called accuracy already; give one of them a label",
    ),
    "label that is no name": (
        grpo(rewards=[{"name": "accuracy", "label": "sums/hard"}]),
        "rewards.0.label: 'sums/hard' is wrong: string should match pattern '^[A-Za-z0-9_]+$'",
    ),
    "reward that ends before it begins": (
        grpo(rewards=[{"name": "accuracy", "first_step": 5, "last_step": 4}]),
        "rewards.0.last_step: 4 is before first_step 5: it would never count",
    ),
    "reward that counts from no step": (
        grpo(rewards=[{"name": "accuracy", "first_step": 0}]),
        "rewards.0.first_step: 0 is wrong: input should be greater than 0",
    ),
    "one of several tasks that no data has": (
        grpo(data=[{**grpo()["data"][0], "task": "sums"}], rewards=[{"name": "accuracy", "task": ["sums", "proofs"]}]),
        "rewards.0.task: no data is of task 'proofs' (known: sums)",
    ),
    "reward without a parameter that it needs": (
        grpo(rewards=["judge"], judge=JUDGE),
        "rewards.0.rubric: missing; reward judge needs it",
    ),
    "reward model without held-out pairs": (
        {key: value for key, value in on_pairs("reward_model").items() if key != "eval_data"},
        "eval_data: missing; step reward_model needs it",
    ),
    "reward model that is reported on by what it was trained on": (
        on_pairs("reward_model", eval_data=held_out([0.8, 1])),
        "eval_data.0: data.0 trains on the same rows; " + APART,
    ),
    "parts of what two bounds leave": (
        on_pairs("reward_model", eval_data=held_out([0.9, 1], where={"margin": [1, 9]})),
        "eval_data.0: data.0 trains on the same rows; " + APART,
    ),
    "part of what is all trained on": (
        on_pairs("reward_model", data=[{"name": "a/pairs"}]),
        "eval_data.0: data.0 trains on the same rows; " + APART,
    ),
    "key of another trainer": (
        on_pairs("dpo", trainer={"num_generations": 4}),
        "trainer.num_generations: unknown key of trl.DPOConfig",
    ),
    "rewards of a step that asks none": (
        on_pairs("dpo", rewards=["accuracy"]),
        "rewards: step dpo does not use it; remove it",
    ),
    "held-out pairs that DPO never looks at": (
        on_pairs("dpo", eval_data=held_out([0.9, 1])),
        "trainer.eval_strategy: missing; eval_data needs it, e.g. eval_strategy: steps and eval_steps: 20",
    ),
    "judge of a step that asks none": (
        on_pairs("dpo", judge=JUDGE),
        "judge: step dpo does not use it; remove it",
    ),
    "judge that no reward asks": (grpo(judge=JUDGE), "judge: nothing asks it; add a judge reward, or remove it"),
    "length over groups in pieces": (
        grpo(
            rewards=["length"], trainer={**grpo()["trainer"], "num_generations": 16}, hardware={"processes_per_node": 2}
        ),
        "rewards.0: length compares the completions of one prompt, but 8 completions a process cut groups of 16 in "
        "pieces; choose trainer.per_device_train_batch_size x steps_per_generation as a multiple of num_generations",
    ),
    "length over groups in pieces of a whole rollout": (
        trainer(generation_batch_size=16, num_generations=16)
        | {"rewards": ["length"], "hardware": {"processes_per_node": 2}},
        "rewards.0: length compares the completions of one prompt, but 8 completions a process cut groups of 16 in "
        "pieces; choose trainer.generation_batch_size / processes as a multiple of num_generations",
    ),
    "length over groups in pieces of an evaluation": (
        evaluated(per_device_eval_batch_size=2)
        | {"rewards": ["length", {"name": "accuracy", "weight": 0}], "hardware": {"processes_per_node": 2}},
        "rewards.0: length compares the completions of one prompt, but 2 completions a process cut groups of 4 in "
        "pieces; choose trainer.per_device_eval_batch_size as a multiple of num_generations_eval",
    ),
    "thinking that opens as it closes": (
        grpo(thinking={"open": "</think>"}),
        "thinking: open '</think>', close '</think>': none may be empty or part of the other",
    ),
    "batch not divisible into groups": (
        trainer(num_generations=3),
        "trainer.num_generations: 8 completions a rollout (per_device_train_batch_size 8 x processes 1 x "
        "steps_per_generation) cannot be divided into groups of 3",
    ),
    "group of one": (
        trainer(num_generations=1),
        "trainer.num_generations: a group of 1 has no advantage; at least 2",
    ),
    "group of nothing": (
        trainer(num_generations=None),
        "trainer.num_generations: a group of None has no advantage; at least 2",
    ),
    "bf16 with continuous batching": (
        trainer(bf16=True, use_transformers_continuous_batching=True),
        "trainer.bf16: together with use_transformers_continuous_batching it casts the policy's weights to bf16, too "
        "coarse for the optimizer's steps; set trainer.bf16: false",
    ),
    "no section that the step needs": (grpo(rewards=[]), "rewards: missing; step grpo needs it"),
    "section that the step does not use": (
        grpo(evaluate={"benchmarks": ["tiny_sums"]}),
        "evaluate: step grpo does not use it; remove it",
    ),
    "GPUs that would not be used": (
        grpo(hardware={"gpus_per_node": 1}),
        "hardware.accelerate: cpu uses no GPU, but gpus_per_node is 1; for GPUs give both, e.g. "
        "{gpus_per_node: 1, accelerate: ddp}",
    ),
    "GPUs that are not there": (
        grpo(hardware={"accelerate": "ddp"}),
        "hardware.accelerate: ddp uses GPUs, but gpus_per_node is 0; for GPUs give both, e.g. "
        "{gpus_per_node: 1, accelerate: ddp}",
    ),
    "evaluation of nothing": (
        trainer(eval_strategy="steps"),
        "eval_data: missing; trainer.eval_strategy needs it; entries as those of data, of rows not trained on",
    ),
    "evaluation of nothing at the start": (
        trainer(eval_on_start=True),
        "eval_data: missing; trainer.eval_on_start needs it; entries as those of data, of rows not trained on",
    ),
    "evaluation that never takes place": (
        evaluated() | {"trainer": grpo()["trainer"]},
        "trainer.eval_strategy: missing; eval_data needs it, e.g. eval_strategy: steps and eval_steps: 20",
    ),
    "evaluation while another step trains": (
        {
            "step": "sft",
            "model": grpo()["model"],
            "data": grpo()["data"],
            "trainer": {"eval_strategy": "epoch"},
        },
        "trainer.eval_strategy: only steps grpo, dpo, reward_model evaluate while they train; remove it",
    ),
    "eval_data of another step": (
        {"step": "sft", "model": grpo()["model"], "data": grpo()["data"], "trainer": {"max_steps": 1}}
        | {"eval_data": evaluated()["eval_data"]},
        "eval_data: step sft does not use it; remove it",
    ),
    "evaluation on problems of training": (
        evaluated(grpo()["data"]),
        "eval_data.0.procedural.split: its problems can be in training data; write split: validation",
    ),
    "evaluation on the split of training": (
        evaluated() | {"data": evaluated()["eval_data"]},
        "eval_data.0: data.0 trains on the same rows; " + APART,
    ),
    "evaluation on the data set of training": (
        evaluated([{"name": "a/b", "revision": "1" * 40}]) | {"data": [*grpo()["data"], {"name": "a/b"}]},
        "eval_data.0: data.1 trains on the same rows; " + APART,
    ),
    "missing file of eval_data": (
        evaluated([{"path": "rows.jsonl"}]),
        "eval_data.0.path: no such file: {folder}/rows.jsonl",
    ),
    "two sources in one of eval_data": (
        evaluated([{"path": "rows.jsonl", "name": "a/b"}]),
        "eval_data.0: unknown data source; give exactly one of name, path, procedural (got name and path)",
    ),
    "evaluation not divisible into groups": (
        evaluated(per_device_eval_batch_size=6),
        "trainer.per_device_eval_batch_size: 6 x processes 1 cannot be divided into groups of 4; raise it, or set "
        "trainer.num_generations_eval",
    ),
    "unknown accelerate config": (
        grpo(hardware={"accelerate": "cup"}),
        "hardware.accelerate: no recipes/accelerate_configs/cup.yaml (known: cpu, ddp, fsdp2, one_gpu, zero2, "
        "zero3); did you mean cpu?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_recipe_gets_one_line(name, write_recipe, tmp_path):
    recipe, line = WRONG[name]
    assert problems_of(write_recipe(**recipe)) == [line.replace("{folder}", str(tmp_path))]


@pytest.mark.parametrize(
    ("section", "start", "end"),
    [
        (
            {"benchmarks": ["tiny_sum"]},
            "evaluate.benchmarks.0: unknown benchmark 'tiny_sum'",
            "did you mean tiny_sums?",
        ),
        ({"benchmarks": ["tiny_sums"], "samples": 2, "temperature": 0.0}, "evaluate.samples: ", "write samples: 1"),
        (
            {"benchmarks": ["tiny_sums"], "models": {"../x": str(TINY / "models" / "teacher")}},
            "evaluate.models.../x: a label is made of",  # it names a file in the run directory
            "and `-`",
        ),
    ],
)
def test_wrong_evaluation_gets_one_line(section, start, end, write_recipe):
    model = {} if "models" in section else {"model": grpo()["model"]}
    (line,) = problems_of(write_recipe(step="evaluate", evaluate=section, **model))
    assert line.startswith(start)
    assert line.endswith(end)


def test_bf16_left_to_its_default_is_on_and_told(write_recipe):
    recipe = trainer(use_transformers_continuous_batching=True)
    del recipe["trainer"]["bf16"]
    (line,) = problems_of(write_recipe(**recipe))
    assert line.startswith("trainer.bf16: ")


def test_reward_without_its_column_gets_one_line(write_recipe, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    recipe = grpo(data=[{"path": "rows.jsonl", "columns": {"prompt": "problem"}}])
    assert problems_of(write_recipe(**recipe)) == [
        "rewards.0: accuracy needs the column solution, which data.0 does not give; add data.0.columns.solution"
    ]
    recipe["data"][0]["columns"]["solution"] = "answer"
    assert problems_of(write_recipe(**recipe)) == []


@pytest.mark.parametrize(
    ("step", "columns", "missing"),
    [
        ("dpo", ["prompt", "chosen"], "rejected"),
        ("reward_model", ["prompt", "completion"], "chosen"),
        ("dpo", ["chosen", "rejected"], None),  # conversations, which may begin with the prompt
        ("dpo", ["messages"], "chosen"),
        ("sft", ["prompt"], "completion"),
        ("sft", ["messages"], None),
        ("grpo", ["question"], "prompt"),
        ("pretrain", ["messages"], "text"),
    ],
)
def test_column_that_a_step_needs_and_the_file_lacks_gets_one_line(step, columns, missing, write_recipe, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(dict.fromkeys(columns, "x")))
    sections = {"grpo": {"rewards": ["format"]}, "pretrain": {"model": {"architecture": {"model_type": "llama"}}}}
    rows = [{"path": "rows.jsonl", "part": [0, 0.9]}]
    recipe = write_recipe(**on_pairs(step, data=rows, **sections.get(step, {})))
    told = f"data.0: step {step} needs the column {missing}; add data.0.columns.{missing} (it has "
    lines = problems_of(recipe)
    assert len(lines) == (missing is not None) and all(line.startswith(told) for line in lines)


def sampling(step: str, tmp_path: Path, **keys) -> dict:
    """A right recipe that samples, with keys of the step's section."""
    (tmp_path / "rubric.yaml").write_text("{description: D., principles: [{name: order, text: 'In order?'}]}")
    model = grpo()["model"]
    section = {"max_completion_length": 9, "samples": 3, **keys}
    of_step = {
        "generate": {"generate": section},
        "distill": {
            "distill": {"teacher": model["name"], **section},
            "rewards": ["format"],
            "trainer": {"max_steps": 1, "bf16": False},
        },
        "preferences": {"preferences": {"rubric": "rubric.yaml", **section}, "judge": JUDGE},
    }
    return {"step": step, "model": model, "data": grpo()["data"], **of_step[step]}


OPINION = {"name": "judge", "rubric": "rubric.yaml"}


@pytest.mark.parametrize(
    ("recipe", "is_told"),
    [
        (grpo(rewards=[OPINION], judge=JUDGE), True),
        (grpo(rewards=[OPINION, "accuracy"], judge=JUDGE), True),  # which nobody looks at
        (evaluated() | {"rewards": [OPINION], "judge": JUDGE}, True),
        (evaluated() | {"rewards": [OPINION, {"name": "accuracy", "weight": 0}], "judge": JUDGE}, False),
        (grpo(rewards=[{**OPINION, "weight": 0}, "accuracy"], judge=JUDGE), False),
        (grpo(rewards=[OPINION], judge=JUDGE, guards={"max_eval_drop": None}), False),
        (grpo(), False),
    ],
    ids=["opinion", "truth in training", "evaluated by opinion", "truth", "looked at", "not wanted", "no opinion"],
)
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_opinion_that_nobody_watches_is_told(recipe, is_told, in_pipeline, write_recipe, tmp_path, capsys):
    sampling("preferences", tmp_path)  # writes the rubric
    file = write_recipe("grpo.yaml", **recipe)
    if in_pipeline:
        file = write_recipe(step="pipeline", stages=[{"name": "rl", "recipe": "grpo.yaml"}])
    assert check.main([str(file)]) == 0
    out = capsys.readouterr().out
    assert ("grpo.yaml: guards: nothing would tell if the policy deceived judge; add eval_data" in out) == is_told


@pytest.mark.parametrize("step", ["generate", "distill", "preferences"])
def test_equal_answers_to_a_prompt_are_told(step, write_recipe, tmp_path):
    assert problems_of(write_recipe(**sampling(step, tmp_path))) == []
    mend = "give preferences.temperature" if step == "preferences" else "write samples: 1"
    assert problems_of(write_recipe(**sampling(step, tmp_path, temperature=0.0))) == [
        f"{step}.samples: a prompt would get 3 equal answers at temperature 0; {mend}"
    ]


def test_every_mistake_of_a_rubric_has_its_key_and_file(write_recipe, tmp_path):
    (tmp_path / "rubric.yaml").write_text("{scale: [3, 1], description: D., principles: [{name: a, text: A, if so}]}")
    told = problems_of(write_recipe(**grpo(rewards=[{"name": "judge", "rubric": "rubric.yaml"}], judge=JUDGE)))
    assert len(told) == 2 and all(line.startswith(f"rewards.0: {tmp_path}/rubric.yaml: ") for line in told)
    assert told[-1].endswith(
        "principles.0.if so: unknown key of a principle; quote the text before it, which has a comma"
    )


@pytest.mark.parametrize("block", BLOCKS_OF_README, ids=lambda block: block.partition(":")[0])
def test_yaml_of_the_readme_is_right(block, write_recipe, tmp_path):
    """A rubric as it is, and sections of a recipe in one that is right without them."""
    keys = yaml.safe_load(block)
    if "principles" in keys:
        (tmp_path / "rubric.yaml").write_text(block)
        assert load_rubric(tmp_path / "rubric.yaml").principles
        return
    of_step = {"pipeline": ("stages", "loop"), "generate": ("generate", "keep")}
    step = next((step for step, sections in of_step.items() if keys.keys() & set(sections)), "grpo")
    around = {"pipeline": {"step": "pipeline"}, "grpo": grpo(), "generate": sampling("generate", tmp_path)}[step]
    assert load_recipe(write_recipe(**{**around, **keys})).step == step


def test_column_that_the_file_lacks_gets_one_line(write_recipe, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    recipe = grpo(data=[{"path": "rows.jsonl", "columns": {"prompt": "question", "solution": "answer"}}])
    assert "data.0.columns: rows.jsonl has no column question; it has answer, problem" in problems_of(
        write_recipe(**recipe)
    )


@pytest.mark.parametrize(
    ("template", "explicit", "expected"),
    [
        (PREFILLING, None, []),
        (PREFILLING, True, []),
        (PREFILLING, False, ["thinking.prefilled: False can never match"]),
        (CLOSING, None, ["rewards.1: format can never match: the chat template closes the thinking"]),
        (PREFILLING.replace("<think>", ""), True, ["thinking.prefilled: True can never match"]),
    ],
)
def test_format_reward_that_can_never_match_the_prefill(template, explicit, expected, write_recipe, tmp_path):
    (tmp_path / "chat.jinja").write_text(template)
    recipe = grpo(rewards=["accuracy", "format"], model={**grpo()["model"], "chat_template": "chat.jinja"})
    recipe |= {} if explicit is None else {"thinking": {"prefilled": explicit}}
    lines = problems_of(write_recipe(**recipe))
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("step: grpo\nstep: sft\n", "line 2: not valid YAML (step is given twice)"),
        ("step: [grpo\n", "line 2: not valid YAML (expected ',' or ']', but got '<stream end>')"),
        ("- grpo\n", "a recipe is a mapping of sections (step, model, data, …)"),
    ],
)
def test_file_that_is_no_recipe_gets_one_line(text, line, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert problems_of(file) == [line]


def test_missing_recipe_gets_one_line(tmp_path):
    assert "no such recipe" in problems_of(tmp_path / "none.yaml")[0]


def test_folder_in_place_of_a_recipe_gets_one_line(tmp_path):
    for name in ("sft.yaml", "grpo.yaml", "README.md"):
        (tmp_path / name).touch()
    assert problems_of(tmp_path) == ["a folder; name one of its recipes (grpo.yaml, sft.yaml)"]


def test_every_mistake_is_told_at_once(write_recipe):
    assert len(problems_of(write_recipe(**trainer(learning_rat=1, max_step=2)))) == 2


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("trainer.learning_rate=1e-5", ("trainer", "learning_rate"), 1e-5),
        ("data.0.fraction=0.5", ("data", 0, "fraction"), 0.5),
        ("rewards.format.weight=1", ("rewards", 1, "weight"), 1.0),
        ("rewards.0.weight=2", ("rewards", 0, "weight"), 2.0),
        ("trainer.top_k=null", ("trainer", "top_k"), None),
        ("seed=7", ("seed",), 7),
        ("trainer.save_strategy=no", ("trainer", "save_strategy"), "no"),
    ],
)
def test_override(override, key, value, write_recipe):
    if "top_k" in override:  # checked like the file: top_k is an int
        assert problems_of(write_recipe(**grpo()), [override])[0].startswith("trainer.top_k: None is NoneType")
        return
    resolved = load_recipe(write_recipe(**grpo()), [override]).model_dump()
    for part in key:
        resolved = resolved[part]
    assert resolved == value


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("trainer.learning_rat=1e-5", "trainer.learning_rat: unknown key"),
        ("data.3.fraction=0.5", "data.3: no such entry; the list has 1"),
        ("data.0.fraction=2", "data.0.fraction: 2 is wrong: input should be less than or equal to 1"),
        ("fraction", "'fraction' is not an override"),
    ],
)
def test_wrong_override_gets_one_line(override, start, write_recipe):
    (line,) = problems_of(write_recipe(**grpo()), [override])
    assert line.startswith(start)


@pytest.mark.parametrize(
    "recipe",
    [
        evaluated(),
        evaluated(per_device_eval_batch_size=6, num_generations_eval=3),
        evaluated([{"name": "a/b", "split": "test"}]) | {"data": [{"name": "a/b"}]},
        trainer(eval_on_start=True) | {"eval_data": evaluated()["eval_data"]},
        on_pairs("reward_model"),
        on_pairs("reward_model", data=held_out([0.5, 1]), eval_data=held_out([0, 0.5])),
        on_pairs("dpo", trainer={"eval_strategy": "epoch", "bf16": False}, eval_data=held_out([0.9, 1])),
    ],
)
def test_evaluation_while_training(recipe, write_recipe):
    assert problems_of(write_recipe(**recipe)) == []


@pytest.mark.parametrize(
    "rewards",
    [
        ["accuracy", {"name": "accuracy", "label": "boxed", "answer_in": "boxed"}],
        [{"name": "accuracy", "first_step": 5, "last_step": 5}],
        [{"name": "accuracy", "task": ["sums", "more"]}],
    ],
    ids=["labels", "one step", "tasks"],
)
def test_rewards_that_are_right(rewards, write_recipe):
    data = [{**grpo()["data"][0], "task": task} for task in ("sums", "more")]
    assert problems_of(write_recipe(**grpo(rewards=rewards, data=data))) == []


def test_hash_is_of_what_the_recipe_says(write_recipe):
    sha256 = load_recipe(write_recipe(**grpo())).sha256
    assert load_recipe(write_recipe(**grpo(seed=0, guards={"stop_on_non_finite": True}))).sha256 == sha256
    assert load_recipe(write_recipe(**grpo(guards={"stop_on_non_finite": False}))).sha256 != sha256
    assert load_recipe(write_recipe(**grpo(seed=1))).sha256 != sha256
    assert load_recipe(write_recipe(**grpo(eval_data=[]))).sha256 == sha256


def test_paths_of_the_resolved_recipe_are_absolute(write_recipe, tmp_path):
    rows = json.dumps({"prompt": "1+1", "solution": "2"}) + "\n"
    for name in ("rows.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text(rows)
    recipe = load_recipe(write_recipe(**evaluated([{"path": "held_out.jsonl"}]) | {"data": [{"path": "rows.jsonl"}]}))
    resolved = yaml.safe_load(dump_recipe(recipe))
    assert resolved["data"][0]["path"] == str(tmp_path / "rows.jsonl")
    assert resolved["eval_data"][0]["path"] == str(tmp_path / "held_out.jsonl")


def test_resolved_recipe_loads_from_anywhere_and_says_the_same(write_recipe, tmp_path):
    recipe = load_recipe(write_recipe(**grpo()))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(elsewhere / "recipe.yaml").sha256 == recipe.sha256
    assert yaml.safe_load(dump_recipe(recipe))["guards"]["stop_on_non_finite"] is True  # defaults are written out


@pytest.mark.parametrize("file", all_recipes(), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_recipe_of_the_repository_is_right(file):
    check_recipe(load_recipe(file))


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({"set": {"model": {"name": "stage:nothing"}}}, "model.name: 'stage:nothing' names no earlier stage"),
        ({"set": {"trainer": {"learning_rat": 1}}}, "trainer.learning_rat: unknown key"),
        ({"recipe": "none.yaml"}, "no such recipe"),
    ],
)
def test_stage_that_is_wrong_names_stage_and_pipeline(change, start, write_recipe):
    write_recipe("grpo.yaml", **grpo())
    stage = {"name": "first", "recipe": "grpo.yaml"} | change
    file = write_recipe(step="pipeline", stages=[stage])
    (line,) = problems_of(file)
    assert start in line
    assert line.endswith(f"(stage first of {file})")


def test_checking_imports_no_torch(write_recipe):
    code = f"""
import sys
from open_r1.check import main
assert main([{str(write_recipe(**grpo()))!r}]) == 0
assert "torch" not in sys.modules and "trl" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
