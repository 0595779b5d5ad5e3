"""Groups that teach nothing, and fresh ones in their place."""

import pytest
import torch
from accelerate import Accelerator

from open_r1.grpo_trainer.groups import FreshPrompts, dead_groups, leave_out_unjudged, replace_dead

NONE = float("nan")


# ---- which groups are dead


@pytest.mark.parametrize(
    "rewards, weights, dead_by_sum, dead_by_each",
    [
        ([[1.0], [1.0], [1.0]], [1.0], True, True),
        ([[0.0], [0.0], [0.0]], [1.0], True, True),
        ([[1.0], [0.0], [1.0]], [1.0], False, False),
        ([[NONE], [NONE], [NONE]], [1.0], True, True),
        ([[NONE], [1.0], [1.0]], [1.0], True, True),
        ([[NONE], [0.0], [0.0]], [1.0], True, True),
        ([[NONE], [0.0], [1.0]], [1.0], False, False),
        ([[NONE], [NONE], [1.0]], [1.0], True, True),
        # The mean of three times 0.1 is not 0.1, nor is that of 0.7 * 0.1 for all that their sums are equal.
        ([[0.1], [0.1], [0.1]], [1.0], True, True),
        ([[0.7, 0.3], [0.7, 0.3], [0.7, 0.3]], [0.1, 0.2], True, True),
        ([[1.0], [1.0 + 2**-23], [1.0]], [1.0], False, False),
        # What differs in single rewards may be equal in the sum.
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [1.0, 1.0], True, False),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [1.0, 0.5], False, False),
        # One of weight 0 says nothing: it only looks.
        ([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]], [1.0, 0.0], True, True),
        ([[1.0, NONE], [0.0, 1.0], [1.0, 1.0]], [1.0, 0.0], False, False),
        ([[NONE, 0.0], [NONE, 1.0], [NONE, 1.0]], [1.0, 0.0], True, True),
        ([[NONE, 1.0], [1.0, 1.0], [1.0, 1.0]], [1.0, 0.0], True, True),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0], True, True),
        ([[-1.0], [-1.0], [-1.0]], [1.0], True, True),
        ([[-1.0], [NONE], [-1.0]], [1.0], True, True),
        # A reward with no verdict on the group says nothing about it.
        ([[1.0, NONE], [1.0, NONE], [1.0, NONE]], [1.0, 1.0], True, True),
        ([[1.0, NONE], [0.0, NONE], [1.0, NONE]], [1.0, 1.0], False, False),
    ],
)
def test_dead_groups(rewards, weights, dead_by_sum, dead_by_each):
    for each_alone, expected in ((False, dead_by_sum), (True, dead_by_each)):
        assert dead_groups(torch.tensor(rewards), torch.tensor(weights), 3, each_alone).tolist() == [expected]


def test_each_group_is_dead_or_not_by_itself():
    rewards_NF = torch.tensor([[1.0], [1.0], [0.0], [1.0], [0.0], [0.0]])
    assert dead_groups(rewards_NF, torch.ones(1), 2, each_reward_alone=False).tolist() == [True, False, True]


def test_the_mean_of_equal_rewards_may_differ_from_them():
    """Why equality is looked for in the rewards."""
    rewards_N = torch.full((7,), 0.7)
    assert (rewards_N - rewards_N.mean()).any()
    assert dead_groups(rewards_N[:, None], torch.ones(1), 7, each_reward_alone=False).tolist() == [True]


# ---- completions that a reward could not judge


