"""The destination as `dlt.pipeline(destination=…)` takes it, and as dlt's own commands find it again by name."""

from __future__ import annotations

from typing import Any

from dlt.common.destination import DestinationCapabilitiesContext
from dlt.destinations.impl.clickhouse.factory import ClickHouseTypeMapper, clickhouse

from extract.clickhouse.destination.configuration import (
    TapeClickHouseConfiguration,
    TapeClickHouseCredentials,
)
from extract.clickhouse.settings import ClickHouseSettings


class TapeTypeMapper(ClickHouseTypeMapper):
    """dlt's types, and what our type hint may have written in their place."""

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
    """ClickHouse over HTTP(S) alone. `credentials` are our settings; without any, the environment's."""

    spec = TapeClickHouseConfiguration

    def __init__(
        self,
        credentials: ClickHouseSettings | TapeClickHouseCredentials | None = None,
        destination_name: str | None = None,
        environment: str | None = None,
        select_sequential_consistency: int | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(credentials, ClickHouseSettings):
            credentials = TapeClickHouseCredentials.from_settings(credentials)
        # dlt takes for "not given" what equals the default of this very signature.
        super().__init__(credentials, destination_name, environment, select_sequential_consistency, **kwargs)

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        caps = super()._raw_capabilities()
        caps.type_mapper = TapeTypeMapper
        # HTTP takes one statement at a time; dlt then hands them over one by one instead of joined by ";".
        caps.supports_multiple_statements = False
        return caps

    def capabilities(self, config: Any = None, naming: Any = None) -> DestinationCapabilitiesContext:
        # Without a config dlt resolves one, dozens of times for each package; for ClickHouse it decides nothing.
        return super().capabilities(config or self.spec(credentials=TapeClickHouseCredentials()), naming)

    @property
    def client_class(self) -> Any:
        from extract.clickhouse.destination.job_client import TapeClickHouseClient

        return TapeClickHouseClient


tape_clickhouse.register()
