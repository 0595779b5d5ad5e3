"""What is asked of a generation backend, and what it gives back."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

ZERO_WIDTH_SPACE = "\u200b"
Conversation = Sequence[Mapping[str, str]]  # messages with role and content, the last one the user's
Row = tuple[int, int]  # which conversation, and which of its samples, both counted from 0


def broken_up(mark: str) -> str:
    """A mark or control token as text, which is none any more: a zero-width space stands behind its first character."""
    return f"{mark[:1]}{ZERO_WIDTH_SPACE}{mark[1:]}"


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Temperature 0 is greedy; lengths are in tokens; `batch_size` is in completions.

    `schemas` has for each conversation the JSON schema that its completions are to have, where the backend can see to
    it: a server can. Empty: completions are text.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    num_samples: int
    batch_size: int
    seed: int
    schemas: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled completion: its text without the EOS token, its tokens (EOS included), and whether it ended.

    `refused` is a server's reason not to answer what was asked; there is no text then, and nothing to judge.
    """

    text: str
    num_tokens: int
    truncated: bool
    token_ids: tuple[int, ...] = ()
    refused: str | None = None
    # What it cost, and no part of what it is: two that say the same are equal, whatever a server counted.
    num_prompt_tokens: int | None = field(default=None, compare=False)
    num_refused_tokens: int = field(default=0, compare=False)  # sampled, and then kept back by the server


class Tokens(NamedTuple):
    """Tokens of prompts and of completions, which have prices of their own."""

    prompt: int
    completion: int


class Meter(Protocol):
    """Who counts what is sampled, and ends it before it is too much. Called from any thread."""

    async def reserve(self, bound: Tokens) -> None:
        """Sets aside the most that a request can take, when there is room for it. Raises RunStopped if never."""

    def take(self, bound: Tokens) -> None:
        """The same at once. Raises RunStopped if there is no room."""

    def settle(self, bound: Tokens, prompt_tokens: int | None, completion_tokens: int, num_requests: int = 1) -> None:
        """Puts what was taken in the place of what was set aside; prompts of unknown length count as their bound."""


class Backend(Protocol):
    """Something that samples: a model in this process, or a server."""

    def sample(
        self, conversations: Sequence[Conversation], sampling: Sampling, wanted: Collection[Row] | None = None
    ) -> Iterator[tuple[Row, Completion]]:
        """Yields `num_samples` completions of each conversation, or those of `wanted` alone, in the order they end in.

        A backend with a seed gives each row the same completion whichever rows are wanted beside it.
        """

    def counts(self) -> dict[str, int]:
        """What had to be done again or given up since the backend was made, by kind; only what is not 0."""
