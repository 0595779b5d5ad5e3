"""TRL's loss and gradient are those of the papers, and ours are TRL's, whatever is saved.

In float64, where no rounding is left for a mistake to hide in; once more in float32, with TRL's own kernel.
"""

import dataclasses
import math

import grpo_reference
import pytest
import torch
import trl
from grpo_cases import (
    CLIPPED,
    DEAD,
    DIVERGENCES,
    FACTORS,
    LOSSES,
    SAVINGS,
    WEIGHTS,
    Case,
    covering_pairs,
    drawn_case,
    run_case,
    savings_of,
    savings_on_and_off,
)
from trainers_of_tests import engine_noise, from_reference, from_run, norm, some_problems, train, write_model
from trl import GRPOConfig

from open_r1.grpo_trainer import GRPOTrainer
from open_r1.recipe import Grpo

# Measured at worst: 1e-14 and 4e-6 (scripts/gradient_equality.py).
FLOAT64, FLOAT32 = 1e-11, 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "policy")


def named(case: Case) -> str:
    return ", ".join(case.values())


# ---- the reference itself, worked by hand

LN2 = math.log(2)


@pytest.mark.parametrize(
    ("rewards", "scale", "expected"),
    [
        ([1.0, 0.0, 0.0, 1.0], "none", [0.5, -0.5, -0.5, 0.5]),
        ([3.0, 1.0], "group", [1 / (2**0.5 + 1e-4), -1 / (2**0.5 + 1e-4)]),
        ([1.0, None, 0.0], "none", [0.5, 0.0, -0.5]),
        ([None, 1.0, None], "group", [0.0, 0.0, 0.0]),
        ([0.1] * 6, "group", [0.0] * 6),
    ],
    ids=["less the mean", "over the deviation", "one unjudged", "only one judged", "all equal"],
)
def test_advantages_of_a_group(rewards, scale, expected):
    assert grpo_reference.group_advantages(rewards, scale) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "expected"),
    [
        (1.5, 2.0, None, 2.56),
        (1.5, -2.0, None, -3.0),
        (0.5, 2.0, None, 1.0),
        (0.5, -2.0, None, -1.6),
        (1.1, 2.0, None, 2.2),
        (3.0, -2.0, 1.4, -2.8),
    ],
    ids=["above, better", "above, worse", "below, better", "below, worse", "within", "two-sided"],
)
def test_clipped_surrogate(ratio, advantage, delta, expected):
    arguments = GRPOConfig("unused", use_cpu=True, bf16=False, epsilon=0.2, epsilon_high=0.28, delta=delta)
    surrogate = grpo_reference.clipped_surrogate(torch.tensor([ratio]).double(), advantage, arguments)
    assert surrogate.item() == pytest.approx(expected, rel=1e-6)


def test_divergence_and_ratios():
    log_probs_T, other_T = torch.tensor([-LN2, -1.0]).double(), torch.tensor([-2 * LN2, -1.0]).double()
    assert grpo_reference.k3_divergence(log_probs_T, other_T).tolist() == pytest.approx([0.5 + LN2 - 1, 0.0])
    assert grpo_reference.importance_ratio(log_probs_T, other_T, "token").tolist() == pytest.approx([2.0, 1.0])
    assert grpo_reference.importance_ratio(log_probs_T, other_T, "sequence").tolist() == pytest.approx([2**0.5] * 2)


# ---- stock and ours, on cases among which every two settings meet


@pytest.fixture(scope="module", params=covering_pairs(FACTORS), ids=named)
def runs(request, model, tmp_path_factory):
    """The same case trained by TRL's trainer and by ours."""
    folder = tmp_path_factory.mktemp("runs")
    stock = run_case(trl.GRPOTrainer, request.param, model, folder / "stock", float64=True)
    savings = savings_of(request.param)
    return stock, run_case(GRPOTrainer, request.param, model, folder / "ours", float64=True, savings=savings)


def test_stock_has_the_loss_and_gradient_of_the_papers(runs):
    stock, _ = runs
    assert max(from_reference(stock)) < FLOAT64


def test_ours_has_the_loss_and_gradient_of_stock(runs):
    stock, ours = runs
    assert max(from_run(ours, stock)) < FLOAT64


ALL_SAVED = {
    "scale": "scale group",
    "truncated": "truncated count",
    "tokens": "all tokens",
    "engine": "no engine",
    "dead": "half dead",
    "verdicts": "all judged",
    "weights": "all weights",
    **{saving: saving for saving in SAVINGS},
}


