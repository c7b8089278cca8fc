"""`tape certs`: certificates checked with openssl, alarms, rotation, and keys that are never shown."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extract.certs.authority import new_authority, new_client, new_server
from extract.certs.expiry import configured_certificates
from extract.certs.store import CertificateStore
from extract.cli.main import tape
from extract.errors import TapeError
from extract.paths import tape_dir

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")

NAMES = ("server", "loader", "transformer", "reader")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TAPE_DIR and no cloud in the environment; returns the future directory of `production`."""
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    for name in ("HOST", "PORT", "CA_CERT", "CLIENT_CERT", "CLIENT_KEY"):
        monkeypatch.delenv(f"CLICKHOUSE_CLOUD_{name}", raising=False)
    return tmp_path / "certs/production"


def run(*words: str) -> Result:
    """Run `tape certs WORDS`; the sentence of an error is appended to standard error, as `main` prints it."""
    result = CliRunner().invoke(tape, ["certs", *words], standalone_mode=False)
    if isinstance(result.exception, TapeError):
        result.exit_code = result.exception.exit_code
        result.stderr_bytes = (result.stderr_bytes or b"") + str(result.exception).encode()
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    else:
        result.exit_code = result.return_value or 0
    return result


def openssl(*words: object) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def init() -> None:
    assert run("init", "--host", "edge.example.com", "--host", "127.0.0.1").exit_code == 0


def short_lived(home: Path, name: str, days: int) -> None:
    """Replace the certificate of `name` by one that has `days` left."""
    authority = CertificateStore("production").authority()
    made = new_client(authority, name, now=datetime.now(UTC) - timedelta(hours=1), days=days + 1)
    (home / f"{name}.pem").write_bytes(made.certificate_pem)
    (home / f"{name}.key").write_bytes(made.key_pem)


def test_certificates_are_signed_for_one_purpose(home: Path) -> None:
    """openssl accepts the server's for a server and the roles' for clients, and rejects the reverse."""
    init()
    for name in NAMES:
        right, wrong = ("sslserver", "sslclient") if name == "server" else ("sslclient", "sslserver")
        verify = ("verify", "-CAfile", home / "trusted.pem", "-purpose")
        assert openssl(*verify, right, home / f"{name}.pem").endswith(": OK\n")
        assert "unsuitable certificate purpose" in openssl(*verify, wrong, home / f"{name}.pem")
        subject = openssl("x509", "-in", home / f"{name}.pem", "-noout", "-subject", "-nameopt", "RFC2253")
        assert subject == f"subject=CN={'edge.example.com' if name == 'server' else name}\n"
    hosts = openssl("x509", "-in", home / "server.pem", "-noout", "-ext", "subjectAltName")
    assert "DNS:edge.example.com, IP Address:127.0.0.1" in hosts


def test_certificate_is_valid_for_a_year(home: Path) -> None:
    """Its lifetime is 364 to 366 days; that of the authority is longer."""
    init()
    day = 86400
    for name in NAMES:
        check = ("x509", "-in", home / f"{name}.pem", "-noout", "-checkend")
        assert "will not expire" in openssl(*check, 364 * day)
        assert "will expire" in openssl(*check, 366 * day)
    assert "will not expire" in openssl("x509", "-in", home / "ca.pem", "-noout", "-checkend", 3 * 365 * day)


def test_private_keys_are_readable_by_their_owner_only_and_never_printed(home: Path) -> None:
    """0600 in 0700, after each command; no line of any key in what a command prints."""
    results = [
        run("init", "--host", "edge.example.com"),
        run("issue", "loader"),
        run("rotate"),
        run("revoke"),
    ]
    results += [
        run("revoke", "--now"),
        run("list"),
        run("list", "--json"),
        run("check"),
        run("check", "--json"),
    ]
    printed = "".join(each.output + each.stderr for each in results)
    assert home.stat().st_mode & 0o777 == 0o700
    keys = sorted(home.glob("*.key"))
    assert [key.stem for key in keys] == sorted(["ca", *NAMES])
    assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)
    assert "PRIVATE" not in printed
    secrets = [line for key in keys for line in key.read_text().splitlines() if not line.startswith("-----")]
    assert secrets
    assert not [line for line in secrets if line in printed]
    assert "PRIVATE" not in repr(CertificateStore("production").authority())


def test_check_passes_with_a_year_left(home: Path) -> None:
    """Exit code 0; each certificate is listed."""
    init()
    done = run("check")
    assert done.exit_code == 0
    assert all(f"production {name}" in done.output for name in (*NAMES, "ca"))


