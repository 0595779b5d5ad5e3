"""DPO: its loss is the papers', a run that was killed ends like one in a piece, a policy learns what it is shown."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import grpo_reference
import pytest
import torch
import trl.trainer.utils
from conftest import CPU_TRAINER, REPOSITORY, slow_but_for
from grpo_reference import Sample
from runs_of_tests import kill_at, run_to_end, what_it_left
from torch.nn.functional import logsigmoid
from trainers_of_tests import Float64LmHead, difference, in_float64, move_from_reference, trainable, write_model
from transformers import AutoModelForCausalLM

from open_r1 import modeling, training
from open_r1.data import load_data
from open_r1.dpo import dpo
from open_r1.recipe import RecipeError, load_recipe
from open_r1.training.pairs import check_rendering

FLOAT64 = 1e-9
LORA = {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
WEIGHTS = {"all weights": {}, "lora": {"lora": LORA}}
PAIRS = [  # of different lengths, the better one the longer in some
    {"prompt": f"{a}+{b}=?", "chosen": f"{a + b}" + "!" * (a % 3), "rejected": "hm" * (b % 4) + f" {a * b}"}
    for a, b in [(1, 2), (3, 4), (5, 5), (7, 1), (2, 6), (9, 9), (4, 4), (8, 3)]
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Threads that wait for each other take ten times as long where the cores are shared, and so small is the model."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def recipe_with(write_recipe, model, tmp_path):
    """Writes a recipe of DPO over PAIRS with trainer keys, and sections over those."""

    def recipe_with(trainer=(), name="recipe.yaml", **sections):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
        values = {"model": {"name": str(model)}, "data": [{"path": "pairs.jsonl"}]} | sections
        values["model"] = {"name": str(model), **values["model"]}
        keys = {**CPU_TRAINER, "per_device_train_batch_size": len(PAIRS), "logging_steps": 1, "save_strategy": "no"}
        return write_recipe(name, step="dpo", seed=3, trainer=keys | dict(trainer), **values)

    return recipe_with


@pytest.fixture
def built(recipe_with, monkeypatch, tmp_path):
    """The trainer as the step builds it, before it trains."""

    def built(**sections):
        trainers = []
        monkeypatch.setattr(training, "train", lambda trainer, *_: trainers.append(trainer))
        dpo(load_recipe(recipe_with(**sections)), tmp_path)
        return trainers[0]

    return built


# --- The loss, by the papers


@dataclass(frozen=True)
class Pair:
    chosen: Sample
    rejected: Sample


def tokenized(max_length: int | None = None) -> list[Pair]:
    """PAIRS as the character tokenizer's template would have them; what is beyond `max_length` tokens is cut off."""
    tokenizer = modeling.character_tokenizer()
    pairs = []
    for pair in PAIRS:
        prompt = tokenizer.encode(f"{modeling.USER}{pair['prompt']}{modeling.ASSISTANT}")
        of_answers = None if max_length is None else max_length - len(prompt)
        answers = [tokenizer.encode(pair[name] + modeling.EOS)[:of_answers] for name in ("chosen", "rejected")]
        pairs.append(Pair(*(Sample(prompt, answer, advantage=0.0) for answer in answers)))
    return pairs


def log_ratio(policy, reference, sample: Sample) -> torch.Tensor:
    """log pi(y | x) - log pi_ref(y | x), sums over the answer's tokens, EOS included."""
    with torch.no_grad():
        of_reference = grpo_reference.log_probs(reference, sample, 1.0).sum()
    return grpo_reference.log_probs(policy, sample, 1.0).sum() - of_reference


def loss_of(pair: Pair, policy, reference, loss_type: str, beta: float, label_smoothing: float) -> torch.Tensor:
    """sigmoid: DPO (arXiv 2305.18290), equation 7; sigmoid_norm: Tulu 3 (2411.15124), section 5, over the lengths.

    robust: DPO where a share of the labels is wrong (2403.00409), which is all that label smoothing is for here.
    """
    better, worse = (log_ratio(policy, reference, sample) for sample in (pair.chosen, pair.rejected))
    if loss_type == "sigmoid_norm":
        better, worse = better / pair.chosen.num_tokens, worse / pair.rejected.num_tokens
    margin = beta * (better - worse)
    if loss_type == "robust":
        kept, flipped = (1 - label_smoothing) * logsigmoid(margin), label_smoothing * logsigmoid(-margin)
        return (flipped - kept) / (1 - 2 * label_smoothing)
    return -logsigmoid(margin)


