"""The gold of a row -> the instructions that an answer has to follow. It is a JSON text in one of two forms.

IFEval's (google/IFEval), any number of instructions, with the arguments of each; null is none:

    {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 300, "relation": "at least"}]}

Tulu 3's (allenai/RLVR-IFeval and the mix with GSM8K and MATH), one checker of open-instruct's, with its arguments:

    {"func_name": "validate_word_constraint", "N": 300, "quantifier": "at least", "end_phrase": null}
"""

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from open_r1.judging.instructions.arguments import Argument
from open_r1.judging.instructions.table import INSTRUCTIONS, Asked
from open_r1.wording import closest


class BadGold(ValueError):
    """A gold that nothing can be judged by: `key: what is wrong`."""


@dataclass(frozen=True)
class TuluFunction:
    """What a checker of open-instruct's is here: a kind, our names of its arguments, and what its prompts imply."""

    id: str
    names: Mapping[str, str] = field(default_factory=dict)
    implied: Mapping[str, Any] = field(default_factory=dict)


TULU_FUNCTIONS = {
    "verify_keywords": TuluFunction("keywords:existence", {"keyword_list": "keywords"}),
    "verify_keyword_frequency": TuluFunction(
        "keywords:frequency", {"word": "keyword", "N": "frequency"}, {"relation": "exactly", "whole_words": True}
    ),
    "validate_forbidden_words": TuluFunction("keywords:forbidden_words", {"forbidden_words": "forbidden_words"}),
    "verify_letter_frequency": TuluFunction(
        "keywords:letter_frequency", {"letter": "letter", "N": "let_frequency"}, {"let_relation": "exactly"}
    ),
    "validate_response_language": TuluFunction("language:response_language", {"language": "language"}),
    "verify_paragraph_count": TuluFunction(
        "length_constraints:number_paragraphs", {"N": "num_paragraphs"}, {"divider": "* * *"}
    ),
    "validate_word_constraint": TuluFunction(
        "length_constraints:number_words", {"N": "num_words", "quantifier": "relation"}
    ),
    "verify_sentence_constraint": TuluFunction(
        "length_constraints:number_sentences", {"N": "num_sentences", "quantifier": "relation"}
    ),
    "validate_paragraphs": TuluFunction(
        "length_constraints:nth_paragraph_first_word",
        {"N": "num_paragraphs", "i": "nth_paragraph", "first_word": "first_word"},
    ),
    "verify_postscript": TuluFunction("detectable_content:postscript", {"postscript_marker": "postscript_marker"}),
    "validate_placeholders": TuluFunction("detectable_content:number_placeholders", {"N": "num_placeholders"}),
    "verify_bullet_points": TuluFunction("detectable_format:number_bullet_lists", {"N": "num_bullets"}),
    "validate_title": TuluFunction("detectable_format:title"),
    "validate_choice": TuluFunction("detectable_format:constrained_response", {"options": "options"}),
    "validate_highlighted_sections": TuluFunction(
        "detectable_format:number_highlighted_sections", {"N": "num_highlights"}
    ),
    "validate_sections": TuluFunction(
        "detectable_format:multiple_sections", {"N": "num_sections", "section_splitter": "section_spliter"}
    ),
    "validate_json_format": TuluFunction("detectable_format:json_format"),
    "validate_repeat_prompt": TuluFunction("combination:repeat_prompt", {"original_prompt": "prompt_to_repeat"}),
    "validate_two_responses": TuluFunction("combination:two_responses"),
    "validate_uppercase": TuluFunction("change_case:english_capital"),
    "validate_lowercase": TuluFunction("change_case:english_lowercase"),
    "validate_frequency_capital_words": TuluFunction(
        "change_case:capital_word_frequency", {"N": "capital_frequency", "quantifier": "capital_relation"}
    ),
    "validate_end": TuluFunction("startend:end_checker", {"end_phrase": "end_phrase"}),
    "validate_quotation": TuluFunction("startend:quotation"),
    "validate_no_commas": TuluFunction("punctuation:no_comma"),
}


def read_instructions(gold: str) -> list[Asked]:
    """The instructions that a gold asks for, one at least.

    Raises BadGold, a ValueError of one line, for what is no JSON of either form: an unknown instruction, an argument
    that is missing, unknown or of another type, a language that cannot be told.
    """
    try:
        read = json.loads(gold)
    except (ValueError, RecursionError) as error:
        raise BadGold(f"{reprlib.repr(gold)} is no JSON ({error})") from None
    if not isinstance(read, Mapping) or ("func_name" in read) == ("instruction_id_list" in read):
        raise BadGold(f"{reprlib.repr(gold)} has to have either func_name or instruction_id_list, and its arguments")
    asked = [_of_tulu(read)] if "func_name" in read else list(_of_ifeval(read))
    for one in asked:
        if one.arguments.get("nth_paragraph", 0) > one.arguments.get("num_paragraphs", 0):
            raise BadGold(f"{one.id}: there is no paragraph {one.arguments['nth_paragraph']} of so many")
    return asked


def _of_tulu(read: Mapping[str, Any]) -> Asked:
    name = read["func_name"]
    function = TULU_FUNCTIONS.get(name) if isinstance(name, str) else None
    if function is None:
        raise BadGold(f"func_name: {_unknown(name, TULU_FUNCTIONS)}")
    kind = INSTRUCTIONS[function.id]
    types = {theirs: (kind.arguments | kind.of_tulu)[ours] for theirs, ours in function.names.items()}
    values = _arguments(name, {key: value for key, value in read.items() if key != "func_name"}, types)
    return Asked(function.id, {function.names[key]: value for key, value in values.items()} | dict(function.implied))


def _of_ifeval(read: Mapping[str, Any]) -> Iterable[Asked]:
    ids, kwargs = read["instruction_id_list"], read.get("kwargs")
    if not isinstance(ids, list) or not ids:
        raise BadGold(f"instruction_id_list: {reprlib.repr(ids)} asks for nothing")
    if not isinstance(kwargs, list) or len(kwargs) != len(ids):
        raise BadGold(f"kwargs: {reprlib.repr(kwargs)} is not one dict for each of the {len(ids)} instructions")
    for index, (id, values) in enumerate(zip(ids, kwargs, strict=True)):
        if not isinstance(id, str) or id not in INSTRUCTIONS:
            raise BadGold(f"instruction_id_list.{index}: {_unknown(id, INSTRUCTIONS)}")
        if not isinstance(values, Mapping | None):
            raise BadGold(f"kwargs.{index}: {reprlib.repr(values)} is no dict")
        yield Asked(id, _arguments(f"kwargs.{index}", values or {}, INSTRUCTIONS[id].arguments))


def _arguments(where: str, values: Mapping[str, Any], types: Mapping[str, Argument]) -> dict[str, Any]:
    """The arguments that are not null, each as its type has it."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        if name not in types:
            raise BadGold(f"{where}.{name}: this instruction takes no such argument{closest(name, types)}")
    read = {}
    for name, argument in types.items():
        if name not in given:
            raise BadGold(f"{where}.{name}: it is missing")
        try:
            read[name] = argument(given[name])
        except ValueError as problem:
            raise BadGold(f"{where}.{name}: {reprlib.repr(given[name])} {problem}") from None
    return read


def _unknown(name: Any, known: Iterable[str]) -> str:
    return f"{reprlib.repr(name)} is no known instruction{closest(name, known) if isinstance(name, str) else ''}"
