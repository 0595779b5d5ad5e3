"""The 25 kinds of instruction of IFEval (Zhou et al., arXiv 2311.07911, table 1), by the ids of its data set.

Published scores are what IFEval's checker says, so a kind means here what it means there, also where that is more
generous than the words of the instruction, or stricter. Tulu 3 (arXiv 2411.15124, section 6) has checkers of its own
for the same kinds (open-instruct, if_functions.py). Where its prompts ask for something else, its golds say so by
arguments that IFEval's do not have; where only the checkers differ, IFEval's counts. What is known to differ:

kind                      IFEval's checker              Tulu 3's checker               here
existence                 a pattern, part of a word     part of a word                 part of a word
frequency                 a pattern, part of a word     whole word, exactly N          part of a word; as Tulu 3 for it
forbidden_words           a pattern, whole word         part of a word                 whole word
letter_frequency          any case                      this case, exactly N           any case, exactly N for Tulu 3
response_language         likeliest; True if unknown    likeliest                      most words; False without words
number_sentences          Punkt                         a stop before a blank          parts.num_sentences
number_paragraphs         by ***, empty ends are none   by * * *, none may be empty    its own divider; as IFEval
number_words              runs of letters               between blanks                 runs of letters
nth_paragraph_first_word  any case, empty ones free     begins with it, this case      as IFEval
postscript                anywhere, any case            anywhere, more behind it       as IFEval
number_bullet_lists       --- is one, a lone * before   **bold** is one, too           as IFEval, but a lone * is none
                          another line, too
constrained_response      one of three stands in it     see constrained_response       see constrained_response
number_highlighted_…      none that is blank            blank ones, too                as IFEval
multiple_sections         N or more, numbered           exactly N, numbered or not     as IFEval
json_format               in a fence or not             without a fence                as IFEval
title                     none that is blank            blank ones, too                as IFEval
two_responses             empty ends are none           one divider alone              as IFEval
repeat_prompt             any case                      this case                      as IFEval
end_checker               any case, quotes behind it    this case, nothing behind it   as IFEval
capital_word_frequency    Punkt's words                 runs of A to Z; around is N    parts.num_capital_words; a tenth
english_capital, …        has letters; is English       no letter of the other case    as IFEval, most words English

A keyword is never a pattern here: `C++` is `C++`. `#` and `!`, which IFEval's data ask for as letters, are counted;
its checker draws a letter instead. A number of 0 is a number; IFEval's harnesses drop it and draw one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from open_r1.judging.instructions import arguments, parts
from open_r1.judging.instructions.arguments import Argument

IFEVAL_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
MIN_SHARE_IN_LANGUAGE = 0.5  # of the words; the language of most of them is the likeliest one of the whole
MIN_WORDS_TO_TELL_ENGLISH = 5  # below, English is too often told as a relative; the case alone decides
AROUND_SHARE = 0.1  # Tulu 3: N words, or a tenth of N more or fewer; one at least
AROUND_SENTENCES = 1  # Tulu 3


@dataclass(frozen=True)
class Instruction:
    """A kind of instruction: whether a text follows it, and the arguments that say what is asked.

    A gold in IFEval's form gives all of `arguments` and no other; one of Tulu 3's has those in `of_tulu`, too.
    """

    is_followed: Callable[..., bool]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    of_tulu: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """An instruction as a gold asks for it: the id of its kind, and its arguments."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def keywords_existence(text: str, keywords: tuple[str, ...]) -> bool:
    """True if all keywords are in the text, each as a word or as part of one."""
    return all(parts.num_occurrences(text, keyword) for keyword in keywords)


def keywords_frequency(text: str, keyword: str, frequency: int, relation: str, whole_words: bool = False) -> bool:
    """True if the keyword stands in the text as often as asked; `whole_words`, for Tulu 3: as a word of its own."""
    return _holds(parts.num_occurrences(text, keyword, whole_words), relation, frequency)


