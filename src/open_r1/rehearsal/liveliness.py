"""A reward that tells the answers of an untrained model apart: to the others they are all equally wrong."""

from open_r1.rewards.completion import completion_text


def number_of_characters(completions, **columns) -> list[float]:
    """A hundredth for each different character of a completion.

    Without it every group of a rehearsal would be dead, and neither the backward pass nor the optimizer seen at work.
    """
    return [len(set(completion_text(completion))) / 100 for completion in completions]