@pytest.mark.parametrize(("left", "code"), [(29, 1), (30, 0), (-1, 1)])
def test_certificate_with_less_than_thirty_days_is_an_alarm(home: Path, left: int, code: int) -> None:
    """29 days left are an alarm, 30 are not, and an expired one is; the sentence names the certificate."""
    init()
    short_lived(home, "reader", left)
    done = run("check")
    assert done.exit_code == code
    assert ("Alarm: production reader (" in done.stderr) == bool(code)
    assert run("check", "--days", "0").exit_code == (1 if left < 0 else 0)


def test_authority_that_expires_soon_is_an_alarm(home: Path) -> None:
    """Certificates that it signs expire with it."""
    init()
    store = CertificateStore("production")
    store._trust(new_authority("production", days=20), before=None)
    run("issue", "loader")
    done = run("check", "--json")
    alarms = {each["name"]: each["days_left"] for each in json.loads(done.output[: done.output.index("]") + 1])
              if each["alarm"]}  # fmt: skip
    assert done.exit_code == 1
    assert alarms == {"production ca": 19, "production loader": 19}


@pytest.mark.parametrize("broken", ["gone", "empty", "text", "another's key", "readable key"])
def test_unreadable_certificate_is_an_alarm(home: Path, broken: str) -> None:
    """A missing file, an empty one, one without a certificate; another certificate's key, or a key that others can read."""
    init()
    certificate, key = home / "loader.pem", home / "loader.key"
    match broken:
        case "gone":
            certificate.unlink()
        case "empty":
            certificate.write_text("")
        case "text":
            certificate.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
        case "another's key":
            shutil.copy(home / "reader.key", key)
        case "readable key":
            key.chmod(0o644)
    done = run("check")
    assert done.exit_code == 1
    assert "Alarm: production loader" in done.stderr


def test_check_without_certificates_cannot_tell() -> None:
    """Exit code 2."""
    done = run("check")
    assert done.exit_code == 2
    assert "There is no certificate to check" in done.stderr


@contextmanager
def serving(home: Path, name: str = "server") -> Iterator[int]:
    """A TLS server with the certificate of `name` that requires a client certificate, as the edge does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / f"{name}.pem", home / f"{name}.key")
    context.load_verify_locations(home / "ca.pem")
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


def test_certificate_of_the_server_is_read_over_the_wire(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The presented certificate is checked, not a file, even if it has expired; no client certificate is needed."""
    init()
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    for name, left, code in (("server", 364, 0), ("soon", 12, 1), ("past", -3, 1)):
        if name != "server":
            short_lived(home, name, left)
        with serving(home, name) as port:
            monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", str(port))
            [life] = configured_certificates(("127.0.0.1", port))
            assert (life.days_left, life.source) == (left, f"127.0.0.1:{port}")
            assert run("check").exit_code == code


def _impostor(home: Path, host: str, name: str = "impostor") -> None:
    """Write a server certificate for `host`, signed by an authority of the same name that no client trusts."""
    signed = new_server(new_authority("production"), [host])
    (home / f"{name}.pem").write_bytes(signed.certificate_pem)
    (home / f"{name}.key").write_bytes(signed.key_pem)


@pytest.mark.parametrize("is_configured", [True, False])
def test_impostor_and_certificate_for_another_host_are_alarms(
    home: Path, monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    """A valid date is not enough: the chain has to end at the trusted authority, and the name has to be the host's."""
    init()
    _impostor(home, "127.0.0.1")
    other = new_server(CertificateStore("production").authority(), ["other.example"])
    (home / "other.pem").write_bytes(other.certificate_pem)
    (home / "other.key").write_bytes(other.key_pem)
    for name, reason in (
        ("impostor", "certificate verify failed|self-signed|unable to get|signature"),
        ("other", "mismatch"),
    ):
        with serving(home, name) as port:
            if is_configured:
                monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
                monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", str(port))
                monkeypatch.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(home / "trusted.pem"))
                done = run("check")
            else:
                done = run("check", "--server", f"127.0.0.1:{port}")
        assert done.exit_code == 1
        assert re.search(f"Alarm: server, over the wire .* reject it: .*({reason})", done.stderr)


def test_server_with_a_good_certificate_is_no_alarm(home: Path) -> None:
    """Against the authority of `tape certs`, without a client certificate."""
    init()
    with serving(home) as port:
        assert run("check", "--server", f"127.0.0.1:{port}").exit_code == 0


