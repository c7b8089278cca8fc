"""TLS to ClickHouse with real handshakes: each failure is one sentence that names the variable to change."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dlt
import pytest

from extract.clickhouse.client import open_client
from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError
from tests.support.certificates import Authority, Certificate, needs_openssl
from tests.support.proxy import Proxy, proxy_to

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "other")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.signed("server")


@contextmanager
def edge(
    settings: ClickHouseSettings, server: Certificate, clients: Authority | None = None
) -> Iterator[Proxy]:
    """ClickHouse behind TLS; with `clients`, a certificate that this authority signed is the credential."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.ca.cert)
    with proxy_to(settings.port, context) as proxy:
        if clients:
            password = f"X-ClickHouse-Key: {settings.password}".encode()
            proxy.rewrite = (b"X-ClickHouse-SSL-Certificate-Auth: on", password)
        yield proxy


def through(proxy: Proxy, settings: ClickHouseSettings, **change: object) -> ClickHouseSettings:
    files = {name: str(value) if isinstance(value, Path) else value for name, value in change.items()}
    return replace(settings, mode="cloud", port=proxy.port, secure=True, **files)


def test_pipeline_runs_over_tls(
    clickhouse: ClickHouseSettings, authority: Authority, server: Certificate, database: str, tmp_path: Path
) -> None:
    """A pipeline with a private CA loads, and restores its state."""
    with edge(clickhouse, server) as proxy:
        settings = through(proxy, clickhouse, ca_cert=authority.ca.cert)
        for directory in ("here", "there"):
            pipeline = dlt.pipeline(
                "t",
                destination=tape_clickhouse(settings),
                dataset_name=database,
                pipelines_dir=str(tmp_path / directory),
            )
            pipeline.run([{"id": 1}], table_name="trades")
        with pipeline.sql_client() as client:
            assert client.execute_sql("SELECT count() FROM trades") == [(2,)]


def test_client_certificate_replaces_the_password(
    clickhouse: ClickHouseSettings, authority: Authority, server: Certificate, database: str, tmp_path: Path
) -> None:
    """The password is not sent, so a wrong one does not matter."""
    loader = authority.signed("loader")
    with edge(clickhouse, server, clients=authority) as proxy:
        settings = through(
            proxy,
            clickhouse,
            ca_cert=authority.ca.cert,
            client_cert=loader.cert,
            client_key=loader.key,
            password="wrong",
        )
        pipeline = dlt.pipeline(
            "t",
            destination=tape_clickhouse(settings),
            dataset_name=database,
            pipelines_dir=str(tmp_path / "here"),
        )
        pipeline.run([{"id": 1}], table_name="trades")
        with pipeline.sql_client() as client:
            assert client.execute_sql("SELECT currentUser(), count() FROM trades") == [(clickhouse.user, 1)]


def sentence_of(settings: ClickHouseSettings) -> str:
    with pytest.raises(UsageError) as raised:
        open_client(settings)
    sentence = str(raised.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_server_certificate_of_an_unknown_authority(
    clickhouse: ClickHouseSettings, server: Certificate, other_authority: Authority
) -> None:
    """Neither an authority of the system nor the configured one has signed it."""
    with edge(clickhouse, server) as proxy:
        for change in ({}, {"ca_cert": other_authority.ca.cert}):
            sentence = sentence_of(through(proxy, clickhouse, **change))
            assert "signed by an unknown authority; name its CA in CLICKHOUSE_CLOUD_CA_CERT." in sentence


def test_server_certificate_for_another_host(clickhouse: ClickHouseSettings, authority: Authority) -> None:
    with edge(clickhouse, authority.signed("elsewhere", host="elsewhere.example")) as proxy:
        sentence = sentence_of(through(proxy, clickhouse, ca_cert=authority.ca.cert))
    assert "is for another host name; check CLICKHOUSE_CLOUD_HOST." in sentence


def test_expired_server_certificate(clickhouse: ClickHouseSettings, authority: Authority) -> None:
    with edge(clickhouse, authority.signed("expired", days=-1)) as proxy:
        sentence = sentence_of(through(proxy, clickhouse, ca_cert=authority.ca.cert))
    assert "has expired; renew it on the server." in sentence


def test_missing_or_foreign_client_certificate(
    clickhouse: ClickHouseSettings, authority: Authority, other_authority: Authority, server: Certificate
) -> None:
    foreign = other_authority.signed("loader")
    with edge(clickhouse, server, clients=authority) as proxy:
        for change, expected in (
            ({}, "set CLICKHOUSE_CLOUD_CLIENT_CERT and CLICKHOUSE_CLOUD_CLIENT_KEY."),
            (
                {"client_cert": foreign.cert, "client_key": foreign.key},
                "is from another authority: 127.0.0.1 does not trust",
            ),
        ):
            assert expected in sentence_of(through(proxy, clickhouse, ca_cert=authority.ca.cert, **change))


def test_port_without_tls(clickhouse: ClickHouseSettings, proxy: Proxy) -> None:
    assert "does not speak TLS; check CLICKHOUSE_CLOUD_PORT." in sentence_of(through(proxy, clickhouse))


def test_invalid_certificate_files(
    clickhouse: ClickHouseSettings, authority: Authority, server: Certificate, tmp_path: Path
) -> None:
    """Each file is named before a connection is opened."""
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    other = authority.signed("other")
    with edge(clickhouse, server) as proxy:
        for change, sentence in (
            (
                {"ca_cert": tmp_path / "none.pem"},
                f"CLICKHOUSE_CLOUD_CA_CERT names {tmp_path}/none.pem, which cannot be read.",
            ),
            ({"ca_cert": text}, f"CLICKHOUSE_CLOUD_CA_CERT names {text}, which holds no certificate."),
            (
                {"client_cert": tmp_path / "none.pem"},
                f"CLICKHOUSE_CLOUD_CLIENT_CERT names {tmp_path}/none.pem",
            ),
            ({"client_cert": other.cert, "client_key": server.key}, "are not a certificate and its key"),
            ({"client_cert": other.cert}, "are not a certificate and its key"),
        ):
            assert sentence in sentence_of(
                through(proxy, clickhouse, **{"ca_cert": authority.ca.cert, **change})
            )
