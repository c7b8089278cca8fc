"""Requests of a web page to the embedded server: other origins, foreign host names, pages that it serves."""

from __future__ import annotations

import pytest

from tests.support.attacker import Attacker, Target

pytestmark = [pytest.mark.clickhouse, pytest.mark.usefixtures("unharmed")]

EVIL = {"Origin": "https://evil.example"}


@pytest.mark.parametrize("path", ["/", "/ping", "/play", "/nothing", "/?add_http_cors_header=1",
                                  "/?http_response_headers={'Access-Control-Allow-Origin':'*'}"])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("password", ["right", "wrong"])
def test_no_response_allows_another_origin_to_read_it(
    target: Target, method: str, path: str, password: str
) -> None:
    """Neither an answer nor an error nor a preflight response has a header Access-Control-Allow-*."""
    attacker = target.attacker("tape")
    attacker = attacker if password == "right" else Attacker(target.settings, "tape", "wrong")
    wanted = {
        **EVIL,
        "Access-Control-Request-Headers": "authorization",
        "Access-Control-Request-Method": "POST",
    }
    response = attacker.request(method, path, b"SELECT 1" if method == "POST" else b"", wanted)
    assert [name for name in response.headers if name.startswith("access-control-allow")] == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "localhost.evil.example", "127.0.0.1.evil.example",
                                  "10.0.0.1", "localhost:1:2", "[::2]"])  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/ping", "/play"])
def test_foreign_host_name_is_refused(target: Target, host: str, path: str) -> None:
    """A page whose own name points at 127.0.0.1 (DNS rebinding) gets 404, and its statement is not executed."""
    attacker = target.attacker("tape")
    for method, body in (("GET", b""), ("POST", b"CREATE DATABASE rebound")):
        assert attacker.request(method, path, body, {"Host": host}).status == 404
    assert attacker.query("SELECT count() FROM system.databases WHERE name = 'rebound'") == "0"


def test_only_the_loopback_pages_that_are_needed_are_served(target: Target) -> None:
    """/play and /ping answer; every other built-in page of the engine is gone."""
    attacker = Attacker(target.settings, "", "")
    for host in ("localhost", "127.0.0.1", f"LOCALHOST:{target.settings.port}", "[::1]:1"):
        assert attacker.request("GET", "/ping", headers={"Host": host}).body == "Ok.\n"
        assert "<html" in attacker.request("GET", "/play", headers={"Host": host}).body
    for page in (
        "dashboard",
        "binary",
        "merges",
        "webterminal",
        "replicas_status",
        "prometheus",
        "js/uplot.js",
    ):
        assert attacker.request("GET", f"/{page}").status == 404