def test_server_that_does_not_answer_is_an_alarm(home: Path) -> None:
    """Nothing listens at the address."""
    init()
    done = run("check", "--server", "127.0.0.1:9")
    assert done.exit_code == 1
    assert "Alarm: server, over the wire (127.0.0.1:9)" in done.stderr


def test_certificates_named_by_the_environment_are_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a client's machine there is no store: variables name the files."""
    init()
    elsewhere = home.parent.parent / "client"
    shutil.move(home, elsewhere)
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(elsewhere / "trusted.pem"))
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(elsewhere / "loader.pem"))
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_KEY", str(elsewhere / "loader.key"))
    assert {(life.name, life.days_left) for life in configured_certificates(None)} == {
        ("CLICKHOUSE_CLOUD_CA_CERT", 3649),
        ("CLICKHOUSE_CLOUD_CLIENT_CERT", 364),
    }
    assert run("check").exit_code == 0
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(elsewhere / "gone.pem"))
    assert run("check").exit_code == 1


@pytest.mark.parametrize(
    ("before", "words", "sentence"),
    [
        ([], ["issue", "loader"], "create one: tape certs init -e production --host NAME"),
        ([], ["rotate"], "create one: tape certs init -e production --host NAME"),
        (["init"], ["init", "--host", "x"], "to replace it: tape certs rotate"),
        (["init"], ["revoke"], "start with `tape certs rotate -e production`"),
        (["init", "rotate"], ["rotate"], "is already in the middle of a rotation"),
        (["init", "rotate"], ["issue", "server"], "`tape certs revoke -e production` completes it"),
        ([], ["init", "--host", "x", "-e", "../up"], "is invalid; use lower-case letters, digits and dashes"),
        ([], ["init", "--host", "https://edge.example.com"], "expected a name like edge.example.com"),
        ([], ["init", "--host", "edge.example.com:8443"], "expected a name like edge.example.com"),
        ([], ["init", "--host", "ümlaut.example"], "expected a name like edge.example.com"),
        (["init"], ["issue", "server", "--host", "a b"], "expected a name like edge.example.com"),
        ([], ["check", "--server", "edge"], "expected HOST:PORT like edge.example.com:8443"),
    ],
)
def test_command_in_the_wrong_order_names_the_right_one(
    before: list[str], words: list[str], sentence: str
) -> None:
    """Exit code 3, and no file is changed."""
    for each in before:
        run(each, *(["--host", "x"] if each == "init" else []))
    files = contents(tape_dir())
    done = run(*words)
    assert done.exit_code == 3
    assert sentence in done.stderr
    assert contents(tape_dir()) == files


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_backup_directory_is_not_an_environment(home: Path) -> None:
    """A copy with another suffix next to the environment is ignored."""
    init()
    shutil.copytree(home, home.with_name("production.bak"))
    assert run("check").exit_code == 0


@contextmanager
def interrupted_after(files: int) -> Iterator[None]:
    """Interrupt after so many files were replaced, before the next one is."""
    replace, left = Path.replace, [files]

    def replace_or_interrupt(path: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_interrupt)
        yield


@pytest.mark.parametrize("files", range(12))
def test_interrupted_rotation_can_be_completed(home: Path, files: int) -> None:
    """Interrupted before any file, the commands that the sentences name lead to valid certificates."""
    init()
    with interrupted_after(files), suppress(KeyboardInterrupt):
        CertificateStore("production").rotate()
    done = run("revoke")
    if "is not the key of" in done.stderr:
        assert "tape certs init -e production --host NAME" in done.stderr
        (home / "ca.key").unlink()
        init()
    while "has only one authority" in done.stderr:
        assert run("rotate").exit_code == 0
        done = run("revoke")
    while issue := re.search(r"first: tape certs (issue \w+)", done.stderr):
        assert run(*issue[1].split()).exit_code == 0
        done = run("revoke")
    for name in NAMES:
        assert openssl("verify", "-CAfile", home / "ca.pem", home / f"{name}.pem").endswith(": OK\n")


@pytest.mark.parametrize("files", range(4))
def test_interrupted_revocation_can_be_repeated(home: Path, files: int) -> None:
    """In the end one authority is trusted, and it signed the certificate of the server."""
    init()
    run("rotate")
    with interrupted_after(files), suppress(KeyboardInterrupt):
        CertificateStore("production").revoke()
    run("revoke")
    assert (home / "ca-before.pem").read_bytes() == (home / "ca.pem").read_bytes()
    assert openssl("verify", "-CAfile", home / "ca.pem", home / "server.pem").endswith(": OK\n")
