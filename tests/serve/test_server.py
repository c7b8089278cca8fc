"""The server as a process and at its door: keys, host names, other sites, refusals, signals, files."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from extract.clickhouse.settings import ClickHouseSettings
from extract.serve.keys import KeyRing
from extract.serve.server import listen
from tests.support.api import running_api
from tests.support.commands import BIN, UserShell, tape_here

KEY = "k" * 40
ROUTES = ("/v1/backfill/status", "/v1/instruments", "/metrics", "/v1/gaps")
PUBLIC = ("/docs", "/openapi.json", "/assets/plotly.min.js")


@pytest.fixture(scope="module")
def empty(reader_login: ClickHouseSettings) -> Iterator[httpx.Client]:
    """The API on loopback without a key, before anything is loaded."""
    with running_api(reader_login) as client:
        yield client


@pytest.fixture(scope="module")
def keyed(reader_login: ClickHouseSettings) -> Iterator[httpx.Client]:
    """The API with a key, as it is served to other machines: three requests per second and key."""
    ring = KeyRing({"alice": KEY, "bob": "b" * 40, "carol": "c" * 40}, rate=3)
    with running_api(reader_login, keys=ring, is_loopback=False) as client:
        yield client


def test_database_without_models_is_not_loaded_yet(empty: httpx.Client, drop_databases: object) -> None:
    """A sentence says which command to run; nothing is a 500."""
    drop_databases()  # type: ignore[operator]
    for path in ROUTES:
        answer = empty.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_loaded"), path
        assert "dlt pipeline run" in answer.json()["message"]


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.evil.example.com", "127.0.0.1:80@evil", ""])
def test_foreign_host_names_are_refused_on_loopback(empty: httpx.Client, host: str) -> None:
    """A web page can point its own name at 127.0.0.1."""
    answer = empty.get("/docs", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8124"])
def test_loopback_names_are_answered(empty: httpx.Client, host: str) -> None:
    assert empty.get("/docs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_from_other_sites_are_refused(empty: httpx.Client, site: str) -> None:
    """By what the browser says of them; a link to the page is followed. No answer may be read by another origin."""
    answer = empty.get("/openapi.json", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert empty.get("/docs", headers=link).status_code == 200
    assert empty.get("/openapi.json", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    preflight = empty.options("/v1/prices/batch", headers={"Origin": "https://evil.example.com"})
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_every_answer_has_the_header_fields_of_safety(empty: httpx.Client) -> None:
    """Pages load nothing from other hosts, and nobody may frame or embed them."""
    for path in (*PUBLIC, "/nothing", "/v1/gaps"):
        headers = empty.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; object-src 'none';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "server" not in headers


def test_charts_come_from_the_installed_package(empty: httpx.Client) -> None:
    """Byte for byte, and only once."""
    import plotly

    answer = empty.get("/assets/plotly.min.js")
    assert answer.content == (Path(plotly.__file__).parent / "package_data/plotly.min.js").read_bytes()
    assert "javascript" in answer.headers["Content-Type"]
    assert (
        empty.get("/assets/plotly.min.js", headers={"If-None-Match": answer.headers["ETag"]}).status_code
        == 304
    )


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/page/../../app.py", "/serve.sql"]
)
def test_only_files_of_the_page_are_served(empty: httpx.Client, path: str) -> None:
    assert empty.get(path).status_code == 404


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY} x", KEY]
)
def test_without_the_key_nothing_of_the_tape_is_answered(keyed: httpx.Client, header: str | None) -> None:
    """Also no difference between routes that exist and others."""
    for path in (*ROUTES, "/v1/nothing", "/v1/instruments/X/price"):
        answer = keyed.get(path, headers={"Authorization": header} if header else {})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_key_opens_the_routes_and_documents_need_none(keyed: httpx.Client) -> None:
    """By any host name, because the key is the credential there."""
    assert keyed.get("/v1/nothing", headers={"Authorization": f"bearer {KEY}"}).status_code == 404
    for path in PUBLIC:
        assert keyed.get(path, headers={"Host": "tape.example.com"}).status_code == 200


def test_each_key_has_a_rate_limit(keyed: httpx.Client) -> None:
    """Requests beyond it are answered with the time to wait; another key is not affected."""
    bob, carol = ({"Authorization": f"Bearer {letter * 40}"} for letter in "bc")
    answers = [keyed.get("/v1/nothing", headers=bob) for _ in range(12)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert limited[0].json()["code"] == "rate_limited"
    assert int(limited[0].headers["Retry-After"]) >= 1
    assert keyed.get("/v1/nothing", headers=carol).status_code == 404


def test_address_of_other_machines_needs_a_key_file(clickhouse_env: ClickHouseSettings) -> None:
    """One sentence that names the option, before anything listens."""
    done = tape_here("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.code == 3
    assert done.err.splitlines()[-1] == (
        "0.0.0.0 can be reached from other machines, so it needs keys: name a file of keys by --key-file."
    )


def test_port_in_use_is_one_sentence(clickhouse_env: ClickHouseSettings, empty: httpx.Client) -> None:
    port = str(empty.base_url.port)
    done = tape_here("serve", "--port", port)
    assert done.code == 3
    assert f"Port {port} of 127.0.0.1 cannot be used" in done.err


def test_small_answers_are_sent_at_once() -> None:
    """Nagle's algorithm is off on the connections that the server's event loop accepts: it would hold answers for 40 ms."""

    async def accepted_without_delay() -> bool:
        without_delay: asyncio.Queue[int] = asyncio.Queue()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            without_delay.put_nowait(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(accept, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return bool(await without_delay.get())

    assert asyncio.run(accepted_without_delay())


@pytest.mark.slow
def test_sigterm_ends_the_server_cleanly(
    module_shell: UserShell, reader_login: ClickHouseSettings, tmp_path: Path
) -> None:
    """It answers once it is ready, with keys from the file, and exits with 0 without printing anything more."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice {KEY}\n")
    keys.chmod(0o600)
    env = module_shell.env | {"CLICKHOUSE_READER_PASSWORD": reader_login.password}
    command = [str(BIN / "tape"), "serve", "--port", "0", "--key-file", str(keys)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        assert ready[0] == "ready"
        with httpx.Client(base_url=ready[1], timeout=60, trust_env=False) as client:
            assert client.get("/docs").status_code == 200
            assert client.get("/v1/gaps").status_code == 401
            assert client.get("/v1/nothing", headers={"Authorization": f"Bearer {KEY}"}).status_code == 404
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_other_commands_do_not_import_the_server() -> None:
    """`tape --help`, `dlt` and `dbt` start without FastAPI."""
    program = (
        "import sys; from extract.cli.main import tape; tape.main(['--help'], standalone_mode=False);"
        "import extract.plugins.dlt_plugin; import extract.clickhouse.client;"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'plotly', 'prometheus_client'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
