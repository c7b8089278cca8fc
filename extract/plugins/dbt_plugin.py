"""Our part of dbt: `dbt build --target cloud` as typed takes its authority from CLICKHOUSE_CLOUD_CA_CERT.

dbt-clickhouse has no field for a private authority; Python's TLS takes one from SSL_CERT_FILE, for this process alone.
Before a command asks the database anything, one that sleeps is waited for, and a refusal is told in one sentence.

dbt loads plugins from modules on the path named dbt_*: `dbt_entry.py` is installed as `dbt_tape`.
"""

from __future__ import annotations

import os

from dbt.flags import get_flags
from dbt.plugins.manager import dbtPlugin
from dbt_common.exceptions import DbtRuntimeError

from extract.clickhouse.settings import clickhouse_settings, current_mode
from extract.errors import TapeError

PROJECT = "deribit_tape"
ASKING = frozenset(
    [
        *("build", "run", "test", "compile", "show", "retry", "run-operation"),
        *("clone", "freshness", "generate", "seed", "snapshot"),
    ]
)
"""dbt's commands that ask the database; `parse`, `list` and the others do not need one."""


class TapePlugin(dbtPlugin):
    """Made once for each dbt command, when its project is known and before it connects."""

    def initialize(self) -> None:
        if self.project_name == PROJECT and get_flags().WHICH in ASKING:
            _reach_cloud(getattr(get_flags(), "TARGET", None))


def _reach_cloud(target: str | None) -> None:
    try:
        if (target or current_mode()) != "cloud":
            return
        # Loaded for the one target that needs it: a local command starts as quickly as ever.
        from extract.clickhouse.client import open_client

        settings = clickhouse_settings("cloud")
        open_client(settings).close()
    except TapeError as error:
        raise DbtRuntimeError(str(error)) from error
    if settings.ca_cert:
        os.environ["SSL_CERT_FILE"] = settings.ca_cert
