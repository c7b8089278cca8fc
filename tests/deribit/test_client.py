"""The client adapts its page size, retries what may succeed, and never shows a password."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, deribit_config
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.rate_limit import RateLimiter
from extract.errors import FinalError, RetriableError, UsageError
from extract.retry import Retrier, RetryPolicy
from tests.support.contradictory_exchange import client_of, page

METHOD = "get_last_trades_by_currency"


def refuse(**data: Any) -> httpx.Response:
    error = {"code": -32602, "message": "Invalid params", "data": data}
    return httpx.Response(400, json={"error": error})


@pytest.mark.parametrize("data", [{"param": "count", "reason": "too high"}, {}])
def test_page_size_is_reduced_after_a_rejection(data: dict[str, str]) -> None:
    """After rejecting a count of 10,000, with or without a reason, a host gets requests of 1,000."""
    counts: list[int] = []

    def answer(_: str, params: dict[str, str]) -> Any:
        counts.append(int(params["count"]))
        return refuse(**data) if counts[-1] > 1_000 else page([])

    with client_of(answer) as client:
        assert client.trades(client.history, METHOD, {}).count == 1_000
        client.trades(client.history, METHOD, {})
        assert client.page_size(client.history) == 1_000
    assert counts == [10_000, 1_000, 1_000]


def test_rejection_of_another_parameter_leaves_the_page_size() -> None:
    with (
        client_of(lambda method, params: refuse(param="currency", reason="invalid")) as client,
        pytest.raises(ExchangeRefusedError, match="currency, invalid"),
    ):
        client.trades(client.history, METHOD, {})
    assert client.page_size(client.history) == 10_000
    assert client.stats.requests == 1


def test_requests_always_have_a_count() -> None:
    """Without a count an answer has only ten trades."""
    with client_of(lambda method, params: page([]) if params["count"] == "1000" else {}) as client:
        assert client.trades(client.live, METHOD, {}).rows == 0


@pytest.mark.parametrize(
    "bad",
    [
        httpx.Response(200, text="<html>Please wait</html>"),
        httpx.Response(200, content=b'{"result": {"trades": ['),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, json={"result": {"trades": "none"}}),
        httpx.Response(200, json={"result": 17}),
        httpx.Response(200, json={}),
        httpx.Response(503),
    ],
)
def test_failed_request_is_never_an_empty_page(bad: httpx.Response) -> None:
    """It is retried; if no attempt succeeds, it is an error."""
    answers = iter([bad, bad, page([])])
    with client_of(lambda method, params: next(answers)) as client:
        assert client.trades(client.history, METHOD, {}).rows == 0
        assert (client.stats.requests, client.stats.retries) == (3, 2)
    with (
        client_of(lambda method, params: bad) as client,
        pytest.raises(RetriableError, match="tried 4 times"),
    ):
        client.trades(client.history, METHOD, {})


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "cut", "html", "error200", "429", "10028"])
def test_network_faults_are_retried(small_tape: Any, start_exchange: Any, fault: str) -> None:
    """Connection resets and truncated bodies on a real socket."""
    exchange = start_exchange(small_tape, faults=f"1-2:{fault},retry_after=0.001")
    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url)
    retrier = Retrier(RetryPolicy(attempts=5, first_s=0.001))
    with DeribitClient(config, retrier=retrier) as client:
        assert client.now_ms() == exchange.now_ms
        assert client.stats.retries == 2


def test_body_that_cannot_be_decompressed_is_retried() -> None:
    bad = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))
    answers = iter([bad, page([])])
    with client_of(lambda method, params: next(answers)) as client:
        assert client.trades(client.history, METHOD, {}).rows == 0


def test_impatient_client_waits_less_for_an_answer() -> None:
    """Never longer than it is configured to."""
    waits: list[float] = []

    def handle(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={"result": []})

    config = DeribitConfig(timeout_s=20.0)
    with DeribitClient(config, transport=httpx.MockTransport(handle)) as client:
        for each in (client, client.with_retries(0, timeout_s=10), client.with_retries(0, timeout_s=60)):
            assert list(each.currencies()) == []
    assert waits == [20, 10, 20]


def test_no_message_shows_a_password() -> None:
    """Credentials in an address are sent, and never shown."""
    seen: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        raise httpx.ConnectError("refused")

    config = DeribitConfig(api_url="http://me:s3cret@live.test/api?key=s3cret", history_url="http://old.test")
    client = DeribitClient(
        config,
        transport=httpx.MockTransport(handle),
        retrier=Retrier(RetryPolicy(attempts=1)),
        limiter=RateLimiter(1e6),
    )
    with pytest.raises(RetriableError, match=r"http://live\.test/api") as caught:
        client.now_ms()
    assert seen[0].startswith("Basic ")
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {client.live!r}"


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://[::1", "s3cret"])
def test_malformed_address_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match=r"\[sources.deribit\]") as caught:
        DeribitClient(deribit_config(api_url=address))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", [{"page_size": 1}, {"requests_in_flight": 0}, {"window_trades": 0}, {"timeout_s": 0.0}]
)
def test_invalid_setting_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        deribit_config(**setting)


def test_cancel_ends_the_wait_between_retries() -> None:
    """A thread that waits for an hour raises at once."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    config = DeribitConfig(api_url=url, history_url=url)
    caught: list[BaseException] = []
    policy = RetryPolicy(first_s=3_600.0, longest_s=3_600.0, total_s=1e6)
    with DeribitClient(config, policy=policy) as client:

        def ask() -> None:
            try:
                client.trades(client.history, METHOD, {})
            except FinalError as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not client.stats.retries:
            thread.join(0.01)
        client.cancel()
        thread.join(10)
        assert not thread.is_alive()
    assert "cancelled" in str(caught[0])


def test_client_with_fewer_retries_shares_everything_else() -> None:
    """Its requests give up earlier, are counted together, and are cancelled together."""
    config = DeribitConfig(api_url="http://live.test/api", history_url="http://old.test/api")
    transport = httpx.MockTransport(lambda request: httpx.Response(503))
    with DeribitClient(config, transport=transport, limiter=RateLimiter(1e6)) as client:
        hasty = client.with_retries(0.0)
        with pytest.raises(RetriableError, match="tried 1 time"):
            hasty.result(hasty.live, "get_currencies")
        assert client.stats.requests == 1
        client.cancel()
        assert hasty.is_cancelled
