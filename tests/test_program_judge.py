"""The judge of programs outside of any sandbox: tests that are read, split, compared, worked out or refused."""

import json
import math
import re
import subprocess
import sys

import pytest
from program_cases import OUTPUTS, REFUSED_ASSERTS, SPLITS

from open_r1.judging.programs import problem_of, read_row
from open_r1.judging.programs.asserts import CannotSplit, split_asserts
from open_r1.judging.programs.evaluation import BUDGET, CannotTell, evaluate
from open_r1.judging.programs.output import CHECKERS, checker_of
from open_r1.judging.programs.values import Items, NotPlain, Opaque, decode, program_with_steps, same, same_in_any_order

PRINTS_2 = {"type": "stdin_stdout", "input": "1", "output": "2"}
CALL = {"type": "function_call", "fn_name": "f", "input": [1], "output": 2}
ASSERT = {"type": "assert", "assert": "assert f(1) == 2"}
CALL_AS_JSON = CALL | {"input": "[1]", "output": "2"}


def row(*cases, **more):
    return {"language": "python", "test_cases": list(cases)} | more


@pytest.mark.parametrize(("stdout", "expected", "checker", "right"), OUTPUTS)
def test_what_was_printed_is_compared_as_the_row_asks(stdout, expected, checker, right):
    name, parameters = checker_of(checker)
    assert CHECKERS[name](stdout, expected.encode(), **parameters) is right


SAME = [  # value, expected, same
    (2, 2, True),
    (True, 1, False),
    (1, True, False),
    (1, 1.0, False),
    (1.0, 1, False),
    (-0.0, 0.0, True),
    (math.nan, math.nan, True),
    (math.nan, 1.0, False),
    ("1", 1, False),
    (b"a", "a", False),
    (None, False, False),
    (None, None, True),
    ((1, [2]), [1, [2]], True),
    ([1, 2], [2, 1], False),
    ([1, 2, 3], [1, 2], False),
    ({1, 2}, [1, 2], False),
    ({"a": (1,)}, {"a": [1]}, True),
    ({1: "a"}, {"1": "a"}, True),
    ({1: "a", "1": "a"}, {"1": "a"}, False),
    ({"a": 1}, {"b": 1}, False),
    (Items((1, 2)), [1, 2], False),
    (Opaque("Liar"), "Liar", False),
    (10**5000, 10**5000, True),
]


@pytest.mark.parametrize(("value", "expected", "is_same"), SAME, ids=range(len(SAME)))
def test_what_a_function_returned_is_compared_type_by_type(value, expected, is_same):
    assert same(value, expected) is is_same
    assert same_in_any_order([value, 7], [7, expected]) is is_same


def test_values_may_differ_by_a_tolerance_or_in_order_where_the_row_asks():
    assert same([1, 2.0004], [1.0001, 2], (1e-3, 0)) is True
    assert same([1, 2.4], [1.0, 2], (1e-3, 0)) is False
    assert same(True, 1.0, (1e-3, 0)) is False
    assert same(10**400, 1.0, (1e-3, 1e-3)) is False
    assert same_in_any_order([[2, 1], [3]], [[3], [2, 1]]) is True
    assert same_in_any_order([[1, 2]], [[2, 1]]) is False
    assert same_in_any_order([1, 1, 2], [1, 2, 2]) is False


ROUND_TRIPS = """
import collections
P = collections.namedtuple("P", "x y")
class Dict(dict): pass
class Int(int): pass
values = [
    None, True, -3, 2**70, 0.1, float("nan"), float("-inf"), 1j, "\\ud800 \\n é", b"\\xff", [1, (2,)], {1},
    frozenset([2]), {3: {"a": None}}, range(2), (x for x in "ab"), {1: 2}.keys(), collections.Counter("aab"),
    P(1, 2), Dict(), Int(3),
]
"""


def test_values_come_out_as_what_they_are():
    program = program_with_steps(ROUND_TRIPS, [("show", "values")])
    process = subprocess.run([sys.executable, "-I", "-c", program.source], capture_output=True, check=True)
    (values,) = decode(process.stdout)
    assert math.isnan(values.pop(5))
    shown = [(type(value), getattr(value, "items", None) if type(value) is Items else value) for value in values]
    assert shown[:-2] == [
        *((type(value), value) for value in (None, True, -3, 2**70, 0.1, -math.inf, 1j, "\ud800 \n é", b"\xff")),
        *((type(value), value) for value in ([1, (2,)], {1}, frozenset([2]), {3: {"a": None}})),
        *((Items, items) for items in ((0, 1), ("a", "b"), (1,))),
        (dict, {"a": 2, "b": 1}),
        (tuple, (1, 2)),
    ]
    assert [value.class_name for value in values[-2:]] == ["Dict", "Int"]


