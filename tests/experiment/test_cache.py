"""A cache is a convenience: without it all is made anew, and nothing else changes."""

import logging

import numpy as np
import pytest

from rlra_jax.experiment.cache import cache_dir, cached


def kept(path, make):
    return cached(path, load=np.load, make=make, save=np.save)


def test_what_was_made_is_read_and_nothing_is_said(tmp_path, caplog):
    path = tmp_path / 'new' / 'array.npy'
    assert kept(path, lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert kept(path, lambda: pytest.fail('made twice')).tolist() == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ['array.npy']
    assert not caplog.records


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    """A file in its place stops even the superuser, who tests may run as."""
    (tmp_path / 'file').touch()
    assert kept(tmp_path / 'file' / 'array.npy', lambda: np.arange(3)).tolist() == [0, 1, 2]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert 'cannot be written' in record.getMessage()
    assert 'damaged' not in record.getMessage()


@pytest.mark.parametrize('damage', [b'', b'damaged'])
def test_a_damaged_one_is_made_anew(tmp_path, caplog, damage):
    path = tmp_path / 'array.npy'
    path.write_bytes(damage)
    for _ in range(2):
        assert kept(path, lambda: np.arange(3)).tolist() == [0, 1, 2]
    (record,) = caplog.records
    assert 'is damaged' in record.getMessage()


def test_its_folder_may_be_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('RLRA_CACHE_DIR', '~/cache')
    assert cache_dir() == tmp_path / 'cache'
