import math

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import prepared
import pytest

from configs import shakespeare
from rlra_jax.experiment import epoch, scanned
from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import check_dataset, first_examples, load, make_text, with_context
from rlra_jax.experiment.evaluate import evaluate, summarise, told
from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.report import table
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.sample import sample
from rlra_jax.experiment.text import Text, encode, measures
from rlra_jax.experiment.train import prepare, train
from rlra_jax.parallel.mesh import make_mesh

pytestmark = pytest.mark.xdist_group('text')  # which share a run
LINES = 'the cat sat on the mat, and the dog sat on the log.\n'
SMALL = 'model.width=16,model.depth=1,model.heads=2,model.context=8,batch_size=4,epochs=4,num_seeds=2'


def small(**changes):
    """A text of 32 steps an epoch, and a config that trains on it in seconds."""
    from configs import common

    config = common.override(shakespeare.get_config(SMALL), changes)
    return config, make_text('lines', LINES * 20, LINES + 'the cat', LINES * 2, context=3)


def test_the_real_text_in_its_three_parts(data_dir):
    data = load('tiny_shakespeare', data_dir)
    sizes = [len(split.tokens) for split in (data.train, data.val, data.test)]
    assert sizes == [1003854, 55770, 55770]
    assert len(data.alphabet) == data.classes == 65
    assert ''.join(data.alphabet[token] for token in data.val.tokens[:12]) == '?\n\nGREMIO:\nG'
    assert sum(split.answers for split in (data.train, data.val, data.test)) == sum(sizes) - 3


def write(data_dir, text=b'abcab'):
    return prepared.text(data_dir, 'tiny_shakespeare', {'train': [text], 'validation': [b'ba'], 'test': [b'ab', b'ca']})


def test_a_prepared_text_is_read_as_it_is(tmp_path):
    write(tmp_path)
    data = load('tiny_shakespeare', str(tmp_path))
    assert data.alphabet == 'abc'
    assert [split.tokens.tolist() for split in (data.train, data.val, data.test)] == [
        [0, 1, 2, 0, 1],
        [1, 0],
        [0, 1, 2, 0],
    ]
    assert data.sha256 != make_text('other', 'abcab', 'ba', 'abcb').sha256


def test_a_text_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"tiny_shakespeare is not prepared .*\n.*tfds.builder\('tiny_shakespeare'"
    ):
        load('tiny_shakespeare', str(tmp_path))
    folder = write(tmp_path)
    for file in folder.glob('*train*'):
        file.write_bytes(b'nothing of the kind')
    with pytest.raises(ValueError, match=r'example 0 of tiny_shakespeare/train \(record 0 of .*\): it cannot be read'):
        load('tiny_shakespeare', str(tmp_path))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: make_text('a', 'abc', 'abd', 'abc'), "a/val must be of the 3 characters 'abc'; got 'd'"),
        (lambda: make_text('a', 'abc', 'abc', ''), 'a/test: a text must be of 2 characters or more; got 0'),
        (lambda: with_context(make_text('a', 'abc', 'abc', 'abc'), 3), 'model.context must be below 3, .*; got 3'),
        (lambda: first_examples(make_text('a', 'abc', 'abc', 'abc', context=1), 3), 'from 0, for all, to 2; got 3'),
        (
            lambda: check_dataset(make_text('a', 'abc', 'abc', 'abc')._replace(classes=2)),
            'a/train: tokens must be from 0 to 1; got .0 to 2',
        ),
        (
            lambda: check_dataset(make_text('a', 'abc', 'abc', 'abc')._replace(val=Text(np.zeros(3), 2))),
            r'a/val: tokens must be int32 \[N\]; got float64 \(3,\)',
        ),
    ],
)
def test_texts_from_which_nothing_could_be_learned(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_windows_that_follow_each_other_ask_for_every_character_but_the_first():
    text = Text(np.arange(11, dtype=np.int32), 4)
    batch = text.at(text.places)
    assert batch['tokens'].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]]
    assert batch['label'].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, -1, -1]]
    assert (text.size, text.answers) == (2, 10)
    assert text.part(1, 2).tokens.tolist() == [4, 5, 6, 7, 8]


