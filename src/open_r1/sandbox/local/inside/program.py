"""What the child does between its fork and its end: the program, as `python main.py` would run it, or a binary."""

import _sitebuiltins
import atexit
import builtins
import contextlib
import io
import linecache
import os
import sys
import threading
import traceback
import types

FILE_NAME = "main.py"


class PythonProgram:
    """An interpreter as `python main.py` would find it, but for the program itself.

    Made before the fork, with descriptors 0, 1 and 2 already what they will be for every child (other files of the same
    kind): what is made once need not be made for each program, and the child copies fewer pages.
    """

    def __init__(self, directory: str):
        self.path = os.path.join(directory, FILE_NAME)
        self.source = b""
        sys.stdin = sys.__stdin__ = _stream(0, "r", "surrogateescape")
        sys.stdout = sys.__stdout__ = _stream(1, "w", "surrogateescape")
        sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace", buffering=1)
        builtins.exit, builtins.quit = (_sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)") for name in ("exit", "quit"))
        sys.argv = [FILE_NAME]
        sys.path.insert(0, directory)
        self.main = types.ModuleType("__main__")
        self.main.__file__ = self.path
        self.main.__builtins__ = __builtins__
        sys.modules["__main__"] = self.main
        linecache.cache[self.path] = (self._text,)  # called when a traceback or inspect asks for a line

    def run(self, source: bytes) -> int:
        """The exit code that an interpreter would give; all is done that it does at exit, but for destructors."""
        self.source = source
        exit_code = _execute(source, self.path, self.main.__dict__)
        with contextlib.suppress(BaseException):
            threading._shutdown()  # waits for the threads that are no daemons
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
        except BaseException:  # more output than the limit, or a stdout of the program's own
            return exit_code or 120  # what an interpreter says when it cannot flush
        return exit_code

    def _text(self) -> str:
        return self.source.decode("utf-8", "replace")


def _stream(fd: int, mode: str, errors: str, buffering: int = -1) -> io.TextIOWrapper:
    return open(fd, mode, buffering, encoding="utf-8", errors=errors, newline="\n", closefd=False)


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
