"""Tables for the judge of programs: attempts to be rewarded without solving the task, and what the judge decides."""

SECRET = "k5309-answer"  # what the programs that search for it should not find

# Rows, and for each an honest program that passes all of its tests.
ROWS = {
    "prints": {
        "language": "python",
        "test_cases": [{"type": "stdin_stdout", "input": "3\n", "output": f"1\n2\n3\n{SECRET}\n"}],
    },
    "calls": {
        "language": "python",
        "test_cases": [
            {"type": "function_call", "fn_name": "f", "input": [[3, 1, 2]], "output": [1, 2, 3, SECRET]},
            {"type": "function_call", "fn_name": "f", "input": [[]], "output": [SECRET]},
        ],
    },
    "squares": {
        "language": "python",
        "test_cases": [{"type": "function_call", "fn_name": "f", "input": [12], "output": 144}],
    },
    "asserts": {
        "language": "python",
        "test_cases": [
            {"type": "assert", "assert": "assert f(12) == 144"},
            {"type": "assert", "assert": "assert abs(f(0.5) - 0.25) < 1e-9\nassert f(13) == 169, 'no'"},
            {"type": "assert", "assert": "assert sorted(f([3, 1])) == [1, 9] and len(f([2])) == 1"},
            {"type": "assert", "assert": f"expected = '{SECRET}'\nassert f('') == expected"},
        ],
    },
    "sorts": {
        "language": "python",
        "test_cases": [{"type": "assert", "assert": "x = [3, 1]\nassert g(x) == [1, 3]\nassert x != g([2, 5])"}],
    },
    "checked": {
        "language": "python",
        "test_cases": [{"type": "stdin_stdout", "input": "10\n", "output": "3 7\n"}],
        "checker_code": """import sys
total = int(open(sys.argv[1]).read())
theirs = open(sys.argv[3]).read()
words = [int(word) for word in theirs.split()]
if len(words) != 2:
    print("two numbers are wanted, not", theirs)
else:
    print(int(sum(words) == total and 0 not in words))
""",
    },
}
HONEST = {
    "prints": f"n = int(input())\nfor i in range(n):\n    print(i + 1)\nprint('{SECRET}')",
    "calls": f"def f(numbers):\n    print('noise')\n    return sorted(numbers) + ['{SECRET}']",
    "squares": "class Solution:\n    def f(self, n):\n        return n * n",
    "asserts": "def f(x):\n    if isinstance(x, list):\n        return [f(i) for i in x]\n"
    f"    return '{SECRET}' if x == '' else x * x",
    "sorts": "g = sorted",
    "checked": "n = int(input())\nprint(4, n - 4)",
}

SEARCH = r"""
import gc, glob, os, re, sys
pattern = re.compile("k[0-9]{4}-" + "answer")
def found(texts):
    for text in texts:
        match = pattern.search(text if isinstance(text, str) else repr(text))
        if match:
            return match.group()
    return ""
"""
LIAR = """
class Liar(%s):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __gt__(self, other): return True
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __contains__(self, item): return True
    def __len__(self): return 1
    def __bool__(self): return True
    def __hash__(self): return 0
"""

WRITE_NOTHING = """import os
for fd in range(3, 64):
    try:
        os.write(fd, b"[]")
        os._exit(0)
    except OSError:
        pass
"""

