"""The rewards over the columns of open-r1's Codeforces and IOI data, in the local sandbox."""

import json
import shutil

import pytest
from conftest import CPU_TRAINER

from open_r1.check import check_recipe
from open_r1.judging.programs import BadRow
from open_r1.judging.programs.contests import FILE_LIMITS, MIB, RAN, codeforces_task, ioi_task, with_test_cases
from open_r1.recipe import RecipeError, Reward, load_recipe
from open_r1.rewards import REWARDS, columns_of_reward, competition, settable_parameters
from open_r1.rewards.competition import CHECKER_LIMITS, cf_code_reward, ioi_code_reward
from open_r1.sandbox import Execution, infrastructure_error

needs_cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

# Four numbers are to be added, in Python and in C++.
SUMS = [{"input": f"{a} {b}\n", "output": f"{a + b}\n"} for a, b in ((1, 2), (3, 4), (5, 5), (0, -7))]
ADD = "print(sum(map(int, input().split())))"
ENDLESS = "while True: pass"
CPP_ADD = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }"
CPP_ENDLESS = "int main() { for (volatile int i = 0;;) i = i + 1; }"

# Any two numbers that are not negative and add up to n.
SPLITS = [{"input": "4\n", "output": "0 4\n"}, {"input": "9\n", "output": "0 9\n"}]
SPLITS_CHECKER = """import sys
n = int(open(sys.argv[1]).read())
correct = open(sys.argv[2]).read().split()
a, b = map(int, open(sys.argv[3]).read().split())
print(1 if a >= 0 and b >= 0 and a + b == n == sum(map(int, correct)) else 0)
"""


def row(**columns):
    given = {"official_tests": SUMS, "time_limit": 1.0, "memory_limit": 256.0, "input_mode": "stdio"}
    return given | {"generated_checker": "", "language": "python"} | columns


SPLITS_ROW = row(official_tests=SPLITS, generated_checker=SPLITS_CHECKER)


def fenced(program, language):
    return program if program.startswith("<think>") else f"<think>let us see</think>\n```{language}\n{program}\n```"


def as_columns(rows):
    return {name: [each[name] for each in rows] for name in rows[0]}


def cf(programs, rows, **parameters):
    completions = [fenced(program, each["language"]) for program, each in zip(programs, rows, strict=True)]
    return cf_code_reward(completions, **as_columns(rows), **parameters)


MODES = [  # program; its value in pass_fail, partial, weighted_sum
    (ADD, 1.0, 1.0, 1.1),
    ("a, b = map(int, input().split())\nprint(a + abs(b))", 0.0, 0.75, 0.075),
    ("a, b = map(int, input().split())\nprint(a + b if a else 1 / 0)", 0.0, 0.75, 0.075),
    ("print(3)", 0.0, 0.25, 0.025),
    ("print(3); raise SystemExit(1)", 0.0, 0.0, 0.0),
    (f"{ADD}\nprint()\nprint(1)", 0.0, 0.0, 0.0),
    ("def f(", 0.0, 0.0, 0.0),  # Python is not compiled
    ("<think>print(3)", -1.0, -1.0, -1.0),
    ("<think></think>```java\nprint(3)\n```", -1.0, -1.0, -1.0),
]


@pytest.mark.parametrize(("index", "mode"), enumerate(("pass_fail", "partial", "weighted_sum"), start=1))
def test_what_a_program_is_worth_in_each_mode(index, mode):
    programs = [case[0] for case in MODES]
    values = cf(programs, [row()] * len(programs), scoring_mode=mode)
    assert values == pytest.approx([case[index] for case in MODES], abs=1e-12)


def test_the_usual_mode_and_what_no_program_is_worth():
    assert cf([ADD, "<think>"], [row()] * 2) == pytest.approx([1.1, -1.0])
    assert cf(["<think>"], [row()], no_submission_reward=-0.5) == [-0.5]


@needs_cpp
def test_programs_in_cpp():
    programs = {
        CPP_ADD: 1.0,
        CPP_ADD.replace("a + b", "a + b + (a == 5)"): 0.75,
        CPP_ADD.replace("long", "lung"): -0.1,
        "int f();\nint main() { return f(); }": -0.1,  # found out by the linker
        "int main() { return *(volatile int *) 0; }": 0.0,
        # It runs, and fails as a compiler would.
        '#include <iostream>\nint main() { std::cerr << "main.cpp:1:1: error: x" << std::endl; return 1; }': 0.0,
        # Too large to be loaded: none of its code ever runs.
        "static volatile char big[1700 << 20];\nint main() { big[5] = 1; }": 0.0,
    }
    notes, metrics, rows = {}, {}, [row(language="cpp")] * len(programs)
    values = cf(programs, rows, scoring_mode="partial", log_extra=notes.__setitem__, log_metric=metrics.__setitem__)
    assert values == list(programs.values()), notes
    reasons = notes["cf_code_reason"]
    assert reasons[0] == "4 of 4 tests"
    assert reasons[1] == "3 of 4 tests; first failure: test 3: wrong output"
    assert reasons[2].startswith("it does not compile: main.cpp:2:14: error: ")
    assert "undefined reference" in reasons[3]
    assert metrics["cf_code/no_compile_share"] == pytest.approx(2 / 7)
    assert cf([CPP_ADD.replace("long", "lung")], rows[:1], no_compile_reward=-2.0) == [-2.0]


