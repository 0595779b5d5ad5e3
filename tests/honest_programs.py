"""Programs that mean no harm, as data: what each prints, and how it ends. A sandbox that fails one fails its users."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Honest:
    """One program and all that it should show. `stderr` are words that stderr has, in this order."""

    name: str
    source: str
    stdout: str | bytes
    stdin: str | bytes = ""
    status: str = "ok"
    exit_code: int | None = 0
    stderr: tuple[str, ...] = ()
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    language: str = "python"
    tiers: str = "AB"
    not_in_b: str = ""

    @property
    def text(self) -> str:
        return textwrap.dedent(self.source)


TEN_MB = b"0123456789abcde\n" * 655_360
NO_PROCESSES = "a program is one process"

PYTHON = [
    Honest("a_sum", "print(int(input()) + 1)", "42\n", "41\n"),
    Honest("nothing", "", ""),
    Honest("no_line_at_the_end", "print('a', end='')", "a"),
    Honest("stdin_of_10_mb_by_read", "import sys; print(len(sys.stdin.read()))", "10485760\n", TEN_MB),
    Honest("stdin_of_10_mb_by_bytes", "import sys; print(len(sys.stdin.buffer.read().split()))", "655360\n", TEN_MB),
    Honest("stdin_of_10_mb_by_line", "import sys; print(sum(1 for _ in sys.stdin))", "655360\n", TEN_MB),
    Honest(
        "stdin_of_10_mb_by_descriptor",
        """
        import os
        total = 0
        while piece := os.read(0, 1 << 16):
            total += len(piece)
        print(total)
        """,
        "10485760\n",
        TEN_MB,
    ),
    Honest("stdin_by_open", "print(len(open(0, 'rb').read()))", "10485760\n", TEN_MB),
    Honest("stdin_by_file_of_readlines", "import sys; print(sys.stdin.readlines())", "['a\\n', 'b']\n", "a\nb"),
    Honest("mixed_input_and_read", "import sys; print(input(), repr(sys.stdin.read()))", "a 'b\\nc'\n", "a\nb\nc"),
    Honest(
        "fast_input",
        """
        import io, os, sys
        input = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline
        print(int(input()), int(input()))
        """,
        "1 2\n",
        "1\n2\n",
    ),
    Honest(
        "end_of_input",
        """
        total = 0
        while True:
            try:
                total += int(input())
            except EOFError:
                break
        print(total)
        """,
        "6\n",
        "1\n2\n3",
    ),
    Honest("no_input", "import sys; print(repr(sys.stdin.read()), sys.stdin.isatty())", "'' False\n"),
    Honest("windows_lines", "print(repr(input()), repr(input()))", "'a\\r' 'b\\r'\n", "a\r\nb\r\n"),
    Honest(
        "unicode", "s = input()\nprint(s, len(s), 'grüße 😀 漢字', s[::-1])", "né😀 3 grüße 😀 漢字 😀én\n", "né😀\n"
    ),
    Honest("unicode_names", "größe = 3\nπ = 3.14\nprint(größe, π)", "3 3.14\n"),
    Honest(
        "stdin_that_is_no_text",
        "import sys; print(list(sys.stdin.buffer.read()))",
        "[255, 0, 128, 10]\n",
        b"\xff\x00\x80\n",
    ),
    Honest("bytes_out", "import sys; sys.stdout.buffer.write(bytes(range(256)))", bytes(range(256))),
    Honest(
        "order_of_text_and_bytes",
        """
        import os, sys
        print("a", flush=True)
        os.write(1, b"b\\n")
        sys.stdout.buffer.write(b"c\\n")
        sys.stdout.buffer.flush()
        print("d")
        """,
        "a\nb\nc\nd\n",
    ),
    Honest(
        "deep_recursion",
        """
        import sys
        sys.setrecursionlimit(100_000)
        def depth(n):
            return 0 if n == 0 else 1 + depth(n - 1)
        print(depth(50_000))
        """,
        "50000\n",
    ),
    Honest(
        "deep_recursion_in_a_thread",
        """
        import sys, threading
        sys.setrecursionlimit(200_000)
        threading.stack_size(64 << 20)
        def walk(n):
            return sorted([n], key=lambda _: 0)[0] if n == 0 else walk(n - 1)
        thread = threading.Thread(target=lambda: print(walk(50_000)))
        thread.start()
        thread.join()
        """,
        "0\n",
    ),
    Honest(
        "deep_recursion_with_a_cache",
        """
        import sys
        from functools import lru_cache
        sys.setrecursionlimit(10**6)
        @lru_cache(None)
        def f(n):
            return n if n < 2 else (f(n - 1) + f(n - 2)) % 1_000_007
        print(f(10_000))
        """,
        "404553\n",
    ),
    Honest(
        "too_deep",
        "def f(): f()\nf()",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("main.py", "line 1, in f", "RecursionError"),
    ),
    Honest(
        "threads",
        """
        import threading
        results = []
        threads = [threading.Thread(target=lambda n=n: results.append(n * n)) for n in range(10)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(sorted(results))
        """,
        "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n",
    ),
    Honest(
        "thread_pool",
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            print(list(pool.map(lambda n: n + 1, range(5))))
        """,
        "[1, 2, 3, 4, 5]\n",
    ),
    Honest(
        "thread_that_ends_last",
        """
        import threading, time
        threading.Thread(target=lambda: (time.sleep(0.05), print("late"))).start()
        print("early")
        """,
        "early\nlate\n",
    ),
    Honest(
        "numpy",
        """
        import numpy as np
        a = np.array([[2.0, 1.0], [1.0, 3.0]])
        print(np.linalg.solve(a, np.array([3.0, 5.0])).round(6), np.linalg.det(a).round(6))
        print((np.arange(250_000).reshape(500, 500) @ np.eye(500)).sum())
        """,
        "[0.8 1.4] 5.0\n31249875000.0\n",
    ),
    Honest(
        "subprocess",
        """
        import subprocess, sys
        ended = subprocess.run([sys.executable, "-c", "print(input() * 2)"], input="ab", text=True, capture_output=True)
        print(ended.returncode, ended.stdout)
        """,
        "0 abab\n\n",
        tiers="A",
        not_in_b=NO_PROCESSES,
    ),
    Honest(
        "fork_and_wait",
        """
        import os
        read_fd, write_fd = os.pipe()
        if os.fork() == 0:
            os.write(write_fd, b"child")
            os._exit(7)
        _, status = os.wait()
        print(os.read(read_fd, 10), os.waitstatus_to_exitcode(status))
        """,
        "b'child' 7\n",
        tiers="A",
        not_in_b=NO_PROCESSES,
    ),
    Honest(
        "multiprocessing",
        """
        from multiprocessing import Pool
        def square(n):
            return n * n
        if __name__ == "__main__":
            with Pool(2) as pool:
                print(pool.map(square, range(5)))
        """,
        "[0, 1, 4, 9, 16]\n",
        tiers="A",
        not_in_b=NO_PROCESSES,
    ),
    Honest(
        "asyncio",
        """
        import asyncio
        async def add(n):
            await asyncio.sleep(0.001)
            return n + 1
        async def main():
            print(await asyncio.gather(*map(add, range(3))))
        asyncio.run(main())
        """,
        "[1, 2, 3]\n",
    ),
    Honest(
        "temporary_files",
        """
        import os, tempfile
        with tempfile.TemporaryFile() as one, tempfile.NamedTemporaryFile("w+") as two:
            one.write(b"one"); one.seek(0)
            two.write("two"); two.flush()
            print(one.read(), open(two.name).read())
        with tempfile.TemporaryDirectory() as directory:
            open(os.path.join(directory, "x"), "w").close()
            print(os.listdir(directory))
        """,
        "b'one' two\n['x']\n",
    ),
    Honest(
        "given_files",
        """
        import os
        print(open("a.txt").read(), open("deep/er/b.bin", "rb").read(), sorted(os.listdir(".")))
        with open("deep/new", "w") as file:
            file.write("x")
        print(sorted(os.listdir("deep")))
        """,
        "text é b'\\x00\\xff' ['a.txt', 'deep']\n['er', 'new']\n",
        files={"a.txt": "text é", "deep/er/b.bin": b"\x00\xff"},
    ),
    Honest(
        "given_module", "import helper\nprint(helper.twice(4))", "8\n", files={"helper.py": "twice = lambda n: 2 * n"}
    ),
    Honest(
        "files_of_its_own",
        """
        import os, shutil
        with open("out.txt", "w") as file:
            print(*range(1000), sep="\\n", file=file)
        os.rename("out.txt", "in.txt")
        print(sum(map(int, open("in.txt"))), os.path.getsize("in.txt"), os.path.exists("out.txt"))
        os.makedirs("a/b")
        shutil.rmtree("a")
        os.remove("in.txt")
        print(os.listdir())
        """,
        "499500 3890 False\n[]\n",
    ),
    Honest(
        "sqlite",
        """
        import sqlite3
        base = sqlite3.connect(":memory:")
        base.execute("create table t (n integer)")
        base.executemany("insert into t values (?)", [(n,) for n in range(10)])
        print(base.execute("select sum(n) from t").fetchone())
        """,
        "(45,)\n",
    ),
    Honest(
        "decimal_and_fractions",
        """
        from decimal import Decimal, getcontext
        from fractions import Fraction
        getcontext().prec = 30
        print(Decimal(1) / 7, Fraction(1, 3) + Fraction(1, 6))
        """,
        "0.142857142857142857142857142857 1/2\n",
    ),
    Honest(
        "standard_library",
        """
        import bisect, collections, csv, hashlib, heapq, io, itertools, json, re, statistics, string, zlib
        heap = [5, 1, 4]
        heapq.heapify(heap)
        print(heapq.heappop(heap), re.findall(r"\\d+", "a1b22"), len(list(itertools.permutations(range(7)))))
        print(collections.Counter("abca").most_common(1), bisect.bisect([1, 3], 2), json.dumps({"a": [1]}))
        print(hashlib.sha256(b"x").hexdigest()[:8], zlib.crc32(b"x"), statistics.mean([1, 2]), string.digits)
        print(list(csv.reader(io.StringIO("a,b"))))
        """,
        "1 ['1', '22'] 5040\n[('a', 2)] 1 {\"a\": [1]}\n2d711642 2363233923 1.5 0123456789\n[['a', 'b']]\n",
    ),
    Honest(
        "memory_of_100_mb",
        "whole = bytearray(100 << 20); whole[::4096] = whole[::4096]; print(len(whole))",
        "104857600\n",
    ),
    Honest(
        "a_second_of_work",
        """
        import time
        while time.process_time() < 1:
            pass
        print("done")
        """,
        "done\n",
    ),
    Honest("output_of_a_megabyte", "print('x' * 1_000_000)", "x" * 1_000_000 + "\n"),
    Honest("exit_zero", "import sys\nprint('a')\nsys.exit(0)\nprint('b')", "a\n"),
    Honest("exit_without_a_number", "print('a')\nexit()", "a\n"),
    Honest("exit_3", "import sys; sys.exit(3)", "", status="runtime_error", exit_code=3),
    Honest(
        "exit_with_words",
        "import sys; sys.exit('wrong input')",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("wrong input",),
    ),
    Honest("exit_at_once", "import os; os._exit(9)", "", status="runtime_error", exit_code=9),
    Honest("main_guard", "def main():\n    print('main')\nif __name__ == '__main__':\n    main()", "main\n"),
    Honest(
        "future_import",
        '''
        """A docstring first."""
        from __future__ import annotations
        def f(x: NoSuchName) -> AlsoNot:
            return x
        print(f(1), f.__annotations__["x"], __doc__)
        ''',
        "1 NoSuchName A docstring first.\n",
    ),
    Honest("no_future_of_the_runner", "def f(x: int): pass\nprint(f.__annotations__)", "{'x': <class 'int'>}\n"),
    Honest("encoding_cookie", "# -*- coding: utf-8 -*-\nprint('é')", "é\n"),
    Honest("byte_order_mark", "\ufeffprint('é')", "é\n"),
    Honest("windows_source", "x = 1\r\nif x:\r\n    print('yes')\r\n", "yes\n"),
    Honest(
        "pickle_of_its_own_class",
        """
        import pickle
        from dataclasses import dataclass
        @dataclass
        class Point:
            x: int
        print(pickle.loads(pickle.dumps(Point(3))), Point.__module__)
        """,
        "Point(x=3) __main__\n",
    ),
    Honest(
        "inspect",
        """
        import inspect, sys
        def f():
            return 1  # one
        print(inspect.getsource(f), sys.argv[1:], len(sys.argv))
        """,
        "def f():\n    return 1  # one\n [] 1\n",
    ),
    Honest(
        "caught_traceback",
        """
        import traceback
        try:
            1 / 0
        except ZeroDivisionError:
            print(traceback.format_exc().splitlines()[2].strip())
        """,
        "1 / 0\n",
    ),
    Honest("source_of_200_kib", "x = [\n" + "    1,\n" * 30_000 + "]\nprint(sum(x))", "30000\n"),
    Honest(
        "words_that_look_bad",
        "# os.system fork exec eval socket __import__\nprint('rm -rf / os.fork()')",
        "rm -rf / os.fork()\n",
    ),
    Honest(
        "clock_and_random",
        """
        import datetime, random, time
        random.seed(1)
        print(random.randint(1, 100), datetime.date(2024, 2, 29).isoformat(), time.time() > 1.7e9)
        print(len(random.SystemRandom().randbytes(4)), time.strftime("%Y", time.gmtime(0)))
        """,
        "18 2024-02-29 True\n4 1970\n",
    ),
    Honest("same_hashes_every_time", "print(hash('a') == hash('a'), sorted({'b', 'a'}))", "True ['a', 'b']\n"),
    Honest(
        "locale",
        "import locale, sys; print(sys.getdefaultencoding(), open('x', 'w').encoding.lower())",
        "utf-8 utf-8\n",
    ),
    Honest(
        "alarm",
        """
        import signal, time
        def ring(*_):
            raise TimeoutError
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(5)
        except TimeoutError:
            print("rang")
        """,
        "rang\n",
    ),
    Honest("at_exit", "import atexit\natexit.register(print, 'bye')\nprint('hello')", "hello\nbye\n"),
    Honest(
        "destructor",
        "class A:\n    def __del__(self):\n        print('gone')\na = A()\ndel a\nprint('end')",
        "gone\nend\n",
    ),
    Honest("stderr_is_no_fault", "import sys; print('debug', file=sys.stderr); print(1)", "1\n", stderr=("debug",)),
    Honest(
        "own_excepthook",
        "import sys\nsys.excepthook = lambda kind, error, trace: print('hook', error)\nraise ValueError('x')",
        "hook x\n",
        status="runtime_error",
        exit_code=1,
    ),
    Honest(
        "exception",
        "def f():\n    return {}['key']\nprint('before')\nf()",
        "before\n",
        status="runtime_error",
        exit_code=1,
        stderr=("Traceback (most recent call last)", "line 4, in <module>", "line 2, in f", "KeyError: 'key'"),
    ),
    Honest(
        "exception_group",
        "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("ExceptionGroup: two", "ValueError: 1"),
    ),
    Honest(
        "failed_assertion",
        "assert 1 == 2, 'not equal'",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("AssertionError: not equal",),
    ),
    Honest(
        "syntax_error",
        "print('never')\ndef f(:\n    pass",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("line 2", "SyntaxError"),
    ),
    Honest("null_in_source", "print(1)\0", "", status="runtime_error", exit_code=1, stderr=("null bytes",)),
    Honest(
        "no_such_module",
        "import no_such_module",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("ModuleNotFoundError",),
    ),
    Honest(
        "interrupted",
        "raise KeyboardInterrupt",
        "",
        status="runtime_error",
        exit_code=None,  # 1, 130 or -SIGINT: interpreters differ
        stderr=("KeyboardInterrupt",),
    ),
    Honest(
        "out_of_memory",
        "print('before', flush=True)\nx = bytearray(1 << 40)",
        "before\n",
        status="memory",
        exit_code=None,
    ),
    Honest(
        "memory_error_caught", "try:\n    bytearray(1 << 40)\nexcept MemoryError:\n    print('too much')", "too much\n"
    ),
    Honest("too_slow", "print('before', flush=True)\nwhile True: pass", "before\n", status="timeout", exit_code=None),
]

