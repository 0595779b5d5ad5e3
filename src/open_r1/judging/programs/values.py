"""Values that a program's functions returned, brought out of the sandbox as text and made again from exact builtins.

The text was written next to the program, perhaps by it: reading it costs time and memory in proportion to its length,
and gives nothing but None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, and stand-ins for
what an iterator yields (`Items`) and for an object of any other class (`Opaque`, which no test accepts).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.sandbox import Program

MAX_DEPTH = 100
MAX_BYTES = 1 << 20
MAX_INT_BITS = 1 << 17  # some 39,000 digits
# Numbers can be chosen so that their hashes are all equal, and then a set of n takes n^2 steps.
MAX_EQUAL_HASHES = 64
INSIDE = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")

Step = tuple[str, ...]


class NotPlain(ValueError):
    """What came out is not the text of plain values; the words say what it is."""


@dataclass(frozen=True, eq=False)
class Items:
    """What an iterator, a range or a view of a dict yielded. It equals nothing; `list`, `sorted`, … take it."""

    items: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Opaque:
    """An object of a class that is no builtin."""

    class_name: str


def program_with_steps(source: str, steps: Iterable[Step]) -> Program:
    """The Python program that runs `source`, then the steps (see inside.py), and writes what they give to stdout."""
    return Program(f"{INSIDE}\n\nrun_test({source!a}, {list(steps)!a})\n")


def decode(stdout: bytes) -> list[Any]:
    """The values that `program_with_steps` has written. Raises NotPlain if this is anything else."""
    if not stdout:
        raise NotPlain("it ended before the test was through")
    if len(stdout) > MAX_BYTES:
        raise NotPlain("the result is too large")
    try:
        shown = json.loads(stdout)
    except (ValueError, RecursionError):
        raise NotPlain("it wrote into the result") from None
    if type(shown) is not list:
        raise NotPlain("it wrote into the result")
    try:
        return [_decoded(value, 0) for value in shown]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise error if isinstance(error, NotPlain) else NotPlain("it wrote into the result") from None


def same(value: Any, expected: Any, tolerances: tuple[float, float] | None = None) -> bool:
    """True if a function returned what the JSON value `expected` says, type by type.

    True is not 1, and 1 is not 1.0. What JSON cannot say is given the benefit: a tuple passes for a list, and a whole
    number as a key of a dict for its digits; NaN is NaN. With (absolute, relative) tolerances numbers may differ by
    either of them, and whole ones may be floats.
    """
    if type(expected) is list:
        if type(value) not in (list, tuple) or len(value) != len(expected):
            return False
        return all(same(*pair, tolerances) for pair in zip(value, expected, strict=True))
    if type(expected) is dict:
        if type(value) is not dict or len(value) != len(expected):
            return False
        value = {str(key) if type(key) is int else key: item for key, item in value.items()}
        return value.keys() == expected.keys() and all(same(value[key], expected[key], tolerances) for key in expected)
    are_numbers = type(value) in (int, float) and type(expected) in (int, float)
    if tolerances and are_numbers and is_close(value, expected, *tolerances):
        return True
    if type(value) is not type(expected):
        return False
    return value == expected or (type(value) is float and math.isnan(value) and math.isnan(expected))


def same_in_any_order(value: Any, expected: Any) -> bool:
    """As `same`, but the items of an outermost list may stand in any order."""
    if type(value) not in (list, tuple) or type(expected) is not list:
        return same(value, expected)
    return len(value) == len(expected) and sorted(map(_canonical, value)) == sorted(map(_canonical, expected))


def is_close(value: float, expected: float, absolute: float, relative: float) -> bool:
    """True if a finite number is within either tolerance of the finite number that is expected."""
    try:
        value, expected = float(value), float(expected)
    except OverflowError:
        return False
    if not (math.isfinite(value) and math.isfinite(expected)):
        return False
    return abs(value - expected) <= max(absolute, relative * abs(expected))


def _canonical(value: Any) -> str:
    """A text that is the same for two values if `same` holds for them."""
    kind = type(value)
    if kind in (list, tuple):
        return f"[{','.join(map(_canonical, value))}]"
    if kind is dict:
        pairs = ((str(key) if type(key) is int else key, item) for key, item in value.items())
        return f"{{{','.join(sorted(f'{_canonical(key)}:{_canonical(item)}' for key, item in pairs))}}}"
    if kind is float:
        return repr(value + 0.0)  # -0.0 is 0.0
    return hex(value) if kind is int else f"{kind.__name__} {value!r}"


def hashable(values: Sequence[Any]) -> Sequence[Any]:
    """The values themselves. Raises NotPlain if they were made to be slow in a set, TypeError if none can be there."""
    different: dict[int, list[Any]] = {}
    for value in values:
        same_hash = different.setdefault(hash(value), [])
        if value not in same_hash:
            same_hash.append(value)
        if len(same_hash) > MAX_EQUAL_HASHES:
            raise NotPlain("the result has too many keys of one hash")
    return values


def _decoded(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlain("the result is too deep")
    if value is None or type(value) in (bool, str):
        return value
    kind, *parts = value  # a TypeError or a ValueError if it is no list, or empty
    decoder = _DECODERS[kind] if type(kind) is str else None
    if decoder is None or type(value) is not list or len(parts) != (2 if kind == "complex" else 1):
        raise NotPlain("it wrote into the result")
    return decoder(*parts, depth + 1)


def _int(text: str, depth: int) -> int:
    if len(text) > MAX_INT_BITS // 4:
        raise NotPlain("a number of the result is too large")
    return int(text, 16)


def _items(values: list, depth: int) -> list:
    if type(values) is not list:
        raise NotPlain("it wrote into the result")
    return [_decoded(value, depth) for value in values]


def _dict(pairs: list, depth: int) -> dict:
    if type(pairs) is not list or any(type(pair) is not list or len(pair) != 2 for pair in pairs):
        raise NotPlain("it wrote into the result")
    keys = hashable(_items([key for key, _ in pairs], depth))
    return dict(zip(keys, _items([item for _, item in pairs], depth), strict=True))


_DECODERS = {
    "int": _int,
    "float": lambda text, depth: float.fromhex(text),
    "complex": lambda real, imaginary, depth: complex(float.fromhex(real), float.fromhex(imaginary)),
    "bytes": lambda text, depth: bytes.fromhex(text),
    "list": _items,
    "tuple": lambda values, depth: tuple(_items(values, depth)),
    "set": lambda values, depth: set(hashable(_items(values, depth))),
    "frozenset": lambda values, depth: frozenset(hashable(_items(values, depth))),
    "dict": _dict,
    "items": lambda values, depth: Items(tuple(_items(values, depth))),
    "other": lambda name, depth: Opaque(str(name)[:100]),
}
