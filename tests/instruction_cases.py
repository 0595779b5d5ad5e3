"""A table of verdicts for verifiable instructions: gold, answer, what the reward for following them has to be.

1.0: the answer follows its instruction; 0.0: it does not; None: the gold itself cannot be judged by. Every kind has
all three in both forms of a gold.
"""

import json
from typing import Any

from open_r1.judging.instructions.gold import TULU_FUNCTIONS

ARGUMENTS_OF_TULU = sorted({name for function in TULU_FUNCTIONS.values() for name in function.names})


def ifeval(id: str, **arguments: Any) -> str:
    """A gold in IFEval's form, of one instruction."""
    return json.dumps({"instruction_id_list": [id], "kwargs": [arguments]})


def tulu(name: str, **arguments: Any) -> str:
    """A gold in Tulu 3's form, in which the arguments of other instructions are null."""
    return json.dumps({"func_name": name, **dict.fromkeys(ARGUMENTS_OF_TULU), **arguments})


def existence(*keywords: str) -> str:
    return ifeval("keywords:existence", keywords=list(keywords))


def frequency(keyword: str, number: int, relation: str = "at least") -> str:
    return ifeval("keywords:frequency", keyword=keyword, frequency=number, relation=relation)


def forbidden(*words: str) -> str:
    return ifeval("keywords:forbidden_words", forbidden_words=list(words))


def letters(letter: str, number: int, relation: str = "at least") -> str:
    return ifeval("keywords:letter_frequency", letter=letter, let_frequency=number, let_relation=relation)


def language(code: str) -> str:
    return ifeval("language:response_language", language=code)


def sentences(number: int, relation: str = "at least") -> str:
    return ifeval("length_constraints:number_sentences", num_sentences=number, relation=relation)


def paragraphs(number: int) -> str:
    return ifeval("length_constraints:number_paragraphs", num_paragraphs=number)


def words(number: int, relation: str = "at least") -> str:
    return ifeval("length_constraints:number_words", num_words=number, relation=relation)


def nth(number: int, position: int, word: str) -> str:
    kind = "length_constraints:nth_paragraph_first_word"
    return ifeval(kind, num_paragraphs=number, nth_paragraph=position, first_word=word)


def placeholders(number: int) -> str:
    return ifeval("detectable_content:number_placeholders", num_placeholders=number)


def postscript(marker: str) -> str:
    return ifeval("detectable_content:postscript", postscript_marker=marker)


def bullets(number: int) -> str:
    return ifeval("detectable_format:number_bullet_lists", num_bullets=number)


def highlights(number: int) -> str:
    return ifeval("detectable_format:number_highlighted_sections", num_highlights=number)


def sections(number: int, splitter: str = "Section") -> str:
    return ifeval("detectable_format:multiple_sections", num_sections=number, section_spliter=splitter)


def capitals(number: int, relation: str = "at least") -> str:
    return ifeval("change_case:capital_word_frequency", capital_frequency=number, capital_relation=relation)


def no_arguments(id: str, name: str) -> tuple[str, str, list[tuple[str, str, None]]]:
    """The two golds of an instruction that takes no arguments, and two rows of golds that give it one."""
    spoiled = [(ifeval(id, num_words=3), "so", None), (tulu(name, N=3), "so", None)]
    return ifeval(id), tulu(name), spoiled


