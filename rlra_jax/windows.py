"""Which positions of one map a position of another sees, operation by operation of a trace: receptive fields.

Convolutions, pooling, padding, slices and joined channels compose exactly. What is reduced over all positions, such as
a normalisation's statistics, has no window of its own: it is the same everywhere. Nothing is known of what else moves
positions about; `windows_by_shape` guesses.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

from rlra_jax.types import Window, Windows

Shape = Sequence[int]
EVERYWHERE: Windows = ()
# Results of these depend, entry by entry, on operands of the same shape, or of length 1 along some axes.
_BY_ENTRY = {
    *('abs', 'ceil', 'cbrt', 'convert_element_type', 'copy', 'cos', 'erf', 'exp', 'exp2', 'expm1', 'floor'),
    *('integer_pow', 'is_finite', 'log', 'log1p', 'logistic', 'name', 'neg', 'not', 'reduce_precision', 'round'),
    *('rsqrt', 'sign', 'sin', 'sqrt', 'square', 'stop_gradient', 'tan', 'tanh'),
    *('add', 'add_any', 'and', 'clamp', 'div', 'eq', 'ge', 'gt', 'le', 'lt', 'max', 'min', 'mul', 'ne', 'or', 'pow'),
    *('rem', 'select_n', 'sub'),
}


def shape(atom: core.Var | core.Literal) -> tuple[int, ...]:
    """Of an operand or a result; () of what is no array."""
    return getattr(atom.aval, 'shape', ())


def unmoved(axes: int) -> Windows:
    """Every position, along so many axes, sees itself."""
    return (Window(0, 0, 1),) * axes


def join(one: Windows | None, other: Windows | None) -> Windows | None:
    """What sees both; None: not known."""
    if one == EVERYWHERE or other == EVERYWHERE:
        return other if one == EVERYWHERE else one
    if one is None or other is None or any(a.stride != b.stride for a, b in zip(one, other, strict=True)):
        return None
    return tuple(Window(min(a.first, b.first), max(a.last, b.last), a.stride) for a, b in zip(one, other, strict=True))


def after(eqn: core.JaxprEqn, operand: int, seen: Windows | None) -> Windows | None:
    """What an operation's result sees of something of which the operand of that number sees so much."""
    if not seen:
        return seen
    before, result = shape(eqn.invars[operand]), shape(eqn.outvars[0])
    own = _OPERATIONS.get(eqn.primitive.name, _in_place)(eqn, operand, before, result, len(seen))
    return own if not own else tuple(map(_compose, seen, own))


def _compose(lower: Window, upper: Window) -> Window:
    first, last = lower.first + lower.stride * upper.first, lower.last + lower.stride * upper.last
    return Window(first, last, lower.stride * upper.stride)


# (operation, number of the operand, its shape, the result's, how many axes of the operand from 1 on are positions)
_Operation = Callable[[core.JaxprEqn, int, Shape, Shape, int], Windows | None]


def _in_place(eqn: core.JaxprEqn, operand: int, before: Shape, result: Shape, axes: int) -> Windows | None:
    """Of an operation that keeps examples and positions where they are; None of any other."""
    name, params, end = eqn.primitive.name, eqn.params, axes + 1
    if name in _BY_ENTRY or name in ('reshape', 'squeeze'):
        fits = True
    elif name == 'broadcast_in_dim':
        fits = tuple(params['broadcast_dimensions'][:end]) == tuple(range(end))
    elif name in ('concatenate', 'split'):
        fits = params['dimension' if name == 'concatenate' else 'axis'] >= end
    elif name == 'dot_general':
        contracted, batch = (dimensions[operand] for dimensions in params['dimension_numbers'])
        fits = operand == 0 and min(contracted, default=end) >= end and tuple(batch) in ((), (0,))
    else:
        fits = False
    return unmoved(axes) if fits and tuple(result[:end]) == tuple(before[:end]) else None


