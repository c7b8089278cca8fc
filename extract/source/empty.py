"""A dlt source that creates the raw tables of a run without loading a row."""

from __future__ import annotations

import dlt
from dlt.extract import DltResource

from extract.deribit.schema import ARROW_SCHEMA
from extract.source.source import with_keys
from extract.source.tables import RAW_TABLES, TRADES


@dlt.source(name="deribit", max_table_nesting=0)
def empty_tables() -> tuple[DltResource, ...]:
    """Every table that a run creates, without rows and state, for a database into which nothing has been loaded."""
    trades = dlt.resource([ARROW_SCHEMA.empty_table()], name=TRADES.name, write_disposition="append")
    others = (
        dlt.resource(
            [dlt.mark.materialize_table_schema()],
            name=table.name,
            write_disposition="append",
            columns=table.hints,
        )
        for table in RAW_TABLES.values()
        if not table.is_optional and table is not TRADES
    )
    return tuple(with_keys(RAW_TABLES[resource.name], resource) for resource in (trades, *others))