@pytest.mark.parametrize(
    "given, left",
    [
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]),
        ([[1.0, NONE], [3.0, 4.0]], [[NONE, NONE], [3.0, 4.0]]),
        ([[1.0, NONE], [3.0, NONE]], [[1.0, NONE], [3.0, NONE]]),
        ([[NONE, NONE], [3.0, NONE]], [[NONE, NONE], [3.0, NONE]]),
        ([[NONE, 2.0], [3.0, NONE]], [[NONE, NONE], [NONE, NONE]]),
        ([[NONE, NONE], [NONE, NONE]], [[NONE, NONE], [NONE, NONE]]),
        # Groups do not see each other: the second has no verdict of the second reward at all.
        ([[1.0, 2.0], [3.0, 4.0], [5.0, NONE], [6.0, NONE]], [[1.0, 2.0], [3.0, 4.0], [5.0, NONE], [6.0, NONE]]),
        ([[1.0, 2.0], [NONE, 4.0], [5.0, 6.0], [7.0, 8.0]], [[1.0, 2.0], [NONE, NONE], [5.0, 6.0], [7.0, 8.0]]),
    ],
)
def test_leave_out_unjudged(given, left):
    rewards_NF = leave_out_unjudged(torch.tensor(given), torch.ones(2), num_generations=2)
    torch.testing.assert_close(rewards_NF, torch.tensor(left), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "given, left",
    [
        ([[1.0, NONE], [3.0, 4.0]], [[1.0, NONE], [3.0, 4.0]]),
        ([[NONE, 2.0], [3.0, 4.0]], [[NONE, NONE], [3.0, 4.0]]),  # with a number left TRL would count it as 0
    ],
)
def test_a_reward_of_weight_zero_leaves_nobody_out(given, left):
    rewards_NF = leave_out_unjudged(torch.tensor(given), torch.tensor([-1.0, 0.0]), num_generations=2)
    torch.testing.assert_close(rewards_NF, torch.tensor(left), rtol=0, atol=0, equal_nan=True)


# ---- fresh prompts

ROWS = [{"prompt": number} for number in range(7)]


def drawn(prompts: FreshPrompts, *numbers: int) -> list[int]:
    return [row["prompt"] for number in numbers for row in prompts.draw(number)]


