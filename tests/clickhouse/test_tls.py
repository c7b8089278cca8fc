"""Real handshakes: what is right passes, what is wrong is one sentence that names the variable to change."""

from __future__ import annotations

import shutil
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
from tests.support.certificates import Authority, Certificate
from tests.support.proxy import Proxy, proxy_to

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.signed("server")


@contextmanager
def edge(
    settings: ClickHouseSettings, server: Certificate, clients: Authority | None = None
) -> Iterator[Proxy]:
    """ClickHouse behind TLS; with `clients`, a certificate signed by them is the credential, as at an mTLS edge."""
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


def test_a_whole_pipeline_over_tls(
    clickhouse: ClickHouseSettings, authority: Authority, server: Certificate, database: str, tmp_path: Path
) -> None:
    """With a private CA; state restore included."""
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


def test_a_client_certificate_is_the_credential(
    clickhouse: ClickHouseSettings, authority: Authority, server: Certificate, database: str, tmp_path: Path
) -> None:
    """The password stays at home: a wrong one does not matter."""
    ours = authority.signed("loader")
    with edge(clickhouse, server, clients=authority) as proxy:
        settings = through(
            proxy,
            clickhouse,
            ca_cert=authority.ca.cert,
            client_cert=ours.cert,
            client_key=ours.key,
            password="not it",
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


def refused(settings: ClickHouseSettings) -> str:
    with pytest.raises(UsageError) as raised:
        open_client(settings)
    assert clean(str(raised.value))
    return str(raised.value)


def clean(sentence: str) -> bool:
    return sentence.endswith(".") and "\n" not in sentence


def test_an_authority_that_nobody_knows(
    clickhouse: ClickHouseSettings, server: Certificate, stranger: Authority
) -> None:
    """Neither the system nor another CA vouches for it."""
    with edge(clickhouse, server) as proxy:
        for change in ({}, {"ca_cert": stranger.ca.cert}):
            sentence = refused(through(proxy, clickhouse, **change))
            assert "signed by an unknown authority; name its CA in CLICKHOUSE_CLOUD_CA_CERT." in sentence


def test_a_certificate_for_another_host(clickhouse: ClickHouseSettings, authority: Authority) -> None:
    with edge(clickhouse, authority.signed("elsewhere", host="elsewhere.example")) as proxy:
        sentence = refused(through(proxy, clickhouse, ca_cert=authority.ca.cert))
    assert "is for another host name; check CLICKHOUSE_CLOUD_HOST." in sentence


def test_an_expired_certificate(clickhouse: ClickHouseSettings, authority: Authority) -> None:
    with edge(clickhouse, authority.signed("expired", days=-1)) as proxy:
        sentence = refused(through(proxy, clickhouse, ca_cert=authority.ca.cert))
    assert "has expired; renew it on the server." in sentence


def test_a_missing_or_foreign_client_certificate(
    clickhouse: ClickHouseSettings, authority: Authority, stranger: Authority, server: Certificate
) -> None:
    foreign = stranger.signed("loader")
    with edge(clickhouse, server, clients=authority) as proxy:
        for change, said in (
            ({}, "set CLICKHOUSE_CLOUD_CLIENT_CERT and CLICKHOUSE_CLOUD_CLIENT_KEY."),
            (
                {"client_cert": foreign.cert, "client_key": foreign.key},
                "is foreign: 127.0.0.1 does not trust",
            ),
        ):
            assert said in refused(through(proxy, clickhouse, ca_cert=authority.ca.cert, **change))


def test_a_port_without_tls(clickhouse: ClickHouseSettings, proxy: Proxy) -> None:
    assert "does not speak TLS; check CLICKHOUSE_CLOUD_PORT." in refused(through(proxy, clickhouse))


def test_files_that_are_no_certificates(
    clickhouse: ClickHouseSettings, authority: Authority, server: Certificate, tmp_path: Path
) -> None:
    """Each is named before anything goes over the wire."""
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
            ({"client_cert": other.cert, "client_key": server.key}, "are no certificate and its key"),
            ({"client_cert": other.cert}, "are no certificate and its key"),
        ):
            assert sentence in refused(through(proxy, clickhouse, **{"ca_cert": authority.ca.cert, **change}))
