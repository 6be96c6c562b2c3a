from configs import digits
from rlra_jax.experiment.data import load
from rlra_jax.experiment.flops import step_flops


def test_what_the_forward_pass_has_computed_is_not_counted_again():
    """A learner's program computes activities twice, as it is written; XLA does it once."""
    data = load('digits')
    learners = 'learner=backprop', 'rule=fixed,learner.wiring=reverse'
    backprop, reverse = (
        step_flops(digits.get_config(f'model.widths=(64,64,64),batch_size=20,{learner}'), data) for learner in learners
    )
    assert 0.95 < reverse / backprop < 1.05


def test_mirrors_count_by_their_share_if_the_rule_is_the_default():
    data, config = load('digits'), digits.get_config('model.widths=(8,8),batch_size=20,learner.mirror_every=4')
    told = step_flops(config, data)
    with config.unlocked():
        del config.learner['rule']
    assert step_flops(config, data) == told


def test_mirrors_of_the_rest_count_by_their_share():
    data, width = load('digits'), 'model=residual_mlp,model.width=16,model.depth=4,batch_size=20'
    wiring = 'rule=kp,learner.wiring=modules,learner.modules_per_block=2'

    def count(options):
        return step_flops(digits.get_config(f'{width},{wiring},{options}'), data)

    rarely, always, never = (
        count(f'learner.rest={rest}')
        for rest in ('mirror,learner.mirror_every=4', 'mirror,learner.mirror_every=1', 'fixed')
    )
    assert never < 0.9 * always
    assert rarely == never + (always - never) / 4
