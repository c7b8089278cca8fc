"""`tape certs` in this process, with its certificates in an empty TAPE_DIR."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extract.certs.authority import Signed, new_client
from extract.certs.store import CertificateStore
from extract.cli.main import tape
from extract.errors import TapeError

NAMES = ("server", "loader", "transformer", "reader")


@pytest.fixture
def certs_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


def write_certificate(home: Path, name: str, signed: Signed) -> None:
    """Replace the certificate and the key of `name`."""
    (home / f"{name}.pem").write_bytes(signed.certificate_pem)
    (home / f"{name}.key").write_bytes(signed.key_pem)


def write_short_lived(home: Path, name: str, days: int) -> None:
    """Replace the certificate of `name` by one that has `days` left."""
    authority = CertificateStore("production").authority()
    now = datetime.now(UTC) - timedelta(hours=1)
    write_certificate(home, name, new_client(authority, name, now=now, days=days + 1))
