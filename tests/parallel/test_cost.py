import json
import pathlib

import apart
import flax.linen as nn
import helpers
import jax
import pytest

import rlra_jax
from rlra_jax.experiment.names import RULES
from rlra_jax.parallel.cost import recommend

RESULTS = pathlib.Path(__file__).parents[2] / 'results' / 'parallel.json'


def residual_mlp(blocks, width, batch, rule='kp', wire=rlra_jax.wire_blocks):
    """What benchmarks/parallel.py measures, dense synapses and all."""
    model = rlra_jax.nn.ResidualMLP(width=width, depth=2 * blocks, gap=2)
    x = jax.ShapeDtypeStruct((batch, 64), 'float32')
    return model, wire(apart.sites(model, x), kind=rlra_jax.Dense(), rule=RULES[rule]()), x


@pytest.mark.parametrize(('width', 'batch'), [(1024, 64), (128, 4096)])
def test_bytes_sent_are_those_of_compiled_programs(width, batch):
    """But for the scalars that every mode sums, and for what XLA gathers twice in level mode."""
    rows = [row for row in json.loads(RESULTS.read_text())['rows'] if row['devices'] == 8]
    measured = {
        row['method']: row['sent_bytes_per_device'] for row in rows if (row['width'], row['batch']) == (width, batch)
    }
    found = {mode.name: mode.sent for mode in apart.modes(*residual_mlp(8, width, batch), 8)}
    assert found['data'] == pytest.approx(measured['rec_lra plain'], rel=1e-4)
    assert found['stream'] == pytest.approx(measured['rec_lra stream'], rel=1e-4)
    assert found['stage'] == pytest.approx(measured['rec_lra microbatched'], rel=1e-4)
    assert found['level'] == pytest.approx(measured['rec_lra level'], rel=0.25)


def test_by_hand():
    """2 blocks and the readout; floats of 4 bytes; streaming and stages also keep what enters a block."""
    data, stream, _, stage = apart.modes(*residual_mlp(2, 16, 8), 2)
    first, second, readout = 64 * 16 + 16 + 16 * 16 + 16, 2 * (16 * 16 + 16), 16 * 10 + 10
    synapses = 10 * 16 + 16 * 16  # into a block
    assert data.state == stream.state == 4 * (first + second + readout + 2 * synapses)
    assert data.sent == stream.sent == data.state
    assert (data.activations, stream.activations) == (4 * 8 * (4 * 16 + 10) // 2, 4 * 8 * (64 + 32) // 2)
    assert stage.state == 4 * (first + synapses)
    assert stage.activations == 4 * 8 * (64 + 32)


def test_own_errors_that_blocks_hand_down():
    """16 examples of blocks of two regions of 6; a stage sends the errors of one region down."""
    cases = (helpers.make_skips(4, overlap=overlap) for overlap in (0, 1))
    found = [apart.modes(model, wiring, batch['image'], 4) for model, _, batch, wiring in cases]
    (_, stream, _, stage), (_, waiting, _, handing) = found
    assert handing.sent == stage.sent + 4 * 16 * 6
    assert waiting.activations == stream.activations + 4 * 16 * (6 + 6 + 6) // 4


def test_noisy_passes_go_up_the_stages():
    """A pair, or one; beside the rest one more, without noise. 16 examples in 4 parts, 7 ticks; 4 outputs go round."""
    rests = (None, rlra_jax.Mirror(), rlra_jax.Mirror(antithetic=False))
    found = (helpers.make_skips(4, rest=rest) for rest in rests)
    without, pair, single = (
        apart.modes(model, wiring, batch['image'], 4)[-1].sent for model, _, batch, wiring in found
    )
    upwards, summed = 4 * 4 * (6 + 4) * 7, 2 * 3 / 4 * 16 * 4 * 4
    assert without == upwards + summed
    assert pair == without + 3 * upwards + summed
    assert single == without + 2 * upwards + summed


@pytest.mark.parametrize(('rule', 'summed'), [('kp', False), ('fixed', False), ('hebbian', True)])
def test_level_mode_sums_the_gradients_of_paths_unless_they_are_the_parameters_or_nothing(rule, summed):
    """Regions of levels of their own are data parallel; on 2 devices each array is sent once."""
    model, x = rlra_jax.nn.MLP(widths=(16, 16, 16)), jax.ShapeDtypeStruct((8, 64), 'float32')
    wiring = rlra_jax.wire_chain(apart.sites(model, x), rule=RULES[rule]())
    _, _, level, _ = apart.modes(model, wiring, x, 2)
    along = 16 * 16 + 16 * 16 + 16 * 10
    assert level.sent == 4 * (64 * 16 + 3 * 16 + 10 + along + summed * along)


@pytest.mark.parametrize(
    ('model', 'devices', 'mode'),
    [
        ((8, 1024, 64), 8, 'stage'),
        ((8, 128, 4096), 8, 'data'),
        ((8, 1024, 64, 'mirror'), 8, 'stage'),
        ((8, 1024, 64), 1, 'data'),
        ((8, 128, 4096), 1, 'stream'),
        ((8, 128, 4096, 'kp', rlra_jax.wire_chain), 1, 'data'),
    ],
)
def test_recommends(model, devices, mode):
    assert recommend(apart.modes(*residual_mlp(*model), devices), devices) == mode


def test_a_model_that_must_be_told_whether_it_trains():
    class Told(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(4)(rlra_jax.Site(nn.tanh, name='hidden')(nn.Dense(6)(x)))

    model, x, train_kwargs = Told(), jax.ShapeDtypeStruct((4, 3), 'float32'), {'train': True}
    wiring = rlra_jax.wire_direct(apart.sites(model, x, train_kwargs=train_kwargs))
    mesh = rlra_jax.parallel.make_mesh()
    assert 'parallel.mode=' in apart.summary(model, wiring, x, train_kwargs=train_kwargs, mesh=mesh)


def test_summary_of_what_has_data_mode_alone():
    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(nn.tanh, name='hidden')(nn.Dense(6)(x))
            return {'a': nn.Dense(4)(z), 'b': nn.Dense(2)(z)}

    batch = {'image': jax.ShapeDtypeStruct((4, 3), 'float32'), 'label': jax.ShapeDtypeStruct((4,), 'int32')}
    net = rlra_jax.regions(Heads(), batch)
    text = rlra_jax.summary(net, rlra_jax.wire_direct(net), mesh=rlra_jax.parallel.make_mesh())
    assert 'takes a model that returns one array' in text
    assert 'parallel.mode=data' in text


def test_summary_tells_of_modes_and_why_not():
    text = apart.summary(*residual_mlp(2, 8, 4, 'mirror'), mesh=rlra_jax.parallel.make_mesh())
    *_, table = text.split('\n\n')
    lines = table.splitlines()
    assert lines[0].split() == ['mode', 'state', 'activations', 'sent']
    assert lines[-1].startswith('To start with on 1 device: parallel.mode=')
    chained = apart.summary(*residual_mlp(2, 8, 4, 'kp', rlra_jax.wire_chain), mesh=rlra_jax.parallel.make_mesh())
    assert 'stream: the wiring leaves all hidden regions in one block' in chained
