"""Push through the edge with the roles of `tape grants`: the loader's rights suffice, and the reader's to verify."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.roles import ROLES
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.push.conftest import Both
from tests.support.edge import Edge, running_edge


@pytest.fixture
def as_role(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Start a cloud on which each certificate belongs to a role's user; calling the fixture logs in as a role."""
    keys = {}
    for role in ROLES:
        monkeypatch.setenv(role.password_variable, f"canary-{role.name}")
        keys |= {
            f"TAPE_EDGE_{role.name.upper()}_USER": role.name,
            f"TAPE_EDGE_{role.name.upper()}_KEY": f"canary-{role.name}",
        }
    (tmp_path / "edge").mkdir()
    with (
        embedded_server(tmp_path / "cloud") as server,
        running_edge(tmp_path / "edge", edge.certs, server, **keys) as caddy,
    ):

        def login(name: str) -> None:
            for variable, value in (edge.env(name) | {"CLICKHOUSE_CLOUD_PORT": str(caddy.port)}).items():
                monkeypatch.setenv(variable, value)

        yield login


@pytest.mark.slow
def test_loader_may_push_and_reader_may_verify(
    both: Both,
    as_role: Callable[[str], None],
    listed: Callable[[Tape], SandboxExchange],
) -> None:
    listed(Tape.generate(seed=6, trades=300, days=2))
    both.run("local", currencies=("BTC",))
    for name in ("reader", "transformer"):
        as_role(name)
        refused = both.tape("push")
        assert refused.code == 4
        assert f"user '{name}' may not" in refused.err
        assert refused.err.count("\n") == 1
    as_role("loader")
    pushed = both.tape("push")
    assert pushed.code == 0, pushed.output
    both.run("cloud", currencies=("BTC", "ETH"))
    as_role("reader")
    proven = both.tape("push", "--verify")
    assert proven.code == 0, proven.output
