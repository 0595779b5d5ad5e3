"""Rows of programming contests as tasks: open-r1's Codeforces and IOI columns.

A task says what is run for a program and a test: what is compiled along, its limits, and what judges the output. What a
test expects never goes where the program is; a checker reads it, in a run of its own, when the program is gone.
"""

import ast
import functools
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from open_r1.judging.programs.judge import CHECKER, CHECKER_FILES
from open_r1.judging.programs.output import NUMBER, lines
from open_r1.judging.programs.rows import BadRow, short
from open_r1.sandbox import Execution, Program

CODEFORCES_LANGUAGES = {"python": "python", "python3": "python", "py": "python", "cpp": "cpp", "c++": "cpp"}

MIB = 1 << 20
# Every limit of its own is a sandbox of its own, with fork servers of its own: so few different ones are used.
SECONDS_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 256 * MIB, 16384 * MIB

MAX_TIME_LIMIT_SECONDS = 60

OUTPUT_STEPS = (MIB, 16 * MIB)

FILE_LIMITS = {"file_bytes": 64 * MIB, "scratch_bytes": 128 * MIB}

# The first bytes on stderr of a C++ program of ours that runs. A compiler's words begin otherwise: what it is given
# cannot know them.
RAN = f"{secrets.token_hex(16)}\n"

RAN_FILE = {
    "open_r1_ran.cpp": f"""#include <unistd.h>
__attribute__((constructor(101))) static void say_that_it_runs() {{
    if (write(2, "{RAN.strip()}\\n", {len(RAN)}) < 0) _exit(1);
}}
"""
}

# input_mode "file": the program's stdout goes nowhere, and what it has left in output.txt is its output. Without a
# second process, which not every sandbox allows: so a program that ends by _exit() has no output.
FILES_FILE = {
    "open_r1_files.cpp": """#include <cstdio>
#include <fcntl.h>
#include <unistd.h>
static int real_stdout = -1;
__attribute__((constructor(101))) static void keep_stdout() {
    real_stdout = dup(1);
    int nowhere = open("/dev/null", O_WRONLY);
    if (nowhere >= 0) { dup2(nowhere, 1); close(nowhere); }
}
__attribute__((destructor(101))) static void copy_output() {
    static char buffer[1 << 16];
    std::fflush(nullptr);
    int file = open("output.txt", O_RDONLY);
    if (file < 0) return;
    for (ssize_t size; (size = read(file, buffer, sizeof buffer)) > 0;)
        for (ssize_t done = 0, part; done < size; done += part)
            if ((part = write(real_stdout, buffer + done, size - done)) <= 0) return;
}
"""
}

FILES_PYTHON = """def _with_files():
    import atexit, contextlib, gc, io, os
    real_stdout = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    def copy_output():
        for one in gc.get_objects():
            with contextlib.suppress(Exception):
                if isinstance(one, io.IOBase):
                    one.flush()
        if os.path.exists("output.txt"):
            with open("output.txt", "rb") as file:
                while part := file.read(1 << 16):
                    while part:
                        part = part[os.write(real_stdout, part):]
    atexit.register(copy_output)
_with_files()
del _with_files
exec(compile({source}, "main.py", "exec", dont_inherit=True))
"""

# A sandbox gives no arguments. The constructor that is linked last runs when everything static is there.
ARGUMENTS_FILE = {
    "zz_open_r1_arguments.cpp": f"""#include <cstdlib>
int main(int, char **);
__attribute__((constructor)) static void check() {{
    static char names[4][32] = {{"./checker", "{CHECKER_FILES[0]}", "{CHECKER_FILES[1]}", "{CHECKER_FILES[2]}"}};
    static char *arguments[] = {{names[0], names[1], names[2], names[3], nullptr}};
    std::exit(main(4, arguments));
}}
"""
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)

HEADERS = (".h", ".hh", ".hpp", ".inc")


@dataclass(frozen=True)
class Checker:
    """A program that reads the files of CHECKER_FILES and prints a score; `files` lie beside it, to be compiled."""

    language: Literal["python", "cpp"]
    source: str
    files: Mapping[str, str] = field(default_factory=dict)

    def program(self, stdin: str, expected: bytes, output: bytes) -> Program:
        contents = dict(zip(CHECKER_FILES, (stdin, expected, output), strict=True))
        if self.language == "cpp":
            return Program(self.source, language="cpp", files={**self.files, **ARGUMENTS_FILE, **contents})
        return Program(CHECKER.format(argv=["checker.py", *CHECKER_FILES], code=ascii(self.source)), files=contents)


