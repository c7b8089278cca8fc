"""Generated histories: packages in any order, repeated, restated, moved; refreshed at once, later, in part, or by dbt."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.clickhouse.client import Database, Values
from extract.clickhouse.refresh import refresh
from harness import raw_tables
from harness.dbt_project import PROJECT_DIR, Project
from tests.support.candle_truth import Trade, assert_true

pytestmark = pytest.mark.slow

STEPS = len(yaml.safe_load((PROJECT_DIR / "dbt_project.yml").read_text())["vars"]["refresh_steps"])
EXAMPLES = int(os.environ.get("DERIBIT_TAPE_DBT_EXAMPLES", "15"))
START_MS = 1_738_367_990_000  # 2025-01-31 23:59:50, so that a minute, a day and a month end within seconds
NAMES = ("BTC-PERPETUAL", "ETH_USDC-PERPETUAL", "BTC-28FEB25-90000-C", "BTC_USDC", "BTC-FS-28FEB25_PERP")
TIMES_MS = st.one_of(st.integers(0, 30_000), st.sampled_from([400 * 86_400_000, -35 * 86_400_000, 3_600_000]))


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    """A trade with one of a few keys, so that packages restate each other's trades."""
    name = draw(st.sampled_from(NAMES))
    is_option = name.endswith("-C")
    return {
        "instrument_name": name,
        "trade_seq": draw(st.integers(1, 4)),
        "trade_id": draw(st.sampled_from(["7", "ETH-8", "009", "x"])),
        "timestamp": START_MS + draw(TIMES_MS),
        "price": draw(st.integers(-(10**3), 10**7)) / draw(st.sampled_from([1, 2, 1000])),
        "amount": draw(st.sampled_from([0.1, 0.7000000000000001, 0.3999999999999999, 10.0, 12_345.678])),
        "direction": draw(st.sampled_from(["buy", "sell"])),
        "iv": draw(st.sampled_from([None, 0.0, 55.55])) if is_option else None,
        "liquidation": draw(st.sampled_from([None, None, "MT"])),
        "block_trade_id": draw(st.sampled_from([None, None, "BLOCK-1"])),
        "block_rfq_id": draw(st.sampled_from([None, None, 7])),
        "combo_id": draw(st.sampled_from([None, None, "BTC-FS-28FEB25_PERP"])),
        "index_price": draw(st.sampled_from([None, 94_738.7813, 1 / 3])),
        "kind": "option"
        if is_option
        else "future_combo"
        if "-FS-" in name
        else "future"
        if "-" in name
        else "spot",
        "currency": "BTC",
    }


PACKAGES = st.lists(
    st.lists(trades(), max_size=12, unique_by=lambda t: (t["instrument_name"], t["trade_seq"])),
    min_size=2,
    max_size=4,
)


class KilledError(Exception):
    """The end of a process between two statements."""


@dataclass(frozen=True)
class KilledDatabase(Database):
    """A database whose client is killed before its statement number `last`."""

    last: int = 0
    statements: list[str] = field(default_factory=list)

    def command(self, sql: str, parameters: Values = None, settings: Values = None) -> None:
        if len(self.statements) == self.last:
            raise KilledError
        self.statements.append(sql)
        super().command(sql, parameters, settings)


@pytest.fixture(scope="module")
def empty(dbt: Project) -> Project:
    """Models without a row."""
    dbt.empty()
    return dbt


# After a package: nothing, a refresh by the loader that names it, by one that does not, or one killed after n statements.
AFTER = st.one_of(st.sampled_from(["nothing", "refresh", "refresh all"]), st.integers(0, STEPS - 1))


def act(dbt: Project, load_id: str, after: str | int) -> None:
    if after == "refresh":
        refresh(dbt.database, [load_id])
    elif after == "refresh all":
        refresh(dbt.database)
    elif isinstance(after, int):
        database = KilledDatabase(dbt.database.client, dbt.database.settings, after)
        with pytest.raises(KilledError):
            refresh(database, [load_id])


@pytest.mark.slow(minutes=3)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(PACKAGES, st.randoms(use_true_random=False), st.lists(AFTER, min_size=4, max_size=4))
def test_models_depend_on_packages_only(
    empty: Project, packages: list[list[Trade]], order, after: list[str | int]
) -> None:
    """Whatever their order and the refreshes in between: after a last one every trade and candle is right."""
    empty.empty()
    loads = {f"{1764000000 + n}.123456": rows for n, rows in enumerate(packages)}
    for (load_id, rows), each in zip(order.sample(sorted(loads.items()), len(loads)), after, strict=False):
        raw_tables.load(empty.client, load_id, rows)
        act(empty, load_id, each)
    refresh(empty.database)
    assert_true(empty, loads)


@dataclass(frozen=True)
class WatchedDatabase(Database):
    """A database that counts trades, as a reader sees them, after each statement."""

    counts: list[tuple[Any, ...]] = field(default_factory=list)

    def command(self, sql: str, parameters: Values = None, settings: Values = None) -> None:
        super().command(sql, parameters, settings)
        rows = self.rows(
            "select count(), uniqExact(instrument_name, trade_seq), sum(amount) from deribit.trades"
        )
        self.counts.extend(rows)


def test_moved_trade_is_counted_once_at_any_moment(empty: Project) -> None:
    """Trades of January are restated in March, and later in January again: after no statement twice or missing."""
    empty.empty()
    records = [
        {
            "instrument_name": "BTC-PERPETUAL",
            "trade_seq": seq,
            "trade_id": str(seq),
            "price": 1.0,
            "amount": 2.0,
            "direction": "buy",
            "kind": "future",
            "currency": "BTC",
            "timestamp": START_MS + seq,
        }
        for seq in range(1, 301)
    ]
    loads = {}
    for n, days in enumerate((0, 40, 0), 1):
        loads[f"176400000{n}.5"] = [
            record | {"timestamp": record["timestamp"] + days * 86_400_000} for record in records
        ]
        raw_tables.load(empty.client, f"176400000{n}.5", loads[f"176400000{n}.5"])
        database = WatchedDatabase(empty.database.client, empty.database.settings)
        refresh(database, [f"176400000{n}.5"])
        assert len(database.counts) == STEPS
        assert set(database.counts) <= {(300, 300, 600.0)} | ({(0, 0, 0.0)} if n == 1 else set())
    assert_true(empty, loads)


def test_refresh_without_models_does_nothing(fresh_dbt: Project) -> None:
    """Loading works before the first `dbt build`."""
    raw_tables.load(fresh_dbt.client, "1764000001.5", [])
    assert refresh(fresh_dbt.database, ["1764000001.5"]) == 0
    fresh_dbt.client.command("drop database deribit sync")
    assert refresh(fresh_dbt.database) == 0
    fresh_dbt.client.command("create database deribit")
