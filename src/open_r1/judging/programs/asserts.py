"""An assert test, split in two: the calls of the program's functions go inside, all the rest is worked out outside.

`assert f(2) == 4` becomes the expression `f(2)`, which the sandbox is asked for, and the comparison of what came out
with 4, made here. So what is expected never goes where the program is, and no class of the program's has a say in the
comparison. Of the names in a test, those that are bound to literals are replaced by them, so that no call can change
what a later line sees; those that are bound to calls of the program live inside, from one line to the next.

What cannot be split so that this holds is refused, and so is a test that a program passes whatever it returns.
"""

import ast
import builtins
import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from open_r1.judging.programs.evaluation import (
    ERRORS,
    FUNCTIONS,
    KEYWORDS,
    MATH_CONSTANTS,
    MATH_FUNCTIONS,
    METHODS,
    OPERATORS,
    TYPES,
    Brought,
    CannotTell,
    evaluate,
)
from open_r1.judging.programs.values import Step

MAX_UNROLLED = 2000  # expressions of one test
# Methods of an object of the program's; the others of METHODS are called outside, on what the program returned.
METHODS_OF_OBJECTS = ("count", "get", "index", "items", "keys", "values")
ANSWERS = (  # of programs that solve nothing: a test that all of a kind pass asks for nothing but the kind
    (True, False),
    (0, 1, -1, 0.5, 2**40),
    ("", "a", "Zz 0"),
    ([], [0], ["b", "a"]),
    ((), (0,), ("b", "a")),
    ({}, {"a": 0}, {1: []}),
    (set(), {0}, {"b", "a"}),
)
IMPORTED_OUTSIDE = {"math", *MATH_FUNCTIONS, *MATH_CONSTANTS}


class CannotSplit(ValueError):
    """The test cannot be judged safely; the words say why."""


@dataclass(frozen=True)
class SplitTest:
    """What is run inside, in order, and the conditions on what comes out of it."""

    steps: tuple[Step, ...]
    conditions: tuple[ast.expr, ...]

    def passes(self, brought: Sequence[Any]) -> bool:
        """True if every condition holds for the values of the steps that show one."""
        try:
            return all(_is_true(evaluate(condition, brought)) for condition in self.conditions)
        except ERRORS:
            return False

    @property
    def num_shown(self) -> int:
        return sum(kind == "show" for kind, *_ in self.steps)


