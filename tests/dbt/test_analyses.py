"""The queries in analyses/ run and return what plain Python computes from the same trades."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from extract.clickhouse.refresh import refresh
from extract.paths import ROOT
from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import PROJECT_DIR, Project
from harness.raw_tables import raw_trades
from tests.support import series_analyses
from tests.support.candle_truth import bucket_start, volume_and_notional

pytestmark = pytest.mark.slow

DAY_MS = 86_400_000
ANALYSES = {path.stem for path in (PROJECT_DIR / "analyses").glob("*.sql")}
Rows = list[dict[str, Any]]


class TapeTrades:
    """Trades of the tape with the parts of their names, and the time of the newest one."""

    def __init__(self, tape: Tape) -> None:
        self.trades = [_with_parts(trade) for trade in raw_trades(tape)]
        self.at = max(trade["timestamp"] for trade in self.trades)
        self.day = [trade for trade in self.trades if trade["timestamp"] // DAY_MS == self.at // DAY_MS]
        self.expiry = min(trade["expiry_ms"] for trade in self.live(self.day))

    def live(self, trades: Rows) -> Rows:
        """Options of BTC that have not expired."""
        return [
            trade
            for trade in trades
            if trade["kind"] == "option" and trade["base"] == "BTC" and trade["expiry_ms"] > self.at
        ]

    def nearest(self) -> Rows:
        return [trade for trade in self.live(self.day) if trade["expiry_ms"] == self.expiry]


def _with_parts(trade: dict[str, Any]) -> dict[str, Any]:
    parts = parse(trade["instrument_name"])
    base = (
        parts.base if parts.kind in ("option", "future", "spot") else None
    )  # the names of combos are not parsed
    return trade | {
        "base": base,
        "expiry_ms": parts.expiry_ms,
        "strike": parts.strike,
        "option_type": parts.option_type,
        "volume": volume_and_notional(trade)[0],
    }


def is_of_book(trade: dict[str, Any]) -> bool:
    """Whether a trade is neither a block trade nor a leg of a combo."""
    return not any(trade.get(name) for name in ("block_trade_id", "block_rfq_id", "combo_id"))


def grouped(trades: Rows, *fields: str) -> dict[Any, Rows]:
    groups: dict[Any, Rows] = defaultdict(list)
    for trade in sorted(trades, key=lambda trade: (trade["timestamp"], trade["trade_seq"])):
        key = tuple(trade[field] for field in fields)
        groups[key if len(key) > 1 else key[0]].append(trade)
    return groups


def volume(trades: Rows, **fields: Any) -> Decimal:
    chosen = (t for t in trades if all(t.get(name) == value for name, value in fields.items()))
    return sum((trade["volume"] for trade in chosen), Decimal(0))


def weighted(trades: Rows, value: Callable[[dict[str, Any]], float]) -> float:
    weights = [float(trade["volume"]) for trade in trades]
    return pytest.approx(
        sum(value(trade) * weight for trade, weight in zip(trades, weights, strict=True)) / sum(weights)
    )


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


def option_chain(market: TapeTrades, rows: Rows) -> None:
    expected = {}
    for (name, expiry, strike), trades in grouped(
        market.live(market.trades), "instrument_name", "expiry_ms", "strike"
    ).items():
        key = (parse(name).quote or "BTC", at(expiry), strike)
        expected[*key, trades[-1]["option_type"]] = (trades[-1]["price"], trades[-1]["iv"])
    shown = {}
    for row in rows:
        for side in ("call", "put"):
            if row[f"{side}_price"] is not None:
                shown[row["quote_currency"], row["expiry"], row["strike"], side] = (
                    row[f"{side}_price"],
                    row[f"{side}_iv"],
                )
    assert shown == expected


def term_structure(market: TapeTrades, rows: Rows) -> None:
    recent = [t for t in market.live(market.trades) if t["timestamp"] > market.at - DAY_MS and t["iv"] > 0]
    expected = {}
    for expiry, trades in grouped(recent, "expiry_ms").items():
        strike = min((abs(trade["strike"] - trade["index_price"]), trade["strike"]) for trade in trades)[1]
        money = [trade for trade in trades if trade["strike"] == strike]
        expected[at(expiry)] = (strike, weighted(money, lambda trade: trade["iv"]), len(money))
    assert {row["expiry"]: (row["strike"], row["iv"], row["trade_count"]) for row in rows} == expected


def put_call_by_expiry(market: TapeTrades, rows: Rows) -> None:
    options = [t for t in market.day if t["kind"] == "option" and t["base"] == "BTC"]
    assert {row["expiry"]: (row["put_volume"], row["call_volume"]) for row in rows} == {
        at(expiry): (volume(trades, option_type="put"), volume(trades, option_type="call"))
        for expiry, trades in grouped(options, "expiry_ms").items()
    }
    for row in rows:
        ratio = float(row["put_volume"] / row["call_volume"]) if row["call_volume"] else None
        assert row["put_call_ratio"] == (ratio if ratio is None else pytest.approx(ratio))


def volume_by_strike(market: TapeTrades, rows: Rows) -> None:
    assert {row["strike"]: (row["call_volume"], row["put_volume"], row["trade_count"]) for row in rows} == {
        strike: (volume(trades, option_type="call"), volume(trades, option_type="put"), len(trades))
        for strike, trades in grouped(market.nearest(), "strike").items()
    }


def futures_basis(market: TapeTrades, rows: Rows) -> None:
    futures = [
        t
        for t in market.trades
        if t["kind"] == "future" and t["base"] == "BTC" and not t["instrument_name"].endswith("-PERPETUAL")
        and t["expiry_ms"] > market.at >= t["timestamp"] > market.at - DAY_MS
    ]  # fmt: skip
    assert {row["instrument_name"]: row["basis"] for row in rows} == {
        name: pytest.approx(trades[-1]["price"] / trades[-1]["index_price"] - 1)
        for name, trades in grouped(futures, "instrument_name").items()
    }
    for row in rows:
        years = (row["expires_at"] - row["traded_at"]).total_seconds() / 365 / 86_400
        assert row["basis_a_year"] == pytest.approx(row["basis"] / years, rel=1e-4)


def block_share(market: TapeTrades, rows: Rows) -> None:
    own = [t | {"day": at(t["timestamp"]).date()} for t in market.trades if "combo" not in t["kind"]]
    shown = {(row["day"], row["underlying"], row["kind"]): row for row in rows}
    groups = grouped(own, "day", "base", "kind")
    assert shown.keys() == groups.keys()
    for key, trades in groups.items():
        blocks = volume([trade for trade in trades if trade.get("block_trade_id")])
        assert (shown[key]["volume"], shown[key]["block_volume"]) == (volume(trades), blocks)
        assert shown[key]["block_share"] == pytest.approx(float(blocks / volume(trades)))
    assert any(row["block_share"] > 0 for row in rows)


def liquidations_by_hour(market: TapeTrades, rows: Rows) -> None:
    hit = [
        t | {"hour": bucket_start("1h", t["timestamp"])}
        for t in market.trades
        if t.get("liquidation") and t["base"] == "BTC"
    ]
    assert {row["hour"]: (row["liquidations"], row["bought_volume"], row["sold_volume"]) for row in rows} == {
        hour: (len(trades), volume(trades, direction="buy"), volume(trades, direction="sell"))
        for hour, trades in grouped(hit, "hour").items()
    }


def iv_smile(market: TapeTrades, rows: Rows) -> None:
    priced = [trade for trade in market.nearest() if trade["iv"] > 0]
    assert {row["strike"]: (row["iv"], row["trade_count"]) for row in rows} == {
        strike: (weighted(trades, lambda trade: trade["iv"]), len(trades))
        for strike, trades in grouped(priced, "strike").items()
    }
    index = market.nearest()[-1]["index_price"]
    assert all(row["moneyness"] == pytest.approx(row["strike"] / index, rel=0.1) for row in rows)


def most_traded(market: TapeTrades, rows: Rows) -> None:
    values = {
        name: sum(float(trade["volume"]) * trade["index_price"] for trade in trades)
        for name, trades in grouped(
            [t for t in market.day if "combo" not in t["kind"]], "instrument_name"
        ).items()
    }
    ranked = sorted(values.items(), key=lambda each: (-each[1], each[0]))[:20]
    assert [row["instrument_name"] for row in rows] == [name for name, _ in ranked]
    assert [row["usd_value"] for row in rows] == [pytest.approx(value) for _, value in ranked]


def realised_volatility(market: TapeTrades, rows: Rows) -> None:
    own = [
        t | {"hour": bucket_start("1h", t["timestamp"])}
        for t in market.trades
        if t["instrument_name"] == "BTC-PERPETUAL" and is_of_book(t)
    ]
    closes = [(hour, trades[-1]["price"]) for hour, trades in sorted(grouped(own, "hour").items())]
    returns = defaultdict(list)
    for (_, before), (hour, close) in itertools.pairwise(closes):
        returns[hour.date()].append(math.log(close / before))
    assert {row["day"]: (row["returns"], row["realised_volatility"]) for row in rows} == {
        day: (len(each), pytest.approx(100 * math.sqrt(sum(r * r for r in each) / len(each) * 24 * 365)))
        for day, each in returns.items()
    }


CHECKS = {
    check.__name__: check
    for check in (
        option_chain, term_structure, put_call_by_expiry, volume_by_strike, futures_basis,
        block_share, liquidations_by_hour, iv_smile, most_traded, realised_volatility,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def market() -> TapeTrades:
    return TapeTrades(Tape.generate(seed=5, trades=6000, days=2))


@pytest.fixture(scope="module")
def compiled(dbt: Project, market: TapeTrades) -> dict[str, str]:
    """Each analysis's SQL, over built models."""
    dbt.empty()
    raw_tables.load(dbt.client, "1764000001.5", raw_trades(Tape.generate(seed=5, trades=6000, days=2)))
    refresh(dbt.database)
    series_analyses.load_series(
        dbt.client, market.at, (each["expiry_ms"] for each in market.trades if each["expiry_ms"])
    )
    dbt.run("--select", "staging.series")  # their tables did not exist before
    result = dbt.must("compile", "--select", "resource_type:analysis")
    return {each.node.name: each.node.compiled_code for each in result.result.results}


