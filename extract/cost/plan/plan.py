"""Cost plan: collect the inputs that the user set, that were measured and that are assumed, then estimate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from extract.clickhouse.settings import RAW_DATABASE, clickhouse_settings
from extract.cost.billing.clickhouse_cloud import fetch_service
from extract.cost.measure.database_usage import (
    MIN_TRADES_PROCESSED,
    MIN_TRADES_STORED,
    measure_processor_time,
    measure_stored_bytes,
)
from extract.cost.measure.storage_probe import storage_probe
from extract.cost.plan.estimate import Estimate, estimate
from extract.cost.plan.inputs import BYTES, Inputs
from extract.deribit.config import deribit_config
from extract.deribit.streams import Stream
from extract.errors import TapeError
from extract.estimate.plan import make_plan
from extract.estimate.store import load_measurement
from extract.source.options import RunOptions
from extract.source.series import NO_SERIES

SCOPES = ("btc-options", "everything")
DEFAULT_SCOPE = SCOPES[0]
RATE_LIMITED_SHARE = 0.8
"""A run that waited for the rate limit for this share of its time does not show how fast it can be."""
RAW_BYTES = f"{BYTES}{RAW_DATABASE}.trades"
GB_PER_COMPUTE_UNIT = 8


@dataclass
class CostPlan:
    """An estimate with its inputs, and sentences that qualify them."""

    inputs: Inputs
    estimate: Estimate
    notes: list[str] = field(default_factory=list)


def cost_plan(
    options: RunOptions | None,
    *,
    scope: str | None = None,
    trades: int | None = None,
    given: Sequence[str] = (),
    assume: bool = False,
) -> CostPlan:
    """Estimate a run with `options` from sample pages of the exchange, or `scope`, or a number of `trades`.

    `given`: the user's NAME=VALUE assignments. `assume`: use nothing of this database or of earlier measurements.

    Raises UsageError for impossible values, and what `make_plan` raises if the exchange is sampled.
    """
    inputs, notes = Inputs(), []
    inputs.put_scope(scope or DEFAULT_SCOPE)
    inputs.put("requests", 0, "requests; 0: calculated from the trades", "not sampled")
    inputs.put("wire_bytes", 0, "wire bytes; 0: calculated from the trades", "not sampled")
    put_config(inputs)
    inputs.set(given)
    if trades is not None:
        inputs.put("trades", trades, "trades", "set by --trades")
    if assume:
        return CostPlan(inputs, estimate(inputs), ["Nothing was measured here: --assume."])
    if scope is None:
        _put_volume(inputs)
    _put_backfill(inputs)
    if options is not None:
        notes += _put_samples(inputs, options)
    notes += _put_database(inputs) + _put_service(inputs)
    return CostPlan(inputs, estimate(inputs), notes)


def put_config(inputs: Inputs) -> None:
    """Put the settings of the exchange's API that a run uses."""
    config = deribit_config()
    inputs.put("requests_per_second", config.requests_per_second, "requests a second", "[sources.deribit]")
    inputs.put("page_size", config.page_size, "trades a page", "[sources.deribit]")
    if config.series == [NO_SERIES]:
        for name in ("series_requests", "series_requests_per_day", "series_bytes"):
            inputs.put(name, 0, "no series besides trades", "[sources.deribit]")


def _put_samples(inputs: Inputs, options: RunOptions) -> list[str]:
    """Put what sample pages of the exchange show, and the bytes at rest of their trades."""
    pages: dict[Stream, list[pa.Table]] = {}
    plan = make_plan(options, lambda stream, table: pages.setdefault(stream, []).append(table))
    source = f"measured: sample pages of the exchange at {plan.planned_at}"
    inputs.put("trades", plan.trades, "trades", source)
    if not inputs.is_set("trades"):
        inputs.put("requests", plan.requests, "requests", source)
        inputs.put("wire_bytes", plan.wire_bytes, "bytes over the wire", source)
    samples = {stream: pa.concat_tables(tables) for stream, tables in pages.items()}
    count = sum(table.num_rows for table in samples.values())
    if count >= MIN_TRADES_STORED:
        with storage_probe(clickhouse_settings()) as probe:
            size = sum(probe(table, stream) for stream, table in samples.items())
        source = f"measured: {count:,} sampled trades, inserted into a temporary table"
        inputs.put(RAW_BYTES, round(size / count, 2), "bytes a trade at rest", source)
    return [line for line in plan.inputs if not line.startswith(("On disk", "Rate limit"))]


