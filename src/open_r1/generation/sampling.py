"""What is asked of a generation backend, and what it gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Temperature 0 is greedy; lengths are in tokens; `batch_size` is in completions."""

    temperature: float
    top_p: float
    max_new_tokens: int
    num_samples: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """One sampled completion: its text without the EOS token, its tokens (EOS included), and whether it ended."""

    text: str
    num_tokens: int
    truncated: bool
    token_ids: tuple[int, ...] = ()
