"""`tape grants`."""

from __future__ import annotations

import click


@click.command()
@click.option("--print", "is_print", is_flag=True, help="Show the statements; do nothing.")
@click.option("--apply", "is_apply", is_flag=True, help="Run them, logged in as an admin.")
@click.option("--target", type=click.Choice(["cloud", "local"]), default="cloud", show_default=True)
@click.option("--users-xml", is_flag=True, help="With --print: the same as entries of users.xml.")
def grants(is_print: bool, is_apply: bool, target: str, users_xml: bool) -> int:
    """Make the roles loader, transformer and reader, each with what its work needs and no more.

    The loader adds to deribit_raw, the transformer reads that and owns deribit, the reader reads both. Nobody reads
    files or other hosts. A role whose password is in CLICKHOUSE_LOADER_PASSWORD, CLICKHOUSE_TRANSFORMER_PASSWORD or
    CLICKHOUSE_READER_PASSWORD gets a user of its name; of the password only a salted hash is shown or sent.

    --apply logs in by CLICKHOUSE_CLOUD_USER as somebody who may make users. The embedded ClickHouse keeps its users in
    users.xml: there, set the passwords and run `tape down` and `tape up`.

    Example: tape grants --print
    """
    from extract.clickhouse.roles import grants_sql, role_passwords, users_xml_entries
    from extract.errors import UsageError

    if is_print == is_apply or (users_xml and is_apply):
        raise UsageError("Say what to do: tape grants --print [--users-xml], or tape grants --apply.")
    passwords = role_passwords()
    if is_apply:
        from extract.clickhouse.client import shared_database
        from extract.clickhouse.roles import apply_grants
        from extract.clickhouse.settings import clickhouse_settings

        apply_grants(shared_database(clickhouse_settings(target)), passwords)
    elif users_xml:
        click.echo(users_xml_entries(passwords).lstrip("\n"))
    else:
        for statement in grants_sql(passwords):
            click.echo(f"{statement};")
    for note in notes(passwords, is_apply=is_apply):
        click.echo(note, err=True)
    return 0


def notes(passwords: dict[str, str], *, is_apply: bool) -> list[str]:
    """Which roles have a user, and which have none yet."""
    from extract.clickhouse.roles import ROLES

    without = [role for role in ROLES if role.name not in passwords]
    found = [f"Made the roles {', '.join(role.sql_name for role in ROLES)}."] if is_apply else []
    if is_apply and passwords:
        found.append(f"Made the users {', '.join(passwords)}.")
    if without:
        variables = ", ".join(role.password_variable for role in without)
        found.append(f"No user for {', '.join(role.name for role in without)}: set {variables}.")
    return found
