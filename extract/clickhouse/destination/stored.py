"""What dlt stores in the database besides rows, for programs that are no pipeline: the schema and the pipeline's state."""

from __future__ import annotations

from typing import Any, cast

from dlt.common.schema import Schema
from dlt.common.versioned_state import decompress_state

from extract.clickhouse.destination.factory import tape_clickhouse
from extract.clickhouse.destination.job_client import TapeClickHouseClient
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings


def open_job_client(settings: ClickHouseSettings, schema: Schema) -> TapeClickHouseClient:
    """dlt's client of the raw database: a context manager that reads stored schemas and creates tables."""
    destination = tape_clickhouse(settings)
    client = destination.client(schema, destination.spec()._bind_dataset_name(RAW_DATABASE))
    return cast(TapeClickHouseClient, client)


def decode_state(text: str) -> dict[str, Any]:
    """The pipeline's state from a row of `_dlt_pipeline_state`."""
    return dict(decompress_state(text))
