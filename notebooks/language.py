# %% [markdown]
# # A small language model
#
# A transformer learns to write, character by character, from local targets. Its residual stream is cut by a Site after
# every sum, and its MLPs at their activations; attention is trained inside its region.
#
# The text is Python's own manual, which every Python carries, so nothing is downloaded but packages. It takes about two
# minutes on two CPU cores: enough to learn what words look like, not to spell them.

# %%
# In Colab: upload the wheel that `pip wheel --no-deps .` makes, run this cell, and restart the runtime. With a GPU take
# rlra_jax[cuda12,notebook]. Where all is installed, nothing happens.
# %pip install --quiet --find-links . 'rlra_jax[notebook]'

# %%
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rlra_jax
from rlra_jax import plot

text = '\n'.join(topics.values()).encode('ascii', 'ignore').decode()
alphabet = sorted(set(text))
tokens = jnp.asarray([alphabet.index(character) for character in text])
held_out = len(tokens) // 10
print(f'{len(tokens):,} characters, {len(alphabet)} different ones')
print(text[2000:2300])

# %% [markdown]
# ## Regions
#
# A batch is windows of the text; the label of each position is the character after it. The model has no `image` to
# read, so `call` says how it is called.

# %%
CONTEXT, BATCH = 32, 20


def windows(tokens, starts):
    rows = tokens[starts[:, None] + jnp.arange(CONTEXT + 1)]
    return {'tokens': rows[:, :-1], 'label': rows[:, 1:]}


model = rlra_jax.nn.Transformer(classes=len(alphabet), context=CONTEXT, width=64, depth=2, heads=4)
example = windows(tokens, jnp.arange(BATCH))
net = rlra_jax.regions(model, example, call=lambda module, batch: module(batch['tokens']))
rlra_jax.summary(net)

# %% [markdown]
# ## Error pathways
#
# `wire_reverse` sends errors along the forward graph backwards, over synapses of their own, which learn by the rule
# `Mirror` in noisy passes, here at every eighth step.

# %%
wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.Mirror(every=8))
plot.network(net, wiring)

# %% [markdown]
# ## Training, beside backprop
#
# Bits per character on the last tenth of the text, which is held out of training. One seed; nothing was tuned.

# %%
STEPS, EVERY = 320, 40
OPTIMIZER = rlra_jax.optimizers(optax.adam(optax.cosine_decay_schedule(4e-3, STEPS)), synapses=optax.sgd(1.0))
unseen = windows(tokens, jnp.linspace(len(tokens) - held_out, len(tokens) - CONTEXT - 1, 256).astype(int))


def train(learner):
    step = rlra_jax.make_train_step(learner, OPTIMIZER)

    def one(state, key):
        starts = jax.random.randint(key, (BATCH,), 0, len(tokens) - held_out - CONTEXT)
        return step.update(state, windows(tokens, starts), key)[0], None

    @jax.jit
    def several(state, keys):
        state, _ = jax.lax.scan(one, state, keys)
        losses = rlra_jax.softmax_cross_entropy(model.apply(state.variables, unseen['tokens']), unseen)
        return state, losses.mean() / jnp.log(2)

    state, bits = step.init(jax.random.key(0)), []
    for keys in jax.random.split(jax.random.key(1), STEPS).reshape(-1, EVERY):
        state, found = several(state, keys)
        bits.append(float(found))
    return state, plot.Curve(range(EVERY, STEPS + 1, EVERY), bits)


learner = rlra_jax.update_fn(net, wiring, rlra_jax.Options(normalise=True))
state, ours = train(learner)
_, exact = train(rlra_jax.LEARNERS['backprop'](net))
print(f'bits per character: rec-LRA {ours.mean[-1]:.2f}, backprop {exact.mean[-1]:.2f}')
plot.curves({'held-out text': {'rec-LRA': ours, 'backprop': exact}}, x='step', y='bits per character')

# %% [markdown]
# ## What it writes


# %%
@jax.jit
def following(window, key):
    return jax.random.categorical(key, model.apply(state.variables, window[None])[0, -1] / 0.7)


written = [alphabet.index(character) for character in 'The value of this attribute is a'.ljust(CONTEXT)[:CONTEXT]]
for key in jax.random.split(jax.random.key(2), 200):
    written.append(int(following(jnp.asarray(written[-CONTEXT:]), key)))
print(''.join(alphabet[token] for token in written))

# %% [markdown]
# ## Where the updates point
#
# The angle between each region's update and backprop's gradient, in degrees, after training.

# %%
few = {name: values[:32] for name, values in unseen.items()}
diagnose = jax.jit(lambda weights, kept: rlra_jax.diagnose(net, learner, weights, kept, few, jax.random.key(0)))
told = diagnose(state.weights, state.state)
for name, angle in told.items():
    if name.startswith('angle/'):
        print(f'{name.removeprefix("angle/"):16} {np.asarray(angle):5.1f}')
