"""Columns of an instrument record from get_instruments, and their ClickHouse types."""

from __future__ import annotations

COLUMNS = {
    "instrument_name": "String",
    "instrument_id": "Nullable(Int64)",
    "kind": "Nullable(String)",
    "base_currency": "Nullable(String)",
    "quote_currency": "Nullable(String)",
    "counter_currency": "Nullable(String)",
    "settlement_currency": "Nullable(String)",
    "instrument_type": "Nullable(String)",
    "option_type": "Nullable(String)",
    "strike": "Nullable(Float64)",
    "expiration_timestamp": "Nullable(DateTime64(3, 'UTC'))",
    "creation_timestamp": "Nullable(DateTime64(3, 'UTC'))",
    "is_active": "Nullable(Bool)",
    "contract_size": "Nullable(Float64)",
    "tick_size": "Nullable(Float64)",
    "settlement_period": "Nullable(String)",
    "price_index": "Nullable(String)",
    "currency": "String",
    "extra": "Nullable(String)",
}
"""The API's own field names, plus `currency` as requested and `extra`, JSON text of every other field."""

TIME_COLUMNS = tuple(name for name, type_ in COLUMNS.items() if "DateTime64" in type_)
