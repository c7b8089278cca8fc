"""Requests that `deploy/edge/Caddyfile` forwards, as which user, and requests that it rejects."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from extract.certs import ROLES
from extract.paths import ROOT
from tests.support.certificates import Authority
from tests.support.edge import CADDYFILE, Edge, needs_caddy, running_edge

pytestmark = needs_caddy


def request(
    edge: Edge,
    path: str,
    *,
    role: str = "loader",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, str]:
    """Status and text of one request through the edge as `role`."""
    certificate = edge.authority.signed(role)
    context = ssl.create_default_context(cafile=str(edge.authority.ca.cert))
    context.load_cert_chain(certificate.cert, certificate.key)
    connection = http.client.HTTPSConnection("127.0.0.1", edge.port, context=context, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def select(query: str) -> str:
    return f"/?query={quote(query)}"


@pytest.mark.parametrize("role", ROLES)
def test_certificate_is_the_credential(edge: Edge, role: str) -> None:
    """Its common name selects the user; the client sends no password."""
    assert request(edge, select("select currentUser()"), role=role) == (200, f"{edge.clickhouse.user}\n")


def test_certificate_without_a_role_is_rejected(edge: Edge) -> None:
    """A certificate signed by the authority is rejected unless its name is exactly that of a role."""
    for name in ("loaders", "CN=loader", "stranger"):
        status, text = request(edge, select("select 1"), role=name)
        assert (status, "names no user" in text) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-ClickHouse-User": "default", "X-ClickHouse-Key": ""},
        {"x-clickhouse-user": "default"},
        {"Authorization": "Basic " + base64.b64encode(b"default:").decode()},
        {"Authorization": "Bearer token"},
        {"X-ClickHouse-User": "default", "X-ClickHouse-SSL-Certificate-Auth": "on"},
        {"X-ClickHouse-Quota": "another"},
        {"Connection": "X-ClickHouse-User, X-ClickHouse-Key"},
    ],
    ids=lambda headers: "+".join(headers),
)
def test_headers_with_another_user_are_ignored(edge: Edge, headers: dict[str, str]) -> None:
    """The edge removes them."""
    assert request(edge, select("select currentUser()"), headers=headers) == (
        200,
        f"{edge.clickhouse.user}\n",
    )


@pytest.mark.parametrize(
    "parameter",
    [
        *("user=default", "password=x", "%75ser=default", "a=b&user=", "p%61ssword=x"),
        *("a=1;b&user=tape&password=x7", "a=1;user=tape", ";user=tape", "USER=tape&PASSWORD=x7", "User=tape"),
        *(
            "%55%53%45%52=tape",
            "p%41SSW%6Frd=x",
            "user",
            "password&a=1",
            "user%3Dtape",
            "user+=tape",
            "user%20=tape",
        ),
    ],
)
def test_parameters_with_a_user_are_rejected(edge: Edge, parameter: str) -> None:
    """They are detected in each encoding and case, before and after the query, and with `;` anywhere."""
    query = select("select 1")
    for path in (f"{query}&{parameter}", f"/?{parameter}&{query[2:]}"):
        status, text = request(edge, path)
        assert (status, "The certificate selects the user" in text) == (403, True)


def test_queries_that_mention_a_user_are_forwarded(edge: Edge) -> None:
    """Only the names of parameters count, not their values or longer names."""
    for sql in ("select 'user=x&password=y; user=z'", "select user()", "select 1 as password"):
        assert request(edge, select(sql))[0] == 200
    assert request(edge, f"{select('select {user_id:String}')}&param_user_id=user")[0] == 200


def test_only_queries_and_the_health_check_are_served(edge: Edge) -> None:
    """/ping is forwarded; the web pages of ClickHouse are not."""
    assert request(edge, "/ping") == (200, "Ok.\n")
    for path in (
        "/play",
        "/dashboard",
        "/replicas_status",
        "/metrics",
        "/x?query=select%201",
        "/PING",
        "/%2e",
        "/%70ing",
        "//",
        "/./",
        "/ping/",
    ):
        assert request(edge, path)[0] == 404


def test_handshake_rejects_a_missing_foreign_or_expired_certificate(edge: Edge, tmp_path: Path) -> None:
    """The connection fails before any request."""
    foreign = Authority(tmp_path / "other").signed("loader")
    expired = edge.authority.signed("expired-loader", subject="loader", days=-1)
    for certificate in (None, foreign, expired):
        context = ssl.create_default_context(cafile=str(edge.authority.ca.cert))
        if certificate:
            context.load_cert_chain(certificate.cert, certificate.key)
        with (
            pytest.raises(ssl.SSLError, match=r"bad certificate|certificate required|unknown ca|expired"),
            socket.create_connection(("127.0.0.1", edge.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.recv(1)


def test_edge_listens_on_one_port(edge: Edge) -> None:
    """Caddy listens on one TCP port and on no UDP port."""
    inodes = set()
    for fd in Path(f"/proc/{edge.caddy.pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            inodes.add(os.readlink(fd))
    listening = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            is_open = kind.startswith("udp") or words[3] == "0A"
            if is_open and f"socket:[{words[9]}]" in inodes:
                listening.append((kind[:3], int(words[1].rpartition(":")[2], 16)))
    assert listening == [("tcp", edge.port)]


def test_large_insert_is_forwarded_up_to_the_limit(edge: Edge, tmp_path: Path) -> None:
    """A body within the limit is forwarded completely; a larger one is rejected with 413."""
    rows = 2_000_000
    body = b"".join(b"%d\n" % number for number in range(rows))
    request(edge, "/", body=b"create database if not exists edge_test")
    request(edge, "/", body=b"create or replace table edge_test.t (x UInt64) engine = MergeTree order by x")
    insert = select("insert into edge_test.t format TSV")
    assert request(edge, insert, body=body)[0] == 200
    assert request(edge, select("select count(), sum(x) from edge_test.t")) == (
        200, f"{rows}\t{rows * (rows - 1) // 2}\n"
    )  # fmt: skip
    with running_edge(tmp_path, edge.certs, edge.clickhouse, TAPE_EDGE_MAX_BODY="1KB") as small:
        narrow = replace(edge, port=small.port)
        assert request(narrow, insert, body=b"1\n")[0] == 200
        assert request(narrow, insert, body=b"1\n" * 1000)[0] == 413
    assert request(edge, select("select count() from edge_test.t")) == (200, f"{rows + 1}\n")
    request(edge, "/", body=b"drop database edge_test sync")


def test_every_setting_is_in_the_example_file() -> None:
    """`edge.env.example` has the variables of `Caddyfile` and `api.caddy`, with the same defaults, and no others."""
    configuration = CADDYFILE.read_text() + (CADDYFILE.parent / "api.caddy").read_text()
    taken = re.findall(r"\{\$(TAPE_EDGE_\w+)(?::([^}]*))?\}", configuration)
    taken += re.findall(r"\{env\.(TAPE_EDGE_\w+)()\}", configuration)
    defaults = dict(taken)
    del defaults["TAPE_EDGE_ADMIN"]  # its default is in the directory of the systemd unit
    example = (CADDYFILE.parent / "edge.env.example").read_text()
    shown = dict(re.findall(r"^#?(TAPE_EDGE_\w+)=(.*)$", example, re.MULTILINE))
    # Paths of files on the host; without the file of the API, a host does not serve it.
    for name in ("TAPE_EDGE_CERTS", "TAPE_EDGE_API_SITE", "TAPE_EDGE_API_CERT", "TAPE_EDGE_API_KEY"):
        assert shown.pop(name).startswith("/etc/tape-edge/")
        assert defaults.pop(name) in ("", "no-api-*.caddy")
    assert shown == defaults


def test_systemd_unit_matches_caddyfile_and_readme() -> None:
    """The unit has the paths of the README and the socket directory of the Caddyfile."""
    unit = (CADDYFILE.parent / "tape-edge.service").read_text()
    readme = (CADDYFILE.parent / "README.md").read_text()
    assert "EnvironmentFile=/etc/tape-edge/edge.env\n" in unit
    assert unit.count("--config /etc/tape-edge/Caddyfile") == 2
    assert "RuntimeDirectory=tape-edge\n" in unit
    assert "unix//run/tape-edge/" in CADDYFILE.read_text()
    for path in ("/etc/tape-edge/edge.env", "root@edge.example.com:/etc/tape-edge/\n"):
        assert path in readme


def test_unit_is_no_service_of_the_host() -> None:
    """systemd applies `deribit-tape-.service.d` to all names that begin like it, whose user cannot read these keys."""
    prefixes = [each.name.removesuffix(".service.d") for each in (ROOT / "deploy/host").glob("*-.service.d")]
    units = [each.name for each in CADDYFILE.parent.glob("*.service")]
    assert prefixes
    assert units
    assert not any(unit.startswith(prefix) for unit in units for prefix in prefixes)
