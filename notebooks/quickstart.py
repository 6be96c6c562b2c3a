# %% [markdown]
# # rec-LRA, from the first step to what a target is
#
# Recursive local representation alignment (rec-LRA) trains a deep network without backpropagation: every region of the
# network gets a *target* of its own, over an *error synapse*, and learns from it locally. This notebook trains a small
# network on handwritten digits, compares it with backprop, draws the error pathways, and computes one update by hand.
#
# It takes about a minute on two CPU cores. Nothing is downloaded but packages: scikit-learn carries the digits.

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


def scaled(split):
    return {'image': jnp.asarray(split.image) / 16.0, 'label': jnp.asarray(split.label)}


train, test = scaled(data.train), scaled(data.test)
print(f'{len(train["label"])} digits to train, {len(test["label"])} to test')

# %% [markdown]
# ## Regions and error pathways
#
# A model is cut into *regions*: each ends at a `Site`, which marks an activation, or at the output. `regions` traces
# the model once and finds them. A *wiring* says which region hears from which: here every second region and the
# last hidden one hear the output, and the others hear the region above. Regions of one *recursion level* do not
# wait for each other.

# %%
model = rlra_jax.nn.MLP(widths=(64, 64, 64), classes=10)
net = rlra_jax.regions(model, {name: values[:100] for name, values in train.items()})
wiring = rlra_jax.wire_blocks(net, gap=2)
rlra_jax.summary(net, wiring)

# %%
plot.network(net, wiring)

# %% [markdown]
# ## Training, beside backprop
#
# Every learner is a pair of pure functions. `init` draws weights, `{'params': W, 'synapses': E}`; `update` stands where
# `jax.value_and_grad` stood, and its gradients go to any optax optimizer. So one loop serves all learners; three seeds
# train side by side under `vmap`.

# %%
EPOCHS, BATCH, SEEDS = 20, 50, 3
STEPS = EPOCHS * (len(train['label']) // BATCH)
OPTIMIZER = rlra_jax.optimizers(optax.adam(optax.cosine_decay_schedule(2e-3, STEPS)), synapses=optax.sgd(0.3))


def test_error(variables):
    return 100 * (model.apply(variables, test['image']).argmax(axis=-1) != test['label']).mean()


def train_all(learner):
    """Test errors in %, [seeds, epochs]; and the trained states."""
    step = rlra_jax.make_train_step(learner, OPTIMIZER)

    def epoch(state, key):
        rows = jax.random.permutation(key, len(train['label']))
        rows = rows[: len(rows) // BATCH * BATCH].reshape(-1, BATCH)

        def one(state, rows):
            batch = {name: values[rows] for name, values in train.items()}
            return step.update(state, batch, jax.random.fold_in(key, rows[0]))[0], None

        state, _ = jax.lax.scan(one, state, rows)
        return state, test_error(state.variables)

    def run(key):
        return jax.lax.scan(epoch, step.init(key), jax.random.split(key, EPOCHS))

    states, errors = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    return np.asarray(errors), states


options = rlra_jax.Options(beta=0.1)
learners = {
    'rec-LRA': rlra_jax.update_fn(net, wiring, options),
    'backprop': rlra_jax.LEARNERS['backprop'](net),
    'direct feedback alignment': rlra_jax.LEARNERS['direct_feedback_alignment'](net),
}
errors, trained = {}, {}
for name, learner in learners.items():
    errors[name], trained[name] = train_all(learner)
    print(f'{name}: {errors[name][:, -1].mean():.2f} ± {errors[name][:, -1].std(ddof=1):.2f} % test error')

# %% [markdown]
# The bands are one standard deviation over the three seeds. Nothing was tuned for any learner, and a test set of so few
# digits cannot tell differences of half a percent: read them as ties.

# %%
curves = {
    name: plot.Curve(range(1, EPOCHS + 1), found.mean(axis=0), found.std(axis=0, ddof=1))
    for name, found in errors.items()
}
plot.curves({'digits': curves}, y='test error (%)', log=True)

# %% [markdown]
# ## What a target is
#
# The forward pass gives each region a pre-activation `h` and an activity `z = phi(h)`. At the output the error `e_L` is
# the derivative of the loss. An error synapse `E` carries it to a hidden region as a displacement `d = e_L E`, and then
#
# - the target is what the region would rather have done: `y = phi(h - beta d)` (Eq. 3);
# - the region's error is the mismatch: `e = z - y` (Eq. 4);
# - its weights learn from what they read and that error: the transpose of the activity below, times `e` (Eq. 5).
#
# No derivative of phi is taken, and no error passes through the forward weights `W`. Below is the update of region
# `hidden_2`, which hears the output over a straight synapse, computed by hand and compared with what the library
# returns.

# %%
state = jax.tree.map(lambda leaf: leaf[0], trained['rec-LRA'])  # the first seed
batch = {name: values[:100] for name, values in train.items()}

W, E = state.weights['params'], state.weights['synapses'][0]['output->hidden_2']  # [10, 64]
z = [batch['image'].reshape(100, -1)]
for layer in ('dense_1', 'dense_2', 'dense_3'):
    h = z[-1] @ W[layer]['kernel'] + W[layer]['bias']
    if layer == 'dense_2':
        h_2 = h
    z.append(jnp.tanh(h))
logits = z[3] @ W['readout']['kernel'] + W['readout']['bias']

e_L = jax.nn.softmax(logits) - jax.nn.one_hot(batch['label'], 10)  # the derivative of the loss
d = e_L @ E
y = jnp.tanh(h_2 - options.beta * d)
e = z[2] - y
by_hand = z[1].T @ e / 100

grads, _, aux = jax.jit(learners['rec-LRA'])(state.weights, state.state, batch, jax.random.key(0))
by_library = grads['params']['dense_2']['kernel']
print(f'largest difference {abs(by_hand - by_library).max():.1e}, of updates up to {abs(by_library).max():.1e}')

# %% [markdown]
# Targets lie close to the activities that were found, and closer the better the network does. The total discrepancy
# (Eq. 2) sums up by how much they differ.

# %%
print(f'total discrepancy {aux.discrepancy:.2e}')
plot.activity(net, wiring, state.weights, state.state, batch, jax.random.key(0), options)

# %% [markdown]
# ## Where the updates point
#
# `diagnose` compares a learner with backprop, region by region: here the angle between a region's update and the
# gradient, in degrees, before training and after it. The synapses start at random, and learn by the rule `Mirror` how
# the output responds to each region; so the angles fall without anyone aligning them by hand.

# %%
learner = learners['rec-LRA']
weights, fresh = learner.init(jax.random.key(0))
diagnose = jax.jit(lambda weights, kept: rlra_jax.diagnose(net, learner, weights, kept, batch, jax.random.key(0)))
angles = {'before': diagnose(weights, fresh), 'after': diagnose(state.weights, state.state)}
for region in ('hidden_1', 'hidden_2', 'hidden_3', 'output'):
    print(region, *(f'{when} {found[f"angle/{region}"]:5.1f}' for when, found in angles.items()), sep='   ')

# %% [markdown]
# ## What next
#
# - `your_own_flax_model.ipynb`: marks in linen and nnx, and rec-LRA in a `flax.training.TrainState`.
# - `wiring_and_levels.ipynb`: one level, two, or as many as layers; and several devices.
# - `beyond_backprop.ipynb`: units without a derivative, and memory that does not grow with depth.
# - `language.ipynb`: a small transformer.