OPTIONS = {"options": ["yes", "no", "yes and no"]}
CHOICE, _, _ = no_arguments("detectable_format:constrained_response", "validate_choice")
JSON, TULU_JSON, BAD_JSON = no_arguments("detectable_format:json_format", "validate_json_format")
TITLE, TULU_TITLE, BAD_TITLE = no_arguments("detectable_format:title", "validate_title")
TWO, TULU_TWO, BAD_TWO = no_arguments("combination:two_responses", "validate_two_responses")
UPPER, TULU_UPPER, BAD_UPPER = no_arguments("change_case:english_capital", "validate_uppercase")
LOWER, TULU_LOWER, BAD_LOWER = no_arguments("change_case:english_lowercase", "validate_lowercase")
NO_COMMA, TULU_NO_COMMA, BAD_NO_COMMA = no_arguments("punctuation:no_comma", "validate_no_commas")
QUOTES, TULU_QUOTES, BAD_QUOTES = no_arguments("startend:quotation", "validate_quotation")
GERMAN = "Die Katze schläft den ganzen Tag auf dem warmen Dach, und niemand weckt sie."
ENGLISH = "The cat sleeps on the warm roof all day long, and nobody wakes her up."
CHINESE = "猫整天在温暖的屋顶上睡觉，没有人叫醒它。"

