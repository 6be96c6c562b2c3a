"""Table 3 as the paper has it, on ILSVRC itself: `launch.reproduce --experiment=table3_imagenet`.

  python -m launch.train --config=configs/table3_imagenet.py:model=cnn,learner=feedback_alignment

The rows of `configs/table3.py`, each with one rate and one seed: it takes a GPU days, not hours. Where to put the data:
`configs/imagenet2012.py`. --quick trains thin networks on the first 2,000 images.
"""

from typing import Any

from . import common, imagenet2012, table3

SEARCH: dict[str, Any] = {}  # nothing is searched
QUICK = table3.QUICK
COLUMNS = table3.COLUMNS
CURVES = table3.CURVES
PAPER = {  # top-1 error in %
    'CNN, TP': 98.34,
    'CNN, FA': 93.08,
    'ResNet, FA+BP': 73.01,
    'ResNet, SS': 37.91,
    'ResNet, SS+BP': 37.01,
    'ResNet, FA+WM': 30.20,
    'ResNet, KP': 29.2,
    'CNN, BP': 62.58,
    'CNN, rLRA': 73.69,
    'ResNet, BP': 28.15,
    'ResNet, rLRA': 30.78,
}


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    return imagenet2012.get_config(argument)


def rows() -> list[dict[str, Any]]:
    """Every row, in the paper's order; see `common.row`."""
    return [
        common.row(
            f'imagenet2012-{options["model"]}-{options["learner"]}',
            algorithm,
            options,
            [{}],
            (None, PAPER.get(algorithm)),
        )
        | {'quick': table3.THIN[options['model']]}
        for algorithm, options in table3.ROWS.items()
    ]
