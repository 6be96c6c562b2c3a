"""Configs that cannot be built leave nothing behind."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from configs import digits
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import load
from rlra_jax.experiment.names import named
from rlra_jax.experiment.train import train
from rlra_jax.paths import flatten


@pytest.mark.parametrize('option', ['learner.kappa', 'learner.alpha'])
def test_what_only_a_trace_finds_leaves_the_workdir_alone(tmp_path, option):
    config = helpers.make_config()
    name = option.split('.')[1]
    with config.unlocked():
        del config.learner[name]
        config.learner[name] = {'hiden_1': 0.5}
    with pytest.raises(ValueError, match='hiden_1'):
        train(config, tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


def test_a_type_that_jax_would_narrow(tmp_path):
    with pytest.raises(ValueError, match=r"model\.dtype must be float32 or bfloat16; got 'float64'"):
        train(digits.get_config('model=cnn,model.dtype=float64'), tmp_path / 'never')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'batch_size': 1198}, 'batch_size must be from 1 to the 1197 training examples; got 1198'),
        ({'batch_size': 0}, 'batch_size'),
        ({'seed': 2**31 - 1}, r'the last seed must be below 2\*\*31; got 2147483648'),
        ({'model.widths': (0,)}, 'each of widths must be a whole number of at least 1; got 0'),
        ({'model.init_std': -0.1}, 'init_std'),
        ({'learner.synapse_std': -0.1}, 'std must be a number of at least 0'),
        ({'epochs': 0}, 'epochs must be a whole number of at least 1; got 0'),
        ({'num_seeds': 0}, 'num_seeds'),
        ({'checkpoint_every': 0}, 'checkpoint_every'),
        ({'dataset': 'mnits'}, "unknown data set 'mnits'"),
        ({'learner.name': 'fb'}, "unknown learner 'fb'; known: backprop, "),
        ({'learner.bta': 0.2}, r"learner 'rec_lra' has no option \['bta'\]; it takes \['beta', 'gamma', "),
        ({'learner.name': 'backprop'}, r"learner 'backprop' has no option .*'beta'"),
        ({'learner.rule': 'oja'}, "unknown rule 'oja'"),
        (
            {'learner.modules_per_block': 2},
            "modules_per_block must be left out, as the wiring 'blocks' takes none; got 2",
        ),
        ({'learner.surrogate': 'tahn'}, "unknown surrogate 'tahn'; known: tanh, elu"),
        ({'learner.beta': -1.0}, 'beta must be a number above 0'),
        ({'model.name': 'cnn2'}, "unknown model 'cnn2'; known: cnn, elman"),
        ({'model.name': 'residual_mlp'}, r"model 'residual_mlp' has no option \['widths'\]; it takes .*'width'"),
        ({'model.phi': 'geluu'}, "unknown activation 'geluu'; known: gelu, elu"),
        ({'label_smoothing': 2.0}, 'label_smoothing must be a number from 0 to 1; got 2.0'),
        ({'augment.pad': -1}, r'augment\.pad must be a whole number of at least 0; got -1'),
        ({'augment.pad': 8}, 'augment.pad must be below 8, so that a crop shows some of its image; got 8'),
        ({'optimizer.name': 'lion'}, "unknown optimizer 'lion'"),
        ({'parallel.microbatches': 3}, "parallel.microbatches must be 1 but in mode 'stage'; got 3"),
        ({'learner.train_kwargs': 1}, r"learner 'rec_lra' has no option \['train_kwargs'\]"),
        ({'learner.batch_norm': True}, r"learner 'rec_lra' has no option \['batch_norm'\]"),
        ({'optimizer.learning_rate': None}, '^optimizer: learning_rate must be a number above 0; got None'),
        ({'synapse_optimizer.end_rate': -1.0}, '^synapse_optimizer: end_rate must be a number of at least 0; got -1'),
        ({'learner.mirror_every': 0}, '^mirror_every must be a whole number of at least 1; got 0'),
        ({'learner.rule': 'kp', 'learner.kp_equal': 1}, '^kp_equal must be True or False; got 1'),
        (
            {'learner.rule': 'fixed', 'learner.kp_equal': True},
            "^kp_equal must be left out but with rule='kp'; got True",
        ),
        ({'parallel.level': 0}, r'parallel\.level must be a whole number of at least 1; got 0'),
        ({'parallel.mode': 'stage', 'parallel.stage': 99}, r'level x parallel\.stage must be at most 1, .*; got 99'),
    ],
)
def test_bad_configs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(helpers.make_config(**changes), tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (3, 'a config must be an ml_collections.ConfigDict, or a mapping with its entries; got int'),
        (
            {'epochs': 3},
            'the config lacks dataset, data_dir, .*, synapse_optimizer.learning_rate; `rlra-train --list_config` tells',
        ),
        (
            helpers.make_config().to_dict() | {'model': 'mlp'},
            r'the config lacks model\.name, model\.phi; `rlra-train --list_config` tells',
        ),
        (helpers.make_config().to_dict() | {'diagnostics': 'no'}, "diagnostics must be True or False; got 'no'"),
        (helpers.make_config().to_dict() | {'average_flips': 1}, 'average_flips must be True or False; got 1'),
    ],
)
def test_what_is_no_config(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


def test_diagnostics_allow_what_the_learner_does():
    config = digits.get_config('learner=rec_lra,diagnostics=True')
    config.learner.allow = ('dense_1/kernel',)
    assert build(config, load('digits')).diagnose.keywords['allow'] == ('dense_1/kernel',)


def test_what_comes_from_afar_has_a_rule_of_its_own():
    options = {'wiring': 'modules', 'rule': 'kp', 'kp_equal': True, 'rest': 'mirror', 'mirror_every': 8, 'overlap': 1}
    found = named({'name': 'rec_lra', **options})['wiring']
    rules = {'rule': rlra_jax.KolenPollack(equal=True), 'rest': rlra_jax.Mirror(every=8)}
    assert found.keywords == {**rules, 'overlap': 1}
    with pytest.raises(ValueError, match="unknown rest 'oja'"):
        named({'name': 'rec_lra', 'wiring': 'modules', 'rest': 'oja'})


def test_synapses_stay_equal_to_the_weights_under_the_strong_recipe_and_smoothed_labels():
    argument = 'rule=kp,learner.kp_equal=True,learner.wiring=chain,model.widths=(6,6)'
    config = digits.get_config(f'{argument},recipe=strong,augment.pad=1,label_smoothing=0.2,batch_size=8,epochs=5')
    data = load('digits')
    step = build(config, data).step
    batch = {'image': jnp.asarray(data.train.image[:8], jnp.float32), 'label': jnp.asarray(data.train.label[:8])}
    start = step.init(jax.random.key(0))
    state, update = start, jax.jit(step.update)
    for _ in range(6):  # the warm-up begins with a rate of 0
        state, aux = update(state, batch, jax.random.key(0))
    expected = rlra_jax.smoothed_cross_entropy(0.2)(aux.outputs, batch).mean()
    np.testing.assert_allclose(aux.loss, expected, rtol=1e-6)
    W, before = flatten(state.weights['params']), flatten(start.weights['params'])
    synapses = [E for level in state.weights['synapses'] for E in level.values()]
    assert {path for E in synapses for path in E} >= {'dense_2/kernel', 'readout/kernel'}
    for path, E in ((path, E) for own in synapses for path, E in own.items()):
        np.testing.assert_allclose(E, W[path], rtol=1e-6, atol=1e-7)
        assert not np.allclose(W[path], before[path], atol=1e-5)


@pytest.mark.parametrize('learner', ['backprop', 'equilibrium_prop'])
def test_answers_averaged_over_mirror_images(learner):
    argument, data = f'learner={learner},model.widths=(6,6)', load('digits')
    images = jnp.asarray(data.train.image[:5], jnp.float32)
    plain, averaged = (build(digits.get_config(f'{argument},average_flips={flips}'), data) for flips in (False, True))
    variables = plain.net.init(jax.random.key(0))
    expected = (plain.predict(variables, images) + plain.predict(variables, jnp.flip(images, axis=2))) / 2
    np.testing.assert_allclose(averaged.predict(variables, images), expected, rtol=1e-6)
    assert not np.allclose(expected, plain.predict(variables, images), atol=1e-3)


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ('learner.kp_equal=True', ['synapse_optimizer has a learning_rate of 0.02 in place of 0.01']),
        ('learner.kp_equal=True,optimizer.learning_rate=0.02', []),
        ('learner.kp_equal=False', []),
        ('learner.kp_equal=True,learner.wiring=modules,learner.rest=mirror', []),
    ],
)
def test_equal_synapses_that_take_other_steps_are_told(caplog, changes, told):
    rates = {'optimizer.learning_rate': 0.01, 'synapse_optimizer.learning_rate': 0.02}
    given = [f'{key}={value}' for key, value in rates.items() if key not in changes.split(',')[-1]]
    wiring = [] if 'wiring' in changes else ['learner.wiring=chain']
    names = ['synapse_optimizer.name=sgd', 'optimizer.name=sgd', 'model.widths=(6,6)', 'rule=kp']
    build(digits.get_config(','.join([*names, *wiring, *given, changes])), load('digits'))
    assert [words.partition('them: ')[2] for words in _told(caplog)] == told


def test_kolen_and_pollacks_synapses_that_take_other_steps_are_told(caplog):
    argument = 'learner=kolen_pollack,model.widths=(6,6)'
    build(digits.get_config(argument), load('digits'))
    assert not _told(caplog)
    build(digits.get_config(f'{argument},optimizer.learning_rate=0.02'), load('digits'))
    told = 'synapses meet the weights by the same steps alone: synapse_optimizer has a learning_rate of 0.001 in place'
    assert [words.startswith(told) for words in _told(caplog)] == [True]


def _told(caplog):
    """What building warned of; how many devices take part is told elsewhere."""
    return [record.getMessage() for record in caplog.records if record.name == 'rlra_jax.experiment.build']
