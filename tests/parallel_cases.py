"""What data, level and stage modes are tested with: models, wirings, and the steps that one device takes."""

import functools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import optax

import rlra_jax

KEY = jax.random.key(1)
RATES = optax.sgd(0.05), optax.sgd(0.1, momentum=0.9)
APART = *RATES, optax.sgd(0.03, momentum=0.5)  # synapses along paths have one of their own


class Normed(nn.Module):
    """Batch norm without a bias before it, whose gradient would be rounding alone."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(use_running_average=not train, name='norm')(nn.Dense(6, use_bias=False, name='dense')(x))
        return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(h))


# Its masked units have kinks: weights moved by 3e-7 of themselves change what it learns in five steps by up to 4 %.
TOLERANCE = {'presnet': 1e-3}


@functools.cache
def case(name, rule, kind='by_shape'):
    """(model, wiring, variables, batch, options, step, state after five plain steps on one device, last aux).

    Errors are large (beta 0.5, synapses 0.5): those of order beta^2 would cancel in float32.
    """
    if name == 'mlp':
        model, variables, _ = helpers.make_mlp(depth=16, gap=2)
        batch, options = helpers.make_batch(16), {'radius': 0.5, 'alpha': 0.9, 'kappa': 0.7, 'surrogate': jnp.sin}
    elif name == 'square':  # all layers of one shape: what most stages hold, the last one holds too
        batch = helpers.make_batch(16)
        model, variables, _ = helpers.make_mlp(depth=8, width=batch['image'][0].size)
        options = {}
    elif name == 'normed':
        model, batch, options = Normed(), helpers.make_batch(16), {'train_kwargs': {'train': True}}
        variables = dict(model.init(KEY, batch['image']))
    elif name in ('group', 'batch'):
        model, variables, batch, train_kwargs = helpers.make_four_stages(name, 16)
        options = {'train_kwargs': train_kwargs}
    elif name in ('readouts', 'overlap', 'rest', 'rest and overlap'):
        overlap, rest = int('overlap' in name), rlra_jax.Mirror(every=2) if 'rest' in name else None
        model, variables, batch, wiring = helpers.make_skips(blocks=4, rule=rule, overlap=overlap, rest=rest)
        options = {}
    else:
        model, variables, batch, wiring = helpers.make_deep(name)
        options = {'train_kwargs': {'train': True}} if name != 'encoder' else {}
    options |= {'beta': 0.5}
    rule = rlra_jax.Mirror(every=2, antithetic=name != 'group') if rule == 'mirror' else rule
    if name in ('mlp', 'square', 'normed', 'group', 'batch'):
        wired, kind = 'direct' if name == 'square' else 'blocks', 'pooled' if name == 'group' else kind
        wiring = helpers.make_wiring(model, batch['image'], wired, rule=rule, kind=kind)
    learner = apart.rec_lra(model, batch['image'], wiring=wiring, synapse_std=0.5, **options)
    step = apart.make_train_step(learner, *(APART if 'rest' in name else RATES))
    state = jax.jit(step.init)(KEY, variables, batch)
    state.state.memory['step'] += 1  # as one that goes on: the first step does not mirror
    return model, wiring, variables, batch, options, step, state, *five(step.update, state, batch)


def five(update, state, batch):
    update = jax.jit(update)
    for i in range(5):
        state, aux = update(state, batch, jax.random.key(i))
    return jax.device_get(state), jax.device_get(aux)
