"""The `verification_info` of a row: the language its programs are to be in, and the tests that they have to pass.

    {"language": "python", "test_cases": [
        {"type": "stdin_stdout", "input": "1 2\\n", "output": "3\\n"},
        {"type": "function_call", "fn_name": "add", "input": [1, 2], "output": 3},
        {"type": "assert", "assert": "assert add(1, 2) == 3"}]}

as a dict, or as the JSON text of one. Arguments and result of a function call may be JSON text, too, and then both are.
Keys of other types of tests may be there as None, as Arrow leaves them. A row whose problem has several right outputs
says how they are compared: `checker` (see output.py), or `checker_code`, a Python program that is called with the
names of three files, input.txt, correct_output.txt and solution_output.txt, and prints 1 or 0.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from open_r1.judging.programs.asserts import CannotSplit, SplitTest, split_asserts
from open_r1.judging.programs.output import CHECKERS, checker_of, lines
from open_r1.judging.programs.values import NotPlain, Opaque, decode, program_with_steps, same, same_in_any_order
from open_r1.sandbox import Execution, Program
from open_r1.wording import closest

LANGUAGES = {  # what data sets call them -> what sandboxes do
    "python": "python",
    "python3": "python",
    "py": "python",
    "cpp": "cpp",
    "c++": "cpp",
    "c": "c",
}
TYPES = ("stdin_stdout", "function_call", "assert")
CHECKERS_OF_VALUES = ("lines", "floats", "any_order")
MAX_SHOWN_CHARACTERS = 60


class BadRow(ValueError):
    """A row that cannot be judged: `key: value; mend`."""


@dataclass(frozen=True)
class StdinTest:
    """What a program reads, and what it then has to print."""

    stdin: str
    expected: bytes
    checker: str
    parameters: Mapping[str, float]

    def program(self, source: str, language: str) -> Program:
        return Program(source, stdin=self.stdin, language=language)

    def failure(self, execution: Execution) -> str | None:
        """None if the output is right, else what is wrong with it."""
        right = CHECKERS[self.checker](execution.stdout, self.expected, **self.parameters)
        return None if right else "wrong output"


@dataclass(frozen=True)
class CallTest:
    """A function of the program's, or a method of its class Solution, its arguments as JSON, and what it returns."""

    name: str
    arguments: str
    expected: Any
    checker: str
    parameters: Mapping[str, float]

    def program(self, source: str, language: str) -> Program:
        return program_with_steps(source, [("call", self.name, self.arguments)])

    def failure(self, execution: Execution) -> str | None:
        """None if the result is right, else what is wrong with it."""
        try:
            values = decode(execution.stdout)
        except NotPlain as error:
            return str(error)
        if len(values) != 1:
            return "it wrote into the result"
        if isinstance(values[0], Opaque):
            return f"the result is a {values[0].class_name}, no plain value"
        return None if self._is_right(values[0]) else "wrong result"

    def _is_right(self, value: Any) -> bool:
        if self.checker == "any_order":
            return same_in_any_order(value, self.expected)
        if self.checker == "floats":
            tolerances = self.parameters.get("abs_tolerance", 1e-6), self.parameters.get("rel_tolerance", 1e-6)
            return same(value, self.expected, tolerances)
        return same(value, self.expected)


@dataclass(frozen=True)
class AssertTest:
    """Asserts, split into what is run and what has to hold for its results."""

    split: SplitTest

    def program(self, source: str, language: str) -> Program:
        return program_with_steps(source, self.split.steps)

    def failure(self, execution: Execution) -> str | None:
        """None if all asserts hold, else what is wrong."""
        try:
            brought = decode(execution.stdout)
        except NotPlain as error:
            return str(error)
        return None if self.split.passes(brought) else "an assert does not hold"


Test = StdinTest | CallTest | AssertTest


@dataclass(frozen=True)
class Row:
    """The tests that a program in `language` has to pass, and the program that judges its outputs, if there is one."""

    language: str
    tests: tuple[Test, ...]
    checker_code: str | None = field(default=None)


def problem_of(verification_info: Mapping[str, Any] | str | None) -> str | None:
    """One line (key, value, mend) if programs cannot be judged by a row, else None."""
    try:
        read_row(verification_info)
    except BadRow as problem:
        return str(problem)
    return None


