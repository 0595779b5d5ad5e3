"""The reward that a trained reward model gives: for open prompts, to whose answers no rule can say right or wrong."""

from collections.abc import Sequence
from typing import Literal

from open_r1.recipe import RecipeError
from open_r1.rewards.completion import Completion, completion_text


def reward_model_reward(
    completions: Sequence[Completion],
    prompts: Sequence,
    *,
    model: str,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    max_length: int | None = None,
    batch_size: int = 16,
    log_metric=None,
    **columns,
) -> list[float | None]:
    """The reward model's number for each prompt with its completion, unbounded; None if both have too many tokens.

    `model` is written as model.name; it is asked in this process, `batch_size` conversations at once. `max_length` is
    in tokens of prompt and completion (default: no limit). What a reward model has learned is a matter of differences
    (Bradley and Terry): beside rewards of another scale use trainer.multi_objective_aggregation: normalize_then_sum, or
    a weight that makes up for it.

    Logs as a metric the share without a verdict (failed_share). Raises RecipeError if `batch_size` is not positive.
    """
    if batch_size < 1:
        raise RecipeError(f"reward_model: batch_size is {batch_size}; give 1 or more")
    if not completions:
        return []
    from open_r1.feedback.reward_models import reward_model_here

    conversations = [
        [*_messages(prompt), {"role": "assistant", "content": completion_text(completion)}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    values = reward_model_here(model, revision, dtype).rewards(conversations, batch_size, max_length)
    if log_metric is not None:
        log_metric("rewards/reward_model/failed_share", values.count(None) / len(values))
    return values


def _messages(prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
