"""`tape grants`: create the roles loader, transformer and reader."""

from __future__ import annotations

import click

from extract.cli.options import target_option
from extract.cli.output import echo


@click.command()
@click.option("--print", "is_print", is_flag=True, help="Print the statements; run nothing.")
@click.option("--apply", "is_apply", is_flag=True, help="Run the statements, logged in as an admin.")
@target_option("cloud")
@click.option("--users-xml", is_flag=True, help="With --print: print entries of users.xml instead.")
def grants(is_print: bool, is_apply: bool, target: str, users_xml: bool) -> None:
    """Create the roles loader, transformer and reader.

    Each has the least privileges that it needs: the loader inserts into deribit_raw, the transformer reads that and
    owns deribit, the reader reads both. None may read files or other hosts. A role whose password is in
    CLICKHOUSE_LOADER_PASSWORD, CLICKHOUSE_TRANSFORMER_PASSWORD or CLICKHOUSE_READER_PASSWORD gets a user of its name;
    only a salted hash of the password is printed or sent.

    --apply logs in as CLICKHOUSE_CLOUD_USER, who has to be allowed to create users. The embedded ClickHouse stores its
    users in users.xml: there, set the passwords and run `tape down` and `tape up`.

    Example: tape grants --print
    """
    from extract.clickhouse.roles import (
        ROLES,
        grants_sql,
        role_passwords,
        users_xml_entries,
        users_xml_profiles,
        users_xml_quotas,
    )
    from extract.errors import UsageError

    if is_print == is_apply or (users_xml and is_apply):
        raise UsageError("Choose one of: tape grants --print [--users-xml], or tape grants --apply.")
    passwords = role_passwords()
    if is_apply:
        from extract.clickhouse.client import shared_database
        from extract.clickhouse.roles import apply_grants
        from extract.clickhouse.settings import clickhouse_settings

        apply_grants(shared_database(clickhouse_settings(target)), passwords)
        echo(f"Created the roles {', '.join(role.sql_name for role in ROLES)}.", err=True)
        if passwords:
            echo(f"Created the users {', '.join(passwords)}.", err=True)
    elif users_xml:
        users = f"<users>{users_xml_entries(passwords)}\n</users>"
        profiles = f"<profiles>\n        {users_xml_profiles()}\n</profiles>"
        for line in (*profiles.splitlines(), f"<quotas>{users_xml_quotas()}</quotas>", *users.splitlines()):
            echo(line)
    else:
        for statement in grants_sql(passwords):
            echo(f"{statement};")
    if without := [role for role in ROLES if role.name not in passwords]:
        variables = ", ".join(role.password_variable for role in without)
        echo(f"No user for {', '.join(role.name for role in without)}: set {variables}.", err=True)
