"""`tape schema-align`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from extract.schema.align import Difference

HEADER = ("table", "thing", "declared", "local", "cloud")


@click.command("schema-align")
@click.option("--json", "as_json", is_flag=True, help="A list for machines; null is none.")
def schema_align(as_json: bool) -> int:
    """Hold both targets against the models' contracts, then local and cloud against each other.

    Runs dbt's schema tests on both, then compares every table of deribit and deribit_raw: columns, their order, types
    and codecs, indexes, engine, version column, sort key, partition key and TTL. Cloud's Shared and Replicated engines
    are taken for what they are.

    Exit code: 0 aligned, 1 something differs, 2 cannot tell, since a target does not answer or is not built yet.

    Example: tape schema-align --json
    """
    from extract.cli.gaps import json_lines
    from extract.schema.align import align

    found = align()
    if as_json:
        click.echo(json_lines([each.to_json() for each in found]))
    else:
        show(found)
    return int(bool(found))


def show(found: list[Difference]) -> None:
    """The table, and what it comes to in a sentence."""
    from extract.cli.output import format_table

    if not found:
        click.echo("local and cloud are aligned: with the models' contracts and with each other.")
        return
    for line in format_table(HEADER, ((d.table, d.thing, d.declared, d.local, d.cloud) for d in found)):
        click.echo(line)
    tables = len({each.table for each in found})
    click.echo(f"{len(found):,} differences in {tables:,} tables.")
