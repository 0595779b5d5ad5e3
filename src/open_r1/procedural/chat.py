"""Small talk: the general prompts of the tiny recipes, to which there is an answer but nothing to work out.

Somebody with a made-up name of two syllables says something, `Rimo says thanks`, and the reply is what one says to
that, `You are welcome.` (A reply with the name in it is too hard for a million parameters: they learn to name somebody,
and not whom.) While a model is trained no reply is verified: as in the paper, general prompts are not what rules can
judge. Held-out ones are compared with the one reply that the family writes.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

STYLES = ("reply",)
ORIGIN = "tiny_chat"  # as a mistake in a recipe's parameters names it
COLUMNS = ("text", "prompt", "completion", "solution")
REPLIES = {  # what is said -> the reply
    "hello": "Hello!",
    "thanks": "You are welcome.",
    "sorry": "No problem.",
    "bye": "See you soon!",
    "help": "What can I do?",
}
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Problem:
    """Who says what."""

    name: str
    said: str

    @property
    def question(self) -> str:
        return f"{self.name} says {self.said}"

    @property
    def answer(self) -> str:
        return REPLIES[self.said]

    @property
    def unordered(self) -> tuple[str, str]:
        return self.name, self.said


def parameter_names() -> list[str]:
    """The parameters that a recipe can give: none."""
    return []


def draw(seed: int, max_draws: int) -> Iterator[Problem]:
    """Yields `max_draws` problems; some may come twice."""
    rng = random.Random(seed)
    for _ in range(max_draws):
        name = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(2)).capitalize()
        yield Problem(name, rng.choice(list(REPLIES)))


def row(problem: Problem, style: str) -> dict[str, Any]:
    """The problem with its reply, in the format that the `format` reward asks for, under the names of COLUMNS."""
    return {
        "text": f"{problem.question}\n{problem.answer}",
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": f"<think></think><answer>{problem.answer}</answer>"}],
        "solution": problem.answer,
    }
