import os
import pathlib

import pytest

_SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'tensorflow_datasets'
if 'RLRA_DATA_DIR' not in os.environ and _SHARED.is_dir():
    os.environ['RLRA_DATA_DIR'] = str(_SHARED)


@pytest.fixture
def data_dir():
    """The folder of prepared TFDS sets; the test is skipped where there is none."""
    path = os.environ.get('RLRA_DATA_DIR')
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip('no prepared data sets: set RLRA_DATA_DIR')
    return path
