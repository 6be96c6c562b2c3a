import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax.experiment.optimizers import make_optimizer, make_schedule


def rates(**options):
    schedule = make_schedule(0.1, epochs=10, steps_per_epoch=4, **options)
    return np.array([schedule(step) for step in range(41)])


def test_constant():
    np.testing.assert_allclose(rates(), 0.1)


def test_cosine_ends_where_it_should():
    values = rates(schedule='cosine', end_rate=0.01)
    np.testing.assert_allclose(values[[0, 20, 40]], [0.1, 0.055, 0.01], rtol=1e-5)
    assert (np.diff(values) < 0).all()


def test_polynomial_with_warm_up_as_in_the_paper():
    values = rates(schedule='polynomial', warmup_epochs=2, end_rate=1e-3, power=2.0)
    np.testing.assert_allclose(values[[0, 4, 8]], [0.0, 0.05, 0.1], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(values[24], 1e-3 + 0.099 * 0.25, rtol=1e-4)
    np.testing.assert_allclose(values[40], 1e-3, rtol=1e-4)


def test_a_warm_up_may_take_a_part_of_an_epoch():
    np.testing.assert_allclose(rates(warmup_epochs=0.5)[:4], [0.0, 0.05, 0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'schedule': 'step'}, "unknown schedule 'step'; known: constant, cosine, polynomial"),
        ({'warmup_epochs': 10}, 'warmup_epochs must be a step or more below the 10 epochs; got 10'),
        ({'warmup_epochs': 9.999}, 'warmup_epochs must be a step or more below the 10 epochs; got 9.999'),
        ({'end_rate': -1.0}, 'end_rate'),
    ],
)
def test_bad_schedules(options, message):
    with pytest.raises(ValueError, match=message):
        rates(**options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'name': 'adamm', 'learning_rate': 0.1}, "unknown optimizer 'adamm'; known: adam, adamw"),
        ({'name': 'sgd', 'learning_rate': 0.0}, 'learning_rate must be a number above 0'),
        ({'name': 'sgd', 'learning_rate': 0.1, 'weight_decay': -5.0}, 'weight_decay must be a number of at least 0'),
        ({'name': 'adam', 'learning_rate': 0.1, 'b1': 5}, 'b1 must be a number from 0 to 1; got 5'),
        ({'name': 'adam', 'learning_rate': 0.1, 'b1': 1}, 'b1 must be below 1; got 1'),
        ({'name': 'rmsprop', 'learning_rate': 0.1, 'decay': 1.0}, 'decay must be below 1; got 1.0'),
        ({'name': 'adam', 'learning_rate': 0.1, 'eps': 'x'}, "eps must be a number of at least 0; got 'x'"),
        ({'name': 'adam', 'learning_rate': 0.1, 'eps_root': -1}, 'eps_root must be a number of at least 0; got -1'),
        ({'name': 'sgd', 'learning_rate': 0.1, 'nesterov': 3}, 'nesterov must be True or False; got 3'),
        (
            {'name': 'sgd', 'learning_rate': 0.1, 'nesterov': True},
            "nesterov must be False for 'sgd' without a momentum",
        ),
        ({'name': 'adam', 'learning_rate': 0.1, 'mu_dtype': 'foo'}, "optimizer 'adam' takes no such option: .*'foo'"),
        ({'name': 'adamw', 'learning_rate': 0.1, 'mask': 3}, r"no option \['mask'\]; it takes \['b1', 'b2', 'decays'"),
        ({'name': 'adam', 'learning_rate': 0.1, 'momentum': 0.9}, r"optimizer 'adam' has no option \['momentum'\]"),
        ({'name': 'adam', 'learning_rate': 0.1, 'schedule': None}, 'unknown schedule None'),
        ({'name': 'adam', 'learning_rate': 0.1, 'warmup_epochs': None}, 'warmup_epochs must be a number of at least 0'),
        (
            {'name': 'adam', 'learning_rate': 0.1, 'epochs': 3},
            r"no option \['epochs'\]; it takes \['b1', 'b2', 'decays', 'end_rate', ",
        ),
    ],
)
def test_bad_optimizers(options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(options, epochs=2, steps_per_epoch=3)


def test_optimizer_takes_its_own_options():
    optimizer = make_optimizer({'name': 'sgd', 'learning_rate': 0.1, 'momentum': 0.5}, epochs=2, steps_per_epoch=3)
    state, steps = optimizer.init(1.0), []
    for _ in range(2):
        update, state = optimizer.update(1.0, state)
        steps.append(float(update))
    np.testing.assert_allclose(steps, [-0.1, -0.15], rtol=1e-6)


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_weight_decay_of_kernels_leaves_biases_norms_and_straight_synapses_alone(name):
    weights = {
        'params': {'conv': {'kernel': 1.0, 'bias': 1.0}, 'norm': {'scale': 1.0}},
        'synapses': ({'output->stem': 1.0, 'block->': {'conv/kernel': 1.0, 'norm/scale': 1.0}},),
    }
    options = {'name': name, 'learning_rate': 0.1, 'weight_decay': 0.5}

    def moved(**more):
        optimizer = make_optimizer({**options, **more}, epochs=2, steps_per_epoch=3)
        steps, _ = optimizer.update(jax.tree.map(jnp.zeros_like, weights), optimizer.init(weights), weights)
        return jax.tree.map(lambda step: round(float(step), 6), steps)

    still = {
        'params': {'conv': {'kernel': -0.05, 'bias': 0.0}, 'norm': {'scale': 0.0}},
        'synapses': ({'output->stem': 0.0, 'block->': {'conv/kernel': -0.05, 'norm/scale': 0.0}},),
    }
    assert moved(decays='kernels') == still
    assert moved() == moved(decays='all') == jax.tree.map(lambda _: -0.05, weights)
    unset = moved(decays='kernels', weight_decay=None)  # of adamw a decay of its own
    assert unset['params']['conv']['bias'] == unset['params']['norm']['scale'] == 0
    assert unset['params']['conv']['kernel'] == (0 if name == 'sgd' else -1e-5)
    with pytest.raises(ValueError, match="unknown decays 'kernel'; known: kernels, all"):
        moved(decays='kernel')
