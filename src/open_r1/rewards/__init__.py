"""Rewards in TRL's signature: `reward(completions, **columns) -> list[float | None]`, one per completion, in order.

None means that no verdict was possible (a gold that does not parse, a judge that broke), never that an answer is
wrong. `REWARDS` lists what a recipe can name; it can also name `package.module:function`, one of TRL's own included.
"""

import asyncio
import functools
import importlib
import inspect
import random
import time
import typing
from collections.abc import Callable, Sequence
from typing import Any

from open_r1.recipe import RecipeError, Reward, Thinking
from open_r1.rewards.format import code_format_reward, format_reward, reasoning_steps_reward, tag_count_reward
from open_r1.rewards.language import language_consistency_reward
from open_r1.rewards.length import cosine_reward, length_reward, soft_overlong_punishment_reward
from open_r1.rewards.math import accuracy_reward
from open_r1.rewards.repetition import repetition_penalty_reward

RewardFunction = Callable[..., list[float | None]]

REWARDS: dict[str, RewardFunction] = {
    "accuracy": accuracy_reward,
    "code_format": code_format_reward,
    "cosine": cosine_reward,
    "format": format_reward,
    "language_consistency": language_consistency_reward,
    "length": length_reward,
    "reasoning_steps": reasoning_steps_reward,
    "repetition_penalty": repetition_penalty_reward,
    "soft_overlong_punishment": soft_overlong_punishment_reward,
    "tag_count": tag_count_reward,
}
GIVEN_BY_TRAINER = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
    "environments",
)
GIVEN_BY_RECIPE = ("thinking", "max_completion_tokens")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def reward_function(reward: Reward) -> RewardFunction:
    """The function that a recipe's reward means, before its parameters are bound.

    A function that takes no `completions` makes rewards, as TRL's `get_…` do: it is called with the parameters.
    Raises RecipeError if the module or the function is not there, or cannot be called with the parameters.
    """
    function = _named(reward.name)
    if not _is_factory(function):
        return function
    try:
        return function(**reward.parameters)
    except TypeError as error:
        raise RecipeError(f"{reward.name} cannot be made with these parameters ({error})") from None


def reward_columns(rewards: Sequence[Reward]) -> list[str]:
    """The data columns that the rewards of a recipe read, without the prompt."""
    return list(dict.fromkeys(column for reward in rewards for column in columns_of_reward(reward)))


def columns_of_reward(reward: Reward) -> list[str]:
    """The data columns that a reward's function takes: what neither TRL nor the recipe gives, and has no default."""
    return [
        parameter.name
        for parameter in _parameters(reward_function(reward))
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.KEYWORD_ONLY
        and parameter.name not in (*GIVEN_BY_TRAINER, *GIVEN_BY_RECIPE)
    ]


def settable_parameters(name: str) -> list[str]:
    """The parameters of a named reward that a recipe can set."""
    function = _named(name)
    return [
        parameter.name
        for parameter in _parameters(function)
        if (
            _is_factory(function)
            or parameter.kind is parameter.KEYWORD_ONLY
            or parameter.default is not parameter.empty
        )
        and parameter.name not in (*GIVEN_BY_TRAINER, "thinking")
    ]


def types_of_parameters(name: str) -> dict[str, Any]:
    """The annotated types of a named reward's parameters; those that say nothing are left out."""
    return typing.get_type_hints(_named(name))


def build_rewards(
    rewards: Sequence[Reward], thinking: Thinking, seed: int, max_completion_tokens: int
) -> list[RewardFunction]:
    """The functions of a recipe's rewards with their parameters bound, named as TRL's metrics will show them.

    Each also logs, with TRL's `log_metric`, the seconds that a batch took it and the share of None.
    """
    given = {"thinking": thinking, "max_completion_tokens": max_completion_tokens}
    return [_bind(reward, given, seed) for reward in rewards]


def _bind(reward: Reward, given: dict[str, Any], seed: int) -> RewardFunction:
    function = reward_function(reward)
    taken = [parameter.name for parameter in _parameters(function)]
    parameters = {name: value for name, value in given.items() if name in taken}
    parameters |= {} if _is_factory(_named(reward.name)) else reward.parameters
    name = reward.name.rpartition(":")[2]

    def bound(completions, log_metric=None, log_extra=None, **columns):
        if not reward.shuffled:  # the control does not log what it hands out to others
            columns |= {"log_metric": log_metric, "log_extra": log_extra}
        started = time.monotonic()
        values = function(completions=completions, **parameters, **columns)
        if inspect.iscoroutine(values):
            values = asyncio.run(values)
        if log_metric is not None:
            log_metric(f"rewards/{name}/seconds", time.monotonic() - started)
            log_metric(f"rewards/{name}/none_share", values.count(None) / max(1, len(values)))
        if reward.shuffled:  # the same order for every reward of a step, another for every step
            step = columns["trainer_state"].global_step if "trainer_state" in columns else 0
            random.Random(f"{seed}/{step}/{len(values)}").shuffle(values)
        return values

    if hasattr(function, "__name__"):
        bound = functools.wraps(function)(bound)
    bound.__name__ = name
    return bound


def _named(name: str) -> RewardFunction:
    if ":" not in name:
        return REWARDS[name]
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"reward {name!r} cannot be imported ({error})") from None


def _is_factory(function: RewardFunction) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return not any(parameter.name == "completions" or parameter.kind in _VARIADIC for parameter in parameters)


def _parameters(function: RewardFunction) -> list[inspect.Parameter]:
    return [
        parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind not in _VARIADIC
    ]


__all__ = [
    "REWARDS",
    "RewardFunction",
    "accuracy_reward",
    "build_rewards",
    "code_format_reward",
    "columns_of_reward",
    "cosine_reward",
    "format_reward",
    "language_consistency_reward",
    "length_reward",
    "reasoning_steps_reward",
    "repetition_penalty_reward",
    "reward_columns",
    "reward_function",
    "settable_parameters",
    "soft_overlong_punishment_reward",
    "tag_count_reward",
    "types_of_parameters",
]