class Float64LmHeadOfDpo(Float64LmHead):
    """Beside log-probabilities and entropies it gives what DPO's metrics ask for."""

    @staticmethod
    def apply(hidden, weight, bias, labels, *settings):
        log_probs, entropies, *_ = Float64LmHead.apply(hidden, weight, bias, labels, *settings)
        logits = (hidden @ weight.T).detach()
        return log_probs, entropies, None, logits.mean(dim=-1), logits.argmax(dim=-1) == labels


def loss_and_gradient(loss: torch.Tensor, model) -> tuple[float, dict[str, torch.Tensor]]:
    parameters = trainable(model)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.item(), {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}


LOSSES = {
    "sigmoid": {"beta": 0.5},
    "sigmoid, smoothing": {"loss_type": ["sigmoid"], "label_smoothing": 0.2},
    "sigmoid_norm": {"loss_type": ["sigmoid_norm"], "beta": 5.0},
    "sigmoid_norm, smoothing": {"loss_type": ["sigmoid_norm"], "beta": 5.0, "label_smoothing": 0.2},
    "robust, smoothing": {"loss_type": ["robust"], "label_smoothing": 0.2},
    "two": {"loss_type": ["sigmoid", "sigmoid_norm"], "loss_weights": [1.0, 0.25], "beta": 2.0},
    "cut off": {"max_length": 10},
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("case", LOSSES)
def test_loss_and_gradient_are_those_of_the_papers(case, weights, built, model):
    trainer = built(trainer=LOSSES[case], model=WEIGHTS[weights])
    arguments = trainer.args
    with in_float64(trainer), mock.patch.object(trl.trainer.utils, "_ChunkedLogProbFunction", Float64LmHeadOfDpo):
        move_from_reference(trainer.model)
        (batch,) = trainer.get_train_dataloader()
        loss, gradients = loss_and_gradient(trainer.compute_loss(trainer.model, batch), trainer.model)

        reference = grpo_reference.in_float64(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
        expected = [
            weight * loss_of(pair, trainer.model, reference, name, arguments.beta, arguments.label_smoothing)
            for pair in tokenized(arguments.max_length)
            for name, weight in zip(arguments.loss_type, arguments.loss_weights or [1.0], strict=True)
        ]
        by_hand, of_hand = loss_and_gradient(torch.stack(expected).sum() / len(PAIRS), trainer.model)
    assert all("lora" in name for name in gradients) == (weights == "lora")
    assert (trainer.ref_model is None) == (weights == "lora")  # adapters off are the reference
    assert loss == pytest.approx(by_hand, rel=FLOAT64)
    assert difference(gradients, of_hand) < FLOAT64


@pytest.mark.parametrize("weights", WEIGHTS)
def test_precomputed_log_probabilities_are_those_of_the_policy_at_the_beginning(weights, built, model):
    trainer = built(trainer={"precompute_ref_log_probs": True}, model=WEIGHTS[weights])
    assert trainer.ref_model is None
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for row, pair in zip(trainer.train_dataset, tokenized(), strict=True):
        for name in ("chosen", "rejected"):
            by_hand = grpo_reference.log_probs(reference, getattr(pair, name), 1.0).sum().item()
            assert row[f"ref_{name}_logps"] == pytest.approx(by_hand, rel=1e-5)


def test_template_that_does_not_end_the_turn_is_refused(built, tmp_path):
    (tmp_path / "endless.jinja").write_text(modeling.CHAT_TEMPLATE.replace(f" + '{modeling.EOS}'", ""))
    with pytest.raises(RecipeError, match=r"model.chat_template: '<\|end\|>' is not among the trained tokens of row 0"):
        built(model={"chat_template": "endless.jinja"})


# --- What is trained on is what the pairs say


THOUGHT = {"prompt": "1+1=?", "chosen": "<think>1 and 1</think>2", "rejected": "<think>hm</think>3"}
SHORT_OF_THOUGHT = {"prompt": "1+1=?", "chosen": "2", "rejected": "3"}
STRIPS = modeling.CHAT_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]")
PREFILLS = modeling.CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{% endif %}"
TRIMS = modeling.CHAT_TEMPLATE.replace("message['content']", "message['content'].strip()")
TEMPLATES = {  # a template, a pair, and what is wrong with it for a policy
    "strips": (STRIPS, THOUGHT, r"row 0, chosen: it leaves out some of what the assistant says, as templates do that"),
    "strips, nothing to strip": (STRIPS, SHORT_OF_THOUGHT, None),
    "prefills": (
        PREFILLS,
        SHORT_OF_THOUGHT,
        r"row 0, chosen: a policy's prompt ends with '.*<think>', and before this",
    ),
    "prefills what is there": (PREFILLS, THOUGHT, None),
    "trims": (TRIMS, {**THOUGHT, "chosen": " 2\n"}, None),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_template_that_changes_what_pairs_say_is_refused(case, recipe_with, tmp_path):
    template, pair, problem = TEMPLATES[case]
    recipe, pairs, tokenizer = rendering_of(recipe_with, tmp_path, pair)
    tokenizer.chat_template = template
    line = rf"recipe.yaml: model.chat_template: {problem} .*; give one that renders every message"
    with pytest.raises(RecipeError, match=line) if problem else contextlib.nullcontext():
        check_rendering(recipe, pairs, tokenizer, after_generation_prompt=True)


def test_earlier_turns_may_lose_their_thinking_and_a_reward_model_is_asked_for_no_answer(recipe_with, tmp_path):
    question, answer = ({"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "2"})
    pair = {"prompt": [question, {"role": "assistant", "content": "<think>hm</think>2"}, question]}
    answers = {"chosen": [answer], "rejected": [{**answer, "content": "3"}]}
    recipe, pairs, tokenizer = rendering_of(recipe_with, tmp_path, pair | answers)
    tokenizer.chat_template = STRIPS
    check_rendering(recipe, pairs, tokenizer, after_generation_prompt=True)
    tokenizer.chat_template = PREFILLS
    check_rendering(recipe, pairs, tokenizer, after_generation_prompt=False)


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "recipes" / "chat_templates").glob("*.jinja")), ids=lambda f: f.stem
)
@pytest.mark.parametrize("pair", [THOUGHT, SHORT_OF_THOUGHT], ids=["thinking", "none"])
def test_templates_of_the_recipes_render_pairs_as_they_are(file, pair, recipe_with, tmp_path):
    recipe, pairs, tokenizer = rendering_of(recipe_with, tmp_path, pair)
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    check_rendering(recipe, pairs, tokenizer, after_generation_prompt=True)


def rendering_of(recipe_with, tmp_path, pair: dict):
    """A recipe of one pair, the pair as the step loads it, and the model's tokenizer."""
    recipe = load_recipe(recipe_with(data=[{"path": "pair.jsonl"}]))
    (tmp_path / "pair.jsonl").write_text(json.dumps(pair) + "\n")
    return recipe, load_data(recipe), modeling.load_tokenizer(recipe)


@pytest.mark.parametrize("strips", ["data", "eval_data"])
def test_both_sections_are_rendered_before_anything_is_trained(strips, recipe_with, tmp_path):
    (tmp_path / "strips.jinja").write_text(STRIPS)
    pairs = {"data": SHORT_OF_THOUGHT, "eval_data": SHORT_OF_THOUGHT, strips: THOUGHT}
    for section, pair in pairs.items():
        (tmp_path / f"{section}.jsonl").write_text(json.dumps(pair) + "\n")
    sources = {section: [{"path": f"{section}.jsonl"}] for section in pairs}
    recipe = recipe_with({"eval_strategy": "steps"}, model={"chat_template": "strips.jinja"}, **sources)
    with pytest.raises(RecipeError, match="model.chat_template: row 0, chosen: it leaves out"):
        dpo(load_recipe(recipe), tmp_path)


LONG = {"prompt": "1+1=?" * 10, "chosen": "2", "rejected": "3"}


def test_pairs_that_trl_leaves_out_or_cuts_off_are_told(built, tmp_path, capfd):
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in [LONG, *PAIRS, LONG]))
    trainer = built(trainer={"max_length": 10}, data=[{"path": "some.jsonl"}])
    assert len(trainer.train_dataset) == len(PAIRS)
    room = 10 - len("u1+1=?a") - 1  # less the prompt's tokens and EOS
    cut = sum(len(pair[name]) > room for pair in PAIRS for name in ("chosen", "rejected"))
    printed = capfd.readouterr().out
    assert f"data: 2 of {len(PAIRS) + 2} pairs are left out: their prompts alone fill trainer.max_length" in printed
    assert f"data: {cut} of {2 * len(PAIRS)} answers are cut off at trainer.max_length (10 tokens)" in printed
    assert 0 < cut < 2 * len(PAIRS)


