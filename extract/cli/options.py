"""Options that several commands share, and how an option is parsed by a function of the library."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from extract.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


class NumberRange(click.FloatRange):
    """A range of numbers, which `nan` is none of."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def parsed(parse: Callable[[str, str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Callback of an option whose text `parse(text, option)` reads; it raises extract.errors.UsageError."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        return parse(value, param.opts[0]) if isinstance(value, str) else value

    return callback


key_file_option = click.option(
    "--key-file",
    metavar="FILE",
    required=True,
    envvar="TAPE_BACKUP_KEY_FILE",
    type=click.Path(path_type=Path),
    help="File with the key of the backups, stored in another place than they are.",
)
"""--key-file of `tape backup` and `tape restore`."""
json_option = click.option("--json", "as_json", is_flag=True, help="Output JSON.")


def target_option(default: str | None) -> Callable[[Command], Command]:
    """--target local or cloud; None: the database of CLICKHOUSE_MODE."""
    return click.option(
        "--target",
        type=click.Choice(["local", "cloud"]),
        default=default,
        show_default=default or "CLICKHOUSE_MODE",
        help="Database to use.",
    )


def days_option(default: int, most: int, help: str) -> Callable[[Command], Command]:
    """--days, from 1 to `most`."""
    return click.option("--days", default=default, type=click.IntRange(1, most), help=help)


def scope_options(command: Command) -> Command:
    """--currency and --kind, each repeatable."""
    kind = _names_option("--kind", "kinds", "K", "option, future, spot")
    currency = _names_option("--currency", "currencies", "C", "BTC, ETH")
    return currency(kind(command))


def _names_option(option: str, name: str, metavar: str, examples: str) -> Callable[[Command], Command]:
    help = f"{examples}, ...; repeatable; default: all."
    return click.option(option, name, metavar=metavar, multiple=True, help=help, callback=_require_names)


def _require_names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(require_name(value, param.opts[0]) for value in values)


def require_name(text: str, option: str) -> str:
    """`text`, unless it is empty, as where a shell's variable is not set. Raises UsageError that names `option`."""
    if not text.strip():
        raise UsageError(f"{option} is empty; give a name, or leave {option} out.")
    return text
