"""Answers of the API equal the database's own, digit by digit, in each format and over all pages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from openapi_spec_validator import validate

from extract.serve.tables import table_columns
from harness import api_columns
from tests.serve.conftest import Market

NAME = "BTC-PERPETUAL"
NEWEST = "underlying = 'BTC' qualify bucket_at = max(bucket_at) over ()"


def get(api: httpx.Client, path: str, **parameters: Any) -> dict[str, Any]:
    answer = api.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pages(api: httpx.Client, path: str, **parameters: Any) -> Iterator[list[dict[str, Any]]]:
    """The items of every page of a list."""
    cursor = None
    while True:
        answer = get(api, path, **parameters, **({"cursor": cursor} if cursor else {}))
        yield answer["items"]
        if (cursor := answer["next_cursor"]) is None:
            return


def as_text(value: Any) -> str | None:
    """A value of an answer as ClickHouse's toString shows it."""
    if value is None or isinstance(value, str):
        return value if value is None or not _is_time(value) else value[:-1].replace("T", " ")
    return str(value).lower()


def _is_time(text: str) -> bool:
    return len(text) >= 20 and text[4] == "-" and text[10] == "T" and text.endswith("Z")


LISTS = [
    # path, table, condition, order
    (f"/v1/instruments/{NAME}/trades", "trades", f"instrument_name = '{NAME}'", "trade_seq"),
    (
        f"/v1/instruments/{NAME}/candles?timeframe=all&level=1m",
        "ohlcv_1m",
        f"instrument_name = '{NAME}'",
        "bucket_at",
    ),
    (
        f"/v1/instruments/{NAME}/candles?timeframe=all&level=4h",
        "ohlcv_4h",
        f"instrument_name = '{NAME}'",
        "bucket_at",
    ),
    (f"/v1/instruments/{NAME}/funding", "funding_1h", f"instrument_name = '{NAME}'", "timestamp"),
    (f"/v1/instruments/{NAME}/funding?level=1d", "funding_1d", f"instrument_name = '{NAME}'", "day"),
    (f"/v1/instruments/{NAME}/settlements", "settlements", f"instrument_name = '{NAME}'", "timestamp, type"),
    (f"/v1/instruments/{NAME}/open-interest", "open_interest_1d", f"instrument_name = '{NAME}'", "day"),
    (
        "/v1/instruments?currency=ETH&kind=option",
        "instruments",
        "underlying = 'ETH' and kind = 'option'",
        "instrument_name",
    ),
    ("/v1/outcomes/BTC", "option_outcomes", "underlying = 'BTC'", "expires_at, instrument_name"),
    ("/v1/volatility/BTC/dvol", "volatility_index_1h", "currency = 'BTC'", "timestamp"),
    ("/v1/deliveries/btc_usd", "delivery_prices", "index_name = 'btc_usd'", "date"),
    ("/v1/volatility/BTC/smile", "iv_smile_1h", NEWEST, "settlement_currency, expiry, delta"),
    ("/v1/volatility/BTC/term-structure", "iv_tenors_1h", NEWEST, "settlement_currency, tenor_days"),
    (
        "/v1/volatility/BTC/chain",
        "option_chain_1h",
        NEWEST,
        "settlement_currency, expiry, strike, option_type",
    ),
]


@pytest.mark.parametrize(("path", "table", "where", "order"), LISTS, ids=[path for path, *_ in LISTS])
def test_list_equals_the_database_in_every_format(
    api: httpx.Client, market: Market, path: str, table: str, where: str, order: str
) -> None:
    """JSON has ClickHouse's text of each value; Arrow, Parquet and CSV have the same rows, columns and types as the view."""
    columns = list(table_columns("ohlcv_1m" if table.startswith("ohlcv") else table))
    sql = f"select * from deribit.{table} where {where} order by {order}"
    expected = market.texts(columns, sql)
    assert expected, "an empty list proves nothing"
    parameters = [*httpx.URL(path).params.multi_items()]
    if "volatility" not in path or "dvol" in path:
        parameters.append(("limit", "10000"))
    answer = api.get(path, params=parameters).json()
    assert answer["next_cursor"] is None
    assert {tuple(item) for item in answer["items"]} == {tuple(columns)}
    assert [[as_text(value) for value in item.values()] for item in answer["items"]] == expected

    # Arrow's own form of a time without a fraction is a number, so the truth is the database's Parquet.
    own = market.user.client.raw_query(
        sql, fmt="Parquet", settings={"output_format_parquet_string_as_string": 1}
    )
    wanted = pa.parquet.read_table(io.BytesIO(own)).to_pylist()
    contents = {
        name: api.get(path, params=[*parameters, ("format", name)]) for name in ("arrow", "parquet", "csv")
    }
    arrow = pa.ipc.open_stream(contents["arrow"].content).read_all()
    parquet = pa.parquet.read_table(io.BytesIO(contents["parquet"].content))
    assert arrow.column_names == parquet.column_names == columns
    assert arrow.to_pylist() == wanted
    assert parquet.to_pylist() == wanted
    lines = list(csv.reader(io.StringIO(contents["csv"].text)))
    assert lines[0] == columns
    assert [[as_text(value) for value in line] for line in lines[1:]] == [
        ["" if value is None else value for value in row] for row in expected
    ]
    assert json.loads(contents["csv"].headers["X-Coverage"]) == answer["coverage"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 97, 10_000])