def test_pairs_that_all_fit_are_not_told_of(built, capfd):
    built(trainer={"max_length": 100})
    assert "trainer.max_length" not in capfd.readouterr().out


@pytest.mark.parametrize("section", ["data", "eval_data"])
@pytest.mark.parametrize("keys", [{}, {"precompute_ref_log_probs": True}], ids=["", "precomputed"])
def test_pairs_of_which_none_is_left_are_one_line(section, keys, recipe_with, tmp_path):
    for name, pair in (("fits", SHORT_OF_THOUGHT), ("long", LONG)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(pair) + "\n")
    sources = {
        "data": [{"path": "fits.jsonl"}],
        "eval_data": [{"path": "pairs.jsonl"}],
        section: [{"path": "long.jsonl"}],
    }
    recipe = recipe_with({"max_length": 20, "eval_strategy": "steps", **keys}, **sources)
    line = (
        rf"recipe.yaml: {section}: all 1 pairs are left out: their prompts alone fill trainer.max_length \(20 tokens\)"
    )
    with pytest.raises(RecipeError, match=line):
        dpo(load_recipe(recipe), tmp_path)


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
    "precomputed": {"trainer": {"precompute_ref_log_probs": True}},
    "lora, precomputed": {"model": {"lora": LORA}, "trainer": {"precompute_ref_log_probs": True}},
    "evaluation in between": {
        "eval_data": [{"path": "held_out.jsonl"}],
        "trainer": {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 4, "gradient_accumulation_steps": 2},
    },
}


