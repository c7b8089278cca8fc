"""Both clouds on loopback, and an environment that blocks every other address."""

from __future__ import annotations

import io
import json
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from extract.cli.main import main
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.cloud_api import KEY_ID, KEY_SECRET, ORGANIZATION, CloudApi
from tests.support.commands import Done
from tests.support.cost_explorer import CostExplorer

AWS_KEY = "AKIACANARY00AWSKEYID"
AWS_SECRET = "awsSecretCanary/5b7c11"
CANARIES = (KEY_ID, KEY_SECRET, AWS_KEY, AWS_SECRET)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything else fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            assert address[0] in ("127.0.0.1", "::1", "localhost"), f"a call left loopback: {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def cloud_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Credentials of both clouds, addresses that nothing listens at, and no saved measurement."""
    for name, value in {
        "TAPE_DIR": str(tmp_path / "tape"),
        "CLICKHOUSE_CLOUD_API_URL": "http://127.0.0.1:9",
        "CLICKHOUSE_CLOUD_ORGANIZATION_ID": ORGANIZATION,
        "CLICKHOUSE_CLOUD_API_KEY_ID": KEY_ID,
        "CLICKHOUSE_CLOUD_API_KEY_SECRET": KEY_SECRET,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": AWS_KEY,
        "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_COST_EXPLORER"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def cloud_api(cloud_env: pytest.MonkeyPatch) -> Iterator[CloudApi]:
    with CloudApi() as running:
        cloud_env.setenv("CLICKHOUSE_CLOUD_API_URL", running.url)
        yield running


@pytest.fixture
def cost_explorer(cloud_env: pytest.MonkeyPatch) -> Iterator[CostExplorer]:
    with CostExplorer() as running:
        cloud_env.setenv("AWS_ENDPOINT_URL_COST_EXPLORER", running.url)
        yield running


@pytest.fixture
def moto(moto_url: str, cloud_env: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], None]:
    """An empty AWS of moto; calling the fixture sets the results of GetCostAndUsage, one for each request."""

    def post(path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"{moto_url}/moto-api/{path}",
            data=json.dumps(body).encode() if body else b"",
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        urllib.request.urlopen(request).close()

    post("reset")
    cloud_env.setenv("AWS_ENDPOINT_URL", moto_url)
    return lambda results: post("static/ce/cost-and-usage-results", {"results": results})


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`tape WORDS` in this process; no output of any command may hold a credential."""

    def run(*words: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["tape", *words])
            with pytest.raises(SystemExit) as ended:
                main()
        done = Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())
        assert not [canary for canary in CANARIES if canary in done.output]
        return done

    return run


@pytest.fixture(scope="module")
def months() -> Tape:
    """40 days across the end of a month."""
    return Tape.generate(seed=5, trades=16_000, days=40)


@pytest.fixture
def market(
    months: Tape,
    clickhouse_env: object,
    clean_clickhouse: object,
    cloud_env: pytest.MonkeyPatch,
) -> Iterator[SandboxExchange]:
    """A new user without a cloud account, and an exchange with the trades of `months`."""
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    with SandboxExchange(months) as exchange:
        exchange.now_ms += 120_000
        cloud_env.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        cloud_env.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        cloud_env.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        yield exchange
