"""An answer against the instructions of its prompt."""

from collections.abc import Iterator, Sequence

from open_r1.judging.instructions.parts import plain_line_ends
from open_r1.judging.instructions.table import INSTRUCTIONS, Asked


def followed(answer: str, asked: Sequence[Asked], loose: bool = False) -> list[bool]:
    """For each instruction whether the answer follows it; all False if the answer is blank.

    What counts is the answer without blanks around it, lines ended by `\\n`. With `loose` (IFEval, section 2.2) an
    instruction is also followed if it is after the first line is left out, or the last, or both, and with or without
    the asterisks of markdown: what a preamble (`Sure, here it is:`) or bold type has spoiled is forgiven.
    """
    answer = plain_line_ends(answer).strip()
    texts = [text for text in (_variants(answer) if loose else [answer]) if text.strip()]
    return [any(INSTRUCTIONS[one.id].is_followed(text, **one.arguments) for text in texts) for one in asked]


def _variants(answer: str) -> Iterator[str]:
    lines = answer.split("\n")
    for some in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(some).strip()
        yield text
        yield text.replace("*", "")
