"""The client: what it learns, what it tries again, and what it never says."""

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


@pytest.mark.parametrize("told", [{"param": "count", "reason": "too high"}, {}])
def test_the_page_size_is_learned_from_a_refusal(told: dict[str, str]) -> None:
    """A host that refuses a count of 10,000 is asked for 1,000 from then on, whether it says why or not."""
    asked: list[int] = []

    def answer(_: str, params: dict[str, str]) -> Any:
        asked.append(int(params["count"]))
        return refuse(**told) if asked[-1] > 1_000 else page([])

    with client_of(answer) as client:
        assert client.trades(client.history, METHOD, {}).count == 1_000
        client.trades(client.history, METHOD, {})
        assert client.page_size(client.history) == 1_000
    assert asked == [10_000, 1_000, 1_000]


def test_another_refused_parameter_is_not_taken_for_the_count() -> None:
    with (
        client_of(lambda method, params: refuse(param="currency", reason="invalid")) as client,
        pytest.raises(ExchangeRefusedError, match="currency, invalid"),
    ):
        client.trades(client.history, METHOD, {})
    assert client.page_size(client.history) == 10_000
    assert client.stats.requests == 1


def test_a_count_is_always_stated() -> None:
    """Leaving it out would cut the answer to ten trades."""
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
def test_no_failure_reads_as_no_trades(bad: httpx.Response) -> None:
    """Tried again, and an answer that comes then is taken; if none comes, an error."""
    answers = iter([bad, bad, page([])])
    with client_of(lambda method, params: next(answers)) as client:
        assert client.trades(client.history, METHOD, {}).rows == 0
        assert (client.stats.requests, client.stats.retries) == (3, 2)
    with (
        client_of(lambda method, params: bad) as client,
        pytest.raises(RetriableError, match="tried 4 times"),
    ):
        client.trades(client.history, METHOD, {})


@pytest.mark.parametrize("fault", ["reset", "cut", "html", "error200", "429", "10028"])
def test_faults_on_the_wire(small_tape: Any, start_exchange: Any, fault: str) -> None:
    """Real resets and cut bodies on a socket: the answer after them is the answer."""
    exchange = start_exchange(small_tape, faults=f"1-2:{fault},retry_after=0.001")
    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url)
    retrier = Retrier(RetryPolicy(attempts=5, first_s=0.001))
    with DeribitClient(config, retrier=retrier) as client:
        assert client.now_ms() == exchange.now_ms
        assert client.stats.retries == 2


def test_bytes_that_do_not_unpack_are_tried_again() -> None:
    bad = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))
    answers = iter([bad, page([])])
    with client_of(lambda method, params: next(answers)) as client:
        assert client.trades(client.history, METHOD, {}).rows == 0


def test_no_message_shows_a_password() -> None:
    """An address may hold a name and a password: they are sent, and never shown."""
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
def test_an_address_that_is_none_is_the_users_mistake(address: str) -> None:
    with pytest.raises(UsageError, match=r"\[sources.deribit\]") as caught:
        DeribitClient(deribit_config(api_url=address))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", [{"page_size": 1}, {"requests_in_flight": 0}, {"window_trades": 0}, {"timeout_s": 0.0}]
)
def test_settings_that_cannot_work_are_told(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        deribit_config(**setting)


def test_a_run_that_ends_wakes_those_who_wait() -> None:
    """A thread that sleeps towards its next try gives up when the client is abandoned, at once."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    config = DeribitConfig(api_url=url, history_url=url)
    caught: list[BaseException] = []
    with DeribitClient(config) as client:
        client._retrier.policy = RetryPolicy(first_s=3_600.0, longest_s=3_600.0, total_s=1e6)

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
    assert "given up" in str(caught[0])
