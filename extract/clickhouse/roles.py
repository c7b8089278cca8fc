"""Who may do what: loader, transformer and reader, defined once, written as SQL for cloud and as users.xml for local.

What is not named here is closed to all three. So nobody reads files, hosts or programs: `file`, `url`, `remote`, `s3`,
`executable` and their like need privileges of their own (SOURCES), and nobody has any.
https://clickhouse.com/docs/sql-reference/statements/grant
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, RUNS_DATABASE

RAW, MARTS = f"{RAW_DATABASE}.*", f"{MART_DATABASE}.*"


class Grant(NamedTuple):
    """Privileges on tables, or on table engines."""

    privileges: str
    on: str

    def __str__(self) -> str:
        return f"{self.privileges} ON {self.on}"


@dataclass(frozen=True)
class Role:
    """`name` is the user's too, and the common name of its client certificate."""

    name: str
    what: str
    grants: tuple[Grant, ...]

    @property
    def sql_name(self) -> str:
        return f"tape_{self.name}"

    @property
    def password_variable(self) -> str:
        return f"CLICKHOUSE_{self.name.upper()}_PASSWORD"


def _engines(*names: str) -> tuple[Grant, ...]:
    return tuple(Grant("TABLE ENGINE", name) for name in names)


ROLES = (
    Role(
        "loader",
        "dlt pipeline run, tape push: adds to the raw tables, and takes rows of its own unfinished packages away",
        (
            Grant(
                "SHOW, SELECT, INSERT, CREATE DATABASE, CREATE TABLE, "
                "ALTER ADD COLUMN, ALTER DELETE, ALTER SETTINGS",
                RAW,
            ),
            # The lease by which one run at a time is at work.
            Grant("SHOW, SELECT, INSERT, CREATE DATABASE, CREATE TABLE, TRUNCATE", f"{RUNS_DATABASE}.*"),
            # Months that retention dropped are not pushed again.
            Grant("SELECT", f"{MART_DATABASE}.retention_drops"),
            Grant("SELECT", "system.parts"),
            Grant("SELECT", "system.processes"),
            Grant("SELECT", "INFORMATION_SCHEMA.COLUMNS"),
            *_engines("MergeTree"),
        ),
    ),
    Role(
        "transformer",
        "dbt build: reads the raw tables, owns the models",
        (
            Grant("SHOW, SELECT", RAW),
            Grant(
                "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, "
                "TRUNCATE, OPTIMIZE",
                MARTS,
            ),
            Grant("SELECT", "system.parts"),
            Grant("SELECT", "system.data_skipping_indices"),
            *_engines("MergeTree", "ReplacingMergeTree", "Memory", "View"),
        ),
    ),
    Role(
        "reader",
        "queries, tape status, gaps, health and schema-align: reads both databases, writes nowhere",
        (
            Grant("SHOW, SELECT", RAW),
            Grant("SHOW, SELECT", MARTS),
            Grant("SELECT", "system.parts"),
            Grant("SELECT", "system.disks"),
            Grant("SELECT", "system.data_skipping_indices"),
        ),
    ),
)


def role_passwords(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """By role, for those that have one: CLICKHOUSE_LOADER_PASSWORD, _TRANSFORMER_, _READER_."""
    return {role.name: env[role.password_variable] for role in ROLES if env.get(role.password_variable)}


def grants_sql(passwords: Mapping[str, str]) -> Iterator[str]:
    """Statements that make the roles, and the users of those that have a password; given again, they change nothing.

    Of a password only a salted hash is in them. What a role was granted otherwise is taken back in the same breath.
    """
    for role in ROLES:
        yield f"CREATE ROLE IF NOT EXISTS {role.sql_name}"
        yield f"GRANT {', '.join(map(str, role.grants))} TO {role.sql_name} WITH REPLACE OPTION"
        if role.name not in passwords:
            continue
        salt = secrets.token_hex(16)
        digest = hashlib.sha256((passwords[role.name] + salt).encode()).hexdigest()
        identified = f"IDENTIFIED WITH sha256_hash BY '{digest}' SALT '{salt}'"
        yield f"CREATE USER IF NOT EXISTS {role.name} {identified}"
        yield f"ALTER USER {role.name} {identified}"
        yield f"GRANT {role.sql_name} TO {role.name} WITH REPLACE OPTION"


def users_xml_entries(passwords: Mapping[str, str], but: str = "") -> str:
    """Entries of users.xml, loopback only, for the roles that have a password; of that only its SHA-256."""
    return "".join(
        _user_xml(role, hashlib.sha256(passwords[role.name].encode()).hexdigest())
        for role in ROLES
        if role.name in passwords and role.name != but
    )


def _user_xml(role: Role, sha256: str) -> str:
    queries = "".join(f"<query>GRANT {escape(str(grant))}</query>" for grant in role.grants)
    return f"""
        <{role.name}>
            <password_sha256_hex>{sha256}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
            <profile>tape</profile>
            <quota>default</quota>
            <grants>{queries}</grants>
        </{role.name}>"""
