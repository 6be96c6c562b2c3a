"""`Site`, the mark that makes an activation the end of a region."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import flax.linen as nn
import jax.numpy as jnp
from flax.errors import AssignSubModuleError

from rlra_jax.paths import join
from rlra_jax.types import Array, Phi
from rlra_jax.validate import require_phi

# (phi, h) -> z, while regions are captured: stands in for a Site where linen lets none be made.
stand_in: ContextVar[Callable[[Phi, Array], Array] | None] = ContextVar('stand_in', default=None)
# (region, what leaves its Site): told of every Site that is called, captured or not.
watcher: ContextVar[Callable[[str, Array], None] | None] = ContextVar('watcher', default=None)
# Whether a front end captures regions: what marks one must then be known to it.
capturing: ContextVar[bool] = ContextVar('capturing', default=False)


@contextlib.contextmanager
def captured() -> Iterator[None]:
    """While regions are captured."""
    token = capturing.set(True)
    try:
        yield
    finally:
        capturing.reset(token)


def noted(name: str, z: Array) -> Array:
    """Tells the watcher, if there is one, what leaves a Site; returns that."""
    watch = watcher.get()
    if watch is not None:
        watch(name, z)
    return z


class Site(nn.Module):
    """A parameter-less module that takes a pre-activation h `[B, ...]` and returns z = phi(h) of the same shape.

    Outside rec-LRA it is just the activation function, so that one model serves every learner.

    Attributes:
      phi: any function of h, one example at a time; it needs no derivative. One that mixes
        units must have a symmetric Jacobian, as softmax has; see `check_phi`.

    Raises:
      ValueError: phi is no function, or regions of an nnx model are captured, which a linen Site does not end.
    """

    phi: Phi = jnp.tanh

    def __post_init__(self) -> None:
        require_phi('phi', self.phi)
        super().__post_init__()

    @nn.compact
    def __call__(self, h: Array) -> Array:
        if capturing.get():  # in a linen model something stands in for this
            raise ValueError(
                f'the linen Site {join(self.path)!r} lies inside an nnx model, where it would be no end of a region; '
                'make it an rlra_jax.nnx.Site of that model'
            )
        return noted(join(self.path), self.phi(h))

    @staticmethod
    def of(phi: Phi) -> Callable[[Array], Array]:
        """An activation function that makes a new Site at each call: for models with an `act=` field.

        In methods without `nn.compact`, which can make no module, its calls are counted in the module that calls:
        'block_1/Site_0', 'block_1/Site_1' and so on, the names that linen gives elsewhere.
        """
        require_phi('phi', phi)

        def site(h: Array) -> Array:
            try:
                made = Site(phi)
            except AssignSubModuleError:
                visit = stand_in.get()
                return phi(h) if visit is None else visit(phi, h)
            return made(h)

        return site