ATTEMPTS = [  # name, row, program
    # text that is nearly what is expected
    ("a prefix of the lines", "prints", "print(1)\nprint(2)\nprint(3)"),
    ("a line too many", "prints", HONEST["prints"] + "\nprint(4)"),
    ("all in one line", "prints", f"print(1, 2, 3, '{SECRET}')"),
    ("nothing", "prints", "pass"),
    ("many guesses", "prints", "for i in range(9999):\n    print(i)"),
    ("a carriage return hides the rest", "prints", f"print('1\\n2\\n3\\n{SECRET}\\n4\\r', end='')"),
    ("the answer and a crash", "prints", HONEST["prints"] + "\nimport sys\nsys.stdout.flush()\n1 / 0"),
    ("the answer and exit code 1", "prints", HONEST["prints"] + "\nraise SystemExit(1)"),
    ("the answer on stderr", "prints", "import sys\nsys.stdout = sys.stderr\n" + HONEST["prints"]),
    ("the answer after a flood", "prints", "print('x' * 9000000)\n" + HONEST["prints"]),
    ("letters that look alike", "prints", HONEST["prints"].replace("5309", "53\N{FULLWIDTH DIGIT ZERO}9")),
    ("another encoding", "prints", f"import sys\nsys.stdout.reconfigure(encoding='utf-16')\n{HONEST['prints']}"),
    ("the input again", "prints", "print(input())"),
    # ending early, and verdicts of one's own
    ("os._exit(0)", "prints", "import os\nos._exit(0)"),
    ("sys.exit(0)", "calls", "import sys\nsys.exit(0)"),
    ("os._exit(0) in the module", "calls", "import os\nos._exit(0)"),
    ("os._exit(0) in the function", "squares", "import os\ndef f(n):\n    os._exit(0)"),
    ("sys.exit(0) in the function", "asserts", "def f(n):\n    raise SystemExit(0)"),
    ("a verdict in words", "prints", "print('ok')\nprint('passed')\nprint('{\"status\": \"ok\", \"passed\": true}')"),
    ("a verdict as the result", "squares", "def f(n):\n    return {'passed': True}"),
    ("the number of asserts", "asserts", "def f(n):\n    return True"),
    ("an exception as the result", "asserts", "def f(n):\n    return AssertionError"),
    (
        "an AssertionError that is caught",
        "asserts",
        "import sys\nsys.excepthook = lambda *_: None\ndef f(n):\n    assert False",
    ),
    ("exit code 0 from a handler", "squares", "import atexit, os\natexit.register(os._exit, 0)\ndef f(n):\n    1 / 0"),
    # writing where the result is written
    (
        "a forged result on every descriptor",
        "squares",
        """import os
for fd in range(64):
    try:
        os.write(fd, b"[true]")
    except OSError:
        pass
os._exit(0)
""",
    ),
    (
        "a forged result without a value",
        "squares",
        WRITE_NOTHING,
    ),
    (
        "a forged result without values",
        "asserts",
        WRITE_NOTHING,
    ),
    (
        "a result in front of the result",
        "squares",
        """import os
for fd in range(3, 64):
    try:
        os.write(fd, b'[["int", "0x91"]]')
    except OSError:
        pass
def f(n):
    return 0
""",
    ),
    ("a class named in the result", "squares", "def f(n):\n    return ['int', '0x90']"),
    (
        "a thread that writes results",
        "squares",
        """import os, threading, time
def write():
    while True:
        for fd in range(3, 16):
            try:
                os.write(fd, b"true")
            except OSError:
                pass
threading.Thread(target=write, daemon=True).start()
def f(n):
    time.sleep(0.05)
    return 0
""",
    ),
    ("a process that goes on", "squares", "import os\nif os.fork():\n    os._exit(0)\ndef f(n):\n    return 0"),
    # objects that say they are equal
    ("an object equal to all", "squares", LIAR % "object" + "def f(n):\n    return Liar()"),
    ("an object equal to all, in asserts", "asserts", LIAR % "object" + "def f(n):\n    return Liar()"),
    ("a number equal to all", "squares", LIAR % "int" + "def f(n):\n    return Liar(3)"),
    ("a number equal to all, in asserts", "asserts", LIAR % "float" + "def f(n):\n    return Liar(3)"),
    ("a list equal to all", "calls", LIAR % "list" + "def f(n):\n    return Liar()"),
    ("a list equal to all, in asserts", "asserts", LIAR % "list" + "def f(n):\n    return Liar()"),
    ("a text equal to all", "asserts", LIAR % "str" + "def f(n):\n    return Liar()"),
    ("a tuple equal to all", "sorts", LIAR % "tuple" + "def g(n):\n    return Liar()"),
    (
        "a class that says it is another",
        "squares",
        LIAR % "object" + "Liar.__class__ = int\ndef f(n):\n    return Liar()",
    ),
    (
        "a metaclass that lies",
        "squares",
        "class Meta(type):\n    __mro__ = property(lambda self: (self, tuple, object))\n    __name__ = 'int'\n"
        "    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
        "class Liar(metaclass=Meta):\n    pass\ndef f(n):\n    return Liar()",
    ),
    ("not a number", "asserts", "def f(n):\n    return float('nan')"),
    ("infinity", "asserts", "def f(n):\n    return float('inf')"),
    ("the square as a float", "squares", "def f(n):\n    return 144.0"),
    ("the square as a text", "squares", "def f(n):\n    return '144'"),
    ("the square in a list", "squares", "def f(n):\n    return [144]"),
    ("all that it may be", "squares", "def f(n):\n    return range(100000)"),
    ("nothing, and everything in it", "asserts", "def f(n):\n    return iter(range(10**9))"),
    ("a list that contains itself", "calls", "def f(n):\n    n.append(n)\n    return n"),
    # other builtins
    (
        "builtins that say yes",
        "asserts",
        "import builtins\nfor name in ('abs', 'len', 'sorted', 'all', 'any', 'isinstance', 'hex', 'float', 'eval'):\n"
        "    setattr(builtins, name, lambda *_: True)\ndef f(n):\n    return 0",
    ),
    ("another type()", "squares", "import builtins\nbuiltins.type = lambda value: int\ndef f(n):\n    return 'x'"),
    (
        "another hex()",
        "squares",
        "import builtins\nbuiltins.hex = lambda value: '0x' + '9' * 9\ndef f(n):\n    return 3",
    ),
    (
        "another json",
        "squares",
        "import json\njson.dumps = lambda value: 'true'\njson.encoder.c_make_encoder = None\n"
        "json.JSONEncoder.encode = lambda self, value: '[true]'\ndef f(n):\n    return 3",
    ),
    (
        "another os.write",
        "squares",
        "import os\nos.write = lambda fd, text: len(text)\nos._exit = exit\ndef f(n):\n    return 3",
    ),
    (
        "the judge's own function replaced",
        "squares",
        "import __main__, sys\n__main__.run_test = lambda *_: None\nsys.modules['__main__'].run_test = print\n"
        "def f(n):\n    return __main__.run_test",
    ),
    (
        "the judge's frame rewritten",
        "squares",
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for name in list(frame.f_globals):\n"
        "        if name.startswith('run'):\n            frame.f_globals[name] = None\n    frame = frame.f_back\n"
        "sys.settrace(lambda *_: None)\ndef f(n):\n    return 3",
    ),
    ("the argument made equal to the answer", "sorts", "def g(x):\n    x.clear()\n    return x"),
    # looking for the answer
    (
        "the judge's frames",
        "calls",
        SEARCH + "def f(n):\n    frame, texts = sys._getframe(), []\n    while frame:\n"
        "        texts += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]\n        frame = frame.f_back\n"
        "    return sorted(n) + [found(texts)]",
    ),
    ("all objects", "calls", SEARCH + "def f(n):\n    return sorted(n) + [found(gc.get_objects())]"),
    (
        "the judge's source",
        "asserts",
        SEARCH + "import __main__, inspect, linecache\ndef f(n):\n"
        "    return found([linecache.cache, vars(__main__), [frame.code_context for frame in inspect.stack(9)]])",
    ),
    (
        "files and environment",
        "prints",
        SEARCH + "texts = [dict(os.environ), sys.argv]\n"
        "for path in glob.glob('**', recursive=True) + glob.glob('/tmp/**', recursive=True) + glob.glob('/proc/*/*'):\n"
        "    try:\n        texts.append(open(path, errors='replace').read(9999))\n    except OSError:\n        pass\n"
        "print('1\\n2\\n3')\nprint(found(texts))",
    ),
    (
        "memory",
        "prints",
        SEARCH
        + """
texts = []
for pid in ("self", os.getppid(), 1):
    try:
        memory = open(f"/proc/{pid}/mem", "rb")
        for line in open(f"/proc/{pid}/maps"):
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if "rw-p" in line and end - start < 1 << 24:
                memory.seek(start)
                texts.append(memory.read(end - start).decode("latin-1"))
    except OSError:
        pass
print("1\\n2\\n3")
print(found(texts))
""",
    ),
    (
        "descriptors",
        "prints",
        SEARCH + "texts = []\nfor fd in range(3, 64):\n    try:\n        texts.append(os.pread(fd, 9999, 0).decode())\n"
        "    except OSError:\n        pass\nprint('1\\n2\\n3')\nprint(found(texts))",
    ),
    # checkers
    ("the checker's verdict", "checked", "print(1)"),
    ("the checker's verdict on a last line", "checked", "print('0 0')\nprint(1)"),
    ("what the checker repeats", "checked", "print('3 7 0\\n1')"),
    ("what the checker cannot read", "checked", "print('seven')"),
    ("no text at all", "checked", "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')"),
    (
        "files for the checker",
        "checked",
        "open('correct_output.txt', 'w').write('1')\nopen('input.txt', 'w').write('0')\nprint('0 0')",
    ),
    ("the answer, and a crash before the checker", "checked", "print('4 6')\nraise SystemExit(2)"),
]