def split_asserts(text: str) -> SplitTest:
    """The test in two parts. Raises CannotSplit."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise CannotSplit(f"it is no Python ({error})") from None
    splitter = _Splitter()
    try:
        splitter.statements(module.body)
    except RecursionError:
        raise CannotSplit("it is nested too deeply") from None
    if not splitter.conditions:
        raise CannotSplit("it has no assert")
    test = SplitTest(tuple(splitter.steps), tuple(splitter.conditions))
    for answers in ANSWERS:
        if all(test.passes([answer] * test.num_shown) for answer in answers):
            kind = type(answers[0]).__name__
            raise CannotSplit(f"it passes whatever the program returns, if it is of a kind ({kind})")
    return test


def _is_true(value: Any) -> bool:
    if not isinstance(value, bool | int | float | complex | str | bytes | list | tuple | dict | set | frozenset | None):
        raise TypeError("no plain value")
    return bool(value)


class _Splitter:
    """Goes through a test once. `conditions` are trees in which Brought stands for what `steps` show."""

    def __init__(self):
        self.steps: list[Step] = []
        self.conditions: list[ast.expr] = []
        self.num_shown = 0
        self.literals: dict[str, ast.expr] = {}
        self.worked_out: dict[str, ast.expr] = {}
        """Names that live outside, bound to what is made of results."""
        self.values: set[str] = set()
        """Names that live inside, bound to what a function returned."""
        self.objects: set[str] = set()
        """Names that live inside, bound to what a class, or a function with a capital, returned."""
        self.imported: set[str] = set()
        self.nested: dict[int, str] = {}
        """Numbers of what is shown -> the source, where a call of the program is an argument of another."""

    def statements(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            match statement:
                case ast.Assert():
                    self._assert(statement)
                case ast.Assign(targets=[target]) | ast.AnnAssign(target=target, value=ast.expr()):
                    self._assign(target, statement.value)
                case ast.Import() | ast.ImportFrom():
                    self._import(statement)
                case ast.For(orelse=[]):
                    self._for(statement)
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case ast.Expr(value=ast.Call() as call) if self._is_inside(call):
                    if not self._goes_in_whole(call):
                        raise CannotSplit(f"line {statement.lineno}: it does nothing for the asserts")
                    self._do(statement)
                case _:
                    raise CannotSplit(f"line {statement.lineno}: neither an assert nor a line that prepares one")

    def _assert(self, statement: ast.Assert) -> None:
        condition = self._split(statement.test, frozenset())
        if isinstance(condition, ast.Tuple | ast.List | ast.Set | ast.Dict):
            raise CannotSplit(f"line {statement.lineno}: it always holds; are the brackets meant?")
        if not _has_brought(condition):
            raise CannotSplit(f"line {statement.lineno}: the assert calls nothing of the program")
        for number in _truths(condition):
            if number in self.nested:
                raise CannotSplit(
                    f"line {statement.lineno}: {self.nested[number]}: a function of the program's would be its judge; "
                    f"import it from the standard library, or compare with =="
                )
        _try_constants(condition)
        self.conditions.append(condition)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        names = [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
        if not all(isinstance(node, ast.Name | ast.Tuple | ast.List | ast.expr_context) for node in ast.walk(target)):
            raise CannotSplit(f"line {target.lineno}: only names can be bound in a test")
        for name in names:
            if name in FUNCTIONS or name in IMPORTED_OUTSIDE:
                raise CannotSplit(f"line {target.lineno}: {name} is a name of Python's; choose another")
        value = self._with_literals(value)
        if not self._is_inside(value):
            found = self._outside_value(value)
            self._forget(names)
            if isinstance(target, ast.Name):
                self.literals[target.id] = value
            else:
                self._bind_literals(target, found)
        elif self._goes_in_whole(value):
            self._do(ast.Assign([target], value))
            self._forget(names)
            (self.objects if _is_made_by_class(value) else self.values).update(names)
        elif isinstance(target, ast.Name):
            tree = self._split(value, frozenset())
            self._forget(names)
            self.worked_out[target.id] = tree
        else:
            raise CannotSplit(f"line {target.lineno}: bind the result of the call first, then what is made of it")

    def _goes_in_whole(self, node: ast.expr) -> bool:
        """True if an expression is one call of the program, with nothing around it that belongs outside."""
        before = len(self.steps), self.num_shown
        is_whole = isinstance(self._split(node, frozenset()), Brought)
        num_steps, self.num_shown = before
        del self.steps[num_steps:]
        self.nested = {number: source for number, source in self.nested.items() if number < self.num_shown}
        return is_whole

    def _bind_literals(self, target: ast.expr, value: Any) -> None:
        bound: dict[str, Any] = {}
        _unpack(target, value, bound)
        self.literals |= {name: _literal(one) for name, one in bound.items()}

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.literals.pop(name, None)
            self.worked_out.pop(name, None)
            self.values.discard(name)
            self.objects.discard(name)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        before = len(self.imported)
        for alias in statement.names:
            name = alias.asname or alias.name.partition(".")[0]
            module = statement.module if isinstance(statement, ast.ImportFrom) else alias.name
            if (module or "").partition(".")[0] not in sys.stdlib_module_names:
                if isinstance(statement, ast.Import) or alias.asname not in (None, alias.name):
                    raise CannotSplit(f"line {statement.lineno}: {module} is no module of the standard library")
                continue  # `from solution import f`: the program's own functions are there without it
            if alias.name == "*":
                raise CannotSplit(f"line {statement.lineno}: name what is imported, so that it is not the program's")
            is_other = name in IMPORTED_OUTSIDE and (module != "math" or name != alias.name)
            if name in FUNCTIONS or is_other:
                raise CannotSplit(f"line {statement.lineno}: {name} is a name of Python's; choose another")
            self.imported.add(name)
        if len(self.imported) > before:
            self.steps.append(("do", ast.unparse(statement)))

    def _for(self, statement: ast.For) -> None:
        for item in self._items(statement.iter):
            self._forget([node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name)])
            self._bind_literals(statement.target, item)
            self.statements(statement.body)

    def _do(self, statement: ast.stmt) -> None:
        self._require_few()
        self.steps.append(("do", ast.unparse(ast.fix_missing_locations(self._with_literals(statement)))))

    def _show(self, node: ast.expr, bound: frozenset[str]) -> Brought:
        self._require_few()
        node = self._with_literals(node)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and (inner.id in bound or inner.id in self.worked_out):
                raise CannotSplit(f"{inner.id} is known outside of the program alone, but a call needs it")
            if isinstance(inner, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
                raise CannotSplit(f"{ast.unparse(inner)} is not known here")
        number, source = self.num_shown, ast.unparse(node)
        self.steps.append(("show", source))
        self.num_shown += 1
        if isinstance(node, ast.Call) and any(map(self._is_inside, [*node.args, *node.keywords])):
            self.nested[number] = source
        return Brought(number=number)

    def _require_few(self) -> None:
        if len(self.steps) >= MAX_UNROLLED:
            raise CannotSplit(f"it asks for more than {MAX_UNROLLED} calls")

    # which part of an expression is whose

    def _is_inside(self, node: ast.AST) -> bool:
        """True if some part of an expression calls the program, or lives inside."""
        return any(
            (isinstance(inner, ast.Call) and self._is_of_program(inner.func))
            or (isinstance(inner, ast.Name) and inner.id in self.values | self.objects | self.worked_out.keys())
            for inner in ast.walk(node)
        )

    def _is_of_program(self, function: ast.expr) -> bool:
        return isinstance(function, ast.Name) and not (
            function.id in FUNCTIONS or function.id in self.imported or hasattr(builtins, function.id)
        )

    def _split(self, node: ast.expr, bound: frozenset[str]) -> ast.expr:
        """The tree with Brought in place of what goes inside. `bound` are names of comprehensions."""
        match node:
            case ast.Constant(value=value) if value is not Ellipsis:
                return node
            case ast.Name(id=name) if name in bound:
                return node
            case ast.Name(id=name) if name in self.literals:
                return self._split(self.literals[name], bound)
            case ast.Name(id=name) if name in self.worked_out:
                return self.worked_out[name]
            case ast.Name(id=name) if name in self.values or name in self.objects:
                return self._show(node, bound)
            case ast.Name(id=name) if name in MATH_CONSTANTS and name in self.imported:
                return ast.Constant(MATH_CONSTANTS[name])
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in MATH_CONSTANTS:
                return ast.Constant(MATH_CONSTANTS[name])
            case ast.Attribute(value=owner) if self._is_inside(owner) and self._goes_in_whole(owner):
                return self._show(node, bound)
            case ast.Call():
                return self._split_call(node, bound)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self._split_comprehension(node, bound)
            case ast.Compare(ops=kinds, comparators=operands):
                for kind, operand in zip(kinds, operands, strict=True):
                    if isinstance(kind, ast.Is | ast.IsNot) and not _is_singleton(operand):
                        raise CannotSplit("`is` is for None, True and False; write ==")
            case ast.BinOp(op=kind) | ast.UnaryOp(op=kind) if type(kind) not in OPERATORS:
                raise CannotSplit(f"{ast.unparse(node)}: such an operator is not known here")
            case ast.Dict(keys=keys) if None in keys:
                raise CannotSplit(f"{ast.unparse(node)}: ** is not known here")
            case ast.List() | ast.Tuple() | ast.Set() | ast.Dict() | ast.UnaryOp() | ast.BinOp() | ast.BoolOp():
                pass
            case ast.IfExp() | ast.Subscript() | ast.Slice():
                pass
            case _:
                raise CannotSplit(f"{ast.unparse(node)} is known neither outside nor as a call of the program")
        return self._with_children(node, bound)

    def _with_children(self, node: ast.expr, bound: frozenset[str]) -> ast.expr:
        node = copy.copy(node)
        for name, child in ast.iter_fields(node):
            if isinstance(child, ast.expr):
                setattr(node, name, self._split(child, bound))
            elif isinstance(child, list):
                parts = [self._split(one, bound) if isinstance(one, ast.expr) else one for one in child]
                setattr(node, name, parts)
        return node

    def _split_call(self, node: ast.Call, bound: frozenset[str]) -> ast.expr:
        function = node.func
        if self._is_of_program(function):
            return self._show(node, bound)
        if isinstance(function, ast.Name):
            return self._split_function(node, function.id, FUNCTIONS, bound)
        if not isinstance(function, ast.Attribute):
            raise CannotSplit(f"{ast.unparse(node)}: such a call is not known here")
        owner, name = function.value, function.attr
        if isinstance(owner, ast.Name) and owner.id == "math" and "math" in self.imported:
            return self._split_function(node, name, MATH_FUNCTIONS, bound)
        if not self._is_inside(owner):
            if name in METHODS:
                return self._split_method(node, bound)
            raise CannotSplit(f"{ast.unparse(node)}: such a call is not known here")
        if name.startswith("__"):
            raise CannotSplit(f"{ast.unparse(node)}: {name} would give the comparison to the program")
        if self._is_object(owner):
            if name in METHODS and name not in METHODS_OF_OBJECTS and node.args:
                raise CannotSplit(f"{ast.unparse(node)}: is this a method of the program's, or of a string?")
            return self._show(node, bound)
        if name in METHODS:
            return self._split_method(node, bound)
        if node.args or node.keywords or not self._goes_in_whole(owner):
            raise CannotSplit(f"{ast.unparse(node)}: .{name}() would take what is expected inside")
        return self._show(node, bound)

    def _is_object(self, node: ast.expr) -> bool:
        """True for what has methods of the program's own: `Stack()`, or a name that is bound to it."""
        if isinstance(node, ast.Name):
            return node.id in self.objects
        return _is_made_by_class(node) or (isinstance(node, ast.Attribute) and self._is_object(node.value))

    def _split_function(self, node: ast.Call, name: str, known: dict, bound: frozenset[str]) -> ast.expr:
        if name == "isinstance" and len(node.args) == 2 and not node.keywords:
            kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            if all(isinstance(kind, ast.Name) and kind.id in TYPES for kind in kinds):
                return ast.Call(node.func, [self._split(node.args[0], bound), node.args[1]], [])
            raise CannotSplit(f"{ast.unparse(node)}: the class is no builtin")
        if name not in known and name in self.imported and name in MATH_FUNCTIONS:  # from math import isclose
            node = ast.Call(ast.Attribute(ast.Name("math"), name), node.args, node.keywords)
            known = MATH_FUNCTIONS
        if name not in known:
            raise CannotSplit(f"{ast.unparse(node)}: {name} is not known outside of the program")
        if any(keyword.arg not in KEYWORDS.get(name, ()) for keyword in node.keywords):
            raise CannotSplit(f"{ast.unparse(node)}: such an argument of {name} is not known here")
        keywords = [ast.keyword(keyword.arg, self._split(keyword.value, bound)) for keyword in node.keywords]
        return ast.Call(node.func, [self._split(argument, bound) for argument in node.args], keywords)

    def _split_method(self, node: ast.Call, bound: frozenset[str]) -> ast.expr:
        if node.keywords:
            raise CannotSplit(f"{ast.unparse(node)}: such arguments are not known here")
        owner = ast.Attribute(self._split(node.func.value, bound), node.func.attr)
        return ast.Call(owner, [self._split(argument, bound) for argument in node.args], [])

    def _split_comprehension(self, node, bound: frozenset[str]) -> ast.expr:
        """A comprehension that calls the program for each of some literals is written out; others stay."""
        first, *rest = node.generators
        element = ast.Tuple([node.elt, *(condition for one in node.generators for condition in one.ifs)])
        if self._is_inside(element) or any(self._is_inside(one.iter) for one in rest):
            if rest or first.ifs:
                raise CannotSplit(f"{ast.unparse(node)}: calls in a loop in a loop, or with a condition, are not known")
            return self._written_out(node, first, bound)
        inner, generators = bound, []
        for one in node.generators:
            iterable = self._split(one.iter, inner)
            inner |= {name.id for name in ast.walk(one.target) if isinstance(name, ast.Name)}
            conditions = [self._split(condition, inner) for condition in one.ifs]
            generators.append(ast.comprehension(one.target, iterable, conditions, 0))
        return type(node)(self._split(node.elt, inner), generators)

    def _written_out(self, node, generator: ast.comprehension, bound: frozenset[str]) -> ast.expr:
        before, elements = dict(self.literals), []
        for item in self._items(generator.iter):
            self._bind_literals(generator.target, item)
            elements.append(self._split(node.elt, bound - self.literals.keys()))
        self.literals = before
        return ast.Set(elements) if isinstance(node, ast.SetComp) else ast.List(elements)

    def _items(self, node: ast.expr) -> Iterator[Any]:
        items = self._outside_value(self._with_literals(node))
        if not isinstance(items, list | tuple | str | dict):
            raise CannotSplit(f"{ast.unparse(node)}: a loop goes over a list of literals")
        if len(items) > MAX_UNROLLED:
            raise CannotSplit(f"it asks for more than {MAX_UNROLLED} calls")
        return iter(items)

    def _outside_value(self, node: ast.expr) -> Any:
        """The value of an expression that calls nothing of the program."""
        if self._is_inside(node):
            raise CannotSplit(f"{ast.unparse(node)}: only literals can be looped over where the program is called")
        try:
            return evaluate(self._split(node, frozenset()))
        except CannotTell as error:
            raise CannotSplit(f"{ast.unparse(node)}: {error}") from None
        except ERRORS as error:
            raise CannotSplit(f"{ast.unparse(node)}: {type(error).__name__}: {error}") from None

    def _with_literals(self, node):
        """The tree with the names that are bound to literals replaced by them."""
        hidden = {name.arg for name in ast.walk(node) if isinstance(name, ast.arg)}
        hidden |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
        literals = {name: one for name, one in self.literals.items() if name not in hidden}
        return _Replacement(literals).visit(copy.deepcopy(node))


