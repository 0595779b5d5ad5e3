"""Verdicts that need no algebra: a number against a number. The judge begins with them, and so may its caller."""

import functools
import re

from open_r1.judging.mathematics.literals import Number, is_unfinished_arithmetic, number, same_number
from open_r1.judging.mathematics.notation import MAX_NESTING, is_balanced, nesting, spelled_plainly
from open_r1.judging.verdict import Verdict

MAX_CHARACTERS = 2000  # of a final answer; MATH's longest has 159
SAME = Verdict(1.0, "the same as written")
SAME_NUMBER = Verdict(1.0, "the same number")
OTHER = Verdict(0.0, "another number")
_INTEGER = re.compile(r"-?[0-9]{1,15}")  # by far the most frequent kind
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


@functools.lru_cache(maxsize=65536)
def without_algebra(gold: str, answer: str) -> Verdict | None:
    """The verdict on an answer to a gold that is a plain number; None if it takes the whole judge."""
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return SAME if gold == answer else OTHER if int(gold) != int(answer) else SAME_NUMBER
    plain_gold, gold_number = _plain_number(gold)
    if gold_number is None:
        return None
    problem = problem_of(answer)
    if problem:
        return Verdict(0.0, f"the answer cannot be parsed: {problem}")
    plain_answer = spelled_plainly(answer)
    if plain_answer == plain_gold:
        return SAME
    answer_number = number(plain_answer)
    if answer_number is not None:
        return SAME_NUMBER if same_number(gold_number, answer_number) else OTHER
    if is_unfinished_arithmetic(plain_answer.strip("() ")) and number(plain_answer.strip("() ")) is None:
        return Verdict(0.0, "a number was asked for, and its arithmetic is left undone")
    return None


@functools.lru_cache(maxsize=65536)
def _plain_number(gold: str) -> tuple[str, Number | None]:
    content = content_of(gold)
    plain = "" if problem_of(content) else spelled_plainly(content)
    return plain, number(plain)


def content_of(gold: str) -> str:
    r"""What a gold says: the last \boxed{} of a worked solution, else all of it."""
    opened = list(_BOXED.finditer(gold))
    if not opened:
        return gold
    depth = 0
    for position in range(opened[-1].end() - 1, len(gold)):
        depth += {"{": 1, "}": -1}.get(gold[position], 0)
        if depth == 0:
            return gold[opened[-1].end() : position]
    return gold


def problem_of(text: str) -> str | None:
    """Why a text cannot be an answer, whatever was asked; None if it can."""
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters are no final answer"
    if nesting(text) > MAX_NESTING:
        return "its brackets are nested too deeply"
    plain = spelled_plainly(text)
    if not any(sign.isalnum() for sign in plain) and plain != r"\{\}":
        return "it is empty" if not plain else "it says nothing"
    return None if is_balanced(plain) else "its brackets do not close"
