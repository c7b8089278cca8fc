"""`tape init`: the raw tables of a target, before anything is loaded."""

from __future__ import annotations

import click

from extract.clickhouse.settings import RAW_DATABASE


@click.command()
@click.option(
    "--target", type=click.Choice(["local", "cloud"]), help="Whose tables; default: CLICKHOUSE_MODE."
)
def init(target: str | None) -> None:
    """Make the raw tables, empty, as the first run would make them; the models are then made by `dbt run`.

    A target that has them is left as it is.

    Example: tape init --target cloud
    """
    from extract.clickhouse.client import shared_client
    from extract.clickhouse.settings import clickhouse_settings
    from extract.pipeline.session import open_session, run_lock
    from extract.source.empty import empty_tables

    settings = clickhouse_settings(target)
    if shared_client(settings).command(f"exists table {RAW_DATABASE}.trades"):
        click.echo(f"{settings.mode} has its raw tables already, in {RAW_DATABASE} at {settings.url}.")
        return
    with run_lock(), open_session(settings) as exclusive:
        exclusive.run(empty_tables())
    click.echo(
        f"{settings.mode} has its raw tables, in {RAW_DATABASE} at {settings.url}; next: dbt run --target {settings.mode}"
    )