def read_row(verification_info: Mapping[str, Any] | str | None) -> Row:
    """The row's tests. Raises BadRow if it has none, or if they cannot be judged, or not safely."""
    info = verification_info
    if isinstance(info, str):
        info = _json(info, "verification_info")
    if not isinstance(info, Mapping):
        raise BadRow(f"verification_info: {short(info)} says nothing; give language and test_cases")
    language = info.get("language")
    if not isinstance(language, str) or language.casefold() not in LANGUAGES:
        mend = closest(language, LANGUAGES) if isinstance(language, str) else ""
        raise BadRow(f"language: {short(language)} is none of {', '.join(LANGUAGES)}{mend}")
    language = LANGUAGES[language.casefold()]
    cases = info.get("test_cases")
    if isinstance(cases, str):
        cases = _json(cases, "test_cases")
    if not isinstance(cases, list | tuple) or not cases:
        raise BadRow(f"test_cases: {short(cases)}; without a test no program can be judged, leave the row out")
    try:
        checker = checker_of(info.get("checker"))
    except ValueError as error:
        raise BadRow(f"checker: {error}") from None
    checker_code = _checker_code(info)
    tests = tuple(_test(f"test_cases.{index}", case, language, checker) for index, case in enumerate(cases))
    if checker_code is not None and not all(isinstance(test, StdinTest) for test in tests):
        raise BadRow("checker_code: it judges outputs alone; leave it out for calls and asserts")
    if checker_code is None and all(isinstance(test, StdinTest) and not lines(test.expected) for test in tests):
        raise BadRow("test_cases: no test expects any output, so a program that does nothing passes; leave the row out")
    return Row(language, tests, checker_code)


def _checker_code(info: Mapping[str, Any]) -> str | None:
    code = info.get("checker_code")
    if code is None or code == "":
        return None
    if info.get("checker") is not None:
        raise BadRow("checker_code: the row has a checker, too; leave one of them out")
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise BadRow(f"checker_code: it is no Python program ({error})") from None
    return code


def _test(key: str, case: Any, language: str, checker: tuple[str, dict[str, float]]) -> Test:
    kind = case.get("type") if isinstance(case, Mapping) else None
    if kind not in TYPES:
        mend = closest(kind, TYPES) if isinstance(kind, str) else ""
        raise BadRow(f"{key}.type: {short(kind)} is none of {', '.join(TYPES)}{mend}")
    if kind != "stdin_stdout" and language != "python":
        raise BadRow(f"{key}.type: {kind} is for Python alone, not for {language}; use stdin_stdout")
    if kind == "stdin_stdout":
        return _stdin_test(key, case, checker)
    if kind == "function_call":
        return _call_test(key, case, checker)
    if checker[0] != "lines":
        raise BadRow(f"checker: {checker[0]!r} is not for asserts, which say themselves how they compare; leave it out")
    text = case.get("assert")
    if not isinstance(text, str):
        raise BadRow(f"{key}.assert: {short(text)} is no text")
    try:
        return AssertTest(split_asserts(text))
    except CannotSplit as problem:
        raise BadRow(f"{key}.assert: {short(text)}: {problem}") from None


def _stdin_test(key: str, case: Mapping[str, Any], checker: tuple[str, dict[str, float]]) -> StdinTest:
    stdin, output = case.get("input"), case.get("output")
    for name, value in (("input", stdin), ("output", output)):
        if not isinstance(value, str) and not (name == "input" and value is None):
            raise BadRow(f"{key}.{name}: {short(value)} is no text")
    try:
        return StdinTest(stdin or "", output.encode("utf-8"), *checker)
    except UnicodeEncodeError as error:
        raise BadRow(f"{key}.output: {error.reason}, so no program can print it") from None


def _call_test(key: str, case: Mapping[str, Any], checker: tuple[str, dict[str, float]]) -> CallTest:
    name, arguments, expected = case.get("fn_name"), case.get("input"), case.get("output")
    if not isinstance(name, str) or not name.isidentifier():
        raise BadRow(f"{key}.fn_name: {short(name)} is no name of a function")
    if checker[0] not in CHECKERS_OF_VALUES:
        raise BadRow(f"checker: {checker[0]!r} is for printed text; a call has one of {', '.join(CHECKERS_OF_VALUES)}")
    if expected is None:
        raise BadRow(f'{key}.output: None may mean that it is missing; give JSON text in input and output, here "null"')
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{key}.input")
        if isinstance(expected, str):
            expected = _json(expected, f"{key}.output")
    if not isinstance(arguments, list | tuple):
        raise BadRow(f"{key}.input: {short(arguments)} is no list; give the arguments as a list, or as JSON of one")
    try:
        expected = json.loads(json.dumps(expected))  # exactly what JSON can say: no tuple, no key but text
        return CallTest(name, json.dumps(arguments), expected, *checker)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"{key}: {error}; arguments and result have to be what JSON can say") from None


def _json(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{key}: {short(text)} is no JSON ({error})") from None


def short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"