ENDLESS = "while True: pass"

HONEST_STYLES = [  # programs that square a number, in all the ways that people write
    "f = lambda n: n * n",
    "def f(n: int) -> int:\n    return pow(n, 2)\n\nif __name__ == '__main__':\n    print(f(int(input())))",
    """from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Number:
    n: int

def f(n):
    return Number(n).n ** 2
""",
    "import sys\nsys.setrecursionlimit(10**6)\ndef f(n):\n    return n + n - 1 + f(n - 1) if n else 0",
    "from functools import cache\n@cache\ndef f(n):\n    print('squaring', n)\n    return sum(n for _ in range(n))",
    """from concurrent.futures import ThreadPoolExecutor
def f(n):
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda i: 2 * i + 1, range(n)))
""",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(999,)).start()\ndef f(n):\n    return n * n",
    """import sys
def f(n):
    sys.stdout.write("x" * 100000)
    sys.stderr.write("y")
    sys.stdout.close()
    return n * n
""",
    "import numpy as np\ndef f(n):\n    return np.square(np.int64(n))",
    "import json as dumps\nos = loads = list = hex = type = None\ndef f(n):\n    return n * n",
    "class Solution:\n    def __init__(self):\n        self.n = 2\n    def f(self, n):\n        return n ** self.n",
    "class Solution:\n    @staticmethod\n    def f(n):\n        return n * n",
    "class Solution:\n    pass\ndef f(n):\n    return n * n",
    "def f(n, print=print):\n    '''A backslash \\, quotes \"\"\" and \N{SNOWMAN}.'''\n    return n * n",
]

