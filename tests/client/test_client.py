"""The Python client on ClickHouse and on the HTTP API: the same answers, equal to the tables and to what was loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import deribit_tape
import httpx
import polars as pl
import pyarrow as pa
import pytest
from deribit_tape import CannotTellError, OutsideError, Tape, UsageError

from extract.clickhouse.settings import ClickHouseSettings
from extract.client import api
from extract.client.api import ApiBackend
from extract.client.database import ClickHouseBackend
from extract.serve.keys import KeyRing
from tests.support.api import running_api
from tests.support.candle_truth import volume_and_notional
from tests.support.market import Market

PERPETUAL = "BTC-PERPETUAL"
KEY = "k" * 40
PAGE_ROWS = 100
AT = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def in_database(market: Market) -> Tape:
    return Tape(ClickHouseBackend(market.database))


class CountingTransport(httpx.HTTPTransport):
    """The network; counts requests."""

    requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return super().handle_request(request)


@pytest.fixture(scope="module")
def address(market: Market, reader_login: ClickHouseSettings) -> Iterator[str]:
    """URL of the API, which requires KEY."""
    ring = KeyRing({"alice": KEY}, rate=1_000)
    with running_api(reader_login, keys=ring, is_loopback=False) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def network() -> CountingTransport:
    return CountingTransport()


@pytest.fixture(scope="module")
def over_http(address: str, network: CountingTransport) -> Iterator[Tape]:
    """A client of the API, which requests pages of PAGE_ROWS."""
    with pytest.MonkeyPatch.context() as patch, Tape(ApiBackend(address, KEY, transport=network)) as tape:
        patch.setattr(api, "MOST_ROWS", PAGE_ROWS)
        yield tape


@pytest.fixture(params=["in_database", "over_http"])
def tape(request: pytest.FixtureRequest) -> Tape:
    tape: Tape = request.getfixturevalue(request.param)
    return tape


def test_trades_are_those_that_were_loaded(tape: Tape, market: Market) -> None:
    """Each column to its last digit; times are aware; more rows than a page of the API."""
    own = sorted(
        (trade for trade in market.trades if trade["instrument_name"] == PERPETUAL),
        key=lambda t: t["trade_seq"],
    )
    assert len(own) > PAGE_ROWS
    rows = tape.trades(PERPETUAL, since="all").arrow(decimals=True).to_pylist()
    assert [(r["trade_seq"], r["trade_id"], r["price"], r["amount"], r["direction"]) for r in rows] == [
        (t["trade_seq"], t["trade_id"], t["price"], t["amount"], t["direction"]) for t in own
    ]
    assert [(row["volume"], row["notional"]) for row in rows] == [volume_and_notional(trade) for trade in own]
    assert [row["timestamp"] for row in rows] == [
        datetime.fromtimestamp(trade["timestamp"] / 1000, UTC) for trade in own
    ]
    assert rows[0]["timestamp"].utcoffset() is not None


def test_times_and_limits_bound_the_trades(tape: Tape, market: Market) -> None:
    """`since` is included, `until` excluded; a limit selects the newest of each instrument, in ascending order."""
    names = [PERPETUAL, "ETH-PERPETUAL"]
    own = sorted(
        (t["instrument_name"], t["trade_seq"], t["timestamp"])
        for t in market.trades
        if t["instrument_name"] in names
    )
    first, last = sorted(at for *_, at in own)[len(own) // 4], sorted(at for *_, at in own)[len(own) // 2]
    since, until = (datetime.fromtimestamp(at / 1000, UTC) for at in (first, last))
    rows = tape.trades(names, since=since, until=until).arrow().select(["instrument_name", "trade_seq"])
    assert list(zip(*rows.to_pydict().values(), strict=True)) == [
        (name, seq) for name, seq, at in own if first <= at < last
    ]
    newest = tape.trades(names, limit=3).arrow().to_pydict()
    expected = [seq for name in names for seq in [seq for other, seq, _ in own if other == name][-3:]]
    assert newest["trade_seq"] == expected


QUESTIONS: dict[str, tuple[Callable[[Tape], deribit_tape.Result], str]] = {
    "candles": (
        lambda tape: tape.candles(
            [PERPETUAL, "ETH-PERPETUAL"], "1h", since="2026-01-01", until=date(2026, 1, 10)
        ),
        "ohlcv_1h where instrument_name in ('BTC-PERPETUAL', 'ETH-PERPETUAL') "
        "and bucket_at >= '2026-01-01' and bucket_at < '2026-01-10' order by instrument_name, bucket_at",
    ),
    "instruments": (
        lambda tape: tape.instruments("ETH", "future"),
        "instruments where underlying = 'ETH' and kind = 'future' order by instrument_name",
    ),
    "option_chain": (
        lambda tape: tape.option_chain("BTC", AT),
        "option_chain_1h where underlying = 'BTC' and bucket_at = '2026-01-15 12:00:00' "
        "order by settlement_currency, expiry, strike, option_type",
    ),
    "smile": (
        lambda tape: tape.smile("BTC"),
        "iv_smile_1h where underlying = 'BTC' and bucket_at = "
        "(select max(bucket_at) from deribit.iv_smile_1h where underlying = 'BTC') "
        "order by settlement_currency, expiry, delta",
    ),
    "term_structure": (
        lambda tape: tape.term_structure("BTC"),
        "iv_tenors_1h where underlying = 'BTC' and bucket_at = "
        "(select max(bucket_at) from deribit.iv_tenors_1h where underlying = 'BTC') "
        "order by settlement_currency, tenor_days",
    ),
    "funding": (
        lambda tape: tape.funding(PERPETUAL, since="2026-01-08", until="2026-01-09"),
        "funding_1h where instrument_name = 'BTC-PERPETUAL' and toDate(timestamp) = '2026-01-08' order by timestamp",
    ),
    "funding of days": (
        lambda tape: tape.funding(PERPETUAL, "1d", since="all"),
        "funding_1d where instrument_name = 'BTC-PERPETUAL' order by day",
    ),
    "settlements": (
        lambda tape: tape.settlements(PERPETUAL, since="2026-01-07"),
        "settlements where instrument_name = 'BTC-PERPETUAL' and timestamp >= '2026-01-07' order by timestamp",
    ),
    "outcomes": (
        lambda tape: tape.outcomes("BTC", since="2025-12-20"),
        "option_outcomes where underlying = 'BTC' and expires_at >= '2025-12-20' order by expires_at, instrument_name",
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_equal_the_tables(tape: Tape, market: Market, question: str) -> None:
    """Same columns, same rows, same digits, in the documented order."""
    ask, relation = QUESTIONS[question]
    result = ask(tape)
    table = result.arrow(decimals=True)
    truth = market.dbt.client.query(f"select * from deribit.{relation}")
    assert truth.row_count, "the market has no rows for this question"
    assert table.column_names == list(truth.column_names)
    rows = [as_text(row.values()) for row in table.to_pylist()]
    assert rows == [as_text(row) for row in truth.result_rows]
    assert len(market.dbt.client.query(result.sql()).result_rows) == len(rows)


def as_text(values: Any) -> list[str]:
    """Values with all digits; times without their zone, which is UTC."""
    return [str(value).removesuffix("+00:00") for value in values]


def test_data_frames_have_aware_times_and_floats_or_decimals(tape: Tape) -> None:
    candles = tape.candles(PERPETUAL, "1d", since="2026-01-01")
    frame = candles.df()
    assert str(frame.index.dtype) == "datetime64[ms, UTC]"
    assert (frame.index.name, frame["volume"].dtype) == ("bucket_at", float)
    assert isinstance(candles.df(decimals=True)["volume"].iloc[0], Decimal)
    schema = candles.pl().schema
    assert schema["bucket_at"] == pl.Datetime("ms", "UTC")
    assert schema["volume"] == pl.Float64
    assert candles.pl(decimals=True).schema["volume"] == pl.Decimal(38, 12)
    assert tape.funding(PERPETUAL, "1d", since="all").pl().schema["day"] == pl.Date
    trades = tape.trades(PERPETUAL, limit=1).arrow().schema
    assert trades.field("is_block").type == pa.bool_()
    assert trades.field("kind").type == pa.string()


@pytest.mark.slow
def test_panel_has_a_column_per_instrument(tape: Tape) -> None:
    """The closes of the candles; null where there was no trade, or the value before it."""
    names = [PERPETUAL, "ETH-PERPETUAL"]
    closes: dict[datetime, dict[str, float]] = {}
    for row in tape.candles(names, "4h", since="2026-01-10").arrow().to_pylist():
        closes.setdefault(row["bucket_at"], {})[row["instrument_name"]] = row["close"]
    rows = tape.panel(names, "4h", since="2026-01-10").arrow().to_pylist()
    assert rows == [
        {"bucket_at": at} | {name: closes[at].get(name) for name in names} for at in sorted(closes)
    ]
    filled = tape.panel(names, "4h", since="2026-01-10", fill=True).df()
    assert list(filled.columns) == names
    assert not filled[PERPETUAL].iloc[5:].isna().any()
    with pytest.raises(UsageError, match="no column 'mid'"):
        tape.panel(names, since="2026-01-10", column="mid").arrow()


# What is proven


@pytest.mark.slow
def test_coverage_counts_gaps_of_the_requested_time(tape: Tape, market: Market) -> None:
    """One trade is missing and one absent; before both, everything is proven."""
    whole = tape.trades(PERPETUAL, since="all").coverage
    assert (whole.proven, whole.missing, whole.absent) == (False, 1, 1)
    assert whole.as_of == datetime(2199, 1, 1, tzinfo=UTC)
    own = sorted(t["timestamp"] for t in market.trades if t["instrument_name"] == PERPETUAL)
    before = datetime.fromtimestamp(own[5] / 1000, UTC)
    early = tape.candles(PERPETUAL, since="2025-12-07", until=before).coverage
    assert (early.proven, early.missing, early.absent) == (True, 0, 0)
    assert tape.trades("ETH-PERPETUAL", since="30d").coverage.proven
    streams = tape.coverage().arrow().to_pylist()
    btc = next(row for row in streams if (row["currency"], row["kind"]) == ("BTC", "future"))
    assert (btc["missing"], btc["absent"], btc["covered_to"].year) == (1, 1, 2199)
    gaps = tape.gaps(instrument=PERPETUAL).arrow().to_pylist()
    assert [(gap["first_missing_seq"], gap["known_absent"]) for gap in gaps] == sorted(
        [(market.missing["trade_seq"], False), (market.absent["trade_seq"], True)]
    )


def test_candles_of_all_time_are_all(tape: Tape, market: Market) -> None:
    """The API's own default would be the newest 1,500 buckets."""
    minutes = {t["timestamp"] // 60_000 for t in market.trades if t["instrument_name"] == PERPETUAL}
    buckets = tape.candles(PERPETUAL, "1m", since="all").arrow()["bucket_at"].to_pylist()
    assert {round(at.timestamp()) // 60 for at in buckets} == minutes
    assert len(buckets) == len(minutes)


@pytest.mark.slow
def test_time_that_was_not_loaded_is_not_proven(tape: Tape) -> None:
    """The covered time begins with 2016."""
    for since in ("all", "2015-01-01"):
        assert not tape.trades(PERPETUAL, since=since, until="2015-06-01").coverage.proven
    assert not tape.trades(PERPETUAL, since="2015-06-01", until="2016-06-01").coverage.proven
    assert tape.trades(PERPETUAL, since="2016-01-01", until="2016-06-01").coverage.proven


@pytest.mark.slow
def test_whole_last_candle_is_proven(tape: Tape, market: Market) -> None:
    """A trade is missing after `until`, but in the last candle."""
    missing_ms = market.missing["timestamp"]
    day = datetime.fromtimestamp(missing_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    until = day + timedelta(minutes=1)
    assert tape.candles(PERPETUAL, "1d", since=day, until=until).coverage.missing == 1
    assert tape.candles(PERPETUAL, "1m", since=day, until=until).coverage.missing == 0


def test_nothing_is_proven_without_coverage(in_database: Tape) -> None:
    """As of series, which have no coverage here."""
    assert not in_database.funding(PERPETUAL, since="all").coverage.proven


# What is refused, and when requests are sent


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda tape: tape.trades(PERPETUAL), "since='7d'"),
        (lambda tape: tape.candles(PERPETUAL, "2h", since="7d"), "choose of 1m, 15m"),
        (lambda tape: tape.funding(PERPETUAL), "since='all'"),
        (lambda tape: tape.trades([], since="7d"), r"tape\.instruments"),
        (lambda tape: tape.trades(PERPETUAL, since=datetime(2026, 1, 1)), "no time zone"),
        (lambda tape: tape.trades(PERPETUAL, since="soon"), "not a time"),
        (lambda tape: tape.trades(PERPETUAL, since="1d", until="2d"), "not before"),
        (lambda tape: tape.trades(PERPETUAL, limit=0), "at least 1"),
        (lambda tape: deribit_tape.connect("localhost:8123"), "address of `tape serve`"),
    ],
)
def test_mistakes_are_refused_with_a_correction(
    in_database: Tape, ask: Callable[[Tape], object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ask(in_database)


@pytest.mark.parametrize(
    "ask",
    [
        lambda tape: tape.trades("NO-SUCH", since="30d"),
        lambda tape: tape.trades([PERPETUAL, "NO-SUCH"], since="all"),
        lambda tape: tape.panel([PERPETUAL, "NO-SUCH"], since="all"),
        lambda tape: tape.candles("NO-SUCH", limit=1),
        lambda tape: tape.funding("NO-SUCH", since="all"),
        lambda tape: tape.settlements("NO-SUCH", since="all"),
        lambda tape: tape.gaps(instrument="NO-SUCH"),
        lambda tape: tape.outcomes("XYZ", since="all"),
        lambda tape: tape.option_chain("XYZ"),
        lambda tape: tape.smile("XYZ"),
    ],
)
@pytest.mark.parametrize("part", ["rows", "proof"])
def test_unknown_name_is_refused(tape: Tape, ask: Callable[[Tape], Any], part: str) -> None:
    """Rows of a mistyped name would be none, and those of the other names would be proven."""
    with pytest.raises(UsageError, match=r"called 'NO-SUCH'|'XYZ' is no underlying; there are BTC"):
        _ = ask(tape).arrow() if part == "rows" else ask(tape).coverage


def test_nothing_is_requested_before_it_is_needed(over_http: Tape, network: CountingTransport) -> None:
    """One request for rows, however often they are used."""
    before = network.requests
    result = over_http.trades(PERPETUAL, limit=5)
    assert "deribit.trades" in result.sql()
    assert network.requests == before
    assert len(result) == len(result.pl()) == len(result.df()) == 5
    assert result.coverage.as_of
    assert network.requests == before + 1


def test_errors_of_the_api_are_sentences(over_http: Tape, address: str) -> None:
    with pytest.raises(UsageError, match=r"NO-SUCH"):
        over_http.trades("NO-SUCH", limit=1).pl()
    with deribit_tape.connect(address, key="wrong") as tape, pytest.raises(UsageError, match="key="):
        tape.trades(PERPETUAL, limit=1).pl()
    with pytest.raises(OutsideError, match="tape serve"):
        deribit_tape.connect("http://127.0.0.1:1").trades(PERPETUAL, limit=1).pl()


def test_missing_library_is_named(in_database: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in (("polars", "pl"), ("pandas", "df")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=rf"pip install 'deribit-tape\[{name}\]'"):
            getattr(in_database.trades(PERPETUAL, limit=1), method)()


def test_client_is_light_and_typed() -> None:
    """The import loads no data frame library and no driver, and type checkers read its types."""
    program = (
        "import sys, deribit_tape; print(sorted({'polars', 'pandas', 'duckdb', 'dlt', 'clickhouse_connect', 'httpx'}"
        " & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"
    assert deribit_tape.__file__
    assert (Path(deribit_tape.__file__).parent / "py.typed").exists()


def test_models_that_are_not_built_are_named(in_database: Tape, market: Market) -> None:
    client = market.dbt.client
    client.command("rename table deribit.ohlcv_1w to deribit.hidden")
    try:
        with pytest.raises(CannotTellError, match="dbt build"):
            in_database.candles(PERPETUAL, "1w", since="all").arrow()
    finally:
        client.command("rename table deribit.hidden to deribit.ohlcv_1w")
