"""LiveCodeBench's tests: read from the rows of its data set, and run in the local sandbox.

The rules are LightEval's: what a program prints is compared line by line, blanks at both ends of a line apart, and
numbers by their exact value; what a function returns by Python's own `==`. All tests of a problem have to be passed.
"""

import base64
import json
import pickletools
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from open_r1.judging.programs import Row, judge_programs
from open_r1.judging.programs.values import NotPlain, decode, program_with_steps
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.code import Judged, open_sandbox, program_of
from open_r1.sandbox import Execution, Program, Sandbox
from open_r1.sandbox.protocol import MIB

CPU_SECONDS = 6.0  # LightEval's time limit of a test, as CPU time, which a busy machine does not use up
WALL_SECONDS = 30.0
MEMORY_BYTES = 1024 * MIB  # AtCoder's limit, the highest of the contests'
MAX_PRIVATE_BYTES = 512 * MIB  # of one problem's private tests; a few kilobytes can be made to unpack into all memory
TEXT_OPCODES = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
OTHER_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
# Solutions are written as on the contests' own pages, where these are imported beforehand.
MODULES = ["string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"]
MODULES += ["itertools", "functools", "operator", "io", "sys", "json"]
PRELUDE = "".join(
    [
        *(f"from {module} import *\n" for module in (*MODULES, "builtins", "typing")),
        *(f"import {module}\n" for module in MODULES),
        "sys.setrecursionlimit(50000)\n",
    ]
)
FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)


@dataclass(frozen=True)
class PrintTest:
    """What a program reads, and what it then has to print."""

    stdin: str
    expected: str

    def program(self, source: str, language: str) -> Program:
        return Program(with_prelude(source), stdin=self.stdin, language=language)

    def failure(self, execution: Execution) -> str | None:
        """None if the output is right, else what is wrong with it."""
        try:
            printed = execution.stdout.decode("utf-8")
        except UnicodeDecodeError:
            return "the output is no text"
        return None if same_output(printed, self.expected) else "wrong output"


@dataclass(frozen=True)
class ReturnTest:
    """A method of the program's class Solution, or a function, its arguments as JSON, and what it has to return."""

    name: str
    arguments: str
    expected: Any

    def program(self, source: str, language: str) -> Program:
        return program_with_steps(with_prelude(source), [("call", self.name, self.arguments)])

    def failure(self, execution: Execution) -> str | None:
        """None if the result is right, else what is wrong with it."""
        try:
            (value,) = decode(execution.stdout)
        except NotPlain as error:
            return str(error)
        except ValueError:
            return "it wrote into the result"
        value = list(value) if isinstance(value, tuple) else value
        return None if value == self.expected else "wrong result"


Test = PrintTest | ReturnTest


def read_tests(line: Mapping[str, Any]) -> tuple[Test, ...]:
    """The public and the private tests of a row of the data set.

    Raises RecipeError if they cannot be read, or not safely: the private ones come as a pickle.
    """
    where = f"livecodebench: problem {line.get('question_id', line.get('question_title', '?'))}"
    try:
        cases = json.loads(line["public_test_cases"]) + read_private(line["private_test_cases"])
        name = json.loads(line["metadata"]).get("func_name")
        tests = tuple(_test(case, name) for case in cases)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise RecipeError(f"{where}: its tests cannot be read ({reason}); leave the row out") from None
    if not tests:
        raise RecipeError(f"{where}: it has no tests, so any program would pass; leave the row out")
    return tests


def _test(case: Mapping[str, Any], function_name: str | None) -> Test:
    if function_name is None:
        if not isinstance(case["input"], str) or not isinstance(case["output"], str):
            raise ValueError("input and output of a test are text")
        return PrintTest(case["input"], case["output"])
    arguments = [json.loads(argument) for argument in case["input"].split("\n")]
    return ReturnTest(function_name, json.dumps(arguments), json.loads(case["output"]))


def read_private(encoded: str) -> list[dict[str, Any]]:
    """The private test cases: JSON, or JSON that was pickled, compressed and written in base64. Raises ValueError."""
    if encoded.lstrip().startswith("["):  # a sign that base64 has not
        return json.loads(encoded)
    try:
        packed = zlib.decompressobj()
        pickled = packed.decompress(base64.b64decode(encoded, validate=True), MAX_PRIVATE_BYTES)
        if not packed.eof:
            raise ValueError(f"cut off, or more than {MAX_PRIVATE_BYTES // MIB} MiB")
        return json.loads(pickled_text(pickled))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"private_test_cases: {error}") from None


def pickled_text(pickled: bytes) -> str:
    """The text that a pickle holds. Raises ValueError if it holds anything else.

    The pickle is read as a list of opcodes and never executed: one that names a function would call it.
    """
    texts = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in TEXT_OPCODES:
            texts.append(argument)
        elif opcode.name not in OTHER_OPCODES:
            raise ValueError(f"the pickle holds no text, but {opcode.name}")
    if len(texts) != 1:
        raise ValueError(f"the pickle holds {len(texts)} texts, not one")
    return texts[0]


def same_output(printed: str, expected: str) -> bool:
    """True if all lines are the same, or the same numbers, blanks at both ends apart."""
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(ours) == len(theirs) and all(
        one == other or _same_numbers(one, other) for one, other in zip(ours, theirs, strict=True)
    )


def _same_numbers(line: str, expected: str) -> bool:
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:
        return False


def with_prelude(source: str) -> str:
    """The program after what the contests import for it; `from __future__` has to stay in front."""
    future = "".join(f"{line}\n" for line in FUTURE.findall(source))
    return f"{future}{PRELUDE}\n{FUTURE.sub('', source)}"


def sandbox_of_benchmark() -> Sandbox:
    """The sandbox with the benchmark's limits. Raises RecipeError if this machine has none."""
    limits = {"cpu_seconds": CPU_SECONDS, "wall_seconds": WALL_SECONDS, "memory_bytes": MEMORY_BYTES}
    return open_sandbox("livecodebench", "local", **limits)


def judge_answers(
    texts: Sequence[str], tests: tuple[Test, ...], thinking: Thinking, sandbox: Sandbox
) -> list[float | None]:
    """1.0 for each completion whose program passes all tests, 0.0 if it surely fails one, None if the sandbox failed.

    A program that takes too long fails, as in the contest; only where nobody can say is there no verdict.
    """
    programs = [program_of(text, "python", thinking)[0] for text in texts]
    outcomes, _ = judge_programs(
        [program for program in programs if program is not None],
        [Row("python", tests)] * (len(programs) - programs.count(None)),
        sandbox,
    )
    of_programs = iter(outcomes)
    return [0.0 if program is None else Judged(tuple(next(of_programs))).binary for program in programs]
