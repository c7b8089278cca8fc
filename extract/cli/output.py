"""Terminal output: sentences, tables and JSON, with control characters escaped.

Text of the exchange or of the database may hold anything; what is printed here cannot move the cursor, change colours
or add a line."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import click

from extract.errors import printable

Cell = str | int | None
MOST_NAMED = 10
"""Names in one list of sentences or fields; an exchange may make up any number of names."""

_NUMBER = re.compile(r"-|-?[\d,]+(\.\d+)?|unknown|")

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a quota, that is used up."""


def echo(text: str = "", *, err: bool = False) -> None:
    """Print `text` as one line."""
    _write(printable(text), err=err)


def file_error(error: OSError) -> str:
    """What the system says about a file, and its name; the next step where the disk is full."""
    text = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return f"{text}; free some space, and repeat the command." if error.errno in FULL else text


def print_step(text: str) -> None:
    """Print the heading of a step of a longer command."""
    _write(click.style("==> ", fg="green") + printable(text))


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[Cell]], colours: Mapping[str, str] | None = None
) -> None:
    """Print a table; `colours` names the colour of a row by the text of its first cell."""
    for line in format_table(header, rows):
        first = line.split(" ", 1)[0]
        colour = (colours or {}).get(first)
        _write(click.style(first, fg=colour) + line[len(first) :] if colour else line)


def format_table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """Lines of a table, never cut, so that `grep` and `sort` work on them.

    Columns of numbers are aligned to the right; integers have thousands separators; None is `-`.
    """
    table = [list(header), *([_format_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(header))]
    is_number = [
        len(table) > 1 and all(_NUMBER.fullmatch(line[at]) for line in table[1:]) for at in range(len(header))
    ]
    for line in table:
        cells = zip(line, widths, is_number, strict=True)
        yield "  ".join(
            text.rjust(width) if right else text.ljust(width) for text, width, right in cells
        ).rstrip()


def print_json(value: object) -> None:
    """Print `value` as indented JSON: dataclasses as objects, decimals as text without an exponent."""
    import msgspec

    plain = msgspec.to_builtins(value, builtin_types=(Decimal,), str_keys=True)
    _write(json.dumps(plain, indent=1, default=lambda number: f"{number:f}"))


def print_json_lines(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON list with one element a line."""
    _write("[" + ",\n ".join(map(json.dumps, rows)) + "]")


def percent(share: float) -> str:
    """Format a share from 0 to 1 as `99.999 %`; rounded down, so that `100 %` means all of it."""
    return "100 %" if share == 1 else f"{int(share * 100_000) / 1_000:.3f} %"


def plural(count: int, noun: str) -> str:
    """`1 month`, `2 months`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def describe_set_aside(reasons: Mapping[str, object], consequence: str = "") -> list[str]:
    """A sentence for each of the first MOST_NAMED that were set aside, by name, and one with the number of the others."""
    sentences = [f"{name} was set aside{consequence}: {reason}" for name, reason in reasons.items()]
    more = [f"{len(sentences) - MOST_NAMED:,} more were set aside."] if len(sentences) > MOST_NAMED else []
    return [*sentences[:MOST_NAMED], *more]


def silence(stream: int) -> None:
    """Discard what is still written to standard output (1) or standard error (2), whose reader has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)


def _write(text: str, *, err: bool = False) -> None:
    try:
        click.echo(text, err=err)
    except BrokenPipeError:  # `tape gaps | head -1`: the command continues to its exit code
        silence((sys.stderr if err else sys.stdout).fileno())


def _format_cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)
