"""A wrong certificate, authority or host name at the edge is one sentence that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from extract.clickhouse.client import open_client
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.errors import UsageError
from extract.paths import ROOT
from tests.support.certificates import Authority
from tests.support.commands import UserShell, environment
from tests.support.edge import AUTHORITY, Edge, needs_caddy

pytestmark = needs_caddy

SENTENCES = {
    "no certificate": "requires a client certificate; set CLICKHOUSE_CLOUD_CLIENT_CERT and CLICKHOUSE_CLOUD_CLIENT_KEY.",
    "neither certificate nor password": "CLICKHOUSE_CLOUD_PASSWORD is not set; CLICKHOUSE_MODE=cloud needs it, or a",
    "foreign": "CLICKHOUSE_CLOUD_CLIENT_CERT is from another authority: 127.0.0.1 does not trust CN=somebody else,",
    "expired": "CLICKHOUSE_CLOUD_CLIENT_CERT expired on ",
    "revoked": "CLICKHOUSE_CLOUD_CLIENT_CERT was revoked: 127.0.0.1 has changed its authority since;",
    "no role": "has no user with the name of the client certificate in CLICKHOUSE_CLOUD_CLIENT_CERT;",
    "wrong authority": "signed by an unknown authority; name its CA in CLICKHOUSE_CLOUD_CA_CERT.",
    "no authority": "signed by an unknown authority; name its CA in CLICKHOUSE_CLOUD_CA_CERT.",
    "wrong host name": "The certificate at localhost is for another host name; check CLICKHOUSE_CLOUD_HOST.",
}


@pytest.fixture(scope="module")
def cloud(edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Environment of a user with one mistake, by the name of the mistake."""
    home = tmp_path_factory.mktemp("mistakes")
    other = Authority(home / "other", "/CN=somebody else")
    previous = Authority(home / "previous", f"{AUTHORITY} 0")

    def env(wrong: str) -> dict[str, str]:
        match wrong:
            case "foreign":
                return edge.env(certificate=other.signed("loader"))
            case "expired":
                return edge.env(certificate=edge.authority.signed("past", subject="loader", days=-1))
            case "revoked":
                return edge.env(certificate=previous.signed("loader"))
            case "no role":
                return edge.env(certificate=edge.authority.signed("nobody"))
        nothing = {"CLICKHOUSE_CLOUD_CLIENT_CERT": "", "CLICKHOUSE_CLOUD_CLIENT_KEY": ""}
        change = {
            "no certificate": nothing | {"CLICKHOUSE_CLOUD_PASSWORD": "canary-of-a-password"},
            "neither certificate nor password": nothing,
            "wrong authority": {"CLICKHOUSE_CLOUD_CA_CERT": str(other.ca.cert)},
            "no authority": {"CLICKHOUSE_CLOUD_CA_CERT": ""},
            "wrong host name": {"CLICKHOUSE_CLOUD_HOST": "localhost"},
        }
        return edge.env() | change[wrong]

    return env


@pytest.mark.parametrize("wrong", SENTENCES)
def test_sentence_names_the_mistake(cloud: Callable[[str], dict[str, str]], wrong: str) -> None:
    """A UsageError of one sentence, without waiting."""
    with pytest.raises(UsageError) as raised:
        open_client(clickhouse_settings("cloud", cloud(wrong)))
    assert SENTENCES[wrong] in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "canary" not in str(raised.value)


COMMANDS = {
    "dlt": (("dlt", "pipeline", "run"), 3),
    "dbt": (("dbt", "build", "--target", "cloud"), 2),
    "tape": (("tape", "gaps"), 3),
}
# One mistake per command in the ordinary run, because each command takes seconds to start.
ORDINARY = [("dbt", "revoked"), ("tape", "expired"), ("dlt", "foreign")]
ALL = [pytest.param("dlt", wrong, marks=pytest.mark.slow) for wrong in SENTENCES if wrong != "foreign"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "wrong"), [*ORDINARY, *ALL])
def test_each_command_shows_the_sentence_once(
    cloud: Callable[[str], dict[str, str]],
    clickhouse: ClickHouseSettings,
    command: str,
    wrong: str,
    tmp_path: Path,
) -> None:
    """The output is the sentence without a traceback; dbt adds its lines."""
    words, code = COMMANDS[command]
    shell = UserShell(environment(clickhouse, tmp_path) | cloud(wrong) | {"CLICKHOUSE_MODE": "cloud"})
    done = shell.run(*words, cwd=ROOT / "dbt_project" if command == "dbt" else ROOT)
    assert done.code == code, done.output
    assert done.output.count(SENTENCES[wrong]) == 1, done.output
    assert "Traceback" not in done.output
    lines = [line for line in done.output.splitlines() if line.strip()]
    assert len(lines) == (4 if command == "dbt" else 1), done.output
