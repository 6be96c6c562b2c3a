"""`flax.nnx` models: the mark of a region, and a module's state as `variables` and back.

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(784, 256, rngs=rngs)
            self.act = rlra_jax.nnx.Site(jnp.tanh)
            ...

    model = Net(nnx.Rngs(0))
    variables = rlra_jax.nnx.variables(model)  # then as for a linen model, with this model in its place
    trained = rlra_jax.nnx.merge(model, variables)  # an nnx module again

The module's flags (`model.train()`, `model.eval()`) count as they are when an update is first traced.
"""

from rlra_jax.model.nnx import Site, merge, variables

__all__ = ['Site', 'merge', 'variables']
