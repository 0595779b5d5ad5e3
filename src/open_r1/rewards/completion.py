"""How a completion is read: where the thinking ends, and what answer stands after it. Linear in the text, always."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from open_r1.recipe import Reward, Thinking

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
MAX_ANSWERS = 8  # different boxes after the thinking; more is a list of guesses
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
UNBRACED = re.compile(r"[^\s$\\]\S*|\\[A-Za-z]+\S*")
FENCE = re.compile(r"(`{3,}+)([^`]*+)")
FENCE_NAMES = (  # what people write after the backticks for one and the same language
    {"python", "py", "python3"},
    {"javascript", "js"},
    {"typescript", "ts"},
    {"cpp", "c++", "cc"},
    {"bash", "sh", "shell"},
    {"rust", "rs"},
)

Completion = str | Sequence[dict[str, str]]
AnswerIn = Literal["both", "boxed", "answer"]


@dataclass(frozen=True)
class Answer:
    """What a completion answers, and where that stood; no texts, and why not, if it answers nothing.

    Several texts are one answer given several times: each of them has to be right.
    """

    texts: tuple[str, ...]
    where: str


def completion_text(completion: Completion) -> str:
    """The text of a completion as TRL hands it over: a string, or a conversation whose last message it is."""
    return completion if isinstance(completion, str) else completion[-1]["content"] or ""


def prompt_messages(prompt: str | Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """A prompt as TRL hands it over, as a conversation: a string is the user's only message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def after_thinking(text: str, thinking: Thinking = Thinking()) -> str | None:
    """What follows the thinking; None if the thinking never ends.

    A text that neither opens nor closes a thinking block is all answer, unless the prompt opened one for it. A closing
    tag ends the thinking even if the opening one stands in the prompt.
    """
    _, close, after = text.rpartition(thinking.close)
    if close:
        return None if thinking.open in after else after
    return None if thinking.prefilled or thinking.open in text else text


def answer_of(text: str, thinking: Thinking = Thinking(), answer_in: AnswerIn = "both") -> Answer:
    r"""The answer after the thinking: in `\boxed{}` (or `\fbox{}`), in an `<answer>` block, or in either.

    An answer block with a box in it means the box. With "both", a box and an answer block have both to be right. If the
    recipe's `thinking.answer_in` is "rest", the answer is all that follows the thinking.
    """
    rest = after_thinking(text, thinking)
    if rest is None:
        return Answer((), "the thinking never ends")
    if thinking.answer_in == "rest":
        return Answer((rest.strip(),), "behind the thinking") if rest.strip() else Answer((), "there is no answer")
    blocks = list(answer_blocks(rest)) if answer_in != "boxed" else []
    if answer_in == "answer":
        texts, where = [inner for block in blocks for inner in list(boxes(block)) or [block]], "<answer>"
    else:
        found = list(boxes(rest))
        unboxed = [block for block in blocks if not has_box(block)]
        texts = [*found, *unboxed]
        where = " and ".join(name for name, given in ((r"\boxed{}", found), ("<answer>", unboxed)) if given)
    distinct = tuple(dict.fromkeys(stripped for answer in texts if (stripped := answer.strip())))
    if not distinct:
        return Answer((), "there is no " + {"boxed": r"\boxed{}", "answer": "<answer> block"}.get(answer_in, "answer"))
    if len(distinct) > MAX_ANSWERS:
        return Answer((), f"{len(distinct)} different answers are none")
    return Answer(distinct, where)


def boxes(text: str) -> Iterator[str]:
    r"""Contents of every outermost `\boxed{…}`, `\fbox{…}` and `\boxed 5`; of those that never close, nothing."""
    position = 0
    while match := BOX.search(text, position):
        if text[match.end() : match.end() + 1] == "{":
            end = _closing_brace(text, match.end())
            if end is None:
                return
            yield text[match.end() + 1 : end]
            position = end + 1
        elif token := UNBRACED.match(text, match.end()):
            yield token.group().rstrip("$.,;)")
            position = token.end()
        else:
            position = match.end()


