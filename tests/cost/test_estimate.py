"""What a plan reckons, held against figures worked out by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from extract.cost.plan.estimate import Estimate, estimate
from extract.cost.plan.inputs import Inputs, assumptions, prices
from extract.errors import UsageError


def inputs_of(*given: str) -> Inputs:
    """Round figures: a million trades, everything at a price that can be followed in the head."""
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
            *("secret=0.4", "alarms=0", "clickhouse_storage=25", "clickhouse_backup=25", "spot_share=0.5"),
            *given,
        ]
    )
    return inputs


def plan_of(*given: str) -> Estimate:
    return estimate(inputs_of(*given))


def test_a_backfill_by_hand() -> None:
    """1,000,000 trades at 1,000/s; 118 pages of 8,500 at 10/s would take less; the work of two processors."""
    found = plan_of().backfill
    assert found.requests == 118
    assert found.hours_at_rate_limit * 3600 == pytest.approx(Decimal("11.8"))
    assert found.fetch_hours * 3600 == pytest.approx(1000)
    assert found.wire_bytes == 200_000_000
    assert found.compute_unit_hours * 3600 == pytest.approx(361)
    assert found.awake_hours * 3600 == pytest.approx(1000 + 360 + 300)
    assert found.usd["cloud, on demand"] == pytest.approx(Decimal("0.0125") + Decimal("0.2") * 1660 / 3600)
    assert found.usd["local"] == found.usd["own host"] == 0


def test_the_rate_limit_holds_a_fast_run_back() -> None:
    found = plan_of("requests_per_second=0.1").backfill
    assert found.fetch_hours == found.hours_at_rate_limit == Decimal(1180) / 3600


def test_holding_by_hand() -> None:
    """20 GB at 25 + 25 USD a TB and a secret; always on adds 730 hours, queries add their own."""
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


def test_a_service_that_is_asked_each_minute_never_idles() -> None:
    """30 s of work and 5 minutes of waiting are 6 minutes billed: all of a minute, a tenth of an hour, 6 of a day."""
    minute, hour, day = plan_of().increments
    assert [minute.awake_hours, hour.awake_hours, day.awake_hours] == [730, 73, Decimal(31 * 6) / 60]
    assert minute.usd["cloud, on demand"] == minute.usd["cloud, always on"]
    assert minute.saved == 0
    assert 0 < hour.saved < day.saved < 1
    compute = Decimal("0.2") * 73
    held = plan_of().holding.usd["cloud, on demand"]
    assert hour.usd["cloud, on demand"] == pytest.approx(held + compute + hour.lambda_usd)
    assert hour.lambda_usd == pytest.approx(730 * 30 * prices()["lambda_duration"].value, rel=Decimal("0.05"))


def test_what_the_user_sets_wins_over_what_is_measured() -> None:
    inputs = inputs_of("fetch_s=7", "bytes.other=3")
    inputs.put("fetch_s", 9, "s", "measured")
    inputs.put_bytes({"deribit_raw.trades": 1.0}, "measured")
    assert inputs["fetch_s"] == 7
    assert inputs.bytes_by_table()["other"] == 3
    assert "deribit.candles" in inputs.bytes_by_table()


@pytest.mark.parametrize("word", ["nothing=1", "fetch_s", "fetch_s=fast", "fetch_s=-1", "fetch_s=NaN"])
def test_what_cannot_be_set_is_a_mistake(word: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        Inputs().set([word])


def test_every_figure_has_a_source_and_a_date() -> None:
    """And no plan shows an input that it did not use."""
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
