"""Studies: resumable, within a budget, pruned on validation data. Runs are made up; real ones: launch/test_tune.py."""

import csv
import json

import pytest

pytest.importorskip('optuna', reason="pip install 'rlra_jax[tune]'")

from configs import digits, shakespeare
from rlra_jax.experiment import front
from rlra_jax.experiment import tune as module
from rlra_jax.experiment.data import load, make_text
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.space import FREE
from rlra_jax.experiment.stops import StoppedError
from rlra_jax.experiment.tune import tune

SMALL = 'model.widths=(8,8,8),epochs=5,num_seeds=1,train_examples=200'


class Runs:
    """Stands in for `train`: errors fall to what a function of the config says, and so do bits of a text."""

    def __init__(self, monkeypatch, error, bits=None):
        self.error, self.bits, self.configs, self.ended = error, bits, [], []
        monkeypatch.setattr(module, 'train', self)

    def __call__(self, config, workdir, dataset, *, writers):
        self.configs.append(config)
        workdir.mkdir(parents=True)
        number, rows = len(self.configs) - 1, []
        error, of_text = self.error(config, number), {}
        if self.bits is not None:
            of_text = dict.fromkeys(('loss', 'bits', 'perplexity'), self.bits(config, number))
        for epoch in range(1, config.epochs + 1):
            row = {'epoch': epoch, 'seed': 0, 'train_loss': 0.1, 'train_error': 0.0, 'val_loss': 0.1}
            row |= {'val_error': error + 10.0 / epoch, 'val_top5_error': 0.0, 'seconds': 1.0}
            rows.append(row | {'val_bits': of_text['bits'] + 1.0 / epoch} if of_text else row)
            with (workdir / 'metrics.csv').open('w') as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
            for writer in writers:
                writer.write_scalars(epoch, {'val_error': error + 10.0 / epoch})
        self.ended.append(config)
        told = {
            f'{part}_{name}': v for part in ('train', 'val', 'test') for name, v in {'error': error, **of_text}.items()
        }
        return {**told, **{f'{name}_sd': 0.0 for name in told}, 'per_seed': [{}], 'seconds_train': 1.0}


def config(options=SMALL):
    return digits.get_config(options)


