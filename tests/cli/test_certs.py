"""`tape certs`: certificates checked with openssl, alarms, rotation, and keys that are never shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from extract.certs.authority import new_authority
from extract.certs.expiry import configured_certificates
from extract.certs.store import CertificateStore
from extract.paths import tape_dir
from tests.support.certificates import needs_openssl
from tests.support.certs_command import NAMES, init, openssl, run, write_short_lived

pytestmark = [needs_openssl, pytest.mark.usefixtures("certs_home")]


def test_certificates_are_signed_for_one_purpose(certs_home: Path) -> None:
    """openssl accepts the server's for a server and the roles' for clients, and rejects the reverse."""
    init()
    for name in NAMES:
        right, wrong = ("sslserver", "sslclient") if name == "server" else ("sslclient", "sslserver")
        verify = ("verify", "-CAfile", certs_home / "trusted.pem", "-purpose")
        assert openssl(*verify, right, certs_home / f"{name}.pem").endswith(": OK\n")
        assert "unsuitable certificate purpose" in openssl(*verify, wrong, certs_home / f"{name}.pem")
        subject = openssl(
            "x509", "-in", certs_home / f"{name}.pem", "-noout", "-subject", "-nameopt", "RFC2253"
        )
        assert subject == f"subject=CN={'edge.example.com' if name == 'server' else name}\n"
    hosts = openssl("x509", "-in", certs_home / "server.pem", "-noout", "-ext", "subjectAltName")
    assert "DNS:edge.example.com, IP Address:127.0.0.1" in hosts


def test_certificate_is_valid_for_a_year(certs_home: Path) -> None:
    """Its lifetime is 364 to 366 days; that of the authority is longer."""
    init()
    day = 86400
    for name in NAMES:
        check = ("x509", "-in", certs_home / f"{name}.pem", "-noout", "-checkend")
        assert "will not expire" in openssl(*check, 364 * day)
        assert "will expire" in openssl(*check, 366 * day)
    assert "will not expire" in openssl(
        "x509", "-in", certs_home / "ca.pem", "-noout", "-checkend", 3 * 365 * day
    )


def test_private_keys_are_readable_by_their_owner_only_and_never_printed(certs_home: Path) -> None:
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
    assert certs_home.stat().st_mode & 0o777 == 0o700
    keys = sorted(certs_home.glob("*.key"))
    assert [key.stem for key in keys] == sorted(["ca", *NAMES])
    assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)
    assert "PRIVATE" not in printed
    secrets = [line for key in keys for line in key.read_text().splitlines() if not line.startswith("-----")]
    assert secrets
    assert not [line for line in secrets if line in printed]
    assert "PRIVATE" not in repr(CertificateStore("production").authority())


def test_check_passes_with_a_year_left(certs_home: Path) -> None:
    """Exit code 0; each certificate is listed."""
    init()
    done = run("check")
    assert done.exit_code == 0
    assert all(f"production {name}" in done.output for name in (*NAMES, "ca"))


@pytest.mark.parametrize(("left", "code"), [(29, 1), (30, 0), (-1, 1)])
def test_certificate_with_less_than_thirty_days_is_an_alarm(certs_home: Path, left: int, code: int) -> None:
    """29 days left are an alarm, 30 are not, and an expired one is; the sentence names the certificate."""
    init()
    write_short_lived(certs_home, "reader", left)
    done = run("check")
    assert done.exit_code == code
    assert ("Alarm: production reader (" in done.stderr) == bool(code)
    assert run("check", "--days", "0").exit_code == (1 if left < 0 else 0)


def test_authority_that_expires_soon_is_an_alarm(certs_home: Path) -> None:
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
def test_unreadable_certificate_is_an_alarm(certs_home: Path, broken: str) -> None:
    """A missing file, an empty one, one without a certificate; another certificate's key, or a key that others can read."""
    init()
    certificate, key = certs_home / "loader.pem", certs_home / "loader.key"
    match broken:
        case "gone":
            certificate.unlink()
        case "empty":
            certificate.write_text("")
        case "text":
            certificate.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
        case "another's key":
            shutil.copy(certs_home / "reader.key", key)
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


def test_certificates_named_by_the_environment_are_checked(
    certs_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a client's machine there is no store: variables name the files."""
    init()
    elsewhere = certs_home.parent.parent / "client"
    shutil.move(certs_home, elsewhere)
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


def test_backup_directory_is_not_an_environment(certs_home: Path) -> None:
    """A copy with another suffix next to the environment is ignored."""
    init()
    shutil.copytree(certs_home, certs_home.with_name("production.bak"))
    assert run("check").exit_code == 0
