"""A service that sleeps is waited for, with a message and within a bound; real connections to a stand-in for it."""

from __future__ import annotations

import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from extract.clickhouse import wake
from extract.clickhouse.client import open_client
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import RetriableError
from tests.support.certificates import Authority
from tests.support.commands import UserShell
from tests.support.proxy import Proxy, proxy_to
from tests.support.sandbox import SandboxExchange

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NO_ANSWER = b""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("waking") / "ca")


@pytest.fixture
def service(clickhouse: ClickHouseSettings, authority: Authority) -> Iterator[Proxy]:
    """ClickHouse behind TLS, as ClickHouse Cloud is."""
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


def wake_after(service: Proxy, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: setattr(service, "asleep", None))
    timer.start()
    return timer


@pytest.mark.parametrize(
    ("asleep", "reason"), [(UNAVAILABLE, "answers with HTTP status 503"), (NO_ANSWER, "does not answer")]
)
def test_a_service_that_sleeps_is_waited_for(
    settings: ClickHouseSettings,
    service: Proxy,
    asleep: bytes,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once it answers the client works; the two messages say why and for how long."""
    monkeypatch.setattr(wake, "PING_S", 0.5)
    service.asleep = asleep
    timer = wake_after(service, 1.2)
    assert open_client(settings).command("select 1") == 1
    timer.join()
    first, second = capfd.readouterr().err.splitlines()
    assert first == f"ClickHouse at {settings.url} {reason}; it may be waking up: waiting up to 20 s."
    assert second.startswith(f"ClickHouse at {settings.url} is awake after ")


def test_one_that_is_awake_is_asked_at_once_and_nothing_is_said(
    settings: ClickHouseSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """No message where there is nothing to wait for."""
    assert open_client(settings).command("select 1") == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asleep", [UNAVAILABLE, NO_ANSWER, None])
def test_the_wait_ends(settings: ClickHouseSettings, service: Proxy, asleep: bytes | None) -> None:
    """After the bound, whether it answers 503, nothing, or refuses connections: one sentence, worth another try."""
    service.asleep = asleep
    port = free_port() if asleep is None else service.port
    began = time.monotonic()
    with pytest.raises(
        RetriableError, match=r"for 1 s now; check .*or wait longer: CLICKHOUSE_CLOUD_WAKE_S$"
    ):
        open_client(replace(settings, port=port, wake_s=1))
    assert time.monotonic() - began < 3


def test_a_run_waits_too(
    shell: UserShell, exchange: SandboxExchange, settings: ClickHouseSettings, service: Proxy
) -> None:
    """`dlt pipeline run` starts while the service sleeps, says so, and loads."""
    service.asleep = UNAVAILABLE
    timer = wake_after(service, 5)
    cloud = {
        "CLICKHOUSE_MODE": "cloud",
        "CLICKHOUSE_CLOUD_HOST": settings.host,
        "CLICKHOUSE_CLOUD_PORT": str(settings.port),
        "CLICKHOUSE_CLOUD_USER": settings.user,
        "CLICKHOUSE_CLOUD_PASSWORD": settings.password,
        "CLICKHOUSE_CLOUD_CA_CERT": str(settings.ca_cert),
    }
    done = shell.at(exchange).ok("dlt", "pipeline", "run", "--currency", "BTC", "--kind", "spot", **cloud)
    timer.join()
    assert "it may be waking up: waiting up to 90 s." in done.err
    assert " new trades in " in done.out
