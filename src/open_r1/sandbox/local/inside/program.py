"""What the child does between its fork and its end: the program, as `python main.py` would run it, or a binary."""

import atexit
import contextlib
import linecache
import os
import sys
import threading
import traceback
import types

FILE_NAME = "main.py"


def run_python(source: bytes, directory: str) -> int:
    """The exit code that an interpreter would give; the program has done what it does at exit, but for destructors."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.__stdin__ = sys.stdin
    sys.argv = [FILE_NAME]
    sys.path.insert(0, directory)
    path = os.path.join(directory, FILE_NAME)
    main = types.ModuleType("__main__")
    main.__file__ = path
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    linecache.cache[path] = (lambda: source.decode("utf-8", "replace"),)  # read when a traceback or inspect asks
    exit_code = _execute(source, path, main.__dict__)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # waits for the threads that are no daemons
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BaseException:  # more output than the limit, or a stdout of the program's own
        return exit_code or 120  # what an interpreter says when it cannot flush
    return exit_code


def _execute(source: bytes, path: str, namespace: dict) -> int:
    try:
        exec(compile(source, path, "exec", dont_inherit=True), namespace)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        with contextlib.suppress(BaseException):
            print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__.tb_next  # without this file's own line
        with contextlib.suppress(BaseException):
            hook = sys.excepthook if sys.excepthook is not sys.__excepthook__ else traceback.print_exception
            hook(type(error), error, trace)
        return 1
    return 0


def run_binary(fd: int) -> None:
    """Becomes the program whose file is open at `fd`."""
    os.execve(fd, ["./program"], dict(os.environ))


def run_command(command: list[str]) -> None:
    """Becomes a compiler, by its absolute path."""
    os.execve(command[0], command, dict(os.environ))
