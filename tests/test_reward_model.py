"""A reward model: its loss, what it is worth, that a killed run ends like one in a piece, and that RL hears it."""

import json
import math
import random
import shutil

import grpo_reference
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU_TRAINER, slow_but_for, sums
from runs_of_tests import kill_at, run_to_end, what_it_left
from torch.nn.functional import logsigmoid
from trainers_of_tests import difference, move_from_reference, trainable, write_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from open_r1 import modeling, training
from open_r1.check import check_recipe
from open_r1.feedback import held_out_pairs
from open_r1.feedback.held_out_pairs import report_on
from open_r1.feedback.reward_models import reward_model_here
from open_r1.grpo import grpo
from open_r1.recipe import RecipeError, load_recipe
from open_r1.reward_model import reward_model
from open_r1.run_record import REWARD_MODEL_REPORT
from open_r1.step_process import RunStopped

FLOAT64 = 1e-9
LORA = {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
WEIGHTS = {"all weights": {}, "lora": {"lora": LORA}}
PAIRS = [
    {"prompt": f"{a}+{b}=?", "chosen": f"{a + b}" + "!" * (a % 3), "rejected": "hm" * (b % 4) + f" {a * b}"}
    for a, b in [(1, 2), (3, 4), (5, 5), (7, 1), (2, 6), (9, 9), (4, 4), (8, 3)]
]
HELD_OUT = [{"prompt": f"{a}+1=?", "chosen": f"{a + 1}", "rejected": f" {a}" * (1 + a % 2)} for a in range(5)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Threads that wait for each other take ten times as long where the cores are shared, and so small is the model."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A causal language model, which a reward model begins as."""
    return write_model(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture
def recipe_with(write_recipe, model, tmp_path):
    """Writes a recipe of a reward model over PAIRS, its report over HELD_OUT, with keys of the trainer and sections."""

    def recipe_with(trainer=(), **sections):
        for name, pairs in (("pairs", PAIRS), ("held_out", HELD_OUT)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        values = {"data": [{"path": "pairs.jsonl"}], "eval_data": [{"path": "held_out.jsonl"}]} | sections
        values["model"] = {"name": str(model), **values.get("model", {})}
        keys = {**CPU_TRAINER, "per_device_train_batch_size": len(PAIRS), "logging_steps": 1, "save_strategy": "no"}
        return write_recipe("recipe.yaml", step="reward_model", seed=3, trainer=keys | dict(trainer), **values)

    return recipe_with


def conversation(pair: dict, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair[answer]}]


def ids_of(pair: dict, answer: str) -> list[int]:
    """The tokens of prompt and answer as the character tokenizer's template would have them."""
    text = f"{modeling.USER}{pair['prompt']}{modeling.ASSISTANT}{pair[answer]}{modeling.EOS}"
    return modeling.character_tokenizer().encode(text)


def reward_of(model, ids: list[int]) -> torch.Tensor:
    """The head on the state of the last token, of one row without padding."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.score(inner.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])[0]


# --- The loss, by hand


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("centered", [None, 0.1])
def test_loss_and_gradient_are_those_of_bradley_and_terry(centered, weights, recipe_with, monkeypatch, tmp_path):
    trainers = []
    monkeypatch.setattr(training, "train", lambda trainer, *_: trainers.append(trainer))
    monkeypatch.setattr("open_r1.reward_model.rewards_of_pairs", lambda trainer: ([1.0], [0.0], [1], [1]))
    keys = {"center_rewards_coefficient": centered}
    reward_model(load_recipe(recipe_with(keys, model=WEIGHTS[weights])), tmp_path)
    (trainer,) = trainers
    parameters = trainable(grpo_reference.in_float64(trainer.model))
    move_from_reference(trainer.model)
    (batch,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, batch)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    chosen, rejected = (
        torch.stack([reward_of(trainer.model, ids_of(pair, answer)) for pair in PAIRS])
        for answer in ("chosen", "rejected")
    )
    by_hand = -logsigmoid(chosen - rejected).mean() + (centered or 0.0) * (chosen + rejected).square().mean()
    of_hand = torch.autograd.grad(by_hand, list(parameters.values()), allow_unused=True)
    assert loss.item() == pytest.approx(by_hand.item(), rel=FLOAT64)
    assert difference(_given(parameters, gradients), _given(parameters, of_hand)) < FLOAT64
    assert any("score" in name for name in _given(parameters, gradients))
    assert any("lora" in name for name in parameters) == (weights == "lora")


def _given(names, gradients) -> dict[str, torch.Tensor]:
    return {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


# --- What the step leaves

LEARNS = {"max_steps": 12, "learning_rate": 1e-2}


@pytest.fixture(scope="module", params=WEIGHTS)
def trained(request, model, tmp_path_factory):
    """The directory of a run."""
    folder = tmp_path_factory.mktemp("trained")
    for name, pairs in (("pairs", PAIRS), ("held_out", HELD_OUT)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    keys = {**CPU_TRAINER, **LEARNS, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    sections = {
        "step": "reward_model",
        "model": {"name": str(model), **WEIGHTS[request.param]},
        "data": [{"path": "pairs.jsonl"}],
        "eval_data": [{"path": "held_out.jsonl"}],
        "trainer": {**keys, "per_device_eval_batch_size": 2},
    }
    (folder / "recipe.yaml").write_text(json.dumps(sections))
    reward_model(load_recipe(folder / "recipe.yaml"), folder)
    return folder


def test_it_learns_which_answer_is_better(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    assert rows[-1]["accuracy"] == 1.0


def test_the_head_that_is_trained_is_the_one_that_is_saved(trained, model):
    saved = AutoModelForSequenceClassification.from_pretrained(trained / "model")
    assert saved.config.architectures == ["LlamaForSequenceClassification"]
    assert saved.config.num_labels == 1
    assert not any("lora" in name for name in saved.state_dict())
    started = modeling.load_model(load_recipe(trained / "recipe.yaml"))
    changed = {
        name
        for name, weight in started.model.state_dict().items()
        if not torch.equal(weight, saved.model.state_dict()[name])
    }
    assert {"layers.0.self_attn.q_proj.weight", "layers.1.self_attn.v_proj.weight"} <= changed


def test_the_report_is_on_the_held_out_pairs_as_the_saved_model_sees_them(trained):
    report = json.loads((trained / REWARD_MODEL_REPORT).read_text())
    saved = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    with torch.no_grad():
        chosen, rejected = (
            [reward_of(saved, ids_of(pair, answer)).item() for pair in HELD_OUT] for answer in ("chosen", "rejected")
        )
    tokens = [[len(ids_of(pair, answer)) for pair in HELD_OUT] for answer in ("chosen", "rejected")]
    expected = report_on(chosen, rejected, *tokens)
    assert report["num_pairs"] == len(HELD_OUT)
    assert report.keys() == expected.keys()
    for key in ("accuracy", "loss", "length_correlation", "longer_is_chosen", "mean", "std"):
        assert report[key] == pytest.approx(expected[key], rel=1e-4), key


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rewards_are_those_of_the_model_in_any_batch_and_order(batch_size, trained):
    saved = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    rows = [(pair, answer) for pair in PAIRS for answer in ("chosen", "rejected")]
    random.Random(batch_size).shuffle(rows)
    with torch.no_grad():
        expected = [reward_of(saved, ids_of(*row)).item() for row in rows]
    given = reward_model_here(str(trained / "model"), None, "float32").rewards(
        [conversation(*row) for row in rows], batch_size
    )
    assert given == pytest.approx(expected, abs=1e-5)
    assert max(given) - min(given) > 0.1  # else any would do


def test_rewards_are_those_that_the_trainer_computed(trained):
    report = json.loads((trained / REWARD_MODEL_REPORT).read_text())
    here = reward_model_here(str(trained / "model"), None, "float32")
    rewards = here.rewards([conversation(pair, answer) for answer in ("chosen", "rejected") for pair in HELD_OUT], 4)
    assert np.mean(rewards) == pytest.approx(report["mean"], abs=1e-5)
    assert np.std(rewards) == pytest.approx(report["std"], abs=1e-5)


def test_conversation_of_too_many_tokens_has_no_reward(trained):
    here = reward_model_here(str(trained / "model"), None, "float32")
    longest = {"prompt": PAIRS[0]["prompt"], "chosen": "9" * 50}
    num_tokens = len(ids_of(longest, "chosen"))
    both = [conversation(longest, "chosen"), conversation(PAIRS[0], "chosen")]
    shorter = here.rewards(both[1:], 1)
    assert here.rewards(both, 2, num_tokens - 1) == pytest.approx([None, *shorter])
    assert None not in here.rewards(both, 2, num_tokens)


def test_model_that_knows_no_padding_is_asked_one_by_one(trained, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    rows = [conversation(pair, "rejected") for pair in PAIRS]
    given = reward_model_here(str(tmp_path / "model"), None, "float32").rewards(rows, 8)
    assert given == pytest.approx(reward_model_here(str(trained / "model"), None, "float32").rewards(rows, 8), abs=1e-5)


@pytest.mark.parametrize("section", ["data", "eval_data"])
def test_pairs_that_are_all_too_long_are_told(section, recipe_with, tmp_path):
    long = {"prompt": "1+1=?", "chosen": "2" * 40, "rejected": "3"}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    recipe = recipe_with({"max_length": 40}, **{section: [{"path": "long.jsonl"}]})
    line = rf"recipe.yaml: {section}: all 1 pairs are left out: they are longer than trainer.max_length \(40 tokens\)"
    with pytest.raises(RecipeError, match=line):
        reward_model(load_recipe(recipe), tmp_path)


def test_template_that_strips_the_thinking_is_refused(recipe_with, tmp_path):
    strips = modeling.CHAT_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]")
    (tmp_path / "strips.jinja").write_text(strips)
    thought = {"prompt": "1+1=?", "chosen": "2", "rejected": "<think>hm</think>3"}
    (tmp_path / "thought.jsonl").write_text(json.dumps(thought) + "\n")
    recipe = recipe_with(data=[{"path": "thought.jsonl"}], model={"chat_template": "strips.jinja"})
    with pytest.raises(RecipeError, match="model.chat_template: row 0, rejected: it leaves out some of what"):
        reward_model(load_recipe(recipe), tmp_path)


@pytest.mark.parametrize(("correlation", "told"), [(None, "–"), (0.5, "+0.50"), (-0.001, "-0.00")])
def test_correlation_with_length_is_told_where_there_is_one(
    correlation, told, recipe_with, monkeypatch, tmp_path, capfd
):
    report = report_of([1.0], [1]) | {"length_correlation": correlation}
    monkeypatch.setattr(training, "train", lambda *_: None)
    monkeypatch.setattr("open_r1.reward_model.rewards_of_pairs", lambda trainer: ())
    monkeypatch.setattr("open_r1.reward_model.report_on", lambda: report)
    reward_model(load_recipe(recipe_with()), tmp_path)
    assert capfd.readouterr().out.endswith(f"correlation with length {told}\n")


# --- Models that are none


def no_head(folder, model):
    shutil.copytree(model, folder)


def two_outputs(folder, model):
    config = AutoConfig.from_pretrained(model, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    modeling.character_tokenizer().save_pretrained(folder)


def no_template(folder, model):
    config = AutoConfig.from_pretrained(model, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer = modeling.character_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


def nothing(folder, model):
    folder.mkdir()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (no_head, r"rewards: .*/model is no reward model \(it has no score.weight\); give the model of a run of step "),
        (two_outputs, r"rewards: .*/model has 2 outputs; a reward model has one"),
        (no_template, r"rewards: the tokenizer of .*/model has no chat template; save one with it"),
        (nothing, r"rewards: reward model 'model' cannot be loaded \("),
    ],
)
def test_model_that_is_none_is_one_line(make, line, model, tmp_path):
    make(tmp_path / "model", model)
    with pytest.raises(RecipeError, match=line) as error:
        reward_model_here(str(tmp_path / "model"), None, "float32")
    assert "\n" not in str(error.value)


# --- Killed and taken up

SHORT = {
    "max_steps": 6,
    "per_device_train_batch_size": 2,  # in the second epoch after four
    "learning_rate": 1e-2,
    "save_strategy": "steps",
    "save_steps": 1,
}
RUNS = {
    "all weights": {},
    "lora": {"model": {"lora": {**LORA, "dropout": 0.1}}, "trainer": {"disable_dropout": False}},
    "evaluation in between": {
        "trainer": {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 4, "gradient_accumulation_steps": 2}
    },
}


@pytest.mark.parametrize("case", slow_but_for(RUNS, "all weights"))
def test_killed_twice_it_ends_with_the_same_weights_metrics_and_report(case, recipe_with, tmp_path):
    recipe = recipe_with(SHORT | RUNS[case].get("trainer", {}), model=RUNS[case].get("model", {}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_end(reward_model, recipe, whole)
    for checkpoint in (3, 5):
        kill_at(reward_model, recipe, killed, checkpoint)
    run_to_end(reward_model, recipe, killed)
    assert what_it_left(killed) == what_it_left(whole)
    assert (killed / REWARD_MODEL_REPORT).read_text() == (whole / REWARD_MODEL_REPORT).read_text()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_killed_before_its_report_it_only_reports(weights, recipe_with, tmp_path):
    recipe, run_dir = recipe_with(SHORT, model=WEIGHTS[weights]), tmp_path / "run"
    run_to_end(reward_model, recipe, run_dir)
    left, report = what_it_left(run_dir), (run_dir / REWARD_MODEL_REPORT).read_text()
    (run_dir / REWARD_MODEL_REPORT).unlink()
    shutil.rmtree(run_dir / "model")
    run_to_end(reward_model, recipe, run_dir)
    assert what_it_left(run_dir) == left
    assert (run_dir / REWARD_MODEL_REPORT).read_text() == report


# --- The report, by hand


def report_of(margins, token_differences=None):
    """The report on pairs with these differences of rewards and of tokens."""
    differences = [0] * len(margins) if token_differences is None else token_differences
    zeros = [0.0] * len(margins)
    return report_on(margins, zeros, [10 + difference for difference in differences], [10] * len(margins))


LOGIT_09 = math.log(9)  # sigmoid of it is 0.9


@pytest.mark.parametrize(
    ("margins", "accuracy", "loss"),
    [
        ([1.0, 2.0, 3.0, -1.0], 0.75, None),
        ([0.0, 0.0], 0.5, math.log(2)),
        ([0.0, 1.0], 0.75, None),
        ([LOGIT_09, -LOGIT_09], 0.5, -(math.log(0.9) + math.log(0.1)) / 2),
        ([-800.0], 0.0, 800.0),
    ],
    ids=["three of four", "ties", "a tie is half right", "sure, and half right", "no overflow"],
)
def test_accuracy_and_loss(margins, accuracy, loss):
    report = report_of(margins)
    assert report["num_pairs"] == len(margins)
    assert report["accuracy"] == accuracy
    assert report["accuracy_stderr"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / len(margins)))
    if loss is not None:
        assert report["loss"] == pytest.approx(loss)


@pytest.mark.parametrize(
    ("confidences", "right", "bins", "error"),
    [
        ([0.9] * 10, 9, [(10, 0.9, 0.9)], 0.0),
        ([0.9] * 10, 5, [(10, 0.9, 0.5)], 0.4),
        ([0.55, 0.95], 2, [(1, 0.55, 1.0), (1, 0.95, 1.0)], (0.45 + 0.05) / 2),
        ([0.65, 0.65, 0.65, 0.75], 2, [(3, 0.65, 2 / 3), (1, 0.75, 0.0)], (3 * (2 / 3 - 0.65) + 0.75) / 4),
    ],
    ids=["calibrated", "too sure", "two bins", "weighed by their pairs"],
)
def test_calibration(confidences, right, bins, error):
    """The first `right` pairs have the chosen answer before the other."""
    margins = [math.log(p / (1 - p)) * (1 if row < right else -1) for row, p in enumerate(confidences)]
    report = report_of(margins)
    assert [tuple(each.values()) for each in report["calibration"]] == [pytest.approx(each) for each in bins]
    assert [tuple(each) for each in report["calibration"]] == [("pairs", "confidence", "right")] * len(bins)
    assert report["calibration_error"] == pytest.approx(error)


@pytest.mark.parametrize("margin", [0.0, 60.0])
def test_ends_of_the_confidence_are_in_the_first_and_the_last_bin(margin):
    (only,) = report_of([margin])["calibration"]
    assert only == {"pairs": 1, "confidence": 1.0 if margin else 0.5, "right": 1.0 if margin else 0.5}


@pytest.mark.parametrize(
    ("margins", "tokens", "correlation"),
    [
        ([1.0, 2.0, 3.0], [1, 5, 100], 1.0),
        ([3.0, 2.0, 1.0], [1, 5, 100], -1.0),
        ([1.0, 1.0, 2.0], [1, 2, 3], math.sqrt(3) / 2),  # ranks 1.5, 1.5, 3 and 1, 2, 3
        ([1.0, 2.0, 3.0], [4, 4, 4], None),
        ([1.0, 1.0, 1.0], [1, 2, 3], None),
        ([1.0], [3], None),
    ],
    ids=["rising", "falling", "a tie", "equal lengths", "equal rewards", "one pair"],
)
def test_correlation_with_length(margins, tokens, correlation):
    assert report_of(margins, tokens)["length_correlation"] == (
        None if correlation is None else pytest.approx(correlation)
    )


def test_correlation_is_spearman_s():
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    for _ in range(50):
        margins, tokens = ([rng.randint(-3, 3) for _ in range(20)] for _ in range(2))
        expected = stats.spearmanr(margins, tokens).statistic
        assert held_out_pairs._rank_correlation(np.array(margins), np.array(tokens)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("margins", "tokens", "longer", "if_longer", "if_shorter"),
    [
        ([1.0, -1.0, 1.0, 1.0], [5, 5, -5, 0], 2 / 3, 0.5, 1.0),
        ([1.0, -1.0], [5, 5], 1.0, 0.5, None),
        ([1.0, -1.0], [-5, -5], 0.0, None, 0.5),
        ([1.0], [0], None, None, None),
    ],
    ids=["of each", "none shorter", "none longer", "all equal"],
)
def test_accuracy_by_which_answer_is_longer(margins, tokens, longer, if_longer, if_shorter):
    report = report_of(margins, tokens)
    assert report["longer_is_chosen"] == (None if longer is None else pytest.approx(longer))
    assert (report["accuracy_if_longer"], report["accuracy_if_shorter"]) == (if_longer, if_shorter)


def test_scale_is_that_of_all_rewards():
    report = report_on([1.0, 3.0], [1.0, -1.0], [1, 1], [1, 1])
    assert (report["mean"], report["std"]) == (1.0, pytest.approx(math.sqrt(2)))


def test_report_on_nothing_is_refused():
    with pytest.raises(ValueError, match="no held-out pairs"):
        report_on([], [], [], [])


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_no_numbers_are_no_wrong_answers(lost):
    with pytest.raises(RunStopped, match="no finite number in 1 of 2 held-out pairs"):
        report_on([1.0, lost], [0.0, 0.0], [1, 1], [1, 1])


# --- In RL

ROLLOUTS = {
    **CPU_TRAINER,
    **{"max_steps": 2, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8},
    **{"num_generations": 4, "max_completion_length": 12, "log_completions": True, "num_completions_to_print": 0},
}


@pytest.fixture
def grpo_recipe(write_recipe, model):
    def grpo_recipe(**reward):
        rewards = ["format", {"name": "reward_model", **reward}]
        sections = {"model": {"name": str(model)}, "data": [sums(16)], "rewards": rewards, "trainer": ROLLOUTS}
        return load_recipe(write_recipe("grpo.yaml", step="grpo", **sections))

    return grpo_recipe


def test_rl_hears_the_reward_model(trained, grpo_recipe, tmp_path):
    recipe = grpo_recipe(model=str(trained / "model"), batch_size=3, label="helpful", max_length=21)  # some have 22
    check_recipe(recipe)
    grpo(recipe, tmp_path)
    here = reward_model_here(str(trained / "model"), None, "float32")
    files = sorted((tmp_path / "completions").glob("*.parquet"))
    for file, line in zip(files, (tmp_path / "metrics.jsonl").read_text().splitlines(), strict=True):
        table = pd.read_parquet(file)
        conversations = [
            [*prompt, *completion] for prompt, completion in zip(table["prompt"], table["completion"], strict=True)
        ]
        expected = here.rewards(conversations, 8, 21)
        assert [None if math.isnan(value) else value for value in table["helpful"]] == pytest.approx(expected, abs=1e-5)
        given = [value for value in expected if value is not None]
        assert 0 < len(given) < len(expected)
        metrics = json.loads(line)
        assert metrics["rewards/helpful/mean"] == pytest.approx(np.mean(given), abs=1e-5)
        assert metrics["rewards/helpful/failed_share"] == pytest.approx(expected.count(None) / len(expected))


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ({}, "rewards.1: reward_model: give exactly one of model and endpoint (got none)"),
        ({"batch_size": 0}, "rewards.1: reward_model: batch_size is 0; give 1 or more"),
        (
            {"max_length": 0},
            "rewards.1: reward_model: max_length is 0; give the most tokens that it takes, or remove it",
        ),
        ({"dtype": "float8"}, "rewards.1.dtype: unknown dtype 'float8' (known: float32, bfloat16, float16)"),
        ({"model": "./nowhere"}, "rewards.1.model: no model at "),
        ({"model": "stage:helpful"}, "rewards.1.model: 'stage:helpful' names no earlier stage that makes a model"),
    ],
)
def test_reward_that_cannot_be_is_told_before_the_run(reward, line, grpo_recipe, model):
    given = reward if "model" in reward or not reward else {"model": str(model), **reward}
    recipe = grpo_recipe(**given)
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe)
    (told,) = error.value.lines
    assert told.removeprefix(f"{recipe.source}: ").startswith(line)
