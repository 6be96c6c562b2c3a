"""Reads a compiled program: bytes that each device sends, and the longest chain of dependent matrix products.

Loops count as often as they run and a branch counts as its dearest side, which `cost_analysis()` does not do.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4}
_BYTES |= {'s64': 8, 'u64': 8, 'f64': 8}
_PRODUCTS = ('dot', 'convolution')
# Bytes that a device sends, as multiples of the operand's bytes for groups of n: ring algorithms.
_SENT = {
    'all-reduce': lambda n: 2 * (n - 1) / n,
    'all-gather': lambda n: n - 1,
    'reduce-scatter': lambda n: (n - 1) / n,
    'all-to-all': lambda n: (n - 1) / n,
}


class Instruction(NamedTuple):
    """One line of HLO text."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str
    literal: str  # what stands in the parentheses


class Program:
    """The computations of a compiled program.

    Args:
      text: what `compiled.as_text()` returned.
    """

    def __init__(self, text: str):
        self._computations: dict[str, list[Instruction]] = {}
        self._roots: dict[str, str] = {}
        name = ''
        for line in text.splitlines():
            if header := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$', line):
                name = header[2]
                self._computations[name] = []
                if header[1]:
                    self._entry = name
            elif found := _parse(line):
                self._computations[name].append(found)
                if line.lstrip().startswith('ROOT'):
                    self._roots[name] = found.name

    def sent_bytes(self, computation: str | None = None) -> float:
        """Bytes that one device sends to others in a run of the program."""
        total = 0.0
        for line in self._computations[computation or self._entry]:
            kind = line.op.removesuffix('-start')
            if kind in _SENT or kind == 'collective-permute':
                shapes = {other.name: other.shape for other in self._computations[computation or self._entry]}
                size = sum(_size(shapes[name]) for name in line.operands)
                total += size * _fraction(kind, line.attributes)
            called = [self.sent_bytes(name) for name in _called(line)]
            total += max(called) if line.op == 'conditional' else _trips(line) * sum(called)
        return total

    def longest_chain(self) -> int:
        """Matrix products and convolutions on the longest path of dependent ones."""
        self._longest = 0
        self._run(self._entry, None)
        return self._longest

    def _run(self, computation: str, arguments: Sequence[Any] | None) -> Any:
        """How many products lie behind the result; of a tuple, a list."""
        depth: dict[str, Any] = {}
        for line in self._computations[computation]:
            depth[line.name] = self._depth(line, [depth[name] for name in line.operands if name in depth], arguments)
        return depth[self._roots[computation]]

    def _depth(self, line: Instruction, operands: list[Any], arguments: Sequence[Any] | None) -> Any:
        if line.op == 'parameter':
            return arguments[int(line.literal)] if arguments else 0
        if line.op == 'tuple':
            return operands
        if line.op == 'get-tuple-element':
            index = int(re.search(r'index=(\d+)', line.attributes)[1])  # type: ignore[index]
            return operands[0][index] if isinstance(operands[0], list) else operands[0]
        if line.op == 'while':
            state = operands[0]
            body = re.search(r'body=%?([\w.\-]+)', line.attributes)[1]  # type: ignore[index]
            for _ in range(_trips(line)):
                state = self._run(body, [state])
            return state
        if line.op == 'conditional':
            sides = zip(_called(line), operands[1:], strict=True)
            results = [self._run(name, [operand]) for name, operand in sides]
            return _spread_max(results, _top(operands[0]))
        if line.op in ('fusion', 'call'):
            return self._run(_called(line)[0], operands)
        found = max(map(_top, operands), default=0) + (line.op in _PRODUCTS)
        self._longest = max(self._longest, found)
        return found


def _parse(line: str) -> Instruction | None:
    found = re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = (.*)$', line)
    if not found:
        return None
    name, rest = found.groups()
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index('(')
    stop = _closing(rest, start)
    literal = rest[start + 1 : stop]
    return Instruction(name, shape, rest[:start], tuple(re.findall(r'%([\w.\-]+)', literal)), rest[stop + 1 :], literal)


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == '(') - (text[index] == ')')
        if depth == 0:
            return index
    raise ValueError(f'no closing parenthesis in {text!r}')


def _called(line: Instruction) -> list[str]:
    """Computations that an instruction runs; not the scalar ones of reductions and collectives."""
    if line.op == 'conditional':
        branches = re.search(r'branch_computations=\{([^}]*)\}', line.attributes)
        if branches:
            return re.findall(r'%?([\w.\-]+)', branches[1])
        return re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', line.attributes)
    if line.op in ('while', 'fusion', 'call'):
        return re.findall(r'(?:body|calls|to_apply)=%?([\w.\-]+)', line.attributes)
    return []


def _trips(line: Instruction) -> int:
    """How often a loop runs. One that does not tell counts once: in stage mode such a loop stands for a branch."""
    found = re.search(r'known_trip_count":\{"n":"(\d+)"', line.attributes)
    return int(found[1]) if line.op == 'while' and found else 1


def _size(shape: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(n) for n in dims.split(',') if n)
        for dtype, dims in re.findall(r'(\w+)\[([\d,]*)\]', shape)
        if dtype in _BYTES
    )


def _fraction(kind: str, attributes: str) -> float:
    if kind == 'collective-permute':
        pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', attributes)
        return float(any(a != b for a, b in re.findall(r'(\d+),(\d+)', pairs[1]))) if pairs else 0.0
    return _SENT[kind](_group_size(attributes))


def _group_size(attributes: str) -> int:
    """Devices that take part in one collective, in any of the forms {{0,1},{2,3}}, [2,2]<=[4], mesh['a'=2] {'a'}."""
    if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', attributes):
        return len(listed[1].split(','))
    if counted := re.search(r'replica_groups=\[(\d+),(\d+)\]', attributes):
        return int(counted[2])
    if named := re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    raise ValueError(f'no replica groups in {attributes!r}')


def _top(depth: Any) -> int:
    return max(map(_top, depth), default=0) if isinstance(depth, list) else depth


def _spread_max(results: Sequence[Any], least: int) -> Any:
    """Entry by entry, the deepest branch, and at least the predicate."""
    if isinstance(results[0], list):
        return [_spread_max(entries, least) for entries in zip(*results, strict=True)]
    return max(least, *results)


def describe(compiled: Any) -> Mapping[str, float]:
    """{'temp_bytes', 'sent_bytes_per_device', 'longest_chain'} of what `jit(f).lower(...).compile()` returned."""
    program = Program(compiled.as_text())
    return {
        'temp_bytes': compiled.memory_analysis().temp_size_in_bytes,
        'sent_bytes_per_device': round(program.sent_bytes()),
        'longest_chain': program.longest_chain(),
    }
