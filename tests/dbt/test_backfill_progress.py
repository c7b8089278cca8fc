"""`backfill_progress` equals a computation in plain Python and the output of `tape status`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from extract.clickhouse.refresh import refresh
from extract.coverage.status import fetch_status
from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_model_truth import NOON_MS, trade

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
EPOCH_MS = 1_451_606_400_000
NOON = datetime.fromtimestamp(NOON_MS / 1000, UTC)
OPTION, OTHER = "BTC-31JAN25-90000-C", "BTC-31JAN25-95000-C"
Span = tuple[int, int]


def load(
    dbt: Project,
    load_id: str,
    arrived: datetime,
    trades: Iterable[dict[str, Any]] = (),
    spans: Iterable[tuple[str, str, int, int]] = (),
) -> None:
    """One load package that arrived at a time, with the spans (currency, kind, from_ms, to_ms) that it covers."""
    raw_tables.insert_rows(dbt.client, "trades", ({**each, "_dlt_load_id": load_id} for each in trades))
    names = ("currency", "kind", "covered_from", "covered_to")
    rows = [
        [
            currency,
            kind,
            datetime.fromtimestamp(start / 1000, UTC),
            datetime.fromtimestamp(end / 1000, UTC),
            load_id,
        ]
        for currency, kind, start, end in spans
    ]
    if rows:
        dbt.client.insert("deribit_raw.coverage", rows, column_names=[*names, "_dlt_load_id"])
    dbt.client.insert(
        "deribit_raw._dlt_loads",
        [[load_id, "deribit", 0, arrived, ""]],
        column_names=["load_id", "schema_name", "status", "inserted_at", "schema_version_hash"],
    )


def runs_of(numbers: set[int]) -> Iterator[Span]:
    """Ranges of neighbours, ascending, ends included."""
    for n in sorted(numbers):
        if n - 1 not in numbers:
            first = n
        if n + 1 not in numbers:
            yield first, n


def lacking(at_ms: dict[int, int], spans: list[Span], absent: set[int]) -> tuple[int, int]:
    """(missing, absent) of one instrument by its trades' times: numbers without a trade within one covered span."""
    missing = 0
    known_absent = 0
    for first, last in runs_of(set(range(1, max(at_ms))) - at_ms.keys()):
        after = at_ms[last + 1]
        span = next(((start, end) for start, end in spans if start <= after <= end), None)
        is_covered = span and (span[0] <= EPOCH_MS if first == 1 else span[0] <= at_ms[first - 1])
        if is_covered:
            numbers = set(range(first, last + 1))
            known_absent += len(numbers & absent)
            missing += len(numbers - absent)
    return missing, known_absent


def by_stream(dbt: Project) -> dict[tuple[str, str], dict[str, Any]]:
    rows = dbt.rows("SELECT * FROM deribit.backfill_progress")
    assert len({(row["currency"], row["kind"]) for row in rows}) == len(rows)
    return {(row["currency"], row["kind"]): row for row in rows}


@pytest.fixture(scope="module")
def loaded(dbt: Project) -> Project:
    """Futures with holes inside, between and before spans, some known absent; whole options; a stream of another coin."""
    dbt.empty()
    perpetual = {2: -600, 3: -500, 7: -400, 8: -200, 11: -150, 14: -100, 15: -10}
    trades = [trade(seq=seq, at_ms=NOON_MS + minute * MINUTE_MS) for seq, minute in perpetual.items()]
    trades += [trade(OPTION, seq, NOON_MS - 30 * MINUTE_MS + seq, iv=50.0) for seq in (1, 2, 4)]
    trades += [trade(OTHER, seq, NOON_MS - 20 * MINUTE_MS + seq, iv=50.0) for seq in (1, 2)]
    future_spans = [
        ("BTC", "future", NOON_MS + a * MINUTE_MS, NOON_MS + b * MINUTE_MS) for a, b in FUTURE_SPANS
    ]
    others = [
        ("BTC", "option", EPOCH_MS, NOON_MS - MINUTE_MS),
        ("ETH", "spot", EPOCH_MS, NOON_MS - 2 * HOUR_MS),
    ]
    load(dbt, "1764000001.5", NOON - timedelta(minutes=5), trades[::2], [*future_spans[:1], others[1]])
    load(dbt, "1764000002.5", NOON, trades[1::2], [*future_spans[1:], others[0]])
    # The package of the last one is not finished, so 13 is missing.
    absent = [
        ("BTC-PERPETUAL", 9, 10, "1764000001.5"),
        ("BTC-PERPETUAL", 10, 12, "1764000002.5"),
        (OPTION, 3, 3, "1764000002.5"),
        ("BTC-PERPETUAL", 13, 13, "1764000009.5"),
    ]
    for name, first, last, load_id in absent:
        row = {
            "instrument_name": name,
            "first_seq": first,
            "last_seq": last,
            "currency": "BTC",
            "_dlt_load_id": load_id,
        }
        row["kind"] = "future" if name == "BTC-PERPETUAL" else "option"
        raw_tables.insert_rows(dbt.client, "absent_trades", [row])
    refresh(dbt.database)
    return dbt


FUTURE_SPANS = [(-650, -450), (-350, -120), (-300, -5)]
"""In minutes to noon; the last two overlap."""


