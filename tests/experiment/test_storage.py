"""Where a run's files go, by the path that a user gives. The bucket is one in memory."""

import pathlib
import subprocess
import sys

import helpers
import pytest
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

from rlra_jax.experiment import report
from rlra_jax.experiment.metrics import FIELDS, MetricsLog, read_metrics
from rlra_jax.experiment.storage import local_path, open_path
from rlra_jax.experiment.train import train
from rlra_jax.experiment.workdir import claim, held, own_workdir

ROOT = pathlib.Path(__file__).parents[2]


class Bucket(MemoryFileSystem):
    store = {}  # noqa: RUF012
    pseudo_dirs = ['']  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return '/' + path.removeprefix('gs://').strip('/')


@pytest.fixture
def bucket(monkeypatch):
    """{path: file} of what is in it."""
    monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
    monkeypatch.setattr(backend.fsspec_backend, 'fs', lambda path: Bucket(skip_instance_cache=True))
    yield Bucket.store
    Bucket.store.clear()


def test_small_files_go_into_a_bucket(bucket, caplog, tmp_path, monkeypatch):
    """config.json, metrics.csv and whatever else is no array; that it cannot be locked is said."""
    monkeypatch.chdir(tmp_path)
    config = helpers.make_config()
    workdir = own_workdir('gs://bucket/runs', config)
    for _ in range(2):
        with held(workdir):
            claim(workdir, config, 'data', 'code')
            log = MetricsLog(workdir, [0], epochs=2, resume_from=0)
            log.write(1, {name: [0.5] for name in FIELDS}, 1.0)
            log.close()
    assert str(workdir).startswith('gs://bucket/runs/digits-rec_lra-')
    assert report.read_json(workdir / 'config.json')['epochs'] == 4
    assert [row['val_error'] for row in read_metrics(workdir / 'metrics.csv')] == [0.5]
    names = sorted(path.rpartition('/')[2] for path in bucket)
    assert names == ['config.json', 'holder', 'metrics.csv', 'origin.json']
    assert 'a bucket has no locks' in caplog.text
    assert 'TensorBoard events are written into local folders only' in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_bucket_that_cannot_be_reached_says_what_is_missing(tmp_path):
    hidden = 'import sys; sys.modules["gcsfs"] = None; from rlra_jax.experiment.storage import open_path; '
    code = f'{hidden}open_path("gs://bucket/run")'
    told = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, env={'PYTHONPATH': str(ROOT)}
    )
    assert 'ModuleNotFoundError: gs://bucket/run cannot be reached: Please install gcsfs' in told.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('ftp://host/run', r'ftp://host/run must be a local path, or begin with gs://, s3://, az:// or hf://'),
        (pathlib.Path('gs://bucket/run'), 'gs:/bucket/run must be a string: pathlib drops a slash of a URL'),
    ],
)
def test_what_is_no_place_for_files(path, message):
    with pytest.raises(ValueError, match=message):
        train(helpers.make_config(), path)


def test_pictures_stay_here():
    with pytest.raises(ValueError, match=r'gs://bucket/curves\.png must be a local path'):
        local_path('gs://bucket/curves.png')


def test_home_is_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert str(open_path('~/run')) == str(local_path('~/run')) == f'{tmp_path}/run'
    assert str(open_path('runs/~')) == 'runs/~'
    train(helpers.make_config(epochs=1, num_seeds=1), '~/run')
    assert (tmp_path / 'run' / 'result.json').exists()


def test_locks_do_not_need_what_only_unix_has():
    code = 'import sys; sys.modules["fcntl"] = None; import rlra_jax.experiment.workdir'
    imported = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert imported.returncode == 0, imported.stderr
