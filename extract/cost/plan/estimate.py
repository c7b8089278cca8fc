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

RUNS_WITH_SERIES = 24
"""Runs of a day that request hourly series; more runs a day request them no more often."""

CLICKHOUSE = ("clickhouse compute", "clickhouse storage", "clickhouse backup", "clickhouse egress")
AWS = ("backfill", "increment", "health", "logs", "alarms", "metrics", "secret", "image")
"""Components of AWS: the values of the tag `component` in deploy/aws, and metrics, which cannot be tagged."""
COMPONENTS = (*CLICKHOUSE, *AWS)
"""What the cost of a cloud consists of, in the order in which it is shown."""

Costs = dict[str, Decimal]
"""USD by component; one that is left out costs nothing."""
CostsBySetting = dict[str, Costs | None]
UsdBySetting = dict[str, Decimal | None]
"""None: unknown, because the data does not fit."""


@dataclass(frozen=True)
class Backfill:
    """A backfill, once. `series_requests` are those of series besides trades, 0 if `requests` include them.

    `rest_bytes` of tables by trades, and `series_bytes`, add up to `all_rest_bytes`. `compute_unit_hours` is ClickHouse's
    work, `awake_hours` the time in which it cannot idle.
    """

    trades: Decimal
    requests: Decimal
    series_requests: Decimal
    hours_at_rate_limit: Decimal
    wire_bytes: Decimal
    rest_bytes: dict[str, Decimal]
    series_bytes: Decimal
    fetch_hours: Decimal
    compute_unit_hours: Decimal
    awake_hours: Decimal
    usd: UsdBySetting
    components: CostsBySetting
    all_rest_bytes: Decimal


@dataclass(frozen=True)
class Increments:
    """A month of increments at one cadence; USD including storage, by setting.

    `lambda_usd`: the function that loads. `saved`: the share of the always-on cost that is saved on demand.
    """

    every: str
    runs: Decimal
    trades: Decimal
    requests: Decimal
    wire_bytes: Decimal
    awake_hours: Decimal
    lambda_usd: Decimal
    usd: UsdBySetting
    components: CostsBySetting
    saved: Decimal


@dataclass(frozen=True)
class Holding:
    """A month of storing the backfill and of watching it, without increments."""

    usd: UsdBySetting
    components: CostsBySetting


@dataclass(frozen=True)
class Estimate:
    backfill: Backfill
    holding: Holding
    increments: list[Increments]


def estimate(inputs: Inputs) -> Estimate:
    """`inputs` needs trades, requests, wire_bytes, requests_per_second and page_size besides the reference data."""
    backfill = _backfill(inputs)
    holding = _holding(inputs, backfill.all_rest_bytes)
    return Estimate(backfill, holding, [_increments(inputs, holding, every) for every in CADENCES])


def _backfill(inputs: Inputs) -> Backfill:
    trades = inputs["trades"]
    requests, series_requests = inputs["requests"], Decimal(0)
    if not requests:
        series_requests = inputs["series_requests"]
        requests = (trades / _trades_per_page(inputs)).to_integral_value(ROUND_CEILING)
    rate_hours = (requests + series_requests) / inputs["requests_per_second"] / HOUR_S
    fetch_hours = max(rate_hours, trades / inputs["fetch_trades_per_second"] / HOUR_S)
    processors = inputs["vcpus_per_unit"] * inputs["compute_units"]
    model_hours = trades / MILLION * inputs["model_s_per_million"] / HOUR_S
    work_hours = trades / MILLION * inputs["raw_s_per_million"] / HOUR_S + model_hours
    awake_hours = fetch_hours + model_hours / processors + inputs["idle_minutes"] / 60
    batch = (fetch_hours + inputs["boot_hours"]) * (
        inputs["batch_instance"] * inputs["spot_share"] + inputs["public_ipv4"]
    )
    on_demand = {"clickhouse compute": awake_hours * _compute_usd(inputs), "backfill": batch}
    components = _by_setting({}, on_demand, {"backfill": batch})
    rest_bytes = {table: trades * each for table, each in inputs.bytes_by_table().items()}
    return Backfill(
        trades=trades,
        requests=requests,
        series_requests=series_requests,
        hours_at_rate_limit=rate_hours,
        wire_bytes=inputs["wire_bytes"] or trades * inputs["wire_bytes_per_trade"],
        rest_bytes=rest_bytes,
        series_bytes=inputs["series_bytes"],
        fetch_hours=fetch_hours,
        compute_unit_hours=work_hours / inputs["vcpus_per_unit"],
        awake_hours=awake_hours,
        usd=_totals(components),
        components=components,
        all_rest_bytes=sum(rest_bytes.values(), inputs["series_bytes"]),
    )


