"""How a completion is read: where the thinking ends, and what stands after it."""

from collections.abc import Iterable, Iterator, Sequence

from open_r1.recipe import Reward

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

Completion = str | Sequence[dict[str, str]]


def completion_text(completion: Completion) -> str:
    """The text of a completion as TRL hands it over: a string, or a conversation whose last message it is."""
    return completion if isinstance(completion, str) else completion[-1]["content"] or ""


def after_thinking(text: str, thinking_prefilled: bool = False) -> str | None:
    """What follows the thinking; None if the thinking never ends.

    A text that neither opens nor closes a thinking block is all answer, unless the prompt opened one for it
    (`thinking_prefilled`). A `</think>` ends the thinking even if the opening tag stands in the prompt.
    """
    _, close, after = text.rpartition(THINK_CLOSE)
    if close:
        return None if THINK_OPEN in after else after
    return None if thinking_prefilled or THINK_OPEN in text else text


def thinking_is_prefilled(rendered_prompt: str) -> bool:
    """True if the chat template's generation prompt has already written `<think>`, and not closed it."""
    return rendered_prompt.rstrip().endswith(THINK_OPEN)


def prefill_problems(rendered_prompt: str, rewards: Iterable[Reward]) -> Iterator[str]:
    """One line for each format reward that can never be earned after this generation prompt."""
    prefilled = thinking_is_prefilled(rendered_prompt)
    for index, reward in enumerate(rewards):
        if reward.name != "format":
            continue
        expected = reward.parameters.get("thinking_prefilled", prefilled)
        if rendered_prompt.rstrip().endswith(THINK_CLOSE):
            yield (
                f"rewards.{index}: format can never match: the chat template closes the thinking ({THINK_CLOSE}) "
                f"before the model writes; use a template that leaves it open"
            )
        elif expected != prefilled:
            does = "already writes" if prefilled else "does not write"
            yield (
                f"rewards.{index}.thinking_prefilled: {expected} can never match: the chat template {does} "
                f"{THINK_OPEN} for the model; remove the key, it is found by itself"
            )