def test_every_row_comes_once_before_any_comes_again():
    numbers = drawn(FreshPrompts(ROWS, seed=3), 4 * 7)
    epochs = [numbers[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


@pytest.mark.parametrize("numbers", [(3, 4), (7, 7), (1, 13), (5, 0, 9), (2, 20)])
def test_draws_go_on_where_the_last_one_ended(numbers):
    assert drawn(FreshPrompts(ROWS, seed=3), *numbers) == drawn(FreshPrompts(ROWS, seed=3), sum(numbers))


@pytest.mark.parametrize("before", [0, 4, 7, 12, 14])
def test_draws_resume_at_a_number(before):
    resumed = FreshPrompts(ROWS, seed=3)
    resumed.num_drawn = before
    assert drawn(resumed, 10) == drawn(FreshPrompts(ROWS, seed=3), before + 10)[before:]
    assert resumed.num_drawn == before + 10


def test_seeds_have_orders_of_their_own():
    orders = {tuple(drawn(FreshPrompts(ROWS, seed), 7)) for seed in range(5)}
    assert len(orders) == 5


# ---- live groups in the place of dead ones


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def rollout_of(groups: list[int], prompt_width: int, completion_width: int, **more) -> dict[str, torch.Tensor]:
    """A rollout of two completions a group, each row of which can be told by its numbers."""
    rows = torch.tensor([10 * group + number for group in groups for number in range(2)])
    lengths_N1 = torch.tensor([[1 + number * (completion_width - 1)] for _ in groups for number in range(2)])
    mask_NT = (torch.arange(completion_width) < lengths_N1).long()
    return {
        "prompt_ids": rows[:, None].expand(-1, prompt_width) * 1,
        "prompt_mask": torch.ones(len(rows), prompt_width, dtype=torch.long),
        "completion_ids": rows[:, None] * mask_NT,
        "completion_mask": mask_NT,
        "old_per_token_logps": -rows[:, None] * mask_NT.float(),
        "advantages": rows.float(),
        "num_items_in_batch": mask_NT.sum(),
    } | {key: value(mask_NT) for key, value in more.items()}


def groups_in(rollout: dict[str, torch.Tensor]) -> list[int]:
    """The groups that lie in the rows, of which every tensor says the same."""
    rows = rollout["advantages"].long()
    assert rollout["prompt_ids"][:, -1].tolist() == rows.tolist()
    assert rollout["completion_ids"][:, 0].tolist() == rows.tolist()
    assert (-rollout["old_per_token_logps"][:, 0]).long().tolist() == rows.tolist()
    assert rows[1::2].tolist() == (rows[::2] + 1).tolist()
    return (rows[::2] // 10).tolist()


@pytest.mark.parametrize(
    "dead, expected",
    [
        (["101", "00"], [4, 2, 5]),
        (["101", "10"], [5, 2, 3]),
        (["001", "01"], [1, 2, 4]),
        (["111", "11"], [1, 2, 3]),
        (["000", "00"], [1, 2, 3]),
        (["111", "10", "01"], [5, 6, 3]),
        (["010", "11", "10"], [1, 7, 3]),
    ],
)
def test_live_groups_take_the_place_of_dead_ones(accelerator, dead, expected):
    numbers = iter(range(1, 10))
    rollouts = [rollout_of([next(numbers) for _ in of_rollout], 2, 3) for of_rollout in dead]
    dead_P = [torch.tensor([mark == "1" for mark in of_rollout]) for of_rollout in dead]
    assert groups_in(replace_dead(rollouts, dead_P, accelerator, num_generations=2)) == expected


@pytest.mark.parametrize("widths", [[(1, 2), (3, 5)], [(3, 5), (1, 2)], [(3, 2), (1, 5)], [(2, 2), (2, 2)]])
def test_rows_are_padded_to_the_widest_on_their_own_side(accelerator, widths):
    rollouts = [rollout_of(groups, *width) for groups, width in zip([[1, 2], [3, 4]], widths, strict=True)]
    dead_P = [torch.tensor([False, True]), torch.tensor([False, False])]
    merged = replace_dead(rollouts, dead_P, accelerator, num_generations=2)
    prompt_width, completion_width = map(max, zip(*widths, strict=True))
    assert groups_in(merged) == [1, 3]
    for key in ("prompt_ids", "prompt_mask"):
        assert merged[key].shape == (4, prompt_width)
    for key in ("completion_ids", "completion_mask", "old_per_token_logps"):
        assert merged[key].shape == (4, completion_width)
    for (prompt, completion), mine in zip(widths, (slice(0, 2), slice(2, 4)), strict=True):
        assert merged["prompt_mask"][mine].tolist() == [[0] * (prompt_width - prompt) + [1] * prompt] * 2
        ones = [1, completion]
        assert merged["completion_mask"][mine].tolist() == [[1] * n + [0] * (completion_width - n) for n in ones]


def test_items_of_the_batch_are_the_tokens_of_the_rows_in_it(accelerator):
    rollouts = [rollout_of([1, 2], 2, 3), rollout_of([3], 2, 9)]
    dead_P = [torch.tensor([True, False]), torch.tensor([False])]
    merged = replace_dead(rollouts, dead_P, accelerator, num_generations=2)
    assert groups_in(merged) == [3, 2]
    assert merged["num_items_in_batch"].item() == (1 + 9) + (1 + 3)


def test_tokens_of_tools_are_no_items(accelerator):
    only_first = {"tool_mask": lambda mask_NT: (torch.arange(mask_NT.shape[1]) < 2).long().expand_as(mask_NT) * 1}
    rollouts = [rollout_of([1, 2], 2, 3, **only_first), rollout_of([3], 2, 9, **only_first)]
    dead_P = [torch.tensor([True, False]), torch.tensor([False])]
    merged = replace_dead(rollouts, dead_P, accelerator, num_generations=2)
    assert merged["num_items_in_batch"].item() == (1 + 2) + (1 + 2)


@pytest.mark.parametrize("of_rows", [False, True])
def test_ratio_to_an_engine_is_padded_with_ones(accelerator, of_rows):
    ratio = {"importance_sampling_ratio": lambda mask_NT: 0.5 * mask_NT[:, :1] if of_rows else 1 - 0.5 * mask_NT}
    rollouts = [rollout_of([1, 2], 2, 3, **ratio), rollout_of([3], 2, 5, **ratio)]
    merged = replace_dead(
        rollouts, [torch.tensor([False, True]), torch.tensor([False])], accelerator, num_generations=2
    )
    expected = torch.full((4, 1), 0.5) if of_rows else 1 - 0.5 * merged["completion_mask"]
    assert torch.equal(merged["importance_sampling_ratio"], expected)