COLLISIONS = ",".join(f'["int","{hex(number * ((1 << 61) - 1))}"]' for number in range(2000))
FORGED = [
    b"",
    b"144",
    b"[1]",
    b"[NaN]",
    b"{}",
    b"\xff",
    b"[" * 100_000,
    b'[["int", 144]]',
    b'[["int", "144x"]]',
    b'[["int", "0x1", "0x2"]]',
    b'[["exec", "1"]]',
    b'[["set", [["list", []]]]]',
    b'[["dict", [["a"]]]]',
    b'[["list", "ab"]]',
    b'[["list", {}]]',
    b'[{"list": []}]',
    b'[["float", "0x1p99999"]]',
    b'[["int", "0x' + b"f" * 50_000 + b'"]]',
    b'["list", ['.join([b"["] + [b""] * 200) + b"]]" * 200 + b"]",
    b"[" + b'"a",' * 400_000 + b'"a"]',
    f'[["set", [{COLLISIONS}]]]'.encode(),
    b"[true]\n[true]",
]


@pytest.mark.parametrize("stdout", FORGED, ids=range(len(FORGED)))
def test_what_is_no_result_is_none(stdout):
    with pytest.raises(NotPlain):
        decode(stdout)


@pytest.mark.parametrize(("text", "inside"), SPLITS)
def test_of_an_assert_the_calls_go_inside_and_nothing_else(text, inside):
    assert [" ".join(step) for step in split_asserts(text).steps] == inside


@pytest.mark.parametrize(("text", "words"), REFUSED_ASSERTS)
def test_what_cannot_be_split_is_refused(text, words):
    with pytest.raises(CannotSplit, match=re.escape(words)):
        split_asserts(text)


HOLDS = [  # assert, what came out, holds
    ("assert f(2) == 4", [4], True),
    ("assert f(2) == 4", [5], False),
    ("assert f(2) == 4", [Opaque("Liar")], False),
    ("assert f(2) != 4 and f(3) == 9", [Opaque("Liar"), 9], False),
    ("assert f(2)", [Opaque("Liar")], False),
    ("assert f(2)", [[0]], True),
    ("assert f(2) is True", [1], False),
    ("assert f(2) == [1]", [(1,)], False),
    ("assert f(2) == [1]", [Items((1,))], False),
    ("assert list(f(2)) == [1]", [Items((1,))], True),
    ("assert 1 in f(2)", [Items((1,))], True),
    ("assert f(2) == {'a': {1}}", [{"a": {1}}], True),
    ("assert abs(f(2) - 4) < 1e-6", [4.0000001], True),
    ("assert abs(f(2) - 4) < 1e-6", [math.nan], False),
    ("assert abs(f(2) - 4) < 1e-6", ["4"], False),
    ("assert 1 < f(2) <= 4", [4], True),
    ("assert 1 < f(2) <= 4", [1], False),
    ("assert f(2)[-1] == 'c' and f(2)[:2] == 'ab'", ["abc", "abc"], True),
    ("assert f(2)['a'] == 1", [{}], False),
    ("assert max(f(2)) - min(f(2)) == 2", [[1, 3], [1, 3]], True),
    ("assert sorted(f(2), reverse=True) == [3, 1]", [[1, 3]], True),
    ("assert all(x > 0 for x in f(3)) and f(4) == 1", [[1, 2], 1], True),
    ("assert all(x > 0 for x in f(3)) and f(4) == 1", [[1, -2], 1], False),
    ("assert len(f(2)) == 3", [Items((1, 2, 3))], False),
    ("assert f(2) ** 2 == 16", [-4], True),
]


@pytest.mark.parametrize(("text", "brought", "holds"), HOLDS, ids=range(len(HOLDS)))
def test_the_rest_of_an_assert_is_worked_out_here(text, brought, holds):
    assert split_asserts(text).passes(brought) is holds


