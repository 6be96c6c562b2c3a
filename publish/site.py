"""The hook of mkdocs.yml: pages from outside docs/, links that fit wherever a page ends up, and equations."""

import os
import pathlib
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
FROM_OUTSIDE = (
    *('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'WORKSPACE.md'),
    *('results/README.md', 'results/notes/*.md', 'results/*.svg', 'notebooks/*.ipynb'),
)
_LINK = re.compile(r'(\]\()([^)#:\s]+)(#[^)]*)?(?=\))')


@event_priority(100)  # before mkdocs-jupyter, which looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside docs/ under the path that it has in the repository; README.md is the first page."""
    for path in (found for pattern in FROM_OUTSIDE for found in sorted(ROOT.glob(pattern))):
        uri = 'index.md' if path == ROOT / 'README.md' else str(path.relative_to(ROOT))
        files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=None))
        files.src_uris[uri].abs_src_path = str(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages; $$...$$ becomes MathML."""
    uris = {file.abs_src_path: file.src_uri for file in files}
    here = pathlib.Path(page.file.abs_src_path or '').parent

    def moved(link: re.Match[str]) -> str:
        opening, target, anchor = link.groups('')
        uri = uris.get(os.path.normpath(here / target))
        return f'{opening}{os.path.relpath(uri, os.path.dirname(page.file.src_uri)) if uri else target}{anchor}'

    equations = re.sub(r'\$\$(.+?)\$\$', lambda m: convert(m[1], display='block'), markdown, flags=re.DOTALL)
    return _LINK.sub(moved, equations)
