"""The roles of `roles`, made on a server that keeps its users itself."""

from __future__ import annotations

from collections.abc import Mapping

from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from extract.clickhouse.client import shared_client
from extract.clickhouse.errors import server_code, to_tape_error
from extract.clickhouse.roles import grants_sql
from extract.clickhouse.settings import clickhouse_settings
from extract.errors import UsageError

ACCESS_DENIED = 497
NO_WRITABLE_STORAGE = frozenset({495, 514})  # ACCESS_STORAGE_READONLY, ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND


def apply(target: str, passwords: Mapping[str, str]) -> None:
    """Makes roles and users. Raises UsageError where this login may not, OutsideError where the server fails."""
    settings = clickhouse_settings(target)
    client = shared_client(settings)
    for statement in grants_sql(passwords):
        try:
            client.command(statement)
        except (ClickHouseError, HTTPError, OSError) as error:
            code = server_code(error)
            if code == ACCESS_DENIED:
                raise UsageError(
                    f"User {settings.user!r} may not make roles and users at {settings.url}; "
                    f"log in as an admin by CLICKHOUSE_{target.upper()}_USER. The embedded ClickHouse makes them itself, "
                    "when `tape up` starts it with the roles' passwords in the environment."
                ) from None
            if code in NO_WRITABLE_STORAGE:
                raise UsageError(
                    f"ClickHouse at {settings.url} keeps its users in users.xml: set the roles' passwords there by "
                    "`tape grants --print --users-xml`, or, where `tape up` starts it, run `tape down` and `tape up`."
                ) from None
            # The server's own words may quote the statement, and with it a password's hash.
            raise type(reason := to_tape_error(error, settings))(_without_hash(str(reason))) from None


def _without_hash(text: str) -> str:
    return text.split("IDENTIFIED")[0].rstrip() if "IDENTIFIED" in text else text
