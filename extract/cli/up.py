"""`tape up` and `tape down`."""

from __future__ import annotations

import os

import click

from extract.clickhouse.embedded import server
from extract.clickhouse.settings import clickhouse_settings, current_mode
from extract.errors import UsageError
from extract.paths import tape_dir


@click.command()
def up() -> None:
    """Start the embedded ClickHouse and return when it answers.

    A ClickHouse that you run at CLICKHOUSE_LOCAL_HOST and CLICKHOUSE_LOCAL_PORT is used as it is.

    Example: CLICKHOUSE_LOCAL_PORT=8124 tape up
    """
    settings = clickhouse_settings("local")
    outcome = server.up(settings, tape_dir(), tcp_port=_tcp_port())
    where = f"at {settings.url} (user {settings.user}"
    if outcome.state is server.State.EXTERNAL:
        click.echo(f"ClickHouse {outcome.version} answers {where}); {outcome.note}.")
    else:
        already = "already " if outcome.state is server.State.ALREADY_UP else ""
        click.echo(
            f"ClickHouse {outcome.version} is {already}up {where}, data in {_short(outcome.data_dir.parent)})"
        )
        if outcome.note:
            click.echo(f"Note: {outcome.note}.")
    if current_mode() == "cloud":
        click.echo("Note: CLICKHOUSE_MODE=cloud, so runs go to the cloud and not here.")


@click.command()
def down() -> None:
    """Stop the ClickHouse that `tape up` started; its data stays.

    Example: tape down
    """
    outcome = server.down(tape_dir())
    if outcome.state is server.State.NOT_RUNNING:
        click.echo("No ClickHouse of ours is running.")
    elif outcome.state is server.State.KILLED:
        click.echo(
            f"ClickHouse did not stop when asked: killed after {outcome.waited_s:.0f} s; its data stays."
        )
    else:
        click.echo(f"ClickHouse stopped cleanly after {outcome.waited_s:.1f} s; its data stays.")


def _tcp_port() -> int | None:
    """CLICKHOUSE_LOCAL_TCP_PORT: where the native protocol is served, by default 9000; 0 turns it off."""
    text = os.environ.get("CLICKHOUSE_LOCAL_TCP_PORT") or str(server.DEFAULT_TCP_PORT)
    if not text.isdecimal() or int(text) > 65535:
        raise UsageError(f"CLICKHOUSE_LOCAL_TCP_PORT is {text!r}; set it to a port number, or to 0 for none.")
    return int(text) or None


def _short(path: os.PathLike[str]) -> str:
    """Relative to the working directory where that is shorter."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
