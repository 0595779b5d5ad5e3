"""When a score would say nothing of the model: what is known from the template, before anything is sampled.

A prompt that does not end where the model is to write, and an answer whose end is not seen, both give a number that
looks like a bad model. Needs the tokenizer alone.
"""

from collections.abc import Collection
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from open_r1.recipe import RecipeError

QUESTION, ANSWER = "What is 6 times 7?", "It is 42."


def check_template(
    tokenizer: PreTrainedTokenizerBase, stop_token_ids: Collection[int], model: str, file: Path | str
) -> None:
    """Returns if conversations can be sampled from the model; `stop_token_ids` are those that sampling ends at.

    Raises RecipeError, one line, if there is no chat template, if it renders no generation prompt, or if it ends the
    assistant's turn with none of these tokens.
    """
    problem = template_problem(tokenizer, stop_token_ids)
    if problem:
        raise RecipeError(f"{file}: the chat template of model {model!r} {problem}")


def template_problem(tokenizer: PreTrainedTokenizerBase, stop_token_ids: Collection[int]) -> str | None:
    """What is wrong with the tokenizer's chat template, and the mend; None if nothing is seen to be."""
    if not tokenizer.chat_template:
        return "is missing; give model.chat_template, e.g. the template that the model was trained with"
    user, assistant = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    try:
        prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        without = tokenizer.apply_chat_template([user], tokenize=False)
    except TemplateError as error:
        return f"cannot render a question ({_first_line(error)}); give another as model.chat_template"
    if QUESTION not in prompt:
        return "leaves the question out; give another as model.chat_template"
    try:
        conversation = tokenizer.apply_chat_template([user, assistant], tokenize=False)
    except TemplateError:
        conversation = ""  # it was made for prompts alone
    _, _, after_question = conversation.rpartition(QUESTION)
    before_answer, answered, after_answer = after_question.partition(ANSWER)
    opening = prompt.rpartition(QUESTION)[2].strip()
    # `[INST] question [/INST]` needs no more: an answer begins right there, and it is not only the question that ends.
    opens_turn = opening == before_answer.strip() and not _token_ids(tokenizer, opening) <= set(stop_token_ids)
    if prompt == without and not opens_turn:
        return (
            "renders no generation prompt (the same text with and without add_generation_prompt), so the model would "
            "go on with the question; give a template that does as model.chat_template"
        )
    if answered and not _token_ids(tokenizer, after_answer) & set(stop_token_ids):
        stops = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(sorted(stop_token_ids))) or "nothing"
        ending = f"with {after_answer.strip()!r}" if after_answer.strip() else "without any token"
        return (
            f"ends an answer {ending}, and sampling ends at {stops}, so no answer would end; give a template that "
            "writes eos_token behind an answer as model.chat_template, or a tokenizer whose eos_token is the template's"
        )
    return None


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> set[int]:
    return set(tokenizer(text, add_special_tokens=False)["input_ids"])


def truncation_problem(
    truncated_share: float, max_new_tokens: int, max_positions: int | None, max_truncated_share: float | None
) -> str | None:
    """Why a score is refused if so many completions were cut off; None if it is not. null refuses none."""
    if max_truncated_share is None or truncated_share <= max_truncated_share:
        return None
    positions = f" or the model's {max_positions} positions" if max_positions is not None else ""
    return (
        f"{100 * truncated_share:.0f} % of the completions were cut off at {max_new_tokens} tokens{positions} "
        f"(evaluate.max_truncated_share: {max_truncated_share:g}), so a score would say more of the limit than of the "
        "model; raise evaluate.max_new_tokens, or set evaluate.max_truncated_share: null to see the score"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