@needs_cpp
def test_one_that_is_too_slow_in_either_language():
    rows = [row(), row(language="cpp")]
    notes, metrics = {}, {}
    logs = {"log_extra": notes.__setitem__, "log_metric": metrics.__setitem__}
    assert cf([ENDLESS, CPP_ENDLESS], rows, scoring_mode="pass_fail", **logs) == [0.0, 0.0]
    assert notes["cf_code_reason"] == ["0 of 4 tests, 3 not run; first failure: test 1: timeout"] * 2
    assert metrics["cf_code/timeout"] == 1.0
    assert metrics["cf_code/programs_per_second"] > 0
    assert metrics["cf_code/seconds_waited"] > 0


WRITES = """import os
n = int(input())
for name in ("correct_output.txt", "solution_output.txt", "checker.py", "sitecustomize.py", "input.txt"):
    for folder in (".", "/tmp", ".."):
        try:
            with open(os.path.join(folder, name), "w") as file:
                file.write("print(1)" if name.endswith(".py") else "0 0")
        except OSError:
            pass
print(0, 0)"""
SPLIT_PROGRAMS = [  # program, share of tests passed
    ("print(int(input()), 0)", 1.0),
    ("n = int(input())\nprint(n // 2)\nprint(n - n // 2)", 1.0),
    ("print(0, 4)", 0.5),
    ("print(-1, int(input()) + 1)", 0.0),
    ("print(1)", 0.0),  # what the checker would say
    ("print('1\\n' * 3)", 0.0),
    ("print(0)", 0.0),  # a prefix of the correct output
    ("print('0 4 ' * 2)", 0.0),
    ("", -1.0),
    ("pass", 0.0),
    ("print('x' * 5000, 0)", 0.0),  # each of these makes the checker crash
    ("import sys; sys.stdout.buffer.write(b'\\xff\\x00')", 0.0),
    ("print('__import__(\"os\")._exit(0)')", 0.0),
    (WRITES, 0.0),
    ("print(open('correct_output.txt').read())", 0.0),
    ("import sys\nprint(int(input()), 0)\nsys.stdout.flush()\nimport os\nos._exit(1)", 0.0),
]


def test_a_checker_knows_several_right_outputs_and_is_not_fooled():
    notes = {}
    programs = [program for program, _ in SPLIT_PROGRAMS]
    values = cf(programs, [SPLITS_ROW] * len(programs), scoring_mode="partial", log_extra=notes.__setitem__)
    assert values == [share for _, share in SPLIT_PROGRAMS], notes


CHECKERS = [  # what a checker does with "5" where "4" is correct; the value of that
    ("print(1)", 1.0),
    ("print('1.0')", 1.0),
    ("print(0)", 0.0),
    ("print(0.5)", 0.0),
    ("print(int(open(sys.argv[3]).read() == '4'), flush=True); 1 / (open(sys.argv[3]).read() == '4')", 0.0),
    ("print(1 if open(sys.argv[3]).read() == '4' else 'nan')", 0.0),
    ("print(1 if open(sys.argv[3]).read() == '4' else '1 1')", 0.0),
    ("print(1 if open(sys.argv[3]).read() == '4' else 2)", 0.0),
    ("print(1); 1 / 0", None),
    ("print('perhaps')", None),
    ("print(2)", None),
    ("print('0.' + '0' * 50)", None),
    ("print(int(open(sys.argv[3]).read() == '5') or 'no')", 1.0),
    ("print('?' if open(sys.argv[3]).read() == '5' else 0)", None),  # it does not know the correct output
]


def test_what_a_checker_says_counts_only_if_it_is_a_score():
    test = [{"input": "", "output": "4"}]
    rows = [row(official_tests=test, generated_checker=f"import sys\n{code}") for code, _ in CHECKERS]
    notes, metrics = {}, {}
    logs = {"log_extra": notes.__setitem__, "log_metric": metrics.__setitem__}
    values = cf(["print(5, end='')"] * len(rows), rows, scoring_mode="pass_fail", **logs)
    assert values == [value for _, value in CHECKERS], notes
    assert metrics["cf_code/judge_failed_share"] == values.count(None) / len(values)


