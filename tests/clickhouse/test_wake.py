"""Waiting for an idle Cloud service: a message, a limit, and real connections to a double of the service."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from urllib3 import PoolManager

from extract.clickhouse.client import open_client
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import ClickHouseSettings
from extract.clickhouse.wake import wait_until_awake
from extract.errors import RetriableError
from tests.support.certificates import Authority, needs_openssl
from tests.support.commands import UserShell
from tests.support.proxy import Proxy, proxy_to
from tests.support.sandbox import SandboxExchange

pytestmark = needs_openssl

NO_RESPONSE = b""


def response(status: int) -> bytes:
    return f"HTTP/1.1 {status} Service\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("waking") / "ca")


@pytest.fixture
def service(clickhouse: ClickHouseSettings, authority: Authority) -> Iterator[Proxy]:
    """ClickHouse behind TLS, like ClickHouse Cloud."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.signed("server")
    context.load_cert_chain(certificate.cert, certificate.key)
    with proxy_to(clickhouse.port, context) as proxy:
        yield proxy


@pytest.fixture
def settings(clickhouse: ClickHouseSettings, authority: Authority, service: Proxy) -> ClickHouseSettings:
    return replace(
        clickhouse,
        mode="cloud",
        port=service.port,
        secure=True,
        ca_cert=str(authority.ca.cert),
        wake_s=20,
    )


def wake_after(service: Proxy, seconds: float) -> threading.Thread:
    """Start a thread that ends the idle time `seconds` after the first request."""

    def wake() -> None:
        assert service.has_canned_request.wait(60)
        time.sleep(seconds)
        service.canned_response = None

    thread = threading.Thread(target=wake)
    thread.start()
    return thread


@pytest.fixture
def pool(settings: ClickHouseSettings) -> PoolManager:
    return PoolManager(ca_certs=settings.ca_cert)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("idle", "reason"),
    [
        (response(502), "responds with HTTP status 502"),
        (response(503), "responds with HTTP status 503"),
        (response(504), "responds with HTTP status 504"),
        (NO_RESPONSE, "does not respond"),
    ],
    ids=["502", "503", "504", "no response"],
)
def test_client_waits_for_an_idle_service(
    settings: ClickHouseSettings,
    service: Proxy,
    pool: PoolManager,
    idle: bytes,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Returns once it responds; one message gives the reason and the limit, a second one the time that it took."""
    service.canned_response = idle
    waker = wake_after(service, 1.2)
    wait_until_awake(settings, pool, ping_timeout_s=0.5)
    assert service.canned_response is None
    waker.join()
    first, second = caplog.messages
    assert first == f"ClickHouse at {settings.url} {reason}; it may be starting: waiting up to 20 s."
    assert second.startswith(f"ClickHouse at {settings.url} is up after ")


@pytest.mark.parametrize("status", [None, 401, 404, 429, 500])
def test_client_does_not_wait_for_a_service_that_responds(
    settings: ClickHouseSettings,
    service: Proxy,
    pool: PoolManager,
    status: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error that waiting does not cure is left to the next request."""
    service.canned_response = None if status is None else response(status)
    wait_until_awake(settings, pool)
    assert caplog.messages == []


@pytest.mark.parametrize("host", ["255.255.255.255", "nowhere.invalid"], ids=["no route", "no address"])
def test_client_does_not_wait_for_a_host_without_a_route(
    settings: ClickHouseSettings, pool: PoolManager, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle service has an address and is reachable; no TCP connection to the broadcast address is possible."""
    wait_until_awake(replace(settings, host=host, wake_s=1), pool)
    assert caplog.messages == []


@pytest.mark.parametrize("idle", [response(503), NO_RESPONSE, None], ids=["503", "no response", "refused"])
def test_wait_is_limited(settings: ClickHouseSettings, service: Proxy, idle: bytes | None) -> None:
    """After `wake_s` one sentence and a retriable error, whether it responds 503, hangs or refuses connections."""
    service.canned_response = idle
    port = free_port() if idle is None else service.port
    started = time.monotonic()
    with pytest.raises(
        RetriableError, match=r"for 1 s now; check .*or wait longer: CLICKHOUSE_CLOUD_WAKE_S$"
    ):
        open_client(replace(settings, port=port, wake_s=1))
    assert time.monotonic() - started < 3


@pytest.mark.slow
def test_run_waits_for_an_idle_service(
    shell: UserShell, exchange: SandboxExchange, settings: ClickHouseSettings, service: Proxy
) -> None:
    """`dlt pipeline run` starts while the service is idle, prints why it waits, and loads."""
    service.canned_response = response(503)
    waker = wake_after(service, 1.2)
    cloud = {
        "CLICKHOUSE_MODE": "cloud",
        "CLICKHOUSE_CLOUD_HOST": settings.host,
        "CLICKHOUSE_CLOUD_PORT": str(settings.port),
        "CLICKHOUSE_CLOUD_USER": settings.user,
        "CLICKHOUSE_CLOUD_PASSWORD": settings.password,
        "CLICKHOUSE_CLOUD_CA_CERT": str(settings.ca_cert),
    }
    done = shell.at(exchange).ok("dlt", "pipeline", "run", "--currency", "BTC", "--kind", "spot", **cloud)
    waker.join()
    assert "it may be starting: waiting up to 90 s." in done.err
    assert " new trades in " in done.out