def forbidden_words(text: str, forbidden_words: tuple[str, ...]) -> bool:
    """True if none of the words is in the text; a longer word with one in it is another word."""
    return not any(parts.num_occurrences(text, forbidden, whole_words=True) for forbidden in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """True if the letter, small or capital, stands in the text as often as asked."""
    return _holds(parts.num_occurrences(text, letter), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    """True if most words of the text are in the language; False if it has no words, which IFEval lets pass."""
    return (_share_in_language(text, language) or 0.0) > MIN_SHARE_IN_LANGUAGE


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """True if the text has as many sentences as asked; `around` is one more or fewer."""
    return _holds(parts.num_sentences(text), relation, num_sentences, AROUND_SENTENCES)


def number_paragraphs(text: str, num_paragraphs: int, divider: str = "***") -> bool:
    """True if exactly so many paragraphs stand between dividers; for Tulu 3 the divider is `* * *`."""
    paragraphs = parts.between(text, divider)
    return paragraphs is not None and len(paragraphs) == num_paragraphs


def number_words(text: str, num_words: int, relation: str) -> bool:
    """True if the text has as many words as asked; `around` is a tenth more or fewer."""
    return _holds(parts.num_words(text), relation, num_words)


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """True if blank lines part the text in exactly so many paragraphs, and the nth begins with the word, in any case.

    As in IFEval, a paragraph of nothing (more than one blank line) takes a place, but is not counted.
    """
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if count != num_paragraphs or nth_paragraph > count:
        return False
    return parts.first_word(paragraphs[nth_paragraph - 1]) == parts.first_word(first_word)


def number_placeholders(text: str, num_placeholders: int) -> bool:
    """True if at least so many `[placeholders]` are in the text."""
    return parts.num_placeholders(text) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """True if the marker stands in the text, wherever that is."""
    return parts.has_postscript(text, postscript_marker)


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    """True if the text has exactly so many bullets."""
    return parts.num_bullets(text) == num_bullets


def constrained_response(text: str, options: tuple[str, ...] | None = None) -> bool:
    """True if the text has one of IFEval's three answers in it; with Tulu 3's `options`, if it names exactly one.

    Tulu 3's checker took any part of an option for it, and today takes any text with an option in it. Here all options
    in a row are no answer, and an option inside a word (`A` in `Apple`) is not named.
    """
    if options is None:
        return any(option in text for option in IFEVAL_OPTIONS)
    return len(parts.named_options(text, options)) == 1


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """True if at least so many `*pieces*` are highlighted."""
    return parts.num_highlights(text) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """True if at least so many sections begin with the splitter (spelled as IFEval spells it) and a number."""
    return parts.num_sections(text, section_spliter) >= num_sections


def json_format(text: str) -> bool:
    """True if the text is JSON, in a fenced block or not."""
    try:
        json.loads(parts.without_fence(text))
    except (ValueError, RecursionError):  # 100,000 brackets are no answer, whether they close or not
        return False
    return True


def title(text: str) -> bool:
    """True if the text has a `<<title>>`."""
    return parts.has_title(text)


def two_responses(text: str) -> bool:
    """True if six asterisks part the text in two responses that differ."""
    responses = parts.between(text, "******")
    return responses is not None and len(responses) == 2 and responses[0] != responses[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    """True if the text begins with the prompt, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.lower())


def end_checker(text: str, end_phrase: str) -> bool:
    """True if the text ends with the phrase, in any case; double quotes may close behind it."""
    return text.strip().strip('"').lower().endswith(end_phrase.lower())


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """True if words in capitals stand in the text as often as asked; `around` is a tenth more or fewer."""
    return _holds(parts.num_capital_words(text), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    """True if the text has letters, all of them capital ones, and most of its words are English."""
    return text.isupper() and _is_english(text)


def english_lowercase(text: str) -> bool:
    """True if the text has letters, all of them small ones, and most of its words are English."""
    return text.islower() and _is_english(text)


def no_comma(text: str) -> bool:
    """True if there is no `,` in the text; the commas of other scripts are other signs."""
    return "," not in text


def quotation(text: str) -> bool:
    """True if the text stands in `"double quotes"`; curly ones are other signs."""
    text = text.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def _holds(count: int, relation: str, asked: int, around: int | None = None) -> bool:
    """True if the count is what was asked for; `around` may be off by so much, by a tenth if None."""
    match relation:
        case "less than":
            return count < asked
        case "at least":
            return count >= asked
        case "at most":
            return count <= asked
        case "around":
            return abs(count - asked) <= (max(1, round(AROUND_SHARE * asked)) if around is None else around)
    return count == asked


def _share_in_language(text: str, language: str) -> float | None:
    from open_r1.rewards.language import share_in_language  # rewards import this room, and not the other way round

    return share_in_language(text, language)


def _is_english(text: str) -> bool:
    share = _share_in_language(text.lower(), "en")  # lower, because short runs of capitals pass for names there
    return share is None or share > MIN_SHARE_IN_LANGUAGE or parts.num_words(text) < MIN_WORDS_TO_TELL_ENGLISH


INSTRUCTIONS: dict[str, Instruction] = {
    "keywords:existence": Instruction(keywords_existence, {"keywords": arguments.texts}),
    "keywords:frequency": Instruction(
        keywords_frequency,
        {"keyword": arguments.text, "frequency": arguments.number, "relation": arguments.relation},
    ),
    "keywords:forbidden_words": Instruction(forbidden_words, {"forbidden_words": arguments.texts}),
    "keywords:letter_frequency": Instruction(
        letter_frequency,
        {"letter": arguments.letter, "let_frequency": arguments.number, "let_relation": arguments.relation},
    ),
    "language:response_language": Instruction(response_language, {"language": arguments.language}),
    "length_constraints:number_sentences": Instruction(
        number_sentences, {"num_sentences": arguments.number, "relation": arguments.relation}
    ),
    "length_constraints:number_paragraphs": Instruction(number_paragraphs, {"num_paragraphs": arguments.position}),
    "length_constraints:number_words": Instruction(
        number_words, {"num_words": arguments.number, "relation": arguments.relation}
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        nth_paragraph_first_word,
        {
            "num_paragraphs": arguments.position,
            "nth_paragraph": arguments.position,
            "first_word": arguments.word,
        },
    ),
    "detectable_content:number_placeholders": Instruction(number_placeholders, {"num_placeholders": arguments.number}),
    "detectable_content:postscript": Instruction(postscript, {"postscript_marker": arguments.text}),
    "detectable_format:number_bullet_lists": Instruction(number_bullet_lists, {"num_bullets": arguments.number}),
    "detectable_format:constrained_response": Instruction(constrained_response, of_tulu={"options": arguments.texts}),
    "detectable_format:number_highlighted_sections": Instruction(
        number_highlighted_sections, {"num_highlights": arguments.number}
    ),
    "detectable_format:multiple_sections": Instruction(
        multiple_sections, {"section_spliter": arguments.text, "num_sections": arguments.number}
    ),
    "detectable_format:json_format": Instruction(json_format),
    "detectable_format:title": Instruction(title),
    "combination:two_responses": Instruction(two_responses),
    "combination:repeat_prompt": Instruction(repeat_prompt, {"prompt_to_repeat": arguments.text}),
    "startend:end_checker": Instruction(end_checker, {"end_phrase": arguments.text}),
    "change_case:capital_word_frequency": Instruction(
        capital_word_frequency, {"capital_frequency": arguments.number, "capital_relation": arguments.relation}
    ),
    "change_case:english_capital": Instruction(english_capital),
    "change_case:english_lowercase": Instruction(english_lowercase),
    "punctuation:no_comma": Instruction(no_comma),
    "startend:quotation": Instruction(quotation),
}