@pytest.mark.parametrize("loss", [*CLIPPED, "cispo"])
def test_ratios_beyond_their_clip_are_clipped_alike(loss, model, tmp_path):
    case = {"loss": loss, "shape": "two iterations", "divergence": "corrected KL", **ALL_SAVED}
    stock = run_case(trl.GRPOTrainer, case, model, tmp_path, float64=True)
    ours = run_case(GRPOTrainer, case, model, tmp_path, float64=True, savings=savings_of(case))
    names = ["cispo_clip_ratio"] if loss == "cispo" else ["clip_ratio/low_mean", "clip_ratio/high_mean"]
    for name in names:
        assert stock.steps[0].metrics[name] == 0
        assert stock.steps[1].metrics[name] > 0
    assert max(*from_reference(stock), *from_reference(ours), *from_run(ours, stock)) < FLOAT64


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_is_as_near_as_it_can_be(loss, model, tmp_path):
    case = {"loss": loss, "shape": "steps share a rollout", "divergence": "corrected KL", **ALL_SAVED}
    stock = run_case(trl.GRPOTrainer, case, model, tmp_path)
    ours = run_case(GRPOTrainer, case, model, tmp_path, savings=savings_of(case), follow=stock)
    assert max(from_reference(stock)) < FLOAT32
    assert max(from_run(ours, stock)) < FLOAT32


@pytest.mark.parametrize("weights", WEIGHTS)
def test_activations_that_are_computed_anew_change_nothing(weights, model, tmp_path):
    case = {"loss": "dapo", "shape": "accumulated", "divergence": "no KL", **ALL_SAVED}
    case |= {"dead": "half dead", "weights": weights}
    ours = run_case(
        GRPOTrainer, case, model, tmp_path, float64=True, savings=savings_of(case), gradient_checkpointing=True
    )
    assert max(from_reference(ours)) < FLOAT64


# ---- where ours is not stock, and right


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_equal_rewards_teach_nothing_though_their_mean_is_rounded(loss_type, model, tmp_path):
    """Of six rewards of 0.9 the mean is not 0.9 in float32: TRL's advantages are 6e-4, and have a gradient."""
    live, *others = some_problems(3, 6, 8)
    ghosts = [dataclasses.replace(each, rewards=[0.9] * 6) for each in others]
    settings = {"per_device_train_batch_size": 6, "loss_type": loss_type}
    alone, among = settings | {"gradient_accumulation_steps": 2}, settings | {"gradient_accumulation_steps": 3}

    assert norm(train(trl.GRPOTrainer, ghosts, model, tmp_path, **alone).steps[0].gradients) > 1e-6
    ours = train(GRPOTrainer, ghosts, model, tmp_path, savings=Grpo(), **alone)
    assert norm(ours.steps[0].gradients) == 0
    assert from_reference(ours)[0] == 0

    stock = train(trl.GRPOTrainer, [live, *ghosts], model, tmp_path, **among)
    ours = train(GRPOTrainer, [live, *ghosts], model, tmp_path, savings=Grpo(), **among)
    assert from_reference(stock)[0] > FLOAT32
    assert from_reference(ours)[0] < FLOAT32


@pytest.mark.parametrize("scale", ["group", "batch"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_rollouts_of_one_step_are_one_when_merged(loss_type, scale, model, tmp_path):
    """Tokens and deviations are then counted over the whole step, and the gradient is that of one large rollout."""
    settings = {"loss_type": loss_type, "scale_rewards": scale, "gradient_accumulation_steps": 4}
    problems = some_problems(4, 4, 8, dead=[1])
    merged = train(
        GRPOTrainer, problems, model, tmp_path, float64=True, savings=Grpo(), steps_per_generation=2, **settings
    )
    assert len(merged.rollouts) == 1
    assert max(from_reference(merged)) < FLOAT64


# ---- what is not computed is in no metric


def test_ratio_to_the_engine_is_of_the_rows_that_are_computed(model, tmp_path):
    """TRL counts the others as 1, and a drift would hide behind dead groups."""
    case = {"loss": "dapo", "shape": "one micro-batch", "divergence": "no KL", **ALL_SAVED}
    case |= {"engine": "engine's token_truncate", "dead": "half dead"}
    ours = run_case(GRPOTrainer, case, model, tmp_path, savings=savings_of(case))
    ratios = [
        min(max(math.exp(-noise), 0.6), 1.5)
        for (problem, number), said in ours.rollouts[0].engine_log_probs.items()
        if problem not in DEAD["half dead"]
        for noise in engine_noise((problem, number), len(said))
    ]
    metrics = ours.steps[0].metrics
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-5)
    assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(max(ratios), rel=1e-5)


@pytest.mark.parametrize("engine", ["no engine", "engine's token_truncate"])
def test_row_that_only_fills_a_micro_batch_up_is_in_no_ratio(engine, model, tmp_path):
    case = {"loss": "dapo", "shape": "two iterations", "divergence": "no KL", **ALL_SAVED}
    case |= {"engine": engine, "dead": "all dead"}
    ours = run_case(GRPOTrainer, case, model, tmp_path, savings=savings_of(case))
    for step in ours.steps:
        assert step.metrics["loss"] == 0
        assert norm(step.gradients) == 0
        assert "ratio/mean" not in step.metrics


# ---- every combination


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_saving_on_and_off(loss, dead, divergence, model, tmp_path):
    case = drawn_case(loss=loss, dead=dead, divergence=divergence)
    stock = run_case(trl.GRPOTrainer, case, model, tmp_path, float64=True)
    assert max(from_reference(stock)) < FLOAT64
    for saved in savings_on_and_off():
        ours = run_case(GRPOTrainer, case, model, tmp_path, float64=True, savings=savings_of(saved))
        assert max(from_run(ours, stock)) < FLOAT64, saved
