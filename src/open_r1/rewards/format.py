"""Rewards for how a completion is laid out: think and answer blocks, their tags, marked steps, a code block.

`format` is DeepSeek-R1-Zero's (Nature s41586-025-09422-z, Methods): thinking, then an answer, each in its tags. The
other three bear the names and the equations of open-r1's rewards (github.com/huggingface/open-r1, rewards.py); what
counts as a tag, a step or a block is our own. The tags of the thinking are the recipe's. Every check takes time in
proportion to the text, since a policy may well write a megabyte of tags.
"""

import re
from collections.abc import Sequence

from open_r1.recipe import Thinking
from open_r1.rewards.completion import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    Completion,
    completion_text,
    fence_names,
    fenced_blocks,
)

MIN_STEPS_FOR_FULL_CREDIT = 3
# `++` and `*+` never give back what they took: a line of a million digits or blanks is read once.
STEP_WORD = r"(?:(?:First|Second|Third|Next|Then|Finally|Lastly)(?:ly)?,|(?:Step|step|STEP)[ \t]*+\d++\**+:)"
STEP_LINE = r"^[ \t]*+(?:\d++[.)]|[-*+•])[ \t]++"
# A line that begins `1. First,` or `- **Step 1:**` marks one step, not two.
STEP = re.compile(rf"{STEP_LINE}(?:\**+{STEP_WORD})?|\b{STEP_WORD}", re.MULTILINE)


def format_reward(completions: Sequence[Completion], *, thinking: Thinking = Thinking(), **columns) -> list[float]:
    """1.0 if the completion is one think block followed by one non-empty answer block and nothing else, else 0.0.

    Blanks and line breaks around the blocks are free. Where the prompt has already written the opening tag
    (`thinking.prefilled`), the completion goes on from there and must not write it again.
    """
    return [float(_answer_block(completion_text(completion), thinking) is not None) for completion in completions]


def tag_count_reward(completions: Sequence[Completion], *, thinking: Thinking = Thinking(), **columns) -> list[float]:
    """A quarter for each of the four tags that stands exactly once: 0.0, 0.25, 0.5, 0.75 or 1.0.

    The tags are those of the thinking and of the answer, in any order; one that the prompt has already written
    (`thinking.prefilled`) stands, and a second one in the completion makes two. Source: open-r1, tag_count.
    """
    return [_share_of_tags(completion_text(completion), thinking) for completion in completions]


def reasoning_steps_reward(completions: Sequence[Completion], **columns) -> list[float]:
    """min(1, marked steps / 3): 0.0 without any, 1.0 from three on.

    A step is marked by `Step 1:`, by a number or a bullet at the start of a line, or by `First,`, `Second,`, `Third,`,
    `Next,`, `Then,`, `Finally,`, `Lastly,`; a numbered line that goes on with `First,` is one step. The whole
    completion counts, and nothing is said about what the steps are worth: give it a small weight. Source of the
    equation: open-r1, reasoning_steps.
    """
    return [
        min(1.0, len(STEP.findall(completion_text(completion))) / MIN_STEPS_FOR_FULL_CREDIT)
        for completion in completions
    ]


def code_format_reward(
    completions: Sequence[Completion], *, language: str = "python", thinking: Thinking = Thinking(), **columns
) -> list[float]:
    """1.0 if `format` holds and the answer has exactly one fenced block of `language`, with code in it; else 0.0.

    Words around the block are free, and so are blocks of another language or of none (a sample of the output), so that
    there is always exactly one program to run. ```` ```py ```` and ```` ```Python ```` are Python as well. A fence
    stands on its own line and must be closed. Source: open-r1, code_format.
    """
    names = fence_names(language)
    return [
        _holds_one_program(_answer_block(completion_text(completion), thinking), names) for completion in completions
    ]


def _with_prompts_tag(text: str, thinking: Thinking) -> str:
    return thinking.open + text if thinking.prefilled else text


def _tags(thinking: Thinking) -> tuple[str, ...]:
    return thinking.open, thinking.close, ANSWER_OPEN, ANSWER_CLOSE


def _share_of_tags(text: str, thinking: Thinking) -> float:
    text, tags = _with_prompts_tag(text, thinking), _tags(thinking)
    return sum(text.count(tag) == 1 for tag in tags) / len(tags)


def _answer_block(text: str, thinking: Thinking) -> str | None:
    """What stands in the answer block, if the whole text is laid out as it should be; else None."""
    text = _with_prompts_tag(text, thinking)
    if any(text.count(tag) != 1 for tag in _tags(thinking)):
        return None
    before, _, text = text.partition(thinking.open)
    _, close, text = text.partition(thinking.close)
    between, answer_open, text = text.partition(ANSWER_OPEN)
    answer, answer_close, after = text.partition(ANSWER_CLOSE)
    if not (close and answer_open and answer_close) or (before + between + after).strip():
        return None
    return answer if answer.strip() else None


def _holds_one_program(answer: str | None, names: set[str]) -> float:
    programs = [] if answer is None else [code for name, code in fenced_blocks(answer) if name in names]
    return float(len(programs) == 1 and bool(programs[0].strip()))
