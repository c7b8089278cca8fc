"""Estimate resources and cost of a backfill, of its storage, and of a month of increments. Pure: no I/O.

Costs are by setting: local (your own machine), own host (a rented one), and ClickHouse Cloud with AWS, on demand (the
service idles between the runs) or always on.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from extract.cost.plan.inputs import Inputs
from extract.estimate.estimator import PAGE_FILL_RATIO

HOUR_S = 3600
HOURS_A_MONTH = Decimal(730)
DAYS_A_MONTH = HOURS_A_MONTH / 24
MILLION = 10**6
GB = 10**9
TB = 10**12
CADENCES = {"minute": 1, "hour": 60, "day": 1440}
"""Minutes from one increment to the next."""

UsdBySetting = dict[str, Decimal | None]
"""None: unknown, because the data does not fit."""


@dataclass(frozen=True)
class Backfill:
    """A backfill, once. `compute_unit_hours` is ClickHouse's work, `awake_hours` the time in which it cannot idle."""

    trades: Decimal
    requests: Decimal
    hours_at_rate_limit: Decimal
    wire_bytes: Decimal
    rest_bytes: dict[str, Decimal]
    fetch_hours: Decimal
    compute_unit_hours: Decimal
    awake_hours: Decimal
    usd: UsdBySetting
    all_rest_bytes: Decimal


@dataclass(frozen=True)
class Increments:
    """A month of increments at one cadence; USD including storage, by setting.

    `saved`: the share of the always-on cost that is saved on demand.
    """

    every: str
    runs: Decimal
    trades: Decimal
    requests: Decimal
    wire_bytes: Decimal
    awake_hours: Decimal
    lambda_usd: Decimal
    usd: UsdBySetting
    saved: Decimal


@dataclass(frozen=True)
class Estimate:
    """`holding`: USD a month for storing the backfill."""

    backfill: Backfill
    holding: UsdBySetting
    increments: list[Increments]


def estimate(inputs: Inputs) -> Estimate:
    """`inputs` needs trades, requests, wire_bytes, requests_per_second and page_size besides the reference data."""
    backfill = _backfill(inputs)
    holding = _holding(inputs, backfill.all_rest_bytes)
    return Estimate(backfill, holding, [_increments(inputs, holding, every) for every in CADENCES])


def _backfill(inputs: Inputs) -> Backfill:
    trades = inputs["trades"]
    requests = inputs["requests"]
    if not requests:
        requests = (trades / _trades_per_page(inputs)).to_integral_value(ROUND_CEILING)
    rate_hours = requests / inputs["requests_per_second"] / HOUR_S
    fetch_hours = max(rate_hours, trades / inputs["fetch_trades_per_second"] / HOUR_S)
    processors = inputs["vcpus_per_unit"] * inputs["compute_units"]
    model_hours = trades / MILLION * inputs["model_s_per_million"] / HOUR_S
    work_hours = trades / MILLION * inputs["raw_s_per_million"] / HOUR_S + model_hours
    awake_hours = fetch_hours + model_hours / processors + inputs["idle_minutes"] / 60
    batch = (fetch_hours + inputs["boot_hours"]) * (
        inputs["batch_instance"] * inputs["spot_share"] + inputs["public_ipv4"]
    )
    awake = awake_hours * inputs["compute_units"] * inputs["clickhouse_compute"]
    rest_bytes = {table: trades * each for table, each in inputs.bytes_by_table().items()}
    return Backfill(
        trades=trades,
        requests=requests,
        hours_at_rate_limit=rate_hours,
        wire_bytes=inputs["wire_bytes"] or trades * inputs["wire_bytes_per_trade"],
        rest_bytes=rest_bytes,
        fetch_hours=fetch_hours,
        compute_unit_hours=work_hours / inputs["vcpus_per_unit"],
        awake_hours=awake_hours,
        usd=_by_setting(Decimal(0), batch + awake, batch),
        all_rest_bytes=sum(rest_bytes.values(), Decimal(0)),
    )


def _by_setting(own_host: Decimal | None, on_demand: Decimal, always_on: Decimal) -> UsdBySetting:
    clouds = {"cloud, on demand": on_demand, "cloud, always on": always_on}
    return {"local": Decimal(0), "own host": own_host, **clouds}


def _trades_per_page(inputs: Inputs) -> Decimal:
    return inputs["page_size"] * Decimal(str(PAGE_FILL_RATIO))


def _holding(inputs: Inputs, rest_bytes: Decimal) -> UsdBySetting:
    stored = rest_bytes / TB * (inputs["clickhouse_storage"] + inputs["clickhouse_backup"])
    fixed = inputs["secrets"] * inputs["secret"] + inputs["alarms"] * inputs["alarm"]
    cloud = stored + fixed + inputs["egress_gb"] * inputs["clickhouse_egress"]
    hourly = inputs["compute_units"] * inputs["clickhouse_compute"]
    fits = rest_bytes <= inputs["host_disk_gb"] * GB
    on_demand = cloud + min(inputs["query_hours"], HOURS_A_MONTH) * hourly
    return _by_setting(inputs["own_host"] if fits else None, on_demand, cloud + HOURS_A_MONTH * hourly)


def _increments(inputs: Inputs, holding: UsdBySetting, every: str) -> Increments:
    minutes = CADENCES[every]
    runs = (HOURS_A_MONTH * 60 / minutes).to_integral_value(ROUND_CEILING)
    trades = inputs["trades_per_day"] * DAYS_A_MONTH
    run_s = inputs["fetch_s"] + inputs["build_s"] + trades / runs / inputs["fetch_trades_per_second"]
    awake_minutes = (run_s / 60 + inputs["idle_minutes"]).to_integral_value(ROUND_CEILING)
    awake_hours = runs * min(Decimal(minutes), awake_minutes) / 60
    function = runs * (run_s * inputs["lambda_gb"] * inputs["lambda_duration"] + inputs["lambda_request"])
    compute = awake_hours * inputs["compute_units"] * inputs["clickhouse_compute"]
    always_on = (holding["cloud, always on"] or Decimal(0)) + function
    # Together, queries and runs keep the service awake for all of the month at most.
    on_demand = min((holding["cloud, on demand"] or Decimal(0)) + compute + function, always_on)
    return Increments(
        every=every,
        runs=runs,
        trades=trades,
        requests=runs * inputs["requests_per_run"] + trades / _trades_per_page(inputs),
        wire_bytes=runs * inputs["wire_bytes_per_run"] + trades * inputs["wire_bytes_per_trade"],
        awake_hours=awake_hours,
        lambda_usd=function,
        usd=_by_setting(holding["own host"], on_demand, always_on),
        saved=1 - on_demand / always_on if always_on else Decimal(0),
    )