def _by_setting(own_host: Costs | None, on_demand: Costs, always_on: Costs) -> CostsBySetting:
    return {
        "local": {},
        "own host": own_host,
        "cloud, on demand": on_demand,
        "cloud, always on": always_on,
    }


def _totals(components: CostsBySetting) -> UsdBySetting:
    return {
        setting: None if costs is None else sum(costs.values(), Decimal(0))
        for setting, costs in components.items()
    }


def _compute_usd(inputs: Inputs) -> Decimal:
    """USD per hour in which the service is awake."""
    return inputs["compute_units"] * inputs["clickhouse_compute"]


def _trades_per_page(inputs: Inputs) -> Decimal:
    return inputs["page_size"] * Decimal(str(PAGE_FILL_RATIO))


def _holding(inputs: Inputs, rest_bytes: Decimal) -> Holding:
    cloud = {
        "clickhouse storage": rest_bytes / TB * inputs["clickhouse_storage"],
        "clickhouse backup": rest_bytes / TB * inputs["clickhouse_backup"],
        "clickhouse egress": inputs["egress_gb"] * inputs["clickhouse_egress"],
        "alarms": inputs["alarms"] * inputs["alarm"],
        "metrics": inputs["metrics"] * inputs["metric"],
        "secret": inputs["secrets"] * inputs["secret"],
        "image": inputs["image_gb"] * inputs["image_storage"],
    }
    fits = rest_bytes <= inputs["host_disk_gb"] * GB
    components = _by_setting(
        {"own host": inputs["own_host"]} if fits else None,
        cloud | {"clickhouse compute": _month_of_compute(inputs, inputs["query_hours"])},
        cloud | {"clickhouse compute": _month_of_compute(inputs, HOURS_A_MONTH)},
    )
    return Holding(_totals(components), components)


def _month_of_compute(inputs: Inputs, awake_hours: Decimal) -> Decimal:
    """USD for a service that is awake for some hours, for all of the month at most."""
    return min(awake_hours, HOURS_A_MONTH) * _compute_usd(inputs)


def _increments(inputs: Inputs, holding: Holding, every: str) -> Increments:
    minutes = CADENCES[every]
    runs = (HOURS_A_MONTH * 60 / minutes).to_integral_value(ROUND_CEILING)
    trades = inputs["trades_per_day"] * DAYS_A_MONTH
    run_s = inputs["fetch_s"] + inputs["build_s"] + trades / runs / inputs["fetch_trades_per_second"]
    runs_with_series = min(runs, RUNS_WITH_SERIES * DAYS_A_MONTH)
    series_requests = inputs["series_requests_per_day"] * runs_with_series / RUNS_WITH_SERIES
    awake_minutes = (run_s / 60 + inputs["idle_minutes"]).to_integral_value(ROUND_CEILING)
    awake_hours = runs * min(Decimal(minutes), awake_minutes) / 60
    functions = _functions(inputs, runs, run_s)
    costs = {
        setting: None if holds is None else holds | (functions if setting.startswith("cloud") else {})
        for setting, holds in holding.components.items()
    }
    # Together, queries and runs keep the service awake. The checks run with an increment, once an hour at most:
    # HealthSchedule of deploy/aws has to be set accordingly.
    compute = _month_of_compute(inputs, inputs["query_hours"] + awake_hours)
    costs["cloud, on demand"] = (costs["cloud, on demand"] or {}) | {"clickhouse compute": compute}
    totals = _totals(costs)
    on_demand, always_on = totals["cloud, on demand"], totals["cloud, always on"]
    return Increments(
        every=every,
        runs=runs,
        trades=trades,
        requests=runs * inputs["requests_per_run"] + trades / _trades_per_page(inputs) + series_requests,
        wire_bytes=runs * inputs["wire_bytes_per_run"] + trades * inputs["wire_bytes_per_trade"],
        awake_hours=awake_hours,
        lambda_usd=functions["increment"],
        usd=totals,
        components=costs,
        saved=1 - on_demand / always_on if on_demand is not None and always_on else Decimal(0),
    )


def _functions(inputs: Inputs, runs: Decimal, run_s: Decimal) -> Costs:
    """A month of the functions that load and check, and of what they log; checks run once an hour at most."""
    checks = min(runs, HOURS_A_MONTH)
    log_bytes = runs * inputs["increment_log_bytes"] + checks * inputs["health_log_bytes"]

    def function(calls: Decimal, seconds: Decimal, gb: Decimal) -> Decimal:
        return calls * (seconds * gb * inputs["lambda_duration"] + inputs["lambda_request"])

    return {
        "increment": function(runs, run_s, inputs["lambda_gb"]),
        "health": function(checks, inputs["health_s"], inputs["health_gb"]),
        "logs": log_bytes / GB * inputs["log"],
    }