def test_every_analysis_has_a_check() -> None:
    assert set(CHECKS) | set(series_analyses.CHECKS) == ANALYSES
    assert len(ANALYSES) >= 20


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_analysis_equals_python_computation(
    dbt: Project, market: TapeTrades, compiled: dict[str, str], name: str
) -> None:
    """Both compute the newest day of the tape, with at least one row."""
    rows = dbt.rows(compiled[name])
    assert rows
    for row in rows:
        for column, value in row.items():
            if isinstance(value, datetime):
                row[column] = value.replace(tzinfo=None)
    if name in CHECKS:
        CHECKS[name](market, rows)
    else:
        inverse = [
            trade
            for trade in market.trades
            if trade["kind"] == "option" and trade["base"] == "BTC" and "_" not in trade["instrument_name"]
        ]
        models = series_analyses.Market(
            inverse, market.at, lambda model: dbt.rows(f"SELECT * FROM deribit.{model}")
        )
        series_analyses.CHECKS[name](models, rows)


def test_vars_select_underlying_time_and_expiry(
    dbt: Project, market: TapeTrades, compiled: dict[str, str]
) -> None:
    """They override the defaults: BTC, the newest time and the next expiry."""
    variables = "{underlying: ETH, at: '2026-01-01 00:00:00', expiry: '2026-01-30 08:00:00'}"
    result = dbt.must("compile", "--select", "iv_smile", "--vars", variables)
    sql = result.result.results[0].node.compiled_code
    assert "'ETH'" in sql
    assert "2026-01-01" in sql
    assert "2026-01-30 08:00:00" in sql
    assert dbt.rows(sql) == []


