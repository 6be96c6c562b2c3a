import ast
import importlib
import inspect
import pathlib

import numpy as np
import pytest

from configs import cifar_cnn, common, digits, shakespeare
from configs import rows as by_row
from configs.meaning import MEANING
from launch import find_config
from rlra_jax.experiment.entries import flat
from rlra_jax.experiment.optimizers import make_schedule
from rlra_jax.experiment.reproduce import _argument
from rlra_jax.nn import MODELS

ROOT = pathlib.Path(__file__).parents[1]
NAMES = find_config.names()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('learner', ['rec_lra', 'backprop'])
def test_every_config_takes_overrides(name, learner):
    module = importlib.import_module(f'configs.{name}')
    config = module.get_config(f'model=mlp,learner={learner},epochs=3,model.phi=relu,model.widths=(8,4)')
    assert config.learner.name == learner
    assert (config.epochs, config.model.phi, config.model.widths) == (3, 'relu', (8, 4))
    assert ('beta' in config.learner) == (learner == 'rec_lra')


@pytest.mark.parametrize('model', MODELS)
def test_every_model_can_be_built_from_its_entries(model):
    config = common.base(model=model).model.to_dict()
    known = set(inspect.signature(MODELS[model]).parameters)
    assert set(config) - {'name'} <= known
    assert ({'dtype'} <= set(config)) == ('mlp' not in model)


@pytest.mark.parametrize('learner', ['rec_lra', 'backprop'])
def test_every_key_has_a_meaning(learner):
    of_models = [flat(common.base(model=model, learner=learner).to_dict()) for model in MODELS]
    assert {key for keys in of_models for key in keys} <= set(MEANING)


def test_no_meaning_is_of_a_key_that_there_is_not():
    known = {key for model in MODELS for key in flat(common.base(model=model).to_dict())}
    asked = ('block', 'edges', 'kp_equal', 'modules_per_block', 'overlap', 'rest', 'sends', 'through')
    of_wirings = {f'learner.{key}' for key in asked}
    assert set(MEANING) - known == of_wirings


def test_configs_import_nothing_of_ours():
    for path in (ROOT / 'configs').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split('.')[0] == 'rlra_jax'], path


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('epoch=3', "no key 'epoch'; there are augment, average_flips, bad_examples, batch_size"),
        ('model.width=3', "no key 'model.width'; there are init_std"),
        ('epochs.x=3', "no key 'epochs.x'"),
        ('epochs=three', "'epochs' holds 30; 'three' is of another type"),
        ('epochs', "must be key=value,...; got 'epochs'"),
    ],
)
def test_bad_overrides(argument, message):
    with pytest.raises(ValueError, match=message):
        common.override(common.base(), common.parse(argument))


def test_optimizers_take_options_of_their_own():
    config = common.override(common.base(), common.parse('optimizer.b1=0.95,synapse_optimizer.momentum=0.5'))
    assert (config.optimizer.b1, config.synapse_optimizer.momentum) == (0.95, 0.5)


@pytest.mark.parametrize(
    ('argument', 'std'), [('rule=mirror', 1e-4), ('rule=kp', 0.05), ('model=mlp,rule=mirror', 0.05)]
)
def test_mirrors_of_maps_start_near_nothing(argument, std):
    assert cifar_cnn.get_config(argument).learner.synapse_std == std


@pytest.mark.parametrize('key', ['learner', 'rule', 'model'])
def test_a_name_that_is_a_number(key):
    with pytest.raises(ValueError, match=f'{key} must be a name; got 5'):
        common.start(f'{key}=5')


def test_a_rule_is_rec_lras_alone():
    with pytest.raises(ValueError, match="only rec_lra has a rule; got 'learner=backprop,rule=kp'"):
        common.start('learner=backprop,rule=kp')


@pytest.mark.parametrize('name', ['cifar10', 'cifar_cnn', 'shallow'])
def test_one_strong_recipe_for_every_learner(name):
    get_config = importlib.import_module(f'configs.{name}').get_config

    def steps(learner, *parts):
        config = get_config(f'{learner},recipe=strong,batch_size=64,epochs=20')
        assert (config.augment.pad, config.augment.flip) == (4, True)
        return [config[part].to_dict() for part in parts]

    (own,) = steps('learner=backprop', 'optimizer')
    assert (own['name'], own['momentum'], own['nesterov'], own['schedule']) == ('sgd', 0.9, True, 'cosine')
    assert (own['weight_decay'], own['decays']) == (5e-4, 'kernels')
    rate = make_schedule(
        **{key: own[key] for key in ('learning_rate', 'schedule', 'warmup_epochs', 'end_rate')},
        epochs=20,
        steps_per_epoch=10,
    )
    np.testing.assert_allclose(
        [rate(step) for step in (0, 20, 40, 120, 200)], [0, 0.025, 0.05, 0.025, 0], rtol=1e-5, atol=1e-8
    )
    for learner in ('learner=kolen_pollack', 'learner=rec_lra,rule=kp'):
        assert steps(learner, 'optimizer', 'synapse_optimizer') == [own, own]
    (mirrors,) = steps('learner=rec_lra,rule=mirror', 'synapse_optimizer')
    assert mirrors['weight_decay'] is None
    assert mirrors['learning_rate'] == get_config('rule=mirror').synapse_optimizer.learning_rate


@pytest.mark.parametrize(
    ('learner', 'synapses'),
    [('learner=kolen_pollack', 0.1), ('rule=kp', 0.1), ('rule=mirror', 0), ('learner=backprop', 0)],
)
def test_what_follows_the_weights_warms_up_with_them(learner, synapses):
    config = importlib.import_module('configs.shakespeare').get_config(learner)
    assert (config.optimizer.warmup_epochs, config.synapse_optimizer.warmup_epochs) == (0.1, synapses)


