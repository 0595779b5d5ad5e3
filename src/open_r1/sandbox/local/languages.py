"""The languages that the local sandbox runs, and the files that their programs, or their compilers, may read."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from open_r1.sandbox.protocol import MIB, Limits

LIBRARIES = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/etc/ld.so.cache")
PACKAGES = ("numpy", "numpy.libs")  # that programs may import besides the standard library
# A fork takes longer the more is loaded; what most programs import is loaded once, the rest by those that ask for it.
PRELOADED = (
    *("bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools"),
    *("heapq", "io", "itertools", "json", "math", "operator", "queue", "random", "re", "statistics", "string"),
    *("struct", "textwrap", "threading", "time", "typing"),
)
COMPILER_LIMITS = Limits(
    wall_seconds=60.0,
    cpu_seconds=30.0,
    memory_bytes=2048 * MIB,
    processes=64,
    file_bytes=128 * MIB,
    scratch_bytes=512 * MIB,
    scratch_inodes=4096,
    output_bytes=1 * MIB,
)
BINARY = "program"
CODE_SUFFIXES = (".c", ".cc", ".cpp", ".h", ".hh", ".hpp", ".inc")


@dataclass(frozen=True)
class CompiledLanguage:
    """How a source becomes a binary: `source_name` and the files that end alike are compiled together."""

    compiler: str
    flags: tuple[str, ...]
    source_name: str
    readable: tuple[str, ...] = ("/usr/bin", "/usr/include", "/usr/libexec", "/usr/local/include", "/etc/alternatives")

    @property
    def suffix(self) -> str:
        return Path(self.source_name).suffix

    def command(self, files: Mapping[str, object]) -> list[str]:
        """The compiler's command line for the source with these files beside it."""
        sources = [self.source_name, *(path for path in sorted(files) if path.endswith(self.suffix))]
        return [self.path() or self.compiler, *self.flags, "-I.", "-o", BINARY, *sources, "-lm"]

    def path(self) -> str | None:
        """Where the compiler is; None if it is not installed."""
        return shutil.which(self.compiler)


COMPILED = {
    "cpp": CompiledLanguage("g++", ("-std=c++17", "-O2"), "main.cpp"),
    "c": CompiledLanguage("gcc", ("-std=c17", "-O2"), "main.c"),
}
LANGUAGES = ("python", *COMPILED)


def is_code(path: str) -> bool:
    """True for the files of a program that its compiler reads; the others are there when it runs."""
    return path.endswith(CODE_SUFFIXES)


def language_problem(language: str) -> str | None:
    """None if programs in this language can be run here, else one line."""
    if language not in LANGUAGES:
        return f"no programs in {language!r} here (known: {', '.join(LANGUAGES)})"
    if language in COMPILED and COMPILED[language].path() is None:
        return f"{COMPILED[language].compiler} is not installed, which compiles {language}"
    return None


@cache
def interpreter() -> str:
    """The interpreter itself: a virtual environment's link, or a shim, would have to be looked through every time."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def module_paths() -> tuple[str, ...]:
    """Where programs find modules other than the standard library's: the folder that holds the packages."""
    spec = importlib.util.find_spec(PACKAGES[0])
    return () if spec is None else (str(Path(spec.origin).parents[1]),)


@cache
def readable_by_programs() -> tuple[str, ...]:
    """The files and directories that a program may read: the interpreter, its libraries, the packages."""
    standard_library = sysconfig.get_paths()["stdlib"]
    packages = [os.path.join(folder, package) for folder in module_paths() for package in PACKAGES]
    paths = [interpreter(), standard_library, *_shared_libpython(), *packages, *LIBRARIES]
    return tuple(_without_links([path for path in paths if os.path.exists(path)]))


def readable_by_compilers() -> tuple[str, ...]:
    """The files and directories that compilers may read, beside what programs may."""
    own = [path for language in COMPILED.values() for path in language.readable if os.path.exists(path)]
    return tuple(_without_links([*readable_by_programs(), *own]))


def _shared_libpython() -> list[str]:
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    return [os.path.join(folder, name)] if folder and name and name.endswith((".so", ".so.1.0", ".dylib")) else []


def _without_links(paths: list[str]) -> list[str]:
    """Each real path once, and none that lies in another; a link such as /lib is made again inside."""
    real = sorted({os.path.realpath(path) for path in paths})
    return [path for path in real if not any(path.startswith(other + "/") for other in real)]
