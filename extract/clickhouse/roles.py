"""Roles and their grants: loader, transformer and reader, as SQL for a cloud server and as users.xml for the local one.

A privilege that is not in roles.toml is denied to all three. So none of them may use the table functions `file`, `url`,
`remote`, `s3`, `executable` and the like, which need privileges on SOURCES.
https://clickhouse.com/docs/sql-reference/statements/grant
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from extract.certs import ROLES as ROLE_NAMES
from extract.clickhouse.client import Database
from extract.clickhouse.errors import ACCESS_DENIED, server_code
from extract.clickhouse.statements import with_configured_databases, with_configured_engines
from extract.errors import TapeError, UsageError

NO_WRITABLE_STORAGE = frozenset({495, 514})  # ACCESS_STORAGE_READONLY, ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND
MAX_THREADS = 64
"""The largest number of threads that a user can request for a query; the default is the number of cores."""


@dataclass(frozen=True)
class Role:
    """A role of roles.toml. Its user has the same `name`, which is also the common name of its client certificate."""

    name: str
    grants: Sequence[str]
    limits: Mapping[str, int]
    """Settings whose value a user can lower, but neither exceed nor switch off by 0."""
    queries_per_hour: int = 0
    """Quota; 0: unlimited."""

    @property
    def sql_name(self) -> str:
        return f"tape_{self.name}"

    @property
    def password_variable(self) -> str:
        return f"CLICKHOUSE_{self.name.upper()}_PASSWORD"


_TABLES: dict[str, dict[str, Any]] = tomllib.loads(
    with_configured_engines(with_configured_databases(Path(__file__).with_name("roles.toml").read_text()))
)
ROLES = tuple(Role(name, **_TABLES[name]) for name in ROLE_NAMES)


def role_passwords(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the passwords in the environment by role: CLICKHOUSE_LOADER_PASSWORD, _TRANSFORMER_, _READER_."""
    return {role.name: env[role.password_variable] for role in ROLES if env.get(role.password_variable)}


def grants_sql(passwords: Mapping[str, str]) -> Iterator[str]:
    """Yield idempotent statements that create the roles, and a user for each role that has a password.

    They contain salted hashes of the passwords, and revoke everything else that a role was granted.
    """
    for role in ROLES:
        yield f"CREATE ROLE IF NOT EXISTS {role.sql_name}"
        yield f"GRANT {', '.join(role.grants)} TO {role.sql_name} WITH REPLACE OPTION"
        limits = [f"{name} = {value} MIN {min(value, 1)} MAX {value}" for name, value in role.limits.items()]
        settings = f"SETTINGS {', '.join(limits)}, max_threads MAX {MAX_THREADS} TO {role.sql_name}"
        yield f"CREATE SETTINGS PROFILE OR REPLACE {role.sql_name} {settings}"
        if role.queries_per_hour:
            quota = f"KEYED BY user_name FOR INTERVAL 1 hour MAX queries = {role.queries_per_hour} TO {role.sql_name}"
            yield f"CREATE QUOTA OR REPLACE {role.sql_name} {quota}"
        if role.name not in passwords:
            continue
        salt = secrets.token_hex(16)
        digest = hashlib.sha256((passwords[role.name] + salt).encode()).hexdigest()
        identified = f"IDENTIFIED WITH sha256_hash BY '{digest}' SALT '{salt}'"
        yield f"CREATE USER IF NOT EXISTS {role.name} {identified}"
        yield f"ALTER USER {role.name} {identified}"
        yield f"GRANT {role.sql_name} TO {role.name} WITH REPLACE OPTION"


def apply_grants(database: Database, passwords: Mapping[str, str]) -> None:
    """Create roles and users. Raises UsageError where this login is not allowed to, and the errors of `Database`."""
    settings = database.settings
    for statement in grants_sql(passwords):
        try:
            database.command(statement)
        except TapeError as error:
            code = server_code(error)
            if code == ACCESS_DENIED:
                raise UsageError(
                    f"User {settings.user!r} may not create roles and users at {settings.url}; log in as an admin by "
                    f"{settings.env_prefix}_USER. The embedded ClickHouse creates them itself, "
                    "when `tape up` starts it with the roles' passwords in the environment."
                ) from None
            if code in NO_WRITABLE_STORAGE:
                raise UsageError(
                    f"ClickHouse at {settings.url} reads its users from users.xml: set the roles' passwords there by "
                    "`tape grants --print --users-xml`, or, where `tape up` starts it, run `tape down` and `tape up`."
                ) from None
            # The server's message may quote the statement, and with it the hash of a password.
            raise type(error)(str(error).split("IDENTIFIED")[0].rstrip()) from None


def users_xml_entries(passwords: Mapping[str, str], excluded: str = "") -> str:
    """Return entries of users.xml, loopback only, with SHA-256 hashes, for the roles that have a password."""
    return "".join(
        _user_xml(role, hashlib.sha256(passwords[role.name].encode()).hexdigest())
        for role in ROLES
        if role.name in passwords and role.name != excluded
    )


def users_xml_profiles(memory_bytes: int = 2**63) -> str:
    """Return the settings profile of each role for users.xml, derived from the profile `default`.

    Memory limits are at most `memory_bytes`, which should be less than the server has.
    """
    profiles = []
    for role in ROLES:
        limits = {
            name: min(value, memory_bytes) if "memory" in name else value
            for name, value in role.limits.items()
        }
        values = "".join(f"<{name}>{value}</{name}>" for name, value in limits.items())
        bounds = "".join(
            f"<{name}><min>{min(value, 1)}</min><max>{value}</max></{name}>" for name, value in limits.items()
        )
        bounds += f"<max_threads><max>{MAX_THREADS}</max></max_threads>"
        profiles.append(
            f"<{role.sql_name}><profile>default</profile>{values}<constraints>{bounds}</constraints></{role.sql_name}>"
        )
    return "\n        ".join(profiles)


def users_xml_quotas() -> str:
    """Return the quota of each role for users.xml."""
    return "".join(
        f"<{role.sql_name}><interval><duration>3600</duration><queries>{role.queries_per_hour}</queries></interval>"
        f"</{role.sql_name}>"
        for role in ROLES
    )


def _user_xml(role: Role, sha256: str) -> str:
    queries = "".join(f"<query>GRANT {escape(grant)}</query>" for grant in role.grants)
    return f"""
        <{role.name}>
            <password_sha256_hex>{sha256}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
            <profile>{role.sql_name}</profile>
            <quota>{role.sql_name}</quota>
            <grants>{queries}</grants>
        </{role.name}>"""
