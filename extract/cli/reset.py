"""`tape reset`: back to before the first run, on the local database alone."""

from __future__ import annotations

import shutil

import click

from extract.paths import dlt_dir


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> None:
    """Drop all trades and models of the local ClickHouse, and what dlt remembers of them.

    For example after the demo, before the first real run: tape reset --yes
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import (
        MART_DATABASE,
        RAW_DATABASE,
        RUNS_DATABASE,
        clickhouse_settings,
    )
    from extract.pipeline.session import run_lock

    settings = clickhouse_settings("local")
    server = shared_database(settings)
    databases = f"{RAW_DATABASE} and {MART_DATABASE} at {settings.url}"
    if not yes:
        click.confirm(f"Drop the databases {databases}, with all that was loaded?", abort=True)
    with run_lock():
        for database in (RAW_DATABASE, MART_DATABASE, RUNS_DATABASE):
            server.command(f"drop database if exists {database} sync")
        shutil.rmtree(dlt_dir("local"), ignore_errors=True)
    click.echo(f"Dropped {databases}; the next `dlt pipeline run` starts from the beginning.")
