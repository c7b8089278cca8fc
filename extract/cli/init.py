"""`tape init`: create the raw tables of a target before anything is loaded."""

from __future__ import annotations

import click

from extract.cli.options import target_option
from extract.cli.output import echo


@click.command()
@target_option(None)
def init(target: str | None) -> None:
    """Create the raw tables of a target, empty.

    The first run would create the same tables; `dbt run` then creates the models. A target that has the tables is left
    unchanged.

    Example: tape init --target cloud
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import RAW_DATABASE, clickhouse_settings
    from extract.pipeline.session import open_session, run_lock
    from extract.source.source import empty_tables

    settings = clickhouse_settings(target)
    where = f"in {RAW_DATABASE} at {settings.url}"
    if shared_database(settings).value(f"exists table {RAW_DATABASE}.trades"):
        echo(f"{settings.mode} already has its raw tables, {where}.")
        return
    with run_lock(), open_session(settings) as session:
        session.run(empty_tables())
    echo(f"{settings.mode} has its raw tables, {where}; next: dbt run --target {settings.mode}")
