# %% [markdown]
# # What backprop cannot do
#
# Two things follow from local targets. No derivative of an activation function is taken, so units that have none can
# learn. And a region can be updated as soon as its target is known, so a step need not remember what happened in the
# regions below: memory that does not grow with depth.
#
# It takes about two minutes on two CPU cores, and downloads nothing but packages.

# %%
# In Colab: upload the wheel that `pip wheel --no-deps .` makes, run this cell, and restart the runtime. With a GPU take
# rlra_jax[cuda12,notebook]. Where all is installed, nothing happens.
# %pip install --quiet --find-links . 'rlra_jax[notebook]'

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rlra_jax
from rlra_jax import plot
from rlra_jax.experiment.data import load

data = load('digits')  # 8 x 8 pixels, from 0 to 16
train = {'image': jnp.asarray(data.train.image) / 16.0, 'label': jnp.asarray(data.train.label)}
test = {'image': jnp.asarray(data.test.image) / 16.0, 'label': jnp.asarray(data.test.label)}
batch = {name: values[:100] for name, values in train.items()}

# %% [markdown]
# ## Units without a derivative
#
# A sign unit is 1 or -1. Its derivative is 0 almost everywhere, so backprop refuses it: no error would get past the
# last layer.

# %%
model = rlra_jax.nn.MLP(widths=(128, 128, 128), phi=jnp.sign)
net = rlra_jax.regions(model, batch)
try:
    rlra_jax.LEARNERS['backprop'](net)
except ValueError as error:
    print(error)

# %% [markdown]
# rec-LRA trains it. By Eqs. 3 and 4 the error of a sign unit is 2 or -2 where the displacement carries it over its
# threshold, and 0 elsewhere: right on average, but noisy. `surrogate=jnp.tanh` asks in targets, and only there, how
# near a unit was to its threshold; the network itself computes with signs, in training as afterwards. On digits both
# train; on MNIST, where errors are smaller, noise stopped the one at 6 % and the other gets to 2.3 %
# (results/notes/mlp.md).

# %%
EPOCHS, BATCH, SEEDS = 20, 57, 3
STEPS = EPOCHS * (len(train['label']) // BATCH)
OPTIMIZER = rlra_jax.optimizers(optax.adam(optax.cosine_decay_schedule(2e-3, STEPS)), synapses=optax.sgd(0.3))


def curve(options):
    """Test error in % after each epoch, over the seeds."""
    learner = rlra_jax.update_fn(net, rlra_jax.wire_direct(net, rule=rlra_jax.Mirror(every=2)), options)
    step = rlra_jax.make_train_step(learner, OPTIMIZER)

    def one(state, key):
        rows = jax.random.choice(key, len(train['label']), (BATCH,))
        return step.update(state, {name: values[rows] for name, values in train.items()}, key)[0], None

    def epoch(state, keys):
        state, _ = jax.lax.scan(one, state, keys)
        return state, 100 * (model.apply(state.variables, test['image']).argmax(axis=-1) != test['label']).mean()

    def run(key):
        return jax.lax.scan(epoch, step.init(key), jax.random.split(key, STEPS).reshape(EPOCHS, -1))[1]

    errors = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS)))
    print(f'{errors[:, -1].mean():.2f} ± {errors[:, -1].std(ddof=1):.2f} % test error')
    return plot.Curve(range(1, EPOCHS + 1), errors.mean(axis=0), errors.std(axis=0, ddof=1))


found = {
    'surrogate tanh': curve(rlra_jax.Options(beta=0.1, surrogate=jnp.tanh)),
    'as in Eqs. 3 and 4': curve(rlra_jax.Options(beta=1.0)),
}
plot.curves({'sign units, digits, 3 seeds': found}, y='test error (%)', log=True)

# %% [markdown]
# ## Memory that does not grow with depth
#
# Backprop keeps the activity of every layer until its backward sweep comes by. `stream_step` runs forward once to learn
# the error at the output, storing nothing; then it runs forward again and updates each block as it goes. XLA tells how
# much temporary memory a compiled step needs; weights are not counted.

# %%
WIDE = {'image': jax.ShapeDtypeStruct((512, 64), jnp.float32), 'label': jax.ShapeDtypeStruct((512,), jnp.int32)}
DEPTHS = (4, 8, 16, 32)
SGD = rlra_jax.optimizers(optax.sgd(0.01))


def temporary(step):
    """Megabytes of a compiled step besides what goes in and out."""
    state = jax.eval_shape(step.init, jax.random.key(0))
    compiled = jax.jit(step.update, donate_argnums=0).lower(state, WIDE, jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


needs = {'backprop': [], 'rec-LRA, plain': [], 'rec-LRA, streaming': []}
for depth in DEPTHS:
    deep = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=128, depth=depth, gap=2), WIDE)
    wiring = rlra_jax.wire_blocks(deep, gap=2, rule=rlra_jax.KolenPollack())
    needs['backprop'].append(temporary(rlra_jax.make_train_step(rlra_jax.LEARNERS['backprop'](deep), SGD)))
    needs['rec-LRA, plain'].append(temporary(rlra_jax.make_train_step(rlra_jax.update_fn(deep, wiring), SGD)))
    needs['rec-LRA, streaming'].append(temporary(rlra_jax.parallel.stream_step(deep, wiring, SGD)))
for name, megabytes in needs.items():
    print(f'{name:20}', *(f'{need:7.2f}' for need in megabytes), 'MB')

# %%
memory = {name: plot.Curve(DEPTHS, megabytes) for name, megabytes in needs.items()}
plot.curves({'width 128, batch 512': memory}, x='layers', y='temporary memory of a step (MB)')

# %% [markdown]
# What that costs is one more forward pass, and a wiring whose edges, other than from the output, stay within a block.
# `rlra_jax.parallel` says the rest: streaming several blocks, and pipelines whose stages wait for no backward sweep.
