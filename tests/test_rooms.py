"""The package is laid out as data moves: what a module imports lies above it."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1] / 'rlra_jax'
# Files and rooms in order: each imports from itself and from those before it.
ORDER = [
    *('types', 'compiler', 'tables', 'edges', 'paths', 'validate', 'loss', 'unused_gpu'),
    *('model', 'nnx', 'nn', 'synapses', 'rules', 'wiring', 'recursion', 'diagnostics', 'learners', 'train_step'),
    *('parallel', 'summary', 'plot', 'experiment'),
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == 'rlra_jax':
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith('rlra_jax.'):
            yield node.module.split('.')[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split('.')[1] for alias in node.names if alias.name.startswith('rlra_jax.'))


def test_every_import_points_upwards():
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in ROOT.rglob('*.py')
        if path != ROOT / '__init__.py'
        for own in [path.relative_to(ROOT).with_suffix('').parts[0]]
        for name in imported(path)
        if ORDER.index(name) > ORDER.index(own)
    ]
    assert not wrong


def test_the_order_names_all_that_lies_at_the_top():
    at_the_top = {path.stem for path in ROOT.iterdir() if path.suffix == '.py' or path.is_dir()} - {
        '__init__',
        '__pycache__',
    }
    assert at_the_top == set(ORDER)
