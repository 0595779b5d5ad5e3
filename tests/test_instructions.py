"""The reward for following instructions: the table of verdicts, both forms of a gold, strict, loose and partial."""

import itertools
import json

import pytest
from instruction_cases import (
    CASES,
    ENGLISH,
    GERMAN,
    LOWER,
    NO_COMMA,
    QUOTES,
    TULU_NO_COMMA,
    bullets,
    ifeval,
    letters,
    nth,
    paragraphs,
    postscript,
    sentences,
    tulu,
    words,
)

from open_r1.judging.instructions import INSTRUCTIONS, Asked, BadGold, followed, read_instructions
from open_r1.judging.instructions.gold import TULU_FUNCTIONS
from open_r1.recipe import Reward, Thinking
from open_r1.rewards import build_rewards, columns_of_reward, instructions_reward, settable_parameters

TABLE = [(kind, *case) for kind, cases in CASES.items() for case in cases]
HOSTILE_LENGTH = 1_000_000  # characters; at a cost that grows with the square a case would take an hour
HOSTILE_WORDS = 100_000  # characters; where a language is told, that is linear too, but slower


@pytest.mark.parametrize(("kind", "gold", "answer", "verdict"), TABLE, ids=lambda part: str(part)[:40])
def test_verdicts(kind, gold, answer, verdict):
    assert instructions_reward([answer], [gold]) == [verdict]


def test_every_kind_has_every_verdict_in_both_forms():
    told = {(kind, "func_name" in gold, verdict) for kind, gold, _, verdict in TABLE}
    assert told == set(itertools.product(INSTRUCTIONS, (True, False), (1.0, 0.0, None)))
    assert len(INSTRUCTIONS) == len(TULU_FUNCTIONS) == 25
    assert {function.id for function in TULU_FUNCTIONS.values()} == set(INSTRUCTIONS)


BAD_GOLDS = [  # gold, what the line says
    ("", "'' is no JSON"),
    ("2", "'2' has to have either func_name or instruction_id_list"),
    ("null", "has to have either"),
    ("[" * 100_000, "is no JSON"),
    ('{"func_name": "validate_end", "instruction_id_list": []}', "has to have either"),
    ('{"func_name": ["validate_end"]}', r"func_name: \['validate_end'\] is no known instruction"),
    (tulu("validate_ends", end_phrase="so"), "func_name: 'validate_ends' is no known.*did you mean validate_end"),
    (ifeval("keywords:exist"), "instruction_id_list.0: 'keywords:exist' is no known.*did you mean keywords:existence"),
    ('{"instruction_id_list": [], "kwargs": []}', r"instruction_id_list: \[\] asks for nothing"),
    ('{"instruction_id_list": "punctuation:no_comma", "kwargs": []}', "instruction_id_list: .* asks for nothing"),
    ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}', r"kwargs: \[\] is not one dict for each"),
    ('{"instruction_id_list": ["punctuation:no_comma"]}', "kwargs: None is not one dict for each"),
    ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [3]}', "kwargs.0: 3 is no dict"),
    (ifeval("length_constraints:number_words", num_words=3), "kwargs.0.relation: it is missing"),
    (words(-3), "kwargs.0.num_words: -3 is no whole number from 0 on"),
    (words(float("nan")), "kwargs.0.num_words: nan is no whole number"),
    (words(3, "over"), "kwargs.0.relation: 'over' is none of less than, at least"),
    (ifeval("startend:end_checker", end_phrases="so"), "kwargs.0.end_phrases: .*no such.*did you mean end_phrase"),
    (tulu("validate_sections", N=2, section_splitter=" "), "validate_sections.section_splitter: ' ' is no text"),
    (tulu("validate_response_language", language="pa"), "'pa' is no language that can be told here; these can: ar,"),
    (nth(2, 3, "so"), "there is no paragraph 3"),
]


