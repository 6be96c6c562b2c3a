"""Tables as text, as Markdown, and as HTML for notebooks and pages."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A head and rows of cells."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]  # each as long as the head
    numbers: tuple[str, ...] = ()  # the columns that stand right
    notes: tuple[str, ...] = ()  # lines below

    def __str__(self) -> str:
        """Columns as wide as their widest entry."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

        def line(row: Sequence[str]) -> str:
            aligned = zip(row, widths, self.head, strict=True)
            return '  '.join(c.rjust(w) if name in self.numbers else c.ljust(w) for c, w, name in aligned).rstrip()

        return '\n'.join([line(self.head), '  '.join('-' * w for w in widths), *map(line, self.rows), *self.notes])

    def markdown(self) -> str:
        """The same as Markdown."""
        cells = [[cell.replace('|', r'\|') for cell in row] for row in (self.head, *self.rows)]
        lines = [f'| {" | ".join(row)} |' for row in (cells[0], ['---'] * len(self.head), *cells[1:])]
        return '\n'.join([*lines, *(line for note in self.notes for line in ('', note))])

    def html(self) -> str:
        """The same as HTML."""
        sides = ['right' if name in self.numbers else 'left' for name in self.head]

        def line(tag: str, row: Sequence[str]) -> str:
            cells = zip(row, sides, strict=True)
            return ''.join(f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>' for cell, side in cells)

        rows = [line('th', self.head), *(line('td', row) for row in self.rows)]
        return f'<table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table>' + ''.join(
            f'<p>{html.escape(note)}</p>' for note in self.notes
        )
