"""What a study may draw: every wiring that a model can have, once; and edges by name."""

import jax.numpy as jnp
import pytest

import rlra_jax
from configs import digits, vit
from rlra_jax.experiment.front import Point
from rlra_jax.experiment.names import wire_edges
from rlra_jax.experiment.space import FREE, Space

BATCH = {'image': jnp.ones((4, 6)), 'label': jnp.zeros(4, jnp.int32)}


class Drawn:
    """Optuna's trial, whose draws are known; else the first of what there is, or the middle."""

    def __init__(self, **params):
        self.params, self.choices = params, {}

    def suggest_float(self, name, low, high, log):
        assert log
        return self.params.get(name, (low * high) ** 0.5)

    def suggest_categorical(self, name, choices):
        self.choices[name] = list(choices)
        return self.params.get(name, choices[0])


def space(depth=4, options=''):
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(8,) * depth, classes=3), BATCH)
    return net, Space(digits.get_config(options), net)


def edges(wiring):
    return {edge.name for edge in wiring.edges}


def test_wirings_made_by_hand_are_there_once():
    """In a multi-layer perceptron `reverse` is `chain`, and every module a layer, so that `modules` is `direct`."""
    net, found = space()
    wired = {name: frozenset(edges(found.wiring(net, options))) for name, options in found.wirings.items()}
    assert next(iter(wired)) == 'blocks'
    assert len(set(wired.values())) == len(wired)
    assert wired['direct'] == {f'output->hidden_{i}' for i in (1, 2, 3, 4)}
    assert 'hidden_4->hidden_3' in wired['chain']
    assert {frozenset(edges(wire(net))) for wire in (rlra_jax.wire_reverse, rlra_jax.wire_modules)} <= {*wired.values()}
    assert found.kinds == ['by_shape', 'dense']  # of units: no maps, no positions


def test_a_config_with_a_wiring_of_its_own_begins_there_and_can_take_any_other():
    net, found = space(options='learner.wiring=blocks,learner.gap=3')
    assert edges(found.wiring(net, found.wirings['blocks'])) == edges(rlra_jax.wire_blocks(net, gap=3))
    assert edges(found.wiring(net, found.wirings['chain'])) == edges(rlra_jax.wire_chain(net))
    assert found.first()[0]['wiring'] == 'blocks'


def test_a_model_that_takes_no_chain_has_kinds_all_the_same():
    """JAX traces one step of it for all, so that neighbours in time cannot be joined one by one."""
    model = rlra_jax.nn.GRU(width=4, classes=3, scanned=True)
    net = rlra_jax.regions(model, {'image': jnp.ones((4, 6, 5)), 'label': jnp.zeros(4, jnp.int32)})
    found = Space(digits.get_config('model=gru,learner.wiring=reverse'), net)
    assert found.kinds[0] == 'by_shape'
    assert {'reverse', 'direct'} <= set(found.wirings)
    assert 'chain' not in found.wirings


def test_a_kind_of_the_configs_own_comes_first_though_it_fits_neighbours_alone():
    assert space(options='learner.kind=path,learner.wiring=chain')[1].kinds[0] == 'path'


@pytest.mark.parametrize('wiring', ['direct', 'chain', 'reverse'])
def test_what_a_table_prints_trains_a_trial_again(wiring):
    """Also where a config's file chooses more by the wiring."""
    own = 'model.width=8,model.depth=1,model.heads=2'
    config = vit.get_config(own)
    images = {'image': jnp.ones((4, 8, 8, 3)), 'label': jnp.zeros(4, jnp.int32)}
    net = rlra_jax.regions(rlra_jax.nn.ViT(width=8, depth=1, heads=2), images)
    options = Space(config, net).draw(Drawn(wiring=wiring))
    with config.unlocked():
        config.update_from_flattened_dict(options)
    point = Point(0, wiring, options, {}, {})
    assert vit.get_config(f'{own},{point.argument}').to_dict() == config.to_dict()


def test_each_region_may_hear_from_all_that_it_leads_to():
    net, found = space(depth=3)
    trial = Drawn(pathways=FREE, **{'hidden_1 hears': 'output', 'hidden_2 hears': 'hidden_3'})
    options = found.draw(trial)
    assert trial.choices['hidden_1 hears'] == ['hidden_2', 'hidden_3', 'output']
    assert trial.choices['hidden_3 hears'] == ['output']
    assert options['learner.edges'] == ('output->hidden_1', 'hidden_3->hidden_2', 'output->hidden_3')
    assert edges(found.wiring(net, options)) == set(options['learner.edges'])
    assert options['optimizer.learning_rate'] == pytest.approx(1e-3)  # the config's own, in the middle
    rates = Drawn(**found.first()[1])
    assert found.draw(rates)['learner.wiring'] == rates.params['wiring'] == 'direct'


def test_synapses_that_start_as_the_weights_take_their_rate():
    _, found = space(options='rule=kp,learner.kp_equal=True')
    trial = Drawn(**{'optimizer.learning_rate': 0.02, 'synapse_optimizer.learning_rate': 0.5})
    options = found.draw(trial)
    assert options['synapse_optimizer.learning_rate'] == options['optimizer.learning_rate'] == 0.02
    assert 'synapse_optimizer.learning_rate' not in found.first()[0]


def test_mirrors_beside_synapses_that_follow_the_weights_have_a_rate_of_their_own():
    own = 'rule=kp,learner.kp_equal=True,learner.wiring=modules,learner.rest=mirror,learner.mirror_every=8'
    net, found = space(options=f'{own},synapse_optimizer.learning_rate=0.5,synapse_optimizer.name=sgd')
    first = found.draw(Drawn(**found.first()[0]))
    assert first['learner.wiring'] == 'modules'
    assert first['synapse_optimizer.learning_rate'] == 0.5
    assert first['learner.mirror_every'] == 8
    assert 'synapse_optimizer.name' not in first
    assert 'direct' in found.wirings  # which joins the same regions, by another rule
    taken_back = found.draw(Drawn(wiring='direct', **{'optimizer.learning_rate': 0.02}))
    assert taken_back['learner.rest'] is None
    assert {edge.rule for edge in found.wiring(net, taken_back).edges} == {rlra_jax.KolenPollack(equal=True)}
    assert taken_back['synapse_optimizer.learning_rate'] == 0.02
    assert taken_back['synapse_optimizer.name'] == 'adam'


def test_a_config_that_leaves_out_what_has_a_default():
    net, _ = space()
    config = digits.get_config()
    del config.learner['beta'], config.learner['wiring']
    found = Space(config, net)
    assert found.first()[0]['wiring'] == 'blocks'
    assert found.draw(Drawn())['learner.beta'] == pytest.approx(0.1)


def test_an_edge_that_there_is_not():
    net, _ = space(depth=2)
    with pytest.raises(ValueError, match="unknown edge 'output->hidden_3'; known: output->hidden_"):
        wire_edges(net, edges=['output->hidden_3'])
    with pytest.raises(ValueError, match=r"no error edge reaches \['hidden_1'\]"):
        wire_edges(net, edges=['output->hidden_2'])