SUM = "#include <iostream>\nint main() { long a, s = 0; while (std::cin >> a) s += a; std::cout << s << '\\n'; }"
CPP = [
    Honest("cpp_hello", '#include <cstdio>\nint main() { std::puts("hello"); }', "hello\n", language="cpp"),
    Honest("cpp_sum", SUM, "500000500000\n", "\n".join(map(str, range(1, 1_000_001))), language="cpp"),
    Honest(
        "cpp_vectors",
        """
        #include <bits/stdc++.h>
        using namespace std;
        int main() {
            vector<pair<int, string>> v = {{2, "b"}, {1, "ä"}};
            sort(v.begin(), v.end());
            for (auto &[n, s] : v) cout << n << s << endl;
        }
        """,
        "1ä\n2b\n",
        language="cpp",
    ),
    Honest(
        "cpp_two_sources_and_a_header",
        '#include "twice.h"\n#include <cstdio>\nint main() { std::printf("%d\\n", twice(21)); }',
        "42\n",
        files={"twice.h": "int twice(int);", "twice.cpp": '#include "twice.h"\nint twice(int n) { return 2 * n; }'},
        language="cpp",
    ),
    Honest(
        "cpp_deep_recursion",
        """
        #include <cstdio>
        int depth(int n) { volatile char room[64]; room[0] = n; return n == 0 ? 0 : 1 + depth(n - 1) + 0 * room[0]; }
        int main() { std::printf("%d\\n", depth(100000)); }
        """,
        "100000\n",
        language="cpp",
    ),
    Honest(
        "cpp_thread",
        """
        #include <iostream>
        #include <thread>
        int main() { int n = 0; std::thread t([&] { n = 5; }); t.join(); std::cout << n << std::endl; }
        """,
        "5\n",
        language="cpp",
    ),
    Honest("cpp_exit_code", "int main() { return 3; }", "", status="runtime_error", exit_code=3, language="cpp"),
    Honest(
        "cpp_compile_error",
        "int main() { return no_such_name; }",
        "",
        status="runtime_error",
        exit_code=1,
        stderr=("error:", "no_such_name"),
        language="cpp",
    ),
    Honest(
        "cpp_segmentation_fault",
        "int main() { volatile int *p = nullptr; *p = 1; }",
        "",
        status="runtime_error",
        exit_code=-11,
        language="cpp",
    ),
    Honest(
        "cpp_abort",
        "#include <cassert>\nint main() { assert(1 == 2); }",
        "",
        status="runtime_error",
        exit_code=None,  # SIGABRT; in tier A, where a first process is deaf to it, the SIGSEGV that abort() ends with
        stderr=("Assertion",),
        language="cpp",
    ),
    Honest(
        "cpp_out_of_memory",
        "#include <vector>\nint main() { std::vector<char> v(1ull << 40); return v[7]; }",
        "",
        status="memory",
        exit_code=None,
        language="cpp",
    ),
]

HONEST = [*PYTHON, *CPP]
