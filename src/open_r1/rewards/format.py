"""R1-Zero's format reward (DeepSeek-R1, Nature s41586-025-09422-z, Methods): thinking, then an answer, in tags."""

import re

from open_r1.rewards.completion import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, Completion, completion_text

ONE_BLOCK_EACH = re.compile(r"\s*<think>.*</think>\s*<answer>.*\S.*</answer>\s*", re.DOTALL)
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


def format_reward(completions: list[Completion], *, thinking_prefilled: bool = False, **columns) -> list[float]:
    """1.0 if the completion is one think block followed by one non-empty answer block and nothing else, else 0.0.

    With `thinking_prefilled` the prompt has already written `<think>`, and the completion goes on from there.
    """
    return [_follows_format(completion_text(completion), thinking_prefilled) for completion in completions]


def _follows_format(text: str, thinking_prefilled: bool) -> float:
    text = THINK_OPEN + text if thinking_prefilled else text
    return float(all(text.count(tag) == 1 for tag in TAGS) and bool(ONE_BLOCK_EACH.fullmatch(text)))
