"""The edge by itself: what `deploy/edge/Caddyfile` lets through, as whom, and what it refuses."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import quote

import pytest

from tests.fixtures.edge import ROLES, Edge, needs_caddy

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
