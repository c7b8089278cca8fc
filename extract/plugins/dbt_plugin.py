"""Plugin for dbt: `dbt build --target cloud` trusts the authority of CLICKHOUSE_CLOUD_CA_CERT.

dbt-clickhouse has no setting for a private authority, but Python's TLS reads SSL_CERT_FILE, set for this process only.
Before a command queries the database, an idle service is woken, and a failed connection is reported in one sentence.

dbt loads plugins from top-level modules named dbt_*: `dbt_entry.py` is installed as `dbt_tape`.
"""

from __future__ import annotations

import os

from dbt.flags import get_flags
from dbt.plugins.manager import dbtPlugin
from dbt_common.exceptions import DbtRuntimeError

from extract.clickhouse.settings import clickhouse_settings, current_mode
from extract.errors import TapeError

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
            _connect_to_cloud(getattr(flags, "TARGET", None))


def _connect_to_cloud(target: str | None) -> None:
    """Wake the service and trust its authority, if the target is cloud. Raises DbtRuntimeError."""
    try:
        if (target or current_mode()) != "cloud":
            return
        # Imported here, so that local commands start fast.
        from extract.clickhouse.client import open_client

        settings = clickhouse_settings("cloud")
        open_client(settings).close()
    except TapeError as error:
        raise DbtRuntimeError(str(error)) from error
    if settings.ca_cert:
        os.environ["SSL_CERT_FILE"] = settings.ca_cert