# id -> (gold, answer, verdict)
CASES: dict[str, list[tuple[str, str, float | None]]] = {
    "keywords:existence": [
        (existence("cat", "Roof"), "A CAT on the roof", 1.0),
        (existence("cat"), "concatenate", 1.0),  # part of a word will do
        (existence("C++"), "in C++", 1.0),  # no pattern
        (existence("c.t"), "a cat", 0.0),
        (existence("Straße"), "DIE STRAßE", 1.0),
        (existence("cat", "roof"), "a cat", 0.0),
        (existence("cat"), "", 0.0),
        (tulu("verify_keywords", keyword_list=["cat", "roof"]), "The cat. The roof.", 1.0),
        (tulu("verify_keywords", keyword_list=["cat", "roof"]), "The cat.", 0.0),
        (existence(), "a cat", None),
        (ifeval("keywords:existence", keywords="cat"), "a cat", None),
        (ifeval("keywords:existence", keywords=["cat", 3]), "a cat", None),
        (tulu("verify_keywords"), "a cat", None),
    ],
    "keywords:frequency": [
        (frequency("cat", 2), "cat, Cats", 1.0),
        (frequency("cat", 3), "cat, Cats", 0.0),
        (frequency("cat", 3, "less than"), "cat, Cats", 1.0),
        (frequency("cat", 2, "less than"), "cat, Cats", 0.0),
        (frequency("cat", 0, "less than"), "a dog", 0.0),  # a number of 0 is one, too
        (tulu("verify_keyword_frequency", word="cat", N=2), "Cat, cat, cats, concatenate", 1.0),
        (tulu("verify_keyword_frequency", word="cat", N=1), "Cat, cat", 0.0),  # exactly
        (tulu("verify_keyword_frequency", word="warm roof", N=1), "on a warm roof", 1.0),
        (frequency("cat", -1), "a cat", None),
        (frequency("cat", 2.5), "a cat", None),
        (frequency("cat", 2, "never"), "a cat", None),
        (frequency("cat", True), "a cat", None),
        (tulu("verify_keyword_frequency", word="cat"), "a cat", None),
        (tulu("verify_keyword_frequency", word="cat", N="2"), "a cat", None),
    ],
    "keywords:forbidden_words": [
        (forbidden("cat"), "tomcats", 1.0),  # longer words are others
        (forbidden("cat"), "a tomcat", 1.0),
        (forbidden("cat", "dog"), "The CAT.", 0.0),
        (forbidden("C++"), "in C++, so", 0.0),
        (tulu("validate_forbidden_words", forbidden_words=["cat"]), "a dog", 1.0),
        (tulu("validate_forbidden_words", forbidden_words=["cat", "dog"]), "a dog", 0.0),
        (forbidden(), "a dog", None),
        (tulu("validate_forbidden_words", forbidden_words="cat"), "a dog", None),
    ],
    "keywords:letter_frequency": [
        (letters("a", 2), "A cat", 1.0),
        (letters("a", 2, "less than"), "A cat", 0.0),
        (letters("#", 4), "#a #b #c #d", 1.0),
        (letters("!", 2), "So!", 0.0),
        (letters("é", 2), "Été, été", 1.0),
        (tulu("verify_letter_frequency", letter="a", N=2), "A cat", 1.0),
        (tulu("verify_letter_frequency", letter="a", N=1), "A cat", 0.0),
        (letters("ab", 2), "ab ab", None),
        (letters(" ", 2), "a b c", None),
        (tulu("verify_letter_frequency", letter="", N=1), "a cat", None),
    ],
    "language:response_language": [
        (language("de"), GERMAN, 1.0),
        (language("de"), ENGLISH, 0.0),
        (language("de"), f"{GERMAN} {ENGLISH} {ENGLISH}", 0.0),
        (language("zh"), CHINESE, 1.0),
        (language("en"), CHINESE, 0.0),
        (language("en"), "1 2 3", 0.0),  # no words are in no language
        (tulu("validate_response_language", language="en"), ENGLISH, 1.0),
        (tulu("validate_response_language", language="en"), GERMAN, 0.0),
        (language("kn"), ENGLISH, None),  # none that we can tell
        (language("German"), GERMAN, None),
        (tulu("validate_response_language"), ENGLISH, None),
    ],
    "length_constraints:number_sentences": [
        (sentences(3), "One. Two! Is this three?", 1.0),
        (sentences(4), "One. Two! Is this three?", 0.0),
        (sentences(3, "less than"), 'He said "Go." She did', 1.0),
        (sentences(2), "Dr. A. Smith earns 3.14 dollars at e.g. example.com", 0.0),
        (sentences(2), "She lives in the U.S. He does not", 1.0),
        (sentences(2), "She is in the U.S. Army", 0.0),
        (sentences(2), "Wait... what", 0.0),
        (sentences(2), "猫睡觉。没有人叫醒它。", 1.0),
        (sentences(1), "! ? . . .", 0.0),  # stops without words
        (sentences(4), "1. Add salt.\r\n2. Stir it.", 1.0),  # as Punkt has it
        (sentences(1), "", 0.0),
        (tulu("verify_sentence_constraint", N=2, quantifier="at most"), "One. Two.", 1.0),
        (tulu("verify_sentence_constraint", N=1, quantifier="at most"), "One. Two.", 0.0),
        (tulu("verify_sentence_constraint", N=20, quantifier="around"), "So. " * 21, 1.0),
        (tulu("verify_sentence_constraint", N=20, quantifier="around"), "So. " * 22, 0.0),
        (sentences(None), "One.", None),
        (tulu("verify_sentence_constraint", N=2, quantifier="about"), "One.", None),
    ],
    "length_constraints:number_paragraphs": [
        (paragraphs(2), "one\n***\ntwo", 1.0),
        (paragraphs(2), "one\r\n\r\n***\r\n\r\ntwo\r\n", 1.0),
        (paragraphs(2), "***\none\n***\ntwo\n***", 1.0),  # nothing at an end is no paragraph
        (paragraphs(1), "one\n\ntwo", 1.0),
        (paragraphs(2), "one\n***\n***\ntwo", 0.0),
        (paragraphs(2), "one\n\ntwo", 0.0),
        (tulu("verify_paragraph_count", N=2), "one\n* * *\ntwo", 1.0),
        (tulu("verify_paragraph_count", N=2), "one\n***\ntwo", 0.0),  # its prompts ask for another divider
        (paragraphs(0), "one", None),
        (paragraphs("2"), "one\n***\ntwo", None),
        (tulu("verify_paragraph_count"), "one", None),
    ],
    "length_constraints:number_words": [
        (words(3), "un été très-long", 1.0),
        (words(5), "un été très-long", 0.0),
        (words(3, "less than"), "one\ttwo", 1.0),
        (words(3, "less than"), "one two three", 0.0),
        (words(0), "", 0.0),  # nothing follows nothing
        (tulu("validate_word_constraint", N=20, quantifier="around"), "so " * 22, 1.0),
        (tulu("validate_word_constraint", N=20, quantifier="around"), "so " * 23, 0.0),
        (tulu("validate_word_constraint", N=3.0, quantifier="at most"), "one two three", 1.0),  # of Arrow's making
        (tulu("validate_word_constraint", N=2, quantifier="at most"), "one two three", 0.0),
        (ifeval("length_constraints:number_words", num_words=3), "so", None),
        (ifeval("length_constraints:number_words", num_words=3, relation="at least", words=3), "so", None),
        (tulu("validate_word_constraint", N=[3], quantifier="at least"), "so", None),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (nth(2, 2, "Then"), 'First\n\n"then, so', 1.0),
        (nth(2, 2, "then"), "First\r\n\r\nThen so", 1.0),
        (nth(2, 1, "don't"), "Don't go\n\nthen", 1.0),
        (nth(2, 2, "then"), "First\n\nso then", 0.0),
        (nth(3, 2, "then"), "First\n\nthen", 0.0),
        (nth(2, 2, "then"), "First\n\n\n\nthen", 0.0),  # what is nothing takes a place
        (nth(1, 1, "then"), "**then** so", 0.0),
        (tulu("validate_paragraphs", N=2, first_word="Then", i=2), "First\n\nThen so", 1.0),
        (tulu("validate_paragraphs", N=2, first_word="Then", i=1), "First\n\nThen so", 0.0),
        (nth(2, 3, "then"), "First\n\nthen", None),
        (nth(2, 0, "then"), "First\n\nthen", None),
        (nth(2, 1, "..."), "First\n\nthen", None),
        (tulu("validate_paragraphs", N=2, first_word="Then"), "First\n\nThen", None),
    ],
    "detectable_content:number_placeholders": [
        (placeholders(2), "Dear [name], [date]", 1.0),
        (placeholders(1), "Dear [[name]", 1.0),
        (placeholders(2), "Dear [[name]]", 0.0),
        (placeholders(1), "Dear [na\nme]", 0.0),
        (placeholders(1), "Dear ]name[", 0.0),
        (tulu("validate_placeholders", N=1), "Dear [名]", 1.0),
        (tulu("validate_placeholders", N=2), "Dear [name]", 0.0),
        (placeholders(None), "Dear [name]", None),
        (tulu("validate_placeholders"), "Dear [name]", None),
    ],
    "detectable_content:postscript": [
        (postscript("P.S."), "So.\n\nP. S. More", 1.0),
        (postscript("P.P.S"), "So.\n\np.p.s. more", 1.0),
        (postscript("P.S."), "So.\n\nPS: more", 0.0),
        (postscript("P.P.S"), "So.\n\nP.S. more", 0.0),
        (postscript("PS:"), "So.\n\nPS: more", 1.0),
        (tulu("verify_postscript", postscript_marker="P.S."), "So.\n\nP.S. More", 1.0),
        (tulu("verify_postscript", postscript_marker="P.S."), "So.", 0.0),
        (postscript(" "), "So.", None),
        (tulu("verify_postscript", postscript_marker=3), "So.", None),
    ],
    "detectable_format:number_bullet_lists": [
        (bullets(2), "Two:\n* one\n  - two", 1.0),
        (bullets(2), "* one\r\n* two\r\n", 1.0),
        (bullets(1), "**bold**\n* one", 1.0),
        (bullets(2), "* one\n---", 1.0),  # as IFEval counts
        (bullets(1), "*\n* one", 1.0),  # IFEval counts two
        (bullets(1), "* one\n* two", 0.0),
        (bullets(1), "one * two - three", 0.0),
        (tulu("verify_bullet_points", N=1), "- one", 1.0),
        (tulu("verify_bullet_points", N=1), "one", 0.0),
        (bullets(-2), "* one", None),
        (tulu("verify_bullet_points", N=None), "* one", None),
    ],
    "detectable_format:constrained_response": [
        (CHOICE, "I think: My answer is maybe.", 1.0),
        (CHOICE, "maybe", 0.0),
        (tulu("validate_choice", **OPTIONS), "It is no.", 1.0),
        (tulu("validate_choice", **OPTIONS), "yes and no", 1.0),  # the longer option alone
        (tulu("validate_choice", **OPTIONS), "yes or no", 0.0),
        (tulu("validate_choice", options=["A", "B"]), "Apple", 0.0),
        (tulu("validate_choice", options=["A", "B"]), "**B**", 1.0),
        (ifeval("detectable_format:constrained_response", **OPTIONS), "no", None),  # not of IFEval's
        (tulu("validate_choice", options="A, B"), "A", None),
        (tulu("validate_choice"), "A", None),
    ],
    "detectable_format:number_highlighted_sections": [
        (highlights(2), "*one* and **two**", 1.0),
        (highlights(1), "* one\n* two", 0.0),
        (highlights(1), "** ** and ****", 0.0),
        (highlights(2), "*one*", 0.0),
        (tulu("validate_highlighted_sections", N=1), "*eins*", 1.0),
        (tulu("validate_highlighted_sections", N=1), "eins", 0.0),
        (highlights("two"), "*one*", None),
        (tulu("validate_highlighted_sections"), "*one*", None),
    ],
    "detectable_format:multiple_sections": [
        (sections(2), "Section 1\none\nSection 2\ntwo", 1.0),
        (sections(2), "Section 1\none\nSection 2\ntwo\nSection 3", 1.0),  # more will do
        (sections(2), "SECTION 1\none\nSECTION 2\ntwo", 0.0),
        (sections(2), "Section one\nSection two", 0.0),
        (sections(1, "Day (x)"), "Day (x) 1", 1.0),
        (tulu("validate_sections", N=1, section_splitter="PART"), "PART 1", 1.0),
        (tulu("validate_sections", N=2, section_splitter="PART"), "PART 1", 0.0),
        (ifeval("detectable_format:multiple_sections", num_sections=2), "Section 1", None),
        (tulu("validate_sections", N=2), "Section 1", None),
    ],
    "detectable_format:json_format": [
        (JSON, '{"a": [1, "é"]}', 1.0),
        (JSON, '```json\n{"a": 1}\n```', 1.0),
        (JSON, '```JSON\r\n{"a": 1}\r\n```', 1.0),
        (JSON, 'Here it is: {"a": 1}', 0.0),
        (JSON, '{"a": 1', 0.0),
        (JSON, "```\n```", 0.0),
        (JSON, "[" * 100_000, 0.0),
        (TULU_JSON, "[]", 1.0),
        (TULU_JSON, "{'a': 1}", 0.0),
        *BAD_JSON,
    ],
    "detectable_format:title": [
        (TITLE, "<<Poem of joy>>\nso", 1.0),
        (TITLE, "so <<a>> so", 1.0),
        (TITLE, "<< >>", 0.0),
        (TITLE, "<<>>", 0.0),
        (TITLE, "<<Poem\nof joy>>", 0.0),
        (TITLE, ">>Poem<<", 0.0),
        (TULU_TITLE, "<<Été>>", 1.0),
        (TULU_TITLE, "<Été>", 0.0),
        *BAD_TITLE,
    ],
    "combination:two_responses": [
        (TWO, "one\n******\ntwo", 1.0),
        (TWO, "one ****** two\n******", 1.0),
        (TWO, "one\n******\none", 0.0),
        (TWO, "one\n******\ntwo\n******\nthree", 0.0),
        (TWO, "one\n***\ntwo", 0.0),
        (TULU_TWO, "one\r\n******\r\ntwo", 1.0),
        (TULU_TWO, "one", 0.0),
        *BAD_TWO,
    ],
    "combination:repeat_prompt": [
        (ifeval("combination:repeat_prompt", prompt_to_repeat="Write a poem.\n"), "write a poem. Roses …", 1.0),
        (ifeval("combination:repeat_prompt", prompt_to_repeat="Write\r\na poem."), "Write\na poem. So", 1.0),
        (ifeval("combination:repeat_prompt", prompt_to_repeat="Write a poem."), "Sure! Write a poem.", 0.0),
        (tulu("validate_repeat_prompt", original_prompt="Schreib’ etwas."), "Schreib’ etwas. Gern.", 1.0),
        (tulu("validate_repeat_prompt", original_prompt="Write a poem."), "Roses", 0.0),
        (ifeval("combination:repeat_prompt", prompt_to_repeat=""), "so", None),
        (tulu("validate_repeat_prompt"), "so", None),
    ],
    "startend:end_checker": [
        (ifeval("startend:end_checker", end_phrase="Any other questions?"), "So. any other questions?\n", 1.0),
        (ifeval("startend:end_checker", end_phrase="the end."), '"So it was the end."', 1.0),
        (ifeval("startend:end_checker", end_phrase="the end."), "So it was the end. Or not", 0.0),
        (tulu("validate_end", end_phrase="the end."), "So it was the end.", 1.0),
        (tulu("validate_end", end_phrase="the end."), "the end. No", 0.0),
        (ifeval("startend:end_checker", end_phrase=["the end."]), "the end.", None),
        (tulu("validate_end"), "the end.", None),
    ],
    "change_case:capital_word_frequency": [
        (capitals(3), "The USA, WELL-KNOWN as I", 1.0),
        (capitals(2), "The WELL-KNOWN don't", 0.0),
        (capitals(2, "less than"), "The USA", 1.0),
        (capitals(1, "less than"), "ÉTÉ", 0.0),
        (tulu("validate_frequency_capital_words", N=1, quantifier="at most"), "The USA", 1.0),
        (tulu("validate_frequency_capital_words", N=2, quantifier="at least"), "The USA", 0.0),
        (tulu("validate_frequency_capital_words", N=3, quantifier="around"), "IN THE", 1.0),
        (tulu("validate_frequency_capital_words", N=3, quantifier="around"), "IN", 0.0),
        (capitals(2, None), "The USA", None),
        (tulu("validate_frequency_capital_words", N=2), "The USA", None),
    ],
    "change_case:english_capital": [
        (UPPER, ENGLISH.upper(), 1.0),
        (UPPER, "YES, 3!", 1.0),
        (UPPER, f"{ENGLISH.upper()} no", 0.0),
        (UPPER, "3.14", 0.0),  # no letters
        (UPPER, GERMAN.upper(), 0.0),
        (UPPER, "DIE KUH IST AUF DEM HOF", 0.0),  # short words in capitals are words here
        (TULU_UPPER, ENGLISH.upper(), 1.0),
        (TULU_UPPER, ENGLISH, 0.0),
        *BAD_UPPER,
    ],
    "change_case:english_lowercase": [
        (LOWER, ENGLISH.lower(), 1.0),
        (LOWER, "yes", 1.0),
        (LOWER, ENGLISH, 0.0),
        (LOWER, "3.14", 0.0),
        (LOWER, GERMAN.lower(), 0.0),
        (TULU_LOWER, ENGLISH.lower(), 1.0),
        (TULU_LOWER, ENGLISH, 0.0),
        *BAD_LOWER,
    ],
    "punctuation:no_comma": [
        (NO_COMMA, "one; two", 1.0),
        (NO_COMMA, CHINESE, 1.0),  # its comma is another sign
        (NO_COMMA, "one, two", 0.0),
        (TULU_NO_COMMA, "one; two", 1.0),
        (TULU_NO_COMMA, "1,000", 0.0),
        *BAD_NO_COMMA,
    ],
    "startend:quotation": [
        (QUOTES, ' "So." \n', 1.0),
        (QUOTES, '"', 0.0),
        (QUOTES, "“So.”", 0.0),
        (QUOTES, '"So." he said', 0.0),
        (TULU_QUOTES, '"So."', 1.0),
        (TULU_QUOTES, "So.", 0.0),
        *BAD_QUOTES,
    ],
}