def test_analysis_can_be_shown(dbt: Project, compiled: dict[str, str]) -> None:
    """`dbt show` prints it, as in the README."""
    shown = dbt.must("show", "--select", "option_chain", "--limit", "3").result.results[0]
    assert len(shown.agate_table.rows) == 3


def test_every_column_is_described_and_readme_models_have_exposures(
    dbt: Project, compiled: dict[str, str]
) -> None:
    """Each column of the database has a description, and each model in the README an exposure."""
    manifest = dbt.runner.manifest
    nodes = manifest.nodes.values()
    models = {node.name: node for node in nodes if node.resource_type == "model"}
    described = {
        name: {each for each, column in node.columns.items() if column.description}
        for name, node in models.items()
    }
    # The steps of a refresh are views that nobody else reads.
    there = dbt.rows(
        "SELECT table, groupArray(name) AS columns FROM system.columns "
        "WHERE database = 'deribit' AND (table = 'refresh_log' OR table NOT LIKE 'refresh_%') GROUP BY table"
    )
    assert len(there) >= 15
    for table in there:
        assert set(table["columns"]) == described[table["table"]], table["table"]
    exposed = {node for each in manifest.exposures.values() for node in each.depends_on.nodes}
    named = set(re.findall(r"\bderibit\.(\w+)", (ROOT / "README.md").read_text())) & models.keys()
    assert {"trades", "ohlcv_1m", "underlying_vwap_1h"} <= named
    assert {models[name].unique_id for name in named} <= exposed


def test_docs_page_contains_every_model(dbt: Project, compiled: dict[str, str]) -> None:
    """The file of `make docs` has models, analyses, exposures, and descriptions and types of columns."""
    dbt.must("docs generate", "--static")
    page = (dbt.scratch / "target" / "static_index.html").read_text()
    for name in ("ohlcv_1h_versions", "underlying_vwap_1h", *ANALYSES, "readme_latest_candles"):
        assert name in page
    assert "Price at half of the volume" in page
    assert "Decimal(38, 12)" in page
