"""How the rows of a rollout are cut into micro-batches: the cheapest way there is, and the same in every process."""

import itertools

import numpy as np
import pytest

from open_r1.grpo_trainer.micro_batches import Lengths, MicroBatch, cheapest_bounds, plan


def lengths(prompts: list[list[int]], completions: list[list[int]], needed: list[list[int]] | None = None) -> Lengths:
    """A list for each process; all rows are needed if nothing else is said."""
    needed_WN = np.ones_like(np.array(prompts)) if needed is None else np.array(needed)
    return Lengths(np.array(prompts), np.array(completions), needed_WN.astype(bool))


def random_lengths(seed: int) -> Lengths:
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 4)), int(random.integers(1, 13)))
    return Lengths(
        random.integers(1, 20, shape),
        np.ceil(random.lognormal(3, 1, shape)).astype(int),
        random.random(shape) < random.choice([0.2, 0.7, 1.0]),
    )


def plans(given: Lengths, max_rows: int, sort: bool) -> list[list[MicroBatch]]:
    return [plan(given, process, max_rows, sort) for process in range(len(given.prompt_WN))]


# ---- where to cut


def cost_of(bounds, prompt_n, completion_n, max_positions: int, pass_cost: int) -> float:
    total = 0
    for start, end in itertools.pairwise(bounds):
        positions = (end - start) * (max(prompt_n[start:end]) + max(completion_n[start:end]))
        total += pass_cost + (positions if end - start == 1 or positions <= max_positions else float("inf"))
    return total


def all_bounds(num_rows: int):
    for cuts in range(num_rows):
        for inner in itertools.combinations(range(1, num_rows), cuts):
            yield [0, *inner, num_rows]


@pytest.mark.parametrize("pass_cost", [0, 30, 1000])
@pytest.mark.parametrize("max_positions", [1, 60, 150, 10_000])
def test_no_other_bounds_are_cheaper(max_positions, pass_cost):
    random = np.random.default_rng(0)
    for num_rows in [*range(1, 9)] * 3:
        prompt_n = random.integers(1, 20, num_rows)
        completion_n = np.sort(random.integers(1, 40, num_rows))[::-1]
        bounds = cheapest_bounds(prompt_n, completion_n, max_positions, pass_cost)
        least = min(cost_of(b, prompt_n, completion_n, max_positions, pass_cost) for b in all_bounds(num_rows))
        assert bounds in list(all_bounds(num_rows))
        assert cost_of(bounds, prompt_n, completion_n, max_positions, pass_cost) == least


# ---- the plan


SEEDS = range(60)


@pytest.mark.parametrize("sort", [True, False])
def test_every_needed_row_is_computed_once(sort):
    for given in map(random_lengths, SEEDS):
        for process, micro_batches in enumerate(plans(given, 3, sort)):
            rows = [row for micro_batch in micro_batches for row in micro_batch.rows]
            assert len(rows) == len(set(rows))
            assert set(np.flatnonzero(given.needed_WN[process])) <= set(rows)
            assert len(rows) == given.needed_WN.sum(axis=1).max()


@pytest.mark.parametrize("sort", [True, False])
def test_processes_have_micro_batches_of_the_same_shape(sort):
    for given in map(random_lengths, SEEDS):
        shapes = [
            [(len(m.rows), m.prompt_width, m.completion_width, m.num_tokens) for m in of_process]
            for of_process in plans(given, 3, sort)
        ]
        assert all(of_process == shapes[0] for of_process in shapes)


@pytest.mark.parametrize("sort", [True, False])
def test_widths_and_tokens_are_those_of_the_rows_of_all_processes(sort):
    for given in map(random_lengths, SEEDS):
        for together in zip(*plans(given, 3, sort), strict=True):
            prompts = [given.prompt_WN[process, m.rows] for process, m in enumerate(together)]
            completions = [given.completion_WN[process, m.rows] for process, m in enumerate(together)]
            assert together[0].prompt_width == np.max(prompts)
            assert together[0].completion_width == np.max(completions)
            assert together[0].num_tokens == np.sum(completions)


@pytest.mark.parametrize("max_rows", [1, 2, 5])
def test_no_micro_batch_is_larger_than_so_many_of_the_widest_rows(max_rows):
    for given in map(random_lengths, SEEDS):
        widest = (given.prompt_WN + given.completion_WN).max()
        for micro_batch in plan(given, 0, max_rows, sort=True):
            positions = len(micro_batch.rows) * (micro_batch.prompt_width + micro_batch.completion_width)
            assert positions <= max_rows * widest or len(micro_batch.rows) == 1
        assert all(len(micro_batch.rows) <= max_rows for micro_batch in plan(given, 0, max_rows, sort=False))


@pytest.mark.parametrize(
    "given, max_rows, sort, expected",
    [
        (lengths([[9, 1, 5]], [[1, 7, 3]]), 2, False, [([0, 1], 9, 7, 8), ([2], 5, 3, 3)]),
        (lengths([[9, 1, 5]], [[1, 7, 3]], [[0, 1, 1]]), 2, False, [([1, 2], 5, 7, 10)]),
        (lengths([[2, 2, 2]], [[1, 7, 3]]), 3, True, [([1, 2, 0], 2, 7, 11)]),
        (lengths([[2, 2, 2]], [[10, 1000, 12]]), 3, True, [([1], 2, 1000, 1000), ([2, 0], 2, 12, 22)]),
        (
            lengths([[2, 2, 2], [2, 2, 2]], [[4, 4, 4], [9, 2, 5]], [[1, 1, 0], [0, 0, 0]]),
            3,
            False,
            [([0, 1], 2, 5, 15)],
        ),
        (lengths([[2, 2, 2], [2, 2, 2]], [[4, 4, 4], [9, 2, 5]], [[1, 0, 0], [0, 0, 0]]), 3, True, [([0], 2, 4, 6)]),
        (lengths([[2, 2]], [[3, 3]], [[0, 0]]), 2, True, []),
        (lengths([[2, 2]], [[3, 3]], [[0, 0]]), 2, False, []),
    ],
    ids=[
        *("in order", "in order but one", "sorted", "long row apart", "another process's rows"),
        *("filled up with the shortest", "none", "none in order"),
    ],
)
def test_plan_of_the_first_process(given, max_rows, sort, expected):
    assert [
        (m.rows, m.prompt_width, m.completion_width, m.num_tokens) for m in plan(given, 0, max_rows, sort)
    ] == expected


def test_rows_that_fill_up_are_the_shortest():
    given = lengths([[2, 2, 2], [2, 2, 2]], [[4, 4, 4], [9, 2, 5]], [[1, 1, 0], [0, 0, 1]])
    in_order, by_length = (plan(given, 1, 3, sort) for sort in (False, True))
    assert [m.rows for m in in_order] == [[1, 2]]
    assert [m.rows for m in by_length] == [[2, 1]]
