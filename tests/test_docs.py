"""What readers copy runs: the Python blocks of README and docs, file by file, one after the other.

And what a page shows below a block as its output, in a block of `text`, is what it prints.
"""

import doctest
import pathlib
import re
import sys

import helpers
import pytest

import rlra_jax
from rlra_jax import LEARNERS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
WITH_CODE = [page for page in PAGES if '```python' in page.read_text()]
QUICK = 'README.md', 'CONTRIBUTING.md', 'concepts.md', 'own_model.md'


@pytest.mark.parametrize(
    'page', helpers.quick(WITH_CODE, *(p for p in WITH_CODE if p.name in QUICK)), ids=lambda page: page.name
)
def test_the_code_of_a_page_runs(page, capsys):
    names, printed, shown = {}, '', ''
    for language, block in re.findall(r'```(python|text)\n(.*?)```', page.read_text(), re.DOTALL):
        if language == 'python':
            exec(compile(block, page.name, 'exec'), names)
            printed = capsys.readouterr().out
            shown += printed
        else:
            assert doctest.OutputChecker().check_output(block, printed, doctest.ELLIPSIS), printed
    if page.name == 'README.md':
        assert float(re.search(r'loss ([\d.]+)', shown)[1]) < 0.1


def test_the_site_has_every_page_and_learner():
    menu = (ROOT / 'mkdocs.yml').read_text()
    pages = [*(ROOT / 'docs').glob('*.md'), *(ROOT / 'results' / 'notes').glob('*.md')]
    assert [page.name for page in pages if page.name not in menu] == []
    described = (ROOT / 'docs' / 'api_learners.md').read_text()
    factories = {f'::: {make.__module__}.{make.__name__}' for name, make in LEARNERS.items() if name != 'rec_lra'}
    assert factories == set(re.findall('::: .*', described.partition('## What several share')[0]))


def test_the_api_page_has_what_modules_of_the_same_name_hide():
    """The site shows what a package exports, but takes `rlra_jax.summary` for the module."""
    rooms = [rlra_jax, rlra_jax.nn, rlra_jax.nnx, rlra_jax.parallel, rlra_jax.plot]
    exported = [f'{room.__name__}.{name}' for room in rooms for name in room.__all__ if callable(getattr(room, name))]
    hidden = {f'::: {name}.{name.rpartition(".")[2]}' for name in exported if name in sys.modules}
    described = (ROOT / 'docs' / 'api.md').read_text()
    assert {f'::: {room.__name__}' for room in rooms} | hidden == set(re.findall('::: .*', described))


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'WORKSPACE.md', ROOT / 'results' / 'README.md'], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r'```.*?```|`[^`]*`', '', page.read_text(), flags=re.DOTALL)
    for link in re.findall(r'\]\(([^)#]+)\)', prose):
        assert link.startswith('http') or (page.parent / link).exists(), link


def test_the_first_pages_are_short():
    assert len((ROOT / 'README.md').read_bytes()) < 7000
    assert len((ROOT / 'WORKSPACE.md').read_bytes()) < 3000