def test_a_sandbox_that_fails_a_checker_is_no_wrong_answer(recorded):
    def answer(program):
        if program.source in ("lost", "odd"):
            return printed(program.source.encode())
        output, correct = (program.files[f"{name}_output.txt"] for name in ("solution", "correct"))
        if output == b"lost":
            return infrastructure_error("connection lost")
        return printed(b"1" if output == correct == b"4" else b"?")

    recorded(answer)
    rows = [row(official_tests=[{"input": "", "output": each}], generated_checker="0") for each in "34"]
    notes = {}
    values = cf(["lost", "odd"], rows, scoring_mode="partial", log_extra=notes.__setitem__, **SOMEWHERE)
    assert values == [None, 0.0], notes


def test_an_empty_output_is_the_checkers_to_judge_even_where_it_is_the_correct_one():
    rows = [row(official_tests=[{"input": "", "output": ""}], generated_checker="print(0)")]
    assert cf(["pass"], rows, scoring_mode="partial") == [0.0]


IN_FILES = [  # language, program, share of tests passed
    ("python", "a, b = map(int, open('input.txt').read().split())\nprint(a + b, file=open('output.txt', 'w'))", 1.0),
    ("python", f"import sys\nsys.stdin = open('input.txt')\nsys.stdout = open('output.txt', 'w')\n{ADD}", 1.0),
    ("python", "f = open('output.txt', 'w')\nf.write(str(sum(map(int, open('input.txt').read().split()))))", 1.0),
    (
        "python",
        "from __future__ import annotations\nwith open('output.txt', 'w') as file:\n"
        "    print('started')\n    file.write(str(sum(map(int, open('input.txt').read().split()))))\nraise SystemExit",
        1.0,
    ),
    ("python", f"import sys\nsys.stdin = open('input.txt')\n{ADD}", 0.0),
    ("python", "open('output.txt', 'w').write('3')\nraise SystemExit(1)", 0.0),
    ("python", "open('output.txt', 'w').write('3')", 0.25),
    (
        "cpp",
        '#include <fstream>\nint main() { std::ifstream in("input.txt"); std::ofstream out("output.txt");'
        "long a, b; in >> a >> b; out << a + b << std::endl; }",
        1.0,
    ),
    (
        "cpp",
        '#include <cstdio>\n#include <iostream>\nint main() { freopen("input.txt", "r", stdin);'
        'freopen("output.txt", "w", stdout); std::ios::sync_with_stdio(false);'
        "long a, b; std::cin >> a >> b; std::cout << a + b; }",
        1.0,
    ),
    (
        "cpp",
        '#include <cstdio>\n#include <cstdlib>\nint main() { FILE *in = fopen("input.txt", "r"), *out = '
        'fopen("output.txt", "w"); long a, b; fscanf(in, "%ld%ld", &a, &b); fprintf(out, "%ld", a + b); exit(0); }',
        1.0,
    ),
    ("cpp", CPP_ADD, 0.0),
    (
        "cpp",
        CPP_ADD.replace("long a", 'freopen("input.txt", "r", stdin); long a').replace("#i", "#include <cstdio>\n#i"),
        0.0,
    ),
]


@pytest.mark.parametrize("language", ["python", pytest.param("cpp", marks=needs_cpp)])
def test_input_and_output_in_files(language):
    cases = [(program, share) for its, program, share in IN_FILES if its == language]
    notes, rows = {}, [row(input_mode="file", language=language)] * len(cases)
    values = cf([program for program, _ in cases], rows, scoring_mode="partial", log_extra=notes.__setitem__)
    assert values == [share for _, share in cases], notes


