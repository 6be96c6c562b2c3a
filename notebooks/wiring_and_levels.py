# %% [markdown]
# # Wirings, recursion levels and devices
#
# A wiring says which region hears from which. It fixes how many *recursion levels* there are: regions of one level have
# all they need at once, and do not wait for each other. One level is the quickest and knows least; the forward graph
# backwards takes as many levels as layers, and knows as much as backprop. This notebook draws and trains what lies
# between, and spreads a level over devices.
#
# It takes about two minutes on two CPU cores, and downloads nothing but packages.

# %%
# In Colab: upload the wheel that `pip wheel --no-deps .` makes, run this cell, and restart the runtime. With a GPU take
# rlra_jax[cuda12,notebook]. Where all is installed, nothing happens.
# %pip install --quiet --find-links . 'rlra_jax[notebook]'

# %% [markdown]
# For the last part the CPU plays four devices. JAX must be told before it starts.

# %%
import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 4)

# %%
import jax.numpy as jnp
import numpy as np
import optax

import rlra_jax
from rlra_jax import plot
from rlra_jax.experiment.data import load

data = load('digits')  # 8 x 8 pixels, from 0 to 16
train = {'image': jnp.asarray(data.train.image) / 16.0, 'label': jnp.asarray(data.train.label)}
test = {'image': jnp.asarray(data.test.image) / 16.0, 'label': jnp.asarray(data.test.label)}
batch = {name: values[:96] for name, values in train.items()}

# %% [markdown]
# ## Three wirings of one network
#
# Algorithm 1's residual network: every second layer adds what the layer two below it did.

# %%
model = rlra_jax.nn.ResidualMLP(width=64, depth=8, gap=2)
net = rlra_jax.regions(model, batch)
rule = rlra_jax.Mirror(every=2)
wirings = {
    'direct': rlra_jax.wire_direct(net, rule=rule),
    'blocks': rlra_jax.wire_blocks(net, gap=2, rule=rule),
    'reverse': rlra_jax.wire_reverse(net, rule=rule),
}
for name, wiring in wirings.items():
    print(f'{name}: {len(wiring.levels)} levels of {[len({edge.target for edge in level}) for level in wiring.levels]}')

# %% [markdown]
# **Depth 1.** Every region hears the output over a straight synapse, one linear map for all examples.

# %%
plot.network(net, wirings['direct'])

# %% [markdown]
# **Depth 2.** Algorithm 1: block ends hear the output, and inside a block regions hear the one above. Dashed pathways
# follow the forward path back, with weights of their own; they are exact once these are learned.

# %%
plot.network(net, wirings['blocks'])

# %% [markdown]
# **The forward graph backwards**, skips included: the most levels, and the best that a local pathway can know.

# %%
plot.network(net, wirings['reverse'])

# %% [markdown]
# **Chosen from sizes.** `wire_auto` lets bottlenecks hear the output, and the others the nearest bottleneck above: two
# levels that keep so many devices busy. In the paper's example these are layers 2, 5 and 8.

# %%
narrow = rlra_jax.regions(rlra_jax.nn.MLP(widths=(64, 16, 64, 64, 16, 64, 64, 16)), batch)
plot.network(narrow, rlra_jax.wire_auto(narrow, devices=5))

# %% [markdown]
# ## What each costs and what it gives
#
# Three seeds of each, beside backprop. The angle is the median over the hidden regions and seeds, between the trained
# network's updates and backprop's gradient. Nothing was tuned. On a task as easy as this, where each test set has 400
# digits, errors hardly tell wirings apart; angles do.

# %%
EPOCHS, BATCH, SEEDS = 20, 57, 3
STEPS = EPOCHS * (len(train['label']) // BATCH)
OPTIMIZER = rlra_jax.optimizers(optax.adam(optax.cosine_decay_schedule(2e-3, STEPS)), synapses=optax.sgd(0.3))


def report(name, learner, synapses):
    step = rlra_jax.make_train_step(learner, OPTIMIZER)

    def one(state, key):
        rows = jax.random.choice(key, len(train['label']), (BATCH,))
        return step.update(state, {k: values[rows] for k, values in train.items()}, key)[0], None

    def run(key):
        state, _ = jax.lax.scan(one, step.init(key), jax.random.split(key, STEPS))
        wrong = model.apply(state.variables, test['image']).argmax(axis=-1) != test['label']
        return 100 * wrong.mean(), rlra_jax.diagnose(net, learner, state.weights, state.state, batch, key)

    errors, told = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    angle = np.median([found for name, found in told.items() if name.startswith('angle/hidden')])
    print(f'{name:16} {synapses:>8,} {errors.mean():8.2f} ± {errors.std(ddof=1):.2f} {angle:8.1f}')


print('wiring           synapses  test error %    angle')
for name, wiring in wirings.items():
    learner = rlra_jax.update_fn(net, wiring, rlra_jax.Options(normalise=True))
    synapses = jax.eval_shape(learner.init, jax.random.key(0))[0]['synapses']
    report(name, learner, sum(leaf.size for leaf in jax.tree.leaves(synapses)))
report('backprop', rlra_jax.LEARNERS['backprop'](net), 0)

# %% [markdown]
# ## A wiring of your own
#
# An `Edge` names source, target, kind of synapse and rule; `wire` sorts edges into levels, and says what is wrong where
# a region hears nothing or edges go round in a circle. Here the fourth region alone hears the output from afar.

# %%
hidden = [region.name for region in net.regions if not region.output]
above = dict(zip(hidden, [*hidden[1:], 'output'], strict=True))
above['hidden_4'] = 'output'
edges = [
    rlra_jax.Edge(source, target, rlra_jax.Dense() if target == 'hidden_4' else rlra_jax.Path(), rule)
    for target, source in above.items()
]
own = rlra_jax.wire(net, edges)
own

# %% [markdown]
# ## A level over devices
#
# Regions of one level may be computed by different devices. `summary` with a mesh tells what each parallel mode would
# hold and send; the numbers of all of them are those of the plain step.

# %%
mesh = rlra_jax.parallel.make_mesh(data=1, level=4)
wiring = rlra_jax.wire_direct(net, rule=rlra_jax.KolenPollack())
rlra_jax.summary(net, wiring, mesh=mesh)

# %%
plain = rlra_jax.update_fn(net, wiring)
spread = rlra_jax.parallel.level_update_fn(net, wiring, mesh)
weights, state = plain.init(jax.random.key(0))
alone, _, _ = jax.jit(plain.update)(weights, state, batch, jax.random.key(1))

shared = rlra_jax.parallel.replicate(mesh, (weights, state))
together, _, _ = jax.jit(spread)(*shared, rlra_jax.parallel.shard_batch(mesh, batch), jax.random.key(1))
differences = jax.tree.map(lambda a, b: float(abs(a - np.asarray(b)).max() / abs(a).max()), alone, together)
print(f'four devices and one differ by {max(jax.tree.leaves(differences)):.0e} of the largest update')