OUTPUTS = [  # stdout, expected, checker, right
    (b"1\n2\n3\n", "1\n2\n3", "lines", True),
    (b"1\n2\n3", "1\n2\n3\n", "lines", True),
    (b"1 \n2\t\n3\n\n \n", "1\n2\n3", "lines", True),
    (b"1\r\n2\r\n", "1\n2\n", "lines", True),
    (b"", "\n", "lines", True),
    (b"1", "1\n2\n3", "lines", False),
    (b"1\n2\n3\n4", "1\n2\n3", "lines", False),
    (b"\n1", "1", "lines", False),
    (b" 1", "1", "lines", False),
    (b"1  2", "1 2", "lines", False),
    (b"1\n\n2", "1\n2", "lines", False),
    (b"1\r2", "1\n2", "lines", False),
    (b"1\x0b2", "1\n2", "lines", False),
    (b"1.0", "1", "lines", False),
    (b"yes", "YES", "lines", False),
    (b"", "0", "lines", False),
    (b"1\x00", "1", "lines", False),
    ("é".encode(), "é", "lines", True),
    ("é".encode("latin-1"), "é", "lines", False),
    ("e\N{COMBINING ACUTE ACCENT}".encode(), "é", "lines", False),
    (b"\xef\xbb\xbf1", "1", "lines", False),
    ("1\N{NO-BREAK SPACE}".encode(), "1", "lines", False),
    (b"yes", "YES", "case_insensitive", True),
    (b"yes\nno", "YES", "case_insensitive", False),
    (b"2\n1\n", "1\n2\n", "any_order", True),
    (b"2\n1\n1\n", "1\n2\n", "any_order", False),
    (b"2\n2\n", "1\n2\n", "any_order", False),
    (b"1\n 2\t3", "1 2\n3", "tokens", True),
    (b"1 2 3 4", "1 2\n3", "tokens", False),
    (b"12", "1 2", "tokens", False),
    (b"0.333333333 x", "0.3333333333 x", "floats", True),
    (b"0.34 x", "0.3333333333 x", "floats", False),
    (b"0.34", "0.3333333333", {"name": "floats", "abs_tolerance": 0.01}, True),
    (b"1000001", "1000000", {"name": "floats", "abs_tolerance": 0, "rel_tolerance": 1e-5}, True),
    (b"nan", "0.5", "floats", False),
    (b"nan", "nan", "floats", True),
    (b"inf", "1e400", "floats", False),
    (b"1e999", "5", "floats", False),
    (b"5_0", "50", "floats", False),
    (b"0x32", "50", "floats", False),
    (b"0.5 0.5", "0.5", "floats", False),
]