def _put_volume(inputs: Inputs) -> None:
    """Put the day that `tape measure-volume` has measured."""
    volume = load_measurement("volume")
    if volume and volume.get("trades"):
        source = f"measured: tape measure-volume, {volume['day']}"
        per_trade = round(volume["wire_bytes"] / volume["trades"], 1)
        inputs.put("trades_per_day", volume["trades"], "trades a day", source)
        inputs.put("wire_bytes_per_trade", per_trade, "bytes a trade over the wire", source)


def _put_backfill(inputs: Inputs) -> None:
    """Put the speed of the month that `tape poc-backfill` has loaded, unless it was limited by the request rate."""
    month = load_measurement("backfill")
    if not month or month.get("trades", 0) < MIN_TRADES_PROCESSED:
        return
    rate_limited_s = month["requests"] / month["requests_per_second"]
    if rate_limited_s < RATE_LIMITED_SHARE * month["seconds"]:
        rate = round(month["trades"] / month["seconds"])
        source = f"measured: tape poc-backfill, {month['month']}"
        inputs.put("fetch_trades_per_second", rate, "trades a second that a run loaded", source)


def _put_database(inputs: Inputs) -> list[str]:
    """Put bytes at rest and processor time of this database; a note for each that it does not have."""
    notes = []
    try:
        settings = clickhouse_settings()
        stored, time = measure_stored_bytes(settings), measure_processor_time(settings)
    except TapeError as error:
        return [f"Nothing was measured in a database, so its figures are assumed: {error}"]
    if stored is None:
        notes.append(
            f"Fewer than {MIN_TRADES_STORED:,} trades are loaded: bytes at rest were not measured in this database."
        )
    else:
        inputs.put_bytes(
            stored.per_trade, f"measured: system.parts, {stored.trades:,} trades of this database"
        )
        if not stored.has_models:
            notes.append("This database has no models: their bytes at rest are assumed.")
    if time is None:
        notes.append(
            f"system.query_log has fewer than {MIN_TRADES_PROCESSED:,} trades: compute is assumed, not measured."
        )
        return notes
    source = f"measured: system.query_log, {time.trades:,} trades of this database"
    unit = "processor seconds of ClickHouse per million trades"
    inputs.put("raw_s_per_million", round(time.raw_s_per_million, 3), f"{unit}, load", source)
    if time.model_s_per_million:
        inputs.put("model_s_per_million", round(time.model_s_per_million, 3), f"{unit}, models", source)
    else:
        notes.append("The query log has no build of the models: their compute is assumed.")
    return notes


def _put_service(inputs: Inputs) -> list[str]:
    """Put size and idling of the ClickHouse Cloud service, if the environment has an API key; notes."""
    if not os.environ.get("CLICKHOUSE_CLOUD_ORGANIZATION_ID"):
        return []
    try:
        service = fetch_service()
    except TapeError as error:
        return [f"Size and idling of the cloud service are assumed: {error}"]
    source = f"measured: service {service.name} of ClickHouse Cloud"
    if service.idle_timeout_minutes:
        inputs.put(
            "idle_minutes", service.idle_timeout_minutes, "minutes without a query until it idles", source
        )
    if service.num_replicas and service.min_replica_memory_gb:
        units = service.num_replicas * service.min_replica_memory_gb / GB_PER_COMPUTE_UNIT
        inputs.put("compute_units", units, "compute units of the service, at its smallest", source)
    if service.idle_scaling:
        return []
    return [f"Service {service.name} never idles: `on demand` is valid once its idleScaling is on."]
