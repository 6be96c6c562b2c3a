"""Executes notebooks/NAME.py and keeps it with its outputs as NAME.ipynb: python -m publish.notebooks [NAME...]."""

import pathlib
import sys
import time

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'
KERNEL = {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}


def build(source: pathlib.Path) -> None:
    """Writes the notebook beside its source; a cell that fails raises nbclient's CellExecutionError."""
    notebook = jupytext.read(source)
    notebook.metadata = {'kernelspec': KERNEL}
    for number, cell in enumerate(notebook.cells):
        cell.id = str(number)  # else drawn anew each time
    NotebookClient(notebook, record_timing=False, resources={'metadata': {'path': str(FOLDER)}}).execute()
    nbformat.write(notebook, source.with_suffix('.ipynb'))


def main() -> None:
    """Builds those that the command line names, or all."""
    for source in [FOLDER / f'{name}.py' for name in sys.argv[1:]] or sorted(FOLDER.glob('*.py')):
        start = time.monotonic()
        build(source)
        print(f'{source.stem}: {time.monotonic() - start:.0f} s', flush=True)


if __name__ == '__main__':
    main()