def has_box(text: str) -> bool:
    """True if the text has a box that closes."""
    return next(boxes(text), None) is not None


def _closing_brace(text: str, start: int) -> int | None:
    depth = 0
    for match in BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are text


def answer_blocks(text: str) -> Iterator[str]:
    """Contents of every `<answer>…</answer>`; of one that never closes, nothing."""
    position = 0
    while (start := text.find(ANSWER_OPEN, position)) != -1:
        end = text.find(ANSWER_CLOSE, start)
        if end == -1:
            return
        yield text[start + len(ANSWER_OPEN) : end]
        position = end + len(ANSWER_CLOSE)


def fence_names(language: str) -> frozenset[str]:
    """What stands after the backticks of a block in this language, in lower case; the language's own name at least."""
    language = language.casefold()
    return frozenset(next((same for same in FENCE_NAMES if language in same), {language}))


def has_fence(text: str) -> bool:
    """True if a line of the text opens a fenced block, closed or not."""
    return any(FENCE.fullmatch(line.strip()) for line in text.split("\n"))


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(first word after the backticks, in lower case; code) of each closed block, as CommonMark reads fences."""
    blocks, name, lines, backticks = [], "", [], 0
    for line in text.split("\n"):
        fence = FENCE.fullmatch(line.strip())
        if not backticks:
            if fence:
                backticks, name, lines = len(fence[1]), (fence[2].casefold().split() or [""])[0], []
        elif fence and len(fence[1]) >= backticks and not fence[2]:
            blocks.append((name, "\n".join(lines)))
            backticks = 0
        else:
            lines.append(line)
    return blocks


def with_answer(gold: str, thinking: Thinking = Thinking(), answer_in: AnswerIn = "both") -> str:
    """A completion that thinks nothing and answers with the gold, as the recipe wants answers to stand."""
    opening = "" if thinking.prefilled else thinking.open
    if thinking.answer_in == "rest":
        return f"{opening}{thinking.close}{gold}"
    answer = gold if has_box(gold) else rf"\boxed{{{gold}}}"
    return f"{opening}{thinking.close}{ANSWER_OPEN}{gold if answer_in == 'answer' else answer}{ANSWER_CLOSE}"


def with_program(gold: str, language: str, thinking: Thinking = Thinking()) -> str:
    """A completion that thinks nothing and answers with the gold program, fenced if it is not."""
    opening = "" if thinking.prefilled else thinking.open
    program = gold if has_fence(gold) else f"```{language}\n{gold}\n```"
    return f"{opening}{thinking.close}{program}"


def thinking_is_prefilled(rendered_prompt: str, thinking: Thinking = Thinking()) -> bool:
    """True if the chat template's generation prompt has already opened the thinking, and not closed it."""
    return rendered_prompt.rstrip().endswith(thinking.open)


def resolved_thinking(rendered_prompt: str, thinking: Thinking) -> Thinking:
    """The recipe's `thinking` with `prefilled` as the rendered prompt has it."""
    return thinking.model_copy(update={"prefilled": thinking_is_prefilled(rendered_prompt, thinking)})


def prefill_problems(rendered_prompt: str, rewards: Iterable[Reward], thinking: Thinking) -> Iterator[str]:
    """One line for each way in which the thinking that rewards look for can never match after this prompt."""
    prefilled = thinking_is_prefilled(rendered_prompt, thinking)
    if thinking.prefilled is not None and thinking.prefilled != prefilled:
        does = "already writes" if prefilled else "does not write"
        yield (
            f"thinking.prefilled: {thinking.prefilled} can never match: the chat template {does} {thinking.open} for "
            f"the model; remove the key, it is found by itself"
        )
    for index, reward in enumerate(rewards):
        if reward.name in ("format", "code_format") and rendered_prompt.rstrip().endswith(thinking.close):
            yield (
                f"rewards.{index}: {reward.name} can never match: the chat template closes the thinking "
                f"({thinking.close}) before the model writes; use a template that leaves it open"
            )