class _Replacement(ast.NodeTransformer):
    def __init__(self, literals: dict[str, ast.expr]):
        self.literals = literals

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.literals.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def _truths(node: ast.AST) -> Iterator[int]:
    """Numbers of what a condition takes for true or false as it is."""
    match node:
        case Brought():
            yield node.number
        case ast.UnaryOp(op=ast.Not()) | ast.BoolOp() | ast.IfExp() | ast.Compare() | ast.List() | ast.Set():
            if not isinstance(node, ast.Compare) or any(map(_is_singleton, ast.iter_child_nodes(node))):
                for child in ast.iter_child_nodes(node):
                    yield from _truths(child)
        case ast.Call(func=ast.Name(id="all" | "any" | "bool" | "sum"), args=arguments):
            for argument in arguments:
                yield from _truths(argument)


def _has_brought(node: ast.AST) -> bool:
    return any(isinstance(inner, Brought) for inner in ast.walk(node))


def _try_constants(node: ast.expr) -> None:
    """Raises CannotSplit if a part of a condition that needs nothing from inside cannot be worked out."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        children = [*owner, *node.args, *node.keywords]
    for child in children:
        if _has_brought(child):
            _try_constants(child)
        elif isinstance(child, ast.expr) and not isinstance(child, ast.Name | ast.Slice):
            try:
                evaluate(child)
            except ERRORS as error:
                if not any(isinstance(inner, ast.Name) for inner in ast.walk(child)):  # names of a comprehension
                    raise CannotSplit(f"{ast.unparse(child)}: {error}") from None


def _is_singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))


def _is_made_by_class(node: ast.expr) -> bool:
    """True for a call of a name with a capital, which is how classes are named."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.lstrip("_")[:1].isupper()


def _unpack(target: ast.expr, value: Any, names: dict[str, Any]) -> None:
    if isinstance(target, ast.Name):
        names[target.id] = value
        return
    if not isinstance(target, ast.Tuple | ast.List):
        raise CannotSplit("only names can be bound in a test")
    if not isinstance(value, list | tuple | str) or len(value) != len(target.elts):
        raise CannotSplit(f"{ast.unparse(target)}: there are not as many values")
    for one, item in zip(target.elts, value, strict=True):
        _unpack(one, item, names)


def _literal(value: Any) -> ast.expr:
    """The expression of a plain value."""
    text = repr(value)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise CannotSplit(f"{text[:50]} cannot be written as a literal ({error})") from None
    if any(isinstance(node, ast.Name) for node in ast.walk(tree)):  # inf, nan, set()
        raise CannotSplit(f"{text[:50]} cannot be written as a literal")
    return tree
