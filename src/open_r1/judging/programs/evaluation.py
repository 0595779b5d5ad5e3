"""The part of an assert that is worked out outside of the sandbox, on exact builtin values, by an interpreter of ours.

It knows the few expressions and functions that asserts are made of, and no others; nothing is ever handed to `eval`. A
value may come from a hostile program, so every operation is paid for out of a budget before it is done: powers,
repetitions and ranges are refused where the result would be large.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from open_r1.judging.programs.values import MAX_INT_BITS, Items, Opaque, hashable

BUDGET = 500_000  # steps, and items handled by one operation
MAX_SEQUENCE = 1 << 20  # items, or characters, that one operation may make

MAX_DIGITS = 10_000  # that a number is rounded to

TYPES = {kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)}
KEYWORDS = {"sorted": ("reverse",), "round": ("ndigits",), "sum": ("start",), "isclose": ("rel_tol", "abs_tol")}
FUNCTIONS: dict[str, Callable] = {
    "abs": abs,
    "all": all,
    "any": any,
    "enumerate": lambda items: list(enumerate(items)),
    "len": len,
    "max": max,
    "min": min,
    "pow": lambda base, exponent: _pow(base, exponent),
    "range": lambda *bounds: _range(*bounds),
    "reversed": lambda items: list(reversed(items)),
    "round": lambda number, ndigits=None: _round(number, ndigits),
    "sorted": sorted,
    "sum": lambda items, start=0: _sum(items, start),
    "zip": lambda *columns: list(zip(*columns, strict=False)),
    # conversions
    "bool": bool,
    "dict": lambda pairs=(): dict(pairs) if isinstance(pairs, dict) else _dict(pairs),
    "float": float,
    "frozenset": lambda items=(): frozenset(hashable(list(items))),
    "int": int,
    "list": list,
    "set": lambda items=(): set(hashable(list(items))),
    "str": str,
    "tuple": tuple,
}
MATH_FUNCTIONS: dict[str, Callable] = {
    name: getattr(math, name) for name in ("ceil", "fabs", "floor", "isclose", "isfinite", "isinf", "isnan", "sqrt")
}
MATH_CONSTANTS = {name: getattr(math, name) for name in ("e", "inf", "nan", "pi", "tau")}
METHODS: dict[str, tuple[type, ...]] = {
    "count": (str, bytes, list, tuple),
    "endswith": (str, bytes),
    "find": (str, bytes),
    "get": (dict,),
    "index": (str, bytes, list, tuple),
    "isalpha": (str,),
    "isdigit": (str,),
    "isdisjoint": (set, frozenset),
    "issubset": (set, frozenset),
    "issuperset": (set, frozenset),
    "items": (dict,),
    "keys": (dict,),
    "lower": (str, bytes),
    "rstrip": (str, bytes),
    "split": (str, bytes),
    "startswith": (str, bytes),
    "strip": (str, bytes),
    "upper": (str, bytes),
    "values": (dict,),
}
OPERATORS: dict[type[ast.AST], Callable] = {
    ast.Add: lambda a, b: _add(a, b),
    ast.Sub: operator.sub,
    ast.Mult: lambda a, b: _multiply(a, b),
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: lambda a, b: _modulo(a, b),
    ast.Pow: lambda a, b: _pow(a, b),
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class Brought(ast.expr):
    """Stands in a tree for the value, brought out of the sandbox, of the expression with this number."""

    _fields = ("number",)


class CannotTell(ValueError):
    """The expression cannot be worked out: it is not of the few kinds known here, or too costly."""


def evaluate(tree: ast.expr, brought: Sequence[Any] = ()) -> Any:
    """The value of an expression over literals and the values brought out.

    Raises one of ERRORS, CannotTell among them, where Python would raise, or where it would cost too much.
    """
    return _Evaluation(brought).value(tree, {})


class _Evaluation:
    def __init__(self, brought: Sequence[Any]):
        self.brought = brought
        self.left = BUDGET

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self._pay(1)
        work_out = getattr(self, f"_{type(node).__name__}", None)
        if work_out is None:
            raise CannotTell(f"{type(node).__name__} is none of the expressions that asserts may have")
        return work_out(node, names)

    def _pay(self, num_items: int) -> None:
        self.left -= num_items
        if self.left < 0:
            raise CannotTell("it takes too long to work out")

    def _items(self, value: Any) -> Any:
        """What an iteration over a value yields, paid for; an Opaque has nothing."""
        items = value.items if isinstance(value, Items) else value
        if isinstance(items, int | float | complex | Opaque) or items is None:
            raise TypeError("not iterable")
        self._pay(len(items))
        return items

    def _Constant(self, node, names):
        return node.value

    def _Brought(self, node, names):
        return self.brought[node.number]

    def _Name(self, node, names):
        if node.id not in names:
            raise CannotTell(f"{node.id} is not known outside of the program")
        return names[node.id]

    def _List(self, node, names):
        return [self.value(item, names) for item in node.elts]

    def _Tuple(self, node, names):
        return tuple(self.value(item, names) for item in node.elts)

    def _Set(self, node, names):
        return set(hashable([self.value(item, names) for item in node.elts]))

    def _Dict(self, node, names):
        if None in node.keys:
            raise CannotTell("** is not known here")
        return {
            self.value(key, names): self.value(item, names) for key, item in zip(node.keys, node.values, strict=True)
        }

    def _UnaryOp(self, node, names):
        return OPERATORS[type(node.op)](_plain(self.value(node.operand, names)))

    def _BinOp(self, node, names):
        if type(node.op) not in OPERATORS:
            raise CannotTell(f"{type(node.op).__name__} is none of the operators that asserts may have")
        left, right = self.value(node.left, names), self.value(node.right, names)
        self._pay(_size(left) + _size(right))
        return OPERATORS[type(node.op)](_plain(left), _plain(right))

    def _BoolOp(self, node, names):
        stop = isinstance(node.op, ast.Or)
        for operand in node.values:
            value = _plain(self.value(operand, names))
            if bool(value) is stop:
                return value
        return value

    def _IfExp(self, node, names):
        return self.value(node.body if _plain(self.value(node.test, names)) else node.orelse, names)

    def _Compare(self, node, names):
        left = self.value(node.left, names)
        for kind, right in zip(node.ops, node.comparators, strict=True):
            right = self.value(right, names)
            if isinstance(kind, ast.In | ast.NotIn) and isinstance(right, Items):
                right = right.items
            self._pay(_size(left) + _size(right))
            if not OPERATORS[type(kind)](_plain(left), _plain(right)):
                return False
            left = right
        return True

    def _Subscript(self, node, names):
        return _plain(self.value(node.value, names))[self.value(node.slice, names)]

    def _Slice(self, node, names):
        return slice(
            *(None if part is None else self.value(part, names) for part in (node.lower, node.upper, node.step))
        )

    def _Call(self, node, names):
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "math":
            name, known = function.attr, MATH_FUNCTIONS
        elif isinstance(function, ast.Attribute):
            return self._method(node, names)
        elif isinstance(function, ast.Name) and function.id == "isinstance":
            return isinstance(_plain(self.value(node.args[0], names)), _types(node.args[1]))
        else:
            name, known = getattr(function, "id", "?"), FUNCTIONS
        if name not in known:
            raise CannotTell(f"{name} is none of the functions that are known here")
        arguments = [self._argument(name, argument, names) for argument in node.args]
        return known[name](*arguments, **self._keywords(name, node, names))

    def _argument(self, name: str, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """An argument, paid for, as the function may have it: an iterator's items for those that iterate."""
        value = self.value(node, names)
        if isinstance(value, Items):
            if name in ("len", "str", "bool", "reversed", "float", "int"):
                raise TypeError("an iterator has none of that")
            value = list(value.items)
        self._pay(_size(value))
        return _plain(value)

    def _keywords(self, name: str, node: ast.Call, names: Mapping[str, Any]) -> dict[str, Any]:
        for keyword in node.keywords:
            if keyword.arg not in KEYWORDS.get(name, ()):
                raise CannotTell(f"{name}(… {keyword.arg}=) is not known here")
        return {keyword.arg: _plain(self.value(keyword.value, names)) for keyword in node.keywords}

    def _method(self, node, names):
        name = node.func.attr
        receiver = _plain(self.value(node.func.value, names))
        if name not in METHODS or node.keywords:
            raise CannotTell(f".{name}() is none of the methods that are known here")
        if type(receiver) not in METHODS[name]:
            raise AttributeError(name)
        self._pay(_size(receiver))
        value = getattr(receiver, name)(*(_plain(self.value(argument, names)) for argument in node.args))
        return list(value) if name in ("items", "keys", "values") else value

    def _ListComp(self, node, names):
        return list(self._comprehended(node.elt, node.generators, names))

    def _SetComp(self, node, names):
        return set(hashable(list(self._comprehended(node.elt, node.generators, names))))

    _GeneratorExp = _ListComp  # `all`, `any`, `sum` and the like take a list as well

    def _comprehended(self, element, generators, names):
        if not generators:
            yield self.value(element, names)
            return
        first, *rest = generators
        for item in self._items(self.value(first.iter, names)):
            inner = dict(names)
            _bind(first.target, item, inner)
            if all(self.value(condition, inner) for condition in first.ifs):
                yield from self._comprehended(element, rest, inner)


