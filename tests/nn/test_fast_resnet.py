"""A network on whitened patches: what its first layer puts out, where it comes from, and that nothing trains it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from configs import cifar10_fast
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.epoch import init_runs
from rlra_jax.experiment.preprocess import make_preprocess
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train
from rlra_jax.nn import FastResNet
from rlra_jax.nn.convolve import convolve
from rlra_jax.nn.fast_resnet import Stage

THIN = 'model.widths=(4,4),augment.pad=1,batch_size=50,epochs=1,num_seeds=2,dataset=digits'


def test_patches_are_whitened():
    noise = np.random.default_rng(0).normal(size=(20, 9, 9, 3))
    images = jnp.asarray(noise + 2 * noise[..., :1] + np.roll(noise, 1, axis=2), jnp.float32)
    kernel = FastResNet().fitted(images)['whitening']['kernel']
    seen = np.asarray(convolve(images, kernel, (1, 1), ((0, 0), (0, 0))), np.float64)
    assert seen.shape == (20, 8, 8, 24)
    np.testing.assert_allclose(seen[..., 12:], -seen[..., :12])
    np.testing.assert_allclose(np.cov(seen[..., :12].reshape(-1, 12), rowvar=False), np.eye(12), atol=0.02)


def test_a_stage_keeps_the_largest_of_each_four_positions():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 3)), jnp.float32)
    stage = Stage(4, phi=lambda h: h, norm='layer', train=False, dtype=None, param_dtype=jnp.float32)
    variables = stage.init(jax.random.key(0), z)
    _, seen = stage.apply(variables, z, capture_intermediates=True)
    convolved = np.asarray(seen['intermediates']['conv_1']['__call__'][0])
    expected = [[convolved[:, i : i + 2, j : j + 2].max(axis=(1, 2)) for j in (0, 2)] for i in (0, 2)]
    expected = np.moveaxis(np.asarray(expected), 2, 0)
    expected -= expected.mean(axis=(1, 2, 3), keepdims=True)
    expected /= np.sqrt((expected**2).mean(axis=(1, 2, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(seen['intermediates']['norm_1']['__call__'][0], expected, rtol=1e-4, atol=1e-4)


def test_images_that_cannot_be_halved_so_often_are_refused():
    model = FastResNet(widths=(4, 4, 4))
    model.init(jax.random.key(0), jnp.zeros((1, 9, 9, 1)))
    with pytest.raises(ValueError, match=r'of at least 2 x 2 positions; got \(1, 1\)'):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_all_edges_of_the_papers_scheme_follow_the_forward_path():
    batch = {'image': jnp.zeros((2, 16, 16, 3)), 'label': jnp.zeros(2, jnp.int32)}
    net = rlra_jax.regions(FastResNet(widths=(4, 6, 8), readout='all'), batch)
    assert not rlra_jax.check_cut(net).shared
    wiring = rlra_jax.wire_modules(net, overlap=1)
    stages = [f'stage_{number}' for number in (1, 2, 3)]
    expected = {(f'output->{stage}/act_2', 'error') for stage in stages}
    expected |= {(f'{stage}/act_2->{stage}/act_1', 'error') for stage in stages}
    expected |= {(f'{above}/act_1->{below}/act_2', 'own') for below, above in itertools.pairwise(stages)}
    assert {(edge.name, edge.carries.value) for edge in wiring.edges} == expected
    assert all(edge.kind.follows for edge in wiring.edges)


def whitening_of(data):
    config = cifar10_fast.get_config(f'learner=backprop,{THIN}')
    experiment = build(config, data)
    return experiment, experiment.net.model.fitted(make_preprocess(data, **config.preprocess)(data.train.image))


def test_every_seed_starts_with_the_whitening_of_the_training_data():
    experiment, fitted = whitening_of(first_examples(load('digits'), 100))
    run = init_runs(experiment, jnp.arange(2))
    for variables in (run.state.variables, run.best):
        np.testing.assert_allclose(variables['whitening']['kernel'][1], fitted['whitening']['kernel'], rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize('learner', ['rec_lra,rule=kp,learner.wiring=modules', 'backprop'])
def test_whitening_stays_and_is_stored(tmp_path, learner):
    data = first_examples(load('digits'), 100)
    train(cifar10_fast.get_config(f'learner={learner},{THIN}'), tmp_path, data)
    run, (_, fitted) = restore(tmp_path, data).run, whitening_of(data)
    for variables in (run.state.variables, run.best):
        np.testing.assert_allclose(
            variables['whitening']['kernel'][1], fitted['whitening']['kernel'], rtol=1e-5, atol=1e-6
        )
