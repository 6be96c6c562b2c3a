# %% [markdown]
# # Your own Flax model
#
# rec-LRA needs one thing of a model: that its activations are marked, since each mark ends a region with a target of
# its own. Everything else stays as it is. This notebook marks a linen model and an nnx model, checks that no part of
# them is trained by backprop in silence, and trains with a `flax.training.train_state.TrainState`.
#
# It takes about a minute on two CPU cores, and downloads nothing but packages.

# %%
# In Colab: upload the wheel that `pip wheel --no-deps .` makes, run this cell, and restart the runtime. With a GPU take
# rlra_jax[cuda12,notebook]. Where all is installed, nothing happens.
# %pip install --quiet --find-links . 'rlra_jax[notebook]'

# %%
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training import train_state

import rlra_jax
from rlra_jax.experiment.data import load

data = load('digits')  # 8 x 8 pixels, from 0 to 16
train = {'image': jnp.asarray(data.train.image) / 16.0, 'label': jnp.asarray(data.train.label)}
test = {'image': jnp.asarray(data.test.image) / 16.0, 'label': jnp.asarray(data.test.label)}
batch = {name: values[:100] for name, values in train.items()}


def drawn(steps):
    """Random batches, each with a key."""
    for i in range(steps):
        key = jax.random.key(i)
        rows = jax.random.choice(key, len(train['label']), (50,))
        yield {name: values[rows] for name, values in train.items()}, key


def test_error(outputs):
    return 100 * float((outputs.argmax(axis=-1) != test['label']).mean())


# %% [markdown]
# ## A model that knows nothing of rec-LRA
#
# A small residual network with normalisation, as anyone would write it. Unmarked, all of it would be one region, and
# `check_cut` refuses that.


# %%
class Net(nn.Module):
    act: Callable[[jax.Array], jax.Array] = nn.relu
    stream: Callable[[jax.Array], jax.Array] = lambda h: h  # what each sum passes

    @nn.compact
    def __call__(self, image):
        z = self.stream(nn.Dense(32, name='embed')(image.reshape(len(image), -1)))
        for i in range(3):
            h = self.act(nn.Dense(32, name=f'up_{i}')(nn.LayerNorm(name=f'norm_{i}')(z)))
            z = self.stream(z + nn.Dense(32, name=f'down_{i}')(h))
        return nn.Dense(10, name='readout')(z)


net = rlra_jax.regions(Net(), batch)
try:
    rlra_jax.check_cut(net)
except ValueError as error:
    print(error)

# %% [markdown]
# `find_activations` lists where a model applies its activations, and so where marks belong.

# %%
for found in rlra_jax.find_activations(net):
    print(found.function, found.shape)  # and found.location, the file and line

# %% [markdown]
# ## Marks
#
# The model takes its activation as a field, so no line of it changes: `Site.of(relu)` is relu, and makes a `Site` at
# each call. But a residual stream is a path around all of them, on which a derivative could travel from the loss to the
# lowest layer. `check_cut` finds it.

# %%
try:
    rlra_jax.check_cut(rlra_jax.regions(Net(act=rlra_jax.Site.of(nn.relu)), batch))
except ValueError as error:
    print(error)

# %% [markdown]
# So the stream is cut, too, by a Site of the identity after each sum. Now each parameter reaches exactly one region.

# %%
model = Net(act=rlra_jax.Site.of(nn.relu), stream=rlra_jax.Site.of(lambda h: h))
net = rlra_jax.regions(model, batch)
for parameter, regions in rlra_jax.check_cut(net).items():
    print(f'{parameter:20} {", ".join(regions)}')

# %% [markdown]
# ## Error pathways
#
# `wire_reverse` sends errors along the forward graph backwards, skips included; each hop has synapses of its own. Many
# levels want `normalise=True`, since errors fade from level to level otherwise.

# %%
wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.Mirror(every=2))
rlra_jax.plot.network(net, wiring)

