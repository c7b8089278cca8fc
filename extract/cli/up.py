"""`tape up`: start the embedded ClickHouse."""

from __future__ import annotations

import os

import click

from extract.cli.output import echo
from extract.errors import UsageError


@click.command()
def up() -> None:
    """Start the embedded ClickHouse and return when it answers.

    A ClickHouse that already listens at CLICKHOUSE_LOCAL_HOST and CLICKHOUSE_LOCAL_PORT is used without changes.

    Example: CLICKHOUSE_LOCAL_PORT=8124 tape up
    """
    from extract.clickhouse.embedded import server
    from extract.clickhouse.embedded.password import password_path
    from extract.clickhouse.settings import clickhouse_settings, current_mode
    from extract.paths import tape_dir

    settings = clickhouse_settings("local")
    outcome = server.up(settings, tape_dir(), tcp_port=_tcp_port(server.DEFAULT_TCP_PORT))
    where = f"at {settings.url} (user {settings.user}"
    if outcome.state is server.State.EXTERNAL:
        echo(f"ClickHouse {outcome.version} answers {where}); {outcome.note}.")
    else:
        already = "already " if outcome.state is server.State.ALREADY_UP else ""
        data = os.path.relpath(outcome.data_dir.parent)
        data = str(outcome.data_dir.parent) if data.startswith("..") else data
        echo(f"ClickHouse {outcome.version} is {already}up {where}, data in {data})")
        password = (
            "of CLICKHOUSE_LOCAL_PASSWORD" if not settings.is_generated else f"in {password_path(tape_dir())}"
        )
        echo(f"Log in as {settings.user} with the password {password}, for example at {settings.url}/play")
        if outcome.note:
            echo(f"Note: {outcome.note}.")
    if current_mode() == "cloud":
        echo("Note: CLICKHOUSE_MODE=cloud, so runs load into the cloud and not here.")


def _tcp_port(default: int) -> int | None:
    """Port of the native protocol by CLICKHOUSE_LOCAL_TCP_PORT; None where that is 0."""
    from extract.clickhouse.settings import MAX_PORT, is_number

    text = os.environ.get("CLICKHOUSE_LOCAL_TCP_PORT") or str(default)
    if not is_number(text, MAX_PORT):
        raise UsageError(f"CLICKHOUSE_LOCAL_TCP_PORT is {text!r}; set it to a port number, or to 0 for none.")
    return int(text) or None
