import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        one = rlra_jax.Site(jnp.tanh, name='one')(nn.Conv(3, (3, 3), use_bias=False)(x))
        two = rlra_jax.Site(jnp.tanh, name='two')(nn.Conv(3, (1, 1), use_bias=False)(one) + one)
        return nn.Dense(4, use_bias=False)(two.reshape(len(two), -1))


X = jax.ShapeDtypeStruct((5, 4, 6, 2), jnp.float32)


def rows(text):
    """Tables -> {first cell: the other cells}."""
    tables = [[line.split('  ') for line in table.splitlines()[2:]] for table in text.split('\n\n')]
    return [{line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in table} for table in tables]


def test_numbers_by_hand():
    """2 FLOPs a parameter; for a convolution 2 for each tap that stays inside, of which (3 * 4 - 2) (3 * 6 - 2) do.

    On a CPU a transposed convolution of few channels adds up 3 padded maps of 6 x 6 x 9, one for each tap of the first
    axis, takes their products at all 6 x 6 positions, and adds up 3 of 6 x 8 x 3 from these.
    """
    edges = [
        helpers.edge('output', 'two', 'dense', 'kp'),
        helpers.edge('two', 'one', 'conv_transpose'),
        helpers.edge('output', 'one', 'channel'),
    ]
    wiring = rlra_jax.wire(apart.sites(Net(), X), edges)
    regions, synapses, total = rows(apart.summary(Net(), wiring, X))
    assert regions == {
        'one': ['2', '4 x 6 x 3', '72', '-'],
        'two': ['1', '4 x 6 x 3', '72', '-'],
        'output': ['0', '4', '4', '-'],
    }
    conv = 2 * 6 * 6 * 9 + 2 * 36 * 81 + 2 * 6 * 8 * 3
    dense, channel = 2 * 4 * 72, 2 * 12 + 4  # a channel synapse also divides, for its mean
    assert synapses['output->two'] == ['Dense', 'KolenPollack', '4 x 72', '288', '1,152', f'{dense}']
    assert synapses['two->one'] == ['ConvTranspose', 'Mirror', '3 x 3 x 3 x 3', '81', '324', f'{conv:,}']
    assert synapses['output->one'] == ['Channel', 'Mirror', '4 x 3', '12', '48', f'{channel}']
    assert total['synapses'] == ['381', '1,524', f'{conv + dense + channel:,}']
    assert total['model'][:2] == ['351', '1,404']  # 54 + 9 + 288
    products = 2 * (10 * 16 * 6 + 24 * 9 + 288)
    flops = int(total['model'][2].replace(',', ''))
    assert products <= flops <= products + 3 * 144 + 144  # and the sum and tanh, which XLA may count as several
    assert total['synapses / model'] == ['1.085', '1.085', f'{(conv + dense + channel) / flops:.3f}']


def test_a_path_costs_what_its_parameters_hold_and_what_the_way_back_takes():
    """The way back through a matrix is a product; through tanh(conv(z) + z) it is one, and the sum of two errors."""
    wiring = rlra_jax.wire_reverse(apart.sites(Net(), X))
    _, synapses, total = rows(apart.summary(Net(), wiring, X))
    assert synapses['output->'][:-1] == ['Path', 'Mirror', '72 x 4', '288', '1,152']
    assert synapses['two->'][:-1] == ['Path', 'Mirror', '1 x 1 x 3 x 3', '9', '36']
    flops = {name: int(row[-1].replace(',', '')) for name, row in synapses.items()}
    assert 2 * 4 * 72 <= flops['output->'] <= 2 * 4 * 72 + 72
    assert 2 * 24 * 9 <= flops['two->'] <= 2 * 24 * 9 + 2 * 72
    assert total['synapses'][:2] == ['297', '1,188']


def test_synapses_are_counted_as_wide_as_they_are():
    """Float32 at least, and no wider where JAX allows it."""
    batch = {'image': jnp.ones((2, 3), jnp.bfloat16), 'label': jnp.zeros(2, jnp.int32)}
    net = rlra_jax.regions(Narrow(), batch)
    _, synapses, _ = rows(str(rlra_jax.summary(net, rlra_jax.wire_chain(net))))
    assert synapses['output->'][3:5] == ['12', '48']
    with jax.enable_x64(True):
        net = rlra_jax.regions(
            rlra_jax.nn.MLP(widths=(3,), classes=4), {**batch, 'image': jnp.ones((2, 3), jnp.float32)}
        )
        _, synapses, _ = rows(str(rlra_jax.summary(net, rlra_jax.wire_direct(net, kind=rlra_jax.Dense()))))
    assert synapses['output->hidden_1'][3:5] == ['12', '48']


class Narrow(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh)(nn.Dense(3, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)(x))
        return nn.Dense(4, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)(z)


def test_a_path_without_parameters_costs_no_memory():
    class Skip(nn.Module):
        @nn.compact
        def __call__(self, x):
            one = rlra_jax.Site(jnp.tanh, name='one')(nn.Dense(4)(x))
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='two')(one))

    x = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    wiring = rlra_jax.wire_reverse(apart.sites(Skip(), x), rule=rlra_jax.Fixed())
    _, synapses, _ = rows(apart.summary(Skip(), wiring, x))
    assert synapses['two->'][:-1] == ['Path', 'Fixed', '-', '0', '0']
    assert int(synapses['two->'][-1]) <= 4  # no product, and XLA may count a copy as an operation per unit


def test_a_model_alone():
    net = rlra_jax.regions(Net(), {'image': X})
    regions, total = rows(rlra_jax.summary(net))
    assert regions['one'] == ['4 x 6 x 3', '72', '-']
    assert list(total) == ['model']
    with pytest.raises(ValueError, match='mesh must be left out without a wiring'):
        rlra_jax.summary(net, mesh=rlra_jax.parallel.make_mesh(data=1))


def test_notebooks_show_tables():
    net = rlra_jax.regions(Net(), {'image': X})
    wiring = rlra_jax.wire(net, [helpers.edge('output', name, 'channel', 'kp') for name in ('one', 'two')])
    told = rlra_jax.summary(net, wiring)
    assert repr(told) == str(told)
    assert told._repr_html_().count('<table>') == 3
    assert '>output-&gt;one</td>' in told._repr_html_()
    cells = ['two', 'output', 'Channel', 'KolenPollack']
    assert '<td style="text-align: right">1</td>' + ''.join(
        f'<td style="text-align: left">{cell}</td>' for cell in cells
    ) in (wiring._repr_html_())


def test_wiring_of_another_model():
    wiring = rlra_jax.wire_direct(apart.sites(rlra_jax.nn.MLP(widths=(3,)), X))
    with pytest.raises(ValueError, match="unknown region 'hidden_1'"):
        apart.summary(Net(), wiring, X)


def test_what_a_region_keeps_inside():
    class Gated(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='one')(nn.relu(nn.Dense(3)(x.reshape(len(x), -1))))
            return nn.Dense(4)(z)

    wiring = rlra_jax.wire_direct(apart.sites(Gated(), X))
    regions, _, _ = rows(apart.summary(Gated(), wiring, X))
    assert regions == {'one': ['1', '3', '3', 'relu'], 'output': ['0', '4', '4', '-']}