# %% [markdown]
# ## In a Flax TrainState
#
# An update has the signature of a gradient: so `weights`, which hold the parameters W *and* the error synapses E, take
# the place of `params`, and the optimizer is an optax transformation of both. What the update renews besides (batch
# statistics, a step counter) is one more field.


# %%
class State(train_state.TrainState):
    learned: Any  # what the update keeps from step to step


update = rlra_jax.update_fn(net, wiring, rlra_jax.Options(normalise=True))
weights, kept = update.init(jax.random.key(0))
optimizer = rlra_jax.optimizers(optax.adam(2e-3), synapses=optax.sgd(1.0))
state = State.create(apply_fn=model.apply, params=weights, tx=optimizer, learned=kept)


@jax.jit
def step(state, batch, key):
    grads, kept, aux = update(state.params, state.learned, batch, key)
    return state.apply_gradients(grads=grads, learned=kept), aux.loss


for examples, key in drawn(400):
    state, loss = step(state, examples, key)
outputs = state.apply_fn({'params': state.params['params']}, test['image'])
print(f'loss {loss:.3f}, test error {test_error(outputs):.2f} %')

# %% [markdown]
# The synapses have learned where backprop would send errors: the angles between updates and gradients, in degrees.

# %%
diagnose = jax.jit(lambda weights, kept: rlra_jax.diagnose(net, update, weights, kept, batch, jax.random.key(0)))
found = diagnose(state.params, state.learned)
print({name.removeprefix('angle/'): round(float(value), 1) for name, value in found.items() if 'angle' in name})

# %% [markdown]
# ## In nnx
#
# In nnx a mark is `rlra_jax.nnx.Site`. A module's state becomes a tree of variables, which trains as above, and `merge`
# makes a module of it again.


# %%
class Small(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 32, rngs=rngs)
        self.act_1 = rlra_jax.nnx.Site(nnx.gelu)
        self.second = nnx.Linear(32, 32, rngs=rngs)
        self.act_2 = rlra_jax.nnx.Site(nnx.gelu)
        self.readout = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, image):
        z = self.act_1(self.first(image.reshape(len(image), -1)))
        return self.readout(self.act_2(self.second(z)))


small = Small(nnx.Rngs(0))
net = rlra_jax.regions(small, batch)
update = rlra_jax.update_fn(net, rlra_jax.wire_direct(net))
train_step = rlra_jax.make_train_step(update, rlra_jax.optimizers(optax.adam(2e-3), synapses=optax.sgd(0.3)))
run = jax.jit(train_step.update)
state = train_step.init(jax.random.key(0), rlra_jax.nnx.variables(small))  # from the module's own parameters
for examples, key in drawn(400):
    state, aux = run(state, examples, key)
trained = rlra_jax.nnx.merge(small, state.variables)
print(f'loss {aux.loss:.3f}, test error {test_error(trained(test["image"])):.2f} %')

# %% [markdown]
# ## Your own call and loss
#
# A model that is called in another way, or that returns something else than logits, says so in two functions. Here the
# same digits are learned by their squared distance to one-hot vectors.


# %%
def call(module, batch):
    return module(batch['pixels'])


def squared(outputs, batch):
    return optax.l2_loss(outputs, jax.nn.one_hot(batch['label'], 10)).sum(axis=-1)  # [B]: a number for each example


def renamed(batch):
    return {'pixels': batch['image'], 'label': batch['label']}


net = rlra_jax.regions(small, renamed(batch), call=call)
update = rlra_jax.update_fn(net, rlra_jax.wire_direct, loss=squared)
train_step = rlra_jax.make_train_step(update, rlra_jax.optimizers(optax.adam(2e-3), synapses=optax.sgd(0.3)))
run = jax.jit(train_step.update)
state = train_step.init(jax.random.key(0), rlra_jax.nnx.variables(small))
for examples, key in drawn(400):
    state, aux = run(state, renamed(examples), key)
trained = rlra_jax.nnx.merge(small, state.variables)
print(f'loss {aux.loss:.3f}, test error {test_error(trained(test["image"])):.2f} %')
