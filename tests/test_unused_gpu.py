import warnings
from importlib import metadata

import jax
import optax
import pytest

import rlra_jax
from rlra_jax import unused_gpu
from rlra_jax.types import Learner


@pytest.fixture(autouse=True)
def _restored():
    chosen = jax.config.jax_platforms
    yield
    jax.config.update('jax_platforms', chosen)


def installed(monkeypatch, backend='cpu', platforms=None, **versions):
    """As if these packages were there, names with underscores, and no others."""

    def version(name):
        try:
            return versions[name.replace('-', '_')]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, 'version', version)
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    jax.config.update('jax_platforms', platforms)
    unused_gpu.warn_of_unused_gpu.cache_clear()


def make_step():
    rlra_jax.make_train_step(Learner(lambda *_: None, lambda *_: None), optax.sgd(0.1))


def test_a_plugin_of_another_version_is_told_once(monkeypatch):
    installed(monkeypatch, jax='0.10.2', jaxlib='0.10.2', jax_cuda12_plugin='0.7.2')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        make_step()
        make_step()
    (warning,) = caught
    assert str(warning.message) == (
        'JAX runs on the CPU: jaxlib 0.10.2 takes no jax-cuda12-plugin 0.7.2; '
        "pip install 'jax[cuda12]==0.10.2' brings the one that fits"
    )
    assert warning.filename == __file__


@pytest.mark.parametrize(
    'surroundings',
    [
        {},
        {'jax_cuda13_plugin': '0.10.2'},
        {'jax_cuda13_plugin': '0.10.2.post1'},
        {'jax_cuda12_plugin': '0.7.2', 'jax_cuda13_plugin': '0.10.2'},
        {'jax_cuda12_plugin': '0.7.2', 'backend': 'gpu'},
        {'jax_cuda12_plugin': '0.7.2', 'platforms': 'cpu'},
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(monkeypatch, surroundings):
    installed(monkeypatch, jax='0.10.2', jaxlib='0.10.2', **surroundings)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        make_step()
