import pathlib
import runpy

import apart
import flax.linen as nn
import jax
import jax.numpy as jnp
import zoo
from flax import nnx

X = jax.ShapeDtypeStruct((3, 4, 6, 2), jnp.float32)


def lines(text):
    """Numbers of the zoo's lines that contain a text."""
    source = pathlib.Path(zoo.__file__).read_text().splitlines()
    return [i for i, line in enumerate(source, start=1) if text in line]


def test_a_model_that_knows_nothing_of_sites():
    """What to mark: function, module, shape, and the line in the model's own file."""
    found = apart.find_activations(zoo.ResNet(), X)
    (stem,), (inner, outer) = lines("self.act(nn.Conv(4, (3, 3), name='stem')"), lines('self.act(')[:2]
    assert [(a.function, a.module, a.shape, int(a.location.rpartition(':')[2])) for a in found] == [
        ('relu', '', (3, 4, 6, 4), stem),
        ('relu', 'block_0', (3, 4, 6, 4), inner),
        ('relu', 'block_0', (3, 4, 6, 4), outer),
        ('relu', 'block_1', (3, 2, 3, 6), inner),
        ('relu', 'block_1', (3, 2, 3, 6), outer),
    ]
    assert all(a.location.startswith(zoo.__file__) for a in found)


def test_every_site_of_an_nnx_model_is_found():
    found = apart.find_activations(zoo.NNXCNN(nnx.Rngs(0)), X)
    assert [(a.function, a.shape) for a in found] == [('relu', (3, 4, 6, 3)), ('tanh', (3, 2, 3, 5))]


def test_functions_by_name_and_by_primitive_but_not_softmax_or_normalisation():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = nn.LayerNorm()(x)
            for phi in (nn.elu, nn.silu, nn.sigmoid, jnp.sign, jnp.tanh, lambda h: jnp.maximum(h, 0.0), nn.softmax):
                z = phi(z)
            return nn.remat(nn.Dense)(4)(jax.jit(nn.relu)(z))

    found = apart.find_activations(Net(), X)
    assert [a.function for a in found] == ['elu', 'silu', 'logistic', 'sign', 'tanh', 'max(h, 0)', 'relu']


def test_layers_in_a_scan_and_branches_of_a_condition():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.Dense(2)(x)), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(Layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
            x, _ = layers(name='layers')(x, None)
            return jax.lax.cond(x.sum() > 0, jnp.tanh, nn.elu, x)

    found = apart.find_activations(Net(), X)
    assert [(a.function, a.module, a.shape) for a in found[:1]] == [('relu', 'layers', X.shape)]
    assert sorted(a.function for a in found[1:]) == ['elu', 'tanh']


def test_a_model_in_a_folder_named_jax(tmp_path):
    """Only the installed packages are libraries."""
    for folder in ('jax', 'flax', 'rlra_jax'):
        file = tmp_path / folder / 'net.py'
        file.parent.mkdir()
        file.write_text(
            'import flax.linen as nn\n'
            'import jax.numpy as jnp\n'
            'class Net(nn.Module):\n'
            '    @nn.compact\n'
            '    def __call__(self, x):\n'
            '        return nn.Dense(4)(jnp.maximum(nn.relu(nn.Dense(3)(x)), 0.0))\n'
        )
        found = apart.find_activations(runpy.run_path(str(file))['Net'](), X)
        assert [(a.function, a.location) for a in found] == [('relu', f'{file}:6'), ('max(h, 0)', f'{file}:6')]


def test_functions_that_bend_at_0():
    """PReLU is made of a comparison and a choice; a mask of whole numbers is no activation."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = nn.PReLU()(nn.LayerNorm()(x))
            return jnp.where(z < 0, 0.1 * z, z) * (jnp.arange(x.shape[-1]) > 0)

    found = apart.find_activations(Net(), X)
    assert [(a.function, a.module) for a in found] == [('h >= 0', 'PReLU_0'), ('h < 0', '')]
    assert [a.function for a in apart.find_activations(nnx.PReLU(), X)] == ['h >= 0']
