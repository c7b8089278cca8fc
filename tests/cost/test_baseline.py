"""`tape cost baseline`: bills add up to the cent, and a bill that cannot be read is unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cloud_api import CloudApi, record
from tests.support.commands import Done
from tests.support.cost_explorer import CostExplorer, Item
from tests.support.examples import examples

Tape = Callable[..., Done]
UNTIL = date(2026, 3, 4)
METRICS = ("computeCHC", "storageCHC", "backupCHC", "publicDataTransferCHC", "initialLoadCHC")

SLOW_CLOCK = count(step=10).__next__

AGO = st.integers(0, 70)
USD = st.decimals("-3", "40", places=10).map(lambda usd: f"{usd:f}")
RECORDS = st.lists(
    st.tuples(
        AGO,
        st.sampled_from(["analytics", "staging", "warehouse"]),
        st.dictionaries(st.sampled_from(METRICS), USD, min_size=1),
        st.booleans(),
        st.none() | USD,
    ),
    max_size=25,
)
ITEMS = st.lists(
    st.tuples(
        AGO, st.sampled_from(["AWS Lambda", "EC2 - Other"]), st.sampled_from("abc"), USD, st.booleans()
    ),
    max_size=25,
)


def cents(amounts: list[str]) -> str:
    """The exact sum of decimal texts, then one rounding."""
    whole = sum((Fraction(amount) for amount in amounts), Fraction(0))
    exact = Decimal(whole.numerator) / Decimal(whole.denominator)
    return str(exact.quantize(Decimal("0.01"), ROUND_HALF_UP))


@pytest.mark.slow
@settings(
    max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=RECORDS, items=ITEMS, days=st.integers(1, 62), page=st.integers(15, 40))
def test_bills_add_up_to_the_cent(
    cloud_api: CloudApi,
    cost_explorer: CostExplorer,
    tape: Tape,
    records: list[tuple[Any, ...]],
    items: list[tuple[Any, ...]],
    days: int,
    page: int,
) -> None:
    """Across month ends, discounts, several services, open days and pages; each requested day and no other."""
    cloud_api.records = [
        record(UNTIL - timedelta(ago), name, locked=locked, total=total, **metrics)
        for ago, name, metrics, locked, total in records
    ]
    cost_explorer.items = [
        Item(UNTIL - timedelta(ago), service, usage, usd, estimated)
        for ago, service, usage, usd, estimated in items
    ]
    cost_explorer.page = page
    cloud_api.clock = SLOW_CLOCK  # another test covers the rate limit
    first = UNTIL - timedelta(days - 1)
    chc = [each for each in cloud_api.records if date.fromisoformat(each["date"]) >= first]
    usd = [each for each in cost_explorer.items if first <= each.day]
    expected = {
        "clickhouse": cents([repr(each["totalCHC"]) for each in chc]),
        "aws": cents([each.usd for each in usd]),
    }
    bill = json.loads(tape("cost", "baseline", "--days", str(days), "--until", str(UNTIL), "--json").out)
    assert bill["clouds"] == expected
    assert Decimal(bill["total_usd"]) == sum(map(Decimal, expected.values()))
    open_usd = [repr(each["totalCHC"]) for each in chc if not each["locked"]]
    open_usd += [each.usd for each in usd if each.estimated]
    assert sum(Fraction(line["open_usd"]) for line in bill["lines"]) == sum(map(Fraction, open_usd))


def test_printed_rows_add_up_to_printed_totals(
    cloud_api: CloudApi, cost_explorer: CostExplorer, tape: Tape
) -> None:
    """With fractions of cents too: the rows of a cloud add up to its total, and both totals to the last row."""
    cloud_api.records = [record(UNTIL, name, computeCHC="0.0034", storageCHC="9.9967") for name in "abcdefg"]
    cost_explorer.items = [Item(UNTIL, "AWS Lambda", usage, "1000.0051") for usage in "abcde"]
    done = tape("cost", "baseline", "--days", "1", "--until", str(UNTIL)).out
    rows = [line.split() for line in done.splitlines()[2:]]
    totals = []
    for cloud in ("clickhouse", "aws"):
        figures = [Decimal(row[-2].replace(",", "")) for row in rows if row[0] == cloud]
        assert sum(figures[:-1]) == figures[-1]
        totals.append(figures[-1])
    assert totals == [Decimal("70.00"), Decimal("5000.03")]
    assert ["both", "all", "of", "it", "5,070.03", "0.00"] in rows


def test_table_shows_open_charges_and_price_of_requests(
    cloud_api: CloudApi, cost_explorer: CostExplorer, tape: Tape
) -> None:
    """An incomplete day is noted; the price of Cost Explorer is shown with its source and date."""
    today = datetime.now(UTC).date()
    cloud_api.records = [
        record(today, computeCHC="1.005", locked=False),
        record(today - timedelta(1), computeCHC="10", publicDataTransferCHC="2.5", total="11.25"),
    ]
    cost_explorer.items = [Item(today - timedelta(1), "AWS Lambda", "Request", "0.004", True)]
    done = tape("cost", "baseline", "--days", "2", "--until", str(today))
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{today - timedelta(1)} to {today}: 2 days, UTC",
        "cloud       service     charge                  USD  may still change",
        "clickhouse  analytics   compute               11.01              1.01",
        "clickhouse  analytics   public data transfer   2.50              0.00",
        "clickhouse  analytics   discount              -1.25              0.00",
        "clickhouse              all of it             12.26              1.01",
        "aws         AWS Lambda  Request                0.00              0.00",
        "aws                     all of it              0.00              0.00",
        "both                    all of it             12.26              1.01",
        f"{today} is not over: its charges are incomplete.",
        "1.01 USD of it may still change: the clouds have not closed those days.",
        "Requests to Cost Explorer: 1, which add 0.01 USD to the next bill "
        "(aws.amazon.com/aws-cost-management/aws-cost-explorer/pricing, 2026-11-24).",
    ]


def test_unreadable_cloud_is_unknown_and_exits_with_2(cost_explorer: CostExplorer, tape: Tape) -> None:
    """Neither its bill nor the sum is a number; the other cloud is still shown."""
    cost_explorer.items = [Item(UNTIL, "AWS Lambda", "Request", "1.25")]
    words = ("cost", "baseline", "--days", "1", "--until", str(UNTIL))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CLICKHOUSE_CLOUD_API_KEY_SECRET")
        done = tape(*words)
        bill = json.loads(tape(*words, "--json").out)
    assert done.code == 2
    assert "CLICKHOUSE_CLOUD_API_KEY_SECRET is not set" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert ["clickhouse", "all", "of", "it", "unknown", "unknown"] in rows
    assert ["both", "all", "of", "it", "unknown", "unknown"] in rows
    assert ["aws", "all", "of", "it", "1.25", "0.00"] in rows
    assert (bill["total_usd"], bill["clouds"]) == (None, {"aws": "1.25", "clickhouse": None})


def test_single_cloud_exits_with_the_code_of_its_error(
    cloud_env: pytest.MonkeyPatch, cloud_api: CloudApi, tape: Tape
) -> None:
    """3 for a missing key, 4 for a cloud that is down; no bill is printed."""
    words = ("cost", "baseline", "--days", "1", "--until", str(UNTIL), "--cloud", "clickhouse")
    cloud_env.setenv("CLICKHOUSE_CLOUD_API_URL", "http://127.0.0.1:9")
    cloud_env.setattr("extract.retry.Retrier.run", lambda self, call: call())
    done = tape(*words)
    assert (done.code, done.out) == (4, "")
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    done = tape(*words)
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "CLICKHOUSE_CLOUD_ORGANIZATION_ID is not set; the bill of ClickHouse Cloud needs it.\n"
    )


@pytest.mark.parametrize("until", ["2026-13-01", "yesterday", "2999-01-01"])
def test_impossible_day_is_a_usage_error(cloud_env: object, tape: Tape, until: str) -> None:
    assert tape("cost", "baseline", "--until", until).code == 3
