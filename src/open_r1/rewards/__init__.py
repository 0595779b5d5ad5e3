"""Rewards in TRL's signature: `reward(completions, **columns) -> list[float | None]`, one per completion, in order.

None means that no verdict was possible (a gold that does not parse, a judge that broke), never that an answer is
wrong. `REWARDS` lists what a recipe can name, with the data columns that each needs.
"""

import functools
import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from open_r1.recipe import RecipeError, Reward
from open_r1.rewards.format import format_reward
from open_r1.rewards.math import accuracy_reward

RewardFunction = Callable[..., list[float | None]]


@dataclass(frozen=True)
class RewardEntry:
    """A reward function, the data columns it reads, and whether it must know if the prompt opens the thinking."""

    function: RewardFunction
    columns: tuple[str, ...] = ()
    needs_prefill: bool = False


REWARDS = {
    "accuracy": RewardEntry(accuracy_reward, columns=("solution",), needs_prefill=True),
    "format": RewardEntry(format_reward, needs_prefill=True),
}


def reward_entry(name: str) -> RewardEntry:
    """The entry that a recipe's reward name means: a key of REWARDS, or `package.module:function`.

    Raises RecipeError if the module or the function is not there.
    """
    if ":" not in name:
        return REWARDS[name]
    module_name, _, function_name = name.partition(":")
    try:
        return RewardEntry(getattr(importlib.import_module(module_name), function_name))
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"reward {name!r} cannot be imported ({error})") from None


def reward_columns(rewards: Sequence[Reward]) -> list[str]:
    """The data columns that the rewards of a recipe read, without the prompt."""
    return [column for reward in rewards for column in reward_entry(reward.name).columns]


def build_rewards(rewards: Sequence[Reward], thinking_prefilled: bool, seed: int) -> list[RewardFunction]:
    """The functions of a recipe's rewards with their parameters bound, named as TRL's metrics will show them."""
    return [_bind(reward, thinking_prefilled, seed) for reward in rewards]


def _bind(reward: Reward, thinking_prefilled: bool, seed: int) -> RewardFunction:
    entry = reward_entry(reward.name)
    parameters = reward.parameters
    if entry.needs_prefill:
        parameters.setdefault("thinking_prefilled", thinking_prefilled)

    def bound(completions, **columns):
        values = entry.function(completions, **parameters, **columns)
        if reward.shuffled:  # the same order for every reward of a step, another for every step
            step = columns["trainer_state"].global_step if "trainer_state" in columns else 0
            random.Random(f"{seed}/{step}/{len(values)}").shuffle(values)
        return values

    bound = functools.wraps(entry.function)(bound)
    bound.__name__ = reward.name.rpartition(":")[2]
    return bound


__all__ = [
    "REWARDS",
    "RewardEntry",
    "accuracy_reward",
    "build_rewards",
    "format_reward",
    "reward_columns",
    "reward_entry",
]
