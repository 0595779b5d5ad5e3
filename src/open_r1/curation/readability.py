"""Why a completion cannot be read: the filters of rejection sampling that look at the text alone.

DeepSeek-R1 left out traces with mixed languages, long paragraphs and code blocks (arXiv 2501.12948, section 2.3.3), and
says no more of how; `keep` of a recipe says what counts as one. A completion that broke off, or that does not end its
thinking once, is left out always: a model that learns from it learns to do the same.
"""

from collections.abc import Callable, Iterator

import regex

from open_r1.generation import Completion
from open_r1.recipe import Keep, Thinking
from open_r1.rewards.completion import has_fence
from open_r1.rewards.language import SCRIPTS, share_in_language, without_tags

# Scripts that put no blanks between words: there a character counts as a word, as in the language reward.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# Elsewhere a word ends at the next blank: `3.14`, `don't` and `\frac{1}{2}` are one word each, `=` and `。` are none.
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*+|[^\W{UNSPACED}][^\s{UNSPACED}]*+")


def unreadable(text: str, num_tokens: int, truncated: bool, keep: Keep, thinking: Thinking) -> str | None:
    """The first of FILTERS that drops the completion, by name; None if it can be read.

    `text` is what the model wrote, without its prompt; `thinking.prefilled` says whether that has opened the thinking
    already (None: nobody knows). Linear in the text.
    """
    completion = Completion(text, num_tokens, truncated)
    return next((reason for reason, applies in FILTERS if applies(completion, keep, thinking)), None)


def keep_problems(keep: Keep) -> Iterator[str]:
    """Yields a line, with its key, for each value of a recipe's `keep` that is unknown or lets nothing be kept."""
    if keep.language is not None and keep.language not in SCRIPTS:
        yield f"keep.language: {keep.language!r} is not known; give one of {', '.join(SCRIPTS)}"
    if keep.min_tokens is not None and keep.max_tokens is not None and keep.min_tokens > keep.max_tokens:
        yield (
            f"keep.min_tokens: {keep.min_tokens} is above keep.max_tokens ({keep.max_tokens}), so no completion could "
            f"be kept; lower it, or raise keep.max_tokens"
        )


def is_truncated(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True if the completion hit the token limit."""
    return completion.truncated


def is_too_short(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True if it has fewer than `keep.min_tokens` tokens."""
    return keep.min_tokens is not None and completion.num_tokens < keep.min_tokens


def is_too_long(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True if it has more than `keep.max_tokens` tokens."""
    return keep.max_tokens is not None and completion.num_tokens > keep.max_tokens


def has_wrong_thinking_format(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True unless the thinking is opened once and then closed once, or is not marked at all.

    An opening tag in the prompt counts as one. If nobody knows what the prompt wrote, a closing tag alone is enough.
    """
    text = thinking.open + completion.text if thinking.prefilled else completion.text
    tags = (text.count(thinking.open), text.count(thinking.close))
    if tags == (0, 0):
        return False
    if tags == (0, 1) and thinking.prefilled is None:
        return False
    return tags != (1, 1) or text.index(thinking.close) < text.index(thinking.open)


def is_of_mixed_languages(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True if less than `keep.min_language_share` of the words are in `keep.language`.

    The words of thinking and answer are counted together, formulas and code are none; a text without words is in no
    other language either.
    """
    if keep.language is None:
        return False
    share = share_in_language(without_tags(completion.text, thinking), keep.language)
    return share is not None and share < keep.min_language_share


def has_long_paragraph(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True if more than `keep.max_paragraph_words` words stand without a line break, in thinking or answer."""
    limit = keep.max_paragraph_words
    if limit is None:
        return False
    paragraphs = without_tags(completion.text, thinking).splitlines()
    # A word has at least one character: most paragraphs are too short to be worth counting.
    return any(len(paragraph) > limit and len(WORD.findall(paragraph)) > limit for paragraph in paragraphs)


def has_code_in_thinking(completion: Completion, keep: Keep, thinking: Thinking) -> bool:
    """True if a fenced block is opened in the thinking and `keep.code_in_thinking` is False; one in the answer may be.

    A text that marks no thinking is all answer.
    """
    return not keep.code_in_thinking and has_fence(_thought(completion.text, thinking))


def _thought(text: str, thinking: Thinking) -> str:
    """What stands before the last closing tag, less what stands before the opening one; "" if no thinking is marked."""
    _, opened, inside = text.partition(thinking.open)
    thought = inside if opened and not thinking.prefilled else text
    before_close, close, _ = thought.rpartition(thinking.close)
    if close:
        return before_close
    return thought if opened or thinking.prefilled else ""


# Reason, as it is counted in reports -> filter. The first that applies is the reason.
FILTERS: tuple[tuple[str, Callable[[Completion, Keep, Thinking], bool]], ...] = (
    ("truncated", is_truncated),
    ("too_short", is_too_short),
    ("too_long", is_too_long),
    ("wrong_thinking_format", has_wrong_thinking_format),
    ("mixed_languages", is_of_mixed_languages),
    ("long_paragraph", has_long_paragraph),
    ("code_in_thinking", has_code_in_thinking),
)
