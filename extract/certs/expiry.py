"""How long certificates are still valid: those of files, and the server's own as a client gets it over the wire.

What cannot be read is an alarm: the day on which nobody can read a certificate must not look like a good one.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from extract.certs.store import CertificateStore, environments, load_certificates
from extract.clickhouse.settings import cloud_address
from extract.errors import UsageError

LEAST_DAYS = 30
WIRE_TIMEOUT_S = 10
PREFIX = "CLICKHOUSE_CLOUD_"


@dataclass(frozen=True)
class CertificateStatus:
    """One certificate. `days_left` is whole days, below 0 for one that has expired, None for one that cannot be read."""

    name: str
    """What it is to the user: `production server`, `CLICKHOUSE_CLOUD_CLIENT_CERT`."""
    source: str
    """The file, or `host:port` for one that was seen over the wire."""
    subject: str | None = None
    not_after: datetime | None = None
    days_left: int | None = None
    problem: str | None = None
    """Why it is an alarm whatever its days."""

    def is_alarm(self, least_days: int = LEAST_DAYS) -> bool:
        return self.problem is not None or self.days_left is None or self.days_left < least_days

    def to_json(self, least_days: int = LEAST_DAYS) -> dict[str, object]:
        return {
            "name": self.name,
            "source": self.source,
            "subject": self.subject,
            "not_after": self.not_after.strftime("%Y-%m-%dT%H:%M:%SZ") if self.not_after else None,
            "days_left": self.days_left,
            "problem": self.problem,
            "alarm": self.is_alarm(least_days),
        }


def configured_certificates(env: Mapping[str, str] = os.environ) -> list[CertificateStatus]:
    """Those that CLICKHOUSE_CLOUD_* names: authority, client, and the server's own over the wire. Empty for none."""
    found: list[CertificateStatus] = []
    for variable in (f"{PREFIX}CA_CERT", f"{PREFIX}CLIENT_CERT"):
        if path := env.get(variable):
            found += file_lives(variable, Path(path))
    client, key = env.get(f"{PREFIX}CLIENT_CERT"), env.get(f"{PREFIX}CLIENT_KEY")
    if client and key and (problem := _key_problem(Path(client), Path(key))):
        found.append(CertificateStatus(f"{PREFIX}CLIENT_KEY", key, problem=problem))
    if env.get(f"{PREFIX}HOST"):
        found.append(server_certificate(*cloud_address(env)))
    return found


def stored_certificates(environment: str | None = None) -> list[CertificateStatus]:
    """Those of one environment of `tape certs`, or of all."""
    found: list[CertificateStatus] = []
    for each in [environment] if environment else environments():
        for path in CertificateStore(each).files():
            found += file_lives(f"{each} {path.stem}", path)
            key = path.with_suffix(".key")
            if path.stem != "ca-before" and (problem := _key_problem(path, key)):
                found.append(CertificateStatus(f"{each} {path.stem} key", str(key), problem=problem))
    return found


def file_lives(name: str, path: Path) -> Iterator[CertificateStatus]:
    """Every certificate of a file; one with a problem if it holds none."""
    try:
        certificates = load_certificates(path)
    except UsageError as error:
        yield CertificateStatus(name, str(path), problem=str(error))
        return
    for certificate in certificates:
        yield _life(name, str(path), certificate)


def server_certificate(host: str, port: int) -> CertificateStatus:
    """The server's own. Nothing is verified, for an expired one has to be read as well, and nothing is sent."""
    name, source = "server, over the wire", f"{host}:{port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=WIRE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
        return _life(name, source, x509.load_der_x509_certificate(der or b""))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return CertificateStatus(
            name, source, problem=f"The certificate of {source} cannot be read: {reason}."
        )


def _life(name: str, source: str, certificate: x509.Certificate) -> CertificateStatus:
    now = datetime.now(UTC)
    end = certificate.not_valid_after_utc
    problem = None
    if certificate.not_valid_before_utc > now:
        problem = f"It is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}."
    elif end < now:
        problem = f"It has expired on {end:%Y-%m-%d}."
    days = (end - now) // timedelta(days=1)
    return CertificateStatus(name, source, certificate.subject.rfc4514_string(), end, days, problem)


def _key_problem(certificate: Path, key: Path) -> str | None:
    """What is wrong between the two files, if the certificate can be read."""
    try:
        public = load_certificates(certificate)[0].public_key()
    except UsageError:
        return None
    try:
        mode = key.stat().st_mode & 0o077
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return f"{key} cannot be read as a private key."
    if private.public_key() != public:
        return f"{key} is not the key of {certificate}."
    return f"{key} can be read by others; run: chmod 600 {key}" if mode else None
