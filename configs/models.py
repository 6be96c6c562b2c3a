"""The entries of each model beside its name and phi: what `model=` brings into a config."""

from typing import Any

UNITS = ('mlp', 'residual_mlp', 'elman', 'gru')  # models whose regions are no maps


def entries(width: int, depth: int) -> dict[str, dict[str, Any]]:
    """{model: its entries}; width and depth are those of the models of `UNITS`, the others have sizes of their own."""
    compute = {'dtype': 'float32'}
    readout = {
        'readout': 'last',  # or all
        'cells': 1,  # of a map, along each axis
    }
    resnet = {
        'width': 64,
        'stem': 'cifar',
        'norm': 'batch',
        **readout,
        **compute,
    }
    steps = {
        'per_step': 'row',  # or pixel
        'scanned': False,
        **compute,
    }
    blocks = {
        'width': 128,  # channels of the residual stream
        'heads': 4,
        'cut_mlp': True,  # whether an MLP's activation is a Site, and not only the sums are
        **compute,
    }
    return {
        'mlp': {'widths': (width,) * depth, 'init_std': 0.05},
        'elman': {'width': width, **steps},
        'gru': {'width': width, **steps},
        'residual_mlp': {'width': width, 'depth': depth, 'gap': 2, 'init_std': 0.05},
        'cnn': {
            'widths': (32, 32, 64, 64, 128, 128),
            'strides': (1, 2, 1, 2, 1, 2),
            'norm': 'layer',
            **readout,
            **compute,
        },
        'resnet18': {'blocks': (2, 2, 2, 2), 'kernels': (3, 3), **resnet},
        'fast_resnet': {'widths': (64, 256, 256), 'norm': 'batch', **readout, **compute},
        'presnet18': {'blocks': (2, 2, 2, 2), 'kernels': (3, 3), **resnet},
        'resnet50': {'blocks': (3, 4, 6, 3), **resnet},
        'transformer': {'context': 64, 'depth': 4, 'readout': 'last', **blocks},  # context: characters seen at once
        'vit': {'patch': 4, 'depth': 6, **readout, **blocks},
    }
