"""The reward for following verifiable instructions: IFEval's accuracy, and Tulu 3's verifier of constraints."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from open_r1.judging.instructions import Asked, BadGold, followed, read_instructions
from open_r1.recipe import Thinking
from open_r1.rewards.completion import ANSWER_CLOSE, ANSWER_OPEN, Completion, after_thinking, completion_text


def instructions_reward(
    completions: Sequence[Completion],
    solution: Sequence[str],
    *,
    thinking: Thinking = Thinking(),
    loose: bool = False,
    partial: bool = False,
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    """1.0 if the answer follows all instructions of its gold, 0.0 if not or if there is none, None without such a gold.

    One for each completion, in order. The gold is a JSON text, IFEval's or Tulu 3's (judging/instructions/gold.py); one
    that cannot be read, or asks for a language that cannot be told, is None. The answer is all that follows the
    thinking, but for the tags `<answer>` and `</answer>`; a thinking that never ends has none. With `partial` the
    reward is the share of the instructions that are followed.

    Source: IFEval (arXiv 2311.07911, section 2.2), prompt-level strict accuracy, or with `loose` loose accuracy; Tulu 3
    (arXiv 2411.15124, section 6). What each instruction means is told in judging/instructions/table.py. `log_extra` and
    `log_metric` are TRL's: they put what was not followed in the completions table, and shares among the metrics.
    """
    asked = [_read(gold) for gold in solution]
    answers = [_answer(completion_text(completion), thinking) for completion in completions]
    verdicts = [
        followed(answer, instructions, loose) if isinstance(instructions, list) else None
        for answer, instructions in zip(answers, asked, strict=True)
    ]
    if log_extra is not None:
        log_extra("instructions_not_followed", [_shown(*pair) for pair in zip(asked, verdicts, strict=True)])
    if log_metric is not None:
        judged = [one for verdict in verdicts if verdict is not None for one in verdict]
        log_metric("instructions/followed_share", sum(judged) / max(1, len(judged)))
        log_metric("instructions/unparsed_gold_share", verdicts.count(None) / max(1, len(verdicts)))
    return [None if verdict is None else _score(verdict, partial) for verdict in verdicts]


def _read(gold: Any) -> list[Asked] | BadGold:
    """The instructions of a gold, or what is wrong with it."""
    try:
        return read_instructions(gold if isinstance(gold, str) else json.dumps(gold, default=str))
    except BadGold as problem:
        return problem


def _answer(text: str, thinking: Thinking) -> str:
    return (after_thinking(text, thinking) or "").replace(ANSWER_OPEN, "").replace(ANSWER_CLOSE, "")


def _shown(asked: list[Asked] | BadGold, verdict: list[bool] | None) -> str:
    if isinstance(asked, BadGold):
        return f"the gold cannot be parsed: {asked}"
    return ", ".join(one.id for one, is_followed in zip(asked, verdict, strict=True) if not is_followed)


def _score(verdict: list[bool], partial: bool) -> float:
    return sum(verdict) / len(verdict) if partial else float(all(verdict))