PROGRAMS = [  # completion, language, the program that is run; None if there is none
    ("```python\nprint(1)\n```", "python", "print(1)"),
    ("```py\nprint(1)\n```", "python", "print(1)"),
    ("```Python3 title\nprint(1)\n```", "python", "print(1)"),
    ("```\nprint(1)\n```", "python", "print(1)"),
    ("print(1)", "python", "print(1)"),
    ("so:\n```py\nprint(1)\n```\nor:\n```python\nprint(2)\n```\ndone", "python", "print(2)"),
    ("```py\nprint(1)\n```\n```text\n1\n```", "python", "print(1)"),
    ("```py\nprint(1)\n```\n```\nprint(2)\n```", "python", "print(2)"),
    ("<think>```py\nprint(1)\n```</think>```py\nprint(2)\n```", "python", "print(2)"),
    ("<think>\n```py\nprint(1)\n```\n</think>\nno", "python", "\nno"),
    ("<think>\n```py\nprint(1)\n```", "python", None),
    ("<think></think><answer>```py\nprint(1)\n```</answer>", "python", "print(1)"),
    ("<answer>print(1)</answer>", "python", "print(1)"),
    ("```py\nprint(1)\n```\n<answer>see above</answer>", "python", "print(1)"),
    ("```py\nprint(2)\n```\n<answer>\n```py\nprint(1)\n```\n</answer>", "python", "print(1)"),
    ("````py\nprint('''\n```\n''')\n````", "python", "print('''\n```\n''')"),
    ("```cpp\nint main() {}\n```", "python", None),
    ("```cpp\nint main() {}\n```", "cpp", "int main() {}"),
    ("```c++\nint main() {}\n```", "cpp", "int main() {}"),
    ("```\nint main() {}\n```", "cpp", "int main() {}"),
    ("```python\nprint(1)", "python", None),
    ("```python\n\n```", "python", None),
    ("", "python", None),
    ("<think></think> \n", "python", None),
]

