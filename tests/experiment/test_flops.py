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