COSTLY = [  # assert, what came out
    ("assert f(2) ** f(3) == 16", [9**9, 9**9]),
    ("assert f(2) ** f(3) == 16", [10, 10**6]),
    ("assert f(2) * f(2) == 16", [1 << 100_000] * 2),
    ("assert f(2) * f(3) == 'aa'", ["a" * 9999, 10**9]),
    ("assert f(2) + f(3) == 'aa'", ["a" * (1 << 20), "a"]),
    ("assert len(list(range(f(2)))) == 2", [10**12]),
    ("assert round(f(2), f(3)) == 2", [5, -(10**9)]),
    ("assert len(set(f(2))) == 2", [[number * ((1 << 61) - 1) for number in range(2000)]]),
    ("assert len(frozenset(f(2))) == 2", [[number * ((1 << 61) - 1) for number in range(2000)]]),
    ("assert {x for x in f(2)} == {2}", [[number * ((1 << 61) - 1) for number in range(2000)]]),
    ("assert sum(1 for x in f(2) for y in range(9999) if x == y) == 2", [list(range(BUDGET // 1000))]),
    ("assert f(2) % 7 == '4'", ["%0999999999d"]),
    ("assert sum(f(2), f(3)) == []", [[[1]] * 9999, []]),
]


@pytest.mark.parametrize(("text", "brought"), COSTLY, ids=range(len(COSTLY)))
def test_what_would_cost_too_much_is_not_worked_out(text, brought):
    test = split_asserts(text)
    with pytest.raises((CannotTell, NotPlain)):
        evaluate(test.conditions[0], brought)
    assert test.passes(brought) is False


PROBLEMS = [  # verification_info, how the line begins
    (row(PRINTS_2), None),
    (row(CALL), None),
    (row(CALL_AS_JSON), None),
    (row(ASSERT), None),
    (row(PRINTS_2 | {"fn_name": None, "assert": None}, CALL, ASSERT), None),
    (json.dumps(row(PRINTS_2)), None),
    (row(PRINTS_2, language="C++"), None),
    (row(PRINTS_2, checker="any_order", checker_code=None), None),
    (row(PRINTS_2 | {"output": ""}, PRINTS_2), None),
    (row(PRINTS_2 | {"output": ""}, checker_code="print(1)"), None),
    (None, "verification_info: None says nothing"),
    ("{", "verification_info: '{' is no JSON"),
    ("[]", "verification_info: [] says nothing"),
    (row(), "test_cases: []; without a test"),
    (row(language="python", test_cases=None), "test_cases: None; without a test"),
    ({"test_cases": [PRINTS_2]}, "language: None is none of"),
    (row(PRINTS_2, language="pyhton"), "language: 'pyhton' is none of python, python3, py, cpp, c++, c; did you mean"),
    (row(PRINTS_2, {"type": "stdout"}), "test_cases.1.type: 'stdout' is none of stdin_stdout"),
    (row("assert f(1) == 2"), "test_cases.0.type: None is none of"),
    (row(CALL, language="cpp"), "test_cases.0.type: function_call is for Python alone"),
    (row(PRINTS_2 | {"output": None}), "test_cases.0.output: None is no text"),
    (row(PRINTS_2 | {"output": 2}), "test_cases.0.output: 2 is no text"),
    (row(PRINTS_2 | {"output": "\ud800"}), "test_cases.0.output: surrogates not allowed"),
    (row(PRINTS_2 | {"output": " \n"}), "test_cases: no test expects any output"),
    (row(CALL | {"fn_name": "f)("}), "test_cases.0.fn_name: 'f)(' is no name"),
    (row(CALL | {"input": 1}), "test_cases.0.input: 1 is no list"),
    (row(CALL | {"input": "1, 2"}), "test_cases.0.input: '1, 2' is no JSON"),
    (row(CALL_AS_JSON | {"output": "two"}), "test_cases.0.output: 'two' is no JSON"),
    (row(CALL | {"output": None}), "test_cases.0.output: None may mean that it is missing"),
    (row(CALL | {"output": {1}}), "test_cases.0: Object of type set is not JSON"),
    (row(ASSERT | {"assert": None}), "test_cases.0.assert: None is no text"),
    (row(ASSERT | {"assert": "assert f(1) or 1"}), "test_cases.0.assert: 'assert f(1) or 1': it passes whatever"),
    (row(PRINTS_2, checker="token"), "checker: unknown checker 'token' (known: lines,"),
    (row(PRINTS_2, checker=1), "checker: 1 is no checker"),
    (row(PRINTS_2, checker={"name": "floats", "abs": 1}), "checker: abs: unknown parameter of checker floats"),
    (row(PRINTS_2, checker={"name": "floats", "abs_tolerance": "1"}), "checker: abs_tolerance is '1'"),
    (row(CALL, checker="tokens"), "checker: 'tokens' is for printed text"),
    (row(ASSERT, checker="floats"), "checker: 'floats' is not for asserts"),
    (row(PRINTS_2, checker_code="print(1"), "checker_code: it is no Python program"),
    (row(CALL, checker_code="print(1)"), "checker_code: it judges outputs alone"),
    (row(PRINTS_2, checker="lines", checker_code="print(1)"), "checker_code: the row has a checker, too"),
]


@pytest.mark.parametrize(("info", "line"), PROBLEMS)
def test_rows_that_cannot_be_judged_say_so_in_a_line(info, line):
    problem = problem_of(info)
    assert (problem is None) == (line is None)
    if line is not None:
        assert problem.startswith(line)
        assert "\n" not in problem


def test_what_is_expected_is_in_no_program_that_is_run():
    tests = read_row(
        row(
            PRINTS_2 | {"output": "answer"},
            CALL | {"output": "answer"},
            ASSERT | {"assert": "x = ['answer']\nassert f(1) == x and f(2).startswith('answer')"},
        )
    ).tests
    assert len(tests) == 3
    for test in tests:
        program = test.program("def f(x): ...", "python")
        assert "answer" not in program.source + program.stdin
        assert not program.files
