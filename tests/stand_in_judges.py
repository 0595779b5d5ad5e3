"""Judges for tests: what a request shows, read by its marks alone, and verdicts by a rule that a test can compute."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from open_r1.feedback import Principle, Rubric

QUESTION = [{"role": "user", "content": "Which is the tallest mountain?"}]
ORDER = Rubric(description="Order.", principles=[Principle(name="order", text="Is it in order?")])


@dataclass(frozen=True)
class Shown:
    """What a judge is shown: the code of the marks, the principles' names, and what stands between which marks."""

    nonce: str
    principles: list[str]
    asked: list[tuple[str, str]]
    answers: dict[str, str]


def shown_in(messages: list[dict[str, str]]) -> Shown:
    """Reads the user's message as a judge does who takes marks at their word, from the first to the last of them."""
    content = messages[-1]["content"]
    nonce = re.search(r"\(the code of all marks is ([0-9a-f]+)\)", content)[1]
    principles = re.findall(r"^- ([a-z0-9_]+): ", content[: content.index(nonce)], re.MULTILINE)
    marked = re.findall(rf"^<([^<>\n]+) {nonce}>\n(.*?)\n</\1 {nonce}>$", content, re.MULTILINE | re.DOTALL)
    answers = {name.removeprefix("answer "): text for name, text in marked if name.startswith("answer ")}
    return Shown(nonce, principles, [pair for pair in marked if not pair[0].startswith("answer ")], answers)


def verdict_by(score: Callable[[int, str], int]) -> Callable[[dict[str, Any]], str]:
    """An answer of OpenAIServer's: each answer's score, by its place (from 0) and its text, for every principle."""

    def answer(body: dict[str, Any]) -> str:
        shown = shown_in(body["messages"])
        scores = [score(place, text) for place, text in enumerate(shown.answers.values())]
        of_principles = [dict.fromkeys(shown.principles, each) for each in scores]
        return json.dumps(dict(zip(shown.answers, of_principles, strict=True)))

    return answer


def likes_length(_: int, text: str) -> int:
    """From 1 to 10, a point for each character."""
    return min(10, max(1, len(text)))


def likes_the_first(place: int, _: str) -> int:
    return 9 if place == 0 else 5


def is_nonsense(body: dict[str, Any]) -> bool:
    """True of one request in five, by what is asked and the seed."""
    asked = f"{body['messages'][-1]['content']}/{body['seed']}"
    return hashlib.sha256(asked.encode()).digest()[0] % 5 == 0
