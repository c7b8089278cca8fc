"""SQL expressions for the name, number and time of a rejected record. Imports no dlt, as `tables`."""

from __future__ import annotations

from collections.abc import Mapping

from extract.clickhouse.statements import load_statements

REJECTED_EXPRESSIONS: Mapping[str, str] = load_statements(__file__, "rejected.sql")