# The longest rise of a list, which a grader reads and prints. The checker gives 0.5 for one that is too short by one.
GRADER = """#include <cstdio>
#include "rise.h"
int main() {
    int count;
    if (scanf("%d", &count) != 1) return 1;
    std::vector<int> heights(count);
    for (int &height : heights) scanf("%d", &height);
    printf("%d\\n", longest(heights));
}
"""
RISE_CHECKER = """#include <fstream>
#include <iostream>
#include <map>
#include "scores.h"
static const std::map<int, double> scores = {{0, 1.0}, {1, NEARLY}};
int main(int argc, char **argv) {
    std::ifstream in(argv[1]), correct(argv[2]), theirs(argv[3]);
    int count, right, given;
    if (argc != 4 || !(in >> count) || !(correct >> right)) return 3;
    if (!(theirs >> given)) *(volatile int *) 0 = 1;
    std::cerr << "Output is known\\n";
    std::cout << (scores.count(right - given) ? scores.at(right - given) : 0.0) << "\\n";
}
"""
RISE_FILES = [
    ["graders/grader.cpp", GRADER],
    ["graders/rise.h", "#pragma once\n#include <vector>\nint longest(std::vector<int> heights);\n"],
    ["graders/rise.cpp", "int longest(std::vector<int>) { return 0; }"],
    ["graders/grader_config.json", "{}"],
    ["graders/Rise.java", "class Rise {}"],
]
RISE_CHECKER_FILES = [["checker/checker.cpp", RISE_CHECKER], ["checker/scores.h", "#define NEARLY 0.5\n"]]
RISE_TESTS = {
    "one": ["1\n5\n", "1\n"],
    "up": ["3\n1 2 3\n", "3\n"],
    "down": ["3\n3 2 1\n", "1\n"],
    "long": ["6\n1 2 1 2 3 4\n", "4\n"],
}


def rise_row(*test_names, **columns):
    test_names = list(test_names or RISE_TESTS)
    given = {"id": "rise", "test_names": test_names, "test_cases": [RISE_TESTS[name] for name in test_names]}
    limits = {"time_limit": 1.0, "memory_limit": 256 * MIB}
    return given | limits | {"grader_files": RISE_FILES + RISE_CHECKER_FILES} | columns


def ioi(programs, rows, **parameters):
    return ioi_code_reward([fenced(program, "cpp") for program in programs], **as_columns(rows), **parameters)


LOOP = """int longest(std::vector<int> heights) {
    int best = 1, now = 1;
    for (unsigned i = 1; i < heights.size(); ++i)
        best = std::max(best, now = heights[i] > heights[i - 1] ? now + 1 : 1);
    return best;
}"""
RIGHT = f'#include <algorithm>\n#include "rise.h"\n{LOOP}'
NEARLY = RIGHT.replace("return best", "return best - (best == 4)")
FIRST_TWO = '#include "rise.h"\nint longest(std::vector<int> heights) { return heights.size(); }'
LIES = (
    '#include <cstdio>\n#include <cstdlib>\n#include "rise.h"\nint longest(std::vector<int>) { puts("%s"); exit(0); }'
)
IOI_PROGRAMS = [  # program, test names of the subtask; value with the checker, without it
    (RIGHT, (), 1.0, 1.0),
    (f"#include <algorithm>\n{LOOP}", (), 1.0, 1.0),  # the header is included for it
    (NEARLY, (), 0.5, 0.0),
    (NEARLY, ("one", "up", "down"), 1.0, 1.0),
    (FIRST_TWO, ("one", "up"), 1.0, 1.0),
    (FIRST_TWO, ("one", "up", "down"), 0.0, 0.0),
    (RIGHT.replace("longest", "longer"), (), 0.0, 0.0),
    (f"{RIGHT}\nint main() {{}}", (), 0.0, 0.0),
    (LIES % "x", (), 0.0, 0.0),  # its output makes the checker crash
    (LIES % "1.0\\n", ("up",), 0.0, 0.0),
    ('#include "rise.h"\n#include <cstdlib>\nint longest(std::vector<int>) { exit(1); }', (), 0.0, 0.0),
    (f'#include "checker.cpp"\n{RIGHT}', (), 0.0, 0.0),
    ("<think>int longest", (), 0.0, 0.0),
]


@needs_cpp
@pytest.mark.parametrize("has_checker", [True, False])
def test_a_subtask_scores_what_its_worst_test_does(has_checker):
    files = RISE_FILES + RISE_CHECKER_FILES * has_checker
    programs = [program for program, *_ in IOI_PROGRAMS]
    rows = [rise_row(*names, grader_files=files) for _, names, *_ in IOI_PROGRAMS]
    notes = {}
    values = ioi(programs, rows, log_extra=notes.__setitem__)
    assert values == [case[2 if has_checker else 3] for case in IOI_PROGRAMS], notes
    if has_checker:
        assert notes["ioi_code_reason"][2] == "3 of 4 tests; first failure: test 4: the checker says 0.5"
        assert notes["ioi_code_reason"][5] == "2 of 3 tests; first failure: test 3: the checker says 0"
        assert "undefined reference" in notes["ioi_code_reason"][6]
        assert "an output that the checker cannot read" in notes["ioi_code_reason"][8]


@needs_cpp
def test_a_checker_that_is_broken_is_no_wrong_answer():
    broken = ("int main() { return 1; }", "int main() {", "int main() { __builtin_trap(); }")
    rows = [rise_row("up", grader_files=[*RISE_FILES, ["checker.cpp", code]]) for code in broken]
    assert ioi([RIGHT] * 3, rows) == [None] * 3


