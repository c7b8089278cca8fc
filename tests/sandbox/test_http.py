"""HTTP of the sandbox: errors, connections, other verbs and paths, its port."""

from __future__ import annotations

import http.client

import httpx
import pytest

from extract.errors import FinalError
from extract.sandbox.server import SandboxExchange
from tests.support.crawler import CLIENT, get

BY_CURRENCY = "get_last_trades_by_currency"
BY_TIME = "get_last_trades_by_currency_and_time"
BY_INSTRUMENT = "get_last_trades_by_instrument"
PERP = "BTC-PERPETUAL"


@pytest.mark.parametrize(
    ("ask", "code", "reason", "param"),
    [
        ("nope", -32601, None, None),
        (BY_CURRENCY, -32602, "value is required", "currency"),
        (f"{BY_CURRENCY}?currency=NOPE", -32602, "invalid currency", "currency"),
        (f"{BY_CURRENCY}?currency=BTC&kind=nope", -32602, "wrong format", "kind"),
        (f"{BY_CURRENCY}?currency=BTC&sorting=up", -32602, "wrong format", "sorting"),
        (f"{BY_CURRENCY}?currency=BTC&count=ten", -32602, "wrong format", "count"),
        (f"{BY_CURRENCY}?currency=BTC&count=0", -32602, "value is too low", "count"),
        (f"{BY_TIME}?currency=BTC&start_timestamp=0", -32602, "value is required", "end_timestamp"),
        (f"{BY_INSTRUMENT}?instrument_name=BTC-1JAN20", -32602, "instrument not found", "instrument_name"),
        (f"{BY_INSTRUMENT}?instrument_name={PERP}&start_seq=1.5", -32602, "wrong format", "start_seq"),
        ("get_instrument", -32602, "value is required", "instrument_name"),
        ("get_instruments?currency=BTC&kind=combo", -32602, "wrong format", "kind"),
        ("get_instruments?currency=BTC&expired=maybe", -32602, "wrong format", "expired"),
        ("test?expected_result=exception", 11050, None, None),
    ],
)
def test_errors_are_http_400_with_a_json_body(exchange, ask, code, reason, param):
    """Each error has Deribit's code, reason and parameter."""
    answer = CLIENT.get(f"{exchange.url}/public/{ask}")
    assert answer.status_code == 400
    assert answer.json().keys() == {"jsonrpc", "error", "usIn", "usOut", "usDiff", "testnet"}
    error = answer.json()["error"]
    assert error["code"] == code
    assert error.get("data") == ({"reason": reason, "param": param} if reason else None)


def test_one_connection_serves_many_requests(exchange):
    """Keep-alive, on one socket; a name with a plus sign survives quoting."""
    with httpx.Client(base_url=exchange.url, timeout=60) as client:
        for _ in range(3):
            assert client.get("/public/test").json()["result"]["version"]
        answer = client.get("/public/get_instrument", params={"instrument_name": "SOL_USDC-WEEK+1"})
    assert answer.json()["result"]["kind"] == "future"
    connection = http.client.HTTPConnection("127.0.0.1", exchange.port, timeout=60)
    sockets = set()
    for _ in range(3):
        connection.request("GET", "/api/v2/public/get_time")
        assert connection.getresponse().read()
        sockets.add(connection.sock)
    connection.close()
    assert len(sockets) == 1


def test_other_verbs_and_paths_are_rejected(exchange):
    """Other verbs get 405 and other paths 404."""
    assert CLIENT.post(f"{exchange.url}/public/get_time", json={}).status_code == 405
    assert CLIENT.get(f"http://127.0.0.1:{exchange.port}/").status_code == 404


def test_port_in_use_is_reported_and_stop_frees_the_port(small_tape):
    """`stop` can be called twice."""
    with (
        SandboxExchange(small_tape) as first,
        pytest.raises(FinalError, match=f"Port {first.port} is in use"),
    ):
        SandboxExchange(small_tape, port=first.port).start()
    first.stop()
    with SandboxExchange(small_tape, port=first.port) as second:
        assert get(second, "get_time") == second.now_ms
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{second.url}/public/get_time", timeout=60)