@dataclass(frozen=True)
class Task:
    """What a row asks of a program, and how it is judged."""

    language: str
    tests: tuple[tuple[str, bytes], ...]
    """(input, expected output) of each."""
    time_limit_seconds: float
    memory_limit_bytes: int
    reads_files: bool = False
    """It reads input.txt and writes output.txt, not stdin and stdout."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Compiled together with the program: a grader that has main, headers."""
    header: str | None = None
    """The one of them that the program has to include."""
    checker: Checker | None = None
    is_scored: bool = False
    """A checker's score counts as it is; otherwise a test is passed with 1, and failed with anything else."""

    def program(self, source: str, stdin: str) -> Program:
        """The program on one test."""
        if self.language == "python":
            if not self.reads_files:
                return Program(source, stdin=stdin)
            return Program(FILES_PYTHON.format(source=ascii(source)), files={"input.txt": stdin})
        if self.header is not None and self.header not in (name for _, name in INCLUDE.findall(source)):
            source = f'#include "{self.header}"\n{source}'
        files = {**self.files, **RAN_FILE}
        if self.reads_files:
            files |= {**FILES_FILE, "input.txt": stdin}
        return Program(source, stdin="" if self.reads_files else stdin, language="cpp", files=files)

    def limits(self, time_limit_factor: float) -> dict[str, float]:
        """The limits of the sandbox for this task's programs: its own, rounded up to one of few.

        CPU seconds to the next of SECONDS_STEPS; twice as many, and two more, by the clock, which a busy machine needs.
        Memory to a power of two, at least MIN_MEMORY_BYTES: what an interpreter or a C++ runtime maps counts here.
        Output to what is at least twice as long as the longest that is correct, or the last of OUTPUT_STEPS.
        """
        wanted = self.time_limit_seconds * time_limit_factor
        cpu_seconds = next((seconds for seconds in SECONDS_STEPS if seconds >= wanted), math.ceil(wanted))
        memory_bytes = max(MIN_MEMORY_BYTES, 1 << (self.memory_limit_bytes - 1).bit_length())
        wall_seconds = 2.0 * cpu_seconds + 2.0
        limits = {"wall_seconds": wall_seconds, "cpu_seconds": float(cpu_seconds), "memory_bytes": memory_bytes}
        return limits | FILE_LIMITS | {"output_bytes": self.output_bytes}

    @functools.cached_property
    def output_bytes(self) -> int:
        """What a program may print."""
        longest = max(len(expected) for _, expected in self.tests)
        return next((step for step in OUTPUT_STEPS if step >= 2 * longest), OUTPUT_STEPS[-1])

    def score_of(self, execution: Execution) -> float | None:
        """What the checker said, between 0 and 1, if that is all that it said: more may be the output that it read."""
        said = execution.stdout.strip()
        if not execution.ok or len(said) > 40 or not NUMBER.fullmatch(said) or not 0 <= float(said) <= 1:
            return None
        return float(said) if self.is_scored else float(float(said) == 1.0)


def codeforces_task(
    official_tests: Any, time_limit: Any, memory_limit: Any, input_mode: Any, generated_checker: Any, language: Any
) -> Task:
    """The task of a row of open-r1/codeforces. Raises BadRow (`key: value; mend`) if programs cannot be judged by it.

    `time_limit` is in seconds, `memory_limit` in MB (2^20 bytes).
    """
    if not isinstance(language, str) or language.casefold() not in CODEFORCES_LANGUAGES:
        raise BadRow(f"language: {short(language)} is none of {', '.join(CODEFORCES_LANGUAGES)}")
    if not isinstance(official_tests, list | tuple) or not official_tests:
        raise BadRow(f"official_tests: {short(official_tests)}; without a test no program can be judged, leave it out")
    tests = []
    for index, test in enumerate(official_tests):
        pair = (test.get("input"), test.get("output")) if isinstance(test, Mapping) else None
        tests.append(_test(f"official_tests.{index}", pair))
    if input_mode not in ("stdio", "file"):
        raise BadRow(f"input_mode: {short(input_mode)} is neither stdio nor file")
    checker = None
    if generated_checker:
        try:
            ast.parse(generated_checker)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
            raise BadRow(f"generated_checker: it is no Python program ({error})") from None
        checker = Checker("python", generated_checker)
    elif not any(lines(expected) for _, expected in tests):
        raise BadRow("official_tests: none expects any output, so a program that does nothing passes; leave it out")
    return Task(
        CODEFORCES_LANGUAGES[language.casefold()],
        tuple(tests),
        _seconds(time_limit),
        _bytes(memory_limit, MIB, "MB"),
        reads_files=input_mode == "file",
        checker=checker,
    )


def ioi_task(id: Any, test_names: Any, test_cases: Any, time_limit: Any, memory_limit: Any, grader_files: Any) -> Task:
    """The task of a row of open-r1/ioi, a subtask. Raises BadRow (`id: key: value; mend`) if it cannot be judged.

    `time_limit` is in seconds, `memory_limit` in bytes. `grader_files` are [name, content] pairs: C++ sources and
    headers are compiled along (folders are left out of their names), but for the checker's, and for a solution that has
    the program's name. `test_cases` are [input, output] in the order of `test_names`, or a dict by name. The checker
    judges if all that it includes is there; else outputs are compared. Tasks with a manager are refused: their programs
    talk with another one.
    """
    try:
        return _ioi_task(id, test_names, test_cases, time_limit, memory_limit, grader_files)
    except BadRow as problem:
        raise BadRow(f"{id}: {problem}") from None


