"""Estimates of a cost plan compared with figures worked out by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from extract.cost.plan.estimate import COMPONENTS, Estimate, estimate
from extract.cost.plan.inputs import Inputs, assumptions, prices
from extract.errors import UsageError


def inputs_of(*given: str) -> Inputs:
    """Round figures: a million trades, at prices that are easy to calculate with."""
    inputs = Inputs()
    inputs.put_scope("btc-options")
    for name, value in {
        "requests": 0,
        "wire_bytes": 0,
        "requests_per_second": 10,
        "page_size": 10_000,
    }.items():
        inputs.put(name, value, "", "a test")
    inputs.set(
        [
            *(
                "trades=1000000",
                "trades_per_day=1000",
                "wire_bytes_per_trade=200",
                "fetch_trades_per_second=1000",
            ),
            *("raw_s_per_million=2", "model_s_per_million=720", "idle_minutes=5", "fetch_s=30", "build_s=0"),
            *(
                "clickhouse_compute=0.2",
                "lambda_gb=1",
                "boot_hours=0",
                "batch_instance=0.09",
                "public_ipv4=0",
            ),
            *("series_requests=0", "series_bytes=0", "series_requests_per_day=0"),
            *(
                "secret=0.4",
                "alarms=0",
                "metrics=0",
                "image_gb=0",
                "health_s=0",
                "clickhouse_storage=25",
                "clickhouse_backup=25",
                "spot_share=0.5",
            ),
            *given,
        ]
    )
    return inputs


def plan_of(*given: str) -> Estimate:
    return estimate(inputs_of(*given))


def test_backfill_matches_hand_calculation() -> None:
    """1,000,000 trades at 1,000/s, slower than 118 pages of 8,500 at 10/s; compute of two processors."""
    backfill = plan_of().backfill
    assert backfill.requests == 118
    assert backfill.hours_at_rate_limit * 3600 == pytest.approx(Decimal("11.8"))
    assert backfill.fetch_hours * 3600 == pytest.approx(1000)
    assert backfill.wire_bytes == 200_000_000
    assert backfill.compute_unit_hours * 3600 == pytest.approx(361)
    assert backfill.awake_hours * 3600 == pytest.approx(1000 + 360 + 300)
    assert backfill.usd["cloud, on demand"] == pytest.approx(Decimal("0.0125") + Decimal("0.2") * 1660 / 3600)
    assert backfill.usd["local"] == backfill.usd["own host"] == 0


def test_rate_limit_bounds_the_speed_of_a_run() -> None:
    backfill = plan_of("requests_per_second=0.1").backfill
    assert backfill.fetch_hours == backfill.hours_at_rate_limit == Decimal(1180) / 3600


def test_storage_cost_matches_hand_calculation() -> None:
    """20 GB at 25 + 25 USD a TB and a secret; always on adds 730 hours of compute, queries add theirs."""
    table = "bytes.deribit.candles=20000"
    others = ("bytes.deribit_raw.trades=0", "bytes.deribit.trade_versions=0", "bytes.other=0")
    usd = plan_of(table, *others).holding.usd
    assert usd == {
        "local": 0,
        "own host": prices()["own_host"].value,
        "cloud, on demand": Decimal("1.4"),
        "cloud, always on": Decimal("147.4"),
    }
    assert plan_of(table, *others, "query_hours=10").holding.usd["cloud, on demand"] == Decimal("3.4")
    assert plan_of(table, *others, "host_disk_gb=19").holding.usd["own host"] is None


def test_series_add_requests_and_bytes_that_do_not_depend_on_trades() -> None:
    """Requests of a sampled plan include them already. Hourly runs request them each time, daily ones once."""
    series = ("series_requests=82", "series_bytes=1000000", "series_requests_per_day=48")
    backfill, without = plan_of(*series).backfill, plan_of().backfill
    assert (backfill.requests, backfill.series_requests) == (118, 82)
    assert backfill.hours_at_rate_limit * 3600 == pytest.approx(Decimal(20))
    assert backfill.all_rest_bytes == without.all_rest_bytes + 1_000_000
    assert plan_of(*series, "requests=50").backfill.series_requests == 0
    added = [
        one.requests - other.requests
        for one, other in zip(plan_of(*series).increments, plan_of().increments, strict=True)
    ]
    assert added == [pytest.approx(48 * Decimal(730) / 24), pytest.approx(48 * Decimal(730) / 24), 31 * 2]


def test_service_that_is_queried_each_minute_never_idles() -> None:
    """30 s of work and 5 minutes until it idles are billed as 6 minutes of each hour or day, or all the time."""
    minute, hour, day = plan_of().increments
    assert [minute.awake_hours, hour.awake_hours, day.awake_hours] == [730, 73, Decimal(31 * 6) / 60]
    assert minute.usd["cloud, on demand"] == minute.usd["cloud, always on"]
    assert minute.saved == 0
    assert 0 < hour.saved < day.saved < 1
    compute = Decimal("0.2") * 73
    holding = plan_of().holding.usd["cloud, on demand"]
    assert holding is not None
    assert hour.usd["cloud, on demand"] == pytest.approx(
        holding + compute + hour.lambda_usd, rel=Decimal("0.001")
    )
    assert hour.lambda_usd == pytest.approx(730 * 30 * prices()["lambda_duration"].value, rel=Decimal("0.05"))


def test_cost_of_each_component_matches_hand_calculation() -> None:
    """A month of hourly runs, at 20 GB at rest, 10 hours of queries and round prices; each total is the sum."""
    plan = plan_of(
        *(
            "bytes.deribit.candles=20000",
            "bytes.deribit_raw.trades=0",
            "bytes.deribit.trade_versions=0",
            "bytes.other=0",
        ),
        *(
            "query_hours=10",
            "egress_gb=4",
            "clickhouse_egress=0.1",
            "alarms=14",
            "alarm=0.1",
            "metrics=13",
            "metric=0.3",
        ),
        *("image_gb=0.5", "image_storage=0.1", "lambda_duration=0.00002", "lambda_request=0", "fetch_s=29"),
        *("health_s=5", "health_gb=0.5", "increment_log_bytes=1000", "health_log_bytes=4000", "log=0.5"),
        "trades_per_day=24000",
    )
    [hour] = [each for each in plan.increments if each.every == "hour"]
    fixed = {
        "clickhouse storage": Decimal("0.5"),
        "clickhouse backup": Decimal("0.5"),
        "clickhouse egress": Decimal("0.4"),
        "alarms": Decimal("1.4"),
        "metrics": Decimal("3.9"),
        "secret": Decimal("0.4"),
        "image": Decimal("0.05"),
    }
    assert plan.holding.components["cloud, on demand"] == fixed | {"clickhouse compute": 2}
    assert hour.components["cloud, on demand"] == fixed | {
        "clickhouse compute": pytest.approx(Decimal("0.2") * (10 + 73)),
        "increment": 730 * 30 * Decimal("0.00002"),
        "health": 730 * 5 * Decimal("0.5") * Decimal("0.00002"),
        "logs": 730 * 5000 * Decimal("0.5") / 10**9,
    }
    assert hour.components["cloud, always on"] == hour.components["cloud, on demand"] | {
        "clickhouse compute": Decimal("0.2") * 730
    }
    assert plan.backfill.components["cloud, always on"] == {"backfill": pytest.approx(Decimal("0.0125"))}
    for part in (plan.backfill, plan.holding, *plan.increments):
        for setting, costs in part.components.items():
            assert sum((costs or {}).values()) == part.usd[setting]
            assert set(costs or {}) <= {"own host", *COMPONENTS}


def test_input_set_by_the_user_replaces_a_measured_one() -> None:
    inputs = inputs_of("fetch_s=7", "bytes.other=3")
    inputs.put("fetch_s", 9, "s", "measured")
    inputs.put_bytes({"deribit_raw.trades": 1.0}, "measured")
    assert inputs["fetch_s"] == 7
    assert inputs.bytes_by_table()["other"] == 3
    assert "deribit.candles" in inputs.bytes_by_table()


@pytest.mark.parametrize("assignment", ["nothing=1", "fetch_s", "fetch_s=fast", "fetch_s=-1", "fetch_s=NaN"])
def test_invalid_assignment_is_a_usage_error(assignment: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        Inputs().set([assignment])


def test_reference_data_has_sources_and_dates() -> None:
    """A plan shows only the inputs that it used."""
    for figure in (*prices().values(), *assumptions().values()):
        assert figure.unit
        source, _, day = figure.source.rpartition(", ")
        assert source
        assert date.fromisoformat(day).year >= 2026
    inputs = inputs_of()
    estimate(inputs)
    names = {each.name for each in inputs.used()}
    assert "cost_explorer" not in names
    assert {"trades", "idle_minutes", "clickhouse_compute", "bytes.deribit.candles"} <= names
