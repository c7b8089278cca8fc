"""Configuration of the destination from given settings, dlt's configuration or the CLICKHOUSE_ variables."""

from __future__ import annotations

import dataclasses
from typing import Final

from dlt.common.configuration import configspec
from dlt.destinations.impl.clickhouse.configuration import (
    ClickHouseClientConfiguration,
    ClickHouseCredentials,
)
from dlt.destinations.impl.clickhouse.typing import TTableEngineType

from extract.clickhouse.destination.dedup_tokens import BLOCK_ROWS
from extract.clickhouse.settings import IS_REPLICATED, RAW_DATABASE, ClickHouseSettings, clickhouse_settings


@configspec(init=False)
class TapeClickHouseCredentials(ClickHouseCredentials):
    """dlt's ClickHouse credentials, with certificates; `port` and `http_port` are the same HTTP(S) port."""

    database: str = RAW_DATABASE
    """Database of a pipeline without a dataset name."""
    mode: str = "local"
    """local or cloud; determines the environment variables that an error message names."""
    ca_cert: str | None = None
    """File with the CA of the server's certificate, by default the CAs of the system."""
    client_cert: str | None = None
    """File with a client certificate, which replaces the password as credential."""
    client_key: str | None = None
    """File with the key of the client certificate."""
    wake_s: int = 0
    """Seconds to wait for an idle service to start."""

    def use(self, settings: ClickHouseSettings) -> None:
        self.mode = settings.mode
        self.host = settings.host
        self.port = self.http_port = settings.port
        self.username = settings.user
        self.password = settings.password
        self.secure = 1 if settings.secure else 0
        self.ca_cert = settings.ca_cert
        self.client_cert = settings.client_cert
        self.client_key = settings.client_key
        self.wake_s = settings.wake_s

    def settings(self) -> ClickHouseSettings:
        return ClickHouseSettings(
            mode=self.mode,
            host=self.host,
            port=self.http_port,
            user=self.username,
            password=self.password or "",
            secure=bool(self.secure),
            ca_cert=self.ca_cert,
            client_cert=self.client_cert,
            client_key=self.client_key,
            wake_s=self.wake_s,
        )

    def on_partial(self) -> None:
        """Use CLICKHOUSE_MODE and its variables, because dlt's commands specify no server."""
        self.use(clickhouse_settings())
        self.resolve()


@configspec
class TapeClickHouseConfiguration(ClickHouseClientConfiguration):
    destination_type: Final[str] = dataclasses.field(  # type: ignore[misc]  # dlt's way to name a destination
        default="tape_clickhouse", init=False, repr=False, compare=False
    )
    credentials: TapeClickHouseCredentials = None  # type: ignore[assignment]  # resolved by dlt
    table_engine_type: TTableEngineType | None = "replicated_merge_tree" if IS_REPLICATED else "merge_tree"
    insert_block_rows: int = BLOCK_ROWS
    """Rows of one block of an insert; must be the same for each attempt of a load job."""

    def _make_dataset_name(self, schema_name: str) -> str:
        return super()._make_dataset_name(schema_name) or self.credentials.database