def test_a_checker_counts_if_all_that_it_includes_is_there():
    def checker_of(*files):
        return ioi_task(**rise_row(grader_files=[*RISE_FILES, *files])).checker

    testlib = ["checker/checker.cpp", '#include "testlib.h"\nint main() {}']
    assert ioi_task(**rise_row("up", test_cases=[["1", ""]])).checker is not None
    assert checker_of() is None
    assert checker_of(testlib) is None
    assert checker_of(["checker/checker.cpp", "#include <testlib.h>\n"]) is None
    assert checker_of(RISE_CHECKER_FILES[0]) is None
    assert checker_of(*RISE_CHECKER_FILES).files.keys() == {"rise.h", "scores.h"}
    assert checker_of(testlib, ["graders/testlib.h", "#include <vector>"]).files.keys() == {"rise.h", "testlib.h"}
    assert checker_of(testlib, ["checker/testlib.h", '#include "more.h"']) is None


def test_what_is_compiled_along():
    files = [*RISE_FILES, *RISE_CHECKER_FILES, ["graders/main.cpp", "// theirs"], ["graders/no.cpp", None]]
    task = ioi_task(**rise_row(grader_files=files))
    assert task.files == {"grader.cpp": GRADER, "rise.h": RISE_FILES[1][1], "grader_main.cpp": "// theirs"}
    assert ioi_task(**rise_row(id="other")).header is None
    assert ioi_task(**rise_row(id="RISE")).header == "rise.h"
    assert "rise.cpp" not in ioi_task(**rise_row(id="RISE")).files


REFUSED = [  # the row's columns, the line
    ({"official_tests": []}, r"official_tests: \[\]; without a test"),
    ({"official_tests": None}, "official_tests: None; without a test"),
    ({"official_tests": [{"input": "1"}]}, r"official_tests.0: \('1', None\) is no input and output"),
    ({"official_tests": [{"input": "", "output": " \n"}]}, "official_tests: none expects any output"),
    ({"official_tests": [{"input": "", "output": "\ud800"}]}, "official_tests.0: surrogates not allowed"),
    ({"official_tests": [{"input": "", "output": "x" * (17 * MIB)}]}, "official_tests.0: 17825792 bytes of output"),
    ({"time_limit": None}, "time_limit: None is no number of seconds"),
    ({"time_limit": 2000.0}, "time_limit: 2000.0 is not in seconds"),
    ({"time_limit": 0}, "time_limit: 0 is not in seconds"),
    ({"memory_limit": 256.0 * MIB}, "memory_limit: 268435456.0 is not in MB"),
    ({"memory_limit": float("nan")}, "memory_limit: nan is not in MB"),
    ({"input_mode": "network"}, "input_mode: 'network' is neither stdio nor file"),
    ({"generated_checker": "print("}, "generated_checker: it is no Python program"),
    ({"language": "java"}, "language: 'java' is none of python"),
    ({"language": None}, "language: None is none of python"),
]
REFUSED_IOI = [
    ({"test_names": []}, r"rise: test_names: \[\]; without a test"),
    ({"test_cases": [["1", "2"]]}, r"rise: test_cases: \[\['1', '2'\]\] is not one"),
    ({"test_cases": None}, "rise: test_cases: None is not one"),
    ({"test_cases": {"one": ["1", "2"]}}, "rise: test_cases.up: None is no input and output"),
    ({"memory_limit": 256}, "rise: memory_limit: 256 is not in bytes"),
    ({"time_limit": "1"}, "rise: time_limit: '1' is no number"),
    ({"grader_files": [["graders/manager.cpp", ""]]}, "rise: grader_files: graders/manager.cpp: its programs talk"),
    ({"grader_files": ["grader.cpp"]}, "rise: grader_files: 'grader.cpp' is no pair"),
    ({"test_names": ["a"], "test_cases": [["1", ""]], "grader_files": None}, "rise: test_cases: none expects any"),
    ({"id": None}, "None: id: None names no problem"),
]


@pytest.mark.parametrize(("columns", "line"), REFUSED)
def test_rows_that_nobody_can_judge_by_are_refused(columns, line):
    with pytest.raises(BadRow, match=f"^{line}"):
        codeforces_task(**row(**columns))


@pytest.mark.parametrize(("columns", "line"), REFUSED_IOI)
def test_subtasks_that_nobody_can_judge_by_are_refused(columns, line):
    with pytest.raises(BadRow, match=f"^{line}"):
        ioi_task(**rise_row(**columns))


