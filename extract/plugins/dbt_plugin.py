"""Plugin for dbt: the local target logs in with the generated password, cloud trusts CLICKHOUSE_CLOUD_CA_CERT.

dbt-clickhouse has no setting for a private authority, but Python's TLS reads SSL_CERT_FILE, set for this process only.
Before a command queries the database, an idle service is woken, and a failed connection is reported in one sentence.

dbt loads plugins from top-level modules named dbt_*: `dbt_entry.py` is installed as `dbt_tape`.
"""

from __future__ import annotations

import os
from typing import Any

import click
from dbt.flags import get_flags
from dbt.plugins.manager import dbtPlugin
from dbt_common.exceptions import DbtRuntimeError

from extract.clickhouse.embedded.password import require_own_server
from extract.clickhouse.settings import IS_REPLICATED, QUORUM_SETTINGS, clickhouse_settings, current_mode
from extract.errors import TapeError
from extract.paths import tape_dir
from extract.proxies import exclude_loopback_from_proxies, find_proxy

PROJECT = "deribit_tape"
QUERYING_COMMANDS = frozenset(
    [
        *("build", "run", "test", "compile", "show", "retry", "run-operation"),
        *("clone", "freshness", "generate", "seed", "snapshot"),
    ]
)
"""dbt commands that query the database; `parse`, `list` and the others need none."""


class TapePlugin(dbtPlugin):
    """Created once for each dbt command, after its project is known and before it connects."""

    def initialize(self) -> None:
        flags = get_flags()  # type: ignore[no-untyped-call]  # dbt declares no types there
        if self.project_name == PROJECT and flags.WHICH in QUERYING_COMMANDS:
            exclude_loopback_from_proxies()
            try:
                if (getattr(flags, "TARGET", None) or current_mode()) == "cloud":
                    _connect_to_cloud()
                else:
                    _log_in_to_local()
                if IS_REPLICATED and (credentials := _credentials()):
                    credentials.custom_settings = {**(credentials.custom_settings or {}), **QUORUM_SETTINGS}
            except TapeError as error:
                raise DbtRuntimeError(str(error)) from error


def _credentials() -> Any | None:
    """The credentials in the profile, which dbt has rendered by now; None where they are not of ClickHouse."""
    context = click.get_current_context(silent=True)
    profile = (context.obj or {}).get("profile") if context else None
    return profile.credentials if profile and profile.credentials.type == "clickhouse" else None


def _log_in_to_local() -> None:
    """Add the generated password to the profile."""
    credentials = _credentials()
    if credentials is None:
        return
    settings = clickhouse_settings("local")
    if credentials.host in ("localhost", settings.host):
        credentials.host = settings.host
        if settings.is_generated and not credentials.password:
            require_own_server(tape_dir(), settings.host, settings.port)
            credentials.password = settings.password


def _connect_to_cloud() -> None:
    """Wake the service and trust its authority."""
    # Imported here, so that local commands start fast.
    from extract.clickhouse.client import open_client

    settings = clickhouse_settings("cloud")
    open_client(settings).close()
    if proxy := find_proxy(settings.url):
        os.environ["https_proxy"] = proxy.address  # dbt's driver does not know ALL_PROXY
    if settings.ca_cert:
        os.environ["SSL_CERT_FILE"] = settings.ca_cert
