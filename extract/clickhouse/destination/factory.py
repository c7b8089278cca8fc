"""The destination class for `dlt.pipeline(destination=…)`, which dlt's commands import by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.schema import Schema
from dlt.destinations.impl.clickhouse.factory import ClickHouseTypeMapper, clickhouse

from extract.clickhouse.destination.configuration import (
    TapeClickHouseConfiguration,
    TapeClickHouseCredentials,
)
from extract.clickhouse.settings import ClickHouseSettings


class TapeTypeMapper(ClickHouseTypeMapper):
    """dlt's type mapper, extended by the types of the project's column hints."""

    dbt_to_sct = {  # noqa: RUF012
        **ClickHouseTypeMapper.dbt_to_sct,
        **{f"UInt{bits}": "bigint" for bits in (8, 16, 32, 64)},
        "Float32": "double",
    }

    def from_destination_type(
        self, db_type: str, precision: int | None = None, scale: int | None = None
    ) -> Any:
        for wrapper in ("LowCardinality(", "Nullable("):
            db_type = (
                db_type.removeprefix(wrapper).removesuffix(")") if db_type.startswith(wrapper) else db_type
            )
        return super().from_destination_type(db_type, precision, scale)


class tape_clickhouse(clickhouse):
    """ClickHouse over HTTP(S). `credentials` are connection settings, by default those of the environment.

    `before_complete` receives the id of a load package before that is listed as finished; an error leaves it unfinished.
    """

    spec = TapeClickHouseConfiguration  # type: ignore[assignment]  # a subclass of dlt's own

    def __init__(
        self,
        credentials: ClickHouseSettings | TapeClickHouseCredentials | None = None,
        destination_name: str | None = None,
        environment: str | None = None,
        select_sequential_consistency: int | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(credentials, ClickHouseSettings):
            settings, credentials = credentials, TapeClickHouseCredentials()
            credentials.use(settings)
            # Not that of dlt's settings: a ReplacingMergeTree without a sort key keeps one row.
            kwargs.setdefault("table_engine_type", TapeClickHouseConfiguration.table_engine_type)
        self.before_complete: Callable[[str], None] = lambda load_id: None
        # dlt ignores an argument that equals the default of this signature.
        super().__init__(credentials, destination_name, environment, select_sequential_consistency, **kwargs)  # type: ignore[arg-type]  # dlt's defaults are None, too

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        caps = super()._raw_capabilities()
        caps.type_mapper = TapeTypeMapper
        # HTTP accepts one statement per request, so dlt must not join statements by ";".
        caps.supports_multiple_statements = False
        return caps

    def capabilities(self, config: Any = None, naming: Any = None) -> DestinationCapabilitiesContext:
        # Without a config dlt resolves one dozens of times per load package, although ClickHouse does not need it.
        return super().capabilities(config or self.spec(credentials=TapeClickHouseCredentials()), naming)

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        client: Any = super().client(schema, initial_config)
        client.before_complete = self.before_complete
        return client

    @property
    def client_class(self) -> Any:
        from extract.clickhouse.destination.job_client import TapeClickHouseClient

        return TapeClickHouseClient


tape_clickhouse.register()