def _reduce(eqn: core.JaxprEqn, operand: int, before: Shape, result: Shape, axes: int) -> Windows | None:
    reduced, places = set(eqn.params['axes']), set(range(1, axes + 1))
    if places <= reduced:
        return EVERYWHERE
    return None if reduced & {0, *places} else unmoved(axes)


def _pad(eqn: core.JaxprEqn, operand: int, before: Shape, result: Shape, axes: int) -> Windows | None:
    padding = eqn.params['padding_config'][1 : axes + 1]
    if operand or any(interior for _, _, interior in padding):
        return None
    return tuple(Window(-low, -low, 1) for low, _, _ in padding)


def _slice(eqn: core.JaxprEqn, operand: int, before: Shape, result: Shape, axes: int) -> Windows | None:
    starts, strides = eqn.params['start_indices'], eqn.params['strides'] or (1,) * len(before)
    return tuple(Window(starts[axis], starts[axis], strides[axis]) for axis in range(1, axes + 1))


def _convolution(eqn: core.JaxprEqn, operand: int, before: Shape, result: Shape, axes: int) -> Windows | None:
    params = eqn.params
    numbers, places = params['dimension_numbers'], tuple(range(1, axes + 1))
    here = tuple(numbers.lhs_spec[2:]) == tuple(numbers.out_spec[2:]) == places
    if operand or not here or numbers.lhs_spec[0] or any(step != 1 for step in params['lhs_dilation']):
        return None
    taps = [shape(eqn.invars[1])[axis] for axis in numbers.rhs_spec[2:]]
    return _slide(taps, params['window_strides'], params['padding'], params['rhs_dilation'])


def _pool(eqn: core.JaxprEqn, operand: int, before: Shape, result: Shape, axes: int) -> Windows | None:
    params, places = eqn.params, slice(1, axes + 1)
    if any(step != 1 for step in params['base_dilation'][places]):
        return None
    sliding = ('window_dimensions', 'window_strides', 'padding', 'window_dilation')
    return _slide(*(params[name][places] for name in sliding))


def _slide(taps: Shape, strides: Shape, padding: Sequence[Any], dilation: Shape) -> Windows:
    along = zip(taps, strides, padding, dilation, strict=True)
    return tuple(Window(-low, -low + step * (n - 1), stride) for n, stride, (low, _), step in along)


_OPERATIONS: dict[str, _Operation] = {
    'conv_general_dilated': _convolution,
    'pad': _pad,
    'slice': _slice,
    **dict.fromkeys(('reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod', 'reduce_and', 'reduce_or'), _reduce),
    **dict.fromkeys(('reduce_window_max', 'reduce_window_min', 'reduce_window_sum', 'reduce_window'), _pool),
}


def windows_by_shape(source: Shape, target: Shape) -> Windows:
    """The convolution along each axis that leads from the target's positions to the source's, as far as sizes tell.

    Padding is what SAME gives for sizes that a SAME convolution explains, else VALID. The kernel has 3 taps, or as many
    as a stack of 3-tap convolutions sees that halve the map until the stride is reached, 2 stride - 1. Sizes do not
    tell SAME padding from `stride - 1` zeros in front, as in networks that pad both sides alike; a map of an even size
    is halved by either, one position apart. Then the taps are those of both.
    """
    if any(n > m for n, m in zip(source[1:-1], target[1:-1], strict=False)):
        raise ValueError(
            "a 'conv_transpose' synapse without windows leads from a map to one of as many or more positions along "
            f'each axis; got {source} and {target}'
        )
    windows = []
    for narrow, wide in zip(source[1:-1], target[1:-1], strict=True):
        stride = math.ceil(wide / narrow)
        same = math.ceil(wide / stride) == narrow
        if not same:
            stride = wide // narrow
        taps = max(3, 2 * stride - 1)
        low = max((narrow - 1) * stride + taps - wide, 0) // 2
        missing = max(stride - 1 - low, 0) if same else 0  # taps that only the other padding has
        windows.append(Window(-low - missing, taps - 1 - low, stride))
    return tuple(windows)
