import importlib.util
import subprocess
import sys

import helpers
import jax
import numpy as np
import pytest
from etils import epath

from configs import digits
from rlra_jax.experiment.export import export, save

# Reads a file as somebody would who has JAX and NumPy alone, from a folder where rlra_jax is not.
READER = """
import sys
sys.modules.update(dict.fromkeys(('rlra_jax', 'flax', 'optax', 'tensorflow')))  # none of them can be imported
import pathlib
import jax.export
import numpy as np
model = jax.export.deserialize(pathlib.Path('model.jax').read_bytes())
images = np.load('images.npy')
np.savez('logits.npz', *[model.call(images[:size]) for size in (1, 3, 10)])
"""
CASES = {
    'mlp': 'model.widths=(8,),preprocess.contrast=True,preprocess.zca=True',
    'resnet': 'model=resnet18,learner=backprop,model.width=2,model.blocks=(1,)',
    'settles': 'learner=equilibrium_prop,model.widths=(8,)',
    'skips': 'model=fast_resnet,learner=backprop,model.widths=(2,3),model.readout=all,model.cells=2,average_flips=True',
    'recurrent': 'model=gru,learner=backprop,model.width=4,model.per_step=pixel,model.scanned=True',
}


def untrained(case):
    return helpers.untrained(digits.get_config(f'num_seeds=2,{CASES[case]}'))


@pytest.mark.parametrize('case', helpers.quick(CASES, 'mlp', 'recurrent', 'skips'))
def test_runs_where_nothing_but_jax_is_for_batches_of_any_size(tmp_path, case):
    """With batch normalisation, whitening and states that settle; each seed has variables of its own."""
    trained = untrained(case)
    save(export(trained, index=1), epath.Path(tmp_path) / 'model.jax')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model.jax']
    images = trained.dataset.test.image[:10]
    np.save(tmp_path / 'images.npy', images)
    finished = subprocess.run([sys.executable, '-c', READER], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    best = jax.tree.map(lambda leaf: leaf[1], trained.run.best)
    expected = trained.experiment.predict(best, trained.preprocess(images))
    with np.load(tmp_path / 'logits.npz') as found:
        for size, name in zip((1, 3, 10), found, strict=True):
            np.testing.assert_allclose(found[name], expected[:size], rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_says_what_it_takes_and_where_it_runs():
    exported = export(untrained('mlp'))
    assert [aval.str_short() for aval in (*exported.in_avals, *exported.out_avals)] == [
        'uint8[B,8,8,1]',
        'float32[B,10]',
    ]
    assert exported.platforms == ('cpu', 'cuda', 'tpu')


def test_what_cannot_be_exported_or_written(tmp_path, monkeypatch):
    trained = untrained('mlp')
    with pytest.raises(ValueError, match='index must be below 2, the number of seeds; got 2'):
        export(trained, 2)
    with pytest.raises(ValueError, match='the path to write must be that of a file; got '):
        save(export(trained), epath.Path(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda m: None if m == 'flatbuffers' else found(m))
    with pytest.raises(ModuleNotFoundError, match='pip install flatbuffers'):
        save(export(trained), epath.Path(tmp_path) / 'model.jax')
    assert not list(tmp_path.iterdir())
