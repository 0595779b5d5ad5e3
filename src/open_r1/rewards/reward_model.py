"""The reward that a trained reward model gives: for open prompts, to whose answers no rule can say right or wrong."""

from collections.abc import Sequence
from typing import Literal

from open_r1.recipe import Endpoint, RecipeError
from open_r1.rewards.completion import Completion, completion_text, prompt_messages

ENDPOINT_KEY = "rewards.reward_model.endpoint"  # as an override would be written


def reward_model_reward(
    completions: Sequence[Completion],
    prompts: Sequence,
    *,
    model: str | None = None,
    endpoint: Endpoint | None = None,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    max_length: int | None = None,
    batch_size: int = 16,
    log_metric=None,
    **columns,
) -> list[float | None]:
    """The reward model's number for each prompt with its completion, unbounded; None if both have too many tokens.

    None too for what is no finite number.

    `model` is written as model.name; it is asked in this process, `batch_size` conversations at once. `max_length` is
    in tokens of prompt and completion (default: no limit). What a reward model has learned is a matter of differences
    (Bradley and Terry): beside rewards of another scale use trainer.multi_objective_aggregation: normalize_then_sum, or
    a weight that makes up for it.

    `endpoint` in its place is a vLLM server of the model, e.g. {base_url: "http://localhost:8000", model: …}. What the
    server refuses, as what is longer than its --max-model-len, has no verdict. An engine in bf16 gives other last
    digits than float32 here, and other ones again where its batches are others: rewards of the two are not to be mixed.

    Logs as a metric the share without a verdict (failed_share). Raises RecipeError for parameters that do not go
    together, RunStopped if the server fails.
    """
    if (model is None) == (endpoint is None):
        given = "none" if model is None else "both"
        raise RecipeError(f"reward_model: give exactly one of model and endpoint (got {given})")
    if batch_size < 1:
        raise RecipeError(f"reward_model: batch_size is {batch_size}; give 1 or more")
    if max_length is not None and max_length < 1:
        raise RecipeError(f"reward_model: max_length is {max_length}; give the most tokens that it takes, or remove it")
    own = {"revision": revision, "max_length": max_length, "dtype": None if dtype == "float32" else dtype}
    for name, value in own.items():
        if endpoint is not None and value is not None:
            raise RecipeError(f"reward_model: {name} is for the server of endpoint to say; remove it")
    if not completions:
        return []
    from open_r1.feedback.reward_models import reward_model_here, served_reward_model

    conversations = [
        [*prompt_messages(prompt), {"role": "assistant", "content": completion_text(completion)}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    if endpoint is None:
        values = reward_model_here(model, revision, dtype).rewards(conversations, batch_size, max_length)
    else:
        values = served_reward_model(endpoint.model_dump_json(), ENDPOINT_KEY).rewards(conversations)
    if log_metric is not None:
        log_metric("rewards/reward_model/failed_share", values.count(None) / len(values))
    return values