@pytest.mark.parametrize(("gold", "line"), BAD_GOLDS, ids=range(len(BAD_GOLDS)))
def test_a_gold_that_cannot_be_read_is_told_in_a_line(gold, line):
    with pytest.raises(BadGold, match=line) as raised:
        read_instructions(gold)
    assert "\n" not in str(raised.value)


def test_one_gold_asks_for_several_instructions():
    ids = ["punctuation:no_comma", "length_constraints:number_words"]
    kwargs = [None, {"num_words": 3.0, "relation": "at least", "num_bullets": None}]
    gold = json.dumps({"key": 1000, "prompt": "Write.", "instruction_id_list": ids, "kwargs": kwargs})
    assert read_instructions(gold) == [Asked(ids[0]), Asked(ids[1], {"num_words": 3, "relation": "at least"})]


def both(*golds: str) -> str:
    """One gold with the instructions of these, which are in IFEval's form."""
    read = [json.loads(gold) for gold in golds]
    return json.dumps({key: [value for gold in read for value in gold[key]] for key in read[0]})


@pytest.mark.parametrize(
    ("answer", "all_of_them", "share"),
    [("one two three", 1.0, 1.0), ("one two", 0.0, 0.5), ("one, two", 0.0, 0.0), ("", 0.0, 0.0)],
)
def test_all_instructions_or_the_share_of_them(answer, all_of_them, share):
    gold = both(NO_COMMA, words(3))
    assert instructions_reward([answer], [gold]) == [all_of_them]
    assert instructions_reward([answer], [gold], partial=True) == [share]


LOOSE = [  # gold, answer, strict, loose
    (QUOTES, 'Sure, here it is:\n\n"So."', 0.0, 1.0),  # a preamble
    (QUOTES, '"So."\nAnything else?', 0.0, 1.0),
    (QUOTES, 'Sure:\n"So."\nAnything else?', 0.0, 1.0),
    (QUOTES, '**"So."**', 0.0, 1.0),
    (QUOTES, 'Sure:\r\n**"So."**\r\nAnything else?', 0.0, 1.0),
    (QUOTES, 'Sure: "So."', 0.0, 0.0),
    (NO_COMMA, "Sure, here it is:\none two", 0.0, 1.0),
    (words(3, "less than"), "one two three", 0.0, 0.0),  # no line but one: nothing follows nothing
    (bullets(1), "* one", 1.0, 1.0),
    (both(NO_COMMA, bullets(1)), "* one, two\n* three", 0.0, 1.0),  # each instruction in its own way
]


@pytest.mark.parametrize(("gold", "answer", "strict", "loose"), LOOSE)
def test_loose_accuracy_forgives_a_preamble_and_bold_type(gold, answer, strict, loose):
    assert instructions_reward([answer], [gold]) == [strict]
    assert instructions_reward([answer], [gold], loose=True) == [loose]


MARKED = Thinking(open="[THINK]", close="[/THINK]")
WHERE = [  # completion, thinking, verdict for an answer without commas
    ("<think>one, two</think>three", Thinking(), 1.0),
    ("<think>one</think>two, three", Thinking(), 0.0),
    ("one, two</think>three", Thinking(prefilled=True), 1.0),
    ("<think>one two", Thinking(), 0.0),  # never ends
    ("one two", Thinking(prefilled=True), 0.0),
    ("<think>one</think> \n", Thinking(), 0.0),  # no answer
    ("<think>one</think><answer></answer>", Thinking(), 0.0),
    ("[THINK]one, two[/THINK]three", MARKED, 1.0),
    ("<think>one, two</think>three", MARKED, 0.0),
]


@pytest.mark.parametrize(("completion", "thinking", "verdict"), WHERE)
def test_the_answer_is_what_follows_the_thinking(completion, thinking, verdict):
    assert instructions_reward([completion], [NO_COMMA], thinking=thinking) == [verdict]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [(QUOTES, '"So."'), (nth(1, 1, "so"), "So it is"), (bullets(1), "* one"), (postscript("P.S."), "P.S. so")],
)
def test_the_tags_of_an_answer_block_are_no_part_of_the_answer(gold, answer):
    completion = f"<think>hm</think>\n\n<answer>\n{answer}\n</answer>"
    assert instructions_reward([completion], [gold]) == [1.0]


