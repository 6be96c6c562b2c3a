"""What readers copy runs: the Python blocks of README and docs, file by file, one after the other."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
WITH_CODE = [page for page in PAGES if '```python' in page.read_text()]


@pytest.mark.parametrize('page', WITH_CODE, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, capsys):
    names = {}
    for block in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL):
        exec(compile(block, page.name, 'exec'), names)
    if page.name == 'README.md':
        assert float(re.search(r'loss ([\d.]+)', capsys.readouterr().out)[1]) < 0.1


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'WORKSPACE.md', ROOT / 'results' / 'README.md'], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r'```.*?```|`[^`]*`', '', page.read_text(), flags=re.DOTALL)
    for link in re.findall(r'\]\(([^)#]+)\)', prose):
        assert link.startswith('http') or (page.parent / link).exists(), link


def test_the_first_pages_are_short():
    assert len((ROOT / 'README.md').read_bytes()) < 7000
    assert len((ROOT / 'WORKSPACE.md').read_bytes()) < 3000
