"""What comes to regions in loops that JAX traces once, of loops of several ways, heads, cells or loops inside."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax import Carries, Dense, KolenPollack, Mirror, Options, Site
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.paths import flatten
from rlra_jax.recursion.update import look, recur
from rlra_jax.types import Region
from rlra_jax.wiring.choose import make_edge

KEY, WIDTH, STEPS = jax.random.key(0), 4, 4
BATCH = {'image': jax.random.normal(KEY, (5, STEPS, 3)), 'label': jnp.arange(5) % 3}
EQUAL = KolenPollack(equal=True)


class Cell(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        h = nn.Dense(WIDTH, name='reads')(x) + nn.Dense(WIDTH, use_bias=False, name='goes_on')(z)
        return Site(jnp.tanh, name='act')(h)


class Headed(nn.Module):
    """A cell whose steps each put out a head that no step hears."""

    @nn.compact
    def __call__(self, z, x):
        z = Cell(name='cell')(z, x)
        return z, Site(jnp.tanh, name='head')(nn.Dense(WIDTH, name='up')(z))


class Above(nn.Module):
    """Two cells, the second of which reads the first."""

    @nn.compact
    def __call__(self, z, x):
        low = Cell(name='low')(z[0], x)
        high = Cell(name='high')(z[1], low)
        return (low, high), high


class Beside(nn.Module):
    """Two cells that do not hear each other."""

    @nn.compact
    def __call__(self, z, x):
        one, other = Cell(name='one')(z[0], x), Cell(name='other')(z[1], x)
        return (one, other), one + other


class Delayed(nn.Module):
    """Layers between which two carries lie, so that what comes in goes out two steps later."""

    @nn.compact
    def __call__(self, z, x):
        def layer(name, read):
            return Site(jnp.tanh, name=name)(nn.Dense(WIDTH, name=f'to_{name}')(read))

        out, held = layer('out', z[1]), layer('held', layer('next', z[0]))
        return (layer('kept', layer('read', x)), held), out


class Net(nn.Module):
    """Steps, and a readout of the sum of what they put out, or of the last."""

    step: type
    scanned: bool = True
    last: bool = False

    @nn.compact
    def __call__(self, x):
        start, xs = jnp.zeros((len(x), WIDTH), x.dtype), x.swapaxes(0, 1)
        start = start if self.step is Headed else (start, start)
        if self.scanned:
            _, y = nn.scan(self.step, variable_broadcast='params', split_rngs={'params': False})(name='steps')(
                start, xs
            )
        else:
            step, y = self.step(name='steps'), []
            for row in xs:
                start, out = step(start, row)
                y.append(out)
            y = jnp.stack(y)
        return nn.Dense(3, name='readout')(y[-1] if self.last else y.sum(axis=0))


@pytest.mark.parametrize('step', [Headed, Above, Beside, Delayed])
def test_the_backprop_limit_of_steps_of_several_regions(step):
    net = rlra_jax.regions(Net(step), BATCH)
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=EQUAL), Options(beta=1e-3, normalise=True))
    weights, state = update.init(KEY)

    def loss(params):
        return softmax_cross_entropy(net.apply({'params': params}, BATCH)[0], BATCH).mean()

    found = flatten(update(weights, state, BATCH, KEY)[0]['params'])
    for path, exact in flatten(jax.grad(loss)(weights['params'])).items():
        np.testing.assert_allclose(found[path], exact, atol=0.01 * float(jnp.abs(exact).max()), err_msg=path)


@pytest.mark.parametrize('share', ['none', 'calls'])
def test_mirrors_hear_the_noise_of_every_step(share):
    """From the output straight to each step of a linear net, E is the Jacobian, or the mean of all."""
    batch = {'image': jax.random.normal(KEY, (64, STEPS, 3)), 'label': jnp.arange(64) % 3}
    net = rlra_jax.regions(rlra_jax.nn.Elman(width=WIDTH, classes=3, phi=lambda h: h, scanned=True), batch)
    update = rlra_jax.update_fn(net, rlra_jax.wire_direct(net, kind=Dense(share=share)))
    weights, state = update.init(KEY)

    def step(weights, key):
        (level,) = update(weights, state, batch, key)[0]['synapses']
        moved = jax.tree.map(lambda E, g: E - 0.3 * g, weights['synapses'][0], level)
        return {**weights, 'synapses': (moved,)}, None

    weights, _ = jax.jit(lambda w: jax.lax.scan(step, w, jax.random.split(KEY, 300)))(weights)
    params = flatten(weights['params'])
    (again,) = [value for path, value in params.items() if value.shape == (WIDTH, WIDTH)]
    exact = [params['readout/kernel'].T]
    for _ in range(STEPS - 1):
        exact.insert(0, exact[0] @ again.T)
    wanted = np.stack(exact) if share == 'none' else np.mean(exact, axis=0)
    np.testing.assert_allclose(weights['synapses'][0]['output->state'], wanted, atol=0.02)


@pytest.mark.parametrize('devices', [1, 4])
def test_wire_auto_reaches_every_step(devices):
    net = rlra_jax.regions(Net(Above, last=True), BATCH)
    wiring = rlra_jax.wire_auto(net, devices=devices)
    weights, state = rlra_jax.update_fn(net, wiring).init(KEY)
    context = look(net, wiring, Options(), softmax_cross_entropy, weights, state, BATCH, KEY)[2]
    e = recur(context).e
    for name in ('steps/low/act', 'steps/high/act'):
        assert (jnp.abs(e[name]).max(axis=(0, 2)) > 0).all(), name


def test_all_modules_of_a_loop_are_one_block():
    net = rlra_jax.regions(Net(Above, last=True), BATCH)
    wiring = rlra_jax.wire_modules(net, overlap=1, rule=EQUAL)
    along = {edge for edge in wiring.edges if edge.source != 'output'}
    assert len(along) == 3
    assert {edge.carries for edge in along} == {Carries.ERROR}


def test_edges_along_a_loop_carry_the_same():
    net = rlra_jax.regions(Net(Above, last=True), BATCH)
    edges = rlra_jax.wire_modules(net, rest=EQUAL, rule=EQUAL, overlap=1).edges
    mixed = [
        dataclasses.replace(edge, carries=Carries.OWN)
        if edge.target != edge.source and edge.source != 'output'
        else edge
        for edge in edges
    ]
    with pytest.raises(ValueError, match=r"carry one kind of error; those in 'steps/low/act' carry \['error', 'own'\]"):
        rlra_jax.wire(net, mixed)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, z, _):
        return Site(jnp.tanh, name='act')(nn.LayerNorm(name='norm')(nn.Dense(WIDTH, name='dense')(z))), None


class Deep(nn.Module):
    """A step of three layers in a loop of their own."""

    @nn.compact
    def __call__(self, z, x):
        layers = nn.scan(Layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
        z, _ = layers(name='layers')(z + nn.Dense(WIDTH, name='reads')(x), None)
        return z, z


class DeepNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        run = nn.scan(Deep, variable_broadcast='params', split_rngs={'params': False})(name='steps')
        z, _ = run(jnp.zeros((len(x), WIDTH)), x.swapaxes(0, 1))
        return nn.Dense(3, name='readout')(z)


def test_layers_inside_of_steps_have_synapses_of_their_own():
    """For each layer, the same in all steps; and what stands for a scale starts at its mean."""
    net = rlra_jax.regions(DeepNet(), BATCH)
    name = 'steps/layers/act'
    assert next(region.unlike for region in net if region.name == name) == (1,)
    weights, _ = rlra_jax.update_fn(net, rlra_jax.wire_direct(net, kind=Dense())).init(KEY)
    assert weights['synapses'][0][f'output->{name}'].shape == (3, 3, WIDTH)
    weights, _ = rlra_jax.update_fn(net, rlra_jax.wire_reverse(net)).init(KEY)
    synapses = {synapse: E for level in weights['synapses'] for synapse, E in level.items()}
    np.testing.assert_array_equal(synapses[f'{name}->']['steps/layers/norm/scale'], jnp.ones((3, WIDTH)))


def test_a_rest_beside_followed_edges_counts_no_path_twice():
    """Edges of other rules stop the noise of a mirror, too: what they send is not learnt a second time."""
    batch = {'image': jax.random.normal(KEY, (64, 6)), 'label': jnp.arange(64) % 4}
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(5, 5), classes=4, phi=lambda h: h, init_std=0.5), batch)
    output, above, below = net[2], net[1], net[0]
    edges = [
        make_edge(output, above, rlra_jax.Path(), EQUAL),
        make_edge(above, below, rlra_jax.Path(), EQUAL),
        make_edge(output, below, Dense(), Mirror()),
    ]
    update = rlra_jax.update_fn(net, rlra_jax.wire(net, edges))
    weights, state = update.init(KEY)

    def step(E, key):
        synapses = tuple({**level, **({name: E} if name in level else {})} for level in weights['synapses'])
        grads = update({**weights, 'synapses': synapses}, state, batch, key)[0]['synapses']
        (g,) = [level[name] for level in grads if name in level]
        return E - 0.3 * g, None

    name = 'output->hidden_1'
    E, _ = jax.jit(lambda E: jax.lax.scan(step, E, jax.random.split(KEY, 300)))(jnp.ones((4, 5)))
    np.testing.assert_allclose(E, 0, atol=1e-3)


class Stacked(nn.Module):
    """A loop whose steps another loop reads."""

    @nn.compact
    def __call__(self, x):
        xs = x.swapaxes(0, 1)
        for name in ('low', 'high'):
            start = jnp.zeros((x.shape[0], WIDTH))
            loop = nn.scan(Steps, variable_broadcast='params', split_rngs={'params': False})
            _, xs = loop(name=name)(start, xs)
        return nn.Dense(3, name='readout')(xs[-1])


class Steps(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        z = Cell(name='cell')(z, x)
        return z, z


@pytest.mark.parametrize('overlap', [0, 1])
def test_a_loop_that_feeds_another_is_a_block_of_its_own(overlap):
    net = rlra_jax.regions(Stacked(), BATCH)
    wiring = rlra_jax.wire_modules(net, overlap=overlap, rule=EQUAL)
    low, high = 'low/cell/act', 'high/cell/act'
    inside = {f'{name}->{name}' for name in (low, high)}
    across = {f'{high}->{low}'} if overlap else set()
    assert {edge.name for edge in wiring.edges if edge.source != 'output'} == inside | across
    update = rlra_jax.update_fn(net, wiring, Options(beta=0.5, normalise=True), synapse_std=0.5)
    weights, state = update.init(KEY)
    grads = flatten(jax.jit(update.update)(weights, state, BATCH, KEY)[0]['params'])
    assert all(jnp.abs(leaf).max() > 1e-5 for leaf in grads.values())


def test_a_loop_that_the_output_reads_hears_it_beside_own_errors():
    loop = Region('a', (1, 4, 3), 'float32', ('a',), stack='a', loops=1)
    above, output = (
        Region(name, (1, 3), 'float32', inputs) for name, inputs in (('h', ('a',)), ('output', ('a', 'h')))
    )
    wiring = rlra_jax.wire_modules([loop, above, output], overlap=1, rule=EQUAL)
    carried = {(edge.source, edge.target): edge.carries for edge in wiring.edges}
    assert carried['output', 'a'] is Carries.ERROR
    assert carried['h', 'a'] is Carries.OWN
    assert not wiring.unheard


def test_errors_of_a_loop_send_all_channels():
    net = rlra_jax.regions(Net(Above), BATCH)
    with pytest.raises(ValueError, match=r"a loop that JAX traces once send all channels; \['steps/"):
        rlra_jax.wire_modules(net, rule=EQUAL, sends=0.5)


def test_errors_fade_along_the_iterations_of_a_loop():
    net = rlra_jax.regions(rlra_jax.nn.Elman(width=WIDTH, classes=3, scanned=True), BATCH)
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=EQUAL), Options(beta=0.01))
    with pytest.warns(UserWarning, match='4 recursion levels that scale errors by beta = 0.01 leave 1e-08'):
        jax.eval_shape(update, *jax.eval_shape(update.init, KEY), BATCH, KEY)
