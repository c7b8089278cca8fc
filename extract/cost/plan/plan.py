"""Gathers what a plan rests on: what the user set, what was measured, and assumptions for the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings, clickhouse_settings
from extract.cost.billing.service import apply_service_settings
from extract.cost.measure.database_usage import LEAST_TRADES, LEAST_WORK, measured, work
from extract.cost.measure.storage_probe import storage_probe
from extract.cost.plan.estimate import Estimate, estimate
from extract.cost.plan.inputs import BYTES, Inputs
from extract.deribit.config import deribit_config
from extract.deribit.streams import Stream
from extract.errors import TapeError
from extract.estimate.plan import make_plan
from extract.paths import tape_dir
from extract.pipeline.options import RunOptions

SCOPES = ("btc-options", "everything")
DEFAULT_SCOPE = SCOPES[0]
RATE_LIMITED_SHARE = 0.8
"""A run that spent this share of its time waiting for the next request tells nothing of its own speed."""
RAW_BYTES = f"{BYTES}{RAW_DATABASE}.trades"


@dataclass
class CostPlan:
    """An estimate with its inputs, and what must be known of them."""

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
    """Asks the exchange where `options` says what for; else reckons with `scope` or so many `trades`.

    `assume`: takes nothing from this database or from earlier measurements.

    Raises UsageError for what cannot be, and what `planner.make_plan` raises where the exchange is asked.
    """
    inputs, notes = Inputs(), []
    inputs.put_scope(scope or DEFAULT_SCOPE)
    for name in ("requests", "wire_bytes"):
        inputs.put(name, 0, f"{name.replace('_', ' ')}; 0: reckoned from the trades", "nothing was asked")
    config = deribit_config()
    inputs.put("requests_per_second", config.requests_per_second, "requests a second", "[sources.deribit]")
    inputs.put("page_size", config.page_size, "trades a page", "[sources.deribit]")
    inputs.set(given)
    if trades is not None:
        inputs.put("trades", trades, "trades", "asked for")
    if assume:
        return CostPlan(inputs, estimate(inputs), ["Nothing was measured here: --assume."])
    if scope is None:
        _put_volume(inputs)
    _put_backfill(inputs)
    if options is not None:
        notes += _put_probes(inputs, options)
    notes += _put_database(inputs) + apply_service_settings(inputs)
    return CostPlan(inputs, estimate(inputs), notes)


def _put_probes(inputs: Inputs, options: RunOptions) -> list[str]:
    """What the exchange told, and what the trades of the probes weigh at rest."""
    pages: dict[Stream, list[pa.Table]] = {}
    plan = make_plan(options, lambda stream, table: pages.setdefault(stream, []).append(table))
    source = f"measured: probes of the exchange at {plan.planned_at}"
    inputs.put("trades", plan.trades, "trades", source)
    if not inputs.is_set("trades"):  # those are for the trades that were found
        inputs.put("requests", plan.requests, "requests", source)
        inputs.put("wire_bytes", plan.wire_bytes, "bytes over the wire", source)
    probed = {stream: pa.concat_tables(tables) for stream, tables in pages.items()}
    count = sum(table.num_rows for table in probed.values())
    if count >= LEAST_TRADES:
        with storage_probe(clickhouse_settings()) as weights:
            size = sum(weights.bytes_on_disk(table, stream) for stream, table in probed.items())
        weighed = f"measured: {count:,} trades of the probes, weighed in a table of their own"
        inputs.put(RAW_BYTES, round(size / count, 2), "bytes a trade at rest", weighed)
    return [line for line in plan.inputs if not line.startswith(("On disk", "Rate limit"))]


def _put_volume(inputs: Inputs) -> None:
    """A day that `tape measure-volume` has measured."""
    kept = recall("volume")
    if kept and kept.get("trades"):
        source = f"measured: tape measure-volume, {kept['day']}"
        inputs.put("trades_per_day", kept["trades"], "trades a day", source)
        inputs.put(
            "wire_bytes_per_trade",
            round(kept["wire_bytes"] / kept["trades"], 1),
            "bytes a trade over the wire",
            source,
        )


def _put_backfill(inputs: Inputs) -> None:
    """The speed of a month that `tape poc-backfill` has run, unless the rate limit was what held it back."""
    kept = recall("backfill")
    if not kept or kept.get("trades", 0) < LEAST_WORK:
        return
    held_back_s = kept["requests"] / kept["requests_per_second"]
    if held_back_s < RATE_LIMITED_SHARE * kept["seconds"]:
        rate = round(kept["trades"] / kept["seconds"])
        source = f"measured: tape poc-backfill, {kept['month']}"
        inputs.put("fetch_trades_per_second", rate, "trades a second that a run took in", source)


def _put_database(inputs: Inputs) -> list[str]:
    """Bytes and work as this database has them; a note where it has none."""
    try:
        settings = clickhouse_settings()
        return _put_bytes(inputs, settings) + _put_work(inputs, settings)
    except TapeError as error:
        return [f"Nothing was measured in a database, so its figures are assumed: {error}"]


def _put_bytes(inputs: Inputs, settings: ClickHouseSettings) -> list[str]:
    found = measured(settings)
    if found is None:
        return [
            f"Fewer than {LEAST_TRADES:,} trades are loaded: no bytes at rest were measured in this database."
        ]
    inputs.put_bytes(
        found.bytes_per_trade, f"measured: system.parts, {found.trades:,} trades of this database"
    )
    if not found.has_models:
        return ["No models are built in this database: their bytes at rest are assumed."]
    return []


def _put_work(inputs: Inputs, settings: ClickHouseSettings) -> list[str]:
    found = work(settings)
    if found is None:
        return [
            f"system.query_log knows of fewer than {LEAST_WORK:,} trades: compute is assumed, not measured."
        ]
    source = f"measured: system.query_log, {found.trades:,} trades of this database"
    unit = "processor seconds of ClickHouse a million trades"
    inputs.put("raw_s_per_million", round(found.raw_s_per_million, 3), f"{unit}, taking in", source)
    if not found.model_s_per_million:
        return ["No models were built that the query log knows of: their compute is assumed."]
    inputs.put("model_s_per_million", round(found.model_s_per_million, 3), f"{unit}, models", source)
    return []


# What was measured is kept for the plans that follow


def remember(name: str, figures: dict[str, Any]) -> None:
    """Writes `.tape/NAME.json`."""
    path = tape_dir() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))


def recall(name: str) -> dict[str, Any] | None:
    """What was remembered; None where nothing was, or nothing that can be read."""
    try:
        found = json.loads((tape_dir() / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