def test_one_reward_for_each_completion_in_order():
    completions = [[{"role": "assistant", "content": text}] for text in ("a, b", "a b", "a", "a")]
    golds = [NO_COMMA, TULU_NO_COMMA, json.loads(words(2)), None]
    assert instructions_reward(completions, golds, prompts=[], trainer_state=None) == [0.0, 1.0, 0.0, None]


def test_what_is_told_to_trl():
    columns, metrics = {}, {}
    golds = [both(NO_COMMA, words(3)), words(1), "no gold"]
    logs = {"log_extra": columns.__setitem__, "log_metric": metrics.__setitem__}
    instructions_reward(["a, b", "a", "a"], golds, **logs)
    assert columns["instructions_not_followed"] == [
        "punctuation:no_comma, length_constraints:number_words",
        "",
        "the gold cannot be parsed: 'no gold' is no JSON (Expecting value: line 1 column 1 (char 0))",
    ]
    assert metrics == {"instructions/followed_share": 1 / 3, "instructions/unparsed_gold_share": 1 / 3}


def test_a_recipe_can_name_it():
    (reward,) = build_rewards([Reward(name="instructions", partial=True)], Thinking(), 0, 64)
    assert reward(["a, b"], solution=[both(NO_COMMA, words(2))]) == [0.5]
    assert columns_of_reward(Reward(name="instructions")) == ["solution"]
    assert settable_parameters("instructions") == ["loose", "partial"]


def asked_of_every_kind() -> list[Asked]:
    firsts = {kind: next(gold for gold, _, verdict in cases if verdict == 1.0) for kind, cases in CASES.items()}
    return [asked for gold in firsts.values() for asked in read_instructions(gold)]


NEEDS_LANGUAGE = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
HOSTILE = ["[", "]", "[]", "{", '{"a":', "(", "<<", ">>", "<<x", '"', "'", "“", "*", "**", "* ", "- ", "***x"]
HOSTILE += ["\n", "\r\n", "\n\n", " ", "\t", ".", "...x", '."', ". ", "1. ", "A.", "e.g. ", "?!", "。", ",", "`", "```"]
HOSTILE += ["P.", "p. ", "Section ", "Section 1", "1", "a", "A-", "a'", "é", "\u0301", "_", "\x00"]


@pytest.mark.parametrize("unit", HOSTILE, ids=repr)
def test_a_hostile_answer_takes_time_in_proportion_to_its_length(unit):
    asked = [one for one in asked_of_every_kind() if one.id not in NEEDS_LANGUAGE]
    assert len(followed(f"x{unit * (HOSTILE_LENGTH // len(unit))}x", asked)) == 22


@pytest.mark.parametrize("unit", ["a ", "the ", "A", ".", "[", "\n"], ids=repr)
def test_a_hostile_answer_in_no_language(unit):
    asked = [one for one in asked_of_every_kind() if one.id in NEEDS_LANGUAGE]
    assert len(followed(unit * (HOSTILE_WORDS // len(unit)), asked)) == 3


@pytest.mark.parametrize("gold", [paragraphs(1), sentences(0), letters("a", 0), LOWER, QUOTES, words(0, "at least")])
@pytest.mark.parametrize("loose", [False, True], ids=["strict", "loose"])
def test_a_blank_answer_follows_nothing(gold, loose):
    assert instructions_reward(["", " \r\n", "\n\n"], [gold] * 3, loose=loose) == [0.0, 0.0, 0.0]


def test_the_language_is_that_of_most_words():
    german = ifeval("language:response_language", language="de")
    mixed = [f"{GERMAN} {GERMAN} {ENGLISH}", f"{GERMAN} {ENGLISH} {ENGLISH}"]
    assert instructions_reward(mixed, [german] * 2) == [1.0, 0.0]