def test_windows_to_train_on_are_settled_by_seed_and_step_and_stay_inside_the_text():
    config, data = small()
    data = with_context(data, 8)
    experiment = build(config, data)

    def windows(seed, number):
        order, _ = scanned.plan(experiment, data.train, np.int32(seed), np.int32(number))
        return np.asarray(order), [np.asarray(data.train.at(at)['tokens']) for at in order]

    starts, first = windows(0, 1)
    assert starts.shape == (experiment.steps_per_epoch, 4) == (1039 // 8 // 4, 4)
    np.testing.assert_array_equal(first, windows(0, 1)[1])
    for other in (windows(1, 1), windows(0, 2)):
        assert (starts != other[0]).mean() > 0.9
    every = np.concatenate([windows(seed, 1)[0].ravel() for seed in range(80)])
    assert (every.min(), every.max()) == (0, 1040 - 9)  # the last window's last label is the text's last character
    assert np.all(np.asarray(data.train.at(np.array([0, 1040 - 9]))['label']) >= 0)
    text = LINES * 20
    for at, tokens in zip(starts[0], first[0], strict=True):
        assert ''.join(data.alphabet[token] for token in tokens) == text[at : at + 8]


def test_bits_and_perplexity_by_hand():
    """A model that gives every other character a quarter: 2 bits each, of all but the first of nine."""
    data = make_text('a', 'abcdabcda', 'abcdabcda', 'abcd', context=5)
    text = scanned.put(data.val, Preprocess(None), make_mesh())
    score = scanned.evaluate(lambda variables, tokens: jnp.zeros((*tokens.shape, 4)), {}, text, make_mesh())
    np.testing.assert_allclose(score.loss, math.log(4), rtol=1e-6)
    told = measures(score.loss)
    np.testing.assert_allclose([told['bits'], told['perplexity']], [2, 4], rtol=1e-6)
    np.testing.assert_allclose(score.error, 6 / 8)  # it guesses a, which is right twice

    # Half a bit more for each of the two characters that follow a c: 1/8 of certainty goes elsewhere.
    sure = jnp.log(jnp.array([[4, 4, 4, 4], [4, 4, 4, 4], [7, 7, 1, 1], [4, 4, 4, 4]]) / 16)
    score = scanned.evaluate(lambda variables, tokens: sure[tokens], {}, text, make_mesh())
    np.testing.assert_allclose(measures(score.loss)['bits'], (6 * 2 + 2 * 4) / 8, rtol=1e-6)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(workdir, data, what training returned)."""
    workdir = tmp_path_factory.mktemp('run')
    config, data = small()
    return workdir, data, train(config, workdir, data)


def test_a_run_on_a_text_is_judged_by_its_loss_and_says_so_everywhere(run):
    workdir, data, result = run
    rows = read_metrics(workdir / 'metrics.csv')
    for seed in (0, 1):
        mine = [row for row in rows if row['seed'] == seed]
        best = min(mine, key=lambda row: row['val_loss'])
        kept = next(row for row in result['per_seed'] if row['seed'] == seed)
        assert kept['best_epoch'] == best['epoch']
        np.testing.assert_allclose(kept['val_loss'], best['val_loss'], rtol=1e-5)
        np.testing.assert_allclose(best['val_bits'], best['val_loss'] / math.log(2), rtol=1e-6)
        np.testing.assert_allclose(best['val_perplexity'], math.exp(best['val_loss']), rtol=1e-6)
        assert mine[-1]['train_bits'] < mine[0]['train_bits'] < math.log2(data.classes) + 0.5
    np.testing.assert_allclose(result['test_bits'], np.mean([row['test_bits'] for row in result['per_seed']]))
    assert f'| {result["test_bits"]:.3f} ± {result["test_bits_sd"]:.3f} | {result["test_perplexity"]:.3f} ±' in table(
        [result]
    )

    assert f'| {data.name} |' in table([result])  # not the one that the config names

    trained = restore(workdir, data)
    found = evaluate(trained)
    assert found.logits.shape == (2, 2 * len(LINES) - 1, data.classes)
    assert found.label.tolist() == encode((LINES * 2)[1:], data.alphabet).tolist()
    summary = summarise(found)
    np.testing.assert_allclose(
        [summary['bits'], summary['error']], [result['test_bits'], result['test_error']], rtol=1e-4
    )
    assert '| examples | seeds | error | top-5 error | loss | bits | perplexity |' in told(summary)
    assert "| ' ' | 24 |" in told(summary)


def test_bits_of_smoothed_labels_are_no_bits_of_the_text(tmp_path):
    """Of an epoch's steps; the text itself is measured after them."""
    config, data = small(label_smoothing=0.1, epochs=1)
    result = train(config, tmp_path, data)
    rows = read_metrics(tmp_path / 'metrics.csv')
    assert [math.isnan(row['train_bits']) for row in rows] == [True, True]
    assert all(math.isfinite(row['val_bits']) for row in rows)
    assert math.isfinite(result['train_bits'])


@pytest.mark.full
def test_in_stream_mode_the_numbers_are_the_same(tmp_path):
    """Of blocks, one at a time in memory."""
    more = {'learner.wiring': 'modules', 'model.depth': 2, 'epochs': 1, 'num_seeds': 1}
    results = []
    for mode in ('data', 'stream'):
        config, data = small(**more, **{'parallel.mode': mode})
        results.append(train(config, tmp_path / mode, data))
    np.testing.assert_allclose(results[0]['test_bits'], results[1]['test_bits'], rtol=1e-5)


@pytest.mark.full
def test_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    config, data = small(checkpoint_every=1)
    whole = train(config, tmp_path / 'whole', data)
    check = train_module._Trainer._require_finite

    def stop(self, run, trainable, metrics, number, checkpoints):
        if number == 3:
            raise KeyboardInterrupt
        return check(self, run, trainable, metrics, number, checkpoints)

    monkeypatch.setattr(train_module._Trainer, '_require_finite', stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'stopped', data)
    monkeypatch.undo()
    assert train(config, tmp_path / 'stopped', data)['per_seed'] == whole['per_seed']


@pytest.mark.parametrize(
    'argument',
    helpers.quick(
        [
            *(f'learner={name}' for name in ('backprop', 'direct_feedback_alignment', 'kolen_pollack')),
            *(f'learner.wiring={name}' for name in ('reverse', 'modules', 'direct')),
            'rule=kp',
        ],
        'learner=direct_feedback_alignment',
        'rule=kp',
    ),
)
def test_the_committed_config_builds_for_every_learner_and_wiring(argument):
    _, data = small()
    _, experiment, _ = prepare(shakespeare.get_config(f'quick=True,train_examples=0,batch_size=4,{argument}'), data)
    assert experiment.reads == 'tokens'


def test_the_committed_model_has_about_800000_parameters():
    _, data = small()
    experiment = build(shakespeare.get_config('learner=backprop,batch_size=4'), with_context(data, 64))
    assert 7.8e5 < sum(leaf.size for leaf in jax.tree.leaves(experiment.net.variable_shapes())) < 8.2e5


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('learner=equilibrium_prop', "learner must be one that answers by a forward pass, .*; got 'equilibrium_prop'"),
        ('augment.flip=True', "augment must be off for a text; got {'flip': True, 'pad': 0}"),
        ('average_flips=True', 'average_flips must be False for a text; got True'),
        ('preprocess.contrast=True', "preprocess must be off for a text; got {'contrast': True, 'zca': False}"),
        ('model=mlp', "the model 'mlp' reads image, but lines holds tokens; choose another of the two"),
        ('model.context=1040', 'model.context must be below 1040, the characters of lines; got 1040'),
        ('batch_size=131,model.context=8', 'batch_size must be from 1 to the 129 training examples; got 131'),
    ],
)
def test_configs_that_do_not_go_with_a_text(argument, message):
    _, data = small()
    with pytest.raises(ValueError, match=message):
        prepare(shakespeare.get_config(f'batch_size=4,{argument}'), data)


