"""`tape schema-align`: compare the schemas of both targets."""

from __future__ import annotations

from dataclasses import astuple

import click

from extract.cli.options import json_option
from extract.cli.output import echo, print_json_lines, print_table

HEADER = ("table", "property", "declared", "local", "cloud")


@click.command("schema-align")
@json_option
def schema_align(as_json: bool) -> int:
    """Compare the schemas of local and cloud.

    Both are compared with the contracts of the models, then with each other. Runs dbt's schema tests on both, then
    compares every table of deribit and deribit_raw: columns, their order, types and codecs, indexes, engine, version
    column, sort key, partition key and TTL. Shared and Replicated engines of ClickHouse Cloud count as the engines that
    they replace.

    Exit code: 0 aligned, 1 something differs, 2 cannot tell, because a target does not answer or is not built yet.

    Example: tape schema-align --json
    """
    from extract.schema.align import find_differences

    differences = find_differences()
    if as_json:
        print_json_lines(each.to_json() for each in differences)
    elif differences:
        print_table(HEADER, map(astuple, differences))
        tables = len({each.table for each in differences})
        echo(f"{len(differences):,} differences in {tables:,} tables.")
    else:
        echo("local and cloud are aligned: with the models' contracts and with each other.")
    return int(bool(differences))
