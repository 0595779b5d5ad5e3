"""Groups of completions of one prompt: which teach nothing, and how they give way to fresh ones.

Shapes: N completions (P prompts x G of each), F reward functions, T tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import pad

LEFT_PADDED = ("prompt_ids", "prompt_mask")
PADDED_WITH = {"importance_sampling_ratio": 1.0}  # VESPO multiplies those of a whole row; all else is masked
Rollout = dict[str, torch.Tensor]


def leave_out_unjudged(rewards_NF: torch.Tensor, weights_F: torch.Tensor, num_generations: int) -> torch.Tensor:
    """The rewards, with nan (no verdict) in a whole row if one of its rewards has none where others of its group have.

    TRL adds up what is not nan, so that an answer whose judge broke would stand beside its group as if it were wrong.
    A reward that has no verdict on a whole group (a gold that does not parse, a reward that is not for this kind of
    problem) says nothing about any of them, and the others go on counting. One of weight 0 leaves nobody out.
    """
    rewards_PGF = rewards_NF.view(-1, num_generations, rewards_NF.shape[1])
    missing_PGF = rewards_PGF.isnan() & (weights_F != 0)
    alone_PGF = missing_PGF & ~missing_PGF.all(dim=1, keepdim=True)
    return rewards_PGF.masked_fill(alone_PGF.any(dim=2, keepdim=True), torch.nan).view_as(rewards_NF)


def leave_out_looked_at(rewards_NF: torch.Tensor, weights_F: torch.Tensor) -> torch.Tensor:
    """The rewards, with nan in a whole row if only rewards of weight 0, which are looked at alone, judged it.

    To TRL it would be a row whose reward is 0: in the mean of rewards, and in the scale of a batch.
    """
    counts_NF = ~rewards_NF.isnan() & (weights_F != 0)
    return rewards_NF.masked_fill(~counts_NF.any(dim=1, keepdim=True), torch.nan)


def dead_groups(
    rewards_NF: torch.Tensor, weights_F: torch.Tensor, num_generations: int, each_reward_alone: bool
) -> torch.Tensor:
    """True for each of the P groups whose rewards are all equal, so that every advantage in it is zero.

    The mean of equal rewards may differ from them in the last bit, and TRL's advantage is then a ghost of some 1e-5:
    so equality is looked for in the rewards. With `each_reward_alone` (multi_objective_aggregation:
    normalize_then_sum) every single reward has to be equal, else their weighted sum. Rows without any verdict do not
    count, nor do rewards of weight 0.
    """
    rewards_NF = rewards_NF.masked_fill(weights_F == 0, torch.nan)
    unjudged_PG = rewards_NF.isnan().all(dim=1).view(-1, num_generations)
    values_NF = rewards_NF if each_reward_alone else (rewards_NF * weights_F).nansum(dim=1, keepdim=True)
    values_PGF = values_NF.nan_to_num(nan=0.0).view(-1, num_generations, values_NF.shape[1])
    highest_PF = values_PGF.masked_fill(unjudged_PG[:, :, None], -torch.inf).amax(dim=1)
    lowest_PF = values_PGF.masked_fill(unjudged_PG[:, :, None], torch.inf).amin(dim=1)
    return (highest_PF <= lowest_PF).all(dim=1)


class FreshPrompts:
    """Prompts that take the place of dead groups: the data in an order of their own, the same in every process."""

    def __init__(self, dataset: Sequence[dict[str, Any]], seed: int):
        self._dataset, self._seed = dataset, seed
        self.num_drawn = 0

    def draw(self, num_prompts: int) -> list[dict[str, Any]]:
        """The next rows; after the last one the data begin again, in another order."""
        rows = [self._dataset[index] for index in self._indices(self.num_drawn, self.num_drawn + num_prompts)]
        self.num_drawn += num_prompts
        return rows

    def _indices(self, start: int, end: int) -> Iterator[int]:
        size = len(self._dataset)
        for number in range(start // size, -(-end // size)):
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
            order = torch.randperm(size, generator=generator).tolist()
            yield from order[max(0, start - number * size) : end - number * size]


def replace_dead(
    rollouts: Sequence[Rollout], dead_P: Sequence[torch.Tensor], accelerator: Accelerator, num_generations: int
) -> Rollout:
    """The first rollout of this process, with live groups of the later ones in the place of its dead groups.

    Groups may lie across processes, so all rows are gathered, put in order and shared out again. `dead_P` has the
    groups of all processes, a tensor for each rollout. Where there are too few live groups, dead ones stay.
    """
    num_rows = len(rollouts[0]["advantages"])
    order = _with_live_groups(dead_P)
    rows_N = torch.cat([torch.arange(group * num_generations, (group + 1) * num_generations) for group in order])
    mine = rows_N[accelerator.process_index * num_rows : (accelerator.process_index + 1) * num_rows]
    merged: Rollout = {}
    for key, first in rollouts[0].items():
        if first.dim() == 0:
            continue
        left, padding = key in LEFT_PADDED, PADDED_WITH.get(key, 0)
        parts = [_gather(rollout[key], accelerator, left, padding) for rollout in rollouts]
        merged[key] = _stack(parts, left, padding)[mine.to(first.device)]
    loss_mask = merged["completion_mask"] * merged.get("tool_mask", 1)
    merged["num_items_in_batch"] = accelerator.gather(loss_mask.sum()).sum()
    return merged


def _with_live_groups(dead_P: Sequence[torch.Tensor]) -> list[int]:
    """Positions of the groups to train on, in all rollouts one after another."""
    fresh = iter(((~torch.cat(list(dead_P[1:]))).nonzero().flatten() + len(dead_P[0])).tolist())
    return [next(fresh, group) if dead else group for group, dead in enumerate(dead_P[0].tolist())]


def _gather(rows: torch.Tensor, accelerator: Accelerator, left: bool, padding: float) -> torch.Tensor:
    if rows.dim() > 1:
        rows = accelerator.pad_across_processes(rows, dim=1, pad_index=padding, pad_first=left)
    return accelerator.gather(rows)


def _stack(parts: Sequence[torch.Tensor], left: bool, padding: float) -> torch.Tensor:
    if parts[0].dim() > 1:
        width = max(part.shape[1] for part in parts)
        sides = [(width - part.shape[1], 0) if left else (0, width - part.shape[1]) for part in parts]
        parts = [pad(part, side, value=padding) for part, side in zip(parts, sides, strict=True)]
    return torch.cat(list(parts))
