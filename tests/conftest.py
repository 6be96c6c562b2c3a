import gc
import importlib.metadata
import itertools
import os
import pathlib
import tempfile

import pytest

_SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'tensorflow_datasets'
if 'RLRA_DATA_DIR' not in os.environ and _SHARED.is_dir():
    os.environ['RLRA_DATA_DIR'] = str(_SHARED)

# Tests compile the same few programs again and again, workers and subprocesses too: one cache for the session.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix='rlra_jax-compiled-')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
    os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

# Most programs run once; without the newer emitters they are compiled sooner. Later versions have no such flag.
if 'JAX_DISABLE_MOST_OPTIMIZATIONS' in os.environ and importlib.metadata.version('jaxlib').startswith('0.10.'):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'

_TESTS = itertools.count(1)


def pytest_collection_finish():
    """Lets Python look for garbage less often: tracing makes many small objects, and modules stay."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_runtest_teardown():
    """Forgets compiled programs now and then: the more of them JAX keeps, the longer it takes to lower another one."""
    if next(_TESTS) % 120 == 0:
        import jax  # after the settings above

        jax.clear_caches()


def pytest_terminal_summary(terminalreporter):
    """Prints what tests recorded as their 'log'."""
    for report in terminalreporter.getreports('passed'):
        for log in (told for name, told in report.user_properties if name == 'log'):
            terminalreporter.section(report.nodeid)
            terminalreporter.write_line(log)


@pytest.fixture
def data_dir():
    """The folder of prepared TFDS sets; the test is skipped where there is none."""
    path = os.environ.get('RLRA_DATA_DIR')
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip('no prepared data sets: set RLRA_DATA_DIR')
    return path
