"""Rewards in TRL's signature: `reward(completions, **columns) -> list[float | None]`, one per completion, in order.

None means that no verdict was possible (a gold that does not parse, a judge that broke), never that an answer is
wrong. `REWARDS` lists what a recipe can name; it can also name `package.module:function`, one of TRL's own included.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from open_r1.recipe import Guards, Recipe, RecipeError, Reward, Thinking, section_in
from open_r1.rewards.bound import BoundReward
from open_r1.rewards.code import binary_code_reward, code_reward
from open_r1.rewards.competition import cf_code_reward, ioi_code_reward
from open_r1.rewards.final_answer import final_answer_reward, last_number_reward
from open_r1.rewards.format import code_format_reward, format_reward, reasoning_steps_reward, tag_count_reward
from open_r1.rewards.instructions import instructions_reward
from open_r1.rewards.judge import judge_reward
from open_r1.rewards.language import language_consistency_reward
from open_r1.rewards.length import cosine_reward, length_reward, soft_overlong_punishment_reward
from open_r1.rewards.math import accuracy_reward
from open_r1.rewards.repetition import repetition_penalty_reward
from open_r1.rewards.reward_model import reward_model_reward

if TYPE_CHECKING:
    from open_r1.feedback import ModelJudge

RewardFunction = Callable[..., list[float | None]]

REWARDS: dict[str, RewardFunction] = {
    "accuracy": accuracy_reward,
    "binary_code": binary_code_reward,
    "cf_code": cf_code_reward,
    "code": code_reward,
    "code_format": code_format_reward,
    "cosine": cosine_reward,
    "final_answer": final_answer_reward,
    "format": format_reward,
    "instructions": instructions_reward,
    "ioi_code": ioi_code_reward,
    "judge": judge_reward,
    "language_consistency": language_consistency_reward,
    "last_number": last_number_reward,
    "length": length_reward,
    "reasoning_steps": reasoning_steps_reward,
    "repetition_penalty": repetition_penalty_reward,
    "reward_model": reward_model_reward,
    "soft_overlong_punishment": soft_overlong_punishment_reward,
    "tag_count": tag_count_reward,
}
# In worker processes, in sandboxes.
JUDGED_ELSEWHERE = ("accuracy", "binary_code", "cf_code", "code", "final_answer", "ioi_code")
# From 0 to 1, by rules that no style can please.
VERIFIED = (
    "accuracy",
    "binary_code",
    "cf_code",
    "code",
    "final_answer",
    "instructions",
    "ioi_code",
    "last_number",
)
OPINIONS = ("judge", "reward_model")  # a model's, which may be deceived
NOT_FROM_0_TO_1 = ("cosine", "length", "repetition_penalty", "reward_model", "soft_overlong_punishment")
GIVEN_BY_TRAINER = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
    "environments",
)
GIVEN_BY_RECIPE = ("thinking", "max_completion_tokens", "judge")
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
    """The data columns that the rewards of a recipe read, without the prompt; `task` if one is for one task alone."""
    columns = [column for reward in rewards for column in columns_of_reward(reward)]
    return list(dict.fromkeys([*columns, *(["task"] if any(reward.tasks for reward in rewards) else [])]))


def rewards_for(rewards: Sequence[Reward], task: str | None) -> list[Reward]:
    """The rewards that judge rows of a task (None: of no task in particular)."""
    return [reward for reward in rewards if reward.is_for(task)]


def truths_of(guards: Guards, rewards: Sequence[Reward]) -> list[str]:
    """What the rewards are called whose means on eval_data tell what is wanted: guards.truth, or all that verify."""
    return [guards.truth] if guards.truth else [reward.called for reward in rewards if reward.name in VERIFIED]


def unwatched(recipe: Recipe) -> list[str]:
    """What the rewards are called that are a model's opinion and are learned from, if no truth is there to see it."""
    guards = recipe.guards
    if guards.max_eval_drop is None or (recipe.eval_data and truths_of(guards, recipe.rewards)):
        return []
    return [reward.called for reward in recipe.rewards if reward.name in OPINIONS and reward.weight]


def best_checkpoint_metric(recipe: Recipe) -> str | None:
    """What GRPO's best checkpoint is known by: trainer.metric_for_best_model, else the truth; None if there is not one.

    transformers' own default is the loss, which says nothing of what GRPO is for.
    """
    truths = truths_of(recipe.guards, recipe.rewards)
    of_truth = f"eval_rewards/{truths[0]}/mean" if len(truths) == 1 else None
    return recipe.trainer.get("metric_for_best_model") or of_truth


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
        and parameter.name not in (*GIVEN_BY_TRAINER, "thinking", "judge")
    ]


