"""`tape down`: stop the embedded ClickHouse and the commands of the demo."""

from __future__ import annotations

import click

from extract.cli.output import echo


@click.command()
def down() -> None:
    """Stop the ClickHouse that `tape up` started, and what `tape demo` left running.

    The data stays.

    Example: tape down
    """
    from extract.background import stop_all
    from extract.clickhouse.embedded import server
    from extract.paths import tape_dir

    for name in stop_all(tape_dir()):
        echo(f"Stopped `tape {name}`.")
    outcome = server.down(tape_dir())
    if outcome.state is server.State.NOT_RUNNING:
        echo("No ClickHouse started by `tape up` is running.")
    elif outcome.state is server.State.KILLED:
        echo(f"ClickHouse did not stop on request: killed after {outcome.waited_s:.0f} s; its data stays.")
    else:
        echo(f"ClickHouse stopped cleanly after {outcome.waited_s:.1f} s; its data stays.")