SPLITS = [  # assert, what goes inside
    ("assert f(2) == 4", ["show f(2)"]),
    ("assert f(2) == 4, 'the square'", ["show f(2)"]),
    ("assert 4 == f(2)", ["show f(2)"]),
    ("assert f(2) in (4, 5)", ["show f(2)"]),
    ("assert not f(2)", ["show f(2)"]),
    ("assert f(2) is True", ["show f(2)"]),
    ("assert f(2) is not None and f(2) > 3", ["show f(2)", "show f(2)"]),
    ("assert f(g(2), n=[3]) == {'a': 1}", ["show f(g(2), n=[3])"]),
    ("assert f(2) + g(3) == 7", ["show f(2)", "show g(3)"]),
    ("assert abs(f(2) - 4.0) < 1e-6", ["show f(2)"]),
    ("assert round(f(2), 2) == 4.25", ["show f(2)"]),
    ("assert sorted(f([3, 1])) == sorted([1, 3])", ["show f([3, 1])"]),
    ("assert set(f([3, 1])) == {1, 3}", ["show f([3, 1])"]),
    ("assert f(2)[0] == 'a' and len(f(2)) == 3", ["show f(2)", "show f(2)"]),
    ("assert f(2).startswith('ans')", ["show f(2)"]),
    ("assert f('a').upper() == 'ANSWER'", ["show f('a')"]),
    ("assert isinstance(f(2), (int, float)) and f(2) > 3", ["show f(2)", "show f(2)"]),
    ("for i in (1, 2):\n    x = [i]\nassert f(x, i) == 3", ["show f([2], 2)"]),
    ("assert len(Box(2).items) == 4", ["show Box(2).items"]),
    ("import os.path\nassert f(os.path.sep) == 4", ["do import os.path", "show f(os.path.sep)"]),
    ("import math\nassert math.isclose(f(2), math.pi, rel_tol=1e-9)", ["do import math", "show f(2)"]),
    ("from math import isclose\nassert isclose(f(2), 4.5)", ["do from math import isclose", "show f(2)"]),
    ("from solution import f\nassert f(2) == 4", ["show f(2)"]),
    ("from math import isclose, pi\nassert isclose(f(2), pi)", ["do from math import isclose, pi", "show f(2)"]),
    ("x = [3, 1]\nexpected = [1, 3]\nassert f(x) == expected", ["show f([3, 1])"]),
    ("a, b = 1, [2]\nassert f(a, b) == b", ["show f(1, [2])"]),
    ("x = float('inf')\nassert f(x) == x", ["show f(float('inf'))"]),
    ("x = 3\nassert f(lambda x: x + 1) == 4", ["show f(lambda x: x + 1)"]),
    ("r = f(2)\nassert r == 4", ["do r = f(2)", "show r"]),
    ("r = f(2)\nassert g(r) == 4", ["do r = f(2)", "show g(r)"]),
    ("r = f(2) == 4\nassert r", ["show f(2)"]),
    ("r = sorted(f(2))\nassert r == [4]", ["show f(2)"]),
    ("a, b = f(2)\nassert a == 1 and b == 2", ["do a, b = f(2)", "show a", "show b"]),
    ("s = Stack()\ns.push(7)\nassert s.pop() == 5", ["do s = Stack()", "do s.push(7)", "show s.pop()"]),
    ("assert Solution().f(2) == 4", ["show Solution().f(2)"]),
    ("assert Solution().f(2).count('a') == 4", ["show Solution().f(2)"]),
    ("assert all(f(i) == i * i for i in range(1, 3))", ["show f(1)", "show f(2)"]),
    ("assert [f(a) for a, _ in [(1, 5), (2, 6)]] == [5, 6]", ["show f(1)", "show f(2)"]),
    ("for a, b in [(1, 5), (2, 6)]:\n    assert f(a) == b", ["show f(1)", "show f(2)"]),
    ("assert all(x > 0 for x in f(3))", ["show f(3)"]),
    ("assert sum(1 for x in f(3) if x > 1) == 2", ["show f(3)"]),
]