@pytest.mark.parametrize(
    ('learner', 'synapses'),
    [('rule=kp,learner.wiring=modules', 1.3e-3), ('rule=mirror', None), ('learner=backprop', None)],
)
def test_what_follows_the_weights_decays_with_them(learner, synapses):
    config = importlib.import_module('configs.cifar10_fast').get_config(learner)
    assert (config.optimizer.weight_decay, config.synapse_optimizer.weight_decay) == (1.3e-3, synapses)


@pytest.mark.parametrize('name', find_config.experiments())
def test_kolen_and_pollacks_synapses_take_the_steps_of_the_weights(name):
    experiment = find_config.load(find_config.find(name))
    for row in experiment.rows():
        if row['options'].get('learner') == 'kolen_pollack':
            for point in row['grid']:
                config = experiment.get_config(_argument({**row['options'], **point}))
                assert config.optimizer == config.synapse_optimizer, row['name']


@pytest.mark.parametrize(
    ('dataset', 'rate', 'warmup', 'pad'), [('mnist', 0.1 * 100 / 128, 1, 4), ('tiny_shakespeare', 0.1 * 16 / 128, 0, 0)]
)
def test_a_recipe_suits_the_budget_of_an_experiment(dataset, rate, warmup, pad):
    """Its epochs and batch size, not those of the config that it is made of; texts have no crops."""
    config = importlib.import_module('configs.sequences').get_config(f'dataset={dataset},recipe=strong')
    assert (config.optimizer.learning_rate, config.optimizer.warmup_epochs) == (rate, warmup)
    assert (config.augment.pad, config.augment.flip) == (pad, bool(pad))


def test_a_longer_run_keeps_the_warm_up_that_it_is_given():
    """As docs/faults.md says of runs to go on."""
    short = cifar_cnn.get_config('rule=kp,recipe=strong,epochs=10')
    longer = cifar_cnn.get_config('rule=kp,recipe=strong,epochs=20,optimizer.warmup_epochs=2.0')
    assert longer.optimizer == short.optimizer
    assert longer.synapse_optimizer == short.synapse_optimizer


def test_a_recipe_leaves_what_is_given():
    config = cifar_cnn.get_config('recipe=strong,optimizer.learning_rate=0.3,augment.flip=False,label_smoothing=0.1')
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (0.3, 5e-4)
    assert (config.augment.flip, config.label_smoothing) == (False, 0.1)
    with pytest.raises(ValueError, match="unknown recipe 'stronger'; known: strong"):
        cifar_cnn.get_config('recipe=stronger')


@pytest.mark.parametrize('learner', ['learner=kolen_pollack', 'rule=kp'])
def test_a_recipe_gives_what_is_given_for_the_weights_to_synapses_that_follow_them(learner):
    config = cifar_cnn.get_config(f'{learner},recipe=strong,optimizer.learning_rate=0.3,optimizer.power=2.0')
    assert config.synapse_optimizer == config.optimizer
    apart = cifar_cnn.get_config(
        f'{learner},recipe=strong,optimizer.learning_rate=0.3,synapse_optimizer.learning_rate=0.1'
    )
    assert (apart.optimizer.learning_rate, apart.synapse_optimizer.learning_rate) == (0.3, 0.1)


@pytest.mark.parametrize('key', ['optimizer.name', 'synapse_optimizer.name'])
def test_a_recipe_of_sgd_takes_no_other_optimizer(key):
    with pytest.raises(ValueError, match=f"recipe=strong is one of sgd; got {key}='adam'"):
        cifar_cnn.get_config(f'learner=kolen_pollack,recipe=strong,{key}=adam')


def test_keys_written_in_full_bring_what_short_ones_do():
    """A rule brings its rate, however it is named; both names at once are a mistake."""
    assert digits.get_config('learner.rule=kp') == digits.get_config('rule=kp')
    assert digits.get_config('learner.name=backprop') == digits.get_config('learner=backprop')
    with pytest.raises(ValueError, match=r'rule and learner\.rule are the same; got both'):
        digits.get_config('rule=kp,learner.rule=mirror')


def test_strings_may_hold_commas_and_apostrophes():
    assert common.parse("data_dir='/a,b',epochs=3") == {'data_dir': '/a,b', 'epochs': 3}
    assert common.parse('data_dir="/a,(b",phi=["x,y","z"]') == {'data_dir': '/a,(b', 'phi': ['x,y', 'z']}
    assert common.parse("data_dir=/it's,epochs=3") == {'data_dir': "/it's", 'epochs': 3}


def test_quick_is_a_flag():
    assert shakespeare.get_config('quick=True').model.width == shakespeare.QUICK['model.width']
    with pytest.raises(ValueError, match="quick must be True or False; got 'false'"):
        shakespeare.get_config('quick=false')


@pytest.mark.parametrize(
    ('argument', 'near'),
    [
        ('', True),
        ('learner.through=None', True),
        ('learner.wiring=chain', True),
        ('learner.wiring=reverse', True),
        ('learner.through=7', False),
        ('learner.wiring=direct', False),
        ('learner.wiring=blocks', False),
    ],
)
def test_rows_that_join_none_but_neighbours_mirror_in_single_passes(argument, near):
    found = by_row.get_config(f'dataset=digits,{argument}')
    assert found.learner.mirror_antithetic is not near
    assert (found.synapse_optimizer.learning_rate == 1.0) is near