@pytest.mark.parametrize("case", slow_but_for(RUNS, "all weights", "lora"))
def test_killed_twice_it_ends_with_the_same_weights_and_metrics(case, recipe_with, tmp_path):
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS[:3]))
    sections = {**RUNS[case], "trainer": SHORT | RUNS[case].get("trainer", {})}
    recipe, whole, killed = recipe_with(**sections), tmp_path / "whole", tmp_path / "killed"
    run_to_end(dpo, recipe, whole)
    for checkpoint in (3, 5):
        kill_at(dpo, recipe, killed, checkpoint)
    run_to_end(dpo, recipe, killed)
    assert what_it_left(killed) == what_it_left(whole)


@pytest.mark.slow
def test_killed_under_its_launcher_it_is_taken_up_by_the_same_command(recipe_with, tmp_path):
    recipe = recipe_with(trainer={**SHORT, "max_steps": 60})
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}

    def start(runs: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "open_r1.launch", "dpo", str(recipe), "--runs", str(tmp_path / runs)]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    def run_dir(runs: str) -> Path:
        return next((tmp_path / runs / "recipe").glob("seed*"), tmp_path / "none")

    assert start("whole").wait() == 0
    for last in (10, 30):
        launcher = start("killed")
        while not (run_dir("killed") / "checkpoints" / f"checkpoint-{last}").exists():
            with pytest.raises(subprocess.TimeoutExpired):  # it is still at work
                launcher.wait(timeout=0.01)
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
    assert start("killed").wait() == 0
    assert what_it_left(run_dir("killed")) == what_it_left(run_dir("whole"))


# --- Learning


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm"])
def test_a_policy_learns_which_answer_is_better(loss_type, weights, recipe_with, tmp_path):
    keys = {"max_steps": 8, "learning_rate": 3e-2, "loss_type": [loss_type]}
    dpo(load_recipe(recipe_with(trainer=keys, model=WEIGHTS[weights])), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)  # a policy that is its reference
    assert rows[-1]["rewards/margins"] > 0.1
    assert rows[-1]["rewards/accuracies"] == 1.0
