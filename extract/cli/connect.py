"""`tape connect`: connection settings for other programs."""

from __future__ import annotations

import click

from extract.cli.options import target_option
from extract.cli.output import echo

PROGRAMS = ("dbeaver", "datagrip", "grafana", "metabase", "duckdb", "dsn")


@click.command()
@click.argument("program", type=click.Choice(PROGRAMS))
@target_option(None)
def connect(program: str, target: str | None) -> None:
    """Print settings with which a program connects to the database as the role reader.

    There is no password in them. The reader's is CLICKHOUSE_READER_PASSWORD, or that of the embedded ClickHouse in
    .tape/reader-password; a comment on standard error says where the settings belong.

    Example: tape connect dbeaver > data-sources.json
    """
    from dataclasses import replace

    from extract.clickhouse.connections import PROGRAMS as SETTINGS
    from extract.clickhouse.settings import READER, reader_settings

    settings = reader_settings(target)
    if not settings.client_cert:
        settings = replace(settings, user=READER)
    for line in SETTINGS[program](settings).splitlines():
        echo(line)
    echo(_PLACES[program], err=True)


_PLACES = {
    "dbeaver": "DBeaver: put it into WORKSPACE/General/.dbeaver/data-sources.json, or import it; it asks for the password.",
    "datagrip": "DataGrip: put it into .idea/dataSources.xml of a project; it asks for the password.",
    "grafana": "Grafana: put it into provisioning/datasources/, and import the dashboards of deploy/grafana/.",
    "metabase": "Metabase: send it to /api/database, with the password in details, or enter it under Admin, Databases.",
    "duckdb": "DuckDB: run it with python; it reads CLICKHOUSE_READER_PASSWORD.",
    "dsn": "Add the reader's password after its name: reader:PASSWORD@….",
}
