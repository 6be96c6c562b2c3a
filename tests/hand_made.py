"""Regions without a model."""

from rlra_jax.types import Region


def regions(*hidden):
    """Regions of these names that do not say what feeds them, and an output."""
    return tuple(Region(name, (1, 2), 'float32') for name in (*hidden, 'output'))


def sized(**shapes):
    """Regions of these shapes of an example, and an output of 10 classes."""
    return tuple(Region(name, (1, *shape), 'float32') for name, shape in {**shapes, 'output': (10,)}.items())


def fed(name, *inputs):
    """A region that hears these, and no others."""
    return Region(name, (1, 4), 'float32', inputs)


def pathways(wiring):
    """(source, target) of its edges, level by level."""
    return [sorted((e.source, e.target) for e in level) for level in wiring.levels]
