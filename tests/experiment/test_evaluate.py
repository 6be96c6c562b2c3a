import json

import helpers
import numpy as np
import pytest

from rlra_jax.experiment import evaluate as module
from rlra_jax.experiment.data import load
from rlra_jax.experiment.evaluate import Evaluation, evaluate, plot_confusion, save_predictions, summarise, told
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train


def by_hand():
    """Two seeds, five examples, three classes; class 2 is only met by mistake."""
    logits = np.zeros((2, 5, 3), np.float32)
    for seed, guesses in enumerate([[0, 0, 1, 1, 2], [0, 1, 1, 1, 1]]):
        logits[seed, np.arange(5), guesses] = 1
    return Evaluation(np.array([3, 4]), np.array([0, 0, 1, 1, 0], np.int32), logits)


def test_errors_of_each_class_by_hand():
    found = summarise(by_hand())
    assert by_hand().confusion.tolist() == [[3, 2, 1], [0, 4, 0], [0, 0, 0]]
    assert found['per_class'] == [
        {'class': 0, 'examples': 3, 'error': 50.0, 'taken_for': 1},
        {'class': 1, 'examples': 2, 'error': 0.0, 'taken_for': None},
        {'class': 2, 'examples': 0, 'error': None, 'taken_for': None},
    ]
    assert (found['examples'], found['seeds'], found['top5_error']) == (5, [3, 4], 0.0)
    np.testing.assert_allclose([found['error'], found['error_sd']], [30, np.sqrt(200)])  # 20 and 40 %
    right, wrong = np.log(np.e + 2) - 1, np.log(np.e + 2)
    np.testing.assert_allclose(found['loss'], (7 * right + 3 * wrong) / 10, rtol=1e-6)
    assert '| 5 | 2 | 30.00 ± 14.14 | 0.00 ± 0.00 |' in told(found)
    assert '| 0 | 3 | 50.00 | 1 |\n| 1 | 2 | 0.00 |  |' in told(found)


def test_classes_whose_name_would_end_a_cell_of_the_table():
    assert r"| '\|' | 3 | 50.00 | 'b' |" in told(summarise(by_hand()._replace(alphabet='|bc')))


def test_of_many_classes_the_hardest_are_told(tmp_path):
    label = np.arange(30, dtype=np.int32)
    logits = np.eye(30, dtype=np.float32)[None, np.where(label > 26, 0, label)]
    evaluation = Evaluation(np.array([0]), label, logits)
    lines = told(summarise(evaluation)).splitlines()[6:]
    assert len(lines) == 20
    assert lines[:3] == [f'| {label} | 1 | 100.00 | 0 |' for label in (27, 28, 29)]
    plot_confusion(evaluation, tmp_path / 'many.png')


@pytest.mark.parametrize('kept', helpers.quick([False, True], False))
def test_says_what_training_said_and_keeps_every_prediction(tmp_path, monkeypatch, kept):
    """Of arrays and of data that is read as it is needed, in batches of which the last is not full."""
    monkeypatch.setattr(module, '_CHUNK', 128)
    data = helpers.kept(load('digits')) if kept else load('digits')
    result = train(helpers.make_config(epochs=2, num_seeds=1 if kept else 2), tmp_path, data)
    trained = restore(tmp_path, data)
    for split in ('train', 'val', 'test'):
        found = evaluate(trained, split)
        summary = summarise(found)
        for name in ('error', 'top5_error', 'error_sd', 'top5_error_sd'):
            np.testing.assert_allclose(summary[name], result[f'{split}_{name}'], rtol=1e-5)
        stored = getattr(load('digits'), split)
        np.testing.assert_array_equal(found.label, stored.label)
        np.testing.assert_allclose(found.logits[0, -5:], trained.predict(stored.image[-5:]), rtol=1e-4, atol=1e-5)
    json.dumps(summary)
    save_predictions(found, tmp_path / 'test.npz')
    with np.load(tmp_path / 'test.npz', allow_pickle=False) as saved:
        assert sorted(saved) == ['guess', 'label', 'logits', 'seed']
        np.testing.assert_array_equal(saved['guess'], found.logits.argmax(axis=2))
    plot_confusion(found, tmp_path / 'test.svg')
    assert (tmp_path / 'test.svg').read_text().count('<svg') == 1
    with pytest.raises(ValueError, match="split must be one of train, val, test; got 'validation'"):
        evaluate(trained, 'validation')
