"""The reward of an AI judge: for open prompts, to whose answers no rule can say right or wrong."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from open_r1.recipe import Thinking
from open_r1.rewards.completion import Completion, completion_text, prompt_messages

if TYPE_CHECKING:
    from open_r1.feedback import ModelJudge


def judge_reward(
    completions: Sequence[Completion],
    prompts: Sequence,
    *,
    rubric: str,
    judge: "ModelJudge | None" = None,
    thinking: Thinking = Thinking(),
    log_metric=None,
    **columns,
) -> list[float | None]:
    """The judge's score of each completion by the rubric, from 0.0 (lowest) to 1.0 (highest); None without a verdict.

    `rubric` is a .yaml file beside the recipe, the judge that of its section `judge`. Completions of one prompt are
    judged together, `judge.candidates` at a time. Raises RunStopped if the judge's server fails or its cap is reached.

    Logs as metrics the share without a verdict (failed_share), and what the judge tells of itself since the run began:
    position_bias and spread, in points of the rubric's scale.
    """
    from open_r1.feedback import load_rubric

    read = load_rubric(rubric)
    if not completions:
        return []
    rows_of: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(json.dumps(prompt, sort_keys=True), []).append(row)
    texts = [completion_text(completion) for completion in completions]
    scores_PG = judge.scores(
        read,
        [prompt_messages(prompts[rows[0]]) for rows in rows_of.values()],
        [[texts[row] for row in rows] for rows in rows_of.values()],
        thinking,
    )
    values: list[float | None] = [None] * len(texts)
    for rows, scores in zip(rows_of.values(), scores_PG, strict=True):
        for row, score in zip(rows, scores, strict=True):
            values[row] = None if score is None else read.share(score)
    if log_metric is not None:
        log_metric("rewards/judge/failed_share", values.count(None) / len(values))
        for name in ("position_bias", "spread"):
            if (value := judge.report()[name]) is not None:
                log_metric(f"rewards/judge/{name}", value)
    return values
