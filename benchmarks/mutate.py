"""Small faults, one at a time, that tests must notice: what `benchmarks.mutants` makes of a source file."""

import ast
import dataclasses
from collections.abc import Iterator
from typing import Any

_OPERATORS = {
    **{'+': '-', '-': '+', '*': '/', '/': '*', '//': '*', '**': '*', '%': '//', '&': '|'},
    **{'<': '<=', '<=': '<', '>': '>=', '>=': '>', 'and': 'or', 'or': 'and'},
}
_FUNCTIONS = {
    **{'maximum': 'minimum', 'minimum': 'maximum', 'max': 'min', 'min': 'max', 'any': 'all', 'all': 'any'},
    **{'mean': 'sum', 'sum': 'mean', 'zeros_like': 'ones_like', 'zeros': 'ones', 'square': 'abs', 'sqrt': 'abs'},
    **{'isdisjoint': 'issuperset', 'swapaxes': 'rollaxis', 'union': 'intersection'},
}
_SETTINGS = {'strict', 'stacklevel', 'has_aux', 'out_axes', 'in_axes'}  # arguments that change no number
_IDENTITIES = {'abs', 'sign', 'stop_gradient', 'reversed', 'widen', 'exp'}  # f(x) becomes x


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault: what stands at a place of a file becomes something else."""

    file: str
    line: int
    start: int  # of the text that is replaced, in characters
    stop: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """Where it is, and what it does."""
        return f'{self.file}:{self.line} {" ".join(self.old.split())} -> {" ".join(self.new.split())}'

    def applied(self, source: str) -> str:
        """The file with the fault."""
        return source[: self.start] + self.new + source[self.stop :]


def by_hand(file: str, source: str, old: str, new: str) -> Mutant:
    """A fault that no operator makes.

    Raises:
      ValueError: the old text does not stand in the file exactly once.
    """
    if source.count(old) != 1:
        raise ValueError(f'{file} must hold {old!r} once; it holds it {source.count(old)} times')
    start = source.index(old)
    return Mutant(file, source.count('\n', 0, start) + 1, start, start + len(old), old, new)


def mutants(file: str, source: str) -> list[Mutant]:
    """Every fault of one operator, constant, call or branch, in order; none in messages, types or refusals."""
    lines = source.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))

    def place(node: Any) -> tuple[int, int]:
        def at(line: int, column: int) -> int:  # columns count bytes
            return offsets[line - 1] + len(lines[line - 1].encode()[:column].decode())

        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    found = []
    for node in _walk(ast.parse(source)):
        for start, stop, new in _faults(node, place, source):
            found.append(Mutant(file, source.count('\n', 0, start) + 1, start, stop, source[start:stop], new))
    return sorted(set(found), key=lambda mutant: (mutant.start, mutant.stop, mutant.new))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """What is computed: no docstrings, annotations, messages or checks."""
    for name, value in ast.iter_fields(node):
        if name in ('annotation', 'returns', 'decorator_list'):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.If) and all(isinstance(inner, ast.Raise) for inner in child.body):
                continue
            if isinstance(child, ast.Expr) and _is_said(child.value):
                continue
            if isinstance(child, ast.JoinedStr) or (isinstance(child, ast.keyword) and child.arg in _SETTINGS):
                continue
            yield child
            yield from _walk(child)


def _is_said(value: ast.expr) -> bool:
    """Whether an expression that stands alone is a docstring, a check or a warning."""
    checks = 'require', 'check_', '_check', 'warn', '_warn'
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and _called(value).startswith(checks))


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, 'id', '')


def _faults(node: Any, place: Any, source: str) -> Iterator[tuple[int, int, str]]:
    """(start, stop, new text) of each fault of a node itself."""
    start, stop = place(node) if hasattr(node, 'lineno') else (0, 0)

    def text(part: Any) -> str:
        return source[slice(*place(part))]

    match node:
        case ast.BinOp(left=left, right=right):
            yield from _between(source, place(left)[1], place(right)[0])
        case ast.Compare(left=left, comparators=[right]):  # a negation is what both branches are
            yield from _between(source, place(left)[1], place(right)[0])
        case ast.BoolOp(values=[left, right, *_]):
            yield from _between(source, place(left)[1], place(right)[0])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield start, stop, f'({text(operand)})'
        case ast.Constant(value=bool(value)):
            yield start, stop, str(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield start, stop, repr(value + 1 if isinstance(value, int) or not value else 2 * value)
        case ast.IfExp(body=body, orelse=orelse):
            yield start, stop, f'({text(body)})'
            yield start, stop, f'({text(orelse)})'
        case ast.If(test=test):
            yield *place(test), 'True'
            yield *place(test), 'False'
        case ast.Call(func=function, args=args):
            name = _called(node)
            if name in _FUNCTIONS:
                end = place(function)[1]
                yield end - len(name), end, _FUNCTIONS[name]
            if name in _IDENTITIES and len(args) == 1:
                yield start, stop, f'({text(args[0])})'
        case ast.Attribute(attr='T', value=value):
            yield start, stop, text(value)
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield start, stop, 'pass'


def _between(source: str, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
    """The operator between two operands."""
    gap = source[start:stop]
    operator = gap.strip(' \n()')
    if operator in _OPERATORS:
        at = start + gap.index(operator)
        yield at, at + len(operator), _OPERATORS[operator]
