import helpers
import numpy as np
import pytest

from rlra_jax import plot
from rlra_jax.experiment import pictures, report, row_report
from rlra_jax.experiment.metrics import COLUMNS, MetricsLog, read_metrics
from rlra_jax.experiment.train import train


def test_summary_of_seeds():
    rows = [
        {**dict.fromkeys((*report.ERRORS, *report.TOP5_ERRORS), 1.0), 'test_error': error, 'best_epoch': epoch}
        for error, epoch in ((3.0, 4), (5.0, 8), (7.0, 6))
    ]
    summary = report.summarise(rows)
    assert summary['test_error'] == 5.0
    assert summary['test_error_sd'] == 2.0
    assert summary['best_epoch'] == 6
    assert report.summarise(rows[:1])['test_error_sd'] == 0.0


@pytest.mark.parametrize(('seeds', 'told'), [(1, '2.00'), (2, '2.00 ± 0.50')])
def test_one_seed_has_no_spread(seeds, told):
    assert report.with_spread(2.0, 0.5 * (seeds > 1), seeds) == told


def test_table_and_picture_of_finished_runs(tmp_path):
    workdirs = [tmp_path / 'one', tmp_path / 'two']
    results = [train(helpers.make_config(seed=seed), workdir) for seed, workdir in enumerate(workdirs)]
    lines = report.table(results).splitlines()
    assert len(lines) == 6
    assert f'{results[1]["test_error"]:.2f} ± {results[1]["test_error_sd"]:.2f}' in lines[3]
    assert 'Best epoch: the median of these epochs' in lines[5]
    figure = pictures.of_runs(workdirs)
    plot.save(figure, tmp_path / 'plots' / 'curves.png')
    assert (tmp_path / 'plots' / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert [axis.get_title() for axis in figure.axes] == ['training data', 'validation data']
    assert {text.get_text() for text in figure.axes[1].texts} == {'rec_lra seed=0', 'rec_lra seed=1'}
    assert figure.get_suptitle() == 'digits; 2 seeds, mean ± 1 standard deviation'


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / 'metrics.csv'
    whole = '1,0,2.0,50.0,1.0,40.0,10.0,0.5,9'
    path.write_text('\n'.join([','.join([*COLUMNS, 'angle/stem']), whole, whole.replace('1', '2', 1)[:-2]]))
    (row,) = read_metrics(path)
    assert row['epoch'] == 1
    np.testing.assert_allclose(row['val_error'], 40.0)


def test_angles_to_no_gradient_are_left_out(tmp_path):
    """Of sign units, whose gradient is zero; JSON has no NaN."""
    lines = ['epoch,seed,angle/a,angle/output,dead/a', '1,0,9,9,9', '2,0,nan,1,0.5', '2,1,nan,2,0.25']
    (tmp_path / 'metrics.csv').write_text('\n'.join(lines))
    told = report.last_diagnostics(tmp_path)
    assert told == {'angle/output': 1.5, 'dead/a': 0.375}
    assert row_report._median_cosine(told) is None


def test_two_processes_may_write_the_same_file(tmp_path, monkeypatch):
    """Neither takes the other's unfinished file for its own."""
    path, scratches = tmp_path / 'rows.json', []

    def replace(scratch, target):
        scratches.append(scratch)
        if len(scratches) == 1:  # the other one comes between
            monkeypatch.setattr('os.getpid', lambda: 1)
            report.write_text(target, 'the other')
        scratch.rename(target)

    monkeypatch.setattr(type(path), 'replace', replace)
    report.write_text(path, 'mine')
    assert path.read_text() == 'mine'
    assert len(set(scratches)) == 2


@pytest.mark.parametrize('text', ['', '{"learner": ', 'null', '[]', '{"learner": "rec_lra"}', '\xff'])
def test_a_damaged_result_is_named(tmp_path, text):
    path = tmp_path / 'result.json'
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match=f'{path} .*remove that file, and nothing else: the same command makes it'):
        report.read_result(path)


def test_an_epoch_that_lacks_a_seed_is_named(tmp_path):
    rows = [f'{epoch},{seed},2.0,50.0,1.0,40.0,10.0,0.5' for epoch in (1, 2) for seed in (3, 4)]
    (tmp_path / 'metrics.csv').write_text('\n'.join([','.join(COLUMNS), *rows]))
    assert report.curves(tmp_path)['val_error_mean'] == [40.0, 40.0]
    (tmp_path / 'metrics.csv').write_text('\n'.join([','.join(COLUMNS), *rows[:-1]]))
    with pytest.raises(ValueError, match=r'metrics\.csv must hold .* the seeds \[3, 4\] .*; epoch 2 has rows of \[3\]'):
        report.curves(tmp_path)


def test_curves_without_rows_are_named(tmp_path):
    with pytest.raises(ValueError, match=r'metrics\.csv must hold'):
        report.curves(tmp_path)


def test_lost_rows_are_told_of(tmp_path, caplog):
    MetricsLog(tmp_path, [0], epochs=3, resume_from=2).close()
    assert 'lacks rows of the 2 epochs done' in caplog.text