def _ioi_task(
    problem_id: Any, test_names: Any, test_cases: Any, time_limit: Any, memory_limit: Any, grader_files: Any
) -> Task:
    if not isinstance(problem_id, str) or not problem_id:
        raise BadRow(f"id: {short(problem_id)} names no problem")
    if not isinstance(test_names, list | tuple) or not test_names:
        raise BadRow(f"test_names: {short(test_names)}; without a test no program can be judged, leave the row out")
    if isinstance(test_cases, list | tuple) and len(test_cases) == len(test_names):
        test_cases = dict(zip(test_names, test_cases, strict=True))
    if not isinstance(test_cases, Mapping) or not all(isinstance(name, str) for name in test_names):
        raise BadRow(f"test_cases: {short(test_cases)} is not one [input, output] for each of test_names")
    tests = tuple(_test(f"test_cases.{name}", test_cases.get(name)) for name in test_names)
    files, checker_files = {}, {}
    for pair in grader_files or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise BadRow(f"grader_files: {short(pair)} is no pair of a name and a content")
        *folders, name = pair[0].split("/")
        if name.startswith("manager."):
            raise BadRow(
                f"grader_files: {pair[0]}: its programs talk with a manager, which no sandbox has; leave it out"
            )
        if name.endswith((".cpp", *HEADERS)) and isinstance(pair[1], str):
            (checker_files if "checker" in folders or name.startswith("checker.") else files)[name] = pair[1]
    checker_source = checker_files.pop("checker.cpp", None)
    checker = None
    if checker_source is not None:
        headers = {name: text for name, text in (files | checker_files).items() if name.endswith(HEADERS)}
        if _is_complete([checker_source, *headers.values()], headers):
            checker = Checker("cpp", checker_source, headers)
    if checker is None and not any(lines(expected) for _, expected in tests):
        raise BadRow("test_cases: none expects any output, so a program that does nothing passes; leave it out")
    own_names = [f"{problem_id}{suffix}".casefold() for suffix in (".h", ".cpp")]
    return Task(
        "cpp",
        tests,
        _seconds(time_limit),
        _bytes(memory_limit, 1, "bytes"),
        # Sandboxes call the program's own source main.cpp.
        files={
            "grader_main.cpp" if name == "main.cpp" else name: text
            for name, text in files.items()
            if name.casefold() != own_names[1]
        },
        header=next((name for name in files if name.casefold() == own_names[0]), None),
        checker=checker,
        is_scored=True,
    )


def with_test_cases(problems, tests):
    """open-r1/ioi with a column `test_cases`, out of open-r1/ioi-test-cases: both, and what is given, are Datasets.

    A test that is not among them is None, with which the row is refused.
    """
    names = zip(tests["problem_id"], tests["test_name"], strict=True)
    positions = {name: position for position, name in enumerate(names)}

    def test_case(problem_id: str, name: str) -> list[str] | None:
        position = positions.get((problem_id, name))
        return None if position is None else [tests[position]["test_input"], tests[position]["test_output"]]

    return problems.map(lambda row: {"test_cases": [test_case(row["id"], name) for name in row["test_names"]]})


def _test(key: str, pair: Any) -> tuple[str, bytes]:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise BadRow(f"{key}: {short(pair)} is no input and output; leave the row out")
    try:
        expected = pair[1].encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"{key}: {error.reason}, so no program can print it") from None
    if len(expected) > OUTPUT_STEPS[-1]:
        raise BadRow(f"{key}: {len(expected)} bytes of output are more than a program may print; leave the row out")
    return pair[0], expected


def _seconds(time_limit: Any) -> float:
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float):
        raise BadRow(f"time_limit: {short(time_limit)} is no number of seconds; leave the row out")
    if not 0 < time_limit <= MAX_TIME_LIMIT_SECONDS:
        raise BadRow(f"time_limit: {time_limit} is not in seconds, or over {MAX_TIME_LIMIT_SECONDS}; leave the row out")
    return float(time_limit)


def _bytes(memory_limit: Any, unit_bytes: int, unit: str) -> int:
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float):
        raise BadRow(f"memory_limit: {short(memory_limit)} is no number of {unit}; leave the row out")
    if not MIB <= memory_limit * unit_bytes <= MAX_MEMORY_BYTES:
        raise BadRow(f"memory_limit: {memory_limit} is not in {unit} (1 MB to 16 GB); convert it, or leave the row out")
    return math.ceil(memory_limit * unit_bytes)


def _is_complete(sources: Sequence[str], files: Mapping[str, str]) -> bool:
    """True if all that these include is in `files`, or comes with a compiler."""
    included = [match for source in sources for match in INCLUDE.findall(source)]
    return all(name in files for quote, name in included if quote == '"' or name == "testlib.h")
