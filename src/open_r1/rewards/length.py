"""Rewards for how long a completion is, in tokens: Kimi's, the cosine, and DAPO's punishment of the overlong."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence

from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.completion import AnswerIn, Completion
from open_r1.rewards.math import accuracy_reward

SHARE_OF_MAX_THAT_IS_CACHE = 5  # DAPO, section 4.1: 4,096 of 20,480 tokens


def length_reward(
    completions: Sequence[Completion],
    prompts: Sequence,
    solution: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    *,
    thinking: Thinking = Thinking(),
    answer_in: AnswerIn = "both",
    **columns,
) -> list[float | None]:
    """Between 0.5 (the shortest of its prompt's group, and right) and -0.5; None if `accuracy` gives no verdict.

    Kimi k1.5 (arXiv 2501.12599, section 2.3.3), with lengths in tokens and min and max over the prompt's group:

        lambda = 0.5 - (length - min) / (max - min)      right: lambda      wrong: min(0, lambda)

    and 0.0 for the whole group if all its lengths are equal. One addition of ours: a right answer gets at least what
    the best wrong one of its group gets, else a long right answer would be worth less than a short wrong one.

    The group is every completion of this call with the same prompt, in any order; one without a verdict is no part
    of it. TRL calls rewards once per process: choose per_device_train_batch_size x steps_per_generation as a multiple
    of num_generations, else a group is torn between processes and each judges its own piece.
    """
    verdicts = accuracy_reward(completions, solution, thinking=thinking, answer_in=answer_in)
    members_by_prompt = defaultdict(list)
    for index, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True)):
        if verdict is not None:
            members_by_prompt[_key(prompt)].append(index)
    lengths_tokens = [len(ids) for ids in completion_ids]
    rewards: list[float | None] = [None] * len(completions)
    for members in members_by_prompt.values():
        scores = _scores_of_group([lengths_tokens[i] for i in members], [verdicts[i] == 1.0 for i in members])
        for index, score in zip(members, scores, strict=True):
            rewards[index] = score
    return rewards


def cosine_reward(
    completions: Sequence[Completion],
    solution: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    *,
    max_completion_tokens: int,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    thinking: Thinking = Thinking(),
    answer_in: AnswerIn = "both",
    **columns,
) -> list[float | None]:
    """Right: from max_value_correct (short) down to min_value_correct (long); wrong: from min up to max_value_wrong.

    None if `accuracy` gives no verdict. With t the length in tokens over `max_completion_tokens`, at most 1:

        reward = long + (short - long) * (1 + cos(pi * t)) / 2

    "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373), the cosine reward: of the right answers
    the short are worth more, of the wrong ones the long, since there more thinking is what is missing. The values are
    open-r1's. The paper's fixed penalty at the maximum is left to `soft_overlong_punishment`.

    Raises RecipeError if a min is above its max or max_completion_tokens is not positive.
    """
    _require_positive("cosine", "max_completion_tokens", max_completion_tokens)
    for kind, low, high in (
        ("wrong", min_value_wrong, max_value_wrong),
        ("correct", min_value_correct, max_value_correct),
    ):
        if low > high:
            raise RecipeError(f"cosine: min_value_{kind} is {low}, above max_value_{kind}, {high}; swap the two")

    def scaled(num_tokens: int, short: float, long: float) -> float:
        progress = min(1.0, num_tokens / max_completion_tokens)  # past the maximum the cosine would come back up
        return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2

    verdicts = accuracy_reward(completions, solution, thinking=thinking, answer_in=answer_in)
    return [
        None
        if verdict is None
        else scaled(len(ids), short=max_value_correct, long=min_value_correct)
        if verdict == 1.0
        else scaled(len(ids), short=min_value_wrong, long=max_value_wrong)
        for verdict, ids in zip(verdicts, completion_ids, strict=True)
    ]


def soft_overlong_punishment_reward(
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    *,
    max_completion_tokens: int,
    cache_tokens: int | None = None,
    **columns,
) -> list[float]:
    """0.0 up to max - cache tokens, then down in a straight line to -1.0 at `max_completion_tokens` and beyond.

    DAPO (arXiv 2503.14476), equation 13. Without `cache_tokens` it is a fifth of the maximum, as in the paper (4,096
    of 20,480 tokens). Raises RecipeError if `cache_tokens` is not between 1 and the maximum.
    """
    _require_positive("soft_overlong_punishment", "max_completion_tokens", max_completion_tokens)
    if cache_tokens is None:
        cache_tokens = max(1, max_completion_tokens // SHARE_OF_MAX_THAT_IS_CACHE)
    if not 0 < cache_tokens <= max_completion_tokens:
        raise RecipeError(
            f"soft_overlong_punishment: cache_tokens is {cache_tokens}; give 1 to {max_completion_tokens} "
            f"(trainer.max_completion_length), or leave it out for a fifth of that"
        )
    unpunished_tokens = max_completion_tokens - cache_tokens
    return [
        max(-1.0, min(0.0, (unpunished_tokens - len(ids)) / cache_tokens))
        for _, ids in zip(completions, completion_ids, strict=True)
    ]


def _require_positive(reward: str, name: str, value: int) -> None:
    if value <= 0:
        raise RecipeError(f"{reward}: {name} is {value}; give a positive number (trainer.max_completion_length)")


def _key(prompt) -> str:
    """The same text for the same prompt, be it a string or a conversation."""
    return json.dumps(prompt, sort_keys=True, default=repr)


def _scores_of_group(lengths_tokens: list[int], right: list[bool]) -> list[float]:
    shortest, longest = min(lengths_tokens), max(lengths_tokens)
    if shortest == longest:
        return [0.0] * len(lengths_tokens)
    scores = [0.5 - (length - shortest) / (longest - shortest) for length in lengths_tokens]
    scores = [score if is_right else min(0.0, score) for score, is_right in zip(scores, right, strict=True)]
    best_wrong = max((score for score, is_right in zip(scores, right, strict=True) if not is_right), default=-math.inf)
    return [max(score, best_wrong) if is_right else score for score, is_right in zip(scores, right, strict=True)]