def test_pages_of_trades_have_each_trade_once(
    api: httpx.Client, market: Market, order: str, limit: int
) -> None:
    """Whatever the size of a page and the order."""
    thin = "select instrument_name from deribit.trades group by 1 having count() between 20 and 40 limit 1"
    name = NAME if limit > 1 else market.value(thin)
    seqs = [
        item["trade_seq"]
        for page in pages(api, f"/v1/instruments/{name}/trades", limit=limit, order=order)
        for item in page
    ]
    expected = market.rows(
        "select trade_seq from deribit.trades where instrument_name = {name:String} order by 1", name=name
    )
    numbers = [row["trade_seq"] for row in expected]
    assert seqs == (numbers if order == "asc" else numbers[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("format", ["arrow", "csv"])
def test_pages_in_other_formats_have_each_trade_once(
    api: httpx.Client, market: Market, format: str, order: str
) -> None:
    """The cursor is a header field, which the last page lacks. A range of time ends in the middle of a page."""
    sixty_percent = (
        "select quantileExact(0.6)(timestamp) as at from deribit.trades where instrument_name = {name:String}"
    )
    [middle] = market.rows(sixty_percent, name=NAME)
    seqs: list[int] = []
    cursor = ""
    while True:
        parameters = {
            "format": format,
            "limit": 301,
            "order": order,
            "until": f"{middle['at']:%FT%T}",
            "cursor": cursor,
        }
        parameters = {name: value for name, value in parameters.items() if value}
        answer = api.get(f"/v1/instruments/{NAME}/trades", params=parameters)
        seqs += (
            pa.ipc.open_stream(answer.content).read_all()["trade_seq"].to_pylist()
            if format == "arrow"
            else [int(row["trade_seq"]) for row in csv.DictReader(answer.text.splitlines())]
        )
        if not (cursor := answer.headers.get("X-Next-Cursor", "")):
            break
    expected = market.rows(
        f"select trade_seq from deribit.trades where instrument_name = '{NAME}' "
        f"and timestamp < '{middle['at']:%F %T}' order by trade_seq {order}"
    )
    assert seqs == [row["trade_seq"] for row in expected]
    assert len(seqs) > 301


def test_range_and_flags_select_trades(api: httpx.Client, market: Market) -> None:
    """`since` is included, `until` is not; flags combine."""
    bounds_of = "toString(quantileExact(0.3)(timestamp)) as a, toString(quantileExact(0.6)(timestamp)) as b"
    [row] = market.rows(f"select {bounds_of} from deribit.trades where instrument_name = '{NAME}'")
    since, until = row.values()
    condition = f"instrument_name = '{NAME}' and timestamp >= '{since}' and timestamp < '{until}'"
    bounds = {"since": since.replace(" ", "T") + "Z", "until": until.replace(" ", "T") + "Z"}
    for flags in (
        {},
        {"is_liquidation": "true"},
        {"is_block": "false"},
        {"is_book": "true", "is_liquidation": "false"},
    ):
        sql = " and ".join([condition, *(f"{name} = {value}" for name, value in flags.items())])
        expected = market.rows(f"select trade_seq from deribit.trades where {sql} order by 1")
        selected = pages(api, f"/v1/instruments/{NAME}/trades", limit=50, **bounds, **flags)
        numbers = [item["trade_seq"] for page in selected for item in page]
        assert numbers == [row["trade_seq"] for row in expected], flags
        assert expected or flags


@pytest.mark.slow
def test_pages_of_candles_have_each_bucket_once(api: httpx.Client, market: Market) -> None:
    times = [
        item["bucket_at"]
        for page in pages(
            api, f"/v1/instruments/{NAME}/candles", timeframe="all", level="15m", limit=13, order="desc"
        )
        for item in page
    ]
    sql = f"select toString(bucket_at) as t from deribit.ohlcv_15m where instrument_name = '{NAME}' order by 1 desc"
    assert [as_text(time) for time in times] == [row["t"] for row in market.rows(sql)]


def test_price_equals_the_table_and_batch_has_it_in_order(api: httpx.Client, market: Market) -> None:
    """A repeated name is answered each time, unknown and expired ones are listed."""
    columns = list(table_columns("current_prices"))
    expected = market.texts(columns, "select * from deribit.current_prices order by instrument_name")
    names = [row[0] for row in expected]
    for row in expected[:5]:
        price = get(api, f"/v1/instruments/{row[0]}/price")
        coverage = price.pop("coverage")
        assert [as_text(value) for value in price.values()] == row
        assert coverage["missing"] == 0
    asked = [names[3], "NO-SUCH", names[0], names[3]]
    answer = api.post("/v1/prices/batch", json={"instruments": asked})
    assert answer.status_code == 200
    body = answer.json()
    assert [item["instrument_name"] for item in body["items"]] == [names[3], names[0], names[3]]
    assert body["not_found"] == ["NO-SUCH"]
    assert body["next_cursor"] is None


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"instruments": []}, 400, "invalid_body"),
        ({"instruments": ["X"] * 101}, 400, "invalid_body"),
        ({"instruments": [1]}, 400, "invalid_body"),
        ({"names": ["X"]}, 400, "invalid_body"),
        ({"instruments": ["X" * 60_000]}, 413, "too_large"),
    ],
)
def test_wrong_batches_are_refused(api: httpx.Client, body: Any, status: int, code: str) -> None:
    answer = api.post("/v1/prices/batch", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_batch_has_to_be_json(api: httpx.Client) -> None:
    """A page of another site can send a form, or text, without being allowed to."""
    answer = api.post(
        "/v1/prices/batch", content='{"instruments": ["X"]}', headers={"Content-Type": "text/plain"}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert api.post("/v1/prices/batch", json={"instruments": ["X"] * 100}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/nothing", 404, "not_found"),
        ("/v1/instruments/NO-SUCH", 404, "unknown_instrument"),
        ("/v1/instruments/NO-SUCH/trades", 404, "unknown_instrument"),
        ("/v1/instruments/NO-SUCH/price", 404, "unknown_instrument"),
        (f"/v1/instruments/{NAME}/outcome", 404, "no_outcome"),
        ("/v1/volatility/NOCOIN/smile", 404, "unknown_currency"),
        ("/v1/deliveries/no_index", 404, "unknown_index"),
        ("/v1/prices/batch", 405, "method_not_allowed"),
        (f"/v1/instruments/{NAME}/trades?limt=5", 400, "unknown_parameter"),
        (f"/v1/instruments/{NAME}/trades?limit=5&limit=6", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?limit=0", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?limit=10001", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?since=yesterday", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?since=2026-01-02&until=2026-01-01", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?order=up", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?format=xml", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/trades?cursor=abc", 400, "invalid_cursor"),
        (f"/v1/instruments/{NAME}/candles?level=2m", 400, "invalid_parameter"),
        (f"/v1/instruments/{NAME}/candles?timeframe=1h&since=2026-01-01", 400, "invalid_parameter"),
        ("/v1/coverage?since=2016-01-01&until=2026-01-01", 400, "invalid_parameter"),
        ("/v1/gaps?day=2026-13-01", 400, "invalid_parameter"),
        ("/v1/gaps?day=2026-01-01&since=2026-01-01", 400, "invalid_parameter"),
        ("/health?x=1", 400, "unknown_parameter"),
    ],
)
def test_mistakes_have_one_shape(api: httpx.Client, path: str, status: int, code: str) -> None:
    """A status, a code and a sentence; never a list, a traceback or a page."""
    answer = api.get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json().keys() == {"code", "message"}
    assert answer.json()["code"] == code


def test_misspelt_parameter_is_named(api: httpx.Client) -> None:
    assert "did you mean 'limit'?" in api.get(f"/v1/instruments/{NAME}/trades?limt=5").json()["message"]


def test_cursor_belongs_to_its_question(api: httpx.Client) -> None:
    """With other parameters it is refused; with another limit or format it is not."""
    path = f"/v1/instruments/{NAME}/trades"
    cursor = get(api, path, limit=5)["next_cursor"]
    assert api.get(path, params={"cursor": cursor, "limit": 7, "format": "csv"}).status_code == 200
    for parameters in ({"order": "desc"}, {"since": "2026-01-01"}):
        answer = api.get(path, params={"cursor": cursor, **parameters})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("accept", ["text/html", "image/png"])
def test_format_that_does_not_exist_is_not_acceptable(api: httpx.Client, accept: str) -> None:
    for path in (f"/v1/instruments/{NAME}/trades", "/v1/backfill/status"):
        assert api.get(path, headers={"Accept": accept}).status_code == 406


def test_accept_chooses_the_format(api: httpx.Client) -> None:
    """By its quality; a wildcard is JSON."""
    path = f"/v1/instruments/{NAME}/trades?limit=3"
    accepts = {
        "text/csv": "text/csv; charset=utf-8",
        "*/*": "application/json",
        "application/json;q=0.1, application/vnd.apache.parquet": "application/vnd.apache.parquet",
        "application/vnd.apache.arrow.stream, */*;q=0.1": "application/vnd.apache.arrow.stream",
    }
    for accept, media_type in accepts.items():
        assert api.get(path, headers={"Accept": accept}).headers["Content-Type"] == media_type


@pytest.mark.parametrize("path", [f"/v1/instruments/{NAME}/trades?limit=3", f"/v1/instruments/{NAME}/price", "/openapi.json",
                                  f"/v1/instruments/{NAME}/trades?limit=3&format=csv", "/v1/gaps"])  # fmt: skip
def test_unchanged_answer_is_not_sent_again(api: httpx.Client, path: str) -> None:
    first = api.get(path)
    again = api.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_status_equals_the_table(api: httpx.Client, market: Market) -> None:
    """Every column of backfill_progress by stream, and a summary that the least advanced stream decides."""
    status = get(api, "/v1/backfill/status")
    columns = [name for name in table_columns("backfill_progress") if name not in ("percent", "proven_share")]
    expected = market.texts(columns, "select * from deribit.backfill_progress order by currency, kind")
    assert [[as_text(item[name]) for name in columns] for item in status["items"]] == expected
    percents = market.rows("select percent from deribit.backfill_progress order by currency, kind")
    assert [item["percent"] for item in status["items"]] == [row["percent"] for row in percents]
    assert status["trades"] == sum(item["trades"] for item in status["items"]) == 4_000
    assert status["missing"] == 0
    assert 0 < status["percent"] <= 100
    assert status["current"] == min(item["current"] for item in status["items"])


def test_metrics_count_requests_and_show_streams(api: httpx.Client) -> None:
    api.get("/v1/nothing")
    text = api.get("/metrics").text
    assert 'tape_trades{currency="BTC",kind="future"}' in text
    assert 'tape_requests_total{route="other",status="404"}' in text
    assert "tape_query_seconds_count" in text


def test_health_lines_are_those_of_the_checks(api: httpx.Client) -> None:
    """With the rights of a reader."""
    checks = {item["check"]: item for item in get(api, "/v1/health")["items"]}
    assert checks["gaps"]["state"] == "ok"
    assert checks["marts"]["state"] == "ok"
    assert get(api, "/health")["status"] == "ok"


def test_document_is_valid_and_has_every_route(api: httpx.Client) -> None:
    """Each documented route answers, and each route of the API is documented."""
    document = api.get("/openapi.json").json()
    validate(document)
    examples = {"{name}": NAME, "{currency}": "BTC", "{index}": "btc_usd"}
    for path, operations in document["paths"].items():
        concrete = path
        for name, value in examples.items():
            concrete = concrete.replace(name, value)
        for method, operation in operations.items():
            answer = api.request(method, concrete, json={"instruments": [NAME]} if method == "post" else None)
            assert str(answer.status_code) in operation["responses"], (path, answer.text)
            assert answer.status_code == 200 or "outcome" in path, (path, answer.text)
    reference = api.get("/docs").text
    assert all(path in reference for path in document["paths"])
    assert "://" not in reference.replace("http://www.w3.org", "")


def test_columns_are_those_of_the_models() -> None:
    """tables.toml is what `python -m harness.api_columns` writes."""
    assert api_columns.PATH.read_text() == api_columns.rendered(), "run: python -m harness.api_columns"


def test_columns_are_those_of_the_tables(market: Market) -> None:
    """Names, order and types of the tables in the database."""
    for table in api_columns.TABLES:
        rows = market.rows(
            "select name, type from system.columns where database = 'deribit' and table = {t:String} order by position",
            t=table,
        )
        expected = [(row["name"], api_columns.answer_type(row["type"])) for row in rows]
        assert [(name, column[0]) for name, column in table_columns(table).items()] == expected, table
