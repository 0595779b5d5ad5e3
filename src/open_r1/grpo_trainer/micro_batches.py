"""Which rows of a rollout are computed together, and how wide: fewer padded positions, no row without a gradient.

Every process has to run as many forward passes as the others, of as many rows (TRL gathers metrics after each, and
sharded models gather weights in each), so all plan from the lengths of all, and come to the same plan.

Shapes: W processes, N rows of each of them.
"""

import itertools
from dataclasses import dataclass

import numpy as np

# A forward and backward pass costs what so many positions cost, beside those that it computes: measured with
# scripts/bench_grpo.py on the tiny model. Larger models lose nothing by it: their passes are far wider.
PASS_COST_POSITIONS = 256


@dataclass(frozen=True)
class MicroBatch:
    """Rows of this process that go through the model together, each padded to these widths."""

    rows: list[int]
    prompt_width: int
    completion_width: int
    num_tokens: int
    """Completion tokens of all processes."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of every row of all processes, and whether the row has to be computed."""

    prompt_WN: np.ndarray
    completion_WN: np.ndarray
    needed_WN: np.ndarray


def plan(lengths: Lengths, process_index: int, max_rows: int, sort: bool) -> list[MicroBatch]:
    """The micro-batches of one process; empty if no process needs any row.

    With `sort`, rows of like length go together, in micro-batches of the least positions altogether, none of more than
    `max_rows` of the widest rows have; else rows keep their order, at most `max_rows` together. A process with fewer
    needed rows than another fills up with short rows that are not needed.
    """
    num_rows = int(lengths.needed_WN.sum(axis=1).max())
    if num_rows == 0:
        return []
    rows_Wn = np.stack([_chosen(*of_process, num_rows, sort) for of_process in _per_process(lengths)])
    prompt_Wn = np.take_along_axis(lengths.prompt_WN, rows_Wn, axis=1)
    completion_Wn = np.take_along_axis(lengths.completion_WN, rows_Wn, axis=1)
    prompt_n, completion_n = prompt_Wn.max(axis=0), completion_Wn.max(axis=0)
    if sort:
        max_positions = max_rows * int((lengths.prompt_WN + lengths.completion_WN).max())
        bounds = cheapest_bounds(prompt_n, completion_n, max_positions, PASS_COST_POSITIONS)
    else:
        bounds = [*range(0, num_rows, max_rows), num_rows]
    return [
        MicroBatch(
            rows=rows_Wn[process_index, start:end].tolist(),
            prompt_width=int(prompt_n[start:end].max()),
            completion_width=int(completion_n[start:end].max()),
            num_tokens=int(completion_Wn[:, start:end].sum()),
        )
        for start, end in itertools.pairwise(bounds)
    ]


def _per_process(lengths: Lengths):
    return zip(lengths.prompt_WN, lengths.completion_WN, lengths.needed_WN, strict=True)


def _chosen(
    prompt_N: np.ndarray, completion_N: np.ndarray, needed_N: np.ndarray, num_rows: int, sort: bool
) -> np.ndarray:
    """The needed rows and the shortest others up to `num_rows`, longest first or in their order."""
    by_use = np.lexsort((completion_N + prompt_N, ~needed_N))
    chosen = np.concatenate([np.flatnonzero(needed_N), by_use[needed_N.sum() :]])[:num_rows]
    if not sort:
        return np.sort(chosen)
    return chosen[np.lexsort((chosen, -prompt_N[chosen], -completion_N[chosen]))]


def cheapest_bounds(prompt_n: np.ndarray, completion_n: np.ndarray, max_positions: int, pass_cost: int) -> list[int]:
    """Where to cut rows that are sorted by falling completion length: [0, …, n], at the least cost.

    A micro-batch of rows i..j costs (j - i) * (longest prompt + longest completion) + pass_cost positions. One row
    may be wider than `max_positions`.
    """
    num_rows = len(completion_n)
    cost = np.zeros(num_rows + 1)
    cut = np.zeros(num_rows + 1, dtype=int)
    for end in range(1, num_rows + 1):
        widths = np.maximum.accumulate(prompt_n[:end][::-1])[::-1] + completion_n[:end]
        positions = np.arange(end, 0, -1) * widths
        costs = cost[:end] + positions + pass_cost
        costs[:-1][positions[:-1] > max_positions] = np.inf
        cut[end] = int(costs.argmin())
        cost[end] = costs[cut[end]]
    bounds = [num_rows]
    while bounds[-1]:
        bounds.append(int(cut[bounds[-1]]))
    return bounds[::-1]