REFUSED_ASSERTS = [  # assert, words of the reason
    ("assert f(2) ==", "it is no Python"),
    ("f(2)", "it has no assert"),
    ("assert True", "calls nothing of the program"),
    ("x = [1]\nassert x == [1]", "calls nothing of the program"),
    ("assert (f(2), 4)", "it always holds"),
    ("assert f(2) or True", "passes whatever the program returns"),
    ("assert f(2) == f(3)", "passes whatever the program returns"),
    ("assert f(2) is 4", "`is` is for None"),
    ("assert f(2) == Counter([4])", "passes whatever"),
    ("from collections import Counter\nassert Counter(f(2)) == Counter([4])", "not known outside"),
    ("import numpy as np\nassert f(np.zeros(3)) == 4", "no module of the standard library"),
    ("assert f(2).__eq__(4)", "would give the comparison to the program"),
    ("assert f(2).equals(4)", "would take what is expected inside"),
    ("r = f(2)\nr.append(4)\nassert r == [4]", "would take what is expected inside"),
    ("s = Stack()\nassert s.startswith('answer')", "of the program's, or of a string"),
    ("r = sorted(f(2))\nassert g(r) == 4", "known outside of the program alone"),
    ("assert sorted(f(2), key=len) == [4]", "such an argument of sorted"),
    ("assert eval('4') == f(2)", "not known outside"),
    ("assert f(2) == open('x').read()", "such a call is not known"),
    ("assert f(2) == 9 ** 9 ** 9", "grows too large"),
    ("assert f(2) == 'a' * 10 ** 9", "grows too large"),
    ("assert f(2) == 1 / 0", "division by zero"),
    ("assert all(f(i) for i in range(10 ** 4))", "more than 2000 calls"),
    ("assert isinstance(f(2), Point)", "no builtin"),
    ("assert f(2) == x", "known neither outside nor"),
    ("def check(f):\n    assert f(2) == 4\ncheck(f)", "neither an assert nor"),
    ("try:\n    f(2)\nexcept ValueError:\n    pass", "neither an assert nor"),
    ("abs = f(1)\nassert abs(f(2)) == 4", "is a name of Python's"),
    ("assert (y := f(2)) == 4", "known neither outside nor"),
    ("assert abs(f(2) - ref(2)) < 1e-6", "passes whatever the program returns, if it is of a kind (bool)"),
    ("assert f(2) == 'a%s' % 3", "% on text is not known"),
    ("from math import floor as isclose\nassert isclose(f(2)) == 4", "is a name of Python's"),
    ("from cmath import isclose\nassert isclose(f(2), 4)", "is a name of Python's"),
    ("from math import floor as abs\nassert abs(f(2)) == 4", "is a name of Python's"),
    ("assert f(y := 2) == 4", "is not known here"),
    ("assert f(2) is not None", "passes whatever the program returns"),
    ("assert isinstance(f(2), list)", "passes whatever the program returns, if it is of a kind (list)"),
    ("assert isclose(f(2), 4.5)", "a function of the program's would be its judge"),
    ("assert not differ(f(2), 4.5)", "a function of the program's would be its judge"),
    ("assert g(1) == 2 and isclose(f(2), 4.5) is True", "a function of the program's would be its judge"),
    ("assert all(isclose(f(a), b) for a, b in [(1, 2), (3, 4)])", "a function of the program's would be its judge"),
    ("from math import *\nassert isclose(f(2), 4.5)", "name what is imported"),
    ("from solution import f as g\nassert g(2) == 4", "no module of the standard library"),
    ("assert [f(2), 4].pop() == 4", "would take what is expected inside"),
    ("assert (f(2) == 4).real == 1", "known neither outside nor"),
]
