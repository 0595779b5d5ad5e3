"""What the GRPO trainer computes, and what it leaves out."""

import json

import pytest
import torch
import trl
from conftest import CPU_TRAINER, sums

from open_r1.grpo import grpo
from open_r1.grpo_trainer import GRPOTrainer
from open_r1.grpo_trainer.trainer import merge_rollouts
from open_r1.recipe import load_recipe

ODD = {"name": "rewards_of_tests:length_if_solution_is_odd"}
EQUAL = {"name": "rewards_of_tests:ones_later"}
TRAINER = {
    **CPU_TRAINER,
    "max_steps": 4,
    "save_strategy": "no",
    "logging_steps": 1,
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "max_completion_length": 8,
    "beta": 0.0,
}


@pytest.fixture
def train(write_recipe, tmp_path, smallest_model):
    """Runs GRPO on short sums; gives the metrics of each step."""

    def train(rewards: list, savings: dict, **trainer) -> list[dict]:
        recipe = write_recipe(
            step="grpo",
            model={"name": str(smallest_model)},
            data=[sums(64)],
            rewards=rewards,
            trainer=TRAINER | trainer,
            grpo=savings,
            guards={"max_truncated_share": None},
        )
        torch.set_num_threads(1)
        grpo(load_recipe(recipe), tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if "reward" in line]

    return train


@pytest.fixture
def live_groups(monkeypatch):
    """How many of the four groups of each optimizer step teach something."""
    numbers = []
    rearranged = GRPOTrainer._rearranged

    def noted(self, given):
        # TRL shuffles rows: a group is known by its prompt
        numbers.append(
            len(
                {
                    tuple(ids.tolist())
                    for rows in given
                    for ids, advantage in zip(rows["prompt_ids"], rows["advantages"], strict=True)
                    if advantage != 0
                }
            )
        )
        return rearranged(self, given)

    monkeypatch.setattr(GRPOTrainer, "_rearranged", noted)
    return numbers


def test_dynamic_sampling_fills_the_batch_with_live_groups(train, live_groups):
    metrics = train([ODD], {"dynamic_sampling": {"max_factor": 8.0}})
    assert live_groups == [4, 4, 4, 4]
    assert max(line["dynamic_sampling/factor"] for line in metrics) > 1.0
    for line in metrics:  # all that were sampled, live ones and dead ones; never more groups than are missing
        num_sampled = 4 * line["dynamic_sampling/factor"]
        assert num_sampled * (1 - line["dead_group_share"]) == pytest.approx(4)


def test_without_it_dead_groups_stay(train, live_groups):
    metrics = train([ODD], {})
    assert min(live_groups) < 4
    assert [4 * (1 - line["dead_group_share"]) for line in metrics] == live_groups


def test_dynamic_sampling_ends_at_its_factor(train, live_groups):
    metrics = train([EQUAL], {"dynamic_sampling": {"max_factor": 2.5}})
    assert [line["dynamic_sampling/factor"] for line in metrics] == [2.5] * 4
    assert [line["dead_group_share"] for line in metrics] == [1.0] * 4
    assert live_groups == [0] * 4


def of_live_groups(num_live: int) -> int:
    return 4 * num_live


def with_a_gradient(num_live: int) -> int:
    """One row if no group is live: gradients of zero move Adam on, and missing ones do not."""
    return max(1, 4 * num_live)


def every_row(num_live: int) -> int:
    return 16


@pytest.mark.parametrize(
    ("savings", "trainer", "in_the_loss", "before"),
    [
        ({}, {}, with_a_gradient, None),
        ({"skip_dead_groups": False}, {}, every_row, None),
        ({}, {"beta": 0.1}, every_row, every_row),
        ({}, {"num_iterations": 2}, with_a_gradient, of_live_groups),
        ({"skip_dead_groups": False}, {"num_iterations": 2}, every_row, every_row),
    ],
    ids=["skipped", "switched off", "with a KL term", "with old log-probabilities", "these switched off"],
)
def test_rows_that_are_computed(savings, trainer, in_the_loss, before, train, live_groups, monkeypatch):
    num_rows = {True: 0, False: 0}
    score = trl.GRPOTrainer._get_per_token_logps_and_entropies

    def noted(self, model, input_ids, *args, **kwargs):
        num_rows[torch.is_grad_enabled()] += len(input_ids)
        return score(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(trl.GRPOTrainer, "_get_per_token_logps_and_entropies", noted)
    train([ODD], savings, **trainer)
    assert {0, 1} <= set(live_groups)
    uses = trainer.get("num_iterations", 1)
    assert num_rows[True] == uses * sum(map(in_the_loss, live_groups))
    assert num_rows[False] == (sum(map(before, live_groups)) if before else 0)


@pytest.mark.parametrize(
    ("per_rollout", "per_step", "iterations", "merged"),
    [(1, 4, 1, 4), (2, 4, 1, 4), (4, 4, 1, 4), (8, 4, 1, 8), (1, 4, 2, 1), (3, 4, 1, 3)],
    ids=["four", "two", "one already", "a rollout for two steps", "used twice", "no whole number"],
)
def test_rollouts_of_a_step_become_one(per_rollout, per_step, iterations, merged, tmp_path):
    config = trl.GRPOConfig(
        output_dir=str(tmp_path),
        **CPU_TRAINER,
        per_device_train_batch_size=4,
        num_generations=4,
        steps_per_generation=per_rollout,
        gradient_accumulation_steps=per_step,
        num_iterations=iterations,
    )
    merge_rollouts(config)
    assert (config.steps_per_generation, config.generation_batch_size) == (merged, 4 * merged)