def _bind(target: ast.expr, value: Any, names: dict[str, Any]) -> None:
    if isinstance(target, ast.Name):
        names[target.id] = value
    elif isinstance(target, ast.Tuple | ast.List):
        if not isinstance(value, list | tuple) or len(value) != len(target.elts):
            raise ValueError("cannot be unpacked")
        for one, item in zip(target.elts, value, strict=True):
            _bind(one, item, names)
    else:
        raise CannotTell("such a target of a loop is not known here")


def _types(node: ast.expr) -> type | tuple[type, ...]:
    nodes = node.elts if isinstance(node, ast.Tuple) else [node]
    kinds = tuple(TYPES.get(getattr(one, "id", None)) for one in nodes)
    if None in kinds:
        raise CannotTell("isinstance of a class that is no builtin")
    return kinds


def _plain(value: Any) -> Any:
    """The value itself. Raises TypeError for an object of the program's own class, and for an iterator."""
    if isinstance(value, Opaque | Items):
        raise TypeError("no plain value")
    return value


def _size(value: Any) -> int:
    if isinstance(value, Items):
        value = value.items
    return len(value) if hasattr(value, "__len__") else 1


def _add(a: Any, b: Any) -> Any:
    _require_size(_size(a) + _size(b))
    return a + b


def _multiply(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        _require_bits(a.bit_length() + b.bit_length())
    elif isinstance(a, int) and hasattr(b, "__len__"):
        _require_size(a * len(b))
    elif isinstance(b, int) and hasattr(a, "__len__"):
        _require_size(b * len(a))
    return a * b


def _modulo(a: Any, b: Any) -> Any:
    if isinstance(a, str | bytes):
        raise CannotTell("% on text is not known here")
    return a % b


def _pow(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        _require_bits(a.bit_length() * abs(b))
    return a**b


def _dict(pairs: Any) -> dict:
    pairs = [(key, value) for key, value in pairs]
    hashable([key for key, _ in pairs])
    return dict(pairs)


def _round(number: Any, num_digits: int | None) -> Any:
    if isinstance(num_digits, int) and abs(num_digits) > MAX_DIGITS:
        raise CannotTell("it is rounded to too many digits")
    return round(number, num_digits)


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    _require_size(len(numbers))
    return list(numbers)


def _sum(items: Any, start: Any) -> Any:
    if not isinstance(start, int | float | complex):
        raise CannotTell("a sum of anything but numbers is not known here")
    return sum(items, start)


def _require_bits(num_bits: int) -> None:
    if num_bits > MAX_INT_BITS:
        raise CannotTell("a number grows too large")


def _require_size(num_items: int) -> None:
    if num_items > MAX_SEQUENCE:
        raise CannotTell("a sequence grows too large")