def test_begins_with_wirings_made_by_hand_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Stopped in its fourth trial, it draws that one again; a third call has nothing to do."""

    def error(config, number):
        if number == 3:
            raise StoppedError('stopped after epoch 2')
        return 5.0

    runs = Runs(monkeypatch, error)
    with pytest.raises(StoppedError):
        tune(config(), tmp_path, trials=5)
    first = [c.learner.wiring for c in runs.configs]
    assert first[:3] == ['blocks', 'direct', 'chain']
    assert all(c.optimizer.learning_rate == config().optimizer.learning_rate for c in runs.configs[:3])
    halted = runs.configs[3]
    runs.error = lambda config, number: 5.0
    monkeypatch.setattr(module, 'own_workdir', lambda runs, config: runs / f'again-{len(list(runs.iterdir()))}')
    study = tune(config(), tmp_path, trials=5)
    assert runs.configs[4].to_dict() == halted.to_dict()
    assert len(study.trials) == 5
    assert tune(config(), tmp_path, trials=5) == study
    assert len(runs.configs) == 6
    assert len(json.loads((tmp_path / 'front.json').read_text())['trials']) == 5


def test_a_budget_is_kept_before_anything_is_trained(tmp_path, monkeypatch):
    """Of three regions of 8 and 10 classes, edges from the output have 80 numbers, from a neighbour 64."""
    runs = Runs(monkeypatch, lambda config, number: 5.0)
    study = tune(config(), tmp_path, trials=4, budget={'levels': 2, 'synapses': 230}, cost='levels')
    assert len(runs.configs) == 4
    assert all(p.costs['levels'] <= 2 and p.costs['synapses'] <= 230 for p in study.trials)
    assert {p.costs['synapses'] for p in study.trials} <= {80 + 64 + 64, 80 + 80 + 64}
    monkeypatch.setattr(module, '_IN_VAIN', 5)
    with pytest.raises(ValueError, match=r'budget must be one that some of 5 draws keep to'):
        tune(config(), tmp_path, trials=5, budget={'synapses': 10}, cost='levels')


def test_a_wiring_that_the_parallel_mode_refuses_is_drawn_again(tmp_path, monkeypatch):
    runs = Runs(monkeypatch, lambda config, number: 5.0)
    study = tune(config(f'{SMALL},parallel.mode=stream'), tmp_path, trials=3)
    assert [trial.number for trial in study.trials] == [0, 1, 3]
    assert [c.learner.wiring for c in runs.configs[:2]] == ['blocks', 'direct']


def test_who_falls_behind_others_that_cost_no_more_is_stopped(tmp_path, monkeypatch):
    """On validation error, after a fifth of the epochs; what diverges is no end of the study."""
    errors = [5.0, 5.0, 5.0, 5.0, 50.0, 4.0]

    def error(config, number):
        if number == 6:
            raise NonFiniteError('loss is nan')
        return errors[number]

    runs = Runs(monkeypatch, error)
    monkeypatch.setattr(module.Space, 'first', lambda self: [])
    options = {'learner.wiring': 'direct'}
    drawn = module.Space.draw
    monkeypatch.setattr(
        module.Space, 'draw', lambda self, trial: {**drawn(self, trial), **options, 'learner.kind': None}
    )
    study = tune(config(), tmp_path, trials=7)
    assert [p.error for p in study.trials] == [5.0, 5.0, 5.0, 5.0, 4.0]
    assert len(runs.configs) == 7
    assert [p.error for p in study.front] == [4.0]
    journal = [json.loads(line) for line in (tmp_path / 'journal.log').read_text().splitlines()]
    heard = [entry['user_attr']['errors'] for entry in journal if 'errors' in entry.get('user_attr', {})]
    assert [15.0, 10.0] in heard
    assert [60.0] in heard  # after the first epoch
    assert not any(60.0 in errors and len(errors) > 1 for errors in heard)  # nor did it see a second


def test_a_study_of_a_text_goes_by_bits(tmp_path, monkeypatch):
    """The trial of fewer bits wins over that of fewer wrong characters, and who is behind in bits is stopped."""
    bits, errors = [3.0, 2.5, 2.5, 2.5, 2.0, 9.0], [10.0, 20.0, 20.0, 20.0, 60.0, 1.0]
    Runs(monkeypatch, lambda config, number: errors[number], lambda config, number: bits[number])
    text = 'model.width=16,model.depth=1,model.heads=2,model.context=8,batch_size=4,epochs=4,num_seeds=1'
    data = make_text('lines', 'the cat sat on the mat.\n' * 20, 'the cat sat.\n', 'the cat.\n' * 2, context=3)
    monkeypatch.setattr(module.Space, 'first', lambda self: [])
    drawn = module.Space.draw
    monkeypatch.setattr(module.Space, 'draw', lambda self, trial: {**drawn(self, trial), 'learner.wiring': 'direct'})
    study = tune(shakespeare.get_config(text), tmp_path, data, trials=6, cost='levels')
    assert [p.error for p in study.trials] == bits[:5]
    assert [p.error for p in study.front] == [2.0]
    assert '| trial | wiring | synapses | levels | validation bits | test bits |' in (tmp_path / 'front.md').read_text()
    assert front.picture(study.trials, 'levels').axes[0].get_ylabel() == 'validation bits per character'


def test_edges_one_by_one_and_a_folder_belongs_to_one_study(tmp_path, monkeypatch):
    Runs(monkeypatch, lambda config, number: 5.0)
    first = {'pathways': FREE, 'hidden_1 hears': 'output', 'hidden_2 hears': 'hidden_3'}
    monkeypatch.setattr(module.Space, 'first', lambda self: [first])
    (found,) = tune(config(), tmp_path, trials=1).front
    assert found.wiring == FREE
    assert found.options['learner.edges'] == ['output->hidden_1', 'hidden_3->hidden_2', 'output->hidden_3']
    assert found.costs == {'synapses': 80 + 64 + 80, 'levels': 2}
    with pytest.raises(ValueError, match='holds a study of another config and cost; choose another folder'):
        tune(config(f'{SMALL},batch_size=25'), tmp_path, trials=1, cost='levels')
    others = load('digits')
    with pytest.raises(ValueError, match='holds a study of another data set; choose another folder'):
        tune(config(), tmp_path, trials=1, dataset=others._replace(sha256='other'))
    begun = json.loads((tmp_path / 'study.json').read_text())
    del begun['config']['average_flips'], begun['data set']  # as an older version wrote it
    (tmp_path / 'study.json').write_text(json.dumps(begun))
    assert len(tune(config(), tmp_path, trials=1).trials) == 1


def test_a_config_that_is_refused_claims_no_folder(tmp_path, monkeypatch):
    Runs(monkeypatch, lambda config, number: 5.0)
    with pytest.raises(ValueError, match='batch_size must be'):
        tune(config(f'{SMALL},batch_size=99999'), tmp_path, trials=1)
    assert len(tune(config(), tmp_path, trials=1).trials) == 1


@pytest.mark.parametrize(
    ('options', 'changes', 'message'),
    [
        ('learner=backprop', {}, "the learner must be rec_lra, whose error pathways are searched; got 'backprop'"),
        ('', {'trials': 0}, 'trials must be'),
        ('', {'cost': 'watts'}, "cost must be one of synapses, levels, flops; got 'watts'"),
        ('', {'budget': {'watts': 3}}, 'budget must be positive numbers of synapses, levels, flops'),
    ],
)
def test_bad_arguments(tmp_path, options, changes, message):
    with pytest.raises(ValueError, match=message):
        tune(config(options), tmp_path, **{'trials': 1, **changes})
    assert not list(tmp_path.iterdir())
