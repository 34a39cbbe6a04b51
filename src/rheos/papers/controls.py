"""Finding controls that nobody measured: a static look at the `Check(...)` calls of a claim file.

A control must be the same measurement with the paper's idea taken away. A number typed in its place would make any row pass, so a
claim file is read as a syntax tree and every control that is made of literals and constants only is reported.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["literal_controls"]

# Calls and names that turn constants into constants: float("inf"), round(1 / 3, 2), math.pi.
BUILTINS = frozenset({"abs", "bool", "complex", "float", "int", "len", "max", "min", "pow", "round", "sum"})
LIBRARIES = frozenset({"math", "np", "numpy", "torch"})
NUMBERS = frozenset({"e", "inf", "nan", "pi", "tau"})
FILLING = frozenset({"append", "extend", "insert", "setdefault", "update"})     # methods that put something into a container
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def literal_controls(path: Path) -> list[str]:
    """One line for every `Check(...)` of a claim file whose control is constant, as "deis.py:31: control=0.5 is not a measurement".

    Constant is: a number, an arithmetic expression or a plain builtin of constants, or a name, of the module or local, that is bound once
    and to such a thing. `control=None` (a supporting row) is fine. OSError when the file cannot be read, SyntaxError when it is no Python.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    aliases = {"Check"} | {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                           for alias in node.names if alias.name == "Check" and alias.asname}
    return [f"{path.name}:{call.lineno}: control={ast.unparse(control)} is not a measurement"
            for call, control, constants in _controls(tree, aliases, _constants(tree, frozenset()))
            if not (isinstance(control, ast.Constant) and control.value is None) and _constant(control, constants)]


def _controls(scope: ast.AST, aliases: set[str], constants: frozenset[str]) -> Iterator[tuple[ast.Call, ast.expr, frozenset[str]]]:
    """Every call of Check with its control and the names that are constant where it stands."""
    for node in _inside(scope):
        if isinstance(node, SCOPES):
            yield from _controls(node, aliases, _constants(node, constants))
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in aliases:
                given = [keyword.value for keyword in node.keywords if keyword.arg == "control"]
                # Behind a starred argument the position says nothing.
                if not given and len(node.args) > 4 and not any(isinstance(arg, ast.Starred) for arg in node.args[:5]):
                    given = [node.args[4]]
                for control in given:
                    yield node, control, constants


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a scope, in the order of the file; functions within it are given, but not entered."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, SCOPES):
            yield from _inside(child)


def _constants(scope: ast.AST, outer: frozenset[str]) -> frozenset[str]:
    """Names that are constant in a scope: those around it, less what is bound anew here, plus what is bound once, to a constant."""
    values: dict[str, list[ast.expr | None]] = {}
    if isinstance(scope, SCOPES):
        arguments = scope.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
            if argument is not None:
                values.setdefault(argument.arg, []).append(None)
    plain: set[int] = set()
    for node in _inside(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                _bind(target, node.value, values, plain)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            _bind(node.target, node.value, values, plain)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            values.setdefault(node.value.id, []).append(None)             # errors["plain"] = ...
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            if node.func.attr in FILLING:
                values.setdefault(node.func.value.id, []).append(None)    # errors.append(...)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            values.setdefault(node.name, []).append(None)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                values.setdefault(alias.asname or alias.name.split(".")[0], []).append(None)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)) and id(node) not in plain:
            values.setdefault(node.id, []).append(None)                   # bound by a loop, a with, += and the like: not followed
    found = outer - set(values)
    while True:             # a constant may be made of constants, so grow the set until it stays
        grown = found | {name for name, given in values.items() if len(given) == 1 and given[0] is not None and _constant(given[0], found)}
        if grown == found:
            return found
        found = grown


def _bind(target: ast.expr, value: ast.expr, values: dict[str, list[ast.expr | None]], plain: set[int]) -> None:
    """Note what an assignment binds: a name, or names taken apart like `a, b = 1, 2`."""
    if isinstance(target, ast.Name):
        values.setdefault(target.id, []).append(value)
        plain.add(id(target))
    elif isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (ast.Tuple, ast.List)) and len(target.elts) == len(value.elts):
        for one, its_value in zip(target.elts, value.elts, strict=True):
            _bind(one, its_value, values, plain)


def _constant(node: ast.expr, constants: frozenset[str]) -> bool:
    """Whether an expression is made of literals and constant names only."""
    match node:
        case ast.Constant():
            return True
        case ast.Name():
            return node.id in constants
        case ast.UnaryOp():
            return _constant(node.operand, constants)
        case ast.BinOp():
            return _constant(node.left, constants) and _constant(node.right, constants)
        case ast.BoolOp():
            return all(_constant(value, constants) for value in node.values)
        case ast.IfExp():                   # 1.0 if diverged else 0.0 is measured: by its condition
            return all(_constant(part, constants) for part in (node.test, node.body, node.orelse))
        case ast.Tuple() | ast.List() | ast.Set():
            return all(_constant(element, constants) for element in node.elts)
        case ast.Dict():
            return all(part is not None and _constant(part, constants) for part in [*node.keys, *node.values])
        case ast.Subscript():
            return _constant(node.value, constants) and _constant(node.slice, constants)
        case ast.Attribute():
            return isinstance(node.value, ast.Name) and node.value.id in LIBRARIES and node.attr in NUMBERS
        case ast.Call():
            return (isinstance(node.func, ast.Name) and node.func.id in BUILTINS and not node.keywords
                    and all(_constant(argument, constants) for argument in node.args))
    return False
