"""The dlt source of last trades: the last trade_seq of expired instruments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import dlt
from dlt.extract import DltResource

from extract.source.source import Row, require_same_exchange
from extract.source.tables import INSTRUMENT_TAILS


@dlt.source(name="deribit", max_table_nesting=0)
def instrument_tails(exchange: str, rows: Iterable[Row]) -> DltResource:
    """`rows` of `instrument_tails`. Raises UsageError where the database holds trades of another exchange."""

    @dlt.resource(name=INSTRUMENT_TAILS.name, write_disposition="append", columns=INSTRUMENT_TAILS.hints)
    def resource() -> Iterator[Any]:
        require_same_exchange(dlt.current.source_state(), exchange)
        yield from rows

    return resource()
