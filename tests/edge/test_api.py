"""The HTTP API behind `deploy/edge/Caddyfile` with `deploy/edge/api.caddy`: TLS, keys, and an API that does not run."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.serve.keys import KeyRing
from tests.support.api import running_api
from tests.support.certificates import Authority
from tests.support.edge import AUTHORITY, install_certificates, needs_caddy, running_edge

pytestmark = [needs_caddy, pytest.mark.edge]

KEY = "k" * 40


def test_api_is_served_over_tls_with_keys(
    clickhouse: ClickHouseSettings, reader_login: ClickHouseSettings, tmp_path: Path
) -> None:
    """No client certificate is asked for; the key is checked; while the API is down, clients get its kind of error."""
    authority = Authority(tmp_path / "authority", f"{AUTHORITY} 1")
    certs = tmp_path / "certs"
    install_certificates(authority, certs)
    port = free_port()
    tls = ssl.create_default_context(cafile=str(authority.ca.cert))
    authorized = {"Authorization": f"Bearer {KEY}"}
    with running_api(reader_login, keys=KeyRing({"alice": KEY}, rate=100), is_loopback=False) as api:
        env = {
            "TAPE_EDGE_API_SITE": str(ROOT / "deploy/edge/api.caddy"),
            "TAPE_EDGE_API_CERT": str(certs / "server.pem"),
            "TAPE_EDGE_API_KEY": str(certs / "server.key"),
            "TAPE_EDGE_API_PORT": str(port),
            "TAPE_EDGE_API": f"127.0.0.1:{api.base_url.port}",
        }
        with (
            running_edge(tmp_path, certs, clickhouse, **env),
            httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=tls, trust_env=False, timeout=60
            ) as client,
        ):
            assert client.get("/docs").status_code == 200
            assert client.get("/v1/instruments").status_code == 401
            assert client.get("/v1/nothing", headers=authorized).json()["code"] == "not_found"
            assert client.get("/docs").headers["Strict-Transport-Security"]
            too_large = client.post("/v1/prices/batch", content=b" " * 200_000, headers=authorized)
            assert (too_large.status_code, too_large.json()["code"]) == (413, "too_large")
            plain = httpx.get(
                f"http://127.0.0.1:{port}/v1/instruments", headers=authorized, trust_env=False, timeout=60
            )
            assert (plain.status_code, "HTTPS" in plain.text) == (400, True)
    with (
        running_edge(tmp_path, certs, clickhouse, **env),
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=tls, trust_env=False, timeout=60) as client,
    ):
        down = client.get("/v1/instruments", headers=authorized)
        assert (down.status_code, down.json()["code"]) == (503, "unavailable")
