"""`tape reset`: drop everything that was loaded into the local database."""

from __future__ import annotations

import shutil

import click

from extract.cli.output import echo


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def reset(yes: bool) -> None:
    """Drop all trades and models of the local ClickHouse.

    The local state of dlt is deleted as well. Use it for example after the demo, before the first real run.

    Example: tape reset --yes
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, RUNS_DATABASE, clickhouse_settings
    from extract.paths import dlt_dir, tape_dir
    from extract.pipeline.session import run_lock
    from extract.sandbox.live import END_FILE

    settings = clickhouse_settings("local")
    clickhouse = shared_database(settings)
    databases = f"{RAW_DATABASE} and {MART_DATABASE} at {settings.url}"
    if not yes:
        click.confirm(f"Drop the databases {databases}, with everything that was loaded?", abort=True)
    with run_lock():
        for database in (RAW_DATABASE, MART_DATABASE, RUNS_DATABASE):
            clickhouse.command(f"drop database if exists {database} sync")
        shutil.rmtree(dlt_dir("local"), ignore_errors=True)
        (tape_dir() / END_FILE).unlink(missing_ok=True)
    echo(f"Dropped {databases}; the next `dlt pipeline run` starts from the beginning.")