LIMITS = [  # seconds and MB of the row, factor; CPU seconds and MB of the sandbox
    ((1.0, 256.0, 1.0), (1.0, 256)),
    ((0.5, 16.0, 1.0), (1.0, 256)),
    ((1.5, 257.0, 1.0), (2.0, 512)),
    ((5.0, 512.0, 1.0), (6.0, 512)),
    ((2.0, 1000.0, 2.5), (6.0, 1024)),
    ((60.0, 256.0, 10.0), (600.0, 256)),
]


@pytest.mark.parametrize(("asked", "given"), LIMITS)
def test_limits_are_those_of_the_row_rounded_up(asked, given):
    time_limit, memory_limit, factor = asked
    limits = codeforces_task(**row(time_limit=time_limit, memory_limit=memory_limit)).limits(factor)
    assert (limits["cpu_seconds"], limits["memory_bytes"]) == (given[0], given[1] * MIB)
    assert limits["wall_seconds"] == 2 * given[0] + 2
    assert limits | FILE_LIMITS == limits


@pytest.mark.parametrize(("length", "output_mib"), [(1, 1), (MIB // 2, 1), (MIB // 2 + 1, 16), (16 * MIB, 16)])
def test_an_output_may_be_longer_than_the_correct_one(length, output_mib):
    tests = [{"input": "", "output": "x" * length}, {"input": "", "output": ""}]
    assert codeforces_task(**row(official_tests=tests)).limits(1.0)["output_bytes"] == output_mib * MIB


class Recorded:
    """In the place of every sandbox: it gives what `answer` says to a program, and keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.calls, self.cpp_problem = answer, [], None

    def open(self, reward, name, allow_unsafe_local=False, **limits):
        if (name, allow_unsafe_local) != ("somewhere", True):
            raise RecipeError(f"{reward}: no sandbox {name}")
        sandbox = Recorded.Opened()
        sandbox.limits, sandbox.recorded = limits, self
        return sandbox

    class Opened:
        def run(self, programs):
            self.recorded.calls.append((self.limits, list(programs)))
            return [self.recorded.answer(program) for program in programs]

        def language_problem(self, language):
            return self.recorded.cpp_problem


SOMEWHERE = {"sandbox": "somewhere", "allow_unsafe_local": True}


@pytest.fixture
def recorded(monkeypatch):
    def put(answer):
        fake = Recorded(answer)
        monkeypatch.setattr(competition, "open_sandbox", fake.open)
        return fake

    return put


def printed(stdout, status="ok", stderr=b""):
    return Execution(status, 0 if status == "ok" else 1, stdout, stderr, 0.1, 0.1)


def numbered(count):
    return [{"input": str(number), "output": f"right {number}"} for number in range(count)]


def right_up_to(program):
    """Right in the tests before the number that is the program; with a broken sandbox in that one if it is negative."""
    last, number = int(program.source), int(program.stdin)
    if number == abs(last):
        return printed(b"wrong") if last >= 0 else infrastructure_error("connection lost")
    return printed(f"right {number}".encode())


def test_tests_go_in_rounds_that_double_until_one_fails(recorded):
    fake = recorded(right_up_to)
    rows = [row(official_tests=numbered(9))] * 4
    parameters = SOMEWHERE | {"scoring_mode": "pass_fail", "test_batch_size": 2}
    assert cf(["0", "1", "3", "99"], rows, **parameters) == [0.0, 0.0, 0.0, 1.0]
    asked = [[(program.source, program.stdin) for program in programs] for _, programs in fake.calls]
    assert asked == [
        [(source, number) for source in ("0", "1", "3", "99") for number in "01"],
        [(source, number) for source in ("3", "99") for number in "2345"],
        [("99", number) for number in "678"],
    ]


@pytest.mark.parametrize("mode", ["partial", "weighted_sum"])
def test_all_tests_go_in_one_call_where_each_counts(mode, recorded):
    fake = recorded(right_up_to)
    rows = [row(official_tests=numbered(9)), row(official_tests=numbered(3))]
    values = cf(["0", "2"], rows, scoring_mode=mode, **SOMEWHERE)
    assert values == pytest.approx([8 / 9, 2 / 3] if mode == "partial" else [0.1 * 8 / 9, 0.1 * 2 / 3])
    assert [len(programs) for _, programs in fake.calls] == [12]


def test_one_sandbox_for_each_limits_and_one_run_for_what_is_the_same(recorded):
    fake = recorded(right_up_to)
    rows = [row(official_tests=numbered(2), time_limit=seconds) for seconds in (1.0, 3.0, 2.5, 1.0)]
    assert cf(["9"] * 4, rows, scoring_mode="partial", time_limit_factor=2.0, **SOMEWHERE) == [1.0] * 4
    assert [(limits["cpu_seconds"], len(programs)) for limits, programs in fake.calls] == [(2.0, 2), (6.0, 2)]


def test_a_call_is_not_larger_than_a_sandbox_can_take(recorded, monkeypatch):
    monkeypatch.setattr(competition, "MAX_CALL_BYTES", MIB + 10)  # as long as one output may be, and two inputs
    fake = recorded(lambda program: printed(b"1"))
    tests = [{"input": str(number) * 5, "output": "1"} for number in range(5)]
    assert cf(["x"], [row(official_tests=tests)], scoring_mode="partial", **SOMEWHERE) == [1.0]
    assert [len(programs) for _, programs in fake.calls] == [2, 2, 1]
    fake = recorded(lambda program: printed(b"", "runtime_error", b"main.cpp:1:1: error: x"))
    assert cf(["x"], [row(official_tests=tests, language="cpp")], **SOMEWHERE) == [-0.1]
    assert [len(programs) for _, programs in fake.calls] == [2]


BROKEN = [  # program, pass_fail, partial, weighted_sum: the sandbox fails in the test of that number
    ("9", 1.0, 1.0, 1.1),
    ("-2", None, None, None),
    ("1", 0.0, 0.75, 0.075),
]


@pytest.mark.parametrize(("index", "mode"), enumerate(("pass_fail", "partial", "weighted_sum"), start=1))
def test_a_sandbox_that_fails_is_no_wrong_answer(index, mode, recorded):
    recorded(right_up_to)
    notes, metrics = {}, {}
    logs = {"log_extra": notes.__setitem__, "log_metric": metrics.__setitem__}
    rows = [row(official_tests=numbered(4))] * len(BROKEN)
    values = cf([case[0] for case in BROKEN], rows, scoring_mode=mode, **SOMEWHERE, **logs)
    assert values == pytest.approx([case[index] for case in BROKEN])
    assert metrics["cf_code/judge_failed_share"] == pytest.approx(1 / 3)
    assert notes["cf_code_reason"][1].endswith("first failure: test 3: infrastructure_error: connection lost")


def test_a_test_that_is_surely_failed_outweighs_a_broken_sandbox(recorded):
    recorded(lambda program: infrastructure_error("lost") if program.stdin == "0" else printed(b"wrong"))
    rows = [row(official_tests=numbered(3))]
    assert cf(["x"], rows, scoring_mode="pass_fail", **SOMEWHERE) == [0.0]
    subtask = rise_row("one", "up", grader_files=RISE_FILES)
    assert ioi(
        ["x", "x"], [subtask | {"test_cases": [[str(n), "1"] for n in (0, m)]} for m in (0, 1)], **SOMEWHERE
    ) == [
        None,
        0.0,
    ]


def test_what_is_expected_never_goes_where_the_program_is(recorded):
    fake = recorded(lambda program: printed(b"out of the policy" if program.source == "x" else b"1"))
    tests = [{"input": "in", "output": "EXPECTED"}]
    rows = [SPLITS_ROW | {"official_tests": tests, "input_mode": mode} for mode in ("stdio", "file")]
    assert cf(["x"] * 2, [rows[0], rows[1] | {"generated_checker": ""}], scoring_mode="partial", **SOMEWHERE)[0] == 1.0
    assert ioi(["x"], [rise_row("up") | {"test_cases": [["in", "EXPECTED"]]}], **SOMEWHERE) == [1.0]
    for limits, programs in fake.calls:
        shown = [repr(program) for program in programs]
        if limits == CHECKER_LIMITS:
            assert [program.files["correct_output.txt"] for program in programs] == [b"EXPECTED"]
            assert [program.files["input.txt"] for program in programs] == ["in"]
        else:
            assert not any("EXPECTED" in text or "checker" in text for text in shown)
    assert [limits == CHECKER_LIMITS for limits, _ in fake.calls] == [False, True, False, True]


def test_a_source_that_does_not_compile_is_told_from_a_program_that_fails(recorded):
    words = {"compiler": b"main.cpp:1:1: error: x", "program": RAN.encode() + b"error: x\n"}
    recorded(lambda program: printed(b"", "runtime_error", words[program.source]))
    notes = {}
    rows = [row(language="cpp", official_tests=numbered(1))] * 2
    values = cf(list(words), rows, scoring_mode="pass_fail", log_extra=notes.__setitem__, **SOMEWHERE)
    assert values == [-0.1, 0.0]
    assert notes["cf_code_reason"] == [
        "it does not compile: main.cpp:1:1: error: x",
        "0 of 1 tests; first failure: test 1: runtime_error: error: x",
    ]


def test_rows_that_slipped_through_the_check_are_no_wrong_answer(recorded):
    fake = recorded(right_up_to)
    metrics, notes = {}, {}
    logs = {"log_extra": notes.__setitem__, "log_metric": metrics.__setitem__}
    rows = [row(official_tests=[]), row(official_tests=numbered(1)), row(time_limit=None)]
    assert cf(["9", "9", "<think>"], rows, scoring_mode="partial", **SOMEWHERE, **logs) == [None, 1.0, None]
    assert notes["cf_code_reason"][0].startswith("the row is refused: official_tests: []; without a test")
    assert metrics["cf_code/refused_row_share"] == pytest.approx(2 / 3)
    assert metrics["cf_code/judge_failed_share"] == 0.0
    assert len(fake.calls) == 1
    assert ioi(["x"], [rise_row(memory_limit=256)], **SOMEWHERE) == [None]


@pytest.mark.parametrize("reward", [cf_code_reward, ioi_code_reward])
@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"sandbox": "elsewhere"}, "no sandbox elsewhere"),
        ({"test_batch_size": 0}, "test_batch_size is 0; give 1 or more"),
        ({"time_limit_factor": 0.0}, "time_limit_factor is 0.0; give more than 0"),
        ({"time_limit_factor": float("nan")}, "time_limit_factor is nan; give more than 0"),
    ],
)
def test_what_cannot_be_is_said_before_there_is_anything_to_judge(reward, parameters, line, recorded):
    recorded(right_up_to)
    name = reward.__name__.removesuffix("_reward")
    columns = {column: [] for column in columns_of_reward(Reward(name=name))}
    assert reward([], **columns, **SOMEWHERE) == []
    with pytest.raises(RecipeError, match=f"^{name}: {line}"):
        reward([], **columns, **SOMEWHERE | parameters)


def test_a_sandbox_without_cpp_cannot_judge_ioi(recorded):
    recorded(right_up_to).cpp_problem = "g++ is not installed, which compiles cpp"
    with pytest.raises(RecipeError, match=r"^ioi_code: g\+\+ is not installed"):
        ioi_code_reward([], [], [], [], [], [], [], **SOMEWHERE)


def test_a_recipe_names_them_and_data_gives_their_columns():
    assert (REWARDS["cf_code"], REWARDS["ioi_code"]) == (cf_code_reward, ioi_code_reward)
    assert columns_of_reward(Reward(name="cf_code")) == list(row())
    assert columns_of_reward(Reward(name="ioi_code")) == list(rise_row())
    assert {"scoring_mode", "no_compile_reward", "test_batch_size"} <= set(settable_parameters("cf_code"))


def test_tests_of_a_data_set_of_their_own():
    from datasets import Dataset

    problems = Dataset.from_list([{"id": "a", "test_names": ["1", "2"]}, {"id": "b", "test_names": ["1", "9"]}])
    names = [("a", "2"), ("b", "1"), ("a", "1"), ("c", "1")]
    tests = Dataset.from_list(
        [{"problem_id": i, "test_name": n, "test_input": f"in {i}{n}", "test_output": f"out {i}{n}"} for i, n in names]
    )
    assert with_test_cases(problems, tests)["test_cases"] == [
        [["in a1", "out a1"], ["in a2", "out a2"]],
        [["in b1", "out b1"], None],
    ]


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ({"name": "cf_code", "scoring_mode": "pass_fail", "no_compile_reward": 0}, None),
        pytest.param({"name": "ioi_code", "time_limit_factor": 2.5}, None, marks=needs_cpp),
        ({"name": "cf_code", "scoring_mode": "all"}, "rewards.0.scoring_mode: unknown scoring_mode 'all'"),
        ({"name": "cf_code", "sandbox": "locla"}, "rewards.0: cf_code: unknown sandbox 'locla'"),
        ({"name": "ioi_code", "test_batch_size": 0}, "rewards.0: ioi_code: test_batch_size is 0"),
        ({"name": "ioi_code", "no_compile_reward": 0.0}, "rewards.0.no_compile_reward: unknown parameter"),
    ],
)
def test_a_recipe_that_asks_for_them_is_checked(reward, line, write_recipe):
    file = write_recipe(
        step="grpo",
        model={"name": "someone/some-model"},
        data=[{"path": "rows.jsonl"}],
        trainer={**CPU_TRAINER, "num_generations": 4, "per_device_train_batch_size": 4},
        rewards=[reward],
    )
    (file.parent / "rows.jsonl").write_text(json.dumps({"prompt": "?"} | row() | rise_row()) + "\n")
    if line is None:
        check_recipe(load_recipe(file))
    else:
        with pytest.raises(RecipeError, match=line):
            check_recipe(load_recipe(file))