def missing_parameters(reward: Reward) -> list[str]:
    """The parameters that a reward cannot do without and the recipe does not give."""
    function = _named(reward.name)
    return [
        parameter.name
        for parameter in ([] if _is_factory(function) else _parameters(function))
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is parameter.empty
        and parameter.name not in (*GIVEN_BY_TRAINER, *GIVEN_BY_RECIPE, *reward.parameters)
    ]


def types_of_parameters(name: str) -> dict[str, Any]:
    """The annotated types of a named reward's parameters; those that say nothing are left out."""
    function = _named(name)
    try:
        return typing.get_type_hints(function)
    except NameError:  # one is imported for type checkers alone, and is no type that a recipe can give
        hints = inspect.get_annotations(function)
        return {parameter: hint for parameter, hint in hints.items() if not isinstance(hint, str)}


def models_of_rewards(recipe: Recipe) -> list[tuple[int, str]]:
    """Which rewards of a recipe ask a model that is loaded here, by position, and the model, as model.name."""
    given = ((index, reward.parameters.get("model")) for index, reward in enumerate(recipe.rewards))
    return [(index, name) for index, name in given if isinstance(name, str)]


def sandboxes_of(rewards: Sequence[Reward]) -> list[str]:
    """The sandboxes that these rewards run programs in, by name, each once."""
    asked = [
        reward.parameters.get("sandbox", parameter.default)
        for reward in rewards
        for parameter in _parameters(reward_function(reward))
        if parameter.name == "sandbox"
    ]
    return list(dict.fromkeys(asked))


def build_rewards(
    rewards: Sequence[Reward],
    thinking: Thinking,
    seed: int,
    max_completion_tokens: int,
    judge: "ModelJudge | None" = None,
) -> list[BoundReward]:
    """The functions of a recipe's rewards with their parameters bound, named as TRL's metrics will show them.

    `judge` is whom the reward of this name asks. What each does beside giving its values is BoundReward's to tell.
    """
    given = {"thinking": thinking, "max_completion_tokens": max_completion_tokens, "judge": judge}
    return [_bind(reward, given, seed) for reward in rewards]


def _bind(reward: Reward, given: dict[str, Any], seed: int) -> BoundReward:
    function = reward_function(reward)
    taken = [parameter.name for parameter in _parameters(function)]
    parameters = {name: value for name, value in given.items() if name in taken}
    parameters |= {} if _is_factory(_named(reward.name)) else _with_sections(reward)
    return BoundReward(
        reward.called,
        function,
        parameters,
        starts_early=_is_judged_elsewhere(reward, given["judge"]),
        shuffle_seed=seed if reward.shuffled else None,
        tasks=reward.tasks,
        first_step=reward.first_step,
        last_step=reward.last_step,
        logs_as=reward.name.rpartition(":")[2],
    )


def _with_sections(reward: Reward) -> dict[str, Any]:
    """The parameters of a reward, with sections in the place of mappings that stand for one, e.g. Endpoint."""
    types = types_of_parameters(reward.name)
    parameters = reward.parameters
    for name, value in parameters.items():
        if isinstance(value, dict) and (section := section_in(types.get(name))) is not None:
            parameters[name] = section.model_validate(value)
    return parameters


def _is_judged_elsewhere(reward: Reward, judge: "ModelJudge | None") -> bool:
    """True if other processes, or a server, judge each answer without the others of its group."""
    if reward.name == "judge":
        return judge is not None and judge.is_elsewhere and not judge.compares
    is_served = reward.name == "reward_model" and reward.parameters.get("endpoint") is not None
    return is_served or reward.name in JUDGED_ELSEWHERE


def asks_judge(rewards: Sequence[Reward]) -> bool:
    """True if one of the rewards is the judge's."""
    return any(reward.name == "judge" for reward in rewards)


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
    "BoundReward",
    "RewardFunction",
    "accuracy_reward",
    "best_checkpoint_metric",
    "binary_code_reward",
    "build_rewards",
    "cf_code_reward",
    "code_format_reward",
    "code_reward",
    "columns_of_reward",
    "cosine_reward",
    "final_answer_reward",
    "format_reward",
    "instructions_reward",
    "ioi_code_reward",
    "judge_reward",
    "language_consistency_reward",
    "last_number_reward",
    "length_reward",
    "missing_parameters",
    "models_of_rewards",
    "reasoning_steps_reward",
    "repetition_penalty_reward",
    "reward_columns",
    "reward_function",
    "reward_model_reward",
    "rewards_for",
    "sandboxes_of",
    "settable_parameters",
    "soft_overlong_punishment_reward",
    "tag_count_reward",
    "truths_of",
    "types_of_parameters",
]
