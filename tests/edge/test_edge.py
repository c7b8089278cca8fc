"""The edge by itself: what `deploy/edge/Caddyfile` lets through, as whom, and what it refuses."""

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
from tests.support.certificates import Authority
from tests.support.edge import CADDYFILE, Edge, needs_caddy, running_edge

pytestmark = needs_caddy


def ask(
    edge: Edge,
    path: str,
    *,
    role: str = "loader",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, str]:
    """Status and text of one request through the edge as `role`."""
    ours = edge.authority.signed(role)
    context = ssl.create_default_context(cafile=str(edge.authority.ca.cert))
    context.load_cert_chain(ours.cert, ours.key)
    connection = http.client.HTTPSConnection("127.0.0.1", edge.port, context=context, timeout=10)
    try:
        connection.request("GET" if body is None else "POST", path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def select(query: str) -> str:
    return f"/?query={quote(query)}"


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_is_the_credential(edge: Edge, role: str) -> None:
    """Its name picks the user; no password comes from the client."""
    assert ask(edge, select("select currentUser()"), role=role) == (200, f"{edge.clickhouse.user}\n")


def test_a_name_that_is_no_role_is_refused(edge: Edge) -> None:
    """Signed by our authority, and no user all the same; a role's name as a part of it is not enough."""
    for name in ("loaders", "CN=loader", "stranger"):
        status, said = ask(edge, select("select 1"), role=name)
        assert (status, "names no user" in said) == (403, True)


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
def test_headers_that_name_somebody_else_change_nothing(edge: Edge, headers: dict[str, str]) -> None:
    """They are taken off on the way."""
    answer = ask(edge, select("select currentUser()"), headers=headers)
    assert answer == (200, f"{edge.clickhouse.user}\n")


@pytest.mark.parametrize(
    "named", ["user=default", "password=x", "%75ser=default", "a=b&user=", "p%61ssword=x"]
)
def test_parameters_that_name_somebody_are_refused(edge: Edge, named: str) -> None:
    """However they are spelt."""
    status, said = ask(edge, f"{select('select 1')}&{named}")
    assert (status, "The certificate says who you are" in said) == (403, True)


def test_the_health_check_and_nothing_else_is_open(edge: Edge) -> None:
    """/ping is ClickHouse's own answer; its pages are not served."""
    assert ask(edge, "/ping") == (200, "Ok.\n")
    for path in ("/play", "/dashboard", "/replicas_status", "/metrics", "/x?query=select%201"):
        assert ask(edge, path)[0] == 404


def test_who_has_no_certificate_of_ours_is_refused_in_the_handshake(edge: Edge, tmp_path: Path) -> None:
    """None, a foreign one under a role's name, an expired one: before anything is asked."""
    foreign = Authority(tmp_path / "theirs").signed("loader")
    expired = edge.authority.signed("expired-loader", subject="loader", days=-1)
    for certificate in (None, foreign, expired):
        context = ssl.create_default_context(cafile=str(edge.authority.ca.cert))
        if certificate:
            context.load_cert_chain(certificate.cert, certificate.key)
        with (
            pytest.raises(ssl.SSLError, match=r"bad certificate|certificate required|unknown ca|expired"),
            socket.create_connection(("127.0.0.1", edge.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.recv(1)


def test_one_port_is_open_and_no_other(edge: Edge) -> None:
    """Of the Caddy that serves it: one TCP port, no UDP."""
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


def test_a_large_insert_streams_through_up_to_the_limit(edge: Edge, tmp_path: Path) -> None:
    """What is within the limit arrives whole; what is above it is refused with 413."""
    rows = 2_000_000
    body = b"".join(b"%d\n" % number for number in range(rows))
    ask(edge, "/", body=b"create database if not exists edge_test")
    ask(edge, "/", body=b"create or replace table edge_test.t (x UInt64) engine = MergeTree order by x")
    insert = select("insert into edge_test.t format TSV")
    assert ask(edge, insert, body=body)[0] == 200
    assert ask(edge, select("select count(), sum(x) from edge_test.t")) == (
        200, f"{rows}\t{rows * (rows - 1) // 2}\n"
    )  # fmt: skip
    with running_edge(tmp_path, edge.certs, edge.clickhouse, TAPE_EDGE_MAX_BODY="1KB") as small:
        narrow = replace(edge, port=small.port)
        assert ask(narrow, insert, body=b"1\n")[0] == 200
        assert ask(narrow, insert, body=b"1\n" * 1000)[0] == 413
    assert ask(edge, select("select count() from edge_test.t")) == (200, f"{rows + 1}\n")
    ask(edge, "/", body=b"drop database edge_test sync")


def test_every_setting_of_the_edge_is_explained() -> None:
    """What `Caddyfile` takes from the environment stands in `edge.env.example`, with the same default, and nothing else."""
    taken = re.findall(r"\{\$(TAPE_EDGE_\w+)(?::([^}]*))?\}", CADDYFILE.read_text())
    taken += re.findall(r"\{env\.(TAPE_EDGE_\w+)()\}", CADDYFILE.read_text())
    defaults = dict(taken)
    del defaults["TAPE_EDGE_ADMIN"]  # the unit has made the directory of its default
    example = (CADDYFILE.parent / "edge.env.example").read_text()
    shown = dict(re.findall(r"^#?(TAPE_EDGE_\w+)=(.*)$", example, re.MULTILINE))
    assert shown.pop("TAPE_EDGE_CERTS")
    assert shown == {name: default for name, default in defaults.items() if name != "TAPE_EDGE_CERTS"}


def test_the_unit_runs_the_caddyfile_with_that_environment() -> None:
    """The paths of the unit are those of the steps in the README, and its socket's directory is the Caddyfile's."""
    unit = (CADDYFILE.parent / "deribit-tape-edge.service").read_text()
    readme = (CADDYFILE.parent / "README.md").read_text()
    assert "EnvironmentFile=/etc/deribit-tape/edge.env\n" in unit
    assert unit.count("--config /etc/deribit-tape/Caddyfile") == 2
    assert "RuntimeDirectory=deribit-tape-edge\n" in unit
    assert "unix//run/deribit-tape-edge/" in CADDYFILE.read_text()
    for path in ("/etc/deribit-tape/edge.env", "root@edge.example.com:/etc/deribit-tape/\n"):
        assert path in readme
