"""What pairs of answers become before a trainer learns from them: as the chat template renders them, and how many."""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from open_r1.recipe import Recipe, RecipeError

ANSWERS = ("chosen", "rejected")
NUM_RENDERED = 64
NUM_SHOWN = 20
ROWS_AT_ONCE = 1000


def check_rendering(
    recipe: Recipe, pairs: Dataset, tokenizer: PreTrainedTokenizerBase, after_generation_prompt: bool
) -> None:
    """Raises RecipeError if the chat template leaves out what is in the first NUM_RENDERED pairs.

    Some templates strip the thinking, and keep what follows it. White space does not count, nor what earlier turns of
    the assistant lose. `after_generation_prompt` says that the answers are to follow what a policy is given to answer:
    then that has to begin what a prompt and its answer are rendered as.
    """
    for row, pair in enumerate(pairs.select(range(min(NUM_RENDERED, len(pairs))))):
        asked = _rendered(tokenizer, pair["prompt"], add_generation_prompt=True)
        for name in ANSWERS:
            whole = _rendered(tokenizer, [*pair["prompt"], *pair[name]])
            said = [*(message for message in pair["prompt"] if message["role"] != "assistant"), *pair[name]]
            problem = None
            if lost := [each["role"] for each in said if _letters(each["content"]) not in _letters(whole)]:
                problem = f"it leaves out some of what the {lost[0]} says, as templates do that strip the thinking"
            elif after_generation_prompt and not whole.startswith(asked):
                problem = f"a policy's prompt ends with {asked[-NUM_SHOWN:]!r}, and before this answer it does not"
            if problem:
                raise RecipeError(
                    f"{recipe.source}: model.chat_template: row {row}, {name}: {problem}; give one that renders every "
                    f"message as it is, e.g. from recipes/chat_templates/"
                )


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **keys) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **keys)


def _letters(content: Any) -> str:
    return "".join(content.split()) if isinstance(content, str) else ""


def check_left(recipe: Recipe, section: str, num_pairs: int, num_left: int, why: str) -> None:
    """Prints how many pairs of a section TRL has left out, which it does without a word, and `why`.

    Raises RecipeError if it has left none.
    """
    if not num_left:
        raise RecipeError(
            f"{recipe.source}: {section}: all {num_pairs} pairs are left out: {why}; raise it, or give shorter ones"
        )
    if num_left < num_pairs and PartialState().is_main_process:
        print(f"{section}: {num_pairs - num_left} of {num_pairs} pairs are left out: {why}")


def num_cut_off(pairs: Dataset, max_length: int) -> int:
    """How many answers of tokenized pairs do not fit into `max_length` tokens together with their prompt."""
    import pyarrow.compute

    columns = ["prompt_ids", *(f"{name}_ids" for name in ANSWERS)]
    count = 0
    for rows in pairs.select_columns(columns).with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        prompt, *answers = (pyarrow.compute.list_value_length(rows[column]).to_numpy() for column in columns)
        count += sum(int((prompt + answer > max_length).sum()) for answer in answers)
    return count