def test_figures_equal_python_computation(loaded: Project) -> None:
    rows = by_stream(loaded)
    assert rows.keys() == {("BTC", "future"), ("BTC", "option"), ("ETH", "spot")}
    future = rows["BTC", "future"]
    times = loaded.rows(
        "SELECT trade_seq, timestamp FROM deribit_raw.trades WHERE instrument_name = 'BTC-PERPETUAL'"
    )
    at_ms = {
        row["trade_seq"]: round(row["timestamp"].replace(tzinfo=UTC).timestamp() * 1000) for row in times
    }
    spans = [
        (NOON_MS - 650 * MINUTE_MS, NOON_MS - 450 * MINUTE_MS),
        (NOON_MS - 350 * MINUTE_MS, NOON_MS - 5 * MINUTE_MS),
    ]
    missing, absent = lacking(at_ms, spans, {9, 10, 11, 12})
    assert (missing, absent) == (
        1,
        3,
    )  # 9, 10, 12 are absent, 13 is missing; 1 and 4 to 6 are not in covered time
    assert (future["trades"], future["missing"], future["absent"]) == (7, missing, absent)
    assert future["proven_share"] == pytest.approx(1 - 1 / 11)
    assert future["percent"] == pytest.approx(100 * (200 + 345) / 650)
    assert future["current"] == datetime.fromtimestamp(spans[0][1] / 1000, UTC).replace(tzinfo=None)
    assert (future["earliest_at"], future["newest_at"]) == tuple(
        datetime.fromtimestamp(at / 1000, UTC).replace(tzinfo=None)
        for at in (min(at_ms.values()), max(at_ms.values()))
    )
    option, spot = rows["BTC", "option"], rows["ETH", "spot"]
    assert (option["trades"], option["missing"], option["absent"], option["proven_share"]) == (5, 0, 1, 1.0)
    assert (spot["trades"], spot["earliest_at"], spot["proven_share"]) == (0, None, 1.0)
    assert {row["target"] for row in rows.values()} == {NOON.replace(tzinfo=None)}
    assert {row["last_push_at"] for row in rows.values()} == {None}


def test_figures_equal_tape_status(loaded: Project) -> None:
    """`tape status` computes the same from the raw rows with another statement."""
    rows = by_stream(loaded)
    for each in fetch_status(loaded.database):
        row = rows[each.stream]
        assert (row["trades"], row["missing"], row["absent"]) == (each.trades, each.missing, each.absent)
        assert row["proven_share"] == pytest.approx(each.proven_share)


@pytest.mark.slow
def test_refresh_updates_the_figures(loaded: Project) -> None:
    """A loaded trade closes its gap, without a dbt run."""
    before = by_stream(loaded)
    assert before["BTC", "future"]["missing"] == 1
    load(
        loaded, "1764000003.5", NOON + timedelta(minutes=1), [trade(seq=13, at_ms=NOON_MS - 101 * MINUTE_MS)]
    )
    refresh(loaded.database, ["1764000003.5"])
    after = by_stream(loaded)
    assert after["BTC", "future"]["missing"] == 0
    assert after["BTC", "future"]["trades"] == before["BTC", "future"]["trades"] + 1
    assert after["BTC", "option"] == before["BTC", "option"] | {
        name: (NOON + timedelta(minutes=1)).replace(tzinfo=None) for name in ("target", "updated_at")
    } | {"percent": after["BTC", "option"]["percent"]}


def test_last_push_is_reported(loaded: Project) -> None:
    """A push changes last_push_at of every stream even without another load."""
    before = by_stream(loaded)
    assert {row["last_push_at"] for row in before.values()} == {None}
    raw_tables.create_raw_table(loaded.client, "pushes")
    try:
        loaded.run("--select", "stg_deribit__pushes")
        assert by_stream(loaded) == before
        proofs = [NOON + timedelta(hours=hour, milliseconds=1) for hour in (2, 5, 3)]
        loaded.client.insert("deribit_raw.pushes", [["cloud", "202501", 9, at] for at in proofs])
        last = proofs[1].replace(tzinfo=None)
        assert by_stream(loaded) == {
            stream: row | {"last_push_at": last, "updated_at": last} for stream, row in before.items()
        }
    finally:
        loaded.client.command("DROP TABLE deribit_raw.pushes SYNC")


@pytest.mark.slow
def test_status_is_error_completed_running_or_paused(fresh_dbt: Project) -> None:
    """error: missing trades; completed: near the target; running: loaded within ten minutes; otherwise paused."""
    dbt, now = fresh_dbt, datetime.now(UTC)
    now_ms = round(now.timestamp() * 1000)
    broken = [{**trade(seq=seq, at_ms=now_ms - HOUR_MS), "kind": "future"} for seq in (1, 3)]
    recent = now_ms - 10 * MINUTE_MS
    load(
        dbt,
        "1764000001.5",
        now - timedelta(minutes=30),
        (),
        [("ETH", "option", EPOCH_MS, now_ms - 5 * HOUR_MS)],
    )
    spans = [("BTC", "future", EPOCH_MS, recent), ("BTC", "spot", EPOCH_MS, recent)]
    load(dbt, "1764000002.5", now, broken, [*spans, ("ETH", "future", EPOCH_MS, now_ms - 5 * HOUR_MS)])
    dbt.run()
    assert {stream: row["status"] for stream, row in by_stream(dbt).items()} == {
        ("BTC", "future"): "error",
        ("BTC", "spot"): "completed",
        ("ETH", "future"): "running",
        ("ETH", "option"): "paused",
    }
