"""`tape certs check` of the certificate that a running server presents."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extract.certs.authority import new_authority, new_server
from extract.certs.expiry import configured_certificates
from extract.certs.store import CertificateStore
from tests.support.certificates import needs_openssl
from tests.support.certs_command import init, run, write_certificate, write_short_lived

pytestmark = [needs_openssl, pytest.mark.usefixtures("certs_home")]


@contextmanager
def serving(certs_home: Path, name: str = "server") -> Iterator[int]:
    """A TLS server with the certificate of `name` that requires a client certificate, as the edge does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs_home / f"{name}.pem", certs_home / f"{name}.key")
    context.load_verify_locations(certs_home / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_certificate_of_the_server_is_read_over_the_wire(
    certs_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The presented certificate is checked, not a file, even if it has expired; no client certificate is needed."""
    init()
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    for name, left, code in (("server", 364, 0), ("soon", 12, 1), ("past", -3, 1)):
        if name != "server":
            write_short_lived(certs_home, name, left)
        with serving(certs_home, name) as port:
            monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", str(port))
            [life] = configured_certificates(("127.0.0.1", port))
            assert (life.days_left, life.source) == (left, f"127.0.0.1:{port}")
            assert run("check").exit_code == code


def _write_impostor(certs_home: Path, host: str) -> None:
    """Write a server certificate for `host`, signed by an authority of the same name that no client trusts."""
    write_certificate(certs_home, "impostor", new_server(new_authority("production"), [host]))


@pytest.mark.parametrize("is_configured", [True, False])
def test_impostor_and_certificate_for_another_host_are_alarms(
    certs_home: Path, monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    """A valid date is not enough: the chain has to end at the trusted authority, and the name has to be the host's."""
    init()
    _write_impostor(certs_home, "127.0.0.1")
    other = new_server(CertificateStore("production").authority(), ["other.example"])
    write_certificate(certs_home, "other", other)
    for name, reason in (
        ("impostor", "certificate verify failed|self-signed|unable to get|signature"),
        ("other", "mismatch"),
    ):
        with serving(certs_home, name) as port:
            if is_configured:
                monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
                monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", str(port))
                monkeypatch.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(certs_home / "trusted.pem"))
                done = run("check")
            else:
                done = run("check", "--server", f"127.0.0.1:{port}")
        assert done.exit_code == 1
        assert re.search(f"Alarm: server, over the wire .* reject it: .*({reason})", done.stderr)


def test_server_with_a_good_certificate_is_no_alarm(certs_home: Path) -> None:
    """Against the authority of `tape certs`, without a client certificate."""
    init()
    with serving(certs_home) as port:
        assert run("check", "--server", f"127.0.0.1:{port}").exit_code == 0


def test_server_that_does_not_answer_is_an_alarm(certs_home: Path) -> None:
    """Nothing listens at the address."""
    init()
    done = run("check", "--server", "127.0.0.1:9")
    assert done.exit_code == 1
    assert "Alarm: server, over the wire (127.0.0.1:9)" in done.stderr