def test_a_model_of_texts_on_images():
    with pytest.raises(
        ValueError, match="the model 'transformer' reads tokens, but digits holds image; choose another"
    ):
        prepare(shakespeare.get_config('dataset=digits'))


def test_samples_are_the_same_for_the_same_seed(run):
    workdir, data, _ = run
    trained = restore(workdir, data)
    text = sample(trained, 'the ', 30)
    assert len(text) == 34
    assert text.startswith('the ')
    assert set(text) <= set(data.alphabet)
    assert text == sample(trained, 'the ', 30)
    assert text not in (sample(trained, 'the ', 30, seed=1), sample(trained, 'the ', 30, temperature=0.5))
    assert sample(trained, 'the ', 0) == 'the '

    bold = sample(trained, 'the cat sat on', 5, temperature=0, index=1)  # of which the model sees 8 characters
    for i in range(14, 19):
        tokens = jnp.asarray(encode(bold[i - 8 : i], data.alphabet))[None]
        assert bold[i] == data.alphabet[int(trained.predict(tokens, 1)[0, -1].argmax())]

    for options, message in [
        ({'prompt': ''}, 'prompt must be of one character or more'),
        ({'prompt': 'X'}, "prompt must be of the .* characters .*; got 'X'"),
        ({'length': -1}, 'length must be a whole number of at least 0; got -1'),
        ({'temperature': -0.1}, r'temperature must be a number of at least 0; got -0\.1'),
        ({'temperature': 1e-39}, 'temperature must be 0, or at least 1e-06; got 1e-39'),
        ({'seed': 2**31}, r'seed must be below 2\*\*31; got 2147483648'),
        ({'index': 2}, 'index must be below 2, the number of seeds; got 2'),
    ]:
        with pytest.raises(ValueError, match=message):
            sample(trained, **options)
    with pytest.raises(ValueError, match=r'tokens must be int32 \[B, 8\], as lines stores them; got int32 \[1, 3\]'):
        trained.predict(jnp.zeros((1, 3), jnp.int32))


def test_samples_of_a_run_on_images(tmp_path):
    train(helpers.make_config(epochs=1), tmp_path)
    with pytest.raises(ValueError, match="the data of a run to sample from must be a text; got 'digits'"):
        sample(restore(tmp_path))


def test_labels_beyond_the_end_do_not_count():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 7))
    label = jnp.array([[1, 2, 3], [4, -1, -1]])
    whole = epoch.total_score(logits, label)
    parts = [epoch.total_score(logits[0], label[0]), epoch.total_score(logits[1, :1], label[1, :1])]
    np.testing.assert_allclose(whole.loss, sum(part.loss for part in parts), rtol=1e-6)
    assert whole.error == sum(part.error for part in parts)


@pytest.mark.full
def test_a_loss_that_is_not_finite_on_a_text(tmp_path):
    config, data = small(**{'optimizer.name': 'sgd', 'optimizer.learning_rate': 1e30})
    with pytest.raises(NonFiniteError, match=r'the loss of seed 0 is not finite at step \d+ of 32 in epoch 1: '):
        train(config, tmp_path, data)
