"""Each row arrives once although connections to cloud break."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest

from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness.bulk_trades import multiply
from tests.push.conftest import Both
from tests.support.edge import SERVER_PASSWORD, Edge
from tests.support.proxy import Proxy, proxy_to

INSERT = b"INSERT+INTO+deribit_raw.%60trades%60"


@pytest.fixture
def wire(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy to cloud, with TLS and password, that drops responses and cuts requests."""
    server = edge.authority.signed("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    with proxy_to(edge.clickhouse.port, context) as proxy:
        for name in ("CLIENT_CERT", "CLIENT_KEY"):
            monkeypatch.delenv(f"CLICKHOUSE_CLOUD_{name}")
        monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", str(proxy.port))
        monkeypatch.setenv("CLICKHOUSE_CLOUD_USER", edge.clickhouse.user)
        monkeypatch.setenv("CLICKHOUSE_CLOUD_PASSWORD", SERVER_PASSWORD)
        proxy.marker = INSERT
        yield proxy


@pytest.mark.slow
def test_rows_arrive_once_with_lost_responses_and_cut_requests(
    both: Both, wire: Proxy, listed: Callable[[Tape], SandboxExchange]
) -> None:
    """A lost response of a complete insert, and a block that is cut and therefore rejected."""
    listed(Tape.generate(seed=1, trades=3000, days=2))
    both.run("local")
    multiply(both.local, 20_000, months=1)
    lost: list[int] = []
    wire.on_lost = lambda: lost.append(1)
    wire.lose_responses, wire.cut_after_bytes = 2, 100_000
    done = both.tape("push")
    assert done.code == 0, done.output
    assert lost
    assert wire.cut_after_bytes is None
    assert both.same("trades")
    assert len(both.keys(both.cloud)) == 20_000
