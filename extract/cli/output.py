"""Tables for people: columns aligned, no line ever cut, so that `grep` and `sort` work on them too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_NUMBER = re.compile(r"-|-?[\d,]+(\.\d+)?|unknown|")


def format_table(header: Sequence[str], rows: Iterable[Sequence[str | int | None]]) -> Iterator[str]:
    """Lines of the table; columns of numbers to the right, whole ones with thousands set apart, None as `-`."""
    table = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(header))]
    is_number = [
        len(table) > 1 and all(_NUMBER.fullmatch(line[at]) for line in table[1:]) for at in range(len(header))
    ]
    for line in table:
        cells = zip(line, widths, is_number, strict=True)
        yield "  ".join(
            text.rjust(width) if right else text.ljust(width) for text, width, right in cells
        ).rstrip()


def _text(cell: str | int | None) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else cell
