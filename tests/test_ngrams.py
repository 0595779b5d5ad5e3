"""Word n-grams of the benchmarks in training rows: the verdicts are those of sets of tuples in plain Python."""

import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.curation import ngrams
from open_r1.curation.ngrams import Match, Ngrams

EIGHT = "one two three four five six seven eight"
LIKE_EACH_OTHER = ["lengthy_word_1_of_several", "lengthy_word_2_of_several"]  # the same first and last eight bytes
VOCABULARY = ["a", "A", "b", "É", "é", "İ", "ΑΣ", "ΑΣΑ", "ß", "ẞ", "x\u200by", "数", "$x$", "\0", *LIKE_EACH_OTHER]
SEPARATORS = [" ", "  ", "\n", "\t", "\r\n", "\x1f", "\x85", "\xa0", "\u2003", "\u3000"]


def texts(max_words: int):
    word_and_separator = st.tuples(st.sampled_from(VOCABULARY), st.sampled_from(SEPARATORS))
    written = st.lists(word_and_separator, max_size=max_words).map(lambda pairs: "".join(map("".join, pairs)))
    return st.tuples(st.sampled_from(["", *SEPARATORS]), written).map("".join)


def grams(words: list[str], width: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}


def longest_shared_run(words: list[str], others: list[str]) -> int:
    return max((width for width in range(1, len(words) + 1) if grams(words, width) & grams(others, width)), default=0)


def plain_verdicts(problems: dict[str, list[str]], n: int, shortest: int, rows: list[str | None]) -> dict:
    """(row, benchmark, problem) -> number of words of the longest run that is shared, for those that match."""
    verdicts = {}
    for row, text in enumerate(rows):
        words = (text or "").lower().split()
        for benchmark, texts in problems.items():
            for number, problem in enumerate(texts):
                of_problem = problem.lower().split()
                width = min(n, len(of_problem))
                if width >= shortest and grams(words, width) & grams(of_problem, width):
                    verdicts[row, benchmark, number] = longest_shared_run(words, of_problem)
    return verdicts


def verdicts_of(matches) -> dict:
    return {(match.row, match.benchmark, match.problem): len(match.words.split(" ")) for match in matches}


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    problems=st.dictionaries(st.sampled_from(["one", "two"]), st.lists(texts(8), max_size=4), min_size=1),
    rows=st.lists(st.none() | texts(30), max_size=8),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)).map(sorted),
    chunk_bytes=st.sampled_from([1, 40, 1 << 18]),
)
def test_verdicts_are_those_of_plain_python(problems, rows, widths, chunk_bytes):
    shortest, n = widths
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "CHUNK_BYTES", chunk_bytes)
        matches = list(Ngrams(problems, n, shortest).matches(rows))
    assert verdicts_of(matches) == plain_verdicts(problems, n, shortest, rows)
    for match in matches:
        words = match.words.split(" ")
        assert tuple(words) in grams(rows[match.row].lower().split(), len(words))
        assert tuple(words) in grams(problems[match.benchmark][match.problem].lower().split(), len(words))


def test_the_hash_decides_nothing(monkeypatch):
    problems, rows = {"made": [EIGHT, "five six seven"]}, [EIGHT, EIGHT[4:], "three four five", "x five six seven"]
    monkeypatch.setattr(ngrams, "_MIX", np.zeros(3, dtype=np.uint64))  # now all words have one hash
    matches = list(Ngrams(problems, 8, 3).matches(rows))
    assert verdicts_of(matches) == plain_verdicts(problems, 8, 3, rows)


@pytest.mark.parametrize(
    ("n", "shortest", "problem", "row", "matches"),
    [
        pytest.param(8, 8, EIGHT, f"Zero {EIGHT} nine", True, id="s1: eight words"),
        pytest.param(8, 8, f"{EIGHT} nine", f"x {EIGHT} ten", True, id="s1: part of the problem"),
        pytest.param(8, 8, EIGHT[4:], EIGHT[4:], False, id="s1: of seven words none is found"),
        pytest.param(8, 8, EIGHT, EIGHT.replace("five", "six"), False, id="s1: one word of eight is another"),
        pytest.param(10, 3, EIGHT, f"Zero {EIGHT} nine", True, id="DeepSeekMath: all of a short problem"),
        pytest.param(10, 3, EIGHT, EIGHT[4:], False, id="DeepSeekMath: part of a short problem"),
        pytest.param(10, 3, "one two", "one two", False, id="DeepSeekMath: two words are too few"),
        pytest.param(10, 3, f"{EIGHT} nine ten", f"{EIGHT} nine", False, id="DeepSeekMath: nine of ten words"),
        pytest.param(8, 3, EIGHT, EIGHT.upper().replace(" ", " \n\t"), True, id="case and spaces do not count"),
        pytest.param(8, 3, EIGHT, EIGHT.replace(" ", ", "), False, id="a comma makes another word"),
        pytest.param(8, 3, EIGHT, EIGHT.replace(" ", "\u200b"), False, id="a zero-width space is no space"),
    ],
)
def test_what_matches(n, shortest, problem, row, matches):
    assert bool(list(Ngrams({"made": [problem]}, n, shortest).matches([row]))) == matches


def test_a_match_does_not_go_from_one_row_into_the_next():
    assert list(Ngrams({"made": [EIGHT]}, 8).matches([EIGHT[:13], EIGHT[14:]])) == []


def test_words_end_where_python_says():
    assert max(code for code in range(sys.maxunicode + 1) if chr(code).isspace()) == 0x3000
    rows = [f"one{chr(code)}two" for code in range(0x3100)]
    matching = [match.row for match in Ngrams({"made": ["one two"]}, 2, 2).matches(rows)]
    assert matching == [code for code in range(0x3100) if chr(code).isspace()]


def test_matches_come_in_order_with_the_longest_shared_run():
    problems = {"long": [f"{EIGHT} nine ten", "something else"], "short": ["four five six"]}
    found = list(Ngrams(problems, 4, 3).matches(["nothing", f"three FOUR  five six | {EIGHT} 9"], first_row=70))
    assert found == [Match(71, "long", 0, EIGHT), Match(71, "short", 0, "four five six")]
    turned = list(Ngrams(problems, 4, 3).matches([f"four five six | {EIGHT}"]))
    assert [match.benchmark for match in turned] == ["long", "short"]


def test_problems_too_short_to_be_matched_are_counted():
    counted = Ngrams({"sums": ["1+1=?", "2+2=?", "what is 3+3"], "long": [EIGHT], "none": []}).num_too_short
    assert counted == {"sums": 2, "long": 0, "none": 0}


@pytest.mark.parametrize(
    "kind",
    [list, pa.array, lambda rows: pa.chunked_array([rows[:1], rows[1:]]), lambda rows: pa.array(["", *rows])[1:]],
)
def test_rows_may_be_a_list_or_arrow(kind):
    rows = ["no", None, f"Å {EIGHT}"]
    assert list(Ngrams({"made": [EIGHT]}).matches(kind(rows))) == [Match(2, "made", 0, EIGHT)]


def test_no_rows_and_no_problems_match_nothing():
    assert list(Ngrams({"made": [EIGHT]}).matches([])) == []
    assert list(Ngrams({}).matches([EIGHT])) == []


@pytest.mark.parametrize(("n", "shortest"), [(8, 9), (8, 0), (0, 0)])
def test_widths_that_make_no_sense_are_refused(n, shortest):
    with pytest.raises(ValueError, match=f"shortest {shortest}, n {n}"):
        Ngrams({}, n, shortest)
