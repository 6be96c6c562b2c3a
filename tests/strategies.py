"""What hypothesis draws for tests/properties: graphs of regions, shapes, arrays."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from rlra_jax.types import Region

seeds = st.integers(0, 2**32 - 1)
batches = st.integers(1, 4)
units = st.integers(1, 5)
floating = st.sampled_from(['bfloat16', 'float16', 'float32'])


@st.composite
def graphs(draw, most=7):
    """{region: the regions that it hears}, in forward order, the output last; every hidden one leads to the output."""
    names = draw(st.permutations([f'r{i}' for i in range(draw(st.integers(1, most)))]))  # names say no place
    heard = {
        name: draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3)) if i else []
        for i, name in enumerate(names)
    }
    used = {source for sources in heard.values() for source in sources}
    last = draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
    ends = [name for name in names if name not in used]
    return {**heard, 'output': [name for name in names if name in {*ends, *last}]}


@st.composite
def regions(draw):
    """Regions of a graph, as `sites` tells them: of units and maps of any small size."""
    graph = draw(graphs())
    shapes = {name: draw(st.one_of(st.tuples(units), st.tuples(units, units, units))) for name in graph}
    shapes['output'] = (draw(st.integers(2, 5)),)
    return tuple(Region(name, (1, *shapes[name]), 'float32', tuple(heard)) for name, heard in graph.items())


def array(seed, shape, dtype='float32', scale=1.0):
    """Normal numbers."""
    return np.asarray(scale * np.random.default_rng(seed).normal(size=shape), np.float32).astype(jnp.dtype(dtype))
