"""The front end for `flax.linen` modules: an interceptor stands in for every `Site`."""

import contextlib
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from typing import Any

import flax
import flax.linen as nn
import jax

from rlra_jax.model.call import with_key
from rlra_jax.model.site import Site, captured, noted, stand_in
from rlra_jax.paths import join
from rlra_jax.types import Array, Batch, Call, OnSite, Phi, PyTree, Variables

_COLLECTION = 'rlra'
Place = tuple[str, ...]  # a collection, the path of a module, the name of a variable
_watching = threading.RLock()  # held while `nn.Module.sow` is another function


@contextlib.contextmanager
def intercept_methods(interceptor: Callable[..., Any]) -> Iterator[None]:
    """`nn.intercept_methods`, also under `python -O`, which leaves out the assert in which Flax ends it."""
    try:
        with nn.intercept_methods(interceptor):
            yield
    finally:
        if not __debug__ and interceptor in nn.module._global_interceptor_stack:
            nn.module._global_interceptor_stack.pop()


def init(model: nn.Module, call: Call, key: Array, batch: Batch) -> Variables:
    """The model's variables, drawn anew, without what it only sows."""
    with _watched_sowing() as sown:
        made = model.init(_streams(key), batch, method=with_key(call, key))
    return {name: tree for name, tree in made.items() if not _is_sown(name, tree, sown)}


def apply(
    model: nn.Module, call: Call, variables: Variables, batch: Batch, rngs: Array | None
) -> tuple[Array, Variables]:
    """(what the call returns, the model's collections other than params after the pass)."""
    mutable = [name for name in variables if name != 'params']
    y, state = model.apply(variables, batch, rngs=_streams(rngs), mutable=mutable, method=with_key(call, rngs))
    return y, _kept(dict(state), variables)


def capture(
    model: nn.Module, call: Call, variables: Variables, batch: Batch, rngs: Array | None, on_site: OnSite, record: bool
) -> tuple[Array, dict[str, tuple[Array, ...]], Variables]:
    """`apply` with on_site in the place of every Site's phi; in the middle, {Site's path: the h of its calls}.

    h is sown if record says so, so that it comes out of lifted transforms such as nn.remat.
    """
    unmade = _Unmade()

    @contextlib.contextmanager
    def calling(module: nn.Module, method: str) -> Iterator[None]:
        """While a method of the module runs, it also hears of the activations that `Site.of` could not make Sites."""

        def visit(phi: Phi, h: Array) -> Array:
            name = unmade.name(module.path)
            if record:
                module.sow(_COLLECTION, name, h)
            return on_site(join((*module.path, name)), phi, h)

        token = stand_in.set(visit)
        try:
            with unmade.running(module.path, method):
                yield
        finally:
            stand_in.reset(token)

    def intercept(next_fun, args, keywords, context):
        site = context.module
        if not isinstance(site, Site) or context.method_name != '__call__':
            with calling(site, context.method_name):
                return next_fun(*args, **keywords)
        h = next(iter((*args, *keywords.values())))
        if record:
            site.sow(_COLLECTION, 'h', h)
        return noted(join(site.path), on_site(join(site.path), site.phi, h))

    mutable = [*([_COLLECTION] if record else []), *(name for name in variables if name != 'params')]
    with intercept_methods(intercept), captured():
        y, state = model.apply(variables, batch, rngs=_streams(rngs), mutable=mutable, method=with_key(call, rngs))
    state = dict(state)
    sown = flax.traverse_util.flatten_dict(state.pop(_COLLECTION, {}))
    seen = {join(path[:-1] if path[-1] == 'h' else path): h for path, h in sown.items()}
    return y, seen, _kept(state, variables)


class _Unmade:
    """Names of the activations that `Site.of` could not make Sites: by their order in a call of a module's method.

    So they are the same at each call, as those that linen gives to modules.
    """

    def __init__(self):
        self._numbers: dict[tuple[str, ...], dict[tuple[str, int], int]] = defaultdict(dict)
        self._running: dict[tuple[str, ...], tuple[str, Iterator[int]]] = {}

    @contextlib.contextmanager
    def running(self, path: tuple[str, ...], method: str) -> Iterator[None]:
        """While a method runs; those that it calls of its own module are part of it."""
        outermost = path not in self._running
        if outermost:
            self._running[path] = method, itertools.count()
        try:
            yield
        finally:
            if outermost:
                del self._running[path]

    def name(self, path: tuple[str, ...]) -> str:
        """Of the activation that the running method of this module applies next."""
        method, order = self._running[path]
        numbers = self._numbers[path]
        return f'Site_{numbers.setdefault((method, next(order)), len(numbers))}'


def _streams(key: Array | None) -> dict[str, Array] | None:
    """The random streams of a pass. A name that Flax does not find draws from 'params', as that is split in loops."""
    return None if key is None else {'params': key, 'dropout': jax.random.fold_in(key, 0)}


def _kept(state: Variables, given: Variables) -> Variables:
    """The state, if it is still like what was given; collections that a model sows into grow with every pass."""
    if grown := _grown(state, given):
        raise ValueError(
            f'the collections {grown} are not after the pass what they were before, as those that a model sows into; '
            'leave them out of `variables`'
        )
    leaves = {name: jax.tree.leaves(flax.core.unfreeze(tree)) for name, tree in state.items()}
    return {name: jax.tree.unflatten(jax.tree.structure(given[name]), leaves[name]) for name in state}


@contextlib.contextmanager
def _watched_sowing() -> Iterator[set[Place]]:
    """Adds where anything is sown meanwhile; what it adds up to tells nobody that it was."""
    found = set[Place]()
    with _watching:
        original = nn.Module.sow

        def sow(module: nn.Module, collection: str, name: str, *args: Any, **keywords: Any) -> bool:
            found.add((collection, *module.path, name))
            return original(module, collection, name, *args, **keywords)

        nn.Module.sow = sow
        try:
            yield found
        finally:
            nn.Module.sow = original


def _is_sown(collection: str, tree: PyTree, sown: Set[Place]) -> bool:
    """Whether all of a collection was."""
    places = [(collection, *path) for path in flax.traverse_util.flatten_dict(flax.core.unfreeze(tree))]
    return bool(places) and all(any(place[: len(own)] == own for own in sown) for place in places)


def _grown(state: Variables, given: Variables) -> list[str]:
    return [name for name in state if _layout(state[name]) != _layout(given[name])]


def _layout(tree: PyTree) -> Any:
    return jax.tree.structure(flax.core.unfreeze(tree))
